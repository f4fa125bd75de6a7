"""Notebook 00. Many rendered scenes on disk, memory-mapped: built on all cores, resumable, the same bytes each time."""

import json
import os
from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import overload

import numpy as np

from vlmlab.errors import BadInput
from vlmlab.files import read_json, write_json
from vlmlab.runtime import cores
from vlmlab.scenes.rendering import Render
from vlmlab.scenes.sampling import sample
from vlmlab.scenes.scene import Scene

CHUNK = 64  # scenes between two marks of progress


class SceneDataset:
    """A built folder: `rgb` uint8 (N, S, S, 3) and `mask` uint8 (N, S, S) memory-mapped, `scenes[i]` its facts.

    Raises BadInput when the folder holds no complete dataset.
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = Path(folder)
        self.meta = read_json(self.folder / "meta.json")
        done = read_json(self.folder / "progress.json")["done"]
        if done != self.meta["count"]:
            raise BadInput(f"{folder} holds {done} of {self.meta['count']} scenes; build it again to finish it")
        self.rgb = np.load(self.folder / "rgb.npy", mmap_mode="r")
        self.mask = np.load(self.folder / "mask.npy", mmap_mode="r")

    def __len__(self) -> int:
        return self.meta["count"]

    @cached_property
    def scenes(self) -> "Scenes":
        """The scenes, in order."""
        return Scenes((self.folder / "scenes.jsonl").read_bytes().splitlines())


class Scenes(Sequence[Scene]):
    """Scenes kept as lines of JSON and read anew at each look: a scene that was looked at keeps its geometry, and tens
    of thousands of them would fill the memory."""

    def __init__(self, lines: list[bytes]):
        self.lines = lines

    def __len__(self) -> int:
        return len(self.lines)

    @overload
    def __getitem__(self, index: int) -> Scene: ...
    @overload
    def __getitem__(self, index: slice) -> list[Scene]: ...
    def __getitem__(self, index: int | slice) -> Scene | list[Scene]:
        if isinstance(index, slice):
            return [Scene.from_json(line.decode()) for line in self.lines[index]]
        return Scene.from_json(self.lines[index].decode())


def build(
    folder: str | os.PathLike,
    count: int,
    *,
    split: str = "train",
    size: int = 96,
    first_seed: int = 0,
    workers: int | None = None,
    progress: bool = True,
    **constraints,
) -> SceneDataset:
    """Render scenes `first_seed` .. `first_seed + count - 1` of a split into `folder`; go on where a kill stopped.

    Args:
        count: scenes; size: pixels a side; workers: processes (all cores when None); constraints: see sampling.sample.
    Raises BadInput when the folder holds a dataset of other settings.
    """
    folder = Path(folder)
    meta = {"count": count, "split": split, "size": size, "first_seed": first_seed, "constraints": constraints}
    meta = json.loads(json.dumps(meta))
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "meta.json").exists():
        if read_json(folder / "meta.json") != meta:
            raise BadInput(f"{folder} holds a dataset of other settings; choose another folder or delete it")
    else:
        _allocate(folder, count, size)
        write_json(folder / "progress.json", {"done": 0, "bytes": 0})
        write_json(folder / "meta.json", meta)
    _fill(folder, meta, workers or cores(), progress)
    return SceneDataset(folder)


def _allocate(folder: Path, count: int, size: int) -> None:
    for name, shape in (("rgb", (count, size, size, 3)), ("mask", (count, size, size))):
        np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.uint8, shape)
    (folder / "scenes.jsonl").write_bytes(b"")


def _fill(folder: Path, meta: dict, workers: int, progress: bool) -> None:
    state = read_json(folder / "progress.json")
    if state["done"] == meta["count"]:
        return
    rgb, mask = (np.load(folder / f"{name}.npy", mmap_mode="r+") for name in ("rgb", "mask"))
    with open(folder / "scenes.jsonl", "r+b") as file:
        file.truncate(state["bytes"])  # drop what a killed run wrote after its last mark
        file.seek(state["bytes"])
        done = state["done"]
        for lines, pictures, masks in _tracked(_rendered(meta, done, workers), done, meta["count"], progress):
            stop = done + len(pictures)
            rgb[done:stop], mask[done:stop] = pictures, masks
            rgb.flush(), mask.flush()
            file.write("".join(line + "\n" for line in lines).encode())
            file.flush()
            os.fsync(file.fileno())
            done = stop
            write_json(folder / "progress.json", {"done": done, "bytes": file.tell()})


def _chunk(bounds: tuple[int, int], meta: dict) -> tuple[list[str], np.ndarray, np.ndarray]:
    scenes = [
        sample(meta["first_seed"] + i, split=meta["split"], **_tuples(meta["constraints"])) for i in range(*bounds)
    ]
    renders: list[Render] = [scene.render(meta["size"]) for scene in scenes]
    rgb = np.stack([r.rgb for r in renders])
    return [scene.to_json() for scene in scenes], rgb, np.stack([r.mask for r in renders]).astype(np.uint8)


def _tuples(constraints: dict) -> dict:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in constraints.items()}


def _rendered(meta: dict, done: int, workers: int) -> Iterator:
    bounds = [(start, min(start + CHUNK, meta["count"])) for start in range(done, meta["count"], CHUNK)]
    work = partial(_chunk, meta=meta)
    if workers == 1 or len(bounds) == 1:
        yield from map(work, bounds)
        return
    from multiprocessing import get_context

    with get_context("spawn").Pool(min(workers, len(bounds))) as pool:
        yield from pool.imap(work, bounds)


def _tracked(chunks: Iterator, done: int, total: int, show: bool) -> Iterator:
    """Pass chunks on, with a progress bar where the terminal can show one."""
    if not show:
        yield from chunks
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    with Progress(
        "rendering", BarColumn(), MofNCompleteColumn(), "scenes", TimeRemainingColumn(), transient=True
    ) as bar:
        task = bar.add_task("", total=total, completed=done)
        for chunk in chunks:
            yield chunk
            bar.advance(task, len(chunk[1]))
