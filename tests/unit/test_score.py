"""`vlmlab score` prints what a benchmark's scorer returns, as a table or as JSON."""

import json
from pathlib import Path

import pytest
import typer

from vlmlab.benchmarks import vqav2
from vlmlab.commands import score as command
from vlmlab.errors import BadInput, UnknownName


def call(*arguments: str) -> None:
    """Run the command as the command line does; errors come through."""
    app = typer.Typer()
    app.command()(command.score)
    typer.main.get_command(app).main(list(arguments), standalone_mode=False)


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    def people(text: str, count: int) -> list[dict]:
        return [{"answer_id": place, "answer": text if place < count else "cat"} for place in range(10)]

    kept = [{"question_id": number, "image_id": 1, "question_type": "what [b]is[/b]", "answer_type": "other",
             "answers": people("dog", number)} for number in (2, 3, 10)]  # fmt: skip
    contents = {
        "annotations": {"annotations": kept},
        "questions": {"questions": [{"question_id": number, "question": "What?"} for number in (2, 3, 10)]},
        "predictions": [{"question_id": number, "answer": "dog"} for number in (2, 3, 10)],
    }
    options = []
    for name, value in contents.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(value))
        options += [f"--{name}", str(tmp_path / f"{name}.json")]
    return options


def test_json_is_what_score_returns(files, capsys):
    call("vqav2", *files, "--json")
    printed = json.loads(capsys.readouterr().out)
    assert printed == vqav2.score(vqav2.read(files[1]), files[5])
    assert printed["accuracy"] == pytest.approx((0.6 + 0.9 + 1) / 3)
    assert printed["official"]["overall"] == 83.33


def test_the_table_has_intervals_breakdowns_and_the_official_figures(files, capsys):
    call("vqav2", *files, "--profile", "official-2016")
    printed = capsys.readouterr().out
    assert "vqav2, profile official-2016, n = 3" in printed
    rows = {line.split("│")[1].strip(): line for line in printed.splitlines() if line.count("│") > 3}
    # Wilson's interval of 2.5 of 3: (p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)
    assert [cell.strip() for cell in rows["accuracy"].split("│")[2:5]] == ["3", "0.8333", "0.3100 - 0.9823"]
    assert "0.8333" in rows["question type: what [b]is[/b]"]
    assert "0.8333" in rows["answer type: other"]
    assert "83.33" in printed.split("official program")[1]


def test_other_rates_are_rows_too(capsys):
    result = {"n": 4, "accuracy": 1.0, "yes_ratio": 0.5, "tp": 2, "by_label": {"yes": {"n": 0, "accuracy": 0.0}},
              "missing": ["a"], "official": {"F1 score": 1.0}}  # fmt: skip
    rows = dict(command._rows(result))
    assert rows == {
        "accuracy": ("4", "1.0000", "0.5101 - 1.0000"),
        "yes ratio": ("", "0.5000", ""),
        "tp": ("", "2", ""),
        "label: yes": ("0", "0.0000", "0.0000 - 1.0000"),
    }


def test_a_ratio_of_scores_has_no_interval():
    cell = {"n": 3, "accuracy": 1.25, "relative_score": 125.0}
    rows = dict(command._rows({**cell, "by_category": {"conv": cell}, "official": {}}))
    assert rows["accuracy"] == rows["category: conv"] == ("3", "1.2500", "")
    assert rows["relative score"] == ("", "125.0000", "")


def test_what_cannot_be_scored_is_told(files):
    with pytest.raises(UnknownName, match="benchmark 'vqav3'; did you mean 'vqav2'"):
        call("vqav3", *files)
    with pytest.raises(UnknownName, match="profile 'official-2017'"):
        call("vqav2", *files, "--profile", "official-2017")
    with pytest.raises(BadInput, match=r"leave .*questions\.json out"):
        call("textvqa", *files)
    with pytest.raises(BadInput, match=r"no such file: none\.json"):
        call("vqav2", *files[:4], "--predictions", "none.json")
    for lacking in (files[2:], files[:4]):
        with pytest.raises(Exception, match="Missing parameter"):
            call("vqav2", *lacking)


@pytest.mark.parametrize("name", command.BENCHMARKS)
def test_every_benchmark_has_what_the_command_calls(name):
    import importlib
    import inspect

    if name not in ("vqav2", "textvqa", "vizwiz"):
        pytest.importorskip(f"vlmlab.benchmarks.{name}", exc_type=ModuleNotFoundError)
    module = importlib.import_module(f"vlmlab.benchmarks.{name}")
    assert list(inspect.signature(module.read).parameters)[:2] == ["annotations", "questions"]
    assert list(inspect.signature(module.score).parameters)[:3] == ["examples", "predictions", "profile"]
    assert module.PROFILES[0].startswith("official") or name == "textvqa"
