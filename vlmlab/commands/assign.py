"""`vlmlab assign`: the notebooks as an nbgrader course. Notebook 00."""

from pathlib import Path
from typing import Annotated

import typer

from vlmlab.commands.common import out as console
from vlmlab.commands.common import print_json, tell


def assign(
    out: Annotated[Path, typer.Option("--out", "-o", help="The course's folder.")],
    notebooks: Annotated[
        list[str] | None,
        typer.Argument(help="Numbers (02), names, or ranges (00-04); all when left out.", show_default=False),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Write an nbgrader course: notebooks with solutions for the instructor, without them for students."""
    from vlmlab.notebooks.assign import assign as write

    written = write(notebooks or [], out)
    if json:
        print_json(written)
        return
    for each in written:
        points = f"{each.checked_points:g} points by checks, {each.marked_points:g} by hand"
        tell(f"{each.name}: {each.exercises} exercises, {points}", console)
    tell(f"wrote {out}; give students release/, and grade with: cd {out} && nbgrader autograde CHAPTER", console)
