"""Sequences and states: a norm along the positions, whose the state is, how long it lasts. Notebook 13.

Every function returns a figure and the text that states what is in it: `show(*timeline(norms, inside.groups))`.
"""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from vlmlab.errors import BadInput
from vlmlab.figures.base import (
    COLOURS,
    GREY,
    INK,
    PAPER,
    SEQUENTIAL,
    WIDTH,
    joint_legend,
    new_figure,
    styled,
)
from vlmlab.figures.curves import DASHES
from vlmlab.figures.inside import VEIL, Drawn, listed, over, place, scale
from vlmlab.figures.scan import MARKERS
from vlmlab.figures.tokens import GROUPS, visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def spans(groups: Sequence[str]) -> list[tuple[str, int, int]]:
    """Runs of equal names: (name, first position, one past the last)."""
    found, start = [], 0
    for name, run in groupby(groups):
        stop = start + len(list(run))
        found.append((name, start, stop))
        start = stop
    return found


def _shade(axes: "Axes", groups: Sequence[str], inches: float) -> None:
    """The spans as shaded ground with their names above; a name wider than its span goes one line up."""
    for name, start, stop in spans(groups):
        axes.axvspan(start - 0.5, stop - 0.5, color=GROUPS.get(name, GREY), alpha=0.28, linewidth=0, zorder=0)
        axes.axvline(start - 0.5, color="#9A9A9A", linewidth=0.6, zorder=0)
        narrow = 0.075 * len(name) > inches * (stop - start) / len(groups)
        axes.annotate(name, ((start + stop - 1) / 2, 1), (0, 13 if narrow else 3), xycoords=("data", "axes fraction"),
                      textcoords="offset points", ha="center", fontsize=8, color="#555555")  # fmt: skip
    axes.set_xlim(-0.5, len(groups) - 0.5)


def checked(values: Any, shape: str, groups: Sequence[str]) -> np.ndarray:
    array = np.asarray(values, float)
    if array.ndim != shape.count(",") + 1 or not array.size or array.shape[-1] != len(groups):
        raise BadInput(f"expected values ({shape}) for {len(groups)} positions, got shape {array.shape}")
    if not np.isfinite(array).all():
        raise BadInput(f"expected finite values ({shape}); some are infinite or not a number")
    return array


