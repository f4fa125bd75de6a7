"""Notebook 05. POPE's three splits by its own rules (Li et al. 2023, arXiv 2305.10355, section 5.1).

Of each picture with three kinds or more, the first three are asked about, and each time an absent one: "random" draws
it, "popular" takes the one that most pictures have, "adversarial" the one that stands in most pictures beside the kind
just asked about. None is asked about twice in a picture; of equal counts the kind listed first is taken.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice, permutations

import numpy as np

from vlmlab.benchmarks.export.sets import Export, View, held_out, to_lines
from vlmlab.scenes import KINDS, Scene
from vlmlab.scenes.captions import article

SPLITS = ("random", "popular", "adversarial")
FIRST, PICTURES, ASKED = 0, 100, 3


def kinds(scene: Scene) -> list[str]:
    """The kinds of a scene in the order of its objects."""
    return list(dict.fromkeys(item.kind for item in scene.objects))


def build() -> Export:
    """The set: the same pictures in all three splits."""
    scenes = list(islice((scene for scene in held_out(FIRST) if len(kinds(scene)) >= ASKED), PICTURES))
    names = [f"COCO_val2014_{number:012d}.jpg" for number in range(1, PICTURES + 1)]
    shown = [kinds(scene) for scene in scenes]
    texts = {f"coco_pope_{split}.json": to_lines(questions(split, names, shown)) for split in SPLITS}
    return Export(texts, {name: View(scene) for name, scene in zip(names, scenes, strict=True)})


def questions(split: str, names: Sequence[str], shown: Sequence[Sequence[str]]) -> Iterator[dict]:
    """POPE's records about pictures by their names and the kinds that each shows."""
    rng = np.random.default_rng([20, SPLITS.index(split)])
    frequency = Counter(kind for each in shown for kind in each)
    beside = Counter(pair for each in shown for pair in permutations(each, 2))
    number = 0
    for name, there in zip(names, shown, strict=True):
        absent = [kind for kind in KINDS if kind not in there]
        for kind in there[:ASKED]:
            if split == "random":
                other = absent[rng.integers(len(absent))]
            else:
                counts = {each: frequency[each] if split == "popular" else beside[kind, each] for each in absent}
                other = max(absent, key=counts.__getitem__)
            absent.remove(other)
            for asked, label in ((kind, "yes"), (other, "no")):
                number += 1
                text = f"Is there {article(asked)} in the image?"
                yield {"question_id": number, "image": name, "text": text, "label": label}
