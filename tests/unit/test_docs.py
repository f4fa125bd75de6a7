"""The pages for newcomers and teachers say what is so: commands print it, notebooks state it, files are there."""

import json
import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from documents import ROOT, bad_badges, commands, fenced, lost, refused

from vlmlab import cli
from vlmlab.notebooks import source

DOCS = sorted((ROOT / "docs").glob("*.md"))
HOUR = (ROOT / "docs" / "first_hour.md").read_text(encoding="utf-8")
TEACHING = (ROOT / "docs" / "teaching.md").read_text(encoding="utf-8")
CHAPTERS = source.available()
COST = (
    r"\*\*Time\*\* (.+?) of computing on (?:2 CPU cores|one CPU core)(?: \(.*?\))?, (.+?) of memory; "
    r"(.+?) of (?:reading|hunting) and exercises"
)


# ---------------------------------------------------------------- all pages
@pytest.mark.parametrize("page", [*DOCS, ROOT / "CONTRIBUTING.md"], ids=lambda path: path.stem)
def test_links_lead_somewhere_and_commands_exist(page):
    text = page.read_text(encoding="utf-8")
    assert lost(text, page.parent) == []
    assert bad_badges(text, None, []) == []
    if "benchmark" in page.stem:  # its commands know a benchmark that the page adds; test_extending runs them
        return
    assert [refused(arguments) for arguments in commands(text) if refused(arguments)] == []


def test_every_page_on_extending_is_named_in_contributing():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for page in DOCS:
        if page.stem.startswith("adding_"):
            assert f"(docs/{page.name})" in text


# ---------------------------------------------------------------- the first hour
def said() -> list[tuple[str, list[str]]]:
    """Each command of the consoles and the lines that it prints."""
    found: list[tuple[str, list[str]]] = []
    for line in "\n".join(fenced(HOUR, "console")).splitlines():
        if line.startswith("$ "):
            found.append((line[2:], []))
        elif line:
            found[-1][1].append(line)
    return found


def test_the_commands_print_what_the_page_says(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    asked = [(line, printed) for line, printed in said() if line.startswith("vlmlab ")]
    assert len(asked) >= 6
    for line, printed in asked:
        ((arguments),) = commands(f"```console\n$ {line}\n```")
        assert cli.main(arguments) == 0
        out, err = capfd.readouterr()
        lines = [text.rstrip() for text in (out + err).splitlines()]
        if "..." in printed:
            cut = printed.index("...")
            lines = [*lines[:cut], "...", *lines[cut - len(printed) + 1 :]]
        assert lines == printed, line
    assert (tmp_path / "map.png").is_file()


def test_the_page_tells_right_from_wrong():
    from vlmlab.scenes import sample

    assert [(item.colour, item.kind) for item in sample(8).objects] == [("green", "car"), ("red", "box")]
    answers = {line: printed[-1] for line, printed in said() if printed}
    assert answers['vlmlab ask --image scene.png "Is there a green box?"'].endswith("yes.")  # wrong, as it says
    assert answers['vlmlab ask --image scene.png "Is there a blue box?"'].endswith("no.")


def test_make_knows_the_targets():
    targets = re.findall(r"^\$ make (\w+)|`make (\w+)", HOUR, re.MULTILINE)
    make = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert all(f"\n{''.join(target)}:" in make for target in targets)
    assert {"setup", "doctor", "lab"} <= {"".join(target) for target in targets}


# ---------------------------------------------------------------- teaching
def stated(chapter) -> str:
    """A chapter's cost as its notebook states it, as the cells of a row."""
    text = re.sub(r"\n# ?", " ", chapter.path.read_text(encoding="utf-8"))
    found = re.search(COST, text)
    assert found, f"{chapter.name} does not state what it takes: **Time** ... of computing on 2 CPU cores, ..."
    return " | ".join(found.groups())


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda chapter: chapter.name)
def test_a_chapters_cost_is_what_its_notebook_states(chapter):
    rows = re.findall(rf"^\| {chapter.name[:2]} [^|]+ \| (.*) \|$", TEACHING, re.MULTILINE)
    assert rows == [stated(chapter)], "docs/teaching.md says something else"


