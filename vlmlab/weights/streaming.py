"""Checkpoints read tensor by tensor: safetensors or torch.save, one file or several shards. Notebook 16.

Opening reads names, shapes and types alone. Reading maps a file into memory, hands its tensors out one after the other
and lets go of the file after each GROUP bytes, so that a program holds the model that it fills and little more.
Nothing in a file is run: torch.load(weights_only=True). A byte changed inside a tensor cannot be noticed: neither
format is read with a checksum.
"""

import argparse
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vlmlab.errors import BadCheckpoint, BadInput
from vlmlab.files import read_json

AGAIN = "copy or download it again"
GROUP = 2**26  # bytes read from a file before it is let go of
INDEX = ".index.json"
USUAL = ("model.safetensors", f"model.safetensors{INDEX}", "pytorch_model.bin", f"pytorch_model.bin{INDEX}")
SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")
_NUMBER: Any = np.float64(0).__reduce__()[0]  # the function that makes one
# What training programs leave beside the weights: their options, and NumPy's numbers. None of these runs code.
HARMLESS: list[Any] = [
    argparse.Namespace,
    np.dtype,
    type(np.dtype(np.float32)),
    type(np.dtype(np.float64)),
    (_NUMBER, "numpy._core.multiarray.scalar"),
    (_NUMBER, "numpy.core.multiarray.scalar"),  # as NumPy 1 wrote it
]


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds, not read yet.

    where: the file or folder, for messages. tensors: name -> a tensor of that shape and type on the meta device.
    read: (names) -> pairs of name and tensor, in the files' order; a tensor is to be copied before the next one.
    """

    where: Path
    tensors: Mapping[str, Tensor]
    read: Callable[[Iterable[str]], Iterator[tuple[str, Tensor]]]


def open_checkpoint(path: str | os.PathLike) -> Checkpoint:
    """The checkpoint at `path`: a file, an index of shards (`*.index.json`), or a folder with one of these.

    In a folder, transformers' usual names come first (USUAL), then the only file of weights there is. A file of
    torch.save may hold its weights as "state_dict" or "model"; of a dict of parts, a name is "part.name".
    Raises BadCheckpoint, which names the file, for what is missing, damaged, incomplete or no tensors.
    """
    path = Path(path)
    if path.is_dir():
        path = _in_folder(path)
    if not path.is_file():
        raise BadCheckpoint(f"no such checkpoint: {path}")
    if path.name.endswith(INDEX):
        return _shards(path)
    return _safetensors(path) if path.suffix == ".safetensors" else _torch(path)


def _in_folder(folder: Path) -> Path:
    found = [folder / name for name in USUAL if (folder / name).is_file()]
    found = found or sorted(file for file in folder.iterdir() if file.suffix in SUFFIXES and file.is_file())
    if not found:
        raise BadCheckpoint(f"{folder} holds no weights (looked for {', '.join(USUAL)}, or one file of another name)")
    if len(found) > 1 and found[0].name not in USUAL:
        raise BadCheckpoint(f"{folder} holds {', '.join(file.name for file in found)}; give the one to read")
    return found[0]


def _groups(names: Iterable[str], tensors: Mapping[str, Tensor]) -> Iterator[list[str]]:
    """Names in groups of about GROUP bytes, in the order of `tensors`."""
    group, size, wanted = [], 0, set(names)
    for name in tensors:
        if name in wanted:
            group.append(name)
            size += tensors[name].nbytes
            if size >= GROUP:
                yield group
                group, size = [], 0
    if group:
        yield group


# ---------------------------------------------------------------- safetensors
def _safetensors(path: Path) -> Checkpoint:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            names = file.keys()
            tensors = {name: torch.empty_like(file.get_tensor(name), device="meta") for name in names}
    except (SafetensorError, OSError, ValueError) as error:
        raise BadCheckpoint(f"{path} is damaged ({error}); {AGAIN}") from None

    def read(names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
        for group in _groups(names, tensors):
            with safe_open(str(path), framework="pt") as file:
                for name in group:
                    yield name, file.get_tensor(name)

    return Checkpoint(path, tensors, read)


# ---------------------------------------------------------------- torch.save
def _torch(path: Path) -> Checkpoint:
    weights, mapped = _load(path)
    tensors = {name: torch.empty(value.shape, dtype=value.dtype, device="meta") for name, value in weights.items()}
    del weights

    def read(names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
        # What cannot be mapped is read once and whole.
        for group in _groups(names, tensors) if mapped else [[name for name in tensors if name in set(names)]]:
            weights, _ = _load(path)
            for name in group:
                yield name, weights.pop(name)
            del weights

    return Checkpoint(path, tensors, read)


def _load(path: Path) -> tuple[dict[str, Tensor], bool]:
    """The named tensors of a file, and whether they are mapped; files before PyTorch 1.6 cannot be."""
    for mapped in (True, False):
        try:
            with torch.serialization.safe_globals(HARMLESS):
                return _named(torch.load(path, map_location="cpu", weights_only=True, mmap=mapped), path), mapped
        except BadCheckpoint:
            raise
        except Exception as error:  # the reader meets damaged data with errors of any class
            if mapped and "mmap can only be used" in str(error):
                continue
            refused = re.search(r"GLOBAL (\S+)", str(error))
            if refused:
                raise BadCheckpoint(
                    f"{path} holds a {refused[1]}, which is not read because it could run code; where the file was "
                    "made, save its state_dict alone as safetensors"
                ) from None
            reason = str(error).split("\n")[0][:120] or type(error).__name__
            raise BadCheckpoint(f"{path} is damaged ({reason}); {AGAIN}") from None
    raise AssertionError("unreachable")


def _named(content: Any, path: Path) -> dict[str, Tensor]:
    """The tensors of what a file holds, by name."""
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not isinstance(content, Mapping) or not content:
        raise BadCheckpoint(f"{path} holds no state_dict; give the file with a model's weights")
    named: dict[str, Any] = {}
    for key, value in content.items():
        named |= (
            {f"{key}.{name}": inner for name, inner in value.items()} if isinstance(value, Mapping) else {key: value}
        )
    for key, value in named.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise BadCheckpoint(f"{path}: {key!r} is a {type(value).__name__}, not a tensor; give a file of weights")
        if value.layout != torch.strided or value.is_quantized:
            raise BadCheckpoint(f"{path}: {key} is sparse or quantised; save it as an ordinary tensor")
    return named


# ---------------------------------------------------------------- shards
def _shards(index: Path) -> Checkpoint:
    """The checkpoint whose index says which file holds which tensor."""
    try:
        listing = read_json(index)
        places: dict[str, str] = dict(listing["weight_map"])
    except (BadInput, KeyError, TypeError, ValueError) as error:
        raise BadCheckpoint(f"{index} is no index of shards ({error}); {AGAIN}") from None
    files = sorted(set(places.values()))
    if not files or any(Path(file).name != file for file in files):
        raise BadCheckpoint(f"{index} names no files beside it; {AGAIN}")
    shards = [open_checkpoint(index.parent / file) for file in files]
    tensors: dict[str, Tensor] = {}
    for shard in shards:
        for name in shard.tensors:
            if name in tensors:
                raise BadCheckpoint(f"{shard.where} holds {name}, which an earlier shard holds too; {AGAIN}")
        tensors |= shard.tensors
    for name, file in places.items():
        if name not in tensors:
            raise BadCheckpoint(f"{index.parent / file} lacks {name}, which {index.name} says it holds; {AGAIN}")

    def read(names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
        wanted: Sequence[str] = list(names)
        for shard in shards:
            yield from shard.read(name for name in wanted if name in shard.tensors)

    return Checkpoint(index.parent, tensors, read)
