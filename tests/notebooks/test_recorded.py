"""Recorded values, then and now: what a notebook holds, what counts as moved, and that the runner fails on it."""

import json
import re
from pathlib import Path

import nbformat
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nbformat import v4

from vlmlab import notebooks, report
from vlmlab.notebooks import recorded, source
from vlmlab.notebooks.recorded import ANY, DEFAULT, Tolerance, differences, kept, moved

COMMITTED = [item for item in source.available() if item.paired.is_file()]
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


# ---------------------------------------------------------------- the committed notebooks
@pytest.mark.parametrize("item", COMMITTED, ids=lambda item: item.name)
def lines(notebook) -> set[str]:
    """What the outputs of a notebook say it recorded, a line each."""
    texts = [output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", [])]
    return set(re.findall(r"^recorded .+$", "\n".join(texts), re.MULTILINE))


@pytest.mark.parametrize("item", COMMITTED, ids=lambda item: item.name)
def test_a_committed_notebook_holds_what_it_says_it_recorded(item):
    notebook = nbformat.read(item.paired, as_version=4)
    values = kept(notebook)
    assert lines(notebook), "a notebook records what it measured"
    assert len(values) <= len(lines(notebook))
    for line in lines(notebook):
        pair = recorded._read(line.removeprefix("recorded "))
        if pair is not None:
            assert json.loads(report._short(values[pair[0]])) == pair[1]
        elif "vlmlab" in notebook.metadata:  # a long value, cut off where it is printed, is kept whole
            assert any(line.startswith(f"recorded {name} = ") for name in values), line


def test_each_stated_tolerance_is_used_and_says_why():
    read = {item.name[:2]: nbformat.read(item.paired, as_version=4) for item in COMMITTED}
    said = [f"{chapter}: {line.removeprefix('recorded ')}" for chapter in read for line in lines(read[chapter])]
    for pattern, limit, why in recorded.TOLERANCES:
        assert why
        assert limit != DEFAULT
        to_come = set(re.findall(r"\^(\d\d):", pattern)) - set(read)
        assert to_come or any(re.search(pattern, line) for line in said), pattern


# ---------------------------------------------------------------- what counts as moved
@given(PLAIN)
def test_a_value_is_the_same_as_itself_also_after_a_file(value):
    assert differences(value, json.loads(json.dumps(value)), DEFAULT) == []


@pytest.mark.parametrize(
    ("then", "now"),
    [
        (0.5, 0.5006), (0.5, "0.5"), (0.5, None), (True, False), (True, 1), (0, False), (1, True), (7062902784, 7062902785),
        ("a", "b"), (None, 0), ([1, 2], [1]), ([1, 2], [1, 3]), ({"a": 1.0}, {"a": 1.1}), ({"a": 1}, {"b": 1}),
        ({"a": [1, {"b": 0.2}]}, {"a": [1, {"b": 0.3}]}), (2e-6, 1e-4), ([], {}), (0.0, 1e-4), (-0.5, 0.5),
    ],
)  # fmt: skip
def test_what_moved(then, now):
    assert len(differences(then, now, DEFAULT)) == 1
    assert len(differences(now, then, DEFAULT)) == 1


@pytest.mark.parametrize(
    ("then", "now"), [(0.5, 0.5004), (3e-7, 9e-7), (1, 1.0), (1000.0, 1000.9), ({"a": [1, 2]}, {"a": [1, 2]})]
)
def test_what_did_not(then, now):
    assert differences(then, now, DEFAULT) == []


def test_a_wider_tolerance_holds_for_numbers_alone():
    wide = Tolerance(relative=0.1, absolute=0.05)
    assert differences([0.1, 10.0, 40], [0.14, 10.9, 43], wide) == []
    assert differences([0.1, 10.0, 40], [0.16, 11.1, 45], wide) == [
        "[0] was 0.1, is 0.16", "[1] was 10, is 11.1", "[2] was 40, is 45",
    ]  # fmt: skip
    assert differences({"ms": 3.0}, {"ms": 4e9}, ANY) == []
    assert differences({"ms": 3.0}, {"ms": "3"}, ANY) != []
    assert differences({"ms": 3.0}, {}, ANY) != []
    assert differences([3.0, True], [4.0, False], ANY) == ["[1] was true, is false"]


def test_messages_name_the_value_and_what_to_do(monkeypatch):
    monkeypatch.setattr(
        recorded,
        "TOLERANCES",
        ((r"^01: seconds", ANY, "a time"), (r"^02: loss", Tolerance(0.5), "live"), (r"^03:", None, "noise")),
    )
    then = {"a": 1.0, "b": [1, 2], "gone": 3, "seconds": 1.0, "loss": 1.0}
    now = {"a": 2.0, "b": [2, 3], "new": 1, "seconds": 9.0, "loss": 1.4}
    found = moved("01_one", then, now)
    assert [re.sub(r";.*", "", message) for message in found] == [
        "recorded 'a': was 1, is 2", "recorded 'b': [0] was 1, is 2 and 1 more", "no longer records 'gone'",
        "recorded 'loss': was 1, is 1.4",
    ]  # fmt: skip
    assert moved("03_three", {"a": True}, {"a": "b"}) == []
    assert len(moved("03_three", {"a": True}, {})) == 1  # it has to be recorded all the same
    assert all("--update" in message and "\n" not in message for message in found)
    assert [re.sub(r":.*", "", message) for message in moved("02_two", then, now)][2:] == [
        "no longer records 'gone'; run it with --update if that is meant", "recorded 'seconds'",
    ]  # fmt: skip


# ---------------------------------------------------------------- what a notebook holds
def printing(*lines: str):
    cell = v4.new_code_cell("report", outputs=[v4.new_output("stream", name="stdout", text="\n".join(lines) + "\n")])
    return v4.new_notebook(cells=[cell])


def test_values_are_read_back_from_what_was_printed():
    notebook = printing(
        "recorded a = 0.5", "said: recorded x = 1", 'recorded time at L = 4096 = "x = y"', "recorded t = true",
        'recorded cut = {"a": 1, "b": ...', "recorded b = [1, null]",
    )  # fmt: skip
    assert kept(notebook) == {"a": 0.5, "time at L = 4096": "x = y", "t": True, "b": [1, None]}
    recorded.keep(notebook, {"a": 0.51, "cut": {"a": 1}})
    assert kept(notebook) == {"a": 0.51, "cut": {"a": 1}}
    assert kept(nbformat.reads(nbformat.writes(notebook), as_version=4)) == {"a": 0.51, "cut": {"a": 1}}
    nbformat.validate(notebook)


# ---------------------------------------------------------------- the runner
CELL = "from vlmlab import report\nimport os\nvalue = float(open(os.environ['HOME_OF_TEST']).read())\n"
CELL += "report.record('value', value)\nreport.record('steps', steps)\nif value > 5:\n    report.record('large', True)"


@pytest.mark.timeout(600)  # five kernels start one after another
def test_a_run_fails_when_a_value_moved(write, tmp_path: Path, monkeypatch):
    dial = tmp_path / "dial"
    monkeypatch.setenv("HOME_OF_TEST", str(dial))
    folder = write("01_dial", CELL)

    def run(value: float, **options):
        dial.write_text(str(value))
        (outcome,) = notebooks.run(folder=folder, report=tmp_path / "report", budget=False, **options).outcomes
        return outcome

    assert run(6.0).passed  # nothing was kept yet
    first = run(7.0, update=True)
    assert first.passed
    assert kept(nbformat.read(folder / "01_dial.ipynb", as_version=4)) == first.results
    assert run(7.001).passed
    (far,) = run(7.1).problems
    assert far.startswith("recorded 'value': was 7, is 7.1;")
    assert len(run(3.0).problems) == 2  # moved, and "large" is gone
    assert run(3.0, settings={"steps": "4"}).passed  # other parameters, other values
    source_file = folder / "src" / "01_dial.py"
    source_file.write_text(source_file.read_text() + "\n# %%\n1 + 1\n")
    edited = run(3.0)
    assert edited.passed  # another notebook than the one whose values are kept
    assert edited.unpaired
