"""The nbgrader course: what students get holds no solution, and nbgrader's own grading tells right from wrong.

Whole chapters are graded for the numbers in VLMLAB_ASSIGN, 00 when it is not set; for all of them:
VLMLAB_ASSIGN="00 01 02 03 04 05 06 07 08 09 10 11 12 13 14 15 17" python -m pytest tests/notebooks/test_assign.py -k whole
"""

import functools
import json
import os
import sys
from collections import Counter
from pathlib import Path

import nbformat
import pytest
from tiny_notebooks import percent

from vlmlab import cli
from vlmlab.errors import BadInput, MissingDependency, UnknownName
from vlmlab.notebooks import exercises, source
from vlmlab.notebooks.assign import POINTS, assign

nbgrader = pytest.importorskip("nbgrader", reason="test_assign: nbgrader is not installed; run `make setup`")
pytestmark = [
    pytest.mark.timeout(1200),
    pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SAWarning"),  # nbgrader's own, about its sessions
]
CHAPTERS = source.available()
WHOLE = source.find(os.environ.get("VLMLAB_ASSIGN", "00").split())
TINY = "00_start_here"
each_chapter = pytest.mark.parametrize("item", CHAPTERS, ids=lambda item: item.name)


@pytest.fixture(scope="module")
def course(tmp_path_factory) -> Path:
    """A course to which `edition` adds the chapters that are asked for."""
    return tmp_path_factory.mktemp("course") / "all"


def edition(course: Path, kind: str, name: str) -> Path:
    path = course / kind / name / f"{name}.ipynb"
    if not path.exists():
        assign([name], course)
    return path


def released(course: Path, name: str) -> nbformat.NotebookNode:
    return nbformat.read(edition(course, "release", name), as_version=4)


@functools.cache
def parts(item: source.Source) -> tuple:
    return exercises.apart(source.read(item))


def marked(notebook) -> dict:
    """nbgrader's cells by their grade ids."""
    return {cell.metadata.nbgrader.grade_id: cell for cell in notebook.cells if "nbgrader" in cell.metadata}


# ------------------------------------------------------------------ the students' edition
@each_chapter
def test_the_cells_are_valid_and_their_points_add_up(course, item):
    from nbgrader.nbgraderformat import MetadataValidator
    from nbgrader.utils import compute_checksum, is_grade, is_locked, is_solution

    notebook = released(course, item.name)
    nbformat.validate(notebook)
    MetadataValidator().validate_nb(notebook)
    cells = [cell for cell in notebook.cells if "nbgrader" in cell.metadata]
    assert len({cell.metadata.nbgrader.grade_id for cell in cells}) == len(cells)
    assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)
    assert all(cell.metadata.nbgrader.checksum == compute_checksum(cell) for cell in cells)
    assert all(is_locked(cell) == (is_grade(cell) and not is_solution(cell)) for cell in cells)
    found = parts(item)[1]
    assert sum(cell.metadata.nbgrader.points for cell in cells if is_grade(cell)) == sum(
        POINTS[each.difficulty] for each in found
    )
    by_hand = [cell for cell in cells if cell.cell_type == "markdown"]
    assert len(by_hand) == sum(each.difficulty == "open" for each in found)


@each_chapter
def test_a_graded_cell_follows_each_answer_cell_and_asserts_the_checks_verdict(course, item):
    from nbgrader.utils import is_solution

    cells = released(course, item.name).cells
    asked = [found for each in parts(item)[1] for cell in each.cells if (found := exercises.asked(cell)) is not None]
    places = [i for i, cell in enumerate(cells) if cell.cell_type == "code" and is_solution(cell)]
    assert [exercises.asked(cells[i]).call for i in places] == [each.call for each in asked]
    for i, each in zip(places, asked, strict=True):
        graded = cells[i + 1]
        assert graded.metadata.nbgrader.grade
        assert f"from vlmlab.checks import nb{item.number:02d} as check" in graded.source
        assert f"graded = {each.call}\nassert graded.ok" in graded.source
        assert cells[i].metadata.nbgrader.grade_id + "-check" == graded.metadata.nbgrader.grade_id


