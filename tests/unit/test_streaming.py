"""Checkpoints tensor by tensor: what a file may be, what is said of a damaged one, and the memory that it takes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from vlmlab.errors import BadCheckpoint
from vlmlab.weights import streaming
from vlmlab.weights.assembling import Placement, Report, Source, assemble, compare
from vlmlab.weights.streaming import open_checkpoint

STATE = {"a.weight": torch.arange(12.0).view(3, 4), "b": torch.tensor([1, 2, 3]), "c": torch.ones(2).half()}


def same(path, wanted=None) -> bool:
    checkpoint, wanted = open_checkpoint(path), wanted or STATE
    found = {name: tensor.clone() for name, tensor in checkpoint.read(checkpoint.tensors)}
    kinds = {name: (tensor.shape, tensor.dtype, tensor.is_meta) for name, tensor in checkpoint.tensors.items()}
    return (
        kinds == {name: (value.shape, value.dtype, True) for name, value in wanted.items()}
        and found.keys() == wanted.keys()
        and all(torch.equal(found[name], value) for name, value in wanted.items())
    )


# ---------------------------------------------------------------- what is read
@pytest.mark.parametrize("group", [1, 20, 2**26])  # bytes: every tensor alone, some, all
def test_every_kind_of_file(tmp_path, monkeypatch, group):
    monkeypatch.setattr(streaming, "GROUP", group)
    save_file(STATE, tmp_path / "x.safetensors")
    torch.save(STATE, tmp_path / "x.bin")
    torch.save({"state_dict": STATE, "epoch": 3}, tmp_path / "x.pth")
    torch.save({"model": STATE}, tmp_path / "x.pt")
    torch.save(STATE, tmp_path / "old.bin", _use_new_zipfile_serialization=False)  # as before PyTorch 1.6
    for name in ("x.safetensors", "x.bin", "x.pth", "x.pt", "old.bin"):
        assert same(tmp_path / name), name
    parts = {"one": {"a": torch.ones(2)}, "two": {"a": torch.zeros(2)}}
    torch.save({"model": parts}, tmp_path / "parts.pt")
    assert same(tmp_path / "parts.pt", {"one.a": torch.ones(2), "two.a": torch.zeros(2)})


def test_only_what_is_asked_for_is_read(tmp_path):
    save_file(STATE, tmp_path / "x.safetensors")
    assert [name for name, _ in open_checkpoint(tmp_path / "x.safetensors").read(["c", "b"])] == ["b", "c"]


def test_views_are_read_as_what_they_show(tmp_path):
    base = torch.arange(12.0).view(3, 4)
    views = {"t": base.T, "row": base[1], "wide": torch.ones(1).expand(5)}
    torch.save(views, tmp_path / "x.bin")
    assert same(tmp_path / "x.bin", views)


def shards(folder: Path, form: str) -> dict[str, str]:
    places = {"a.weight": f"1.{form}", "b": f"2.{form}", "c": f"1.{form}"}
    for file in set(places.values()):
        kept = {name: STATE[name] for name in STATE if places[name] == file}
        save_file(kept, folder / file) if form == "safetensors" else torch.save(kept, folder / file)
    return places


@pytest.mark.parametrize(
    ("form", "index"), [("safetensors", "model.safetensors.index.json"), ("bin", "pytorch_model.bin.index.json")]
)
def test_shards(tmp_path, form, index):
    places = shards(tmp_path, form)
    (tmp_path / index).write_text(json.dumps({"metadata": {}, "weight_map": places}))
    assert same(tmp_path, {name: STATE[name] for name in ("a.weight", "c", "b")})
    assert same(tmp_path / index, {name: STATE[name] for name in ("a.weight", "c", "b")})
    for listing, message in (
        ({"weight_map": places | {"d": f"1.{form}"}}, rf"1\.{form} lacks d, which {index} says"),
        ({"weight_map": places | {"d": f"3.{form}"}}, rf"no such checkpoint: .*3\.{form}"),
        ({"weight_map": places | {"d": f"../1.{form}"}}, "names no files beside it"),
        ({"weight_map": {}}, "names no files beside it"),
        ({"weights": {}}, "is no index of shards"),
        ([1], "is no index of shards"),
    ):
        (tmp_path / index).write_text(json.dumps(listing))
        with pytest.raises(BadCheckpoint, match=message):
            open_checkpoint(tmp_path)
    (tmp_path / index).write_text("{")
    with pytest.raises(BadCheckpoint, match=rf"{index} is no index of shards"):
        open_checkpoint(tmp_path)
    save_file({"b": torch.ones(1)}, tmp_path / "again.safetensors")
    (tmp_path / index).write_text(json.dumps({"weight_map": places | {"x": "again.safetensors"}}))
    with pytest.raises(BadCheckpoint, match=r"again\.safetensors holds b, which an earlier shard|holds b, which"):
        open_checkpoint(tmp_path)


def test_which_file_of_a_folder(tmp_path):
    with pytest.raises(BadCheckpoint, match=r"holds no weights \(looked for model\.safetensors"):
        open_checkpoint(tmp_path)
    torch.save(STATE, tmp_path / "odd.pth")
    assert same(tmp_path)
    save_file({"z": torch.ones(1)}, tmp_path / "other.safetensors")
    with pytest.raises(BadCheckpoint, match=r"holds odd\.pth, other\.safetensors; give the one to read"):
        open_checkpoint(tmp_path)
    save_file(STATE, tmp_path / "model.safetensors")
    assert same(tmp_path)


# ---------------------------------------------------------------- what is not read
class Harmful:
    def __reduce__(self):
        return (os.mkdir, ("made-by-a-checkpoint",))


def test_code_in_a_file_is_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for old in (False, True):
        torch.save(STATE | {"x": Harmful()}, tmp_path / "x.bin", _use_new_zipfile_serialization=not old)
        with pytest.raises(BadCheckpoint, match=r"x\.bin holds a (posix|nt)\.mkdir, which is not read"):
            open_checkpoint(tmp_path / "x.bin")
    assert not (tmp_path / "made-by-a-checkpoint").exists()


@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_every_cut_of_a_file_is_told(tmp_path, form):
    path = tmp_path / f"x.{form}"
    state = {name: torch.randn(40, 40) for name in "abc"}
    save_file(state, path) if form == "safetensors" else torch.save(state, path)
    whole = path.read_bytes()
    for size in (0, 1, 7, 8, 60, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(BadCheckpoint, match=rf"x\.{form} is damaged") as caught:
            open_checkpoint(path)
        assert "\n" not in str(caught.value)


def test_what_is_no_tensor_is_named(tmp_path):
    for content, message in (
        ({"a": 1}, "'a' is a int, not a tensor"),
        ({1: torch.ones(1)}, "1 is a Tensor, not a tensor|1 is a"),
        ({}, "holds no state_dict"),
        ([1], "holds no state_dict"),
        ({"a": torch.eye(2).to_sparse()}, "a is sparse or quantised"),
    ):
        torch.save(content, tmp_path / "x.bin")
        with pytest.raises(BadCheckpoint, match=message):
            open_checkpoint(tmp_path / "x.bin")


# ---------------------------------------------------------------- into a model
class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 6)
        self.norm = nn.BatchNorm1d(6)
        self.A_log = nn.Parameter(torch.ones(2))


def small() -> Small:
    with torch.device("meta"):
        return Small()


def sources(path, state: dict, plan=None, zeros=()) -> list[Source]:
    save_file(state, path / "x.safetensors")
    return [Source(open_checkpoint(path / "x.safetensors"), plan or (lambda name: [Placement(name)]), frozenset(zeros))]


def test_a_model_gets_every_tensor_cast_and_placed(tmp_path):
    state = {
        name: torch.randn(value.shape) if value.is_floating_point() else value + 7
        for name, value in Small().state_dict().items()
    }
    for dtype, wide in ((torch.float64, torch.float64), (torch.bfloat16, torch.float32), (None, torch.float32)):
        model = small()
        assemble(model, sources(tmp_path, state), dtype)
        for name, value in model.state_dict().items():
            wanted = (
                state[name].to(wide if name == "A_log" else dtype or torch.float32)
                if value.is_floating_point()
                else state[name]
            )
            assert value.dtype == wanted.dtype
            assert torch.equal(value, wanted)
        assert model.first.weight.requires_grad
        assert isinstance(model.first.weight, nn.Parameter)
        assert not isinstance(model.norm.running_mean, nn.Parameter)


def test_joined_split_and_zero_rows(tmp_path):
    class Joined(nn.Module):
        def __init__(self):
            super().__init__()
            self.qkv, self.left, self.right = (nn.Parameter(torch.ones(n, 2, device="meta")) for n in (6, 1, 2))
            self.table = nn.Parameter(torch.ones(3, 2, device="meta"))

    plans = {
        "q": [Placement("qkv", None, slice(0, 2))],
        "kv": [Placement("qkv", None, slice(2, None))],
        "both": [Placement("left", lambda x: x[:1]), Placement("right", lambda x: x[1:])],
        "table": [Placement("table", lambda x: x.flatten(0, 1), slice(1, None))],
        "unused": [],
    }
    state = {
        "q": torch.randn(2, 2),
        "kv": torch.randn(4, 2),
        "both": torch.randn(3, 2),
        "table": torch.randn(1, 2, 2),
        "unused": torch.ones(9),
    }
    model = Joined()
    found = sources(tmp_path, state, plans.get, ["table"])
    assemble(model, found)
    assert torch.equal(model.qkv, torch.cat([state["q"], state["kv"]]))
    assert torch.equal(torch.cat([model.left, model.right]), state["both"])
    assert torch.equal(model.table, torch.cat([torch.zeros(1, 2), state["table"][0]]))
    no_zeros = [found[0]._replace(zeros=frozenset())]
    assert compare(Joined(), no_zeros) == Report(missing=("table (a part of it)",))


def test_the_report_counts_and_names(tmp_path):
    state = {f"odd{i}": torch.ones(1) for i in range(5)} | {
        "first.weight": torch.ones(4, 6),
        "A_log": torch.ones(2, dtype=torch.int32),
    }
    found = sources(tmp_path, state)
    report = compare(small(), found)
    assert not report.fits
    assert report.unexpected == tuple(f"odd{i}" for i in range(5))
    assert set(report.mismatched) == {
        "first.weight is (4, 6), expected (6, 4)",
        "A_log is int32, expected numbers like float32",
    }
    assert report.missing == (
        "first.bias",
        *(f"norm.{n}" for n in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")),
    )
    assert str(report).startswith(
        "6 missing: first.bias; norm.weight; norm.bias and 3 more. "
        "5 unexpected: odd0; odd1; odd2 and 2 more. 2 of another shape or type: "
    )
    assert str(Report()) == "everything fits"
    with pytest.raises(BadCheckpoint, match=r"x\.safetensors does not fit the model: 6 missing"):
        assemble(small(), found)


@settings(max_examples=30, deadline=None)
@given(st.sets(st.sampled_from(sorted(Small().state_dict()))), st.sets(st.text("xyz", min_size=1, max_size=2)))
def test_what_lacks_is_missing_and_what_is_more_is_unexpected(tmp_path_factory, lacking, more):
    folder = tmp_path_factory.mktemp("report")
    state = {name: value for name, value in Small().state_dict().items() if name not in lacking}
    state |= {name: torch.ones(1) for name in more} or {"x": torch.ones(1)}
    report = compare(small(), sources(folder, state))
    assert set(report.missing) == lacking
    assert set(report.unexpected) == (more or {"x"})
    assert not report.mismatched


# ---------------------------------------------------------------- memory
MEASURE = """
import gc, sys
import torch
from torch import nn
from vlmlab.weights.assembling import Placement, Source, assemble
from vlmlab.weights.streaming import open_checkpoint

