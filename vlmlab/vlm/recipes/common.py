"""What recipes share: rendered scenes, encoded conversations, cached features, finished weights. Notebook 04."""

from collections.abc import Callable, Sequence
from hashlib import sha256 as digest_of
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from vlmlab import runtime
from vlmlab.errors import BadInput
from vlmlab.files import read_json, read_tensors, sha256, write_json, write_tensors
from vlmlab.language.tokenizer import Tokenizer
from vlmlab.scenes.dataset import SceneDataset
from vlmlab.scenes.dataset import build as build_scenes
from vlmlab.vlm import pretraining
from vlmlab.vlm.clips import pool
from vlmlab.vlm.corpus import Corpus, Packed, Packing, build_cached
from vlmlab.vlm.model import VLM
from vlmlab.vlm.presets import VLMConfig
from vlmlab.vlm.recipes.table import Lesson, Recipe
from vlmlab.vlm.sharding import asked
from vlmlab.vlm.templates import get_template
from vlmlab.vlm.trainer import TrainResult, train
from vlmlab.vlm.training_setup import Loss, main_first

if TYPE_CHECKING:
    from vlmlab.vlm.recipes.clips import Film

# Where in a VLM the weights of a recipe go: (prefix in the recipe's file, prefix in the VLM).
PLACES = {
    "clip-tiny": ("vision.", "vision."),
    "siglip-tiny": ("vision.", "vision.siglip."),
    "dinov2-tiny": ("vision.", "vision.dinov2."),
    "mambavision-tiny": ("vision.", "vision."),
    "language-tiny": ("", "language."),
    "language-mamba-tiny": ("", "language."),
}
ENCODERS = tuple(name for name, (_, place) in PLACES.items() if place.startswith("vision."))


def finished(name: str) -> Path:
    """The file that a finished recipe leaves."""
    return runtime.work_dir() / name / ("tokenizer.json" if name == "tokenizer" else "weights.safetensors")


def tokenizer() -> Tokenizer:
    """The tokenizer that the recipes use."""
    return Tokenizer.load(finished("tokenizer"))


def scenes(count: int, split: str = "train") -> SceneDataset:
    """The rendered scenes of a split, built once."""
    with main_first():
        return build_scenes(runtime.work_dir() / "cache" / f"scenes-{split}-{count}", count, split=split)


def corpus(count: int, split: str = "train", template: str = "v1") -> Corpus:
    """The conversations of a split's rendered scenes, encoded as a template writes them, built once."""
    folder = runtime.work_dir() / "cache" / f"corpus-{template}-{split}-{count}"
    pictures = scenes(count, split)
    with main_first():
        return build_cached(
            folder, pictures, finished("tokenizer"), get_template(template, ""), workers=runtime.cores()
        )


def packing(config: VLMConfig, recipe: Recipe, lesson: Lesson, prefix: str = "image") -> Packing:
    """How the rows of a recipe's lesson are packed."""
    words = tokenizer()
    asked = get_template(config.template, "").encode_prompt("?", words)
    opening = asked[: asked.index(words.id("<image>"))]
    if prefix == "text" and opening:
        opening = opening[:-1]  # the space before the image; words bring their own
    return Packing(
        tuple(opening),
        config.image_id,
        words.id("<pad>"),
        config.image_tokens if prefix == "image" else config.grid**2,
        lesson.per_scene,
        prefix=prefix,
        weights=lesson.weights,
        blind=recipe.blind,
    )


def draw(recipe: Recipe, step: int, count: int, rows: int = 1) -> tuple[np.ndarray, np.random.Generator]:
    """The rows of a step, `rows` times the recipe's batch, and the generator for the rest of its choices, from the
    recipe's seed and the step alone."""
    rng = np.random.default_rng([recipe.train.seed, step])
    return np.sort(rng.choice(count, min(rows * recipe.batch, count), replace=False)), rng


