"""Notebook 06. Fine detail: what a model reads off an object against the object's size, and against what hides it.

Size: the same objects near and far, small and large; nothing hides them. A close-up shows whether more pixels help.
Occlusion: an object stands still, another slides sideways in front of it.
"""

import numpy as np

from vlmlab.benchmarks.shortcomings.items import Item, band, seen
from vlmlab.benchmarks.shortcomings.staging import about, clear, extent, in_view, looks, put, repeat, room
from vlmlab.scenes import KINDS, Scene

FILLS = (0.0, 0.75, 1.5, 3.0, 6.0)  # per cent of the picture: where the rows begin
SHOWS = (10.0, 25.0, 50.0, 75.0, 99.0)  # per cent of the object; with less to see, nobody should be asked
APART = "well apart"
TALL = ("shelf", "sofa", "chair", "plant")  # what hides another
LOW = ("cat", "dog", "bird", "ball", "box", "mug", "book", "car")
CLOSE = 1.5  # per cent of the picture: smaller objects are also shown in close-up


def items(n: int, seed: int = 0) -> list[Item]:
    """Questions about `n` objects in up to four sizes and `n` objects behind others; the same arguments, the same."""
    found = []
    for scene in (scene for scenes in repeat(near_and_far, n, 61, seed) for scene in scenes):
        fill = 100 * extent(scene, 0)[0]
        for field, question, answer, chance in about(scene):
            found.append(Item(f"size: {field}", band(fill, FILLS), scene, question, answer, chance, fill))
            if fill < CLOSE:
                for row, look in (("as it is", seen), ("twice as close", close_up)):
                    found.append(Item("close-up", row, scene, question, answer, chance, look=look))
    for row, scene, share in (case for cases in repeat(sliding, n, 62, seed) for case in cases):
        for field, question, answer, chance in about(scene):
            x = None if row == APART else 100 * share
            found.append(Item(f"occlusion: {field}", row, scene, question, answer, chance, x))
    return found


def close_up(scene: Scene, size: int) -> np.ndarray:
    """The part of the picture around the scene's first object, twice as large (size, size, 3)."""
    render = scene.render(2 * size)
    x1, y1, x2, y2 = render.boxes[0]
    left, top = (min(max(int((low + high - size) / 2), 0), size) for low, high in ((x1, x2), (y1, y2)))
    return np.ascontiguousarray(render.rgb[top : top + size, left : left + size])


def near_and_far(rng: np.random.Generator, number: int = 0) -> list[Scene] | None:
    """Two objects; the first is small or large, near or far, the second stays. None where too little is in view."""
    base = room(rng)
    target, other = looks(rng, KINDS, KINDS)
    way = (1, -1)[number % 2]
    side, stays = way * rng.uniform(0.2, 1.0), put(base, other, -way * rng.uniform(0.5, 1.2), rng.uniform(-0.6, 0.8))
    found = [
        base.with_objects([put(base, target | {"size": size}, side, away), stays])
        for away in (rng.uniform(-1.3, -1.0), rng.uniform(1.0, 1.4))
        for size in ("small", "large")
    ]
    found = [scene for scene in found if clear(scene) and extent(scene, 0)[1] == 1]
    return found if len(found) >= 3 else None


def sliding(rng: np.random.Generator, number: int = 0) -> list[tuple[str, Scene, float]] | None:
    """A low object and a tall one before it, which slides aside: (row, scene, visible share), from hidden to free.

    One scene for each range of SHOWS that the slide passes; the last of them hides nothing but touches in the picture,
    and one more, APART, has the two well apart. None if the slide passes fewer than three ranges.
    """
    base = room(rng)
    target, tall = looks(rng, LOW, TALL)
    tall |= {"size": "large", "yaw": base.camera.azimuth}
    side, away, way = rng.uniform(-0.4, 0.4), rng.uniform(0.2, 0.9), (1, -1)[number % 2]
    behind = put(base, target, side, away)
    before = away - max(behind.half) - KINDS[tall["kind"]].y - rng.uniform(0.1, 0.3)

    def shifted(shift: float) -> tuple[Scene, float]:
        scene = base.with_objects([behind, put(base, tall, side + way * shift, before)])
        return scene, extent(scene, 0)[1] if in_view(scene) else -1.0

    found: dict[str, tuple[Scene, float]] = {}
    free = band(100.0, SHOWS)
    for shift in np.linspace(0.0, 1.3, 14):
        scene, share = shifted(shift)
        if 100 * share >= SHOWS[0]:
            found.setdefault(band(100 * share, SHOWS), (scene, share))
        if free in found:
            found[APART] = shifted(shift + 0.5)
            break
    if free not in found or found[APART][1] < 1 or len(found) < 4:
        return None
    return [(row, scene, share) for row, (scene, share) in found.items()]
