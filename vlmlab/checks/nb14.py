"""Checks of notebook 14: gradients from several starts, occlusion, a gate that loses nothing, deletion, a paired
difference, the effect of a patch, neighbours with the same label."""

import math
from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vlmlab.checks.base import Case, Mistake, Verdict, run_check

Function = Callable[[Tensor], Tensor]


def _random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------- 1 · integrated gradients from several starts
def _expected(
    gradient: Function, x: Tensor, starts: Tensor, steps: int, *, shift: float = 0.5, factor: Tensor | None = None
) -> Tensor:
    found = []
    for start in starts:
        line = [gradient(start + (k + shift) / steps * (x - start)) for k in range(steps)]
        found.append((x - start if factor is None else factor) * torch.stack(line).mean(0))
    return torch.stack(found).mean(0)


def expected_gradients(answer: Any) -> Verdict:
    """Exercise 1: the mean of integrated gradients from several starts, by midpoints."""

    def right(gradient: Function, x: Tensor, starts: Tensor, steps: int) -> Tensor:
        return _expected(gradient, x, starts, steps)

    def case(D: int, count: int, steps: int, seed: int) -> Case:
        mixing, shift = _random(D, D, seed=seed), _random(D, seed=seed + 1)

        def gradient(x: Tensor) -> Tensor:  # of the sum of (mixing x + shift)^4 / 4
            return mixing.T @ (mixing @ x + shift) ** 3

        given = (gradient, _random(D, seed=seed + 2), _random(count, D, seed=seed + 3), steps)
        return Case(given, f"{D} inputs, {count} starts, {steps} steps")

    return run_check(
        "expected_gradients",
        answer,
        right,
        [case(3, 2, 5, 0), case(2, 3, 4, 10)],
        [
            Mistake("not times the way", "these are mean gradients; multiply each by its way, x - start",
                    lambda g, x, starts, steps: _expected(g, x, starts, steps, factor=torch.ones_like(x))),
            Mistake("times x", "multiplied by x; the way is x - start, and a start need not be 0",
                    lambda g, x, starts, steps: _expected(g, x, starts, steps, factor=x)),
            Mistake("from zero", "the line begins at its start, not at 0",
                    lambda g, x, starts, steps: right(g, x, torch.zeros_like(starts), steps)),
            Mistake("mean start", "the starts were averaged first; follow a line from each, then take the mean",
                    lambda g, x, starts, steps: right(g, x, starts.mean(0, keepdim=True), steps)),
            Mistake("ends for middles", "those are the steps' first points; take their middles, (k + 1/2) / steps",
                    lambda g, x, starts, steps: _expected(g, x, starts, steps, shift=0.0)),
            Mistake("ends for middles", "those are the steps' last points; take their middles, (k + 1/2) / steps",
                    lambda g, x, starts, steps: _expected(g, x, starts, steps, shift=1.0)),
            Mistake("at x alone", "that is the gradient at x; take its mean along the line",
                    lambda g, x, starts, steps: (x - starts).mean(0) * g(x)),
            Mistake("sum over steps", "the steps were summed; an integral over [0, 1] is their mean",
                    lambda g, x, starts, steps: steps * right(g, x, starts, steps)),
            Mistake("sum over starts", "the starts' results were summed; take their mean",
                    lambda g, x, starts, steps: len(starts) * right(g, x, starts, steps)),
        ],
        done="right; the sum is f(x) less the mean of f over the starts, with enough steps",
    )  # fmt: skip


# ---------------------------------------------------------------- 2 · occlusion
def _covered(picture: Tensor, row: int, column: int, side: int, fill: Tensor) -> Tensor:
    other = picture.clone()
    other[:, row * side : (row + 1) * side, column * side : (column + 1) * side] = fill[:, None, None]
    return other


def _squares(picture: Tensor, side: int) -> tuple[int, int]:
    return picture.shape[1] // side, picture.shape[2] // side


