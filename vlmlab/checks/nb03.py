"""Checks of notebook 03: a box in words, a program, a LLaVA record, a claim verified on the scene graph."""

import re
from functools import cache, wraps
from typing import Any

from vlmlab.checks.base import Case, Mistake, Verdict, run_check
from vlmlab.scenes import Scene
from vlmlab.scenes.programs import Program, execute, step
from vlmlab.scenes.relations import holds
from vlmlab.scenes.scene import Camera, Object

Box = tuple[float, float, float, float]
Pairs = list[tuple[str, str]]


# ---------------------------------------------------------------- 1 · a box in words
def _line(category: str, values: list[float], digits: int = 3) -> str:
    return f"{category}: [{', '.join(f'{v:.{digits}f}' for v in values)}]"


def _box_line(category: str, box: Box, width: int, height: int) -> str:
    return _line(category, [v / side for v, side in zip(box, (width, height) * 2, strict=True)])


def _corner_and_size(category: str, box: Box, width: int, height: int) -> str:
    x1, y1, x2, y2 = box
    return _line(category, [x1 / width, y1 / height, (x2 - x1) / width, (y2 - y1) / height])


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
            Mistake(
                "pixels",
                "these are pixels; the paper gives fractions of the picture, 0 to 1",
                lambda c, box, w, h: _line(c, list(box)),
            ),
            Mistake(
                "width for all",
                "y is divided by the width; divide it by the height",
                lambda c, box, w, h: _line(c, [v / w for v in box]),
            ),
            Mistake(
                "sides exchanged",
                "x belongs to the width and y to the height, not the other way round",
                lambda c, box, w, h: _line(c, [v / side for v, side in zip(box, (h, w) * 2, strict=True)]),
            ),
            Mistake(
                "size instead of corner",
                "the last two numbers are the lower right corner, not width and height",
                _corner_and_size,
            ),
            Mistake(
                "decimals",
                "every number has three decimals, as in 0.500",
                fits=lambda got, expected, *_: (
                    _numbers(got) is not None
                    and all(abs(a - b) < 0.06 for a, b in zip(_numbers(got), _numbers(expected), strict=True))
                ),
            ),
        ],
        done="right, in the paper's format",
    )


def _numbers(text: str) -> Any:
    found = [float(v) for v in re.findall(r"\d+\.?\d*", text)]
    return found if len(found) == 4 else None


# ---------------------------------------------------------------- 2 · a program
@cache
def _world() -> Scene:
    """From left to right: red mug, blue cat, red sofa, red ball, blue ball; none at the same depth."""
    places = [("mug", "red", -1.5, 0.5), ("cat", "blue", -0.8, -0.6), ("sofa", "red", 0.0, 0.4)]
    places += [("ball", "red", 0.9, -0.7), ("ball", "blue", 1.6, 1.2)]
    return Scene(tuple(Object(kind, colour, x=x, y=y) for kind, colour, x, y in places))


def _program(
    colour: str, relation: str, kind: str, last: str = "count", filtered: bool = True, related: bool = True
) -> Program:
    steps = [step("select", {"kind": kind}), step("unique", None, 0)]
    if related:
        steps.append(step("relate", {"relation": relation, "frame": "viewer"}, 1))
    else:
        steps.append(step("select", {}))
    if filtered:
        steps.append(step("filter", {"colour": colour}, 2))
    return [*steps, step(last, None, len(steps) - 1)]


OPPOSITE = {"left of": "right of", "right of": "left of", "in front of": "behind", "behind": "in front of"}


def _executed(program: Any) -> Any:
    return execute(program, _world())


