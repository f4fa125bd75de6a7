"""What a language model makes of the patches, and who reads whom: the logit lens, attention matrices. Notebook 13.

Every function returns a figure and the text that states what is in it, in the order in which `show` takes them.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vlmlab.errors import BadInput
from vlmlab.figures.base import VERMILION, WIDTH, bare, new_figure, styled, text_colour
from vlmlab.figures.inside import Drawn, listed, place, scale
from vlmlab.figures.states import checked, spans
from vlmlab.figures.tokens import visible


@styled
def lens(
    texts: Sequence[Sequence[Sequence[str]]],
    probabilities: Any,
    grid: tuple[int, int],
    *,
    layers: Sequence[str] | None = None,
    title: str | None = None,
) -> Drawn:
    """The logit lens on the patches: for each layer a grid of the likeliest words, coloured by probability.

    Args:
        texts: [layer][patch] the likeliest tokens of which the first is shown, cut where it is long; probabilities:
            theirs, (layers, P, k), in [0, 1]; both as `vlmlab.explain.lens.top_words` gives them.
        grid: rows and columns of the P patches. layers: their names; counted from 0 when None.
    """
    chances = np.asarray(probabilities, float)
    if chances.ndim != 3 or not chances.size or chances.shape[1] != grid[0] * grid[1]:
        raise BadInput(f"a grid {grid} needs probabilities (layers, {grid[0] * grid[1]}, k), got shape {chances.shape}")
    if not (np.isfinite(chances).all() and chances.min() >= 0 and chances.max() <= 1 + 1e-6):
        raise BadInput(f"probabilities lie in [0, 1]; these reach from {chances.min():.3g} to {chances.max():.3g}")
    if [len(layer) for layer in texts] != [chances.shape[1]] * len(chances):
        raise BadInput(f"expected {len(chances)} layers of {chances.shape[1]} words, as there are probabilities")
    values, said = chances[..., 0], [[visible(str(patch[0])) for patch in layer] for layer in texts]
    rows, columns = grid
    names = list(layers) if layers is not None else [f"layer {index}" for index in range(len(values))]
    per_row = 2 if columns <= 8 and len(values) > 1 else 1
    lines = -(-len(values) // per_row)
    letters = max(2, int(WIDTH / per_row / columns / 0.062))
    fig = new_figure(WIDTH, lines * (0.23 * rows + 0.3) + 0.6 + 0.3 * bool(title))
    cells, colours = fig.subplots(lines, per_row, squeeze=False), scale(np.append(values, 0.0))
    for axes in cells.ravel():
        bare(axes)
    for axes, name, layer, row in zip(cells.ravel(), names, said, values, strict=False):
        axes.imshow(row.reshape(grid), cmap=colours.cmap, clim=colours.get_clim(), aspect="auto")
        axes.set_title(name, fontsize=9)
        for index, (text, chance) in enumerate(zip(layer, row, strict=True)):
            shown = text if len(text) <= letters else text[: letters - 1] + "…"
            y, x = divmod(index, columns)
            axes.text(x, y, shown, fontsize=6.8, ha="center", va="center", color=text_colour(colours.to_rgba(chance)))
    fig.colorbar(colours, ax=cells, location="bottom", label="probability of the word", fraction=0.03, aspect=45)
    if title:
        fig.suptitle(title, x=0.01, ha="left", fontsize=10.5)
    parts = []
    for name, layer, row in zip(names, said, values, strict=True):
        word, times = Counter(layer).most_common(1)[0]
        parts.append(f"{name} {row.mean():.2g}, most often “{word}” ({times} of {len(layer)})")
    at, patch = np.unravel_index(values.argmax(), values.shape)
    text = f"The likeliest word at each of {rows} by {columns} patches. The surest is “{said[at][patch]}” at "
    text += f"{place(patch, columns)} in {names[at]} ({values.max():.2g}). Mean probability: {'; '.join(parts)}."
    return Drawn(fig, text)


@styled
def readers(
    matrices: Mapping[str, Any], groups: Sequence[str], *, units: Sequence[str] = (), title: str | None = None
) -> Drawn:
    """Who reads whom, such as hidden attention beside attention: a query a row, a key a column, the spans marked.

    Each matrix has its own scale, which ends where 99 % of its values do; what lies after a query is left white where
    it is zero throughout.

    Args:
        matrices: name -> (L, L); groups: (L,) names of the positions; units: one a matrix.
    """
    found = {name: checked(values, "L, L", groups) for name, values in matrices.items()}
    if not found or (units and len(units) != len(found)):
        raise BadInput(f"{len(found)} matrices and {len(units)} units; give at least one matrix, and a unit each")
    if any(len(values) != len(groups) for values in found.values()):
        raise BadInput(f"a matrix for {len(groups)} positions is ({len(groups)}, {len(groups)})")
    each = WIDTH / max(2, len(found))
    fig = new_figure(each * len(found), each + 0.95 + 0.3 * bool(title))
    fig.set_layout_engine("compressed")
    edges = spans(groups)
    later = np.triu(np.ones((len(groups),) * 2, bool), 1)
    parts = []
    for index, (axes, (name, values)) in enumerate(
        zip(fig.subplots(1, len(found), squeeze=False)[0], found.items(), strict=True)
    ):
        causal = not values[later].any()
        seen = values[~later] if causal else values
        colours = scale(np.clip(seen, *np.quantile(seen, (0.01, 0.99))))
        axes.imshow(np.where(later & causal, np.nan, values), cmap=colours.cmap, clim=colours.get_clim())
        for _, start, _ in edges[1:]:
            axes.axhline(start - 0.5, color=VERMILION, linewidth=0.8)
            axes.axvline(start - 0.5, color=VERMILION, linewidth=0.8)
        middles, names = [(start + stop - 1) / 2 for _, start, stop in edges], [name for name, *_ in edges]
        axes.set_xticks(middles, names, rotation=90)
        axes.set_yticks(middles, names if index == 0 else [""] * len(names))
        axes.set_title(name, fontsize=9)
        axes.set(xlabel="key", ylabel="query" if index == 0 else "")
        axes.tick_params(length=0)
        unit = units[index] if units else ""
        extend = "both" if colours.norm.vmin else "max"
        fig.colorbar(colours, ax=axes, location="bottom", label=unit, extend=extend, fraction=0.05, pad=0.03)
        parts.append(f"{name}: {_reading(values, groups)}")
    if title:
        fig.suptitle(title, x=0.01, ha="left", fontsize=10.5)
    return Drawn(fig, f"Who reads whom among {len(groups)} positions, by the magnitude in a row. {' '.join(parts)}")


def _reading(values: np.ndarray, groups: Sequence[str]) -> str:
    """What the rows of the last span give to each group, and to which key most, as shares of a row's magnitudes."""
    share = np.abs(values) / np.maximum(np.abs(values).sum(1, keepdims=True), np.finfo(float).tiny)
    last, start, _ = spans(groups)[-1]
    row = share[start:].mean(0)
    parts = [f"{row[np.asarray(groups) == name].sum():.0%} of {name}" for name in dict.fromkeys(groups)]
    key = int(row.argmax())
    return f"the {last} reads {listed(parts)}; most of position {key} ({groups[key]}, {row[key]:.0%})."
