"""Notebooks 05 and 17. The board: models by benchmarks, with intervals and baselines, as kept in data/results.

`vlmlab evaluate --model all --benchmark all --save` measures it, writes it, and puts its table into README.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from vlmlab import readme, runtime
from vlmlab.errors import BadInput
from vlmlab.files import read_json, write_json

TITLES = {
    "vqav2": "VQAv2", "textvqa": "TextVQA", "vizwiz": "VizWiz", "gqa": "GQA", "pope": "POPE",
    "pope-random": "POPE random", "pope-popular": "POPE popular", "pope-adversarial": "POPE adversarial", "vsr": "VSR",
    "scienceqa": "ScienceQA", "whatsup": "What'sUp", "llava_bench": "LLaVA-Bench", "scenes": "scenes",
}  # fmt: skip
COMMON = ("n", "method", "chance", "constant", "constant_answer", "annotations")  # what models share of a benchmark
OWN = ("accuracy", "low", "high", "blind")
COMMAND = "vlmlab evaluate --model all --benchmark all --save"


def collect(results: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Results of `runner.evaluate` and of `benchmarks.evaluate` as a board.

    Returns {"profile", "benchmarks": {name: n, method, chance, constant, constant_answer, annotations (SHA-256)},
    "weights": {model: SHA-256}, "models": {model: {benchmark: accuracy, low, high, blind}}}.
    """
    board: dict[str, Any] = {"profile": "official", "benchmarks": {}, "weights": {}, "models": {}}
    for result in results:
        cell = {**result, **result.get("by_type", {}).get("all", {})}  # held-out scenes come with a table by type
        board["profile"] = cell.get("profile", board["profile"])
        if "weights" in cell:
            board["weights"][cell["model"]] = cell["weights"]
        board["benchmarks"][cell["benchmark"]] = {name: cell.get(name) for name in COMMON}
        board["models"].setdefault(cell["model"], {})[cell["benchmark"]] = {name: cell.get(name) for name in OWN}
    return board


def save(board: Mapping[str, Any]) -> str:
    """Write a board to data/results, and its table between README's markers if they are there; say what was written."""
    write_json(runtime.data_dir() / "results" / "benchmarks.json", board)
    return "data/results/benchmarks.json" + " and README.md" * readme.put("benchmarks", markdown(board))


def shipped() -> dict[str, Any]:
    """The board in data/results. Raises BadInput where there is none."""
    path = runtime.data_dir() / "results" / "benchmarks.json"
    if not path.exists():
        raise BadInput(f"no results of benchmarks are kept yet; measure and save them: {COMMAND}")
    return read_json(path)


def markdown(board: Mapping[str, Any]) -> str:
    """The board as README shows it: a row a benchmark, and for each model "accuracy (its interval), blind accuracy"."""
    columns = ["benchmark", "n", "chance", "constant", *board["models"]]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for common, cells in _rows(board):
        shown = ["-" if share == "-" else f"{share} ({interval}), {blind}" for share, interval, blind in cells]
        lines.append(f"| {' | '.join([*common, *shown])} |")
    return "\n".join(lines)


def table(board: Mapping[str, Any]) -> Any:
    """The board as a rich table; a model's cell has accuracy, interval and blind accuracy in three lines."""
    from rich.markup import escape
    from rich.table import Table

    title = f"accuracy %, its 95 % interval, blind %; profile {board['profile']}"
    shown = Table(title=title, title_justify="left", show_lines=True)
    shown.add_column("benchmark")
    for column in ("n", "chance", "constant", *board["models"]):
        shown.add_column(escape(column), justify="right", min_width=4)
    for common, cells in _rows(board):
        shown.add_row(*common, *map("\n".join, cells))
    return shown


def _rows(board: Mapping[str, Any]) -> Iterator[tuple[list[str], list[list[str]]]]:
    """For each benchmark name, n, chance and constant, and for each model accuracy, interval and blind, as texts."""
    for name, common in board["benchmarks"].items():
        cells = [results.get(name, dict.fromkeys(OWN)) for results in board["models"].values()]
        yield (
            [TITLES.get(name, name), str(common["n"]), _percent(common["chance"]), _percent(common["constant"])],
            [[_percent(cell["accuracy"]), _interval(cell), _percent(cell["blind"])] for cell in cells],
        )


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"


def _interval(cell: Mapping[str, Any]) -> str:
    return "-" if cell["low"] is None else f"{_percent(cell['low'])}-{_percent(cell['high'])}"
