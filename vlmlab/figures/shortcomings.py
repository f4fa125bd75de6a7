"""Shortcomings: accuracy along an axis beside chance and the blind model, and what answers fall for. Notebook 06."""

from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np

from vlmlab.errors import BadInput
from vlmlab.figures.base import BLUE, COLOURS, INK, ORANGE, PAPER, WIDTH, joint_legend, new_figure, styled
from vlmlab.figures.comparison import MARKERS
from vlmlab.figures.curves import DASHES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Row = Mapping[str, Any]


@styled
def against(
    panels: Mapping[str, Mapping[str, Sequence[Row]]],
    *,
    xlabels: Sequence[str] = (),
    title: str | None = None,
    height: float = 2.7,
) -> "Figure":
    """Accuracy in rows that follow an axis, with 95 % intervals; dotted chance, and crosses for the blind model.

    Args:
        panels: title -> (series -> rows {"row", "x", "accuracy", "low", "high", "chance", "blind"}, fractions). The
            rows of a panel stand in the order of x, equally spaced, those without one last and apart from the line.
        xlabels: one a panel.
    """
    if not panels or not all(panels.values()) or not all(rows for one in panels.values() for rows in one.values()):
        raise BadInput("there is nothing to draw")
    if xlabels and len(xlabels) != len(panels):
        raise BadInput(f"{len(xlabels)} labels for {len(panels)} panels; give one each")
    names = list(dict.fromkeys(name for series in panels.values() for name in series))
    fig = new_figure(WIDTH, height + 0.3 * (len(names) > 1) + 0.3 * bool(title))
    line = fig.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (heading, series) in zip(line, panels.items(), strict=True):
        places = {row["row"]: (row["x"] is None, row["x"] or 0.0) for rows in series.values() for row in rows}
        order = sorted(places, key=lambda name: places[name])
        for name, rows in series.items():
            rows = sorted(rows, key=lambda row: order.index(row["row"]))
            _curve(axes, name, names.index(name), [order.index(row["row"]) for row in rows], rows, len(names))
        axes.set_xticks(range(len(order)), [fill(label, max(9, 60 // len(panels) // len(order))) for label in order])
        axes.set_xlim(-0.5, len(order) - 0.5)
        axes.set_ylim(-0.03, 1.03)
        axes.set_title(heading)
        axes.grid(axis="y")
    for axes, label in zip(line, xlabels, strict=False):
        axes.set_xlabel(label)
    _percent(line[0].yaxis)
    joint_legend(fig, line)
    if title:
        fig.suptitle(title, x=0.01, ha="left", fontsize=10.5)
    return fig


def _curve(axes: "Axes", name: str, index: int, at: Sequence[int], rows: Sequence[Row], count: int) -> None:
    x = np.array(at) + 0.16 * (index - (count - 1) / 2) / max(1, (count - 1) / 2)
    colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
    y, low, high, chance, blind = ([row[key] for row in rows] for key in ("accuracy", "low", "high", "chance", "blind"))
    axes.vlines(x, low, high, color=colour, linewidth=1.2, alpha=0.8)
    axes.plot(x, y, marker, color=colour, markersize=5, label=name)
    joined = [i for i, row in enumerate(rows) if row["x"] is not None]
    axes.plot(x[joined], [y[i] for i in joined], color=colour, linestyle=DASHES[index % len(DASHES)], linewidth=1.4)
    axes.plot(x, chance, color=colour, linestyle=(0, (1, 2)), linewidth=1.2)
    axes.plot(x, blind, "x", color=colour, markersize=4, alpha=0.7)


@styled
def shares(
    groups: Mapping[str, Sequence[Row]], *, lure: str = "illusion", title: str | None = None, xlabel: str = "answers"
) -> "Figure":
    """What was answered, as bars of 100 %: the truth, the lure, anything else; controls pale.

    The line is the 95 % interval of the truth's share, the black mark chance, the cross the blind model.

    Args:
        groups: title -> rows {"row", "accuracy", "low", "high", "chance", "blind", "lures": {lure: {"share"}}},
            fractions. A row whose name begins with "control:" is a control.
    """
    if not groups or not all(groups.values()):
        raise BadInput("there is no row to draw")
    sizes = [len(rows) for rows in groups.values()]
    fig = new_figure(WIDTH, 0.55 + sum(0.25 * size + 0.3 for size in sizes) + 0.3 * bool(title))
    stack = fig.subplots(len(groups), 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": sizes})[:, 0]
    for axes, (heading, rows) in zip(stack, groups.items(), strict=True):
        for y, row in enumerate(rows):
            truth, fallen = row["accuracy"], row["lures"].get(lure, {"share": 0.0})["share"]
            parts = ((truth, BLUE, ""), (fallen, ORANGE, "///"), (max(0.0, 1 - truth - fallen), "#D9D9D9", ""))
            begun, pale = 0.0, 0.45 if row["row"].startswith("control:") else 1.0
            for width, colour, hatch in parts:
                axes.barh(y, width, 0.76, left=begun, color=colour, hatch=hatch, edgecolor=PAPER, linewidth=0.8,
                          alpha=pale)  # fmt: skip
                begun += width
            axes.hlines(y, row["low"], row["high"], color=INK, linewidth=1.3)
            axes.vlines(row["chance"], y - 0.42, y + 0.42, color=INK, linewidth=1.8)
            axes.plot(row["blind"], y, "X", color=PAPER, markeredgecolor=INK, markersize=6)
        axes.set_yticks(range(len(rows)), [fill(row["row"], 44) for row in rows])
        axes.set_ylim(len(rows) - 0.45, -0.55)
        axes.set_xlim(-0.01, 1.01)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.set_title(heading, fontsize=9.5)
    stack[-1].set_xlabel(xlabel)
    _percent(stack[-1].xaxis)
    _legend(fig, lure)
    if title:
        fig.suptitle(title, x=0.01, ha="left", fontsize=10.5)
    return fig


def _legend(fig: "Figure", lure: str) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles = [
        Patch(facecolor=BLUE, label="truth"), Patch(facecolor=ORANGE, hatch="///", edgecolor=PAPER, label=lure),
        Patch(facecolor="#D9D9D9", label="anything else"), Line2D([], [], color=INK, linewidth=1.8, label="chance"),
        Line2D([], [], linestyle="", marker="X", color=PAPER, markeredgecolor=INK, label="blind"),
    ]  # fmt: skip
    fig.legend(handles=handles, loc="outside lower center", ncols=5)


def _percent(axis: Any) -> None:
    from matplotlib.ticker import PercentFormatter

    axis.set_major_formatter(PercentFormatter(1.0, decimals=0))
