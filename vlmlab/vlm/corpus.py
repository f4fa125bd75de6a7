"""Scenes' conversations as token ids on disk, and batches that pack many questions behind one image. Notebook 04.

A row of a batch is a prefix (an image, or a text that describes one) and several questions. Each question sees the
prefix and itself, not the other questions: the prefix is computed once, and no answer leaks into another question.
"""

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from vlmlab.errors import BadInput
from vlmlab.files import atomic_path, read_json, sha256, write_json
from vlmlab.language.masks import forked
from vlmlab.language.tokenizer import Tokenizer
from vlmlab.scenes import Scene, sample
from vlmlab.scenes.dataset import SceneDataset
from vlmlab.scenes.questions import Balance
from vlmlab.vlm.conversations import (
    KINDS,
    WORDS,
    Item,
    as_item,
    descriptions,
    statements,
    word_map,
    worksheets,
)
from vlmlab.vlm.splice import IGNORE
from vlmlab.vlm.templates import Template

ITEMS = 2  # raised when `items_of` gives other items, so that no corpus of old ones is taken for new


class Packed(NamedTuple):
    """One batch: ids and labels (B, L).

    segment (B, L): 0 the prefix, k the k-th question, -1 padding. kinds (B, L): index into KINDS at labelled tokens.
    rows (B,): which scenes. words (B, P, S): ids of a word map's cells, -1 where a slot has none; or None.
    """

    ids: Tensor
    labels: Tensor
    segment: Tensor
    kinds: Tensor
    rows: Tensor
    words: Tensor | None = None

    def to(self, device: torch.device) -> "Packed":
        """The same batch on a device."""
        return Packed(*(None if value is None else value.to(device) for value in self))  # type: ignore[arg-type]

    def share(self, rank: int, processes: int) -> "Packed":
        """The rows of one of several processes. Raises BadInput where there are fewer rows than processes."""
        if len(self.ids) < processes:
            raise BadInput(f"{processes} processes cannot share a batch of {len(self.ids)} rows; start fewer of them")
        return Packed(*(None if value is None else value[rank::processes] for value in self))  # type: ignore[arg-type]

    @property
    def visible(self) -> Tensor:
        """(B, L, L) True where a token may look: at the prefix and at its own question, up to itself."""
        return forked(self.segment)[0][:, 0]


@dataclass(frozen=True)
class Corpus:
    """Questions of many scenes as flat arrays.

    tokens: ids of each question from behind the image on. answers: how many of its last ids carry loss. bounds (M + 1,)
    cut tokens into questions, scenes (N + 1,) cut questions into scenes. kinds (M,) index into KINDS.
    """

    tokens: np.ndarray
    answers: np.ndarray
    bounds: np.ndarray
    scenes: np.ndarray
    kinds: np.ndarray
    descriptions: np.ndarray  # flat ids of each scene's full caption, for text-only rows
    description_bounds: np.ndarray
    maps: np.ndarray | None = None  # (N, P, S) word maps, see conversations.word_map
    vocabulary: np.ndarray | None = None  # ids of conversations.WORDS

    def __len__(self) -> int:
        return len(self.scenes) - 1

    def save(self, folder: str | os.PathLike) -> None:
        """Write the arrays as .npy files; `Corpus.load` maps them back."""
        for name, value in vars(self).items():
            if value is not None:
                with atomic_path(Path(folder) / f"{name}.npy") as temporary, open(temporary, "wb") as file:
                    np.save(file, value)

    @classmethod
    def load(cls, folder: str | os.PathLike) -> "Corpus":
        """Read what `save` wrote."""
        names = [name for name in cls.__dataclass_fields__ if (Path(folder) / f"{name}.npy").exists()]
        try:
            return cls(**{name: np.load(Path(folder) / f"{name}.npy", mmap_mode="r") for name in names})
        except TypeError:
            raise BadInput(f"{folder} holds no complete corpus; delete it and build it again") from None


def items_of(scene: Scene, questions: int, balance: Balance, shorts: float = 0.35) -> list[Item]:
    """What a scene gives to learn from, its questions balanced and a share `shorts` of them asked for a word."""
    rng = np.random.default_rng([11, scene.seed or 0])
    asked = [
        as_item(scene, q, bool(rng.random() < shorts)) for q in scene.questions(count=questions) if balance.keep(q)
    ]
    return [*descriptions(scene), *statements(scene), *worksheets(scene), *asked]


