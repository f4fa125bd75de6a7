"""Pretraining of an encoder by multi-label classification: what is in the picture, and what is where. Notebook 10.

MambaVision is pretrained by naming what a picture shows (ImageNet-1K, arXiv 2407.08083, section 4); a scene has several
objects, so several labels hold at once, each judged by itself. As in `vlmlab.vision.contrastive`, a second loss asks
every patch for the words that fit it, here by a linear layer, since no text is read.
"""

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from vlmlab.errors import BadInput
from vlmlab.vision.contrastive import word_loss
from vlmlab.vision.mambavision import MambaVision


class LabelBatch(NamedTuple):
    """pixels (B, 3, H, W); labels (B, K) True where a label holds; slots, targets: of the patches' words, see
    `vlmlab.vision.contrastive.ContrastiveBatch`."""

    pixels: Tensor
    labels: Tensor
    slots: tuple[int, ...]
    targets: Tensor


class MultiLabelModel(nn.Module):
    """A MambaVision whose head gives the labels, and the linear layer by which its tokens of level 2 give words.

    Raises BadInput for an encoder without a head.
    """

    def __init__(self, vision: MambaVision, words: int, level: int = 2):
        super().__init__()
        if vision.head is None:
            raise BadInput("classification needs an encoder with a head: num_classes is the number of labels")
        self.vision, self.level = vision, level
        channels = vision.config.channels(level)
        self.token_norm, self.token_head = nn.LayerNorm(channels), nn.Linear(channels, words)
        nn.init.constant_(vision.head.bias, -3.0)  # few labels hold

    def forward(self, batch: LabelBatch, word_weight: float = 3.0) -> tuple[Tensor, dict[str, float]]:
        """The labels' cross-entropy, for each label that holds, plus `word_weight` times the word loss. Metrics: both,
        the F1 score of labels above one half, and how often each slot's right word wins."""
        states = self.vision.hidden_states(batch.pixels)
        logits = self.vision.head(self.vision.pool_tokens(states[-1])).float()  # type: ignore[misc]
        holds = batch.labels.float()
        named = F.binary_cross_entropy_with_logits(logits, holds, reduction="sum") / holds.sum().clamp(min=1)
        scores = self.token_head(self.token_norm(states[self.level]))  # (B, P, W)
        words, shares = word_loss(scores, batch.targets, batch.slots)
        said = logits.detach() > 0
        f1 = 2 * (said & batch.labels).sum() / (said.sum() + batch.labels.sum()).clamp(min=1)
        metrics = {"labels": float(named.detach()), "f1": float(f1), "words": float(words.detach())}
        return named + word_weight * words, metrics | {f"slot {i}": share for i, share in enumerate(shares)}
