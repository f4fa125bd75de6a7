"""`vlmlab doctor`, `run` and `lab`: the installation and the notebooks. Notebook 00."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from vlmlab.commands.common import err, out, print_json, settings
from vlmlab.errors import BadInput, MissingDependency

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def doctor(json: Json = False) -> None:
    """Check the installation; each fault comes with the command that mends it."""
    from vlmlab import doctor as checks

    found = checks.examine()
    if json:
        print_json({"ok": all(check.ok for check in found), "checks": found})
    else:
        for check in found:
            print(check.line())
    if not all(check.ok for check in found):
        raise typer.Exit(1)


def run(
    notebooks: Annotated[
        list[str] | None,
        typer.Argument(help="Numbers (02), names, or ranges (00-04); all when left out.", show_default=False),
    ] = None,
    profile: Annotated[str, typer.Option(help="quick (CPU, a minute each) or full.")] = "quick",
    set: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Another value for a notebook's parameter; may be repeated."),
    ] = None,
    update: Annotated[bool, typer.Option("--update", help="Write the outputs back into notebooks/*.ipynb.")] = False,
    report: Annotated[Path | None, typer.Option(help="Folder of the report.", show_default="build/report")] = None,
    no_budget: Annotated[
        bool, typer.Option("--no-budget", help="Measure time and memory, but do not fail on them.")
    ] = False,
    json: Json = False,
) -> None:
    """Execute notebooks strictly and write results.json and an HTML report."""
    from vlmlab import notebooks as suite

    outcome = suite.run(
        notebooks or [],
        profile=profile,
        settings=settings(set or []),
        update=update,
        report=report,
        budget=not no_budget,
        console=err,
    )
    if json:
        print_json(outcome.summary())
    else:
        outcome.print(out)
    if not outcome.passed:
        raise typer.Exit(1)


def lab(
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Port of the server.")] = None,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Print the address instead of opening it.")] = False,
) -> None:
    """Open JupyterLab on the notebooks."""
    import importlib.util

    if importlib.util.find_spec("jupyterlab") is None:
        raise MissingDependency("jupyterlab", "vlmlab lab", "make setup")
    from vlmlab.notebooks import lab_environment, notebooks_dir

    folder = notebooks_dir()
    if not folder.is_dir():
        raise BadInput(f"no notebooks in {folder}; run this from a clone of the project")
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        f"--notebook-dir={folder.parent}",
        "--LabApp.default_url=/lab/tree/notebooks",
    ]
    command += [f"--port={port}"] if port else []
    command += ["--no-browser"] if no_browser else []
    os.execve(sys.executable, command, lab_environment(os.environ))
