"""Notebook 03. A teacher's reply: its form, and the words that break the rules.

Conversations and reasoning come in blocks, "Question:", the question, "===", "Answer:", the answer, "==="; a detailed
description is the reply itself. Rules, after LLaVA (arXiv 2304.08485, section 3): state only what is certain, speak as
if seeing the picture, and mention neither captions nor boxes.
"""

import re
from typing import NamedTuple

from vlmlab.vlm.conversations import DETAIL

DETAILED = (
    DETAIL,
    "Give a full description of the picture.",
    "What do you see in the picture? Be thorough.",
    "Tell me everything that you can see.",
    "Can you describe the scene in all its details?",
    "Write a detailed description of this image.",
)
"""The requests that detailed descriptions answer."""
BLOCK = re.compile(
    r"\s*Question:\s*\n(.+?)\n===\s*\nAnswer:\s*\n(.+?)\s*(?:\n===[ \t]*(?=\n|$)|(?<=[.!?])\s*$)", re.DOTALL
)
MARKS = re.compile(r"^\s*(?:Question:|Answer:|===)", re.MULTILINE)
MENTIONS = re.compile(
    r"\b(?:captions?|descriptions?|described|bounding|coordinates?|according to|mentioned|stated|listed|"
    r"(?:the|these|this|given) (?:sentences?|text|information|context|list))\b|\d\.\d",
    re.IGNORECASE,
)
HEDGES = re.compile(
    r"\b(?:may|might|maybe|perhaps|possibl[ey]|probabl[ey]|likely|unlikely|presumably|apparently|seems?|appears?|"
    r"suggests?|could be|unclear|unknown|uncertain|not (?:clear|sure|certain|known|given|specified)|"
    r"(?:cannot|can't|can not|hard to|impossible to) (?:tell|say|know|determine|be determined)|i (?:think|guess))\b",
    re.IGNORECASE,
)


class Parsed(NamedTuple):
    """The pairs of question and answer in a reply, and what of it is in no form ("" if all is)."""

    pairs: list[tuple[str, str]]
    broken: str


def parse(reply: str, kind: str, request: str = DETAIL) -> Parsed:
    """Read a reply of one of context.KINDS; any text can be read.

    request: the question that a description answers. The last "===" may be missing behind a finished sentence.
    """
    reply = reply.strip()
    if kind == "detail":
        fine = reply and not MARKS.search(reply)
        return Parsed([(request, " ".join(reply.split()))], "") if fine else Parsed([], reply or "(nothing)")
    pairs, at = [], 0
    while found := BLOCK.match(reply, at):
        texts = [" ".join(text.split()) for text in found.groups()]
        if any(MARKS.search(text) for text in found.groups()):
            break
        pairs.append((texts[0], texts[1]))
        at = found.end()
    rest = reply[at:].strip()
    return Parsed(pairs, rest if pairs else rest or "(nothing)")


def broken_rules(text: str) -> list[tuple[str, str]]:
    """The rules that a text breaks, and the words that break them."""
    rules = (("mentions captions or boxes", MENTIONS), ("indefinite", HEDGES))
    return [(name, found[0]) for name, words in rules if (found := words.search(text))]
