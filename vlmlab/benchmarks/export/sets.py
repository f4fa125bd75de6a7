"""Notebook 05. What all exported sets share: their pictures, their JSON, and pairs of questions that words do not tell.

A pair asks the same of two pictures that have different answers, as the complementary pairs of VQAv2 do (Goyal et al.
2017, arXiv 1612.00837, section 3). Whoever does not look is right about one of the two at most.
"""

import json
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import asdict
from io import BytesIO
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vlmlab.errors import BadInput
from vlmlab.files import atomic_path, write_text
from vlmlab.scenes import Scene, sample
from vlmlab.scenes.questions import Question

SIZE = 96  # pixels a side
FIRST_SEED = 5_000_000  # far from the seeds of other exams
UNSEEN = 5  # one scene in so many is of the split test_combinations
ENCODING: dict[str, dict[str, Any]] = {
    ".png": {"format": "PNG", "optimize": True},
    ".jpg": {"format": "JPEG", "quality": 95, "subsampling": 0},
}


def plain(scene: Scene) -> np.ndarray:
    """The picture as the models see it, uint8 (96, 96, 3)."""
    return scene.render(SIZE).rgb


class View(NamedTuple):
    """A picture: the scene it shows, and how it is drawn, uint8 (H, W, 3)."""

    scene: Scene
    draw: Callable[[Scene], np.ndarray] = plain


class Asked(NamedTuple):
    """A question with its program, the picture it is asked about, and what stands with it in scenes.json."""

    image: str
    question: Question | None
    more: dict[str, str] = {}  # noqa: RUF012 (never changed)


class Export(NamedTuple):
    """A set: `texts` by file name, `pictures` by path below images/, and the questions that have programs, by id."""

    texts: dict[str, str]
    pictures: dict[str, View]
    asked: dict[str, Asked] = {}  # noqa: RUF012 (never changed)

    @property
    def truth(self) -> str:
        """The content of scenes.json."""
        scenes = {image: json.loads(view.scene.to_json()) for image, view in self.pictures.items()}
        asked = {
            name: {"image": one.image, **one.more, "question": one.question and asdict(one.question)}
            for name, one in self.asked.items()
        }
        return to_json({"pictures": scenes, "questions": asked}, 2)


def write(export: Export, folder: Path) -> None:
    """Write a set. Raises BadInput where the folder has other pictures than the set's; then nothing is written."""
    old = (path.relative_to(folder / "images").as_posix() for path in sorted((folder / "images").rglob("*.*g")))
    if other := next((path for path in old if path not in export.pictures), None):
        raise BadInput(f"{folder}/images/{other} is not of this set; delete it or choose another folder with --out")
    for name, view in export.pictures.items():
        data = encode(view.draw(view.scene), Path(name).suffix)
        with atomic_path(folder / "images" / name) as temporary:
            temporary.write_bytes(data)
    for name, text in {**export.texts, "scenes.json": export.truth}.items():
        write_text(folder / name, text)


def encode(rgb: np.ndarray, suffix: str) -> bytes:
    """The bytes of a picture file, uint8 (H, W, 3) to PNG or to JPEG of quality 95 with full colour."""
    from PIL import Image

    buffer = BytesIO()
    Image.fromarray(rgb).save(buffer, **ENCODING[suffix.replace("jpeg", "jpg")])
    return buffer.getvalue()


def to_json(value: Any, depth: int = 1) -> str:
    """JSON with the items of the outermost `depth` lists and objects on lines of their own."""

    def spread(item: Any, left: int) -> str:
        if not left or not isinstance(item, list | dict) or not item:
            return json.dumps(item, ensure_ascii=False)
        if isinstance(item, list):
            return "[\n" + ",\n".join(spread(each, left - 1) for each in item) + "\n]"
        rows = (f"{json.dumps(name, ensure_ascii=False)}: {spread(each, left - 1)}" for name, each in item.items())
        return "{\n" + ",\n".join(rows) + "\n}"

    return spread(value, depth) + "\n"


def to_lines(rows: Iterable[dict[str, Any]]) -> str:
    """JSON lines."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def held_out(first: int, **constraints: Any) -> Iterator[Scene]:
    """Scenes without end, from seed FIRST_SEED + first on: four of the split `test`, one of `test_combinations`."""
    for number in count():
        split = "test_combinations" if number % UNSEEN == UNSEEN - 1 else "test"
        yield sample(FIRST_SEED + first + number, split=split, **constraints)


def alone(scene: Scene) -> dict[str, int]:
    """Kinds that name one object of the scene -> its index."""
    kinds = Counter(item.kind for item in scene.objects)
    return {item.kind: index for index, item in enumerate(scene.objects) if kinds[item.kind] == 1}


class Candidate(NamedTuple):
    """A question that might be asked: `group` is what there shall be equally many of, `words` all that a blind model
    knows of it, `answer` the truth, `picture` the number of its picture, `item` what it is made of."""

    group: Hashable
    words: Any
    answer: Any
    picture: int
    item: Any


def pairs(candidates: Iterable[Candidate], quota: int, most: int = 4) -> list[tuple[Candidate, Candidate]]:
    """Pairs with the same words, different answers and different pictures: up to `quota` a group, on few pictures.

    Rare groups choose first; of its pairs, a group takes those that need the fewest new pictures, then those whose
    answers it has least of. most: questions a picture.
    """
    groups: dict[Hashable, dict[Hashable, list[Candidate]]] = {}
    for each in candidates:
        groups.setdefault(each.group, {}).setdefault(each.words, []).append(each)
    used: Counter[int] = Counter()
    chosen = []
    for group in sorted(groups, key=lambda name: sum(map(len, groups[name].values()))):
        answers: Counter[Hashable] = Counter()

        def cost(each: Candidate, answers: Counter[Hashable] = answers) -> tuple[int, int, int]:
            return (
                2 * (used[each.picture] == 0) + 9 * (used[each.picture] >= most),
                answers[each.answer],
                each.picture,
            )

        rest = groups[group]
        for _ in range(quota):
            best = None
            for words, members in rest.items():
                first = min(members, key=cost)
                others = [m for m in members if m.answer != first.answer and m.picture != first.picture]
                if not others:
                    continue
                second = min(others, key=cost)
                price = tuple(a + b for a, b in zip(cost(first), cost(second), strict=True))
                if price[0] < 9 and (best is None or price[:2] < best[0]):
                    best = price[:2], words, first, second
            if best is None:
                break
            _, words, first, second = best
            del rest[words]
            for each in (first, second):
                used[each.picture] += 1
                answers[each.answer] += 1
            chosen.append((first, second))
    return chosen
