"""What the runs share: models with random weights, the clock, memory and its bandwidth. Notebook 16."""

import gc
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from vlmlab.bench.timing import alternate
from vlmlab.errors import UnknownName
from vlmlab.language import Llama, LlamaConfig, Mamba
from vlmlab.vlm.model import VLM
from vlmlab.vlm.presets import get_preset

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
WIDE = ("A_log", "D")  # kept in float32, as mamba_ssm keeps them


@contextmanager
def drawn_in(dtype: str, device: torch.device) -> Iterator[None]:
    """Modules made inside have parameters of that dtype on that device, and the weights of seed 0."""
    if dtype not in DTYPES:
        raise UnknownName("dtype", dtype, DTYPES)
    before = torch.get_default_dtype()
    torch.set_default_dtype(DTYPES[dtype])
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []), device:
            torch.manual_seed(0)
            yield
    finally:
        torch.set_default_dtype(before)


def ready(model: nn.Module) -> Any:
    """The model in evaluation mode, without gradients, the parameters in WIDE in float32."""
    for module in model.modules():
        for name, weight in module.named_parameters(recurse=False):
            if name in WIDE:
                weight.data = weight.data.float()
    return model.eval().requires_grad_(False)


def vlm(preset: str, device: torch.device, dtype: str) -> VLM:
    """A preset with random weights, made on the device in its dtype: full-size models fit without a copy in float32."""
    with drawn_in(dtype, device):
        return ready(VLM.from_preset(preset, device))


def language_model(preset: str, longest: int, device: torch.device, dtype: str) -> Llama | Mamba:
    """The language model of a preset with random weights, and room for `longest` tokens."""
    config = get_preset(preset).language
    with drawn_in(dtype, device):
        if isinstance(config, LlamaConfig):
            return ready(Llama(replace(config, max_positions=max(longest, config.max_positions))))
        return ready(Mamba(config))


def synchronise(device: torch.device) -> None:
    """Wait until the GPU has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def milliseconds(runs: Mapping[str, Callable[[], Any]], device: torch.device, rounds: int) -> dict[str, float]:
    """Median milliseconds of each, the GPU's work included, side by side as `alternate` does it."""

    def to_the_end(run: Callable[[], Any]) -> Callable[[], None]:
        def both() -> None:
            run()
            synchronise(device)

        return both

    return {
        name: 1e3 * seconds
        for name, seconds in alternate({name: to_the_end(run) for name, run in runs.items()}, rounds).items()
    }


def copy_bandwidth(device: torch.device, size: int = 2**30, copies: int = 10) -> float:
    """Bytes a second that a copy of `size` bytes within the device's memory moves, reading and writing both counted."""
    source, target = (torch.zeros(size, dtype=torch.uint8, device=device) for _ in range(2))

    def copy() -> None:
        for _ in range(copies):
            target.copy_(source)

    return 2e3 * size * copies / milliseconds({"copy": copy}, device, 5)["copy"]


@contextmanager
def peak(device: torch.device) -> Iterator[list[int]]:
    """A list that holds, afterwards, the bytes allocated at most inside on a GPU; empty elsewhere."""
    found: list[int] = []
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    yield found
    if device.type == "cuda":
        found.append(torch.cuda.max_memory_allocated(device))


def free(device: torch.device) -> None:
    """Give back what no tensor uses any more."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def figure(value: float) -> float:
    """Four digits."""
    return float(f"{value:.4g}")
