"""The strict runner: execute notebooks, judge them, keep results, write the report. Serves every notebook."""

import contextlib
import importlib.metadata
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nbformat
from nbformat import NotebookNode

from vlmlab import __version__
from vlmlab.errors import BadInput, UnknownName
from vlmlab.notebooks import process, recorded, source, strict, tidy

if TYPE_CHECKING:
    from rich.console import Console

PROFILES = ("quick", "full")
QUICK = process.Budget(seconds=60.0, megabytes=3000.0)
SUITE_SECONDS = 600.0  # all notebooks of the quick profile together
PACKAGES = ("torch", "transformers", "numpy", "numba", "embreex", "papermill", "nbclient", "ipykernel")


@dataclass
class Outcome:
    """One notebook's run: what it measured, what it cost, and what is wrong with it (nothing when it passed)."""

    name: str
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0
    peak_mb: float = 0.0
    parameters: dict[str, Any] = field(default_factory=dict)
    results: dict[str, Any] = field(default_factory=dict)
    notebook: NotebookNode | None = field(default=None, repr=False)
    cells: str = ""
    unpaired: bool = False

    @property
    def passed(self) -> bool:
        return not self.problems

    def summary(self) -> dict[str, Any]:
        return {
            "status": "passed" if self.passed else "failed",
            "problems": self.problems,
            "seconds": round(self.seconds, 2),
            "peak_mb": round(self.peak_mb, 1),
            "parameters": self.parameters,
            "results": self.results,
        }


@dataclass
class Suite:
    """All outcomes of one call, and where the report went."""

    profile: str
    budget: process.Budget
    outcomes: list[Outcome]
    report: Path
    problems: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return not self.problems and all(outcome.passed for outcome in self.outcomes)

    def summary(self) -> dict[str, Any]:
        """What results.json holds."""
        return {
            "vlmlab": __version__,
            "profile": self.profile,
            "passed": self.passed,
            "problems": self.problems,
            "seconds": round(sum(outcome.seconds for outcome in self.outcomes), 2),
            "budget": {"seconds": self.budget.seconds, "megabytes": self.budget.megabytes},
            "python": platform.python_version(),
            "platform": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
            "packages": versions(),
            "notebooks": {outcome.name: outcome.summary() for outcome in self.outcomes},
        }

    def print(self, console: "Console") -> None:
        """A table for the terminal, then each problem on a line of its own, then the counts."""
        from rich.markup import escape
        from rich.table import Table

        table = Table("notebook", "result")
        for title in ("seconds", "peak MB", "recorded"):
            table.add_column(title, justify="right")
        for outcome in self.outcomes:
            verdict = "[green]passed" if outcome.passed else "[red]failed"
            row = (f"{outcome.seconds:.1f}", f"{outcome.peak_mb:.0f}", str(len(outcome.results)))
            table.add_row(escape(outcome.name), verdict, *row)
        console.print(table)
        for outcome in self.outcomes:
            for problem in outcome.problems:
                console.print(f"{outcome.name}: {problem}", markup=False, highlight=False, soft_wrap=True)
            if outcome.unpaired:
                note = f"{outcome.name}: note: {outcome.name}.ipynb differs from its source; --update rewrites it"
                console.print(note, markup=False, highlight=False, soft_wrap=True)
        for problem in self.problems:
            console.print(problem, markup=False, highlight=False, soft_wrap=True)
        index = min(str(self.report / "index.html"), os.path.relpath(self.report / "index.html"), key=len)
        console.print(f"report: {index}", markup=False, highlight=False, soft_wrap=True)
        good = sum(outcome.passed for outcome in self.outcomes)
        console.print(f"{good} passed, {len(self.outcomes) - good} failed", markup=False, highlight=False)


