"""Checks of notebook 09: labels behind a picture, right padding, a state that forks, exponents between lengths, the
linear and the quadratic part, a paired difference."""

import math
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vlmlab.benchmarks.statistics import Z95
from vlmlab.checks.base import Case, Mistake, Verdict, compare, run_check

IGNORE = -100


# ---------------------------------------------------------------- 1 · labels behind a picture
def spliced_labels(answer: Any) -> Verdict:
    """Exercise 1: the labels of a row that begins with the picture's tokens."""

    def right(question: list[int], reply: list[int], patches: int) -> list[int]:
        return [IGNORE] * (patches + len(question)) + reply

    def marked(place: Callable[..., slice]) -> Callable[..., bool]:
        def fits(got: Any, expected: Any, *given: Any) -> bool:
            rest = slice(place(*given).stop, None)
            return len(got) == len(expected) and got[rest] == expected[rest] and got != expected

        return fits

    return run_check(
        "spliced_labels",
        answer,
        right,
        [
            Case(([5, 8, 13], [21, 34, 2], 4), "3 ids of question, 3 of answer, 4 patches"),
            Case(([7], [9, 11, 12, 2], 6), "1 id of question, 4 of answer, 6 patches"),
        ],
        [
            Mistake("no picture", "the picture's tokens have no labels: the row is longer than its text by the patches",
                    lambda q, a, p: [IGNORE] * len(q) + a),
            Mistake("one placeholder", "the picture got one label; after the splice it is as many tokens as patches",
                    lambda q, a, p: [IGNORE] * (1 + len(q)) + a),
            Mistake("loss on the question", "the question carries loss; the model need not learn to ask",
                    lambda q, a, p: [IGNORE] * p + q + a),
            Mistake("shifted", "the labels are shifted; a label stands at its own token, the loss does the shifting",
                    lambda q, a, p: [IGNORE] * (p + len(q) - 1) + a + [IGNORE]),
            Mistake("no end token", "the last id of the answer carries no loss; then it never learns to stop",
                    lambda q, a, p: [IGNORE] * (p + len(q)) + a[:-1] + [IGNORE]),
            Mistake("another mark", "no loss is written as -100, which F.cross_entropy leaves out by itself",
                    fits=marked(lambda q, a, p: slice(0, p + len(q)))),
        ],
        done="right, nothing for picture and question, the answer with its end token",
        tolerance=0.0,
    )  # fmt: skip


# ---------------------------------------------------------------- 2 · right padding
Rows = list[tuple[list[int], list[int]]]


def _padded(rows: Rows, fill: int, which: int, left: bool = False, length: Callable[..., int] = max) -> Tensor:
    size = length(len(row[which]) for row in rows)
    built = []
    for row in rows:
        values, gap = row[which][:size], [fill] * max(0, size - len(row[which]))
        built.append(gap + values if left else values + gap)
    return torch.tensor(built)


def collate(answer: Any) -> Verdict:
    """Exercise 2: rows of different lengths as two tensors, padded on the right."""

    def batch(ids: Any = None, labels: int | None = IGNORE, **how: Any) -> Callable[..., tuple[Tensor, Tensor]]:
        return lambda rows, pad: (
            _padded(rows, pad if ids is None else ids, 0, **how),
            _padded(rows, pad if labels is None else labels, 1, **how),
        )

    return run_check(
        "collate",
        answer,
        batch(),
        [
            Case(([([1, 2, 3, 4], [IGNORE, IGNORE, 3, 4]), ([5, 6], [IGNORE, 6])], 0), "rows of 4 and 2, padding id 0"),
            Case(([([8], [8]), ([9, 4, 2], [IGNORE, 4, 2]), ([3, 7], [IGNORE, 7])], 1), "three rows, padding id 1"),
        ],
        [
            Mistake("left padding", "padding stands in front; a scan walks over it before it sees a single token",
                    batch(left=True)),
            Mistake("loss on padding", "the labels are padded with the padding id: the model would learn to write it",
                    batch(labels=None)),
            Mistake("ids are -100", "the ids are padded with -100, which no embedding table has; that is for labels",
                    batch(ids=IGNORE)),
            Mistake("cut", "rows are cut to the shortest one; pad to the longest", batch(length=min)),
            Mistake("swapped", "ids come first, labels second", lambda rows, pad: batch()(rows, pad)[::-1]),
        ],
        done="right, what is padding comes last and carries no loss",
        tolerance=0.0,
    )  # fmt: skip


# ---------------------------------------------------------------- 3 · a state that forks
Read = Callable[[Tensor, Any], tuple[Tensor, Any]]


