"""The spatial probe in JupyterLab, by the names that its controls carry; scenes in which a test has room to move."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count, product
from math import cos, radians, sin
from typing import TYPE_CHECKING, Any

from browser.harness import PATIENCE, Lab, Watch, until
from vlmlab.scenes import Scene, sample
from vlmlab.widgets import Probe, base, cases, edits, showing
from vlmlab.widgets.asking import Question, ask
from vlmlab.widgets.edits import Refused

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

Place = tuple[float, float]
AGAIN = 10.0  # seconds after which a button is pressed once more
NEAR = 0.03  # scene units by which the mouse may miss: a pixel of the plan is 0.013
STEPS = [step / 8 for step in range(1, 9)]  # of a straight way
ON_SCREEN = """(node, at) => {
  const point = new DOMPoint(...at).matrixTransform(node.parentElement.getScreenCTM());
  return [point.x, point.y];
}"""
ANSWERS = """(table) => Object.fromEntries([
  ...[...table.querySelectorAll("[data-testid^=answer-]")].map((cell) => [cell.dataset.testid, cell.textContent]),
  ...[...table.querySelectorAll("[data-testid^=probability-]")].map(
    (bar) => [bar.dataset.testid, Number(bar.title.split(" ").at(-1))]),
])"""


@dataclass
class ProbePage:
    """A page with a probe. probe: the same probe in this process, without a page, which tells what has to be shown."""

    page: "Page"
    watch: Watch
    lab: Lab
    box: "Locator"
    probe: Probe
    _saved: Iterator[int] = field(default_factory=count)

    # ------------------------------------------------------------------ what a reader does
    def fresh(self, seed: int) -> Scene:
        """Ask for the scene of a seed, and wait until the page shows it with all answers."""
        self.fill("seed", str(seed))
        self.press("fresh")
        self.probe.show(sample(seed), Question())
        self.agrees()
        return self.probe.scene

    def fill(self, name: str, text: str) -> None:
        entry = self.box.locator(f".probe-{name} input[type=text], .probe-{name} input[type=number]")
        entry.fill(text)
        entry.press("Enter")

    def press(self, name: str) -> None:
        """Press a button by keyboard: the page may still move under a mouse while answers come."""
        self.box.locator(f"button.probe-{name}").press("Enter")

    def choose(self, name: str, value: str) -> None:
        self.box.locator(f".probe-{name} select").select_option(value)

    def object(self, index: int) -> "Locator":
        """An object on the floor plan."""
        return self.box.get_by_test_id(f"object-{index}")

    def hold(self, index: int, at: Place) -> None:
        """Press the mouse on an object, which stands at `at`."""
        self.object(index).scroll_into_view_if_needed()
        self.page.mouse.move(*self.object(index).evaluate(ON_SCREEN, at))
        self.page.mouse.down()

    def draw(self, index: int, to: Place) -> None:
        """Move the mouse, held on an object, to a place of the scene."""
        self.page.mouse.move(*self.object(index).evaluate(ON_SCREEN, to), steps=4)

    # ------------------------------------------------------------------ what a reader sees
    def told(self, name: str) -> str:
        """The text of what has this data-testid."""
        return self.box.get_by_test_id(name).inner_text().strip()

    def place(self, index: int) -> Place:
        """Where the plan draws an object, in scene units."""
        matrix = "(node) => { const { e, f } = node.transform.baseVal.consolidate().matrix; return [e, f]; }"
        return tuple(self.object(index).evaluate(matrix))

    def fields(self) -> Place:
        """What the fields of the selected object's place say."""
        return tuple(float(self.box.locator(f".probe-{name} input").input_value()) for name in ("x", "y"))

    def picture(self) -> str:
        return self.box.get_by_test_id("picture").get_attribute("src") or ""

    def answers(self) -> dict[str, Any]:
        """data-testid -> an answer's words, or an option's log-probability to three digits."""
        return self.box.get_by_test_id("answers").evaluate(ANSWERS)

    def saved(self) -> cases.Case:
        """What the probe in the kernel holds, by way of a case file.

        Just after a change there is no answer to keep, and the probe says so; and the end of a drag may still tell its
        own line in place of the one about the file. Both times the button is pressed again.
        """
        names: list[str] = []

        def kept() -> bool:
            names.append(f"case-{next(self._saved)}.json")
            self.fill("file", names[-1])
            self.press("save")
            end = time.monotonic() + AGAIN
            while time.monotonic() < end and "no answer" not in (told := self.told("notice")):
                if names[-1] in told:
                    return True
            return False

        until(kept, "no case file is saved")
        return cases.read(self.lab.work / "cases" / names[-1])

    def agrees(self) -> None:
        """The page shows what `probe` holds: its picture, its truth, its words, its probabilities."""
        self.probe.answering().run()
        told, picture = showing.truth_text(self.probe), base.picture_html(self.probe.picture(), "", "")
        until(lambda: self.told("truth") == told, f"the truth is not {told!r}")
        until(lambda: f'src="{self.picture()}"' in picture, "the picture is another")
        wanted: dict[str, Any] = {}
        for model, answer in self.probe.answers.items():
            for form, said in answer.items():
                wanted[f"answer-{model}-{form}"] = said.text
                bars = {f"probability-{model}-{form}-{option}": value for option, value in said.log_probs.items()}
                wanted |= bars
        until(lambda: _near(self.answers(), wanted), f"the answers are not {wanted}", PATIENCE)


