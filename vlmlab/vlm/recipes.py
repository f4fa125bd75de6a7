"""The training recipes of the shipped models, each one command: `vlmlab train NAME`. Notebook 04.

    tokenizer           byte-level BPE on the suite's own text
    clip-tiny           contrastive pretraining of the encoder on pictures, captions and the words for each patch
    language-tiny       the language model on text alone: described scenes and word maps
    llava-tiny-stage1   LLaVA's stage 1: the projector, on descriptions
    llava-tiny          LLaVA's stage 2: projector and language model, on questions and descriptions

A recipe first runs the recipes it needs, unless they are done. All of a recipe's files live in work_dir()/NAME; nothing
is written to data/ before `vlmlab.weights.ship` is asked to.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from vlmlab import runtime
from vlmlab.errors import UnknownName
from vlmlab.files import read_tensors, sha256, write_tensors
from vlmlab.language.tokenizer import Tokenizer
from vlmlab.scenes import sample
from vlmlab.scenes.dataset import SceneDataset
from vlmlab.scenes.dataset import build as build_scenes
from vlmlab.scenes.questions import TYPES, Balance
from vlmlab.vision.contrastive import ContrastiveBatch, ContrastiveModel, TextTower
from vlmlab.vision.vit import ViT
from vlmlab.vlm import pretraining
from vlmlab.vlm.conversations import KINDS
from vlmlab.vlm.corpus import Corpus, Packed, Packing, build_cached, items_of, pack
from vlmlab.vlm.model import VLM
from vlmlab.vlm.presets import VLMConfig, get_preset
from vlmlab.vlm.saving import save
from vlmlab.vlm.templates import get_template
from vlmlab.vlm.trainer import TrainConfig, TrainResult, train

PROSE = Path(__file__).resolve().parent.parent / "language" / "prose.txt"
TEXT_SEED = 1_000_000  # the tokenizer's scenes start here: none of them is trained or tested on
DESCRIPTIONS = ("dense", "directions", "full", "short caption", "order")


@dataclass(frozen=True)
class Recipe:
    """What a recipe trains and on how much.

    batch: rows a step. per_scene: most questions a row. scenes: of the train split; checks: of the split `val`, watched
    while training. needs: recipes that come first. weights, blind: see corpus.Packing. groups: (prefix of parameter
    names, learning rate) where it is not train.lr. describe_first: share of the steps, at the start, that draw only
    descriptions. cells: how many cells of a word map are shown, in turn over equal shares of the steps (all if empty).
    """

    name: str
    train: TrainConfig
    batch: int
    scenes: int
    checks: int = 1024
    per_scene: int = 0
    needs: tuple[str, ...] = ()
    preset: str = "llava-tiny"
    weights: tuple[tuple[str, float], ...] = ()
    groups: tuple[tuple[str, float], ...] = ()
    blind: float = 0.0
    describe_first: float = 0.0
    cells: tuple[int, ...] = ()
    evaluate_every: int = 100


DESCRIBE = (*((kind, 0.0) for kind in KINDS if kind not in DESCRIPTIONS), ("full", 0.15))
# How often stage 2 draws each kind. In a description nearly every word has to be seen; of a sentence that answers, one
# or two; a single word teaches least.
MIXTURE = (
    *((name, 2.0) for name in ("dense", "existence", "attribute", "relation")),
    *((f"{name} (word)", 0.4) for name in TYPES),
    ("full", 0.15),
)
FAST: dict[str, Any] = {"betas": (0.9, 0.98), "precision": "bf16", "optimizer": "muon"}
DECAY: dict[str, Any] = {"weight_decay": 0.05, "warmup": 0.05}
RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe("tokenizer", TrainConfig(steps=1), batch=0, scenes=3000),
        Recipe(
            "clip-tiny", TrainConfig(steps=1800, lr=2e-3, **DECAY, **FAST), batch=96, scenes=64000, needs=("tokenizer",)
        ),
        Recipe(
            "language-tiny",
            TrainConfig(steps=1400, lr=4e-3, weight_decay=0.01, **FAST),
            batch=16,
            scenes=64000,
            per_scene=24,
            weights=(("full", 0.3), ("directions", 0.0)),
            groups=(("embed_tokens", 1.2e-3),),
            needs=("tokenizer",),
        ),
        Recipe(
            "llava-tiny-stage1",
            TrainConfig(steps=150, lr=4e-3, **FAST),
            batch=16,
            scenes=64000,
            per_scene=24,
            needs=("tokenizer", "clip-tiny", "language-tiny"),
            weights=DESCRIBE,
        ),
        Recipe(
            "llava-tiny",
            TrainConfig(steps=3000, lr=2e-3, weight_decay=0.01, **FAST),
            batch=16,
            scenes=64000,
            per_scene=24,
            weights=MIXTURE,
            groups=(("language.embed_tokens", 6e-4),),
            blind=1 / 16,
            describe_first=0.25,
            evaluate_every=500,
            needs=("tokenizer", "clip-tiny", "language-tiny", "llava-tiny-stage1"),
        ),
    )
}


def run(name: str, resume: bool = False, **overrides: Any) -> TrainResult | None:
    """Run a recipe and what it needs. Overrides are fields of `Recipe` or of its `TrainConfig`.

    Raises UnknownName for a recipe or field, BadInput when the run's folder is taken and `resume` is False.
    """
    if name not in RECIPES:
        raise UnknownName("recipe", name, RECIPES)
    recipe = override(RECIPES[name], overrides)
    for need in recipe.needs:
        if not finished(need).exists():
            run(need, resume=True)
    return _RUNNERS[name](recipe, resume)


def override(recipe: Recipe, values: dict[str, Any]) -> Recipe:
    """The recipe with some fields replaced, its own or its TrainConfig's."""
    own = {key: value for key, value in values.items() if key in Recipe.__dataclass_fields__ and key != "train"}
    dials = {key: value for key, value in values.items() if key in TrainConfig.__dataclass_fields__}
    for key in values:
        if key not in own and key not in dials:
            raise UnknownName("parameter", key, [*Recipe.__dataclass_fields__, *TrainConfig.__dataclass_fields__])
    return replace(recipe, train=replace(recipe.train, **dials), **own)


