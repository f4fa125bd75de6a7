"""Notebook 12. Acts staged in a sampled scene: who is there, who moves when, and that nothing meets, hides or leaves.

Acts follow one another on a grid of STEPS steps, whatever the number of frames: more frames show the same world finer.
Cats, dogs, birds and cars go at a constant speed; everything else is pushed and brakes (see clip_events.py).
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from math import atan2, ceil, copysign, cos, degrees, radians, sin, sqrt
from typing import NamedTuple

import numpy as np

from vlmlab.errors import VlmlabError
from vlmlab.scenes.clip_events import FLOOR, TABLE, Floor, Motion, apart, roll, roll_off, shifted, strike
from vlmlab.scenes.kinds import COLOURS, held_out
from vlmlab.scenes.sampling import sample, visible
from vlmlab.scenes.scene import Object, Scene

STEPS, STEP = 7, 0.25  # a clip lasts 1.75 s; 8 frames stand on the grid
FINE = 8  # states a step in which bodies are checked against one another
APART = 0.04  # room that a moving body leaves to what it does not hit
WALL = 2.5  # nothing goes further back
WAYS = {"left": "left", "right": "right", "nearer": "towards the camera", "farther": "away from the camera"}
QUICK = ("add", "remove", "recolour", *WAYS)
EVENTS = ("roll_off", "stop_short", "pass_behind", "stay_behind", "hit", *QUICK, "nothing")
HIT = ("mug", "book", "box", "cat", "bird", "car")  # what fills its bounding box at the height of a ball's middle
DISTINCT = 120.0  # RGB distance from which a change of colour is plain

Act = dict[int, Motion]  # by index in the scene


class Stage(NamedTuple):
    """A scene and its acts. `starts`: each act's first step on the grid; `expected`: (kind of event, object, value)."""

    scene: Scene
    acts: list[Act]
    starts: list[int]
    expected: set[tuple[str, int, str]]
    cast: set[int]  # who may touch one another

    def track(self, index: int, times: Sequence[float]) -> tuple[Object | None, ...]:
        """The object's state at each time, in seconds since the clip began."""
        for act, start in zip(self.acts, self.starts, strict=True):
            if index in act:
                motion = act[index]
                return tuple(motion.at(min(max(t - start * STEP, 0.0), motion.seconds)) for t in times)
        return (self.scene.objects[index],) * len(times)

    def possible(self) -> bool:
        """Nothing meets what it should not, leaves the picture or hides (but a ball that is to)."""
        times = [i * STEP / FINE for i in range(STEPS * FINE + 1)]
        tracks = [self.track(i, times) for i in range(len(self.scene.objects))]
        moving = {i for i, track in enumerate(tracks) if len(set(track)) > 1}
        hides = {i for kind, i, _ in self.expected if kind == "hidden"}
        for states in zip(*(track[::FINE] for track in tracks), strict=True):
            for group in (hides, set(range(len(states))) - hides):
                if not visible(self.scene.with_objects([states[i] for i in sorted(group) if states[i] is not None])):
                    return False
        if any(y > WALL for i in moving for item in tracks[i] if item is not None for _, y in item.corners()):
            return False
        for i, j in combinations(range(len(tracks)), 2):
            least = 0.0 if {i, j} <= self.cast else APART
            moments = zip(tracks[i], tracks[j], strict=True) if moving & {i, j} else [(tracks[i][0], tracks[j][0])]
            if not all(a is None or b is None or apart(a, b, least) for a, b in moments):
                return False
        return True


