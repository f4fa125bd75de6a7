"""Notebook 05. LLaVA-Bench's judge by name, with what it needs from the files beside the questions."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from vlmlab.benchmarks.llava_bench import Example, Judge, contexts, review, rules
from vlmlab.benchmarks.records import Answers, answers, matched
from vlmlab.errors import BadInput, UnknownName

JUDGES = ("offline", "openai")
MODEL = "gpt-4"  # the paper's judge; "openai:NAME" is another
REFERENCES = ("answers_reference.jsonl", "answers_gpt4.jsonl", "qa90_gpt4_answer.jsonl")
"""Names that the reference answers may have: ours, In-the-Wild's, COCO's."""

Reviewer = Callable[[Sequence[Example], Path], list[dict[str, Any]]]


def reviewer(questions: Path, name: str, folder: Path) -> Reviewer | None:
    """A function from examples and a file of answers to a judge's reviews, in both orders.

    Args:
        questions: the file of questions. Beside it lie the reference answers (one of REFERENCES), and for "openai"
            context.jsonl and perhaps rule.json. The scenes that "offline" judges by are those of the shipped questions.
        name: "offline", "openai" or "openai:MODEL". folder: keeps the exchanges with an endpoint.
    Returns None where the offline judge has no scenes: a person's own files, to be judged later.
    Raises UnknownName for another judge, BadInput where "openai" lacks its files.
    """
    kind, _, model = name.partition(":")
    if kind not in JUDGES or (model and kind == "offline"):
        raise UnknownName("judge", name, JUDGES)
    home = questions.parent
    references = next((home / each for each in REFERENCES if (home / each).is_file()), None)
    if kind == "offline" and not _shipped(home):
        return None
    if references is None:
        raise BadInput(f"no reference answers beside {questions}; put them there as {' or '.join(REFERENCES)}")
    judge = _offline() if kind == "offline" else _openai(home, model or MODEL, folder / "exchanges.jsonl")
    known = answers(references, "question_id", "text", (int, str))

    def compare(examples: Sequence[Example], said: Path) -> list[dict[str, Any]]:
        ids = [example.question_id for example in examples]
        wanted = Answers((name, known[name]) for name in ids if name in known)
        wanted.file = known.file
        matched(ids, wanted)
        return review(examples, said, wanted, judge)

    return compare


def _shipped(home: Path) -> bool:
    from vlmlab.benchmarks.export import shipped

    return home.resolve() == shipped.folder("llava_bench").resolve()


def _offline() -> Judge:
    from vlmlab.benchmarks.export.shipped import about
    from vlmlab.benchmarks.judges import offline

    return offline(about())


def _openai(home: Path, model: str, exchanges: Path) -> Judge:
    from vlmlab.benchmarks.chat import Chat
    from vlmlab.benchmarks.judges import openai

    told = contexts(home / "context.jsonl")
    return openai(
        Chat(model, file=exchanges), told, rules(home / "rule.json") if (home / "rule.json").exists() else None
    )
