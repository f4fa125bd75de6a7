"""What a map or a state is worth: deletion and insertion, patching, probes, embeddings, psychometric curves. Notebooks
13 to 15.

Every function returns a figure and the text that states what is in it, in the order in which `show` takes them.
"""

from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np

from vlmlab.errors import BadInput
from vlmlab.figures.base import BLUE, COLOURS, GREY, INK, PAPER, VERMILION, WIDTH, joint_legend, new_figure, styled
from vlmlab.figures.curves import DASHES
from vlmlab.figures.inside import Drawn, listed
from vlmlab.figures.matrices import matrix
from vlmlab.figures.scan import MARKERS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PERCENT = "{x:.0%}"
Curve = tuple[Any, Any]
"""Shares of the patches (K,), and values (K,), or (3, K) with the interval: low, mean, high."""


@styled
def removal(
    deletion: Mapping[str, Curve],
    insertion: Mapping[str, Curve],
    *,
    controls: Sequence[str] = ("random", "centre"),
    ylabel: str = "p(answer), whole picture = 1",
    title: str | None = None,
) -> Drawn:
    """Deletion and insertion curves side by side, with the area under each by trapezia.

    Args:
        deletion, insertion: method -> (shares of the patches that are gone, or there; values), rising shares. The
            values are (K,), or (3, K) with an interval. controls: the methods that are drawn in grey.
    Raises BadInput for curves that do not fit, or methods that are not in both.
    """
    if not deletion or set(deletion) != set(insertion):
        raise BadInput(f"deletion has {sorted(deletion)}, insertion {sorted(insertion)}; give both of each method")
    fig = new_figure(WIDTH, 3.2 + 0.2 * -(-len(deletion) // 3) + 0.3 * bool(title))
    row = fig.subplots(1, 2, sharey=True)
    areas = [{name: _curve(name, *curve) for name, curve in curves.items()} for curves in (deletion, insertion)]
    names = [*(n for n in deletion if n not in controls), *(n for n in controls if n in deletion)]
    for axes, curves, found in zip(row, (deletion, insertion), areas, strict=True):
        for index, name in enumerate(names):
            x, (low, y, high) = found[name][1:]
            control = name in controls
            colour = GREY if control else COLOURS[index % (len(COLOURS) - 1)]  # the last one is the controls' grey
            label = f"{name}  {areas[0][name][0]:.2f} | {areas[1][name][0]:.2f}"
            if np.shape(curves[name][1])[0] == 3 and np.ndim(curves[name][1]) == 2:
                axes.fill_between(x, low, high, color=colour, alpha=0.13, linewidth=0)
            axes.plot(x, y, MARKERS[index % len(MARKERS)], color=colour, linestyle=DASHES[index % len(DASHES)],
                      markersize=4, linewidth=1.5, markevery=max(1, len(x) // 8), label=label)  # fmt: skip
        axes.xaxis.set_major_formatter(PERCENT)
        axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
        axes.grid()
    row[0].set(title="deletion: lower is better", xlabel="patches gone", ylabel=ylabel)
    row[1].set(title="insertion: higher is better", xlabel="patches there")
    fig.legend(*row[0].get_legend_handles_labels(), loc="outside lower center", ncols=3,
               title="area under deletion | insertion")  # fmt: skip
    if title:
        fig.suptitle(title, x=0.01, ha="left", fontsize=10.5)
    parts = []
    for what, found, better in zip(("Deletion", "Insertion"), areas, (-1, 1), strict=True):
        ranked = sorted(names, key=lambda name: -better * found[name][0])
        text = f"{what}: " + ", ".join(f"{name} {found[name][0]:.2f}" for name in ranked)
        known = [name for name in controls if name in found]
        if known:
            bar = max(better * found[name][0] for name in known)
            passed = [name for name in ranked if name not in controls and better * found[name][0] > bar]
            text += f"; better than every control: {listed(passed) if passed else 'none'}"
        parts.append(text)
    return Drawn(fig, f"Areas under the curves, the best first. {'. '.join(parts)}.")


def _curve(name: str, shares: Any, values: Any) -> tuple[float, np.ndarray, np.ndarray]:
    """The area under a curve, its shares (K,), and low, mean and high (3, K)."""
    x, y = np.asarray(shares, float), np.asarray(values, float)
    if x.ndim != 1 or len(x) < 2 or y.shape not in ((len(x),), (3, len(x))) or (np.diff(x) <= 0).any():
        raise BadInput(f"{name!r}: {x.size} rising shares need values (K,) or (3, K), got shape {y.shape}")
    if not np.isfinite(y).all():
        raise BadInput(f"{name!r} has a value that is not finite")
    table = np.broadcast_to(y, (3, len(x)))
    return float(np.trapezoid(table[1], x)), x, table


@styled
def patching(values: Any, rows: Sequence[str], columns: Sequence[str], *, title: str | None = None) -> Drawn:
    """Effects of activation patching, layer by group of positions: 0 as picture A, 1 as picture B.

    The scale is diverging around 0, no effect, and reaches to 1 or to the largest magnitude.

    Args:
        values: (rows, columns); NaN where nothing was measured, which stays white. rows: what was replaced; columns:
            at which positions.
    """
    array = np.asarray(values, float)
    if array.shape != (len(rows), len(columns)) or not np.isfinite(array).any():
        raise BadInput(f"{len(rows)} rows and {len(columns)} columns need as many effects, got shape {array.shape}")
    reach = max(1.0, float(np.nanmax(np.abs(array))))
    fig = matrix(array, rows, columns, value_label="effect: 0 as picture A, 1 as picture B", signed=True,
                 limits=(-reach, reach), title=title)  # fmt: skip
    row, column = divmod(int(np.nanargmax(array)), len(columns))
    best = [
        f"{name} {np.nanmax(array[:, at]):.2f} ({rows[int(np.nanargmax(array[:, at]))]})"
        for at, name in enumerate(columns) if np.isfinite(array[:, at]).any()
    ]  # fmt: skip
    missing = int(np.isnan(array).sum())
    text = f"The largest effect, {array[row, column]:.2f}, is of {rows[row]} at {columns[column]}. The largest of each "
    text += f"column: {'; '.join(best)}. {int((array > 0.5).sum())} of {array.size} cells lie above one half."
    return Drawn(fig, text + (f" {missing} were not measured." if missing else ""))


@styled
def probes(models: Mapping[str, Mapping[str, Any]], *, title: str | None = None) -> Drawn:
    """What a probe reads at each stage, beside shuffled labels and what the model itself answers, with 95 % intervals.

    Args:
        models: name -> {"stages": rows {"stage", "accuracy", "low", "high", "control", "control_low", "control_high"}
            in the order of the computation, "own": {"accuracy", "low", "high"}, "chance"}, fractions.
    """
    if not models or not all(model["stages"] for model in models.values()):
        raise BadInput("there is no stage to draw")
    counts = [len(model["stages"]) for model in models.values()]
    fig = new_figure(WIDTH, 0.8 + sum(0.185 * count + 0.35 for count in counts) + 0.3 * bool(title))
    panels = fig.subplots(len(models), 1, sharex=True, squeeze=False, height_ratios=[c + 1.2 for c in counts])[:, 0]
    parts = []
    for axes, (name, model) in zip(panels, models.items(), strict=True):
        rows, own = model["stages"], model["own"]
        at = np.arange(len(rows))
        axes.axvspan(own["low"], own["high"], color=VERMILION, alpha=0.15, linewidth=0)
        axes.axvline(own["accuracy"], color=VERMILION, linewidth=1.5, linestyle=DASHES[1], label="the model's answers")
        axes.axvline(model["chance"], color=INK, linewidth=1.1, linestyle=DASHES[2], label="chance")
        low, value, high = ([float(row[key]) for row in rows] for key in ("control_low", "control", "control_high"))
        axes.hlines(at + 0.2, low, high, color=GREY, linewidth=1.2)
        axes.plot(value, at + 0.2, "s", color=GREY, markerfacecolor=PAPER, markersize=4, label="probe, labels shuffled")
        low, value, high = ([float(row[key]) for row in rows] for key in ("low", "accuracy", "high"))
        axes.hlines(at - 0.12, low, high, color=BLUE, linewidth=1.5)
        axes.plot(value, at - 0.12, "o", color=BLUE, markersize=4.5, label="probe")
        axes.set_yticks(at, [row["stage"] for row in rows], fontsize=8)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x")
        axes.set_title(name)
        best = rows[int(np.argmax(value))]
        above = [row["stage"] for row in rows if row["low"] > row["control_high"]]
        text = f"{name} answers {own['accuracy']:.0%} right ({own['low']:.0%} to {own['high']:.0%}; chance "
        text += f"{model['chance']:.0%}). Its probe reads most at {best['stage']}: {best['accuracy']:.0%} "
        text += f"({best['low']:.0%} to {best['high']:.0%}), with shuffled labels {best['control']:.0%}. "
        text += f"The probe is above its control at {len(above)} of {len(rows)} stages, above the model's answers at "
        parts.append(text + f"{sum(row['low'] > own['high'] for row in rows)}.")
    panels[-1].xaxis.set_major_formatter(PERCENT)
    panels[-1].set_xlabel("accuracy on held-out questions")
    joint_legend(fig, panels)
    if title:
        fig.suptitle(title, x=0.01, ha="left", fontsize=10.5)
    return Drawn(fig, " ".join(parts))


@styled
def embeddings(
    panels: Mapping[str, Any],
    labels: Sequence[str],
    scores: Mapping[str, tuple[float, float]],
    *,
    score: str = "neighbours with the same label",
    title: str | None = None,
) -> Drawn:
    """Points in two dimensions, one panel a method such as PCA or UMAP; a label has a colour and a shape.

    Args:
        panels: method -> (n, 2); labels: (n,) texts.
        scores: method -> (score, the same with shuffled labels), fractions, written above each panel; score: its name.
    """
    words = list(dict.fromkeys(sorted(labels)))
    points = {name: np.asarray(values, float) for name, values in panels.items()}
    for name, values in points.items():
        if values.shape != (len(labels), 2) or not len(labels) or not np.isfinite(values).all():
            raise BadInput(f"{name}: {len(labels)} labels need as many finite points (n, 2), got shape {values.shape}")
    if not points or set(scores) != set(points):
        raise BadInput(f"methods {sorted(points)} need a score each, and have {sorted(scores)}")
    each = WIDTH / max(2, len(points))
    fig = new_figure(each * len(points), each * 0.88 + 0.5 + 0.2 * -(-len(words) // 6) + 0.3 * bool(title))
    row = fig.subplots(1, len(points), squeeze=False)[0]
    for axes, (name, values) in zip(row, points.items(), strict=True):
        for index, word in enumerate(words):
            chosen = values[np.asarray(labels) == word]
            marker = MARKERS[(index + index // len(COLOURS)) % len(MARKERS)]
            axes.plot(*chosen.T, marker, color=COLOURS[index % len(COLOURS)], markersize=6.2, markeredgecolor=PAPER,
                      markeredgewidth=0.3, label=word)  # fmt: skip
        real, shuffled = scores[name]
        axes.set_title(f"{name}\n{fill(score, 36)}:\n{real:.0%}, labels shuffled {shuffled:.0%}", fontsize=9)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set(xlabel=f"{name} 1", ylabel=f"{name} 2")
    fig.legend(*row[0].get_legend_handles_labels(), loc="outside lower center", ncols=6, handletextpad=0.2)
    if title:
        fig.suptitle(title, x=0.01, ha="left", fontsize=10.5)
    parts = [f"{name} {real:.0%}, shuffled {shuffled:.0%}" for name, (real, shuffled) in scores.items()]
    text = f"{len(labels)} points with {len(words)} labels: {listed(words)}. {score.capitalize()}: {'; '.join(parts)}."
    return Drawn(fig, text)


@styled
def psychometric(
    models: Mapping[str, Mapping[str, Any]],
    *,
    answer: str = "left",
    xlabel: str = "position (scene units)",
    bands: Sequence[tuple[float, float]] = (),
    border: float | None = None,
    title: str | None = None,
) -> Drawn:
    """P(answer) against a position, with each model's logistic curve 1 / (1 + exp(-slope (x - middle))).

    Args:
        models: name -> {"x" (n,), "p" (n,); "low", "high" (n,), optional: their intervals; "fit", optional: (slope,
            middle, low, high), the last two the middle's interval, or None}.
        bands: (from, to) of x where the truth is ambiguous; border: where it changes.
    """
    if not models:
        raise BadInput("there is no curve to draw")
    fig = new_figure(WIDTH, 3.1 + 0.3 * (len(models) > 1 or bool(bands)) + 0.3 * bool(title))
    axes = fig.subplots()
    for index, (start, stop) in enumerate(bands):
        axes.axvspan(start, stop, facecolor="#E8E8E8", hatch="///", edgecolor=PAPER, linewidth=0,
                     label=None if index else "ambiguous")  # fmt: skip
    if border is not None:
        axes.axvline(border, color=INK, linewidth=1.1, linestyle=DASHES[2], label="the truth changes")
    axes.axhline(0.5, color=GREY, linewidth=1.0, linestyle=(0, (2, 2)))
    parts = [_sweep(axes, index, name, model, answer, border) for index, (name, model) in enumerate(models.items())]
    axes.set_ylim(-0.04, 1.04)
    axes.grid(axis="y")
    axes.set(xlabel=xlabel, ylabel=f"P(“{answer}”)")
    joint_legend(fig, [axes])
    if title:
        axes.set_title(title)
    return Drawn(fig, " ".join(parts))


def _sweep(axes: "Axes", index: int, name: str, model: Mapping[str, Any], answer: str, border: float | None) -> str:
    """Draw one model's points and curve; what they say."""
    x, p = np.asarray(model["x"], float), np.asarray(model["p"], float)
    if x.ndim != 1 or not x.size or x.shape != p.shape or not (p.min() >= 0 and p.max() <= 1):
        raise BadInput(f"{name}: {x.size} positions need as many probabilities in [0, 1], got {p.size}")
    colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
    if model.get("low") is not None:
        axes.vlines(x, model["low"], model["high"], color=colour, linewidth=1.1)
    axes.plot(x, p, marker, color=colour, markersize=4.6, label=name)
    text = (
        f"{name}: P(“{answer}”) goes from {p[x.argmin()]:.2f} at {x.min():.3g} to {p[x.argmax()]:.2f} at {x.max():.3g}"
    )
    if model.get("fit") is None:
        return f"{text}; no curve was fitted."
    slope, middle, low, high = model["fit"]
    fine = np.linspace(x.min(), x.max(), 400)
    curve = 0.5 * (1 + np.tanh(slope * (fine - middle) / 2))  # the logistic function, without overflow
    axes.plot(fine, curve, color=colour, linestyle=DASHES[index % len(DASHES)], linewidth=1.5)
    if low is not None and high is not None:
        axes.plot([low, high], [0.5, 0.5], color=colour, linewidth=4, alpha=0.45, solid_capstyle="butt")
    span = "" if low is None or high is None else f" (95 % interval {low:.2f} to {high:.2f})"
    text += f"; the fitted curve is at one half at {middle:.2f}{span}, with a slope of {slope:.2g}"
    return text + (f", {abs(middle - border):.2f} from where the truth changes." if border is not None else ".")
