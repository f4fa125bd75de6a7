"""Notebook 05. Claims: what a text says about a scene, one statement at a time, and whether each is so.

`extract` reads free text; `check` tests a claim on the scene graph: true, false, or not decidable (a noun that fits two
objects, a pair that a relation's margin refuses); `wanted` says what an answer to a question should state; `grade` puts
them together. A sentence without a claim that the reader knows is reported as unparsed, not guessed at. Left, right,
front and back are the viewer's unless a sentence says otherwise ("to the sofa's left", "from its own point of view").
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from vlmlab.benchmarks.claim_reader import Claim, Reading, extract
from vlmlab.benchmarks.claim_words import Noun
from vlmlab.benchmarks.pairs import share
from vlmlab.errors import BadInput, UnknownName
from vlmlab.scenes import COLOURS, KINDS, MATERIALS, SIZES, Scene
from vlmlab.scenes.programs import FACINGS, Ambiguous, extreme, facing, trace
from vlmlab.scenes.questions import Question
from vlmlab.scenes.relations import OWN_FRAME, margin

__all__ = ["CATEGORIES", "Checked", "Claim", "Grade", "Noun", "Reading", "check", "extract", "grade", "wanted"]
CATEGORIES = ("conv", "detail", "complex")
LOOKS = ("kind", "colour", "size", "material")
TURNED = {"right of": "left of", "behind": "in front of", "over": "under", "contains": "inside"}
ALIKE = {"on top of": "on", "beneath": "under", "below": "under", "in": "inside", "close to": "near",
         "adjacent to": "beside", "next to": "beside"}  # fmt: skip
OPPOSED = {"far from": "near", "far away from": "near", "detached from": "touching"}
TWO_WAY = ("near", "beside", "touching", "parallel to", "perpendicular to", "across from")
FACTS = {"colour": tuple(COLOURS), "size": tuple(SIZES), "material": MATERIALS, "kind": tuple(KINDS), "facing": FACINGS}


class Checked(NamedTuple):
    """A claim on a scene: true, false or None (not decidable, or it does not count).

    key: the same for two ways to say one thing. facts: what a true claim tells about numbered objects, as
    (0, "colour", "red") or ("relation", "left of", 0, 1, True).
    """

    claim: Claim
    truth: bool | None
    key: tuple
    facts: frozenset[tuple]


def relation_fact(name: str, a: int, b: int | tuple[int, int], holds: bool, frame: str = "viewer") -> tuple:
    """The fact that a relation holds, or fails, beyond doubt: one for all ways to say it.

    That the cat is right of the sofa, that the sofa is left of it, and that the sofa is not right of it are one fact.
    """
    name, holds = OPPOSED.get(name, ALIKE.get(name, name)), holds != (name in OPPOSED)
    if isinstance(b, tuple) or (frame == "object" and name in OWN_FRAME):
        return ("relation", name, a, b, holds, frame)
    if name in TURNED:
        name, a, b = TURNED[name], b, a
    if name in ("left of", "in front of") and not holds:
        a, b, holds = b, a, True
    return ("relation", name, min(a, b), max(a, b), holds) if name in TWO_WAY else ("relation", name, a, b, holds)


def answer_type(word: str) -> str:
    """What kind of answer a question's answer is: "yes/no", "number", or one of FACTS."""
    if word in ("yes", "no"):
        return "yes/no"
    return next((field for field, known in FACTS.items() if word in known), "number")


def referents(scene: Scene, noun: Noun) -> list[int] | None:
    """The objects that a noun phrase fits; None where nobody can tell which."""
    looks = [(name, look) for name, look in zip(LOOKS, noun.looks, strict=True) if look]
    found = [i for i, item in enumerate(scene.objects) if all(getattr(item, name) == look for name, look in looks)]
    if noun.where:
        name, others, frame = noun.where
        values = [_stands(scene, i, name, others, frame, named=False) for i in found]
        if None in values:
            return None
        found = [i for i, value in zip(found, values, strict=True) if value]
    if noun.side:
        try:
            return [extreme(scene, found, noun.side)]
        except Ambiguous:
            return None
    return found


def _fold(noun: Noun, found: list[int] | None, test: Callable[[int], bool | None]) -> bool | None:
    """Whether the test holds of what a noun means: of the one, of any ("a cat"), or of all ("the cats")."""
    if not found or (noun.article == "the" and not noun.plural and len(found) > 1):
        return None
    values = [test(i) for i in found]
    decisive = not noun.plural
    return decisive if decisive in values else None if None in values else not decisive


def _stands(
    scene: Scene, subject: int, name: str, others: tuple[Noun, ...], frame: str, named: bool = True
) -> bool | None:
    """Whether an object stands in a relation to what the other nouns mean.

    named: the object is named itself; where it is one of many, a relation that has no meaning for it does not hold.
    """

    def holds(*indices: int) -> bool | None:
        if len({subject, *indices}) <= len(indices):
            return False
        value = margin(scene, name, subject, (min(indices), max(indices)) if len(indices) > 1 else indices[0], frame)
        if value is None:
            return None if named else False
        return None if abs(value) < 1 else value > 0

    first, found = others[0], referents(scene, others[0])
    if len(others) == 1:
        return _fold(first, found, holds)
    second = referents(scene, others[1])
    return _fold(first, found, lambda i: _fold(others[1], second, lambda j: holds(i, j)))


