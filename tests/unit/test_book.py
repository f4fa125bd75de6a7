"""The book's sources: chapters in place, references that lead somewhere, papers, symbols and terms that are there."""

import json
import re
from collections import defaultdict
from functools import cache
from pathlib import Path
from urllib.parse import unquote

import nbformat
import pytest
from pybtex.database import parse_file

from vlmlab import cli
from vlmlab.commands import book as command
from vlmlab.errors import BadInput, MissingDependency
from vlmlab.notebooks import book, source

ROOT = Path(__file__).resolve().parents[2]
SOURCES = {f"{item.number:02d}": item for item in source.available()}
PAPERS = parse_file(str(book.PAGES / "references.bib")).entries
TEXTS = {
    path: re.sub(r"\s*\n\s*#?\s*", " ", path.read_text(encoding="utf-8"))
    for path in [item.path for item in SOURCES.values()] + sorted((ROOT / "vlmlab").rglob("*.py"))
}
_NAME = r"[A-Z][\w'’-]+"
CITED = re.compile(
    rf"(?<!\w)(?:{_NAME}(?:, and |, | and | & ))*{_NAME}(?: et al\.?)?,? \(?((?:19\d|20[012])\d)\b(?!\.\d)"
)
ARXIV = re.compile(r"(?<![\d.])((?:0[7-9]|1[0-4])\d\d\.\d{4}|(?:1[5-9]|2\d)\d\d\.\d{5})(?![\d.]*\d)")
CHAPTERS = {"07": "07_scan", "08": "08_cobra", "13": "13_states"}


# ---------------------------------------------------------------------- prose
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("see chapter 07.", "see [chapter 07](07_scan.ipynb)."),
        ("Chapter 08's mask", "[Chapter 08](08_cobra.ipynb)'s mask"),
        ("in notebook\n07, then", "in [notebook\n07](07_scan.ipynb), then"),
        ("chapters 07 and 13", "[chapters 07](07_scan.ipynb) and [13](13_states.ipynb)"),
        ("chapters 07, 09 and 08", "[chapters 07](07_scan.ipynb), 09 and [08](08_cobra.ipynb)"),
        ("Next: 07, the scan.", "Next: [07](07_scan.ipynb), the scan."),
        ("chapter 09 and chapter 1", "chapter 09 and chapter 1"),
        ("`chapter 07` and $7^{07}$", "`chapter 07` and $7^{07}$"),
        ("```\nchapter 07\n```\nchapter 07", "```\nchapter 07\n```\n[chapter 07](07_scan.ipynb)"),
        ("## 1. Chapter 07", "## 1. Chapter 07"),
        ("[chapter 07](07_scan.ipynb)", "[chapter 07](07_scan.ipynb)"),
        ("[01 · Seeing](01_seeing.ipynb)", "01 · Seeing"),
        ("[the page](https://example.org/chapter)", "[the page](https://example.org/chapter)"),
        (
            "[arXiv\n2312.00752](https://arxiv.org/abs/2312.00752)",
            "[arXiv\n2312.00752](https://arxiv.org/abs/2312.00752) {cite}`gu`",
        ),
        ("[arXiv 1](https://arxiv.org/abs/2403.14520)", "[arXiv 1](https://arxiv.org/abs/2403.14520)"),
    ],
)
def test_references_in_prose_become_links(text, expected):
    assert book.linked(text, CHAPTERS, {"2312.00752": "gu"}) == expected


def test_every_source_belongs_to_one_part():
    for number in SOURCES:
        assert sum(int(number) in numbers for numbers in book.PARTS.values()) == 1


def test_two_entries_of_one_paper_are_refused(tmp_path):
    entry = "@misc{{{}, title = {{T}}, eprint = {{2312.00752}}}}\n"
    (tmp_path / "a.bib").write_text(entry.format("one") + entry.format("two"))
    with pytest.raises(BadInput, match=r"two and one are both arXiv 2312\.00752"):
        book.arxiv_keys(tmp_path / "a.bib")


