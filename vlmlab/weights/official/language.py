"""Llama and Mamba language models from transformers' files or state-spaces', and their tokenizers. Notebook 16."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vlmlab import runtime
from vlmlab.errors import BadCheckpoint, VlmlabError
from vlmlab.language import Llama, LlamaConfig, Mamba, MambaConfig, Tokenizer
from vlmlab.weights.assembling import Placement, Plan, Source, assemble
from vlmlab.weights.official.encoders import config_beside, transformers_config
from vlmlab.weights.official.vocabularies import find_tokenizer
from vlmlab.weights.streaming import AGAIN, Checkpoint, open_checkpoint

LLAMA_KEYS = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "hidden_act", "max_position_embeddings", "rms_norm_eps", "rope_theta",
    "rope_scaling", "rope_parameters", "attention_bias", "mlp_bias", "tie_word_embeddings",
)  # fmt: skip
MULTIPLE = 8  # to which state-spaces pads a vocabulary


@dataclass(frozen=True)
class LanguagePart:
    """A stored language model. head: the stored name of an output layer that must equal the embeddings, if any."""

    config: LlamaConfig | MambaConfig
    plan: Plan
    head: str | None = None


def load_language(
    path: str | os.PathLike, device: str | torch.device = "auto", dtype: torch.dtype | None = torch.float32
) -> tuple[Llama | Mamba, Tokenizer | None]:
    """A Llama or a Mamba with a user's copy of its weights, in evaluation mode, and its tokenizer if it lies beside.

    Args:
        path: a folder of transformers (Llama, Mamba) or of state-spaces (Mamba), with its config.json; or a GGUF file
            with a Llama, see `vlmlab.weights.gguf`.
        dtype: of the weights; None keeps what is stored. A scan's A_log and D get at least float32.

    Raises:
        BadCheckpoint: missing or damaged files, another architecture, or weights that do not fit their configuration.
    """
    if Path(path).suffix == ".gguf":
        from vlmlab.weights.gguf import load_llama

        return load_llama(path, device, dtype)
    where = runtime.device(device)
    checkpoint, values = open_checkpoint(path), config_beside(path)
    if values is None:
        raise BadCheckpoint(f"{path}: no config.json lies beside the weights; copy it there too")
    part = read_language(checkpoint, values)
    with torch.device("meta"):
        model = Mamba(part.config) if isinstance(part.config, MambaConfig) else Llama(part.config)
    assemble(model, [Source(checkpoint, part.plan)], dtype, where)
    check_head(model, checkpoint, part.head)
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    return model.eval(), find_tokenizer(folder)


def read_language(checkpoint: Checkpoint, values: Mapping[str, Any]) -> LanguagePart:
    """Shape and plan of a language model that fills a whole checkpoint, from its config.json. Raises BadCheckpoint."""
    kind = values.get("model_type", "state-spaces" if "d_model" in values else None)
    if kind == "llama":
        config = llama_config(values, checkpoint.where)
        return LanguagePart(config, llama_plan(config, r"(model\.)?"), _tied(config, "lm_head.weight", checkpoint))
    if kind == "mamba":
        mamba: MambaConfig = _read(MambaConfig, transformers_config(values, checkpoint.where), checkpoint.where)
    elif kind == "state-spaces":
        mamba = state_spaces_config(values, checkpoint)
    else:
        raise BadCheckpoint(
            f"{checkpoint.where} holds a model of type {kind!r}; language models that can be read: llama, mamba "
            "(transformers or state-spaces)"
        )
    return LanguagePart(mamba, mamba_plan(mamba, r"backbone\."), _tied(mamba, "lm_head.weight", checkpoint))


# ---------------------------------------------------------------- sizes
def llama_config(values: Mapping[str, Any], where: Path) -> LlamaConfig:
    """The Llama that a config.json describes, other fields in it left alone. Raises BadCheckpoint."""
    kept = {key: values[key] for key in LLAMA_KEYS if values.get(key) is not None}
    return _read(LlamaConfig, transformers_config({"model_type": "llama", **kept}, where), where)


def _read(ours: Any, theirs: Any, where: Path) -> Any:
    try:
        return ours.from_transformers(theirs)
    except VlmlabError as error:
        raise BadCheckpoint(f"{where} holds a language model that is not computed here: {error}") from None


def state_spaces_config(values: Mapping[str, Any], checkpoint: Checkpoint) -> MambaConfig:
    """The Mamba that a config.json of state-spaces describes. Raises BadCheckpoint for another kind of block."""
    options = dict(values.get("ssm_cfg") or {})
    layer = options.pop("layer", "Mamba1")
    if layer != "Mamba1" or values.get("attn_layer_idx") or values.get("d_intermediate") or not values.get("rms_norm"):
        raise BadCheckpoint(
            f"{checkpoint.where}: only Mamba's first form is computed here, blocks with RMSNorm alone; the config.json "
            f"has layer {layer!r}, rms_norm {values.get('rms_norm')}, attention in {values.get('attn_layer_idx') or []}"
        )
    return mamba_from_shapes(checkpoint, r"backbone\.", bool(values.get("tie_embeddings", True)))


def mamba_from_shapes(checkpoint: Checkpoint, before: str, tied: bool = True) -> MambaConfig:
    """A Mamba of the sizes that its stored tensors have; `before` is a pattern of what stands before their names."""
    stored = {re.sub(f"^{before}", "", name): tensor for name, tensor in checkpoint.tensors.items()}
    layers = {int(match[1]) for name in stored if (match := re.match(r"layers\.(\d+)\.", name))}
    try:
        words, dim = stored["embedding.weight"].shape
        inner, state = stored["layers.0.mixer.A_log"].shape
        return MambaConfig(
            vocab_size=words,
            dim=dim,
            layers=len(layers),
            state=state,
            conv=stored["layers.0.mixer.conv1d.weight"].shape[-1],
            expand=inner // dim,
            dt_rank=stored["layers.0.mixer.dt_proj.weight"].shape[1],
            tie_embeddings=tied,
        )
    except (KeyError, ValueError, VlmlabError) as error:
        raise BadCheckpoint(f"{checkpoint.where} holds no Mamba that can be read ({error}); {AGAIN}") from None


# ---------------------------------------------------------------- names
def llama_plan(config: LlamaConfig, before: str, head: str = r"lm_head\.weight", target: str = "") -> Plan:
    """Where the tensors of a transformers Llama go. before, head: patterns of what stands before its names, and of the
    name of its output layer."""
    return _plan(config.tie_embeddings, before, head, target, {})


def mamba_plan(config: MambaConfig, before: str, head: str = r"lm_head\.weight", target: str = "") -> Plan:
    """Where the tensors of a Mamba of transformers or of state-spaces go; patterns as in `llama_plan`."""
    return _plan(config.tie_embeddings, before, head, target, {"embedding.weight": "embeddings.weight"})


def _plan(tied: bool, before: str, head: str, target: str, renamed: Mapping[str, str]) -> Plan:
    def plan(name: str) -> list[Placement] | None:
        if re.fullmatch(head, name):
            return [] if tied else [Placement(f"{target}lm_head.weight")]
        match = re.match(before, name)
        if match is None:
            return None
        inner = name[match.end() :]
        if inner.endswith("rotary_emb.inv_freq"):  # computed here
            return []
        return [Placement(target + renamed.get(inner, inner))]

    return plan


def _tied(config: LlamaConfig | MambaConfig, head: str, checkpoint: Checkpoint) -> str | None:
    return head if config.tie_embeddings and head in checkpoint.tensors else None


def check_head(model: Llama | Mamba, checkpoint: Checkpoint, head: str | None) -> None:
    """Raise BadCheckpoint if the stored output layer `head` is not the embeddings, to which the model ties it."""
    if head is None:
        return
    embeddings = (model.embeddings if isinstance(model, Mamba) else model.embed_tokens).weight.detach()
    for _, stored in checkpoint.read([head]):
        if stored.shape != embeddings.shape or not torch.equal(stored.to(embeddings), embeddings):
            raise BadCheckpoint(
                f"{checkpoint.where}: {head} differs from the embeddings, though the configuration ties them; {AGAIN}"
            )
