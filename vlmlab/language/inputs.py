"""What every language model does with its arguments: look up ids, check shapes. Notebook 02."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vlmlab.errors import BadInput


def look_up(table: nn.Embedding, input_ids: Tensor) -> Tensor:
    """Embeddings (B, L, D) of ids (B, L). Raises BadInput for an id outside the vocabulary."""
    try:
        return table(input_ids)
    except IndexError:
        low, high = (int(end) for end in input_ids.aminmax())
        raise BadInput(f"ids from {low} to {high}; the vocabulary is 0 to {table.num_embeddings - 1}") from None


def begin(
    model: Any,
    input_ids: Tensor | None,
    inputs_embeds: Tensor | None,
    cache: Any,
    segments: Tensor | None = None,
    others: Sequence[object] = (),
) -> Tensor:
    """The embeddings (B, L, D) that a model's `hidden` starts from, all of its arguments of that name checked.

    others: a mask, positions, a tap: what may not come with segments. Raises BadInput for shapes that do not fit, a
    cache of other rows, or segments that are not one prefix, then continuations, then padding.
    """
    x = inputs_embeds if input_ids is None else model.embed(input_ids)
    if x is None or (input_ids is not None and inputs_embeds is not None):
        raise BadInput("give either input_ids or inputs_embeds, not both or neither")
    dim = model.config.dim
    if x.dim() != 3 or x.shape[-1] != dim:
        raise BadInput(f"expected ids (B, L) or embeddings (B, L, {dim}), got {tuple(x.shape)} embedded")
    if cache is not None and cache.length and cache.batch != x.shape[0]:
        raise BadInput(
            f"the cache holds {cache.batch} rows and the input {x.shape[0]}; use cache.select or cache.repeat"
        )
    if segments is not None:
        if cache is not None or any(other is not None for other in others):
            raise BadInput(
                "segments say who sees whom: no attention_mask, position_ids, cache, record or tap with them"
            )
        if segments.shape != x.shape[:2]:
            raise BadInput(f"segments is {tuple(segments.shape)}; expected {tuple(x.shape[:2])}")
        order = torch.where(segments < 0, segments.shape[1], segments)  # padding last
        if not segments.is_meta and bool((order[:, 1:] < order[:, :-1]).any()):
            raise BadInput("segments must rise along a row: 0 the prefix, 1, 2, ... its continuations, -1 padding last")
    return x
