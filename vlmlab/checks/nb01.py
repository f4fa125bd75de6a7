"""Checks of notebook 01: patches put back, SigLIP's loss, prompt ensembles, the parameters of a ViT."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vlmlab.checks.base import Case, Mistake, Verdict, run_check


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------- 1 · patches put back
def _tiles(patches: Tensor, p: int) -> Tensor:
    grid = round(patches.shape[0] ** 0.5)
    return patches.reshape(grid, grid, 3, p, p)


def _joined(tiles: Tensor) -> Tensor:
    """(rows, columns, 3, p, p) -> (3, rows * p, columns * p)."""
    rows, columns, _, p, _ = tiles.shape
    return tiles.permute(2, 0, 3, 1, 4).reshape(3, rows * p, columns * p)


def _unpatchify(patches: Tensor, p: int) -> Tensor:
    return _joined(_tiles(patches, p))


def _channels_last(patches: Tensor, p: int) -> Tensor:
    grid = round(patches.shape[0] ** 0.5)
    return _joined(patches.reshape(grid, grid, p, p, 3).permute(0, 1, 4, 2, 3))


def unpatchify(answer: Any) -> Verdict:
    """Exercise 1: patches (P, 3 * p * p) of a square picture back to the picture (3, H, W)."""
    return run_check(
        "unpatchify",
        answer,
        _unpatchify,
        [
            Case((_random(4, 12), 2), "a picture of 4 x 4 pixels"),
            Case((_random(9, 48, seed=1), 4), "a picture of 12 x 12 pixels"),
        ],
        [
            Mistake(
                "reshape alone",
                "a reshape alone keeps the order of the numbers and so mixes pixels of different patches; permute the "
                "axes to (3, rows, p, columns, p) first",
                lambda patches, p: patches.reshape(
                    3, round(patches.shape[0] ** 0.5) * p, round(patches.shape[0] ** 0.5) * p
                ),
            ),
            Mistake(
                "rows and columns of patches exchanged",
                "the patches go down first and then to the right; they are numbered row by row",
                lambda patches, p: _joined(_tiles(patches, p).transpose(0, 1)),
            ),
            Mistake(
                "pixels transposed",
                "each patch is flipped along its diagonal; the last axis holds neighbours in a row",
                lambda patches, p: _joined(_tiles(patches, p).transpose(-1, -2)),
            ),
            Mistake(
                "channels last inside",
                "it reads a patch as (p, p, 3); patchify wrote it as (3, p, p)",
                _channels_last,
            ),
            Mistake(
                "channels last",
                "the picture comes out as (H, W, 3); the channels belong in front",
                lambda patches, p: _unpatchify(patches, p).permute(1, 2, 0),
            ),
            Mistake(
                "batch axis",
                "there is one axis too many; give one picture back, (3, H, W)",
                lambda patches, p: _unpatchify(patches, p)[None],
            ),
        ],
        done="right; every pixel is back in its place",
    )


# ---------------------------------------------------------------- 2 · SigLIP's loss
def _signs(logits: Tensor) -> Tensor:
    return 2 * torch.eye(len(logits)) - 1


def _sigmoid_loss(logits: Tensor) -> Tensor:
    return -F.logsigmoid(_signs(logits) * logits).sum() / len(logits)


def _clip_loss(logits: Tensor) -> Tensor:
    target = torch.arange(len(logits))
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def sigmoid_loss(answer: Any) -> Verdict:
    """Exercise 2: SigLIP's loss of logits (B, B) (Zhai et al. 2023, equation 1)."""
    return run_check(
        "sigmoid_loss",
        answer,
        _sigmoid_loss,
        [Case((3 * _random(4, 4),), "a batch of 4"), Case((5 * _random(7, 7, seed=1) - 2,), "a batch of 7")],
        [
            Mistake(
                "mean over all pairs",
                "it divides by B²; the paper sums over all pairs and divides by B",
                lambda logits: _sigmoid_loss(logits) / len(logits),
            ),
            Mistake(
                "matching pairs only",
                "only the diagonal counts; the pairs that do not match belong in the sum, with z = -1",
                lambda logits: -F.logsigmoid(logits.diagonal()).mean(),
            ),
            Mistake(
                "zeros instead of minus ones",
                "pairs that do not match are multiplied by 0 and then cost log 2 whatever their logits; z is -1 there",
                lambda logits: -F.logsigmoid(torch.eye(len(logits)) * logits).sum() / len(logits),
            ),
            Mistake(
                "all pairs match",
                "every pair counts as a match; z is +1 on the diagonal alone and -1 elsewhere",
                lambda logits: -F.logsigmoid(logits).sum() / len(logits),
            ),
            Mistake("sign", "the sign is turned: a loss is the negative log-probability", lambda x: -_sigmoid_loss(x)),
            Mistake(
                "softmax",
                "this is CLIP's loss with a softmax over the batch; SigLIP judges each pair by itself",
                _clip_loss,
            ),
            Mistake(
                "no mean",
                "it is not divided by B",
                lambda logits: _sigmoid_loss(logits) * len(logits),
            ),
        ],
        done="right; no pair needs to know of the others",
    )


