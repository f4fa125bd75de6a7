"""Recipes of whole VLMs: stage 1, stage 2, and Cobra's single stage. Notebooks 04 and 09."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vlmlab.vlm import pretraining
from vlmlab.vlm.corpus import Packed, pack
from vlmlab.vlm.model import VLM
from vlmlab.vlm.presets import get_preset
from vlmlab.vlm.recipes.common import (
    ENCODERS,
    corpus,
    draw,
    features,
    fill_from_runs,
    finished,
    packing,
    scenes,
    tokenizer,
    trained,
)
from vlmlab.vlm.recipes.table import Recipe
from vlmlab.vlm.saving import save
from vlmlab.vlm.trainer import TrainResult
from vlmlab.vlm.training_setup import Loss


def train_stage(recipe: Recipe, resume: bool) -> TrainResult:
    """Train some parts of a VLM from the weights of the recipes that it needs; a frozen encoder runs only once."""
    config, words = get_preset(recipe.preset), tokenizer()
    vlm = VLM.from_preset(config, "auto", words, seed=recipe.train.seed)
    fill_from_runs(vlm, recipe.needs, recipe.backbone)
    vlm.freeze().unfreeze(*recipe.parts)
    encoders = [finished(name) for name in recipe.needs if name in ENCODERS]
    pictures, held = scenes(recipe.scenes), scenes(recipe.checks, "val")
    data, held_data = (
        corpus(count, split, config.template) for count, split in ((recipe.scenes, "train"), (recipe.checks, "val"))
    )
    looks = "vision" in recipe.parts  # then pixels go in, else features
    seen, held_seen = (each.rgb if looks else features(vlm, each, encoders) for each in (pictures, held))
    lessons = {lesson: packing(config, recipe, lesson) for lesson in recipe.lessons}

    def batch(step: int, rank: int, processes: int) -> tuple[Packed, Tensor]:
        lesson = recipe.lesson(step)
        rows, rng = draw(recipe, step, len(data), lesson.rows)
        return pack(data, rows, lessons[lesson], rng).share(rank, processes), images(seen[rows[rank::processes]])

    def images(chosen: np.ndarray) -> Tensor:
        return vlm.preprocess.normalise(chosen) if looks else torch.from_numpy(chosen).float()

    def loss(given: tuple[Packed, Tensor]) -> Loss:
        packed, shown = given
        shown = shown[(packed.ids == config.image_id).any(1)]  # not of the blind rows
        found = answer(packed, shown, labels=packed.labels, loss_only=True)
        return found.loss, {}, found.terms

    def answer(packed: Packed, shown: Tensor, **more: Any) -> Any:
        pixels, known = (shown, None) if looks else (None, shown)
        return vlm(pixels, packed.ids, segments=packed.segment, image_features=known, **more)

    everything = replace(lessons[recipe.lessons[-1]], weights=(), blind=0.0)

    def evaluate(step: int) -> dict[str, float]:
        found: dict[str, list[Tensor]] = {}
        for start in range(0, min(256, len(held_data)), 64):
            rows = np.arange(start, min(start + 64, len(held_data)))
            packed = pack(held_data, rows, everything, np.random.default_rng(start)).to(vlm.device)
            logits = answer(packed, images(held_seen[rows]).to(vlm.device))
            for kind, right in pretraining.answers_right(logits, packed).items():
                found.setdefault(kind, []).append(right.float())
        return {kind: round(float(torch.cat(values).mean()), 4) for kind, values in found.items()}

    result = trained(recipe, vlm, batch, loss, resume, evaluate)
    if result.ema:
        vlm.load_state_dict(result.ema, strict=False)
    words.save(finished(recipe.name).parent / str(config.tokenizer))
    save(vlm, finished(recipe.name).parent / "model.safetensors", note={"recipe": recipe.name})
    return result
