"""Notebook 06. Visual illusions, each beside plain controls of the same scene. The truth is what is there.

size: two equal objects, one far away, and two different ones that are equal in the picture. light: a white or yellow
object under a lamp that makes it look like another colour. hidden: an object half behind another. mirror: an object and
its reflection. The lure "illusion" is what someone says who takes the picture for the world; a control has the same
wrong answer as a lure, to tell what part of it is no illusion.
"""

from dataclasses import replace
from math import cos, radians

import numpy as np

from vlmlab.benchmarks.shortcomings.detail import LOW, sliding
from vlmlab.benchmarks.shortcomings.items import Item
from vlmlab.benchmarks.shortcomings.staging import clear, looks, put, repeat, room
from vlmlab.scenes import COLOURS, KINDS, SIZES, Camera, Scene
from vlmlab.scenes.captions import article
from vlmlab.scenes.kinds import held_out
from vlmlab.scenes.scene import Mirror

TINTS = (*(("white", name) for name in ("red", "orange", "yellow", "green", "blue", "purple")),
         ("yellow", "orange"), ("yellow", "red"))  # fmt: skip
"""An object's colour, and the one that it takes on."""
STRENGTHS = (0.0, 1 / 3, 2 / 3, 1.0)
HALF = (0.25, 0.6)  # visible share of a half-hidden object
COUNTS = ("0", "1", "2", "3", "4")
OTHER = {"yes": "no", "no": "yes"}


def items(n: int, seed: int = 0) -> list[Item]:
    """Questions about `n` scenes of each illusion, controls included; the same arguments give the same questions."""
    families = (repeat(build, n, 65 + at, seed) for at, build in enumerate((sizes, lights, hidden, mirrors)))
    return [item for family in families for found in family for item in found]


