"""Figures: arrays in, one small PNG out, alt text always there, bad arrays refused, nothing left open."""

import base64
import io
import re
import sys

import numpy as np
import pytest
from PIL import Image

from vlmlab import figures
from vlmlab.errors import BadInput
from vlmlab.figures import base, curves, tokens

RNG = np.random.default_rng(0)
PICTURE = RNG.integers(0, 255, (24, 24, 3), dtype=np.uint8)
MASK = RNG.integers(0, 3, (24, 24))

DRAWN = {
    "pictures": lambda: figures.pictures(
        [PICTURE, MASK, RNG.random((24, 24)), PICTURE / 255],
        ["picture", "mask", "depth", "float"],
        ["a long note that has to be wrapped", "b", "c", "d"],
        boxes=[None, None, None, [(2, 3, 10, 12)]],
        labels=[(), (), (), ["cat"]],
        right=[True, False, True, True],
        title="all",
    ),
    "patch_grid": lambda: figures.patch_grid(PICTURE, 6, marked=[3], numbers=True, title="patches"),
    "patches": lambda: figures.patches(RNG.random((7, 4, 4, 3)), title="apart"),
    "overlay": lambda: figures.overlay([PICTURE] * 2, RNG.random((2, 4, 4)), ["a", "b"], label="attention"),
    "matrix": lambda: figures.matrix(RNG.random((3, 4)), list("abc"), ["left", "right", "front", "behind the sofa"]),
    "matrix with pictures": lambda: figures.matrix(
        RNG.random((2, 2)) - 0.5,
        signed=True,
        row_pictures=[PICTURE] * 2,
        column_pictures=[PICTURE] * 2,
        marked=[(0, 0)],
    ),
    "heatmaps": lambda: figures.heatmaps(RNG.random((7, 4, 4)), list("abcdefg"), marked=[(0, 1)] * 7, title="maps"),
    "position_similarity": lambda: figures.position_similarity(np.corrcoef(RNG.random((16, 9)))),
    "losses": lambda: figures.losses({"a": RNG.random(60), "b": ([0, 10, 20], [3, 2, 1])}, chance=1.0, log=True),
    "bars": lambda: figures.bars(
        ["x", "y"],
        {"model": [0.9, np.nan], "blind": [0.5, 0.4]},
        intervals={"model": [(0.8, 0.95), (0.1, 0.2)]},
        baselines={"chance": 0.25},
        percent=True,
    ),
    "token_strip": lambda: figures.token_strip(
        ["<s>", "A", " cat", "\n", *["<image>"] * 9, " yes"],
        ["special", *["text"] * 3, *["image"] * 9, "loss"],
        title="mask",
    ),
    "token_strip with values": lambda: figures.token_strip(list("abc"), values=[0.1, 0.2, 0.9], value_label="loss"),
    "blocks": lambda: figures.blocks(
        [("ids", [("text", 6, "text"), ("", 1, "image")]), ("spliced", [("text", 6, "text"), ("Z_v", 64, "image")])],
        notes=["(1, 7)", "(1, 70, 192)"],
    ),
}


@pytest.mark.parametrize("name", DRAWN)
def test_each_figure_is_a_small_readable_png(name: str, readable_png) -> None:
    readable_png(DRAWN[name]())


def test_the_line_of_chance_is_named_where_it_hides_nothing() -> None:
    alone, many = (figures.losses(runs, chance=1.0).axes[0] for runs in ({"a": [3, 2]}, {"a": [3, 2], "b": [2, 1]}))
    assert [text.get_text().strip() for text in alone.texts] == ["chance"]
    assert alone.get_legend() is None
    assert not many.texts
    assert [text.get_text() for text in many.get_legend().get_texts()] == ["a", "b", "chance"]


def test_the_same_figure_gives_the_same_bytes() -> None:
    draw = lambda: figures.png(figures.losses({"run": np.arange(50.0)}))  # noqa: E731
    assert draw() == draw()


def test_a_large_figure_is_reduced_to_a_palette() -> None:
    noisy = np.random.default_rng(1).integers(0, 255, (300, 300, 3), dtype=np.uint8)
    with Image.open(io.BytesIO(figures.png(figures.pictures([noisy, noisy, noisy])))) as picture:
        assert picture.mode == "P"