def status(key):
    return next(int(line.split()[1]) / 1024 for line in open("/proc/self/status") if line.startswith(key))

def model():
    with torch.device("meta"):
        return nn.ModuleDict({f"l{i}": nn.Linear(2048, 4096, bias=False) for i in range(12)})

def streamed(path):
    filled = model()
    assemble(filled, [Source(open_checkpoint(path), lambda name: [Placement(name)])], torch.bfloat16)
    return filled

def whole(path):
    weights = torch.load(path, weights_only=True)
    filled = model()
    filled.load_state_dict({name: value.bfloat16() for name, value in weights.items()}, assign=True)
    return filled

streamed(sys.argv[3])  # imports and first use
for run, path in ((streamed, sys.argv[1]), (streamed, sys.argv[2]), (whole, sys.argv[2])):
    gc.collect()
    open("/proc/self/clear_refs", "w").write("5")  # the high-water mark begins anew
    before = status("VmRSS")
    filled = run(path)
    print(status("VmHWM") - before)
    del filled
"""


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="peak memory is read from Linux's /proc")
def test_memory_stays_near_the_models_size(tmp_path):
    state = {f"l{i}.weight": torch.full((4096, 2048), float(i), dtype=torch.float16) for i in range(12)}  # 201 MB
    megabytes = sum(value.nbytes for value in state.values()) / 2**20
    save_file(state, tmp_path / "model.safetensors")
    torch.save(state, tmp_path / "model.bin")
    del state
    tiny = {f"l{i}.weight": torch.zeros(1).expand(4096, 2048) for i in range(12)}
    torch.save(tiny, tmp_path / "tiny.bin")  # a few bytes a tensor
    files = [str(tmp_path / name) for name in ("model.safetensors", "model.bin", "tiny.bin")]
    own = {"MALLOC_MMAP_THRESHOLD_": "1048576"}  # glibc gives a tensor's memory back as soon as it is freed
    command = [sys.executable, "-c", MEASURE, *files]
    out = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | own).stdout
    safetensors, saved, whole = map(float, out.split())
    for path in files:
        os.unlink(path)
    assert whole > 1.9 * megabytes  # or the measurement does not see what it should
    for peak in (safetensors, saved):
        assert megabytes <= peak + 16  # pages that were free before count for nothing
        assert peak < 1.5 * megabytes  # the model, and a group of 64 MiB of the file
