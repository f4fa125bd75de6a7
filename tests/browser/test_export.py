"""Exported notebooks in a browser without network: a page asks for nothing, its pictures load and are described."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import nbformat
import pytest

import vlmlab
from browser.harness import watched_page
from vlmlab import notebooks
from vlmlab.notebooks import page as pages
from vlmlab.notebooks.runner import Outcome
from vlmlab.scenes import sample
from vlmlab.widgets import Probe, showing

if TYPE_CHECKING:
    from playwright.sync_api import Page

SHIPPED = sorted((Path(__file__).parents[2] / "notebooks").glob("[0-9][0-9]_*.ipynb"))
SEED = 1
SOURCE = f"""# %% [markdown]
# # A probe
# %% tags=["parameters"]
profile = "quick"
seed = {SEED}
device = "cpu"
# %%
from vlmlab.scenes import sample
from vlmlab.widgets import Probe
from vlmlab.widgets.jobs import at_once
from vlmlab.widgets.probe_view import SpatialProbe

SpatialProbe(Probe(["llava-tiny"], sample(seed), device=device), at_once)
"""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a notebook that shows a widget, as `make notebooks` writes it."""
    folder = tmp_path_factory.mktemp("suite")
    (folder / "src").mkdir()
    (folder / "src/15_probe.py").write_text(SOURCE)
    suite = notebooks.run(folder=folder, report=folder / "report", budget=False)
    assert suite.passed, suite.outcomes[0].problems
    return folder / "report"


@pytest.fixture
def opened(chromium) -> "Iterator[tuple[Page, list[str]]]":
    """A page, and the addresses that it has asked for; at the end it has complained of nothing."""
    with watched_page(chromium) as (page, watch):
        yield page, watch.outside
        assert not watch.errors


def described(page: "Page") -> int:
    """How many pictures a page has; each is loaded and has alternative text."""
    pictures = page.locator("img").evaluate_all(
        "(all) => all.map((one) => [one.alt.trim(), one.complete && one.naturalWidth > 0])"
    )
    assert all(alt and loaded for alt, loaded in pictures), pictures
    return len(pictures)


def test_what_lies_beside_a_page_counts_as_asked_for(opened, tmp_path):
    page, asked = opened
    (tmp_path / "style.css").write_text("p { color: red }")
    (tmp_path / "page.html").write_text("<link rel='stylesheet' href='style.css'><p>red</p>")
    page.goto((tmp_path / "page.html").as_uri())
    assert asked == [(tmp_path / name).as_uri() for name in ("page.html", "style.css")]


def test_a_widget_leaves_its_figure_and_its_table(report, opened):
    page, asked = opened
    page.goto((report / "index.html").as_uri())
    page.get_by_role("link", name="15_probe").click()
    page.wait_for_url("**/15_probe.html")
    probe = Probe({"llava-tiny": vlmlab.load("llava-tiny", device="cpu")}, sample(SEED))
    probe.answering().run()
    told = showing.truth_text(probe)
    assert described(page) == 1
    assert page.get_by_role("img").get_attribute("alt").endswith(told)
    table = page.get_by_role("table", name=told)
    assert table.locator("thead th").all_inner_texts() == list(showing.COLUMNS)
    shown = [row.locator("th, td").all_inner_texts() for row in table.locator("tbody tr").all()]
    assert shown == [[" ".join(str(cell).split()) for cell in row] for row in showing.rows(probe)]
    assert not page.get_by_test_id("floor-plan").count()  # nothing that looks alive and is not
    assert page.get_by_text("as this cell left it").is_visible()
    assert asked == [(report / name).as_uri() for name in ("index.html", "15_probe.html")]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_notebook_is_whole_without_network(path, tmp_path, opened):
    page, asked = opened
    exported = tmp_path / f"{path.stem}.html"
    outcome = Outcome(path.stem, notebook=nbformat.read(path, as_version=4))
    exported.write_text(pages.notebook_page(outcome, [each.stem for each in SHIPPED]), encoding="utf-8")
    page.goto(exported.as_uri())
    described(page)
    assert page.locator("h1").first.is_visible()
    wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wide <= 0, f"the page is {wide} pixels wider than the window"
    assert asked == [exported.as_uri()]
