"""Figures for all notebooks: arrays in, matplotlib figures out, in one accessible style. Notebook 00.

Every function returns a figure; `show(fig, alt)` displays it with a text that states the finding. No model is imported.
"""

from vlmlab.figures.base import BLUE, COLOURS, GREEN, GREY, ORANGE, PINK, SKY, VERMILION, YELLOW, figure_html, png, show
from vlmlab.figures.curves import bars, losses
from vlmlab.figures.matrices import heatmaps, matrix, position_similarity
from vlmlab.figures.pictures import overlay, patch_grid, patches, pictures
from vlmlab.figures.tables import show_table, table_html
from vlmlab.figures.tokens import blocks, token_strip

__all__ = [
    "BLUE", "COLOURS", "GREEN", "GREY", "ORANGE", "PINK", "SKY", "VERMILION", "YELLOW",
    "bars", "blocks", "figure_html", "heatmaps", "losses", "matrix", "overlay", "patch_grid", "patches", "pictures",
    "png", "position_similarity", "show", "show_table", "table_html", "token_strip",
]  # fmt: skip