def encode_item(item: Item, tokenizer: Tokenizer, template: Template) -> tuple[list[int], int]:
    """Ids of one question behind the image, and how many of the last carry loss."""
    turns = [
        {"from": "human", "value": "<image>\n" + item.question},
        {"from": "gpt", "value": item.places + item.answer},
    ]
    ids, labels = template.encode(turns, tokenizer)
    start = ids.index(tokenizer.id("<image>")) + 1
    return ids[start:], sum(label != IGNORE for label in labels)


def build(
    scenes: Iterable[Scene],
    tokenizer: Tokenizer,
    template: Template,
    *,
    questions: int = 16,
    masks: Iterable[np.ndarray] | None = None,
) -> Corpus:
    """Encode scenes; with their instance masks, also as word maps."""
    tokens, answers, bounds, cuts, kinds = [], [], [0], [0], []
    told, told_bounds, maps = [], [0], []
    balance = Balance()
    for scene, mask in zip(scenes, repeat(None) if masks is None else masks, strict=False):
        for item in items_of(scene, questions, balance):
            ids, labelled = encode_item(item, tokenizer, template)
            tokens.extend(ids)
            answers.append(labelled)
            bounds.append(len(tokens))
            kinds.append(KINDS.index(item.kind))
        cuts.append(len(kinds))
        told.extend(tokenizer.encode(" " + scene.caption("full")))
        told_bounds.append(len(told))
        if mask is not None:
            maps.append(word_map(scene, mask))
    return Corpus(
        np.array(tokens, np.int16), np.array(answers, np.int16), np.array(bounds, np.int64), np.array(cuts, np.int64),
        np.array(kinds, np.uint8), np.array(told, np.int16), np.array(told_bounds, np.int64),
        np.stack(maps) if maps else None, vocabulary(tokenizer) if maps else None,
    )  # fmt: skip


def vocabulary(tokenizer: Tokenizer) -> np.ndarray:
    """The (first) token of each of conversations.WORDS; letters and digits of places are written without a space."""
    return np.array([tokenizer.encode(word if len(word) == 1 else " " + word)[0] for word in WORDS], np.int64)


def _part(
    bounds: tuple[int, int], pictures: str, meta: dict, tokenizer_file: str, template: Template, questions: int
) -> Corpus:
    scenes = (sample(meta["first_seed"] + i, split=meta["split"], **meta["constraints"]) for i in range(*bounds))
    masks = np.load(Path(pictures) / "mask.npy", mmap_mode="r")[slice(*bounds)]
    return build(scenes, Tokenizer.load(tokenizer_file), template, questions=questions, masks=masks)


def build_cached(
    folder: str | os.PathLike,
    pictures: SceneDataset,
    tokenizer_file: str | os.PathLike,
    template: Template,
    *,
    questions: int = 16,
    workers: int = 2,
) -> Corpus:
    """The corpus of a dataset's scenes, with word maps, built once on several processes, then read."""
    folder, count = Path(folder), len(pictures)
    meta = {"scenes": pictures.meta, "questions": questions, "template": template.name, "items": ITEMS,
            "tokenizer": sha256(Path(tokenizer_file))}  # fmt: skip
    if (folder / "meta.json").exists():
        if read_json(folder / "meta.json") != json.loads(json.dumps(meta)):
            raise BadInput(f"{folder} holds a corpus of other settings; choose another folder or delete it")
        return Corpus.load(folder)
    from multiprocessing import get_context

    step = 500  # also the unit in which answers are balanced
    bounds = [(s, min(s + step, count)) for s in range(0, count, step)]
    work = partial(
        _part, pictures=str(pictures.folder), meta=pictures.meta, tokenizer_file=str(tokenizer_file),
        template=template, questions=questions,
    )  # fmt: skip
    with get_context("spawn").Pool(min(workers, len(bounds))) as pool:
        corpus = concatenate(pool.map(work, bounds, chunksize=1))
    corpus.save(folder)
    write_json(folder / "meta.json", meta)
    return corpus