def table(title: str) -> list[list[str]]:
    """The rows of the first table under a heading."""
    part = TEACHING.split(f"## {title}\n")[1].split("\n## ")[0]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in part.splitlines() if line.startswith("| ")][1:]


def test_eight_weeks_hold_every_chapter_once_and_its_hours():
    weeks = table("Eight weeks")
    assert len(weeks) == 8
    assert [number for row in weeks for number in row[1].split(", ")] == [f"{i:02d}" for i in range(18)]
    hours = {chapter.name[:2]: span(stated(chapter).split(" | ")[2]) for chapter in CHAPTERS}
    for _, chapters, told, _ in weeks:
        known = [hours[number] for number in chapters.split(", ") if number in hours]
        if len(known) < len(chapters.split(", ")):  # a chapter of that week is still to be written
            continue
        low, high = (f"{sum(ends):.1f}" for ends in zip(*known, strict=True))
        assert told.startswith(f"{low} to {high}"), (chapters, low, high)


def span(text: str) -> tuple[float, float]:
    """Hours of "60 to 90 minutes", "2 to 3 hours" or "90 minutes"."""
    numbers = [float(number) for number in re.findall(r"\d+", text)]
    scale = 1 if "hour" in text else 60
    return numbers[0] / scale, numbers[-1] / scale


def test_three_days_and_goals_name_chapters_of_the_plan():
    plan = {f"{i:02d}" for i in range(18)}
    days, goals = table("Three days"), table("Learning goals")
    assert len(days) == 3
    for row in days + goals:
        assert set(row[1].split(", ")) <= plan
    assert {number for row in goals for number in row[1].split(", ")} == plan


def test_what_is_handed_in_is_an_exercise():
    named = re.findall(r"\b(\d\d) exercises? (\d)(?: to (\d))?", TEACHING)
    assert len(named) >= 8
    numbers = {
        chapter.name[:2]: set(re.findall(r"### Exercise (\d+) ·", chapter.path.read_text(encoding="utf-8")))
        for chapter in CHAPTERS
    }
    assert {chapter for chapter, *_ in named} <= {f"{i:02d}" for i in range(18)}
    assert all(set(exercises) - {""} <= numbers.get(chapter, {*exercises}) for chapter, *exercises in named)


# ---------------------------------------------------------------- machines of others
def test_the_dev_container_sets_up_as_the_makefile_does():
    container = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text(encoding="utf-8"))
    assert container["postCreateCommand"].startswith("make setup PIP_ARGS=")
    assert "python:3.11-" in container["image"]
    interpreter = container["customizations"]["vscode"]["settings"]["python.defaultInterpreterPath"]
    assert interpreter.endswith("/.venv/bin/python")


def test_binder_installs_what_the_makefile_does():
    folder = ROOT / "binder"
    lines = (folder / "requirements.txt").read_text(encoding="utf-8").splitlines()
    for line in lines:
        if line.startswith(("-r ", "-c ")):
            assert (folder / line[3:]).is_file(), line
    assert "-c ../requirements/lock.txt" in lines
    assert "--extra-index-url https://download.pytorch.org/whl/cpu" in lines
    assert (folder / "runtime.txt").read_text(encoding="utf-8").strip() == "python-3.11"
    build = folder / "postBuild"
    assert os.access(build, os.X_OK)
    assert subprocess.run(["bash", "-n", build]).returncode == 0
    make = (ROOT / "Makefile").read_text(encoding="utf-8")
    for part in ("--no-deps", "-e .", "from vlmlab.scan import cpu; cpu.compile_ahead()"):
        assert part in build.read_text(encoding="utf-8")
        assert part in make


def test_colabs_cell_names_extras_that_there_are():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (extras,) = re.findall(r'%pip install -q -e "\.\[(.*)\]"', HOUR)
    assert set(extras.split(",")) <= set(project["optional-dependencies"])
    assert Path("vlmlab/notebooks").name == source.notebooks_dir().name
