"""Recipes of the encoders: CLIP's and SigLIP's on captions, DINOv2's on pictures alone, MambaVision's on labels.
Notebooks 01, 08 and 10.

These losses compare the rows of a batch, or normalise over them: of several processes each takes batches of its own, so
that an update sees as many times the rows. The recipes of VLMs and language models share each batch instead.
"""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from vlmlab.errors import BadInput
from vlmlab.files import write_tensors
from vlmlab.language.tokenizer import Tokenizer
from vlmlab.scenes.dataset import SceneDataset
from vlmlab.vision.classification import LabelBatch, MultiLabelModel
from vlmlab.vision.config import ViTConfig
from vlmlab.vision.contrastive import ContrastiveBatch, ContrastiveModel, TextTower
from vlmlab.vision.fused import NORMALISATION, FusedConfig
from vlmlab.vision.images import Preprocess
from vlmlab.vision.mambavision import MambaVision
from vlmlab.vision.mambavision_config import MambaVisionConfig
from vlmlab.vision.probing import probe_words
from vlmlab.vision.self_distillation import CropBatch, SelfDistillation, crop_batch
from vlmlab.vision.vit import ViT
from vlmlab.vlm import pretraining
from vlmlab.vlm.conversations import SLOTS, WORDS, word_map
from vlmlab.vlm.presets import VLMConfig, get_preset
from vlmlab.vlm.recipes.common import draw, finished, scenes, tokenizer, trained
from vlmlab.vlm.recipes.table import Recipe
from vlmlab.vlm.trainer import TrainResult


def encoder_config(config: VLMConfig, style: str) -> ViTConfig | MambaVisionConfig:
    """The encoder of that style in a preset, with the pooling head that pretraining needs."""
    vision = config.vision
    found = getattr(vision, style) if isinstance(vision, FusedConfig) else vision
    return replace(found, pool_head=True) if style == "siglip" else found


def _vit(config: VLMConfig, style: str) -> ViT:
    found = encoder_config(config, style)
    if not isinstance(found, ViTConfig):
        raise BadInput(f"{config.name} has no ViT to pretrain in the style {style!r}, its encoder is another")
    return ViT(found)


