"""Claims: the world's own sentences are true, false ones are found, any text has a grade that moves the right way."""

from contextlib import suppress
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmlab.benchmarks.claim_words import PHRASES
from vlmlab.benchmarks.claims import CATEGORIES, check, extract, grade, relation_fact, wanted
from vlmlab.errors import BadInput, UnknownName
from vlmlab.scenes import COLOURS, KINDS, NAMES, Object, Scene, holds, sample
from vlmlab.scenes.captions import name
from vlmlab.scenes.kinds import MATERIALS, SIZES
from vlmlab.scenes.programs import FACINGS, Ambiguous, facing
from vlmlab.vlm.conversations import as_item, descriptions, place, statements, worksheets

ROOM = Scene(
    (
        Object("cat", "red", "small", "matte", -1.2, 0.0),
        Object("sofa", "blue", "large", "shiny", 0.2, 0.3),
        Object("dog", "black", "large", "matte", 1.3, -0.8, yaw=90),
        Object("mug", "red", "small", "shiny", 0.2, 0.2, 0.42),
    )
)
"""A cat, a sofa with a mug on it, and a dog that faces right, from left to right."""


def truths(text: str, answer: str = "", scene: Scene = ROOM) -> list[tuple[str, bool]]:
    """(type, truth) of the claims that count."""
    checked = [check(claim, scene, answer) for claim in extract(text).claims]
    return [(each.claim.type, each.truth) for each in checked if each.truth is not None]


@cache
def scene(seed: int) -> Scene:
    return sample(seed, split="test")


@cache
def questions(seed: int):
    return scene(seed).questions(count=16)


def wrong(answer: str) -> str:
    """Another answer of the same kind."""
    known = (("yes", "no"), tuple(COLOURS), tuple(SIZES), MATERIALS, tuple(KINDS), FACINGS, ("2", "3"))
    return next((other for group in known if answer in group for other in group if other != answer), "2")


@pytest.mark.parametrize("seed", range(24))
def test_whatever_the_world_says_is_true_and_understood(seed):
    room = scene(seed)
    for item in [*descriptions(room), *statements(room), *worksheets(room)]:
        found = grade(item.answer, room)
        assert not [each for each in found.checked if each.truth is False], item
        assert found.unparsed == 0, item
        assert found.true > 0 or item.kind == "order", item  # two things may be equally near
    assert grade(room.caption("full"), room).score == 10
    dense = grade(room.caption("dense"), room)  # does not tell where anything faces
    faces = sum(fact[1] == "facing" for group in wanted(room, "detail") for fact in group)
    assert dense.recall == pytest.approx(1 - faces / (4 * len(room.objects) + faces))


@pytest.mark.parametrize("seed", range(24))
def test_true_answers_have_full_marks_and_wrong_words_the_lowest(seed):
    for question in questions(seed):
        item = as_item(scene(seed), question, short=False)
        for category in ("conv", "complex"):
            for text in (item.places + item.answer, item.answer):
                assert grade(text, scene(seed), category, question).score == 10, (text, question)
        assert grade(question.answer, scene(seed), "conv", question).score == 10
        other = wrong(question.answer)
        assert grade(other, scene(seed), "conv", question).score == 1
        assert grade(f"{question.answer}. {other}.", scene(seed), "conv", question).score == 1  # says both


