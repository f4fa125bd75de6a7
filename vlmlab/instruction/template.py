"""Notebook 03. A teacher made of templates: functional programs over the facts of the scene, no model.

It never errs, and it says little that is not in the templates. The same scene always gets the same reply.
"""

from collections.abc import Sequence

import numpy as np

from vlmlab.instruction.context import KINDS, Told, known, looks, places
from vlmlab.scenes.captions import sentences
from vlmlab.scenes.questions import TYPES, questions

REASONING = ("multi_hop", "comparison")
SIMPLE = tuple(kind for kind in TYPES if kind not in REASONING)
PAIRS = 3  # questions of a conversation


def template(kind: str, told: Sequence[Told]) -> list[str]:
    """A reply for each scene; kind is one of context.KINDS. Raises UnknownName."""
    write = {"conversation": _conversation, "detail": _detail, "reasoning": _reasoning}[known(kind)]
    return [write(each, np.random.default_rng([13, KINDS.index(kind), each.scene.seed or 0])) for each in told]


def _conversation(told: Told, rng: np.random.Generator) -> str:
    found = questions(told.scene, SIMPLE, count=2 * PAIRS, seed=int(rng.integers(2**31)))
    return _blocks([(each.text, each.sentence) for each in found[:PAIRS]])


def _reasoning(told: Told, rng: np.random.Generator) -> str:
    turned = REASONING if rng.random() < 0.5 else REASONING[::-1]
    return _blocks(
        [(q.text, q.sentence) for q in questions(told.scene, turned, count=2, seed=int(rng.integers(2**31)))[:1]]
    )


def _detail(told: Told, rng: np.random.Generator) -> str:
    """Looks first, then the two orders and the other facts in any order."""
    parts = [places(told.scene, "left"), places(told.scene, "front"), " ".join(sentences(told.scene))]
    return " ".join(filter(None, [looks(told.scene), *(parts[i] for i in rng.permutation(len(parts)))]))


def _blocks(pairs: Sequence[tuple[str, str]]) -> str:
    return "\n".join(f"Question:\n{question}\n===\nAnswer:\n{answer}\n===" for question, answer in pairs)
