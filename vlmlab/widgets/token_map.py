"""The token map without a browser: a word of an answer, and where each model looked for it. Notebook 13.

    tokens = TokenMap(["llava-tiny", "cobra-tiny"])
    tokens.asking(picture, "Where is the cat?").run()
    tokens.words("llava-tiny")                                 # ["The", " cat", ...]
    tokens.map("llava-tiny", 1, Choice("attention", layer=2))  # (rows, columns)
    tokens.mapping("llava-tiny", 1, choices).run().result      # the maps of all models that say this word

A word is a token of the answer. Two answers' words are the same where they have the same text and both answers read the
same up to and including them, spaces at their ends aside: only then did both models say the word after the same text.
Behind the first difference nothing is aligned, not even a word that stands at the same place in both. Where tokenizers
cut one text differently ("left", "l" + "eft"), its parts are not aligned either, and what follows is.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vlmlab.errors import BadInput
from vlmlab.explain import Inside
from vlmlab.explain.attention import attention_maps
from vlmlab.explain.attribution import at_word
from vlmlab.explain.hidden_attention import word_maps
from vlmlab.explain.methods import METHODS, chosen, methods_for
from vlmlab.explain.states import by_layer, delta_maps, ledger_shares, predicting
from vlmlab.vlm.answering import Prompt
from vlmlab.widgets.jobs import Job, Steps
from vlmlab.widgets.models import ask, loaded, of, seen

if TYPE_CHECKING:
    from vlmlab.vlm.model import VLM

LAYERED: dict[str, Callable[[Inside, int], Tensor]] = {
    "attention": attention_maps,  # (layers, H, rows, columns); all others (layers, rows, columns)
    "hidden_attention": word_maps,
    "delta": lambda inside, _: delta_maps(inside),
    "ledger": lambda inside, word: inside.on_grid(
        torch.stack(by_layer(inside, lambda scan: ledger_shares(scan, predicting(inside, word))))
    ),
}
"""Methods that have a map a layer."""
UNITS = {
    "attention": "share of what the position reads",
    "hidden_attention": "share of what the position reads",
    "rollout": "share of the rollout",
    "chefer": "share of the relevance",
    "delta": "step size delta",
    "ledger": "share of the state",
    "mamba_lrp": "part of the log-odds",
    "gradient_x_input": "part of the log-odds",
    "integrated_gradients": "change of log p (nats)",
    "occlusion": "change of log p (nats)",
    "token_ablation": "change of log p (nats)",
}


class Choice(NamedTuple):
    """What to look at: one of explain.methods, in one layer or (None) all, of one head or (None) the mean of all."""

    method: str
    layer: int | None = None
    head: int | None = None

    @property
    def unit(self) -> str:
        """Of the map's values. One layer's hidden attention is no share: its rows do not sum to 1."""
        if self.method == "hidden_attention" and self.layer is not None:
            return "mean |alpha| of the channels"
        return UNITS.get(self.method, self.method)

    def __str__(self) -> str:
        layer = "" if self.layer is None else f", layer {self.layer}"
        return self.method.replace("_", " ") + layer + ("" if self.head is None else f", head {self.head}")


@dataclass
class Asked:
    """A question to all models, and the maps of it that were made: (model, word, method, by layer) -> values."""

    prompt: Prompt = ""
    insides: dict[str, Inside] = field(default_factory=dict)
    maps: dict[tuple[str, int, str, bool], np.ndarray] = field(default_factory=dict)


class TokenMap:
    """Models that answer one question, and maps of their answers' words, each made once.

    models: names that `vlmlab.load` takes, or name -> VLM. asked: the question; a new one replaces it.
    Raises BadInput without models.
    """

    def __init__(
        self, models: "Sequence[str] | Mapping[str, VLM]" = ("llava-tiny", "cobra-tiny"), device: str = "auto"
    ):
        self.models, self.asked = loaded(models, device), Asked()

    # ------------------------------------------------------------------ the question
    def asking(self, image: Any, prompt: Prompt, answer: str | None = None) -> Job[dict[str, Inside]]:
        """Ask all models; answer: a text to look into in the place of each model's own. Raises BadInput at its steps.

        With one answer given, the words of all models whose tokenizers agree are aligned.
        """
        return Job(self._asking(image, prompt, answer))

    def _asking(self, image: Any, prompt: Prompt, answer: str | None) -> Steps[dict[str, Inside]]:
        found: dict[str, Inside] = {}
        for number, (name, vlm) in enumerate(self.models.items(), 1):
            found[name] = ask(vlm, image, prompt, answer)
            yield number / len(self.models)
        self.asked = Asked(prompt, found)
        return found

    def inside(self, name: str) -> Inside:
        """The question as one model reads it. Raises UnknownName, and BadInput before any question."""
        return of(self.asked.insides, name, self.models)

    def words(self, name: str) -> list[str]:
        """The tokens of a model's answer, spaces included."""
        inside = self.inside(name)
        return inside.texts[inside.words]

    def together(self, name: str, word: int) -> dict[str, int]:
        """The models that say this word too, itself included: model -> the word's number in its answer.

        By the rule at the top. Raises BadInput for a word that is not there.
        """
        predicting(self.inside(name), word)
        wanted = _read(self.words(name))[word]
        said = {other: _read(self.words(other)) for other in self.models}
        return {other: texts.index(wanted) for other, texts in said.items() if wanted in texts} | {name: word}

    # ------------------------------------------------------------------ what can be chosen
    def methods(self, name: str) -> list[str]:
        """The methods that apply to a model."""
        return methods_for(self.models[name])

    def layers(self, name: str, method: str) -> int:
        """How many layers there are to choose from; 0 for a method without layers."""
        return self.models[name].language.config.layers if method in LAYERED else 0

    def heads(self, name: str, method: str) -> int:
        """How many heads there are to choose from; 0 for a method without heads."""
        return self.models[name].language.config.heads if method == "attention" else 0

    # ------------------------------------------------------------------ maps
    def ready(self, name: str, word: int, choice: Choice) -> bool:
        """Whether a map was made already."""
        return self._key(name, word, choice) in self.asked.maps

    def map(self, name: str, word: int, choice: Choice) -> np.ndarray:
        """Where a model looked for a word of its answer, (rows, columns).

        Of all layers it is what explain.methods gives for this word. Raises UnknownName, and BadInput for a word, layer
        or head that is not there, or a head of no layer.
        """
        return self._map(self.asked, name, word, choice)

    def mapping(self, name: str, word: int, choices: Mapping[str, Choice]) -> Job[dict[str, np.ndarray]]:
        """The maps of a word of one model's answer, for all models that say it: model -> (rows, columns)."""
        return Job(self._mapping(self.asked, self.together(name, word), choices))

    def _mapping(
        self, asked: Asked, words: Mapping[str, int], choices: Mapping[str, Choice]
    ) -> Steps[dict[str, np.ndarray]]:
        found = {}
        for number, (name, word) in enumerate(words.items(), 1):
            found[name] = self._map(asked, name, word, choices[name])
            yield number / len(words)
        return found

    def _map(self, asked: Asked, name: str, word: int, choice: Choice) -> np.ndarray:
        inside: Inside = of(asked.insides, name, self.models)
        predicting(inside, word)
        chosen(inside.vlm, [choice.method])
        self._there("layer", choice.layer, self.layers(name, choice.method))
        self._there("head", choice.head, self.heads(name, choice.method) if choice.layer is not None else 0)
        key = self._key(name, word, choice)
        if key not in asked.maps:
            made = LAYERED[choice.method](inside, word) if key[3] else METHODS[choice.method](at_word(inside, word))
            asked.maps[key] = made.detach().double().cpu().numpy()
        found = asked.maps[key]
        if choice.layer is not None:
            found = found[choice.layer]
        if found.ndim == 3:
            found = found.mean(0) if choice.head is None else found[choice.head]
        return found

    def apart(self, choices: Mapping[str, Choice]) -> str:
        """Why the maps of these models cannot share a colour scale; "" where they can."""
        units = sorted({choice.unit for choice in choices.values()})
        if len(units) > 1:
            return f"their units differ ({', '.join(units)})"
        if len({self.inside(name).grid for name in choices}) > 1:
            return "their patches differ in size"
        pictures = [seen(self.inside(name)) for name in choices]
        same = all(np.array_equal(pictures[0], other) for other in pictures[1:])
        return "" if same else "the models see different cuts of the picture"

    @staticmethod
    def _key(name: str, word: int, choice: Choice) -> tuple[str, int, str, bool]:
        return name, word, choice.method, choice.layer is not None

    @staticmethod
    def _there(what: str, index: int | None, count: int) -> None:
        if index is not None and index not in range(count):
            raise BadInput(
                f"{what}={index}: there are {what}s 0 to {count - 1}"
                if count
                else f"{what}={index}: this map has no {what}s (only attention has heads, those of one layer)"
            )


def _read(texts: Sequence[str]) -> list[tuple[str, str]]:
    """For each word the text of the answer up to it, and its own, without spaces at their ends."""
    return [(read.lstrip(), text.strip()) for read, text in zip(accumulate(texts), texts, strict=True)]
