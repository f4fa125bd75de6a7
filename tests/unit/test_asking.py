"""What each benchmark asks, in its published form, and how answers become its official results file, byte by byte."""

import json

import benchmark_files
import pytest
from benchmark_files import NAMES, make
from hypothesis import given
from hypothesis import strategies as st

from vlmlab.benchmarks import asking, gqa, llava_bench, pope, runner, scienceqa, textvqa, vizwiz, vqav2, vsr, whatsup
from vlmlab.benchmarks.asking import Ask, Said
from vlmlab.benchmarks.statistics import bootstrap, wilson
from vlmlab.errors import BadInput

SHORT = "Answer the question using a single word or phrase."
FIRST = {
    "vqav2": Ask(10, "COCO_val2014_000000000000.jpg", f"What 0?\n{SHORT}"),
    "textvqa": Ask(0, "0a0.jpg", f"What 0?\n{SHORT}"),
    "vizwiz": Ask(
        "VizWiz_val_00000000.jpg",
        "VizWiz_val_00000000.jpg",
        f"What 0?\nWhen the provided information is insufficient, respond with 'Unanswerable'.\n{SHORT}",
    ),
    "gqa": Ask("00", "n0.jpg", f"What 0?\n{SHORT}"),
    "pope": Ask(1, "COCO_0.jpg", f"Is there a thing0 in the image?\n{SHORT}", ("yes", "no")),
    "vsr": Ask(
        0,
        "0.jpg",
        'Based on the image, is this statement "True" or "False"? The cat is under the box0.\n'
        'Respond with "True" or "False" directly.',
        ("True", "False"),
    ),
    "scienceqa": Ask(
        "2",
        "2/image.png",
        "Which 2?\nContext: N/A\nOptions: (A) ball (B) box\n"
        "Answer with the option's letter from the given choices directly.",
        ("A", "B"),
    ),
    "whatsup": Ask(
        "mug_left_of_plate.jpeg",
        "mug_left_of_plate.jpeg",
        "Provide a one-sentence caption for the provided image.",
        ("A mug to the left of a plate", "A mug to the right of a plate", "A mug on a plate", "A mug under a plate"),
    ),
}


def read(name, tmp_path):
    files, _ = make(name, tmp_path / name)
    module = runner.official(name)
    return module, module.read(files.annotations, files.questions)


@pytest.mark.parametrize("name", NAMES)
def test_questions_have_the_published_form(name, tmp_path):
    module, examples = read(name, tmp_path)
    asks = list(module.asks(examples))
    assert asks[0] == FIRST[name]
    assert len({ask.key for ask in asks}) == len(asks) == len(list(examples))
    assert all(bool(ask.options) == ("likelihood" in module.FORM.methods) for ask in asks)


def test_a_problem_without_a_picture_is_asked_without_one(tmp_path):
    _, examples = read("scienceqa", tmp_path)
    assert [ask.image for ask in scienceqa.asks(examples)] == ["2/image.png", "0/image.png", "1/image.png", None]
    assert "\nContext: It is dark.\nOptions: (A) ball (B) box (C) cat\n" in list(scienceqa.asks(examples))[2].prompt


def test_vqav2_names_pictures_by_number_and_wants_its_questions(tmp_path):
    files, _ = make("vqav2", tmp_path / "vqav2")
    one = vqav2.read(files.annotations, files.questions)[5]
    assert next(vqav2.asks([one._replace(image_id=391895)])).image == "COCO_val2014_000000391895.jpg"
    assert next(vqav2.asks([one._replace(image_id="abstract.png")])).image == "abstract.png"
    with pytest.raises(BadInput, match="--questions"):
        list(vqav2.asks(vqav2.read(files.annotations)))


def test_llava_bench_asks_the_question_itself():
    one = llava_bench.Example("q1", "001.jpg", "What is it?", "conv")
    assert list(llava_bench.asks([one])) == [Ask("q1", "001.jpg", "What is it?")]
    assert llava_bench.results([one], {"q1": Said("A cat.")}) == [
        {"question_id": "q1", "prompt": "What is it?", "text": "A cat."}
    ]


