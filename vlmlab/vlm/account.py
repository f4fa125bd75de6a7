"""What a VLM costs, from its shapes alone: parameters, FLOPs, cache bytes, by part. Notebooks 02, 06 and 16.

One multiply-add counts as 2 FLOPs; only matrix products count (norms, activations, softmax, rotary turns and the
interpolation of position embeddings are left out, under 1 % at these sizes). With T tokens, width D, hidden width M,
H heads of d channels, K key-value heads, p pixels a patch side, V words:

    ViT     patches    2 * P * 3 p^2 * D
            a block    2 T D * 4 D (q, k, v, out)  +  4 T^2 D (scores, weighted sum)  +  2 T * 2 D M (MLP; 3 D M gated)
            only the blocks up to the feature layer run
    MambaVision     see vlmlab.vision.mambavision_config.multiply_adds; levels after the feature level do not run
    W       linear     2 N D_v D        mlp2x_gelu, gelu-mlp  2 N (D_v D + D^2)
            fused-gelu-mlp  2 N (4 D_v^2 + 4 D_v D + D^2)        fused-ldpnet  2 N (4 D_v^2 + 4 D_v D) + 18 N' D
    Llama   a layer    2 L D d (2 H + 2 K)  +  4 L T H d  +  2 L * 3 D M
    Mamba   a block    2 L (3 D I + I (R + 2 S) + R I) of matrices, 2 L I taps of the convolution, and 6 L I S of the
            scan (decay, input and output, a multiply-add each), I inner channels, S numbers of state, R rank of delta
    both    head 2 D V, once: a prefill needs the logits of its last position only

Attention is counted as the full square L x T, as `torch.utils.flop_counter` counts it; a kernel that skips the masked
half does less. The KV cache holds 2 * layers * K * d numbers a token; Mamba's state layers * I * (S + taps) in all.
"""

from collections.abc import Sequence
from typing import Any

import torch

from vlmlab.errors import BadInput
from vlmlab.language import LlamaConfig, MambaConfig
from vlmlab.vision import MambaVisionConfig, ViTConfig
from vlmlab.vision.mambavision_config import LEVELS, multiply_adds
from vlmlab.vlm.model import VLM
from vlmlab.vlm.presets import VLMConfig, get_preset
from vlmlab.vlm.sharding import memory

DTYPES: dict[str, torch.dtype] = {"bf16": torch.bfloat16, "fp32": torch.float32}


def account(
    model: str | VLMConfig | VLM,
    text_tokens: int = 64,
    lengths: Sequence[int] = (512, 1024, 2048, 4096),
    gpus: int | None = None,
    batch: int = 16,
) -> dict[str, Any]:
    """Parameters, FLOPs and memory of a model by part; plain numbers, ready for JSON.

    Args:
        model: a preset's name, a config (both built on the meta device, without memory), or a VLM.
        text_tokens: length of the text of the prefill that is counted; one image comes with it.
        lengths: numbers of tokens for which the size of the cache is given.
        gpus: of a training whose memory is given, too; batch: its rows on each of them.

    Returns:
        `name`; `parameters` by part and `total`; `weight_bytes` {dtype: bytes}; `image_tokens` N; `prefill` with
        `text_tokens`, `tokens` and `flops` by part; `decode_flops` of one more token after that prefill;
        `cache_bytes_per_token` {dtype: bytes} and `cache_bytes` {dtype: {length: bytes}}. With gpus, `training` with
        `gpus`, `batch`, `tokens` of a row and `bytes` as `sharding.memory` gives them.

    Raises:
        UnknownName: no preset has that name. BadInput: a length is negative, or gpus or batch below 1.
    """
    if text_tokens < 0 or any(length < 0 for length in lengths):
        raise BadInput(f"text_tokens={text_tokens} and lengths={list(lengths)} must not be negative")
    config = model.config if isinstance(model, VLM) else get_preset(model) if isinstance(model, str) else model
    vlm = model if isinstance(model, VLM) else VLM.from_preset(config, device="meta")
    parameters = vlm.count_parameters()
    tokens = config.image_tokens + text_tokens
    flops = {
        "vision": vision_flops(config),
        "projector": projector_flops(config),
        "language": language_flops(config.language, tokens, tokens),
    }
    training = {} if gpus is None else {
        "training": {"gpus": gpus, "batch": batch, "tokens": config.max_length, "bytes": memory(vlm, gpus, batch)}
    }  # fmt: skip
    return {
        "name": config.name,
        "parameters": parameters,
        "weight_bytes": {name: parameters["total"] * dtype.itemsize for name, dtype in DTYPES.items()},
        "image_tokens": config.image_tokens,
        "prefill": {
            "text_tokens": text_tokens,
            "tokens": tokens,
            "flops": {**flops, "total": sum(flops.values())},
        },
        "decode_flops": language_flops(config.language, 1, tokens + 1),
        "cache_bytes_per_token": {
            name: cache_bytes(config.language, 2, dtype) - cache_bytes(config.language, 1, dtype)
            for name, dtype in DTYPES.items()
        },
        "cache_bytes": {
            name: {str(length): cache_bytes(config.language, length, dtype) for length in lengths}
            for name, dtype in DTYPES.items()
        },
        **training,
    }


