"""Notebook 05. GQA's files about our scenes: questions with programs, scene graphs, and the answers that make sense.

All questions whose answers follow from a balanced one's are in the file too, so that consistency can be scored; these
are not balanced and do not count by themselves. An answer is plausible if it occurs with its subject in one of the
set's scenes, valid if it is of the kind asked for. Source of the format: Hudson & Manning 2019, arXiv 1902.09506.
"""

import re
from collections import Counter
from itertools import islice
from typing import Any

import numpy as np

from vlmlab.benchmarks.export.gqa_programs import ATTRIBUTES, RELATIONS, SHARED
from vlmlab.benchmarks.export.gqa_questions import Draft, Maker
from vlmlab.benchmarks.export.sets import SIZE, Export, View, alone, held_out, to_json
from vlmlab.scenes import Scene, holds

FIRST, PICTURES, BALANCED, FOLLOWING = 400_000, 100, 5, 2
WEIGHTS = {"directWhich": 3, "relS": 3}  # of detailed types that are asked more often than others


def image_id(number: int) -> str:
    """GQA's id of the set's picture number 0, 1, ..."""
    return str(2_400_001 + number)


def object_ids(image: str, scene: Scene) -> list[str]:
    """Ids of a scene's objects in the scene graph, in order."""
    return [f"{image}{index}" for index in range(len(scene.objects))]


def graph(image: str, scene: Scene) -> dict[str, Any]:
    """GQA's record of a picture: objects by id with a box in pixels, attributes, and the relations that hold."""
    ids, boxes = object_ids(image, scene), scene.render(SIZE).boxes.astype(int).tolist()
    objects = {}
    for a, (item, (x1, y1, x2, y2)) in enumerate(zip(scene.objects, boxes, strict=True)):
        found = [{"name": phrase, "object": ids[b]} for b in range(len(ids)) if b != a
                 for phrase, relation in RELATIONS.items() if holds(scene, relation, a, b)]  # fmt: skip
        objects[ids[a]] = {"name": item.kind, "x": x1, "y": y1, "w": x2 - x1, "h": y2 - y1,
                           "attributes": [item.colour, item.size, item.material], "relations": found}  # fmt: skip
    return {"width": SIZE, "height": SIZE, "objects": objects}


def take(drafts: list[Draft], taken: Counter[Any], slots: Counter[tuple[str, str, str]]) -> list[Draft]:
    """BALANCED questions of a scene, of different types, those first that were taken least; none whose answer is ahead.

    taken, slots: questions taken so far by type and by type and topic, and by type, topic and answer; both are counted
    on. Of many possible answers one may be ahead of the rarest a little.
    """
    found: dict[str, Draft] = {}
    for draft in sorted(
        drafts, key=lambda each: (taken[each.types[2]] / WEIGHTS.get(each.types[2], 1), taken[each.topics])
    ):
        kind, topic = draft.topics
        ahead = slots[kind, topic, draft.slot] - min(slots[kind, topic, slot] for slot in draft.slots)
        if kind in found or ahead > len(draft.slots) // 4 or len(found) == BALANCED:
            continue
        found[kind] = draft
        taken.update((kind, draft.topics))
        slots[kind, topic, draft.slot] += 1
    return list(found.values())


def chosen(scenes: list[Scene]) -> list[list[tuple[Draft, bool]]]:
    """For each scene its questions, and whether each is a balanced one."""
    rng = np.random.default_rng(24)
    taken: Counter[Any] = Counter()
    slots: Counter[tuple[str, str, str]] = Counter()
    found = []
    for number, scene in enumerate(scenes):
        drafts = list(Maker(scene, object_ids(image_id(number), scene), rng).drafts())
        drafts = [drafts[i] for i in rng.permutation(len(drafts))]
        balanced = take(drafts, taken, slots)
        rows = [(draft, True) for draft in balanced]
        for draft in balanced:
            following = sorted(
                (other for other in drafts if draft.entails(other)), key=lambda each: each.types[1] == "obj"
            )
            rows += [(other, False) for other in following[:FOLLOWING] if all(other is not row for row, _ in rows)]
        found.append(rows)
    return found


