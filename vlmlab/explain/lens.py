"""The logit lens: what the next word would be if the layers ended here. Notebook 13.

The residual stream after each layer goes through the final norm and the head, at any position; at the image's tokens it
tells which words the language model has made of each patch. Intermediate layers were not trained to be read so, and a
flat reading does not show that a fact is not there. Source: nostalgebraist 2020, "interpreting GPT: the logit lens".
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from vlmlab.errors import BadInput
from vlmlab.explain.inside import Inside
from vlmlab.language import Llama

Positions = Sequence[int] | slice
ALL = slice(None)


class Words(NamedTuple):
    """The likeliest next tokens: texts[layer][position] (k each), probabilities and ids (layers, n, k)."""

    texts: list[list[list[str]]]
    probabilities: Tensor
    ids: Tensor


class Wanted(NamedTuple):
    """One token by layer and position: probabilities (layers, n), and ranks (layers, n), 0 the likeliest."""

    probabilities: Tensor
    ranks: Tensor


def read_out(inside: Inside, residual: Tensor) -> Tensor:
    """Logits (..., V) of a residual stream (..., D): the language model's final norm and head."""
    language = inside.vlm.language
    norm = language.norm if isinstance(language, Llama) else language.norm_f
    with torch.no_grad():
        return language.head(norm(residual.to(norm.weight.dtype)))


def lens(inside: Inside, positions: Positions = ALL) -> Tensor:
    """log p of every token after each layer at some positions (all by default): (layers, n, V), natural logarithm.

    The last layer's are the model's own.
    """
    return torch.stack(list(_layers(inside, positions)))


def top_words(inside: Inside, positions: Positions | None = None, k: int = 3) -> Words:
    """The k likeliest next tokens after each layer at some positions (by default the image's)."""
    tokenizer = inside.vlm.tokenizer
    assert tokenizer is not None
    size = inside.vlm.config.language.vocab_size
    if not 1 <= k <= size:
        raise BadInput(f"k={k}: the vocabulary has {size} tokens; ask for 1 or more of them")
    found = [log_p.topk(k, -1) for log_p in _layers(inside, positions)]
    ids = torch.stack([top.indices for top in found])
    texts = [[[tokenizer.token(index) for index in place] for place in layer] for layer in ids.tolist()]
    return Words(texts, torch.stack([top.values for top in found]).exp(), ids)


def wanted_word(inside: Inside, word: str, positions: Positions | None = None) -> Wanted:
    """Probability and rank of a word after each layer at some positions (by default the image's; see `on_grid`).

    The word is one inside a sentence, taken by its first token (`word_id`). Raises BadInput.
    """
    index = word_id(inside, word)
    probabilities, ranks = [], []
    for log_p in _layers(inside, positions):
        probabilities.append(log_p[:, index].exp())
        ranks.append((log_p > log_p[:, index, None]).sum(-1))
    return Wanted(torch.stack(probabilities), torch.stack(ranks))


def divergence(inside: Inside, positions: Positions = ALL) -> Tensor:
    """KL(final || lens) in nats after each layer at some positions (all by default): (layers, n); 0 after the last."""
    final = _log_p(inside, inside.get("residual", -1)[_index(inside, positions)])
    return torch.stack([(final.exp() * (final - log_p)).sum(-1) for log_p in _layers(inside, positions)])


def word_id(inside: Inside, word: str) -> int:
    """The id that begins a word inside a sentence: its first token, with the space before it, that is not only space.

    Raises BadInput for a word that is empty.
    """
    tokenizer = inside.vlm.tokenizer
    assert tokenizer is not None
    ids = tokenizer.encode(" " + word.strip())
    found = next((index for index in ids if tokenizer.token(index).strip()), None)
    if found is None:
        raise BadInput(f"{word!r} is not a word; give one to look for")
    return found


def _layers(inside: Inside, positions: Positions | None) -> Iterator[Tensor]:
    """log p (n, V) after one layer after another: of a large vocabulary, those of all are too much at once."""
    for stream in inside.get("residual")[:, _index(inside, positions)]:  # (n, D)
        yield _log_p(inside, stream)


def _log_p(inside: Inside, residual: Tensor) -> Tensor:
    logits = read_out(inside, residual)
    return (logits if logits.dtype == torch.float64 else logits.float()).log_softmax(-1)


def _index(inside: Inside, positions: Positions | None) -> list[int]:
    """Positions as a list; None is the image's. Raises BadInput for one that is not there."""
    if positions is None and inside.pixels is None:
        raise BadInput("this question has no image; name the positions to look at")
    chosen = inside.image if positions is None else positions
    if isinstance(chosen, slice):
        return list(range(inside.length)[chosen])
    if any(not 0 <= at < inside.length for at in chosen):
        raise BadInput(f"positions {list(chosen)}: this question has 0 to {inside.length - 1}")
    return list(chosen)
