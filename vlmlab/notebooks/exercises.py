"""A notebook's exercises taken apart: statement, answer cells, hint, solution. Serves every notebook.

A source marks them so: a heading "### Exercise 2 · A program (medium, 10 minutes)" below "## Exercises", answer cells
that end in a call of the chapter's check, and <details> blocks. The one called Hint helps; what the others hold
("Solution", "A way to begin") is kept from those who are graded.
"""

import ast
import re
from dataclasses import dataclass, replace

from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell

from vlmlab.errors import BadInput
from vlmlab.notebooks.source import describe

DIFFICULTIES = ("warm-up", "easy", "medium", "hard", "harder", "open")
HINT = "Hint"
_HEADING = re.compile(rf"### Exercise (\d+) · (.+) \(({'|'.join(DIFFICULTIES)}), (\d+) minutes\)")
_DETAILS = re.compile(r"<details><summary>(.+?)</summary>\n(.*?)</details>\n*", re.DOTALL)
_CODE = re.compile(r"^```python\n(.*?)^```\n*", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Exercise:
    """One exercise. cells: all of it, the first begins with the heading; minutes: what it is said to take."""

    number: int
    title: str
    difficulty: str
    minutes: int
    cells: tuple[NotebookNode, ...]

    def blocks(self, hint: bool) -> list[str]:
        """What its <details> hold: the hints, or all the others, which give answers away."""
        text = "\n\n".join(cell.source for cell in self.cells if cell.cell_type == "markdown")
        return [body.strip() for name, body in _DETAILS.findall(text) if (name == HINT) == hint]

    def solution(self) -> tuple[str, str]:
        """The code and the prose of the blocks that give answers away."""
        blocks = self.blocks(hint=False)
        code = "\n".join(part.strip("\n") + "\n" for block in blocks for part in _CODE.findall(block))
        return code, "\n\n".join(_CODE.sub("", block).strip() for block in blocks).strip()


@dataclass(frozen=True)
class Asked:
    """The call of a check that ends an answer cell: its text, its first line (from 0), the names that it looks at."""

    call: str
    line: int
    names: frozenset[str]


def apart(notebook: NotebookNode) -> tuple[list[NotebookNode], list[Exercise], list[NotebookNode]]:
    """The cells before the exercises, the exercises, and the cells after them; markdown is split at their headings.

    Raises BadInput for an exercise whose heading lacks its number, title, difficulty or minutes.
    """
    before: list[NotebookNode] = []
    exercises: list[Exercise] = []
    after: list[NotebookNode] = []
    for cell in _split(notebook):
        first = cell.source.partition("\n")[0]
        markdown = cell.cell_type == "markdown"
        if markdown and first.startswith("### Exercise "):
            found = _HEADING.fullmatch(first)
            if not found:
                raise BadInput(
                    f"the heading {first!r} is no exercise's; write ### Exercise N · Title (difficulty, M minutes); "
                    f"the difficulty is one of {', '.join(DIFFICULTIES)}"
                )
            exercises.append(Exercise(int(found[1]), found[2], found[3], int(found[4]), (cell,)))
        elif not exercises:
            before.append(cell)
        elif after or (markdown and first.startswith("## ")):
            after.append(cell)
        else:
            exercises[-1] = replace(exercises[-1], cells=(*exercises[-1].cells, cell))
    return before, exercises, after


def _split(notebook: NotebookNode) -> list[NotebookNode]:
    """The cells, each heading of an exercise or of a section at the top of a markdown cell of its own."""
    cells = []
    for cell in notebook.cells:
        pieces = re.split(r"^(?=### Exercise |## )", cell.source, flags=re.MULTILINE)
        if cell.cell_type == "markdown" and len(pieces) > 1:
            cells += [new_markdown_cell(piece.strip(), metadata=cell.metadata) for piece in pieces if piece.strip()]
        else:
            cells.append(cell)
    return cells


def asked(cell: NotebookNode) -> Asked | None:
    """The check that an answer cell calls last; None for any other cell."""
    if cell.cell_type != "code":
        return None
    try:
        body = ast.parse(cell.source).body
    except SyntaxError:  # a line for IPython: no answer cell has one
        return None
    if not body or not isinstance(body[-1], ast.Expr | ast.Assign):
        return None
    call = body[-1].value
    if not (isinstance(call, ast.Call) and ast.unparse(call.func).startswith("check.")):
        return None
    names = {node.id for node in ast.walk(call) if isinstance(node, ast.Name)} - {"check"}
    return Asked(ast.unparse(call), body[-1].lineno - 1, frozenset(names))


def shares(exercise: Exercise) -> list[str]:
    """The solution's code for each answer cell in turn: what is left, up to the statement that binds the cell's name.

    Raises BadInput for code that is not Python, and when an answer cell gets none.
    """
    code, _ = exercise.solution()
    try:
        lines, body, begin = code.splitlines(), ast.parse(code).body, 0
    except SyntaxError as error:
        raise BadInput(f"exercise {exercise.number}: the solution is not Python: {error.msg}, {error.text}") from None
    cells = [(cell, each) for cell in exercise.cells if (each := asked(cell)) is not None]
    found = []
    for index, (cell, each) in enumerate(cells):
        bound = [node.end_lineno or 0 for node in body if _names(node) & each.names]
        if not bound:
            raise BadInput(
                f"exercise {exercise.number}: the solution does not define what {describe(0, cell)} asks for"
            )
        end = bound[-1] if index < len(cells) - 1 else len(lines)
        found.append("\n".join(lines[begin:end]).strip("\n"))
        begin = end
    return found


def _names(statement: ast.stmt) -> set[str]:
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        return {statement.name}
    targets = statement.targets if isinstance(statement, ast.Assign) else []
    return {node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)}


def without_answers(text: str) -> str:
    """Markdown without the <details> that give answers away; hints stay."""
    kept = _DETAILS.sub(lambda found: found[0] if found[1] == HINT else "", text)
    return kept.strip()
