"""Checks of notebook 06: the visible share of an object, constraints that are needed, an illusion beyond its control,
averaging tokens in squares, and the length at which attention costs as much as all else."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vlmlab.checks.base import Case, Mistake, Verdict, run_check

# ---------------------------------------------------------------- 1 · visible share
Shares = Callable[[np.ndarray, np.ndarray, int], float]


def _masks() -> list[Case]:
    scene, alone = (np.zeros((6, 8), np.int16) for _ in range(2))
    scene[1:5, 2:5], scene[2:6, 4:7] = 2, 1  # the first object hides part of the second
    alone[1:5, 2:5] = 1
    free = np.zeros_like(scene)
    free[0:2, 0:3], free[3:6, 4:8] = 1, 2
    whole = np.where(free == 1, 1, 0).astype(np.int16)
    gone = np.where(scene == 2, 1, scene)
    return [Case((scene, alone, 1), "an object partly hidden"), Case((free, whole, 0), "one in the open"),
            Case((gone, alone, 1), "one wholly hidden")]  # fmt: skip


def visible_share(answer: Any) -> Verdict:
    """Exercise 1: from the mask of a scene and that of the object alone, the share of it that can be seen."""

    def ratio(part: Callable[..., Any], whole: Callable[..., Any]) -> Shares:
        return lambda mask, alone, index: float(part(mask, alone, index) / whole(mask, alone, index))

    def seen(mask: np.ndarray, alone: np.ndarray, index: int) -> int:
        return int((mask == index + 1).sum())

    def there(mask: np.ndarray, alone: np.ndarray, index: int) -> int:
        return int((alone > 0).sum())

    return run_check(
        "visible_share",
        answer,
        ratio(seen, there),
        _masks(),
        [
            Mistake("hidden share", "that is the hidden share; 1 minus it can be seen",
                    lambda m, a, i: 1 - seen(m, a, i) / there(m, a, i)),
            Mistake("share of the picture", "divided by the picture; divide by what the object alone would fill",
                    ratio(seen, lambda m, a, i: m.size)),
            Mistake("number in the mask", "object i has number i + 1 in the mask; 0 is the room",
                    lambda m, a, i: int((m == i).sum()) / there(m, a, i)),
            Mistake("any object", "every object was counted; only object `index` is asked about",
                    ratio(lambda m, a, i: (m > 0).sum(), there)),
            Mistake("overlap", "whatever stands there now was counted, the object in front too",
                    ratio(lambda m, a, i: ((a > 0) & (m > 0)).sum(), there)),
        ],
        done="right, what is seen of it over what there is of it",
    )  # fmt: skip


# ---------------------------------------------------------------- 2 · constraints that are needed
Objects = list[dict[str, str]]


def _fit(objects: Objects, constraints: dict[str, str]) -> list[int]:
    return [i for i, o in enumerate(objects) if all(o[field] == value for field, value in constraints.items())]


def _needed(objects: Objects, constraints: dict[str, str]) -> list[str]:
    def without(field: str) -> list[int]:
        return _fit(objects, {name: value for name, value in constraints.items() if name != field})

    return [field for field in constraints if len(without(field)) != 1]


def needed(answer: Any) -> Verdict:
    """Exercise 2: the constraints without which an expression would no longer fit one object alone."""

    def cat(colour: str, size: str, material: str, side: str) -> dict[str, str]:
        return {"colour": colour, "size": size, "material": material, "side": side}

    row = [cat("red", "small", "shiny", "left"), cat("blue", "large", "shiny", "left"),
           cat("green", "small", "matte", "left"), cat("white", "small", "shiny", "right")]  # fmt: skip
    asked = {"size": "small", "material": "shiny", "side": "left"}
    together = {"size": "small", "material": "matte"}  # either alone would do
    return run_check(
        "needed",
        answer,
        _needed,
        [
            Case((row, asked), "four cats and three constraints"),
            Case((row[:3], asked), "three cats, none on the other side"),
            Case(([row[0], cat("blue", "large", "matte", "right")], {"side": "left", "size": "small"}), "two cats"),
            Case((row[1:3], together), "two cats that differ in both constraints"),
        ],
        [
            Mistake("alone", "each constraint was tried alone; leave out one and keep the others",
                    lambda o, c: [f for f in c if len(_fit(o, {f: c[f]})) != 1]),
            Mistake("the needless", "those are the needless ones; keep a constraint if leaving it out leaves a doubt",
                    lambda o, c: [f for f in c if f not in _needed(o, c)]),
            Mistake("all of them", "not every constraint is needed: without some, one object still fits alone",
                    lambda o, c: list(c)),
            Mistake("numbers", "return the constraints' names, not how many objects fit without them",
                    lambda o, c: [len(_fit(o, {k: v for k, v in c.items() if k != f})) for f in c]),
            Mistake("dropped in turn", "a constraint once left out stayed out; begin again with all for each one",
                    _dropped_in_turn),
        ],
        done="right, each is left out by itself and looked at whether one object still fits alone",
    )  # fmt: skip


def _dropped_in_turn(objects: Objects, constraints: dict[str, str]) -> list[str]:
    left, kept = dict(constraints), []
    for field in constraints:
        left.pop(field)
        if len(_fit(objects, left)) != 1:
            kept.append(field)
    return kept


# ---------------------------------------------------------------- 3 · an illusion beyond its control
Answers = Sequence[tuple[str, str, str]]


def illusion_effect(answer: Any) -> Verdict:
    """Exercise 3: how many more answers fall for the lure with the illusion than in its control, as a fraction."""

    def lured(answers: Answers) -> float:
        return sum(said == lure for said, _, lure in answers) / len(answers)

    def wrong(answers: Answers) -> float:
        return sum(said != truth for said, truth, _ in answers) / len(answers)

    tinted = [("red", "white", "red"), ("red", "white", "red"), ("white", "white", "blue"), ("green", "white", "blue"),
              ("blue", "white", "blue")]  # fmt: skip
    plain = [("white", "white", "red"), ("red", "white", "red"), ("green", "white", "blue"), ("white", "white", "blue")]
    counted = [("2", "1", "2"), ("1", "1", "2"), ("3", "1", "2"), ("2", "1", "2")]
    alone = [("2", "1", "2"), ("2", "1", "2"), ("2", "1", "2"), ("3", "1", "2"), ("1", "1", "2")]
    return run_check(
        "illusion_effect",
        answer,
        lambda illusion, control: lured(illusion) - lured(control),
        [
            Case((tinted, plain), "a tinted light and a white one"),
            Case((counted, alone), "a control that is worse than the illusion"),
        ],
        [
            Mistake("no control", "the control was not subtracted; some say the lure without any illusion",
                    lambda illusion, control: lured(illusion)),
            Mistake("any mistake", "every wrong answer was counted; only the lure is the illusion's",
                    lambda illusion, control: wrong(illusion) - wrong(control)),
            Mistake("sign", "the sign is turned: positive means that the illusion lures",
                    lambda illusion, control: lured(control) - lured(illusion)),
            Mistake("counts", "counts were subtracted; the lists may differ in length, take shares",
                    lambda illusion, control: lured(illusion) * len(illusion) - lured(control) * len(control)),
            Mistake("ratio", "that is a ratio; a difference of shares is asked for",
                    lambda illusion, control: lured(illusion) / lured(control)),
            Mistake("at least 0", "a negative effect became 0; it says that the control lures more, so keep it",
                    lambda illusion, control: max(0.0, lured(illusion) - lured(control))),
        ],
        done="right, the lure's share less what it is without the illusion",
    )  # fmt: skip


# ---------------------------------------------------------------- 4 · tokens averaged in squares
def pool_squares(answer: Any) -> Verdict:
    """Exercise 4: tokens (B, N, D) of a square grid, averaged in squares of `side` x `side`."""
    draw = torch.Generator().manual_seed(0)

    def grid(z: Tensor, side: int) -> Tensor:
        rows = round(z.shape[1] ** 0.5)
        return z.view(len(z), rows // side, side, rows // side, side, -1)  # (B, r, side, r, side, D)

    def right(z: Tensor, side: int) -> Tensor:
        return grid(z, side).mean((2, 4)).flatten(1, 2)

    def turned(z: Tensor, side: int) -> Tensor:
        return grid(z, side).mean((2, 4)).transpose(1, 2).flatten(1, 2)

    return run_check(
        "pool_squares",
        answer,
        right,
        [
            Case((torch.randn(2, 16, 3, generator=draw), 2), "4 x 4 tokens in squares of 2 x 2"),
            Case((torch.randn(1, 81, 5, generator=draw), 3), "9 x 9 tokens in squares of 3 x 3"),
        ],
        [
            Mistake("neighbours in a row", "tokens that follow one another were averaged: a strip of a row, no square",
                    lambda z, side: z.unflatten(1, (-1, side * side)).mean(2)),
            Mistake("sum", "the tokens of a square were added; divide by their number", lambda z, side:
                    right(z, side) * side * side),
            Mistake("one of each", "one token of each square was kept; average all of them", lambda z, side:
                    grid(z, side)[:, :, 0, :, 0].flatten(1, 2)),
            Mistake("columns first", "the squares stand column by column; tokens stand row by row", turned),
            Mistake("still a grid", "the result is a grid; give a row of tokens (B, M, D)", lambda z, side:
                    grid(z, side).mean((2, 4))),
            Mistake("largest", "the largest value of a square was taken; average them", lambda z, side:
                    grid(z, side).amax((2, 4)).flatten(1, 2)),
        ],
        done="right, one token a square, row by row",
    )  # fmt: skip


# ---------------------------------------------------------------- 5 · where attention costs as much as all else
def equal_at(answer: Any) -> Verdict:
    """Exercise 5: the tokens at which scores and weighted sums cost as much as all matrices of a Llama layer."""

    def tokens(projections: float = 4, matrices: float = 3, attention: float = 4) -> Callable[[int, int], float]:
        return lambda dim, hidden: (2 * projections * dim**2 + 2 * matrices * dim * hidden) / (attention * dim)

    return run_check(
        "equal_at",
        answer,
        tokens(),
        [Case((4096, 11008), "LLaVA-1.5-7B"), Case((5120, 13824), "LLaVA-1.5-13B"), Case((64, 100), "a small one")],
        [
            Mistake("two matrices", "SwiGLU has three matrices: gate, up and down", tokens(matrices=2)),
            Mistake("no MLP", "the MLP is missing: three matrices of dim x hidden", tokens(matrices=0)),
            Mistake("no output", "attention has four matrices, the output's as well", tokens(projections=3)),
            Mistake("scores only", "only the scores were counted; the weighted sum of the values costs as much again",
                    tokens(attention=2)),
            Mistake("one FLOP", "a multiply-add is two FLOPs on both sides", tokens(attention=8)),
            Mistake("its square", "that is the square of the length; one factor n is on both sides",
                    lambda dim, hidden: tokens()(dim, hidden) ** 2),
        ],
        done="right: below this length attention is the smaller part",
    )  # fmt: skip
