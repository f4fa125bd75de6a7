"""LLaVA-1.5's published checkpoints, in the original layout and in transformers', read into our VLM. Notebook 16.

original        model.embed_tokens, model.layers.*, lm_head, model.mm_projector.{0,2}; the CLIP tower in files of
                its own, or as model.vision_tower.vision_tower.*
transformers 4  language_model.model.*, language_model.lm_head, vision_tower.*, multi_modal_projector.linear_{1,2}
transformers 5  model.language_model.*, lm_head, model.vision_tower.*, model.multi_modal_projector.linear_{1,2}
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlmlab.errors import BadCheckpoint, BadInput
from vlmlab.files import read_json
from vlmlab.vision import ViTConfig
from vlmlab.vision.images import NORMALISATION
from vlmlab.vlm.presets import VLMConfig
from vlmlab.weights.assembling import Placement, Plan, Source
from vlmlab.weights.official.encoders import config_beside, only_child, read_encoder, transformers_config
from vlmlab.weights.official.language import llama_config, llama_plan
from vlmlab.weights.official.parts import Opened, Vision, by_prefix
from vlmlab.weights.streaming import Checkpoint, open_checkpoint

TOWER = "model.vision_tower.vision_tower."
PROJECTOR = re.compile(r"(?:model\.)?multi_modal_projector\.linear_([12])\.(weight|bias)")
ORIGINAL_PROJECTOR = re.compile(r"model\.mm_projector\.((?:[02]\.)?(?:weight|bias))")


def open_llava(folder: Path, checkpoint: Checkpoint, values: Mapping[str, Any], vision: Vision = None) -> Opened:
    """A LLaVA as its config.json (`values`) and its files describe it. vision: where the CLIP tower of the original
    layout lies. Raises BadCheckpoint."""
    if "vision_config" in values:
        return _transformers(folder, checkpoint, values)
    return _original(folder, checkpoint, values, vision)


# ---------------------------------------------------------------- transformers' layouts
def _transformers(folder: Path, checkpoint: Checkpoint, values: Mapping[str, Any]) -> Opened:
    where = checkpoint.where
    theirs = transformers_config({**values, "model_type": "llava"}, where)
    if theirs.text_config.model_type != "llama":
        raise BadCheckpoint(f"{where}: a language model {theirs.text_config.model_type!r} is not computed, only llama")
    tied = bool(values.get("tie_word_embeddings", theirs.text_config.tie_word_embeddings))
    language = llama_config({**theirs.text_config.to_dict(), "tie_word_embeddings": tied}, where)
    if theirs.projector_hidden_act != "gelu":
        raise BadCheckpoint(f"{where}: a projector with {theirs.projector_hidden_act!r} is not computed, only gelu")
    stored = next((name for name in checkpoint.tensors if re.match(r"(model\.)?vision_tower\.", name)), "")
    prefix = "model.vision_tower." if stored.startswith("model.") else "vision_tower."
    tower, eye = read_encoder(checkpoint, theirs.vision_config.to_dict(), prefix=prefix, target="vision.")
    full = theirs.vision_feature_select_strategy == "full"
    if not full and tower.prefix_tokens != 1:
        raise BadCheckpoint(
            f"{where}: vision_feature_select_strategy 'default' drops one token, but this encoder has "
            f"{tower.prefix_tokens} before its patches"
        )
    layer = theirs.vision_feature_layer
    config = _config(
        folder,
        tower,
        language,
        image_id=theirs.image_token_index,
        feature_layer=layer if isinstance(layer, int) else tuple(layer),
        select="full" if full else "patch",
        max_length=language.max_positions,
        **_preprocessing(folder, tower),
    )
    biases = frozenset({"projector.0.bias", "projector.2.bias"} if not theirs.multimodal_projector_bias else ())
    speak = llama_plan(
        language, r"(model\.)?language_model\.(model\.)?", r"(language_model\.)?lm_head\.weight", "language."
    )
    plan = by_prefix({prefix: eye.plan, "": _either(_projector, speak)})
    heads = [name for name in ("lm_head.weight", "language_model.lm_head.weight") if name in checkpoint.tensors]
    head = heads[0] if heads and language.tie_embeddings else None
    return Opened(config, (Source(checkpoint, plan, eye.zeros | biases),), head)


def _projector(name: str) -> list[Placement] | None:
    match = PROJECTOR.fullmatch(name)
    return [Placement(f"projector.{2 * int(match[1]) - 2}.{match[2]}")] if match else None


def _preprocessing(folder: Path, tower: ViTConfig) -> dict[str, Any]:
    """How pictures are prepared, as preprocessor_config.json says; without one, as LLaVA-1.5's paper does."""
    mean, std = NORMALISATION[tower.style]
    found: dict[str, Any] = {"mean": mean, "std": std, "pad": "square"}
    path = folder / "preprocessor_config.json"
    if not path.is_file():
        return found
    values = read_json(path)
    if not values.get("do_pad"):
        found["pad"] = "crop" if values.get("do_center_crop") else "resize"
    for ours, name in (("mean", "image_mean"), ("std", "image_std")):
        found |= {ours: tuple(values[name])} if values.get(name) else {}
    return found


