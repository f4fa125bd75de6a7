"""The doctor: a healthy installation passes, each fault is a [fail] line with the command that mends it."""

import hashlib
import json
import sys
from pathlib import Path

import pytest

from vlmlab import doctor


def lines(check) -> str:
    return "\n".join(found.line() for found in check)


def test_python_packages_torch_embree_and_kernel_are_ok_here():
    for check in (doctor.python, doctor.packages, doctor.torch, doctor.rays, doctor.kernel):
        found = list(check())
        assert found
        assert all(item.ok for item in found), lines(found)
        assert found[0].line().startswith(("[ok]", "[note]"))


def test_an_old_python_fails(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "version_info", (3, 10, 2))
    (found,) = doctor.python()
    assert not found.ok
    assert found.line().startswith("[fail] python:")
    assert "mend: install Python 3.12" in found.line()


def test_a_missing_package_fails_with_the_install_command(tmp_path: Path):
    (tmp_path / "requirements").mkdir()
    (tmp_path / "requirements" / "base.txt").write_text("# comment\nno-such-package==1.2  # why\nnumpy==0.1\n")
    missing, other = doctor.packages(tmp_path)
    assert not missing.ok
    assert "pip install no-such-package==1.2" in missing.mend
    assert other.note
    assert "pinned 0.1" in other.detail


def manifest(folder: Path, content: bytes, form: str) -> Path:
    (folder / "checkpoints").mkdir(parents=True)
    weights = folder / "checkpoints" / "m.safetensors"
    weights.write_bytes(content)
    entry = {"sha256": hashlib.sha256(content).hexdigest(), "licence": "Apache-2.0"}
    name = "checkpoints/m.safetensors"
    forms = {"files": {"files": {name: entry}}, "bare": {name: entry}, "list": {"files": [{"path": name, **entry}]}}
    (folder / "manifest.json").write_text(json.dumps(forms[form]))
    return weights


@pytest.mark.parametrize("form", ["files", "bare", "list"])
def test_data_as_in_the_manifest_is_ok_and_one_wrong_byte_fails(tmp_path: Path, form: str):
    weights = manifest(tmp_path, b"weights", form)
    (found,) = doctor.data(tmp_path)
    assert found.ok
    assert "1 files" in found.detail
    weights.write_bytes(b"weightz")
    (found,) = doctor.data(tmp_path)
    assert not found.ok
    assert "sha256" in found.detail
    assert found.mend.startswith("git checkout -- ")
    weights.unlink()
    (found,) = doctor.data(tmp_path)
    assert "missing" in found.detail


def test_a_missing_or_damaged_manifest_fails(tmp_path: Path):
    (found,) = doctor.data(tmp_path)
    assert not found.ok
    (tmp_path / "manifest.json").write_text("{")
    (found,) = doctor.data(tmp_path)
    assert "damaged" in found.detail


def test_a_check_that_crashes_is_a_failed_line():
    def broken():
        raise RuntimeError("two\nlines")
        yield

    (found,) = doctor._safely(broken)
    assert not found.ok
    assert "\n" not in found.line()
    assert "RuntimeError: two lines" in found.line()


def test_too_little_room_fails(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor, "DISK_GB", 1e9)
    monkeypatch.setattr(doctor, "MEMORY_GB", 1e9)
    for check in (doctor.disk, doctor.memory):
        (found,) = check()
        assert not found.ok
        assert found.mend
