"""What all tests share: no network libraries reaching out, no progress bars, a work folder of their own."""

import os

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture(autouse=True)
def _own_work_folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests leave nothing in ./build."""
    monkeypatch.setenv("VLMLAB_WORK", str(tmp_path_factory.getbasetemp() / "work"))
