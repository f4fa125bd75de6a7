"""Projectors W: from vision features H_v to tokens Z_v of the language model's width. Notebooks 02 and 08.

    Z_v = W(H_v)        (B, N, D_v) -> (B, N, D), or fewer tokens where W pools

Visual Instruction Tuning (arXiv 2304.08485, section 4.1) uses one linear layer; LLaVA-1.5 (arXiv 2310.03744,
section 3.3) uses two with a GELU between. Cobra (arXiv 2403.14520, section 3.1) has a wider one for its two encoders
together, and compares it with LDPv2 (MobileVLM V2, arXiv 2402.03766, section 3.3), which also pools. The layers are
numbered as in the papers' checkpoints (`mm_projector.{0,2}`, `projector.{0,2,4}`).
"""

from collections.abc import Callable
from math import isqrt

import torch.nn.functional as F
from torch import Tensor, nn

from vlmlab.errors import BadInput, UnknownName

POOLED = 14  # tokens a side that LDPv2 leaves at full size


def linear(in_dim: int, out_dim: int) -> nn.Module:
    """LLaVA's first projector: one matrix and a bias."""
    return nn.Linear(in_dim, out_dim)


def mlp2x_gelu(in_dim: int, out_dim: int) -> nn.Sequential:
    """LLaVA-1.5's projector: Linear - GELU - Linear (20,979,712 parameters from 1024 to 4096)."""
    return nn.Sequential(nn.Linear(in_dim, out_dim), nn.GELU(), nn.Linear(out_dim, out_dim))


def fused_gelu_mlp(in_dim: int, out_dim: int) -> nn.Sequential:
    """Cobra's projector: three layers, the first four times as wide as its input (47,789,568 from 2176 to 2560)."""
    wide = 4 * in_dim
    return nn.Sequential(
        nn.Linear(in_dim, wide), nn.GELU(), nn.Linear(wide, out_dim), nn.GELU(), nn.Linear(out_dim, out_dim)
    )


def fused_ldpnet(in_dim: int, out_dim: int, pooled: int = POOLED) -> nn.Sequential:
    """LDPv2 behind Cobra's encoders: two layers, pooling to pooled x pooled tokens, and a convolution that tells them
    where they are (41,259,008 parameters from 2176 to 2560)."""
    wide = 4 * in_dim
    return nn.Sequential(
        nn.Linear(in_dim, wide), nn.GELU(), nn.Linear(wide, out_dim), TokenPool(pooled), PositionConv(out_dim)
    )


class TokenPool(nn.Module):
    """Average a square grid of tokens (B, N, D) down to (B, pooled * pooled, D)."""

    def __init__(self, pooled: int):
        super().__init__()
        self.pooled = pooled

    def forward(self, x: Tensor) -> Tensor:
        return _tokens(F.adaptive_avg_pool2d(_grid(x), self.pooled))


class PositionConv(nn.Module):
    """x plus a depthwise 3 x 3 convolution of its grid: a token learns its place from its neighbours and the edges.

    Source: conditional position encodings (Chu et al. 2021, arXiv 2102.10882, section 3.2).
    """

    def __init__(self, dim: int):
        super().__init__()
        self.peg = nn.Sequential(nn.Conv2d(dim, dim, 3, padding=1, groups=dim))

    def forward(self, x: Tensor) -> Tensor:
        return x + _tokens(self.peg(_grid(x)))


def _grid(x: Tensor) -> Tensor:
    """Tokens (B, N, D) of a square grid -> (B, D, side, side)."""
    side = isqrt(x.shape[1])
    if side * side != x.shape[1]:
        raise BadInput(f"{x.shape[1]} tokens are no square grid, which this projector needs")
    return x.transpose(1, 2).unflatten(2, (side, side))


def _tokens(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2)


PROJECTORS: dict[str, Callable[[int, int], nn.Module]] = {
    "linear": linear,
    "mlp2x_gelu": mlp2x_gelu,
    "gelu-mlp": mlp2x_gelu,  # Prismatic's and Cobra's name for the same layers
    "fused-gelu-mlp": fused_gelu_mlp,
    "fused-ldpnet": fused_ldpnet,
}


def build_projector(name: str, in_dim: int, out_dim: int, pooled: int | None = None) -> nn.Module:
    """A projector with random weights.

    Args:
        name: a key of `PROJECTORS`.
        in_dim: width D_v of the vision features.
        out_dim: width D of the language model.
        pooled: tokens a side that "fused-ldpnet" leaves (None: 14, as at full size).

    Returns:
        A module that maps (B, N, D_v) to (B, N, D), "fused-ldpnet" to (B, pooled * pooled, D).

    Raises:
        UnknownName: no projector has that name.
        BadInput: a width is not positive, or `pooled` is given to a projector that keeps every token.
    """
    if name not in PROJECTORS:
        raise UnknownName("projector", name, PROJECTORS)
    if in_dim < 1 or out_dim < 1:
        raise BadInput(f"projector {name!r} needs positive widths, got in_dim={in_dim}, out_dim={out_dim}")
    if pooled is None:
        return PROJECTORS[name](in_dim, out_dim)
    if name != "fused-ldpnet" or pooled < 1:
        raise BadInput(f"pooled={pooled}: a number of at least 1, for 'fused-ldpnet' alone, not {name!r}")
    return fused_ldpnet(in_dim, out_dim, pooled)