@pytest.mark.parametrize("relation", NAMES)
def test_every_relation_is_read_and_has_the_truth_of_the_margins(relation):
    for seed in range(6):
        room = scene(seed)
        things = range(len(room.objects))
        for a in things:
            for b in things:
                others = [c for c in things if c not in (a, b)][:1]
                if a == b or (relation == "between" and not others):
                    continue
                anchor = (min(b, *others), max(b, *others)) if relation == "between" else b
                noun = " and the ".join(name(room, i) for i in ((b, *others) if relation == "between" else (b,)))
                verbs = ("", "does not ") if relation == "contains" else ("is ", "is not ")
                truth = holds(room, relation, a, anchor)
                for verb, expected in zip(verbs, (truth, None if truth is None else not truth), strict=True):
                    text = f"The {name(room, a)} {verb}{relation} the {noun}."
                    claims = [each for each in extract(text).claims if each.type == "relation"]
                    assert [check(each, room).truth for each in claims] == [expected], text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("There is a cat, a sofa, a dog and a mug in the picture.", [("exists", True)] * 4),
        ("There are two cats.", [("count", False)]),
        ("There are four objects and 2 red objects.", [("count", True)] * 2),
        ("There is no bird. There isn't a car. I can't see any lamps or books.", [("exists", True)] * 4),
        ("There are no dogs.", [("exists", False)]),
        ("The couch is big, blue and glossy.", [("attribute", True)] * 3),
        ("The cat and the mug are red.", [("attribute", True)] * 2),
        ("The cat is not blue but it is shiny.", [("attribute", True), ("attribute", False)]),
        ("The dog faces right and the sofa faces away from the camera.", [("attribute", True), ("attribute", False)]),
        ("On the sofa, there is a mug.", [("relation", True), ("exists", True)]),
        ("There is a red mug. It is on the sofa.", [("exists", True), ("relation", True)]),
        ("The cat is left of the sofa and right of the dog.", [("relation", True), ("relation", False)]),
        ("No cat is on the sofa. Nothing is under the sofa.", [("relation", True)] * 2),
        ("None of the objects is green. Neither the cat nor the sofa is red.",
         [("attribute", True), ("attribute", False), ("attribute", True)]),
        ("The leftmost object is a cat and the object on the sofa is a dog.", [("is", True), ("is", False)]),
        ("From left to right: a cat, a mug and a dog.", [("exists", True)] * 3 + [("relation", True)] * 2),
        ("From right to left: the cat and the dog.", [("relation", False)]),
        ("cat small red towards,B5; mug red,A1.", [("attribute", True)] * 4 + [("place", True), ("place", False)]),
        ("a cat, yes; a red dog, no; a bird, yes.", [("exists", True)] * 2 + [("exists", False)]),
        ("The bird is blue.", [("exists", False)]),  # there is none
        ("There is a blue cat.", [("exists", False)]),
        ("The red object is small.", []),  # which?
        ("The ball faces left. The mug faces left.", [("exists", False)]),  # a mug has no front
        ("The cat is near the sofa.", []),  # the margin refuses it
        ("A cat sits left of a dog that is black.", [("relation", True), ("attribute", True)] + [("exists", True)] * 2),
        ("Of the four objects, two are red. Two of the objects are green.", []),
        ("The mug is on the sofa, which is behind the dog.", [("relation", True)] * 2),
        ("A cat. A red cat.", [("exists", True)] * 2),
        ("The cat is larger than the dog. It is a cat or a dog.", []),
        ("Is there a bird?", []),
        ("A horse stands in the hall.", []),
        ("The mug is not on the cat, but it is on the blue sofa.", [("relation", True)] * 2),
        ("No, the mug is on the sofa, but it is not on the blue sofa.", [("relation", True), ("relation", False)]),
        ("The mug is on the sofa and it is red and it is right of the cat.",
         [("relation", True)] * 2 + [("attribute", True)]),
        ("There is a red mug. It is not on the cat, but it is on the sofa.",
         [("exists", True)] + [("relation", True)] * 2),
        ("It is on the sofa, but it is not on the cat.", []),  # what is?
        ("A mug is on the sofa and it is red.", [("exists", True), ("relation", True)]),  # which of the two?
        ("The cat and the dog are left of the sofa, but it is red.", [("relation", True), ("relation", False)]),
        ("The dog is right of the cat, the cat is red, and it is small.", [("relation", True), ("attribute", True)]),
    ],
)  # fmt: skip
def test_claims_and_their_truth(text, expected):
    assert sorted(truths(text)) == sorted(expected)


