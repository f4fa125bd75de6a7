"""Notebook 05. VSR's sentences about our scenes: every relation in both frames of reference, as often true as false.

A sentence is about kinds that name one object of the picture, in a relation decided beyond its margin. For each true
sentence the same words are false of another picture, so words alone do not tell (Liu et al. 2023, arXiv 2205.00363,
contrast pictures in the same way). "relative" is the viewer's frame, "intrinsic" the object's; where both would
be possible, the sentence says when it is the object's. Nobody voted: the fields of votes are empty lists.
"""

from collections.abc import Iterator
from itertools import islice, permutations

from vlmlab.benchmarks.export.sets import Candidate, Export, View, alone, held_out, pairs, to_lines
from vlmlab.scenes import Scene, holds
from vlmlab.scenes.relations import OWN_FRAME, SPECS

FIRST, SCENES, PAIRS = 100_000, 1200, 6
SIDES = ("at the left side of", "at the right side of")
FRAMES = [*((name, spec.frame) for name, spec in SPECS.items()), *((name, "object") for name in OWN_FRAME)]


def reference_frame(relation: str, frame: str) -> str | None:
    """VSR's name of a frame, None where the relation is the same in both."""
    if frame == "object":
        return "intrinsic"
    return "relative" if relation in OWN_FRAME or relation in SIDES else None


def caption(relation: str, frame: str, subject: str, other: str) -> str:
    """A sentence in VSR's form."""
    verb = "contains" if relation == "contains" else f"is {relation}"
    view = f" from the {other}'s point of view" if frame == "object" and relation in OWN_FRAME else ""
    return f"The {subject} {verb} the {other}{view}."


def statements(scene: Scene, picture: int) -> Iterator[Candidate]:
    """Every sentence that is true or false beyond doubt."""
    for (subject, a), (other, b) in permutations(alone(scene).items(), 2):
        for relation, frame in FRAMES:
            truth = holds(scene, relation, a, b, frame)
            if truth is not None:
                item = (relation, frame, subject, other)
                yield Candidate((relation, frame), item, truth, picture, item)


def build() -> Export:
    """The set: PAIRS true and PAIRS false sentences of each relation and frame."""
    scenes = list(islice(held_out(FIRST), SCENES))
    found = pairs((each for at, scene in enumerate(scenes) for each in statements(scene, at)), PAIRS)
    chosen = sorted((each for pair in found for each in pair), key=lambda each: each.picture)
    names = {
        picture: f"{number:012d}.jpg" for number, picture in enumerate(dict.fromkeys(c.picture for c in chosen), 1)
    }
    rows = [
        {
            "image": names[each.picture],
            "image_link": f"images/{names[each.picture]}",
            "caption": caption(*each.item),
            "label": int(bool(each.answer)),
            "relation": each.item[0],
            "annotator_id": 0,
            "vote_true_validator_id": "[]",
            "vote_false_validator_id": "[]",
            "reference_frame": reference_frame(*each.item[:2]),
            "subj": each.item[2],
            "obj": each.item[3],
        }
        for each in chosen
    ]
    return Export({"test.jsonl": to_lines(rows)}, {names[at]: View(scenes[at]) for at in names})
