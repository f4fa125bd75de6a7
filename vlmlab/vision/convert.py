"""From transformers' vision models to our ViT: configuration and weight names. Notebook 01.

Weight names of transformers 4 and 5 are both understood, with and without the prefix "vision_model.".
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from vlmlab.errors import BadCheckpoint, BadInput, UnknownName
from vlmlab.vision.config import ViTConfig

STYLE_OF = {
    "clip_vision_model": "clip",
    "siglip_vision_model": "siglip",
    "dinov2": "dinov2",
    "dinov2_with_registers": "dinov2",
}
ACTIVATION_OF = {
    "quick_gelu": "quick_gelu",
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
}

# transformers' names -> ours; a name that ends in "#n" is the n-th part of a fused weight.
RULES = [
    (r"^embeddings\.(class_embedding|cls_token)$", "cls_token"),
    (r"^embeddings\.register_tokens$", "registers"),
    (r"^embeddings\.(position_embedding\.weight|position_embeddings)$", "pos_embed"),
    (r"^embeddings\.(patch_embedding|patch_embeddings\.projection)\.(\w+)$", r"patch_embed.proj.\2"),
    (r"^pre_layrnorm\.", "norm_pre."),
    (r"^(post_layernorm|layernorm)\.", "norm."),
    (r"^head\.probe$", "pool.probe"),
    (r"^head\.attention\.in_proj_(\w+)$", r"pool.qkv.\1"),
    (r"^head\.attention\.out_proj\.", "pool.proj."),
    (r"^head\.layernorm\.", "pool.norm."),
    (r"^head\.mlp\.", "pool.mlp."),
    (r"^encoder\.layers?\.(\d+)\.", r"blocks.\1."),
    (r"\.layer_norm([12])\.", r".norm\1."),
    (r"\.(self_attn|attention)\.q_proj\.(\w+)$|\.attention\.attention\.query\.(\w+)$", r".attn.qkv.\2\3#0"),
    (r"\.(self_attn|attention)\.k_proj\.(\w+)$|\.attention\.attention\.key\.(\w+)$", r".attn.qkv.\2\3#1"),
    (r"\.(self_attn|attention)\.v_proj\.(\w+)$|\.attention\.attention\.value\.(\w+)$", r".attn.qkv.\2\3#2"),
    (r"\.(self_attn\.out_proj|attention\.o_proj|attention\.output\.dense)\.", ".attn.proj."),
    (r"\.layer_scale([12])\.lambda1$", r".ls\1"),
    (r"\.mlp\.gate_proj\.(\w+)$", r".mlp.fc1.\1#0"),
    (r"\.mlp\.up_proj\.(\w+)$", r".mlp.fc1.\1#1"),
    (r"\.mlp\.weights_in\.", ".mlp.fc1."),
    (r"\.mlp\.(down_proj|weights_out)\.", ".mlp.fc2."),
]
UNUSED = ("embeddings.mask_token", "embeddings.position_ids")
OURS = re.compile(
    r"cls_token|registers|pos_embed|patch_embed\.proj\.\w+|norm(_pre)?\.\w+|pool\.probe"
    r"|pool\.(qkv|proj|norm|mlp\.fc[12])\.\w+|blocks\.\d+\.(norm[12]\.\w+|attn\.(qkv|proj)\.\w+|ls[12]|mlp\.fc[12]\.\w+)"
)


def vision_part(model: nn.Module) -> nn.Module:
    """The vision encoder inside a transformers model: the model itself, or its `vision_model`."""
    while hasattr(model, "vision_model"):
        part = model.vision_model
        if not isinstance(part, nn.Module) or not hasattr(part, "config"):  # transformers 4 wraps a plain module
            return model
        model = part
    return model


def config_from_transformers(config: Any) -> ViTConfig:
    """Translate a CLIPVisionConfig, SiglipVisionConfig, Dinov2Config or Dinov2WithRegistersConfig.

    Raises UnknownName for another model type or activation, BadInput for images or patches that are not square or
    have other than 3 channels.
    """
    style = STYLE_OF.get(config.model_type)
    if style is None:
        raise UnknownName("vision architecture", config.model_type, STYLE_OF)
    if config.num_channels != 3:
        raise BadInput(f"num_channels={config.num_channels}: only encoders of 3 channels are supported")
    sizes = {}
    for name in ("image_size", "patch_size"):
        value = getattr(config, name)
        sides = set(value) if isinstance(value, (list, tuple)) else {value}
        if len(sides) > 1:
            raise BadInput(f"{name}={value}: only square images and patches are supported")
        sizes[name] = sides.pop()
    if config.hidden_act not in ACTIVATION_OF:
        raise UnknownName("activation", config.hidden_act, ACTIVATION_OF)
    values: dict[str, Any] = {"activation": ACTIVATION_OF[config.hidden_act]}
    if style == "dinov2":
        hidden = int(config.hidden_size * config.mlp_ratio)
        if config.use_swiglu_ffn:
            values["activation"] = "swiglu"
            hidden = (int(hidden * 2 / 3) + 7) // 8 * 8
        values |= {"hidden": hidden, "qkv_bias": config.qkv_bias, "layer_scale": config.layerscale_value}
        values["registers"] = getattr(config, "num_register_tokens", 0)
        values["antialias"] = config.model_type == "dinov2_with_registers"
    else:
        values["hidden"] = config.intermediate_size
        if style == "siglip":
            values["pool_head"] = getattr(config, "vision_use_head", True)
    return ViTConfig(
        style=style,
        dim=config.hidden_size,
        layers=config.num_hidden_layers,
        heads=config.num_attention_heads,
        eps=config.layer_norm_eps,
        **sizes,
        **values,
    )


def state_from_transformers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename and fuse a transformers vision model's tensors into a `ViT` state dict; every tensor is a copy.

    Raises BadCheckpoint for a name that no CLIP, SigLIP or DINOv2 vision model has, or for an incomplete fused weight.
    """
    out: dict[str, Tensor] = {}
    parts: dict[str, dict[int, Tensor]] = {}
    for key, tensor in state.items():
        name = key.removeprefix("vision_model.")
        if name in UNUSED or not tensor.numel():  # a model of no registers still stores an empty table
            continue
        for pattern, replacement in RULES:
            name = re.sub(pattern, replacement, name)
        name, _, part = name.partition("#")
        if not OURS.fullmatch(name):
            raise BadCheckpoint(f"weight {key!r} belongs to no CLIP, SigLIP or DINOv2 vision model; remove it first")
        if part:
            parts.setdefault(name, {})[int(part)] = tensor
        elif name.startswith("pool.qkv."):  # one query, so its projection stands apart
            dim = tensor.shape[0] // 3
            out[name.replace("qkv", "q")] = tensor[:dim].clone()
            out[name.replace("qkv", "kv")] = tensor[dim:].clone()
        else:
            out[name] = _shaped(name, tensor)
    for name, pieces in parts.items():
        count = 3 if ".qkv." in name else 2
        if sorted(pieces) != list(range(count)):
            raise BadCheckpoint(f"{name} needs {count} parts, the checkpoint holds {len(pieces)}; it is incomplete")
        out[name] = torch.cat([pieces[i] for i in range(count)])
    return out


def _shaped(name: str, tensor: Tensor) -> Tensor:
    """A copy in our shape: convolution kernels as matrices, token tables without their axes of length 1."""
    if name == "patch_embed.proj.weight":
        return tensor.flatten(1).clone()
    if name in ("cls_token", "pool.probe"):
        return tensor.flatten().clone()
    if name in ("registers", "pos_embed"):
        return tensor.reshape(-1, tensor.shape[-1]).clone()
    return tensor.clone()
