"""The selective scan's loops for a CPU, compiled by numba: forward and backward. Notebook 07.

A job is a block of LANES channels of one sequence. It walks the sequence once, its states in the first-level cache, and
every innermost loop runs over the block's channels, which fill the vector registers. Nothing of size (B, D, L, N) is
ever made: the backward pass keeps the states of every STEPS-th moment and recomputes those in between.

What bounds the speed is the exponential, one for each of B D L N decays (two in training, where the backward pass takes
them again); the standard one is a call for each number, so `exp` below is written to vectorise.
"""

import math
from typing import Any

import numpy as np
from numba import njit, prange, types
from numba.extending import overload

LANES, STEPS = 64, 16
FAST = {"contract", "reassoc", "nsz", "arcp"}  # fused and reordered sums; NaN and infinity stay what they are
COMPILE: Any = {"fastmath": FAST, "error_model": "numpy", "cache": True, "nogil": True}


def exp(x):
    """e ** x: 2 ** k times a polynomial of the rest (Cephes' expf), within 1.2e-7 for float32; exact for float64."""
    raise NotImplementedError


def _exp32(x):
    # comparisons written so that NaN passes through
    x = np.float32(-87.33) if x < np.float32(-87.33) else x
    x = np.float32(88.72) if x > np.float32(88.72) else x
    k = np.floor(x * np.float32(1.4426950408889634) + np.float32(0.5))
    r = x - k * np.float32(0.693359375) + k * np.float32(2.12194440e-4)
    p = np.float32(1.9875691500e-4)
    p = p * r + np.float32(1.3981999507e-3)
    p = p * r + np.float32(8.3334519073e-3)
    p = p * r + np.float32(4.1665795894e-2)
    p = p * r + np.float32(1.6666665459e-1)
    p = p * r + np.float32(5.0000001201e-1)
    p = p * r * r + r + np.float32(1)
    return p * np.int32((np.int32(k) + np.int32(127)) << np.int32(23)).view(np.float32)


@overload(exp, inline="always", jit_options={"fastmath": FAST, "error_model": "numpy"})
def _exp(x):
    return _exp32 if x == types.float32 else lambda x: math.exp(x)


