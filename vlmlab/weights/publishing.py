"""From finished training runs to shipped files: fp16 weights, training curves, and measured results in the manifest.

`python -m vlmlab.weights.publishing llava-tiny-stage1 llava-tiny` after `vlmlab train llava-tiny`; without names, all
models. Notebooks 04 and 09 read what it writes.
"""

import json
import platform
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch

from vlmlab import readme, runtime
from vlmlab.benchmarks import BENCHMARKS, evaluate
from vlmlab.errors import UnknownName
from vlmlab.files import atomic_path, halves, packed, read_json, read_tensors, write_json, write_tensors
from vlmlab.vlm import recipes, saving
from vlmlab.vlm.model import VLM
from vlmlab.vlm.presets import get_preset
from vlmlab.vlm.recipes.common import ENCODERS
from vlmlab.vlm.recipes.table import SWAPPED
from vlmlab.vlm.training_log import read_metrics
from vlmlab.weights.shipped import load, manifest, ship, verify
from vlmlab.weights.smollm2 import PRESET

VISION = ("clip-tiny.safetensors", "vision.")
LANGUAGE = ("language-tiny.safetensors", "")
FUSED = {f"vision.{name}": (f"{name}-tiny.safetensors", "vision.") for name in ("dinov2", "siglip")}
MODELS: dict[str, dict[str, tuple[str, str]]] = {
    "llava-tiny-stage1": {"vision": VISION, "language": LANGUAGE},
    "llava-tiny": {"vision": VISION},
    "cobra-tiny": FUSED,
    "cobra-tiny-ldp": FUSED,
    SWAPPED: {"language": ("cobra-tiny.safetensors", "language.")},
    PRESET: {"vision": VISION},
}
"""Shipped model -> which of its parts lie in files of their own; its recipe has its name."""
PACKED = ("language-tiny", "cobra-tiny-ldp", SWAPPED)
"""Files in 8 bits a weight instead of 16; what is measured of a model is measured with them."""
COMPARED = {
    "cobra-tiny": ("language-mamba-tiny", "cobra-tiny-stage1", "cobra-tiny-aligned"),
    SWAPPED: tuple(f"{SWAPPED}-{other}" for other in ("projector", "level3", "both", "everything")),
}
"""Shipped model -> runs whose figures are recorded beside it once they are done, but not their weights."""
RUNS = tuple(name for names in COMPARED.values() for name in names)
CLIPS = ("llava-tiny-clips", "cobra-tiny-clips")
"""Adapters that ship beside their models; `vlmlab clips` measures them."""


def stored_as(name: str) -> Callable[[Mapping[str, torch.Tensor]], dict[str, torch.Tensor]]:
    """How a shipped file keeps its floating-point weights."""
    return packed if name in PACKED else halves


