"""What an answer needs: attention blocked, a state kept from tokens, the image's weight turned up or down. Notebook 13.

Each intervention is a tap (vlmlab.taps) for the whole sequence, prompt and answer, of any length:

    tap = block_attention(inside, answer_rows(inside), places, layers=range(2, 5))
    inside.log_probs(tap=tap)                           # what the given answer has become worth
    generate_with(inside, tap)                          # what the model says instead
    effect(inside, tap, options=["yes", "no"])          # both, and the options

Image tokens are replaced in `vlmlab.explain.ablation`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vlmlab.errors import BadInput
from vlmlab.explain.attention import need_attention
from vlmlab.explain.inside import Inside
from vlmlab.language import Llama
from vlmlab.taps import Tap

Positions = Sequence[int] | slice
Layers = Iterable[int] | None  # None: all


@dataclass(frozen=True)
class Effect:
    """What an intervention does. before, after: log p of the answer looked into, natural logarithm. options: the
    probability of each before and after, all options together being 1. answer: what the model says then."""

    before: float
    after: float
    options: Mapping[str, tuple[float, float]]
    answer: str

    @property
    def change(self) -> float:
        """Of the answer's log p; negative where the intervention took something that the answer needs."""
        return self.after - self.before


def answer_rows(inside: Inside) -> slice:
    """The rows that predict the answer's words, and whatever a generation makes longer."""
    return slice(inside.words.start - 1, None)


def block_attention(inside: Inside, queries: Positions, keys: Positions, layers: Layers = None) -> Tap:
    """Attention knock-out: no query among `queries` sees a key among `keys` in these layers; weights become 0.

    The other keys' weights grow, as a softmax does. What a query may still learn of a key came through other positions,
    or other layers. Raises BadInput without attention, for positions or layers that are not there, and (when it runs)
    for a query left without any key. Source: Geva et al. 2023 (arXiv 2304.14767).
    """
    need_attention(inside)
    names = _names(inside, layers, "scores")
    _check(inside, queries)
    _check(inside, keys)

    def tap(name: str, value: Tensor) -> Tensor:
        if name not in names:
            return value
        rows, columns = (torch.tensor(_at(each, value.shape[-1]), dtype=torch.long) for each in (queries, keys))
        blocked = torch.zeros(value.shape[-2:], dtype=torch.bool)
        blocked[rows[:, None], columns] = True
        value = value.masked_fill(blocked.to(value.device), float("-inf"))
        if bool(value.isneginf().all(-1).any()):
            raise BadInput("block_attention leaves a query without any key it may see; keep its own position")
        return value

    return tap


def hold_state(inside: Inside, positions: Positions, layers: Layers = None) -> Tap:
    """Mamba's nearest counterpart of a knock-out: step size delta = 0 at these tokens in these layers.

    The scan then goes past them: such a token neither writes to the state nor lets it decay, whoever reads it later. It
    still reads the state itself, and two other ways stay open: the convolution hands it to the next conv - 1 tokens
    before the scan, and the residual stream to the layers above. Raises BadInput as `block_attention` does.
    """
    _need_states(inside)
    names = _names(inside, layers, "delta")
    _check(inside, positions)

    def tap(name: str, value: Tensor) -> Tensor:
        if name not in names:
            return value
        kept = torch.ones(value.shape[1], dtype=value.dtype)
        kept[_at(positions, value.shape[1])] = 0
        return value * kept[:, None].to(value.device)

    return tap


def rescale_image(inside: Inside, alpha: float, layers: Layers = None) -> Tap:
    """One slider for how much the answer takes from the image; alpha = 1 changes nothing.

    A transformer: attention's scores of image tokens, before the softmax, times alpha in the rows that predict the
    answer; above 1 its attention within the image is sharper, below 1 flatter. This is the ScalingVis of Chen et al.
    2025 (arXiv 2503.01773), whose AdaptVis picks alpha by the model's confidence. A Mamba: delta of image tokens times
    alpha, so that each writes more and lets more of the past decay, or less; at 0 the image is held out of the state.
    Raises BadInput for a negative alpha, no image, or layers that are not there.
    """
    if not 0 <= alpha < float("inf"):
        raise BadInput(f"alpha={alpha}; give 0 or more, 1 for no change")
    need_image(inside)
    attends = isinstance(inside.vlm.language, Llama)
    names = _names(inside, layers, "scores" if attends else "delta")
    place = (..., answer_rows(inside), inside.image) if attends else (slice(None), inside.image)

    def tap(name: str, value: Tensor) -> Tensor:
        if name not in names:
            return value
        value = value.clone()
        value[place] = value[place] * alpha
        return value

    return tap


