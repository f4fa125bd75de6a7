"""Checks of notebook 15: a pair's lead over chance, the middle of a curve, a failure's tag from its controls, the other
truth, and how many of n are evidence. The form of a hunt has its check in hunts.py."""

from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from typing import Any

import numpy as np

from vlmlab.benchmarks.statistics import Z95, wilson
from vlmlab.checks.base import Case, Mistake, Verdict, run_check
from vlmlab.checks.hunts import OPEN, RIGHT, Controls, Finding, beyond, diagnosed, hunt
from vlmlab.scenes import Camera, Object, Scene
from vlmlab.widgets import edits
from vlmlab.widgets.asking import Question, ask

__all__ = ["Controls", "Finding", "beyond", "diagnosed", "flipped", "hunt", "least", "middle", "pair_lead", "tag_of"]


# ---------------------------------------------------------------- 1 · a pair's lead over chance
Pairs = list[tuple[bool, bool]]


def pair_lead(answer: Any) -> Verdict:
    """Exercise 1: the share of pairs with both answers right, less that of a guesser among `options` answers."""

    def lead(rule: Callable[[bool, bool], float], chance: Callable[[int], float]) -> Callable[[Pairs, int], float]:
        return lambda pairs, options: sum(rule(a, b) for a, b in pairs) / len(pairs) - chance(options)

    def squared(options: int) -> float:
        return 1 / options**2

    def both(a: bool, b: bool) -> float:
        return a and b

    pairs = [(True, True), (True, False), (False, True), (True, True), (False, False), (True, False), (True, True)]
    return run_check(
        "pair_lead",
        answer,
        lead(both, squared),
        [Case((pairs, 2), "seven pairs of yes or no"), Case((pairs[1:5], 8), "four pairs with eight colours"),
         Case((pairs[2:3] + pairs[4:], 3), "four pairs with three answers")],
        [
            Mistake("no chance", "chance was not subtracted", lead(both, lambda options: 0.0)),
            Mistake("chance of one answer", "1 / options is a guess of one answer; both of a pair are guessed right "
                    "less often", lead(both, lambda options: 1 / options)),
            Mistake("single answers", "single answers were counted; a pair counts only if both are right",
                    lead(lambda a, b: (a + b) / 2, lambda options: 1 / options)),
            Mistake("single answers", "single answers were counted; a pair counts only if both are right",
                    lead(lambda a, b: (a + b) / 2, squared)),
            Mistake("one is enough", "pairs with one right answer were counted; both must be right",
                    lead(lambda a, b: a or b, squared)),
            Mistake("alike", "pairs that are wrong twice were counted too: consistent is not right",
                    lead(lambda a, b: a == b, squared)),
            Mistake("per cent", "give a fraction, not per cent",
                    lambda pairs, options: 100 * lead(both, squared)(pairs, options)),
        ],
        done="right, and a constant answer to a twin whose truth flips has a negative lead",
    )  # fmt: skip


