"""Training over N GPUs with FSDP: what is wrapped, in which precision, and what each GPU holds. Notebook 16.

Weights, gradients and AdamW's two moments are float32 and lie in shards, 1 / N of every tensor's rows on each GPU
(FSDP, arXiv 2304.11277; ZeRO's stage 3, arXiv 1910.02054). A unit's weights are gathered just before it runs and let
go after it. Products run in bfloat16 by autocast; Mamba's delta and A stay in float32. Of every block only the input is
kept; the backward pass runs the block again (activation checkpointing, arXiv 1604.06174).
"""

import os
from collections.abc import Mapping, Sequence, Set
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from vlmlab.errors import BadInput
from vlmlab.language import LlamaConfig, MambaConfig, llama, mamba
from vlmlab.vision import blocks, mambavision_blocks
from vlmlab.vlm.model import VLM
from vlmlab.vlm.presets import VLMConfig

BLOCKS = (llama.Block, mamba.Block, blocks.Block, mambavision_blocks.ConvBlock, mambavision_blocks.WindowBlock)
ROOT = "the rest"  # embeddings, heads, norms, patches, the projector: gathered for a whole pass
WIDE, LOW = 4, 2  # bytes of a number in float32 and in bfloat16
CHUNK = 16  # tokens between two states that the scan keeps for its backward pass


def units(model: VLM) -> dict[str, list[str]]:
    """What is gathered together: a unit's name -> names of its parameters; every block, and the rest.

    A tied weight counts once, where `named_parameters` names it.
    """
    wrapped = _blocks(model)
    found: dict[str, list[str]] = {name: [] for name in [*wrapped, ROOT]}
    for parameter, _ in model.named_parameters():
        parts = parameter.split(".")
        owners = (".".join(parts[:end]) for end in range(len(parts) - 1, 0, -1))
        found[next((owner for owner in owners if owner in wrapped), ROOT)].append(parameter)
    return found


def _blocks(model: VLM) -> dict[str, nn.Module]:
    return {name: part for name, part in model.named_modules() if isinstance(part, BLOCKS)}


