"""Presets: an encoder, a projector and a language model under one name, as plain frozen data. Notebooks 02 and 16.

`PRESETS["llava-tiny"]` is the model this suite trains; "llava-smollm2" puts a real language model behind its encoder;
the LLaVA-1.5 presets have the shapes of the paper's models (arXiv 2310.03744; CLIP ViT-L/14 at 336 px, Vicuna 7B and
13B with 32,000 words). A config turns into a JSON-able dict and back, which is how a checkpoint remembers what it is. A
new encoder or language model joins by one line in `VISION` or `LANGUAGE`.
"""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from vlmlab.errors import BadInput, UnknownName
from vlmlab.language import Llama, LlamaConfig, Mamba, MambaConfig
from vlmlab.vision import (
    CLIP_MEAN,
    CLIP_STD,
    FusedConfig,
    FusedEncoder,
    MambaVision,
    MambaVisionConfig,
    ViT,
    ViTConfig,
)
from vlmlab.vision.images import IMAGENET_MEAN, IMAGENET_STD, PADS
from vlmlab.vision.mambavision_config import LEVELS, variant_config
from vlmlab.vlm.projectors import POOLED, PROJECTORS, build_projector
from vlmlab.vlm.templates import TEMPLATES

VISION: dict[str, tuple[type, type]] = {
    "vit": (ViTConfig, ViT),
    "fused": (FusedConfig, FusedEncoder),
    "mambavision": (MambaVisionConfig, MambaVision),
}
"""Kind -> (config, module). A module has `features(x, layer)`, a config `layers` and `prefix_tokens`."""
LANGUAGE: dict[str, tuple[type, type]] = {"llama": (LlamaConfig, Llama), "mamba": (MambaConfig, Mamba)}
"""Kind -> (config, module). A module has `embed`, `hidden`, `head` and `new_cache`; a config `dim`, `vocab_size`."""
SELECTS = ("patch", "full")


@dataclass(frozen=True)
class VLMConfig:
    """Everything that says what a VLM is, weights and tokenizer apart.

    image_size: pixels a side. mean, std: of the encoder's pixel normalisation. pad: how a picture becomes square, see
    `vlmlab.vision.images.Preprocess`. feature_layer: hidden state (of a MambaVision: level) that gives H_v, or several,
    joined along the channels. select: "patch" drops the prefix tokens (transformers' "default"), "full" keeps them.
    template, system: see `vlmlab.vlm.templates`; None is the template's own system message. max_length: tokens of a
    row, image tokens included. pooled: tokens a side that the projector "fused-ldpnet" leaves. image_id: the
    placeholder's id, which may lie outside the vocabulary. tokenizer: file name of the tokenizer among the shipped
    checkpoints, None when the user brings one.
    """

    name: str
    image_size: int
    vision: ViTConfig | FusedConfig | MambaVisionConfig
    projector: str
    language: LlamaConfig | MambaConfig
    template: str
    image_id: int
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD
    pad: str = "square"
    feature_layer: int | tuple[int, ...] = -2
    select: str = "patch"
    system: str | None = None
    max_length: int = 2048
    tokenizer: str | None = None
    pooled: int | None = None

    def __post_init__(self) -> None:
        for name in ("mean", "std", "feature_layer"):  # JSON gives lists
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))
        for what, name, known in (
            ("projector", self.projector, PROJECTORS),
            ("template", self.template, TEMPLATES),
            ("pad", self.pad, PADS),
            ("select", self.select, SELECTS),
        ):
            if name not in known:
                raise UnknownName(what, name, known)
        for layer in self.feature_layers:
            if not -self.vision.layers - 1 <= layer <= self.vision.layers:
                raise BadInput(f"feature_layer={layer}, but the encoder has {self.vision.layers} layers")
        if self.max_length < 1:
            raise BadInput(f"max_length={self.max_length} must be at least 1")

    @property
    def feature_layers(self) -> tuple[int, ...]:
        """`feature_layer` as a tuple."""
        return (self.feature_layer,) if isinstance(self.feature_layer, int) else self.feature_layer

    @property
    def feature_dim(self) -> int:
        """Channels of H_v, the projector's input."""
        if isinstance(self.vision, MambaVisionConfig):
            return sum(self.vision.channels(layer % LEVELS) for layer in self.feature_layers)
        return self.vision.dim * len(self.feature_layers)

    @property
    def grid(self) -> int:
        """Tokens of H_v along one side of an image of the native size."""
        if isinstance(self.vision, MambaVisionConfig):
            return self.vision.sides(self.image_size)[self.feature_layers[0] % LEVELS]
        return self.vision.grid

    @property
    def feature_tokens(self) -> int:
        """Tokens of H_v, the projector's input, for one image of the native size."""
        return self.grid**2 + (self.vision.prefix_tokens if self.select == "full" else 0)

    @property
    def image_tokens(self) -> int:
        """N, the tokens that one image of the native size takes in a row."""
        return (self.pooled or POOLED) ** 2 if self.projector == "fused-ldpnet" else self.feature_tokens

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; `VLMConfig.from_dict` restores an equal config."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values["vision"] = {"kind": _kind(self.vision, VISION), **asdict(self.vision)}
        values["language"] = {"kind": _kind(self.language, LANGUAGE), **asdict(self.language)}
        for name in ("mean", "std"):
            values[name] = list(values[name])
        if isinstance(self.feature_layer, tuple):
            values["feature_layer"] = list(self.feature_layer)
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "VLMConfig":
        """Restore a config from `to_dict`. Raises BadInput or UnknownName for values that are not one."""
        values = dict(values)
        try:
            for part, kinds in (("vision", VISION), ("language", LANGUAGE)):
                inner = dict(values[part])
                kind = inner.pop("kind", None)
                if kind not in kinds:
                    raise UnknownName(f"kind of {part} model", kind, kinds)
                values[part] = kinds[kind][0](**inner)
            return cls(**values)
        except (KeyError, TypeError, ValueError) as error:
            raise BadInput(f"this is not the configuration of a VLM ({error}); use one written by to_dict") from None


