"""The one place that picks device, dtype, seed, threads, profile and folders."""

import os
import random
from pathlib import Path

import numpy as np
import torch

from vlmlab.errors import BadInput, UnknownName

PROFILES = ("quick", "full")


def device(name: str | torch.device = "auto") -> torch.device:
    """Resolve a device name: "auto" takes CUDA, then Apple's MPS, then the CPU.

    Raises BadInput when the device asked for is not there.
    """
    if str(name) != "auto":
        try:
            chosen = torch.device(name)
        except RuntimeError:
            raise UnknownName("device", name, ["auto", "cpu", "cuda", "mps", "meta"]) from None
        if chosen.type == "cuda" and not torch.cuda.is_available():
            raise BadInput("device 'cuda' was asked for, but PyTorch sees no CUDA GPU; use device='cpu' or 'auto'")
        return chosen
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and PyTorch: for scripts and notebooks; library code takes a generator instead."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def generator(seed: int, on: torch.device | str = "cpu") -> torch.Generator:
    """A PyTorch generator of its own, seeded."""
    return torch.Generator(device=on).manual_seed(seed)


def cores() -> int:
    """Processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def set_threads(count: int | None = None) -> int:
    """Use `count` threads (all cores when None) for PyTorch's operators; return the number set."""
    count = count or cores()
    torch.set_num_threads(count)
    return count


def profile() -> str:
    """The profile asked for in VLMLAB_PROFILE: "quick" (the default) or "full"."""
    name = os.environ.get("VLMLAB_PROFILE", "quick")
    if name not in PROFILES:
        raise UnknownName("profile", name, PROFILES)
    return name


def data_dir() -> Path:
    """The folder `data/` with the shipped weights and benchmarks (VLMLAB_DATA overrides it)."""
    return Path(os.environ.get("VLMLAB_DATA") or Path(__file__).resolve().parent.parent / "data")


def work_dir() -> Path:
    """The folder for rendered scenes and training runs, ignored by git (VLMLAB_WORK overrides it; default ./runs)."""
    return Path(os.environ.get("VLMLAB_WORK") or "runs")
