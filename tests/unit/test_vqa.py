"""VQAv2, TextVQA and VizWiz score as their official programs do, odd inputs and all."""

import json
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmlab.benchmarks import textvqa, vizwiz, vqav2
from vlmlab.benchmarks.vqa_text import (
    CONTRACTIONS,
    MARKS,
    consensus,
    digits_and_articles,
    m4c,
    normalised,
    punctuation,
    tidy,
)
from vlmlab.errors import BadInput, UnknownName

PROFILES = ("official-2021", "official-2016", "lmms-eval")
PARTS = st.sampled_from(["the dog", "dog", "Dog.", "two", "2", "1,000", "a", "", " ", "\n", "!", "dont", "x.y", *MARKS])
TEXTS = st.lists(PARTS, max_size=4).map("".join)


def people(*texts: str) -> list[dict]:
    return [{"answer_id": place, "answer": text, "answer_confidence": "yes"} for place, text in enumerate(texts, 1)]


def ten(**counts: int) -> list[str]:
    return [text.replace("_", " ") for text, count in counts.items() for _ in range(count)]


def annotation(number: int, texts: list[str], kind: str = "what is", answer_type: str = "other") -> dict:
    return {"question_id": number, "image_id": number // 10, "question_type": kind, "answer_type": answer_type,
            "multiple_choice_answer": texts[0], "answers": people(*texts)}  # fmt: skip


def saved(path: Path, value: object) -> Path:
    path.write_text(json.dumps(value))
    return path


def one(texts: list[str], said: str, profile: str) -> float:
    example = vqav2.Example(1, 1, None, "what is", "other", people(*texts))
    return vqav2.score([example], {1: said}, profile)["accuracy"]


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("", ""),
        ("?!;", "   "),  # no space beside them: a space each
        ("? !", " "),  # "? " and " !": both go
        ("yes.", "yes"),
        ("t-shirt", "t shirt"),
        ("t -shirt, t-shirt", "t shirt tshirt"),  # one hyphen beside a space: all of them go
        ("red/blue", "red blue"),
        ("1,000", "1000"),
        ("1,000 - 2/3", "1000  23"),  # a comma within a number: every mark goes
        ("1, 000", "1 000"),
        ("red,blue", "red blue"),
        ("3.5", "3.5"),
        (".5", ".5"),
        ("5.", "5"),
        ("a.b", "ab"),
        ("o'clock: 5 & 6% $7", "o'clock: 5 & 6% $7"),
        ("." * 31, ""),
        ("." * 32, ""),
        ("." * 33, "."),  # at most 32 periods go
        ("." * 40 + "5", "." * 8 + "5"),
    ],
)
def test_punctuation(text, plain):
    assert punctuation(text) == plain


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("None of The Two", "0 of 2"),
        ("a an the A", ""),
        ("zero  one\tten eleven", "0 1 10 eleven"),
        ("dont", "don't"),
        ("DONT", "don't"),
        ("couldnt've couldn'tve", "couldn't've couldn't've"),
        ("somebody'd", "somebodyd"),
        ("somebodyd", "somebodyd"),
        ("Im Ive", "im ive"),  # their keys have a capital, the text has none by then
        ("id've", "id've"),
        ("yall'd've y'alld've y'all'dve", "y'all'd've y'all'd've y'all'd've"),
        ("ow's'at twas oclock", "'ow's'at 'twas o'clock"),
        ("let's she's don't", "let's she's don't"),
        ("well wed shed ill", "well wed shed ill"),  # words of their own, no contractions
    ],
)
def test_digits_and_articles(text, plain):
    assert digits_and_articles(text) == plain


def test_the_official_table_has_118_contractions_that_change_something():
    assert len(CONTRACTIONS) == 118
    assert all(short != long for short, long in CONTRACTIONS.items())
    assert sum(short != short.lower() for short in CONTRACTIONS) == 4
    assert len(MARKS) == len(set(MARKS)) == 21


def test_tidy_and_m4c():
    assert tidy("\n two\tdogs\n") == "two dogs"
    assert tidy("two\n\ndogs") == "two  dogs"
    assert m4c("The Dog's, two?") == "dog 's 2"
    assert m4c("STOP,NOW") == "stopnow"  # a comma is gone before it could become a space
    assert m4c("1,000\tft.") == "1000 ft"


