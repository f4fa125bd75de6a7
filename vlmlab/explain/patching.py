"""Activation patching between twins: where a model keeps what tells two pictures apart. Notebook 13.

    pair = Pair.of(vlm, *twin_pairs("mirror", 1)[0])    # one question, two pictures with different answers
    sweep(pair)                                         # layers x groups of positions: 0 like A, 1 like B
    sweep_states(pair)                                  # Mamba: layers x positions, the scan's state put in

Picture A is read again with some of its activations replaced by those that picture B left at the same place. What
counts is how far the log-odds of the two answers move from A's towards B's. Twins replace one thing by another of its
kind, so that every activation is one that the model knows; noise would take it where it has never been.

Sources: Meng et al. 2022 (arXiv 2202.05262), section 2.1; Zhang and Nanda 2024 (arXiv 2309.16042), sections 2 and 3.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vlmlab.benchmarks.held_out import Asked
from vlmlab.errors import BadInput
from vlmlab.explain.inside import Inside
from vlmlab.explain.regions import SHARE, coverage
from vlmlab.language.mamba import Mamba, MambaCache
from vlmlab.taps import Record
from vlmlab.vlm.answering import Prompt
from vlmlab.vlm.model import VLM

LEAST = 1.0  # nats between the log-odds given A and given B; below that, a share of the difference means little
MEMORY = ("states", "inputs")  # what a Mamba layer keeps of the past: the scan's state, the convolution's last inputs


class Sweep(NamedTuple):
    """Effects (rows, columns) of patching: 0 where the model still answers as of A, 1 where it answers as of B. It may
    leave [0, 1]. rows: what was replaced; columns: at which positions."""

    values: np.ndarray
    rows: list[str]
    columns: list[str]


@dataclass(frozen=True)
class Pair:
    """One question about pictures A and B, with an answer for each.

    a: A as read with A's answer and with B's. b: B as read with the same two. low, high: log p(B's answer) - log p(A's
    answer), given A and given B, natural logarithm. objects: bool (P,), the image tokens that show what the question is
    about in either picture; None where that is not known.
    """

    a: tuple[Inside, Inside]
    b: tuple[Inside, Inside]
    low: float
    high: float
    objects: Tensor | None = None

    @classmethod
    def ask(cls, vlm: VLM, pictures: Sequence[Any], prompt: Prompt, answers: Sequence[str] | None = None) -> "Pair":
        """Ask about pictures A and B; answers: the text that belongs to each, by default what the model itself says.

        Raises BadInput where the answers are the same, or their log-odds given A and given B are less than LEAST apart:
        then there is no difference to look for.
        """
        one, two = answers or [vlm.generate(picture, prompt) for picture in pictures]
        if one == two:
            raise BadInput(f"{vlm.config.name} answers both pictures with {one!r}; patching needs two answers")
        a, b = ((Inside.ask(vlm, x, prompt, one), Inside.ask(vlm, x, prompt, two)) for x in pictures)
        low, high = (_odds(inside.log_probs().sum() for inside in runs) for runs in (a, b))
        if abs(high - low) < LEAST:
            raise BadInput(
                f"the log-odds of {two!r} against {one!r} are {low:.2f} given the one picture and {high:.2f} given the "
                f"other, less than {LEAST:g} apart: {vlm.config.name} hardly tells them apart; take another pair"
            )
        return cls(a, b, low, high)

    @classmethod
    def of(cls, vlm: VLM, asked: Asked, other: Asked, answers: Sequence[str] | None = None) -> "Pair":
        """Ask about a scene and its twin, as `vlmlab.benchmarks.categories.twin_pairs` gives them. Raises as `ask`."""
        renders = [each.scene.render(vlm.config.image_size) for each in (asked, other)]
        pair = cls.ask(vlm, [render.rgb for render in renders], asked.question.text, answers)
        if not asked.question.objects:
            return pair
        shares = [coverage(render.mask, asked.question.objects, pair.a[0].patches) for render in renders]
        return replace(pair, objects=(torch.cat(shares) >= SHARE).any(0))

    @property
    def prompt(self) -> int:
        """Positions of the prompt; those after them hold the answer."""
        return self.a[0].words.start

    def groups(self) -> dict[str, Tensor]:
        """Positions of the prompt by what stands there, bool (prompt,) each; together they are all of them.

        "objects" and "other image" (or "image", where the objects are not known); "question", the text but for the last
        position; "last", which predicts the answer, and stands for the answer's own tokens too.
        """
        read = self.a[0]
        image = (read.ids[0, : self.prompt] == read.vlm.image_id).cpu()
        last = torch.arange(self.prompt) == self.prompt - 1
        found = {"image": image}
        if self.objects is not None:
            objects = torch.zeros_like(image)
            objects[read.image] = self.objects
            found = {"objects": objects, "other image": image & ~objects}
        return {**found, "question": ~image & ~last, "last": last}

    def effect(self, log_probs: Iterable[Tensor | float]) -> float:
        """Where log p of A's and of B's answer put the model between the pictures: 0 like A, 1 like B."""
        return (_odds(log_probs) - self.low) / (self.high - self.low)


def usable(vlm: VLM, twins: Iterable[tuple[Asked, Asked]]) -> tuple[list[Pair], list[str]]:
    """The pairs that a model tells apart, and for every other the reason why it was left out."""
    found, left_out = [], []
    for asked, other in twins:
        try:
            found.append(Pair.of(vlm, asked, other))
        except BadInput as error:
            left_out.append(f"{asked.question.text} {error}")
    return found, left_out


def patch(pair: Pair, names: Iterable[str], where: Tensor) -> float:
    """The effect of replacing intermediates of A at some positions by those of B.

    Args:
        names: of `vlm.names()`, of those of the language model with a row a position (1, L, D): "language.embed" (the
            image's tokens among them), "language.layers.3" (the residual stream), "language.layers.3.attn_out", ...
        where: bool (prompt,), as in `Pair.groups`; the last one stands for the answer's tokens too.
    Raises UnknownName for a name, BadInput for one of another shape.
    """
    names = list(names)
    return _patched(pair, [theirs.run(names) for theirs in pair.b], names, where)


def sweep(pair: Pair, part: str = "residual", groups: Mapping[str, Tensor] | None = None) -> Sweep:
    """Layers x groups: the effect of replacing one part of one layer at one group of positions.

    part: "residual" (with a row "embed" for what enters the first layer), or a part that every layer names: "attn_out",
    "mlp_out" of a transformer, "mixer", "delta", "u", ... of a Mamba. groups: by default the pair's own.
    """
    groups = pair.groups() if groups is None else groups
    layers = range(pair.a[0].vlm.language.config.layers)
    suffix = "" if part == "residual" else f".{part}"
    rows = {f"layer {i}": f"language.layers.{i}{suffix}" for i in layers}
    if part == "residual":
        rows = {"embed": "language.embed", **rows}
    donors = [theirs.run(rows.values()) for theirs in pair.b]
    values = [[_patched(pair, donors, [name], where) for where in groups.values()] for name in rows.values()]
    return Sweep(np.array(values), list(rows), list(groups))


def sweep_states(pair: Pair, after: Sequence[int] | None = None, parts: Sequence[str] = MEMORY[:1]) -> Sweep:
    """Mamba: layers x positions, the effect of putting B's state into A's reading after a position; a last row for all
    layers at once.

    Args:
        after: positions of the prompt but for its last; by default the image's last and all that follow.
        parts: of MEMORY, what is replaced; a position's reading goes on from both.
    Raises BadInput for another language model or position.
    """
    language = pair.a[0].vlm.language
    if not isinstance(language, Mamba):
        raise BadInput(f"a state is what a Mamba keeps; {pair.a[0].vlm.config.name} has none, use sweep")
    end = pair.prompt - 1
    after = sorted(set(range(pair.a[0].image.stop - 1, end) if after is None else after))
    if not after or not 0 <= after[0] <= after[-1] < end:
        raise BadInput(f"positions {after}: a state can be replaced after positions 0 to {end - 1} of this prompt")
    choices = [[layer] for layer in range(language.config.layers)] + [list(range(language.config.layers))]
    scores = np.zeros((2, len(choices), len(after)))  # log p of A's and of B's answer
    for answer, (mine, theirs) in enumerate(zip(pair.a, pair.b, strict=True)):
        memories = zip(read(mine, after), read(theirs, after), strict=True)
        for column, ((ours, rest), (other, _)) in enumerate(memories):
            cache = ours.repeat(len(choices))
            for row, layers in enumerate(choices):
                for part, layer in ((part, layer) for part in parts for layer in layers):
                    getattr(cache, part)[layer][row] = getattr(other, part)[layer][0]
            scores[answer, :, column] = _continued(mine, rest.expand(len(choices), -1, -1), cache).cpu()
    values = [[pair.effect(scores[:, row, column]) for column in range(len(after))] for row in range(len(choices))]
    rows = [*(f"layer {layers[0]}" for layers in choices[:-1]), "all layers"]
    return Sweep(np.array(values), rows, [pair.a[0].texts[position] for position in after])


@torch.no_grad()
def read(inside: Inside, after: Iterable[int]) -> list[tuple[MambaCache, Tensor]]:
    """What a Mamba remembers after each of some rising positions, and the embeddings (1, rest, D) still to be read."""
    language = inside.vlm.language
    x = inside.vlm.embed_inputs(inside.pixels, inside.ids).inputs_embeds  # (1, L, D)
    cache, done, found = language.new_cache(), 0, []
    for position in after:
        language.hidden(inputs_embeds=x[:, done : position + 1], cache=cache)
        done = position + 1
        found.append((cache.select([0]), x[:, done:]))
    return found


@torch.no_grad()
def _continued(inside: Inside, rest: Tensor, cache: MambaCache) -> Tensor:
    """log p of the answer (n,) where the last positions (n, rest, D) are read from n memories."""
    language, count = inside.vlm.language, inside.words.stop - inside.words.start
    hidden = language.hidden(inputs_embeds=rest, cache=cache)[:, -count - 1 : -1]  # each predicts the next
    targets = inside.ids[:, inside.words].expand(len(rest), -1)
    logits = language.head(hidden)
    log_probs = logits.log_softmax(-1, dtype=torch.promote_types(logits.dtype, torch.float32))
    return log_probs.gather(-1, targets[..., None])[..., 0].sum(-1)


def _patched(pair: Pair, donors: Sequence[Record], names: Sequence[str], where: Tensor) -> float:
    """The effect of putting in what B's runs, one an answer, left under these names."""
    if where.shape != (pair.prompt,):
        raise BadInput(f"positions {tuple(where.shape)}: the prompt has {pair.prompt}; give one flag for each")
    scores = []
    for mine, theirs in zip(pair.a, donors, strict=True):
        at = torch.cat([where, where[-1:].expand(mine.length - pair.prompt)]).to(mine.ids.device)

        def tap(name: str, value: Tensor, theirs: Record = theirs, at: Tensor = at) -> Tensor:
            if name not in names:
                return value
            if value.dim() != 3 or value.shape[1] != len(at):
                raise BadInput(f"{name} is {tuple(value.shape)}; only what has a row a position can be patched")
            return torch.where(at[:, None], theirs[name], value)

        scores.append(mine.log_probs(tap=tap).sum())
    return pair.effect(scores)


def _odds(log_probs: Iterable[Tensor | float]) -> float:
    one, two = log_probs
    return float(two) - float(one)
