"""Figures of GPU runs, from made-up arrays: drawn small and readable, alt texts that state them, gaps told."""

import pytest

from vlmlab import figures
from vlmlab.errors import BadInput
from vlmlab.figures import gpu

MODELS = ["one", "two"]
LENGTHS = [512, 1024, 2048]
PANELS = {
    "prefill (ms)": {"a": [1.0, 2.0, 4.0], "b": [1.0, 3.0, None]},
    "kept (MiB)": {"a": [5, 5, 5], "b": [None] * 3},
}
SHAPES = ["a layer", "a window"]
TIMES = {"forward (ms)": {"x": [1.0, 2.0], "y": [10.0, None]}, "both (ms)": {"x": [3.0, 4.0], "y": [0.5, 40.0]}}

DRAWN = {
    "decoding": lambda: gpu.decoding(MODELS, [120.0, 60.0], [200.0, 90.0], [166.0, None], title="t"),
    "decoding without a paper": lambda: gpu.decoding(MODELS, [120.0, 60.0], [200.0, 90.0]),
    "growth": lambda: gpu.growth(LENGTHS, PANELS, title="t"),
    "backends": lambda: gpu.backends(SHAPES, TIMES, title="t"),
    "throughput": lambda: gpu.throughput(["T", "L3"], [7000.0, 800.0], [6298, None], title="t"),
    "training": lambda: gpu.training([4.0, 3.0, 2.0, 1.0] * 20, title="t"),
}


@pytest.mark.parametrize("name", DRAWN)
def test_each_figure_is_a_small_readable_png_with_its_alt_text(name, readable_png):
    fig, alt = DRAWN[name]()
    assert readable_png(fig) == figures.png(DRAWN[name]()[0])
    assert alt.endswith(".")
    assert not {"nan", "inf", "None"} & set(alt.replace(",", " ").replace(";", " ").split())


def test_alt_texts_state_what_is_drawn():
    assert "one 120, 60% of the limit 200, the paper 166; two 60, 67% of the limit 90." in DRAWN["decoding"]().alt
    grown = DRAWN["growth"]().alt
    assert "a from 1 at 512 to 4 at 2,048; b from 1 at 512 to 3 at 1,024 and out of memory at 2,048" in grown
    assert "b out of memory at every length" in grown
    told = DRAWN["backends"]().alt
    assert "forward (ms): a layer, x 1, y 10; a window, x 2, y out of memory" in told
    assert "both (ms): a layer, y 0.5, x 3" in told  # the fastest first
    assert DRAWN["throughput"]().alt == "Pictures a second. T 7,000, the paper 6,298; L3 800."
    assert DRAWN["training"]().alt == "Loss over 80 steps: 2.5 at first, 2.5 at the end (mean of 4)."


def test_marks_and_bars_stand_at_their_values():
    axes = DRAWN["decoding"]().figure.axes[0]
    assert [patch.get_width() for patch in axes.patches] == [120.0, 60.0]
    xs = [[segment[0][0] for segment in lines.get_segments() if len(segment)] for lines in axes.collections]
    assert xs[0] == [200.0, 90.0]
    assert xs[1][0] == 166.0
    axes = DRAWN["throughput"]().figure.axes[0]
    assert sorted(patch.get_width() for patch in axes.patches if patch.get_width() > 0) == [0.8, 6.298, 7.0]
    for drawn in DRAWN["backends"]().figure.axes:
        low, high = drawn.get_xlim()
        values = [x for line in drawn.get_lines() for x in line.get_xdata() if x == x]
        assert low < min(values) <= max(values) < high


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: gpu.decoding(MODELS, [1.0], [2.0, 2.0]), "1 values for 2 names"),
        (lambda: gpu.decoding(MODELS, [1.0, None], [2.0, 2.0]), "positive number"),
        (lambda: gpu.decoding([], [], []), "at least one"),
        (lambda: gpu.growth(LENGTHS, {"a": {"m": [1, 2]}}), "2 values for 3 names"),
        (lambda: gpu.growth(LENGTHS, {"a": {"m": [1, 0, 2]}}), "positive number or None"),
        (lambda: gpu.growth(LENGTHS, {"a": {"m": [None] * 3}}), "nothing to draw"),
        (lambda: gpu.backends([], {"a": {"m": []}}), "nothing to draw"),
        (lambda: gpu.backends(SHAPES, {"a": {"m": [None, None]}}), "no value to draw"),
        (lambda: gpu.throughput(["T"], [float("inf")], [None]), "positive number"),
        (lambda: gpu.training([1.0]), "at least two values"),
        (lambda: gpu.training([1.0, float("nan")]), "all finite"),
    ],
)
def test_wrong_arguments_are_refused(draw, message):
    with pytest.raises(BadInput, match=message):
        draw()
