"""Notebook 00. Pictures by ray casting: Intel Embree finds what a ray hits, NumPy shades it.

One primary ray and one shadow ray a sample, samples x samples samples a pixel. Matte surfaces follow Lambert; shiny
ones add a Phong highlight and a reflection of the room, bright above and dark below. A ray that hits a mirror goes on
once; the mirror lights nothing.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import cos, radians, sin, tan
from typing import TYPE_CHECKING

import numpy as np

from vlmlab.errors import BadInput
from vlmlab.scenes.kinds import COLOURS
from vlmlab.scenes.meshes import mesh

if TYPE_CHECKING:
    from vlmlab.scenes.scene import Camera, Mirror, Scene

ROOM = np.array(  # floor, back wall: two triangles each
    [
        [[-12, -12, 0], [12, -12, 0], [12, 2.6, 0]], [[-12, -12, 0], [12, 2.6, 0], [-12, 2.6, 0]],
        [[-12, 2.6, 0], [12, 2.6, 0], [12, 2.6, 9]], [[-12, 2.6, 0], [12, 2.6, 9], [-12, 2.6, 9]],
    ],
    np.float32,
)  # fmt: skip
FRAME, WOOD = 0.06, (118, 84, 58)  # of a mirror: width in scene units, colour
ROOM_NORMALS = np.repeat(np.array([[0, 0, 1], [0, 0, 1], [0, -1, 0], [0, -1, 0]], np.float32)[:, None], 3, 1)


@dataclass(frozen=True)
class Render:
    """A picture and its ground truth.

    rgb: uint8 (H, W, 3). mask: int16 (H, W), 0 for the room, i + 1 for scene.objects[i], -(i + 1) for its reflection in
    a mirror. depth: float32 (H, W), distance along the view in scene units, up to a mirror and not into it. boxes:
    float32 (n, 4), x1, y1, x2, y2 in pixels around each object's visible part, zeros where nothing of it is visible.
    """

    rgb: np.ndarray
    mask: np.ndarray
    depth: np.ndarray
    boxes: np.ndarray


@lru_cache(maxsize=8)
def _grid(side: int) -> np.ndarray:
    """Sample positions in the image plane, -0.5 to 0.5, top row first (side * side, 2)."""
    steps = (np.arange(side, dtype=np.float32) + 0.5) / side - 0.5
    x, y = np.meshgrid(steps, -steps)
    return np.stack([x.ravel(), y.ravel()], -1)


def _rays(camera: "Camera", side: int) -> tuple[np.ndarray, np.ndarray]:
    plane = _grid(side) * np.float32(2 * tan(radians(camera.fov) / 2))
    right, up, forward = camera.axes.astype(np.float32)
    directions = plane[:, :1] * right + plane[:, 1:] * up + forward  # length along the view is 1: tfar is the depth
    origins = np.broadcast_to(camera.position.astype(np.float32), directions.shape)
    return np.ascontiguousarray(origins), np.ascontiguousarray(directions)


def _triangles(scene: "Scene") -> tuple[np.ndarray, ...]:
    """All triangles of the scene with normals, colour, owner (0 the room) and shininess; a mirror's glass is last."""
    floor, wall = np.array(scene.floor) / 255, np.array(scene.wall) / 255
    corners, normals = [ROOM], [ROOM_NORMALS]
    colours = [np.array([floor, floor, wall, wall])]
    owners, shiny = [np.zeros(4, np.int16)], [np.zeros(4, bool)]
    for index, item in enumerate(scene.objects):
        part = mesh(item.kind)
        c, s = cos(radians(item.yaw)), sin(radians(item.yaw))
        turn = np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]], np.float32)  # row vectors
        corners.append(part.triangles @ turn * np.float32(item.scale) + np.array([item.x, item.y, item.z], np.float32))
        normals.append(part.normals @ turn)
        colours.append(part.tint[:, None] * (np.array(COLOURS[item.colour]) / 255) + part.own)
        owners.append(np.full(len(part.tint), index + 1, np.int16))
        shiny.append(np.full(len(part.tint), item.material == "shiny"))
    if scene.mirror is not None:
        corners.append(_panels(scene.mirror))
        normals.append(np.broadcast_to(np.array([0, -1, 0], np.float32), (4, 3, 3)))
        colours.append(np.broadcast_to(np.array(WOOD) / 255, (4, 3)))
        owners.append(np.zeros(4, np.int16))
        shiny.append(np.zeros(4, bool))
    return tuple(np.concatenate(pieces) for pieces in (corners, normals, colours, owners, shiny))


def _panels(mirror: "Mirror") -> np.ndarray:
    """The frame of a mirror, a rectangle a little behind it, and the glass: two triangles each (4, 3, 3)."""
    panels = []
    for y, edge in ((mirror.y + 0.02, 0.0), (mirror.y, FRAME)):
        x, low, high = mirror.width / 2 - edge, edge, mirror.height - edge
        a, b, c, d = (-x, y, low), (x, y, low), (x, y, high), (-x, y, high)
        panels += [[a, b, c], [a, c, d]]
    return np.array(panels, np.float32)


