"""Files written whole or not at all: a temporary name beside the target, then a rename."""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from vlmlab.errors import BadCheckpoint, BadInput

SCALE = ".scale of rows"  # no parameter's name has blanks


@contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path in the same folder; rename it to `path` if the block ends without an error."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp makes private files; the target should look like any other
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Write `value` as indented JSON atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: str | os.PathLike) -> Any:
    """Read JSON; raise BadInput naming the file when it is missing or damaged."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadInput(f"no such file: {path}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} is not valid JSON ({error}); write it again or restore it from git") from None


def sha256(path: str | os.PathLike) -> str:
    """Hexadecimal SHA-256 of a file's bytes, read in pieces."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tensors_sha256(tensors: Iterable[tuple[str, torch.Tensor]], start: str = "") -> str:
    """Hexadecimal SHA-256 of `start`, then of each tensor's name and bytes, in the order given."""
    digest = hashlib.sha256(start.encode())
    for name, value in tensors:
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def write_tensors(
    path: str | os.PathLike, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Write named tensors as safetensors, atomically."""
    from safetensors.torch import save_file

    with atomic_path(path) as temporary:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, temporary, metadata)


def halves(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Floating-point tensors as fp16."""
    return {key: value.half() if value.is_floating_point() else value for key, value in tensors.items()}


def packed(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Matrices in 8 bits a weight, half the bytes of fp16; all else that floats in fp16.

    A row of a weight (all that belongs to one output) is stored as round(w / s) with s = max |w| / 127 beside it in
    fp32, under the name + SCALE. What was rounded is off by at most s / 2.
    """
    stored = {}
    for name, value in tensors.items():
        if value.is_floating_point() and value.ndim > 1:
            rows = value.float().flatten(1)
            scale = rows.abs().amax(1, keepdim=True) / 127
            steps = rows / scale.clamp(min=torch.finfo(torch.float32).tiny)
            stored[name] = steps.round().to(torch.int8).view(value.shape)
            stored[name + SCALE] = scale
        else:
            stored[name] = value.half() if value.is_floating_point() else value
    return stored


def unpacked(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What `packed` stored, in fp32; other tensors as they are."""
    found = {name: value for name, value in tensors.items() if not name.endswith(SCALE)}
    for name, scale in tensors.items():
        if name.endswith(SCALE):
            key = name.removesuffix(SCALE)
            found[key] = (found[key].flatten(1).float() * scale).view(found[key].shape)
    return found


def read_tensors(path: str | os.PathLike, cure: str = "") -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Read a safetensors file; return its tensors, those in 8 bits `unpacked`, and its metadata.

    cure: what to do about a damaged one; by default to restore it from git or to train it again.
    Raises BadCheckpoint when the file is missing, empty, truncated or not safetensors.
    """
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():
        raise BadCheckpoint(f"no such checkpoint: {path}")
    try:
        with safe_open(str(path), framework="pt") as file:
            names = file.keys()
            tensors = {name: file.get_tensor(name) for name in names}
            return unpacked(tensors), file.metadata() or {}
    except (SafetensorError, OSError, ValueError) as error:
        cure = cure or f"restore it (git checkout -- {path}) or train it again"
        raise BadCheckpoint(f"{path} is damaged ({error}); {cure}") from None
