"""How far a map can be trusted: deletion, insertion, the pointing game, two controls, infidelity. Notebook 14.

    deletion(inside, map).area     patches taken away from the map's highest value down: lower is better
    insertion(inside, map).area    patches put back in the same order: higher is better
    pointing(map, share)           does the map's maximum fall on the object that was asked about?

The first two ask the model: is the map about what it uses? The third asks the scene: is the map where a person would
look? A map can be faithful to a model that looks elsewhere. All need the controls: a random map, and the centre, where
objects tend to be. A model was never trained on pictures with patches missing (Hooker et al. 2019, arXiv 1806.10758),
so an area compares maps of one model and is no measure by itself. Sources: deletion and insertion, Petsiuk et al. 2018
(arXiv 1806.07421), section 4.3; the pointing game, Zhang et al. 2016 (arXiv 1608.00507), section 4.2; infidelity and
sensitivity, Yeh et al. 2019 (arXiv 1901.09392).
"""

import hashlib
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vlmlab.errors import BadInput
from vlmlab.explain.attribution import captum, pixels_of, scores_without
from vlmlab.explain.inside import Inside, Method
from vlmlab.explain.regions import SHARE, coverage
from vlmlab.runtime import generator

STEPS = 16


# ------------------------------------------------------------------ is it what the model uses?
class Curve(NamedTuple):
    """p(answer) while patches go or come. share: of the patches gone (deletion) or there (insertion), 0 to 1, (K,).
    relative: p(answer) over p(answer) of the whole picture (K,), above 1 where less of the picture says it more."""

    share: Tensor
    relative: Tensor

    @property
    def area(self) -> float:
        """The area under the curve by trapezia: the mean relative p, 1 for an answer that no patch matters to."""
        return float(torch.trapezoid(self.relative, self.share))


def deletion(inside: Inside, map: Tensor, fill: str = "mean", steps: int = STEPS, seed: int = 0) -> Curve:
    """p(answer) while patches are replaced from the highest value of `map` (rows, columns) down.

    Args:
        fill: what stands in their place, one of attribution.FILLS. steps: equal ones, at most one a patch.
        seed: of the order among equal values.
    Raises BadInput for a map of another shape or with values that are not finite, or no steps; UnknownName.
    """
    return _curve(inside, map, fill, steps, seed, comes=False)


def insertion(inside: Inside, map: Tensor, fill: str = "mean", steps: int = STEPS, seed: int = 0) -> Curve:
    """p(answer) while patches come into an empty picture, from the highest value of `map` down; see `deletion`."""
    return _curve(inside, map, fill, steps, seed, comes=True)


def _curve(inside: Inside, map: Tensor, fill: str, steps: int, seed: int, comes: bool) -> Curve:
    P, ranks = inside.patches, ranked(checked(inside, map), seed).argsort()
    if steps < 1:
        raise BadInput(f"steps={steps} must be at least 1")
    counts = torch.linspace(0, P, min(steps, P) + 1).round().long()
    reached = ranks < counts[:, None]  # (K, P)
    scores = scores_without(inside, ~reached if comes else reached, fill)
    return Curve(counts / P, (scores - scores[-1 if comes else 0]).exp().cpu())


def checked(inside: Inside, map: Tensor) -> Tensor:
    """A map as float64 on the CPU. Raises BadInput unless it is (rows, columns) of this question and finite."""
    if tuple(map.shape) != inside.grid or not map.isfinite().all():
        raise BadInput(f"a map must have shape {inside.grid} and finite values; got {tuple(map.shape)}")
    return map.detach().double().cpu()


def ranked(map: Tensor, seed: int = 0) -> Tensor:
    """The patches' numbers (P,) from the map's highest value to its lowest, equal values in an order from `seed`."""
    shuffled = torch.randperm(map.numel(), generator=generator(seed))
    return shuffled[map.flatten()[shuffled].argsort(descending=True, stable=True)]


