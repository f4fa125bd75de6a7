"""Each check of notebook 13 names the mistake of wrong answers."""

import pytest
import torch
import torch.nn.functional as F

from vlmlab.checks import nb13
from vlmlab.explain import attention, states


# ------------------------------------------------------------------ right answers, which the wrong ones change
def word_map(weights, image, words, word, columns, shift=-1):
    return weights[:, words.start + word + shift, image].mean(0).reshape(-1, columns)


def roll_out(weights, stay=1.0, heads=lambda x: x.mean(1)):
    found = torch.eye(weights.shape[-1])
    for layer in heads(weights) + stay * found:
        found = layer / layer.sum(-1, keepdim=True) @ found
    return found


def relevance_step(R, A, G):
    return R + (A * G).clamp(min=0).mean(0) @ R


def knock_out(scores, queries, keys, value=float("-inf")):
    scores = scores.clone()
    for query in queries:
        scores[:, query, keys] = value
    return scores.softmax(-1)


def what_is_left(raw, A, position, step=F.softplus, first=1):
    delta, left = step(raw), []
    for j in range(len(raw)):
        since = delta[j + first : position + 1].sum()
        left.append(torch.exp(since * A) if j <= position else 0 * A)
    return torch.stack(left)


def parts(delta, A, B, u):
    left = torch.stack([torch.exp(delta[j + 1 :].sum() * A) for j in range(len(u))])
    return left * (delta * u)[:, None] * B


def ledger_shares(delta, A, B, u):
    part = parts(delta, A, B, u)
    h = part.sum(0)
    return (part * h).sum(1) / h.square().sum()


def normed(x, eps):
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt()


def read_out(x, weight, head, eps, norm=normed):
    return F.softmax(F.linear(norm(x, eps) * weight, head), -1)


def test_what_is_asked_for_is_the_packages():
    draw = torch.Generator().manual_seed(0)
    weights = torch.rand(3, 2, 5, 5, generator=draw).tril()
    weights = weights / weights.sum(-1, keepdim=True)
    assert torch.allclose(roll_out(weights), attention.rollout(weights.mean(1)), rtol=1e-5)
    delta, u, B = (torch.rand(*shape, generator=draw) for shape in ((6, 1), (6, 1), (6, 3)))
    scan = states.Scan(u, delta, B, B, -torch.rand(1, 3, generator=draw), torch.ones(1))
    ours = ledger_shares(delta[:, 0], scan.A[0], B, u[:, 0])
    assert torch.allclose(ours, states.ledger_shares(scan, -1), rtol=1e-5)
    left = what_is_left(delta[:, 0].expm1().log(), scan.A[0], 3)  # softplus undone
    assert torch.allclose(left.mean(1), states.retention(scan, 3), rtol=1e-5)


# ------------------------------------------------------------------ wrong answers, and the mistake each looks like
def backwards(raw, A, position):
    return what_is_left(raw.flip(0), A, len(raw) - 1 - position).flip(0)


def growing(raw, A, position):
    until = F.softplus(raw).cumsum(0)
    return torch.exp((until[position] - until)[:, None] * A)


def raw_clamped(raw, A, position):
    since = (raw.cumsum(0)[position] - raw.cumsum(0)).clamp(min=0)
    return torch.exp(since[:, None] * A) * (torch.arange(len(raw)) <= position)[:, None]


def added_up(*given):
    part = parts(*given).sum(1)
    return part / part.sum()


def norms(*given):
    size = parts(*given).norm(dim=1)
    return size / size.sum()


def zeroed(scores, queries, keys):
    weights = scores.softmax(-1)
    for query in queries:
        weights[:, query, keys] = 0
    return weights


def pairs(scores, queries, keys):
    scores = scores.clone()
    scores[:, queries, keys] = -torch.inf
    return scores.softmax(-1)


def in_place(scores, queries, keys):
    scores[:, torch.tensor(queries)[:, None], keys] = -torch.inf
    return scores.softmax(-1)


def along_queries(scores, queries, keys):
    scores = scores.clone()
    scores[:, torch.tensor(queries)[:, None], keys] = -torch.inf
    return scores.softmax(1)


def product(matrices):
    found = matrices[0]
    for matrix in matrices[1:]:
        found = found @ matrix
    return found


def layers(weights):
    found = weights.mean(1) + torch.eye(weights.shape[-1])
    return found / found.sum(-1, keepdim=True)


def scaled(*given):
    found = word_map(*given)
    return found / found.sum()


def by_columns(weights, image, words, word, columns):
    return weights[:, words.start + word - 1, image].mean(0).reshape(columns, -1).T


