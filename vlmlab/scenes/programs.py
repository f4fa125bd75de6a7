"""Notebook 00. Functional programs: a question as steps that are executed on the scene graph.

A program is a list of steps {"operation", "argument", "dependencies"}, as in GQA's `semantic` field (Hudson and Manning
2019); dependencies are the numbers of earlier steps, and the last step's value is the answer.

    select {filters}             all objects with these fields
    relate {relation, frame}     objects that stand in the relation to the object of the step before
    extreme side                 the leftmost, rightmost, nearest or farthest object of a step
    unique                       the one object of a step
    exist / count                whether there are any / how many
    query field                  kind, colour, size, material or facing of an object
    verify {relation, frame}     whether the first object stands in the relation to the second (and third)
    same field / larger          compare two objects
    more / fewer / equal         compare two counts
    choose side                  which of two objects is further to that side
"""

from typing import Any

from vlmlab.errors import BadInput, VlmlabError
from vlmlab.scenes import relations as R
from vlmlab.scenes.scene import Scene

Program = list[dict[str, Any]]
FACINGS = ("towards the camera", "right", "away from the camera", "left")
FIELDS = ("kind", "colour", "size", "material", "facing")
SIDES = {"left": ("u", -1), "right": ("u", 1), "front": ("depth", -1), "back": ("depth", 1)}


class Ambiguous(VlmlabError):
    """A question that the scene does not answer beyond doubt: it must not be asked."""


def step(operation: str, argument: Any = None, *dependencies: int) -> dict[str, Any]:
    """One step of a program."""
    return {"operation": operation, "argument": argument, "dependencies": list(dependencies)}


def facing(scene: Scene, index: int) -> str:
    """Where an object faces in the picture: one of FACINGS. Raises Ambiguous without a front or between two of them."""
    if not scene.objects[index].spec.front:
        raise Ambiguous(f"a {scene.objects[index].kind} has no front")
    angle = scene.geometry.view_angle(index)
    sector = round(angle / 90) % 4
    if abs((angle - 90 * sector + 180) % 360 - 180) > 30:
        raise Ambiguous("the heading lies between two directions")
    return FACINGS[sector]


def extreme(scene: Scene, members: list[int], side: str) -> int:
    """The member furthest to a side of SIDES; raises Ambiguous when the first two are too close together."""
    if not members:
        raise Ambiguous("nothing to choose from")
    name, sign = SIDES[side]
    values = getattr(scene.geometry, name)
    ranked = sorted(members, key=lambda i: -sign * values[i])
    least = R.LEFT if name == "u" else R.DEPTH
    if len(ranked) > 1 and abs(values[ranked[0]] - values[ranked[1]]) < least:
        raise Ambiguous("two objects are equally far to that side")
    if name == "depth" and any(scene.geometry.supported(ranked[0], i) for i in ranked[1:]):
        raise Ambiguous("the objects stand on one another")
    return ranked[0]


def _related(scene: Scene, argument: dict, other: int) -> list[int]:
    found = []
    for index in range(len(scene.objects)):
        if index == other:
            continue
        value = R.margin(scene, argument["relation"], index, other, argument.get("frame"))
        if value is not None and abs(value) < 1:
            raise Ambiguous("an object is neither in the relation nor out of it")
        if value is not None and value > 0:
            found.append(index)
    return found


def _query(scene: Scene, name: str, index: int) -> str:
    return facing(scene, index) if name == "facing" else getattr(scene.objects[index], name)


def execute(program: Program, scene: Scene) -> bool | int | str:
    """The answer: a bool, a count, or a word. Raises Ambiguous when there is none beyond doubt, BadInput for an
    unknown operation."""
    return trace(program, scene)[-1]


def trace(program: Program, scene: Scene) -> list[Any]:
    """The value of every step: an object's index, a list of indices, a bool, a count or a word. Raises as `execute`."""
    values: list[Any] = []
    for item in program:
        argument = item["argument"]
        inputs = [values[i] for i in item["dependencies"]]
        values.append(_step(scene, item["operation"], argument, inputs))
    if not values:
        raise BadInput("an empty program")
    return values


def _step(scene: Scene, operation: str, argument: Any, inputs: list[Any]) -> Any:
    match operation:
        case "select":
            return [i for i, o in enumerate(scene.objects) if all(getattr(o, k) == v for k, v in argument.items())]
        case "filter":
            return [i for i in inputs[0] if all(getattr(scene.objects[i], k) == v for k, v in argument.items())]
        case "relate":
            return _related(scene, argument, inputs[0])
        case "extreme":
            return extreme(scene, inputs[0], argument)
        case "unique":
            if len(inputs[0]) != 1:
                raise Ambiguous(f"{len(inputs[0])} objects fit, not one")
            return inputs[0][0]
        case "exist":
            return len(inputs[0]) > 0
        case "count":
            return len(inputs[0])
        case "query":
            return _query(scene, argument, inputs[0])
        case "verify":
            other = inputs[1] if len(inputs) == 2 else (min(inputs[1:]), max(inputs[1:]))
            value = R.holds(scene, argument["relation"], inputs[0], other, argument.get("frame"))
            if value is None:
                raise Ambiguous("the relation neither holds nor fails beyond doubt")
            return value
        case "same":
            return _query(scene, argument, inputs[0]) == _query(scene, argument, inputs[1])
        case "larger":
            first, second = (scene.objects[i].size for i in inputs)
            return first == "large" and second == "small"
        case "more":
            return inputs[0] > inputs[1]
        case "fewer":
            return inputs[0] < inputs[1]
        case "equal":
            return inputs[0] == inputs[1]
        case "choose":
            return scene.objects[extreme(scene, inputs, argument)].kind
    raise BadInput(f"unknown operation {operation!r} in a program")
