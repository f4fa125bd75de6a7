"""Figures of LLaVA's chapters: the model, packed questions, margins, answers of several models. Notebooks 02 to 04."""

from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import TYPE_CHECKING

import numpy as np

from vlmlab.errors import BadInput
from vlmlab.figures.base import COLOURS, GREY, INK, ORANGE, PAPER, SKY, WIDTH, bare, new_figure, styled
from vlmlab.figures.diagrams import PALE, SOFT, box, wanted

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@styled
def architecture(shapes: Mapping[str, str], *, title: str | None = None) -> "Figure":
    """LLaVA as boxes and arrows.

    shapes: text for each of X_v, H_v, Z_v, X_q, H_q, sequence, X_a, e.g. {"H_v": "(64, 192)"}.
    """
    wanted(shapes, ("X_v", "H_v", "Z_v", "X_q", "H_q", "sequence", "X_a"))
    fig = new_figure(WIDTH, 2.7 + (0.3 if title else 0))
    axes = bare(fig.subplots())
    axes.set_xlim(0, 10.4)
    axes.set_ylim(0, 3.9)
    for x, y, text, colour in (
        (1.75, 2.55, "vision\nencoder", SKY),
        (4.45, 2.55, "projector\nW", ORANGE),
        (4.45, 0.55, "embedding\ntable", PALE),
        (7.7, 1.55, "language\nmodel $f_\\phi$", COLOURS[2]),
    ):
        box(axes, x, y, text, colour)
    stops = (
        (0.45, 2.95, "$X_v$", "X_v", "above"),
        (3.4, 2.95, "$H_v$", "H_v", "above"),
        (6.3, 2.95, "$Z_v$", "Z_v", "above"),
        (3.2, 0.95, "$X_q$", "X_q", "above"),
        (6.3, 0.95, "$H_q$", "H_q", "below"),
        (9.65, 1.95, "$X_a$", "X_a", "above"),
    )
    for x, y, symbol, name, side in stops:
        step = 0.28 if side == "above" else -0.28
        axes.text(x, y + step, symbol, ha="center", va="center", fontsize=11)
        axes.text(x, y + 2.1 * step, shapes[name], ha="center", va="center", fontsize=7.5, color=SOFT)
    for start, end in (
        ((0.2, 2.95), (1.75, 2.95)),
        ((3.05, 2.95), (4.45, 2.95)),
        ((2.7, 0.95), (4.45, 0.95)),
        ((9.0, 1.95), (10.2, 1.95)),
    ):
        axes.annotate("", end, start, arrowprops={"arrowstyle": "->", "color": INK})
    for y in (2.95, 0.95):
        axes.plot((5.75, 6.75, 6.75), (y, y, 1.95), color=INK, linewidth=1.2)
    axes.annotate("", (7.7, 1.95), (6.75, 1.95), arrowprops={"arrowstyle": "->", "color": INK})
    axes.text(8.35, 1.2, f"reads $[Z_v, H_q]$\n{shapes['sequence']}", ha="center", va="top", fontsize=7.5, color=SOFT)
    if title:
        axes.set_title(title)
    return fig


@styled
def packed_mask(
    visible: np.ndarray, segments: Sequence[int], *, names: Sequence[str] | None = None, title: str | None = None
) -> "Figure":
    """Who sees whom in a row of packed questions: coloured where the query (row) sees the key (column).

    Args:
        visible: (L, L) boolean, causality included; segments: (L,) 0 the prefix, k the k-th question, -1 padding.
        names: of the segments from 0 on.
    """
    from matplotlib.colors import to_rgb
    from matplotlib.patches import Patch

    seen, of = np.asarray(visible, bool), np.asarray(segments)
    if seen.shape != (len(of), len(of)):
        raise BadInput(f"visible has shape {seen.shape} for {len(of)} segments; it must be ({len(of)}, {len(of)})")
    count = int(of.max()) + 1
    palette = [SKY, *(COLOURS[(1, 2, 3, 5, 0, 6)[k % 6]] for k in range(count - 1))]
    sheet = np.ones((*seen.shape, 3))
    for k, colour in enumerate(palette):
        sheet[seen & (of == k)[:, None]] = to_rgb(colour)
    fig = new_figure(6.6, 4.1)
    axes = fig.subplots()
    axes.imshow(sheet, interpolation="nearest", aspect="auto")
    for edge in np.flatnonzero(np.diff(of)) + 0.5:
        axes.axhline(edge, color="#BBBBBB", linewidth=0.6)
        axes.axvline(edge, color="#BBBBBB", linewidth=0.6)
    axes.set(xlabel="key (position in the row)", ylabel="query")
    labels = names or ["prefix", *(f"question {k}" for k in range(1, count))]
    handles = [
        Patch(facecolor=c, edgecolor="#9A9A9A", label=fill(str(n), 26)) for c, n in zip(palette, labels, strict=False)
    ]
    axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.02, 1.0), title="tokens of", alignment="left")
    if title:
        axes.set_title(title)
    return fig


