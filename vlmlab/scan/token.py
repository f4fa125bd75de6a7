"""Decoding one token, compiled: a matrix times one row, a Mamba mixer's convolution, its step and gate. Notebook 09.

Decoding is a matter of reading the weights once, so that whatever else a token costs shows: some twenty PyTorch
operations of a mixer become two, and PyTorch's product (MKL), which reads a matrix at 10 GB/s for a single row on an
AMD EPYC, becomes a loop that reads it at 36.
"""

import math

import numpy as np
import torch
from numba import njit
from torch import Tensor

from vlmlab.scan.kernels import COMPILE, exp


def convolve(u: Tensor, past: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """silu of the causal convolution at a new input u (B, D), and the window that now ends with it (B, taps, D).

    past: the window before (B, taps, D); weight (D, taps); bias (D,). On the CPU, in one dtype, without gradients.
    """
    out, window = np.empty(u.shape, _numpy(u).dtype), np.empty_like(_numpy(past))
    _convolve(_numpy(u), _numpy(past), _numpy(weight), _numpy(bias), window, out)
    return torch.from_numpy(out), torch.from_numpy(window)


def step(
    u: Tensor, delta: Tensor, bias: Tensor, A_log: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """silu(z) * (C h + D u) and h = exp(d A) state + d B u, with d = softplus(delta + bias) and A = -exp(A_log).

    u, delta, z (B, D), B, C (B, N), A_log (D, N), state (B, D, N). On the CPU, in one dtype, without gradients.
    """
    given = [_numpy(x) for x in (u, delta, bias, A_log, B, C, D, z, state)]
    out, new = np.empty_like(given[0]), np.empty_like(given[-1])
    _step(*given, new, out)
    return torch.from_numpy(out), torch.from_numpy(new)


def product(weight: Tensor, x: Tensor) -> Tensor:
    """weight (E, D) times x (D,): (E,). On the CPU, in one dtype, without gradients."""
    out = np.empty(len(weight), np.float32 if weight.dtype == torch.float32 else np.float64)
    _product(_numpy(weight), _numpy(x), out)
    return torch.from_numpy(out)


def _numpy(x: Tensor) -> np.ndarray:
    return x.detach().numpy()


@njit(**COMPILE)
def _product(weight, x, out):
    for row in range(weight.shape[0]):
        total = x[0] * 0
        for column in range(weight.shape[1]):
            total += weight[row, column] * x[column]
        out[row] = total


@njit(**COMPILE)
def _convolve(u, past, weight, bias, window, out):
    rows, taps, channels = past.shape
    for b in range(rows):
        window[b, : taps - 1] = past[b, 1:]
        window[b, taps - 1] = u[b]
        out[b] = bias
        for tap in range(taps):
            for d in range(channels):
                out[b, d] += window[b, tap, d] * weight[d, tap]
        for d in range(channels):
            out[b, d] = out[b, d] / (1 + exp(-out[b, d]))


@njit(**COMPILE)
def _rates(A_log, rates):
    for n in range(len(rates)):
        rates[n] = exp(A_log[n])


@njit(**COMPILE)
def _step(u, delta, bias, A_log, B, C, D, z, state, new, out):
    rows, channels, size = state.shape
    rates = np.empty(size, u.dtype)
    for d in range(channels):
        _rates(A_log[d], rates)
        for b in range(rows):
            x = delta[b, d] + bias[d]
            wide = x if x > 20 else math.log1p(math.exp(x))  # as PyTorch's softplus
            drive, y = wide * u[b, d], wide * 0
            for n in range(size):
                h = exp(-wide * rates[n]) * state[b, d, n] + drive * B[b, n]
                new[b, d, n] = h
                y += C[b, n] * h
            out[b, d] = (y + D[d] * u[b, d]) * z[b, d] / (1 + math.exp(-z[b, d]))
