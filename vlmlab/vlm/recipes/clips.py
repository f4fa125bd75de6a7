"""Recipes of adapters for clips: LoRAs beside a finished VLM, trained on questions about clips. Notebook 12."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256 as digest_of
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from vlmlab import runtime
from vlmlab.files import atomic_path, sha256, write_text
from vlmlab.scenes import Clip, sample_clip
from vlmlab.scenes.clip_events import SIZE
from vlmlab.scenes.clip_questions import TYPES, Balance, ClipQuestion
from vlmlab.vlm import lora, pretraining
from vlmlab.vlm.clips import SIDE, prompt_ids
from vlmlab.vlm.conversations import KINDS, Item
from vlmlab.vlm.corpus import Packed, encode_item
from vlmlab.vlm.model import VLM
from vlmlab.vlm.presets import get_preset
from vlmlab.vlm.recipes.common import ENCODERS, draw, features, fill_from_runs, finished, tokenizer, trained
from vlmlab.vlm.recipes.table import Recipe
from vlmlab.vlm.splice import IGNORE
from vlmlab.vlm.trainer import TrainResult
from vlmlab.vlm.training_setup import Loss, main_first

FRAMES = 8  # of every clip; half of the rows show fewer
PART = 64  # clips rendered between two marks of progress
BUDGET = 300  # tokens of questions in a row
RANK, ALPHA = 16, 32.0
NOW = tuple(kind for kind in TYPES if kind != "next")  # asked about all frames that are shown


@dataclass(frozen=True)
class Film:
    """Rendered clips: rgb uint8 (N * FRAMES, S, S, 3), the frames of a clip in a row; lines: N clips as JSON."""

    folder: Path
    rgb: np.ndarray
    lines: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.rgb)


def film(count: int, split: str = "train") -> Film:
    """The clips of seeds 0 to count - 1 of a split, rendered once; goes on where a kill stopped."""
    folder = runtime.work_dir() / "cache" / f"clips-{split}-{count}"
    path, parts = folder / "rgb.npy", {start: folder / f"{start:06d}.jsonl" for start in range(0, count, PART)}
    if not path.exists():
        with atomic_path(path) as temporary:
            np.lib.format.open_memmap(temporary, "w+", np.uint8, (count * FRAMES, SIZE, SIZE, 3)).flush()
    missing = [start for start, part in parts.items() if not part.exists()]
    if missing:
        rgb = np.load(path, mmap_mode="r+")
        for start, (lines, pictures) in zip(missing, _rendered(missing, count, split), strict=True):
            rgb[start * FRAMES : start * FRAMES + len(pictures)] = pictures
            rgb.flush()
            write_text(parts[start], "\n".join(lines))  # last, since it says that the pictures are there
            if start // PART % 8 == 0:
                print(f"clips of {split}: {min(start + PART, count)} of {count} rendered", flush=True)
    told = tuple(line for part in parts.values() for line in part.read_text(encoding="utf-8").splitlines())
    return Film(folder, np.load(path, mmap_mode="r"), told)


def _rendered(starts: Sequence[int], count: int, split: str) -> Iterator[tuple[list[str], np.ndarray]]:
    work = partial(_part, count=count, split=split)
    workers = min(runtime.cores(), len(starts))
    if workers == 1:
        yield from map(work, starts)
        return
    from multiprocessing import get_context

    with get_context("spawn").Pool(workers) as pool:
        yield from pool.imap(work, starts)


def _part(start: int, count: int, split: str) -> tuple[list[str], np.ndarray]:
    clips = [sample_clip(seed, frames=FRAMES, split=split) for seed in range(start, min(start + PART, count))]
    return [clip.to_json() for clip in clips], np.concatenate([clip.render(SIZE) for clip in clips])


class Rows(NamedTuple):
    """What each row shows and asks. clip, shown (R,): the first `shown` frames of a clip.

    ids, labelled, segment, kinds (M,): tokens of all rows, cut by bounds (R + 1,): what is before the clip,
    placeholders and questions; whether a token carries loss; 0 before the questions, k the k-th; index into TYPES.
    """

    clip: np.ndarray
    shown: np.ndarray
    ids: np.ndarray
    labelled: np.ndarray
    segment: np.ndarray
    kinds: np.ndarray
    bounds: np.ndarray


def asked(clip: Clip, rng: np.random.Generator, balance: Balance) -> tuple[int, list[ClipQuestion]]:
    """How many frames of a clip are shown, and balanced questions about these, with the truth of these.

    Half of the clips are shown whole. Of the others as many frames as a question about what comes next wants, where
    there is one, else any number.
    """
    shown, following = len(clip), []
    if rng.random() < 0.5:
        shown = int(rng.integers(1, len(clip)))
        if later := clip.questions(types=("next",), count=6):
            shown = later[0].shown
            following = [q for q in later if q.shown == shown]
    found = following + clip.prefix(shown).questions(types=NOW, count=12)
    return shown, [q for q in found if balance.keep(q)]


def rows(vlm: VLM, given: Film) -> Rows:
    """Questions about a film's clips as rows for a model, built once for each template."""
    marks = (sha256(finished("tokenizer")), vlm.config.template, str(vlm.config.system), str(SIDE), str(BUDGET))
    mark = digest_of(" ".join(marks).encode()).hexdigest()[:12]
    path = given.folder.with_name(f"questions-{mark}-{given.folder.name}.npz")
    if not path.exists():
        built = _build(vlm, given)
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, **built._asdict())
    with np.load(path) as arrays:
        return Rows(**arrays)


