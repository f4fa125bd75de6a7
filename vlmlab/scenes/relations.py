"""Notebook 00. Spatial relations with VSR's names, decided from geometry with a margin; an ambiguous pair is refused.

Each relation is a function of the scene's measurements that returns a signed margin: at least 1 it holds beyond doubt,
at most -1 it certainly does not, in between nobody should be asked. Source of names and categories: Visual Spatial
Reasoning (Liu et al. 2023, arXiv 2205.00363, table 1). Frame "viewer" is the picture's; frame "object" is that of the
object referred to, which then needs a front.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vlmlab.errors import UnknownName
from vlmlab.scenes.geometry import CONTACT, Geometry

if TYPE_CHECKING:
    from vlmlab.scenes.scene import Scene

SURE = 10.0  # the margin of a relation decided by contact, which has no grey zone
LEFT = 0.07  # pictures' widths between two middles
DEPTH = 0.40  # scene units along the view
NEAR, FAR = 0.45, 1.25  # scene units between footprints
AIM, AWAY, MISS = 25.0, 155.0, 50.0  # degrees between a heading and a direction


@dataclass(frozen=True)
class Relation:
    """`subject` stands in relation `name` to `object` (indices into scene.objects; a pair for "between").

    `margin`: how far beyond doubt, at least 1, in multiples of the relation's threshold.
    """

    name: str
    subject: int
    object: int | tuple[int, int]
    frame: str
    margin: float


@dataclass(frozen=True)
class Spec:
    """What a relation's name means: VSR's category, frame, its margin, and how a sentence says it."""

    name: str
    category: str
    margin: Callable[[Geometry, int, int], float | None]
    frame: str = "viewer"
    opposite: str | None = None


def _sure(holds: bool) -> float:
    return SURE if holds else -SURE


def _left(g: Geometry, a: int, b: int) -> float:
    return float(g.u[b] - g.u[a]) / LEFT


def _front(g: Geometry, a: int, b: int) -> float | None:
    return None if g.supported(a, b) else float(g.depth[b] - g.depth[a]) / DEPTH


def _overlap(g: Geometry, a: int, b: int) -> bool:
    return g.gap(a, b) <= 0.0


def _above(g: Geometry, a: int, b: int) -> float | None:
    first, second = g.objects[a], g.objects[b]
    if g.stands(a, "inside", b) or g.stands(b, "inside", a):
        return None
    return _sure(first.z >= second.top - CONTACT - 0.4 * second.height * g.stands(a, "on", b) and _overlap(g, a, b))


def _near(g: Geometry, a: int, b: int) -> float:
    """1 at a gap of NEAR, -1 at a gap of FAR, straight in between and beyond."""
    return (NEAR + FAR - 2 * g.gap(a, b)) / (FAR - NEAR)


def _beside(g: Geometry, a: int, b: int) -> float | None:
    if g.supported(a, b) or abs(g.objects[a].z - g.objects[b].z) > CONTACT:
        return -SURE
    return _near(g, a, b)


def _towards(low: float, sign: float) -> Callable[[Geometry, int, int], float | None]:
    """Heading within AIM of the direction (sign 1) or of its opposite (sign -1); certainly not when MISS off."""

    def margin(g: Geometry, a: int, b: int) -> float | None:
        if not g.objects[a].spec.front or g.distance(a, b) < low or g.supported(a, b):
            return None
        off = g.angle_to(a, b) if sign > 0 else 180.0 - g.angle_to(a, b)
        return (AIM + MISS - 2 * off) / (MISS - AIM)

    return margin


def _moving(margin: Callable[[Geometry, int, int], float | None]) -> Callable[[Geometry, int, int], float | None]:
    return lambda g, a, b: margin(g, a, b) if g.objects[a].spec.moves else None


def _parallel(g: Geometry, a: int, b: int) -> float | None:
    if not (g.objects[a].spec.front and g.objects[b].spec.front):
        return None
    turn = g.turn(a, b)
    off = min(turn, 180.0 - turn)
    return (15.0 + 40.0 - 2 * off) / 25.0


def _perpendicular(g: Geometry, a: int, b: int) -> float | None:
    if not (g.objects[a].spec.front and g.objects[b].spec.front):
        return None
    return (15.0 + 40.0 - 2 * abs(g.turn(a, b) - 90.0)) / 25.0


def _across(g: Geometry, a: int, b: int) -> float | None:
    if not (g.objects[a].spec.front and g.objects[b].spec.front) or g.gap(a, b) < 0.1:
        return None
    off = max(g.angle_to(a, b), g.angle_to(b, a))
    return (AIM + MISS - 2 * off) / (MISS - AIM)


def _own_frame(side: str) -> Callable[[Geometry, int, int], float | None]:
    """a stands on the named side of b, sides named from b's own heading; a side is a cone of 40 degrees half angle.

    "side" is either of left and right.
    """

    def margin(g: Geometry, a: int, b: int) -> float | None:
        if not g.objects[b].spec.front or g.supported(a, b):
            return None
        x, y = g.objects[b].local(g.objects[a].x, g.objects[a].y)
        # the front is -y, so an object that faces away from us (own frame seen from above) has its left at +x
        along = {"front": -y, "back": y, "left": x, "right": -x, "side": abs(x)}[side]
        across = abs(x) if side in ("front", "back") else abs(y)
        if max(abs(x), abs(y)) < 0.3:
            return None
        return 2.0 if along > 1.2 * across else (-2.0 if along < 0.5 * across else 0.0)

    return margin


def _adjacent_side(sign: int) -> Callable[[Geometry, int, int], float | None]:
    def margin(g: Geometry, a: int, b: int) -> float | None:
        beside = _beside(g, a, b)
        return None if beside is None else min(sign * _left(g, a, b), beside)

    return margin


def _both(*margins: Callable[[Geometry, int, int], float | None]) -> Callable[[Geometry, int, int], float | None]:
    def margin(g: Geometry, a: int, b: int) -> float | None:
        values = [m(g, a, b) for m in margins]
        return None if any(v is None for v in values) else min(v for v in values if v is not None)

    return margin


def _flip(margin: Callable[[Geometry, int, int], float | None]) -> Callable[[Geometry, int, int], float | None]:
    return lambda g, a, b: margin(g, b, a)


def _negate(margin: Callable[[Geometry, int, int], float | None]) -> Callable[[Geometry, int, int], float | None]:
    def negated(g: Geometry, a: int, b: int) -> float | None:
        value = margin(g, a, b)
        return None if value is None else -value

    return negated


def _place(relation: str) -> Callable[[Geometry, int, int], float | None]:
    return lambda g, a, b: _sure(g.stands(a, relation, b))


def _below(g: Geometry, a: int, b: int) -> float | None:
    above = _above(g, b, a)
    return above if above is None or above > 0 else _sure(g.stands(a, "under", b))


def _touching(g: Geometry, a: int, b: int) -> float:
    contact = any(g.stands(i, r, j) for i, j in ((a, b), (b, a)) for r in ("on", "inside"))
    return SURE if contact else (-SURE if g.gap(a, b) > 0.08 or g.supported(a, b) else 0.0)


SPECS: dict[str, Spec] = {
    spec.name: spec
    for spec in (
        Spec("left of", "Projective", _left, opposite="right of"),
        Spec("right of", "Projective", _flip(_left), opposite="left of"),
        Spec("in front of", "Projective", _front, opposite="behind"),
        Spec("behind", "Projective", _flip(_front), opposite="in front of"),
        Spec("on top of", "Projective", _place("on")),
        Spec("under", "Projective", _below),
        Spec("beneath", "Projective", _below),
        Spec("below", "Projective", _below, opposite="above"),
        Spec("above", "Projective", _above, opposite="below"),
        Spec("over", "Projective", _flip(_below)),
        Spec("beside", "Projective", _beside),
        Spec("adjacent to", "Adjacency", _beside),
        Spec("at the left side of", "Adjacency", _adjacent_side(1)),
        Spec("at the right side of", "Adjacency", _adjacent_side(-1)),
        Spec("at the side of", "Adjacency", _both(_beside, _own_frame("side")), frame="object"),
        Spec("at the back of", "Adjacency", _both(_beside, _own_frame("back")), frame="object"),
        Spec("ahead of", "Adjacency", _own_frame("front"), frame="object"),
        Spec("toward", "Directional", _moving(_towards(0.8, 1.0))),
        Spec("away from", "Directional", _moving(_towards(0.8, -1.0))),
        Spec("across from", "Directional", _across),
        Spec("facing", "Orientation", _towards(0.5, 1.0), opposite="facing away from"),
        Spec("facing away from", "Orientation", _towards(0.5, -1.0), opposite="facing"),
        Spec("parallel to", "Orientation", _parallel, opposite="perpendicular to"),
        Spec("perpendicular to", "Orientation", _perpendicular, opposite="parallel to"),
        Spec("near", "Proximity", _near, opposite="far from"),
        Spec("close to", "Proximity", _near, opposite="far away from"),
        Spec("far from", "Proximity", _negate(_near), opposite="near"),
        Spec("far away from", "Proximity", _negate(_near), opposite="close to"),
        Spec("on", "Topological", _place("on")),
        Spec("inside", "Topological", _place("inside")),
        Spec("in", "Topological", _place("inside")),
        Spec("contains", "Topological", _flip(_place("inside"))),
        Spec("touching", "Topological", _touching, opposite="detached from"),
        Spec("detached from", "Topological", _negate(_touching), opposite="touching"),
        Spec("next to", "Unallocated", _beside),
    )
}
OWN_FRAME = {
    "left of": _own_frame("left"),
    "right of": _own_frame("right"),
    "in front of": _own_frame("front"),
    "behind": _own_frame("back"),
}
NAMES = (*SPECS, "between")
CATEGORIES = {**{name: spec.category for name, spec in SPECS.items()}, "between": "Topological"}


def margin(
    scene: "Scene", name: str, subject: int, other: int | tuple[int, int], frame: str | None = None
) -> float | None:
    """Signed margin of a relation: >= 1 holds, <= -1 does not, between them ambiguous, None where it has no meaning.

    Args: object indices; `other` is a pair for "between"; `frame` "viewer" or "object" (None: the name's usual frame).
    Raises UnknownName for a relation that is not in NAMES.
    """
    g = scene.geometry
    if name == "between" and isinstance(other, tuple):
        return _between(g, subject, *other)
    if name not in SPECS or isinstance(other, tuple):
        raise UnknownName("relation", name, NAMES)
    if frame == "object" and name in OWN_FRAME:
        return OWN_FRAME[name](g, subject, other)
    return SPECS[name].margin(g, subject, other)


def _between(g: Geometry, a: int, b: int, c: int) -> float | None:
    """In the picture a's middle lies between those of b and c, and on the floor it is off their line by little."""
    if g.supported(a, b) or g.supported(a, c) or g.supported(b, c):
        return None
    low, high = sorted((float(g.u[b]), float(g.u[c])))
    inside = min(float(g.u[a]) - low, high - float(g.u[a])) / LEFT
    first, second, third = (g.objects[i] for i in (b, c, a))
    dx, dy = second.x - first.x, second.y - first.y
    length = max((dx * dx + dy * dy) ** 0.5, 1e-9)
    off = abs((third.x - first.x) * dy - (third.y - first.y) * dx) / length
    if inside <= -1 or off > 1.2:
        return -2.0
    return min(inside, (0.5 - off) / 0.25) if inside >= 1 and off <= 0.25 else 0.0


def holds(
    scene: "Scene", name: str, subject: int, other: int | tuple[int, int], frame: str | None = None
) -> bool | None:
    """True or False beyond doubt, None when the pair is ambiguous or the relation has no meaning for it."""
    value = margin(scene, name, subject, other, frame)
    return None if value is None or abs(value) < 1 else value > 0


def relations(scene: "Scene", names: tuple[str, ...] | None = None) -> list[Relation]:
    """All relations that hold beyond doubt, in both frames where both have a meaning."""
    for name in names or ():
        if name not in NAMES:
            raise UnknownName("relation", name, NAMES)
    found = []
    indices = range(len(scene.objects))
    for a in indices:
        for b in indices:
            if a == b:
                continue
            for name, spec in SPECS.items():
                if names and name not in names:
                    continue
                frames = [spec.frame] + (["object"] if name in OWN_FRAME else [])
                for frame in frames:
                    value = margin(scene, name, a, b, frame)
                    if value is not None and value >= 1:
                        found.append(Relation(name, a, b, frame, round(value, 6)))
            if not names or "between" in names:
                for c in indices:
                    value = margin(scene, "between", a, (b, c)) if b < c and a not in (b, c) else None
                    if value is not None and value >= 1:
                        found.append(Relation("between", a, (b, c), "viewer", round(value, 6)))
    return found
