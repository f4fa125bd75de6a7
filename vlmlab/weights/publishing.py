"""From finished training runs to shipped files: fp16 weights, training curves, and measured results in the manifest.

`python -m vlmlab.weights.publishing` after `vlmlab train llava-tiny`. Notebook 04 reads what it writes.
"""

import json
import platform
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch

from vlmlab import runtime
from vlmlab.benchmarks import BENCHMARKS, evaluate
from vlmlab.files import read_json, read_tensors, write_json, write_tensors, write_text
from vlmlab.vlm import recipes, saving
from vlmlab.vlm.model import VLM
from vlmlab.vlm.presets import get_preset
from vlmlab.vlm.training_log import read_metrics
from vlmlab.weights.shipped import load, manifest, ship

STAGES = ("clip-tiny", "language-tiny", "llava-tiny-stage1", "llava-tiny")
VISION = ("clip-tiny.safetensors", "vision.")
LANGUAGE = ("language-tiny.safetensors", "")


def halves(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Floating-point tensors as fp16."""
    return {key: value.half() if value.is_floating_point() else value for key, value in tensors.items()}


def publish(measure: bool = True, say: Callable[[str], object] = print) -> None:
    """Write data/checkpoints, data/training and data/manifest.json from the runs in work_dir().

    measure: also evaluate the shipped files (a few minutes) and record the results.
    Raises BadInput or BadCheckpoint when a run is missing or unfinished.
    """
    folder = runtime.data_dir() / "checkpoints"
    config, words = get_preset("llava-tiny"), recipes.tokenizer()
    words.save(folder / "tokenizer.json")
    write_tensors(folder / VISION[0], halves(_run("clip-tiny")), {"vision": json.dumps(asdict(config.vision))})
    write_tensors(
        folder / LANGUAGE[0], halves(_run("language-tiny")), {"language": json.dumps(asdict(config.language))}
    )
    for name, elsewhere in (
        ("llava-tiny-stage1", {"vision": VISION, "language": LANGUAGE}),
        ("llava-tiny", {"vision": VISION}),
    ):
        vlm = VLM.from_preset(config, "cpu", words)
        needs = recipes.RECIPES[name].needs
        recipes.fill_from_runs(vlm, (*needs, name))
        saving.save(vlm, folder / f"{name}.safetensors", elsewhere, torch.float16, {"recipe": name})
    ship({"recipe": asdict(recipes.RECIPES["tokenizer"])}, "checkpoints/tokenizer.json")
    records = {name: _record(name) for name in STAGES}
    for name, record in records.items():
        say(f"shipping {name}")
        ship(record, f"checkpoints/{name}.safetensors")
    listing = manifest()
    shared = ["checkpoints/tokenizer.json", f"checkpoints/{VISION[0]}"]
    listing["models"]["llava-tiny-stage1"] = {
        "files": ["checkpoints/llava-tiny-stage1.safetensors", *shared, f"checkpoints/{LANGUAGE[0]}"]
    }
    listing["models"]["llava-tiny"] = {"files": ["checkpoints/llava-tiny.safetensors", *shared]}
    write_json(runtime.data_dir() / "manifest.json", listing)
    if measure:
        record_results("llava-tiny", say)


def _run(name: str) -> dict[str, torch.Tensor]:
    return read_tensors(recipes.finished(name))[0]


def _record(name: str) -> dict[str, Any]:
    """Recipe, cost and where the log lies; the log itself goes to data/training."""
    run = runtime.work_dir() / name / "run"
    lines = read_metrics(run)
    every = max(1, len(lines) // 150)
    kept = [line for i, line in enumerate(lines) if i % every == 0 or any(key.startswith("eval/") for key in line)]
    write_json(runtime.data_dir() / "training" / f"{name}.json", kept)
    return {
        "recipe": read_json(run / "run.json")["config"] | {"data": asdict(recipes.RECIPES[name])},
        "seed": read_json(run / "run.json")["config"]["seed"],
        "log": f"training/{name}.json",
        "cost": {"seconds": round(lines[-1]["seconds"], 1), "steps": lines[-1]["step"], "device": "CPU, 2 cores"},
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }


def record_results(name: str, say: Callable[[str], object] = print) -> None:
    """Evaluate a shipped model on held-out scenes, in both answer formats, and put the tables into the manifest."""
    vlm = load(name, "cpu")
    results = {}
    for benchmark in BENCHMARKS:
        for form in ("sentence", "word"):
            result = evaluate(vlm, benchmark, form=form)
            del result["answers"]
            results[f"{benchmark}/{form}"] = result
            shares = f"{result['accuracy']:.3f} (blind {result['blind']:.3f}, n = {result['n']})"
            say(f"{name} on {benchmark}, {form}: {shares}")
    listing = manifest()
    listing["results"][name] = results
    write_json(runtime.data_dir() / "manifest.json", listing)


def markdown(results: dict[str, dict[str, Any]]) -> str:
    """The README's table of a model's results on held-out scenes, asked for sentences."""
    seen, unseen = results["scenes/sentence"]["by_type"], results["scenes-combinations/sentence"]["by_type"]
    lines = [
        "| questions | n | accuracy % | 95 % interval | new combinations % | blind % | chance % | constant % |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row, values in seen.items():
        share = {key: f"{100 * values[key]:.1f}" for key in ("accuracy", "low", "high", "blind", "chance", "constant")}
        other = f"{100 * unseen[row]['accuracy']:.1f}" if row in unseen else ""
        lines.append(
            f"| {row} | {values['n']} | {share['accuracy']} | {share['low']}-{share['high']} | {other} "
            f"| {share['blind']} | {share['chance']} | {share['constant']} |"
        )
    return "\n".join(lines)


def write_readme() -> None:
    """Put the table of llava-tiny's recorded results between README's markers."""
    path = runtime.data_dir().parent / "README.md"
    before, rest = path.read_text(encoding="utf-8").split("<!-- results:begin -->\n")
    _, after = rest.split("<!-- results:end -->")
    table = markdown(manifest()["results"]["llava-tiny"])
    write_text(path, f"{before}<!-- results:begin -->\n{table}\n<!-- results:end -->{after}")


if __name__ == "__main__":
    if "--readme" not in sys.argv:
        publish()
    write_readme()