def finished(name: str) -> Path:
    """The file that a finished recipe leaves."""
    return runtime.work_dir() / name / ("tokenizer.json" if name == "tokenizer" else "weights.safetensors")


def tokenizer() -> Tokenizer:
    """The tokenizer that the recipes use."""
    return Tokenizer.load(finished("tokenizer"))


# ---------------------------------------------------------------------- data
def scenes(count: int, split: str = "train") -> SceneDataset:
    """The rendered scenes of a split, built once."""
    return build_scenes(runtime.work_dir() / "cache" / f"scenes-{split}-{count}", count, split=split)


def corpus(count: int, split: str = "train") -> Corpus:
    """The encoded conversations of a split's rendered scenes, built once."""
    folder = runtime.work_dir() / "cache" / f"corpus-{split}-{count}"
    return build_cached(
        folder, scenes(count, split), finished("tokenizer"), get_template("v1", ""), workers=runtime.cores()
    )


def packing(config: VLMConfig, recipe: Recipe, prefix: str = "image") -> Packing:
    """How a recipe's rows are packed."""
    words = tokenizer()
    opening = (words.id("<s>"), *words.encode("USER:" if prefix == "text" else "USER: "))
    return Packing(
        opening,
        config.image_id,
        words.id("<pad>"),
        config.vision.grid**2,
        recipe.per_scene,
        prefix=prefix,
        weights=recipe.weights,
        blind=recipe.blind,
    )


def draw(recipe: Recipe, step: int, count: int) -> tuple[np.ndarray, np.random.Generator]:
    """The rows of a step and the generator for the rest of its choices, from the recipe's seed and the step alone."""
    rng = np.random.default_rng([recipe.train.seed, step])
    return np.sort(rng.choice(count, min(recipe.batch, count), replace=False)), rng


