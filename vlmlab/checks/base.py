"""What every check of an exercise does: type and shape, then values, then the likely mistakes by name. Notebook 00.

A check prints one line, "[ok] ..." or "[not yet] ...", and never raises for what a student wrote: an exception in the
answer is shown with its type and line. An exercise that nobody has begun is "[not yet]" as well.
"""

import copy
import inspect
import linecache
import math
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

TOLERANCE = 1e-4  # of the largest expected magnitude


@dataclass(frozen=True)
class Verdict:
    """Whether an answer is right, the line that says so, and the name of the mistake that it looks like.

    `bool(verdict)` is `ok`. JupyterLab shows nothing for it: the check has printed its line.
    """

    ok: bool
    message: str
    mistake: str | None = None

    def __bool__(self) -> bool:
        return self.ok

    def __str__(self) -> str:
        return f"[{'ok' if self.ok else 'not yet'}] {self.message}"

    def _ipython_display_(self) -> None:
        """Nothing to show again."""


@dataclass(frozen=True)
class Mistake:
    """A mistake that many make.

    name: short, for tests and statistics. hint: what to tell the student, one sentence. wrong: the wrong function; a
    student whose results are its results has made the mistake. fits: or a test of (result, expected, *arguments).
    """

    name: str
    hint: str
    wrong: Callable[..., Any] | None = None
    fits: Callable[..., bool] | None = None


@dataclass(frozen=True)
class Case:
    """Arguments to try an answer on, and how to name them in a message."""

    arguments: tuple[Any, ...] = ()
    name: str = ""
    keywords: Mapping[str, Any] = field(default_factory=dict)


class _Trouble(Exception):
    """The line that ends a check."""


def run_check(
    name: str,
    answer: Any,
    reference: Any,
    cases: Sequence[Case | tuple] = (),
    mistakes: Sequence[Mistake] = (),
    *,
    done: str = "",
    tolerance: float = TOLERANCE,
) -> Verdict:
    """Check an answer, print one line, return the verdict.

    Args:
        name: of the exercise, as the student knows it.
        answer: what the student wrote: a function, called on every case, or a value.
        reference: the right function, or the right value.
        cases: arguments to try; a plain tuple is a `Case` without a name.
        mistakes: looked for in this order when something is wrong; the first that fits every case is named.
        done: what to say when the answer is right.
        tolerance: of numbers, relative to the largest expected magnitude.
    """
    verdict = _judge(name, answer, reference, cases, mistakes, done, tolerance)
    print(verdict)
    return verdict


def _judge(
    name: str,
    answer: Any,
    reference: Any,
    cases: Sequence[Case | tuple],
    mistakes: Sequence[Mistake],
    done: str,
    tolerance: float,
) -> Verdict:
    if answer is None or answer is ...:
        return Verdict(False, f"{name}: nothing here yet; replace the ... with your answer", "not begun")
    if callable(reference) and not callable(answer):
        return Verdict(False, f"{name} should be a function, this is {_kind(answer)}", "type")
    tried = [case if isinstance(case, Case) else Case(case) for case in cases] or [Case()]
    results: list[tuple[Case, Any, Any]] = []
    fault: tuple[str, str] | None = None
    for case in tried:
        arguments, keywords = copy.deepcopy(case.arguments), copy.deepcopy(dict(case.keywords))
        expected = reference(*copy.deepcopy(arguments), **keywords) if callable(reference) else reference
        got = answer
        if callable(reference):
            try:
                got = answer(*arguments, **keywords)
            except Exception as error:  # whatever the student's code raises is theirs to read, not ours to raise
                return Verdict(False, f"{name} {raised(error, answer)}", "exception")
            if fault is None and _changed(arguments, case.arguments):
                fault = ("changed its input", "it changes its arguments in place; work on a copy, as in x = x.clone()")
        results.append((case, got, expected))
        if fault is None:
            difference = compare(got, expected, tolerance)
            if difference:
                where = f" for {case.name}" if case.name else ""
                fault = ("", f"{difference}{where}")
    if all(got is None or got is ... for _, got, _ in results) and any(want is not None for _, _, want in results):
        return Verdict(False, f"{name} returns nothing yet; replace the ... and return your result", "not begun")
    if fault is None:
        return Verdict(True, f"{name}: {done}" if done else f"{name} is right")
    if fault[0]:
        return Verdict(False, f"{name}: {fault[1]}", fault[0])
    for mistake in mistakes:
        if all(_fits(mistake, case, got, expected, tolerance) for case, got, expected in results):
            return Verdict(False, f"{name}: {mistake.hint} ({fault[1]})", mistake.name)
    return Verdict(False, f"{name}: {fault[1]}")


