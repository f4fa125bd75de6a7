"""Two encoders side by side, as Cobra sees: DINOv2 for where things are, SigLIP for what they are. Notebook 08.

The picture goes through both, each with its own normalisation; the patch tokens of the same hidden state of each (the
last block but one, no final norm, prefix tokens dropped) are joined along the channels, DINOv2's first. Sources: Cobra
(arXiv 2403.14520, section 3.1), Prismatic VLMs (arXiv 2402.07865, section 3.1).
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vlmlab.errors import BadInput
from vlmlab.taps import Tap, prefixed
from vlmlab.vision.config import ViTConfig
from vlmlab.vision.images import NORMALISATION as KNOWN
from vlmlab.vision.vit import ViT

NORMALISATION = {name: KNOWN[name] for name in ("dinov2", "siglip")}  # in the order of their channels


@dataclass(frozen=True)
class FusedConfig:
    """The two encoders. Both must cut a picture into the same grid of patches."""

    dinov2: ViTConfig
    siglip: ViTConfig
    prefix_tokens = 0

    def __post_init__(self) -> None:
        for name in NORMALISATION:
            if isinstance(getattr(self, name), dict):  # JSON gives dicts
                object.__setattr__(self, name, ViTConfig(**getattr(self, name)))
            if getattr(self, name).style != name:
                raise BadInput(f"FusedConfig: {name} is a ViT of style {getattr(self, name).style!r}")
        if self.dinov2.grid != self.siglip.grid:
            raise BadInput(f"FusedConfig: grids of {self.dinov2.grid} and {self.siglip.grid} patches cannot be joined")

    @property
    def encoders(self) -> tuple[ViTConfig, ViTConfig]:
        """Both, in the order of their channels."""
        return self.dinov2, self.siglip

    @property
    def dim(self) -> int:
        """Channels of a joined token."""
        return sum(config.dim for config in self.encoders)

    @property
    def grid(self) -> int:
        """Patches along one side."""
        return self.dinov2.grid

    @property
    def layers(self) -> int:
        """Hidden states that both have, after the first."""
        return min(config.layers for config in self.encoders)


class FusedEncoder(nn.Module):
    """DINOv2 and SigLIP on the same picture: pixels in [0, 1] (B, 3, H, W) -> joined patch tokens (B, P, D)."""

    prefix_tokens = 0

    def __init__(self, config: FusedConfig, generator: torch.Generator | None = None):
        super().__init__()
        self.config = config
        self.dinov2, self.siglip = (ViT(each, generator) for each in config.encoders)

    @property
    def dim(self) -> int:
        """Channels of every token, D."""
        return self.config.dim

    @property
    def patches(self) -> int:
        """Patch tokens P of an image of the native size."""
        return self.config.grid**2

    def names(self) -> list[str]:
        """Every name that a tap knows: each encoder's own, with "dinov2." or "siglip." before it."""
        return [f"{encoder}.{name}" for encoder in NORMALISATION for name in getattr(self, encoder).names()]

    def features(self, pixel_values: Tensor, layer: int = -2, tap: Tap | None = None) -> Tensor:
        """Tokens (B, P, D) of hidden state `layer` of both, counted from each one's own end where it is negative.

        pixel_values: not normalised, values in [0, 1]. Raises BadInput for a layer or pictures that do not fit.
        """
        return torch.cat([self.tokens(name, pixel_values, layer, tap) for name in NORMALISATION], -1)

    def tokens(self, name: str, pixel_values: Tensor, layer: int = -2, tap: Tap | None = None) -> Tensor:
        """The part of `features` that one encoder, "dinov2" or "siglip", gives."""
        mean, std = (pixel_values.new_tensor(values).view(3, 1, 1) for values in NORMALISATION[name])
        return getattr(self, name).features((pixel_values - mean) / std, layer, prefixed(tap, f"{name}."))
