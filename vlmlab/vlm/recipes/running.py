"""Run a recipe, and first those it needs. Notebook 04."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from vlmlab.errors import UnknownName
from vlmlab.vlm.recipes import clips, encoders, language, smollm2, stages
from vlmlab.vlm.recipes.common import finished
from vlmlab.vlm.recipes.table import RECIPES, Recipe
from vlmlab.vlm.trainer import TrainConfig, TrainResult

RUNNERS: dict[str, Callable[[Recipe, bool], TrainResult | None]] = {
    "tokenizer": language.train_tokenizer,
    "clip": encoders.contrastive,
    "siglip": encoders.contrastive,
    "dinov2": encoders.self_distillation,
    "mambavision": encoders.classification,
    "language": language.train_language,
    "llava": stages.train_stage,
    "cobra": stages.train_stage,
    "clips": clips.train_clips,
    "smollm2": smollm2.train_smollm2,
}
"""The first word of a recipe's name, or the last where that is "clips" or "smollm2" -> what runs it."""


def run(name: str, resume: bool = False, **overrides: Any) -> TrainResult | None:
    """Run a recipe and what it needs. Overrides are fields of `Recipe` or of its `TrainConfig`.

    Raises UnknownName for a recipe or field, BadInput when the run's folder is taken and `resume` is False.
    """
    if name not in RECIPES:
        raise UnknownName("recipe", name, RECIPES)
    recipe = override(RECIPES[name], overrides)
    for need in (*recipe.needs, recipe.backbone):
        if need and not finished(need).exists():
            run(need, resume=True)
    words = name.split("-")
    return RUNNERS[words[-1] if words[-1] in ("clips", "smollm2") else words[0]](recipe, resume)


def override(recipe: Recipe, values: dict[str, Any]) -> Recipe:
    """The recipe with some fields replaced, its own or its TrainConfig's."""
    own = {key: value for key, value in values.items() if key in Recipe.__dataclass_fields__ and key != "train"}
    dials = {key: value for key, value in values.items() if key in TrainConfig.__dataclass_fields__}
    for key in values:
        if key not in own and key not in dials:
            raise UnknownName("parameter", key, [*Recipe.__dataclass_fields__, *TrainConfig.__dataclass_fields__])
    return replace(recipe, train=replace(recipe.train, **dials), **own)