GOLDEN = {
    "vqav2": (
        ["Yes.", "the two dogs"],
        b'[{"question_id": 10, "answer": "yes"}, {"question_id": 11, "answer": "2 dogs"}]\n',
    ),
    "textvqa": (
        ["Yes.", "a é"],
        '[{"question_id": 0, "answer": "Yes."}, {"question_id": 1, "answer": "a é"}]\n'.encode(),
    ),
    "vizwiz": (
        ["Unanswerable", "No."],
        b'[{"image": "VizWiz_val_00000000.jpg", "answer": "unanswerable"}, '
        b'{"image": "VizWiz_val_00000001.jpg", "answer": "no"}]\n',
    ),
    "gqa": (
        ["Yes.", "Red"],
        b'[{"questionId": "00", "prediction": "yes"}, {"questionId": "01", "prediction": "red"}]\n',
    ),
    "pope": (
        ["Yes", "No, it is not."],
        b'{"question_id": 1, "question": "Is there a thing0 in the image?", "answer": "Yes"}\n'
        b'{"question_id": 2, "question": "Is there a thing1 in the image?", "answer": "No, it is not."}\n',
    ),
    "vsr": (["True", "false."], b"1\n0\n"),
    "scienceqa": (["B", "The answer is A."], b'{"outputs": {"2": "B", "0": "The answer is A."}}\n'),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_results_files_are_the_official_ones_byte_for_byte(name, tmp_path):
    module, examples = read(name, tmp_path)
    texts, expected = GOLDEN[name]
    said = {ask.key: Said(text) for ask, text in zip(module.asks(examples), texts, strict=False)}
    path = tmp_path / module.FORM.file
    asking.write(path, module.results(examples[:2], said))
    assert path.read_bytes() == expected


def test_whatsup_keeps_the_scores_so_that_ties_are_seen(tmp_path):
    _, examples = read("whatsup", tmp_path)
    said = {one.image: Said("", (-1.5, -1.5, -2.0, -3.25)) for one in examples}
    path = tmp_path / "predictions.json"
    asking.write(path, whatsup.results(examples, said))
    assert path.read_text() == json.dumps([[-1.5, -1.5, -2.0, -3.25]] * 4) + "\n"
    assert whatsup.score(examples, path)["accuracy"] == 1.0
    assert whatsup.score(examples, path, "strict")["accuracy"] == 0.0


@pytest.mark.parametrize(
    ("text", "said"),
    [("True", 1), ("False", 0), ("yes, it is", 1), ("No. True.", 0), ("It is TRUE.", 1), ("", 0), ("untrue, no", 0),
     ("not sure", 0)],
)  # fmt: skip
def test_vsr_reads_the_first_verdict(text, said):
    assert vsr.parse(text) == said


def test_chance_by_hand(tmp_path):
    # VQAv2: three yes/no questions with two answers, one number, two others with two answers
    assert vqav2.chance(read("vqav2", tmp_path)[1]) == pytest.approx((3 / 2 + 1 + 2 / 2) / 6)
    assert textvqa.chance(read("textvqa", tmp_path)[1]) == pytest.approx(1 / 5)
    assert vizwiz.chance(read("vizwiz", tmp_path)[1]) == pytest.approx(1 / 5)  # yes, 2, red, blue, unanswerable
    # GQA: three binary questions; of the open ones only the two balanced, with two answers
    assert gqa.chance(read("gqa", tmp_path)[1]) == pytest.approx((3 / 2 + 2 / 2) / 5)
    assert scienceqa.chance(read("scienceqa", tmp_path)[1]) == pytest.approx((3 / 2 + 1 / 3) / 4)
    for name, expected in (("pope", 1 / 2), ("vsr", 1 / 2), ("whatsup", 1 / 4)):
        module, examples = read(name, tmp_path)
        assert module.chance(examples) == expected


BEST = {"vqav2": ("yes", 2 / 6), "textvqa": ("yes", 2 / 6), "vizwiz": ("unanswerable", 2 / 6), "gqa": ("yes", 2 / 5),
        "pope": ("yes", 4 / 6), "vsr": ("False", 3 / 5), "scienceqa": ("A", 2 / 4),
        "whatsup": ("left", 1 / 4)}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_constant_answers_score_the_share_of_their_answer(name, tmp_path):
    module, examples = read(name, tmp_path)
    of = {answer: module.score(examples, each)["accuracy"] for answer, each in module.constants(examples).items()}
    answer, share = BEST[name]
    assert of[answer] == pytest.approx(share)
    assert max(of.values()) == of[answer]


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("xyz")), min_size=1))
def test_a_guess_is_the_mean_over_questions(expected):
    answers = {kind: {answer for k, answer in expected if k == kind} for kind, _ in expected}
    assert asking.guess(expected) == pytest.approx(sum(1 / len(answers[kind]) for kind, _ in expected) / len(expected))


