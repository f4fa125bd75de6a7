"""`vlmlab replay`: a saved case of the spatial probe, asked again. Notebook 15."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vlmlab.commands.common import out, print_json, tell
from vlmlab.commands.model import Device, Json

if TYPE_CHECKING:
    from vlmlab.widgets.cases import Line


def replay(
    case: Annotated[Path, typer.Argument(help="A case file that the spatial probe saved.", show_default=False)],
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Ask a saved case again: exit code 0 where truth, words and probabilities are the same, 1 where they changed."""
    import vlmlab
    from vlmlab.widgets import cases

    saved = cases.read(case)
    lines = cases.compare(saved, cases.again(saved, lambda name: vlmlab.load(name, device=device)))
    changed = [line for line in lines if line.decides and not line.same]
    if json:
        print_json({"case": case, "same": not changed, "tolerance": cases.TOLERANCE, "lines": list(map(asdict, lines))})
    else:
        out.print(_table(lines))
        tell(f"{len(changed)} of {sum(line.decides for line in lines)} changed" if changed else "nothing changed")
    if changed:
        raise typer.Exit(1)


def _table(lines: "list[Line]") -> Any:
    """The comparison as a rich table."""
    from rich.markup import escape
    from rich.table import Table

    def shown(value: Any, whole: bool) -> str:
        text = "-" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)
        return escape(text if whole else text[:12])

    table = Table()
    for column in ("what", "saved", "now", "result"):
        table.add_column(column)
    for line in lines:
        verdict = "same" if line.same else "changed" if line.decides else "differs (not counted)"
        table.add_row(escape(line.what), shown(line.saved, line.decides), shown(line.now, line.decides), verdict)
    return table
