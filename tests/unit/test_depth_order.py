"""Depth agrees with the facts: what is in front of another thing is nearer in the picture's depth, where it shows."""

import numpy as np

from vlmlab.scenes import Scene, sample


def along_the_floor(scene: Scene, depth: np.ndarray) -> np.ndarray:
    """Distance from the viewer along the floor of what each pixel shows, worked back from the depth picture (S, S)."""
    camera, side = scene.camera, len(depth)
    steps = ((np.arange(side) + 0.5) / side - 0.5) * 2 * np.tan(np.radians(camera.fov) / 2)
    x, y = np.meshgrid(steps, -steps)
    directions = x[..., None] * camera.axes[0] + y[..., None] * camera.axes[1] + camera.axes[2]
    return (directions * depth[..., None])[..., :2] @ scene.geometry.forward


def test_in_front_of_is_nearer_in_the_depth():
    compared = 0
    for scene in map(sample, range(60)):
        picture = scene.render(64, samples=1)
        alone = [scene.with_objects([item]).render(64, samples=1).mask.astype(bool).sum() for item in scene.objects]
        seen = [(picture.mask == i + 1).sum() / count for i, count in enumerate(alone)]
        along = along_the_floor(scene, picture.depth)
        for relation in scene.relations(("in front of",)):
            pair = (relation.subject, relation.object)
            if relation.frame == "viewer" and relation.margin > 1.5 and min(seen[i] for i in pair) > 0.75:
                first, second = (along[picture.mask == i + 1].mean() for i in pair)
                assert first < second, (scene.seed, pair)
                compared += 1
    assert compared > 40


def test_a_pixel_shows_the_nearest_object():
    for scene in map(sample, range(12)):
        whole = scene.render(64, samples=1)
        alone = [scene.with_objects([item]).render(64, samples=1) for item in scene.objects]
        depths = np.stack([np.where(r.mask > 0, r.depth, np.inf) for r in alone])
        expected = np.where(np.isfinite(depths.min(0)), depths.argmin(0) + 1, 0)
        assert (expected == whole.mask).mean() > 0.995
