"""Is this installation fit to run the notebooks? `vlmlab doctor`. Notebook 00.

Each check is one line, [ok] or [fail], and a failed one ends in the command that mends it. [note] lines are worth
knowing and fail nothing. Nothing heavy is imported before its own check: a broken package is a line, not a crash.
"""

import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
OLDEST_PYTHON = (3, 11)
OLDEST_TORCH = (2, 8)
DISK_GB = 2.0
MEMORY_GB = 3.0


@dataclass(frozen=True)
class Check:
    """One line of the report: `ok`, or what to do (`mend`); `note` marks a line that is no check."""

    name: str
    ok: bool
    detail: str
    mend: str = ""
    note: bool = False

    def line(self) -> str:
        mark = "[note]" if self.note else "[ok]  " if self.ok else "[fail]"
        return f"{mark} {self.name}: {self.detail}" + (f" -- mend: {self.mend}" if self.mend else "")


def examine() -> list[Check]:
    """All checks, in the order a reader would mend them. A check that crashes counts as failed, with its error."""
    found: list[Check] = []
    for check in (python, packages, torch, rays, data, kernel, disk, memory, writable, gpu):
        found += _safely(check)
    return found


def _safely(check: Callable[[], Iterator[Check]]) -> list[Check]:
    try:
        return list(check())
    except Exception as error:
        detail = " ".join(f"{type(error).__name__}: {error}".split())
        return [Check(check.__name__, False, detail, "make distclean && make setup")]


def python() -> Iterator[Check]:
    """Python is new enough."""
    version = platform.python_version()
    if sys.version_info[:2] < OLDEST_PYTHON:
        yield Check("python", False, f"{version} is too old", "install Python 3.12, then: make distclean && make setup")
    else:
        yield Check("python", True, f"{version} ({sys.executable})")


def packages(root: Path = ROOT) -> Iterator[Check]:
    """What requirements/base.txt pins is installed; another version than pinned is a note."""
    pins = _pins(root / "requirements" / "base.txt")
    missing, other = [], []
    for name, wanted in pins.items():
        try:
            here = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(f"{name}=={wanted}")
            continue
        if here.split("+")[0] != wanted:
            other.append(f"{name} {here} (pinned {wanted})")
    if missing:
        yield Check("packages", False, "missing " + ", ".join(missing), _pip(*missing))
    elif pins:
        yield Check("packages", True, f"{len(pins)} pinned packages installed")
    else:
        yield Check("packages", True, "installed without requirements/base.txt; versions not compared", note=True)
    if other:
        yield Check("versions", True, "differ from the tested ones: " + ", ".join(other), "make setup", note=True)


