"""What the spatial probe holds at one moment, and its JSON form. Notebook 15."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from math import isfinite
from typing import Any, TypeVar

from vlmlab.errors import BadInput, UnknownName
from vlmlab.scenes import Scene
from vlmlab.widgets.answers import CONTROLS, Answer, Said
from vlmlab.widgets.asking import FORMS, Question

TAGS = {
    "perception": "it does not see what is there",
    "binding": "it gives one object's property or place to another",
    "reference frame": "it answers from the object's point of view, not the viewer's",
    "prior": "it says what is usual, whatever the picture shows",
    "parser": "it says the right thing and the scorer reads another",
}
"""What went wrong -> how to know it."""
FIRST = Question()
T = TypeVar("T")


@dataclass(frozen=True)
class State:
    """A scene, a question, the control that it is asked under, and what was noted about the answers."""

    scene: Scene
    question: Question = FIRST
    control: str = "none"
    tags: tuple[str, ...] = ()
    note: str = ""

    def __post_init__(self) -> None:
        if self.control not in CONTROLS:
            raise UnknownName("control", self.control, CONTROLS)
        for tag in self.tags:
            if tag not in TAGS:
                raise UnknownName("tag", tag, TAGS)

    def to_record(self) -> dict[str, Any]:
        """As a JSON object, see `from_record`."""
        record = {field.name: getattr(self, field.name) for field in fields(self)}
        return {**record, "scene": json.loads(self.scene.to_json()), "question": asdict(self.question),
                "tags": list(self.tags)}  # fmt: skip

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "State":
        """Read `to_record`'s object; raises BadInput naming what is wrong."""
        scene = Scene.from_json(json.dumps(need(record, "scene", dict)))
        _check_numbers(scene)
        question = built(Question, need(record, "question", dict), "question")
        tags = need(record, "tags", list)
        return cls(scene, question, need(record, "control", str), tuple(tags), need(record, "note", str))


def answer_of(record: Mapping[str, Any]) -> Answer:
    """An answer from its JSON object; raises BadInput naming what is wrong."""
    answer = {}
    for form, said in record.items():
        if form not in FORMS:
            raise UnknownName("form of an answer", form, FORMS)
        log_probs = need(said, "log_probs", dict)
        if not all(map(_number, log_probs.values())):
            raise BadInput("log_probs must be numbers")
        answer[form] = Said(need(said, "text", str), log_probs)
    if not answer:
        raise BadInput("an answer is empty")
    return answer


def _check_numbers(scene: Scene) -> None:
    """`Scene.from_json` takes fields as they are. Raises BadInput for one that should be a number and is none."""
    parts: list[Any] = [*scene.objects, scene.camera, scene.light, *([scene.mirror] if scene.mirror else [])]
    for part in parts:
        for field in fields(part):
            if field.type is float and not _number(getattr(part, field.name)):
                raise BadInput(f"{type(part).__name__.lower()}.{field.name} must be a number")
    for name in ("floor", "wall"):
        if len(getattr(scene, name)) != 3 or not all(map(_number, getattr(scene, name))):
            raise BadInput(f"the colour of the {name} must be three numbers")


def _number(value: Any) -> bool:
    return type(value) in (int, float) and isfinite(value)


def need(record: Any, field: str, kind: type[T]) -> T:
    """A field of a JSON object; raises BadInput where it is missing or of another type."""
    if not isinstance(record, Mapping) or field not in record:
        raise BadInput(f"the field {field!r} is missing")
    value = record[field]
    if not isinstance(value, kind):
        raise BadInput(f"the field {field!r} must be a {kind.__name__}, not {type(value).__name__}")
    return value


def built(make: Callable[..., T], record: Mapping[str, Any], what: str) -> T:
    """A dataclass from a JSON object; raises BadInput for fields it does not have."""
    try:
        return make(**record)
    except (TypeError, AttributeError) as error:
        raise BadInput(f"not a {what}: {error}") from None
