"""What each recipe trains, on how much and how: the numbers. Notebooks 04, 08 and 09."""

from dataclasses import dataclass, replace
from typing import Any

from vlmlab.scenes.questions import TYPES
from vlmlab.vlm.conversations import KINDS, WORKSHEETS
from vlmlab.vlm.trainer import TrainConfig


@dataclass(frozen=True)
class Lesson:
    """What is drawn in a part of a recipe's steps.

    until: where the part ends, as a fraction of the steps. weights, per_scene: see corpus.Packing. rows: how many times
    as many rows a step as the recipe says: worksheets alone are short.
    """

    until: float
    weights: tuple[tuple[str, float], ...]
    per_scene: int = 24
    rows: int = 1


@dataclass(frozen=True)
class Recipe:
    """What a recipe trains and on how much.

    batch: rows a step. scenes: of the train split; checks: of the split `val`, watched while training. needs: recipes
    that come first. backbone: a VLM's recipe, which comes first too, whose language model is taken over. parts: of the
    VLM that train. lessons: what is drawn, in their order. blind: see corpus.Packing. groups: (prefix of parameter
    names, learning rate) where it is not train.lr.
    """

    name: str
    train: TrainConfig
    batch: int
    scenes: int
    checks: int = 1024
    needs: tuple[str, ...] = ()
    backbone: str = ""
    preset: str = "llava-tiny"
    parts: tuple[str, ...] = ()
    lessons: tuple[Lesson, ...] = ()
    groups: tuple[tuple[str, float], ...] = ()
    blind: float = 0.0
    evaluate_every: int = 100

    def lesson(self, step: int) -> Lesson:
        """What is drawn in a step."""
        done = (step + 0.5) / self.train.steps
        return next(lesson for lesson in self.lessons if done <= lesson.until or lesson is self.lessons[-1])


def _only(**weights: float) -> tuple[tuple[str, float], ...]:
    return tuple((kind, weights.get(kind, 0.0)) for kind in KINDS)


DESCRIPTIONS = ("dense", "directions", "full", "short caption", "order", *WORKSHEETS)
DESCRIBE = Lesson(1.0, _only(**(dict.fromkeys(DESCRIPTIONS, 1.0) | {"full": 0.15})))
# In a worksheet nearly every word has to be seen; of a sentence that answers, one or two; a single word teaches least.
# Worksheets alone, the inventory most, make a model look up what belongs to a noun within a few hundred steps; among
# questions the same takes thousands.
SHEETS = Lesson(0.4, _only(inventory=4.0, looks=1.0, pairs=1.0, checklist=1.0), per_scene=3, rows=2)
MIXTURE = Lesson(
    1.0,
    (
        *((name, 2.0) for name in ("dense", *WORKSHEETS, "existence", "attribute", "relation")),
        ("directions", 0.3),
        *((f"{name} (word)", 0.4) for name in TYPES),
        ("full", 0.15),
    ),
)
# Behind a description instead of a map: what it tells. It names no places.
TEXT = _only(**dict.fromkeys(("dense", "existence", "count", "attribute", "comparison"), 1.0))

FAST: dict[str, Any] = {"betas": (0.9, 0.98), "precision": "bf16", "optimizer": "muon"}
DECAY: dict[str, Any] = {"weight_decay": 0.05, "warmup": 0.05}
TOKENIZER = ("tokenizer",)


def _language(name: str, preset: str, embeddings: str) -> Recipe:
    return Recipe(
        name,
        TrainConfig(steps=1600, lr=2e-3, weight_decay=0.01, **FAST),
        batch=16,
        scenes=64000,
        preset=preset,
        lessons=(SHEETS, MIXTURE),
        groups=((embeddings, 6e-4),),
        needs=TOKENIZER,
    )


def _align(name: str, preset: str, needs: tuple[str, ...]) -> Recipe:
    """Stage 1: the projector alone, on descriptions."""
    return Recipe(
        name,
        TrainConfig(steps=150, lr=4e-3, **FAST),
        batch=16,
        scenes=64000,
        preset=preset,
        parts=("projector",),
        lessons=(DESCRIBE,),
        needs=(*TOKENIZER, *needs),
    )


