"""What the spatial probe draws: the floor from above, and psychometric curves. Notebook 15."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from vlmlab.figures import COLOURS
from vlmlab.figures.base import GREY, INK, WIDTH, bare, joint_legend, new_figure, styled, text_colour
from vlmlab.scenes import COLOURS as PAINT
from vlmlab.scenes import Scene
from vlmlab.scenes.captions import name
from vlmlab.widgets.psychometric import Sweep

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKS = ("o", "s", "^", "D", "v", "P")
SIDE = 2.3  # scene units from the floor's middle that a plan shows


@styled
def scene_figure(scene: Scene, picture: np.ndarray, others: Mapping[str, np.ndarray] | None = None) -> "Figure":
    """The floor from above beside the picture (H, W, 3) and other pictures by title."""
    panels = {"the picture": picture, **(others or {})}
    count = len(panels) + 1
    each = min(WIDTH / count, 2.5)
    fig = new_figure(each * count, each + 0.3)
    first, *row = fig.subplots(1, count, squeeze=False)[0]
    _plan(first, scene)
    for axes, (title, shown) in zip(row, panels.items(), strict=True):
        bare(axes).imshow(shown)
        axes.set_title(title)
    return fig


def _plan(axes: "Axes", scene: Scene) -> None:
    """Footprints from above, the viewer below; a line points where an object faces."""
    from matplotlib.patches import Polygon

    frame = np.stack([scene.geometry.right, scene.geometry.forward])  # (2, 2), rows the viewer's axes
    for index, item in enumerate(scene.objects):
        paint = np.array(PAINT[item.colour]) / 255
        corners = np.array(item.corners()) @ frame.T
        axes.add_patch(Polygon(corners, facecolor=paint, edgecolor=INK, linewidth=0.8))
        middle = np.array([item.x, item.y]) @ frame.T
        if item.spec.front:
            tip = middle + 1.25 * item.half[1] * (np.array(item.heading) @ frame.T)
            axes.plot(*np.stack([middle, tip]).T, color=INK, linewidth=1.2)
        back = {"facecolor": paint, "edgecolor": "none", "pad": 0.6, "alpha": 0.8}
        ink = text_colour(paint)
        x, y = (float(value) for value in middle)
        y += 0.25 * any(scene.geometry.supported(index, other) for other in range(index))  # two labels in one place
        axes.text(x, y, name(scene, index), fontsize=6.5, ha="center", va="center", color=ink, bbox=back)
    axes.plot(0, -SIDE + 0.12, marker="^", color=INK, clip_on=False)
    axes.text(0.15, -SIDE + 0.05, "camera", fontsize=7)
    bare(axes).set(xlim=(-SIDE, SIDE), ylim=(-SIDE, SIDE), aspect="equal", title="from above")


@styled
def curves(sweep: Sweep) -> "Figure":
    """P(target) against place for each model, with its fit, what is true, and where nobody should be asked."""
    fig = new_figure(WIDTH, 3.4)
    axes = fig.subplots()
    for number, (low, high) in enumerate(sweep.bands):
        axes.axvspan(low, high, color="#E4E4E4", label="ambiguous" if number == 0 else None)
    asked = [point for point in sweep.points if point.probability]
    sure = [point for point in asked if point.truth is not None]
    ones = [float(point.truth == sweep.target) for point in sure]
    axes.plot([point.x for point in sure], ones, "_", color=INK, markersize=9, label="true")
    for number, model in enumerate(asked[0].probability if asked else ()):
        colour, mark = COLOURS[number % len(COLOURS)], MARKS[number % len(MARKS)]
        xs = [point.x for point in asked]
        axes.plot(xs, [point.probability[model] for point in asked], mark, color=colour, markersize=5, label=model)
        fit = sweep.fits.get(model)
        if fit is not None and fit.middle is not None:
            fine = np.linspace(min(xs), max(xs), 200)
            log_odds = np.clip(fit.slope.value * (fine - fit.middle.value), -60, 60)
            axes.plot(fine, 1 / (1 + np.exp(-log_odds)), color=colour, linewidth=1.2)
    axes.axhline(0.5, color=GREY, linewidth=0.9, linestyle=(0, (2, 2)))
    axes.set(xlabel=f"place of the {sweep.moved}, scene units to the viewer's right", ylabel=f"P({sweep.target})")
    axes.set(ylim=(-0.05, 1.05), title=sweep.question)
    joint_legend(fig, [axes])
    return fig


def curves_alt(sweep: Sweep) -> str:
    """What the curves show, for someone who cannot see them."""
    told = [f"P({sweep.target}) as the {sweep.moved} moves sideways: {sweep.question}"]
    return ". ".join([*told, *(f"{model}: {' '.join(row[1:])}" for model, *row in _lines(sweep))])


def fit_rows(sweep: Sweep) -> tuple[Sequence[str], list[list[str]]]:
    """The fits as a table: its columns and rows."""
    return ("model", "bias (scene units)", "slope (log odds a unit)"), _lines(sweep)


def _lines(sweep: Sweep) -> list[list[str]]:
    rows = []
    for model, fit in sweep.fits.items():
        bias = "none: P does not cross 0.5 beyond doubt" if fit.middle is None else "no single border to compare with"
        if fit.bias is not None:
            bias = _told(*fit.bias)
        rows.append([model, bias, _told(*fit.slope)])
    return rows


def _told(value: float, low: float | None, high: float | None) -> str:
    """A value with its interval; an end without bound is an ellipsis."""
    ends = ["..." if end is None else f"{end:.2f}" for end in (low, high)]
    return f"{value:.2f} ({ends[0]} to {ends[1]})"
