"""Linear layers that decode quickly: for a single row on a CPU, a product of its own. Notebook 09."""

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlmlab.scan import backends


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (..., D) times weight (E, D) transposed, plus bias (E,): (..., E), as torch.nn.functional.linear."""
    if x.numel() != weight.shape[1] or not compiled(x, weight):
        return F.linear(x, weight, bias)
    from vlmlab.scan.token import product

    y = product(weight, x.reshape(-1))
    return (y if bias is None else y.add_(bias)).view(*x.shape[:-1], -1)


def compiled(*tensors: Tensor) -> bool:
    """Whether `vlmlab.scan.token` takes them: one of float32, float64 in a CPU's memory, no gradients, numba there."""
    dtype = tensors[0].dtype
    plain = all(x.device.type == "cpu" and x.dtype == dtype for x in tensors)
    plain = plain and dtype in (torch.float32, torch.float64) and not torch.is_autocast_enabled("cpu")
    counted = torch._C._len_torch_dispatch_stack() > 0  # what counts FLOPs sees PyTorch only
    return plain and not torch.is_grad_enabled() and not counted and _numba()


@cache
def _numba() -> bool:
    return "cpu" in backends()


class Linear(nn.Linear):
    """nn.Linear by way of `linear`."""

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias)
