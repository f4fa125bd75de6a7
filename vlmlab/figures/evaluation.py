"""A score with its company: interval, chance, constant answer, blind model, one row a benchmark. Notebook 05."""

from collections.abc import Mapping
from textwrap import fill
from typing import TYPE_CHECKING, Any

from vlmlab.errors import BadInput
from vlmlab.figures.base import BLUE, INK, ORANGE, PAPER, VERMILION, WIDTH, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Row = Mapping[str, Any]
BASELINES = {"chance": ("|", INK, 0.0), "constant": ("D", ORANGE, -0.22), "blind": ("X", VERMILION, 0.22)}
"""Marker, colour, and how far below its row's middle: equal baselines stay visible."""


def clear(row: Row) -> bool:
    """Whether the interval lies above every baseline that the row has."""
    return all(row["low"] > row[name] for name in BASELINES if row.get(name) is not None)


@styled
def company(rows: Mapping[str, Row], *, xlabel: str = "accuracy", title: str | None = None) -> "Figure":
    """Scores as points with 95 % intervals, each beside its baselines; filled where the interval is above all of them.

    rows: label -> {"accuracy", "low", "high", "chance", "constant", "blind"}, fractions; a baseline that is missing or
        None is left out. From top to bottom.
    """
    if not rows:
        raise BadInput("there is no score to draw")
    from matplotlib.ticker import PercentFormatter

    fig = new_figure(WIDTH, 0.95 + 0.32 * len(rows) + 0.3 * bool(title))
    axes = fig.subplots()
    for name, (marker, colour, below) in BASELINES.items():
        found = [(row[name], at + below) for at, row in enumerate(rows.values()) if row.get(name) is not None]
        x, y = zip(*found, strict=True) if found else ((), ())
        size, edge = (14.0, 1.8) if marker == "|" else (6.0, 0.4)
        axes.plot(x, y, marker, color=colour, markersize=size, markeredgewidth=edge, label=name)
    for at, row in enumerate(rows.values()):
        low, value, high = row["low"], row["accuracy"], row["high"]
        axes.plot([low, high], [at, at], color=BLUE, linewidth=1.8)
        axes.plot([value], [at], "o", color=BLUE, markerfacecolor=BLUE if clear(row) else PAPER, markersize=7)
    axes.plot([], [], "o-", color=BLUE, markersize=7, label="model, 95 % interval")
    axes.set_yticks(range(len(rows)), [fill(str(label), 30) for label in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_xlim(min(-0.02, axes.get_xlim()[0]), max(1.02, axes.get_xlim()[1]))
    axes.set_xlabel(xlabel)
    axes.grid(axis="x")
    axes.spines["left"].set_visible(False)
    fig.legend(loc="outside lower center", ncols=4)
    if title:
        fig.suptitle(title, x=0.01, ha="left", fontsize=10.5)
    return fig
