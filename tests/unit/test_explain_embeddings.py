"""Pictures of feature space: planted groups are found, noise is not believed, and the same seed is the same picture."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmlab.errors import BadInput, MissingDependency, UnknownName
from vlmlab.explain import Inside
from vlmlab.explain.embeddings import Agreement, Points, agreement, answers, believe, collect, pca, umap
from vlmlab.explain.probes import Features
from vlmlab.scenes import Scene, sample
from vlmlab.vlm import VLM
from vlmlab.vlm.conversations import SLOTS, WORDS, word_map
from vlmlab.vlm.presets import get_preset


def islands(points: int = 40, groups: int = 3, channels: int = 10, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.arange(points) % groups
    return (rng.normal(size=(groups, channels)) * 9)[labels] + rng.normal(size=(points, channels)), labels


# ------------------------------------------------------------------ the score
def by_hand(x, labels, scene, count: int) -> float:
    shares = []
    for i in range(len(x)):
        others = [(float(((x[i] - x[j]) ** 2).sum() ** 0.5), j) for j in range(len(x)) if scene[j] != scene[i]]
        shares.append(sum(labels[j] == labels[i] for _, j in sorted(others)[:count]) / count)
    return sum(shares) / len(shares)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 4))
def test_agreement_is_counted_neighbour_by_neighbour(seed, count):
    rng = np.random.default_rng(seed)
    x = rng.permutation(np.arange(24.0) ** 2)[:, None]  # whole numbers on a line
    labels, scene = rng.integers(0, 3, 24), np.arange(24) // 3
    assert agreement(x, labels, scene, neighbours=count, shuffles=2).value == pytest.approx(
        by_hand(x, labels, scene, count), abs=1e-12
    )
    alone = agreement(x, labels, neighbours=count, shuffles=2).value
    assert alone == pytest.approx(by_hand(x, labels, np.arange(24), count), abs=1e-12)


def test_groups_agree_and_noise_agrees_as_shuffled_labels_do():
    x, labels = islands(90)
    found = agreement(x, labels)
    assert found.value == 1.0
    assert found.control == pytest.approx(29 / 89, abs=0.01)  # as many others of the same label
    assert found.control_low < found.control < found.control_high < 0.4
    drawn = agreement(np.random.default_rng(1).normal(size=(90, 10)), labels)
    assert drawn.control_low < drawn.value < drawn.control_high


def test_it_does_not_depend_on_where_the_points_lie_but_on_their_distances():
    x, labels = islands(60, seed=3)
    x = x / 9 + np.random.default_rng(0).normal(size=x.shape)  # groups that overlap
    turn, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(10, 10)))
    found = agreement(x, labels, seed=5)
    assert 0.4 < found.value < 1
    assert agreement(7 * x @ turn + 2, labels, seed=5) == found
    assert agreement(x, np.array(["c", "a", "b"])[labels], seed=5).value == found.value


def test_points_of_one_scene_do_not_vouch_for_each_other():
    rng = np.random.default_rng(0)
    scene = np.repeat(np.arange(90), 6)
    x = (10 * rng.normal(size=(90, 5)))[scene] + 0.01 * rng.normal(size=(540, 5))
    labels = rng.integers(0, 2, 90)[scene]  # the same for a whole scene, and chance
    assert agreement(x, labels, neighbours=5).value == 1.0
    honest = agreement(x, labels, scene, scene, neighbours=5)
    assert honest.control_low < honest.value < honest.control_high
    loose = agreement(x, labels, scene, neighbours=5)
    assert loose.control_high - loose.control_low < (honest.control_high - honest.control_low) / 2


def test_a_shuffle_keeps_units_whole():
    """Two units, two labels: a shuffle can only keep or exchange them, and neither changes who agrees with whom."""
    x = np.arange(8.0)[:, None]
    unit = np.array([5, 5, 5, 5, 9, 9, 9, 9])
    found = agreement(x, ["a"] * 4 + ["b"] * 4, None, unit, neighbours=3)
    assert found[1:] == pytest.approx([found.value] * 3, abs=1e-12)
    with pytest.raises(BadInput, match="points of one unit have different labels"):
        agreement(x, ["a"] * 5 + ["b"] * 3, None, unit, neighbours=3)


def test_too_few_neighbours_are_refused():
    with pytest.raises(BadInput, match="fewer than 3 others from other scenes"):
        agreement(np.zeros((6, 2)), [0, 1] * 3, np.array([0, 0, 0, 0, 1, 1]), neighbours=3)


def test_believing_compares_the_pictures_with_the_space():
    x, kind = islands(60)
    points = Points(
        x.astype(np.float32), {"kind": kind, "row": np.arange(60) % 7}, np.arange(60) // 2, np.arange(60) // 2
    )
    points.labels["kind"] = kind[points.unit]
    crushed = np.zeros((60, 2))
    found = believe(points, "kind", {"crushed": crushed}, neighbours=5, shuffles=20)
    assert list(found) == ["full space", "crushed"]
    assert found["full space"] == agreement(points.x, points.labels["kind"], points.scene, points.unit, 5, 20)
    assert believe(points, "row", {}, neighbours=5, shuffles=20)["full space"] == agreement(
        points.x, points.labels["row"], points.scene, None, 5, 20
    )  # a row belongs to a patch, not to an object
    with pytest.raises(UnknownName, match="unknown label 'colour'"):
        believe(points, "colour", {})


# ------------------------------------------------------------------ the pictures
def test_principal_components_are_those_of_the_covariance():
    x = np.random.default_rng(0).normal(size=(50, 6)) * [5, 4, 1, 1, 1, 0.1] + 100
    found = pca(x, 3)
    values, axes = np.linalg.eigh(np.cov(x.T))
    assert np.allclose(found.var(0, ddof=1), values[::-1][:3], rtol=1e-10)
    expected = (x - x.mean(0)) @ axes[:, ::-1][:, :3]
    assert np.allclose(np.abs(found), np.abs(expected), atol=1e-9)
    line = np.outer([0.0, 1, 2], [1, -3])
    assert np.allclose(pca(line, 1)[:, 0], [10**0.5, 0, -(10**0.5)])  # the largest weight, -3, counts as positive
    assert np.allclose(pca(line + 5, 1), pca(line, 1))
    with pytest.raises(BadInput, match="1 points of 6 channels have no 2 principal components"):
        pca(x[:1])


def test_umap_is_the_same_for_the_same_seed_and_keeps_islands_apart():
    pytest.importorskip("umap", reason="umap-learn is not installed")
    x, labels = islands(60)
    picture = umap(x.astype(np.float32), seed=1, neighbours=10)
    assert (picture.shape, picture.dtype) == ((60, 2), np.float32)
    assert picture.tobytes() == umap(x.astype(np.float32), seed=1, neighbours=10).tobytes()
    assert picture.tobytes() != umap(x.astype(np.float32), seed=2, neighbours=10).tobytes()
    assert agreement(picture, labels).value == 1.0
    noise = np.random.default_rng(0).normal(size=(60, 10)).astype(np.float32)
    drawn = agreement(umap(noise, neighbours=10), labels)
    assert drawn.value < drawn.control_high + 0.05  # islands or not, they are no islands of these labels
    with pytest.raises(BadInput, match="10 points, each with 15 neighbours"):
        umap(x[:10])


def test_without_umap_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(MissingDependency, match=r"UMAP needs the package 'umap-learn'; .*: pip install umap-learn"):
        umap(np.zeros((20, 3)))


# ------------------------------------------------------------------ the points
@pytest.mark.parametrize("preset", ["llava-tiny", "cobra-tiny-ldp"])
def test_patches_are_labelled_as_the_word_map_labels_them(preset):
    config = get_preset(preset)
    vlm = VLM.from_preset(replace(config, language=replace(config.language, layers=1)), "cpu").eval()
    scenes = [sample(seed, split="test", objects=3) for seed in (1, 2)]
    found = collect(vlm, [*scenes, sample(0, objects=0)], ["features", "tokens", "language.layers.0"])
    assert list(found) == ["features", "tokens", "language.layers.0"]
    for name, grid in (("features", 8), ("tokens", config.image_tokens**0.5), ("language.layers.0", None)):
        points, side = found[name], int(grid or config.image_tokens**0.5)
        row = 0
        for number, scene in enumerate(scenes):
            render = scene.render(96)
            inside = Inside.ask(vlm, render.rgb, "Describe the picture.", "x")
            value = inside.run([name])[name][0]
            value = value[inside.image] if name.startswith("language") else value
            cells = word_map(scene, render.mask, side)
            for patch, words in enumerate(cells):
                kind, colour = (WORDS[words[list(SLOTS).index(slot)]] for slot in ("kind", "colour"))
                if kind == "floor":
                    continue
                assert np.array_equal(points.x[row], value[patch].numpy())
                assert (points.labels["kind"][row], points.labels["colour"][row]) == (kind, colour)
                place = WORDS[words[list(SLOTS).index("column")]], WORDS[words[list(SLOTS).index("row")]]
                assert place == ("ABCDEFGH"[points.labels["column"][row] - 1], str(points.labels["row"][row]))
                assert points.scene[row] == number
                assert scene.objects[points.unit[row] % 100].kind == kind
                row += 1
        assert row == len(points.x) == len(points.unit)
    with pytest.raises(UnknownName, match="unknown layer 'feature'"):
        collect(vlm, scenes, ["feature"])
    with pytest.raises(BadInput, match=r"blocks\.0\.attn is .*only what has a row a patch"):
        collect(vlm, scenes, ["vision.blocks.0.attn" if preset == "llava-tiny" else "vision.siglip.blocks.0.attn"])
    with pytest.raises(BadInput, match="no scene with an object"):
        collect(vlm, [Scene(())])


def test_a_probes_features_become_points():
    features = Features({"state": torch.arange(6.0).view(3, 2)}, ["yes", "no", "yes"], [True] * 3, ["b", "a", "b"])
    points = answers(features, "state")
    assert points.labels["answer"].tolist() == ["yes", "no", "yes"]
    assert points.scene.tolist() == [1, 0, 1]
    assert points.unit.tolist() == [0, 1, 2]
    assert points.x.tolist() == [[0, 1], [2, 3], [4, 5]]
    assert isinstance(believe(points, "answer", {}, neighbours=1)["full space"], Agreement)
    with pytest.raises(UnknownName, match="did you mean 'state'"):
        answers(features, "stat")
