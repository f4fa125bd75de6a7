"""The training recipes of the shipped models, each one command: `vlmlab train NAME`. Notebooks 04, 08, 09, 12.

    tokenizer            byte-level BPE on the suite's own text
    clip-tiny            contrastive pretraining of an encoder on pictures, captions and the words for each patch
    language-tiny        a Llama on text alone: described scenes and word maps
    llava-tiny-stage1    LLaVA's stage 1: the projector, on descriptions
    llava-tiny           LLaVA's stage 2: projector and language model, on questions and descriptions
    siglip-tiny          as clip-tiny, with SigLIP's loss
    dinov2-tiny          DINOv2's self-distillation of an encoder, on pictures alone
    language-mamba-tiny  as language-tiny, a Mamba
    cobra-tiny           Cobra's only stage: projector and Mamba
    cobra-tiny-stage1    the alignment stage that Cobra leaves out
    cobra-tiny-aligned   cobra-tiny after the alignment stage
    cobra-tiny-ldp       cobra-tiny with a projector that pools 64 tokens to 16
    mambavision-tiny     multi-label classification with a MambaVision

    llava-smollm2        stage 2 behind SmolLM2-135M-Instruct: projector and adapters

and, with mambavision-tiny in cobra-tiny for its encoders and its Mamba as it was,

    cobra-mambavision-tiny-projector    the projector alone
    cobra-mambavision-tiny              then projector and encoder
    cobra-mambavision-tiny-everything   or everything
    cobra-mambavision-tiny-level3, -both    the projector alone, on tokens of level 3 or of levels 2 and 3

and, on questions about clips, with the whole model before as it was,

    llava-tiny-clips, cobra-tiny-clips      adapters (LoRA) for projector and language model

A recipe first runs the recipes it needs, unless they are done. All of a recipe's files live in work_dir()/NAME; nothing
is written to data/ before `vlmlab.weights.publishing` is asked to.
"""

from vlmlab.vlm.recipes.clips import adapters
from vlmlab.vlm.recipes.common import corpus, fill_from_runs, finished, packing, scenes, tokenizer
from vlmlab.vlm.recipes.encoders import encoder_config
from vlmlab.vlm.recipes.running import override, run
from vlmlab.vlm.recipes.table import RECIPES, Recipe

__all__ = [
    "RECIPES",
    "Recipe",
    "adapters",
    "corpus",
    "encoder_config",
    "fill_from_runs",
    "finished",
    "override",
    "packing",
    "run",
    "scenes",
    "tokenizer",
]
