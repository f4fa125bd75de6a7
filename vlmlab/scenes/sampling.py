"""Notebook 00. Scenes from a seed: objects placed by rejection, under constraints, in view and not hidden.

Splits differ by seed and by combination: `train`, `val` and `test` draw from disjoint seed sequences and never hold a
held-out colour x kind (kinds.held_out); every scene of `test_combinations` holds at least one.
"""

from collections.abc import Sequence
from math import cos, radians, sin

import numpy as np

from vlmlab.errors import BadInput, UnknownName, VlmlabError
from vlmlab.scenes.geometry import stands
from vlmlab.scenes.kinds import COLOURS, KINDS, MATERIALS, SIZES, SMALL_THINGS, held_out
from vlmlab.scenes.relations import holds
from vlmlab.scenes.scene import Camera, Light, Object, Scene, footprint_gap

SPLITS = ("train", "val", "test", "test_combinations")
FLOORS = ((188, 182, 172), (170, 172, 176), (176, 160, 138), (204, 196, 180), (150, 146, 142))
WALLS = ((214, 216, 220), (206, 214, 208), (222, 214, 200), (198, 204, 216))


def sample(
    seed: int,
    *,
    split: str = "train",
    objects: int | tuple[int, int] = (2, 4),
    kinds: Sequence[str] | None = None,
    colours: Sequence[str] | None = None,
    include: Sequence[dict] = (),
    relation: tuple[int, str, int] | None = None,
    tries: int = 400,
) -> Scene:
    """Draw a scene: the same arguments give the same scene.

    Args:
        seed: any integer >= 0.
        split: one of SPLITS.
        objects: how many, or an inclusive range.
        kinds, colours: draw only from these.
        include: fields that the first objects must have, e.g. [{"kind": "cat", "colour": "red"}, {"kind": "sofa"}].
        relation: (i, name, j): object i must stand in that relation to object j, beyond doubt.
        tries: how many layouts to try.
    Raises:
        UnknownName for a split, kind or colour; VlmlabError when no layout satisfies the constraints.
    """
    if split not in SPLITS:
        raise UnknownName("split", split, SPLITS)
    if seed < 0:
        raise BadInput(f"seed must be 0 or more, got {seed}")
    for names, known, what in ((kinds, KINDS, "kind"), (colours, COLOURS, "colour")):
        for name in names or ():
            if name not in known:
                raise UnknownName(what, name, known)
    low, high = (objects, objects) if isinstance(objects, int) else objects
    low, high = max(low, len(include)), max(high, len(include))
    if relation and not 0 <= min(relation[0], relation[2]) != max(relation[0], relation[2]) < low:
        raise BadInput(f"relation names two different objects by number, 0 to {low - 1}; got {relation}")
    if not 0 <= low <= high <= 8:
        raise BadInput(f"objects must lie between 0 and 8, got {objects}")
    rng = np.random.default_rng([SPLITS.index(split), seed])
    for _ in range(tries):
        count = int(rng.integers(low, high + 1))
        scene = _layout(rng, count, kinds or tuple(KINDS), colours or tuple(COLOURS), include, split, relation)
        if scene is None or (relation and not holds(scene, relation[1], relation[0], relation[2])):
            continue
        return Scene(scene.objects, scene.camera, scene.light, scene.floor, scene.wall, seed, split)
    raise VlmlabError(f"no scene with seed {seed} satisfies the constraints after {tries} layouts; loosen them")


def _layout(rng, count: int, kinds, colours, include, split: str, relation) -> Scene | None:
    camera = Camera(
        azimuth=float(rng.uniform(-25, 25)), elevation=float(rng.uniform(24, 38)), distance=float(rng.uniform(5.7, 6.5))
    )
    light = Light(
        azimuth=float(rng.uniform(-70, 70)),
        elevation=float(rng.uniform(42, 68)),
        ambient=float(rng.uniform(0.38, 0.52)),
    )
    floor, wall = FLOORS[rng.integers(len(FLOORS))], WALLS[rng.integers(len(WALLS))]
    base = Scene((), camera, light, floor, wall)
    looks = _looks(rng, count, kinds, colours, include, split)
    if looks is None:
        return None
    turns = list(range(count))
    if relation:  # what another object is to stand on, under or in must be there first
        turns = [relation[2], relation[0], *(i for i in turns if i not in (relation[2], relation[0]))]
    placed: dict[int, Object] = {}
    for index in turns:
        item = _placed(rng, looks[index], list(placed.values()), camera)
        if item is None:
            return None
        placed[index] = item
    order = range(count) if include or relation else rng.permutation(count)
    scene = base.with_objects([placed[i] for i in order])
    return scene if visible(scene) else None


