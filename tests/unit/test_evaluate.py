"""`vlmlab evaluate` from the command line: a shipped model on official files, the board, and what is refused."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from benchmark_files import NAMES, Planted, make, oracle
from PIL import Image

import vlmlab
from vlmlab import benchmarks, cli, runtime
from vlmlab.benchmarks import board, runner
from vlmlab.benchmarks.export import shipped
from vlmlab.commands import evaluate as command
from vlmlab.commands import score
from vlmlab.errors import BadInput
from vlmlab.files import sha256
from vlmlab.scenes import sample
from vlmlab.scenes.kinds import KINDS

BEGIN, END = "<!-- benchmarks:begin -->\n", "<!-- benchmarks:end -->"
BOARD = ("vqav2", "pope", "vsr")  # what "ships" in these tests


def call(capfd, *arguments: str) -> tuple[int, str, str]:
    code = cli.main(["evaluate", *arguments])
    return code, *capfd.readouterr()


def refused(capfd, *arguments: str) -> str:
    code, out, err = call(capfd, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("vlmlab: ")
    assert err.count("\n") == 1
    return err


@pytest.fixture(scope="module")
def pope_files(tmp_path_factory) -> list[str]:
    """Six questions about three rendered scenes, as options of the command."""
    folder = tmp_path_factory.mktemp("pope")
    rows = []
    for number in range(3):
        scene = sample(900 + number, split="test")
        Image.fromarray(scene.render(96).rgb).save(folder / f"{number}.png")
        there = {each.kind for each in scene.objects}
        for kind, label in ((min(there), "yes"), (min(set(KINDS) - there), "no")):
            text = f"Is there a {kind} in the image?"
            rows.append({"question_id": len(rows) + 1, "image": f"{number}.png", "text": text, "label": label})
    (folder / "pope.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return ["--annotations", str(folder / "pope.json"), "--images", str(folder)]


def test_a_shipped_model_on_six_questions_then_again_and_scored_from_its_predictions(capfd, pope_files, tmp_path):
    options = ["-b", "pope", *pope_files, "--device", "cpu", "--out", str(tmp_path / "run")]
    code, out, err = call(capfd, *options, "--json")
    result = json.loads(out)
    assert code == 0
    assert (result["n"], result["model"], result["method"], result["chance"]) == (6, "llava-tiny", "generate", 0.5)
    assert result["constant"] == 0.5
    assert result["low"] < result["accuracy"] <= result["high"]
    assert f"predictions: {result['predictions']}" not in out
    said = (tmp_path / "run" / "answers.jsonl").read_bytes()
    assert {json.loads(line)["text"] for line in said.splitlines()} <= {"yes", "no"}  # the format prompt is obeyed

    code, out, err = call(capfd, *options)
    assert code == 0
    assert "POPE" in out
    assert f"{100 * result['accuracy']:.1f}" in out
    assert "predictions" in err
    assert (tmp_path / "run" / "answers.jsonl").read_bytes() == said

    assert cli.main(["score", "pope", *pope_files[:2], "--predictions", result["predictions"], "--json"]) == 0
    assert json.loads(capfd.readouterr().out) == result["score"]
    assert "holds another run" in refused(capfd, *options, "--limit", "2")


def test_pope_means_its_three_splits(capfd, tmp_path):
    code, out, _ = call(capfd, "-b", "pope", "--limit", "2", "--device", "cpu", "--out", str(tmp_path), "--json")
    assert code == 0
    assert list(json.loads(out)["models"]["llava-tiny"]) == ["pope-random", "pope-popular", "pope-adversarial"]


def test_the_likelihood_of_options_with_a_shipped_model(capfd, pope_files, tmp_path):
    options = ["-b", "pope", *pope_files, "--device", "cpu", "--out", str(tmp_path), "--method", "likelihood"]
    code, out, _ = call(capfd, *options, "--limit", "2", "--json")
    assert code == 0
    assert json.loads(out)["n"] == 2
    lines = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert all(line["text"] == ("yes", "no")[line["scores"].index(max(line["scores"]))] for line in lines)


@pytest.fixture
def planted(monkeypatch, tmp_path):
    """Two planted models that are said to ship: one that knows all of three benchmarks, and one that says yes."""
    made = {name: make(name, tmp_path / "sets" / name) for name in BOARD}

    def truth(image, prompt):
        for _, known in made.values():
            try:
                return known(image, prompt)
            except (KeyError, ValueError):
                continue
        return ""

    models = {"oracle": Planted(oracle(truth)), "nodder": Planted(lambda image, prompt: "yes")}
    for name, model in models.items():
        model.config.name = name
    monkeypatch.setattr(vlmlab, "load", lambda name, device="auto": models[name])
    monkeypatch.setattr(command, "_models", lambda: list(models))
    monkeypatch.setattr(shipped, "SETS", dict.fromkeys(BOARD))
    monkeypatch.setattr(shipped, "files", lambda name: made[name][0])
    row = {"n": 8, "accuracy": 0.75, "low": 0.4, "high": 0.9, "chance": 0.4, "constant": 0.3, "blind": 0.35}

    def scenes(vlm, name, limit, form, progress):
        return {"benchmark": name, "model": vlm.config.name, "form": form, "n": 8, "by_type": {"all": row},
                "answers": ["long"]}  # fmt: skip

    monkeypatch.setattr(benchmarks, "evaluate", scenes)
    monkeypatch.setenv("VLMLAB_WORK", str(tmp_path / "work"))
    monkeypatch.setenv("VLMLAB_DATA", str(tmp_path / "data"))
    return models


def test_the_board_is_measured_saved_and_shown_in_readme(capfd, planted, tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(f"# before\n\n{BEGIN}old\n{END}\nafter\n")
    code, out, err = call(capfd, "--model", "all", "--benchmark", "all", "--save")
    assert code == 0
    assert "wrote data/results/benchmarks.json and README.md" in err
    kept = board.shipped()
    assert list(kept["benchmarks"]) == [*BOARD, "scenes"]
    assert list(kept["models"]) == ["oracle", "nodder"]
    assert [cell["accuracy"] for cell in kept["models"]["oracle"].values()] == [1, 1, 1, 0.75]
    assert kept["benchmarks"]["pope"] == {"n": 6, "method": "generate", "chance": 0.5, "constant": 4 / 6,
                                          "constant_answer": "yes",
                                          "annotations": sha256(shipped.files("pope").annotations)}  # fmt: skip
    assert kept["weights"] == {name: runner.weights(model) for name, model in planted.items()}
    assert "long" not in json.dumps(kept)
    before, _, rest = readme.read_text().partition(BEGIN)
    table, _, after = rest.partition(END)
    assert (before, after) == ("# before\n\n", "\nafter\n")
    assert table == board.markdown(kept) + "\n"
    assert table.splitlines()[0] == "| benchmark | n | chance | constant | oracle | nodder |"
    assert table.splitlines()[3] == (
        "| POPE | 6 | 50.0 | 66.7 | 100.0 (61.0-100.0), 66.7 | 66.7 (30.0-90.3), 66.7 |"
    )  # a blind oracle says nothing, which is a yes
    assert "scenes" in out
    asked = [len(model.asked) for model in planted.values()]
    assert json.loads(call(capfd, "--model", "all", "--benchmark", "all", "--json")[1]) == kept
    assert [len(model.asked) for model in planted.values()] == asked  # the answers were there


def test_without_markers_readme_stays_as_it_is(planted, tmp_path):
    for text in ("# nothing\n", f"# half {BEGIN}"):
        (tmp_path / "README.md").write_text(text)
        assert board.save(board.collect([])) == "data/results/benchmarks.json"
        assert (tmp_path / "README.md").read_text() == text
    (tmp_path / "README.md").unlink()
    assert board.save(board.collect([])) == "data/results/benchmarks.json"


def test_the_kept_board_is_of_the_shipped_files_and_models():
    if not (runtime.data_dir() / "results" / "benchmarks.json").exists():
        pytest.skip(f"no board is kept yet: {board.COMMAND}")
    kept = board.shipped()
    assert list(kept["benchmarks"]) == [*shipped.SETS, "scenes"]
    for name in shipped.SETS:
        assert kept["benchmarks"][name]["annotations"] == sha256(shipped.files(name).annotations), name
    for model, weights in kept["weights"].items():
        assert weights == runner.weights(vlmlab.load(model, "cpu")), model


def test_a_board_before_anything_was_measured(planted):
    with pytest.raises(BadInput, match="vlmlab evaluate --model all --benchmark all --save"):
        board.shipped()


def test_a_board_with_holes(planted):
    one = {"benchmark": "vsr", "model": "a", "n": 2, "accuracy": 0.5, "low": 0.1, "high": 0.9, "blind": 0.5}
    two = {"benchmark": "llava_bench", "model": "b", "n": 3, "accuracy": None}
    assert board.markdown(board.collect([one, two])).splitlines()[1:] == [
        "|---|---|---|---|---|---|",
        "| VSR | 2 | - | - | 50.0 (10.0-90.0), 50.0 | - |",
        "| LLaVA-Bench | 3 | - | - | - | - |",
    ]


def test_one_model_on_all_and_a_folder_for_each(capfd, planted, tmp_path):
    code, out, _ = call(capfd, "--model", "nodder", "-b", "all", "--limit", "2", "--out", str(tmp_path / "o"), "--json")
    assert code == 0
    assert list(json.loads(out)["models"]) == ["nodder"]
    assert sorted(path.name for path in (tmp_path / "o" / "nodder").iterdir()) == sorted(BOARD)


def test_scenes_are_measured_as_before(capfd, planted):
    code, out, _ = call(capfd, "-b", "scenes", "--model", "nodder", "--json", "--form", "word")
    assert code == 0
    result = json.loads(out)
    assert (result["form"], result["answers"], result["model"]) == ("word", ["long"], "nodder")
    assert "75.0" in call(capfd, "-b", "scenes", "--model", "nodder")[1]


def test_answers_that_wait_for_a_judge(capfd, planted, monkeypatch, tmp_path):
    monkeypatch.setitem(shipped.SETS, "llava_bench", None)
    row = {"question_id": 1, "image": "1.jpg", "text": "What?", "category": "conv"}
    (tmp_path / "questions.jsonl").write_text(json.dumps(row) + "\n")
    Image.new("RGB", (8, 8)).save(tmp_path / "1.jpg")
    own = ["--annotations", str(tmp_path / "questions.jsonl"), "--images", str(tmp_path)]
    code, out, err = call(capfd, "-b", "llava_bench", "--model", "nodder", *own)
    assert code == 0
    assert "LLaVA-Bench" in out
    assert "not judged" in err
    assert Path(err.split("predictions: ")[1].replace("\n", "")).is_file()


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["-b", "popes"], "unknown benchmark 'popes'; did you mean 'pope'"),
        (["-b", "textvqa"], "give the annotations of textvqa"),
        (["-b", "textvqa", "--images", "x"], "give the annotations of textvqa"),
        (["-b", "vsr", "--annotations", "x"], "--images"),
        (["-b", "vsr", "--annotations", "x", "--images", "y"], "no such file: x"),
        (["-b", "vsr", "--form", "word"], "--form is of scenes"),
        (["-b", "scenes", "--method", "likelihood"], "--method are of official benchmarks"),
        (["-b", "scenes", "--out", "x"], "--out are of official benchmarks"),
        (["-b", "all", "--profile", "robust", "--images", "x"], "--profile, --images are of one benchmark, not of all"),
        (["-b", "vsr", "--save"], "--save keeps the whole board: vlmlab evaluate --model all --benchmark all --save"),
        (["-b", "all", "--model", "all", "--judge", "openai", "--save"], "--save keeps the whole board"),
        (["-b", "vsr", "--judge", "openai"], "--judge is of llava_bench"),
        (["-b", "all", "--model", "all", "--limit", "3", "--save"], "--save keeps the whole board"),
        (["-b", "vsr", "--method", "guess", "--model", "nodder"], "unknown method for vsr 'guess'"),
    ],
)
def test_what_does_not_go_together_is_refused(capfd, planted, arguments, part):
    assert part in refused(capfd, "--model", "nodder", *arguments)


def test_models_that_answer_are_those_of_all():
    from vlmlab.weights import shipped as ships

    chosen = command._models()
    assert "llava-tiny" in chosen
    assert "llava-tiny-stage1" not in chosen
    assert set(chosen) <= set(ships())


def test_the_commands_know_the_same_benchmarks():
    assert {*runner.OFFICIAL} == {*score.BENCHMARKS} == {*NAMES, "llava_bench"}
    assert {name.partition("-")[0] for name in shipped.SETS} | {"textvqa"} == set(runner.OFFICIAL)
    assert set(board.TITLES) == {*shipped.SETS, *runner.OFFICIAL, "scenes"}


WORKER = """
import sys
from pathlib import Path
from vlmlab.benchmarks import collecting
from vlmlab.benchmarks.asking import Ask, Said
among = collecting.processes(cpu=True)
asks = [Ask(number, None, "") for number in range(11)]
say = lambda batch: [Said(f"{ask.key} of {len(batch)}") for ask in batch]
said = collecting.collect(Path(sys.argv[1]), asks, say, 3, among)
print(among.index, among.count, len(said))
"""


def test_two_real_processes_share_the_questions(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(tmp_path / "answers.jsonl")],
            env=os.environ | common | {"RANK": rank, "LOCAL_RANK": rank},  # what accelerate launch and torchrun set
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]
    said = [worker.communicate(timeout=120)[0] for worker in workers]
    assert said == ["0 2 11\n", "1 2 11\n"]
    lines = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert [line["key"] for line in lines] == list(range(11))
    assert lines[-1] == {"key": 10, "text": "10 of 2"}