# ---------------------------------------------------------------- the original layout
def _original(folder: Path, checkpoint: Checkpoint, values: Mapping[str, Any], vision: Vision) -> Opened:
    where = checkpoint.where
    if values.get("model_type") not in ("llava", "llava_llama"):
        raise BadCheckpoint(f"{where}: a {values.get('model_type')!r} is not computed here, only a LLaVA over a Llama")
    language = llama_config(values, where)
    name = values.get("mm_projector_type", "linear")
    if name not in ("linear", "mlp2x_gelu"):
        raise BadCheckpoint(f"{where}: mm_projector_type {name!r} is not computed here, only linear and mlp2x_gelu")
    if values.get("mm_use_im_start_end"):
        raise BadCheckpoint(f"{where}: mm_use_im_start_end, tokens around every image, is not supported")
    inside = any(stored.startswith(TOWER) for stored in checkpoint.tensors)
    outside = None if inside and vision is None else _tower(folder, values, vision)
    source = checkpoint if outside is None else open_checkpoint(outside)
    sizes = config_beside(outside) if outside is not None and outside.is_dir() else None
    tower, eye = read_encoder(source, sizes, prefix=TOWER if outside is None else "", target="vision.")
    config = _config(
        folder,
        tower,
        language,
        projector=name,
        image_id=language.vocab_size,  # the placeholder has no word of its own
        feature_layer=values.get("mm_vision_select_layer", -2),
        select="full" if values.get("mm_vision_select_feature") == "cls_patch" else "patch",
        pad="square" if values.get("image_aspect_ratio") == "pad" else "crop",
        mean=NORMALISATION[tower.style][0],
        std=NORMALISATION[tower.style][1],
        max_length=min(language.max_positions, values.get("tokenizer_model_max_length") or 2048),
    )
    plan = _either(_original_projector, llama_plan(language, r"model\.", target="language."))
    head = "lm_head.weight" if language.tie_embeddings and "lm_head.weight" in checkpoint.tensors else None
    if outside is None:
        return Opened(config, (Source(checkpoint, by_prefix({TOWER: eye.plan, "": plan}), eye.zeros),), head)
    plan = by_prefix({TOWER: lambda name: (), "": plan}) if inside else plan  # the tower given wins
    return Opened(config, (Source(checkpoint, plan), eye), head)


def _original_projector(name: str) -> list[Placement] | None:
    match = ORIGINAL_PROJECTOR.fullmatch(name)
    return [Placement(f"projector.{match[1]}")] if match else None


def _tower(folder: Path, values: Mapping[str, Any], vision: Vision) -> Path:
    """Where the CLIP tower lies: as given, at the path that config.json names, or in or beside the folder."""
    if isinstance(vision, Mapping):
        raise BadInput("a LLaVA has one vision tower; give its path, not a dict")
    if vision is not None:
        return Path(os.fspath(vision))
    named = str(values.get("mm_vision_tower") or values.get("vision_tower") or "clip")
    if Path(named).is_dir():
        return Path(named)
    word = Path(named).name
    for place in (folder, folder.parent):
        found = only_child(place, [word.lower()])
        if found is not None:
            return found
    raise BadCheckpoint(
        f"{folder} does not hold its vision tower; put {named} into a folder {word} inside it, or give its path as "
        "vision=..."
    )


def _either(*plans: Plan) -> Plan:
    """The first plan that knows a name."""

    def plan(name: str) -> Any:
        return next((found for each in plans if (found := each(name)) is not None), None)

    return plan


def _config(folder: Path, tower: ViTConfig, language: Any, projector: str = "mlp2x_gelu", **values: Any) -> VLMConfig:
    return VLMConfig(
        name=folder.resolve().name,
        image_size=tower.image_size,
        vision=tower,
        projector=projector,
        language=language,
        template="v1",
        **values,
    )
