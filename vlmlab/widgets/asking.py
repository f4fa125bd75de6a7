"""What the spatial probe asks: a template whose slots the scene fills, or free text; its truth. Notebook 15.

The truth of a template is its program executed on the scene; where the scene leaves doubt there is none, only the
reason why nobody should be asked.
"""

from dataclasses import dataclass, replace

from vlmlab.errors import BadInput, UnknownName, VlmlabError
from vlmlab.scenes import COLOURS, KINDS, Scene, holds
from vlmlab.scenes.captions import article
from vlmlab.scenes.drawing import one, word
from vlmlab.scenes.programs import FACINGS, SIDES, Program, execute, step
from vlmlab.scenes.relations import OWN_FRAME, SPECS
from vlmlab.vlm.conversations import SHORT

TEMPLATES = ("relation", "further", "existence", "count", "colour", "facing", "free")
FURTHER = {
    "left": ("further left", "left of"),
    "right": ("further right", "right of"),
    "front": ("closer to the camera", "in front of"),
    "back": ("further from the camera", "behind"),
}
"""Side -> how a question asks for it, and the relation that the answer states."""
COUNTS = tuple(str(count) for count in range(9))
FORMS = ("word", "sentence")
ORDERS = {"options named": 1, "options reversed": -1}
"""Controls that name the options in the prompt -> the step in which they are read off."""


@dataclass(frozen=True)
class Question:
    """One of TEMPLATES with its slots; each template reads those it needs.

    subject, other: indices of objects. relation: a name of scenes.relations.SPECS. side: left, right, front or back.
    kind, colour: of what is asked for; colour "" stands for any. text, options, answer: of free text; answer "" where
    nobody says what is true.
    """

    template: str = "relation"
    subject: int = 0
    other: int = 1
    relation: str = "left of"
    side: str = "left"
    kind: str = "cat"
    colour: str = ""
    text: str = ""
    options: tuple[str, ...] = ()
    answer: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "options", tuple(self.options))  # JSON gives a list
        for what, known in (("template", TEMPLATES), ("relation", SPECS), ("side", SIDES), ("kind", KINDS),
                            ("colour", ("", *COLOURS))):  # fmt: skip
            if getattr(self, what) not in known:
                raise UnknownName(what, getattr(self, what), known)
        if not all(isinstance(each, str) for each in (self.text, self.answer, *self.options)):
            raise BadInput("a question's text, options and answer are texts")
        if not all(type(each) is int and each >= 0 for each in (self.subject, self.other)):
            raise BadInput(f"objects are named by number from 0, not {self.subject!r} and {self.other!r}")

    @property
    def objects(self) -> tuple[int, ...]:
        """The objects that it is about."""
        two = {"relation": 2, "further": 2, "colour": 1, "facing": 1}.get(self.template, 0)
        return (self.subject, self.other)[:two]

    def without(self, index: int) -> "Question":
        """The same question in a scene that has lost an object; what was about it is about the first ones."""
        left = {name: at - (at > index) for name in ("subject", "other") if (at := getattr(self, name)) != index}
        free = next((i for i in range(2) if i not in left.values()), 0)
        return replace(self, **{"subject": free, "other": free, **left})


@dataclass(frozen=True)
class Asked:
    """A question to a scene.

    options: the answers that are scored, the first one the one that a sweep follows. truth: the right answer, None
    where there is none, and `why`. own_frame: the truth of a relation as seen from the second object, where that has
    a front and is not in doubt. statements: for each option the sentence that states it, as models are trained to
    answer; empty where the template has none.
    """

    text: str
    options: tuple[str, ...]
    truth: str | None
    why: str = ""
    own_frame: str | None = None
    program: Program | None = None
    statements: tuple[str, ...] = ()

    def prompt(self, form: str = "word", control: str = "none") -> str:
        """What a model reads: the text, perhaps with the options named, and for a word LLaVA-1.5's format prompt."""
        lines = [self.text, SHORT] if form == "word" else [self.text]
        if control in ORDERS:
            lines[0] += f" Choose one: {', '.join(self.options[:: ORDERS[control]])}."
        return "\n".join(lines)


