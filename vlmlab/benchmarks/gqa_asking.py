"""Notebook 05. What `gqa` asks a model, and how the answers become GQA's predictions; `gqa` has these names too."""

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from vlmlab.benchmarks.asking import Ask, Form, Said, constantly, frequent, guess, short

if TYPE_CHECKING:
    from vlmlab.benchmarks.gqa import Example

FORM = Form("questionId", "imageId", "predictions.json")
ANSWERS_OF_BINARY = 2


def asks(examples: "Iterable[Example]") -> Iterator[Ask]:
    """All questions as LLaVA-1.5 is asked, those that are not balanced too: consistency needs them."""
    return (Ask(one.id, f"{one.image}.jpg", short(one.question)) for one in examples)


def results(examples: "Iterable[Example]", said: Mapping[Any, Said]) -> list[dict[str, str]]:
    """The official predictions; texts are lower-cased and lose final periods, as LLaVA's do, since GQA compares them
    as they are."""
    return [{"questionId": key, "prediction": one.text.rstrip(".").lower()} for key, one in said.items()]


def chance(examples: "Iterable[Example]") -> float:
    """The accuracy of a coin at binary questions, and of an even guess among the answers of a question's global group
    at open ones; over the balanced questions."""
    binary, groups = 0, []
    for one in examples:
        if one.balanced and one.form == "binary":
            binary += 1
        elif one.balanced:
            groups.append((one.global_group, one.answer))
    n = binary + len(groups)
    return (binary / ANSWERS_OF_BINARY + guess(groups) * len(groups)) / max(n, 1)


def constants(examples: "Iterable[Example]") -> dict[str, dict[Any, str]]:
    """Predictions that always say the same, for the most frequent answers to balanced questions."""
    return constantly((one.id for one in examples), frequent(one.answer for one in examples if one.balanced))
