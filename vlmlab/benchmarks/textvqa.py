"""Notebook 05. TextVQA (Singh et al. 2019, arXiv 1904.08920): questions about text in pictures, ten answers each.

Scored as M4C does (Hu et al. 2020, arXiv 1911.06258), and LLaVA-1.5 after it: prediction and people's answers always
pass its answer processor, and the prediction gets the consensus accuracy of the same answer among the ten.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from vlmlab.benchmarks import records
from vlmlab.benchmarks.asking import Ask, Form, Mark, Said, constantly, frequent, guess, short
from vlmlab.benchmarks.pairs import share
from vlmlab.benchmarks.records import File, Record
from vlmlab.benchmarks.vqa_text import consensus, m4c
from vlmlab.benchmarks.vqav2 import expected

PROFILES = ("m4c",)
FORM = Form("question_id", "image_id", "predictions.json")
PEOPLE = 10


class Example(NamedTuple):
    """A question about a picture, and what ten people answered."""

    question_id: int
    image_id: str
    question: str
    answers: tuple[str, ...]


def read(annotations: File, questions: None = None) -> list[Example]:
    """The examples of an official file {"data": [...]}, which holds its questions too.

    Raises BadInput naming file, record and field; for a repeated question, and for other than ten answers, too.
    """
    records.alone(questions, "TextVQA's questions stand in its annotations")
    return [_example(record) for record in records.unique(records.stream(annotations, "data"), "question_id")]


def _example(record: Record) -> Example:
    found = record.need("answers", list)
    if len(found) != PEOPLE or not all(isinstance(one, str) for one in found):
        raise record.fail("answers", f"must hold {PEOPLE} strings")
    return Example(
        record.need("question_id", int), record.need("image_id", str), record.need("question", str), tuple(found)
    )


def asks(examples: Iterable[Example]) -> Iterator[Ask]:
    """The questions as LLaVA-1.5 is asked, but without the words that an OCR program finds in the picture."""
    for one in examples:
        yield Ask(one.question_id, f"{one.image_id}.jpg", short(one.question))


def results(examples: Iterable[Example], said: Mapping[Any, Said]) -> list[dict[str, Any]]:
    """The official results."""
    return [{"question_id": key, "answer": one.text} for key, one in said.items()]


def chance(examples: Iterable[Example]) -> float:
    """How often an even guess among all expected answers is what most people said."""
    return guess((None, expected(map(m4c, one.answers))) for one in examples)


def constants(examples: Iterable[Example]) -> dict[str, dict[Any, str]]:
    """Predictions that always say the same, for the most frequent answers."""
    most = frequent(expected(map(m4c, one.answers)) for one in examples)
    return constantly((one.question_id for one in examples), most)


def marks(examples: Iterable[Example], predictions: Any, profile: str = "official") -> Iterator[Mark]:
    """Picture, accuracy and 1 of each answer; arguments as for `score`."""
    said = records.answers(predictions, "question_id", "answer")
    return ((one.image_id, _accuracy(one.answers, said[one.question_id]), 1.0) for one in examples)


def score(
    examples: Sequence[Example],
    predictions: File | Iterable[Mapping[str, Any]] | Mapping[int, str],
    profile: str = "official",
) -> dict[str, Any]:
    """Consensus accuracy.

    predictions: a results file or its records [{"question_id", "answer"}], or a dict question_id -> answer. The
        official program scores a subset in silence; here each question wants its answer, as the challenge does.
    Returns {"n", "accuracy", "official": {"Samples", "Accuracy"}}; the official accuracy is per cent with two decimals.
    Raises UnknownName for a profile not in PROFILES, BadInput for unusable predictions.
    """
    records.profile_of(profile, PROFILES)
    said = records.answers(predictions, "question_id", "answer")
    records.matched((example.question_id for example in examples), said)
    total = sum(_accuracy(example.answers, said[example.question_id]) for example in examples)
    n = len(examples)
    return {
        "n": n,
        "accuracy": share(total, n),
        "official": {"Samples": n, "Accuracy": round(100 * share(total, n), 2)},
    }


def _accuracy(answers: Sequence[str], said: str) -> float:
    said = m4c(said)
    return consensus([m4c(one) == said for one in answers])
