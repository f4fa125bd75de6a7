"""The command line: what it prints, where, and with which exit code; no model is needed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import vlmlab
from vlmlab import cli
from vlmlab.errors import BadCheckpoint

COMMANDS = (
    "doctor", "run", "ask", "render", "train", "evaluate", "score", "shortcomings", "explain", "faithfulness", "replay",
    "clips", "instruct", "account", "bench", "gpu", "experiment", "new", "assign", "lab",
    "book",
)  # fmt: skip


def call(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = cli.main(list(arguments))
    out, err = capfd.readouterr()
    return code, out, err


def refused(capfd: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line on stderr of a call that must end in exit code 2."""
    code, out, err = call(capfd, *arguments)
    assert code == 2
    assert out == ""
    assert err.count("\n") == 1, err
    assert err.startswith("vlmlab: ")
    return err


class Parrot:
    """Stands in for a model: says what it was asked."""

    def generate(self, image, prompt, max_new_tokens=64, temperature=0.0, stream=False):
        text = f"{prompt} ({max_new_tokens})"
        return iter([text[:3], text[3:]]) if stream else text

    def score_options(self, image, prompt, options):
        return {option: -float(index) for index, option in enumerate(options)}


@pytest.fixture
def parrot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vlmlab, "load", lambda name, device="auto": Parrot())


def test_help_names_every_command_and_is_quick():
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "vlmlab.cli", "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0
    assert all(command in done.stdout for command in COMMANDS)
    imported = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()}
    assert not {"torch", "transformers", "numpy", "matplotlib", "papermill"} & imported
    assert time.monotonic() - begun < 20  # a loaded machine; on a free one it is a quarter of a second


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(capfd, command):
    code, out, _ = call(capfd, command, "--help")
    assert code == 0
    assert "Usage" in out


def test_without_arguments_the_help_is_shown_and_version_works(capfd):
    assert "Commands" in call(capfd)[1]
    assert call(capfd, "--version")[1] == f"vlmlab {vlmlab.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["aks"], "did you mean 'ask'"),
        (["ask"], "missing argument"),
        (["ask", "hi", "--no-such-option"], "no such option"),
        (["ask", "   "], "the question is empty"),
        (["ask", "hi", "--max-new-tokens", "0"], "greater than or equal to 1"),
        (["ask", "hi", "--temperature", "inf"], "finite"),
        (["ask", "hi", "--options", "yes"], "at least two"),
        (["ask", "hi", "--options", "yes,,no"], "at least two"),
        (["ask", "hi", "--image", "no-such-file.png"], "no such image: no-such-file.png"),
        (["render"], "nothing to do"),
        (["render", "--out", "x.txt"], "cannot write .txt"),
        (["render", "--out", "x"], "without a suffix"),
        (["render", "--out", "x.png", "--size", "0"], "greater than or equal to 8"),
        (["run", "--set", "seed"], "name=value"),
        (["run", "--set", "seed=1", "--set", "seed=2"], "twice"),
        (["run", "--profile", "slow"], "unknown profile 'slow'"),
        (["train", "llava", "--set", "1x=2"], "name=value"),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_2(capfd, arguments, part):
    assert part.lower() in refused(capfd, *arguments).lower()


def test_ask_streams_only_the_answer(capfd, parrot):
    assert call(capfd, "ask", "where is it?") == (0, "where is it? (64)\n", "")


def test_ask_json(capfd, parrot):
    code, out, _ = call(capfd, "ask", "where?", "--json", "--max-new-tokens", "3")
    assert code == 0
    assert json.loads(out) == {"model": "llava-tiny", "question": "where?", "answer": "where? (3)"}


def test_ask_options_prints_probabilities(capfd, parrot):
    _, out, _ = call(capfd, "ask", "is it?", "--options", "yes,no")
    assert out.splitlines() == ["yes  0.7311", "no   0.2689"]
    _, out, _ = call(capfd, "ask", "is it?", "--options", "yes,no", "--json")
    result = json.loads(out)
    assert result["answer"] == "yes"
    assert sum(option["probability"] for option in result["options"].values()) == pytest.approx(1)


