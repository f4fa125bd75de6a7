"""The parts a vision transformer is made of: patch embedding, attention, MLP, block, pooling head. Notebook 01.

Every intermediate passes through a tap (vlmlab.taps), which may look at it or replace it. Without a tap the blocks run
PyTorch's fused attention; with one they form the attention weights explicitly.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlmlab.taps import Tap

BLOCK_PARTS = ("norm1", "q", "k", "v", "attn", "attn_out", "mid", "norm2", "hidden", "mlp")  # as they are computed


def swiglu(x: Tensor) -> Tensor:
    """SwiGLU (Shazeer 2020): silu of the first half of the channels gates the second half; (..., 2h) -> (..., h)."""
    gate, value = x.chunk(2, dim=-1)
    return F.silu(gate) * value


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "quick_gelu": lambda x: F.silu(1.702 * x) / 1.702,  # x * sigmoid(1.702 x), through one fused kernel
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "swiglu": swiglu,
}


def attend(q: Tensor, k: Tensor, v: Tensor, tap: Tap | None, name: str) -> Tensor:
    """Multi-head attention of q (B, H, L, d) over k, v (B, H, T, d), heads joined again: (B, L, H * d)."""
    if tap is None:
        out = F.scaled_dot_product_attention(q, k, v)
    else:
        scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5  # (B, H, L, T)
        weights = scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32))
        out = tap(name, weights).to(v.dtype) @ v
    return out.transpose(1, 2).flatten(2)


class PatchEmbed(nn.Module):
    """Cut (B, 3, H, W) into patches of p x p pixels and project each to D: (B, P, D), row by row.

    A cut and a matrix product: the same numbers as a convolution of stride p, and faster to train on a CPU.
    Rows and columns of pixels that do not fill a patch are left out, as a convolution leaves them out.
    """

    def __init__(self, patch_size: int, dim: int, bias: bool):
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Linear(3 * patch_size * patch_size, dim, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        p, rows, columns = self.patch_size, x.shape[2] // self.patch_size, x.shape[3] // self.patch_size
        x = x[:, :, : rows * p, : columns * p].reshape(x.shape[0], 3, rows, p, columns, p)
        x = x.permute(0, 2, 4, 1, 3, 5).reshape(x.shape[0], rows * columns, 3 * p * p)  # (B, P, 3pp)
        return self.proj(x)


class Attention(nn.Module):
    """Multi-head self-attention with one fused projection for q, k and v."""

    def __init__(self, dim: int, heads: int, qkv_bias: bool = True):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, tap: Tap | None = None, name: str = "") -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)  # (B, H, T, d) each
        if tap is not None:
            q, k, v = tap(f"{name}.q", q), tap(f"{name}.k", k), tap(f"{name}.v", v)
        return self.proj(attend(q, k, v, tap, f"{name}.attn"))


class Mlp(nn.Module):
    """Linear, activation, linear; "swiglu" doubles the first layer, whose halves are gate and value."""

    def __init__(self, dim: int, hidden: int, activation: str):
        super().__init__()
        self.activation = activation
        self.fc1 = nn.Linear(dim, 2 * hidden if activation == "swiglu" else hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor, tap: Tap | None = None, name: str = "") -> Tensor:
        x = ACTIVATIONS[self.activation](self.fc1(x))
        return self.fc2(x if tap is None else tap(f"{name}.hidden", x))


class Block(nn.Module):
    """A pre-norm transformer block: x + attention(norm1(x)), then x + mlp(norm2(x)), each scaled if DINOv2-style."""

    def __init__(
        self, dim: int, heads: int, hidden: int, activation: str, eps: float, qkv_bias: bool, layer_scale: float | None
    ):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.attn = Attention(dim, heads, qkv_bias)
        self.ls1 = None if layer_scale is None else nn.Parameter(torch.full((dim,), float(layer_scale)))
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.mlp = Mlp(dim, hidden, activation)
        self.ls2 = None if layer_scale is None else nn.Parameter(torch.full((dim,), float(layer_scale)))

    def forward(self, x: Tensor, tap: Tap | None = None, name: str = "") -> Tensor:
        if tap is not None:
            return self._tapped(x, tap, name)
        out = self.attn(self.norm1(x))
        x = x + (out if self.ls1 is None else out * self.ls1)
        out = self.mlp(self.norm2(x))
        return x + (out if self.ls2 is None else out * self.ls2)

    def _tapped(self, x: Tensor, tap: Tap, name: str) -> Tensor:
        out = self.attn(tap(f"{name}.norm1", self.norm1(x)), tap, name)
        x = tap(f"{name}.mid", x + tap(f"{name}.attn_out", out if self.ls1 is None else out * self.ls1))
        out = self.mlp(tap(f"{name}.norm2", self.norm2(x)), tap, name)
        return tap(name, x + tap(f"{name}.mlp", out if self.ls2 is None else out * self.ls2))


class AttentionPool(nn.Module):
    """SigLIP's pooling head: a learned query attends over all patches, then a residual MLP. (B, P, D) -> (B, D)."""

    def __init__(self, dim: int, heads: int, hidden: int, activation: str, eps: float):
        super().__init__()
        self.heads = heads
        self.probe = nn.Parameter(torch.zeros(dim))
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(dim, eps=eps)
        self.mlp = Mlp(dim, hidden, activation)

    def forward(self, x: Tensor, tap: Tap | None = None, name: str = "pool") -> Tensor:
        q = self.q(self.probe).view(1, 1, self.heads, -1).transpose(1, 2).expand(x.shape[0], -1, -1, -1)  # (B, H, 1, d)
        k, v = self.kv(x).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)  # (B, H, P, d)
        x = self.proj(attend(q, k, v, tap, f"{name}.attn"))  # (B, 1, D)
        return (x + self.mlp(self.norm(x)))[:, 0]