def _bounce(world, origins: np.ndarray, directions: np.ndarray, hit: dict[str, np.ndarray], glass: np.ndarray) -> None:
    """Send the rays `glass` on from the mirror that they hit; writes into all arrays."""
    origins[glass] += directions[glass] * hit["tfar"][glass, None]
    origins[glass, 1] -= np.float32(1e-3)  # off the glass
    directions[glass, 1] *= -1
    beyond = world.run(origins[glass], directions[glass], query="INTERSECT", output=True)
    for name in ("primID", "tfar", "u", "v"):
        hit[name][glass] = beyond[name]


def render(scene: "Scene", size: int = 96, samples: int = 2) -> Render:
    """Render `scene` at `size` x `size` pixels with `samples` x `samples` rays a pixel.

    Raises BadInput for a size outside 8..4096 or samples outside 1..8.
    """
    if not (8 <= size <= 4096 and 1 <= samples <= 8):
        raise BadInput(f"size must lie in 8..4096 and samples in 1..8, got size={size}, samples={samples}")
    from embreex.mesh_construction import TriangleMesh
    from embreex.rtcore_scene import EmbreeScene

    corners, normals, colours, owners, shiny = _triangles(scene)
    world = EmbreeScene()
    TriangleMesh(world, np.ascontiguousarray(corners, np.float32))
    side = size * samples
    origins, directions = _rays(scene.camera, side)
    hit = world.run(origins, directions, query="INTERSECT", output=True)
    depth = np.minimum(hit["tfar"], 30.0)
    glass = np.zeros(0, int)
    if scene.mirror is not None and scene.mirror.reflects:
        glass = np.flatnonzero(hit["primID"] >= len(corners) - 2)
    if len(glass):
        _bounce(world, origins, directions, hit, glass)
    face = hit["primID"]
    face[face < 0] = 2  # a ray past the room's edges sees wall
    reach = np.minimum(hit["tfar"], 30.0)

    u, v = hit["u"][:, None], hit["v"][:, None]
    corner_normals = normals[face]
    normal = corner_normals[:, 0] * (1 - u - v) + corner_normals[:, 1] * u + corner_normals[:, 2] * v
    normal *= 1 / np.sqrt(np.einsum("ij,ij->i", normal, normal))[:, None]
    normal *= np.where(np.einsum("ij,ij->i", normal, directions) > 0, np.float32(-1), np.float32(1))[:, None]

    towards = scene.light.direction.astype(np.float32)
    points = origins + directions * reach[:, None] + normal * np.float32(2e-3)
    lambert = np.maximum(normal @ towards, 0)
    lit = np.zeros(len(face), np.float32)
    facing = np.flatnonzero(lambert > 0)  # a surface that faces away needs no shadow ray
    rays = np.broadcast_to(towards, (len(facing), 3))
    lit[facing] = world.run(points[facing], np.ascontiguousarray(rays), query="OCCLUDED") < 0

    ambient = np.float32(scene.light.ambient)
    sky = ambient * (0.75 + 0.25 * normal[:, 2])  # more light from above
    rgb = colours.astype(np.float32)[face] * (sky + (1 - 0.8 * ambient) * lambert * lit)[:, None]
    glossy = np.flatnonzero(shiny[face])
    if len(glossy):
        rgb[glossy] = _gloss(rgb[glossy], normal[glossy], directions[glossy], towards, lit[glossy])

    owner = owners[face]
    owner[glass] *= -1
    pixels = _by_pixel(rgb, size, samples).mean(1) * np.array(scene.light.colour, np.float32)
    ids = _by_pixel(owner[:, None], size, samples)[..., 0]
    ranked = np.sort(ids, axis=1)
    middle = ranked[:, (samples * samples) // 2]  # the median owner is the majority wherever there is one
    chosen = np.argmax(ids == middle[:, None], axis=1)
    depths = _by_pixel(depth[:, None], size, samples)[..., 0][np.arange(size * size), chosen]
    mask = middle.reshape(size, size)
    return Render(
        rgb=(np.clip(pixels, 0, 1) * 255 + 0.5).astype(np.uint8).reshape(size, size, 3),
        mask=mask,
        depth=depths.reshape(size, size).astype(np.float32),
        boxes=_boxes(mask, len(scene.objects)),
    )


def _gloss(rgb: np.ndarray, normal: np.ndarray, view: np.ndarray, towards: np.ndarray, lit: np.ndarray) -> np.ndarray:
    """Add a reflection of the room and a highlight."""
    view = view / np.linalg.norm(view, axis=1, keepdims=True)
    bounce = view - 2 * np.einsum("ij,ij->i", view, normal)[:, None] * normal
    room = np.clip(0.15 + 1.1 * np.clip(3 * bounce[:, 2], -0.1, 1), 0, 1)[:, None]  # a bright ceiling, a dark floor
    highlight = (np.maximum(bounce @ towards, 0) ** 24 * lit)[:, None]
    return 0.72 * rgb + 0.28 * room + 0.9 * highlight


def _by_pixel(values: np.ndarray, size: int, samples: int) -> np.ndarray:
    """Samples of the fine grid (side * side, C) grouped by pixel (size * size, samples * samples, C)."""
    grid = values.reshape(size, samples, size, samples, -1).transpose(0, 2, 1, 3, 4)
    return grid.reshape(size * size, samples * samples, values.shape[-1])


def _boxes(mask: np.ndarray, count: int) -> np.ndarray:
    boxes = np.zeros((count, 4), np.float32)
    for index in range(count):
        rows, columns = np.nonzero(mask == index + 1)
        if len(rows):
            boxes[index] = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
    return boxes