def versions() -> dict[str, str]:
    """Installed versions of the packages that results depend on."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def run(
    selection: Sequence[str] = (),
    *,
    profile: str = "quick",
    settings: dict[str, str] | None = None,
    update: bool = False,
    report: Path | None = None,
    budget: bool | process.Budget = True,
    folder: Path | None = None,
    console: "Console | None" = None,
) -> Suite:
    """Execute the notebooks of `selection` (all when empty) and write results.json and the HTML report.

    Arguments: `settings`, values for parameters as text; `update`, write outputs back into notebooks/*.ipynb; `report`,
    its folder (default build/report); `budget`, False to measure only, or limits of one's own; `folder`, another
    notebooks folder; `console`, where progress goes. Raises BadInput and UnknownName before anything runs.
    """
    from vlmlab.notebooks import page, progress

    if profile not in PROFILES:
        raise UnknownName("profile", profile, PROFILES)
    settings = settings or {}
    if update and (profile != "quick" or settings):
        raise BadInput("--update writes the outputs of the quick profile; leave out --set and --profile full")
    chosen = source.find(selection, folder)
    plans = [_plan(item, profile, settings) for item in chosen]
    limits = _limits(profile, budget)
    target = Path(report or "build/report").resolve()
    if target.exists() and not (target.is_dir() and ((target / "results.json").is_file() or not any(target.iterdir()))):
        raise BadInput(f"{target} is not a report of vlmlab; name another folder with --report, or remove it")
    outcomes = []
    with progress.Progress(console, len(chosen)) as shown:
        for item, (notebook, parameters, fault) in zip(chosen, plans, strict=True):
            shown.begin(item.name, len(notebook.cells))
            if fault:
                outcome = Outcome(item.name, [fault], notebook=notebook)
            else:
                outcome = execute(item, notebook, parameters, profile, limits, shown.watch)
            committed = _paired(item, notebook)
            outcome.unpaired = committed is None
            if update and outcome.passed and outcome.notebook is not None:
                _update(item, outcome)
            elif committed is not None and outcome.passed and profile == "quick" and not settings:
                outcome.problems = recorded.moved(item.name, recorded.kept(committed), outcome.results)
            outcomes.append(outcome)
            shown.end(outcome)
    suite = Suite(profile, limits, outcomes, target)
    total = sum(outcome.seconds for outcome in outcomes)
    if profile == "quick" and budget is True and total > SUITE_SECONDS:
        suite.problems.append(
            f"the notebooks took {total:.0f} s together; the quick profile's budget is {SUITE_SECONDS:.0f} s"
        )
    page.write(suite, target)
    return suite


def _plan(item: source.Source, profile: str, settings: dict[str, str]) -> tuple[NotebookNode, dict[str, Any], str]:
    """The notebook, the values to inject, and the fault that keeps it from running, if there is one."""
    notebook = source.read(item)
    try:
        defaults = source.parameters(notebook)
    except BadInput as error:
        return notebook, {}, str(error)
    asked = {"profile": profile, **source.resolve(settings, defaults, item.name)}
    again = source.reassignments(notebook, list(defaults))
    return notebook, asked, "; ".join(again)


def _limits(profile: str, budget: bool | process.Budget) -> process.Budget:
    if isinstance(budget, process.Budget):
        return budget
    return QUICK if budget and profile == "quick" else process.Budget()


def execute(
    item: source.Source,
    notebook: NotebookNode,
    parameters: dict[str, Any],
    profile: str,
    budget: process.Budget,
    watch: Any = lambda measured: None,
) -> Outcome:
    """Execute one notebook with `parameters` injected, in a temporary working folder, and judge the run."""
    from vlmlab import runtime

    folder = Path(tempfile.mkdtemp(prefix=f"vlmlab-{item.name}-")).resolve()
    try:
        here = folder / "work"
        here.mkdir()
        # A full run trains for hours and has to find its checkpoints again; a quick run leaves nothing behind.
        work = runtime.work_dir().resolve() if profile == "full" else folder / "runs"
        prepared = nbformat.from_dict(json.loads(json.dumps(notebook)))
        for index, cell in enumerate(prepared.cells):
            cell.metadata["vlmlab_cell"] = index + 1
        prepared.cells.append(_proof_cell(parameters))
        nbformat.write(prepared, folder / "input.ipynb")
        job = {
            "input": str(folder / "input.ipynb"),
            "output": str(folder / "output.ipynb"),
            "parameters": parameters,
            "env": process.kernel_environment(profile, folder, work, runtime.data_dir().resolve()),
            "cwd": str(here),
            "seen": str(folder / "seen.json"),
        }
        measured = process.run(job, folder, budget, watch)
        return _judge(item, prepared, parameters, measured, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _proof_cell(parameters: dict[str, Any]) -> NotebookNode:
    code = f'__import__("vlmlab.report").report._prove(globals(), {sorted(parameters)!r})'
    return nbformat.v4.new_code_cell(code, id="vlmlab-proof", metadata={"tags": ["vlmlab-proof"]})


def _judge(
    item: source.Source, prepared: NotebookNode, asked: dict[str, Any], measured: process.Measured, folder: Path
) -> Outcome:
    from papermill.execute import remove_error_markers

    executed = prepared
    with contextlib.suppress(OSError, ValueError):  # ended before the first save: the report shows the source
        executed = remove_error_markers(nbformat.read(folder / "output.ipynb", as_version=4))
    seen_file = folder / "seen.json"
    seen = json.loads(seen_file.read_text(encoding="utf-8")) if seen_file.is_file() else []
    results, repeated = strict.recorded(folder / "results.jsonl")
    where = ""
    if 0 <= measured.cell < len(executed.cells):
        where = f" in {source.describe(measured.cell, executed.cells[measured.cell])}"
    problems = strict.cell_errors(executed)
    if measured.overrun:
        problems.append(measured.overrun + (where if measured.code is None else ""))
    elif measured.code == 3:
        problems.append(f"the kernel died{where}: {measured.trouble}")
    elif measured.code is None:
        problems.append(f"the notebook process ended{where}: {_last_line(measured.worker_stderr)}")
    problems += strict.hidden_errors(executed, seen)
    problems += strict.unexpected_stderr(executed, seen)
    problems += strict.network_attempts(folder / "network.log")
    if not problems:
        problems += strict.not_run(executed)
        problems += strict.values_held(folder / "proof.json", asked)
    problems += repeated + strict.missing_alt(executed)
    kept = tidy.tidy(executed)
    data = Path(os.environ.get("VLMLAB_DATA") or item.path.parents[2])
    problems += tidy.machine_paths(kept, [folder, item.path.parents[2], data, Path.home(), Path(sys.prefix)])
    size = len(tidy.to_text(kept).encode())
    if size > tidy.MAX_BYTES:
        problems.append(f"is {size / 1e6:.2f} MB with its outputs; at most {tidy.MAX_BYTES / 1e6} MB are kept")
    executed = strict.visible(executed)
    return Outcome(item.name, problems, measured.seconds, measured.peak_mb, asked, results, executed)


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "without a word"


def _paired(item: source.Source, notebook: NotebookNode) -> NotebookNode | None:
    """The .ipynb of a source with its outputs; None where there is none, or one of another source."""
    try:
        found = nbformat.read(item.paired, as_version=4)
    except (OSError, ValueError):
        return None
    return found if tidy.same_inputs(found, notebook) else None


def _update(item: source.Source, outcome: Outcome) -> None:
    from vlmlab.files import write_text

    assert outcome.notebook is not None
    notebook = tidy.tidy(outcome.notebook)
    recorded.keep(notebook, outcome.results)
    text = tidy.to_text(notebook)
    if not item.paired.is_file() or item.paired.read_text(encoding="utf-8") != text:
        write_text(item.paired, text)
    outcome.unpaired = False


def stamp() -> str:
    """The time of a report, to the minute."""
    return time.strftime("%Y-%m-%d %H:%M")
