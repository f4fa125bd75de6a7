"""Llama: RMSNorm, rotary positions, grouped-query attention and SwiGLU, in one file. Notebook 02.

Parameters carry the names of transformers' Llama without its leading `model.`, so that published weights and
LoRA recipes apply as they are. Sources: LLaMA (arXiv 2302.13971), RoPE (2104.09864), GQA (2305.13245).
"""

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlmlab.errors import BadInput
from vlmlab.language.cache import KVCache
from vlmlab.language.config import LlamaConfig
from vlmlab.language.inputs import begin, look_up
from vlmlab.language.linear import Linear, linear
from vlmlab.language.masks import causal, forked, see
from vlmlab.taps import Record, Tap, chained, prefixed, recorder, tapped


def rope_table(length: int, width: int, theta: float, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Cosines and signed sines (length, width), float32, of RoPE (arXiv 2104.09864, equation 34).

    Channel i and channel i + width / 2 form a pair that turns by position * theta ** (-2 i / width). The first
    half of the sines is negated, so that `rotate` only has to swap the halves.
    """
    frequency = 1.0 / theta ** (torch.arange(0, width, 2, dtype=torch.int64, device=device).float() / width)
    angle = torch.outer(torch.arange(length, device=device).float(), frequency)  # (length, width / 2)
    return torch.cat((angle.cos(), angle.cos()), -1), torch.cat((-angle.sin(), angle.sin()), -1)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the channel pairs of x (B, H, L, d) by the angles in cos, sin (L, d) or (B, 1, L, d)."""
    first, second = x.chunk(2, -1)
    return torch.addcmul(x * cos, torch.cat((second, first), -1), sin)


class Attention(nn.Module):
    """Causal grouped-query attention: every group of heads / kv_heads query heads shares one key-value head."""

    def __init__(self, config: LlamaConfig):
        super().__init__()
        self.heads, self.kv_heads, self.width = config.heads, config.kv_heads, config.width
        self.q_proj = Linear(config.dim, config.heads * config.width, bias=config.attention_bias)
        self.k_proj = Linear(config.dim, config.kv_heads * config.width, bias=config.attention_bias)
        self.v_proj = Linear(config.dim, config.kv_heads * config.width, bias=config.attention_bias)
        self.o_proj = Linear(config.heads * config.width, config.dim, bias=config.attention_bias)

    def forward(
        self,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        visible: Tensor | None,
        cache: KVCache | None,
        layer: int,
        tap: Tap | None,
    ) -> Tensor:
        B, L, _ = x.shape
        q = self.q_proj(x).view(B, L, self.heads, self.width).transpose(1, 2)  # (B, H, L, d)
        k = self.k_proj(x).view(B, L, self.kv_heads, self.width).transpose(1, 2)  # (B, K, L, d)
        v = self.v_proj(x).view(B, L, self.kv_heads, self.width).transpose(1, 2)  # (B, K, L, d)
        q, k = rotate(q, cos, sin).type_as(v), rotate(k, cos, sin).type_as(v)
        if cache is not None:
            k, v = cache.update(layer, k, v)  # (B, K, T, d)
        if _better_written_out(k) or tap is not None:
            y = explicit_attention(q, k, v, visible, prefixed(tap, f"layers.{layer}."))
        else:
            plain = visible is None and L > 1  # no cache, no padding: causality alone, without a mask tensor
            shared = self.kv_heads < self.heads
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=visible, is_causal=plain, enable_gqa=shared)
        return self.o_proj(y.transpose(1, 2).reshape(B, L, -1))


