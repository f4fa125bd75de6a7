"""A reader's own data in LLaVA's format: a JSON file of conversations and a folder of pictures. Notebooks 03 and 04.

    [{"id": ..., "image": "file in the folder", "conversations": [{"from": "human" | "gpt", "value": ...}, ...]}, ...]

A record without "image" is text alone. Everything is checked before the first step; what is wrong is told with file,
record and field.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vlmlab.errors import BadInput
from vlmlab.files import read_json, sha256, write_json
from vlmlab.language.tokenizer import Tokenizer
from vlmlab.vlm import saving
from vlmlab.vlm.checkpointing import copy_into
from vlmlab.vlm.model import VLM
from vlmlab.vlm.sharding import asked
from vlmlab.vlm.splice import IGNORE
from vlmlab.vlm.templates import IMAGE
from vlmlab.vlm.trainer import TrainConfig, TrainResult, train
from vlmlab.vlm.training_setup import Loss

ROLES = ("human", "gpt")


class Row(NamedTuple):
    """One record: its id, its picture's path or None, ids and labels as the template writes them."""

    name: str
    image: Path | None
    ids: list[int]
    labels: list[int]


@dataclass(frozen=True)
class Batch:
    """Rows to train on: pixel values (images, 3, S, S) or None; ids, labels and mask (B, L), padded on the right."""

    pixel_values: Tensor | None
    input_ids: Tensor
    labels: Tensor
    attention_mask: Tensor


def read(path: str | os.PathLike, images: str | os.PathLike, vlm: VLM) -> list[Row]:
    """The records of a file, encoded with a model's template and tokenizer.

    Raises BadInput naming file, record and field: no list of records, a missing field or picture, an unknown role,
    turns that do not alternate, an empty turn, no <image> or several of them, no answer that fits the model's length.
    """
    records = read_json(path)
    if not isinstance(records, list) or not records:
        raise BadInput(f"{path} must be a list of records, with at least one")
    return [_row(f"{path}, record {number}", each, Path(images), vlm) for number, each in enumerate(records, 1)]


def _row(where: str, record: Any, images: Path, vlm: VLM) -> Row:
    if not isinstance(record, dict):
        raise BadInput(f"{where} must be an object with id, image and conversations, not {type(record).__name__}")
    name = str(record.get("id", ""))
    where += f" (id {name!r})" if name else ""
    turns = _turns(where, record.get("conversations"))
    image = _image(where, record.get("image"), images)
    marks = sum(turn["value"].count(IMAGE) for turn in turns if turn["from"] == "human")
    if marks != (image is not None):
        wanted = f"one {IMAGE} in its human turns, as it has an image" if image else f"no {IMAGE}, as it has no image"
        raise BadInput(f"{where}: the field 'conversations' must have {wanted}; it has {marks}")
    try:
        ids, labels = vlm.template.encode(turns, _tokenizer(vlm), vlm.image_id)
    except BadInput as error:
        raise BadInput(f"{where}: the field 'conversations': {error}") from None
    room = vlm.config.max_length - (vlm.config.image_tokens - 1) * (image is not None)
    if all(label == IGNORE for label in labels[:room]):
        raise BadInput(f"{where}: no answer begins within the {vlm.config.max_length} tokens that the model takes")
    return Row(name or where, image, ids, labels)


def _tokenizer(vlm: VLM) -> Tokenizer:
    if vlm.tokenizer is None:
        raise BadInput(f"{vlm.config.name} has no tokenizer; set vlm.tokenizer to train it on texts")
    return vlm.tokenizer


def _turns(where: str, turns: Any) -> list[dict[str, str]]:
    if not isinstance(turns, list) or not turns:
        raise BadInput(f"{where}: the field 'conversations' must be a list of turns, with at least one")
    for number, turn in enumerate(turns):
        field = f"{where}: the field 'conversations', turn {number}"
        if not isinstance(turn, dict) or not isinstance(turn.get("value"), str):
            raise BadInput(f"{field} must be an object with the texts 'from' and 'value'")
        if turn.get("from") not in ROLES:
            raise BadInput(f"{field}: 'from' must be {' or '.join(ROLES)}, not {turn.get('from')!r}")
    return turns


def _image(where: str, name: Any, images: Path) -> Path | None:
    if name is None:
        return None
    if not isinstance(name, str):
        raise BadInput(f"{where}: the field 'image' must be one file's name, not {type(name).__name__}")
    if not (images / name).is_file():
        raise BadInput(f"{where}: the field 'image' names {name!r}, and there is no such file in {images}")
    return images / name