@njit(**COMPILE)
def blocks(channels, groups):
    """Blocks that each group's channels take."""
    return (channels // groups + LANES - 1) // LANES


@njit(**COMPILE)
def _place(job, channels, groups):
    """Which sequence a job is of, which block, which group, its first channel, and how many of its lanes are used."""
    each = blocks(channels, groups)
    b, block = job // (groups * each), job % (groups * each)
    group = block // each
    first = group * (channels // groups) + (block % each) * LANES
    return b, block, group, first, min(LANES, (group + 1) * (channels // groups) - first)


@njit(parallel=True, **COMPILE)
def forward(G, u, delta, A, B, C, state, y, last, marks):
    """y and the last state of a scan; `marks` takes the state before every STEPS-th moment (none if it is empty).

    u, delta, y (B, L, D); A (D, N); B, C (B, G, L, N), G groups of D / G channels each, or (B, D, N), the same at all
    times; state, last (B, D, N); marks (B, blocks, M, N, LANES), where each group has its own blocks. (A question about
    ndim is settled when the function is compiled: numba leaves the other branch out.)
    """
    batch, L, D = u.shape
    N = A.shape[1]
    for job in prange(batch * G * blocks(D, G)):
        b, block, group, first, width = _place(job, D, G)
        h, a = np.zeros((N, LANES), u.dtype), np.zeros((N, LANES), u.dtype)
        b0, c0 = np.zeros((N, LANES), u.dtype), np.zeros((N, LANES), u.dtype)  # what stays the same
        d, x, out = np.zeros(LANES, u.dtype), np.zeros(LANES, u.dtype), np.zeros(LANES, u.dtype)
        for n in range(N):
            for j in range(width):
                h[n, j], a[n, j] = state[b, first + j, n], A[first + j, n]
                if B.ndim == 3:
                    b0[n, j] = B[b, first + j, n]
                if C.ndim == 3:
                    c0[n, j] = C[b, first + j, n]
        for t in range(L):
            if marks.size and t % STEPS == 0:
                marks[b, block, t // STEPS] = h
            for j in range(width):
                d[j] = delta[b, t, first + j]
                x[j] = d[j] * u[b, t, first + j]
            out[:] = 0
            for n in range(N):
                if B.ndim == 4:
                    bt = B[b, group, t, n]
                    for j in range(LANES):
                        h[n, j] = exp(d[j] * a[n, j]) * h[n, j] + x[j] * bt
                else:
                    for j in range(LANES):
                        h[n, j] = exp(d[j] * a[n, j]) * h[n, j] + x[j] * b0[n, j]
                if C.ndim == 4:
                    ct = C[b, group, t, n]
                    for j in range(LANES):
                        out[j] += ct * h[n, j]
                else:
                    for j in range(LANES):
                        out[j] += c0[n, j] * h[n, j]
            for j in range(width):
                y[b, t, first + j] = out[j]
        for n in range(N):
            for j in range(width):
                last[b, first + j, n] = h[n, j]


@njit(parallel=True, **COMPILE)
def backward(G, u, delta, A, B, C, dy, dlast, marks, du, ddelta, dA, dB, dC, dstate):
    """Gradients from dy (B, L, D) and dlast (B, D, N).

    With g_t = C_t dy_t + exp(delta_{t+1} A) g_{t+1} the gradient with respect to h_t: B_t's is g_t delta_t u_t, C_t's
    is dy_t h_t, and the exponent's, which delta_t and A share, is g_t h_{t-1} exp(delta_t A).

    dA, dstate (B, D, N); dB, dC as B and C, but (B, blocks, L, N) where they are (B, G, L, N): an entry for each block,
    to be summed.
    """
    batch, L, D = u.shape
    N = A.shape[1]
    for job in prange(batch * G * blocks(D, G)):
        b, block, group, first, width = _place(job, D, G)
        g, a, da = np.zeros((N, LANES), u.dtype), np.zeros((N, LANES), u.dtype), np.zeros((N, LANES), u.dtype)
        b0, db0 = np.zeros((N, LANES), u.dtype), np.zeros((N, LANES), u.dtype)
        c0, dc0 = np.zeros((N, LANES), u.dtype), np.zeros((N, LANES), u.dtype)
        h, decay = np.zeros((STEPS + 1, N, LANES), u.dtype), np.zeros((STEPS, N, LANES), u.dtype)
        d, x, q = (
            np.zeros((STEPS, LANES), u.dtype),
            np.zeros((STEPS, LANES), u.dtype),
            np.zeros((STEPS, LANES), u.dtype),
        )
        through_exp, through_x, e = np.zeros(LANES, u.dtype), np.zeros(LANES, u.dtype), np.zeros(LANES, u.dtype)
        for n in range(N):
            for j in range(width):
                g[n, j], a[n, j] = dlast[b, first + j, n], A[first + j, n]
                if B.ndim == 3:
                    b0[n, j] = B[b, first + j, n]
                if C.ndim == 3:
                    c0[n, j] = C[b, first + j, n]
        for mark in range((L - 1) // STEPS, -1, -1):
            start = mark * STEPS
            steps = min(STEPS, L - start)
            h[0] = marks[b, block, mark]
            for i in range(steps):  # the states of this stretch again
                for j in range(width):
                    d[i, j] = delta[b, start + i, first + j]
                    x[i, j] = d[i, j] * u[b, start + i, first + j]
                    q[i, j] = dy[b, start + i, first + j]
                for n in range(N):
                    for j in range(LANES):
                        decay[i, n, j] = exp(d[i, j] * a[n, j])
                    if B.ndim == 4:
                        bt = B[b, group, start + i, n]
                        for j in range(LANES):
                            h[i + 1, n, j] = decay[i, n, j] * h[i, n, j] + x[i, j] * bt
                    else:
                        for j in range(LANES):
                            h[i + 1, n, j] = decay[i, n, j] * h[i, n, j] + x[i, j] * b0[n, j]
            for i in range(steps - 1, -1, -1):
                t = start + i
                through_exp[:] = 0
                through_x[:] = 0
                for n in range(N):  # short loops with few arrays each: LLVM vectorises what it can prove apart
                    if C.ndim == 4:
                        ct, dc = C[b, group, t, n], through_exp[0] * 0
                        for j in range(LANES):
                            g[n, j] += ct * q[i, j]
                        for j in range(LANES):
                            dc += q[i, j] * h[i + 1, n, j]
                        dC[b, block, t, n] = dc
                    else:
                        for j in range(LANES):
                            g[n, j] += c0[n, j] * q[i, j]
                        for j in range(LANES):
                            dc0[n, j] += q[i, j] * h[i + 1, n, j]
                    if B.ndim == 4:
                        bt, db = B[b, group, t, n], through_exp[0] * 0
                        for j in range(LANES):
                            through_x[j] += g[n, j] * bt
                        for j in range(LANES):
                            db += g[n, j] * x[i, j]
                        dB[b, block, t, n] = db
                    else:
                        for j in range(LANES):
                            through_x[j] += g[n, j] * b0[n, j]
                        for j in range(LANES):
                            db0[n, j] += g[n, j] * x[i, j]
                    for j in range(LANES):
                        g[n, j] *= decay[i, n, j]
                    for j in range(LANES):
                        e[j] = g[n, j] * h[i, n, j]
                    for j in range(LANES):
                        da[n, j] += e[j] * d[i, j]
                    for j in range(LANES):
                        through_exp[j] += e[j] * a[n, j]
                for j in range(width):
                    du[b, t, first + j] = through_x[j] * d[i, j]
                    ddelta[b, t, first + j] = through_exp[j] + through_x[j] * u[b, t, first + j]
        for n in range(N):
            for j in range(width):
                dA[b, first + j, n], dstate[b, first + j, n] = da[n, j], g[n, j]
                if B.ndim == 3:
                    dB[b, first + j, n] = db0[n, j]
                if C.ndim == 3:
                    dC[b, first + j, n] = dc0[n, j]


@njit(parallel=True, **COMPILE)
def every_exp(x, out):
    """`exp` of every number of x (n,), into out: what the benchmark reckons the scan's limit with."""
    for i in prange(x.shape[0]):
        out[i] = exp(x[i])
