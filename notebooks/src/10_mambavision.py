# %% [markdown]
# # 10 · MambaVision: convolution, scan, attention
#
# *MambaVision: A Hybrid Mamba-Transformer Vision Backbone* (Hatamizadeh and Kautz 2024,
# [arXiv 2407.08083](https://arxiv.org/abs/2407.08083)). *Mamba: Linear-Time Sequence Modeling with Selective State
# Spaces* (Gu and Dao 2023, [arXiv 2312.00752](https://arxiv.org/abs/2312.00752)).
#
# A ViT cuts a picture into patches once and lets all of them attend to each other in every layer. MambaVision goes down
# in four levels and changes its tool on the way: convolutions while the map is large, then a Mamba mixer, then
# attention. This chapter builds each part, puts them together, looks at what each level knows beside a ViT, and re-runs
# the paper's ablation in small. Chapter 11 puts the encoder into Cobra.
#
# The published weights are under a licence for non-commercial use and are not shipped;
# `vlmlab.weights.load_mambavision` reads your own copy. All weights here were trained by this suite, or are random.
#
# **After this chapter you can**
#
# - say what a convolution, a scan and attention cost on a map, and what each of them can see;
# - build the stem, the residual block, windows with padding, and the mixer with both branches;
# - show what a scan in one direction cannot see, and what attention in the last blocks changes;
# - count all published variants to the digit, and reproduce the paper's column of GFLOPs;
# - take features from the right place, and measure what they know;
# - run an ablation with several seeds, and say whether its differences exceed the noise.
#
# **Time** under a minute of computing on 2 CPU cores, 1.1 GB of memory; 90 to 120 minutes of reading and exercises.
# Nothing here needs a GPU. With `profile = "full"` the ablation of section 8 is larger and takes hours on a CPU.
#
# | symbol | meaning | shape |
# |---|---|---|
# | $C$ | channels of a map, doubled from level to level | |
# | $L$ | tokens of a window, places of a map | |
# | $u$, $z$ | the half of the channels that is scanned, the half that is not | (L, C / 2) each |
# | $\Delta$, $B$, $C_t$ | step size, input and output of the state, from each token | (L, C / 2), (L, N), (L, N) |
# | $A$, $D$ | decay of the state, direct path, learnt | (C / 2, N), (C / 2) |
# | $y$ | what the scan gives | (L, C / 2) |

# %% tags=["parameters"]
profile = "quick"  # "quick" or "full" (a longer ablation in section 8)
seed = 13  # of the picture and of random weights
device = "cpu"  # "auto", "cpu", "cuda" or "mps": of the training in section 8
probed = 120  # held-out scenes for the probes of section 7
ablation_scenes = 800  # rendered for the ablation, a quarter of them held out
ablation_steps = 60  # of each of its runs
ablation_seeds = 2  # runs of each variant, at least 2
rounds = 2  # of timing

# %%
import copy
import math
import time

import numpy as np
import torch
import torch.nn.functional as F
from IPython.display import Markdown
from torch import nn

from vlmlab import figures, report, runtime, scenes, vision, weights
from vlmlab.bench.timing import alternate
from vlmlab.checks import nb10 as check
from vlmlab.figures import mambavision as diagrams
from vlmlab.figures import show, show_table
from vlmlab.vision import mambavision_blocks as package
from vlmlab.vision.blocks import Attention, Mlp
from vlmlab.vision.images import Preprocess
from vlmlab.vision.mambavision_config import VARIANTS, MambaVisionConfig, multiply_adds, variant_config

runtime.seed_everything(seed)

# %% [markdown]
# The shipped encoder is `tiny`, a variant for pictures of 96 pixels with as many parameters as `llava-tiny`'s ViT.

# %%
encoder, preprocess = weights.load_encoder("mambavision-tiny")  # no head; how pixels are normalised
vit = weights.load_contrastive()[0].vision  # the ViT of chapter 01
scene = scenes.sample(seed, split="test", objects=4)
render = scene.render(96)
pixels = preprocess(render.rgb)[None]  # (1, 3, 96, 96)
for name, model in (("mambavision-tiny", encoder), ("the ViT", vit)):
    print(f"{name}: {sum(p.numel() for p in model.parameters()):,} parameters")


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    """The largest difference, relative to the largest value."""
    return float((one - other).detach().abs().max() / other.detach().abs().max())


# %% [markdown]
# ## 1. Three ways to mix places
#
# A map has $L$ places with $C$ channels each. To let places learn from each other there are three tools. By hand, in
# multiply-adds of one layer:
#
# - a 3 x 3 **convolution** sees 8 neighbours: $9 L C^2$;
# - a **scan** mixer sees all that came before: $2 L C^2$ and a little for the scan, proportional to $L C$;
# - **attention** sees everything: $4 L C^2 + 2 L^2 C$.

# %%
T = VARIANTS["T"]  # the smallest published variant