def stage(rng: np.random.Generator, event: str, split: str) -> Stage | None:
    """Draw a scene and the acts of a clip with `event` among them; None when this draw does not work out."""
    cast = event if event != "nothing" else EVENTS[rng.integers(len(EVENTS) - 1)]
    members = _members(rng, cast)
    if split == "test_combinations" and members:
        chosen = members[rng.integers(len(members))]
        chosen["colour"] = next(colour for colour in COLOURS if held_out(colour, chosen["kind"]))
    low = 3 if cast == "hit" else 2
    try:
        scene = sample(
            int(rng.integers(2**31)), split=split, objects=(low, 4), include=members,
            relation=(0, "on", 1) if cast in ("roll_off", "stop_short") else None,
        )  # fmt: skip
    except VlmlabError:
        return None
    if len({item.colour for item in scene.objects[: len(members)]}) < len(members):
        return None  # a red ball on a red table is hard to see
    used = set(range(len(members)))
    staged = _MAIN[cast](rng, scene, cast) if members else _quick(rng, scene, cast, used, split)
    if staged is None:
        return None
    scene, act, expected = staged
    if event == "nothing":  # the same cast in the same places, at rest
        at_rest = [act[i].at(0.0) or item if i in act else item for i, item in enumerate(scene.objects)]
        still = Stage(scene.with_objects(at_rest), [], [], set(), used)
        return still if still.possible() else None
    acts, used = [act], used | set(act)
    for _ in range(int(rng.integers(2 if members else 4))):
        again = event in QUICK and rng.random() < 0.4  # so that there is something to count
        more = _quick(rng, scene, event if again else QUICK[rng.integers(len(QUICK))], used, split)
        if more is not None and sum(map(_steps, acts)) + _steps(more[1]) <= STEPS:
            acts, expected, used = [*acts, more[1]], expected | more[2], used | set(more[1])
    acts = [acts[i] for i in rng.permutation(len(acts))]
    idle = rng.multinomial(STEPS - sum(map(_steps, acts)), [1 / (len(acts) + 1)] * (len(acts) + 1))
    starts = [int(sum(idle[: i + 1])) + sum(map(_steps, acts[:i])) for i in range(len(acts))]
    found = Stage(scene, acts, starts, expected, set(range(len(members))))
    return found if found.possible() else None


Staged = tuple[Scene, Act, set[tuple[str, int, str]]]  # "" as an event's value stands for any


def _steps(act: Act) -> int:
    return ceil(max(motion.seconds for motion in act.values()) / STEP - 1e-9)


def _members(rng: np.random.Generator, cast: str) -> list[dict]:
    """Who must be there for an event; the ball comes first."""
    if cast in ("roll_off", "stop_short"):
        return [{"kind": "ball", "size": "small"}, {"kind": "table", "size": "large"}]
    if cast in ("pass_behind", "stay_behind"):
        return [{"kind": "ball", "size": "small"}, {"kind": ("sofa", "shelf")[rng.integers(2)], "size": "large"}]
    if cast == "hit":  # now and then with a second ball, so that it takes a look to tell which of them it was
        second = [{"kind": "ball", "size": "small"}] if rng.random() < 0.5 else []
        return [{"kind": "ball", "size": "large"}, {"kind": HIT[rng.integers(len(HIT))]}, *second]
    return []


def _on_table(rng: np.random.Generator, scene: Scene, event: str) -> Staged:
    """The ball starts near one end of the table and rolls along it, not away from the camera: there floor and table
    look alike."""
    table, side = scene.objects[1], (-1.0, 1.0)[rng.integers(2)]
    away = float(scene.geometry.forward @ (cos(radians(table.yaw)), sin(radians(table.yaw))))
    side = side if abs(away) < 0.3 else -copysign(1.0, away)
    start = float(rng.uniform(0.40, 0.50))
    x, y = table.world(-side * start, float(rng.uniform(-0.2, 0.2)))
    scene = scene.edit(0, x=x, y=y)
    toward = (side * cos(radians(table.yaw)), side * sin(radians(table.yaw)))
    if event == "stop_short":
        far = float(rng.uniform(0.45, 0.88))
        return scene, {0: roll(scene.objects[0], toward, sqrt(2 * TABLE * far), TABLE)}, {("moved", 0, "")}
    edge, leaving = start + table.half[0], float(rng.uniform(1.45, 1.70))
    speed = sqrt(leaving**2 + 2 * TABLE * edge)
    return scene, {0: roll_off(scene.objects[0], toward, speed, edge)}, {("fell", 0, "")}


def _bare(scene: Scene, index: int) -> bool:
    """Nothing but the ball, which is moved anyway, stands on, in or under an object, nor the object on another."""
    return not any(scene.geometry.supported(index, j) for j in range(1, len(scene.objects)) if j != index)


