"""Checks of notebook 02: counting a projector, the splice, the label mask, rotary positions, pictures in a cache."""

from math import radians
from typing import Any

import torch
from torch import Tensor

from vlmlab.checks.base import Case, Mistake, Verdict, run_check

IGNORE = -100
IMAGE = -200
Turns = list[tuple[str, list[int]]]


# ---------------------------------------------------------------- 1 · counting a projector
def _projector(kind: str, d_v: int, d: int) -> int:
    first = d_v * d + d
    return first if kind == "linear" else first + d * d + d


def projector_parameters(answer: Any) -> Verdict:
    """Exercise 1: parameters of `linear` and `mlp2x_gelu`, biases included."""
    return run_check(
        "projector_parameters",
        answer,
        _projector,
        [
            Case(("linear", 3, 2), "a linear projector from 3 to 2"),
            Case(("linear", 1024, 4096), "a linear projector from 1024 to 4096"),
            Case(("mlp2x_gelu", 3, 2), "mlp2x_gelu from 3 to 2"),
            Case(("mlp2x_gelu", 1024, 4096), "mlp2x_gelu from 1024 to 4096"),
        ],
        [
            Mistake(
                "no bias",
                "the biases are missing: each linear layer has one number more for each output channel",
                lambda kind, d_v, d: d_v * d if kind == "linear" else d_v * d + d * d,
            ),
            Mistake(
                "one layer",
                "mlp2x_gelu has two linear layers, and only one was counted",
                lambda kind, d_v, d: d_v * d + d,
            ),
            Mistake(
                "second layer as wide",
                "the second layer of mlp2x_gelu goes from d to d, not from d_v to d",
                lambda kind, d_v, d: (d_v * d + d) * (1 if kind == "linear" else 2),
            ),
            Mistake(
                "hidden width",
                "the hidden width of mlp2x_gelu is d, the language model's, not d_v",
                lambda kind, d_v, d: d_v * d + d + (0 if kind == "linear" else d_v * d_v + d_v),
            ),
        ],
        done="right, 20,979,712 parameters at LLaVA-1.5's size",
        tolerance=0.0,
    )


# ---------------------------------------------------------------- 2 · the splice
def _splice(H_q: Tensor, ids: list[int], Z_v: Tensor, image_id: int) -> Tensor:
    images = iter(Z_v)
    return torch.cat([next(images) if i == image_id else H_q[t : t + 1] for t, i in enumerate(ids)])


def _kept_placeholder(H_q: Tensor, ids: list[int], Z_v: Tensor, image_id: int) -> Tensor:
    images = iter(Z_v)
    pieces = [H_q[t : t + 1] if i != image_id else torch.cat([H_q[t : t + 1], next(images)]) for t, i in enumerate(ids)]
    return torch.cat(pieces)


def _in_front(H_q: Tensor, ids: list[int], Z_v: Tensor, image_id: int) -> Tensor:
    words = [t for t, i in enumerate(ids) if i != image_id]
    return torch.cat([Z_v.flatten(0, 1), H_q[words]])


def _overwritten(H_q: Tensor, ids: list[int], Z_v: Tensor, image_id: int) -> Tensor:
    out, images = H_q.clone(), iter(Z_v)
    for t, i in enumerate(ids):
        if i == image_id:
            image = next(images)[: len(out) - t]
            out[t : t + len(image)] = image
    return out


def _no_text_after(H_q: Tensor, ids: list[int], Z_v: Tensor, image_id: int) -> Tensor:
    last = max((t for t, i in enumerate(ids) if i == image_id), default=len(ids) - 1)
    return _splice(H_q[: last + 1], ids[: last + 1], Z_v, image_id)


def _same_image(H_q: Tensor, ids: list[int], Z_v: Tensor, image_id: int) -> Tensor:
    return torch.cat([Z_v[0] if i == image_id else H_q[t : t + 1] for t, i in enumerate(ids)])


def _first_only(H_q: Tensor, ids: list[int], Z_v: Tensor, image_id: int) -> Tensor:
    if image_id not in ids:
        return H_q
    place = ids.index(image_id)
    return torch.cat([H_q[:place], Z_v[0], H_q[place + 1 :]])


