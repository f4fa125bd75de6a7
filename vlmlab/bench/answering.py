"""What an answer costs: time and peak memory of several VLMs, side by side. Notebook 11."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from multiprocessing import get_context
from typing import Any

import torch
from torch import Tensor

from vlmlab.bench.scaling import continue_from
from vlmlab.bench.timing import alternate, peak_memory
from vlmlab.errors import BadInput
from vlmlab.runtime import cores, set_threads
from vlmlab.vlm.model import VLM

QUESTION = "Is the red cat left of the sofa?"
CELLS = tuple(
    f"{encoder}-{backbone}-tiny" for backbone in ("llama", "mamba") for encoder in ("clip", "fused", "mambavision")
)


def answering(
    presets: Sequence[str] = CELLS, rounds: int = 5, tokens: int = 32, batch: int = 16, memory: bool = True
) -> dict[str, Any]:
    """Milliseconds of each part of an answer, tokens a second, and peak memory, with random weights in float32.

    Args:
        presets: whose models are measured. rounds: of timing. tokens: new ones an answer. batch: pictures answered at
            once where memory is measured. memory: measure it, each model in a process of its own.
    Returns:
        {"cores", "prompt_tokens", "encode_ms" (picture -> H_v), "prefill_ms" (H_v and question -> first token),
        "token_ms" (each later one), "answer_ms" (all of it), "tokens_per_second" (new tokens over all of it),
        "peak_bytes" (beside the weights; absent where the system does not tell), "weights_bytes"}, by preset.
    Raises BadInput for less than one of anything; UnknownName for a preset that is none.
    """
    if min(rounds, tokens - 1, batch) < 1 or not presets:
        raise BadInput(f"rounds={rounds}, tokens={tokens}, batch={batch}: one each at least, and two tokens")
    set_threads()
    models = {name: _Asked(name) for name in presets}
    seen = {name: model.encode() for name, model in models.items()}

    def timed(parts: Mapping[str, Callable[[], Any]], per: int = 1) -> dict[str, float]:
        return {name: round(1e3 * seconds / per, 3) for name, seconds in alternate(parts, rounds).items()}

    found: dict[str, Any] = {"cores": cores(), "new_tokens": tokens}
    found["prompt_tokens"] = {
        name: model.ids.shape[1] + model.vlm.config.image_tokens - 1 for name, model in models.items()
    }
    found["encode_ms"] = timed({name: model.encode for name, model in models.items()})
    found["prefill_ms"] = timed({name: partial(model.prefill, seen[name]) for name, model in models.items()})
    caches = {name: model.prefill(seen[name]) for name, model in models.items()}
    later = {name: partial(continue_from, model.vlm.language, caches[name], tokens) for name, model in models.items()}
    found["token_ms"] = timed(later, tokens)
    found["answer_ms"] = timed({name: partial(model.answer, tokens) for name, model in models.items()})
    found["tokens_per_second"] = {name: round(1e3 * tokens / ms, 2) for name, ms in found["answer_ms"].items()}
    found["weights_bytes"] = {name: _bytes(model.vlm) for name, model in models.items()}
    if memory:
        with get_context("spawn").Pool(1, maxtasksperchild=1) as pool:  # memory freed before would hide what is taken
            peaks = {name: pool.apply(_peak, (name, batch, tokens)) for name in presets}
        if all(peak is not None for peak in peaks.values()):
            found |= {"peak_bytes": peaks, "peak_batch": batch}
    return found


class _Asked:
    """A model with random weights, pictures of noise, and a question about each."""

    def __init__(self, preset: str, batch: int = 1):
        self.vlm = VLM.from_preset(preset, "cpu").eval()
        size = self.vlm.config.image_size
        self.pixels = torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(0))
        if self.vlm.tokenizer is None:
            raise BadInput(f"{preset} brings no tokenizer, which the question needs; take a tiny preset")
        ids = self.vlm.template.encode_prompt(QUESTION, self.vlm.tokenizer, image=True, image_id=self.vlm.image_id)
        self.ids = torch.tensor([ids] * batch)

    @torch.inference_mode()
    def encode(self) -> Tensor:
        return self.vlm.vision_features(self.pixels)

    @torch.inference_mode()
    def prefill(self, features: Tensor) -> Any:
        """Project the features, read the prompt, give the cache."""
        embeds = self.vlm.embed_inputs(None, self.ids, image_features=features).inputs_embeds  # (B, L, D)
        cache = self.vlm.language.new_cache()
        self.vlm.language.head(self.vlm.language.hidden(inputs_embeds=embeds, cache=cache)[:, -1:])
        return cache

    @torch.inference_mode()
    def answer(self, tokens: int) -> Tensor:
        return self.vlm.generate_ids(self.pixels, self.ids, max_new_tokens=tokens, eos_ids=[])


def _bytes(vlm: VLM) -> int:
    return sum(p.numel() * p.element_size() for p in vlm.parameters())


def _peak(preset: str, batch: int, tokens: int) -> int | None:
    set_threads()
    _Asked(preset).answer(2)  # what is allocated once
    asked = _Asked(preset, batch)
    return peak_memory(lambda: asked.answer(tokens))
