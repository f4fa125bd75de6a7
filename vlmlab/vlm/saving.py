"""A VLM in one safetensors file: its configuration in the metadata, its weights by part. Notebook 04.

A file may leave a part out and say where it lies instead ("vision" of llava-tiny is the encoder in clip-tiny), so that
weights that several models share are stored once.
"""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vlmlab.errors import BadCheckpoint
from vlmlab.files import read_tensors, write_tensors
from vlmlab.language.tokenizer import Tokenizer
from vlmlab.vlm.model import VLM
from vlmlab.vlm.presets import VLMConfig

FORMAT = "vlmlab-vlm-1"
PARTS = ("vision", "projector", "language")


def save(
    vlm: VLM,
    path: str | os.PathLike,
    elsewhere: Mapping[str, tuple[str, str]] | None = None,
    stored: Callable[[Mapping[str, Tensor]], dict[str, Tensor]] = dict,
    note: Mapping[str, Any] | None = None,
) -> None:
    """Write a VLM atomically.

    Args:
        elsewhere: part ("vision", "vision.siglip") -> (file beside this one, prefix of its keys there); such a part is
            not written. The file may hold more than the part needs.
        stored: what the file keeps of the weights: as they are, or files.halves, files.packed.
        note: anything JSON-able to remember, a recipe say.
    """
    elsewhere = dict(elsewhere or {})
    kept = {
        key: value
        for key, value in vlm.state_dict().items()
        if not key.startswith(tuple(f"{part}." for part in elsewhere))
    }
    metadata = {
        "format": FORMAT,
        "config": json.dumps(vlm.config.to_dict()),
        "elsewhere": json.dumps(elsewhere),
        "note": json.dumps(dict(note or {})),
    }
    write_tensors(path, stored(kept), metadata)


def load(path: str | os.PathLike, tokenizer: Tokenizer | None = None, device: str | torch.device = "auto") -> VLM:
    """Read what `save` wrote, in fp32.

    tokenizer: by default `tokenizer.json` beside the file, or the shipped one.
    Raises BadCheckpoint for a file that is damaged, of another kind, or whose names or shapes do not fit.
    """
    path = Path(path)
    tensors, metadata = read_tensors(path)
    if metadata.get("format") != FORMAT:
        raise BadCheckpoint(f"{path} is not a checkpoint of a vlmlab VLM; write one with vlmlab.vlm.saving.save")
    try:
        config = VLMConfig.from_dict(json.loads(metadata["config"]))
        elsewhere = json.loads(metadata["elsewhere"])
    except (KeyError, ValueError) as error:
        raise BadCheckpoint(f"{path} has unreadable metadata ({error}); restore it or train it again") from None
    beside = path.parent / (config.tokenizer or "")
    if tokenizer is None and beside.is_file():
        tokenizer = Tokenizer.load(beside)
    vlm = VLM.from_preset(config, "meta", tokenizer)
    wanted = vlm.state_dict()
    for part, (name, prefix) in elsewhere.items():
        others, _ = read_tensors(path.parent / name)
        found = {f"{part}.{key.removeprefix(prefix)}": value for key, value in others.items() if key.startswith(prefix)}
        tensors |= {key: value for key, value in found.items() if key in wanted}
    fill(vlm, tensors, path)
    from vlmlab import runtime

    return vlm.to(runtime.device(device)).eval()


def fill(module: nn.Module, tensors: Mapping[str, Tensor], where: str | os.PathLike) -> None:
    """Give a module its weights, in fp32. Raises BadCheckpoint that names missing, unexpected and misshapen tensors."""
    wanted = module.state_dict()
    problems = [f"missing {key}" for key in wanted if key not in tensors]
    problems += [f"unexpected {key}" for key in tensors if key not in wanted]
    problems += [
        f"{key} is {tuple(value.shape)}, expected {tuple(wanted[key].shape)}"
        for key, value in tensors.items()
        if key in wanted and wanted[key].shape != value.shape
    ]
    if problems:
        more = f" and {len(problems) - 4} more" if len(problems) > 4 else ""
        raise BadCheckpoint(f"{where} does not fit the model: {'; '.join(problems[:4])}{more}")
    full = {key: value.float() if value.is_floating_point() else value for key, value in tensors.items()}
    module.load_state_dict(full, assign=True)
    module.requires_grad_(True)
