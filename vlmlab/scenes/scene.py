"""Notebook 00. A scene: objects on a floor, a camera, a light, a room; its JSON form and its questions' starting point.

World frame: x to the right and y away from a viewer at azimuth 0, z up; angles in degrees.
"""

import json
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from math import cos, hypot, radians, sin, tan
from typing import TYPE_CHECKING

import numpy as np

from vlmlab.errors import BadInput
from vlmlab.scenes.kinds import COLOURS, KINDS, MATERIALS, SIZES, Kind, Place

if TYPE_CHECKING:
    from vlmlab.scenes.geometry import Geometry
    from vlmlab.scenes.questions import Question
    from vlmlab.scenes.relations import Relation
    from vlmlab.scenes.rendering import Render


WHITE = (1.0, 1.0, 1.0)


@dataclass(frozen=True)
class Object:
    """One object. `yaw` 0 faces a viewer at azimuth 0, 90 faces +x, 180 faces away; `z` is the height of its bottom."""

    kind: str
    colour: str
    size: str = "large"
    material: str = "matte"
    x: float = 0.0
    y: float = 0.0
    z: float = 0.0
    yaw: float = 0.0

    def __post_init__(self) -> None:
        for field_name, known in (("kind", KINDS), ("colour", COLOURS), ("size", SIZES), ("material", MATERIALS)):
            if getattr(self, field_name) not in known:
                raise BadInput(f"object {field_name} {getattr(self, field_name)!r} is not one of {', '.join(known)}")

    @property
    def spec(self) -> Kind:
        """The kind's description."""
        return KINDS[self.kind]

    @property
    def scale(self) -> float:
        """Size factor: 1 for large."""
        return SIZES[self.size]

    @property
    def half(self) -> tuple[float, float]:
        """Half extents of the footprint along the object's own x and y."""
        return self.spec.x * self.scale, self.spec.y * self.scale

    @property
    def height(self) -> float:
        """Height of the object itself."""
        return self.spec.height * self.scale

    @property
    def top(self) -> float:
        """Height of its highest point above the floor."""
        return self.z + self.height

    @property
    def heading(self) -> tuple[float, float]:
        """Unit vector on the floor that the front points to."""
        return sin(radians(self.yaw)), -cos(radians(self.yaw))

    def local(self, x: float, y: float) -> tuple[float, float]:
        """A floor point in this object's frame (its front towards -y)."""
        c, s = cos(radians(self.yaw)), sin(radians(self.yaw))
        dx, dy = x - self.x, y - self.y
        return dx * c + dy * s, -dx * s + dy * c

    def world(self, x: float, y: float) -> tuple[float, float]:
        """A point of this object's frame on the floor."""
        c, s = cos(radians(self.yaw)), sin(radians(self.yaw))
        return self.x + x * c - y * s, self.y + x * s + y * c

    def corners(self) -> list[tuple[float, float]]:
        """The four corners of the footprint."""
        hx, hy = self.half
        return [self.world(x, y) for x, y in ((-hx, -hy), (hx, -hy), (hx, hy), (-hx, hy))]

    def place(self, relation: str) -> Place | None:
        """The place of this object for `relation` ("on", "inside", "under") at its size; None if it has none."""
        for place in self.spec.places:
            if place.relation == relation:
                s = self.scale
                return Place(relation, place.x * s, place.y * s, place.z * s, place.room * s, place.offset * s)
        return None


@dataclass(frozen=True)
class Camera:
    """A pinhole camera that looks at the middle of the floor; `fov` is the full angle of view."""

    azimuth: float = 0.0
    elevation: float = 30.0
    distance: float = 6.2
    fov: float = 34.0

    @cached_property
    def axes(self) -> np.ndarray:
        """Rows right, up, forward: the camera's unit axes in the world (3, 3)."""
        a, e = radians(self.azimuth), radians(self.elevation)
        right = (cos(a), sin(a), 0.0)
        forward = (-sin(a) * cos(e), cos(a) * cos(e), -sin(e))
        up = (-sin(a) * sin(e), cos(a) * sin(e), cos(e))
        return np.array([right, up, forward])

    @cached_property
    def position(self) -> np.ndarray:
        """Where the camera stands (3,)."""
        return np.array([0.0, 0.1, 0.30]) - self.distance * self.axes[2]

    def project(self, points: np.ndarray) -> np.ndarray:
        """World points (..., 3) -> image u, v in [0, 1] from the top left, and depth along the view (..., 3)."""
        right, up, depth = np.moveaxis((points - self.position) @ self.axes.T, -1, 0)
        scale = 2 * tan(radians(self.fov) / 2) * depth
        return np.stack([0.5 + right / scale, 0.5 - up / scale, depth], -1)


