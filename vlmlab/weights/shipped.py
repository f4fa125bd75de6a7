"""The weights in data/checkpoints and the manifest that says where each came from. Notebook 00."""

import json
import os
from pathlib import Path
from typing import Any

import torch

from vlmlab import runtime
from vlmlab.errors import BadCheckpoint, BadInput, UnknownName
from vlmlab.files import read_json, read_tensors, sha256, write_json
from vlmlab.language.tokenizer import Tokenizer
from vlmlab.vision import MambaVision, MambaVisionConfig, Preprocess
from vlmlab.vision.contrastive import ContrastiveModel, TextTower
from vlmlab.vision.images import NORMALISATION
from vlmlab.vision.vit import ViT, ViTConfig
from vlmlab.vlm import saving
from vlmlab.vlm.model import VLM
from vlmlab.vlm.presets import PRESETS
from vlmlab.weights.official import is_official, load_official

LICENCE = "Apache-2.0"


def manifest() -> dict[str, Any]:
    """data/manifest.json: "files": path -> sha256, bytes, licence, recipe, ...; "models": what `load` takes; "runs":
    recipe and cost of runs whose weights do not ship; "results": tables of both."""
    path = runtime.data_dir() / "manifest.json"
    return read_json(path) if path.exists() else {"files": {}, "models": {}, "runs": {}, "results": {}}


def shipped() -> list[str]:
    """Names that `load` takes: the VLMs among the shipped checkpoints."""
    return sorted(manifest()["models"])


def verify(relative: str) -> Path:
    """The path of a file under data/, its SHA-256 checked. Raises BadCheckpoint when it is missing or differs."""
    record = manifest()["files"].get(relative)
    path = runtime.data_dir() / relative
    if not path.is_file():
        raise BadCheckpoint(f"data/{relative} is missing; restore it: git checkout -- data/{relative}")
    if record is None:
        raise BadCheckpoint(
            f"data/{relative} is not in data/manifest.json, so it cannot be checked; restore the manifest"
        )
    found = sha256(path)
    if found != record["sha256"]:
        raise BadCheckpoint(
            f"data/{relative} has sha256 {found[:12]}..., the manifest says {record['sha256'][:12]}...; "
            f"restore it: git checkout -- data/{relative}"
        )
    return path


def load(name_or_path: str | os.PathLike, device: str | torch.device = "auto") -> VLM:
    """A trained VLM, ready to answer: a shipped name ("llava-tiny"), the path of a file written by `saving.save`, or a
    published checkpoint as `official.load_official` takes it, a folder with a config.json for instance.

    Raises UnknownName for a name that is none of these; BadInput for a preset that ships no weights; BadCheckpoint for
    a file that is missing, damaged, or not the one in the manifest.
    """
    models = manifest()["models"]
    name = str(name_or_path)
    if name in models:
        for part in models[name]["files"]:
            verify(part)
        path = runtime.data_dir() / models[name]["files"][0]
        if name == "llava-smollm2":
            from vlmlab.weights import smollm2  # which reads the encoder with load_encoder

            return smollm2.load(path, device)
        return saving.load(path, Tokenizer.load(runtime.data_dir() / "checkpoints" / "tokenizer.json"), device)
    if is_official(name):
        return load_official(name, device)
    if Path(name).is_dir():
        raise BadInput(f"{name} is a folder; give the checkpoint file in it (model.safetensors)")
    if Path(name).exists() or "/" in name or name.endswith((".safetensors", ".pt", ".pth", ".bin")):
        return saving.load(name, None, device)
    if f"checkpoints/{name}.safetensors" in manifest()["files"]:
        raise BadInput(f"{name} is part of a model, not one that answers; the models are: {', '.join(models)}")
    if name in PRESETS:
        raise BadInput(f"{name} ships no weights; VLM.from_preset({name!r}) builds it with random ones")
    raise UnknownName("model", name, [*models, *(preset for preset in PRESETS if preset not in models)])


def load_contrastive(name: str = "clip-tiny") -> tuple[ContrastiveModel, Tokenizer]:
    """The contrastively pretrained encoder with its text tower, and the tokenizer."""
    path = verify(f"checkpoints/{name}.safetensors")
    tensors, metadata = read_tensors(path)
    words = Tokenizer.load(verify("checkpoints/tokenizer.json"))
    try:
        config = ViTConfig(**json.loads(metadata["vision"]))
        model = ContrastiveModel(ViT(config), TextTower(tensors["text.embed.weight"].shape[0], words.id("<pad>")))
    except (KeyError, TypeError, ValueError) as error:
        raise BadCheckpoint(f"{path} is not a contrastive checkpoint ({error}); restore it from git") from None
    saving.fill(model, tensors, path)
    return model.eval(), words


def load_encoder(name: str) -> tuple[ViT | MambaVision, Preprocess]:
    """A pretrained encoder without what only its pretraining needed, and how pixels are prepared for it.

    name: "clip-tiny", "siglip-tiny", "dinov2-tiny" or "mambavision-tiny". Raises UnknownName for another, BadCheckpoint
    for a file that is missing, damaged, or not the one in the manifest.
    """
    encoders = [Path(file).stem for file, record in manifest()["files"].items() if record.get("encoder")]
    if name not in encoders:
        raise UnknownName("encoder", name, encoders)
    path = verify(f"checkpoints/{name}.safetensors")
    tensors, metadata = read_tensors(path)
    try:
        values = json.loads(metadata["vision"])
        model = ViT(ViTConfig(**values)) if "style" in values else MambaVision(MambaVisionConfig(**values))
    except (KeyError, TypeError, ValueError) as error:
        raise BadCheckpoint(f"{path} is not an encoder's checkpoint ({error}); restore it from git") from None
    weights = {key.removeprefix("vision."): value for key, value in tensors.items() if key.startswith("vision.")}
    saving.fill(model, weights, path)
    mean, std = NORMALISATION[values.get("style", "mambavision")]
    return model.eval(), Preprocess(model.config.image_size, mean, std)


def ship(record: dict[str, Any], *relative: str) -> None:
    """Enter files under data/ into the manifest with their hashes; `record` (recipe, seed, cost) goes to each."""
    listing = manifest()
    for name in relative:
        path = runtime.data_dir() / name
        listing["files"][name] = {"sha256": sha256(path), "bytes": path.stat().st_size, "licence": LICENCE, **record}
    write_json(runtime.data_dir() / "manifest.json", listing)