@styled
def histogram(
    values: np.ndarray,
    *,
    band: tuple[float, float] | None = None,
    band_label: str = "",
    bins: int = 41,
    limits: tuple[float, float] | None = None,
    xlabel: str = "",
    ylabel: str = "count",
    title: str | None = None,
    height: float = 2.6,
) -> "Figure":
    """A histogram with a shaded band, e.g. of the values that are refused."""
    array = np.asarray(values, float).ravel()
    if not array.size:
        raise BadInput("there is no value to count")
    low, high = limits or (float(array.min()), float(array.max()))
    fig = new_figure(WIDTH, height)
    axes = fig.subplots()
    axes.hist(np.clip(array, low, high), bins=bins, range=(low, high), color=COLOURS[0], edgecolor=PAPER, linewidth=0.5)
    if band:
        axes.axvspan(
            *band, facecolor=COLOURS[1], alpha=0.35, hatch="///", edgecolor=GREY, linewidth=0, label=band_label
        )
        fig.legend(loc="outside upper right")
    axes.grid(axis="y")
    axes.set(xlabel=xlabel, ylabel=ylabel, xlim=(low, high))
    if title:
        axes.set_title(title)
    return fig


@styled
def answer_table(
    images: Sequence,
    questions: Sequence[str],
    answers: Mapping[str, Sequence[str]],
    *,
    right: Mapping[str, Sequence[bool | None]] | None = None,
    title: str | None = None,
) -> "Figure":
    """Pictures with a question each and the answers of several models in columns.

    Args:
        images: arrays (H, W, 3), one a question; answers: name of the model -> one answer a question.
        right: marks each answer with a tick or a cross, in addition to its colour; None leaves it unmarked.
    """
    count = len(questions)
    if len(images) != count or any(len(values) != count for values in answers.values()) or not count:
        raise BadInput(f"{count} questions need as many images and answers of each model, and at least one")
    side, first = 1.0, 1.55  # inches: the picture, the question
    each = (WIDTH - side - first - 0.1) / len(answers)
    heads = ["question", *(fill(name, max(8, int(each * 11))) for name in answers)]  # names break at their hyphens
    head = 0.14 * max(name.count("\n") + 1 for name in heads) + 0.14
    fig = new_figure(WIDTH, count * (side + 0.06) + head + 0.02 + (0.28 if title else 0))
    axes = bare(fig.subplots())
    axes.set_xlim(0, WIDTH)
    axes.set_ylim(-count * (side + 0.06), head)
    axes.set_aspect("equal")
    for column, name in enumerate(heads):
        x = side + 0.1 + (first + (column - 1) * each if column else 0.0)
        axes.text(x, 0.04, name, fontsize=8.5, weight="bold", va="bottom")
    for row in range(count):
        top = -row * (side + 0.06)
        axes.imshow(np.asarray(images[row]), extent=(0, side, top - side, top), interpolation="nearest")
        axes.text(side + 0.1, top - 0.04, fill(str(questions[row]), 21), fontsize=8, va="top")
        for column, (name, values) in enumerate(answers.items()):
            text, colour = fill(str(values[row]) or "(nothing)", max(10, int(each * 13.5)), max_lines=7), INK
            mark = right[name][row] if right is not None and name in right else None
            if mark is not None:
                text, colour = ("\u2713 " if mark else "\u2717 ") + text, "#00704F" if mark else "#B04700"
            axes.text(side + 0.1 + first + column * each, top - 0.04, text, fontsize=8, va="top", color=colour)
        axes.axhline(top - side - 0.03, color="#DDDDDD", linewidth=0.6)
    axes.set_xlim(0, WIDTH)
    axes.set_ylim(-count * (side + 0.06), head)
    if title:
        axes.set_title(title)
    return fig
