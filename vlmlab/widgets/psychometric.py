"""Psychometric curves: one object moves sideways, and P(answer) of each model is followed. Notebook 15.

x is the object's distance from the floor's middle along the viewer's right, in scene units. The fit is a logistic
curve, P(x) = 1 / (1 + exp(-slope (x - middle))), by least squares on P: a model's P at an x is exact, so intervals tell
how far the points lie from such a curve, not how they would vary if they were drawn again.
Sources: Wichmann and Hill 2001 (Perception & Psychophysics 63) for the curve; Fieller 1954 for the middle's interval.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import log
from typing import NamedTuple

import numpy as np

from vlmlab.errors import BadInput, MissingDependency
from vlmlab.scenes import Scene
from vlmlab.widgets.asking import Asked, Question, ask
from vlmlab.widgets.edits import Refused, move
from vlmlab.widgets.jobs import Steps

FINE = 401  # places at which the truth is computed to find the ambiguous band
STEEPEST = 2 * log(99)  # log odds that a curve may rise by from one place to the next: from 1 % to 99 %
LEAST = 4  # places that a fit needs
FLAT = 1e-6  # probabilities that differ by less have no slope


class Interval(NamedTuple):
    """A value with its 95 % interval; low and high are None where the data set no bound."""

    value: float
    low: float | None
    high: float | None


class Fit(NamedTuple):
    """A logistic curve. slope: log odds a scene unit. middle: where P = 0.5, None where the slope may be 0. bias: the
    middle less the true border, None without either. steep: the places are too far apart to tell how steep it is."""

    slope: Interval
    middle: Interval | None
    bias: Interval | None
    steep: bool


@dataclass(frozen=True)
class Point:
    """One place. truth: the right answer or None; reason: why the scene refuses the place, "" where it was asked.

    probability: model -> P(target) among the options; empty where it was not asked.
    """

    x: float
    truth: str | None
    probability: dict[str, float]
    reason: str = ""


@dataclass(frozen=True)
class Sweep:
    """A sweep. target: the answer whose probability is followed. bands: (from, to) of x where nobody should be asked.

    border: the middle of the band at which the truth changes; None where there is not exactly one.
    """

    question: str
    moved: str
    target: str
    points: tuple[Point, ...]
    bands: tuple[tuple[float, float], ...]
    border: float | None
    fits: dict[str, Fit]


def sideways(scene: Scene, index: int, x: float) -> Scene:
    """The scene with an object moved to x along the viewer's right, at its depth and height. Raises Refused."""
    right, item = scene.geometry.right, scene.objects[index]
    step = x - position(scene, index)
    moved = move(scene, index, item.x + step * float(right[0]), item.y + step * float(right[1]))
    if moved.objects[index].z != item.z:
        raise Refused(f"the {item.colour} {item.kind} would stand on or fall from something")
    return moved


def position(scene: Scene, index: int) -> float:
    """Where an object is along the viewer's right."""
    return float(np.array([scene.objects[index].x, scene.objects[index].y]) @ scene.geometry.right)


def steps(
    scene: Scene,
    question: Question,
    index: int,
    places: Sequence[float],
    probabilities: Callable[[Scene, Asked], Mapping[str, float]],
) -> Steps[Sweep]:
    """The steps of a sweep of object `index` over `places`, for a Job; places that the scene refuses are kept apart.

    probabilities: of a scene and its question, model -> P(the first option).
    Raises BadInput for a question without options or fewer than LEAST places.
    """
    asked = ask(scene, question)
    if not asked.options or asked.program is None:
        raise BadInput("a sweep follows the answer to a template; choose one in the place of free text")
    if len(set(places)) < LEAST:
        raise BadInput(f"a sweep needs at least {LEAST} different places, got {len(set(places))}")
    points = []
    for number, x in enumerate(sorted(set(places)), 1):
        try:
            here = sideways(scene, index, x)
        except Refused as refusal:
            points.append(Point(x, None, {}, str(refusal)))
        else:
            there = ask(here, question)
            points.append(Point(x, there.truth, dict(probabilities(here, there))))
        yield number / len(set(places))
    seen = [point for point in points if point.probability]
    bands, border = _bands(scene, question, index, min(places), max(places))
    fits = {}
    if len(seen) >= LEAST:
        xs = [point.x for point in seen]
        fits = {name: fit(xs, [point.probability[name] for point in seen], border) for name in seen[0].probability}
    moved = scene.objects[index]
    return Sweep(asked.text, f"{moved.colour} {moved.kind}", asked.options[0], tuple(points), bands, border, fits)


