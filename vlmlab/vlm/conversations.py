"""What a scene gives to learn from: descriptions and questions as turns of a conversation. Notebooks 03 and 04.

Each item is one human turn and one answer. Questions are answered by a sentence whose last word is the verdict, or,
after LLaVA-1.5's format prompt, by that word alone. Where a verdict depends on places, the sentence comes after these:
"cat,C4; sofa,F5. The cat is left of the sofa, yes." Each place is one look at the picture, and the verdict is read off
them, as in Shikra's answers (Chen et al. 2023, arXiv 2306.15195, section 5). Worksheets ask the same simple thing about
everything in the picture, so that nearly every word of the answer has to be seen.
"""

from contextlib import suppress
from typing import NamedTuple

import numpy as np

from vlmlab.scenes import Scene
from vlmlab.scenes.captions import DIRECTIONS, article, caption, listed, listing, name, order, sentences
from vlmlab.scenes.kinds import COLOURS, MATERIALS, SIZES, held_out
from vlmlab.scenes.kinds import KINDS as OBJECTS
from vlmlab.scenes.programs import Ambiguous, facing, trace
from vlmlab.scenes.questions import TYPES, Question
from vlmlab.scenes.relations import holds

SHORT = "Answer the question using a single word or phrase."
DESCRIBE = "Describe the picture."
DETAIL = "Describe the picture in detail."
BRIEF = "Provide a one-sentence caption for the provided image."
ORDER = "List the objects from front to back."
WORKSHEETS = {
    "inventory": "Take an inventory.",
    "looks": "What does each object look like?",
    "pairs": "How do the objects lie to one another?",
    "checklist": "Which of these can you see: {}?",
}
KINDS = (
    *("dense", "directions", "full", "short caption", "order", *WORKSHEETS),
    *TYPES,
    *(f"{name} (word)" for name in TYPES),
)
COLUMNS, ROWS = "ABCDEFGH", "12345678"
SLOTS: dict[str, tuple[str, ...]] = {
    "size": tuple(SIZES),
    "material": MATERIALS,
    "colour": tuple(COLOURS),
    "kind": (*OBJECTS, "floor"),
    "facing": ("towards", "right", "away", "left"),
    "column": tuple(COLUMNS),
    "row": tuple(ROWS),
}
WORDS = tuple(word for slot in SLOTS.values() for word in slot)
_PLACE = {pair: i for i, pair in enumerate((slot, word) for slot, words in SLOTS.items() for word in words)}


class Item(NamedTuple):
    """One question and its answer, before which `places` are told; `kind` is one of KINDS."""

    kind: str
    question: str
    answer: str
    places: str = ""


def descriptions(scene: Scene) -> list[Item]:
    """The ways to be asked for a description; all objects with all attributes in each of four directions."""
    front = [("the " + name(scene, i)) for i in order(scene, "front")]
    ways = [Item("directions", f"Describe the objects from {way}.", listed(scene, way)) for way in list(DIRECTIONS)[1:]]
    return [
        Item("dense", DESCRIBE, caption(scene, "dense")),
        *(ways if scene.objects else []),
        Item("full", DETAIL, caption(scene, "full")),
        Item("short caption", BRIEF, caption(scene, "short")),
        Item("order", ORDER, "From front to back: " + listing(front) + "."),
    ]


def statements(scene: Scene) -> list[Item]:
    """One item for each fact about supports, facing and distances."""
    return [Item("full", "Tell me one thing about the picture.", text) for text in sentences(scene)]


def worksheets(scene: Scene, pairs: int = 4, entries: int = 6) -> list[Item]:
    """An inventory with each object's looks and place, the looks once more in sentences, the sides and depths of up to
    `pairs` pairs, and a checklist of `entries` things.

    In the inventory the facts follow the noun at once, so that one look at the picture finds them; a sentence puts a
    verb between. The order is drawn from the scene's seed. Pairs that are ambiguous in a direction are not told in it;
    no absent entry of the checklist is a combination of colour and kind that training holds out.
    """
    rng = np.random.default_rng([12, scene.seed or 0])
    things = [int(i) for i in rng.permutation(len(scene.objects))]
    rows, looks = [_row(scene, i) for i in things], [_looks(scene, i) for i in things]
    couples = [(a, b) for a in things for b in things if a != b]
    told = [text for i in rng.permutation(len(couples)) if (text := _sides(scene, *couples[i]))]
    asked = dict(_entry(scene, rng, bool(rng.random() < 0.5)) for _ in range(entries))
    marks = [f"{noun}, {'yes' if there else 'no'}" for noun, there in asked.items()]
    return [
        *([Item("inventory", WORKSHEETS["inventory"], "; ".join(rows) + ".")] if rows else []),
        *([Item("looks", WORKSHEETS["looks"], " ".join(looks))] if looks else []),
        *([Item("pairs", WORKSHEETS["pairs"], " ".join(told[:pairs]))] if told else []),
        Item("checklist", WORKSHEETS["checklist"].format(", ".join(asked)), "; ".join(marks) + "."),
    ]


