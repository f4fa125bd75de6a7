"""The parts a MambaVision is made of: stem, convolutional block, mixer, window block, windows. Notebook 10.

Every module is called with a tap (vlmlab.taps) as a ViT's are; attention and MLP are the ViT's own. Parameters carry
the published names.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlmlab.scan import selective_scan
from vlmlab.taps import Tap, tapped
from vlmlab.vision.blocks import Attention, Mlp
from vlmlab.vision.mambavision_config import MLP_RATIO, STATE, TAPS, MambaVisionConfig

STEM_EPS, EPS = 1e-4, 1e-5  # of the stem's norms, and of all others


def batch_norm(norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """BatchNorm of a map; once its weights are frozen it keeps to its running statistics, whatever `train()` says.

    A VLM trains around a frozen encoder: statistics that moved with its batches would change a model that is meant to
    stay as it is.
    """
    if norm.training and norm.weight.requires_grad:
        return norm(x)
    return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)


def convolution(inputs: int, outputs: int, stride: int = 1, bias: bool = False) -> nn.Conv2d:
    """3 x 3 with padding 1."""
    return nn.Conv2d(inputs, outputs, 3, stride, 1, bias=bias)


class Stem(nn.Module):
    """Two convolutions: (B, 3, H, W) -> (B, c, H / 4, W / 4), or by other strides than 2 and 2."""

    def __init__(self, config: MambaVisionConfig):
        super().__init__()
        middle, c = config.stem_width, config.width
        self.conv_down = nn.Sequential(
            convolution(3, middle, config.stem_strides[0]),
            nn.BatchNorm2d(middle, eps=STEM_EPS),
            nn.ReLU(),
            convolution(middle, c, config.stem_strides[1]),
            nn.BatchNorm2d(c, eps=STEM_EPS),
            nn.ReLU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.conv_down:
            x = batch_norm(layer, x) if isinstance(layer, nn.BatchNorm2d) else layer(x)
        return x


class ConvBlock(nn.Module):
    """x + conv(gelu(conv(x))), each convolution followed by a BatchNorm: (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, dim: int):
        super().__init__()
        self.conv1 = convolution(dim, dim, bias=True)
        self.norm1 = nn.BatchNorm2d(dim, eps=EPS)
        self.conv2 = convolution(dim, dim, bias=True)
        self.norm2 = nn.BatchNorm2d(dim, eps=EPS)

    def forward(self, x: Tensor, tap: Tap | None = None, name: str = "") -> Tensor:
        out = F.gelu(batch_norm(self.norm1, self.conv1(x)), approximate="tanh")
        x = x + batch_norm(self.norm2, self.conv2(out))
        return tapped(tap, name, x)


class MambaMixer(nn.Module):
    """The scanned half of the channels beside the half that is not: (B, L, C) -> (B, L, C).

        u, z = in_proj(x)                        C / 2 channels each
        u, z = silu(conv(u)), silu(conv(z))      every token with the one before it and the one after it
        y    = scan(u)                           along the window's rows, from its first token to its last
        out  = out_proj([y, z])                  side by side, where Mamba multiplies y by silu(z)

    Other than in Mamba (`vlmlab.language.mamba`), the convolutions see both neighbours instead of the past alone and
    have no bias. `backend` is the scan's, see `vlmlab.scan.selective_scan`. Source: section 3.2.
    """

    def __init__(self, dim: int, rank: int):
        super().__init__()
        inner = dim // 2
        self.rank, self.backend = rank, "auto"
        self.in_proj = nn.Linear(dim, dim, bias=False)
        self.conv1d_x = nn.Conv1d(inner, inner, TAPS, padding="same", groups=inner, bias=False)
        self.conv1d_z = nn.Conv1d(inner, inner, TAPS, padding="same", groups=inner, bias=False)
        self.x_proj = nn.Linear(inner, rank + 2 * STATE, bias=False)
        self.dt_proj = nn.Linear(rank, inner)
        self.A_log = nn.Parameter(torch.empty(inner, STATE))
        self.D = nn.Parameter(torch.empty(inner))
        self.out_proj = nn.Linear(dim, dim, bias=False)

    def forward(self, x: Tensor, tap: Tap | None = None, name: str = "") -> Tensor:
        u, z = self.in_proj(x).chunk(2, -1)  # (B, L, C / 2) each
        u = tapped(tap, f"{name}.u", F.silu(with_neighbours(u, self.conv1d_x.weight)))
        z = tapped(tap, f"{name}.z", F.silu(with_neighbours(z, self.conv1d_z.weight)))
        low, B, C = self.x_proj(u).split((self.rank, STATE, STATE), -1)  # (B, L, R), (B, L, N), (B, L, N)
        B, C = tapped(tap, f"{name}.B", B), tapped(tap, f"{name}.C", C)
        # dt_proj's bias counts twice, as in the published model: in the layer, and again where the scan takes delta.
        delta = F.softplus(_wide(self.dt_proj(low)) + _wide(self.dt_proj.bias))
        delta = tapped(tap, f"{name}.delta", delta)  # (B, L, C / 2), in float32 as A is
        A = -_wide(self.A_log).exp()  # (C / 2, N)
        y: Any = selective_scan(
            u.transpose(1, 2), delta.transpose(1, 2), A, B.transpose(1, 2), C.transpose(1, 2), self.D,
            backend=self.backend,
        )  # fmt: skip
        y = tapped(tap, f"{name}.y", y.transpose(1, 2))
        return self.out_proj(torch.cat([y, z], -1))


