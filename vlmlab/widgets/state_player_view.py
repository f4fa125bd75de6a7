"""The state player in a notebook: play a sequence, and watch what the model keeps of each patch. Notebook 13."""

import html
from collections.abc import Callable
from functools import lru_cache
from itertools import product
from typing import Any

import ipywidgets
import numpy as np

from vlmlab.explain.attribution import cells
from vlmlab.figures import VERMILION, figure_html, table_html
from vlmlab.figures.inside import Drawn, heat, place
from vlmlab.figures.states import ledger, timeline
from vlmlab.figures.tokens import visible
from vlmlab.widgets import base
from vlmlab.widgets.jobs import Work, in_thread
from vlmlab.widgets.models import seen
from vlmlab.widgets.probe_parts import button, choice, named
from vlmlab.widgets.question_bar import QUESTION, QuestionBar
from vlmlab.widgets.state_player import KINDS, Frame, StatePlayer

COLUMNS = ("model", "keeps", "bytes after this many tokens", "bytes for one token more")
INTERVAL = 800  # milliseconds a token while it plays


class StatePlayerView:
    """A view of a StatePlayer. bar: question, work and errors. position: the slider; arrow keys move it by a token.

    picture: (H, W, 3), by default a scene. run: how long work is done, `in_thread` or `at_once`; the first frame, at
    the end of the prompt, is there when the view is.
    """

    def __init__(
        self,
        player: StatePlayer,
        picture: np.ndarray | None = None,
        question: str = QUESTION,
        run: Callable[[Work], None] = in_thread,
    ):
        self.player = player
        self.bar = QuestionBar("state-player", player.asking, self._answered, self._show, picture, question)
        self.model = choice("Model", tuple(player.models), "state-player-model")
        self.layer = choice("layer", (), "state-player-layer")
        self.kind = choice("show", (), "state-player-kind")
        wide = {"width": "36em"}
        self.position = named(ipywidgets.IntSlider(description="Position", max=0, layout=wide), "state-player-position")
        self.play = named(ipywidgets.Play(interval=INTERVAL, max=0), "state-player-play")
        ipywidgets.jslink((self.play, "value"), (self.position, "value"))
        self.back, self.next = button("Back", "state-player-back"), button("Next", "state-player-next")
        self.now, self.map, self.line, self.sizes = (
            named(ipywidgets.HTML(), f"state-player-{part}") for part in ("now", "map", "timeline", "sizes")
        )
        self._awaited: tuple[str, int] | None = None
        self._drawn, self._timed = lru_cache(maxsize=256)(self._draw), lru_cache(maxsize=8)(self._time)
        self.bar.on(self.model, lambda _: self._turn())
        self.bar.on(self.layer, lambda _: self._look())
        self.bar.on(self.kind, lambda _: self._look())
        self.bar.on(self.position, lambda _: self._look())
        self.bar.click(self.back, lambda: self._move(-1))
        self.bar.click(self.next, lambda: self._move(1))
        self.box = self._assembled()
        self.bar.begin()
        self.bar.notice.reraise()
        self.bar.run = run

    # ------------------------------------------------------------------ what was chosen
    def _answered(self) -> None:
        self._drawn.cache_clear()
        self._timed.cache_clear()
        with self.bar.filled():
            self._fill()
            self.position.value = self.player.track(self.model.value).inside.words.start - 1
        self._look()

    def _turn(self) -> None:
        with self.bar.filled():
            self._fill()
        self._look()

    def _fill(self) -> None:
        """Offer what the chosen model has."""
        track, count = self.player.track(self.model.value), self.player.layers(self.model.value)
        kept = self.layer.value
        self.layer.options = range(count)
        self.layer.value = kept if kept in range(count) else count // 2
        kind, self.kind.options = self.kind.value, track.kinds
        self.kind.value = kind if kind in track.kinds else track.kinds[0]
        self.position.max = self.play.max = track.inside.length - 1

    def _move(self, by: int) -> None:
        self.position.value = min(max(self.position.value + by, 0), self.position.max)

    def _look(self) -> None:
        """Show the frame, or have its layer read first."""
        if self.layer.value in self.player.track(self.model.value).layers:
            self._show()
            return
        job, wanted = self.bar.job, (self.model.value, self.layer.value)
        if job is None or job.done or job.cancelled or wanted != self._awaited:  # playing goes on while it is read
            self._awaited = wanted
            self.map.value = '<p data-testid="state-player-busy" aria-busy="true">reading the layer ...</p>'
            self.bar.work(self.player.reading(*wanted), self._show)

    # ------------------------------------------------------------------ what is shown
    def _show(self) -> None:
        name, at = self.model.value, self.position.value
        if name not in self.player.tracks:
            return
        if self.layer.value not in self.player.track(name).layers:
            self.map.value = "<p>This layer was not read; choose it again.</p>"
            return
        self.now.value = f'<p role="status" data-testid="state-player-now">{html.escape(self.told())}</p>'
        self.map.value = self._drawn(name, self.layer.value, self.kind.value, at)
        picture, places = self._timed(name)
        cursor = (
            f'<div data-testid="state-player-cursor" aria-hidden="true" style="position:absolute;top:0;bottom:0;'
            f'left:{100 * places[at]:.2f}%;width:2px;background:{VERMILION}"></div>'
        )
        self.line.value = f'<div style="position:relative;display:inline-block">{picture}{cursor}</div>'
        self.sizes.value = table_html(COLUMNS, self.rows(), self.caption())

    def frame(self) -> Frame:
        """What is shown of each token."""
        return self.player.frame(self.model.value, self.position.value, self.layer.value, self.kind.value)

    def told(self) -> str:
        """The token that is read now, and the numbers that belong to it."""
        frame = self.frame()
        last = self.player.track(self.model.value).inside.length - 1
        told = [
            f"{self.model.value}, position {frame.position} of {last}: reads “{visible(frame.text)}” ({frame.group})"
        ]
        if frame.predicts:
            told.append(f"predicts “{visible(frame.predicts)}”")
        if frame.norm is not None and frame.delta is not None:
            told.append(f"layer {frame.layer}: norm of the state {frame.norm:.3g}, mean delta {frame.delta:.3g}")
        if frame.sums:
            sums = ", ".join(f"{group} {share:.1%}" for group, share in frame.sums.items())
            told.append(f"{KINDS[frame.kind]}: {sums}")
        return "; ".join(told) + "."

    def rows(self) -> list[list[Any]]:
        """What each model keeps, as a table of COLUMNS; "-" where its sequence has ended."""
        found: list[list[Any]] = []
        for name, size in self.player.kept(self.position.value).items():
            track = self.player.track(name)
            what = "a state" if track.recurrent else "keys and values of all tokens"
            found.append([name, what, "-" if size is None else size, track.bytes[1] - track.bytes[0]])
        return found

    def caption(self) -> str:
        """What the table shows, and from when on a transformer keeps more than a recurrent model."""
        tracks, told = self.player.tracks, [f"What is kept after {self.position.value + 1} tokens."]
        for name, other in product(tracks, tracks):
            if tracks[other].recurrent and not tracks[name].recurrent:
                count = self.player.overtakes(name, other)
                more = "no more" if count is None else "more"
                since = "as far as both read" if count is None else f"from {count} tokens on"
                told.append(f"{name} keeps {more} than {other} {since}.")
        return " ".join(told)

    def _draw(self, name: str, layer: int, kind: str, at: int) -> str:
        return figure_html(*self._figure(name, layer, kind, at))

    def _figure(self, name: str, layer: int, kind: str, at: int) -> Drawn:
        """The map; the patch that is read now has an outline."""
        frame, inside = self.player.frame(name, at, layer, kind), self.player.track(name).inside
        picture, now = seen(inside), None
        if inside.image.start <= at < inside.image.stop:
            now = (cells(inside.grid, picture.shape[:2]) == at - inside.image.start).numpy()
        head = f"{name}, layer {layer}, after position {at} (“{visible(frame.text)}”)"
        if kind == "ledger":
            drawn = ledger(picture, frame.values, inside.groups, inside.grid, texts=inside.texts, outline=now)
            return Drawn(drawn.figure, f"{head}. {drawn.alt}")
        drawn = heat(picture, {f"{kind} after position {at}": frame.patches}, unit=KINDS[kind], outline=now)
        most, values = place(frame.patches.argmax(), inside.grid[1]), frame.patches
        told = f"{KINDS[kind]} of each patch: largest at {most} ({values.max():.2g}), mean {values.mean():.2g}"
        return Drawn(drawn.figure, f"{head}: {told}.")

    def _time(self, name: str) -> tuple[str, list[float]]:
        """The timeline, and where each position lies in it, as shares of its width."""
        drawn = self._timeline(name)
        shown = figure_html(*drawn)  # lays it out
        axes = drawn.figure.axes[0]
        pixels = [axes.transData.transform((at, 1.0))[0] for at in range(self.player.track(name).inside.length)]
        return shown, [float(x / drawn.figure.bbox.width) for x in pixels]

    def _timeline(self, name: str) -> Drawn:
        track = self.player.track(name)
        what = "norm of the state" if track.recurrent else "attention to the image"
        drawn = timeline(track.timeline, track.inside.groups, ylabel=what)
        return Drawn(drawn.figure, f"{name}. {drawn.alt}")

    def _assembled(self) -> Any:
        row, wrap = ipywidgets.HBox, {"flex_flow": "row wrap"}
        moving = row([self.play, self.back, self.position, self.next], layout=wrap)
        chosen = row([self.model, self.layer, self.kind], layout=wrap)
        return ipywidgets.VBox([self.bar.box, chosen, moving, self.now, self.map, self.line, self.sizes])

    def snapshot(self) -> base.Snapshot:
        """The state as figures and a table. Raises what a callback met, if any did."""
        self.bar.notice.reraise()
        if not self.player.tracks:
            return base.Snapshot((), COLUMNS, [], "Nothing was asked.")
        name, at = self.model.value, self.position.value
        line = self._timeline(name)
        line.figure.axes[0].axvline(at, color=VERMILION, linewidth=1.2)
        value = self.player.track(name).timeline[self.layer.value, at]
        marked = f"{line.alt} The cursor stands at position {at}, where layer {self.layer.value} has {value:.3g}."
        figures = (self._figure(name, self.layer.value, self.kind.value, at), (line.figure, marked))
        return base.Snapshot(figures, COLUMNS, self.rows(), f"{self.player.prompt} {self.told()} {self.caption()}")

    def _ipython_display_(self) -> None:
        base.show(self.box, self.snapshot(), "The state player")
