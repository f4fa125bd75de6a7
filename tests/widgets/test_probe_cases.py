"""Case files: what is saved comes back, a replay says what changed, and damaged files are one line."""

import json
from dataclasses import replace

import pytest

import vlmlab
from vlmlab import cli
from vlmlab.errors import BadInput
from vlmlab.widgets import Probe, cases
from vlmlab.widgets.answers import Said
from vlmlab.widgets.asking import Question


@pytest.fixture
def probe(planted, room) -> Probe:
    made = Probe(planted, room, Question(relation="right of"))
    made.control("blank picture")
    made.answering().run()
    made.tag("binding", "parser", note='It says "yes" <always>.')
    return made


@pytest.fixture
def case(probe, tmp_path, monkeypatch):
    """A saved case, whose models the command line finds by name."""
    monkeypatch.setattr(vlmlab, "load", lambda name, device="auto": probe.models[name])
    return probe.save(tmp_path / "case.json")


def replayed(capfd, *arguments) -> tuple[int, str, str]:
    code = cli.main(["replay", *map(str, arguments)])
    return code, *capfd.readouterr()


def tampered(path, change):
    """The same file with its record changed in place."""
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))
    return path


def test_a_case_comes_back_as_it_was(probe, case):
    assert cases.read(case) == probe.case()
    record = json.loads(case.read_text())
    assert record["case"] == cases.FORMAT
    assert record["truth"] == "no"
    assert (record["tags"], record["note"]) == (["binding", "parser"], 'It says "yes" <always>.')
    assert set(record["versions"]) == {"vlmlab", "python", "torch", "numpy"}
    assert [path.name for path in case.parent.iterdir()] == ["case.json"]  # no temporary file is left


def test_a_case_opens_in_another_probe(planted, case, probe):
    other = Probe(planted)
    other.open(case)
    assert other.state == probe.state
    assert other.answers == {}


def test_a_file_that_is_there_is_replaced_on_request_only(probe, case, planted):
    before = case.read_bytes()
    probe.tag("prior")
    with pytest.raises(BadInput, match="is there already"):
        probe.save(case)
    assert case.read_bytes() == before
    probe.save(case, overwrite=True)
    assert cases.read(case).state.tags == ("prior",)
    with pytest.raises(BadInput, match="is a folder"):
        probe.save(case.parent)
    for name in ("", "  ", ".", ".."):
        with pytest.raises(BadInput, match="needs a name"):
            probe.save(name)
    with pytest.raises(BadInput, match="ask first"):
        Probe(planted).save(case.parent / "empty.json")


def test_a_bare_name_lies_among_the_cases(probe, monkeypatch, tmp_path):
    monkeypatch.setenv("VLMLAB_WORK", str(tmp_path / "work"))
    assert probe.save("one.json") == tmp_path / "work" / "cases" / "one.json"


# ---------------------------------------------------------------------- replay
def test_the_same_models_replay_alike(case, capfd):
    code, out, err = replayed(capfd, case)
    assert code == 0
    assert "oracle, word: text" in out
    assert "nothing changed" in err
    code, out, _ = replayed(capfd, case, "--json")
    result = json.loads(out)
    assert (code, result["same"], result["tolerance"]) == (0, True, cases.TOLERANCE)
    assert all(line["same"] for line in result["lines"])


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("truth", lambda record: record.update(truth="yes")),
        ("oracle, sentence: text", lambda record: record["models"]["oracle"]["answer"]["sentence"].update(text="?")),
        ("blind, word: P(yes)", lambda record: _shift(record, 0.01)),
        ("blind, word: P(maybe)", lambda record: _logs(record).update(maybe=-30.0)),
    ],
)
def test_a_change_is_named_and_fails(case, capfd, what, change):
    code, out, _ = replayed(capfd, tampered(case, change), "--json")
    result = json.loads(out)
    assert code == 1
    assert not result["same"]
    changed = [line["what"] for line in result["lines"] if line["decides"] and not line["same"]]
    assert what in changed
    assert all(name.split(":")[0] == what.split(":")[0] for name in changed)


def _logs(record):
    return record["models"]["blind"]["answer"]["word"]["log_probs"]


def _shift(record, by):
    _logs(record)["yes"] += by