def _near(found: dict[str, Any], wanted: dict[str, Any]) -> bool:
    """Whether words are the same, and numbers the same to the three digits that are shown."""
    return found.keys() == wanted.keys() and all(
        found[key] == value if isinstance(value, str) else abs(found[key] - value) < 1e-3
        for key, value in wanted.items()
    )


# ---------------------------------------------------------------------- scenes with room
def first_scene(fits: Callable[[Scene], Any]) -> tuple[int, Any]:
    """The first seed whose scene fits, and what `fits` found there: a place, say. Objects 0 and 1 stand free."""
    for seed in count():
        scene = sample(seed)
        free = all(not edits.carried(scene, i) and scene.objects[i].z == 0 for i in (0, 1))
        if free and ask(scene, Question()).truth is not None and (found := fits(scene)):
            return seed, found
    raise AssertionError


def across(scene: Scene) -> tuple[Place, Place] | None:
    """Where object 0 may go so that the answer to "left of" is the other one, and halfway; all the way has room."""
    item, truth = scene.objects[0], ask(scene, Question()).truth
    for goal in product((-1.5, -1.2, -0.9, 0.9, 1.2, 1.5), (-0.8, -0.4, 0.0, 0.4)):
        way = [(item.x + part * (goal[0] - item.x), item.y + part * (goal[1] - item.y)) for part in STEPS]
        truths = {each and ask(each, Question()).truth for each in moves(scene, goal)}
        if truths == {"no" if truth == "yes" else "yes"} and all(None not in moves(scene, at) for at in way):
            return way[len(way) // 2 - 1], goal
    return None


def moves(scene: Scene, to: Place) -> list[Scene | None]:
    """Object 0 put there, and just beside; None where there is no room, and where it would not stand on the floor."""
    found: list[Scene | None] = []
    for x, y in product((-NEAR, 0.0, NEAR), repeat=2):
        try:
            moved = edits.move(scene, 0, to[0] + x, to[1] + y)
        except Refused:
            moved = None
        found.append(moved if moved and moved.objects[0].z == 0 else None)
    return found


def refusal(scene: Scene, to: Place) -> str | None:
    """Why object 0 may not go there, nor just beside; None where it may, or where the reasons differ."""
    reasons = set()
    for x, y in product((-NEAR, 0.0, NEAR), repeat=2):
        try:
            edits.move(scene, 0, to[0] + x, to[1] + y)
        except Refused as error:
            reasons.add(str(error))
        else:
            reasons.add(None)
    return reasons.pop() if len(reasons) == 1 else None


def stepped(scene: Scene, right: float, away: float) -> Place:
    """Where object 0 comes to stand when it is moved as the viewer sees it."""
    item, angle = scene.objects[0], radians(scene.camera.azimuth)
    return (
        item.x + right * cos(angle) - away * sin(angle),
        item.y + right * sin(angle) + away * cos(angle),
    )
