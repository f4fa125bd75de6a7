"""Weights of transformers' models written as the published checkpoints have them: timm, original LLaVA, Cobra."""

import json
from pathlib import Path

import torch
from torch import nn


def shaken(model: nn.Module, seed: int = 0) -> nn.Module:
    """The model in evaluation mode, every parameter moved, so that none may be left out or mixed up unnoticed."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=draw))
    return model.eval()


def write_config(folder: Path, values: dict) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(values))


def bare(state: dict) -> dict:
    """Names of a vision model's state without the prefix that some releases of transformers have."""
    return {name.removeprefix("vision_model."): tensor.detach().clone() for name, tensor in state.items()}


def joined(state: dict, names: list[str]) -> dict:
    """Weights and biases of q, k and v, one after the other."""
    return {
        f"qkv.{part}": torch.cat([state[f"{name}.{part}"] for name in names])
        for part in ("weight", "bias")
        if f"{names[0]}.{part}" in state
    }


def timm_dinov2(model: nn.Module) -> dict:
    """A DINOv2 of transformers, with or without registers, in timm's layout. Of one with registers, the class token's
    position is folded into the token and the table holds the patches alone."""
    state = bare(model.state_dict())
    out = {
        "cls_token": state["embeddings.cls_token"],
        "pos_embed": state["embeddings.position_embeddings"],
        "patch_embed.proj.weight": state["embeddings.patch_embeddings.projection.weight"],
        "patch_embed.proj.bias": state["embeddings.patch_embeddings.projection.bias"],
        "norm.weight": state["layernorm.weight"],
        "norm.bias": state["layernorm.bias"],
    }
    if "embeddings.register_tokens" in state:
        out["reg_token"] = state["embeddings.register_tokens"]
        out["cls_token"] = out["cls_token"] + out["pos_embed"][:, :1]
        out["pos_embed"] = out["pos_embed"][:, 1:]
    for i in range(model.config.num_hidden_layers):
        places = (f"encoder.layer.{i}.", f"layers.{i}.", f"encoder.layers.{i}.")
        theirs = next(place for place in places if f"{place}norm1.weight" in state)
        block = {name.removeprefix(theirs): value for name, value in state.items() if name.startswith(theirs)}
        heads, last = [f"attention.{n}_proj" for n in "qkv"], "attention.o_proj"
        if "attention.attention.query.weight" in block:  # as older releases name them
            heads, last = [f"attention.attention.{n}" for n in ("query", "key", "value")], "attention.output.dense"
        for name, value in joined(block, heads).items():
            out[f"blocks.{i}.attn.{name}"] = value
        for part in ("weight", "bias"):
            out[f"blocks.{i}.attn.proj.{part}"] = block[f"{last}.{part}"]
            for same in ("norm1", "norm2", "mlp.fc1", "mlp.fc2"):
                out[f"blocks.{i}.{same}.{part}"] = block[f"{same}.{part}"]
        for n in (1, 2):
            out[f"blocks.{i}.ls{n}.gamma"] = block[f"layer_scale{n}.lambda1"]
    return out


def timm_siglip(model: nn.Module) -> dict:
    """A SigLIP of transformers in timm's layout, its pooling head included."""
    state = bare(model.state_dict())
    out = {
        "pos_embed": state["embeddings.position_embedding.weight"][None],
        "attn_pool.latent": state["head.probe"],
    }
    for part in ("weight", "bias"):
        out[f"patch_embed.proj.{part}"] = state[f"embeddings.patch_embedding.{part}"]
        out[f"norm.{part}"] = state[f"post_layernorm.{part}"]
        q, k, v = state[f"head.attention.in_proj_{part}"].chunk(3)
        out |= {f"attn_pool.q.{part}": q.clone(), f"attn_pool.kv.{part}": torch.cat([k, v])}
        for ours, theirs in (
            ("proj", "attention.out_proj"), ("norm", "layernorm"), ("mlp.fc1", "mlp.fc1"), ("mlp.fc2", "mlp.fc2"),
        ):  # fmt: skip
            out[f"attn_pool.{ours}.{part}"] = state[f"head.{theirs}.{part}"]
    for i in range(model.config.num_hidden_layers):
        block = f"encoder.layers.{i}."
        names = [f"{block}self_attn.{n}_proj" for n in "qkv"]
        out |= {f"blocks.{i}.attn.{name}": value for name, value in joined(state, names).items()}
        for ours, theirs in (
            ("attn.proj", "self_attn.out_proj"), ("norm1", "layer_norm1"), ("norm2", "layer_norm2"),
            ("mlp.fc1", "mlp.fc1"), ("mlp.fc2", "mlp.fc2"),
        ):  # fmt: skip
            for part in ("weight", "bias"):
                out[f"blocks.{i}.{ours}.{part}"] = state[f"{block}{theirs}.{part}"]
    return out
