"""The compiled scan as a PyTorch function: layouts, gradients, threads. Notebook 07."""

import threading
from collections.abc import Callable
from math import lcm
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from vlmlab.scan import kernels

_TORCH = torch.get_num_threads()
_MOST = numba.get_num_threads()  # starts numba's threads; where they are OpenMP's, it sets PyTorch's number as well
torch.set_num_threads(_TORCH)
_ONE_AT_A_TIME = threading.Lock()  # numba's threading layers need not be safe to enter twice


def scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """Arguments and results as in `reference.scan`, on the CPU; B and C (B, G, N, L) for G groups of channels, or
    (B, D, N, 1), the same at all times."""
    D, L = u.shape[1:]
    B, C = (x[..., 0] if x.shape[1] == D and x.shape[3] == 1 else x.expand(-1, -1, -1, L) for x in (B, C))
    groups = lcm(*(x.shape[1] for x in (B, C) if x.dim() == 4))
    B, C = (x.repeat_interleave(groups // x.shape[1], 1) if x.dim() == 4 else x for x in (B, C))
    return _Scan.apply(groups, u, delta, A, B, C, state)


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, groups: int, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        u, delta, A, B, C, state = _arrays(*inputs)
        (batch, L, D), N = u.shape, A.shape[1]
        blocks = groups * kernels.blocks(D, groups)
        moments = -(-L // kernels.STEPS) if any(ctx.needs_input_grad) else 0
        marks = np.empty((batch, blocks, moments, N, kernels.LANES), u.dtype)
        y, last = np.empty_like(u), np.empty_like(state)
        _run(kernels.forward, groups, u, delta, A, B, C, state, y, last, marks)
        ctx.groups = groups
        ctx.save_for_backward(*inputs[:5], torch.from_numpy(marks))
        return torch.from_numpy(y).transpose(1, 2), torch.from_numpy(last)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor, dlast: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, marks = ctx.saved_tensors
        u, delta, A, B, C, last = _arrays(*[*inputs, dlast])
        (batch, L, D), N, blocks = u.shape, A.shape[1], marks.shape[1]
        du, ddelta = np.empty_like(u), np.empty_like(u)
        dA, dstate = np.empty((batch, D, N), u.dtype), np.empty((batch, D, N), u.dtype)
        dB, dC = (np.empty((batch, blocks, L, N) if x.ndim == 4 else x.shape, u.dtype) for x in (B, C))
        grown = (du, ddelta, dA, dB, dC, dstate)
        _run(kernels.backward, ctx.groups, u, delta, A, B, C, _timed(dy), last, marks.numpy(), *grown)
        dB, dC = (x.reshape(batch, ctx.groups, -1, L, N).sum(2).swapaxes(2, 3) if x.ndim == 4 else x for x in (dB, dC))
        found = (du.swapaxes(1, 2), ddelta.swapaxes(1, 2), dA.sum(0), dB, dC, dstate)
        return None, *(torch.from_numpy(x) for x in found)


def compile_ahead() -> None:
    """Compile the kernels, so that nobody waits for it later (half a minute; kept on disk)."""
    for dtype in (torch.float32, torch.float64):
        x, A = torch.zeros(1, 2, 2, dtype=dtype, requires_grad=True), torch.zeros(2, 2, dtype=dtype)
        scan(x, x, A, x[:, None], x[:, None], x)[0].sum().backward()


def _arrays(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor) -> tuple[np.ndarray, ...]:
    coefficients = (_timed(x) if x.dim() == 4 else _plain(x) for x in (B, C))
    return _timed(u), _timed(delta), _plain(A), *coefficients, _plain(state)


def _plain(x: Tensor) -> np.ndarray:
    return x.detach().contiguous().numpy()


def _timed(x: Tensor) -> np.ndarray:
    """Time before channels, as linear layers write it, so that most often nothing is copied."""
    return _plain(x.transpose(-1, -2))


def _run(kernel: Callable[..., None], *arguments: Any) -> None:
    """Call a kernel on as many threads as PyTorch uses."""
    with _ONE_AT_A_TIME:
        before = numba.get_num_threads()
        numba.set_num_threads(min(torch.get_num_threads(), _MOST))
        try:
            kernel(*arguments)
        finally:
            numba.set_num_threads(before)
