"""Shipped weights: found by name, checked against data/manifest.json before they are read. Notebook 00.

Loaders for official checkpoints belong to this room too.
"""

from vlmlab.weights.shipped import load, load_contrastive, manifest, ship, shipped, verify

__all__ = ["load", "load_contrastive", "manifest", "ship", "shipped", "verify"]
