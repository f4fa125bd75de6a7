"""Checks of notebook 00: left of with a margin, a program, the mirror twin's boxes, an interval, fooling the model."""

from collections.abc import Callable
from functools import wraps
from math import sqrt
from typing import Any

from vlmlab.benchmarks.statistics import Z95, wilson
from vlmlab.checks.base import Case, Mistake, Verdict, raised, run_check
from vlmlab.scenes import Camera, Object, Scene, sample
from vlmlab.scenes.programs import Program, execute, step
from vlmlab.scenes.relations import LEFT

Box = tuple[float, float, float, float]


# ---------------------------------------------------------------- 1 · left of, with a margin
def _pair(azimuth: float, first: tuple[float, float], second: tuple[float, float]) -> Scene:
    """A red cat and a blue sofa seen from one side."""
    cat, sofa = Object("cat", "red", x=first[0], y=first[1]), Object("sofa", "blue", x=second[0], y=second[1])
    return Scene((cat, sofa), Camera(azimuth=azimuth))


def _left_of(scene: Scene, a: int, b: int) -> bool | None:
    shift = float(scene.geometry.u[b] - scene.geometry.u[a])
    return None if abs(shift) < LEFT else shift > 0


def _by_world(got: Any, want: Any, scene: Scene, a: int, b: int) -> bool:
    return got is None or got is (scene.objects[a].x < scene.objects[b].x)


def left_of(answer: Any) -> Verdict:
    """Exercise 1: does a stand left of b in the picture? True, False, or None where it is too close to call."""
    turned = _pair(25, (0.5, -1.2), (0.1, 1.4))  # right in the world and left in the picture
    return run_check(
        "left_of",
        answer,
        _left_of,
        [
            Case((_pair(0, (-1.0, 0.0), (1.0, 0.0)), 0, 1), "a cat well left of a sofa"),
            Case((_pair(0, (-1.0, 0.0), (1.0, 0.0)), 1, 0), "the same pair the other way round"),
            Case((turned, 0, 1), "a pair seen from the side"),
            Case((turned, 1, 0), "a pair seen from the side"),
            Case((_pair(0, (0.1, 1.0), (0.0, -1.0)), 0, 1), "a pair that is too close to call"),
            Case((_pair(0, (0.0, -1.0), (0.1, 1.0)), 0, 1), "a pair that is too close to call"),
        ],
        [
            Mistake(
                "sides exchanged",
                "left and right are exchanged; u grows from left to right, so a smaller u is further left",
                lambda scene, a, b: _left_of(scene, b, a),
            ),
            Mistake(
                "never refuses",
                f"it always decides; return None where the two are less than {LEFT} of the picture's width apart",
                lambda scene, a, b: bool(scene.geometry.u[a] < scene.geometry.u[b]),
            ),
            Mistake(
                "no instead of a refusal",
                "a pair that is too close to call gets False; it needs None, since nobody should be asked about it",
                lambda scene, a, b: _left_of(scene, a, b) is True,
            ),
            Mistake(
                "world coordinates",
                "it compares the world's x; the camera may stand to one side, so compare places in the picture, "
                "scene.geometry.u",
                fits=_by_world,
            ),
        ],
        done="right, and it refuses what is too close to call",
    )


# ---------------------------------------------------------------- 2 · a program
def _behind(
    colour: str, kind: str, *, relation: str = "behind", source: int = 2, related: bool = True, last: str = "exist"
) -> Program:
    if not related:
        return [step("select", {"colour": colour}), step(last, None, 0)]
    return [
        step("select", {"kind": kind}),
        step("unique", None, 0),
        step("relate", {"relation": relation, "frame": "viewer"}, 1),
        step("filter", {"colour": colour}, source),
        step(last, None, 3),
    ]


def _three(*rows: tuple[str, str, float, float]) -> Scene:
    return Scene(tuple(Object(kind, colour, x=x, y=y) for kind, colour, x, y in rows))


def _executed(program: Callable[[str, str], Any]) -> Callable[[Scene, str, str], Any]:
    """A function that runs the program on a scene."""

    @wraps(program)
    def run(scene: Scene, colour: str, kind: str) -> Any:
        steps = program(colour, kind)
        return None if steps is None or steps is ... else execute(steps, scene)

    return run


