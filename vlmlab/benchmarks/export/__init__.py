"""Notebook 05. Small sets in the official formats, exported from held-out scenes, so that every benchmark runs offline.

`python -m vlmlab.benchmarks.export [NAME ...] [--out DIR]` writes them, the same bytes each time; `shipped.files` says
where those that come with the package lie. File names, fields and types are those of the official files, so a reader
and a scorer take a downloaded benchmark as they take these. About one picture in five holds a combination of colour
and kind that training never saw (split `test_combinations`), the others do not (`test`); `scenes.json` beside a set's
files has the scene of each picture, its split included, and the questions that have programs with them.

TextVQA is left out: there are no written words in our world.
"""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from vlmlab.errors import UnknownName

NAMES = ("vqav2", "vizwiz", "gqa", "pope", "vsr", "scienceqa", "whatsup", "llava_bench")


def export(names: Sequence[str], out: Path) -> None:
    """Write sets into out/NAME, and out/README.md about all that are there.

    Raises UnknownName for a name not in NAMES, BadInput for a folder that holds other pictures than the set's own.
    """
    from vlmlab.benchmarks.export.readme import readme
    from vlmlab.benchmarks.export.sets import write
    from vlmlab.files import write_text

    for name in names:
        if name not in NAMES:
            raise UnknownName("benchmark", name, NAMES)
    for name in names:
        write(import_module(f"{__name__}.{name}").build(), out / name)
    write_text(out / "README.md", readme(out))
