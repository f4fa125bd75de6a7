"""Figures of the experiment: drawn small and readable, what they mark, wrong arguments refused."""

import pytest
from matplotlib.colors import to_hex

from vlmlab import figures
from vlmlab.errors import BadInput
from vlmlab.figures import experiment


def value(mean: float, *seeds: float) -> dict:
    return {"mean": mean, "low": mean - 0.1, "high": mean + 0.1, "seeds": list(seeds)}


ROWS = ["existence", "a category with a long name", "twins"]
CELLS = {
    (encoder, backbone): [value(0.5 + 0.05 * row, 0.45, 0.55, 0.6) for row in range(3)]
    for encoder in ("CLIP", "DINOv2 + SigLIP", "MambaVision") for backbone in ("Mamba", "Llama")
}  # fmt: skip
PANELS = {
    "MambaVision − CLIP": [(0.1, 0.02, 0.18), (-0.05, -0.2, 0.1), (-0.3, -0.4, -0.2)],
    "Mamba − Llama": [(0.0, 0.0, 0.0)] * 3,
}
PARTS = {"encode": [3.0, 0.0], "read": [12.5, 4.0], "write": [60.0, 0.2]}
POINTS = {"a": (95.0, 0.7, 0.67, 0.72), "b": (175.0, 0.74, 0.72, 0.76), "c": (160.0, 0.69, 0.66, 0.71)}
COSTS = {"milliseconds": POINTS, "millions of parameters": {name: (6.2, *rest) for name, (_, *rest) in POINTS.items()}}
FRONTS = {"milliseconds": ["a", "b"], "millions of parameters": ["b"]}

DRAWN = {
    "cells": lambda: experiment.cells(ROWS, CELLS, baselines={"chance": [0.5, 0.2, 0.25]}, title="six cells"),
    "one cell": lambda: experiment.cells(["all"], {("CLIP", "Mamba"): [value(0.7)]}),
    "contrasts": lambda: experiment.contrasts(ROWS, PANELS, title="differences"),
    "one contrast": lambda: experiment.contrasts(ROWS, {"a − b": PANELS["Mamba − Llama"]}),
    "stacked": lambda: experiment.stacked(["a model", "another"], PARTS, xlabel="milliseconds", title="cost"),
    "pareto": lambda: experiment.pareto(COSTS, FRONTS, title="accuracy against cost"),
    "pareto of one model": lambda: experiment.pareto({"minutes": {"a": (82.0, 0.5, 0.4, 0.6)}}, {"minutes": ["a"]}),
}


@pytest.mark.parametrize("name", DRAWN)
def test_each_figure_is_a_small_readable_png(name: str, readable_png) -> None:
    assert readable_png(DRAWN[name]()) == figures.png(DRAWN[name]())


def test_an_encoder_has_one_colour_and_a_backbone_one_marker() -> None:
    axes = experiment.cells(ROWS, CELLS).axes[0]
    means = [line for line in axes.get_lines() if line.get_marker() in ("o", "s")]
    assert len(means) == len(CELLS)
    looks = {name: (line.get_color(), line.get_marker()) for name, line in zip(CELLS, means, strict=True)}
    for part in (0, 1):
        assert len({(name[part], look[part]) for name, look in looks.items()}) == len({name[part] for name in looks})
    hollow = [to_hex(line.get_markerfacecolor()) == "#ffffff" for line in means]
    assert hollow == [name[1] == "Llama" for name in CELLS]
    dots = [line for line in axes.get_lines() if line.get_marker() == "."]
    assert len(dots) == len(CELLS) * len(ROWS)
    assert all(len(line.get_xdata()) == 3 for line in dots)


def test_every_point_lies_on_its_interval() -> None:
    axes = experiment.cells(ROWS, CELLS).axes[0]
    means = [line for line in axes.get_lines() if line.get_marker() in ("o", "s")]
    spans = [collection.get_segments() for collection in axes.collections]
    for line, segments in zip(means, spans, strict=True):
        for x, y, ((low, at), (high, _)) in zip(line.get_xdata(), line.get_ydata(), segments, strict=True):
            assert at == pytest.approx(y)
            assert low < x < high
    heights = sorted(float(y) for line in means for y in line.get_ydata())
    assert len({round(y, 6) for y in heights}) == len(heights)  # no two on top of each other


def test_a_difference_is_filled_where_it_is_sure() -> None:
    def filled(**more):
        axes = experiment.contrasts(ROWS, PANELS, **more).axes[0]
        points = [line for line in axes.get_lines() if line.get_marker() == "o"]
        return [to_hex(line.get_markerfacecolor()) != "#ffffff" for line in points]

    assert filled() == [True, False, True]
    assert filled(sure={"MambaVision − CLIP": [False, False, True]}) == [False, False, True]
    one, other = experiment.contrasts(ROWS, PANELS).axes
    assert one.get_xlim() == other.get_xlim()


def test_parts_add_up_to_the_number_behind_the_bar() -> None:
    axes = experiment.stacked(["a", "b"], PARTS).axes[0]
    texts = [text.get_text() for text in axes.texts]
    assert texts[-2:] == ["75.5", "4.2"]
    assert "60.0" in texts  # inside its part, which is wide enough
    assert "0.2" not in texts  # a part too narrow for its number


def test_the_front_is_filled_and_joined() -> None:
    for axes, front in zip(experiment.pareto(COSTS, FRONTS).axes, FRONTS.values(), strict=True):
        points = {line.get_label(): line for line in axes.get_lines() if line.get_label() in POINTS}
        hollow = {name for name, line in points.items() if to_hex(line.get_markerfacecolor()) == "#ffffff"}
        assert set(points) == set(POINTS)
        assert set(points) - hollow == set(front)
        step = next(line for line in axes.get_lines() if line.get_drawstyle() == "steps-post")
        assert len(step.get_xdata()) == len(front)
        assert list(step.get_ydata()) == sorted(step.get_ydata())  # a front rises with cost


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: experiment.cells([], CELLS), "no row or no model"),
        (lambda: experiment.cells(ROWS, {}), "no row or no model"),
        (lambda: experiment.cells(ROWS, {("a", "b"): [value(0.5)]}), "a and b: 1 values for 3 rows"),
        (lambda: experiment.cells(ROWS, CELLS, baselines={"chance": [0.5]}), "chance: 1 values for 3 rows"),
        (lambda: experiment.contrasts(ROWS, {}), "no row or no difference"),
        (lambda: experiment.contrasts(ROWS, {"a": [(0, 0, 0)]}), "a: 3 rows need"),
        (lambda: experiment.pareto({}, {}), "no model"),
        (lambda: experiment.pareto({"ms": {}}, {}), "no model"),
        (lambda: experiment.pareto({"ms": POINTS}, {"ms": ["d"]}), "d is not among the models"),
        (lambda: experiment.pareto({"ms": {"a": (0.0, 0.5, 0.4, 0.6)}}, {}), "a cost is not positive"),
        (lambda: experiment.stacked([], PARTS), "no bar"),
        (lambda: experiment.stacked(["a"], PARTS), "1 labels need"),
        (lambda: experiment.stacked(["a", "b"], {"x": [1, -1]}), "none negative"),
        (lambda: experiment.stacked(["a", "b"], {"x": [1, float("nan")]}), "none negative"),
    ],
)
def test_wrong_arguments_are_refused(draw, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        draw()
