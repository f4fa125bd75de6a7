"""GQA: every figure by hand on a small world, properties of them, streaming, and files that cannot be scored."""

import json
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmlab.benchmarks.gqa import Example, cells, chi_square, grounding, read, score
from vlmlab.errors import BadInput, UnknownName


def question(answer, structural="query", group="colour", balanced=True, entailed=(), **changes):
    return {
        "semantic": [
            {"operation": "select", "dependencies": [], "argument": "apple (1)"},
            {"operation": "query", "dependencies": [0], "argument": "color"},
        ],
        "entailed": list(entailed),
        "equivalent": [],
        "question": "What color is the apple?",
        "imageId": "im1",
        "isBalanced": balanced,
        "groups": {"global": group, "local": "10-apple_color"},
        "answer": answer,
        "semanticStr": "",
        "annotations": {"answer": {}, "question": {"4": "1"}, "fullAnswer": {"1": "1", "3": "2"}},
        "types": {"detailed": "categoryAttr", "semantic": "attr", "structural": structural},
        "fullAnswer": f"It is {answer}.",
    } | changes


YES = {"structural": "verify", "group": None, "question": "Is the apple red?"}
QUESTIONS = {
    "1": question("red", entailed=["1", "4", "5"]),
    "2": question("green", entailed=["6"]),
    "3": question("red"),
    "4": question("yes", entailed=["4"], **YES),
    "5": question("no", balanced=False, **YES),
    "6": question("no", balanced=False, **YES),
    "7": question(
        "color",
        structural="compare",
        group=None,
        types={"detailed": "twoCommon", "semantic": "obj", "structural": "compare"},
        semantic=[
            {"operation": "select", "dependencies": [], "argument": "apple (1)"},
            {"operation": "choose name", "dependencies": [0], "argument": "apple|pear"},
            {"operation": "exist", "dependencies": [1], "argument": "?"},
        ],
    ),
}
SAID = {"1": "red", "2": "red", "3": "round", "4": "yes", "5": "yes", "6": "no", "7": "color"}
CHOICES = {
    name: {"valid": ["red", "green", "blue"], "plausible": ["red", "green"]} if name < "4" else
    {"valid": ["yes", "no"], "plausible": ["yes", "no"]} for name in QUESTIONS
}  # fmt: skip
GRAPHS = {
    "im1": {
        "width": 200,
        "height": 100,
        "objects": {
            "1": {"name": "apple", "x": 0, "y": 0, "w": 100, "h": 100},
            "2": {"x": 150, "y": 50, "w": 50, "h": 50},
        },
    }
}


def written(folder, value, name="questions.json"):
    (folder / name).write_text(json.dumps(value))
    return folder / name


@pytest.fixture
def examples(tmp_path):
    return read(written(tmp_path, QUESTIONS))


def test_official_records_are_read_and_read_again(examples):
    assert len(examples) == 7
    assert [one.id for one in examples] == [one.id for one in examples] == list(QUESTIONS)
    first = examples[0]
    assert isinstance(first, Example)
    assert (first.image, first.answer, first.structural, first.form) == ("im1", "red", "query", "open")
    assert (first.global_group, first.local_group, first.entailed) == ("colour", "10-apple_color", ("1", "4", "5"))
    assert first.program[1] == ("query", "color", (0,))
    assert first.objects == ("1", "1", "2")
    assert (first.steps, first.words, first.valid) == (2, 5, None)
    assert (examples[3].form, examples[3].global_group, examples[4].balanced) == ("binary", None, False)
    assert examples[6].steps == 1  # "exist" and "choose name" are no steps


