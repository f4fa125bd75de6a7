"""Notebook 05. School problems whose answer follows from the pictured scene: mechanics, light, sizes, maps, words.

A maker takes a scene and gives a problem, or None where the scene has none beyond doubt. Bodies are taken as blocks:
one tips over by itself once its middle is beyond the edge that it is tipped about, at the angle atan(half width /
half height). Mechanics of falling: see scenes/clip_events.py.
"""

from collections.abc import Callable
from itertools import pairwise, permutations
from math import atan2, degrees
from typing import NamedTuple

import numpy as np

from vlmlab.benchmarks.export.sets import alone
from vlmlab.scenes import Scene, holds
from vlmlab.scenes.captions import article, listing
from vlmlab.scenes.relations import margin

RATIO = 1.3  # how much larger the largest must be than the next
COMPASS = ("north", "east", "south", "west")
VIEW = "The picture is taken towards the north. East is on the right."
LINES = "Light travels in straight lines. A shadow lies on the side that is turned away from the light."
WORDS = {"to the left of": "left of", "to the right of": "right of", "in front of": "in front of", "behind": "behind"}
PLACES = {2: ("the object on the left", "the object on the right"),
          3: ("the object on the left", "the object in the middle", "the object on the right")}  # fmt: skip


class Problem(NamedTuple):
    """A problem; `right` and `wrong` are its choices."""

    question: str
    right: str
    wrong: list[str]
    solution: str
    hint: str = ""


class Skill(NamedTuple):
    """What a kind of problem belongs to, in ScienceQA's terms."""

    subject: str
    grade: int
    topic: str
    category: str
    skill: str
    lecture: str


Maker = Callable[[Scene, np.random.Generator], Problem | None]


def _the(kinds: list[str]) -> list[str]:
    return [f"the {kind}" for kind in kinds]


def _largest(values: dict[str, float], ratio: float = RATIO) -> str | None:
    """The name of the largest value if it is larger than the next by the ratio."""
    first, second = sorted(values, key=lambda name: -values[name])[:2] if len(values) > 1 else (None, None)
    return first if first and second and values[first] >= ratio * values[second] else None


def supported(scene: Scene, rng: np.random.Generator) -> Problem | None:
    """What falls, or what carries."""
    things = alone(scene)
    pairs = [
        (a, b) for a, i in things.items() for b, j in things.items() if i != j and scene.geometry.stands(i, "on", j)
    ]
    if not pairs or len(things) < 3:
        return None
    top, below = pairs[0]
    others = [
        kind for kind, i in things.items() if kind not in (top, below) and not scene.geometry.supported(i, things[top])
    ]
    if others and rng.random() < 0.5:
        return Problem(f"Someone pulls the {below} away quickly. Which object falls?", f"the {top}", _the(others),
                       f"The {below} holds up the {top}, so the {top} falls.")  # fmt: skip
    return Problem(
        f"What holds up the {top}?",
        f"the {below}",
        [*_the(others), "the floor alone"],
        f"The {top} stands on the {below}.",
    )


def lights(scene: Scene, rng: np.random.Generator) -> Problem | None:
    """From which side the light comes, or to which side shadows fall."""
    side = float(scene.light.direction[:2] @ scene.geometry.right)
    if abs(side) < 0.3:
        return None
    source, away = ("left", "right") if side < 0 else ("right", "left")
    solution = f"The shadows point to the {away}, so the light comes from the {source}."
    if rng.random() < 0.5:
        return Problem(
            "From which side does the light come?", f"from the {source}", [f"from the {away}"], solution, LINES
        )
    return Problem("To which side do the shadows of the objects fall?", f"to the {away}", [f"to the {source}"],
                   f"The light comes from the {source}, so the shadows fall to the {away}.")  # fmt: skip


def shadow_length(scene: Scene, rng: np.random.Generator) -> Problem | None:
    """Whose shadow is longest: on the floor its length goes with the height."""
    if any(scene.geometry.supported(i, j) for i in range(len(scene.objects)) for j in range(i)):
        return None
    lengths = {kind: scene.objects[i].top for kind, i in alone(scene).items()}
    if len(lengths) < len(scene.objects):
        return None
    longest = _largest(lengths)
    if longest is None:
        return None
    solution = f"The {longest} reaches highest, and under one light the highest object has the longest shadow."
    return Problem(
        "Which object has the longest shadow?", f"the {longest}", _the([k for k in lengths if k != longest]), solution
    )


