"""What all widgets share: callbacks that cannot hide an error, and a state that stays readable without a widget.

ipywidgets swallows what a callback raises; `Notice.guarded` shows it and keeps it. Notebook 15.
"""

import base64
import html
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any

import numpy as np

from vlmlab.errors import VlmlabError
from vlmlab.figures import figure_html, table_html

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ZOOM = 288  # pixels on the screen of a small picture


class Notice:
    """The line of a widget that tells what happened.

    html: the ipywidgets.HTML that shows it. errors: all that callbacks met so far, those that tell the reader what to
    do included.
    """

    def __init__(self) -> None:
        import ipywidgets

        self.errors: list[Exception] = []
        self.html = ipywidgets.HTML()
        self.tell("")

    def tell(self, text: str, wrong: bool = False) -> None:
        """Show a line, escaped; screen readers say it."""
        look = ' style="min-height:28px' + (';color:#B04700"' if wrong else '"')  # empty or not, what is below stays
        role = "alert" if wrong else "status"
        self.html.value = f'<div role="{role}" data-testid="notice"{look}>{html.escape(text)}</div>'

    def guarded(self, callback: Callable[..., Any]) -> Callable[..., None]:
        """A callback that shows what goes wrong in it and keeps the error, see `reraise`."""

        @wraps(callback)
        def run(*arguments: Any, **named: Any) -> None:
            try:
                callback(*arguments, **named)
            except Exception as error:
                self.errors.append(error)
                self.tell(one_line(error), wrong=True)

        return run

    def reraise(self) -> None:
        """Raise the first fault that a callback met; an error that tells the reader what to do is none."""
        for error in self.errors:
            if not isinstance(error, VlmlabError):
                raise error


def one_line(error: Exception) -> str:
    """An error as one line: the message of one that tells what to do, else its name with it."""
    text = " ".join(str(error).split())
    return text if isinstance(error, VlmlabError) else f"{type(error).__name__}: {text}"


@dataclass(frozen=True)
class Snapshot:
    """A widget's state for a page without widgets: figures with alt texts, and a table."""

    figures: "tuple[tuple[Figure, str], ...]"
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    caption: str

    def html(self) -> str:
        """All of it as HTML that loads nothing; every text is escaped."""
        pictures = [figure_html(figure, alt) for figure, alt in self.figures]
        return "".join([*pictures, table_html(self.columns, self.rows, self.caption)])


def picture_html(picture: np.ndarray, alt: str, name: str) -> str:
    """A small picture uint8 (H, W, 3), enlarged without smoothing; `name` is its data-testid."""
    from PIL import Image

    target = io.BytesIO()
    Image.fromarray(picture).save(target, "PNG")
    data = base64.b64encode(target.getvalue()).decode()
    return (
        f'<img data-testid="{html.escape(name)}" src="data:image/png;base64,{data}" alt="{html.escape(alt)}" '
        f'style="width:{ZOOM}px;image-rendering:pixelated">'
    )


def show(box: Any, snapshot: Snapshot, name: str) -> None:
    """Display a widget in a notebook, and under it its state as it is now, for pages without widgets."""
    from IPython.display import HTML, display

    bundle = {**box._repr_mimebundle_(), "text/html": "", "text/plain": name}  # a page without widgets shows nothing
    display(bundle, raw=True)
    told = f"<details open><summary>{html.escape(name)}, as this cell left it</summary>{snapshot.html()}</details>"
    display(HTML(told))
