"""MambaVision: convolutions where the map is large, Mamba and attention inside windows where it is small. Notebook 10.

    picture -> stem -> level 0 -> down -> level 1 -> down -> level 2 -> down -> level 3 -> norm, average -> head
    (B, 3, H, W)  /4 (B, c, ...)    /8 (B, 2c, ...)   /16 (B, 4c, ...)   /32 (B, 8c, ...)          (B, 8c)

Levels 0 and 1 are residual convolutions. Levels 2 and 3 cut the map into windows and run pre-norm blocks inside each:
first those whose mixer is a selective scan, then those whose mixer is attention.

Written from the paper (Hatamizadeh and Kautz 2024, arXiv 2407.08083) and from the shapes and names of its published
weights, which are under CC BY-NC-SA and not shipped; `vlmlab.weights.load_mambavision` reads a user's own copy.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any, overload

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlmlab.errors import BadInput
from vlmlab.taps import Tap, collector, tapped
from vlmlab.vision.blocks import Attention
from vlmlab.vision.images import check_pixels
from vlmlab.vision.mambavision_blocks import (
    EPS,
    ConvBlock,
    MambaMixer,
    Stem,
    WindowBlock,
    batch_norm,
    convolution,
    from_windows,
    to_windows,
)
from vlmlab.vision.mambavision_config import LEVELS, STATE, MambaVisionConfig, variant_config

MIXER_PARTS, ATTENTION_PARTS = ("u", "z", "B", "C", "delta", "y"), ("q", "k", "v", "attn")


class Level(nn.Module):
    """The blocks of a level and the convolution to the next: a map (B, C, H, W) to the map before that convolution."""

    def __init__(self, config: MambaVisionConfig, level: int):
        super().__init__()
        dim, self.window = config.channels(level), config.windows[level - 2] if level >= 2 else None
        blocks: list[nn.Module] = []
        for block in range(config.depths[level]):
            if level < 2:
                blocks.append(ConvBlock(dim))
                continue
            attends = config.attends(level, block)
            mixer = Attention(dim, config.heads[level - 2]) if attends else MambaMixer(dim, config.rank(level))
            blocks.append(WindowBlock(dim, mixer, config.layer_scale))
        self.blocks = nn.ModuleList(blocks)
        self.downsample = None
        if level < LEVELS - 1:
            reduction = nn.Sequential(convolution(dim, 2 * dim, stride=2))
            self.downsample = nn.Sequential(OrderedDict(reduction=reduction))  # under the published names

    def forward(self, x: Tensor, tap: Tap | None = None, name: str = "") -> Tensor:
        batch, _, height, width = x.shape
        if self.window is not None:
            x = to_windows(x, self.window)  # (B * windows, L, C)
        for i, block in enumerate(self.blocks):
            x = block(x, tap, f"{name}.blocks.{i}")
        if self.window is not None:
            x = from_windows(x, self.window, batch, height, width)
        return tapped(tap, name, x)


class MambaVision(nn.Module):
    """A MambaVision encoder; calling it with pictures (B, 3, H, W) of any size gives logits (B, num_classes).

    Without a head (num_classes=0) it gives the averaged features (B, 8c). Names of intermediates, in the order they are
    computed (see `names()`): "stem"; for each block "levels.i.blocks.j", in levels 2 and 3 after its ".norm1", what the
    mixer works with (".u", ".z", ".B", ".C", ".delta", ".y" or ".q", ".k", ".v", ".attn"), ".mixer" (added to the
    stream), ".mid", ".norm2", ".hidden" and ".mlp" (added); "levels.i", the map; "norm" and "pooled". What lies inside
    the blocks of levels 2 and 3 is of windows: (B * windows, L, C), attention's weights (B * windows, H, L, L).

    Weights carry the published names, and are drawn from `generator` (PyTorch's global one when None): linear layers
    normal with deviation 0.02, convolutions as PyTorch draws them. Stochastic depth is not built.
    """

    prefix_tokens = 0

    def __init__(self, config: MambaVisionConfig, generator: torch.Generator | None = None):
        super().__init__()
        self.config = config
        self.patch_embed = Stem(config)
        self.levels = nn.ModuleList(Level(config, level) for level in range(LEVELS))
        self.norm = nn.BatchNorm2d(self.pooled_dim, eps=EPS)
        self.head = nn.Linear(self.pooled_dim, config.num_classes) if config.num_classes else None
        if not self.norm.weight.is_meta:
            self._initialise(generator)

    @classmethod
    def from_variant(
        cls,
        variant: str,
        num_classes: int = 1000,
        image_size: int | None = None,
        generator: torch.Generator | None = None,
    ) -> "MambaVision":
        """A variant of the paper ("T", "T2", "S", "B", "L", "L2", "L3") or "tiny", with random weights.

        num_classes: outputs of the head, 0 for no head. image_size: a native size other than the variant's, with
        windows as large as the maps are then. Raises UnknownName or BadInput.
        """
        return cls(variant_config(variant, num_classes, image_size), generator)

    @torch.no_grad()
    def _initialise(self, generator: torch.Generator | None) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                # Mamba's own start for delta's bias (a softplus of 0.001 to 0.1) is overwritten here, as in the
                # published model: delta starts near softplus(0) = 0.69 everywhere.
                nn.init.trunc_normal_(module.weight, std=0.02, generator=generator)
                if module.bias is not None:
                    module.bias.zero_()
            elif isinstance(module, nn.Conv1d | nn.Conv2d):  # PyTorch's rule
                bound = module.weight[0].numel() ** -0.5
                for parameter in module.parameters(recurse=False):
                    parameter.uniform_(-bound, bound, generator=generator)
            elif isinstance(module, MambaMixer):
                module.A_log.copy_(torch.arange(1, STATE + 1, dtype=torch.float32).log().expand_as(module.A_log))
                module.D.fill_(1.0)

    def train(self, mode: bool = True) -> "MambaVision":
        """Set the mode; a BatchNorm whose weights are frozen stays in evaluation mode (see `batch_norm`)."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d) and not module.weight.requires_grad:
                module.eval()
        return self

    @property
    def pooled_dim(self) -> int:
        """Channels of the last level, 8c."""
        return self.config.channels(LEVELS - 1)

    def names(self) -> list[str]:
        """Every name that `record` and a tap know."""
        found = ["stem"]
        levels: Any = self.levels
        for i, level in enumerate(levels):
            for j, block in enumerate(level.blocks):
                name = f"levels.{i}.blocks.{j}"
                if isinstance(block, WindowBlock):
                    mixer = ATTENTION_PARTS if isinstance(block.mixer, Attention) else MIXER_PARTS
                    parts = ("norm1", *mixer, "mixer", "mid", "norm2", "hidden", "mlp")
                    found += [f"{name}.{part}" for part in parts]
                found.append(name)
            found.append(f"levels.{i}")
        return [*found, "norm", "pooled"]

    def forward(self, pixel_values: Tensor, tap: Tap | None = None) -> Tensor:
        """Logits (B, num_classes) of pictures (B, 3, H, W), preprocessed floats; without a head, `pooled`.

        `tap(name, tensor)` is called at every named intermediate and returns what takes its place. Raises BadInput for
        pictures of a wrong shape or dtype, or not finite.
        """
        x = self.pooled(pixel_values, tap)
        return x if self.head is None else self.head(x)

    @overload
    def features(self, pixel_values: Tensor, layer: None = None, tap: Tap | None = None) -> list[Tensor]: ...
    @overload
    def features(self, pixel_values: Tensor, layer: int | Sequence[int], tap: Tap | None = None) -> Tensor: ...
    def features(
        self, pixel_values: Tensor, layer: int | Sequence[int] | None = None, tap: Tap | None = None
    ) -> list[Tensor] | Tensor:
        """The maps (B, C, H, W) of the four levels, or the tokens (B, P, D) of one, row by row, as a ViT gives them.

        Both are taken before the convolution to the next level, whose output has another size and twice the channels,
        and before the final norm. layer: 0 to 3, or counted from the end, -2 for level 2; later levels do not run. Of
        several levels the channels are joined: P is that of the first, and each of its places takes the token of the
        others that lies over it. tap: see `forward`. Raises BadInput for a level that is not there or bad pictures.
        """
        if layer is None:
            return self._maps(pixel_values, LEVELS - 1, tap)
        layers = (layer,) if isinstance(layer, int) else tuple(layer)
        for wanted in layers:
            if not -LEVELS <= wanted < LEVELS:
                raise BadInput(f"layer={wanted}: this encoder has levels {-LEVELS} to {LEVELS - 1}")
        maps = self._maps(pixel_values, max(wanted % LEVELS for wanted in layers), tap)
        first, *others = (maps[wanted % LEVELS] for wanted in layers)
        joined = torch.cat([first, *(F.interpolate(x, first.shape[2:], mode="nearest-exact") for x in others)], 1)
        return joined.flatten(2).transpose(1, 2)

    def hidden_states(self, pixel_values: Tensor) -> list[Tensor]:
        """The tokens (B, P, D) of all four levels, each with its own P and D."""
        return [x.flatten(2).transpose(1, 2) for x in self._maps(pixel_values, LEVELS - 1)]

    def record(self, pixel_values: Tensor, names: Iterable[str]) -> dict[str, Tensor]:
        """Run once and return the named intermediates, in the graph for gradients. Raises UnknownName."""
        wanted, found, tap = collector(names, self.names())
        self.pooled(pixel_values, tap)
        return {name: found[name] for name in wanted}

    def pooled(self, pixel_values: Tensor, tap: Tap | None = None) -> Tensor:
        """One vector a picture (B, 8c): the last map, normalised and averaged over its places."""
        x = tapped(tap, "norm", batch_norm(self.norm, self._maps(pixel_values, LEVELS - 1, tap)[-1]))
        return tapped(tap, "pooled", x.mean((2, 3)))

    def pool_tokens(self, tokens: Tensor) -> Tensor:
        """The pooled vectors (B, 8c) of the last level's tokens (B, P, 8c), as `hidden_states` gives them."""
        return batch_norm(self.norm, tokens.transpose(1, 2)[..., None]).mean((2, 3))

    def _maps(self, pixel_values: Tensor, last: int, tap: Tap | None = None) -> list[Tensor]:
        """The maps of levels 0 to `last`, each before the convolution to the next."""
        # Channels last in memory: convolutions run faster so, and the tokens of a window that covers the map are rows.
        x = check_pixels(pixel_values).to(self.norm.weight.dtype, memory_format=torch.channels_last)
        x = tapped(tap, "stem", self.patch_embed(x))
        maps: list[Tensor] = []
        levels: Any = self.levels[: last + 1]
        for i, level in enumerate(levels):
            x = level(x, tap, f"levels.{i}")
            maps.append(x)
            if i < last:
                x = level.downsample(x)
        return maps
