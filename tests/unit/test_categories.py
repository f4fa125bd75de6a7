"""The exam: categories ask what they say, answers are true and even, and twins have different ones."""

from collections import Counter

import numpy as np
import pytest

from vlmlab.benchmarks import categories
from vlmlab.benchmarks.categories import CATEGORIES, SPATIAL, build, mark, read_marks, relations_of
from vlmlab.errors import BadInput, UnknownName
from vlmlab.scenes import CATEGORIES as VSR
from vlmlab.scenes import SPLITS
from vlmlab.scenes.kinds import held_out
from vlmlab.scenes.programs import execute
from vlmlab.scenes.questions import word

COUNT, PAIRS = 24, 6


class Planted:
    """A model that says what a function of picture and question says."""

    def __init__(self, say):
        self.say, self.seen = say, []

    def answer_many(self, images, prompts, on_batch=None, **options):
        self.seen += images
        return [self.say(i, prompt) for i, prompt in enumerate(prompts)]


@pytest.fixture(scope="module")
def exam():
    return build(COUNT, PAIRS)


def part(exam, name):
    return exam.asked[exam.parts[name]]


def test_every_part_has_its_number_of_questions_and_the_parts_follow_one_another(exam):
    assert [len(part(exam, name)) for name in CATEGORIES] == [COUNT] * 8
    assert [len(part(exam, f"twins/{kind}")) for kind in ("mirror", "swap", "relation")] == [2 * PAIRS] * 3
    stops = [where.stop for where in exam.parts.values()]
    assert [where.start for where in exam.parts.values()] == [0, *stops[:-1]]
    assert exam.singles == 8 * COUNT


def test_a_category_has_the_relations_it_claims(exam):
    for category in SPATIAL:
        topics = Counter(question.topic for _, question in part(exam, category))
        assert {VSR[topic].lower() for topic in topics} == {category}
        assert set(topics) <= set(relations_of(category))
        assert all(question.type == "relation" for _, question in part(exam, category))
    assert {"left of", "behind", "under"} <= set(relations_of("projective"))
    assert {"on", "inside", "between"} <= set(relations_of("topological"))
    assert relations_of("counting") == ()
    for category, kind in (("existence",) * 2, ("attribute",) * 2, ("counting", "count"), ("referring",) * 2):
        assert {question.type for _, question in part(exam, category)} == {kind}


def test_answers_are_true_and_even_and_every_question_has_a_test_scene_of_its_own(exam):
    seeds = []
    for scene, question in exam.asked[: exam.singles]:
        assert word(execute(question.program, scene)) == question.answer
        assert scene.split == "test" == SPLITS[2]
        assert not any(held_out(item.colour, item.kind) for item in scene.objects)
        seeds.append(scene.seed)
    assert len(set(seeds)) == len(seeds)
    assert min(seeds) > 10_000  # apart from those of `vlmlab evaluate`
    for category in ("existence", *SPATIAL):
        for topic in {question.topic for _, question in part(exam, category)}:
            says = [question.answer for _, question in part(exam, category) if question.topic == topic]
            assert abs(says.count("yes") - says.count("no")) <= 1, topic
    assert Counter(q.answer for _, q in part(exam, "counting")) == dict.fromkeys("1234", COUNT // 4)


def test_twins_are_one_question_with_two_true_answers(exam):
    for kind in ("mirror", "swap", "relation"):
        both = part(exam, f"twins/{kind}")
        for first, second in zip(both[::2], both[1::2], strict=True):
            assert first.question.text == second.question.text
            assert first.question.answer != second.question.answer
            looks = [[(o.colour, o.kind, o.size, o.material) for o in each.scene.objects] for each in (first, second)]
            assert looks[0] == looks[1]
            for scene, question in (first, second):
                assert word(execute(question.program, scene)) == question.answer
        says = Counter(first.question.answer for first in both[::2])
        assert abs(says["yes"] - says["no"]) <= len({q.topic for _, q in both})


def test_a_mirrored_twin_is_the_mirrored_picture(exam):
    first, second = part(exam, "twins/mirror")[:2]
    one, other = (each.scene.render(24).rgb.astype(float) for each in (first, second))
    assert abs(one[:, ::-1] - other).mean() < 0.5 * abs(one - other).mean()


def test_the_same_arguments_give_the_same_exam(exam):
    small = build(4, 2)
    assert build(4, 2).fingerprint == small.fingerprint != exam.fingerprint
    first = [question.text for _, question in part(exam, "referring")[:4]]
    assert [question.text for _, question in part(small, "referring")] == first
    assert small.summary()["fingerprint"] == small.fingerprint


def test_the_oracle_is_right_everywhere_and_a_constant_as_often_as_its_baseline(exam):
    oracle = Planted(lambda i, prompt: exam.asked[i].question.sentence)
    assert set(mark(oracle, exam.asked, [None] * len(exam.asked))) == {"1"}
    summary = exam.summary()["parts"]
    marks = mark(Planted(lambda i, prompt: "I see it, yes."), exam.asked, [None] * len(exam.asked))
    for category in SPATIAL:
        where = exam.parts[category]
        share = read_marks([marks], where).mean()
        assert max(share, 1 - share) == pytest.approx(summary[category]["constant"])
        assert summary[category]["chance"] == pytest.approx(0.5)
    for kind in ("mirror", "swap", "relation"):
        assert read_marks([marks], exam.parts[f"twins/{kind}"]).mean() == 0.5
        assert read_marks([marks], exam.parts[f"twins/{kind}"], pairs=True).mean() == 0.0
    assert summary["counting"]["constant"] == 0.25
    assert sum(summary["topological"]["topics"].values()) == COUNT
    assert sum(summary["twins/swap"]["topics"].values()) == PAIRS


def test_pictures_go_with_their_questions(exam):
    model = Planted(lambda i, prompt: "no")
    few = exam.asked[:3]
    pictures = [scene.render(24).rgb for scene, _ in few]
    mark(model, few, pictures)
    assert all(a is b for a, b in zip(model.seen, pictures, strict=True))


def test_pairs_by_hand():
    marks = ["0110" + "1101", "0011" + "1111"]
    assert read_marks(marks, slice(4, 8)).tolist() == [[1, 1, 0, 1], [1, 1, 1, 1]]
    assert read_marks(marks, slice(4, 8), pairs=True).tolist() == [[1, 0], [1, 1]]
    assert read_marks(marks, slice(0, 4), pairs=True).tolist() == [[0, 0], [0, 1]]
    assert read_marks(marks, slice(0, 4)).dtype == np.float64


def test_mistakes_are_refused():
    with pytest.raises(BadInput, match="two of each"):
        build(1, 5)
    with pytest.raises(UnknownName, match="did you mean 'proximity'"):
        categories.questions("proximitee", 4)