def infidelity(inside: Inside, map: Tensor, fill: str = "mean", samples: int = 64, seed: int = 0) -> float:
    """captum's infidelity of a map over patches: the mean of (sum of the map over some patches - what f loses without
    them)^2, over random halves of the patches, after the map was scaled as fits best (so that units do not matter).

    The same seed draws the same halves, to compare maps of one question. Raises BadInput as `deletion`;
    MissingDependency.
    """
    draw, values = generator(seed), checked(inside, map).flatten()[None]

    def taken(there: Tensor) -> tuple[Tensor, Tensor]:
        gone = (torch.rand(there.shape, generator=draw) < 0.5).to(there)
        return gone, there - gone

    def f(there: Tensor) -> Tensor:
        return scores_without(inside, there < 0.5, fill).double().cpu()

    whole = torch.ones_like(values)
    return float(captum("metrics").infidelity(f, taken, whole, values, n_perturb_samples=samples, normalize=True))


def sensitivity(inside: Inside, method: Method, radius: float = 0.02, samples: int = 4, seed: int = 0) -> float:
    """captum's maximal sensitivity: the largest relative change of a method's map under noise on the picture.

    radius: of the uniform noise on every value of a pixel, in [0, 1] of full brightness. Raises MissingDependency.
    """
    pixels, draw = pixels_of(inside), generator(seed)
    level = radius / torch.tensor(inside.vlm.preprocess.std).view(3, 1, 1).to(pixels)

    def noisy(given: Tensor) -> Tensor:
        return given + level * (2 * torch.rand(given.shape, generator=draw).to(given) - 1)

    @torch.enable_grad()  # captum switches them off, and some methods need gradients
    def maps(given: Any) -> Any:
        if isinstance(given, tuple):  # captum's first call: what comes in a tuple goes back in one
            return (maps(given[0]),)
        return torch.stack([checked(inside, method(replace(inside, pixels=each[None]))) for each in given])

    return float(captum("metrics").sensitivity_max(maps, pixels, noisy, n_perturb_samples=samples))


# ------------------------------------------------------------------ is it where the object is?
def object_share(inside: Inside, mask: np.ndarray, index: int) -> Tensor:
    """The share of each patch that an object fills, (rows, columns) float64.

    mask: of the scene's render, (S, S). index: into scene.objects. Raises BadInput for an object that is not seen.
    """
    found = coverage(mask, [index], inside.patches)[0].view(inside.grid)
    if not found.any():
        raise BadInput(f"object {index} is not to be seen in this picture, so no map can point to it")
    return found


def on_object(share: Tensor) -> Tensor:
    """The patches that count as the object's: those it fills to a fifth, or the fullest; bool (rows, columns)."""
    return (share >= SHARE) | (share == share.max())


def pointing(map: Tensor, share: Tensor) -> float:
    """1 where the map's maximum falls on the object's patches, 0 elsewhere; of several maxima, the mean.

    The share of the object's patches, `on_object(share).mean()`, is chance.
    """
    return float(on_object(share)[map == map.max()].double().mean())


def mass(map: Tensor, share: Tensor) -> float:
    """The share of the map's positive values that lies on the object, counting a patch as far as the object fills it.

    The object's share of the picture, `share.mean()`, is what an even map has, and a map without positive values.
    """
    positive = map.double().clamp(min=0)
    return float((positive * share).sum() / positive.sum() if positive.any() else share.mean())


# ------------------------------------------------------------------ controls
def random_map(inside: Inside, seed: int = 0) -> Tensor:
    """A map of noise (rows, columns), uniform in [0, 1]: another one for another question, always the same for one."""
    asked = hashlib.sha256(pixels_of(inside).cpu().numpy().tobytes() + inside.ids.cpu().numpy().tobytes())
    asked.update(str(seed).encode())
    return torch.rand(inside.grid, generator=generator(int.from_bytes(asked.digest()[:7], "big")))


def centre_map(inside: Inside) -> Tensor:
    """A Gaussian at the centre of the picture (rows, columns); its deviation is a quarter of each side."""
    rows, columns = ((torch.arange(side) + 0.5) / side - 0.5 for side in inside.grid)
    return torch.exp(-8 * (rows[:, None] ** 2 + columns**2))  # 1 / (2 * 0.25^2) = 8