# ---------------------------------------------------------------------- the book
@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The whole book, as `vlmlab book` builds it."""
    return book.build(tmp_path_factory.mktemp("book") / "site")


def test_sphinx_finds_nothing_wrong(built):
    assert built.problems == []
    assert built.chapters == sorted(path.stem for path in source.notebooks_dir().glob("[0-9]*.ipynb"))


def test_the_contents_list_every_chapter_once_and_in_order(built):
    body = re.search(r"<article.*</article>", (built.folder / "index.html").read_text(), re.DOTALL)
    assert body
    listed = re.findall(r'<li class="toctree-l1"><a[^>]*href="(\w+)\.html"', body[0])
    assert listed == [*built.chapters, *book.APPENDIX]


def test_every_link_within_the_book_leads_to_a_place(built):
    pages = {path.name: path.read_text(encoding="utf-8") for path in built.folder.glob("*.html")}
    places = {name: set(re.findall(r'\bid="([^"]*)"', text)) for name, text in pages.items()}
    between = 0
    for name, text in pages.items():
        for address in re.findall(r'<a\b[^>]*\bhref="([^"]*)"', text):
            if re.match(r"https?:", address):
                continue
            page, _, place = unquote(address).partition("#")
            page = page or name
            assert page in pages, f"{name} links to {address}"
            assert not place or place in places[page], f"{name} links to {address}"
            between += name in {f"{chapter}.html" for chapter in built.chapters} and page == "references.html"
    assert between > len(built.chapters)


# ---------------------------------------------------------------------- faults
@pytest.fixture
def chapters(tmp_path):
    """`chapters(text, ...)` makes a folder of chapters of one markdown cell each."""

    def make(*texts: str) -> Path:
        folder = tmp_path / "notebooks"
        folder.mkdir()
        for number, text in enumerate(texts):
            cell = nbformat.v4.new_markdown_cell(text, id="a")
            notebook = nbformat.v4.new_notebook(cells=[cell])
            notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
            nbformat.write(notebook, folder / f"{number:02d}_x.ipynb")
        return folder

    return make


def test_faults_of_a_chapter_are_named_with_their_place(chapters, tmp_path):
    folder = chapters("# 00 · A\n\nA [place](#nowhere) and {cite}`nobody`.", "# 01 · B\n\n$\\nosuchcommand{x}$, $x^2$")
    found = book.build(tmp_path / "site", folder)
    assert len(found.problems) == 3, found.problems
    for what in (r"00_x\.ipynb.*nowhere", r"00_x\.ipynb.*nobody", r"01_x\.ipynb.*no MathML.*nosuchcommand"):
        assert sum(bool(re.search(what, problem)) for problem in found.problems) == 1, found.problems
    assert str(tmp_path) not in "".join(found.problems)
    assert (tmp_path / "site" / "01_x.html").is_file()
    (folder / "01_x.ipynb").unlink()
    assert book.build(tmp_path / "site", folder).problems == found.problems[:2]
    assert not (tmp_path / "site" / "01_x.html").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notebooks", "site"]


def test_a_folder_that_is_no_book_stays_and_without_chapters_there_is_none(chapters, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "objects.inv").write_text("# Sphinx inventory version 2\n# Project: thesis\n")
    with pytest.raises(BadInput, match="is not a book of vlmlab"):
        book.build(tmp_path / "mine", chapters("# 00 · A"))
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["objects.inv"]
    with pytest.raises(BadInput, match="no chapters in"):
        book.build(tmp_path / "site", tmp_path)


def test_without_sphinx_the_error_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(book, "find_spec", lambda package: None)
    with pytest.raises(MissingDependency, match=r"vlmlab book needs the package 'sphinx'; install it with: make setup"):
        book.build(tmp_path / "site")


def test_the_command_prints_what_is_wrong_and_fails(monkeypatch, tmp_path, capfd):
    problems: list[str] = []
    monkeypatch.setattr("vlmlab.notebooks.book.build", lambda folder: book.Book(folder, ["00_a"], problems))
    assert command.book.__doc__
    assert cli.main(["book", "--out", str(tmp_path), "--json"]) == 0
    assert json.loads(capfd.readouterr().out) == {"folder": str(tmp_path), "chapters": ["00_a"], "problems": []}
    problems.append("00_a.ipynb:1: WARNING: [x]")
    assert cli.main(["book", "--out", str(tmp_path)]) == 1
    out, err = capfd.readouterr()
    assert out == f"1 chapters: {tmp_path}/index.html\n"
    assert err == "00_a.ipynb:1: WARNING: [x]\n"


# ---------------------------------------------------------------------- papers
def years(entry) -> set[str]:
    """The year of the publication and, where there is one, of the preprint: texts name either."""
    return {entry.fields["year"], "20" + entry.fields.get("eprint", entry.fields["year"][2:])[:2]}


def papers_named(cited: re.Match[str]) -> set[str]:
    """Keys of the papers that "Gu and Dao 2023" may mean."""
    names = set(re.findall(_NAME, cited[0]))
    return {
        key
        for key, entry in PAPERS.items()
        if entry.persons["author"][0].last_names[-1].split()[-1] in names and cited[1] in years(entry)
    }


def test_papers_that_are_named_are_in_the_bibliography():
    numbers = {entry.fields.get("eprint") for entry in PAPERS.values()}
    for path, text in TEXTS.items():
        missing = [number for number in ARXIV.findall(text) if number not in numbers]
        missing += [cited[0] for cited in CITED.finditer(text) if "Xiv" not in cited[0] and not papers_named(cited)]
        assert not missing, f"{path.relative_to(ROOT)} names papers that book/references.bib lacks: {missing}"


def test_every_paper_of_the_bibliography_is_named():
    text = " ".join(TEXTS.values())
    named = {key for cited in CITED.finditer(text) for key in papers_named(cited)}
    numbers = set(ARXIV.findall(text))
    assert not {key for key, entry in PAPERS.items() if entry.fields.get("eprint") not in numbers} - named


# ---------------------------------------------------------------------- symbols and terms
def symbols(cell: str) -> list[str]:
    """The symbols in a table's first cell: "$B$, $C$" are two, "$Z_v = W(H_v)$" is $Z_v$."""
    return [part.split("=")[0].strip() for tex in re.findall(r"\$([^$]+)\$", cell) for part in tex.split(", ")]