@dataclass(frozen=True)
class Light:
    """A distant lamp: where it stands in the sky, and how much of the light is ambient.

    colour: the share of red, green and blue that all light has, lamp, ambient and reflections alike; WHITE by day.
    """

    azimuth: float = -40.0
    elevation: float = 55.0
    ambient: float = 0.45
    colour: tuple[float, float, float] = WHITE

    def __post_init__(self) -> None:
        object.__setattr__(self, "colour", tuple(self.colour))  # JSON gives a list
        if len(self.colour) != 3 or not all(0 <= share <= 1 for share in self.colour):
            raise BadInput(f"a light's colour is three shares between 0 and 1, got {self.colour}")

    @property
    def direction(self) -> np.ndarray:
        """Unit vector from the floor towards the light (3,)."""
        a, e = radians(self.azimuth), radians(self.elevation)
        return np.array([sin(a) * cos(e), -cos(a) * cos(e), sin(e)])


@dataclass(frozen=True)
class Mirror:
    """A framed mirror that stands on the floor at depth `y`, faces the viewer's side and has its middle at x = 0.

    reflects: False for a board of the same shape.
    """

    y: float = 1.6
    width: float = 3.0
    height: float = 1.5
    reflects: bool = True


@dataclass(frozen=True)
class Scene:
    """Everything that a picture, its truths and its questions follow from."""

    objects: tuple[Object, ...]
    camera: Camera = Camera()
    light: Light = Light()
    floor: tuple[int, int, int] = (188, 182, 172)
    wall: tuple[int, int, int] = (214, 216, 220)
    seed: int | None = None
    split: str = "custom"
    mirror: Mirror | None = None
    _cache: dict = field(default_factory=dict, compare=False, repr=False)

    @property
    def geometry(self) -> "Geometry":
        """Positions and distances that relations are decided from, computed once."""
        if "geometry" not in self._cache:
            from vlmlab.scenes.geometry import Geometry

            self._cache["geometry"] = Geometry(self)
        return self._cache["geometry"]

    def render(self, size: int = 96, samples: int = 2) -> "Render":
        """Ray-cast the scene to `size` x `size` pixels with `samples` x `samples` rays a pixel (see rendering.py)."""
        from vlmlab.scenes.rendering import render

        return render(self, size, samples)

    def relations(self, names: tuple[str, ...] | None = None) -> "list[Relation]":
        """All relations that hold beyond doubt (see relations.py)."""
        from vlmlab.scenes.relations import relations

        return relations(self, names)

    def questions(self, **options) -> "list[Question]":
        """Questions with programs and exact answers (see questions.py)."""
        from vlmlab.scenes.questions import questions

        return questions(self, **options)

    def caption(self, style: str = "dense") -> str:
        """A caption: "short", "dense" or "full" (see captions.py)."""
        from vlmlab.scenes.captions import caption

        return caption(self, style)

    def twin(self, kind: str) -> "Scene":
        """A scene that differs in one way: "mirror", "swap" or "relation" (see twins.py)."""
        from vlmlab.scenes.twins import twin

        return twin(self, kind)

    def edit(self, index: int, **changes) -> "Scene":
        """The same scene with fields of one object replaced."""
        objects = list(self.objects)
        objects[index] = replace(objects[index], **changes)
        return self.with_objects(objects)

    def with_objects(self, objects) -> "Scene":
        """The same room, camera and light with other objects."""
        return replace(self, objects=tuple(objects), split="custom", _cache={})

    def to_json(self) -> str:
        """The scene as JSON text, a white light's colour and a mirror that is not there left out; see `from_json`."""
        record = asdict(replace(self, _cache={}))
        del record["_cache"]
        if self.light.colour == WHITE:
            del record["light"]["colour"]
        if self.mirror is None:
            del record["mirror"]
        return json.dumps(record)

    @classmethod
    def from_json(cls, text: str) -> "Scene":
        """Read `to_json`'s text; raises BadInput naming what is wrong."""
        try:
            record = json.loads(text)
            return cls(
                objects=tuple(Object(**item) for item in record["objects"]),
                camera=Camera(**record["camera"]),
                light=Light(**record["light"]),
                floor=tuple(record["floor"]),
                wall=tuple(record["wall"]),
                seed=record["seed"],
                split=record["split"],
                mirror=Mirror(**record["mirror"]) if "mirror" in record else None,
            )
        except BadInput:
            raise
        except (ValueError, KeyError, TypeError) as error:
            raise BadInput(f"not a scene in JSON: {type(error).__name__}: {error}") from None


def footprint_gap(a: Object, b: Object) -> float:
    """Distance between two footprints on the floor; 0 when they overlap.

    Exact for separate rectangles: the nearest points of two convex polygons include a corner of one of them.
    """

    def from_corners(corners: list[tuple[float, float]], box: Object) -> float:
        hx, hy = box.half
        nearest = 1e9
        for corner in corners:
            x, y = box.local(*corner)
            nearest = min(nearest, hypot(max(abs(x) - hx, 0.0), max(abs(y) - hy, 0.0)))
        return nearest

    inside = [(a.x, a.y)]  # catches a small footprint, or two that cross, whose corners lie outside each other
    return min(from_corners(a.corners() + inside, b), from_corners([*b.corners(), (b.x, b.y)], a))
