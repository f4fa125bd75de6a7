"""Notebook 05. POPE: does a model see objects that are not there? Li et al. 2023, arXiv 2305.10355.

One split (random, popular or adversarial) a file. A question asks whether an object is in the picture; half of the
answers are no. "official" reads a model's text as the official program does, "robust" as a person would.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from vlmlab.benchmarks.asking import METHODS, Ask, Form, Said, constantly, short
from vlmlab.benchmarks.pairs import breakdown, share
from vlmlab.benchmarks.records import Answers, File, Record, alone, answers, lines, matched, profile_of, unique
from vlmlab.errors import BadInput

PROFILES = ("official", "robust")
FORM = Form("question_id", "image", "predictions.jsonl", METHODS)

LEADING = re.compile(r"\W*(yes|yeah|yep|yup|no|nope|nah)\b(?!\s*(?:/|or\b))")
ALONE = re.compile(r"\W*(yes|yeah|yep|yup|no|nope|nah)\s*(?:,|$)")
UNSURE = re.compile(
    r"\b(?:unsure|uncertain|unclear|unable|maybe|perhaps|possibly|might|may|whether|yes\s*(?:/|or)\s*no)\b"
    r"|(?:\bnot|n't|\bcannot)\s+(?:be\s+)?(?:sure|certain|clear|tell|determine|say|know)\b"
)
DENIES = re.compile(r"\b(?:no|nope|not|none|nothing|nobody|never|neither|cannot|without|absent|missing)\b|n't\b")
AFFIRMS = re.compile(r"\b(?:yes|is|are|there's|appears?|seems?|see|shows?|contains?|includes?|features?|has)\b")


class Example(NamedTuple):
    """A question about an object; `answer` is "yes" or "no"."""

    question_id: int | str
    image: str
    question: str
    answer: str


class Difference(NamedTuple):
    """A text that the two parsers read differently; `robust` is None where the text gives no clear answer."""

    id: Any
    text: str
    official: str
    robust: str | None


def read(annotations: File, questions: File | None = None) -> list[Example]:
    """The questions of one split: JSON lines of question_id, image, text and label ("yes" or "no").

    Raises BadInput, also where ids repeat (several splits in one file) and for a separate file of questions.
    """
    alone(questions, "POPE's questions stand in its annotations")
    found = []
    for record in unique(lines(annotations), "question_id"):
        label = record.need("label", str)
        if label not in ("yes", "no"):
            raise record.fail("label", f"must be 'yes' or 'no', not {label!r}")
        asked = record.need("question_id", int, str), record.need("image", str), record.need("text", str)
        found.append(Example(*asked, label))
    return found


def asks(examples: Sequence[Example]) -> Iterator[Ask]:
    """The questions as LLaVA-1.5 is asked."""
    return (Ask(one.question_id, one.image, short(one.question), ("yes", "no")) for one in examples)


def results(examples: Sequence[Example], said: Mapping[Any, Said]) -> list[dict[str, Any]]:
    """The records of POPE's own files, with the ids."""
    return [
        {"question_id": one.question_id, "question": one.question, "answer": said[one.question_id].text}
        for one in examples
    ]


def chance(examples: Sequence[Example]) -> float:
    """A coin's accuracy."""
    return 0.5


def constants(examples: Sequence[Example]) -> dict[str, dict[Any, str]]:
    """Predictions that are always yes, or always no."""
    return constantly((one.question_id for one in examples), ("yes", "no"))


def parse_official(text: str) -> str:
    """The official program's reading: "no" if a word before the first period is exactly No, no or not; else "yes".

    So "NO", "Nope", "There isn't a dog", "No\\n" and the empty text are a yes.
    """
    words = text.split(".")[0].replace(",", "").split(" ")
    return "no" if {"No", "no", "not"} & set(words) else "yes"


