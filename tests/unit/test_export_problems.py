"""The shipped school problems: every answer computed again, from the picture's scene or from the problem's numbers."""

import re
from functools import cache
from math import isclose, sqrt, tan

import numpy as np

from vlmlab.benchmarks.export import shipped
from vlmlab.benchmarks.export.sets import alone
from vlmlab.files import read_json
from vlmlab.scenes import Scene, holds
from vlmlab.scenes.clip_events import GRAVITY
from vlmlab.scenes.scene import footprint_gap

scenes = cache(shipped.scenes)


def problems(skill: str) -> list[tuple[dict, Scene | None]]:
    records = read_json(shipped.files("scienceqa").annotations)
    found = [(record, scenes("scienceqa").get(f"{name}/image.png")) for name, record in records.items()]
    found = [(record, scene) for record, scene in found if record["skill"] == skill]
    assert len(found) == 15
    return found


def right(record: dict) -> str:
    return record["choices"][record["answer"]].removeprefix("the ")


def test_sizes_distances_and_materials_are_those_of_the_scene():
    for record, scene in problems("Compare heights"):
        values = {item.kind: item.spec.height * item.scale for item in scene.objects}
        assert right(record) == (max if "tallest" in record["question"] else min)(values, key=values.get)
    for record, scene in problems("Compare distances"):
        start = next(item for item in scene.objects if item.kind in record["question"].split()[-1])
        gaps = {item.kind: footprint_gap(start, item) for item in scene.objects if item is not start}
        assert right(record) == min(gaps, key=gaps.get)
    for record, scene in problems("Tell shiny from matte"):
        look = "shiny" if "mirrors" in record["question"] else "matte"
        assert [item.kind for item in scene.objects if item.material == look] == [right(record)]


def test_supports_light_and_shadows_are_those_of_the_scene():
    for record, scene in problems("Identify what supports an object"):
        named = re.search(r"the (\w+)(?: away|\?)", record["question"])[1]
        top, below = (right(record), named) if "falls" in record["question"] else (named, right(record))
        assert scene.geometry.stands(alone(scene)[top], "on", alone(scene)[below])
        assert scene.objects[alone(scene)[top]].z > 0
    for record, scene in problems("Tell where light comes from"):
        item = scene.objects[0]  # where the shadow of its top falls, in the picture
        x, y, z = scene.light.direction
        foot = np.array([item.x, item.y, 0.0])
        shade = foot - item.top * np.array([x, y, 0]) / z
        u = scene.camera.project(np.stack([foot, shade]))[:, 0]
        to = "right" if u[1] > u[0] else "left"
        assert right(record).split()[-1] == (
            to if "shadows" in record["question"] else {"left": "right", "right": "left"}[to]
        )
    for record, scene in problems("Compare shadows"):
        lengths = {item.kind: item.top / tan(np.radians(scene.light.elevation)) for item in scene.objects}
        assert right(record) == max(lengths, key=lengths.get)
        assert all(item.z == 0 for item in scene.objects)


def test_what_rolls_and_what_tips_is_where_the_problem_says():
    for skill in ("Tell what rolls", "Compare how stable objects are"):
        for record, scene in problems(skill):
            order = sorted(scene.objects, key=lambda item: scene.geometry.u[scene.objects.index(item)])
            places = ["left", "middle", "right"] if len(order) == 3 else ["left", "right"]
            item = order[places.index(right(record).split()[-1])]
            if skill == "Tell what rolls":
                assert [other.kind for other in order if other.kind in ("ball", "car")] == [item.kind] == ["ball"]
            else:
                assert item == max(order, key=lambda other: min(other.half) / other.height)


def test_directions_and_sentences_fit_the_picture():
    for record, scene in problems("Use a compass rose"):
        start, goal = (scene.objects[alone(scene)[kind]] for kind in re.findall(r"the (\w+)", record["question"]))
        way = np.array([goal.x - start.x, goal.y - start.y])
        east, north = way @ scene.geometry.right, way @ scene.geometry.forward
        main = ("east" if east > 0 else "west") if abs(east) > abs(north) else ("north" if north > 0 else "south")
        assert right(record) == main
    for record, scene in problems("Choose the preposition that fits"):
        a, b = (alone(scene)[kind] for kind in re.findall(r"[Tt]he (\w+)", record["question"].split("? ")[1]))
        true = [words for words in record["choices"] if holds(scene, words.replace("to the ", ""), a, b)]
        assert true == [record["choices"][record["answer"]]]
    for record, scene in problems("Match a sentence with a picture"):
        looks = {(item.colour, item.kind) for item in scene.objects}
        true = [text for text in record["choices"] if set(re.findall(r"an? (\w+) (\w+)", text)) <= looks]
        assert true == [record["choices"][record["answer"]]]


def test_numbers_in_problems_without_a_picture_give_the_answers():
    def numbers(text):
        return [float(each) for each in re.findall(r"\d+(?:\.\d+)?", text)]

    for record, scene in problems("Compute a braking distance"):
        speed, brake, edge = numbers(record["question"])
        stops = speed**2 / (2 * brake) < edge
        assert right(record) == ("It stops on the table." if stops else "It rolls over the edge.")
        assert scene is None
    for record, _ in problems("Predict a collision"):
        ball, box = numbers(record["question"])
        assert right(record).startswith("It rolls on" if ball > 0.5 * box else "It rolls back")
    for record, _ in problems("Compare falls"):
        heights, kinds = numbers(record["question"]), re.findall(r" a (\w+) (?:falls )?from", record["question"])
        times = [sqrt(2 * height / GRAVITY) for height in heights]
        same = isclose(*times)
        assert right(record) == ("They land at the same moment." if same else kinds[times[0] > times[1]])
    for record, _ in problems("Follow directions"):
        steps = {"north": 1j, "south": -1j, "east": 1, "west": -1}
        there = sum(int(n) * steps[way] for n, way in re.findall(r"(\d+) steps (\w+)", record["hint"]))
        assert there / abs(there) == steps[right(record)]
    for record, _ in problems("Find a detail in a text"):
        kind = re.search(r"is the (\w+)\?", record["question"])[1]
        assert re.findall(rf"(\w+) {kind}\b", record["hint"]) == [right(record)]
