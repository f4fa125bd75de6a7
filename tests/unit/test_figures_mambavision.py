"""Figures of MambaVision's chapter: drawn small and readable, wrong arguments refused."""

import pytest
from matplotlib.figure import Figure

from vlmlab import figures
from vlmlab.errors import BadInput
from vlmlab.figures import mambavision

MAPS = dict.fromkeys(mambavision.MAPS, "640 · 56 x 56")
STEPS = dict.fromkeys(mambavision.STEPS, "(64, 128)")

DRAWN = {
    "levels": lambda: mambavision.levels({"T": MAPS, "tiny": MAPS}, [(4, 4), (2, 2)], title="MambaVision"),
    "levels of one model": lambda: mambavision.levels({"T": MAPS}, [(6, 5), (2, 2)]),
    "mixer": lambda: mambavision.mixer(STEPS, title="the mixer"),
}


@pytest.mark.parametrize("name", DRAWN)
def test_each_figure_is_a_small_readable_png(name: str, readable_png) -> None:
    assert readable_png(DRAWN[name]()) == figures.png(DRAWN[name]())


def texts(fig: Figure) -> str:
    return " ".join(text.get_text() for axes in fig.axes for text in axes.texts)


def test_the_diagrams_show_what_they_are_given() -> None:
    maps = {name: f"<{name}>" for name in MAPS}
    whole = texts(mambavision.levels({"one": maps, "other": MAPS}, [(6, 5), (3, 2)]))
    assert all(f"<{name}>" in whole for name in MAPS)
    assert all(word in whole for word in ("one", "other", "scan\n× 6", "attention\n× 5", "scan\n× 3", "attention\n× 2"))
    mixer = texts(mambavision.mixer({name: f"<{name}>" for name in STEPS}))
    assert all(f"<{name}>" in mixer for name in STEPS)


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: mambavision.levels({}, [(1, 1), (1, 1)]), "at least one model"),
        (lambda: mambavision.levels({"T": MAPS}, [(1, 1)]), "two levels"),
        (lambda: mambavision.levels({"T": {"stem": "x"}}, [(1, 1), (1, 1)]), "lacks the shapes of level 0"),
        (lambda: mambavision.mixer({}), "lacks the shapes of x, u"),
    ],
)
def test_wrong_arguments_are_refused(draw, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        draw()
