"""Notebooks as text: which there are, their parameters cell, and what `--set` asks of it. Serves every notebook.

`notebooks/src/NN_name.py` (jupytext, py:percent) is the source; `notebooks/NN_name.ipynb` is the same notebook with
outputs. This module reads sources and finds faults that need no execution.
"""

import ast
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import pairwise
from pathlib import Path
from typing import Any

from nbformat import NotebookNode

from vlmlab.errors import BadInput, UnknownName

REQUIRED = ("profile", "seed", "device")


@dataclass(frozen=True)
class Source:
    """One notebook: its name ("02_llava"), its source and the .ipynb paired with it."""

    name: str
    path: Path
    paired: Path

    @property
    def number(self) -> int:
        return int(self.name.split("_", 1)[0])


def notebooks_dir() -> Path:
    """The folder `notebooks/` of the project (VLMLAB_NOTEBOOKS overrides it)."""
    return Path(os.environ.get("VLMLAB_NOTEBOOKS") or Path(__file__).resolve().parents[2] / "notebooks")


def available(folder: Path | None = None) -> list[Source]:
    """All notebooks in `folder`/src, by number. Raises BadInput when two share a number."""
    folder = folder or notebooks_dir()
    found = [
        Source(path.stem, path, folder / f"{path.stem}.ipynb")
        for path in sorted((folder / "src").glob("*.py"))
        if re.match(r"\d+_", path.name)
    ]
    found.sort(key=lambda source: (source.number, source.name))
    for first, second in pairwise(found):
        if first.number == second.number:
            raise BadInput(f"{first.path.name} and {second.path.name} share a number; rename one of them")
    return found


def find(selection: Sequence[str], folder: Path | None = None) -> list[Source]:
    """The notebooks that `selection` names, in their own order; all of them when it is empty.

    An item is a number ("2", "02"), a range ("00-04"), a name ("02_llava") or a path. Raises UnknownName.
    """
    known = available(folder)
    if not known:
        raise BadInput(f"no notebooks in {(folder or notebooks_dir()) / 'src'}; run this from a clone of the project")
    chosen: set[Source] = set()
    for item in selection:
        text = re.sub(r"\.(py|ipynb)$", "", item.strip().replace("\\", "/").rsplit("/", 1)[-1])
        span = re.fullmatch(r"(\d+)(?:-(\d+))?", text)
        if span:
            low, high = int(span[1]), int(span[2] or span[1])
            matches = [source for source in known if low <= source.number <= high]
        else:
            matches = [source for source in known if source.name == text]
        if not matches:
            raise UnknownName("notebook", item, [source.name for source in known])
        chosen.update(matches)
    return [source for source in known if source in chosen or not selection]


def read(source: Source) -> NotebookNode:
    """The notebook of a source, without outputs, its cells with stable ids. Raises BadInput when it cannot be read."""
    import jupytext

    from vlmlab.notebooks.tidy import name_cells

    try:
        notebook = jupytext.read(source.path, fmt="py:percent")
    except (OSError, ValueError, SyntaxError) as error:
        raise BadInput(f"cannot read {source.path}: {error}") from None
    notebook.metadata.pop("jupytext", None)
    notebook.metadata["kernelspec"] = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
    notebook.metadata["language_info"] = {"name": "python", "pygments_lexer": "ipython3"}
    name_cells(notebook)
    return notebook


def tags(cell: NotebookNode) -> list[str]:
    return list(cell.get("metadata", {}).get("tags", []))


def describe(index: int, cell: NotebookNode) -> str:
    """How messages name a cell: its place among all cells and its first line."""
    line = next((line.strip() for line in cell.source.splitlines() if line.strip()), "")
    place = cell.metadata.get("vlmlab_cell", index + 1)  # the runner inserts a cell, so the place may have moved
    return f"cell {place} ({line[:57] + '...' if len(line) > 60 else line})"


