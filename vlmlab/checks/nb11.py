"""Checks of notebook 11: frozen to the bit, parameters that train, twins, three seeds, a difference over seeds and
questions, Holm's correction, a contrast of one's own."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial, wraps
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vlmlab.benchmarks.experiment import BACKBONES, CELLS, ENCODERS
from vlmlab.benchmarks.statistics import Z95
from vlmlab.checks.base import Case, Mistake, Verdict, raised, run_check


# ---------------------------------------------------------------- 1 · frozen to the bit
class _Toy(nn.Module):
    """An encoder, two parts that train, and BatchNorm in all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.vision = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten())
        self.vision_adapter = nn.Sequential(nn.Linear(12, 5), nn.BatchNorm1d(5))
        self.projector = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4))

    def forward(self, x: Tensor) -> Tensor:
        return self.projector(self.vision_adapter(self.vision(x)))


def _built() -> _Toy:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return _Toy().train()


def _after_steps(model: _Toy) -> dict[str, str]:
    """What two steps of training change: parameters and statistics of each part, "moved" or "same"."""
    draw, before = torch.Generator().manual_seed(1), {k: v.clone() for k, v in model.state_dict().items()}
    trained = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.SGD(trained, lr=0.1) if trained else None
    for _ in range(2):
        out = model(torch.randn(6, 1, 4, 4, generator=draw))
        if optimiser is not None:
            (out**2 + out).sum().backward()
            optimiser.step()
            optimiser.zero_grad()
    statistics, found = {name for name, _ in model.named_buffers()}, {}
    for part, _ in model.named_children():
        for what in ("parameters", "statistics"):
            names = [k for k in before if k.startswith(f"{part}.") and (k in statistics) == (what == "statistics")]
            same = all(torch.equal(before[k], model.state_dict()[k]) for k in names)
            found[f"{part}: {what}"] = "same" if same else "moved"
    return found


def freeze(answer: Any) -> Verdict:
    """Exercise 1: a part that stays as it is to the bit, its running statistics included."""
    run = answer
    if callable(answer):

        @wraps(answer)
        def run(prefix: str) -> Any:
            model = _built()
            begun = _flags(model)
            answer(model, prefix)
            return None if _flags(model) == begun else _after_steps(model)

    def right(prefix: str) -> dict[str, str]:
        parts = [name for name, _ in _built().named_children()]
        return {f"{part}: {what}": "same" if part == prefix else "moved"
                for part in parts for what in ("parameters", "statistics")}  # fmt: skip

    def others(got: Mapping[str, str], prefix: str, what: str) -> set[str]:
        return {state for name, state in got.items() if name.endswith(what) and not name.startswith(f"{prefix}:")}

    return run_check(
        "freeze",
        run,
        right,
        [Case(("vision",), 'the prefix "vision"'), Case(("projector",), 'the prefix "projector"')],
        [
            Mistake("everything frozen", "nothing trains any more; only what the prefix names stays",
                    fits=lambda got, _, prefix: others(got, prefix, "parameters") == {"same"}),
            Mistake("prefix without its dot",
                    '"vision" also begins "vision_adapter"; compare with the prefix and a dot behind it',
                    fits=lambda got, _, prefix: prefix != "vision" or got["vision_adapter: parameters"] == "same"),
            Mistake("all in evaluation mode", "the statistics of the parts that train stand still too; put only the "
                    "frozen part's BatchNorm into evaluation mode",
                    fits=lambda got, _, prefix: others(got, prefix, "statistics") == {"same"}),
            Mistake("statistics moved", "the parameters stay, the running statistics do not: a BatchNorm in training "
                    "mode writes them at every forward pass, whatever requires_grad says",
                    fits=lambda got, _, prefix: (got[f"{prefix}: parameters"], got[f"{prefix}: statistics"])
                    == ("same", "moved")),
            Mistake("parameters moved", "evaluation mode alone stops no optimiser: requires_grad is still True",
                    fits=lambda got, _, prefix: got[f"{prefix}: parameters"] == "moved"),
        ],
        done="right, the part stays to the bit and its neighbours train",
    )  # fmt: skip


def _flags(model: nn.Module) -> list[bool]:
    return [p.requires_grad for p in model.parameters()] + [m.training for m in model.modules()]


