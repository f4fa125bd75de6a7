"""POPE: both parsers on golden texts, the rates by hand, and files that cannot be scored."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmlab.benchmarks import pope
from vlmlab.benchmarks.pope import Example, differences, parse_official, parse_robust, read, score
from vlmlab.errors import BadInput, UnknownName

GOLDEN = [  # text, official, robust
    ("Yes", "yes", "yes"),
    ("yes.", "yes", "yes"),
    ("No", "no", "no"),
    ("no, there is no dog", "no", "no"),
    ("No, there is a cat. Yes.", "no", "no"),
    ("There is not a dog in the image.", "no", "no"),
    ("I see a cat. There is no dog.", "yes", None),
    ("NO", "yes", "no"),
    ("Nope", "yes", "no"),
    ("no!", "yes", "no"),
    ("There isn't a dog", "yes", "no"),
    ("There isn’t any dog.", "yes", "no"),
    ("No\nThere is none.", "yes", "no"),
    ("**No**", "yes", "no"),
    ("The picture shows a kitchen. No, there is no dog.", "yes", "no"),
    ("There is no dog, but there is a cat.", "no", "no"),
    ("There is a cat but no dog.", "no", None),
    ("Yes, it is a dog and not a cat", "no", "yes"),
    ("There is a dog on the sofa.", "yes", "yes"),
    ("The answer is yes.", "yes", "yes"),
    ("Answer: no", "no", "no"),
    ("None", "yes", "no"),
    ("yes or no", "no", None),
    ("Yes/No", "yes", None),
    ("I'm not sure whether there is a dog.", "no", None),
    ("It is unclear.", "yes", None),
    ("I can't tell.", "yes", None),
    ("nothing is known", "yes", "no"),
    ("I know a dog", "yes", None),
    ("", "yes", None),
    ("dog", "yes", None),
]


def example(number, answer):
    return Example(number, f"{number}.jpg", f"Is there a thing {number} in the image?", answer)


EXAMPLES = [example(number, answer) for number, answer in enumerate(["yes", "no"] * 3, 1)]
SAID = dict(enumerate(["Yes", "Yes.", "No", "NO", "yes", "It is unclear"], 1))


@pytest.mark.parametrize(("text", "official", "robust"), GOLDEN)
def test_the_parsers_read_texts_as_told(text, official, robust):
    assert parse_official(text) == official
    assert parse_robust(text) == robust


def test_differences_are_the_texts_that_the_parsers_read_differently():
    found = differences(dict(enumerate(text for text, *_ in GOLDEN)))
    assert [each[1:] for each in found] == [row for row in GOLDEN if row[1] != row[2]]
    assert differences({3: "No", 4: "Yes"}) == []
    assert differences([{"question_id": 7, "text": "NO"}])[0] == (7, "NO", "yes", "no")


@settings(deadline=None)
@given(st.text())
def test_any_text_is_read_and_official_agrees_with_its_rule(text):
    words = text.partition(".")[0].replace(",", "").split(" ")
    assert parse_official(text) == ("no" if any(word in ("No", "no", "not") for word in words) else "yes")
    assert parse_robust(text) in ("yes", "no", None)


@settings(deadline=None)
@given(st.sampled_from(["yes", "no"]), st.sampled_from([str.lower, str.upper, str.title]), st.sampled_from(",.! \n"))
def test_the_robust_parser_hears_a_leading_answer_whatever_its_case_and_what_follows(word, case, mark):
    assert parse_robust(f" {case(word)}{mark} I am not sure about the dog") == word


def test_rates_by_hand_official():
    found = score(EXAMPLES, SAID)  # yes: right, wrong (No), right; no: wrong three times ("NO", "unclear" are yes)
    assert (found["n"], found["tp"], found["fp"], found["tn"], found["fn"], found["unclear"]) == (6, 2, 3, 0, 1, 0)
    assert found["accuracy"] == pytest.approx(2 / 6)
    assert found["precision"] == pytest.approx(2 / 5)
    assert found["recall"] == pytest.approx(2 / 3)
    assert found["f1"] == pytest.approx(2 * 2 / (2 * 2 + 3 + 1))
    assert found["yes_ratio"] == pytest.approx(5 / 6)
    assert found["by_label"] == {"no": {"n": 3, "accuracy": 0.0}, "yes": {"n": 3, "accuracy": pytest.approx(2 / 3)}}
    assert found["official"] == {
        **{"TP": 2, "FP": 3, "TN": 0, "FN": 1},
        **{"Accuracy": found["accuracy"], "Precision": 0.4, "Recall": found["recall"], "F1 score": found["f1"]},
        "Yes ratio": found["yes_ratio"],
    }


def test_rates_by_hand_robust():
    found = score(EXAMPLES, SAID, profile="robust")  # "NO" is right now; the unclear one is wrong and no yes
    assert (found["tp"], found["fp"], found["tn"], found["fn"], found["unclear"]) == (2, 1, 1, 1, 1)
    assert found["accuracy"] == pytest.approx(3 / 6)
    assert found["yes_ratio"] == pytest.approx(3 / 6)
    twice = score([EXAMPLES[0], EXAMPLES[2]], {1: "yes", 3: "It is unclear."}, profile="robust")
    assert (twice["recall"], twice["precision"], twice["fn"]) == (0.5, 1.0, 0)  # missed, though nobody said no


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["yes", "no"]), st.sampled_from([row[0] for row in GOLDEN]))))
def test_rates_hang_together(rows):
    examples = [example(number, answer) for number, (answer, _) in enumerate(rows)]
    said = {number: text for number, (_, text) in enumerate(rows)}
    for profile in pope.PROFILES:
        found = score(examples, said, profile)
        cells = [found[name] for name in ("tp", "fp", "tn", "fn", "unclear")]
        assert sum(cells) == found["n"] == len(rows)
        rates = [found[name] for name in ("accuracy", "precision", "recall", "f1", "yes_ratio")]
        assert all(0 <= rate <= 1 for rate in rates)
        assert found["accuracy"] * len(rows) == pytest.approx(found["tp"] + found["tn"])
    oracle = score(examples, {one.question_id: one.answer for one in examples})
    assert oracle["accuracy"] == (1.0 if rows else 0.0)


def test_a_constant_yes_has_recall_one_and_half_the_answers_right():
    found = score(EXAMPLES, dict.fromkeys(SAID, "yes"))
    assert (found["accuracy"], found["recall"], found["yes_ratio"]) == (0.5, 1.0, 1.0)
    silent = score(EXAMPLES, dict.fromkeys(SAID, "no"))
    assert (silent["precision"], silent["recall"], silent["f1"], silent["yes_ratio"]) == (0, 0, 0, 0)  # 0 / 0


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def asked(number, label="yes"):
    question = f"Is there a thing {number} in the image?"
    return {"question_id": number, "image": f"{number}.jpg", "text": question, "label": label}


def test_official_files_are_read_and_all_forms_of_predictions_score_alike(tmp_path):
    labels = ["yes", "no"] * 3
    file = write_lines(tmp_path / "coco_pope_random.json", [asked(i, label) for i, label in enumerate(labels, 1)])
    examples = read(file)
    assert examples == EXAMPLES
    own = [{"question": EXAMPLES[i - 1].question, "answer": text} for i, text in SAID.items()]
    llava = [{"question_id": i, "prompt": "?", "text": text, "metadata": {}} for i, text in SAID.items()][::-1]
    expected = score(examples, SAID)
    for rows in (own, llava, [{"question_id": i, "answer": text} for i, text in SAID.items()]):
        assert score(examples, rows) == expected
        assert score(examples, write_lines(tmp_path / "answers.jsonl", rows)) == expected
        assert len(differences(tmp_path / "answers.jsonl")) == 2


@pytest.mark.parametrize(
    ("rows", "part"),
    [
        ([asked(1), {**asked(2), "label": "maybe"}], "line 2: the field 'label' must be 'yes' or 'no', not 'maybe'"),
        ([{**asked(1), "label": 1}], "the field 'label' must be a string"),
        ([asked(1), asked(1)], "'question_id' repeats 1"),
        ([{"question_id": 1, "image": "1.jpg", "label": "no"}], "'text' is missing"),
        ([], "is empty"),
    ],
)
def test_damaged_annotations_are_refused(tmp_path, rows, part):
    with pytest.raises(BadInput) as caught:
        read(write_lines(tmp_path / "pope.json", rows))
    assert part in str(caught.value)
    assert "pope.json" in str(caught.value)


@pytest.mark.parametrize(
    ("predictions", "part"),
    [
        ({1: "yes"}, "5 of 6 questions without an answer (the first: 2)"),
        (SAID | {9: "no"}, "1 answers to an unknown question (the first: 9)"),
        ([{"answer": "yes"}] * 7, "unknown question (the first: 'record 7')"),
        ([{"answer": "yes"}] * 5, "without an answer (the first: 6)"),
        ([{"answer": "yes", "question": "Is it?"}] * 6, "record 1: the field 'question' must be 'Is there"),
        ([{"question_id": 1, "answer": "yes"}, {"answer": "no"}], "record 2: the field 'question_id' is missing"),
        ([{"question_id": 1}], "'text' is missing"),
        (["yes"] * 6, "record 1 must be an object with an answer, not 'yes'"),
        ([{"question_id": 1, "answer": None}], "must be a string, not null"),
        ([{"question_id": 1, "answer": "no"}] * 2, "repeats 1"),
    ],
)
def test_predictions_that_do_not_fit_are_refused(predictions, part):
    with pytest.raises(BadInput) as caught:
        score(EXAMPLES, predictions)
    assert part in str(caught.value)


def test_other_mistakes_are_refused(tmp_path):
    with pytest.raises(UnknownName, match="unknown profile 'offical'; did you mean 'official'"):
        score(EXAMPLES, SAID, profile="offical")
    with pytest.raises(BadInput, match=r"leave q.json out"):
        read(tmp_path / "pope.json", "q.json")
    with pytest.raises(BadInput, match="no such file"):
        read(tmp_path / "pope.json")
    with pytest.raises(BadInput, match="no such file"):
        score(EXAMPLES, tmp_path / "answers.jsonl")
