"""The selective scan in Triton, forward and backward, for a GPU without mamba_ssm. Notebook 16.

The sequence is cut into M chunks of STEPS moments that run side by side, and three kernels pass over it:

    forward     `walk` from a state of zero -> `carry` the states from chunk to chunk -> `walk` from the true states: y
    backward    `walk_back` from a gradient of zero -> `carry` from the last chunk to the first -> `gradients`

What is kept for the backward pass are the states before each chunk (B, M, N, D); those in between are made again in
registers. Nothing of size (B, D, L, N) is ever in memory, and no sum depends on the order in which programs run.

A program works on LANES channels of one chunk of one sequence. Tensors have time before channels, so that neighbouring
threads read neighbouring numbers. Algorithm: Gu and Dao 2023 (arXiv 2312.00752), section 3.3.2.
"""

from math import lcm
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from vlmlab.errors import BadInput

LANES, STEPS, WARPS = 64, 16, 2
LARGEST = 2**31  # numbers that a 32-bit index tells apart


def scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """Arguments and results as in `reference.scan`, on a GPU (on the CPU in Triton's interpreter); B and C
    (B, G, N, L) for G groups of channels, or (B, D, N, 1), the same at all times.

    Raises BadInput for tensors on a CPU, or too long for 32-bit indices.
    """
    D, L = u.shape[1:]
    if u.device.type == "cpu" and isinstance(walk, triton.JITFunction):
        raise BadInput("backend 'triton' takes tensors on a GPU, u is on the CPU; use backend='auto'")
    if L * max(D, A.shape[1]) >= LARGEST:
        raise BadInput(f"backend 'triton' takes less than 2**31 numbers a row, u has {D} x {L}; use 'chunked'")
    B, C = (x[..., 0] if x.shape[1] == D and x.shape[3] == 1 else x.expand(-1, -1, -1, L) for x in (B, C))
    return _Scan.apply(u, delta, A, B, C, state)


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        u, delta, A, B, C, state = _turned(*inputs)
        y, last = torch.empty_like(u), torch.empty_like(state)
        how = _Launch(u, A, B, C)
        starts, spans = _chunks(u, len(A))
        with torch.cuda.device_of(u):
            walk[how.grid](u, delta, A, B, C, starts, y, spans, OUT=False, **how.shape, **how.tile)
            carry[how.rows](A, starts, spans, state, last, BACK=False, **how.chunks)
            walk[how.grid](u, delta, A, B, C, starts, y, spans, OUT=True, **how.shape, **how.tile)
        ctx.save_for_backward(*inputs[:5], starts, spans)
        return y.transpose(1, 2), last.transpose(1, 2)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor, dlast: Tensor) -> tuple[Tensor, ...]:
        *inputs, starts, spans = ctx.saved_tensors
        u, delta, A, B, C, dy, dlast = _turned(*inputs, dy, dlast)
        how = _Launch(u, A, B, C)
        behind, dstate = torch.empty_like(starts), torch.empty_like(dlast)
        du, ddelta, dA = torch.empty_like(u), torch.empty_like(u), torch.empty_like(starts)
        dB, dC = (  # a part for each block of channels, or for each chunk
            u.new_empty(len(u), how.grid[1], *x.shape[2:]) if x.dim() == 4 else torch.empty_like(starts) for x in (B, C)
        )
        with torch.cuda.device_of(u):
            walk_back[how.grid](delta, A, C, dy, behind, **how.shape, **how.tile)
            carry[how.rows](A, behind, spans, dlast, dstate, BACK=True, **how.chunks)
            gradients[how.grid](
                u, delta, A, B, C, dy, starts, behind, du, ddelta, dA, dB, dC, **how.shape, **how.tile
            )  # fmt: skip
        timed = (_summed(part, x) for part, x in ((dB, B), (dC, C)))
        return du.transpose(1, 2), ddelta.transpose(1, 2), dA.sum((0, 1)).T, *timed, dstate.transpose(1, 2)


