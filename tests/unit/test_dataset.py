"""The dataset builder: the same bytes from the same seed, also after SIGKILL; other settings are refused."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from vlmlab.errors import BadInput
from vlmlab.scenes import Scene, sample
from vlmlab.scenes.dataset import CHUNK, SceneDataset, build

FILES = ("rgb.npy", "mask.npy", "scenes.jsonl", "meta.json", "progress.json")
SETTINGS = {"count": 4 * CHUNK + 10, "size": 12, "objects": 1, "first_seed": 7}
BUILDER = """
import sys
from vlmlab.scenes.dataset import build
build(sys.argv[1], workers=1, progress=False, **{settings})
"""


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in FILES}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    build(folder, workers=1, progress=False, **SETTINGS)
    return folder


def test_pictures_and_facts_agree_with_the_seeds(built: Path) -> None:
    data = SceneDataset(built)
    assert len(data) == SETTINGS["count"] == len(data.scenes)
    assert isinstance(data.rgb, np.memmap)
    assert data.rgb.shape == (len(data), 12, 12, 3)
    for i in (0, CHUNK, len(data) - 1):
        scene = sample(7 + i, objects=1)
        assert data.scenes[i] == scene
        r = scene.render(12)
        assert (data.rgb[i] == r.rgb).all()
        assert (data.mask[i] == r.mask).all()


def test_killed_at_any_moment_and_resumed_gives_the_same_bytes(built: Path, tmp_path: Path) -> None:
    folder = tmp_path / "killed"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", BUILDER.format(settings=SETTINGS), str(folder)]
    running = subprocess.Popen(command, env=environment)
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and running.poll() is None:
        try:
            done = json.loads((folder / "progress.json").read_text())["done"]
        except (OSError, ValueError):
            done = 0
        if done >= CHUNK:
            break
        time.sleep(0.002)
    running.send_signal(signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL, "the builder ended before it could be killed"
    with pytest.raises(BadInput, match="build it again to finish it"):
        SceneDataset(folder)
    with open(folder / "scenes.jsonl", "ab") as file:
        file.write(b'{"half a line')  # what a kill between two writes leaves behind
    build(folder, workers=1, progress=False, **SETTINGS)
    assert contents(folder) == contents(built)


def test_two_processes_make_the_same_bytes(built: Path, tmp_path: Path) -> None:
    build(tmp_path, workers=2, progress=False, **SETTINGS)
    assert contents(tmp_path) == contents(built)


def test_a_finished_dataset_is_not_built_again(built: Path) -> None:
    before = {name: (built / name).stat().st_mtime_ns for name in FILES}
    build(built, workers=1, progress=False, **SETTINGS)
    assert {name: (built / name).stat().st_mtime_ns for name in FILES} == before


@pytest.mark.parametrize(
    "change", [{"count": 5}, {"size": 16}, {"objects": 2}, {"first_seed": 8}, {"split": "val"}, {"kinds": ("cat",)}]
)
def test_other_settings_are_refused(built: Path, change: dict) -> None:
    before = contents(built)
    with pytest.raises(BadInput, match="other settings"):
        build(built, workers=1, progress=False, **{**SETTINGS, **change})
    assert contents(built) == before


def test_constraints_of_tuples_survive_the_folder(tmp_path: Path) -> None:
    data = build(tmp_path, 3, size=8, workers=1, progress=False, objects=(1, 2), kinds=("ball", "mug"))
    assert {o.kind for scene in data.scenes for o in scene.objects} <= {"ball", "mug"}
    assert all(isinstance(scene, Scene) for scene in data.scenes)


def test_a_progress_bar_does_not_disturb(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    build(tmp_path, 2, size=8, workers=1, objects=1)
    assert capsys.readouterr().err == ""


def test_a_folder_without_a_dataset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no such file"):
        SceneDataset(tmp_path)
