"""Notebook 03. Teachers: each turns what is told of scenes into replies, and sees no pixel."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from vlmlab.benchmarks.chat import Chat, Messages
from vlmlab.errors import BadInput, UnknownName
from vlmlab.instruction.context import Told
from vlmlab.instruction.prompts import prefix, request
from vlmlab.instruction.template import template

TEACHERS = ("template", "smollm2", "openai")


class Teacher(NamedTuple):
    """`ask(kind, told)` is a list of replies, one a scene; `batch` scenes are asked about at once.

    name: what tells its replies from those of others, the model's name included.
    """

    name: str
    ask: Callable[[str, Sequence[Told]], list[str]]
    batch: int = 1


def teacher(name: str, model: str = "", file: Path | None = None, budget: float = 1_000_000) -> Teacher:
    """One of TEACHERS.

    Args:
        model, file, budget: of the teacher "openai": the endpoint's name for its model, the file of finished exchanges,
            and how many tokens they may cost; address and key as for `benchmarks.chat.Chat`.
    Raises UnknownName; BadInput for "openai" without a model; MissingDependency for "smollm2" without its wheel.
    """
    if name not in TEACHERS:
        raise UnknownName("teacher", name, TEACHERS)
    if name == "openai":
        if not model:
            raise BadInput("the teacher openai needs the name of a model at the endpoint: --model NAME")
        return Teacher(f"openai {model}", chatting(Chat(model, file=file, budget=budget)))
    if name == "smollm2":
        from vlmlab.instruction.smollm2 import SmolLM2
        from vlmlab.weights.gguf import load_smollm2

        return Teacher("smollm2", SmolLM2(*load_smollm2()), batch=4)
    return Teacher("template", template, batch=64)


def chatting(chat: Callable[[Messages], str]) -> Callable[[str, Sequence[Told]], list[str]]:
    """A teacher's `ask` from any function from messages to a reply."""
    return lambda kind, told: [chat([*prefix(kind), request(kind, each)]) for each in told]
