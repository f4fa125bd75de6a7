"""CLIP, SigLIP and DINOv2 as transformers or timm store them, read into our ViT. Notebook 16.

transformers keeps q, k and v apart; timm joins them, as we do. timm's DINOv2 with registers stores positions for the
patches alone and none for the class token, so ours gets zeros there. timm computes SigLIP's MLP with the exact GELU,
big_vision and transformers with its tanh form. Sizes come from a `config.json` where there is one, else from the
shapes, and then heads have 64 channels, except so400m's, which have 72.
"""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from math import isqrt
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vlmlab import runtime
from vlmlab.errors import BadCheckpoint, VlmlabError
from vlmlab.files import read_json
from vlmlab.vision import Preprocess, ViT, ViTConfig
from vlmlab.vision.convert import OURS, RULES, UNUSED, config_from_transformers
from vlmlab.vision.images import NORMALISATION
from vlmlab.weights.assembling import Placement, Source, assemble
from vlmlab.weights.streaming import SUFFIXES, Checkpoint, open_checkpoint

HEADS_OF_SO400M = {1152: 16}  # width -> heads
OTHER = re.compile(r"(text_model|text|visual_projection|text_projection|logit_scale|logit_bias)\b")
"""What a CLIP or SigLIP holds beside its vision model."""
TRUNK = re.compile(r"^(vision_model\.|visual\.trunk\.)+")  # transformers', and open_clip's around timm's
TIMM = [
    (r"^reg_token$", "registers"),
    (r"\.ls([12])\.gamma$", r".ls\1"),
    (r"^attn_pool\.latent$", "pool.probe"),
    (r"^attn_pool\.", "pool."),
]
"""timm's names -> ours, where they differ."""
OURS_ALONE = re.compile(r"pool\.(q|kv)\.(weight|bias)")  # joined in transformers, so not among OURS


def load_vision(
    path: str | os.PathLike,
    image_size: int | None = None,
    device: str | torch.device = "auto",
    dtype: torch.dtype | None = torch.float32,
) -> tuple[ViT, Preprocess]:
    """A CLIP, SigLIP or DINOv2 vision model with a user's copy of its weights, and how its pixels are prepared.

    Args:
        path: a folder or a file of transformers or timm; of a whole CLIP or SigLIP, the vision model is read.
        image_size: in pixels, by default the model's own. For another, position embeddings are interpolated once, here.
        dtype: of the weights; None keeps what is stored.

    Raises:
        BadCheckpoint: missing or damaged files, another architecture, or weights that do not fit their configuration.
    """
    where = runtime.device(device)
    config, source = read_encoder(open_checkpoint(path), config_beside(path), image_size)
    with torch.device("meta"):
        model = ViT(config)
    assemble(model, [source], dtype, where)
    return model.eval(), Preprocess(config.image_size, *NORMALISATION[config.style])


def config_beside(path: str | os.PathLike) -> dict[str, Any] | None:
    """`config.json` in a folder, or beside a file; None when there is none."""
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    values = read_json(folder / "config.json") if (folder / "config.json").is_file() else None
    return values if isinstance(values, dict) else None


def transformers_config(values: Mapping[str, Any], where: Path) -> Any:
    """transformers' configuration of these values, which fills in what they leave out. Raises BadCheckpoint."""
    from transformers import AutoConfig

    values = dict(values)
    try:
        return AutoConfig.for_model(values.pop("model_type"), **values)
    except Exception as error:  # transformers checks values with errors of many classes
        reason = str(error).split("\n")[0][:160]
        raise BadCheckpoint(f"{where}: config.json is no configuration that can be read ({reason})") from None


def read_encoder(
    checkpoint: Checkpoint,
    values: Mapping[str, Any] | None = None,
    image_size: int | None = None,
    prefix: str = "",
    target: str = "",
    pool: bool | None = None,
) -> tuple[ViTConfig, Source]:
    """The shape of a stored vision model, and where its tensors go in ours.

    Args:
        values: its config.json, of transformers or timm; None: the sizes come from the shapes.
        image_size: in pixels, None for its own.
        prefix: of its names in the checkpoint; other names belong to no part of it.
        target: what stands before our names, such as "vision.".
        pool: whether SigLIP's pooling head is wanted (None: if it is stored).

    Raises:
        BadCheckpoint: a model that is none of these, or whose sizes cannot be told.
    """
    where = checkpoint.where
    inner = {name.removeprefix(prefix): name for name in checkpoint.tensors if name.startswith(prefix)}
    timm = any(name.endswith("blocks.0.attn.qkv.weight") for name in inner)
    try:
        if values and values.get("model_type"):
            found = transformers_config(values, where)
            config = config_from_transformers(getattr(found, "vision_config", found))
        else:
            stored = {_ours(name, timm): checkpoint.tensors[full] for name, full in inner.items()}
            config = _config_from_shapes(stored, timm, values or {})
        if image_size is not None:
            config = replace(config, image_size=image_size)
        if pool is not None and config.style == "siglip":
            config = replace(config, pool_head=pool)
    except BadCheckpoint:
        raise
    except (VlmlabError, KeyError, IndexError, ValueError, TypeError) as error:
        raise BadCheckpoint(f"{where} holds no CLIP, SigLIP or DINOv2 vision model that can be read: {error}") from None

    def plan(name: str) -> list[Placement] | None:
        if not name.startswith(prefix):
            return None
        return _placements(name.removeprefix(prefix), checkpoint.tensors[name], config, timm, target)

    bare = any(_ours(name, timm) == "pos_embed" and _bare(checkpoint.tensors[inner[name]], config) for name in inner)
    return config, Source(checkpoint, plan, frozenset({f"{target}pos_embed"} if bare else ()))