def _summed(part: Tensor, x: Tensor) -> Tensor:
    """The gradient of B or C: the sum over the blocks of each group (B, P, L, N), or over all chunks (B, M, N, D)."""
    if x.dim() == 3:
        return part.sum(1).transpose(1, 2)
    return part.unflatten(1, (x.shape[1], -1)).sum(2).transpose(2, 3)


def _turned(*inputs: Tensor) -> list[Tensor]:
    """The last two axes in the other order: u, delta (B, L, D), A (N, D), B and C (B, G, L, N) or (B, N, D), states
    (B, N, D)."""
    return [x.detach().transpose(-1, -2).contiguous() for x in inputs]


def _chunks(u: Tensor, N: int) -> tuple[Tensor, Tensor]:
    """Room for a state before each chunk (B, M, N, D), and for the sum of its delta (B, M, D)."""
    batch, D, M = len(u), u.shape[2], triton.cdiv(u.shape[1], STEPS)
    return u.new_empty(batch, M, N, D), u.new_empty(batch, M, D)


class _Launch:
    """Grids and constants of the kernels. A block of channels belongs to one group of B and to one of C."""

    def __init__(self, u: Tensor, A: Tensor, B: Tensor, C: Tensor):
        (batch, L, D), N, M = u.shape, len(A), triton.cdiv(u.shape[1], STEPS)
        GB, GC = (x.shape[1] if x.dim() == 4 else 1 for x in (B, C))
        parts = lcm(GB, GC)
        lanes = min(LANES, triton.next_power_of_2(D // parts))
        blocks = triton.cdiv(D // parts, lanes)
        self.grid, self.rows = (batch * M, parts * blocks), (batch, triton.cdiv(D, lanes))
        block = {"LANES": lanes, "STATES": triton.next_power_of_2(N), "num_warps": WARPS}
        self.chunks = {"D": D, "N": N, "M": M, **block}
        self.shape = {"L": L, "D": D, "N": N, "M": M, "GB": GB, "GC": GC, "width": D // parts, "blocks": blocks}
        self.tile = {"B_TIMED": B.dim() == 4, "C_TIMED": C.dim() == 4, "STEPS": STEPS, **block}


# ------------------------------------------------------------------ kernels
@triton.jit
def _place(M, width, blocks, LANES: tl.constexpr):
    """This program's sequence, chunk, first channel of its part, channels (LANES,) and which of these exist."""
    lane = tl.program_id(1) % blocks * LANES + tl.arange(0, LANES)
    part = tl.program_id(1) // blocks * width
    return (tl.program_id(0) // M).to(tl.int64), tl.program_id(0) % M, part, part + lane, lane < width


@triton.jit
def _rows(X, b, part, d, on, L, D, N, G, TIMED: tl.constexpr, STATES: tl.constexpr):
    """Where B or C lies at time 0, (STATES, 1) or (STATES, LANES), which of it exists, and how far a step leads."""
    n = tl.arange(0, STATES)[:, None]
    if TIMED:
        at, there, step = X + (b * G + part // (D // G)) * L * N + n, n < N, N
    else:
        at, there, step = X + (b * N + n) * D + d[None, :], (n < N) & on[None, :], 0
    return at, there, step


@triton.jit
def walk(u, delta, A, B, C, starts, y, spans, L, D, N, M, GB, GC, width, blocks, OUT: tl.constexpr,
         B_TIMED: tl.constexpr, C_TIMED: tl.constexpr, STEPS: tl.constexpr, LANES: tl.constexpr,
         STATES: tl.constexpr):  # fmt: skip
    """h = exp(delta A) h + delta B u through a chunk. OUT: from the state in `starts`, writing y = C h; else from
    zero, writing the last state there, and the sum of delta."""
    b, m, part, d, on = _place(M, width, blocks, LANES)
    n = tl.arange(0, STATES)[:, None]
    tile = (n < N) & on[None, :]
    a = tl.load(A + n * D + d[None, :], mask=tile, other=0.0)
    b_at, b_there, b_step = _rows(B, b, part, d, on, L, D, N, GB, B_TIMED, STATES)
    c_at, c_there, c_step = _rows(C, b, part, d, on, L, D, N, GC, C_TIMED, STATES)
    at = starts + ((b * M + m) * N + n) * D + d[None, :]
    row = b * L * D + d
    if OUT:
        h = tl.load(at, mask=tile, other=0.0)
    else:
        h = tl.zeros((STATES, LANES), a.dtype)
    span = tl.zeros((LANES,), a.dtype)
    for t in range(m * STEPS, tl.minimum(m * STEPS + STEPS, L)):
        x = tl.load(u + row + t * D, mask=on, other=0.0)
        step = tl.load(delta + row + t * D, mask=on, other=0.0)
        drive = tl.load(b_at + t * b_step, mask=b_there, other=0.0)
        h = tl.exp(step[None, :] * a) * h + (step * x)[None, :] * drive
        if OUT:
            look = tl.load(c_at + t * c_step, mask=c_there, other=0.0)
            tl.store(y + row + t * D, tl.sum(h * look, 0), mask=on)
        else:
            span += step
    if not OUT:
        tl.store(at, h, mask=tile)
        tl.store(spans + (b * M + m) * D + d, span, mask=on)


@triton.jit
def carry(A, ends, spans, state, last, D, N, M, BACK: tl.constexpr, LANES: tl.constexpr, STATES: tl.constexpr):
    """From what each chunk adds to a state (or, BACK, to a gradient) of zero to what each really begins with, in place
    in `ends` (B, M, N, D); begins with `state` (B, N, D), and what is left behind all chunks goes to `last`."""
    b = tl.program_id(0).to(tl.int64)
    n = tl.arange(0, STATES)[:, None]
    d = tl.program_id(1) * LANES + tl.arange(0, LANES)
    tile = (n < N) & (d < D)[None, :]
    a = tl.load(A + n * D + d[None, :], mask=tile, other=0.0)
    whole = (b * N + n) * D + d[None, :]
    h = tl.load(state + whole, mask=tile, other=0.0)
    for i in range(M):
        m = M - 1 - i if BACK else i
        at = ends + ((b * M + m) * N + n) * D + d[None, :]
        end = tl.load(at, mask=tile, other=0.0)
        span = tl.load(spans + (b * M + m) * D + d, mask=d < D, other=0.0)
        tl.store(at, h, mask=tile)
        h = tl.exp(span[None, :] * a) * h + end
    tl.store(last + whole, h, mask=tile)


@triton.jit
def walk_back(delta, A, C, dy, behind, L, D, N, M, GB, GC, width, blocks, B_TIMED: tl.constexpr,
              C_TIMED: tl.constexpr, STEPS: tl.constexpr, LANES: tl.constexpr, STATES: tl.constexpr):  # fmt: skip
    """What the chunk's y add to the gradient of the state before it."""
    b, m, part, d, on = _place(M, width, blocks, LANES)
    n = tl.arange(0, STATES)[:, None]
    tile = (n < N) & on[None, :]
    a = tl.load(A + n * D + d[None, :], mask=tile, other=0.0)
    c_at, c_there, c_step = _rows(C, b, part, d, on, L, D, N, GC, C_TIMED, STATES)
    row = b * L * D + d
    end = tl.minimum(m * STEPS + STEPS, L)
    g = tl.zeros((STATES, LANES), a.dtype)
    for i in range(end - m * STEPS):
        t = end - 1 - i
        step = tl.load(delta + row + t * D, mask=on, other=0.0)
        asked = tl.load(dy + row + t * D, mask=on, other=0.0)
        look = tl.load(c_at + t * c_step, mask=c_there, other=0.0)
        g = tl.exp(step[None, :] * a) * (g + asked[None, :] * look)
    tl.store(behind + ((b * M + m) * N + n) * D + d[None, :], g, mask=tile)


@triton.jit
def _join(decay, value, later_decay, later_value):
    """Two stretches of a recurrence h = decay h + value as one."""
    return decay * later_decay, later_decay * value + later_value


@triton.jit
def gradients(u, delta, A, B, C, dy, starts, behind, du, ddelta, dA, dB, dC, L, D, N, M, GB, GC, width, blocks,
              B_TIMED: tl.constexpr, C_TIMED: tl.constexpr, STEPS: tl.constexpr, LANES: tl.constexpr,
              STATES: tl.constexpr):  # fmt: skip
    """Every gradient of a chunk, one number of state after the other: its states before each moment and its gradients
    after each are made by a scan over the tile (STEPS, LANES)."""
    b, m, part, d, on = _place(M, width, blocks, LANES)
    i = tl.arange(0, STEPS)[:, None]
    t = m * STEPS + i
    now = (t < L) & on[None, :]
    past, later = now & (i > 0), (t + 1 < L) & (i < STEPS - 1) & on[None, :]
    row = b * L * D + t * D + d[None, :]
    x, step = tl.load(u + row, mask=now, other=0.0), tl.load(delta + row, mask=now, other=0.0)
    x_past, step_past = tl.load(u + row - D, mask=past, other=0.0), tl.load(delta + row - D, mask=past, other=0.0)
    step_next = tl.load(delta + row + D, mask=later, other=0.0)
    asked = tl.load(dy + row, mask=now, other=0.0)
    through_x, through_decay = tl.zeros((STEPS, LANES), x.dtype), tl.zeros((STEPS, LANES), x.dtype)
    b_group, c_group = b * GB + part // (D // GB), b * GC + part // (D // GC)
    for n in range(N):
        a = tl.load(A + n * D + d, mask=on, other=0.0)[None, :]
        if B_TIMED:
            at = B + (b_group * L + t) * N + n  # (STEPS, 1)
            drive, drive_past = tl.load(at, mask=t < L, other=0.0), tl.load(at - N, mask=(t < L) & (i > 0), other=0.0)
        else:
            drive = tl.load(B + (b * N + n) * D + d, mask=on, other=0.0)[None, :]
            drive_past = drive
        if C_TIMED:
            look = tl.load(C + (c_group * L + t) * N + n, mask=t < L, other=0.0)
        else:
            look = tl.load(C + (b * N + n) * D + d, mask=on, other=0.0)[None, :]
        chunk = ((b * M + m) * N + n) * D + d  # (LANES,)
        first = tl.load(starts + chunk, mask=on, other=0.0)[None, :]
        after = tl.load(behind + chunk, mask=on, other=0.0)[None, :]
        added = tl.where(i == 0, first, step_past * x_past * drive_past)
        _, before = tl.associative_scan((tl.exp(step_past * a), added), 0, _join)
        wanted = asked * look + tl.where(i == STEPS - 1, after, 0.0)
        _, g = tl.associative_scan((tl.exp(step_next * a), wanted), 0, _join, reverse=True)
        kept = tl.exp(step * a) * before
        h = kept + step * x * drive
        through_x += g * drive
        through_decay += g * kept * a
        tl.store(dA + chunk, tl.sum(g * kept * step, 0), mask=on)
        mine = (b * tl.num_programs(1) + tl.program_id(1)) * L
        if B_TIMED:
            tl.store(dB + (mine + t) * N + n, tl.sum(g * step * x, 1)[:, None], mask=t < L)
        else:
            tl.store(dB + chunk, tl.sum(g * step * x, 0), mask=on)
        if C_TIMED:
            tl.store(dC + (mine + t) * N + n, tl.sum(asked * h, 1)[:, None], mask=t < L)
        else:
            tl.store(dC + chunk, tl.sum(asked * h, 0), mask=on)
    tl.store(du + row, through_x * step, mask=now)
    tl.store(ddelta + row, through_x * x + through_decay, mask=now)
