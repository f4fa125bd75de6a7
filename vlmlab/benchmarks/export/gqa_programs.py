"""Notebook 05. GQA's functional programs, as its files write them, executed on our scenes.

    select          cat (id)                    the objects of a kind
    filter color    red                         those of them with an attribute (color, size or material)
    relate          cat,to the left of,s (id)   the cats that stand in a relation to the one object of the step before
    exist           ?                           whether there are any
    query name | color | hposition              of the one object
    verify color    red                         whether it is so; verify hposition left; verify rel sofa,behind,o (id)
    choose color    red|blue                    which of the two it is; choose rel sofa,in front of|behind,o (id)
    same color      different color             compare two objects; common: in which attribute they agree
    and             or                          of two answers

Source: Hudson & Manning 2019, arXiv 1902.09506, section 3.3, and the field `semantic` of the published questions.
"""

from collections.abc import Sequence
from typing import Any, TypeVar

from vlmlab.errors import BadInput
from vlmlab.scenes import Scene, holds
from vlmlab.scenes.programs import Ambiguous
from vlmlab.scenes.questions import word
from vlmlab.scenes.relations import LEFT

T = TypeVar("T")
RELATIONS = {
    "to the left of": "left of",
    "to the right of": "right of",
    "in front of": "in front of",
    "behind": "behind",
    "on": "on",
    "under": "under",
    "inside": "inside",
}
"""GQA's words for a relation -> the scene's."""
ATTRIBUTES = {"color": "colour", "size": "size", "material": "material"}
SHARED = ("color", "material")  # what two objects may be said to have in common


def execute(semantic: Sequence[dict[str, Any]], scene: Scene) -> str:
    """The answer of a program on a scene. Raises Ambiguous where there is none beyond doubt, BadInput for an unknown
    operation."""
    values: list[Any] = []
    for step in semantic:
        inputs = [values[i] for i in step["dependencies"]]
        values.append(_step(scene, step, inputs))
    return word(values[-1])


def side(scene: Scene, index: int) -> str:
    """On which side of the picture an object is, "left" or "right". Raises Ambiguous in the middle."""
    off = scene.geometry.u[index] - 0.5
    if abs(off) < LEFT:
        raise Ambiguous("the object is in the middle")
    return "left" if off < 0 else "right"


def _only(members: list[T]) -> T:
    if len(members) != 1:
        raise Ambiguous(f"{len(members)} objects fit, not one")
    return members[0]


def _kind(scene: Scene, name: str) -> list[int]:
    return [i for i, item in enumerate(scene.objects) if name in ("_", item.kind)]


def _stands(scene: Scene, a: int, phrase: str, b: int) -> bool:
    found = holds(scene, RELATIONS[phrase], a, b)
    if found is None:
        raise Ambiguous(f"the relation {phrase!r} neither holds nor fails beyond doubt")
    return found


def _look(scene: Scene, index: int, detail: str) -> str:
    if detail == "hposition":
        return side(scene, index)
    return scene.objects[index].kind if detail == "name" else getattr(scene.objects[index], ATTRIBUTES[detail])


def _step(scene: Scene, step: dict[str, Any], inputs: list[Any]) -> Any:
    operation, _, detail = step["operation"].partition(" ")
    argument = step["argument"]
    name, phrase = [*argument.split(" (")[0].split(","), ""][:2]
    match operation, detail:
        case "select", "":
            return _kind(scene, name)
        case "relate", "":
            anchor = _only(inputs[0])
            return [i for i in _kind(scene, name) if i != anchor and _stands(scene, i, phrase, anchor)]
        case "exist", "":
            return bool(inputs[0])
        case "and", "":
            return inputs[0] and inputs[1]
        case "or", "":
            return inputs[0] or inputs[1]
        case "common", "":
            a, b = map(_only, inputs)
            return _only([each for each in SHARED if _look(scene, a, each) == _look(scene, b, each)])
        case "filter", _:
            return [i for i in inputs[0] if _look(scene, i, detail) == argument]
        case "query", _:
            return _look(scene, _only(inputs[0]), detail)
        case "verify", "rel":
            return _stands(scene, _only(inputs[0]), phrase, _only(_kind(scene, name)))
        case "choose", "rel":
            a, b = _only(inputs[0]), _only(_kind(scene, name))
            return _only([each for each in phrase.split("|") if _stands(scene, a, each, b)])
        case "verify", _:
            return _look(scene, _only(inputs[0]), detail) == argument
        case "choose", _:
            return _only([each for each in argument.split("|") if _look(scene, _only(inputs[0]), detail) == each])
        case "same" | "different", _:
            a, b = map(_only, inputs)
            return (_look(scene, a, detail) == _look(scene, b, detail)) == (operation == "same")
    raise BadInput(f"unknown operation {operation!r} in a program")
