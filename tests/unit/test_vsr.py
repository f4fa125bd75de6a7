"""VSR: the table of relations, scores by hand in every form of predictions, and files that cannot be scored."""

import json
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmlab import scenes
from vlmlab.benchmarks.vsr import CATEGORIES, CHANCE, HUMAN, RELATIONS, Example, read, score
from vlmlab.errors import BadInput, UnknownName

OFFICIAL_LINE = (
    '{"image": "000000085637.jpg", "image_link": "http://images.cocodataset.org/train2017/000000085637.jpg", '
    '"caption": "The potted plant is at the right side of the bench.", "label": 1, '
    '"relation": "at the right side of", "annotator_id": 31, "vote_true_validator_id": "[2, 20]", '
    '"vote_false_validator_id": "[]"}\n'
)


def sentence(relation="left of", label=1, frame=None):
    return Example("1.jpg", f"The cat is {relation} the dog.", label, relation, frame)


EXAMPLES = [
    sentence("left of", 1, "intrinsic"),
    sentence("left of", 0, "relative"),
    sentence("behind", 1, "relative"),
    sentence("inside", 0),
    sentence("balanced upon", 0),
]
SAID = [1, 1, 1, 0, 1]


def test_the_table_has_every_relation_once_and_agrees_with_the_scenes():
    assert list(RELATIONS) == [
        *("Adjacency", "Directional", "Orientation", "Projective", "Proximity", "Topological", "Unallocated")
    ]
    assert len(CATEGORIES) == sum(len(names.split(", ")) for names in RELATIONS.values()) >= 66
    assert all(name == name.strip().lower() for name in CATEGORIES)
    assert len(scenes.CATEGORIES) > 30
    for name, category in scenes.CATEGORIES.items():
        assert CATEGORIES[name] == category, name
    assert Counter(CATEGORIES.values())["Orientation"] == 4
    assert (HUMAN, CHANCE) == (0.954, 0.5)


def test_an_official_line_is_read(tmp_path):
    (tmp_path / "test.jsonl").write_text(OFFICIAL_LINE + "\n" + OFFICIAL_LINE)
    found = read(tmp_path / "test.jsonl")
    caption = "The potted plant is at the right side of the bench."
    assert found == [Example("000000085637.jpg", caption, 1, "at the right side of")] * 2
    assert found[0].category == "Adjacency"
    more = json.loads(OFFICIAL_LINE) | {"reference_frame": "intrinsic", "subj": "potted plant", "obj": "bench"}
    (tmp_path / "test.jsonl").write_text(json.dumps(more))
    assert read(tmp_path / "test.jsonl")[0][-3:] == ("intrinsic", "potted plant", "bench")


def test_scores_by_hand():
    found = score(EXAMPLES, SAID)
    assert found == {
        "n": 5,
        "accuracy": 0.6,
        "yes_ratio": 0.8,
        "by_relation": {
            "balanced upon": {"n": 1, "accuracy": 0.0},
            "behind": {"n": 1, "accuracy": 1.0},
            "inside": {"n": 1, "accuracy": 1.0},
            "left of": {"n": 2, "accuracy": 0.5},
        },
        "by_category": {
            "Projective": {"n": 3, "accuracy": 2 / 3},
            "Topological": {"n": 1, "accuracy": 1.0},
            "Unknown": {"n": 1, "accuracy": 0.0},
        },
        "by_reference_frame": {"intrinsic": {"n": 1, "accuracy": 1.0}, "relative": {"n": 2, "accuracy": 0.5}},
        "official": {"accuracy": 60.0},
    }


def test_the_official_figure_is_per_cent_with_one_decimal():
    assert score(EXAMPLES[:3], [1, 0, 0])["official"] == {"accuracy": 66.7}


