"""Each check of notebook 08 names the mistake of wrong answers."""

import pytest
import torch
import torch.nn.functional as F
from exercises import solutions
from torch import nn

from vlmlab.checks import nb08
from vlmlab.vision.contrastive import clip_loss, siglip_loss
from vlmlab.vision.fused import NORMALISATION

SOLUTIONS = solutions("08_cobra_architecture.py", {"torch": torch, "F": F, "nn": nn, "NORMALISATION": NORMALISATION})


# ------------------------------------------------------------------ wrong answers, and the mistake each looks like
def normal(pixels, name):
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in NORMALISATION[name])
    return (pixels - mean) / std


def fused(first="dinov2", second="siglip", layer=-2, order=1, axis=-1, prefix=False):
    def answer(pixels, dinov2, siglip):
        with torch.no_grad():
            one, other = (
                vit.hidden_states(normal(pixels, name) if name else pixels)[layer]
                for vit, name in ((dinov2, first), (siglip, second))
            )
        one = one[:, : other.shape[1]] if prefix else one[:, dinov2.prefix_tokens :]
        return torch.cat([one, other][::order], axis)

    return answer


def counts(**changes):
    """The right counts with some of them replaced: a function of (dim, state, conv, rank), or None to leave it out."""

    def answer(*sizes):
        right = SOLUTIONS["block_parameters"](*sizes)
        replaced = {part: change(*sizes) for part, change in changes.items() if change}
        return {part: count for part, count in (right | replaced).items() if changes.get(part, part) is not None}

    return answer


def narrow(dim, state, conv, rank):
    return {
        "norm": dim, "in_proj": 2 * dim * dim, "conv1d": dim * (conv + 1), "x_proj": dim * (rank + 2 * state),
        "dt_proj": dim * (rank + 1), "A_log": dim * state, "D": dim, "out_proj": dim * dim,
    }  # fmt: skip


def by_hand(look, flip=False, biased=True, silu=False):
    """A convolution in which token t's tap k reads token look(t, k, K, L)."""

    def answer(u, weight, bias):
        (L, _), K = u.shape, weight.shape[1]
        w = weight.flip(1) if flip else weight
        out = torch.stack(
            [
                sum((w[:, k] * u[look(t, k, K, L)] for k in range(K) if 0 <= look(t, k, K, L) < L), bias * biased)
                for t in range(L)
            ]
        )
        return F.silu(out) if silu else out

    return answer


def causally(t, k, K, L):
    return t - K + 1 + k


def mixing(u, weight, bias):
    K = weight.shape[1]
    x = F.pad(u, (0, 0, K - 1, 0))
    return torch.stack([(x[t : t + K] * weight.T).sum() + bias for t in range(len(u))])


def even(blocks, inner, state, conv, layers, heads, width, two=2, more=1):
    return blocks * inner * (state + conv) // (two * layers * heads * width) + more


def whole(loss):
    return lambda x, y, t, b, size: loss(t * x @ y.T + b)


def own_pairs(rows, start, width):
    return 2.0 * (torch.arange(rows)[:, None] == start + torch.arange(width)) - 1


def chunked(z=own_pairs, share=1.0, biased=True):
    def answer(x, y, t, b, size):
        total = 0.0
        for start in range(0, len(y), size):
            part = t * x @ y[start : start + size].T + b * biased
            total = total - F.logsigmoid(z(len(x), start, part.shape[1]) * part).sum()
        return total / len(x) ** share

    return answer


class Made(nn.Module):
    """A module from a function of its one linear layer and the input."""

    def __init__(self, d_in, d_out, run):
        super().__init__()
        self.linear, self.run = nn.Linear(d_in, d_out), run

    def forward(self, x):
        return self.run(self.linear, x)


def module(run, factor=1):
    return lambda d_v, d: Made(factor * d_v, d, run)


def pooled(x):
    return x.unflatten(1, (16, 4)).mean(2)


