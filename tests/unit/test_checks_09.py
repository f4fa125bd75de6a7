"""Each check of notebook 09 names the mistake of wrong answers."""

import math

import numpy as np
import pytest
import torch
from exercises import solutions

from vlmlab.checks import nb09

SOLUTIONS = solutions("09_training_cobra.py", {"torch": torch, "np": np, "math": math})


# ------------------------------------------------------------------ wrong answers, and the mistake each looks like
def padded(ids=None, labels=-100, left=False, size=max, order=1):
    def answer(rows, pad_id):
        length, built = size(len(row[0]) for row in rows), []
        for which, fill in ((0, pad_id if ids is None else ids), (1, pad_id if labels is None else labels)):
            cut = [row[which][:length] for row in rows]
            gaps = [[fill] * (length - len(row)) for row in cut]
            built.append(torch.tensor([g + c if left else c + g for c, g in zip(cut, gaps, strict=True)]))
        return tuple(built[::order])

    return answer


def chained(read, prefix, questions):
    state, found = read(prefix, None)[1], []
    for question in questions:
        out, state = read(question, state)
        found.append(out)
    return found


def again(read, prefix, questions):
    return [read(torch.cat([prefix, q]), None)[0][len(prefix) :] for q in questions]


def whole(read, prefix, questions):
    out, state = read(prefix, None)
    return [torch.cat([out, read(q, state)[0]]) for q in questions]


def slopes(slope):
    return lambda L, t: [slope(*four) for four in zip(L, L[1:], t, t[1:], strict=False)]


def fitted(power=1.0, intercept=False):
    def answer(lengths, seconds):
        L, t = np.asarray(lengths, float), np.asarray(seconds, float)
        columns = np.stack([L, L**2, *([L**0] if intercept else [])], 1)
        found = np.linalg.lstsq(columns / t[:, None] ** power, t / t**power, rcond=None)[0]
        return float(found[0]), float(found[1])

    return answer


def interval(spread, reach=1.96, scale=1.0, sign=1):
    def answer(first, second):
        one, other = np.array(first, float), np.array(second, float)
        d, half = sign * (one - other).mean(), reach * math.sqrt(spread(one, other) / len(one))
        return tuple(float(scale * value) for value in (d, d - half, d + half))

    return answer


def of_gaps(one, other):
    return (one - other).var(ddof=1)


WRONG = [
    ("spliced_labels", lambda q, a, p: [-100] * len(q) + a, "no picture"),
    ("spliced_labels", lambda q, a, p: [-100] * (len(q) + 1) + a, "one placeholder"),
    ("spliced_labels", lambda q, a, p: [-100] * p + q + a, "loss on the question"),
    ("spliced_labels", lambda q, a, p: [-100] * (p + len(q) - 1) + a + [-100], "shifted"),
    ("spliced_labels", lambda q, a, p: [-100] * (p + len(q)) + a[:-1] + [-100], "no end token"),
    ("spliced_labels", lambda q, a, p: [0] * (p + len(q)) + a, "another mark"),
    ("spliced_labels", lambda q, a, p: a, None),
    ("collate", padded(left=True), "left padding"),
    ("collate", padded(labels=None), "loss on padding"),
    ("collate", padded(ids=-100), "ids are -100"),
    ("collate", padded(size=min), "cut"),
    ("collate", padded(order=-1), "swapped"),
    ("fork", chained, "questions see each other"),
    ("fork", lambda read, prefix, questions: [read(q, None)[0] for q in questions], "picture not seen"),
    ("fork", again, "picture read again"),
    ("fork", whole, "picture among the outputs"),
    ("fork", lambda read, prefix, questions: 3, None),
    ("local_exponents", slopes(lambda a, b, s, t: math.log2(t / s)), "base two"),
    ("local_exponents", slopes(lambda a, b, s, t: t / s), "ratios"),
    ("local_exponents", slopes(lambda a, b, s, t: t / s * a / b), "ratios"),
    ("local_exponents", slopes(lambda a, b, s, t: (t - s) / (b - a)), "not logarithms"),
    ("local_exponents", slopes(lambda a, b, s, t: (math.log(t) - math.log(s)) / (b - a)), "half logarithmic"),
    ("local_exponents", slopes(lambda a, b, s, t: math.log(b / a) / math.log(t / s)), "inverted"),
    ("local_exponents", lambda L, t: (np.log(np.divide(t, t[0]))[1:] / np.log(np.divide(L, L[0]))[1:]).tolist(),
     "from the first"),
    ("two_parts", fitted(0.0), "absolute errors"),
    ("two_parts", fitted(2.0), "weights squared"),
    ("two_parts", fitted(1.0, True), "an intercept"),
    ("two_parts", lambda L, t: tuple(np.polyfit(L, t, 2)[1::-1].tolist()), "an intercept"),
    ("two_parts", lambda L, t: fitted()(L, t)[::-1], "swapped"),
    ("paired_difference", interval(lambda a, b: a.var() + b.var()), "not paired"),
    ("paired_difference", interval(lambda a, b: (a.mean() + b.mean()) * (1 - (a.mean() + b.mean()) / 2)), "not paired"),
    ("paired_difference", interval(of_gaps, sign=-1), "second minus first"),
    ("paired_difference", interval(of_gaps, reach=1.0), "one deviation"),
    ("paired_difference", interval(lambda a, b: len(a) * (a - b).var()), "not of the mean"),
    ("paired_difference", interval(of_gaps, scale=100), "percent"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "answer", "mistake"), WRONG)
def test_wrong_answers(name, answer, mistake, judged):
    verdict = judged(getattr(nb09, name), answer)
    assert not verdict.ok
    assert verdict.mistake == mistake
    assert verdict.message.startswith(name)


@pytest.mark.parametrize("delta", [0, 1])
def test_both_variances_of_a_paired_difference_are_right(delta, judged):
    assert judged(nb09.paired_difference, interval(lambda a, b: (a - b).var(ddof=delta))).ok
