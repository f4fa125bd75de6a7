"""Graded editions of the notebooks for nbgrader: `vlmlab assign`. Serves every notebook.

The source edition of a chapter has the solutions in its answer cells, a locked cell behind each that asks the chapter's
check, and a cell that is marked by hand for an open exercise. nbgrader makes the students' edition of it. Who has the
project's sources, or reads vlmlab/checks, has the answers: grade what such a person can still be asked.
"""

import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell

from vlmlab import files
from vlmlab.errors import BadInput, MissingDependency, VlmlabError
from vlmlab.notebooks import source, tidy
from vlmlab.notebooks.exercises import Exercise, apart, asked, shares, without_answers

POINTS = {"warm-up": 2, "easy": 2, "medium": 4, "hard": 6, "harder": 6, "open": 6}
"""Points of an exercise by its difficulty, shared evenly by its graded cells."""
CONFIG = '''"""The settings of this course, for nbgrader. `vlmlab assign` wrote it once and leaves changes alone."""

c = get_config()
c.CourseDirectory.course_id = "vlmlab"
c.ClearSolutions.code_stub = {"python": ""}  # an answer cell begins with a stub of its own
c.ClearSolutions.text_stub = "*Your answer here: what you expected, what you did, what came out, and how sure it is.*"
c.Execute.timeout = 300  # seconds a cell; a whole chapter's budget is 60 on two cores
c.Execute.skip_cells_with_tag = ""  # a graded cell that a tag could skip would score full marks
c.OverwriteCells.add_missing_cells = True  # a graded cell that was deleted comes back
'''
GRADED = """# Exercise {number}: {points:g} points if the check says [ok]. This cell is graded; it cannot be edited.
import sys
from contextlib import redirect_stderr

from vlmlab.checks import {module} as check

with redirect_stderr(sys.stdout):  # a warning is not a mistake; nbgrader would take it for one
    graded = {call}
assert graded.ok, graded.message"""
MARKED = "Marked by hand: what was expected, and said before the run? What was it compared with? How sure is it?"


@dataclass(frozen=True)
class Assigned:
    """A chapter as an assignment: its exercises, the points of checked and of hand-marked cells, and the two files."""

    name: str
    exercises: int
    checked_points: float
    marked_points: float
    source: Path
    release: Path


def assign(selection: Sequence[str], out: Path, folder: Path | None = None) -> list[Assigned]:
    """Write an nbgrader course: nbgrader_config.py, gradebook.db, and both editions of each chapter.

    Arguments: `selection`, as `vlmlab run` takes it (all when empty); `out`, the course's folder; `folder`, another
    notebooks folder. Raises BadInput for a folder that holds something else, for a chapter that has been handed in, and
    for exercises that cannot be read; MissingDependency without nbgrader.
    """
    try:
        from nbgrader.apps import NbGraderAPI
        from traitlets.config.loader import PyFileConfigLoader
    except ModuleNotFoundError:
        raise MissingDependency("nbgrader", "vlmlab assign", "make setup") from None
    chosen = source.find(selection, folder)
    settings = out / "nbgrader_config.py"
    if out.exists() and not (out.is_dir() and (settings.is_file() or not any(out.iterdir()))):
        raise BadInput(f"--out {out} is not a course of vlmlab; name another folder, or remove it")
    for item in chosen:
        if any(out.glob(f"submitted/*/{item.name}")):
            raise BadInput(f"{item.name} has been handed in ({out}/submitted); write the new edition to another folder")
    editions = [(item, *edition(source.read(item), item.number)) for item in chosen]
    if not settings.exists():
        files.write_text(settings, CONFIG)
    config = PyFileConfigLoader(settings.name, path=str(out)).load_config()
    config.CourseDirectory.root = str(out.resolve())
    api = NbGraderAPI(config=config)
    written = []
    for item, notebook, exercises in editions:
        ours, theirs = (out / kind / item.name / f"{item.name}.ipynb" for kind in ("source", "release"))
        files.write_text(ours, tidy.to_text(notebook))
        with _programs_on_path():
            outcome = api.generate_assignment(item.name)
        if not outcome["success"]:
            raise VlmlabError(f"{item.name}: nbgrader cannot make the students' edition: {outcome['log'].strip()}")
        points = [_points(cell) for cell in notebook.cells if cell.cell_type == "code"]
        marked = [_points(cell) for cell in notebook.cells if cell.cell_type == "markdown"]
        written.append(Assigned(item.name, exercises, sum(points), sum(marked), ours, theirs))
    return written