def test_train_tells_what_came_of_it_and_evaluate_and_bench_know_their_names(
    capfd, parrot, monkeypatch, tmp_path: Path
):
    from vlmlab import bench
    from vlmlab.vlm import recipes

    ran = []

    def run(name, resume=False, **overrides):
        ran.append((name, resume, overrides))
        return SimpleNamespace(steps=3, seconds=1.5, folder=tmp_path, checkpoint=tmp_path / "3", losses=[2.0, 1.0])

    monkeypatch.setattr(recipes, "RECIPES", {"small": None})
    monkeypatch.setattr(recipes, "run", run)
    code, out, _ = call(capfd, "train", "small", "--resume", "--set", "steps=3", "--set", "text=x y", "--json")
    assert code == 0
    assert json.loads(out)["final_loss"] == 1.0
    assert ran == [("small", True, {"steps": 3, "text": "x y"})]
    assert call(capfd, "train", "--list")[1] == "small\n"
    assert "did you mean 'small'" in refused(capfd, "train", "smal")
    assert "--set name" in refused(capfd, "train", "small", "--set", "name=x")
    assert "name a recipe: small" in refused(capfd, "train")
    assert "unknown benchmark 'no'" in refused(capfd, "evaluate", "--benchmark", "no")
    monkeypatch.setattr(bench, "BENCHMARKS", {"fast": lambda n=1: {"ratio": float(n)}})
    assert json.loads(call(capfd, "bench", "fast", "--set", "n=4", "--json")[1]) == {"ratio": 4.0}
    assert "ratio" in call(capfd, "bench", "fast")[1]
    assert "unknown setting 'm'" in refused(capfd, "bench", "fast", "--set", "m=4")


def test_account_prints_a_table_and_json(capfd):
    code, out, _ = call(capfd, "account", "llava-tiny", "--json")
    assert code == 0
    assert json.loads(out)["name"] == "llava-tiny"
    assert "llava-tiny" in call(capfd, "account", "llava-tiny")[1]
    assert "unknown" in refused(capfd, "account", "no-such-preset")


def test_errors_of_the_library_are_one_line(capfd, monkeypatch):
    def load(name, device="auto"):
        raise BadCheckpoint("weights.safetensors is damaged\n(truncated)")

    monkeypatch.setattr(vlmlab, "load", load)
    assert refused(capfd, "ask", "hi") == "vlmlab: weights.safetensors is damaged (truncated)\n"


def test_a_missing_package_names_the_install_command(capfd, monkeypatch):
    def load(name, device="auto"):
        raise ModuleNotFoundError("No module named 'captum'", name="captum")

    monkeypatch.setattr(vlmlab, "load", load)
    assert "pip install captum" in refused(capfd, "ask", "hi")


def test_our_own_faults_keep_their_traceback(monkeypatch):
    def load(name, device="auto"):
        raise ZeroDivisionError

    monkeypatch.setattr(vlmlab, "load", load)
    with pytest.raises(ZeroDivisionError):
        cli.main(["ask", "hi"])


def test_ctrl_c_is_130(capfd, monkeypatch):
    def load(name, device="auto"):
        raise KeyboardInterrupt

    monkeypatch.setattr(vlmlab, "load", load)
    code, out, err = call(capfd, "ask", "hi")
    assert code == 130
    assert "Traceback" not in out + err


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_ctrl_c_from_outside_leaves_no_traceback():
    code = (
        "import signal, sys, time, vlmlab\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background jobs ignore it
        "from vlmlab import cli\n"
        "def load(name, device='auto'):\n    print('ready', flush=True)\n    time.sleep(60)\n"
        "vlmlab.load = load\n"
        "sys.exit(cli.main(['ask', 'hi']))"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 130
    assert "Traceback" not in err


@pytest.fixture
def grey_world(monkeypatch: pytest.MonkeyPatch) -> None:
    """A world of one grey scene, so that these tests are about the command."""
    scenes = pytest.importorskip("vlmlab.scenes")

    def sample(seed, **constraints):
        return SimpleNamespace(
            render=lambda size: SimpleNamespace(rgb=np.full((size, size, 3), seed, np.uint8)),
            to_json=lambda: json.dumps({"objects": []}),
            relations=lambda: [],
        )

    monkeypatch.setattr(scenes, "sample", sample)


def test_render_writes_the_picture_whole_and_its_facts(capfd, grey_world, tmp_path: Path):
    from PIL import Image

    target = tmp_path / "new" / "scene.PNG"
    code, out, _ = call(capfd, "render", "--seed", "7", "--out", str(target), "--size", "32", "--json")
    assert code == 0
    assert json.loads(out)["scene"] == {"objects": []}
    with Image.open(target) as picture:
        assert (picture.size, picture.mode, picture.getpixel((0, 0))) == ((32, 32), "RGB", (7, 7, 7))
    assert [path.name for path in target.parent.iterdir()] == ["scene.PNG"]


def test_render_into_a_folder_or_through_a_file_is_refused(capfd, grey_world, tmp_path: Path):
    assert "is a folder" in refused(capfd, "render", "--out", str(tmp_path))
    (tmp_path / "file").write_text("")
    refused(capfd, "render", "--out", str(tmp_path / "file" / "scene.png"))


def test_importing_vlmlab_is_light():
    code = "import sys, vlmlab, vlmlab.report; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_rooms_are_reached_lazily_and_unknown_names_are_attribute_errors():
    assert vlmlab.errors.VlmlabError is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        vlmlab.nothing  # noqa: B018