def _looks(rng, count: int, kinds, colours, include, split: str) -> list[dict] | None:
    """Kind, colour, size, material of each object: no two alike in kind and colour."""
    looks: list[dict] = []
    stacked = not include and count > 1 and rng.random() < 0.45  # ask for something with places, then a small thing
    wanted = [[k for k in kinds if KINDS[k].places], [k for k in kinds if k in SMALL_THINGS]] if stacked else []
    for index in range(count):
        fixed = dict(include[index]) if index < len(include) else {}
        pool = wanted[index] if index < len(wanted) and wanted[index] else kinds
        for _ in range(50):
            pick = {
                # a kind seen already comes back one time in five, so that counting and colours have work to do
                "kind": looks[rng.integers(len(looks))]["kind"]
                if looks and pool is kinds and rng.random() < 0.2
                else pool[rng.integers(len(pool))],
                "colour": looks[rng.integers(len(looks))]["colour"]
                if looks and rng.random() < 0.15
                else colours[rng.integers(len(colours))],
                "size": tuple(SIZES)[rng.integers(2)],
                "material": MATERIALS[rng.integers(2)],
            } | fixed
            unseen = held_out(pick["colour"], pick["kind"])
            if split == "test_combinations" and index == 0 and not fixed and not unseen:
                continue
            if split != "test_combinations" and unseen and not {"colour", "kind"} <= set(fixed):
                continue
            if all((pick["kind"], pick["colour"]) != (look["kind"], look["colour"]) for look in looks):
                looks.append(pick)
                break
        else:
            return None
    return looks


def _placed(rng, look: dict, placed: list[Object], camera: Camera) -> Object | None:
    """Find a free spot in view, one time in three on, under or inside an object that has room."""
    yaw = float(rng.uniform(0, 360))
    if placed and look["kind"] in SMALL_THINGS and rng.random() < 0.8:
        owner = placed[rng.integers(len(placed))]
        places = [p.relation for p in owner.spec.places]
        place = owner.place(places[rng.integers(len(places))]) if places else None
        if place and not any(stands(o, place.relation, owner) for o in placed):
            x, y = owner.world(rng.uniform(-0.6, 0.6) * place.x, place.offset + rng.uniform(-0.5, 0.5) * place.y)
            item = Object(**look, x=float(x), y=float(y), z=owner.z + place.z, yaw=yaw)
            fits = max(item.half) <= 1.25 * max(place.x, place.y) and min(item.half) <= 1.15 * min(place.x, place.y)
            others = [o for o in placed if o is not owner]
            if fits and item.height <= place.room and all(footprint_gap(item, o) > 0.08 for o in others):
                return item
    c, s = cos(radians(camera.azimuth)), sin(radians(camera.azimuth))
    for _ in range(12):
        side, away = rng.uniform(-1.75, 1.75), rng.uniform(-1.45, 1.55)
        item = Object(**look, x=float(side * c - away * s), y=float(side * s + away * c), yaw=yaw)
        if item.y < 2.0 and _in_view(item, camera) and all(footprint_gap(item, other) > 0.10 for other in placed):
            return item
    return None


def _bounds(item: Object, camera: Camera) -> np.ndarray:
    """The object's bounding box in the picture: left, top, right, bottom in [0, 1]."""
    points = np.array([(x, y, z) for x, y in item.corners() for z in (item.z, item.top)])
    uv = camera.project(points)[:, :2]
    return np.concatenate([uv.min(0), uv.max(0)])


def _in_view(item: Object, camera: Camera) -> bool:
    box = _bounds(item, camera)
    return bool(box.min() > 0.005 and box.max() < 0.995)


def visible(scene: Scene) -> bool:
    """No object is mostly behind a nearer one, judged by bounding boxes in the picture."""
    boxes = [_bounds(item, scene.camera) for item in scene.objects]
    if any(box.min() < 0 or box.max() > 1 for box in boxes):
        return False
    g = scene.geometry
    for i, box in enumerate(boxes):
        area = (box[2] - box[0]) * (box[3] - box[1])
        hidden = 0.0
        for j, other in enumerate(boxes):
            held = any(g.stands(i, relation, j) for relation in ("on", "inside"))
            if j == i or g.depth[j] >= g.depth[i] or held or g.stands(j, "inside", i):
                continue
            width = min(box[2], other[2]) - max(box[0], other[0])
            height = min(box[3], other[3]) - max(box[1], other[1])
            if width > 0 and height > 0:
                hidden += width * height
        if hidden > 0.45 * area:
            return False
    return True
