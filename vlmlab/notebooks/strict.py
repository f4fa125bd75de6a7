"""What makes a run fail although papermill was content. Serves every notebook.

Each function looks at one thing and returns messages, one line each; no messages means no fault.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bs4 import BeautifulSoup
from nbformat import NotebookNode

from vlmlab.notebooks.source import describe
from vlmlab.notebooks.tidy import RUNNER_TAGS, WIDGETS

# Text on stderr that may pass: (pattern that must match the whole line, why). Keep it short: a warning that a student
# sees and need not act on belongs off at its source, not here.
ALLOWED_STDERR: tuple[tuple[str, str], ...] = (
    (r".*building the font cache; this may take a moment\.", "matplotlib, once on a machine, when that takes over 5 s"),
)

TRACEBACK = "Traceback (most recent call last)"


def cell_errors(notebook: NotebookNode) -> list[str]:
    """Errors in the outputs of cells."""
    messages = []
    for index, cell in enumerate(notebook.cells):
        for output in cell.get("outputs", []):
            if output.output_type == "error":
                messages.append(f"{describe(index, cell)}: {output.ename}: {_first_line(output.evalue)}")
    return messages


def hidden_errors(notebook: NotebookNode, seen: Sequence[dict[str, Any]]) -> list[str]:
    """Errors that the kernel sent and no cell shows, and errors or tracebacks in the state of widgets."""
    shown = " ".join(
        f"{output.ename}: {output.evalue}" for cell in notebook.cells for output in cell.get("outputs", [])
        if output.output_type == "error"
    )  # fmt: skip
    messages = []
    for note in seen:
        if note["kind"] in ("error", "widget-error") and note["text"] not in shown:
            cell = describe(note["cell"], notebook.cells[note["cell"]])
            messages.append(f"{cell} hides an error in a widget or a cleared output: {_first_line(note['text'])}")
    if not messages:
        for model in notebook.metadata.get("widgets", {}).get(WIDGETS, {}).get("state", {}).values():
            state = model.get("state", {})
            for output in state.get("outputs") or []:
                if output.get("output_type") == "error":
                    messages.append(f"an Output widget holds an error: {output.get('ename')}: {output.get('evalue')}")
            if TRACEBACK in json.dumps({key: value for key, value in state.items() if key != "outputs"}):
                messages.append(f"a widget ({model.get('model_name')}) holds a traceback")
    return list(dict.fromkeys(messages))


def unexpected_stderr(notebook: NotebookNode, seen: Sequence[dict[str, Any]]) -> list[str]:
    """Lines on stderr that ALLOWED_STDERR does not name, one message a cell."""
    texts: dict[int, str] = {}
    for note in seen:
        if note["kind"] in ("stderr", "widget-stderr"):
            texts[note["cell"]] = texts.get(note["cell"], "") + note["text"]
    for index, cell in enumerate(notebook.cells):
        for output in cell.get("outputs", []):
            if output.output_type == "stream" and output.name == "stderr" and index not in texts:
                texts[index] = output.text
    messages = []
    for index, text in sorted(texts.items()):
        lines = [line for line in re.split(r"[\r\n]+", text) if line.strip()]
        left = [line for line in lines if not any(re.fullmatch(pattern, line) for pattern, _ in ALLOWED_STDERR)]
        if left:
            messages.append(f"{describe(index, notebook.cells[index])} writes to stderr: {_first_line(left[0])}")
    return messages


def not_run(notebook: NotebookNode) -> list[str]:
    """The first code cell with something in it that was never executed."""
    for index, cell in enumerate(notebook.cells):
        code = cell.cell_type == "code" and cell.source.strip() and "vlmlab-proof" not in cell.metadata.get("tags", [])
        if code and cell.execution_count is None:
            return [f"{describe(index, cell)} was not executed"]
    return []


def values_held(proof: Path, asked: dict[str, Any]) -> list[str]:
    """Whether each injected value was still there, unchanged, after the last cell."""
    if not proof.is_file():
        return ["the injected parameters could not be read back after the run"]
    held = json.loads(proof.read_text(encoding="utf-8"))
    messages = []
    for name, value in asked.items():
        if name not in held:
            messages.append(f"the parameter {name} is gone at the end of the run; no cell may delete it")
        elif held[name] != [type(value).__name__, repr(value)]:
            messages.append(
                f"the parameter {name} was set to {value!r} but holds {held[name][1]} at the end of the run"
            )
    return messages


def network_attempts(log: Path) -> list[str]:
    """What the network guard refused."""
    if not log.is_file():
        return []
    attempts = list(dict.fromkeys(log.read_text(encoding="utf-8").splitlines()))
    return [f"tries to reach the network ({', '.join(attempts[:3])}); a notebook runs offline"] if attempts else []


def missing_alt(notebook: NotebookNode) -> list[str]:
    """Pictures without alternative text, in outputs and in markdown."""
    messages = []
    for index, cell in enumerate(notebook.cells):
        if any(_without_alt(output) for output in cell.get("outputs", [])):
            messages.append(
                f"{describe(index, cell)} shows a picture without alt text; show it through vlmlab.figures, or as "
                "<figure><img alt=...></figure>"
            )
        elif cell.cell_type == "markdown" and _img_without_alt(cell.source):
            messages.append(f"{describe(index, cell)} holds an <img> without alt text")
    return messages


def _without_alt(output: NotebookNode) -> bool:
    data = output.get("data", {})
    if "text/html" in data:
        return _img_without_alt(data["text/html"])
    for kind in ("image/png", "image/jpeg", "image/svg+xml"):
        if kind in data:
            described = output.get("metadata", {})
            return not (described.get("alt") or described.get(kind, {}).get("alt"))
    return False


def _img_without_alt(html: str) -> bool:
    if "<img" not in html:
        return False
    return any(not str(image.get("alt") or "").strip() for image in BeautifulSoup(html, "html.parser").find_all("img"))


def recorded(log: Path) -> tuple[dict[str, Any], list[str]]:
    """The values that the notebook recorded, and messages for names recorded twice with different values."""
    values: dict[str, Any] = {}
    messages = []
    for line in log.read_text(encoding="utf-8").splitlines() if log.is_file() else []:
        entry = json.loads(line)
        if entry["name"] in values and values[entry["name"]] != entry["value"]:
            messages.append(f"records {entry['name']!r} twice with different values; give each value its own name")
        values[entry["name"]] = entry["value"]
    return values, messages


def visible(notebook: NotebookNode) -> NotebookNode:
    """The notebook without the cells that the runner added."""
    notebook.cells = [cell for cell in notebook.cells if not RUNNER_TAGS & set(cell.metadata.get("tags", []))]
    return notebook


def _first_line(text: str) -> str:
    lines = [line.strip() for line in str(text).splitlines() if line.strip()]
    line = lines[0] if lines else ""
    return line if len(line) <= 200 else line[:197] + "..."
