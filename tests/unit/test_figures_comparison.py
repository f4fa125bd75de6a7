"""Figures that set two models side by side: drawn small and readable, wrong arguments refused."""

import pytest

from vlmlab import figures
from vlmlab.errors import BadInput
from vlmlab.figures import comparison

X = [256, 512, 1024, 2048]
PANELS = {
    "prefill (ms)": {"transformer": (X, [10, 22, 60, 180]), "Mamba": (X, [20, 40, 80, 160])},
    "kept (MiB)": {"transformer": (X, [1, 2, 4, 8]), "Mamba": (X, [1, 1, 1, 1])},
}
ROWS = [(0.1, 0.02, 0.18), (-0.05, -0.2, 0.1), (-0.3, -0.4, -0.2)]

DRAWN = {
    "against_length": lambda: comparison.against_length(PANELS, crossings={"prefill (ms)": 1700.0}, title="cost"),
    "one panel of one model": lambda: comparison.against_length({"a": {"one": (X[:3], [1, 2, 3])}}),
    "differences": lambda: comparison.differences(list("abc"), ROWS, left="worse", right="better", title="d"),
}


@pytest.mark.parametrize("name", DRAWN)
def test_each_figure_is_a_small_readable_png(name: str, readable_png) -> None:
    assert readable_png(DRAWN[name]()) == figures.png(DRAWN[name]())


def test_a_crossing_is_marked_in_its_panel_only() -> None:
    fig = comparison.against_length(PANELS, crossings={"prefill (ms)": 1700.0, "kept (MiB)": None})
    assert [[text.get_text() for text in axes.texts] for axes in fig.axes] == [["1,700"], []]
    colours = [{line.get_label(): line.get_color() for line in axes.get_lines()[:2]} for axes in fig.axes]
    assert colours[0] == colours[1]


def test_a_difference_is_filled_where_its_interval_leaves_zero_out() -> None:
    axes = comparison.differences(list("abc"), ROWS).axes[0]
    points = [line for line in axes.get_lines() if line.get_marker() == "o"]
    assert [line.get_markerfacecolor() != "#FFFFFF" for line in points] == [True, False, True]
    assert [float(line.get_xdata()[0]) for line in points] == pytest.approx([10, -5, -30])


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: comparison.against_length({}), "nothing to draw"),
        (lambda: comparison.against_length({"a": {}}), "nothing to draw"),
        (lambda: comparison.against_length({"a": {"m": ([1, 2], [1])}}), "1 values for 2 lengths"),
        (lambda: comparison.against_length({"a": {"m": ([1, 2], [1, 0])}}), "not positive"),
        (lambda: comparison.differences(["a"], []), "1 labels need"),
        (lambda: comparison.differences([], []), "at least one"),
    ],
)
def test_wrong_arguments_are_refused(draw, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        draw()