def test_accuracy_by_hand(examples):
    found = score(examples, SAID)
    assert found["n"] == 5  # the balanced ones
    assert (found["accuracy"], found["binary"], found["open"]) == (3 / 5, 1.0, 1 / 3)
    assert found["by_structural"] == {
        "compare": {"n": 1, "accuracy": 1.0},
        "query": {"n": 3, "accuracy": 1 / 3},
        "verify": {"n": 1, "accuracy": 1.0},
    }
    assert found["by_semantic"] == {"attr": {"n": 4, "accuracy": 0.5}, "obj": {"n": 1, "accuracy": 1.0}}
    assert found["by_detailed"]["twoCommon"] == {"n": 1, "accuracy": 1.0}
    assert found["by_steps"] == {1: {"n": 1, "accuracy": 1.0}, 2: {"n": 4, "accuracy": 0.5}}
    assert found["by_words"] == {4: {"n": 1, "accuracy": 1.0}, 5: {"n": 4, "accuracy": 0.5}}
    official = found["official"]
    assert (official["accuracy"], official["binary"], official["open"]) == (60.0, 100.0, 33.33)
    assert official["accuracyPerStructuralType"] == {"compare": 100.0, "query": 33.33, "verify": 100.0}
    assert official["accuracyPerSemanticType"] == {"attr": 50.0, "obj": 100.0}
    assert official["accuracyPerSteps"] == {1: 100.0, 2: 50.0}
    assert official["accuracyPerLength"] == {4: 100.0, 5: 50.0}


def test_consistency_by_hand(examples):
    # 1 is right and entails 4 (right) and 5 (wrong); 2 is wrong; 4 entails only itself
    found = score(examples, SAID)
    assert (found["consistency"], found["consistency_missing"]) == (0.5, 0)
    assert found["official"]["consistency"] == 50.0
    both = score(examples, SAID | {"2": "green"})  # 2 entails 6, which is right
    assert both["consistency"] == 0.75
    balanced = {name: text for name, text in SAID.items() if QUESTIONS[name]["isBalanced"]}
    less = score(examples, balanced)
    assert "consistency" not in less
    assert "consistency" not in less["official"]
    assert less["consistency_missing"] == 2
    assert less["accuracy"] == found["accuracy"]


def test_entailed_questions_outside_the_file_leave_consistency_out(tmp_path):
    few = read(written(tmp_path, {name: QUESTIONS[name] for name in "1234"}))
    assert score(few, SAID)["consistency_missing"] == 2  # predicted, but their answers are not known
    alone = read(written(tmp_path, {"3": QUESTIONS["3"]}))
    assert "consistency" not in score(alone, SAID)  # nothing is entailed


def test_validity_and_plausibility_by_hand(tmp_path):
    file = written(tmp_path, QUESTIONS)
    examples = read(file, choices=written(tmp_path, CHOICES, "choices.json"))
    found = score(examples, SAID | {"2": "blue"})
    # "round" is neither, "blue" is valid only; "color" to what two have in common is both, whatever the choices say
    assert (found["validity"], found["plausibility"]) == (4 / 5, 3 / 5)
    assert found["official"]["plausibility"] == 60.0
    assert score(examples, SAID | {"7": "red"})["validity"] == 3 / 5
    assert examples[0].valid is examples[1].valid  # shared, as thousands are
    assert "validity" not in score(read(file), SAID)


def test_distribution_by_hand(examples):
    # true: red 2, green 1; predicted: red 2, round 1. (0^2 / 2 + 1^2 / 1) over 100
    assert score(examples, SAID)["distribution"] == pytest.approx(0.01)
    assert score(examples, SAID)["official"]["distribution"] == 0.01
    gold = {"a": {"x": 3, "y": 1}, "b": {"z": 2}}
    predicted = {"a": {"x": 1, "w": 3}, "b": {"z": 1, "x": 1}}
    assert chi_square(gold, predicted) == pytest.approx((4 * (4 / 3 + 1) + 2 * 0.5) / 6)
    assert chi_square(gold, gold) == 0.0
    assert chi_square(gold, {}) == pytest.approx((4 * 4 + 2 * 2) / 6)
    assert chi_square({}, {}) == 0.0


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from("abc"), st.dictionaries(st.sampled_from("wxyz"), st.integers(1, 9), min_size=1)))
def test_chi_square_is_zero_for_the_same_and_never_below(gold):
    assert chi_square(gold, gold) == 0.0
    doubled = {group: {answer: 2 * n for answer, n in counts.items()} for group, counts in gold.items()}
    sizes = [sum(counts.values()) for counts in gold.values()]
    expected = sum(n * n for n in sizes) / sum(sizes) if sizes else 0.0  # twice as many of each: every term is n
    assert chi_square(gold, doubled) == pytest.approx(expected)