def behind_program(answer: Any) -> Verdict:
    """Exercise 2: the program of "Is there a {colour} object behind the {kind}?"."""
    first = _three(("sofa", "blue", 0.0, 0.0), ("cat", "red", -0.8, 1.3), ("ball", "green", 1.0, -1.2))
    second = _three(("table", "red", 0.0, 0.0), ("dog", "red", 1.0, -1.2), ("lamp", "blue", -1.0, 1.2))
    third = _three(("chair", "green", 0.0, -1.2), ("mug", "white", 1.0, 0.6), ("plant", "white", -1.0, 1.0))

    def made(**changes: Any) -> Callable[[Scene, str, str], Any]:
        return _executed(lambda colour, kind: _behind(colour, kind, **changes))

    return run_check(
        "behind_program",
        _executed(answer) if callable(answer) else answer,
        made(),
        [
            Case((first, "red", "sofa"), "a red cat behind the sofa"),
            Case((first, "green", "sofa"), "a green ball in front of the sofa"),
            Case((second, "red", "table"), "a red table with a red dog in front of it"),
            Case((second, "blue", "table"), "a blue lamp behind the table"),
            Case((third, "white", "chair"), "two white objects behind the chair"),
        ],
        [
            Mistake(
                "no relation",
                "it asks whether the colour is anywhere in the picture; relate to the one object first",
                made(related=False),
            ),
            Mistake(
                "wrong direction",
                'it looks in front of the object; the step "relate" gives what stands in the relation to it',
                made(relation="in front of"),
            ),
            Mistake(
                "count for exist", "the last step counts; the question asks whether there is any", made(last="count")
            ),
            Mistake(
                "filters the anchor",
                'the step "filter" takes the objects of step 0; it should take those of the step "relate"',
                made(source=0),
            ),
        ],
        done="right on every scene",
    )


# ---------------------------------------------------------------- 3 · a box in the mirror
def _mirror_box(box: Box, width: int) -> Box:
    x1, y1, x2, y2 = box
    return (width - x2, y1, width - x1, y2)


def mirror_box(answer: Any) -> Verdict:
    """Exercise 3: an object's box in the mirror twin's picture."""
    return run_check(
        "mirror_box",
        answer,
        _mirror_box,
        [
            Case(((10.0, 20.0, 30.0, 60.0), 96), "a box on the left of a picture of 96 px"),
            Case(((0.0, 5.0, 96.0, 50.0), 96), "a box as wide as the picture"),
            Case(((40.0, 0.0, 41.0, 8.0), 48), "a box one pixel wide"),
        ],
        [
            Mistake(
                "corners not exchanged",
                "x1 is now right of x2: the left edge becomes the right edge, so exchange the two",
                lambda box, w: (w - box[0], box[1], w - box[2], box[3]),
            ),
            Mistake(
                "off by one",
                "it is one pixel off: x2 is the edge behind the last pixel, so an edge at x goes to width - x",
                lambda box, w: (w - 1 - box[2], box[1], w - 1 - box[0], box[3]),
            ),
            Mistake(
                "upside down",
                "it turns the picture upside down; a mirror exchanges left and right, y stays",
                lambda box, w: (box[0], w - box[3], box[2], w - box[1]),
            ),
            Mistake("unchanged", "it gives the box back as it was", lambda box, w: box),
        ],
    )


# ---------------------------------------------------------------- 4 · an interval
def _normal(right: int, n: int, *, error: Callable[[float, int], float] | None = None) -> tuple[float, float]:
    p = right / n
    half = Z95 * (error(p, n) if error else sqrt(p * (1 - p) / n))
    return p - half, p + half


def _clipped(pair: tuple[float, float]) -> tuple[float, float]:
    return max(0.0, pair[0]), min(1.0, pair[1])


def _wilson_with(right: int, n: int, z: float) -> tuple[float, float]:
    p, zz = right / n, z * z
    middle, half = p + zz / (2 * n), z * sqrt(p * (1 - p) / n + zz / (4 * n * n))
    return (middle - half) / (1 + zz / n), (middle + half) / (1 + zz / n)


