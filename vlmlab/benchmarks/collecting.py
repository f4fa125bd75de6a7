"""Notebook 05. A model's answers in a file, batch by batch: a killed run goes on, and several processes share one.

Batches are always the same ones, since what else stands in a batch may move a logit's last bits: an interrupted run,
and one of several processes, ends with the bytes of an uninterrupted one.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from vlmlab.benchmarks.asking import Ask, Key, Said, decode, encode
from vlmlab.errors import BadInput
from vlmlab.files import read_json, write_json, write_text

PATIENCE = timedelta(days=1)  # how long one process waits for another's share


@dataclass(frozen=True)
class Processes:
    """The processes of a run: which one this is, how many there are, and how it waits for the others."""

    index: int = 0
    count: int = 1
    wait: Callable[[], object] = lambda: None

    @property
    def main(self) -> bool:
        """Whether this is the one that merges, scores and prints."""
        return self.index == 0


ALONE = Processes()


def processes(cpu: bool) -> Processes:
    """The processes that `accelerate launch` started, or this one alone; cpu: they run on the CPU.

    Each process's "cuda" is a GPU of its own afterwards, so ask before a model is loaded.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return ALONE
    from accelerate import PartialState

    state = PartialState(cpu=cpu, timeout=PATIENCE)
    return Processes(state.process_index, state.num_processes, state.wait_for_everyone)


def claim(folder: Path, settings: Mapping[str, Any]) -> None:
    """Take a folder for the run of these settings, in run.json.

    Raises BadInput where it holds answers of a run with other settings; it names the first that differs.
    """
    path, settings = folder / "run.json", json.loads(json.dumps(settings))
    cure = "use another folder (--out), or delete this one"
    if path.exists():
        before = read_json(path)
        for name, now in settings.items():
            then = before.get(name) if isinstance(before, dict) else None
            if then != now:
                raise BadInput(f"{folder} holds another run: {name} was {then!r} and is {now!r} now; {cure}")
    elif found := next(folder.glob("*.jsonl"), None):
        raise BadInput(f"{found} is there without the run.json that says what it answers; {cure}")
    else:
        write_json(path, settings)


def collect(
    path: Path,
    asks: Sequence[Ask],
    answer: Callable[[Sequence[Ask]], Sequence[Said]],
    batch_size: int,
    among: Processes = ALONE,
    progress: Callable[[int], object] | None = None,
) -> dict[Key, Said]:
    """The answers to all questions in their order, from the file where they are there, else from `answer`.

    Args:
        path: the file of answers. Each process appends its share to a file beside it; the main one puts them together.
        answer: batch -> answers. A kill loses one batch at most.
        progress: called after each batch with the number of answers so far.
    """
    batches = [asks[start : start + batch_size] for start in range(0, len(asks), batch_size)]
    if among.main:
        _merge(path, batches)
    among.wait()
    done = decode(path)
    left = [batch for batch in batches if batch[0].key not in done]
    so_far = len(done)
    if progress:
        progress(so_far)
    if mine := left[among.index :: among.count]:
        with open(_parts(path) / f"{among.index}.jsonl", "w", encoding="utf-8") as file:
            for batch in mine:
                said = answer(batch)
                file.write("".join(encode(ask.key, one) for ask, one in zip(batch, said, strict=True)))
                file.flush()
                so_far += len(batch) * among.count
                if progress:
                    progress(min(so_far, len(asks)))
    among.wait()
    if among.main:
        _merge(path, batches)
    among.wait()
    return decode(path)


def _parts(path: Path) -> Path:
    """The folder of the processes' shares."""
    return path.with_suffix(".parts")


def _merge(path: Path, batches: Sequence[Sequence[Ask]]) -> None:
    """Put whole batches from the shares into the file, in order, and begin new shares."""
    _parts(path).mkdir(parents=True, exist_ok=True)
    shares = sorted(_parts(path).iterdir())
    found = decode(path)
    for share in shares:
        found |= decode(share)
    whole = [batch for batch in batches if all(ask.key in found for ask in batch)]
    write_text(path, "".join(encode(ask.key, found[ask.key]) for batch in whole for ask in batch))
    for share in shares:
        share.unlink()
    if len(whole) == len(batches):
        _parts(path).rmdir()
