"""A Mamba language model against transformers': prefill, a training step, a decoded token, memory. Notebook 09."""

import copy
from collections.abc import Callable
from multiprocessing import get_context
from typing import Any

import torch
from torch import nn

from vlmlab.bench.timing import alternate, peak_memory, ratios
from vlmlab.language import Mamba
from vlmlab.runtime import cores, set_threads

VOCABULARY = 1024


def mamba(length: int = 1024, dim: int = 384, layers: int = 4, rounds: int = 3, decode: int = 32) -> dict[str, Any]:
    """Times and ratios at batch 1 in float32; the two models have the same weights.

    Args: length of the prompt in tokens; dim, layers of the model; rounds; decode, tokens generated after 16.
    """
    set_threads()
    theirs, ours = _pair(dim, layers)
    ids = torch.randint(0, VOCABULARY, (1, length), generator=torch.Generator().manual_seed(0))
    _step(ours, ids[:, :16])()  # what is compiled is compiled here
    with torch.no_grad():
        wanted = theirs(ids).logits
        difference = float((ours(ids) - wanted).abs().max() / wanted.abs().max())
        prefill = alternate({"vlmlab": lambda: ours(ids), "transformers": lambda: theirs(ids)}, rounds)
    steps = {"vlmlab": _step(ours, ids), "transformers": _step(theirs, ids)}
    training = alternate(steps, rounds)
    token = alternate({"vlmlab": lambda: _decode(ours, ids, decode),
                       "transformers": lambda: _decode_theirs(theirs, ids, decode)}, rounds)  # fmt: skip
    with get_context("spawn").Pool(1, maxtasksperchild=1) as pool:  # each in a process of its own
        memory = {name: pool.apply(_memory, (name, length, dim, layers)) for name in ("vlmlab", "transformers")}
    results: dict[str, Any] = {"length": length, "dim": dim, "layers": layers, "cores": cores()}
    results["relative_difference_of_logits"] = difference
    for what, seconds, count in (("prefill", prefill, 1), ("training_step", training, 1), ("token", token, decode)):
        results[f"{what}_ms"] = {name: round(1e3 * value / count, 2) for name, value in seconds.items()}
        results[f"{what}_times_vlmlab"] = ratios(seconds)
    known = {name: float(value) for name, value in memory.items() if value is not None}
    if len(known) == len(memory):  # elsewhere than on Linux it is not measured
        results["training_step_peak_mib"] = {name: round(value / 2**20, 1) for name, value in known.items()}
        results["training_step_peak_times_vlmlab"] = ratios(known)
    return results


def _pair(dim: int, layers: int) -> tuple[nn.Module, Mamba]:
    from transformers import MambaConfig as TheirConfig
    from transformers import MambaForCausalLM
    from transformers.utils import logging

    logging.set_verbosity_error()
    torch.manual_seed(0)
    config = TheirConfig(vocab_size=VOCABULARY, hidden_size=dim, num_hidden_layers=layers, use_mambapy=False)
    theirs = MambaForCausalLM(config).eval()
    return theirs, Mamba.from_transformers(theirs)


def _step(model: nn.Module, ids: torch.Tensor) -> Callable[[], None]:
    """One training step with AdamW, on a copy."""
    model = copy.deepcopy(model).train()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4)

    def step() -> None:
        out = model(ids)
        logits = out if isinstance(out, torch.Tensor) else out.logits
        nn.functional.cross_entropy(logits[0, :-1], ids[0, 1:]).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


@torch.inference_mode()
def _decode(model: Mamba, ids: torch.Tensor, count: int) -> None:
    cache = model.new_cache()
    hidden = model.hidden(ids[:, :16], cache=cache)
    for _ in range(count):
        token = model.head(hidden[:, -1:]).argmax(-1)
        hidden = model.hidden(token, cache=cache)


@torch.inference_mode()
def _decode_theirs(model: Any, ids: torch.Tensor, count: int) -> None:
    out = model(ids[:, :16], use_cache=True)
    for _ in range(count):
        token = out.logits[:, -1:].argmax(-1)
        out = model(token, cache_params=out.cache_params, use_cache=True)


def _memory(name: str, length: int, dim: int, layers: int) -> int | None:
    """Peak growth of memory in one training step of one of the two models, in a fresh process."""
    theirs, ours = _pair(dim, layers)
    ids = torch.randint(0, VOCABULARY, (1, length))
    warm = _step(ours if name == "vlmlab" else theirs, ids[:, :32])
    warm()  # what is allocated once: threads, compiled code, the optimizer's state
    step = _step(ours if name == "vlmlab" else theirs, ids)
    return peak_memory(step)
