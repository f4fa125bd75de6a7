"""Widgets: controllers without a browser, thin views on ipywidgets and anywidget. Notebook 15.

`Probe` is the spatial probe itself; `vlmlab.widgets.probe_view.SpatialProbe` shows one in a notebook.
"""

from vlmlab.widgets.probe import Probe
from vlmlab.widgets.state_player import StatePlayer
from vlmlab.widgets.token_map import TokenMap

__all__ = ["Probe", "StatePlayer", "TokenMap"]
