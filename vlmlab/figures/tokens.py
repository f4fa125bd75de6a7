"""Strips of tokens: which carry loss, where the picture's tokens go, how long each part is. Notebooks 02, 03 and 13."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from vlmlab.errors import BadInput
from vlmlab.figures.base import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PINK,
    SEQUENTIAL,
    SKY,
    WIDTH,
    bare,
    new_figure,
    styled,
    text_colour,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GROUPS = {"text": "#E8E8E8", "image": SKY, "loss": ORANGE, "special": PINK, "padding": "#FFFFFF", "answer": GREEN}
"""Colours of the groups that most notebooks use; other names take the next free colour."""
LETTER, HEIGHT = 0.078, 0.27  # inches a letter, and a line of tokens


def visible(token: str) -> str:
    """A token as it can be printed: a space in front as a middle dot, a line break as a return sign."""
    return token.replace("\n", "\u21b5").replace("\t", "\u21e5").replace(" ", "\u00b7") or "\u2205"


@styled
def token_strip(
    tokens: Sequence[str],
    groups: Sequence[str] | None = None,
    *,
    values: Sequence[float] | None = None,
    colours: Mapping[str, str] | None = None,
    value_label: str = "",
    title: str | None = None,
    runs: int = 6,
) -> "Figure":
    """Tokens as boxes in reading order, coloured by group or by value.

    Args:
        tokens: their texts, spaces included; groups: a name for each ("text", "image", "loss", "special", "padding" or
            your own), listed in the legend; the group "loss" is also underlined, so that colour is not all that tells.
        values: one number a token instead of a group, e.g. its loss; value_label: of the colour bar.
        colours: name -> colour for groups of your own.
        runs: a run of more than so many equal tokens is shown as two, an ellipsis with the count, and one.
    """
    from matplotlib.patches import Rectangle

    names = list(groups) if groups is not None else ["text"] * len(tokens)
    if len(names) != len(tokens) or (values is not None and len(values) != len(tokens)):
        raise BadInput(f"{len(tokens)} tokens need as many groups or values")
    palette = _palette(names, colours)
    items = _folded(tokens, names, values, runs)
    scale, mapped = _scale(values)
    lines = _wrapped([text for text, _, _ in items])
    legend = 0.34 if values is None and groups is not None else 0.0
    fig = new_figure(WIDTH, lines[-1][1] * HEIGHT + HEIGHT + 0.1 + legend + (0.3 if title else 0) + 0.6 * bool(scale))
    axes = bare(fig.subplots())
    for (text, group, value), (x, line, width) in zip(items, lines, strict=True):
        colour = palette[group] if scale is None else mapped(value)
        y = -line * HEIGHT
        axes.add_patch(Rectangle((x, y), width, 0.22, facecolor=colour, edgecolor="#9A9A9A", linewidth=0.5))
        if scale is None and group == "loss":
            axes.add_patch(Rectangle((x, y), width, 0.035, facecolor="#222222", linewidth=0))
        axes.text(x + width / 2, y + 0.115, text, ha="center", va="center", fontsize=7.5, color=text_colour(colour))
    axes.set_xlim(0, WIDTH)
    axes.set_ylim(-lines[-1][1] * HEIGHT - 0.03, 0.25)
    if scale is not None:
        fig.colorbar(scale, ax=axes, orientation="horizontal", fraction=0.12, pad=0.04, label=value_label, aspect=50)
    elif groups is not None:
        _legend(axes, {name: palette[name] for name in dict.fromkeys(names)})
    if title:
        axes.set_title(title)
    return fig


def _palette(names: Sequence[str], colours: Mapping[str, str] | None) -> dict[str, str]:
    free = iter((BLUE, GREEN, ORANGE, PINK, SKY, GREY) * 4)
    palette = {**GROUPS, **(colours or {})}
    return {name: palette.get(name) or next(free) for name in dict.fromkeys(names)}


def _folded(tokens: Sequence[str], names: Sequence[str], values: Sequence[float] | None, runs: int) -> list[tuple]:
    numbers = list(values) if values is not None else [0.0] * len(tokens)
    items: list[tuple] = []
    start = 0
    while start < len(tokens):
        stop = start
        while stop < len(tokens) and (tokens[stop], names[stop]) == (tokens[start], names[start]):
            stop += 1
        block = [(visible(tokens[i]), names[i], numbers[i]) for i in range(start, stop)]
        if len(block) > runs:
            middle = float(np.mean([value for _, _, value in block[2:-1]]))
            block = [*block[:2], (f"\u2026 {len(block)} in all \u2026", names[start], middle), block[-1]]
        items += block
        start = stop
    return items


def _wrapped(texts: Sequence[str]) -> list[tuple[float, int, float]]:
    """x, line and width of each box."""
    places, x, line = [], 0.0, 0
    for text in texts:
        width = max(0.14, LETTER * len(text) + 0.07)
        if x and x + width > WIDTH:
            x, line = 0.0, line + 1
        places.append((x, line, width))
        x += width + 0.02
    return places or [(0.0, 0, 0.0)]


def _scale(values: Sequence[float] | None):
    if values is None:
        return None, None
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    array = np.asarray(values, float)
    norm = Normalize(float(np.nanmin(array)), float(np.nanmax(array)))
    return ScalarMappable(norm, SEQUENTIAL), lambda value: colormaps[SEQUENTIAL](norm(value))


def _legend(axes: "Axes", colours: Mapping[str, str]) -> None:
    from matplotlib.patches import Patch

    handles = [Patch(facecolor=colour, edgecolor="#9A9A9A", label=name) for name, colour in colours.items()]
    axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(0, -0.02), ncols=6, borderpad=0, handlelength=1.2)


@styled
def blocks(
    rows: Sequence[tuple[str, Sequence[tuple[str, int, str]]]],
    *,
    title: str | None = None,
    colours: Mapping[str, str] | None = None,
    notes: Sequence[str] | None = None,
) -> "Figure":
    """Sequences as rows of blocks whose widths are their lengths in tokens: shapes through the splice.

    Args:
        rows: (name of the row, blocks), each block (text, length, group); all rows share one scale.
        notes: a text at the right end of each row, e.g. its shape "(1, 103, 192)".
    """
    from matplotlib.patches import Rectangle

    if not rows:
        raise BadInput("there is no row to draw")
    groups = [group for _, parts in rows for _, _, group in parts]
    palette = _palette(groups, colours)
    longest = max(sum(length for _, length, _ in parts) for _, parts in rows)
    named = 0.085 * max(len(name) for name, _ in rows) + 0.1
    noted = 0.08 * max((len(note) for note in notes or [""]), default=0) + 0.1
    unit = (WIDTH - named - noted) / longest
    fig = new_figure(WIDTH, 0.52 * len(rows) + 0.4 + (0.3 if title else 0))
    axes = bare(fig.subplots())
    for index, (name, parts) in enumerate(rows):
        x, y = named, -0.5 * index
        axes.text(named - 0.08, y + 0.16, name, ha="right", va="center", fontsize=8.5)
        for text, length, group in parts:
            width = length * unit
            colour = palette[group]
            axes.add_patch(Rectangle((x, y), width, 0.32, facecolor=colour, edgecolor="#6B6B6B", linewidth=0.7))
            label = f"{text} {length}" if text else str(length)
            for shown in (label, str(length)):
                if LETTER * len(shown) <= width:
                    axes.text(
                        x + width / 2,
                        y + 0.16,
                        shown,
                        ha="center",
                        va="center",
                        fontsize=7.5,
                        color=text_colour(colour),
                    )
                    break
            x += width
        if notes:
            axes.text(x + 0.07, y + 0.16, notes[index], ha="left", va="center", fontsize=8)
    axes.set_xlim(0, WIDTH)
    axes.set_ylim(-0.5 * (len(rows) - 1) - 0.05, 0.37)
    _legend(axes, palette)
    if title:
        axes.set_title(title)
    return fig