def _each(picture: Tensor, side: int, value: Callable[[int, int], float]) -> Tensor:
    rows, columns = _squares(picture, side)
    return torch.tensor([[value(row, column) for column in range(columns)] for row in range(rows)])


def occlude(answer: Any) -> Verdict:
    """Exercise 2: the occlusion map (rows, columns) of f for a picture (3, H, W), squares of `side` pixels."""

    def right(f: Callable[[Tensor], float], picture: Tensor, side: int, fill: Tensor) -> Tensor:
        return _each(picture, side, lambda row, column: f(picture) - f(_covered(picture, row, column, side, fill)))

    def without(f: Callable[[Tensor], float], picture: Tensor, side: int, fill: Tensor) -> Tensor:
        return _each(picture, side, lambda row, column: f(_covered(picture, row, column, side, fill)))

    def alone(f: Callable[[Tensor], float], picture: Tensor, side: int, fill: Tensor) -> Tensor:
        blank = fill[:, None, None].expand_as(picture)

        def score(row: int, column: int) -> float:
            down, across = slice(row * side, (row + 1) * side), slice(column * side, (column + 1) * side)
            other = blank.clone()
            other[:, down, across] = picture[:, down, across]
            return f(other) - f(blank)

        return _each(picture, side, score)

    def staying(f: Callable[[Tensor], float], picture: Tensor, side: int, fill: Tensor) -> Tensor:
        other = [picture.clone()]

        def score(row: int, column: int) -> float:
            other[0] = _covered(other[0], row, column, side, fill)
            return f(picture) - f(other[0])

        return _each(picture, side, score)

    def case(rows: int, columns: int, side: int, seed: int) -> Case:
        size = (3, rows * side, columns * side)
        weights = _random(*size, seed=seed)

        def f(picture: Tensor) -> float:
            found = (weights * picture).sum()
            return float(found - 0.1 * found**2)

        given = (f, _random(*size, seed=seed + 1), side, _random(3, seed=seed + 2))
        return Case(given, f"{rows} x {columns} squares of {side}")

    return run_check(
        "occlude",
        answer,
        right,
        [case(2, 3, 2, 20), case(3, 2, 4, 30)],
        [
            Mistake("sign", "the sign is turned: positive where f falls without the square", lambda *g: -right(*g)),
            Mistake("no difference", "that is f without the square; take it from f of the whole picture", without),
            Mistake("stays gone", "earlier squares stay covered; begin with the whole picture for each", staying),
            Mistake("square alone", "only the square is shown and all else covered; cover only the square", alone),
            Mistake("black", "the squares are filled with 0; `fill` says which colour",
                    lambda f, picture, side, fill: right(f, picture, side, torch.zeros_like(fill))),
            Mistake("rows and columns exchanged", "rows and columns of the map are exchanged: (H / side, W / side)",
                    lambda *g: right(*g).T),
        ],
        done="right; what the answer loses, square by square",
    )  # fmt: skip


