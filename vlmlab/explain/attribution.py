"""What an answer rests on, by taking patches or image tokens away, or by gradients. Notebook 14.

    inside = Inside.ask(vlm, picture, "What color is the cat?")
    occlusion_map(inside)                        # ours, in batches; occlusion(inside) is captum's
    integrated_gradients(at_word(inside, 3)).map  # of one word of the answer

f is log p(answer), natural logarithm, the sum over its words; of `at_word` that of one word given those before it. All
values are differences of f: positive where what was taken away spoke for the answer. Sources: occlusion, Zeiler and
Fergus 2013 (arXiv 1311.2901), section 4.2; integrated gradients, Sundararajan et al. 2017 (arXiv 1703.01365), section
3; captum, Kokhlikyan et al. 2020 (arXiv 2009.07896). What each word rests on, all at once: `llm_attribution`.
"""

from dataclasses import replace
from importlib import import_module
from types import ModuleType
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vlmlab.errors import BadInput, MissingDependency, UnknownName
from vlmlab.explain.inside import Inside

FILLS = ("mean", "grey", "blur")
"""What stands where pixels are taken away: the picture's mean colour, mid-grey, or the picture out of focus."""
BATCH = 16


def at_word(inside: Inside, word: int) -> Inside:
    """The same question with f = log p of one token of the answer, counted from 0 or from the end where negative.

    Raises BadInput for a word that the answer does not have.
    """
    words = range(inside.words.start, inside.words.stop)
    if not -len(words) <= word < len(words):
        raise BadInput(f"word={word}: the answer {inside.answer!r} has the words 0 to {len(words) - 1}")
    place = words[word]
    ids = inside.ids[:, : place + 1]  # what comes later has no part in it
    return replace(inside, answer=inside.texts[place], ids=ids, words=slice(place, place + 1))


