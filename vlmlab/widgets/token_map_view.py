"""The token map in a notebook: click a word of an answer, and see where each model looked for it. Notebook 13."""

import html
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from typing import Any

import ipywidgets
import numpy as np

from vlmlab.figures import figure_html, table_html
from vlmlab.figures.inside import Drawn, heat, place
from vlmlab.figures.tokens import visible
from vlmlab.widgets import base
from vlmlab.widgets.jobs import Work, in_thread
from vlmlab.widgets.models import seen
from vlmlab.widgets.probe_parts import choice, named
from vlmlab.widgets.question_bar import QUESTION, QuestionBar
from vlmlab.widgets.token_map import Choice, TokenMap
from vlmlab.widgets.word_strip import WordStrip

COLUMNS = ("model", "answer", "word", "map", "largest at", "value")
RULE = "A word counts as the same in two answers where both read the same up to and including it, and cut it alike."
ALL = -1  # of layers or heads

Wanted = tuple[tuple[str, int, Choice], ...]
"""Models, the number of the word in the answer of each, and what to look at."""


class Lens:
    """The controls of what to look at in one model, number `index`."""

    def __init__(self, tokens: TokenMap, name: str, index: int):
        self._tokens, self._name = tokens, name
        methods = [(method.replace("_", " "), method) for method in tokens.methods(name)]
        self.method = choice(f"{name}:", methods, f"token-map-method-{index}")
        self.layer = choice("layer", (), f"token-map-layer-{index}")
        self.head = choice("head", (), f"token-map-head-{index}")
        self.fill()

    def fill(self) -> None:
        """Offer the layers and heads that the chosen method has."""
        layers = self._tokens.layers(self._name, self.method.value)
        _offer(self.layer, layers, "all (mean)")
        _offer(self.head, 0 if self.layer.value == ALL else self._tokens.heads(self._name, self.method.value), "mean")

    @property
    def choice(self) -> Choice:
        """What is chosen."""
        layer, head = (None if each.value == ALL else each.value for each in (self.layer, self.head))
        return Choice(self.method.value, layer, head)


def _offer(widget: Any, count: int, all_of_them: str) -> None:
    kept = widget.value
    widget.options = [(all_of_them, ALL), *((str(number), number) for number in range(count))]
    widget.value = kept if kept in range(count) else ALL
    widget.disabled = not count