def splice(answer: Any) -> Verdict:
    """Exercise 2: picture tokens in the place of each placeholder of one row."""
    draw = torch.Generator().manual_seed(0)
    words, images = torch.randn(6, 4, generator=draw), torch.randn(2, 3, 4, generator=draw)
    return run_check(
        "splice",
        answer,
        _splice,
        [
            Case((words[:5], [7, 8, IMAGE, 9, 5], images[:1], IMAGE), "one picture among five ids"),
            Case((words[:3], [IMAGE, 8, 9], images[:1], IMAGE), "a picture at the front"),
            Case((words[:3], [7, 8, 9], images[:0], IMAGE), "a row without a picture"),
            Case((words, [7, IMAGE, 8, IMAGE, 9, 5], images, IMAGE), "two pictures"),
        ],
        [
            Mistake(
                "placeholder kept",
                "the placeholder's own embedding is still there; the picture's tokens replace it",
                _kept_placeholder,
            ),
            Mistake("in front", "the picture's tokens stand in front; they belong where the placeholder is", _in_front),
            Mistake(
                "words overwritten",
                "the picture's tokens overwrite the words after the placeholder; the row must grow by N - 1",
                _overwritten,
            ),
            Mistake("text cut", "the words after the last picture are missing", _no_text_after),
            Mistake(
                "same picture", "every placeholder gets the first picture; take the next one each time", _same_image
            ),
            Mistake("first only", "only the first placeholder is replaced; a row may hold several", _first_only),
        ],
        done="right, with no picture, one, and two",
    )


# ---------------------------------------------------------------- 3 · the label mask
def _labels(turns: Turns, eos: int) -> tuple[list[int], list[int]]:
    ids: list[int] = []
    labels: list[int] = []
    for who, tokens in turns:
        part = [*tokens, eos] if who == "gpt" else tokens
        ids += part
        labels += part if who == "gpt" else [IGNORE] * len(part)
    return ids, labels


def _no_end_in_loss(turns: Turns, eos: int) -> tuple[list[int], list[int]]:
    ids, labels = _labels(turns, eos)
    return ids, [IGNORE if i == eos else y for i, y in zip(ids, labels, strict=True)]


def _no_end(turns: Turns, eos: int) -> tuple[list[int], list[int]]:
    ids, labels = _labels(turns, eos)
    kept = [(i, y) for i, y in zip(ids, labels, strict=True) if i != eos]
    return [i for i, _ in kept], [y for _, y in kept]


def _shifted(turns: Turns, eos: int) -> tuple[list[int], list[int]]:
    ids, labels = _labels(turns, eos)
    return ids, [*labels[1:], IGNORE]


def _last_only(turns: Turns, eos: int) -> tuple[list[int], list[int]]:
    ids, labels = _labels(turns, eos)
    last = len(turns[-1][1]) + 1
    return ids, [IGNORE] * (len(ids) - last) + labels[-last:]


def label_mask(answer: Any) -> Verdict:
    """Exercise 3: ids and labels of a row, loss on answers and their end tokens."""
    return run_check(
        "label_mask",
        answer,
        _labels,
        [
            Case(([("human", [11, 12, 13]), ("gpt", [21, 22])], 2), "one question"),
            Case(([("human", [11]), ("gpt", [21]), ("human", [12, 13]), ("gpt", [22, 23])], 2), "two questions"),
        ],
        [
            Mistake(
                "question in the loss",
                "the question carries loss as well; the model need not learn to ask",
                lambda turns, eos: (_labels(turns, eos)[0],) * 2,
            ),
            Mistake(
                "end without loss",
                "the end token has no loss, so the model would never learn to stop",
                _no_end_in_loss,
            ),
            Mistake("no end", "the end token is missing after the answers", _no_end),
            Mistake(
                "shifted",
                "the labels are shifted by one; the model does that itself, so they would be shifted twice",
                _shifted,
            ),
            Mistake(
                "nothing learnt",
                "every label is -100: this row would train nothing, without a word",
                lambda turns, eos: (_labels(turns, eos)[0], [IGNORE] * len(_labels(turns, eos)[0])),
            ),
            Mistake("last answer only", "only the last answer carries loss; all of them should", _last_only),
            Mistake(
                "lengths differ",
                "ids and labels differ in length; append to both at once",
                fits=lambda got, expected, *_: len(got[0]) != len(got[1]),
            ),
        ],
        done="right, answers and their end tokens carry loss and nothing else does",
    )


