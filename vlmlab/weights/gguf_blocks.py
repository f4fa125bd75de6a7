"""Blocks of quantised weights as GGUF files hold them, decoded to float32. Notebook 03.

Weights lie in blocks along a row, 32 of them, or 256 in the K formats. With d a scale and m a minimum, both of 16 bits:

    Q4_0, Q5_0   d (q - 8), d (q - 16)      Q4_1, Q5_1   d q + m        Q8_0   d q, q a signed byte
    Q4_K         d s q - m t, with a scale s and a minimum t of 6 bits for each 32 weights
    Q6_K         d s (q - 32), with a signed byte s for each 16 weights

Q4 and Q5: byte i holds weight i in its lower half and weight i + 16 in its upper one; bit i of `h` is the fifth bit of
weight i. Format: ggml's `block_q4_0` and its siblings.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

BLOCK, LARGE = 32, 256  # weights


class Kind(NamedTuple):
    """A type of tensor: its name, one block's layout, the weights in a block, and its decoder (blocks) -> (blocks,
    size) float32."""

    name: str
    layout: np.dtype
    size: int
    decode: Callable[[np.ndarray], np.ndarray]


def _column(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float32)[:, None]


def _halves(q: np.ndarray) -> np.ndarray:
    """Bytes (..., n) as numbers of 4 bits (..., 2 n): the lower halves, then the upper ones."""
    return np.concatenate([q & 15, q >> 4], -1)


def _five(blocks: np.ndarray) -> np.ndarray:
    """Numbers of 5 bits (blocks, 32)."""
    fifth = (blocks["h"][:, None] >> np.arange(BLOCK, dtype=np.uint32)) & 1
    return _halves(blocks["q"]) | (fifth << 4).astype(np.uint8)


def _q4_0(blocks: np.ndarray) -> np.ndarray:
    return _column(blocks["d"]) * (_halves(blocks["q"]).astype(np.float32) - 8)


def _q4_1(blocks: np.ndarray) -> np.ndarray:
    return _column(blocks["d"]) * _halves(blocks["q"]) + _column(blocks["m"])


def _q5_0(blocks: np.ndarray) -> np.ndarray:
    return _column(blocks["d"]) * (_five(blocks).astype(np.float32) - 16)


def _q5_1(blocks: np.ndarray) -> np.ndarray:
    return _column(blocks["d"]) * _five(blocks) + _column(blocks["m"])


def _q8_0(blocks: np.ndarray) -> np.ndarray:
    return _column(blocks["d"]) * blocks["q"]


def _q4_k(blocks: np.ndarray) -> np.ndarray:
    """Eight groups of 32; 32 bytes hold two groups. Of the 12 bytes of scales, the first four hold s, the next four t,
    of groups 0 to 3 in their lower 6 bits; the last four hold the lower 4 bits of s and t of groups 4 to 7, whose
    upper 2 bits are the upper ones of the first eight bytes."""
    low, high, last = blocks["s"][:, :4], blocks["s"][:, 4:8], blocks["s"][:, 8:]
    scales = np.concatenate([low & 63, last & 15 | low >> 6 << 4], 1)
    minima = np.concatenate([high & 63, last >> 4 | high >> 6 << 4], 1)
    q = _halves(blocks["q"].reshape(-1, 4, 32)).reshape(-1, 8, 32)
    scaled = (_column(blocks["d"]) * scales)[:, :, None] * q
    return (scaled - (_column(blocks["m"]) * minima)[:, :, None]).reshape(-1, LARGE)


def _q6_k(blocks: np.ndarray) -> np.ndarray:
    """Two halves of 128, each of 64 bytes with the lower 4 bits and 32 with the upper 2: weight 32 k + i of a half has
    its lower bits in byte i + 32 (k mod 2), in its lower part for k below 2, and bits 2k, 2k + 1 of byte i."""
    lower = _halves(blocks["q"].reshape(-1, 2, 64))  # (blocks, 2, 128)
    upper = blocks["h"].reshape(-1, 2, 1, 32) >> np.arange(0, 8, 2, dtype=np.uint8)[:, None] & 3  # (blocks, 2, 4, 32)
    q = (lower.reshape(-1, 16, 16) | (upper << 4).reshape(-1, 16, 16)).astype(np.float32) - 32
    return ((_column(blocks["d"]) * blocks["s"])[:, :, None] * q).reshape(-1, LARGE)


def _bf16(values: np.ndarray) -> np.ndarray:
    return (values.astype(np.uint32) << 16).view(np.float32)[:, None]


_D, _M, _H = ("d", "<f2"), ("m", "<f2"), ("h", "<u4")
_NIBBLES = ("q", "u1", BLOCK // 2)
TYPES: dict[int, Kind] = {
    0: Kind("F32", np.dtype("<f4"), 1, _column),
    1: Kind("F16", np.dtype("<f2"), 1, _column),
    2: Kind("Q4_0", np.dtype([_D, _NIBBLES]), BLOCK, _q4_0),
    3: Kind("Q4_1", np.dtype([_D, _M, _NIBBLES]), BLOCK, _q4_1),
    6: Kind("Q5_0", np.dtype([_D, _H, _NIBBLES]), BLOCK, _q5_0),
    7: Kind("Q5_1", np.dtype([_D, _M, _H, _NIBBLES]), BLOCK, _q5_1),
    8: Kind("Q8_0", np.dtype([_D, ("q", "i1", BLOCK)]), BLOCK, _q8_0),
    12: Kind("Q4_K", np.dtype([_D, _M, ("s", "u1", 12), ("q", "u1", 128)]), LARGE, _q4_k),
    14: Kind("Q6_K", np.dtype([("q", "u1", 128), ("h", "u1", 64), ("s", "i1", 16), _D]), LARGE, _q6_k),
    30: Kind("BF16", np.dtype("<u2"), 1, _bf16),
}
"""Number in the file -> type."""


def dequantised(blocks: np.ndarray, kind: Kind) -> np.ndarray:
    """Blocks in the layout of `kind` to float32 weights (n,)."""
    return kind.decode(blocks).astype(np.float32, copy=False).ravel()