def test_alt_text_and_caption_are_escaped() -> None:
    html = figures.figure_html(DRAWN["patches"](), 'a "quoted" <b>\n finding', "5 < 6 & <script>")
    assert html.startswith("<figure")
    assert 'alt="a &quot;quoted&quot; &lt;b&gt; finding"' in html
    assert "<figcaption>5 &lt; 6 &amp; &lt;script&gt;</figcaption>" in html
    encoded = re.search(r'src="data:image/png;base64,([^"]+)"', html)
    assert encoded
    assert base64.b64decode(encoded[1]).startswith(b"\x89PNG")
    assert "http" not in html.split("base64,")[0]


@pytest.mark.parametrize("alt", ["", "   ", None])
def test_a_figure_without_alt_text_is_refused(alt: str | None) -> None:
    with pytest.raises(BadInput, match="alt text"):
        figures.figure_html(DRAWN["patches"](), alt)


def test_show_displays_html_and_closes_a_pyplot_figure(capsys: pytest.CaptureFixture) -> None:
    from matplotlib import pyplot

    fig = pyplot.figure()
    fig.subplots().plot([1, 2])
    figures.show(fig, "a rising line")
    assert pyplot.get_fignums() == []
    assert "HTML" in capsys.readouterr().out


def test_the_style_stays_inside() -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    DRAWN["bars"]()
    assert dict(matplotlib.rcParams) == before


def test_no_model_is_imported() -> None:
    import subprocess

    code = (
        "import sys; import vlmlab.figures; print([m for m in sys.modules if m.startswith(('vlmlab.v', 'vlmlab.l'))])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.strip() == "[]"


@pytest.mark.parametrize(
    "draw",
    [
        lambda: figures.pictures([]),
        lambda: figures.pictures([np.zeros((3, 4, 5))]),
        lambda: figures.patches(PICTURE),
        lambda: figures.matrix(np.zeros(4)),
        lambda: figures.matrix(np.zeros((0, 3))),
        lambda: figures.position_similarity(np.zeros((15, 15))),
        lambda: figures.losses({}),
        lambda: figures.bars([], {}),
        lambda: figures.bars(["a"], {"m": [1, 2]}),
        lambda: figures.token_strip(["a", "b"], ["text"]),
        lambda: figures.blocks([]),
        lambda: figures.table_html(["a"], [[1, 2]]),
    ],
)
def test_arrays_of_a_wrong_shape_are_refused(draw) -> None:
    with pytest.raises(BadInput):
        draw()


def test_colours_can_be_told_apart() -> None:
    from matplotlib.colors import to_rgb

    def luminance(colour: str) -> float:
        values = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour))
        return sum(w * v for w, v in zip((0.2126, 0.7152, 0.0722), values, strict=True))

    assert len(set(figures.COLOURS)) == len(figures.COLOURS) >= 7
    for colour in figures.COLOURS:
        on = luminance(base.text_colour(colour))
        light, dark = max(on, luminance(colour)), min(on, luminance(colour))
        assert (light + 0.05) / (dark + 0.05) > 3.5  # text on a coloured ground


def test_smoothing_starts_without_bias_and_ends_near_the_mean() -> None:
    assert curves.smoothed([4.0, 4.0, 4.0], 0.9).tolist() == pytest.approx([4.0, 4.0, 4.0])
    assert curves.smoothed([1.0, 3.0], 0.0).tolist() == [1.0, 3.0]
    assert curves.smoothed(np.r_[np.zeros(50), np.ones(200)], 0.9)[-1] == pytest.approx(1, abs=1e-3)


def test_tokens_are_made_visible_and_long_runs_folded() -> None:
    assert [tokens.visible(t) for t in (" a", "\n", "", "cat")] == ["·a", "↵", "∅", "cat"]
    folded = tokens._folded(["x"] * 9 + ["y"], ["text"] * 10, None, 6)
    assert [text for text, _, _ in folded] == ["x", "x", "… 9 in all …", "x", "y"]


def test_a_table_escapes_what_a_model_says() -> None:
    html = figures.table_html(["said", "n", "right"], [["<img src=x>", 0.12345, True]], "a & b")
    assert "&lt;img src=x&gt;" in html
    assert "0.123" in html
    assert ">yes<" in html
    assert "a &amp; b" in html
    assert 'scope="col"' in html
