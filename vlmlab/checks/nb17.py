"""Checks of notebook 17: a sign test, the Pareto front, ranks under noise, accuracy above what needs no eyes."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from vlmlab.checks.base import Case, Mistake, Verdict, run_check

Flags = Sequence[bool]


# ---------------------------------------------------------------- 1 · the sign test
def _tail(k: int, n: int) -> float:
    """P(at least k of n fair coins)."""
    return sum(math.comb(n, i) for i in range(k, n + 1)) / 2**n


def _counts(first: Flags, second: Flags) -> tuple[int, int]:
    pairs = list(zip(first, second, strict=True))
    return sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs)


def _sign(first: Flags, second: Flags) -> float:
    b, c = _counts(first, second)
    return min(1.0, 2 * _tail(max(b, c), b + c))


def sign_test(answer: Any) -> Verdict:
    """Exercise 1: the exact two-sided p-value of a difference between two models on the same questions."""

    def case(only_first: int, only_second: int, both: int, neither: int) -> Case:
        pairs = [(True, False)] * only_first + [(False, True)] * only_second
        pairs += [(True, True)] * both + [(False, False)] * neither
        first, second = (list(flags) for flags in zip(*pairs, strict=True))
        return Case((first, second), f"{only_first} only the first right, {only_second} only the second")

    def of(tail: Callable[[int, int, int], float]) -> Callable[[Flags, Flags], float]:
        return lambda first, second: tail(*_counts(first, second), len(first))

    def with_agreement(first: Flags, second: Flags) -> float:
        b, c = _counts(first, second)
        agreed = sum(bool(x) == bool(y) for x, y in zip(first, second, strict=True))
        return min(1.0, 2 * _tail(max(b, c) + agreed // 2, len(first)))

    def chi_square(b: int, c: int, _: int) -> float:
        return math.erfc(math.sqrt((b - c) ** 2 / (b + c) / 2)) if b + c else 1.0

    def corrected(b: int, c: int, _: int) -> float:
        return math.erfc(math.sqrt(max(abs(b - c) - 1, 0) ** 2 / (b + c) / 2)) if b + c else 1.0

    return run_check(
        "sign_test",
        answer,
        _sign,
        [case(9, 2, 20, 9), case(3, 7, 40, 10), case(4, 4, 10, 2), case(0, 0, 6, 4)],
        [
            Mistake("one side", "that is one side only; nobody said beforehand which model is better: twice that, and "
                    "at most 1", of(lambda b, c, n: _tail(max(b, c), b + c))),
            Mistake("one side", "that is the chance that the first wins this often; a difference to either side counts",
                    of(lambda b, c, n: _tail(b, b + c))),
            Mistake("above one", "twice one side can exceed 1 when both win equally often; cap it",
                    of(lambda b, c, n: 2 * _tail(max(b, c), b + c))),
            Mistake("strictly more", "at least as many belongs to it too: the case that was seen counts",
                    of(lambda b, c, n: min(1.0, 2 * _tail(max(b, c) + 1, b + c)))),
            Mistake("questions they agree on", "questions that both get right or both wrong say nothing about which is "
                    "better: leave them out", of(lambda b, c, n: min(1.0, 2 * _tail(max(b, c), n)))),
            Mistake("questions they agree on", "questions that both get right or both wrong are not shared out; leave "
                    "them out", with_agreement),
            Mistake("chi-square", "McNemar's chi-square is the approximation for many; count the coins exactly",
                    of(chi_square)),
            Mistake("chi-square", "that is the chi-square with continuity correction; count the coins exactly",
                    of(corrected)),
        ],
        done="right; only questions on which the two differ have a say",
    )  # fmt: skip


# ---------------------------------------------------------------- 2 · the Pareto front
Points = dict[str, tuple[float, float]]


def _front(points: Points, dearer: bool = False, strict: bool = False, either: bool = False) -> list[str]:
    """Names of points (cost, accuracy) that none beats. strict: only who is better in both beats; either: in one."""
    sign = -1 if dearer else 1

    def beaten(name: str) -> bool:
        cost, accuracy = points[name]
        for other, (c, a) in points.items():
            if other == name:
                continue
            no_worse = (sign * c <= sign * cost, a >= accuracy)
            better = (sign * c < sign * cost, a > accuracy)
            if any(better) if either else (all(better) if strict else all(no_worse) and any(better)):
                return True
        return False

    return sorted(name for name in points if not beaten(name))


def pareto_front(answer: Any) -> Verdict:
    """Exercise 2: the models that no other beats."""

    def best(points: Points) -> list[str]:
        top = max(accuracy for _, accuracy in points.values())
        return sorted(name for name, (_, accuracy) in points.items() if accuracy == top)

    def cheapest_and_best(points: Points) -> list[str]:
        low = min(cost for cost, _ in points.values())
        return sorted({*best(points), *(name for name, (cost, _) in points.items() if cost == low)})

    def by_ratio(points: Points) -> list[str]:
        top = max(accuracy / cost for cost, accuracy in points.values())
        return sorted(name for name, (cost, accuracy) in points.items() if accuracy / cost == top)

    return run_check(
        "pareto_front",
        answer,
        _front,
        [
            Case(({"a": (1.0, 0.5), "b": (2.0, 0.7), "c": (3.0, 0.6), "d": (4.0, 0.9), "e": (5.0, 0.8)},), "five"),
            Case(({"p": (2.0, 0.6), "q": (2.0, 0.7), "r": (1.0, 0.4), "s": (6.0, 0.7), "t": (2.0, 0.7)},), "ties"),
        ],
        [
            Mistake("not sorted", "the names are right; return them sorted", fits=lambda got, expected, *_:
                    isinstance(got, list | tuple | set) and sorted(got) == expected),
            Mistake("cost turned", "a lower cost is better; these are the dearest", partial(_front, dearer=True)),
            Mistake("strict", "a model that is as good and costs more is beaten too (or as dear and less good): no "
                    "worse in either, better in one", partial(_front, strict=True)),
            Mistake("better in one", "being better in one of the two does not beat; it must be no worse in the other",
                    partial(_front, either=True)),
            Mistake("best only", "that is the most accurate; cheaper ones that nobody beats belong to it too", best),
            Mistake("two ends", "those are the two ends; what lies between them and is not beaten belongs to it too",
                    cheapest_and_best),
            Mistake("ratio", "accuracy for each unit of cost is another question; the front needs no exchange rate",
                    by_ratio),
            Mistake("the beaten", "these are the ones that are beaten", lambda points:
                    sorted(set(points) - set(_front(points)))),
        ],
        done="right, ties included",
    )  # fmt: skip


# ---------------------------------------------------------------- 3 · ranks under noise
def _ranks(draws: np.ndarray, ties: float = 0.5) -> np.ndarray:
    """Ranks (R, M) from 1, the highest first; of equal ones each gets `ties` of the others' places."""
    above = (draws[:, None, :] > draws[:, :, None]).sum(-1)
    equal = (draws[:, None, :] == draws[:, :, None]).sum(-1) - 1
    return 1 + above + ties * equal


