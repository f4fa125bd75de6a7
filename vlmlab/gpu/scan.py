"""The selective scan's backends against one another on a GPU, forward and backward. Notebook 16."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from vlmlab import runtime
from vlmlab.errors import BadInput
from vlmlab.gpu.lengths import or_none
from vlmlab.gpu.measuring import copy_bandwidth, figure, free, milliseconds
from vlmlab.scan import backends, selective_scan

SHAPES = {
    **{f"Cobra's layer, {length} tokens": (1, 5120, length, 16) for length in (512, 2048, 8192)},
    "MambaVision-T's level 2, 128 pictures": (128, 160, 196, 8),
}
"""Name -> B, D, L, N."""


def scan(
    shapes: Mapping[str, Sequence[int]] = SHAPES, device: str = "cuda", rounds: int = 5, copied: int = 2**30
) -> dict[str, Any]:
    """Milliseconds of every backend that runs on the device, in float32; the recurrence in Python is left out.

    Args: shapes, name -> (B, D, L, N); rounds of timing; copied, bytes of the copy that gives the bandwidth.
    Returns {"bandwidth" in bytes a second, "shapes", and name of the shape -> backend -> value, None where memory ran
    out: "forward_ms", "forward_backward_ms", "relative_difference" to the chunked scan in float64}, and "limit_ms", to
    read u, delta, B, C and to write y at that bandwidth.
    Raises BadInput without that device or for a shape that is none.
    """
    on = runtime.device(device)
    for shape, sizes in shapes.items():
        if len(sizes) != 4 or min(sizes) < 1:
            raise BadInput(f"{shape} is {tuple(sizes)}; expected (B, D, L, N), each at least 1")
    bandwidth = copy_bandwidth(on, copied)
    found: dict[str, Any] = {"bandwidth": figure(bandwidth), "shapes": {name: list(x) for name, x in shapes.items()}}
    found |= {what: {} for what in ("forward_ms", "forward_backward_ms", "relative_difference", "limit_ms")}
    elsewhere = ("cpu",) if on.type == "cuda" else ("triton", "mamba_ssm")
    names = [name for name in backends() if name not in ("reference", *elsewhere)]
    for shape, sizes in shapes.items():
        arguments = _arguments(sizes, on)
        found["limit_ms"][shape] = figure(1e3 * _moved(sizes) / bandwidth)
        for what, measure in (("forward_ms", _forward), ("forward_backward_ms", _both)):
            each = {name: or_none(partial(measure, arguments, name, on, rounds)) for name in names}
            found[what][shape] = {name: value and figure(value["ms"]) for name, value in each.items()}
        found["relative_difference"][shape] = _differences(arguments, names)
        free(on)
    return found


def _arguments(sizes: Sequence[int], device: torch.device) -> list[Tensor]:
    """u, delta, A, B, C as a block makes them: time before channels in memory, steps as of a fresh Mamba."""
    B, D, L, N = sizes
    g = runtime.generator(0)
    u, delta = (torch.randn(B, L, D, generator=g).to(device).transpose(1, 2) for _ in range(2))
    inputs, outputs = (torch.randn(B, L, N, generator=g).to(device).transpose(1, 2) for _ in range(2))
    A = -torch.arange(1.0, N + 1, device=device).repeat(D, 1)
    return [u, torch.nn.functional.softplus(delta - 4), A, inputs, outputs]


def _moved(sizes: Sequence[int]) -> int:
    B, D, L, N = sizes
    return 4 * B * L * (3 * D + 2 * N)


@torch.no_grad()
def _forward(arguments: list[Tensor], backend: str, device: torch.device, rounds: int) -> dict[str, Any]:
    return {"ms": _ms(partial(_y, arguments, backend), device, rounds)}


def _both(arguments: list[Tensor], backend: str, device: torch.device, rounds: int) -> dict[str, Any]:
    leaves = [x.detach().requires_grad_() for x in arguments]

    def train() -> None:
        torch.autograd.grad(_y(leaves, backend).sum(), leaves)

    return {"ms": _ms(train, device, rounds)}


def _y(arguments: list[Tensor], backend: str) -> Tensor:
    u, delta, A, B, C = arguments
    y = selective_scan(u, delta, A, B, C, backend=backend)
    assert isinstance(y, Tensor)
    return y


def _ms(run: Callable[[], Any], device: torch.device, rounds: int) -> float:
    return milliseconds({"it": run}, device, rounds)["it"]


@torch.no_grad()
def _differences(arguments: list[Tensor], names: Sequence[str]) -> dict[str, float]:
    """Largest difference of y over its largest value."""
    wanted = _y([x.double() for x in arguments], "chunked")
    return {
        name: figure(float((_y(arguments, name) - wanted).abs().max() / wanted.abs().max())) for name in names
    }  # fmt: skip
