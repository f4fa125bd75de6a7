"""The selective scan against transformers' fallback and mambapy's parallel scan. Notebook 07."""

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from vlmlab.bench.timing import alternate, ratios
from vlmlab.errors import MissingDependency
from vlmlab.runtime import cores, set_threads
from vlmlab.scan import selective_scan


def scan(length: int = 1024, channels: int = 768, state: int = 16, rounds: int = 5) -> dict[str, Any]:
    """Milliseconds of one sequence's scan, forward and forward with backward, float32, and ratios to the peers'.

    Beside them the limit reckoned with: one exponential for each of length * channels * state decays (two in training)
    and a first reading and writing of inputs and outputs, at this machine's own speed of both.
    """
    set_threads()
    arguments = _arguments(length, channels, state)
    results: dict[str, Any] = {"length": length, "channels": channels, "state": state, "cores": cores()}
    contenders: dict[str, Callable[..., Any]] = {
        "vlmlab": selective_scan,
        "vlmlab chunked": partial(selective_scan, backend="chunked"),
        "transformers": _transformers(),
        "mambapy": _mambapy(),
    }
    for run in contenders.values():
        _train(run, [x.requires_grad_() for x in _arguments(8, channels, state)])  # what is compiled is compiled here
    with torch.no_grad():
        wanted = contenders["transformers"](*arguments)
        errors = {name: float((run(*arguments) - wanted).abs().max() / wanted.abs().max())
                  for name, run in contenders.items()}  # fmt: skip
        forward = alternate({name: partial(run, *arguments) for name, run in contenders.items()}, rounds)
    leaves = [x.clone().requires_grad_() for x in arguments]
    both = alternate({name: partial(_train, run, leaves) for name, run in contenders.items()}, rounds)
    results["relative_difference_to_transformers"] = errors
    for what, seconds in (("forward", forward), ("forward_backward", both)):
        results[f"{what}_ms"] = {name: round(1e3 * value, 2) for name, value in seconds.items()}
        results[f"{what}_times_vlmlab"] = ratios(seconds)
    return results | {"limit_ms": _limit(length, channels, state)}


def _train(run: Callable[..., Tensor], leaves: list[Tensor]) -> None:
    """A scan forward and backward."""
    torch.autograd.grad(run(*leaves).sum(), leaves)


def _arguments(length: int, channels: int, state: int) -> list[Tensor]:
    """u, delta, A, B, C as a Mamba block makes them: time before channels in memory."""
    g = torch.Generator().manual_seed(0)
    u, delta = (torch.randn(1, length, channels, generator=g).transpose(1, 2) for _ in range(2))
    A = -torch.arange(1, state + 1, dtype=torch.float32).repeat(channels, 1)
    B, C = (torch.randn(1, length, state, generator=g).transpose(1, 2) for _ in range(2))
    return [u, torch.nn.functional.softplus(delta - 3), A, B, C]


def _transformers() -> Callable[..., Tensor]:
    from transformers.models.mamba.modeling_mamba import mamba_selective_scan
    from transformers.utils import logging

    logging.set_verbosity_error()  # it says at every call that mamba_ssm is missing, which is the point

    def run(*arguments: Tensor) -> Tensor:
        found = mamba_selective_scan(*arguments)
        return found[0] if isinstance(found, tuple) else found

    return run


def _mambapy() -> Callable[..., Tensor]:
    if not find_spec("mambapy"):
        raise MissingDependency("mambapy", "the comparison")
    from mambapy.mamba import MambaBlock

    def run(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
        turned = (x.transpose(1, 2) for x in (u, delta, B, C))
        x, step, inputs, outputs = turned
        return MambaBlock.selective_scan(None, x, step, A, inputs, outputs, x.new_zeros(x.shape[-1])).transpose(1, 2)

    return run


def _limit(length: int, channels: int, state: int) -> dict[str, float]:
    """Milliseconds that the exponentials and the memory traffic alone take here, measured."""
    from vlmlab.scan import kernels

    numbers = length * channels * state
    x = torch.rand(numbers).neg().numpy()
    out = torch.empty(numbers).numpy()
    moved = torch.rand(4 * length * channels)  # u, delta read, y written, as much again to be safe
    seconds = alternate({"exp": lambda: kernels.every_exp(x, out), "move": lambda: moved.clone()})
    exps, move = 1e3 * seconds["exp"], 1e3 * seconds["move"] / 2
    return {
        "exponentials_forward": round(exps, 2),
        "exponentials_forward_backward": round(2 * exps, 2),
        "memory_forward": round(move, 2),
    }
