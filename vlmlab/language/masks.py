"""Who sees whom: causality, padding and packed questions as one boolean mask. Notebooks 02 and 04."""

import torch
import torch.nn.functional as F
from torch import Tensor

from vlmlab.errors import BadInput
from vlmlab.language.cache import KVCache


def causal(L: int, T: int, device: torch.device) -> Tensor:
    """Boolean (L, T), True where query i (at position T - L + i) sees key j: no key later than itself."""
    return torch.ones(L, T, dtype=torch.bool, device=device).tril(T - L)


def see(
    mask: Tensor | None, B: int, L: int, past: int, cache: KVCache | None, device: torch.device
) -> tuple[Tensor | None, Tensor | None]:
    """Who sees whom, boolean (B or 1, 1, L, T), and positions (B, L); None where it is plain causality, and counting.

    `mask` and its errors are those of `Llama.hidden`; the padding in it is left in the cache for later steps.
    """
    T = past + L
    if mask is None and cache is not None and cache.padding is not None:
        mask = F.pad(cache.padding, (0, T - cache.padding.shape[1]), value=True)
    if mask is None:
        return (causal(L, T, device)[None, None] if past and L > 1 else None), None
    if tuple(mask.shape) not in ((B, T), (B, L, T)):
        raise BadInput(f"attention_mask is {tuple(mask.shape)}; expected {(B, T)} for padding or {(B, L, T)}")
    mask = mask.to(device=device, dtype=torch.bool)
    if mask.dim() == 3:
        return _never_blind(mask & causal(L, T, device), L, T)[:, None], None
    if cache is not None:
        cache.padding = None if bool(mask.all()) else mask
    if past == 0 and bool((mask[:, 1:] <= mask[:, :-1]).all()):
        return None, None  # padding on the right only: causality already hides it from every real token
    positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, past:]  # (B, L)
    if L == 1:
        return mask[:, None, None], positions
    return _never_blind(mask[:, None] & causal(L, T, device), L, T)[:, None], positions


def forked(segments: Tensor) -> tuple[Tensor, Tensor]:
    """Who sees whom, boolean (B, 1, L, L), and positions (B, L), in rows of one prefix and several continuations.

    segments (B, L): 0 the prefix, k the k-th continuation, -1 padding at the end. A token sees the prefix and its own
    continuation, up to itself; each continuation counts on from the prefix.
    """
    B, L = segments.shape
    query, key = segments[:, :, None], segments[:, None, :]
    visible = ((query == key) | (key == 0)) & (key >= 0) & causal(L, L, segments.device)
    place = torch.arange(L, device=segments.device).expand(B, L)
    begins = F.pad(segments[:, 1:] != segments[:, :-1], (1, 0), value=True)
    start = torch.where(begins, place, 0).cummax(1).values  # where each token's segment begins
    prefix = (segments == 0).sum(1, keepdim=True)
    return _never_blind(visible, L, L)[:, None], place - start + torch.where(segments > 0, prefix, 0)


def _never_blind(visible: Tensor, L: int, T: int) -> Tensor:
    """Let a query that sees nothing (padding) see itself: a softmax over nothing is not a number."""
    itself = torch.eye(L, T, dtype=torch.bool, device=visible.device).roll(T - L, 1)
    return visible | (itself & ~visible.any(-1, keepdim=True))
