"""Notebook 03. SmolLM2-135M-Instruct as a teacher, offline: a small language model, and no more than that.

The system message and the examples of a kind are the same for all scenes: they are read once, and the cache that holds
them is repeated for each batch.
"""

from collections.abc import Sequence
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor

from vlmlab import runtime
from vlmlab.instruction.context import Told
from vlmlab.instruction.prompts import prefix, request
from vlmlab.language import KVCache, Llama, Tokenizer, generate
from vlmlab.vlm.templates import get_template

LENGTH = {"conversation": 160, "detail": 128, "reasoning": 112}
"""Tokens of a reply at most."""
TEMPERATURE, TOP_P = 0.6, 0.9  # greedily, a model as small as this soon repeats itself
ROLES = {"user": "human", "assistant": "gpt"}


class AfterPrefix:
    """A language model that has read the beginning of its prompts: `generate` goes on from there, once.

    cache: of the beginning, with a row for each prompt.
    """

    def __init__(self, model: Llama, cache: KVCache):
        self.model, self.cache, self.read = model, cache, cache.length
        self.config, self.max_positions = model.config, model.max_positions - cache.length
        self.embed, self.head = model.embed, model.head

    def new_cache(self) -> KVCache:
        """The cache that holds the beginning."""
        return self.cache

    def hidden(self, input_ids: Tensor | None = None, attention_mask: Tensor | None = None, **options: Any) -> Tensor:
        """As `Llama.hidden`; the mask (B, L) is that of the ids alone."""
        if attention_mask is not None:
            attention_mask = torch.cat([attention_mask.new_ones(len(attention_mask), self.read), attention_mask], 1)
        return self.model.hidden(input_ids, attention_mask=attention_mask, **options)


class SmolLM2:
    """`SmolLM2(model, tokenizer)(kind, told)` is a list of replies, each token the likeliest, in ChatML."""

    def __init__(self, model: Llama, tokenizer: Tokenizer):
        self.model, self.tokenizer = model.to(runtime.device()), tokenizer
        self.kind, self.cache = "", model.new_cache()

    def __call__(self, kind: str, told: Sequence[Told]) -> list[str]:
        """A reply for each scene; they are written in one batch. Raises UnknownName for another kind."""
        prompts = [self.ids(kind, each) for each in told]
        ends = get_template("chatml").stop_ids(self.tokenizer)
        rows = [torch.tensor(rest) for _, rest in prompts]
        batch = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1, padding_side="left")
        batch = batch.to(self.model.embed_tokens.weight.device)  # (B, L)
        new = generate(
            AfterPrefix(self.model, self.beginning(kind, prompts[0][0]).repeat(len(rows))),
            input_ids=batch,
            attention_mask=batch >= 0,
            max_new_tokens=LENGTH[kind],
            eos_ids=ends,
            temperature=TEMPERATURE,
            top_p=TOP_P,
            generator=runtime.generator(told[0].scene.seed or 0, batch.device),
        )
        return [self.tokenizer.decode(takewhile(lambda index: index not in ends, row)) for row in new.tolist()]

    def ids(self, kind: str, told: Told) -> tuple[list[int], list[int]]:
        """The ids of the beginning that all requests of a kind share, and of the rest."""
        system, *shown = [*prefix(kind), request(kind, told)]
        turns = [{"from": ROLES[each["role"]], "value": each["content"]} for each in shown]
        ids = get_template("chatml", system["content"]).encode_prompt(turns, self.tokenizer)
        starts = [at for at, index in enumerate(ids) if index == self.tokenizer.id("<|im_start|>")]
        return ids[: starts[-2]], ids[starts[-2] :]  # the last two are the request's and the reply's

    def beginning(self, kind: str, ids: Sequence[int]) -> KVCache:
        """The cache (one row) after the beginning of a kind; that of the last kind is kept."""
        if self.kind != kind:
            self.kind, self.cache = kind, self.model.new_cache()
            with torch.no_grad():
                self.model.hidden(torch.tensor([ids], device=self.model.embed_tokens.weight.device), cache=self.cache)
        return self.cache
