"""The whole chain of recipes at toy size: every stage trains what it says, nothing else, and can be resumed."""

import pytest
import torch

from vlmlab.errors import BadInput, UnknownName
from vlmlab.files import read_tensors
from vlmlab.vlm import recipes
from vlmlab.weights import load

SMALL = {"scenes": 24, "checks": 8, "batch": 4}
CHAIN = ("tokenizer", "clip-tiny", "language-tiny", "llava-tiny-stage1", "llava-tiny")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLMLAB_WORK", str(folder))
        for name in CHAIN:
            if name == "tokenizer":
                recipes.run(name, scenes=60)
            else:
                recipes.run(name, steps=3, evaluate_every=3, precision="fp32", **SMALL)
        yield folder


@pytest.fixture(autouse=True)
def work(runs, monkeypatch):
    monkeypatch.setenv("VLMLAB_WORK", str(runs))


def test_the_chain_ends_with_a_model_that_answers(runs):
    vlm = load(runs / "llava-tiny" / "model.safetensors", "cpu")
    assert isinstance(vlm.generate(None, "Is there a cat?", max_new_tokens=3), str)


def test_stage_1_trains_the_projector_alone(runs):
    trained, _ = read_tensors(recipes.finished("llava-tiny-stage1"))
    assert trained
    assert all(name.startswith("projector.") for name in trained)
    language, _ = read_tensors(recipes.finished("language-tiny"))
    after = load(runs / "llava-tiny-stage1" / "model.safetensors", "cpu").language.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in language.items())


def test_stage_2_trains_projector_and_language_model_and_leaves_the_encoder(runs):
    trained, _ = read_tensors(recipes.finished("llava-tiny"))
    assert {name.split(".")[0] for name in trained} == {"projector", "language"}
    encoder, _ = read_tensors(recipes.finished("clip-tiny"))
    final = load(runs / "llava-tiny" / "model.safetensors", "cpu")
    for name, value in final.vision.state_dict().items():
        assert torch.equal(value, encoder["vision." + name]), name
    start, _ = read_tensors(recipes.finished("llava-tiny-stage1"))
    assert any(not torch.equal(value, trained[name]) for name, value in start.items())


def test_a_finished_run_is_not_overwritten_by_accident():
    with pytest.raises(BadInput, match="resume"):
        recipes.run("llava-tiny-stage1", steps=3, evaluate_every=3, precision="fp32", **SMALL)


def test_unknown_recipes_and_fields_are_refused():
    with pytest.raises(UnknownName, match="recipe"):
        recipes.run("llava-tinny")
    with pytest.raises(UnknownName, match="parameter 'step'"):
        recipes.run("llava-tiny", step=3)