# ------------------------------------------------------------------ pictures without some of their patches
def cells(grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """The number of the image token whose patch each pixel belongs to, (H, W) long, for a grid (rows, columns)."""
    (rows, columns), (height, width) = grid, size
    row, column = torch.arange(height) * rows // height, torch.arange(width) * columns // width
    return row[:, None] * columns + column


def pixels_of(inside: Inside) -> Tensor:
    """The question's pixel values (1, 3, S, S). Raises BadInput without a picture."""
    if inside.pixels is None:
        raise BadInput("this question has no picture to take patches from; ask about one")
    return inside.pixels


def filled(inside: Inside, fill: str = "mean") -> Tensor:
    """The picture with nothing left to see, pixel values (1, 3, S, S); fill: one of FILLS.

    "blur" is a Gaussian whose deviation is the width of one patch: places are lost, colours are not. Raises
    UnknownName.
    """
    pixels = pixels_of(inside)
    if fill == "mean":
        return pixels.mean((2, 3), keepdim=True).expand_as(pixels)
    if fill == "grey":
        grey = inside.vlm.preprocess.normalise(np.full((1, 1, 3), 128, np.uint8))
        return grey[None].to(pixels).expand_as(pixels)
    if fill != "blur":
        raise UnknownName("fill", fill, FILLS)
    width = pixels.shape[-1] / inside.grid[1]
    reach = torch.arange(-int(3 * width), int(3 * width) + 1, device=pixels.device, dtype=pixels.dtype)
    weights = torch.exp(-(reach**2) / (2 * width**2))
    weights = (weights / weights.sum()).expand(3, 1, 1, -1)  # a kernel a channel
    side = len(reach) // 2
    across = F.conv2d(F.pad(pixels, (side, side, 0, 0), mode="replicate"), weights, groups=3)
    return F.conv2d(F.pad(across, (0, 0, side, side), mode="replicate"), weights.mT, groups=3)


def scores_without(inside: Inside, gone: Tensor, fill: str = "mean") -> Tensor:
    """f (N,) of the picture with patches replaced; gone: bool (N, P), True where one is; fill: one of FILLS."""
    pixels, blank = pixels_of(inside), filled(inside, fill)
    cell = cells(inside.grid, (pixels.shape[2], pixels.shape[3])).to(pixels.device)
    found = [
        inside.scores(torch.where(part[:, cell][:, None], blank, pixels), batch=BATCH)
        for part in gone.to(pixels.device).split(BATCH)
    ]
    return torch.cat(found)


def occlusion_map(inside: Inside, fill: str = "mean") -> Tensor:
    """f of the picture less f with a patch replaced, for every image token's patch (rows, columns), in batches."""
    gone = torch.eye(inside.patches + 1, inside.patches).bool().roll(1, 0)  # the first row: nothing
    scores = scores_without(inside, gone, fill)
    return inside.on_grid(scores[0] - scores[1:])


# ------------------------------------------------------------------ captum's methods
def captum(part: str = "attr") -> ModuleType:
    """captum's module "attr" or "metrics". Raises MissingDependency."""
    try:
        return import_module(f"captum.{part}")
    except ImportError:
        raise MissingDependency("captum", "attribution by captum's methods") from None


def occlusion(inside: Inside, fill: str = "mean") -> Tensor:
    """captum's Occlusion with windows of one patch that do not overlap: the same (rows, columns) as `occlusion_map`.

    captum gives float32 whatever the model computes in. Raises BadInput where no whole number of patches fits.
    """
    pixels, size = pixels_of(inside), pixels_of(inside).shape[-1]
    if size % inside.grid[0]:
        raise BadInput(f"{size} pixels are no whole number of {inside.grid[0]} windows; use occlusion_map")
    window = (3, size // inside.grid[0], size // inside.grid[1])
    found = captum().Occlusion(inside.scores).attribute(
        pixels, window, strides=window, baselines=filled(inside, fill), perturbations_per_eval=BATCH
    )  # fmt: skip
    return found[0, 0, :: window[1], :: window[2]]  # all pixels of a window have its value


def token_ablation(inside: Inside) -> Tensor:
    """captum's FeatureAblation of image tokens: f less f with one token replaced by their mean, (rows, columns)."""
    tokens, mean = _tokens(inside)
    number = torch.arange(tokens.shape[1], device=tokens.device)[None, :, None]  # a feature a token
    found = captum().FeatureAblation(lambda given: inside.scores(tokens=given)).attribute(
        tokens, mean, feature_mask=number, perturbations_per_eval=BATCH
    )  # fmt: skip
    return inside.on_grid(found[0, -inside.patches :, 0])


class Integrated(NamedTuple):
    """Integrated gradients. map: (rows, columns). values: (3, S, S) of pixels or (P', D) of image tokens, P' with a
    class token in front where the model reads one. whole, empty: f of the picture and of the baseline."""

    map: Tensor
    values: Tensor
    whole: float
    empty: float

    @property
    def error(self) -> float:
        """How far completeness is missed, relative: the values should sum to whole - empty."""
        gap = self.whole - self.empty
        return abs(float(self.values.sum()) - gap) / max(abs(gap), 1e-300)


def integrated_gradients(inside: Inside, on: str = "pixels", fill: str = "mean", steps: int = 64) -> Integrated:
    """captum's IntegratedGradients of f, along the straight line from a baseline, by Gauss-Legendre quadrature.

    Args:
        on: "pixels", from the picture filled with `fill`, or "tokens", from the mean image token in all places.
        steps: gradients along the line; `error` tells whether they were enough.
    Raises UnknownName, and BadInput without a picture or for no steps.
    """
    if steps < 1:
        raise BadInput(f"steps={steps} must be at least 1")
    if on == "tokens":
        start, base = _tokens(inside)
    elif on == "pixels":
        start, base = pixels_of(inside), filled(inside, fill)
    else:
        raise UnknownName("input of integrated gradients", on, ("pixels", "tokens"))

    def f(given: Tensor) -> Tensor:
        return log_probs(inside, **{on: given}).sum(-1)

    values = captum().IntegratedGradients(f).attribute(start, base, n_steps=steps, internal_batch_size=BATCH)[0]
    with torch.no_grad():
        whole, empty = (float(f(each)) for each in (start, base))
    if on == "tokens":
        shares = values.sum(-1)[-inside.patches :]
    else:
        cell = cells(inside.grid, (values.shape[1], values.shape[2])).to(values.device)
        shares = values.new_zeros(inside.patches).index_add(0, cell.flatten(), values.sum(0).flatten())
    return Integrated(inside.on_grid(shares).detach(), values.detach(), whole, empty)


def integrated_gradients_map(inside: Inside) -> Tensor:
    """`integrated_gradients` of pixels, summed over each patch, (rows, columns)."""
    return integrated_gradients(inside).map


def log_probs(inside: Inside, pixels: Tensor | None = None, tokens: Tensor | None = None) -> Tensor:
    """log p of each token of the answer (N, A) for N other pictures (N, 3, S, S) or sets of image tokens (N, P', D).

    As `Inside.scores`, before the sum over the answer, and with gradients unless they are switched off.
    """
    return inside.word_log_probs(inside.logits(pixels, tokens, None))


def _tokens(inside: Inside) -> tuple[Tensor, Tensor]:
    """The image's tokens (1, P', D), and as many times the mean of those that have a place."""
    with torch.no_grad():
        tokens = inside.vlm.encode_images(pixels_of(inside))
    return tokens, tokens[:, -inside.patches :].mean(1, keepdim=True).expand_as(tokens)