WRONG = [
    (nb13.word_map, lambda *a: word_map(*a, shift=0), "row off by one"),
    (nb13.word_map, lambda w, *a: word_map(w.transpose(1, 2), *a), "column for row"),
    (nb13.word_map, lambda w, image, words, word, c: word_map(w, image, words, 0, c), "first word"),
    (nb13.word_map, by_columns, "transposed patches"),
    (nb13.word_map, lambda w, *a: word_map(w.sum(0, keepdim=True), *a), "heads summed"),
    (nb13.word_map, lambda w, *a: word_map(w[:1], *a), "one head"),
    (nb13.word_map, scaled, "scaled to 1"),
    (nb13.word_map, lambda *a: word_map(*a).flatten(), None),
    (nb13.roll_out, lambda w: roll_out(w, stay=0.0), "no identity"),
    (nb13.roll_out, lambda w: product([x + torch.eye(x.shape[-1]) for x in w.mean(1).flip(0)]), "rows not normalised"),
    (nb13.roll_out, lambda w: product(list(layers(w))), "wrong order"),
    (nb13.roll_out, lambda w: layers(w.mean(0)[None])[0], "mean of layers"),
    (nb13.roll_out, lambda w: roll_out(w, heads=lambda x: x.max(1).values), "largest head"),
    (nb13.roll_out, lambda w: roll_out(w, heads=lambda x: x.sum(1)), "heads summed"),
    (nb13.roll_out, lambda w: layers(w)[-1], "last layer alone"),
    (nb13.relevance_step, lambda R, A, G: R + (A * G).mean(0) @ R, "negative kept"),
    (nb13.relevance_step, lambda R, A, G: R + F.relu((A * G).mean(0)) @ R, "mean first"),
    (nb13.relevance_step, lambda R, A, G: R + (A * G).abs().mean(0) @ R, "absolute value"),
    (nb13.relevance_step, lambda R, A, G: F.relu(A * G).mean(0) @ R, "R lost"),
    (nb13.relevance_step, lambda R, A, G: R + R @ F.relu(A * G).mean(0), "wrong side"),
    (nb13.relevance_step, lambda R, A, G: R + A.mean(0) @ R, "no gradient"),
    (nb13.relevance_step, lambda R, A, G: R + F.relu(G).mean(0) @ R, "no attention"),
    (nb13.relevance_step, lambda R, A, G: R + F.relu(A * G).mean(0), "not added up"),
    (nb13.knock_out, zeroed, "rows not normalised"),
    (nb13.knock_out, lambda *a: knock_out(*a, value=0.0), "score 0"),
    (nb13.knock_out, pairs, "pairs only"),
    (nb13.knock_out, lambda s, q, k: knock_out(s, range(s.shape[1]), k), "every query"),
    (nb13.knock_out, lambda s, q, k: knock_out(s, k, q), "queries and keys exchanged"),
    (nb13.knock_out, lambda s, q, k: s.softmax(-1), "nothing blocked"),
    (nb13.knock_out, along_queries, "columns sum to 1"),
    (nb13.knock_out, in_place, "changed its input"),
    (nb13.what_is_left, lambda *a: what_is_left(*a, step=lambda x: x), "no softplus"),
    (nb13.what_is_left, raw_clamped, "no softplus"),
    (nb13.what_is_left, lambda *a: what_is_left(*a, step=torch.exp), "exp for softplus"),
    (nb13.what_is_left, lambda *a: what_is_left(*a, first=0), "own step counted"),
    (nb13.what_is_left, growing, "later tokens"),
    (nb13.what_is_left, backwards, "reversed scan"),
    (nb13.what_is_left, lambda raw, A, T: growing(raw, A, T) * (torch.arange(len(raw)) >= T)[:, None], None),
    (nb13.what_is_left, lambda raw, A, T: what_is_left(raw, A, len(raw) - 1), "last position"),
    (nb13.ledger_shares, lambda d, A, B, u: ledger_shares(d, A, B, u / d), "no delta_j"),
    (nb13.ledger_shares, lambda d, A, B, u: ledger_shares(d, A, torch.ones_like(B), u), "no B"),
    (nb13.ledger_shares, lambda d, A, B, u: ledger_shares(d, 0 * A, B, u), "no decay"),
    (nb13.ledger_shares, norms, "norms"),
    (nb13.ledger_shares, added_up, "numbers added up"),
    (nb13.ledger_shares, lambda *a: parts(*a) @ parts(*a).sum(0) / parts(*a).sum(0).norm(), "divided by the length"),
    (nb13.ledger_shares, lambda *a: parts(*a) @ parts(*a).sum(0), "not divided"),
    (nb13.ledger_shares, lambda *a: ledger_shares(*a).abs(), "sign lost"),
    (nb13.read_out, lambda *a: read_out(*a, norm=lambda x, eps: x), None),
    (nb13.read_out, lambda x, w, head, eps: F.softmax(x @ head.T, -1), "no norm"),
    (nb13.read_out, lambda *a: read_out(*a, norm=lambda x, eps: x / (x.square().mean(-1, keepdim=True) ** 0.5 + eps)),
     "eps outside the root"),
    (nb13.read_out, lambda *a: read_out(*a, norm=lambda x, eps: normed(x, 0)), "no eps"),
    (nb13.read_out, lambda x, w, *a: read_out(x - x.mean(1, keepdim=True), w, *a), "mean subtracted"),
    (nb13.read_out, lambda *a: read_out(*a, norm=lambda x, eps: x / (x.square().sum(-1, keepdim=True) + eps) ** 0.5),
     "sum for mean"),
    (nb13.read_out, lambda x, w, head, eps: F.softmax(normed(x, eps) @ head.T, -1), "no weight"),
    (nb13.read_out, lambda x, w, head, eps: (normed(x, eps) * w) @ head.T, "logits"),
    (nb13.read_out, lambda *a: read_out(*a).log(), "log-probabilities"),
    (nb13.read_out, lambda x, w, head, eps: F.softmax((normed(x, eps) * w) @ head.T, 0), "softmax over positions"),
]  # fmt: skip


@pytest.mark.parametrize(("check", "answer", "mistake"), WRONG)
def test_wrong_answers(check, answer, mistake, judged):
    verdict = judged(check, answer)
    assert not verdict.ok
    assert verdict.mistake == mistake, verdict
    assert verdict.message.startswith(check.__name__)


RIGHT = (word_map, roll_out, relevance_step, knock_out, what_is_left, ledger_shares, read_out)


@pytest.mark.parametrize("answer", RIGHT)
def test_right_answers(answer, judged):
    assert judged(getattr(nb13, answer.__name__), answer).ok
