"""The view of the spatial probe: driven by values and messages, its errors seen, its text escaped, its page offline."""

import json
import re
import threading
import time
from pathlib import Path

import ipywidgets
import pytest
from bs4 import BeautifulSoup
from nbformat import v4
from plants import Plant

from vlmlab.errors import BadInput
from vlmlab.notebooks import page
from vlmlab.scenes import Scene
from vlmlab.widgets import Probe, base, cases, probe_view
from vlmlab.widgets.floor_plan import FloorPlan
from vlmlab.widgets.jobs import at_once, in_thread
from vlmlab.widgets.probe_parts import SLOTS, Parts
from vlmlab.widgets.probe_view import SpatialProbe

HOSTILE = '<script>alert("x")</script>'


@pytest.fixture
def view(planted, room) -> SpatialProbe:
    return SpatialProbe(Probe(planted, room), at_once)


def sent(view: SpatialProbe, **message) -> None:
    """A message from the floor plan's script."""
    view.plan._handle_custom_msg(message, [])


def cell(view: SpatialProbe, model: str, form: str) -> str:
    found = BeautifulSoup(view.parts.answers.value, "html.parser").find(attrs={"data-testid": f"answer-{model}-{form}"})
    return found.get_text()


def notice(view: SpatialProbe) -> str:
    return BeautifulSoup(view.notice.html.value, "html.parser").get_text()


def truth(view: SpatialProbe) -> str:
    return BeautifulSoup(view.parts.truth.value, "html.parser").get_text()


# ---------------------------------------------------------------------- errors
def test_what_a_callback_raises_is_shown_and_kept():
    told = base.Notice()
    button = ipywidgets.Button()

    def fail(_):
        raise RuntimeError(f"first\nsecond {HOSTILE}")

    button.on_click(told.guarded(fail))
    button.click()
    assert "<script>" not in told.html.value
    assert "RuntimeError: first second &lt;script&gt;" in told.html.value
    assert 'role="alert"' in told.html.value
    with pytest.raises(RuntimeError, match="first"):
        told.reraise()
    told = base.Notice()
    told.guarded(lambda: (_ for _ in ()).throw(BadInput("write a name")))()
    assert "write a name" in told.html.value
    assert "BadInput" not in told.html.value
    assert len(told.errors) == 1
    told.reraise()  # it tells the reader what to do: no fault


def test_a_fault_in_the_view_reaches_whoever_drives_it(view, monkeypatch):
    monkeypatch.setattr(Probe, "control", lambda *_: 1 / 0)
    view.parts.control.value = "text only"
    assert "ZeroDivisionError" in notice(view)
    with pytest.raises(ZeroDivisionError):
        view.notice.reraise()
    with pytest.raises(ZeroDivisionError):
        view.snapshot()


def test_a_fault_in_a_model_reaches_whoever_drives_the_view(planted, room):
    def broken(*_):
        raise RuntimeError("no weights")

    with pytest.raises(RuntimeError, match="no weights"):
        SpatialProbe(Probe({"broken": Plant("broken", broken)}, room), at_once)


def test_a_message_that_is_none_is_a_fault_that_is_shown(view):
    sent(view, kind="move", x=0.0, y=0.0)
    assert "KeyError" in notice(view)
    assert isinstance(view.notice.errors[0], KeyError)


# ---------------------------------------------------------------------- driving it
def test_the_first_answers_are_there_at_once(view):
    assert truth(view).startswith("Is the cat left of the sofa? True: yes.")
    assert cell(view, "oracle", "word") == cell(view, "oracle", "sentence") == "yes"
    shown = BeautifulSoup(view.parts.answers.value, "html.parser")
    bar = shown.find(attrs={"data-testid": "probability-blind-word-yes"})
    assert bar.get_text(strip=True).endswith("0.70")
    assert [head.get_text() for head in shown.thead.find_all("th")] == ["oracle", "blind"]
    assert len(view.plan.objects) == 3
    assert view.plan.objects[1]["label"] == "sofa"


def test_a_drag_moves_and_asks_again_when_it_ends(view, planted):
    before = len(planted["oracle"].asked)
    sent(view, kind="move", id=0, x=-0.8, y=-0.5, final=False)
    assert len(planted["oracle"].asked) == before
    assert cell(view, "oracle", "word") == "..."
    assert view.plan.objects[0]["x"] == view.parts.x.value == -0.8
    sent(view, kind="move", id=0, x=-0.7, y=-0.5, final=True)
    assert len(planted["oracle"].asked) == before + 2
    assert cell(view, "oracle", "word") == "yes"
    sent(view, kind="turn", id=0, by=-45.0, final=True)
    assert view.probe.scene.objects[0].yaw == view.parts.yaw.value == 45.0


