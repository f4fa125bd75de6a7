"""Notebook 05. VizWiz's files about our scenes: pictures taken badly, a third of which do not answer their question.

Each question is asked of three pictures. One cannot answer it: it is too dark, blurred, what is asked about is absent,
or the camera missed it. Two answer it, though they are a little blurred, dim, bright, pale or noisy. So a question's
words do not tell whether it can be answered. Source of the format: Gurari et al. 2018, arXiv 1802.08218.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from typing import Any

import numpy as np

from vlmlab.benchmarks.export.people import UNANSWERABLE, answer_type, refusals, ten
from vlmlab.benchmarks.export.sets import SIZE, Asked, Export, View, alone, held_out, plain, to_json
from vlmlab.scenes import Scene
from vlmlab.scenes.questions import Question

FIRST, SCENES, TRIPLES = 300_000, 900, 20
TYPES = ("existence", "count", "attribute", "referring")
FORMS = ("{}", "{}", "{} Thank you.", "Hi. {}")
Pixels = Callable[[np.ndarray, np.random.Generator], np.ndarray]  # float32 (96, 96, 3), 0 to 255


def _blurred(radius: float) -> Pixels:
    def change(rgb: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        from PIL import Image, ImageFilter

        return np.array(Image.fromarray(rgb.astype(np.uint8)).filter(ImageFilter.GaussianBlur(radius)), np.float32)

    return change


MILD: dict[str, Pixels] = {
    "a little blurred": _blurred(0.8),
    "dim": lambda rgb, rng: 0.6 * rgb,
    "bright": lambda rgb, rng: 1.3 * rgb,
    "pale": lambda rgb, rng: 0.65 * rgb + 60,
    "noisy": lambda rgb, rng: rgb + rng.normal(0, 8, rgb.shape),
}
SPOILT: dict[str, Pixels] = {
    "blurred": _blurred(16),
    "too dark": lambda rgb, rng: 0.03 * rgb + rng.normal(0, 2, rgb.shape),
}
REASONS = (*SPOILT, "absent", "out of frame")


def taken(scene: Scene, how: str, missing: int | None = None) -> np.ndarray:
    """The picture with one of MILD or SPOILT done to it, uint8 (96, 96, 3); the noise comes from the scene's seed.

    missing: an object that the camera missed.
    """
    rgb = (plain(scene) if missing is None else missed(scene, missing)).astype(np.float32)
    pixels = {**MILD, **SPOILT}[how](rgb, np.random.default_rng([22, scene.seed or 0]))
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


def bounds(scene: Scene, index: int) -> tuple[float, float]:
    """Left and right end of an object's bounding box in the picture, 0 to 1."""
    item = scene.objects[index]
    u = scene.camera.project(np.array([(x, y, z) for x, y in item.corners() for z in (item.z, item.top)]))[:, 0]
    return float(u.min()), float(u.max())


