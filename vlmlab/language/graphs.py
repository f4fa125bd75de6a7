"""Greedy decoding in buffers that stay where they are, so that a GPU replays it as a CUDA graph. Notebook 16.

A token of a small model takes less time to compute than a CPU takes to launch its hundreds of kernels. A CUDA graph is
launched at once, but always reads and writes the same addresses: one captured step holds the embedding, every block,
the logits and the argmax, and its caches have their final size from the start. On other devices the same step runs
without a graph.
"""

from typing import Any

import torch
from torch import Tensor

from vlmlab.errors import BadInput
from vlmlab.language.cache import KVCache
from vlmlab.language.llama import Llama, rope_table
from vlmlab.language.mamba import Mamba, MambaCache, Mixer
from vlmlab.scan import backends

WARM_UPS = 3  # steps before the capture: what is compiled or allocated once has to be by then
ALIGNED = 8  # positions: attention's kernels want rows of a mask to begin at multiples of it


class Decoder:
    """One greedy step of a model, for `batch` rows of up to `room` tokens, prompt included (a Mamba needs no room).

    `start(cache, steps)` takes over the cache that a prompt left; each call turns the last tokens (B,) into the next.
    Give it to `vlmlab.language.generate(..., decoder=...)`; it may serve any number of prompts, one after the other.
    The weights must stay where they are. Raises BadInput for another kind of model.
    """

    @torch.inference_mode()
    def __init__(self, model: Llama | Mamba, room: int = 0, batch: int = 1):
        if not isinstance(model, Llama | Mamba):
            raise BadInput(f"a Decoder takes a Llama or a Mamba, not a {type(model).__name__}")
        device = next(model.parameters()).device
        self.batch, self._graph = batch, None
        self._token = torch.zeros(batch, dtype=torch.long, device=device)
        self._past = _LlamaPast(model, room, batch) if isinstance(model, Llama) else _MambaPast(model, batch)
        if device.type == "cuda":
            self._graph = self._captured(device)

    def _captured(self, device: torch.device) -> torch.cuda.CUDAGraph:
        aside = torch.cuda.Stream(device)
        aside.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(aside):
            for _ in range(WARM_UPS):
                self._past.empty()  # the room may be smaller than so many steps
                self._step()
        torch.cuda.current_stream(device).wait_stream(aside)
        self._past.empty()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(device), torch.cuda.graph(graph):
            self._step()
        return graph

    def _step(self) -> None:
        self._token.copy_(self._past.next(self._token))

    @torch.inference_mode()
    def start(self, cache: Any, steps: int) -> None:
        """Go on from a cache, for at most `steps` calls. Raises BadInput when its rows or its length do not fit."""
        if cache.batch != self.batch:
            raise BadInput(f"the cache holds {cache.batch} rows, the decoder was made for {self.batch}; make another")
        self._past.take(cache, steps)

    @torch.inference_mode()
    def __call__(self, token: Tensor) -> Tensor:
        """The likeliest next ids (B,) after these (B,); the tensor returned is written again by the next call."""
        self._token.copy_(token)
        if self._graph is None:
            self._step()
        else:
            self._graph.replay()
        return self._token


