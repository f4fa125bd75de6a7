"""`vlmlab explain` and `faithfulness`: what they print and write, and what they refuse. Notebook 14."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from explain_models import llava
from PIL import Image
from scan_models import cobra, picture

import vlmlab
from vlmlab import cli
from vlmlab.explain import Inside
from vlmlab.explain.attribution import at_word
from vlmlab.explain.methods import METHODS, Entry

QUESTION = "Where is the cat?"


def call(capfd, *arguments: str) -> tuple[int, str, str]:
    code = cli.main(list(arguments))
    out, err = capfd.readouterr()
    return code, out, err


def refused(capfd, *arguments: str) -> str:
    code, out, err = call(capfd, *arguments)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1, err
    return err


@pytest.fixture
def shown(monkeypatch, tmp_path):
    """A small model that always says the same, and a picture's file."""
    models = {"llava-tiny": llava(layers=1), "cobra-tiny": cobra(layers=1)}
    for vlm in models.values():
        vlm.generate = lambda image, prompt, **_: "It is left of it."
    monkeypatch.setattr(vlmlab, "load", lambda name, device="auto": models[name])
    Image.fromarray(picture()).save(tmp_path / "picture.png")
    return models, str(tmp_path / "picture.png")


def test_the_answer_and_its_map(capfd, shown) -> None:
    models, file = shown
    code, out, err = call(capfd, "explain", QUESTION, "--image", file)
    assert (code, err) == (0, "")
    first, words, title, columns, *rows = out.splitlines()
    assert first == "It is left of it."
    assert words.startswith("words: 0 It  1 is  2 left")
    assert title == "occlusion, what the answer loses without a patch: all words"
    assert columns.split() == list("ABCD")
    wanted = METHODS["occlusion"](Inside.ask(models["llava-tiny"], file, QUESTION, "It is left of it."))
    for number, (row, line) in enumerate(zip(wanted.tolist(), rows, strict=True), 1):
        label, *numbers = line.split()
        assert label == str(number)
        assert [float(value) for value in numbers] == pytest.approx(row, rel=0.06)


@pytest.mark.parametrize(("model", "method", "word"), [("llava-tiny", "chefer", None), ("cobra-tiny", "mamba_lrp", 2)])
def test_json(capfd, shown, model, method, word) -> None:
    models, file = shown
    chosen = [] if word is None else ["--word", str(word)]
    code, out, _ = call(
        capfd, "explain", QUESTION, "-i", file, "-m", model, "--method", method, "--json", *chosen
    )  # fmt: skip
    found = json.loads(out)
    inside = Inside.ask(models[model], file, QUESTION, "It is left of it.")
    asked = inside if word is None else at_word(inside, word)
    assert code == 0
    assert found["words"] == inside.texts[inside.words]
    assert found["map"] == METHODS[method](asked).tolist()
    assert found["log_probability"] == pytest.approx(float(asked.log_probs().sum()))
    assert {key: found[key] for key in ("model", "question", "answer", "method", "word")} == {
        "model": model, "question": QUESTION, "answer": inside.answer, "method": method, "word": word
    }  # fmt: skip


def test_the_map_over_the_picture(capfd, shown, tmp_path, monkeypatch) -> None:
    _, file = shown
    wide = np.zeros((40, 90, 3), np.uint8)
    Image.fromarray(wide).save(tmp_path / "wide.png")
    for source in (file, str(tmp_path / "wide.png")):
        out = tmp_path / "heat.png"
        code, _, err = call(capfd, "explain", QUESTION, "--image", source, "--method", "centre", "--out", str(out))
        assert code == 0
        assert err.startswith(f"wrote {out}: ")
        with Image.open(io.BytesIO(out.read_bytes())) as drawn:
            assert drawn.format == "PNG"
            assert np.asarray(drawn.convert("L")).std() > 5
    assert [path.name for path in tmp_path.glob("*heat*")] == ["heat.png"]  # nothing temporary is left


