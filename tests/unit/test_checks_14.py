"""Each check of notebook 14 names the mistake of wrong answers."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from exercises import solutions

from vlmlab.checks import nb14

SOLUTIONS = solutions("14_attribution_and_embeddings.py", {"np": np, "torch": torch})


# ------------------------------------------------------------------ wrong answers, and the mistake each looks like
def walked(at=lambda k, steps: (k + 0.5) / steps, way=lambda x, start: x - start, begin=None, per_step=True):
    """Exercise 1 with other points, another factor, another beginning, or a sum over steps."""

    def answer(gradient, x, starts, steps):
        found = torch.zeros_like(x)
        for start in starts:
            first = start if begin is None else begin(starts)
            for k in range(steps):
                found = found + way(x, first) * gradient(first + at(k, steps) * (x - first))
        return found / len(starts) / (steps if per_step else 1)

    return answer


def each_square(value):
    """Exercise 2: value(f, picture, square, fill), the square as two slices."""

    def answer(f, picture, side, fill):
        rows, columns = picture.shape[1] // side, picture.shape[2] // side
        squares = [
            [(slice(r * side, r * side + side), slice(c * side, c * side + side)) for c in range(columns)]
            for r in range(rows)
        ]
        return torch.tensor([[value(f, picture, square, fill) for square in row] for row in squares])

    return answer


def hidden(picture, square, fill):
    other = picture.clone()
    other[(slice(None), *square)] = fill[:, None, None]
    return other


def shown(picture, square, fill):
    other = fill[:, None, None].expand_as(picture).clone()
    other[(slice(None), *square)] = picture[(slice(None), *square)]
    return other


def one_canvas(f, picture, side, fill):
    other, found = picture.clone(), torch.zeros(picture.shape[1] // side, picture.shape[2] // side)
    for r in range(found.shape[0]):
        for c in range(found.shape[1]):
            other[:, r * side : (r + 1) * side, c * side : (c + 1) * side] = fill[:, None, None]
            found[r, c] = f(picture) - f(other)
    return found


def in_place(f, picture, side, fill):
    whole = f(picture)
    picture[:, :side, :side] = fill[:, None, None]
    return torch.full((picture.shape[1] // side, picture.shape[2] // side), whole - f(picture))


def halved(product):
    return (product + product.detach()) / 2


def removed(order=lambda m: m.argsort(descending=True), first=0, exp=True, gone=True, area=None, own=False):
    """Exercise 4 with something changed."""

    def answer(f, map, steps):
        P = map.numel()
        ranked, taken = order(map.flatten()), torch.zeros(steps + 1, P, dtype=torch.bool)
        for k in range(steps + 1):
            begin = max(0, (k - 1) * P // steps) if own else 0
            taken[k, ranked[begin : k * P // steps]] = True
        y = f(taken if gone else ~taken)
        y = y if first is None else y - y[first]
        y = y.exp() if exp else y
        return float(torch.trapezoid(y, dx=1 / steps) if area is None else area(y))

    return answer


def spread(values, t, ddof=1):
    half = t * values.std(ddof=ddof) / len(values) ** 0.5
    return values.mean(), values.mean() - half, values.mean() + half


def two_samples(method, control, t):
    middle = method.mean() - control.mean()
    half = t * ((method.var(ddof=1) + control.var(ddof=1)) / len(method)) ** 0.5
    return middle, middle - half, middle + half


def between(number):
    """Exercise 6 by another number of each row."""

    def answer(log_p):
        a, b, patched = (number(row) for row in log_p)
        return float((patched - a) / (b - a))

    return answer


def odds(row):
    return row[1] - row[0]


def agreeing(leave_out, turn=1, reduce=np.mean, few=None):
    """Exercise 7 with other points left out, other neighbours, another mean."""

    def answer(x, labels, scene, count):
        distances = turn * np.linalg.norm(x[:, None] - x, axis=-1)
        distances[leave_out(scene)] = np.inf
        nearest = distances.argsort(1)[:, : few or count]
        return float(reduce(labels[nearest] == labels[:, None]))

    return answer


def same_scene(scene):
    return scene[:, None] == scene


WRONG = [
    ("expected_gradients", walked(way=lambda x, start: 1.0), "not times the way"),
    ("expected_gradients", walked(way=lambda x, start: x), "times x"),
    ("expected_gradients", walked(begin=lambda starts: 0 * starts[0]), "from zero"),
    ("expected_gradients", walked(begin=lambda starts: starts.mean(0)), "mean start"),
    ("expected_gradients", walked(at=lambda k, steps: k / steps), "ends for middles"),
    ("expected_gradients", walked(at=lambda k, steps: (k + 1) / steps), "ends for middles"),
    ("expected_gradients", walked(at=lambda k, steps: 1.0), "at x alone"),
    ("expected_gradients", walked(per_step=False), "sum over steps"),
    ("expected_gradients", lambda g, x, s, n: len(s) * walked()(g, x, s, n), "sum over starts"),
    ("expected_gradients", lambda g, x, s, n: g(x), None),
    ("occlude", each_square(lambda f, p, at, fill: f(hidden(p, at, fill)) - f(p)), "sign"),
    ("occlude", each_square(lambda f, p, at, fill: f(hidden(p, at, fill))), "no difference"),
    ("occlude", each_square(lambda f, p, at, fill: f(p) - f(hidden(p, at, 0 * fill))), "black"),
    (
        "occlude",
        each_square(lambda f, p, at, fill: f(shown(p, at, fill)) - f(fill[:, None, None].expand_as(p))),
        "square alone",
    ),
    ("occlude", one_canvas, "stays gone"),
    ("occlude", lambda *given: SOLUTIONS["occlude"](*given).T, "rows and columns exchanged"),
    ("occlude", in_place, "changed its input"),
    ("occlude", each_square(lambda f, p, at, fill: f(p) - f(hidden(p, at, fill + 1))), None),
    ("gated", lambda y, z: y * F.silu(z), "nothing fixed"),
    ("gated", lambda y, z: y * z * z.sigmoid().detach(), "counted twice"),
    ("gated", lambda y, z: halved(y * F.silu(z)), "sigmoid not fixed"),
    ("gated", lambda y, z: halved(y * z.detach() * z.sigmoid()), "z fixed"),
    ("gated", lambda y, z: y * z * z.sigmoid().detach() / 2, "value halved"),
    ("gated", lambda y, z: y * F.silu(z).detach(), "all to y"),
    ("gated", lambda y, z: y.detach() * z * z.sigmoid().detach(), "all to z"),
    ("gated", lambda y, z: (y * F.silu(z)).detach(), "no gradient"),
    ("gated", lambda y, z: y + z, None),
    ("deletion_area", removed(order=lambda m: m.argsort()), "lowest first"),
    ("deletion_area", removed(gone=False, first=-1), "lowest first"),
    ("deletion_area", removed(first=None, exp=False), "logarithm"),
    ("deletion_area", removed(exp=False), "logarithm"),
    ("deletion_area", removed(first=None), "not relative"),
    ("deletion_area", removed(area=torch.mean), "mean of the points"),
    ("deletion_area", removed(area=torch.trapezoid), "width of a step"),
    ("deletion_area", removed(own=True), "patches come back"),
    ("deletion_area", removed(order=lambda m: torch.arange(len(m))), None),
    ("over_control", two_samples, "unpaired"),
    ("over_control", lambda m, c, t: spread(m - c, t * len(m) ** 0.5), "no root of n"),
    ("over_control", lambda m, c, t: spread(m - c, t, ddof=0), "n for n - 1"),
    ("over_control", lambda m, c, t: spread(m - c, 1.96), "normal quantile"),
    ("over_control", lambda m, c, t: spread(c - m, t), "turned"),
    ("over_control", lambda m, c, t: spread(m, t), "interval of the method"),
    ("over_control", lambda m, c, t: spread(m / c, t), None),
    ("effect", between(lambda row: row[1]), "one answer"),
    ("effect", between(lambda row: row[0]), "one answer"),
    ("effect", lambda log_p: 1 - between(odds)(log_p), "turned"),
    ("effect", lambda log_p: float(odds(log_p[2]) - odds(log_p[0])), "not scaled"),
    ("effect", lambda log_p: float(odds(log_p[2]) / odds(log_p[1])), "A forgotten"),
    ("effect", lambda log_p: between(odds)(log_p.exp()), "probabilities"),
    ("effect", lambda log_p: min(max(between(odds)(log_p), 0.0), 1.0), "cut off"),
    ("effect", lambda log_p: 0.5, None),
    ("neighbour_share", agreeing(lambda scene: np.zeros((len(scene),) * 2, bool)), "itself counted"),
    ("neighbour_share", agreeing(lambda scene: np.eye(len(scene), dtype=bool)), "same scene counted"),
    ("neighbour_share", agreeing(same_scene, turn=-1), "farthest"),
    ("neighbour_share", agreeing(same_scene, reduce=lambda same: (same.mean(1) > 0.5).mean()), "majority"),
    ("neighbour_share", agreeing(same_scene, few=1), "one neighbour"),
    ("neighbour_share", lambda x, labels, scene, count: 1 / 3, None),
]


@pytest.mark.parametrize(("name", "answer", "mistake"), WRONG)
def test_wrong_answers(name, answer, mistake, judged):
    verdict = judged(getattr(nb14, name), answer)
    assert not verdict.ok
    assert verdict.mistake == mistake, verdict
    assert verdict.message.startswith(name)


def test_another_right_way_is_right(judged):
    assert judged(nb14.expected_gradients, walked()).ok
    assert judged(nb14.occlude, each_square(lambda f, p, at, fill: f(p) - f(hidden(p, at, fill)))).ok
    assert judged(nb14.gated, lambda y, z: halved(y * (z * torch.sigmoid(z.detach())))).ok
    assert judged(nb14.deletion_area, removed()).ok
    assert judged(nb14.over_control, lambda m, c, t: spread(m - c, t)).ok
    assert judged(nb14.effect, between(odds)).ok
    assert judged(nb14.neighbour_share, agreeing(same_scene)).ok
