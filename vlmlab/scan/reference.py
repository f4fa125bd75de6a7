"""The selective scan as its recurrence, in eight readable lines: slow, and what the others must equal. Notebook 07."""

import torch
from torch import Tensor


def scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """h_t = exp(delta_t A) h_{t-1} + delta_t B_t u_t and y_t = C_t h_t (Gu and Dao 2023, arXiv 2312.00752, equation 2a
    with zero-order hold for A and Euler's rule for B, as upstream's code).

    u, delta (B, D, L); A (D, N); B, C (B, D, N, L); state (B, D, N). Returns y (B, D, L) and the last state (B, D, N).
    """
    outputs = []
    for t in range(u.shape[-1]):
        decay = torch.exp(delta[:, :, t, None] * A)  # (B, D, N)
        state = decay * state + (delta[:, :, t] * u[:, :, t])[..., None] * B[..., t]
        outputs.append((state * C[..., t]).sum(-1))
    y = torch.stack(outputs, -1) if outputs else torch.zeros_like(u)
    return y, state
