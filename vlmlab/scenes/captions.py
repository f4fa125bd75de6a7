"""Notebook 00. Captions: what a language-only model is told about a scene, and what stage 1 learns to say."""

from typing import TYPE_CHECKING

import numpy as np

from vlmlab.errors import UnknownName
from vlmlab.scenes.programs import Ambiguous, facing
from vlmlab.scenes.relations import holds

if TYPE_CHECKING:
    from vlmlab.scenes.scene import Object, Scene

STYLES = ("short", "dense", "full")
DIRECTIONS = {
    "left to right": ("left", False),
    "right to left": ("left", True),
    "front to back": ("front", False),
    "back to front": ("front", True),
}


def article(phrase: str) -> str:
    """`phrase` with "a" or "an" before it."""
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def listing(phrases: list[str]) -> str:
    """a; a and b; a, b and c."""
    return phrases[0] if len(phrases) == 1 else ", ".join(phrases[:-1]) + " and " + phrases[-1]


def full_name(item: "Object") -> str:
    """All attributes and the kind: "small shiny red cat"."""
    return f"{item.size} {item.material} {item.colour} {item.kind}"


def name(scene: "Scene", index: int) -> str:
    """The shortest noun phrase that fits only this object: its kind, or colour and kind."""
    item = scene.objects[index]
    alone = sum(other.kind == item.kind for other in scene.objects) == 1
    return item.kind if alone else f"{item.colour} {item.kind}"


def order(scene: "Scene", side: str) -> list[int]:
    """Objects from left to right ("left") or from front to back ("front")."""
    values = scene.geometry.u if side == "left" else scene.geometry.depth
    return [int(i) for i in np.argsort(values, kind="stable")]


def listed(scene: "Scene", direction: str) -> str:
    """Every object with all its attributes in one of DIRECTIONS: "From right to left: a small shiny red cat, ...".

    Raises UnknownName for another direction.
    """
    if direction not in DIRECTIONS:
        raise UnknownName("direction", direction, DIRECTIONS)
    side, turned = DIRECTIONS[direction]
    indices = order(scene, side)[:: -1 if turned else 1]
    return f"From {direction}: " + listing([article(full_name(scene.objects[i])) for i in indices]) + "."


def sentences(scene: "Scene") -> list[str]:
    """Statements about supports, facing and distance, each true beyond doubt."""
    found = []
    for a in order(scene, "left"):
        for b in order(scene, "left"):
            for relation in ("on", "inside", "under"):
                if a != b and scene.geometry.stands(a, relation, b):
                    found.append(f"The {name(scene, a)} is {relation} the {name(scene, b)}.")
    for a in order(scene, "left"):
        try:
            found.append(f"The {name(scene, a)} faces {facing(scene, a)}.")
        except Ambiguous:
            continue
    left = order(scene, "left")
    for i, a in enumerate(left):
        for b in left[i + 1 :]:
            near = holds(scene, "near", a, b)
            if near is not None and not scene.geometry.supported(a, b):
                found.append(f"The {name(scene, a)} is {'near' if near else 'far from'} the {name(scene, b)}.")
    return found


def caption(scene: "Scene", style: str = "dense") -> str:
    """Describe a scene.

    "short": colours and kinds, left to right. "dense": all attributes, left to right. "full": dense, then the order
    from front to back, supports, facing and distances: all that the questions ask about.
    Raises UnknownName for another style.
    """
    if style not in STYLES:
        raise UnknownName("caption style", style, STYLES)
    if not scene.objects:
        return "An empty room."
    left = order(scene, "left")
    if style == "short":
        text = listing([article(f"{scene.objects[i].colour} {scene.objects[i].kind}") for i in left])
        return text[0].upper() + text[1:] + "."
    dense = listed(scene, "left to right")
    if style == "dense":
        return dense
    front = "From front to back: " + listing(["the " + name(scene, i) for i in order(scene, "front")]) + "."
    return " ".join([dense, front, *sentences(scene)])