def sizes(rng: np.random.Generator, number: int = 0) -> list[Item] | None:
    """Two of a kind: equal or different, apart in depth or side by side."""
    camera = Camera(float(rng.uniform(-20, 20)), float(rng.uniform(24, 27)), float(rng.uniform(5.7, 5.9)))
    base = replace(room(rng), camera=camera, _cache={})
    kind, size = str(rng.choice(LOW)), tuple(SIZES)[number % 2]
    colours = [str(colour) for colour in rng.choice(list(COLOURS), 2, replace=False)]
    if any(held_out(colour, kind) for colour in colours):
        return None
    fields = {"kind": kind, "yaw": float(rng.uniform(0, 360))}
    side = float(rng.uniform(0.35, 0.8)) * (1, -1)[number // 2 % 2]

    def pair(first: str, second: str, near: float, far: float) -> Scene:
        one, other = ({**fields, "colour": c, "size": s} for c, s in zip(colours, (first, second), strict=True))
        return base.with_objects([put(base, one, side, near), put(base, other, -side, far)])

    near = float(rng.uniform(-1.4, -1.25))
    a, b = (camera.project(np.array([o.x, o.y, o.height / 2]))[2] for o in pair("small", "large", near, near).objects)
    # away from the viewer by as much as makes the large one as big in the picture as the small one is in front
    far = near + (a * SIZES["large"] / SIZES["small"] - b) / cos(radians(camera.elevation))
    scenes = {
        "equal, one far away": (pair(size, size, near, far), "yes"),
        "different, alike in the picture": (pair("small", "large", near, far), "no"),
        "control: equal, side by side": (pair(size, size, 0.0, 0.0), "yes"),
        "control: different, side by side": (pair("small", "large", 0.0, 0.0), "no"),
    }
    if not all(clear(scene) for scene, _ in scenes.values()):
        return None
    text = f"Are the {colours[0]} {kind} and the {colours[1]} {kind} the same size?"
    return [
        Item("size", row, scene, text, truth, 1 / 2, lures={"illusion": (OTHER[truth],)})
        for row, (scene, truth) in scenes.items()
    ]


def tint(colour: str, seeming: str, strength: float = 1.0) -> tuple[float, float, float]:
    """The colour of a light under which an object of `colour` looks as `seeming` does by day; at strength 0 white."""
    shares = (np.array(COLOURS[seeming]) / np.array(COLOURS[colour])) ** strength
    red, green, blue = (float(share) for share in shares / max(1.0, shares.max()))
    return red, green, blue


def lights(rng: np.random.Generator, number: int = 0) -> list[Item] | None:
    """A white or yellow object under a lamp of another colour, in four strengths, and one that has that colour."""
    colour, seeming = TINTS[number % len(TINTS)]
    base = room(rng)
    look, other = looks(rng, KINDS, KINDS)
    look |= {"colour": colour, "material": "matte"}  # a highlight would tell the lamp's colour
    if {colour, seeming} & {other["colour"]} or held_out(colour, look["kind"]) or held_out(seeming, look["kind"]):
        return None
    side = float(rng.uniform(0.3, 1.0)) * (1, -1)[number // len(TINTS) % 2]
    stays = put(base, other, -side, float(rng.uniform(-0.8, 0.8)))
    scene = base.with_objects([put(base, look, side, float(rng.uniform(-0.8, 0.8))), stays])
    if not clear(scene):
        return None
    text, chance = f"What color is the {look['kind']}?", 1 / len(COLOURS)
    found = []
    for strength in STRENGTHS:
        lit = replace(scene, light=replace(scene.light, colour=tint(colour, seeming, strength)), _cache={})
        row = f"{100 * strength:.0f} % tinted" if strength else "control: white light"
        lures = {"illusion": (seeming,)}
        found.append(Item("light", row, lit, text, colour, chance, 100 * strength, lures))
    really = scene.edit(0, colour=seeming)
    return [*found, Item("light", "control: really of that colour", really, text, seeming, chance)]


def hidden(rng: np.random.Generator, number: int = 0) -> list[Item] | None:
    """An object half behind another, in the open, and not there: whether there is one, and what it is."""
    slide = sliding(rng, number) or []
    half = next((scene for _, scene, share in slide if HALF[0] <= share <= HALF[1]), None)
    if half is None:
        return None
    (_, touching, _), (_, apart, _) = slide[-2:]
    target, before = half.objects
    text = f"Is there {article(f'{target.colour} {target.kind}')} in the picture?"
    cases = {
        "is it there? half hidden": (half, "yes"),
        "control: is it there? beside it": (touching, "yes"),
        "control: is it there? well apart": (apart, "yes"),
        "control: is it there? taken away": (apart.with_objects([before]), "no"),
    }
    found = [
        Item("hidden", row, scene, text, truth, 1 / 2, lures={"illusion": (OTHER[truth],)})
        for row, (scene, truth) in cases.items()
    ]
    text, lures = f"What is the {target.colour} object?", {"illusion": (before.kind,)}
    for row, scene in zip(("half hidden", "beside it", "well apart"), (half, touching, apart), strict=True):
        row = f"what is it? {row}" if scene is half else f"control: what is it? {row}"
        found.append(Item("hidden", row, scene, text, target.kind, 1 / len(KINDS), lures=lures))
    return found


def mirrors(rng: np.random.Generator, number: int = 0) -> list[Item] | None:
    """How many: two objects before a mirror, before a board, before the wall, and one more where a reflection was."""
    base = room(rng)
    look, other = looks(rng, LOW, KINDS)
    side = float(rng.uniform(0.2, 0.8)) * (1, -1)[number % 2]
    one = put(base, look, side, float(rng.uniform(-0.8, 0.2)))
    stays = put(base, other, -side, float(rng.uniform(-0.8, 0.2)))
    plain = base.with_objects([one, stays])
    mirrored, board = (replace(plain, mirror=Mirror(reflects=reflects), _cache={}) for reflects in (True, False))
    more = plain.with_objects([one, stays, put(base, look, side, 1.25)])
    mask = mirrored.render(96, 1).mask
    if not (clear(plain) and clear(more)) or (mask == -1).sum() < 0.35 * (mask == 1).sum():
        return None  # the mirror must show enough of the first
    chance, found = 1 / len(COUNTS), []
    for ask, text, truth in (
        ("how many objects?", "How many objects are there?", 2),
        ("how many of it?", f"How many {KINDS[one.kind].plural} are there?", 1),
    ):
        cases = {
            f"{ask} before a mirror": (mirrored, truth),
            f"control: {ask} before a board": (board, truth),
            f"control: {ask} before the wall": (plain, truth),
            f"control: {ask} really one more": (more, truth + 1),
        }
        for row, (scene, count) in cases.items():
            lures = {"illusion": COUNTS[count + 1 :]}
            found.append(Item("mirror", row, scene, text, str(count), chance, lures=lures))
    return found
