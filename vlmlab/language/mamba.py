"""Mamba: a selective state-space language model in one file. Notebooks 07 and 08.

A block is x + mixer(norm(x)). The mixer widens the stream to `inner` channels, lets each look at its last few tokens
(a causal convolution) and then at everything before through the selective scan, whose step size delta, input B and
output C it computes from the token itself; a gate and a projection lead back. What the model remembers of the past is
the scan's state and the convolution's last inputs, the same number of values however long the past is.

Parameters carry the names of transformers' Mamba without its leading `backbone.`. Source: Gu and Dao 2023 (arXiv
2312.00752), section 3.4 and figure 3.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlmlab.errors import BadInput
from vlmlab.language.config import MambaConfig
from vlmlab.language.forking import Fork
from vlmlab.language.inputs import begin, look_up
from vlmlab.language.linear import Linear, compiled, linear
from vlmlab.scan import selective_scan
from vlmlab.taps import Record, Tap, chained, prefixed, recorder, tapped

PARTS = (".z", ".u", ".B", ".C", ".delta", ".y", ".mixer", "")


class MambaCache:
    """The past of a Mamba: per layer the convolution's last inputs (B, conv, inner) and the state (B, inner, N).

    `length` counts the tokens read, padding included; the size does not depend on it.
    """

    def __init__(self, layers: int):
        self.length = 0
        self.inputs: list[Tensor | None] = [None] * layers
        self.states: list[Tensor | None] = [None] * layers

    def __len__(self) -> int:
        return self.length

    @property
    def batch(self) -> int | None:
        """Rows in the cache; None while it is empty."""
        return None if self.states[0] is None else self.states[0].shape[0]

    def bytes(self) -> int:
        """Bytes that inputs and states take."""
        return sum(x.numel() * x.element_size() for x in (*self.inputs, *self.states) if x is not None)

    def select(self, rows: Tensor | Sequence[int]) -> "MambaCache":
        """A new cache that holds the given rows, in that order; a row may occur more than once. Gradients flow."""
        new = MambaCache(len(self.states))
        new.length = self.length
        for mine, theirs in ((self.inputs, new.inputs), (self.states, new.states)):
            for index, value in enumerate(mine):
                if value is not None:
                    theirs[index] = value[torch.as_tensor(rows, dtype=torch.long, device=value.device)]
        return new

    def repeat(self, count: int) -> "MambaCache":
        """A new cache with each row `count` times in a row: one shared prefix, `count` continuations."""
        if self.batch is None:
            raise BadInput("an empty cache cannot be repeated; run the shared prefix with cache=cache first")
        return self.select([row for row in range(self.batch) for _ in range(count)])


class Mixer(nn.Module):
    """The state-space layer of a block: (B, L, D) -> (B, L, D)."""

    def __init__(self, config: MambaConfig):
        super().__init__()
        self.state, self.rank, self.taps = config.state, config.rank, config.conv
        self.in_proj = Linear(config.dim, 2 * config.inner, bias=False)
        self.conv1d = nn.Conv1d(config.inner, config.inner, config.conv, groups=config.inner)
        self.x_proj = Linear(config.inner, config.rank + 2 * config.state, bias=False)
        self.dt_proj = Linear(config.rank, config.inner)
        self.A_log = nn.Parameter(torch.empty(config.inner, config.state))
        self.D = nn.Parameter(torch.empty(config.inner))
        self.out_proj = Linear(config.inner, config.dim, bias=False)

    def forward(
        self,
        x: Tensor,
        real: Tensor | None = None,
        cache: MambaCache | None = None,
        layer: int = 0,
        tap: Tap | None = None,
        fork: Fork | None = None,
    ) -> Tensor:
        """x (B, L, D); real (B, L, 1) 0 at padding, which then leaves inputs and state as they are; fork: the plan of
        rows with several continuations, then without padding and cache."""
        tap = prefixed(tap, f"layers.{layer}.")
        if cache is not None and cache.length and x.shape[1] == 1 and real is tap is None and compiled(x, self.D):
            return self._token(x, cache, layer)
        u, z = self.in_proj(x).chunk(2, -1)  # (B, L, inner) each
        z = tapped(tap, "z", z)
        if real is not None:
            u = u * real
        inputs = None
        if fork is None:
            u, inputs = self.convolve(u, None if cache is None else cache.inputs[layer], real)
        else:
            u = self.combine(fork.before(u, self.taps))
        u = tapped(tap, "u", u)
        low, B, C = self.x_proj(u).split((self.rank, self.state, self.state), -1)
        B, C = tapped(tap, "B", B), tapped(tap, "C", C)
        # in float32 also under autocast, as upstream keeps delta and A
        delta = F.softplus(_wide(linear(low, self.dt_proj.weight)) + _wide(self.dt_proj.bias))  # (B, L, inner)
        if real is not None:
            delta = delta * real  # a step of length 0: decay 1, nothing added
        delta = tapped(tap, "delta", delta)
        A = -_wide(self.A_log).exp()
        state = None if cache is None else cache.states[layer]
        if fork is not None:
            y = fork.scan(u, delta, A, B, C, self.D)
        elif x.shape[1] == 1 and not torch.is_grad_enabled():
            y, state = self.step(u, delta, A, B, C, state)
        else:
            y, state = selective_scan(
                u.transpose(1, 2), delta.transpose(1, 2), A, B.transpose(1, 2), C.transpose(1, 2), self.D,
                initial_state=state, return_last_state=True,
            )  # fmt: skip
            y = y.transpose(1, 2)
        if cache is not None:
            cache.inputs[layer], cache.states[layer] = inputs, state
        return self.out_proj(tapped(tap, "y", y) * F.silu(z))

    def convolve(self, u: Tensor, past: Tensor | None, real: Tensor | None) -> tuple[Tensor, Tensor]:
        """silu of the causal convolution of u (B, L, inner), and the last `taps` real inputs (B, taps, inner)."""
        before = u.new_zeros(u.shape[0], self.taps, u.shape[2]) if past is None else past.to(u.dtype)
        u = torch.cat((before, u), 1)
        length = u.shape[1] - self.taps
        out = self.combine([u[:, tap + 1 : tap + 1 + length] for tap in range(self.taps)])
        if real is None:
            return out, u[:, length:]
        last = real.sum(1).long() + torch.arange(self.taps, device=u.device)  # (B, taps)
        return out, u.gather(1, last[..., None].expand(-1, -1, u.shape[2]))

    def combine(self, inputs: Sequence[Tensor]) -> Tensor:
        """silu of the weighted sum of each token's last `taps` inputs, oldest first, (B, L, inner) each."""
        weight, bias = self.conv1d.weight[:, 0], self.conv1d.bias  # (inner, taps), (inner,)
        assert bias is not None
        out = bias
        for tap, u in enumerate(inputs):  # a few products, each over contiguous memory
            out = torch.addcmul(out, u, weight[:, tap])
        return F.silu(out)

    def _token(self, x: Tensor, cache: MambaCache, layer: int) -> Tensor:
        """`forward` for the next token x (B, 1, D), in two compiled passes."""
        from vlmlab.scan import token

        past, state, bias = cache.inputs[layer], cache.states[layer], self.conv1d.bias
        assert past is not None
        assert state is not None
        assert bias is not None
        u, z = self.in_proj(x)[:, 0].chunk(2, -1)  # (B, inner) each
        u, cache.inputs[layer] = token.convolve(u, past, self.conv1d.weight[:, 0], bias)
        low, B, C = self.x_proj(u).split((self.rank, self.state, self.state), -1)
        delta = linear(low, self.dt_proj.weight)
        y, cache.states[layer] = token.step(u, delta, self.dt_proj.bias, self.A_log, B, C, self.D, z, state)
        return self.out_proj(y)[:, None]

    def step(
        self, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """One token of the scan, (B, 1, inner), written out."""
        drive = (delta * u)[:, 0, :, None] * B[:, 0, None]  # (B, inner, N)
        state = drive if state is None else torch.addcmul(drive, torch.exp(delta[:, 0, :, None] * A), state)
        y = torch.einsum("bdn,bn->bd", state, C[:, 0].to(state.dtype)) + self.D * u[:, 0]
        return y[:, None].to(u.dtype), state


class Block(nn.Module):
    """x + mixer(norm(x)), x in float32."""

    def __init__(self, config: MambaConfig):
        super().__init__()
        self.norm = nn.RMSNorm(config.dim, eps=config.eps)
        self.mixer = Mixer(config)

    def forward(
        self,
        x: Tensor,
        real: Tensor | None = None,
        cache: MambaCache | None = None,
        layer: int = 0,
        tap: Tap | None = None,
        fork: Fork | None = None,
    ) -> Tensor:
        mixed = self.mixer(self.norm(x.to(self.norm.weight.dtype)), real, cache, layer, tap, fork)
        return tapped(tap, f"layers.{layer}", _wide(x) + tapped(tap, f"layers.{layer}.mixer", mixed))


class Mamba(nn.Module):
    """A Mamba language model; calling it with ids (B, L) gives logits (B, L, V).

    `generator` seeds the initial weights: those of upstream's code for delta (bias such that softplus gives 0.001 to
    0.1), A (-1 .. -N) and D (1); other matrices normal with deviation 1 / sqrt(fan-in), the one that writes to the
    residual stream scaled down by sqrt(layers).
    """

    def __init__(self, config: MambaConfig, generator: torch.Generator | None = None):
        super().__init__()
        self.config = config
        self.embeddings = nn.Embedding(config.vocab_size, config.dim)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm_f = nn.RMSNorm(config.dim, eps=config.eps)
        self.lm_head = None if config.tie_embeddings else Linear(config.dim, config.vocab_size, bias=False)
        if not self.embeddings.weight.is_meta:
            self._initialise(generator)

    @torch.no_grad()
    def _initialise(self, generator: torch.Generator | None) -> None:
        c = self.config
        for name, weight in self.named_parameters():
            if name.endswith("A_log"):
                weight.copy_(torch.arange(1, c.state + 1, dtype=torch.float32).log().expand_as(weight))
            elif name.endswith(".D"):
                weight.fill_(1.0)
            elif name.endswith("dt_proj.bias"):
                low, high = math.log(1e-3), math.log(1e-1)
                delta = torch.exp(low + (high - low) * torch.rand(weight.shape, generator=generator)).clamp(min=1e-4)
                weight.copy_(delta + torch.log(-torch.expm1(-delta)))  # softplus gives delta back
            elif name.endswith("dt_proj.weight"):
                weight.uniform_(-(c.rank**-0.5), c.rank**-0.5, generator=generator)
            elif name.endswith("bias"):
                weight.zero_()
            elif weight.dim() >= 2:
                fan_in = c.conv if name.endswith("conv1d.weight") else weight.shape[1]
                deviation = 0.1 if name.startswith("embed") else fan_in**-0.5
                weight.normal_(0.0, deviation / (c.layers**0.5 if "out_proj" in name else 1), generator=generator)

    def names(self) -> list[str]:
        """Names that a tap or `record` of `hidden` knows: what each layer's scan works with and gives (y, before the
        gate), the mixer's output, and the residual stream after each layer."""
        return ["embed", *(f"layers.{i}{part}" for i in range(self.config.layers) for part in PARTS), "norm"]

    def embed(self, input_ids: Tensor) -> Tensor:
        """Token embeddings (B, L, D) of ids (B, L). Raises BadInput for an id outside the vocabulary."""
        return look_up(self.embeddings, input_ids)

    def head(self, hidden: Tensor) -> Tensor:
        """Logits (..., V) of final hidden states (..., D)."""
        return linear(hidden, self.embeddings.weight) if self.lm_head is None else self.lm_head(hidden)

    def new_cache(self) -> MambaCache:
        """An empty cache for this model."""
        return MambaCache(self.config.layers)

    def hidden(
        self,
        input_ids: Tensor | None = None,
        *,
        inputs_embeds: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: MambaCache | None = None,
        record: Record | None = None,
        segments: Tensor | None = None,
        tap: Tap | None = None,
    ) -> Tensor:
        """Hidden states (B, L, D) after the final norm.

        input_ids (B, L) or inputs_embeds (B, L, D). attention_mask (B, L) of 1 (token) and 0 (padding, anywhere), or
        (B, T) with the past, of which only the last L columns count: padding changes neither state nor result of any
        token (upstream lets it). position_ids are accepted and unused: a recurrence has no positions.
        cache: continues from it and leaves the new state in it; with gradients on, they flow into the past.
        segments: (B, L), 0 for a prefix at the row's beginning, k for the k-th of several continuations that each see
        the prefix and not one another, -1 for padding at the end; without mask, positions, cache, record, tap. The
        prefix is read once, and every continuation goes on from the state that it left.
        record: a dict whose keys are among `names()`; its values are set to those tensors, gradients attached.
        tap: called at each of `names()`, see `vlmlab.taps`; record takes what it returns.
        Raises BadInput for shapes that do not fit, UnknownName for record's keys.
        """
        tap = chained(tap, recorder(record, self.names()))
        x = begin(self, input_ids, inputs_embeds, cache, segments, (attention_mask, position_ids, tap))
        fork = None if segments is None else Fork(segments)
        x, real, back = _tokens_first(x, attention_mask)
        x = tapped(tap, "embed", x)
        for layer, block in enumerate(self.layers):
            x = block(x, real, cache, layer, tap, fork)
        if cache is not None:
            cache.length += x.shape[1]
        x = self.norm_f(x.to(self.norm_f.weight.dtype))
        x = tapped(tap, "norm", x)
        return x if back is None else x.gather(1, back[..., None].expand_as(x))

    def forward(self, input_ids: Tensor | None = None, **options: Any) -> Tensor:
        """Logits (B, L, V); arguments as in `hidden`."""
        return self.head(self.hidden(input_ids, **options))

    @classmethod
    def from_transformers(cls, model: Any) -> "Mamba":
        """Copy a transformers MambaForCausalLM. Raises BadInput for what this Mamba does not compute."""
        config = MambaConfig.from_transformers(model.config)
        state = {name.removeprefix("backbone."): tensor for name, tensor in model.state_dict().items()}
        if "lm_head.weight" not in state or config.tie_embeddings:
            config = replace(config, tie_embeddings=True)
            state.pop("lm_head.weight", None)
        with torch.device("meta"):
            new = cls(config)
        new.load_state_dict({name: tensor.detach().clone() for name, tensor in state.items()}, assign=True)
        return new.requires_grad_(True).train(model.training)


def _tokens_first(x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Rows with their padding moved to the end, what is real (B, L, 1), and where each token went (None: nowhere).

    A recurrence goes on from the past without a gap, so padding may only follow the tokens.
    """
    B, L, _ = x.shape
    if mask is None:
        return x, None, None
    if mask.dim() != 2 or mask.shape[0] != B or mask.shape[1] < L:
        raise BadInput(f"attention_mask is {tuple(mask.shape)}; expected {(B, L)}: a recurrence can hide only padding")
    mask = mask[:, mask.shape[1] - L :].to(device=x.device, dtype=torch.bool)
    if bool(mask.all()):
        return x, None, None
    order = (~mask).int().argsort(dim=1, stable=True)  # tokens in their order, then padding
    real = mask.gather(1, order)[..., None].to(x.dtype)
    if bool((mask[:, 1:] <= mask[:, :-1]).all()):
        return x * real, real, None
    return x.gather(1, order[..., None].expand_as(x)) * real, real, order.argsort(1)


def _wide(x: Tensor) -> Tensor:
    """At least float32."""
    return x if x.dtype == torch.float64 else x.float()
