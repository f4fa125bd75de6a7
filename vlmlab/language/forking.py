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
    """Continuations of like length as rows of their own: owner (n,) the row whose prefix they continue; shape (n, l)
    of its part of the batch that `Fork.inside` gathers. Behind their end they run on, and nobody reads what comes."""

    owner: Tensor
    shape: tuple[int, int]


class Fork:
    """The plan of a batch of rows cut into segments (B, L): 0 the prefix, k the k-th continuation, -1 padding."""

    def __init__(self, segments: Tensor):
        B, L = segments.shape
        place = torch.arange(L, device=segments.device).expand(B, L)
        prefix = segments == 0
        sizes = prefix.sum(1)
        self.longest = int(sizes.max())
        # a step of length 0 leaves the state as it is; None where all prefixes are of one length
        self.real = None if bool((sizes == self.longest).all()) else prefix[:, : self.longest, None]
        begins = F.pad(segments[:, 1:] != segments[:, :-1], (1, 0), value=True)
        first = begins & (segments > 0)
        self.parents = torch.where(first, sizes[:, None] - 1, place - 1)  # (B, L): the token before each; -1 for none
        owner, start = first.nonzero(as_tuple=True)
        lengths = (segments[owner] == segments[owner, start][:, None]).sum(1)
        row = torch.arange(B, device=segments.device)[:, None]
        # where each token's result will stand: prefixes (B, longest) first, then the buckets one after another
        found = row * self.longest + place.clamp(max=max(self.longest - 1, 0))
        self.buckets, inside, end = [], [], B * self.longest
        for some in lengths.argsort().chunk(BUCKETS) if len(owner) else ():
            offset = torch.arange(int(lengths[some].max()), device=segments.device)
            real = offset < lengths[some, None]
            at = (owner[some] * L + start[some])[:, None] + offset  # (n, l) in the flattened batch
            found.view(-1)[at[real]] = end + torch.arange(real.numel(), device=segments.device)[real.flatten()]
            end += real.numel()
            inside.append(at.clamp(max=B * L - 1).flatten())
            self.buckets.append(Bucket(owner[some], (len(some), len(offset))))
        self.inside = torch.cat(inside) if inside else place.new_zeros(0)
        self.found = found.flatten()
        self.row = row * L

    def before(self, u: Tensor, taps: int) -> list[Tensor]:
        """The token itself and the taps - 1 before it, farthest first, zero where there is none: each (B, L, D)."""
        found, parents, flat = [u], self.parents, u.flatten(0, 1)
        for _ in range(taps - 1):
            known = parents >= 0
            at = parents.clamp(min=0)
            past = flat.index_select(0, (self.row + at).flatten()).view_as(u)
            found.append(past * known[..., None])
            parents = torch.where(known, self.parents.gather(1, at), parents)
        return found[::-1]

    def scan(self, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
        """The selective scan of u, delta (B, L, D), B, C (B, L, N) along every prefix and each of its continuations."""
        inputs, n = (u, delta, B, C), self.longest
        y, state = _scan(tuple(x[:, :n] for x in inputs), A, D, None, self.real)
        found = [y.flatten(0, 1)]
        sizes = [rows * length for _, (rows, length) in self.buckets]
        gathered = zip(*(x.flatten(0, 1).index_select(0, self.inside).split(sizes) for x in inputs), strict=True)
        for (owner, shape), parts in zip(self.buckets, gathered, strict=True):
            y, _ = _scan(tuple(x.unflatten(0, shape) for x in parts), A, D, state.index_select(0, owner))
            found.append(y.flatten(0, 1))
        return torch.cat(found).index_select(0, self.found).view_as(u)


def _scan(
    inputs: tuple[Tensor, ...], A: Tensor, D: Tensor, state: Tensor | None, real: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Scan rows (n, l, ...) from `state`; where `real` (n, l, 1) is False, the state stays as it is."""
    u, delta, B, C = (x.transpose(1, 2) for x in inputs)
    if real is not None:
        delta = delta * real.transpose(1, 2)
    y, state = selective_scan(u, delta, A, B, C, D, initial_state=state, return_last_state=True)
    return y.transpose(1, 2), state
