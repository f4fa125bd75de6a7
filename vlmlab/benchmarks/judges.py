"""Notebook 05. Judges of LLaVA-Bench: one that checks claims about our scenes offline, one behind an endpoint.

A judge is a function of a question and two answers. Its reply begins with a line of two scores from 1 to 10, separated
by a space; the explanation comes after it.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from vlmlab.benchmarks.chat import Messages
from vlmlab.benchmarks.claims import Grade, grade
from vlmlab.benchmarks.llava_bench import Example, Judge
from vlmlab.errors import BadInput
from vlmlab.scenes import Scene
from vlmlab.scenes.questions import Question

ROLE = "You compare two answers to a question about a picture. You are exact, fair and brief."
RULE = """Judge the two answers above. They answer a question about a picture that you know only by the context.
Look for what is right, complete, relevant and useful to the person who asked, and for what the context contradicts.
Give each answer a score from 1 (useless) to 10 (perfect).
Write only the two scores on the first line, that of Assistant 1 first, with one space between them.
Give your reasons from the second line on. Which answer stands first must not matter."""
"""The default rule, in our own words; the rules of a published rule.json are read by `llava_bench.rules`."""


class About(NamedTuple):
    """What the offline judge knows of a question: the scene and, but for "detail", the question with its program."""

    scene: Scene
    question: Question | None = None


def offline(about: Mapping[Any, About]) -> Judge:
    """The deterministic judge: each answer gets its `claims.grade` with one decimal, whatever stands beside it.

    about: question_id -> what is known. The judge raises BadInput for a question that it knows nothing of.
    """

    def judge(example: Example, first: str, second: str) -> str:
        if example.question_id not in about:
            raise BadInput(f"the offline judge knows no scene for question {example.question_id!r}")
        scene, question = about[example.question_id]
        grades = [grade(text, scene, example.category, question) for text in (first, second)]
        reasons = [f"Assistant {number}: {_reason(each)}" for number, each in enumerate(grades, 1)]
        return "\n".join([" ".join(f"{each.score:.1f}" for each in grades), *reasons])

    return judge


def _reason(found: Grade) -> str:
    counts = f"{found.true} true and {found.false} false claims, {found.undecided} that do not count"
    shares = f"{100 * found.recall:.0f} % of what was wanted, {100 * found.unparsed:.0f} % of the sentences unparsed"
    return f"{counts}; {shares}."


def openai(
    chat: Callable[[Messages], str], contexts: Mapping[str, str], rules: Mapping[str, str] | None = None
) -> Judge:
    """A judge behind an endpoint, asked in LLaVA-Bench's form.

    Args:
        chat: `chat.Chat(model, file=...)`, or any function from messages to a reply.
        contexts: image -> what the judge is told of it (see `llava_bench.contexts`).
        rules: category -> what is asked of the judge (RULE for all when None).
    """

    def judge(example: Example, first: str, second: str) -> str:
        if example.image not in contexts:
            raise BadInput(f"no context for the image {example.image!r} of question {example.question_id!r}")
        blocks = [
            f"[Context]\n{contexts[example.image]}",
            f"[Question]\n{example.text}",
            *(f"[Assistant {n}]\n{text}\n\n[End of Assistant {n}]" for n, text in ((1, first), (2, second))),
            f"[System]\n{RULE if rules is None else rules[example.category]}",
        ]
        return chat([{"role": "system", "content": ROLE}, {"role": "user", "content": "\n\n".join(blocks) + "\n\n"}])

    return judge
