"""Notebook 05. VQAv2's files about our scenes: every question is asked about two pictures that have different answers.

Source of the format: Goyal et al. 2017, arXiv 1612.00837, and the file of complementary pairs that came with it.
"""

from collections import Counter
from collections.abc import Iterator
from itertools import islice

import numpy as np

from vlmlab.benchmarks.export.people import answer_type, ten
from vlmlab.benchmarks.export.sets import Asked, Candidate, Export, View, held_out, pairs, to_json
from vlmlab.scenes import Scene

FIRST, SCENES, PAIRS = 200_000, 500, 20
TYPES = ("existence", "count", "attribute", "relation", "comparison", "choice", "referring")
AXES = {"left of": "side", "right of": "side", "in front of": "depth", "behind": "depth"}
PREFIXES = ("what color is the", "what is the", "what is", "what", "which", "how many", "is there a", "is there",
            "is the", "are there", "are the", "does the", "can you")  # fmt: skip
"""Those of the 65 question types of VQAv2 that our questions begin with."""
HEAD = {"info": {"description": "Questions about rendered scenes in the format of VQAv2.", "version": "1.0"},
        "data_type": "mscoco", "data_subtype": "val2014", "license": {"name": "Apache-2.0"}}  # fmt: skip


def question_type(text: str) -> str:
    """The longest of VQAv2's question types that a question begins with; "none of the above" without one."""
    fitting = [prefix for prefix in PREFIXES if f"{text.lower()} ".startswith(f"{prefix} ")]
    return max(fitting, key=len, default="none of the above")


def asked(scene: Scene, picture: int) -> Iterator[Candidate]:
    """Questions that another picture may answer differently."""
    for question in scene.questions(types=TYPES, count=14):
        topic = {"attribute": question.topic, "relation": AXES.get(question.topic, "other")}.get(question.type)
        yield Candidate((question.type, topic), question.text, question.answer, picture, question)


def build() -> Export:
    """The set: up to PAIRS pairs of each type of question, of each attribute and of each axis of relations."""
    scenes = list(islice(held_out(FIRST), SCENES))
    found = pairs((each for at, scene in enumerate(scenes) for each in asked(scene, at)), PAIRS)
    chosen = sorted((each for pair in found for each in pair), key=lambda each: each.picture)
    numbers = {picture: number for number, picture in enumerate(dict.fromkeys(each.picture for each in chosen), 1)}
    ids: dict[tuple, int] = {}
    of_picture: Counter[int] = Counter()
    options: dict[tuple, set] = {}
    for each in chosen:
        ids[each[1:4]] = numbers[each.picture] * 1000 + of_picture[each.picture]
        of_picture[each.picture] += 1
        options.setdefault((each.group, question_type(each.words)), set()).add(each.answer)
    rng = np.random.default_rng(21)
    rows, texts, asked_about = [], [], {}
    for each in chosen:
        name, image, kind = ids[each[1:4]], numbers[each.picture], question_type(each.words)
        people = ten(rng, each.answer, tuple(sorted(options[each.group, kind])))
        record = {"question_type": kind, "multiple_choice_answer": each.answer}
        record["answers"] = [{**row, "answer_id": number} for number, row in enumerate(people, 1)]
        rows.append(record | {"image_id": image, "answer_type": answer_type(each.answer), "question_id": name})
        texts.append({"image_id": image, "question": each.words, "question_id": name})
        asked_about[str(name)] = Asked(picture_name(image), each.item)
    questions = {**HEAD, "task_type": "Open-Ended", "questions": texts}
    complementary = [[ids[each[1:4]] for each in pair] for pair in found]
    return Export(
        {
            "v2_OpenEnded_mscoco_val2014_questions.json": to_json(questions, 2),
            "v2_mscoco_val2014_annotations.json": to_json({**HEAD, "annotations": rows}, 2),
            "v2_mscoco_val2014_complementary_pairs.json": to_json(complementary),
        },
        {picture_name(number): View(scenes[picture]) for picture, number in numbers.items()},
        asked_about,
    )


def picture_name(image_id: int) -> str:
    """COCO's name of a picture."""
    return f"COCO_val2014_{image_id:012d}.jpg"
