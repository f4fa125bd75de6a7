"""Figures of MambaVision's chapter: the levels of the model, the mixer. Notebook 10."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from vlmlab.errors import BadInput
from vlmlab.figures.base import GREEN, INK, ORANGE, SKY, styled
from vlmlab.figures.diagrams import PALE, SOFT, arrow, box, canvas, scan_inputs, wanted

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAPS = ("stem", "level 0", "level 1", "level 2", "level 3", "pooled")
STEPS = ("x", "u", "z", "delta", "B", "C", "y", "joined", "out")


@styled
def levels(
    shapes: Mapping[str, Mapping[str, str]], mixers: Sequence[tuple[int, int]], *, title: str | None = None
) -> "Figure":
    """MambaVision as a row of boxes, the shapes of the maps below.

    Args:
        shapes: name of a model -> text for each of stem, level 0 to level 3 (before the convolution to the next
            level), pooled; one line of text a model.
        mixers: blocks with a scan and blocks with attention, of level 2 and of level 3.
    """
    if not shapes or len(mixers) != 2:
        raise BadInput("the diagram needs at least one model, and the mixers of two levels")
    for found in shapes.values():
        wanted(found, MAPS)
    fig, axes = canvas(1.45 + 0.22 * len(shapes), (-0.1, 12.15), (-0.05 - 0.36 * len(shapes), 1.75), title)
    middles = {"stem": 1.75, "level 0": 3.2, "level 1": 4.75, "level 2": 6.9, "level 3": 9.65}
    for name, x, width, colour in (
        ("stem", 1.3, 0.9, PALE), ("convo-\nlution", 2.7, 1.0, SKY), ("convo-\nlution", 4.25, 1.0, SKY),
    ):  # fmt: skip
        box(axes, x, 0.1, name, colour, width)
    for x, (scans, attends) in zip((5.8, 8.55), mixers, strict=True):
        box(axes, x, 0.1, f"scan\n× {scans}", GREEN, 1.05)
        box(axes, x + 1.15, 0.1, f"attention\n× {attends}", ORANGE, 1.05)
    box(axes, 11.15, 0.1, "norm,\nmean", PALE, 0.85)
    for name, x in middles.items():
        if name != "stem":
            axes.text(x, 1.15, name, ha="center", va="center", fontsize=8.5)
    for start, end, halved in (
        (0.75, 1.3, False), (2.2, 2.7, False), (3.7, 4.25, True), (5.25, 5.8, True), (8.0, 8.55, True),
        (10.75, 11.15, False),
    ):  # fmt: skip
        arrow(axes, ((start, 0.5), (end, 0.5)))
        if halved:
            axes.text((start + end) / 2, 0.72, "÷2", ha="center", va="bottom", fontsize=8, color=SOFT)
    axes.text(0.32, 0.5, "picture", ha="center", va="center", fontsize=8.5)
    for x in (middles["level 2"], middles["level 3"]):
        axes.text(x, 1.5, "inside windows", ha="center", va="center", fontsize=7.5, color=SOFT)
    for row, (model, found) in enumerate(shapes.items()):
        y = -0.25 - 0.36 * row
        axes.text(-0.1, y, model, ha="left", va="center", fontsize=7.5, color=INK)
        for name, x in (middles | {"pooled": 11.55}).items():
            axes.text(x, y, found[name], ha="center", va="center", fontsize=7.2, color=SOFT)
    return fig


@styled
def mixer(shapes: Mapping[str, str], *, title: str | None = None) -> "Figure":
    """The mixer as boxes and arrows: half of the channels scanned, the other half not, side by side at the end.

    shapes: text for each of x, u, z, delta, B, C, y, joined, out.
    """
    wanted(shapes, STEPS)
    fig, axes = canvas(2.7, (0, 12.05), (-0.1, 4.05), title)
    for x, y, text, colour in (
        (0.95, 1.75, "in_proj", ORANGE),
        (3.05, 2.75, "conv1d_x\nsilu", SKY),
        (3.05, 0.45, "conv1d_z\nsilu", SKY),
        (4.75, 1.5, "x_proj\ndt_proj", ORANGE),
        (6.75, 2.75, "selective\nscan", GREEN),
        (9.95, 1.75, "out_proj", ORANGE),
    ):
        box(axes, x, y, text, colour, 1.2)
    for path in (
        ((0.1, 2.15), (0.95, 2.15)),
        ((2.15, 2.15), (2.45, 2.15), (2.45, 3.15), (3.05, 3.15)),
        ((2.45, 2.15), (2.45, 0.85), (3.05, 0.85)),
        ((4.25, 3.15), (6.75, 3.15)),
        ((4.5, 3.15), (4.5, 1.9), (4.75, 1.9)),
        ((5.95, 1.9), (7.35, 1.9), (7.35, 2.75)),
        ((7.95, 3.15), (8.75, 3.15), (8.75, 2.4)),
        ((4.25, 0.85), (8.75, 0.85), (8.75, 1.9)),
        ((9.15, 2.15), (9.95, 2.15)),
        ((11.15, 2.15), (12.0, 2.15)),
    ):
        arrow(axes, path)
    axes.text(8.72, 2.15, "$[y, z]$", ha="center", va="center", fontsize=10)
    for x, y, symbol, name, side in (
        (0.5, 2.45, "$x$", "x", -2),
        (2.35, 3.45, "$u$", "u", 1),
        (2.35, 0.55, "$z$", "z", -1),
        (8.4, 3.45, "$y$", "y", 1),
        (9.45, 1.85, "", "joined", 0),
        (11.65, 1.85, "", "out", 0),
    ):
        axes.text(x, y, symbol, ha="center", va="center", fontsize=9.5)
        axes.text(x, y + 0.32 * side, shapes[name], ha="center", va="center", fontsize=7, color=SOFT)
    scan_inputs(axes, 7.5, 2.05, shapes)
    axes.text(6.6, 0.6, "not scanned", fontsize=7.5, color=SOFT, ha="center", va="center")
    return fig
