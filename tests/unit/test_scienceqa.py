"""ScienceQA: the parsers on golden texts, the table by hand, official files, and files that cannot be scored."""

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmlab.benchmarks import scienceqa
from vlmlab.benchmarks.scienceqa import CHANCE, HUMAN, OFFICIAL, Example, parse, read, score
from vlmlab.errors import BadInput, UnknownName

GOLDEN = [  # text, choices, official, random-fallback
    ("A", 2, 0, None),
    ("B", 2, 1, None),
    ("C", 2, None, None),
    ("C", 3, 2, None),
    ("F", 5, None, None),
    ("a", 2, None, None),
    ("B.", 2, None, None),
    ("B. ", 2, 1, None),
    ("B. Virginia", 2, 1, None),
    ("C. The answer is A.", 2, None, 0),
    ("(B)", 2, None, None),
    (" B", 2, None, None),
    ("Because. The answer is B.", 2, 1, 1),
    ("The answer is B", 2, None, None),
    ("The answer is B!", 2, 1, 1),
    ("The answer is A. The answer is B.", 2, None, None),
    ("The answer is Apple", 2, 0, 0),
    ("The answer is E.", 4, None, None),
    ("The answer is Z.", 4, None, None),
    ("the answer is A.", 2, None, None),
    ("A.B. ", 2, None, None),
    ("AB", 2, None, None),
    ("", 2, None, None),
]


def problem(**changes):
    value = {
        "question": "Which state is farthest north?",
        "choices": ["West Virginia", "Louisiana"],
        "answer": 0,
        "hint": "",
        "image": None,
        "task": "closed choice",
        "grade": "grade2",
        "subject": "social science",
        "topic": "geography",
        "category": "Geography",
        "skill": "Read a map",
        "lecture": "Maps.",
        "solution": "Look.",
        "split": "test",
    }
    return value | changes


PROBLEMS = {
    "7": problem(),
    "4": problem(subject="natural science", image="image.png", grade="grade7", hint="Look.", answer=1, topic="biology"),
    "12": problem(subject="language science", grade="grade12", hint="Read.", choices=["a", "b", "c"], answer=2),
    "9": problem(image="choice.png", grade="grade6"),
    "1": problem(split="train"),
    "2": problem(split="val"),
}
SPLITS = {"train": ["1"], "val": ["2"], "test": ["4", "7", "9", "12"], "minival": ["2"]}
SAID = {"4": "B", "7": "A. West Virginia", "9": "Louisiana", "12": "So. The answer is C."}


def written(folder, value, name="problems.json"):
    (folder / name).write_text(json.dumps(value, indent=2))
    return folder / name


@pytest.fixture
def examples(tmp_path):
    return read(written(tmp_path, PROBLEMS), written(tmp_path, SPLITS, "pid_splits.json"))


@pytest.mark.parametrize(("text", "choices", "official", "fallback"), GOLDEN)
def test_the_parsers_read_texts_as_told(text, choices, official, fallback):
    assert parse(text, choices) == official
    assert parse(text, choices, "random-fallback") == fallback


@settings(deadline=None)
@given(st.text(alphabet="ABCDEFZ. abthenswri") | st.just("The answer is "), st.integers(2, 5))
def test_a_reading_is_a_choice_or_nothing(text, choices):
    for profile in scienceqa.PROFILES:
        assert parse(text, choices, profile) in (None, *range(choices))
    letter = "ABCDE"[choices - 1]
    assert parse(f"{letter}. {text}", choices) == parse(letter, choices) == choices - 1


def test_official_files_are_read(examples, tmp_path):
    assert [one.id for one in examples] == SPLITS["test"]
    first = examples[0]
    assert first == Example(
        *("4", "Which state is farthest north?", ("West Virginia", "Louisiana"), 1, "Look.", "4/image.png"),
        *("natural science", 7, "biology"),
    )
    assert [one.rows for one in examples] == [
        ["NAT", "TXT", "IMG", "G7-12"],
        ["SOC", "NO", "G1-6"],
        ["SOC", "IMG", "G1-6"],
        ["LAN", "TXT", "G7-12"],
    ]
    assert [one.id for one in read(tmp_path / "problems.json")] == ["7", "4", "12", "9"]  # by the problems' own split
    assert [one.id for one in read(tmp_path / "problems.json", tmp_path / "pid_splits.json", "minival")] == ["2"]