def _build(vlm: VLM, given: Film) -> Rows:
    words, balance = tokenizer(), Balance()
    facts: list[tuple[int, int, int]] = []  # clip, frames shown, tokens
    columns: tuple[list[np.ndarray], ...] = ([], [], [], [])
    for index, line in enumerate(given.lines):
        shown, questions = asked(Clip.from_json(line), np.random.default_rng([15, index]), balance)
        before = prompt_ids(vlm, "?", shown * SIDE**2)
        before = before[: len(before) - before[::-1].index(vlm.image_id)]  # up to the last placeholder
        parts, answers, kinds, room = [before], [0], [0], BUDGET
        for q in questions:
            ids, answer = encode_item(Item(q.type, q.text, q.sentence), words, vlm.template)
            if len(ids) <= room:
                parts.append(ids)
                answers.append(answer)
                kinds.append(TYPES.index(q.type))
                room -= len(ids)
        if len(parts) == 1:
            continue
        lengths = [len(part) for part in parts]
        segment = np.repeat(np.arange(len(parts)), lengths)
        from_end = np.concatenate([np.arange(n, 0, -1) for n in lengths])  # 1 at a question's last token
        facts.append((index, shown, len(segment)))
        row = (np.concatenate(parts), from_end <= np.array(answers)[segment], segment, np.array(kinds)[segment])
        for column, values in zip(columns, row, strict=True):
            column.append(values)
    clip, frames, sizes = np.array(facts).T
    flat = [np.concatenate(column).astype(t) for column, t in zip(columns, ("i4", "?", "u1", "u1"), strict=True)]
    return Rows(clip, frames, flat[0], flat[1], flat[2], flat[3], np.cumsum([0, *sizes]))


