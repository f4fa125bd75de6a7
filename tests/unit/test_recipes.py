"""The whole chain of recipes at toy size: every stage trains what it says, nothing else, and can be resumed."""

from types import SimpleNamespace
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch

from vlmlab.errors import BadInput, UnknownName
from vlmlab.files import read_tensors
from vlmlab.vision import MambaVision
from vlmlab.vlm import recipes
from vlmlab.vlm.model import VLM
from vlmlab.vlm.recipes import common
from vlmlab.vlm.training_log import read_metrics
from vlmlab.weights import load

SMALL = {"scenes": 12, "checks": 8, "batch": 2}
CHAIN = ("tokenizer", "clip-tiny", "language-tiny", "llava-tiny-stage1", "llava-tiny")
COBRA = ("siglip-tiny", "dinov2-tiny", "language-mamba-tiny", "cobra-tiny", "cobra-tiny-ldp")
SWAPPED = "cobra-mambavision-tiny"
SWAPS = ("mambavision-tiny", f"{SWAPPED}-projector", f"{SWAPPED}-both", SWAPPED, f"{SWAPPED}-everything")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLMLAB_WORK", str(folder))
        for name in (*CHAIN, *COBRA, *SWAPS):
            if name == "tokenizer":
                recipes.run(name, scenes=60)
            else:
                recipes.run(name, steps=2, evaluate_every=2, precision="fp32", **SMALL)
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


def test_mambavision_leaves_its_encoder_whole_without_the_head(runs):
    weights, _ = read_tensors(recipes.finished("mambavision-tiny"))
    with torch.device("meta"):
        wanted = MambaVision.from_variant("tiny", num_classes=0).state_dict()
    assert set(weights) == {f"vision.{name}" for name in wanted}
    assert int(weights["vision.norm.num_batches_tracked"]) == 2
    (told,) = (line for line in read_metrics(runs / "mambavision-tiny" / "run") if "eval/f1" in line)
    assert "eval/probe/colour" in told


def test_the_swap_trains_what_it_says_and_the_backbone_does_not_move_by_a_bit(runs):
    backbone = load(runs / "cobra-tiny" / "model.safetensors", "cpu").language.state_dict()
    encoder, _ = read_tensors(recipes.finished("mambavision-tiny"))
    for name, parts in (
        (f"{SWAPPED}-projector", {"projector"}),
        (f"{SWAPPED}-both", {"projector"}),
        (SWAPPED, {"projector", "vision"}),
        (f"{SWAPPED}-everything", {"projector", "vision", "language"}),
    ):
        trained, _ = read_tensors(recipes.finished(name))
        assert {key.split(".")[0] for key in trained} == parts, name
        final = load(runs / name / "model.safetensors", "cpu")
        same = {key: torch.equal(value, backbone[key]) for key, value in final.language.state_dict().items()}
        assert all(same.values()) == ("language" not in parts), name
        same = {key: torch.equal(value, encoder[f"vision.{key}"]) for key, value in final.vision.state_dict().items()}
        assert all(same.values()) == ("vision" not in parts), name
        if "vision" in parts:
            assert not same["levels.2.blocks.0.mixer.in_proj.weight"]
            assert not same["levels.0.blocks.0.norm1.running_mean"]
        again = VLM.from_preset(recipes.RECIPES[name].preset, "cpu", recipes.tokenizer())
        recipes.fill_from_runs(again, (*recipes.RECIPES[name].needs, name), recipes.RECIPES[name].backbone)
        wanted = final.state_dict()
        assert all(torch.equal(value, wanted[key]) for key, value in again.state_dict().items()), name


def test_features_of_other_levels_are_kept_apart(runs):
    shapes = {np.load(file, mmap_mode="r").shape[1:] for file in (runs / "cache").glob("features-*-scenes-train-*.npy")}
    assert {(64, 128), (64, 384)} <= shapes


def test_a_finished_run_is_not_overwritten_by_accident():
    with pytest.raises(BadInput, match="resume"):
        recipes.run("llava-tiny-stage1", steps=2, evaluate_every=2, precision="fp32", **SMALL)


def test_unknown_recipes_and_fields_are_refused():
    with pytest.raises(UnknownName, match="recipe"):
        recipes.run("llava-tinny")
    with pytest.raises(UnknownName, match="parameter 'step'"):
        recipes.run("llava-tiny", step=3)


def test_features_go_on_where_a_kill_stopped(tmp_path, monkeypatch):
    monkeypatch.setenv("VLMLAB_WORK", str(tmp_path))
    (tmp_path / "cache").mkdir()
    (tmp_path / "encoder").write_text("weights")
    rgb = np.arange(4608, dtype=np.uint8).reshape(-1, 1)
    pictures = MagicMock(rgb=rgb, folder=tmp_path / "scenes", __len__=lambda _: len(rgb))
    calls = []

    def see(pixels):
        calls.append(len(pixels))
        if len(calls) == 18:
            raise KeyboardInterrupt
        return pixels[:, None].float() + torch.tensor([0.0, 0.5])

    vlm = SimpleNamespace(
        config=SimpleNamespace(feature_layers=(-2,), feature_tokens=1, feature_dim=2), device="cpu",
        preprocess=SimpleNamespace(normalise=torch.from_numpy), vision_features=see,
    )  # fmt: skip
    with pytest.raises(KeyboardInterrupt):
        common.features(vlm, pictures, [tmp_path / "encoder"])
    found = common.features(vlm, pictures, [tmp_path / "encoder"])
    assert len(calls) == 18 + 1  # 17 batches were done, and 17 marked as done
    assert np.array_equal(found, rgb[:, None] + np.array([0.0, 0.5], np.float16))
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".npy"]