def shard_numbers(parameter: Tensor, gpus: int) -> int:
    """Numbers of a parameter on each of N GPUs: rows are dealt out evenly, the last shards are padded."""
    rows = parameter.shape[0] if parameter.dim() else 1
    return -(-rows // gpus) * (parameter.numel() // rows)


def memory(
    model: VLM, gpus: int, rows: int = 16, tokens: int | None = None, parts: Sequence[str] = ("projector", "language")
) -> dict[str, int]:
    """Bytes on each GPU while some parts train, by what holds them; the encoder is frozen.

    Args:
        gpus: N; one trains without shards and keeps what its blocks need instead of running them again.
        rows: of a batch on each GPU. tokens: of a row, image tokens included; by default the longest row.

    Returns:
        "weights", "gradients" and "moments" are exact. "copies": of N GPUs' the gathered rest and two blocks, their
        gradients, and one block in bfloat16; of one all weights in bfloat16 but the encoder's. "blocks", "projector":
        what they keep for the backward pass. "logits": of all text tokens, the most that can be labelled. These four
        are reckoned from the operators. "total"; kernels' workspace, fragments and CUDA itself come on top.

    Raises BadInput for counts below 1, and for parts that train but are not "projector" and "language".
    """
    config = model.config
    tokens = config.max_length if tokens is None else tokens
    if min(gpus, rows) < 1 or tokens <= config.image_tokens:
        raise BadInput(f"{gpus} GPUs, {rows} rows, {tokens} tokens; needs a GPU, a row, and tokens behind an image's")
    if not parts or not {*parts} <= {"projector", "language"}:
        raise BadInput(f"parts={list(parts)}: reckoned for the projector, the language model, or both")
    numbers = {name: parameter.numel() for name, parameter in model.named_parameters()}
    moving = {name for name in numbers if name.partition(".")[0] in parts}
    shares = {name: shard_numbers(parameter, gpus) for name, parameter in model.named_parameters()}
    trained = sum(shares[name] for name in moving)
    language, kept = config.language, rows * tokens * WIDE * config.language.dim
    if gpus == 1:
        copies = LOW * sum(size for name, size in numbers.items() if not name.startswith("vision."))
        blocks = language.layers * (rows * tokens * block_bytes(language) + kept)
    else:
        copies = _gathered(model, numbers, moving)
        blocks = language.layers * kept + rows * tokens * block_bytes(language)
    found = {
        "weights": WIDE * sum(shares.values()),
        "gradients": WIDE * trained,
        "moments": 2 * WIDE * trained,
        "copies": copies,
        "blocks": blocks,
        "projector": rows * projector_bytes(config),
        "logits": rows * (tokens - config.image_tokens) * language.vocab_size * (LOW + 3 * WIDE),
    }
    return {**found, "total": sum(found.values())}


def _gathered(model: VLM, numbers: Mapping[str, int], moving: Set[str]) -> int:
    """Bytes of whole weights and gradients beside the shards: the rest, and two blocks of which one runs."""
    plan = units(model)
    sizes = {unit: sum(numbers[name] for name in names) for unit, names in plan.items()}
    largest = max((unit for unit in plan if unit.startswith("language.")), key=sizes.__getitem__)
    weights = sizes[ROOT] + 2 * sizes[largest]
    gradients = sum(numbers[name] for name in [*plan[ROOT], *plan[largest]] if name in moving)
    return WIDE * (weights + gradients) + LOW * sizes[largest]


def block_bytes(config: LlamaConfig | MambaConfig) -> int:
    """Bytes a token that a block keeps for its backward pass under autocast, its weights apart.

    Llama: 2 norms and the sums before them; the inputs of 5 products, q, k, v, attention's output and its logarithms of
    sums; 4 tensors of the MLP. Mamba: a norm and the sum before it; in channels of the mixer, 5 tensors in float32, the
    scan's states, and 6 in bfloat16.
    """
    if isinstance(config, LlamaConfig):
        queries, keys = config.heads * config.width, config.kv_heads * config.width
        attention = LOW * (5 * config.dim + 2 * queries + 2 * keys) + WIDE * config.heads
        return WIDE * (4 * config.dim + 2) + attention + LOW * 4 * config.hidden
    wide = 5 * config.inner + config.inner * config.state // CHUNK + 2 * config.state + 2 * config.dim + 1
    return WIDE * wide + LOW * (6 * config.inner + config.dim + config.rank + 2 * config.state)


def projector_bytes(config: VLMConfig) -> int:
    """Bytes a picture that the projector keeps: the inputs of its products and of its activations, in bfloat16."""
    wide, dim = config.feature_dim, config.language.dim
    hidden = 4 * wide
    each = {
        "linear": wide,
        "mlp2x_gelu": wide + 2 * dim,
        "gelu-mlp": wide + 2 * dim,
        "fused-gelu-mlp": wide + 2 * hidden + 2 * dim,
        "fused-ldpnet": wide + 2 * hidden + dim,
    }[config.projector]
    return LOW * config.feature_tokens * each


# ---------------------------------------------------------------- the same, done
def asked() -> bool:
    """Whether accelerate launch was told to shard, as configs/fsdp.yaml tells it."""
    return os.environ.get("ACCELERATE_USE_FSDP", "false").lower() in ("1", "true")


def shard(model: VLM, device: torch.device) -> VLM:
    """Deal a model's weights out over the processes, in place, unit by unit; blocks keep their inputs alone.

    It computes the same as before, in all processes at once: each must run every part, also the encoder. Between
    passes its parameters are shards; `gather` puts whole ones back.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.utils.checkpoint import checkpoint

    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    for part in _blocks(model).values():
        part.forward = partial(checkpoint, part.forward, use_reentrant=False)
        fully_shard(part, mesh=mesh)
    fully_shard(model, mesh=mesh, reshard_after_forward=True)
    return model


def whole(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Shards put together, on the CPU, in every process; other tensors as they are."""
    return {name: _whole(value) for name, value in tensors.items()}


def _whole(value: Any) -> Tensor:
    return value.full_tensor().cpu() if is_shard(value) else value


def is_shard(value: Any) -> bool:
    """Whether a tensor is one process's shard."""
    return hasattr(value, "full_tensor")


def like(value: Tensor, target: Tensor) -> Tensor:
    """This process's shard of a whole tensor if `target` is a shard, else the tensor itself."""
    if not is_shard(target):
        return value
    from torch.distributed.tensor import distribute_tensor

    mesh, placements = target.device_mesh, target.placements  # type: ignore[attr-defined]
    return distribute_tensor(value.to(target.device), mesh, placements, src_data_rank=None)


def gather(model: nn.Module) -> None:
    """Put whole parameters, on the CPU, in place of a model's shards, in every process: to be saved, not to be run."""
    for name, parameter in list(model.named_parameters()):
        if is_shard(parameter):
            where, _, leaf = name.rpartition(".")
            kept = nn.Parameter(_whole(parameter.detach()), parameter.requires_grad)
            model.get_submodule(where)._parameters[leaf] = kept
