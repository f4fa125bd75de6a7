"""Loss curves of several runs, and bars with intervals. Notebooks 01, 04 and 05, and all that train or measure."""

from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np

from vlmlab.errors import BadInput
from vlmlab.figures.base import COLOURS, GREY, INK, WIDTH, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DENSE = 40  # a curve of fewer points is drawn as it is
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (5, 1.5, 1, 1.5)))
HATCHES = ("", "///", "...", "xxx")


def smoothed(values: Sequence[float] | np.ndarray, keep: float) -> np.ndarray:
    """Exponential moving average that starts without bias: keep 0 changes nothing, 0.9 looks back about ten steps."""
    array, out = np.asarray(values, float), []
    total = weight = 0.0
    for value in array:
        total, weight = keep * total + (1 - keep) * value, keep * weight + (1 - keep)
        out.append(total / weight)
    return np.array(out)


@styled
def losses(
    runs: Mapping[str, Sequence[float] | np.ndarray | tuple],
    *,
    smooth: float = 0.9,
    chance: float | None = None,
    chance_label: str = "chance",
    xlabel: str = "step",
    ylabel: str = "loss",
    title: str | None = None,
    log: bool = False,
    height: float = 3.0,
) -> "Figure":
    """Curves of one value over training.

    Args:
        runs: name -> values, or a pair (steps, values).
        smooth: of the strong line, see `smoothed`; the raw values stay visible behind it (0: raw values alone). A run
            of fewer than DENSE values is drawn as it is.
        chance: a horizontal line, e.g. the loss of a model that knows nothing; log: a logarithmic axis for the loss.
    """
    if not runs:
        raise BadInput("there is no run to draw")
    fig = new_figure(WIDTH, height)
    axes = fig.subplots()
    ends = []
    for index, (name, run) in enumerate(runs.items()):
        pair = isinstance(run, tuple) and len(run) == 2
        values = np.asarray(run[1] if pair else run, float)
        steps = np.asarray(run[0], float) if pair else np.arange(len(values))
        colour, dashes = COLOURS[index % len(COLOURS)], DASHES[index % len(DASHES)]
        line = values
        if smooth and len(values) >= DENSE:
            axes.plot(steps, values, color=colour, alpha=0.25, linewidth=0.8)
            line = smoothed(values, smooth)
        axes.plot(steps, line, color=colour, linestyle=dashes, label=name)
        ends.append(steps[-1])
    if chance is not None:
        axes.axhline(chance, color=GREY, linestyle=(0, (2, 2)), linewidth=1.3, label=chance_label)
    if chance is not None and len(runs) == 1:
        axes.text(max(ends), chance, f" {chance_label}", color="#555555", fontsize=8.5, ha="right", va="bottom")
    if log:
        axes.set_yscale("log")
    axes.grid(axis="y")
    axes.set(xlabel=xlabel, ylabel=ylabel)
    if title:
        axes.set_title(title)
    if len(runs) > 1:
        axes.legend(loc="best")
    return fig


@styled
def bars(
    labels: Sequence[str],
    series: Mapping[str, Sequence[float]],
    *,
    intervals: Mapping[str, Sequence[tuple[float, float]]] | None = None,
    baselines: Mapping[str, float | Sequence[float]] | None = None,
    percent: bool = False,
    xlabel: str = "",
    ylabel: str = "",
    title: str | None = None,
    limits: tuple[float, float] | None = None,
    numbers: bool = True,
    height: float | None = None,
) -> "Figure":
    """Horizontal bars: one group a label, one bar a series, told apart by colour and hatching.

    Args:
        labels: the groups, from top to bottom; series: name -> one value a group (NaN leaves a bar out).
        intervals: name -> (low, high) for each group, drawn as whiskers.
        baselines: name -> a value for all groups or one a group, drawn as a black mark, e.g. chance.
        percent: values are fractions, shown as percentages.
    """
    count, size = len(series), len(labels)
    if not count or not size:
        raise BadInput("there is no bar to draw")
    thick = 0.8 / count
    fig = new_figure(WIDTH, height or 0.55 + size * (0.16 + 0.2 * count) + (0.3 if title else 0) + 0.25 * (count > 1))
    axes = fig.subplots()
    middles = np.arange(size)
    top = limits[1] if limits else None
    known = [np.broadcast_to(np.asarray(value, float), (size,)) for value in (baselines or {}).values()]
    marks = np.array(known).reshape(-1, size)  # (baselines, groups)
    for index, (name, values) in enumerate(series.items()):
        array = np.asarray(values, float)
        if array.shape != (size,):
            raise BadInput(f"series {name!r} has {array.size} values for {size} labels")
        at = middles - 0.4 + thick * (index + 0.5)
        colour, hatch = COLOURS[index % len(COLOURS)], HATCHES[index % len(HATCHES)]
        axes.barh(at, array, thick * 0.92, color=colour, label=name, hatch=hatch, edgecolor="white", linewidth=0)
        ends = array.copy()
        if intervals and name in intervals:
            low, high = np.asarray(intervals[name], float).T
            axes.hlines(at, low, high, color=INK, linewidth=1.3)
            ends = np.fmax(ends, high)
        if numbers:
            span = top or np.nanmax(array) or 1
            for y, x, value, others in zip(at, ends, array, marks.T, strict=True):
                if np.isfinite(value):
                    text = f"{100 * value:.0f} %" if percent else f"{value:.3g}"
                    x = max([x, *(mark for mark in others if -0.01 * span < mark - x < 0.09 * span)])
                    axes.text(x + 0.012 * span, y, text, va="center", fontsize=8)
    for index, (name, row) in enumerate(zip(baselines or {}, marks, strict=True)):
        dashes = DASHES[index % len(DASHES)]
        axes.vlines(row, middles - 0.43, middles + 0.43, INK, dashes, label=name, linewidth=1.8)
    axes.set_yticks(middles, [fill(str(label), 28) for label in labels])
    axes.set_ylim(size - 0.45, -0.55)
    axes.tick_params(axis="y", length=0)
    if limits:
        axes.set_xlim(limits)
    else:
        axes.margins(x=0.1)
    if percent:
        from matplotlib.ticker import PercentFormatter

        axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.grid(axis="x")
    axes.spines["left"].set_visible(False)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    if count > 1 or baselines:
        fig.legend(loc="outside upper right", ncols=4)
    if title:
        fig.suptitle(title, x=0.01, ha="left", fontsize=10.5)
    return fig
