"""`vlmlab new`: what it writes passes linters, tests and the strict runner as it is; nothing is overwritten."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from vlmlab import cli
from vlmlab.errors import BadInput
from vlmlab.notebooks import exercises, new, source

ROOT = Path(__file__).resolve().parents[2]
WRITTEN = ("notebooks/src/98_depth_cues.py", "vlmlab/checks/nb98.py", "tests/unit/test_checks_98.py")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package and of what its tests share, with a new chapter 98."""
    root = tmp_path_factory.mktemp("project")
    shutil.copytree(ROOT / "vlmlab", root / "vlmlab", ignore=shutil.ignore_patterns("__pycache__"))
    (root / "tests" / "unit").mkdir(parents=True)
    for name in ("pyproject.toml", "tests/conftest.py", "tests/unit/conftest.py", "tests/unit/exercises.py"):
        shutil.copy(ROOT / name, root / name)
    (root / "notebooks" / "src").mkdir(parents=True)
    assert new.write("98", "depth_cues", root) == [root / path for path in WRITTEN]
    return root


def call(project: Path, *arguments: str) -> subprocess.CompletedProcess:
    """`python -m ...` in the copy, whose package is the one that is imported."""
    environment = {
        **os.environ, "PYTHONPATH": str(project), "VLMLAB_DATA": str(ROOT / "data"), "PYTHONDONTWRITEBYTECODE": "1",
        "VLMLAB_NOTEBOOKS": str(project / "notebooks"),
    }  # fmt: skip
    return subprocess.run(
        [sys.executable, "-m", *arguments], cwd=project, env=environment, capture_output=True, text=True, timeout=280
    )


def test_it_is_what_linters_and_the_type_checker_accept(project):
    for arguments in (("ruff", "check", *WRITTEN), ("ruff", "format", "--check", *WRITTEN)):
        done = call(project, *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
    done = call(project, "mypy", "--follow-imports=silent", "-p", "vlmlab.checks.nb98")
    assert done.returncode == 0, done.stdout + done.stderr


def test_its_exercise_has_all_parts(project):
    _, (exercise,), _ = exercises.apart(source.read(source.find(["98"], project / "notebooks")[0]))
    assert [len(exercise.blocks(hint=side)) for side in (True, False)] == [1, 1]
    assert exercises.shares(exercise)


def test_it_runs_strictly_and_records(project):
    done = call(project, "vlmlab.cli", "run", "98", "--update")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed, 0 failed" in done.stdout
    assert "[not yet] covered returns nothing yet" in (project / "notebooks" / "98_depth_cues.ipynb").read_text()


def test_its_own_tests_pass(project):
    done = call(project, "pytest", "-q", "-p", "no:cacheprovider", WRITTEN[2])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "5 passed" in done.stdout


def test_nothing_is_overwritten(project, tmp_path):
    before = {path: (project / path).read_bytes() for path in WRITTEN}
    for name in ("depth_cues", "another"):
        with pytest.raises(BadInput, match=r"98_depth_cues\.py exists"):
            new.write("98", name, project)
    (tmp_path / "vlmlab" / "checks").mkdir(parents=True)
    (tmp_path / "vlmlab" / "checks" / "nb07.py").write_text("mine")
    with pytest.raises(BadInput, match=r"nb07\.py exists"):
        new.write("07", "other", tmp_path)
    assert [path.name for path in tmp_path.rglob("*.py")] == ["nb07.py"]
    assert before == {path: (project / path).read_bytes() for path in WRITTEN}


@pytest.mark.parametrize(
    ("number", "name"), [("7", "a"), ("107", "a"), ("x1", "a"), ("98", "Depth"), ("98", "a-b"), ("98", "../a"), ("98", "a_")]
)  # fmt: skip
def test_a_malformed_number_or_name_is_refused(number, name, tmp_path):
    with pytest.raises(BadInput, match="as in"):
        new.write(number, name, tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_command_says_what_it_wrote(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("VLMLAB_NOTEBOOKS", str(tmp_path / "notebooks"))
    assert cli.main(["new", "98", "depth_cues"]) == 0
    said = capfd.readouterr().out.splitlines()
    assert said[:3] == [f"wrote {path}" for path in WRITTEN]
    assert said[3].startswith("then: vlmlab run 98")
    assert cli.main(["new", "98", "depth_cues"]) == 2
    assert "exists" in capfd.readouterr().err
