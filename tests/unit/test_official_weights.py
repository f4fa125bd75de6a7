"""A user's copy of published weights: both kinds of file read alike; what is wrong with a file stands on one line."""

import argparse
import os

import numpy as np
import pytest
import torch

from vlmlab.errors import BadCheckpoint, UnknownName
from vlmlab.files import write_tensors
from vlmlab.vision import MambaVision, ViT, ViTConfig
from vlmlab.weights import load_mambavision


@pytest.fixture(scope="module")
def model() -> MambaVision:
    """ "tiny" stands for a published variant; its running statistics are not those that a new model has."""
    model = MambaVision.from_variant("tiny", 7, generator=torch.Generator().manual_seed(0)).eval()
    with torch.no_grad():
        model.norm.running_mean.normal_(generator=torch.Generator().manual_seed(1))
    return model


def write(path, content) -> str:
    torch.save(content, path)
    return str(path)


def same(ours: MambaVision, wanted: MambaVision) -> bool:
    ours_state, wanted_state = ours.state_dict(), wanted.state_dict()
    return list(ours_state) == list(wanted_state) and all(
        torch.equal(ours_state[key], value) for key, value in wanted_state.items()
    )


def test_a_training_programs_file_is_read_with_all_that_lies_beside_the_weights(tmp_path, model):
    content = {
        "epoch": 310,
        "arch": "mamba_vision_T",
        "state_dict": {f"module.{key}": value for key, value in model.state_dict().items()},
        "args": argparse.Namespace(lr=1e-3, opt="lamb", mean=(0.485, 0.456)),
        "metric": np.float64(82.3),
        "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 0.1}]},
    }
    found = load_mambavision(write(tmp_path / "model.pth.tar", content), device="cpu")
    assert same(found, model)
    assert not found.training
    assert found.head.out_features == 7
    x = torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        assert torch.equal(found(x), model(x))


def test_safetensors_plain_files_and_files_without_counters_or_head(tmp_path, model):
    state = model.state_dict()
    write_tensors(tmp_path / "model.safetensors", {f"model.{key}": value for key, value in state.items()})
    assert same(load_mambavision(tmp_path / "model.safetensors", "tiny", device="cpu"), model)
    assert same(load_mambavision(write(tmp_path / "plain.pth", state), device="cpu"), model)
    fewer = {k: v for k, v in state.items() if not k.startswith("head") and not k.endswith("num_batches_tracked")}
    halves = {key: value.half() for key, value in fewer.items()}
    found = load_mambavision(write(tmp_path / "half.pth", halves), device="cpu")
    assert found.head is None
    assert found.norm.num_batches_tracked.dtype == torch.long
    assert all(torch.equal(found.state_dict()[key], value.half().float()) for key, value in fewer.items())


def test_windows_follow_the_native_size(tmp_path, model):
    path = write(tmp_path / "model.pth", model.state_dict())
    assert load_mambavision(path, device="cpu").config.windows == (8, 4)
    assert load_mambavision(path, image_size=192, device="cpu").config.windows == (16, 8)


class Harmful:
    def __reduce__(self):
        return (os.mkdir, ("made-by-a-checkpoint",))


def damaged_files(folder, model):
    state = dict(model.state_dict())
    write(folder / "good.pth.tar", {"state_dict": state})
    whole = (folder / "good.pth.tar").read_bytes()
    write_tensors(folder / "good.safetensors", state)
    tensors = (folder / "good.safetensors").read_bytes()
    (folder / "folder").mkdir()
    for name, data in {
        "cut.pth.tar": whole[: len(whole) // 2],
        "empty.pth.tar": b"",
        "noise.pth.tar": np.random.default_rng(0).bytes(5000),
        "text.pth.tar": b"<!DOCTYPE html><html>404</html>",
        "cut.safetensors": tensors[: len(tensors) // 2],
    }.items():
        (folder / name).write_bytes(data)
    missing = {key: value for key, value in state.items() if key != "levels.2.blocks.0.mixer.A_log"}
    write(folder / "missing.pth.tar", {"state_dict": missing})
    shape = state | {"levels.1.blocks.2.conv2.weight": torch.zeros(64, 32, 3, 3)}
    write(folder / "shape.pth.tar", {"state_dict": shape})
    write(folder / "more.pth.tar", {"state_dict": state | {"levels.2.blocks.0.mixer.conv1d_x.bias": torch.zeros(64)}})
    deeper = {key.replace("levels.1.blocks.2.", "levels.1.blocks.3."): value for key, value in state.items()}
    write(folder / "deeper.pth.tar", {"state_dict": state | deeper})
    write(folder / "harmful.pth.tar", {"state_dict": state, "args": Harmful()})
    write(folder / "objects.pth.tar", {"state_dict": {"a": "b"}})
    write(folder / "list.pth.tar", [torch.zeros(2)])
    vit = ViT(ViTConfig("clip", image_size=24, patch_size=6, dim=16, layers=1, heads=2, hidden=16))
    write(folder / "vit.pth.tar", {"state_dict": vit.state_dict()})


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("absent.pth.tar", "no such checkpoint"),
        ("folder", "holds no weights"),
        ("cut.pth.tar", "is damaged"),
        ("empty.pth.tar", "is damaged"),
        ("noise.pth.tar", "is damaged"),
        ("text.pth.tar", "is damaged"),
        ("cut.safetensors", "is damaged"),
        ("missing.pth.tar", r"1 missing: levels\.2\.blocks\.0\.mixer\.A_log$"),
        (
            "shape.pth.tar",
            r"1 of another shape or type: levels\.1\.blocks\.2\.conv2\.weight is \(64, 32, 3, 3\), "
            r"expected \(64, 64, 3, 3\)$",
        ),
        ("more.pth.tar", r"1 unexpected: levels\.2\.blocks\.0\.mixer\.conv1d_x\.bias$"),
        ("deeper.pth.tar", r"fits no variant of MambaVision: 32 channels in level 0.*\(1, 4, 8, 1\)"),
        ("harmful.pth.tar", r"holds a (posix|nt)\.mkdir, which is not read"),
        ("objects.pth.tar", "'a' is a str, not a tensor"),
        ("list.pth.tar", "holds no state_dict"),
        ("vit.pth.tar", r"no weights of a MambaVision: patch_embed\.conv_down\.3\.weight"),
    ],
)
def test_one_line_says_what_is_wrong_with_a_file(tmp_path, monkeypatch, model, name, says):
    damaged_files(tmp_path, model)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadCheckpoint, match=says) as caught:
        load_mambavision(tmp_path / name, device="cpu")
    message = str(caught.value)
    assert str(tmp_path / name) in message
    assert "\n" not in message
    assert "git checkout" not in message
    assert not (tmp_path / "made-by-a-checkpoint").exists()


def test_a_variant_that_is_not_the_files_is_refused(tmp_path, model):
    path = write(tmp_path / "model.pth", model.state_dict())
    with pytest.raises(BadCheckpoint, match=r"does not fit the model: \d+ missing: levels\.3\.blocks\.1\."):
        load_mambavision(path, "T", device="cpu")
    with pytest.raises(UnknownName, match="variant"):
        load_mambavision(path, "XL", device="cpu")
