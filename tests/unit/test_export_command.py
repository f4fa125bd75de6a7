"""The command that exports the benchmark sets: the same bytes again, and the parts that all exporters share."""

import json
import sys
from collections import Counter
from importlib import import_module
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vlmlab.benchmarks import vqav2
from vlmlab.benchmarks.export import NAMES, __main__, export, people, sets, shipped
from vlmlab.benchmarks.export import pope as pope_export
from vlmlab.errors import BadInput, UnknownName
from vlmlab.files import read_json


@pytest.mark.parametrize("name", ["vqav2", "vizwiz", "pope", "vsr", "scienceqa"])
def test_building_again_gives_the_shipped_files(name):
    built = import_module(f"vlmlab.benchmarks.export.{name}").build()
    home = shipped.folder(name)
    for file, text in built.texts.items():
        assert (home / file).read_text(encoding="utf-8") == text, file
    stored = read_json(home / "scenes.json")
    assert stored["questions"] == json.loads(built.truth)["questions"]
    for path in list(built.pictures)[:2]:
        view = built.pictures[path]
        assert shipped.scenes(name if name != "pope" else "pope-random")[path] == view.scene
        again = np.array(Image.open(home / "images" / path)).astype(int)
        pixels = sets.encode(view.draw(view.scene), "." + path.rpartition(".")[2])
        assert pixels == sets.encode(view.draw(view.scene), "." + path.rpartition(".")[2])
        fresh = np.array(Image.open(BytesIO(pixels))).astype(int)
        assert abs(again - fresh).mean() < 0.5  # another processor may round a ray or a JPEG coefficient differently


def test_the_command_writes_the_same_bytes_twice_and_no_strange_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pope_export, "PICTURES", 3)
    export(["pope"], tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert len(before) == 3 + 3 + 1 + 1  # pictures, splits, scenes, README
    monkeypatch.setattr(sys, "argv", ["export", "pope", "--out", str(tmp_path)])
    __main__.main()
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert "| [pope](#pope) | 3 x 18 | 3 | 1 / 2 | 0.02 |" in (tmp_path / "README.md").read_text()
    (tmp_path / "pope" / "images" / "mine.png").write_bytes(b"a picture of mine")
    with pytest.raises(BadInput, match=r"images/mine\.png is not of this set"):
        export(["pope"], tmp_path)
    monkeypatch.setattr(sys, "argv", ["export", "popes"])
    with pytest.raises(SystemExit) as ended:
        __main__.main()
    assert ended.value.code == 2
    assert "did you mean 'pope'" in capsys.readouterr().err


def test_missing_and_damaged_sets_are_told(tmp_path, monkeypatch):
    with pytest.raises(UnknownName, match="unknown benchmark 'pope-rand'; did you mean 'pope-random'"):
        shipped.files("pope-rand")
    monkeypatch.setenv("VLMLAB_DATA", str(tmp_path))
    for name in shipped.SETS:
        with pytest.raises(BadInput, match=rf"python -m vlmlab\.benchmarks\.export {name.partition('-')[0]}$"):
            shipped.files(name)
    home = tmp_path / "benchmarks" / "vsr"
    (home / "images").mkdir(parents=True)
    (home / "test.jsonl").write_text("{}\n")
    for text, message in (("[]", "has no 'pictures'"), ("{", "is not valid JSON")):
        (home / "scenes.json").write_text(text)
        with pytest.raises(BadInput, match=message):
            shipped.scenes("vsr")


def test_the_readme_tells_of_every_set():
    text = shipped.folder("README.md").read_text(encoding="utf-8")
    for name in NAMES:
        assert f"\n## {name}\n" in text
        for path in shipped.folder(name).iterdir():
            assert f"| `{path.name}" in text
            if path.is_file():
                assert f"| `{path.name}` | {path.stat().st_size:,} |" in text


# What the exporters share


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@settings(deadline=None, max_examples=40)
@given(JSON, st.integers(0, 3))
def test_json_over_several_lines_is_the_same_json(value, depth):
    assert json.loads(sets.to_json(value, depth)) == value


CANDIDATES = st.lists(
    st.builds(
        sets.Candidate, st.sampled_from("gh"), st.sampled_from("abc"), st.booleans(), st.integers(0, 5), st.none()
    )
)


@settings(deadline=None)
@given(CANDIDATES, st.integers(1, 3), st.integers(1, 4))
def test_pairs_differ_in_answer_and_picture_only(candidates, quota, most):
    found = sets.pairs(candidates, quota, most)
    for a, b in found:
        assert (a.group, a.words) == (b.group, b.words)
        assert a.answer != b.answer
        assert a.picture != b.picture
    assert len({(a.group, a.words) for a, _ in found}) == len(found)
    assert all(count <= quota for count in Counter(a.group for a, _ in found).values())
    assert all(count <= most for count in Counter(each.picture for pair in found for each in pair).values())


ANSWERS = ["yes", "no", "0", "3", "8", "red", "purple", "cat", "sofa", "large", "shiny", "left", "towards the camera"]


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(ANSWERS), st.integers(0, 2**32))
def test_ten_people_agree_on_the_truth(answer, seed):
    rows = people.ten(np.random.default_rng(seed), answer, ("blue", "dog", answer))
    records = [{**row, "answer_id": number} for number, row in enumerate(rows, 1)]
    asked = [vqav2.Example(1, 1, "?", "what", "other", records)]
    assert len(rows) == 10
    assert {row["answer_confidence"] for row in rows} <= {"yes", "maybe", "no"}
    assert vqav2.score(asked, {1: answer})["accuracy"] == 1.0
    assert vqav2.score(asked, {1: "something else"})["accuracy"] == 0.0
    for wrong in people.refusals(np.random.default_rng(seed), ("red", "blue"))[:1]:
        assert wrong["answer"]
