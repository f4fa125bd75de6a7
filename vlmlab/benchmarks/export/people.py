"""Notebook 05. Ten people answer a question: most say the same in other words, one or two are vague or wrong.

Their answers are written as people type them, with capitals, articles, number words, missing apostrophes and synonyms,
so that what the scorers normalise, and what they do not, has something to do.
"""

from collections import Counter
from typing import Any

import numpy as np

from vlmlab.benchmarks.claim_words import OTHER_KINDS, OTHER_LOOKS
from vlmlab.benchmarks.vqa_text import normalised
from vlmlab.scenes import COLOURS, KINDS
from vlmlab.scenes.captions import article

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight")
SYNONYMS = [*OTHER_KINDS.items(), *(pair for table in OTHER_LOOKS.values() for pair in table.items())]
WAYS = {
    "yes": ("Yes", "yes.", "yes it is", "Yeah", "yep"),
    "no": ("No", "no.", "nope", "it isnt", "I don't think so"),
    "towards the camera": ("Towards the camera", "towards camera", "at the viewer", "to the front"),
    "away from the camera": ("Away from the camera", "away from camera", "to the back", "backwards"),
    "left": ("Left", "to the left", "the left", "left side"),
    "right": ("Right", "to the right", "the right", "right side"),
}
VAGUE = dict.fromkeys(COLOURS, ("dark", "bright", "not sure")) | {
    kind: ("animal" if spec.moves and kind != "car" else "thing", "it's not clear", "toy")
    for kind, spec in KINDS.items()
}
UNSURE = ("can't tell", "maybe", "not sure", "unclear")
PLAIN, OTHER, CERTAIN = 0.66, 0.26, 0.85
"""Shares of people who give the plain answer and who say it in other words, and of sure ones among both."""
UNANSWERABLE = "unanswerable"
REFUSALS = ("unsuitable", "unsuitable image", "i don't know", "can't tell", "can't see it", "not visible")


def ways(answer: str) -> list[str]:
    """Other ways to write an answer that is right; most of them are the same once they are normalised."""
    if answer in WAYS:
        return list(WAYS[answer])
    if answer.isdecimal():
        word = NUMBERS[int(answer)]
        return [word, word.title(), f"{answer}.", f"There are {word}"] + (["none"] if answer == "0" else [])
    same = [other for other, name in SYNONYMS if name == answer]
    nouns = [article(answer), f"the {answer}", article(answer).capitalize()] if answer in KINDS else [f"it's {answer}"]
    return [answer.capitalize(), f"{answer}.", *nouns, *same]


def ten(rng: np.random.Generator, answer: str, options: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """Ten records {"answer", "answer_confidence"} of which the plain answer is the most frequent, normalised or not,
    and at least four are right once they are normalised.

    options: the answers that somebody who is wrong may give.
    """
    wrong = [*VAGUE.get(answer, UNSURE), *(each for each in options if each != answer)]
    while True:
        rows = []
        for share in rng.random(10):
            pool = [answer] if share < PLAIN else ways(answer) if share < PLAIN + OTHER else wrong
            sure = "yes" if pool is not wrong and rng.random() < CERTAIN else ("maybe", "no")[rng.integers(2)]
            rows.append({"answer": str(rng.choice(pool)), "answer_confidence": sure})
        if frequent(rows, answer):
            return rows


def refusals(rng: np.random.Generator, guesses: tuple[str, ...]) -> list[dict[str, Any]]:
    """Ten records about a picture that does not answer the question: some people guess all the same."""
    while True:
        rows = []
        for share in rng.random(10):
            pool = (UNANSWERABLE,) if share < 0.7 else REFUSALS if share < 0.9 else guesses
            sure = "yes" if pool is not guesses else ("maybe", "no")[rng.integers(2)]
            rows.append({"answer": str(rng.choice(pool)), "answer_confidence": sure})
        if frequent(rows, UNANSWERABLE):
            return rows


def frequent(rows: list[dict[str, Any]], answer: str) -> bool:
    """Whether an answer is the most frequent one as it stands and normalised, four times at least as it stands."""
    for write in (str, normalised):
        (first, n), *rest = Counter(write(row["answer"]) for row in rows).most_common(2)
        if first != write(answer) or n < 4 or (rest and rest[0][1] == n):
            return False
    return True


def answer_type(answer: str) -> str:
    """VQAv2's type of an answer: "yes/no", "number" or "other"."""
    return "yes/no" if answer in ("yes", "no") else "number" if answer.isdecimal() else "other"
