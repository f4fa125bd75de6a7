"""Cobra's published checkpoints, read into our VLM. Notebook 16.

    config.json                        ids of the parts under "model"
    checkpoints/latest-checkpoint.pt   {"model": {"projector": ..., "llm_backbone": ...}}, perhaps "vision_backbone"

The two encoders are timm's `vit_large_patch14_reg4_dinov2.lvd142m` and `vit_so400m_patch14_siglip_384`, whose weights
Cobra takes from timm; here they lie in files of their own, in timm's layout or transformers'.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlmlab.errors import BadCheckpoint
from vlmlab.vision import FusedConfig
from vlmlab.vision.fused import NORMALISATION
from vlmlab.vlm.presets import VLMConfig
from vlmlab.vlm.projectors import PROJECTORS
from vlmlab.weights.assembling import Placement, Plan, Source
from vlmlab.weights.official.encoders import config_beside, only_child, read_encoder
from vlmlab.weights.official.language import mamba_from_shapes, mamba_plan
from vlmlab.weights.official.parts import Opened, Vision, by_prefix
from vlmlab.weights.streaming import Checkpoint, open_checkpoint

FILE = Path("checkpoints") / "latest-checkpoint.pt"
VISION_ID = re.compile(r"dinosiglip-vit-so-(\d+)px")
PADS = {"resize-naive": "resize", "letterbox": "square", "resize-crop": "crop"}
WORDS = r"llm_backbone\.llm\.backbone\."
HEAD = "llm_backbone.llm.lm_head.weight"
INSIDE = {"dinov2": "vision_backbone.dino_featurizer.", "siglip": "vision_backbone.siglip_featurizer."}


def open_cobra(folder: Path, checkpoint: Checkpoint, values: Mapping[str, Any], vision: Vision = None) -> Opened:
    """A Cobra as its config.json (`values`) and its files describe it. vision: where the encoders lie, {"dinov2":
    path, "siglip": path}; by default in the checkpoint itself, or in or beside `folder` under names that say "dinov2"
    and "siglip". Raises BadCheckpoint."""
    where, ids = checkpoint.where, values["model"]
    size = VISION_ID.fullmatch(str(ids.get("vision_backbone_id")))
    if size is None:
        raise BadCheckpoint(
            f"{where}: vision_backbone_id {ids.get('vision_backbone_id')!r} is not known; only DINOv2 with SigLIP is, "
            "dinosiglip-vit-so-384px"
        )
    projector = str(ids.get("arch_specifier")).rpartition("+")[2]  # "no-align+" is about training
    if projector not in PROJECTORS:
        raise BadCheckpoint(f"{where}: projector {projector!r} is not known; known are {', '.join(PROJECTORS)}")
    resize = ids.get("image_resize_strategy", "resize-naive")
    if resize not in PADS:
        raise BadCheckpoint(f"{where}: image_resize_strategy {resize!r} is not known; known are {', '.join(PADS)}")
    configs, sources, zeros = {}, [], frozenset[str]()
    plans: dict[str, Plan] = {"projector.": _projector}
    for name in NORMALISATION:
        config, source = _encoder(folder, checkpoint, name, int(size[1]), vision)
        configs[name] = config
        if source.checkpoint is checkpoint:
            plans[INSIDE[name]] = source.plan
            zeros |= source.zeros
        else:
            sources.append(source)
            plans[INSIDE[name]] = _unused
    language = mamba_from_shapes(checkpoint, WORDS)
    plans["llm_backbone."] = mamba_plan(language, WORDS, re.escape(HEAD), "language.")
    config = VLMConfig(
        name=str(ids.get("model_id") or folder.resolve().name),
        image_size=int(size[1]),
        vision=FusedConfig(**configs),
        projector=projector,
        language=language,
        template="cobra",
        image_id=language.vocab_size,
        mean=(0.0, 0.0, 0.0),  # each encoder normalises for itself
        std=(1.0, 1.0, 1.0),
        pad=PADS[resize],
        max_length=ids.get("llm_max_length") or 2048,
    )
    return Opened(
        config,
        (Source(checkpoint, by_prefix(plans), zeros), *sources),
        HEAD if HEAD in checkpoint.tensors else None,
    )


def _encoder(folder: Path, checkpoint: Checkpoint, name: str, size: int, vision: Vision) -> Any:
    """Shape and source of one encoder."""
    path = vision.get(name) if isinstance(vision, Mapping) else None
    place: Path | None = None if path is None else Path(os.fspath(path))
    options: dict[str, Any] = {"image_size": size, "target": f"vision.{name}.", "pool": False}
    if place is None and any(key.startswith(INSIDE[name]) for key in checkpoint.tensors):
        return read_encoder(checkpoint, prefix=INSIDE[name], **options)
    place = place or only_child(folder, [name]) or only_child(folder.parent, [name])
    if place is None:
        raise BadCheckpoint(
            f"{checkpoint.where} does not hold its encoder {name}; put its weights beside it as {name}.safetensors or "
            f"in a folder {name}, or give vision={{'dinov2': path, 'siglip': path}}"
        )
    return read_encoder(open_checkpoint(place), config_beside(place) if place.is_dir() else None, **options)


def _projector(name: str) -> list[Placement]:
    return [Placement(name.removeprefix("projector."))]


def _unused(name: str) -> tuple[()]:
    return ()
