"""Notebook 05. What stands beside a score: its interval, and how many answers chance would get right."""

from math import sqrt

Z95 = 1.959963984540054  # two-sided 95 % point of the normal distribution


def wilson(right: int, n: int) -> tuple[float, float]:
    """95 % interval of a proportion (Wilson 1927): honest also near 0 and 1, where +-1.96 s is not; (0, 1) for n=0."""
    if n == 0:
        return 0.0, 1.0
    p, zz = right / n, Z95 * Z95
    middle = (p + zz / (2 * n)) / (1 + zz / n)
    half = Z95 * sqrt(p * (1 - p) / n + zz / (4 * n * n)) / (1 + zz / n)
    return max(0.0, middle - half), min(1.0, middle + half)


def proportion(flags: list[bool]) -> dict[str, float | int]:
    """n, accuracy and its 95 % interval of a list of right and wrong answers; an empty list has accuracy 0."""
    n, right = len(flags), sum(flags)
    low, high = wilson(right, n)
    return {"n": n, "accuracy": right / n if n else 0.0, "low": low, "high": high}