def collate(rows: Sequence[Row], vlm: VLM) -> Batch:
    """A batch of rows; labels are -100 where there is no loss. Raises BadImage for a picture that cannot be read."""
    length = max(len(row.ids) for row in rows)

    def padded(values: Sequence[list[int]], fill: int) -> Tensor:
        return torch.tensor([[*each, *[fill] * (length - len(each))] for each in values])

    pictures = [row.image for row in rows if row.image is not None]
    return Batch(
        vlm.preprocess.batch(pictures) if pictures else None,
        padded([row.ids for row in rows], 0),
        padded([row.labels for row in rows], IGNORE),
        padded([[1] * len(row.ids) for row in rows], 0),
    )


def _with_picture(batch: Batch, vlm: VLM) -> Batch:
    """A batch of texts with a row that teaches nothing, a blank picture: processes that share weights run all parts."""
    size = vlm.config.image_size

    def below(values: Tensor, first: int, rest: int) -> Tensor:
        row = torch.full_like(values[:1], rest)
        row[0, 0] = first
        return torch.cat([values, row])

    return Batch(
        torch.zeros(1, 3, size, size), below(batch.input_ids, vlm.image_id, 0), below(batch.labels, IGNORE, IGNORE),
        below(batch.attention_mask, 1, 0),
    )  # fmt: skip


def chosen(count: int, size: int, step: int, seed: int) -> list[int]:
    """The rows of a step: each epoch goes through all of them in another order; an order of its own for each seed."""
    places = range(step * size, (step + 1) * size)
    orders = {epoch: np.random.default_rng([seed, epoch]).permutation(count) for epoch in {i // count for i in places}}
    return [int(orders[place // count][place % count]) for place in places]


def fine_tune(
    vlm: VLM,
    data: str | os.PathLike,
    images: str | os.PathLike,
    folder: str | os.PathLike,
    config: TrainConfig,
    batch: int = 16,
    parts: Sequence[str] = ("projector", "language"),
    resume: bool = False,
) -> TrainResult:
    """Train parts of a loaded VLM on a file in LLaVA's format; `folder`/model.safetensors is the trained model.

    batch: rows a step, which several processes share. parts: "projector" and "language" as in LLaVA's stage 2;
    "vision" may be named, too.
    Raises as `read` and `trainer.train`, and BadInput for a resumption with other data, batch or parts.
    """
    folder, rows = Path(folder), read(data, images, vlm)
    _settle(folder, {"data": sha256(data), "batch": batch, "parts": list(parts), "model": vlm.config.name}, resume)
    vlm.freeze().unfreeze(*parts)

    def rows_of(step: int) -> list[Row]:
        return [rows[i] for i in chosen(len(rows), batch, step, config.seed)]

    def share(step: int, rank: int, processes: int) -> Batch:
        if batch < processes:
            raise BadInput(f"{processes} processes cannot share a batch of {batch} rows; start fewer, or set batch")
        own = collate(rows_of(step)[rank::processes], vlm)
        return _with_picture(own, vlm) if processes > 1 and asked() and own.pixel_values is None else own

    def loss(given: Batch) -> Loss:
        found = vlm(given.pixel_values, given.input_ids, given.labels, given.attention_mask, loss_only=True)
        return found.loss, {}, found.terms

    result = train(
        f"{vlm.config.name} on {Path(data).name}", vlm, None, share, loss, config, folder / "run", resume,
        describe=lambda step: ", ".join(row.name for row in rows_of(step)),
    )  # fmt: skip
    if result.ema:
        copy_into({name: p for name, p in vlm.named_parameters() if name in result.ema}, result.ema, folder)
    if vlm.tokenizer is not None and vlm.config.tokenizer is not None:
        vlm.tokenizer.save(folder / vlm.config.tokenizer)
    saving.save(vlm, folder / "model.safetensors", note={"data": Path(data).name})
    return result


def _settle(folder: Path, asked: dict[str, Any], resume: bool) -> None:
    """Remember what a run is asked for; a resumption must ask for the same."""
    path = folder / "data.json"
    if not (folder / "run" / "run.json").exists():
        write_json(path, asked)
    elif resume and (before := read_json(path)) != asked:
        field = next(name for name in asked if before.get(name) != asked[name])
        raise BadInput(
            f"cannot resume {folder}: {field} is {asked[field]!r}, and the run began with {before.get(field)!r}; "
            "ask for the same or use another folder"
        )