@pytest.mark.parametrize(
    ("texts", "said", "expected"),
    [
        (ten(yes=10), "yes", (1, 1, 1)),
        (ten(yes=10), "Yes", (0, 1, 1)),
        (ten(yes=10), "yes.", (0, 1, 1)),
        (ten(yes=10), "\tyes\n", (1, 1, 1)),
        (ten(yes=9, no=1), "Yes.", (1, 1, 1)),
        (ten(the_dog=7, dog=3), "a dog", (1, 0.9, 1)),
        (ten(the_dog=10), "dog", (0, 0, 1)),
        (ten(Dog=10), "dog", (0, 0, 1)),
        (ten(two=7, dog=3), "2", (1, 0, 1)),
        (["t-shirt"] * 10, "t-shirt", (1, 0, 1)),  # 2016 normalises the prediction, not people who all agree
        (["t-shirt"] * 9 + ["shirt"], "t-shirt", (1, 1, 1)),
        (["dog\n"] * 10, "dog", (1, 0, 1)),
        (["1,000"] * 5 + ["1000"] * 5, "1000", (1, 1, 1)),
        (ten(cat=7, dog=3), "dog", (0.9, 0.9, 0.9)),
        (ten(cat=8, dog=2), "dog", (0.6, 0.6, 0.6)),
        (ten(cat=9, dog=1), "dog", (0.3, 0.3, 0.3)),
        (ten(cat=10), "dog", (0, 0, 0)),
        ([""] * 10, "", (1, 1, 1)),
        ([""] * 10, " \n", (1, 1, 1)),
        ([""] * 10, "!", (0, 1, 1)),  # nothing is left of a lone mark: in 2016 of the prediction ...
        (["!"] * 10, "?", (0, 0, 1)),  # ... and in lmms-eval on both sides
    ],
)
def test_vqav2_golden(texts, said, expected):
    assert tuple(one(texts, said, profile) for profile in PROFILES) == pytest.approx(expected, abs=1e-15)


def test_official_is_2021_and_an_unknown_profile_is_told():
    assert one(ten(yes=10), "Yes", "official") == 0
    assert vqav2.PROFILES == PROFILES
    for module in (vqav2, textvqa, vizwiz):
        assert module.score([], {}, "official") == module.score([], {}, module.PROFILES[0])
        with pytest.raises(UnknownName, match="profile 'official-2020'"):
            module.score([], {}, "official-2020")


@pytest.mark.parametrize(("matching", "accuracy"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (10, 1)])
def test_consensus_of_ten(matching, accuracy):
    assert consensus([1] * matching + [0] * (10 - matching)) == pytest.approx(accuracy, abs=1e-15)


def test_the_others_are_told_apart_by_their_whole_record():
    same = {"answer": "dog", "answer_confidence": "yes"}
    records = [same] * 4 + [{**same, "answer_confidence": "no"}] + [{**same, "answer": "cat"}] * 5
    example = vqav2.Example(1, 1, None, "what is", "other", records)
    # of five dogs, four are one record: one dog for each of these, four for the fifth, five for the cats
    assert vqav2.score([example], {1: "dog"})["accuracy"] == pytest.approx((4 * (1 / 3) + 1 + 5) / 10)
    records[:4] = [{**same, "answer_id": place, "answer": text} for place, text in enumerate(["dog", "the dog"] * 2)]
    assert vqav2.score([example._replace(answers=records)], {1: "dog"})["accuracy"] == 1


@settings(deadline=None)
@given(st.lists(TEXTS, min_size=10, max_size=10), TEXTS, st.sampled_from(PROFILES), st.randoms())
def test_vqav2_counts_people_in_any_order(texts, said, profile, rng: random.Random):
    steps = [0, 0.3, 0.6, 0.9, 1]
    accuracy = one(texts, said, profile)
    assert min(abs(accuracy - step) for step in steps) < 1e-12
    rng.shuffle(texts)
    assert one(texts, said, profile) == pytest.approx(accuracy)
    assert one([said] * 10, said, "official") == 1  # who says what all say is right


