"""Twins: the mirror, the swap, and one relation changed."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from vlmlab.errors import UnknownName, VlmlabError
from vlmlab.scenes import Object, Scene, holds, sample
from vlmlab.scenes.sampling import visible

SEEDS = st.integers(0, 10**6)
some = settings(max_examples=20, deadline=None)
FLIPPED = {
    "left of": "right of",
    "right of": "left of",
    "at the left side of": "at the right side of",
    "at the right side of": "at the left side of",
}


def made(scene: Scene, kind: str) -> Scene:
    """The twin, where there is one."""
    try:
        return scene.twin(kind)
    except VlmlabError:
        assume(False)
        raise


@some
@given(SEEDS)
def test_the_mirror_twin_of_the_mirror_twin_is_the_scene(seed: int) -> None:
    scene = sample(seed)
    again = scene.twin("mirror").twin("mirror")
    for first, second in zip(scene.objects, again.objects, strict=True):
        assert (first.x, first.y, first.z) == (second.x, second.y, second.z)
        assert first.yaw % 360 == pytest.approx(second.yaw % 360)
    assert again.camera == scene.camera


@some
@given(SEEDS)
def test_the_mirror_twin_exchanges_left_and_right_and_nothing_else(seed: int) -> None:
    scene = sample(seed)
    twin = scene.twin("mirror")
    assert np.allclose(twin.geometry.u, 1 - scene.geometry.u)
    assert np.allclose(twin.geometry.depth, scene.geometry.depth)
    sides = ("at the side of",)  # holds on an object's own left alone, see test_relations
    there = {(FLIPPED.get(r.name, r.name), r.subject, r.object, r.frame): r.margin for r in scene.relations()}
    here = {(r.name, r.subject, r.object, r.frame): r.margin for r in twin.relations()}
    for key in there.keys() ^ here.keys():
        margin = there.get(key) or here.get(key)
        assert key[0] in sides or margin == pytest.approx(1, abs=1e-6), key


@some
@given(SEEDS)
def test_the_mirror_twins_picture_is_the_picture_flipped(seed: int) -> None:
    scene = sample(seed, kinds=("cat", "dog", "bird", "sofa", "chair", "table", "ball", "box", "mug", "book", "car"))
    one, other = scene.render(64), scene.twin("mirror").render(64)
    assert (one.mask == other.mask[:, ::-1]).mean() > 0.99
    assert np.abs(one.rgb.astype(int) - other.rgb[:, ::-1]).mean() < 1.5
    assert np.median(np.abs(one.depth - other.depth[:, ::-1])) < 1e-3


@some
@given(SEEDS)
def test_the_swap_twin_exchanges_two_places(seed: int) -> None:
    scene = sample(seed)
    twin = made(scene, "swap")
    moved = [i for i, (a, b) in enumerate(zip(scene.objects, twin.objects, strict=True)) if a != b]
    assert len(moved) == 2
    a, b = moved
    places = [(o.x, o.y) for o in (scene.objects[a], scene.objects[b], twin.objects[b], twin.objects[a])]
    assert places[:2] == places[2:]
    assert (scene.objects[a].kind, scene.objects[a].yaw) == (twin.objects[a].kind, twin.objects[a].yaw)
    assert holds(scene, "left of", a, b) is (not holds(twin, "left of", a, b))
    assert visible(twin)


@some
@given(SEEDS)
def test_the_relation_twin_moves_one_object_across_another(seed: int) -> None:
    scene = sample(seed)
    twin = made(scene, "relation")
    moved = [i for i, (a, b) in enumerate(zip(scene.objects, twin.objects, strict=True)) if a != b]
    assert len(moved) == 1
    flips = [
        other
        for other in range(len(scene.objects))
        if other != moved[0]
        and holds(scene, "left of", moved[0], other) is not None
        and holds(twin, "left of", moved[0], other) is (not holds(scene, "left of", moved[0], other))
    ]
    assert flips
    assert visible(twin)


def test_most_scenes_have_twins() -> None:
    found = {"swap": 0, "relation": 0}
    for seed in range(40):
        for kind in found:
            try:
                sample(seed).twin(kind)
                found[kind] += 1
            except VlmlabError:
                continue
    assert min(found.values()) > 10


def test_a_constant_answer_is_wrong_for_one_of_two_twins() -> None:
    scene = sample(5, include=[{"kind": "cat"}, {"kind": "table"}], relation=(0, "left of", 1))
    answers = {holds(s, "left of", 0, 1) for s in (scene, scene.twin("mirror"))}
    assert answers == {True, False}


def test_what_has_no_twin_is_refused() -> None:
    scene = Scene((Object("cat", "red"),))
    assert scene.twin("mirror").objects[0].x == 0
    with pytest.raises(VlmlabError, match="no 'swap' twin"):
        scene.twin("swap")
    with pytest.raises(UnknownName, match="did you mean 'mirror'"):
        scene.twin("mirrored")
