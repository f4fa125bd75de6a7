"""A real browser: Chromium driven by Playwright, JupyterLab beside it, and nothing else on the network."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from browser import harness

if TYPE_CHECKING:
    from playwright.sync_api import Browser

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Without a browser each test that needs one is skipped under its own name."""
    if harness.find_browser() is not None:
        return
    why = "no browser; apt-get install chromium, or name one in VLMLAB_BROWSER"
    for item in items:
        if HERE in item.path.parents and "chromium" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.skip(reason=f"{item.name}: {why}"))


@pytest.fixture(scope="module")
def chromium() -> "Iterator[Browser]":
    """One browser for the tests of a file; its event loop must have ended when other files' tests begin."""
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = harness.launch(playwright, harness.find_browser())
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[harness.Lab]:
    """One JupyterLab for the tests of a file."""
    with harness.jupyterlab(tmp_path_factory.mktemp("lab"), HERE.parents[1] / "notebooks") as server:
        yield server
