"""The dataset builder: killed and resumed, it leaves the bytes of an undisturbed run."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from vlmlab.errors import BadInput
from vlmlab.files import read_json
from vlmlab.scenes import sample
from vlmlab.scenes.dataset import SceneDataset, build

COUNT = 200
CODE = f"""
import sys
from vlmlab.scenes.dataset import build
build(sys.argv[1], {COUNT}, size=32, workers=1, progress=False)
"""


def digest(folder: Path) -> str:
    total = hashlib.sha256()
    for name in ("rgb.npy", "mask.npy", "scenes.jsonl"):
        total.update((folder / name).read_bytes())
    return total.hexdigest()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    build(folder, COUNT, size=32, workers=2, progress=False)
    return folder


def test_what_is_built_is_what_is_rendered(whole):
    data = SceneDataset(whole)
    assert len(data) == COUNT
    for index in (0, 64, 199):
        scene = sample(index)
        assert data.scenes[index] == scene
        assert np.array_equal(data.rgb[index], scene.render(32).rgb)
        assert np.array_equal(data.mask[index], scene.render(32).mask)


def test_killed_and_resumed_gives_the_same_bytes(whole, tmp_path):
    folder = tmp_path / "killed"
    process = subprocess.Popen([sys.executable, "-c", CODE, str(folder)])
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if (folder / "progress.json").exists() and read_json(folder / "progress.json")["done"] > 0:
            break
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    done = read_json(folder / "progress.json")["done"]
    assert 0 < done < COUNT
    with pytest.raises(BadInput, match=f"holds {done} of {COUNT}"):
        SceneDataset(folder)
    (folder / "scenes.jsonl").open("a").write('{"half a li')  # what a kill in the middle of a write leaves
    build(folder, COUNT, size=32, workers=1, progress=False)
    assert digest(folder) == digest(whole)


def test_a_finished_dataset_is_left_alone(whole):
    before = (whole / "rgb.npy").stat().st_mtime_ns
    build(whole, COUNT, size=32, progress=False)
    assert (whole / "rgb.npy").stat().st_mtime_ns == before


def test_other_settings_are_refused(whole):
    with pytest.raises(BadInput, match="other settings"):
        build(whole, COUNT, size=64, progress=False)
    with pytest.raises(BadInput, match="no such file"):
        SceneDataset(whole / "nowhere")


def test_scenes_are_read_anew_and_cut_like_a_list(whole):
    scenes = SceneDataset(whole).scenes
    assert len(scenes) == COUNT
    assert scenes[-1] == scenes[COUNT - 1]
    assert scenes[-1] is not scenes[-1]  # none is kept
    assert scenes[1:3] == [scenes[1], scenes[2]]
    assert list(scenes) == scenes[:]
    with pytest.raises(IndexError):
        scenes[COUNT]
