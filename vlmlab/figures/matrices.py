"""Matrices of similarities and scores with their labels; maps of one value per patch. Notebooks 01, 13 and 14."""

from collections.abc import Sequence
from textwrap import fill
from typing import TYPE_CHECKING

import numpy as np

from vlmlab.errors import BadInput
from vlmlab.figures.base import INK, SEQUENTIAL, SIGNED, WIDTH, bare, new_figure, styled, text_colour

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def _two_dimensional(values: np.ndarray) -> np.ndarray:
    array = np.asarray(values, float)
    if array.ndim != 2 or not array.size:
        raise BadInput(f"a matrix has two axes and at least one entry, got shape {array.shape}")
    return array


@styled
def matrix(
    values: np.ndarray,
    rows: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    *,
    row_label: str = "",
    column_label: str = "",
    value_label: str = "",
    title: str | None = None,
    numbers: bool | None = None,
    digits: int = 2,
    signed: bool = False,
    limits: tuple[float, float] | None = None,
    row_pictures: Sequence | None = None,
    column_pictures: Sequence | None = None,
    marked: Sequence[tuple[int, int]] = (),
) -> "Figure":
    """A matrix (n, m) as coloured cells with labels and a colour bar.

    Args:
        rows, columns: their names; row_pictures, column_pictures: arrays (H, W, 3) drawn beside or above instead.
        numbers: also write the values (up to 12 x 12 when None); digits: behind the point.
        signed: a scale around zero with different ends for both signs.
        limits: of the colour scale; marked: cells (row, column) with a frame, e.g. the right answers.
    """
    from matplotlib.patches import Rectangle

    array = _two_dimensional(values)
    n, m = array.shape
    low, high = limits or (float(np.nanmin(array)), float(np.nanmax(array)))
    if signed and limits is None:
        high = max(abs(low), abs(high)) or 1.0
        low = -high
    margin = 0.5 + 0.085 * max((len(str(r)) for r in rows or [""]), default=0) * (row_pictures is None)
    cell = min((WIDTH - margin - 1.2) / m, 0.62, 6.0 / n)
    slanted = columns is not None and max(len(str(c)) for c in columns) * 0.08 > cell
    high_labels = 0.085 * max((len(str(c)) for c in columns or [""]), default=0) if slanted else 0.2
    fig = new_figure(min(WIDTH, m * cell + margin + 1.3), n * cell + high_labels + 0.75)
    axes = fig.subplots()
    shown = axes.imshow(array, cmap=SIGNED if signed else SEQUENTIAL, vmin=low, vmax=high, aspect="auto")
    names = list(rows) if rows is not None else [""] * n
    axes.set_yticks(range(n), names if row_pictures is None else [""] * n)
    axes.set_xticks(range(m), list(columns) if columns is not None and column_pictures is None else [""] * m)
    axes.tick_params(length=0)
    if slanted:
        axes.set_xticks(range(m), list(columns or []), rotation=90)
    for spine in axes.spines.values():
        spine.set_visible(False)
    if numbers if numbers is not None else max(n, m) <= 12:
        for i in range(n):
            for j in range(m):
                colour = text_colour(shown.cmap(shown.norm(array[i, j])))
                axes.text(j, i, f"{array[i, j]:.{digits}f}", ha="center", va="center", color=colour, fontsize=7.5)
    for i, j in marked:
        axes.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, fill=False, edgecolor=INK, linewidth=2.2))
        axes.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, fill=False, edgecolor="white", linewidth=0.9))
    _pictures(axes, row_pictures, [(-0.012, 1 - (i + 0.5) / n) for i in range(n)], cell, (1.0, 0.5))
    _pictures(axes, column_pictures, [((j + 0.5) / m, -0.012) for j in range(m)], cell, (0.5, 1.0))
    axes.set_ylabel(row_label, labelpad=cell * 72 + 2 if row_pictures is not None else None)
    axes.set_xlabel(column_label, labelpad=cell * 72 + 2 if column_pictures is not None else None)
    fig.colorbar(shown, ax=axes, label=value_label, fraction=0.05, pad=0.02)
    if title:
        axes.set_title(title)
    return fig