def _fits(mistake: Mistake, case: Case, got: Any, expected: Any, tolerance: float) -> bool:
    arguments = copy.deepcopy(case.arguments)
    try:
        if mistake.fits is not None:
            return bool(mistake.fits(got, expected, *arguments))
        if mistake.wrong is not None:
            return not compare(got, mistake.wrong(*arguments, **case.keywords), tolerance)
    except Exception:  # a wrong result may be of any type or shape: then it is not this mistake
        return False
    return False


def raised(error: Exception, answer: Any) -> str:
    """What went wrong in a student's code: the exception's type, its message, and the line of their own function."""
    file = getattr(getattr(inspect.unwrap(answer), "__code__", None), "co_filename", None)
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename == file] or [
        frame for frame in frames if frame.filename != __file__
    ]
    text = " ".join(str(error).split()) or "no message"
    text = text if len(text) <= 160 else text[:157] + "..."
    if not own:
        return f"raised {type(error).__name__}: {text}"
    line = linecache.getline(own[-1].filename, own[-1].lineno or 0).strip()
    return f"raised {type(error).__name__}: {text}; line {own[-1].lineno}" + (f": {line}" if line else "")


def compare(got: Any, expected: Any, tolerance: float = TOLERANCE) -> str:
    """How `got` differs from `expected` in type, shape or value, as the end of a sentence; "" when it does not."""
    if isinstance(expected, Tensor | np.ndarray):
        return _compare_arrays(got, expected, tolerance)
    if isinstance(expected, bool | np.bool_):
        if not isinstance(got, bool | np.bool_):
            return f"it should give True or False, got {_kind(got)}"
        return "" if bool(got) == bool(expected) else f"got {bool(got)}, expected {bool(expected)}"
    if isinstance(expected, int | float | np.number):
        return _compare_numbers(got, expected, tolerance)
    if isinstance(expected, list | tuple):
        if not isinstance(got, list | tuple):
            return f"it should give a {type(expected).__name__} of {len(expected)}, got {_kind(got)}"
        if len(got) != len(expected):
            return f"it should give {len(expected)} values, got {len(got)}"
        parts = (compare(a, b, tolerance) for a, b in zip(got, expected, strict=True))
        return next((f"at position {i}: {text}" for i, text in enumerate(parts) if text), "")
    if isinstance(expected, Mapping):
        if not isinstance(got, Mapping):
            return f"it should give a dict, got {_kind(got)}"
        if set(got) != set(expected):
            return f"it should have the keys {sorted(map(str, expected))}, got {sorted(map(str, got))}"
        parts = (compare(got[key], expected[key], tolerance) for key in expected)
        return next((f"at {key!r}: {text}" for key, text in zip(expected, parts, strict=True) if text), "")
    if not isinstance(got, type(expected)):
        return f"it should give {_kind(expected)}, got {_kind(got)}"
    return "" if got == expected else f"got {_short(got)}, expected {_short(expected)}"


def _compare_arrays(got: Any, expected: Tensor | np.ndarray, tolerance: float) -> str:
    if not isinstance(got, Tensor if isinstance(expected, Tensor) else np.ndarray):
        return f"it should give {_kind(expected)}, got {_kind(got)}"
    if tuple(got.shape) != tuple(expected.shape):
        return f"shape {tuple(got.shape)}, expected {tuple(expected.shape)}"
    one, other = (torch.as_tensor(value).detach().cpu().double() for value in (got, expected))
    if not bool(torch.isfinite(one).all()) and bool(torch.isfinite(other).all()):
        return "it holds NaN or infinite numbers"
    if not one.numel():
        return ""
    worst = float((one - other).abs().max())
    scale = float(other.abs().max()) or 1.0
    return "" if worst <= tolerance * scale else f"the values are off by up to {worst:.3g}"


def _compare_numbers(got: Any, expected: Any, tolerance: float) -> str:
    if isinstance(got, Tensor | np.ndarray) and math.prod(got.shape) == 1:
        got = got.item()
    if isinstance(got, bool) or not isinstance(got, int | float | np.number):
        return f"it should give a number, got {_kind(got)}"
    one, other = float(got), float(expected)
    close = one == other or abs(one - other) <= tolerance * (abs(other) or 1.0)
    return "" if close else f"got {one:.6g}, expected {other:.6g}"


def _changed(now: Any, before: Any) -> bool:
    """Whether arrays, lists or dicts among the arguments hold something else than before."""
    if isinstance(before, list | tuple):
        return len(now) != len(before) or any(map(_changed, now, before))
    if isinstance(before, dict):
        return set(now) != set(before) or any(_changed(now[key], before[key]) for key in before)
    return isinstance(before, Tensor | np.ndarray) and bool(compare(now, before, 0.0))


def _kind(value: Any) -> str:
    if value is None or value is ...:
        return "nothing"
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape}"
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}" + (f" ({_short(value)})" if name != "function" else "")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
