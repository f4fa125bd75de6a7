"""Rendering: the picture agrees with the facts, the same scene gives the same bytes, bad sizes are refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmlab.bench import BENCHMARKS
from vlmlab.errors import BadInput
from vlmlab.scenes import KINDS, Camera, Light, Object, Scene, sample
from vlmlab.scenes.meshes import mesh

SEEDS = st.integers(0, 10**6)
some = settings(max_examples=15, deadline=None)
SIZE = 64


def shares_seen(scene: Scene, mask: np.ndarray) -> list[float]:
    """How much of each object is not hidden: its pixels in the scene against its pixels alone."""
    alone = [scene.with_objects([item]).render(SIZE, 1).mask.astype(bool).sum() for item in scene.objects]
    return [float((mask == i + 1).sum() / max(count, 1)) for i, count in enumerate(alone)]


def floor_depth(scene: Scene, depth: np.ndarray) -> np.ndarray:
    """Distance from the viewer along the floor of what each pixel shows, from the depth picture."""
    side = len(depth)
    camera = scene.camera
    steps = ((np.arange(side) + 0.5) / side - 0.5) * 2 * np.tan(np.radians(camera.fov) / 2)
    x, y = np.meshgrid(steps, -steps)
    directions = x[..., None] * camera.axes[0] + y[..., None] * camera.axes[1] + camera.axes[2]
    return (directions * depth[..., None])[..., :2] @ scene.geometry.forward


def test_shapes_and_types() -> None:
    scene = sample(0)
    r = scene.render(48)
    assert (r.rgb.shape, r.rgb.dtype) == ((48, 48, 3), np.uint8)
    assert (r.mask.shape, r.mask.dtype) == ((48, 48), np.int16)
    assert (r.depth.shape, r.depth.dtype) == ((48, 48), np.float32)
    assert (r.boxes.shape, r.boxes.dtype) == ((len(scene.objects), 4), np.float32)
    assert np.isfinite(r.depth).all()
    assert r.depth.min() > 0


@some
@given(SEEDS)
def test_the_same_scene_gives_the_same_bytes(seed: int) -> None:
    first, second = sample(seed).render(SIZE), Scene.from_json(sample(seed).to_json()).render(SIZE)
    for name in ("rgb", "mask", "depth", "boxes"):
        assert getattr(first, name).tobytes() == getattr(second, name).tobytes()


@some
@given(SEEDS)
def test_every_object_shows(seed: int) -> None:
    scene = sample(seed)
    r = scene.render(SIZE)
    assert set(np.unique(r.mask)) <= set(range(len(scene.objects) + 1))
    held = [any(scene.geometry.stands(i, "under", j) for j in range(len(scene.objects))) for i in range(len(r.boxes))]
    for i, hidden in enumerate(held):
        assert (r.mask == i + 1).sum() >= (1 if hidden else 4)


@some
@given(SEEDS)
def test_boxes_are_tight(seed: int) -> None:
    r = sample(seed).render(SIZE)
    for i, (x1, y1, x2, y2) in enumerate(r.boxes.astype(int)):
        inside = r.mask[y1:y2, x1:x2] == i + 1
        assert inside.sum() == (r.mask == i + 1).sum()
        assert inside[0].any()
        assert inside[-1].any()
        assert inside[:, 0].any()
        assert inside[:, -1].any()


@some
@given(SEEDS)
def test_left_of_is_left_in_the_mask(seed: int) -> None:
    scene = sample(seed)
    mask = scene.render(SIZE, 1).mask
    seen = shares_seen(scene, mask)
    for r in scene.relations(("left of",)):
        if min(seen[r.subject], seen[r.object]) > 0.75 and r.frame == "viewer":
            first, second = (np.argwhere(mask == i + 1)[:, 1].mean() for i in (r.subject, r.object))
            assert first < second


@some
@given(SEEDS)
def test_in_front_of_is_nearer_in_the_depth(seed: int) -> None:
    scene = sample(seed)
    r = scene.render(SIZE, 1)
    along, seen = floor_depth(scene, r.depth), shares_seen(scene, r.mask)
    for relation in scene.relations(("in front of",)):
        pair = (relation.subject, relation.object)
        if min(seen[i] for i in pair) > 0.75 and relation.frame == "viewer" and relation.margin > 1.5:
            first, second = (along[r.mask == i + 1].mean() for i in pair)
            assert first < second


@some
@given(SEEDS)
def test_a_nearer_object_hides_a_farther_one(seed: int) -> None:
    # each pixel shows what is nearest of all objects rendered alone
    scene = sample(seed)
    whole = scene.render(SIZE, 1)
    alone = [scene.with_objects([item]).render(SIZE, 1) for item in scene.objects]
    depths = np.stack([np.where(r.mask > 0, r.depth, np.inf) for r in alone])
    expected = np.where(np.isfinite(depths.min(0)), depths.argmin(0) + 1, 0)
    assert (expected == whole.mask).mean() > 0.995


def test_an_object_lies_where_the_camera_projects_it() -> None:
    for x, y in ((-1.0, 0.5), (0.0, 0.0), (1.2, -0.7)):
        scene = Scene((Object("ball", "red", x=x, y=y),), Camera(azimuth=10))
        rows, columns = np.nonzero(scene.render(96).mask)
        u, v, _ = scene.camera.project(np.array([x, y, 0.3]))
        assert columns.mean() / 96 == pytest.approx(u, abs=0.01)
        assert rows.mean() / 96 == pytest.approx(v, abs=0.01)


def test_depth_of_the_floor_is_that_of_the_plane() -> None:
    scene = Scene((), Camera(azimuth=0))
    depth = scene.render(32, 1).depth
    along = floor_depth(scene, depth)
    height = scene.camera.position[2]
    camera = scene.camera
    v = ((np.arange(32) + 0.5) / 32 - 0.5) * 2 * np.tan(np.radians(camera.fov) / 2)
    down = camera.axes[2, 2] - v * camera.axes[1, 2]  # how fast a ray of each row falls
    assert np.allclose(depth[-1], height / -down[-1], rtol=1e-4)
    assert (np.diff(along[:, 16]) <= 1e-4).all()  # lower rows are nearer


def test_colour_light_and_shadow() -> None:
    ball = Object("ball", "red")
    scene = Scene((ball,), light=Light(azimuth=-60, elevation=50))
    r, empty = scene.render(64), Scene((), light=Light(azimuth=-60, elevation=50)).render(64)
    red, green, blue = r.rgb[r.mask == 1].mean(0)
    assert red > 2 * max(green, blue)
    shadow = (empty.rgb.astype(int) - r.rgb).sum(-1)[r.mask == 0]
    assert (shadow > 60).sum() > 20  # the floor beside the ball is darker than without it
    assert (shadow >= -3).all()


def test_shiny_differs_from_matte() -> None:
    matte, shiny = (Scene((Object("ball", "blue", material=m),)).render(64).rgb.astype(int) for m in ("matte", "shiny"))
    assert np.abs(matte - shiny).max() > 40


def test_more_samples_smooth_edges() -> None:
    scene = Scene((Object("box", "black"),))
    assert len(np.unique(scene.render(32, 4).rgb)) > len(np.unique(scene.render(32, 1).rgb))


@pytest.mark.parametrize("kind", KINDS)
def test_meshes_fit_their_description(kind: str) -> None:
    part, spec = mesh(kind), KINDS[kind]
    low, high = part.triangles.reshape(-1, 3).min(0), part.triangles.reshape(-1, 3).max(0)
    assert part.triangles.shape == part.normals.shape
    assert low[2] >= -0.01
    assert high[2] <= spec.height + 0.05
    assert (high[:2] <= np.array([spec.x, spec.y]) + 0.07).all()
    assert (low[:2] >= -np.array([spec.x, spec.y]) - 0.07).all()


@pytest.mark.parametrize(("size", "samples"), [(7, 2), (5000, 1), (32, 0), (32, 9)])
def test_sizes_out_of_range_are_refused(size: int, samples: int) -> None:
    with pytest.raises(BadInput, match="size must lie"):
        sample(0).render(size, samples)


def test_bench_says_how_fast() -> None:
    result = BENCHMARKS["render"](n=3, size=24, processes=1)
    assert result["n"] == 3
    assert result["one_process_per_second"] > 0
    assert result["processes_per_second"] > 0
    with pytest.raises(BadInput, match="at least 1"):
        BENCHMARKS["render"](n=0)