def _instruct(name: str, preset: str, embeddings: str, needs: tuple[str, ...]) -> Recipe:
    """Stage 2: the projector and the language model, on questions and descriptions."""
    return Recipe(
        name,
        TrainConfig(steps=1600, lr=1.2e-3, weight_decay=0.01, **FAST),
        batch=16,
        scenes=64000,
        preset=preset,
        parts=("projector", "language"),
        lessons=(replace(SHEETS, until=0.25), MIXTURE),
        groups=((f"language.{embeddings}", 4e-4),),
        blind=1 / 16,
        evaluate_every=500,
        needs=(*TOKENIZER, *needs),
    )


def _smollm2() -> Recipe:
    """Projector and LoRAs behind a language model of 135M parameters: an update costs 30 times llava-tiny's, and there
    are as many fewer."""
    looks = _only(inventory=4.0, looks=1.0, pairs=1.0, checklist=1.0, dense=1.0, directions=0.5)
    return Recipe(
        "llava-smollm2",
        TrainConfig(steps=450, lr=2e-3, warmup=0.05, betas=(0.9, 0.98), precision="bf16", accumulate=2, save_every=25),
        batch=4,
        scenes=64000,
        preset="llava-smollm2",
        parts=("projector",),
        lessons=(Lesson(0.4, looks), replace(MIXTURE, weights=(*MIXTURE.weights, ("short caption", 4.0)))),
        groups=(("projector", 5e-4),),
        blind=1 / 16,
        evaluate_every=150,
        needs=(*TOKENIZER, "clip-tiny"),
    )


def _swap(name: str, needs: tuple[str, ...], parts: tuple[str, ...], preset: str = "cobra-mambavision-tiny") -> Recipe:
    """MambaVision in Cobra: some parts train, all others stay as cobra-tiny and mambavision-tiny left them."""
    return Recipe(
        name,
        TrainConfig(steps=300, lr=1.2e-3, weight_decay=0.01, save_every=50, **FAST),
        batch=16,
        scenes=64000,
        preset=preset,
        backbone="cobra-tiny",
        parts=parts,
        lessons=(replace(SHEETS, until=0.25), MIXTURE),
        groups=tuple((part, 4e-4) for part in parts if part != "projector"),
        blind=1 / 16,
        evaluate_every=150,
        needs=(*TOKENIZER, "mambavision-tiny", *needs),
    )


def _clips(model: str, needs: tuple[str, ...]) -> Recipe:
    """LoRAs for clips beside a finished model; needs: its encoders. `scenes` and `checks` count clips."""
    return Recipe(
        f"{model}-clips",
        TrainConfig(steps=400, lr=4e-3, warmup=0.05, betas=(0.9, 0.98), precision="bf16"),
        batch=16,
        scenes=6000,
        checks=256,
        preset=model,
        parts=("projector", "language"),
        blind=1 / 16,
        needs=(*TOKENIZER, *needs, model),
    )


SWAPPED = "cobra-mambavision-tiny"
LLAVA = ("clip-tiny", "language-tiny", "llava-tiny-stage1")
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
        _instruct("llava-tiny", "llava-tiny", "embed_tokens", LLAVA),
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
        Recipe(
            "mambavision-tiny", TrainConfig(steps=1800, lr=2e-3, **DECAY, **FAST), batch=96, scenes=64000,
            preset="cobra-mambavision-tiny",
        ),
        _swap(f"{SWAPPED}-projector", (), ("projector",)),
        _swap(f"{SWAPPED}-level3", (), ("projector",), f"{SWAPPED}-level3"),
        _swap(f"{SWAPPED}-both", (), ("projector",), f"{SWAPPED}-both"),
        _swap(SWAPPED, (f"{SWAPPED}-projector",), ("projector", "vision")),
        _swap(f"{SWAPPED}-everything", (f"{SWAPPED}-projector",), ("projector", "vision", "language")),
        _smollm2(),
        _clips("llava-tiny", LLAVA[:1]),
        _clips("cobra-tiny", COBRA[:2]),
    )
}  # fmt: skip