def vision_flops(config: VLMConfig) -> int:
    """FLOPs of H_v for one image, up to the deepest feature layer, of every encoder."""
    total = 0
    for vit in config.vision.encoders:
        if isinstance(vit, MambaVisionConfig):
            last = max(layer % LEVELS for layer in config.feature_layers)
            total += 2 * sum(multiply_adds(vit, config.image_size, config.image_size, last).values())
            continue
        patches = (config.image_size // vit.patch_size) ** 2
        deepest = max(layer % (vit.layers + 1) for layer in config.feature_layers)
        runs_all = config.select == "full" or len(config.feature_layers) > 1  # these ask for every hidden state
        blocks = vit.layers if runs_all else deepest
        total += _patch_flops(vit, patches) + blocks * _vit_block_flops(vit, patches + vit.prefix_tokens)
    return total


def _patch_flops(vit: ViTConfig, patches: int) -> int:
    return 2 * patches * 3 * vit.patch_size**2 * vit.dim


def _vit_block_flops(vit: ViTConfig, tokens: int) -> int:
    matrices = 3 if vit.activation == "swiglu" else 2
    return 2 * tokens * 4 * vit.dim**2 + 4 * tokens**2 * vit.dim + 2 * tokens * matrices * vit.dim * vit.hidden


def projector_flops(config: VLMConfig) -> int:
    """FLOPs of Z_v = W(H_v) for one image."""
    wide, dim = config.feature_dim, config.language.dim
    each = {
        "linear": wide * dim,
        "mlp2x_gelu": wide * dim + dim**2,
        "gelu-mlp": wide * dim + dim**2,
        "fused-gelu-mlp": 4 * wide**2 + 4 * wide * dim + dim**2,
        "fused-ldpnet": 4 * wide**2 + 4 * wide * dim,
    }[config.projector]
    convolution = 9 * dim * config.image_tokens if config.projector == "fused-ldpnet" else 0
    return 2 * (config.feature_tokens * each + convolution)


def language_flops(config: LlamaConfig | MambaConfig, new: int, seen: int) -> int:
    """FLOPs of reading `new` tokens of which the last sees `seen`, with logits for the last one only."""
    head = 2 * config.dim * config.vocab_size
    if isinstance(config, MambaConfig):
        inner, rank, state = config.inner, config.rank, config.state
        matrices = 3 * config.dim * inner + inner * (rank + 2 * state) + rank * inner
        return config.layers * 2 * new * (matrices + inner * config.conv + 3 * inner * state) + head
    projections = 2 * new * config.dim * config.width * (2 * config.heads + 2 * config.kv_heads)
    attention = 4 * new * seen * config.heads * config.width
    mlp = 2 * new * 3 * config.dim * config.hidden
    return config.layers * (projections + attention + mlp) + head


def cache_bytes(config: LlamaConfig | MambaConfig, length: int, dtype: torch.dtype = torch.bfloat16) -> int:
    """Bytes that one row of `length` tokens leaves behind: a KV cache, or Mamba's state, which has one size."""
    if isinstance(config, MambaConfig):
        return config.layers * config.inner * (config.state + config.conv) * dtype.itemsize
    return 2 * config.layers * config.kv_heads * config.width * length * dtype.itemsize


def decode_bytes(vlm: VLM, length: int, bits: float = 16, dtype: torch.dtype = torch.bfloat16) -> int:
    """Bytes of memory that one more token moves behind `length` tokens, at batch 1; over a bandwidth, its least time.

    The language model's weights once, of a table of embeddings that is no head a single row; a KV cache once, or a
    Mamba's state twice, to read and to write it. bits: of a weight; dtype: of the cache or state.
    """
    config = vlm.config.language
    weights = sum(p.numel() for p in vlm.language.parameters())
    weights -= 0 if config.tie_embeddings else (config.vocab_size - 1) * config.dim
    moved = 2 if isinstance(config, MambaConfig) else 1
    return round(weights * bits / 8) + moved * cache_bytes(config, length, dtype)


def longest(vlm: VLM, memory: float, bits: float = 16, dtype: torch.dtype = torch.bfloat16) -> float:
    """Tokens that one row may have beside the weights in `memory` bytes; infinite for a Mamba whose state fits.

    Workspace is not counted. bits: of a weight; dtype: of the cache or state. 0 where the weights alone do not fit.
    """
    left = memory - vlm.count_parameters()["total"] * bits / 8
    config = vlm.config.language
    first, second = (cache_bytes(config, length, dtype) for length in (1, 2))
    if first == second:
        return float("inf") if left >= first else 0
    return max(int(left // first), 0)


def rows(result: dict[str, Any]) -> list[tuple[str, str]]:
    """The account as (what, how much) lines for people."""
    prefill = result["prefill"]
    lines = [(f"parameters, {part}", f"{count:,}") for part, count in result["parameters"].items()]
    lines += [(f"weights in {dtype}", _bytes(size)) for dtype, size in result["weight_bytes"].items()]
    lines.append(("tokens per image", f"{result['image_tokens']:,}"))
    title = f"FLOPs of a prefill of {prefill['tokens']:,} tokens"
    lines += [(f"{title}, {part}", _si(count)) for part, count in prefill["flops"].items()]
    lines.append(("FLOPs of the next token", _si(result["decode_flops"])))
    for dtype, sizes in result["cache_bytes"].items():
        if len(set(sizes.values())) == 1 < len(sizes):
            lines.append((f"state at any length, {dtype}", _bytes(next(iter(sizes.values())))))
        else:
            lines += [(f"KV cache at {int(length):,} tokens, {dtype}", _bytes(size)) for length, size in sizes.items()]
    if training := result.get("training"):
        where = "on one GPU" if training["gpus"] == 1 else f"on each of {training['gpus']} GPUs"
        where += f", {training['batch']} rows of {training['tokens']:,}"
        lines += [(f"training {where}, {what}", _bytes(size)) for what, size in training["bytes"].items()]
    return lines


def text(result: dict[str, Any]) -> str:
    """The account as plain text."""
    lines = rows(result)
    width = max(len(what) for what, _ in lines)
    return "\n".join([result["name"], *(f"  {what:<{width}}  {much:>18}" for what, much in lines)])


def table(result: dict[str, Any]) -> Any:
    """The account as a `rich.table.Table`; plain text where rich is not installed."""
    try:
        from rich.table import Table
    except ImportError:
        return text(result)
    out = Table(title=result["name"], show_header=False)
    out.add_column("what")
    out.add_column("how much", justify="right")
    for what, much in rows(result):
        out.add_row(what, much)
    return out


def _si(number: float) -> str:
    for unit in ("", "k", "M", "G", "T"):
        if number < 1000:
            return f"{number:.4g} {unit}".strip()
        number /= 1000
    return f"{number:.4g} P"


def _bytes(number: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024:
            return f"{number:.4g} {unit}"
        number /= 1024
    return f"{number:.4g} TiB"
