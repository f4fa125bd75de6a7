"""The floor from above, with objects to drag: an anywidget whose script lies in floor_plan.js. Notebook 15."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from vlmlab.errors import MissingDependency
from vlmlab.scenes import COLOURS, Scene
from vlmlab.scenes.captions import article, full_name, name

try:
    import anywidget
    import traitlets
except ImportError:
    raise MissingDependency("anywidget", "the floor plan") from None

BACK_WALL = 2.6  # scene units along y, as it is rendered


class FloorPlan(anywidget.AnyWidget):
    """A scene seen from above, the camera at the bottom.

    The script sends {"kind": "move", "id", "x", "y", "final"} and {"kind": "turn", "id", "yaw", "final"}; while
    something is dragged, final is False. It changes no object itself: Python shows the scene that came of it, or
    refuses. selected: the object that has the focus, -1 for none.
    """

    _esm = Path(__file__).with_name("floor_plan.js")
    objects = traitlets.List(traitlets.Dict()).tag(sync=True)
    azimuth = traitlets.Float(0.0).tag(sync=True)
    fov = traitlets.Float(34.0).tag(sync=True)
    distance = traitlets.Float(5.0).tag(sync=True)
    wall = traitlets.Float(BACK_WALL).tag(sync=True)
    selected = traitlets.Int(-1).tag(sync=True)

    def show(self, scene: Scene) -> None:
        """Draw a scene."""
        camera, mirror = scene.camera, scene.mirror
        with self.hold_sync():
            self.azimuth, self.fov = camera.azimuth, camera.fov
            self.distance = -float(camera.position[:2] @ scene.geometry.forward)
            self.wall = BACK_WALL if mirror is None else mirror.y
            self.objects = [_described(scene, index) for index in range(len(scene.objects))]
            self.selected = min(self.selected, len(scene.objects) - 1)

    def refuse(self, reason: str) -> None:
        """Put everything back where it was, and say why."""
        self.send({"kind": "refused", "reason": reason})

    def on_edit(self, callback: Callable[[dict[str, Any]], None]) -> None:
        """Call `callback` with what the script sends."""
        self.on_msg(lambda _, content, __: callback(content))


def _described(scene: Scene, index: int) -> dict[str, Any]:
    item = scene.objects[index]
    return {
        "id": index, "label": name(scene, index), "full": article(full_name(item)), "x": item.x, "y": item.y,
        "yaw": item.yaw, "half": list(item.half), "front": item.spec.front, "top": item.top,
        "carried": any(scene.geometry.supported(index, j) for j in range(index)),
        "colour": "#{:02x}{:02x}{:02x}".format(*COLOURS[item.colour]), "dark": sum(COLOURS[item.colour]) < 380,
    }  # fmt: skip
