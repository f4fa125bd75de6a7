"""The state player without a browser: a sequence token by token, and what the model keeps of it. Notebook 13.

    player = StatePlayer(["cobra-tiny", "llava-tiny"])
    player.asking(picture, "Where is the cat?").run()
    player.frame("cobra-tiny", 70, layer=3).patches             # the ledger's shares, (rows, columns)
    player.frame("cobra-tiny", 70, layer=3, kind="retention")
    player.kept(70)                                             # bytes: {"cobra-tiny": ..., "llava-tiny": ...}

A Mamba keeps a state of one size; the ledger says whose it is, and retention how much of what each token wrote is left.
A transformer keeps everything, keys and values of every token; its attention says what a position reads of it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from vlmlab.errors import UnknownName
from vlmlab.explain import Inside
from vlmlab.explain.attention import shares
from vlmlab.explain.states import Scan, grouped, ledger_shares, place, read, retention, state_norms
from vlmlab.language import Llama
from vlmlab.language.cache import KVCache
from vlmlab.widgets.jobs import Job, Steps
from vlmlab.widgets.models import ask, loaded, of

if TYPE_CHECKING:
    from vlmlab.vlm.model import VLM

KINDS = {
    "ledger": "share of the state",
    "retention": "part of what was written that is left",
    "attention": "share of attention, mean of heads",
}
"""What is seen of each token, and its unit."""


@dataclass(frozen=True)
class Track:
    """A sequence that a model has read.

    timeline: (layers, L), a Mamba's ||h_t||, or the share of a transformer's attention that the image gets (a patch
    itself left out), mean of the heads. bytes: what the model keeps after each position, all layers together. layers:
    what was read of single ones, a Mamba's Scan or a transformer's attention (L, L), mean of the heads.
    """

    inside: Inside
    timeline: np.ndarray
    bytes: tuple[int, ...]
    layers: "dict[int, Scan | Tensor]" = field(default_factory=dict)

    @property
    def recurrent(self) -> bool:
        """Whether it keeps a state of one size."""
        return not isinstance(self.inside.vlm.language, Llama)

    @property
    def kinds(self) -> tuple[str, ...]:
        """What can be seen of each token, of KINDS."""
        return ("ledger", "retention") if self.recurrent else ("attention",)

    def layer(self, index: int) -> "Scan | Tensor":
        """One layer, read once. Raises BadInput for one that is not there."""
        if index not in self.layers:
            found = read(self.inside, index) if self.recurrent else self.inside.get("attention", index).mean(0)
            self.layers[index] = found
        return self.layers[index]


@dataclass(frozen=True)
class Frame:
    """What a model has of each token after reading a position.

    text, group: of the position, as `Inside` names them. predicts: the answer's word that comes next, "" in the prompt.
    values: (L,) of `kind`, 0 for what was not read yet; patches: the image's part, (rows, columns). sums: by group,
    empty for retention, whose values have no sum to share. norm, delta: ||h_t|| and the mean of delta over channels in
    this layer; None for a transformer.
    """

    kind: str
    layer: int
    position: int
    text: str
    group: str
    predicts: str
    values: np.ndarray
    patches: np.ndarray
    sums: dict[str, float]
    norm: float | None = None
    delta: float | None = None


class StatePlayer:
    """Models that have read one question, position by position. tracks: by model; a new question replaces them.

    models: names that `vlmlab.load` takes, or name -> VLM. Raises BadInput without models.
    """

    def __init__(
        self, models: "Sequence[str] | Mapping[str, VLM]" = ("cobra-tiny", "llava-tiny"), device: str = "auto"
    ):
        self.models, self.prompt = loaded(models, device), ""
        self.tracks: dict[str, Track] = {}

    def asking(self, image: Any, prompt: str, answer: str | None = None) -> Job[dict[str, Track]]:
        """Ask all models and follow them through prompt and answer; answer: a text in the place of their own."""
        return Job(self._asking(image, prompt, answer))

    def _asking(self, image: Any, prompt: str, answer: str | None) -> Steps[dict[str, Track]]:
        found: dict[str, Track] = {}
        for number, (name, vlm) in enumerate(self.models.items()):
            inside = ask(vlm, image, prompt, answer)
            yield (number + 0.5) / len(self.models)
            found[name] = follow(inside)
            yield (number + 1) / len(self.models)
        self.prompt, self.tracks = prompt, found
        return found

    def track(self, name: str) -> Track:
        """What a model has read. Raises UnknownName, and BadInput before any question."""
        return of(self.tracks, name, self.models)

    def layers(self, name: str) -> int:
        """Layers of a model's language model."""
        return self.models[name].language.config.layers

    def reading(self, name: str, layer: int) -> Job[Track]:
        """Read one layer of a model, so that its frames come at once."""
        return Job(self._reading(self.track(name), layer))

    def _reading(self, track: Track, layer: int) -> Steps[Track]:
        track.layer(layer)
        yield 1.0
        return track

    def frame(self, name: str, position: int, layer: int = 0, kind: str | None = None) -> Frame:
        """What a model has of each token after a position; kind: of KINDS, the first that it has when None.

        Raises UnknownName, BadInput for a position or layer that is not there or a state of zero.
        """
        track = self.track(name)
        kind = kind or track.kinds[0]
        if kind not in track.kinds:
            raise UnknownName(f"view of {name}", kind, track.kinds)
        inside = track.inside
        at, read_of = place(position, inside.length), track.layer(layer)
        norm = delta = None
        if isinstance(read_of, Scan):
            values = (ledger_shares if kind == "ledger" else retention)(read_of, at)
            norm, delta = float(track.timeline[layer, at]), float(read_of.delta[at].mean())
        else:
            values = read_of[at]
        answers = inside.words.start - 1 <= at < inside.length - 1
        return Frame(
            kind, layer, at, inside.texts[at], inside.groups[at], inside.texts[at + 1] if answers else "",
            _array(values), _array(inside.on_grid(values)),
            {} if kind == "retention" else grouped(values, inside.groups), norm, delta,
        )  # fmt: skip

    def kept(self, position: int) -> dict[str, int | None]:
        """Bytes that each model keeps after `position` + 1 tokens; None where its sequence is shorter."""
        return {
            name: track.bytes[position] if position < len(track.bytes) else None for name, track in self.tracks.items()
        }

    def overtakes(self, name: str, other: str) -> int | None:
        """How many tokens it takes until a model keeps more than another; None if it never does while both read."""
        pairs = zip(self.track(name).bytes, self.track(other).bytes, strict=False)
        return next((count for count, (mine, theirs) in enumerate(pairs, 1) if mine > theirs), None)


def follow(inside: Inside) -> Track:
    """A question's timeline and sizes; no layer is read yet."""
    transformer = isinstance(inside.vlm.language, Llama)
    timeline = shares(inside)["image"].mean(1) if transformer else state_norms(inside)
    return Track(inside, _array(timeline), kept_bytes(inside))


@torch.no_grad()
def kept_bytes(inside: Inside) -> tuple[int, ...]:
    """Bytes of the language model's cache after each of the L positions, all layers together, in its own dtype."""
    language = inside.vlm.language
    embeds = inside.run(["language.embed"])["language.embed"]
    cache = language.new_cache()
    language.hidden(inputs_embeds=embeds, cache=cache)
    if not isinstance(cache, KVCache):
        return (cache.bytes(),) * inside.length  # a state has this size from the first token on
    found = []
    for length in range(inside.length, 0, -1):
        cache.crop(length)
        found.append(cache.bytes())
    return tuple(found[::-1])


def _array(values: Tensor) -> np.ndarray:
    return values.detach().double().cpu().numpy()
