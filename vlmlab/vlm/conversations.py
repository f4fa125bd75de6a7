"""What a scene gives to learn from: descriptions and questions as turns of a conversation. Notebooks 03 and 04.

Each item is one human turn and one answer. Questions are answered by a sentence whose last word is the verdict, or,
after LLaVA-1.5's format prompt, by that word alone.
"""

from contextlib import suppress
from typing import NamedTuple

import numpy as np

from vlmlab.scenes import Scene
from vlmlab.scenes.captions import caption, listing, name, order, sentences
from vlmlab.scenes.programs import Ambiguous, facing
from vlmlab.scenes.questions import TYPES, Question

SHORT = "Answer the question using a single word or phrase."
DESCRIBE = "Describe the picture."
DETAIL = "Describe the picture in detail."
BRIEF = "Provide a one-sentence caption for the provided image."
ORDER = "List the objects from front to back."
KINDS = ("dense", "full", "short caption", "order", *TYPES, *(f"{name} (word)" for name in TYPES))


class Item(NamedTuple):
    """One question and its answer; `kind` is one of KINDS."""

    kind: str
    question: str
    answer: str


def descriptions(scene: Scene) -> list[Item]:
    """Four ways to be asked for a description."""
    front = [("the " + name(scene, i)) for i in order(scene, "front")]
    return [
        Item("dense", DESCRIBE, caption(scene, "dense")),
        Item("full", DETAIL, caption(scene, "full")),
        Item("short caption", BRIEF, caption(scene, "short")),
        Item("order", ORDER, "From front to back: " + listing(front) + "."),
    ]


def statements(scene: Scene) -> list[Item]:
    """One item for each fact about supports, facing and distances."""
    return [Item("full", "Tell me one thing about the picture.", text) for text in sentences(scene)]


def as_item(question: Question, short: bool) -> Item:
    """A question with its sentence, or with the format prompt and its one word."""
    if short:
        return Item(f"{question.type} (word)", f"{question.text}\n{SHORT}", question.answer)
    return Item(question.type, question.text, question.sentence)


def word_map(scene: Scene, mask: np.ndarray, grid: int = 8) -> list[list[str]]:
    """What is where, in words, for each cell of a grid x grid map, row by row.

    A cell has the words of the object that fills most of it ("small", "shiny", "red", "cat", "left"), or "floor".

    mask: (S, S) instance ids of the scene, S a multiple of grid. The map is text: a language model that learns to
    answer from the sum of each cell's word embeddings has learnt to read a picture-like sequence without a pixel.
    """
    cells = np.asarray(mask).reshape(grid, mask.shape[0] // grid, grid, -1).swapaxes(1, 2).reshape(grid * grid, -1)
    looks = [object_words(scene, index) for index in range(len(scene.objects))]
    words = []
    for cell in cells:
        counts = np.bincount(cell, minlength=len(looks) + 1)
        best = int(counts[1:].argmax()) + 1 if len(looks) else 0
        words.append(looks[best - 1] if best and counts[best] >= 0.2 * cell.size else ["floor"])
    return words


def object_words(scene: Scene, index: int) -> list[str]:
    """The words of an object: size, material, colour, kind, and where it faces if it has a front."""
    item = scene.objects[index]
    words = [item.size, item.material, item.colour, item.kind]
    with suppress(Ambiguous):
        words.append(facing(scene, index).split()[0])  # towards, away, left, right
    return words
