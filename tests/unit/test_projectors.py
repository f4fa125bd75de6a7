"""Projectors: shapes, sizes, names."""

import pytest
import torch

from vlmlab.errors import BadInput, UnknownName
from vlmlab.vlm.projectors import PROJECTORS, build_projector


@pytest.mark.parametrize("name", PROJECTORS)
def test_maps_every_token_alone(name: str) -> None:
    torch.manual_seed(0)
    projector = build_projector(name, 6, 10)
    x = torch.randn(2, 5, 6)
    y = projector(x)
    assert y.shape == (2, 5, 10)
    assert torch.allclose(projector(x[1:, 3:4]), y[1:, 3:4], atol=1e-6)


def test_sizes_of_the_papers() -> None:
    with torch.device("meta"):
        count = {name: sum(p.numel() for p in build_projector(name, 1024, 4096).parameters()) for name in PROJECTORS}
    assert count["mlp2x_gelu"] == 20_979_712
    assert count["linear"] == 1024 * 4096 + 4096


def test_keys_are_llavas() -> None:
    assert list(build_projector("mlp2x_gelu", 2, 3).state_dict()) == ["0.weight", "0.bias", "2.weight", "2.bias"]


def test_unknown_name_and_bad_width() -> None:
    with pytest.raises(UnknownName, match="mlp2x_gelu"):
        build_projector("mlp2x_gelo", 2, 3)
    with pytest.raises(BadInput, match="positive"):
        build_projector("linear", 0, 3)
