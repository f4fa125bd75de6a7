"""Notebook 05. Questions about a scene in GQA's forms: text, program, types, and what an answer to each tells.

What a right answer tells is written as facts, and so is what it takes to know an answer. A question entails another if
a fact that it tells is one that the other can be answered by: "What color is the cat?", red, tells that the cat is red
and not blue and that there is a cat, which answers "Is the cat blue?" and "Is there a cat?". Source of forms and types:
Hudson & Manning 2019, arXiv 1902.09506, and its published questions.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations, permutations
from typing import Any

import numpy as np

from vlmlab.benchmarks.export.gqa_programs import ATTRIBUTES, RELATIONS, SHARED, execute
from vlmlab.benchmarks.export.sets import alone
from vlmlab.scenes import KINDS, Scene
from vlmlab.scenes.captions import article
from vlmlab.scenes.drawing import ANSWERS
from vlmlab.scenes.programs import Ambiguous

VALUES = {name: ANSWERS[field] for name, field in ATTRIBUTES.items()}
INVERSE = {"to the left of": "to the right of", "to the right of": "to the left of", "in front of": "behind",
           "behind": "in front of"}  # fmt: skip
SIDES = ("left", "right")
YES_NO = ("yes", "no")
Facts = frozenset[tuple]


@dataclass(frozen=True)
class Draft:
    """A question about one scene.

    types: GQA's structural, semantic and detailed type. group: the global group of an open question, "" of another.
    topic: what its answers are balanced within. told: the facts that its answer tells; known: it can be answered by
    any one of these. valid: the answers that fit the question.
    """

    text: str
    answer: str
    full: str
    semantic: tuple[dict[str, Any], ...]
    types: tuple[str, str, str]
    topic: str
    told: Facts
    known: Facts
    valid: tuple[str, ...] = YES_NO
    group: str = ""

    @property
    def topics(self) -> tuple[str, str]:
        """The detailed type and the topic."""
        return self.types[2], self.topic

    @property
    def slot(self) -> str:
        """What is balanced: the answer, or of a choice, which of the two options it is."""
        return str(self.valid.index(self.answer)) if self.types[0] == "choose" else self.answer

    @property
    def slots(self) -> tuple[str, ...]:
        """All that `slot` could be."""
        return ("0", "1") if self.types[0] == "choose" else self.valid

    def entails(self, other: "Draft") -> bool:
        """Whether the right answer to this question tells that to the other."""
        return self is not other and bool(self.told & other.known)


class Maker:
    """Makes every question about the kinds that name one object of a scene. ids: the objects' in the scene graph."""

    def __init__(self, scene: Scene, ids: list[str], rng: np.random.Generator):
        self.scene, self.rng = scene, rng
        self.objects = alone(scene)
        self.ids = {kind: ids[index] for kind, index in self.objects.items()}
        self.absent = sorted(set(KINDS) - {item.kind for item in scene.objects})

    def drafts(self) -> Iterator[Draft]:
        """The questions that the scene answers beyond doubt."""
        for kind in self.objects:
            yield from self._attributes(kind)
            yield from self._position(kind)
            yield self._exists(kind)
        for kind in self.rng.permutation(self.absent)[:2]:
            yield self._exists(str(kind))
        yield from self._exist_both()
        for a, b in combinations(self.objects, 2):
            yield from self._compared(a, b)
        for a, b in permutations(self.objects, 2):
            for phrase in RELATIONS:
                yield from self._related(a, phrase, b)

    def select(self, kind: str) -> dict[str, Any]:
        return _step("select", f"{kind} ({self.ids.get(kind, '-')})")

    def _two(self, first: Any, second: Any) -> list[Any]:
        """Two things in a random order."""
        return [first, second] if self.rng.random() < 0.5 else [second, first]

    def _draft(
        self, text: str, facts: tuple, full: Any, steps: list[dict[str, Any]], types: str, topic: str, **more
    ) -> Draft:
        """facts: those told and those known. full: the sentence, {} for the answer, or those for yes and for no."""
        answer = execute(steps, self.scene)
        told, known = facts
        full = full if isinstance(full, str) else full[answer == "no"]
        structural, semantic, detailed = types.split()
        return Draft(text, answer, full.format(answer), tuple(steps), (structural, semantic, detailed), topic,
                     frozenset(told), frozenset(known), **more)  # fmt: skip

    def _attributes(self, kind: str) -> Iterator[Draft]:
        item = self.scene.objects[self.objects[kind]]
        for name, field in ATTRIBUTES.items():
            true = getattr(item, field)
            false = str(self.rng.choice([value for value in VALUES[name] if value != true]))
            facts = is_so(kind, name, true), {("is", kind, name, true)}
            ask = {"color": f"What color is the {kind}?", "size": f"What size is the {kind}?",
                   "material": f"What material is the {kind}?"}[name]  # fmt: skip
            yield self._draft(ask, facts, f"The {kind} is {{}}.", [self.select(kind), _step(f"query {name}", "", 0)],
                              "query attr directWhich", name, valid=VALUES[name], group=name)  # fmt: skip
            options = self._two(true, false)
            yield self._draft(
                f"Is the {kind} {options[0]} or {options[1]}?", facts, f"The {kind} is {{}}.",
                [self.select(kind), _step(f"choose {name}", "|".join(options), 0)], "choose attr chooseAttr",
                name, valid=tuple(options),
            )  # fmt: skip
            for value, holds in ((true, True), (false, False)):
                no, none = {("not", kind, name, value)}, {("none", kind, name, value)}
                yield self._draft(
                    f"Is the {kind} {value}?", facts if holds else (no | none | {("there", kind)}, no),
                    (f"Yes, the {kind} is {value}.", f"No, the {kind} is {true}."),
                    [self.select(kind), _step(f"verify {name}", value, 0)], "verify attr verifyAttr", name,
                )  # fmt: skip
                look, some = article(f"{value} {kind}"), is_so(kind, name, true, sole=False)
                yield self._draft(
                    f"Is there {look} in the picture?",
                    (some, facts[1]) if holds else (no | none, none | {("absent", kind)}),
                    (f"Yes, there is {look}.", f"No, there is {article(kind)} but it is {true}."),
                    [self.select(kind), _step(f"filter {name}", value, 0), _step("exist", "?", 1)],
                    "verify attr existAttr", name,
                )  # fmt: skip

    def _position(self, kind: str) -> Iterator[Draft]:
        query = [self.select(kind), _step("query hposition", "", 0)]
        try:
            true = execute(query, self.scene)
        except Ambiguous:
            return
        other = SIDES[true == "left"]
        facts = {("side", kind, true), ("off", kind, other), ("there", kind)}, {("side", kind, true)}
        yield self._draft(f"On which side of the picture is the {kind}?", facts, f"The {kind} is on the {{}} side.",
                          query, "query attr positionQuery", "side", valid=SIDES, group="side")  # fmt: skip
        for value in SIDES:
            no = {("off", kind, value)}
            yield self._draft(
                f"Is the {kind} on the {value} side of the picture?",
                facts if value == true else (no | {("there", kind)}, no),
                (f"Yes, the {kind} is on the {value} side.", f"No, the {kind} is on the {true} side."),
                [self.select(kind), _step("verify hposition", value, 0)], "verify attr positionVerify", "side",
            )  # fmt: skip

    def _exists(self, kind: str) -> Draft:
        fact = {("there" if kind in self.objects else "absent", kind)}
        return self._draft(
            f"Is there {article(kind)} in the picture?", (fact, fact),
            (f"Yes, there is {article(kind)}.", f"No, there is no {kind}."),
            [self.select(kind), _step("exist", "?", 0)], "verify obj exist", "",
        )  # fmt: skip

    def _exist_both(self) -> Iterator[Draft]:
        """Of two kinds, both or one there, or neither."""
        for first, second in ((0, 0), (0, 1), (1, 1)):
            pools = [list(self.objects), self.absent]
            names = [str(self.rng.choice(pools[at])) for at in self._two(first, second)]
            a, b = names
            if a == b:
                continue
            steps = [self.select(a), _step("exist", "?", 0), self.select(b), _step("exist", "?", 2)]
            there = {("there" if name in self.objects else "absent", name) for name in names}
            gone = {fact for fact in there if fact[0] == "absent"}
            both, either = ("both", *sorted(names)), ("either", *sorted(names))
            # where not both are there, nobody knows which one is missing: a "no" tells nothing of either alone
            yield self._draft(
                f"Are there both {article(a)} and {article(b)} in the picture?",
                ({(*both, "no")}, {(*both, "no")} | gone) if gone else (there | {(*both, "yes")}, {(*both, "yes")}),
                (f"Yes, there are both {article(a)} and {article(b)}.", f"No, they are not both there: {a}, {b}."),
                [*steps, _step("and", "", 1, 3)], "logical obj existAnd", "",
            )  # fmt: skip
            seen, no = there - gone, {(*either, "no")}
            yield self._draft(
                f"Is there either {article(a)} or {article(b)} in the picture?",
                ({(*either, "yes")}, {(*either, "yes"), *seen}) if seen else (gone | no, no),
                (f"Yes, there is one of them: {a}, {b}.", f"No, there is neither {article(a)} nor {article(b)}."),
                [*steps, _step("or", "", 1, 3)], "logical obj existOr", "",
            )  # fmt: skip

    def _compared(self, a: str, b: str) -> Iterator[Draft]:
        first, second = (self.scene.objects[self.objects[kind]] for kind in (a, b))
        start = [self.select(a), self.select(b)]
        for name in SHARED:
            values = [getattr(item, ATTRIBUTES[name]) for item in (first, second)]
            same = values[0] == values[1]
            fact = {("same", name, a, b, same)}
            told = fact | {("there", a), ("there", b)}
            full = [f"The {a} is {values[0]} and the {b} is {values[1]}."] * 2
            yield self._draft(f"Are the {a} and the {b} the same {name}?", (told, fact), full,
                              [*start, _step(f"same {name}", "", 0, 1)], "compare attr twoSame", name)  # fmt: skip
            differ = [*start, _step(f"different {name}", "", 0, 1)]
            yield self._draft(f"Do the {a} and the {b} have different {name}s?", (told, fact), full, differ,
                              "compare attr twoDifferent", name)  # fmt: skip
        steps = [*start, _step("common", "", 0, 1)]
        try:
            common = execute(steps, self.scene)
        except Ambiguous:
            return
        facts = {("same", common, a, b, True), ("there", a), ("there", b), ("common", a, b)}, {("common", a, b)}
        yield self._draft(f"What do the {a} and the {b} have in common?", facts, "They have the same {}.", steps,
                          "compare attr twoCommon", "", valid=SHARED)  # fmt: skip

    def _related(self, a: str, phrase: str, b: str) -> Iterator[Draft]:
        verify = [self.select(a), _step("verify rel", f"{b},{phrase},o ({self.ids[b]})", 0)]
        try:
            true = execute(verify, self.scene) == "yes"
        except Ambiguous:
            return
        fact = {("rel", a, phrase, b, true)}
        told = stands(a, phrase, b, true)
        axis = min(phrase, INVERSE.get(phrase, phrase))
        sentences = (f"Yes, the {a} is {phrase} the {b}.", f"No, the {a} is not {phrase} the {b}.")
        yield self._draft(
            f"Is the {a} {phrase} the {b}?", (told, fact), sentences, verify, "verify rel relVerify", phrase
        )
        relate = [self.select(b), _step("relate", f"{a},{phrase},s ({self.ids[a] if true else '-'})", 0)]
        yield self._draft(
            f"Is there {article(a)} {phrase} the {b}?",
            (stands(a, phrase, b, true, sole=False), fact if true else {("no", a, phrase, b), ("absent", a)}),
            (f"Yes, there is {article(a)} {phrase} the {b}.", f"No, there is no {a} {phrase} the {b}."),
            [*relate, _step("exist", "?", 1)], "verify rel existRelS", phrase,
        )  # fmt: skip
        if not true:
            return
        if phrase in INVERSE:
            options = self._two(phrase, INVERSE[phrase])
            yield self._draft(
                f"Is the {a} {options[0]} or {options[1]} the {b}?", (told, fact), f"The {a} is {{}} the {b}.",
                [self.select(a), _step("choose rel", f"{b},{'|'.join(options)},o ({self.ids[b]})", 0)],
                "choose rel relChooser", axis, valid=tuple(options),
            )  # fmt: skip
        steps = [self.select(b), _step("relate", f"_,{phrase},s ({self.ids[a]})", 0), _step("query name", "", 1)]
        try:
            facts = stands(a, phrase, b, true, sole=False), fact
            yield self._draft(f"What is {phrase} the {b}?", facts, f"The {{}} is {phrase} the {b}.", steps,
                              "query rel relS", axis, valid=tuple(KINDS), group="object")  # fmt: skip
        except Ambiguous:
            return


