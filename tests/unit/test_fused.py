"""The fused encoder: each half is the encoder alone on its own normalisation, DINOv2's channels first."""

import pytest
import torch

from vlmlab.errors import BadInput
from vlmlab.vision import FusedConfig, FusedEncoder, Preprocess, ViTConfig
from vlmlab.vision.images import IMAGENET_MEAN, IMAGENET_STD, SIGLIP_MEAN, SIGLIP_STD

DINO = ViTConfig("dinov2", image_size=24, patch_size=6, dim=12, layers=3, heads=2, hidden=24, registers=2)
SIGLIP = ViTConfig("siglip", image_size=24, patch_size=6, dim=16, layers=2, heads=2, hidden=24)


@pytest.fixture
def encoder() -> FusedEncoder:
    return FusedEncoder(FusedConfig(DINO, SIGLIP), torch.Generator().manual_seed(0)).eval()


@pytest.mark.parametrize("layer", [-1, -2, 1])
def test_channels_are_dinov2_then_siglip_each_normalised_its_own_way(encoder, layer):
    picture = torch.randint(0, 256, (24, 24, 3), dtype=torch.uint8).numpy()
    plain = Preprocess(24, (0.0,) * 3, (1.0,) * 3)(picture)[None]
    joined = encoder.features(plain, layer)
    assert joined.shape == (1, 16, 28)
    halves = [
        encoder.dinov2.features(Preprocess(24, IMAGENET_MEAN, IMAGENET_STD)(picture)[None], layer),
        encoder.siglip.features(Preprocess(24, SIGLIP_MEAN, SIGLIP_STD)(picture)[None], layer),
    ]
    assert torch.allclose(joined, torch.cat(halves, -1), atol=1e-5)


def test_what_it_says_about_itself(encoder):
    assert (encoder.dim, encoder.patches, encoder.prefix_tokens, encoder.config.layers) == (28, 16, 0, 2)
    assert not any("mean" in key for key in encoder.state_dict())


def test_parts_that_do_not_fit_are_refused():
    with pytest.raises(BadInput, match="cannot be joined"):
        FusedConfig(DINO, ViTConfig("siglip", image_size=24, patch_size=8, dim=16, layers=2, heads=2, hidden=24))
    with pytest.raises(BadInput, match="siglip is a ViT of style 'dinov2'"):
        FusedConfig(DINO, DINO)
