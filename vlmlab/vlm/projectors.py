"""Projectors W: from vision features H_v to tokens Z_v of the language model's width. Notebook 02.

    Z_v = W(H_v)        (B, N, D_v) -> (B, N, D)

Visual Instruction Tuning (arXiv 2304.08485, section 4.1) uses one linear layer; LLaVA-1.5 (arXiv 2310.03744,
section 3.3) uses two with a GELU between. The layers of `mlp2x_gelu` are numbered 0, 1, 2 as in LLaVA's own
checkpoints (`mm_projector.{0,2}.*`).
"""

from collections.abc import Callable

from torch import nn

from vlmlab.errors import BadInput, UnknownName


def linear(in_dim: int, out_dim: int) -> nn.Module:
    """LLaVA's first projector: one matrix and a bias."""
    return nn.Linear(in_dim, out_dim)


def mlp2x_gelu(in_dim: int, out_dim: int) -> nn.Sequential:
    """LLaVA-1.5's projector: Linear - GELU - Linear (20,979,712 parameters from 1024 to 4096)."""
    return nn.Sequential(nn.Linear(in_dim, out_dim), nn.GELU(), nn.Linear(out_dim, out_dim))


PROJECTORS: dict[str, Callable[[int, int], nn.Module]] = {"linear": linear, "mlp2x_gelu": mlp2x_gelu}


def build_projector(name: str, in_dim: int, out_dim: int) -> nn.Module:
    """A projector with random weights.

    Args:
        name: a key of `PROJECTORS`.
        in_dim: width D_v of the vision features.
        out_dim: width D of the language model.

    Returns:
        A module that maps (B, N, D_v) to (B, N, D).

    Raises:
        UnknownName: no projector has that name.
        BadInput: a width is not positive.
    """
    if name not in PROJECTORS:
        raise UnknownName("projector", name, PROJECTORS)
    if in_dim < 1 or out_dim < 1:
        raise BadInput(f"projector {name!r} needs positive widths, got in_dim={in_dim}, out_dim={out_dim}")
    return PROJECTORS[name](in_dim, out_dim)
