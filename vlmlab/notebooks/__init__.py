"""Notebooks from source to report: build, strict runner, results.json, HTML. Serves every notebook.

`vlmlab.notebooks.run(["02"])` is `vlmlab run 02`. Modules: source (text and parameters), process (one notebook's
process, watched), worker (what runs in it), strict (what makes a run fail), tidy (what is committed), runner, page.
"""

from vlmlab.notebooks.process import Budget, lab_environment
from vlmlab.notebooks.runner import Outcome, Suite, run
from vlmlab.notebooks.source import Source, available, find, notebooks_dir, parameters, read

__all__ = [
    "Budget",
    "Outcome",
    "Source",
    "Suite",
    "available",
    "find",
    "lab_environment",
    "notebooks_dir",
    "parameters",
    "read",
    "run",
]