def mean_rank(answer: Any) -> Verdict:
    """Exercise 3: the expected rank of each model over repetitions of the measurement."""
    draws = np.random.default_rng(0).binomial(20, [0.7, 0.6, 0.62, 0.3], (200, 4)) / 20  # with ties
    few = np.array([[0.5, 0.7, 0.7], [0.9, 0.1, 0.4], [0.2, 0.3, 0.8]])

    def over(ranks: Callable[[np.ndarray], np.ndarray], axis: int = 0) -> Callable[[np.ndarray], np.ndarray]:
        return lambda drawn: ranks(drawn).mean(axis)

    def of_the_mean(drawn: np.ndarray) -> np.ndarray:
        return _ranks(drawn.mean(0)[None])[0]

    def places(drawn: np.ndarray) -> np.ndarray:  # an order is not a rank
        return 1.0 + (-drawn).argsort(1)

    return run_check(
        "mean_rank",
        answer,
        over(_ranks),
        [Case((few,), "three draws of three models, one tie"), Case((draws,), "200 draws of four models")],
        [
            Mistake("upside down", "rank 1 is the best, the highest accuracy", over(lambda d: _ranks(-d))),
            Mistake("from zero", "the best has rank 1, not 0", over(lambda d: _ranks(d) - 1)),
            Mistake("one argsort", "argsort gives the order, who stands at each place; the rank of each model is the "
                    "argsort of that", over(places)),
            Mistake("ties", "models that are equal share their places: two at the top have rank 1.5 each",
                    over(lambda d: _ranks(d, 0.0))),
            Mistake("ties", "models that are equal share their places: two at the top have rank 1.5 each, not 2",
                    over(lambda d: _ranks(d, 1.0))),
            Mistake("ties", "models that are equal share their places; argsort puts one of them first", over(
                lambda d: 1.0 + (-d).argsort(1, kind="stable").argsort(1, kind="stable"))),
            Mistake("rank of the mean", "that ranks the mean accuracies; rank within every draw, then average",
                    of_the_mean),
            Mistake("axis", "average over the draws, the rows; one number a model is left", over(_ranks, 1)),
        ],
        done="right; a rank of 1.3 says more than a place on a list",
    )  # fmt: skip


# ---------------------------------------------------------------- 4 · above what needs no eyes
def skill(answer: Any) -> Verdict:
    """Exercise 4: the share of what can be gained beyond the best baseline that a model gains."""

    def right(accuracy: float, chance: float, constant: float, blind: float) -> float:
        base = max(chance, constant, blind)
        return (accuracy - base) / (1 - base)

    def against(base: Callable[..., float]) -> Callable[..., float]:
        return lambda accuracy, *others: (accuracy - base(*others)) / (1 - base(*others))

    return run_check(
        "skill",
        answer,
        right,
        [
            Case((0.85, 0.5, 0.55, 0.60), "a blind model above chance"),
            Case((0.45, 0.5, 0.52, 0.48), "worse than a constant answer"),
            Case((0.70, 0.2, 0.1, 0.05), "a count"),
        ],
        [
            Mistake("not scaled", "divide by what there is to gain: 1 minus the baseline",
                    lambda a, *others: a - max(others)),
            Mistake("relative gain", "divide by what there is to gain, 1 minus the baseline, not by the baseline",
                    lambda a, *others: (a - max(others)) / max(others)),
            Mistake("chance only", "a blind model or a constant answer may do better than chance: take the best of the "
                    "three", against(lambda chance, constant, blind: chance)),
            Mistake("blind only", "a constant answer or chance may do better than the blind model: take the best of "
                    "the three", against(lambda chance, constant, blind: blind)),
            Mistake("constant only", "the blind model or chance may do better: take the best of the three",
                    against(lambda chance, constant, blind: constant)),
            Mistake("mean baseline", "the best of the three baselines, not their mean",
                    against(lambda *others: sum(others) / 3)),
            Mistake("worst baseline", "the best of the three baselines, not the worst", against(min)),
            Mistake("cut at zero", "below zero is a result too: worse than a model that does not look",
                    lambda *given: max(0.0, right(*given))),
        ],
        done="right: 0 is what costs no look at the picture, 1 is all, and below 0 something is wrong",
    )  # fmt: skip
