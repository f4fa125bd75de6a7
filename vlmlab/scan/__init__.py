"""The selective scan of Mamba: one entry point, several implementations that agree. Notebook 07."""

from vlmlab.scan.interface import backends, selective_scan

__all__ = ["backends", "selective_scan"]