# ---------------------------------------------------------------- 3 · a gate that loses nothing
def gated(answer: Any) -> Verdict:
    """Exercise 3: y silu(z) with a gradient whose products with y and z sum to the value, half each."""
    run = answer
    if callable(answer):

        @wraps(answer)
        def run(y: Tensor, z: Tensor) -> Any:
            y, z = (x.clone().requires_grad_() for x in (y, z))
            value = answer(y, z)
            if not isinstance(value, Tensor):
                return value
            slopes: Any = (None, None)
            if value.requires_grad:
                slopes = torch.autograd.grad(value.sum(), (y, z), allow_unused=True)
            of_y, of_z = (0 * x if g is None else g * x for g, x in zip(slopes, (y, z), strict=True))
            return {"value": value.detach(), "y's part": of_y.detach(), "z's part": of_z.detach()}

    def parts(y: Tensor, z: Tensor, value: float = 1.0, of_y: float = 1.0, of_z: float | Tensor = 1.0) -> Any:
        f = y * F.silu(z)
        return {"value": value * f, "y's part": of_y * f, "z's part": of_z * f}

    def turned(z: Tensor) -> Tensor:  # what z's part is of f if the sigmoid has a gradient and z has none
        return z * (1 - z.sigmoid())

    return run_check(
        "gated",
        run,
        lambda y, z: parts(y, z, of_y=0.5, of_z=0.5),
        [(_random(4, 3, seed=40).double(), _random(4, 3, seed=41).double())],
        [
            Mistake("nothing fixed", "nothing is fixed: detach the sigmoid, and give each factor half",
                    lambda y, z: parts(y, z, of_z=1 + turned(z))),
            Mistake("counted twice", "both factors take all, so the sum is twice the value: give each half",
                    lambda y, z: parts(y, z)),
            Mistake("sigmoid not fixed", "each takes half, but SiLU's sigmoid still has a gradient: detach it",
                    lambda y, z: parts(y, z, of_y=0.5, of_z=0.5 * (1 + turned(z)))),
            Mistake("z fixed", "the wrong factor of SiLU is fixed: in z sigmoid(z) detach the sigmoid",
                    lambda y, z: parts(y, z, of_y=0.5, of_z=0.5 * turned(z))),
            Mistake("value halved", "the value is halved as well; only the gradient should be",
                    lambda y, z: parts(y, z, 0.5, 0.5, 0.5)),
            Mistake("all to y", "nothing is lost, but y takes it all: the gate is half of the product's cause",
                    lambda y, z: parts(y, z, of_z=0.0)),
            Mistake("all to z", "nothing is lost, but z takes it all: y is half of the product's cause",
                    lambda y, z: parts(y, z, of_y=0.0)),
            Mistake("no gradient", "the result has no gradient at all: do not detach all of it",
                    lambda y, z: parts(y, z, of_y=0.0, of_z=0.0)),
        ],
        done="right; the value is the same and nothing is lost on the way back",
    )  # fmt: skip


# ---------------------------------------------------------------- 4 · the area under deletion
Scores = Callable[[Tensor], Tensor]


