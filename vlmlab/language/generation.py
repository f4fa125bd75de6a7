"""Cached generation, greedy and sampled, a batch at a time or streamed. Notebook 02.

Works with any language model that has `embed`, `hidden`, `head` and `new_cache`: Llama now, Mamba later. Rows are
shifted so that padding is on the left; the prompt is read once, and then every step feeds one token a row.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from vlmlab.errors import BadInput

if TYPE_CHECKING:
    from vlmlab.language.graphs import Decoder


class LanguageModel(Protocol):
    """What generation asks of a model; shapes as in `Llama`. The cache remembers the prompt's padding."""

    def embed(self, input_ids: Tensor) -> Tensor: ...
    def hidden(self, input_ids: Tensor | None = None, **kwargs: Any) -> Tensor: ...
    def head(self, hidden: Tensor) -> Tensor: ...
    def new_cache(self) -> Any: ...


def generate(
    model: LanguageModel,
    *,
    input_ids: Tensor | None = None,
    inputs_embeds: Tensor | None = None,
    attention_mask: Tensor | None = None,
    max_new_tokens: int,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    eos_ids: int | Iterable[int] = (),
    pad_id: int | None = None,
    generator: torch.Generator | None = None,
    on_token: Callable[[Tensor], object] | None = None,
    decoder: "Decoder | None" = None,
) -> Tensor:
    """New token ids (B, new) after the prompts; `new` is at most max_new_tokens.

    input_ids (B, L) or inputs_embeds (B, L, D); attention_mask (B, L), 1 for a token and 0 for padding on either
    side. temperature 0 is greedy; otherwise tokens are drawn with `generator` among the top_k likeliest (0: all)
    and the smallest set that holds top_p of the probability (nucleus sampling, arXiv 1904.09751, section 3.1).
    A row ends with one of eos_ids and is filled up with pad_id (default: its first eos); generation ends when
    every row has, or at the model's max_positions. on_token receives each step's ids (B,). decoder: made for this
    model, takes all steps after the first (greedy ones only), on a GPU as a CUDA graph.
    Raises BadInput for an empty prompt, one longer than max_positions, unknown ids, and values out of range.
    """
    steps = []
    for step in stream(
        model,
        input_ids=input_ids,
        inputs_embeds=inputs_embeds,
        attention_mask=attention_mask,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        eos_ids=eos_ids,
        pad_id=pad_id,
        generator=generator,
        decoder=decoder,
    ):
        steps.append(step)
        if on_token is not None:
            on_token(step)
    return torch.stack(steps, 1)


def stream(
    model: LanguageModel,
    *,
    input_ids: Tensor | None = None,
    inputs_embeds: Tensor | None = None,
    attention_mask: Tensor | None = None,
    max_new_tokens: int,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    eos_ids: int | Iterable[int] = (),
    pad_id: int | None = None,
    generator: torch.Generator | None = None,
    decoder: "Decoder | None" = None,
) -> Iterator[Tensor]:
    """The same as `generate`, one step at a time: yields the next ids (B,) as soon as they are known.

    Arguments are checked at the call, not at the first step. `Tokenizer.stream` turns one row's ids into text.
    """
    if max_new_tokens < 1:
        raise BadInput(f"max_new_tokens={max_new_tokens}; ask for at least 1")
    if not temperature >= 0 or not 0 < top_p <= 1 or top_k < 0:
        raise BadInput(f"need temperature >= 0, top_k >= 0, 0 < top_p <= 1; got {temperature}, {top_k}, {top_p}")
    if decoder is not None and temperature:
        raise BadInput(f"a decoder takes the likeliest token each time; temperature={temperature} goes without one")
    prompt, mask = _prompt(model, input_ids, inputs_embeds, attention_mask)
    length = int(mask.sum(1).max())
    limit = getattr(model, "max_positions", None)
    if limit is not None and length > limit:
        raise BadInput(f"the prompt has {length} tokens, but the model takes at most {limit}; shorten it")
    count = max_new_tokens if limit is None else min(max_new_tokens, limit - length + 1)  # the last is never fed
    ends = [eos_ids] if isinstance(eos_ids, int) else list(eos_ids)
    fill = pad_id if pad_id is not None else ends[0] if ends else 0
    choose = _chooser(temperature, top_k, top_p, generator)
    return _steps(model, prompt, mask, count, choose, ends, fill, decoder)