def strings(value):
    """All text of a JSON value, keys included."""
    if isinstance(value, str):
        yield value
    for inner in value if isinstance(value, list) else value.values() if isinstance(value, dict) else ():
        yield from strings(inner)
    if isinstance(value, dict):
        yield from value


def left_over(path: Path, item: source.Source) -> set[str]:
    """Lines of solutions that a file holds more often than the chapter itself shows them outside its solutions."""
    text = path.read_text(encoding="utf-8")
    held = Counter(line.strip() for part in strings(json.loads(text)) for line in part.splitlines())
    before, found, after = parts(item)
    own = [cell.source for cell in (*before, *after, *(cell for each in found for cell in each.cells))]
    own = [exercises.without_answers(part) for part in own]
    shown = Counter(line.strip() for part in own for line in part.splitlines())
    lines = {line.strip() for each in found for block in each.blocks(hint=False) for line in block.splitlines()} - {""}
    whole = "\n".join(own)
    inside = {line for line in lines if len(line) > 12 and line not in whole and as_json(line) in text}
    return inside | {line for line in lines if held[line] > shown[line]}


def as_json(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]


@each_chapter
def test_no_line_of_a_solution_is_left(course, item):
    ours, theirs = (edition(course, kind, item.name) for kind in ("source", "release"))
    assert left_over(theirs, item) == set()
    assert len(left_over(ours, item)) >= 4  # the search finds what is there
    text = theirs.read_text(encoding="utf-8")
    assert "SOLUTION" not in text
    assert "Solution</summary>" not in text


@each_chapter
def test_nothing_is_left_of_a_run_and_nothing_is_missing(course, item):
    notebook = released(course, item.name)
    assert not any(cell.outputs or cell.execution_count for cell in notebook.cells if cell.cell_type == "code")
    assert not any(cell.get("attachments") for cell in notebook.cells)
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    before, found, _ = parts(item)
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code" and "nbgrader" not in cell.metadata]
    taught = [cell.source for cell in before if cell.cell_type == "code"]
    assert code[: len(taught)] == taught
    text = "\n".join(cell.source for cell in notebook.cells)
    assert all(hint in text for each in found for hint in each.blocks(hint=True))
    links = [part.partition(")")[0] for part in text.split("](")[1:]]
    assert all(link.startswith("../") for link in links if ".ipynb" in link)
    for cell in (cell for each in found for cell in each.cells):
        if exercises.asked(cell):  # a student begins with what the chapter shows
            same = [c for c in notebook.cells if c.source.split() == cell.source.split()]
            assert len(same) == 1


def test_the_same_sources_give_the_same_bytes(course, tmp_path):
    for kind in ("source", "release"):
        one, other = (edition(out, kind, "07_selective_scan") for out in (course, tmp_path / "again"))
        assert one.read_bytes() == other.read_bytes()


# ------------------------------------------------------------------ nbgrader's own grading
def grades(course: Path, chapter: str, student: str, notebook) -> dict[str, float | None]:
    """Hand a notebook in, let nbgrader grade it, and read its scores by grade id; {} when nbgrader gives it up."""
    from nbgrader.api import Gradebook
    from nbgrader.apps import NbGraderAPI
    from traitlets.config.loader import PyFileConfigLoader

    folder = course / "submitted" / student / chapter
    folder.mkdir(parents=True)
    nbformat.write(notebook, folder / f"{chapter}.ipynb")
    config = PyFileConfigLoader("nbgrader_config.py", path=str(course)).load_config()
    config.CourseDirectory.root = str(course)
    if not NbGraderAPI(config=config).autograde(chapter, student)["success"]:
        return {}
    with Gradebook(f"sqlite:///{course / 'gradebook.db'}", "vlmlab") as book:
        handed_in = book.find_submission_notebook(chapter, chapter, student)
        return {grade.name: grade.auto_score for grade in handed_in.grades}