def features(vlm: VLM, pictures: SceneDataset, encoder: Path) -> np.ndarray:
    """H_v of all pictures, float16 (N, P, D_v) on disk, computed once: the encoder is frozen in both stages.

    encoder: the file its weights come from; other weights make another cache.
    """
    path = runtime.work_dir() / "cache" / f"features-{sha256(encoder)[:12]}-{pictures.folder.name}.npy"
    if not path.exists():
        shape = (len(pictures), vlm.config.vision.grid**2, vlm.config.feature_dim)
        temporary = path.with_suffix(".partial.npy")
        values = np.lib.format.open_memmap(temporary, "w+", np.float16, shape)
        with torch.inference_mode():
            for start in range(0, len(pictures), 256):
                pixels = vlm.preprocess.normalise(pictures.rgb[start : start + 256])
                values[start : start + 256] = vlm.vision_features(pixels.to(vlm.device)).half().cpu().numpy()
        values.flush()
        temporary.rename(path)
    return np.load(path, mmap_mode="r")


# ---------------------------------------------------------------------- recipes
def _tokenizer(recipe: Recipe, resume: bool) -> None:
    texts = PROSE.read_text(encoding="utf-8").splitlines()
    balance = Balance()
    for seed in range(recipe.scenes):
        for item in items_of(sample(TEXT_SEED + seed), 16, balance):
            if item.kind == "directions":
                continue  # the same words again
            texts += [" " + item.answer, f"USER: {item.question} ASSISTANT: "]  # as the template writes them
    words = Tokenizer.train(texts, get_preset(recipe.preset).language.vocab_size)
    finished("tokenizer").parent.mkdir(parents=True, exist_ok=True)
    words.save(finished("tokenizer"))


def _clip(recipe: Recipe, resume: bool) -> TrainResult:
    config, words, data = get_preset(recipe.preset), tokenizer(), scenes(recipe.scenes)
    model = contrastive_model(config, words, recipe.train.seed)
    held_out, facts = scenes(recipe.checks, "val"), data.scenes
    preprocess = VLM.from_preset(config, "meta").preprocess

    def batch(step: int) -> Any:
        rows, rng = draw(recipe, step, len(data))
        chosen = [facts[i] for i in rows]
        return pretraining.contrastive_batch(
            data.rgb[rows], data.mask[rows], chosen, words, preprocess, config.vision.grid, rng, flips=0.5
        )

    check = pretraining.contrastive_batch(
        held_out.rgb[:96], held_out.mask[:96], held_out.scenes[:96], words, preprocess,
        config.vision.grid, np.random.default_rng(0),
    )  # fmt: skip

    def loss(data: ContrastiveBatch) -> tuple[Tensor, dict[str, float]]:
        with sdpa_kernel(SDPBackend.MATH):  # on a CPU in bf16, over 65 tokens, 4 times the fused kernel's speed
            return model(data)

    return _trained(recipe, model, batch, loss, resume, lambda step: model(check)[1])


