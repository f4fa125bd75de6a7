"""Notebook 06. Redundant computation: what image tokens cost, and what answers lose when most of them are left out.

Tokens are dropped or merged between projector and language model, without retraining: at random, evenly, by their norm,
by the language model's attention (as FastV, Chen et al. 2024, arXiv 2403.06764, but before the question and at the
input), or averaged in squares. What is left stays in order and moves together; positions are those of a shorter row.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from math import isqrt
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlmlab.benchmarks.held_out import chance
from vlmlab.benchmarks.shortcomings.items import Item, Progress, ask, tally
from vlmlab.errors import BadInput
from vlmlab.language import Llama, LlamaConfig, MambaConfig
from vlmlab.scenes import sample
from vlmlab.scenes.questions import Balance
from vlmlab.vlm.account import cache_bytes, language_flops

if TYPE_CHECKING:
    from vlmlab.vlm.model import VLM

TYPES = ("existence", "attribute", "count", "relation")
SHARES = (1 / 2, 1 / 4, 1 / 8)  # of the image tokens that are left
PROMPT = "Describe the picture."  # whose last token's attention ranks image tokens
LAYER = 1  # the second, as in FastV
Choose = Callable[[Tensor], Tensor]  # Z_v (B, N, D) -> (B, M, D)


def items(n: int, seed: int = 0) -> list[Item]:
    """`n` questions about existence, attributes, counts and relations, each about a scene of its own."""
    balance = Balance()
    found: list[Item] = []
    for number in range(100 * n):
        if len(found) == n:
            break
        scene = sample(10_000_000 * (seed + 1) + number, split="test")
        for question in scene.questions(types=[TYPES[len(found) % len(TYPES)]], count=1):
            if balance.keep(question):
                found.append(Item("all tokens", "", scene, question.text, question.answer, chance(question)))
    return found


@contextmanager
def thinned(vlm: "VLM", choose: Choose) -> Iterator[None]:
    """Within the block, `choose` is applied to the image tokens of every picture that `vlm` sees."""
    whole = vlm.projector
    vlm.projector = _Thinned(whole, choose)
    try:
        yield
    finally:
        vlm.projector = whole


class _Thinned(nn.Module):
    def __init__(self, projector: nn.Module, choose: Choose):
        super().__init__()
        self.projector, self.choose = projector, choose

    def forward(self, features: Tensor) -> Tensor:
        return self.choose(self.projector(features))


def at_random(z: Tensor, keep: int, seed: int = 0) -> Tensor:
    """`keep` tokens of z (B, N, D) drawn for each picture, in order."""
    draw = torch.rand(z.shape[:2], generator=torch.Generator().manual_seed(seed)).to(z.device)
    return _highest(z, draw, keep)


def evenly(z: Tensor, keep: int) -> Tensor:
    """Every (N / keep)-th token, from the middle of the first interval on."""
    N = z.shape[1]
    return z[:, ((torch.arange(keep, device=z.device) + 0.5) * N / keep).long()]


def by_norm(z: Tensor, keep: int) -> Tensor:
    """The `keep` longest vectors, in order."""
    return _highest(z, z.norm(dim=-1), keep)


def by_attention(z: Tensor, keep: int, vlm: "VLM") -> Tensor:
    """The `keep` tokens that the last token of a neutral prompt attends to most in layer LAYER, mean of all heads.

    Raises BadInput for a language model without attention, or without a tokenizer for the prompt.
    """
    if not isinstance(vlm.language, Llama) or vlm.tokenizer is None:
        raise BadInput(f"{vlm.config.name} has no attention or no tokenizer to rank tokens by; take another method")
    ids = vlm.template.encode_prompt(PROMPT, vlm.tokenizer, image=True, image_id=vlm.image_id)
    place, name = ids.index(vlm.image_id), f"layers.{LAYER}.attn"
    words = vlm.language.embed(torch.tensor([ids[:place] + ids[place + 1 :]], device=z.device))  # (1, L, D)
    words = words.expand(len(z), -1, -1)
    record: dict[str, Any] = {name: None}
    vlm.language.hidden(inputs_embeds=torch.cat([words[:, :place], z, words[:, place:]], 1), record=record)
    weights = record[name][:, :, -1].mean(1)  # (B, L)
    return _highest(z, weights[:, place : place + z.shape[1]], keep)


def pooled(z: Tensor, keep: int) -> Tensor:
    """Means over squares of the grid: 2 x 2 for a quarter of the tokens. Raises BadInput where there are no squares."""
    N = z.shape[1]
    side, left = isqrt(N), isqrt(keep)
    if side * side != N or left * left != keep or side % left:
        raise BadInput(f"{N} tokens cannot be averaged in squares to {keep}")
    grid = z.mT.unflatten(2, (side, side))  # (B, D, side, side)
    return F.avg_pool2d(grid, side // left).flatten(2).mT


def _highest(z: Tensor, score: Tensor, keep: int) -> Tensor:
    index = score.topk(keep, dim=1).indices.sort(1).values  # (B, keep)
    return z.gather(1, index[..., None].expand(-1, -1, z.shape[2]))


def methods(vlm: "VLM") -> dict[str, tuple[Callable[..., Tensor], tuple[int, ...]]]:
    """Name -> (function of image tokens and of how many to keep, numbers kept), those that a model allows."""
    N = vlm.config.image_tokens
    counts = tuple(int(N * share) for share in SHARES if N * share >= 1)
    found: dict[str, tuple[Callable[..., Tensor], tuple[int, ...]]] = {
        "at random": (at_random, counts), "evenly": (evenly, counts), "by norm": (by_norm, counts),
    }  # fmt: skip
    if isinstance(vlm.language, Llama):
        found["by attention"] = partial(by_attention, vlm=vlm), counts
    if isqrt(N) ** 2 == N and isqrt(N) % 4 == 0:
        found["averaged in squares"] = pooled, (N // 4, N // 16)
    return found


def measure(vlm: "VLM", n: int, seed: int = 0, progress: Progress = None) -> dict[str, Any]:
    """Accuracy on 2 n questions by method and tokens kept, with all tokens first; and what tokens cost (see `costs`).

    {"rows": as in `items.tally`, x the number of image tokens; "costs"}.
    """
    asked, N = items(2 * n, seed), vlm.config.image_tokens
    blind = ask(vlm, asked, blind=True, progress=progress)

    def row(group: str, keep: int) -> dict[str, Any]:
        named = [item._replace(group=group, row=f"{keep} tokens", x=keep) for item in asked]
        return tally(named, ask(vlm, named, progress=progress), blind)[0]

    found = [row("all tokens", N)]
    for name, (choose, counts) in methods(vlm).items():
        for keep in counts:
            with thinned(vlm, partial(choose, keep=keep)):
                found.append(row(name, keep))
    return {"rows": found, "costs": costs(vlm)}


def flops(config: LlamaConfig | MambaConfig, tokens: int) -> tuple[int, int]:
    """FLOPs of a prefill: the part that grows with the square of the tokens, and all else (see vlm.account)."""
    linear = language_flops(config, tokens, 0)
    return language_flops(config, tokens, tokens) - linear, linear


def costs(vlm: "VLM", counts: tuple[int, ...] = (8, 16, 32, 64, 128, 256, 512), text: int = 32) -> dict[str, Any]:
    """A prefill of the language model against the number of image tokens before `text` tokens.

    {"image_tokens", "text_tokens", "quadratic_flops", "linear_flops", "kept_bytes" (cache or state, float32),
    "prefill_ms" (median, batch 1, in this process)}, a value a count.
    """
    from vlmlab.bench.timing import alternate

    config, lengths = vlm.config.language, [count + text for count in counts]
    draw = torch.Generator().manual_seed(0)
    rows = {length: torch.randn(1, length, config.dim, generator=draw).to(vlm.device) for length in lengths}

    @torch.inference_mode()
    def prefill(row: Tensor) -> None:
        hidden = vlm.language.hidden(inputs_embeds=row, cache=vlm.language.new_cache())
        vlm.language.head(hidden[:, -1:]).cpu()

    seconds = alternate({str(length): partial(prefill, row) for length, row in rows.items()}, 5)
    parts = [flops(config, length) for length in lengths]
    return {
        "image_tokens": list(counts),
        "text_tokens": text,
        "quadratic_flops": [quadratic for quadratic, _ in parts],
        "linear_flops": [linear for _, linear in parts],
        "kept_bytes": [cache_bytes(config, length, torch.float32) for length in lengths],
        "prefill_ms": [round(1e3 * seconds[str(length)], 3) for length in lengths],
    }
