"""Notebook 05. VizWiz (Gurari et al. 2018, arXiv 1802.08218): blind people's pictures and questions, ten answers each.

Accuracy as the official program has it: the prediction is normalised, people's answers never are, so a prediction that
copies an answer with a hyphen or an article in it counts as wrong. Many questions cannot be answered from their
picture; whether a model can tell is the second task, where "unanswerable" is the positive class.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import isfinite
from typing import Any, NamedTuple

from vlmlab.benchmarks import records
from vlmlab.benchmarks.asking import Ask, Form, Mark, Said, constantly, frequent, guess, short
from vlmlab.benchmarks.pairs import Tally, share
from vlmlab.benchmarks.records import Answers, File
from vlmlab.benchmarks.vqa_text import consensus, m4c, normalised, tidy
from vlmlab.benchmarks.vqav2 import expected, people
from vlmlab.errors import BadInput

PROFILES = ("official",)
FORM = Form("image", "image", "predictions.json")
INSUFFICIENT = "When the provided information is insufficient, respond with 'Unanswerable'."


class Example(NamedTuple):
    """A picture with its question; answerable: 1, 0, or None where the file does not tell."""

    image: str
    question: str
    answers: tuple[str, ...]
    answer_type: str
    answerable: int | None


def read(annotations: File, questions: None = None) -> list[Example]:
    """The examples of an official file, a list of records by picture, which holds its questions too.

    Raises BadInput naming file, record and field; for a repeated picture, too.
    """
    records.alone(questions, "VizWiz's questions stand in its annotations")
    examples = []
    for record in records.unique(records.stream(annotations), "image"):
        answerable = record.maybe("answerable", int)
        if answerable not in (None, 0, 1):
            raise record.fail("answerable", f"must be 0 or 1, not {answerable}")
        texts = tuple(one["answer"] for one in people(record))
        image, question, kind = (record.need(field, str) for field in ("image", "question", "answer_type"))
        examples.append(Example(image, question, texts, kind, answerable))
    return examples


def asks(examples: Iterable[Example]) -> Iterator[Ask]:
    """The questions as LLaVA-1.5 is asked, with the sentence about what cannot be answered."""
    return (Ask(one.image, one.image, short(one.question, INSUFFICIENT)) for one in examples)


def results(examples: Iterable[Example], said: Mapping[Any, Said]) -> list[dict[str, Any]]:
    """The official results; texts pass M4C's answer processor, as LLaVA-1.5's do before they are submitted."""
    return [{"image": key, "answer": m4c(one.text)} for key, one in said.items()]


def chance(examples: Iterable[Example]) -> float:
    """How often an even guess among all expected answers is what most people said; the types would give some away."""
    return guess((None, expected(one.answers)) for one in examples)


def constants(examples: Iterable[Example]) -> dict[str, dict[Any, str]]:
    """Predictions that always say the same, for the most frequent answers."""
    return constantly((one.image for one in examples), frequent(expected(one.answers) for one in examples))


def marks(examples: Iterable[Example], predictions: Any, profile: str = "official") -> Iterator[Mark]:
    """Picture, accuracy and 1 of each answer; arguments as for `score`."""
    said = records.answers(predictions, "image", "answer", (str,))
    return ((one.image, _accuracy(one.answers, said[one.image]), 1.0) for one in examples)


def score(
    examples: Sequence[Example],
    predictions: File | Sequence[Mapping[str, Any]] | Mapping[str, Any],
    profile: str = "official",
    answerability: File | Sequence[Mapping[str, Any]] | Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Consensus accuracy, overall and by type of answer; and how well a model tells what cannot be answered.

    predictions: an official results file or its records [{"image", "answer"}], or a dict image -> answer; exactly one
        for each picture, as the official program demands.
    answerability: how sure a model is, from 0 to 1, that a question can be answered: a file or records [{"image",
        "answerable"}], or a dict image -> score. Left out, it is taken from the predictions' field `answerable`.
    Returns:
        {"n", "accuracy", "by_answer_type", "official": {"overall", "perAnswerType"}}; with answerability
        "average_precision", "precision", "recall", "f1" of "unanswerable" too (it counts as said where 1 - score is
        above 0.5), and in `official` {"unanswerability": {"average_precision", "f1_score"}}. Official figures are
        per cent with two decimals; the official program's caption metrics are left out.
    Raises UnknownName for a profile not in PROFILES, BadInput for unusable predictions.
    """
    records.profile_of(profile, PROFILES)
    said = records.answers(predictions, "image", "answer", (str,))
    records.matched((example.image for example in examples), said, "picture")
    total, by_type = 0.0, Tally()
    for example in examples:
        accuracy = _accuracy(example.answers, said[example.image])
        total += accuracy
        by_type.add(example.answer_type, accuracy)
    n = len(examples)
    official: dict[str, Any] = {
        "overall": round(100 * share(total, n), 2),
        "perAnswerType": by_type.official(),
    }
    result = {"n": n, "accuracy": share(total, n), "by_answer_type": by_type.rates(), "official": official}
    if answerability is None and _tell(predictions):
        answerability = predictions
    if answerability is not None:
        rates = _unanswerability(examples, records.answers(answerability, "image", "answerable", (str,), (int, float)))
        result |= rates
        official["unanswerability"] = {
            name: round(100 * rates[rate], 2)
            for name, rate in (("average_precision", "average_precision"), ("f1_score", "f1"))
        }
    return result


def _accuracy(answers: Sequence[str], said: str) -> float:
    text = normalised(tidy(said))
    return consensus([one == text for one in answers])


def _tell(predictions: File | Sequence[Mapping[str, Any]] | Mapping[str, Any]) -> bool:
    """Whether a prediction comes with answerability; then all have to."""
    if isinstance(predictions, Mapping):
        return False
    return any("answerable" in record.value for record in records.results(predictions))


def _unanswerability(examples: Sequence[Example], scores: Answers) -> dict[str, float]:
    records.matched((example.image for example in examples), scores, "picture")
    ranked = []
    for example in examples:
        if example.answerable is None:
            raise BadInput(f"{example.image}: the annotations do not tell whether it is answerable; leave the task out")
        if not isfinite(scores[example.image]):
            raise BadInput(f"{scores.file}, id {example.image!r}: the field 'answerable' must be a finite number")
        ranked.append((1.0 - scores[example.image], 1 - example.answerable))
    positives = sum(label for _, label in ranked)
    said = sum(score > 0.5 for score, _ in ranked)
    right = sum(label for score, label in ranked if score > 0.5)
    return {
        "average_precision": average_precision(ranked),
        "precision": share(right, said),
        "recall": share(right, positives),
        "f1": share(2 * right, said + positives),
    }


def average_precision(ranked: Sequence[tuple[float, int]]) -> float:
    """Area under the steps of the precision-recall curve, of pairs (score, label 0 or 1); 0 where no label is 1.

    The sum over thresholds of (R_k - R_{k-1}) P_k; equal scores are one threshold.
    """
    ordered = sorted(ranked, reverse=True)
    positives = sum(label for _, label in ordered)
    area, right, before = 0.0, 0, 0
    for place, (score, label) in enumerate(ordered, 1):
        right += label
        if place == len(ordered) or ordered[place][0] != score:
            area += (right - before) * right / place
            before = right
    return share(area, positives)
