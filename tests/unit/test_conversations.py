"""Worksheets say what the scene's own relations and objects say."""

import re

import pytest

from vlmlab.scenes import sample
from vlmlab.scenes.captions import name
from vlmlab.scenes.kinds import held_out
from vlmlab.scenes.relations import holds
from vlmlab.vlm.conversations import KINDS, WORDS, WORKSHEETS, as_item, place, word_map, worksheets

SCENES = [sample(seed) for seed in range(60)]


@pytest.mark.parametrize("scene", SCENES[:30])
def test_looks_name_every_object_once_with_its_own_attributes(scene):
    text = next((item.answer for item in worksheets(scene) if item.kind == "looks"), "")
    assert text.count(".") == len(scene.objects)
    for index, item in enumerate(scene.objects):
        assert text.count(f"The {name(scene, index)} is {item.size}, {item.material} and {item.colour}") == 1


def in_its_cell(scene) -> int:
    """Checks a scene's inventory; how many of its objects fill the cell that it names."""
    count = 0
    text = next((item.answer for item in worksheets(scene) if item.kind == "inventory"), "")
    rows = dict(row.split(",") for row in text.rstrip(".").split("; ")) if text else {}
    assert len(rows) == len(scene.objects)
    found = word_map(scene, scene.render(96).mask)
    for index, item in enumerate(scene.objects):
        start = f"{name(scene, index)} {item.size} {item.material} {item.colour}"
        (row,) = (row for row in rows if row.startswith(start))
        assert row[len(start) :].strip() in ("", "towards", "away", "left", "right")
        column, line = rows[row]
        assert abs("ABCDEFGH".index(column) + 0.5 - 8 * scene.geometry.u[index]) <= 0.5
        seen = found[8 * (int(line) - 1) + "ABCDEFGH".index(column)]
        if [WORDS[i] for i in seen[1:4]] == [item.material, item.colour, item.kind]:
            count += 1
    return count


def test_the_inventory_gives_each_object_its_attributes_and_the_cell_of_its_middle():
    seen = sum(in_its_cell(scene) for scene in SCENES[:30])
    assert seen > 0.6 * sum(len(scene.objects) for scene in SCENES[:30])  # others are small, hidden, or inside


def test_every_side_of_a_pair_holds():
    told = 0
    for scene in SCENES:
        names = {name(scene, i): i for i in range(len(scene.objects))}
        text = next((item.answer for item in worksheets(scene) if item.kind == "pairs"), "")
        for first, second, facts in re.findall(r"The ([\w ]+) and the ([\w ]+): the \1 is ([^.]+)\.", text):
            relations = re.findall(r"left of|right of|in front of|behind", facts)
            assert 1 <= len(relations) <= 2
            for relation in relations:
                assert holds(scene, relation, names[first], names[second])
                told += 1
        assert text.count(":") == text.count(".") <= 4
    assert told > 150


def test_a_checklist_is_right_and_balanced():
    yes = no = 0
    for scene in SCENES:
        item = next(item for item in worksheets(scene) if item.kind == "checklist")
        entries = re.findall(r"an? ([a-z ]+), (yes|no)", item.answer)
        assert ", ".join(re.findall(r"(an? [a-z ]+), (?:yes|no)", item.answer)) in item.question
        for noun, verdict in entries:
            *colour, kind = noun.split()
            there = any(o.kind == kind and (not colour or o.colour == colour[0]) for o in scene.objects)
            assert verdict == ("yes" if there else "no")
            if colour:
                assert not held_out(colour[0], kind)
            yes, no = yes + there, no + (not there)
    assert 0.4 < yes / (yes + no) < 0.6


def test_the_same_scene_gives_the_same_worksheets():
    assert worksheets(SCENES[3]) == worksheets(SCENES[3])
    assert set(WORKSHEETS) < set(KINDS)


def test_an_empty_room_has_a_checklist_of_absent_things():
    empty = sample(5, objects=0)
    assert not empty.objects
    (item,) = worksheets(empty)
    assert item.kind == "checklist"
    assert "yes" not in item.answer


def test_places_come_before_a_verdict_that_depends_on_them():
    told = {"relation": 0, "choice": 0, "referring": 0, "multi_hop": 0}
    for scene in SCENES:
        for question in scene.questions(count=16):
            item, short = as_item(scene, question, False), as_item(scene, question, True)
            assert item.answer == question.sentence
            assert (short.places, short.answer) == ("", question.answer)
            if question.type in ("existence", "count", "attribute", "comparison"):
                assert not item.places
                continue
            if not item.places:
                assert question.topic == "colour"  # "What is the red object?"
                continue
            told[question.type] += 1
            rows = [row.split(",") for row in item.places.removesuffix(". ").split("; ")]
            known = {name(scene, index): place(scene, index) for index in range(len(scene.objects))}
            assert all(known[noun] == cell for noun, cell in rows)
            if question.type in ("referring", "multi_hop"):
                assert len(rows) == len(scene.objects)
                columns = [cell[0] for _, cell in rows]
                assert columns == sorted(columns)  # from left to right
            elif question.topic in ("left of", "right of", "left", "right"):
                assert [noun for noun, _ in rows] == [name(scene, index) for index in question.objects]
                (a, _), (b, _) = (cell for _, cell in rows)
                sign = (question.answer == "yes") == (question.topic == "left of")
                if question.type == "relation" and a != b:
                    assert (a < b) == sign, (item, question.text)
    assert all(count > 20 for count in told.values()), told
