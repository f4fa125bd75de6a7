"""The shape of a MambaVision, the published variants, one for this suite, and their cost. Notebook 10.

Source: Hatamizadeh and Kautz 2024 (arXiv 2407.08083), section 3 and its tables.
"""

from dataclasses import dataclass, replace

from vlmlab.errors import BadInput, UnknownName

LEVELS = 4
STATE, TAPS, MLP_RATIO = 8, 3, 4  # the mixer's numbers of state a channel and its convolutions' width; the MLP's ratio


@dataclass(frozen=True)
class MambaVisionConfig:
    """The shape of a `MambaVision`.

    width: channels of level 0 (the paper's dim); level i has 2^i as many. stem_width: channels between the stem's two
    convolutions (in_dim), stem_strides: the strides of these. depths: blocks of the four levels. heads, windows: of
    levels 2 and 3, the windows in tokens a side. layer_scale: its initial value, None for none. num_classes: outputs of
    the head, 0 for no head. image_size: the native one in pixels.
    Raises BadInput when the parts do not fit together.
    """

    width: int
    stem_width: int
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    windows: tuple[int, ...] = (14, 7)
    layer_scale: float | None = None
    num_classes: int = 1000
    image_size: int = 224
    stem_strides: tuple[int, ...] = (2, 2)
    prefix_tokens = 0
    layers = LEVELS - 1  # as a ViT of so many layers would, levels answer to the numbers -4 to 3

    def __post_init__(self) -> None:
        for name, count in (("depths", LEVELS), ("heads", 2), ("windows", 2), ("stem_strides", 2)):
            values = tuple(getattr(self, name))  # JSON gives lists
            object.__setattr__(self, name, values)
            if len(values) != count or min(values) < (0 if name == "depths" else 1):
                raise BadInput(f"MambaVisionConfig: {name}={values} must be {count} whole numbers, at least 1")
        if min(self.width, self.stem_width, self.image_size) < 1 or self.num_classes < 0:
            raise BadInput(f"MambaVisionConfig: every size must be at least 1, and num_classes at least 0: {self}")
        for level in (2, 3):
            if self.channels(level) % self.heads[level - 2]:
                raise BadInput(
                    f"MambaVisionConfig: level {level} has {self.channels(level)} channels, "
                    f"which {self.heads[level - 2]} heads do not divide"
                )

    def channels(self, level: int) -> int:
        """Channels of a level's map."""
        return self.width * 2**level

    def rank(self, level: int) -> int:
        """Rank of the projection that makes delta: a sixteenth of all channels, though half of them are scanned."""
        return -(-self.channels(level) // 16)

    def attends(self, level: int, block: int) -> bool:
        """Whether a block of levels 2 or 3 mixes by attention: the last half does, of an odd depth the smaller half."""
        return block >= (self.depths[level] + 1) // 2

    def sides(self, size: int) -> list[int]:
        """Rows (or columns) of the four maps of a picture with `size` pixels a side."""
        for stride in self.stem_strides:
            size = halved(size, stride)
        found = [size]
        for _ in range(LEVELS - 1):
            found.append(halved(found[-1]))
        return found

    @property
    def encoders(self) -> "tuple[MambaVisionConfig, ...]":
        """The encoders that this is made of: itself (see `fused.FusedConfig`)."""
        return (self,)


VARIANTS: dict[str, MambaVisionConfig] = {
    "T": MambaVisionConfig(80, 32, (1, 3, 8, 4), (8, 16)),
    "T2": MambaVisionConfig(80, 32, (1, 3, 11, 4), (8, 16)),
    "S": MambaVisionConfig(96, 64, (3, 3, 7, 5), (8, 16)),
    "B": MambaVisionConfig(128, 64, (3, 3, 10, 5), (8, 16), layer_scale=1e-5),
    "L": MambaVisionConfig(196, 64, (3, 3, 10, 5), (16, 32), layer_scale=1e-5),
    "L2": MambaVisionConfig(196, 64, (3, 3, 12, 5), (16, 32), layer_scale=1e-5),
    "L3": MambaVisionConfig(256, 64, (3, 3, 20, 10), (16, 32), (16, 8), layer_scale=1e-5, image_size=256),
    "tiny": MambaVisionConfig(32, 16, (1, 3, 8, 1), (4, 8), (8, 4), image_size=96, stem_strides=(3, 1)),
}
"""The paper's variants, and "tiny", which this suite trains on pictures of 96 px.

"tiny" has T's blocks in levels 0 to 2, at 0.4 of its width, and one block in level 3, which would otherwise hold most
of the weights though a VLM that reads level 2 never runs it. Without a head it has 2,764,880 parameters (llava-tiny's
ViT 2,765,568) and a training step takes as long; 1,803,600 of them make the tokens of level 2.

Its stem goes down by 3 instead of 4. With 4, the maps of a 96 px picture have 24, 12, 6 and 3 places a side: 36 tokens
in level 2. With 3 they have 32, 16, 8 and 4, and level 2 has the 8 x 8 tokens of 12 px that the other tiny encoders
cut: comparing encoders then changes neither the places nor the number of tokens, nor what the language model costs.
(A stem that goes down by 2 gives 144 tokens, and more than doubles the encoder's cost.) The first convolution takes the
whole stride, 3 x 3 pixels each read once. Level 2 has 128 channels, as the DINOv2-style and SigLIP-style ViTs have.
"""


def variant_config(variant: str, num_classes: int = 1000, image_size: int | None = None) -> MambaVisionConfig:
    """The configuration of a variant, with `num_classes` outputs (0: no head), for its or another native size.

    image_size: with another one than the variant's, a window covers the whole map in level 2 and in level 3, as the
    paper's do at 224, 256 and 512 px. Raises UnknownName for a variant, BadInput for a size.
    """
    if variant not in VARIANTS:
        raise UnknownName("variant of MambaVision", variant, VARIANTS)
    config = replace(VARIANTS[variant], num_classes=num_classes)
    if image_size is None:
        return config
    if image_size < 1:
        raise BadInput(f"image_size={image_size} must be at least 1 pixel")
    return replace(config, image_size=image_size, windows=tuple(config.sides(image_size)[2:]))


def halved(size: int, stride: int = 2) -> int:
    """Outputs along a side of a 3 x 3 convolution with padding 1."""
    return (size - 1) // stride + 1


def multiply_adds(
    config: MambaVisionConfig, height: int | None = None, width: int | None = None, level: int | None = None
) -> dict[str, int]:
    """Multiply-adds of one picture by part: "stem", "levels.0", "downsample.0", ..., "levels.3", "attention", "scan",
    "head".

    The levels hold the convolutions and the products with weights; "attention" the two products of queries, keys and
    values (full squares), "scan" three a step and number of state (decay, input, output), of both levels. Windows count
    with their padding; norms, activations and averages do not count. The column "GFLOPs" of the paper's tables is the
    sum without "attention" and "scan", to 1.5 % (0.3 % for all but T): counters that look at layers see neither.
    One multiply-add is two FLOPs.

    height, width: in pixels, by default the native size. level: the last one that runs, then without the head, as a
    VLM does.
    """
    height, width = height or config.image_size, width or config.image_size
    rows, columns = config.sides(height), config.sides(width)
    between = [halved(size, config.stem_strides[0]) for size in (height, width)]
    found = {"stem": 9 * config.stem_width * (3 * between[0] * between[1] + config.width * rows[0] * columns[0])}
    last = LEVELS - 1 if level is None else level
    attention = scan = 0
    for i in range(last + 1):
        c, blocks = config.channels(i), config.depths[i]
        if i < 2:
            found[f"levels.{i}"] = rows[i] * columns[i] * blocks * 2 * 9 * c * c
        else:
            side, inner = config.windows[i - 2], c // 2
            tokens = -(-rows[i] // side) * -(-columns[i] // side) * side * side
            attending = sum(config.attends(i, block) for block in range(blocks))
            mixer = 2 * c * c + TAPS * c + inner * (2 * config.rank(i) + 2 * STATE)
            weights = attending * 4 * c * c + (blocks - attending) * mixer + blocks * 2 * MLP_RATIO * c * c
            found[f"levels.{i}"] = tokens * weights
            attention += tokens * attending * 2 * side * side * c
            scan += tokens * (blocks - attending) * 3 * STATE * inner
        if i < last:
            found[f"downsample.{i}"] = rows[i + 1] * columns[i + 1] * 9 * c * 2 * c
    found |= {"attention": attention, "scan": scan}
    return found if level is not None else found | {"head": config.channels(last) * config.num_classes}