def _curve(f: Scores, map: Tensor, steps: int, falling: bool = True) -> Tensor:
    """f (steps + 1,) with 0, P / steps, ... patches gone."""
    P = map.numel()
    order = map.flatten().argsort(descending=falling)
    gone = torch.zeros(steps + 1, P, dtype=torch.bool)
    for k in range(steps + 1):
        gone[k, order[: k * P // steps]] = True
    return f(gone)


def _area(curve: Tensor) -> float:
    return float(torch.trapezoid((curve - curve[0]).exp(), dx=1 / (len(curve) - 1)))


def deletion_area(answer: Any) -> Verdict:
    """Exercise 4: the area under p(answer) relative to the whole picture's while patches go, highest first."""

    def own_step(f: Scores, map: Tensor, steps: int) -> Tensor:
        P = map.numel()
        order, gone = map.flatten().argsort(descending=True), torch.zeros(steps + 1, P, dtype=torch.bool)
        for k in range(steps):
            gone[k + 1, order[k * P // steps : (k + 1) * P // steps]] = True
        return f(gone)

    def case(rows: int, columns: int, steps: int, seed: int) -> Case:
        weights = _random(rows * columns, seed=seed).abs()

        def f(gone: Tensor) -> Tensor:  # log p of an answer that leans on some patches more than on others
            return -0.3 - (gone * weights).sum(-1) ** 1.5 / 4

        return Case((f, _random(rows, columns, seed=seed + 1), steps), f"{rows} x {columns} patches, {steps} steps")

    return run_check(
        "deletion_area",
        answer,
        lambda f, map, steps: _area(_curve(f, map, steps)),
        [case(2, 4, 4, 50), case(3, 4, 6, 60)],
        [
            Mistake("lowest first", "the lowest values go first, or the highest come, which has the same area; take "
                    "the highest away first",
                    lambda f, map, steps: _area(_curve(f, map, steps, falling=False))),
            Mistake("logarithm", "f is log p; p is exp of it",
                    lambda f, map, steps: float(torch.trapezoid(_curve(f, map, steps), dx=1 / steps))),
            Mistake("logarithm", "differences of log p are not ratios of p: take exp",
                    lambda f, map, steps: float(torch.trapezoid(
                        _curve(f, map, steps) - _curve(f, map, steps)[0], dx=1 / steps))),
            Mistake("not relative", "divide p by that of the whole picture",
                    lambda f, map, steps: float(torch.trapezoid(_curve(f, map, steps).exp(), dx=1 / steps))),
            Mistake("mean of the points", "the mean counts both ends in full; trapezia count them half",
                    lambda f, map, steps: float((_curve(f, map, steps) - _curve(f, map, steps)[0]).exp().mean())),
            Mistake("width of a step", "an interval is 1 / steps wide, so that the whole is 1",
                    lambda f, map, steps: steps * _area(_curve(f, map, steps))),
            Mistake("patches come back", "each step takes its own patches alone; those before it stay gone",
                    lambda f, map, steps: _area(own_step(f, map, steps))),
        ],
        done="right; 1 for an answer that no patch matters to",
    )  # fmt: skip


# ---------------------------------------------------------------- 5 · a paired difference
def over_control(answer: Any) -> Verdict:
    """Exercise 5: the mean difference of two measures of the same questions, with its interval."""

    def interval(values: np.ndarray, t: float, ddof: int = 1, root: bool = True) -> tuple[float, float, float]:
        middle = float(values.mean())
        half = t * float(values.std(ddof=ddof)) / (math.sqrt(len(values)) if root else 1)
        return middle, middle - half, middle + half

    def apart(method: np.ndarray, control: np.ndarray, t: float) -> tuple[float, float, float]:
        half = t * math.sqrt((method.var(ddof=1) + control.var(ddof=1)) / len(method))
        middle = float(method.mean() - control.mean())
        return middle, middle - half, middle + half

    def right(method: np.ndarray, control: np.ndarray, t: float) -> tuple[float, float, float]:
        return interval(method - control, t)

    def case(n: int, t: float, seed: int) -> Case:
        draw = np.random.default_rng(seed)
        hard = draw.normal(0.5, 0.3, n)  # what a question's difficulty does to both
        given = (hard + draw.normal(-0.1, 0.1, n), hard + draw.normal(0, 0.1, n), t)
        return Case(given, f"{n} questions")

    return run_check(
        "over_control",
        answer,
        right,
        [case(6, 2.571, 1), case(12, 2.201, 2)],
        [
            Mistake("unpaired", "they answer the same questions: take differences first, in which what is hard cancels",
                    apart),
            Mistake("no root of n", "that is how far questions differ; their mean is known better by sqrt(n)",
                    lambda m, c, t: interval(m - c, t, root=False)),
            Mistake("n for n - 1", "the mean was estimated as well: divide the squares by n - 1 (ddof=1)",
                    lambda m, c, t: interval(m - c, t, ddof=0)),
            Mistake("normal quantile", "1.96 needs many questions; with few, Student's t, which is given",
                    lambda m, c, t: interval(m - c, 1.96)),
            Mistake("turned", "method less control, not the other way", lambda m, c, t: right(c, m, t)),
            Mistake("interval of the method", "the method alone says nothing; subtract the control first",
                    lambda m, c, t: interval(m, t)),
        ],
        done="right; it says whether the control was beaten on these questions",
    )  # fmt: skip


# ---------------------------------------------------------------- 6 · the effect of a patch
def effect(answer: Any) -> Verdict:
    """Exercise 6: where a patched run lies between A (0) and B (1), from log p (3, 2) of A's and B's answers."""

    def between(values: Tensor) -> float:
        a, b, patched = values
        return float((patched - a) / (b - a))

    def odds(log_p: Tensor) -> Tensor:
        return log_p[:, 1] - log_p[:, 0]

    return run_check(
        "effect",
        answer,
        lambda log_p: between(odds(log_p)),
        [
            Case((torch.tensor([[-0.2, -3.0], [-2.5, -0.4], [-1.0, -1.3]]),), "a patch with some effect"),
            Case((torch.tensor([[-0.1, -4.0], [-3.0, -0.3], [-5.0, -0.2]]),), "a patch that goes beyond B"),
        ],
        [
            Mistake("one answer", "only B's answer counts here; take the log-odds, B's less A's",
                    lambda log_p: between(log_p[:, 1])),
            Mistake("one answer", "only A's answer counts here; take the log-odds, B's less A's",
                    lambda log_p: between(log_p[:, 0])),
            Mistake("turned", "0 is like A and 1 is like B; yours is turned", lambda log_p: 1 - between(odds(log_p))),
            Mistake("not scaled", "divide by how far A and B are apart",
                    lambda log_p: float(odds(log_p)[2] - odds(log_p)[0])),
            Mistake("A forgotten", "take A's log-odds away, above and below",
                    lambda log_p: float(odds(log_p)[2] / odds(log_p)[1])),
            Mistake("probabilities", "those are differences of p; log-odds are differences of log p",
                    lambda log_p: between(odds(log_p.exp()))),
            Mistake("cut off", "do not cut it off at 0 and 1: a patch may go further than B",
                    lambda log_p: min(1.0, max(0.0, between(odds(log_p))))),
        ],
        done="right; 0 like A, 1 like B, and it may lie outside",
    )  # fmt: skip


# ---------------------------------------------------------------- 7 · neighbours with the same label
def neighbour_share(answer: Any) -> Verdict:
    """Exercise 7: the share of the nearest neighbours from other scenes that have a point's label."""

    def nearest(x: np.ndarray, out: np.ndarray, count: int, sign: int = 1) -> np.ndarray:
        distances = np.linalg.norm(x[:, None] - x[None], axis=-1)
        distances[out] = sign * np.inf
        return np.argsort(sign * distances, 1, kind="stable")[:, :count]

    def share(x: np.ndarray, labels: np.ndarray, out: np.ndarray, count: int, sign: int = 1) -> float:
        return float((labels[nearest(x, out, count, sign)] == labels[:, None]).mean())

    def other(scene: np.ndarray) -> np.ndarray:
        return scene[:, None] == scene

    def voted(x: np.ndarray, labels: np.ndarray, scene: np.ndarray, count: int) -> float:
        same = labels[nearest(x, other(scene), count)] == labels[:, None]
        return float((same.mean(1) > 0.5).mean())

    def case(n: int, count: int, seed: int) -> Case:
        draw = np.random.default_rng(seed)
        scene, labels = np.repeat(np.arange(n // 3), 3), draw.integers(0, 3, n)
        places = draw.normal(0, 1, (n // 3, 4))[scene] + 1.5 * np.eye(3, 4)[labels]
        return Case((places + draw.normal(0, 0.4, (n, 4)), labels, scene, count), f"{n} points, {count} neighbours")

    return run_check(
        "neighbour_share",
        answer,
        lambda x, labels, scene, count: share(x, labels, other(scene), count),
        [case(30, 4, 3), case(24, 3, 4)],
        [
            Mistake("itself counted", "a point is its own nearest neighbour, and has its label: leave it out",
                    lambda x, labels, scene, count: share(x, labels, np.zeros((len(x),) * 2, bool), count)),
            Mistake("same scene counted", "neighbours from the same scene are alike whatever the label: leave them out",
                    lambda x, labels, scene, count: share(x, labels, np.eye(len(x), dtype=bool), count)),
            Mistake("farthest", "those are the farthest points; sort the distances rising",
                    lambda x, labels, scene, count: share(x, labels, other(scene), count, -1)),
            Mistake("majority", "that counts points whose neighbours agree by majority; take the mean share",
                    voted),
            Mistake("one neighbour", "only the nearest neighbour counts here; take the `count` nearest",
                    lambda x, labels, scene, count: share(x, labels, other(scene), 1)),
        ],
        done="right; compare it with the same of shuffled labels",
        tolerance=1e-9,
    )  # fmt: skip
