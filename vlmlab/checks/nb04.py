"""Checks of notebook 04: what trains in each stage, the learning rate, who sees whom, batches that can be repeated."""

import math
from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vlmlab.checks.base import Case, Mistake, Verdict, run_check

PARTS = ("vision", "projector", "language")


# ---------------------------------------------------------------- 1 · what trains
def set_stage(answer: Any) -> Verdict:
    """Exercise 1: `requires_grad` of a VLM's parts for stage 1 and stage 2."""
    from vlmlab.vlm import VLM

    run = answer
    if callable(answer):

        @wraps(answer)
        def run(stage: int) -> Any:
            vlm = VLM.from_preset("llava-tiny", device="meta")
            if stage == 2:  # as stage 1 leaves it
                vlm.freeze().unfreeze("projector")
            begun = [p.requires_grad for p in vlm.parameters()]
            answer(vlm, stage)
            if begun == [p.requires_grad for p in vlm.parameters()]:
                return None
            return {part: _share(getattr(vlm, part)) for part in PARTS}

    def trains(*stages: tuple[str, ...]) -> Any:
        return lambda stage: {part: "trains" if part in stages[stage - 1] else "frozen" for part in PARTS}

    return run_check(
        "set_stage",
        run,
        trains(("projector",), ("projector", "language")),
        [Case((1,), "stage 1"), Case((2,), "stage 2")],
        [
            Mistake(
                "encoder trains",
                "the vision encoder trains; LLaVA keeps it frozen in both stages",
                fits=lambda got, expected, stage: stage == 1 or got["vision"] == "trains",
            ),
            Mistake(
                "encoder trains in stage 1",
                "the vision encoder trains in stage 1; only the projector does",
                fits=lambda got, expected, stage: stage == 2 or got["vision"] == "trains",
            ),
            Mistake(
                "language model in stage 1",
                "the language model trains in stage 1 already; there only the projector does",
                trains(("projector", "language"), ("projector", "language")),
            ),
            Mistake(
                "projector frozen in stage 2",
                "the projector is frozen in stage 2; it goes on training beside the language model",
                trains(("projector",), ("language",)),
            ),
            Mistake(
                "stage 2 as stage 1",
                "the language model is still frozen in stage 2: unfreeze it",
                trains(("projector",), ("projector",)),
            ),
            Mistake(
                "parts of a part",
                "a part trains only partly; go over all of its parameters",
                fits=lambda got, expected, stage: True if stage == 1 else "partly" in got.values(),
            ),
        ],
        done="right, the projector in stage 1, projector and language model in stage 2",
    )


def _share(part: torch.nn.Module) -> str:
    flags = [p.requires_grad for p in part.parameters()]
    return "trains" if all(flags) else "partly" if any(flags) else "frozen"


# ---------------------------------------------------------------- 2 · the learning rate
def _rate(step: int, steps: int, warmup: int) -> float:
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))


def _no_warmup(step: int, steps: int, warmup: int) -> float:
    return 0.5 * (1 + math.cos(math.pi * step / steps))


def learning_rate(answer: Any) -> Verdict:
    """Exercise 2: the factor on the learning rate: linear warm-up, then half a cosine."""
    return run_check(
        "learning_rate",
        answer,
        _rate,
        [Case((step, 100, 10), f"step {step} of 100, warm-up of 10") for step in (0, 4, 9, 10, 40, 55, 99)],
        [
            Mistake("no warm-up", "there is no warm-up: the first steps start at the full rate", _no_warmup),
            Mistake(
                "starts at zero",
                "the first step has rate 0 and trains nothing; count the step that is being made, (step + 1) / warmup",
                lambda s, n, w: s / w if s < w else _rate(s, n, w),
            ),
            Mistake(
                "cosine over all steps",
                "the cosine runs over all steps; after the warm-up it starts anew and has steps - warmup of them",
                lambda s, n, w: (s + 1) / w if s < w else _no_warmup(s, n, w),
            ),
            Mistake(
                "from 1 to -1",
                "the cosine goes from 1 to -1; a rate goes from 1 to 0",
                lambda s, n, w: (s + 1) / w if s < w else math.cos(math.pi * (s - w) / (n - w)),
            ),
            Mistake(
                "rises again",
                "the rate falls and rises again: half a cosine is enough, an angle from 0 to pi",
                lambda s, n, w: (s + 1) / w if s < w else 0.5 * (1 + math.cos(2 * math.pi * (s - w) / (n - w))),
            ),
            Mistake(
                "degrees",
                "math.cos takes radians: half a turn is math.pi",
                lambda s, n, w: (s + 1) / w if s < w else 0.5 * (1 + math.cos(180 * (s - w) / (n - w))),
            ),
            Mistake(
                "linear",
                "the rate falls in a straight line; it should follow a cosine",
                lambda s, n, w: (s + 1) / w if s < w else 1 - (s - w) / (n - w),
            ),
        ],
        done="right, warm-up and half a cosine",
    )


