"""Boxes and arrows: what the diagrams of the architectures are drawn with. Notebooks 02 and 08."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from vlmlab.errors import BadInput
from vlmlab.figures.base import INK, text_colour

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PALE, SOFT = "#E8E8E8", "#555555"


def wanted(shapes: Mapping[str, str], names: Sequence[str]) -> None:
    """Raise BadInput that names the shapes which a diagram lacks."""
    missing = [name for name in names if name not in shapes]
    if missing:
        raise BadInput(f"the diagram lacks the shapes of {', '.join(missing)}")


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
