"""`vlmlab new`: the three files of a new chapter. For authors; CONTRIBUTING.md goes on from there."""

from typing import Annotated

import typer


def new(
    number: Annotated[str, typer.Argument(help="The chapter's number, two digits, as in 18.", show_default=False)],
    name: Annotated[str, typer.Argument(help="Its name, as in depth_cues.", show_default=False)],
) -> None:
    """Write a new chapter that runs as it is: source, check and test."""
    from vlmlab.notebooks.new import write
    from vlmlab.notebooks.source import notebooks_dir

    root = notebooks_dir().parent
    for path in write(number, name, root):
        print(f"wrote {path.relative_to(root)}")
    print(f"then: vlmlab run {number}, and name the chapter's checks in tests/unit/test_exercises.py (CHAPTERS)")
