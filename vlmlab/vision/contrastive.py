"""Contrastive pretraining of an image encoder on pictures and their captions. Notebook 01.

Two losses. CLIP's compares whole pictures with captions (Radford et al. 2021, figure 3). The region loss compares the
patches under one object with a phrase about it, as RegionCLIP does (Zhong et al. 2022, arXiv 2112.09106, section 3.3):
without it a tiny encoder names what is in a picture long before it knows where, and LLaVA reads patches.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlmlab.vision.vit import ViT

MAX_SCALE = 100.0  # CLIP's bound on exp(logit_scale)


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
    """pixels (B, 3, H, W); captions (B, L) ids; regions (R, P) share of each patch under an object; owner (R,) its
    picture; phrases (K, L) ids of the different phrases; phrase (R,) which of them fits each region."""

    pixels: Tensor
    captions: Tensor
    regions: Tensor
    owner: Tensor
    phrases: Tensor
    phrase: Tensor


class ContrastiveModel(nn.Module):
    """An encoder, a text tower and the projections that only pretraining needs.

    layer: the hidden state whose patches meet the phrases; -2, the one that LLaVA reads.
    """

    def __init__(self, vision: ViT, text: TextTower, dim: int = 128, layer: int = -2):
        super().__init__()
        self.vision, self.text, self.layer = vision, text, layer
        self.image_projection = nn.Linear(vision.dim, dim, bias=False)
        self.region_norm = nn.LayerNorm(vision.dim)
        self.region_projection = nn.Linear(vision.dim, dim, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        self.region_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def image_embeddings(self, pixels: Tensor) -> Tensor:
        """Unit vectors (B, D) of whole pictures."""
        return F.normalize(self.image_projection(self.vision.pooled(pixels)), dim=-1)

    def text_embeddings(self, ids: Tensor) -> Tensor:
        """Unit vectors (B, D) of texts."""
        return F.normalize(self.text(ids), dim=-1)

    def forward(self, batch: ContrastiveBatch, region_weight: float = 1.0) -> tuple[Tensor, dict[str, float]]:
        """The weighted sum of both losses, and what share of pictures and regions finds its own text first."""
        states = self.vision.hidden_states(batch.pixels)
        pooled = self.vision.norm(states[-1][:, 0])
        images = F.normalize(self.image_projection(pooled), dim=-1)
        captions = self.text_embeddings(batch.captions)
        logits = images @ captions.T * self.logit_scale.exp().clamp(max=MAX_SCALE)
        loss = clip_loss(logits)
        right = (logits.argmax(-1) == torch.arange(len(logits), device=logits.device)).float().mean()
        patches = states[self.layer][:, self.vision.prefix_tokens :]  # (B, P, D)
        regions = torch.einsum("rp,rpd->rd", batch.regions, patches[batch.owner])
        regions = F.normalize(self.region_projection(self.region_norm(regions)), dim=-1)
        phrases = self.text_embeddings(batch.phrases)  # (K, D)
        scores = regions @ phrases.T * self.region_scale.exp().clamp(max=MAX_SCALE)
        region = F.cross_entropy(scores, batch.phrase)
        named = (scores.argmax(-1) == batch.phrase).float().mean()
        values = {"clip": loss, "retrieval": right, "region": region, "phrase": named}
        metrics = {name: float(value.detach()) for name, value in values.items()}
        return loss + region_weight * region, metrics


def clip_loss(logits: Tensor) -> Tensor:
    """CLIP's symmetric cross-entropy: pictures find their captions (rows) and captions their pictures (columns).

    logits (B, B): similarity times scale. Source: Radford et al. 2021, figure 3.
    """
    target = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def pad_ids(rows: Sequence[Sequence[int]], pad_id: int) -> Tensor:
    """Lists of ids as one tensor (B, L), padded behind."""
    length = max(len(row) for row in rows)
    return torch.tensor([[*row, *[pad_id] * (length - len(row))] for row in rows])
