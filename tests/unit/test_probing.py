"""Linear probes: the closed form against least squares, and what a probe can and cannot read."""

import pytest
import torch

from vlmlab.errors import BadInput
from vlmlab.vision.probing import classify, probe_words, ridge


def test_without_a_penalty_it_is_least_squares():
    torch.manual_seed(0)
    x, y = torch.randn(50, 4).double(), torch.randn(50, 3).double()
    expected = torch.linalg.lstsq(torch.cat([x, torch.ones(50, 1)], 1), y).solution
    assert torch.allclose(ridge(x, y, penalty=0.0), expected, atol=1e-9)


def test_the_penalty_shrinks_the_weights_and_not_the_bias():
    torch.manual_seed(0)
    x = torch.randn(200, 4)
    x -= x.mean(0)
    y = x @ torch.randn(4, 2) + 5
    weights = ridge(x, y, penalty=1e6)
    assert weights[:-1].abs().max() < 1e-4
    assert torch.allclose(weights[-1], torch.full((2,), 5.0, dtype=torch.float64), atol=1e-4)
    assert torch.allclose(classify(ridge(x, y, 0.0), x), y.double(), atol=1e-4)


def test_it_reads_what_is_there_and_chance_from_noise():
    torch.manual_seed(0)
    targets = torch.randint(0, 4, (40, 16, 2))
    targets[..., 1] += 4
    told = torch.nn.functional.one_hot(targets[..., 0], 4).float() + 0.1 * torch.randn(40, 16, 4)
    targets[:, ::5] = -1  # the floor
    found = probe_words(told, targets, ("size", "colour"), fit=30)
    assert found["size"] == 1.0
    assert found["colour"] < 0.45  # chance is 0.25
    none = targets.clone()
    none[..., 1] = -1
    assert set(probe_words(told, none, ("size", "colour"), fit=30)) == {"size"}


def test_nothing_to_fit_is_an_error():
    with pytest.raises(BadInput, match="at least one"):
        ridge(torch.zeros(0, 3), torch.zeros(0, 2))
