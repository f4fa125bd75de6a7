"""Many trained models under one question: accuracies with each seed, differences side by side, parts of a sum.
Notebooks 11 and 17."""

from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import TYPE_CHECKING

import numpy as np

from vlmlab.errors import BadInput
from vlmlab.figures.base import BLUE, COLOURS, INK, PAPER, WIDTH, new_figure, styled, text_colour
from vlmlab.figures.comparison import MARKERS
from vlmlab.figures.curves import DASHES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LANE = 0.125  # inches between two cells of a row


@styled
def cells(
    rows: Sequence[str],
    series: Mapping[tuple[str, str], Sequence[Mapping]],
    *,
    baselines: Mapping[str, Sequence[float]] | None = None,
    xlabel: str = "accuracy",
    title: str | None = None,
) -> "Figure":
    """Accuracies of models that differ in two parts, row by row: mean, interval, and each seed as a dot.

    Args:
        rows: their names, from top to bottom.
        series: (first part, second part) -> for each row {"mean", "low", "high", "seeds"}, fractions. The first part
            has a colour, the second a marker; the first marker is filled, the others are hollow.
        baselines: name -> a fraction a row, drawn as a mark across all models of the row.
    """
    if not rows or not series:
        raise BadInput("there is no row or no model to draw")
    for name, values in series.items():
        if len(values) != len(rows):
            raise BadInput(f"{' and '.join(name)}: {len(values)} values for {len(rows)} rows")
    firsts, seconds = (list(dict.fromkeys(name[i] for name in series)) for i in (0, 1))
    pitch = LANE * (len(series) + 1.4)  # inches a row
    fig = new_figure(WIDTH, len(rows) * pitch + 1.0 + 0.3 * bool(title))
    axes = fig.subplots()
    middles = np.arange(len(rows), dtype=float)
    for index, ((first, second), values) in enumerate(series.items()):
        at = middles + (index - (len(series) - 1) / 2) * LANE / pitch
        colour, which = COLOURS[firsts.index(first) % len(COLOURS)], seconds.index(second)
        low, mean, high = ([float(value[key]) for value in values] for key in ("low", "mean", "high"))
        axes.hlines(at, low, high, color=colour, linewidth=1.4)
        for y, value in zip(at, values, strict=True):
            axes.plot(value["seeds"], [y] * len(value["seeds"]), ".", color=INK, markersize=2.6, zorder=4)
        face = colour if which == 0 else PAPER
        axes.plot(mean, at, MARKERS[which % len(MARKERS)], color=colour, markerfacecolor=face, markersize=4.6, zorder=3)
    for index, (label, marks) in enumerate((baselines or {}).items()):
        if len(marks) != len(rows):
            raise BadInput(f"{label}: {len(marks)} values for {len(rows)} rows")
        axes.vlines(marks, middles - 0.45, middles + 0.45, INK, DASHES[(index + 1) % len(DASHES)], linewidth=1.2)
    for edge in middles[:-1] + 0.5:
        axes.axhline(edge, color="#E4E4E4", linewidth=0.8)
    _rows(axes, rows)
    _percent(axes)
    axes.set_xlabel(xlabel)
    _legend(fig, firsts, seconds, list(baselines or {}))
    if title:
        fig.suptitle(title, x=0.01, ha="left", fontsize=10.5)
    return fig


def _rows(axes: "Axes", rows: Sequence[str]) -> None:
    axes.set_yticks(range(len(rows)), [fill(str(row), 24) for row in rows])
    axes.set_ylim(len(rows) - 0.45, -0.55)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")


def _percent(axes: "Axes") -> None:
    from matplotlib.ticker import PercentFormatter

    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))