def concatenate(parts: Sequence[Corpus]) -> Corpus:
    """Several corpora one after the other."""

    def joined(name: str) -> np.ndarray:
        return np.concatenate([getattr(part, name) for part in parts])

    def cuts(name: str) -> np.ndarray:
        lengths = np.concatenate([np.diff(getattr(part, name)) for part in parts])
        return np.concatenate([[0], np.cumsum(lengths)])

    return Corpus(
        joined("tokens"), joined("answers"), cuts("bounds"), cuts("scenes"), joined("kinds"),
        joined("descriptions"), cuts("description_bounds"),
        joined("maps") if parts[0].maps is not None else None, parts[0].vocabulary,
    )  # fmt: skip


@dataclass(frozen=True)
class Packing:
    """How rows are packed. prefix: "image" (patches placeholders), "map" (the same, embedded from words) or "text".

    opening: ids before the image. patches: placeholders. per_scene: most questions a row, budget: most tokens of them
    (rows of one length waste no padding). weights: how often each kind is drawn (1 where absent; 0 leaves it out).
    blind: share of rows without an image, so that a question without one is nothing new.
    """

    opening: tuple[int, ...]
    image_id: int
    pad_id: int
    patches: int
    per_scene: int
    budget: int = 240
    prefix: str = "image"
    weights: tuple[tuple[str, float], ...] = ()
    blind: float = 0.0


def pack(corpus: Corpus, rows: np.ndarray, how: Packing, rng: np.random.Generator) -> Packed:
    """A batch of the scenes `rows`; questions are drawn for each without replacement until its row is full.

    Raises BadInput for a scene that has no question of a kind whose weight is above 0.
    """
    weight = np.ones(len(KINDS))
    for name, value in how.weights:
        weight[KINDS.index(name)] = value
    built = [_row(corpus, int(row), how, weight, rng) for row in rows]
    length = max(len(row[0]) for row in built)
    fills = (how.pad_id, IGNORE, -1, -1)
    stacked = [np.full((len(built), length), fill, np.int64) for fill in fills]
    for i, row in enumerate(built):
        for array, values in zip(stacked, row, strict=True):
            array[i, : len(values)] = values
    words = None
    if how.prefix == "map" and corpus.maps is not None and corpus.vocabulary is not None:
        cells = corpus.maps[rows].astype(np.int64)
        words = torch.from_numpy(np.where(cells < 0, -1, corpus.vocabulary[cells]))
    ids, labels, segment, kinds = (torch.from_numpy(array) for array in stacked)
    return Packed(ids, labels, segment, kinds, torch.from_numpy(np.asarray(rows, np.int64)), words)


def _row(
    corpus: Corpus, row: int, how: Packing, weight: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, ...]:
    if how.prefix == "text":
        cut = corpus.description_bounds[row : row + 2]
        prefix = np.concatenate([how.opening, corpus.descriptions[cut[0] : cut[1]]])
    else:
        patches = 0 if how.blind and rng.random() < how.blind else how.patches
        prefix = np.concatenate([how.opening, np.full(patches, how.image_id)])
    first, last = int(corpus.scenes[row]), int(corpus.scenes[row + 1])
    chance = weight[corpus.kinds[first:last]]
    number = min(how.per_scene, int((chance > 0).sum()))
    if not number:
        raise BadInput(f"row {row} of the corpus has no question of a kind whose weight is above 0")
    chosen = first + rng.choice(last - first, number, replace=False, p=chance / chance.sum())
    filled = np.cumsum(corpus.bounds[chosen + 1] - corpus.bounds[chosen]) <= how.budget
    chosen = chosen[filled] if filled.any() else chosen[:1]
    parts = [corpus.tokens[corpus.bounds[i] : corpus.bounds[i + 1]] for i in chosen]
    sizes = np.array([len(prefix), *(len(part) for part in parts)])
    ids = np.concatenate([prefix, *parts]).astype(np.int64)
    segment = np.repeat(np.arange(len(sizes)), sizes)
    starts = np.cumsum(sizes) - sizes
    from_end = (starts + sizes)[segment] - np.arange(len(ids))  # 1 at a question's last id
    answer = np.concatenate([[0], corpus.answers[chosen]])[segment]
    labelled = from_end <= answer
    kinds = np.concatenate([[0], corpus.kinds[chosen]])[segment]
    return ids, np.where(labelled, ids, IGNORE), segment, np.where(labelled, kinds, -1)