@given(
    st.dictionaries(
        st.integers() | st.text(),
        st.builds(Said, st.text(), st.lists(st.floats(allow_nan=False)).map(tuple)),
        min_size=1,
    ),
    st.integers(1, 20),
)
def test_answers_are_read_as_they_were_written_and_a_cut_line_is_left_out(tmp_path_factory, said, cut):
    path = tmp_path_factory.mktemp("answers") / "answers.jsonl"
    whole = "".join(asking.encode(key, one) for key, one in said.items()).encode()
    path.write_bytes(whole)
    assert asking.decode(path) == said
    path.write_bytes(whole[:-cut] if cut < len(whole) else b"")
    kept = asking.decode(path)
    assert list(kept.items()) == list(said.items())[: len(kept)]
    assert len(kept) == (whole[:-cut] if cut < len(whole) else b"").count(b"\n")


@pytest.mark.parametrize("line", [b"{]\n", b"[1]\n", b'{"text": "x"}\n', b'{"key": 1}\n', b"\xff\n", b"\n", b"3\n"])
def test_damaged_answers_are_told(tmp_path, line):
    path = tmp_path / "answers.jsonl"
    path.write_bytes(asking.encode(1, Said("x")).encode() + line + asking.encode(2, Said("y")).encode())
    with pytest.raises(BadInput, match=r"answers\.jsonl, line 2 is damaged .*; delete the file to ask again"):
        asking.decode(path)


def test_marks_are_what_the_score_is_the_mean_of(tmp_path):
    for name in ("vqav2", "textvqa", "vizwiz"):
        module, examples = read(name, tmp_path)
        said = {
            ask.key: text
            for ask, text in zip(module.asks(examples), ["yes", "no", "dog", "2", "red", "x"], strict=True)
        }
        marks = list(module.marks(examples, said))
        assert sum(earned for _, earned, _ in marks) / len(marks) == pytest.approx(
            module.score(examples, said)["accuracy"]
        )
        assert len({picture for picture, _, _ in marks}) == (6 if name == "vizwiz" else 3)


def test_the_bootstrap_draws_pictures():
    marks = [(picture, float(picture % 2), 1.0) for picture in range(100)]
    low, high = bootstrap(marks)
    assert (low, high) == bootstrap(marks)  # the same seed
    assert low == pytest.approx(0.5 - 1.96 * 0.05, abs=0.01)  # the binomial's standard error is 0.05
    assert high == pytest.approx(0.5 + 1.96 * 0.05, abs=0.01)
    again = bootstrap([mark for mark in marks for _ in range(4)])  # four answers a picture that go wrong together
    assert again == (low, high)
    assert bootstrap([(1, 1.0, 1.0), (1, 0.5, 1.0), (2, 1.5, 2.0)]) == wilson(1.5, 2)  # 0.75 each: no spread
    assert bootstrap([(i, 8.0, 5.0) for i in range(9)]) == (1.6, 1.6)
    assert bootstrap([]) == (0.0, 1.0)


def test_the_files_of_this_test_cover_all_benchmarks():
    assert {*benchmark_files.NAMES, "llava_bench"} == set(runner.OFFICIAL)
    assert all(method in asking.METHODS for name in NAMES for method in runner.official(name).FORM.methods)
    assert pope.FORM.methods[0] == "generate"
    assert vsr.FORM.methods[0] == "likelihood"
