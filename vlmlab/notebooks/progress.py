"""What the terminal shows while notebooks run: one live line each, or one line at the end of each. Every notebook."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from vlmlab.notebooks.process import Measured
    from vlmlab.notebooks.runner import Outcome


class Progress:
    """A context: `begin` a notebook, `watch` it, `end` it. Silent without a console; plain lines off a terminal."""

    def __init__(self, console: "Console | None", count: int):
        self.console, self.count, self.done = console, count, 0
        self.live: Any = None
        self.name, self.cells = "", 0

    def __enter__(self) -> "Progress":
        if self.console is not None and self.console.is_terminal:
            from rich.status import Status

            self.live = Status("", console=self.console)
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live is not None:
            self.live.stop()

    def begin(self, name: str, cells: int) -> None:
        self.name, self.cells = name, cells
        if self.live is not None:
            self.live.update(f"{self.done + 1}/{self.count} {name}: starting")

    def watch(self, measured: "Measured") -> None:
        if self.live is not None:
            self.live.update(
                f"{self.done + 1}/{self.count} {self.name}: cell {min(measured.cell + 1, self.cells)}/{self.cells}, "
                f"{measured.seconds:.0f} s, {measured.peak_mb:.0f} MB"
            )

    def end(self, outcome: "Outcome") -> None:
        self.done += 1
        if self.console is not None:
            verdict = "passed" if outcome.passed else "FAILED"
            cost = f"{outcome.seconds:.1f} s, {outcome.peak_mb:.0f} MB"
            line = f"{self.done}/{self.count} {outcome.name}: {verdict} ({cost})"
            self.console.print(line, markup=False, highlight=False, soft_wrap=True)