def _said(noun: Noun, index: int) -> set[tuple]:
    """The facts about an object that a fitting noun phrase states."""
    return {(index, "there")} | {(index, name, look) for name, look in zip(LOOKS, noun.looks, strict=True) if look}


def check(claim: Claim, scene: Scene, answer: str = "") -> Checked:
    """Test a claim on a scene.

    answer: the true answer to the question that was asked, for verdicts; "" if none was asked. A verdict of another
    kind than that answer is not decidable.
    """
    noun, value, found = claim.subject, claim.value, referents(scene, claim.subject)
    key: tuple = (claim.type, tuple(found or ()) or noun._replace(article="", plural=False), value, claim.negated)
    facts: set[tuple] = set()
    truth: bool | None = None
    alone = found[0] if found is not None and len(found) == 1 else None
    match claim.type:
        case "answer":
            truth = value[1] == answer if answer and value[0] == answer_type(answer) else None
            key, facts = value, {("answer", value[1])}
        case "exists" if found is not None:
            truth = bool(found)
            if claim.negated:
                facts = {("absent", *noun.looks)}
            elif alone is not None or noun.plural:
                facts = set().union(*(_said(noun, i) for i in found))
        case "count" if found is not None:
            truth, key = len(found) == value, (*key, noun.looks)
            if not claim.negated:
                facts = {("count", *noun.looks, value)}.union(*(_said(noun, i) for i in found))
                facts |= {("absent", *noun.looks)} if value == 0 else set()
        case "attribute":
            truth = _fold(noun, found, lambda i: _has(scene, i, *value))
            if alone is not None:
                facts = {(alone, "there")} | (set() if claim.negated else {(alone, *value)})
        case "is":
            fits = referents(scene, value) if any(value.looks) or value.side or value.where else None
            truth = _fold(noun, found, lambda i: None if fits is None else i in fits)
            if alone is not None and not claim.negated:
                facts = _said(value, alone)
        case "place":
            from vlmlab.vlm.conversations import place

            truth = _fold(noun, found, lambda i: place(scene, i) == value)
            facts = set() if alone is None else {(alone, "there"), (alone, "place", value)}
        case "relation":
            named = bool(noun.kind) or noun.article == "the"
            truth = _fold(noun, found, lambda i: _stands(scene, i, value, claim.others, claim.frame, named))
            facts = _relation_facts(scene, claim, found or [])
            told = sorted(fact for fact in facts if fact[0] == "relation")
            key = ("relation", *told) if told and alone is not None else (*key, claim.others, claim.frame)
    if claim.type in ("attribute", "is") and (noun.side or noun.where or not noun.kind):
        facts |= {
            ("is", *fact) for fact in facts
        }  # said of the object at a place, not of a cat that happens to be there
    if noun.where and facts:  # "the object inside the box" says that something is inside it
        name, others, frame = noun.where
        facts |= _relation_facts(scene, Claim("relation", noun, name, others, frame=frame), found or [])
    if truth is not None:
        truth = truth != claim.negated
    granted = claim.mood == "presupposed" or (claim.mood == "named" and answer)
    if (truth is True and granted) or (truth is False and claim.mood == "loose"):
        truth = None
    return Checked(claim, truth, key, frozenset(facts) if truth else frozenset())


def _has(scene: Scene, index: int, field: str, value: str) -> bool | None:
    if field != "facing":
        return getattr(scene.objects[index], field) == value
    try:
        return facing(scene, index) == value
    except Ambiguous:
        return None


def _relation_facts(scene: Scene, claim: Claim, found: list[int]) -> set[tuple]:
    """Of one object to one, or to a pair; and of each to it where none of them is said to stand in the relation."""
    anchors = [referents(scene, noun) for noun in claim.others]
    if any(anchor is None or len(anchor) != 1 for anchor in anchors) or (len(found) > 1 and not claim.negated):
        return set()
    to = [anchor[0] for anchor in anchors if anchor]
    other = to[0] if len(to) == 1 else (min(to), max(to))
    facts = {relation_fact(claim.value, i, other, not claim.negated, claim.frame) for i in found if i not in to}
    return facts | {(i, "there") for i in (*to, *(found if len(found) == 1 else ()))}


