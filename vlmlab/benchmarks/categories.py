"""Notebook 11. A fixed exam by category of question, and twins: what the models of the 3 x 2 experiment are asked.

Eight categories, each with the same number of questions, each question about a test scene of its own, so that no two
answers hang together. Four are VSR's categories of relations (Liu et al. 2023, arXiv 2205.00363), their relations as
often as training asks for them. Yes and no are as often right, and so are the counts 1 to 4. A twin pair is one
question about two scenes that differ in one way, with different true answers: whoever does not look gets one of the two
wrong, so only both right counts.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np

from vlmlab.benchmarks.held_out import Asked, chance, is_right
from vlmlab.errors import BadInput, UnknownName, VlmlabError
from vlmlab.scenes import CATEGORIES as VSR
from vlmlab.scenes import sample
from vlmlab.scenes.drawing import ASKED_RELATIONS, Question, word
from vlmlab.scenes.programs import Ambiguous, execute
from vlmlab.scenes.questions import Balance
from vlmlab.scenes.twins import KINDS_OF_TWIN

if TYPE_CHECKING:
    from vlmlab.vlm.model import VLM

SPATIAL = ("projective", "topological", "orientation", "proximity")
CATEGORIES = ("existence", "attribute", *SPATIAL, "counting", "referring")
TYPES = {"counting": "count"} | dict.fromkeys(SPATIAL, "relation")
"""The type of a category's questions where it is not the category's name."""
SIDES = ("left of", "right of")
FLIPPED = {"mirror": SIDES, "swap": (*SIDES, "in front of", "behind"), "relation": SIDES}
"""Kind of twin -> the relations asked about."""
COUNTS = ("1", "2", "3", "4")
STRIDE = 100_000  # seeds of scenes set aside for each category and each kind of twin


@dataclass(frozen=True)
class Exam:
    """Questions and their scenes: the categories one after the other, then the twins, the two of a pair in a row.

    parts: a category, or "twins/mirror" and so on -> where in `asked` its questions lie.
    """

    asked: tuple[Asked, ...]
    parts: dict[str, slice]

    @property
    def singles(self) -> int:
        """Questions that are no twin's; they come first."""
        return self.parts[CATEGORIES[-1]].stop

    @property
    def fingerprint(self) -> str:
        """The same for the same questions about the same scenes."""
        text = "\n".join(f"{q.text} {q.answer} {scene.to_json()}" for scene, q in self.asked)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def render(self, size: int) -> list[np.ndarray]:
        """The picture (size, size, 3) of each question."""
        return [scene.render(size).rgb for scene, _ in self.asked]

    def summary(self) -> dict[str, Any]:
        """What a part asks, and what answers would be right without looking.

        {"fingerprint", "parts": {part: {"start", "stop", "topics": {topic: n}, "chance", "constant"}}}. Of twins the
        unit is the pair: `chance` is that of guessing both, and a constant answer is never right twice.
        """
        parts = {}
        for name, where in self.parts.items():
            of = [question for _, question in self.asked[where]]
            twins = name.startswith("twins")
            parts[name] = {
                "start": where.start,
                "stop": where.stop,
                "topics": dict(Counter(question.topic for question in of[:: 2 if twins else 1])),
                "chance": 0.25 if twins else sum(map(chance, of)) / len(of),
                "constant": 0.0 if twins else Counter(q.answer for q in of).most_common(1)[0][1] / len(of),
            }
        return {"fingerprint": self.fingerprint, "parts": parts}


def build(count: int = 160, pairs: int = 50) -> Exam:
    """The exam: `count` questions a category, `pairs` twin pairs of each kind. The same arguments give the same one.

    Raises BadInput for fewer than two of either.
    """
    if min(count, pairs) < 2:
        raise BadInput(f"{count} questions a category and {pairs} pairs of twins; an exam needs two of each at least")
    asked: list[Asked] = []
    parts: dict[str, slice] = {}

    def add(name: str, found: list[Asked]) -> None:
        parts[name] = slice(len(asked), len(asked) + len(found))
        asked.extend(found)

    for category in CATEGORIES:
        add(category, questions(category, count))
    for kind in KINDS_OF_TWIN:
        add(f"twins/{kind}", [one for pair in twin_pairs(kind, pairs) for one in pair])
    return Exam(tuple(asked), parts)


def relations_of(category: str) -> tuple[str, ...]:
    """The relations of a category, each as often as training asks for it; () for a category without relations."""
    return tuple(name for name in ASKED_RELATIONS if VSR[name].lower() == category)


def questions(category: str, count: int) -> list[Asked]:
    """`count` questions of a category, each about another scene of the split `test`. Raises UnknownName."""
    if category not in CATEGORIES:
        raise UnknownName("category of questions", category, CATEGORIES)
    kind = TYPES.get(category, category)
    names: tuple[str | None, ...] = relations_of(category) or (None,)
    balance = Balance(slack=1)
    found: list[Asked] = []
    seed = STRIDE * (1 + CATEGORIES.index(category))
    while len(found) < count:
        scene, name = sample(seed, split="test"), names[len(found) % len(names)]
        seed += 1
        for question in scene.questions(types=[kind], count=1, relation=name):
            if category == "counting" and question.answer != COUNTS[len(found) % len(COUNTS)]:
                continue
            if balance.keep(question):
                found.append(Asked(scene, question))
    return found


def twin_pairs(kind: str, count: int) -> list[tuple[Asked, Asked]]:
    """`count` pairs: one question about a test scene and about its twin, where the true answers differ."""
    balance, names = Balance(slack=1), cycle(FLIPPED[kind])
    found: list[tuple[Asked, Asked]] = []
    seed = STRIDE * (20 + KINDS_OF_TWIN.index(kind))
    while len(found) < count:
        scene = sample(seed, split="test")
        seed += 1
        try:
            twin = scene.twin(kind)
        except VlmlabError:
            continue  # not every scene has one
        for question in scene.questions(types=["relation"], count=1, relation=next(names)):
            other = flipped(question, twin)
            if other is not None and balance.keep(question):
                found.append((Asked(scene, question), Asked(twin, other)))
    return found


def flipped(question: Question, twin: Any) -> Question | None:
    """The same question about a twin, with its answer there; None where that is the same, or not beyond doubt."""
    try:
        answer = word(execute(question.program, twin))
    except Ambiguous:
        return None
    return None if answer == question.answer else replace(question, answer=answer, sentence=answer)


def mark(
    vlm: "VLM",
    asked: Sequence[Asked],
    pictures: Sequence[np.ndarray | None],
    progress: Callable[[int, int], object] | None = None,
    batch_size: int = 64,
) -> str:
    """Ask a model in the sentence form, greedily; "1" for each right answer and "0" for each wrong one, in order.

    pictures: one a question, or None for a question without. progress: called with (answers so far, all).
    """
    texts = vlm.answer_many(
        pictures,
        [question.text for _, question in asked],
        max_new_tokens=56,
        batch_size=batch_size,
        on_batch=None if progress is None else lambda done: progress(done, len(asked)),
    )
    rights = (is_right(text, question.answer, "sentence") for text, (_, question) in zip(texts, asked, strict=True))
    return "".join(str(int(right)) for right in rights)


def read_marks(marks: Sequence[str], where: slice, pairs: bool = False) -> np.ndarray:
    """Marks of several runs in a part of the exam as (S, Q) of 0 and 1; of twins, whether both of a pair are right."""
    flags = np.array([[int(flag) for flag in text[where]] for text in marks], float).reshape(len(marks), -1)
    return flags.reshape(len(marks), -1, 2).min(-1) if pairs else flags
