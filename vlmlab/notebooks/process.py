"""One notebook in a process of its own: started, watched, and ended when it overruns its budget. Every notebook.

The runner measures the kernel and all that it starts; the worker that only passes messages is not counted.
"""

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import psutil

START_SECONDS = 300.0  # a worker that has not started by then never will
IDLE_SECONDS = (
    90.0  # a kernel that has used next to no processor time for so long has lost its message and never goes on
)
BUSY_SHARE = 0.005  # of one processor's time; a worker that only waits for messages uses a tenth of it
SAMPLE_SECONDS = 0.1


@dataclass(frozen=True)
class Budget:
    """Limits of one notebook: seconds of wall clock, and peak resident memory in MB (10^6 bytes). None: no limit."""

    seconds: float | None = None
    megabytes: float | None = None


@dataclass
class Measured:
    """What a run cost, how far it came (index of the last cell started), and why it was ended, if it was."""

    seconds: float = 0.0
    peak_mb: float = 0.0
    cell: int = -1
    code: int | None = None
    overrun: str = ""
    trouble: str = ""
    worker_stderr: str = ""
    started: float | None = field(default=None, repr=False)


def lab_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """JupyterLab's environment: our settings behind the reader's own ones.

    It asks nobody for news, and a kernel gets all widgets' messages in their order: in JupyterLab's subshells a click
    may overtake what was typed before it.
    """
    ours = str(Path(__file__).parent / "lab")
    return {
        **environment,
        "JUPYTER_CONFIG_PATH": os.pathsep.join(filter(None, [environment.get("JUPYTER_CONFIG_PATH"), ours])),
    }


def kernel_environment(profile: str, folder: Path, work: Path, data: Path) -> dict[str, str]:
    """What a notebook's kernel gets on top of the runner's own environment: offline, seeded hashes, own folders."""
    return {
        "VLMLAB_PROFILE": profile,
        "VLMLAB_WORK": str(work),
        "VLMLAB_DATA": str(data),
        "VLMLAB_RESULTS": str(folder / "results.jsonl"),
        "VLMLAB_PROOF": str(folder / "proof.json"),
        "VLMLAB_NETWORK": "off",
        "VLMLAB_NETWORK_LOG": str(folder / "network.log"),
        "PYTHONPATH": _python_path(Path(__file__).parent / "guard"),
        "PYTHONHASHSEED": "0",
        "OMP_WAIT_POLICY": "PASSIVE",  # threads that spin while they wait stall each other on a busy machine
        "IPYTHONDIR": str(folder / "ipython"),
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # the debugger's own warning about frozen modules is no fault of a cell
    }


def _python_path(*first: Path) -> str:
    """PYTHONPATH with `first` in front and this very package on it, whether it is installed or not."""
    folders = [*map(str, first), str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]
    return os.pathsep.join(folder for folder in folders if folder)


def run(job: dict[str, Any], folder: Path, budget: Budget, progress: Callable[[Measured], None]) -> Measured:
    """Run the worker on `job` until it is done or over `budget`; call `progress` a few times a second.

    Every process that the notebook started is gone when this returns, also after Ctrl-C. One that hangs is run once
    more: a kernel's message can get lost.
    """
    measured = _attempt(job, folder, budget, progress)
    return _attempt(job, folder, budget, progress) if measured.overrun.startswith("hangs") else measured


def _attempt(job: dict[str, Any], folder: Path, budget: Budget, progress: Callable[[Measured], None]) -> Measured:
    job_file = folder / "job.json"
    job_file.write_text(json.dumps(job), encoding="utf-8")
    measured = Measured()
    with open(folder / "worker.stderr", "w", encoding="utf-8") as errors:
        worker = subprocess.Popen(
            [sys.executable, "-m", "vlmlab.notebooks.worker", str(job_file)],
            env={**os.environ, "PYTHONPATH": _python_path()},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
        )
        assert worker.stdout is not None
        reader = threading.Thread(target=_listen, args=(worker.stdout, measured), daemon=True)
        reader.start()
        watched = _Tree(worker.pid)
        begun = time.monotonic()
        try:
            while worker.poll() is None and not measured.overrun:
                measured.peak_mb = max(measured.peak_mb, watched.megabytes())
                measured.seconds = time.monotonic() - (measured.started or begun)
                measured.overrun = _overrun(measured, budget, time.monotonic() - begun)
                if not measured.overrun and watched.idle() > IDLE_SECONDS:
                    measured.overrun = f"hangs: nothing has used the processor for {IDLE_SECONDS:.0f} s"
                progress(measured)
                time.sleep(SAMPLE_SECONDS)
        finally:
            watched.end()
            worker.kill()
            worker.wait()
            reader.join(timeout=5)
    measured.seconds = time.monotonic() - (measured.started or begun)
    measured.worker_stderr = (folder / "worker.stderr").read_text(encoding="utf-8", errors="replace")
    if not measured.overrun:
        measured.overrun = _overrun(measured, budget, 0.0)
    return measured


def _listen(stream: IO[str], measured: Measured) -> None:
    for line in stream:
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if event.get("event") == "start":
            measured.started = time.monotonic()
        elif event.get("event") == "cell":
            measured.cell = event["index"]
        elif event.get("event") == "done":
            measured.code, measured.trouble = event["code"], event["trouble"]


def _overrun(measured: Measured, budget: Budget, waited: float) -> str:
    if measured.started is None:
        return f"the notebook process did not start within {START_SECONDS:.0f} s" if waited > START_SECONDS else ""
    if budget.seconds is not None and measured.seconds > budget.seconds:
        return f"took longer than its budget of {budget.seconds:g} s"
    if budget.megabytes is not None and measured.peak_mb > budget.megabytes:
        return f"used {measured.peak_mb:.0f} MB of memory; its budget is {budget.megabytes:g} MB"
    return ""


class _Tree:
    """The processes below the worker: the kernel and what it starts."""

    def __init__(self, pid: int):
        self.worker = psutil.Process(pid)
        self.members: dict[int, psutil.Process] = {}
        self.busy, self.since = 0.0, time.monotonic()

    def idle(self) -> float:
        """Seconds since worker, kernel and children together were last busy: a worker that waits still wakes up."""
        used = 0.0
        for process in (self.worker, *self.members.values()):
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                used += times.user + times.system
        now = time.monotonic()
        if abs(used - self.busy) > BUSY_SHARE * (now - self.since):  # less than before where a process has ended
            self.busy, self.since = used, now
        return now - self.since

    def megabytes(self) -> float:
        """Resident memory now, in MB; on Linux not less than the highest that a single process has ever reached."""
        with contextlib.suppress(psutil.Error):
            for child in self.worker.children(recursive=True):
                self.members.setdefault(child.pid, child)
        total, highest = 0.0, 0.0
        for process in list(self.members.values()):
            try:
                total += process.memory_info().rss / 1e6
            except psutil.Error:
                continue
            highest = max(highest, _high_water(process.pid))
        return max(total, highest)

    def end(self) -> None:
        self.megabytes()  # the last look at who is there
        for process in (self.worker, *self.members.values()):  # the worker first: it would report the kernel's death
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(list(self.members.values()), timeout=5)


def _high_water(pid: int) -> float:
    """VmHWM of a process in MB: its peak since it started, which sampling alone can miss. 0 where there is no /proc."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    except OSError:
        pass
    return 0.0
