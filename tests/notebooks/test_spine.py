"""Every chapter's exercises: enough of them, from warm-up to open, each with hint and solution; every check tested."""

import ast
import functools
import importlib
import inspect
import re
from collections import Counter
from pathlib import Path

import pytest

from vlmlab.errors import BadInput
from vlmlab.notebooks import exercises, source

CHAPTERS = source.available()
UNIT = Path(__file__).resolve().parents[1] / "unit"
NO_OPEN_END = (
    "01_seeing", "02_llava_architecture", "03_instruction_data", "04_training_llava", "05_evaluating",
    "06_shortcomings", "10_mambavision",
)  # fmt: skip
"""Chapters that want an open exercise. A chapter that gets one leaves this list: the test fails until it does."""
BARE = ("14_attribution_and_embeddings",)
"""Chapters with an exercise that wants a hint or a way to begin; the same holds."""


def chapters(wanting: tuple[str, ...] = (), why: str = ""):
    marks = {name: [pytest.mark.xfail(reason=f"{name}: {why}", strict=True)] for name in wanting}
    params = [pytest.param(item, id=item.name, marks=marks.get(item.name, [])) for item in CHAPTERS]
    return pytest.mark.parametrize("item", params)


@functools.cache
def parts(item: source.Source) -> tuple:
    return exercises.apart(source.read(item))


def of(item: source.Source) -> list[exercises.Exercise]:
    return parts(item)[1]


@chapters()
def test_there_are_four_exercises_in_order_and_each_says_how_hard_and_how_long(item):
    found = of(item)
    assert len(found) >= 4
    assert [each.number for each in found] == list(range(1, len(found) + 1))
    assert all(each.title and 5 <= each.minutes <= 60 for each in found)  # apart() refuses one without difficulty


@chapters(NO_OPEN_END, "no open exercise yet")
def test_they_go_from_warm_up_to_open(item):
    found = {each.difficulty for each in of(item)}
    assert found & {"warm-up", "easy"}
    assert "open" in found


@chapters(BARE, "an exercise without hint and way to begin")
def test_each_has_a_hint_and_a_solution(item):
    for each in of(item):
        assert [bool(text) for text in each.blocks(hint=True)] == [True], each.title
        assert [bool(text) for text in each.blocks(hint=False)] == [True], each.title


@chapters()
def test_each_has_a_check_or_is_open_and_its_solution_defines_what_is_checked(item):
    for each in of(item):
        asked = [found for cell in each.cells if (found := exercises.asked(cell)) is not None]
        assert asked or each.difficulty == "open", each.title
        assert all(exercises.shares(each)), each.title


@chapters()
def test_an_answer_that_is_missing_is_not_found_elsewhere(item):
    """What a graded cell asks for is bound in its answer cell and nowhere before."""
    before, found, _ = parts(item)
    bound = {name for cell in before for name in own_names(cell)}
    for each in found:
        for cell in each.cells:
            if (asked := exercises.asked(cell)) is not None:
                own = asked.names & set(own_names(cell))
                assert own, each.title
                assert not own & bound, each.title


def own_names(cell) -> list[str]:
    return source._bound(ast.parse(cell.source)) if cell.cell_type == "code" else []


# ------------------------------------------------------------------ the checks' own tests
def rejected(path: Path) -> Counter:
    """(module of checks, check) -> how many wrong answers the parametrised tests of a file hold."""
    counts: Counter = Counter()
    for _, function in inspect.getmembers(importlib.import_module(path.stem), inspect.isfunction):
        for mark in getattr(function, "pytestmark", []):
            if mark.name != "parametrize" or "mistake" not in mark.args[0]:
                continue
            names = re.split(r"\W+", mark.args[0]) if isinstance(mark.args[0], str) else list(mark.args[0])
            for case in mark.args[1]:
                values = dict(zip(names, getattr(case, "values", case), strict=True))
                if values["mistake"] != "not begun":
                    counts[check_of(path, function, values)] += 1
    return counts


def check_of(path: Path, function, values: dict) -> tuple[str, str]:
    check = values.get("check", values.get("name"))
    if check is None:  # a test of one check
        found = re.search(r"(nb\d\d)\.(\w+)", inspect.getsource(function))
        return found[1], found[2]
    if isinstance(check, str):
        return f"nb{path.stem[-2:]}", check
    return check.__module__.rsplit(".", 1)[-1], check.__name__


@pytest.fixture(scope="module")
def wrong_answers() -> Counter:
    return sum((rejected(path) for path in sorted(UNIT.glob("test_checks_*.py"))), Counter())


@chapters()
def test_each_check_is_tried_on_three_wrong_answers(item, wrong_answers):
    asked = [found for each in of(item) for cell in each.cells if (found := exercises.asked(cell)) is not None]
    checks = {ast.parse(found.call).body[0].value.func.attr for found in asked}
    counts = {name: wrong_answers[f"nb{item.number:02d}", name] for name in checks}
    assert min(counts.values()) >= 3, counts


# ------------------------------------------------------------------ the parser
@pytest.mark.parametrize(
    "heading",
    [
        "### Exercise 1 · Title (simple, 5 minutes)",
        "### Exercise 1 · Title (easy)",
        "### Exercise one · T (easy, 5 minutes)",
    ],
)
def test_a_heading_that_says_too_little_is_refused(write, heading):
    folder = write("00_tiny", f"md ## Exercises\n\n{heading}\n\nDo it.")
    with pytest.raises(BadInput, match="write ### Exercise N"):
        of(source.find(["00"], folder)[0])


@pytest.mark.parametrize("code", ["def other(x):\n    return x", "def mine(x:\n", ""])
def test_a_solution_that_does_not_define_the_answer_is_refused(write, code):
    heading = "### Exercise 1 · Title (easy, 5 minutes)"
    details = f"<details><summary>Solution</summary>\n\n```python\n{code}\n```\n\n</details>"
    folder = write("00_tiny", f"md {heading}", "mine = ...\n\ncheck.mine(mine)", f"md {details}")
    with pytest.raises(BadInput, match="exercise 1: the solution"):
        exercises.shares(of(source.find(["00"], folder)[0])[0])
