"""Notebook 06. Scenes set up on purpose: objects drawn alike but for what is studied, and put where they are needed."""

from collections.abc import Callable, Collection
from itertools import combinations
from math import cos, radians, sin
from typing import Any, TypeVar

import numpy as np

from vlmlab.errors import VlmlabError
from vlmlab.scenes import COLOURS, KINDS, MATERIALS, SIZES, Object, Scene, sample
from vlmlab.scenes.kinds import held_out
from vlmlab.scenes.sampling import visible
from vlmlab.scenes.scene import footprint_gap

T = TypeVar("T")
TRIES = 400  # draws for each scene that is wanted
GAP = 0.06  # least distance between footprints


def repeat(build: Callable[[np.random.Generator, int], T | None], n: int, *key: int) -> list[T]:
    """`n` results of `build(rng, number)`, which is called again wherever it gives None; `key` seeds the generator.

    Raises VlmlabError when hardly any draw succeeds.
    """
    rng = np.random.default_rng(key)
    found: list[T] = []
    for _ in range(TRIES * n):
        if len(found) == n:
            break
        made = build(rng, len(found))
        if made is not None:
            found.append(made)
    if len(found) < n:
        raise VlmlabError(f"only {len(found)} of {n} scenes could be set up; ask for fewer or take another seed")
    return found


def room(rng: np.random.Generator) -> Scene:
    """An empty room with camera, light and walls as in the test split."""
    return sample(int(rng.integers(2**31)), split="test", objects=0)


def looks(rng: np.random.Generator, *pools: Collection[str]) -> list[dict[str, Any]]:
    """One object's fields from each pool of kinds: no kind and no colour twice, no combination held out of training."""
    while True:
        kinds = [str(rng.choice(list(pool))) for pool in pools]
        colours = [str(colour) for colour in rng.choice(list(COLOURS), len(pools), replace=False)]
        if len(set(kinds)) == len(kinds) and not any(map(held_out, colours, kinds)):
            return [
                {"kind": kind, "colour": colour, "size": str(rng.choice(list(SIZES))),
                 "material": str(rng.choice(MATERIALS)), "yaw": float(rng.uniform(0, 360))}
                for kind, colour in zip(kinds, colours, strict=True)
            ]  # fmt: skip


def put(scene: Scene, look: dict[str, Any], side: float, away: float) -> Object:
    """An object on the floor, `side` to the right of the middle of the view and `away` behind it, in scene units."""
    c, s = cos(radians(scene.camera.azimuth)), sin(radians(scene.camera.azimuth))
    return Object(**look, x=side * c - away * s, y=side * s + away * c)


def clear(scene: Scene) -> bool:
    """Whether all objects are in view, apart from each other and before the wall."""
    apart = all(footprint_gap(a, b) > GAP for a, b in combinations(scene.objects, 2))
    return apart and all(item.y + max(item.half) < 2.5 for item in scene.objects) and visible(scene)


def in_view(scene: Scene) -> bool:
    """As `clear`, but an object may hide another."""
    apart = all(footprint_gap(a, b) > GAP for a, b in combinations(scene.objects, 2))
    return apart and all(visible(scene.with_objects([item])) for item in scene.objects)


def extent(scene: Scene, index: int) -> tuple[float, float]:
    """The share of the picture that an object fills, and the share of the object that nothing hides.

    The object alone, in the same room, shows what there would be to see; both by masks of 96 x 96 pixels.
    """
    pixels = scene.render(96, 1).mask == index + 1
    alone = scene.with_objects([scene.objects[index]]).render(96, 1).mask == 1
    return float(pixels.mean()), float(pixels.sum() / max(alone.sum(), 1))


def about(scene: Scene, index: int = 0) -> list[tuple[str, str, str, float]]:
    """What can be asked about an object of its own kind and colour: (field, question, answer, chance)."""
    item = scene.objects[index]
    return [
        ("colour", f"What color is the {item.kind}?", item.colour, 1 / len(COLOURS)),
        ("material", f"Is the {item.kind} matte or shiny?", item.material, 1 / len(MATERIALS)),
        ("kind", f"What is the {item.colour} object?", item.kind, 1 / len(KINDS)),
    ]
