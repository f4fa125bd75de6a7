"""Cobra's speed protocol: 256 new tokens about one picture, its encoding included, at full size. Notebook 16.

Weights are random and the picture is noise: neither changes what a GPU computes. Decoding is greedy, through a CUDA
graph that was captured before. The limit beside it is memory: what a token must read (and, of a state, write) over the
bandwidth of a copy, measured in the same run.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vlmlab import runtime
from vlmlab.errors import BadInput
from vlmlab.gpu.measuring import copy_bandwidth, figure, free, milliseconds, peak, vlm
from vlmlab.language import LlamaConfig
from vlmlab.language.graphs import Decoder

PAPER = {"cobra-3b": 166.47, "cobra-3b-ldp": 166.85}
"""Tokens a second on an A100 80 GB (Cobra, arXiv 2403.14520 v4); its other two, Cobra-8B 79.92 and MobileVLM v2 49.50,
are no presets of ours."""
PRESETS = ("cobra-3b", "cobra-3b-ldp", "cobra-mambavision-l", "llava-1.5-7b")
TEXT = 16  # tokens of the prompt beside the picture: about "Describe the image specifically" in a template


def decode(
    presets: Sequence[str] = PRESETS,
    device: str = "cuda",
    tokens: int = 256,
    rounds: int = 3,
    dtype: str = "bfloat16",
    copied: int = 2**30,
) -> dict[str, Any]:
    """Speed of each preset at batch 1 beside the memory-bandwidth limit and the paper's figure.

    Args: tokens, new ones; rounds of timing; dtype of the weights; copied, bytes of the copy that gives the bandwidth.
    Returns {"bandwidth" in bytes a second, "new_tokens", "models": name -> parameters, prompt_tokens, encode_ms,
    prefill_ms, token_ms (one of the tokens after the first), answer_ms (all of it), tokens_per_second (new tokens over
    answer), bytes_per_token, limit_ms, share_of_limit (limit_ms / token_ms), paper_tokens_per_second, peak_bytes}.
    Raises BadInput without that device or with fewer than two tokens; UnknownName.
    """
    on = runtime.device(device)
    if tokens < 2 or rounds < 1:
        raise BadInput(f"tokens={tokens}, rounds={rounds}: two tokens and one round at least")
    bandwidth = copy_bandwidth(on, copied)
    free(on)
    models = {}
    for preset in presets:
        with peak(on) as most:
            models[preset] = _measured(preset, on, tokens, rounds, dtype, bandwidth)
        models[preset] |= {"peak_bytes": most[0] if most else None}
        free(on)
    return {"bandwidth": figure(bandwidth), "new_tokens": tokens, "dtype": dtype, "models": models}


class _Asked:
    """A model and a picture of noise with a question of random words."""

    def __init__(self, preset: str, device: torch.device, tokens: int, dtype: str):
        self.vlm = vlm(preset, device, dtype)
        size, language = self.vlm.config.image_size, self.vlm.config.language
        g = runtime.generator(0)
        self.pixels = torch.rand(1, 3, size, size, generator=g).to(device)
        words = torch.randint(4, language.vocab_size, (1, TEXT), generator=g)  # 3 is the tiny models' <image>
        self.ids = torch.cat((torch.tensor([[self.vlm.image_id]]), words), 1).to(device)
        self.length, self.tokens = self.vlm.config.image_tokens + TEXT, tokens
        self.decoder = Decoder(self.vlm.language, self.length + tokens)

    @torch.inference_mode()
    def encode(self) -> Tensor:
        return self.vlm.vision_features(self.pixels)

    @torch.inference_mode()
    def prefill(self, features: Tensor) -> Any:
        """Project the features, read the prompt, give the cache."""
        embeds = self.vlm.embed_inputs(None, self.ids, image_features=features).inputs_embeds  # (1, L, D)
        cache = self.vlm.language.new_cache()
        self.vlm.language.head(self.vlm.language.hidden(inputs_embeds=embeds, cache=cache)[:, -1])
        return cache

    def continued(self, cache: Any) -> None:
        """All tokens after the first."""
        self.decoder.start(cache, self.tokens - 1)
        token = self.ids[:, -1]
        for _ in range(self.tokens - 1):
            token = self.decoder(token)

    def answer(self) -> Tensor:
        return self.vlm.generate_ids(
            self.pixels, self.ids, max_new_tokens=self.tokens, eos_ids=[], decoder=self.decoder
        )  # fmt: skip


def _measured(
    preset: str, device: torch.device, tokens: int, rounds: int, dtype: str, bandwidth: float
) -> dict[str, Any]:
    asked = _Asked(preset, device, tokens, dtype)
    features = asked.encode()
    cache = asked.prefill(features)
    parts = {
        "encode_ms": asked.encode,
        "prefill_ms": lambda: asked.prefill(features),
        "token_ms": lambda: asked.continued(cache),
        "answer_ms": asked.answer,
    }
    found = milliseconds(parts, device, rounds)
    found["token_ms"] /= tokens - 1
    read = bytes_per_token(asked.vlm.language, cache, tokens)
    limit = 1e3 * read / bandwidth
    return {
        "parameters": asked.vlm.count_parameters()["total"],
        "prompt_tokens": asked.length,
        **{name: figure(value) for name, value in found.items()},
        "tokens_per_second": figure(1e3 * tokens / found["answer_ms"]),
        "bytes_per_token": read,
        "limit_ms": figure(limit),
        "share_of_limit": figure(limit / found["token_ms"]),
        "paper_tokens_per_second": PAPER.get(preset),
    }


def bytes_per_token(language: Any, cache: Any, tokens: int) -> int:
    """Bytes that one token must move, half-way through `tokens` new ones after the prompt in the cache.

    The weights once, of an input embedding that is not the head's a single row; a Mamba's state twice, to read and to
    write it; the keys and values of all tokens before.
    """
    weights = sum(p.numel() * p.element_size() for p in language.parameters())
    if isinstance(language.config, LlamaConfig):
        table = language.embed_tokens.weight
        spared = 0 if language.lm_head is None else (len(table) - 1) * table.shape[1] * table.element_size()
        return weights - spared + round(cache.bytes() * (1 + tokens / 2 / len(cache)))
    return weights + 2 * cache.bytes()
