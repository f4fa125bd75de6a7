"""What was measured on a GPU: decoding beside its limit, cost against length, backends, pictures a second, a loss.
Notebook 16.

Every function returns a figure and the text that states what is in it: `show(*decoding(names, ours, limits))`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vlmlab.errors import BadInput
from vlmlab.figures.base import COLOURS, WIDTH, joint_legend, new_figure, styled
from vlmlab.figures.comparison import MARKERS, against_length
from vlmlab.figures.curves import bars, losses
from vlmlab.figures.inside import Drawn, listed

Value = float | None


def decoding(
    names: Sequence[str],
    measured: Sequence[float],
    limits: Sequence[float],
    paper: Sequence[Value] | None = None,
    *,
    title: str | None = None,
) -> Drawn:
    """Decoded tokens a second of several models, each beside what memory bandwidth allows and what a paper reports.

    Args:
        names: of the models; measured, limits: tokens a second, one a model.
        paper: the same as published, measured elsewhere; None for a model that is not in it.
    Raises BadInput where numbers are missing or not positive.
    """
    ours, most, theirs = _row(names, measured), _row(names, limits), _row(names, paper or [None] * len(names), True)
    marks = {"memory bandwidth's limit": most} | ({} if np.isnan(theirs).all() else {"the paper": theirs})
    top = float(np.nanmax([ours, most, theirs]))
    fig = bars(
        names, {"measured": ours.tolist()}, baselines={name: row.tolist() for name, row in marks.items()},
        xlabel="tokens a second", title=title, limits=(0, 1.12 * top),
    )  # fmt: skip
    told = [
        f"{name} {value:.3g}, {value / limit:.0%} of the limit {limit:.3g}"
        + (f", the paper {other:.3g}" if np.isfinite(other) else "")
        for name, value, limit, other in zip(names, ours, most, theirs, strict=True)
    ]
    return Drawn(fig, f"Decoded tokens a second. {'; '.join(told)}.")


def growth(
    lengths: Sequence[float],
    panels: Mapping[str, Mapping[str, Sequence[Value]]],
    *,
    xlabel: str = "tokens",
    title: str | None = None,
) -> Drawn:
    """Quantities against length on logarithmic axes, a panel each: of models, or of a scan's backends.

    Args:
        lengths: shared by all curves; panels: title with its unit -> (name -> a value a length, None where there is
            none: memory ran out). A name without any value is left out, and the text says so.
    Raises BadInput where the numbers do not fit the lengths or are not positive.
    """
    drawn: dict[str, dict[str, tuple[list[float], list[float]]]] = {}
    told = []
    for heading, curves in panels.items():
        drawn[heading], parts = {}, []
        for name, values in curves.items():
            row = _row(lengths, values, gaps=True)
            known = np.isfinite(row)
            x, y = np.asarray(lengths, float)[known], row[known]
            if not known.any():
                parts.append(f"{name} out of memory at every length")
                continue
            drawn[heading][name] = x.tolist(), y.tolist()
            gaps = [f"{length:,.0f}" for length, there in zip(lengths, known, strict=True) if not there]
            gone = f" and out of memory at {listed(gaps)}" if gaps else ""
            parts.append(f"{name} from {y[0]:.3g} at {x[0]:,.0f} to {y[-1]:.3g} at {x[-1]:,.0f}{gone}")
        told.append(f"{heading}: {'; '.join(parts)}")
    fig = against_length(drawn, xlabel=xlabel, title=title)
    return Drawn(fig, f"Against {xlabel}. {'. '.join(told)}.")


def throughput(
    names: Sequence[str], measured: Sequence[float], paper: Sequence[Value], *, title: str | None = None
) -> Drawn:
    """Pictures a second of several encoders beside a paper's figures (None: none), which another GPU gave.

    Raises BadInput where numbers are missing or not positive.
    """
    ours, theirs = _row(names, measured), _row(names, paper, gaps=True)
    series = {"measured": ours / 1000, "the paper": theirs / 1000}
    fig = bars(
        names, {name: row.tolist() for name, row in series.items()}, xlabel="thousand pictures a second", title=title
    )
    told = [
        f"{name} {value:,.0f}" + (f", the paper {other:,.0f}" if np.isfinite(other) else "")
        for name, value, other in zip(names, ours, theirs, strict=True)
    ]
    return Drawn(fig, f"Pictures a second. {'; '.join(told)}.")


def training(values: Sequence[float], *, smooth: float = 0.9, title: str | None = None) -> Drawn:
    """A loss over a training run's steps. Raises BadInput for fewer than two values, or one that is not finite."""
    row = np.asarray(values, float)
    if row.ndim != 1 or row.size < 2 or not np.isfinite(row).all():
        raise BadInput("a loss curve needs at least two values, all finite")
    few = max(1, row.size // 20)
    first, last = row[:few].mean(), row[-few:].mean()
    fig = losses({"loss": row}, smooth=smooth, title=title)
    return Drawn(fig, f"Loss over {row.size:,} steps: {first:.3g} at first, {last:.3g} at the end (mean of {few}).")


@styled
def backends(
    shapes: Sequence[str], panels: Mapping[str, Mapping[str, Sequence[Value]]], *, title: str | None = None
) -> Drawn:
    """Milliseconds of a scan's backends for several shapes, one panel a quantity, on a logarithmic axis.

    Args:
        shapes: from top to bottom; panels: title with its unit -> (backend -> a value a shape, None: out of memory).
    Raises BadInput where numbers are missing or not positive.
    """
    if not panels or not all(panels.values()) or not shapes:
        raise BadInput("there is nothing to draw")
    names = list(dict.fromkeys(name for rows in panels.values() for name in rows))
    fig = new_figure(WIDTH, 1.3 + 0.32 * len(shapes) + 0.3 * bool(title))
    row: Any = fig.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    told = []
    for axes, (heading, found) in zip(row, panels.items(), strict=True):
        table = {name: _row(shapes, values, gaps=True) for name, values in found.items()}
        for name, values in table.items():
            at = names.index(name)
            colour, marker = COLOURS[at % len(COLOURS)], MARKERS[at % len(MARKERS)]
            axes.plot(values, np.arange(len(shapes)), marker, color=colour, label=name, markersize=6)
        axes.set(xscale="log", title=heading, ylim=(len(shapes) - 0.4, -0.6))
        _ticks(axes, np.concatenate([*table.values()]))
        axes.set_yticks(range(len(shapes)), list(shapes))
        axes.grid(axis="x")
        told.append(f"{heading}: {'; '.join(_fastest(shape, i, table) for i, shape in enumerate(shapes))}")
    joint_legend(fig, row)
    if title:
        fig.suptitle(title, x=0.01, ha="left", fontsize=10.5)
    return Drawn(fig, f"The scan's backends. {'. '.join(told)}.")


def _ticks(axes: Any, values: np.ndarray) -> None:
    """Round numbers on a logarithmic horizontal axis that spans the values."""
    if not np.isfinite(values).any():
        raise BadInput("a panel has no value to draw")
    low, high = 0.7 * float(np.nanmin(values)), 1.4 * float(np.nanmax(values))
    steps = (1, 2, 5) if high < 30 * low else (1,)
    ticks = [step * 10.0**power for power in range(-6, 13) for step in steps]
    shown = [tick for tick in ticks if low <= tick <= high]
    axes.set_xlim(low, high)
    axes.set_xticks(shown, [f"{tick:,g}" for tick in shown])
    axes.minorticks_off()


def _fastest(shape: str, at: int, table: Mapping[str, np.ndarray]) -> str:
    """Every backend's value for a shape, the smallest first."""
    known = sorted((row[at], name) for name, row in table.items() if np.isfinite(row[at]))
    gone = [f"{name} out of memory" for name, row in table.items() if not np.isfinite(row[at])]
    return f"{shape}, {', '.join([f'{name} {value:.3g}' for value, name in known] + gone)}"


def _row(names: Sequence[Any], values: Sequence[Value], gaps: bool = False) -> np.ndarray:
    """One positive number a name; NaN for None, where gaps are allowed."""
    row = np.array([np.nan if value is None else value for value in values], float)
    if not len(names) or row.shape != (len(names),):
        raise BadInput(f"{row.size} values for {len(names)} names; give one each, and at least one")
    if (row <= 0).any() or np.isinf(row).any() or not (gaps or np.isfinite(row).all()):
        raise BadInput("every value must be a positive number" + (" or None" if gaps else ""))
    return row
