"""Boxes and arrows: what the diagrams of the architectures are drawn with. Notebooks 02, 08 and 10."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from vlmlab.errors import BadInput
from vlmlab.figures.base import INK, WIDTH, bare, new_figure, text_colour

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PALE, SOFT = "#E8E8E8", "#555555"


def wanted(shapes: Mapping[str, str], names: Sequence[str]) -> None:
    """Raise BadInput that names the shapes which a diagram lacks."""
    missing = [name for name in names if name not in shapes]
    if missing:
        raise BadInput(f"the diagram lacks the shapes of {', '.join(missing)}")


def canvas(
    height: float, x: tuple[float, float], y: tuple[float, float], title: str | None = None
) -> tuple["Figure", "Axes"]:
    """An empty diagram of that many inches with the limits x and y; a title makes it higher."""
    fig = new_figure(WIDTH, height + (0.3 if title else 0))
    axes = bare(fig.subplots())
    axes.set_xlim(*x)
    axes.set_ylim(*y)
    if title:
        axes.set_title(title)
    return fig, axes


def box(axes: "Axes", x: float, y: float, text: str, colour: str, width: float = 1.3) -> None:
    """A rounded box with its lower left corner at (x, y), 0.8 high."""
    from matplotlib.patches import FancyBboxPatch

    style = "round,pad=0,rounding_size=0.1"
    axes.add_patch(FancyBboxPatch((x, y), width, 0.8, boxstyle=style, facecolor=colour, edgecolor="#666666"))
    axes.text(x + width / 2, y + 0.4, text, ha="center", va="center", fontsize=8.5, color=text_colour(colour))


def arrow(axes: "Axes", path: Sequence[tuple[float, float]], head: bool = True) -> None:
    """A line through the points, with an arrow head at its end."""
    axes.plot(*zip(*path, strict=True), color=INK, linewidth=1.1, solid_capstyle="round")
    if head:
        axes.annotate("", path[-1], path[-2], arrowprops={"arrowstyle": "->", "color": INK, "shrinkA": 0, "shrinkB": 0})


def scan_inputs(axes: "Axes", x: float, y: float, shapes: Mapping[str, str]) -> None:
    """Three lines with the shapes of delta, B and C, left aligned, their middle at (x, y)."""
    lines = (f"{sign} {shapes[name]}" for sign, name in (("$\\Delta$", "delta"), ("$B$", "B"), ("$C$", "C")))
    axes.text(x, y, "\n".join(lines), fontsize=7.5, color=INK, va="center", ha="left")