@styled
def timeline(
    norms: Any, groups: Sequence[str], *, layers: Sequence[str] | None = None, ylabel: str = "norm of the state",
    title: str | None = None,
) -> Drawn:  # fmt: skip
    """One value a position for each layer, along the sequence; its spans are shaded and named.

    The axis is logarithmic where the largest value is over ten times the median.

    Args:
        norms: (layers, L), none negative; groups: (L,) names, e.g. "text", "image", "answer".
        layers: their names; counted from 0 when None.
    """
    array = checked(norms, "layers, L", groups)
    if array.min() < 0:
        raise BadInput(f"a norm is not negative; the smallest is {array.min():.3g}")
    from matplotlib import colormaps

    names = list(layers) if layers is not None else [f"layer {index}" for index in range(len(array))]
    fig = new_figure(WIDTH, 3.1 + 0.3 * bool(title))
    axes = fig.subplots()
    _shade(axes, groups, WIDTH - 1.9)
    for index, (name, row) in enumerate(zip(names, array, strict=True)):
        colour = colormaps[SEQUENTIAL](0.88 * index / max(1, len(array) - 1))
        marker = MARKERS[index % len(MARKERS)] if len(array) <= len(MARKERS) else ""
        axes.plot(row, color=colour, marker=marker, markersize=4.5, linewidth=1.4, label=name,
                  markevery=(index % 5, max(5, len(groups) // 10)))  # fmt: skip
    if array.min() > 0 and array.max() > 10 * np.median(array):
        axes.set_yscale("log")
    else:
        axes.set_ylim(0)
    axes.grid(axis="y")
    axes.set(xlabel="position (tokens)", ylabel=ylabel)
    fig.legend(loc="outside right upper", ncols=-(-len(names) // 16), reverse=True)
    if title:
        fig.suptitle(title, x=0.01, ha="left", fontsize=10.5)
    layer, at = np.unravel_index(array.argmax(), array.shape)
    found = spans(groups)
    inside = next(f"{name} at {start} to {stop - 1}" for name, start, stop in found if start <= at < stop)
    steps = [f"{name} {start} to {stop - 1}: {array[:, start:stop].mean():.3g}" for name, start, stop in found]
    largest = int(array.mean(1).argmax())
    return Drawn(
        fig,
        f"{ylabel.capitalize()} in {len(array)} layers along {len(groups)} positions. The largest value is "
        f"{array.max():.3g}, in {names[layer]} at position {at} ({inside}); {names[largest]} has the largest mean. "
        f"Mean over the layers by span: {', '.join(steps)}.",
    )


@styled
def ledger(
    picture: np.ndarray,
    shares: Any,
    groups: Sequence[str],
    grid: tuple[int, int],
    *,
    texts: Sequence[str] | None = None,
    outline: np.ndarray | None = None,
    title: str | None = None,
) -> Drawn:
    """What a state is made of: each position's share as a bar, the image's part as a map over the picture.

    Args:
        picture: (H, W, 3); outline: mask (H, W) of an object.
        shares: (L,), which sum to 1 if they are the whole state's; a negative one works against it.
        groups: (L,) names, those of the patches "image"; grid: their rows and columns. texts: (L,) the tokens, written
            at the five largest shares as far as there is room.
    """
    array = checked(shares, "L", groups)
    at = np.flatnonzero(np.asarray(groups) == "image")
    if len(at) != grid[0] * grid[1] or not len(at):
        raise BadInput(f"a grid {grid} needs {grid[0] * grid[1]} positions of the image, and {len(at)} are")
    if texts is not None and len(texts) != len(array):
        raise BadInput(f"{len(texts)} texts for {len(array)} shares")
    fig = new_figure(WIDTH, 2.75 + 0.3 * bool(title))
    strip, heat = fig.subplots(1, 2, width_ratios=(1.75, 1))
    _shade(strip, groups, 0.55 * WIDTH)
    colours = [
        GROUPS["image"] if name == "image" else GROUPS["answer"] if name == "answer" else GREY for name in groups
    ]
    strip.bar(range(len(array)), array, 0.92, color=colours, edgecolor=INK, linewidth=0.25)
    strip.axhline(0, color=INK, linewidth=0.8)
    strip.set(xlabel="position (tokens)", ylabel="share of the state")
    strip.margins(y=0.2)
    names = [visible(text) for text in texts] if texts is not None else [str(i) for i in range(len(array))]
    for patch, where in enumerate(at):
        names[where] = place(patch, grid[1])
    top = [int(i) for i in np.abs(array).argsort()[::-1][:5]]
    apart = len(array) / 14  # positions that two names need between them
    named: list[int] = []
    for index in top:
        if all(abs(index - other) >= apart for other in named):
            up = array[index] >= 0
            strip.annotate(names[index], (index, array[index]), (0, 2 if up else -2), textcoords="offset points",
                           ha="center", va="bottom" if up else "top", fontsize=7.5)  # fmt: skip
            named.append(index)
    values = array[at].reshape(grid)
    shown = scale(values)
    over(heat, picture, values, shown, outline)
    fig.colorbar(shown, ax=heat, label="share of the state", alpha=VEIL, fraction=0.046, pad=0.03)
    if title:
        fig.suptitle(title, x=0.01, ha="left", fontsize=10.5)
    totals = {name: float(array[np.asarray(groups) == name].sum()) for name in dict.fromkeys(groups)}
    parts = [f"{name} {total:.1%}" for name, total in totals.items()]
    first = [f"{names[i]} ({array[i]:.1%})" for i in top[:3]]
    return Drawn(
        fig,
        f"Shares of {len(array)} positions in the state. By group: {listed(parts)}. The largest: {listed(first)}. Of "
        f"the patches, {place(values.argmax(), grid[1])} has most ({values.max():.1%}).",
    )


Band = tuple[Any, Any, Any]
"""Lower quantile, median and upper quantile, an array each."""


def _bands(curves: Mapping[str, tuple[Any, Band]], what: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """name -> (x (n,), quantiles (3, n)), checked: finite, ordered, x positive."""
    found = {}
    for name, (x, band) in curves.items():
        places, quantiles = np.asarray(x, float), np.asarray(band, float)
        if places.ndim != 1 or not places.size or quantiles.shape != (3, places.size):
            raise BadInput(f"{name!r}: {places.size} {what} need quantiles (3, {places.size}), got {quantiles.shape}")
        if not np.isfinite(quantiles).all() or (np.diff(quantiles, axis=0) < 0).any():
            raise BadInput(f"{name!r}: give finite quantiles in the order lower, median, upper")
        found[name] = (places, quantiles)
    if not found:
        raise BadInput("there is no curve to draw")
    return found


def _draw_band(axes: "Axes", index: int, name: str, x: np.ndarray, quantiles: np.ndarray) -> None:
    low, middle, high = quantiles
    colour, dashes = COLOURS[index % len(COLOURS)], DASHES[index % len(DASHES)]
    axes.fill_between(x, low, high, color=colour, alpha=0.17, linewidth=0)
    every = 0.07 if len(x) > 16 else 1  # a fraction of the axes, as the axis may be logarithmic
    axes.plot(x, middle, MARKERS[index % len(MARKERS)], color=colour, linestyle=dashes, markersize=4, label=name,
              markevery=every)  # fmt: skip


@styled
def retention(
    curves: Mapping[str, tuple[Any, Band]],
    *,
    band: str = "10 % to 90 % of channels and states",
    title: str | None = None,
) -> Drawn:
    """How much of a token is left in the state after so many tokens more: median and band, tokens on a log axis.

    Args:
        curves: name, e.g. of a layer -> (distances in tokens from 1 on, (lower, median, upper)), fractions.
        band: what the quantiles are.
    """
    found = _bands(curves, "distances")
    if min(x.min() for x, _ in found.values()) <= 0:
        raise BadInput("a distance of 0 tokens has no place on a logarithmic axis; begin with 1")
    fig = new_figure(WIDTH, 3.0 + 0.3 * (len(found) > 1) + 0.3 * bool(title))
    axes = fig.subplots()
    for index, (name, (x, quantiles)) in enumerate(found.items()):
        _draw_band(axes, index, name, x, quantiles)
    axes.axhline(0.5, color=GREY, linestyle=(0, (2, 2)), linewidth=1.2)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_ylim(-0.02, 1.04)
    axes.grid()
    axes.set(xlabel="distance (tokens)", ylabel="share that is left")
    axes.set_title(f"line: median; band: {band}", loc="right", fontsize=8, color="#555555")
    joint_legend(fig, [axes])
    if title:
        fig.suptitle(title, x=0.01, ha="left", fontsize=10.5)
    parts = []
    for name, (x, (_, middle, _)) in found.items():
        below = np.flatnonzero(middle < 0.5)
        half = f"falls below one half at {x[below[0]]:g} tokens" if len(below) else "stays at one half or above"
        parts.append(f"{name}: the median {half}, and is {middle[-1]:.2g} at {x[-1]:g}")
    return Drawn(fig, f"Retention against distance. {'; '.join(parts)}.")


@styled
def horizons(
    curves: Mapping[str, Band],
    *,
    marks: Mapping[str, float] | None = None,
    band: str = "10 % to 90 % of channels and states",
    title: str | None = None,
) -> Drawn:
    """The memory horizon of each layer in tokens, median and band, on a logarithmic axis.

    Args:
        curves: name of a model -> (lower, median, upper), one value a layer each, in tokens.
        marks: name -> tokens, drawn as a line, e.g. {"64 image tokens": 64}; band: what the quantiles are.
    """
    from matplotlib.ticker import MaxNLocator

    found = _bands({name: (np.arange(len(rows[1])), rows) for name, rows in curves.items()}, "layers")
    if min(quantiles.min() for _, quantiles in found.values()) <= 0:
        raise BadInput("a horizon is a positive number of tokens; a logarithmic axis cannot show another")
    fig = new_figure(WIDTH, 3.0 + 0.3 * (len(found) > 1) + 0.3 * bool(title))
    axes = fig.subplots()
    for index, (name, (x, quantiles)) in enumerate(found.items()):
        _draw_band(axes, index, name, x, quantiles)
    last = max(x[-1] for x, _ in found.values())
    for name, tokens in (marks or {}).items():
        axes.axhline(tokens, color=INK, linestyle=(0, (4, 2)), linewidth=1.1)
        back = {"facecolor": PAPER, "alpha": 0.75, "edgecolor": "none", "pad": 0.8}
        axes.annotate(name, (last, tokens), (0, 3), textcoords="offset points", ha="right", fontsize=8, bbox=back)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid()
    axes.set(xlabel="layer", ylabel="memory horizon (tokens)")
    axes.set_title(f"line: median; band: {band}", loc="right", fontsize=8, color="#555555")
    joint_legend(fig, [axes])
    if title:
        fig.suptitle(title, x=0.01, ha="left", fontsize=10.5)
    parts = []
    for name, (_, (_, middle, high)) in found.items():
        text = f"{name}: the median is longest in layer {middle.argmax()} ({middle.max():.3g} tokens) and shortest in "
        text += f"layer {middle.argmin()} ({middle.min():.3g})"
        for mark, tokens in (marks or {}).items():
            text += f"; it reaches {mark} in {(middle >= tokens).sum()} of {len(middle)} layers, the upper quantile "
            text += f"in {(high >= tokens).sum()}"
        parts.append(text)
    return Drawn(fig, f"Memory horizon by layer. {'. '.join(parts)}.")
