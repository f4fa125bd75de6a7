"""Maps over a picture, one value a patch: methods and models side by side, words, heads. Notebooks 13 to 15.

Every function returns a figure and the text that states what is in it: `show(*heat(picture, {"rollout": values}))`.
"""

from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import TYPE_CHECKING, Any, NamedTuple, SupportsInt

import numpy as np

from vlmlab.errors import BadInput
from vlmlab.figures.base import INK, PAPER, SEQUENTIAL, SIGNED, WIDTH, bare, new_figure, styled
from vlmlab.figures.clips import RIGHT, WRONG
from vlmlab.figures.tokens import visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure

VEIL, PALE = 0.7, 0.45  # opacity of a map over its picture; how far the picture is lifted towards white


class Drawn(NamedTuple):
    """A figure and its alt text, in the order in which `show` takes them."""

    figure: "Figure"
    alt: str


def place(index: SupportsInt, columns: int) -> str:
    """The name of a patch counted row by row, as `Inside.texts` has it, column then row: "C4"."""
    row, column = divmod(int(index), columns)
    return f"{chr(ord('A') + column)}{row + 1}" if columns <= 26 else f"row {row + 1}, column {column + 1}"


def as_map(values: Any) -> np.ndarray:
    """Values of patches as a float array (rows, columns). Raises BadInput for another shape or a value not finite."""
    array = np.asarray(values, float)
    if array.ndim != 2 or not array.size or not np.isfinite(array).all():
        raise BadInput(f"a map is an array (rows, columns) of finite values, got shape {array.shape}")
    return array


