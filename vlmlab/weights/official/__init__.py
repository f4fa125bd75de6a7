"""Weights that a user brings: published checkpoints read into our classes. Notebooks 10 and 16.

LLaVA-1.5 and Cobra whole, and Llama, Mamba, CLIP, SigLIP, DINOv2 and MambaVision alone. Nothing is shipped, nothing is
fetched unless a commit on the hub is named, and no code in a checkpoint is run.
"""

from vlmlab.weights.official.encoders import load_vision
from vlmlab.weights.official.language import load_language
from vlmlab.weights.official.mambavision import load_mambavision
from vlmlab.weights.official.opening import check_official, is_official, load_official, official_config

__all__ = [
    "check_official",
    "is_official",
    "load_language",
    "load_mambavision",
    "load_official",
    "load_vision",
    "official_config",
]
