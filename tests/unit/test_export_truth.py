"""The shipped benchmark sets: every answer is recomputed from the scene that its picture shows."""

import re
from functools import cache
from itertools import combinations

import numpy as np
import pytest
from PIL import Image

from vlmlab.benchmarks.export import gqa, llava_bench, shipped, vizwiz, whatsup
from vlmlab.benchmarks.export.gqa_programs import execute
from vlmlab.benchmarks.export.sets import alone, plain
from vlmlab.benchmarks.gqa import read as read_gqa
from vlmlab.benchmarks.vsr import read as read_vsr
from vlmlab.errors import BadInput
from vlmlab.files import read_json
from vlmlab.scenes import Scene, holds, sample
from vlmlab.scenes import programs as scene_programs
from vlmlab.scenes.programs import Ambiguous
from vlmlab.scenes.questions import word

scenes = cache(shipped.scenes)


@pytest.mark.parametrize("name", ["vqav2", "vizwiz", "llava_bench"])
def test_programs_give_the_answers(name):
    asked = shipped.asked(name)
    assert sum(one.question is not None for one in asked.values()) >= 60
    for one in asked.values():
        if one.question is not None:
            assert word(scene_programs.execute(one.question.program, scenes(name)[one.image])) == one.question.answer


def test_the_annotated_answer_is_that_of_the_program():
    asked = shipped.asked("vqav2")
    for row in read_json(shipped.files("vqav2").annotations)["annotations"]:
        assert row["multiple_choice_answer"] == asked[str(row["question_id"])].question.answer


# VSR


def test_vsrs_sentences_are_true_or_false_of_their_scenes():
    for one in read_vsr(shipped.files("vsr").annotations):
        scene = scenes("vsr")[one.image]
        things = alone(scene)
        own = one.reference_frame == "intrinsic"
        frame = "object" if own else "viewer"
        assert holds(scene, one.relation, things[one.subject], things[one.object], frame) is bool(one.label)
        verb = "contains" if one.relation == "contains" else f"is {one.relation}"
        rest = one.caption.removeprefix(f"The {one.subject} {verb} the {one.object}")
        said = own and one.relation in ("left of", "right of", "in front of", "behind")
        assert rest == (f" from the {one.object}'s point of view." if said else ".")


# GQA


@cache
def questions():
    return read_json(shipped.files("gqa").annotations)


def shown(image: str) -> Scene:
    return scenes("gqa")[f"{image}.jpg"]


def test_gqas_programs_give_the_answers():
    for record in questions().values():
        assert execute(record["semantic"], shown(record["imageId"])) == record["answer"], record["question"]


def test_what_is_entailed_follows_wherever_the_question_has_the_same_answer():
    """On every scene of the set: if both can be asked and the first has its answer, the other has its own."""
    answers: dict[tuple, str | None] = {}

    def answer(name: str, image: str) -> str | None:
        record = questions()[name]
        key = (record["question"], image)
        if key not in answers:
            try:
                answers[key] = execute(record["semantic"], shown(image))
            except Ambiguous:
                answers[key] = None
        return answers[key]

    images = sorted({record["imageId"] for record in questions().values()})
    tested = 0
    for name, record in questions().items():
        for other in record["entailed"]:
            assert questions()[other]["imageId"] == record["imageId"]
            for image in images:
                if answer(name, image) == record["answer"] and answer(other, image) is not None:
                    assert answer(other, image) == questions()[other]["answer"], (record["question"], other)
                    tested += 1
        for other in set(record["equivalent"]) - {name}:
            assert other in record["entailed"]
            assert name in questions()[other]["entailed"]
    assert tested > 10_000


def test_balanced_questions_have_something_that_follows_from_them():
    balanced = [record for record in questions().values() if record["isBalanced"]]
    assert sum(bool(record["entailed"]) for record in balanced) / len(balanced) > 0.8
    assert {record["types"]["structural"] for record in balanced} == {"query", "verify", "logical", "choose", "compare"}


def test_pointers_name_the_objects_that_the_words_name():
    graphs = read_json(shipped.folder("gqa") / "val_sceneGraphs.json")
    for record in questions().values():
        objects = graphs[record["imageId"]]["objects"]
        for field, text in (
            ("question", record["question"]),
            ("fullAnswer", record["fullAnswer"]),
            ("answer", record["answer"]),
        ):
            for place, name in record["annotations"][field].items():
                assert text.split()[int(place)].strip("?.,:").lower() == objects[name]["name"]
        for step in record["semantic"]:
            for name in re.findall(r"\((\d+)\)", step["argument"]):
                assert objects[name]["name"] in (*re.split("[ ,]", step["argument"]), record["answer"])


def test_scene_graphs_are_those_of_the_scenes():
    graphs = read_json(shipped.folder("gqa") / "val_sceneGraphs.json")
    for image in sorted(graphs)[:3]:
        assert gqa.graph(image, shown(image)) == graphs[image]
    for image, graph in graphs.items():
        assert [one["name"] for one in graph["objects"].values()] == [item.kind for item in shown(image).objects]
        assert all(0 < one["w"] <= 96 and 0 < one["h"] <= 96 for one in graph["objects"].values())


def test_true_answers_are_valid_and_plausible_and_nothing_is_plausible_but_invalid():
    for one in read_gqa(shipped.files("gqa").annotations, choices=shipped.folder("gqa") / "val_choices.json"):
        assert one.answer in one.plausible
        assert set(one.plausible) <= set(one.valid)


