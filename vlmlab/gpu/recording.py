"""Runs, their files in data/gpu_runs and how to read these: what was measured where, when and by which command.
Notebook 16."""

import inspect
import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from vlmlab import __version__, runtime
from vlmlab.errors import BadInput, UnknownName
from vlmlab.files import read_json, write_json

NOT_RUN = "not run yet"
PACKAGES = ("torch", "triton", "mamba_ssm", "transformers", "numpy")


def run(name: str, out: str | os.PathLike | None = None, **settings: Any) -> dict[str, Any]:
    """Run NAME, write its record as JSON and return it.

    out: the file, by default data/gpu_runs/NAME.json, which takes runs on a GPU only. settings: the run's own, `device`
    among them. Raises UnknownName for a run or a setting, BadInput where there is no GPU or the record needs `out`.
    """
    from vlmlab.gpu.runs import RUNS

    if name not in RUNS:
        raise UnknownName("run", name, RUNS)
    known = inspect.signature(RUNS[name]).parameters
    for setting in settings:
        if setting not in known:
            raise UnknownName("setting", setting, known)
    device = runtime.device(settings.get("device", "cuda"))
    if out is None and device.type != "cuda":
        raise BadInput(f"data/gpu_runs keeps runs on a GPU only; give another file for a run on {device}")
    found = record(name, device, settings)
    found["results"] = RUNS[name](**settings)
    write_json(path(name) if out is None else out, found)
    return found


def record(name: str, device: torch.device, settings: dict[str, Any]) -> dict[str, Any]:
    """What a run says of itself beside its results."""
    words = "".join(f" --set {key}={value!r}" for key, value in settings.items())
    return {
        "name": name,
        "command": f"vlmlab gpu {name}{words}" if words else f"python -m vlmlab.gpu {name}",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "device": _device(device),
        "versions": _versions(),
        "settings": settings,
    }


def path(name: str) -> Path:
    """The file of a run on a GPU."""
    return runtime.data_dir() / "gpu_runs" / f"{name}.json"


def result(name: str) -> dict[str, Any]:
    """The record of a run. Raises UnknownName, and BadInput, which says how to run it, where it was not run yet."""
    from vlmlab.gpu.runs import RUNS

    if name not in RUNS:
        raise UnknownName("run", name, RUNS)
    if not path(name).is_file():
        raise BadInput(f"{name} was {NOT_RUN}; on a machine with a CUDA GPU: python -m vlmlab.gpu {name}")
    return read_json(path(name))


def results() -> dict[str, dict[str, Any] | str]:
    """Every run's record, or NOT_RUN ("not run yet") in its place."""
    from vlmlab.gpu.runs import RUNS

    return {name: read_json(path(name)) if path(name).is_file() else NOT_RUN for name in RUNS}


def _device(device: torch.device) -> dict[str, Any]:
    if device.type != "cuda":
        return {"type": device.type, "name": platform.processor() or platform.machine()}
    found = torch.cuda.get_device_properties(device)
    return {"type": "cuda", "name": found.name, "memory_bytes": found.total_memory, "multiprocessors":
            found.multi_processor_count}  # fmt: skip


def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {"vlmlab": __version__, "python": platform.python_version()}
    found["cuda"] = torch.version.cuda
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def _commit() -> str | None:
    """The commit of this checkout, with " and changes" where tracked files differ from it; None outside of git."""
    here = Path(__file__).parent
    try:
        commit, changes = (
            subprocess.run(["git", "-C", here, *words], capture_output=True, text=True, check=True).stdout.strip()
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + " and changes" * bool(changes)
