"""What models answer, under controls, and how each benchmark's scorer reads it. Notebook 15.

A picture is encoded once for a model; its options are scored and its words generated from the same H_v.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import exp
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from vlmlab.benchmarks import pope, vsr
from vlmlab.benchmarks.held_out import is_right
from vlmlab.benchmarks.vqa_text import normalised, tidy
from vlmlab.errors import UnknownName
from vlmlab.vlm import answering
from vlmlab.widgets.asking import FORMS, ORDERS, Asked

if TYPE_CHECKING:
    from vlmlab.vlm.model import VLM

CELLS = 8  # rows and columns of the pieces that "shuffled patches" exchanges
GREY = 128
CONTROLS = ("none", "blank picture", "shuffled patches", "text only", *ORDERS)
PLACES = re.compile(r"(?:[a-z ]+,[A-H][1-8]; )*[a-z ]+,[A-H][1-8]\. ")  # as training puts them before a verdict
PAIR = ("none", "one", "both")  # of the two questions of a pair, how many are right


@dataclass(frozen=True)
class Said:
    """What a model said in one form: its words, and the total log-probability of each option (natural logarithm).

    A sentence's options are the question's statements, behind the places that the model itself named first.
    """

    text: str
    log_probs: dict[str, float]

    @property
    def probabilities(self) -> dict[str, float]:
        """The softmax over the options' log-probabilities: adds to 1, whatever else the model might say."""
        top = max(self.log_probs.values(), default=0.0)
        weights = {option: exp(value - top) for option, value in self.log_probs.items()}
        total = sum(weights.values())
        return {option: weight / total for option, weight in weights.items()}

    @property
    def chosen(self) -> str | None:
        """The likeliest option."""
        return max(self.log_probs, key=lambda option: self.log_probs[option], default=None)


Answer = dict[str, Said]
"""One of asking.FORMS -> what was said in it."""


class Reading(NamedTuple):
    """How a scorer reads a text: as `said` (None: as nothing), which is right, wrong, or (None) not decided."""

    scorer: str
    said: str | None
    right: bool | None


def readings(asked: Asked, said: Said, form: str) -> list[Reading]:
    """One reading for each scorer that takes this question, of what was said in one of asking.FORMS.

    "likelihood" reads the options' probabilities, not the words, as VSR is scored for Cobra; POPE's and VSR's rules
    read yes and no only. "scenes" is this package's own rule: for a sentence, the verdict is its last words.
    """
    text, found = said.text, dict[str, str | None]()
    if said.log_probs:
        found["likelihood"] = said.chosen
    if set(asked.options) == {"yes", "no"}:
        found["POPE official"] = pope.parse_official(text)
        found["POPE robust"] = pope.parse_robust(text)
        found["VSR"] = ("no", "yes")[vsr.parse(text)]
    known = asked.options or (asked.truth or "",)
    found["scenes"] = next((each for each in known if each and is_right(text, each, form)), None)
    found["GQA official"] = text
    found["GQA as LLaVA"] = text.rstrip(".").lower()
    found["VQAv2"] = normalised(tidy(text))
    return [Reading(scorer, each, _right(scorer, each, asked.truth)) for scorer, each in found.items()]


def _right(scorer: str, said: str | None, truth: str | None) -> bool | None:
    if truth is None:
        return None
    if scorer == "GQA official":
        return said == truth
    truth = normalised(tidy(truth)) if scorer == "VQAv2" else truth.lower()
    return said is not None and said.lower() == truth


def pair_verdicts(first: list[Reading], second: list[Reading]) -> dict[str, str | None]:
    """Scorer -> how many of a pair are right, one of PAIR; None where one of the two has no truth."""
    other = {reading.scorer: reading.right for reading in second}
    found: dict[str, str | None] = {}
    for scorer, _, right in first:
        twin = other.get(scorer)
        found[scorer] = None if right is None or twin is None else PAIR[right + twin]
    return found


def shown(picture: np.ndarray, control: str, seed: int = 0) -> np.ndarray | None:
    """The picture (H, W, 3) that a model sees under one of CONTROLS; None for a question without one.

    "blank picture" is grey. "shuffled patches" exchanges CELLS x CELLS pieces: what there is stays, where it is goes.
    Raises UnknownName.
    """
    if control not in CONTROLS:
        raise UnknownName("control", control, CONTROLS)
    if control == "text only":
        return None
    if control == "blank picture":
        return np.full_like(picture, GREY)
    if control != "shuffled patches":
        return picture
    side = picture.shape[0] // CELLS
    cells = picture[: side * CELLS, : side * CELLS].reshape(CELLS, side, CELLS, side, 3).swapaxes(1, 2)
    cells = np.random.default_rng(seed).permutation(cells.reshape(-1, side, side, 3)).reshape(cells.shape)
    return cells.swapaxes(1, 2).reshape(side * CELLS, side * CELLS, 3)


class Looked:
    """A model that has looked at a picture: everything is the model's, but H_v is remembered.

    It stands for the model in the functions of vlm.answering. picture: uint8 (H, W, 3), or None without one.
    """

    def __init__(self, vlm: "VLM", picture: np.ndarray | None):
        self.vlm, self.picture, self.features = vlm, picture, None
        if picture is not None:
            with torch.no_grad():
                self.features = vlm.vision_features(vlm.preprocess(picture)[None].to(vlm.device))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.vlm, name)

    def vision_features(self, pixel_values: Tensor) -> Tensor:
        assert self.features is not None
        return self.features

    def answer(self, asked: Asked, form: str, control: str = "none") -> Said:
        """The words, and the options' log-probabilities. Raises BadInput as VLM.generate does."""
        prompt, vlm = asked.prompt(form, control), cast("VLM", self)
        text = "".join(answering.stream(vlm, self.picture, prompt))
        options = dict(zip(asked.options, asked.options, strict=True))
        if form == "sentence":
            places = match[0] if (match := PLACES.match(text)) else ""
            options = {places + told: option for told, option in zip(asked.statements, asked.options, strict=False)}
        if not options:
            return Said(text, {})
        scores = answering.score_options(vlm, self.picture, prompt, tuple(options))
        return Said(text, {options[told]: score for told, score in scores.items()})


def steps(
    look: Callable[[str], Looked],
    names: Sequence[str],
    asked: Asked,
    control: str = "none",
    forms: Sequence[str] = FORMS,
) -> Iterator[tuple[str, str, Said]]:
    """(model, form, what it said), one form after the other. look: gives a model that has looked at the picture."""
    for form in forms:
        for name in names:
            yield name, form, look(name).answer(asked, form, control)
