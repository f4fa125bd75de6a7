"""A new chapter that runs: source, check and test on the spine that all notebooks share. Serves `vlmlab new`."""

import re
from pathlib import Path

from vlmlab.errors import BadInput
from vlmlab.files import write_text
from vlmlab.notebooks.source import available, notebooks_dir

FILES = {
    "new_source.txt": "notebooks/src/{name}.py",
    "new_checks.txt": "vlmlab/checks/nb{number}.py",
    "new_tests.txt": "tests/unit/test_checks_{number}.py",
}


def write(number: str, name: str, root: Path | None = None) -> list[Path]:
    """Write the three files of a chapter and return their paths.

    Args:
        number: two digits, "18". name: lower case with underscores, "depth_cues". root: the project's folder, by
            default the one whose notebooks/ is in use.

    Raises:
        BadInput: number or name is malformed, a chapter has the number, or one of the files exists; nothing is written.
    """
    if not re.fullmatch(r"\d\d", number):
        raise BadInput(f"a chapter's number has two digits, as in 18; got {number!r}")
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name):
        raise BadInput(f"a chapter's name is lower case with underscores, as in depth_cues; got {name!r}")
    root = root or notebooks_dir().parent
    taken = [source.path.name for source in available(root / "notebooks") if source.number == int(number)]
    paths = {form: root / path.format(number=number, name=f"{number}_{name}") for form, path in FILES.items()}
    taken += [str(path.relative_to(root)) for path in paths.values() if path.exists() and path.name not in taken]
    if taken:
        raise BadInput(f"{taken[0]} exists; choose another number, nothing was written")
    words = {"@NUMBER@": number, "@NAME@": f"{number}_{name}", "@TITLE@": name.replace("_", " ").capitalize()}
    for form, path in paths.items():
        text = (Path(__file__).parent / form).read_text(encoding="utf-8")
        for mark, word in words.items():
            text = text.replace(mark, word)
        write_text(path, text)
    return list(paths.values())