def contrastive_model(config: VLMConfig, words: Tokenizer, seed: int) -> ContrastiveModel:
    """A preset's encoder with a text tower, random weights from `seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ContrastiveModel(
            ViT(config.vision.encoders[0]), TextTower(config.language.vocab_size, words.id("<pad>"))
        )


def _language(recipe: Recipe, resume: bool) -> TrainResult:
    config = get_preset(recipe.preset)
    llama = VLM.from_preset(config, "cpu", tokenizer(), seed=recipe.train.seed).language
    data, held_out = corpus(recipe.scenes), corpus(recipe.checks, "val")
    ways = [packing(config, recipe, "text"), packing(config, recipe, "map")]
    shown = recipe.cells or (ways[1].patches,)

    def batch(step: int) -> Packed:
        rows, rng = draw(recipe, step, len(data))
        if step % 4 == 0:  # one batch in four is text, three are maps
            return pack(data, rows, ways[0], rng)
        return pack(data, rows, replace(ways[1], patches=shown[step * len(shown) // recipe.train.steps]), rng)

    def evaluate(step: int) -> dict[str, float]:
        found: dict[str, float] = {}
        for how in ways:
            every = replace(how, weights=())
            checks = pack(held_out, np.arange(min(64, len(held_out))), every, np.random.default_rng(1))
            logits = llama.head(pretraining.language_hidden(llama, checks, config.image_id))
            found |= {f"{how.prefix}/{kind}": value for kind, value in _shares(logits, checks).items()}
        return found

    return _trained(
        recipe, llama, batch, lambda data: pretraining.language_loss(llama, data, config.image_id), resume, evaluate
    )


def _shares(logits: Tensor, batch: Packed) -> dict[str, float]:
    return {
        kind: round(float(right.float().mean()), 4) for kind, right in pretraining.answers_right(logits, batch).items()
    }


def _stage(recipe: Recipe, resume: bool) -> TrainResult:
    """Stage 1 trains the projector, stage 2 the projector and the language model; the encoder is frozen in both."""
    config, words = get_preset(recipe.preset), tokenizer()
    vlm = VLM.from_preset(config, "auto", words, seed=recipe.train.seed)
    fill_from_runs(vlm, recipe.needs)
    vlm.freeze().unfreeze(*(("projector",) if recipe.name.endswith("stage1") else ("projector", "language")))
    pictures, data = scenes(recipe.scenes), corpus(recipe.scenes)
    held, held_data = scenes(recipe.checks, "val"), corpus(recipe.checks, "val")
    seen, held_seen = (features(vlm, each, finished("clip-tiny")) for each in (pictures, held))
    how = packing(config, recipe)
    describe = replace(how, weights=DESCRIBE)

    def batch(step: int) -> tuple[Packed, Tensor]:
        rows, rng = draw(recipe, step, len(data))
        now = describe if step < recipe.describe_first * recipe.train.steps else how
        return pack(data, rows, now, rng), torch.from_numpy(seen[rows])

    def loss(given: tuple[Packed, Tensor]) -> tuple[Tensor, dict[str, float]]:
        packed, images = given
        seen = (packed.ids == config.image_id).any(1)
        out = vlm(
            None, packed.ids, packed.labels, packed.visible, position_ids=packed.positions,
            image_features=images[seen].float(), loss_only=True,
        )  # fmt: skip
        return out.loss, {}

    everything = replace(how, weights=(), blind=0.0)

    def evaluate(step: int) -> dict[str, float]:
        found: dict[str, list[Tensor]] = {}
        for start in range(0, min(256, len(held_data)), 64):
            rows = np.arange(start, min(start + 64, len(held_data)))
            packed = pack(held_data, rows, everything, np.random.default_rng(start)).to(vlm.device)
            images = torch.from_numpy(held_seen[rows]).float().to(vlm.device)
            logits = vlm(None, packed.ids, None, packed.visible, position_ids=packed.positions, image_features=images)
            for kind, right in pretraining.answers_right(logits, packed).items():
                found.setdefault(kind, []).append(right.float())
        return {kind: round(float(torch.cat(values).mean()), 4) for kind, values in found.items()}

    result = _trained(recipe, vlm, batch, loss, resume, evaluate)
    if result.ema:
        vlm.load_state_dict(result.ema, strict=False)
    words.save(finished(recipe.name).parent / str(config.tokenizer))
    save(vlm, finished(recipe.name).parent / "model.safetensors", note={"recipe": recipe.name})
    return result


def fill_from_runs(vlm: VLM, names: tuple[str, ...]) -> None:
    """Put the weights that finished recipes left into a VLM, later ones over earlier ones."""
    state = vlm.state_dict()
    for name in names:
        if name == "tokenizer":
            continue
        tensors, _ = read_tensors(finished(name))
        prefix = "language." if name == "language-tiny" else ""
        state |= {prefix + key: value for key, value in tensors.items() if prefix + key in state}
    vlm.load_state_dict(state)


def _trained(
    recipe: Recipe,
    model: torch.nn.Module,
    batch: Callable[[int], Any],
    loss: Callable[[Any], Any],
    resume: bool,
    evaluate: Callable[[int], Any],
) -> TrainResult:
    folder = runtime.work_dir() / recipe.name
    result = train(
        recipe.name, model, [{"params": prefix, "lr": rate} for prefix, rate in recipe.groups] or None, batch, loss,
        recipe.train, folder / "run", resume, evaluate, recipe.evaluate_every,
    )  # fmt: skip
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    averaged = result.ema or {}
    write_tensors(finished(recipe.name), {name: averaged.get(name, p) for name, p in trained.items()})
    return result


_RUNNERS: dict[str, Callable[[Recipe, bool], TrainResult | None]] = {
    "tokenizer": _tokenizer,
    "clip-tiny": _clip,
    "language-tiny": _language,
    "llava-tiny-stage1": _stage,
    "llava-tiny": _stage,
}
