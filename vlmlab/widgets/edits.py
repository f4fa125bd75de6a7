"""Edits of a scene by hand: each gives a new scene, or is refused with the reason. Notebook 15.

Refused is what puts objects into one another or out of the picture; nothing is moved on the quiet. What stands on, in
or under an object goes with it. An object that is put where another has room on it or in it stands there.
"""

from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from itertools import product

import numpy as np

from vlmlab.errors import BadInput
from vlmlab.scenes import COLOURS, KINDS, Object, Scene
from vlmlab.scenes.captions import name
from vlmlab.scenes.geometry import stands
from vlmlab.scenes.sampling import visible
from vlmlab.scenes.scene import footprint_gap

MOST = 8  # objects in a scene
CLEAR = 0.02  # scene units that stay free between two footprints
WALL = 2.55  # the floor's far end along y
HIDDEN = (0.5, 0.95)  # shares of an object's pixels that an occluder hides: most of it, and not all
BLOCKERS = ("shelf", "lamp", "chair", "plant", "sofa", "table", "box")


class Refused(BadInput):
    """An edit that the scene does not allow; the scene stays as it was."""


def move(scene: Scene, index: int, x: float, y: float) -> Scene:
    """Put an object at (x, y): on the floor, or on or in what is there and has room. Raises Refused."""
    group = [index, *carried(scene, index)]
    item = scene.objects[index]
    rest = [other for i, other in enumerate(scene.objects) if i not in group]
    shift = (x - item.x, y - item.y, _height(replace(item, x=x, y=y), rest, item) - item.z)
    return _checked(_shifted(scene, group, *shift).edit(index, x=x, y=y), group)  # exactly there


def turn(scene: Scene, index: int, yaw: float) -> Scene:
    """Turn an object to `yaw` degrees. Raises Refused."""
    old, objects, group = scene.objects[index], list(scene.objects), carried(scene, index)
    new = objects[index] = replace(old, yaw=yaw % 360)
    for i in group:
        x, y = new.world(*old.local(objects[i].x, objects[i].y))
        objects[i] = replace(objects[i], x=x, y=y, yaw=(objects[i].yaw + yaw - old.yaw) % 360)
    return _checked(scene.with_objects(objects), [index, *group])


def add(
    scene: Scene,
    kind: str,
    colour: str,
    size: str = "large",
    material: str = "matte",
    x: float | None = None,
    y: float | None = None,
    yaw: float = 0.0,
) -> Scene:
    """Add an object, the last of the scene's; without x and y where most room is. Raises Refused."""
    if len(scene.objects) >= MOST:
        raise Refused(f"a scene holds at most {MOST} objects; remove one first")
    item = Object(kind, colour, size, material, yaw=yaw)
    if x is None or y is None:
        return _in_free_place(scene, item)
    item = replace(item, x=x, y=y)
    item = replace(item, z=_height(item, scene.objects))
    return _checked(scene.with_objects([*scene.objects, item]), [len(scene.objects)])


def remove(scene: Scene, index: int) -> Scene:
    """Take an object away; what stood on it or in it falls to where it stood. Raises Refused."""
    owner, fallen = scene.objects[index], scene
    moved = set()
    for rider in _riders(scene, index):
        group = [rider, *carried(scene, rider)]
        fallen = _shifted(fallen, group, 0.0, 0.0, owner.z - scene.objects[rider].z)
        moved |= set(group)
    rest = fallen.with_objects([item for i, item in enumerate(fallen.objects) if i != index])
    return _checked(rest, {i - (i > index) for i in moved})


def swap(scene: Scene, a: int, b: int) -> Scene:
    """Exchange the places of two objects on the floor. Raises Refused."""
    first, second = scene.objects[a], scene.objects[b]
    if a == b:
        raise Refused("swap exchanges two different objects")
    for i in (a, b):
        if scene.objects[i].z > 0:
            raise Refused(f"the {name(scene, i)} does not stand on the floor; move it there first")
    groups = [[i, *carried(scene, i)] for i in (a, b)]
    if set(groups[0]) & set(groups[1]):
        raise Refused(f"the {name(scene, a)} and the {name(scene, b)} stand in one place; move one away first")
    x, y = second.x - first.x, second.y - first.y
    return _checked(_shifted(_shifted(scene, groups[0], x, y, 0), groups[1], -x, -y, 0), [*groups[0], *groups[1]])


def recolour(scene: Scene, index: int, colour: str) -> Scene:
    """Give an object another colour."""
    return scene.edit(index, colour=colour)


def occlude(scene: Scene, index: int) -> Scene:
    """Put a large object between the camera and an object, so that most of it is hidden, and not all. Raises Refused.

    Hidden is counted in pixels of the rendered mask.
    """
    item = scene.objects[index]
    towards = scene.camera.position[:2] - (item.x, item.y)
    towards /= np.linalg.norm(towards)
    before = _pixels(scene, index)
    kinds = [kind for kind in BLOCKERS if kind not in {other.kind for other in scene.objects}]
    for kind, aside, distance in product(kinds, (0.0, 0.2, -0.2), np.arange(0.4, 2.0, 0.1)):
        x, y = (item.x, item.y) + distance * towards + aside * scene.geometry.right
        try:
            found = add(scene, kind, _new_colour(scene), x=float(x), y=float(y), yaw=scene.camera.azimuth)
        except Refused:
            continue
        if HIDDEN[0] <= 1 - _pixels(found, index) / max(before, 1) <= HIDDEN[1]:
            return found
    raise Refused(f"nothing large enough finds room in front of the {name(scene, index)}; move it further back")