def test_fast_keys_count_from_where_the_object_is_not_from_where_the_page_last_saw_it(view):
    item = view.probe.scene.objects[0]
    for _ in range(3):
        sent(view, kind="step", id=0, dx=0.1, dy=0.0, final=True)
    assert view.probe.scene.objects[0].x == pytest.approx(item.x + 0.3, abs=1e-12)
    for _ in range(24):
        sent(view, kind="turn", id=0, by=15.0, final=True)
    assert view.probe.scene.objects[0].yaw == item.yaw


def test_a_control_that_is_used_while_another_thread_fills_the_view_counts(view):
    filling, used = threading.Event(), threading.Event()

    def fill():
        with view._lock, view._filled():
            filling.set()
            used.wait(10)

    thread = threading.Thread(target=fill)
    thread.start()
    filling.wait(10)
    threading.Timer(0.1, used.set).start()
    view.parts.control.value = "text only"
    thread.join()
    assert view.probe.state.control == "text only"


def test_a_move_that_is_refused_says_why_and_changes_nothing(view, monkeypatch):
    sends = []
    monkeypatch.setattr(FloorPlan, "send", lambda self, content, buffers=None: sends.append(content))
    scene = view.probe.scene
    sent(view, kind="move", id=0, x=9.0, y=0.0, final=True)
    assert view.probe.scene is scene
    assert notice(view) == "the cat would leave the picture"
    assert sends == [{"kind": "refused", "reason": "the cat would leave the picture"}]
    assert cell(view, "oracle", "word") == "yes"
    view.parts.x.value = 3.0
    assert view.probe.scene is scene
    assert view.parts.x.value == -0.9
    sent(view, kind="move", id=0, x=-0.8, y=-0.4, final=False)
    sent(view, kind="move", id=0, x=9.0, y=0.0, final=True)
    assert view.probe.scene.objects[0].x == -0.8
    assert cell(view, "oracle", "word") == "yes"  # asked again where it stayed
    view.notice.reraise()


def test_every_template_shows_its_slots_and_asks(view):
    texts = {}
    for template in SLOTS:
        view.parts.template.value = template
        texts[template] = view.probe.asked.text
        shown = {name for name, slot in view.parts.slots.items() if slot.layout.display != "none"}
        assert shown == set(SLOTS[template])
        assert view.probe.state.question.template == template
        assert cell(view, "blind", "word") != "..."
    assert texts["free"] == texts["facing"]  # free text starts from the last question
    assert len(set(texts.values())) == len(texts) - 1
    assert view.notice.errors == []


def test_slots_change_the_question(view):
    slots = view.parts.slots
    slots["relation"].value = "right of"
    slots["other"].value = 2
    assert truth(view).startswith("Is the cat right of the mug? True: no.")
    view.parts.template.value = "free"
    slots["text"].value = f"Where? {HOSTILE}"
    slots["options"].value = "left, right ,"
    slots["answer"].value = "left"
    asked = view.probe.asked
    assert (asked.options, asked.truth) == (("left", "right"), "left")
    assert "<script>" not in view.parts.truth.value
    slots["text"].value = " "
    assert "write one" in notice(view)
    assert view.probe.asked.text.startswith("Where?")
    assert slots["text"].value == f"Where? {HOSTILE}"


def test_buttons_edit_the_chosen_object(view):
    parts, probe = view.parts, view.probe
    parts.selected.value = 2
    assert view.plan.selected == 2
    assert parts.y.value == 0.8
    parts.x.value, parts.y.value = 0.2, -0.6  # x first: it falls beside the sofa
    assert (probe.scene.objects[2].x, probe.scene.objects[2].y) == (0.2, -0.6)
    parts.look["colour"].value = "green"
    parts.recolour.click()
    assert probe.scene.objects[2].colour == "green"
    view.plan.selected = 0
    assert parts.selected.value == 0
    parts.partner.value = 2
    parts.swap.click()
    assert probe.scene.objects[0].x == pytest.approx(0.2)
    parts.distractor.click()
    assert [item.kind for item in probe.scene.objects].count("cat") == 2
    parts.look["kind"].value = "ball"
    parts.add.click()
    assert probe.scene.objects[-1].kind == "ball"
    parts.remove.click()
    assert len(probe.scene.objects) == 4
    assert [label for label, _ in parts.selected.options] == [item["label"] for item in view.plan.objects]
    parts.seed.value = 7
    parts.fresh.click()
    assert probe.scene.seed == 7
    assert view.notice.errors == []
    assert cell(view, "oracle", "sentence") != "..."


