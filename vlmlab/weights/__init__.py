"""Shipped weights: found by name, checked against data/manifest.json before they are read. Notebook 00.

Loaders for official checkpoints, which a user brings, are in this room too.
"""

from vlmlab.weights.official import load_mambavision
from vlmlab.weights.shipped import load, load_contrastive, load_encoder, manifest, ship, shipped, verify

__all__ = ["load", "load_contrastive", "load_encoder", "load_mambavision", "manifest", "ship", "shipped", "verify"]
