"""Speed, measured: `vlmlab bench NAME`. Notebooks 00, 07, 09, 10 and 11.

Each entry of `BENCHMARKS` is a function of keyword arguments that returns a dict of plain values.
"""

from collections.abc import Callable
from typing import Any

from vlmlab.bench.answering import answering
from vlmlab.bench.mamba import mamba
from vlmlab.bench.mambavision import mambavision
from vlmlab.bench.rendering import render
from vlmlab.bench.scaling import scaling
from vlmlab.bench.scan import scan
from vlmlab.bench.smollm2 import smollm2

__all__ = ["BENCHMARKS"]
BENCHMARKS: dict[str, Callable[..., dict[str, Any]]] = {
    "render": render,
    "scan": scan,
    "mamba": mamba,
    "scaling": scaling,
    "mambavision": mambavision,
    "answering": answering,
    "smollm2": smollm2,
}