def _legend(fig: "Figure", firsts: Sequence[str], seconds: Sequence[str], baselines: Sequence[str]) -> None:
    """One entry a colour, one a marker, one for the seeds, one a baseline."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=COLOURS[i % len(COLOURS)], linewidth=3, label=name) for i, name in enumerate(firsts)
    ]
    for i, name in enumerate(seconds):
        face, marker = (INK if i == 0 else PAPER), MARKERS[i % len(MARKERS)]
        handles.append(Line2D([], [], color=INK, linestyle="", marker=marker, markerfacecolor=face, label=name))
    handles.append(Line2D([], [], color=INK, linestyle="", marker=".", markersize=3, label="one seed"))
    for i, name in enumerate(baselines):
        handles.append(Line2D([], [], color=INK, linewidth=1.2, linestyle=DASHES[(i + 1) % len(DASHES)], label=name))
    fig.legend(handles=handles, loc="outside upper right", ncols=4)


@styled
def contrasts(
    rows: Sequence[str],
    panels: Mapping[str, Sequence[tuple[float, float, float]]],
    *,
    sure: Mapping[str, Sequence[bool]] | None = None,
    xlabel: str = "percentage points",
    title: str | None = None,
) -> "Figure":
    """Several differences side by side, each over the same rows, on one scale around zero.

    Args:
        panels: what is compared -> for each row (difference, low, high), fractions, shown in percentage points.
        sure: the same -> for each row whether the point is filled; by default where the interval leaves zero out.
    """
    if not rows or not panels:
        raise BadInput("there is no row or no difference to draw")
    tables = {}
    for name, values in panels.items():
        tables[name] = 100 * np.asarray(values, float)
        if tables[name].shape != (len(rows), 3):
            raise BadInput(f"{name}: {len(rows)} rows need as many (difference, low, high)")
    reach = 1.08 * max(float(np.abs(table).max()) for table in tables.values()) or 1.0
    fig = new_figure(WIDTH, 0.95 + 0.24 * len(rows) + 0.3 * bool(title))
    line = fig.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (name, table) in zip(line, tables.items(), strict=True):
        clear = (table[:, 1] > 0) | (table[:, 2] < 0)
        filled = clear if sure is None or name not in sure else np.asarray(sure[name], bool)
        axes.axvline(0, color=INK, linewidth=1.0)
        for row, (value, low, high) in enumerate(table):
            face = BLUE if filled[row] else PAPER
            axes.plot([low, high], [row, row], color=BLUE, linewidth=1.5)
            axes.plot([value], [row], "o", color=BLUE, markerfacecolor=face, markersize=5.5)
        axes.set_xlim(-reach, reach)
        axes.set_title(fill(name, max(14, int(58 / len(panels)))), fontsize=8.8)
        axes.set_xlabel(xlabel)
        _rows(axes, rows)
    if title:
        fig.suptitle(title, x=0.01, ha="left", fontsize=10.5)
    return fig


@styled
def stacked(
    labels: Sequence[str],
    parts: Mapping[str, Sequence[float]],
    *,
    xlabel: str = "",
    digits: int = 1,
    title: str | None = None,
) -> "Figure":
    """Sums and what they are made of: a horizontal bar a label, cut into parts, the sum behind it.

    Args:
        parts: name -> one value a label, none negative.
        digits: behind the point, of the numbers written into the parts and behind the bars.
    """
    if not labels or not parts:
        raise BadInput("there is no bar to draw")
    tables = {name: np.asarray(values, float) for name, values in parts.items()}
    for name, values in tables.items():
        if values.shape != (len(labels),) or not np.isfinite(values).all() or values.min() < 0:
            raise BadInput(f"{name}: {len(labels)} labels need as many values, none negative; got {values.tolist()}")
    totals = np.sum(list(tables.values()), 0)
    longest = float(totals.max()) or 1.0
    fig = new_figure(WIDTH, 0.9 + 0.3 * len(labels) + 0.3 * bool(title))
    axes = fig.subplots()
    begun = np.zeros(len(labels))
    for index, (name, values) in enumerate(tables.items()):
        colour = COLOURS[index % len(COLOURS)]
        axes.barh(range(len(labels)), values, 0.72, left=begun, color=colour, label=name, edgecolor=PAPER)
        for row, (start, value) in enumerate(zip(begun, values, strict=True)):
            text = f"{value:,.{digits}f}"
            if value > 0.013 * longest * (len(text) + 1):
                axes.text(start + value / 2, row, text, ha="center", va="center", fontsize=7.5,
                          color=text_colour(colour))  # fmt: skip
        begun = begun + values
    for row, total in enumerate(totals):
        axes.text(total + 0.01 * longest, row, f"{total:,.{digits}f}", va="center", fontsize=8)
    _rows(axes, labels)
    axes.set_xlim(0, 1.13 * longest)
    axes.set_xlabel(xlabel)
    fig.legend(loc="outside upper right", ncols=5)
    if title:
        fig.suptitle(title, x=0.01, ha="left", fontsize=10.5)
    return fig


@styled
def pareto(
    panels: Mapping[str, Mapping[str, tuple[float, float, float, float]]],
    fronts: Mapping[str, Sequence[str]],
    *,
    ylabel: str = "accuracy",
    title: str | None = None,
    height: float = 2.9,
) -> "Figure":
    """Accuracy against cost, a panel a kind of cost on a logarithmic axis: filled on the front, hollow behind it.

    Args:
        panels: kind of cost, with its unit -> (name -> (cost, accuracy, low, high)); accuracies as fractions. A model
            has one colour and marker throughout.
        fronts: kind of cost -> names of the models that none beats in both.
    """
    if not panels or not all(panels.values()):
        raise BadInput("there is no model to draw")
    names = list(dict.fromkeys(name for points in panels.values() for name in points))
    fig = new_figure(WIDTH, height + 0.22 * -(-len(names) // 3) + 0.3 * bool(title))
    line = fig.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (cost, points) in zip(line, panels.items(), strict=True):
        unknown = [name for name in fronts.get(cost, ()) if name not in points]
        if unknown or min(x for x, *_ in points.values()) <= 0:
            raise BadInput(
                f"{cost}: {unknown[0] + ' is not among the models' if unknown else 'a cost is not positive'}"
            )
        for name, (x, y, low, high) in points.items():
            at = names.index(name)
            colour, front = COLOURS[at % len(COLOURS)], name in fronts.get(cost, ())
            axes.plot([x, x], [low, high], color=colour, linewidth=1.3)
            axes.plot([x], [y], MARKERS[at % len(MARKERS)], color=colour, markersize=7,
                      markerfacecolor=colour if front else PAPER, label=name)  # fmt: skip
        edge = sorted(points[name][:2] for name in fronts.get(cost, ()))
        axes.step([x for x, _ in edge], [y for _, y in edge], where="post", color=INK, linewidth=1.0,
                  linestyle=DASHES[2], zorder=1)  # fmt: skip
        axes.set_xscale("log")
        low, high = (end(x for x, *_ in points.values()) for end in (min, max))
        axes.set_xlim(low / 1.4, high * 1.4)
        shown = [low, high] if high > 1.25 * low else [(low * high) ** 0.5]
        axes.set_xticks(shown, [f"{tick:,.3g}" if tick < 1000 else f"{tick:,.0f}" for tick in shown])
        axes.minorticks_off()
        axes.grid()
        axes.set_xlabel(cost)
    from matplotlib.ticker import PercentFormatter

    line[0].yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    line[0].set_ylabel(ylabel)
    entries = dict(zip(*line[0].get_legend_handles_labels()[::-1], strict=True))
    fig.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=3)
    if title:
        fig.suptitle(title, x=0.01, ha="left", fontsize=10.5)
    return fig
