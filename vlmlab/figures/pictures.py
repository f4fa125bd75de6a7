"""Rows of pictures with titles, boxes, masks and notes; patch grids. Notebook 00 and all that show pictures."""

from collections.abc import Sequence
from math import ceil
from textwrap import fill
from typing import TYPE_CHECKING

import numpy as np

from vlmlab.errors import BadInput
from vlmlab.figures.base import COLOURS, INK, PAPER, WIDTH, bare, new_figure, styled, text_colour

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def _as_pictures(images: Sequence) -> list[np.ndarray]:
    """Arrays (H, W, 3) or (H, W); a float array lies in [0, 1]."""
    if len(images) == 0:
        raise BadInput("there is no picture to show; give at least one array (H, W, 3)")
    arrays = [np.asarray(image) for image in images]
    for array in arrays:
        if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
            raise BadInput(f"a picture is an array (H, W, 3) or (H, W), got shape {array.shape}")
    return arrays


@styled
def pictures(
    images: Sequence,
    titles: Sequence[str] | None = None,
    notes: Sequence[str] | None = None,
    *,
    columns: int | None = None,
    boxes: Sequence | None = None,
    labels: Sequence[Sequence[str]] | None = None,
    right: Sequence[bool] | None = None,
    title: str | None = None,
    maps: str = "viridis",
    width: float | None = None,
) -> "Figure":
    """Pictures side by side, in several rows where there are many.

    Args:
        images: arrays (H, W, 3) uint8 or float in [0, 1]; a two-dimensional one is drawn with the colour map `maps`,
            or, if it holds integers, as a mask: 0 pale grey, i + 1 in the i-th colour.
        titles, notes: a text above and a text below each; notes are wrapped.
        columns: pictures a row (at most five when None).
        boxes: for each picture rows x1, y1, x2, y2 in pixels, or None; labels: their names.
        right: marks each note with a tick or a cross, in addition to its colour.
        width: inches a picture.
    """
    arrays = _as_pictures(images)
    per_row = columns or min(len(arrays), 5)
    rows = ceil(len(arrays) / per_row)
    each = width or min(WIDTH / per_row, 2.4)
    letters = max(12, int(each * 12.5))
    wrapped = [fill(str(note), letters) for note in notes] if notes else []
    headings = [fill(str(text), letters) for text in titles] if titles else []
    above = 0.17 * max((text.count("\n") + 1 for text in headings), default=0)
    below = 0.17 * max((text.count("\n") + 1 for text in wrapped), default=0)
    tall = each * max(a.shape[0] / a.shape[1] for a in arrays)
    fig = new_figure(each * per_row, rows * (tall + above + below + 0.06) + (0.3 if title else 0))
    grid = fig.subplots(rows, per_row, squeeze=False).ravel()
    for axes in grid:
        bare(axes)
    for index, (axes, array) in enumerate(zip(grid, arrays, strict=False)):
        _draw(axes, array, maps)
        if headings:
            axes.set_title(headings[index], fontsize=9)
        if boxes is not None and boxes[index] is not None:
            _boxes(axes, boxes[index], labels[index] if labels else None)
        if wrapped:
            mark, colour = "", INK
            if right is not None:
                mark, colour = ("\u2713 ", "#00704F") if right[index] else ("\u2717 ", "#B04700")
            axes.set_xlabel(mark + wrapped[index], fontsize=8.5, color=colour)
    if title:
        fig.suptitle(title, x=0.01, ha="left", fontsize=10.5)
    return fig


def _draw(axes: "Axes", array: np.ndarray, maps: str) -> None:
    if array.ndim == 3:
        axes.imshow(array)
    elif np.issubdtype(array.dtype, np.integer):
        axes.imshow(mask_colours(array))
    else:
        axes.imshow(array, cmap=maps)


def mask_colours(mask: np.ndarray) -> np.ndarray:
    """An instance mask (H, W) of integers as colours (H, W, 3) in [0, 1]: 0 pale grey, i + 1 in the i-th colour."""
    from matplotlib.colors import to_rgb

    table = np.array([to_rgb("#ECECEC"), *(to_rgb(COLOURS[i % len(COLOURS)]) for i in range(int(mask.max())))])
    return table[np.asarray(mask)]


def _boxes(axes: "Axes", boxes: Sequence, labels: Sequence[str] | None) -> None:
    from matplotlib.patches import Rectangle

    for index, (left, top, right, bottom) in enumerate(boxes):
        colour = COLOURS[index % len(COLOURS)]
        corner, size = (left - 0.5, top - 0.5), (right - left, bottom - top)
        axes.add_patch(Rectangle(corner, *size, fill=False, edgecolor=PAPER, linewidth=3))
        axes.add_patch(Rectangle(corner, *size, fill=False, edgecolor=colour, linewidth=1.6))
        if labels:
            label = {"facecolor": colour, "edgecolor": "none", "pad": 1.2}
            ink = text_colour(colour)
            axes.text(left, top - 1.5, labels[index], fontsize=7.5, color=ink, bbox=label, va="bottom", clip_on=False)