def test_left_and_right_are_the_viewers_unless_the_sentence_says_otherwise():
    room = Scene((Object("dog", "black", yaw=0.0), Object("mug", "red", x=1.0)))  # the dog looks at us
    assert truths("The mug is right of the dog.", scene=room) == [("relation", True)]
    assert truths("The mug is on the dog's left.", scene=room) == [("relation", True)]
    assert truths("The mug is to the dog's right side.", scene=room) == [("relation", False)]
    assert truths("From the dog's point of view, the mug is left of the dog.", scene=room) == [("relation", True)]
    assert truths("From our point of view the mug is left of the dog.", scene=room) == [("relation", False)]
    assert truths("From the mug's point of view, the mug is left of the dog.", scene=room) == []


@pytest.mark.parametrize(
    ("text", "answer", "truth"),
    [
        ("yes", "yes", True),
        ("No, there is not.", "yes", False),
        ("The answer is NO.", "no", True),
        ("2", "2", True),
        ("There are three.", "2", False),
        ("None.", "0", True),
        ("a mug", "mug", True),
        ("It is red", "red", True),
        ("away from the camera", "away from the camera", True),
        ("left", "right", False),
        ("red", "yes", None),
        ("", "yes", None),
    ],
)
def test_verdicts(text, answer, truth):
    assert not [
        each for each in truths(text, answer) if each[0] == "exists" and each[1]
    ]  # a verdict names, it does not tell
    found = [
        each for claim, each in ((c, check(c, ROOM, answer)) for c in extract(text).claims) if claim[0] == "answer"
    ]
    assert {each.truth for each in found} == ({truth} if text else set())


def test_one_fact_has_one_form():
    right = relation_fact("right of", 0, 1, True)
    assert right == relation_fact("left of", 1, 0, True) == relation_fact("left of", 0, 1, False)
    assert relation_fact("far from", 0, 1, True) == relation_fact("near", 1, 0, False)
    assert relation_fact("contains", 0, 1, True) == relation_fact("in", 1, 0, True)
    assert relation_fact("on", 0, 1, True) != relation_fact("on", 1, 0, True)
    assert relation_fact("left of", 0, 1, False, "object") != relation_fact("right of", 0, 1, True, "object")
    twice = grade("The cat is left of the sofa. The sofa is right of the cat.", ROOM)
    assert (twice.true, twice.false) == (1, 0)


def test_unparsed_is_the_share_of_sentences_without_a_claim():
    found = grade("A horse stands in the hall. There is a cat. The dog barks! Is it red?", ROOM)
    assert found.unparsed == 3 / 4
    assert grade("", ROOM)[:7] == (1, 0, 0, 0, 0, 0, 0)


def test_the_score_is_its_formula():
    found = grade("There is a red cat and a green dog.", ROOM)  # 1 of 2; there and colour of one of four objects
    facings = 3  # cat, sofa and dog
    recall = 2 / (4 * 4 + facings)
    assert (found.precision, found.recall) == (0.5, recall)
    assert found.score == pytest.approx(1 + 9 * 2 * 0.5 * recall / (0.5 + recall))


def test_an_answer_may_be_given_without_the_verdict():
    seen = set()
    for seed, question in [(i, question) for i in range(12) for question in questions(i)]:
        room, last = scene(seed), question.program[-1]
        if question.type == "existence" and question.answer == "no":
            kind = question.program[0]["argument"].get("kind", "")
            texts = (
                [f"There are 0 {KINDS[kind].plural}."] if kind and kind not in [o.kind for o in room.objects] else []
            )
        elif question.topic == "left" and last["operation"] == "query":
            texts = [
                f"The leftmost object is {question.answer if last['argument'] == 'colour' else 'a ' + question.answer}."
            ]
            i = int(room.geometry.u.argmin())
            named = f"The {name(room, i)} is {room.objects[i].colour}."  # does not say which is leftmost
            assert grade(named, room, "conv", question).recall == 0
        elif question.topic == "left of" and question.type == "relation":
            a, b = question.objects
            texts = [
                f"The {name(room, b)} is {'right' if question.answer == 'yes' else 'left'} of the {name(room, a)}."
            ]
        else:
            continue
        for text in texts:
            seen.add(question.type)
            assert grade(text, room, "conv", question).score == 10, (text, question)
    assert seen == {"existence", "referring", "relation"}


