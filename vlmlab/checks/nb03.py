"""Checks of notebook 03: context, blocks of a reply, rules, a claim's fault, and a reply that says nothing."""

import re
from functools import cache, wraps
from typing import Any

from vlmlab.benchmarks.claims import Claim, check, extract
from vlmlab.checks.base import Case, Mistake, Verdict, run_check
from vlmlab.instruction.checking import named, review
from vlmlab.instruction.replies import MENTIONS
from vlmlab.scenes import KINDS, Scene
from vlmlab.scenes.scene import Object

Box = tuple[float, float, float, float]
Pairs = list[tuple[str, str]]


@cache
def _room() -> Scene:
    """From left to right: a cat, a sofa with a mug on it, and a dog that faces right."""
    return Scene(
        (
            Object("cat", "red", "small", "matte", -1.2, 0.0),
            Object("sofa", "blue", "large", "shiny", 0.2, 0.3),
            Object("dog", "black", "large", "matte", 1.3, -0.8, yaw=90),
            Object("mug", "white", "small", "shiny", 0.2, 0.2, 0.42),
        )
    )


# ---------------------------------------------------------------- 1 · a box in words
def _line(category: str, values: list[float]) -> str:
    return f"{category}: [{', '.join(f'{value:.3f}' for value in values)}]"


def _box_line(category: str, box: Box, width: int, height: int) -> str:
    return _line(category, [value / side for value, side in zip(box, (width, height) * 2, strict=True)])


def _numbers(text: str) -> list[float]:
    return [float(value) for value in re.findall(r"\d+\.?\d*", text)]


def box_line(answer: Any) -> Verdict:
    """Exercise 1: one line of the teacher's context."""
    return run_check(
        "box_line",
        answer,
        _box_line,
        [
            Case(("cat", (12.0, 24.0, 48.0, 72.0), 96, 96), "a square picture"),
            Case(("sofa", (30.0, 10.0, 200.0, 100.0), 320, 240), "a picture of 320 x 240"),
        ],
        [
            Mistake("pixels", "these are pixels; the paper gives fractions of the picture, 0 to 1",
                    lambda c, box, w, h: _line(c, list(box))),
            Mistake("width for all", "y is divided by the width; divide it by the height",
                    lambda c, box, w, h: _box_line(c, box, w, w)),
            Mistake("sides exchanged", "x belongs to the width and y to the height, not the other way round",
                    lambda c, box, w, h: _box_line(c, box, h, w)),
            Mistake("size instead of corner", "the last two numbers are the lower right corner, not width and height",
                    lambda c, box, w, h: _box_line(c, (*box[:2], box[2] - box[0], box[3] - box[1]), w, h)),
            Mistake("decimals", "every number has three decimals, as in 0.500",
                    fits=lambda got, expected, *_: all(
                        abs(a - b) < 0.06 for a, b in zip(_numbers(got), _numbers(expected), strict=True))),
        ],
        done="right, in the paper's format",
    )  # fmt: skip


# ---------------------------------------------------------------- 2 · the finished blocks of a reply
BLOCK = re.compile(r"Question:\n(.+?)\n===\nAnswer:\n(.+?)\n===", re.DOTALL)
FIRST = "Question:\nWhat color is the cat?\n===\nAnswer:\nThe cat is red.\n===\n"
SECOND = "Question:\nWhere is the mug?\n===\nAnswer:\n The mug is on the sofa. \n===\n"


def _blocks(reply: str) -> Pairs:
    return [(question.strip(), answer.strip()) for question, answer in BLOCK.findall(reply)]


def _with_the_rest(reply: str) -> Pairs:
    pieces = [re.sub(r"^\s*(Question|Answer):", "", piece).strip() for piece in reply.split("===")]
    pieces = pieces if pieces[-1] else pieces[:-1]
    return list(zip(pieces[0::2], pieces[1::2], strict=False))


def blocks(answer: Any) -> Verdict:
    """Exercise 2: the finished pairs of a reply in blocks."""

    def run(reply: str) -> Any:
        found = answer(reply)
        return [tuple(pair) for pair in found] if isinstance(found, list) else found

    return run_check(
        "blocks",
        wraps(answer)(run) if callable(answer) else answer,
        _blocks,
        [
            Case((FIRST + SECOND,), "two pairs"),
            Case((FIRST,), "one pair"),
            Case((FIRST + SECOND[:-9],), "a reply that is cut off in an answer"),
            Case((FIRST + SECOND[:20],), "a reply that is cut off in a question"),
            Case(("Question:\nWhat",), "a reply that hardly began"),
        ],
        [
            Mistake("cut-off pair kept", 'a pair counts only once the "===" behind its answer is there',
                    _with_the_rest),
            Mistake("not stripped", "white space around the texts would be trained on; strip it",
                    fits=lambda got, expected, *_: [tuple(t.strip() for t in pair) for pair in got] == expected),
            Mistake("marks kept", '"Question:" and "Answer:" are marks, not part of the texts',
                    fits=lambda got, expected, *_: (
                        [tuple(text.split(":\n")[-1].strip() for text in pair) for pair in got] == expected)),
            Mistake("exchanged", "the question comes first in a pair",
                    fits=lambda got, expected, *_: [pair[::-1] for pair in got] == expected),
            Mistake("first only", "only the first pair is there", lambda reply: _blocks(reply)[:1]),
        ],
        done="right, and nothing that was cut off",
    )  # fmt: skip


