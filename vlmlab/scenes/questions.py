"""Notebook 00. Questions with programs and exact answers, as sentences and as single words.

Every question carries its program; `answer` is the program executed on the scene, `sentence` says what is to be seen
first and gives the verdict last ("The cat is right of the sofa, no."). Yes/no answers are balanced by drawing the
answer first and then a question that has it, and over many scenes by `Balance`.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from vlmlab.errors import UnknownName
from vlmlab.scenes import relations as R
from vlmlab.scenes.drawing import Draw, Question, word
from vlmlab.scenes.programs import Ambiguous

if TYPE_CHECKING:
    from vlmlab.scenes.scene import Scene

__all__ = ["TYPES", "Balance", "Question", "questions", "word"]
TYPES = ("existence", "count", "attribute", "relation", "comparison", "choice", "referring", "multi_hop")


def questions(
    scene: "Scene",
    types: Sequence[str] | None = None,
    count: int = 12,
    seed: int | None = None,
    relation: str | None = None,
    tries: int = 60,
) -> list[Question]:
    """Up to `count` different questions about `scene`, the types in turn.

    Args:
        types: some of TYPES (all when None).
        seed: of the draw (the scene's own seed when None).
        relation: ask only this relation where the type is "relation".
        tries: draws for each question before it is given up: not every scene has every question.
    Raises UnknownName for an unknown type or relation.
    """
    for kind in types or ():
        if kind not in TYPES:
            raise UnknownName("question type", kind, TYPES)
    if relation is not None and relation not in R.NAMES:
        raise UnknownName("relation", relation, R.NAMES)
    rng = np.random.default_rng([7, seed if seed is not None else (scene.seed or 0)])
    draw = Draw(scene, rng)
    wanted, found, texts = list(types or TYPES), [], set()
    makers: dict[str, Callable[[], Question | None]] = {kind: getattr(draw, kind) for kind in wanted}
    if relation is not None and "relation" in makers:
        makers["relation"] = lambda: draw.relation(relation)
    start = int(rng.integers(len(wanted)))
    for index in range(count):
        maker = makers[wanted[(start + index) % len(wanted)]]
        want = draw.plan()
        for attempt in range(1, tries + 1):
            if attempt % 12 == 0:
                draw.plan(want)
            try:
                question = maker()
            except Ambiguous:
                continue
            if question is not None and question.text not in texts:
                texts.add(question.text)
                found.append(question)
                break
    return found


class Balance:
    """Keeps the answers to each kind of yes/no question even, in the order in which questions come.

    A question is kept unless its answer is already ahead of the other by more than `slack` among the questions kept of
    its type and topic (for relations: of its relation), so that the words of a question alone do not tell its answer.
    """

    def __init__(self, slack: int = 2):
        self.slack = slack
        self.kept: dict[tuple[str, str], dict[str, int]] = {}

    def keep(self, question: Question) -> bool:
        """Whether to keep this question; counts it if so."""
        if question.answer not in ("yes", "no"):
            return True
        counts = self.kept.setdefault((question.type, question.topic), {"yes": 0, "no": 0})
        other = counts["no" if question.answer == "yes" else "yes"]
        if counts[question.answer] >= other + self.slack:
            return False
        counts[question.answer] += 1
        return True
