"""Tiny notebooks for the strict runner's tests."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_notebooks import PARAMETERS, percent


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """`write("01_name", "cell", ...)` adds a notebook; returns the notebooks folder."""

    def add(name: str, *cells: str, parameters: str | None = PARAMETERS) -> Path:
        folder = tmp_path / "notebooks"
        (folder / "src").mkdir(parents=True, exist_ok=True)
        (folder / "src" / f"{name}.py").write_text(percent(*cells, parameters=parameters))
        return folder

    return add
