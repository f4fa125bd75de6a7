"""The shipped benchmark sets: their files, and what oracles and constant answers get by the official rules."""

import json
from collections import Counter

import pytest
from PIL import Image

from vlmlab.benchmarks import gqa, judges, llava_bench, pope, scienceqa, vizwiz, vqav2, vsr, whatsup
from vlmlab.benchmarks.export import pope as pope_export
from vlmlab.benchmarks.export import shipped
from vlmlab.benchmarks.vqa_text import normalised
from vlmlab.files import read_json
from vlmlab.scenes import KINDS

POPES = [f"pope-{split}" for split in pope_export.SPLITS]
MODULES = {"vqav2": vqav2, "vizwiz": vizwiz, "gqa": gqa, "vsr": vsr, "scienceqa": scienceqa, "whatsup": whatsup,
           "llava_bench": llava_bench, **dict.fromkeys(POPES, pope)}  # fmt: skip


def examples(name):
    files = shipped.files(name)
    return list(MODULES[name].read(files.annotations, files.questions))


def picture(name, example):
    """The path of an example's picture, as its benchmark names it; None without one."""
    if name == "vqav2":
        return f"COCO_val2014_{example.image_id:012d}.jpg"
    return f"{example.image}.jpg" if name == "gqa" else example.image


def annotations(name):
    return read_json(shipped.files(name).annotations)


# Files


def test_every_set_is_there_and_every_picture_is_asked_about():
    assert set(shipped.SETS) == set(MODULES)
    for name in shipped.SETS:
        images = shipped.files(name).images
        asked = {picture(name, example) for example in examples(name)} - {None}
        there = {path.relative_to(images).as_posix() for path in images.rglob("*.*g")}
        assert asked == there == set(shipped.scenes(name)), name
        for path in sorted(there)[:3]:
            with Image.open(images / path) as image:
                assert (image.size, image.mode) == ((96, 96), "RGB")
                assert image.format == ("PNG" if name == "scienceqa" else "JPEG")


