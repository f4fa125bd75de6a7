"""Notebook 05. The words that `claims` understands, and how they make noun phrases: "a small shiny red cat"."""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from vlmlab.scenes import COLOURS, KINDS, MATERIALS, NAMES, SIZES

Chunk = tuple[str, Any]


class Noun(NamedTuple):
    """A noun phrase.

    `article`: "the", "a" or "" (none); `side`: "left" for "leftmost"; `number`: -1 where none is said; `where`: of "the
    object inside the box" the relation's name, its nouns and its frame.
    """

    kind: str = ""
    colour: str = ""
    size: str = ""
    material: str = ""
    side: str = ""
    article: str = ""
    plural: bool = False
    number: int = -1
    where: tuple = ()

    @property
    def looks(self) -> tuple[str, ...]:
        """Kind, colour, size and material; "" where nothing is said of one."""
        return self[:4]


OTHER_KINDS = {
    "kitten": "cat", "puppy": "dog", "couch": "sofa", "settee": "sofa", "armchair": "chair", "desk": "table",
    "crate": "box", "cup": "mug", "bookshelf": "shelf", "bookcase": "shelf", "automobile": "car",
}  # fmt: skip
OTHER_LOOKS = {
    "colour": {"violet": "purple"},
    "size": {"little": "small", "tiny": "small", "big": "large", "huge": "large"},
    "material": {"matt": "matte", "dull": "matte", "glossy": "shiny", "reflective": "shiny"},
}
OTHER_RELATIONS = {
    "left of": ("to the left of", "on the left of", "on the left side of", "to the left side of"),
    "right of": ("to the right of", "on the right of", "on the right side of", "to the right side of"),
    "on top of": ("atop",),
    "inside": ("inside of",),
    "contains": ("contain", "containing"),
    "under": ("underneath",),
    "next to": ("right next to",),
    "toward": ("headed toward", "headed towards", "heading toward", "heading towards"),
    "touching": ("touches", "touch"),
    "detached from": ("apart from",),
}
WORDS = {
    "be": "is are was were",
    "there": "there",
    "neg": "not cannot without neither never",
    "they": "they them these those both",
    "it": "it itself",
    "which": "which that who",
    "and": "and but while whereas &",
    "or": "or nor",
    "skip": "more fewer less than same larger bigger smaller closer further farther either if whether would "
    "missing absent visible present",
    "to": "to from",
}
ARTICLES = {"the": "the this its their", "a": "a an any some another"}
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
SIDES = {"left": "leftmost", "right": "rightmost", "front": "closest nearest frontmost",
         "back": "farthest furthest rearmost"}  # fmt: skip
ORDERS = {"left to right": "left of", "right to left": "right of", "front to back": "in front of",
          "back to front": "behind"}  # fmt: skip
VIEWS = ("point of view", "perspective", "view", "viewpoint", "frame")
VIEWERS = ("the camera", "the viewer", "the observer", "us")
FACE = ("face", "faces", "facing", "look", "looks", "looking", "turned", "points", "pointing")
SCENERY = ("picture image scene photo room floor ground wall background foreground middle center centre left right "
           "left side right side camera viewer")  # fmt: skip


