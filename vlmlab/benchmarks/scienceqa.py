"""Notebook 05. ScienceQA: school questions with options, half of them with a picture. Lu et al. 2022, arXiv 2209.09513.

"official" reads answers and counts as LLaVA's evaluation does. "random-fallback" is the benchmark's own first program,
which knows one form of answer and guesses where it cannot read one: a model that says nothing gets about 40 %.
"""

import os
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from vlmlab.benchmarks.asking import METHODS, Ask, Form, Said, constantly
from vlmlab.benchmarks.pairs import breakdown, share
from vlmlab.benchmarks.records import Answers, File, Record, answers, mapping, matched, profile_of
from vlmlab.errors import BadInput, UnknownName

PROFILES = ("official", "random-fallback")
FORM = Form("id", "image", "predictions.json", METHODS)
HUMAN, CHANCE = 0.8840, 0.3983  # the paper's table 3
LETTERS = "ABCDE"
SENTENCE = re.compile(r"The answer is ([A-Z]).")  # the last dot is any character, as in both programs
LETTER_ONLY = "Answer with the option's letter from the given choices directly."
SUBJECTS = {"natural science": "NAT", "social science": "SOC", "language science": "LAN"}
OFFICIAL = {
    "acc_natural": "NAT", "acc_social": "SOC", "acc_language": "LAN", "acc_has_text": "TXT", "acc_has_image": "IMG",
    "acc_no_context": "NO", "acc_grade_1_6": "G1-6", "acc_grade_7_12": "G7-12",
}  # fmt: skip
"""The first program's names of the rows."""


class Example(NamedTuple):
    """A problem: `answer` is the index of the right choice, `image` a path below the split's pictures, or None."""

    id: str
    question: str
    choices: tuple[str, ...]
    answer: int
    hint: str
    image: str | None
    subject: str
    grade: int
    topic: str

    @property
    def rows(self) -> list[str]:
        """The rows of the table that the problem counts in: subject, context (text, picture, neither), grade."""
        context = ["TXT"] * bool(self.hint) + ["IMG"] * bool(self.image) or ["NO"]
        return [SUBJECTS[self.subject], *context, "G1-6" if self.grade <= 6 else "G7-12"]

    @property
    def prompt(self) -> str:
        """The problem as LLaVA is asked: question, context, options, and LLaVA-1.5's format prompt."""
        options = " ".join(f"({letter}) {choice}" for letter, choice in zip(LETTERS, self.choices, strict=False))
        return f"{self.question}\nContext: {self.hint or 'N/A'}\nOptions: {options}\n{LETTER_ONLY}"


def read(annotations: File, questions: File | None = None, split: str = "test") -> list[Example]:
    """The problems of a split, in the order of the file of splits.

    Args:
        annotations: problems.json. questions: pid_splits.json, {split: [id, ...]}; without it the problems' own field
            "split" decides.
    Raises BadInput for a problem that cannot be used or is missing, UnknownName for a split that the file lacks.
    """
    wanted = None if questions is None else _ids(questions, split)
    found, splits = {}, set()
    for name, record in mapping(annotations):
        own = record.need("split", str)
        splits.add(own)
        if own == split if wanted is None else name in wanted:
            found[name] = _example(name, record)
    if wanted is None and split not in splits:
        raise UnknownName("split", split, sorted(splits))
    if missing := [name for name in wanted or () if name not in found]:
        raise BadInput(f"{annotations}: {len(missing)} problems of the split {split!r} are missing ({missing[0]!r})")
    return [found[name] for name in wanted or found]


def _ids(file: File, split: str) -> dict[str, None]:
    """The ids of a split, in order."""
    from vlmlab.files import read_json

    splits = read_json(file)
    if not isinstance(splits, dict) or not all(isinstance(ids, list) for ids in splits.values()):
        raise BadInput(f"{file} must be an object of lists of ids by split; is it the right file?")
    if split not in splits:
        raise UnknownName("split", split, splits)
    return dict.fromkeys(map(str, splits[split]))


def _example(name: str, record: Record) -> Example:
    choices, answer = record.need("choices", list), record.need("answer", int)
    if not 2 <= len(choices) <= len(LETTERS) or not all(isinstance(choice, str) for choice in choices):
        raise record.fail("choices", f"must be 2 to {len(LETTERS)} strings")
    if not 0 <= answer < len(choices):
        raise record.fail("answer", f"must be the index of a choice, 0 to {len(choices) - 1}, not {answer}")
    grade, subject = record.need("grade", str), record.need("subject", str)
    if not re.fullmatch(r"grade([1-9]|1[0-2])", grade):
        raise record.fail("grade", f"must be grade1 to grade12, not {grade!r}")
    if subject not in SUBJECTS:
        raise record.fail("subject", f"must be one of {', '.join(SUBJECTS)}, not {subject!r}")
    image = record.maybe("image", str)
    return Example(
        name,
        record.need("question", str),
        tuple(choices),
        answer,
        record.maybe("hint", str, default=""),
        f"{name}/{image}" if image else None,
        subject,
        int(grade.removeprefix("grade")),
        record.maybe("topic", str, default=""),
    )


