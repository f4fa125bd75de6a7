"""A question to models as controls in a notebook, and the work that follows it, with progress and cancel. Notebook 13.

The token map and the state player have one each.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import RLock
from typing import Any

import ipywidgets
import numpy as np

from vlmlab.scenes import sample
from vlmlab.widgets import base
from vlmlab.widgets.jobs import Job, Work, at_once
from vlmlab.widgets.probe_parts import button, line, named

QUESTION = "What is in the picture?"
_showing = RLock()  # a job in its thread and a click must not change the view at once


class QuestionBar:
    """Picture, question, answer, progress and cancel; each control has a class `probe-NAME-...` by which tests find it.

    name: the widget's. ask: makes the job of (picture, question, answer or None). answered: called when it is done;
    stopped: when work was cancelled or failed. picture: (H, W, 3), by default the scene of seed 0. notice: what
    callbacks met. job: the work that is done, or was done last. run: how it is done; at once until it is set.
    """

    def __init__(
        self,
        name: str,
        ask: Callable[[np.ndarray, str, str | None], Job[Any]],
        answered: Work,
        stopped: Work,
        picture: np.ndarray | None,
        question: str,
    ):
        self.notice, self._ask, self._answered, self._stopped = base.Notice(), ask, answered, stopped
        self.run: Callable[[Work], None] = at_once
        self.job: Job[Any] | None = None
        self._filling = False
        self.question = line("Ask", f"{name}-question")
        self.question.value = question
        self.answer = line("Answer to look into", f"{name}-answer", "each model's own")
        self.ask = button("Ask", f"{name}-ask")
        self.seed = named(
            ipywidgets.BoundedIntText(description="Seed", min=0, max=10**9, layout={"width": "10em"}), f"{name}-seed"
        )
        self.fresh = button("New scene", f"{name}-fresh")
        self.progress = named(ipywidgets.FloatProgress(min=0.0, max=1.0, description="Work"), f"{name}-progress")
        self.cancel = button("Cancel", f"{name}-cancel")
        self.shown = named(ipywidgets.HTML(), f"{name}-picture")
        wrap = {"flex_flow": "row wrap"}
        controls = ipywidgets.VBox([
            ipywidgets.HBox([self.question, self.answer, self.ask], layout=wrap),
            ipywidgets.HBox([self.seed, self.fresh, self.progress, self.cancel], layout=wrap),
            self.notice.html,
        ])  # fmt: skip
        self.box = ipywidgets.HBox([self.shown, controls], layout=wrap)
        self.on(self.question, lambda _: self.begin())
        self.on(self.answer, lambda _: self.begin())
        self.click(self.ask, self.begin)
        self.click(self.fresh, self._new_scene)
        self.click(self.cancel, self._cancel)
        self._show_scene() if picture is None else self._show_picture(picture, "The picture that is asked about.")

    def begin(self) -> None:
        """Ask what the controls say."""
        self.work(self._ask(self.picture, self.question.value.strip(), self.answer.value.strip()), self._answered)

    def work(self, job: Job[Any], show: Work) -> None:
        """Do a job in the place of the one that runs, and `show` what came of it."""
        if self.job is not None:
            self.job.cancel()
        self.job = job
        self.notice.tell("")

        def on_step() -> None:
            with _showing:
                if self.job is job and not job.cancelled:
                    self.progress.value = job.progress
                    if job.done:
                        show()

        def whole() -> None:
            try:
                job.run(on_step)
            except Exception:
                if self.job is job:
                    self.notice.guarded(self._stopped)()
                raise

        self.run(self.notice.guarded(whole))

    def on(self, widget: Any, callback: Callable[[Any], None], trait: str = "value") -> None:
        """Call back with a control's new value, unless it is being filled; what goes wrong is shown and kept."""
        guarded = self._guarded(callback)
        widget.observe(lambda change: None if self._filling else guarded(change["new"]), trait)

    def click(self, widget: Any, callback: Work) -> None:
        """Call back when a button is clicked; what goes wrong is shown and kept."""
        widget.on_click(self._guarded(lambda _: callback()))

    def _guarded(self, callback: Callable[[Any], None]) -> Callable[..., None]:
        def run(value: Any) -> None:
            with _showing:
                callback(value)

        return self.notice.guarded(run)

    @contextmanager
    def filled(self) -> Iterator[None]:
        """Set controls to what is so, without acting on it."""
        before, self._filling = self._filling, True
        try:
            yield
        finally:
            self._filling = before

    def _new_scene(self) -> None:
        self._show_scene()
        self.begin()

    def _show_scene(self) -> None:
        scene = sample(self.seed.value)
        self._show_picture(scene.render().rgb, scene.caption("short"))

    def _show_picture(self, picture: np.ndarray, alt: str) -> None:
        self.picture = picture
        self.shown.value = base.picture_html(picture, alt, "picture")

    def _cancel(self) -> None:
        if self.job is not None and not self.job.done:
            self.job.cancel()
            self._stopped()
            self.notice.tell("cancelled")
