"""Checks of notebook 07: zero-order hold, kernels, the selective scan, joined chunks, memory, hidden attention."""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vlmlab.checks.base import Case, Mistake, Verdict, run_check


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------- 1 · zero-order hold
def _zoh(A: float, B: float, delta: float) -> tuple[float, float]:
    decay = math.exp(delta * A)
    return decay, (decay - 1) / A * B


def zoh(answer: Any) -> Verdict:
    """Exercise 1: A and B of one state discretised by zero-order hold."""
    return run_check(
        "zoh",
        answer,
        _zoh,
        [
            Case((-1.0, 1.0, math.log(2)), "A = -1, B = 1, delta = log 2"),
            Case((-4.0, 3.0, 0.5), "A = -4, B = 3, delta = 0.5"),
            Case((-0.5, -2.0, 0.1), "A = -0.5, B = -2, delta = 0.1"),
        ],
        [
            Mistake(
                "Euler for both",
                "this is Euler's rule, 1 + delta A; zero-order hold solves the equation exactly, with an exponential",
                lambda A, B, delta: (1 + delta * A, delta * B),
            ),
            Mistake(
                "Euler for B",
                "A is right, B is Euler's delta B, as in Mamba's code; zero-order hold gives (exp(delta A) - 1) / A B",
                lambda A, B, delta: (math.exp(delta * A), delta * B),
            ),
            Mistake(
                "B unchanged",
                "B has to be discretised too: an input that is held for delta adds (exp(delta A) - 1) / A B",
                lambda A, B, delta: (math.exp(delta * A), B),
            ),
            Mistake(
                "not divided by A",
                "the integral of exp(A s) is exp(A s) / A: the division by A is missing",
                lambda A, B, delta: (math.exp(delta * A), (math.exp(delta * A) - 1) * B),
            ),
            Mistake(
                "no delta",
                "the step size is missing in the exponent: exp(delta A)",
                lambda A, B, delta: (math.exp(A), (math.exp(A) - 1) / A * B),
            ),
            Mistake(
                "growing",
                "the state grows; A is negative already, so its sign must not be turned",
                lambda A, B, delta: _zoh(-A, B, delta),
            ),
        ],
        done="right; a held input is followed exactly, however long the step",
    )


# ---------------------------------------------------------------- 2 · the convolution kernel
def _powers(A_bar: Tensor, exponents: Tensor) -> Tensor:
    return A_bar[:, None] ** exponents  # (N, L)


def _kernel(A_bar: Tensor, B_bar: Tensor, C: Tensor, L: int) -> Tensor:
    return (C * B_bar) @ _powers(A_bar, torch.arange(L))


def kernel(answer: Any) -> Verdict:
    """Exercise 2: the kernel (L,) of one channel with states (N,) that are the same at all times."""

    def case(N: int, L: int, seed: int) -> Case:
        A_bar = torch.rand(N, generator=torch.Generator().manual_seed(seed))
        return Case((A_bar, _random(N, seed=seed + 1), _random(N, seed=seed + 2), L), f"N = {N}, L = {L}")

    return run_check(
        "kernel",
        answer,
        _kernel,
        [case(1, 5, 0), case(4, 9, 5)],
        [
            Mistake(
                "starts at power 1",
                "the first entry is for the input of this very moment, which has not decayed: the power 0",
                lambda A, B, C, L: (C * B) @ _powers(A, 1 + torch.arange(L)),
            ),
            Mistake(
                "reversed",
                "the order is turned round: K[0] is the newest input's weight",
                lambda A, B, C, L: _kernel(A, B, C, L).flip(0),
            ),
            Mistake(
                "no C",
                "C is missing: the output reads the states with C",
                lambda A, B, C, L: B @ _powers(A, torch.arange(L)),
            ),
            Mistake(
                "no B",
                "B is missing: it writes the input into the states",
                lambda A, B, C, L: C @ _powers(A, torch.arange(L)),
            ),
            Mistake(
                "multiples for powers",
                "l steps multiply the state by A_bar l times: a power, not l times A_bar",
                lambda A, B, C, L: (C * B) @ (A[:, None] * torch.arange(L)),
            ),
            Mistake(
                "states apart",
                "one kernel a channel: sum over the states n",
                lambda A, B, C, L: (C * B)[:, None] * _powers(A, torch.arange(L)),
            ),
        ],
        done="right; a fixed recurrence and this convolution are one thing",
    )