# ---------------------------------------------------------------- 3 · prompt ensembles
def _class_embeddings(texts: Tensor) -> Tensor:
    return F.normalize(F.normalize(texts, dim=-1).mean(1), dim=-1)


def class_embeddings(answer: Any) -> Verdict:
    """Exercise 3: embeddings of K classes in T templates (K, T, D) to one unit vector a class (K, D)."""
    lengths = 0.2 + 3 * _random(3, 5, 1, seed=2).abs()
    return run_check(
        "class_embeddings",
        answer,
        _class_embeddings,
        [
            Case((_random(3, 5, 8) * lengths,), "3 classes in 5 templates"),
            Case((_random(2, 4, 6, seed=1) * lengths[:2, :4],), "2 classes in 4 templates"),
        ],
        [
            Mistake(
                "mean over classes",
                "it averages over the classes; average over the templates, axis 1",
                lambda texts: F.normalize(F.normalize(texts, dim=-1).mean(0), dim=-1),
            ),
            Mistake(
                "not normalised before",
                "long vectors count more than short ones; make every embedding a unit vector before the mean",
                lambda texts: F.normalize(texts.mean(1), dim=-1),
            ),
            Mistake(
                "not normalised after",
                "the mean of unit vectors is shorter than 1; normalise it once more",
                lambda texts: F.normalize(texts, dim=-1).mean(1),
            ),
            Mistake("never normalised", "the plain mean: normalise before and after", lambda texts: texts.mean(1)),
            Mistake(
                "wrong axis of the norm",
                "the norm is taken over the templates; it belongs over the channels, dim=-1",
                lambda texts: F.normalize(F.normalize(texts, dim=1).mean(1), dim=-1),
            ),
        ],
    )


# ---------------------------------------------------------------- 4 · parameters of a ViT
def _vit_parameters(
    image: int,
    patch: int,
    dim: int,
    layers: int,
    hidden: int,
    *,
    class_position: bool = True,
    class_token: bool = True,
    patch_bias: bool = False,
    biases: bool = True,
    norms: bool = True,
    projection: bool = True,
    outer: bool = True,
) -> int:
    tokens = (image // patch) ** 2
    linear = [(dim, 3 * dim), (dim, hidden), (hidden, dim)] + ([(dim, dim)] if projection else [])
    block = sum(a * b + (b if biases else 0) for a, b in linear) + (4 * dim if norms else 0)
    first = 3 * patch * patch * dim + (dim if patch_bias else 0)
    positions = (tokens + class_position) * dim + (dim if class_token else 0)
    return first + positions + layers * block + (4 * dim if norms and outer else 0)


def vit_parameters(answer: Any) -> Verdict:
    """Exercise 4: the parameters of a CLIP-style ViT, counted by hand."""

    def without(**changes: bool) -> Any:
        return lambda *sizes: _vit_parameters(*sizes, **changes)

    return run_check(
        "vit_parameters",
        answer,
        _vit_parameters,
        [
            Case((96, 12, 192, 6, 768), "the encoder of llava-tiny"),
            Case((336, 14, 1024, 24, 4096), "CLIP ViT-L/14 at 336 px"),
        ],
        [
            Mistake(
                "class token counted once",
                "D numbers are missing: the class token has a vector and a position embedding (P + 1 positions)",
                without(class_position=False),
            ),
            Mistake(
                "neither class token nor its position",
                "the class token (D numbers) and its position (D more) are missing",
                without(class_token=False, class_position=False),
            ),
            Mistake("patch bias", "CLIP's patch embedding has no bias", without(patch_bias=True)),
            Mistake("no biases", "the linear layers of a block have biases", without(biases=False)),
            Mistake(
                "no norms",
                "the norms are missing: each has 2 D numbers, two a block and two outside",
                without(norms=False),
            ),
            Mistake(
                "no outer norms",
                "two norms lie outside the blocks, before the first and after the last",
                without(outer=False),
            ),
            Mistake(
                "no output projection", "attention also has an output projection, D x D", without(projection=False)
            ),
        ],
        tolerance=0.0,
    )
