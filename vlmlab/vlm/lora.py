"""LoRA: a low-rank change beside frozen weights, trained, merged, and stored by itself. Notebook 12.

    h = W_0 x + (alpha / r) B A x        A (r, in) drawn at random, B (out, r) zero: at the start nothing changes

Source: Hu et al. 2021 (arXiv 2106.09685), section 4.1 and equation 3.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlmlab.errors import BadCheckpoint, BadInput, UnknownName
from vlmlab.files import read_tensors, tensors_sha256, write_json, write_tensors
from vlmlab.vlm.checkpointing import copy_into

FORMAT = "vlmlab-lora-1"
THEIRS = "base_model.model.model."  # peft's name of a Llama inside its model


class LoRA(nn.Module):
    """A linear layer `base`, frozen, and beside it the trained matrices A (rank, in) and B (out, rank)."""

    def __init__(self, base: nn.Linear, rank: int, alpha: float, generator: torch.Generator | None = None):
        super().__init__()
        self.base = base.requires_grad_(False)
        self.alpha, self.scale = alpha, alpha / rank
        self.A = nn.Parameter(base.weight.new_empty(rank, base.in_features))
        self.B = nn.Parameter(base.weight.new_zeros(base.out_features, rank))
        with torch.no_grad():
            self.A.normal_(0.0, base.in_features**-0.5, generator=generator)

    @property
    def weight(self) -> Tensor:
        """W_0 + (alpha / r) B A: for a module that reads its layer's weight instead of calling it, as Mamba does."""
        return self.base.weight + self.scale * (self.B @ self.A)

    @property
    def bias(self) -> Tensor | None:
        """The bias of `base`."""
        return self.base.bias

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        return self.base(x) + self.scale * F.linear(F.linear(x, self.A), self.B)


def attach(
    module: nn.Module,
    rank: int = 16,
    alpha: float = 32.0,
    names: Iterable[str] = ("",),
    generator: torch.Generator | None = None,
) -> list[str]:
    """Freeze `module` and put a LoRA in the place of some of its linear layers; only these train from then on.

    Args:
        rank: r. alpha: the change is scaled by alpha / r.
        names: of linear layers, or of modules ("" the whole), which stands for every linear layer inside that is larger
            than its LoRA would be.
        generator: of A, by default PyTorch's global one.
    Returns:
        The names of the layers.
    Raises:
        UnknownName for a name that stands for no linear layer; BadInput for a rank below 1 or LoRAs that are there.
    """
    if rank < 1:
        raise BadInput(f"rank={rank} must be at least 1")
    if layers(module):
        raise BadInput("this model has LoRAs already; merge them before others are attached")
    known = {name: layer for name, layer in module.named_modules() if name and isinstance(layer, nn.Linear)}
    large = [n for n, w in known.items() if rank * (w.in_features + w.out_features) < w.weight.numel()]
    chosen: dict[str, nn.Linear] = {}
    for name in names:
        inside = [n for n in large if not name or n.startswith(f"{name}.")]
        if name not in known and not inside:
            raise UnknownName("linear layer", name, known)
        chosen |= {n: known[n] for n in ([name] if name in known else inside)}
    module.requires_grad_(False)
    for name, layer in chosen.items():
        module.set_submodule(name, LoRA(layer, rank, alpha, generator))
    return list(chosen)


def layers(module: nn.Module) -> dict[str, LoRA]:
    """The LoRAs inside `module`, by name."""
    return {name: layer for name, layer in module.named_modules() if isinstance(layer, LoRA)}


def merge(module: nn.Module) -> dict[str, LoRA]:
    """Put a plain linear layer with weight W_0 + (alpha / r) B A in the place of each LoRA; nothing is slower then.

    Returns what was taken out; `unmerge(module, taken)` puts it back, W_0 unchanged to the bit.
    """
    taken = layers(module)
    for name, layer in taken.items():
        kind = type(layer.base)  # our own layers decode faster than nn.Linear
        plain = kind(layer.base.in_features, layer.base.out_features, layer.bias is not None, device="meta")
        state = {"weight": layer.weight.detach()} | ({} if layer.bias is None else {"bias": layer.bias.detach()})
        plain.load_state_dict(state, assign=True)
        module.set_submodule(name, plain.requires_grad_(False).train(layer.training))
    return taken


def unmerge(module: nn.Module, taken: Mapping[str, LoRA]) -> None:
    """Put back what `merge` took out."""
    for name, layer in taken.items():
        module.set_submodule(name, layer)


def state(module: nn.Module) -> dict[str, Tensor]:
    """A and B of every LoRA, and nothing else: "language.layers.0.self_attn.q_proj.A" and so on."""
    return {f"{name}.{part}": getattr(layer, part) for name, layer in layers(module).items() for part in ("A", "B")}