# ---------------------------------------------------------------- 3 · no word about captions or boxes
TEXTS = (
    "The cat is inside the box.", "There are 2 boxes and a mug.", "The red cat is left of the lamp.",
    "The bounding box of the cat is small.", "Bounding boxes tell where it stands.", "The caption says that it is red.",
    "The captions name a dog.", "According to the description, it is on the sofa.", "The cat stands at 0.125.",
    "Its coordinates lie on the left.",
)  # fmt: skip


def _mentions(text: str) -> bool:
    return bool(MENTIONS.search(text))


def breaks_rule(answer: Any) -> Verdict:
    """Exercise 3: whether a sentence speaks of captions or boxes instead of the picture."""
    return run_check(
        "breaks_rule",
        answer,
        _mentions,
        [Case((text,), f'"{text}"') for text in TEXTS],
        [
            Mistake("every box", '"box" alone is an object of these pictures; only "bounding box" tells of a list',
                    lambda text: _mentions(text) or "box" in text),
            Mistake("upper case", 'a sentence may begin with the word: compare in lower case',
                    lambda text: bool(re.search(MENTIONS.pattern, text))),
            Mistake("no numbers", "a number with a point, as in 0.125, is a coordinate",
                    lambda text: _mentions(re.sub(r"\d", "", text))),
            Mistake("every number", '"2 boxes" counts objects; only a number with a point is a coordinate',
                    lambda text: _mentions(text) or bool(re.search(r"\d", text))),
            Mistake("turned", "True is for a sentence that breaks the rule", lambda text: not _mentions(text)),
            Mistake("boxes only", "captions, descriptions and coordinates may not be mentioned either",
                    lambda text: "bounding" in text.lower()),
        ],
        done="right: objects pass, lists do not",
    )  # fmt: skip


# ---------------------------------------------------------------- 4 · a question as a statement
ASKED = (
    "Is the cat left of the sofa?", "Is the small white mug on the blue sofa?", "Is the dog behind the red cat?",
    "Is there a lamp on the sofa?", "Are there two cats?",
)  # fmt: skip


def _restate(question: str, last: bool = False, there: bool = True, end: str = ".") -> str:
    verb, *words = question.rstrip("?").split()
    kinds = [at for at, word in enumerate(words, 1) if word.rstrip("s") in KINDS]
    after = 1 if there and words[0] == "there" else kinds[-1 if last else 0]
    text = " ".join([*words[:after], verb.lower(), *words[after:]]) + end
    return text[0].upper() + text[1:]


def restate(answer: Any) -> Verdict:
    """Exercise 4: a question with "is" or "are" as the statement that it asks about."""
    return run_check(
        "restate",
        answer,
        _restate,
        [Case((question,), f'"{question}"') for question in ASKED],
        [
            Mistake("last noun", "the verb goes behind the first noun, not the last one",
                    lambda question: _restate(question, last=True)),
            Mistake("there", '"there is" and "there are" stay together', lambda q: _restate(q, there=False)),
            Mistake("question mark", "a statement ends with a full stop",
                    fits=lambda got, expected, *_: got.rstrip("?.") == expected.rstrip(".")),
            Mistake("lower case", "a statement begins with a capital letter, and only there",
                    fits=lambda got, expected, *_: got.lower() == expected.lower()),
            Mistake("second word", "the subject may have more words than two: look for the first kind of object",
                    lambda q: " ".join([*q.split()[1:3], q.split()[0].lower(), *q.rstrip("?").split()[3:]]).capitalize()
                    + "."),
        ],
        done="right; now any rule for statements is a rule for questions",
    )  # fmt: skip


# ---------------------------------------------------------------- 5 · the kind of a fault
FALSE = (
    "There are two cats.", "The sofa is red.", "The dog faces left.", "The cat is right of the sofa.",
    "The lamp is red.", "There is a red sofa.", "There is a small blue sofa.",
    "There is no red cat.", "The mug is not on the sofa.",
)  # fmt: skip


def _false_claim(text: str) -> Claim:
    return next(claim for claim in extract(text).claims if check(claim, _room()).truth is False)


def _fault(scene: Scene, claim: Claim) -> str:
    return named(check(claim, scene), scene)