def _kind(config: Any, kinds: Mapping[str, tuple[type, type]]) -> str:
    return next(kind for kind, (config_type, _) in kinds.items() if type(config) is config_type)


def build_parts(config: VLMConfig) -> tuple[nn.Module, nn.Module, nn.Module]:
    """Vision encoder, projector and language model with random weights, on PyTorch's current default device."""
    with _NoDraws() if torch.get_default_device().type == "meta" else nullcontext():
        vision = VISION[_kind(config.vision, VISION)][1](config.vision)
        language = LANGUAGE[_kind(config.language, LANGUAGE)][1](config.language)
        projector = build_projector(config.projector, config.feature_dim, config.language.dim, config.pooled)
        return vision, projector, language


class _NoDraws(TorchFunctionMode):
    """Skip drawing weights: meta tensors have none, and PyTorch would load its compiler (seconds) to draw them."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.Tensor.normal_, torch.Tensor.uniform_) or getattr(func, "__module__", "") == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


def _llava_1_5(name: str, dim: int, layers: int, heads: int, hidden: int) -> VLMConfig:
    """LLaVA-1.5 over a Vicuna of the given size."""
    return VLMConfig(
        name=name,
        image_size=336,
        vision=ViTConfig("clip", image_size=336, patch_size=14, dim=1024, layers=24, heads=16, hidden=4096),
        projector="mlp2x_gelu",
        language=LlamaConfig(
            vocab_size=32000,
            dim=dim,
            layers=layers,
            heads=heads,
            kv_heads=heads,
            hidden=hidden,
            tie_embeddings=False,
            max_positions=4096,
        ),
        template="v1",
        image_id=32000,
    )


def _cobra(name: str, projector: str) -> VLMConfig:
    """Cobra-3B: DINOv2 ViT-L/14 with registers and SigLIP so400m/14 at 384 px, Mamba-2.8B (arXiv 2403.14520, v4)."""
    dinov2 = ViTConfig("dinov2", 384, 14, dim=1024, layers=24, heads=16, hidden=4096, registers=4)
    siglip = ViTConfig("siglip", 384, 14, dim=1152, layers=27, heads=16, hidden=4304, pool_head=False)
    return VLMConfig(
        name=name,
        image_size=384,
        vision=FusedConfig(dinov2, siglip),
        projector=projector,
        language=MambaConfig(vocab_size=50280, dim=2560, layers=64),
        template="cobra",
        image_id=50280,
        mean=(0.0, 0.0, 0.0),  # each encoder normalises for itself
        std=(1.0, 1.0, 1.0),
        pad="resize",
    )


def _cobra_tiny(name: str, projector: str, pooled: int | None = None) -> VLMConfig:
    """Cobra at the size of llava-tiny: two encoders of about half its encoder's size, a Mamba like its Llama."""
    shape: dict[str, Any] = {"image_size": 96, "patch_size": 12, "dim": 128, "layers": 7, "heads": 4, "hidden": 512}
    return VLMConfig(
        name=name,
        image_size=96,
        vision=FusedConfig(ViTConfig("dinov2", registers=4, **shape), ViTConfig("siglip", pool_head=False, **shape)),
        projector=projector,
        language=MambaConfig(vocab_size=1024, dim=192, layers=12),
        template="cobra",
        image_id=3,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        pad="resize",
        max_length=512,
        tokenizer="tokenizer.json",
        pooled=pooled,
    )