def explicit_attention(q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None, tap: Tap | None) -> Tensor:
    """The same attention (B, H, L, d) written out, with its scores and its weights (B, H, L, T) for a tap."""
    (B, H, L, d), (K, T) = q.shape, k.shape[1:3]
    scores = (q.reshape(B, K, H // K * L, d) @ k.transpose(-1, -2)).view(B, H, L, T)  # a group's heads in one product
    if visible is None:
        visible = causal(L, T, q.device)
    hidden = torch.zeros_like(visible, dtype=scores.dtype).masked_fill(~visible, float("-inf"))
    weights = tapped(tap, "scores", scores * d**-0.5 + hidden).softmax(-1).type_as(v)
    weights = tapped(tap, "attn", weights)
    return (weights.view(B, K, H // K * L, T) @ v).view(B, H, L, d)


def _better_written_out(k: Tensor) -> bool:
    """Training in bfloat16 on a CPU over up to 512 keys, where PyTorch's fused attention takes 1.5 times as long."""
    return k.dtype == torch.bfloat16 and k.device.type == "cpu" and k.shape[2] <= 512 and torch.is_grad_enabled()


class MLP(nn.Module):
    """SwiGLU (arXiv 2002.05202): down(silu(gate(x)) * up(x))."""

    def __init__(self, config: LlamaConfig):
        super().__init__()
        self.gate_proj = Linear(config.dim, config.hidden, bias=config.mlp_bias)
        self.up_proj = Linear(config.dim, config.hidden, bias=config.mlp_bias)
        self.down_proj = Linear(config.hidden, config.dim, bias=config.mlp_bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    """One decoder layer: x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: LlamaConfig):
        super().__init__()
        self.input_layernorm = nn.RMSNorm(config.dim, eps=config.eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = nn.RMSNorm(config.dim, eps=config.eps)
        self.mlp = MLP(config)

    def forward(
        self,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        visible: Tensor | None = None,
        cache: KVCache | None = None,
        layer: int = 0,
        tap: Tap | None = None,
    ) -> Tensor:
        attended = self.self_attn(self.input_layernorm(x), cos, sin, visible, cache, layer, tap)
        x = x + tapped(tap, f"layers.{layer}.attn_out", attended)
        fed = self.mlp(self.post_attention_layernorm(x))
        return tapped(tap, f"layers.{layer}", x + tapped(tap, f"layers.{layer}.mlp_out", fed))


class Llama(nn.Module):
    """A Llama language model; calling it with ids (B, L) gives logits (B, L, V).

    `generator` seeds the initial weights: normal, a matrix with deviation 1 / sqrt(fan-in), the two projections that
    write to the residual stream scaled down by sqrt(2 * layers) (GPT-2, section 2.3), so that depth does not blow it
    up. Embeddings have deviation 0.1: in a run with 0.02, a tied head and a rate of 1.5e-3, nouns ended with cosines
    around 0.8. This deviation together with a lower rate for the embeddings (0.3 of 2e-3) lowered the loss much
    sooner; the two were not varied one at a time.
    """

    def __init__(self, config: LlamaConfig, generator: torch.Generator | None = None):
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.dim)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.RMSNorm(config.dim, eps=config.eps)
        self.lm_head = None if config.tie_embeddings else Linear(config.dim, config.vocab_size, bias=False)
        self._tables: dict[tuple[torch.device, torch.dtype], tuple[Tensor, Tensor]] = {}
        with torch.no_grad():
            for name, weight in self.named_parameters():
                if name.endswith("bias"):
                    weight.zero_()
                elif weight.dim() == 2:
                    residual = name.endswith(("o_proj.weight", "down_proj.weight"))
                    deviation = 0.1 if name.startswith("embed") else weight.shape[1] ** -0.5
                    deviation /= (2 * config.layers) ** 0.5 if residual else 1
                    weight.normal_(0.0, deviation, generator=generator)

    @property
    def max_positions(self) -> int:
        """The longest sequence, in tokens, that the model takes."""
        return self.config.max_positions

    def names(self) -> list[str]:
        """Names that a tap or `record` of `hidden` knows: attention's scores (-inf where a query does not see a key),
        weights and output, the MLP's output, and the residual stream after each layer."""
        parts = (".scores", ".attn", ".attn_out", ".mlp_out", "")
        return ["embed", *(f"layers.{i}{part}" for i in range(self.config.layers) for part in parts), "norm"]

    def embed(self, input_ids: Tensor) -> Tensor:
        """Token embeddings (B, L, D) of ids (B, L). Raises BadInput for an id outside the vocabulary."""
        return look_up(self.embed_tokens, input_ids)

    def head(self, hidden: Tensor) -> Tensor:
        """Logits (..., V) of final hidden states (..., D)."""
        return linear(hidden, self.embed_tokens.weight) if self.lm_head is None else self.lm_head(hidden)

    def new_cache(self) -> KVCache:
        """An empty cache for this model."""
        return KVCache(self.config.layers)

    def hidden(
        self,
        input_ids: Tensor | None = None,
        *,
        inputs_embeds: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: KVCache | None = None,
        record: Record | None = None,
        segments: Tensor | None = None,
        tap: Tap | None = None,
    ) -> Tensor:
        """Hidden states (B, L, D) after the final norm.

        input_ids (B, L) or inputs_embeds (B, L, D); T = cached positions + L.
        attention_mask: (B, T) of 1 (token) and 0 (padding, left or right), or boolean (B, L, T), True where a
        query sees a key; either is combined with causality. A cache remembers the padding of its past, so that
        decoding steps need no mask. position_ids (B, L): by default the count of real tokens before each one (with
        a mask (B, L, T), which does not say what is padding: past, past + 1, ...).
        record: a dict whose keys are among `names()`; its values are set to those tensors, gradients attached.
        tap: called at each of `names()`, see `vlmlab.taps`; record takes what it returns.
        segments: (B, L), 0 for a prefix at the row's beginning, k for the k-th of several continuations that each see
        the prefix and not one another, -1 for padding at the end; without mask, positions, cache, record, tap.
        Raises BadInput for shapes that do not fit or more than max_positions, UnknownName for record's keys.
        """
        tap = chained(tap, recorder(record, self.names()))
        x = begin(self, input_ids, inputs_embeds, cache, segments, (attention_mask, position_ids, tap))
        x = tapped(tap, "embed", x)
        B, L, _ = x.shape
        past = 0 if cache is None else cache.length
        if segments is None:
            visible, positions = see(attention_mask, B, L, past, cache, x.device)
        else:
            visible, positions = forked(segments)
        if position_ids is not None and tuple(position_ids.shape) not in ((B, L), (1, L)):
            raise BadInput(f"position_ids is {tuple(position_ids.shape)}; expected {(B, L)}")
        cos, sin = self._angles(x, past, positions if position_ids is None else position_ids, position_ids is not None)
        for layer, block in enumerate(self.layers):
            x = block(x, cos, sin, visible, cache, layer, tap)
        if cache is not None:
            cache.advance(L)
        x = self.norm(x)
        return tapped(tap, "norm", x)

    def forward(self, input_ids: Tensor | None = None, **options: Any) -> Tensor:
        """Logits (B, L, V); arguments as in `hidden`."""
        return self.head(self.hidden(input_ids, **options))

    def _angles(self, x: Tensor, past: int, positions: Tensor | None, given: bool) -> tuple[Tensor, Tensor]:
        """Cosines and sines for positions (B, L), or for past .. past + L when positions is None."""
        L, limit = x.shape[1], self.config.max_positions
        key = (x.device, x.dtype)
        if key not in self._tables:
            # Ordinary tensors even under inference_mode: training may use the same table later.
            with torch.inference_mode(False), torch.no_grad():
                cos, sin = rope_table(limit, self.config.width, self.config.rope_theta, x.device)
                self._tables[key] = (cos.to(x.dtype), sin.to(x.dtype))
        cos, sin = self._tables[key]
        if positions is None:
            if past + L > limit:
                raise BadInput(f"{past + L} tokens, but the model has {limit} positions; shorten the input")
            return cos[past : past + L], sin[past : past + L]
        if (given or past + L > limit) and x.device.type != "meta" and positions.numel():
            low, high = (int(end) for end in positions.aminmax())
            if low < 0 or high >= limit:
                raise BadInput(f"positions {low} to {high}, but the model has 0 to {limit - 1}; shorten the input")
        return cos[positions].unsqueeze(1), sin[positions].unsqueeze(1)  # (B, 1, L, d)

    @classmethod
    def from_transformers(cls, model: Any, head: nn.Linear | None = None) -> "Llama":
        """Copy a transformers LlamaForCausalLM, or a LlamaModel with the output layer `head` beside it.

        A LlamaModel without `head` gets tied embeddings. Raises BadInput for what this Llama does not compute.
        """
        config = LlamaConfig.from_transformers(model.config)
        state = {name.removeprefix("model."): tensor for name, tensor in model.state_dict().items()}
        if head is not None:
            state["lm_head.weight"] = head.weight
        if "lm_head.weight" not in state or config.tie_embeddings:
            config = replace(config, tie_embeddings=True)
            state.pop("lm_head.weight", None)
        state = {name: tensor for name, tensor in state.items() if not name.endswith("inv_freq")}
        with torch.device("meta"):
            new = cls(config)
        copied = {name: tensor.detach().clone() for name, tensor in state.items()}
        new.load_state_dict(copied, assign=True)
        return new.requires_grad_(True).train(model.training)
