"""A question whose answer hangs on some patches by known amounts, without any model: what attribution must find."""

from dataclasses import dataclass
from types import SimpleNamespace

import torch
from torch import Tensor

from vlmlab.explain.inside import Inside
from vlmlab.vision.images import Preprocess

SIDE = 16  # pixels


@dataclass(frozen=True)
class Reader(Inside):
    """f = -0.5 - the sum of `losses` (P,) over the patches whose pixels are not the original's."""

    losses: Tensor = None

    def scores(self, pixels=None, tokens=None, batch=16):
        assert tokens is None
        assert len(pixels) <= batch
        rows, columns = self.grid
        changed = (pixels != self.pixels).any(1)
        changed = changed.view(-1, rows, SIDE // rows, columns, SIDE // columns).any(4).any(2)  # (N, rows, columns)
        return -0.5 - changed.flatten(1).to(self.losses) @ self.losses


def reader(losses, grid=(4, 4), seed: int = 0) -> Reader:
    pixels = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    vlm = SimpleNamespace(preprocess=Preprocess(SIDE), config=SimpleNamespace(name="reader"))
    P = grid[0] * grid[1]
    ids = torch.arange(P + 3)[None]
    losses = torch.as_tensor(losses, dtype=torch.float64)
    return Reader(vlm, None, "?", "!", ids, pixels, slice(1, P + 1), grid, slice(P + 2, P + 3), losses)