@settings(deadline=None)
@given(TEXTS)
def test_normalising_leaves_words_with_single_spaces(text):
    plain = normalised(text)
    assert plain == " ".join(plain.split())
    assert plain == plain.lower() == normalised(text.swapcase())
    assert not {"a", "an", "the", "two"} & set(plain.split())
    assert m4c(text) == m4c(text.upper())


def annotated() -> list[dict]:
    return [
        annotation(10, ten(yes=10), "is the", "yes/no"),
        annotation(11, ten(the_dog=7, dog=3)),
        annotation(20, ten(cat=7, dog=3)),
    ]


@pytest.fixture
def vqa_files(tmp_path: Path) -> dict[str, Path]:
    asked = [{"question_id": number, "image_id": 1, "question": f"What is {number}?"} for number in (10, 11, 20)]
    return {
        "annotations": saved(tmp_path / "annotations.json", {"info": {"year": 2017}, "annotations": annotated()}),
        "questions": saved(tmp_path / "questions.json", {"questions": asked, "data_type": "mscoco"}),
        "predictions": saved(
            tmp_path / "results.json",
            [{"question_id": number, "answer": text} for number, text in ((20, "dog"), (10, "no"), (11, "a dog"))],
        ),
    }


def test_vqav2_reads_and_scores_official_files(vqa_files):
    examples = vqav2.read(vqa_files["annotations"], vqa_files["questions"])
    assert [example.question_id for example in examples] == [10, 11, 20]
    assert (len(examples), examples[1].question, examples[-1].answer_type) == (3, "What is 11?", "other")
    assert examples[0].answers[9] == {"answer_id": 10, "answer": "yes", "answer_confidence": "yes"}
    assert vqav2.read(vqa_files["annotations"])[0].question is None
    result = vqav2.score(examples, vqa_files["predictions"])
    assert result == {
        "n": 3,
        "accuracy": pytest.approx(1.9 / 3, abs=1e-15),
        "by_question_type": {"is the": {"n": 1, "accuracy": 0}, "what is": {"n": 2, "accuracy": pytest.approx(0.95)}},
        "by_answer_type": {"other": {"n": 2, "accuracy": pytest.approx(0.95)}, "yes/no": {"n": 1, "accuracy": 0}},
        "official": {
            "overall": 63.33,
            "perQuestionType": {"is the": 0.0, "what is": 95.0},
            "perAnswerType": {"other": 95.0, "yes/no": 0.0},
        },
    }
    assert vqav2.score(list(examples), {20: "dog", 10: "no", 11: "a dog"}) == result


def test_questions_in_another_order_find_their_annotations(vqa_files):
    questions = json.loads(vqa_files["questions"].read_text())
    questions["questions"].reverse()
    saved(vqa_files["questions"], questions)
    texts = [example.question for example in vqav2.read(vqa_files["annotations"], vqa_files["questions"])]
    assert texts == ["What is 10?", "What is 11?", "What is 20?"]


def test_nothing_to_score_is_no_crash(tmp_path):
    examples = vqav2.read(saved(tmp_path / "empty.json", {"annotations": []}))
    result = vqav2.score(examples, [])
    assert (result["n"], result["accuracy"], result["official"]["overall"]) == (0, 0, 0)
    assert (textvqa.score([], {})["accuracy"], vizwiz.score([], {})["accuracy"]) == (0, 0)
    assert vizwiz.score([], {}, answerability={})["f1"] == 0


def damaged(file: Path, key: str, record: int, **changes: object) -> None:
    """Change fields of a record; `...` takes one away."""
    whole = json.loads(file.read_text())
    found = (whole[key] if key else whole)[record]
    found.update(changes)
    for name in [name for name, value in changes.items() if value is ...]:
        del found[name]
    file.write_text(json.dumps(whole))


