"""Figures of Cobra's chapters: the model, the Mamba block, curves in several panels. Notebooks 08 and 09."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from vlmlab.errors import BadInput
from vlmlab.figures.base import COLOURS, GREEN, ORANGE, SKY, WIDTH, joint_legend, new_figure, styled
from vlmlab.figures.curves import DASHES, DENSE, smoothed
from vlmlab.figures.diagrams import PALE, SOFT, arrow, box, canvas, scan_inputs, wanted

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PLACES = ("X_v", "dinov2", "siglip", "H_v", "Z_v", "X_q", "H_q", "sequence", "X_a")
STEPS = ("x", "norm", "u", "z", "conv", "delta", "B", "C", "scan", "out")


@styled
def architecture(shapes: Mapping[str, str], blocks: int, *, title: str | None = None) -> "Figure":
    """Cobra as boxes and arrows.

    shapes: text for each of X_v, dinov2, siglip, H_v, Z_v, X_q, H_q, sequence, X_a, e.g. {"H_v": "(64, 256)"}.
    blocks: of the Mamba.
    """
    wanted(shapes, PLACES)
    fig, axes = canvas(3.3, (-0.25, 10.9), (-0.1, 4.9), title)
    for x, y, text, colour in (
        (1.5, 3.75, "DINOv2", SKY),
        (1.5, 2.45, "SigLIP", SKY),
        (5.4, 3.1, "projector\nW", ORANGE),
        (5.4, 0.55, "embedding\ntable", PALE),
        (8.35, 1.85, f"Mamba $f_\\phi$\n{blocks} blocks", GREEN),
    ):
        box(axes, x, y, text, colour)
    for path in (
        ((-0.1, 3.5), (1.1, 3.5), (1.1, 4.15), (1.5, 4.15)),
        ((1.1, 3.5), (1.1, 2.85), (1.5, 2.85)),
        ((2.8, 4.15), (3.95, 4.15), (3.95, 3.5)),
        ((2.8, 2.85), (3.95, 2.85), (3.95, 3.5), (5.4, 3.5)),
        ((3.3, 0.95), (5.4, 0.95)),
        ((6.7, 3.5), (7.6, 3.5), (7.6, 2.25)),
        ((6.7, 0.95), (7.6, 0.95), (7.6, 2.25), (8.35, 2.25)),
        ((9.65, 2.25), (10.75, 2.25)),
    ):
        arrow(axes, path, head=path[-1] not in ((3.95, 3.5), (7.6, 2.25)))
    for x, y, symbol, name, side in (
        (0.42, 3.5, "$X_v$", "X_v", -1),
        (3.35, 4.15, "", "dinov2", 1),
        (3.35, 2.85, "", "siglip", -1),
        (4.7, 3.5, "$H_v$", "H_v", 1),
        (7.15, 3.5, "$Z_v$", "Z_v", 1),
        (4.1, 0.95, "$X_q$", "X_q", 1),
        (7.15, 0.95, "$H_q$", "H_q", -1),
        (10.2, 2.25, "$X_a$", "X_a", 1),
    ):
        step = 0.28 * side
        axes.text(x, y + step, symbol, ha="center", va="center", fontsize=11)
        axes.text(
            x, y + (2.0 if symbol else 0.9) * step, shapes[name], ha="center", va="center", fontsize=7.5, color=SOFT
        )
    axes.text(4.05, 3.2, "channels\njoined", fontsize=7.5, color=SOFT, va="center", ha="left")
    axes.text(9.0, 1.55, f"reads $[Z_v, H_q]$\n{shapes['sequence']}", ha="center", va="top", fontsize=7.5, color=SOFT)
    return fig


@styled
def mamba_block(shapes: Mapping[str, str], *, title: str | None = None) -> "Figure":
    """A Mamba block as boxes and arrows: x + out(scan(conv(u)) * silu(z)), after a norm.

    shapes: text for each of x, norm, u, z, conv, delta, B, C, scan, out.
    """
    wanted(shapes, STEPS)
    fig, axes = canvas(3.2, (0, 12.0), (-0.35, 5.0), title)
    for x, y, text, colour in (
        (1.0, 2.1, "RMSNorm", PALE),
        (2.75, 2.1, "in_proj", ORANGE),
        (4.5, 3.1, "conv1d\nsilu", SKY),
        (6.1, 1.75, "x_proj\ndt_proj", ORANGE),
        (7.55, 3.1, "selective\nscan", GREEN),
        (9.75, 2.1, "out_proj", ORANGE),
    ):
        box(axes, x, y, text, colour, 1.2)
    for path in (
        ((0.1, 2.5), (1.0, 2.5)),
        ((2.2, 2.5), (2.75, 2.5)),
        ((3.95, 2.5), (4.2, 2.5), (4.2, 3.5), (4.5, 3.5)),
        ((4.2, 2.5), (4.2, 0.95), (9.2, 0.95), (9.2, 2.3)),
        ((5.7, 3.5), (7.55, 3.5)),
        ((5.95, 3.5), (5.95, 2.15), (6.1, 2.15)),
        ((7.3, 2.15), (8.15, 2.15), (8.15, 3.1)),
        ((8.75, 3.5), (9.2, 3.5), (9.2, 2.7)),
        ((9.35, 2.5), (9.75, 2.5)),
        ((10.95, 2.5), (11.2, 2.5)),
        ((0.5, 2.5), (0.5, 4.65), (11.4, 4.65), (11.4, 2.7)),
        ((11.55, 2.5), (11.95, 2.5)),
    ):
        arrow(axes, path)
    for x, sign in ((9.2, "×"), (11.4, "+")):
        axes.text(x, 2.49, sign, ha="center", va="center", fontsize=13)
    for x, y, symbol, name in (
        (0.55, 2.2, "$x$", "x"),
        (2.5, 1.85, "", "norm"),
        (3.55, 3.6, "$u$", "u"),
        (5.5, 0.67, "$z$, through silu: the gate", "z"),
        (6.6, 3.75, "", "conv"),
        (9.75, 3.6, "$y$", "scan"),
        (11.15, 1.85, "", "out"),
    ):
        axes.text(x, y, symbol, ha="center", va="center", fontsize=9.5)
        axes.text(x, y - (0.3 if symbol else 0), shapes[name], ha="center", va="center", fontsize=7, color=SOFT)
    scan_inputs(axes, 7.4, 1.62, shapes)
    axes.text(6.0, 4.8, "the residual stream, in float32", fontsize=7.5, color=SOFT, ha="center", va="center")
    return fig


@styled
def panels(
    groups: Mapping[str, Mapping[str, Sequence[float] | np.ndarray]],
    *,
    smooth: float = 0.0,
    limits: tuple[float, float] | None = None,
    xlabel: str = "step",
    title: str | None = None,
    height: float = 2.6,
) -> "Figure":
    """Several quantities over training, one panel each, with the same runs in each.

    Args:
        groups: title of the panel -> (name of the run -> one value a step); a run has one colour and dash throughout.
        smooth: as in `vlmlab.figures.losses`; limits: of the vertical axis that all panels share.
    """
    if not groups or not all(groups.values()):
        raise BadInput("there is no run to draw")
    names = list(dict.fromkeys(name for runs in groups.values() for name in runs))
    fig = new_figure(WIDTH, height + 0.3 * (len(names) > 1) + 0.3 * bool(title))
    row = fig.subplots(1, len(groups), squeeze=False, sharey=True)[0]
    for axes, (heading, runs) in zip(row, groups.items(), strict=True):
        for name, values in runs.items():
            index, array = names.index(name), np.asarray(values, float)
            line = smoothed(array, smooth) if smooth and len(array) >= DENSE else array
            axes.plot(line, color=COLOURS[index % len(COLOURS)], linestyle=DASHES[index % len(DASHES)], label=name)
        axes.set_title(heading)
        axes.grid(axis="y")
        axes.set_xlabel(xlabel)
    if limits:
        row[0].set_ylim(*limits)
    joint_legend(fig, row)
    if title:
        fig.suptitle(title, x=0.01, ha="left", fontsize=10.5)
    return fig
