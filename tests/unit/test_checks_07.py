"""Each check of notebook 07 names the mistake of wrong answers."""

import math

import pytest
import torch
import torch.nn.functional as F

from vlmlab.checks import nb07
from vlmlab.scan import selective_scan


# ------------------------------------------------------------------ right answers, which the wrong ones change
def zoh(A, B, delta):
    A_bar = math.exp(delta * A)
    return A_bar, (A_bar - 1) / A * B


def kernel(A_bar, B_bar, C, L):
    powers = A_bar[:, None] ** torch.arange(L)
    return (C[:, None] * powers * B_bar[:, None]).sum(0)


def selective(u, raw, A, B, C, D):
    delta, h, y = F.softplus(raw), torch.zeros_like(A), []
    for t in range(u.shape[1]):
        decay = torch.exp(delta[:, t, None] * A)
        h = decay * h + (delta[:, t] * u[:, t])[:, None] * B[:, t]
        y.append(h @ C[:, t] + D * u[:, t])
    return torch.stack(y, 1)


def join(first, second):
    (a1, b1), (a2, b2) = first, second
    return a1 * a2, a2 * b1 + b2


def alpha(delta, A, B, C):
    S = delta.cumsum(0)
    gap = (S[:, None] - S[None, :]).clamp(min=0)
    decay = torch.exp(gap[..., None] * A)
    return (torch.einsum("ni,nj,ijn->ij", C, B, decay) * delta).tril()


def test_the_scan_asked_for_is_the_packages():
    u, raw, B, C = torch.randn(4, 5, 8, generator=torch.Generator().manual_seed(0)).double()
    A, D = -torch.rand(5, 5, dtype=torch.float64), torch.ones(5, dtype=torch.float64)
    ours = selective_scan(u[None], raw[None], A, B[None], C[None], D, delta_softplus=True, backend="reference")[0]
    assert torch.allclose(selective(u, raw, A, B, C, D), ours, rtol=1e-12)


# ------------------------------------------------------------------ wrong answers, and the mistake each looks like
def scan_with(step=F.softplus, decay=lambda d, A: torch.exp(d * A), gain=lambda d: d, reverse=False, skip=1.0):
    def answer(u, raw, A, B, C, D):
        delta, h, y = step(raw), torch.zeros_like(A), torch.zeros_like(u)
        for t in range(u.shape[1])[:: -1 if reverse else 1]:
            d = delta[:, t, None]
            h = decay(d, A) * h + gain(d) * u[:, t, None] * B[:, t]
            y[:, t] = h @ C[:, t] + skip * D * u[:, t]
        return y

    return answer


def before(u, raw, A, B, C, D):
    """y reads the state before it is updated."""
    shifted = selective(u, raw, A, B, torch.cat([C[:, 1:], C[:, :1]], 1), 0 * D)  # h_t read with C_{t+1}
    return torch.cat([torch.zeros_like(u[:, :1]), shifted[:, :-1]], 1) + D[:, None] * u


def not_causal(delta, A, B, C):
    S = delta.cumsum(0)
    return torch.einsum("ni,nj,ijn->ij", C, B, torch.exp((S[:, None] - S)[..., None] * A)) * delta


def decaying_at_once(delta, A, B, C):
    S = delta.cumsum(0)
    gap = (S[:, None] - S + delta).clamp(min=0)
    return (torch.einsum("ni,nj,ijn->ij", C, B, torch.exp(gap[..., None] * A)) * delta).tril()


