"""Projectors: shapes, sizes, names."""

import pytest
import torch
from torch import nn

from vlmlab.errors import BadInput, UnknownName
from vlmlab.vlm.projectors import PROJECTORS, build_projector


@pytest.mark.parametrize("name", [name for name in PROJECTORS if name != "fused-ldpnet"])
def test_maps_every_token_alone(name: str) -> None:
    torch.manual_seed(0)
    projector = build_projector(name, 6, 10)
    x = torch.randn(2, 5, 6)
    y = projector(x)
    assert y.shape == (2, 5, 10)
    assert torch.allclose(projector(x[1:, 3:4]), y[1:, 3:4], atol=1e-6)


def test_sizes_of_the_papers() -> None:
    with torch.device("meta"):
        llava = {name: sum(p.numel() for p in build_projector(name, 1024, 4096).parameters()) for name in PROJECTORS}
        cobra = {name: sum(p.numel() for p in build_projector(name, 2176, 2560).parameters()) for name in PROJECTORS}
    assert llava["mlp2x_gelu"] == llava["gelu-mlp"] == 20_979_712
    assert llava["linear"] == 1024 * 4096 + 4096
    assert cobra["fused-gelu-mlp"] == 47_789_568
    assert cobra["fused-ldpnet"] == 41_259_008


def test_keys_are_the_papers() -> None:
    assert list(build_projector("mlp2x_gelu", 2, 3).state_dict()) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert [key for key in build_projector("fused-gelu-mlp", 2, 3).state_dict() if "weight" in key] == [
        "0.weight", "2.weight", "4.weight",
    ]  # fmt: skip
    assert "4.peg.0.weight" in build_projector("fused-ldpnet", 2, 3).state_dict()


def test_ldpnet_pools_the_grid_and_adds_a_convolution_of_it() -> None:
    torch.manual_seed(0)
    projector = build_projector("fused-ldpnet", 6, 10, pooled=2).double()
    x = torch.randn(3, 16, 6, dtype=torch.float64)
    mapped = projector[2](projector[1](projector[0](x))).reshape(3, 2, 2, 2, 2, 10).mean((2, 4))  # blocks of 2 x 2
    conv = nn.functional.conv2d(
        mapped.permute(0, 3, 1, 2), projector[4].peg[0].weight, projector[4].peg[0].bias, padding=1, groups=10
    )
    assert torch.allclose(projector(x), (mapped + conv.permute(0, 2, 3, 1)).reshape(3, 4, 10), rtol=1e-10)
    assert build_projector("fused-ldpnet", 6, 10)(torch.randn(1, 27 * 27, 6)).shape == (1, 196, 10)
    with pytest.raises(BadInput, match="no square grid"):
        projector(x[:, :15])


def test_unknown_name_and_bad_width() -> None:
    with pytest.raises(UnknownName, match="mlp2x_gelu"):
        build_projector("mlp2x_gelo", 2, 3)
    with pytest.raises(BadInput, match="positive"):
        build_projector("linear", 0, 3)
    with pytest.raises(BadInput, match="'fused-ldpnet' alone"):
        build_projector("linear", 2, 3, pooled=4)
