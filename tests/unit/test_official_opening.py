"""Published models by name: nothing is fetched but a pinned commit, and each wrong name says what to do."""

import huggingface_hub
import pytest
import torch
from safetensors.torch import save_file
from upstream_layouts import write_config

import vlmlab
from vlmlab.errors import BadCheckpoint, BadInput
from vlmlab.weights import load_official
from vlmlab.weights.official.opening import fetch, is_official

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub that holds what lies in `snapshot`; calls are written down."""
    calls, snapshot = [], tmp_path / "snapshot"
    snapshot.mkdir()

    def download(repository, revision, allow_patterns):
        calls.append((repository, revision, allow_patterns))
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return calls, snapshot


def test_a_pinned_commit_is_fetched(hub):
    calls, snapshot = hub
    save_file({"a": torch.ones(1)}, snapshot / "model.safetensors")
    assert fetch(f"owner/some-model@{COMMIT}") == snapshot
    assert calls == [
        ("owner/some-model", COMMIT, ["*.json", "*.txt", "tokenizer.model", "*.safetensors"]),
    ]
    write_config(snapshot, {"model_type": "bert"})
    with pytest.raises(BadCheckpoint, match="a model of type 'bert'"):
        vlmlab.load(f"owner/some-model@{COMMIT}", "cpu")


def test_older_files_only_when_there_are_no_safetensors(hub):
    calls, snapshot = hub
    (snapshot / "a" / "checkpoints").mkdir(parents=True)
    torch.save({"a": torch.ones(1)}, snapshot / "a" / "checkpoints" / "latest-checkpoint.pt")
    assert fetch(f"owner/model@{COMMIT}/a") == snapshot / "a"
    assert [patterns[-1] for _, _, patterns in calls] == ["a/*.safetensors", "a/*.bin", "a/*.pt"]
    with pytest.raises(BadCheckpoint, match="holds no weights that can be read"):
        fetch(f"owner/model@{COMMIT}/b")


@pytest.mark.parametrize("name", ["owner/model", "owner/model@main", "owner/model@v1.5", f"owner/model@{COMMIT[:12]}"])
def test_what_is_not_pinned_is_refused_and_not_fetched(hub, name):
    for load in (fetch, load_official, vlmlab.load):
        with pytest.raises(BadInput, match=r"pin the commit, which cannot move: owner/model@ and the 40 hexadecimal"):
            load(name)
    assert not hub[0]


def test_a_failed_download_is_one_line(monkeypatch):
    def fails(*args, **options):
        raise OSError("no route to host\nand more")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fails)
    with pytest.raises(BadCheckpoint, match=r"owner/model@0123\w+ cannot be fetched \(no route to host\)$"):
        fetch(f"owner/model@{COMMIT}")


def test_paths_are_never_looked_up(hub, tmp_path):
    (tmp_path / "owner" / "model").mkdir(parents=True)
    assert fetch(tmp_path / "owner" / "model") == tmp_path / "owner" / "model"
    with pytest.raises(BadCheckpoint, match="no such checkpoint"):
        load_official(tmp_path / "nowhere")
    assert not hub[0]


def test_what_load_takes_for_a_published_model(tmp_path):
    assert not is_official("llava-tiny")
    assert not is_official("runs/model.safetensors")
    assert not is_official(tmp_path)
    write_config(tmp_path, {})
    assert is_official(tmp_path)
    save_file({"a": torch.ones(1)}, tmp_path / "model.safetensors")
    assert not is_official(tmp_path / "model.safetensors")  # may be one of vlmlab's own
    with pytest.raises(BadCheckpoint, match=r"a model of type 'unknown'"):
        vlmlab.load(tmp_path, "cpu")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(BadCheckpoint, match=r"config\.json is not valid JSON"):
        vlmlab.load(tmp_path, "cpu")
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(BadCheckpoint, match=r"config\.json is no configuration of a model"):
        vlmlab.load(tmp_path, "cpu")
    (tmp_path / "config.json").unlink()
    with pytest.raises(BadCheckpoint, match=r"no config\.json lies with"):
        load_official(tmp_path / "model.safetensors", "cpu")