def _phrases() -> dict[tuple[str, ...], Chunk]:
    """Every word or phrase that the grammar knows -> (tag, value)."""
    table: dict[tuple[str, ...], Chunk] = {}

    def add(tag: str, value: Any, *texts: str) -> None:
        table.update({tuple(text.split()): (tag, value) for text in texts})

    for tag, words in WORDS.items():
        add(tag, None, *words.split())
    for article, words in ARTICLES.items():
        add("article", article, *words.split())
    for word, kind in {**{name: name for name in KINDS}, **OTHER_KINDS}.items():
        plural = KINDS[word].plural if word in KINDS else word + "s"
        add("kind", (kind, False), word)
        add("kind", (kind, True), plural, "bookshelves" if word == "bookshelf" else plural)
    for word in ("object", "thing", "item"):
        add("kind", ("", False), word)
        add("kind", ("", True), word + "s")
    for field, known in (("colour", COLOURS), ("size", SIZES), ("material", MATERIALS)):
        for word, look in {**{name: name for name in known}, **OTHER_LOOKS[field]}.items():
            add("look", (field, look), word)
    for number, word in enumerate(NUMBERS):
        add("number", number, word)
    for side, words in SIDES.items():
        add("side", side, *words.split())
    for way, relation in ORDERS.items():
        add("order", relation, f"from {way}")
    for relation in NAMES:
        add("relation", relation, relation, *OTHER_RELATIONS.get(relation, ()))
    for thing in re.findall(r"(?:left|right) side|\w+", SCENERY):
        add("word", None, *(f"{at} the {thing}" for at in ("in", "on", "at", "of", "to", "from")))
    add("neg", None, "instead of", "rather than")
    add("skip", None, *(f"{number} of" for number in (*NUMBERS[1:], *range(1, 11))))
    add("yes", "yes", "yes")
    add("no", "no", "no", "none of the")
    add("nothing", None, "nothing", "none", "empty room")
    towards = [f"{to} {who}" for to in ("towards", "toward") for who in VIEWERS]
    away = [f"away from {who}" for who in VIEWERS]
    add("facing", "towards the camera", *towards)
    add("facing", "away from the camera", *away)
    add("way", "towards the camera", "towards")
    add("way", "away from the camera", "away")
    add("way", "left", "left")
    add("way", "right", "right")
    add("own", "left of", "own left of")
    add("own", "right of", "own right of")
    for verb in FACE:
        add("relation", "facing", verb, *(f"{verb} {to}" for to in ("toward", "towards", "at")))
        add("relation", "facing away from", f"{verb} away from")
        at = [*towards, *VIEWERS, *(f"at {who}" for who in VIEWERS), "forward", "forwards"]
        add("facing", "towards the camera", *(f"{verb} {text}" for text in at))
        add("facing", "away from the camera", *(f"{verb} {text}" for text in (*away, "away")))
        for side in ("left", "right"):
            texts = ("", "to the ", "the ", "towards the ", "toward the ")
            add("facing", side, *(f"{verb} {text}{side}" for text in texts))
    for view in VIEWS:
        add("frame", "viewer", *(f"from {who}'s {view}" for who in VIEWERS[:3]), f"from our {view}")
        add("frame", "its", *(f"{at} its {own}{view}" for at in ("from", "in") for own in ("", "own ")))
        for kind in KINDS:
            add("frame", kind, f"from the {kind}'s {view}", f"from the {kind}'s own {view}")
    return table


PHRASES = _phrases()
LONGEST = max(map(len, PHRASES))
TOKEN = re.compile(r"\b[a-h][1-8]\b|[a-z]+(?:'[a-z]+)?|[0-9]+|[.!?;:,()&]|[-–—*](?= )")


def chunks(words: list[str]) -> Iterator[Chunk]:
    """Words as chunks (tag, value); noun phrases are put together as ("noun", Noun)."""
    tagged, at = [], 0
    while at < len(words):
        size = next((n for n in range(LONGEST, 0, -1) if tuple(words[at : at + n]) in PHRASES), 0)
        if size:
            tagged.append(PHRASES[tuple(words[at : at + size])])
        elif words[at].isdigit():
            tagged.append(("number", int(words[at][:9])))
        elif re.fullmatch("[a-h][1-8]", words[at]):
            tagged.append(("cell", words[at].upper()))
        else:
            tagged.append((words[at] if words[at] in ",:" else "word", None))
        at += size or 1
    at = 0
    while at < len(tagged):
        tag, value = tagged[at]
        first = at + (tag in ("no", "nothing"))
        noun, size = _noun(tagged[first : first + 16])
        if tag == "nothing":
            yield from (("neg", None), ("noun", Noun()))
            at += 1
        elif noun and tag == "no":
            yield from (("neg", None), ("noun", noun._replace(article="a", plural=False)))
            at += size + 1
        elif noun:
            yield "noun", noun
            at += size
        else:
            yield tag, value
            at += 1


def _noun(tagged: list[Chunk]) -> tuple[Noun | None, int]:
    """The noun phrase that the chunks begin with, and how many they are: (None, 0) if they begin with none."""
    tags = [tag for tag, _ in tagged]
    fields: dict[str, Any] = {}
    at = strange = 0
    if tags[:1] == ["article"]:
        fields["article"] = tagged[0][1]
        at = 1
    if tags[at : at + 1] == ["number"]:
        fields["number"] = tagged[at][1]
        at += 1
    led = at > 0
    while at < len(tags):
        tag, value = tagged[at]
        if tag == "look":
            fields[value[0]] = value[1]
        elif tag == "side" or (tag == "way" and value in ("left", "right") and led):
            fields["side"] = value
        elif tag == "word" and led and strange < 2:  # "a fluffy red cat"
            strange += 1
        elif not (tag in (",", "and") and at and tags[at - 1] == "look" and tags[at + 1 : at + 2] == ["look"]):
            break
        at += 1
    if tags[at : at + 1] == ["kind"]:
        kind, plural = tagged[at][1]
        return Noun(kind=kind, plural=plural, **fields), at + 1
    if tagged[at : at + 1] == [("number", 1)] and fields:
        return Noun(**fields), at + 1  # "the red one"
    return None, 0
