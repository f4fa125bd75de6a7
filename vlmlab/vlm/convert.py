"""From transformers' LlavaForConditionalGeneration to our VLM, part by part. Notebooks 02 and 16."""

from typing import Any

import torch
from torch import nn

from vlmlab.errors import BadInput
from vlmlab.language.llama import Llama
from vlmlab.language.tokenizer import Tokenizer
from vlmlab.vision.images import CLIP_MEAN, CLIP_STD, SIGLIP_MEAN, SIGLIP_STD
from vlmlab.vision.vit import ViT
from vlmlab.vlm.model import VLM
from vlmlab.vlm.presets import VLMConfig
from vlmlab.vlm.projectors import mlp2x_gelu


def from_transformers(model: Any, tokenizer: Any = None, template: str = "v1") -> VLM:
    """A copy of a LLaVA model from transformers: same logits, same generated tokens.

    Args:
        model: a LlavaForConditionalGeneration over a CLIP or SigLIP encoder and a Llama. Its dtype, device and
            training mode are kept.
        tokenizer: a `Tokenizer` or a transformers fast tokenizer; None when only ids go in and out.
        template: chat template for `generate`.

    Raises:
        BadInput, UnknownName: the model has a part that this package does not compute.
    """
    if getattr(getattr(model, "config", None), "model_type", None) != "llava":
        raise BadInput(f"expected a LlavaForConditionalGeneration, got {type(model).__name__}")
    config = model.config
    inner = model.model
    tied = model.lm_head.weight is inner.language_model.embed_tokens.weight
    language = Llama.from_transformers(inner.language_model, head=None if tied else model.lm_head)
    vision = ViT.from_transformers(inner.vision_tower)
    projector = _projector(inner.multi_modal_projector, config.projector_hidden_act)
    full = config.vision_feature_select_strategy == "full"
    if not full and vision.prefix_tokens != 1:
        raise BadInput(
            "vision_feature_select_strategy='default' drops one token, but this encoder has "
            f"{vision.prefix_tokens} before its patches; use 'full'"
        )
    layer = config.vision_feature_layer
    siglip = vision.config.style == "siglip"
    if tokenizer is not None and not isinstance(tokenizer, Tokenizer):
        tokenizer = Tokenizer.from_transformers(tokenizer)
    new = VLMConfig(
        name=config._name_or_path or "llava",
        image_size=vision.config.image_size,
        mean=SIGLIP_MEAN if siglip else CLIP_MEAN,
        std=SIGLIP_STD if siglip else CLIP_STD,
        vision=vision.config,
        projector="mlp2x_gelu",
        language=language.config,
        template=template,
        image_id=config.image_token_index,
        feature_layer=layer if isinstance(layer, int) else tuple(layer),
        select="full" if full else "patch",
        max_length=language.config.max_positions,
    )
    return VLM(vision, projector, language, tokenizer, new).train(model.training)


def _projector(source: Any, activation: str) -> nn.Sequential:
    """linear_1, act, linear_2 as `mlp2x_gelu`; biases that the source lacks are zero."""
    if activation != "gelu":
        raise BadInput(f"projector_hidden_act={activation!r} is not supported; LLaVA's projector uses 'gelu'")
    first, second = source.linear_1, source.linear_2
    with torch.device("meta"):
        new = mlp2x_gelu(first.in_features, first.out_features)
    state = {}
    for place, layer in ((0, first), (2, second)):
        state[f"{place}.weight"] = layer.weight.detach().clone()
        state[f"{place}.bias"] = (
            layer.weight.detach().new_zeros(layer.out_features) if layer.bias is None else layer.bias.detach().clone()
        )
    new.load_state_dict(state, assign=True)
    return new.requires_grad_(True)
