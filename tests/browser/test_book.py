"""The book in a browser without network, read from files: links, search, formulas, widgets, pictures, accessibility."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import nbformat
import pytest
from axe_playwright_python.sync_playwright import Axe

from browser.harness import until, watched_page
from vlmlab.notebooks import book, notebooks_dir

if TYPE_CHECKING:
    from playwright.sync_api import Page

CHAPTERS = ("00_start_here", "01_seeing")
PAGES = ("00_start_here", "15_widget", "index", "notation", "glossary", "references", "genindex", "search")
DARK = ("00_start_here", "index", "glossary")
LOOKS = [(name, "light") for name in PAGES] + [(name, "dark") for name in DARK]
# preload reads style sheets again by a request that a browser refuses on file://; the rules here do without.
RULES = {
    "runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"],
    "resultTypes": ["violations"],
    "preload": False,
}
WIDGET = "0" * 32
STATE = {"model_name": "IntSliderModel", "model_module": "@jupyter-widgets/controls", "model_module_version": "2.0.0"}
FIGURE = (
    '<figure><img alt="a dot" src="data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk'
    '+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="></figure><table><caption>Answers</caption><tr><th scope="col">yes</th></tr>'
    '<tr><td>0.5</td></tr></table><script src="https://example.org/widgets.js"></script>'
)
BELOW = "(node) => node.children[1].getBoundingClientRect().top - node.children[0].getBoundingClientRect().bottom"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A book of two chapters, and of one that holds a widget's model and a script from elsewhere."""
    folder = tmp_path_factory.mktemp("book")
    notebooks = folder / "notebooks"
    notebooks.mkdir()
    for name in CHAPTERS:
        shutil.copy(notebooks_dir() / f"{name}.ipynb", notebooks)
    data = {book.WIDGET: {"model_id": WIDGET, "version_major": 2, "version_minor": 0}, "text/html": FIGURE}
    cell = nbformat.v4.new_code_cell("show()", outputs=[nbformat.v4.new_output("display_data", data=data)], id="b")
    text = nbformat.v4.new_markdown_cell("# 15 · A widget\n\n$$\\frac{a}{b}$$\n\nAs in chapter 01.", id="a")
    planted = nbformat.v4.new_notebook(cells=[text, cell])
    planted.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    planted.metadata["widgets"] = {
        "application/vnd.jupyter.widget-state+json": {
            "version_major": 2, "version_minor": 0, "state": {WIDGET: {**STATE, "state": {}}}}
    }  # fmt: skip
    nbformat.write(planted, notebooks / "15_widget.ipynb")
    built = book.build(folder / "site", notebooks)
    assert built.problems == []
    return built.folder


@pytest.fixture
def page(chromium, site: Path) -> "Iterator[Page]":
    """A page that may ask for the book's files only; at the end it asked for no more and complained of nothing."""
    with watched_page(chromium, f"{site.as_uri()}/") as (opened, watch):
        yield opened
        watch.check()


def violations(page: "Page") -> list[str]:
    """What axe finds against WCAG 2 A and AA, one line an element."""
    found = Axe().run(page, options=RULES).response["violations"]
    return [f"{rule['id']}: {node['html'][:200]}" for rule in found for node in rule["nodes"]]


def test_axe_finds_what_is_wrong(page):
    page.set_content("<html><body><img src='data:,'><p style='color: #ccc'>pale</p></body></html>")
    rules = {line.split(":")[0] for line in violations(page)}
    assert rules == {"color-contrast", "document-title", "html-has-lang", "image-alt"}


@pytest.mark.parametrize(("name", "scheme"), LOOKS, ids=map("-".join, LOOKS))
def test_a_page_is_accessible(page, site, name, scheme):
    page.emulate_media(color_scheme=scheme)
    page.goto(f"{(site / name).as_uri()}.html" + ("?q=patch" if name == "search" else ""))
    page.evaluate("for (const part of document.querySelectorAll('details')) part.open = true")
    assert violations(page) == []
    pictures = page.locator("img").evaluate_all(
        "(all) => all.map((one) => [one.alt.trim(), one.complete && one.naturalWidth > 0])"
    )
    assert all(alt and loaded for alt, loaded in pictures), pictures
    assert bool(pictures) == (name[:2].isdigit())
    wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wide <= 0, f"the page is {wide} pixels wider than the window"


def test_search_finds_a_term_and_leads_to_it(page, site):
    page.goto((site / "index.html").as_uri())
    page.get_by_role("textbox", name="Search").fill("zero-shot")
    page.keyboard.press("Enter")
    page.wait_for_url("**/search.html?q=zero-shot*")
    results = page.locator("#search-results")
    until(lambda: "01 · Seeing" in results.inner_text(), "the chapter is not found")
    assert "00 · Start" not in results.inner_text()
    results.get_by_role("link", name="01 · Seeing").click()
    page.wait_for_url("**/01_seeing.html*")


def test_search_for_what_is_nowhere_finds_nothing(page, site):
    page.goto((site / "search.html").as_uri() + "?q=zygodactyl")
    until(lambda: "did not match any documents" in page.locator("#search-results").inner_text(), "no word of it")


def test_chapters_papers_and_terms_lead_to_one_another(page, site):
    page.goto((site / "15_widget.html").as_uri())
    page.locator("article").get_by_role("link", name="chapter 01").click()
    page.wait_for_url("**/01_seeing.html")
    page.locator("article").get_by_role("link", name="DBK", exact=False).first.click()
    page.wait_for_url("**/references.html#*")
    assert "an image is worth 16x16 words" in page.locator(":target").inner_text().lower()
    page.get_by_role("link", name="Glossary").first.click()
    page.wait_for_url("**/glossary.html")
    assert page.locator("dt#term-position-embedding + dd").get_by_role("link", name="Chapter 01").count() == 1


def test_formulas_are_drawn(page, site):
    page.goto((site / "15_widget.html").as_uri())
    assert page.locator("article math mfrac").evaluate(BELOW) >= 0
    page.goto((site / "00_start_here.html").as_uri())
    assert page.locator("article math").count() > 8
    shown = page.locator("article").evaluate(
        "(node) => { node = node.cloneNode(true); node.querySelectorAll('pre, code').forEach((each) => each.remove());"
        " return node.textContent }"
    )
    assert "$" not in shown
    assert "\\" not in shown


def test_a_widget_is_its_figure_and_its_table(page, site):
    page.goto((site / "15_widget.html").as_uri())
    article = page.locator("article")
    assert article.get_by_role("img").get_attribute("alt") == "a dot"
    assert article.get_by_role("table", name="Answers").locator("td").all_inner_texts() == ["0.5"]
    assert page.locator("script[type*=widget], script[src^=http], link[href^=http]").count() == 0


def test_what_scrolls_can_be_reached_by_keyboard_and_what_does_not_is_no_stop(page, site):
    page.goto((site / "01_seeing.html").as_uri())
    stops = "(all) => all.map((one) => [one.scrollWidth > one.clientWidth, one.tabIndex === 0])"
    page.set_viewport_size({"width": 500, "height": 900})
    parts = page.locator("article pre")
    until(lambda: all(wide == stop for wide, stop in parts.evaluate_all(stops)), "stops do not follow the window")
    assert {wide for wide, _ in parts.evaluate_all(stops)} == {True, False}
