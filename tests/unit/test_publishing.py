"""From runs to shipped files and back."""

import torch

from vlmlab import runtime
from vlmlab.files import read_tensors, write_tensors
from vlmlab.vlm import recipes
from vlmlab.vlm.model import VLM
from vlmlab.vlm.presets import get_preset
from vlmlab.weights import load
from vlmlab.weights.publishing import restore


def test_shipped_weights_stand_in_for_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(runtime, "work_dir", lambda: tmp_path)
    names = ("tokenizer", "dinov2-tiny", "siglip-tiny", "cobra-tiny")
    assert restore([names, ("no-such-run", "")]) == list(names)
    assert restore([names]) == []
    vlm = VLM.from_preset(get_preset("cobra-tiny"), "cpu", recipes.tokenizer(), seed=5)
    recipes.fill_from_runs(vlm, names)
    expected = load("cobra-tiny", "cpu").state_dict()
    assert vlm.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[key]) for key, value in vlm.state_dict().items())


def test_a_runs_own_weights_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(runtime, "work_dir", lambda: tmp_path)
    path = recipes.finished("clip-tiny")
    write_tensors(path, {"own": torch.ones(2)})
    assert restore([("clip-tiny",)]) == []
    assert list(read_tensors(path)[0]) == ["own"]
