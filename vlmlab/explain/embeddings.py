"""Pictures of feature space: UMAP beside PCA, and how far either may be believed. Notebook 14.

    points = collect(vlm, [sample(i, split="test") for i in range(40)])["features"]
    pictures = {"PCA": pca(points.x), "UMAP": umap(points.x, seed=0)}       # (n, 2) each
    believe(points, "kind", pictures)

UMAP keeps neighbours and not distances: how large its islands are and how far apart says little, and it draws islands
into noise as well. So a picture comes with a number: how often a point's nearest neighbours have its label, in the
picture, in the full space, and with shuffled labels. Neighbours from the same scene do not count, for they are alike
whatever the label; and labels are shuffled between objects, not between the patches of one, for the same reason.

Source: McInnes, Healy and Melville 2018 (arXiv 1802.03426).
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vlmlab.errors import BadInput, MissingDependency, UnknownName
from vlmlab.explain.inside import Inside
from vlmlab.explain.probes import Features
from vlmlab.explain.regions import SHARE, coverage
from vlmlab.scenes import Scene
from vlmlab.vlm.conversations import DESCRIBE
from vlmlab.vlm.model import VLM

NEIGHBOURS = 10  # of a point, whose labels are compared with its own


class Points(NamedTuple):
    """n points of a feature space. x: float32 (n, D). labels: name -> n words or numbers. scene, unit: n numbers;
    points of one scene are no neighbours, and points of one unit (an object, say) are labelled as one."""

    x: np.ndarray
    labels: dict[str, np.ndarray]
    scene: np.ndarray
    unit: np.ndarray


class Agreement(NamedTuple):
    """The share of a point's neighbours that have its label, in [0, 1], the mean over the points; the same with
    shuffled labels: its mean, and what 95 % of the shuffles lie between."""

    value: float
    control: float
    control_low: float
    control_high: float


def collect(vlm: VLM, scenes: Sequence[Scene], names: Sequence[str] = ("features", "tokens")) -> dict[str, Points]:
    """The patches of scenes that show an object, with what they show, at some stages of a model.

    names: of `vlm.names()`, of those with a row a patch or a position, of which the image's are taken: "features" (the
    encoder's), "tokens" (projected), "language.layers.3", ... Labels: "kind" and "colour" of the object that fills
    most of the patch, SHARE of it at least, and the patch's "row" and "column", from 1. A unit is an object of a scene.
    Raises UnknownName for a name, BadInput for a stage without patches or scenes without objects.
    """
    scenes = [scene for scene in scenes if scene.objects]
    if not scenes:
        raise BadInput("no scene with an object, so no patch that shows one; give others")
    found: dict[str, list[Points]] = {name: [] for name in names}
    for number, scene in enumerate(scenes):
        render = scene.render(vlm.config.image_size)
        inside = Inside.ask(vlm, render.rgb, DESCRIBE, "x")  # image tokens do not see what is asked after them
        run = inside.run(names)
        for name, parts in found.items():
            if run[name].dim() != 3:
                raise BadInput(f"{name} is {tuple(run[name].shape)}; only what has a row a patch can be collected")
            rows = run[name][0, inside.image] if run[name].shape[1] == inside.length else run[name][0]
            parts.append(_patches(rows, number, scene, render.mask))
    return {name: _joined(parts) for name, parts in found.items()}


def _patches(rows: Tensor, number: int, scene: Scene, mask: np.ndarray) -> Points:
    """The rows of a scene's patches, perhaps behind a prefix, that show an object."""
    side = math.isqrt(len(rows))
    share, index = coverage(mask, range(len(scene.objects)), side**2).max(0)
    at = (share >= SHARE).nonzero()[:, 0].numpy()
    shown = index.numpy()[at]
    labels = {
        **{field: np.array([getattr(item, field) for item in scene.objects])[shown] for field in ("kind", "colour")},
        "row": at // side + 1,
        "column": at % side + 1,
    }
    x = rows[len(rows) - side**2 :].float().cpu().numpy()[at]
    return Points(x, labels, np.full(len(at), number), number * 100 + shown)  # fewer than 100 objects a scene


def _joined(parts: Sequence[Points]) -> Points:
    labels = {name: np.concatenate([part.labels[name] for part in parts]) for name in parts[0].labels}
    x, scene, unit = (np.concatenate([getattr(part, name) for part in parts]) for name in ("x", "scene", "unit"))
    return Points(x, labels, scene, unit)


def answers(features: Features, stage: str) -> Points:
    """One stage of `vlmlab.explain.probes.collect`, a Mamba's state after the image say: a point a question, its label
    "answer". Raises UnknownName for a stage."""
    if stage not in features.stages:
        raise UnknownName("stage", stage, features.stages)
    _, scene = np.unique(features.scenes, return_inverse=True)
    labels = {"answer": np.array(features.labels)}
    return Points(features.stages[stage].numpy(), labels, scene, np.arange(len(scene)))