def ask(scene: Scene, question: Question) -> Asked:
    """Fill a question's slots from a scene. Raises BadInput for an object that is not there, and for no text at all."""
    if question.template == "free":
        if not question.text.strip():
            raise BadInput("the question is empty; write one")
        if len(set(question.options)) < len(question.options) or not all(map(str.strip, question.options)):
            raise BadInput(f"options are different answers of at least one character, not {list(question.options)}")
        truth = question.answer.strip() or None
        return Asked(question.text.strip(), question.options, truth, "" if truth else "nobody said what is true")
    for index in question.objects:
        if index >= len(scene.objects):
            raise BadInput(f"the question names object {index}, and the scene has {len(scene.objects)}; add one")
    text, options, program, statements = _filled(scene, question)
    asked = Asked(text, options, None, _asks_nothing(scene, question), None, program, statements)
    if asked.why:
        return asked
    if question.template == "relation" and question.relation in OWN_FRAME:
        own = holds(scene, question.relation, question.subject, question.other, "object")
        asked = replace(asked, own_frame=None if own is None else word(own))
    try:
        return replace(asked, truth=word(execute(program, scene)))
    except VlmlabError as error:
        return replace(asked, why=str(error))


def _asks_nothing(scene: Scene, question: Question) -> str:
    """Why a question has no answer whatever the places are; "" where it has one."""
    if len(set(question.objects)) < len(question.objects):
        return "the question names one object twice"
    kinds = [item.kind for item in scene.objects]
    if question.template == "further" and kinds[question.subject] == kinds[question.other]:
        return "both answers are the same word"
    if question.template == "colour" and kinds.count(kinds[question.subject]) > 1:
        return "the object's name would give its colour away"
    return ""


def _filled(scene: Scene, question: Question) -> tuple[str, tuple[str, ...], Program, tuple[str, ...]]:
    """Text, options, program and statements."""
    yes_no = ("yes", "no")
    match question.template:
        case "existence":
            looks = {"colour": question.colour, "kind": question.kind}
            filters = {name: value for name, value in looks.items() if value}
            text = f"Is there {article(' '.join(filters.values()))} in the picture?"
            return text, yes_no, [step("select", filters), step("exist", None, 0)], ()
        case "count":
            program = [step("select", {"kind": question.kind}), step("count", None, 0)]
            return f"How many {KINDS[question.kind].plural} are there?", COUNTS, program, ()
    first, program = one(scene, question.subject)
    match question.template:
        case "colour":
            told = tuple(f"The {first} is {colour}." for colour in COLOURS)
            return f"What color is the {first}?", tuple(COLOURS), [*program, step("query", "colour", 1)], told
        case "facing":
            told = tuple(f"The {first} faces {way}." for way in FACINGS)
            return f"Which way is the {first} facing?", FACINGS, [*program, step("query", "facing", 1)], told
    second, finding = one(scene, question.other)
    program = [*program, finding[0], step("unique", None, 2)]
    if question.template == "further":
        which, relation = FURTHER[question.side]
        kinds = tuple(scene.objects[i].kind for i in question.objects)
        told = tuple(
            f"The {near} is {relation} the {far}, {kind}."
            for (near, far), kind in zip(((first, second), (second, first)), kinds, strict=True)
        )
        program.append(step("choose", question.side, 1, 3))
        return f"Which is {which}, the {first} or the {second}?", kinds, program, told
    relation = question.relation
    program = [*program, step("verify", {"relation": relation, "frame": SPECS[relation].frame}, 1, 3)]
    if relation == "contains":
        told = f"The {first} contains the {second}, yes.", f"The {first} does not contain the {second}, no."
        return f"Does the {first} contain the {second}?", yes_no, program, told
    no = SPECS[relation].opposite or f"not {relation}"
    told = f"The {first} is {relation} the {second}, yes.", f"The {first} is {no} the {second}, no."
    return f"Is the {first} {relation} the {second}?", yes_no, program, told