def full(notebook) -> dict[str, float | None]:
    """The scores of right answers: full marks from checks, none yet from the marker."""
    cells = {name: cell for name, cell in marked(notebook).items() if cell.metadata.nbgrader.grade}
    return {n: c.metadata.nbgrader.points if c.cell_type == "code" else None for n, c in cells.items()}


@pytest.mark.parametrize("item", WHOLE, ids=lambda item: item.name)
def test_a_whole_chapter_with_its_solutions_scores_all_and_an_empty_one_nothing(course, item):
    solved = nbformat.read(edition(course, "source", item.name), as_version=4)
    empty = released(course, item.name)
    assert grades(course, item.name, "solved", solved) == full(empty)
    assert grades(course, item.name, "empty", empty) == dict.fromkeys(full(empty), 0.0)


RIGHT = {
    "exercise-1-1": "def left_of(scene, a, b):\n    d = scene.geometry.u[b] - scene.geometry.u[a]\n"
    "    return None if abs(d) < LEFT else bool(d > 0)",
    "exercise-2-1": 'def behind_program(colour, kind):\n    return [step("select", {"kind": kind}), step("unique", None, 0),'
    ' step("relate", {"relation": "behind", "frame": "viewer"}, 1), step("filter", {"colour": colour}, 2),'
    ' step("exist", None, 3)]',
    "exercise-3-1": "def mirror_box(box, width):\n    return (width - box[2], box[1], width - box[0], box[3])",
    "exercise-4-1": "def interval(right, n):\n    from vlmlab.benchmarks.statistics import wilson\n"
    "    return wilson(right, n)",
}  # fmt: skip
MISTAKEN = {
    "exercise-1-1": "def left_of(scene, a, b):\n    return bool(scene.geometry.u[a] < scene.geometry.u[b])",
    "exercise-2-1": 'def behind_program(colour, kind):\n    return [step("select", {"colour": colour}), step("exist", None, 0)]',
    "exercise-3-1": "def mirror_box(box, width):\n    return (width - box[0], box[1], width - box[2], box[3])",
    "exercise-4-1": "def interval(right, n):\n    p = right / n\n    s = 1.96 * (p * (1 - p) / n) ** 0.5\n"
    "    return p - s, p + s",
}  # fmt: skip
BROKEN = {
    "exercise-1-1": "def left_of(scene, a, b):\n    return 1 / 0",
    "exercise-2-1": "def behind_program(colour, kind:\n    return []",
    "exercise-3-1": "def mirror_box(box, width):\n    raise SystemExit(0)",
    "exercise-4-1": "",
}
NOISY = {
    "exercise-1-1": "import sys, warnings\n\nprint('started', file=sys.stderr)\n" + RIGHT["exercise-1-1"].replace(
        "    d =", "    warnings.warn('old')\n    print('looking', file=sys.stderr)\n    d =") + "\n\n0.5",
    "exercise-2-1": "from tqdm import tqdm\n\n" + RIGHT["exercise-2-1"].replace(
        "    return", "    for _ in tqdm(range(3)):\n        pass\n    return"),
}  # fmt: skip
"""Right, but with text on stderr and with a number at the end of the cell."""
LEAVES = {**RIGHT, "exercise-1-1": "import os\n\nos._exit(0)"}  # at once; exit() lets some cells more run


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    """A course of chapter 00's first four exercises without the chapter."""
    head = (
        "from vlmlab import scenes\nfrom vlmlab.checks import nb00 as check\nfrom vlmlab.scenes.programs import step\n"
    )
    found = parts(source.find([TINY])[0])[1][:4]
    cells = [("md " if c.cell_type == "markdown" else "") + c.source for each in found for c in each.cells]
    folder, out = tmp_path_factory.mktemp("tiny") / "notebooks", tmp_path_factory.mktemp("graded") / "course"
    (folder / "src").mkdir(parents=True)
    text = percent(head + "from vlmlab.scenes.relations import LEFT", "md ## Exercises", *cells)
    (folder / "src" / f"{TINY}.py").write_text(text)
    assign([], out, folder)
    return out


