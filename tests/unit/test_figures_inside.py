"""Figures of what is inside a model: drawn small and readable, true to their arrays, alt texts that state planted
findings, wrong arguments refused."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from matplotlib.colors import to_hex

from vlmlab import figures
from vlmlab.errors import BadInput
from vlmlab.explain.faithfulness import mass
from vlmlab.explain.regions import coverage
from vlmlab.figures import base, inside, reading, states

RNG = np.random.default_rng(0)
PICTURE = RNG.integers(0, 255, (24, 24, 3), dtype=np.uint8)
MASK = np.zeros((24, 24), bool)
MASK[6:12, 12:20] = True
PEAK = np.full((4, 4), 0.01)
PEAK[1, 2] = 0.9  # C2: rows 6 to 11, columns 12 to 17, all of it on the mask
SIGNS = RNG.normal(size=(4, 4))
GROUPS = ["text"] * 2 + ["image"] * 16 + ["text"] * 4 + ["answer"] * 2
ROWS = {
    "a model": {"picture": PICTURE, "answer": "a red cat", "right": True, "maps": {"rollout": PEAK, "signed": SIGNS}},
    "another": {"picture": PICTURE, "answer": "a dog", "right": False, "maps": {"delta": 7 * PEAK}},
}
HEADS = np.full((2, 3, 4, 4), 0.1)
HEADS[1, 2, 3, 0] = 0.8  # A4
HEADS[0, 1] = 0.3
WORDS = [[[" the", " a"]] * 16, [[" cat"], *[[" photographically"]] * 15]]
CHANCES = np.full((2, 16, 2), 0.1)
CHANCES[1, 5, 0] = 0.7  # B2
SHARES = np.linspace(-0.05, 0.2, 24)
X = np.array([1, 2, 4, 8, 16])
BAND = (0.5**X, 0.8**X, 0.95**X)
CAUSAL = np.tril(np.ones((24, 24)))

DRAWN = {
    "heat": lambda: inside.heat(PICTURE, {"rollout": PEAK, "other": PEAK / 2}, unit="share", outline=MASK, title="t"),
    "signed heat": lambda: inside.heat(PICTURE / 255, {"occlusion": SIGNS}),
    "words": lambda: inside.words(PICTURE, [" a", " red", " cat", ".", " A", " B"], [PEAK] * 6, unit="share"),
    "methods": lambda: inside.methods(ROWS, outline=MASK, title="two models"),
    "heads": lambda: inside.heads(HEADS, unit="attention", title="heads"),
    "lens": lambda: reading.lens(WORDS, CHANCES, (4, 4), title="lens"),
    "readers": lambda: reading.readers({"causal": CAUSAL, "signed": RNG.normal(size=(24, 24))}, GROUPS, title="who"),
    "timeline": lambda: states.timeline(RNG.random((3, 24)) + 1, GROUPS, title="norms"),
    "ledger": lambda: states.ledger(PICTURE, SHARES, GROUPS, (4, 4), texts=[" a"] * 24, outline=MASK, title="shares"),
    "retention": lambda: states.retention({"layer 0": (X, BAND), "layer 1": (X, BAND)}, title="left"),
    "horizons": lambda: states.horizons({"a model": BAND}, marks={"half a token": 0.5}, title="horizon"),
}  # fmt: skip


@pytest.mark.parametrize("name", DRAWN)
def test_each_figure_is_a_small_readable_png_with_its_alt_text(name: str, readable_png) -> None:
    fig, alt = DRAWN[name]()
    readable_png(fig)
    assert alt.endswith(".")
    assert not {"nan", "inf"} & set(alt.replace("(", " ").replace(",", " ").split())


def test_the_same_arrays_give_the_same_bytes_and_show_takes_what_is_returned() -> None:
    one, two = DRAWN["heat"](), DRAWN["heat"]()
    assert figures.png(one.figure) == figures.png(two.figure)
    assert one.alt == two.alt
    assert one.alt.split(".")[0] in figures.figure_html(*one)


@settings(max_examples=50, deadline=None)
@given(arrays(np.float64, (2, 3, 3), elements=st.floats(-1e3, 1e3)))
def test_a_scale_is_symmetric_where_a_value_is_negative_and_holds_all(maps: np.ndarray) -> None:
    found = inside.scale(*maps)
    low, high = found.get_clim()
    assert low <= maps.min()
    assert high >= maps.max()
    if maps.min() < 0:
        assert low == -high
        assert found.cmap.name == base.SIGNED
    else:
        assert low in (0.0, maps.min())
        assert found.cmap.name == base.SEQUENTIAL


def test_a_scale_starts_at_zero_unless_all_values_are_near_the_largest() -> None:
    assert inside.scale(np.array([0.3, 1.0])).get_clim() == (0.0, 1.0)
    assert inside.scale(np.array([0.7, 1.0])).get_clim() == (0.7, 1.0)
    assert inside.scale(np.zeros(3)).get_clim() == (0.0, 1.0)


@pytest.mark.parametrize(("index", "columns", "name"), [(0, 8, "A1"), (26, 8, "C4"), (63, 8, "H8"), (7, 4, "D2"),
                                                        (30, 27, "row 2, column 4")])  # fmt: skip
def test_patches_are_named_as_inside_names_them(index: int, columns: int, name: str) -> None:
    assert inside.place(index, columns) == name


def test_what_lies_on_the_object_agrees_with_the_measure_of_faithfulness() -> None:
    mask = np.zeros((96, 96), int)
    mask[13:50, 40:77] = 1
    share = coverage(mask, [0], 64)[0].view(8, 8)
    for values in (RNG.random((8, 8)), RNG.normal(size=(8, 8)), -np.ones((8, 8))):
        on, area = inside.on_object(values, mask == 1)
        assert on == pytest.approx(mass(torch.tensor(values), share), rel=1e-6)
        assert area == pytest.approx((mask == 1).mean())
    assert inside.on_object(np.where(PEAK > 0.5, 1, 0), MASK)[0] == 1


def test_a_map_lies_over_the_whole_picture_with_the_objects_outline() -> None:
    fig, alt = DRAWN["heat"]()
    picture, first, second, bar = fig.axes
    assert np.array_equal(picture.images[0].get_array(), PICTURE)
    for axes, values in ((first, PEAK), (second, PEAK / 2)):
        under, drawn = axes.images
        assert np.array_equal(drawn.get_array(), values)
        assert drawn.get_extent() == under.get_extent() == [-0.5, 23.5, 23.5, -0.5]
        assert drawn.get_clim() == (0.0, 0.9)  # one scale for both
        edge = np.concatenate([path.vertices for path in axes.collections[0].get_paths()])
        assert np.allclose((edge.min(0), edge.max(0)), [(11.5, 5.5), (19.5, 11.5)])
    assert bar.get_ylabel() == "share"
    on = inside.on_object(PEAK, MASK)[0]
    assert f"rollout: largest at C2 (0.9), {on:.0%} of what is positive on the object" in alt
    assert f"covers {MASK.mean():.0%} of the picture" in alt


def test_an_outline_at_the_pictures_edge_is_closed_and_an_unseen_object_has_none() -> None:
    corner = np.zeros((24, 24), bool)
    corner[:5, :5] = True
    axes = inside.heat(PICTURE, {"m": PEAK}, outline=corner).figure.axes[1]
    edge = np.concatenate([path.vertices for path in axes.collections[0].get_paths()])
    assert np.allclose(edge.min(0), -0.5)
    assert not inside.heat(PICTURE, {"m": PEAK}, outline=np.zeros_like(corner)).figure.axes[1].collections


def test_words_are_named_visibly_and_may_repeat() -> None:
    fig, alt = inside.words(PICTURE, [" a", "\n", " a"], [PEAK, SIGNS, PEAK])
    assert [axes.get_title(loc="left") for axes in fig.axes[:4]] == ["picture", "“·a”", "“↵”", "“·a”"]
    assert alt.count("“·a”: largest at C2") == 2
    assert f"smallest at {inside.place(SIGNS.argmin(), 4)}" in alt


def test_methods_share_no_unit_and_answers_carry_their_verdict() -> None:
    fig, alt = DRAWN["methods"]()
    maps = {axes.get_title(loc="left"): axes.images[1] for axes in fig.axes if len(axes.images) == 2}
    assert set(maps) == {"rollout", "signed", "delta"}
    assert np.allclose(maps["rollout"].get_array(), maps["delta"].get_array())
    assert all(np.abs(image.get_array()).max() == pytest.approx(1) for image in maps.values())
    assert [maps[name].get_clim() for name in ("rollout", "signed")] == [(0, 1), (-1, 1)]
    heads = [part._suptitle for half in fig.subfigs for part in half.subfigs]
    assert [(head.get_text(), to_hex(head.get_color())) for head in heads] == [
        ("a model:  ✓ a red cat", "#00704f"), ("another:  ✗ a dog", "#b04700"),
    ]  # fmt: skip
    assert "a model answers “a red cat”, which is right. rollout: largest at C2 (0.9)" in alt
    assert "another answers “a dog”, which is wrong. delta: largest at C2 (6.3)" in alt


def test_heads_stand_in_rows_of_layers() -> None:
    fig, alt = DRAWN["heads"]()
    sheet = np.ma.filled(fig.axes[0].images[0].get_array(), np.nan)
    for layer in range(2):
        for head in range(3):
            top, left = layer * 5, head * 5
            assert np.array_equal(sheet[top : top + 4, left : left + 4], HEADS[layer, head])
    assert np.isnan(sheet[4]).all()
    assert "The largest value is 0.8, at A4 in layer 1, head 2." in alt
    assert "layer 0, head 1 has most (4.8)" in alt


def test_the_lens_shows_the_likeliest_words_and_cuts_long_ones() -> None:
    fig, alt = DRAWN["lens"]()
    first, second = ([text.get_text() for text in axes.texts] for axes in fig.axes[:2])
    assert first == ["·the"] * 16
    assert second[0] == "·cat"
    assert second[1].endswith("…")
    assert len(second[1]) < len("·photographically")
    assert np.array_equal(fig.axes[1].images[0].get_array(), CHANCES[1, :, 0].reshape(4, 4))
    assert "The surest is “·photographically” at B2 in layer 1 (0.7)" in alt
    assert "layer 1 0.14, most often “·photographically” (15 of 16)" in alt


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(["text", "image", "answer"]), min_size=1, max_size=30))
def test_spans_put_together_are_the_groups(groups: list[str]) -> None:
    found = states.spans(groups)
    assert [name for name, start, stop in found for _ in range(start, stop)] == groups
    assert all(one[0] != two[0] and one[2] == two[1] for one, two in pairwise(found))


def test_a_timeline_names_its_spans_and_is_logarithmic_where_a_value_sticks_out() -> None:
    norms = np.ones((3, 24))
    norms[2, 23] = 8
    fig, alt = states.timeline(norms, GROUPS)
    axes = fig.axes[0]
    assert axes.get_yscale() == "linear"
    assert [text.get_text() for text in axes.texts] == ["text", "image", "text", "answer"]
    assert len({to_hex(line.get_color()) for line in axes.get_lines() if line.get_label().startswith("layer")}) == 3
    assert "The largest value is 8, in layer 2 at position 23 (answer at 22 to 23); layer 2 has the largest mean" in alt
    norms[0, 2] = 40
    assert states.timeline(norms, GROUPS).figure.axes[0].get_yscale() == "log"
    norms[0, 3] = 0
    assert states.timeline(norms, GROUPS).figure.axes[0].get_yscale() == "linear"  # zero has no logarithm


def test_a_ledger_draws_each_share_and_the_patches_on_the_picture() -> None:
    fig, alt = states.ledger(PICTURE, SHARES, GROUPS, (4, 4))
    strip, heat, _ = fig.axes
    assert [bar.get_height() for bar in strip.containers[0]] == pytest.approx(list(SHARES))
    assert np.array_equal(heat.images[1].get_array(), SHARES[2:18].reshape(4, 4))
    image = SHARES[2:18].sum()
    assert f"image {image:.1%}" in alt
    assert "The largest: 23 (20.0%)" in alt  # a position of text, without a name
    assert f"Of the patches, D4 has most ({SHARES[17]:.1%})" in alt
    written = [text.get_text() for text in strip.texts if text.get_text() not in GROUPS]
    assert written[0] == "23"
    assert len(written) < 5  # neighbours would overlap
    named = states.ledger(PICTURE, SHARES, GROUPS, (4, 4), texts=[f"t{i}" for i in range(24)]).alt
    assert "The largest: t23" in named


def test_retention_and_horizons_say_when_half_is_gone_and_what_is_reached() -> None:
    fig, alt = states.retention({"fast": (X, BAND), "slow": (X, (BAND[1], BAND[2], np.ones(5)))})
    assert fig.axes[0].get_xscale() == "log"
    assert "fast: the median falls below one half at 4 tokens, and is 0.028 at 16" in alt
    assert "slow: the median falls below one half at 16 tokens" in alt
    assert "stays at one half or above" in states.retention({"a": (X[:3], np.array(BAND)[:, :3] ** 0.1)}).alt
    fig, alt = states.horizons({"m": ([1, 2, 3], [10, 70, 30], [64, 90, 40])}, marks={"64 image tokens": 64})
    assert fig.axes[0].get_yscale() == "log"
    assert "longest in layer 1 (70 tokens) and shortest in layer 0 (10)" in alt
    assert "it reaches 64 image tokens in 1 of 3 layers, the upper quantile in 2" in alt


def test_readers_hides_the_future_only_where_nothing_reads_it() -> None:
    planted = CAUSAL * 0.01
    planted[22:, 2:18] = 5.0  # the answer reads the image
    planted[:, 0] = 6.0
    fig, alt = reading.readers({"causal": planted, "both": planted + planted.T}, GROUPS, units=["share", "other"])
    one, two = (axes.images[0].get_array() for axes in fig.axes[:2])
    assert np.isnan(np.ma.filled(one, np.nan)[np.triu_indices(24, 1)]).all()
    assert not np.isnan(np.ma.filled(two, np.nan)).any()
    assert [tick.get_text() for tick in fig.axes[0].get_xticklabels()] == ["text", "image", "text", "answer"]
    total = planted[22:].sum(1)
    share = (planted[22:, 2:18].sum(1) / total).mean()
    assert f"causal: the answer reads {(1 - share):.0%} of text, {share:.0%} of image and 0% of answer" in alt
    assert "most of position 0 (text, 7%)" in alt


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: inside.heat(PICTURE, {}), "no map"),
        (lambda: inside.heat(PICTURE, {"a": np.ones(4)}), r"a map is an array .* got shape \(4,\)"),
        (lambda: inside.heat(PICTURE, {"a": np.full((2, 2), np.nan)}), "finite"),
        (lambda: inside.words(PICTURE, ["a"], [PEAK, PEAK]), "1 words need as many maps"),
        (lambda: inside.words(PICTURE, [], []), "0 words"),
        (lambda: inside.methods({}), "no row"),
        (lambda: inside.methods({"a": {**ROWS["another"], "maps": {}}}), "without a map"),
        (lambda: inside.heads(HEADS[0]), "layers, heads, rows, columns"),
        (lambda: inside.heads(HEADS * np.inf), "finite"),
        (lambda: reading.lens(WORDS, CHANCES, (4, 5)), r"grid \(4, 5\) needs probabilities \(layers, 20, k\)"),
        (lambda: reading.lens(WORDS, 20 * CHANCES, (4, 4)), r"lie in \[0, 1\]; these reach from 2 to 14"),
        (lambda: reading.lens(WORDS[:1], CHANCES, (4, 4)), "2 layers of 16 words"),
        (lambda: reading.readers({}, GROUPS), "0 matrices"),
        (lambda: reading.readers({"a": CAUSAL}, GROUPS, units=["x", "y"]), "2 units"),
        (lambda: reading.readers({"a": CAUSAL[1:]}, GROUPS), r"for 24 positions is \(24, 24\)"),
        (lambda: states.timeline(np.ones((2, 5)), GROUPS), r"for 24 positions, got shape \(2, 5\)"),
        (lambda: states.timeline(-np.ones((2, 24)), GROUPS), "not negative; the smallest is -1"),
        (lambda: states.ledger(PICTURE, SHARES, GROUPS, (4, 5)), "needs 20 positions of the image, and 16 are"),
        (lambda: states.ledger(PICTURE, SHARES * np.nan, GROUPS, (4, 4)), "finite"),
        (lambda: states.ledger(PICTURE, SHARES, GROUPS, (4, 4), texts=["a"]), "1 texts for 24 shares"),
        (lambda: states.retention({}), "no curve"),
        (lambda: states.retention({"a": (X - 1, BAND)}), "0 tokens has no place"),
        (lambda: states.retention({"a": (X, BAND[::-1])}), "order lower, median, upper"),
        (lambda: states.retention({"a": (X, BAND[:2])}), r"need quantiles \(3, 5\), got \(2, 5\)"),
        (lambda: states.horizons({"a": ([0], [1], [2])}), "positive number of tokens"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_refused(draw, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        draw()
