"""Batches and losses of the pretrainings: encoders on captions or labels, language models on text. Notebook 04."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vlmlab.language import Llama, Mamba
from vlmlab.language.tokenizer import Tokenizer
from vlmlab.scenes import Scene
from vlmlab.scenes.captions import caption, sentences
from vlmlab.scenes.kinds import COLOURS, MATERIALS, SIZES
from vlmlab.scenes.kinds import KINDS as OBJECTS
from vlmlab.vision.classification import LabelBatch
from vlmlab.vision.contrastive import ContrastiveBatch, pad_ids
from vlmlab.vision.images import Preprocess
from vlmlab.vlm.conversations import KINDS, SLOTS, WORDS, word_map
from vlmlab.vlm.corpus import Packed
from vlmlab.vlm.splice import IGNORE

FLOOR = 0.25  # share of the bare patches, four in five of all, that carry the word loss
_KIND = list(SLOTS).index("kind")
SLOT_BOUNDS = tuple(np.cumsum([0, *(len(words) for words in SLOTS.values())]).tolist())
LABELS = tuple(OBJECTS) + tuple(f"{word} {kind}" for word in (*COLOURS, *SIZES, *MATERIALS) for kind in OBJECTS)
"""The labels of a scene in multi-label classification: "cat", "red cat", "small cat", "shiny cat"."""


def contrastive_batch(
    rgb: np.ndarray,
    masks: np.ndarray,
    scenes: list[Scene],
    tokenizer: Tokenizer,
    preprocess: Preprocess,
    grid: int,
    rng: np.random.Generator,
    flips: float = 0.0,
) -> ContrastiveBatch:
    """Pictures (N, S, S, 3) with a caption each, and for each patch the words for what it shows.

    A share `flips` of the pictures is mirrored, and described as the mirrored scene that it then shows.
    """
    rgb, texts, targets = np.array(rgb), [], []
    for index, (mask, scene) in enumerate(zip(masks, scenes, strict=True)):
        rgb[index], mask, scene = _mirrored(rgb[index], mask, scene, rng, flips)
        texts.append(_caption(scene, rng))
        targets.append(_patch_words(mask, scene, grid, rng))
    pad = tokenizer.id("<pad>")
    return ContrastiveBatch(
        preprocess.normalise(rgb),
        pad_ids([tokenizer.encode(" " + text) for text in texts], pad),
        pad_ids([tokenizer.encode(" " + word) for word in WORDS], pad),
        SLOT_BOUNDS,
        torch.from_numpy(np.stack(targets).astype(np.int64)),
    )


def label_batch(
    rgb: np.ndarray,
    masks: np.ndarray,
    scenes: list[Scene],
    preprocess: Preprocess,
    grid: int,
    rng: np.random.Generator,
    flips: float = 0.0,
) -> LabelBatch:
    """Pictures (N, S, S, 3) with which of `LABELS` hold, and for each patch the words for what it shows; flips as in
    `contrastive_batch`."""
    rgb, holds, targets = np.array(rgb), [], []
    for index, (mask, scene) in enumerate(zip(masks, scenes, strict=True)):
        rgb[index], mask, scene = _mirrored(rgb[index], mask, scene, rng, flips)
        holds.append(labels(scene))
        targets.append(_patch_words(mask, scene, grid, rng))
    words = torch.from_numpy(np.stack(targets).astype(np.int64))
    return LabelBatch(preprocess.normalise(rgb), torch.from_numpy(np.stack(holds)), SLOT_BOUNDS, words)


def labels(scene: Scene) -> np.ndarray:
    """Which of `LABELS` hold in a scene, bool (len(LABELS),)."""
    said = {
        f"{word} {item.kind}".strip() for item in scene.objects for word in ("", item.colour, item.size, item.material)
    }
    return np.array([label in said for label in LABELS])


def _mirrored(
    rgb: np.ndarray, mask: np.ndarray, scene: Scene, rng: np.random.Generator, share: float
) -> tuple[np.ndarray, np.ndarray, Scene]:
    """A picture with its mask and scene; mirrored, all three, in a share of cases."""
    if rng.random() < share:
        return rgb[:, ::-1].copy(), mask[:, ::-1], scene.twin("mirror")
    return rgb, mask, scene


def _patch_words(mask: np.ndarray, scene: Scene, grid: int, rng: np.random.Generator) -> np.ndarray:
    """The word map of a picture, without most of its bare patches."""
    cells = word_map(scene, mask, grid)
    bare = cells[:, _KIND] == WORDS.index("floor")
    cells[bare & (rng.random(bare.shape) > FLOOR)] = -1
    return cells


def _caption(scene: Scene, rng: np.random.Generator) -> str:
    if rng.random() < 0.6:
        return caption(scene, "dense")
    facts = sentences(scene)
    few = [facts[i] for i in rng.permutation(len(facts))[:2]]
    return " ".join([caption(scene, "short"), *few])


def language_hidden(language: Llama | Mamba, batch: Packed, image_id: int) -> Tensor:
    """Hidden states (B, L, D) of a packed batch of text, or of word maps, whose cells are sums of word embeddings."""
    embeds = language.embed(batch.ids)
    if batch.words is not None:
        known = (batch.words >= 0)[..., None]
        cells = (language.embed(batch.words.clamp(min=0)) * known).sum(2)  # (B, P, D)
        embeds = embeds.masked_scatter((batch.ids == image_id)[..., None], cells)
    return language.hidden(inputs_embeds=embeds, segments=batch.segment)


def language_loss(language: Llama | Mamba, batch: Packed, image_id: int) -> tuple[Tensor, dict[str, float], int]:
    """Cross-entropy of a packed batch's answers, the share of answer tokens predicted, and how many these are."""
    hidden = language_hidden(language, batch, image_id)
    learn = batch.labels[:, 1:] != IGNORE
    logits = language.head(hidden[:, :-1][learn])
    targets = batch.labels[:, 1:][learn]
    share = float((logits.argmax(-1) == targets).float().mean())
    return F.cross_entropy(logits.float(), targets), {"tokens": share}, len(targets)


@torch.no_grad()
def answers_right(logits: Tensor, batch: Packed) -> dict[str, Tensor]:
    """For each kind, which of the batch's questions have every answer token predicted (given those before it).

    logits (B, L, V). The quick figure watched while training; the accuracy that is reported comes from generation.
    """
    predicted = logits[:, :-1].argmax(-1)
    labelled = batch.labels[:, 1:] != IGNORE
    wrong = (predicted != batch.labels[:, 1:]) & labelled
    segment = batch.segment[:, 1:]
    B, top = segment.shape[0], int(segment.max()) + 1
    slot = torch.arange(B, device=segment.device)[:, None] * top + segment.clamp(min=0)
    errors = torch.zeros(B * top, device=segment.device).scatter_add_(0, slot.flatten(), wrong.float().flatten())
    kind = torch.full((B * top,), -1, device=segment.device).scatter_reduce_(
        0, slot.flatten(), batch.kinds[:, 1:].flatten(), "amax"
    )
    return {name: errors[kind == i] == 0 for i, name in enumerate(KINDS) if bool((kind == i).any())}