def answered(tiny: Path, answers: dict[str, str]) -> nbformat.NotebookNode:
    notebook = released(tiny, TINY)
    for name, text in answers.items():
        marked(notebook)[name].source = text
    return notebook


def test_right_answers_score_all_however_noisy_and_a_wrong_one_costs_its_own_points(tiny):
    notebook = answered(tiny, {**RIGHT, **NOISY, "exercise-4-1": MISTAKEN["exercise-4-1"]})
    assert grades(tiny, TINY, "noisy", notebook) == {**full(notebook), "exercise-4-1-check": 0.0}


@pytest.mark.parametrize(("student", "answers"), [("mistaken", MISTAKEN), ("broken", BROKEN)])
def test_wrong_answers_score_nothing(tiny, student, answers):
    notebook = answered(tiny, answers)
    assert grades(tiny, TINY, student, notebook) == dict.fromkeys(full(notebook), 0.0)


def test_graded_cells_cannot_be_edited_skipped_deleted_or_talked_round(tiny):
    notebook = answered(tiny, MISTAKEN)
    cells = marked(notebook)
    everything = full(notebook)
    cells["exercise-1-1-check"].source = "pass"
    cells["exercise-1-1"].source += "\n\nclass check:\n    left_of = mirror_box = staticmethod(lambda answer: True)"
    cells["exercise-2-1-check"].metadata["tags"] = ["skip-execution"]
    cells["exercise-3-1-check"].cell_type = "raw"
    for key in ("outputs", "execution_count"):
        del cells["exercise-3-1-check"][key]
    notebook.cells.remove(cells["exercise-4-1-check"])
    assert grades(tiny, TINY, "tampered", notebook) == dict.fromkeys(everything, 0.0)


def test_a_kernel_that_ends_early_earns_nothing(tiny):
    """Cells that never ran have no output, which would be full marks: nbgrader must give the notebook up instead."""
    assert grades(tiny, TINY, "leaves", answered(tiny, LEAVES)) == {}


# ------------------------------------------------------------------ the command
def test_a_chapter_that_was_handed_in_is_not_written_again(tiny):
    (tiny / "submitted" / "early" / TINY).mkdir(parents=True, exist_ok=True)
    with pytest.raises(BadInput, match=f"{TINY} has been handed in"):
        assign(["00"], tiny)


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(BadInput, match="is not a course of vlmlab"):
        assign(["00"], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(BadInput, match="is not a course of vlmlab"):
        assign(["00"], tmp_path / "thesis.tex")
    with pytest.raises(UnknownName):
        assign(["77"], tmp_path / "course")


def test_without_nbgrader_the_error_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "nbgrader.apps", None)
    with pytest.raises(MissingDependency, match="make setup"):
        assign(["00"], tmp_path / "course")
    assert not (tmp_path / "course").exists()


def test_the_command_tells_points_and_leaves_settings_alone(capfd, tmp_path):
    out = tmp_path / "course"
    assert cli.main(["assign", "01", "--out", str(out)]) == 0
    assert "01_seeing: 4 exercises, 16 points by checks, 0 by hand" in capfd.readouterr().out
    settings = out / "nbgrader_config.py"
    settings.write_text(settings.read_text() + 'c.CourseDirectory.course_id = "vision-101"\n')
    assert cli.main(["assign", "01", "--out", str(out), "--json"]) == 0
    told = json.loads(capfd.readouterr().out)
    assert [each["name"] for each in told] == ["01_seeing"]
    assert Path(told[0]["release"]).is_file()
    assert settings.read_text().endswith('"vision-101"\n')
    assert not list(out.rglob("*.tmp"))