def parameters(notebook: NotebookNode) -> dict[str, Any]:
    """The names and defaults of the one cell tagged `parameters`.

    Raises BadInput when there is none or several, when the cell does more than assign literals to names, or when
    `profile`, `seed` or `device` is missing.
    """
    cells = [
        (i, cell) for i, cell in enumerate(notebook.cells) if cell.cell_type == "code" and "parameters" in tags(cell)
    ]
    if len(cells) != 1:
        count = "no cell is" if not cells else f"{len(cells)} cells are"
        raise BadInput(
            f"{count} tagged 'parameters'; a notebook has exactly one, `# %% tags=[\"parameters\"]` in its source"
        )
    index, cell = cells[0]
    where = describe(index, cell)
    try:
        body = ast.parse(cell.source).body
    except SyntaxError as error:
        raise BadInput(f"{where}: the parameters cell is not Python: {error.msg}") from None
    found: dict[str, Any] = {}
    for statement in body:
        name, value = _assignment(statement)
        if name is None or value is None:
            text = ast.unparse(statement)
            raise BadInput(f"{where}: the parameters cell may only assign literals to names, not {text!r}")
        try:
            found[name] = ast.literal_eval(value)
        except ValueError:
            raise BadInput(f"{where}: the default of {name} is not a literal: {ast.unparse(value)!r}") from None
    missing = [name for name in REQUIRED if name not in found]
    if missing:
        raise BadInput(f"{where}: the parameters cell lacks {', '.join(missing)}")
    return found


def _assignment(statement: ast.stmt) -> tuple[str | None, ast.expr | None]:
    if isinstance(statement, ast.Assign) and len(statement.targets) == 1 and isinstance(statement.targets[0], ast.Name):
        return statement.targets[0].id, statement.value
    if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
        return statement.target.id, statement.value
    return None, None


def reassignments(notebook: NotebookNode, names: Sequence[str]) -> list[str]:
    """Cells outside the parameters cell that bind a parameter's name again, as messages."""
    from IPython.core.inputtransformer2 import TransformerManager

    messages = []
    for index, cell in enumerate(notebook.cells):
        if cell.cell_type != "code" or {"parameters", "injected-parameters"} & set(tags(cell)):
            continue
        try:
            tree = ast.parse(TransformerManager().transform_cell(cell.source))
        except SyntaxError:
            continue  # running the cell reports it, with the line
        again = sorted(set(_bound(tree)) & set(names))
        if again:
            listed = ", ".join(again)
            messages.append(f"{describe(index, cell)} assigns the parameter {listed} again; use another name there")
    return messages


def _bound(tree: ast.AST) -> list[str]:
    """Names bound in a cell's own scope: not inside functions, classes, lambdas and comprehensions."""
    names: list[str] = []
    scopes = ast.Lambda | ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.append(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store | ast.Del):
            names.append(node.id)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names += [(alias.asname or alias.name).split(".")[0] for alias in node.names]
        elif isinstance(node, ast.ExceptHandler) and node.name:
            names += [node.name, *_bound(node)]
        elif not isinstance(node, scopes):
            names += _bound(node)
    return names


def resolve(settings: dict[str, str], defaults: dict[str, Any], notebook: str) -> dict[str, Any]:
    """The values of `--set`, read against the defaults of a notebook's parameters.

    A value is a Python literal of the default's type (an integer does where a float is the default, any text where a
    string is). Raises BadInput for an unknown name, with near matches, and for a value of another type.
    """
    values = {}
    for name, text in settings.items():
        if name == "profile":
            raise BadInput("choose the profile with --profile, not with --set")
        if name not in defaults:
            near = get_close_matches(name, defaults, n=3)
            hint = f"did you mean {' or '.join(near)}?" if near else "its parameters: " + ", ".join(defaults)
            raise BadInput(f"notebook {notebook} has no parameter {name!r}; {hint}")
        values[name] = _typed(name, text, defaults[name], notebook)
    return values


def _typed(name: str, text: str, default: Any, notebook: str) -> Any:
    try:
        value = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        value = text
    wanted = type(default)
    if wanted is str and not isinstance(value, str):
        return text
    if wanted is float and type(value) is int:
        return float(value)
    if default is not None and type(value) is not wanted:
        message = f"--set {name}={text}: {notebook} wants {wanted.__name__}, as in {name}={default!r}"
        raise BadInput(message)
    return value