@pytest.mark.parametrize(
    ("file", "record", "changes", "message"),
    [
        ("annotations", 1, {"question_id": ...}, r"annotations.json, record 2: the field 'question_id' is missing"),
        ("annotations", 1, {"question_id": "11"}, r"'question_id' must be a whole number, not a string"),
        ("annotations", 2, {"question_id": 10}, r"annotations.json, record 3: the field 'question_id' repeats 10"),
        ("annotations", 0, {"answer_type": 3}, r"record 1: the field 'answer_type' must be a string"),
        ("annotations", 0, {"question_type": ...}, r"record 1: the field 'question_type' is missing"),
        ("annotations", 2, {"answers": "dog"}, r"record 3: the field 'answers' must be a list, not a string"),
        ("annotations", 2, {"answers": []}, r"record 3: the field 'answers' holds no answer"),
        (
            "annotations",
            2,
            {"answers": [{"answer": "a"}, {"answer": 2}]},
            r"record 3: the field 'answers\[1\]' must be",
        ),
        ("annotations", 2, {"answers": [["dog"]]}, r"record 3: the field 'answers\[0\]' must be an object"),
        ("annotations", 2, {"question_id": 21}, r"annotations.json, record 3: .* is 21, .* no question in .*questions"),
        ("questions", 2, {"question_id": 21}, r"annotations.json, record 3: .* is 20, .* no question in .*questions"),
        ("questions", 1, {"question": None}, r"questions.json, record 2: the field 'question' must be a string"),
        ("questions", 1, {"question_id": ...}, r"questions.json, record 2: the field 'question_id' is missing"),
        ("predictions", 1, {"question_id": 12}, r"results.json: 1 of 3 questions .* 10\) and 1 answers .* 12\)"),
        ("predictions", 1, {"question_id": 20}, r"results.json, record 2: the field 'question_id' repeats 20"),
        ("predictions", 1, {"question_id": "10"}, r"results.json, record 2: .* must be a whole number"),
        ("predictions", 0, {"answer": ["dog"]}, r"results.json, record 1: the field 'answer' must be a string"),
        ("predictions", 2, {"answer": ...}, r"results.json, record 3: the field 'answer' is missing"),
    ],
)
def test_damage_in_vqav2_files_is_told(vqa_files, file, record, changes, message):
    damaged(vqa_files[file], "" if file == "predictions" else file, record, **changes)
    with pytest.raises(BadInput, match=message):
        vqav2.score(vqav2.read(vqa_files["annotations"], vqa_files["questions"]), vqa_files["predictions"])


def test_questions_without_annotation_name_both_files(vqa_files):
    whole = {"annotations": annotated()[:2]}
    saved(vqa_files["annotations"], whole)
    with pytest.raises(BadInput, match=r"questions.json: 1 questions have no annotation in .*annotations.json .* 20\)"):
        list(vqav2.read(vqa_files["annotations"], vqa_files["questions"]))
    whole["annotations"].append(annotation(10, ten(no=10)))
    saved(vqa_files["annotations"], whole)
    with pytest.raises(BadInput, match="record 3: the field 'question_id' repeats 10"):
        list(vqav2.read(vqa_files["annotations"], vqa_files["questions"]))
    questions = json.loads(vqa_files["questions"].read_text())["questions"]
    saved(vqa_files["questions"], {"questions": [questions[2], questions[2], *questions[:2]]})
    with pytest.raises(BadInput, match=r"questions.json, record 2: the field 'question_id' repeats 20"):
        list(vqav2.read(vqa_files["annotations"], vqa_files["questions"]))


