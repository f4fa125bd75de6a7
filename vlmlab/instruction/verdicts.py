"""Notebook 03. The true answer to a question in words: the one answer that makes the question a true statement.

"What color is the cat?" is tried as "the cat is red", "the cat is blue" and so on, each checked on the scene graph; "Is
the cat left of the sofa?" as "the cat is left of the sofa". What is in no known form, or is not beyond doubt, has no
true answer here.
"""

import re
from collections.abc import Iterable

from vlmlab.benchmarks.claim_words import PHRASES
from vlmlab.benchmarks.claims import check, extract
from vlmlab.scenes import COLOURS, KINDS, MATERIALS, SIZES, Scene
from vlmlab.scenes.captions import article
from vlmlab.scenes.programs import FACINGS

HERE = r"(?:in|on) (?:the|this) (?:picture|image|scene|photo)"
WHERE = rf"(?: {HERE}| here)?"
COUNTS = tuple(str(number) for number in range(9))
NAMED = {article(kind): kind for kind in KINDS}
OPEN: tuple[tuple[str, str, Iterable[str]], ...] = (
    (rf"how many (.+?)(?: are there{WHERE}| (?:can|do) you see{WHERE}| are {HERE})", "there are {} {}",
     COUNTS),
    (r"what colou?r (?:is|are) (.+)", "{1} is {0}", COLOURS),
    (r"what is the colou?r of (.+)", "{1} is {0}", COLOURS),
    (r"what size is (.+)", "{1} is {0}", SIZES),
    (r"(?:is|are) (.+) (?:small or large|large or small)", "{1} is {0}", SIZES),
    (r"what material is (.+?)(?:, .+)?", "{1} is {0}", MATERIALS),
    (r"(?:is|are) (.+) (?:matte or shiny|shiny or matte)", "{1} is {0}", MATERIALS),
    (r"which (?:way|direction) (?:is|does) (.+?) (?:facing|face|looking|look)", "{1} faces {0}", FACINGS),
    (r"where does (.+?) (?:face|look)", "{1} faces {0}", FACINGS),
    (r"what (?:is|stands|lies|sits) ((?:on|on top of|inside|in|under) .+)", "there is {0} {1}", NAMED),
    (r"what is (the .+)", "{1} is {0}", NAMED),
)  # fmt: skip
"""Form of a question, the statement that an answer makes of it, the answers to try."""
LOOKS: dict[str, Iterable[str]] = {
    "color": COLOURS, "colour": COLOURS, "size": SIZES, "material": MATERIALS
}  # fmt: skip
FURTHER = {"further left": "left of", "further right": "right of", "closer to the camera": "in front of",
           "further from the camera": "behind"}  # fmt: skip
CHOICE = re.compile(rf"which (?:one )?is ({'|'.join(FURTHER)}), (.+) or (.+)")
SAME = re.compile(r"are (the .+) and (the .+) the same (colou?r|size|material)")
MORE = re.compile(r"are there (more|fewer) (.+) than (.+)")
SIZED = re.compile(r"is (the .+) (large|small) and (the .+) (large|small)")
THERE = re.compile(rf"(?:(?:is|are) there|(?:can|do) you see) (.+?){WHERE}")


class _NotRead(Exception):
    """A statement that is not understood."""


def true_answer(question: str, scene: Scene) -> str | None:
    """ "yes" or "no", a number, a colour, size, material or facing, or a kind of object.

    "" for a question that is understood and has no answer beyond doubt, None for one that is not understood.
    """
    text = " ".join(question.lower().rstrip(" ?.!").split())
    if text.count(" object") > 1:  # "the object left of the object on the box" is more than the reader of claims takes
        return None
    try:
        return _answer(text, scene)
    except _NotRead:
        return None


def _answer(text: str, scene: Scene) -> str:
    if found := CHOICE.fullmatch(text):
        way, first, second = found.groups()
        nearer = _truth(f"{first} is {FURTHER[way]} {second}", scene)
        return "" if nearer is None else (first if nearer else second).split()[-1]
    if found := SAME.fullmatch(text):
        looks = [_only("{1} is {0}", noun, LOOKS[found[3]], scene) for noun in found.groups()[:2]]
        return ("no", "yes")[looks[0] == looks[1]] if all(looks) else ""
    if found := MORE.fullmatch(text):
        counts = [_only("there are {} {}", noun, COUNTS, scene) for noun in found.groups()[1:]]
        ahead = [int(number) for number in (counts if found[1] == "more" else counts[::-1]) if number]
        return ("no", "yes")[ahead[0] > ahead[1]] if len(ahead) == 2 else ""
    for form, statement, answers in OPEN:
        if found := re.fullmatch(form, text):
            return _only(statement, found[1], answers, scene)
    if found := SIZED.fullmatch(text):
        return _yes_no("{} is {} and {} is {}".format(*found.groups()), scene)
    if found := THERE.fullmatch(text):
        return _yes_no(f"there is {found[1]}", scene)
    return _yes_no(_stated(text), scene)


def _truth(statement: str, scene: Scene) -> bool | None:
    """Whether a statement is true as a whole; None where nobody can tell. Raises _NotRead."""
    reading = extract(statement + ".")
    if reading.unparsed or not reading.claims:
        raise _NotRead
    found = [check(claim._replace(mood=""), scene).truth for claim in reading.claims]
    return False if False in found else None if None in found else True


def _only(statement: str, subject: str, answers: Iterable[str], scene: Scene) -> str:
    """The only answer that makes the statement true."""
    right = [answer for answer in answers if _truth(statement.format(answer, subject), scene)]
    return NAMED.get(right[0], right[0]) if len(right) == 1 else ""


def _yes_no(statement: str, scene: Scene) -> str:
    return {True: "yes", False: "no", None: ""}[_truth(statement, scene)]


def _stated(text: str) -> str:
    """ "is the cat left of the sofa" as "the cat is left of the sofa". Raises _NotRead for what is no such question."""
    verb, *words = text.split() or [""]
    kinds = [at for at, word in enumerate(words, 1) if PHRASES.get((word,), ("",))[0] == "kind"]
    if verb not in ("is", "are", "does", "do") or not kinds or words[kinds[0] - 1].startswith(("object", "thing")):
        raise _NotRead  # where the name of "the object on the sofa" ends is not plain
    return " ".join([*words[: kinds[0]], *([verb] if verb in ("is", "are") else []), *words[kinds[0] :]])
