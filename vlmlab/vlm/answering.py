"""From pictures and questions to words: one answer, a stream, a batch, or scores of given options. Notebooks 02 to 06.

The functions behind the methods of `VLM` of the same names; images are whatever `vlmlab.vision.load_image` takes.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vlmlab.errors import BadInput
from vlmlab.language import generation
from vlmlab.language.tokenizer import Tokenizer
from vlmlab.vlm.templates import Turn

if TYPE_CHECKING:
    from vlmlab.vlm.model import VLM

Prompt = str | Sequence[Turn]


def stream(
    vlm: "VLM",
    image: Any,
    prompt: Prompt,
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    generator: torch.Generator | None = None,
    **sampling: Any,
) -> Iterator[str]:
    """Pieces of one answer as they are made; joined, they are what `VLM.generate` returns. Checks come at the call."""
    tokenizer = _tokenizer(vlm)
    with torch.no_grad():
        features = _features(vlm, [image])
        ids = _encode_prompt(vlm, prompt, image)
        room = _room(vlm, len(ids), ids.count(vlm.image_id), features)
        embeds = vlm.embed_inputs(None, torch.tensor([ids]), image_features=features).inputs_embeds  # (1, L, D)
    ends = vlm.template.stop_ids(tokenizer)
    steps = generation.stream(
        vlm.language,
        inputs_embeds=embeds,
        max_new_tokens=min(max_new_tokens, room),
        temperature=temperature,
        eos_ids=ends,
        generator=generator,
        **sampling,
    )
    new = takewhile(lambda index: index not in ends, (int(step) for step in steps))
    return _trim(_until(tokenizer.stream(new), vlm.template.stop_text))


def answer_many(
    vlm: "VLM",
    images: Sequence[Any],
    prompts: Sequence[Prompt],
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    batch_size: int = 32,
    generator: torch.Generator | None = None,
    on_batch: Callable[[int], object] | None = None,
    **sampling: Any,
) -> list[str]:
    """Answers to many questions, `batch_size` at a time.

    Args:
        images: one per prompt, or None for a question without one. The same object (or path) several times in a
            batch is encoded once.
        prompts: as for `VLM.generate`.
        on_batch: called after each batch with the number of answers so far, for a progress bar.

    Raises:
        BadInput, BadImage: as `VLM.generate`, or when images and prompts differ in number.
    """
    if len(images) != len(prompts):
        raise BadInput(f"{len(images)} images for {len(prompts)} prompts; give one (or None) per prompt")
    if batch_size < 1:
        raise BadInput(f"batch_size={batch_size} must be at least 1")
    tokenizer, template = _tokenizer(vlm), vlm.template
    ends = template.stop_ids(tokenizer)
    rows = [_encode_prompt(vlm, prompt, image) for image, prompt in zip(images, prompts, strict=True)]
    answers: list[str] = []
    for start in range(0, len(rows), batch_size):
        batch = rows[start : start + batch_size]
        with torch.no_grad():
            features = _features(vlm, images[start : start + batch_size])
        room = min(_room(vlm, len(ids), ids.count(vlm.image_id), features) for ids in batch)
        new = vlm.generate_ids(
            None,
            _padded(batch, 0),
            _padded([[1] * len(ids) for ids in batch], 0),
            max_new_tokens=min(max_new_tokens, room),
            temperature=temperature,
            eos_ids=ends,
            image_features=features,
            generator=generator,
            **sampling,
        )
        for row in new.tolist():
            text = tokenizer.decode(takewhile(lambda index: index not in ends, row))
            answers.append("".join(_until([text], template.stop_text)).strip())
        if on_batch is not None:
            on_batch(len(answers))
    return answers


@torch.no_grad()
def score_options(vlm: "VLM", image: Any, prompt: Prompt, options: Sequence[str]) -> dict[str, float]:
    """log p(option | image, prompt) for each option, see `VLM.score_options`."""
    tokenizer = _tokenizer(vlm)
    if isinstance(options, str) or not options:
        raise BadInput("options must be a list of at least one answer")
    for option in options:
        if not isinstance(option, str) or not option.strip():
            raise BadInput(f"an option is a text of at least one character, got {option!r}")
    _check_prompt(prompt)
    encoded = [
        vlm.template.encode_answer(prompt, option, tokenizer, image=image is not None, image_id=vlm.image_id)
        for option in options
    ]
    prefix, answers = encoded[0][0], [ids for _, ids in encoded]
    features = _features(vlm, [image])
    longest = max(map(len, answers))
    _room(vlm, len(prefix) + longest, prefix.count(vlm.image_id), features)
    embeds = vlm.embed_inputs(None, torch.tensor([prefix]), image_features=features).inputs_embeds  # (1, L, D)

    cache = vlm.language.new_cache()
    hidden = vlm.language.hidden(inputs_embeds=embeds, cache=cache)[:, -1:]  # (1, 1, D)
    hidden = hidden.expand(len(answers), -1, -1)
    targets = _padded(answers, 0).to(vlm.device)  # (options, M)
    if longest > 1:  # padding comes after an option's tokens, where causality hides it from them
        later = vlm.language.hidden(targets[:, :-1], cache=cache.repeat(len(answers)))
        hidden = torch.cat([hidden, later], dim=1)  # (options, M, D)
    logp = vlm.language.head(hidden).float().log_softmax(-1)  # (options, M, V)
    logp = logp.gather(-1, targets[..., None])[..., 0].cpu().double()  # (options, M)
    sums = [float(logp[row, : len(ids)].sum()) for row, ids in enumerate(answers)]
    return dict(zip(options, sums, strict=True))


def _tokenizer(vlm: "VLM") -> Tokenizer:
    if vlm.tokenizer is None:
        raise BadInput(
            f"{vlm.config.name} has no tokenizer; set vlm.tokenizer, or use forward and generate_ids with ids"
        )
    return vlm.tokenizer


def _check_prompt(prompt: Prompt) -> None:
    if not isinstance(prompt, (str, list, tuple)):
        raise BadInput(f"the prompt must be a text or a list of turns, got {type(prompt).__name__}")


def _encode_prompt(vlm: "VLM", prompt: Prompt, image: Any) -> list[int]:
    _check_prompt(prompt)
    return vlm.template.encode_prompt(prompt, _tokenizer(vlm), image=image is not None, image_id=vlm.image_id)


def _features(vlm: "VLM", images: Sequence[Any]) -> Tensor | None:
    """H_v (images, N, D_v), one row per entry that is not None; an image that occurs twice is encoded once."""
    keys = [image if isinstance(image, str) else id(image) for image in images if image is not None]
    unique = dict(zip(keys, [image for image in images if image is not None], strict=True))
    if not unique:
        return None
    features = vlm.vision_features(vlm.preprocess.batch(unique.values()))
    rows = {key: row for row, key in enumerate(unique)}
    return features[torch.tensor([rows[key] for key in keys], device=features.device)]


def _room(vlm: "VLM", tokens: int, images: int, features: Tensor | None) -> int:
    """How many new tokens fit after a prompt of `tokens` ids; BadInput when none does."""
    length = tokens + images * (0 if features is None else features.shape[1] - 1)
    limit = vlm.config.max_length
    if length >= limit:
        raise BadInput(
            f"the prompt is too long: {length} tokens with its image, and {vlm.config.name} takes fewer than {limit}; "
            "shorten it"
        )
    return limit - length


def _padded(rows: Sequence[Sequence[int]], fill: int) -> Tensor:
    """Rows of ids as one tensor (B, L), padded on the right."""
    length = max(map(len, rows))
    return torch.tensor([[*row, *[fill] * (length - len(row))] for row in rows])


def _until(pieces: Iterable[str], stop: str | None) -> Iterator[str]:
    """Pieces up to `stop`; the end of a piece that may be the start of `stop` is held back."""
    if stop is None:
        yield from pieces
        return
    held = ""
    for piece in pieces:
        held += piece
        if stop in held:
            yield held[: held.index(stop)]
            return
        keep = next((size for size in range(len(stop) - 1, 0, -1) if held.endswith(stop[:size])), 0)
        yield held[: len(held) - keep]
        held = held[len(held) - keep :]
    yield held


def _trim(pieces: Iterable[str]) -> Iterator[str]:
    """Pieces whose joined text has no white space at either end; empty ones are left out."""
    started, space = False, ""
    for piece in pieces:
        text = (space + piece) if started else piece.lstrip()
        kept = text.rstrip()
        space = text[len(kept) :]
        if kept:
            started = True
            yield kept
