"""Figures of evidence: drawn small and readable, true to their numbers, alt texts that state planted findings."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_hex

from vlmlab import figures
from vlmlab.errors import BadInput
from vlmlab.figures import evidence

RNG = np.random.default_rng(0)
X = np.linspace(0, 1, 5)
FALL = np.array([1, 0.5, 0.25, 0.1, 0.0])
DELETION = {"random": (X, 1 - X), "good": (X, FALL), "bad": (X, np.array([1, 1, 1, 1, 0.0]))}
INSERTION = {"random": (X, X), "good": (X, np.stack([FALL[::-1], 1 - FALL, np.ones(5)])), "bad": (X, X**2)}
EFFECTS = np.array([[0.1, -0.2], [0.9, np.nan], [0.6, 0.3]])
ROWS = ["layer 0", "layer 1", "layer 2"]


def stage(name: str, accuracy: float, control: float = 0.5) -> dict:
    return {"stage": name, "accuracy": accuracy, "low": accuracy - 0.05, "high": accuracy + 0.05, "control": control,
            "control_low": control - 0.1, "control_high": control + 0.1}  # fmt: skip


MODEL = {
    "stages": [stage("encoder", 0.58), stage("projector", 0.7), stage("layer 0", 0.95)],
    "own": {"accuracy": 0.6, "low": 0.52, "high": 0.68}, "chance": 0.5,
}  # fmt: skip
LABELS = [f"kind {i % 20:02d}" for i in range(60)]
POINTS = RNG.normal(size=(60, 2))
SCORES = {"PCA": (0.4, 0.05), "UMAP": (0.7, 0.06)}
AT = np.linspace(-2, 2, 9)
CURVE = {"x": AT, "p": 1 / (1 + np.exp(3 * (AT - 0.25))), "fit": (-3.0, 0.25, 0.1, 0.4)}

DRAWN = {
    "removal": lambda: evidence.removal(DELETION, INSERTION, title="faithfulness"),
    "patching": lambda: evidence.patching(EFFECTS, ROWS, ["objects", "last"], title="patching"),
    "probes": lambda: evidence.probes({"a model": MODEL, "another": MODEL}, title="encoded?"),
    "embeddings": lambda: evidence.embeddings({"PCA": POINTS, "UMAP": POINTS}, LABELS, SCORES, title="tokens"),
    "psychometric": lambda: evidence.psychometric(
        {"a": CURVE, "b": {"x": AT, "p": AT * 0 + 0.5, "low": AT * 0 + 0.4, "high": AT * 0 + 0.6}},
        bands=[(-0.1, 0.1), (1.0, 1.1)], border=0.0, title="left",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DRAWN)
def test_each_figure_is_a_small_readable_png_with_its_alt_text(name: str, readable_png) -> None:
    fig, alt = DRAWN[name]()
    assert readable_png(fig) == figures.png(DRAWN[name]().figure)
    assert alt.endswith(".")
    assert "nan" not in alt


def test_areas_are_by_trapezia_and_controls_are_grey() -> None:
    fig, alt = DRAWN["removal"]()
    good = (0.5 + 0.5 + 0.25 + 0.1) / 4  # the mean of the ends counts half
    assert f"Deletion: good {good:.2f}, random 0.50, bad 0.88; better than every control: good" in alt
    assert f"Insertion: good {1 - good:.2f}, random 0.50, bad 0.34; better than every control: good" in alt
    labels = [text.get_text() for text in fig.legends[0].get_texts()]
    assert labels == [f"good  {good:.2f} | {1 - good:.2f}", "bad  0.88 | 0.34", "random  0.50 | 0.50"]
    for axes in fig.axes:
        lines = {line.get_label().split()[0]: line for line in axes.get_lines() if "|" in str(line.get_label())}
        assert to_hex(lines["random"].get_color()) == figures.GREY.lower()
        assert len({(line.get_color(), line.get_marker(), line.get_linestyle()) for line in lines.values()}) == 3
    assert [len(axes.collections) for axes in fig.axes] == [0, 1]  # one curve has an interval


def test_nothing_beats_a_control_that_is_best() -> None:
    curves = {"random": (X, FALL), "other": (X, 1 - X)}
    assert "better than every control: none. Insertion" in evidence.removal(curves, curves).alt
    assert "control" not in evidence.removal(DELETION, INSERTION, controls=()).alt


def test_patching_is_drawn_around_no_effect_and_says_what_was_not_measured() -> None:
    fig, alt = DRAWN["patching"]()
    assert fig.axes[0].images[0].get_clim() == (-1, 1)
    assert evidence.patching(2 * EFFECTS, ROWS, ["a", "b"]).figure.axes[0].images[0].get_clim() == (-1.8, 1.8)
    assert "largest effect, 0.90, is of layer 1 at objects" in alt
    assert "objects 0.90 (layer 1); last 0.30 (layer 2)" in alt
    assert "2 of 6 cells lie above one half. 1 were not measured." in alt
    empty = np.array([[0.2, np.nan]])
    assert "b" not in evidence.patching(empty, ["layer 0"], ["a", "b"]).alt.partition("column: ")[2].split(".")[0]


def test_probes_stand_beside_their_control_and_the_models_answers() -> None:
    fig, alt = DRAWN["probes"]()
    for axes in fig.axes:
        lines = {line.get_label(): line for line in axes.get_lines()}
        assert list(lines["probe"].get_xdata()) == [0.58, 0.7, 0.95]
        assert list(lines["probe, labels shuffled"].get_xdata()) == [0.5] * 3
        assert set(lines["the model's answers"].get_xdata()) == {0.6}
        assert set(lines["chance"].get_xdata()) == {0.5}
        assert [tick.get_text() for tick in axes.get_yticklabels()] == ["encoder", "projector", "layer 0"]
        spans = [segment[:, 0].round(6).tolist() for lines in axes.collections for segment in lines.get_segments()]
        assert [0.65, 0.75] in spans
    assert "a model answers 60% right (52% to 68%; chance 50%)" in alt
    assert "reads most at layer 0: 95% (90% to 100%), with shuffled labels 50%" in alt
    assert "above its control at 2 of 3 stages, above the model's answers at 1." in alt


def test_labels_differ_in_shape_as_well_as_in_colour_and_shuffling_is_in_the_title() -> None:
    fig, alt = DRAWN["embeddings"]()
    for axes, (name, (real, shuffled)) in zip(fig.axes, SCORES.items(), strict=True):
        looks = [(line.get_color(), line.get_marker()) for line in axes.get_lines()]
        assert len(looks) == len(set(looks)) == 20
        assert len({marker for _, marker in looks[:8]}) == 8
        assert f"{real:.0%}, labels shuffled {shuffled:.0%}" in axes.get_title(loc="left")
        drawn = np.concatenate([line.get_xydata() for line in axes.get_lines()])
        assert np.array_equal(np.sort(drawn, 0), np.sort(POINTS, 0))
        assert f"{name} {real:.0%}, shuffled {shuffled:.0%}" in alt


@settings(max_examples=15, deadline=None)
@given(st.floats(-1e5, 1e5), st.floats(-1.5, 1.5))
def test_the_curve_is_the_logistic_one_however_steep(slope: float, middle: float) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn = evidence.psychometric({"a": {"x": AT, "p": AT * 0 + 0.5, "fit": (slope, middle, None, None)}})
    curve = max(drawn.figure.axes[0].get_lines(), key=lambda line: len(line.get_xdata()))
    x, y = curve.get_xdata(), curve.get_ydata()
    assert np.allclose(y, 1 / (1 + np.exp(np.clip(-slope * (x - middle), -700, 700))), rtol=0, atol=1e-12)
    assert f"at one half at {middle:.2f}, with" in drawn.alt


def test_a_psychometric_curve_marks_the_truth_and_its_interval() -> None:
    fig, alt = DRAWN["psychometric"]()
    axes = fig.axes[0]
    assert "goes from 1.00 at -2 to 0.01 at 2; the fitted curve is at one half at 0.25 (95 % interval 0.10 to" in alt
    assert "slope of -3, 0.25 from where the truth changes. b: " in alt
    assert "b: P(“left”) goes from 0.50 at -2 to 0.50 at 2; no curve was fitted." in alt
    assert [0.1, 0.4] in [list(line.get_xdata()) for line in axes.get_lines()]
    names = [text.get_text() for text in fig.legends[0].get_texts()]
    assert sorted(names) == ["a", "ambiguous", "b", "the truth changes"]
    assert len(axes.patches) == 2


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: evidence.removal({}, {}), "give both"),
        (lambda: evidence.removal({"a": (X, X)}, {"b": (X, X)}), r"deletion has \['a'\], insertion \['b'\]"),
        (lambda: evidence.removal({"a": (X, X[1:])}, {"a": (X, X)}), "'a': 5 rising shares"),
        (lambda: evidence.removal({"a": (X[::-1], X)}, {"a": (X, X)}), "rising shares"),
        (lambda: evidence.removal({"a": (X, X * np.nan)}, {"a": (X, X)}), "not finite"),
        (lambda: evidence.patching(EFFECTS, ROWS, ["a"]), "3 rows and 1 columns"),
        (lambda: evidence.patching(EFFECTS * np.nan, ROWS, ["a", "b"]), "as many effects"),
        (lambda: evidence.probes({}), "no stage"),
        (lambda: evidence.probes({"a": {**MODEL, "stages": []}}), "no stage"),
        (lambda: evidence.embeddings({"PCA": POINTS[1:]}, LABELS, {"PCA": (0, 0)}), "PCA: 60 labels"),
        (lambda: evidence.embeddings({"PCA": POINTS * np.nan}, LABELS, {"PCA": (0, 0)}), "finite points"),
        (lambda: evidence.embeddings({"PCA": POINTS}, LABELS, {}), "need a score each"),
        (lambda: evidence.embeddings({}, LABELS, {}), "need a score each"),
        (lambda: evidence.psychometric({}), "no curve"),
        (lambda: evidence.psychometric({"a": {"x": AT, "p": AT}}), r"probabilities in \[0, 1\]"),
        (lambda: evidence.psychometric({"a": {"x": AT, "p": np.ones(3)}}), "9 positions need"),
    ],
)
def test_wrong_arguments_are_refused(draw, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        draw()