def test_grounding_by_hand(examples):
    attention = [[0.5, 0.1], [0.2, 0.2]]  # the left half holds 0.7, the cell at the bottom right 0.2
    assert cells(attention)[1:3] == [(0.5, 0.0, 1.0, 0.5, 0.1), (0.0, 0.5, 0.5, 1.0, 0.2)]
    assert grounding(cells(attention), [(0.0, 0.0, 0.5, 1.0)]) == pytest.approx(0.7)
    assert grounding(cells(attention), [(0.25, 0.0, 0.75, 0.25)]) == pytest.approx((0.5 + 0.1) / 4)
    assert grounding(cells(attention), [(0.0, 0.0, 1.0, 1.0)] * 2) == pytest.approx(2.0)
    assert grounding(cells(attention), []) == 0.0
    maps = {name: cells(attention) for name in SAID}
    found = score(examples, SAID, attention=maps, scene_graphs=GRAPHS)
    assert found["grounding"] == pytest.approx(0.7 + 0.7 + 0.5 * 0.2)  # apple twice, half of the last cell
    assert found["official"]["grounding"] == 150.0


def test_grounding_reads_the_file_of_scene_graphs_and_demands_what_it_needs(tmp_path, examples):
    file = written(tmp_path, GRAPHS, "sceneGraphs.json")
    maps = dict.fromkeys("12347", cells([[1.0]]))
    assert score(examples, SAID, attention=maps, scene_graphs=file)["grounding"] == pytest.approx(0.5 + 0.5 + 0.125)
    with pytest.raises(BadInput, match="no attention for the balanced question '7'"):
        score(examples, SAID, attention={name: [] for name in "1234"}, scene_graphs=file)
    with pytest.raises(BadInput, match="picture 'im1' has no object '1'"):
        score(examples, SAID, attention=maps, scene_graphs={})
    with pytest.raises(BadInput, match="needs both"):
        score(examples, SAID, attention=maps)
    broken = {"im1": GRAPHS["im1"] | {"objects": {"1": {"x": 0, "y": 0, "h": 1}}}}
    with pytest.raises(BadInput, match=r"id 'im1', object '1': the field 'w' is missing"):
        score(examples, SAID, attention=maps, scene_graphs=broken)


def test_profiles_differ_in_case_and_final_period(examples):
    shouted = {name: text.capitalize() + "." for name, text in SAID.items()}
    assert score(examples, shouted)["accuracy"] == 0.0
    assert score(examples, shouted, profile="llava") == score(examples, SAID)
    assert score(examples, SAID | {"1": " red"}, profile="llava")["by_structural"]["query"]["accuracy"] == 0.0


def test_all_forms_of_predictions_score_alike_and_others_are_passed_over(tmp_path, examples):
    rows = [{"questionId": name, "prediction": text} for name, text in SAID.items()]
    expected = score(examples, SAID)
    assert score(examples, rows[::-1]) == expected
    assert score(examples, written(tmp_path, rows, "predictions.json")) == expected
    assert score(list(examples), SAID | {"99": "yes"}) == expected


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_world_adds_up_and_the_oracle_is_perfect(data):
    answers = data.draw(st.lists(st.sampled_from(["yes", "no", "red"]), min_size=1, max_size=8))
    ids = [str(i) for i in range(len(answers))]
    examples = []
    for name, answer in zip(ids, answers, strict=True):
        entailed = data.draw(st.lists(st.sampled_from(ids), unique=True, max_size=3))
        group = data.draw(st.sampled_from(["a", "b", None]))
        balanced = data.draw(st.booleans())
        structural = data.draw(st.sampled_from(["query", "verify", "choose"]))
        examples.append(
            Example(name, "Is it?", "im", answer, structural, "attr", "d", group, None, tuple(entailed), (), balanced,
                    (), (), ("yes", "no"), ("red",))
        )  # fmt: skip
    said = dict(
        zip(ids, data.draw(st.lists(st.sampled_from(["yes", "no", "red"]), min_size=8, max_size=8)), strict=False)
    )
    found = score(examples, said)
    right = {one.id: said[one.id] == one.answer for one in examples}
    counted = [one for one in examples if one.balanced]
    assert found["n"] == len(counted)
    assert found["accuracy"] * found["n"] == pytest.approx(sum(right[one.id] for one in counted))
    for table in ("by_structural", "by_semantic", "by_detailed", "by_steps", "by_words"):
        assert sum(row["n"] for row in found[table].values()) == found["n"]
    shares = [
        sum(right[other] for other in one.entailed if other != one.id) / len({*one.entailed} - {one.id})
        for one in counted
        if right[one.id] and {*one.entailed} - {one.id}
    ]
    if any({*one.entailed} - {one.id} for one in counted):
        assert found["consistency"] == pytest.approx(sum(shares) / len(shares) if shares else 0.0)
    if counted:
        assert found["validity"] == pytest.approx(
            Counter(said[one.id] != "red" for one in counted)[True] / len(counted)
        )
        assert found["validity"] + found["plausibility"] == pytest.approx(1.0)
    oracle = score(examples, {one.id: one.answer for one in examples})
    assert oracle["accuracy"] == float(bool(counted))
    assert oracle["distribution"] == 0.0
    assert oracle.get("consistency", 1.0) == 1.0


