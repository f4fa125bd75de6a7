"""Notebook 05. School problems without a picture: numbers drawn from a generator, answers computed from them."""

from math import sqrt

import numpy as np

from vlmlab.benchmarks.export.problems import COMPASS, LANGUAGE, NATURAL, SOCIAL, Maker, Problem, Skill
from vlmlab.scenes import COLOURS, KINDS, Scene
from vlmlab.scenes.clip_events import GRAVITY, RESTITUTION
from vlmlab.scenes.relations import SPECS

ONE = 10.0  # numbers are drawn in tenths
STRONG = 1.4  # how far from a tie the numbers must be
BRAKING = (
    "A body that loses b metres a second of its speed every second goes v x v / (2 x b) metres from speed v to rest."
)
OPPOSITES = {name: spec.opposite for name, spec in SPECS.items() if spec.opposite and name < spec.opposite}


def braking(scene: Scene, rng: np.random.Generator) -> Problem | None:
    """Whether a ball stops before the edge of a table."""
    speed, brake, edge = rng.integers(8, 30) / ONE, rng.integers(6, 20) / ONE, rng.integers(3, 25) / ONE
    far = speed * speed / (2 * brake)
    if not (far > STRONG * edge or edge > STRONG * far):
        return None
    stops, falls = "It stops on the table.", "It rolls over the edge."
    right, wrong = (stops, falls) if far < edge else (falls, stops)
    return Problem(
        f"A ball rolls on a table at {speed} metres a second and loses {brake} metres a second of it every second. "
        f"The edge is {edge} metres ahead. What happens?",
        right, [wrong], f"It would come to rest after {far:.2f} metres, and the edge is {edge} metres ahead.", BRAKING,
    )  # fmt: skip


def collision(scene: Scene, rng: np.random.Generator) -> Problem | None:
    """Which way a ball rolls after it has hit a body at rest."""
    ball, box = (int(each) for each in rng.integers(1, 13, 2))
    after = ball - RESTITUTION * box
    if abs(after) < 1:
        return None
    on, back = "It rolls on in the same direction.", "It rolls back."
    right, wrong = (on, back) if after > 0 else (back, on)
    hint = (
        f"After the hit the speed of the ball is (m - {RESTITUTION} x M) / (m + M) times its speed before. m is the "
        "mass of the ball, M that of the other body. A negative speed is a speed backwards."
    )
    question = f"A ball of {ball} kg rolls into a box of {box} kg that is at rest. What does the ball do after the hit?"
    return Problem(question, right, [wrong], f"m - {RESTITUTION} x M is {after:g}.", hint)


def falling(scene: Scene, rng: np.random.Generator) -> Problem | None:
    """What lands first: the time of a fall depends on its height alone."""
    first, second = (str(kind) for kind in rng.choice(list(KINDS), 2, replace=False))
    heights = [int(each) / ONE for each in rng.integers(4, 20, 2)]
    if rng.random() < 0.25:
        heights[1] = heights[0]
    if 0 < abs(heights[0] - heights[1]) < 0.3:
        return None
    both = "They land at the same moment."
    choices = [f"the {first}", f"the {second}", both]
    right = both if heights[0] == heights[1] else choices[heights[0] > heights[1]]
    times = [sqrt(2 * height / GRAVITY) for height in heights]
    return Problem(
        f"At the same moment a {first} falls from a height of {heights[0]} metres and a {second} from {heights[1]} "
        "metres. The air does not matter. Which one lands first?",
        right, [choice for choice in choices if choice != right],
        f"A fall from h metres takes the square root of 2 h / {GRAVITY} seconds: {times[0]:.2f} and {times[1]:.2f}.",
    )  # fmt: skip


def route(scene: Scene, rng: np.random.Generator) -> Problem | None:
    """Where somebody is after two walks, seen from the start."""
    ways = [int(each) for each in rng.integers(0, 4, 2)]
    steps = [int(each) for each in rng.integers(2, 10, 2)]
    vectors = [np.array([(0, 1), (1, 0), (0, -1), (-1, 0)][way]) * n for way, n in zip(ways, steps, strict=True)]
    there = vectors[0] + vectors[1]
    if not there.any() or there.all():
        return None
    right = COMPASS[int(np.argmax([there[1], there[0], -there[1], -there[0]]))]
    hint = f"Mia walks {steps[0]} steps {COMPASS[ways[0]]}. Then she walks {steps[1]} steps {COMPASS[ways[1]]}."
    return Problem("In which direction from where she started is Mia now?", right, [n for n in COMPASS if n != right],
                   f"Together the walks lead {right}.", hint)  # fmt: skip


def opposite(scene: Scene, rng: np.random.Generator) -> Problem | None:
    """Which words mean the opposite."""
    word, right = [*OPPOSITES.items()][rng.integers(len(OPPOSITES))]
    if rng.random() < 0.5:
        word, right = right, word
    others = [each for pair in OPPOSITES.items() for each in pair if each not in (word, right)]
    wrong = [str(each) for each in rng.choice(others, int(rng.integers(1, 4)), replace=False)]
    return Problem(
        f'Which words mean the opposite of "{word}"?', right, wrong, f'"{right}" is the opposite of "{word}".'
    )


def told(scene: Scene, rng: np.random.Generator) -> Problem | None:
    """A colour that a text tells."""
    item = scene.objects[rng.integers(len(scene.objects))]
    if sum(other.kind == item.kind for other in scene.objects) > 1:
        return None
    seen = sorted({other.colour for other in scene.objects if other is not item} - {item.colour})
    wrong = seen or [str(rng.choice([colour for colour in COLOURS if colour != item.colour]))]
    text = scene.caption("dense")
    return Problem(f"According to the text, what color is the {item.kind}?", item.colour, wrong[:3],
                   f"The text names a {item.colour} {item.kind}.", text)  # fmt: skip


SKILLS: dict[Maker, Skill] = {
    braking: Skill(NATURAL, 10, "physics", "Force and motion", "Compute a braking distance",
                   "Twice the speed takes four times the distance to stop."),
    collision: Skill(NATURAL, 12, "physics", "Momentum", "Predict a collision",
                     "In a collision momentum goes from one body to the other; none is lost."),
    falling: Skill(NATURAL, 7, "physics", "Force and motion", "Compare falls",
                   "Without air all bodies fall alike: the time depends on the height alone."),
    route: Skill(SOCIAL, 3, "geography", "Maps", "Follow directions",
                 "Steps in opposite directions cancel one another."),
    opposite: Skill(LANGUAGE, 2, "vocabulary", "Antonyms", "Find the opposite",
                    "Antonyms are words of opposite meaning."),
    told: Skill(LANGUAGE, 4, "reading-comprehension", "Read for detail", "Find a detail in a text",
                "An adjective stands before the noun that it describes."),
}  # fmt: skip
