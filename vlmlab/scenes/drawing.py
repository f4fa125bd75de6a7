"""Notebook 00. One question of each type drawn from a scene: its text, its program, and the sentence that answers it.

A draw fixes the verdict it wants and the kind of question first (`plan`), then looks for objects that have it; a draw
that cannot be asked returns None, and one that nobody should be asked raises Ambiguous.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from vlmlab.scenes import relations as R
from vlmlab.scenes.captions import article, listing, name
from vlmlab.scenes.kinds import COLOURS, KINDS, MATERIALS, SIZES
from vlmlab.scenes.programs import FACINGS, Program, execute, step, trace

if TYPE_CHECKING:
    from vlmlab.scenes.scene import Scene

ANSWERS: dict[str, tuple[str, ...]] = {
    "kind": tuple(KINDS),
    "colour": tuple(COLOURS),
    "size": tuple(SIZES),
    "material": MATERIALS,
    "facing": FACINGS,
}
FIELD_VALUES: dict[str, list[str]] = {"kind": list(KINDS), "colour": list(COLOURS)}


@dataclass(frozen=True)
class Question:
    """One question about one scene. `topic` refines `type` (a relation's name, a field's); `objects` it is about."""

    type: str
    topic: str
    text: str
    answer: str
    sentence: str
    program: Program
    objects: tuple[int, ...] = ()
    frame: str = "viewer"

    @property
    def options(self) -> tuple[str, ...]:
        """The answers to choose among, for closed questions; empty where any number or object may be named."""
        last = self.program[-1]
        if self.answer in ("yes", "no"):
            return ("yes", "no")
        return ANSWERS.get(last["argument"], ()) if last["operation"] == "query" else ()


def word(value: bool | int | str) -> str:
    """An executed answer as the short answer's text."""
    return ("no", "yes")[value] if isinstance(value, bool) else str(value)


def one(scene: "Scene", index: int) -> tuple[str, Program]:
    """The shortest name of an object and the program that finds it."""
    item = scene.objects[index]
    filters = {"kind": item.kind}
    if sum(other.kind == item.kind for other in scene.objects) > 1:
        filters["colour"] = item.colour
    return name(scene, index), [step("select", filters), step("unique", None, 0)]


def _join(first: Program, second: Program) -> Program:
    """Two programs one after the other, the second's dependencies renumbered."""
    shift = len(first)
    moved = [{**item, "dependencies": [d + shift for d in item["dependencies"]]} for item in second]
    return first + moved


def _plural(kind: str, count: int = 2) -> str:
    """The noun for `count` objects of a kind."""
    if count == 1:
        return kind
    return KINDS[kind].plural if kind in KINDS else kind + "s"


def _seen(scene: "Scene", members: list[int]) -> str:
    return listing([article(f"{scene.objects[i].colour} {scene.objects[i].kind}") for i in members])


def _pick(rng: np.random.Generator, values: Sequence[Any]) -> Any:
    return values[int(rng.integers(len(values)))]


