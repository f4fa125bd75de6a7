"""Checks of the exercises: whether an answer is right, and if not, which mistake it looks like. Notebook 00.

One module a notebook: `from vlmlab.checks import nb00 as check`, then `check.left_of(left_of)`.
"""

from vlmlab.checks.base import Case, Mistake, Verdict, run_check

__all__ = ["Case", "Mistake", "Verdict", "run_check"]
