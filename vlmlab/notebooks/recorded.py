"""What a notebook recorded, then and now: a run fails when a value left its tolerance. Serves every notebook.

`vlmlab run --update` keeps the recorded values in the notebook's metadata. A later run of the quick profile is held
against them. Texts, truths and whole numbers stay as they were; floats may move by DEFAULT, or by what TOLERANCES
states for their name.
"""

import json
import math
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from nbformat import NotebookNode


class Tolerance(NamedTuple):
    """How far a number may move: so much of its size, or so much at all, whichever is more."""

    relative: float = 0.0
    absolute: float = 0.0


DEFAULT = Tolerance(1e-3, 1e-5)  # below 1e-5 lie the differences that are rounding; notebooks assert their bounds
ANY = Tolerance(absolute=math.inf)
TRAINED = Tolerance(0.05, 0.05)
TOLERANCES: tuple[tuple[str, Tolerance | None, str], ...] = (
    (r"^16: limit of", Tolerance(1e-3), "reckoned, not measured"),
    (r"\b(time|milliseconds|seconds|tokens a second|bandwidth of a copy)\b|_ms\b", ANY, "a measured time, or a ratio"),
    (r"^07: .* the whole scan\b", ANY, "a ratio of two measured times"),
    (
        r"^09: (claims and|crossing|exponent of (pre|a tok|the peak)|length at which the|peak|prefill of|the same)",
        None,
        "what measured times and memory come to; two lines may cross or not",
    ),
    (r"^17: Pareto", None, "who is on a front decides a measured time"),
    (r"\blive\b|^04: text experiment|^03: loss on held-out", TRAINED, "trained or asked in the notebook"),
    (r"^07: (words right|channels whose|hidden attention of)", TRAINED, "of models trained in the notebook"),
    (r"^01: probe recall|^10: linear probes", Tolerance(absolute=0.02), "of probes fitted in the notebook"),
    (r"^10: change of level 2's features", Tolerance(0.02, 1e-5), "of a model whose norms follow the batch"),
    (r"^10: ablation: the mixers' order", None, "a sign of differences within the noise of two seeds"),
    (r"^10: ablation", TRAINED, "of short trainings with two seeds"),
    (r"^13: fall of log p beyond", Tolerance(0.01, 0.01), "patches with almost equal values may change places"),
    (r"^14: neighbours", Tolerance(absolute=0.03), "in embeddings that are iterated from a random start"),
    (r"^15: left and right, slope", Tolerance(0.02, 0.005), "fitted to a curve that may be flat"),
)
"""(pattern in "NN: name", tolerance, why); the first that is found counts. Under ANY a number stays a number; with None
nothing is compared. A processor with other instructions rounds otherwise; training enlarges that, all else stays."""


def tolerance(chapter: str, name: str) -> Tolerance | None:
    """How far a value that a chapter records under `name` may move; None: wherever it likes."""
    found = (limit for pattern, limit, _ in TOLERANCES if re.search(pattern, f"{chapter[:2]}: {name}"))
    return next(found, DEFAULT)


def keep(notebook: NotebookNode, values: Mapping[str, Any]) -> None:
    """Put the values that a run recorded into its notebook."""
    notebook.metadata["vlmlab"] = {"recorded": dict(values)}


def kept(notebook: NotebookNode) -> dict[str, Any]:
    """The values that a notebook holds; without any in its metadata, those that its outputs print in full."""
    found = notebook.metadata.get("vlmlab", {}).get("recorded")
    if found is not None:
        return dict(found)
    texts = [output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", [])]
    lines = re.findall(r"^recorded (.+)$", "\n".join(texts), re.MULTILINE)
    return dict(pair for line in lines if (pair := _read(line)))


def _read(line: str) -> tuple[str, Any] | None:
    """Name and value of "name = value"; None where the value is cut off."""
    for cut in re.finditer(" = ", line):
        with suppress(ValueError):
            return line[: cut.start()], json.loads(line[cut.end() :])
    return None


def moved(chapter: str, then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Messages for values that are missing or outside their tolerance; values that are new are no fault."""
    messages = []
    for name, old in then.items():
        if name not in now:
            messages.append(f"no longer records {name!r}; run it with --update if that is meant")
            continue
        limit = tolerance(chapter, name)
        far = [] if limit is None else differences(old, now[name], limit)
        if far:
            messages.append(
                f"recorded {name!r}: {far[0]}{f' and {len(far) - 1} more' if far[1:] else ''}; find out why, or run it "
                "with --update; a value that differs among machines has its tolerance in vlmlab/notebooks/recorded.py"
            )
    return messages


def differences(then: Any, now: Any, limit: Tolerance, where: str = "") -> list[str]:
    """How two values differ by more than `limit`, one text a difference."""
    if isinstance(then, dict) and isinstance(now, dict) and set(then) == set(now):
        pairs = [(then[key], now[key], f"{where}[{key!r}]") for key in then]
    elif isinstance(then, list) and isinstance(now, list) and len(then) == len(now):
        pairs = [(a, b, f"{where}[{i}]") for i, (a, b) in enumerate(zip(then, now, strict=True))]
    else:
        return [] if _same(then, now, limit) else [f"{where} was {_short(then)}, is {_short(now)}".strip()]
    return [text for a, b, place in pairs for text in differences(a, b, limit, place)]


def _same(then: Any, now: Any, limit: Tolerance) -> bool:
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in (then, now))
    if not numbers or (limit is DEFAULT and isinstance(then, int) and isinstance(now, int)):
        return then == now and isinstance(then, bool) == isinstance(now, bool)
    return abs(now - then) <= max(limit.relative * abs(then), limit.absolute)


def _short(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