def publish(names: Sequence[str] = tuple(MODELS), measure: bool = True, say: Callable[[str], object] = print) -> None:
    """Write data/checkpoints, data/training and data/manifest.json from the runs in work_dir().

    names: of the models to ship (the parts that they share come with them), of single encoders, of adapters, or of runs
    to record. measure: also evaluate models and runs (a few minutes each) and record the results. Raises UnknownName,
    BadInput or BadCheckpoint (a run is missing or unfinished).
    """
    known = (*MODELS, *ENCODERS, *CLIPS, *RUNS)
    for name in names:
        if name not in known:
            raise UnknownName("model", name, known)
    asked, encoders = set(names), [name for name in names if name in ENCODERS]
    names = [name for name in names if name in (*MODELS, *CLIPS)]
    folder, words = runtime.data_dir() / "checkpoints", recipes.tokenizer()
    words.save(folder / "tokenizer.json")
    ship({"recipe": asdict(recipes.RECIPES["tokenizer"])}, "checkpoints/tokenizer.json")
    parts = {name: sorted({file for file, _ in MODELS.get(name, {}).values()}) for name in names}
    shared = {file.removesuffix(".safetensors") for files in parts.values() for file in files}
    for name in sorted((shared | {*encoders}) - MODELS.keys()):  # a part of another model lies in that model's file
        _part(name, say)
    listing: dict[str, list[str]] = {}
    for name in names:
        say(f"shipping {name}")
        if name in (PRESET, *CLIPS):  # what was trained lies in one small file already, in fp16
            with atomic_path(folder / f"{name}.safetensors") as temporary:
                shutil.copyfile(recipes.adapters(name), temporary)
        else:
            recipe = recipes.RECIPES[name]
            vlm = VLM.from_preset(get_preset(recipe.preset), "cpu", words)
            recipes.fill_from_runs(vlm, (*recipe.needs, name), recipe.backbone)
            saving.save(vlm, folder / f"{name}.safetensors", MODELS[name], stored_as(name), {"recipe": name})
        ship(_record(name), f"checkpoints/{name}.safetensors")
        if name not in CLIPS:
            listing[name] = [f"checkpoints/{file}" for file in (f"{name}.safetensors", "tokenizer.json", *parts[name])]
    compared = [name for each in names for name in COMPARED.get(each, ())]
    beside = [name for name in RUNS if name in asked or (name in compared and recipes.finished(name).exists())]
    found = manifest()
    found["models"] |= {name: {"files": files} for name, files in listing.items()}
    found["runs"] = found.get("runs", {}) | {name: _record(name) for name in beside}
    write_json(runtime.data_dir() / "manifest.json", found)
    for name in (*listing, *beside) if measure else ():
        if recipes.RECIPES[name].blind:  # stage 1 and language models answer no questions about pictures
            weights = name if name in listing else recipes.finished(name).parent / "model.safetensors"
            record_results(name, load(weights, "cpu"), say)


def restore(needs: Iterable[Iterable[str]]) -> list[str]:
    """Put shipped weights where the runs that made them would have left theirs, for recipes that begin with them.

    needs: names of runs, as `Recipe.needs` lists them. Returns the names of those that were put there: a run's own
    weights stay, and of others nothing ships. They are the runs' weights rounded to 16 or 8 bits. Raises BadCheckpoint
    for a file that is missing, damaged, or not the one in the manifest.
    """
    listing, done = manifest()["files"], []
    for name in dict.fromkeys(name for names in needs for name in names):
        path = recipes.finished(name) if name else None
        source = f"checkpoints/{path.name if name == 'tokenizer' else f'{name}.safetensors'}" if path else ""
        if path is None or path.exists() or source not in listing:
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        if name == "tokenizer":
            with atomic_path(path) as temporary:
                shutil.copyfile(verify(source), temporary)
        else:
            tensors, _ = read_tensors(verify(source))
            write_tensors(path, {key: value.float() if value.is_floating_point() else value
                                 for key, value in tensors.items()})  # fmt: skip
        done.append(name)
    return done


def _part(name: str, say: Callable[[str], object]) -> None:
    """Ship an encoder or a language model that several models read; of the contrastive ones only clip-tiny whole."""
    path = runtime.data_dir() / "checkpoints" / f"{name}.safetensors"
    tensors, _ = read_tensors(recipes.finished(name))
    config = get_preset(recipes.RECIPES[name].preset)
    encoder = not name.startswith("language")
    if not encoder:
        metadata = {"language": json.dumps(asdict(config.language))}
    else:
        metadata = {"vision": json.dumps(asdict(recipes.encoder_config(config, name.split("-")[0])))}
    if name == "siglip-tiny":
        tensors = {key: value for key, value in tensors.items() if key.startswith("vision.")}
    say(f"shipping {name}")
    write_tensors(path, stored_as(name)(tensors), metadata)
    ship({"encoder": encoder, **_record(name)}, f"checkpoints/{name}.safetensors")


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


def record_results(name: str, vlm: VLM, say: Callable[[str], object] = print) -> None:
    """Evaluate a model on held-out scenes, in both answer formats, and put the tables into the manifest."""
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
    readme.put("results", markdown(manifest()["results"]["llava-tiny"]))


if __name__ == "__main__":
    chosen = [argument for argument in sys.argv[1:] if argument != "--readme"]
    if chosen or "--readme" not in sys.argv:
        publish(chosen or tuple(MODELS))
    write_readme()
