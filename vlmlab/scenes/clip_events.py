"""Notebook 12. How things move in a clip, by simple exact mechanics, and the events that a clip's tracks show.

A scene unit is about a metre (the large table is 0.68 high); times are in seconds, speeds in units a second.

    brake     s(t) = v t - b t²/2 until t = v / b, so v² / 2b in all; b = 1 on a table, 3 on the floor
    fall      z(t) = h - g t²/2 for sqrt(2h / g), g = 9.81; the speed along the floor is kept, landing has no bounce
    leave     a ball of radius r never touches the edge that it rolls over if v² >= g r there
    hit       m v = m v' + M V' and V' - v' = e v, e = 0.5, masses as the volumes of the bounding boxes
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import pairwise
from math import copysign, hypot, inf, pi, radians, sqrt, tan
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vlmlab.errors import BadInput
from vlmlab.scenes.geometry import CONTACT, stands
from vlmlab.scenes.scene import Object, Scene, footprint_gap

if TYPE_CHECKING:
    from vlmlab.scenes.clips import Clip

GRAVITY, TABLE, FLOOR, RESTITUTION = 9.81, 1.0, 3.0, 0.5
SIZE = 96  # pixels a side that margins are meant for
MARGIN = 6.0  # pixels that a movement needs for somebody to be asked about it
PLAIN = 0.5  # share of a ball that must be seen where it is said to be in view

Floor = tuple[float, float]  # a vector along the floor


class Motion(NamedTuple):
    """One object's part in an act: its state (None: not there) `t` seconds after the act began, 0 <= t <= seconds."""

    seconds: float
    at: Callable[[float], Object | None]


def shifted(item: Object, toward: Floor, far: float, z: float | None = None) -> Object:
    """`item` moved `far` units along the unit vector `toward`, to height `z` if given."""
    return replace(item, x=item.x + far * toward[0], y=item.y + far * toward[1], z=item.z if z is None else z)


def braked(speed: float, brake: float, t: float) -> float:
    """Units covered in `t` seconds from `speed` at a constant deceleration `brake`; a stopped body stays."""
    t = min(t, speed / brake)
    return speed * t - brake * t * t / 2


def roll(item: Object, toward: Floor, speed: float, brake: float = FLOOR) -> Motion:
    """`item` brakes from `speed` until it stops."""
    return Motion(speed / brake, lambda t: shifted(item, toward, braked(speed, brake, t)))


def roll_off(ball: Object, toward: Floor, speed: float, edge: float) -> Motion:
    """A ball brakes on a table, leaves its edge `edge` units on, falls, and brakes on the floor.

    Raises BadInput when it is too slow to leave the edge without touching it again.
    """
    square = speed**2 - 2 * TABLE * edge
    if square < GRAVITY * ball.half[0]:
        raise BadInput(f"a ball at {speed:.2f} units/s does not clear an edge {edge:.2f} units on; give it more speed")
    leaving = sqrt(square)
    leaves = (speed - leaving) / TABLE
    lands = leaves + sqrt(2 * ball.z / GRAVITY)
    landing = edge + leaving * (lands - leaves)

    def at(t: float) -> Object:
        if t <= leaves:
            return shifted(ball, toward, braked(speed, TABLE, t))
        if t < lands:
            return shifted(ball, toward, edge + leaving * (t - leaves), ball.z - GRAVITY * (t - leaves) ** 2 / 2)
        return shifted(ball, toward, landing + braked(leaving, FLOOR, t - lands), 0.0)

    return Motion(lands + leaving / FLOOR, at)


def strike(ball: Object, target: Object, toward: Floor, speed: float) -> tuple[Motion, Motion]:
    """A ball rolls into a target straight ahead, which then slides; `speed` is the ball's when they meet."""
    gap = reach(ball, target, toward)
    start = sqrt(speed**2 + 2 * FLOOR * gap)
    meets = (start - speed) / FLOOR
    m, other = mass(ball), mass(target)
    after = (m - RESTITUTION * other) / (m + other) * speed  # negative: it rolls back
    given = (1 + RESTITUTION) * m / (m + other) * speed

    def ball_at(t: float) -> Object:
        back = copysign(braked(abs(after), FLOOR, max(t - meets, 0.0)), after)
        return shifted(ball, toward, braked(start, FLOOR, t) if t <= meets else gap + back)

    seconds = meets + max(abs(after), given) / FLOOR
    return (
        Motion(seconds, ball_at),
        Motion(seconds, lambda t: shifted(target, toward, braked(given, FLOOR, max(t - meets, 0.0)))),
    )


def mass(item: Object) -> float:
    """Mass: the volume of the bounding box (all kinds are equally dense)."""
    return 4 * item.half[0] * item.half[1] * item.height


