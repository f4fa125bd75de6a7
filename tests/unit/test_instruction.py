"""Instruction data: what a teacher is told, how it is asked, its replies' form, and each claim checked on the scene."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmlab import instruction
from vlmlab.errors import BadInput, UnknownName
from vlmlab.instruction import (
    DETAILED,
    FAULTS,
    KINDS,
    Told,
    broken_rules,
    judge,
    parse,
    prefix,
    prompt,
    review,
    tell,
    true_answer,
)
from vlmlab.instruction.context import captions
from vlmlab.instruction.template import template
from vlmlab.scenes import Object, Scene, sample

ROOM = Scene(
    (
        Object("cat", "red", "small", "matte", -1.2, 0.0),
        Object("sofa", "blue", "large", "shiny", 0.2, 0.3),
        Object("dog", "black", "large", "matte", 1.3, -0.8, yaw=90),
        Object("mug", "red", "small", "shiny", 0.2, 0.2, 0.42),
    )
)
"""A cat, a sofa with a mug on it, and a dog that faces right, from left to right."""
BOXES = np.array([[12, 24, 36, 48], [30, 40, 70, 80], [0, 0, 0, 0], [48, 32, 56, 40]], np.float32)


def told(scene: Scene) -> Told:
    return Told(scene, captions(scene), ())


# ---------------------------------------------------------------- what a teacher is told
def test_the_context_of_a_scene_by_hand():
    found = tell(ROOM, BOXES, 96)
    assert found.context("conversation").splitlines() == [
        "A red cat, a blue sofa, a red mug and a black dog.",
        "There is a small matte red cat, a large shiny blue sofa, a small shiny red mug and a large matte black dog.",
        "The cat is left of the sofa. The cat is left of the mug. The cat is left of the dog. The sofa is left of the "
        "dog. The mug is left of the dog.",
        "The dog is in front of the cat. The dog is in front of the mug. The dog is in front of the sofa.",
        "The mug is on the sofa. The cat faces towards the camera. The sofa faces towards the camera. The dog faces "
        "right. The cat is far from the dog.",
    ]
    for kind in ("detail", "reasoning"):
        assert found.context(kind).split("\n\n")[1].splitlines() == [
            "cat: [0.125, 0.250, 0.375, 0.500]",
            "sofa: [0.312, 0.417, 0.729, 0.833]",
            "mug: [0.500, 0.333, 0.583, 0.417]",  # of the dog nothing can be seen
        ]


@pytest.mark.parametrize("seed", range(25))
def test_five_captions_say_what_is_beyond_doubt(seed):
    found = captions(sample(seed, split="test", objects=(1, 5)))
    assert len(found) == 5
    assert all(found)
    for text in found[1:]:  # the first one has no verb
        scene = sample(seed, split="test", objects=(1, 5))
        assert not judge(scene, DETAILED[0], text).faults


def test_what_nobody_can_be_told():
    with pytest.raises(BadInput, match="an empty scene gives a teacher nothing to tell"):
        tell(Scene(()), np.zeros((0, 4)), 96)
    for ask in (tell(ROOM, BOXES, 96).context, prompt, lambda kind: template(kind, [])):
        with pytest.raises(UnknownName, match="unknown kind of instruction data 'details'; did you mean 'detail'"):
            ask("details")


# ---------------------------------------------------------------- how it is asked
@pytest.mark.parametrize(("kind", "pairs"), [("conversation", 2), ("detail", 3), ("reasoning", 3)])
def test_a_request_is_a_system_message_and_pairs(kind, pairs):
    messages = prefix(kind)
    assert [each["role"] for each in messages] == ["system", *["user", "assistant"] * pairs]
    assert all(("[0." in each["content"]) == (kind != "conversation") for each in messages[1::2])
    assert not any("[0." in each["content"] for each in messages[::2])


@pytest.mark.parametrize("kind", KINDS)
def test_the_examples_keep_every_rule(kind):
    for shown, reply in prompt(kind).examples:
        parsed, judged = review(shown.scene, reply, kind)
        assert not parsed.broken
        assert judged
        assert all(each.kept and each.true for each in judged), judged


# ---------------------------------------------------------------- replies
BLOCKS = (
    "Question:\nIs there a cat?\n===\nAnswer:\nYes, there is\na cat.\n===\nQuestion:\nWhat color?\n===\nAnswer:\nRed.\n"
)
PAIRS = [("Is there a cat?", "Yes, there is a cat."), ("What color?", "Red.")]


@pytest.mark.parametrize(
    ("reply", "pairs", "broken"),
    [
        (BLOCKS + "===", PAIRS, ""),
        (BLOCKS, PAIRS, ""),  # only the last line is missing, and the answer is finished
        ("\n" + BLOCKS + "===\n\n", PAIRS, ""),
        (BLOCKS + "===\nQuestion:\nWhat", PAIRS, "Question:\nWhat"),
        (BLOCKS.strip(" .\n"), PAIRS[:1], "Question:\nWhat color?\n===\nAnswer:\nRed"),  # cut off in mid-sentence
        ("Sure!\n" + BLOCKS, [], "Sure!\n" + BLOCKS.strip()),
        ("Question: Is there a cat?\nAnswer: Yes.", [], "Question: Is there a cat?\nAnswer: Yes."),
        ("Question:\nA?\n===\nQuestion:\nB?\n===\nAnswer:\nC.\n===", [], None),
        ("", [], "(nothing)"),
    ],
)
def test_replies_in_blocks(reply, pairs, broken):
    found = parse(reply, "conversation")
    assert found.pairs == pairs
    assert found.broken == (reply if broken is None else broken)


def test_a_description_is_the_reply_itself():
    assert parse(" A red cat.\nA sofa. ", "detail", "Describe.").pairs == [("Describe.", "A red cat. A sofa.")]
    for reply in ("", "Answer:\nA red cat.", BLOCKS):
        assert parse(reply, "detail").pairs == []
        assert parse(reply, "detail").broken


words = st.text(st.characters(codec="ascii", exclude_characters="=\r\x0b\x0c\x1c\x1d\x1e"), min_size=1).map(
    lambda text: " ".join(text.split())
)


@given(st.lists(st.tuples(words.filter(bool), words.filter(bool)), min_size=1, max_size=4))
@settings(max_examples=60, deadline=None)
def test_what_is_written_in_blocks_is_read(pairs):
    reply = "\n".join(f"Question:\n{question}\n===\nAnswer:\n{answer}\n===" for question, answer in pairs)
    clean = not any(text.startswith(("Question:", "Answer:")) for pair in pairs for text in pair)
    if clean:
        assert parse(reply, "reasoning") == (pairs, "")


@given(st.text(st.sampled_from("Question:\n=Aswer .?cat"), max_size=80), st.sampled_from(KINDS))
@settings(max_examples=80, deadline=None)
def test_any_reply_can_be_reviewed(reply, kind):
    parsed, judged = review(ROOM, reply, kind)
    assert len(parsed.pairs) == len(judged)
    assert parsed.pairs or parsed.broken
    assert {fault.kind for each in judged for fault in each.faults} <= set(FAULTS)


@pytest.mark.parametrize(
    ("text", "rules"),
    [
        ("The cat is inside the box.", []),
        ("There are two boxes.", []),
        ("The car is the only one that you can see.", []),
        ("The caption says that there is a cat.", ["mentions captions or boxes"]),
        ("According to the description, it is red.", ["mentions captions or boxes"]),
        ("The bounding box of the cat is small.", ["mentions captions or boxes"]),
        ("The cat is at 0.125.", ["mentions captions or boxes"]),
        ("No color is mentioned.", ["mentions captions or boxes"]),
        ("The cat might be red.", ["indefinite"]),
        ("It is probably a sofa.", ["indefinite"]),
        ("It appears to be red.", ["indefinite"]),
        ("I cannot tell where it is.", ["indefinite"]),
        ("It is not clear from the captions.", ["mentions captions or boxes", "indefinite"]),
    ],
)
def test_words_that_break_the_rules(text, rules):
    assert [rule for rule, _ in broken_rules(text)] == rules


# ---------------------------------------------------------------- questions in words
@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("Is there a cat?", "yes"),
        ("Is there a blue cat in the picture?", "no"),
        ("Can you see a lamp?", "no"),
        ("Are there two red objects?", "yes"),
        ("Is the cat left of the sofa?", "yes"),
        ("Is the sofa to the left of the red cat?", "no"),
        ("Is the cat red?", "yes"),
        ("Does the dog face left?", "no"),
        ("How many red objects are there?", "2"),
        ("How many objects can you see?", "4"),
        ("What colour is the sofa?", "blue"),
        ("What is the color of the dog?", "black"),
        ("What size is the mug?", "small"),
        ("Is the mug matte or shiny?", "shiny"),
        ("Which way is the dog facing?", "right"),
        ("What is on the sofa?", "mug"),
        ("What is the blue object?", "sofa"),
        ("Which is further left, the dog or the cat?", "cat"),
        ("Are the cat and the mug the same color?", "yes"),
        ("Are there more cats than lamps?", "yes"),
        ("Is the dog left of the lamp?", "no"),  # there is no lamp
        ("What color is the lamp?", ""),  # nothing is true of it
        ("Is the red object left of the dog?", None),  # which of two, and where its name ends
        ("What color is the sky?", ""),
        ("Why is the cat there?", None),
        ("Is the dog happy?", None),
        ("", None),
    ],
)
def test_true_answers_by_hand(question, answer):
    assert true_answer(question, ROOM) == answer


@pytest.mark.parametrize("seed", range(20))
def test_true_answers_are_those_of_programs(seed):
    scene = sample(seed, split="test")
    asked = scene.questions(count=12)
    found = [(question, true_answer(question.text, scene)) for question in asked]
    assert not [(q.text, q.answer, answer) for q, answer in found if answer and answer != q.answer]
    assert sum(bool(answer) for _, answer in found) >= len(found) / 2


# ---------------------------------------------------------------- claims
WRONG = [
    ("Is there a dog?", "No, there is no dog.", ["false existence", "wrong verdict"]),
    ("Is there a lamp?", "Yes, there is a lamp.", ["false existence", "wrong verdict"]),
    ("What color is the lamp?", "The lamp is red.", ["false existence", "undecidable"]),
    ("How many cats are there?", "There are two cats.", ["wrong count"]),
    ("What color is the sofa?", "The sofa is red.", ["wrong colour"]),
    ("Tell me about the sofa.", "There is a red sofa.", ["wrong colour"]),
    ("Tell me about the sofa.", "There is a small blue sofa.", ["wrong attribute"]),
    ("Which way does the dog face?", "The dog faces left.", ["wrong attribute"]),
    ("Where is the cat?", "The cat is right of the sofa.", ["wrong relation"]),
    ("Where is the mug?", "The mug is not on the sofa.", ["wrong relation"]),
    ("Is the cat left of the sofa?", "No.", ["wrong verdict"]),
    ("How many red objects are there?", "There is a cat, 3.", ["wrong verdict"]),
    ("Which of them is red?", "The red object is left of the sofa.", ["undecidable"]),
    ("Is it nice there?", "The room is cosy.", ["unparsable"]),
    ("What is there?", "The cat is red. A woman sits beside it.", ["unparsable"]),
    ("What color is the cat?", "The cat is left of the sofa.", ["beside the question"]),
    ("Is there a red cat?", "The sofa is blue.", ["beside the question"]),
    ("What does the caption say?", "The cat is red.", ["mentions captions or boxes"]),
    ("What color is the cat?", "The cat might be red.", ["indefinite"]),
    ("Where is the cat?", "", ["unparsable"]),
]


@pytest.mark.parametrize(("question", "answer", "faults"), WRONG)
def test_planted_faults_are_named(question, answer, faults):
    found = judge(ROOM, question, answer)
    assert not found.kept
    assert sorted({fault.kind for fault in found.faults}) == sorted(faults)


@pytest.mark.parametrize(
    ("question", "answer", "true"),
    [
        ("Is there a dog?", "Yes.", 1),
        ("Is there a dog?", "Yes, there is a large black dog.", 2),
        ("Is the cat right of the sofa?", "The cat is left of the sofa, no.", 2),
        ("How many red objects are there?", "There are two red objects.", 1),
        ("How many red objects are there?", "Two.", 1),
        ("What color is the dog?", "Black.", 1),
        ("Where is it?", "The mug is on the sofa. It is red.", 2),
        ("Why can the mug not be reached?", "The mug is on the sofa, so it is far up.", 1),
    ],
)
def test_what_is_right_is_kept(question, answer, true):
    assert judge(ROOM, question, answer) == (question, answer, true, ())


def test_a_question_that_was_asked_before_is_not_kept_again():
    reply = "Question:\nIs there a cat?\n===\nAnswer:\nYes.\n===\n" * 2
    _, judged = review(ROOM, reply, "conversation")
    assert [[fault.kind for fault in each.faults] for each in judged] == [[], ["repeated"]]


def test_the_template_teacher_is_nearly_always_kept_and_another_scenes_is_not():
    scenes = [sample(seed, split="test") for seed in range(24)]
    for kind in KINDS:
        replies = template(kind, [told(scene) for scene in scenes])
        assert template(kind, [told(scene) for scene in scenes]) == replies
        assert len(set(replies)) == len(replies)
        right = [
            each.kept for scene, reply in zip(scenes, replies, strict=True) for each in review(scene, reply, kind)[1]
        ]
        blind = [each.kept for scene, reply in zip(scenes, replies[1:] + replies[:1], strict=True)
                 for each in review(scene, reply, kind)[1]]  # fmt: skip
        assert np.mean(right) > 0.95
        assert np.mean(blind) < (0.05 if kind == "detail" else 0.5)


def test_planted_lies_are_found_in_what_the_template_says():
    swaps = {"left of": "right of", "red": "green", "blue": "white", "small": "large", "in front of": "behind"}
    scenes = [sample(seed, split="test") for seed in range(12)]
    for scene, reply in zip(scenes, template("detail", [told(scene) for scene in scenes]), strict=True):
        for word, lie in swaps.items():
            said = re.search(rf"The \w+(?: \w+)? is {word} [^.]*\.|\b{word} (?:matte|shiny)?", reply)
            if said:
                told_wrong = reply.replace(said[0], said[0].replace(word, lie, 1), 1)
                assert not judge(scene, DETAILED[0], told_wrong).kept, (word, told_wrong)


def test_a_summary_counts_replies_pairs_and_faults():
    replies = [
        "Question:\nIs there a cat?\n===\nAnswer:\nYes.\n===\nQuestion:\nIs there a dog?\n===\nAnswer:\nNo.\n===",
        "?",
    ]
    found = instruction.summarise([review(ROOM, reply, "conversation") for reply in replies])
    assert found == {
        "replies": 2, "replies_kept": 1, "acceptance": 0.5, "pairs": 2, "pairs_kept": 1, "pair_acceptance": 0.5,
        "true_claims": 1, "faults": {"format broken": 1, "wrong verdict": 1},
    }  # fmt: skip
