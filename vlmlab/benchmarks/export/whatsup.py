"""Notebook 05. What'sUp's controlled pictures of our world: one object in four places about another, all else the same.

Its two subsets: left of, right of, on and under a table or chair (controlled_images), and left of, right of, in front
of and behind (controlled_clevr). Of the four captions of a picture exactly one is true, beyond doubt. No two objects
are in both subsets, so that the file of both together has whole pairs and sets. Source: Kamath et al. 2023, arXiv
2310.19785.
"""

from collections.abc import Iterator
from dataclasses import replace
from itertools import count, islice, permutations

import numpy as np

from vlmlab.benchmarks.export.sets import FIRST_SEED, SIZE, UNSEEN, Export, View, plain, to_json
from vlmlab.errors import VlmlabError
from vlmlab.scenes import COLOURS, KINDS, Scene, holds, sample
from vlmlab.scenes.captions import article
from vlmlab.scenes.kinds import SMALL_THINGS, held_out
from vlmlab.scenes.sampling import visible

FIRST, SETS = 600_000, {"controlled_images": 24, "controlled_clevr": 40}
PLACES = {
    "controlled_images": {"left": "left of", "right": "right of", "on": "on", "under": "under"},
    "controlled_clevr": {"left": "left of", "right": "right of", "front": "in front of", "behind": "behind"},
}
"""Subset -> preposition -> the scene's relation."""
WORDS = {"left": ("to the left of", "left_of"), "right": ("to the right of", "right_of"), "on": ("on", "on"),
         "under": ("under", "under"), "front": ("in front of", "in-front_of"),
         "behind": ("behind", "behind")}  # fmt: skip
"""Preposition -> as a caption says it, and as a picture's name does."""
SEEN, SHARE = 50, 0.4  # pixels of each object in view, and their share of those where it is seen best
CONTRAST = 40  # of 255: a pixel of the first object shows if it differs so much from the picture without it
ROOM = {"left": -0.25, "right": 0.25, "front": -0.6, "behind": 0.6}  # between the two, towards right or back


def moved(scene: Scene, place: str) -> Scene | None:
    """The first object brought to a place about the second, which stays; None where it does not fit or is hidden."""
    item, other = scene.objects
    g = scene.geometry
    if place in ("on", "under"):
        spot = other.place(place)
        if spot is None or item.height > spot.room or max(item.half) > 1.25 * min(spot.x, spot.y):
            return None
        x, y = other.world(0.0, spot.offset)
        changed = replace(item, x=float(x), y=float(y), z=other.z + spot.z)
    else:
        axis = g.right if place in ("left", "right") else g.forward
        far = max(item.half) + max(other.half) + abs(ROOM[place])
        x, y = np.array([other.x, other.y]) + np.copysign(far, ROOM[place]) * axis
        changed = replace(item, x=float(x), y=float(y), z=0.0)
    found = replace(scene, objects=(changed, other), _cache={})
    return found if visible(found) else None


def four(scene: Scene, subset: str) -> dict[str, Scene] | None:
    """A scene for each place of a subset, in each of which exactly its own relation holds; None without them."""
    places = PLACES[subset]
    found = {}
    for place in places:
        put = moved(scene, place)
        if put is None or [name for name, relation in places.items() if holds(put, relation, 0, 1)] != [place]:
            return None
        found[place] = put
    empty = replace(scene, objects=scene.objects[1:], _cache={}).render(SIZE, samples=1).rgb.astype(int)
    renders = [put.render(SIZE, samples=1) for put in found.values()]
    plainly = [abs(each.rgb - empty).max(-1) > CONTRAST for each in renders]
    moving = [int((seen & (each.mask == 1)).sum()) for seen, each in zip(plainly, renders, strict=True)]
    resting = [int((each.mask == 2).sum()) for each in renders]
    clear = all(min(pixels) >= max(SEEN, SHARE * max(pixels)) for pixels in (moving, resting))
    return found if clear else None


def kinds(subset: str) -> list[tuple[str, str]]:
    """The pairs of kinds that a subset may show."""
    if subset == "controlled_images":
        return [(a, b) for a in SMALL_THINGS for b in ("table", "chair")]
    return [(a, b) for a, b in permutations(KINDS, 2) if b not in ("table", "chair")]


def sets(subset: str) -> Iterator[tuple[str, str, dict[str, Scene]]]:
    """Without end: the names of two objects, and their scenes by place. No two objects come twice."""
    rng = np.random.default_rng([26, len(subset)])
    pairs, names = kinds(subset), set()
    for number in count():
        a, b = pairs[rng.integers(len(pairs))]
        split = "test_combinations" if number % UNSEEN == UNSEEN - 1 else "test"
        looks = [
            [colour for colour in COLOURS if held_out(colour, kind) == (split != "test" and kind == a)]
            for kind in (a, b)
        ]
        first, second = (str(rng.choice(colours)) for colours in looks)
        if first == second or (first, a, second, b) in names:
            continue
        include = [{"kind": a, "colour": first, "size": "small"}, {"kind": b, "colour": second, "size": "large"}]
        try:
            scene = sample(FIRST_SEED + FIRST + number, split=split, objects=2, include=include)
        except VlmlabError:
            continue
        found = four(scene, subset)
        if found:
            names.add((first, a, second, b))
            yield f"{first} {a}", f"{second} {b}", found


def build() -> Export:
    """The set: both subsets, in a file each and together."""
    texts, pictures, rows = {}, {}, []
    for subset, number in SETS.items():
        records = []
        for a, b, found in islice(sets(subset), number):
            for place, scene in found.items():
                name = f"{a.replace(' ', '-')}_{WORDS[place][1]}_{b.replace(' ', '-')}"
                path = f"{subset}/{name}.jpeg"
                options = [place, *(other for other in found if other != place)]
                captions = [f"{article(a).capitalize()} {WORDS[each][0]} {article(b)}" for each in options]
                records.append({"image_path": path, "caption_options": captions})
                pictures[path] = View(scene, plain)
        texts[f"{subset}_dataset.json"] = to_json(records)
        rows += records
    return Export({**texts, "controlled_dataset.json": to_json(rows)}, pictures)
