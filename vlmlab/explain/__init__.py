"""Seeing inside a vision-language model: attention, states, attribution, interventions, probes. Notebooks 13 and 14."""

from vlmlab.explain.inside import Inside

__all__ = ["Inside"]
