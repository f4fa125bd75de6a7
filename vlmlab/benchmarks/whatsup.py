"""Notebook 05. What'sUp, controlled pictures: two objects in four places. Kamath et al. 2023, arXiv 2310.19785.

A model chooses among four captions that differ only in the preposition. In a pair the places are opposite (left and
right; on and under, or in front and behind), in a set they are all four. People reach 99 %, chance is 25 %.
"""

import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from vlmlab.benchmarks.asking import Ask, Form, Said
from vlmlab.benchmarks.pairs import breakdown, pair_accuracy, set_accuracy, share
from vlmlab.benchmarks.records import Answers, File, Record, alone, answers, matched, profile_of, stream

PROFILES = ("official", "strict")
FORM = Form("image_path", "image_path", "predictions.json", ("likelihood",))
OPPOSITES = {"left": "right", "on": "under", "front": "behind"}
PREPOSITIONS = {*OPPOSITES, *OPPOSITES.values()}
OPTIONS = 4


class Example(NamedTuple):
    """A picture and its captions, the true one first; `objects` and `preposition` are those of the picture's name."""

    image: str
    captions: tuple[str, ...]
    objects: tuple[str, str]
    preposition: str


def read(annotations: File, questions: File | None = None) -> list[Example]:
    """The pictures of a subset: a JSON list of image_path and caption_options (four, the true one first).

    A name as mug_left_of_plate.jpeg tells objects and place. Raises BadInput, also for a separate file of questions.
    """
    alone(questions, "What'sUp's captions stand in its annotations")
    found: dict[Any, Example] = {}
    for record in stream(annotations):
        image, captions = record.need("image_path", str), record.need("caption_options", list)
        if len(captions) != OPTIONS or not all(isinstance(caption, str) for caption in captions):
            raise record.fail("caption_options", f"must be {OPTIONS} strings")
        first, *middle = PurePosixPath(image).stem.split("_")
        places = PREPOSITIONS.intersection(re.split("[_-]", "_".join(middle[:-1])))
        if len(places) != 1:
            raise record.fail("image_path", f"must be as in mug_left_of_plate.jpeg, not {image!r}")
        example = Example(image, tuple(captions), (first, middle[-1]), places.pop())
        if earlier := found.get(example[2:]):
            raise record.fail("image_path", f"shows the same objects in the same place as {earlier.image!r}")
        found[example[2:]] = example
    return list(found.values())


def asks(examples: Sequence[Example]) -> Iterator[Ask]:
    """The captions of each picture, as answers to LLaVA-1.5's format prompt for captions."""
    from vlmlab.vlm.conversations import BRIEF

    return (Ask(one.image, one.image, BRIEF, one.captions) for one in examples)


def results(examples: Sequence[Example], said: Mapping[Any, Said]) -> list[list[float]]:
    """The four captions' log-probabilities for each picture; so `score` sees ties."""
    return [list(said[one.image].scores) for one in examples]


def chance(examples: Sequence[Example]) -> float:
    """The accuracy of an even guess among the captions."""
    return 1 / OPTIONS


def constants(examples: Sequence[Example]) -> dict[str, list[int]]:
    """Predictions that always say the same preposition: right where it is the picture's."""
    known = sorted({one.preposition for one in examples})
    return {name: [0 if one.preposition == name else 1 for one in examples] for name in known}


def score(examples: Sequence[Example], predictions: Any, profile: str = "official") -> dict[str, Any]:
    """Accuracy of single pictures, of pairs and of sets.

    Args:
        predictions: the chosen option (0 to 3, as in the file: 0 is the true one), or a list of four scores of which
            the highest wins; one for each picture in order, or a dict by image path; or a JSON file of either.
        profile: "official" takes the first of equal highest scores; as the true caption stands first, a model that
            scores all captions alike gets 100 %. Under "strict" a tie is wrong.
    Returns:
        {"n", "accuracy", "pairs", "pair_accuracy", "sets", "set_accuracy", "ties", "by_preposition", "official"}. Pairs
        and sets are those that the examples hold whole. `official` has per cent, and the official program's
        denominators: half and a quarter of the pictures.
    Raises UnknownName for another profile, BadInput unless there is one prediction a picture.
    """
    profile_of(profile, PROFILES)
    best = _best(examples, predictions)
    right = [0 in each if profile == "official" else each == [0] for each in best]
    places: dict[tuple[str, str], dict[str, int]] = {}
    for index, example in enumerate(examples):
        places.setdefault(example.objects, {})[example.preposition] = index
    pairs = [(at[a], at[b]) for at in places.values() for a, b in OPPOSITES.items() if a in at and b in at]
    sets = [tuple(at.values()) for at in places.values() if len(at) == OPTIONS]
    n, accuracy = len(right), share(sum(right), len(right))
    of_pairs, of_sets = pair_accuracy(right, pairs), set_accuracy(right, sets)
    return {
        "n": n,
        "accuracy": accuracy,
        "pairs": len(pairs),
        "pair_accuracy": of_pairs,
        "sets": len(sets),
        "set_accuracy": of_sets,
        "ties": sum(len(each) > 1 for each in best),
        "by_preposition": breakdown((one.preposition, mark) for one, mark in zip(examples, right, strict=True)),
        "official": {
            "Individual accuracy": 100 * accuracy,
            "Pair accuracy": 100 * share(round(of_pairs * len(pairs)), n / 2),
            "Set accuracy": 100 * share(round(of_sets * len(sets)), n / 4),
        },
    }


def _best(examples: Sequence[Example], predictions: Any) -> list[list[int]]:
    """The options with the highest score, for each picture: one, or several that tie."""
    file = Answers.file
    if isinstance(predictions, str | os.PathLike):
        from vlmlab.files import read_json

        file, predictions = str(predictions), read_json(predictions)
    if not isinstance(predictions, Mapping):
        names = [example.image for example in examples]
        predictions = {
            names[index] if index < len(names) else f"number {index + 1}": value
            for index, value in enumerate(predictions)
        }
    given = answers(predictions, "image_path", "prediction", (str,), (int, list, tuple))
    given.file = file
    matched((example.image for example in examples), given, "picture")
    best = []
    for example in examples:
        value = given[example.image]
        if isinstance(value, int) and 0 <= value < OPTIONS:
            best.append([value])
        elif not isinstance(value, int) and len(value) == OPTIONS and all(map(_is_score, value)):
            best.append([option for option, number in enumerate(value) if number == max(value)])
        else:
            problem = f"must be an option from 0 to {OPTIONS - 1} or {OPTIONS} scores, not {value!r}"
            raise Record(file, f"picture {example.image!r}", {}).fail("prediction", problem)
    return best


def _is_score(value: Any) -> bool:
    return isinstance(value, int | float) and not math.isnan(value)
