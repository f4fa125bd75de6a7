"""Answers word by word, to click: an anywidget whose script lies in word_strip.js. Notebook 13.

ipywidgets' buttons tell no screen reader which of them is pressed, and each is a stop of the Tab key; these do, and an
answer is one stop.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from vlmlab.errors import MissingDependency
from vlmlab.figures.tokens import visible

try:
    import anywidget
    import traitlets
except ImportError:
    raise MissingDependency("anywidget", "the token map") from None


class WordStrip(anywidget.AnyWidget):
    """Answers in rows. chosen: (row, word) that was clicked last. pressed: all (row, word) that are shown as chosen."""

    _esm = Path(__file__).with_name("word_strip.js")
    answers = traitlets.List(traitlets.Dict()).tag(sync=True)
    chosen = traitlets.List(traitlets.Int(), default_value=[0, 0]).tag(sync=True)
    pressed = traitlets.List(traitlets.List(traitlets.Int())).tag(sync=True)

    def show(self, answers: Mapping[str, Sequence[str]]) -> None:
        """Show the words of each model's answer, the first one chosen."""
        with self.hold_sync():
            self.answers = [
                {"model": model, "words": [{"text": text.strip() or visible(text)} for text in words]}
                for model, words in answers.items()
            ]
            self.chosen, self.pressed = [0, 0], []