def features(vlm: VLM, pictures: "SceneDataset | Film", encoders: Sequence[Path], side: int = 0) -> np.ndarray:
    """H_v of all pictures, float16 (N, P, D_v) on disk, computed once, since the encoder is frozen; goes on
    where a kill stopped.

    encoders: the files its weights come from; other weights, or other layers, make another cache. side: tokens a side
    to which each picture's are averaged (0: all are kept).
    """
    marks = (*map(sha256, encoders), *map(str, vlm.config.feature_layers), *([f"side {side}"] if side else []))
    mark = digest_of(" ".join(marks).encode()).hexdigest()[:12]
    path = runtime.work_dir() / "cache" / f"features-{mark}-{pictures.folder.name}.npy"
    with main_first():
        if not path.exists():
            _compute_features(vlm, pictures, path, side)
    return np.load(path, mmap_mode="r")


def _compute_features(vlm: VLM, pictures: "SceneDataset | Film", path: Path, side: int) -> None:
    temporary, progress = path.with_suffix(".partial.npy"), path.with_suffix(".progress.json")
    done = read_json(progress)["done"] if progress.exists() and temporary.exists() else 0
    shape = (len(pictures), side**2 or vlm.config.feature_tokens, vlm.config.feature_dim)
    values = np.lib.format.open_memmap(temporary, "r+" if done else "w+", np.float16, None if done else shape)
    with torch.inference_mode():
        for start in range(done, len(pictures), 256):
            pixels = vlm.preprocess.normalise(pictures.rgb[start : start + 256])
            seen = vlm.vision_features(pixels.to(vlm.device))
            values[start : start + 256] = (pool(seen, side) if side else seen).half().cpu().numpy()
            if start % 4096 == 0:
                values.flush()
                write_json(progress, {"done": start + 256})
    values.flush()
    temporary.rename(path)
    progress.unlink(missing_ok=True)


def fill_from_runs(vlm: VLM, names: Sequence[str], backbone: str = "") -> None:
    """Put the weights that finished recipes left into a VLM, later ones over earlier ones.

    backbone: the VLM's recipe whose language model comes first, if any (see `Recipe`).
    """
    state = vlm.state_dict()
    if backbone:
        tensors, _ = read_tensors(finished(backbone))
        state |= {key: value for key, value in tensors.items() if key.startswith("language.")}
    for name in names:
        if name == "tokenizer":
            continue
        tensors, _ = read_tensors(finished(name))
        inside, place = PLACES.get(name, ("", ""))
        moved = {place + key.removeprefix(inside): value for key, value in tensors.items() if key.startswith(inside)}
        state |= {key: value for key, value in moved.items() if key in state}
    vlm.load_state_dict(state)


def shares(logits: Tensor, batch: Packed) -> dict[str, float]:
    """For each kind of question, how many of a batch's have every answer token predicted."""
    return {
        kind: round(float(right.float().mean()), 4) for kind, right in pretraining.answers_right(logits, batch).items()
    }


def trained(
    recipe: Recipe,
    model: torch.nn.Module,
    batch: Callable[..., Any],
    loss: Callable[[Any], Loss],
    resume: bool,
    evaluate: Callable[[int], Any],
) -> TrainResult:
    """Train in the recipe's folder and leave the trained weights (averaged, if the recipe says so) as `finished`."""
    if asked():
        raise BadInput(f"{recipe.name} fits into any GPU; FSDP is for large models: train it without configs/fsdp.yaml")
    folder = runtime.work_dir() / recipe.name
    result = train(
        recipe.name, model, [{"params": prefix, "lr": rate} for prefix, rate in recipe.groups] or None, batch, loss,
        recipe.train, folder / "run", resume, evaluate, recipe.evaluate_every,
    )  # fmt: skip
    averaged, state = result.ema or {}, model.state_dict()
    write_tensors(finished(recipe.name), {name: averaged.get(name, state[name]) for name in moving(model)})
    return result


def moving(model: torch.nn.Module) -> list[str]:
    """Names of the parameters that train, and of the running statistics beside them."""
    found, kept = [], model.state_dict()
    for prefix, module in model.named_modules():
        own = dict(module.named_parameters(prefix, recurse=False))
        if any(p.requires_grad for p in own.values()):
            found += [name for name, p in own.items() if p.requires_grad]
            found += [name for name, _ in module.named_buffers(prefix, recurse=False) if name in kept]
    return found