def _pictures(axes: "Axes", images: Sequence | None, places: list, cell: float, align: tuple[float, float]) -> None:
    from matplotlib.offsetbox import AnnotationBbox, OffsetImage

    for image, place in zip(images if images is not None else (), places, strict=False):
        array = np.asarray(image)
        box = OffsetImage(array, zoom=0.92 * cell * 72 / array.shape[0], interpolation="antialiased")
        where = AnnotationBbox(box, place, xycoords="axes fraction", frameon=False, box_alignment=align, pad=0)
        axes.add_artist(where)


@styled
def heatmaps(
    maps: Sequence,
    titles: Sequence[str] | None = None,
    *,
    columns: int | None = None,
    value_label: str = "",
    title: str | None = None,
    signed: bool = False,
    limits: tuple[float, float] | None = None,
    marked: Sequence[tuple[int, int] | None] | None = None,
) -> "Figure":
    """Maps (g, g) side by side on one colour scale. `marked`: a cell (row, column) of each to frame."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.patches import Rectangle

    arrays = [_two_dimensional(values) for values in maps]
    low, high = limits or (min(a.min() for a in arrays), max(a.max() for a in arrays))
    if signed and limits is None:
        high = float(max(abs(low), abs(high))) or 1.0
        low = -high
    cmap = SIGNED if signed else SEQUENTIAL
    per_row = columns or min(len(arrays), 6)
    lines = -(-len(arrays) // per_row)
    each = min((WIDTH - 0.9) / per_row, 2.0)
    fig = new_figure(each * per_row + 0.9, lines * (each + (0.28 if titles else 0.04)) + (0.3 if title else 0.05))
    grid = fig.subplots(lines, per_row, squeeze=False)
    for axes in grid.ravel():
        bare(axes)
    for index, (axes, array) in enumerate(zip(grid.ravel(), arrays, strict=False)):
        axes.imshow(array, cmap=cmap, vmin=low, vmax=high)
        if titles:
            axes.set_title(fill(titles[index], max(12, int(each * 13))), fontsize=9)
        place = marked[index] if marked is not None else None
        if place is not None:
            corner = (place[1] - 0.5, place[0] - 0.5)
            axes.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor="#000000", linewidth=2.4))
            axes.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor="#FFFFFF", linewidth=1.0))
    fig.colorbar(ScalarMappable(Normalize(low, high), cmap), ax=grid, label=value_label, fraction=0.04, pad=0.02)
    if title:
        fig.suptitle(title, x=0.01, ha="left", fontsize=10.5)
    return fig


@styled
def position_similarity(similarity: np.ndarray, *, title: str | None = None) -> "Figure":
    """Cosine similarities of position embeddings: (P, P) as a g x g arrangement of maps g x g, as in figure 7 of the
    ViT paper (Dosovitskiy et al. 2021). The map at row r, column c compares patch (r, c) with all patches."""
    array = _two_dimensional(similarity)
    g = round(array.shape[0] ** 0.5)
    if array.shape != (g * g, g * g):
        raise BadInput(f"expected similarities of g x g patches, an array (g * g, g * g), got shape {array.shape}")
    gap = max(1, g // 6)
    step = g + gap
    sheet = np.full((g * step - gap, g * step - gap), np.nan)
    for index, row in enumerate(array):
        r, c = divmod(index, g)
        sheet[r * step : r * step + g, c * step : c * step + g] = row.reshape(g, g)
    fig = new_figure(5.2, 4.5)
    fig.set_layout_engine("compressed")
    axes = fig.subplots()
    off = array[~np.eye(len(array), dtype=bool)]
    shown = axes.imshow(sheet, cmap=SEQUENTIAL, vmin=float(off.min()), vmax=float(np.quantile(off, 0.995)))
    middle = [index * step + (g - 1) / 2 for index in range(g)]
    names = [str(index) for index in range(g)]
    axes.set_xticks(middle, names)
    axes.set_yticks(middle, names)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set(xlabel="column of the patch", ylabel="row of the patch")
    fig.colorbar(shown, ax=axes, label="cosine similarity", fraction=0.05, pad=0.02, extend="max")
    if title:
        axes.set_title(title)
    return fig
