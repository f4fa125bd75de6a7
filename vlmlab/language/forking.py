"""One prefix, several continuations: read the prefix once and fork its cache. Notebooks 04 and 09."""

from typing import Any

import torch
from torch import Tensor

BUCKETS = 4  # batches into which continuations of different lengths are sorted


def read_forked(model: Any, x: Tensor, segments: Tensor) -> Tensor:
    """Hidden states (B, L, D) of embeddings x (B, L, D) cut into segments (B, L), see `Llama.hidden`.

    The prefixes are read together, then the continuations, each as a row of its own that goes on from a copy of its
    prefix's cache; gradients flow back through the cache. Attention then costs what the continuations are long, not
    what the whole row is, and a recurrence, which no mask can fork, needs nothing else.
    """
    prefix = segments == 0
    longest = int(prefix.sum(1).max())
    cache, out = model.new_cache(), torch.zeros_like(x)
    seen = prefix[:, :longest]
    read = model.hidden(inputs_embeds=x[:, :longest], attention_mask=seen, cache=cache)
    out[:, :longest] = read * seen[..., None]
    row = torch.arange(len(x), device=x.device)[:, None] * (x.shape[1] + 1)
    key = torch.where(segments > 0, segments + row, 0).flatten()  # different for each continuation
    _, lengths = key.unique_consecutive(return_counts=True)
    starts = lengths.cumsum(0) - lengths
    asked = (key[starts] > 0).nonzero()[:, 0]
    asked = asked[lengths[asked].argsort()]
    flat, found = x.flatten(0, 1), out.flatten(0, 1)
    for some in asked.chunk(BUCKETS):  # of like length, so that little is padding
        place = starts[some, None] + torch.arange(int(lengths[some].max()), device=x.device)
        real = place < (starts + lengths)[some, None]
        place = place.clamp(max=len(flat) - 1)
        owner = starts[some] // x.shape[1]
        states = model.hidden(
            inputs_embeds=flat[place], attention_mask=torch.cat([seen[owner], real], 1), cache=cache.select(owner)
        )
        found = found.index_put((place[real],), states[real].to(found.dtype))
    return found.view_as(x)
