"""Notebook 05. What a benchmark asks a model, and how the answers become the benchmark's own results file.

A benchmark's module has, next to `read` and `score`: `FORM`; `asks(examples)`, its questions in their published form;
`results(examples, said)`, the answers as `score` and the official program take them; and for the baselines
`chance(examples)` and `constants(examples)`. Where answers earn part of a point, `marks` tells what each one earned.
"""

import json
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from vlmlab.benchmarks.pairs import share
from vlmlab.errors import BadInput

METHODS = ("generate", "likelihood")
"""A model writes its answer, or the option that it finds most likely counts as said."""
CONSTANTS = 3  # most frequent answers that are tried as the best constant one

Key = int | str
Mark = tuple[Hashable, float, float]
"""A picture, what an answer about it earned, and what there was to earn."""


class Ask(NamedTuple):
    """A question to a model.

    key: the id that predictions use. image: a path below the folder of pictures, or None for a question without one.
    options: the answers to choose from; () where the question is open.
    """

    key: Key
    image: str | None
    prompt: str
    options: tuple[str, ...] = ()


class Said(NamedTuple):
    """A model's answer: a text, and where it chose among options, their log-probabilities in the options' order."""

    text: str
    scores: tuple[float, ...] = ()


class Form(NamedTuple):
    """How a benchmark is answered.

    key, image: the fields of its files that hold the id and name the picture. file: the name of the results file; its
    suffix says how it is written. methods: some of METHODS, the published one first. max_new_tokens: of an answer.
    """

    key: str
    image: str
    file: str
    methods: tuple[str, ...] = ("generate",)
    max_new_tokens: int = 64


def short(*lines: str) -> str:
    """A question with LLaVA-1.5's format prompt for short answers, one line each (arXiv 2310.03744, section 3.2)."""
    from vlmlab.vlm.conversations import SHORT

    return "\n".join([*lines, SHORT])


def guess(expected: Iterable[tuple[Any, str]]) -> float:
    """How often a guess hits the expected answer when it is drawn evenly from the answers to questions of its kind.

    expected: (kind of question, expected answer) of each question.
    """
    kinds: dict[Any, Counter[str]] = {}
    for kind, answer in expected:
        kinds.setdefault(kind, Counter())[answer] += 1
    return share(sum(c.total() / len(c) for c in kinds.values()), sum(c.total() for c in kinds.values()))


def frequent(answers: Iterable[str]) -> list[str]:
    """The most frequent answers, at most CONSTANTS."""
    return [answer for answer, _ in Counter(answers).most_common(CONSTANTS)]


def constantly(keys: Iterable[Key], answers: Iterable[str]) -> dict[str, dict[Key, str]]:
    """For each answer the predictions {key: answer} of a model that says nothing else."""
    keys = list(keys)
    return {answer: dict.fromkeys(keys, answer) for answer in answers}


def write(path: Path, results: Any) -> None:
    """Write a results file atomically: .json as one JSON value, .jsonl a JSON value a line, .txt a text a line."""
    from vlmlab.files import write_text

    if path.suffix == ".json":
        write_text(path, json.dumps(results, ensure_ascii=False) + "\n")
        return
    line = json.dumps if path.suffix == ".jsonl" else str
    write_text(path, "".join(f"{line(one)}\n" for one in results))


def encode(key: Key, said: Said) -> str:
    """One line of a file of answers."""
    record = {"key": key, "text": said.text} | ({"scores": said.scores} if said.scores else {})
    return json.dumps(record, ensure_ascii=False) + "\n"


def decode(path: Path) -> dict[Key, Said]:
    """The answers of a file, none if there is no file; a last line that a kill cut off is left out.

    Raises BadInput for a file that is damaged elsewhere.
    """
    if not path.exists():
        return {}
    whole, _, _ = path.read_bytes().rpartition(b"\n")
    return dict(_answers(path, whole))


def _answers(path: Path, whole: bytes) -> Iterator[tuple[Key, Said]]:
    for number, line in enumerate(whole.split(b"\n") if whole else (), 1):
        try:
            record: Mapping[str, Any] = json.loads(line)
            yield record["key"], Said(record["text"], tuple(record.get("scores", ())))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadInput(f"{path}, line {number} is damaged ({error}); delete the file to ask again") from None