def distractor(scene: Scene, index: int) -> Scene:
    """Add an object of the same kind, size and material in another colour, where most room is. Raises Refused."""
    item = scene.objects[index]
    return add(scene, item.kind, _new_colour(scene, item.kind), item.size, item.material, yaw=item.yaw)


EDITS: dict[str, Callable[..., Scene]] = {
    edit.__name__: edit for edit in (move, turn, add, remove, swap, recolour, occlude, distractor)
}


def carried(scene: Scene, index: int) -> list[int]:
    """Objects that go with an object: what stands on, in or under it, and what stands on these."""
    found: list[int] = []
    for rider in _riders(scene, index, ("on", "inside", "under")):
        found += [rider, *carried(scene, rider)]
    return found


def _riders(scene: Scene, index: int, relations: Collection[str] = ("on", "inside")) -> Iterator[int]:
    g = scene.geometry
    for i in range(len(scene.objects)):
        if i != index and any(g.stands(i, relation, index) for relation in relations):
            yield i


def _shifted(scene: Scene, group: Collection[int], x: float, y: float, z: float) -> Scene:
    objects = [replace(o, x=o.x + x, y=o.y + y, z=o.z + z) if i in group else o for i, o in enumerate(scene.objects)]
    return scene.with_objects(objects)


def _height(item: Object, others: Collection[Object], before: Object | None = None) -> float:
    """Where an object comes to stand: where it is held `before` and still, or on or in what has room, or the floor."""
    for owner in others:
        for relation in ("on", "inside", "under"):
            if before is not None and stands(before, relation, owner) and stands(item, relation, owner):
                return item.z
    return next((z for owner in others if (z := _room(item, owner)) is not None), 0.0)


def _room(item: Object, owner: Object) -> float | None:
    """The height at which an object stands in or on another, None where it finds no room there."""
    for relation in ("inside", "on"):
        place = owner.place(relation)
        if place is None:
            continue
        lifted = replace(item, z=owner.z + place.z)
        fits = max(item.half) <= 1.25 * max(place.x, place.y) and min(item.half) <= 1.15 * min(place.x, place.y)
        if fits and stands(lifted, relation, owner):
            return lifted.z
    return None


def _checked(scene: Scene, moved: Collection[int]) -> Scene:
    """The scene, if the moved objects are in the picture and clear of all others. Raises Refused."""
    for i in moved:
        item = scene.objects[i]
        points = np.array([(x, y, z) for x, y in item.corners() for z in (item.z, item.top)])
        u, v, _ = scene.camera.project(points).T
        end = WALL if scene.mirror is None else min(WALL, scene.mirror.y - CLEAR)
        if min(u.min(), v.min()) < 0 or max(u.max(), v.max()) > 1:
            raise Refused(f"the {name(scene, i)} would leave the picture")
        if points[:, 1].max() > end:
            raise Refused(f"the {name(scene, i)} would stand in the wall")
        for j, other in enumerate(scene.objects):
            if j != i and not scene.geometry.supported(i, j) and footprint_gap(item, other) <= CLEAR:
                raise Refused(f"the {name(scene, i)} would stand in the {name(scene, j)}")
    return scene


def _in_free_place(scene: Scene, item: Object) -> Scene:
    """The scene with an object more, at the place of a grid that is furthest from all others and hides none."""
    right, forward = scene.geometry.right, scene.geometry.forward
    spots = []
    for side in np.linspace(-1.6, 1.6, 9):
        for away in np.linspace(-1.3, 1.5, 8):
            x, y = side * right + away * forward
            put = replace(item, x=float(x), y=float(y))
            gap = min((footprint_gap(put, other) for other in scene.objects), default=float(-abs(side) - abs(away)))
            spots.append((gap, put))
    for _, put in sorted(spots, key=lambda spot: -spot[0]):
        try:
            found = _checked(scene.with_objects([*scene.objects, put]), [len(scene.objects)])
        except Refused:
            continue
        if visible(found) or not visible(scene):
            return found
    raise Refused(f"there is no free place for a {item.kind}; move or remove something first")


def _new_colour(scene: Scene, kind: str | None = None) -> str:
    """A colour that no object has, or where there is none, no object of this kind."""
    for objects in (scene.objects, [item for item in scene.objects if item.kind == kind]):
        if free := [colour for colour in COLOURS if colour not in {item.colour for item in objects}]:
            return free[0]
    raise Refused(f"{KINDS[kind].plural if kind else 'objects'} of every colour are there already")


def _pixels(scene: Scene, index: int) -> int:
    return int((scene.render(48, 1).mask == index + 1).sum())
