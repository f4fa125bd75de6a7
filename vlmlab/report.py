"""What a notebook measured: `report.record(name, value)` into results.json. Every notebook closes with it.

Under `vlmlab run` the values land in the report; in JupyterLab they are only printed and kept for `recorded()`.
Imports nothing but the standard library.
"""

import json
import math
import os
from pathlib import Path
from typing import Any

from vlmlab.errors import BadInput

_recorded: dict[str, Any] = {}


def record(name: str, value: Any) -> None:
    """Keep a measured value under `name` and print it.

    `value` is a number, string, bool, None, or lists and dicts of these; NumPy and PyTorch scalars and small arrays are
    converted. Raises BadInput for an empty name, for NaN and infinities, and for anything that JSON cannot hold.
    """
    if not isinstance(name, str) or not name.strip():
        raise BadInput(f"report.record needs a name, a non-empty string; got {name!r}")
    plain = _plain(value, name)
    _recorded[name] = plain
    target = os.environ.get("VLMLAB_RESULTS")
    if target:
        with open(target, "a", encoding="utf-8") as file:
            file.write(json.dumps({"name": name, "value": plain}) + "\n")
    print(f"recorded {name} = {_short(plain)}")


def recorded() -> dict[str, Any]:
    """What has been recorded in this session, by name."""
    return dict(_recorded)


def _plain(value: Any, name: str) -> Any:
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise BadInput(
                f"report.record({name!r}): {value} is not a finite number; find out where it comes from first"
            )
        return float(value)
    if isinstance(value, dict):
        return {str(key): _plain(item, name) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, name) for item in value]
    if hasattr(value, "tolist"):  # NumPy and PyTorch, scalars and arrays alike
        return _plain(value.tolist(), name)
    if isinstance(value, Path):
        return value.as_posix()
    raise BadInput(
        f"report.record({name!r}): a {type(value).__name__} does not fit into JSON; record a number or a string"
    )


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 100 else text[:97] + "..."


def _prove(namespace: dict[str, Any], names: list[str]) -> None:
    """Write what `names` hold now to the file in VLMLAB_PROOF: the strict runner calls this after the last cell."""
    target = os.environ.get("VLMLAB_PROOF")
    if target:
        held = {name: [type(namespace[name]).__name__, repr(namespace[name])] for name in names if name in namespace}
        Path(target).write_text(json.dumps(held), encoding="utf-8")
