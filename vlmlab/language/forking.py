"""One prefix, several continuations, for a recurrence: who follows whom, and the scan over such rows. Notebook 09.

Attention forks by a mask (`vlmlab.language.masks.forked`). A recurrence goes on from a state: every continuation from
the one that its prefix left. All that treats tokens one by one, the projections above all, still works on whole rows.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from vlmlab.scan import selective_scan

BUCKETS = 4  # batches into which continuations of different lengths are sorted


class Bucket(NamedTuple):
    """Continuations of like length as rows of their own: place (n, l) of their tokens in the flattened batch, real
    (n, l, 1) False behind their end, owner (n,) the row whose prefix they continue."""

    place: Tensor
    real: Tensor
    owner: Tensor


class Fork:
    """The plan of a batch of rows cut into segments (B, L): 0 the prefix, k the k-th continuation, -1 padding."""

    def __init__(self, segments: Tensor):
        B, L = segments.shape
        place = torch.arange(L, device=segments.device).expand(B, L)
        self.prefix = segments == 0
        self.longest = int(self.prefix.sum(1).max())
        begins = F.pad(segments[:, 1:] != segments[:, :-1], (1, 0), value=True)
        first = begins & (segments > 0)
        last = self.prefix.sum(1, keepdim=True) - 1
        self.parents = torch.where(first, last, place - 1)  # (B, L): the token before each one; -1 for none
        owner, start = first.nonzero(as_tuple=True)
        lengths = (segments[owner] == segments[owner, start][:, None]).sum(1)
        self.buckets = []
        for some in lengths.argsort().chunk(BUCKETS) if len(owner) else ():
            offset = torch.arange(int(lengths[some].max()), device=segments.device)
            real = offset < lengths[some, None]
            inside = (owner[some] * L + start[some])[:, None] + offset
            self.buckets.append(Bucket(inside.clamp(max=B * L - 1), real[..., None], owner[some]))

    def before(self, u: Tensor, taps: int) -> list[Tensor]:
        """The token itself and the taps - 1 before it, farthest first, zero where there is none: each (B, L, D)."""
        found, parents = [u], self.parents
        for _ in range(taps - 1):
            known = parents >= 0
            at = parents.clamp(min=0)
            found.append(u.gather(1, at[..., None].expand_as(u)) * known[..., None])
            parents = torch.where(known, self.parents.gather(1, at), parents)
        return found[::-1]

    def scan(self, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
        """The selective scan of u, delta (B, L, D), B, C (B, L, N) along every prefix and each of its continuations."""
        inputs, n = (u, delta, B, C), self.longest
        y, state = _scan(tuple(x[:, :n] for x in inputs), self.prefix[:, :n, None], A, D, None)
        out = F.pad(y, (0, 0, 0, u.shape[1] - n)).flatten(0, 1)
        flat = tuple(x.flatten(0, 1) for x in inputs)
        for place, real, owner in self.buckets:
            y, _ = _scan(tuple(x[place] for x in flat), real, A, D, state[owner])
            out = out.index_put((place[real[..., 0]],), y[real[..., 0]])
        return out.view_as(u)


def _scan(
    inputs: tuple[Tensor, ...], real: Tensor, A: Tensor, D: Tensor, state: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Scan rows (n, l, ...) from `state`; where not real, a step of length 0 leaves the state as it is."""
    u, delta, B, C = (x.transpose(1, 2) for x in inputs)
    y, state = selective_scan(u, delta * real.transpose(1, 2), A, B, C, D, initial_state=state, return_last_state=True)
    return y.transpose(1, 2) * real, state