class TokenMapView:
    """A view of a TokenMap. strip: the words to click. lenses: controls of each model. bar: question, work and errors.

    picture: (H, W, 3), by default a scene. run: how long work is done, `in_thread` or `at_once`; the first answer and
    the maps of its first word are there when the view is.
    """

    def __init__(
        self,
        tokens: TokenMap,
        picture: np.ndarray | None = None,
        question: str = QUESTION,
        run: Callable[[Work], None] = in_thread,
    ):
        self.tokens, self.strip = tokens, WordStrip()
        self.bar = QuestionBar("token-map", tokens.asking, self._answered, self._show, picture, question)
        self.lenses = {name: Lens(tokens, name, index) for index, name in enumerate(tokens.models)}
        self.one_scale = named(
            ipywidgets.Checkbox(True, description="One colour scale", indent=False), "token-map-one-scale"
        )
        self.maps = named(ipywidgets.HTML(), "token-map-maps")
        self._drawn = lru_cache(maxsize=128)(self._draw)
        for lens in self.lenses.values():
            for widget in (lens.method, lens.layer, lens.head):
                self.bar.on(widget, partial(self._chosen, lens))
        self.bar.on(self.one_scale, lambda _: self._show())
        self.bar.on(self.strip, lambda _: self._look(), "chosen")
        self.box = self._assembled()
        self.bar.begin()
        self.bar.notice.reraise()
        self.bar.run = run

    # ------------------------------------------------------------------ what was chosen
    @property
    def model(self) -> str:
        """Whose word was clicked."""
        return list(self.tokens.models)[self.strip.chosen[0]]

    @property
    def word(self) -> int:
        """Which word was clicked."""
        return self.strip.chosen[1]

    def _wanted(self) -> Wanted:
        """The models that say the word."""
        words = self.tokens.together(self.model, self.word)
        return tuple((name, word, self.lenses[name].choice) for name, word in words.items())

    def _answered(self) -> None:
        self._drawn.cache_clear()
        with self.bar.filled():
            self.strip.show({name: self.tokens.words(name) for name in self.tokens.models})
        self._look()

    def _chosen(self, lens: Lens, _: Any) -> None:
        with self.bar.filled():
            lens.fill()
        self._look()

    def _look(self) -> None:
        """Show the maps of the word, or have them made first."""
        wanted = self._wanted()
        rows = list(self.tokens.models)
        self.strip.pressed = [[rows.index(name), word] for name, word, _ in wanted]
        if not all(self.tokens.ready(*each) for each in wanted):
            self.maps.value = '<p data-testid="token-map-busy" aria-busy="true">making the maps ...</p>'
            choices = {name: each for name, _, each in wanted}
            self.bar.work(self.tokens.mapping(self.model, self.word, choices), self._show)
        else:
            self._show()

    # ------------------------------------------------------------------ what is shown
    def _show(self) -> None:
        if not self.tokens.asked.insides:
            return
        pictures = "".join(self._drawn(each) for each in self._figures())
        told = table_html(COLUMNS, self.rows(), self.caption())
        self.maps.value = (
            f'<div data-testid="token-map-figures" style="display:flex;flex-wrap:wrap;gap:1em">{pictures}</div>'
            f'<div data-testid="token-map-table" role="status">{told}</div>'
        )

    def _ready(self) -> Wanted:
        return tuple(each for each in self._wanted() if self.tokens.ready(*each))

    def _figures(self) -> Iterator[Wanted]:
        """What `_draw` draws: the maps together where they have one colour scale, otherwise each for itself."""
        ready = self._ready()
        if ready and self.one_scale.value and not self.tokens.apart({name: each for name, _, each in ready}):
            yield ready
        else:
            yield from ((each,) for each in ready)

    def _draw(self, wanted: Wanted) -> str:
        return figure_html(*self._figure(wanted))

    def _figure(self, wanted: Wanted) -> Drawn:
        name, word, first = wanted[0]
        maps = {f"{model}, {each}": self.tokens.map(model, at, each) for model, at, each in wanted}
        drawn = heat(seen(self.tokens.inside(name)), maps, unit=first.unit)
        text = visible(self.tokens.words(name)[word])
        return Drawn(drawn.figure, f"For word {word + 1}, “{text}”. {drawn.alt}")

    def rows(self) -> list[list[Any]]:
        """The maps as a table of COLUMNS, a row a model; empty cells where there is no map."""
        found: list[list[Any]] = []
        ready = {name: (word, each) for name, word, each in self._ready()}
        for name, inside in self.tokens.asked.insides.items():
            if name not in ready:
                found.append([name, inside.answer, "", "", "", ""])
                continue
            word, each = ready[name]
            values, text = self.tokens.map(name, word, each), visible(self.tokens.words(name)[word])
            peak = place(values.argmax(), values.shape[1])
            found.append([name, inside.answer, text, str(each), peak, float(values.max())])
        return found

    def caption(self) -> str:
        """What was asked and clicked, who has no map and why, and the scales."""
        tokens, wanted = self.tokens, self._wanted()
        told = [f"{tokens.asked.prompt} Word {self.word + 1} of {self.model}. {RULE}"]
        said = {name: each for name, _, each in wanted}
        if others := [name for name in tokens.models if name not in said]:
            told.append(f"Not said so: {', '.join(others)}.")
        if missing := [each[0] for each in wanted if not tokens.ready(*each)]:
            told.append(f"Not made: {', '.join(missing)}; choose the word again.")
        if self.one_scale.value and (why := tokens.apart(said)):
            told.append(f"Each map has its own colour scale: {why}.")
        if any(each.method == "delta" for each in said.values()):
            told.append("Delta is the same for every word: a Mamba has read the picture before it answers.")
        return " ".join(told)

    def _assembled(self) -> Any:
        row, wrap = ipywidgets.HBox, {"flex_flow": "row wrap"}
        lenses = [row([lens.method, lens.layer, lens.head], layout=wrap) for lens in self.lenses.values()]
        help_line = ipywidgets.HTML(f'<p data-testid="token-map-rule">{html.escape(RULE)}</p>')
        return ipywidgets.VBox([self.bar.box, self.strip, help_line, *lenses, self.one_scale, self.maps])

    def snapshot(self) -> base.Snapshot:
        """The state as figures and a table. Raises what a callback met, if any did."""
        self.bar.notice.reraise()
        if not self.tokens.asked.insides:
            return base.Snapshot((), COLUMNS, [], "Nothing was asked.")
        figures = tuple(self._figure(each) for each in self._figures())
        return base.Snapshot(figures, COLUMNS, self.rows(), self.caption())

    def _ipython_display_(self) -> None:
        base.show(self.box, self.snapshot(), "The token map")
