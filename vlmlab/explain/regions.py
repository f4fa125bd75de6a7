"""Which image tokens show an object: the exact mask of a scene, brought to the grid of tokens. Notebooks 13 and 14."""

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vlmlab.errors import BadInput

SHARE = 0.2  # of a patch that an object fills where the patch counts as showing it, as in `word_map`


def coverage(mask: np.ndarray, objects: Sequence[int], tokens: int) -> Tensor:
    """The share of each patch that each of some objects fills, (objects, P) float64, patches row by row.

    mask: (S, S) as `Render.mask`. objects: indices into scene.objects. tokens: P, a square number.
    Raises BadInput for tokens that are not on a square grid.
    """
    side = math.isqrt(tokens)
    if side * side != tokens:
        raise BadInput(f"{tokens} tokens do not lie on a square grid, so no patch of the mask belongs to each")
    shown = torch.tensor(np.stack([mask == index + 1 for index in objects])).double()
    return F.adaptive_avg_pool2d(shown, side).flatten(1)
