"""Figures of shortcomings: drawn small and readable, what they mark, wrong arguments refused."""

import pytest
from matplotlib.collections import LineCollection

from vlmlab import figures
from vlmlab.errors import BadInput
from vlmlab.figures import shortcomings


def row(name, accuracy, x=None, lured=None, **more):
    found = {"row": name, "x": x, "accuracy": accuracy, "low": accuracy - 0.1, "high": accuracy + 0.1, "chance": 0.125,
             "blind": 0.2, "lures": {} if lured is None else {"illusion": {"share": lured}}}  # fmt: skip
    return found | more


CURVES = {
    "size": {"colour": [row("over 4 %", 0.8, 5.0), row("under 4 %", 0.5, 2.0)], "kind": [row("under 4 %", 0.3, 2.5)]},
    "occlusion": {"colour": [row("10 to 25 %", 0.2, 17.0), row("99 % or more", 0.7, 100.0), row("well apart", 0.9)]},
}
GROUPS = {
    "size": [row("equal, one far away", 0.4, lured=0.6), row("control: equal, side by side", 0.9, lured=0.1)],
    "light": [row("67 % tinted", 0.1, lured=0.5), row("control: really of that colour", 1.0)],
}
DRAWN = {
    "against": lambda: shortcomings.against(CURVES, xlabels=["share of the picture", "visible share"], title="detail"),
    "one curve": lambda: shortcomings.against({"a": {"one": [row("x", 0.5, 1.0)]}}),
    "shares": lambda: shortcomings.shares(GROUPS, title="illusions"),
}


@pytest.mark.parametrize("name", DRAWN)
def test_each_figure_is_a_small_readable_png(name: str, readable_png) -> None:
    assert readable_png(DRAWN[name]()) == figures.png(DRAWN[name]())


def test_rows_stand_in_the_order_of_their_axis_and_those_without_one_come_last() -> None:
    size, occlusion = DRAWN["against"]().axes
    assert [tick.get_text().replace("\n", " ") for tick in size.get_xticklabels()] == ["under 4 %", "over 4 %"]
    labels = [tick.get_text().replace("\n", " ") for tick in occlusion.get_xticklabels()]
    assert labels == ["10 to 25 %", "99 % or more", "well apart"]
    points, joined = [line for line in size.get_lines() if line.get_color() == figures.BLUE][:2]
    assert list(points.get_ydata()) == [0.5, 0.8]
    assert list(points.get_xdata()) == sorted(points.get_xdata())
    points, joined = [line for line in occlusion.get_lines() if line.get_color() == figures.BLUE][:2]
    assert (len(points.get_xdata()), len(joined.get_xdata())) == (3, 2)


def test_a_series_looks_the_same_in_every_panel_and_intervals_contain_their_point() -> None:
    fig = DRAWN["against"]()
    colours = [{line.get_label(): line.get_color() for line in axes.get_lines()}.get("colour") for axes in fig.axes]
    assert colours == [figures.BLUE] * 2
    for axes in fig.axes:
        spans = [s for c in axes.collections if isinstance(c, LineCollection) for s in c.get_segments()]
        points = {
            float(x): float(y) for line in axes.get_lines() if line.get_marker() in "os" for x, y in line.get_xydata()
        }
        assert len(spans) == len(points)
        for (x, low), (_, high) in spans:
            assert low < points[float(x)] < high


def test_truth_lure_and_the_rest_fill_a_bar_and_controls_are_pale() -> None:
    for axes, rows in zip(DRAWN["shares"]().axes, GROUPS.values(), strict=True):
        bars = axes.patches
        assert len(bars) == 3 * len(rows)
        for place, one in enumerate(rows):
            truth, lured, rest = bars[3 * place : 3 * place + 3]
            assert truth.get_width() == pytest.approx(one["accuracy"])
            assert lured.get_x() == pytest.approx(one["accuracy"])
            assert truth.get_width() + lured.get_width() + rest.get_width() == pytest.approx(1)
            assert (truth.get_alpha() < 1) == one["row"].startswith("control")
            assert lured.get_hatch() == "///"


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: shortcomings.against({}), "nothing to draw"),
        (lambda: shortcomings.against({"a": {}}), "nothing to draw"),
        (lambda: shortcomings.against({"a": {"b": []}}), "nothing to draw"),
        (lambda: shortcomings.against(CURVES, xlabels=["one"]), "1 labels for 2 panels"),
        (lambda: shortcomings.shares({}), "no row"),
        (lambda: shortcomings.shares({"a": []}), "no row"),
    ],
)
def test_wrong_arguments_are_refused(draw, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        draw()
