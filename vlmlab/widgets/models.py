"""One question to several models, looked into: what the token map and the state player share. Notebook 13."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from vlmlab.errors import BadInput, UnknownName
from vlmlab.explain import Inside
from vlmlab.vlm.answering import Prompt

if TYPE_CHECKING:
    from vlmlab.vlm.model import VLM


def loaded(models: "Sequence[str] | Mapping[str, VLM]", device: str) -> "dict[str, VLM]":
    """name -> VLM in evaluation mode: those given, or of names that `vlmlab.load` takes, each loaded once.

    Raises BadInput without models.
    """
    import vlmlab

    if isinstance(models, str):
        models = [models]
    given = models if isinstance(models, Mapping) else {name: vlmlab.load(name, device=device) for name in models}
    if not given:
        raise BadInput("name at least one model, for instance llava-tiny")
    return {name: vlm.eval() for name, vlm in given.items()}


def ask(vlm: "VLM", image: Any, prompt: Prompt, answer: str | None) -> Inside:
    """A question about a picture; answer: the text to look into, the model's own without one. Raises BadInput."""
    if image is None:
        raise BadInput("a map is drawn over a picture; ask about one")
    if not prompt:
        raise BadInput("the question is empty; write one")
    return Inside.ask(vlm, image, prompt, answer or None)


def of(asked: Mapping[str, Any], name: str, models: Mapping[str, Any]) -> Any:
    """What was asked of a model. Raises UnknownName, and BadInput before any question."""
    if name not in models:
        raise UnknownName("model", name, models)
    if name not in asked:
        raise BadInput("nothing was asked yet; run asking(picture, question) first")
    return asked[name]


def seen(inside: Inside) -> np.ndarray:
    """The picture as the model sees it, uint8 (S, S, 3)."""
    return inside.vlm.preprocess.square(inside.picture)