def heights(scene: Scene, rng: np.random.Generator) -> Problem | None:
    """Which object is tallest, or lowest."""
    values = {kind: scene.objects[i].height for kind, i in alone(scene).items()}
    if len(values) < len(scene.objects):
        return None
    for word, sign in (("tallest", 1), ("shortest", -1)) if rng.random() < 0.5 else (("shortest", -1), ("tallest", 1)):
        found = _largest({kind: value**sign for kind, value in values.items()})
        if found:
            return Problem(f"Which object is the {word} from bottom to top?", f"the {found}",
                           _the([kind for kind in values if kind != found]), f"The {found} is the {word}.")  # fmt: skip
    return None


def nearest(scene: Scene, rng: np.random.Generator) -> Problem | None:
    """Which object stands nearest to another."""
    things = alone(scene)
    for start in rng.permutation(list(things)):
        gaps = {kind: scene.geometry.gap(things[start], i) for kind, i in things.items() if kind != start}
        ranked = sorted(gaps, key=lambda kind: gaps[kind])
        if len(things) == len(scene.objects) and len(ranked) > 1 and gaps[ranked[1]] > RATIO * gaps[ranked[0]] + 0.3:
            solution = f"Less floor lies between the {start} and the {ranked[0]} than to any other object."
            return Problem(f"Which object is nearest to the {start}?", f"the {ranked[0]}", _the(ranked[1:]), solution)
    return None


def material(scene: Scene, rng: np.random.Generator) -> Problem | None:
    """Which object mirrors the light, or does not."""
    things = alone(scene)
    for look, text in (("shiny", "has a surface that mirrors the light"), ("matte", "scatters the light to all sides")):
        found = [kind for kind, i in things.items() if scene.objects[i].material == look]
        if len(found) == 1 and len(things) == len(scene.objects) > 1:
            wrong = _the([kind for kind in things if kind != found[0]])
            return Problem(f"Which object {text}?", f"the {found[0]}", wrong, f"Only the {found[0]} is {look}.")
    return None


def _row(scene: Scene) -> dict[str, str] | None:
    """Kind -> its place in a row of two or three, where nobody can mistake one place for another."""
    things = alone(scene)
    order = sorted(things, key=lambda kind: scene.geometry.u[things[kind]])
    clear = all(holds(scene, "left of", things[a], things[b]) for a, b in pairwise(order))
    if len(things) < len(scene.objects) or len(things) not in PLACES or not clear:
        return None
    return dict(zip(order, PLACES[len(order)], strict=True))


def tips(scene: Scene, rng: np.random.Generator) -> Problem | None:
    """Which object can be tipped furthest before it falls over."""
    row = _row(scene)
    if row is None:
        return None
    angles = {}
    for kind, index in alone(scene).items():
        item = scene.objects[index]
        angles[kind] = degrees(atan2(min(item.half), item.height / 2))
    ranked = sorted(angles, key=lambda kind: -angles[kind])
    if angles[ranked[0]] < angles[ranked[1]] + 8:
        return None
    told = listing([f"the {kind} at about {angles[kind]:.0f} degrees" for kind in ranked])
    question = (
        "Each object is tipped slowly to its narrower side. Which one can be tipped furthest before it falls over?"
    )
    return Problem(question, row[ranked[0]], [place for kind, place in row.items() if kind != ranked[0]],
                   f"An object falls once its middle is beyond its edge: {told}.")  # fmt: skip


def rolls(scene: Scene, rng: np.random.Generator) -> Problem | None:
    """Which object rolls down a slope: the ball."""
    row = _row(scene)
    if row is None or "ball" not in row or "car" in row or scene.objects[alone(scene)["ball"]].z > 0:
        return None
    return Problem("The floor is tilted a little. Which object starts to roll?", row["ball"],
                   [place for kind, place in row.items() if kind != "ball"],
                   f"Only the ball is round on all sides; it is {row['ball']}.")  # fmt: skip


def bearing(scene: Scene, rng: np.random.Generator) -> Problem | None:
    """In which direction one object lies from another, on a map whose north is away from the viewer."""
    things = alone(scene)
    pairs = [(a, b) for a in things for b in things if a != b and not scene.geometry.supported(things[a], things[b])]
    for at in rng.permutation(len(pairs)):
        start, goal = pairs[at]
        a, b = (scene.objects[things[kind]] for kind in (start, goal))
        way = np.array([b.x - a.x, b.y - a.y])
        angle = degrees(atan2(float(way @ scene.geometry.right), float(way @ scene.geometry.forward))) % 360
        sector = round(angle / 90) % 4
        if abs((angle - 90 * sector + 180) % 360 - 180) < 20:
            right = COMPASS[sector]
            return Problem(f"In which direction does someone walk from the {start} to the {goal}?", right,
                           [name for name in COMPASS if name != right],
                           f"{VIEW} From the {start} the {goal} lies in the {right}.", VIEW)  # fmt: skip
    return None


