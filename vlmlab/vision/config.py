"""The shape of a vision transformer and the defaults of each family. Notebook 01."""

from dataclasses import dataclass

from vlmlab.errors import BadInput, UnknownName
from vlmlab.vision.blocks import ACTIVATIONS

STYLES = {
    "clip": ("quick_gelu", 1e-5),
    "siglip": ("gelu_tanh", 1e-6),
    "dinov2": ("gelu", 1e-6),
}  # activation, epsilon of the norms


@dataclass(frozen=True)
class ViTConfig:
    """The shape of a `ViT`. Sizes are in pixels and channels; what is left out takes the style's own default.

    `hidden` is the width inside the MLP (with "swiglu" that of the gate and of the value). `registers` and
    `layer_scale` (its initial value) belong to the style "dinov2", `pool_head` to "siglip". `antialias` is how
    DINOv2 with registers resizes its position embeddings; the other families resize them without it.
    Raises BadInput or UnknownName when the parts do not fit together.
    """

    style: str
    image_size: int
    patch_size: int
    dim: int
    layers: int
    heads: int
    hidden: int
    registers: int = 0
    eps: float = 0.0
    activation: str = ""
    qkv_bias: bool = True
    layer_scale: float | None = None
    pool_head: bool | None = None
    antialias: bool | None = None

    def __post_init__(self) -> None:
        if self.style not in STYLES:
            raise UnknownName("style of ViT", self.style, STYLES)
        activation, eps = STYLES[self.style]
        defaults = {
            "activation": activation,
            "eps": eps,
            "layer_scale": 1.0 if self.style == "dinov2" else None,
            "pool_head": self.style == "siglip",
            "antialias": self.style == "dinov2" and self.registers > 0,
        }
        for name, value in defaults.items():
            given = getattr(self, name)
            if given is None or (name in ("activation", "eps") and not given):
                object.__setattr__(self, name, value)
        if self.activation not in ACTIVATIONS:
            raise UnknownName("activation", self.activation, ACTIVATIONS)
        for name in ("image_size", "patch_size", "dim", "layers", "heads", "hidden"):
            if getattr(self, name) < 1:
                raise BadInput(f"ViTConfig: {name}={getattr(self, name)} must be at least 1")
        if self.dim % self.heads:
            raise BadInput(f"ViTConfig: dim={self.dim} must be a multiple of heads={self.heads}")
        if self.patch_size > self.image_size:
            raise BadInput(f"ViTConfig: patch_size={self.patch_size} exceeds image_size={self.image_size}")
        if self.registers and self.style != "dinov2":
            raise BadInput(f"ViTConfig: registers={self.registers} need style='dinov2', not {self.style!r}")
        if self.layer_scale is not None and self.style != "dinov2":
            raise BadInput(f"ViTConfig: layer_scale needs style='dinov2', not {self.style!r}")
        if self.pool_head and self.style != "siglip":
            raise BadInput(f"ViTConfig: pool_head needs style='siglip', not {self.style!r}")

    @property
    def grid(self) -> int:
        """Patches along one side of an image of `image_size`."""
        return self.image_size // self.patch_size

    @property
    def prefix_tokens(self) -> int:
        """Tokens before the patches: the class token and the registers."""
        return int(self.class_token) + self.registers

    @property
    def encoders(self) -> "tuple[ViTConfig, ...]":
        """The ViTs that this is made of: itself (see `fused.FusedConfig`)."""
        return (self,)

    @property
    def class_token(self) -> bool:
        """Whether the sequence starts with a class token."""
        return self.style != "siglip"