# ---------------------------------------------------------------- 2 · the middle of a curve
def _line(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    slope, start = np.polyfit(x, y, 1)
    return float(slope), float(start)


def middle(answer: Any) -> Verdict:
    """Exercise 2: where the line through log odds crosses 0; None for probabilities that are all the same."""

    def crossing(x: np.ndarray, p: np.ndarray) -> float:
        slope, start = _line(x, np.log(p / (1 - p)))
        return -start / slope

    def on(x: np.ndarray, slope: float, at: float) -> np.ndarray:
        return 1 / (1 + np.exp(-slope * (x - at)))

    def straight(x: np.ndarray, p: np.ndarray) -> float:
        slope, start = _line(x, p)
        return (0.5 - start) / slope

    def of_logs(x: np.ndarray, p: np.ndarray) -> float:
        slope, start = _line(x, np.log(p))
        return (np.log(0.5) - start) / slope

    def like(wrong: Callable[[np.ndarray, np.ndarray], float]) -> Callable[..., bool]:
        return lambda got, expected, x, p: expected is None or abs(got - wrong(x, p)) < 1e-6

    three, many = np.array([-1.0, 0.0, 1.5]), np.linspace(-1.2, 1.4, 7)
    uneven = np.array([0.05, 0.30, 0.22, 0.6, 0.9])
    cases = [
        Case((three, on(three, 2.0, 0.4)), "three points of a curve"),
        Case((many, on(many, -1.5, 0.3)), "a falling curve"),
        Case((np.linspace(-1, 1, 5), uneven), "points beside a curve"),
        Case((three, np.full(3, 0.6)), "a model that does not look"),
    ]
    return run_check(
        "middle",
        answer,
        lambda x, p: None if np.ptp(p) < 1e-9 else crossing(x, p),
        cases,
        [
            Mistake("no middle", "where all probabilities are alike there is no middle: return None",
                    fits=lambda got, expected, x, p: got is not None if expected is None else
                    abs(got - expected) < 1e-6),
            Mistake("line through P", "a straight line went through P; take log(p / (1 - p)) first",
                    fits=like(straight)),
            Mistake("log of P", "that is the line through log(p); log odds are log(p / (1 - p))", fits=like(of_logs)),
            Mistake("sign", "the sign is turned: a + b x = 0 at x = -a / b", fits=like(lambda x, p: -crossing(x, p))),
            Mistake("start", "that is the line's height at x = 0; find where it crosses 0",
                    fits=like(lambda x, p: _line(x, np.log(p / (1 - p)))[1])),
            Mistake("slope", "that is the slope; find where the line crosses 0",
                    fits=like(lambda x, p: _line(x, np.log(p / (1 - p)))[0])),
            Mistake("nearest point", "that is the point nearest to one half; the curve crosses between points",
                    fits=like(lambda x, p: x[np.abs(p - 0.5).argmin()])),
        ],
        done="right, and without a slope there is none",
    )  # fmt: skip


# ---------------------------------------------------------------- 3 · the tag of a failure
YES_NO = Controls("no", "yes", "yes", "yes", "no", "yes", "no", True)
TABLE = [
    Case((YES_NO._replace(says="no"),), "the words right, the scorer wrong"),
    Case((YES_NO._replace(says="no", scored="no"),), "a right answer"),
    Case((YES_NO._replace(seen=False, blank="yes", twin="yes"),), "something that it does not see"),
    Case((YES_NO._replace(blank="yes", twin="yes"),), "the same answer whatever it is shown"),
    Case((YES_NO._replace(blank="yes", seen=None),), "the same without a picture, another for the twin"),
    Case((YES_NO._replace(twin="yes"),), "the same without words about a picture, another for a blank one"),
    Case((YES_NO._replace(blank="yes", text_only="no", twin="yes"),), "the same for grey, another for text"),
    Case((YES_NO._replace(own_frame="yes", turned="no"),), "an answer that turns with the object"),
    Case((YES_NO._replace(own_frame="yes", turned="yes"),), "an answer that stays when the object turns"),
    Case((YES_NO._replace(own_frame="no", turned="no"),), "right in neither frame"),
    Case((Controls("red", "blue", "blue", "blue", "black", "white", "red", True, ("blue", "green")),),
         "the other object's colour"),
    Case((Controls("red", "blue", "green", "green", "black", "white", "red", True, ("blue",)),), "a third colour"),
    Case((Controls("red", "blue", "blue", "blue", "black", "white", "red", False, ("blue",)),),
         "the other object's colour, its own not seen"),
]  # fmt: skip


def _changed(**fixed: Any) -> Callable[[Controls], str]:
    """The tree, told something else about every failure: what a student does who leaves out a control."""
    return lambda c: diagnosed(c._replace(**{name: value(c) for name, value in fixed.items()}))


def _prior_first(c: Controls) -> str:
    return "prior" if c.says == c.blank == c.text_only == c.twin else diagnosed(c)


def tag_of(answer: Any) -> Verdict:
    """Exercise 3: the tag of a failure, from its controls."""

    def without_parser(c: Controls) -> str:
        return RIGHT if c.says == c.truth else diagnosed(c)

    def rest_unseen(c: Controls) -> str:
        return "perception" if diagnosed(c) == OPEN else diagnosed(c)

    def wrong_is_wrong(c: Controls) -> str:
        return diagnosed(c._replace(truth="" if c.says == c.truth else c.truth, scored=c.says))

    return run_check(
        "tag_of",
        answer,
        diagnosed,
        TABLE,
        [
            Mistake("scorer not asked", "right words can be scored wrong: that is the parser", without_parser),
            Mistake("right words", "an answer that is right as words is no failure of the model", wrong_is_wrong),
            Mistake("prior first", "what is not seen is answered by habit too: ask whether it is seen first",
                    _prior_first),
            Mistake("no twin", "a prior must also hold for the twin; one more control says so",
                    _changed(twin=lambda c: c.says)),
            Mistake("blank only", "a blank picture is a picture; a prior must hold for text only as well",
                    _changed(text_only=lambda c: c.says)),
            Mistake("text only", "a prior must hold for the blank picture as well as for text only",
                    _changed(blank=lambda c: c.says)),
            Mistake("not turned", "every wrong yes or no is right in some frame; turn the object before you say so",
                    _changed(turned=lambda c: c.truth)),
            Mistake("seen nevertheless", "a model that does not see the object itself has nothing to bind: perception",
                    _changed(seen=lambda c: True)),
            Mistake("not asked is unseen", "seen is None where nobody asked; only False means that it does not see",
                    _changed(seen=lambda c: bool(c.seen))),
            Mistake("the rest is perception", 'where no control tells, say "open": it is no proof of perception',
                    rest_unseen),
        ],
        done="right, the first question that fits",
    )  # fmt: skip


# ---------------------------------------------------------------- 4 · a scene with the other truth
ASKED = (
    ("a scene", "no scene", "return a Scene, as edits.move and scene.edit do"),
    ("the same room", "room", "camera, light or room changed; a mirrored scene turns them as well"),
    ("the same others", "others", "another object changed; move the question's subject alone"),
    ("the same look", "look", "the subject's look, size or heading changed; move it and nothing else"),
    ("a truth", "ambiguous", "nobody should be asked there; move it further"),
    ("another truth", "not flipped", "the truth is still the same"),
    ("room for it", "refused", "the probe refuses that place: in something, in the wall or out of the picture"),
)


def _rooms() -> dict[str, tuple[Scene, Question]]:
    near = (Object("car", "red", x=-0.9, y=-0.3), Object("mug", "blue", x=0.9, y=-0.6))
    deep = (Object("dog", "black", x=0.3, y=-1.0, yaw=40.0), Object("chair", "white", x=-0.6, y=0.9),
            Object("ball", "green", "small", x=1.2, y=0.2))  # fmt: skip
    tight = (Object("sofa", "red", x=0.9, y=0.9), Object("plant", "blue", x=-0.1, y=-0.3),
             Object("table", "white", x=-1.0, y=0.9))  # fmt: skip
    return {
        "a car left of a mug": (Scene(near, Camera()), Question()),
        "a dog in front of a chair": (Scene(deep, Camera(azimuth=15.0)), Question(relation="in front of")),
        "a sofa that has little room": (Scene(tight, Camera()), Question(relation="right of")),
    }


def flipped(answer: Any) -> Verdict:
    """Exercise 4: (scene, question) -> the scene with the question's subject moved so that the truth is the other."""
    run = answer
    if callable(answer):

        @wraps(answer)
        def run() -> Any:
            found = {name: answer(*given) for name, given in _rooms().items()}
            if all(scene is None or scene is ... for scene in found.values()):
                return None
            faults = {name: _fault(*_rooms()[name], scene) for name, scene in found.items()}
            return {what: next((name for name, fault in faults.items() if fault == what), "") for what, _, _ in ASKED}

    def lacks(what: str) -> Callable[..., bool]:
        return lambda got, *_: bool(got[what])

    return run_check(
        "flipped",
        run,
        lambda: {what: "" for what, _, _ in ASKED},
        [()],
        [Mistake(name, hint, fits=lacks(what)) for what, name, hint in ASKED],
        done="right, one object moved and nothing else, so that what changes in the answer is due to it",
    )


def _fault(scene: Scene, question: Question, found: Any) -> str:
    """Which of ASKED a scene lacks first; "" where it has all."""
    if not isinstance(found, Scene) or len(found.objects) != len(scene.objects):
        return "a scene" if not isinstance(found, Scene) else "the same others"
    if any(getattr(found, name) != getattr(scene, name) for name in ("camera", "light", "floor", "wall", "mirror")):
        return "the same room"
    index = question.subject
    before, after = scene.objects[index], found.objects[index]
    if any(a != b for i, (a, b) in enumerate(zip(scene.objects, found.objects, strict=True)) if i != index):
        return "the same others"
    if replace(after, x=before.x, y=before.y, z=before.z) != before:
        return "the same look"
    first, second = ask(scene, question).truth, ask(found, question).truth
    if second is None or second == first:
        return "a truth" if second is None else "another truth"
    try:
        allowed = edits.move(scene, index, after.x, after.y)
    except edits.Refused:
        return "room for it"
    return "" if allowed.objects == found.objects else "room for it"


# ---------------------------------------------------------------- 5 · how many of n
def least(answer: Any) -> Verdict:
    """Exercise 5: the smallest count of n that exceeds a share beyond doubt; None where not even n of n does."""

    def first(rule: Callable[[int, int, float], bool], start: int = 0) -> Callable[[int, float], int | None]:
        return lambda n, level: next((k for k in range(start, n + 1) if rule(k, n, level)), None)

    def normal(k: int, n: int, level: float) -> bool:
        return k / n - Z95 * (k / n * (1 - k / n) / n) ** 0.5 > level

    def never_none(n: int, level: float) -> int:
        found = first(beyond)(n, level)
        return n if found is None else found

    return run_check(
        "least",
        answer,
        first(beyond),
        [Case((10, 0.5), "10 answers against one half"), Case((8, 0.25), "8 pairs against a quarter"),
         Case((3, 0.5), "3 answers against one half"), Case((60, 0.125), "60 answers against an eighth")],
        [
            Mistake("no interval", "the share itself was compared; the interval's lower end must exceed the level",
                    first(lambda k, n, level: k / n > level)),
            Mistake("upper end", "the upper end was compared; the lower end must exceed the level",
                    first(lambda k, n, level: wilson(k, n)[1] > level)),
            Mistake("one standard error", "one standard error was taken; a 95 % interval reaches 1.96 of them",
                    first(lambda k, n, level: wilson(k, n, 1.0)[0] > level)),
            Mistake("one-sided", "1.64 bounds one side with 95 %; Wilson's interval has 1.96",
                    first(lambda k, n, level: wilson(k, n, 1.6448536)[0] > level)),
            Mistake("plus or minus", "p - 1.96 s is too narrow near 0 and 1: n of n would always do; take Wilson's",
                    first(normal)),
            Mistake("never None", "where not even n of n is enough, return None", never_none),
            Mistake("one more", "that is one more than needed; count from 0 and stop at the first that does",
                    lambda n, level: None if (k := first(beyond)(n, level)) is None else k + 1),
            Mistake("a share", "return a count, not a share",
                    lambda n, level: None if (k := first(beyond)(n, level)) is None else k / n),
        ],
        done="right, and sometimes n is too small for any result",
    )  # fmt: skip
