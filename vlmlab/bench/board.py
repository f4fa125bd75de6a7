"""The speeds that README quotes: kept in data/results, with the machine and the command that gave them. Notebook 09."""

import platform
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from vlmlab import readme, runtime
from vlmlab.files import read_json, write_json

QUOTED = {
    "scan": {
        "forward_ms": "selective scan, forward",
        "forward_backward_ms": "selective scan, forward and backward",
    },
    "mamba": {
        "prefill_ms": "a Mamba language model, prefill",
        "training_step_ms": "a training step",
        "token_ms": "a decoded token",
        "training_step_peak_mib": "peak memory of a training step (MiB)",
    },
}
PEERS = ("transformers", "mambapy")


def save(name: str, result: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """Keep a result, put the table of all kept ones into README if its markers are there, and say what was written."""
    words = "".join(f" --set {key}={value}" for key, value in settings.items())
    machine = {"cpu": _cpu(), "python": platform.python_version()}
    machine |= {package: version(package) for package in ("torch", "numba", "transformers")}
    write_json(_path(name), {"command": f"vlmlab bench {name}{words}", "machine": machine, "result": result})
    written = readme.put("speed", markdown(kept()))
    return f"data/results/{_path(name).name}" + " and README.md" * written


def kept() -> dict[str, Any]:
    """What `save` kept, by the benchmark's name, those that README quotes."""
    return {name: read_json(_path(name)) for name in QUOTED if _path(name).exists()}


def markdown(results: Mapping[str, Any]) -> str:
    """The table as README shows it: milliseconds (or MiB) of ours and of each peer, and how many times ours that is."""
    columns = ["measured by", "what", "vlmlab", *(f"{peer} (times ours)" for peer in PEERS)]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    return "\n".join(lines + [f"| {' | '.join(row)} |" for row in _rows(results)])


def _rows(results: Mapping[str, Any]) -> Iterator[list[str]]:
    for name, found in results.items():
        for key, what in QUOTED[name].items():
            values = found["result"].get(key, {})
            ours = values.get("vlmlab")
            if ours:  # memory is not measured everywhere
                peers = [f"{values[x]:,.1f} ({values[x] / ours:.1f})" if x in values else "-" for x in PEERS]
                yield [f"`{found['command']}`", what, f"{ours:,.1f}", *peers]


def _path(name: str) -> Path:
    return runtime.data_dir() / "results" / f"bench-{name}.json"


def _cpu() -> str:
    """The processor's name as Linux tells it, with the number of cores used; elsewhere what Python knows."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor() or platform.machine()}, {runtime.cores()} cores"
