"""The spatial probe in a notebook: a thin view of `Probe` on ipywidgets, and what it shows without one. Notebook 15."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial, wraps
from threading import RLock, get_ident
from typing import Any

import ipywidgets
import numpy as np

from vlmlab.errors import VlmlabError
from vlmlab.figures import figure_html, overlay, table_html
from vlmlab.scenes import sample
from vlmlab.widgets import base, drawing, showing
from vlmlab.widgets.answers import shown
from vlmlab.widgets.asking import FORMS, Question
from vlmlab.widgets.floor_plan import FloorPlan
from vlmlab.widgets.jobs import Job, Work, at_once, in_thread
from vlmlab.widgets.probe import Probe
from vlmlab.widgets.probe_parts import SLOTS, Parts, objects


class SpatialProbe:
    """A view of a Probe. parts: its controls. plan: the floor from above. notice: errors of callbacks, `reraise`.

    run: how long work is done, `in_thread` or `at_once`; the first answers are there when the view is.
    """

    def __init__(self, probe: Probe, run: Callable[[Work], None] = in_thread):
        self.probe, self.notice, self.plan, self.parts = probe, base.Notice(), FloorPlan(), Parts()
        self.job: Job[Any] | None = None
        self._run: Callable[[Work], None] = at_once
        self._lock = RLock()  # callbacks come on several threads: JupyterLab's messages, and work beside the notebook
        self._filling: int | None = None  # the thread that sets controls
        self.parts.method.options = probe.map_names()
        self.parts.method.index = 0
        self._wire()
        self.box = self._assembled()
        self.refresh()
        self.notice.reraise()
        self._run = run

    # ------------------------------------------------------------------ what is shown
    def refresh(self, ask: bool = True) -> None:
        """Show the probe's state; ask: and have the models answer."""
        scene, parts = self.probe.scene, self.parts
        with self._filled():
            self.plan.show(scene)
            for choice in (parts.slots["subject"], parts.slots["other"], parts.selected, parts.partner):
                kept = choice.value
                choice.options = objects(scene)
                if scene.objects:
                    first = int(choice is parts.partner and len(scene.objects) > 1)
                    choice.index = kept if kept in range(len(scene.objects)) else first
            question = self.probe.state.question
            parts.template.value, parts.control.value = question.template, self.probe.state.control
            for name, slot in parts.slots.items():
                value = getattr(question, name)
                if name not in ("subject", "other") or value < len(scene.objects):
                    slot.value = ", ".join(value) if name == "options" else value
                slot.layout.display = "" if name in SLOTS[question.template] else "none"
            self._show_selected()
            for tag, box in parts.tags.items():
                box.value = tag in self.probe.state.tags
            parts.note.value = self.probe.state.note
        told = showing.truth_text(self.probe)
        parts.truth.value = f'<p data-testid="truth">{base.html.escape(told)}</p>'
        parts.picture.value = base.picture_html(self.probe.picture(), scene.caption("short"), "picture")
        self._show_answers()
        self._show_results()
        if ask:
            self._work(self.probe.answering(), self._show_answers, each=True)

    def _show_answers(self) -> None:
        self.parts.answers.value = showing.answers_html(self.probe)

    def _show_selected(self) -> None:
        index = self.parts.selected.value
        if index is not None:
            item = self.probe.scene.objects[index]
            self.parts.x.value, self.parts.y.value = round(item.x, 2), round(item.y, 2)
            self.parts.yaw.value = round(item.yaw) % 360

    def _show_results(self) -> None:
        """Everything but the answers that belongs to this state: controls, twin, sweep, maps."""
        probe, more = self.probe, ""
        if probe.controls:
            more += showing.controls_html(probe.controls)
        if probe.pair is not None:
            more += base.picture_html(probe.pair.scene.render().rgb, "the twin", "twin-picture")
            more += showing.pair_html(probe.pair)
        self.parts.more.value = more
        fits = "" if probe.sweep is None else table_html(*drawing.fit_rows(probe.sweep), "Logistic fits")
        self.parts.curves.value = "".join(figure_html(*each) for each in self._sweep_figures()) + fits
        self.parts.maps.value = "".join(figure_html(*each) for each in self._map_figures())

    def _sweep_figures(self) -> Iterator[tuple[Any, str]]:
        if self.probe.sweep is not None:
            yield drawing.curves(self.probe.sweep), drawing.curves_alt(self.probe.sweep)

    def _map_figures(self) -> Iterator[tuple[Any, str]]:
        picture = shown(self.probe.picture(), self.probe.state.control)
        for title, heat in self.probe.maps.items():
            row, column = (int(place) + 1 for place in np.unravel_index(heat.argmax(), heat.shape))
            alt = f"{title}: of {heat.shape[0]} x {heat.shape[1]} values the highest is in row {row}, column {column}"
            yield overlay([picture], [heat], [title]), alt

    # ------------------------------------------------------------------ what the controls do
    def _wire(self) -> None:
        parts, probe = self.parts, self.probe
        self._on(parts.template, self._ask_template)
        for name, slot in parts.slots.items():
            self._on(slot, partial(self._ask, name))
        self._on(parts.control, lambda value: self._changed(lambda: probe.control(value)))
        self._on(parts.selected, self._select)
        self._on(parts.x, lambda value: self._edit("move", self._chosen(), x=value, y=parts.y.value))
        self._on(parts.y, lambda value: self._edit("move", self._chosen(), x=parts.x.value, y=value))
        self._on(parts.yaw, lambda value: self._edit("turn", self._chosen(), yaw=value))
        for name in ("remove", "occlude", "distractor"):
            self._click(getattr(parts, name), partial(self._edit_chosen, name))
        self._click(parts.swap, lambda: self._edit("swap", self._chosen(), parts.partner.value))
        self._click(parts.recolour, lambda: self._edit("recolour", self._chosen(), colour=parts.look["colour"].value))
        self._click(parts.add, lambda: self._edit("add", **{name: each.value for name, each in parts.look.items()}))
        self._click(parts.fresh, lambda: self._changed(lambda: probe.show(sample(parts.seed.value), Question())))
        self._click(parts.compare, lambda: self._begin(probe.controlling(parts.form.value)))
        self._click(parts.make_twin, lambda: self._begin(probe.twinning(parts.twin.value)))
        self._click(parts.sweep, lambda: self._begin(probe.sweeping(self._chosen(), parts.places.value)))
        self._click(parts.draw, lambda: self._begin(probe.mapping(parts.method.value, parts.form.value)))
        self._click(parts.cancel, self._cancel)
        for widget in (*parts.tags.values(), parts.note):
            self._on(
                widget, lambda _: probe.tag(*(t for t, box in parts.tags.items() if box.value), note=parts.note.value)
            )
        self._click(parts.save, self._save)
        self.plan.on_edit(self._callback(self._dragged))
        self.plan.observe(self._callback(lambda change: self._selected_on_plan(change["new"])), "selected")

    def _on(self, widget: Any, callback: Callable[[Any], None]) -> None:
        guarded = self._callback(callback)
        widget.observe(lambda change: None if self._filling == get_ident() else guarded(change["new"]), "value")

    def _click(self, widget: Any, callback: Callable[[], None]) -> None:
        widget.on_click(self._callback(lambda _: callback()))

    def _callback(self, callback: Callable[..., None]) -> Callable[..., None]:
        """One at a time, and what goes wrong in it is shown."""

        @wraps(callback)
        def alone(*arguments: Any) -> None:
            with self._lock:
                callback(*arguments)

        return self.notice.guarded(alone)

    def _chosen(self) -> int:
        return self.parts.selected.value

    def _changed(self, change: Callable[[], None], ask: bool = True) -> None:
        """Make a change and show it; what cannot be done is told, and everything stays."""
        try:
            change()
        except VlmlabError as error:
            self.notice.tell(base.one_line(error), wrong=True)
            self.plan.refuse(base.one_line(error))
            ask = ask and not self.probe.answers  # a drag that ends in a refusal stays at its last free place
        else:
            self.notice.tell("")
            if self.job is not None:
                self.job.cancel()
        self.refresh(ask)

    def _edit(self, kind: str, /, *indices: int, ask: bool = True, **details: Any) -> None:
        self._changed(lambda: self.probe.edit(kind, *indices, **details), ask)

    def _edit_chosen(self, kind: str) -> None:
        self._edit(kind, self._chosen())

    def _ask(self, slot: str, value: Any) -> None:
        if slot == "options":
            value = tuple(each.strip() for each in value.split(",") if each.strip())
        self._changed(lambda: self.probe.question(**{slot: value}))

    def _ask_template(self, template: str) -> None:
        asked = self.probe.asked
        text = {"text": asked.text, "options": asked.options, "answer": ""} if template == "free" else {}
        self._changed(lambda: self.probe.question(template=template, **text))

    def _dragged(self, message: dict[str, Any]) -> None:
        index, final = int(message["id"]), bool(message["final"])
        item = self.probe.scene.objects[index]
        if message["kind"] == "turn":
            self._edit("turn", index, yaw=item.yaw + float(message["by"]), ask=final)
        elif message["kind"] == "step":
            self._edit("move", index, x=item.x + float(message["dx"]), y=item.y + float(message["dy"]))
        else:
            self._edit("move", index, x=float(message["x"]), y=float(message["y"]), ask=final)

    def _select(self, index: int | None) -> None:
        self.plan.selected = -1 if index is None else index
        with self._filled():
            self._show_selected()

    def _selected_on_plan(self, index: int) -> None:
        if index in range(len(self.probe.scene.objects)):
            self.parts.selected.value = index

    def _cancel(self) -> None:
        if self.job is not None:
            self.job.cancel()
            self.notice.tell("cancelled")

    def _save(self) -> None:
        path = self.probe.save(self.parts.file.value, self.parts.replace.value)
        self.notice.tell(f"saved {path}; run it again with: vlmlab replay {path}")

    def _begin(self, job: Job[Any]) -> None:
        self.notice.tell("")
        self._work(job)

    def _work(self, job: Job[Any], show: Work | None = None, each: bool = False) -> None:
        """Do a job in place of the one that runs; show what came of it, or, with `each`, of every step."""
        if self.job is not None:
            self.job.cancel()
        self.job = job

        def on_step() -> None:
            with self._lock:
                if self.job is not job or job.cancelled:
                    return
                self.parts.progress.value = job.progress
                if each or job.done:
                    (show or self._show_results)()
                if job.done and not self._answered():  # this job had stopped the answers
                    self._work(self.probe.answering(), self._show_answers, each=True)

        self._run(self.notice.guarded(lambda: job.run(on_step)))

    def _answered(self) -> bool:
        return all(len(self.probe.answers.get(model, ())) == len(FORMS) for model in self.probe.models)

    @contextmanager
    def _filled(self) -> Iterator[None]:
        """Set controls to what is so, without acting on it."""
        before, self._filling = self._filling, get_ident()
        try:
            yield
        finally:
            self._filling = before

    # ------------------------------------------------------------------ how it looks
    def _assembled(self) -> Any:
        p, row, column = self.parts, ipywidgets.HBox, ipywidgets.VBox
        wrap = {"flex_flow": "row wrap"}
        edits = column([
            row([p.selected, p.x, p.y, p.yaw, p.remove, p.occlude, p.distractor, p.partner, p.swap], layout=wrap),
            row([*p.look.values(), p.recolour, p.add, p.seed, p.fresh], layout=wrap),
        ])  # fmt: skip
        question = row([p.template, *p.slots.values(), p.control], layout=wrap)
        work = row([p.form, p.compare, p.twin, p.make_twin, p.places, p.sweep, p.method, p.draw], layout=wrap)
        notes = column([*p.tags.values(), p.note, row([p.file, p.replace, p.save], layout=wrap)])
        self.plan.layout.width = "340px"
        seen = column([p.picture, p.answers], layout={"flex": "1 1 600px"})  # beside the plan where there is room
        return column([
            self.notice.html, question, p.truth, row([self.plan, seen], layout=wrap), row([p.progress, p.cancel]),
            edits, work, p.more, p.curves, p.maps, notes,
        ])  # fmt: skip

    def snapshot(self) -> base.Snapshot:
        """The state as figures and a table. Raises what a callback met, if any did."""
        self.notice.reraise()
        probe = self.probe
        twin = {} if probe.pair is None else {"the twin": probe.pair.scene.render().rgb}
        told = showing.truth_text(probe)
        alt = f"The floor from above and the picture: {probe.scene.caption('short')} {told}"
        first = drawing.scene_figure(probe.scene, probe.picture(), twin), alt
        figures = (first, *self._sweep_figures(), *self._map_figures())
        return base.Snapshot(figures, showing.COLUMNS, showing.rows(probe), told)

    def _ipython_display_(self) -> None:
        base.show(self.box, self.snapshot(), "The spatial probe")