def test_programs_refuse_what_they_do_not_know():
    scene = sample(1, split="test", objects=2)
    kind = scene.objects[0].kind
    found = {"operation": "select", "argument": f"{kind} (1)", "dependencies": []}
    with pytest.raises(BadInput, match="unknown operation 'paint'"):
        execute([found, {"operation": "paint", "argument": "red", "dependencies": [0]}], scene)
    missing = {"operation": "select", "argument": "unicorn (-)", "dependencies": []}
    with pytest.raises(Ambiguous, match="0 objects fit"):
        execute([missing, {"operation": "query color", "argument": "", "dependencies": [0]}], scene)


# VizWiz


def test_spoilt_pictures_do_not_show_what_is_asked_about():
    images = shipped.files("vizwiz").images
    texts = {row["image"]: row["question"] for row in read_json(shipped.files("vizwiz").annotations)}
    counts = dict.fromkeys(vizwiz.REASONS, 0)
    for image, one in shipped.asked("vizwiz").items():
        if one.question is not None:
            continue
        counts[one.picture] += 1
        scene, pixels = scenes("vizwiz")[image], np.array(Image.open(images / image)).astype(int)
        if one.picture == "too dark":
            assert pixels.max() < 30
        elif one.picture == "blurred":  # no edge is left
            assert max(abs(np.diff(pixels, axis=0)).max(), abs(np.diff(pixels, axis=1)).max()) <= 8
        elif one.picture == "absent":
            assert not any(re.search(rf"\b{item.kind}\b", texts[image]) for item in scene.objects)
        elif counts[one.picture] <= 4:
            (index,) = (i for kind, i in alone(scene).items() if re.search(rf"\b{kind}\b", texts[image]))
            mask, whole = scene.render(192).mask, scene.render(192).rgb
            places = [x for x in (0, 96) if (vizwiz.missed(scene, index) == whole[48:144, x : x + 96]).all()]
            assert len(places) == 1
            assert (mask == index + 1).any()
            assert not (mask[48:144, places[0] : places[0] + 96] == index + 1).any()
    assert counts == dict.fromkeys(vizwiz.REASONS, vizwiz.TRIPLES)


def test_mild_changes_leave_the_picture_to_be_seen():
    scene = sample(3, split="test")
    before = plain(scene).astype(float)
    for how in vizwiz.MILD:
        after = vizwiz.taken(scene, how)
        assert (after == vizwiz.taken(scene, how)).all()
        assert np.corrcoef(before.ravel(), after.ravel())[0, 1] > 0.9, how


# What'sUp


def test_the_four_pictures_of_a_set_differ_in_one_objects_place_only():
    sets: dict[str, dict[str, Scene]] = {}
    for path, scene in scenes("whatsup").items():
        subset, _, name = path.partition("/")
        first, *place, last = name.removesuffix(".jpeg").split("_")
        sets.setdefault(f"{subset}/{first}/{last}", {})["_".join(place)] = scene
        assert (
            f"{scene.objects[0].colour}-{scene.objects[0].kind}",
            f"{scene.objects[1].colour}-{scene.objects[1].kind}",
        ) == (first, last)
    assert len(sets) == sum(whatsup.SETS.values())
    names = {spelled: place for place, (_, spelled) in whatsup.WORDS.items()}
    for key, found in sets.items():
        places = whatsup.PLACES[key.partition("/")[0]]
        assert {names[place] for place in found} == set(places)
        for a, b in combinations(found.values(), 2):
            assert (a.objects[1], a.camera, a.light, a.floor, a.wall) == (
                b.objects[1],
                b.camera,
                b.light,
                b.floor,
                b.wall,
            )
            look = [
                (item.kind, item.colour, item.size, item.material, item.yaw) for item in (a.objects[0], b.objects[0])
            ]
            assert look[0] == look[1]
        for place, scene in found.items():
            true = [relation for relation in places.values() if holds(scene, relation, 0, 1)]
            assert true == [places[names[place]]]
    for scene in list(sets["controlled_images/" + next(k for k in sets if "images/" in k).split("/", 1)[1]].values()):
        mask = scene.render(96).mask
        assert min((mask == 1).sum(), (mask == 2).sum()) > 30


# LLaVA-Bench


def test_contexts_hold_boxes_and_captions_of_the_scene_and_no_more():
    from vlmlab.benchmarks.records import lines

    for record in list(lines(shipped.folder("llava_bench") / "context.jsonl"))[:3]:
        scene = scenes("llava_bench")[record.value["image"]]
        told = llava_bench.told(scene)
        assert {key: record.value[key] for key in told} == told
        assert [box["category"] for box in told["instances"]] == [item.kind for item in scene.objects]
        assert all(0 <= edge <= 1 for box in told["instances"] for edge in box["bbox"])
        assert len(set(told["caption"])) == 5


def test_what_the_judge_knows_is_what_is_asked():
    from vlmlab.benchmarks.llava_bench import read

    about = shipped.about()
    for one in read(shipped.files("llava_bench").annotations):
        scene, question = about[one.question_id]
        assert scene == scenes("llava_bench")[one.image]
        assert (question is None) == (one.category == "detail")
        assert question is None or question.text == one.text
