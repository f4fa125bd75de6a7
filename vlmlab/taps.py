"""Taps: a model's intermediates by name, to look at or to replace while it runs. Notebook 13.

A tap is called as `tap(name, tensor)` at every named intermediate of a forward pass, and what it returns goes on in
the tensor's place. Every encoder and language model lists its names with `names()`, in the order they are computed.
"""

from collections.abc import Callable, Collection, Iterable
from typing import Any

from torch import Tensor

from vlmlab.errors import UnknownName

Tap = Callable[[str, Tensor], Tensor]
Record = dict[str, Any]


def tapped(tap: Tap | None, name: str, value: Tensor) -> Tensor:
    """What a tap makes of an intermediate; the value itself where there is none."""
    return value if tap is None else tap(name, value)


def prefixed(tap: Tap | None, prefix: str) -> Tap | None:
    """A part's tap that calls the whole's, with `prefix` before each name."""
    return None if tap is None else lambda name, value: tap(prefix + name, value)


def chained(*taps: Tap | None) -> Tap | None:
    """One tap that hands each intermediate from one to the next; None where there is none."""
    chain = [tap for tap in taps if tap is not None]
    if len(chain) < 2:
        return chain[0] if chain else None

    def through(name: str, value: Tensor) -> Tensor:
        for tap in chain:
            value = tap(name, value)
        return value

    return through


def recorder(record: Record | None, known: Collection[str], kind: str = "intermediate") -> Tap | None:
    """A tap that sets the values of `record`, whose keys are among `known`; None without one. Raises UnknownName."""
    if record is None:
        return None
    for name in record:
        if name not in known:
            raise UnknownName(kind, name, known)

    def tap(name: str, value: Tensor) -> Tensor:
        if name in record:
            record[name] = value
        return value

    return tap


def collector(names: Iterable[str], known: Collection[str]) -> tuple[list[str], dict[str, Tensor], Tap]:
    """The names wanted, each once; a dict that will hold them; the tap that fills it. Raises UnknownName."""
    wanted = list(dict.fromkeys(names))
    found: Record = dict.fromkeys(wanted)
    tap = recorder(found, known, "layer")
    assert tap is not None
    return wanted, found, tap