def parse_robust(text: str) -> str | None:
    """ "yes", "no", or None where the text gives no clear answer.

    A yes or no that begins the text decides, and so does one that is a sentence's first word before a comma, or its
    only word. Otherwise each sentence or clause with "but" denies ("not", "there isn't", "none"), affirms ("there is",
    "shows") or says nothing ("yes or no?", "it is not clear"). The first denies: no. All affirm: yes. An affirmation
    with a later denial ("there is a cat but no dog") is unclear, since only the question could tell.
    """
    sentences = re.split(r"[.!?;\n]+|\bbut\b|\bhowever\b", text.lower().replace("’", "'"))
    if first := LEADING.match(sentences[0]):
        return "yes" if first[1].startswith("y") else "no"
    if alone := next(filter(None, map(ALONE.match, sentences)), None):
        return "yes" if alone[1].startswith("y") else "no"
    clear = [each for each in sentences if not UNSURE.search(each)]
    said = ["no" if DENIES.search(each) else "yes" for each in clear if DENIES.search(each) or AFFIRMS.search(each)]
    return "no" if said[:1] == ["no"] else "yes" if said and "no" not in said else None


PARSERS = {"official": parse_official, "robust": parse_robust}


def differences(predictions: Any) -> list[Difference]:
    """The texts that the two parsers read differently, in order; predictions as for `score`."""
    read_twice = ((name, text, parse_official(text), parse_robust(text)) for name, text in _texts(predictions).items())
    return [Difference(*each) for each in read_twice if each[2] != each[3]]


def score(examples: Sequence[Example], predictions: Any, profile: str = "official") -> dict[str, Any]:
    """Rates of the answer "yes", the positive class.

    Args:
        predictions: a file of JSON lines, its records, or a dict id -> text. A record holds question_id and answer (or
            text, as LLaVA writes), or only question and answer, in the order of the questions, as POPE's own files do.
        profile: "official" or "robust". What the robust parser cannot read is wrong, and neither a yes nor a no.
    Returns:
        {"n", "accuracy", "precision", "recall", "f1", "yes_ratio", "tp", "fp", "tn", "fn", "unclear", "by_label",
        "official"}: yes_ratio is that of the predictions, recall that of all true yes; tp + fp + tn + fn + unclear = n.
        `official` has the names that the official program prints, fractions as there; a rate of nothing is 0.
    Raises UnknownName for another profile, BadInput unless exactly these questions are answered.
    """
    profile_of(profile, PROFILES)
    texts = _texts(predictions, examples)
    matched((example.question_id for example in examples), texts)
    said = [(example.answer, PARSERS[profile](texts[example.question_id])) for example in examples]
    tp, fp, tn, fn = (said.count(cell) for cell in (("yes", "yes"), ("no", "yes"), ("no", "no"), ("yes", "no")))
    n = len(said)
    precision, recall = share(tp, tp + fp), share(tp, sum(label == "yes" for label, _ in said))
    rates = {
        "accuracy": share(tp + tn, n),
        "precision": precision,
        "recall": recall,
        "f1": share(2 * precision * recall, precision + recall),
        "yes_ratio": share(tp + fp, n),
    }
    printed = ("Accuracy", "Precision", "Recall", "F1 score", "Yes ratio")
    return {
        "n": n,
        **rates,
        **{"tp": tp, "fp": fp, "tn": tn, "fn": fn, "unclear": n - tp - fp - tn - fn},
        "by_label": breakdown((label, label == answer) for label, answer in said),
        "official": {"TP": tp, "FP": fp, "TN": tn, "FN": fn, **dict(zip(printed, rates.values(), strict=True))},
    }


def _texts(predictions: Any, examples: Sequence[Example] = ()) -> Answers:
    """Texts by question_id; where the records have none, by their order, the ids being those of the examples."""
    if isinstance(predictions, Mapping):
        return answers(predictions, "question_id", "answer", (int, str))
    texts = Answers()
    if isinstance(predictions, str | os.PathLike):
        texts.file = str(predictions)
        rows = list(lines(predictions))
    else:
        rows = [Record(texts.file, f"record {number}", row) for number, row in enumerate(predictions, 1)]
        if wrong := [row for row in rows if not isinstance(row.value, dict)]:
            raise BadInput(f"{texts.file}, {wrong[0].place} must be an object with an answer, not {wrong[0].value!r}")
    numbered = bool(rows) and "question_id" in rows[0].value
    for index, row in enumerate(unique(rows, "question_id") if numbered else rows):
        example = None if numbered or index >= len(examples) else examples[index]
        if example and row.value.get("question", example.question) != example.question:
            raise row.fail("question", f"must be {example.question!r}: without ids, the order is that of the questions")
        name = row.value["question_id"] if numbered else example.question_id if example else row.place
        texts[name] = row.need("answer" if "answer" in row.value else "text", str)
    return texts
