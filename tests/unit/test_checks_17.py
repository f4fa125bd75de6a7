"""Each check of notebook 17 names the mistake of wrong answers."""

import math

import numpy as np
import pytest
from exercises import solutions

from vlmlab.checks import nb17

SOLUTIONS = solutions("17_scoreboard.py", {"np": np, "math": math})


# ------------------------------------------------------------------ wrong answers, and the mistake each looks like
def tail(k, n):
    return sum(math.comb(n, i) for i in range(k, n + 1)) / 2**n


def coins(p):
    def answer(first, second):
        b = sum(x and not y for x, y in zip(first, second, strict=True))
        c = sum(y and not x for x, y in zip(first, second, strict=True))
        return p(b, c, len(first))

    return answer


def beaten_by(rule, pick=sorted):
    def answer(points):
        return pick(n for n, (c, a) in points.items() if not any(rule(x, c, y, a) for x, y in points.values()))

    return answer


def beats(x, c, y, a):  # another's cost and one's own, another's accuracy and one's own
    return x <= c and y >= a and (x < c or y > a)


def swept(points):
    found, top = [], -1.0
    for name, (_, accuracy) in sorted(points.items(), key=lambda item: item[1][0]):
        if accuracy >= top:
            found, top = [*found, name], accuracy
    return sorted(found)


def best(points):
    return sorted(n for n, (_, a) in points.items() if a == max(y for _, y in points.values()))


def ends(points):
    return sorted({*best(points), *(n for n, (c, _) in points.items() if c == min(x for x, _ in points.values()))})


def quotient(points):
    return sorted(n for n, (c, a) in points.items() if a / c == max(y / x for x, y in points.values()))


def ranks(draws, ties=0.5, sign=1, first=1):
    d = sign * draws
    equal = (d[:, None, :] == d[:, :, None]).sum(-1) - 1
    return first + (d[:, None, :] > d[:, :, None]).sum(-1) + ties * equal


def lifted(base):
    return lambda a, *others: (a - base(*others)) / (1 - base(*others))


WRONG = [
    ("sign_test", coins(lambda b, c, n: tail(max(b, c), b + c)), "one side"),
    ("sign_test", coins(lambda b, c, n: tail(b, b + c)), "one side"),
    ("sign_test", coins(lambda b, c, n: 2 * tail(max(b, c), b + c)), "above one"),
    ("sign_test", coins(lambda b, c, n: min(1, 2 * tail(max(b, c) + 1, b + c))), "strictly more"),
    ("sign_test", coins(lambda b, c, n: min(1, 2 * tail(max(b, c), n))), "questions they agree on"),
    ("sign_test", coins(lambda b, c, n: math.erfc(abs(b - c) / math.sqrt(2 * (b + c))) if b + c else 1.0),
     "chi-square"),
    ("sign_test", coins(lambda b, c, n: math.erfc(max(abs(b - c) - 1, 0) / math.sqrt(2 * (b + c))) if b + c else 1.0),
     "chi-square"),
    ("sign_test", coins(lambda b, c, n: (b - c) / n), None),
    ("pareto_front", beaten_by(beats, pick=lambda names: sorted(names)[::-1]), "not sorted"),
    ("pareto_front", beaten_by(lambda x, c, y, a: beats(-x, -c, y, a)), "cost turned"),
    ("pareto_front", beaten_by(lambda x, c, y, a: x < c and y > a), "strict"),
    ("pareto_front", beaten_by(lambda x, c, y, a: x < c or y > a), "better in one"),
    ("pareto_front", swept, "strict"),  # a sweep by cost that lets ties pass
    ("pareto_front", best, "best only"),
    ("pareto_front", ends, "two ends"),
    ("pareto_front", quotient, "ratio"),
    ("pareto_front", lambda points: sorted(set(points) - set(SOLUTIONS["pareto_front"](points))), "the beaten"),
    ("mean_rank", lambda d: ranks(d, sign=-1).mean(0), "upside down"),
    ("mean_rank", lambda d: ranks(d, first=0).mean(0), "from zero"),
    ("mean_rank", lambda d: 1 + (-d).argsort(1).mean(0), "one argsort"),
    ("mean_rank", lambda d: ranks(d, 0.0).mean(0), "ties"),
    ("mean_rank", lambda d: ranks(d, 1.0).mean(0), "ties"),
    ("mean_rank", lambda d: 1 + (-d).argsort(1, kind="stable").argsort(1, kind="stable").mean(0), "ties"),
    ("mean_rank", lambda d: ranks(d.mean(0)[None])[0], "rank of the mean"),
    ("mean_rank", lambda d: ranks(d).mean(1), "axis"),
    ("skill", lambda a, *others: a - max(others), "not scaled"),
    ("skill", lambda a, *others: (a - max(others)) / max(others), "relative gain"),
    ("skill", lifted(lambda chance, constant, blind: chance), "chance only"),
    ("skill", lifted(lambda chance, constant, blind: constant), "constant only"),
    ("skill", lifted(lambda chance, constant, blind: blind), "blind only"),
    ("skill", lifted(lambda *others: sum(others) / 3), "mean baseline"),
    ("skill", lifted(min), "worst baseline"),
    ("skill", lambda a, *others: max(0.0, lifted(max)(a, *others)), "cut at zero"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "answer", "mistake"), WRONG)
def test_wrong_answers(name, answer, mistake, judged):
    verdict = judged(getattr(nb17, name), answer)
    assert not verdict.ok
    assert verdict.mistake == mistake, verdict
    assert verdict.message.startswith(name)


def test_the_toy_numbers_of_the_chapter():
    first, second = [True] * 8 + [False] * 2, [True] * 5 + [False] * 3 + [True, False]
    assert SOLUTIONS["sign_test"](first, second) == pytest.approx(0.625)
    assert SOLUTIONS["skill"](0.8, 0.5, 0.6, 0.55) == pytest.approx(0.5)


def test_ranks_agree_with_scipys(judged):
    stats = pytest.importorskip("scipy.stats")
    assert judged(nb17.mean_rank, lambda draws: stats.rankdata(-draws, axis=1).mean(0)).ok
