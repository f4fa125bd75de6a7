"""A published VLM by its folder, its file, or its name on the hub at a fixed commit. Notebook 16."""

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from vlmlab import runtime
from vlmlab.errors import BadCheckpoint, BadInput, MissingDependency
from vlmlab.files import read_json
from vlmlab.language import Tokenizer
from vlmlab.vlm.model import VLM
from vlmlab.vlm.presets import VLMConfig
from vlmlab.weights.assembling import Report, assemble, compare
from vlmlab.weights.official.cobra import FILE, open_cobra
from vlmlab.weights.official.language import check_head
from vlmlab.weights.official.llava import open_llava
from vlmlab.weights.official.parts import Opened, Vision
from vlmlab.weights.official.vocabularies import find_tokenizer
from vlmlab.weights.streaming import SUFFIXES, open_checkpoint

HUB = re.compile(r"([\w.-]+/[\w.-]+)(?:@([^/\s]+)(?:/(.+))?)?")
COMMIT = re.compile(r"[0-9a-f]{40}")
SMALL = ("*.json", "*.txt", "tokenizer.model")


def load_official(
    name_or_path: str | os.PathLike,
    device: str | torch.device = "auto",
    dtype: torch.dtype | None = None,
    vision: Vision = None,
    tokenizer: Tokenizer | None = None,
) -> VLM:
    """A published LLaVA-1.5 or Cobra, in evaluation mode, filled tensor by tensor.

    Args:
        name_or_path: a folder with a config.json and weights: LLaVA in the original layout or in transformers', or
            Cobra; or a file of weights in it; or "owner/name@commit" on the Hugging Face hub, see `fetch`.
        dtype: of the weights; by default float32 on a CPU, and what is stored on other devices.
        vision: where the vision weights lie that the checkpoint leaves out (LLaVA's original layout: the path of the
            CLIP tower; Cobra: {"dinov2": path, "siglip": path}). By default they are looked for beside it.
        tokenizer: by default the one beside the weights; without any, ids alone go in and out.

    Raises:
        BadCheckpoint: files that are missing, damaged, of another model, or that do not fit (with a `Report`).
        BadInput: a name on the hub without a commit.
    """
    where = runtime.device(device)
    path = fetch(name_or_path)
    opened = open_official(path, vision)
    tokenizer = tokenizer or find_tokenizer(_folder(path))
    config = opened.config
    if tokenizer is not None and tokenizer.image_id is not None and config.image_id == config.language.vocab_size:
        config = replace(config, image_id=tokenizer.image_id)  # a word of its own, which upstream's files do not need
    vlm = VLM.from_preset(config, "meta", tokenizer)
    assemble(vlm, opened.sources, torch.float32 if dtype is None and where.type == "cpu" else dtype, where)
    check_head(vlm.language, opened.sources[0].checkpoint, opened.head)
    return vlm.eval()


def official_config(name_or_path: str | os.PathLike, vision: Vision = None) -> VLMConfig:
    """What a published VLM is, from its config.json and the shapes of its tensors, for `vlmlab.vlm.account`; no weight
    is read. Raises as `load_official`."""
    return open_official(fetch(name_or_path), vision).config


def check_official(name_or_path: str | os.PathLike, vision: Vision = None) -> Report:
    """What of a published VLM's tensors is missing, unexpected or of another shape; no weight is read.

    Raises BadCheckpoint for files that cannot be opened, as `load_official`.
    """
    opened = open_official(fetch(name_or_path), vision)
    return compare(VLM.from_preset(opened.config, "meta"), opened.sources)


def is_official(name_or_path: str | os.PathLike) -> bool:
    """Whether this names a published checkpoint: a folder with a config.json, a file of torch.save, or a hub's name."""
    path = Path(name_or_path)
    if path.is_dir():
        return (path / "config.json").is_file()
    if path.exists():
        return path.suffix in SUFFIXES[1:]
    return path.suffix not in SUFFIXES and HUB.fullmatch(str(name_or_path)) is not None


def open_official(path: str | os.PathLike, vision: Vision = None) -> Opened:
    """The model in a folder, or in the folder of a file, recognised by its config.json. Raises BadCheckpoint."""
    path, folder = Path(path), _folder(Path(path))
    if not (folder / "config.json").is_file():
        raise BadCheckpoint(f"no config.json lies with {path}; it says which model this is: copy it there too")
    try:
        values = read_json(folder / "config.json")
    except BadInput as error:
        raise BadCheckpoint(str(error)) from None
    if not isinstance(values, dict):
        raise BadCheckpoint(f"{folder / 'config.json'} is no configuration of a model")
    if isinstance(values.get("model"), dict) and "arch_specifier" in values["model"]:
        return open_cobra(folder, open_checkpoint(folder / FILE if path == folder else path), values, vision)
    if "mm_projector_type" in values or "mm_vision_tower" in values or values.get("model_type") == "llava":
        return open_llava(folder, open_checkpoint(path), values, vision)
    kind = values.get("model_type") or values.get("architecture") or ("mamba" if "d_model" in values else "unknown")
    raise BadCheckpoint(
        f"{path} holds a model of type {kind!r}; LLaVA-1.5 and Cobra can be opened whole, language models with "
        "vlmlab.weights.load_language, vision models with vlmlab.weights.load_vision"
    )


def _folder(path: Path) -> Path:
    """The folder of the config.json that belongs to a path: Cobra's file lies one folder deeper."""
    if path.is_dir():
        return path
    return path.parent.parent if path.parent.name == FILE.parent.name else path.parent


def fetch(name_or_path: str | os.PathLike) -> Path:
    """The local path of a checkpoint; one on the Hugging Face hub is downloaded first.

    name_or_path: a path, or "owner/name@commit", or "owner/name@commit/folder"; commit is the full 40 digits. Only
    such a name touches the network; without one, what the hub's cache holds is used. No code is fetched.
    Raises BadInput for a name that is not pinned, BadCheckpoint for a path that is not there or a failed download.
    """
    if Path(name_or_path).exists():
        return Path(name_or_path)
    match = HUB.fullmatch(str(name_or_path))
    if match is None:
        raise BadCheckpoint(f"no such checkpoint: {name_or_path}")
    repository, revision, inside = match.groups()
    if not COMMIT.fullmatch(revision or ""):
        raise BadInput(
            f"no such checkpoint: {name_or_path}; for a repository on the Hugging Face hub pin the commit, which "
            f"cannot move: {repository}@ and the 40 hexadecimal digits that its list of commits shows"
        )
    before = f"{inside.strip('/')}/" if inside else ""
    for weights in ("*.safetensors", "*.bin", "*.pt"):  # the first kind that there is
        folder = _download(repository, revision, [*(before + name for name in SMALL), f"{before}{weights}"]) / before
        if any(folder.rglob(weights)):
            return folder
    raise BadCheckpoint(f"{name_or_path} holds no weights that can be read (safetensors, .bin, .pt)")


def _download(repository: str, revision: str, patterns: list[str]) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise MissingDependency("huggingface_hub", f"fetching {repository}") from None
    options: dict[str, Any] = {"revision": revision, "allow_patterns": patterns}
    try:
        return Path(snapshot_download(repository, **options))
    except Exception as error:  # no network, no such repository, no access: each has a class of its own
        reason = str(error).strip().split("\n")[0][:160] or type(error).__name__
        raise BadCheckpoint(f"{repository}@{revision} cannot be fetched ({reason})") from None
