"""The committed notebooks: each .ipynb is its source with the quick profile's outputs, and no more than that."""

import nbformat
import pytest

from vlmlab.notebooks import source, strict, tidy

NOTEBOOKS = source.available()


def test_every_notebook_has_a_source():
    folder = source.notebooks_dir()
    assert {path.stem for path in folder.glob("*.ipynb")} == {item.name for item in NOTEBOOKS}


@pytest.mark.parametrize("item", NOTEBOOKS, ids=lambda item: item.name)
def test_the_pair_agrees_and_is_clean(item):
    assert item.paired.is_file(), f"run: vlmlab run {item.number:02d} --update"
    text = item.paired.read_text(encoding="utf-8")
    notebook = nbformat.reads(text, as_version=4)
    nbformat.validate(notebook)
    written = source.read(item)
    assert tidy.same_inputs(notebook, written), f"the pair differs; run: vlmlab run {item.number:02d} --update"
    assert [cell.id for cell in notebook.cells] == [cell.id for cell in written.cells]
    assert tidy.to_text(tidy.tidy(notebook)) == text, "written by hand or by an editor; run with --update"
    assert len(text.encode()) <= tidy.MAX_BYTES
    assert strict.not_run(notebook) == []
    assert strict.cell_errors(notebook) == []
    assert strict.unexpected_stderr(notebook, []) == []
    assert strict.missing_alt(notebook) == []


@pytest.mark.parametrize("item", NOTEBOOKS, ids=lambda item: item.name)
def test_the_source_can_be_run_strictly(item):
    notebook = source.read(item)
    defaults = source.parameters(notebook)
    assert defaults["profile"] == "quick"
    assert source.reassignments(notebook, list(defaults)) == []