def fault_of(answer: Any) -> Verdict:
    """Exercise 5: what kind of fault a false claim is."""
    return run_check(
        "fault_of",
        answer,
        _fault,
        [Case((_room(), _false_claim(text)), f'"{text}"') for text in FALSE],
        [
            Mistake("no such object", "the kind is there, in another colour or size: then it is not the existence",
                    lambda s, c: "false existence" if c.type == "exists" else _fault(s, c)),
            Mistake("every look a colour", 'only the field "colour" is a colour; where it faces is an attribute',
                    lambda s, c: "wrong colour" if c.type == "attribute" else _fault(s, c)),
            Mistake("denial", "what is denied and is there is a false existence, whatever its looks",
                    lambda s, c: _fault(s, c._replace(negated=False))),
            Mistake("colour that is there", "an object of that kind and colour is there: another attribute is wrong",
                    lambda s, c: "wrong colour" if _fault(s, c) == "wrong attribute" and c.type == "exists"
                    else _fault(s, c)),
        ],
        done="right; this is how the report below each teacher is counted",
    )  # fmt: skip


# ---------------------------------------------------------------- 6 · a reply that teaches nothing
SAID = (
    "The red cat is red.", "The red cat is a cat.", "The red cat is the cat.", "The cat is a cat.",
    "The cat is not a dog.", "The cat is red.", "The cat is the red cat.", "The red object is a cat.",
    "The cat is left of the sofa.", "There is a dog.", "The dog faces right.",
)  # fmt: skip
PASSES = "kept, and it teaches nothing"


def _says_more(claim: Claim, presupposed: bool = False, fields: bool = True) -> bool:
    noun, value = claim.subject, claim.value
    if claim.mood == "presupposed":
        return presupposed
    if claim.type == "attribute" and fields:
        return not getattr(noun, value[0], "")
    if claim.type == "is":
        return any(look and not own for look, own in zip(value.looks, noun.looks, strict=True))
    return True


def _other_noun(claim: Claim) -> bool:
    return claim.value.looks != claim.subject.looks if claim.type == "is" else _says_more(claim)


def _other_kind(claim: Claim) -> bool:
    return claim.value.kind != claim.subject.kind if claim.type == "is" else _says_more(claim)


def says_more(answer: Any) -> Verdict:
    """Exercise 6: whether a claim says more than its own noun does."""
    return run_check(
        "says_more",
        answer,
        _says_more,
        [Case((claim,), f'"{text}", the claim "{claim.type}"') for text in SAID for claim in extract(text).claims],
        [
            Mistake("presupposed counts", 'what "the cat" takes for granted is not said: look at claim.mood',
                    lambda claim: _says_more(claim, presupposed=True)),
            Mistake("attributes forgotten", '"the red cat is red" says nothing either',
                    lambda claim: _says_more(claim, fields=False)),
            Mistake("nouns compared whole", '"the red cat is the cat" names another noun and says nothing new',
                    _other_noun),
            Mistake("kinds compared", '"the cat is the red cat" has one kind and says its colour; "the cat is not a '
                    'dog" has two and says nothing', _other_kind),
            Mistake("is dropped", '"the red object is a cat" says something: compare field by field',
                    lambda claim: claim.type != "is" and _says_more(claim)),
        ],
        done="right: a claim counts if it fills a field that its noun leaves open",
    )  # fmt: skip


def _outcome(scene: Scene, reply: Any) -> Any:
    if reply is None or reply is ...:
        return reply
    parsed, judged = review(scene, str(reply), "conversation")
    if parsed.broken or not judged:
        return "not in blocks"
    faults = sorted({fault.kind for each in judged for fault in each.faults})
    if faults:
        return f"dropped for: {', '.join(faults)}"
    found = [check(claim, scene) for each in judged for claim in extract(each.answer).claims]
    new = [each.claim for each in found if each.truth is not False and _says_more(each.claim)]
    return f"kept, but it says something: {new[0].type}" if new else PASSES


def empty_reply(answer: Any) -> Verdict:
    """Exercise 6: a reply about a scene that the checker keeps and that teaches nothing."""

    def run(scene: Scene) -> Any:
        return _outcome(scene, answer(scene))

    room = _room()
    return run_check(
        "empty_reply",
        wraps(answer)(run) if callable(answer) else answer,
        lambda scene: PASSES,
        [Case((room,), "a room with a cat"), Case((Scene(room.objects[1:3]),), "a sofa and a dog")],
        [
            Mistake("no blocks", 'write it as a teacher does: "Question:", the question, "===", "Answer:", the answer, '
                    '"==="', fits=lambda got, *_: got == "not in blocks"),
            Mistake("dropped", "the checker drops it", fits=lambda got, *_: got.startswith("dropped")),
            Mistake("says something", "the checker keeps it, but one could learn from it: say only what the noun says",
                    fits=lambda got, *_: got.startswith("kept, but")),
        ],
        done="it passes, and nobody learns from it",
    )  # fmt: skip
