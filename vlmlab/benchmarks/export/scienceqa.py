"""Notebook 05. ScienceQA's files about our scenes: problems with 2 to 4 choices, computed answers and written lectures.

Wherever the choices are as many, the right one stands in each place equally often. Source of the format: Lu et al.
2022, arXiv 2209.09513.
"""

from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np

from vlmlab.benchmarks.export import problems, problems_text
from vlmlab.benchmarks.export.problems import Maker, Problem, Skill
from vlmlab.benchmarks.export.sets import Export, View, held_out, to_json
from vlmlab.scenes import Scene

FIRST, SCENES, EACH = 500_000, 600, 15
MOST = 4  # choices


def build() -> Export:
    """The set: EACH problems of each skill, in a random order."""
    rng = np.random.default_rng(25)
    scenes = list(islice(held_out(FIRST), SCENES))
    found = [*_drawn(problems.SKILLS, scenes, rng, True), *_drawn(problems_text.SKILLS, scenes[::-1], rng, False)]
    found = [found[i] for i in rng.permutation(len(found))]
    places: Counter[int] = Counter()
    records: dict[str, Any] = {}
    pictures = {}
    for number, (problem, skill, scene) in enumerate(found, 1):
        name = str(number)
        n = min(MOST, 1 + len(problem.wrong))
        choices = [problem.wrong[i] for i in rng.permutation(len(problem.wrong))[: n - 1]]
        at = places[n] % n
        places[n] += 1
        choices.insert(at, problem.right)
        if scene is not None:
            pictures[f"{name}/image.png"] = View(scene)
        records[name] = {
            "question": problem.question,
            "choices": choices,
            "answer": at,
            "hint": problem.hint,
            "image": None if scene is None else "image.png",
            "task": "closed choice",
            "grade": f"grade{skill.grade}",
            "subject": skill.subject,
            "topic": skill.topic,
            "category": skill.category,
            "skill": skill.skill,
            "lecture": skill.lecture,
            "solution": problem.solution,
            "split": "test",
        }
    splits = {"train": [], "val": [], "test": list(records)}
    return Export({"problems.json": to_json(records), "pid_splits.json": to_json(splits)}, pictures)


def _drawn(
    skills: dict[Maker, Skill], scenes: list[Scene], rng: np.random.Generator, shown: bool
) -> Iterator[tuple[Problem, Skill, Scene | None]]:
    """EACH problems of each skill; a scene gives one problem, of the skill that has the fewest and finds one in it.

    Among problems with the same choices, each choice is right equally often; without a picture none comes twice.
    """
    done: Counter[Maker] = Counter()
    rights: Counter[tuple] = Counter()
    texts: set[tuple] = set()
    for scene in scenes:
        for maker in sorted(skills, key=lambda each: done[each]):
            problem = maker(scene, rng) if done[maker] < EACH else None
            if problem is None or not problem.wrong or (not shown and problem[::4] in texts):
                continue
            choices = (maker, *sorted([problem.right, *problem.wrong]))
            if rights[*choices, problem.right] > min(rights[*choices, each] for each in problem.wrong):
                continue
            rights[*choices, problem.right] += 1
            texts.add(problem[::4])
            done[maker] += 1
            yield problem, skills[maker], scene if shown else None
            break