def test_the_prompt_is_llavas(examples):
    assert examples[0].prompt == (
        "Which state is farthest north?\nContext: Look.\nOptions: (A) West Virginia (B) Louisiana\n"
        "Answer with the option's letter from the given choices directly."
    )
    assert "\nContext: N/A\nOptions: (A)" in examples[1].prompt
    assert "(A) a (B) b (C) c\n" in examples[3].prompt


def test_the_table_by_hand(examples):
    found = score(examples, SAID)
    assert (found["n"], found["accuracy"], found["image_accuracy"]) == (4, 0.75, 0.5)
    assert (found["unread"], found["missing"]) == (1, 0)
    assert {row: (value["n"], value["accuracy"]) for row, value in found["by_row"].items()} == {
        **{"NAT": (1, 1.0), "SOC": (2, 0.5), "LAN": (1, 1.0), "TXT": (2, 1.0), "IMG": (2, 0.5), "NO": (1, 1.0)},
        **{"G1-6": (2, 0.5), "G7-12": (2, 1.0)},
    }
    assert found["by_topic"]["geography"] == {"n": 3, "accuracy": 2 / 3}
    assert found["official"] == {
        **{"Total": 4, "Correct": 3, "Accuracy": 75.0, "IMG-Accuracy": 50.0},
        **{"acc_natural": 100.0, "acc_social": 50.0, "acc_language": 100.0, "acc_has_text": 100.0},
        **{"acc_has_image": 50.0, "acc_no_context": 100.0, "acc_grade_1_6": 50.0, "acc_grade_7_12": 100.0},
        "acc_average": 75.0,
    }
    assert (HUMAN, CHANCE) == (0.884, 0.3983)


def test_figures_have_two_decimals(examples):
    assert score(examples[:3], SAID)["official"]["Accuracy"] == 66.67
    assert score(examples[1:2], SAID)["official"]["IMG-Accuracy"] == 0.0  # no picture at all


def test_all_forms_of_predictions_score_alike(tmp_path, examples):
    expected = score(examples, SAID)
    rows = [{"question_id": name, "prompt": "?", "text": text, "metadata": {}} for name, text in SAID.items()]
    (tmp_path / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    indices = {"4": 1, "7": 0, "9": -1, "12": 2}
    results = {"acc": 75.0, "correct": 3, "count": 4, "results": indices, "outputs": dict.fromkeys(SAID, "?")}
    for form in (
        rows,
        tmp_path / "answers.jsonl",
        str(tmp_path / "answers.jsonl"),
        indices,
        results,
        written(tmp_path, results, "results.json"),
        {"outputs": SAID},
        written(tmp_path, {"outputs": SAID}, "outputs.json"),
        written(tmp_path, SAID, "plain.json"),
        {int(name): text for name, text in SAID.items()},
    ):
        assert score(examples, form) == expected
    (tmp_path / "one.jsonl").write_text(json.dumps(rows[0]))
    assert score(examples[:1], tmp_path / "one.jsonl")["accuracy"] == 1.0


def test_missing_answers_are_wrong_officially_and_others_are_passed_over(examples):
    found = score(examples, {"4": "B", "1": "A"})
    assert (found["n"], found["accuracy"], found["missing"], found["unread"]) == (4, 0.25, 3, 0)
    with pytest.raises(BadInput, match=r"4 of 4 problems without an answer \(the first: '4'\)"):
        score(examples, {"1": "A"})
    with pytest.raises(BadInput, match="3 of 4 problems"):
        score(examples, {"4": "B"}, profile="random-fallback")


def test_the_fallback_guesses_from_its_seed(tmp_path):
    many = read(written(tmp_path, {str(i): problem(choices=[*"abcd"], answer=i % 4) for i in range(2000)}))
    silent = dict.fromkeys((one.id for one in many), "I do not know.")
    assert score(many, silent)["accuracy"] == 0.0
    first = score(many, silent, "random-fallback")
    assert first == score(many, silent, "random-fallback", seed=0)
    assert first["unread"] == 2000
    assert abs(first["accuracy"] - 0.25) < 0.04  # four standard deviations
    assert first["accuracy"] != score(many, silent, "random-fallback", seed=1)["accuracy"]
    generator = random.Random(5)
    by_hand = sum(generator.randrange(4) == one.answer for one in many) / 2000
    assert score(many, silent, "random-fallback", seed=5)["accuracy"] == by_hand
    oracle = {one.id: f"The answer is {'ABCD'[one.answer]}." for one in many}
    state = random.getstate()
    assert score(many, oracle, "random-fallback")["accuracy"] == score(many, oracle)["accuracy"] == 1.0
    assert random.getstate() == state


@settings(deadline=None)
@given(st.lists(st.sampled_from(["A", "B", "C", "?", "The answer is B."]), min_size=4, max_size=4))
def test_rows_add_up(texts):
    examples = [
        Example(str(i), "?", ("a", "b", "c"), i % 3, "h" * (i % 2), "i" * (i // 2) or None, subject, 6 + i % 2, "t")
        for i, subject in enumerate([*scienceqa.SUBJECTS, "natural science"])
    ]
    found = score(examples, {str(i): text for i, text in enumerate(texts)})
    rows = found["by_row"]
    for kind in (("NAT", "SOC", "LAN"), ("G1-6", "G7-12")):
        assert sum(rows[row]["n"] for row in kind) == 4
        assert sum(rows[row]["n"] * rows[row]["accuracy"] for row in kind) == pytest.approx(4 * found["accuracy"])
    assert set(rows) == set(OFFICIAL.values())


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"answer": "0"}, "id '9': the field 'answer' must be a whole number, not a string"),
        ({"answer": 2}, "'answer' must be the index of a choice, 0 to 1, not 2"),
        ({"answer": -1}, "not -1"),
        ({"choices": ["a"]}, "'choices' must be 2 to 5 strings"),
        ({"choices": ["a", 1]}, "'choices' must be 2 to 5 strings"),
        ({"grade": "grade13"}, "'grade' must be grade1 to grade12, not 'grade13'"),
        ({"subject": "history"}, "'subject' must be one of natural science"),
        ({"hint": 3}, "'hint' must be a string"),
    ],
)
def test_damaged_problems_are_refused(tmp_path, change, part):
    with pytest.raises(BadInput) as caught:
        read(written(tmp_path, {"7": problem(), "9": problem(**change)}))
    assert part in str(caught.value)
    assert "problems.json" in str(caught.value)


