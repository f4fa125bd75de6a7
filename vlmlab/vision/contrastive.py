"""Contrastive pretraining of an image encoder on pictures and their captions. Notebooks 01 and 08.

Two losses. The first compares whole pictures with captions: CLIP's makes each picture choose among the captions of
the batch (Radford et al. 2021, figure 3), SigLIP's asks of every pair whether it belongs together (Zhai et al. 2023,
algorithm 1). The word loss compares each patch with the words for what it shows and where it is, as GLIP aligns
regions with words (Li et al. 2022, arXiv 2112.03857, section 3.1): without it a tiny encoder names what is in a
picture long before it knows where, and LLaVA reads patches.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlmlab.errors import UnknownName
from vlmlab.vision.vit import ViT

MAX_SCALE = 100.0  # CLIP's bound on exp(logit_scale)
OBJECTIVES = ("clip", "siglip")


class TextTower(nn.Module):
    """A small bidirectional transformer: ids (B, L) with pad_id behind the text -> embeddings (B, D)."""

    def __init__(
        self, vocab_size: int, pad_id: int, dim: int = 128, layers: int = 2, heads: int = 4, max_length: int = 96
    ):
        super().__init__()
        self.pad_id, self.max_length = pad_id, max_length
        self.embed = nn.Embedding(vocab_size, dim)
        self.positions = nn.Parameter(0.02 * torch.randn(max_length, dim))
        layer = nn.TransformerEncoderLayer(dim, heads, 4 * dim, 0.0, "gelu", batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(dim)
        nn.init.normal_(self.embed.weight, std=0.02)

    def forward(self, ids: Tensor) -> Tensor:
        ids = ids[:, : self.max_length]
        real = ids != self.pad_id  # (B, L)
        x = self.embed(ids) + self.positions[: ids.shape[1]]
        x = self.norm(self.blocks(x, src_key_padding_mask=~real))  # (B, L, D)
        return (x * real[..., None]).sum(1) / real.sum(1, keepdim=True)


class ContrastiveBatch(NamedTuple):
    """pixels (B, 3, H, W); captions (B, L) ids; words (W, L') ids of the words that patches choose among; slots, S + 1
    numbers that cut them into sets of which at most one word fits; targets (B, P, S) which of W, -1 where none does."""

    pixels: Tensor
    captions: Tensor
    words: Tensor
    slots: tuple[int, ...]
    targets: Tensor


class ContrastiveModel(nn.Module):
    """An encoder, a text tower and the projections that only pretraining needs.

    layer: the hidden state whose patches meet the words; -2, the one that LLaVA reads. objective: one of `OBJECTIVES`.
    Raises UnknownName for another.
    """

    def __init__(self, vision: ViT, text: TextTower, dim: int = 128, layer: int = -2, objective: str = "clip"):
        super().__init__()
        if objective not in OBJECTIVES:
            raise UnknownName("objective", objective, OBJECTIVES)
        self.vision, self.text, self.layer, self.objective = vision, text, layer, objective
        self.image_projection = nn.Linear(vision.dim, dim, bias=False)
        self.patch_norm = nn.LayerNorm(vision.dim)
        self.patch_projection = nn.Linear(vision.dim, dim, bias=False)
        sigmoid = objective == "siglip"
        self.logit_scale = nn.Parameter(torch.tensor(math.log(10 if sigmoid else 1 / 0.07)))
        self.logit_bias = nn.Parameter(torch.tensor(-10.0)) if sigmoid else None  # nearly all pairs do not fit
        self.word_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def image_embeddings(self, pixels: Tensor) -> Tensor:
        """Unit vectors (B, D) of whole pictures."""
        return F.normalize(self.image_projection(self.vision.pooled(pixels)), dim=-1)

    def text_embeddings(self, ids: Tensor) -> Tensor:
        """Unit vectors (B, D) of texts."""
        return F.normalize(self.text(ids), dim=-1)

    def patch_embeddings(self, patches: Tensor) -> Tensor:
        """Unit vectors (..., D) of patch tokens (..., D_v) of hidden state `layer`."""
        return F.normalize(self.patch_projection(self.patch_norm(patches)), dim=-1)

    def forward(self, batch: ContrastiveBatch, word_weight: float = 3.0) -> tuple[Tensor, dict[str, float]]:
        """The objective's loss plus `word_weight` times the word loss; metrics: both, and what share of pictures finds
        its own caption first ("retrieval") and of patches the right word of each slot ("slot 0", ...)."""
        states = self.vision.hidden_states(batch.pixels)
        images = F.normalize(self.image_projection(self.vision.pool_tokens(states[-1])), dim=-1)
        logits = images @ self.text_embeddings(batch.captions).T * self.logit_scale.exp().clamp(max=MAX_SCALE)
        pairs = clip_loss(logits) if self.logit_bias is None else siglip_loss(logits + self.logit_bias)
        right = (logits.argmax(-1) == torch.arange(len(logits), device=logits.device)).float().mean()
        patches = self.patch_embeddings(states[self.layer][:, self.vision.prefix_tokens :])  # (B, P, D)
        scores = patches @ self.text_embeddings(batch.words).T * self.word_scale.exp().clamp(max=MAX_SCALE)
        words, shares = word_loss(scores, batch.targets, batch.slots)
        metrics = {self.objective: float(pairs.detach()), "retrieval": float(right), "words": float(words.detach())}
        return pairs + word_weight * words, metrics | {f"slot {i}": share for i, share in enumerate(shares)}


def word_loss(scores: Tensor, targets: Tensor, slots: Sequence[int]) -> tuple[Tensor, list[float]]:
    """Mean over slots of the cross-entropy of the fitting word among the slot's words, and how often it wins.

    scores (B, P, W) of patches and words; targets and slots as in `ContrastiveBatch`. A slot without any target in the
    batch counts as 0.
    """
    losses, shares = [], []
    for slot, (first, last) in enumerate(pairwise(slots)):
        known = targets[..., slot] >= 0
        logits, target = scores[..., first:last][known].float(), targets[..., slot][known] - first
        losses.append(F.cross_entropy(logits, target) if len(target) else scores.sum() * 0)
        shares.append(float((logits.argmax(-1) == target).float().mean()) if len(target) else 0.0)
    return torch.stack(losses).mean(), shares


def clip_loss(logits: Tensor) -> Tensor:
    """CLIP's symmetric cross-entropy: pictures find their captions (rows) and captions their pictures (columns).

    logits (B, B): similarity times scale. Source: Radford et al. 2021, figure 3.
    """
    target = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def siglip_loss(logits: Tensor) -> Tensor:
    """SigLIP's sigmoid loss: each of the B * B pairs is judged by itself, summed and divided by B.

    logits (B, B): similarity times scale plus bias. Source: Zhai et al. 2023 (arXiv 2303.15343), algorithm 1.
    """
    fits = 2 * torch.eye(len(logits), device=logits.device) - 1  # 1 on the diagonal, -1 elsewhere
    return -F.logsigmoid(fits * logits.float()).sum() / len(logits)


def pad_ids(rows: Sequence[Sequence[int]], pad_id: int) -> Tensor:
    """Lists of ids as one tensor (B, L), padded behind."""
    length = max(len(row) for row in rows)
    return torch.tensor([[*row, *[pad_id] * (length - len(row))] for row in rows])
