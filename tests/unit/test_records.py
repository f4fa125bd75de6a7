"""Official files are streamed; whatever is wrong with one is told with file, record and field."""

import json
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmlab.benchmarks.records import (
    Answers,
    Examples,
    Record,
    answers,
    finished,
    lines,
    mapping,
    matched,
    stream,
    unique,
)
from vlmlab.errors import BadInput

KEYS = st.text(st.characters(exclude_categories=("Cs",)), max_size=5)
SCALARS = st.none() | st.booleans() | st.integers(1 - 2**63, 2**63 - 1) | KEYS | st.floats(-1e300, 1e300)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4))
OBJECTS = st.lists(st.dictionaries(KEYS, VALUES, max_size=4), max_size=6)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("records") / "file.json"


def written(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@settings(deadline=None)
@given(OBJECTS, st.sampled_from([None, 1, "\t"]), st.booleans(), KEYS, VALUES)
def test_stream_reads_what_json_reads(path, objects, indent, ascii, other, extra):
    def dumped(value):
        return written(path, json.dumps(value, indent=indent, ensure_ascii=ascii))

    assert [record.value for record in stream(dumped(objects))] == objects
    around = {f"before {other}": extra, "data": objects, f"after {other}": {"data": extra}}
    records = list(stream(dumped(around), "data"))
    assert [record.value for record in records] == objects
    assert [record.place for record in records] == [f"record {place}" for place in range(1, len(objects) + 1)]
    by_id = {f"id {place}": value for place, value in enumerate(objects)}
    assert [(name, record.value) for name, record in mapping(dumped(by_id))] == list(by_id.items())
    written(path, "".join(f"{json.dumps(value, ensure_ascii=ascii)}\r\n \n" for value in objects) + " ")
    if objects:
        found = list(lines(path))
        assert [record.value for record in found] == objects
        assert [record.place for record in found] == [f"line {2 * place + 1}" for place in range(len(objects))]


@settings(deadline=None)
@given(OBJECTS, st.data())
def test_a_file_that_grows_line_by_line_keeps_its_whole_lines(path, objects, data):
    whole = [json.dumps(value).encode() + b"\n" for value in objects]
    text = b"".join(whole)
    cut = data.draw(st.integers(0, len(text)))
    kept = sum(sum(map(len, whole[: place + 1])) <= cut for place in range(len(whole)))
    written(path, text[:cut])
    assert [record.value for record in finished(path)] == objects[:kept]
    assert path.read_bytes() == b"".join(whole[:kept])
    assert finished(path.parent / "none.jsonl") == []


@settings(deadline=None)
@given(OBJECTS, st.data())
def test_a_file_that_is_cut_off_anywhere_is_refused(path, objects, data):
    for whole, read in (
        (json.dumps(objects), stream),
        (json.dumps({"data": objects}), lambda name: stream(name, "data")),
        (json.dumps({str(place): value for place, value in enumerate(objects)}), mapping),
    ):
        written(path, whole.encode()[: data.draw(st.integers(0, len(whole) - 1))])
        with pytest.raises(BadInput, match=r"file\.json"):
            list(read(path))


@pytest.mark.parametrize(
    ("text", "read", "message"),
    [
        ("", stream, "file.json is empty"),
        ("", mapping, "file.json is empty"),
        ("\n \n", lines, "file.json is empty"),
        ('[{"a": 1}, {"a"', stream, "premature EOF; before byte 15, good records before it: 1"),
        ('[{"a": 1}] x', stream, "trailing garbage"),
        (b'[{"a": "\xff"}]', stream, "invalid bytes in UTF8 string"),
        (b"\xff\xfe[\x00", stream, "not valid JSON"),
        ('[{"a": NaN}]', stream, "not valid JSON"),
        ('[{"a": 1}, 2]', stream, "file.json, record 2 must be an object, not a whole number"),
        ('{"a": {}}', stream, "does not hold a list of records"),
        ("3", stream, "does not hold a list of records"),
        ('{"b": [{}]}', lambda name: stream(name, "data"), "does not hold a list under 'data'"),
        ('{"data": {"a": []}}', lambda name: stream(name, "data"), "does not hold a list under 'data'"),
        ('[{"data": [{}]}]', lambda name: stream(name, "data"), "does not hold a list under 'data'"),
        ("[{}]", mapping, "does not hold an object of records by id"),
        ('{"a": {}, "b": []}', mapping, "file.json, id 'b' must be an object, not a list"),
        ('{"a": {}, "b": {}, "a": {}}', mapping, "the id 'a' stands there twice"),
        ('{"a": 1}\n\n{"a": }', lines, r"file.json, line 3 is not valid JSON \(.* column 7"),
        (b'{"a": 1}\n"\xe9"', lines, "file.json, line 2 is not valid JSON .*utf-8"),
        ("{}\n[]", lines, "file.json, line 2 must be an object, not a list"),
        ("[" * 5000, lines, "line 1 is not valid JSON"),
    ],
)
def test_damage_is_told_with_its_place(path, text, read, message):
    with pytest.raises(BadInput, match=message):
        list(read(written(path, text)))


@pytest.mark.parametrize("read", [stream, mapping, lines])
def test_a_path_that_cannot_be_read_is_told(tmp_path, read):
    with pytest.raises(BadInput, match=r"no such file: .*none\.json"):
        list(read(tmp_path / "none.json"))
    with pytest.raises(BadInput, match="cannot be read: Is a directory"):
        list(read(tmp_path))


def test_empty_containers_are_no_damage(path):
    assert list(stream(written(path, "[]"))) == []
    assert list(stream(written(path, '{"x": {}, "data": []}'), "data")) == []
    assert list(mapping(written(path, "{}"))) == []


@pytest.mark.parametrize(
    ("value", "types", "problem"),
    [
        ({}, (str,), "is missing"),
        ({"answer": ["yes"]}, (str,), "must be a string, not a list"),
        ({"answer": True}, (int, str), "must be a whole number or a string, not true or false"),
        ({"answer": None}, (dict,), "must be an object, not null"),
        ({"answer": 1.5}, (int,), "must be a whole number, not a number"),
    ],
)
def test_need_names_file_record_and_field(value, types, problem):
    with pytest.raises(BadInput) as caught:
        Record("file.json", "record 3", value).need("answer", *types)
    assert str(caught.value) == f"file.json, record 3: the field 'answer' {problem}"


def test_need_and_maybe_give_the_value():
    record = Record("file.json", "line 7", {"a": 0, "b": None, "c": False})
    assert record.need("a", int, str) == 0
    assert record.need("c", bool) is False
    assert (record.maybe("a", int, default=5), record.maybe("b", int, default=5), record.maybe("z", int)) == (
        0,
        5,
        None,
    )
    with pytest.raises(BadInput, match="'a' must be a string, not a whole number"):
        record.maybe("a", str)
    assert str(record.fail("a", "is odd")) == "file.json, line 7: the field 'a' is odd"


def test_unique_stops_at_the_first_repetition(path):
    written(path, '[{"id": 1}, {"id": "1"}, {"id": 2}, {"id": 1}]')
    found = unique(stream(path), "id")
    assert [next(found).value["id"] for _ in range(3)] == [1, "1", 2]
    with pytest.raises(BadInput, match="record 4: the field 'id' repeats 1 of an earlier record"):
        next(found)
    with pytest.raises(BadInput, match="record 1: the field 'id' must be a string or a whole number, not a list"):
        next(unique(stream(written(path, '[{"id": []}]')), "id"))


def test_examples_are_a_sequence_that_is_read_again():
    reads = []

    def read():
        reads.append(None)
        return iter(range(10, 15))

    examples = Examples(read)
    assert len(reads) == 1  # the first example only: a wrong file is told at once
    assert (list(examples), list(examples)) == ([10, 11, 12, 13, 14],) * 2
    before = len(reads)
    assert len(examples) == 5
    assert len(reads) == before  # counted while iterating
    assert (examples[0], examples[-1], examples[1:3], examples[::-2]) == (10, 14, [11, 12], [14, 12, 10])
    assert examples[9:] == []
    assert (12 in examples, examples.index(13), next(reversed(examples))) == (True, 3, 14)
    with pytest.raises(IndexError):
        examples[5]
    assert len(Examples(lambda: iter(()))) == 0
    assert len(Examples(read)) == 5
    with pytest.raises(BadInput, match="no such file"):
        Examples(lambda: stream("none.json"))


def test_a_large_file_is_read_in_little_memory(path):
    record = {"id": 0, "answers": [{"answer": "yes", "answer_id": number} for number in range(10)]}
    text = ", ".join([json.dumps(record)] * 10_000)
    written(path, f'{{"data": [{text}]}}')
    tracemalloc.start()
    try:
        assert sum(1 for _ in stream(path, "data")) == 10_000
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert path.stat().st_size > 3_600_000
    assert peak < 1_000_000


def test_answers_come_from_a_file_records_or_a_dict(path):
    rows = [{"question_id": 3, "answer": "yes"}, {"question_id": 1, "answer": ""}]
    wanted = {3: "yes", 1: ""}

    def read(predictions):
        return answers(predictions, "question_id", "answer")

    assert read(rows) == read(iter(rows)) == read(wanted) == wanted
    assert read(written(path, " \n" + json.dumps(rows))) == wanted
    assert read(str(written(path, "\n".join(map(json.dumps, rows))))) == wanted
    assert read(path).file == str(path)
    assert read([]) == read({}) == {}


@pytest.mark.parametrize(
    ("predictions", "message"),
    [
        ([{"question_id": 1}], "predictions, record 1: the field 'answer' is missing"),
        ([{"question_id": "1", "answer": ""}], "'question_id' must be a whole number, not a string"),
        ([{"question_id": 1, "answer": "a"}] * 2, "predictions, record 2: the field 'question_id' repeats 1"),
        ([1], "predictions, record 1 must be an object"),
        ({1: None}, "predictions, id 1: the field 'answer' must be a string, not null"),
        ({"1": "a"}, "id '1': the field 'question_id' must be a whole number, not a string"),
    ],
)
def test_unusable_answers_are_told(path, predictions, message):
    with pytest.raises(BadInput, match=message):
        answers(predictions, "question_id", "answer")
    if isinstance(predictions, list):
        with pytest.raises(BadInput, match=message.replace("predictions", "file.json")):
            answers(written(path, json.dumps(predictions)), "question_id", "answer")


def test_matched_names_what_is_missing_and_what_is_unknown():
    matched([1, 2], {2: "b", 1: "a"})
    matched([], {})
    with pytest.raises(BadInput, match=r"predictions: 2 of 3 questions without an answer \(the first: 2\);"):
        matched([1, 2, 3], {1: "a"})
    said = Answers({1: "a", 8: "b", 9: "c"})
    said.file = "results.json"
    with pytest.raises(BadInput) as caught:
        matched([5, 1], said, "picture")
    assert str(caught.value) == (
        "results.json: 1 of 2 pictures without an answer (the first: 5) and 2 answers to an unknown picture "
        "(the first: 8); give exactly one answer to each picture"
    )