# ---------------------------------------------------------------- 3 · the selective scan
def _scan(
    u: Tensor,
    raw: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    *,
    step: Callable[[Tensor], Tensor] = F.softplus,
    decay: Callable[[Tensor, Tensor], Tensor] = lambda delta, A: torch.exp(delta[:, None] * A),
    drive: Callable[[Tensor, Tensor], Tensor] = lambda delta, u: delta * u,
    read_before: bool = False,
    reverse: bool = False,
) -> Tensor:
    """The right scan, or one with a part exchanged."""
    delta, h = step(raw), torch.zeros_like(A)
    y = torch.zeros_like(u)
    times = range(u.shape[1])
    for t in reversed(times) if reverse else times:
        past = h
        h = decay(delta[:, t], A) * h + drive(delta[:, t], u[:, t])[:, None] * B[:, t]
        y[:, t] = (past if read_before else h) @ C[:, t] + D * u[:, t]
    return y


def selective(answer: Any) -> Verdict:
    """Exercise 3: the scan of one sequence, softplus and the path D included; u, raw (D, L), A (D, N), B, C (N, L)."""

    def right(u: Tensor, raw: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
        return _scan(u, raw, A, B, C, D)

    def case(width: int, N: int, L: int, seed: int) -> Case:
        shapes = ((width, L), (width, L), (width, N), (N, L), (N, L), (width,))
        u, raw, A, B, C, D = (_random(*shape, seed=seed + i) for i, shape in enumerate(shapes))
        return Case((u, raw, -A.exp(), B, C, D), f"{width} channels, N = {N}, L = {L}")

    return run_check(
        "selective",
        answer,
        right,
        [case(2, 3, 5, 0), case(3, 2, 7, 10)],
        [
            Mistake("no softplus", "delta is raw: it has to pass through softplus, which makes it positive",
                    lambda *a: _scan(*a, step=lambda raw: raw)),
            Mistake("exp for softplus", "the step size is exp(raw); Mamba takes softplus(raw) = log(1 + exp(raw))",
                    lambda *a: _scan(*a, step=torch.exp)),
            Mistake("no exponential", "the decay is exp(delta A), not delta A",
                    lambda *a: _scan(*a, decay=lambda delta, A: delta[:, None] * A)),
            Mistake("Euler for A", "the decay is 1 + delta A, Euler's rule; Mamba's is exp(delta A)",
                    lambda *a: _scan(*a, decay=lambda delta, A: 1 + delta[:, None] * A)),
            Mistake("decay without delta", "the decay is exp(A) at every step; delta belongs into the exponent",
                    lambda *a: _scan(*a, decay=lambda delta, A: torch.exp(A))),
            Mistake("B without delta", "the input is B u; discretised it is delta B u",
                    lambda *a: _scan(*a, drive=lambda delta, u: u)),
            Mistake("no D", "the direct path is missing: add D u to the output",
                    lambda u, raw, A, B, C, D: _scan(u, raw, A, B, C, 0 * D)),
            Mistake("reversed", "it walks from the last token to the first; the past comes before",
                    lambda *a: _scan(*a, reverse=True)),
            Mistake("old state read", "y_t reads the state before the token was written; update h first",
                    lambda *a: _scan(*a, read_before=True)),
            Mistake("B and C exchanged", "B writes the input into the state and C reads it; yours are exchanged",
                    lambda u, raw, A, B, C, D: _scan(u, raw, A, C, B, D)),
        ],
        done="right; this is the whole of Mamba's recurrence",
    )  # fmt: skip


# ---------------------------------------------------------------- 4 · joining two chunks
Chunk = tuple[Tensor, Tensor]


def _join(first: Chunk, second: Chunk) -> Chunk:
    return first[0] * second[0], second[0] * first[1] + second[1]


def join(answer: Any) -> Verdict:
    """Exercise 4: two neighbouring stretches of time (a, b), each h -> a h + b, as one."""

    def chunk(seed: int) -> Chunk:
        return torch.rand(2, 3, generator=torch.Generator().manual_seed(seed)), _random(2, 3, seed=seed + 1)

    return run_check(
        "join",
        answer,
        _join,
        [Case((chunk(0), chunk(2)), "two random chunks"), Case((chunk(4), chunk(6)), "two other chunks")],
        [
            Mistake(
                "order swapped",
                "the order is swapped: the first chunk's b comes earlier, so the second chunk's decay acts on it",
                lambda first, second: _join(second, first),
            ),
            Mistake(
                "second decay forgotten",
                "what the first chunk wrote decays while the second one runs: multiply it by the second decay",
                lambda first, second: (first[0] * second[0], first[1] + second[1]),
            ),
            Mistake(
                "decays added",
                "decays are factors: one after the other they multiply",
                lambda first, second: (first[0] + second[0], second[0] * first[1] + second[1]),
            ),
            Mistake(
                "last decay only",
                "the joined chunk's decay is the product of both, not the second one's",
                lambda first, second: (second[0], second[0] * first[1] + second[1]),
            ),
            Mistake(
                "second input forgotten",
                "what the second chunk wrote itself, its own b, is missing",
                lambda first, second: (first[0] * second[0], second[0] * first[1]),
            ),
            Mistake(
                "result of one number",
                "give both back, (a, b): the joined chunk may be joined again",
                lambda first, second: _join(first, second)[1],
            ),
        ],
        done="right; and since this operation is associative, chunks may be joined in any grouping",
    )


# ---------------------------------------------------------------- 5 · bytes
def _memory(L: int, width: int, N: int, each: int) -> tuple[int, int, int]:
    return L * width * N * each, width * N * each, 2 * L * width * each


def memory(answer: Any) -> Verdict:
    """Exercise 5: bytes of all states, of the last state, and of the keys and values of attention of the same width."""
    return run_check(
        "memory",
        answer,
        _memory,
        [
            Case((2048, 5120, 16, 4), "L = 2048, D = 5120, N = 16, float32"),
            Case((100, 384, 8, 2), "L = 100, D = 384, N = 8, bfloat16"),
        ],
        [
            Mistake("keys only", "attention caches keys and values: twice as many numbers",
                    lambda L, D, N, e: (L * D * N * e, D * N * e, L * D * e)),
            Mistake("bytes a number", "those are numbers; each takes several bytes",
                    lambda L, D, N, e: (L * D * N, D * N, 2 * L * D)),
            Mistake("state grows", "the last state alone is kept for the next token; it has no length",
                    lambda L, D, N, e: (L * D * N * e, L * D * N * e, 2 * L * D * e)),
            Mistake("one state a channel", "each channel has N numbers of state",
                    lambda L, D, N, e: (L * D * e, D * e, 2 * L * D * e)),
            Mistake("scores counted", "those are the scores of all pairs; a cache keeps keys and values, 2 L D numbers",
                    lambda L, D, N, e: (L * D * N * e, D * N * e, L * L * e)),
        ],
        done="right; at that size all states of one layer take 640 MiB, the last one 320 KiB",
        tolerance=0.0,
    )  # fmt: skip


# ---------------------------------------------------------------- 6 · hidden attention
def _alpha(
    delta: Tensor, A: Tensor, B: Tensor, C: Tensor, *, gain: bool = True, causal: bool = True, late: bool = False
) -> Tensor:
    since = delta.cumsum(0)
    if late:  # decays already in the step that writes
        since, start = since, since - delta
    else:
        start = since
    gap = since[:, None] - start[None, :]  # (L, L)
    if causal:
        gap = gap.masked_fill(gap < 0, 0.0)
    weights = torch.einsum("in,jn,ijn->ij", C.T, B.T, torch.exp(gap[..., None] * A))
    weights = weights * delta if gain else weights
    return weights.tril() if causal else weights


def alpha(answer: Any) -> Verdict:
    """Exercise 6: hidden attention (L, L) of one channel; delta (L,), A (N,), B, C (N, L)."""

    def right(delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
        return _alpha(delta, A, B, C)

    def case(N: int, L: int, seed: int) -> Case:
        delta, A = F.softplus(_random(L, seed=seed)), -_random(N, seed=seed + 1).exp()
        return Case((delta, A, _random(N, L, seed=seed + 2), _random(N, L, seed=seed + 3)), f"N = {N}, L = {L}")

    return run_check(
        "alpha",
        answer,
        right,
        [case(2, 4, 0), case(3, 6, 7)],
        [
            Mistake("not causal", "entries with j > i must be 0: a token cannot see what comes after it",
                    lambda *a: _alpha(*a, causal=False)),
            Mistake("no delta_j", "the input was written with delta_j B_j; the factor delta_j is missing",
                    lambda *a: _alpha(*a, gain=False)),
            Mistake("decays while written", "token j's own step does not decay it: from S_j to S_i, 0 on the diagonal",
                    lambda *a: _alpha(*a, late=True)),
            Mistake("transposed", "rows and columns are exchanged: i, the reader, is the row", lambda *a: _alpha(*a).T),
            Mistake("B and C exchanged", "C belongs to the reader i and B to the writer j",
                    lambda delta, A, B, C: _alpha(delta, A, C, B)),
            Mistake("no decay", "the decay exp(A (S_i - S_j)) is missing",
                    lambda delta, A, B, C: _alpha(delta, 0 * A, B, C)),
        ],
        done="right; a selective scan is a causal attention without softmax",
    )  # fmt: skip
