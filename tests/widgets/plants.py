"""Planted models for the widgets: what they say is known, and nothing is computed."""

from collections.abc import Callable
from math import log
from types import SimpleNamespace
from typing import Any

from vlmlab.widgets.answers import Said


class Plant:
    """A model that says what `say(asked, form, picture)` returns: a text, and its options' probabilities."""

    def __init__(self, name: str, say: Callable[..., tuple[str, dict[str, float]]]):
        self.say, self.config, self.language = say, SimpleNamespace(image_size=96, name=name), None
        self.asked: list[tuple[Any, ...]] = []

    def eval(self) -> "Plant":
        return self


class LookedAt:
    """Stands for answers.Looked, with the same arguments."""

    def __init__(self, vlm: Plant, picture: Any):
        self.vlm, self.picture = vlm, picture

    def answer(self, asked: Any, form: str, control: str = "none") -> Said:
        self.vlm.asked.append((asked.text, form, control, None if self.picture is None else self.picture.copy()))
        text, shares = self.vlm.say(asked, form, self.picture)
        return Said(text, {option: log(max(share, 1e-12)) for option, share in shares.items()})


def oracle(asked: Any, form: str, picture: Any) -> tuple[str, dict[str, float]]:
    """Knows what is true; where nothing is, it is of two minds."""
    shares = {option: 0.5 if asked.truth is None else float(option == asked.truth) for option in asked.options}
    return asked.truth or "", shares


def blind(asked: Any, form: str, picture: Any) -> tuple[str, dict[str, float]]:
    """Says the first option, whatever there is to see."""
    return (asked.options or ("yes",))[0], {
        option: 0.7 if index == 0 else 0.3 for index, option in enumerate(asked.options)
    }
