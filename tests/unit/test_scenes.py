"""Scenes: the same seed gives the same scene, splits differ as they say, JSON loses nothing, constraints hold."""

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmlab.errors import BadInput, UnknownName, VlmlabError
from vlmlab.scenes import COLOURS, KINDS, Object, Scene, holds, sample
from vlmlab.scenes.kinds import held_out
from vlmlab.scenes.scene import footprint_gap

seeds = st.integers(0, 10**6)


@settings(max_examples=40, deadline=None)
@given(seeds)
def test_the_same_seed_gives_the_same_scene_and_json_keeps_it(seed):
    scene = sample(seed)
    assert scene == sample(seed)
    again = Scene.from_json(scene.to_json())
    assert again == scene
    assert again.questions() == scene.questions()


def test_scenes_questions_and_captions_are_the_bytes_they_were():
    """A change here changes what every seed means, and with it all recorded results: change it on purpose only."""
    digest = hashlib.sha256()
    for seed in range(100):
        scene = sample(seed)
        digest.update(scene.to_json().encode() + scene.caption("full").encode())
        digest.update(repr([(q.text, q.answer, q.sentence, q.program) for q in scene.questions()]).encode())
    assert digest.hexdigest() == "f274e9d9ba2e3aadc35ce31d0dcee0ecdfdffb553bdb1eda6bc330bc1b812177"


@settings(max_examples=40, deadline=None)
@given(seeds)
def test_objects_stand_apart_or_on_one_another(seed):
    scene = sample(seed)
    for a, first in enumerate(scene.objects):
        for b in range(a):
            assert footprint_gap(first, scene.objects[b]) > 0 or scene.geometry.supported(a, b)
        u, v, _ = scene.camera.project([first.x, first.y, first.z + first.height / 2])
        assert 0 < u < 1
        assert 0 < v < 1


def test_no_two_objects_share_colour_and_kind():
    for seed in range(100):
        looks = [(o.colour, o.kind) for o in sample(seed).objects]
        assert len(set(looks)) == len(looks)


def test_splits_differ_by_seed_and_by_combination():
    for split in ("train", "val", "test"):
        assert not any(held_out(o.colour, o.kind) for seed in range(60) for o in sample(seed, split=split).objects)
    assert len({sample(5, split=split).to_json() for split in ("train", "val", "test")}) == 3
    for seed in range(60):
        assert any(held_out(o.colour, o.kind) for o in sample(seed, split="test_combinations").objects)
    kept = [(c, k) for c in COLOURS for k in KINDS if held_out(c, k)]
    assert len(kept) == len(KINDS) == len({k for _, k in kept})
    assert {c for c, _ in kept} == set(COLOURS)


def test_constraints_hold():
    include = [{"kind": "cat", "colour": "red"}, {"kind": "sofa"}]
    scene = sample(3, objects=4, include=include, relation=(0, "on", 1))
    assert [scene.objects[0].kind, scene.objects[0].colour, scene.objects[1].kind] == ["cat", "red", "sofa"]
    assert len(scene.objects) == 4
    assert holds(scene, "on", 0, 1)
    assert {o.kind for seed in range(20) for o in sample(seed, kinds=["ball", "mug"]).objects} == {"ball", "mug"}
    assert sample(0, objects=0).objects == ()


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"seed": -1}, BadInput, "seed must be 0 or more"),
        ({"seed": 0, "split": "tset"}, UnknownName, "did you mean 'test'"),
        ({"seed": 0, "kinds": ["cta"]}, UnknownName, "did you mean 'cat'"),
        ({"seed": 0, "colours": ["mauve"]}, UnknownName, "unknown colour"),
        ({"seed": 0, "objects": 9}, BadInput, "between 0 and 8"),
        (
            {"seed": 0, "include": [{"kind": "cat"}, {"kind": "car"}], "relation": (0, "inside", 1)},
            VlmlabError,
            "no scene",
        ),
        ({"seed": 0, "objects": 2, "relation": (0, "above", 0)}, BadInput, "two different objects"),
    ],
)
def test_what_cannot_be_sampled_says_so(arguments, error, match):
    with pytest.raises(error, match=match):
        sample(**arguments)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"objects": [{"kind": "unicorn", "colour": "red"}]}', "nonsense"])
def test_damaged_json_is_refused(text):
    with pytest.raises(BadInput):
        Scene.from_json(text)


def test_objects_know_their_names():
    with pytest.raises(BadInput, match="colour 'rd' is not one of"):
        Object("cat", "rd")