def wanted(scene: Scene, category: str, question: Question | None = None) -> list[frozenset[tuple]]:
    """What an answer should state: groups of facts, each group stated by any one of its facts.

    Args:
        category: "detail" wants every object, with its colour, size, material and, where it is beyond doubt, facing;
            "conv" the truth of the question's program; "complex" also the facts that this rests on.
    Raises UnknownName for another category, BadInput for one that needs a question and has none.
    """
    if category not in CATEGORIES:
        raise UnknownName("category", category, CATEGORIES)
    if category == "detail":
        things = range(len(scene.objects))
        looks = [(i, field, getattr(scene.objects[i], field)) for i in things for field in LOOKS[1:]]
        ways = [(i, "facing", way) for i in things for way in FACINGS if _has(scene, i, "facing", way)]
        return [frozenset({fact}) for fact in (*((i, "there") for i in things), *looks, *ways)]
    if question is None:
        raise BadInput(f"a question of the category {category!r} comes with its program; give the question")
    values = trace(question.program, scene)
    steps = [_step_facts(scene, question, at, values) for at in range(len(values))]
    last = steps[-1][0] if len(steps[-1]) == 1 else set()
    answer = frozenset({("answer", question.answer)} | last)
    if category == "conv":
        return [answer]
    supports = [frozenset(group) for step in (steps[:-1] if last else steps) for group in step]
    return [*dict.fromkeys(supports), answer]


def _step_facts(scene: Scene, question: Question, at: int, values: list[Any]) -> list[set[tuple]]:
    """The groups of facts that one step of a program finds out; none for steps that only pick objects."""
    program = question.program
    step, value = program[at], values[at]
    argument, inputs = step["argument"], [values[i] for i in step["dependencies"]]
    source = program[step["dependencies"][0]] if inputs else step
    filters = source["argument"] if source["operation"] == "select" else None
    looks = tuple((filters or {}).get(field, "") for field in LOOKS)
    match step["operation"]:
        case "relate":
            name, frame, anchor = argument["relation"], argument.get("frame"), inputs[0]
            others = value or [i for i in range(len(scene.objects)) if i != anchor]
            return [{relation_fact(name, i, anchor, bool(value), frame)} for i in others]
        case "verify":
            other = inputs[1] if len(inputs) == 2 else (min(inputs[1:]), max(inputs[1:]))
            return [{relation_fact(argument["relation"], inputs[0], other, value, argument.get("frame"))}]
        case "query":
            found: set[tuple] = {("is", inputs[0], argument, value)}
            named = [item for item in program if item["operation"] == "select"]
            if len(program) == 3 and "kind" in named[0]["argument"]:  # the question names the object itself
                found.add((inputs[0], argument, value))
            return [found]
        case "same" | "larger":
            field = argument or "size"
            return [{(i, field, getattr(scene.objects[i], field))} for i in inputs]
        case "choose":
            first, second = inputs if scene.objects[inputs[0]].kind == value else reversed(inputs)
            relation = {"left": "left of", "right": "right of", "front": "in front of", "back": "behind"}[argument]
            return [{relation_fact(relation, first, second, True)}]
        case "count" if filters is not None:
            return [{("count", *looks, value)} | (set() if value else {("absent", *looks)})]
        case "exist" if filters is not None and value:
            seen = [(i, "colour", filters["colour"]) if "colour" in filters else (i, "there") for i in inputs[0]]
            return [set(seen)]
        case "exist" if filters is not None:
            kind, colour = looks[:2]
            return [{("absent", *each, "", "") for each in ((kind, colour), (kind, ""), ("", colour)) if any(each)}]
    return []


class Grade(NamedTuple):
    """How good an answer is.

    score: 1 + 9 F1, from 1 to 10, F1 the harmonic mean of precision and recall. precision: true / (true + false) of the
    different claims, 0 without any. recall: the share of wanted groups that true claims state, 1 where none is wanted.
    unparsed: the share of sentences without a claim, 0 without sentences.
    """

    score: float
    precision: float
    recall: float
    true: int
    false: int
    undecided: int
    unparsed: float
    checked: list[Checked]


def grade(text: str, scene: Scene, category: str = "detail", question: Question | None = None) -> Grade:
    """Grade an answer against the scene graph; any text has a grade.

    A sentence more that says something false never raises the score, one that says something true never lowers it. A
    question counts as answered only if no verdict is wrong, so that "yes. no." answers nothing. Raises as `wanted`.
    """
    groups = wanted(scene, category, question)
    reading = extract(text)
    checked = [check(claim, scene, question.answer if question else "") for claim in reading.claims]
    true, false = ({each.key for each in checked if each.truth is truth} for truth in (True, False))
    stated = set().union(*(each.facts for each in checked))
    misled = any(each.truth is False and each.claim.type == "answer" for each in checked)
    met = [bool(group & stated) and not (misled and any(f[0] == "answer" for f in group)) for group in groups]
    precision = share(len(true), len(true) + len(false))
    recall = share(sum(met), len(met)) if groups else 1.0
    return Grade(
        1 + 9 * share(2 * precision * recall, precision + recall),
        precision,
        recall,
        len(true),
        len(false),
        sum(each.truth is None for each in checked),
        share(len(reading.unparsed), len(reading.sentences)),
        checked,
    )
