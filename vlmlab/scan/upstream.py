"""mamba_ssm's CUDA kernel as a backend, where it is installed. Notebook 16."""

from torch import Tensor

from vlmlab.errors import MissingDependency


def scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """Arguments as in `reference.scan`, B and C (B, G, N, L); `state`, which upstream cannot take, is zeros."""
    try:
        from mamba_ssm.ops.selective_scan_interface import selective_scan_fn
    except ImportError:
        raise MissingDependency("mamba_ssm", "the scan's backend 'mamba_ssm'", "pip install mamba-ssm") from None
    B, C = (x.expand(-1, -1, -1, u.shape[-1]).contiguous() for x in (B, C))
    return selective_scan_fn(u.contiguous(), delta.contiguous(), A, B, C, return_last_state=True)
