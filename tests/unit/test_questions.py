"""Questions: every stored answer is its program executed; the doubtful is not asked; the words alone do not tell."""

import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmlab.benchmarks.held_out import is_right
from vlmlab.errors import BadInput, UnknownName
from vlmlab.scenes import NAMES, Camera, Object, Scene, sample
from vlmlab.scenes.captions import caption, order
from vlmlab.scenes.programs import FACINGS, Ambiguous, execute, facing, step
from vlmlab.scenes.questions import TYPES, Balance, word

ASKED = [(scene, q) for scene in map(sample, range(250)) for q in scene.questions(count=16)]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6))
def test_answers_are_the_programs_and_sentences_end_with_them(seed):
    scene = sample(seed)
    for question in scene.questions(count=16):
        assert word(execute(question.program, scene)) == question.answer
        assert is_right(question.sentence, question.answer, "sentence")
        assert question.text.endswith("?")
        assert not question.options or question.answer in question.options


def test_every_type_and_topic_is_asked_and_texts_differ():
    assert {q.type for _, q in ASKED} == set(TYPES)
    for scene in map(sample, range(50)):
        texts = [q.text for q in scene.questions(count=16)]
        assert len(set(texts)) == len(texts)
    topics = {q.topic for _, q in ASKED}
    assert {"colour", "size", "material", "facing", "left of", "on", "count", "chain"} <= topics


def test_articles_fit_and_every_name_in_a_chain_fits_one_object():
    for scene, q in ASKED:
        assert not re.search(r"\b[Aa] [aeiou]|\b[Aa]n [^aeiou]", f"{q.text} {q.sentence}"), q.sentence
        if q.topic == "chain":
            kinds = [o.kind for o in scene.objects]
            for kind in set(kinds):
                if kinds.count(kind) > 1:
                    assert f"the {kind}" not in q.sentence.lower(), q.sentence


def test_balance_keeps_yes_and_no_even_for_each_topic():
    balance, kept = Balance(), Counter()
    for _, q in ASKED:
        if balance.keep(q) and q.answer in ("yes", "no"):
            kept[q.type, q.topic, q.answer] += 1
    for kind, topic, _ in kept:
        assert abs(kept[kind, topic, "yes"] - kept[kind, topic, "no"]) <= balance.slack


def test_types_relation_seed_and_count_are_respected():
    scene = sample(11, objects=4)
    assert {q.type for q in scene.questions(types=("count",), count=5)} == {"count"}
    assert all(q.topic == "left of" for q in scene.questions(types=("relation",), relation="left of"))
    assert len(scene.questions(count=3)) == 3
    assert scene.questions(seed=1) == scene.questions(seed=1)
    assert scene.questions(seed=1) != scene.questions(seed=2)
    every = {
        q.topic for s in (sample(i, objects=4) for i in range(40)) for q in s.questions(types=("relation",), count=40)
    }
    assert every <= set(NAMES)
    assert len(every) >= 24


def test_the_doubtful_is_not_asked():
    near = Scene((Object("ball", "red"), Object("ball", "blue", y=0.7, x=0.02)), Camera(0, 30))
    left = [
        step("select", {"colour": "red"}),
        step("unique", None, 0),
        step("select", {"colour": "blue"}),
        step("unique", None, 2),
    ]
    with pytest.raises(Ambiguous):
        execute([*left, step("verify", {"relation": "left of"}, 1, 3)], near)
    with pytest.raises(Ambiguous, match="2 objects fit"):
        execute([step("select", {"kind": "ball"}), step("unique", None, 0)], near)
    with pytest.raises(Ambiguous, match="no front"):
        facing(near, 0)
    assert not any("left" in q.text for q in near.questions(types=("relation", "choice"), count=10))


def test_facing_names_the_four_directions():
    for yaw, name in zip((0, 90, 180, 270), FACINGS, strict=True):
        assert facing(Scene((Object("cat", "red", yaw=yaw),), Camera(0, 30)), 0) == name


def test_programs_by_hand():
    scene = Scene(
        (Object("cat", "red", x=-1.2), Object("sofa", "blue", x=0.9), Object("cat", "blue", x=0.3, y=-1.3)),
        Camera(0, 30),
    )
    assert execute([step("select", {"kind": "cat"}), step("count", None, 0)], scene) == 2
    assert execute([step("select", {}), step("extreme", "left", 0), step("query", "colour", 1)], scene) == "red"
    sofa = [step("select", {"kind": "sofa"}), step("unique", None, 0)]
    assert execute([*sofa, step("relate", {"relation": "left of"}, 1), step("count", None, 2)], scene) == 2
    both = [
        step("select", {"colour": "red"}),
        step("unique", None, 0),
        *[{**s, "dependencies": [d + 2 for d in s["dependencies"]]} for s in sofa],
    ]
    assert execute([*both, step("same", "colour", 1, 3)], scene) is False
    assert execute([*both, step("same", "size", 1, 3)], scene) is True


def test_unknown_operations_types_and_relations_are_refused():
    scene = sample(0)
    with pytest.raises(BadInput, match="unknown operation 'jump'"):
        execute([step("jump")], scene)
    with pytest.raises(BadInput, match="empty program"):
        execute([], scene)
    with pytest.raises(UnknownName, match="question type"):
        scene.questions(types=("counting",))
    with pytest.raises(UnknownName, match="relation"):
        scene.questions(relation="leftish")
    with pytest.raises(UnknownName, match="caption style"):
        caption(scene, "long")


def test_empty_and_lonely_scenes_have_questions_and_captions():
    empty, lonely = Scene(()), Scene((Object("cat", "red"),))
    assert empty.caption() == "An empty room."
    assert {q.type for q in empty.questions()} <= {"existence", "count", "comparison"}
    assert lonely.caption("short") == "A red cat."
    assert {"existence", "count", "attribute", "referring"} <= {q.type for q in lonely.questions(count=16)}


def test_captions_list_objects_from_left_to_right():
    for scene in map(sample, range(30)):
        text = scene.caption("dense")
        places = [
            text.index(f"{scene.objects[i].material} {scene.objects[i].colour} {scene.objects[i].kind}")
            for i in order(scene, "left")
        ]
        assert places == sorted(places)
        assert list(scene.geometry.u[order(scene, "left")]) == sorted(scene.geometry.u)
