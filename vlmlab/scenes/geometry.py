"""Notebook 00. The measurements of a scene that relations are decided from."""

from math import acos, degrees, hypot
from typing import TYPE_CHECKING

import numpy as np

from vlmlab.scenes.scene import Object, footprint_gap

if TYPE_CHECKING:
    from vlmlab.scenes.scene import Scene

CONTACT = 0.03  # heights closer than this touch


class Geometry:
    """Measurements by object index: image position, depth, gaps, contacts and headings.

    `u` (n,): horizontal position of each object's middle in the picture, 0 left to 1 right;
    `depth` (n,): distance from the viewer along the floor, in scene units.
    """

    def __init__(self, scene: "Scene"):
        self.objects = scene.objects
        middles = np.array([(o.x, o.y, o.z + o.height / 2) for o in self.objects]).reshape(-1, 3)
        camera = scene.camera
        self.u = camera.project(middles)[:, 0]
        forward = camera.axes[2, :2] / np.linalg.norm(camera.axes[2, :2])
        self.forward, self.right = forward, camera.axes[0, :2]
        self.depth = (middles[:, :2] - camera.position[:2]) @ forward
        self._gaps: dict[tuple[int, int], float] = {}

    def gap(self, a: int, b: int) -> float:
        """Distance between the footprints of two objects."""
        key = (min(a, b), max(a, b))
        if key not in self._gaps:
            self._gaps[key] = footprint_gap(self.objects[a], self.objects[b])
        return self._gaps[key]

    def stands(self, a: int, relation: str, b: int) -> bool:
        """Whether a stands "on", "inside" or "under" b: its middle over b's place, and its bottom at its height."""
        return stands(self.objects[a], relation, self.objects[b])

    def supported(self, a: int, b: int) -> bool:
        """Whether a stands on, in or under b, or b on, in or under a."""
        return any(self.stands(a, r, b) or self.stands(b, r, a) for r in ("on", "inside", "under"))

    def distance(self, a: int, b: int) -> float:
        """Distance between the middles of two objects on the floor."""
        return hypot(self.objects[a].x - self.objects[b].x, self.objects[a].y - self.objects[b].y)

    def angle_to(self, a: int, b: int) -> float:
        """Degrees between a's heading and the direction from a to b, 0 to 180."""
        first, second = self.objects[a], self.objects[b]
        dx, dy = second.x - first.x, second.y - first.y
        cosine = (first.heading[0] * dx + first.heading[1] * dy) / max(hypot(dx, dy), 1e-9)
        return degrees(acos(max(-1.0, min(1.0, cosine))))

    def turn(self, a: int, b: int) -> float:
        """Degrees between the headings of two objects, 0 to 180."""
        first, second = self.objects[a].heading, self.objects[b].heading
        return degrees(acos(max(-1.0, min(1.0, first[0] * second[0] + first[1] * second[1]))))

    def view_angle(self, a: int) -> float:
        """Heading of a as the viewer sees it: 0 towards the viewer, 90 to the right, 180 away, 270 to the left."""
        heading = np.array(self.objects[a].heading)
        return float(np.degrees(np.arctan2(heading @ self.right, -(heading @ self.forward)))) % 360


def stands(item: Object, relation: str, owner: Object) -> bool:
    """Whether `item` stands "on", "inside" or "under" `owner`."""
    place = owner.place(relation)
    if place is None or abs(item.z - (owner.z + place.z)) > CONTACT:
        return False
    x, y = owner.local(item.x, item.y)
    return abs(x) <= place.x and abs(y - place.offset) <= place.y and item.height <= place.room
