"""Notebook 12. Functional programs about clips: a question as steps that are executed on the clip's frames.

A program is a list of steps as in programs.py:

    find {filters}      the track of the one object with these fields in every frame
    happens             what happens to an object, one of OUTCOMES
    direction           which way it moves, one of FACINGS
    first               which of two objects something happens to first
    why                 one of CAUSES
    hitter / target     what hits an object / what an object hits
    count kinds         objects to which events of these kinds happen
    falls / emerges     whether a ball falls off its table / comes out from behind something
    end field           colour, place or side (of a second object) in the last frame
    exist {filters}     whether such an object is there in the last frame
    forecast outcome    whether a rolling ball will fall, emerge, or hit a second object, from its last frames
    query field         kind or colour of an object
    name                its shortest name

Ambiguous is raised where a movement is below MARGIN, where order or cause is in doubt, and where frames in a strange
order make no sense of the question.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from math import copysign, hypot, inf
from typing import Any

from vlmlab.errors import BadInput
from vlmlab.scenes.clip_events import (
    FLOOR,
    MARGIN,
    PLAIN,
    TABLE,
    Event,
    Floor,
    carried,
    clearance,
    reach,
    seen,
    shifted,
)
from vlmlab.scenes.clips import Clip
from vlmlab.scenes.kinds import KINDS
from vlmlab.scenes.programs import FACINGS, Ambiguous, Program
from vlmlab.scenes.questions import word
from vlmlab.scenes.relations import holds
from vlmlab.scenes.scene import Object

DOES = {
    "moved": "moves", "fell": "falls", "added": "appears", "removed": "disappears", "recoloured": "changes color",
}  # fmt: skip
OUTCOMES = (*(f"it {does}" for does in DOES.values()), "nothing")
CAUSES = ("something hits it", "it moves by itself")
PLACES = ("on the table", "on the floor")
COUNTED = {"move": ("moved", "fell", "rose"), "appear": ("added",), "disappear": ("removed",),
           "change color": ("recoloured",)}  # fmt: skip
COUNTS = ("0", "1", "2")
SHOWING = ("added", "removed", "fell")  # one frame tells on which side of such an event it stands
SURE = 0.05  # units by which a forecast must be clear


def execute(program: Program, clip: Clip) -> bool | int | str:
    """The answer: a bool, a count, or words. Raises Ambiguous when there is none beyond doubt, BadInput for an unknown
    operation."""
    values: list[Any] = []
    for item in program:
        if item["operation"] not in OPERATIONS:
            raise BadInput(f"unknown operation {item['operation']!r} in a clip's program")
        inputs = [values[i] for i in item["dependencies"]]
        values.append(OPERATIONS[item["operation"]](clip, item["argument"], *inputs))
    if not values:
        raise BadInput("an empty program")
    return values[-1]


def single_frame(program: Program, clip: Clip, answer: str) -> bool:
    """Whether some frame alone gives the answer: it must be right in each of three worlds that show this frame.

    In the first it stands still all along; in the second everything in it appears just then and is gone right after; in
    the third something new comes, moves, changes colour and goes between two such frames.
    """

    def worlds(frame: int) -> Iterator[Clip]:
        yield clip.take([frame] * 3)
        states = [track[frame] for track in clip.tracks]
        before, after = (None,) * (frame > 0), (None,) * (frame < len(clip) - 1)
        yield replace(clip, tracks=tuple((*before, s, *after) for s in states), _cache={})
        kind = next(kind for kind in KINDS if kind != "ball" and all(s is None or s.kind != kind for s in states))
        new = Object(kind, "red"), Object(kind, "red", x=1.0, y=1.0), Object(kind, "blue", x=1.0, y=1.0)
        yield replace(clip, tracks=(*((s,) * 5 for s in states), (None, *new, None)), _cache={})

    def says(world: Clip) -> str | None:
        try:
            return word(execute(program, world))
        except Ambiguous:
            return None

    frames = {scene: frame for frame, scene in enumerate(clip.scenes)}.values()  # the last of those that are alike
    return any(all(says(world) == answer for world in worlds(frame)) for frame in frames)


def _of(clip: Clip, k: int) -> list[Event]:
    return [e for e in clip.events if e.object == k]


def _only(clip: Clip, k: int) -> Event:
    """The one thing that happens to an object, in view."""
    events = [e for e in _of(clip, k) if (e.kind, e.value) != ("hidden", "again")]
    if len(events) != 1 or events[0].kind not in DOES or (events[0].kind == "moved" and events[0].pixels < MARGIN):
        raise Ambiguous("it is not one thing that happens, in plain view")
    return events[0]


def _find(clip: Clip, filters: dict[str, str]) -> int:
    fits = {k: [all(getattr(s, f) == v for f, v in filters.items()) for s in track if s is not None]
            for k, track in enumerate(clip.tracks)}  # fmt: skip
    found = [k for k, fit in fits.items() if any(fit)]
    if len(found) != 1 or not all(fits[found[0]]):
        raise Ambiguous(f"{len(found)} objects fit in some frame, not one in all")
    return found[0]


def noun(clip: Clip, k: int) -> tuple[str, dict[str, str]]:
    """The shortest name of an object that fits no other in any frame, and its filters."""
    item = next((s for s in clip.tracks[k] if s is not None), None)
    if item is None:
        raise Ambiguous("an object that is never there")
    for filters in ({"kind": item.kind}, {"colour": item.colour, "kind": item.kind}):
        try:
            if _find(clip, filters) == k:
                return " ".join(filters.values()), filters
        except Ambiguous:
            continue
    raise Ambiguous("no kind and colour name this object in every frame")


def _happens(clip: Clip, _: None, k: int) -> str:
    kinds = {e.kind for e in _of(clip, k)}
    if "fell" in kinds and "rose" not in kinds:
        return "it falls"
    if not kinds and None not in clip.tracks[k]:
        return "nothing"
    return f"it {DOES[_only(clip, k).kind]}"


def _direction(clip: Clip, _: None, k: int) -> str:
    value = _only(clip, k).value
    if value not in FACINGS:
        raise Ambiguous("it goes in no plain direction")
    return value


def _first(clip: Clip, _: None, i: int, j: int) -> int:
    a, b = _only(clip, i), _only(clip, j)
    if a.kind in SHOWING and b.kind in SHOWING:
        raise Ambiguous("a frame between the two shows which is first")
    if a.end > b.begin and b.end > a.begin:
        raise Ambiguous("one begins before the other is over")
    return i if a.end <= b.begin else j


def _why(clip: Clip, _: None, k: int) -> str:
    event = _only(clip, k)
    if event.kind != "moved":
        raise Ambiguous("it does not move along the floor")
    if event.other is not None:
        return CAUSES[0]
    if any(e.object != k and e.begin <= event.begin < e.end for e in clip.events):
        raise Ambiguous("something else happens when it starts")
    return CAUSES[1]


def _hitter(clip: Clip, _: None, k: int) -> int:
    if _why(clip, None, k) != CAUSES[0]:
        raise Ambiguous("nothing hits it")
    return next(e.other for e in _of(clip, k) if e.other is not None)


def _target(clip: Clip, _: None, k: int) -> int:
    found = [e.object for e in clip.events if e.kind == "moved" and e.other == k]
    if len(found) != 1:
        raise Ambiguous(f"it hits {len(found)} objects, not one")
    return found[0]


def _query(clip: Clip, name: str, k: int) -> str:
    values = {getattr(s, name) for s in clip.tracks[k] if s is not None}
    if len(values) != 1:
        raise Ambiguous(f"its {name} changes")
    return values.pop()


def _count(clip: Clip, kinds: Sequence[str]) -> int:
    events = [e for e in clip.events if e.kind in kinds]
    unsure = any(e.kind == "moved" and e.pixels < MARGIN for e in events)
    if unsure or any(e.kind == "hidden" and e.value != "again" for e in clip.events):
        raise Ambiguous("a movement is too small or out of sight")
    return len({e.object for e in events})


def _falls(clip: Clip, _: None, k: int) -> bool:
    kinds = {e.kind for e in _of(clip, k)}
    if "fell" in kinds and "rose" not in kinds:
        return True
    if kinds <= {"moved"} and carried(clip, 0, k) is not None and carried(clip, len(clip) - 1, k) is not None:
        return False
    raise Ambiguous("it does not start on anything that it could fall off")


def _emerges(clip: Clip, _: None, k: int) -> bool:
    found = [e.value for e in _of(clip, k) if e.kind == "hidden" and e.other is not None]
    if len(found) != 1 or found[0] is None:
        raise Ambiguous("it is not plainly hidden, or half in view at the end")
    return found[0] == "again"


def _in_view(clip: Clip, frame: int, k: int) -> float:
    """The share of an object that is seen; only balls go behind anything."""
    index, item = clip.index(frame, k), clip.tracks[k][frame]
    if index is None or item is None:
        return 0.0
    return seen(clip.scenes[frame], index)[0] if item.kind == "ball" else 1.0


def _end(clip: Clip, name: str, k: int, other: int | None = None) -> str:
    item, scene, last = clip.tracks[k][-1], clip.scenes[-1], len(clip) - 1
    if item is None or _in_view(clip, last, k) < PLAIN:
        raise Ambiguous("it is not in view at the end")
    if name == "colour":
        return item.colour
    if name == "place":
        under = carried(clip, last, k)
        if under is None and item.z == 0:
            return PLACES[1]
        if under is not None and _query(clip, "kind", under) == "table":
            return PLACES[0]
        raise Ambiguous("it is neither on a table nor on the floor")
    where = None if other is None else clip.index(last, other)
    left = None if where is None else holds(scene, "left of", clip.index(last, k) or 0, where)
    if left is None:
        raise Ambiguous("it is neither left nor right beyond doubt")
    return "left" if left else "right"


def _exist(clip: Clip, filters: dict[str, str]) -> bool:
    last = len(clip) - 1
    states = [(k, track[-1]) for k, track in enumerate(clip.tracks)]
    found = [k for k, s in states if s is not None and all(getattr(s, f) == v for f, v in filters.items())]
    if any(_in_view(clip, last, k) < PLAIN for k in found):
        raise Ambiguous("it is not in view at the end")
    return bool(found)


def _rolling(clip: Clip, k: int) -> tuple[int, Object, Floor, float]:
    """The last frame that shows an object plainly, its state there, its way, and how far it will roll if left alone."""
    frame = max((t for t in range(len(clip)) if _in_view(clip, t, k) >= PLAIN), default=0)
    a, b, c = clip.tracks[k][frame - 2 : frame + 1] if frame >= 2 else (None,) * 3
    if a is None or b is None or c is None or a.z != c.z:
        raise Ambiguous("its speed is not to be seen")
    brake = FLOOR if carried(clip, frame, k) is None else TABLE
    before, now = hypot(b.x - a.x, b.y - a.y), hypot(c.x - b.x, c.y - b.y)
    speed = now / clip.interval - brake * clip.interval / 2
    if now == 0 or speed <= 0 or abs(before - now - brake * clip.interval**2) > 1e-6:
        raise Ambiguous("it does not simply roll on")
    return frame, c, ((c.x - b.x) / now, (c.y - b.y) / now), speed**2 / (2 * brake)


def _sure(value: float) -> bool:
    if abs(value) < SURE:
        raise Ambiguous("it is too close to call")
    return value > 0


def _forecast(clip: Clip, outcome: str, k: int, other: int | None = None) -> bool:
    frame, item, toward, far = _rolling(clip, k)
    under, last = carried(clip, frame, k), len(clip) - 1
    if (outcome == "fall") != (under is not None):
        raise Ambiguous("it is not where this is to be expected")
    if under is not None and (table := clip.tracks[under][frame]) is not None:
        x, y = table.local(item.x, item.y)
        ways = table.local(table.x + toward[0], table.y + toward[1])
        parts = zip(table.half, (x, y), ways, strict=True)
        return _sure(far - min((copysign(half, way) - place) / way for half, place, way in parts if abs(way) > 1e-9))
    states = {j: s for j, track in enumerate(clip.tracks) if j != k and (s := track[-1]) is not None}
    meets = {j: reach(item, s, toward) for j, s in states.items()}
    if outcome == "emerge":
        index = clip.index(last, k)
        if index is None or _in_view(clip, last, k) > 0 or min(meets.values(), default=inf) <= far:
            raise Ambiguous("it is in view, or something stops it")
        stop = shifted(item, toward, far)
        share, _ = seen(clip.scenes[last].edit(index, x=stop.x, y=stop.y), index)
        if 0 < share < PLAIN:
            raise Ambiguous("it stops half in view")
        return share > 0
    if other not in meets or min((d for j, d in meets.items() if j != other), default=inf) < min(far, meets[other]):
        raise Ambiguous("something else is in its way")
    if meets[other] < inf:
        return _sure(far - meets[other])
    nearest = min(clearance(shifted(item, toward, far * i / 40), states[other]) for i in range(41))
    return not _sure(nearest)


OPERATIONS: dict[str, Callable[..., Any]] = {
    "find": _find, "happens": _happens, "direction": _direction, "first": _first, "why": _why, "hitter": _hitter,
    "target": _target, "count": _count, "falls": _falls, "emerges": _emerges, "end": _end, "exist": _exist,
    "forecast": _forecast, "query": _query, "name": lambda clip, _, k: noun(clip, k)[0],
}  # fmt: skip