@pytest.mark.parametrize(
    "text", ["1\n1\n1\n0\n1\n", "1\r\n1\r\n1\r\n0\r\n1", "[1, 1, 1, 0, 1]", '{"4": 1, "0": 1, "1": 1, "2": 1, "3": 0}']
)
def test_all_forms_of_predictions_score_alike(tmp_path, text):
    (tmp_path / "predictions.txt").write_text(text)
    expected = score(EXAMPLES, SAID)
    assert score(EXAMPLES, tmp_path / "predictions.txt") == expected
    assert score(EXAMPLES, str(tmp_path / "predictions.txt")) == expected
    assert score(EXAMPLES, dict(enumerate(SAID))) == expected
    assert score(EXAMPLES, [bool(one) for one in SAID]) == expected


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(sorted(CATEGORIES)), st.integers(0, 1), st.integers(0, 1))))
def test_breakdowns_add_up_and_the_opposite_answers_score_the_rest(rows):
    examples = [sentence(relation, label) for relation, label, _ in rows]
    said = [one for *_, one in rows]
    found = score(examples, said)
    right = sum(label == one for _, label, one in rows)
    for table in ("by_relation", "by_category"):
        assert sum(row["n"] for row in found[table].values()) == found["n"] == len(rows)
        assert sum(row["n"] * row["accuracy"] for row in found[table].values()) == pytest.approx(right)
    assert set(found["by_category"]) <= set(RELATIONS)
    assert found["accuracy"] + score(examples, [1 - one for one in said])["accuracy"] == pytest.approx(
        float(bool(rows))
    )
    assert score(examples, [label for _, label, _ in rows])["accuracy"] == float(bool(rows))


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"label": "1"}, "line 2: the field 'label' must be a whole number, not a string"),
        ({"label": 2}, "line 2: the field 'label' must be 0 or 1, not 2"),
        ({"label": True}, "must be a whole number"),
        ({"relation": None}, "'relation' must be a string, not null"),
        ({"reference_frame": 3}, "'reference_frame' must be a string"),
    ],
)
def test_damaged_annotations_are_refused(tmp_path, change, part):
    (tmp_path / "test.jsonl").write_text(OFFICIAL_LINE + json.dumps(json.loads(OFFICIAL_LINE) | change))
    with pytest.raises(BadInput) as caught:
        read(tmp_path / "test.jsonl")
    assert part in str(caught.value)


def test_a_cut_off_file_is_refused(tmp_path):
    (tmp_path / "test.jsonl").write_text(OFFICIAL_LINE + OFFICIAL_LINE[:99])
    with pytest.raises(BadInput, match=r"test.jsonl, line 2 is not valid JSON"):
        read(tmp_path / "test.jsonl")


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("1\n1\n1\n0\n", "1 of 5 sentences without an answer (the first: 4)"),
        ("1\n1\n1\n0\n1\n0", "1 answers to an unknown sentence (the first: 5)"),
        ("1\nyes\n1", "line 2 must be 0 or 1, not 'yes'"),
        ("1\n\n1\n1\n0\n1", "line 2 must be 0 or 1, not ''"),
        ("", "5 of 5 sentences"),
        ("[1, 1, 1, 0", "is not valid JSON"),
        ("[1, 1, 1, 0, 2]", "index 4: the field 'prediction' must be 0 or 1, not 2"),
        ("[1, 1, 1, 0, 0.5]", "must be a whole number"),
        ('{"one": 1}', "must be a whole number, not a string"),
        ("\xff", "cannot be read"),
    ],
)
def test_predictions_that_do_not_fit_are_refused(tmp_path, text, part):
    (tmp_path / "predictions.txt").write_bytes(text.encode("latin-1"))
    with pytest.raises(BadInput) as caught:
        score(EXAMPLES, tmp_path / "predictions.txt")
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_other_mistakes_are_refused(tmp_path):
    with pytest.raises(UnknownName, match="profile 'strict'"):
        score(EXAMPLES, SAID, profile="strict")
    with pytest.raises(BadInput, match=r"leave q.json out"):
        read(tmp_path / "test.jsonl", "q.json")
    with pytest.raises(BadInput, match="no such file"):
        score(EXAMPLES, tmp_path / "none.txt")
