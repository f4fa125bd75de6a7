"""Quadratic against linear: time and memory of a transformer and a Mamba of equal size, by length. Notebook 09."""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from multiprocessing import get_all_start_methods, get_context
from typing import Any

import numpy as np
import torch

from vlmlab.bench.timing import alternate, peak_memory
from vlmlab.errors import BadInput, MissingDependency
from vlmlab.language import Llama, LlamaConfig, Mamba
from vlmlab.runtime import cores, set_threads
from vlmlab.vlm.presets import get_preset

PRESETS = {"transformer": "llava-tiny", "mamba": "cobra-tiny"}


def language_model(name: str, longest: int) -> Llama | Mamba:
    """The language model of a tiny preset with random weights, and room for `longest` tokens."""
    config = get_preset(PRESETS[name]).language
    generator = torch.Generator().manual_seed(0)
    if isinstance(config, LlamaConfig):
        return Llama(replace(config, max_positions=longest), generator).eval()
    return Mamba(config, generator).eval()


def scaling(
    lengths: Sequence[int] = (256, 512, 1024, 2048, 4096, 8192), rounds: int = 3, decode: int = 8, memory: bool = True
) -> dict[str, Any]:
    """Seconds of a prefill and of a decoded token, bytes kept and peak memory of a prefill, at each length.

    Both models have about 3.1 million parameters; batch 1, float32. Exponents are slopes of log-log fits over all
    lengths, with 95 % intervals; a crossing is where Mamba becomes the cheaper (None where it does not within range).
    Args: rounds of timing; decode, tokens after each prompt; memory, also measure peaks, each in a process of its own.
    Raises BadInput for fewer than three lengths.
    """
    if len(lengths) < 3 or min(lengths) < 2:
        raise BadInput(
            f"lengths={tuple(lengths)}: an exponent with an interval needs three lengths of at least 2 tokens"
        )
    set_threads()
    models = {name: language_model(name, max(lengths) + decode + 1) for name in PRESETS}
    found: dict[str, Any] = {"lengths": list(lengths), "cores": cores()}
    found["parameters"] = {name: sum(p.numel() for p in model.parameters()) for name, model in models.items()}
    measured: dict[str, dict[str, list[float]]] = {
        what: {name: [] for name in PRESETS} for what in ("prefill_ms", "token_ms", "kept_bytes")
    }
    for length in lengths:
        ids = torch.randint(0, 1024, (1, length), generator=torch.Generator().manual_seed(length))
        caches = {name: prefill(model, ids) for name, model in models.items()}
        times = alternate({name: partial(prefill, model, ids) for name, model in models.items()}, rounds)
        tokens = alternate(
            {name: partial(continue_from, model, caches[name], decode) for name, model in models.items()}, rounds
        )
        for name in PRESETS:
            measured["prefill_ms"][name].append(round(1e3 * times[name], 3))
            measured["token_ms"][name].append(round(1e3 * tokens[name] / decode, 4))
            measured["kept_bytes"][name].append(caches[name].bytes())
    if memory and (known := peaks(lengths)):
        measured["prefill_peak_bytes"] = known
    found |= measured
    found["exponents"] = {
        what: {name: [round(value, 3) for value in power_law(lengths, values)] for name, values in series.items()}
        for what, series in measured.items()
        if all(min(values) > 0 for values in series.values())
    }
    found["crossings"] = {
        what: crossing(lengths, series["transformer"], series["mamba"]) for what, series in measured.items()
    }
    return found


@torch.inference_mode()
def prefill(model: Llama | Mamba, ids: torch.Tensor) -> Any:
    """Read a prompt (1, L) and give its cache; logits of the last token only, as generation asks for."""
    cache = model.new_cache()
    model.head(model.hidden(ids, cache=cache)[:, -1:])  # type: ignore[arg-type]
    return cache


@torch.inference_mode()
def continue_from(model: Llama | Mamba, cache: Any, count: int) -> None:
    """Decode `count` tokens after a prompt, on a copy of its cache."""
    cache = cache.repeat(1)
    token = torch.zeros(1, 1, dtype=torch.long)
    for _ in range(count):
        token = model.head(model.hidden(token, cache=cache)).argmax(-1)


def peaks(lengths: Sequence[int]) -> dict[str, list[float]]:
    """Bytes that a prefill of each length takes at most beside the weights, for both models; {} where the system does
    not tell. Each is measured in a process of its own: memory freed before would hide what is taken again."""
    context = get_context("forkserver" if "forkserver" in get_all_start_methods() else "spawn")
    if context.get_start_method() == "forkserver":
        context.set_forkserver_preload([__name__])  # imports once for all of them
    with context.Pool(1, maxtasksperchild=1) as pool:
        found = {name: [pool.apply(_peak, (name, length)) for length in lengths] for name in PRESETS}
    known = {name: [float(peak) for peak in series if peak is not None] for name, series in found.items()}
    return known if all(len(series) == len(lengths) for series in known.values()) else {}


def _peak(name: str, length: int) -> int | None:
    set_threads()
    model = language_model(name, length + 1)
    prefill(model, torch.zeros(1, 16, dtype=torch.long))  # what is allocated once
    return peak_memory(lambda: prefill(model, torch.zeros(1, length, dtype=torch.long)))


def power_law(lengths: Sequence[float], values: Sequence[float]) -> tuple[float, float, float]:
    """Exponent p of values ~ lengths ** p, with its 95 % interval: least squares on logarithms, Student's t.

    Raises BadInput for fewer than three points or values that are not positive.
    """
    if len(lengths) != len(values) or len(lengths) < 3 or min(*lengths, *values) <= 0:
        raise BadInput("a power law needs at least three lengths and as many values, all positive")
    try:
        from scipy.stats import t
    except ImportError:
        raise MissingDependency("scipy", "intervals of fitted exponents") from None
    x, y = np.log(lengths), np.log(values)
    x = x - x.mean()
    slope = float(x @ y / (x @ x))
    rest = y - y.mean() - slope * x
    error = math.sqrt(float(rest @ rest) / (len(x) - 2) / float(x @ x))
    reach = float(t.ppf(0.975, len(x) - 2)) * error
    return slope, slope - reach, slope + reach


def crossing(lengths: Sequence[float], first: Sequence[float], second: Sequence[float]) -> float | None:
    """The length from which on `second` is below `first`, read off log-log lines between the points.

    None when it is not below at the last length; the first length when it is below everywhere.
    """
    gap = np.log(np.asarray(second, float) / np.asarray(first, float))
    if gap[-1] >= 0:
        return None
    above = np.flatnonzero(gap >= 0)
    if not len(above):
        return float(lengths[0])
    i = int(above[-1])
    share = gap[i] / (gap[i] - gap[i + 1])
    low, high = math.log(lengths[i]), math.log(lengths[i + 1])
    return round(math.exp(low + share * (high - low)), 1)
