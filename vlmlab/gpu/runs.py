"""The runs by name. Notebook 16."""

from collections.abc import Callable
from typing import Any

from vlmlab.gpu.decode import decode
from vlmlab.gpu.lengths import lengths
from vlmlab.gpu.scan import scan
from vlmlab.gpu.throughput import throughput
from vlmlab.gpu.train import train

RUNS: dict[str, Callable[..., dict[str, Any]]] = {
    "decode": decode,
    "lengths": lengths,
    "scan": scan,
    "throughput": throughput,
    "train": train,
}
"""Each takes `device` and sizes as keyword arguments and returns plain values."""