def fork(answer: Any) -> Verdict:
    """Exercise 3: several continuations of one prefix, which is read once."""

    def outputs(got: Any, prefix: Tensor, questions: list[Tensor], start: str) -> bool:
        h, found = _scan(prefix, torch.zeros(()))[1], []
        for question in questions:
            out, last = _scan(question, torch.zeros(()) if start == "empty" else h)
            found.append(out)
            h = last if start == "the last question" else h
        return not compare(got["outputs"], found)

    def right(prefix: Tensor, questions: list[Tensor]) -> dict[str, Any]:
        h = _scan(prefix, torch.zeros(()))[1]
        return {"outputs": [_scan(question, h)[0] for question in questions], "read": "every token once"}

    run = answer
    if callable(answer):

        @wraps(answer)
        def run(prefix: Tensor, questions: list[Tensor]) -> Any:
            count = 0

            def read(tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
                nonlocal count
                count += len(tokens)
                return _scan(tokens, torch.zeros(()) if state is None else state)

            got = answer(read, prefix, questions)
            if got is None or got is ...:
                return None
            once = count == len(prefix) + sum(len(question) for question in questions)
            return {"outputs": got, "read": "every token once" if once else f"{count} tokens"}

    def kept(got: Any, expected: Any, prefix: Tensor, questions: list[Tensor]) -> bool:
        return all(len(a) == len(prefix) + len(b) for a, b in zip(got["outputs"], questions, strict=True))

    return run_check(
        "fork",
        run,
        right,
        [
            Case((torch.tensor([1.0, 2.0, 4.0]), [torch.tensor([3.0, 1.0]), torch.tensor([5.0])]), "two questions"),
            Case((torch.tensor([2.0, -1.0]), [torch.tensor([v, 1.0]) for v in (1.0, 4.0, 9.0)]), "three questions"),
        ],
        [
            Mistake("questions see each other",
                    "a question goes on from the state that the one before left; each starts from the picture's",
                    fits=lambda got, _, prefix, questions: outputs(got, prefix, questions, "the last question")),
            Mistake("picture not seen", "questions start from an empty state; hand them the one the picture left",
                    fits=lambda got, _, prefix, questions: outputs(got, prefix, questions, "empty")),
            Mistake("picture among the outputs", "give the outputs of the questions' own tokens only", fits=kept),
            Mistake("picture read again", "the outputs are right, but the picture is read for every question",
                    fits=lambda got, expected, *given: not compare(got["outputs"], expected["outputs"])),
        ],
        done="right, the picture is read once and no question sees another",
    )  # fmt: skip


def _scan(tokens: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    """h_t = h_{t-1} / 2 + x_t."""
    found = []
    for x in tokens:
        h = 0.5 * h + x
        found.append(h)
    return torch.stack(found), h


# ---------------------------------------------------------------- 4 · exponents between lengths
def local_exponents(answer: Any) -> Verdict:
    """Exercise 4: the slope on log-log axes between each two neighbouring lengths."""

    def each(slope: Callable[..., float]) -> Callable[..., list[float]]:
        return lambda L, t: [slope(L[i], L[i + 1], t[i], t[i + 1]) for i in range(len(L) - 1)]

    return run_check(
        "local_exponents",
        answer,
        each(lambda a, b, s, t: math.log(t / s) / math.log(b / a)),
        [
            Case(([100, 200, 400, 800], [1.0, 2.1, 5.0, 14.0]), "four lengths"),
            Case(([10, 30, 40], [3.0, 3.5, 5.0]), "lengths that do not double"),
        ],
        [
            Mistake("base two", "divide by the logarithm of the lengths' ratio; they need not double",
                    each(lambda a, b, s, t: math.log2(t / s))),
            Mistake("ratios", "that is the ratio of the times; the exponent is its logarithm over that of the lengths",
                    each(lambda a, b, s, t: t / s)),
            Mistake("ratios", "ratios are divided, not their logarithms", each(lambda a, b, s, t: (t / s) / (b / a))),
            Mistake("not logarithms", "that is a slope on plain axes, in seconds a token; take logarithms of both",
                    each(lambda a, b, s, t: (t - s) / (b - a))),
            Mistake("half logarithmic", "take the logarithm of the lengths as well",
                    each(lambda a, b, s, t: math.log(t / s) / (b - a))),
            Mistake("inverted", "lengths are over times; an exponent says how time grows with length",
                    each(lambda a, b, s, t: math.log(b / a) / math.log(t / s))),
            Mistake("from the first", "each slope starts at the first length; compare neighbours",
                    lambda L, t: [math.log(t[i] / t[0]) / math.log(L[i] / L[0]) for i in range(1, len(L))]),
        ],
        done="right, one exponent between each two neighbours",
    )  # fmt: skip


# ---------------------------------------------------------------- 5 · the linear and the quadratic part
def _parts(lengths: Sequence[float], seconds: Sequence[float], weight: Any = None, intercept: bool = False) -> Any:
    L, t = np.asarray(lengths, float), np.asarray(seconds, float)
    weight = 1 / t if weight is None else weight(L, t)
    columns = [L, L**2, *([np.ones_like(L)] if intercept else [])]
    found = np.linalg.lstsq(np.stack(columns, 1) * weight[:, None], t * weight, rcond=None)[0]
    return float(found[0]), float(found[1])


def two_parts(answer: Any) -> Verdict:
    """Exercise 5: a and b of t = a L + b L^2 by least squares on relative errors."""
    return run_check(
        "two_parts",
        answer,
        _parts,
        [
            Case(([256, 512, 1024, 2048, 4096], [0.021, 0.038, 0.11, 0.23, 0.81]), "five lengths"),
            Case(([1.0, 2.0, 3.0, 5.0], [2.2, 5.0, 8.0, 22.0]), "four toy lengths"),
        ],
        [
            Mistake("absolute errors", "the longest decides alone: divide each equation by its t, so that errors are "
                    "relative", lambda L, t: _parts(L, t, lambda L, t: np.ones_like(t))),
            Mistake("weights squared", "lstsq squares the errors itself: divide by t, not by its square",
                    lambda L, t: _parts(L, t, lambda L, t: t**-2)),
            Mistake("an intercept", "there is a constant in your fit; a prompt of no tokens takes no time here",
                    lambda L, t: _parts(L, t, intercept=True)),
            Mistake("an intercept", "there is a constant in your fit (polyfit has one); only L and L^2 are asked for",
                    lambda L, t: tuple(np.polyfit(L, t, 2)[1::-1].tolist())),
            Mistake("swapped", "first a, of L, then b, of L^2", lambda L, t: _parts(L, t)[::-1]),
        ],
        done="right, relative errors and no constant",
    )  # fmt: skip


# ---------------------------------------------------------------- 6 · a paired difference
def _paired(first: list[bool], second: list[bool], z: float = Z95, variance: Any = None) -> tuple[float, float, float]:
    one, other = np.asarray(first, float), np.asarray(second, float)
    gap = one - other
    spread = float(gap.var()) if variance is None else variance(one, other)
    half = z * math.sqrt(spread / len(gap))
    return float(gap.mean()), float(gap.mean()) - half, float(gap.mean()) + half


def paired_difference(answer: Any) -> Verdict:
    """Exercise 6: difference of two accuracies on the same questions, with its 95 % interval."""

    def case(only_first: int, only_second: int, both: int, neither: int, name: str) -> Case:
        pairs = [(True, False)] * only_first + [(False, True)] * only_second
        pairs += [(True, True)] * both + [(False, False)] * neither
        first, second = (list(flags) for flags in zip(*pairs, strict=True))
        return Case((first, second), name)

    def unpaired(one: Any, other: Any) -> float:
        return float(one.var() + other.var())

    def pooled(one: Any, other: Any) -> float:
        p = float(one.mean() + other.mean()) / 2
        return 2 * p * (1 - p)

    return run_check(
        "paired_difference",
        answer,
        _paired,
        [case(70, 30, 200, 100, "400 questions"), case(20, 90, 50, 140, "300, the second model better")],
        [
            Mistake("not paired", "that adds the variances of two independent samples; here both answer the same "
                    "questions: take the difference question by question", lambda a, b: _paired(a, b, Z95, unpaired)),
            Mistake("not paired", "that is the interval of two independent samples",
                    lambda a, b: _paired(a, b, Z95, pooled)),
            Mistake("second minus first", "the sign is turned: first minus second", lambda a, b: _paired(b, a)),
            Mistake("one deviation", "that is one standard error on either side; 95 % need 1.96",
                    lambda a, b: _paired(a, b, 1.0)),
            Mistake("not of the mean", "that is the spread of single questions; the mean's is smaller by sqrt(n)",
                    lambda a, b: _paired(a, b, Z95 * math.sqrt(len(a)))),
            Mistake("percent", "give fractions, not per cent",
                    lambda a, b: tuple(100 * value for value in _paired(a, b))),
        ],
        done="right; questions that both get right or both get wrong add nothing to the spread but their number",
        tolerance=0.02,  # n or n - 1 in the variance are both fine
    )  # fmt: skip