def test_a_description_of_another_scene_scores_far_lower():
    own = [grade(scene(i).caption("full"), scene(i)).score for i in range(20)]
    other = [grade(scene(i + 1).caption("full"), scene(i)).score for i in range(20)]
    assert own == [10.0] * 20
    assert max(other) < 5


def test_mistakes_are_refused():
    with pytest.raises(UnknownName, match="did you mean 'detail'"):
        wanted(ROOM, "details")
    with pytest.raises(BadInput, match="give the question"):
        grade("yes", ROOM, "conv")


@cache
def statements_about(seed: int, truth: bool) -> list[str]:
    """Sentences of one claim each, all true or all false, from the scene alone."""
    room, found = scene(seed), []
    things = range(len(room.objects))
    for i in things:
        item, noun = room.objects[i], name(room, i)
        kinds = sum(other.kind == item.kind for other in room.objects)
        found += [f"The {noun} is {c}." for c in COLOURS if (c == item.colour) == truth]
        found += [f"The {noun} is {c}." for c in (*SIZES, *MATERIALS) if (c in (item.size, item.material)) == truth]
        found += [f"There are {n} {KINDS[item.kind].plural}." for n in range(5) if (n == kinds) == truth]
        found += [f"{noun},{cell}." for cell in ("A1", "D4", "H8") if not truth and cell != place(room, i)]
        found.append(f"{noun},{place(room, i)}." if truth else f"There is no {noun}.")
        with suppress(Ambiguous):
            found += [f"The {noun} faces {way}." for way in FACINGS if (way == facing(room, i)) == truth]
        others = [(j, other) for j in things for other in NAMES if j != i and other not in ("between", "contains")]
        for j, relation in others:
            if holds(room, relation, i, j) is truth:
                found.append(f"The {noun} is {relation} the {name(room, j)}.")
    looks = [(c, k) for c in COLOURS for k in KINDS]
    there = [(o.colour, o.kind) for o in room.objects]
    found += [f"There is a {c} {k}." for c, k in looks if ((c, k) in there) == truth]
    return found


WORDS = sorted({" ".join(phrase) for phrase in PHRASES})
SEEDS = st.integers(0, 5)
JUNK = st.text() | st.lists(st.sampled_from([*WORDS, "C4", ",", ".", ";", ":", "?", "-", "ghost"])).map(" ".join)


@cache
def answers(seed: int) -> st.SearchStrategy[str]:
    """Junk, sentences about the scene, and the two mixed."""
    told = st.sampled_from([*statements_about(seed, True), *statements_about(seed, False)])
    return st.lists(told | JUNK, max_size=6).map(". ".join)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_text_has_a_grade_and_case_and_white_space_do_not_matter(data):
    seed = data.draw(SEEDS)
    question = data.draw(st.sampled_from(questions(seed)))
    text = data.draw(answers(seed))
    for category in CATEGORIES:
        found = grade(text, scene(seed), category, question)
        assert 1 <= found.score <= 10
        assert all(0 <= share <= 1 for share in (found.precision, found.recall, found.unparsed))
    plain = "".join(letter for letter in text if letter.isascii())  # İ and ß change their length with their case
    spaced = data.draw(st.sampled_from([" ", "\n", "\t ", "  \r\n"])).join(f" {plain.swapcase()} ".split(" "))
    before, after = (grade(each, scene(seed), "complex", question) for each in (plain, spaced))
    assert before == after


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_false_claim_more_never_raises_the_score_and_a_true_one_never_lowers_it(data):
    seed = data.draw(SEEDS)
    question = data.draw(st.sampled_from(questions(seed)))
    text = data.draw(answers(seed))
    truth = data.draw(st.booleans())
    verdict = question.answer if truth else wrong(question.answer)
    more = data.draw(st.sampled_from([*statements_about(seed, truth), verdict]))
    for category in CATEGORIES:
        before, after = (grade(each, scene(seed), category, question) for each in (text, f"{text}. {more}"))
        if truth:
            assert after.score >= before.score, more
        else:
            assert after.score <= before.score, more
            assert after.recall <= before.recall, more
