"""Two models side by side: what they cost against length, and differences with their intervals. Notebook 09."""

from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import TYPE_CHECKING

import numpy as np

from vlmlab.errors import BadInput
from vlmlab.figures.base import BLUE, COLOURS, GREY, INK, PAPER, WIDTH, joint_legend, new_figure, styled
from vlmlab.figures.curves import DASHES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKERS = ("o", "s", "^", "D")


@styled
def against_length(
    panels: Mapping[str, Mapping[str, tuple[Sequence[float], Sequence[float]]]],
    *,
    crossings: Mapping[str, float | None] | None = None,
    xlabel: str = "tokens",
    title: str | None = None,
    height: float = 2.9,
) -> "Figure":
    """Several quantities against length, a log-log panel each: a power law is a straight line, its exponent the slope.

    Args:
        panels: title of the panel, with its unit -> (name of the model -> (lengths, values)), all positive; a model
            has one colour, dash and marker throughout.
        crossings: title of the panel -> a length to mark with a vertical line; None for none.
    """
    if not panels or not all(panels.values()):
        raise BadInput("there is nothing to draw")
    names = list(dict.fromkeys(name for curves in panels.values() for name in curves))
    fig = new_figure(WIDTH, height + 0.3 * (len(names) > 1) + 0.3 * bool(title))
    row = fig.subplots(1, len(panels), squeeze=False)[0]
    for axes, (heading, curves) in zip(row, panels.items(), strict=True):
        for name, (x, y) in curves.items():
            lengths, values = np.asarray(x, float), np.asarray(y, float)
            if lengths.shape != values.shape or not lengths.size:
                raise BadInput(f"{name!r} has {values.size} values for {lengths.size} lengths")
            if min(lengths.min(), values.min()) <= 0:
                raise BadInput(f"{name!r} has a value that is not positive; a logarithmic axis cannot show it")
            at = names.index(name)
            colour, dashes = COLOURS[at % len(COLOURS)], DASHES[at % len(DASHES)]
            marker = MARKERS[at % len(MARKERS)]
            axes.plot(lengths, values, marker, color=colour, linestyle=dashes, markersize=4.5, label=name)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        found = np.concatenate([np.asarray(y, float) for _, y in curves.values()])
        _decade(axes, float(found.min()), float(found.max()))
        ticks = sorted({float(v) for x, _ in curves.values() for v in x})
        shown = ticks if len(ticks) <= 3 else ticks[::2]
        axes.set_xticks(shown, [f"{v:,.0f}" for v in shown])
        axes.minorticks_off()
        where = (crossings or {}).get(heading)
        if where is not None:
            axes.axvline(where, color=GREY, linestyle=(0, (2, 2)), linewidth=1.2)
            axes.annotate(f"{where:,.0f}", (where, 1), (-3, -3), xycoords=("data", "axes fraction"),
                          textcoords="offset points", ha="right", va="top", fontsize=8, color="#555555")  # fmt: skip
        axes.set_title(heading)
        axes.set_xlabel(xlabel)
        axes.grid()
    joint_legend(fig, row)
    if title:
        fig.suptitle(title, x=0.01, ha="left", fontsize=10.5)
    return fig


def _decade(axes: "Axes", low: float, high: float) -> None:
    """Limits of a logarithmic vertical axis, at least a decade apart so that noise does not look like growth; ticks."""
    middle, half = (np.log10(low) + np.log10(high)) / 2, max((np.log10(high) - np.log10(low)) / 2 + 0.08, 0.5)
    axes.set_ylim(10 ** (middle - half), 10 ** (middle + half))
    steps = (1, 2, 5) if half < 0.9 else (1,)
    ticks = [step * 10.0**power for power in range(-6, 13) for step in steps]
    shown = [tick for tick in ticks if abs(np.log10(tick) - middle) <= half]
    axes.set_yticks(shown, [f"{tick:,g}" for tick in shown])


@styled
def differences(
    labels: Sequence[str],
    values: Sequence[tuple[float, float, float]],
    *,
    xlabel: str = "difference in accuracy",
    title: str | None = None,
    left: str = "",
    right: str = "",
) -> "Figure":
    """Differences with their intervals, one row each, around zero; filled where the interval leaves zero out.

    Args:
        values: (difference, low, high) as fractions, shown in percentage points.
        left, right: what it means to lie on that side of zero.
    """
    table = np.asarray(values, float)
    if table.shape != (len(labels), 3) or not len(labels):
        raise BadInput(f"{len(labels)} labels need as many (difference, low, high), and at least one")
    table = 100 * table
    fig = new_figure(WIDTH, 0.85 + 0.25 * len(labels) + 0.2 * bool(left or right) + 0.3 * bool(title))
    axes = fig.subplots()
    axes.axvline(0, color=INK, linewidth=1.0)
    for row, (value, low, high) in enumerate(table):
        clear = low > 0 or high < 0
        axes.plot([low, high], [row, row], color=BLUE, linewidth=1.6)
        axes.plot([value], [row], "o", color=BLUE, markerfacecolor=BLUE if clear else PAPER, markersize=6)
    axes.set_yticks(range(len(labels)), [fill(str(label), 30) for label in labels])
    axes.set_ylim(len(labels) - 0.4, -0.6)
    reach = 1.08 * float(np.abs(table).max()) or 1.0
    axes.set_xlim(-reach, reach)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(f"{xlabel} (percentage points)")
    axes.set_title(f"← {left}" if left else "", loc="left", fontsize=8.5, color="#555555")
    axes.set_title(f"{right} →" if right else "", loc="right", fontsize=8.5, color="#555555")
    if title:
        fig.suptitle(title, x=0.01, ha="left", fontsize=10.5)
    return fig