def test_hiding_an_object_adds_one_in_front_of_it(view):
    view.parts.selected.value = 1
    view.parts.occlude.click()
    scene = view.probe.scene
    assert len(scene.objects) == 4 or "further back" in notice(view)
    assert cell(view, "oracle", "word") != "..."


def test_controls_twin_sweep_and_maps_are_shown_and_go_with_the_next_edit(view):
    parts = view.parts
    parts.compare.click()
    assert "blank picture" in parts.more.value
    parts.make_twin.click()
    assert 'data-testid="pair"' in parts.more.value
    assert "likelihood: both" in parts.more.value
    parts.places.value = 5
    parts.sweep.click()
    assert view.probe.sweep is not None
    assert "<figure" in parts.curves.value
    assert parts.progress.value == 1.0
    parts.control.value = "blank picture"
    assert parts.more.value == parts.curves.value == ""
    parts.template.value = "free"
    parts.sweep.click()
    assert "choose one in the place of free text" in notice(view)
    assert all(isinstance(error, BadInput) for error in view.notice.errors)


def test_work_that_stops_the_answers_has_them_asked_afterwards(planted, room):
    waiting = []
    view = SpatialProbe(Probe(planted, room), at_once)
    view._run = waiting.append
    view.parts.control.value = "blank picture"
    view.parts.compare.click()
    assert len(waiting) == 2
    waiting.pop(0)()  # the answers, cancelled
    assert view.probe.answers == {}
    waiting.pop(0)()
    assert view.probe.controls
    waiting.pop(0)()
    assert cell(view, "oracle", "sentence") == "yes"


def test_cancel_stops_work(planted, room):
    waiting = []
    view = SpatialProbe(Probe(planted, room), at_once)
    view._run = waiting.append
    view.parts.sweep.click()
    view.parts.cancel.click()
    waiting.pop()()
    assert view.job.done
    assert view.probe.sweep is None
    assert notice(view) == "cancelled"


def test_work_runs_in_a_thread(planted, room):
    view = SpatialProbe(Probe(planted, room), in_thread)
    view.parts.control.value = "text only"
    until = time.monotonic() + 20
    while not view.job.done and time.monotonic() < until:
        time.sleep(0.01)
    assert view.job.done
    assert cell(view, "oracle", "sentence") == "yes"
    view.notice.reraise()


def test_tags_and_note_are_saved_with_the_case(view, tmp_path):
    parts, path = view.parts, tmp_path / "case.json"
    parts.tags["reference frame"].value = True
    parts.note.value = "as the cat sees it"
    parts.save.click()
    assert "needs a name" in notice(view)
    parts.file.value = str(path)
    parts.save.click()
    assert f"vlmlab replay {path}" in notice(view)
    state = cases.read(path).state
    assert (state.tags, state.note) == (("reference frame",), "as the cat sees it")
    parts.save.click()
    assert "is there already" in notice(view)
    parts.replace.value = True
    parts.note.value = "again"
    parts.save.click()
    assert cases.read(path).state.note == "again"
    view.parts.yaw.value = 80
    assert not parts.tags["reference frame"].value
    assert parts.note.value == ""


# ---------------------------------------------------------------------- what is shown
def test_a_models_text_never_becomes_markup(planted, room):
    def say(asked, form, picture):
        return HOSTILE, dict.fromkeys(asked.options, 0.5)

    view = SpatialProbe(Probe({HOSTILE: Plant("hostile", say)}, room), at_once)
    view.parts.make_twin.click()
    view.parts.compare.click()
    view.parts.template.value = "free"
    view.parts.slots["options"].value = f"{HOSTILE}, b"
    for shown in (view.parts.answers, view.parts.more, view.parts.truth, view.notice.html):
        assert "<script" not in shown.value
    assert "&lt;script&gt;" in view.parts.answers.value
    assert "<script" not in view.snapshot().html()


