"""What each recipe trains, on how much and how: the numbers. Notebooks 04, 08 and 09."""

from dataclasses import dataclass
from typing import Any

from vlmlab.scenes.questions import TYPES
from vlmlab.vlm.conversations import KINDS, WORKSHEETS
from vlmlab.vlm.trainer import TrainConfig


@dataclass(frozen=True)
class Recipe:
    """What a recipe trains and on how much.

    batch: rows a step. per_scene: most questions a row. scenes: of the train split; checks: of the split `val`, watched
    while training. needs: recipes that come first. parts: of the VLM that train. weights, blind: see corpus.Packing.
    groups: (prefix of parameter names, learning rate) where it is not train.lr. describe_first: share of the steps, at
    the start, that draw only descriptions. cells: how many cells of a word map are shown, in turn over equal shares of
    the steps (all if empty).
    """

    name: str
    train: TrainConfig
    batch: int
    scenes: int
    checks: int = 1024
    per_scene: int = 0
    needs: tuple[str, ...] = ()
    preset: str = "llava-tiny"
    parts: tuple[str, ...] = ()
    weights: tuple[tuple[str, float], ...] = ()
    groups: tuple[tuple[str, float], ...] = ()
    blind: float = 0.0
    describe_first: float = 0.0
    cells: tuple[int, ...] = ()
    evaluate_every: int = 100


DESCRIPTIONS = ("dense", "directions", "full", "short caption", "order", *WORKSHEETS)
DESCRIBE = (*((kind, 0.0) for kind in KINDS if kind not in DESCRIPTIONS), ("full", 0.15))
# How often stage 2 draws each kind. In a description nearly every word has to be seen; of a sentence that answers, one
# or two; a single word teaches least.
MIXTURE = (
    *((name, 2.0) for name in ("dense", *WORKSHEETS, "existence", "attribute", "relation")),
    ("directions", 0.3),
    *((f"{name} (word)", 0.4) for name in TYPES),
    ("full", 0.15),
)
# And of the language model's first lessons: worksheets most, where every object is asked about.
SIMPLE = (
    *(("inventory", 4.0), ("looks", 3.0), ("pairs", 2.0), ("checklist", 3.0)),
    *(("dense", 2.0), ("directions", 0.5), ("full", 0.3)),
)

FAST: dict[str, Any] = {"betas": (0.9, 0.98), "precision": "bf16", "optimizer": "muon"}
DECAY: dict[str, Any] = {"weight_decay": 0.05, "warmup": 0.05}
TOKENIZER = ("tokenizer",)


def _language(name: str, preset: str, embeddings: str) -> Recipe:
    return Recipe(
        name,
        TrainConfig(steps=1600, lr=2e-3, weight_decay=0.01, **FAST),
        batch=16,
        scenes=64000,
        per_scene=24,
        preset=preset,
        weights=SIMPLE,
        groups=((embeddings, 6e-4),),
        cells=(12, 24, 64, 64),
        needs=TOKENIZER,
    )


def _align(name: str, preset: str, needs: tuple[str, ...]) -> Recipe:
    """Stage 1: the projector alone, on descriptions."""
    return Recipe(
        name,
        TrainConfig(steps=150, lr=4e-3, **FAST),
        batch=16,
        scenes=64000,
        per_scene=24,
        preset=preset,
        parts=("projector",),
        weights=DESCRIBE,
        needs=(*TOKENIZER, *needs),
    )


def _instruct(name: str, preset: str, embeddings: str, needs: tuple[str, ...]) -> Recipe:
    """Stage 2: the projector and the language model, on questions and descriptions."""
    return Recipe(
        name,
        TrainConfig(steps=1600, lr=1.2e-3, weight_decay=0.01, **FAST),
        batch=16,
        scenes=64000,
        per_scene=24,
        preset=preset,
        parts=("projector", "language"),
        weights=MIXTURE,
        groups=((f"language.{embeddings}", 4e-4),),
        blind=1 / 16,
        describe_first=0.2,
        evaluate_every=500,
        needs=(*TOKENIZER, *needs),
    )


COBRA = ("dinov2-tiny", "siglip-tiny", "language-mamba-tiny")
RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe("tokenizer", TrainConfig(steps=1), batch=0, scenes=3000),
        Recipe(
            "clip-tiny", TrainConfig(steps=1800, lr=2e-3, **DECAY, **FAST), batch=96, scenes=64000, needs=TOKENIZER
        ),
        _language("language-tiny", "llava-tiny", "embed_tokens"),
        _align("llava-tiny-stage1", "llava-tiny", ("clip-tiny", "language-tiny")),
        _instruct("llava-tiny", "llava-tiny", "embed_tokens", ("clip-tiny", "language-tiny", "llava-tiny-stage1")),
        Recipe(
            "siglip-tiny", TrainConfig(steps=1800, lr=2e-3, **DECAY, **FAST), batch=96, scenes=64000,
            preset="cobra-tiny", needs=TOKENIZER,
        ),
        Recipe(
            "dinov2-tiny", TrainConfig(steps=2000, lr=2e-3, **DECAY, **FAST), batch=48, scenes=64000,
            preset="cobra-tiny",
        ),
        _language("language-mamba-tiny", "cobra-tiny", "embeddings"),
        _instruct("cobra-tiny", "cobra-tiny", "embeddings", COBRA),
        _align("cobra-tiny-stage1", "cobra-tiny", COBRA),
        _instruct("cobra-tiny-aligned", "cobra-tiny", "embeddings", (*COBRA, "cobra-tiny-stage1")),
        _instruct("cobra-tiny-ldp", "cobra-tiny-ldp", "embeddings", COBRA),
    )
}  # fmt: skip
