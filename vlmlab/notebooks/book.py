"""The book: the committed notebooks and the pages of book/ as a site that needs no network. Serves every notebook.

Sphinx with MyST-NB builds it from a staged copy, in which chapters refer to one another and to the bibliography, and
in which a widget is the figure and the table that it left. Nothing is executed.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from vlmlab.errors import BadInput, MissingDependency
from vlmlab.notebooks.page import offline
from vlmlab.notebooks.source import notebooks_dir

PAGES = Path(__file__).resolve().parents[2] / "book"
PARTS = {"LLaVA": range(7), "Cobra": range(7, 10), "MambaVision": range(10, 13), "Seeing inside": range(13, 16),
         "Scale": range(16, 100)}  # fmt: skip
APPENDIX = ("notation", "glossary", "references")
WIDGET = "application/vnd.jupyter.widget-view+json"
# What is no prose: code, formulas, links, tags, headings. A reference in it stays as it is.
_KEPT = r"(?P<kept>^```.*?^```|`[^`\n]+`|\$\$.*?\$\$|\$[^$\n]+\$|\[[^]]*\]\([^)]*\)|<[^>\n]+>|^#+ [^\n]*)"
_CHAPTERS = r"(?P<chapters>\b(?:[Cc]hapter|[Nn]otebook)s?\s\d\d(?:(?:,\s|\sand\s|\sto\s)\d\d\b)*|(?<=Next: )\d\d)"
_PROSE = re.compile(f"{_KEPT}|{_CHAPTERS}", re.DOTALL | re.MULTILINE)
_CHAPTER_LINK = re.compile(r"\[([^]]*)\]\((?:\./)?(\d\d_\w+)\.ipynb\)")
_ARXIV_LINK = re.compile(r"\[[^]]*\]\(https://arxiv\.org/abs/(\d{4}\.\d{4,5})\)")


@dataclass(frozen=True)
class Book:
    """A built book: its folder, its chapters in order, and what Sphinx found wrong (nothing in a good one)."""

    folder: Path
    chapters: list[str]
    problems: list[str]


def build(target: Path, notebooks: Path | None = None) -> Book:
    """Build the site in the folder `target` from the .ipynb of the folder `notebooks` (default: the project's).

    Raises BadInput when there are no chapters or `target` holds something that is no book, MissingDependency without
    Sphinx.
    """
    for package in ("sphinx", "myst_nb", "furo", "sphinxcontrib.bibtex"):
        if find_spec(package.split(".")[0]) is None or find_spec(package) is None:
            raise MissingDependency(package, "vlmlab book", "make setup")
    folder, target = notebooks or notebooks_dir(), target.resolve()
    paths = sorted(folder.glob("[0-9][0-9]_*.ipynb"))
    if not paths or not PAGES.is_dir():
        raise BadInput(f"no chapters in {folder}, or no pages in {PAGES}; run this from a clone of the project")
    if target.exists() and not (target.is_dir() and (not any(target.iterdir()) or _is_book(target))):
        raise BadInput(f"{target} is not a book of vlmlab; name another folder with --out, or remove it")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent) as work:
        staged, site = Path(work) / "source", Path(work) / "site"
        stage(paths, staged)
        problems = _sphinx(staged, site, Path(work) / "doctrees")
        if (site / "index.html").is_file():
            shutil.rmtree(target, ignore_errors=True)
            site.rename(target)
    return Book(target, [path.stem for path in paths], problems)


def _is_book(folder: Path) -> bool:
    """Whether Sphinx wrote the folder for this project: the head of objects.inv says so."""
    inventory = folder / "objects.inv"
    return inventory.is_file() and b"# Project: vlmlab\n" in inventory.read_bytes()[:200]


def stage(paths: list[Path], folder: Path) -> None:
    """Write what Sphinx reads into a new folder: the pages of book/, the prepared chapters, the table of contents."""
    shutil.copytree(PAGES, folder, ignore=shutil.ignore_patterns("__pycache__"))
    chapters = {path.stem[:2]: path.stem for path in paths}
    papers = arxiv_keys(folder / "references.bib")
    for page in folder.glob("*.md"):
        page.write_text(linked(page.read_text(encoding="utf-8"), chapters, papers), encoding="utf-8")
    for path in paths:
        others = {number: name for number, name in chapters.items() if name != path.stem}
        nbformat.write(prepared(nbformat.read(path, as_version=4), others, papers), folder / path.name)
    with (folder / "index.md").open("a", encoding="utf-8") as index:
        for part, numbers in PARTS.items():
            index.write(_contents(part, [name for number, name in chapters.items() if int(number) in numbers]))
        index.write(_contents("Reference", list(APPENDIX)))


def _contents(caption: str, names: list[str]) -> str:
    listed = "\n".join(names)
    return f"\n```{{toctree}}\n:caption: {caption}\n:maxdepth: 1\n\n{listed}\n```\n" if names else ""


def arxiv_keys(bibliography: Path) -> dict[str, str]:
    """arXiv number -> key of the entry in a .bib file. Raises BadInput for a number that two entries carry."""
    from pybtex.database import parse_file

    keys: dict[str, str] = {}
    for key, entry in parse_file(str(bibliography)).entries.items():
        number = entry.fields.get("eprint")
        if number in keys:
            raise BadInput(f"{bibliography}: {key} and {keys[number]} are both arXiv {number}; keep one of them")
        if number:
            keys[number] = key
    return keys


def prepared(notebook: NotebookNode, chapters: Mapping[str, str], papers: Mapping[str, str]) -> NotebookNode:
    """A chapter for Sphinx: prose with its references linked, outputs that load nothing, widgets without their script.

    chapters: number ("07") -> name of every other chapter of the book. papers: arXiv number -> key.
    """
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = linked(cell.source, chapters, papers)
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            data.pop(WIDGET, None)
            if "text/html" in data:
                data["text/html"] = offline(data["text/html"])
    return notebook


def linked(text: str, chapters: Mapping[str, str], papers: Mapping[str, str]) -> str:
    """Markdown in which "chapter 07" is a link, as far as the book has it, and an arXiv number cites its entry."""

    def number(found: re.Match[str]) -> str:
        name = chapters.get(found["number"])
        return f"[{found[0]}]({name}.ipynb)" if name else found[0]

    def reference(found: re.Match[str]) -> str:
        if found["chapters"]:
            return re.sub(r"(?:\b[CcNn]\w+\s)?(?P<number>\d\d)", number, found["chapters"])
        if chapter := _CHAPTER_LINK.fullmatch(found["kept"]):
            return found["kept"] if chapter[2] in chapters.values() else chapter[1]
        paper = _ARXIV_LINK.fullmatch(found["kept"])
        return f"{found['kept']} {{cite}}`{papers[paper[1]]}`" if paper and paper[1] in papers else found["kept"]

    return _PROSE.sub(reference, text)


def _sphinx(source: Path, site: Path, doctrees: Path) -> list[str]:
    """Run Sphinx in a process of its own, for it leaves its mark on docutils; return its warnings."""
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--no-color", "-b", "html", "-d", str(doctrees)]
    done = subprocess.run(
        [*command, str(source), str(site)],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONHASHSEED": "0", "PYTHONUTF8": "1"},
    )
    said = [line.replace(f"{source}{os.sep}", "").strip() for line in done.stderr.splitlines() if line.strip()]
    return (said or [f"Sphinx ended with status {done.returncode}"]) if done.returncode else []
