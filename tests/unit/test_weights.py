"""Checkpoints: what is saved comes back, and what is damaged says so before anything is computed."""

import json
from dataclasses import asdict

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from vlmlab import runtime
from vlmlab.errors import BadCheckpoint, BadInput, UnknownName
from vlmlab.files import halves, packed, read_tensors, sha256, unpacked, write_json, write_tensors
from vlmlab.language.tokenizer import Tokenizer
from vlmlab.vision import IMAGENET_MEAN, IMAGENET_STD, MambaVision, Preprocess
from vlmlab.vlm import saving
from vlmlab.vlm.model import VLM
from vlmlab.weights import load, load_encoder, ship, verify


@pytest.fixture(scope="module")
def vlm() -> VLM:
    return VLM.from_preset("llava-tiny", "cpu", Tokenizer.train(["hello"], 300))


@pytest.fixture
def shipped(tmp_path, monkeypatch, vlm):
    """A data folder of its own with one shipped model."""
    folder = tmp_path / "data" / "checkpoints"
    saving.save(vlm, folder / "small.safetensors")
    vlm.tokenizer.save(folder / "tokenizer.json")
    names = ["checkpoints/small.safetensors", "checkpoints/tokenizer.json"]
    files = {name: {"sha256": sha256(tmp_path / "data" / name)} for name in names}
    write_json(
        tmp_path / "data" / "manifest.json", {"files": files, "models": {"small": {"files": names}}, "results": {}}
    )
    monkeypatch.setenv("VLMLAB_DATA", str(tmp_path / "data"))
    return folder


def test_a_saved_model_comes_back_equal(shipped, vlm):
    again = load("small", "cpu")
    assert all(torch.equal(a, b) for a, b in zip(vlm.state_dict().values(), again.state_dict().values(), strict=True))
    assert again.config == vlm.config
    assert not again.training
    by_path = load(shipped / "small.safetensors", "cpu")
    assert by_path.tokenizer.encode("hello") == vlm.tokenizer.encode("hello")


def test_parts_may_lie_elsewhere(tmp_path, vlm):
    write_tensors(tmp_path / "encoder.safetensors", {"vision." + k: v for k, v in vlm.vision.state_dict().items()})
    saving.save(vlm, tmp_path / "m.safetensors", {"vision": ("encoder.safetensors", "vision.")}, halves)
    assert not any(key.startswith("vision") for key in read_tensors(tmp_path / "m.safetensors")[0])
    again = saving.load(tmp_path / "m.safetensors", vlm.tokenizer, "cpu")
    assert torch.equal(again.vision.pos_embed, vlm.vision.pos_embed)
    assert torch.equal(again.language.norm.weight, vlm.language.norm.weight.half().float())


@given(
    arrays(
        np.float32,
        array_shapes(min_dims=1, max_dims=4, max_side=5),
        elements=st.floats(-6e4, 6e4, width=32).filter(lambda x: x == 0 or abs(x) > 1e-30),
    ),
)
def test_eight_bits_a_weight_are_off_by_half_a_step_of_their_row_at_most(values):
    weight = torch.from_numpy(values)
    kept = packed({"weight": weight, "steps": torch.tensor([3])})
    back = unpacked(kept)
    assert set(back) == {"weight", "steps"}
    assert torch.equal(back["steps"], torch.tensor([3]))
    assert back["weight"].shape == weight.shape
    if weight.ndim == 1:
        assert torch.equal(back["weight"], weight.half())
    else:
        assert kept["weight"].dtype == torch.int8
        step = weight.flatten(1).abs().amax(1, keepdim=True) / 127
        off = (back["weight"] - weight).flatten(1).abs()
        assert (off <= 0.50001 * step).all()


def test_a_packed_model_is_half_as_large_and_loads_like_any_other(tmp_path, vlm):
    sizes = {}
    for how in (halves, packed):
        saving.save(vlm, tmp_path / "m.safetensors", stored=how)
        sizes[how] = (tmp_path / "m.safetensors").stat().st_size
    again = saving.load(tmp_path / "m.safetensors", vlm.tokenizer, "cpu")
    assert sizes[packed] < 0.6 * sizes[halves]
    for name, value in vlm.state_dict().items():
        found = again.state_dict()[name]
        assert found.dtype == value.dtype
        assert (found - value).abs().max() <= value.abs().max() / 250