def test_a_large_file_is_read_one_question_at_a_time(tmp_path):
    import tracemalloc

    filler = "x" * 9500
    file = written(tmp_path, {str(i): question("red", semanticStr=filler) for i in range(500)})  # 5 MB
    tracemalloc.start()
    try:
        assert len(read(file)) == 500
        assert tracemalloc.get_traced_memory()[1] < file.stat().st_size / 4
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"answer": ["red"]}, "the field 'answer' must be a string, not a list"),
        ({"isBalanced": "true"}, "'isBalanced' must be true or false, not a string"),
        ({"types": {"semantic": "attr"}}, "id '2', types: the field 'structural' is missing"),
        ({"types": []}, "'types' must be an object, not a list"),
        ({"entailed": [["1"]]}, "'entailed' must be a list of strings"),
        ({"entailed": "1"}, "'entailed' must be a list, not a string"),
        ({"semantic": ["select"]}, "'semantic' must be a list of objects, not 'select'"),
        ({"semantic": [{"operation": "select"}]}, "id '2', semantic: the field 'argument' is missing"),
    ],
)
def test_damaged_questions_are_refused(tmp_path, change, part):
    examples = read(written(tmp_path, {"1": question("red"), "2": question("red") | change}))
    with pytest.raises(BadInput) as caught:
        score(examples, {"1": "red", "2": "red"})
    assert part in str(caught.value)
    assert "questions.json" in str(caught.value)


def test_a_file_without_answers_or_cut_off_is_refused(tmp_path):
    hidden = {name: QUESTIONS["1"][name] for name in ("question", "imageId", "isBalanced")}
    with pytest.raises(BadInput, match="id '7': the field 'answer' is missing"):
        read(written(tmp_path, {"7": hidden}))  # the test split
    file = written(tmp_path, QUESTIONS)
    file.write_text(file.read_text()[:-300])
    with pytest.raises(BadInput, match=r"questions.json is not valid JSON"):
        len(read(file))


def test_predictions_and_choices_that_do_not_fit_are_refused(tmp_path, examples):
    with pytest.raises(BadInput, match=r"predictions: 2 balanced questions without a prediction \(first: '2'\)"):
        score(examples, {"1": "red", "4": "yes", "7": "color"})
    with pytest.raises(BadInput, match="record 2: the field 'questionId' repeats '1'"):
        score(examples, [{"questionId": "1", "prediction": "red"}] * 2)
    with pytest.raises(BadInput, match="'questionId' must be a string, not a whole number"):
        score(examples, [{"questionId": 1, "prediction": "red"}])
    with pytest.raises(BadInput, match="'prediction' is missing"):
        score(examples, [{"questionId": "1", "answer": "red"}])
    questions = written(tmp_path, QUESTIONS)
    with pytest.raises(BadInput, match="id '7' is not in the file of choices"):
        list(read(questions, choices=written(tmp_path, {n: CHOICES[n] for n in "123456"}, "choices.json")))
    with pytest.raises(BadInput, match=r"choices.json, id '1': the field 'plausible' is missing"):
        read(questions, choices=written(tmp_path, {"1": {"valid": []}}, "choices.json"))


def test_other_mistakes_are_refused(tmp_path, examples):
    with pytest.raises(UnknownName, match="unknown profile 'lava'; did you mean 'llava'"):
        score(examples, SAID, profile="lava")
    with pytest.raises(BadInput, match=r"leave q.json out"):
        read(tmp_path / "questions.json", "q.json")
