"""Notebooks 00 and 04. Held-out scenes: how often a model answers right, by type of question, beside its baselines.

The questions are those of `Scene.questions`, balanced, on scenes of the split `test` (combinations of colour and kind
that were seen in training, in new scenes) or `test_combinations` (scenes with a combination that never was).
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from vlmlab.benchmarks.statistics import proportion
from vlmlab.errors import BadInput, UnknownName
from vlmlab.scenes import CATEGORIES, SPLITS, Scene, sample
from vlmlab.scenes.questions import Balance, Question
from vlmlab.vlm.conversations import SHORT

if TYPE_CHECKING:
    from vlmlab.vlm.model import VLM

FORMATS = ("sentence", "word")


class Asked(NamedTuple):
    """A question and the scene it is about."""

    scene: Scene
    question: Question


def questions(scenes: int = 400, per_scene: int = 8, split: str = "test", first_seed: int = 0) -> list[Asked]:
    """Balanced questions about `scenes` scenes of a split; the same arguments give the same questions."""
    if split not in SPLITS:
        raise UnknownName("split", split, SPLITS)
    balance = Balance()
    drawn = (sample(first_seed + i, split=split) for i in range(scenes))
    return [Asked(scene, q) for scene in drawn for q in scene.questions(count=per_scene) if balance.keep(q)]


def prompt(question: Question, form: str) -> str:
    """The question as it is put to a model: alone, or with the prompt that asks for a single word or phrase."""
    return question.text if form == "sentence" else f"{question.text}\n{SHORT}"


def is_right(text: str, answer: str, form: str) -> bool:
    """Whether a model's text gives `answer`: the whole text for a word, the last words for a sentence.

    Case and a final period do not matter.
    """
    said, answer = text.strip().rstrip(".").lower(), answer.lower()
    return said == answer or (form == "sentence" and said.endswith((" " + answer, "," + answer)))


def rows(question: Question) -> list[str]:
    """The rows of the table that a question counts in."""
    found = [question.type]
    if question.type == "attribute":
        found.append(f"attribute: {question.topic}")
    elif question.type == "relation":
        found.append(f"relation: {CATEGORIES[question.topic]}")
        side = {
            "left of": "left/right",
            "right of": "left/right",
            "in front of": "front/behind",
            "behind": "front/behind",
        }
        if question.topic in side:
            found.append(f"relation: {side[question.topic]}")
    return [*found, "all"]


def chance(question: Question) -> float:
    """How often a guess among the answers that the question allows is right."""
    if question.options:
        return 1 / len(question.options)
    return 1 / 2 if question.type == "choice" else 1 / 5  # two objects are named; counts go from 0 to 4


def evaluate(
    vlm: "VLM",
    asked: Sequence[Asked],
    form: str = "sentence",
    blind: bool = False,
    batch_size: int = 64,
    progress: Callable[[int, int], object] | None = None,
) -> dict[str, Any]:
    """Accuracy by row, and every answer.

    Args:
        form: one of FORMATS. blind: ask without the picture. progress: called with (answers so far, all).
    Returns:
        {"n", "accuracy", "by_type": {row: {"n", "accuracy", "low", "high", "chance", "constant"}}, "answers": [...]};
        `low`, `high` bound the 95 % Wilson interval; `constant` is the share of the row's most frequent answer.
    """
    if form not in FORMATS:
        raise UnknownName("answer format", form, FORMATS)
    if not asked:
        raise BadInput("no questions to ask")
    pictures = {}
    for item in asked:
        if not blind and id(item.scene) not in pictures:
            pictures[id(item.scene)] = item.scene.render(vlm.config.image_size).rgb
    texts = vlm.answer_many(
        [pictures.get(id(item.scene)) for item in asked],
        [prompt(item.question, form) for item in asked],
        max_new_tokens=56,
        batch_size=batch_size,
        on_batch=None if progress is None else lambda done: progress(done, len(asked)),
    )
    right = [is_right(text, item.question.answer, form) for text, item in zip(texts, asked, strict=True)]
    table = summarise([item.question for item in asked], right)
    answers = [
        {"split": item.scene.split, "seed": item.scene.seed, "type": item.question.type, "question": item.question.text,
         "answer": item.question.answer, "said": text, "right": flag}
        for item, text, flag in zip(asked, texts, right, strict=True)
    ]  # fmt: skip
    return {"n": len(right), "accuracy": table["all"]["accuracy"], "by_type": table, "answers": answers}


def summarise(asked: Sequence[Question], right: Sequence[bool]) -> dict[str, dict[str, float]]:
    """The table by row of questions answered right or wrong, with chance and the best constant answer of each row."""
    groups: dict[str, list[int]] = {}
    for index, question in enumerate(asked):
        for row in rows(question):
            groups.setdefault(row, []).append(index)
    table = {}
    for row in sorted(groups):
        members = groups[row]
        common = Counter(asked[i].answer for i in members).most_common(1)[0][1]
        table[row] = {
            **proportion([right[i] for i in members]),
            "chance": sum(chance(asked[i]) for i in members) / len(members),
            "constant": common / len(members),
        }
    return table
