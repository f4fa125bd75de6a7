"""`vlmlab book`: the notebooks as a site to read. Serves every notebook."""

from pathlib import Path
from typing import Annotated

import typer

from vlmlab.commands.common import err, out, print_json, tell


def book(
    folder: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Folder of the site.")] = Path("build/book"),
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Build the committed notebooks into a site that works without network; nothing is executed."""
    from vlmlab.notebooks.book import build

    built = build(folder)
    if json:
        print_json(built)
    else:
        for problem in built.problems:
            tell(problem, err)
        tell(f"{len(built.chapters)} chapters: {built.folder / 'index.html'}", out)
    if built.problems:
        raise typer.Exit(1)
