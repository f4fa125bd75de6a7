"""Figures of clips: drawn small and readable, frames in their places, wrong arguments refused."""

import numpy as np
import pytest

from vlmlab import figures
from vlmlab.errors import BadInput
from vlmlab.figures import clips

RNG = np.random.default_rng(0)
FRAMES = RNG.integers(0, 255, (8, 24, 24, 3), np.uint8)
SECONDS = [f"{t / 4:.2f} s" for t in range(8)]
SAID = [("yes", True), ("no", False), ("it rolls on", None)] + [("yes", True)] * 5


def row(accuracy):
    return {"accuracy": accuracy, "low": accuracy - 0.1, "high": accuracy + 0.1}


CURVE = {1: row(0.3), 8: row(0.6), 64: row(0.4)}
DRAWN = {
    "one strip": lambda: clips.film_strip({"as it was": FRAMES}, labels={"as it was": SECONDS}, title="a clip"),
    "orders": lambda: clips.film_strip({"in order": FRAMES, "reversed": FRAMES[::-1]}),
    "with answers": lambda: clips.film_strip(
        {"clip": FRAMES}, labels={"clip": SECONDS}, said={"llava-tiny-clips": SAID, "truth": SAID}
    ),
    "two frames": lambda: clips.film_strip({"clip": FRAMES[:2]}, said={"a model": SAID[:2]}),
    "two curves": lambda: clips.against_frames({"a": CURVE, "b": CURVE}, trained=8, chance=0.33, title="by length"),
    "one curve": lambda: clips.against_frames({"a": {1: row(0.2), 8: row(0.5)}}, trained=8),
}


@pytest.mark.parametrize("name", DRAWN)
def test_each_figure_is_a_small_readable_png(name, readable_png):
    assert readable_png(DRAWN[name]()) == figures.png(DRAWN[name]())


def test_frames_stand_in_their_order_under_their_labels():
    fig = clips.film_strip({"a": FRAMES, "b": FRAMES[::-1]}, labels={"a": SECONDS})
    assert len(fig.axes) == 16
    for number, axes in enumerate(fig.axes):
        expected = FRAMES[number] if number < 8 else FRAMES[::-1][number - 8]
        assert np.array_equal(axes.images[0].get_array(), expected)
    lefts = [axes.get_position().x0 for axes in fig.axes[:8]]
    assert lefts == sorted(lefts)
    assert fig.axes[0].get_position().y0 > fig.axes[8].get_position().y0
    placed = {text.get_text(): text.get_position()[0] for text in fig.texts}
    for axes, label in zip(fig.axes[:8], SECONDS, strict=True):
        box = axes.get_position()
        assert box.x0 < placed[label] < box.x1


def test_what_was_said_is_marked():
    fig = clips.film_strip({"clip": FRAMES}, said={"model": SAID})
    texts = [text.get_text() for text in fig.texts]
    assert texts.count("✓ yes") == 6
    assert "✗ no" in texts
    assert any(text.startswith("it rolls") for text in texts)
    colours = {text.get_text(): text.get_color() for text in fig.texts}
    assert colours["✓ yes"] != colours["✗ no"]


def test_points_lie_where_they_should_and_lengths_beyond_training_are_shaded():
    (axes,) = clips.against_frames({"a": CURVE}, trained=8, chance=0.25).axes
    line = axes.get_lines()[0]
    assert line.get_xdata().tolist() == [1, 8, 64]
    assert line.get_ydata() == pytest.approx([30, 60, 40])
    assert axes.get_lines()[1].get_ydata() == [25, 25]
    low, high = axes.patches[0].get_x(), axes.patches[0].get_x() + axes.patches[0].get_width()
    assert 8 < low < 16
    assert high > 64
    (axes,) = clips.against_frames({"a": {1: row(0.2), 8: row(0.5)}}, trained=8).axes
    assert not axes.patches


def test_wrong_arguments_are_refused():
    with pytest.raises(BadInput, match="one length"):
        clips.film_strip({"a": FRAMES, "b": FRAMES[:3]})
    with pytest.raises(BadInput, match="one length"):
        clips.film_strip({"a": FRAMES}, labels={"a": SECONDS[:2]})
    for empty in ({}, {"a": FRAMES[:0]}):
        with pytest.raises(BadInput, match="needs frames"):
            clips.film_strip(empty)
    for empty in ({}, {"a": {}}):
        with pytest.raises(BadInput, match="nothing to draw"):
            clips.against_frames(empty, trained=8)
