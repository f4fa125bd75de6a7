"""The figure of scores beside their baselines: drawn small and readable, what is filled, wrong arguments refused."""

import pytest

from vlmlab import figures
from vlmlab.errors import BadInput
from vlmlab.figures import evaluation

ROWS = {
    "above": {"accuracy": 0.8, "low": 0.7, "high": 0.9, "chance": 0.5, "constant": 0.6, "blind": 0.55},
    "below": {"accuracy": 0.1, "low": 0.05, "high": 0.2, "chance": 0.25, "constant": 0.4, "blind": 0.1},
    "touching": {"accuracy": 0.7, "low": 0.6, "high": 0.8, "chance": 0.5, "constant": 0.6, "blind": 0.5},
    "no chance": {"accuracy": 1.2, "low": 1.1, "high": 1.3, "chance": None, "blind": 0.3},
}


def test_it_is_a_small_readable_png(readable_png) -> None:
    fig = evaluation.company(ROWS, title="scores", xlabel="answers")
    assert readable_png(fig) == figures.png(evaluation.company(ROWS, title="scores", xlabel="answers"))
    readable_png(evaluation.company({"one": ROWS["no chance"]}))


def test_only_what_is_above_all_baselines_is_filled() -> None:
    assert [evaluation.clear(row) for row in ROWS.values()] == [True, False, False, True]
    (axes,) = evaluation.company(ROWS).axes
    points = [line for line in axes.get_lines() if line.get_marker() == "o" and len(line.get_xdata())]
    assert [line.get_markerfacecolor() != "#FFFFFF" for line in points] == [True, False, False, True]
    assert [float(line.get_xdata()[0]) for line in points] == [0.8, 0.1, 0.7, 1.2]


def test_a_baseline_that_is_missing_is_left_out() -> None:
    (axes,) = evaluation.company(ROWS).axes
    drawn = {line.get_label(): list(zip(line.get_xdata(), line.get_ydata(), strict=True)) for line in axes.get_lines()}
    assert drawn["chance"] == [(0.5, 0), (0.25, 1), (0.5, 2)]
    assert [(x, round(y)) for x, y in drawn["constant"]] == [(0.6, 0), (0.4, 1), (0.6, 2)]
    assert [(x, round(y)) for x, y in drawn["blind"]] == [(0.55, 0), (0.1, 1), (0.5, 2), (0.3, 3)]
    assert drawn["constant"][2][1] < drawn["chance"][2][1] < drawn["blind"][2][1]  # apart where they are equal
    assert axes.get_xlim()[1] > 1.3


def test_no_rows_are_refused() -> None:
    with pytest.raises(BadInput, match="no score"):
        evaluation.company({})
