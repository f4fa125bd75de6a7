"""Twins differ in one way, so that no constant answer is right for both."""

import numpy as np
import pytest

from vlmlab.errors import UnknownName, VlmlabError
from vlmlab.scenes import holds, sample
from vlmlab.scenes.twins import twin

SCENES = [sample(seed) for seed in range(40)]


def flips(scene, other):
    pairs = [(a, b) for a in range(len(scene.objects)) for b in range(a)]
    before = {pair: holds(scene, "left of", *pair) for pair in pairs}
    return [p for p, value in before.items() if value is not None and holds(other, "left of", *p) is (not value)]


def test_a_mirror_twin_flips_left_and_right_and_nothing_else():
    for scene in SCENES:
        other = scene.twin("mirror")
        for a in range(len(scene.objects)):
            for b in range(a):
                before = holds(scene, "left of", a, b)
                assert holds(other, "right of", a, b) == before
                for name in ("in front of", "on", "inside", "under", "near", "facing"):
                    assert holds(other, name, a, b) == holds(scene, name, a, b), name
        assert np.allclose([o.x for o in other.twin("mirror").objects], [o.x for o in scene.objects])


def test_a_mirror_twins_picture_is_the_flipped_picture():
    for scene in SCENES[:8]:
        mask, other = scene.render(96).mask, scene.twin("mirror").render(96).mask
        assert (mask[:, ::-1] == other).mean() > 0.985  # a pixel on an edge may fall to either side


@pytest.mark.parametrize("kind", ["swap", "relation"])
def test_swap_and_relation_twins_flip_a_pair(kind):
    found = 0
    for scene in SCENES:
        try:
            other = twin(scene, kind)
        except VlmlabError as error:
            assert "has no" in str(error)  # noqa: PT017 (some scenes have none)
            continue
        found += 1
        assert flips(scene, other)
        looks = [(o.kind, o.colour, o.size, o.material) for o in scene.objects]
        assert looks == [(o.kind, o.colour, o.size, o.material) for o in other.objects]
        moved = sum((a.x, a.y) != (b.x, b.y) for a, b in zip(scene.objects, other.objects, strict=True))
        assert moved == (2 if kind == "swap" else 1)
    assert found > len(SCENES) / 2


def test_unknown_twins_are_refused():
    with pytest.raises(UnknownName, match="did you mean 'mirror'"):
        SCENES[0].twin("miror")
