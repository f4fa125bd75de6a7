"""The spatial probe in JupyterLab, by mouse and keyboard: what the page shows is what the controller computes."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import nbformat
import pytest
from nbformat import v4

import vlmlab
from browser.harness import WINDOW, Lab, until, watched_page
from browser.probe_page import Place, ProbePage, across, first_scene, refusal, stepped
from vlmlab.files import atomic_path
from vlmlab.scenes import Scene
from vlmlab.widgets import Probe, edits
from vlmlab.widgets.edits import Refused

NOTEBOOK = "15_spatial_probe.ipynb"
CELL = """from vlmlab.scenes import sample
from vlmlab.widgets import Probe
from vlmlab.widgets.probe_view import SpatialProbe

SpatialProbe(Probe(["llava-tiny", "cobra-tiny"], sample(0)))"""
CUT = """(box) => [...box.querySelectorAll("*")]
  .filter((node) => getComputedStyle(node).overflowX !== "visible" && node.scrollWidth > node.clientWidth + 1)
  .filter((node) => node.clientWidth && !node.matches("input, select, textarea"))
  .map((node) => `${node.className}: ${node.scrollWidth} pixels in ${node.clientWidth}`)"""
SCREENSHOT = Path(__file__).parents[2] / "docs/probe.png"
RUN = 300.0  # seconds for all cells of the notebook
pytestmark = pytest.mark.timeout(900)  # a busy machine; the first test starts the server and runs the notebook


def notebook(lab: Lab) -> str:
    """The chapter of the spatial probe; two cells that show the probe until there is one."""
    if not (lab.folder / NOTEBOOK).is_file():
        cells = [v4.new_markdown_cell("# The spatial probe"), v4.new_code_cell(CELL)]
        kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}}
        nbformat.write(v4.new_notebook(cells=cells, metadata=kernel), lab.folder / NOTEBOOK)
    return NOTEBOOK


@pytest.fixture(scope="module")
def opened(chromium, lab) -> Iterator[ProbePage]:
    """The notebook, open and run to its end, with its first probe."""
    with watched_page(chromium, lab.url, lab.url.replace("http:", "ws:")) as (page, watch):
        page.goto(lab.address(notebook(lab)))
        page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()
        page.keyboard.press("Control+b")  # the list of files gives its room to the notebook
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        box = page.locator(".jp-OutputArea-output").filter(has=page.get_by_test_id("floor-plan")).first
        box.wait_for(timeout=1000 * RUN)
        waiting = page.locator(".jp-InputPrompt", has_text="[*]")
        until(lambda: not waiting.count(), "the cells do not end", RUN)
        assert not page.locator("[data-mime-type*='error'], [data-mime-type*='stderr']").all_inner_texts()
        models = box.get_by_test_id("answers").locator("> thead > tr > th").all_text_contents()  # in view or not
        yield ProbePage(page, watch, lab, box, Probe({name: vlmlab.load(name, device="cpu") for name in models}))


@pytest.fixture
def shown(opened: ProbePage) -> Iterator[ProbePage]:
    """The page of all tests; each one begins with a scene of its own and ends without a complaint of the page."""
    yield opened
    opened.watch.check()


def test_a_dragged_object_changes_picture_truth_and_answers(shown: ProbePage):
    seed, (half, goal) = first_scene(across)
    scene = shown.fresh(seed)
    start, before, truth, said = scene.objects[0], shown.picture(), shown.told("truth"), shown.answers()
    shown.hold(0, (start.x, start.y))
    shown.draw(0, half)
    until(lambda: shown.picture() != before, "the picture does not follow the mouse")
    shown.draw(0, goal)
    shown.page.mouse.up()
    saved = shown.saved().state.scene
    assert (saved.objects[0].x, saved.objects[0].y) == pytest.approx(goal, abs=0.02)
    assert saved.objects[1:] == scene.objects[1:]
    shown.probe.show(saved)
    shown.agrees()
    for one, other in (("yes", "no"), ("no", "yes")):
        assert (f"True: {one}." in truth) == (f"True: {other}." in shown.told("truth"))
    assert shown.answers() != said


def take_picture(shown: ProbePage) -> None:
    """The window with the probe at its top, for README."""
    shown.box.evaluate("(node) => node.scrollIntoView()")
    with atomic_path(SCREENSHOT) as target:
        target.write_bytes(shown.page.screenshot())


def onto_the_other(scene: Scene) -> tuple[Place, str] | None:
    """Where object 1 stands, and why object 0 may not stand there."""
    there = scene.objects[1].x, scene.objects[1].y
    reason = refusal(scene, there)
    return (there, reason) if reason else None


def test_what_has_no_room_is_refused_with_the_reason(shown: ProbePage):
    """Dragged into another object: the reason is shown, and the object is back where it last had room."""
    seed, (there, reason) = first_scene(onto_the_other)
    scene = shown.fresh(seed)
    shown.hold(0, (scene.objects[0].x, scene.objects[0].y))
    shown.draw(0, there)
    shown.page.mouse.up()
    until(lambda: shown.told("floor-plan-status") == f"Refused: {reason}.", f"the plan does not say {reason!r}")
    assert shown.box.get_by_role("alert").inner_text().strip() == reason
    saved = shown.saved().state.scene
    assert (saved.objects[0].x, saved.objects[0].y) != pytest.approx(there, abs=0.02)
    assert shown.place(0) == pytest.approx((saved.objects[0].x, saved.objects[0].y))
    shown.probe.show(saved)
    shown.agrees()


def test_the_plan_stays_where_it_is_when_a_line_appears_above_it(shown: ProbePage):
    """An object that is dragged past others must not slip from under the pointer."""
    seed, (there, reason) = first_scene(onto_the_other)
    item = shown.fresh(seed).objects[0]
    plan = shown.box.get_by_test_id("floor-plan").locator("svg")
    shown.hold(0, (item.x, item.y))
    before = plan.bounding_box()
    until(lambda: shown.draw(0, there) or shown.told("notice"), "no reason is told while the mouse is down")
    after = plan.bounding_box()
    shown.page.mouse.up()
    until(lambda: reason in shown.told("floor-plan-status"), "the plan does not say why")
    assert after == before


def test_the_picture_follows_a_pointer_that_comes_to_rest(shown: ProbePage):
    seed, (_, goal) = first_scene(across)
    scene = shown.fresh(seed)
    shown.hold(0, (scene.objects[0].x, scene.objects[0].y))
    shown.draw(0, goal)
    try:
        until(lambda: shown.fields() == pytest.approx(goal, abs=0.02), "x and y do not follow the pointer", 20.0)
    finally:
        shown.page.mouse.up()
        shown.saved()


def test_fast_strokes_all_count(shown: ProbePage):
    def five_steps(scene):
        with suppress(Refused):
            for _ in range(5):
                scene = edits.move(scene, 0, *stepped(scene, 0.1, 0))
            return scene

    seed, goal = first_scene(five_steps)
    shown.fresh(seed)
    shown.object(0).focus()
    for _ in range(5):
        shown.page.keyboard.press("ArrowRight")
    saved = shown.saved().state.scene
    assert saved.objects[0].x == pytest.approx(goal.objects[0].x)


def test_no_answer_is_cut_off(shown: ProbePage):
    """Sentences are long where models name places; nothing may lie beyond the edge of what holds it."""
    shown.fresh(first_scene(across)[0])
    assert not shown.box.evaluate(CUT)


def test_no_answer_is_cut_off_in_a_narrow_window(shown: ProbePage):
    shown.fresh(first_scene(across)[0])
    shown.page.set_viewport_size({**WINDOW, "width": 960})
    try:
        assert not shown.box.evaluate(CUT)
    finally:
        shown.page.set_viewport_size(WINDOW)


def test_arrow_keys_move_and_brackets_turn(shown: ProbePage):
    strokes = {"ArrowRight": (0.1, 0), "ArrowUp": (0, 0.1), "ArrowLeft": (-0.1, 0), "Shift+ArrowDown": (0, -0.5)}

    def walk(scene):
        places = [scene]
        with suppress(Refused):
            for stroke in strokes.values():
                places.append(edits.move(places[-1], 0, *stepped(places[-1], *stroke)))
            return [*places[1:], edits.turn(places[-1], 0, (places[-1].objects[0].yaw + 15) % 360)]

    seed, places = first_scene(walk)
    shown.fresh(seed)
    shown.object(0).focus()
    for stroke, scene in zip((*strokes, "]"), places, strict=True):
        before = shown.object(0).get_attribute("aria-label")
        shown.page.keyboard.press(stroke)
        until(lambda: shown.object(0).get_attribute("aria-label") != before, f"nothing moves at {stroke}")  # noqa: B023
        shown.probe.show(scene)
        shown.agrees()
    assert shown.object(0).evaluate("(node) => node === document.activeElement")
    if os.environ.get("VLMLAB_SAVE_SCREENSHOTS"):
        take_picture(shown)
    saved, item = shown.saved().state.scene.objects[0], scene.objects[0]
    assert (saved.x, saved.y, saved.yaw) == pytest.approx((item.x, item.y, item.yaw))


def test_keys_stop_at_the_edge_of_the_picture(shown: ProbePage):
    def to_the_left(scene):
        for presses in range(20):
            try:
                scene = edits.move(scene, 0, *stepped(scene, -0.5, 0.0))
            except Refused as error:
                return presses and "would leave the picture" in str(error) and (presses, scene, str(error))

    seed, (presses, last, reason) = first_scene(to_the_left)
    shown.fresh(seed)
    shown.object(0).focus()
    for _ in range(presses):
        before = shown.object(0).get_attribute("aria-label")
        shown.page.keyboard.press("Shift+ArrowLeft")
        until(lambda: shown.object(0).get_attribute("aria-label") != before, "the object does not move")  # noqa: B023
    assert shown.told("floor-plan-status") == ""
    shown.page.keyboard.press("Shift+ArrowLeft")
    until(lambda: shown.told("floor-plan-status") == f"Refused: {reason}.", f"the plan does not say {reason!r}")
    shown.probe.show(last)
    shown.agrees()


def test_another_question_is_answered_anew(shown: ProbePage):
    seed, _ = first_scene(lambda scene: len(scene.objects) > 2)
    shown.fresh(seed)
    for name, value in (("relation", "right of"), ("template", "count"), ("kind", "sofa")):
        shown.choose(name, value)
        shown.probe.question(**{name: value})
        shown.agrees()
    shown.choose("control", "blank picture")
    shown.probe.control("blank picture")
    shown.agrees()
    assert shown.box.locator(".probe-kind").is_visible()
    assert not shown.box.locator(".probe-relation").is_visible()  # a count has no relation
    shown.choose("control", "none")
    shown.choose("template", "free")
    shown.fill("text", "")
    until(lambda: "the question is empty" in shown.told("notice"), "an empty question is not refused")