WRONG = [
    (nb07.zoh, lambda A, B, d: (1 + d * A, d * B), "Euler for both"),
    (nb07.zoh, lambda A, B, d: (math.exp(d * A), d * B), "Euler for B"),
    (nb07.zoh, lambda A, B, d: (math.exp(d * A), B), "B unchanged"),
    (nb07.zoh, lambda A, B, d: (math.exp(d * A), B * (math.exp(d * A) - 1)), "not divided by A"),
    (nb07.zoh, lambda A, B, d: (math.exp(A), (math.exp(A) - 1) / A * B), "no delta"),
    (nb07.zoh, lambda A, B, d: zoh(-A, B, d), "growing"),
    (nb07.zoh, lambda A, B, d: math.exp(d * A), None),
    (nb07.kernel, lambda A, B, C, L: kernel(A, A * B, C, L), "starts at power 1"),
    (nb07.kernel, lambda A, B, C, L: kernel(A, B, C, L).flip(0), "reversed"),
    (nb07.kernel, lambda A, B, C, L: kernel(A, B, torch.ones_like(C), L), "no C"),
    (nb07.kernel, lambda A, B, C, L: kernel(A, torch.ones_like(B), C, L), "no B"),
    (nb07.kernel, lambda A, B, C, L: ((C * B)[:, None] * A[:, None] * torch.arange(L)).sum(0), "multiples for powers"),
    (nb07.kernel, lambda A, B, C, L: (C * B)[:, None] * A[:, None] ** torch.arange(L), "states apart"),
    (nb07.selective, scan_with(step=lambda raw: raw), "no softplus"),
    (nb07.selective, scan_with(step=torch.exp), "exp for softplus"),
    (nb07.selective, scan_with(decay=lambda d, A: d * A), "no exponential"),
    (nb07.selective, scan_with(decay=lambda d, A: 1 + d * A), "Euler for A"),
    (nb07.selective, scan_with(decay=lambda d, A: A.exp()), "decay without delta"),
    (nb07.selective, scan_with(gain=lambda d: 1), "B without delta"),
    (nb07.selective, scan_with(reverse=True), "reversed"),
    (nb07.selective, scan_with(skip=0.0), "no D"),
    (nb07.selective, before, "old state read"),
    (nb07.selective, lambda u, raw, A, B, C, D: selective(u, raw, A, C, B, D), "B and C exchanged"),
    (nb07.join, lambda first, second: join(second, first), "order swapped"),
    (nb07.join, lambda first, second: (first[0] * second[0], first[1] + second[1]), "second decay forgotten"),
    (nb07.join, lambda f, s: (f[0] + s[0], s[0] * f[1] + s[1]), "decays added"),
    (nb07.join, lambda f, s: (s[0], s[0] * f[1] + s[1]), "last decay only"),
    (nb07.join, lambda f, s: (f[0] * s[0], s[0] * f[1]), "second input forgotten"),
    (nb07.join, lambda f, s: join(f, s)[1], "result of one number"),
    (nb07.memory, lambda L, D, N, e: (L * D * N * e, D * N * e, L * D * e), "keys only"),
    (nb07.memory, lambda L, D, N, e: (L * D * N, D * N, 2 * L * D), "bytes a number"),
    (nb07.memory, lambda L, D, N, e: (L * D * N * e, L * D * N * e, 2 * L * D * e), "state grows"),
    (nb07.memory, lambda L, D, N, e: (L * D * e, D * e, 2 * L * D * e), "one state a channel"),
    (nb07.memory, lambda L, D, N, e: (L * D * N * e, D * N * e, L * L * e), "scores counted"),
    (nb07.alpha, not_causal, "not causal"),
    (nb07.alpha, lambda delta, A, B, C: alpha(delta, A, B, C) / delta, "no delta_j"),
    (nb07.alpha, decaying_at_once, "decays while written"),
    (nb07.alpha, lambda *a: alpha(*a).T, "transposed"),
    (nb07.alpha, lambda delta, A, B, C: alpha(delta, A, C, B), "B and C exchanged"),
    (nb07.alpha, lambda delta, A, B, C: alpha(delta, 0 * A, B, C), "no decay"),
]


@pytest.mark.parametrize(("check", "answer", "mistake"), WRONG)
def test_wrong_answers(check, answer, mistake, judged):
    verdict = judged(check, answer)
    assert not verdict.ok
    assert verdict.mistake == mistake
    assert verdict.message.startswith(check.__name__)
