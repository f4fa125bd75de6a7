"""Notebook 00. Twins: scenes that differ in one way, so that a constant answer is wrong for one of the two."""

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from vlmlab.errors import UnknownName, VlmlabError
from vlmlab.scenes.geometry import stands
from vlmlab.scenes.relations import holds

if TYPE_CHECKING:
    from vlmlab.scenes.scene import Object, Scene

KINDS_OF_TWIN = ("mirror", "swap", "relation")


def twin(scene: "Scene", kind: str) -> "Scene":
    """A twin of `scene`.

    "mirror": left and right exchanged (objects, headings, camera and light). "swap": the first two objects exchange
    places. "relation": one object moved so that its left/right relation to another flips and nothing else is added.
    Raises UnknownName for another kind, VlmlabError when the scene has no such twin.
    """
    if kind == "mirror":
        camera = replace(scene.camera, azimuth=-scene.camera.azimuth)
        light = replace(scene.light, azimuth=-scene.light.azimuth)
        mirrored = [replace(o, x=-o.x, yaw=(-o.yaw) % 360) for o in scene.objects]
        return replace(scene, objects=tuple(mirrored), camera=camera, light=light, split="custom", _cache={})
    if kind not in KINDS_OF_TWIN:
        raise UnknownName("twin", kind, KINDS_OF_TWIN)
    pairs = [(a, b) for a in range(len(scene.objects)) for b in range(a + 1, len(scene.objects))]
    for a, b in pairs:
        changed = _swapped(scene, a, b) if kind == "swap" else _flipped(scene, a, b)
        if changed is not None:
            return changed
    raise VlmlabError(f"this scene has no {kind!r} twin; try another seed")


def _clear(objects: "tuple[Object, ...]", moved: set[int]) -> bool:
    from vlmlab.scenes.scene import footprint_gap

    return all(
        footprint_gap(objects[i], other) > 0.02
        for i in moved
        for j, other in enumerate(objects)
        if j != i
        and not any(stands(objects[i], r, other) or stands(other, r, objects[i]) for r in ("on", "inside", "under"))
    )


def _swapped(scene: "Scene", a: int, b: int) -> "Scene | None":
    """Exchange the places of two objects that stand free on the floor."""
    g = scene.geometry
    if any(g.supported(i, j) for i in (a, b) for j in range(len(scene.objects)) if j != i):
        return None
    objects = list(scene.objects)
    objects[a] = replace(scene.objects[a], x=scene.objects[b].x, y=scene.objects[b].y)
    objects[b] = replace(scene.objects[b], x=scene.objects[a].x, y=scene.objects[a].y)
    swapped = scene.with_objects(objects)
    flips = holds(scene, "left of", a, b) is not None and holds(swapped, "left of", b, a) == holds(
        scene, "left of", a, b
    )
    return swapped if flips and _clear(swapped.objects, {a, b}) and _seen(swapped) else None


def _flipped(scene: "Scene", a: int, b: int) -> "Scene | None":
    """Move a sideways to the other side of b, or b to the other side of a."""
    before = holds(scene, "left of", a, b)
    if before is None:
        return None
    for mover, fixed in ((a, b), (b, a)):
        item, g = scene.objects[mover], scene.geometry
        if any(g.supported(mover, j) for j in range(len(scene.objects)) if j != mover):
            continue
        away = np.array([item.x - scene.objects[fixed].x, item.y - scene.objects[fixed].y])
        side = float(away @ g.right)
        for stretch in (1.0, 1.3, 0.7, 1.6):
            x, y = np.array([item.x, item.y]) - (1 + stretch) * side * g.right
            moved = scene.edit(mover, x=float(x), y=float(y))
            if holds(moved, "left of", a, b) == (not before) and _clear(moved.objects, {mover}) and _seen(moved):
                return moved
    return None


def _seen(scene: "Scene") -> bool:
    from vlmlab.scenes.sampling import visible

    return visible(scene)
