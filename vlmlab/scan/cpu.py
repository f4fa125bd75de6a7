"""The compiled scan as a PyTorch function: layouts, gradients, threads. Notebook 07."""

import threading
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from vlmlab.scan import kernels

_MOST = numba.get_num_threads()
_ONE_AT_A_TIME = threading.Lock()  # numba's threading layers need not be safe to enter twice


def scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """Arguments and results as in `reference.scan`, on the CPU; B and C (B, G, N, L or 1) for G groups of channels."""
    return _Scan.apply(u, delta, A, B, C, state)


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        u, delta, A, B, C, state = _arrays(*inputs)
        batch, L, D = u.shape
        N, groups = A.shape[1], B.shape[1]
        blocks = groups * kernels.blocks(D, groups)
        moments = -(-L // kernels.STEPS) if any(ctx.needs_input_grad) else 0
        marks = np.empty((batch, blocks, moments, N, kernels.LANES), u.dtype)
        y, last = np.empty_like(u), np.empty_like(state)
        _run(kernels.forward, u, delta, A, B, C, state, y, last, marks)
        ctx.save_for_backward(*inputs[:5], torch.from_numpy(marks))
        return torch.from_numpy(y).transpose(1, 2), torch.from_numpy(last)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor, dlast: Tensor) -> tuple[Tensor, ...]:
        *inputs, marks = ctx.saved_tensors
        u, delta, A, B, C, last = _arrays(*[*inputs, dlast])
        (batch, _, D), N, blocks, groups = u.shape, A.shape[1], marks.shape[1], B.shape[1]
        du, ddelta = np.empty_like(u), np.empty_like(u)
        dA, dstate = np.empty((batch, D, N), u.dtype), np.empty((batch, D, N), u.dtype)
        dB, dC = (np.zeros((batch, blocks, x.shape[2], N), u.dtype) for x in (B, C))
        grown = (du, ddelta, dA, dB, dC, dstate)
        _run(kernels.backward, u, delta, A, B, C, _timed(dy), last, marks.numpy(), *grown)
        dB, dC = (x.reshape(batch, groups, blocks // groups, -1, N).sum(2).swapaxes(2, 3) for x in (dB, dC))
        found = (du.swapaxes(1, 2), ddelta.swapaxes(1, 2), dA.sum(0), dB, dC, dstate)
        return tuple(torch.from_numpy(x) for x in found)


def _arrays(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor) -> tuple[np.ndarray, ...]:
    return _timed(u), _timed(delta), _plain(A), _timed(B), _timed(C), _plain(state)


def _plain(x: Tensor) -> np.ndarray:
    return x.detach().contiguous().numpy()


def _timed(x: Tensor) -> np.ndarray:
    """Time before channels, as linear layers write it, so that most often nothing is copied."""
    return _plain(x.transpose(-1, -2))


def _run(kernel: Callable[..., None], *arrays: np.ndarray) -> None:
    """Call a kernel on as many threads as PyTorch uses."""
    with _ONE_AT_A_TIME:
        before = numba.get_num_threads()
        numba.set_num_threads(min(torch.get_num_threads(), _MOST))
        try:
            kernel(*arrays)
        finally:
            numba.set_num_threads(before)
