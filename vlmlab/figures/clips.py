"""Film strips with what was said at each frame, and accuracy against the number of frames. Notebook 12.

What watching costs is drawn by `vlmlab.figures.comparison.against_length`.
"""

from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import TYPE_CHECKING

import numpy as np

from vlmlab.errors import BadInput
from vlmlab.figures.base import COLOURS, GREY, INK, WIDTH, bare, joint_legend, new_figure, styled
from vlmlab.figures.comparison import MARKERS
from vlmlab.figures.curves import DASHES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RIGHT, WRONG = "#00704F", "#B04700"
Said = Sequence[tuple[str, bool | None]]
"""A short text for each frame, and whether it is right (None: neither)."""


@styled
def film_strip(
    strips: Mapping[str, np.ndarray | Sequence[np.ndarray]],
    *,
    labels: Mapping[str, Sequence[str]] | None = None,
    said: Mapping[str, Said] | None = None,
    title: str | None = None,
) -> "Figure":
    """Rows of frames from left to right, and below them what was said at each frame.

    Args:
        strips: name -> frames (T, H, W, 3), the same T for all.
        labels: name of a strip -> a short text below each of its frames, such as its time.
        said: name of a speaker -> what it said at each frame, right answers ticked, wrong ones crossed.
    Raises BadInput for no frames, or rows of different lengths.
    """
    rows = {name: [np.asarray(frame) for frame in frames] for name, frames in strips.items()}
    texts = {**(labels or {}), **(said or {})}
    lengths = {len(row) for row in (*rows.values(), *texts.values())}
    if not rows or len(lengths) != 1 or 0 in lengths:
        raise BadInput(f"a film strip needs frames, and rows of one length; these have {sorted(lengths)}")
    count, margin = lengths.pop(), 0.9  # inches left of the frames, for names
    each = (WIDTH - margin) / max(count, 4)
    tall = each * max(frame.shape[0] / frame.shape[1] for row in rows.values() for frame in row)
    heights = [tall + (0.2 if name in (labels or {}) else 0.05) for name in rows]
    for name, row in (said or {}).items():
        lines = max(fill(name, 11).count("\n") + 1, *(_lines(text, each) for text, _ in row))
        heights.append(0.17 * lines + 0.06)
    above = 0.3 if title else 0.04
    wide, high = margin + each * count, sum(heights) + above
    fig = new_figure(wide, high)
    fig.set_layout_engine("none")

    def write(text: str, x: float, y: float, ha: str, va: str = "top", colour: str = INK) -> None:  # inches
        fig.text(x / wide, y / high, text, ha=ha, va=va, fontsize=8, color=colour)

    top = high - above
    for (name, frames), height in zip(rows.items(), heights, strict=False):
        write(fill(name, 11), 0.05, top - tall / 2, "left", "center")
        for index, frame in enumerate(frames):
            left, bottom = margin + each * index, top - tall
            box = (left / wide, bottom / high, each * 0.96 / wide, tall * 0.96 / high)
            bare(fig.add_axes(box)).imshow(frame)
            if name in (labels or {}):
                write(str((labels or {})[name][index]), left + each / 2, bottom - 0.03, "center")
        top -= height
    for (name, row), height in zip((said or {}).items(), heights[len(rows) :], strict=True):
        write(fill(name, 11), 0.05, top - 0.03, "left")
        for index, (text, mark) in enumerate(row):
            shown = ("" if mark is None else "✓ " if mark else "✗ ") + fill(str(text), _letters(each))
            colour = INK if mark is None else RIGHT if mark else WRONG
            write(shown, margin + each * (index + 0.5), top - 0.03, "center", colour=colour)
        top -= height
    if title:
        fig.suptitle(title, x=0.01, y=1 - 0.06 / high, ha="left", va="top", fontsize=10.5)
    return fig


def _letters(width: float) -> int:
    return max(6, int(width * 13))


def _lines(text: str, width: float) -> int:
    return fill(f"✓ {text}", _letters(width)).count("\n") + 1


@styled
def against_frames(
    series: Mapping[str, Mapping[int, Mapping[str, float]]],
    *,
    trained: int,
    chance: float | None = None,
    title: str | None = None,
    height: float = 3.0,
) -> "Figure":
    """Accuracy against the number of frames with intervals; beyond `trained` frames the ground is grey.

    Args:
        series: name -> {frames: {"accuracy", "low", "high"}}, fractions.
        trained: most frames that were shown in training. chance: a horizontal line.
    """
    if not series or not all(series.values()):
        raise BadInput("there is nothing to draw")
    fig = new_figure(WIDTH, height + 0.3 * (len(series) > 1))
    axes = fig.subplots()
    longest = max(length for found in series.values() for length in found)
    if longest > trained:
        axes.axvspan(trained * 2**0.5, longest * 2**0.4, color="#EFEFEF", zorder=0)
        axes.text(trained * 2**0.6, 99, "longer than in training", fontsize=8.5, color="#555555", va="top")
    for index, (name, found) in enumerate(series.items()):
        lengths = sorted(found)
        middle, low, high = ([100 * found[n][key] for n in lengths] for key in ("accuracy", "low", "high"))
        at = np.array(lengths) * 2.0 ** (0.06 * (index - (len(series) - 1) / 2))  # beside, not upon each other
        colour = COLOURS[index % len(COLOURS)]
        axes.vlines(at, low, high, color=colour, linewidth=1.3)
        dashes, marker = DASHES[index % len(DASHES)], MARKERS[index % len(MARKERS)]
        axes.plot(at, middle, marker, color=colour, linestyle=dashes, markersize=5, label=name)
    if chance is not None:
        axes.axhline(100 * chance, color=GREY, linestyle=(0, (2, 2)), linewidth=1.3, label="chance")
    axes.set_xscale("log", base=2)
    ticks = sorted({length for found in series.values() for length in found})
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set_ylim(0, 102)
    axes.grid(axis="y")
    axes.set(xlabel="frames of the same seconds", ylabel="accuracy (%)")
    joint_legend(fig, [axes])
    if title:
        axes.set_title(title)
    return fig