def missed(scene: Scene, index: int) -> np.ndarray:
    """A quarter of the picture, drawn as large as the whole, on the side on which an object is not."""
    left = bounds(scene, index)[0] > 0.5
    return scene.render(2 * SIZE).rgb[SIZE // 2 : SIZE // 2 + SIZE, slice(0, SIZE) if left else slice(SIZE, 2 * SIZE)]


def can_miss(scene: Scene, index: int) -> bool:
    """Whether an object stands in one half of the picture and another one in the other half."""
    low, high = bounds(scene, index)
    others = [scene.geometry.u[i] for i in range(len(scene.objects)) if i != index]
    return (low > 0.52 and any(u < 0.4 for u in others)) or (high < 0.48 and any(u > 0.6 for u in others))


def asked(scene: Scene) -> Iterator[Question]:
    """Questions that can be asked: not "Can you see", to which a dark picture answers no, nor for ways to face, whose
    articles the scorer would not forgive."""
    for question in scene.questions(types=TYPES, count=12):
        if question.topic != "facing" and not question.text.startswith("Can"):
            yield question


def fits(question: Question, reason: str) -> bool:
    """Whether a question is beyond answer for a reason. Colours show through any blur."""
    if reason == "blurred":
        return not any("colour" in (step["argument"] or "") for step in question.program)
    return reason == "too dark" or question.type == "attribute"


Shot = tuple[int, int | None]  # the number of a scene, and the object in it that the camera misses


def spoilt(reason: str, question: Question, at: int, scenes: list[Scene], free: Iterable[int]) -> Shot | None:
    """A picture that does not answer a question for a reason; the whole picture of the scene `at` would."""
    if reason in SPOILT:
        return at, None
    kind = question.program[0]["argument"].get("kind")
    if reason == "absent":
        return next(((i, None) for i in free if all(item.kind != kind for item in scenes[i].objects)), None)
    index = alone(scenes[at]).get(kind)
    return None if index is None or not can_miss(scenes[at], index) else (at, index)


def triple(
    reason: str, found: list[tuple[int, Question]], scenes: list[Scene], free: Iterable[int]
) -> tuple[Shot, list[tuple[int, Question]]] | None:
    """A picture that does not answer a question and two that do, with different answers where there are any."""
    left = [(at, question) for at, question in found if at in free]
    for at, question in left if left and fits(left[0][1], reason) else []:
        gone = spoilt(reason, question, at, scenes, free)
        rest = [each for each in left if gone and each[0] not in (at, gone[0])]
        if gone and len(rest) > 1:
            second = next((each for each in rest if each[1].answer != rest[0][1].answer), rest[1])
            return gone, [rest[0], second]
    return None


def build() -> Export:
    """The set: TRIPLES questions a reason, each about three pictures."""
    rng = np.random.default_rng(23)
    scenes = list(islice(held_out(FIRST), SCENES))
    of_text: dict[str, list[tuple[int, Question]]] = {}
    for at, scene in enumerate(scenes):
        for question in asked(scene):
            of_text.setdefault(question.text, []).append((at, question))
    free = dict.fromkeys(range(SCENES))  # every picture is asked about once
    texts = sorted(of_text)
    texts = [texts[i] for i in rng.permutation(len(texts))]
    rows: list[tuple[View, dict[str, Any], Asked]] = []

    def add(shot: Shot, how: str, record: dict[str, Any], question: Question | None, told: str) -> None:
        del free[shot[0]]
        view = View(scenes[shot[0]], partial(taken, how=how, missing=shot[1]))
        rows.append((view, record, Asked("", question, {"picture": told})))

    for reason in REASONS:
        done = 0
        for text in list(texts):
            found = triple(reason, of_text[text], scenes, free)
            if found is None or done == TRIPLES:
                continue
            done += 1
            texts.remove(text)
            form = {"question": FORMS[rng.integers(len(FORMS))].format(text)}
            options = tuple(sorted({question.answer for _, question in of_text[text]}))
            how = reason if reason in SPOILT else str(rng.choice(list(MILD)))
            answers = {"answers": refusals(rng, options), "answer_type": UNANSWERABLE, "answerable": 0}
            add(found[0], how, form | answers, None, reason)
            for at, question in found[1]:
                how = str(rng.choice(list(MILD)))
                answers = {"answers": ten(rng, question.answer, options), "answer_type": answer_type(question.answer)}
                add((at, None), how, form | answers | {"answerable": 1}, question, how)
    rows = [rows[i] for i in rng.permutation(len(rows))]
    names = [f"VizWiz_val_{number:08d}.jpg" for number in range(len(rows))]
    named = list(zip(names, rows, strict=True))
    return Export(
        {"val.json": to_json([{"image": name, **record} for name, (_, record, _) in named])},
        {name: view for name, (view, *_) in named},
        {name: about._replace(image=name) for name, (*_, about) in named},
    )