# ---------------------------------------------------------------- 2 · what trains, counted
class _Tied(nn.Module):
    """A language model whose head is its embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mixer, self.head = nn.Embedding(7, 4), nn.Linear(4, 4), nn.Linear(4, 7, bias=False)
        self.head.weight = self.embed.weight


def _parts(frozen: Sequence[str]) -> nn.Module:
    model = nn.Module()
    model.vision = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    model.projector = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    model.language = _Tied()
    for name in frozen:
        model.get_submodule(name).requires_grad_(False)
    return model


def _counted(model: nn.Module, each: Callable[[nn.Module], float]) -> dict[str, float]:
    return {name: each(part) for name, part in model.named_children()}


def _trainable(part: nn.Module) -> int:
    return sum(p.numel() for p in part.parameters() if p.requires_grad)


def trainable(answer: Any) -> Verdict:
    """Exercise 2: parameters that train, by part."""

    def counting(each: Callable[[nn.Module], float]) -> Callable[[nn.Module], Any]:
        return lambda model: _counted(model, each)

    def twice(part: nn.Module) -> int:
        return sum(p.numel() for m in part.modules() for p in m.parameters(recurse=False) if p.requires_grad)

    def left_out(model: nn.Module) -> dict[str, float]:
        return {name: count for name, count in _counted(model, _trainable).items() if count}

    return run_check(
        "trainable",
        answer,
        counting(_trainable),
        [
            Case((_parts(["vision"]),), "a frozen encoder"),
            Case((_parts(["vision", "language.mixer"]),), "a language model that is frozen in part"),
        ],
        [
            Mistake("a total", "return a dict, one count for each part of model.named_children()",
                    fits=lambda got, *_: isinstance(got, int | float)),
            Mistake("left out", "a part of which nothing trains belongs in the dict too, with 0", left_out),
            Mistake("tied twice", "the head is the embedding, one tensor: part.parameters() gives it once",
                    counting(twice)),
            Mistake("frozen ones", "frozen parameters are counted; look at requires_grad",
                    counting(lambda part: sum(p.numel() for p in part.parameters()))),
            Mistake("buffers", "a state_dict also holds running statistics and frozen tensors; count parameters",
                    counting(lambda part: sum(v.numel() for v in part.state_dict().values()))),
            Mistake("tensors", "that counts tensors; a tensor has numel() numbers",
                    counting(lambda part: sum(p.requires_grad for p in part.parameters()))),
            Mistake("tensors", "that counts tensors, frozen ones too; a tensor has numel() numbers",
                    counting(lambda part: len(list(part.parameters())))),
        ],
        done="right, statistics and frozen tensors left out and a tied one counted once",
        tolerance=0.0,
    )  # fmt: skip


# ---------------------------------------------------------------- 3 · twins
def _pairs(right: str) -> float:
    return sum(a == b == "1" for a, b in zip(right[::2], right[1::2], strict=True)) / (len(right) // 2)


def pair_accuracy(answer: Any) -> Verdict:
    """Exercise 3: the share of twin pairs with both answers right."""

    def single(right: str) -> float:
        return right.count("1") / len(right)

    def halves(right: str) -> float:
        middle = len(right) // 2
        return sum(a == b == "1" for a, b in zip(right[:middle], right[middle:], strict=True)) / middle

    def neighbours(right: str) -> float:
        return sum(a == b == "1" for a, b in pairwise(right)) / (len(right) - 1)

    def either(right: str) -> float:
        return sum("1" in pair for pair in zip(right[::2], right[1::2], strict=True)) / (len(right) // 2)

    def same(right: str) -> float:
        return sum(a == b for a, b in zip(right[::2], right[1::2], strict=True)) / (len(right) // 2)

    return run_check(
        "pair_accuracy",
        answer,
        _pairs,
        [Case(("1110011011010011",), "eight pairs"), Case(("0101010110",), "a constant answer")],
        [
            Mistake("single answers", "that is the share of right answers; a pair counts only if both are right",
                    single),
            Mistake("either", "one right answer of two is not enough; a constant answer gets as much", either),
            Mistake("same", "pairs with two wrong answers count too; both must be right", same),
            Mistake("halves", "twins stand side by side: 0 and 1, 2 and 3; not one in each half", halves),
            Mistake("overlapping", "pairs do not overlap: 0 and 1, then 2 and 3", neighbours),
            Mistake("product", "the square of the single accuracy is what independent answers would give; count pairs",
                    lambda right: single(right) ** 2),
            Mistake("per answer", "divide by the number of pairs, not of answers", lambda right: _pairs(right) / 2),
            Mistake("a count", "return a share, not a count", lambda right: _pairs(right) * (len(right) // 2)),
            Mistake("percent", "give a fraction, not per cent", lambda right: 100 * _pairs(right)),
        ],
        done="right, and a constant answer gets 0",
    )  # fmt: skip


# ---------------------------------------------------------------- 4 · three seeds
def _half_width(
    scores: Sequence[float], level: float = 0.975, ddof: int = 1, freedom: int = -1, z: float | None = None
) -> float:
    from scipy.stats import t

    n = len(scores)
    reach = float(t.ppf(level, n + freedom)) if z is None else z
    return reach * float(np.std(scores, ddof=ddof)) / math.sqrt(n)


def half_width(answer: Any) -> Verdict:
    """Exercise 4: half of the 95 % interval of a mean over a few seeds."""
    return run_check(
        "half_width",
        answer,
        _half_width,
        [Case(([0.60, 0.64, 0.68],), "three seeds"), Case(([0.61, 0.55, 0.70, 0.66, 0.62],), "five seeds")],
        [
            Mistake("normal", "1.96 is for many seeds; a spread that was estimated from a few needs Student's t",
                    lambda s: _half_width(s, z=Z95)),
            Mistake("divided by n", "the spread is divided by n; estimated from the same scores it needs n - 1 "
                    "(ddof=1)", lambda s: _half_width(s, ddof=0)),
            Mistake("normal", "1.96 is for many seeds, and the spread needs n - 1",
                    lambda s: _half_width(s, z=Z95, ddof=0)),
            Mistake("not of the mean", "that is where a single run would lie; the mean's spread is smaller by sqrt(n)",
                    lambda s: _half_width(s) * math.sqrt(len(s))),
            Mistake("freedom", "n scores have n - 1 degrees of freedom", lambda s: _half_width(s, freedom=0)),
            Mistake("one side", "the 95 % point leaves 5 % on one side; half of that belongs on each: 0.975",
                    lambda s: _half_width(s, level=0.95)),
            Mistake("whole", "that is the whole interval; half of it is asked for", lambda s: 2 * _half_width(s)),
            Mistake("one error", "that is one standard error; multiply by the quantile of Student's t",
                    lambda s: _half_width(s, z=1.0)),
        ],
        done="right; with three seeds the quantile is 4.30, with five 2.78, with many 1.96",
    )  # fmt: skip


# ---------------------------------------------------------------- 5 · seeds and questions
def _spread(first: np.ndarray, second: np.ndarray, seeds: bool = True, questions: bool = True, ddof: int = 1) -> float:
    gaps = first.mean(0) - second.mean(0)
    of_questions = float(gaps.var(ddof=ddof)) / len(gaps)
    of_seeds = sum(float(runs.mean(1).var(ddof=ddof)) / len(runs) for runs in (first, second))
    return math.sqrt(of_questions * questions + of_seeds * seeds)


def seeds_and_questions(answer: Any) -> Verdict:
    """Exercise 5: a difference of two models from several runs each, with its standard error over both sources."""

    def case(runs: int, questions: int, seed: int) -> Case:
        rng = np.random.default_rng(seed)
        hard = rng.normal(0, 1, questions)  # the same questions are hard for both
        drawn = []
        for level in (0.7, 0.3):
            score = level + hard + rng.normal(0, 0.5, (runs, 1)) + rng.normal(0, 0.7, (runs, questions))
            drawn.append((score > 0).astype(float))
        return Case(tuple(drawn), f"{runs} runs each, {questions} questions")

    def given(spread: Callable[..., float], sign: int = 1) -> Callable[..., tuple[float, float]]:
        return lambda first, second: (sign * float(first.mean() - second.mean()), spread(first, second))

    def unpaired(first: np.ndarray, second: np.ndarray) -> float:
        each = [float(runs.mean(0).var(ddof=1)) / runs.shape[1] for runs in (first, second)]
        return math.sqrt(_spread(first, second, questions=False) ** 2 + sum(each))

    def independent(first: np.ndarray, second: np.ndarray) -> float:
        return math.sqrt(sum(float(r.mean() * (1 - r.mean())) / r.size for r in (first, second)))

    def each_answer(first: np.ndarray, second: np.ndarray) -> float:
        return math.sqrt(float((first - second).var(ddof=1)) / first.size)

    def not_of_the_mean(first: np.ndarray, second: np.ndarray) -> float:
        gaps = first.mean(0) - second.mean(0)
        return math.sqrt(float(gaps.var(ddof=1)) + sum(float(r.mean(1).var(ddof=1)) for r in (first, second)))

    return run_check(
        "seeds_and_questions",
        answer,
        given(_spread),
        [case(3, 40, 0), case(4, 60, 1)],
        [
            Mistake("second minus first", "the sign is turned: first minus second", given(_spread, sign=-1)),
            Mistake("no seeds", "only the questions vary here; another run would be another model: add each model's "
                    "variance over runs", given(partial(_spread, seeds=False))),
            Mistake("no questions", "only the runs vary here; other questions would be other questions",
                    given(partial(_spread, questions=False))),
            Mistake("not paired", "both are asked the same questions: take the difference question by question, then "
                    "its variance", given(unpaired)),
            Mistake("answers as independent", "answers of one run, and to one question, hang together; they are no "
                    "independent draws", given(independent)),
            Mistake("answers as independent", "every answer counts as a draw of its own here; average over the runs "
                    "first, then over the questions", given(each_answer)),
            Mistake("not of the mean", "divide each variance by what was averaged: questions by Q, runs by S",
                    given(not_of_the_mean)),
            Mistake("divided by n", "a variance estimated from three runs needs n - 1: ddof=1",
                    given(partial(_spread, ddof=0))),
            Mistake("variance", "that is the variance; the standard error is its root",
                    given(lambda *runs: _spread(*runs) ** 2)),
        ],
        done="right, both sources; the package also takes off what is counted in both",
    )  # fmt: skip


# ---------------------------------------------------------------- 6 · Holm's correction
def _holm(p: Sequence[float], running: bool = True, cap: bool = True, ordered: bool = False) -> list[float]:
    order = sorted(range(len(p)), key=lambda i: p[i])
    steps, worst = [], 0.0
    for rank, i in enumerate(order):
        value = (len(p) - rank) * p[i]
        worst = max(worst, value) if running else value
        steps.append(min(1.0, worst) if cap else worst)
    if ordered:
        return steps
    found = [0.0] * len(p)
    for i, value in zip(order, steps, strict=True):
        found[i] = value
    return found


def holm(answer: Any) -> Verdict:
    """Exercise 6: p-values corrected for having looked at all of them."""

    def bonferroni(p: Sequence[float]) -> list[float]:
        return [min(1.0, len(p) * value) for value in p]

    def false_discovery(p: Sequence[float]) -> list[float]:
        order, found, best = sorted(range(len(p)), key=lambda i: p[i]), [0.0] * len(p), 1.0
        for rank in reversed(range(len(p))):
            best = min(best, len(p) / (rank + 1) * p[order[rank]])
            found[order[rank]] = best
        return found

    def turned(p: Sequence[float]) -> list[float]:
        order, found = sorted(range(len(p)), key=lambda i: p[i]), [0.0] * len(p)
        for rank, i in enumerate(order):
            found[i] = min(1.0, (rank + 1) * p[i])
        return found

    return run_check(
        "holm",
        answer,
        _holm,
        [Case(([0.010, 0.040, 0.030, 0.005],), "four p-values"), Case(([0.25, 0.9, 0.02, 0.6, 0.018],), "five")],
        [
            Mistake("Bonferroni", "that multiplies all of them by their number; only the smallest gets all of it",
                    bonferroni),
            Mistake("Benjamini-Hochberg", "that bounds the share of false alarms among the findings, not the chance of "
                    "a single one", false_discovery),
            Mistake("turned", "the smallest is multiplied by the number of all, the largest by 1", turned),
            Mistake("no running maximum", "a larger p must not end up below a smaller one: keep the largest so far",
                    lambda p: _holm(p, running=False)),
            Mistake("above one", "a p-value is at most 1", lambda p: _holm(p, cap=False)),
            Mistake("above one", "a p-value is at most 1, and a larger p must not end up below a smaller one",
                    lambda p: _holm(p, running=False, cap=False)),
            Mistake("in order of p", "put each back at its own place; these are sorted",
                    lambda p: _holm(p, ordered=True)),
        ],
        done="right, in the order of the question",
    )  # fmt: skip


# ---------------------------------------------------------------- 7 · a contrast of one's own
def my_contrast(answer: Any) -> Verdict:
    """Exercise 7, open: weights of the six cells that compare something which the chapter's table does not."""
    verdict = _judge_contrast(answer)
    print(verdict)
    return verdict