def rows(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|# ").split("|")] for line in text.splitlines() if "|" in line]


def test_every_symbol_of_a_chapter_is_in_the_notation():
    noted = defaultdict(set)
    for row in rows((book.PAGES / "notation.md").read_text(encoding="utf-8")):
        for symbol in symbols(row[0]):
            noted[symbol] |= set(re.findall(r"\d\d", row[-1]))
    checked = 0
    for number, item in SOURCES.items():
        table = re.search(r"^# \| symbol \|.*\n(?:# \|.*\n)+", item.path.read_text(encoding="utf-8"), re.MULTILINE)
        for row in rows(table[0]) if table else []:
            for symbol in symbols(row[0]):
                assert number in noted[symbol], f"book/notation.md lacks {symbol} of chapter {number}"
                checked += 1
    assert checked > 40


def glossary() -> list[tuple[list[str], str]]:
    """(term and its other names, definition) of every entry."""
    text = (book.PAGES / "glossary.md").read_text(encoding="utf-8").split(":::{glossary}\n")[1].rsplit(":::", 1)[0]
    entries = []
    for entry in text.strip().split("\n\n"):
        lines = entry.splitlines()
        entries.append(([line for line in lines if line[0] != " "], " ".join(line for line in lines if line[0] == " ")))
    return entries


def plain(text: str) -> str:
    return re.sub(r"[\s*-]+", " ", text).lower()


@cache
def prose(number: str) -> str:
    cells = source.read(SOURCES[number]).cells
    return plain(" ".join(cell.source for cell in cells if cell.cell_type == "markdown"))


@pytest.mark.parametrize("entry", glossary(), ids=lambda entry: entry[0][0])
def test_a_term_occurs_in_the_chapters_that_its_entry_names(entry):
    names, meaning = entry
    numbers = re.findall(r"[Cc]hapter (\d\d)", meaning)
    assert numbers
    for number in set(numbers) & SOURCES.keys():
        found = any(plain(name).removesuffix("s") in prose(number) for name in names)
        assert found, f"{names[0]} is not in chapter {number}"


def test_the_glossary_is_in_order_and_has_no_term_twice():
    terms = [names[0].lower() for names, _ in glossary()]
    assert terms == sorted(terms)
    every = [name for names, _ in glossary() for name in names]
    assert len(every) == len(set(every))