@contextmanager
def _programs_on_path() -> Iterator[None]:
    """nbgrader starts the program `alembic`, which lies beside this Python, also where nobody activated its folder."""
    before = os.environ.get("PATH", "")
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), before])
    try:
        yield
    finally:
        os.environ["PATH"] = before


def edition(notebook: NotebookNode, number: int) -> tuple[NotebookNode, int]:
    """The source edition of chapter `number` and how many exercises it has. Raises BadInput."""
    before, exercises, after = apart(notebook)
    inner = [cell for exercise in exercises for cell in _exercise(exercise, f"nb{number:02d}")]
    made = NotebookNode(cells=[*before, *inner, *after], metadata=notebook.metadata, nbformat=4, nbformat_minor=5)
    for cell in made.cells:
        if cell.cell_type == "markdown":  # the other chapters lie in folders of their own
            cell.source = re.sub(r"\]\(((\d\d_\w+)\.ipynb)", r"](../\2/\1", cell.source)
    tidy.name_cells(made)
    return made, len(exercises)


def _exercise(exercise: Exercise, module: str) -> list[NotebookNode]:
    """The cells of one exercise: answers and solutions, the locked cells that grade them, one to mark if it is open."""
    _, prose = exercise.solution()
    answers = iter(shares(exercise))
    checks = [found for cell in exercise.cells if (found := asked(cell)) is not None]
    by_hand = exercise.difficulty == "open" or not checks
    points = POINTS[exercise.difficulty] / (len(checks) + by_hand)
    name, made = f"exercise-{exercise.number}", []
    for cell in exercise.cells:
        found = asked(cell)
        if cell.cell_type == "markdown":
            made += [new_markdown_cell(text)] if (text := without_answers(cell.source)) else []
        elif found is None:
            made.append(cell)
        else:
            part = f"{name}-{checks.index(found) + 1}"
            made.append(new_code_cell(_solved(cell.source, found.line, next(answers), prose), metadata=_mark(part)))
            text = GRADED.format(number=exercise.number, points=points, module=module, call=found.call)
            made.append(new_code_cell(text, metadata=_mark(f"{part}-check", points, solution=False)))
    if by_hand:
        text = MARKED if checks else "\n\n".join([*exercise.blocks(hint=False), MARKED])
        made.append(new_markdown_cell(text, metadata=_mark(f"{name}-text", points)))
    heading, _, rest = made[0].source.partition("\n")
    made[0].source = f"{heading[:-1]}, {POINTS[exercise.difficulty]} points)\n{rest}"
    return made


def _solved(text: str, line: int, code: str, prose: str) -> str:
    """An answer cell with the solution between the stub and the check; nbgrader takes out what stands in between."""
    lines = text.splitlines()
    remarks = [f"# {each}".rstrip() for each in prose.splitlines()]
    solution = ["### BEGIN SOLUTION", *code.splitlines(), *remarks, "### END SOLUTION"]
    return "\n".join(["\n".join(lines[:line]).rstrip(), *solution, "", *lines[line:]])


def _mark(name: str, points: float | None = None, solution: bool = True) -> dict[str, Any]:
    """nbgrader's metadata of a cell (its schema 3): graded where it has points, locked where it holds no answer."""
    grade = points is not None
    mark = {"grade": grade, "grade_id": name, "locked": not solution, "solution": solution, "task": False}
    return {"nbgrader": {"schema_version": 3, **mark, **({"points": points} if grade else {})}}


def _points(cell: NotebookNode) -> float:
    return cell.metadata.get("nbgrader", {}).get("points", 0.0)