def _judge_contrast(answer: Any) -> Verdict:
    name = "my_contrast"
    if answer is None or answer is ...:
        return Verdict(False, f"{name}: nothing here yet; replace the ... with your answer", "not begun")
    if not callable(answer):
        return Verdict(False, f"{name} should be a function of the list of cells", "type")
    try:
        weights = answer(list(CELLS))
    except Exception as error:  # whatever the student's code raises is theirs to read, not ours to raise
        return Verdict(False, f"{name} {raised(error, answer)}", "exception")
    if weights is None or weights is ...:
        return Verdict(False, f"{name} returns nothing yet; return a dict of weights", "not begun")
    if not isinstance(weights, Mapping) or not all(isinstance(w, int | float | np.number) for w in weights.values()):
        return Verdict(False, f"{name}: return a dict, cell -> weight", "type")
    unknown = [str(cell) for cell in weights if cell not in CELLS]
    if unknown:
        return Verdict(False, f"{name}: {unknown[0]} is no cell; the cells are {', '.join(CELLS)}", "no such cell")
    values = np.array([float(weights.get(cell, 0.0)) for cell in CELLS])
    scale = float(np.abs(values).max())
    if not np.isfinite(values).all() or scale == 0:
        return Verdict(False, f"{name}: all weights are 0 or not finite: nothing is compared", "nothing compared")
    if abs(values.sum()) > 1e-9 * scale:
        message = f"{name}: the weights add up to {values.sum():+.3g}; of a difference they add up to 0, or it would "
        return Verdict(False, message + "depend on how easy the questions are", "does not add up to zero")
    listed = next((told for told, other in _known() if _parallel(values, other)), "")
    if listed:
        return Verdict(False, f"{name}: {listed} stands in the chapter's table already; try another", "known")
    plus, minus = (", ".join(c for c, w in zip(CELLS, sign * values, strict=True) if w > 0) for sign in (1, -1))
    size = float(values[values > 0].sum())
    note = "" if abs(size - 1) < 1e-9 else f"; one side's weights add up to {size:.3g}, so a point is worth that many"
    return Verdict(True, f"{name}: compares {plus} with {minus}{note}")


