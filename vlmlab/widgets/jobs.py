"""Work in steps: it tells how far it is, can be cancelled, and runs in a thread or step by step. Notebook 15."""

from collections.abc import Callable, Generator
from threading import Thread
from typing import Generic, TypeVar

from vlmlab.errors import BadInput

T = TypeVar("T")
Steps = Generator[float, None, T]
"""Yields the share that is done, in [0, 1], after each step; returns the result."""
Work = Callable[[], None]


def in_thread(work: Work) -> None:
    """Do work beside the notebook, which stays usable."""
    Thread(target=work, daemon=True).start()


def at_once(work: Work) -> None:
    """Do work before going on, as tests and notebooks that run by themselves want it."""
    work()


class Job(Generic[T]):
    """A generator of steps as work that can be watched and stopped.

    progress: the share that is done. done: it has ended, with a result or without. cancelled: it was stopped.
    """

    def __init__(self, steps: Steps[T]):
        self.progress, self.done, self.cancelled = 0.0, False, False
        self._steps = steps
        self._result: T | None = None

    def step(self) -> bool:
        """Do one step; False when there is no more to do. What the step raises ends the job."""
        if self.done:
            return False
        if self.cancelled:
            self._steps.close()
            self.done = True
            return False
        try:
            self.progress = next(self._steps)
        except StopIteration as end:
            self._result, self.progress, self.done = end.value, 1.0, True
        except BaseException:
            self.done = True
            raise
        return not self.done

    def run(self, on_step: Callable[[], object] = lambda: None) -> "Job[T]":
        """Do all steps; on_step is called after each one, and at the end."""
        while self.step():
            on_step()
        on_step()
        return self

    def cancel(self) -> None:
        """Stop before the next step; nothing to do where it has ended."""
        self.cancelled = self.cancelled or not self.done

    @property
    def result(self) -> T:
        """What the work gave. Raises BadInput before its end, and where it was cancelled or failed."""
        if not self.done or self._result is None:
            raise BadInput("the work was cancelled or failed" if self.done else "the work has not ended; run its steps")
        return self._result
