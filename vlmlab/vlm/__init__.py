"""Vision-language models: projectors, the splice, templates, presets, the VLM itself and its training. Notebook 02."""

from vlmlab.vlm.account import account
from vlmlab.vlm.model import VLM, LlavaOutput
from vlmlab.vlm.presets import PRESETS, VLMConfig, get_preset
from vlmlab.vlm.projectors import build_projector
from vlmlab.vlm.splice import IGNORE, splice
from vlmlab.vlm.templates import TEMPLATES, Template, get_template

__all__ = [
    "IGNORE",
    "PRESETS",
    "TEMPLATES",
    "VLM",
    "LlavaOutput",
    "Template",
    "VLMConfig",
    "account",
    "build_projector",
    "get_preset",
    "get_template",
    "splice",
]
