"""What is kept of an executed notebook: stable ids, no timings, no traces of the machine. Serves every notebook.

Two runs of the quick profile on one machine give the same bytes but for numbers that are themselves measured times.
"""

import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path

import nbformat
from nbformat import NotebookNode

MAX_BYTES = 1_500_000
WIDGETS = "application/vnd.jupyter.widget-state+json"
RUNNER_TAGS = {"injected-parameters", "vlmlab-proof"}


def name_cells(notebook: NotebookNode) -> None:
    """Give each cell an id made from its source, so that editing one cell changes one id."""
    seen: dict[str, int] = {}
    for cell in notebook.cells:
        key = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:8]
        seen[key] = seen.get(key, 0) + 1
        cell["id"] = key if seen[key] == 1 else f"{key}-{seen[key]}"
    notebook.nbformat, notebook.nbformat_minor = 4, 5


def tidy(executed: NotebookNode) -> NotebookNode:
    """A copy to commit: without the runner's cells, timings and versions; counts and ids renumbered."""
    notebook = nbformat.from_dict(json.loads(json.dumps(executed)))
    notebook.cells = [cell for cell in notebook.cells if not RUNNER_TAGS & set(cell.metadata.get("tags", []))]
    for key in ("papermill", "jupytext"):
        notebook.metadata.pop(key, None)
    notebook.metadata.get("language_info", {}).pop("version", None)
    if not notebook.metadata.get("widgets", {}).get(WIDGETS, {}).get("state"):
        notebook.metadata.pop("widgets", None)
    count = 0
    for cell in notebook.cells:
        for key in ("papermill", "execution", "collapsed", "vlmlab_cell"):
            cell.metadata.pop(key, None)
        if not cell.metadata.get("tags", True):
            del cell.metadata["tags"]
        cell.metadata = NotebookNode(sorted(cell.metadata.items()))
        if cell.cell_type != "code":
            continue
        if cell.execution_count is not None:
            count += 1
            cell.execution_count = count
        # what is left on stderr after a run that passed is allowed, and comes only on a new machine
        cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
        for output in cell.outputs:
            if "execution_count" in output:
                output.execution_count = count
            output.pop("transient", None)
        _join_streams(cell)
    name_cells(notebook)
    return _rename_widgets(notebook)


def _join_streams(cell: NotebookNode) -> None:
    """One output for neighbouring pieces of the same stream: how they were cut depends on the moment."""
    joined: list[NotebookNode] = []
    for output in cell.outputs:
        last = joined[-1] if joined else None
        if last is not None and output.output_type == "stream" == last.output_type and output.name == last.name:
            last.text += output.text
        else:
            joined.append(output)
    cell.outputs = joined


def _rename_widgets(notebook: NotebookNode) -> NotebookNode:
    """Number the widgets' random ids: those on show in their order and what they hold, then the rest by content."""
    state = notebook.metadata.get("widgets", {}).get(WIDGETS, {}).get("state", {})
    if not state:
        return notebook
    anonymous = {model: _without_ids(json.dumps(state[model], sort_keys=True), state) for model in state}
    queue = [model for cell in notebook.cells for model in _ids_in(json.dumps(cell.get("outputs", [])), state)]
    queue += sorted(state, key=anonymous.__getitem__)
    order: dict[str, int] = {}
    while queue:
        model = queue.pop(0)
        if model not in order:
            order[model] = len(order)
            queue[:0] = _ids_in(json.dumps(state[model], sort_keys=True), state)
    text = json.dumps(notebook)
    for model, position in order.items():
        text = text.replace(model, f"{position:032x}")
    return nbformat.from_dict(json.loads(text))


def _ids_in(text: str, known: Iterable[str]) -> list[str]:
    return [found for found in re.findall(r"[0-9a-f]{32}", text) if found in known]


def _without_ids(text: str, known: Iterable[str]) -> str:
    return re.sub(r"[0-9a-f]{32}", lambda match: "" if match[0] in known else match[0], text)


def to_text(notebook: NotebookNode) -> str:
    """The notebook as the bytes of an .ipynb file."""
    nbformat.validate(notebook)
    return nbformat.writes(notebook) + "\n"


def machine_paths(notebook: NotebookNode, folders: Iterable[Path]) -> list[str]:
    """Messages for outputs that show a path of this machine: `folders`, and where this Python lives."""
    from vlmlab.notebooks.source import describe

    shown = {str(folder) for folder in folders}
    shown |= {str(Path(folder).resolve()) for folder in shown}
    shown = {folder for folder in shown if len(Path(folder).parts) > 2}
    messages = []
    for index, cell in enumerate(notebook.cells):
        text = re.sub(r"\\+", "/", json.dumps([_texts(output) for output in cell.get("outputs", [])]))
        found = next((folder for folder in sorted(shown, key=len) if folder in text), None)
        if found:
            messages.append(f"{describe(index, cell)} prints a path of this machine ({found}/...); print it relative")
    return messages


def _texts(output: NotebookNode) -> list[str]:
    data = output.get("data", {})
    return [output.get("text", "")] + [str(data[kind]) for kind in data if kind.startswith("text/")]


def same_inputs(one: NotebookNode, other: NotebookNode) -> bool:
    """Whether two notebooks have the same cells, outputs aside."""

    def inputs(notebook: NotebookNode) -> list[tuple[str, str, list[str]]]:
        return [(cell.cell_type, cell.source.strip(), sorted(cell.metadata.get("tags", []))) for cell in notebook.cells]

    return inputs(one) == inputs(other)