def one_layer(L: int, C: int) -> dict[str, int]:
    rank, inner, state = -(-C // 16), C // 2, 8
    scan = L * (2 * C * C + 2 * 3 * inner + inner * (2 * rank + 2 * state) + 3 * state * inner)
    return {"convolution": 9 * L * C * C, "scan": scan, "attention": 4 * L * C * C + 2 * L * L * C}


# %%
places = {level: T.sides(224)[level] ** 2 for level in range(4)}
layer_costs = {level: one_layer(L, T.channels(level)) for level, L in places.items()}
tools = list(layer_costs[0])
table = [
    [level, L, T.channels(level), *(f"{layer_costs[level][tool] / 1e6:,.0f}" for tool in tools),
     f"{2 * L * L * T.channels(level) / layer_costs[level]['attention']:.0%}"]
    for level, L in places.items()
]  # fmt: skip
show_table(
    ["level", "places", "channels", *tools, "attention: share of L² part"], table, "T at 224 px, millions a layer"
)
report.record("attention / convolution at level 0, multiply-adds",
              layer_costs[0]["attention"] / layer_costs[0]["convolution"])  # fmt: skip

# %% [markdown]
# From level to level $L$ falls by four and $C$ doubles, so $L C^2$ stays the same and $L^2 C$ falls by eight. On the
# first map attention is mostly the comparison of all pairs; on the last two it is mostly matrices.
#
# Multiply-adds are not time. The same three layers, on this machine:

# %%
clock = {}
for level in (0, 2):
    L, C, side = places[level], T.channels(level), T.sides(224)[level]
    mixer = package.MambaMixer(C, T.rank(level))
    for parameter in (mixer.A_log, mixer.D):
        nn.init.ones_(parameter)
    tokens, layers = torch.randn(1, L, C), {"scan": mixer, "attention": Attention(C, C // 40)}
    image = tokens.mT.reshape(1, C, side, side).contiguous(memory_format=torch.channels_last)
    runs = {tool: lambda m=m, x=tokens: m(x) for tool, m in layers.items()}
    conv = package.convolution(C, C)
    runs["convolution"] = lambda m=conv, x=image: m(x)
    with torch.inference_mode():
        clock[level] = alternate(runs, rounds)
show_table(
    ["level", "places", *tools],
    [[level, places[level], *(f"{1e3 * seconds[tool]:.2f}" for tool in tools)] for level, seconds in clock.items()],
    "milliseconds a layer, one picture",
)
for level, seconds in clock.items():
    report.record(f"milliseconds of one layer, level {level}", {tool: 1e3 * seconds[tool] for tool in tools})

# %% [markdown]
# By multiply-adds a scan is the cheapest everywhere; by the clock it need not be. A convolution is one dense operation,
# a scan a chain of $L$ steps. The paper's reason for convolutions in the first two levels (section 3) is their speed at
# high resolution. And edges and colours are local: eight neighbours are enough to find them. Later, when a place stands
# for a piece of an object, what is far away begins to matter.
#
# So: convolutions in levels 0 and 1; scan, then attention, in levels 2 and 3. Stem and the steps between levels are
# convolutions too.


# %%
def map_shapes(config: MambaVisionConfig) -> dict[str, str]:
    sides = config.sides(config.image_size)
    found = {f"level {i}": f"{config.channels(i)} · {sides[i]} x {sides[i]}" for i in range(4)}
    return found | {"stem": found["level 0"], "pooled": f"{config.channels(3)}"}


def mixers(config: MambaVisionConfig, level: int) -> tuple[int, int]:
    attending = sum(config.attends(level, block) for block in range(config.depths[level]))
    return config.depths[level] - attending, attending


# %%
show(
    diagrams.levels({"T": map_shapes(T), "tiny": map_shapes(encoder.config)}, [mixers(T, 2), mixers(T, 3)]),
    alt="A row of boxes: stem, two levels of convolutions, two levels of a scan followed by attention, then norm and "
    "mean. Each step between levels halves the sides of the map and doubles its channels.",
    caption="Channels and places, for T at 224 px and tiny at 96 px; the numbers of blocks are T's.",
)

# %% [markdown]
# tiny reads pictures of 96 px. With T's stem its level 2 would have 6 x 6 places. Its first convolution has stride 3
# and its second stride 1, so that level 2 has 8 x 8, one place for each patch of the ViT.
#
# ## 2. Stem and residual block
#
# By hand: a 3 x 3 convolution with padding 1 and stride 2, whose weights are all one, on a picture of 4 x 4. Every
# second window of nine is summed; $n$ pixels become $\lfloor (n - 1) / 2 \rfloor + 1$.

# %%
toy = torch.arange(16.0).view(1, 1, 4, 4)
padded = F.pad(toy, (1, 1, 1, 1))[0, 0]  # (6, 6)
by_hand = torch.stack([padded[i : i + 3, j : j + 3].sum() for i in (0, 2) for j in (0, 2)]).view(2, 2)
assert torch.equal(by_hand, F.conv2d(toy, torch.ones(1, 1, 3, 3), stride=2, padding=1)[0, 0])
by_hand

# %% [markdown]
# **The stem** is two of these with BatchNorm and ReLU. **A residual block** of levels 0 and 1 adds two convolutions to
# the map, with the tanh form of GELU between them. Two details matter when weights are copied: BatchNorm's epsilon is
# 1e-4 in the stem and 1e-5 elsewhere, and only the blocks' convolutions have a bias.


# %%
class Stem(nn.Module):
    def __init__(self, middle: int, c: int, strides: tuple[int, int] = (2, 2)):
        super().__init__()
        self.conv_down = nn.Sequential(
            nn.Conv2d(3, middle, 3, strides[0], 1, bias=False), nn.BatchNorm2d(middle, eps=1e-4), nn.ReLU(),
            nn.Conv2d(middle, c, 3, strides[1], 1, bias=False), nn.BatchNorm2d(c, eps=1e-4), nn.ReLU(),
        )  # fmt: skip

    def forward(self, x):  # (B, 3, H, W) -> (B, C, H / 4, W / 4)
        return self.conv_down(x)


class Residual(nn.Module):
    def __init__(self, dim: int):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(dim, dim, 3, padding=1), nn.BatchNorm2d(dim, eps=1e-5)
        self.conv2, self.norm2 = nn.Conv2d(dim, dim, 3, padding=1), nn.BatchNorm2d(dim, eps=1e-5)

    def forward(self, x):  # (B, C, H, W)
        out = F.gelu(self.norm1(self.conv1(x)), approximate="tanh")
        return x + self.norm2(self.conv2(out))


# %%
c = encoder.config
stem, residual = Stem(c.stem_width, c.width, c.stem_strides).eval(), Residual(c.width).eval()
stem.load_state_dict(encoder.patch_embed.state_dict())
residual.load_state_dict(encoder.levels[0].blocks[0].state_dict())
with torch.no_grad():
    first = stem(pixels)  # (1, C, 32, 32)
    gaps = [apart(first, encoder.patch_embed(pixels)), apart(residual(first), encoder.levels[0].blocks[0](first))]
assert max(gaps) < 1e-5
print(f"stem {tuple(first.shape)}; relative differences {gaps[0]:.0e} and {gaps[1]:.0e}")

# %% [markdown]
# What the stem makes of the picture: the six of its channels that vary most.

# %%
strongest = first[0].flatten(1).std(1).argsort(descending=True)[:6].tolist()
show(
    figures.pictures([render.rgb, *first[0, strongest].numpy()], ["picture", *(f"channel {i}" for i in strongest)],
                     columns=7),
    alt="The picture and six maps of the stem. They are local: edges, and areas of one colour or brightness.",
)  # fmt: skip

# %% [markdown]
# ## 3. Windows
#
# Levels 2 and 3 work on sequences. A map is cut into windows of `side` x `side` places, each read row by row. A map
# that the windows do not divide gets zeros at the bottom and on the right. By hand, 5 x 7 places and windows of 4:

# %%
toy = torch.arange(1, 36).view(5, 7)
padded = F.pad(toy, (0, 1, 0, 3))  # (8, 8): one column, three rows
print(padded)
print("window 1:", padded[:4, 4:].flatten().tolist())


# %%
def cut(x, side):  # (B, C, H, W) -> (B * windows, side * side, C)
    x = F.pad(x, (0, -x.shape[3] % side, 0, -x.shape[2] % side))
    B, C, H, W = x.shape
    x = x.view(B, C, H // side, side, W // side, side)  # (B, C, rows, y, columns, x)
    return x.permute(0, 2, 4, 3, 5, 1).reshape(-1, side * side, C)


windows = cut(toy.view(1, 1, 5, 7), 4)  # (4, 16, 1)
assert windows[1].flatten().tolist() == padded[:4, 4:].flatten().tolist()

# %% [markdown]
# The way back crops the padding (exercise 1). There and back, nothing changes:

# %%
some = torch.randn(2, 6, 18, 23, generator=runtime.generator(seed))
assert torch.equal(cut(some, 7), package.to_windows(some, 7))
assert torch.equal(package.from_windows(cut(some, 7), 7, 2, 18, 23), some)
n = cut(torch.zeros(1, 1, 18, 18), 14).shape[0]  # windows of level 2 for T at 288 px
order = torch.arange(14 * 14).expand(n, -1)[..., None]
which = torch.arange(n)[:, None, None].expand(-1, 196, 1)
maps = [package.from_windows(v, 14, 1, 18, 18)[0, 0].numpy() for v in (which, order)]

# %%
fig = figures.pictures([m.astype(float) for m in maps], ["window of each place", "its place in the window"])
show(
    fig,
    alt=f"A map of 18 by 18 places: one window of 14 by 14 at the top left, and {n - 1} more of which only a strip is "
    "used. In each, places are numbered row by row.",
    caption="Level 2 of T at 288 px: 18 places a side, windows of 14.",
)

# %% [markdown]
# Padded places are computed like all others. What that costs at sizes other than the native one, in multiply-adds,
# against windows that fit the map (`image_size=` of `MambaVision.from_variant`):

# %%
table = []
for size in (224, 256, 288, 384, 448, 512):
    side = T.sides(size)[2]
    cells = (-(-side // 14) * 14) ** 2
    fixed, fitted = (sum(multiply_adds(config, size, size).values()) for config in (T, variant_config("T", 1000, size)))
    table.append([size, f"{side} x {side}", cells, f"{side**2 / cells:.0%}", f"{fixed / 1e9:.2f}",
                  f"{fitted / 1e9:.2f}"])  # fmt: skip
    report.record(f"T at {size} px: share of level 2's tokens that are real", side**2 / cells)
show_table(["px", "level 2", "tokens computed", "real", "G, windows 14 and 7", "G, windows fitted"], table)

# %% [markdown]
# 256 px is a bad size for windows of 14. The published L3 has windows of 16 and 8 for that reason: at its native 256 px
# they fit exactly. In the variants at 224 px, and in tiny at 96, one window covers the whole map.
#
# ## 4. The mixer
#
# It replaces attention in the first half of a level's blocks. Compared with the Mamba block of chapter 08, three
# things are different:
#
# | | Mamba | MambaVision's mixer |
# |---|---|---|
# | channels that are scanned | $2 C$ | $C / 2$ |
# | convolution before the scan | causal, 4 taps, bias | both neighbours, 3 taps, no bias |
# | second branch | $z$ gates: $y \cdot \mathrm{silu}(z)$ | $z$, after its own convolution, stands beside: $[y, z]$ |
#
# In a picture the place to the right is no future. That is the reason for the first change; the second gives the block
# a path without a scan. Toy numbers: a one in the middle of seven tokens, three taps.

# %%
taps, impulse = torch.tensor([[[1.0, 2.0, 3.0]]]), torch.zeros(1, 1, 7)
impulse[..., 3] = 1
same = F.conv1d(impulse, taps, padding="same").flatten()
causal = F.conv1d(F.pad(impulse, (2, 0)), taps).flatten()
print("both neighbours:", same.tolist())
print("causal:         ", causal.tolist())

# %% [markdown]
# And a gate beside a concatenation, for one token of two channels. Where $z$ is 0, the gate takes $y$ away; side by
# side, `out_proj` sees both and can weigh them. The price is a larger `out_proj`, $C \to C$ instead of $C / 2 \to C$.

# %%
y, z = torch.tensor([0.5, -2.0]), torch.tensor([0.0, 1.0])
print("gated:", (y * z).tolist(), " concatenated:", torch.cat([y, z]).tolist())

# %%
L, C = c.windows[0] ** 2, c.channels(2)
half, few, whole = f"({L}, {C // 2})", "(64, 8)", f"({L}, {C})"
show(
    diagrams.mixer({"x": whole, "u": half, "z": half, "delta": half, "B": few, "C": few, "y": half, "joined": whole,
                    "out": whole}),
    alt="in_proj splits the channels into u and z. Both pass a convolution and silu. u is scanned, with parameters "
    "made from u, and gives y; z is not scanned. y and z are joined along the channels and projected.",
    caption="Shapes of level 2 of tiny.",
)  # fmt: skip


# %%
from vlmlab.scan import selective_scan


class Mixer(nn.Module):
    def __init__(self, dim: int, state: int = 8):
        super().__init__()
        inner, self.rank, self.state = dim // 2, math.ceil(dim / 16), state  # the rank counts all channels
        self.in_proj = nn.Linear(dim, dim, bias=False)
        self.conv1d_x = nn.Conv1d(inner, inner, 3, padding="same", groups=inner, bias=False)
        self.conv1d_z = nn.Conv1d(inner, inner, 3, padding="same", groups=inner, bias=False)
        self.x_proj = nn.Linear(inner, self.rank + 2 * state, bias=False)
        self.dt_proj = nn.Linear(self.rank, inner)
        self.A_log = nn.Parameter(torch.arange(1.0, state + 1).log().repeat(inner, 1))
        self.D = nn.Parameter(torch.ones(inner))
        self.out_proj = nn.Linear(dim, dim, bias=False)

    def forward(self, x):  # (B, L, C)
        u, z = self.in_proj(x).chunk(2, -1)  # (B, L, C / 2) each
        u, z = F.silu(self.conv1d_x(u.mT).mT), F.silu(self.conv1d_z(z.mT).mT)
        low, B, C = self.x_proj(u).split([self.rank, self.state, self.state], -1)
        delta = F.softplus(self.dt_proj(low) + self.dt_proj.bias)  # the bias a second time
        y = selective_scan(u.mT, delta.mT, -self.A_log.exp(), B.mT, C.mT, self.D).mT  # (B, L, C / 2)
        return self.out_proj(torch.cat([y, z], -1))


# %% [markdown]
# **Check.** Random weights of this class, copied into the package's `MambaMixer`. A matrix that is wrong by 1 % is
# found.

# %%
mine, theirs = Mixer(48), package.MambaMixer(48, 3)
nn.init.normal_(mine.dt_proj.bias)
theirs.load_state_dict(mine.state_dict())
some = torch.randn(3, 49, 48, generator=runtime.generator(seed))
mixer_gap = apart(mine(some), theirs(some))
report.record("Mixer against the package, relative difference", mixer_gap)
with torch.no_grad():
    theirs.x_proj.weight *= 1.01
print(f"with one matrix wrong by 1 %: {apart(mine(some), theirs(some)):.0e}")
assert mixer_gap < 1e-5 < apart(mine(some), theirs(some))

# %% [markdown]
# **A quirk.** In the published model `dt_proj` adds its bias, and the scan adds it again: $\Delta =
# \mathrm{softplus}(W r + 2 b)$. At the start $b = 0$ and nothing is lost. Weights that were trained so need it so. What
# one bias instead of two would change in the shipped encoder (a bias of half the size, counted twice, is the same as a
# bias counted once):

# %%
once = copy.deepcopy(encoder)
for mixer in (m for m in once.modules() if isinstance(m, package.MambaMixer)):
    mixer.dt_proj.bias.data *= 0.5
with torch.no_grad():
    right, wrong = encoder.features(pixels, 2), once.features(pixels, 2)
one_bias = float((wrong - right).norm() / right.norm())
biases = torch.cat([m.dt_proj.bias.detach() for m in encoder.modules() if isinstance(m, package.MambaMixer)])
print(f"biases from {biases.min():.2f} to {biases.max():.2f}; one instead of two changes level 2 by {one_bias:.2%}")
report.record("relative change of level 2 when delta's bias counts once", one_bias)

# %% [markdown]
# ## 5. Attention in the last half
#
# The scan runs one way, from the window's first place to its last. What does a place *not* see? The derivative of one
# output place with respect to all input places tells. The tokens are those of the picture at the entrance of level 2.

# %%
with torch.no_grad():
    entering = encoder.levels[1].downsample(encoder.features(pixels)[1])  # (1, C, 8, 8)
inside, side = cut(entering, c.windows[0]), c.windows[0]  # (1, 64, C), one window
blocks, scans = list(encoder.levels[2].blocks), mixers(c, 2)[0]
middle = (side // 2 - 1) * side + side // 2  # a place near the middle of the window


def reach(parts: list[nn.Module], place: int) -> torch.Tensor:
    """How strongly one output place depends on each input place: (L,)."""
    x = inside.clone().requires_grad_()
    out = x
    for part in parts:
        out = part(out)
    probe = torch.randn(out.shape[-1], generator=runtime.generator(seed))
    return torch.autograd.grad((out[0, place] * probe).sum(), x)[0][0].norm(dim=-1)


# %%
stages = {
    "one block with a scan": blocks[:1],
    f"all {scans} with a scan": blocks[:scans],
    "and one with attention": blocks[: scans + 1],
    f"all {len(blocks)}": blocks,
}
seen = {name: reach(parts, middle) for name, parts in stages.items()}
row, column = divmod(middle, side)
show(
    figures.heatmaps(
        [(s / s.max()).clamp(min=1e-6).log10().view(side, side).numpy() for s in seen.values()], list(seen),
        columns=4, value_label="log10 of the share", marked=[(row, column)] * len(seen),
    ),
    alt="; ".join(f"{name}: {int((s > 0).sum())} of {len(s)} places seen" for name, s in seen.items()),
    caption="How much the framed place depends on each place of the window; at the darkest, not at all.",
)  # fmt: skip
report.record("places that one place sees", {name: int((s > 0).sum()) for name, s in seen.items()})

# %% [markdown]
# Rows above are seen, rows below are not. The convolution looks one token ahead, so every block with a scan adds one
# place in front: after $n$ of them a place sees the next $n$ and no more. One block with attention opens the rest.

# %%
for count in range(1, scans + 1):
    s = reach(blocks[:count], middle)
    assert int(s.nonzero().max()) == middle + count, "the scan sees no further ahead than the convolutions reach"
first_place = reach(blocks[:scans], 0)
print(f"the place at the top left sees {int((first_place > 0).sum())} of {len(first_place)} places before attention,")
print(f"and {int((reach(blocks, 0) > 0).sum())} after it")
report.record("places that the top left place sees before attention", int((first_place > 0).sum()))

# %% [markdown]
# There is a second lopsidedness. A neighbour in the row is one step away in the scan; the neighbour above is a whole
# row away, and the state has decayed on the way.

# %%
s = seen["one block with a scan"]
left_above = float(s[middle - 1] / s[middle - side])
s = seen[f"all {len(blocks)}"]
whole_level = float(s[middle - 1] / s[middle - side])
print(
    f"left neighbour against the one above: {left_above:.1f} times in one block with a scan, {whole_level:.1f} times",
    end="",
)
print(f" over all {len(blocks)}")
report.record("influence of the left neighbour / of the one above", {"one scan": left_above, "level 2": whole_level})

# %% [markdown]
# Could attention come first? Attention has no sense of place: shuffle a window, and each token still gets what it got
# before. MambaVision has no position embeddings. What tells its attention where things are must already be in the
# tokens, put there by convolutions (whose zero padding marks the border) and scans (which have an order):

# %%
shuffle = torch.randperm(side * side, generator=runtime.generator(seed))
table = []
for name, block in (("block with a scan", blocks[0]), ("block with attention", blocks[-1])):
    with torch.no_grad():
        one, other = block(inside)[:, shuffle], block(inside[:, shuffle])
    moved = float((one - other).norm() / (one - inside[:, shuffle]).norm())  # of what the block adds
    table.append([name, f"{moved:.2g}"])
    report.record(f"change when the window's tokens are shuffled, {name}", moved)
show_table(["", "change of what it adds, relative"], table, "the tokens of a window in another order")
assert moved < 1e-4

# %% [markdown]
# That is one argument for attention at the end; section 8 asks whether a small training agrees. The rule: in levels 2
# and 3 the last half of the blocks attends, and of an odd number the smaller half (exercise 3).
#
# ## 6. Put together
#
# A block is pre-norm, as in a ViT: $x + \gamma_1\,\mathrm{mixer}(\mathrm{LN}(x))$, then $x +
# \gamma_2\,\mathrm{MLP}(\mathrm{LN}(x))$. $\gamma$ is 1, or in the large variants a parameter that starts at 1e-5.
# Attention and MLP are those of chapter 01.


# %%
class Block(nn.Module):
    def __init__(self, dim: int, mixer: nn.Module, layer_scale: float | None = None):
        super().__init__()
        self.norm1, self.mixer, self.norm2 = nn.LayerNorm(dim), mixer, nn.LayerNorm(dim)
        self.mlp = Mlp(dim, 4 * dim, "gelu")
        scales = [None] * 2 if layer_scale is None else [nn.Parameter(layer_scale * torch.ones(dim)) for _ in range(2)]
        self.gamma_1, self.gamma_2 = scales

    def forward(self, x):  # (B, L, C)
        out = self.mixer(self.norm1(x))
        x = x + (out if self.gamma_1 is None else self.gamma_1 * out)
        out = self.mlp(self.norm2(x))
        return x + (out if self.gamma_2 is None else self.gamma_2 * out)


# %%
class Level(nn.Module):
    def __init__(self, c: MambaVisionConfig, level: int):
        super().__init__()
        dim, self.window = c.channels(level), None if level < 2 else c.windows[level - 2]
        if level < 2:
            parts = [Residual(dim) for _ in range(c.depths[level])]
        else:
            kinds = [Attention(dim, c.heads[level - 2]) if c.attends(level, j) else Mixer(dim)
                     for j in range(c.depths[level])]  # fmt: skip
            parts = [Block(dim, mixer, c.layer_scale) for mixer in kinds]
        self.blocks, self.downsample = nn.ModuleList(parts), None
        if level < 3:
            convolution = nn.Conv2d(dim, 2 * dim, 3, 2, 1, bias=False)
            self.downsample = nn.Sequential()
            self.downsample.add_module("reduction", nn.Sequential(convolution))  # the published name

    def forward(self, x):  # (B, C, H, W)
        tokens = x if self.window is None else cut(x, self.window)
        for block in self.blocks:
            tokens = block(tokens)
        if self.window is None:
            return tokens
        return package.from_windows(tokens, self.window, len(x), *x.shape[2:])


# %%
class MiniMambaVision(nn.Module):
    def __init__(self, c: MambaVisionConfig):
        super().__init__()
        self.patch_embed = Stem(c.stem_width, c.width, c.stem_strides)
        self.levels = nn.ModuleList(Level(c, level) for level in range(4))
        self.norm = nn.BatchNorm2d(c.channels(3), eps=1e-5)
        self.head = nn.Linear(c.channels(3), c.num_classes) if c.num_classes else nn.Identity()

    def forward(self, x):  # (B, 3, H, W) -> the last map (B, C, h, w), logits
        x = self.patch_embed(x)
        for level in self.levels:
            x = level(x)
            last, x = x, x if level.downsample is None else level.downsample(x)
        return last, self.head(self.norm(last).mean((2, 3)))


# %% [markdown]
# **Check**, twice. The shipped weights in this class, on the picture. Then random weights of an odd shape the other
# way: layer scale, odd depths, a head, and a picture whose maps the windows do not divide.

# %%
mini = MiniMambaVision(c).eval()
mini.load_state_dict(encoder.state_dict())
odd = MambaVisionConfig(8, 4, (1, 2, 3, 2), (2, 4), (4, 2), layer_scale=0.7, num_classes=5, image_size=64)
other, theirs = MiniMambaVision(odd).eval(), vision.MambaVision(odd).eval()
theirs.load_state_dict(other.state_dict())
wide = torch.randn(2, 3, 97, 130, generator=runtime.generator(seed))
with torch.no_grad():
    whole_gaps = [apart(mini(pixels)[0], encoder.features(pixels)[-1]), apart(mini(pixels)[1], encoder(pixels)),
                  apart(other(wide)[1], theirs(wide))]  # fmt: skip
report.record("this notebook's MambaVision against the package, relative difference", max(whole_gaps))
assert max(whole_gaps) < 1e-5
whole_gaps

# %% [markdown]
# ### All variants, counted
#
# The names of the parameters are the published ones, so weights can be read as they are; the number of parameters must
# match to the digit. On the *meta* device a model has shapes and no memory. The last columns are the paper's.

# %%
PAPER = {  # parameters, GFLOPs at 224 px, pictures a second on an A100, top-1 in %
    "T": (31_794_248, 4.4, 6298, 82.3), "T2": (35_104_008, 5.1, 5990, 82.7), "S": (50_140_584, 7.5, 4700, 83.3),
    "B": (97_685_288, 15.0, 3670, 84.2), "L": (227_961_048, 34.9, 2190, 85.0), "L2": (241_554_824, 37.5, 1021, 85.3),
    "L3": (739_570_472, None, None, 87.3),
}  # fmt: skip
counts, work = {}, {}
for name in PAPER:
    with torch.device("meta"):
        counts[name] = sum(p.numel() for p in vision.MambaVision.from_variant(name).parameters())
        assert counts[name] == sum(p.numel() for p in MiniMambaVision(VARIANTS[name]).parameters())
    work[name] = multiply_adds(VARIANTS[name])
assert all(counts[name] == row[0] for name, row in PAPER.items())
report.record("parameters of the variants", counts)

# %%
table = []
for name, (_, flops, speed, top1) in PAPER.items():
    config, found = VARIANTS[name], work[name]
    total = sum(found.values())
    layers = (total - found["attention"] - found["scan"]) / 1e9
    table.append([name, config.width, str(config.depths), f"{counts[name]:,}", f"{layers:.1f}", flops or "",
                  f"{total / 1e9:.1f}", speed or "", top1])  # fmt: skip
    assert flops is None or abs(layers / flops - 1) < 0.02
show_table(["", "C", "blocks", "parameters", "G multiply-adds, layers", "GFLOPs, paper", "with attention and scan",
            "pictures a second, paper", "top-1, paper"], table, "at 224 px, L3 at 256")  # fmt: skip

# %% [markdown]
# The column "GFLOPs" counts multiply-adds, not floating-point operations, which are twice as many. And it leaves out
# what no layer shows: the products of queries with keys and with values, and the scan. Inside windows both are small.
#
# Where T keeps its weights and where it works:

# %%
with torch.device("meta"):
    model = vision.MambaVision.from_variant("T")
parts = {"stem": model.patch_embed} | {f"level {i}": level for i, level in enumerate(model.levels)}
share = [sum(p.numel() for p in part.parameters()) / counts["T"] for part in parts.values()]
done = [work["T"]["stem"], *(work["T"][f"levels.{i}"] + work["T"].get(f"downsample.{i}", 0) for i in range(4))]
show(
    figures.bars(list(parts), {"parameters": share, "multiply-adds": [d / sum(done) for d in done]}, percent=True,
                 limits=(0, 1)),
    alt="T's stem and levels: " + "; ".join(f"{name} has {a:.0%} of the parameters and {b / sum(done):.0%} of the work"
                                            for name, a, b in zip(parts, share, done, strict=True)),
    caption="A level with the convolution to the next one. Not shown: final norm and head; attention's products, scan.",
)  # fmt: skip
report.record("share of T's parameters in level 3", share[-1])

# %% [markdown]
# ## 7. What each level knows
#
# ### Two common mistakes
#
# **After instead of before.** A level ends with the convolution to the next. Its features are the map *before* that
# convolution. Code that takes what each level hands on gets maps that were halved and doubled:

# %%
with torch.device("meta"):
    x = torch.empty(1, 3, 224, 224)
    before = [tuple(m.shape[1:]) for m in model.features(x)]
    handed_on = [tuple((level.downsample or nn.Identity())(m).shape[1:])
                 for level, m in zip(model.levels, model.features(x), strict=True)]  # fmt: skip
    shown = [[i, str(a), str(b)] for i, (a, b) in enumerate(zip(before, handed_on, strict=True))]
show_table(["level", "its features", "after the convolution, the mistake"], shown, "T at 224 px")
report.record("shapes of T's four maps", before)

# %% [markdown]
# No error tells: a projector built for the wrong width trains as well. But "level 2" is then a first look at level 3,
# with 49 tokens instead of 196, and the 14 x 14 map of level 2 is never seen.
#
# **BatchNorm that still learns.** Unlike a ViT's LayerNorm, a BatchNorm in training mode normalises with the statistics
# of the batch and moves its own. A frozen encoder inside a model that trains would not stay as it is. The package keeps
# norms with frozen weights in evaluation mode:

# %%
crowd = torch.stack([preprocess(scenes.sample(i, split="val").render(96).rgb) for i in range(4)])
alike = torch.cat([pixels, crowd])
changes = {}
for name, frozen in (("frozen", True), ("in training mode", False)):
    trial = copy.deepcopy(encoder).requires_grad_(not frozen).train()
    with torch.no_grad():
        one, other = trial.features(alike, 2)[0], encoder.features(pixels, 2)[0]
    changes[name] = float((one - other).norm() / other.norm())
    print(f"{name}: the first picture's features change by {changes[name]:.2g} beside four others")
report.record("change of level 2's features in a batch of five", changes)

# %% [markdown]
# ### Maps beside a ViT's
#
# The four maps of a picture and some hidden states of `llava-tiny`'s ViT. Each map's three main directions become red,
# green and blue: places of one colour have similar features, colours of different maps mean nothing.


# %%
def main_directions(tokens: torch.Tensor) -> np.ndarray:
    """(P, D) -> (g, g, 3) in [0, 1]."""
    x = tokens.double() - tokens.double().mean(0)
    x = x @ torch.linalg.svd(x, full_matrices=False)[2][:3].T  # (P, 3)
    low, high = x.quantile(0.02, 0), x.quantile(0.98, 0)
    return ((x - low) / (high - low)).clamp(0, 1).view(math.isqrt(len(x)), -1, 3).numpy()


vit_preprocess = Preprocess(96)
with torch.no_grad():
    ours = encoder.hidden_states(pixels)
    theirs = [state[:, 1:] for state in vit.hidden_states(vit_preprocess(render.rgb)[None])]  # class token dropped

# %%
layers = (0, 2, 4, 6)
above, below = [main_directions(t[0]) for t in ours], [main_directions(theirs[i][0]) for i in layers]
show(
    figures.pictures(
        [render.rgb, *above, render.rgb, *below],
        ["picture", *(f"level {i}, {t.shape[2]} channels" for i, t in enumerate(ours)),
         "picture", *(f"ViT, layer {i}" for i in layers)], columns=5,
    ),
    alt="Above, the maps of MambaVision's levels, of 32, 16, 8 and 4 places a side; below, hidden states of the ViT, "
    "all of 8 by 8 patches.",
    caption="First row: MambaVision, level by level. Second row: the ViT.",
)  # fmt: skip

# %% [markdown]
# A ViT keeps one resolution and one width; its bands from top to bottom are the place, which its position embeddings
# write into every patch. MambaVision trades resolution for width on its way.
#
# ### Probes
#
# Chapter 01's question, for both: which words can a linear map read off one place? All maps are brought to 8 x 8 places
# first, larger ones by averaging and the 4 x 4 ones by repeating. Two baselines: the pixels of a cell, and an untrained
# MambaVision.

# %%
from vlmlab.vision.probing import probe_words
from vlmlab.vlm.conversations import SLOTS, word_map

held = [scenes.sample(i, split="test") for i in range(probed)]
renders = [s.render(96) for s in held]
rgb = np.stack([r.rgb for r in renders])
targets = torch.from_numpy(np.stack([word_map(s, r.mask) for s, r in zip(held, renders, strict=True)])).long()
print(f"{probed} scenes, {int((targets[..., 0] >= 0).sum())} places that show an object")


# %%
def on_grid(x: torch.Tensor, g: int = 8) -> torch.Tensor:
    """Maps (N, C, h, w) or tokens (N, P, D) to tokens (N, g * g, D)."""
    if x.dim() == 3:
        x = x.transpose(1, 2).unflatten(2, (math.isqrt(x.shape[1]), -1))
    x = F.adaptive_avg_pool2d(x, g) if x.shape[2] >= g else F.interpolate(x, (g, g), mode="nearest-exact")
    return x.flatten(2).transpose(1, 2)


@torch.no_grad()
def collect(run, prepared: torch.Tensor) -> list[torch.Tensor]:
    parts = [[on_grid(m) for m in run(some)] for some in prepared.split(60)]
    return [torch.cat(found) for found in zip(*parts, strict=True)]


# %%
untrained = vision.MambaVision(c, runtime.generator(seed)).eval()
ready = preprocess.normalise(rgb)
tokens = {"pixels of a cell": F.pixel_unshuffle(ready, 12).flatten(2).transpose(1, 2)}  # (N, 64, 432)
tokens["untrained, level 2"] = collect(untrained.features, ready)[2]
tokens |= {f"MambaVision, level {i}": t for i, t in enumerate(collect(encoder.features, ready))}
states = collect(lambda x: [h[:, 1:] for h in vit.hidden_states(x)], vit_preprocess.normalise(rgb))
tokens |= {f"ViT, layer {i}": states[i] for i in (*layers[:3], 5, layers[3])}

# %%
slots = ("colour", "kind", "size", "material", "column", "row")
fit = probed * 3 // 4
found = {name: probe_words(t.contiguous(), targets, tuple(SLOTS), fit) for name, t in tokens.items()}
known = targets[fit:][targets[fit:][..., 0] >= 0]  # (places, slots)
guess = {slot: float(known[:, i].bincount().max() / len(known)) for i, slot in enumerate(SLOTS) if slot in slots}
values = np.array([[row[slot] for slot in slots] for row in (*found.values(), guess)])
show(
    figures.matrix(values, [*found, "most frequent word"], list(slots), limits=(0, 1), value_label="share right"),
    alt="Shares of held-out object places whose word a linear probe gets right. "
    + "; ".join(f"{name}: " + ", ".join(f"{slot} {row[slot]:.2f}" for slot in slots) for name, row in found.items()
                if name in ("MambaVision, level 2", "ViT, layer 5", "untrained, level 2")) + ".",
    caption="Linear probes on places that show an object; fitted on three quarters of the scenes, tested on the rest.",
)  # fmt: skip
report.record("linear probes", found)

# %%
ahead = {slot: found["MambaVision, level 2"][slot] - found["ViT, layer 5"][slot] for slot in slots}
places_tested, noise = len(known), 0.5 / math.sqrt(probed - fit)
leads = [f"{slot} ({100 * d:+.0f} points)" for slot, d in ahead.items() if abs(d) > 2 * noise]
Markdown(
    "What a VLM would read: level 2 of MambaVision against layer 5 of the ViT. "
    + "; ".join(f"**{slot}** {100 * found['MambaVision, level 2'][slot]:.0f} % against "
                f"{100 * found['ViT, layer 5'][slot]:.0f} %" for slot in slots)
    + f". {places_tested} places were tested, but those of one scene are alike: with {probed - fit} scenes, a "
    f"difference below about {200 * noise:.0f} points says little. "
    + (f"Beyond that: {', '.join(leads)}." if leads else "None is beyond that.")
)  # fmt: skip

# %% [markdown]
# Look at the last two columns as well: MambaVision has no position embeddings, and what it knows of a place comes from
# padding and order. And read the row "untrained": what is there without training is no achievement of the pretraining.
#
# This compares two trained encoders, not two architectures. The ViT learnt from captions, MambaVision from labels; both
# with a second loss that asks single places for their words, in layer 5 and in level 2.
#
# ## 8. The mixer's ablation, small
#
# The paper's ablations on ImageNet, T trained with each change:

# %%
REPORTED = {
    "causal convolution, no second branch": 80.5, "both neighbours, no second branch": 80.9,
    "second branch as a gate": 81.3, "second branch beside": 82.3,
}  # fmt: skip
PLACED = {
    "random": 81.3,
    "first half": 81.5,
    "alternating": 81.4,
    "alternating, the other way": 81.6,
    "last quarter": 81.9,
    "last half": 82.3,
}
for caption, reported in (("the mixer", REPORTED), ("where attention is", PLACED)):
    show_table([caption, "top-1 in %"], list(reported.items()), "as reported, without intervals")

# %% [markdown]
# One to two points between the best and the worst. Would a small experiment see that? The stem of section 2
# and a few blocks on pictures of 24 px, and a question that needs more than one place: *which colour and kind go
# together?* Scenes hold two or three objects of four kinds and four colours; the labels are the pairs.

# %%
from vlmlab.scenes.kinds import held_out

KINDS, COLOURS = ("ball", "cat", "car", "lamp"), ("red", "yellow", "green", "blue")
pairs = [(colour, kind) for kind in KINDS for colour in COLOURS if not held_out(colour, kind)]  # never drawn otherwise


def labelled(split: str, count: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures (N, 3, S, S) from -1 to 1, and which pairs are in them (N, K)."""
    drawn = [scenes.sample(i, split=split, objects=(2, 3), kinds=KINDS, colours=COLOURS) for i in range(count)]
    rgb = torch.from_numpy(np.stack([s.render(size).rgb for s in drawn])).permute(0, 3, 1, 2)
    there = [{(o.colour, o.kind) for o in s.objects} for s in drawn]
    return rgb.float() / 127.5 - 1, torch.tensor([[pair in found for pair in pairs] for found in there]).float()


# %%
quick = profile == "quick"
S, depth, dim, size = (24, 2, 32, 32) if quick else (32, 4, 64, 64)  # pixels, blocks, channels, batch
total, runs, many = (1, 1, 1) if quick else (20, 2, 10)
total, runs, many = total * ablation_steps, runs * max(2, ablation_seeds), many * ablation_scenes
where = runtime.device(device)
train_x, train_y = (v.to(where) for v in labelled("train", many - many // 4, S))
test_x, test_y = (v.to(where) for v in labelled("val", many // 4, S))
show(
    figures.pictures([((x + 1) / 2).permute(1, 2, 0).cpu().numpy() for x in test_x[:5]],
                     notes=[", ".join(" ".join(p) for p, t in zip(pairs, y, strict=True) if t) for y in test_y[:5]]),
    alt="Five tiny pictures of two or three coloured objects, and the pairs of colour and kind in them.",
    caption=f"{len(train_x)} such pictures to learn from, {len(test_x)} to test; {len(pairs)} pairs.",
)  # fmt: skip

# %% [markdown]
# The four mixers in one class. So that all have a similar number of parameters, which is the paper's reason for halves,
# their widths differ: without a second branch all $C$ channels are scanned, with a gate $2C/3$, side by side half.


# %%
class Variant(nn.Module):
    def __init__(self, dim: int, kind: str, state: int = 8):
        super().__init__()
        self.kind, self.rank, self.state = kind, math.ceil(dim / 16), state
        inner = {"gated": 2 * dim // 3, "beside": dim // 2}.get(kind, dim)
        branches = 2 if kind in ("gated", "beside") else 1
        self.in_proj = nn.Linear(dim, branches * inner, bias=False)
        self.convolutions = nn.ModuleList(nn.Conv1d(inner, inner, 3, groups=inner, bias=False) for _ in range(branches))
        self.x_proj = nn.Linear(inner, self.rank + 2 * state, bias=False)
        self.dt_proj = nn.Linear(self.rank, inner)
        self.A_log = nn.Parameter(torch.arange(1.0, state + 1).log().repeat(inner, 1))
        self.D = nn.Parameter(torch.ones(inner))
        self.out_proj = nn.Linear(2 * inner if kind == "beside" else inner, dim, bias=False)

    def forward(self, x):  # (B, L, C)
        ends = (2, 0) if self.kind == "causal" else (1, 1)  # zeros before and behind
        streams = self.in_proj(x).chunk(len(self.convolutions), -1)
        u, *z = (F.silu(conv(F.pad(s.mT, ends))).mT for conv, s in zip(self.convolutions, streams, strict=True))
        low, B, C = self.x_proj(u).split([self.rank, self.state, self.state], -1)
        delta = F.softplus(self.dt_proj(low) + self.dt_proj.bias)
        y = selective_scan(u.mT, delta.mT, -self.A_log.exp(), B.mT, C.mT, self.D).mT
        return self.out_proj(y * z[0] if self.kind == "gated" else torch.cat([y, *z], -1))


# %%
mine, small = Mixer(32), Variant(32, "beside")
renamed = {name.replace("conv1d_x", "convolutions.0").replace("conv1d_z", "convolutions.1"): value
           for name, value in mine.state_dict().items()}  # fmt: skip
small.load_state_dict(renamed)
assert apart(small(some[..., :32]), mine(some[..., :32])) < 1e-5
sizes = {
    kind: sum(p.numel() for p in Variant(dim, kind).parameters()) for kind in ("causal", "regular", "gated", "beside")
}
print("parameters of a mixer:", sizes)


# %%
class Classifier(nn.Module):
    def __init__(self, kind: str, attends: list[bool]):
        super().__init__()
        self.stem = Stem(dim // 2, dim)
        self.blocks = nn.Sequential(*(Block(dim, Attention(dim, 4) if a else Variant(dim, kind)) for a in attends))
        self.norm, self.head = nn.BatchNorm1d(dim), nn.Linear(dim, len(pairs))
        for layer in (m for m in self.modules() if isinstance(m, nn.Linear)):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

    def forward(self, x):  # (B, 3, S, S) -> (B, pairs)
        tokens = self.stem(x).flatten(2).mT  # (B, L, C), one window
        return self.head(self.norm(self.blocks(tokens).mean(1)))


# %% [markdown]
# The measure is mean **average precision**: for each pair, sort the test pictures by score and average the precision at
# each picture that has it. A score that knows nothing gets about the share of pictures with the pair.


# %%
def average_precision(scores: torch.Tensor, truth: torch.Tensor) -> float:
    hits = truth.gather(0, scores.argsort(0, descending=True))  # (N, K)
    precision = hits.cumsum(0) / torch.arange(1, len(hits) + 1, device=hits.device)[:, None]
    return float(((precision * hits).sum(0) / hits.sum(0).clamp(min=1)).mean())


by_hand = (1 / 1 + 2 / 3) / 2  # right at ranks 1 and 3
found = average_precision(torch.tensor([[3.0], [2.0], [1.0]]), torch.tensor([[1.0], [0.0], [1.0]]))
assert math.isclose(found, by_hand, rel_tol=1e-6)

# %%
from torch.nn.attention import SDPBackend, sdpa_kernel


def trained(kind: str, attends: list[bool], run: int) -> tuple[float, np.ndarray]:
    """Average precision on the test pictures, and the losses; a run's number decides weights and batches."""
    torch.manual_seed(1000 * seed + run)
    draw, model = runtime.generator(run), Classifier(kind, attends).to(where)
    rate = 1e-2 if quick else 1e-3
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.05, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=total, pct_start=0.2)
    losses = []
    for _ in range(total):
        chosen = torch.randint(len(train_x), (size,), generator=draw).to(where)
        x = train_x[chosen].flip(3) if torch.rand((), generator=draw) < 0.5 else train_x[chosen]
        loss = F.binary_cross_entropy_with_logits(model(x), train_y[chosen])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        losses.append(loss.item())
    model.eval()
    with torch.no_grad():
        return average_precision(torch.cat([model(x) for x in test_x.split(256)]), test_y), np.array(losses)


# %% [markdown]
# Six variants, each with the same seeds and the same batches for the same seed.

# %%
last, first_half = ([i >= depth // 2 for i in range(depth)][::step] for step in (1, -1))
plans = {
    "causal, no second branch": ("causal", last), "both neighbours, no second branch": ("regular", last),
    "gated": ("gated", last), "beside (MambaVision)": ("beside", last),
    "beside, attention first": ("beside", first_half), "beside, no attention": ("beside", [False] * depth),
}  # fmt: skip
start, scores, curves = time.perf_counter(), {name: [] for name in plans}, {}
_ = runtime.set_threads(1)  # matrices this small gain nothing from a second thread
with sdpa_kernel(SDPBackend.MATH):  # over so few tokens faster than the fused kernel
    for run in range(runs):
        for name, plan in plans.items():
            score, curves[name] = trained(*plan, run)
            scores[name].append(score)
_ = runtime.set_threads()
print(f"{runs * len(plans)} runs of {total} steps in {time.perf_counter() - start:.0f} s")

# %%
chance = float(test_y.mean(0).mean())
show(
    figures.losses({name: curves[name] for name in ("causal, no second branch", "beside (MambaVision)",
                                                    "beside, no attention")}, ylabel="loss", height=2.4),
    alt="Training losses of three variants; all fall, from about "
    f"{np.mean([v[0] for v in curves.values()]):.2f} to {np.mean([v[-10:].mean() for v in curves.values()]):.2f}.",
    caption="The last seed.",
)  # fmt: skip
show_table(
    ["variant", *(f"seed {run}" for run in range(runs)), "mean"],
    [[name, *(f"{s:.3f}" for s in found), f"{np.mean(found):.3f}"] for name, found in scores.items()],
    f"average precision on new scenes; a score that knows nothing gets about {chance:.2f}",
)
report.record("ablation: average precision", scores)
ends = [float(np.mean([v[:1].mean() for v in curves.values()])), float(np.mean([v[-10:] for v in curves.values()]))]
report.record("ablation: mean loss of the first step and of the last ten", ends)

# %% [markdown]
# **Is it noise?** Write each score as a variant's level plus a seed's level plus a rest. The rest is what a repetition
# would change. With $V$ variants and $S$ seeds it has $(V - 1)(S - 1)$ degrees of freedom; a difference of two variants
# has the standard error $s \sqrt{2 / S}$.

# %%
from scipy.stats import t as student

from vlmlab.figures import comparison

matrix = np.array(list(scores.values()))  # (V, S)
rest = matrix - matrix.mean(1, keepdims=True) - matrix.mean(0) + matrix.mean()
freedom = (len(matrix) - 1) * (runs - 1)
spread = math.sqrt((rest**2).sum() / freedom)
margin = float(student.ppf(0.975, freedom)) * spread * math.sqrt(2 / runs)
base = "beside (MambaVision)"
gains = {name: float(np.mean(found) - np.mean(scores[base])) for name, found in scores.items() if name != base}
report.record("ablation: differences to MambaVision's", gains)
report.record("ablation: 95 % half width of a difference", margin)

# %%
show(
    comparison.differences(
        list(gains), [(g, g - margin, g + margin) for g in gains.values()], xlabel="average precision",
        left="worse than MambaVision's", right="better",
    ),
    alt="Differences to MambaVision's mixer with attention last: "
    + "; ".join(f"{name} {100 * g:+.1f} points" for name, g in gains.items()) + f"; 95 % ± {100 * margin:.1f}.",
    caption="Filled: the 95 % interval leaves zero out.",
)  # fmt: skip

# %%
clear = [f"{name} ({100 * g:+.1f} points)" for name, g in gains.items() if abs(g) > margin]
paper_order = ["causal, no second branch", "both neighbours, no second branch", "gated", base]
means = [float(np.mean(scores[name])) for name in paper_order]
report.record("ablation: the mixers' order is the paper's", means == sorted(means))
Markdown(
    f"Measured with {runs} seeds and {total} steps: a difference of two variants has a 95 % interval of "
    f"± {100 * margin:.1f} points. "
    + (f"Beyond it: {', '.join(clear)}. With {len(gains)} comparisons, one in twenty is beyond it by chance."
       if clear else "**None of the differences exceeds the noise.**")
    + f" The four mixers come out in the paper's order: {'yes' if means == sorted(means) else 'no'} "
    "(by chance in one of 24 cases)."
)  # fmt: skip

# %% [markdown]
# What this can and cannot say. A run here is far shorter than the paper's, its model has two blocks, its pictures are
# tiny. An experiment that shows no difference has not shown that there is none: the interval says how large one would
# have had to be. The convolutions of the stem and the mean at the end also do work that a mixer would otherwise do.
# `profile = "full"` trains deeper models longer, with more seeds.
#
# ## 9. What it costs
#
# tiny and the ViT have the same number of parameters. Three sizes of picture, always the same number of pixels in a
# batch:

# %%
sides, speed = (96, 192, 384), {}
for side in sides:
    x = torch.randn((384 // side) ** 2 // 2 + (side == 384), 3, side, side, generator=runtime.generator(seed))
    with torch.inference_mode():
        seconds = alternate({"MambaVision": lambda x=x: encoder.features(x), "ViT": lambda x=x: vit.hidden_states(x)},
                            rounds)  # fmt: skip
    speed[side] = {name: 1e3 * value / len(x) for name, value in seconds.items()}
show(
    comparison.against_length(
        {"milliseconds a picture": {name: (sides, [speed[side][name] for side in sides]) for name in speed[96]}},
        xlabel="pixels a side",
    ),
    alt="; ".join(f"{side} px: MambaVision {found['MambaVision']:.1f} ms, ViT {found['ViT']:.1f} ms"
                  for side, found in speed.items()) + ".",
)  # fmt: skip
report.record("milliseconds a picture", {str(side): found for side, found in speed.items()})

# %%
grown = {name: speed[384][name] / speed[96][name] for name in speed[96]}
Markdown(
    f"From 96 to 384 px, 16 times the pixels, the time grows by {grown['MambaVision']:.0f} times for MambaVision and "
    f"{grown['ViT']:.0f} times for the ViT. At 96 px MambaVision takes "
    f"{speed[96]['MambaVision'] / speed[96]['ViT']:.1f} times as long as the ViT, at 384 px "
    f"{speed[384]['MambaVision'] / speed[384]['ViT']:.1f} times."
)

# %% [markdown]
# MambaVision's windows keep their size, so its cost is proportional to the pixels. The ViT compares all patches. On a
# CPU at 96 px there are few to compare, and the ViT has no high-resolution maps to fill.
#
# **Where the time goes.** T at 224 px, part by part, and the scans alone.

# %%
model = vision.MambaVision.from_variant("T", generator=runtime.generator(seed)).eval()
spent, begun = {}, {}
WATCHED = {package.Stem: "stem", package.ConvBlock: "convolutional blocks", package.MambaMixer: "scan mixers",
           Attention: "attention", Mlp: "MLPs"}  # fmt: skip
for part in model.modules():
    name = WATCHED.get(type(part))
    if name:
        part.register_forward_pre_hook(lambda m, _: begun.update({m: time.perf_counter()}))
        part.register_forward_hook(
            lambda m, *_, name=name: spent.update({name: spent.get(name, 0) + time.perf_counter() - begun[m]})
        )

# %%
x = torch.randn(1, 3, 224, 224, generator=runtime.generator(seed))
with torch.inference_mode():
    for _ in range(1 + rounds):  # the last one counts
        spent.clear()
        start = time.perf_counter()
        model(x)
        whole_time = time.perf_counter() - start
shares = {name: value / whole_time for name, value in spent.items()}
shares["between"] = 1 - sum(shares.values())

# %%
scanners = {name.removesuffix(".mixer"): m for name, m in model.named_modules() if isinstance(m, package.MambaMixer)}
with torch.no_grad():
    given = model.record(x, [f"{name}.{part}" for name in scanners for part in ("u", "delta", "B", "C")])


def scan_all(backend: str) -> None:
    for name, m in scanners.items():
        u, delta, B, C = (given[f"{name}.{part}"].mT for part in ("u", "delta", "B", "C"))
        selective_scan(u, delta, -m.A_log.exp(), B, C, m.D, backend=backend)


with torch.inference_mode():
    scan_time = alternate({name: lambda name=name: scan_all(name) for name in ("auto", "chunked")}, rounds)

# %%
scan_share = scan_time["auto"] / whole_time
show(
    figures.bars(list(shares), {"share of the time": list(shares.values())}, percent=True, limits=(0, 1)),
    alt=", ".join(f"{name} {value:.0%}" for name, value in shares.items()) + " of T's time.",
    caption=f"T, one picture of 224 px, {1e3 * whole_time:.0f} ms. The scans alone: {1e3 * scan_time['auto']:.1f} ms, "
    f"{scan_share:.1%}. Between: steps between levels, norms, windows.",
)  # fmt: skip
report.record("shares of T's time", shares)
report.record("share of T's time in the scans alone", scan_share)
report.record("share of T's multiply-adds in the scans", work["T"]["scan"] / sum(work["T"].values()))
report.record("time of the scans in plain PyTorch / compiled", scan_time["chunked"] / scan_time["auto"])

# %%
Markdown(
    f"The compiled scan takes {scan_share:.1%} of the time. If it cost nothing at all, T would be faster by "
    f"{scan_share:.1%}. The scan in plain PyTorch takes {scan_time['chunked'] / scan_time['auto']:.0f} times as long. "
    "`vlmlab bench mambavision` measures the whole model with each."
)

# %% [markdown]
# Windows make the scan short, 196 and 49 steps, and only half of the channels pass through it. In a language model that
# reads thousands of tokens (chapter 09) the scan is worth a kernel; in this encoder, convolutions and matrix products
# are.
#
# ## Exercises
#
# Replace each `...` by your own lines. A check says what is right or which mistake it looks like; until you begin, it
# says "not yet".
#
# ### Exercise 1 · Back from the windows (medium, 15 minutes)
#
# The inverse of `cut`: windows (B * n, side * side, C) back to the map (B, C, `height`, `width`), without the padding.
# Windows of one picture follow each other row by row.


# %%
def put_back(windows: torch.Tensor, side: int, batch: int, height: int, width: int) -> torch.Tensor:
    return ...  # your code here


check.put_back(put_back)

# %% [markdown]
# <details><summary>Hint</summary>
#
# How many rows and columns of windows were there, the padding included? Take the axes apart, (batch, rows, columns, y,
# x, C), and bring rows beside y and columns beside x.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def put_back(windows, side, batch, height, width):
#     rows, columns = -(-height // side), -(-width // side)
#     x = windows.reshape(batch, rows, columns, side, side, -1).permute(0, 5, 1, 3, 2, 4)
#     x = x.reshape(batch, -1, rows * side, columns * side)
#     return x[:, :, :height, :width]
# ```
#
# </details>
#
# ### Exercise 2 · Count a mixer (easy, 10 minutes)
#
# Return the parameters of one mixer with `dim` channels as a dict with the keys `in_proj`, `conv1d_x`, `conv1d_z`,
# `x_proj`, `dt_proj`, `A_log`, `D` and `out_proj`, biases counted with their layer. 8 numbers of state, 3 taps, and
# delta's rank is a sixteenth of `dim`, rounded up.


# %%
def mixer_parameters(dim: int) -> dict[str, int]:
    return ...  # your code here


check.mixer_parameters(mixer_parameters)

# %% [markdown]
# <details><summary>Hint</summary>
#
# The class `Mixer` shows each shape. One of its layers has a bias.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def mixer_parameters(dim):
#     inner, rank = dim // 2, -(-dim // 16)
#     return {
#         "in_proj": dim * dim,
#         "conv1d_x": 3 * inner,
#         "conv1d_z": 3 * inner,
#         "x_proj": inner * (rank + 2 * 8),
#         "dt_proj": rank * inner + inner,
#         "A_log": inner * 8,
#         "D": inner,
#         "out_proj": dim * dim,
#     }
# ```
#
# </details>
#
# ### Exercise 3 · Which blocks attend? (easy, 5 minutes)
#
# For a level of `depth` blocks, numbered from 0, return the list of those that use attention: the last half, and of an
# odd depth the smaller half.


# %%
def attention_blocks(depth: int) -> list[int]:
    return ...  # your code here


check.attention_blocks(attention_blocks)

# %% [markdown]
# <details><summary>Hint</summary>
#
# S has 7 blocks in level 2 and 5 in level 3: 4, 5, 6 and 3, 4 attend.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def attention_blocks(depth):
#     return list(range((depth + 1) // 2, depth))
# ```
#
# </details>
#
# ### Exercise 4 · The step size (easy, 10 minutes)
#
# `low` (L, R) is delta's low-rank form, `weight` (I, R) and `bias` (I) are `dt_proj`'s. Return $\Delta$ (L, I) exactly
# as the published model computes it.


# %%
def step_size(low: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return ...  # your code here


check.step_size(step_size)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Section 4, "A quirk". What is inside the softplus?
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def step_size(low, weight, bias):
#     return F.softplus(F.linear(low, weight, bias) + bias)
# ```
#
# </details>
#
# ### Exercise 5 · Features from the right place (medium, 10 minutes)
#
# `model` is the package's `MambaVision`. `model.patch_embed` is the stem; each of `model.levels` gives its map when
# called, and has a `downsample` to the next level, which is None in the last. Return the list of the four feature maps,
# without using `model.features`.


# %%
def feature_maps(model: nn.Module, pixels: torch.Tensor) -> list[torch.Tensor]:
    return ...  # your code here


check.feature_maps(feature_maps)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Append before you go down.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def feature_maps(model, pixels):
#     x, maps = model.patch_embed(pixels), []
#     for level in model.levels:
#         x = level(x)
#         maps.append(x)
#         if level.downsample is not None:
#             x = level.downsample(x)
#     return maps
# ```
#
# </details>
#
# ### Exercise 6 · Four ways through a window (harder, 25 minutes)
#
# What users of such encoders often ask for. `mixer` maps (B, L, C) to (B, L, C), and L = `side` x `side` tokens come
# row by row. Apply it in four orders: row by row, the same backwards, column by column, the same backwards. Bring each
# result back to the tokens' own places and return the mean of the four. Afterwards put it into `reach` of section 5:
# how many places does one block see now?


# %%
def four_ways(mixer, x: torch.Tensor, side: int) -> torch.Tensor:
    return ...  # your code here


check.four_ways(four_ways)

# %% [markdown]
# <details><summary>Hint</summary>
#
# An order is a list of indices: `x[:, order]`. Its inverse is `order.argsort()`. Column by column is
# `torch.arange(L).view(side, side).T.flatten()`.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def four_ways(mixer, x, side):
#     rows = torch.arange(side * side)
#     columns = rows.view(side, side).T.flatten()
#     orders = (rows, rows.flip(0), columns, columns.flip(0))
#     return sum(mixer(x[:, order])[:, order.argsort()] for order in orders) / 4
# ```
#
# </details>

# %% [markdown]
# ## Takeaways
#
# - From level to level a map loses places and gains channels. Attention's comparison of all pairs is dear on the first
#   maps and cheap on the last; what a tool can see decides as much as what it costs.
# - The mixer scans half of the channels and leaves the other half to a convolution, side by side.
# - A scan sees what came before it, and only as far ahead as its convolutions reach. One block with attention opens the
#   window. Attention alone would not know where anything is.
# - Parameters are exact: count them. A column of GFLOPs says what its counter saw.
# - Features are the maps before the convolution to the next level; a frozen BatchNorm must stay in evaluation mode.
# - An ablation of one run each cannot be told from noise. Repeat, and say how large a difference would have been seen.
#
# Next: 11, Cobra with MambaVision.
