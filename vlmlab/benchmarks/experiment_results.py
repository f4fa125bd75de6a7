"""Notebook 11. What the 3 x 2 experiment found: accuracies, differences with intervals, costs, and what they support.

Every run's right and wrong answers are kept, so that other questions can be asked of the same numbers with
`marks` and `vlmlab.benchmarks.statistics.contrast`.
"""

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import numpy as np

from vlmlab import runtime
from vlmlab.benchmarks.categories import CATEGORIES, SPATIAL, read_marks
from vlmlab.benchmarks.experiment import BACKBONES, CELLS, ENCODERS, EXAM, NAME, Plan, finished, recipe_of
from vlmlab.benchmarks.statistics import accuracy, contrast, holm
from vlmlab.errors import BadInput
from vlmlab.files import read_json, write_json
from vlmlab.vlm import recipes
from vlmlab.vlm.training_log import read_metrics

ROWS = (*CATEGORIES, "spatial", "twins")
"""The categories; "spatial", the four of relations together; "twins", pairs of all kinds with both answers right."""
TITLES = {"clip": "CLIP", "fused": "DINOv2 + SigLIP", "mambavision": "MambaVision", "llama": "Llama", "mamba": "Mamba"}
LIMITS = (
    "The spread over seeds is that of the last training stage: encoders and language models were pretrained once each.",
    "An encoder stands here with its own pretraining, and so does a backbone: a difference is that of the whole part, "
    "not of its architecture alone. Each backbone also has its own chat template; behind Mamba's, which is longer, a "
    "row of equal length holds about a tenth fewer questions.",
    "All models are tiny and were trained shortly on rendered scenes: what holds here need not hold for large ones.",
)


