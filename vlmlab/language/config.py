"""The sizes of a Llama or a Mamba, given by hand or read from a transformers configuration. Notebooks 02, 08."""

from dataclasses import dataclass
from typing import Any

from vlmlab.errors import BadInput


@dataclass(frozen=True)
class LlamaConfig:
    """Sizes of a Llama: `dim` = D, `hidden` the width inside SwiGLU, `kv_heads` divides `heads` (GQA)."""

    vocab_size: int
    dim: int
    layers: int
    heads: int
    kv_heads: int
    hidden: int
    head_dim: int | None = None  # None: dim // heads
    rope_theta: float = 10000.0
    eps: float = 1e-5
    tie_embeddings: bool = True
    max_positions: int = 2048
    attention_bias: bool = False
    mlp_bias: bool = False

    def __post_init__(self) -> None:
        if min(self.vocab_size, self.dim, self.layers, self.heads, self.kv_heads, self.hidden, self.max_positions) < 1:
            raise BadInput(f"every size of a LlamaConfig must be at least 1: {self}")
        if self.heads % self.kv_heads:
            raise BadInput(f"heads={self.heads} is not a multiple of kv_heads={self.kv_heads}; choose a divisor")
        if self.head_dim is None and self.dim % self.heads:
            raise BadInput(f"dim={self.dim} is not a multiple of heads={self.heads}; change one or set head_dim")
        if self.width % 2:
            raise BadInput(f"head_dim={self.width} is odd; rotary positions turn pairs of channels, use an even number")

    @property
    def width(self) -> int:
        """Channels of one head, d."""
        return self.head_dim or self.dim // self.heads

    @classmethod
    def from_transformers(cls, config: Any) -> "LlamaConfig":
        """Read a transformers LlamaConfig. Raises BadInput for what this Llama does not compute."""
        if getattr(config, "model_type", None) != "llama":
            raise BadInput(f"expected a Llama, got model_type {getattr(config, 'model_type', None)!r}")
        rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
        kind = rope.get("rope_type", rope.get("type", "default"))
        if kind != "default" or rope.get("partial_rotary_factor", 1.0) != 1.0:
            raise BadInput(
                f"rope scaling {kind!r} ({rope}) is not supported, only 'default'; load a model without rope scaling"
            )
        if config.hidden_act not in ("silu", "swish"):
            raise BadInput(f"hidden_act {config.hidden_act!r} is not supported; Llama's SwiGLU uses 'silu'")
        return cls(
            vocab_size=config.vocab_size,
            dim=config.hidden_size,
            layers=config.num_hidden_layers,
            heads=config.num_attention_heads,
            kv_heads=config.num_key_value_heads,
            hidden=config.intermediate_size,
            head_dim=getattr(config, "head_dim", None),
            rope_theta=float(rope.get("rope_theta", getattr(config, "rope_theta", 10000.0))),
            eps=config.rms_norm_eps,
            tie_embeddings=bool(config.tie_word_embeddings),
            max_positions=config.max_position_embeddings,
            attention_bias=bool(config.attention_bias),
            mlp_bias=bool(getattr(config, "mlp_bias", False)),
        )


@dataclass(frozen=True)
class MambaConfig:
    """Sizes of a Mamba: `dim` = D, `state` = N numbers of state a channel, `conv` taps, `expand` * D inner channels.

    dt_rank: rank of the projection that makes delta; None is dim / 16, rounded up.
    """

    vocab_size: int
    dim: int
    layers: int
    state: int = 16
    conv: int = 4
    expand: int = 2
    dt_rank: int | None = None
    eps: float = 1e-5
    tie_embeddings: bool = True

    def __post_init__(self) -> None:
        if min(self.vocab_size, self.dim, self.layers, self.state, self.expand, self.rank) < 1 or self.conv < 2:
            raise BadInput(f"every size of a MambaConfig must be at least 1, and conv at least 2: {self}")

    @property
    def inner(self) -> int:
        """Channels of the state-space layer."""
        return self.expand * self.dim

    @property
    def rank(self) -> int:
        """Rank of delta's projection."""
        return -(-self.dim // 16) if self.dt_rank is None else self.dt_rank

    @classmethod
    def from_transformers(cls, config: Any) -> "MambaConfig":
        """Read a transformers MambaConfig. Raises BadInput for what this Mamba does not compute."""
        if getattr(config, "model_type", None) != "mamba":
            raise BadInput(f"expected a Mamba, got model_type {getattr(config, 'model_type', None)!r}")
        if config.use_bias or not config.use_conv_bias or config.hidden_act not in ("silu", "swish"):
            raise BadInput(
                "only Mamba's published form is supported: use_bias=False, use_conv_bias=True, hidden_act='silu'"
            )
        return cls(
            vocab_size=config.vocab_size,
            dim=config.hidden_size,
            layers=config.num_hidden_layers,
            state=config.state_size,
            conv=config.conv_kernel,
            expand=config.intermediate_size // config.hidden_size,
            dt_rank=int(config.time_step_rank),
            eps=config.layer_norm_epsilon,
            tie_embeddings=bool(config.tie_word_embeddings),
        )