def _bands(
    scene: Scene, question: Question, index: int, low: float, high: float
) -> tuple[tuple[tuple[float, float], ...], float | None]:
    """The ambiguous stretches between two places, to a 1/FINE of them, whether or not the object has room there."""
    xs = np.linspace(low, high, FINE)
    right, item, at = scene.geometry.right, scene.objects[index], position(scene, index)
    truths = []
    for x in xs:
        there = scene.edit(index, x=item.x + float((x - at) * right[0]), y=item.y + float((x - at) * right[1]))
        truths.append(ask(there, question).truth)
    bands, borders, start = [], [], 0
    for stop in range(1, FINE + 1):
        if stop < FINE and truths[stop] == truths[start]:
            continue
        if truths[start] is None:
            bands.append((float(xs[start]), float(xs[stop - 1])))
            if start > 0 and stop < FINE and truths[start - 1] != truths[stop]:
                borders.append(sum(bands[-1]) / 2)
        elif stop < FINE and truths[stop] is not None:
            borders.append(float(xs[stop - 1] + xs[stop]) / 2)
        start = stop
    return tuple(bands), borders[0] if len(borders) == 1 else None


def fit(x: Sequence[float], p: Sequence[float], border: float | None = None) -> Fit:
    """A logistic curve through probabilities p at places x; `border`: the x at which the truth changes.

    Raises BadInput for fewer than LEAST different places, MissingDependency without scipy.
    """
    try:
        from scipy.optimize import least_squares
        from scipy.special import expit, logit
        from scipy.stats import t
    except ImportError:
        raise MissingDependency("scipy", "fitting a psychometric curve") from None
    xs, ps = np.asarray(x, float), np.asarray(p, float)
    if len(np.unique(xs)) < LEAST or len(xs) != len(ps):
        raise BadInput(f"a curve needs {LEAST} or more different places and one probability for each")
    if np.ptp(ps) < FLAT:
        return Fit(Interval(0.0, None, None), None, None, False)
    centre, width = float(xs.mean()), float(np.ptp(xs))
    z = (xs - centre) / width
    steepest = STEEPEST / float(np.diff(np.unique(z)).min())
    design = np.stack([np.ones_like(z), z], -1)  # (n, 2)

    def residuals(ab: np.ndarray) -> np.ndarray:
        return expit(design @ ab) - ps

    def slopes(ab: np.ndarray) -> np.ndarray:
        curve = expit(design @ ab)
        return (curve * (1 - curve))[:, None] * design

    start = np.linalg.lstsq(design, logit(ps.clip(0.02, 0.98)), rcond=None)[0]
    start[1] = np.clip(start[1], -0.9 * steepest, 0.9 * steepest)
    bounds = ([-np.inf, -steepest], [np.inf, steepest])
    found = least_squares(residuals, start, slopes, bounds, xtol=1e-14, ftol=1e-14, gtol=1e-14, max_nfev=2000)
    a, b = (float(value) for value in found.x)
    if abs(b) > 0.99 * steepest:
        return _steep(xs, centre - width * a / b, b / width, border)
    spread = 2 * found.cost / (len(z) - 2) * np.linalg.pinv(found.jac.T @ found.jac)  # covariance of a, b
    reach = float(t.ppf(0.975, len(z) - 2))
    half = reach * float(spread[1, 1]) ** 0.5
    slope = Interval(b / width, (b - half) / width, (b + half) / width)
    edges = _fieller(a, b, spread * reach**2)
    if edges is None:
        return Fit(slope, None, None, False)
    middle = Interval(*(centre + width * value for value in (-a / b, *edges)))
    return Fit(slope, middle, _less(middle, border), False)


def _steep(xs: np.ndarray, middle: float, slope: float, border: float | None) -> Fit:
    """The fit of what jumps between two places: somewhere between them, at least so steep."""
    below, above = xs[xs < middle], xs[xs >= middle]
    at = Interval(middle, float(below.max()) if len(below) else None, float(above.min()) if len(above) else None)
    low, high = (slope, None) if slope > 0 else (None, slope)
    return Fit(Interval(slope, low, high), at, _less(at, border), True)


def _fieller(a: float, b: float, spread: np.ndarray) -> tuple[float, float] | None:
    """The interval of -a/b for estimates with covariance `spread` (times the squared quantile); None if unbounded."""
    lead = b * b - spread[1, 1]
    if lead <= 0:
        return None
    half, end = a * b - spread[0, 1], a * a - spread[0, 0]
    root = max(half * half - lead * end, 0.0) ** 0.5
    return float((-half - root) / lead), float((-half + root) / lead)


def _less(middle: Interval, border: float | None) -> Interval | None:
    if border is None:
        return None
    return Interval(*(None if value is None else value - border for value in middle))  # type: ignore[arg-type]
