"""The strict runner on real kernels: each kind of hidden fault fails, a good notebook passes."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import nbformat
import psutil
import pytest
from tiny_notebooks import PARAMETERS, percent

from vlmlab import notebooks
from vlmlab.errors import BadInput, UnknownName
from vlmlab.notebooks import process, tidy

pytestmark = pytest.mark.timeout(1200)  # two dozen kernels start one after another

ALT = "<figure><img alt='two dots' src='data:image/png;base64,iVBORw0KGgo='></figure>"
GOOD = (
    "md # Good\nInline $Z_v = f_\\phi(H_v)$, ![a dot](data:image/png;base64,iVBORw0KGgo=)",
    "from vlmlab import report\nreport.record('steps', steps)\nreport.record('text', text)\nprint(profile, seed, device)",
    f"from IPython.display import HTML, display\ndisplay(HTML({ALT!r}))",
    "import ipywidgets\nout = ipywidgets.Output()\nwith out:\n    print('fine')\ndisplay(ipywidgets.IntSlider(3), out)",
    "import os\nopen('left behind.txt', 'w').write('x')\n(os.environ['VLMLAB_PROFILE'], os.listdir('.'))",
)

# name -> (cells, part of the problem)
FAULTY: dict[str, tuple[tuple[str, ...], str]] = {
    "01_error": (("1 / 0", "print('never')"), "cell 2 (1 / 0): ZeroDivisionError"),
    "02_output_widget": (
        ("import ipywidgets\nout = ipywidgets.Output()", "with out:\n    1 / 0", "out"),
        "hides an error in a widget",
    ),
    "03_cleared_widget": (
        ("import ipywidgets\nout = ipywidgets.Output()\nwith out:\n    1 / 0\nout.clear_output()",),
        "hides an error in a widget",
    ),
    "04_callback": (
        (
            "import ipywidgets\nout = ipywidgets.Output()\nslider = ipywidgets.IntSlider(1)",
            "@out.capture()\ndef changed(change):\n    1 / 0\nslider.observe(changed, 'value')",
            "slider.value = 2",
        ),
        "hides an error in a widget",
    ),
    "05_appended": (
        ("import ipywidgets\nout = ipywidgets.Output()\nout.append_stderr('it failed')",),
        "writes to stderr: it failed",
    ),
    "06_traceback_text": (
        ("import ipywidgets\nhtml = ipywidgets.HTML('<pre>Traceback (most recent call last): ...</pre>')\nhtml",),
        "holds a traceback",
    ),
    "07_stderr": (("import warnings\nwarnings.warn('old function')",), "writes to stderr"),
    "08_network": (
        ("import socket\ntry:\n    socket.socket().connect(('192.0.2.1', 80))\nexcept OSError:\n    pass",),
        "tries to reach the network (socket.connect 192.0.2.1:80)",
    ),
    "09_lookup_in_child": (
        (
            "import subprocess, sys\ncode = 'import socket; socket.getaddrinfo(\"example.invalid\", 80)'\n"
            "_ = subprocess.run([sys.executable, '-c', code], capture_output=True)",
        ),
        "tries to reach the network (socket.getaddrinfo example.invalid)",
    ),
    "10_overwritten": (("globals()['steps'] = 99",), "the parameter steps was set to 5 but holds 99"),
    "11_deleted": (("globals().pop('steps')",), "the parameter steps is gone"),
    "12_assigned_again": (("for seed in range(2):\n    pass",), "assigns the parameter seed again"),
    "13_no_alt": (
        (
            "import base64\nfrom IPython.display import Image\nImage(base64.b64decode('iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAf"
            "FcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=='))",
        ),
        "without alt text",
    ),
    "14_path": (("import os\nprint(os.getcwd())",), "prints a path of this machine"),
    "15_recorded_twice": (
        ("from vlmlab import report\nreport.record('a', 1)\nreport.record('a', 2)",),
        "records 'a' twice",
    ),
    "16_too_big": (("print('x' * 1_600_000)",), "MB with its outputs"),
    "17_dead_kernel": (("import os\nos._exit(3)",), "the kernel died in cell 2 (import os)"),
    "18_nan": (("from vlmlab import report\nreport.record('loss', float('nan'))",), "not a finite number"),
}


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory):
    """All faulty notebooks, a good one, and one without parameters, run once."""
    folder = tmp_path_factory.mktemp("suite")
    (folder / "src").mkdir()
    for name, (cells, _) in FAULTY.items():
        (folder / "src" / f"{name}.py").write_text(percent(*cells, parameters=PARAMETERS))
    (folder / "src" / "00_good.py").write_text(percent(*GOOD))
    report = folder / "report"
    return notebooks.run(settings={"steps": "5", "text": 'say "a=b"\\n'}, budget=False, folder=folder, report=report)


def outcome(suite, name: str):
    return next(item for item in suite.outcomes if item.name == name)


@pytest.mark.parametrize("name", FAULTY)
def test_a_hidden_fault_fails(faulty, name):
    found = outcome(faulty, name)
    assert not found.passed
    assert FAULTY[name][1] in "\n".join(found.problems)
    assert all("\n" not in problem for problem in found.problems)


def test_each_notebook_fails_for_its_own_fault_only(faulty):
    for name in FAULTY:
        assert len(outcome(faulty, name).problems) == 1, outcome(faulty, name).problems


def test_a_good_notebook_passes_with_values_results_time_and_memory(faulty):
    good = outcome(faulty, "00_good")
    assert good.problems == []
    assert good.parameters == {"profile": "quick", "steps": 5, "text": 'say "a=b"\\n'}
    assert good.results == {"steps": 5, "text": 'say "a=b"\\n'}
    assert good.seconds > 0
    assert 20 < good.peak_mb < 2000
    assert good.notebook is not None
    last = [cell for cell in good.notebook.cells if cell.cell_type == "code"][-1]
    assert "('quick', ['left behind.txt'])" in last.outputs[-1].data["text/plain"]
    assert not faulty.passed


def test_nothing_is_left_behind(faulty):
    children = psutil.Process().children(recursive=True)
    assert not [child for child in children if "ipykernel" in " ".join(child.cmdline())]
    assert not Path("left behind.txt").exists()


def test_a_missing_parameters_cell_fails_without_running(write, tmp_path: Path):
    folder = write("01_none", "raise SystemExit", parameters=None)
    suite = notebooks.run(folder=folder, report=tmp_path / "report")
    (found,) = suite.outcomes
    assert "no cell is tagged 'parameters'" in found.problems[0]
    assert found.seconds == 0
    assert (tmp_path / "report" / "01_none.html").is_file()


def test_wrong_parameters_are_refused_before_anything_runs(write, tmp_path: Path):
    folder = write("01_a", "open('ran', 'w')")
    for settings, message in (({"step": "1"}, "did you mean steps"), ({"steps": "x"}, "wants int")):
        with pytest.raises(BadInput, match=message):
            notebooks.run(settings=settings, folder=folder, report=tmp_path / "report")
    with pytest.raises(UnknownName, match="unknown profile"):
        notebooks.run(profile="slow", folder=folder, report=tmp_path / "report")
    assert not (tmp_path / "report").exists()


def test_over_time_and_over_memory_are_ended(write, tmp_path: Path):
    mark = f"# orphan of {tmp_path.name}"
    write("01_slow", "print('before', flush=True)", "import subprocess, sys, time\n"
          f"subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)  {mark}'])\ntime.sleep(600)")  # fmt: skip
    folder = write("02_large", "block = bytearray(700_000_000)\nimport time\ntime.sleep(600)")
    budget = notebooks.Budget(seconds=30, megabytes=500)
    slow, large = notebooks.run(folder=folder, report=tmp_path / "report", budget=budget).outcomes
    assert "took longer than its budget of 30 s in cell 3" in slow.problems[0]
    assert slow.seconds < 90
    assert "MB of memory; its budget is 500 MB in cell 2" in large.problems[0]
    assert "before" in (tmp_path / "report" / "01_slow.html").read_text()
    running = [
        process for process in psutil.process_iter(["cmdline"]) if mark in " ".join(process.info["cmdline"] or [])
    ]
    assert running == []


@pytest.mark.parametrize(
    "cell",
    [
        "import threading\nthreading.Event().wait()",
        "import time\nwhile True:\n    time.sleep(4)\n    end = time.process_time() + 0.01\n"
        "    while time.process_time() < end: pass",
    ],
    ids=["asleep", "wakes up and goes on waiting"],
)
def test_a_kernel_that_hangs_is_ended_without_a_budget_too(cell, write, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(process, "IDLE_SECONDS", 5.0)
    folder = write("01_hangs", cell)
    (found,) = notebooks.run(folder=folder, report=tmp_path / "report", budget=False).outcomes
    assert found.problems[0].startswith("hangs: ")


def test_a_kernel_that_hangs_once_is_run_again(write, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(process, "IDLE_SECONDS", 5.0)
    mark = tmp_path / "been here"
    folder = write(
        "01_once",
        f"import pathlib, threading\nmark = pathlib.Path({str(mark)!r})\n"
        "if not mark.exists():\n    mark.touch()\n    threading.Event().wait()",
    )
    (found,) = notebooks.run(folder=folder, report=tmp_path / "report", budget=False).outcomes
    assert found.passed, found.problems


def test_a_short_peak_of_memory_is_seen(write, tmp_path: Path):
    if not Path("/proc/self/status").exists():
        pytest.skip("the high-water mark of a process is read from /proc, which this system lacks")
    folder = write(
        "01_peak", "block = bytearray(400_000_000)\nfor i in range(0, len(block), 4096): block[i] = 1\ndel block"
    )
    (found,) = notebooks.run(folder=folder, report=tmp_path / "report", budget=False).outcomes
    assert found.passed, found.problems
    assert found.peak_mb > 400


def test_update_writes_a_pair_that_stays_the_same_and_needs_the_quick_profile(write, tmp_path: Path):
    folder = write("01_good", *GOOD)
    target = folder / "01_good.ipynb"
    before = set(folder.iterdir())
    for keywords in ({"profile": "full"}, {"settings": {"seed": "1"}}):
        with pytest.raises(BadInput, match="--update"):
            notebooks.run(folder=folder, report=tmp_path / "report", update=True, **keywords)
    first = notebooks.run(folder=folder, report=tmp_path / "report", update=True)
    assert first.passed
    text = target.read_text()
    assert set(folder.iterdir()) == before | {target}
    notebooks.run(folder=folder, report=tmp_path / "report", update=True)
    assert target.read_text() == text
    notebook = nbformat.read(target, as_version=4)
    nbformat.validate(notebook)
    assert tidy.same_inputs(notebook, notebooks.read(notebooks.find([], folder)[0]))
    assert "papermill" not in text
    assert "injected-parameters" not in text
    assert str(tmp_path) not in text
    counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1))
    path = folder / "src" / "01_good.py"
    path.write_text(path.read_text() + "\n# %%\n1 / 0\n")
    failed = notebooks.run(folder=folder, report=tmp_path / "report", update=True)
    assert not failed.passed
    assert failed.outcomes[0].unpaired
    assert target.read_text() == text


GUARD = Path(process.__file__).parent / "guard"


def guarded(code: str, tmp_path: Path) -> subprocess.CompletedProcess:
    environment = {
        **os.environ,
        "PYTHONPATH": str(GUARD),
        "VLMLAB_NETWORK": "off",
        "VLMLAB_NETWORK_LOG": str(tmp_path / "log"),
    }
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    "code",
    [
        "import socket; socket.create_connection(('192.0.2.1', 80), 1)",
        "import socket; socket.getaddrinfo('example.invalid', 80)",
        "import socket; socket.getaddrinfo('localhost.example.invalid', 80)",
        "import socket; socket.gethostbyname('127.0.0.1.example.invalid')",
        "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('192.0.2.1', 9))",
        "import urllib.request; urllib.request.urlopen('http://192.0.2.1/')",
    ],
)
def test_the_guard_blocks_and_writes_down(code, tmp_path):
    done = guarded(code, tmp_path)
    assert done.returncode != 0
    assert "the network is off" in done.stderr
    assert (tmp_path / "log").read_text()


def test_the_guard_leaves_loopback_open(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        code = f"import socket; socket.create_connection(('127.0.0.1', {port}), 5); socket.create_connection(('localhost', {port}), 5)"
        done = guarded(code, tmp_path)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "log").exists()


def test_a_folder_that_is_no_report_is_not_replaced(write, tmp_path: Path):
    folder = write("01_a", "1")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("keep")
    with pytest.raises(BadInput, match="is not a report of vlmlab"):
        notebooks.run(folder=folder, report=tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "keep"
