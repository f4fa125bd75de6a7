"""What'sUp and controlled pairs: scores by hand, constant answers, ties, and files that cannot be scored."""

import json
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmlab.benchmarks.pairs import breakdown, pair_accuracy, set_accuracy, share
from vlmlab.benchmarks.whatsup import OPPOSITES, Example, read, score
from vlmlab.errors import BadInput, UnknownName

PLACES = {"left": "left_of", "right": "right_of", "on": "on", "under": "under"}  # as the pictures' names say them
WORDS = {"left": "to the left of", "right": "to the right of", "on": "on", "under": "under"}


def record(first, second, place):
    others = [word for name, word in WORDS.items() if name != place]
    return {
        "image_path": f"data/controlled_images/{first}_{PLACES[place]}_{second}.jpeg",
        "caption_options": [f"A {first} {word} a {second}" for word in (WORDS[place], *others)],
    }


RECORDS = [record("beer-bottle", "armchair", place) for place in PLACES]
RECORDS += [record("mug", "on-ramp", place) for place in PLACES]


@pytest.fixture
def examples(tmp_path):
    return read(written(tmp_path, RECORDS))


def written(folder, value):
    (folder / "controlled.json").write_text(json.dumps(value))
    return folder / "controlled.json"


def test_official_records_are_read(examples):
    assert len(examples) == 8
    assert examples[1] == Example(
        RECORDS[1]["image_path"], tuple(RECORDS[1]["caption_options"]), ("beer-bottle", "armchair"), "right"
    )
    assert examples[7].objects == ("mug", "on-ramp")
    assert [one.preposition for one in examples] == [*PLACES] * 2


@pytest.mark.parametrize(
    ("name", "place"),
    [("bowl_in-front_of_can", "front"), ("bowl_front_can", "front"), ("bowl_behind_can", "behind"), ("a_on_b", "on")],
)
def test_the_names_of_the_other_subset_are_understood(tmp_path, name, place):
    value = [{"image_path": f"x/{name}.jpeg", "caption_options": [*"abcd"]}]
    assert read(written(tmp_path, value))[0].preposition == place


def test_scores_by_hand(examples):
    found = score(examples, [0, 1, 0, 0, 0, 0, 0, 0])  # one picture of eight is wrong
    assert found == {
        **{"n": 8, "accuracy": 7 / 8, "pairs": 4, "pair_accuracy": 3 / 4, "sets": 2, "set_accuracy": 1 / 2, "ties": 0},
        "by_preposition": {
            "left": {"n": 2, "accuracy": 1.0},
            "on": {"n": 2, "accuracy": 1.0},
            "right": {"n": 2, "accuracy": 0.5},
            "under": {"n": 2, "accuracy": 1.0},
        },
        "official": {"Individual accuracy": 87.5, "Pair accuracy": 75.0, "Set accuracy": 50.0},
    }


@pytest.mark.parametrize("place", PLACES)
def test_who_always_says_the_same_place_gets_a_quarter_and_no_pair(examples, place):
    says = f" {WORDS[place]} a"
    constant = [next(i for i, caption in enumerate(one.captions) if says in caption) for one in examples]
    found = score(examples, constant)
    assert (found["accuracy"], found["pair_accuracy"], found["set_accuracy"]) == (0.25, 0.0, 0.0)


def test_equal_scores_win_officially_and_lose_strictly(examples):
    alike = [[0.0] * 4] * 8
    assert score(examples, alike)["official"]["Set accuracy"] == 100.0
    strict = score(examples, alike, profile="strict")
    assert (strict["accuracy"], strict["pair_accuracy"], strict["set_accuracy"], strict["ties"]) == (0, 0, 0, 8)
    clear = [[-1.0, -1.5, -9, -2]] * 8
    assert score(examples, clear, profile="strict") == score(examples, clear) == score(examples, [0] * 8)
    second = [[-2.0, -1.5, -1.5, -2]] * 8  # a tie among wrong captions is wrong either way
    assert score(examples, second)["accuracy"] == score(examples, second, profile="strict")["accuracy"] == 0.0


def test_all_forms_of_predictions_score_alike(tmp_path, examples):
    chosen = [0, 3, 0, 1, 0, 0, 2, 0]
    expected = score(examples, chosen)
    named = {one.image: choice for one, choice in zip(examples, chosen, strict=True)}
    scores = [[float(option == choice) for option in range(4)] for choice in chosen]
    for form in (named, dict(reversed(named.items())), scores, [tuple(row) for row in scores]):
        assert score(examples, form) == expected
    for form in (chosen, named, scores):
        (tmp_path / "predictions.json").write_text(json.dumps(form))
        assert score(examples, tmp_path / "predictions.json") == expected


def test_incomplete_pairs_and_sets_do_not_count(examples):
    found = score(examples[:3], [0, 0, 0])
    assert (found["pairs"], found["pair_accuracy"], found["sets"], found["set_accuracy"]) == (1, 1.0, 0, 0.0)
    assert found["official"]["Pair accuracy"] == pytest.approx(100 / 1.5)  # the program's denominator is n / 2
    assert score([], [])["accuracy"] == 0.0