@pytest.mark.parametrize("file", ["annotations", "questions", "predictions"])
def test_a_truncated_or_wrong_vqav2_file_is_told(vqa_files, file):
    whole = vqa_files[file].read_text()
    for text in (whole[:-1], whole[: len(whole) // 2], "", "[[]]", "[1]"):
        vqa_files[file].write_text(text)
        with pytest.raises(BadInput, match=vqa_files[file].name):
            vqav2.score(vqav2.read(vqa_files["annotations"], vqa_files["questions"]), vqa_files["predictions"])


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    def record(number: int, texts: list[str]) -> dict:
        return {"question_id": number, "image_id": f"img{number}", "question": "what does it say?", "answers": texts,
                "image_width": 1024, "image_height": 683, "set_name": "val"}  # fmt: skip

    data = [record(1, ten(stop=7, Stop_now=3)), record(2, ["Joe's"] * 10), record(3, ["1,000"] * 2 + ten(many=8))]
    return saved(tmp_path / "TextVQA_val.json", {"dataset_type": "val", "dataset_name": "textvqa", "data": data})


def test_textvqa_scores_as_m4c(text_file, tmp_path):
    examples = textvqa.read(text_file)
    assert examples[1] == textvqa.Example(2, "img2", "what does it say?", ("Joe's",) * 10)
    said = {1: "The stop, now?", 2: "JOE'S", 3: "1000."}
    result = textvqa.score(examples, said)
    accuracy = pytest.approx((0.9 + 1 + 0.6) / 3, abs=1e-15)
    assert result == {"n": 3, "accuracy": accuracy, "official": {"Samples": 3, "Accuracy": 83.33}}
    rows = [{"question_id": number, "answer": text} for number, text in said.items()]
    assert textvqa.score(examples, saved(tmp_path / "results.json", rows), "m4c") == result


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answers": ["a"] * 9}, "TextVQA_val.json, record 2: the field 'answers' must hold 10 strings"),
        ({"answers": ["a"] * 9 + [1]}, "record 2: the field 'answers' must hold 10 strings"),
        ({"answers": ...}, "record 2: the field 'answers' is missing"),
        ({"question_id": 1}, "record 2: the field 'question_id' repeats 1"),
        ({"image_id": 5}, "record 2: the field 'image_id' must be a string"),
    ],
)
def test_damage_in_textvqa_files_is_told(text_file, changes, message):
    damaged(text_file, "data", 1, **changes)
    with pytest.raises(BadInput, match=message):
        textvqa.read(text_file)


def test_textvqa_wants_an_answer_to_each_question_and_no_questions_file(text_file):
    with pytest.raises(BadInput, match="2 of 3 questions without an answer"):
        textvqa.score(textvqa.read(text_file), {1: "stop"})
    for module in (textvqa, vizwiz):
        with pytest.raises(BadInput, match=r"leave questions\.json out"):
            module.read(text_file, "questions.json")
    text_file.write_text(text_file.read_text()[:200])
    with pytest.raises(BadInput, match="not valid JSON"):
        textvqa.read(text_file)


@pytest.fixture
def vizwiz_file(tmp_path: Path) -> Path:
    def record(image: str, texts: list[str], kind: str, answerable: int) -> dict:
        answers = [{"answer": text, "answer_confidence": "yes"} for text in texts]
        return {"image": image, "question": "What is this?", "answers": answers, "answer_type": kind,
                "answerable": answerable}  # fmt: skip

    return saved(
        tmp_path / "val.json",
        [
            record("a.jpg", ten(unanswerable=7, dog=3), "unanswerable", 0),
            record("b.jpg", ["t-shirt"] * 7 + ["t shirt"] * 3, "other", 1),
            record("c.jpg", ten(the_dog=8, dog=2), "other", 1),
            record("d.jpg", ten(unsuitable=10), "unanswerable", 0),
        ],
    )


SAID = {"a.jpg": "Unanswerable.", "b.jpg": "T-shirt", "c.jpg": "the dog", "d.jpg": "no idea"}


def test_vizwiz_normalises_predictions_only(vizwiz_file, tmp_path):
    examples = vizwiz.read(vizwiz_file)
    assert examples[2] == vizwiz.Example("c.jpg", "What is this?", ("the dog",) * 8 + ("dog",) * 2, "other", 1)
    result = vizwiz.score(examples, SAID)
    assert result == {
        "n": 4,
        "accuracy": pytest.approx((1 + 0.9 + 0.6 + 0) / 4, abs=1e-15),
        "by_answer_type": {
            "other": {"n": 2, "accuracy": pytest.approx(0.75)},
            "unanswerable": {"n": 2, "accuracy": pytest.approx(0.5)},
        },
        "official": {"overall": 62.5, "perAnswerType": {"other": 75.0, "unanswerable": 50.0}},
    }
    rows = [{"image": image, "answer": text} for image, text in SAID.items()]
    assert vizwiz.score(examples, saved(tmp_path / "results.json", rows)) == result


def test_vizwiz_leaves_one_out_by_index(tmp_path):
    same = {"answer": "dog", "answer_confidence": "yes"}  # the very same record four times; each counts for the others
    example = vizwiz.Example("a.jpg", "?", ("dog",) * 4 + ("cat",) * 6, "other", 1)
    assert vizwiz.score([example], {"a.jpg": "dog"})["accuracy"] == 1
    record = {"image": "a.jpg", "question": "?", "answer_type": "other", "answers": [same] * 10}
    assert vizwiz.read(saved(tmp_path / "val.json", [record])) == [
        vizwiz.Example("a.jpg", "?", ("dog",) * 10, "other", None)
    ]


