"""`vlmlab score`: predictions against a benchmark's official files, by its official program's rules. Notebook 05."""

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from vlmlab.commands.common import out, print_json, show_dict
from vlmlab.errors import UnknownName

BENCHMARKS = ("vqav2", "textvqa", "vizwiz", "gqa", "pope", "vsr", "scienceqa", "llava_bench", "whatsup")


def score(
    benchmark: Annotated[str, typer.Argument(help=", ".join(BENCHMARKS), show_default=False)],
    annotations: Annotated[Path, typer.Option(help="The official annotations.", show_default=False)],
    predictions: Annotated[Path, typer.Option(help="Answers in the official results format.", show_default=False)],
    questions: Annotated[
        Path | None, typer.Option(help="The official questions, where they are a file of their own.")
    ] = None,
    profile: Annotated[str, typer.Option(help="Which program's rules.")] = "official",
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Score predictions on an official benchmark."""
    if benchmark not in BENCHMARKS:
        raise UnknownName("benchmark", benchmark, BENCHMARKS)
    module = importlib.import_module(f"vlmlab.benchmarks.{benchmark}")
    result = module.score(module.read(annotations, questions), predictions, profile=profile)
    if json:
        print_json(result)
        return
    out.print(table(result, f"{benchmark}, profile {profile}, n = {result['n']}"))
    show_dict(result["official"], "the official program's figures")


def table(result: dict[str, Any], title: str) -> Any:
    """The rates of a scorer's result, and its breakdowns, as a rich table of fractions.

    The interval is Wilson's. Where answers earn part of a point (VQAv2, TextVQA, VizWiz) it is wider than it had to be,
    since no such score of the same mean varies more than right and wrong do. Lists are left to --json.
    """
    from rich.markup import escape
    from rich.table import Table

    shown = Table(title=title, title_justify="left")
    for column in ("", "n", "value", "95 % interval"):
        shown.add_column(column, justify="right" if column else "left")
    for row, cells in _rows(result):
        shown.add_row(escape(row), *cells)
    return shown


def _rows(result: dict[str, Any]) -> Iterator[tuple[str, tuple[str, str, str]]]:
    for name, value in result.items():
        if name.startswith("by_"):
            for group, cell in value.items():
                yield f"{name[3:].replace('_', ' ')}: {group}", _accuracy(cell)
        elif name == "accuracy":
            yield name, _accuracy(result)
        elif isinstance(value, float):
            yield name.replace("_", " "), ("", f"{value:.4f}", "")
        elif isinstance(value, int) and name != "n":
            yield name.replace("_", " "), ("", str(value), "")


def _accuracy(cell: dict[str, Any]) -> tuple[str, str, str]:
    from vlmlab.benchmarks.statistics import wilson

    n, accuracy = cell["n"], cell["accuracy"]
    if "relative_score" in cell:  # LLaVA-Bench's ratio of two means is no proportion
        return str(n), f"{accuracy:.4f}", ""
    low, high = wilson(accuracy * n, n)
    return str(n), f"{accuracy:.4f}", f"{low:.4f} - {high:.4f}"
