"""Figures of Cobra's chapters: drawn small and readable, wrong arguments refused."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from vlmlab import figures
from vlmlab.errors import BadInput
from vlmlab.figures import cobra

SHAPES = dict.fromkeys((*cobra.PLACES, *cobra.STEPS), "(64, 256)")
RUNS = {"one": np.linspace(0, 1, 60), "two": [0.5] * 60}

DRAWN = {
    "architecture": lambda: cobra.architecture(SHAPES, 64, title="Cobra"),
    "mamba_block": lambda: cobra.mamba_block(SHAPES, title="a block"),
    "panels": lambda: cobra.panels({"a": RUNS, "b": RUNS}, smooth=0.9, limits=(0, 1), title="runs"),
    "one panel of one run": lambda: cobra.panels({"a": {"one": [1.0, 2.0]}}),
}


@pytest.mark.parametrize("name", DRAWN)
def test_each_figure_is_a_small_readable_png(name: str, readable_png) -> None:
    assert readable_png(DRAWN[name]()) == figures.png(DRAWN[name]())


def texts(fig: Figure) -> str:
    return " ".join(text.get_text() for axes in fig.axes for text in axes.texts)


def test_the_diagrams_show_what_they_are_given() -> None:
    shapes = {name: f"<{name}>" for name in SHAPES}
    whole, block = texts(cobra.architecture(shapes, 7)), texts(cobra.mamba_block(shapes))
    assert all(f"<{name}>" in whole for name in cobra.PLACES)
    assert all(f"<{name}>" in block for name in cobra.STEPS)
    assert "7 blocks" in whole


def test_a_run_keeps_its_colour_in_every_panel() -> None:
    fig = cobra.panels({"a": {"one": [0, 1], "two": [1, 2]}, "b": {"two": [3, 4]}})
    lines = [{line.get_label(): line.get_color() for line in axes.get_lines()} for axes in fig.axes]
    assert lines[0]["two"] == lines[1]["two"] != lines[0]["one"]
    assert [text.get_text() for text in fig.legends[0].get_texts()] == ["one", "two"]


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: cobra.architecture({"X_v": "(3, 96, 96)"}, 12), "lacks the shapes of dinov2, siglip"),
        (lambda: cobra.mamba_block({}), "lacks the shapes of x, norm"),
        (lambda: cobra.panels({}), "no run"),
        (lambda: cobra.panels({"a": {}}), "no run"),
    ],
)
def test_wrong_arguments_are_refused(draw, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        draw()