def _steps(
    model: LanguageModel,
    prompt: Tensor,
    mask: Tensor,
    count: int,
    choose: Callable[[Tensor], Tensor],
    ends: list[int],
    fill: int,
    decoder: "Decoder | None",
) -> Iterator[Tensor]:
    cache = model.new_cache()
    key = "inputs_embeds" if prompt.dim() == 3 else "input_ids"
    stops = torch.tensor(ends, device=prompt.device)
    ongoing: Tensor | None = None  # None: every row is
    token: Tensor | None = None
    for _ in range(count):
        # inference_mode is left before each yield: it must not leak into the caller's code.
        with torch.inference_mode():
            if token is None:
                padding = None if bool(mask.all()) else mask
                token = choose(model.head(model.hidden(**{key: prompt}, attention_mask=padding, cache=cache)[:, -1]))
                if decoder is not None:
                    decoder.start(cache, count - 1)
            elif decoder is not None:
                token = decoder(token)
            else:
                token = choose(model.head(model.hidden(token[:, None], cache=cache)[:, -1]))  # (B, V) -> (B,)
            if ongoing is not None:
                token = token.where(ongoing, fill)
            if ends:
                hit = (token[:, None] == stops).any(1)
                if bool(hit.any()):
                    ongoing = ~hit if ongoing is None else ongoing & ~hit
        yield token.clone()  # an ordinary tensor, which autograd may save
        if ongoing is not None and not bool(ongoing.any()):
            return


def _prompt(
    model: LanguageModel, input_ids: Tensor | None, inputs_embeds: Tensor | None, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The prompt and its boolean mask (B, L), checked, with all padding moved to the left."""
    if (input_ids is None) == (inputs_embeds is None):
        raise BadInput("give either input_ids or inputs_embeds, not both or neither")
    prompt = input_ids if inputs_embeds is None else inputs_embeds
    assert prompt is not None
    if prompt.dim() != (2 if inputs_embeds is None else 3):
        raise BadInput(f"a prompt is ids (B, L) or embeddings (B, L, D); got the shape {tuple(prompt.shape)}")
    B, L = prompt.shape[:2]
    if B == 0 or L == 0:
        raise BadInput("the prompt is empty; give at least one token, such as the beginning token <s>")
    if mask is None:
        mask = torch.ones(B, L, dtype=torch.bool, device=prompt.device)
    if tuple(mask.shape) != (B, L):
        raise BadInput(f"attention_mask is {tuple(mask.shape)}; a prompt's mask is {(B, L)}")
    mask = mask.to(device=prompt.device, dtype=torch.bool)
    real = mask.sum(1)
    if int(real.min()) == 0:
        raise BadInput(f"prompt {int(real.argmin())} of {B} is empty; give at least one token in every row")
    size = getattr(getattr(model, "config", None), "vocab_size", None)
    if size is not None and input_ids is not None:
        low, high = (int(end) for end in input_ids[mask].aminmax())
        if low < 0 or high >= size:
            raise BadInput(f"the prompt holds id {low if low < 0 else high}; the model knows 0 to {size - 1}")
    if not bool((mask[:, 1:] >= mask[:, :-1]).all()):
        order = mask.int().argsort(dim=1, stable=True)  # padding first, tokens after it in their order
        prompt = prompt[torch.arange(B, device=prompt.device)[:, None], order]
        mask = mask.gather(1, order)
    longest = int(real.max())
    prompt, mask = prompt[:, L - longest :], mask[:, L - longest :]
    if input_ids is not None:
        prompt = prompt.masked_fill(~mask, 0)  # a padding id need not be in the vocabulary
    return prompt, mask


def _chooser(
    temperature: float, top_k: int, top_p: float, generator: torch.Generator | None
) -> Callable[[Tensor], Tensor]:
    """A function from logits (B, V) to the next ids (B,)."""
    if temperature == 0:
        return lambda logits: logits.argmax(-1)

    def draw(logits: Tensor) -> Tensor:
        logits = logits.float()
        logits = (logits - logits.amax(-1, keepdim=True)) / temperature  # at most 0: no overflow however cold
        probabilities = filter_logits(logits, top_k, top_p).softmax(-1)
        return torch.multinomial(probabilities, 1, generator=generator)[:, 0]

    return draw


def filter_logits(logits: Tensor, top_k: int = 0, top_p: float = 1.0) -> Tensor:
    """Logits (B, V) with all but the top_k likeliest, then all but the top_p nucleus, set to minus infinity.

    The token that crosses top_p is kept, so at least one always is.
    """
    if 0 < top_k < logits.shape[-1]:
        smallest = logits.topk(top_k, -1).values[..., -1:]
        logits = logits.masked_fill(logits < smallest, float("-inf"))
    if top_p < 1:
        ordered, order = logits.sort(dim=-1, descending=True, stable=True)
        probabilities = ordered.softmax(-1)
        before = probabilities.cumsum(-1) - probabilities  # mass of the tokens likelier than each
        drop = torch.zeros_like(before, dtype=torch.bool).scatter(-1, order, before >= top_p)
        logits = logits.masked_fill(drop, float("-inf"))
    return logits
