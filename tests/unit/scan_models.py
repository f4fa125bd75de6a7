"""Models and scans to look into: random in every weight, small, in float64, where identities hold to 1e-10."""

from dataclasses import replace

import numpy as np
import torch

from vlmlab.explain import Inside
from vlmlab.explain.states import Scan
from vlmlab.language import MambaConfig
from vlmlab.vision import FusedConfig, MambaVisionConfig, ViTConfig
from vlmlab.vlm.model import VLM
from vlmlab.vlm.presets import PRESETS

SHAPE = {"image_size": 96, "patch_size": 24, "dim": 16, "layers": 2, "heads": 2, "hidden": 32}
FUSED = FusedConfig(ViTConfig("dinov2", registers=4, **SHAPE), ViTConfig("siglip", pool_head=False, **SHAPE))
MAMBAVISION = MambaVisionConfig(
    8, 8, (1, 1, 3, 2), (2, 2), (3, 2), layer_scale=0.7, num_classes=0, image_size=96, stem_strides=(3, 1)
)  # level 2: 8 x 8 in windows of 3 (padded to 9 x 9); level 3: 4 x 4 in windows of 2


def picture(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (96, 96, 3), dtype=np.uint8)


def draw(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Nothing is left at 0 or 1: biases, norms, A and D are drawn too."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 1 or name.endswith("A_log"):
                weight.add_(0.3 * torch.randn(weight.shape, generator=g))
    return model.double().eval()


def cobra(vision=FUSED, name: str = "cobra-tiny", layers: int = 3, seed: int = 0, **changes) -> VLM:
    language = MambaConfig(vocab_size=1024, dim=24, layers=layers, state=5)
    config = replace(PRESETS[name], vision=vision, language=language, max_length=44, **changes)
    return draw(VLM.from_preset(config, device="cpu", seed=seed), seed)


def ask(vlm: VLM, answer: str = "left of it", image: bool = True, seed: int = 0) -> Inside:
    return Inside.ask(vlm, picture(seed) if image else None, "Where is the cat?", answer)


def random_scan(length: int = 12, inner: int = 6, state: int = 4, seed: int = 0) -> Scan:
    g = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    return Scan(
        normal(length, inner), torch.nn.functional.softplus(normal(length, inner)), normal(length, state),
        normal(length, state), -normal(inner, state).exp(), normal(inner), normal(length, inner),
    )  # fmt: skip


def close(found: torch.Tensor, wanted: torch.Tensor, tolerance: float = 1e-10) -> None:
    """Equal to `tolerance` of the reference's magnitude."""
    assert found.shape == wanted.shape
    found, wanted = found.detach(), wanted.detach()
    error = float((found - wanted).abs().max() / wanted.abs().max())
    assert error <= tolerance, f"off by {error:.1e} of the reference's magnitude"