def _ours(name: str, timm: bool) -> str | None:
    """Our name of a stored one, "#n" behind it for the n-th part of a joined weight; "" for what is not needed."""
    if OTHER.match(name):
        return ""
    name = TRUNK.sub("", name)
    if name in UNUSED:
        return ""
    for pattern, replacement in TIMM if timm else RULES:
        name = re.sub(pattern, replacement, name)
    plain = name.partition("#")[0]
    known = OURS.fullmatch(plain) or (timm and OURS_ALONE.fullmatch(plain))
    return name if known else None


def _config_from_shapes(stored: Mapping[str | None, Tensor], timm: bool, values: Mapping[str, Any]) -> ViTConfig:
    """Sizes as the tensors, by our names, have them; `values` is a config.json of timm, which knows the image's."""
    dim, _, patch, _ = stored["patch_embed.proj.weight"].shape
    rows = stored["pos_embed"].numel() // dim
    blocks = {int(match[1]) for name in stored if name and (match := re.match(r"blocks\.(\d+)\.", name))}
    first = "blocks.0.mlp.fc1.weight"
    wide, narrow = stored.get(first, stored.get(f"{first}#0")), stored["blocks.0.mlp.fc2.weight"].shape[1]
    assert wide is not None
    swiglu = f"{first}#0" in stored or wide.shape[0] == 2 * narrow
    if "norm_pre.weight" in stored and not timm:
        style = "clip"
    elif "blocks.0.ls1" in stored:
        style = "dinov2"
    elif "cls_token" not in stored:
        style = "siglip"
    else:
        raise ValueError("its parts are those of another family")
    size = values.get("pretrained_cfg", {}).get("input_size", [3, 0, 0])[-1] or patch * isqrt(rows)
    extra: dict[str, Any] = {"pool_head": "pool.probe" in stored} if style == "siglip" else {}
    if timm:
        extra["antialias"] = True
        extra |= {"activation": "gelu"} if style == "siglip" else {}
    if swiglu:
        extra["activation"] = "swiglu"
    if style == "dinov2":
        extra["registers"] = stored["registers"].numel() // dim if "registers" in stored else 0
    bias = any(name and re.match(r"blocks\.0\.attn\.qkv\.bias", name) for name in stored)
    heads = HEADS_OF_SO400M.get(dim, max(1, dim // 64))
    return ViTConfig(style, size, patch, dim, len(blocks), heads, narrow, qkv_bias=bias, **extra)


def _placements(name: str, stored: Tensor, config: ViTConfig, timm: bool, target: str) -> list[Placement] | None:
    ours = _ours(name, timm)
    if not ours or not stored.numel():  # a transformers model of no registers still stores an empty table
        return None if ours is None else []
    ours, _, part = ours.partition("#")
    if ours.startswith("pool.") and not config.pool_head:
        return []
    full = target + ours
    if part:
        width = config.dim if ".qkv." in ours else config.hidden
        return [Placement(full, None, slice(int(part) * width, (int(part) + 1) * width))]
    if ours.startswith("pool.qkv."):  # one query, so its projection stands apart
        q, kv = slice(0, config.dim), slice(config.dim, None)
        return [
            Placement(full.replace("qkv", "q"), lambda x: x[q]),
            Placement(full.replace("qkv", "kv"), lambda x: x[kv]),
        ]
    if ours == "pos_embed":
        bare = _bare(stored, config)
        pick = partial(_positions, config=config, prefix=int(config.class_token and not bare))
        return [Placement(full, pick, slice(1, None) if bare else None)]
    picks = {
        "patch_embed.proj.weight": lambda x: x.flatten(1),
        "cls_token": torch.flatten,
        "pool.probe": torch.flatten,
        "registers": lambda x: x.flatten(0, -2),
    }
    return [Placement(full, picks.get(ours))]


def _bare(table: Tensor, config: ViTConfig) -> bool:
    """Whether stored positions leave the class token out."""
    rows = table.numel() // config.dim
    return config.class_token and isqrt(rows) ** 2 == rows


def _positions(table: Tensor, config: ViTConfig, prefix: int) -> Tensor:
    """Stored positions (1, R, D) or (R, D) for the grid of `config`, the first `prefix` rows as they are."""
    table = table.flatten(0, -2)
    patches = table[prefix:]
    side, grid = isqrt(len(patches)), config.grid
    if side == grid or side * side != len(patches):
        return table
    square = patches.float().view(1, side, side, -1).permute(0, 3, 1, 2)  # (1, D, side, side)
    square = F.interpolate(square, (grid, grid), mode="bicubic", antialias=bool(config.antialias))
    return torch.cat([table[:prefix].float(), square.flatten(2)[0].T])


def only_child(folder: Path, words: Iterable[str]) -> Path | None:
    """The one file or folder in `folder` whose name holds one of `words`; None when there is none, or several."""
    found = [
        child
        for child in (sorted(folder.iterdir()) if folder.is_dir() else [])
        if any(word in child.name.lower() for word in words) and (child.is_dir() or child.suffix in SUFFIXES)
    ]
    return found[0] if len(found) == 1 else None
