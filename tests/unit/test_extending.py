"""The pages on extending the package, followed as they are written: their code runs, and what it adds can be used."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vlmlab.errors import UnknownName
from vlmlab.scenes import sample
from vlmlab.vlm import get_preset, presets, projectors
from vlmlab.vlm.templates import IMAGE

ROOT = Path(__file__).resolve().parents[2]
TABLES = (projectors.PROJECTORS, presets.VISION, presets.LANGUAGE)


def blocks(page: str) -> list[tuple[str, str, str]]:
    """(language, file or "", text) of each code block of a page."""
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    return re.findall(r"^```(\w+)(?: file=(\S+))?\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@pytest.fixture
def follow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], dict[str, Any]]]:
    """follow(page): the names that the page's Python defines, run in a folder of its own; the tables are put back."""
    monkeypatch.chdir(tmp_path)
    kept = [dict(table) for table in TABLES]

    def run(page: str) -> dict[str, Any]:
        found: dict[str, Any] = {"__name__": page}
        for language, file, text in blocks(page):
            if language == "python" and not file:
                exec(compile(text, f"docs/{page}.md", "exec"), found)
        return found

    yield run
    for table, before in zip(TABLES, kept, strict=True):
        table.clear()
        table.update(before)


def test_a_projector(follow, tmp_path):
    (tmp_path / "pictures").mkdir()
    records = []
    for seed in range(4):
        Image.fromarray(sample(seed).render(96).rgb).save(tmp_path / "pictures" / f"{seed}.png")
        turns = [{"from": "human", "value": f"{IMAGE}\nHow many objects?"}, {"from": "gpt", "value": "three"}]
        records.append({"id": str(seed), "image": f"{seed}.png", "conversations": turns})
    (tmp_path / "data.json").write_text(json.dumps(records))
    found = follow("adding_a_projector")
    assert found["again"].config.projector == "gated"
    assert isinstance(found["again"].generate(found["picture"], "Is there a cat?", max_new_tokens=4), str)


def test_an_encoder(follow):
    found = follow("adding_an_encoder")
    assert found["again"].score_options(found["picture"], "Is there a cat?", ["yes", "no"]).keys() == {"yes", "no"}


def test_a_language_model(follow):
    found = follow("adding_a_language_model")
    pieces = list(found["again"].stream(found["picture"], "Is there a cat?", max_new_tokens=4))
    assert "".join(pieces) == found["vlm"].generate(found["picture"], "Is there a cat?", max_new_tokens=4)


def test_a_widget(follow):
    found = follow("adding_a_widget")
    found["walk"].vlm = type("Faulty", (), {"generate": lambda *_: 1 / 0})()
    found["view"].side.value = 15.0
    with pytest.raises(ZeroDivisionError):  # a fault of one's own is not only shown
        found["view"].snapshot()


def test_the_tables_are_as_they_were():
    for name in ("conv", "leaky"):
        assert name not in presets.VISION | presets.LANGUAGE
    with pytest.raises(UnknownName):
        projectors.build_projector("gated", 8, 8)
    assert get_preset("llava-tiny").projector == "mlp2x_gelu"


def test_a_benchmark(tmp_path):
    """Its page changes files of the package: a copy of it."""
    shutil.copytree(ROOT / "vlmlab", tmp_path / "vlmlab", ignore=shutil.ignore_patterns("__pycache__"))
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "VLMLAB_DATA": str(ROOT / "data"), "NO_COLOR": "1"}
    said = []
    for language, file, text in blocks("adding_a_benchmark"):
        target = tmp_path / file
        if language == "diff":
            old, new = (line[1:] for line in text.splitlines())
            assert target.read_text().count(old) == 1, f"{file} has no longer one {old}"
            target.write_text(target.read_text().replace(old, new))
        elif file:
            target.write_text(text)
        elif language == "python":
            subprocess.run([sys.executable, "-c", text], cwd=tmp_path, env=environment, check=True)
        else:
            for line in text.splitlines():
                command = [sys.executable, "-m", *line.replace("vlmlab", "vlmlab.cli", 1).split()]
                done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
                assert done.returncode == 0, done.stderr
                said.append(json.loads(done.stdout))
    oracle, asked, scored = said
    assert oracle["accuracy"] == 1.0
    assert asked["n"] == oracle["n"] == 4
    assert 0 < asked["chance"] <= 1
    assert asked["score"] == scored
    assert (tmp_path / "vlmlab" / "benchmarks" / "colours.py").is_file()


def test_the_pages_code_is_in_the_house_style(tmp_path):
    for page in sorted(path.stem for path in (ROOT / "docs").glob("adding_*.md")):
        for number, (language, _, text) in enumerate(blocks(page)):
            if language == "python":
                (tmp_path / f"{page}_{number}.py").write_text(text)
    ruff = [sys.executable, "-m", "ruff", "--config", str(ROOT / "pyproject.toml")]
    # a block is a cell: names come from earlier ones, and it may end in the expression to show
    for tool in (("check", "--extend-ignore", "F821,B018"), ("format", "--check")):
        done = subprocess.run([*ruff, *tool, "."], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout
