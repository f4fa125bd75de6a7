"""Attention, read: maps of an answer's words, its sinks, rollout and relevance. Notebook 13.

A query is a row, a key a column. The row that predicts word k of the answer is position words.start + k - 1. The prompt
is read at once (prefill), and its last row predicts word 0; every later word comes from a step of its own (decode), the
row of the word before it.

Attention says where a layer looked. Rollout and relevance follow it through the layers; both are approximations: they
leave out what values, MLPs and norms do.
"""

from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from vlmlab.errors import BadInput
from vlmlab.explain.inside import Inside
from vlmlab.explain.states import predicting
from vlmlab.language import Llama
from vlmlab.vision.mambavision_blocks import to_windows

PARTS = ("itself", "sinks", "image", "prompt", "answer")
TIMES, MOST, LATER = 5.0, 0.5, 8  # see `find_sinks`


class Sink(NamedTuple):
    """A token that takes far more attention than its share. text, group: as `Inside` names them; share: of the later
    rows' attention, on average; rows: the share of these rows in which it stands out."""

    position: int
    text: str
    group: str
    share: float
    rows: float


def rows_of(inside: Inside, word: int | None) -> list[int]:
    """The row that predicts one word of the answer, counted from 0, or (None) those of all. Raises BadInput."""
    words = range(inside.words.stop - inside.words.start) if word is None else [word]
    return [predicting(inside, each) for each in words]


def phases(inside: Inside) -> list[str]:
    """ "prefill" for the prompt's rows, "decode" for the answer's, for each of the L positions."""
    return ["prefill" if row < inside.words.start else "decode" for row in range(inside.length)]


def need_attention(inside: Inside) -> None:
    """Raise BadInput for a language model without attention."""
    if not isinstance(inside.vlm.language, Llama):
        raise BadInput(
            f"the language model of {inside.vlm.config.name} has no attention; look at its hidden attention instead "
            "(vlmlab.explain.hidden_attention)"
        )


def by_layer(inside: Inside, reduce: Callable[[Tensor], Tensor]) -> Tensor:
    """reduce(weights (H, L, L)) for each layer of the language model, stacked, in one pass without gradient.

    Only what `reduce` returns is kept, so that a model of full size fits. Raises BadInput without attention.
    """
    need_attention(inside)
    found: list[Tensor] = []

    def tap(name: str, value: Tensor) -> Tensor:
        if _of_language(name):
            found.append(reduce(value[0]))
        return value

    inside.run(tap=tap)
    return torch.stack(found)


def attention_from(inside: Inside, position: int) -> Tensor:
    """The row of any position, prompt or answer, by layer and head: (layers, H, L). Raises BadInput."""
    if not 0 <= position < inside.length:
        raise BadInput(f"position={position}: this question has positions 0 to {inside.length - 1}")
    return by_layer(inside, lambda weights: weights[:, position])


def attention_maps(inside: Inside, word: int | None = None) -> Tensor:
    """Attention of a word (None: the mean of all words) to the image's tokens: (layers, H, rows, columns)."""
    rows = rows_of(inside, word)
    return inside.on_grid(by_layer(inside, lambda weights: weights[:, rows].mean(1)))


def attention_map(
    inside: Inside, word: int | None = None, layers: Sequence[int] | None = None, sinks: Collection[int] = ()
) -> Tensor:
    """Attention of a word (None: the mean of all) to the image, the mean over heads and layers: (rows, columns).

    layers: some of them, all when None. sinks: positions taken out first, see `without`.
    """
    rows = rows_of(inside, word)
    found = by_layer(inside, lambda weights: without(weights[:, rows], sinks).mean((0, 1)))  # (layers, L)
    return inside.on_grid((found if layers is None else found[list(layers)]).mean(0))


def without(weights: Tensor, positions: Collection[int]) -> Tensor:
    """Rows of attention (..., L) with some keys taken out and the others scaled to sum to 1; 0 where none is left."""
    kept = weights.clone()
    kept[..., list(positions)] = 0
    return _shares(kept)


def find_sinks(inside: Inside, times: float = TIMES) -> list[Sink]:
    """The attention sinks of a question, those with the largest share first.

    The rule: in the mean over heads and layers, the token takes at least `times` as much as the average of the other
    tokens that the row sees, in more than half (MOST) of the rows after it, of which there are at least LATER.
    Source of the term: Xiao et al. 2023 (arXiv 2309.17453, section 3.1); it gives no threshold.
    """
    mean = by_layer(inside, lambda weights: weights.mean(0)).mean(0)  # (L, L)
    later = torch.ones_like(mean, dtype=torch.bool).tril(-1)
    count = later.sum(0)
    others = torch.arange(len(mean), device=mean.device)[:, None]  # that a row sees beside a key
    stands_out = ((mean * others >= times * (1 - mean)) & later).sum(0) / count.clamp(min=1)
    share = mean.tril(-1).sum(0) / count.clamp(min=1)
    chosen = ((stands_out > MOST) & (count >= LATER)).nonzero().flatten().tolist()
    texts, groups = inside.texts, inside.groups
    found = [Sink(at, texts[at], groups[at], float(share[at]), float(stands_out[at])) for at in chosen]
    return sorted(found, key=lambda sink: -sink.share)


def shares(inside: Inside, sinks: Collection[int] = ()) -> dict[str, Tensor]:
    """Where attention goes: for each of PARTS its share of every row, (layers, H, L); the five sum to 1.

    "itself" is the row's own position; "sinks" those given; all others count as "image", "prompt" (text) or "answer".
    """
    names = {"text": "prompt"}
    part = ["sinks" if at in sinks else names.get(group, group) for at, group in enumerate(inside.groups)]
    belongs = torch.tensor([[name == other for other in PARTS[1:]] for name in part], device=inside.ids.device)

    def reduce(weights: Tensor) -> Tensor:
        own = weights.diagonal(dim1=-2, dim2=-1)  # (H, L)
        return torch.cat([own[..., None], (weights - own.diag_embed()) @ belongs.to(weights.dtype)], -1)

    return dict(zip(PARTS, by_layer(inside, reduce).unbind(-1), strict=True))


def rollout(weights: Tensor) -> Tensor:
    """Attention rollout (T, T) of a stack of layers' attention, the mean over heads (layers, T, T).

    The product of (A + I) / row sum, the last layer first; rows sum to 1. Source: Abnar and Zuidema 2020 (arXiv
    2005.00928), section 3.
    """
    one = torch.eye(weights.shape[-1], dtype=weights.dtype, device=weights.device)
    found = one
    for layer in weights + one:
        found = layer / layer.sum(-1, keepdim=True) @ found
    return found


def rollout_map(inside: Inside, word: int | None = None) -> Tensor:
    """Rollout from a word (None: the mean of all) through the language model to the image's tokens: (rows, columns)."""
    found = rollout(by_layer(inside, lambda weights: weights.mean(0)))
    return inside.on_grid(found[rows_of(inside, word)].mean(0))


def relevance(inside: Inside, word: int | None = None) -> Tensor:
    """Relevance R (L, L) of each position (column) for each (row), by the gradient of log p of a word (None: of all).

    R starts as I; each layer adds A R, A the mean over heads of the positive part of gradient x attention. A row whose
    gradient is 0 adds nothing. Source: Chefer et al. 2021 (arXiv 2103.15679), equations 5 and 6, where the gradient is
    that of a logit.
    """
    need_attention(inside)
    rows_of(inside, word)
    probed: list[tuple[Tensor, Tensor]] = []

    def tap(name: str, value: Tensor) -> Tensor:
        if not _of_language(name):
            return value
        probe = torch.zeros_like(value, requires_grad=True)  # has the attention's gradient, also with frozen weights
        probed.append((value.detach(), probe))
        return value + probe

    with torch.enable_grad():
        log_p = inside.log_probs(tap=tap, grad=True)
        gradients = torch.autograd.grad(log_p.sum() if word is None else log_p[word], [probe for _, probe in probed])
    found = torch.eye(inside.length, dtype=log_p.dtype, device=log_p.device)
    for (weights, _), gradient in zip(probed, gradients, strict=True):
        found = found + (gradient * weights)[0].clamp(min=0).mean(0) @ found
    return found


