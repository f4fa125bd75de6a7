"""Notebook 03. Instruction data in LLaVA's format: pictures, teachers' replies, checked records, and a report.

    images/000123.png    the picture of each scene
    replies.jsonl        what the teacher said, a line a scene and kind, as it came
    instruct.json        the records that are kept: {"id", "image", "conversations": [{"from", "value"}, ...]}
    report.json          how many are kept, and what was wrong with the others, by kind
    settings.json        what the replies depend on

Replies are asked for once; a run that was stopped goes on, and one for more scenes or kinds adds to what is there.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from vlmlab import runtime
from vlmlab.benchmarks.records import Record, finished, lines
from vlmlab.errors import BadInput
from vlmlab.files import atomic_path, read_json, write_json
from vlmlab.instruction.checking import Judged, review, summarise
from vlmlab.instruction.context import KINDS, Told, known, tell
from vlmlab.instruction.prompts import prefix
from vlmlab.instruction.replies import DETAILED
from vlmlab.instruction.teachers import Teacher
from vlmlab.scenes import Scene, sample
from vlmlab.vlm.templates import IMAGE, Turn

SIZE = 96  # pixels a side of the pictures


def make(
    teacher: Teacher,
    folder: str | os.PathLike,
    scenes: int,
    kinds: Sequence[str] = KINDS,
    first_seed: int = 0,
    split: str = "train",
    progress: Callable[[int, int], object] | None = None,
) -> dict[str, Any]:
    """Have a teacher write about scenes `first_seed` .. `first_seed + scenes - 1` of a split; keep what is right.

    Args:
        kinds: some of context.KINDS. progress: called with (replies so far, all).
    Returns:
        What report.json holds: {"teacher", "scenes", "records", "kinds": {kind: see checking.summarise}}.
    Raises UnknownName for a kind or split; BadInput for a folder with replies of other settings.
    """
    folder = Path(folder)
    seeds = range(first_seed, first_seed + scenes)
    for kind in kinds:
        known(kind)
    _settle(folder, _settings(teacher.name, split))
    replies = _replies(finished(folder / "replies.jsonl"))
    wanted = [(kind, seed) for kind in kinds for seed in seeds if (kind, seed) not in replies]
    done = len(kinds) * scenes - len(wanted)
    described = cache(lambda seed: _tell(sample(seed, split=split), folder))  # rendered once for all kinds
    for kind, batch in _batches(wanted, teacher.batch):
        told = [described(seed) for seed in batch]
        with open(folder / "replies.jsonl", "a", encoding="utf-8") as file:
            for seed, reply in zip(batch, teacher.ask(kind, told), strict=True):
                replies[kind, seed] = reply
                file.write(json.dumps({"kind": kind, "seed": seed, "reply": reply}, ensure_ascii=False) + "\n")
        done += len(batch)
        if progress:
            progress(done, len(kinds) * scenes)
    return _collect(folder, teacher, split, {key: replies[key] for key in sorted(replies)})


def recorded(name: str) -> dict[tuple[str, int], str]:
    """A teacher's replies that are kept in data/instruction, by kind and seed of a scene of the split `train`.

    Raises BadInput where there are none, or where they answer other prompts than those of today.
    """
    folder = runtime.data_dir() / "instruction" / name
    again = f"make them again: vlmlab instruct --teacher {name} --scenes N --out {folder}"
    if not folder.is_dir():
        raise BadInput(f"data/instruction holds no replies of {name!r}; {again}")
    if read_json(folder / "settings.json") != _settings(name, "train"):
        raise BadInput(f"{folder} holds replies to other prompts than today's; empty it and {again}")
    return _replies(lines(folder / "replies.jsonl"))


def record(identifier: str, image: str, pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """A record of LLaVA's: the image stands in the first human turn."""
    turns: list[Turn] = []
    for number, (question, answer) in enumerate(pairs):
        turns.append({"from": "human", "value": question if number else f"{IMAGE}\n{question}"})
        turns.append({"from": "gpt", "value": answer})
    return {"id": identifier, "image": image, "conversations": turns}


def _collect(folder: Path, teacher: Teacher, split: str, replies: dict[tuple[str, int], str]) -> dict[str, Any]:
    """Judge all replies, write the records that are kept and the report."""
    records = []
    found: dict[str, list[tuple[Any, list[Judged]]]] = {}
    for (kind, seed), reply in replies.items():
        parsed, judged = review(sample(seed, split=split), reply, kind, DETAILED[seed % len(DETAILED)])
        found.setdefault(kind, []).append((parsed, judged))
        kept = [(each.question, each.answer) for each in judged if each.kept]
        if kept:
            records.append(record(f"{seed:06d}-{kind}", _name(seed), kept))
    report = {
        "teacher": teacher.name,
        "scenes": len({seed for _, seed in replies}),
        "records": len(records),
        "kinds": {kind: summarise(each) for kind, each in found.items()},
    }
    write_json(folder / "instruct.json", records)
    write_json(folder / "report.json", report)
    return report


def _tell(scene: Scene, folder: Path) -> Told:
    """What a teacher is told of a scene, whose picture is written on the way."""
    from PIL import Image

    render, path = scene.render(SIZE), folder / "images" / _name(scene.seed or 0)
    if not path.exists():
        with atomic_path(path) as temporary:
            Image.fromarray(render.rgb).save(temporary, format="PNG")
    return tell(scene, render.boxes, SIZE)


def _name(seed: int) -> str:
    return f"{seed:06d}.png"


def _settings(teacher: str, split: str) -> dict[str, Any]:
    """What replies depend on."""
    prompts = hashlib.sha256(json.dumps([prefix(kind) for kind in KINDS]).encode()).hexdigest()[:16]
    return {"teacher": teacher, "split": split, "size": SIZE, "prompts": prompts}


def _settle(folder: Path, settings: dict[str, Any]) -> None:
    path = folder / "settings.json"
    if not path.exists():
        write_json(path, settings)
    elif (before := read_json(path)) != settings:
        field = next(name for name in settings if before.get(name) != settings[name])
        raise BadInput(
            f"{folder} holds replies with {field} {before.get(field)!r}, not {settings[field]!r}; choose another folder"
        )


def _replies(records: Iterable[Record]) -> dict[tuple[str, int], str]:
    return {(each.need("kind", str), each.need("seed", int)): each.need("reply", str) for each in records}


def _batches(wanted: Sequence[tuple[str, int]], size: int) -> Iterator[tuple[str, list[int]]]:
    """Batches of one kind."""
    for kind in dict.fromkeys(kind for kind, _ in wanted):
        seeds = [seed for each, seed in wanted if each == kind]
        for start in range(0, len(seeds), size):
            yield kind, seeds[start : start + size]
