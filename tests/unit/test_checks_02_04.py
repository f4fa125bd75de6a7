"""Each check of notebooks 02 and 04 names the mistake of wrong answers."""

import math

import numpy as np
import pytest
import torch

from vlmlab.checks import nb02, nb04


# ------------------------------------------------------------------ right answers, which the wrong ones change
def label_mask(turns, eos):
    ids, labels = [], []
    for who, tokens in turns:
        if who == "gpt":
            tokens = [*tokens, eos]
        ids += tokens
        labels += tokens if who == "gpt" else [-100] * len(tokens)
    return ids, labels


def rotate_to(x, t, theta=10000.0):
    a, b = x.chunk(2)
    angle = t * theta ** (-torch.arange(0, len(x), 2) / len(x))
    return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()])


def learning_rate(step, steps, warmup):
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))


def rows_of(seed, step, count, rows):
    rng = np.random.default_rng([seed, step])
    return np.sort(rng.choice(count, rows, replace=False))


# ------------------------------------------------------------------ wrong answers, and the mistake each looks like
def splice_in_front(H_q, ids, Z_v, image_id):
    return torch.cat([*Z_v, H_q[[t for t, i in enumerate(ids) if i != image_id]]])


def splice_keeping(H_q, ids, Z_v, image_id):
    out, images = [], iter(Z_v)
    for t, i in enumerate(ids):
        out.append(H_q[t : t + 1])
        if i == image_id:
            out.append(next(images))
    return torch.cat(out)


def splice_overwriting(H_q, ids, Z_v, image_id):
    out, number = H_q.clone(), 0
    for t, i in enumerate(ids):
        if i == image_id:
            size = min(Z_v.shape[1], len(out) - t)
            out[t : t + size] = Z_v[number, :size]
            number += 1
    return out


def splice_once(H_q, ids, Z_v, image_id):
    if image_id not in ids:
        return H_q
    place = ids.index(image_id)
    return torch.cat([H_q[:place], Z_v[0], H_q[place + 1 :]])


def interleaved(x, t, theta):
    out = torch.empty_like(x)
    for i in range(len(x) // 2):
        angle = torch.tensor(t * theta ** (-2 * i / len(x)))
        a, b = x[2 * i], x[2 * i + 1]
        out[2 * i], out[2 * i + 1] = a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()
    return out


def masked_no_end(turns, eos):
    ids, labels = label_mask(turns, eos)
    return ids, [-100 if i == eos else y for i, y in zip(ids, labels, strict=True)]


def masked_shifted(turns, eos):
    ids, labels = label_mask(turns, eos)
    return ids, [*labels[1:], -100]


def stage_with(first, second):
    def made(vlm, stage):
        for part in ("vision", "projector", "language"):
            getattr(vlm, part).requires_grad_(part in (first, second)[stage - 1])

    return made


def sets_global(seed, step, count, rows):
    np.random.seed(seed + step)
    return np.sort(np.random.choice(count, rows, replace=False))


STATE = np.random.default_rng(0)

WRONG = [
    (nb02.projector_parameters, lambda k, a, b: a * b if k == "linear" else a * b + b * b, "no bias"),
    (nb02.projector_parameters, lambda k, a, b: a * b + b, "one layer"),
    (nb02.projector_parameters, lambda k, a, b: (a * b + b) * (2 - (k == "linear")), "second layer as wide"),
    (nb02.splice, splice_in_front, "in front"),
    (nb02.splice, splice_keeping, "placeholder kept"),
    (nb02.splice, splice_overwriting, "words overwritten"),
    (nb02.splice, splice_once, "first only"),
    (nb02.label_mask, lambda turns, eos: (label_mask(turns, eos)[0],) * 2, "question in the loss"),
    (nb02.label_mask, masked_no_end, "end without loss"),
    (nb02.label_mask, masked_shifted, "shifted"),
    (nb02.label_mask, lambda t, e: (label_mask(t, e)[0], [-100] * len(label_mask(t, e)[0])), "nothing learnt"),
    (nb02.rotate_to, interleaved, "neighbours paired"),
    (nb02.rotate_to, lambda x, t, theta: rotate_to(x, -t, theta), "wrong direction"),
    (nb02.rotate_to, lambda x, t, theta: x.clone(), "not turned"),
    (nb02.pictures_that_fit, lambda f, n, m, k, w, b: f // (n * m * k * w * b), "keys only"),
    (nb02.pictures_that_fit, lambda f, n, m, k, w, b: f / (2 * n * m * k * w * b), "not whole"),
    (nb02.pictures_that_fit, lambda f, n, m, k, w, b: f // (2 * n * k * w * b), "one layer"),
    (nb04.set_stage, stage_with(("projector",), ("vision", "projector", "language")), "encoder trains"),
    (nb04.set_stage, stage_with(("projector", "language"), ("projector", "language")), "language model in stage 1"),
    (nb04.set_stage, stage_with(("projector",), ("language",)), "projector frozen in stage 2"),
    (nb04.learning_rate, lambda s, n, w: 0.5 * (1 + math.cos(math.pi * s / n)), "no warm-up"),
    (nb04.learning_rate, lambda s, n, w: s / w if s < w else learning_rate(s, n, w), "starts at zero"),
    (nb04.learning_rate, lambda s, n, w: (s + 1) / w if s < w else 1 - (s - w) / (n - w), "linear"),
    (nb04.sees, lambda s: torch.ones(len(s), len(s), dtype=torch.bool).tril(), "questions see each other"),
    (nb04.sees, lambda s: (s[:, None] == s[None, :]) | (s[None, :] == 0), "not causal"),
    (nb04.sees, lambda s: (s[:, None] == s[None, :]).tril(), "no picture"),
    (nb04.rows_of, lambda seed, t, n, k: np.sort(STATE.choice(n, k, replace=False)), "not repeatable"),
    (nb04.rows_of, lambda seed, t, n, k: rows_of(seed, 0, n, k), "same every step"),
    (nb04.rows_of, sets_global, "global generator"),
    (nb04.rows_of, lambda seed, t, n, k: np.random.default_rng([seed, t]).choice(n, k, replace=False), "not sorted"),
]  # fmt: skip


@pytest.mark.parametrize(("check", "answer", "mistake"), WRONG)
def test_wrong_answers(check, answer, mistake, judged):
    verdict = judged(check, answer)
    assert not verdict.ok
    assert verdict.mistake == mistake
    assert verdict.message.startswith(check.__name__)