def clearance(a: Object, b: Object) -> float:
    """Distance between two bodies, at most 0 where they meet: balls are spheres, all else fills its bounding box."""
    if b.kind == "ball":
        a, b = b, a
    if a.kind != "ball":
        return hypot(footprint_gap(a, b), max(b.z - a.top, a.z - b.top, 0.0))
    r, z = a.half[0], a.z + a.half[0]
    if b.kind == "ball":
        return hypot(a.x - b.x, a.y - b.y, z - b.z - b.half[0]) - r - b.half[0]
    x, y = b.local(a.x, a.y)
    hx, hy = b.half
    return hypot(max(abs(x) - hx, 0.0), max(abs(y) - hy, 0.0), max(b.z - z, z - b.top, 0.0)) - r


def reach(ball: Object, other: Object, toward: Floor) -> float:
    """Units that a ball can roll along `toward` until it meets `other`; inf when it passes by."""
    low, high = 0.0, 8.0
    for _ in range(80):  # the clearance is convex along a line: thirds find where it is least
        a, b = (2 * low + high) / 3, (low + 2 * high) / 3
        nearer = clearance(shifted(ball, toward, a), other) <= clearance(shifted(ball, toward, b), other)
        low, high = (low, b) if nearer else (a, high)
    if clearance(shifted(ball, toward, high), other) > 0:
        return inf
    low = 0.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if clearance(shifted(ball, toward, middle), other) > 0 else (low, middle)
    return low


def carrier(item: Object, others: Sequence[Object | None]) -> int | None:
    """Which of `others` carries `item`: on or in it, anywhere over its footprint; None on the floor and in the air."""
    for index, other in enumerate(others):
        if other is None:
            continue
        x, y = other.local(item.x, item.y)
        if abs(x) > other.half[0] + 1e-9 or abs(y) > other.half[1] + 1e-9:
            continue
        for place in (other.place("on"), other.place("inside")):
            if place is not None and abs(item.z - other.z - place.z) <= CONTACT:
                return index
    return None


def apart(a: Object, b: Object, least: float = 0.0) -> bool:
    """Whether two bodies keep a distance of `least`, or one stands on, in or under the other; balls may touch."""
    touch = 1e-6 if "ball" in (a.kind, b.kind) else 0.0
    carries = carrier(a, [b]) is not None or carrier(b, [a]) is not None
    return carries or clearance(a, b) > least - touch or stands(a, "under", b) or stands(b, "under", a)


class Event(NamedTuple):
    """Something that happens to `object` (an index into clip.tracks).

    kind: "moved", "fell" (off what carried it), "rose" (falling played backwards), "added", "removed", "recoloured" or
    "hidden". begin: the last frame before any of it is seen, of "hidden" the last that shows the ball; end: the first
    frame in which it is over.
    value: of "moved" and "fell" the way as FACINGS says it, None where it is none beyond doubt; of "recoloured" the new
    colour; of "hidden" "again" or "stays", None where the ball is half in view at the end.
    other: of "fell" the carrier, of "moved" what hit it, of "hidden" what it is behind. pixels: how far its middle gets
    in the picture, at 96 pixels.
    """

    kind: str
    object: int
    begin: int
    end: int
    value: str | None = None
    other: int | None = None
    pixels: float = 0.0


def observe(clip: "Clip") -> tuple[Event, ...]:
    """The events that the tracks show, in the order in which they begin."""
    found: list[Event] = []
    for k, track in enumerate(clip.tracks):
        for t, (a, b) in enumerate(pairwise(track)):
            if (a is None) != (b is None):
                found.append(Event("added" if a is None else "removed", k, t, t + 1))
            elif a is not None and b is not None and a.colour != b.colour:
                found.append(Event("recoloured", k, t, t + 1, b.colour))
        moves = [_moved(clip, k, begin, end) for begin, end in _runs(track)]
        aloft = [t for t in range(len(clip)) if in_air(clip, t, k)]
        if aloft and not moves:
            moves = [Event("fell", k, aloft[0], aloft[-1])]
        hidden = _hidden(clip, k) if moves and track[0] is not None and track[0].kind == "ball" else None
        found += [*moves, *([hidden] if hidden else [])]
    found = [_with_hitter(clip, e, found) if e.kind == "moved" else e for e in found]
    return tuple(sorted(found, key=lambda e: (e.begin, e.end, e.object, e.kind)))


def _runs(track: Sequence[Object | None]) -> list[tuple[int, int]]:
    """First and last frame of each stretch in which an object is in another place in every frame."""
    steps = [a is not None and b is not None and (a.x, a.y, a.z) != (b.x, b.y, b.z) for a, b in pairwise(track)]
    begins = [t for t, moves in enumerate(steps) if moves and not (t and steps[t - 1])]
    return [(t, next((e for e in range(t, len(steps)) if not steps[e]), len(steps))) for t in begins]