def test_what_rounding_changes_and_what_is_only_told_does_not_fail(case, capfd):
    def change(record):
        _shift(record, 0.004)  # 0.7 * 0.3 * 0.004 = 0.00084 of the probability
        record["versions"]["torch"] = "2.0"
        record["models"]["oracle"]["weights"] = "0" * 64
        record["picture"] = ""

    code, out, _ = replayed(capfd, tampered(case, change), "--json")
    lines = {line["what"]: line for line in json.loads(out)["lines"]}
    assert code == 0
    for name in ("torch", "oracle: weights", "picture"):
        assert not lines[name]["same"]
        assert not lines[name]["decides"]
    assert "not counted" in replayed(capfd, case)[1]


def test_a_replay_asks_in_the_forms_and_under_the_control_that_were_saved(case, planted):
    saved = cases.read(case)
    word_only = replace(saved, models={"blind": replace(saved.models["blind"], answer={"word": Said("yes", {})})})
    planted["blind"].asked.clear()
    now = cases.again(word_only, planted.__getitem__)
    ((_, form, control, picture),) = planted["blind"].asked
    assert (form, control) == ("word", "blank picture")
    assert (picture == 128).all()
    assert list(now.models) == ["blind"]
    lines = {line.what: line.same for line in cases.compare(word_only, now)}
    assert not lines["blind, word: P(yes)"]  # the saved case had no options


def test_a_real_model_replays_alike_and_another_one_does_not(room, tmp_path, capfd):
    probe = Probe(["llava-tiny"], room, device="cpu")
    probe.answering().run()
    case = probe.save(tmp_path / "real.json")
    assert replayed(capfd, case, "--device", "cpu")[0] == 0

    def change(record):
        record["scene"]["objects"][0]["x"] = -0.3

    assert replayed(capfd, tampered(case, change), "--device", "cpu")[0] == 1


# ---------------------------------------------------------------------- damage
DAMAGE = {
    "an empty file": lambda record: record.clear(),
    "another format": lambda record: record.update(case=2),
    "no scene": lambda record: record.pop("scene"),
    "a scene that is none": lambda record: record.update(scene=[]),
    "an object of no kind": lambda record: record["scene"]["objects"][0].update(kind="unicorn"),
    "a place that is a text": lambda record: record["scene"]["objects"][0].update(x="left"),
    "a place beyond numbers": lambda record: record["scene"]["objects"][0].update(x=float("nan")),
    "a camera with a text": lambda record: record["scene"]["camera"].update(fov="wide"),
    "a floor of two colours": lambda record: record["scene"].update(floor=[1, 2]),
    "a question with a strange slot": lambda record: record["question"].update(colr="red"),
    "a question about nothing": lambda record: record["question"].update(other=7),
    "a question that is a text": lambda record: record.update(question="Is it?"),
    "an unknown control": lambda record: record.update(control="blnk"),
    "an unknown tag": lambda record: record.update(tags=["wrong"]),
    "a note that is none": lambda record: record.update(note=None),
    "no models": lambda record: record.update(models={}),
    "a model without answer": lambda record: record["models"]["oracle"].pop("answer"),
    "an empty answer": lambda record: record["models"]["oracle"].update(answer={}),
    "an unknown form": lambda record: record["models"]["oracle"]["answer"].update(poem={}),
    "an answer without text": lambda record: record["models"]["oracle"]["answer"]["word"].pop("text"),
    "a probability that is a text": lambda record: _logs(record).update(yes="high"),
    "a truth that is a number": lambda record: record.update(truth=1),
    "versions that are a list": lambda record: record.update(versions=[]),
}


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_file_is_one_line_that_names_it(case, capfd, how):
    code, out, err = replayed(capfd, tampered(case, DAMAGE[how]))
    assert (code, out) == (2, "")
    assert err.count("\n") == 1, err
    assert err.startswith(f"vlmlab: {case} is not a case file: ")


@pytest.mark.parametrize("text", ["", "{", "\x00", "[]", '"case"', "3"])
def test_what_is_no_json_object_is_one_line_too(tmp_path, capfd, text):
    path = tmp_path / "broken.json"
    path.write_text(text)
    code, out, err = replayed(capfd, path)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert str(path) in err


def test_a_missing_file_a_folder_and_an_unknown_model_are_one_line(tmp_path, capfd, case, monkeypatch):
    monkeypatch.undo()  # the models are no longer known by name
    for path in (tmp_path / "none.json", tmp_path):
        code, _, err = replayed(capfd, path)
        assert (code, err.count("\n")) == (2, 1)
    code, _, err = replayed(capfd, case)
    assert (code, err.count("\n")) == (2, 1)
    assert "unknown model" in err


def test_the_command_has_help(capfd):
    code, out, _ = replayed(capfd, "--help")
    assert code == 0
    assert "exit code 0" in out
