"""Errors a reader can act on: what went wrong, where, and what to do about it.

Every error that vlmlab raises on purpose is a `VlmlabError`. The command line prints it on one line and
exits with status 2; a notebook shows it as an ordinary exception.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class VlmlabError(Exception):
    """Base of all errors that tell the reader what to do."""


class BadInput(VlmlabError):
    """An argument, prompt or record that cannot be used as it is."""


class BadImage(BadInput):
    """A file or array that is not a usable image."""


class UnknownName(BadInput):
    """A model, notebook, recipe, parameter or relation that does not exist."""

    def __init__(self, what: str, name: object, known: Iterable[str]):
        known = [str(item) for item in known]
        near = get_close_matches(str(name), known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "known: " + ", ".join(known)
        super().__init__(f"unknown {what} {name!r}; {hint}")


class BadCheckpoint(VlmlabError):
    """A weights file that is damaged, incomplete, or not what the manifest says."""


class MissingDependency(VlmlabError):
    """An optional package that the requested function needs."""

    def __init__(self, package: str, purpose: str, install: str | None = None):
        super().__init__(
            f"{purpose} needs the package {package!r}; install it with: {install or 'pip install ' + package}"
        )


class TrainingDiverged(VlmlabError):
    """A loss or gradient that is not a finite number."""