def _behind(rng: np.random.Generator, scene: Scene, event: str) -> Staged | None:
    """A sofa or shelf across the view; the ball starts beside it and rolls behind it, and on or not."""
    if not _bare(scene, 1):
        return None
    right, forward, r = scene.geometry.right, scene.geometry.forward, scene.objects[0].half[0]
    turn, side = float(rng.uniform(-12, 12)), (-1.0, 1.0)[rng.integers(2)]
    wide, deep = scene.objects[1].half
    x, y = rng.uniform(-0.3, 0.3) * right + rng.uniform(-0.5, 0.3) * forward
    yaw = (scene.camera.azimuth + turn + 180 * rng.integers(2)) % 360
    scene = scene.edit(1, x=float(x), y=float(y), yaw=float(yaw))
    before, after = rng.uniform(0.15, 0.40, 2) + wide + r
    lane = deep + wide * abs(sin(radians(turn))) + r + rng.uniform(0.06, 0.18)
    x, y = (x, y) - side * before * right + lane * forward
    scene = scene.edit(0, x=float(x), y=float(y), z=0.0)
    stays = event == "stay_behind"
    speed = sqrt(2 * FLOOR * float(before + (rng.uniform(-0.1, 0.1) if stays else after)))
    toward = (side * float(right[0]), side * float(right[1]))
    expected = {("moved", 0, ""), ("hidden", 0, "stays" if stays else "again")}
    return scene, {0: roll(scene.objects[0], toward, speed)}, expected


def _hit(rng: np.random.Generator, scene: Scene, event: str) -> Staged | None:
    """The ball starts to the left or right of its target, up to 20 degrees off the side, and rolls at its middle."""
    if not _bare(scene, 1):
        return None
    right, forward = scene.geometry.right, scene.geometry.forward
    angle = radians(rng.uniform(-20, 20)) + (0.0, radians(180))[rng.integers(2)]
    x, y = cos(angle) * right + sin(angle) * forward
    toward = (float(x), float(y))
    x, y = rng.uniform(0.3, 1.0) * np.array(toward) + rng.uniform(-0.8, 0.8) * forward
    target = replace(scene.objects[1], x=float(x), y=float(y), z=0.0)
    ball = replace(scene.objects[0], x=float(x), y=float(y), z=0.0)
    ball = shifted(ball, toward, -float(rng.uniform(1.8, 2.4)))
    scene = scene.with_objects([ball, target, *scene.objects[2:]])
    first, second = strike(ball, target, toward, float(rng.uniform(1.5, 2.2)))
    return scene, {0: first, 1: second}, {("moved", 0, ""), ("moved", 1, "")}


_MAIN = {"roll_off": _on_table, "stop_short": _on_table, "pass_behind": _behind, "stay_behind": _behind, "hit": _hit}


def _quick(rng: np.random.Generator, scene: Scene, event: str, used: set[int], split: str) -> Staged | None:
    """An object that nothing depends on moves, appears, disappears or changes colour."""
    g, items = scene.geometry, scene.objects
    free = [i for i in range(len(items)) if i not in used and not any(g.supported(i, j) for j in range(len(items)))]
    rare = [i for i in free if held_out(items[i].colour, items[i].kind)]
    if not free:
        return None
    index = int(rng.choice(rare or free))
    item = items[index]
    if event in WAYS:
        axis = g.right if event in ("left", "right") else g.forward
        x, y = axis * (-1 if event in ("left", "nearer") else 1)
        return scene, {index: _walk(rng, item, (float(x), float(y)))}, {("moved", index, WAYS[event])}
    plain = [
        colour for colour, rgb in COLOURS.items()
        if np.linalg.norm(np.subtract(rgb, COLOURS[item.colour])) > DISTINCT
        and (split == "test_combinations" or not held_out(colour, item.kind))
        and not any((other.kind, other.colour) == (item.kind, colour) for other in items)
    ]  # fmt: skip
    colour = plain[rng.integers(len(plain))]
    before, after, kind, value = {
        "add": (None, item, "added", ""),
        "remove": (item, None, "removed", ""),
        "recolour": (item, replace(item, colour=colour), "recoloured", colour),
    }[event]
    motion = Motion(STEP, lambda t: before if t < STEP / 2 else after)
    return scene, {index: motion}, {(kind, index, value)}


def _walk(rng: np.random.Generator, item: Object, toward: Floor) -> Motion:
    """Three steps of time: an animal or a car forwards or backwards, so that where it faces does not tell."""
    seconds, far = 3 * STEP, float(rng.uniform(0.6, 0.84))
    if not item.spec.moves:
        return roll(item, toward, sqrt(2 * FLOOR * far))
    yaw = degrees(atan2(toward[0], -toward[1])) + 180 * int(rng.integers(2))
    turned = replace(item, yaw=yaw % 360)
    return Motion(seconds, lambda t: shifted(turned, toward, far * t / seconds))
