"""Multi-label classification: labels are what the scene holds, the loss is what it says, the model learns."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vlmlab.errors import BadInput
from vlmlab.scenes import sample
from vlmlab.vision import MambaVision, MambaVisionConfig, Preprocess
from vlmlab.vision.classification import MultiLabelModel
from vlmlab.vision.contrastive import word_loss
from vlmlab.vlm.conversations import WORDS
from vlmlab.vlm.pretraining import LABELS, label_batch, labels

SMALL = MambaVisionConfig(
    8, 8, (1, 1, 2, 1), (2, 2), (8, 4), num_classes=len(LABELS), image_size=96, stem_strides=(3, 1)
)
SCENES = [sample(seed) for seed in range(8)]


def make(flips=0.0):
    shown = [scene.render(96) for scene in SCENES]
    rgb, masks = (np.stack([getattr(each, name) for each in shown]) for name in ("rgb", "mask"))
    preprocess = Preprocess(96, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    return label_batch(rgb, masks, SCENES, preprocess, 8, np.random.default_rng(0), flips)


def test_labels_are_what_the_scene_holds():
    assert len(set(LABELS)) == len(LABELS)
    for scene in SCENES:
        told = {label for label, holds in zip(LABELS, labels(scene), strict=True) if holds}
        for item in scene.objects:
            assert {item.kind, f"{item.colour} {item.kind}", f"{item.size} {item.kind}"} <= told
            assert f"{item.material} {item.kind}" in told
        assert {label.split()[-1] for label in told} == {item.kind for item in scene.objects}
        assert len(told) <= 4 * len(scene.objects)


def test_a_mirrored_picture_has_the_same_labels_and_its_words_mirrored():
    plain, turned = make(), make(flips=1.0)
    assert torch.equal(plain.labels, turned.labels)
    assert torch.equal(plain.pixels, turned.pixels.flip(-1))
    colour = [plain.targets[..., 2].view(8, 8, 8), turned.targets[..., 2].view(8, 8, 8).flip(-1)]
    both = (colour[0] >= 0) & (colour[1] >= 0)
    assert both.sum() > 20
    assert torch.equal(colour[0][both], colour[1][both])


def test_the_loss_is_that_of_labels_and_of_words():
    torch.manual_seed(0)
    model, batch = MultiLabelModel(MambaVision(SMALL), len(WORDS)).eval(), make()
    with torch.no_grad():
        loss, metrics = model(batch, word_weight=2.0)
        logits, tokens = model.vision(batch.pixels), model.vision.features(batch.pixels, 2)
        each = F.binary_cross_entropy_with_logits(logits, batch.labels.float(), reduction="none")
        scores = model.token_head(model.token_norm(tokens))
        words, _ = word_loss(scores, batch.targets, batch.slots)
    assert loss == pytest.approx(float(each.sum() / batch.labels.sum() + 2 * words), rel=1e-5)
    assert metrics["f1"] == 0.0  # nothing is above one half yet


def test_the_model_learns_a_batch_by_heart():
    torch.manual_seed(0)
    model, batch = MultiLabelModel(MambaVision(SMALL), len(WORDS)), make()
    optimizer = torch.optim.AdamW(model.parameters(), 5e-3)
    first = None
    for _ in range(40):
        loss, metrics = model(batch)
        first = first or metrics
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert first["f1"] == 0
    assert metrics["f1"] > 0.1
    assert metrics["labels"] < 0.7 * first["labels"]
    assert metrics["words"] < 0.2 * first["words"]


def test_an_encoder_without_a_head_is_refused():
    with pytest.raises(BadInput, match="num_classes"):
        MultiLabelModel(MambaVision.from_variant("tiny", num_classes=0), len(WORDS))