def test_every_control_has_a_label_and_a_class_of_its_own():
    parts = Parts()
    widgets = [
        each for value in vars(parts).values() for each in (value.values() if isinstance(value, dict) else [value])
    ]
    assert len(widgets) > 30
    classes = [widget._dom_classes[0] for widget in widgets]
    assert all(re.fullmatch(r"probe-[a-z-]+", name) for name in classes)
    assert len(set(classes)) == len(classes)
    assert all(widget.description for widget in widgets if not isinstance(widget, ipywidgets.HTML))


def test_the_snapshot_stays_readable_in_a_page_without_widgets(view):
    view.parts.make_twin.click()
    view.parts.places.value = 5
    view.parts.sweep.click()
    snapshot = view.snapshot()
    assert len(snapshot.figures) == 2
    html = BeautifulSoup(page.offline(snapshot.html()), "html.parser")
    pictures = html.find_all("img")
    assert len(pictures) == 2
    for picture in pictures:
        assert picture["src"].startswith("data:image/png;base64,")
        assert len(picture["alt"]) > 20
    text = html.find("table").get_text()
    assert all(model in text for model in ("oracle", "blind"))
    assert "likelihood: yes" in text


def test_a_notebooks_page_shows_the_snapshot_and_loads_nothing(view, monkeypatch):
    outputs = []
    monkeypatch.setattr("IPython.display.display", lambda shown, raw=False, **_: outputs.append(shown))
    view._ipython_display_()
    widget, html = outputs
    assert widget["application/vnd.jupyter.widget-view+json"]["model_id"] == view.box.model_id
    shown = [v4.new_output("display_data", data) for data in (widget, {"text/html": html.data})]
    cells = [v4.new_code_cell("view", outputs=shown)]
    text = page.body(v4.new_notebook(cells=cells))
    assert "<figure" in text
    assert "VBox" not in text
    assert not re.search(r'(?:src|href)="(?!data:|#)', text)
    assert "<script" not in text


def test_the_snapshot_comes_with_the_maps(planted, room, monkeypatch):
    import numpy as np

    view = SpatialProbe(Probe(planted, room), at_once)
    monkeypatch.setattr(Probe, "map", lambda *_: np.arange(64.0).reshape(8, 8))
    view.parts.method.value = "delta"
    view.parts.draw.click()
    assert list(view.probe.maps) == ["oracle, delta", "blind, delta"]
    alts = [alt for _, alt in view.snapshot().figures]
    assert alts[1] == "oracle, delta: of 8 x 8 values the highest is in row 8, column 8"
    assert view.parts.maps.value.count("<figure") == 2


# ---------------------------------------------------------------------- the floor plan's script
SCRIPT = Path(probe_view.__file__).with_name("floor_plan.js").read_text()


def test_the_script_loads_nothing_and_makes_no_markup_of_text():
    assert not re.search(r"\bimport\b|\bfetch\b|innerHTML|eval\(|document\.write", SCRIPT)
    assert set(re.findall(r"https?://[^\"']+", SCRIPT)) == {"http://www.w3.org/2000/svg"}


def test_script_and_python_speak_of_the_same_things(room):
    plan = FloorPlan()
    plan.show(room)
    assert plan._esm == SCRIPT
    assert set(re.findall(r'model\.(?:get|set)\("(\w+)"', SCRIPT)) <= set(plan.keys)
    fields = set(re.findall(r"\bobject\.(\w+)", SCRIPT)) | set(re.findall(r"\bone\.(\w+) - other", SCRIPT))
    assert fields == set(plan.objects[0])
    kinds = re.findall(r'send\(\{ kind: "(\w+)", id[^}]*final', SCRIPT)
    assert set(kinds) == {"move", "step", "turn"}
    json.dumps(plan.get_state(["objects", "azimuth", "fov", "distance", "wall", "selected"]))


def test_the_plan_follows_the_camera_and_the_scene(room):
    plan = FloorPlan()
    plan.show(room)
    plan.selected = 2
    turned = Scene(room.objects[:2], type(room.camera)(azimuth=15.0, fov=30.0))
    plan.show(turned)
    assert (plan.azimuth, plan.fov, plan.selected, len(plan.objects)) == (15.0, 30.0, 1, 2)
    assert plan.distance == pytest.approx(6.2 * 0.8660254, abs=0.15)
    assert [item["front"] for item in plan.objects] == [True, True]
    assert plan.objects[0]["colour"] == "#cd2626"