def with_neighbours(x: Tensor, weight: Tensor) -> Tensor:
    """The depthwise convolution of x (B, L, D) along L with weight (D, 1, taps), padded to the same length.

    A few products over contiguous memory, where nn.Conv1d would want the channels before the time.
    """
    taps, length = weight.shape[-1], x.shape[1]
    padded = F.pad(x, (0, 0, (taps - 1) // 2, taps // 2))  # zeros beyond both ends
    out = padded[:, :length] * weight[:, 0, 0]
    for tap in range(1, taps):
        out = torch.addcmul(out, padded[:, tap : tap + length], weight[:, 0, tap])
    return out


class WindowBlock(nn.Module):
    """x + gamma_1 mixer(norm1(x)), then x + gamma_2 mlp(norm2(x)), on the tokens of windows (B, L, C)."""

    def __init__(self, dim: int, mixer: MambaMixer | Attention, layer_scale: float | None):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=EPS)
        self.mixer = mixer
        self.norm2 = nn.LayerNorm(dim, eps=EPS)
        self.mlp = Mlp(dim, MLP_RATIO * dim, "gelu")
        self.gamma_1 = None if layer_scale is None else nn.Parameter(torch.full((dim,), float(layer_scale)))
        self.gamma_2 = None if layer_scale is None else nn.Parameter(torch.full((dim,), float(layer_scale)))

    def forward(self, x: Tensor, tap: Tap | None = None, name: str = "") -> Tensor:
        out = self.mixer(tapped(tap, f"{name}.norm1", self.norm1(x)), tap, name)
        out = tapped(tap, f"{name}.mixer", out if self.gamma_1 is None else out * self.gamma_1)
        x = tapped(tap, f"{name}.mid", x + out)
        out = self.mlp(tapped(tap, f"{name}.norm2", self.norm2(x)), tap, name)
        out = tapped(tap, f"{name}.mlp", out if self.gamma_2 is None else out * self.gamma_2)
        return tapped(tap, name, x + out)


def to_windows(x: Tensor, side: int) -> Tensor:
    """Cut a map (B, C, H, W) into windows of side x side tokens, row by row: (B * windows, side * side, C).

    A map that they do not divide is first padded with zeros at the bottom and on the right; these take part.
    """
    if x.shape[2] % side or x.shape[3] % side:
        x = F.pad(x, (0, -x.shape[3] % side, 0, -x.shape[2] % side))
    (B, C), rows, columns = x.shape[:2], x.shape[2] // side, x.shape[3] // side
    x = x.permute(0, 2, 3, 1).reshape(B, rows, side, columns, side, C).transpose(2, 3)
    return x.reshape(B * rows * columns, side * side, C)


def from_windows(x: Tensor, side: int, batch: int, height: int, width: int) -> Tensor:
    """The map (B, C, H, W) that `to_windows` cut, its padding cropped."""
    rows, columns = -(-height // side), -(-width // side)
    x = x.reshape(batch, rows, columns, side, side, x.shape[-1]).transpose(2, 3)
    x = x.reshape(batch, rows * side, columns * side, x.shape[-1])
    return x[:, :height, :width].permute(0, 3, 1, 2)


def _wide(x: Tensor) -> Tensor:
    """At least float32."""
    return x if x.dtype == torch.float64 else x.float()
