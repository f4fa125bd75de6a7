"""Figures of the scan's chapter: drawn small and readable, exponents in the legend, wrong arguments refused."""

from itertools import pairwise

import numpy as np
import pytest

from vlmlab import figures
from vlmlab.errors import BadInput
from vlmlab.figures import scan

LENGTHS = np.array([128, 256, 512, 1024])
CURVES = {"reference": (LENGTHS, 0.02 * LENGTHS), "attention": (LENGTHS, 1e-5 * LENGTHS**2.0)}

DRAWN = {
    "scaling": lambda: scan.scaling(CURVES, ylabel="ms", title="time"),
    "scaling with exponents": lambda: scan.scaling(CURVES, exponents={"reference": 1.0, "attention": 2.0}),
    "scaling of shares": lambda: scan.scaling({"one": ([0.5, 1, 2], [0.0, 0.5, 1.0])}, log=False),
    "doubling": lambda: scan.doubling(8, title="levels"),
    "doubling of an odd length": lambda: scan.doubling(5),
}


@pytest.mark.parametrize("name", DRAWN)
def test_each_figure_is_a_small_readable_png(name: str, readable_png) -> None:
    assert readable_png(DRAWN[name]()) == figures.png(DRAWN[name]())


def test_a_power_law_is_drawn_with_its_exponent_and_the_points_stay_where_they_were_measured() -> None:
    noisy = 0.02 * LENGTHS * np.array([1.1, 0.9, 1.0, 1.05])
    fig = scan.scaling({"run": (LENGTHS, noisy)}, exponents={"run": 0.75})
    assert [text.get_text() for text in fig.legends[0].get_texts()] == ["run: $L^{0.75}$"]
    line, points, _ = fig.axes[0].get_lines()
    assert np.array_equal(points.get_ydata(), noisy)
    drawn = np.log(np.asarray(line.get_ydata(), float))
    assert np.allclose([b - a for a, b in pairwise(drawn)], 0.75 * np.log(2))
    assert np.isclose(drawn.mean(), np.log(noisy).mean())


def test_doubling_says_which_positions_each_one_spans() -> None:
    texts = [text.get_text() for text in scan.doubling(4).axes[0].texts if text.get_text()]
    assert texts == [
        "0", "1", "2", "3", "start",
        "0", "0–1", "1–2", "2–3", "reach 1",
        "0", "0–1", "0–2", "0–3", "reach 2",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: scan.scaling({}), "no curve"),
        (lambda: scan.scaling({"run": ([1, 2], [1, 2, 3])}), "3 values for 2 lengths"),
        (lambda: scan.scaling({"run": ([1, 2], [0, 1])}), "not positive"),
        (lambda: scan.scaling({"run": ([0, 2], [1, 1])}, log=False), "not positive"),
        (lambda: scan.doubling(1), "from 2 positions on"),
    ],
)
def test_wrong_arguments_are_refused(draw, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        draw()
