"""Figures of the scan's chapter: a value against length with its exponent; who joins whom. Notebook 07."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from vlmlab.errors import BadInput
from vlmlab.figures.base import BLUE, COLOURS, ORANGE, PAPER, WIDTH, bare, new_figure, styled
from vlmlab.figures.curves import DASHES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


@styled
def scaling(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    exponents: Mapping[str, float] | None = None,
    symbol: str = "L",
    xlabel: str = "length (tokens)",
    ylabel: str = "",
    title: str | None = None,
    log: bool = True,
    height: float = 3.2,
) -> "Figure":
    """Measured values against length, on logarithmic axes where a power law is a straight line.

    Args:
        curves: name -> (lengths, values), all positive; drawn as points and a line through them.
        exponents: name -> p; the legend then says "name: L^p", and the line is that power law, fitted to the points.
        symbol: what the legend calls the length; log: also a logarithmic axis for the values (the length's always is).
    """
    if not curves:
        raise BadInput("there is no curve to draw")
    fig = new_figure(WIDTH, height)
    axes = fig.subplots()
    for index, (name, (x, y)) in enumerate(curves.items()):
        lengths, values = np.asarray(x, float), np.asarray(y, float)
        if lengths.shape != values.shape or lengths.ndim != 1 or not lengths.size:
            raise BadInput(f"curve {name!r} has {values.size} values for {lengths.size} lengths")
        if lengths.min() <= 0 or (log and values.min() <= 0):
            raise BadInput(f"curve {name!r} has a value that is not positive; a logarithmic axis cannot show it")
        colour, dashes = COLOURS[index % len(COLOURS)], DASHES[index % len(DASHES)]
        marker, label, line = MARKERS[index % len(MARKERS)], name, values
        if exponents and name in exponents:
            power = exponents[name]
            label = f"{name}: ${symbol}^{{{power:.2f}}}$"
            line = np.exp(np.log(values).mean() + power * (np.log(lengths) - np.log(lengths).mean()))
        axes.plot(lengths, line, color=colour, linestyle=dashes, linewidth=1.5)
        axes.plot(lengths, values, marker, color=colour, markersize=5)
        axes.plot([], [], color=colour, linestyle=dashes, marker=marker, markersize=5, linewidth=1.5, label=label)
    axes.set_xscale("log", base=2)
    if log:
        axes.set_yscale("log")
    ticks = sorted({float(v) for x, _ in curves.values() for v in x})
    if len(ticks) <= 10:
        axes.set_xticks(ticks, [f"{v:,.0f}" if v >= 1 else f"{v:.3g}" for v in ticks])
        axes.minorticks_off()
    axes.grid()
    axes.set(xlabel=xlabel, ylabel=ylabel)
    if title:
        axes.set_title(title)
    if len(curves) > 1 or exponents:
        fig.legend(loc="outside right upper")
    return fig


@styled
def doubling(length: int, *, title: str | None = None) -> "Figure":
    """The scan by doubling over `length` positions: at each level every position joins the one `reach` before it.

    Positions stand from left to right, levels from top to bottom; a position is filled once it knows its whole past.
    """
    if length < 2:
        raise BadInput(f"length={length}: a scan has something to join from 2 positions on")
    levels = (length - 1).bit_length()
    fig = new_figure(WIDTH, 0.62 * levels + 0.55 + (0.25 if title else 0))
    axes = bare(fig.subplots())
    for level in range(levels + 1):
        reach = 2**level
        for place in range(length):
            whole = place < reach  # it spans positions max(0, place - reach + 1) .. place
            first = max(0, place - reach + 1)
            text = str(place) if first == place else f"{first}–{place}"
            box = {"boxstyle": "round,pad=0.3", "facecolor": ORANGE if whole else PAPER, "edgecolor": "#666666"}
            axes.text(place, -level, text, fontsize=7.5, ha="center", va="center", bbox=box, zorder=3)
            if level < levels:
                arrow = {"arrowstyle": "->", "color": "#AAAAAA", "shrinkA": 9, "shrinkB": 9}
                axes.annotate("", (place, -level - 1), (place, -level), arrowprops=arrow)
                if place >= reach:
                    joined = {"arrowstyle": "->", "color": BLUE, "linewidth": 1.2, "shrinkA": 9, "shrinkB": 9}
                    axes.annotate("", (place, -level - 1), (place - reach, -level), arrowprops=joined)
        note = "start" if not level else f"reach {reach // 2}"
        axes.text(-0.7, -level, note, ha="right", va="center", fontsize=8.5)
    axes.set_xlim(-1.9, length - 0.5)
    axes.set_ylim(-levels - 0.35, 0.35)
    if title:
        axes.set_title(title)
    return fig
