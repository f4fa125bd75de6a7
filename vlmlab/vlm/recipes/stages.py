"""Recipes of whole VLMs: stage 1, stage 2, and Cobra's single stage. Notebooks 04 and 09."""

from dataclasses import replace

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
from vlmlab.vlm.recipes.table import DESCRIBE, Recipe
from vlmlab.vlm.saving import save
from vlmlab.vlm.trainer import TrainResult


def train_stage(recipe: Recipe, resume: bool) -> TrainResult:
    """Train some parts of a VLM around its frozen encoder, from the weights of the recipes that it needs."""
    config, words = get_preset(recipe.preset), tokenizer()
    vlm = VLM.from_preset(config, "auto", words, seed=recipe.train.seed)
    fill_from_runs(vlm, recipe.needs)
    vlm.freeze().unfreeze(*recipe.parts)
    encoders = [finished(name) for name in recipe.needs if name in ENCODERS]
    pictures, held = scenes(recipe.scenes), scenes(recipe.checks, "val")
    data, held_data = (
        corpus(count, split, config.template) for count, split in ((recipe.scenes, "train"), (recipe.checks, "val"))
    )
    seen, held_seen = (features(vlm, each, encoders) for each in (pictures, held))
    how = packing(config, recipe)
    describe = replace(how, weights=DESCRIBE)

    def batch(step: int) -> tuple[Packed, Tensor]:
        rows, rng = draw(recipe, step, len(data))
        now = describe if step < recipe.describe_first * recipe.train.steps else how
        return pack(data, rows, now, rng), torch.from_numpy(seen[rows])

    def loss(given: tuple[Packed, Tensor]) -> tuple[Tensor, dict[str, float]]:
        packed, images = given
        images = images[(packed.ids == config.image_id).any(1)].float()  # not of the blind rows
        out = vlm(None, packed.ids, packed.labels, segments=packed.segment, image_features=images, loss_only=True)
        return out.loss, {}

    everything = replace(how, weights=(), blind=0.0)

    def evaluate(step: int) -> dict[str, float]:
        found: dict[str, list[Tensor]] = {}
        for start in range(0, min(256, len(held_data)), 64):
            rows = np.arange(start, min(start + 64, len(held_data)))
            packed = pack(held_data, rows, everything, np.random.default_rng(start)).to(vlm.device)
            images = torch.from_numpy(held_seen[rows]).float().to(vlm.device)
            logits = vlm(None, packed.ids, segments=packed.segment, image_features=images)
            for kind, right in pretraining.answers_right(logits, packed).items():
                found.setdefault(kind, []).append(right.float())
        return {kind: round(float(torch.cat(values).mean()), 4) for kind, values in found.items()}

    result = trained(recipe, vlm, batch, loss, resume, evaluate)
    if result.ema:
        vlm.load_state_dict(result.ema, strict=False)
    words.save(finished(recipe.name).parent / str(config.tokenizer))
    save(vlm, finished(recipe.name).parent / "model.safetensors", note={"recipe": recipe.name})
    return result