# ---------------------------------------------------------------- 3 · who sees whom
def _sees(segment: Tensor) -> Tensor:
    query, key = segment[:, None], segment[None, :]
    causal = torch.ones(len(segment), len(segment), dtype=torch.bool).tril()
    return causal & ((query == key) | (key == 0))


def _causal(segment: Tensor) -> Tensor:
    return torch.ones(len(segment), len(segment), dtype=torch.bool).tril()


def sees(answer: Any) -> Verdict:
    """Exercise 3: the attention mask of packed questions, from each token's segment."""
    return run_check(
        "sees",
        answer,
        _sees,
        [
            Case((torch.tensor([0, 0, 0, 1, 1, 2, 2, 2]),), "two questions"),
            Case((torch.tensor([0, 0, 1, 2, 2, 3]),), "three questions"),
        ],
        [
            Mistake("questions see each other", "a question sees the ones before it: answers would leak", _causal),
            Mistake(
                "not causal",
                "tokens see what comes after them: keep only keys that are not later than the query",
                lambda s: (s[:, None] == s[None, :]) | (s[None, :] == 0),
            ),
            Mistake(
                "no picture",
                "a question does not see the prefix, segment 0: it could not see the picture",
                lambda s: _causal(s) & (s[:, None] == s[None, :]),
            ),
            Mistake(
                "transposed",
                "rows are queries and columns keys; yours is the other way round",
                lambda s: _sees(s).T,
            ),
            Mistake(
                "prefix sees questions",
                "the prefix sees the questions; then what it passes on would depend on them",
                lambda s: _sees(s) | (s[:, None] == 0),
            ),
        ],
        done="right: the picture and its own question, nothing later",
        tolerance=0.0,
    )


# ---------------------------------------------------------------- 4 · batches that can be repeated
def _global_state() -> np.ndarray:
    """NumPy's global generator, as numbers."""
    state = np.random.get_state(legacy=False)
    assert isinstance(state, dict)
    return np.array(state["state"]["key"])


def _probe(answer: Any) -> Any:
    """What `rows_of` does, as facts by name."""

    @wraps(answer)
    def probed(seed: int, step: int, count: int, rows: int) -> Any:
        state = _global_state()
        first = answer(seed, step, count, rows)
        if first is None or first is ...:
            return None
        first = np.asarray(first)
        later, next_seed = (
            np.asarray(answer(seed, step + 1, count, rows)),
            np.asarray(answer(seed + 1, step, count, rows)),
        )
        again = np.asarray(answer(seed, step, count, rows))
        kept = bool((_global_state() == state).all())
        whole = first.dtype.kind in "iu" and bool(((first >= 0) & (first < count)).all())
        return {
            "rows": first.shape == (rows,) and whole,
            "different": len(set(first.ravel().tolist())) == first.size,
            "sorted": bool((np.diff(first.ravel()) >= 0).all()),
            "repeats": np.array_equal(first, again),
            "steps": not np.array_equal(first, later),
            "seeds": not np.array_equal(first, next_seed),
            "global": kept,
        }

    return probed


def _lacks(fact: str) -> Callable[..., bool]:
    return lambda got, expected, *_: not got[fact]


def rows_of(answer: Any) -> Verdict:
    """Exercise 4: the rows of a batch as a pure function of seed and step."""
    right = dict.fromkeys(("rows", "different", "sorted", "repeats", "steps", "seeds", "global"), True)
    return run_check(
        "rows_of",
        _probe(answer) if callable(answer) else answer,
        lambda seed, step, count, rows: right,
        [Case((0, 3, 1000, 32), "32 of 1000"), Case((5, 0, 500, 8), "8 of 500")],
        [
            Mistake("wrong numbers", "give `rows` whole numbers from 0 to count - 1, as an array", fits=_lacks("rows")),
            Mistake(
                "global generator",
                "it draws from or seeds NumPy's global generator; use np.random.default_rng",
                fits=_lacks("global"),
            ),
            Mistake(
                "not repeatable",
                "the same seed and step gave another batch the second time; make the generator inside the function",
                fits=_lacks("repeats"),
            ),
            Mistake(
                "same every step",
                "every step gives the same batch; the step must go into the seed",
                fits=_lacks("steps"),
            ),
            Mistake("seed ignored", "another seed gives the same batch", fits=_lacks("seeds")),
            Mistake(
                "twice in a batch", "a scene occurs twice in a batch; draw with replace=False", fits=_lacks("different")
            ),
            Mistake(
                "not sorted",
                "the numbers are not sorted; np.sort them, so that the file is read in order",
                fits=_lacks("sorted"),
            ),
        ],
        done="right: any step can be drawn again by itself, which is what exact resumption needs",
    )
