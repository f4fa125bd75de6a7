"""`vlmlab gpu`: what only a GPU can measure. Notebook 16."""

from pathlib import Path
from typing import Annotated

import typer

from vlmlab.commands.common import literals, print_json, show_dict, tell
from vlmlab.errors import BadInput


def gpu(
    name: Annotated[str | None, typer.Argument(help="The run's name.", show_default=False)] = None,
    set: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Another size; may be repeated.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The file.", show_default="data/gpu_runs/NAME.json")] = None,
    list: Annotated[bool, typer.Option("--list", help="Print the runs and when each was made.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the record as JSON.")] = False,
) -> None:
    """Measure full-size models and kernels on a CUDA GPU and keep the record."""
    from vlmlab import gpu as runs

    if list:
        found = {each: x if isinstance(x, str) else x["date"] for each, x in runs.results().items()}
        if json:
            print_json(found)
        else:
            print("\n".join(f"{each}: {when}" for each, when in found.items()))
        return
    if name is None:
        raise BadInput("name a run: " + ", ".join(runs.RUNS))
    record = runs.run(name, out, **literals(set or []))
    if json:
        print_json(record)
    else:
        show_dict(record["results"], name)
        tell(f"wrote {out or f'data/gpu_runs/{name}.json'}")
