"""A model filled from checkpoints in other layouts, strictly and without holding the weights twice. Notebook 16.

A `Plan` says for each stored name where its tensor goes. `compare` follows it on shapes alone and reports everything
that does not fit; `assemble` then gives an empty model (on the meta device) its tensors one by one, cast on the way.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from vlmlab.errors import BadCheckpoint
from vlmlab.weights.streaming import Checkpoint

FEW = 3  # names of each kind in a message
KEPT_WIDE = ("A_log", "D")  # what mamba_ssm keeps in float32 whatever the other weights are


class Placement(NamedTuple):
    """Where a tensor goes: to rows `rows` (None: all) of the model's `target`, as `pick` (None: unchanged) gives it."""

    target: str
    pick: Callable[[Tensor], Tensor] | None = None
    rows: slice | None = None


Plan = Callable[[str], Sequence[Placement] | None]
"""A stored name -> where its tensor goes; () when the model has no use for it, None when the name is unknown."""


class Source(NamedTuple):
    """A checkpoint and the plan for it. zeros: targets of which it need not hold every row; the rest is 0."""

    checkpoint: Checkpoint
    plan: Plan
    zeros: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Report:
    """What does not fit: names of the model's tensors that no file gives, stored names that the model does not have,
    and stored tensors of another shape or kind, each with both shapes."""

    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    mismatched: tuple[str, ...] = ()

    @property
    def fits(self) -> bool:
        """Whether there is nothing to report."""
        return not (self.missing or self.unexpected or self.mismatched)

    def __str__(self) -> str:
        kinds = {"missing": self.missing, "unexpected": self.unexpected, "of another shape or type": self.mismatched}
        told = []
        for kind, names in kinds.items():
            more = f" and {len(names) - FEW} more" if len(names) > FEW else ""
            told += [f"{len(names)} {kind}: {'; '.join(names[:FEW])}{more}"] if names else []
        return ". ".join(told) or "everything fits"


def compare(module: nn.Module, sources: Sequence[Source]) -> Report:
    """What of the sources does not fit the module. Nothing but names, shapes and types is looked at.

    A name of several sources is followed by its file's name.
    """
    wanted = module.state_dict()
    taken: dict[str, list[tuple[int, int]]] = {name: [] for name in wanted}
    unexpected, mismatched = [], []
    for source in sources:
        file = f" in {source.checkpoint.where.name}" if len(sources) > 1 else ""
        for name, stored in source.checkpoint.tensors.items():
            placements = source.plan(name)
            if placements is None or any(place.target not in wanted for place in placements):
                unexpected.append(name + file)
                continue
            for place in placements:
                target = wanted[place.target]
                problem = _problem(place, stored, target)
                span = (place.rows or slice(None)).indices(_rows(target))[:2]
                if problem:
                    mismatched.append(f"{name}{file} {problem}")
                elif any(span[0] < stop and start < span[1] for start, stop in taken[place.target]):
                    unexpected.append(f"{name}{file} (a second time)")
                taken[place.target].append(span)
    zeros = frozenset().union(*(source.zeros for source in sources))
    missing = []
    for name, spans in taken.items():
        given = sum(stop - start for start, stop in spans)
        if given < _rows(wanted[name]) and name not in zeros:
            missing.append(f"{name} (a part of it)" if given else name)
    return Report(tuple(missing), tuple(unexpected), tuple(mismatched))


def _rows(tensor: Tensor) -> int:
    return tensor.shape[0] if tensor.dim() else 1


def _slot(tensor: Tensor, rows: slice | None) -> Tensor:
    return tensor if rows is None else tensor[rows]


def _picked(place: Placement, tensor: Tensor) -> Tensor:
    return tensor if place.pick is None else place.pick(tensor)


def _problem(place: Placement, stored: Tensor, target: Tensor) -> str:
    """What is wrong with a stored tensor, "" when nothing is."""
    slot = _slot(target, place.rows)
    try:
        found = _picked(place, stored)
    except (RuntimeError, IndexError, ValueError):
        return f"is {tuple(stored.shape)}, which cannot become {tuple(slot.shape)}"
    if found.shape != slot.shape:
        return f"is {tuple(found.shape)}, expected {tuple(slot.shape)}"
    if found.is_floating_point() != slot.is_floating_point():
        return f"is {found.dtype}, expected numbers like {slot.dtype}".replace("torch.", "")
    return ""


@torch.no_grad()
def assemble(
    module: nn.Module,
    sources: Sequence[Source],
    dtype: torch.dtype | None = torch.float32,
    device: str | torch.device = "cpu",
) -> None:
    """Give every tensor of `module` memory on `device` and its values from the sources.

    dtype: of floating-point weights; None keeps each as it is stored. `A_log` and `D` of a scan get at least float32.
    Raises BadCheckpoint with a `Report` when anything is missing, unexpected or of another shape.
    """
    report = compare(module, sources)
    if not report.fits:
        raise BadCheckpoint(f"{places(sources)} does not fit the model: {report}")
    wanted, made = module.state_dict(), {}
    zeros = frozenset().union(*(source.zeros for source in sources))

    def make(name: str, stored: torch.dtype) -> Tensor:
        like = wanted[name]
        kind = (dtype or stored) if like.is_floating_point() else like.dtype
        if name.rpartition(".")[2] in KEPT_WIDE:
            kind = torch.promote_types(kind, torch.float32)
        value = (torch.zeros if name in zeros else torch.empty)(like.shape, dtype=kind, device=device)
        parent, _, leaf = name.rpartition(".")
        owner = module.get_submodule(parent)
        if leaf in owner._parameters:
            owner._parameters[leaf] = nn.Parameter(value, requires_grad=value.is_floating_point())
        else:
            owner._buffers[leaf] = value
        return value

    for source in sources:
        plans = {name: source.plan(name) for name in source.checkpoint.tensors}
        for name, tensor in source.checkpoint.read(name for name, placements in plans.items() if placements):
            for place in plans[name] or ():
                if place.target not in made:
                    made[place.target] = make(place.target, tensor.dtype)
                _slot(made[place.target], place.rows).copy_(_picked(place, tensor))
    for name in wanted:
        if name not in made:  # in a source's zeros
            make(name, dtype or torch.float32)


def places(sources: Sequence[Source]) -> str:
    """Where the sources lie, for a message."""
    return " with ".join(dict.fromkeys(os.fspath(source.checkpoint.where) for source in sources))