def _pins(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    lines = (line.split("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    return dict(line.split("==") for line in lines if "==" in line)


def _pip(*wanted: str) -> str:
    constraint = " -c requirements/lock.txt" if (ROOT / "requirements" / "lock.txt").is_file() else ""
    return f"{sys.executable} -m pip install {' '.join(wanted)}{constraint}"


def torch() -> Iterator[Check]:
    """PyTorch is new enough and multiplies."""
    try:
        import torch as library
    except ImportError as error:
        yield Check("torch", False, " ".join(str(error).split()), _pip("torch==2.13.0"))
        return
    version = tuple(int(part) for part in library.__version__.split("+")[0].split(".")[:2])
    if version < OLDEST_TORCH:
        yield Check("torch", False, f"{library.__version__} is older than 2.8", _pip("torch==2.13.0"))
        return
    right = bool((library.ones(8, 8) @ library.ones(8, 8) == 8).all())
    threads = library.get_num_threads()
    yield Check("torch", right, f"{library.__version__}, {threads} threads", "" if right else _pip("torch==2.13.0"))


def rays() -> Iterator[Check]:
    """Embree, which renders the scenes, hits a triangle; then a whole scene, when the world is there."""
    import numpy as np

    mend = _pip("embreex", "trimesh")
    try:
        import trimesh
        from trimesh.ray.ray_pyembree import RayMeshIntersector
    except ImportError as error:
        yield Check("embreex", False, " ".join(str(error).split()), mend)
        return
    box = trimesh.creation.box()
    hit = RayMeshIntersector(box).intersects_any(np.array([[0.0, 0, 5]]), np.array([[0.0, 0, -1]]))
    if not hit.all():
        yield Check("embreex", False, "a ray at a box misses it", mend)
        return
    from vlmlab import scenes

    picture = scenes.sample(0).render(32).rgb
    good = picture.shape == (32, 32, 3) and picture.std() > 0
    yield Check("embreex", good, "renders a scene" if good else "renders an empty picture", "" if good else mend)


def data(folder: Path | None = None) -> Iterator[Check]:
    """Each shipped file is there and is, byte for byte, what data/manifest.json says."""
    folder = folder or Path(os.environ.get("VLMLAB_DATA") or ROOT / "data")
    manifest = folder / "manifest.json"
    if not manifest.is_file():
        yield Check("data", False, f"no {manifest}", f"git checkout -- {manifest}")
        return
    try:
        entries = _entries(json.loads(manifest.read_text(encoding="utf-8")))
    except (ValueError, TypeError, AttributeError) as error:
        yield Check("data", False, f"{manifest} is damaged ({error})", f"git checkout -- {manifest}")
        return
    bad = 0
    for name, expected in entries.items():
        path = folder / name
        if not path.is_file():
            bad += 1
            yield Check("data", False, f"{name} is missing", f"git checkout -- {path}")
        elif _sha256(path) != expected:
            bad += 1
            yield Check("data", False, f"{name} is not what the manifest says (sha256)", f"git checkout -- {path}")
    if not bad:
        size = sum((folder / name).stat().st_size for name in entries) / 1e6
        yield Check("data", True, f"{len(entries)} files, {size:.1f} MB, as in the manifest")


def _entries(manifest: Any) -> dict[str, str]:
    """Path below data/ -> sha256, from {"files": {path: {"sha256": ...}}}, or the same as a list or without "files"."""
    files = manifest.get("files", manifest) if isinstance(manifest, dict) else manifest
    if isinstance(files, dict):
        pairs = [(name, entry) for name, entry in files.items() if isinstance(entry, dict)]
    else:
        pairs = [(entry.get("path") or entry.get("file") or entry["name"], entry) for entry in files]
    return {str(name).removeprefix("data/"): entry["sha256"] for name, entry in pairs if "sha256" in entry}


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def kernel() -> Iterator[Check]:
    """Jupyter knows a Python kernel, and it is this Python's."""
    mend = f"{sys.executable} -m ipykernel install --sys-prefix"
    try:
        from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel
    except ImportError as error:
        yield Check("jupyter", False, str(error), _pip("jupyterlab", "ipykernel"))
        return
    try:
        spec = KernelSpecManager().get_kernel_spec("python3")
    except NoSuchKernel:
        yield Check("jupyter", False, "no kernel named python3", mend)
        return
    # jupyter_client itself reads a bare "python" as the Python that it runs in
    program = sys.executable if spec.argv[0] in ("python", "python3") else shutil.which(spec.argv[0])
    good = program is not None and os.path.realpath(program) == os.path.realpath(sys.executable)
    detail = f"kernel python3 starts {program or spec.argv[0]}"
    yield Check("jupyter", good, detail, "" if good else mend)


def disk() -> Iterator[Check]:
    """Room for caches, runs and the report."""
    free = shutil.disk_usage(ROOT).free / 1e9
    good = free >= DISK_GB
    yield Check("disk", good, f"{free:.1f} GB free", "" if good else f"make clean, or free {DISK_GB:g} GB")


def memory() -> Iterator[Check]:
    """Room for one notebook of the quick profile."""
    import psutil

    free = psutil.virtual_memory().available / 1e9
    good = free >= MEMORY_GB
    mend = "" if good else f"close other programs: a notebook may use {MEMORY_GB:g} GB"
    yield Check("memory", good, f"{free:.1f} GB available", mend)


def writable() -> Iterator[Check]:
    """The folder for caches and reports can be written, and so can notebooks/."""
    work = Path(os.environ.get("VLMLAB_WORK") or "runs")
    for name, folder in (("build", work), ("notebooks", ROOT / "notebooks")):
        if name == "notebooks" and not folder.is_dir():
            continue
        there = next((parent for parent in (folder.resolve(), *folder.resolve().parents) if parent.exists()), None)
        try:
            with tempfile.TemporaryFile(dir=there):
                pass
        except OSError as error:
            yield Check("write", False, f"cannot write to {folder} ({error.strerror})", f"chmod u+w {there}")
        else:
            yield Check("write", True, f"{folder} can be written")


def gpu() -> Iterator[Check]:
    """Which GPU PyTorch sees; none is fine."""
    import torch as library

    if library.cuda.is_available():
        properties = library.cuda.get_device_properties(0)
        detail = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, CUDA {library.version.cuda}"
    elif library.backends.mps.is_available():
        detail = "Apple MPS"
    else:
        detail = "none; the quick profile needs none (environment.yml sets up a CUDA workstation)"
    yield Check("gpu", True, detail, note=True)