def fingerprint(module: nn.Module, without: Iterable[str] = ()) -> str:
    """SHA-256 of the weights that the LoRAs change, and of all others, as fp16: shipped weights and those of the run
    that they come from have the same one. without: parts that do not count."""
    named = sorted(_plain(module).items())
    return tensors_sha256((name, value.detach().half()) for name, value in named if not _within(name, without))


def _plain(module: nn.Module) -> dict[str, Tensor]:
    """Parameters by the names that they have without LoRAs."""
    own = {f"{name}.{part}" for name in layers(module) for part in ("A", "B")}
    return {n.replace(".base.", "."): p for n, p in module.named_parameters() if n not in own}


def _within(name: str, parts: Iterable[str]) -> bool:
    return name.startswith(tuple(f"{part}." for part in parts))


def _whole(module: nn.Module, parts: Iterable[str]) -> dict[str, Tensor]:
    """Parameters of some parts."""
    return {name: value for name, value in module.named_parameters() if _within(name, parts)}


class About(NamedTuple):
    """What a file of LoRAs says about itself. base: name of the model that it changes; sha256: its `fingerprint`
    without `parts`, which lie in the file whole."""

    base: str
    sha256: str
    alpha: float
    note: dict[str, Any]
    parts: Sequence[str] = ()


def save(
    module: nn.Module,
    path: str | os.PathLike,
    base: str,
    dtype: torch.dtype = torch.float16,
    note: Mapping[str, Any] | None = None,
    parts: Sequence[str] = (),
) -> None:
    """Write the LoRAs of `module` as safetensors, atomically.

    base: the name under which its other weights are known. note: anything JSON-able to remember. parts: names of its
    modules that were trained whole, a projector say, and are written too. Raises BadInput when there are no LoRAs.
    """
    found = layers(module)
    if not found:
        raise BadInput("there is no LoRA to save; attach some, or unmerge them")
    about = About(base, fingerprint(module, parts), next(iter(found.values())).alpha, dict(note or {}), parts)
    metadata = {"format": FORMAT, "about": json.dumps(about._asdict())}
    kept = state(module) | _whole(module, parts)
    write_tensors(path, {name: value.to(dtype) for name, value in kept.items()}, metadata)


def holds(path: str | os.PathLike) -> bool:
    """Whether a file is there and holds LoRAs, and no whole parts. Raises BadCheckpoint for a damaged one."""
    return os.path.isfile(path) and read_tensors(path)[1].get("format") == FORMAT and not read(path)[1].parts


def read(path: str | os.PathLike) -> tuple[dict[str, Tensor], About]:
    """The tensors of a file that `save` wrote, and what it says about itself. Raises BadCheckpoint."""
    tensors, metadata = read_tensors(path)
    if metadata.get("format") != FORMAT:
        raise BadCheckpoint(f"{path} holds no LoRAs; write some with vlmlab.vlm.lora.save")
    try:
        return tensors, About(**json.loads(metadata["about"]))
    except (KeyError, TypeError, ValueError) as error:
        raise BadCheckpoint(f"{path} has unreadable metadata ({error}); restore it or train it again") from None


def load(module: nn.Module, path: str | os.PathLike) -> About:
    """Put the LoRAs of a file into the model that they were trained for.

    Raises BadCheckpoint when the file is damaged, when `module` is not that model (its weights' fingerprint differs),
    or when layers or shapes do not fit.
    """
    tensors, about = read(path)
    if fingerprint(module, about.parts) != about.sha256:
        raise BadCheckpoint(f"{path} changes {about.base}, and these are other weights; load {about.base} first")
    whole = _whole(module, about.parts)
    names = list(dict.fromkeys(name.rpartition(".")[0] for name in tensors if name not in whole))
    try:
        attach(module, len(tensors[f"{names[0]}.A"]), about.alpha, names)
    except (BadInput, IndexError, KeyError) as error:
        raise BadCheckpoint(f"{path} does not fit {about.base} ({error}); restore it or train it again") from None
    copy_into(state(module) | whole, tensors, str(path))
    return about


def write_peft(llama: nn.Module, folder: str | os.PathLike, base: str) -> None:
    """Write the LoRAs of a Llama as the library peft reads them, for transformers' model of the same weights.

    base: what adapter_config.json gives as that model's name or path. Raises BadInput when there are no LoRAs.
    """
    found = layers(llama)
    if not found:
        raise BadInput("there is no LoRA to write; attach some, or unmerge them")
    names = {f"{name}.{part}": f"{THEIRS}{name}.lora_{part}.weight" for name in found for part in ("A", "B")}
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": len(next(iter(found.values())).A),
        "lora_alpha": next(iter(found.values())).alpha,
        "target_modules": [f"model.{name}" for name in found],
        "inference_mode": True,
    }
    write_tensors(Path(folder) / "adapter_model.safetensors", {names[n]: value for n, value in state(llama).items()})
    write_json(Path(folder) / "adapter_config.json", config)