@pytest.mark.parametrize("damage", ["truncated", "empty", "garbage", "flipped", "missing"])
def test_a_damaged_shipped_file_is_refused_with_its_cure(shipped, damage):
    path = shipped / "small.safetensors"
    data = path.read_bytes()
    changed = {
        "truncated": data[: len(data) // 2],
        "empty": b"",
        "garbage": b"x" * 100,
        "flipped": data[:-1] + bytes([data[-1] ^ 1]),
    }
    path.write_bytes(changed[damage]) if damage in changed else path.unlink()
    with pytest.raises(BadCheckpoint, match="restore it: git checkout") as caught:
        load("small", "cpu")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", ["truncated", "empty", "garbage"])
def test_a_damaged_file_given_by_path_is_refused(shipped, damage):
    path = shipped / "other.safetensors"
    data = (shipped / "small.safetensors").read_bytes()
    path.write_bytes({"truncated": data[:1000], "empty": b"", "garbage": b"not safetensors at all"}[damage])
    with pytest.raises(BadCheckpoint, match=r"other\.safetensors"):
        load(path, "cpu")


def test_names_and_shapes_are_strict(shipped):
    tensors, metadata = read_tensors(shipped / "small.safetensors")
    tensors["projector.extra"] = torch.zeros(1)
    del tensors["language.norm.weight"]
    tensors["vision.norm.bias"] = torch.zeros(7)
    write_tensors(shipped / "odd.safetensors", tensors, metadata)
    with pytest.raises(BadCheckpoint) as caught:
        load(shipped / "odd.safetensors", "cpu")
    for part in (
        "missing language.norm.weight",
        "unexpected projector.extra",
        "vision.norm.bias is (7,), expected (192,)",
    ):
        assert part in str(caught.value)


def test_metadata_that_is_not_ours_is_refused(shipped):
    write_tensors(shipped / "x.safetensors", {"a": torch.zeros(1)}, {"format": "pt"})
    with pytest.raises(BadCheckpoint, match="not a checkpoint of a vlmlab VLM"):
        load(shipped / "x.safetensors")
    write_tensors(shipped / "y.safetensors", {"a": torch.zeros(1)}, {"format": saving.FORMAT, "config": "{"})
    with pytest.raises(BadCheckpoint, match="unreadable metadata"):
        load(shipped / "y.safetensors")


def test_unknown_names_are_refused(shipped):
    with pytest.raises(UnknownName, match="did you mean 'small'"):
        load("smal")
    with pytest.raises(BadInput, match="ships no weights"):
        load("llava-1.5-7b")
    with pytest.raises(BadInput, match="is a folder"):
        load(shipped)
    with pytest.raises(BadCheckpoint, match="no such checkpoint"):
        load("nowhere/model.safetensors")


def test_an_encoder_alone_is_no_model():
    with pytest.raises(BadInput, match=r"clip-tiny is part of a model, .* are: llava-tiny"):
        load("clip-tiny")


def test_a_shipped_encoder_is_the_models_own():
    encoder, preprocess = load_encoder("clip-tiny")
    vlm = load("llava-tiny", "cpu")
    assert preprocess == vlm.preprocess
    assert not encoder.training
    pixels = preprocess(np.full((96, 96, 3), 90, np.uint8))[None]
    assert torch.equal(encoder.features(pixels), vlm.vision_features(pixels))
    for name in ("language-tiny", "clip-tinny"):
        with pytest.raises(UnknownName, match="encoder"):
            load_encoder(name)


def test_an_encoder_is_read_from_its_own_description(shipped):
    encoder = MambaVision.from_variant("tiny", num_classes=0).eval()
    path = shipped / "mambavision-tiny.safetensors"
    metadata = {"vision": json.dumps(asdict(encoder.config))}
    write_tensors(path, {f"vision.{name}": value for name, value in encoder.state_dict().items()}, metadata)
    ship({"encoder": True}, "checkpoints/mambavision-tiny.safetensors")
    found, preprocess = load_encoder("mambavision-tiny")
    assert found.config == encoder.config
    assert preprocess == Preprocess(96, IMAGENET_MEAN, IMAGENET_STD)
    pixels = torch.rand(1, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    assert torch.equal(found.features(pixels, 2), encoder.features(pixels, 2))
    write_tensors(path, {"x": torch.zeros(1)}, {})
    ship({"encoder": True}, "checkpoints/mambavision-tiny.safetensors")
    with pytest.raises(BadCheckpoint, match="not an encoder's"):
        load_encoder("mambavision-tiny")


def test_every_shipped_file_is_the_manifests():
    listing = json.loads((runtime.data_dir() / "manifest.json").read_text())
    for name, record in listing["files"].items():
        assert verify(name).stat().st_size == record["bytes"], name
        assert record["licence"]
        assert "recipe" in record
    total = sum(
        (runtime.data_dir() / name).stat().st_size for name in listing["files"] if name.endswith(".safetensors")
    )
    assert total <= 48 * 2**20
