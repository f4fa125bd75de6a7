"""Linear probes: what a linear map reads from an encoder's patches. Notebooks 08 and 14.

A probe that fails where the model succeeds says nothing; one that succeeds where the model fails says that the fact is
encoded and not read out. Source: Alain and Bengio 2016 (arXiv 1610.01644).
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from vlmlab.errors import BadInput


def ridge(x: Tensor, y: Tensor, penalty: float = 1e-3) -> Tensor:
    """Weights (D + 1, K), the last row the bias, of ridge regression from x (M, D) to y (M, K).

    penalty: relative to the mean variance of a channel; the bias is not penalised. Computed in float64.
    """
    if len(x) != len(y) or not len(x):
        raise BadInput(f"a probe needs as many targets as inputs, at least one; got {len(y)} and {len(x)}")
    x, y = x.double(), y.double()
    x_mean, y_mean = x.mean(0), y.mean(0)
    x, y = x - x_mean, y - y_mean
    gram = x.T @ x
    gram.diagonal().add_(penalty * gram.diagonal().mean() + 1e-12)
    weight = torch.linalg.solve(gram, x.T @ y)
    return torch.cat([weight, (y_mean - x_mean @ weight)[None]])


def classify(weights: Tensor, x: Tensor) -> Tensor:
    """Scores (M, K) of inputs (M, D) under a probe."""
    return x.double() @ weights[:-1] + weights[-1]


def probe_words(tokens: Tensor, targets: Tensor, slots: Sequence[str], fit: int) -> dict[str, float]:
    """For each slot, the share of held-out patches whose word a ridge classifier gets right.

    tokens (N, P, D); targets (N, P, S), word indices, -1 where a slot has none. Patches of the floor, which have no
    word in the first slot, are left out. The first `fit` pictures fit the probe, the others test it. A slot that has no
    patch on one of the sides is left out.
    """
    known = targets[..., 0] >= 0
    before, after = tokens[:fit][known[:fit]], tokens[fit:][known[fit:]]
    found = {}
    for slot, name in enumerate(slots):
        words, answers = targets[:fit][known[:fit]][:, slot], targets[fit:][known[fit:]][:, slot]
        usable, asked = words >= 0, answers >= 0
        if not usable.any() or not asked.any():
            continue
        classes = words[usable].unique()
        one_hot = F.one_hot(torch.searchsorted(classes, words[usable]), len(classes))
        told = classes[classify(ridge(before[usable], one_hot), after[asked]).argmax(-1)]
        found[name] = round(float((told == answers[asked]).double().mean()), 4)
    return found