def pack(
    data: Rows, chosen: Sequence[int] | np.ndarray, blind: Sequence[bool] | np.ndarray, image_id: int, pad_id: int
) -> Packed:
    """A batch of rows; those that are blind are without their clip. `kinds` are indices into TYPES."""
    columns: tuple[list[np.ndarray], ...] = ([], [], [], [])
    for row, hidden in zip(chosen, blind, strict=True):
        part = slice(data.bounds[row], data.bounds[row + 1])
        ids, loss, segment, kinds = (a[part] for a in (data.ids, data.labelled, data.segment, data.kinds))
        values = (ids, np.where(loss, ids, IGNORE), segment, np.where(loss, kinds.astype(int), -1))
        for column, value in zip(columns, values, strict=True):
            column.append(value[ids != image_id if hidden else slice(None)].astype(np.int64))
    length = max(map(len, columns[0]))
    stacked = [
        torch.from_numpy(np.stack([np.pad(value, (0, length - len(value)), constant_values=fill) for value in column]))
        for column, fill in zip(columns, (pad_id, IGNORE, -1, -1), strict=True)
    ]
    return Packed(stacked[0], stacked[1], stacked[2], stacked[3], torch.from_numpy(np.asarray(chosen, np.int64)))


def train_clips(recipe: Recipe, resume: bool) -> TrainResult:
    """Train LoRAs in some parts of a finished VLM, and leave them as adapters.safetensors; features are computed once.

    A frame is an image of K tokens, so that rows of one batch may show different numbers of frames.
    """
    words = tokenizer()
    vlm = VLM.from_preset(get_preset(recipe.preset), "auto", words, seed=recipe.train.seed)
    fill_from_runs(vlm, recipe.needs)
    encoders = [finished(name) for name in recipe.needs if name in ENCODERS]
    with main_first():
        shot, held = film(recipe.scenes), film(recipe.checks, "val")
    seen, held_seen = (features(vlm, each, encoders, SIDE) for each in (shot, held))
    with main_first():
        data, held_data = (rows(vlm, each) for each in (shot, held))
    marks = (vlm.image_id, words.id("<pad>"))
    lora.attach(vlm, RANK, ALPHA, recipe.parts, torch.Generator(vlm.device).manual_seed(recipe.train.seed))

    def images(known: np.ndarray, given: Rows, chosen: np.ndarray) -> Tensor:  # (all frames of these rows, K, D_v)
        starts = given.clip[chosen] * FRAMES
        wanted = [np.arange(start, start + given.shown[row]) for start, row in zip(starts, chosen, strict=True)]
        return torch.from_numpy(known[np.concatenate([*wanted, np.zeros(0, np.int64)])]).float()

    def batch(step: int, rank: int, processes: int) -> tuple[Packed, Tensor]:
        chosen, rng = draw(recipe, step, len(data.clip))
        blind = rng.random(len(chosen)) < recipe.blind
        own = np.arange(len(chosen))[rank::processes]
        return (
            pack(data, chosen, blind, *marks).share(rank, processes),
            images(seen, data, chosen[own[~blind[own]]]),
        )

    def loss(given: tuple[Packed, Tensor]) -> Loss:
        packed, shown = given
        found = vlm(None, packed.ids, packed.labels, segments=packed.segment, image_features=shown, loss_only=True)
        return found.loss, {}, found.terms

    def evaluate(step: int) -> dict[str, float]:
        found: dict[str, list[Tensor]] = {}
        for start in range(0, len(held_data.clip), 16):
            chosen = np.arange(start, min(start + 16, len(held_data.clip)))
            packed = pack(held_data, chosen, np.zeros(len(chosen), bool), *marks).to(vlm.device)
            shown = images(held_seen, held_data, chosen).to(vlm.device)
            logits = vlm(None, packed.ids, segments=packed.segment, image_features=shown)
            for name, right in pretraining.answers_right(logits, packed).items():
                found.setdefault(TYPES[KINDS.index(name)], []).append(right.float())  # the index is what packed holds
        return {kind: round(float(torch.cat(values).mean()), 4) for kind, values in found.items()}

    result = trained(recipe, vlm, batch, loss, resume, evaluate)
    note = {"recipe": recipe.name, "frames": FRAMES, "side": SIDE}
    lora.save(vlm, adapters(recipe.name), recipe.needs[-1], note=note)
    return result


def adapters(name: str) -> Path:
    """The file of LoRAs that a finished recipe leaves."""
    return finished(name).with_name("adapters.safetensors")
