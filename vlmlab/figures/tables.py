"""Tables as accessible HTML, every cell escaped: a model's text never becomes markup. Notebook 00."""

import html
from collections.abc import Sequence
from typing import Any

from vlmlab.errors import BadInput

CELL = "padding:0.15em 0.7em;vertical-align:top"


def table_html(columns: Sequence[str], rows: Sequence[Sequence[Any]], caption: str | None = None) -> str:
    """A `<table>` with a header row. Numbers stand to the right; a float has three digits, a bool is yes or no.

    Raises BadInput when a row has another length than `columns`.
    """
    lines = []
    for row in rows:
        if len(row) != len(columns):
            raise BadInput(f"a row has {len(row)} cells for {len(columns)} columns: {row!r}")
        lines.append("<tr>" + "".join(_cell(value) for value in row) + "</tr>")
    head = "".join(f'<th scope="col" style="{CELL};text-align:left">{html.escape(str(name))}</th>' for name in columns)
    title = f'<caption style="text-align:left;caption-side:top">{html.escape(caption)}</caption>' if caption else ""
    return f"<table>{title}<thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def _cell(value: Any) -> str:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    text = (
        ("no", "yes")[value] if isinstance(value, bool) else f"{value:.3g}" if isinstance(value, float) else str(value)
    )
    return f'<td style="{CELL};text-align:{"right" if number else "left"}">{html.escape(text)}</td>'


def show_table(columns: Sequence[str], rows: Sequence[Sequence[Any]], caption: str | None = None) -> None:
    """Display a table in a notebook, see `table_html`."""
    from IPython.display import HTML, display

    display(HTML(table_html(columns, rows, caption)))
