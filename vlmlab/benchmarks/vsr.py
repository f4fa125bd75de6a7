"""Notebook 05. VSR, Visual Spatial Reasoning: is a sentence about two objects true? Liu et al. 2023, arXiv 2205.00363.

Every sentence has one of 66 relations, in seven categories. Half of the sentences are true.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vlmlab.benchmarks.asking import METHODS, Ask, Form, Said
from vlmlab.benchmarks.pairs import breakdown, share
from vlmlab.benchmarks.records import Answers, File, Record, alone, answers, lines, matched, profile_of
from vlmlab.errors import BadInput

PROFILES = ("official",)
FORM = Form("index", "image", "predictions.txt", METHODS[::-1])
HUMAN, CHANCE = 0.954, 0.5  # the paper's human accuracy (abstract), and a coin's

RELATIONS = {
    "Adjacency": (
        "adjacent to, alongside, at the side of, at the right side of, at the left side of, attached to, "
        "at the back of, ahead of, against, at the edge of"
    ),
    "Directional": (
        "off, past, toward, down, deep down, up, away from, along, around, from, into, to, across, across from, "
        "through, down from"
    ),
    "Orientation": "facing, facing away from, parallel to, perpendicular to",
    "Projective": (
        "on top of, beneath, beside, behind, left of, right of, under, in front of, below, above, over, "
        "in the middle of"
    ),
    "Proximity": "by, close to, near, far from, far away from",
    "Topological": (
        "connected to, detached from, has as a part, part of, contains, within, at, on, in, with, surrounding, among, "
        "consists of, out of, between, inside, outside, touching"
    ),
    "Unallocated": "beyond, next to, opposite to, after, enclosed by",
}
CATEGORIES = {relation: category for category, names in RELATIONS.items() for relation in names.split(", ")}
"""Relation -> category, for every relation of the paper's table 1, those without sentences in the data set included."""


class Example(NamedTuple):
    """A sentence about a picture; `label` is 1 where it is true. Fields that a file does not have are None."""

    image: str
    caption: str
    label: int
    relation: str
    reference_frame: str | None = None
    subject: str | None = None
    object: str | None = None

    @property
    def category(self) -> str:
        """One of the seven, or "Unknown" for a relation that the paper's table does not have."""
        return CATEGORIES.get(self.relation, "Unknown")


def read(annotations: File, questions: File | None = None) -> list[Example]:
    """The sentences of a split: JSON lines of image, caption, label (0 or 1), relation.

    Raises BadInput, also for a separate file of questions.
    """
    alone(questions, "VSR's sentences stand in its annotations")
    found = []
    for record in lines(annotations):
        label = record.need("label", int)
        if label not in (0, 1):
            raise record.fail("label", f"must be 0 or 1, not {label}")
        found.append(
            Example(
                record.need("image", str),
                record.need("caption", str),
                label,
                record.need("relation", str),
                *(record.maybe(field, str) for field in ("reference_frame", "subj", "obj")),
            )
        )
    return found


def asks(examples: Sequence[Example]) -> Iterator[Ask]:
    """The sentences as the evaluation of Prismatic VLMs (arXiv 2402.07865), and Cobra's with it, puts them to a model.

    It then compares the likelihoods of "True" and "False", which makes "likelihood" the published method.
    """
    for index, one in enumerate(examples):
        prompt = f'Based on the image, is this statement "True" or "False"? {one.caption}'
        yield Ask(index, one.image, f'{prompt}\nRespond with "True" or "False" directly.', ("True", "False"))


def parse(text: str) -> int:
    """1 if the first of the words true, yes, false, no in a text is true or yes; 0 otherwise, also where none is."""
    found = re.search(r"\b(true|yes|false|no)\b", text.lower())
    return int(found is not None and found[1] in ("true", "yes"))


def results(examples: Sequence[Example], said: Mapping[Any, Said]) -> list[int]:
    """0 or 1 for each sentence."""
    return [parse(said[index].text) for index in range(len(examples))]


def chance(examples: Sequence[Example]) -> float:
    """A coin's accuracy."""
    return CHANCE


def constants(examples: Sequence[Example]) -> dict[str, list[int]]:
    """Predictions that find every sentence true, or every one false."""
    return {"True": [1] * len(examples), "False": [0] * len(examples)}


def score(examples: Sequence[Example], predictions: Any, profile: str = "official") -> dict[str, Any]:
    """Accuracy overall, by relation, by category and, where the file tells it, by frame of reference.

    Args:
        predictions: 0 or 1 for each sentence in order, as a text file with one a line, a JSON list (a file or in
            memory), or a dict from the sentence's index (from 0).
    Returns:
        {"n", "accuracy", "yes_ratio", "by_relation", "by_category", "by_reference_frame", "official"}; yes_ratio is the
        share of sentences said to be true. `official` has the accuracy in per cent with the paper's one decimal.
    Raises UnknownName for another profile, BadInput unless there is one prediction a sentence.
    """
    profile_of(profile, PROFILES)
    said = _said(predictions)
    matched(range(len(examples)), said, "sentence")
    marks = [(example, said[index] == example.label) for index, example in enumerate(examples)]
    accuracy = share(sum(right for _, right in marks), len(marks))
    return {
        "n": len(marks),
        "accuracy": accuracy,
        "yes_ratio": share(sum(said.values()), len(marks)),
        "by_relation": breakdown((example.relation, right) for example, right in marks),
        "by_category": breakdown((example.category, right) for example, right in marks),
        "by_reference_frame": breakdown((one.reference_frame, right) for one, right in marks if one.reference_frame),
        "official": {"accuracy": round(100 * accuracy, 1)},
    }


def _said(predictions: Any) -> Answers:
    """Predictions by index of the sentence."""
    file = Answers.file
    if isinstance(predictions, str | os.PathLike):
        file, predictions = str(predictions), _load(predictions)
    if not isinstance(predictions, Mapping):
        predictions = dict(enumerate(predictions))
    said = answers(predictions, "index", "prediction", (int,), (int, bool))
    said.file = file
    for index, value in said.items():
        if value not in (0, 1):
            raise Record(file, f"index {index}", {}).fail("prediction", f"must be 0 or 1, not {value}")
    return said


def _load(path: File) -> Any:
    """The list or dict in a predictions file."""
    try:
        text = Path(path).read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        raise BadInput(f"no such file: {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} cannot be read ({error})") from None
    if text[:1] in ("[", "{"):
        from vlmlab.files import read_json

        value = read_json(path)
        # JSON has only strings for keys
        return {int(k) if k.isdecimal() else k: v for k, v in value.items()} if isinstance(value, dict) else value
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip() not in ("0", "1"):
            raise BadInput(f"{path}, line {number} must be 0 or 1, not {line!r}")
    return list(map(int, text.split()))
