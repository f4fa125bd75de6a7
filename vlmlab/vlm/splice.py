"""The splice: image tokens Z_v take the place of the image placeholders among the text embeddings H_q. Notebook 02.

A run of placeholder ids stands for one image, whether the run has one id (LLaVA's own files) or N ids (as
transformers writes it). The work is done on ids: `expand` turns every row into the form with N ids per image and
remembers which image token belongs at each position; `splice` then embeds the text and drops the image tokens in.

Source: Visual Instruction Tuning (arXiv 2304.08485), section 4.1 and figure 1.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from vlmlab.errors import BadInput

IGNORE = -100
"""The label of a position that carries no loss."""


@dataclass(frozen=True)
class Expanded:
    """Rows whose image placeholders are N ids long. L is the length of the longest row.

    ids: (B, L) long; image positions keep the placeholder id, padding is 0.
    image_index: (B, L) long; the row of the (images * N, D) table of image tokens, -1 at text and padding.
    images: how many images the rows hold.
    attention_mask: (B, L) of 1 and 0, the (B, L, L) boolean mask that was given, or None when nothing is masked.
    labels: (B, L) long, -100 at images and padding, or None.
    """

    ids: Tensor
    image_index: Tensor
    images: int
    attention_mask: Tensor | None
    labels: Tensor | None


@dataclass(frozen=True)
class Spliced(Expanded):
    """Expanded rows with their embeddings, ready for the language model. inputs_embeds: (B, L, D)."""

    inputs_embeds: Tensor


def expand(
    input_ids: Tensor,
    image_tokens: int,
    image_id: int,
    labels: Tensor | None = None,
    attention_mask: Tensor | None = None,
    *,
    padding: Literal["right", "left"] | None = None,
    max_length: int | None = None,
) -> Expanded:
    """Give every image `image_tokens` placeholder ids, whatever the row had; truncate and pad.

    Rows that are already in that form and short enough stay as they are, padding included.

    Args:
        input_ids: (B, L0) long. Rows without an image may stand beside rows with several.
        image_tokens: N, tokens per image. A run of 1 id is one image, a run of k * N ids is k images.
        image_id: the placeholder's id; it need not be in the vocabulary.
        labels: (B, L0) long or None.
        attention_mask: (B, L0) of 1 and 0; or (B, L0, L0) boolean, who sees whom, for rows that can stay as they are.
        padding: the side to pad rows of different length on. None: the side on which `attention_mask` pads, right
            when it does not.
        max_length: rows are cut on the right after this many tokens, as LLaVA's trainer does.

    Raises:
        BadInput: a shape is wrong, a run of placeholders is neither 1 nor a multiple of N, or a row had labels and
            cutting it took all of them.
    """
    _check_shapes(input_ids, labels, attention_mask)
    is_image = (input_ids == image_id).cpu()
    repeats = [_repeats(row, image_tokens, number) for number, row in enumerate(is_image)]
    images = sum(int(repeat[row].sum()) for row, repeat in zip(is_image, repeats, strict=True)) // image_tokens
    length = input_ids.shape[1]
    if (max_length is None or length <= max_length) and all(bool((repeat == 1).all()) for repeat in repeats):
        index = torch.where(is_image, is_image.flatten().cumsum(0).view(is_image.shape) - 1, -1).to(input_ids.device)
        labels = None if labels is None else labels.masked_fill(index >= 0, IGNORE)
        return Expanded(input_ids, index, images, attention_mask, labels)

    if attention_mask is not None and attention_mask.dim() == 3:
        raise BadInput(
            f"a (B, L, L) attention_mask needs {image_tokens} placeholder ids per image and at most {max_length} "
            "tokens; write the rows that way"
        )
    ids = input_ids.cpu()
    mask = torch.ones_like(ids) if attention_mask is None else attention_mask.cpu().long()
    targets = None if labels is None else labels.cpu()
    rows: list[list[Tensor]] = []
    seen, left = 0, False
    for number, repeat in enumerate(repeats):
        begin, end = _real_span(mask[number])
        left = left or begin > 0
        picture = is_image[number].repeat_interleave(repeat)
        index = torch.where(picture, picture.cumsum(0) - 1 + seen, -1)
        seen += int(picture.sum())
        start, stop = int(repeat[:begin].sum()), int(repeat[:end].sum())
        row = [ids[number].repeat_interleave(repeat), index, mask[number].repeat_interleave(repeat)]
        if targets is not None:
            row.append(targets[number].repeat_interleave(repeat).masked_fill(picture, IGNORE))
            _check_cut(row[-1][start:stop], max_length, number)
        rows.append([column[start:stop][:max_length] for column in row])
    side = padding or ("left" if left else "right")
    fills = (0, -1, 0, IGNORE)[: len(rows[0])]
    stacked = [
        _pad(column, fill, side).to(input_ids.device)
        for column, fill in zip(zip(*rows, strict=True), fills, strict=True)
    ]
    return Expanded(stacked[0], stacked[1], images, stacked[2], None if targets is None else stacked[3])


def splice(
    embed: Callable[[Tensor], Tensor],
    input_ids: Tensor,
    image_features: Tensor | None,
    image_id: int,
    labels: Tensor | None = None,
    attention_mask: Tensor | None = None,
    *,
    padding: Literal["right", "left"] | None = None,
    max_length: int | None = None,
) -> Spliced:
    """Embed text and put the projected image tokens in the placeholders' places.

    Args:
        embed: maps ids (B, L) to embeddings (B, L, D).
        input_ids: (B, L0) long, with one or N placeholder ids per image; text-only rows may be mixed in.
        image_features: Z_v (images, N, D), in the order in which the images occur, row by row; None without images.
        image_id, labels, attention_mask, padding, max_length: see `expand`.

    Returns:
        `Spliced`; every position stays where it was when each image had N ids already.

    Raises:
        BadInput: the number of images in the rows differs from the number given, or as `expand` says.
    """
    if image_features is not None and image_features.dim() != 3:
        raise BadInput(f"image_features must be (images, N, D), got {tuple(image_features.shape)}")
    given, tokens = (0, 1) if image_features is None else image_features.shape[:2]
    rows = expand(input_ids, tokens, image_id, labels, attention_mask, padding=padding, max_length=max_length)
    if image_features is None and rows.images:
        raise BadInput("input_ids hold image placeholders, but no image was given; pass pixel_values")
    if rows.images != given:
        raise BadInput(
            f"input_ids hold placeholders for {rows.images} images, but {given} were given; pass one image per run "
            "of placeholders, in the order of the rows"
        )
    is_image = rows.image_index >= 0  # (B, L)
    embeds = embed(rows.ids.masked_fill(is_image, 0))  # (B, L, D); the placeholder's id may lie outside the vocabulary
    if image_features is not None:
        chosen = image_features.flatten(0, 1)[rows.image_index[is_image]]  # (image positions, D)
        embeds = embeds.masked_scatter(is_image[..., None], chosen.to(embeds.dtype))
    return Spliced(**vars(rows), inputs_embeds=embeds)


def _repeats(is_image: Tensor, tokens: int, number: int) -> Tensor:
    """How often to write each position of a row (L,) so that every image has `tokens` positions."""
    picture, counts = torch.unique_consecutive(is_image, return_counts=True)
    wrong = picture & (counts != 1) & (counts % tokens != 0)
    if wrong.any():
        raise BadInput(
            f"row {number} of input_ids has {int(counts[wrong][0])} image placeholders in a row, where an image has "
            f"{tokens} tokens; write 1 or {tokens} placeholders per image"
        )
    return torch.where(picture & (counts == 1), tokens, 1).repeat_interleave(counts)


def _real_span(mask: Tensor) -> tuple[int, int]:
    """First and one past the last unmasked position of a row (L,): what lies outside is padding."""
    real = mask.nonzero().flatten()
    return (int(real[0]), int(real[-1]) + 1) if len(real) else (0, 0)


def _check_cut(labels: Tensor, max_length: int | None, number: int) -> None:
    """A row must not lose every answer to truncation: it would train on nothing without a word."""
    if (labels != IGNORE).any() and not (labels[:max_length] != IGNORE).any():
        raise BadInput(
            f"row {number} has {len(labels)} tokens, and cutting it to {max_length} leaves no answer to learn from; "
            "shorten the question or raise max_length"
        )


def _pad(rows: tuple[Tensor, ...], fill: int, side: str) -> Tensor:
    """Stack rows (L_i,) into (B, max L_i)."""
    length = max(len(row) for row in rows)
    out = rows[0].new_full((len(rows), length), fill)
    for number, row in enumerate(rows):
        start = length - len(row) if side == "left" else 0
        out[number, start : start + len(row)] = row
    return out


def _check_shapes(input_ids: Tensor, labels: Tensor | None, attention_mask: Tensor | None) -> None:
    if input_ids.dim() != 2 or input_ids.numel() == 0 or input_ids.is_floating_point():
        raise BadInput(f"input_ids must be whole numbers of shape (B, L), not empty; got {tuple(input_ids.shape)}")
    shape = tuple(input_ids.shape)
    if labels is not None and tuple(labels.shape) != shape:
        raise BadInput(f"labels have shape {tuple(labels.shape)}, input_ids {shape}; they must be equal")
    if attention_mask is not None and tuple(attention_mask.shape) not in (shape, (*shape, shape[1])):
        raise BadInput(
            f"attention_mask has shape {tuple(attention_mask.shape)}; it must be {shape} or {(*shape, shape[1])}"
        )
