"""Weights that a user brings: published checkpoints read into our classes. Notebook 10.

None of them is shipped. MambaVision's are under CC BY-NC-SA: for research, with attribution, shared alike.
"""

import argparse
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vlmlab import runtime
from vlmlab.errors import BadCheckpoint, UnknownName
from vlmlab.files import read_tensors
from vlmlab.vision import MambaVision
from vlmlab.vision.mambavision_config import LEVELS, VARIANTS, variant_config
from vlmlab.vlm.saving import fill

AGAIN = "copy or download it again"
_NUMBER: Any = np.float64(0).__reduce__()[0]  # the function that makes one
# What training programs leave beside the weights: their options, and NumPy's numbers. None of these runs code.
HARMLESS: list[Any] = [
    argparse.Namespace,
    np.dtype,
    type(np.dtype(np.float32)),
    type(np.dtype(np.float64)),
    (_NUMBER, "numpy._core.multiarray.scalar"),
    (_NUMBER, "numpy.core.multiarray.scalar"),  # as NumPy 1 wrote it
]


def load_mambavision(
    path: str | os.PathLike,
    variant: str | None = None,
    image_size: int | None = None,
    device: str | torch.device = "auto",
) -> MambaVision:
    """A MambaVision with a user's copy of the published weights, in fp32 and in evaluation mode.

    Args:
        path: a `.pth.tar` whose "state_dict" holds the weights, also under "module." (what else it holds is left
            alone), or a safetensors file, also with names under "model.".
        variant: "T" to "L3"; by default found from the shapes.
        image_size: native size in pixels where it is not the variant's, as 512 for L3's second checkpoint; it decides
            how large the windows are, which the weights do not tell.

    Raises:
        BadCheckpoint: a file that is missing, damaged, of no variant, or that lacks or misshapes weights, the first of
            which are named. UnknownName: no such variant.
    """
    if variant is not None and variant not in VARIANTS:
        raise UnknownName("variant of MambaVision", variant, VARIANTS)
    where = runtime.device(device)
    tensors = {key.removeprefix("module.").removeprefix("model."): value for key, value in read_weights(path).items()}
    variant = variant or mambavision_variant(tensors, path)
    classes = tensors["head.weight"].shape[0] if "head.weight" in tensors else 0
    with torch.device("meta"):
        model = MambaVision(variant_config(variant, classes, image_size))
    for key, value in model.state_dict().items():  # counters of batches, which some files leave out and nothing reads
        if key.endswith("num_batches_tracked"):
            tensors.setdefault(key, torch.zeros(value.shape, dtype=value.dtype))
    fill(model, tensors, path)
    return model.to(where).eval()


def mambavision_variant(tensors: Mapping[str, Tensor], path: str | os.PathLike) -> str:
    """The variant whose widths and depths these weights have. Raises BadCheckpoint, with `path` in its message."""
    widths = []
    for index in (3, 0):
        key = f"patch_embed.conv_down.{index}.weight"
        if key not in tensors or tensors[key].dim() != 4:
            raise BadCheckpoint(f"{path} holds no weights of a MambaVision: {key} is missing or no convolution")
        widths.append(tensors[key].shape[0])
    blocks = {match.groups() for key in tensors if (match := re.match(r"levels\.(\d+)\.blocks\.(\d+)\.", key))}
    depths = tuple(sum(level == str(i) for level, _ in blocks) for i in range(LEVELS))
    for name, config in VARIANTS.items():
        if (config.width, config.stem_width, config.depths) == (*widths, depths):
            return name
    raise BadCheckpoint(
        f"{path} fits no variant of MambaVision: {widths[0]} channels in level 0, {widths[1]} in the stem, depths "
        f"{depths}; {AGAIN}, or build MambaVision with a config of its own and use load_state_dict"
    )


def read_weights(path: str | os.PathLike) -> dict[str, Tensor]:
    """The named tensors of a safetensors file, or of one written by torch.save, on their own or as its "state_dict".

    Nothing in the file is run: torch.load(weights_only=True). Raises BadCheckpoint that names the file.
    """
    if not Path(path).is_file():
        raise BadCheckpoint(f"no such checkpoint: {path}")
    if Path(path).suffix == ".safetensors":
        return read_tensors(path, AGAIN)[0]
    try:
        with torch.serialization.safe_globals(HARMLESS):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the reader meets damaged data with errors of any class
        refused = re.search(r"GLOBAL (\S+)", str(error))
        if refused:
            raise BadCheckpoint(
                f"{path} holds a {refused[1]}, which is not read because it could run code; where the file was made, "
                "save its state_dict alone as safetensors"
            ) from None
        reason = str(error).split("\n")[0][:120] or type(error).__name__
        raise BadCheckpoint(f"{path} is damaged ({reason}); {AGAIN}") from None
    weights = content.get("state_dict", content) if isinstance(content, Mapping) else content
    if not isinstance(weights, Mapping) or not weights:
        raise BadCheckpoint(f"{path} holds no state_dict; give the file with a model's weights")
    for key, value in weights.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise BadCheckpoint(f"{path}: {key!r} is a {type(value).__name__}, not a tensor; give a file of weights")
    return dict(weights)
