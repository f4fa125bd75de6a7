"""What the commands share: consoles, JSON on stdout, and `--set name=value`. Serves `vlmlab.cli`; notebook 00."""

import ast
import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from vlmlab.errors import BadInput

out = Console()
err = Console(stderr=True)


def tell(text: str, console: Console = err) -> None:
    """Print a line as it is: no markup is read, and no path is broken to fit the window."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def print_json(value: Any) -> None:
    """Write `value` as JSON to stdout, dataclasses, paths, NumPy and PyTorch values included."""
    print(json.dumps(value, indent=2, ensure_ascii=False, default=_jsonable))


def _jsonable(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, set | frozenset):
        return sorted(value)
    return str(value)


def settings(pairs: Iterable[str]) -> dict[str, str]:
    """Split `name=value` strings; the values stay text. Raises BadInput for a missing "=", a bad name or a repeat."""
    found: dict[str, str] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        name = name.strip()
        if not equals or not name.isidentifier():
            raise BadInput(f"--set wants name=value, for instance --set seed=1; got {pair!r}")
        if name in found:
            raise BadInput(f"--set {name} is given twice; give it once")
        found[name] = text
    return found


def literal(text: str) -> Any:
    """A Python literal (`1`, `0.5`, `True`, `"a"`, `[1, 2]`), or the text itself when it is none."""
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


def literals(pairs: Iterable[str]) -> dict[str, Any]:
    """`settings` with each value read by `literal`."""
    return {name: literal(text) for name, text in settings(pairs).items()}


def prompt_text(text: str) -> str:
    """The question itself, stripped; BadInput when nothing is left."""
    if not text.strip():
        raise BadInput('the question is empty; ask something, for instance "Is the cat left of the sofa?"')
    return text.strip()


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr, only on a terminal; yields a function to call with (done so far, all)."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def show_dict(values: dict[str, Any], title: str) -> None:
    """Print a dict as a two-column table; nested dicts become rows with dotted names."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=title, title_justify="left", show_header=False)
    table.add_column(style="bold")
    table.add_column(justify="right")

    def rows(prefix: str, item: Any) -> None:
        if dataclasses.is_dataclass(item) and not isinstance(item, type):
            item = _jsonable(item)
        if isinstance(item, dict):
            for key, inner in item.items():
                rows(f"{prefix}.{key}" if prefix else str(key), inner)
        elif isinstance(item, float):
            table.add_row(escape(prefix), f"{item:,.4g}")
        elif isinstance(item, int) and not isinstance(item, bool):
            table.add_row(escape(prefix), f"{item:,}")
        else:
            table.add_row(escape(prefix), escape(str(item)))

    rows("", values)
    out.print(table)