def contrastive_model(config: VLMConfig, words: Tokenizer, seed: int, objective: str = "clip") -> ContrastiveModel:
    """A preset's encoder with a text tower, random weights from `seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vision = _vit(config, objective)
        return ContrastiveModel(vision, TextTower(config.language.vocab_size, words.id("<pad>")), objective=objective)


def contrastive(recipe: Recipe, resume: bool) -> TrainResult:
    """CLIP's or SigLIP's pretraining, as the recipe is called."""
    config, words, data = get_preset(recipe.preset), tokenizer(), scenes(recipe.scenes)
    objective = recipe.name.split("-")[0]
    model = contrastive_model(config, words, recipe.train.seed, objective)
    held_out, facts = scenes(recipe.checks, "val"), data.scenes
    mean, std = NORMALISATION.get(objective, (config.mean, config.std))
    preprocess = Preprocess(config.image_size, mean, std)

    def batch(step: int) -> ContrastiveBatch:
        rows, rng = draw(recipe, step, len(data))
        chosen = [facts[i] for i in rows]
        return pretraining.contrastive_batch(
            data.rgb[rows], data.mask[rows], chosen, words, preprocess, config.grid, rng, flips=0.5
        )

    check = pretraining.contrastive_batch(
        held_out.rgb[:96], held_out.mask[:96], held_out.scenes[:96], words, preprocess,
        config.grid, np.random.default_rng(0),
    )  # fmt: skip

    def loss(given: ContrastiveBatch) -> tuple[Tensor, dict[str, float]]:
        with sdpa_kernel(SDPBackend.MATH):  # on a CPU in bf16, over 65 tokens, 4 times the fused kernel's speed
            return model(given)

    return trained(recipe, model, batch, loss, resume, lambda step: model(check)[1])


def self_distillation(recipe: Recipe, resume: bool) -> TrainResult:
    """DINOv2's pretraining; the teacher's encoder is what is left as finished."""
    config, data, held_out = get_preset(recipe.preset), scenes(recipe.scenes), scenes(recipe.checks, "val")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.train.seed)
        vision = _vit(config, "dinov2")
        model = SelfDistillation(vision, recipe.train.steps)
    preprocess = Preprocess(config.image_size, *NORMALISATION["dinov2"])
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in NORMALISATION["dinov2"])

    def batch(step: int) -> CropBatch:
        rows, rng = draw(recipe, step, len(data))
        pixels = torch.from_numpy(data.rgb[rows]).permute(0, 3, 1, 2).float() / 255
        crops = crop_batch(pixels, rng, vision.config.patch_size)
        return crops._replace(wide=(crops.wide - mean) / std, narrow=(crops.narrow - mean) / std)

    def loss(given: CropBatch) -> tuple[Tensor, dict[str, float]]:
        with sdpa_kernel(SDPBackend.MATH):
            return model(given)

    def evaluate(step: int) -> dict[str, Any]:
        return probe(model.teacher.vision, held_out, preprocess)

    result = trained(recipe, model, batch, loss, resume, evaluate)
    _leave_encoder(recipe, model.teacher.vision)
    return result


def classification(recipe: Recipe, resume: bool) -> TrainResult:
    """MambaVision's pretraining; its encoder without the head is what is left as finished."""
    config, data, held_out = get_preset(recipe.preset), scenes(recipe.scenes), scenes(recipe.checks, "val")
    if not isinstance(config.vision, MambaVisionConfig):
        raise BadInput(f"{recipe.name}: the preset {config.name} has no MambaVision to pretrain")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.train.seed)
        vision = MambaVision(replace(config.vision, num_classes=len(pretraining.LABELS)))
        model = MultiLabelModel(vision, len(WORDS))
    preprocess = Preprocess(config.image_size, config.mean, config.std)
    facts = data.scenes

    def batch(step: int) -> LabelBatch:
        rows, rng = draw(recipe, step, len(data))
        chosen = [facts[i] for i in rows]
        return pretraining.label_batch(data.rgb[rows], data.mask[rows], chosen, preprocess, config.grid, rng, flips=0.5)

    few = slice(0, 256)
    check = pretraining.label_batch(
        held_out.rgb[few], held_out.mask[few], held_out.scenes[few], preprocess, config.grid, np.random.default_rng(0)
    )

    def evaluate(step: int) -> dict[str, Any]:
        probed = probe(vision, held_out, preprocess)
        return model(check)[1] | {f"probe/{slot}": share for slot, share in probed.items()}

    result = trained(recipe, model, batch, model, resume, evaluate)
    _leave_encoder(recipe, vision)
    return result


def _leave_encoder(recipe: Recipe, vision: ViT | MambaVision) -> None:
    state = {name: value for name, value in vision.state_dict().items() if not name.startswith("head.")}
    write_tensors(finished(recipe.name), {f"vision.{name}": value for name, value in state.items()})


def probe(
    vision: ViT | MambaVision, pictures: SceneDataset, preprocess: Preprocess, count: int = 512
) -> dict[str, float]:
    """What a linear map reads from single tokens of hidden state -2 (of a MambaVision: level 2): for each slot of the
    word maps, the share of object patches whose word it gets right. Three quarters of `count` pictures fit it, the rest
    test it."""
    count = min(count, len(pictures))
    with torch.no_grad():
        pixels = preprocess.normalise(pictures.rgb[:count])
        tokens = torch.cat([vision.features(some, -2) for some in pixels.split(128)])  # (N, P, D)
    grid = math.isqrt(tokens.shape[1])
    maps = [
        word_map(scene, mask, grid) for scene, mask in zip(pictures.scenes[:count], pictures.mask[:count], strict=True)
    ]
    return probe_words(tokens, torch.from_numpy(np.stack(maps)).long(), tuple(SLOTS), fit=3 * count // 4)
