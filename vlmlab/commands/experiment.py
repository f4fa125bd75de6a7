"""`vlmlab experiment`: many runs under one question, shared among processes, collected with intervals. Notebook 11."""

import sys
from contextlib import redirect_stdout
from typing import Annotated, Any

import typer

from vlmlab.commands.common import literals, out, print_json, tell
from vlmlab.errors import BadInput, UnknownName

EXPERIMENTS = ("encoders-by-backbones",)


def experiment(
    name: Annotated[str, typer.Argument(help="encoders-by-backbones", show_default=False)],
    steps: Annotated[int, typer.Option(min=1, help="Training steps of each run.")] = 300,
    seeds: Annotated[int, typer.Option(min=1, help="Runs a cell.")] = 3,
    only: Annotated[
        str | None, typer.Option(help="Only these runs, as in clip-llama-0,fused or mamba-2; all when left out.")
    ] = None,
    set: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Another setting of every run's recipe; may be repeated."),
    ] = None,
    save: Annotated[
        bool, typer.Option("--save", help="Keep finished runs in data/experiments, and the results once all are there.")
    ] = False,
    shipped: Annotated[
        bool, typer.Option("--shipped", help="Take encoders and language models that ship, not runs of your own.")
    ] = False,
    show: Annotated[bool, typer.Option("--show", help="Run nothing; show the results in data/experiments.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Train and examine every cell of an experiment; finished runs are kept, so the same command goes on.

    Started twice, two processes share the runs. The table comes last, with what is there by then.
    """
    if name not in EXPERIMENTS:
        raise UnknownName("experiment", name, EXPERIMENTS)
    entries = [entry.strip() for entry in only.split(",")] if only is not None else []
    if not all(entries):
        raise BadInput(f"--only wants names with commas between, as in clip-llama-0,mamba; got {only!r}")
    changes = tuple(sorted(literals(set or []).items()))
    if show and (entries or changes):
        raise BadInput("--show runs nothing; leave --only and --set out")
    from vlmlab.benchmarks import experiment_results as results

    if show:
        _print(results.shipped(), json)
        return
    from vlmlab.benchmarks import experiment as runs

    plan = runs.Plan(steps, seeds, changes=changes)
    if shipped:
        from vlmlab.weights.publishing import restore

        restore(runs.recipe_of(plan, each).needs for each in plan.runs)
    with redirect_stdout(sys.stderr):  # the trainer's lines; only the result goes to stdout
        busy = runs.run(plan, entries, say=tell)
    if busy:
        tell(f"another process is at {', '.join(busy)}")
    complete = not any(runs.finished(plan, each) is None for each in plan.runs)
    found = results.collect(plan, _speed(plan) if complete else None)
    _print(found, json)
    if save:
        kept = runs.keep(plan)
        tell(f"wrote {results.save(found)}" if complete else f"kept {len(kept)} of {len(plan.runs)} runs")


def _speed(plan: Any) -> dict[str, Any]:
    """What an answer costs in each cell, measured once, when nothing else of the experiment runs."""
    from vlmlab.bench.answering import answering
    from vlmlab.files import read_json, write_json

    path = plan.path / "speed.json"
    if not path.exists():
        write_json(path, answering())
    return read_json(path)


def _print(found: dict[str, Any], json: bool) -> None:
    from vlmlab.benchmarks import experiment_results as results

    if json:
        print_json(found)
        return
    out.print(results.table(found))
    for sentence in found["findings"]:
        out.print(f"- {sentence}", markup=False, highlight=False)
    if found["missing"]:
        out.print(f"missing: {', '.join(found['missing'])}", markup=False, highlight=False)
