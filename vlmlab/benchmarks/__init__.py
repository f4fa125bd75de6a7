"""Notebook 05. Measuring models: `evaluate` asks questions about held-out scenes and puts baselines beside the score.

Official benchmarks have a module each; `runner` asks their questions, `board` puts models beside each other.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from vlmlab.errors import UnknownName

if TYPE_CHECKING:
    from vlmlab.vlm.model import VLM

BENCHMARKS = ("scenes", "scenes-combinations")
SCENES, PER_SCENE = 200, 8


def evaluate(
    model: "VLM",
    benchmark: str = "scenes",
    limit: int | None = None,
    form: str = "sentence",
    progress: Callable[[int, int], object] | None = None,
) -> dict[str, Any]:
    """Ask `model` the questions of a benchmark, with its picture and blind.

    Args:
        benchmark: "scenes" (new scenes) or "scenes-combinations" (colour x kind never seen in training).
        limit: at most so many questions.
        form: "sentence" (answers as trained) or "word" (LLaVA-1.5's format prompt).
    Returns:
        {"benchmark", "model", "form", "n", "accuracy", "by_type", "blind"}: see held_out.evaluate.
    Raises UnknownName for another benchmark.
    """
    if benchmark not in BENCHMARKS:
        raise UnknownName("benchmark", benchmark, BENCHMARKS)
    from vlmlab.benchmarks import held_out

    split = "test" if benchmark == "scenes" else "test_combinations"
    scenes = SCENES if limit is None else min(SCENES, limit // 4 + 1)
    asked = held_out.questions(scenes, PER_SCENE, split)[:limit]
    seen = held_out.evaluate(model, asked, form, progress=progress)
    blind = held_out.evaluate(model, asked, form, blind=True, progress=progress)
    for row, values in seen["by_type"].items():
        values["blind"] = blind["by_type"][row]["accuracy"]
    return {
        "benchmark": benchmark,
        "model": model.config.name,
        "form": form,
        "n": seen["n"],
        "accuracy": seen["accuracy"],
        "blind": blind["accuracy"],
        "by_type": seen["by_type"],
        "answers": seen["answers"],
    }


def table(result: dict[str, Any]) -> Any:
    """The result of `evaluate` as a rich table."""
    from rich.table import Table

    out = Table(title=f"{result['model']} on {result['benchmark']} ({result['form']} answers, n = {result['n']})")
    for column in ("type", "n", "accuracy", "95 % interval", "blind", "chance", "constant"):
        out.add_column(column, justify="left" if column == "type" else "right")
    for row, values in result["by_type"].items():
        shares = [f"{100 * values[name]:.1f}" for name in ("accuracy", "low", "high", "blind", "chance", "constant")]
        out.add_row(row, str(values["n"]), shares[0], f"{shares[1]} - {shares[2]}", *shares[3:])
    return out