def scale(*maps: np.ndarray) -> "ScalarMappable":
    """One colour scale for all maps: diverging around zero where a value is negative, else sequential. The sequential
    one starts at zero or, where the smallest value is over half of the largest, at the smallest."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    low, high = min(float(m.min()) for m in maps), max(float(m.max()) for m in maps)
    if low < 0:
        reach = max(-low, high)
        return ScalarMappable(Normalize(-reach, reach), SIGNED)
    return ScalarMappable(Normalize(low if high > low > high / 2 else 0.0, high or 1.0), SEQUENTIAL)


def over(
    axes: "Axes", picture: np.ndarray, values: np.ndarray, colours: "ScalarMappable", outline: np.ndarray | None = None
) -> None:
    """Draw a map (rows, columns) over the whole picture in grey; the outline of a mask (H, W) in black and white."""
    array = np.asarray(picture)
    grey = array.mean(-1) / (255 if array.dtype == np.uint8 else 1)
    height, width = grey.shape
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    bare(axes).imshow(PALE + (1 - PALE) * grey, cmap="gray", vmin=0, vmax=1, extent=extent)
    axes.imshow(values, cmap=colours.cmap, clim=colours.get_clim(), alpha=VEIL, extent=extent)
    if outline is not None:
        _outline(axes, outline)


def _outline(axes: "Axes", mask: np.ndarray) -> None:
    padded = np.pad(np.asarray(mask, float), 1)  # closes the outline of an object at the picture's edge
    at = [np.arange(size) - 1.0 for size in padded.shape]
    if padded.any():
        axes.contour(at[1], at[0], padded, levels=[0.5], colors=PAPER, linewidths=2.6)
        axes.contour(at[1], at[0], padded, levels=[0.5], colors="#000000", linewidths=1.1)


def on_object(values: np.ndarray, mask: np.ndarray) -> tuple[float, float]:
    """The share of a map's positive part that lies on a mask (H, W), and the mask's share of the picture's area. A
    patch that the mask covers in part counts by that part; a map without a positive value is taken as even."""
    inside = np.asarray(mask, bool)
    positive = np.maximum(as_map(values), 0)
    rows, columns = (np.arange(size) * n // size for size, n in zip(inside.shape, positive.shape, strict=True))
    spread = positive[rows[:, None], columns[None]]  # (H, W)
    weight = spread.sum()
    area = float(inside.mean())
    return float(spread[inside].sum() / weight) if weight else area, area


def listed(parts: Sequence[str]) -> str:
    """ "a, b and c"."""
    return " and ".join(filter(None, (", ".join(parts[:-1]), parts[-1])))


def _peak(name: str, values: np.ndarray, outline: np.ndarray | None) -> str:
    columns = values.shape[1]
    text = f"{name}: largest at {place(values.argmax(), columns)} ({values.max():.2g})"
    if values.min() < 0:
        text += f", smallest at {place(values.argmin(), columns)} ({values.min():.2g})"
    if outline is not None and values.max() > 0:
        text += f", {on_object(values, outline)[0]:.0%} of what is positive on the object"
    return text


@styled
def heat(
    picture: np.ndarray,
    maps: Mapping[str, Any],
    *,
    unit: str = "",
    outline: np.ndarray | None = None,
    title: str | None = None,
) -> Drawn:
    """A picture and, beside it, maps over it on one colour scale: diverging where a value is negative.

    Args:
        picture: (H, W, 3) as the model sees it, without borders that it does not read.
        maps: name -> (rows, columns), values with the same unit.
        outline: mask (H, W) of an object, boolean.
    Raises BadInput for no map, or one that is not finite.
    """
    if not maps:
        raise BadInput("there is no map to draw; give at least one, as {name: (rows, columns)}")
    found = {name: as_map(values) for name, values in maps.items()}
    fig = _panels(picture, list(found), list(found.values()), unit, outline, title)
    return Drawn(fig, _summary([_peak(name, values, outline) for name, values in found.items()], outline))


@styled
def words(
    picture: np.ndarray,
    texts: Sequence[str],
    maps: Any,
    *,
    unit: str = "",
    outline: np.ndarray | None = None,
    title: str | None = None,
) -> Drawn:
    """An answer word by word, each with its map, on one colour scale.

    Args:
        texts: the answer's tokens, A of them; maps: (A, rows, columns). The others as in `heat`.
    """
    found = [as_map(values) for values in maps]
    if len(texts) != len(found) or not found:
        raise BadInput(f"{len(texts)} words need as many maps, and at least one; got {len(found)}")
    names = [f"“{visible(text)}”" for text in texts]
    fig = _panels(picture, names, found, unit, outline, title)
    return Drawn(fig, _summary([_peak(*pair, outline) for pair in zip(names, found, strict=True)], outline))


def _summary(parts: Sequence[str], outline: np.ndarray | None) -> str:
    area = "" if outline is None else f" The object covers {np.asarray(outline, bool).mean():.0%} of the picture."
    return f"Maps over the picture. {'; '.join(parts)}.{area}"


def _panels(
    picture: np.ndarray,
    names: Sequence[str],
    maps: Sequence[np.ndarray],
    unit: str,
    outline: np.ndarray | None,
    title: str | None,
) -> "Figure":
    """The picture, then the maps, at most five a row."""
    count = len(maps) + 1
    rows = -(-count // 5)
    per_row = -(-count // rows)
    each = min((WIDTH - 0.9) / per_row, 2.4)
    headings = [fill(name, max(9, int(each * 12.5))) for name in ("picture", *names)]
    above = 0.1 + 0.16 * max(text.count("\n") + 1 for text in headings)
    tall = each * np.shape(picture)[0] / np.shape(picture)[1]
    fig = new_figure(each * per_row + 0.9, rows * (tall + above) + 0.3 * bool(title))
    grid = fig.subplots(rows, per_row, squeeze=False)
    for axes in grid.ravel():
        bare(axes)
    cells, colours = list(grid.ravel()), scale(*maps)
    cells[0].imshow(picture)
    for axes, values in zip(cells[1:], maps, strict=False):
        over(axes, picture, values, colours, outline)
    for axes, heading in zip(cells, headings, strict=False):
        axes.set_title(heading, fontsize=9)
    fig.colorbar(colours, ax=grid, label=unit, alpha=VEIL, fraction=0.05, pad=0.02, aspect=18)
    if title:
        fig.suptitle(title, x=0.01, ha="left", fontsize=10.5)
    return fig


@styled
def methods(
    rows: Mapping[str, Mapping[str, Any]], *, outline: np.ndarray | None = None, title: str | None = None
) -> Drawn:
    """Models, or questions, in rows: the answer with its verdict, the picture, a map a method.

    Methods have units of their own, so that each map is divided by its largest magnitude.

    Args:
        rows: name -> {"picture": (H, W, 3), "answer": text, "right": True, False or None for no verdict, "maps":
            {method: (rows, columns)}}; rows may have different methods.
        outline: mask (H, W) of the object, the same for all rows.
    """
    if not rows or not all(row["maps"] for row in rows.values()):
        raise BadInput("there is no row, or one without a map")
    found = {name: {m: as_map(v) for m, v in row["maps"].items()} for name, row in rows.items()}
    shares = {name: {m: v / (np.abs(v).max() or 1.0) for m, v in row.items()} for name, row in found.items()}
    signs = sorted({bool(v.min() < 0) for row in shares.values() for v in row.values()})
    scales = {signed: scale(np.array([-1.0 if signed else 0.0, 1.0])) for signed in signs}
    per_row = 1 + max(map(len, shares.values()))
    each = min((WIDTH - 0.1) / per_row, 1.75)
    high = len(rows) * (each + 0.48) + 0.3 * bool(title)
    fig = new_figure(max(each * per_row, 3.4), high + 0.6)
    above, below = fig.subfigures(2, 1, squeeze=False, height_ratios=(high, 0.6))[:, 0]
    for part, (name, row) in zip(above.subfigures(len(rows), 1, squeeze=False)[:, 0], rows.items(), strict=True):
        mark, colour = {True: ("✓ ", RIGHT), False: ("✗ ", WRONG), None: ("", INK)}[row["right"]]
        part.suptitle(f"{name}:  {mark}{row['answer']}", x=0.01, ha="left", fontsize=9.5, color=colour)
        cells = part.subplots(1, per_row, squeeze=False)[0]
        for axes in cells:
            bare(axes)
        cells[0].imshow(row["picture"])
        cells[0].set_title("picture", fontsize=9)
        for axes, (method, values) in zip(cells[1:], shares[name].items(), strict=False):
            over(axes, row["picture"], values, scales[bool(values.min() < 0)], outline)
            axes.set_title(fill(method, max(9, int(each * 12.5))), fontsize=9)
    for signed, axes in zip(signs, below.subplots(1, len(signs), squeeze=False)[0], strict=True):
        label = "signed map, share of its largest magnitude" if signed else "share of the map's largest value"
        below.colorbar(scales[signed], cax=axes, orientation="horizontal", label=label, alpha=VEIL)
    if title:
        above.suptitle(title, x=0.01, ha="left", fontsize=10.5)
    texts = []
    for name, row in rows.items():
        verdict = {True: ", which is right", False: ", which is wrong", None: ""}[row["right"]]
        peaks = [_peak(method, values, outline) for method, values in found[name].items()]
        texts.append(f"{name} answers “{row['answer']}”{verdict}. {'; '.join(peaks)}.")
    return Drawn(fig, " ".join(texts))


@styled
def heads(maps: Any, *, unit: str = "", title: str | None = None) -> Drawn:
    """Every head of every layer as a small map, all on one colour scale that ends where 99.5 % of the values do.

    maps: (layers, heads, rows, columns), e.g. the attention from the answer to the patches.
    """
    array = np.asarray(maps, float)
    if array.ndim != 4 or not array.size or not np.isfinite(array).all():
        raise BadInput(f"maps of heads are an array (layers, heads, rows, columns), finite; got shape {array.shape}")
    layers, count, rows, columns = array.shape
    gap = max(1, columns // 6)
    sheet = np.full((layers * (rows + gap) - gap, count * (columns + gap) - gap), np.nan)
    for layer in range(layers):
        for head in range(count):
            top, left = layer * (rows + gap), head * (columns + gap)
            sheet[top : top + rows, left : left + columns] = array[layer, head]
    cell = min((WIDTH - 1.6) / sheet.shape[1], 1.3 / columns)
    fig = new_figure(max(3.4, sheet.shape[1] * cell + 1.6), sheet.shape[0] * cell + 0.6 + 0.3 * bool(title))
    fig.set_layout_engine("compressed")
    axes, colours = bare(fig.subplots()), scale(np.clip(array, *np.quantile(array, (0.005, 0.995))))
    axes.imshow(sheet, cmap=colours.cmap, clim=colours.get_clim())
    axes.set_xticks([head * (columns + gap) + (columns - 1) / 2 for head in range(count)], map(str, range(count)))
    axes.set_yticks([layer * (rows + gap) + (rows - 1) / 2 for layer in range(layers)], map(str, range(layers)))
    axes.tick_params(length=0)
    axes.set(xlabel="head", ylabel="layer")
    fig.colorbar(colours, ax=axes, label=unit, extend="both" if colours.norm.vmin else "max", fraction=0.05, pad=0.02)
    if title:
        axes.set_title(title)
    top, left, patch = np.unravel_index(array.argmax(), (layers, count, rows * columns))
    totals = array.sum((2, 3))
    most = np.unravel_index(totals.argmax(), totals.shape)
    by_layer = totals.mean(1)
    text = f"Maps of {layers} layers with {count} heads. The largest value is {array.max():.2g}, at "
    text += f"{place(patch, columns)} in layer {top}, head {left}. Summed over the patches, layer {most[0]}, head "
    text += f"{most[1]} has most ({totals.max():.2g}); of the layers' means, layer {by_layer.argmax()} has the largest "
    text += f"({by_layer.max():.2g}), layer {by_layer.argmin()} the smallest ({by_layer.min():.2g})."
    return Drawn(fig, text)
