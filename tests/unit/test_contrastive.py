"""Contrastive pretraining: CLIP's loss, the word loss, and that a batch describes the pictures it shows."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from vlmlab.errors import UnknownName
from vlmlab.language.tokenizer import Tokenizer
from vlmlab.scenes import sample
from vlmlab.vision.contrastive import ContrastiveModel, TextTower, clip_loss, siglip_loss, word_loss
from vlmlab.vision.vit import ViT
from vlmlab.vlm.conversations import SLOTS, WORDS, word_map
from vlmlab.vlm.model import VLM
from vlmlab.vlm.presets import get_preset
from vlmlab.vlm.pretraining import FLOOR, SLOT_BOUNDS, contrastive_batch
from vlmlab.vlm.recipes.encoders import encoder_config

SCENES = [sample(seed) for seed in range(8)]
RENDERS = [scene.render(96) for scene in SCENES]
CONFIG = get_preset("llava-tiny")


@pytest.fixture(scope="module")
def words() -> Tokenizer:
    return Tokenizer.train([" " + scene.caption("full") for scene in SCENES] + [" " + " ".join(WORDS)], 600)


def make(words: Tokenizer, flips: float = 0.0):
    rgb, masks = (np.stack([getattr(render, name) for render in RENDERS]) for name in ("rgb", "mask"))
    preprocess = VLM.from_preset(CONFIG, "meta").preprocess
    return contrastive_batch(rgb, masks, SCENES, words, preprocess, 8, np.random.default_rng(0), flips)


def test_word_loss_by_hand():
    scores = torch.tensor([[[2.0, 0.0, 1.0, 1.0, 1.0], [0.0, 3.0, 5.0, 5.0, 5.0]]])  # (1, 2 patches, 2 + 3 words)
    targets = torch.tensor([[[0, -1], [0, 3]]])
    loss, shares = word_loss(scores, targets, (0, 2, 5))
    first = (math.log(1 + math.exp(-2)) + math.log(1 + math.exp(3))) / 2
    assert loss.item() == pytest.approx((first + math.log(3)) / 2)
    assert shares[0] == 0.5
    none, shares = word_loss(scores, torch.full((1, 2, 2), -1), (0, 2, 5))
    assert none.item() == 0
    assert shares == [0.0, 0.0]


def test_clip_loss_of_perfect_and_of_blind_embeddings():
    assert clip_loss(torch.zeros(8, 8)).item() == pytest.approx(math.log(8))
    assert clip_loss(100 * torch.eye(8)).item() == pytest.approx(0, abs=1e-6)


def test_targets_are_the_word_maps_with_some_of_the_floor(words):
    batch = make(words)
    kept = []
    for target, scene, render in zip(batch.targets, SCENES, RENDERS, strict=True):
        cells = torch.from_numpy(word_map(scene, render.mask).astype(np.int64))
        bare = cells[:, 3] == WORDS.index("floor")
        assert torch.equal(target[~bare], cells[~bare])
        assert all(torch.equal(a, b) or bool((a == -1).all()) for a, b in zip(target, cells, strict=True))
        kept.append(float((target[bare, 3] >= 0).float().mean()))
    assert abs(np.mean(kept) - FLOOR) < 0.1
    for slot, (first, last) in enumerate(pairwise(SLOT_BOUNDS)):
        found = batch.targets[..., slot][batch.targets[..., slot] >= 0]
        assert first <= int(found.min())
        assert int(found.max()) < last
    assert len(SLOT_BOUNDS) == len(SLOTS) + 1


def test_a_mirrored_picture_is_described_as_the_mirrored_scene(words):
    plain, mirrored = make(words), make(words, flips=1.0)
    assert torch.equal(mirrored.pixels, plain.pixels.flip(-1))
    facing, column = list(SLOTS).index("facing"), list(SLOTS).index("column")
    swap = {WORDS.index("left"): WORDS.index("right"), WORDS.index("right"): WORDS.index("left")}
    turned = 0
    for index, (scene, render) in enumerate(zip(SCENES, RENDERS, strict=True)):
        before = word_map(scene, render.mask).reshape(8, 8, -1)[:, ::-1]
        after = mirrored.targets[index].reshape(8, 8, -1).numpy()
        for a, b in zip(before.reshape(64, -1), after.reshape(64, -1), strict=True):
            if b[0] >= 0 and a[0] >= 0:  # object patches, which are never left out
                assert a[:facing].tolist() == b[:facing].tolist()
                assert swap.get(int(a[facing]), int(a[facing])) == b[facing]
                assert a[column] + b[column] == 2 * SLOT_BOUNDS[column] + 7
                turned += int(a[facing]) in swap
    assert turned > 0


def learn_by_heart(model: ContrastiveModel, batch) -> tuple[dict[str, float], dict[str, float]]:
    """25 steps on one batch; the first metrics and the last."""
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    first = None
    for _ in range(25):
        loss, metrics = model(batch)
        first = first or metrics
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return first, metrics


def test_the_model_learns_a_batch_by_heart(words):
    torch.manual_seed(0)
    model = ContrastiveModel(ViT(CONFIG.vision), TextTower(words.vocab_size, words.pad_id))
    first, metrics = learn_by_heart(model, make(words))
    assert metrics["retrieval"] == 1.0
    assert metrics["words"] < 0.5 * first["words"]


def test_siglip_loss_by_hand():
    logits = torch.tensor([[2.0, -1.0], [0.5, 1.0]])
    wrong = [
        math.log(1 + math.exp(-2)),
        math.log(1 + math.exp(-1)),
        math.log(1 + math.exp(0.5)),
        math.log(1 + math.exp(-1)),
    ]
    assert siglip_loss(logits).item() == pytest.approx(sum(wrong) / 2)


def test_siglips_model_starts_from_its_papers_scale_and_bias_and_learns(words):
    torch.manual_seed(0)
    config = encoder_config(get_preset("cobra-tiny"), "siglip")
    model = ContrastiveModel(ViT(config), TextTower(words.vocab_size, words.pad_id), objective="siglip")
    assert model.logit_scale.exp().item() == pytest.approx(10)
    assert model.logit_bias.item() == -10
    first, metrics = learn_by_heart(model, make(words))
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in model.parameters())
    assert metrics["siglip"] < first["siglip"]
    assert metrics["words"] < 0.6 * first["words"]
    with pytest.raises(UnknownName, match="objective"):
        ContrastiveModel(ViT(config), TextTower(words.vocab_size, words.pad_id), objective="sigclip")
