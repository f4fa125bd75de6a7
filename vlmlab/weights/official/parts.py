"""What the loaders of whole VLMs share. Notebook 16."""

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from vlmlab.vlm.presets import VLMConfig
from vlmlab.weights.assembling import Plan, Source

Vision = str | os.PathLike | Mapping[str, str | os.PathLike] | None
"""Where vision weights lie that a checkpoint leaves out: one path, or by encoder "dinov2" and "siglip"."""


class Opened(NamedTuple):
    """A VLM in files, not read yet. head: the stored name (in the first source) of an output layer that must equal the
    embeddings, None when there is none."""

    config: VLMConfig
    sources: tuple[Source, ...]
    head: str | None = None


def by_prefix(plans: Mapping[str, Plan]) -> Plan:
    """The plan of the first prefix that a name has."""

    def plan(name: str) -> Any:
        return next((each(name) for prefix, each in plans.items() if name.startswith(prefix)), None)

    return plan
