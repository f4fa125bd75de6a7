"""Notebooks 05 and 11. What stands beside a score: its interval, and how far the scores of several models differ.

Where models were trained from several seeds and asked the same questions, a score varies for two reasons: another seed
gives another model, and other questions are other questions. `contrast` estimates both, from runs x questions.
"""

from collections.abc import Hashable, Iterable, Sequence
from math import sqrt

import numpy as np

from vlmlab.benchmarks.asking import Mark
from vlmlab.errors import BadInput, MissingDependency

Z95 = 1.959963984540054  # two-sided 95 % point of the normal distribution
DRAWS = 2000  # of a bootstrap


def wilson(right: float, n: float, z: float = Z95) -> tuple[float, float]:
    """95 % interval of a proportion (Wilson 1927): honest also near 0 and 1, where +-1.96 s is not; (0, 1) for n=0.

    z: another quantile, as Student's t where the variance was estimated from little.
    """
    if n == 0:
        return 0.0, 1.0
    p, zz = right / n, z * z
    middle = (p + zz / (2 * n)) / (1 + zz / n)
    half = z * sqrt(p * (1 - p) / n + zz / (4 * n * n)) / (1 + zz / n)
    return max(0.0, middle - half), min(1.0, middle + half)


def proportion(flags: list[bool]) -> dict[str, float | int]:
    """n, accuracy and its 95 % interval of a list of right and wrong answers; an empty list has accuracy 0."""
    n, right = len(flags), sum(flags)
    low, high = wilson(right, n)
    return {"n": n, "accuracy": right / n if n else 0.0, "low": low, "high": high}


def bootstrap(marks: Iterable[Mark], seed: int = 0) -> tuple[float, float]:
    """95 % interval of what was earned over what there was to earn, by drawing pictures with replacement.

    marks: (picture, earned, to earn) of each answer; answers about one picture are drawn together, since they go wrong
        together. The same seed gives the same interval.
    Where all draws are alike (everything right, say), resampling sees no spread, and the interval is Wilson's of as
    many pictures; (0, 1) where nothing is to earn. Source: the percentile interval of Efron (1979).
    """
    sums: dict[Hashable, list[float]] = {}
    for picture, earned, whole in marks:
        cell = sums.setdefault(picture, [0.0, 0.0])
        cell[0] += earned
        cell[1] += whole
    table = np.array(list(sums.values())).reshape(-1, 2)  # (pictures, 2)
    if not table[:, 1].any():
        return 0.0, 1.0
    rng = np.random.default_rng(seed)
    drawn = np.array([table[rng.integers(len(table), size=len(table))].sum(0) for _ in range(DRAWS)])
    ratios = drawn[:, 0] / np.where(drawn[:, 1] == 0, 1, drawn[:, 1])
    low, high = (float(edge) for edge in np.quantile(ratios, (0.025, 0.975)))
    return wilson(low * len(table), len(table)) if low == high and 0 <= low <= 1 else (low, high)


def contrast(weights: Sequence[float], cells: Sequence[np.ndarray]) -> dict[str, float]:
    """A weighted sum of models' accuracies, as the difference of two, with its 95 % interval.

    Args:
        weights: one a model. cells: for each model its runs x questions (S, Q) of 0 and 1; the questions are the same
            for all, S may differ.
    Returns:
        {"difference", "low", "high", "se", "df", "p"}. The interval covers other seeds and other questions of the same
        kind at once: it is where the sum would lie with all seeds and all questions, 95 times in 100. p is that of a
        sum this far from 0 if it were 0. Where every model has a single run, seeds are not covered.

    Runs are drawn anew for each model, questions are shared. The variance is that of the questions' own sums over Q,
    and for each model that of its runs less what its questions make of it; degrees of freedom after Satterthwaite
    (1946). Resampling three runs instead (the bootstrap) reaches as little as 80 % where the runs differ most.
    Raises BadInput for models asked different numbers of questions, or fewer than two.
    """
    try:
        from scipy.stats import t
    except ImportError:
        raise MissingDependency("scipy", "intervals over seeds") from None
    cells = [np.asarray(cell, float) for cell in cells]
    if len(weights) != len(cells) or len({cell.shape[1] for cell in cells}) != 1 or cells[0].shape[1] < 2:
        raise BadInput("a contrast needs a weight for each model, and models asked the same questions, two or more")
    Q = cells[0].shape[1]
    sums = sum(w * cell.mean(0) for w, cell in zip(weights, cells, strict=True))  # (Q,)
    difference = float(np.mean(sums))
    questions = [(float(np.var(sums, ddof=1)) / Q, Q - 1)]  # (variance, degrees of freedom)
    seeds, noise = [], []  # the same of each model's runs, and of what neither runs nor questions explain
    for w, cell in zip(weights, cells, strict=True):
        S = len(cell)
        if S > 1:
            runs = cell.mean(1)
            left = cell - cell.mean(0) - runs[:, None] + cell.mean()
            seeds.append((w * w * float(np.var(runs, ddof=1)) / S, S - 1))
            noise.append((w * w * float((left**2).sum()) / ((S - 1) * (Q - 1) * S * Q), (S - 1) * (Q - 1)))
    of_questions, of_seeds, of_noise = (sum(v for v, _ in terms) for terms in (questions, seeds, noise))
    if min(of_questions, of_seeds) > of_noise:  # each of the two holds the noise once
        variance, terms = of_questions + of_seeds - of_noise, [*questions, *seeds, *noise]
    else:  # one of them adds nothing of its own
        variance, terms = max((of_questions, questions), (of_seeds, seeds), (of_noise, noise), key=lambda each: each[0])
    se = sqrt(variance)
    if se == 0:
        return {"difference": difference, "low": difference, "high": difference, "se": 0.0, "df": float(Q - 1),
                "p": 1.0 if difference == 0 else 0.0}  # fmt: skip
    df = variance**2 / sum(v * v / freedom for v, freedom in terms)
    reach = float(t.ppf(0.975, df)) * se
    p = 2 * float(t.sf(abs(difference) / se, df))
    return {"difference": difference, "low": difference - reach, "high": difference + reach, "se": se, "df": df, "p": p}


def accuracy(runs: np.ndarray) -> dict[str, float]:
    """The mean accuracy of runs (S, Q) with its 95 % interval over seeds and questions, as `contrast` sees them.

    The interval is Wilson's with the number of questions that would give the same variance, so that it stays honest
    near 0 and 1. Returns {"mean", "low", "high"}.
    """
    from scipy.stats import t

    found, Q = contrast([1.0], [runs]), runs.shape[1]
    mean, z = found["difference"], float(t.ppf(0.975, found["df"]))
    n = mean * (1 - mean) / found["se"] ** 2 if found["se"] and 0 < mean < 1 else float(Q)
    low, high = wilson(mean * n, n, z)
    return {"mean": mean, "low": low, "high": high}


def holm(p: Sequence[float]) -> list[float]:
    """p-values corrected for having looked at all of them (Holm 1979): where one is below 0.05, so is the chance of a
    single false alarm among all."""
    order, adjusted, worst = np.argsort(p), [0.0] * len(p), 0.0
    for rank, index in enumerate(order):
        worst = max(worst, min(1.0, (len(p) - rank) * p[index]))
        adjusted[int(index)] = worst
    return adjusted