def _with_mambavision(
    name: str, cobra: VLMConfig, variant: str, image_size: int, feature_layer: int | tuple[int, ...] = -2
) -> VLMConfig:
    """A Cobra whose two encoders are replaced by a MambaVision, all else as it was."""
    return replace(
        cobra,
        name=name,
        image_size=image_size,
        vision=variant_config(variant, num_classes=0),
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        feature_layer=feature_layer,
    )


def _cell(name: str, seeing: VLMConfig, speaking: VLMConfig) -> VLMConfig:
    """The encoder of one preset before the language model of another, with LLaVA-1.5's projector between."""
    encoder = {field: getattr(seeing, field) for field in ("vision", "mean", "std", "feature_layer")}
    return replace(speaking, name=name, projector="mlp2x_gelu", **encoder)


def _llava_smollm2() -> VLMConfig:
    """llava-tiny's encoder before SmolLM2-135M-Instruct (arXiv 2502.02737), with the system message that this model was
    tuned with. Tokenizer and language model come from one file, see `vlmlab.weights.smollm2`."""
    return VLMConfig(
        name="llava-smollm2",
        image_size=96,
        vision=CLIP_TINY,
        projector="mlp2x_gelu",
        language=LlamaConfig(
            vocab_size=49152, dim=576, layers=30, heads=9, kv_heads=3, hidden=1536, rope_theta=1e5, max_positions=8192
        ),
        template="chatml",
        image_id=49152,
        system="You are a helpful AI assistant named SmolLM, trained by Hugging Face",
    )


CLIP_TINY = ViTConfig("clip", image_size=96, patch_size=12, dim=192, layers=6, heads=6, hidden=768)
PRESETS: dict[str, VLMConfig] = {
    config.name: config
    for config in (
        VLMConfig(
            name="llava-tiny",
            image_size=96,
            vision=CLIP_TINY,
            projector="mlp2x_gelu",
            language=LlamaConfig(
                vocab_size=1024, dim=192, layers=6, heads=6, kv_heads=3, hidden=656, max_positions=1024
            ),
            template="v1",
            image_id=3,
            system="",  # a system message would be longer than most questions
            max_length=512,
            tokenizer="tokenizer.json",
        ),
        _llava_smollm2(),
        _llava_1_5("llava-1.5-7b", dim=4096, layers=32, heads=32, hidden=11008),
        _llava_1_5("llava-1.5-13b", dim=5120, layers=40, heads=40, hidden=13824),
        _cobra_tiny("cobra-tiny", "fused-gelu-mlp"),
        _cobra_tiny("cobra-tiny-ldp", "fused-ldpnet", pooled=4),
        _cobra("cobra-3b", "fused-gelu-mlp"),
        _cobra("cobra-3b-ldp", "fused-ldpnet"),
        _with_mambavision("cobra-mambavision-tiny", _cobra_tiny("", "fused-gelu-mlp"), "tiny", 96),
        _with_mambavision("cobra-mambavision-tiny-level3", _cobra_tiny("", "fused-gelu-mlp"), "tiny", 96, -1),
        _with_mambavision("cobra-mambavision-tiny-both", _cobra_tiny("", "fused-gelu-mlp"), "tiny", 96, (-2, -1)),
        # 448 px: level 2 has 28 x 28 = 784 tokens, about Cobra's 729, in windows of 14 as MambaVision-L was trained
        _with_mambavision("cobra-mambavision-l", _cobra("", "fused-gelu-mlp"), "L", 448),
    )
}
PRESETS |= {  # the cells of vlmlab.benchmarks.experiment
    name: _cell(name, PRESETS[seeing], PRESETS[speaking])
    for encoder, seeing in (("clip", "llava-tiny"), ("fused", "cobra-tiny"), ("mambavision", "cobra-mambavision-tiny"))
    for backbone, speaking in (("llama", "llava-tiny"), ("mamba", "cobra-tiny"))
    for name in [f"{encoder}-{backbone}-tiny"]
}


def get_preset(name: str) -> VLMConfig:
    """The preset of that name. Raises UnknownName."""
    if name not in PRESETS:
        raise UnknownName("preset", name, PRESETS)
    return PRESETS[name]
