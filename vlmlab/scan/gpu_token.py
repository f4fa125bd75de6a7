"""Decoding one token of a Mamba on a GPU: what lies between two matrix products as one Triton kernel. Notebook 16.

A token's time is that of reading the weights once, if little else is launched: a block of some thirty PyTorch
operations becomes `normalise`, a product, `convolve`, a product, `step`, a product. States change in place, so that a
CUDA graph (`vlmlab.language.graphs`) finds them where it left them. All is computed in float32.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

LANES = 32  # channels of a program


def normalise(x: Tensor, added: Tensor | None, weight: Tensor, eps: float) -> Tensor:
    """RMSNorm of x (B, D) in weight's dtype, after `added` (B, D), if any, has been added to x in place."""
    out = torch.empty_like(x, dtype=weight.dtype)
    with torch.cuda.device_of(x):
        _normalise[(len(x),)](
            x, x if added is None else added, weight, out, x.shape[1], eps, added is not None,
            triton.next_power_of_2(x.shape[1]), num_warps=8,
        )  # fmt: skip
    return out


def convolve(uz: Tensor, window: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """silu of the causal convolution (B, D) at the new inputs, the first half of uz (B, 2 D).

    window: the last inputs (B, taps, D), moved on by one in place. weight (D, taps), bias (D,), contiguous.
    """
    B, taps, D = window.shape
    out = torch.empty_like(uz[:, :D], memory_format=torch.contiguous_format)
    with torch.cuda.device_of(uz):
        _convolve[(B, triton.cdiv(D, LANES))](uz, window, weight, bias, out, D, taps, LANES, num_warps=1)
    return out


def step(
    uz: Tensor, u: Tensor, low: Tensor, weight: Tensor, bias: Tensor, A_log: Tensor, D: Tensor, state: Tensor
) -> Tensor:
    """silu(z) * (C h + D u), (B, D), with h = exp(d A) state + d B u put in the place of state (B, D, N).

    z is the second half of uz (B, 2 D); low (B, R + 2 N) holds what gives d = softplus(weight r + bias), then B, C;
    weight (D, R), A = -exp(A_log) (D, N).
    """
    B, channels, N = state.shape
    out, R = torch.empty_like(u), weight.shape[1]
    with torch.cuda.device_of(u):
        _step[(B, triton.cdiv(channels, LANES))](
            uz, u, low, weight, bias, A_log, D, state, out, channels, N, R, LANES,
            triton.next_power_of_2(N), triton.next_power_of_2(R), num_warps=4,
        )  # fmt: skip
    return out


@triton.jit
def _normalise(x, added, weight, out, D, eps, ADD: tl.constexpr, ALL: tl.constexpr):
    d = tl.arange(0, ALL)
    at = tl.program_id(0) * D + d
    value = tl.load(x + at, mask=d < D, other=0.0).to(tl.float32)
    if ADD:
        value += tl.load(added + at, mask=d < D, other=0.0).to(tl.float32)
        tl.store(x + at, value, mask=d < D)
    scale = tl.load(weight + d, mask=d < D, other=0.0)
    value = value.to(scale.dtype).to(tl.float32)  # the model's norm reads the stream in the weights' dtype
    root = tl.sqrt(tl.sum(value * value, 0) / D + eps)
    tl.store(out + at, (value / root * scale.to(tl.float32)).to(scale.dtype), mask=d < D)


@triton.jit
def _convolve(uz, window, weight, bias, out, D, taps, LANES: tl.constexpr):
    b = tl.program_id(0)
    d = tl.program_id(1) * LANES + tl.arange(0, LANES)
    on = d < D
    new = tl.load(uz + b * 2 * D + d, mask=on, other=0.0)
    at = window + b * taps * D + d
    last = tl.load(weight + d * taps + taps - 1, mask=on, other=0.0).to(tl.float32)
    total = tl.load(bias + d, mask=on, other=0.0).to(tl.float32) + new.to(tl.float32) * last
    for tap in range(taps - 1):
        past = tl.load(at + (tap + 1) * D, mask=on, other=0.0)
        tl.store(at + tap * D, past, mask=on)
        total += past.to(tl.float32) * tl.load(weight + d * taps + tap, mask=on, other=0.0).to(tl.float32)
    tl.store(at + (taps - 1) * D, new, mask=on)
    tl.store(out + b * D + d, (total * tl.sigmoid(total)).to(new.dtype), mask=on)


@triton.jit
def _step(uz, u, low, weight, bias, A_log, direct, state, out, D, N, R, LANES: tl.constexpr, STATES: tl.constexpr,
          RANK: tl.constexpr):  # fmt: skip
    b = tl.program_id(0)
    d = tl.program_id(1) * LANES + tl.arange(0, LANES)
    n, r = tl.arange(0, STATES)[None, :], tl.arange(0, RANK)[None, :]
    on, few = d < D, n < N
    tile = on[:, None] & few
    low += b * (R + 2 * N)
    rows = tl.load(weight + d[:, None] * R + r, mask=on[:, None] & (r < R), other=0.0).to(tl.float32)
    wide = tl.sum(rows * tl.load(low + r, mask=r < R, other=0.0).to(tl.float32), 1)
    wide += tl.load(bias + d, mask=on, other=0.0).to(tl.float32)
    small = tl.exp(-tl.abs(wide))  # softplus(x) = max(x, 0) + log(1 + exp(-|x|)), also where 1 + small rounds to 1
    more = 1 + small
    delta = tl.maximum(wide, 0.0) + tl.where(more == 1, small, tl.log(more) * small / tl.where(more == 1, 1, more - 1))
    x = tl.load(u + b * D + d, mask=on, other=0.0)
    z = tl.load(uz + b * 2 * D + D + d, mask=on, other=0.0).to(tl.float32)
    drive = tl.load(low + R + n, mask=few, other=0.0).to(tl.float32)
    look = tl.load(low + R + N + n, mask=few, other=0.0).to(tl.float32)
    rate = tl.exp(tl.load(A_log + d[:, None] * N + n, mask=tile, other=0.0).to(tl.float32))
    at = state + (b * D + d)[:, None] * N + n
    h = tl.exp(-delta[:, None] * rate) * tl.load(at, mask=tile, other=0.0).to(tl.float32)
    h += (delta * x.to(tl.float32))[:, None] * drive
    tl.store(at, h, mask=tile)
    y = tl.sum(h * look, 1) + tl.load(direct + d, mask=on, other=0.0).to(tl.float32) * x.to(tl.float32)
    tl.store(out + b * D + d, (y * z * tl.sigmoid(z)).to(x.dtype), mask=on)
