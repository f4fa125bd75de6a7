"""Questions: every stored program gives the stored answer; types, sentences, balance, refusals."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmlab.errors import BadInput, UnknownName
from vlmlab.scenes import Camera, Object, Scene, sample
from vlmlab.scenes.programs import Ambiguous, execute, extreme, facing, step
from vlmlab.scenes.questions import TYPES, Balance, Question, word

SEEDS = st.integers(0, 10**6)
some = settings(max_examples=25, deadline=None)


@pytest.fixture(scope="module")
def many() -> list[tuple[Scene, Question]]:
    """All questions of 150 scenes."""
    drawn = [sample(seed) for seed in range(150)]
    return [(scene, question) for scene in drawn for question in scene.questions(count=16)]


@some
@given(SEEDS, st.sampled_from(["train", "test_combinations"]))
def test_every_program_gives_its_answer(seed: int, split: str) -> None:
    scene = sample(seed, split=split)
    for question in scene.questions(count=16):
        assert word(execute(question.program, scene)) == question.answer


@some
@given(SEEDS)
def test_questions_of_a_scene_differ_and_repeat_with_the_seed(seed: int) -> None:
    scene = sample(seed)
    asked = scene.questions(count=12)
    assert asked == scene.questions(count=12)
    assert len({q.text for q in asked}) == len(asked) <= 12
    assert [q.text for q in asked] != [q.text for q in scene.questions(count=12, seed=seed + 1)]


def test_all_types_occur(many: list[tuple[Scene, Question]]) -> None:
    counts = Counter(question.type for _, question in many)
    assert set(counts) == set(TYPES)
    assert min(counts.values()) > 40


def test_texts_are_questions_and_sentences_end_in_the_answer(many: list[tuple[Scene, Question]]) -> None:
    for _, q in many:
        assert q.text.endswith("?")
        assert q.text[0].isupper()
        assert q.sentence.endswith(("." if q.sentence.endswith(".") else "", f" {q.answer}."))
        assert q.sentence.rstrip(".").endswith(q.answer)
        assert "{" not in q.text + q.sentence
        assert " a orange" not in q.text + q.sentence
        assert q.answer in q.options or not q.options


def test_answers_are_not_in_the_question(many: list[tuple[Scene, Question]]) -> None:
    for _, q in many:
        if q.type == "attribute" and q.topic == "colour":
            assert q.answer not in q.text


def test_yes_and_no_are_drawn_alike(many: list[tuple[Scene, Question]]) -> None:
    closed = [q.answer for _, q in many if q.answer in ("yes", "no")]
    assert 0.4 < closed.count("yes") / len(closed) < 0.6


def test_balance_keeps_each_topic_even(many: list[tuple[Scene, Question]]) -> None:
    balance = Balance(slack=2)
    kept = [q for _, q in many if balance.keep(q)]
    counts: dict[tuple[str, str], Counter] = {}
    for q in kept:
        if q.answer in ("yes", "no"):
            counts.setdefault((q.type, q.topic), Counter())[q.answer] += 1
    assert counts
    assert all(abs(c["yes"] - c["no"]) <= 2 for c in counts.values())
    assert sum(q.answer not in ("yes", "no") for q in kept) == sum(q.answer not in ("yes", "no") for _, q in many)


def test_balance_refuses_what_would_tip_it() -> None:
    yes = Question("existence", "existence", "Is there a cat?", "yes", "yes.", [])
    no = Question("existence", "existence", "Is there a dog?", "no", "no.", [])
    balance = Balance(slack=1)
    assert [balance.keep(q) for q in (yes, yes, no, yes, no, no)] == [True, False, True, True, True, True]
    assert balance.keep(no) is False


def test_existence_agrees_with_the_objects(many: list[tuple[Scene, Question]]) -> None:
    for scene, q in many:
        if q.type == "existence":
            filters = q.program[0]["argument"]
            there = any(all(getattr(o, k) == v for k, v in filters.items()) for o in scene.objects)
            assert (q.answer == "yes") == there


def test_relation_questions_can_be_restricted() -> None:
    asked = [q for seed in range(30) for q in sample(seed).questions(("relation",), 2, relation="left of")]
    assert len(asked) > 20
    assert {q.topic for q in asked} == {"left of"}


def test_types_can_be_restricted() -> None:
    assert {q.type for q in sample(4).questions(("count", "attribute"), 6)} == {"count", "attribute"}


def test_unknown_types_and_relations_are_refused() -> None:
    with pytest.raises(UnknownName, match="did you mean 'count'"):
        sample(0).questions(("counts",))
    with pytest.raises(UnknownName):
        sample(0).questions(relation="leftish")


def test_scenes_with_few_objects_still_give_questions() -> None:
    empty = Scene((), Camera())
    for q in empty.questions(count=8):
        assert q.answer in ("no", "0")
    assert {q.type for q in Scene((Object("cat", "red"),)).questions(count=16)} >= {"existence", "count", "attribute"}


def test_two_objects_at_one_place_are_not_ranked() -> None:
    scene = Scene((Object("cat", "red", x=-0.01), Object("dog", "blue", x=0.01)))
    with pytest.raises(Ambiguous):
        extreme(scene, [0, 1], "left")
    with pytest.raises(Ambiguous):
        extreme(scene, [], "left")
    assert extreme(scene, [1], "left") == 1


@pytest.mark.parametrize(
    ("yaw", "answer"), [(0, "towards the camera"), (90, "right"), (180, "away from the camera"), (-85, "left")]
)
def test_facing(yaw: float, answer: str) -> None:
    assert facing(Scene((Object("car", "red", yaw=yaw),)), 0) == answer


def test_facing_refuses_the_in_between_and_what_has_no_front() -> None:
    with pytest.raises(Ambiguous, match="between"):
        facing(Scene((Object("car", "red", yaw=45),)), 0)
    with pytest.raises(Ambiguous, match="front"):
        facing(Scene((Object("ball", "red"),)), 0)


THREE = Scene(
    (
        Object("cat", "red", "small", x=-1.2, y=-0.8, yaw=0),
        Object("dog", "red", "large", x=1.2, y=-0.8, yaw=90),
        Object("mug", "blue", "small", "shiny", x=0.0, y=1.2),
    )
)
ALL, RED, CAT, MUG = (
    step("select", {}),
    step("select", {"colour": "red"}),
    step("select", {"kind": "cat"}),
    step("select", {"kind": "mug"}),
)
THE_CAT, THE_MUG = [CAT, step("unique", None, 0)], [MUG, step("unique", None, 2)]
LEFT_OF = {"relation": "left of", "frame": "viewer"}


@pytest.mark.parametrize(
    ("program", "answer"),
    [
        ([RED, step("count", None, 0)], 2),
        ([RED, step("exist", None, 0)], True),
        ([RED, step("filter", {"kind": "dog"}, 0), step("count", None, 1)], 1),
        ([*THE_CAT, step("query", "size", 1)], "small"),
        ([*THE_CAT, step("query", "facing", 1)], "towards the camera"),
        ([ALL, step("extreme", "right", 0), step("query", "kind", 1)], "dog"),
        ([ALL, step("extreme", "back", 0), step("query", "colour", 1)], "blue"),
        ([*THE_CAT, *THE_MUG, step("verify", LEFT_OF, 1, 3)], True),
        ([*THE_CAT, *THE_MUG, step("verify", LEFT_OF, 3, 1)], False),
        ([*THE_CAT, *THE_MUG, step("same", "size", 1, 3)], True),
        ([*THE_CAT, *THE_MUG, step("same", "colour", 1, 3)], False),
        ([*THE_CAT, *THE_MUG, step("larger", None, 1, 3)], False),
        ([*THE_CAT, *THE_MUG, step("choose", "front", 1, 3)], "cat"),
        ([*THE_CAT, step("relate", {"relation": "right of", "frame": "viewer"}, 1), step("count", None, 2)], 2),
        ([RED, step("count", None, 0), ALL, step("count", None, 2), step("fewer", None, 1, 3)], True),
        ([RED, step("count", None, 0), ALL, step("count", None, 2), step("more", None, 1, 3)], False),
        ([RED, step("count", None, 0), ALL, step("count", None, 2), step("equal", None, 1, 3)], False),
    ],
)
def test_each_operation(program: list, answer: object) -> None:
    assert execute(program, THREE) == answer


def test_programs_that_cannot_be_executed() -> None:
    with pytest.raises(Ambiguous, match="2 objects"):
        execute([RED, step("unique", None, 0)], THREE)
    with pytest.raises(BadInput, match="unknown operation"):
        execute([step("paint", "red")], THREE)
    with pytest.raises(BadInput, match="empty"):
        execute([], THREE)
