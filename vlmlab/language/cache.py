"""The key-value cache: what attention has already computed about the tokens seen so far. Notebook 02.

Buffers grow by doubling, so that a decoding step copies one token and not the whole past.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from vlmlab.errors import BadInput

START = 128  # positions in the first buffer


class KVCache:
    """Keys and values of every layer, (B, K, length, d) each, K being the key-value heads and d their width.

    `length` counts the positions of the past, padding included. `padding` is None when all of them are real,
    else a boolean (B, n) that is False where one of the first n positions is padding; later ones are real.
    """

    def __init__(self, layers: int):
        self.length = 0
        self.padding: Tensor | None = None
        self._keys: list[Tensor | None] = [None] * layers
        self._values: list[Tensor | None] = [None] * layers

    def __len__(self) -> int:
        return self.length

    @property
    def batch(self) -> int | None:
        """Rows in the cache; None while it is empty."""
        return None if self._keys[0] is None else self._keys[0].shape[0]

    def layer(self, index: int) -> tuple[Tensor, Tensor]:
        """Keys and values of one layer, (B, K, length, d) each. Raises BadInput while the cache is empty."""
        keys, values = self._keys[index], self._values[index]
        if keys is None or values is None:
            raise BadInput("the cache is empty; run the model with cache=cache first")
        return keys[:, :, : self.length], values[:, :, : self.length]

    def update(self, index: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add new keys and values (B, K, L, d) of one layer; return all of them, (B, K, length + L, d).

        `length` itself moves in `advance`, once every layer has written.
        """
        end = self.length + keys.shape[2]
        if torch.is_grad_enabled() and (keys.requires_grad or values.requires_grad):
            # A buffer written in place would break the gradient: concatenate instead.
            if self.length:
                past_keys, past_values = self.layer(index)
                keys, values = torch.cat((past_keys, keys), 2), torch.cat((past_values, values), 2)
            self._keys[index], self._values[index] = keys, values
            return keys, values
        all_keys = self._keys[index] = _write(self._keys[index], keys, self.length, end)
        all_values = self._values[index] = _write(self._values[index], values, self.length, end)
        return all_keys[:, :, :end], all_values[:, :, :end]

    def advance(self, count: int) -> None:
        """Count `count` new positions as past."""
        self.length += count

    def bytes(self) -> int:
        """Bytes that the keys and values of the past take (spare room in the buffers not counted)."""
        total = 0
        for tensor in (*self._keys, *self._values):
            if tensor is not None:
                total += tensor.shape[0] * tensor.shape[1] * self.length * tensor.shape[3] * tensor.element_size()
        return total

    def select(self, rows: Tensor | Sequence[int]) -> "KVCache":
        """A new cache that holds the given rows, in that order; a row may occur more than once."""
        new = KVCache(len(self._keys))
        new.length = self.length
        for index, (keys, values) in enumerate(zip(self._keys, self._values, strict=True)):
            if keys is not None and values is not None:
                picked = torch.as_tensor(rows, dtype=torch.long, device=keys.device)
                new._keys[index] = keys[:, :, : self.length].index_select(0, picked)
                new._values[index] = values[:, :, : self.length].index_select(0, picked)
        if self.padding is not None:
            new.padding = self.padding[torch.as_tensor(rows, dtype=torch.long, device=self.padding.device)]
        return new

    def repeat(self, count: int) -> "KVCache":
        """A new cache with each row `count` times in a row: one shared prefix, `count` continuations."""
        if self.batch is None:
            raise BadInput("an empty cache cannot be repeated; run the shared prefix with cache=cache first")
        return self.select([row for row in range(self.batch) for _ in range(count)])

    def crop(self, length: int) -> None:
        """Forget everything after the first `length` positions."""
        if not 0 <= length <= self.length:
            raise BadInput(f"cannot crop a cache of {self.length} positions to {length}")
        self.length = length
        if self.padding is not None:
            self.padding = self.padding[:, :length]


def _write(buffer: Tensor | None, new: Tensor, start: int, end: int) -> Tensor:
    """Write `new` at positions start..end of the buffer; double the buffer first when it is full."""
    foreign = buffer is not None and buffer.is_inference() and not torch.is_inference_mode_enabled()
    if buffer is None or buffer.shape[2] < end or buffer.requires_grad or foreign:
        # Ordinary tensors even under inference_mode, so that the cache can be used outside it as well.
        with torch.inference_mode(False), torch.no_grad():
            room = max(START, 1 << (end - 1).bit_length())
            grown = torch.empty((*new.shape[:2], room, new.shape[3]), dtype=new.dtype, device=new.device)
            if buffer is not None and start:
                grown[:, :, :start] = buffer[:, :, :start].detach()
            buffer = grown
    buffer[:, :, start:end] = new
    return buffer