class _LlamaPast:
    """Keys and values at their final size. Takes the cache's place in the model's blocks."""

    def __init__(self, model: Llama, room: int, batch: int):
        c, weight = model.config, model.embed_tokens.weight
        dtype, device = weight.dtype, weight.device
        if not 0 < room <= c.max_positions:
            raise BadInput(f"room={room}; the model takes 1 to {c.max_positions} tokens")
        self.model, self.room = model, room
        shape = (c.layers, batch, c.kv_heads, -(-room // ALIGNED) * ALIGNED, c.width)
        self.keys, self.values = (torch.zeros(shape, dtype=dtype, device=device) for _ in range(2))
        self.real = torch.zeros(batch, shape[3], dtype=torch.bool, device=device)  # which positions are seen
        self.at = torch.zeros(1, dtype=torch.long, device=device)  # where the next token goes
        self.position = torch.zeros(batch, dtype=torch.long, device=device)  # real tokens before it
        self.table = [x.to(dtype) for x in rope_table(room, c.width, c.rope_theta, device)]

    def empty(self) -> None:
        for x in (self.real, self.at, self.position):
            x.zero_()

    def take(self, cache: KVCache, steps: int) -> None:
        length = cache.length
        if length + steps > self.room:
            raise BadInput(f"{length} tokens and {steps} new ones, but the decoder has room for {self.room}")
        self.empty()
        for layer in range(len(self.keys)):
            self.keys[layer, :, :, :length], self.values[layer, :, :, :length] = cache.layer(layer)
        self.real[:, :length] = True
        if cache.padding is not None:
            self.real[:, : cache.padding.shape[1]] = cache.padding
        self.at.fill_(length)
        self.position.copy_(self.real.sum(1))

    def update(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """As `KVCache.update`, but all positions come back, those to come unseen."""
        self.keys[layer].index_copy_(2, self.at, keys)
        self.values[layer].index_copy_(2, self.at, values)
        return self.keys[layer], self.values[layer]

    def next(self, token: Tensor) -> Tensor:
        self.real.index_fill_(1, self.at, True)
        cos, sin = (x[self.position][:, None, None] for x in self.table)  # (B, 1, 1, d)
        x = self.model.embed(token[:, None])
        for layer, block in enumerate(self.model.layers):
            x = block(x, cos, sin, self.real[:, None, None], self, layer)
        self.at += 1
        self.position += 1
        return self.model.head(self.model.norm(x[:, -1])).argmax(-1)


class _MambaPast:
    """Windows and states at their places; with Triton on a GPU, through the kernels of `vlmlab.scan.gpu_token`."""

    def __init__(self, model: Mamba, batch: int):
        self.model, weight = model, model.embeddings.weight
        self.cache = model.new_cache()
        model.hidden(torch.zeros(batch, 1, dtype=torch.long, device=weight.device), cache=self.cache)
        self.buffers = [x.contiguous().clone() for x in _tensors(self.cache)]  # windows, then states
        there = weight.device.type == "cuda" or not torch.cuda.is_available()  # then only Triton's interpreter is
        self.fused = there and "triton" in backends() and weight.dtype != torch.float64
        self.empty()

    def empty(self) -> None:
        for x in self.buffers:
            x.zero_()

    def take(self, cache: MambaCache, steps: int) -> None:
        for mine, theirs in zip(self.buffers, _tensors(cache), strict=True):
            mine.copy_(theirs)

    def next(self, token: Tensor) -> Tensor:
        if self.fused:
            return self._fused(token)
        layers = len(self.model.layers)
        self.cache.inputs[:], self.cache.states[:] = self.buffers[:layers], self.buffers[layers:]
        hidden = self.model.hidden(token[:, None], cache=self.cache)
        for mine, new in zip(self.buffers, _tensors(self.cache), strict=True):
            mine.copy_(new)
        return self.model.head(hidden[:, -1]).argmax(-1)

    def _fused(self, token: Tensor) -> Tensor:
        from vlmlab.scan.gpu_token import normalise

        layers: Any = self.model.layers
        x, mixed = self.model.embed(token[:, None])[:, 0].float(), None  # (B, D), the residual stream
        for layer, block in enumerate(layers):
            normed = normalise(x, mixed, block.norm.weight, block.norm.eps)
            mixed = _mixed(block.mixer, normed, self.buffers[layer], self.buffers[len(layers) + layer])
        norm: Any = self.model.norm_f
        return self.model.head(normalise(x, mixed, norm.weight, norm.eps)).argmax(-1)


def _mixed(mixer: Mixer, x: Tensor, window: Tensor, state: Tensor) -> Tensor:
    """The mixer's output (B, D) for the next token, its window and state moved on in place."""
    from vlmlab.scan.gpu_token import convolve, step

    bias = mixer.conv1d.bias
    assert bias is not None
    uz = mixer.in_proj(x)  # (B, 2 inner)
    u = convolve(uz, window, mixer.conv1d.weight, bias)
    low = mixer.x_proj(u)  # (B, R + 2 N)
    dt = mixer.dt_proj
    return mixer.out_proj(step(uz, u, low, dt.weight, dt.bias, mixer.A_log, mixer.D, state))


def _tensors(cache: MambaCache) -> list[Tensor]:
    return [x for x in (*cache.inputs, *cache.states) if x is not None]
