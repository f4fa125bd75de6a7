"""The selective scan in plain PyTorch on any device, in about 2 sqrt(L) steps. Notebook 07.

The sequence is cut into chunks. All chunks advance together from a state of zero; then the states at their ends are
carried from chunk to chunk, each adding what its past contributes. The decay between two moments is exp(A (S_t - S_s))
with S the running sum of delta, at most 1 where A < 0 and delta > 0, so nothing is ever divided.
"""

from math import isqrt

import torch
from torch import Tensor
from torch.nn.functional import pad


def scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """Arguments and results as in `reference.scan`; memory O(B D L N) when gradients are kept."""
    L = u.shape[-1]
    if L == 0:
        return torch.zeros_like(u), state
    size = isqrt(L - 1) + 1  # steps of a chunk, about sqrt(L)
    rest = -L % size  # padding with delta = 0 changes no state
    u, delta, B, C = (pad(x, (0, rest)).unflatten(-1, (-1, size)) for x in (u, delta, B, C))  # (B, D[, N], M, size)
    inside, y = torch.zeros((), dtype=u.dtype, device=u.device), []
    for i in range(size):  # every chunk's i-th step
        decay = torch.exp(delta[..., i].unsqueeze(2) * A[..., None])  # (B, D, N, M)
        inside = decay * inside + (delta[..., i] * u[..., i]).unsqueeze(2) * B[..., i]
        y.append((inside * C[..., i]).sum(2))
    result, since = torch.stack(y, -1), delta.cumsum(-1)  # (B, D, M, size)
    carried = []
    for m in range(u.shape[2]):  # every chunk's past
        decays = torch.exp(since[:, :, None, m] * A[..., None])  # (B, D, N, size)
        carried.append((C[:, :, :, m] * decays * state[..., None]).sum(2))
        state = decays[..., -1] * state + inside[..., m]
    return (result + torch.stack(carried, 2)).flatten(2)[..., :L], state