def _moved(clip: "Clip", k: int, begin: int, end: int) -> Event:
    path = [item for item in clip.tracks[k][begin : end + 1] if item is not None]
    camera, g = clip.room.camera, clip.room.geometry
    places = camera.project(np.array([(i.x, i.y, i.z + i.height / 2) for i in path]))[:, :2] * SIZE
    pixels = float(np.linalg.norm(places - places[0], axis=1).max())
    if any(b.z > a.z for a, b in pairwise(path)):
        return Event("rose", k, begin, end, pixels=pixels)
    feet = np.array([(i.x, i.y, 0.0) for i in path])
    whole, steps = (feet[-1] - feet[0])[:2], np.diff(feet[:, :2], axis=0)
    left, up = np.abs(np.diff(camera.project(feet[[0, -1]])[:, :2], axis=0)[0]) * SIZE
    across, away = float(whole @ g.right), float(whole @ g.forward)
    value = None
    if (steps @ whole > 0).all():  # straight on, never back
        if left >= MARGIN and abs(across) >= 2 * abs(away):
            value = "right" if across > 0 else "left"
        elif up >= MARGIN and abs(away) >= 2 * abs(across):
            value = "away from the camera" if away > 0 else "towards the camera"
    fell = path[0].z - path[-1].z > CONTACT or any(in_air(clip, t, k) for t in range(begin, end + 1))
    return Event("fell" if fell else "moved", k, begin, end, value, carried(clip, begin, k) if fell else None, pixels)


def _with_hitter(clip: "Clip", event: Event, events: Sequence[Event]) -> Event:
    """A body was hit by one that was on its way to it, and near enough to reach it within the frame's time."""
    t, k = event.begin, event.object
    for other in events:
        if other.kind not in ("moved", "fell") or not other.begin < t < other.end:
            continue
        before, now, target = clip.tracks[other.object][t - 1], clip.tracks[other.object][t], clip.tracks[k][t]
        if before is None or now is None or target is None:
            continue
        step = hypot(now.x - before.x, now.y - before.y)
        if clearance(now, target) <= min(step, clearance(before, target)):
            return event._replace(other=other.object)
    return event


def _hidden(clip: "Clip", k: int) -> Event | None:
    """Whether a moving ball is out of sight in some frames, and in view again after them."""
    views = [seen(s, i) if (i := clip.index(t, k)) is not None else (1.0, None) for t, s in enumerate(clip.scenes)]
    gone = [t for t, (share, _) in enumerate(views) if share == 0]
    if not gone or not any(share >= PLAIN for share, _ in views):
        return None
    again = next((t for t in range(gone[-1], len(clip)) if views[t][0] >= PLAIN), None)
    value = "again" if again is not None else ("stays" if gone[-1] == len(clip) - 1 else None)
    there = [i for i in range(len(clip.tracks)) if clip.index(gone[0], i) is not None]
    before = views[gone[0]][1]
    other = None if before is None else there[before]
    return Event("hidden", k, max(gone[0] - 1, 0), gone[-1] if again is None else again, value, other)


def carried(clip: "Clip", frame: int, track: int) -> int | None:
    """The track of what carries an object; None on the floor and in the air."""
    item = clip.tracks[track][frame]
    others = [None if i == track else other[frame] for i, other in enumerate(clip.tracks)]
    return None if item is None else carrier(item, others)


def in_air(clip: "Clip", frame: int, track: int) -> bool:
    """Whether nothing carries an object that is not on the floor."""
    item = clip.tracks[track][frame]
    return item is not None and item.z > CONTACT and carried(clip, frame, track) is None


@lru_cache(maxsize=4096)
def seen(scene: Scene, index: int) -> tuple[float, int | None]:
    """The share of a ball that is in view, 0 to 1, and which object is before its middle (None: the ball itself).

    Its outline's area is that of a circle: pixels of the mask over pixels of the circle.
    """
    g, item = scene.geometry, scene.objects[index]
    near = [i for i in range(len(scene.objects)) if g.depth[i] < g.depth[index] and abs(g.u[i] - g.u[index]) < 0.4]
    if not near:
        return 1.0, None
    u, v, depth = scene.camera.project(np.array([item.x, item.y, item.z + item.height / 2]))
    mask = scene.render(SIZE, samples=1).mask
    area = pi * (item.half[0] * SIZE / (2 * tan(radians(scene.camera.fov) / 2) * depth)) ** 2
    row, column = (min(max(int(w * SIZE), 0), SIZE - 1) for w in (v, u))
    before = int(mask[row, column]) - 1
    return min(1.0, float((mask == index + 1).sum() / area)), before if before not in (-1, index) else None