def test_splits_that_do_not_fit_are_refused(tmp_path):
    problems = written(tmp_path, PROBLEMS)
    with pytest.raises(UnknownName, match="unknown split 'tset'; did you mean 'test'"):
        read(problems, split="tset")
    splits = written(tmp_path, SPLITS, "pid_splits.json")
    with pytest.raises(UnknownName, match="unknown split 'minitest'; did you mean 'test'"):
        read(problems, splits, "minitest")
    with pytest.raises(BadInput, match=r"1 problems of the split 'test' are missing \('77'\)"):
        read(problems, written(tmp_path, {"test": ["7", "77"]}, "pid_splits.json"))
    with pytest.raises(BadInput, match="must be an object of lists"):
        read(problems, problems)
    problems.write_text(problems.read_text()[:500])
    with pytest.raises(BadInput, match=r"problems.json is not valid JSON"):
        read(problems)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ('{"question_id": "4", "text": "A"}\n{"question_id": "4"', "line 2 is not valid JSON"),
        (
            '{"question_id": "4", "text": "A"}\n{"question_id": "4", "text": "B"}',
            "line 2: the field 'question_id' repeats",
        ),
        ('{"question_id": "4", "text": null}', "must be a string or a whole number, not null"),
        ('{"question_id": "4", "answer": "A"}', "line 1: the field 'text' is missing"),
        ('{"results": {"4": 1.5}}', "must be a string or a whole number, not a number"),
        ("", "is empty"),
    ],
)
def test_predictions_that_do_not_fit_are_refused(tmp_path, examples, text, part):
    (tmp_path / "answers.jsonl").write_text(text)
    with pytest.raises(BadInput) as caught:
        score(examples, tmp_path / "answers.jsonl")
    assert part in str(caught.value)


def test_other_mistakes_are_refused(tmp_path, examples):
    with pytest.raises(UnknownName, match="profile 'random'; known: official, random-fallback"):
        score(examples, SAID, profile="random")
    with pytest.raises(BadInput, match="no such file"):
        score(examples, tmp_path / "answers.jsonl")