def test_vizwiz_answerability_has_unanswerable_as_the_positive_class(vizwiz_file, tmp_path):
    examples = vizwiz.read(vizwiz_file)
    scores = {"a.jpg": 0.1, "b.jpg": 0.2, "c.jpg": 0.9, "d.jpg": 0.5}  # from least answerable: a+, b-, d+, c-
    result = vizwiz.score(examples, SAID, answerability=scores)
    assert result["average_precision"] == pytest.approx((1 / 1 + 2 / 3) / 2, abs=1e-15)
    assert (result["precision"], result["recall"], result["f1"]) == (0.5, 0.5, 0.5)  # 1 - 0.5 is not above 0.5
    assert result["official"]["unanswerability"] == {"average_precision": 83.33, "f1_score": 50.0}
    assert result["accuracy"] == vizwiz.score(examples, SAID)["accuracy"]
    rows = [{"image": image, "answer": text, "answerable": scores[image]} for image, text in SAID.items()]
    assert vizwiz.score(examples, rows) == result
    assert vizwiz.score(examples, saved(tmp_path / "results.json", rows)) == result
    assert vizwiz.score(examples, SAID, answerability=tmp_path / "results.json") == result
    del rows[2]["answerable"]
    with pytest.raises(BadInput, match="record 3: the field 'answerable' is missing"):
        vizwiz.score(examples, rows)
    with pytest.raises(BadInput, match=r"1 of 4 pictures without an answer .*'a\.jpg'"):
        vizwiz.score(examples, SAID, answerability=dict.fromkeys(["b.jpg", "c.jpg", "d.jpg"], 1))
    with pytest.raises(BadInput, match=r"'a\.jpg': the field 'answerable' must be a finite number"):
        vizwiz.score(examples, SAID, answerability={**scores, "a.jpg": float("nan")})
    with pytest.raises(BadInput, match=r"a\.jpg: the annotations do not tell"):
        vizwiz.score([examples[0]._replace(answerable=None), *examples[1:]], SAID, answerability=scores)


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.integers(0, 1)), min_size=1, max_size=12))
def test_average_precision_is_that_of_scikit_learn(ranked):
    metrics = pytest.importorskip("sklearn.metrics")
    if any(label for _, label in ranked):
        expected = metrics.average_precision_score([label for _, label in ranked], [score for score, _ in ranked])
        assert vizwiz.average_precision(ranked) == pytest.approx(expected, abs=1e-12)
    else:
        assert vizwiz.average_precision(ranked) == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": "a.jpg"}, r"val.json, record 2: the field 'image' repeats 'a.jpg'"),
        ({"image": ...}, r"val.json, record 2: the field 'image' is missing"),
        ({"answers": ["dog"]}, r"record 2: the field 'answers\[0\]' must be an object"),
        ({"answerable": 2}, r"record 2: the field 'answerable' must be 0 or 1, not 2"),
        ({"answerable": "yes"}, r"record 2: the field 'answerable' must be a whole number"),
        ({"answer_type": None}, r"record 2: the field 'answer_type' must be a string, not null"),
    ],
)
def test_damage_in_vizwiz_files_is_told(vizwiz_file, changes, message):
    damaged(vizwiz_file, "", 1, **changes)
    with pytest.raises(BadInput, match=message):
        vizwiz.read(vizwiz_file)


def test_vizwiz_wants_an_answer_to_each_picture(vizwiz_file):
    examples = vizwiz.read(vizwiz_file)
    with pytest.raises(BadInput, match=r"1 of 4 pictures .*'d.jpg'\) and 1 answers to an unknown picture .*'e.jpg'"):
        vizwiz.score(examples, {**{image: SAID[image] for image in ("a.jpg", "b.jpg", "c.jpg")}, "e.jpg": "dog"})
    with pytest.raises(BadInput, match=r"id 'a\.jpg': the field 'answer' must be a string, not null"):
        vizwiz.score(examples, {**SAID, "a.jpg": None})
