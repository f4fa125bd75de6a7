"""A transformer and a Mamba at full size against length, to 32 thousand tokens. Notebook 16."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from vlmlab import runtime
from vlmlab.bench.scaling import prefill
from vlmlab.errors import BadInput
from vlmlab.gpu.measuring import figure, free, language_model, milliseconds, peak
from vlmlab.language import Llama, Mamba
from vlmlab.language.graphs import Decoder

PRESETS = ("llava-1.5-7b", "cobra-3b")
MEASURED = ("prefill_ms", "token_ms", "kept_bytes", "peak_bytes")


def lengths(
    presets: Sequence[str] = PRESETS,
    device: str = "cuda",
    lengths: Sequence[int] = (512, 1024, 2048, 4096, 8192, 16384, 32768),
    tokens: int = 32,
    rounds: int = 3,
    dtype: str = "bfloat16",
) -> dict[str, Any]:
    """Prefill, decoding and memory of the presets' language models at batch 1, by length of the prompt.

    Args: tokens decoded after each prompt, through a CUDA graph; rounds of timing; dtype of the weights.
    Returns {"lengths", "parameters" by name, and by name one value a length, None where memory ran out: "prefill_ms",
    "token_ms", "kept_bytes" (the cache or state), "peak_bytes" (of the prefill, weights included; on a GPU)}.
    A transformer is given as many positions as it needs; with random weights that changes no time.
    Raises BadInput without that device or for lengths, tokens or rounds below 1.
    """
    on = runtime.device(device)
    if min(tokens, rounds, *lengths) < 1:
        raise BadInput(f"lengths={list(lengths)}, tokens={tokens}, rounds={rounds} must be at least 1")
    found: dict[str, Any] = {"lengths": list(lengths), "new_tokens": tokens, "dtype": dtype, "parameters": {}}
    found |= {what: {name: [] for name in presets} for what in MEASURED}
    for name in presets:
        model = language_model(name, max(lengths) + tokens, on, dtype)
        found["parameters"][name] = sum(p.numel() for p in model.parameters())
        for length in lengths:
            values = or_none(partial(_measured, model, length, tokens, rounds, on))
            for what in MEASURED:
                found[what][name].append(values[what] if values else None)
            free(on)
        del model
        free(on)
    return found


def or_none(run: Callable[[], dict[str, Any]]) -> dict[str, Any] | None:
    """What a measurement gives; None where the GPU's memory does not suffice."""
    try:
        return run()
    except torch.OutOfMemoryError:
        return None


def _measured(model: Llama | Mamba, length: int, tokens: int, rounds: int, device: torch.device) -> dict[str, Any]:
    ids = torch.randint(4, model.config.vocab_size, (1, length), generator=runtime.generator(length)).to(device)
    with peak(device) as most:
        cache = prefill(model, ids)
    decoder = Decoder(model, length + tokens)

    def decode() -> None:
        decoder.start(cache, tokens)
        token = ids[:, -1]
        for _ in range(tokens):
            token = decoder(token)

    times = milliseconds({"prefill": partial(prefill, model, ids), "token": decode}, device, rounds)
    return {
        "prefill_ms": figure(times["prefill"]),
        "token_ms": figure(times["token"] / tokens),
        "kept_bytes": cache.bytes(),
        "peak_bytes": most[0] if most else None,
    }
