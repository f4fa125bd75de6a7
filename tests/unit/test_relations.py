"""Relations: VSR's names, margins, opposites and converses, refusals, both frames."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmlab.errors import UnknownName
from vlmlab.scenes import CATEGORIES, NAMES, Camera, Object, Scene, holds, sample
from vlmlab.scenes.relations import DEPTH, LEFT, OWN_FRAME, SPECS, margin

SEEDS = st.integers(0, 10**6)
some = settings(max_examples=20, deadline=None)
VSR = {"Projective", "Adjacency", "Directional", "Orientation", "Proximity", "Topological", "Unallocated"}
CONVERSE = {
    "left of": "right of",
    "in front of": "behind",
    "under": "over",
    "inside": "contains",
    "at the left side of": "at the right side of",
}
SYMMETRIC = (
    "near", "close to", "far from", "far away from", "touching", "detached from", "parallel to", "perpendicular to",
    "across from", "adjacent to", "next to", "beside",
)  # fmt: skip
SYNONYMS = (("near", "close to"), ("far from", "far away from"), ("inside", "in"), ("on", "on top of"))


def pair(first: tuple[float, float], second: tuple[float, float], kinds=("car", "dog"), **more) -> Scene:
    a = Object(kinds[0], "red", x=first[0], y=first[1], yaw=more.get("yaw", 0.0))
    b = Object(kinds[1], "blue", x=second[0], y=second[1], yaw=more.get("other", 0.0))
    return Scene((a, b), Camera(azimuth=more.get("azimuth", 0.0)))


def test_at_least_24_relations_over_all_categories() -> None:
    assert len(NAMES) >= 24
    assert set(CATEGORIES) == set(NAMES)
    assert set(CATEGORIES.values()) == VSR


def test_every_relation_is_true_in_some_sampled_scene() -> None:
    missing = set(NAMES)
    for seed in range(250):
        missing -= {relation.name for relation in sample(seed).relations()}
        if not missing:
            break
    assert not missing


@some
@given(SEEDS)
def test_listed_relations_have_a_margin_and_hold(seed: int) -> None:
    scene = sample(seed)
    for r in scene.relations():
        assert r.margin >= 1
        assert margin(scene, r.name, r.subject, r.object, r.frame) == pytest.approx(r.margin, abs=1e-6)
        assert holds(scene, r.name, r.subject, r.object, r.frame) is True


@some
@given(SEEDS)
def test_opposites_exclude_each_other(seed: int) -> None:
    scene = sample(seed)
    for a, b in permutations(range(len(scene.objects)), 2):
        for name, spec in SPECS.items():
            if spec.opposite and holds(scene, name, a, b):
                assert not holds(scene, spec.opposite, a, b)


@some
@given(SEEDS)
def test_converses_symmetries_and_synonyms(seed: int) -> None:
    scene = sample(seed)
    for a, b in permutations(range(len(scene.objects)), 2):
        for name, converse in CONVERSE.items():
            assert holds(scene, name, a, b) == holds(scene, converse, b, a)
        for name in SYMMETRIC:
            assert holds(scene, name, a, b) == holds(scene, name, b, a), name
        for first, second in SYNONYMS:
            assert holds(scene, first, a, b) == holds(scene, second, a, b)


@some
@given(SEEDS)
def test_contact_goes_with_places(seed: int) -> None:
    scene = sample(seed)
    for a, b in permutations(range(len(scene.objects)), 2):
        if holds(scene, "on", a, b):
            assert holds(scene, "above", a, b)
            assert holds(scene, "touching", a, b)
            assert scene.objects[a].z > scene.objects[b].z
        if holds(scene, "inside", a, b):
            assert holds(scene, "touching", a, b)
            assert not holds(scene, "on", a, b)
        if scene.geometry.supported(a, b):
            assert margin(scene, "in front of", a, b) is None


@some
@given(st.floats(-1.5, 1.5), st.floats(-1.2, 1.2), st.floats(-25, 25))
def test_left_of_is_refused_inside_the_threshold(x: float, y: float, azimuth: float) -> None:
    scene = pair((x, y), (0.0, 0.0), azimuth=azimuth)
    shift = float(scene.geometry.u[1] - scene.geometry.u[0])
    assert margin(scene, "left of", 0, 1) == pytest.approx(shift / LEFT)
    verdict = holds(scene, "left of", 0, 1)
    assert (verdict is None) == (abs(shift) < LEFT)
    if verdict is not None:
        assert verdict == (shift > 0)
        assert holds(scene, "right of", 0, 1) is (not verdict)


@pytest.mark.parametrize("azimuth", [-25, 0, 25])
def test_in_front_of_is_nearer_to_the_viewer(azimuth: float) -> None:
    away = Camera(azimuth=azimuth).axes[2, :2]
    away = away / np.linalg.norm(away)
    for steps, verdict in ((-2, True), (-0.5, None), (0.5, None), (2, False)):
        scene = pair(tuple(steps * DEPTH * away), (0.0, 0.0), azimuth=azimuth)
        assert holds(scene, "in front of", 0, 1) is verdict


def test_left_of_is_in_the_picture_not_in_the_world() -> None:
    scene = pair((0.5, 1.4), (0.1, -1.2), azimuth=25)
    assert scene.objects[0].x > scene.objects[1].x
    assert holds(scene, "left of", 0, 1) is True


@pytest.mark.parametrize(
    ("gap", "near", "far"), [(0.2, True, False), (0.8, None, None), (2.0, False, True)], ids=["near", "between", "far"]
)
def test_near_and_far_leave_room_between_them(gap: float, near: bool | None, far: bool | None) -> None:
    scene = pair((-0.3 - gap / 2, 0.0), (0.3 + gap / 2, 0.0), kinds=("ball", "ball"))
    assert holds(scene, "near", 0, 1) is near
    assert holds(scene, "far from", 0, 1) is far


def test_facing_and_its_refusals() -> None:
    towards = pair((-1.5, 0.0), (1.0, 0.0), yaw=90)
    assert holds(towards, "facing", 0, 1) is True
    assert holds(towards, "facing away from", 0, 1) is False
    assert holds(towards, "toward", 0, 1) is True
    aside = pair((-1.5, 0.0), (1.0, 0.0), yaw=90 - 37)
    assert holds(aside, "facing", 0, 1) is None
    ball = pair((-1.5, 0.0), (1.0, 0.0), kinds=("ball", "dog"))
    assert margin(ball, "facing", 0, 1) is None  # a ball has no front
    sofa = pair((-1.5, 0.0), (1.0, 0.0), kinds=("sofa", "dog"), yaw=90)
    assert margin(sofa, "toward", 0, 1) is None  # a sofa does not go anywhere


@pytest.mark.parametrize(
    ("place", "side"),
    [((0.0, -1.5), "in front of"), ((0.0, 1.5), "behind"), ((1.5, 0.0), "left of"), ((-1.5, 0.0), "right of")],
)
@pytest.mark.parametrize("yaw", [0, 90, 200])
def test_the_objects_own_frame(place: tuple[float, float], side: str, yaw: float) -> None:
    # something that faces us has its left hand on our right
    car = Object("car", "red", yaw=yaw)
    ball = Object("ball", "blue", *("large", "matte"), *car.world(*place))
    scene = Scene((ball, car))
    for name in OWN_FRAME:
        assert holds(scene, name, 0, 1, "object") is (name == side)
    assert holds(scene, "ahead of", 0, 1) is (side == "in front of")


def test_between_needs_both_the_picture_and_the_floor() -> None:
    ends = (Object("box", "red", x=-1.5), Object("box", "blue", x=1.5))
    for x, y, verdict in ((0.0, 0.0, True), (0.0, 0.35, None), (0.0, 1.4, False), (2.5, 0.0, False)):
        scene = Scene((Object("ball", "green", x=x, y=y), *ends))
        assert holds(scene, "between", 0, (1, 2)) is verdict
        assert holds(scene, "between", 0, (2, 1)) is verdict


def test_places_of_a_table() -> None:
    table = Object("table", "blue")
    on, under = Object("mug", "red", z=0.68), Object("ball", "green", size="small")
    scene = Scene((on, under, table))
    assert holds(scene, "on", 0, 2) is True
    assert holds(scene, "above", 0, 2) is True
    assert holds(scene, "under", 1, 2) is True
    assert holds(scene, "over", 2, 1) is True
    assert holds(scene, "touching", 0, 2) is True
    assert holds(scene, "touching", 1, 2) is False
    assert holds(scene, "next to", 1, 2) is False
    assert holds(scene, "inside", 1, 2) is False


@pytest.mark.parametrize("name", ["leftish", "", "between"])
def test_unknown_names_are_refused(name: str) -> None:
    with pytest.raises(UnknownName):
        margin(sample(0), name, 0, 1)


def test_a_list_of_unknown_relations_is_refused() -> None:
    with pytest.raises(UnknownName, match="did you mean 'left of'"):
        sample(0).relations(("left off",))


def test_only_the_names_asked_for() -> None:
    assert {r.name for r in sample(0).relations(("left of", "behind"))} <= {"left of", "behind"}
