"""One vision transformer for CLIP, SigLIP and DINOv2 (with or without registers). Notebook 01.

The three families differ in a few choices, which `ViTConfig.style` makes:

| | clip | siglip | dinov2 |
|---|---|---|---|
| prefix tokens | class | none | class, then registers |
| patch bias | no | yes | yes |
| norm before the blocks | yes | no | no |
| layer scale | no | no | yes |
| last hidden state | not normalised | normalised | normalised |
| pooled | norm(class) | attention pooling | norm(class) |

Sources: CLIP (Radford et al. 2021, section 2.4), SigLIP (Zhai et al. 2023), DINOv2 (Oquab et al. 2023), registers
(Darcet et al. 2024). The numbers agree with transformers' CLIPVisionModel, SiglipVisionModel, Dinov2Model and
Dinov2WithRegistersModel.
"""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlmlab.errors import BadInput, UnknownName
from vlmlab.taps import Tap, collector, tapped
from vlmlab.vision.blocks import BLOCK_PARTS, AttentionPool, Block, PatchEmbed
from vlmlab.vision.config import ViTConfig
from vlmlab.vision.images import check_pixels

WHOLE = ("q", "k", "v", "attn", "pooled", "patch_embed")  # intermediates that hold no prefix to drop, or need it


class ViT(nn.Module):
    """A vision transformer with features of any layer by index or name.

    Names, in the order they are computed (see `names()`): "patch_embed" (before positions), "embed" (what enters
    the first block), for each block i "blocks.i.norm1", ".q", ".k", ".v", ".attn" (attention weights), ".attn_out"
    (added to the residual stream), ".mid" (the stream between), ".norm2", ".hidden" (inside the MLP), ".mlp" (added
    to the stream) and "blocks.i" (the block's output), then "norm", "pool.attn" (SigLIP) and "pooled".

    Without a `generator`, weights are drawn from PyTorch's global one. Dropout is not built: none of the families'
    published encoders uses it.
    """

    def __init__(self, config: ViTConfig, generator: torch.Generator | None = None):
        super().__init__()
        c = self.config = config
        self.patch_embed = PatchEmbed(c.patch_size, c.dim, bias=c.style != "clip")
        self.cls_token = nn.Parameter(torch.zeros(c.dim)) if c.class_token else None
        self.registers = nn.Parameter(torch.zeros(c.registers, c.dim)) if c.registers else None
        self.pos_embed = nn.Parameter(torch.zeros(c.class_token + c.grid**2, c.dim))
        self.norm_pre = nn.LayerNorm(c.dim, eps=c.eps) if c.style == "clip" else None
        self.blocks = nn.ModuleList(
            Block(c.dim, c.heads, c.hidden, c.activation, c.eps, c.qkv_bias, c.layer_scale) for _ in range(c.layers)
        )
        self.norm = nn.LayerNorm(c.dim, eps=c.eps)
        self.pool = AttentionPool(c.dim, c.heads, c.hidden, c.activation, c.eps) if c.pool_head else None
        self._initialise(generator)

    @torch.no_grad()
    def _initialise(self, generator: torch.Generator | None) -> None:
        """Variance-preserving weights; layers that write into the residual stream are scaled by (2 layers)^-0.5."""
        for name, parameter in self.named_parameters():
            if parameter.is_meta:
                continue
            if name.endswith("bias"):
                parameter.zero_()
            elif name in ("cls_token", "registers", "pos_embed", "pool.probe"):
                nn.init.trunc_normal_(parameter, std=self.config.dim**-0.5, generator=generator)
            elif parameter.ndim == 2:
                into_stream = name.startswith("blocks.") and name.endswith(("proj.weight", "fc2.weight"))
                scale = (2 * self.config.layers) ** -0.5 if into_stream else 1.0
                nn.init.trunc_normal_(parameter, std=scale * parameter.shape[1] ** -0.5, generator=generator)

    @property
    def dim(self) -> int:
        """Channels of every token, D."""
        return self.config.dim

    @property
    def patches(self) -> int:
        """Patch tokens P of an image of the native size."""
        return self.config.grid**2

    @property
    def prefix_tokens(self) -> int:
        """Tokens before the patches: the class token and the registers."""
        return self.config.prefix_tokens

    def names(self) -> list[str]:
        """Every name that `features`, `record` and a tap know."""
        blocks = [
            f"blocks.{i}{part}" for i in range(self.config.layers) for part in (*(f".{p}" for p in BLOCK_PARTS), "")
        ]
        pool = ["pool.attn", "pooled"] if self.pool is not None else ["pooled"] * self.config.class_token
        return ["patch_embed", "embed", *blocks, "norm", *pool]

    def forward(self, pixel_values: Tensor, tap: Tap | None = None) -> Tensor:
        """Images (B, 3, H, W), preprocessed floats, to the last hidden state (B, T, D), prefix tokens first.

        As transformers' last_hidden_state: normalised for SigLIP and DINOv2, not for CLIP. `tap(name, tensor)` is
        called at every named intermediate of the run and returns what takes its place. Raises BadInput for images
        of a wrong shape or dtype, smaller than a patch, or not finite.
        """
        x = self._stream(pixel_values, self.config.layers, tap)
        return x if self.config.style == "clip" else tapped(tap, "norm", self.norm(x))

    def hidden_states(self, pixel_values: Tensor, tap: Tap | None = None) -> list[Tensor]:
        """All layers + 1 hidden states (B, T, D), prefix included: what enters block 0, then each block's output."""
        states: list[Tensor] = []
        self._stream(pixel_values, self.config.layers, tap, states)
        return states

    def features(self, pixel_values: Tensor, layer: int | str = -2, tap: Tap | None = None) -> Tensor:
        """Patch tokens (B, P, D) of one layer, prefix tokens dropped.

        An integer counts as in transformers' hidden_states: 0 is what enters the first block, -1 the last block's
        output before any final norm, -2 the one before it, which LLaVA takes (section 4.1); blocks after it do not
        run. A string is one of `names()`; ".q", ".k", ".v" (B, H, T, d), ".attn" (B, H, T, T) keep the prefix, and
        "pooled" is (B, D). Raises BadInput or UnknownName when there is no such layer, or for bad images.
        """
        if isinstance(layer, str):
            if layer not in self.names():
                raise UnknownName("layer", layer, self.names())
            index = {"embed": 0, **{f"blocks.{i}": i + 1 for i in range(self.config.layers)}}.get(layer)
            if index is None:
                out = self.record(pixel_values, [layer])[layer]
                return out if layer.rpartition(".")[2] in WHOLE else out[:, self.prefix_tokens :]
        else:
            count = self.config.layers + 1
            if not -count <= layer < count:
                raise BadInput(f"layer={layer}: this encoder has hidden states {-count} to {count - 1}")
            index = layer % count
        return self._stream(pixel_values, index, tap)[:, self.prefix_tokens :]

    def record(self, pixel_values: Tensor, names: Iterable[str]) -> dict[str, Tensor]:
        """Run once and return the named intermediates, whole (prefix tokens included), in the graph for gradients."""
        wanted, found, tap = collector(names, self.names())
        x = self._stream(pixel_values, self.config.layers, tap)
        if any(name.startswith("pool") for name in wanted):
            self.pool_tokens(x, tap)
        elif "norm" in wanted:
            tap("norm", self.norm(x))
        return {name: found[name] for name in wanted}

    def pooled(self, pixel_values: Tensor, tap: Tap | None = None) -> Tensor:
        """One vector an image (B, D), transformers' pooler_output: see the table at the top of this module."""
        return self.pool_tokens(self._stream(pixel_values, self.config.layers, tap), tap)

    @classmethod
    def from_transformers(cls, model: nn.Module) -> "ViT":
        """A ViT with a copy of the weights of a transformers CLIP, SigLIP or DINOv2 vision model (or the whole model).

        Keeps dtype, device and training mode. Raises UnknownName for another architecture, BadInput for a
        configuration that this class does not cover.
        """
        from vlmlab.vision.convert import config_from_transformers, state_from_transformers, vision_part

        part = vision_part(model)
        with torch.device("meta"):
            vit = cls(config_from_transformers(part.config))
        vit.load_state_dict(state_from_transformers(part.state_dict()), assign=True)
        return vit.train(part.training)

    def pool_tokens(self, x: Tensor, tap: Tap | None = None) -> Tensor:
        """The pooled vectors (B, D) of the last block's output x (B, T, D), as `hidden_states` gives it."""
        if self.config.style == "siglip":
            if self.pool is None:
                raise BadInput("pooled: this SigLIP encoder has no pooling head; take features(x, -1).mean(1) instead")
            out = self.pool(tapped(tap, "norm", self.norm(x)), tap)
        else:
            out = tapped(tap, "norm", self.norm(x))[:, 0] if tap is not None else self.norm(x[:, 0])
        return tapped(tap, "pooled", out)

    def _stream(
        self, pixel_values: Tensor, index: int, tap: Tap | None = None, states: list[Tensor] | None = None
    ) -> Tensor:
        """Hidden state number `index` (B, T, D); all up to it are appended to `states`."""
        x = self._embed(pixel_values, tap)
        if states is not None:
            states.append(x)
        for i, block in enumerate(self.blocks[:index]):
            x = block(x, tap, f"blocks.{i}")
            if states is not None:
                states.append(x)
        return x

    def _embed(self, pixel_values: Tensor, tap: Tap | None) -> Tensor:
        x = check_pixels(pixel_values, self.config.patch_size)
        rows, columns = x.shape[2] // self.config.patch_size, x.shape[3] // self.config.patch_size
        x = tapped(tap, "patch_embed", self.patch_embed(x.to(self.patch_embed.proj.weight.dtype)))
        first = int(self.config.class_token)
        x = x + self._positions(self.pos_embed[first:], rows, columns)  # (B, P, D)
        if self.cls_token is not None:
            prefix = (self.cls_token + self.pos_embed[0])[None]
            if self.registers is not None:
                prefix = torch.cat([prefix, self.registers])
            x = torch.cat([prefix.to(x.dtype).expand(x.shape[0], -1, -1), x], dim=1)  # (B, T, D)
        if self.norm_pre is not None:
            x = self.norm_pre(x)
        return tapped(tap, "embed", x)

    def _positions(self, table: Tensor, rows: int, columns: int) -> Tensor:
        """The table of g x g position embeddings (P, D), resized (bicubic) for another grid of patches."""
        g = self.config.grid
        if (rows, columns) == (g, g):
            return table
        square = table.float().view(1, g, g, -1).permute(0, 3, 1, 2)  # (1, D, g, g)
        square = F.interpolate(square, (rows, columns), mode="bicubic", antialias=bool(self.config.antialias))
        return square.flatten(2)[0].T.to(table.dtype)