def collect(plan: Plan, speed: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Everything that the finished runs of a plan say; "missing" names those that are not.

    speed: what `vlmlab.bench.answering` measured, to stand beside. Raises BadInput when no run is finished.
    """
    runs = {name: result for name in plan.runs if (result := finished(plan, name))}
    if not runs:
        raise BadInput(f"no run of the experiment is finished in {plan.path}; start them: vlmlab experiment {NAME}")
    exam = read_json(plan.file(EXAM))
    found: dict[str, Any] = {
        "experiment": NAME,
        "settings": _settings(plan),
        "missing": [name for name in plan.runs if name not in runs],
        "exam": exam,
        "cells": {},
    }
    known = [cell for cell in CELLS if any(name.startswith(f"{cell}-") for name in runs)]
    found["runs"] = {
        name: {key: value for key, value in result.items() if key not in ("name", "exam", "recipe", "parameters")}
        for name, result in runs.items()
    }
    for cell in known:
        members = [result for name, result in runs.items() if name.rpartition("-")[0] == cell]
        found["cells"][cell] = {
            "seeds": [result["seed"] for result in members],
            "accuracy": {row: _accuracy(found, cell, row) for row in (*ROWS, *_kinds(exam))},
            "parameters": members[0]["parameters"],
            "seconds": {
                what: round(float(np.mean([result["seconds"][what] for result in members])), 1)
                for what in ("training", "asking")
            },
        }
    found["contrasts"] = _contrasts(found)
    found["speed"] = dict(speed) if speed else None
    found["cost"] = _cost(plan, runs)
    found["findings"] = findings(found)
    return found


def marks(found: Mapping[str, Any], cell: str, row: str, which: str = "right") -> np.ndarray:
    """Right and wrong answers of a cell's runs (S, Q) in a row of ROWS, or in one kind of twins; Q are pairs for twins.

    which: "right", or "blind" for the answers without pictures (not of twins).
    """
    texts = [run[which] for run in found["runs"].values() if f"{run['encoder']}-{run['backbone']}" == cell]
    parts = found["exam"]["parts"]
    names = {"spatial": SPATIAL, "twins": _kinds(found["exam"])}.get(row, (row,))
    wheres = [slice(parts[name]["start"], parts[name]["stop"]) for name in names]
    return np.concatenate([read_marks(texts, where, pairs=row.startswith("twins")) for where in wheres], axis=1)


def save(found: dict[str, Any]) -> str:
    """Write a complete collection to data/experiments and return its name there. Raises BadInput when runs miss."""
    if found["missing"] or not found["speed"]:
        raise BadInput(f"not all of the experiment is there ({len(found['missing'])} runs miss); finish it first")
    write_json(runtime.data_dir() / "experiments" / f"{NAME}.json", found)
    return f"data/experiments/{NAME}.json"


def shipped() -> dict[str, Any]:
    """The collection in data/experiments. Raises BadInput where there is none."""
    path = runtime.data_dir() / "experiments" / f"{NAME}.json"
    if not path.exists():
        raise BadInput(
            f"no results of the experiment are kept yet; run it and save them: vlmlab experiment {NAME} --save"
        )
    return read_json(path)


def _settings(plan: Plan) -> dict[str, Any]:
    recipe = recipe_of(plan, plan.runs[0])
    return {
        "steps": plan.steps, "seeds": plan.seeds, "batch": recipe.batch, "scenes": recipe.scenes,
        "changes": dict(plan.changes), "trained": list(recipe.parts), "projector": "mlp2x_gelu",
        "encoders": {name: list(runs) for name, runs in ENCODERS.items()},
        "backbones": {name: language for name, (language, _) in BACKBONES.items()},
    }  # fmt: skip


def _kinds(exam: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(name for name in exam["parts"] if name.startswith("twins/"))


def _accuracy(found: dict[str, Any], cell: str, row: str) -> dict[str, Any]:
    """Mean over seeds with its interval, each seed's, and that without pictures (of twins 0: the same answer twice)."""
    flags = marks(found, cell, row)
    blind = 0.0 if row.startswith("twins") else float(marks(found, cell, row, "blind").mean())
    return _short(accuracy(flags)) | {"seeds": flags.mean(1).round(4).tolist(), "blind": round(blind, 4)}


def _short(values: dict[str, float]) -> dict[str, float]:
    return {key: float(f"{value:.3g}") if key == "p" else round(value, 4) for key, value in values.items()}


def _contrasts(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Differences between encoders and between backbones, each averaged over the other and within each of it.

    {"kind", "first", "second", "within" ("" for the average), "rows": {row: {"difference", "low", "high", "p"}}}. In
    the averaged ones, `holm` is p corrected for all of these and all categories.
    """
    listed: list[dict[str, Any]] = []
    for kind, levels, others in (("encoder", ENCODERS, BACKBONES), ("backbone", BACKBONES, ENCODERS)):
        for second, first in combinations(levels, 2) if kind == "encoder" else [("llama", "mamba")]:
            for within in ("", *others):
                chosen = [within] if within else list(others)
                plus, minus = ([_cell(kind, level, other) for other in chosen] for level in (first, second))
                if all(cell in found["cells"] for cell in (*plus, *minus)):
                    listed.append(_contrast(found, kind, first, second, within, plus, minus))
    if {"mambavision-mamba", "clip-llama"} <= found["cells"].keys():
        pair = ("mambavision-mamba", "clip-llama")
        listed.append(_contrast(found, "cell", *pair, "", [pair[0]], [pair[1]]))
    family = [
        each["rows"][row]
        for each in listed
        for row in CATEGORIES
        if not each["within"] and each["kind"] != "cell"
    ]  # fmt: skip
    for values, adjusted in zip(family, holm([values["p"] for values in family]), strict=True):
        values["holm"] = float(f"{adjusted:.3g}")
    return listed


def _cell(kind: str, level: str, other: str) -> str:
    return f"{level}-{other}" if kind == "encoder" else f"{other}-{level}"


def _contrast(
    found: dict[str, Any], kind: str, first: str, second: str, within: str, plus: list[str], minus: list[str]
) -> dict[str, Any]:
    weights = [1 / len(plus)] * len(plus) + [-1 / len(minus)] * len(minus)
    rows = {}
    for row in ROWS:
        values = contrast(weights, [marks(found, cell, row) for cell in (*plus, *minus)])
        rows[row] = _short({key: values[key] for key in ("difference", "low", "high", "p")})
    return {"kind": kind, "first": first, "second": second, "within": within, "rows": rows}


def _cost(plan: Plan, runs: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Seconds of all runs together, and of the pretraining that they share."""
    shared = {need for name in runs for need in recipe_of(plan, name).needs if need != "tokenizer"}
    before = {need: _log(need) for need in sorted(shared)}
    return {
        "runs": len(runs),
        "training_seconds": round(sum(result["seconds"]["training"] for result in runs.values())),
        "asking_seconds": round(sum(result["seconds"]["asking"] for result in runs.values())),
        "pretraining_seconds": {need: round(lines[-1]["seconds"]) for need, lines in before.items() if lines},
        "devices": sorted({result["machine"]["device"] for result in runs.values()}),
    }


def _log(name: str) -> list[dict[str, Any]]:
    """The log of a pretraining run, or where there is none, of the one that made the shipped file."""
    path = runtime.data_dir() / "training" / f"{name}.json"
    return read_metrics(recipes.finished(name).parent / "run") or (read_json(path) if path.exists() else [])


def find(found: Mapping[str, Any], first: str, second: str, within: str = "") -> dict[str, Any] | None:
    """The contrast between two encoders, backbones or cells; None where runs of it miss."""
    wanted = {"first": first, "second": second, "within": within}
    return next((each for each in found["contrasts"] if wanted.items() <= each.items()), None)


def findings(found: Mapping[str, Any]) -> list[str]:
    """What the numbers support and what they do not, one sentence each."""
    told = [f"{len(found['missing'])} runs are missing; all of this may change."] if found["missing"] else []
    if any(len(cell["seeds"]) == 1 for cell in found["cells"].values()):
        told.append("Where a cell has a single run, its intervals cover other questions, not other seeds.")
    for each in found["contrasts"]:
        if each["kind"] != "cell" and not each["within"]:
            sure = [_points(row, values) for row, values in each["rows"].items() if values.get("holm", 1) < 0.05]
            other = "backbones" if each["kind"] == "encoder" else "encoders"
            names = f"{TITLES[each['first']]} against {TITLES[each['second']]}, averaged over {other}"
            says = "; ".join(sure) if sure else "no category differs by more than chance explains"
            told.append(f"{names}: {says} (Holm's correction over all averaged differences).")
    for rival, name, each in (
        ("clip-llama", "CLIP with Llama (LLaVA's parts)", find(found, "mambavision-mamba", "clip-llama")),
        ("fused-mamba", "DINOv2 + SigLIP with Mamba (Cobra's parts)", find(found, "mambavision", "fused", "mamba")),
    ):
        if each:
            told.append(_expectation(found, rival, name, each["rows"]["spatial"]))
    return [*told, *LIMITS]


def _points(row: str, values: Mapping[str, float]) -> str:
    shares = [f"{100 * values[key]:+.1f}" for key in ("difference", "low", "high")]
    return f"{row} {shares[0]} points ({shares[1]} to {shares[2]})"


def _expectation(found: Mapping[str, Any], rival: str, name: str, values: Mapping[str, float]) -> str:
    verdict = "holds" if values["low"] > 0 else ("fails, the other is better" if values["high"] < 0 else "is undecided")
    text = f"Expected: MambaVision with Mamba reasons better about space than {name}. This {verdict}: "
    text += _points("spatial", values)
    if found["speed"]:
        for what, better in (("tokens_per_second", "tokens a second"), ("peak_bytes", "peak memory")):
            if what in found["speed"]:
                ratio = found["speed"][what]["mambavision-mamba-tiny"] / found["speed"][what][f"{rival}-tiny"]
                text += f"; {ratio:.2f} times its {better}"
    return text + "."


def table(found: Mapping[str, Any]) -> Any:
    """The accuracies as a rich table: rows of categories, columns of cells, baselines beside."""
    from rich.table import Table

    settings, cells = found["settings"], found["cells"]
    title = f"accuracy %, {settings['steps']} steps, {settings['seeds']} seeds a cell, 95 % intervals over both"
    out = Table(title=title, title_justify="left")
    for column in ("", *cells, "blind", "constant", "chance"):
        out.add_column(column, justify="right" if column else "left")
    for row in ROWS:
        shown = [cell["accuracy"][row] for cell in cells.values()]
        parts = [
            found["exam"]["parts"][name]
            for name in {"spatial": SPATIAL, "twins": _kinds(found["exam"])}.get(row, [row])
        ]
        beside = [
            np.mean([each["blind"] for each in shown]),
            *(np.mean([p[k] for p in parts]) for k in ("constant", "chance")),
        ]
        intervals = [f"{100 * v['mean']:.1f}\n{100 * v['low']:.0f}-{100 * v['high']:.0f}" for v in shown]
        out.add_row(row, *intervals, *(f"{100 * float(share):.1f}" for share in beside))
    for what, label, scale in (("tokens_per_second", "tokens/s", 1.0), ("peak_bytes", "peak MB", 1e-6)):
        if found["speed"] and what in found["speed"]:
            out.add_row(label, *(f"{scale * found['speed'][what][f'{cell}-tiny']:.1f}" for cell in cells))
    return out