def _stand(scene: Scene) -> tuple[str, str, str] | None:
    """Two objects and the one of WORDS that holds beyond doubt, where none of the others is near to holding."""
    things = alone(scene)
    for (a, i), (b, j) in permutations(things.items(), 2):
        margins = {words: margin(scene, name, i, j) or 0.0 for words, name in WORDS.items()}
        near = [words for words, value in margins.items() if value > 0.5]
        if len(near) == 1 and margins[near[0]] >= 1 and not scene.geometry.supported(i, j):
            return a, near[0], b
    return None


def preposition(scene: Scene, rng: np.random.Generator) -> Problem | None:
    """Which words fill a gap."""
    found = _stand(scene)
    if found is None:
        return None
    a, words, b = found
    return Problem(f"Which words complete the sentence about the picture? The {a} is ... the {b}.", words,
                   [other for other in WORDS if other != words], f"The {a} is {words} the {b}.")  # fmt: skip


def sentence(scene: Scene, rng: np.random.Generator) -> Problem | None:
    """Which sentence tells what the picture shows: colours and kinds may be exchanged."""
    things = alone(scene)
    colours = {kind: scene.objects[i].colour for kind, i in things.items()}
    if len(set(colours.values())) < 2:
        return None
    a = str(rng.choice(list(things)))
    b = str(rng.choice([kind for kind in things if colours[kind] != colours[a]]))
    mixed = [(colours[a], colours[b]), (colours[b], colours[a]), (colours[a], colours[a]), (colours[b], colours[b])]
    right, *wrong = (f"There is {article(f'{x} {a}')} and {article(f'{y} {b}')} in the room." for x, y in mixed)
    return Problem("Which sentence tells what the picture shows?", right, wrong[: 1 + int(rng.integers(3))],
                   f"The {a} is {colours[a]} and the {b} is {colours[b]}.")  # fmt: skip


NATURAL, SOCIAL, LANGUAGE = "natural science", "social science", "language science"
SKILLS: dict[Maker, Skill] = {
    supported: Skill(NATURAL, 3, "physics", "Force and motion", "Identify what supports an object",
                     "An object stays up because something below holds it. Without that, gravity pulls it down."),
    lights: Skill(NATURAL, 4, "physics", "Light and shadow", "Tell where light comes from", LINES),
    shadow_length: Skill(NATURAL, 5, "physics", "Light and shadow", "Compare shadows",
                         "The higher an object reaches, the further its shadow. Under a lower light all shadows grow."),
    heights: Skill(NATURAL, 1, "units-and-measurement", "Sizes", "Compare heights",
                   "Height is measured from the bottom to the top. What is far away looks smaller than it is."),
    nearest: Skill(NATURAL, 2, "units-and-measurement", "Distances", "Compare distances",
                   "A distance between objects is measured along the floor, from edge to edge."),
    material: Skill(NATURAL, 3, "physics", "Materials", "Tell shiny from matte",
                    "A shiny surface throws light back in one direction and has highlights. A matte one scatters it."),
    tips: Skill(NATURAL, 8, "physics", "Force and motion", "Compare how stable objects are",
                "A body falls over once its middle is no longer above its base. A low, wide body can be tipped far."),
    rolls: Skill(NATURAL, 2, "physics", "Force and motion", "Tell what rolls",
                 "A body rolls if it is round on the side that it stands on. Flat ones stay where they are."),
    bearing: Skill(SOCIAL, 4, "geography", "Maps", "Use a compass rose",
                   "Facing north, east is on the right, south behind, and west on the left."),
    preposition: Skill(LANGUAGE, 2, "grammar", "Prepositions", "Choose the preposition that fits",
                       "A preposition tells how a thing stands to another one, as in: the cat is behind the sofa."),
    sentence: Skill(LANGUAGE, 1, "reading-comprehension", "Pictures and sentences", "Match a sentence with a picture",
                    "A sentence fits a picture if everything that it says can be seen there."),
}  # fmt: skip
