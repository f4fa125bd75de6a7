"""The whole chain of recipes at toy size: every stage trains what it says, nothing else, and can be resumed."""

import pytest
import torch

from vlmlab.errors import BadInput, UnknownName
from vlmlab.files import read_tensors
from vlmlab.vlm import recipes
from vlmlab.vlm.training_log import read_metrics
from vlmlab.weights import load

SMALL = {"scenes": 24, "checks": 8, "batch": 4}
CHAIN = ("tokenizer", "clip-tiny", "language-tiny", "llava-tiny-stage1", "llava-tiny")
COBRA = ("siglip-tiny", "dinov2-tiny", "language-mamba-tiny", "cobra-tiny", "cobra-tiny-ldp")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLMLAB_WORK", str(folder))
        for name in (*CHAIN, *COBRA):
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


def test_cobra_joins_both_encoders_and_skips_the_alignment(runs):
    final = load(runs / "cobra-tiny" / "model.safetensors", "cpu")
    for name in ("siglip", "dinov2"):
        trained, _ = read_tensors(recipes.finished(f"{name}-tiny"))
        for key, value in getattr(final.vision, name).state_dict().items():
            assert torch.equal(value, trained[f"vision.{key}"]), key
    trained, _ = read_tensors(recipes.finished("cobra-tiny"))
    assert {name.split(".")[0] for name in trained} == {"projector", "language"}
    assert isinstance(final.generate(None, "Is there a cat?", max_new_tokens=3), str)


def test_dinov2_leaves_the_teacher_and_a_probe(runs):
    weights, _ = read_tensors(recipes.finished("dinov2-tiny"))
    last = sorted((runs / "dinov2-tiny" / "run" / "checkpoints").iterdir())[-1]
    state, _ = read_tensors(last / "weights.safetensors")
    for name, value in weights.items():
        assert torch.equal(value, state[f"teacher.{name}"])
        assert not torch.equal(value, state[f"student.{name}"]) or "norm" in name or "bias" in name or "ls" in name
    told = [line for line in read_metrics(runs / "dinov2-tiny" / "run") if "eval/colour" in line]
    assert told


def test_pooled_tokens_take_a_quarter_of_the_row(runs):
    final = load(runs / "cobra-tiny-ldp" / "model.safetensors", "cpu")
    assert final.encode_images(torch.zeros(1, 3, 96, 96)).shape == (1, 16, 192)


def test_a_finished_run_is_not_overwritten_by_accident():
    with pytest.raises(BadInput, match="resume"):
        recipes.run("llava-tiny-stage1", steps=3, evaluate_every=3, precision="fp32", **SMALL)


def test_unknown_recipes_and_fields_are_refused():
    with pytest.raises(UnknownName, match="recipe"):
        recipes.run("llava-tinny")
    with pytest.raises(UnknownName, match="parameter 'step'"):
        recipes.run("llava-tiny", step=3)
