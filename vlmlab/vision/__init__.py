"""Encoders of images, and what turns a picture into the numbers they take. Notebook 01."""

from vlmlab.vision.config import ViTConfig
from vlmlab.vision.fused import FusedConfig, FusedEncoder
from vlmlab.vision.images import (
    CLIP_MEAN,
    CLIP_STD,
    IMAGENET_MEAN,
    IMAGENET_STD,
    SIGLIP_MEAN,
    SIGLIP_STD,
    Preprocess,
    load_image,
)
from vlmlab.vision.mambavision import MambaVision
from vlmlab.vision.mambavision_config import MambaVisionConfig
from vlmlab.vision.vit import ViT

__all__ = [
    "CLIP_MEAN",
    "CLIP_STD",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "SIGLIP_MEAN",
    "SIGLIP_STD",
    "FusedConfig",
    "FusedEncoder",
    "MambaVision",
    "MambaVisionConfig",
    "Preprocess",
    "ViT",
    "ViTConfig",
    "load_image",
]