class Draw:
    """Draws one question of a type from a scene with a generator; each method is named after its type."""

    def __init__(self, scene: "Scene", rng: np.random.Generator):
        self.scene, self.rng = scene, rng
        self.n = len(scene.objects)
        self.want, self.mode = True, 0.0

    def plan(self, want: bool | None = None) -> bool:
        """Fix the verdict of a yes/no question and the kind of draw, before a question that has them is looked for."""
        self.want = bool(self.rng.random() < 0.5) if want is None else want
        self.mode = float(self.rng.random())
        return self.want

    def make(
        self, type_: str, topic: str, text: str, sentence: str, program: Program, objects=(), frame="viewer"
    ) -> Question:
        answer = word(execute(program, self.scene))
        return Question(type_, topic, text, answer, sentence.format(answer=answer), program, tuple(objects), frame)

    def two(self) -> tuple[int, int] | None:
        if self.n < 2:
            return None
        a, b = self.rng.choice(self.n, 2, replace=False)
        return int(a), int(b)

    def existence(self) -> Question | None:
        want, mode = self.want, self.mode
        objects = self.scene.objects
        kinds, colours = {o.kind for o in objects}, {o.colour for o in objects}
        if want and not objects:
            return None
        if mode < 0.35:  # a kind
            filters = {"kind": _pick(self.rng, sorted(kinds) if want else sorted(set(KINDS) - kinds))}
        elif mode < 0.85 and objects:  # a colour and a kind; when absent, most often one of the two is there
            item = _pick(self.rng, objects)
            filters = {"colour": item.colour, "kind": item.kind}
            if not want:
                field = "colour" if self.rng.random() < 0.6 else "kind"
                pool = (
                    (sorted(colours) if self.rng.random() < 0.5 and len(colours) > 1 else list(COLOURS))
                    if field == "colour"
                    else (sorted(kinds) if self.rng.random() < 0.5 and len(kinds) > 1 else list(KINDS))
                )
                filters[field] = _pick(self.rng, pool)
        else:
            filters = {"colour": _pick(self.rng, sorted(colours) if want else sorted(set(COLOURS) - colours))}
        noun = " ".join([*([filters["colour"]] if "colour" in filters else []), filters.get("kind", "object")])
        program = [step("select", filters), step("exist", None, 0)]
        there = execute(program, self.scene)
        if there != want:
            return None
        ask = _pick(
            self.rng,
            ("Is there {a} in the picture?", "Is there {a}?", "Is there {a} in the image?", "Can you see {a}?"),
        )
        if there:
            fact = f"There is {_seen(self.scene, trace(program[:1], self.scene)[-1])}"
        else:
            near = [i for i, o in enumerate(objects) if o.kind == filters.get("kind")]
            fact = f"There is only {_seen(self.scene, near)}" if near else f"There is no {filters.get('kind', noun)}"
        return self.make("existence", "existence", ask.format(a=article(noun)), fact + ", {answer}.", program)

    def count(self) -> Question | None:
        objects, mode = self.scene.objects, self.mode
        if mode < 0.3 or not objects:
            filters, noun = {}, "objects"
        elif mode < 0.65:
            kind = _pick(self.rng, objects).kind if self.rng.random() < 0.8 else _pick(self.rng, list(KINDS))
            filters, noun = {"kind": kind}, _plural(kind)
        else:
            colour = _pick(self.rng, objects).colour if self.rng.random() < 0.8 else _pick(self.rng, list(COLOURS))
            filters, noun = {"colour": colour}, f"{colour} objects"
        program = [step("select", filters), step("count", None, 0)]
        members = sorted(trace(program[:1], self.scene)[-1], key=lambda i: self.scene.geometry.u[i])
        fact = f"There is {_seen(self.scene, members)}" if members else f"There are no {noun}"
        ask = _pick(
            self.rng, ("How many {n} are there?", "How many {n} are in the picture?", "How many {n} can you see?")
        )
        return self.make("count", "count", ask.format(n=noun), fact + ", {answer}.", program)

    def attribute(self) -> Question | None:
        if not self.n:
            return None
        index = int(self.rng.integers(self.n))
        field = _pick(self.rng, ("colour", "colour", "colour", "size", "material", "facing"))
        item = self.scene.objects[index]
        if field == "colour" and sum(o.kind == item.kind for o in self.scene.objects) > 1:
            return None  # its name would give the colour away
        noun, program = one(self.scene, index)
        ask, fact = {
            "colour": (
                ("What color is the {n}?", "What is the color of the {n}?", "What colour is the {n}?"),
                "The {n} is {{answer}}.",
            ),
            "size": (("Is the {n} small or large?", "What size is the {n}?"), "The {n} is {{answer}}."),
            "material": (
                ("Is the {n} matte or shiny?", "What material is the {n}, matte or shiny?"),
                "The {n} is {{answer}}.",
            ),
            "facing": (("Which way is the {n} facing?", "Where does the {n} face?"), "The {n} faces {{answer}}."),
        }[field]
        program = [*program, step("query", field, 1)]
        return self.make("attribute", field, _pick(self.rng, ask).format(n=noun), fact.format(n=noun), program, [index])

    def relation(self, relation: str | None = None) -> Question | None:
        pair = self.two()
        if pair is None:
            return None
        a, b = pair
        want = self.want
        if relation is None:
            relation = ASKED_RELATIONS[int(self.mode * len(ASKED_RELATIONS))]
        if relation == "between":
            return self.between()
        frame = R.SPECS[relation].frame
        if R.holds(self.scene, relation, a, b, frame) is not want:
            return None
        (first, p), (second, q) = one(self.scene, a), one(self.scene, b)
        program = [*_join(p, q), step("verify", {"relation": relation, "frame": frame}, 1, 3)]
        text = f"{_is(relation)} the {first} {_phrase(relation)} the {second}?"
        fact = self.fact(a, relation, b, want)
        return self.make("relation", relation, text, fact + ", {answer}.", program, pair, frame)

    def between(self) -> Question | None:
        if self.n < 3:
            return None
        a, b, c = (int(i) for i in self.rng.choice(self.n, 3, replace=False))
        parts = [one(self.scene, i) for i in (a, b, c)]
        program = _join(_join(parts[0][1], parts[1][1]), parts[2][1])
        program = [*program, step("verify", {"relation": "between", "frame": "viewer"}, 1, 3, 5)]
        if execute(program, self.scene) is not self.want:
            return None
        first, second, third = (noun for noun, _ in parts)
        text = f"Is the {first} between the {second} and the {third}?"
        fact = f"The {first} is {'' if self.want else 'not '}between the {second} and the {third}, {{answer}}."
        return self.make("relation", "between", text, fact, program, (a, b, c))

    def fact(self, a: int, relation: str, b: int, holds: bool) -> str:
        """What is to be seen instead of, or in favour of, a relation."""
        first, second = name(self.scene, a), name(self.scene, b)
        if holds:
            return _statement(first, relation, second)
        opposite = R.SPECS[relation].opposite
        if opposite and R.holds(self.scene, opposite, a, b):
            return _statement(first, opposite, second)
        for other in ("on", "inside", "under"):
            if R.holds(self.scene, other, a, b):
                return _statement(first, other, second)
            if R.holds(self.scene, other, b, a):
                return _statement(second, other, first)
        if relation in (
            "on",
            "on top of",
            "inside",
            "in",
            "under",
            "beneath",
            "below",
            "above",
            "over",
            "contains",
            "touching",
        ):
            return _statement(first, "apart from", second)
        return f"The {first} {'does not' if relation == 'contains' else 'is not'} {_phrase(relation)} the {second}"

    def comparison(self) -> Question | None:
        return self.counts_compared() if self.mode < 0.4 else self.pair_compared()

    def counts_compared(self) -> Question | None:
        """More or fewer of one kind, or colour, than of another."""
        how, field = _pick(self.rng, ("more", "fewer")), _pick(self.rng, ("kind", "colour"))
        present, known = sorted({getattr(o, field) for o in self.scene.objects}), FIELD_VALUES[field]
        first = _pick(self.rng, present if present and self.rng.random() < 0.8 else known)
        second = _pick(self.rng, present if present and self.rng.random() < 0.6 else known)
        if first == second:
            return None
        program = [
            step("select", {field: first}),
            step("count", None, 0),
            step("select", {field: second}),
            step("count", None, 2),
            step(how, None, 1, 3),
        ]
        values = trace(program, self.scene)
        if values[-1] is not self.want:
            return None

        def noun(value: str, count: int = 2) -> str:
            return _plural(value, count) if field == "kind" else f"{value} {_plural('object', count)}"

        a, b = values[1], values[3]
        fact = f"There {'is' if a == 1 else 'are'} {a} {noun(first, a)} and {b} {noun(second, b)}, {{answer}}."
        return self.make("comparison", how, f"Are there {how} {noun(first)} than {noun(second)}?", fact, program)

    def pair_compared(self) -> Question | None:
        """Whether two objects share a field, or one is large and the other small."""
        pair, objects = self.two(), self.scene.objects
        if pair is None:
            return None
        a, b = pair
        (first, p), (second, q) = one(self.scene, a), one(self.scene, b)
        field = _pick(self.rng, ("colour", "size", "material", "larger"))
        if field == "larger":
            program = [*_join(p, q), step("larger", None, 1, 3)]
            text, topic, shown = f"Is the {first} large and the {second} small?", field, "size"
        else:
            if field == "colour" and objects[a].kind == objects[b].kind:
                return None
            program = [*_join(p, q), step("same", field, 1, 3)]
            noun = {"colour": "color", "size": "size", "material": "material"}[field]
            text, topic, shown = f"Are the {first} and the {second} the same {noun}?", f"same {field}", field
        if execute(program, self.scene) is not self.want:
            return None
        values = getattr(objects[a], shown), getattr(objects[b], shown)
        fact = f"The {first} is {values[0]} and the {second} is {values[1]}, {{answer}}."
        return self.make("comparison", topic, text, fact, program, pair)

    def choice(self) -> Question | None:
        pair = self.two()
        if pair is None or self.scene.objects[pair[0]].kind == self.scene.objects[pair[1]].kind:
            return None
        a, b = pair
        (first, p), (second, q) = one(self.scene, a), one(self.scene, b)
        side = _pick(self.rng, ("left", "right", "front", "back"))
        ask = {
            "left": "further left",
            "right": "further right",
            "front": "closer to the camera",
            "back": "further from the camera",
        }[side]
        relation = {"left": "left of", "right": "right of", "front": "in front of", "back": "behind"}[side]
        program = [*_join(p, q), step("choose", side, 1, 3)]
        winner = execute(program, self.scene)
        near, far = (first, second) if self.scene.objects[a].kind == winner else (second, first)
        text = f"Which is {ask}, the {first} or the {second}?"
        return self.make("choice", side, text, f"{_statement(near, relation, far)}, {{answer}}.", program, pair)

    def referring(self) -> Question | None:
        """What is at a place: the object is named by where it is, by its colour, or by being the outermost."""
        if not self.n:
            return None
        mode = self.mode
        if mode < 0.3:
            item = _pick(self.rng, self.scene.objects)
            program = [step("select", {"colour": item.colour}), step("unique", None, 0), step("query", "kind", 1)]
            return self.make(
                "referring",
                "colour",
                f"What is the {item.colour} object?",
                f"The {item.colour} object is {article(item.kind)}.",
                program,
            )
        if mode < 0.65 and self.n > 1:
            side = _pick(self.rng, ("left", "right", "front", "back"))
            noun = {"left": "leftmost", "right": "rightmost", "front": "closest", "back": "farthest"}[side]
            program = [step("select", {}), step("extreme", side, 0)]
            return self._ask_about(program, f"{noun} object", side)
        pair = self.two()
        if pair is None:
            return None
        relation = _pick(self.rng, ("on", "inside", "under", "left of", "right of", "in front of", "behind"))
        anchor, p = one(self.scene, pair[1])
        program = [*p, step("relate", {"relation": relation, "frame": "viewer"}, 1), step("unique", None, 2)]
        return self._ask_about(program, f"object {relation} the {anchor}", relation)

    def _ask_about(self, program: Program, noun: str, topic: str) -> Question:
        target = trace(program, self.scene)[-1]
        item = self.scene.objects[target]
        if self.rng.random() < 0.5:
            program = [*program, step("query", "kind", len(program) - 1)]
            return self.make(
                "referring",
                topic,
                f"What is the {noun}?",
                f"The {noun} is {article(item.colour)} {{answer}}.",
                program,
                [target],
            )
        program = [*program, step("query", "colour", len(program) - 1)]
        return self.make(
            "referring",
            topic,
            f"What color is the {noun}?",
            f"The {noun} is {article(item.kind)}, {{answer}}.",
            program,
            [target],
        )

    def multi_hop(self) -> Question | None:
        """A relation inside another question: existence, count, an attribute, or a second relation."""
        pair = self.two()
        if pair is None:
            return None
        anchor, p = one(self.scene, pair[1])
        relation = _pick(self.rng, ("left of", "right of", "in front of", "behind", "on", "inside", "under"))
        hop = [*p, step("relate", {"relation": relation, "frame": "viewer"}, 1)]
        members = sorted(trace(hop, self.scene)[-1], key=lambda i: self.scene.geometry.u[i])
        if not members and self.rng.random() < 0.8:
            return None  # nothing is on, inside or under most objects
        seen = _seen(self.scene, members) if members else "nothing"
        where, mode = f"{relation} the {anchor}", self.mode
        fact = f"There is {seen} {where}, {{answer}}." if members else f"There is nothing {where}, {{answer}}."
        if mode < 0.4:
            field = _pick(self.rng, ("kind", "colour"))
            others = [getattr(o, field) for i, o in enumerate(self.scene.objects) if i != pair[1]]
            value = _pick(self.rng, others)
            program = [*hop, step("filter", {field: value}, 2), step("exist", None, 3)]
            if execute(program, self.scene) is not self.want:
                return None
            noun = article(value) if field == "kind" else article(f"{value} object")
            return self.make("multi_hop", "exist", f"Is there {noun} {where}?", fact, program)
        if mode < 0.7:
            return self.make(
                "multi_hop", "count", f"How many objects are {where}?", fact, [*hop, step("count", None, 2)]
            )
        second = _pick(self.rng, ("left of", "right of", "in front of", "behind"))
        program = [
            *hop,
            step("unique", None, 2),
            step("relate", {"relation": second, "frame": "viewer"}, 3),
            step("unique", None, 4),
        ]
        target = trace(program, self.scene)[-1]
        if target == pair[1]:
            return None
        middle, last = (name(self.scene, i) for i in (trace(program[:4], self.scene)[-1], target))
        program = [*program, step("query", "colour", 5)]
        text = f"What color is the object {second} the object {where}?"
        fact = f"The {middle} is {where} and the {last} is {second} the {middle}, {{answer}}."
        return self.make("multi_hop", "chain", text, fact, program, [target])


def _phrase(relation: str) -> str:
    return "contain" if relation == "contains" else relation


def _is(relation: str) -> str:
    return "Does" if relation == "contains" else "Is"


def _statement(first: str, relation: str, second: str) -> str:
    return f"The {first} {'contains' if relation == 'contains' else 'is ' + relation} the {second}"


# Relations are asked about as often as they stand here: the four directions most, then the rest alike.
ASKED_RELATIONS = (
    ("left of", "right of", "in front of", "behind") * 6
    + ("on", "inside", "under", "near", "far from", "next to", "facing", "facing away from") * 3
    + tuple(name for name in R.SPECS)
    + ("between",) * 2
)
