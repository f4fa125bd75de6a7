"""Psychometric curves: planted curves come back, planted models have the curves they must have."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import curve_fit
from scipy.special import expit
from scipy.stats import t

from vlmlab.errors import BadInput
from vlmlab.scenes.relations import margin
from vlmlab.widgets import Probe
from vlmlab.widgets.asking import Question
from vlmlab.widgets.edits import Refused
from vlmlab.widgets.psychometric import LEAST, fit, position, sideways

X = np.linspace(-1.5, 1.5, 13)


@settings(max_examples=40, deadline=None)
@given(st.floats(-1.0, 1.0), st.floats(0.5, 12.0), st.sampled_from([-1, 1]))
def test_a_planted_curve_comes_back(middle, slope, sign):
    found = fit(X, expit(sign * slope * (X - middle)), border=0.25)
    assert not found.steep
    assert found.slope.value == pytest.approx(sign * slope, rel=1e-5)
    assert found.middle.value == pytest.approx(middle, abs=1e-5)
    assert found.bias.value == pytest.approx(middle - 0.25, abs=1e-5)
    for interval in (found.slope, found.middle, found.bias):
        assert interval.low - 1e-9 <= interval.value <= interval.high + 1e-9
        assert interval.high - interval.low < 1e-3


def test_a_planted_curve_may_lie_anywhere():
    p = expit(3 * (X - 0.2)) + np.random.default_rng(0).normal(0, 0.03, len(X))
    here, there = fit(X, p), fit(100 + 5 * X, p)
    assert there.slope.value == pytest.approx(here.slope.value / 5, rel=1e-8)
    assert there.middle.low == pytest.approx(100 + 5 * here.middle.low, rel=1e-8)
    assert fit(X[::-1], p[::-1]).middle == pytest.approx(here.middle, rel=1e-8)


def test_the_interval_of_the_slope_is_that_of_least_squares():
    p = expit(-2 * (X + 0.3)) + np.random.default_rng(1).normal(0, 0.05, len(X))
    values, spread = curve_fit(lambda x, slope, middle: expit(slope * (x - middle)), X, p, [-1, 0], ftol=1e-14)
    found = fit(X, p)
    assert (found.slope.value, found.middle.value) == pytest.approx(tuple(values), rel=1e-5)
    half = t.ppf(0.975, len(X) - 2) * spread[0, 0] ** 0.5
    assert found.slope.high - found.slope.value == pytest.approx(half, rel=1e-3)


def test_intervals_hold_what_they_promise():
    rng, held, trials = np.random.default_rng(2), np.zeros(2), 200
    for _ in range(trials):
        found = fit(X, expit(2.5 * (X - 0.4)) + rng.normal(0, 0.06, len(X)))
        held += [found.slope.low <= 2.5 <= found.slope.high, found.middle.low <= 0.4 <= found.middle.high]
    assert (held / trials > 0.90).all()  # 0.95 less three standard errors
    assert (held / trials < 0.995).all()


def test_a_jump_is_as_steep_as_the_places_can_tell():
    found = fit(X, (X > 0.3).astype(float), border=0.25)
    assert found.steep
    below, above = X[X <= 0.3].max(), X[X > 0.3].min()
    assert (found.middle.low, found.middle.high) == (below, above)
    assert below < found.middle.value < above
    assert found.slope.high is None
    assert expit(found.slope.low * (above - found.middle.value)) > 0.98
    falling = fit(X, (X <= 0.3).astype(float))
    assert falling.slope.low is None
    assert falling.slope.high < 0


def test_what_does_not_depend_on_the_place_has_no_middle():
    assert fit(X, np.full(len(X), 0.7))[1:] == (None, None, False)
    noise = fit(X, 0.7 + np.random.default_rng(3).normal(0, 0.05, len(X)), border=0.0)
    assert noise.slope.low < 0 < noise.slope.high
    assert noise.middle is noise.bias is None


def test_the_ends_of_the_middles_interval_are_fiellers():
    p = expit(1.5 * X) + np.random.default_rng(4).normal(0, 0.05, len(X))
    found = fit(X, p)
    curve = expit(found.slope.value * (X - found.middle.value))
    jac = (curve * (1 - curve))[:, None] * np.stack([np.ones_like(X), X], -1)
    spread = ((p - curve) ** 2).sum() / (len(X) - 2) * np.linalg.inv(jac.T @ jac)
    a, b = -found.slope.value * found.middle.value, found.slope.value
    for end in found.middle[1:]:
        ratio = (a + b * end) / np.sqrt(spread[0, 0] + 2 * end * spread[0, 1] + end**2 * spread[1, 1])
        assert abs(ratio) == pytest.approx(t.ppf(0.975, len(X) - 2), rel=1e-4)


@pytest.mark.parametrize(("x", "p"), [([0, 1, 2], [0, 0, 1]), ([0, 0, 1, 2], [0, 0, 1, 1]), (X, X[1:])])
def test_too_little_is_refused(x, p):
    with pytest.raises(BadInput, match="different places"):
        fit(x, p)


# ---------------------------------------------------------------------- sweeps
def test_planted_models_have_the_curves_they_must_have(planted, room):
    sweep = Probe(planted, room).sweeping(0, 25).run().result
    asked = [point for point in sweep.points if point.probability]
    assert len(sweep.points) == 25
    assert 8 <= len(asked) < 25
    assert all(point.reason for point in sweep.points if not point.probability)
    assert {point.truth for point in asked} >= {"yes", None}
    for point in asked:
        expected = {"yes": 1.0, "no": 0.0, None: 0.5}[point.truth]
        assert point.probability["oracle"] == pytest.approx(expected, abs=1e-9)
        assert point.probability["blind"] == pytest.approx(0.7)
    assert sweep.fits["blind"].middle is None
    assert (sweep.moved, sweep.target, sweep.question) == ("red cat", "yes", "Is the cat left of the sofa?")


def test_the_oracles_middle_is_the_true_border(planted, room):
    start = room.with_objects(room.objects[:2]).edit(1, x=0.0)
    sweep = Probe(planted, start).sweeping(0, 31).run().result
    (low, high), found = sweep.bands[0], sweep.fits["oracle"]
    edges = [margin(sideways(start, 0, x), "left of", 0, 1) for x in (low, high)]
    assert edges == pytest.approx([1.0, -1.0], abs=0.06)  # the band is as fine as FINE places
    assert sweep.border == pytest.approx((low + high) / 2)
    assert found.slope.value < -5
    assert abs(found.bias.value) < 0.05
    assert found.bias.low <= 0 <= found.bias.high


def test_a_sweep_moves_along_the_viewers_right_only(room):
    turned = room.with_objects(room.objects[:2])
    turned = type(turned)(turned.objects, type(room.camera)(azimuth=20.0))
    depth = turned.geometry.depth[0]
    for x in (-1.0, -0.7):
        moved = sideways(turned, 0, x)
        assert position(moved, 0) == pytest.approx(x)
        assert moved.geometry.depth[0] == pytest.approx(depth)
    with pytest.raises(Refused, match="leave the picture"):
        sideways(turned, 0, 9.0)
    with pytest.raises(Refused, match="would stand in the sofa"):
        sideways(room.edit(0, y=0.6), 0, 0.0)
    with pytest.raises(Refused, match="fall"):
        sideways(room, 2, -0.6)


def test_what_cannot_be_swept_is_refused(planted, room):
    free = Question("free", text="What is there?", options=("a cat", "a dog"))
    with pytest.raises(BadInput, match="template"):
        Probe(planted, room, free).sweeping(0).run()
    with pytest.raises(BadInput, match="at least 4"):
        Probe(planted, room).sweeping(0, LEAST - 1).run()
    with pytest.raises(BadInput, match="object 7"):
        Probe(planted, room).sweeping(7)
