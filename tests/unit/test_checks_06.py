"""Each check of notebook 06 names the mistake of wrong answers."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from exercises import solutions

from vlmlab.checks import nb06

SOLUTIONS = solutions("06_shortcomings.py", {"np": np, "torch": torch})


# ------------------------------------------------------------------ wrong answers, and the mistake each looks like
def fit(objects, constraints):
    return sum(all(o[field] == value for field, value in constraints.items()) for o in objects)


def one_by_one(objects, constraints):
    return [field for field, value in constraints.items() if fit(objects, {field: value}) > 1]


def less_and_less(objects, constraints):
    rest, found = dict(constraints), []
    for field in constraints:
        rest.pop(field)
        if fit(objects, rest) > 1:
            found.append(field)
    return found


def inverse(objects, constraints):
    return [field for field in constraints if field not in SOLUTIONS["needed"](objects, constraints)]


def how_many(objects, constraints):
    return [fit(objects, {k: v for k, v in constraints.items() if k != field}) for field in constraints]


def share(answers):
    return sum(said == lure for said, _, lure in answers) / len(answers)


def mistaken(answers):
    return sum(said != truth for said, truth, _ in answers) / len(answers)


def total(answers):
    return sum(said == lure for said, _, lure in answers)


def squares(z, side):
    rows = round(z.shape[1] ** 0.5)
    return z.mT.unflatten(2, (rows, rows))  # (B, D, rows, rows)


WRONG = [
    ("visible_share", lambda m, a, i: 1 - SOLUTIONS["visible_share"](m, a, i), "hidden share"),
    ("visible_share", lambda m, a, i: float((m == i + 1).mean()), "share of the picture"),
    ("visible_share", lambda m, a, i: float((m == i).sum() / (a == 1).sum()), "number in the mask"),
    ("visible_share", lambda m, a, i: float((m > 0).sum() / (a > 0).sum()), "any object"),
    ("visible_share", lambda m, a, i: float(((m > 0) & (a > 0)).sum() / (a > 0).sum()), "overlap"),
    ("visible_share", lambda m, a, i: 0.5, None),
    ("needed", one_by_one, "alone"),
    ("needed", inverse, "the needless"),
    ("needed", lambda o, c: list(c), "all of them"),
    ("needed", how_many, "numbers"),
    ("needed", less_and_less, "dropped in turn"),
    ("needed", lambda o, c: [], None),
    ("illusion_effect", lambda a, b: share(a), "no control"),
    ("illusion_effect", lambda a, b: mistaken(a) - mistaken(b), "any mistake"),
    ("illusion_effect", lambda a, b: share(b) - share(a), "sign"),
    ("illusion_effect", lambda a, b: total(a) - total(b), "counts"),
    ("illusion_effect", lambda a, b: share(a) / share(b), "ratio"),
    ("illusion_effect", lambda a, b: max(0, share(a) - share(b)), "at least 0"),
    ("pool_squares", lambda z, s: z.view(len(z), -1, s * s, z.shape[2]).mean(2), "neighbours in a row"),
    ("pool_squares", lambda z, s: s * s * F.avg_pool2d(squares(z, s), s).flatten(2).mT, "sum"),
    ("pool_squares", lambda z, s: squares(z, s)[..., ::s, ::s].flatten(2).mT, "one of each"),
    ("pool_squares", lambda z, s: F.avg_pool2d(squares(z, s), s).mT.flatten(2).mT, "columns first"),
    ("pool_squares", lambda z, s: F.avg_pool2d(squares(z, s), s).permute(0, 2, 3, 1), "still a grid"),
    ("pool_squares", lambda z, s: F.max_pool2d(squares(z, s), s).flatten(2).mT, "largest"),
    ("pool_squares", lambda z, s: z, None),
    ("equal_at", lambda d, m: 2 * d + m, "two matrices"),
    ("equal_at", lambda d, m: 2 * d, "no MLP"),
    ("equal_at", lambda d, m: 1.5 * d + 1.5 * m, "no output"),
    ("equal_at", lambda d, m: 4 * d + 3 * m, "scores only"),
    ("equal_at", lambda d, m: d + 0.75 * m, "one FLOP"),
    ("equal_at", lambda d, m: (2 * d + 1.5 * m) ** 2, "its square"),
]


@pytest.mark.parametrize(("name", "answer", "mistake"), WRONG)
def test_wrong_answers(name, answer, mistake, judged):
    verdict = judged(getattr(nb06, name), answer)
    assert not verdict.ok
    assert verdict.mistake == mistake, verdict
    assert verdict.message.startswith(name)


def test_another_right_way_is_right(judged):
    assert judged(nb06.pool_squares, lambda z, s: F.avg_pool2d(squares(z, s), s).flatten(2).mT).ok
    assert judged(nb06.visible_share, lambda m, a, i: np.mean(m[a == 1] == i + 1)).ok
    assert judged(nb06.equal_at, lambda d, m: (8 * d * d + 6 * d * m) / (4 * d)).ok
