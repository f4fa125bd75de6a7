"""Notebook 05. LLaVA-Bench's files about our scenes: a question of each category about each picture, and references.

The references are written from the scene graph alone, as the text-only teacher of LLaVA-Bench writes its own from
captions and boxes (Liu et al. 2023, arXiv 2304.08485, section 5.1). A complex question is one whose answer rests on
several facts: a comparison, a choice, or a chain of relations. Its reference names these facts before the verdict.
"""

from typing import Any

from vlmlab.benchmarks.claims import wanted
from vlmlab.benchmarks.export.sets import SIZE, Asked, Export, View, held_out, to_lines
from vlmlab.scenes import Scene
from vlmlab.scenes.captions import DIRECTIONS, listed
from vlmlab.scenes.questions import Balance, Question

FIRST, PICTURES = 700_000, 30
TYPES = {"conv": ("attribute", "relation", "count", "existence"), "complex": ("multi_hop", "comparison", "choice")}
DETAIL = ("Describe the picture in detail.", "What does the picture show? Give all details.",
          "Write a detailed description of the room and what stands in it.")  # fmt: skip
MODEL = "scene-graph"


def told(scene: Scene) -> dict[str, Any]:
    """What a text-only teacher or judge is told of a picture: five captions and the boxes, 0 to 1."""
    boxes = (scene.render(SIZE).boxes / SIZE).round(3).tolist()
    captions = [scene.caption("short"), *(listed(scene, way) for way in DIRECTIONS)]
    instances = [
        {"category": item.kind, "bbox": [round(edge, 3) for edge in box]}
        for item, box in zip(scene.objects, boxes, strict=True)
    ]
    return {"caption": captions, "instances": instances}


def answer(scene: Scene, category: str, question: Question | None) -> str:
    """The reference: the whole description, or the sentence that answers, after the description if it is complex."""
    if question is None:
        return scene.caption("full")
    return f"{scene.caption('full')} {question.sentence}" if category == "complex" else question.sentence


def build() -> Export:
    """The set: three questions about each of PICTURES scenes of three or four objects."""
    scenes = (scene for scene in held_out(FIRST) if len(scene.objects) > 2)
    balance = Balance(slack=1)
    rows: list[dict[str, Any]] = []
    context, references = [], []
    pictures: dict[str, View] = {}
    asked: dict[str, Asked] = {}
    for scene in scenes:
        if len(pictures) == PICTURES:
            break
        found = {category: _question(scene, category, len(pictures), balance) for category in TYPES}
        if None in found.values():
            continue
        number = len(pictures) + 1
        image = f"{number:03d}.jpg"
        pictures[image] = View(scene)
        context.append({"id": f"{number:03d}", "image": image, **told(scene)})
        for category in ("conv", "detail", "complex"):
            name, question = len(rows), found.get(category)
            text = question.text if question else DETAIL[number % len(DETAIL)]
            rows.append({"question_id": name, "image": image, "category": category, "text": text})
            written = {"question_id": name, "text": answer(scene, category, question)}
            references.append({**written, "answer_id": f"{name:03d}", "model_id": MODEL, "metadata": {}})
            asked[str(name)] = Asked(image, question)
    texts = {"questions.jsonl": to_lines(rows), "context.jsonl": to_lines(context),
             "answers_reference.jsonl": to_lines(references)}  # fmt: skip
    return Export(texts, pictures, asked)


def _question(scene: Scene, category: str, number: int, balance: Balance) -> Question | None:
    """A question of a category; its types take turns over the pictures, a complex one rests on two facts or more."""
    types = TYPES[category]
    turn = number % len(types)
    for kind in types[turn:] + types[:turn]:
        for question in scene.questions(types=[kind], count=6):
            hard = kind == "choice" or len(wanted(scene, category, question)) > 2
            if (category == "conv" or (hard and question.answer != "0")) and balance.keep(question):
                return question
    return None
