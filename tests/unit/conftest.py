"""What tests of several chapters ask alike: of a check, its one line; of a figure, a small readable picture."""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from vlmlab import figures
from vlmlab.checks.base import Verdict
from vlmlab.figures import base


@pytest.fixture
def judged(capsys: pytest.CaptureFixture) -> Callable[..., Verdict]:
    """judged(check, answer, *more): the verdict, after looking at the one line that was printed."""

    def judge(check: Callable[..., Verdict], *arguments: Any) -> Verdict:
        verdict = check(*arguments)
        printed = capsys.readouterr().out
        assert printed == f"{verdict}\n"  # one line
        assert printed.startswith("[ok] " if verdict.ok else "[not yet] ")
        assert bool(verdict) is verdict.ok
        return verdict

    return judge


@pytest.fixture
def readable_png() -> Callable[[Figure], bytes]:
    """readable_png(fig): the figure's bytes, after looking whether they are a small picture that shows something."""

    def look(fig: Figure) -> bytes:
        assert isinstance(fig, Figure)
        data = figures.png(fig)
        with Image.open(io.BytesIO(data)) as picture:
            assert picture.format == "PNG"
            assert picture.width <= base.WIDTH * base.DPI + 2
            assert min(picture.size) > 40
            assert np.asarray(picture.convert("L")).std() > 2  # not blank
        assert len(data) < 100_000
        return data

    return look