def _no_shrink(right: int, n: int) -> tuple[float, float]:
    p, zz = right / n, Z95 * Z95
    half = Z95 * sqrt(p * (1 - p) / n + zz / (4 * n * n)) / (1 + zz / n)
    return p - half, p + half


def interval(answer: Any) -> Verdict:
    """Exercise 4: the 95 % Wilson interval of a proportion, as a pair (low, high)."""
    return run_check(
        "interval",
        answer,
        wilson,
        [
            Case((90, 100), "90 of 100"),
            Case((19, 20), "19 of 20"),
            Case((3, 10), "3 of 10"),
            Case((10, 10), "10 of 10"),
        ],
        [
            Mistake(
                "normal interval",
                "this is the textbook interval p plus or minus 1.96 s, which is empty at p = 1; use Wilson's formula",
                fits=lambda got, want, *case: _close(got, _normal(*case)) or _close(got, _clipped(_normal(*case))),
            ),
            Mistake(
                "percent",
                "these are percentages; give fractions between 0 and 1",
                lambda *case: tuple(100 * v for v in wilson(*case)),
            ),
            Mistake(
                "middle not moved",
                "it is centred on p; Wilson's interval is centred on (p + z²/2n) / (1 + z²/n)",
                fits=lambda got, want, *case: (
                    _close(got, _no_shrink(*case)) or _close(got, _clipped(_no_shrink(*case)))
                ),
            ),
            Mistake(
                "90 % interval",
                "this is the 90 % interval (z = 1.645); for 95 % take z = 1.96",
                fits=lambda got, want, *case: _close(got, _clipped(_wilson_with(case[0], case[1], 1.6449))),
            ),
            Mistake("width", "it should return the two ends, low and high", fits=_is_number),
        ],
        done="right; also where every answer was right",
        tolerance=1e-3,
    )


def _close(got: Any, pair: tuple[float, float]) -> bool:
    return len(got) == 2 and all(abs(float(a) - b) < 1e-3 for a, b in zip(got, pair, strict=True))


def _is_number(got: Any, want: Any, *case: Any) -> bool:
    return isinstance(got, int | float)


# ---------------------------------------------------------------- 5 · fool the model
def fooled(answer: Any, ask: Callable[[Any, str], str], split: str = "test", count: int = 12) -> Verdict:
    """Exercise 5: (seed, number) of a question that the model gets wrong.

    Args: answer, the pair; ask, a function of a picture and a question that gives the model's text; split and count,
    which questions are meant: `sample(seed, split=split).questions(count=count)[number]`.
    """
    from vlmlab.benchmarks.held_out import is_right

    if answer is None or answer is ...:
        return _say(False, "fooled: nothing here yet; replace the ... with (seed, number of the question)", "not begun")
    if not (isinstance(answer, tuple | list) and len(answer) == 2 and all(type(value) is int for value in answer)):
        return _say(False, f"fooled: give a pair of whole numbers (seed, number), not {answer!r}", "type")
    seed, number = answer
    if seed < 0:
        return _say(False, f"fooled: a seed is 0 or more, got {seed}", "no such scene")
    scene = sample(seed, split=split)
    asked = scene.questions(count=count)
    if not 0 <= number < len(asked):
        message = f"fooled: scene {seed} has questions 0 to {len(asked) - 1}, there is no number {number}"
        return _say(False, message, "no such question")
    question = asked[number]
    try:
        said = ask(scene.render().rgb, question.text)
    except Exception as error:  # `ask` may be the student's own
        return _say(False, f"fooled {raised(error, ask)}", "exception")
    if is_right(said, question.answer, "sentence"):
        message = f'fooled: "{question.text}" it says "{said}", and that is right; try another'
        return _say(False, message, "the model is right")
    return _say(True, f'fooled: "{question.text}" it says "{said}", the truth is {question.answer}', None)


def _say(ok: bool, message: str, mistake: str | None) -> Verdict:
    verdict = Verdict(ok, message, mistake)
    print(verdict)
    return verdict