def pca(x: np.ndarray, components: int = 2) -> np.ndarray:
    """The first principal components of x (n, D), float64 (n, components), largest first; the same x gives the same
    signs: the direction's largest weight is positive."""
    if min(x.shape) < components:
        raise BadInput(f"{x.shape[0]} points of {x.shape[1]} channels have no {components} principal components")
    centred = x.astype(np.float64) - x.mean(0, dtype=np.float64)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    axes = axes[:components]
    largest = np.take_along_axis(axes, np.abs(axes).argmax(1)[:, None], 1)
    return centred @ (axes * np.sign(largest)).T


def umap(x: np.ndarray, seed: int = 0, neighbours: int = 15, min_dist: float = 0.1) -> np.ndarray:
    """UMAP's picture of x (n, D), float32 (n, 2), from exact Euclidean neighbours, on one thread: the same seed gives
    the same bytes on the same machine. The first call compiles for some seconds.

    Args: neighbours: of a point, itself among them; few show small groups, many the whole. min_dist: how close points
    may lie in the picture, in its own units.
    Raises BadInput for fewer points than neighbours, MissingDependency without umap-learn.
    """
    if len(x) <= neighbours:
        raise BadInput(f"{len(x)} points, each with {neighbours} neighbours; UMAP needs more points or fewer of these")
    try:
        from umap import UMAP
    except ImportError:
        raise MissingDependency("umap-learn", "UMAP") from None
    index, distance = _nearest(_distances(x), neighbours)
    model = UMAP(
        n_neighbors=neighbours,
        min_dist=min_dist,
        random_state=seed,
        n_jobs=1,
        precomputed_knn=(index.astype(np.int32), distance.astype(np.float32)),  # its own need 5 s more to compile
        force_approximation_algorithm=True,  # else it ignores them where points are few
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "precomputed_knn")  # no new points will be put into the picture
        return model.fit_transform(x)


def agreement(
    x: np.ndarray,
    labels: Sequence[Any] | np.ndarray,
    scene: np.ndarray | None = None,
    unit: np.ndarray | None = None,
    neighbours: int = NEIGHBOURS,
    shuffles: int = 200,
    seed: int = 0,
) -> Agreement:
    """How often the nearest neighbours of a point have its label, beside what shuffled labels give.

    Args:
        x: (n, D), Euclidean. labels: n. scene: n; points of the same scene are not counted as neighbours.
        unit: n; a shuffle gives all points of a unit the label of another unit. By default each point is one.
    Raises BadInput for points with fewer than `neighbours` others that count, or a unit with two labels.
    """
    _, words = np.unique(np.asarray(labels), return_inverse=True)
    _, first, unit = np.unique(
        np.arange(len(x)) if unit is None else unit, return_index=True, return_inverse=True
    )  # first (U,): a point of each
    if (words[first][unit] != words).any():
        raise BadInput("points of one unit have different labels; give a unit to each of them, or none")
    distances = _distances(x)
    distances[np.eye(len(x), dtype=bool) if scene is None else scene[:, None] == scene] = np.inf
    if (np.isfinite(distances).sum(1) < neighbours).any():
        raise BadInput(f"a point has fewer than {neighbours} others from other scenes; collect more scenes")
    index, _ = _nearest(distances, neighbours)
    draw = np.random.default_rng(seed)

    def share(words: np.ndarray) -> float:
        return float((words[index] == words[:, None]).mean())

    control = [share(draw.permutation(words[first])[unit]) for _ in range(shuffles)]
    low, high = np.quantile(control, [0.025, 0.975])
    return Agreement(share(words), float(np.mean(control)), float(low), float(high))


def believe(points: Points, label: str, pictures: Mapping[str, np.ndarray], **options: Any) -> dict[str, Agreement]:
    """The agreement of neighbours in the full space and in each picture (n, 2); options as in `agreement`.

    A label that differs within a unit, as a patch's row does, is shuffled between single points. A picture that agrees
    more than the full space shows more order than there is. Raises UnknownName for a label.
    """
    if label not in points.labels:
        raise UnknownName("label", label, points.labels)
    words = points.labels[label]
    pairs = len(set(zip(points.unit.tolist(), words.tolist(), strict=True)))
    unit = points.unit if pairs == len(set(points.unit.tolist())) else None
    spaces = {"full space": points.x, **pictures}
    return {name: agreement(x, words, points.scene, unit, **options) for name, x in spaces.items()}


def _distances(x: np.ndarray) -> np.ndarray:
    """Euclidean distances (n, n), float64, 0 of a point to itself."""
    x64 = torch.from_numpy(np.ascontiguousarray(x)).double()
    return torch.cdist(x64, x64).fill_diagonal_(0).numpy()


def _nearest(distances: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The nearest points of each and their distances, (n, count) each; of two as near, the one that comes first."""
    index = np.argsort(distances, 1, kind="stable")[:, :count]
    return index, np.take_along_axis(distances, index, 1)
