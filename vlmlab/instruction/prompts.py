"""Notebook 03. How a teacher is asked: a system message and few-shot pairs for each kind, in our own words.

They stand in conversation.txt, detail.txt and reasoning.txt. "## system" begins the message; "## scene 5" the reply
that is shown for the scene with that seed of the split `val`, whose context is made as any other. LLaVA has as many
pairs: 2, 3 and 3. Source: Visual Instruction Tuning (arXiv 2304.08485), section 3 and appendix.
"""

import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

from vlmlab.benchmarks.chat import Messages
from vlmlab.instruction.context import Told, known, tell
from vlmlab.scenes import sample

SPLIT, SIZE = "val", 96  # of the scenes in the examples; pixels


class Prompt(NamedTuple):
    """The system message of a kind, and its examples: what is told of a scene, and a reply."""

    system: str
    examples: tuple[tuple[Told, str], ...]


@cache
def prompt(kind: str) -> Prompt:
    """How one of context.KINDS is asked for. Raises UnknownName."""
    text = (Path(__file__).parent / f"{known(kind)}.txt").read_text(encoding="utf-8")
    _, system, *examples = re.split(r"^## .*\n", text, flags=re.MULTILINE)
    scenes = (sample(int(seed), split=SPLIT) for seed in re.findall(r"^## scene (\d+)$", text, flags=re.MULTILINE))
    told = [tell(scene, scene.render(SIZE).boxes, SIZE) for scene in scenes]
    return Prompt(system.strip(), tuple(zip(told, (reply.strip() for reply in examples), strict=True)))


def prefix(kind: str) -> Messages:
    """What all requests of a kind begin with: the system message and the examples."""
    asked = prompt(kind)
    shown: Messages = [{"role": "system", "content": asked.system}]
    for told, reply in asked.examples:
        shown += [request(kind, told), {"role": "assistant", "content": reply}]
    return shown


def request(kind: str, told: Told) -> dict[str, str]:
    """The message that asks about one scene."""
    return {"role": "user", "content": told.context(kind)}