def chefer_map(inside: Inside, word: int | None = None) -> Tensor:
    """The share of a word's relevance (None: of the whole answer's) that each image token has: (rows, columns).

    Of R - I in the rows that predict the words, summed and divided by its sum over all positions; 0 where that is 0.
    """
    found = relevance(inside, word)
    found = found - torch.eye(len(found), dtype=found.dtype, device=found.device)
    return inside.on_grid(_shares(found[rows_of(inside, word)].sum(0)))


def encoder_attention(inside: Inside) -> dict[str, Tensor]:
    """Weights (H, T, T) of the encoder's attention blocks, by name, those that run: the last ones may not.

    Of a ViT, T are its prefix tokens and its patches. Of a MambaVision they are the places of the level's map: 0 from
    window to window, and where windows are padded, what goes to padding is left out. Raises BadInput without an image.
    """
    if inside.pixels is None:
        raise BadInput("this question has no image, so the encoder does not run")
    names = [name for name in inside.vlm.names() if name.startswith("vision.") and name.endswith(".attn")]
    names = [name for name in names if ".blocks." in name]  # no pooling head
    found = inside.run(names)
    return {name: _placed(inside, name, found[name]) for name in names if found[name] is not None}


def encoder_rollout(inside: Inside) -> dict[str, Tensor]:
    """Rollout (P, P) from an encoder's output tokens (rows) to its input patches, without prefix tokens.

    A key for each stack of blocks: "vision", or "vision.dinov2" and "vision.siglip", or "vision.levels.2" (of which
    only the attention blocks count, and not the scans before them). What a row lacks to 1 went to the prefix.
    """
    stacks: dict[str, list[Tensor]] = {}
    for name, weights in encoder_attention(inside).items():
        stacks.setdefault(_stack(name), []).append(weights.mean(0))
    first = {stack: getattr(inside.vlm.get_submodule(stack), "prefix_tokens", 0) for stack in stacks}
    return {stack: rollout(torch.stack(w))[first[stack] :, first[stack] :] for stack, w in stacks.items()}


def _of_language(name: str) -> bool:
    return name.startswith("language.") and name.endswith(".attn")


def _stack(name: str) -> str:
    return name.partition(".blocks.")[0]


def _shares(values: Tensor) -> Tensor:
    """Values (..., L), not negative, over their sum; 0 where it is 0."""
    total = values.sum(-1, keepdim=True)
    return values / torch.where(total > 0, total, 1)


def _placed(inside: Inside, name: str, weights: Tensor) -> Tensor:
    """Weights (1, H, T, T), or those of windows (windows, H, l, l), as (H, T, T)."""
    assert inside.pixels is not None
    window = getattr(inside.vlm.get_submodule(_stack(name)), "window", None)
    if window is None:
        return weights[0]
    side = inside.vlm.vision.config.sides(inside.pixels.shape[-1])[int(_stack(name).rpartition(".")[2])]
    numbers = torch.arange(1, side**2 + 1, device=weights.device).view(1, 1, side, side)
    whole = weights.new_zeros(weights.shape[1], side**2 + 1, side**2 + 1)  # 0 is padding
    for places, inner in zip(to_windows(numbers, window)[..., 0], weights, strict=True):
        whole[:, places[:, None], places] = inner
    return whole[:, 1:, 1:]