def how_many(answer: Any) -> Verdict:
    """Exercise 2: the program of "How many {colour} objects are {relation} the {kind}?", judged by what it returns."""
    run = answer
    if callable(answer):

        @wraps(answer)
        def run(colour: str, relation: str, kind: str) -> Any:
            program = answer(colour, relation, kind)
            return program if program is None or program is ... else _executed(program)

    def made(**options: Any) -> Any:
        return lambda colour, relation, kind: _executed(_program(colour, relation, kind, **options))

    return run_check(
        "how_many",
        run,
        made(),
        [
            Case(("red", "right of", "cat"), "red objects right of the cat"),
            Case(("blue", "left of", "sofa"), "blue objects left of the sofa"),
            Case(("red", "left of", "mug"), "red objects left of the mug"),
            Case(("red", "left of", "cat"), "red objects left of the cat"),
        ],
        [
            Mistake(
                "exist for count",
                "the last step says whether there are any; the question asks how many",
                made(last="exist"),
            ),
            Mistake(
                "no colour", "it counts objects of every colour; filter them before counting", made(filtered=False)
            ),
            Mistake(
                "no relation",
                "it counts everywhere in the picture; relate to the one object first",
                made(related=False),
            ),
            Mistake(
                "relation reversed",
                "the relation is the wrong way round; relate returns what stands in it to the object of its dependency",
                lambda colour, relation, kind: _executed(_program(colour, OPPOSITE[relation], kind)),
            ),
        ],
        done="right, executed on a scene of five objects",
        tolerance=0.0,
    )


# ---------------------------------------------------------------- 3 · a LLaVA record
def _record(identifier: str, image: str, pairs: Pairs, where: Any = lambda n: n == 0, roles: Any = None) -> dict:
    human, gpt = roles or ("human", "gpt")
    turns = []
    for number, (question, reply) in enumerate(pairs):
        turns.append({"from": human, "value": ("<image>\n" if where(number) else "") + question})
        turns.append({"from": gpt, "value": reply.strip()})
    return {"id": identifier, "image": image, "conversations": turns}


def _not_stripped(identifier: str, image: str, pairs: Pairs) -> dict:
    record = _record(identifier, image, pairs)
    for turn, (_, reply) in zip(record["conversations"][1::2], pairs, strict=True):
        turn["value"] = reply
    return record


def to_record(answer: Any) -> Verdict:
    """Exercise 3: questions and answers as a LLaVA record."""
    return run_check(
        "to_record",
        answer,
        _record,
        [
            Case(("000001", "000001.png", [("What is red?", "The cat. ")]), "one question"),
            Case(
                (
                    "000002",
                    "000002.png",
                    [("What is red?", "The cat."), ("And blue?", "The sofa."), ("Why?", "Paint.\n")],
                ),
                "three questions",
            ),
        ],
        [
            Mistake(
                "no placeholder",
                "<image> is missing: the model would never be shown the picture",
                lambda i, image, pairs: _record(i, image, pairs, lambda n: False),
            ),
            Mistake(
                "placeholder in every question",
                "<image> stands in every question: the picture would be read several times",
                lambda i, image, pairs: _record(i, image, pairs, lambda n: True),
            ),
            Mistake(
                "role names",
                'the roles are called "human" and "gpt" in LLaVA\'s files',
                fits=lambda got, expected, *_: {t["from"] for t in got["conversations"]} != {"human", "gpt"},
            ),
            Mistake(
                "one turn only",
                "only the first question is there; a conversation has two turns for each pair",
                lambda i, image, pairs: _record(i, image, pairs[:1]),
            ),
            Mistake(
                "no line break",
                "a new line follows <image>",
                fits=lambda got, expected, *_: (
                    got["conversations"][0]["value"].replace(" ", "")
                    == expected["conversations"][0]["value"].replace("\n", "").replace(" ", "")
                ),
            ),
            Mistake("not stripped", "white space around an answer would be trained on; strip it", _not_stripped),
        ],
        done="right, LLaVA's own format",
    )