WRONG = [
    ("fuse", fused(order=-1), "SigLIP first"),
    ("fuse", fused(axis=1), "token axis"),
    ("fuse", fused(prefix=True), "prefix kept"),
    ("fuse", fused(second="dinov2"), "one normalisation"),
    ("fuse", fused(first="siglip"), "one normalisation"),
    ("fuse", fused(first="", second=""), "not normalised"),
    ("fuse", fused(layer=-1), "last block"),
    ("block_parameters", lambda *s: sum(SOLUTIONS["block_parameters"](*s).values()), "a total"),
    ("block_parameters", counts(A_log=None), "no A_log"),
    ("block_parameters", counts(D=None), "no D"),
    ("block_parameters", narrow, "inner width"),
    ("block_parameters", counts(in_proj=lambda d, n, k, r: 2 * d * d), "in_proj not doubled"),
    ("block_parameters", counts(conv1d=lambda d, n, k, r: 2 * d * k), "convolution bias"),
    ("block_parameters", counts(conv1d=lambda d, n, k, r: 2 * d * (2 * d * k + 1)), "full convolution"),
    ("block_parameters", counts(dt_proj=lambda d, n, k, r: 2 * d * r), "dt_proj bias"),
    ("block_parameters", counts(x_proj=lambda d, n, k, r: 2 * d * (r + n)), "B and C"),
    ("causal_conv", by_hand(lambda t, k, K, L: t + k), "sees the future"),
    ("causal_conv", by_hand(lambda t, k, K, L: t + k - (K - 1) // 2), "sees the future"),
    ("causal_conv", by_hand(causally, flip=True), "flipped kernel"),
    ("causal_conv", by_hand(causally, biased=False), "no bias"),
    ("causal_conv", by_hand(lambda t, k, K, L: t - K + k), "one late"),
    ("causal_conv", by_hand(lambda t, k, K, L: (t - K + 1 + k) % L), "wraps around"),
    ("causal_conv", mixing, "not depthwise"),
    (
        "causal_conv",
        lambda u, w, b: F.conv1d(F.pad(u.T, (w.shape[1] - 1, 0))[None], w[:, None].expand(-1, len(w), -1), b)[0].T,
        "not depthwise",
    ),
    ("causal_conv", by_hand(causally, silu=True), None),
    ("break_even", lambda *s: even(*s, two=2, more=0), "one short"),
    ("break_even", lambda *s: -(-s[0] * s[1] * (s[2] + s[3]) // (2 * s[4] * s[5] * s[6])), "may be equal"),
    ("break_even", lambda *s: s[0] * s[1] * (s[2] + s[3]) / (2 * s[4] * s[5] * s[6]), "not whole"),
    ("break_even", lambda *s: even(*s, two=1), "keys only"),
    ("break_even", lambda m, i, n, k, *s: even(m, i, n, 0, *s), "no convolution"),
    ("break_even", lambda m, *s: even(1, *s), "one block"),
    ("break_even", lambda m, i, n, k, layers, *s: even(m, i, n, k, 1, *s), "one layer"),
    ("siglip_in_chunks", whole(siglip_loss), "whole matrix"),
    ("siglip_in_chunks", whole(clip_loss), "softmax"),
    ("siglip_in_chunks", chunked(share=2.0), "divided by pairs"),
    ("siglip_in_chunks", chunked(share=0.0), "not divided"),
    ("siglip_in_chunks", chunked(lambda *where: -own_pairs(*where)), "sign"),
    ("siglip_in_chunks", lambda *given: -chunked()(*given), "negative"),
    ("siglip_in_chunks", chunked(lambda rows, start, width: 2 * torch.eye(rows, width) - 1), "chunk diagonals"),
    ("siglip_in_chunks", chunked(biased=False), "no bias"),
    ("compact_projector", module(lambda f, x: f(x).flatten(1)), "wrong shape"),
    ("compact_projector", module(lambda f, x: f(x)), "too many tokens"),
    ("compact_projector", module(lambda f, x: f(x.reshape(len(x), 4, -1)), 16), "too many parameters"),
    ("compact_projector", module(lambda f, x: f(x[:, ::4])), "patches dropped"),
    ("compact_projector", module(lambda f, x: f(pooled(x - x.mean(0)))), "pictures mixed"),
    ("compact_projector", module(lambda f, x: f(x.mean(1, keepdim=True))), "blind to place"),
    ("compact_projector", lambda d_v, d: 3, None),
]


@pytest.mark.parametrize(("name", "answer", "mistake"), WRONG)
def test_wrong_answers(name, answer, mistake, judged):
    verdict = judged(getattr(nb08, name), answer)
    assert not verdict.ok
    assert verdict.mistake == mistake
    assert verdict.message.startswith(name)


def test_another_right_way_is_right(judged):
    def own(d_v, d):  # every patch beside its three neighbours in the row, one layer
        return Made(4 * d_v, d, lambda f, x: f(x.reshape(len(x), 16, -1)))

    assert judged(nb08.compact_projector, own).ok
    assert judged(nb08.causal_conv, by_hand(causally)).ok
    assert judged(nb08.siglip_in_chunks, chunked()).ok


def test_the_budget_is_that_of_ldpv2():
    from vlmlab.vlm.projectors import fused_ldpnet

    assert sum(p.numel() for p in fused_ldpnet(256, 192, 4).parameters()) == nb08.BUDGET
