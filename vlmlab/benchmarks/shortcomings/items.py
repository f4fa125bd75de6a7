"""Notebook 06. How the questions about shortcomings are asked, and what the answers add up to.

Every question has a true answer and perhaps lures: wrong answers that tell what went wrong, such as the colour of the
wrong object, or what an illusion makes one say.
"""

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from math import inf, prod
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from vlmlab.benchmarks.held_out import is_right
from vlmlab.benchmarks.statistics import proportion
from vlmlab.scenes import Scene

if TYPE_CHECKING:
    from vlmlab.vlm.model import VLM

Progress = Callable[[int, int], object] | None
NO_LURES: Mapping[str, tuple[str, ...]] = MappingProxyType({})


def seen(scene: Scene, size: int) -> np.ndarray:
    """The scene's picture (size, size, 3)."""
    return scene.render(size).rgb


def ends_in(text: str, answer: str) -> bool:
    """Whether an answer's last words are these: the verdict of a sentence."""
    return is_right(text, answer, "sentence")


def band(value: float, edges: Sequence[float]) -> str:
    """The row of a value in per cent, where rows begin at `edges`: "under 1 %", "1 to 2 %", "2 % or more"."""
    at = max(bisect_right(edges, value), 1)
    if at == len(edges):
        return f"{edges[-1]:g} % or more"
    return f"under {edges[at]:g} %" if at == 1 else f"{edges[at - 1]:g} to {edges[at]:g} %"


class Item(NamedTuple):
    """A question about a picture of a scene.

    group, row: where it counts. chance: how often a guess is right. x: its place on the group's axis, if that has one.
    lures: name -> wrong answers worth counting. unit: the items of a row with the same unit count as one, right only if
    all of them are. look: (scene, size) -> picture. judge: (a model's text, answer) -> whether that is right.
    """

    group: str
    row: str
    scene: Scene
    question: str
    answer: str
    chance: float
    x: float | None = None
    lures: Mapping[str, tuple[str, ...]] = NO_LURES
    unit: int | None = None
    look: Callable[[Scene, int], np.ndarray] = seen
    judge: Callable[[str, str], bool] = ends_in


def ask(
    vlm: "VLM", items: Sequence[Item], blind: bool = False, progress: Progress = None, batch_size: int = 64
) -> list[str]:
    """A model's answers, in the sentence form and greedily; what is asked of the same picture twice is asked once.

    blind: ask without the pictures. progress: called with (answers so far, all).
    """
    keys = [(None if blind else (item.scene, item.look), item.question) for item in items]
    wanted = list(dict.fromkeys(keys))
    pictures = {view: view[1](view[0], vlm.config.image_size) for view, _ in wanted if view is not None}
    texts = vlm.answer_many(
        [None if view is None else pictures[view] for view, _ in wanted],
        [question for _, question in wanted],
        max_new_tokens=56,
        batch_size=batch_size,
        on_batch=None if progress is None else lambda done: progress(done, len(wanted)),
    )
    said = dict(zip(wanted, texts, strict=True))
    return [said[key] for key in keys]


def tally(items: Sequence[Item], said: Sequence[str], blind: Sequence[str]) -> list[dict[str, Any]]:
    """One dict a row: groups in the order of the items, their rows along the axis if they have one.

    Args: said, blind: the answers with and without pictures.
    Returns:
        {"group", "row", "x" (the mean; None without an axis), "n", "right", "accuracy", "low", "high", "chance",
        "blind", "lures": {name: {"n", "share", "low", "high", "blind"}}}. Shares are fractions; low and high bound the
        95 % Wilson interval. n counts units, a lure's n the answers that could have fallen for it.
    """
    rows: dict[tuple[str, str], list[int]] = {}
    for index, item in enumerate(items):
        rows.setdefault((item.group, item.row), []).append(index)
    found = [{"group": group, "row": row, **_row(items, said, blind, at)} for (group, row), at in rows.items()]
    groups = list(dict.fromkeys(group for group, _ in rows))
    return sorted(found, key=lambda row: (groups.index(row["group"]), inf if row["x"] is None else row["x"]))


def _row(items: Sequence[Item], said: Sequence[str], blind: Sequence[str], members: list[int]) -> dict[str, Any]:
    units: dict[Any, list[int]] = {}
    for i in members:
        units.setdefault(("alone", i) if items[i].unit is None else items[i].unit, []).append(i)

    def rights(texts: Sequence[str]) -> list[bool]:
        return [all(items[i].judge(texts[i], items[i].answer) for i in unit) for unit in units.values()]

    axis = [x for i in members if (x := items[i].x) is not None]
    right = rights(said)
    return {
        "x": float(np.mean(axis)) if axis else None,
        **proportion(right),
        "right": sum(right),
        "chance": float(np.mean([prod(items[i].chance for i in unit) for unit in units.values()])),
        "blind": float(np.mean(rights(blind))),
        "lures": {
            name: _lured(name, [i for i in members if name in items[i].lures], items, said, blind)
            for name in dict.fromkeys(name for i in members for name in items[i].lures)
        },
    }


def _lured(
    name: str, members: list[int], items: Sequence[Item], said: Sequence[str], blind: Sequence[str]
) -> dict[str, Any]:
    def fallen(texts: Sequence[str]) -> list[bool]:
        return [any(ends_in(texts[i], lure) for lure in items[i].lures[name]) for i in members]

    found = proportion(fallen(said))
    return {"n": found["n"], "share": found["accuracy"], "low": found["low"], "high": found["high"],
            "blind": float(np.mean(fallen(blind)))}  # fmt: skip


def rows(vlm: "VLM", items: Sequence[Item], progress: Progress = None) -> list[dict[str, Any]]:
    """Ask with and without pictures and count; see `tally`."""
    return tally(items, ask(vlm, items, progress=progress), ask(vlm, items, blind=True, progress=progress))
