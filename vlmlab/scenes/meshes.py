"""Notebook 00. Each kind's surface as triangles, made once from trimesh primitives at size large.

A part is painted with a number, the share of the object's own colour, or with an RGB triple of its own.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np

BLACK, GREY, PALE, WOOD, BEAK, GLASS = (
    (30, 30, 32),
    (120, 120, 124),
    (240, 236, 224),
    (118, 84, 58),
    (236, 150, 40),
    (70, 90, 110),
)
Paint = float | tuple[int, int, int]


@dataclass(frozen=True)
class Mesh:
    """Triangles (T, 3, 3), their corners' normals (T, 3, 3), and paint.

    `tint` (T,): the share of the object's colour; `own` (T, 3): the RGB added to it, both in [0, 1].
    """

    triangles: np.ndarray
    normals: np.ndarray
    tint: np.ndarray
    own: np.ndarray


class _Builder:
    """Collects parts; `smooth` parts interpolate normals over their corners, flat ones do not."""

    def __init__(self) -> None:
        self.parts: list[tuple[np.ndarray, np.ndarray, Paint]] = []

    def _add(self, mesh, paint: Paint, smooth: bool) -> None:
        normals = mesh.vertex_normals[mesh.faces] if smooth else np.repeat(mesh.face_normals[:, None], 3, 1)
        self.parts.append((np.asarray(mesh.triangles), np.asarray(normals), paint))

    def box(self, x, y, z, width, depth, height, paint: Paint = 1.0) -> None:
        """A box by the middle of its bottom."""
        import trimesh

        mesh = trimesh.creation.box((width, depth, height))
        mesh.apply_translation((x, y, z + height / 2))
        self._add(mesh, paint, smooth=False)

    def ball(self, x, y, z, rx, ry=None, rz=None, paint: Paint = 1.0, detail: int = 2) -> None:
        """An ellipsoid by its middle."""
        import trimesh

        mesh = trimesh.creation.icosphere(subdivisions=detail)
        mesh.apply_scale((rx, ry or rx, rz or rx))
        mesh.apply_translation((x, y, z))
        self._add(mesh, paint, smooth=True)

    def rod(self, start, end, radius: float, paint: Paint = 1.0, sections: int = 12) -> None:
        """A cylinder between two points."""
        import trimesh

        self._add(trimesh.creation.cylinder(radius, segment=(start, end), sections=sections), paint, smooth=False)

    def frustum(
        self, z, height, bottom: float, top: float, paint: Paint = 1.0, x=0.0, y=0.0, sections: int = 20
    ) -> None:
        """A round tub or shade around the vertical."""
        import trimesh

        rim = [(0, 0), (bottom, 0), (top, height), (0, height)]
        mesh = trimesh.creation.revolve(np.array(rim), sections=sections)
        mesh.apply_translation((x, y, z))
        self._add(mesh, paint, smooth=False)

    def cone(self, x, y, z, radius: float, tip, paint: Paint = 1.0) -> None:
        """A cone from a round base at (x, y, z) to its tip."""
        import trimesh

        axis = np.subtract(tip, (x, y, z))
        mesh = trimesh.creation.cone(radius, float(np.linalg.norm(axis)), sections=10)
        mesh.apply_transform(trimesh.geometry.align_vectors((0, 0, 1), axis / np.linalg.norm(axis)))
        mesh.apply_translation((x, y, z))
        self._add(mesh, paint, smooth=False)

    def mesh(self) -> Mesh:
        """All parts as one mesh."""
        count = [len(part[0]) for part in self.parts]
        tint = [0.0 if isinstance(p, tuple) else p for *_, p in self.parts]
        own = [np.array(p) / 255 if isinstance(p, tuple) else np.zeros(3) for *_, p in self.parts]
        return Mesh(
            np.concatenate([part[0] for part in self.parts]).astype(np.float32),
            np.concatenate([part[1] for part in self.parts]).astype(np.float32),
            np.repeat(tint, count).astype(np.float32),
            np.repeat(np.array(own), count, axis=0).astype(np.float32),
        )


def _legs(b: _Builder, x: float, y: float, height: float, radius: float, paint: Paint = 0.8) -> None:
    for sx in (-1, 1):
        for sy in (-1, 1):
            b.rod((sx * x, sy * y, 0), (sx * x, sy * y, height), radius, paint, sections=8)


def _cat(b: _Builder) -> None:
    _legs(b, 0.10, 0.22, 0.26, 0.05, 0.9)
    b.ball(0, 0.02, 0.34, 0.17, 0.34, 0.17)
    b.ball(0, -0.32, 0.54, 0.17)
    for side in (-1, 1):
        b.cone(side * 0.10, -0.32, 0.64, 0.07, (side * 0.13, -0.32, 0.80), 0.8)
        b.ball(side * 0.07, -0.47, 0.57, 0.035, paint=BLACK, detail=1)
    b.ball(0, -0.47, 0.48, 0.06, 0.05, 0.04, paint=PALE, detail=1)
    b.rod((0, 0.32, 0.40), (0, 0.46, 0.78), 0.045, 0.9)


def _dog(b: _Builder) -> None:
    _legs(b, 0.12, 0.28, 0.36, 0.06, 0.9)
    b.ball(0, 0.02, 0.44, 0.19, 0.42, 0.18)
    b.ball(0, -0.40, 0.66, 0.16, 0.19, 0.17)
    b.ball(0, -0.58, 0.60, 0.08, 0.13, 0.08, paint=0.85)
    b.ball(0, -0.70, 0.62, 0.04, paint=BLACK, detail=1)
    for side in (-1, 1):
        b.ball(side * 0.17, -0.36, 0.60, 0.045, 0.09, 0.17, paint=0.45, detail=1)
        b.ball(side * 0.07, -0.55, 0.70, 0.03, paint=BLACK, detail=1)
    b.rod((0, 0.40, 0.50), (0, 0.62, 0.62), 0.045, 0.9)


def _bird(b: _Builder) -> None:
    for side in (-1, 1):
        b.rod((side * 0.06, 0, 0), (side * 0.06, 0, 0.16), 0.025, BEAK, sections=6)
        b.ball(side * 0.17, 0.04, 0.31, 0.06, 0.22, 0.12, paint=0.65)
        b.ball(side * 0.06, -0.27, 0.53, 0.025, paint=BLACK, detail=1)
    b.ball(0, 0.0, 0.30, 0.17, 0.24, 0.17)
    b.ball(0, -0.18, 0.49, 0.13)
    b.cone(0, -0.28, 0.47, 0.05, (0, -0.42, 0.45), BEAK)
    b.cone(0, 0.14, 0.32, 0.11, (0, 0.40, 0.38), 0.7)


def _sofa(b: _Builder) -> None:
    b.box(0, 0, 0.06, 1.56, 0.80, 0.22, 0.8)
    b.box(-0.27, -0.08, 0.28, 0.52, 0.60, 0.14)
    b.box(0.27, -0.08, 0.28, 0.52, 0.60, 0.14)
    b.box(0, 0.32, 0.28, 1.56, 0.18, 0.52, 0.9)
    for side in (-1, 1):
        b.box(side * 0.69, 0, 0.28, 0.18, 0.80, 0.28, 0.9)


def _chair(b: _Builder) -> None:
    _legs(b, 0.24, 0.24, 0.42, 0.035, 0.7)
    b.box(0, 0, 0.42, 0.58, 0.58, 0.06)
    b.box(0, 0.26, 0.48, 0.56, 0.06, 0.50)


def _table(b: _Builder) -> None:
    _legs(b, 0.54, 0.36, 0.60, 0.045, 0.7)
    b.box(0, 0, 0.60, 1.24, 0.88, 0.08)


def _lamp(b: _Builder) -> None:
    b.frustum(0, 0.06, 0.20, 0.16, GREY)
    b.rod((0, 0, 0.05), (0, 0, 0.75), 0.03, GREY, sections=8)
    b.frustum(0.68, 0.44, 0.28, 0.15, 1.1)


def _ball(b: _Builder) -> None:
    b.ball(0, 0, 0.30, 0.30, detail=3)


def _box(b: _Builder) -> None:
    b.box(0, 0, 0, 0.80, 0.80, 0.05, 0.5)
    for side in (-1, 1):
        b.box(side * 0.39, 0, 0, 0.05, 0.83, 0.40)
        b.box(0, side * 0.39, 0, 0.83, 0.05, 0.40, 0.95)


def _mug(b: _Builder) -> None:
    b.frustum(0, 0.44, 0.17, 0.19)
    b.frustum(0.43, 0.015, 0.15, 0.15, BLACK)
    b.rod((0, 0.17, 0.34), (0, 0.29, 0.34), 0.03, 0.9, sections=6)
    b.rod((0, 0.29, 0.36), (0, 0.29, 0.12), 0.03, 0.9, sections=6)
    b.rod((0, 0.17, 0.12), (0, 0.29, 0.12), 0.03, 0.9, sections=6)


def _book(b: _Builder) -> None:
    b.box(0, 0, 0, 0.58, 0.74, 0.025)
    b.box(0, -0.01, 0.025, 0.54, 0.70, 0.08, PALE)
    b.box(0, 0, 0.105, 0.58, 0.74, 0.025)
    b.box(0, 0.36, 0.02, 0.58, 0.025, 0.09)


def _plant(b: _Builder) -> None:
    b.frustum(0, 0.30, 0.14, 0.20, WOOD)
    b.rod((0, 0, 0.3), (0, 0, 0.55), 0.03, WOOD, sections=6)
    leaves = ((0, 0, 0.72, 0.20), (0.14, 0.04, 0.56, 0.14), (-0.14, -0.04, 0.58, 0.14), (0.02, 0.13, 0.62, 0.13))
    for x, y, z, r in (*leaves, (-0.02, -0.14, 0.62, 0.13)):
        b.ball(x, y, z, r, r, 1.15 * r, paint=1.0 if z > 0.6 else 0.85, detail=1)


def _car(b: _Builder) -> None:
    for sx in (-1, 1):
        for sy in (-0.38, 0.40):
            b.rod((sx * 0.22, sy, 0.13), (sx * 0.32, sy, 0.13), 0.13, BLACK)
        b.ball(sx * 0.18, -0.65, 0.26, 0.06, 0.03, 0.05, paint=PALE, detail=1)
        b.ball(sx * 0.20, 0.65, 0.26, 0.05, 0.02, 0.04, paint=(170, 20, 20), detail=1)
    b.box(0, 0, 0.10, 0.56, 1.30, 0.22)
    b.box(0, 0.10, 0.32, 0.48, 0.62, 0.20, GLASS)
    b.box(0, 0.12, 0.47, 0.50, 0.52, 0.05)


def _shelf(b: _Builder) -> None:
    b.box(0, 0.20, 0, 1.0, 0.03, 1.10, 0.6)
    for side in (-1, 1):
        b.box(side * 0.48, 0, 0, 0.05, 0.43, 1.10, 0.9)
    for z in (0.02, 0.37, 0.72, 1.05):
        b.box(0, 0, z, 0.96, 0.42, 0.05)


_BUILDERS: dict[str, Callable[[_Builder], None]] = {
    "cat": _cat, "dog": _dog, "bird": _bird, "sofa": _sofa, "chair": _chair, "table": _table, "lamp": _lamp,
    "ball": _ball, "box": _box, "mug": _mug, "book": _book, "plant": _plant, "car": _car, "shelf": _shelf,
}  # fmt: skip


@cache
def mesh(kind: str) -> Mesh:
    """The mesh of a kind at size large, in its own frame."""
    builder = _Builder()
    _BUILDERS[kind](builder)
    return builder.mesh()
