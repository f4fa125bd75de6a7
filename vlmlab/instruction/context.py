"""Notebook 03. What a text-only teacher is told of a scene: five captions and, but for conversations, boxes. No pixels.

The captions say only what is beyond doubt, so that a teacher who keeps to them says nothing that nobody can decide.
Source: Visual Instruction Tuning (arXiv 2304.08485), section 3.
"""

from itertools import combinations, pairwise
from typing import NamedTuple

import numpy as np

from vlmlab.errors import BadInput, UnknownName
from vlmlab.scenes import Scene
from vlmlab.scenes.captions import article, caption, full_name, listing, name, order, sentences
from vlmlab.scenes.relations import holds

KINDS = ("conversation", "detail", "reasoning")
SIDES = {"left": ("left of", "left to right"), "front": ("in front of", "front to back")}


class Told(NamedTuple):
    """A scene in words: its five captions, and a line for each object that can be seen, "cat: [x1, y1, x2, y2]"."""

    scene: Scene
    captions: tuple[str, ...]
    boxes: tuple[str, ...]

    def context(self, kind: str) -> str:
        """The text that a teacher reads for one of KINDS. Raises UnknownName."""
        blocks = [self.captions] if known(kind) == "conversation" else [self.captions, self.boxes]
        return "\n\n".join("\n".join(block) for block in blocks)


def known(kind: str) -> str:
    """The kind itself, if it is one of KINDS. Raises UnknownName."""
    if kind not in KINDS:
        raise UnknownName("kind of instruction data", kind, KINDS)
    return kind


def tell(scene: Scene, boxes: np.ndarray, size: int) -> Told:
    """Put a scene into words.

    boxes: (n, 4) in pixels of a picture `size` x `size`, as a render has them; zeros where nothing can be seen.
    Raises BadInput for a scene without objects.
    """
    if not scene.objects:
        raise BadInput("an empty scene gives a teacher nothing to tell; sample one with objects")
    shares = np.asarray(boxes, float) / size
    lines = (
        f"{item.kind}: [{', '.join(f'{value:.3f}' for value in box)}]"
        for item, box in zip(scene.objects, shares, strict=True)
        if box.any()
    )
    return Told(scene, captions(scene), tuple(lines))


def captions(scene: Scene) -> tuple[str, ...]:
    """Five captions: kinds and colours, all looks, both orders, and what stands on what, faces where and is near."""
    told = [
        caption(scene, "short"), looks(scene), places(scene, "left"), places(scene, "front"),
        " ".join(sentences(scene)), f"There are {len(scene.objects)} objects." if len(scene.objects) > 1 else "",
        *(f"The {name(scene, i)} is {o.size}, {o.material} and {o.colour}." for i, o in enumerate(scene.objects)),
        f"There is 1 {scene.objects[0].kind}.", "There is 1 object.",  # reached where it is alone
    ]  # fmt: skip
    return tuple(filter(None, told))[:5]


def looks(scene: Scene) -> str:
    """ "There is a small shiny red cat and a large matte blue sofa." """
    return "There is " + listing([article(full_name(scene.objects[i])) for i in order(scene, "left")]) + "."


def places(scene: Scene, side: str) -> str:
    """The order from "left" to right or from "front" to back where it is beyond doubt, else the pairs where it is."""
    relation, way = SIDES[side]
    ranked = order(scene, side)
    if len(ranked) > 1 and all(holds(scene, relation, a, b) for a, b in pairwise(ranked)):
        return f"From {way}: " + listing([f"the {name(scene, i)}" for i in ranked]) + "."
    pairs = [(a, b) for a, b in combinations(ranked, 2) if holds(scene, relation, a, b)]
    return " ".join(f"The {name(scene, a)} is {relation} the {name(scene, b)}." for a, b in pairs)
