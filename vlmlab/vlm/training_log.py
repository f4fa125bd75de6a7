"""What a training run tells: metrics.jsonl, and a progress bar on a terminal or plain lines in a log. Notebook 04."""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from vlmlab.files import write_text

RESERVED = ("step", "loss", "lr", "grad_norm", "seconds")


def read_metrics(folder: str | os.PathLike) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl, oldest first; a last line cut short by a kill is left out."""
    path = Path(folder) / "metrics.jsonl"
    lines = []
    if path.exists():
        for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                line = json.loads(text)
            except json.JSONDecodeError:
                continue
            if isinstance(line, dict) and isinstance(line.get("step"), int):
                lines.append(line)
    return lines


class MetricsFile:
    """metrics.jsonl: one JSON object a step; `flush` before each checkpoint, so that no step is missing."""

    def __init__(self, folder: Path, last_step: int, flush_every: int):
        """Drop the lines after `last_step` (the checkpoint resumed from; 0: all)."""
        self.lines = [line for line in read_metrics(folder) if line["step"] <= last_step]
        self._path, self._every = folder / "metrics.jsonl", flush_every
        self._waiting: list[str] = []
        write_text(self._path, "".join(json.dumps(line) + "\n" for line in self.lines))

    def add(self, line: dict[str, Any]) -> None:
        """Take a step's line; it is on the disk after the next flush, at the latest after `flush_every` lines."""
        self.lines.append(line)
        self._waiting.append(json.dumps(line) + "\n")
        if len(self._waiting) >= self._every:
            self.flush()

    def flush(self) -> None:
        """Append the lines that wait."""
        if self._waiting:
            with open(self._path, "a", encoding="utf-8") as file:
                file.write("".join(self._waiting))
            self._waiting.clear()


class Display:
    """Progress of one run: a rich bar on a terminal, a line every `every` steps elsewhere, nothing when off."""

    def __init__(self, name: str, steps: int, every: int, on: bool):
        self.name, self.steps, self.every, self.on = name, steps, every, on
        self.start, self._bar = 0, None
        self._losses: list[float] = []

    def begin(self, start: int) -> None:
        """Start the clock, and the bar on a terminal, after step `start`."""
        self.start = start
        self._began = self._marked = time.perf_counter()
        self._bar = _bar(self.name, start, self.steps) if self.on and sys.stdout.isatty() else None

    def step(self, line: dict[str, Any]) -> None:
        """Show a step's metrics: the loss and the speed are means over the steps since the last line shown."""
        if not self.on:
            return
        step = line["step"]
        self._losses.append(line["loss"])
        shown = step % self.every == 0 or step in (self.start + 1, self.steps)
        if self._bar:
            self._bar.update(0, completed=step)
        if not shown:
            return
        now = time.perf_counter()
        loss, rate = sum(self._losses) / len(self._losses), len(self._losses) / max(now - self._marked, 1e-9)
        self._losses, self._marked = [], now
        text = f"loss {loss:.4f}  lr {line['lr']:.2e}  grad {line['grad_norm']:.3f}  {rate:.2f} steps/s"
        if self._bar:
            self._bar.update(0, text=text)
        else:
            left = (self.steps - step) * (now - self._began) / max(step - self.start, 1)
            print(f"{self.name}  step {step}/{self.steps}  {text}  eta {clock(left)}", flush=True)

    def say(self, text: str) -> None:
        """A line of its own, also while the bar is on."""
        if self._bar:
            self._bar.console.print(f"{self.name}  {text}", markup=False, highlight=False, soft_wrap=True)
        elif self.on:
            print(f"{self.name}  {text}", flush=True)

    def close(self) -> None:
        if self._bar:
            self._bar.stop()


def plain(value: Any) -> Any:
    """A metric as a JSON value: tensors and NumPy scalars as numbers."""
    return value.item() if hasattr(value, "item") else value


def clock(seconds: float) -> str:
    """h:mm:ss, or m:ss below an hour."""
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"


def _bar(name: str, start: int, steps: int) -> Any:
    """A started rich progress bar with one task (id 0), or None without rich: plain lines do as well."""
    try:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    except ImportError:
        return None
    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[text]}"))
    bar = Progress(*columns, TimeRemainingColumn(compact=True, elapsed_when_finished=True))
    bar.add_task(name, total=steps, completed=start, text="")
    bar.start()
    return bar
