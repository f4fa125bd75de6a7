"""Side by side timing: every contender once a round, so that whatever else the machine does meets all of them."""

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

PATIENCE = 5.0  # seconds


def alternate(contenders: Mapping[str, Callable[[], Any]], rounds: int = 5) -> dict[str, float]:
    """Median seconds of each contender over `rounds` rounds, after one round that warms up.

    A contender whose first run takes more than PATIENCE is not run again, and that run counts.
    """
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    slow: dict[str, float] = {}
    for number in range(rounds + 1):
        gc.collect()  # not before every run: beside large models it takes longer than what is timed
        for name, run in contenders.items():
            if name in slow:
                continue
            start = time.perf_counter()
            run()
            seconds = time.perf_counter() - start
            if number:
                taken[name].append(seconds)
            elif seconds > PATIENCE:
                slow[name] = seconds
    return {name: slow.get(name) or statistics.median(taken[name]) for name in contenders}


def ratios(seconds: Mapping[str, float], ours: str = "vlmlab") -> dict[str, float]:
    """How many times as long as ours each other contender takes."""
    return {name: round(value / seconds[ours], 1) for name, value in seconds.items() if name != ours}


def peak_memory(run: Callable[[], Any]) -> int | None:
    """Bytes by which the process's resident memory grew at most during `run()`; None where Linux's /proc is missing."""
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from now
        before = _status("VmRSS")
    except OSError:
        return None
    run()
    return _status("VmHWM") - before


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":"))