@settings(deadline=None)
@given(st.lists(st.integers(0, 3), min_size=8, max_size=8))
def test_sets_are_at_most_pairs_and_pairs_at_most_pictures(chosen):
    examples = [
        Example(f"{a}_{place}_b", tuple("wxyz"), (a, "b"), place) for a, place in product(("mug", "cup"), PLACES)
    ]
    found = score(examples, chosen)
    assert found["set_accuracy"] <= found["pair_accuracy"] <= found["accuracy"]
    by_hand = 0
    for a, b in OPPOSITES.items():
        both = {one.image: choice for one, choice in zip(examples, chosen, strict=True) if one.preposition in (a, b)}
        by_hand += sum(both.get(f"{c}_{a}_b") == both.get(f"{c}_{b}_b") == 0 for c in ("mug", "cup"))
    assert found["pair_accuracy"] * found["pairs"] == pytest.approx(by_hand)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"caption_options": ["a", "b"]}, "record 2: the field 'caption_options' must be 4 strings"),
        ({"caption_options": ["a", "b", "c", 4]}, "must be 4 strings"),
        ({"image_path": "mug.jpeg"}, "must be as in mug_left_of_plate.jpeg, not 'mug.jpeg'"),
        ({"image_path": "mug_left.jpeg"}, "must be as in"),
        ({"image_path": "mug_left_right_plate.jpeg"}, "must be as in"),
        ({"image_path": "mug_near_plate.jpeg"}, "must be as in"),
        ({"image_path": "beer-bottle_left_of_armchair.png"}, "shows the same objects in the same place as"),
        ({"image_path": 7}, "must be a string, not a whole number"),
    ],
)
def test_damaged_annotations_are_refused(tmp_path, change, part):
    with pytest.raises(BadInput) as caught:
        read(written(tmp_path, [RECORDS[0], RECORDS[1] | change]))
    assert part in str(caught.value)
    assert "controlled.json, record 2" in str(caught.value)


def test_the_uncontrolled_subsets_are_refused(tmp_path):
    with pytest.raises(BadInput, match="record 1 must be an object, not a list"):
        read(written(tmp_path, [[397133, "a photo of a knife on the left", "a photo of a knife on the right"]]))


@pytest.mark.parametrize(
    ("predictions", "part"),
    [
        ([0] * 7, "1 of 8 pictures without an answer"),
        ([0] * 9, "unknown picture (the first: 'number 9')"),
        ([0] * 7 + [4], "must be an option from 0 to 3 or 4 scores, not 4"),
        ([0] * 7 + [-1], "not -1"),
        ([0] * 7 + [[1, 2, 3]], "not [1, 2, 3]"),
        ([0] * 7 + [[1, 2, 3, float("nan")]], "nan]"),
        ([0] * 7 + [[1, 2, 3, "4"]], "'4']"),
        ([0] * 7 + ["A"], "not a string"),
        ([0] * 7 + [True], "not true or false"),
    ],
)
def test_predictions_that_do_not_fit_are_refused(examples, predictions, part):
    with pytest.raises(BadInput) as caught:
        score(examples, predictions)
    assert part in str(caught.value)


def test_other_mistakes_are_refused(tmp_path, examples):
    with pytest.raises(UnknownName, match="known: official, strict"):
        score(examples, [0] * 8, profile="x")
    with pytest.raises(BadInput, match=r"leave q.json out"):
        read("x.json", "q.json")
    (tmp_path / "predictions.json").write_text("[0, 1")
    with pytest.raises(BadInput, match=r"predictions.json is not valid JSON"):
        score(examples, tmp_path / "predictions.json")


def test_pairs_and_sets_of_any_marks():
    right = {"a": True, "b": True, "c": False, "d": True}
    assert pair_accuracy(right, [("a", "b"), ("c", "d"), ("b", "d")]) == 2 / 3
    assert set_accuracy(right, [tuple(right)]) == 0.0
    assert set_accuracy([True] * 8, [(0, 1, 2, 3), (4, 5, 6, 7)]) == 1.0
    assert set_accuracy([True, True, False], [(0, 1, 2)], size=3) == 0.0
    assert pair_accuracy(right, []) == 0.0
    assert share(1, 4) == 0.25
    assert share(1, 0) == 0.0
    assert breakdown([("b", True), ("a", False), ("b", False)]) == {
        "a": {"n": 1, "accuracy": 0.0},
        "b": {"n": 2, "accuracy": 0.5},
    }


@settings(deadline=None)
@given(st.lists(st.booleans(), max_size=20))
def test_a_constant_yes_or_no_gets_no_pair(flips):
    labels = [label for flip in flips for label in (flip, not flip)]  # twins have opposite answers
    pairs = [(i, i + 1) for i in range(0, len(labels), 2)]
    for constant in (True, False):
        marks = [label == constant for label in labels]
        assert pair_accuracy(marks, pairs) == 0.0
        assert sum(marks) == len(pairs)
    assert pair_accuracy([True] * len(labels), pairs) == (1.0 if pairs else 0.0)


@pytest.mark.parametrize(
    ("groups", "part"),
    [
        ([(0, 3)], "the question 3 has no mark"),
        ([(0, -1)], "the question -1 has no mark"),
        ([(1, 1)], "is not 2 different questions"),
        ([(0, 1, 2)], "is not 2 different questions"),
        ([()], "is not 2 different questions"),
    ],
)
def test_groups_that_are_none_are_refused(groups, part):
    with pytest.raises(BadInput) as caught:
        pair_accuracy([True] * 3, groups)
    assert part in str(caught.value)