def test_the_sets_are_small_and_some_pictures_have_unseen_combinations():
    files = [path for path in shipped.folder("").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 12e6
    for name in shipped.SETS:
        splits = Counter(scene.split for scene in shipped.scenes(name).values())
        assert set(splits) == {"test", "test_combinations"}
        assert 0.1 < splits["test_combinations"] / splits.total() < 0.35


def test_the_fields_are_those_of_the_official_files():
    def fields(rows):
        return {frozenset(row) for row in rows}

    def rows(name):
        return [json.loads(line) for line in shipped.files(name).annotations.read_text().splitlines()]

    vqa, asked = annotations("vqav2"), read_json(shipped.files("vqav2").questions)
    assert {"info", "license", "data_type", "data_subtype"} <= set(vqa) & set(asked)
    assert fields(vqa["annotations"]) == {frozenset(
        ("question_id", "image_id", "question_type", "answer_type", "multiple_choice_answer", "answers"))}  # fmt: skip
    assert all([one["answer_id"] for one in row["answers"]] == [*range(1, 11)] for row in vqa["annotations"])
    assert fields(asked["questions"]) == {frozenset(("question_id", "image_id", "question"))}
    assert fields(annotations("vizwiz")) == {frozenset(("image", "question", "answers", "answer_type", "answerable"))}
    assert fields(rows("pope-random")) == {frozenset(("question_id", "image", "text", "label"))}
    assert [row["label"] for row in rows("pope-random")] == ["yes", "no"] * 300
    assert fields(rows("vsr")) == {frozenset(
        ("image", "image_link", "caption", "label", "relation", "annotator_id", "vote_true_validator_id",
         "vote_false_validator_id", "reference_frame", "subj", "obj"))}  # fmt: skip
    assert fields(annotations("gqa").values()) == {frozenset(
        ("semantic", "semanticStr", "entailed", "equivalent", "question", "imageId", "isBalanced", "groups", "answer",
         "annotations", "types", "fullAnswer"))}  # fmt: skip
    assert fields(annotations("scienceqa").values()) == {frozenset(
        ("question", "choices", "answer", "hint", "image", "task", "grade", "subject", "topic", "category", "skill",
         "lecture", "solution", "split"))}  # fmt: skip
    assert fields(annotations("whatsup")) == {frozenset(("image_path", "caption_options"))}
    assert fields(rows("llava_bench")) == {frozenset(("question_id", "image", "text", "category"))}


# Oracles


@pytest.mark.parametrize("profile", ["official-2021", "lmms-eval"])
def test_vqav2s_oracle_is_always_right_and_the_programs_differ(profile):
    said = {row["question_id"]: row["multiple_choice_answer"] for row in annotations("vqav2")["annotations"]}
    found = vqav2.score(examples("vqav2"), said, profile)
    assert found["accuracy"] == 1.0
    assert set(found["by_answer_type"]) == {"yes/no", "number", "other"}
    assert vqav2.score(examples("vqav2"), said, "official-2016")["accuracy"] < 1.0  # people's articles stay


def test_vizwizs_oracle_is_always_right():
    frequent = {row["image"]: Counter(one["answer"] for one in row["answers"]).most_common(1)[0][0]
                for row in annotations("vizwiz")}  # fmt: skip
    told = [{"image": row["image"], "answer": frequent[row["image"]], "answerable": float(row["answerable"])}
            for row in annotations("vizwiz")]  # fmt: skip
    found = vizwiz.score(examples("vizwiz"), told)
    assert (found["accuracy"], found["average_precision"], found["f1"]) == (1.0, 1.0, 1.0)
    assert all(
        (row["answerable"] == 0) == (frequent[row["image"]] == row["answer_type"]) for row in annotations("vizwiz")
    )


def test_gqas_oracle_is_right_by_every_measure():
    home = shipped.folder("gqa")
    found = list(gqa.read(shipped.files("gqa").annotations, choices=home / "val_choices.json"))
    graphs = read_json(home / "val_sceneGraphs.json")
    even = dict.fromkeys((one.id for one in found), gqa.cells([[1 / 16] * 4] * 4))
    said = {one.id: one.answer for one in found}
    result = gqa.score(found, said, attention=even, scene_graphs=graphs)
    perfect = ("accuracy", "binary", "open", "consistency", "validity", "plausibility")
    assert [result[name] for name in perfect] == [1.0] * len(perfect)
    assert (result["distribution"], result["consistency_missing"]) == (0.0, 0)
    boxes = [[graphs[one.image]["objects"][name] for name in one.objects] for one in found if one.balanced]
    areas = [sum(box["w"] * box["h"] for box in each) / 96**2 for each in boxes]  # attention that is even has no focus
    assert result["grounding"] == pytest.approx(sum(areas) / len(areas))


def test_the_other_oracles_are_always_right():
    for split in pope_export.SPLITS:
        asked = examples(f"pope-{split}")
        for profile in pope.PROFILES:
            assert pope.score(asked, {one.question_id: one.answer for one in asked}, profile)["accuracy"] == 1.0
    asked = examples("vsr")
    found = vsr.score(asked, [one.label for one in asked])
    assert found["accuracy"] == 1.0
    assert set(found["by_category"]) == set(vsr.RELATIONS)  # all seven
    assert set(found["by_reference_frame"]) == {"relative", "intrinsic"}
    school = examples("scienceqa")
    result = scienceqa.score(school, {one.id: scienceqa.LETTERS[one.answer] for one in school})
    assert (result["accuracy"], result["unread"]) == (1.0, 0)
    assert set(result["by_row"]) == set(scienceqa.OFFICIAL.values())
    placed = examples("whatsup")
    result = whatsup.score(placed, [[1.0, 0.5, 0.2, 0.1]] * len(placed), "strict")
    assert (result["accuracy"], result["pair_accuracy"], result["set_accuracy"]) == (1.0, 1.0, 1.0)
    assert (4 * result["sets"], 2 * result["pairs"]) == (len(placed), len(placed))


def test_the_references_are_perfect_answers_to_the_offline_judge():
    asked, home = examples("llava_bench"), shipped.folder("llava_bench")
    written = home / "answers_reference.jsonl"
    found = llava_bench.review(asked, written, written, judges.offline(shipped.about()))
    result = llava_bench.score(asked, found)
    assert (result["relative_score"], result["candidate"]) == (100.0, 10.0)
    assert {name: row["n"] for name, row in result["by_category"].items()} == dict.fromkeys(llava_bench.CATEGORIES, 30)
    silent = {one.question_id: "I do not know." for one in asked}
    poor = llava_bench.score(asked, llava_bench.review(asked, silent, written, judges.offline(shipped.about())))
    assert poor["candidate"] == 1.0
    assert set(llava_bench.contexts(home / "context.jsonl")) == {one.image for one in asked}


# Answers without looking


def test_constant_answers_get_what_the_balance_says():
    for split in pope_export.SPLITS:
        found = pope.score(examples(f"pope-{split}"), {one.question_id: "yes" for one in examples(f"pope-{split}")})
        assert (found["accuracy"], found["precision"], found["recall"]) == (0.5, 0.5, 1.0)
    asked = examples("vsr")
    for row in (1, 0):
        found = vsr.score(asked, [row] * len(asked))
        assert found["accuracy"] == 0.5
        assert {cell["accuracy"] for cell in found["by_relation"].values()} == {0.5}
    never = vizwiz.score(examples("vizwiz"), {one.image: "unanswerable" for one in examples("vizwiz")})
    assert never["accuracy"] == pytest.approx(1 / 3)
    balanced = [one for one in examples("gqa") if one.balanced and one.answer in ("yes", "no")]
    for kind in {one.detailed for one in balanced}:
        yes = [one.answer == "yes" for one in balanced if one.detailed == kind]
        assert sum(yes) / len(yes) == pytest.approx(0.5, abs=0.12), kind


def test_words_alone_do_not_tell():
    """The best answer to each text, whatever the picture, is right about one of two pictures."""
    by_words = {}
    for one in examples("vsr"):
        by_words.setdefault((one.caption, one.reference_frame), []).append(one.label)
    assert {tuple(sorted(labels)) for labels in by_words.values()} == {(0, 1)}
    pairs = read_json(shipped.folder("vqav2") / "v2_mscoco_val2014_complementary_pairs.json")
    rows = {row["question_id"]: row for row in annotations("vqav2")["annotations"]}
    texts = {one.question_id: one.question for one in examples("vqav2")}
    assert sorted(name for pair in pairs for name in pair) == sorted(rows)
    for a, b in pairs:
        assert texts[a] == texts[b]
        assert rows[a]["image_id"] != rows[b]["image_id"]
        assert normalised(rows[a]["multiple_choice_answer"]) != normalised(rows[b]["multiple_choice_answer"])
    first = {name: rows[pair[0]]["multiple_choice_answer"] for pair in pairs for name in pair}
    assert 0.5 <= vqav2.score(examples("vqav2"), first)["accuracy"] < 0.55  # a few people are wrong
    answerable = {}
    for one in examples("vizwiz"):
        answerable.setdefault(one.question.removeprefix("Hi. ").removesuffix(" Thank you."), []).append(one.answerable)
    assert {tuple(sorted(each)) for each in answerable.values()} == {(0, 1, 1)}


def test_the_right_choice_stands_in_every_place_equally_often():
    places = Counter((len(one.choices), one.answer) for one in examples("scienceqa"))
    for n in (2, 3, 4):
        counts = [places[n, place] for place in range(n)]
        assert min(counts) >= 15
        assert max(counts) - min(counts) <= 1
    rights = {}
    for one in examples("scienceqa"):  # of the same choices none is right much more often
        rights.setdefault((one.question.split()[0], *sorted(one.choices)), Counter())[one.choices[one.answer]] += 1
    often = {choices: found for choices, found in rights.items() if found.total() > 6}
    assert len(often) >= 6
    for (_, *choices), found in often.items():
        assert max(found.values()) - min(found[choice] for choice in choices) <= 1


def test_one_preposition_for_all_gets_a_quarter_of_whatsup_and_no_pair():
    placed = examples("whatsup")
    said = [next(i for i, text in enumerate(one.captions) if " to the left of " in text) for one in placed]
    found = whatsup.score(placed, said)
    assert (found["accuracy"], found["pair_accuracy"], found["set_accuracy"]) == (0.25, 0.0, 0.0)


# POPE's rules, once more and in another way


def test_popes_negatives_follow_its_rules():
    shown = {image: [item.kind for item in scene.objects] for image, scene in shipped.scenes("pope-random").items()}
    shown = {image: sorted(set(kinds), key=kinds.index) for image, kinds in shown.items()}
    frequency = {kind: sum(kind in kinds for kinds in shown.values()) for kind in KINDS}
    beside = {
        kind: {other: sum({kind, other} <= set(kinds) for kinds in shown.values()) for other in KINDS} for kind in KINDS
    }
    drawn = Counter()
    for split in pope_export.SPLITS:
        rows = examples(f"pope-{split}")
        assert [one.question_id for one in rows] == list(range(1, 601))
        for start in range(0, 600, 6):
            image, six = rows[start].image, rows[start : start + 6]
            assert {one.image for one in six} == {image}
            named = [one.question.removeprefix("Is there a ").removesuffix(" in the image?") for one in six]
            assert named[::2] == shown[image][:3]
            assert len(set(named)) == 6
            free = [kind for kind in KINDS if kind not in shown[image]]
            for positive, negative in zip(named[::2], named[1::2], strict=True):
                assert negative in free
                if split == "random":
                    drawn[negative] += 1
                else:
                    counts = frequency if split == "popular" else beside[positive]
                    assert negative == min(free, key=lambda kind: (-counts[kind], [*KINDS].index(kind)))
                free.remove(negative)
    assert set(drawn) == set(KINDS)