def _row(scene: Scene, index: int) -> str:
    """Kind, size, material, colour, where it faces, and its place."""
    size, material, colour, _, way = object_words(scene, index)
    return " ".join(filter(None, [name(scene, index), size, material, colour, way])) + "," + place(scene, index)


def place(scene: Scene, index: int) -> str:
    """The cell of the word map in which an object's middle lies: "A1" at the top left to "H8"."""
    item = scene.objects[index]
    u, v, _ = scene.camera.project(np.array([item.x, item.y, item.z + item.height / 2]))
    return "".join(names[min(max(int(8 * at), 0), 7)] for names, at in ((COLUMNS, u), (ROWS, v)))


def places(scene: Scene, question: Question) -> str:
    """The places that a question's verdict depends on, "" where it depends on none.

    For a relation between named objects or a choice among them, theirs, in the order of the question; for what is
    looked for by its place, those of all objects, from left to right.
    """
    operations = {item["operation"] for item in question.program}
    if operations & {"relate", "extreme"}:
        wanted = order(scene, "left")
    elif operations & {"verify", "choose"}:
        steps = zip(question.program, trace(question.program, scene), strict=True)
        wanted = [value for item, value in steps if item["operation"] == "unique"]
    else:
        return ""
    return "; ".join(f"{name(scene, i)},{place(scene, i)}" for i in wanted) + ". "


def _looks(scene: Scene, index: int) -> str:
    item = scene.objects[index]
    text = f"The {name(scene, index)} is {item.size}, {item.material} and {item.colour}"
    with suppress(Ambiguous):
        text += f" and faces {facing(scene, index)}"
    return text + "."


def _sides(scene: Scene, a: int, b: int) -> str:
    """Where a lies from b, both named before anything has to be said of them; "" where all is ambiguous."""
    first, second = name(scene, a), name(scene, b)
    true = [relation for relation in ("left of", "right of", "in front of", "behind") if holds(scene, relation, a, b)]
    facts = " and ".join(f"{relation} {'it' if i else 'the ' + second}" for i, relation in enumerate(true))
    return f"The {first} and the {second}: the {first} is {facts}." if facts else ""


def _entry(scene: Scene, rng: np.random.Generator, there: bool) -> tuple[str, bool]:
    """A thing for the checklist, and whether it is in the picture; what is absent often differs in one word."""
    objects = scene.objects
    colour, kind = str(rng.choice(list(COLOURS))), str(rng.choice(list(OBJECTS)))
    if objects:
        item = objects[int(rng.integers(len(objects)))]
        change = "" if there else str(rng.choice(["colour", "kind", "both"]))
        colour = colour if change in ("colour", "both") else item.colour
        kind = kind if change in ("kind", "both") else item.kind
    whole = rng.random() < 0.7 and not held_out(colour, kind)
    found = any(o.kind == kind and (o.colour == colour or not whole) for o in objects)
    return article(f"{colour} {kind}" if whole else kind), found


def as_item(scene: Scene, question: Question, short: bool) -> Item:
    """A question with its places and its sentence, or with the format prompt and its one word."""
    if short:
        return Item(f"{question.type} (word)", f"{question.text}\n{SHORT}", question.answer)
    return Item(question.type, question.text, question.sentence, places(scene, question))


def word_map(scene: Scene, mask: np.ndarray, grid: int = 8) -> np.ndarray:
    """What is where, in words: for each cell of a grid x grid map, row by row, one word of each slot of `SLOTS`.

    A cell has the words of the object that fills most of it, or "floor", and its place as on a chessboard, "A" to "H"
    from the left and "1" to "8" from the top. The map is text: a language model that learns to answer from the sum of
    each cell's word embeddings has learnt to read a picture-like sequence without a pixel.

    mask: (S, S) instance ids of the scene, S a multiple of grid. Returns (grid * grid, len(SLOTS)) int8, indices into
    `WORDS`, -1 where a slot has no word (the size of the floor, the facing of a ball).
    """
    cells = np.asarray(mask).reshape(grid, mask.shape[0] // grid, grid, -1).swapaxes(1, 2).reshape(grid * grid, -1)
    looks = [["", "", "", "floor", ""], *(object_words(scene, index) for index in range(len(scene.objects)))]
    rows = np.array([[_index(slot, word) for slot, word in zip(SLOTS, look, strict=False)] for look in looks])
    shares = np.stack([(cells == index).mean(1) for index in range(1, len(looks))] or [np.zeros(grid * grid)])
    filled = np.where(shares.max(0) >= 0.2, shares.argmax(0) + 1, 0)
    places = np.array([[_index("column", COLUMNS[i % grid]), _index("row", ROWS[i // grid])] for i in range(grid**2)])
    return np.concatenate([rows[filled], places], 1).astype(np.int8)


def _index(slot: str, word: str) -> int:
    return _PLACE.get((slot, word), -1)


def object_words(scene: Scene, index: int) -> list[str]:
    """An object's size, material, colour, kind, and where it faces ("" without a front, or between two ways)."""
    item = scene.objects[index]
    words = [item.size, item.material, item.colour, item.kind, ""]
    with suppress(Ambiguous):
        words[4] = facing(scene, index).split()[0]  # towards, away, left, right
    return words
