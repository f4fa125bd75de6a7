"""Recipes of the tokenizer and of the language models, on text alone. Notebooks 04 and 09."""

from dataclasses import replace
from pathlib import Path

import numpy as np

import vlmlab.language
from vlmlab.language.tokenizer import Tokenizer
from vlmlab.scenes import sample
from vlmlab.scenes.questions import Balance
from vlmlab.vlm import pretraining
from vlmlab.vlm.conversations import WORKSHEETS
from vlmlab.vlm.corpus import Packed, items_of, pack
from vlmlab.vlm.model import VLM
from vlmlab.vlm.presets import get_preset
from vlmlab.vlm.recipes.common import corpus, draw, finished, packing, shares, tokenizer, trained
from vlmlab.vlm.recipes.table import TEXT, Lesson, Recipe
from vlmlab.vlm.trainer import TrainResult

PROSE = Path(vlmlab.language.__file__).parent / "prose.txt"
TEXT_SEED = 1_000_000  # the tokenizer's scenes start here: none of them is trained or tested on


def train_tokenizer(recipe: Recipe, resume: bool) -> None:
    """Learn the suite's tokenizer from prose and from described scenes."""
    texts = PROSE.read_text(encoding="utf-8").splitlines()
    balance = Balance()
    for seed in range(recipe.scenes):
        for item in items_of(sample(TEXT_SEED + seed), 16, balance):
            if item.kind in ("directions", *WORKSHEETS):
                continue  # the same words again
            texts += [" " + item.answer, f"USER: {item.question} ASSISTANT: "]  # as the template writes them
    words = Tokenizer.train(texts, get_preset(recipe.preset).language.vocab_size)
    finished("tokenizer").parent.mkdir(parents=True, exist_ok=True)
    words.save(finished("tokenizer"))


def train_language(recipe: Recipe, resume: bool) -> TrainResult:
    """Pretrain a preset's language model on word maps, and behind the worksheets one batch in eight on described
    scenes."""
    config = get_preset(recipe.preset)
    model = VLM.from_preset(config, "cpu", tokenizer(), seed=recipe.train.seed).language
    data, held_out = (
        corpus(count, split, config.template) for count, split in ((recipe.scenes, "train"), (recipe.checks, "val"))
    )
    text = packing(config, recipe, Lesson(1.0, TEXT), "text")
    lessons = {lesson: packing(config, recipe, lesson, "map") for lesson in recipe.lessons}
    last = recipe.lessons[-1]

    def batch(step: int, rank: int, processes: int) -> Packed:
        lesson = recipe.lesson(step)
        described = lesson is last and step % 8 == 0
        rows, rng = draw(recipe, step, len(data), 1 if described else lesson.rows)
        return pack(data, rows, text if described else lessons[lesson], rng).share(rank, processes)

    def evaluate(step: int) -> dict[str, float]:
        found: dict[str, float] = {}
        for how in (text, replace(lessons[last], weights=())):
            checks = pack(held_out, np.arange(min(128, len(held_out))), how, np.random.default_rng(1))
            logits = model.head(pretraining.language_hidden(model, checks, config.image_id))
            found |= {f"{how.prefix}/{kind}": value for kind, value in shares(logits, checks).items()}
        return found

    return trained(
        recipe, model, batch, lambda given: pretraining.language_loss(model, given, config.image_id), resume, evaluate
    )
