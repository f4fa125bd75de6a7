"""Notebook 06. Fusion of words and picture: which object does an expression with several constraints refer to?

"What color is the small matte mug left of the car?" With k constraints there are k distractors of the same kind, each
of which violates one constraint and meets all others, so that every constraint is needed. All colours differ: the
answer tells which object the model took, and the distractor it took tells which constraint it passed over. As a control
the colour of another object, the anchor, is asked in the same picture: it has as much in it, and the name is one word.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

from vlmlab.benchmarks.shortcomings.items import Item
from vlmlab.benchmarks.shortcomings.staging import repeat
from vlmlab.errors import VlmlabError
from vlmlab.scenes import COLOURS, MATERIALS, SIZES, Scene, sample
from vlmlab.scenes.kinds import held_out
from vlmlab.scenes.programs import Program, step, trace

CONSTRAINTS = ("size", "material", "place")
NUMBERS = ("none", "one", "two", "three")
SIDES = ("left of", "right of", "in front of", "behind")
TARGETS = ("cat", "dog", "bird", "ball", "box", "mug", "book", "chair")
ANCHORS = ("lamp", "plant", "car")
VALUES = {"size": tuple(SIZES), "material": MATERIALS}


class Referring(NamedTuple):
    """A scene (target, distractors in the order of the constraints, anchor), the phrase, and its program."""

    scene: Scene
    noun: str
    program: Program
    constraints: tuple[str, ...]


def items(n: int, seed: int = 0) -> list[Item]:
    """Questions about `n` scenes for each number of constraints, 0 to 3; the same arguments give the same questions."""
    found = []
    for k in range(len(CONSTRAINTS) + 1):
        ways = list(combinations(CONSTRAINTS, k))

        def build(rng: np.random.Generator, number: int, ways: Sequence[tuple[str, ...]] = ways) -> Referring | None:
            return referring(rng, ways[number % len(ways)], SIDES[number // len(ways) % len(SIDES)])

        for scene, noun, _, constraints in repeat(build, n, 64, k, seed):
            target, *others, anchor = (item.colour for item in scene.objects)
            lures: dict[str, tuple[str, ...]] = {
                f"ignores {name}": (colour,) for name, colour in zip(constraints, others, strict=True)
            }
            if others:
                lures["another of the kind"] = tuple(others)
            lures["the anchor"] = (anchor,)
            chance = 1 / len(COLOURS)
            text = f"What color is the {noun}?"
            found.append(Item("referring", NUMBERS[k], scene, text, target, chance, k, lures))
            if k == 1:
                found.append(Item("one constraint", constraints[0], scene, text, target, chance, lures=lures))
            control = f"What color is the {scene.objects[-1].kind}?"
            found.append(Item("control: the anchor", NUMBERS[k], scene, control, anchor, chance, k))
    return found


def expression(
    kind: str, anchor: str, side: str, values: Mapping[str, str], constraints: Sequence[str]
) -> tuple[str, Program]:
    """A noun phrase with `constraints` alone, and the program that finds all objects that it fits.

    values: the size and material that the target has; side: where it is from the anchor.
    """
    fields = {name: values[name] for name in VALUES if name in constraints}
    noun = " ".join([*fields.values(), kind])
    if "place" not in constraints:
        return noun, [step("select", {"kind": kind, **fields})]
    found = [step("select", {"kind": anchor}), step("unique", None, 0)]
    found += [step("relate", {"relation": side, "frame": "viewer"}, 1), step("filter", {"kind": kind, **fields}, 2)]
    return f"{noun} {side} the {anchor}", found


def referring(rng: np.random.Generator, constraints: Sequence[str], side: str) -> Referring | None:
    """A scene of target, one distractor a constraint, and anchor, with the phrase that fits the target alone.

    None where the layout drawn leaves a doubt or makes a constraint needless.
    """
    kind, anchor = str(rng.choice(TARGETS)), str(rng.choice(ANCHORS))
    colours = [str(colour) for colour in rng.choice(list(COLOURS), len(constraints) + 2, replace=False)]
    values = {name: str(rng.choice(known)) for name, known in VALUES.items()}
    looks = [{"kind": kind, "colour": colours[0], **values}]
    for violated, colour in zip(constraints, colours[1:], strict=False):
        # a field that is no constraint varies freely, so that it does not single out the target
        fields = {name: values[name] if name in constraints else str(rng.choice(VALUES[name])) for name in VALUES}
        if violated in VALUES:
            fields[violated] = next(value for value in VALUES[violated] if value != values[violated])
        looks.append({"kind": kind, "colour": colour, **fields})
    looks.append({"kind": anchor, "colour": colours[-1]})
    if any(held_out(look["colour"], look["kind"]) for look in looks):
        return None

    def fit(names: Sequence[str]) -> list[int]:
        return trace(expression(kind, anchor, side, values, names)[1], scene)[-1]

    try:
        scene = sample(int(rng.integers(2**31)), split="test", objects=len(looks), include=looks)
        if fit(constraints) != [0]:
            return None
        for number, name in enumerate(constraints, 1):
            if fit([other for other in constraints if other != name]) != [0, number]:
                return None
    except VlmlabError:  # no layout, or one that leaves a doubt
        return None
    return Referring(scene, *expression(kind, anchor, side, values, constraints), tuple(constraints))