def _known() -> list[tuple[str, np.ndarray]]:
    """The contrasts of experiment_results, as (what, weights of the cells)."""
    found = []

    def add(told: str, plus: Sequence[str], minus: Sequence[str]) -> None:
        weights = [(c in plus) / len(plus) - (c in minus) / len(minus) for c in CELLS]
        found.append((told, np.array(weights)))

    levels = {"encoder": (list(ENCODERS), list(BACKBONES)), "backbone": (list(BACKBONES), list(ENCODERS))}
    for kind, (own, others) in levels.items():
        join: Callable[[str, str], str] = (lambda a, b: f"{a}-{b}") if kind == "encoder" else (lambda a, b: f"{b}-{a}")
        for i, first in enumerate(own):
            for second in own[i + 1 :]:
                for within in ("", *others):
                    chosen = [within] if within else others
                    told = f"{first} against {second}" + (f" within {within}" if within else "")
                    add(told, [join(first, o) for o in chosen], [join(second, o) for o in chosen])
    add("mambavision-mamba against clip-llama", ["mambavision-mamba"], ["clip-llama"])
    return found


def _parallel(one: np.ndarray, other: np.ndarray) -> bool:
    return abs(abs(float(one @ other)) - float(np.linalg.norm(one) * np.linalg.norm(other))) < 1e-9