def asks(examples: Sequence[Example]) -> Iterator[Ask]:
    """The problems as LLaVA is asked; the options are the letters."""
    return (Ask(one.id, one.image, one.prompt, tuple(LETTERS[: len(one.choices)])) for one in examples)


def results(examples: Sequence[Example], said: Mapping[Any, Said]) -> dict[str, dict[str, str]]:
    """The texts under "outputs", as in the programs' results files; what they choose is for `score` to read."""
    return {"outputs": {one.id: said[one.id].text for one in examples}}


def chance(examples: Sequence[Example]) -> float:
    """The accuracy of an even guess among each problem's choices."""
    return share(sum(1 / len(one.choices) for one in examples), len(examples))


def constants(examples: Sequence[Example]) -> dict[str, dict[Any, str]]:
    """Predictions that are always the same letter."""
    return constantly((one.id for one in examples), LETTERS)


def parse(text: str, choices: int, profile: str = "official") -> int | None:
    """The index of the option that a text chooses, or None where it cannot be read or names none of the `choices`.

    "official": a letter alone, a letter and ". " at the start, or exactly one "The answer is X."; "random-fallback":
    only the last.
    """
    letter = None
    if profile == "official" and (text in tuple(LETTERS) or (text[:1] in tuple(LETTERS) and text[1:3] == ". ")):
        letter = text[0]
    elif len(named := SENTENCE.findall(text)) == 1:
        letter = named[0]
    return LETTERS.index(letter) if letter and letter in LETTERS[:choices] else None


def score(examples: Sequence[Example], predictions: Any, profile: str = "official", seed: int = 0) -> dict[str, Any]:
    """Accuracy, overall and by subject, context and grade.

    Args:
        predictions: a file of JSON lines with question_id and text, its records, or a dict id -> text (or the index of
            the chosen option, -1 for none); or the programs' results file, whose "results" (indices) are taken as they
            are, or without these its "outputs" (texts).
        profile: "official" counts what is missing or cannot be read as wrong, and passes over answers to other
            problems; "random-fallback" guesses, from `seed`, what cannot be read, and wants exactly these problems.
    Returns:
        {"n", "accuracy", "image_accuracy", "unread", "missing", "by_row", "by_topic", "official"}: rows are NAT, SOC,
        LAN, TXT, IMG, NO, G1-6 and G7-12; unread counts answers without a readable choice. `official` has what LLaVA's
        program prints and the first program's rows, in per cent with two decimals.
    Raises UnknownName for another profile, BadInput for predictions that cannot be used or answer none of the problems.
    """
    profile_of(profile, PROFILES)
    given = _given(predictions)
    if profile == "random-fallback" or not any(example.id in given for example in examples):
        matched((example.id for example in examples), given, "problem")
    generator = random.Random(seed)
    chosen = []
    unread = 0
    for example in examples:
        value = given.get(example.id, "")
        option = parse(value, len(example.choices), profile) if isinstance(value, str) else value
        readable = option is not None and 0 <= option < len(example.choices)
        unread += example.id in given and not readable
        guess = profile == "random-fallback" and not readable
        chosen.append(generator.randrange(len(example.choices)) if guess else option)
    right = [option == example.answer for option, example in zip(chosen, examples, strict=True)]
    rows = breakdown((row, mark) for example, mark in zip(examples, right, strict=True) for row in example.rows)
    accuracy = share(sum(right), len(right))
    shares = {row: rows[row]["accuracy"] if row in rows else 0.0 for row in OFFICIAL.values()}
    printed = {"Accuracy": accuracy, "IMG-Accuracy": shares["IMG"]}
    printed |= {name: shares[row] for name, row in OFFICIAL.items()} | {"acc_average": accuracy}
    return {
        "n": len(right),
        "accuracy": accuracy,
        "image_accuracy": shares["IMG"],
        "unread": unread,
        "missing": sum(example.id not in given for example in examples),
        "by_row": rows,
        "by_topic": breakdown((example.topic, mark) for example, mark in zip(examples, right, strict=True)),
        "official": {
            "Total": len(right),
            "Correct": sum(right),
            **{name: round(100 * value, 2) for name, value in printed.items()},
        },
    }


def _given(predictions: Any) -> Answers:
    """Texts or indices by the problem's id."""
    file = Answers.file
    if isinstance(predictions, str | os.PathLike):
        from vlmlab.files import read_json

        file = str(predictions)
        with suppress(BadInput):  # more than one line is no single JSON value; then `answers` reads the path and judges
            loaded = read_json(predictions)
            predictions = loaded if isinstance(loaded, dict) and "question_id" not in loaded else predictions
    if isinstance(predictions, Mapping):
        inner = predictions.get("results", predictions.get("outputs"))
        predictions = inner if isinstance(inner, Mapping) else predictions
    given = answers(predictions, "question_id", "text", (str, int), (str, int))
    found = Answers((str(name), value) for name, value in given.items())
    found.file = file
    return found
