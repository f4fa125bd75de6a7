"""Pictures and their truths: mask, depth and boxes agree with the facts and with one another."""

import numpy as np
import pytest

from vlmlab.errors import BadInput
from vlmlab.scenes import KINDS, Camera, Object, Scene, sample
from vlmlab.scenes.meshes import mesh


@pytest.fixture(scope="module")
def pictures():
    return [(scene, scene.render(96)) for scene in map(sample, range(12))]


def test_shapes_types_and_the_same_bytes(pictures):
    scene, picture = pictures[0]
    assert picture.rgb.shape == (96, 96, 3)
    assert picture.rgb.dtype == np.uint8
    assert picture.mask.shape == picture.depth.shape == (96, 96)
    assert picture.mask.dtype.kind == "i"
    assert picture.depth.dtype == np.float32
    again = scene.render(96)
    assert again.rgb.tobytes() == picture.rgb.tobytes()
    assert again.depth.tobytes() == picture.depth.tobytes()


def test_objects_are_seen_where_they_stand(pictures):
    for scene, picture in pictures:
        for index, item in enumerate(scene.objects):
            rows, columns = np.nonzero(picture.mask == index + 1)
            assert len(rows) > 0
            u, v, depth = scene.camera.project(np.array([item.x, item.y, item.z + item.height / 2]))
            assert abs(columns.mean() / 96 - u) < 0.12
            assert abs(rows.mean() / 96 - v) < 0.12
            assert abs(picture.depth[rows, columns].mean() - depth) < 0.9
            box = picture.boxes[index]
            assert tuple(box) == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)


def test_colours_are_recognisable(pictures):
    red = Scene((Object("ball", "red"),)).render(96)
    mean = red.rgb[red.mask == 1].mean(0)
    assert mean[0] > 2 * max(mean[1], mean[2])


def test_a_shadow_lies_away_from_the_light():
    from dataclasses import replace

    scene = Scene((Object("ball", "white", z=0.0),), Camera(0, 30))
    dark = []
    for azimuth in (-60, 60):
        picture = replace(scene, light=replace(scene.light, azimuth=azimuth, elevation=45), _cache={}).render(96)
        floor = (picture.mask == 0) & (np.arange(96)[:, None] > 45)
        grey = picture.rgb.mean(-1)
        shadow = floor & (grey < 0.8 * np.median(grey[floor]))
        dark.append(np.nonzero(shadow)[1].mean())
    assert dark[0] > 48 > dark[1]  # lamp on the left: shadow on the right


def test_nearer_objects_hide_farther_ones():
    scene = Scene((Object("shelf", "red", y=1.0), Object("shelf", "blue", y=-0.5)), Camera(0, 25))
    alone = Scene((scene.objects[0],), scene.camera).render(96)
    assert (scene.render(96).mask == 1).sum() < 0.7 * (alone.mask == 1).sum()


def test_anti_aliasing_softens_edges_and_sizes_scale():
    scene = sample(4)
    hard, soft = scene.render(96, samples=1), scene.render(96, samples=4)
    assert abs(hard.rgb.astype(float).mean() - soft.rgb.astype(float).mean()) < 1.5
    assert scene.render(33).rgb.shape == (33, 33, 3)
    small, large = scene.render(48).mask > 0, scene.render(192).mask > 0
    assert abs(small.mean() - large.mean()) < 0.02


@pytest.mark.parametrize(("size", "samples"), [(0, 2), (5000, 2), (96, 0), (96, 9)])
def test_impossible_sizes_are_refused(size, samples):
    with pytest.raises(BadInput, match="size must lie in"):
        sample(0).render(size, samples)


@pytest.mark.parametrize("kind", KINDS)
def test_meshes_fit_their_description(kind):
    shape, spec = mesh(kind), KINDS[kind]
    corners = shape.triangles.reshape(-1, 3)
    assert np.allclose(np.linalg.norm(shape.normals, axis=-1), 1, atol=1e-4)
    assert corners[:, 2].min() == pytest.approx(0, abs=0.07)
    assert corners[:, 2].max() == pytest.approx(spec.height, abs=0.12)
    assert np.abs(corners[:, 0]).max() <= spec.x + 0.05
    assert np.abs(corners[:, 1]).max() <= spec.y + 0.10  # a mug's handle sticks out
    assert np.abs(corners[:, 0]).max() >= 0.6 * spec.x
    mirrored = corners * [-1, 1, 1]  # a mirrored picture is the picture of the mirrored scene
    far = np.abs(mirrored[::7, None] - corners[None]).sum(-1).min(1)
    assert far.max() < 0.11  # leaves are not quite symmetric
