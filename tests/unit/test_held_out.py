"""Held-out accuracy with planted models: one that knows everything, one that knows nothing, one that says one thing."""

import random

import pytest

from vlmlab.benchmarks import BENCHMARKS, evaluate, held_out
from vlmlab.benchmarks.statistics import proportion, wilson
from vlmlab.errors import BadInput, UnknownName
from vlmlab.scenes.kinds import held_out as kept_out
from vlmlab.scenes.programs import execute
from vlmlab.scenes.questions import word
from vlmlab.vlm.presets import get_preset


class Planted:
    """A model whose answers are a function of the question."""

    config = get_preset("llava-tiny")

    def __init__(self, say):
        self.say = say

    def answer_many(self, images, prompts, on_batch=None, **options):
        return [self.say(image, prompt) for image, prompt in zip(images, prompts, strict=True)]


@pytest.fixture(scope="module")
def asked():
    return held_out.questions(scenes=60)


def oracle(asked, form):
    answers = {held_out.prompt(a.question, form): a.question for a in asked}
    return lambda image, prompt: answers[prompt].sentence if form == "sentence" else answers[prompt].answer


@pytest.mark.parametrize("form", held_out.FORMATS)
def test_the_oracle_scores_everything(form):
    one_scene = held_out.questions(scenes=1)
    result = held_out.evaluate(Planted(oracle(one_scene, form)), one_scene, form)
    assert result["accuracy"] == 1.0
    assert result["by_type"]["all"]["high"] == 1.0


def test_a_guesser_scores_chance_on_yes_and_no(asked):
    closed = [a for a in asked if a.question.answer in ("yes", "no")]
    guess = random.Random(0)
    result = held_out.evaluate(Planted(lambda image, prompt: guess.choice(["yes", "no"])), closed, "word")
    row = result["by_type"]["all"]
    assert row["chance"] == 0.5
    assert row["low"] < 0.5 < row["high"]


def test_a_constant_answer_is_no_better_than_the_constant_baseline(asked):
    closed = [a for a in asked if a.question.answer in ("yes", "no")]
    result = held_out.evaluate(Planted(lambda image, prompt: "no"), closed, "word")
    row = result["by_type"]["all"]
    assert row["accuracy"] <= row["constant"] < 0.6


def test_blind_means_without_the_picture(asked):
    seen = []
    held_out.evaluate(Planted(lambda image, prompt: seen.append(image) or "no"), asked[:5], blind=True)
    assert seen == [None] * 5


def test_stored_answers_are_the_programs_answers(asked):
    assert all(word(execute(a.question.program, a.scene)) == a.question.answer for a in asked)


def test_splits_hold_what_they_say():
    for item in held_out.questions(scenes=30, split="test_combinations"):
        assert any(kept_out(o.colour, o.kind) for o in item.scene.objects)
    for item in held_out.questions(scenes=30, split="test"):
        assert not any(kept_out(o.colour, o.kind) for o in item.scene.objects)


@pytest.mark.parametrize(
    ("text", "answer", "form", "right"),
    [
        ("The cat is left of the sofa, yes.", "yes", "sentence", True),
        ("The cat is right of the sofa, no.", "yes", "sentence", False),
        ("Yes", "yes", "sentence", True),
        ("The car faces towards the camera.", "towards the camera", "sentence", True),
        ("There is a red cat and a red dog, 2.", "2", "sentence", True),
        ("There is a red cat, 12.", "2", "sentence", False),
        ("yes, there is no cat", "cat", "sentence", True),
        ("The cat is red.", "red", "word", False),
        ("Red.", "red", "word", True),
        ("", "no", "word", False),
    ],
)
def test_reading_a_verdict(text, answer, form, right):
    assert held_out.is_right(text, answer, form) is right


def test_evaluate_puts_the_blind_baseline_beside(asked):
    result = evaluate(
        Planted(lambda image, prompt: "yes" if image is not None else "no"), "scenes", limit=40, form="word"
    )
    assert result["n"] == 40
    assert set(result["by_type"]["all"]) >= {
        "accuracy",
        "low",
        "high",
        "chance",
        "constant",
        "blind",
    }


def test_unknown_names_are_refused(asked):
    with pytest.raises(UnknownName, match="benchmark 'scene'"):
        evaluate(Planted(str), "scene")
    with pytest.raises(UnknownName, match="format"):
        held_out.evaluate(Planted(str), asked, form="words")
    with pytest.raises(BadInput):
        held_out.evaluate(Planted(str), [])
    assert BENCHMARKS


def test_wilson_by_hand():
    low, high = wilson(8, 10)  # Wilson 1927: (p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)
    assert low == pytest.approx(0.4901625, abs=1e-6)
    assert high == pytest.approx(0.9433178, abs=1e-6)
    assert wilson(0, 0) == (0.0, 1.0)
    assert proportion([])["accuracy"] == 0.0
