"""MambaVision's blocks seen on the picture: hidden attention and step sizes of its scans beside attention. Notebook 13.

Levels 2 and 3 cut the map into windows. In the first blocks a selective scan goes through each window once, row by row
from its first token to its last: a token takes from those before it in that order (and, by the convolutions around it,
from its next neighbour), never from another window. The last blocks of a level are attention, which looks both ways.

The recorded delta is what the scan works with: softplus of dt_proj's output, in which its bias stands already, plus
that bias once more, as in the published model. A map made from dt_proj alone would show other numbers. There is no gate
as Mamba has one: the half of the channels that is not scanned stands beside y, and does not multiply it.

Source: Hatamizadeh and Kautz 2024 (arXiv 2407.08083), section 3.2; hidden attention: Ali et al. 2024 (2403.01590).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from vlmlab.errors import BadInput, UnknownName
from vlmlab.explain.hidden_attention import alpha_matrix
from vlmlab.explain.inside import Inside
from vlmlab.explain.states import CHANNELS, Scan, constants
from vlmlab.vision import MambaVision
from vlmlab.vision.mambavision_blocks import MambaMixer, from_windows, to_windows
from vlmlab.vision.mambavision_config import LEVELS

PARTS = ("u", "delta", "B", "C")


@dataclass(frozen=True)
class SeenBlock:
    """What a block of levels 2 or 3 did with one picture. L: the tokens of a window, `side` by `side`.

    name: "levels.2.blocks.0". grid: rows and columns of the level's map. scans: one a window, row by row; empty in an
    attention block. weights: attention's (windows, H, L, L); None in a scan block.
    """

    name: str
    side: int
    grid: tuple[int, int]
    scans: tuple[Scan, ...] = ()
    weights: Tensor | None = None

    @property
    def kind(self) -> str:
        """What mixes its tokens: "scan" or "attention"."""
        return "scan" if self.weights is None else "attention"


def seen_by(inside: Inside) -> list[SeenBlock]:
    """The blocks of a VLM's MambaVision, of the levels that it runs. Raises BadInput for another encoder or without
    an image."""
    encoder = inside.vlm.vision
    if not isinstance(encoder, MambaVision):
        raise BadInput(f"{inside.vlm.config.name} sees through another encoder than a MambaVision")
    if inside.pixels is None:
        raise BadInput("this question has no image, so nothing was seen")
    last = max(layer % LEVELS for layer in inside.vlm.config.feature_layers)
    found = inside.run(f"vision.{name}" for name in _names(encoder, last))
    return _blocks(encoder, last, inside.pixels, {name.removeprefix("vision."): x for name, x in found.items()})


def seen(encoder: MambaVision, pixels: Tensor) -> list[SeenBlock]:
    """The blocks of a MambaVision that sees one preprocessed picture (1, 3, H, W). Raises BadInput for several."""
    if len(pixels) != 1:
        raise BadInput(f"{len(pixels)} pictures; give one, (1, 3, H, W)")
    with torch.no_grad():
        return _blocks(encoder, LEVELS - 1, pixels, encoder.record(pixels, _names(encoder, LEVELS - 1)))


def mixing(block: SeenBlock, channels: str = "absolute") -> Tensor:
    """Who takes how much from whom, (windows, L, L): hidden attention, `channels` as in `alpha_matrix`, or attention's
    mean over heads. The sizes of the two do not compare: only the second has rows that sum to 1."""
    if block.weights is not None:
        return block.weights.mean(1)
    return torch.stack([alpha_matrix(scan, channels) for scan in block.scans])


def picture_matrix(block: SeenBlock, channels: str = "absolute") -> Tensor:
    """`mixing` between the places of the level's map, row by row: (P, P), 0 between windows. What tokens of padding
    give and take, at the edge of a map that windows do not divide, is left out."""
    rows, columns = block.grid
    numbers = torch.arange(1, rows * columns + 1).view(1, 1, rows, columns)
    places = to_windows(numbers, block.side)[..., 0] - 1  # (windows, L), -1 at padding
    windows = mixing(block, channels)
    found = windows.new_zeros(rows * columns, rows * columns)
    for window, place in zip(windows, places.to(windows.device), strict=True):
        real = place >= 0
        found[place[real][:, None], place[real]] = window[real][:, real]
    return found


def place_map(block: SeenBlock, row: int, column: int, channels: str = "absolute") -> Tensor:
    """What one place of the level's map takes from each: (rows, columns). Raises BadInput for a place outside."""
    rows, columns = block.grid
    if not (0 <= row < rows and 0 <= column < columns):
        raise BadInput(f"row {row}, column {column}: the map of {block.name} has {rows} rows and {columns} columns")
    return picture_matrix(block, channels)[row * columns + column].view(rows, columns)


def delta_on_picture(block: SeenBlock, channels: str = "mean") -> Tensor:
    """The step size delta at each place of the level's map, its "mean" or "max" over channels: (rows, columns).

    Raises BadInput for an attention block, UnknownName.
    """
    if channels not in CHANNELS:
        raise UnknownName("summary of channels", channels, CHANNELS)
    if not block.scans:
        raise BadInput(f"{block.name} is an attention block and has no delta")
    return on_picture(block, torch.stack([CHANNELS[channels](scan.delta) for scan in block.scans]))


def on_picture(block: SeenBlock, values: Tensor) -> Tensor:
    """Values of the windows' tokens (windows, L) as a map of the level (rows, columns), padding cropped."""
    return from_windows(values[..., None], block.side, 1, *block.grid)[0, 0]


def _names(encoder: MambaVision, last: int) -> list[str]:
    """The intermediates of levels 2 to `last` that `_blocks` needs."""
    wanted = tuple(f".{part}" for part in (*PARTS, "attn"))
    levels = tuple(f"levels.{level}." for level in range(2, last + 1))
    return [name for name in encoder.names() if name.startswith(levels) and name.endswith(wanted)]


def _blocks(encoder: MambaVision, last: int, pixels: Tensor, found: Mapping[str, Tensor]) -> list[SeenBlock]:
    height, width = (encoder.config.sides(size) for size in pixels.shape[2:])
    blocks = []
    for level in range(2, last + 1):
        side, grid = encoder.config.windows[level - 2], (height[level], width[level])
        for number, block in enumerate(encoder.get_submodule(f"levels.{level}.blocks").children()):
            name, mixer = f"levels.{level}.blocks.{number}", block.mixer
            if not isinstance(mixer, MambaMixer):
                blocks.append(SeenBlock(name, side, grid, weights=found[f"{name}.attn"]))
                continue
            parts = [found[f"{name}.{part}"] for part in PARTS]  # (windows, L, ...) each
            scans = (dict(zip(PARTS, window, strict=True)) for window in zip(*parts, strict=True))
            blocks.append(SeenBlock(name, side, grid, tuple(Scan(**each, **constants(mixer)) for each in scans)))
    return blocks