def build() -> Export:
    """The set: BALANCED questions a picture, and up to FOLLOWING that follow from each."""
    scenes = list(islice((scene for scene in held_out(FIRST) if len(alone(scene)) > 1), PICTURES))
    questions: dict[str, Any] = {}
    drafts: dict[str, Draft] = {}
    for number, rows in enumerate(chosen(scenes)):
        ids = [f"{number:05d}{place:03d}" for place in range(len(rows))]
        drafts |= {name: draft for name, (draft, _) in zip(ids, rows, strict=True)}
        for name, (_, balanced) in zip(ids, rows, strict=True):
            questions[name] = _record(name, ids, drafts, image_id(number), scenes[number], balanced)
    likely = plausible(scenes)
    choices = {
        name: {"valid": list(draft.valid), "plausible": [value for value in draft.valid if likely(draft, value)]}
        for name, draft in drafts.items()
    }
    graphs = {image_id(number): graph(image_id(number), scene) for number, scene in enumerate(scenes)}
    return Export(
        {
            "val_all_questions.json": to_json(questions),
            "val_sceneGraphs.json": to_json(graphs),
            "val_choices.json": to_json(choices),
        },
        {f"{image_id(number)}.jpg": View(scene) for number, scene in enumerate(scenes)},
    )


def _record(name: str, ids: list[str], drafts: dict[str, Draft], image: str, scene: Scene, balanced: bool) -> dict:
    draft = drafts[name]
    follow = [other for other in ids if draft.entails(drafts[other])]
    steps = [f"{step['operation']}: {step['argument']}{step['dependencies'] or ''}" for step in draft.semantic]
    kinds = {kind: object_ids(image, scene)[index] for kind, index in alone(scene).items()}
    subject = draft.semantic[0]["argument"].split(" (")[0]
    return {
        "semantic": list(draft.semantic),
        "entailed": follow,
        "equivalent": [name, *(other for other in follow if drafts[other].entails(draft))],
        "question": draft.text,
        "imageId": image,
        "isBalanced": balanced,
        "groups": {"global": draft.group or None, "local": f"{draft.types[2]}-{subject}_{draft.topic}"},
        "answer": draft.answer,
        "semanticStr": "->".join(steps),
        "annotations": {
            "answer": pointers(draft.answer, kinds),
            "question": pointers(draft.text, kinds),
            "fullAnswer": pointers(draft.full, kinds),
        },
        "types": dict(zip(("structural", "semantic", "detailed"), draft.types, strict=True)),
        "fullAnswer": draft.full,
    }


def pointers(text: str, ids: dict[str, str]) -> dict[str, str]:
    """Position of a word -> id of the object that it names."""
    words = (re.sub(r"\W", "", word).lower() for word in text.split())
    return {str(place): ids[word] for place, word in enumerate(words) if word in ids}


def plausible(scenes: list[Scene]) -> Any:
    """A function of a question and an answer: whether the answer occurs with the question's subject in a scene."""
    looks, beside = set(), set()
    for scene in scenes:
        for a, item in enumerate(scene.objects):
            looks |= {(item.kind, name, getattr(item, field)) for name, field in ATTRIBUTES.items()}
            beside |= {
                (item.kind, phrase, other.kind) for b, other in enumerate(scene.objects) if b != a
                for phrase, relation in RELATIONS.items() if holds(scene, relation, a, b)
            }  # fmt: skip

    def likely(draft: Draft, value: str) -> bool:
        subject = draft.semantic[0]["argument"].split(" (")[0]
        if draft.types[2] == "relS":
            return (value, draft.semantic[1]["argument"].split(",")[1], subject) in beside
        return draft.group not in (*SHARED, "size") or (subject, draft.group, value) in looks

    return likely