@torch.no_grad()
def generate_with(inside: Inside, tap: Tap | None = None, max_new_tokens: int = 64) -> str:
    """The model's greedy answer while `tap` is at work: the whole sequence runs again for each word, without a cache.

    Nothing else differs from `VLM.generate`. Raises BadInput for a prompt that leaves no room.
    """
    start, ends = inside.words.start, inside.stop_ids
    ids, text = inside.ids[:, :start], ""
    for _ in range(min(max_new_tokens, room(inside))):
        so_far = replace(inside, ids=ids, words=slice(start, ids.shape[1]))
        token = so_far.run(tap=tap)["logits"][-1].argmax()
        ids = torch.cat([ids, token.view(1, 1)], 1)
        text, ended = inside.text_of(ids[0, start:].tolist())
        if ended or int(token) in ends:
            break
    return text


def option_scores(inside: Inside, options: Sequence[str], tap: Tap | None = None) -> dict[str, float]:
    """log p of each option as the whole answer while `tap` is at work; without one, as `VLM.score_options`."""
    asked = {option: Inside.ask(inside.vlm, inside.picture, inside.prompt, option) for option in options}
    return {option: float(each.log_probs(tap).sum()) for option, each in asked.items()}


def effect(inside: Inside, tap: Tap, options: Sequence[str] = ()) -> Effect:
    """What an intervention does to the answer, to the probabilities of options, and to what the model says."""
    before, after = (float(inside.log_probs(each).sum()) for each in (None, tap))
    chances = [torch.tensor(list(option_scores(inside, options, each).values())).softmax(0) for each in (None, tap)]
    pairs = zip(*(each.tolist() for each in chances), strict=True)
    return Effect(before, after, dict(zip(options, pairs, strict=True)), generate_with(inside, tap))


def windows(inside: Inside, width: int) -> list[range]:
    """Every `width` consecutive layers of the language model, from the bottom up. Raises BadInput."""
    layers = inside.vlm.language.config.layers
    if not 1 <= width <= layers:
        raise BadInput(f"width={width}: the language model has {layers} layers")
    return [range(first, first + width) for first in range(layers - width + 1)]


def sweep(inside: Inside, intervene: Callable[[range], Tap], width: int = 1) -> Tensor:
    """The change of the answer's log p by an intervention in each of `windows`: (layers - width + 1,).

    intervene: from layers to a tap, as `lambda layers: block_attention(inside, rows, keys, layers)`.
    """
    before = inside.log_probs().sum()
    after = [inside.log_probs(intervene(layers)).sum() for layers in windows(inside, width)]
    return torch.stack(after) - before


def room(inside: Inside) -> int:
    """How many tokens an answer to this prompt may have. Raises BadInput where there is no room for one."""
    left = inside.vlm.config.max_length - inside.words.start
    if left < 1:
        raise BadInput(f"a prompt of {inside.words.start} tokens leaves no room for an answer; shorten it")
    return left


def need_image(inside: Inside) -> None:
    """Raise BadInput for a question without an image."""
    if inside.pixels is None:
        raise BadInput("this question has no image to change; ask about a picture")


def _need_states(inside: Inside) -> None:
    if isinstance(inside.vlm.language, Llama):
        raise BadInput(f"{inside.vlm.config.name} has no state to hold; use block_attention")


def _names(inside: Inside, layers: Layers, part: str) -> set[str]:
    known = range(inside.vlm.language.config.layers)
    chosen = list(known if layers is None else layers)
    if any(layer not in known for layer in chosen):
        raise BadInput(f"layers {chosen}: the language model has 0 to {len(known) - 1}")
    return {f"language.layers.{layer}.{part}" for layer in chosen}


def _check(inside: Inside, positions: Positions) -> None:
    if not isinstance(positions, slice) and any(not 0 <= at < inside.length for at in positions):
        raise BadInput(f"positions {list(positions)}: this question has 0 to {inside.length - 1}")


def _at(positions: Positions, length: int) -> list[int]:
    """Positions as a list, those inside a sequence of this length."""
    if isinstance(positions, slice):
        return list(range(length)[positions])
    return [at for at in positions if at < length]