def _step(operation: str, argument: str, *dependencies: int) -> dict[str, Any]:
    return {"operation": operation, "dependencies": list(dependencies), "argument": argument}


def is_so(kind: str, name: str, value: str, sole: bool = True) -> set[tuple]:
    """What it tells that the object of a kind has an attribute. sole: it is said of the one object of this kind, so
    that there is none with another value; "there is a red cat" leaves room for a blue one."""
    others = [other for other in VALUES[name] if other != value]
    found = {("is", kind, name, value), ("there", kind)} | {("not", kind, name, other) for other in others}
    return found | ({("none", kind, name, other) for other in others} if sole else set())


def stands(a: str, phrase: str, b: str, true: bool, sole: bool = True) -> set[tuple]:
    """What it tells that an object stands in a relation to the one object b, or that it does not.

    sole: it is said of the one object a; "there is a cat behind the sofa" leaves room for one before it.
    """
    inverse = INVERSE.get(phrase)
    found = {("rel", a, phrase, b, true), ("there", b)} | ({("rel", b, inverse, a, true)} if inverse else set())
    if true:
        found |= {("there", a), ("rel", b, phrase, a, False)}
        found |= {("rel", a, inverse, b, False)} if inverse else set()
    elif sole:
        found.add(("there", a))
    denied = {("no", *fact[1:4]) for fact in found if fact[-1] is False}
    return found | {fact for fact in denied if sole or not true or fact[1] == b}