def test_a_word_alone(capfd, shown) -> None:
    _, file = shown
    _, out, _ = call(capfd, "explain", QUESTION, "--image", file, "--word", "-1", "--method", "attention")
    assert out.splitlines()[2].endswith(": word -1, '.'")


def test_mistakes_of_explain(capfd, shown, tmp_path) -> None:
    _, file = shown
    ask = ["explain", QUESTION, "--image", file]
    assert "the question is empty" in refused(capfd, "explain", " ", "--image", file)
    assert "missing option '--image'" in refused(capfd, "explain", QUESTION)
    assert "no such image: nothing.png" in refused(capfd, "explain", QUESTION, "--image", "nothing.png")
    assert "did you mean 'occlusion'" in refused(capfd, *ask, "--method", "oclusion")
    assert "unknown method for llava-tiny 'mamba_lrp'" in refused(capfd, *ask, "--method", "mamba_lrp")
    assert "unknown method for cobra-tiny 'attention'" in refused(
        capfd, *ask, "-m", "cobra-tiny", "--method", "attention"
    )
    assert "has the words 0 to" in refused(capfd, *ask, "--word", "99")
    assert "ends in .png" in refused(capfd, *ask, "--out", str(tmp_path / "heat.jpg"))
    (tmp_path / "folder.png").mkdir()
    assert "ends in .png" in refused(capfd, *ask, "--out", str(tmp_path / "folder.png"))


def test_faithfulness(capfd, shown, monkeypatch, tmp_path) -> None:
    code, out, _ = call(
        capfd, "faithfulness", "--limit", "2", "--seed", "3", "--methods", "delta, token_ablation", "-m", "cobra-tiny",
        "--json",
    )  # fmt: skip
    found = json.loads(out)
    assert code == 0
    assert [row["method"] for row in found["rows"]] == ["delta", "token_ablation", "random", "centre"]
    assert (found["seed"], found["n"], found["model"]) == (3, 2, "cobra-tiny")
    assert {one["seed"] for one in found["each"]} == {3_000_000, 3_000_001}
    quick = {name: METHODS[name] for name in ("random", "centre")}
    quick["even, and named at length"] = Entry(lambda inside: torch.ones(inside.grid), "even")
    monkeypatch.setattr("vlmlab.explain.methods.METHODS", quick)
    monkeypatch.setenv("VLMLAB_DATA", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "80")
    code, out, err = call(capfd, "faithfulness", "--limit", "2", "--save")
    assert (code, err) == (0, "wrote data/explain/faithfulness-llava-tiny.json\n")
    kept = json.loads((tmp_path / "explain" / "faithfulness-llava-tiny.json").read_text())
    assert kept["command"] == "vlmlab faithfulness --model llava-tiny --limit 2 --seed 0 --save"
    assert (kept["seed"], kept["n"]) == (0, 2)
    for row in kept["rows"]:
        assert row["method"] in out
        assert f"{row['deletion']['mean']:.2f}" in out


def test_mistakes_of_faithfulness(capfd, shown) -> None:
    assert "leave --methods out" in refused(capfd, "faithfulness", "--save", "--methods", "occlusion")
    assert "unknown method for llava-tiny 'delta'" in refused(capfd, "faithfulness", "--methods", "occlusion,delta")
    assert "greater than or equal to 2" in refused(capfd, "faithfulness", "--limit", "1")


def test_help_names_both(capfd) -> None:
    _, out, _ = call(capfd, "--help")
    assert "explain" in out
    assert "faithfulness" in out


def test_a_model_with_a_picture_of_another_shape_is_asked_about_its_square(shown, tmp_path) -> None:
    models, _ = shown
    Image.fromarray(np.zeros((40, 90, 3), np.uint8)).save(tmp_path / "wide.png")
    inside = Inside.ask(models["llava-tiny"], tmp_path / "wide.png", QUESTION, "left")
    assert METHODS["occlusion"](replace(inside, pixels=inside.pixels.double())).shape == (4, 4)
