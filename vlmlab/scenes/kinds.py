"""Notebook 00. What can stand in a scene: kinds of object with their size, front and places for other objects.

Lengths are scene units (a large cat is about one unit long). Every kind is described in its own frame: x to its
left-right axis, its front towards -y, z up, the middle of its footprint at the origin.
"""

from dataclasses import dataclass

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (205, 38, 38),
    "orange": (240, 130, 20),
    "yellow": (238, 208, 40),
    "green": (40, 150, 60),
    "blue": (40, 80, 205),
    "purple": (140, 50, 170),
    "white": (238, 238, 238),
    "black": (38, 38, 42),
}
SIZES: dict[str, float] = {"small": 0.66, "large": 1.0}
MATERIALS = ("matte", "shiny")


@dataclass(frozen=True)
class Place:
    """A rectangle where another object can stand: at height `z`, with `room` free above it.

    `x`, `y`: half extents of the rectangle; `offset`: its middle along y; all in the owner's frame at size large.
    """

    relation: str  # "on", "inside" or "under"
    x: float
    y: float
    z: float
    room: float
    offset: float = 0.0


@dataclass(frozen=True)
class Kind:
    """One kind of object: half extents x, y and height at size large; whether it has a front; its places."""

    name: str
    x: float
    y: float
    height: float
    front: bool = False
    moves: bool = False
    places: tuple[Place, ...] = ()
    plural: str = ""


def _kind(name: str, x: float, y: float, height: float, **more) -> Kind:
    return Kind(name, x, y, height, **{"plural": name + "s", **more})


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        _kind("cat", 0.19, 0.50, 0.80, front=True, moves=True),
        _kind("dog", 0.22, 0.66, 0.84, front=True, moves=True),
        _kind("bird", 0.24, 0.36, 0.62, front=True, moves=True),
        _kind("sofa", 0.80, 0.42, 0.80, front=True, places=(Place("on", 0.52, 0.22, 0.42, 9.0, -0.10),)),
        _kind("chair", 0.30, 0.30, 0.98, front=True,
              places=(Place("on", 0.22, 0.20, 0.48, 9.0, -0.04), Place("under", 0.18, 0.18, 0.0, 0.40))),
        _kind("table", 0.62, 0.44, 0.68,
              places=(Place("on", 0.54, 0.36, 0.68, 9.0), Place("under", 0.46, 0.28, 0.0, 0.58))),
        _kind("lamp", 0.28, 0.28, 1.15),
        _kind("ball", 0.30, 0.30, 0.60),
        _kind("box", 0.42, 0.42, 0.40, plural="boxes", places=(Place("inside", 0.32, 0.32, 0.05, 9.0),)),
        _kind("mug", 0.22, 0.22, 0.44),
        _kind("book", 0.30, 0.38, 0.13),
        _kind("plant", 0.30, 0.30, 0.95),
        _kind("car", 0.32, 0.66, 0.52, front=True, moves=True),
        _kind("shelf", 0.50, 0.22, 1.10, front=True, plural="shelves", places=(Place("on", 0.44, 0.18, 1.10, 9.0),)),
    )
}  # fmt: skip
SMALL_THINGS = ("cat", "bird", "ball", "mug", "book", "plant", "lamp", "box")  # what may stand on, under or in another


def held_out(colour: str, kind: str) -> bool:
    """Whether this colour x kind is kept out of training: 14 of the 112, each colour once or twice, each kind once."""
    colours, kinds = list(COLOURS), list(KINDS)
    return colours.index(colour) == (3 * kinds.index(kind) + kinds.index(kind) // 8) % len(colours)
