"""Shipped weights: found by name, checked against data/manifest.json before they are read. Notebook 00.

Loaders for official checkpoints, which a user brings, are in this room too.
"""

from vlmlab.weights.official import (
    check_official,
    load_language,
    load_mambavision,
    load_official,
    load_vision,
    official_config,
)
from vlmlab.weights.shipped import load, load_contrastive, load_encoder, manifest, ship, shipped, verify

__all__ = [
    "check_official",
    "load",
    "load_contrastive",
    "load_encoder",
    "load_language",
    "load_mambavision",
    "load_official",
    "load_vision",
    "manifest",
    "official_config",
    "ship",
    "shipped",
    "verify",
]
