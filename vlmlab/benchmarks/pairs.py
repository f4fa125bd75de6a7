"""Notebook 05. Right and wrong answers put together: by group, in controlled pairs and in sets.

The two questions of a controlled pair (What'sUp, MMVP, NLVR2) differ in one thing and have different answers. A pair
counts only if both are right, so a constant answer, which is right half the time, gets 0.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vlmlab.errors import BadInput

Marks = Mapping[Any, bool] | Sequence[bool]


def share(part: float, whole: float) -> float:
    """part / whole; 0 of nothing is 0."""
    return part / whole if whole else 0.0


class Tally:
    """n and the sum of accuracies, by group; an answer may earn part of a point."""

    def __init__(self) -> None:
        self.n: dict[Any, int] = {}
        self.sum: dict[Any, float] = {}

    def add(self, group: Any, accuracy: float) -> None:
        """Count an answer in a group."""
        self.n[group] = self.n.get(group, 0) + 1
        self.sum[group] = self.sum.get(group, 0.0) + accuracy

    def rates(self) -> dict[Any, dict[str, Any]]:
        """{group: {"n", "accuracy"}}, the accuracy in [0, 1]."""
        return {group: {"n": n, "accuracy": self.sum[group] / n} for group, n in sorted(self.n.items())}

    def official(self) -> dict[Any, float]:
        """{group: per cent with two decimals}, as the official programs round."""
        return {group: round(100 * self.sum[group] / n, 2) for group, n in sorted(self.n.items())}


def breakdown(marks: Iterable[tuple[Any, bool]]) -> dict[Any, dict[str, Any]]:
    """{group: {"n", "accuracy"}}, sorted by group, of (group, whether right)."""
    tally = Tally()
    for group, right in marks:
        tally.add(group, right)
    return tally.rates()


def pair_accuracy(right: Marks, pairs: Iterable[Sequence[Any]]) -> float:
    """The share of pairs with both questions right; 0 without pairs.

    Args:
        right: whether a question is right, by id (a dict) or by index (a sequence). pairs: two ids or indices each.
    Raises BadInput for a question without a mark, for one that is its own twin, and for a pair that is none.
    """
    return set_accuracy(right, pairs, 2)


def set_accuracy(right: Marks, sets: Iterable[Sequence[Any]], size: int = 4) -> float:
    """The share of sets with all `size` questions right; otherwise as `pair_accuracy`."""
    known = right if isinstance(right, Mapping) else range(len(right))
    marks = []
    for group in sets:
        if len(group) != size or len(set(group)) != size:
            raise BadInput(f"{group!r} is not {size} different questions")
        if unknown := [name for name in group if name not in known]:
            raise BadInput(f"{group!r}: the question {unknown[0]!r} has no mark; score every question of a group")
        marks.append(all(right[name] for name in group))
    return share(sum(marks), len(marks))
