"""Notebook 06. Layout: left and right in pairs of scenes for which one answer cannot be right twice.

A twin is the same scene mirrored, or with two objects exchanged. As a control, the colour of an object, which is the
same in both: a model that fails on pairs only because it sees twice as many pictures fails here as well. Our models say
what they see before they judge ("The cat is right of the sofa, no."), so that the side which they state counts too: it
tells a wrong look from a wrong verdict.
"""

import re
from typing import Any

import numpy as np

from vlmlab.benchmarks.categories import FLIPPED, SIDES, flipped
from vlmlab.benchmarks.shortcomings.items import Item, band
from vlmlab.benchmarks.shortcomings.staging import repeat
from vlmlab.errors import VlmlabError
from vlmlab.scenes import COLOURS, Scene, sample
from vlmlab.scenes.questions import Question

PAIRS = {"left and right, mirrored": ("mirror", SIDES), "left and right, exchanged": ("swap", SIDES),
         "front and back, exchanged": ("swap", FLIPPED["swap"][2:])}  # fmt: skip
"""Row -> kind of twin, relations asked about."""
APART = (0.0, 15.0, 30.0)  # per cent of the picture's width between the two middles: where the rows begin


def items(n: int, seed: int = 0) -> list[Item]:
    """Questions about `n` pairs of each kind; the same arguments give the same questions."""
    found: list[Item] = []
    for at, (row, (kind, names)) in enumerate(PAIRS.items()):

        def pair(rng: np.random.Generator, number: int, kind: str = kind, names: tuple[str, ...] = names) -> Any:
            return twins(rng, kind, names[number % len(names)], bool(number // len(names) % 2))

        for unit, ((scene, question), (twin, other)) in enumerate(repeat(pair, n, 63, at, seed)):
            for view, asked in ((scene, question), (twin, other)):
                if names == SIDES:
                    side = asked.topic if asked.answer == "yes" else next(s for s in SIDES if s != asked.topic)
                    found.append(Item("pairs", f"{row}: the side it states", view, asked.text, side, 1 / 2, unit=unit,
                                      judge=states))  # fmt: skip
                    a, b = (view.geometry.u[i] for i in asked.objects[:2])
                    apart = 100 * abs(float(a - b))
                    found.append(Item("left and right, single answers", band(apart, APART), view, asked.text,
                                      asked.answer, 1 / 2, apart))  # fmt: skip
                found.append(Item("pairs", row, view, asked.text, asked.answer, 1 / 2, unit=unit))
                item = view.objects[question.objects[0]]
                if kind == "mirror" and sum(item.kind == o.kind for o in view.objects) == 1:
                    text = f"What color is the {item.kind}?"
                    found.append(Item("pairs", "control: a colour, mirrored", view, text, item.colour,
                                      1 / len(COLOURS), unit=unit))  # fmt: skip
    return found


def states(text: str, side: str) -> bool:
    """Whether the side that a sentence names last is this one, whatever its verdict."""
    return re.findall("|".join(SIDES), text.lower())[-1:] == [side]


def twins(
    rng: np.random.Generator, kind: str, relation: str, want: bool
) -> tuple[tuple[Scene, Question], tuple[Scene, Question]] | None:
    """A test scene and its twin with one question whose answer is yes in the first if `want`, and the other in the
    second; None where the scene drawn has none."""
    scene = sample(int(rng.integers(2**31)), split="test")
    try:
        twin = scene.twin(kind)
    except VlmlabError:
        return None
    for question in scene.questions(types=["relation"], count=1, relation=relation):
        other = flipped(question, twin)
        if other is not None and (question.answer == "yes") == want:
            return (scene, question), (twin, other)
    return None
