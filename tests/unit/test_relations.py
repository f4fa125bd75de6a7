"""Relations: decided from geometry, refused when in doubt, consistent with one another and with the picture."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmlab.errors import UnknownName
from vlmlab.scenes import CATEGORIES, NAMES, Camera, Object, Scene, holds, sample
from vlmlab.scenes.relations import SPECS, margin

SCENES = [sample(seed, objects=4) for seed in range(400)]
CONVERSE = {"left of": "right of", "in front of": "behind", "inside": "contains", "under": "over"}
SYMMETRIC = (
    "near",
    "far from",
    "next to",
    "touching",
    "detached from",
    "parallel to",
    "perpendicular to",
    "across from",
)


def pairs(scene):
    return [(a, b) for a in range(len(scene.objects)) for b in range(len(scene.objects)) if a != b]


def test_names_cover_vsr_and_each_occurs():
    assert len(NAMES) >= 24
    wanted = {"Adjacency", "Directional", "Orientation", "Projective", "Proximity", "Topological"}
    assert wanted <= set(CATEGORIES.values())
    found = {relation.name for scene in SCENES for relation in scene.relations()}
    assert found == set(NAMES)


def test_relations_are_those_beyond_doubt():
    for scene in SCENES[:30]:
        for relation in scene.relations():
            assert relation.margin >= 1
            assert holds(scene, relation.name, relation.subject, relation.object, relation.frame)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6))
def test_converses_opposites_and_symmetry(seed):
    scene = sample(seed, objects=3)
    for a, b in pairs(scene):
        for name, other in CONVERSE.items():
            assert margin(scene, name, a, b) == margin(scene, other, b, a)
        for name in SYMMETRIC:
            first, second = margin(scene, name, a, b), margin(scene, name, b, a)
            assert first == second or first == pytest.approx(second)
        for name, spec in SPECS.items():
            if spec.opposite and holds(scene, name, a, b):
                assert not holds(scene, spec.opposite, a, b), (name, spec.opposite)


def room(*objects):
    return Scene(tuple(objects), camera=Camera(azimuth=0, elevation=30))


def test_the_viewers_left_and_right_by_hand():
    scene = room(Object("ball", "red", x=-1), Object("box", "blue", x=1))
    assert holds(scene, "left of", 0, 1) is True
    assert holds(scene, "right of", 0, 1) is False
    close = room(Object("ball", "red", x=0, y=-1), Object("box", "blue", x=0.05, y=1))
    assert holds(close, "left of", 0, 1) is None
    assert holds(close, "in front of", 0, 1) is True


def test_an_objects_own_left_is_not_the_viewers():
    towards_us = room(Object("cat", "red", x=-1.2), Object("car", "blue", yaw=0))  # the car looks at us
    assert holds(towards_us, "left of", 0, 1, "viewer") is True
    assert holds(towards_us, "left of", 0, 1, "object") is False
    assert holds(towards_us, "right of", 0, 1, "object") is True
    away = room(Object("cat", "red", x=-1.2), Object("car", "blue", yaw=180))
    assert holds(away, "left of", 0, 1, "object") is True
    ball = room(Object("cat", "red", x=-1.2), Object("ball", "blue"))
    assert holds(ball, "left of", 0, 1, "object") is None  # a ball has no left


@pytest.mark.parametrize("side", [-1, 1])
@pytest.mark.parametrize("yaw", [0, 180])
def test_the_side_of_an_object_is_its_left_or_its_right(side, yaw):
    beside = room(Object("cat", "red", "small", x=0.75 * side), Object("car", "blue", yaw=yaw))
    assert holds(beside, "at the side of", 0, 1) is True
    before = room(Object("ball", "red", "small", y=1.1 * side), Object("car", "blue", yaw=yaw))
    assert holds(before, "at the side of", 0, 1) is False


def test_facing_by_hand():
    scene = room(Object("cat", "red", x=-1, yaw=90), Object("dog", "blue", x=1, yaw=90))
    assert holds(scene, "facing", 0, 1) is True
    assert holds(scene, "facing away from", 1, 0) is True
    assert holds(scene, "facing", 1, 0) is False
    assert holds(scene, "parallel to", 0, 1) is True
    assert holds(room(Object("cat", "red", x=-1, yaw=0), Object("dog", "blue", x=1)), "facing", 0, 1) is False


def test_supports_by_hand():
    on = room(Object("ball", "red", "small", z=0.68), Object("table", "blue"))
    for name in ("on", "on top of", "above", "touching"):
        assert holds(on, name, 0, 1) is True, name
    assert holds(on, "under", 0, 1) is False
    assert holds(on, "under", 1, 0) is True
    assert holds(on, "in front of", 0, 1) is None  # it stands on it
    under = room(Object("ball", "red", "small"), Object("table", "blue"))
    for name in ("under", "beneath", "below"):
        assert holds(under, name, 0, 1) is True, name
    assert holds(under, "over", 1, 0) is True
    assert holds(under, "touching", 0, 1) is False
    inside = room(Object("ball", "red", "small", z=0.05), Object("box", "blue"))
    assert holds(inside, "inside", 0, 1) is True
    assert holds(inside, "contains", 1, 0) is True
    lifted = room(Object("ball", "red", "small", z=1.5), Object("table", "blue"))
    assert holds(lifted, "on", 0, 1) is False


def test_between_by_hand():
    row = [Object("ball", "red", x=0), Object("box", "blue", x=-1.2), Object("mug", "green", x=1.2)]
    assert holds(room(*row), "between", 0, (1, 2)) is True
    assert holds(room(*row), "between", 1, (0, 2)) is False


def test_the_picture_agrees_with_the_facts():
    checked = 0
    for scene in SCENES[:25]:
        picture = scene.render(96)
        for a, b in pairs(scene):
            if not holds(scene, "left of", a, b):
                continue
            columns = [np.nonzero(picture.mask == i + 1)[1] for i in (a, b)]
            visible = [len(c) >= 25 for c in columns]
            if all(visible) and margin(scene, "left of", a, b) > 2:
                assert columns[0].mean() < columns[1].mean()
                checked += 1
    assert checked > 40


def test_unknown_relations_are_refused():
    with pytest.raises(UnknownName, match="did you mean 'left of'"):
        holds(SCENES[0], "left off", 0, 1)
    with pytest.raises(UnknownName):
        SCENES[0].relations(("leftish",))