# ---------------------------------------------------------------- 4 · a claim, verified
@cache
def _scene() -> Scene:
    """Two cats of different colours, a sofa between them, and a mug right behind the sofa; the camera stands aside."""
    things = (
        Object("cat", "red", x=-1.4, y=0.2),
        Object("sofa", "blue", x=0.0, y=0.0),
        Object("cat", "black", x=1.4, y=-0.2),
        Object("mug", "white", x=-0.45, y=1.1),
        Object("box", "green", x=0.5, y=-1.3),
        Object("lamp", "yellow", x=0.1, y=1.4),
    )
    return Scene(things, Camera(azimuth=25.0))


CLAIM = re.compile(r"The (.+) is (left of|right of) the (.+)\.")


def _find(scene: Scene, phrase: str, colours: bool = True) -> list[int]:
    *colour, kind = phrase.split()
    return [i for i, o in enumerate(scene.objects) if o.kind == kind and (not colours or colour in ([], [o.colour]))]


def _verdict(
    scene: Scene, claim: str, doubtful: str = "unknown", several: str = "unknown", colours: bool = True
) -> str:
    match = CLAIM.fullmatch(claim)
    assert match
    first, relation, second = match.groups()
    found = [_find(scene, phrase, colours) for phrase in (first, second)]
    if any(len(members) != 1 for members in found):
        if several == "first" and all(found):
            found = [members[:1] for members in found]
        else:
            return several if several != "first" else "unknown"
    truth = holds(scene, relation, found[0][0], found[1][0])
    return doubtful if truth is None else str(truth).lower()


def _by_value(scene: Scene, claim: str, values: Any) -> str:
    match = CLAIM.fullmatch(claim)
    assert match
    first, relation, second = match.groups()
    found = [_find(scene, phrase) for phrase in (first, second)]
    if any(len(members) != 1 for members in found):
        return "unknown"
    a, b = found[0][0], found[1][0]
    return str(bool((values(a) < values(b)) == (relation == "left of"))).lower()


def holds_in(answer: Any) -> Verdict:
    """Exercise 4: "true", "false" or "unknown" for a claim about left and right."""
    scene = _scene()
    return run_check(
        "holds_in",
        answer,
        _verdict,
        [
            Case((scene, claim), claim)
            for claim in (
                "The red cat is left of the sofa.",
                "The red cat is right of the sofa.",
                "The black cat is right of the sofa.",
                "The cat is left of the sofa.",
                "The dog is left of the sofa.",
                "The mug is left of the sofa.",
                "The lamp is right of the box.",
                "The lamp is left of the box.",
            )
        ],
        [
            Mistake(
                "sides exchanged",
                "left and right are exchanged",
                lambda scene, claim: {"true": "false", "false": "true"}.get(_verdict(scene, claim), "unknown"),
            ),
            Mistake(
                "world coordinates",
                "it goes by the world's x, but the camera stands aside; take the place in the picture, geometry.u",
                lambda scene, claim: _by_value(scene, claim, lambda i: scene.objects[i].x),
            ),
            Mistake(
                "no margin",
                'a pair at nearly the same place is ambiguous: the answer is "unknown"',
                lambda scene, claim: _by_value(scene, claim, lambda i: scene.geometry.u[i]),
            ),
            Mistake(
                "doubt is false",
                'an ambiguous pair is "unknown", not "false"',
                lambda scene, claim: _verdict(scene, claim, doubtful="false"),
            ),
            Mistake(
                "several is false",
                'a name that fits no object, or several, makes the claim "unknown"',
                lambda scene, claim: _verdict(scene, claim, several="false"),
            ),
            Mistake(
                "first of several",
                '"the cat" fits two objects, so nobody knows which is meant: "unknown"',
                lambda scene, claim: _verdict(scene, claim, several="first"),
            ),
            Mistake(
                "colour ignored",
                'the colour in a name such as "red cat" is ignored',
                lambda scene, claim: _verdict(scene, claim, colours=False),
            ),
        ],
        done="right: true, false, and unknown where nobody can say",
    )