# ---------------------------------------------------------------- 4 · rotary positions
def _turned(x: Tensor, angle: Tensor) -> Tensor:
    a, b = x.chunk(2)
    return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()])


def _angles(x: Tensor, t: float, theta: float) -> Tensor:
    return t * theta ** (-torch.arange(0, len(x), 2) / len(x))


def _interleaved(x: Tensor, t: int, theta: float) -> Tensor:
    a, b = x[0::2], x[1::2]
    angle = _angles(x, t, theta)
    return torch.stack([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], -1).flatten()


def rotate_to(answer: Any) -> Verdict:
    """Exercise 4: one vector turned to a position."""
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(8, generator=draw)
    return run_check(
        "rotate_to",
        answer,
        lambda x, t, theta: _turned(x, _angles(x, t, theta)),
        [
            Case((x, 0, 10000.0), "position 0"),
            Case((x, 3, 10000.0), "position 3"),
            Case((torch.randn(6, generator=draw), 40, 100.0), "position 40, theta 100"),
        ],
        [
            Mistake(
                "neighbours paired",
                "neighbouring channels are paired; Llama pairs channel i with channel i + d/2",
                _interleaved,
            ),
            Mistake(
                "wrong direction",
                "it turns the other way; check the sign of the sines",
                lambda x, t, theta: _turned(x, -_angles(x, t, theta)),
            ),
            Mistake(
                "speeds",
                "the speeds are theta ** (-2 i / d) with i counting pairs; the factor 2 is missing",
                lambda x, t, theta: _turned(x, t * theta ** (-torch.arange(len(x) // 2) / len(x))),
            ),
            Mistake(
                "one speed",
                "every pair turns at the same speed; the angle must depend on the pair",
                lambda x, t, theta: _turned(x, torch.full((len(x) // 2,), float(t))),
            ),
            Mistake(
                "degrees",
                "cos and sin take radians, and the angle is already in radians",
                lambda x, t, theta: _turned(x, _angles(x, radians(t), theta)),
            ),
            Mistake("not turned", "the vector came back as it was; the position t must matter", lambda x, t, theta: x),
        ],
        done="right, the length of the vector is unchanged and its angle tells the position",
    )


# ---------------------------------------------------------------- 5 · pictures in a cache
def pictures_that_fit(answer: Any) -> Verdict:
    """Exercise 5: whole pictures whose keys and values fit into a number of bytes."""

    def right(free: int, tokens: int, layers: int, kv_heads: int, width: int, bytes_each: int) -> int:
        return free // (tokens * 2 * layers * kv_heads * width * bytes_each)

    return run_check(
        "pictures_that_fit",
        answer,
        right,
        [
            Case((8 * 2**30, 576, 32, 32, 128, 2), "LLaVA-1.5-7B and 8 GiB"),
            Case((10_000_000, 64, 6, 2, 32, 4), "llava-tiny and 10 MB"),
        ],
        [
            Mistake(
                "keys only",
                "the cache holds keys and values: twice as many numbers",
                lambda f, n, m, k, w, b: f // (n * m * k * w * b),
            ),
            Mistake(
                "one layer",
                "every layer has its own keys and values",
                lambda f, n, m, k, w, b: f // (n * 2 * k * w * b),
            ),
            Mistake(
                "not whole",
                "whole pictures only: divide with //",
                lambda f, n, m, k, w, b: f / (n * 2 * m * k * w * b),
            ),
            Mistake(
                "tokens",
                "that is the number of tokens that fit, not of pictures",
                lambda f, n, m, k, w, b: f // (2 * m * k * w * b),
            ),
            Mistake(
                "bytes a number",
                "each number takes several bytes",
                lambda f, n, m, k, w, b: f // (n * 2 * m * k * w),
            ),
        ],
        done="right, 28 pictures in 8 GiB at 7B",
        tolerance=0.0,
    )