@styled
def patch_grid(
    image: np.ndarray, patch: int, *, marked: Sequence[int] = (), numbers: bool = False, title: str | None = None
) -> "Figure":
    """A picture (H, W, 3) with the borders of its patches of `patch` pixels; `marked` patches framed, numbered row by
    row from 0."""
    from matplotlib.patches import Rectangle

    (array,) = _as_pictures([image])
    fig = new_figure(3.4, 3.4 * array.shape[0] / array.shape[1] + (0.25 if title else 0))
    axes = bare(fig.subplots())
    _draw(axes, array, "viridis")
    rows, columns = array.shape[0] // patch, array.shape[1] // patch
    for row in range(rows + 1):
        axes.axhline(row * patch - 0.5, color=PAPER, linewidth=0.9)
    for column in range(columns + 1):
        axes.axvline(column * patch - 0.5, color=PAPER, linewidth=0.9)
    for index in marked:
        row, column = divmod(int(index), columns)
        corner = (column * patch - 0.5, row * patch - 0.5)
        axes.add_patch(Rectangle(corner, patch, patch, fill=False, edgecolor=INK, linewidth=4))
        axes.add_patch(Rectangle(corner, patch, patch, fill=False, edgecolor=COLOURS[1], linewidth=2))
    if numbers:
        for index in range(rows * columns):
            row, column = divmod(index, columns)
            place = ((column + 0.5) * patch - 0.5, (row + 0.5) * patch - 0.5)
            back = {"facecolor": "#000000AA", "edgecolor": "none", "pad": 0.8}
            axes.text(*place, str(index), fontsize=6, color=PAPER, ha="center", va="center", bbox=back)
    if title:
        axes.set_title(title)
    return fig


@styled
def patches(cut: np.ndarray, *, columns: int | None = None, title: str | None = None) -> "Figure":
    """Patches (P, p, p, 3) apart from each other, row by row; a square of them when `columns` is None."""
    array = np.asarray(cut)
    if array.ndim != 4:
        raise BadInput(f"patches are an array (P, p, p, 3), got shape {array.shape}")
    count, side = array.shape[:2]
    per_row = columns or ceil(count**0.5)
    rows, gap = ceil(count / per_row), max(1, side // 6)
    step = side + gap
    blank = 255 if array.dtype == np.uint8 else 1.0
    sheet = np.full((rows * step - gap, per_row * step - gap, array.shape[3]), blank, array.dtype)
    for index, tile in enumerate(array):
        row, column = divmod(index, per_row)
        sheet[row * step : row * step + side, column * step : column * step + side] = tile
    wide = min(WIDTH, max(3.4, 0.42 * per_row))
    fig = new_figure(wide, wide * sheet.shape[0] / sheet.shape[1] + (0.25 if title else 0))
    axes = bare(fig.subplots())
    axes.imshow(sheet)
    if title:
        axes.set_title(title)
    return fig


@styled
def overlay(
    images: Sequence,
    heats: Sequence,
    titles: Sequence[str] | None = None,
    *,
    limits: tuple[float, float] | None = None,
    label: str = "",
) -> "Figure":
    """Pictures (H, W, 3) under heat maps (g, g), drawn half transparent on one colour scale with a colour bar."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    arrays = _as_pictures(images)
    maps = [np.asarray(heat, float) for heat in heats]
    low, high = limits or (min(m.min() for m in maps), max(m.max() for m in maps))
    each = min(WIDTH / (len(arrays) + 0.4), 2.4)
    fig = new_figure(each * (len(arrays) + 0.4), each + (0.25 if titles else 0.05))
    row = fig.subplots(1, len(arrays), squeeze=False)[0]
    for index, (axes, array, heat) in enumerate(zip(row, arrays, maps, strict=True)):
        bare(axes).imshow(array.mean(-1) if array.ndim == 3 else array, cmap="gray", extent=(0, 1, 0, 1))
        axes.imshow(heat, cmap="inferno", vmin=low, vmax=high, alpha=0.55, extent=(0, 1, 0, 1))
        if titles:
            axes.set_title(fill(titles[index], max(12, int(each * 12.5))), fontsize=9)
    scale = ScalarMappable(Normalize(low, high), "inferno")
    fig.colorbar(scale, ax=row, fraction=0.05, pad=0.02, label=label)
    return fig
