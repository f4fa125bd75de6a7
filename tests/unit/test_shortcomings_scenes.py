"""Coloured light and mirrors: what they do to a picture, and that a scene without them is as it was."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmlab.errors import BadInput
from vlmlab.scenes import Camera, Light, Object, Scene, sample
from vlmlab.scenes.scene import WHITE, Mirror

CAT, MUG = Object("cat", "red", x=-0.5, y=-0.2, yaw=40), Object("mug", "blue", x=0.7, y=-0.6)
PLAIN = Scene((CAT, MUG))


def lit(scene, colour):
    return replace(scene, light=replace(scene.light, colour=colour), _cache={})


def mirrored(scene, **changes):
    return replace(scene, mirror=Mirror(**changes), _cache={})


def test_white_light_and_no_mirror_leave_text_and_picture_as_they_were():
    for seed in range(3):
        scene = sample(seed)
        record = json.loads(scene.to_json())
        assert set(record) == {"objects", "camera", "light", "floor", "wall", "seed", "split"}
        assert set(record["light"]) == {"azimuth", "elevation", "ambient"}
        before, after = scene.render(48), lit(scene, WHITE).render(48)
        for name in ("rgb", "mask", "depth", "boxes"):
            assert getattr(before, name).tobytes() == getattr(after, name).tobytes()


@settings(deadline=None, max_examples=12)
@given(st.tuples(*[st.floats(0, 1)] * 3))
def test_light_scales_every_channel(colour):
    white, tinted = PLAIN.render(24), lit(PLAIN, colour).render(24)
    below = white.rgb < 255  # brighter than white is cut off
    gap = np.abs(tinted.rgb - white.rgb * np.array(colour))
    assert gap[below].max() <= 1.0  # rounding, once in each picture
    assert (tinted.mask == white.mask).all()


def test_a_highlight_has_the_colour_of_the_light():
    shiny = Scene((replace(CAT, material="shiny"),))
    assert lit(shiny, (1.0, 0.0, 0.0)).render(48).rgb[..., 1:].max() == 0


@pytest.mark.parametrize("colour", [(1, 1), (1, 1, 1, 1), (1.1, 1, 1), (-0.1, 0, 0), (float("nan"), 1, 1)])
def test_a_light_has_three_shares(colour):
    with pytest.raises(BadInput, match="three shares between 0 and 1"):
        Light(colour=colour)


def test_text_gives_light_and_mirror_back():
    for scene in (lit(PLAIN, (1.0, 0.5, 0.25)), mirrored(PLAIN, y=1.4, width=2.0), mirrored(PLAIN, reflects=False)):
        assert Scene.from_json(scene.to_json()) == scene
        assert scene.edit(0, colour="green").mirror == scene.mirror
    with pytest.raises(BadInput, match="not a scene"):
        Scene.from_json(mirrored(PLAIN).to_json().replace('"width"', '"wide"'))
    with pytest.raises(BadInput, match="three shares"):
        Scene.from_json(lit(PLAIN, (0.5, 0.5, 0.5)).to_json().replace("0.5, 0.5, 0.5", "0.5, 2.5, 0.5"))


@pytest.mark.parametrize("azimuth", [-20, 0, 15])
def test_a_reflection_is_where_the_mirrored_object_would_be_seen(azimuth):
    scene = mirrored(replace(PLAIN, camera=Camera(azimuth, 27, 6.0), _cache={}))
    picture = scene.render(192)
    for index, item in enumerate(scene.objects):
        rows, columns = np.nonzero(picture.mask == -(index + 1))
        assert len(rows) > 50
        behind = np.array([item.x, 2 * scene.mirror.y - item.y, item.z + item.height / 2])
        u, v, _ = scene.camera.project(behind)
        assert abs(columns.mean() / 192 - u) < 0.02
        assert abs(rows.mean() / 192 - v) < 0.04
        colour = picture.rgb[picture.mask == -(index + 1)].mean(0)
        assert colour.argmax() == picture.rgb[picture.mask == index + 1].mean(0).argmax()


def test_left_and_right_are_exchanged_in_a_mirror_as_seen_from_the_object():
    """An object that faces us shows its back in the mirror: the picture differs from that of a copy."""
    facing = Scene((Object("sofa", "red", y=0.2),), Camera(0, 24, 6.2))
    picture = mirrored(facing).render(192)
    direct, seen = (picture.rgb[picture.mask == owner].mean() for owner in (1, -1))
    turned = facing.edit(0, y=1.2, yaw=180.0).render(192)
    assert abs(seen - turned.rgb[turned.mask == 1].mean()) < abs(seen - direct)


def test_a_mirror_is_part_of_the_room():
    scenes = mirrored(PLAIN), PLAIN, mirrored(PLAIN, reflects=False)
    picture, plain, board = (scene.render(96, 1) for scene in scenes)  # one ray a pixel
    for index in (1, 2):
        assert ((picture.mask == index) == (plain.mask == index)).all()
    assert (picture.boxes == plain.boxes).all()
    assert board.mask.min() == 0
    assert (board.depth == picture.depth).all()  # up to the glass, not into it
    glass = picture.mask < 0
    assert (picture.depth[glass] < plain.depth[glass]).all()
    assert (picture.rgb != plain.rgb).any(-1)[glass].all()


def test_a_mirror_shows_the_same_bytes_again_and_at_any_sampling():
    scene = mirrored(PLAIN)
    assert scene.render(48).rgb.tobytes() == scene.render(48).rgb.tobytes()
    assert abs(scene.render(96, 1).rgb.astype(float).mean() - scene.render(96, 3).rgb.mean()) < 1.5


def test_the_twin_of_a_scene_with_a_mirror_is_its_mirrored_picture():
    scene = mirrored(replace(PLAIN, camera=Camera(12, 27, 6.0), _cache={}))
    one, other = scene.render(96), scene.twin("mirror").render(96)
    assert np.abs(one.rgb[:, ::-1].astype(int) - other.rgb).mean() < 1.5
