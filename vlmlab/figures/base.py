"""The house style of all figures: colours that colour-blind readers can tell apart, one width, alt text. Notebook 00.

Colours: Okabe and Ito, "Color Universal Design" (2008). Sequential maps: viridis and its relatives; signed maps: a
blue-to-orange map whose ends differ in brightness as well as in hue.
"""

import base64
import html
import io
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import wraps
from threading import RLock
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from vlmlab.errors import BadInput

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, PINK = "#0072B2", "#E69F00", "#009E73", "#CC79A7"
SKY, VERMILION, YELLOW, GREY = "#56B4E9", "#D55E00", "#F0E442", "#8C8C8C"
INK, PAPER, LINE = "#222222", "#FFFFFF", "#C9C9C9"
COLOURS = (BLUE, ORANGE, GREEN, VERMILION, SKY, PINK, YELLOW, GREY)
"""In the order in which series take them."""
SEQUENTIAL, SIGNED = "viridis", "PuOr_r"

WIDTH = 7.2  # inches: the width of a notebook's output at DPI
DPI = 110
BIG = 60_000  # bytes above which a PNG is reduced to a palette of 256 colours

STYLE: dict[Any, Any] = {
    "figure.facecolor": PAPER,
    "figure.dpi": DPI,
    "savefig.dpi": DPI,
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "axes.titlesize": 10.0,
    "axes.titlelocation": "left",
    "axes.labelsize": 9.5,
    "axes.edgecolor": "#666666",
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.8,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "image.interpolation": "nearest",
    "mathtext.fontset": "dejavusans",
}

P = ParamSpec("P")
R = TypeVar("R")
DRAWING = RLock()


@contextmanager
def style() -> Iterator[None]:
    """The house style for what is drawn inside; nothing outside changes. One thread at a time: the style is global."""
    import matplotlib

    with DRAWING, matplotlib.rc_context(STYLE):
        yield


def styled(function: Callable[P, R]) -> Callable[P, R]:
    """Draw a figure in the house style."""

    @wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        with style():
            return function(*args, **kwargs)

    return wrapper


def new_figure(width: float = WIDTH, height: float = 3.0) -> "Figure":
    """An empty figure of that many inches. It belongs to nobody else: pyplot does not know it, nothing to close."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def bare(axes: "Axes") -> "Axes":
    """No ticks and no frame: for pictures and diagrams."""
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    return axes


def joint_legend(fig: "Figure", row: "Iterable[Axes]") -> None:
    """Below the figure, one legend for all its panels; none if they show one curve."""
    handles = {label: line for axes in row for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    if len(handles) > 1:
        fig.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4)


def text_colour(background: Any) -> str:
    """Black or white, whichever is read more easily on `background` (a colour that matplotlib knows)."""
    from matplotlib.colors import to_rgb

    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(background))
    return INK if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.24 else PAPER


def png(fig: "Figure") -> bytes:
    """The figure as a small PNG: the same figure gives the same bytes."""
    with style():
        target = io.BytesIO()
        fig.savefig(target, format="png", dpi=DPI, metadata={"Software": None})
    data = target.getvalue()
    if len(data) <= BIG:
        return data
    from PIL import Image

    reduced = io.BytesIO()
    with Image.open(io.BytesIO(data)) as picture:
        # maximum coverage: no colour is far off, a small bright object's neither (median cut sacrifices rare ones)
        few = picture.convert("RGB").quantize(256, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
        few.save(reduced, "PNG", optimize=True)
    return min(data, reduced.getvalue(), key=len)


def figure_html(fig: "Figure", alt: str, caption: str | None = None) -> str:
    """`<figure>` with the picture inside, its alt text and its caption, both escaped. Raises BadInput without alt."""
    if not isinstance(alt, str) or not alt.strip():
        raise BadInput("a figure needs alt text: one sentence that says what it shows to someone who cannot see it")
    picture = base64.b64encode(png(fig)).decode()
    below = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
    return (
        f'<figure style="margin:0.5em 0"><img src="data:image/png;base64,{picture}" '
        f'alt="{html.escape(" ".join(alt.split()), quote=True)}" style="max-width:100%">{below}</figure>'
    )


def show(fig: "Figure", alt: str, caption: str | None = None) -> None:
    """Display a figure in a notebook, with alt text that states the finding, and close it.

    Args: fig, any matplotlib figure; alt, what a reader who cannot see it should know; caption, shown below it.
    """
    from IPython.display import HTML, display

    display(HTML(figure_html(fig, alt, caption)))
    import sys

    pyplot = sys.modules.get("matplotlib.pyplot")  # only a figure made there has to be closed there
    if pyplot is not None:
        pyplot.close(fig)
