# %% [markdown]
# # 08 · Cobra's architecture: fused encoders, projectors, 64 blocks
#
# *Cobra: Extending Mamba to Multi-Modal Large Language Model for Efficient Inference* (Zhao et al. 2024,
# [arXiv 2403.14520](https://arxiv.org/abs/2403.14520), numbers from version 4, section 3). *Mamba: Linear-Time Sequence
# Modeling with Selective State Spaces* (Gu and Dao 2023, [arXiv 2312.00752](https://arxiv.org/abs/2312.00752)).
# *Prismatic VLMs* (Karamcheti et al. 2024, [arXiv 2402.07865](https://arxiv.org/abs/2402.07865)).
#
# Cobra keeps LLaVA's plan, encoder, projector, language model, and replaces two of the three. It sees with two encoders
# that were trained for different things, and it reads with a Mamba instead of a transformer. This chapter builds each
# part, checks it against the package's, and counts the whole at the paper's size. Chapter 09 trains it.
#
# **After this chapter you can**
#
# - fuse two encoders: normalise for each, drop what is no patch, join the channels;
# - compute SigLIP's loss by hand, and say what keeps DINOv2's self-distillation from collapsing;
# - build Cobra's projectors, the one that keeps all tokens and the one that pools them;
# - build a Mamba block (convolution, selective parameters, scan, gate) and decode with a state of fixed size;
# - count Cobra's parameters and memory to the digit, and judge a claim about them;
# - say why the order of a prompt matters more to a state than to a cache.
#
# **Time** about 20 s of computing on 2 CPU cores, 0.8 GB of memory; 90 to 120 minutes of reading and exercises. Nothing
# here needs a GPU.
#
# | symbol | meaning | shape |
# |---|---|---|
# | $X_v$, $H_v$, $Z_v$ | picture, fused features, picture as tokens | (3, S, S), (P, $D_v$), (P, D) |
# | $X_q$, $H_q$ | instruction, its embeddings | (L), (L, D) |
# | $u$, $z$ | what a block scans, its gate | (L, I), $I = 2D$ |
# | $\Delta$, $B$, $C$ | step size, input and output of the state, from each token | (L, I), (L, N), (L, N) |
# | $A$, $D$ | decay of the state, direct path, learnt | (I, N), (I) |
# | $h$ | state | (I, N) |

# %% tags=["parameters"]
profile = "quick"  # "quick" or "full"
seed = 7  # of the picture and of all random weights
device = "cpu"  # "auto", "cpu", "cuda" or "mps"
question = "What color is the {kind}?"  # {kind} becomes an object of the picture
toy_steps = 200  # of the self-distillation on points in the plane
live_steps = 32  # of the self-distillation on scenes (20 times as many in the full profile)
live_scenes = 96  # rendered for it
longest = 4096  # tokens of the longest sequence in the memory figure

# %%
import copy
import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from vlmlab import figures, report, runtime, scenes, vlm
from vlmlab.checks import nb08 as check
from vlmlab.figures import cobra as diagrams
from vlmlab.figures import show, show_table
from vlmlab.vision.fused import NORMALISATION

runtime.seed_everything(seed)
cobra = vlm.VLM.from_preset("cobra-tiny", device=device, seed=seed).eval()
full = vlm.VLM.from_preset("cobra-3b", device="meta")  # shapes without memory
tokenizer = cobra.tokenizer

# %% [markdown]
# Both models have random weights. Shapes, counts and identities do not need trained ones; where a result would look
# different after training, the text says so.
#
# ## 1. Toy numbers: two encoders, two patches
#
# One picture of two patches. The first encoder gives two channels a token and puts a class token in front. The second
# gives three channels and has no such token. What is no patch goes; what describes the same patch is joined.

# %%
dinov2 = torch.tensor([[9.0, 9.0], [1.0, 2.0], [3.0, 4.0]])  # (1 + P, 2), the class token first
siglip = torch.tensor([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]])  # (P, 3)
H_v = torch.cat([dinov2[1:], siglip], dim=-1)  # (P, 2 + 3): DINOv2's channels first
H_v

# %% [markdown]
# The number of tokens stays, the channels add up. Joined along the other axis, the language model would have to read
# twice as many tokens, and nothing would say which two belong to one place.
#
# ## 2. The whole, at two sizes
#
# `cobra-tiny` is what this suite trains. `cobra-3b` has the paper's shapes: DINOv2 ViT-L/14 with 4 registers and SigLIP
# so400m/14, both at 384 pixels, and Mamba-2.8B. On the *meta* device a tensor has a shape and no memory, so both can be
# run here.


# %%
@torch.no_grad()
def shapes(model, words=13):  # of one picture and as many ids of text
    side, where = model.config.image_size, model.device
    X_v = torch.zeros(1, 3, side, side, device=where)
    found = {"X_v": X_v} | {name: model.vision.tokens(name, X_v, -2) for name in ("dinov2", "siglip")}
    found["H_v"] = torch.cat([found["dinov2"], found["siglip"]], -1)
    found["Z_v"] = model.project(found["H_v"])
    found["H_q"] = model.language.embed(torch.zeros(1, words, dtype=torch.long, device=where))
    found["sequence"] = torch.cat([found["Z_v"], found["H_q"]], 1)
    return {name: str(tuple(x.shape[1:])) for name, x in found.items()} | {"X_q": f"{words} ids"}


# %%
sizes = {model.config.name: shapes(model) for model in (cobra, full)}
rows = ("X_v", "dinov2", "siglip", "H_v", "Z_v", "X_q", "H_q", "sequence")
table = [[row, *(size[row] for size in sizes.values())] for row in rows]
show_table(["", *sizes], table, "shapes, batch axis left out")
report.record("shapes of cobra-3b", sizes["cobra-3b"])
grid, rest = divmod(full.config.image_size, 14)
print(f"{grid} x 14 + {rest} pixels: {grid} x {grid} = {grid**2} patches, and {rest} pixels a side stay unseen")

# %%
show(
    diagrams.architecture(sizes["cobra-3b"] | {"X_a": "token by token"}, full.config.language.layers),
    alt="The picture goes through DINOv2 and SigLIP; their channels are joined and projected. The Mamba reads the "
    "picture's tokens first and the question after them, and writes the answer.",
    caption="Cobra-3B with a question of 13 tokens.",
)

# %% [markdown]
# ## 3. Fused features
#
# The picture is resized to a square, not padded. Then each encoder gets it normalised as in its own training: DINOv2
# with ImageNet's mean and deviation, SigLIP with 0.5 and 0.5. Both give the output of their last block but one, before
# any final norm, as in LLaVA. The pair is Prismatic's: of the encoders compared there, these two together are reported
# to do best, above all on localisation.

# %%
scene = scenes.sample(seed, split="test", objects=3)
picture = scene.render(cobra.config.image_size).rgb  # uint8 (S, S, 3)
pixels = cobra.preprocess(picture)[None].to(cobra.device)  # (1, 3, S, S), still in [0, 1]
tokens = {}
for name, (mean, std) in NORMALISATION.items():
    encoder = getattr(cobra.vision, name)
    normal = (pixels - pixels.new_tensor(mean).view(3, 1, 1)) / pixels.new_tensor(std).view(3, 1, 1)
    with torch.no_grad():
        states = encoder.hidden_states(normal)  # layers + 1 of (1, prefix + P, D)
    tokens[name] = states[-2][:, encoder.prefix_tokens :]  # (1, P, D)
    print(
        f"{name}: pixels {normal.min():.2f} to {normal.max():.2f}; {len(states)} states {tuple(states[-2].shape)};",
        end="",
    )
    print(f" without {encoder.prefix_tokens} prefix tokens {tuple(tokens[name].shape)}")

# %%
H_v = torch.cat([tokens["dinov2"], tokens["siglip"]], dim=-1)  # (1, P, D_v)
with torch.no_grad():
    same = torch.equal(H_v, cobra.vision_features(pixels))
report.record("fused features equal the package's", same)
assert same

# %% [markdown]
# DINOv2's prefix is a class token and four **registers**: tokens without a place in the picture, added because without
# them a large ViT uses patches of the background as scratch memory (Darcet et al. 2024,
# [arXiv 2309.16588](https://arxiv.org/abs/2309.16588)).
#
# Taking the last block but one has a price in weights: the last block of both encoders is loaded and never runs.

# %%
idle = sum(
    p.numel()
    for v in (full.vision.dinov2, full.vision.siglip)
    for part in (v.blocks[-1], v.norm)
    for p in part.parameters()
)
report.record("parameters of Cobra-3B's encoders that never run", idle)

# %% [markdown]
# ## 4. What the two were trained to do
#
# **SigLIP** learnt from pictures and captions ([arXiv 2303.15343](https://arxiv.org/abs/2303.15343)), **DINOv2** from
# pictures alone ([arXiv 2304.07193](https://arxiv.org/abs/2304.07193)). Cobra's section 3.1 expects low-level spatial
# properties from DINOv2 and semantic ones from SigLIP. Its ablation (version 4) agrees in part: without DINOv2, VSR
# falls from 58.4 to 53.2 and RefCOCO from 52.7 to 46.7, while TextVQA rises from 58.2 to 58.8.
#
# ### SigLIP: every pair by itself
#
# In a batch of $B$ pictures and captions, $l_{ij} = t\,\langle x_i, y_j\rangle + b$ says how well caption $j$ fits
# picture $i$. CLIP lets picture $i$ *choose* among the captions, with a softmax over the row. SigLIP asks of every pair
# whether it belongs together, with $z_{ij} = 1$ on the diagonal and $-1$ elsewhere:
#
# $$\mathcal{L} = -\frac1B \sum_i \sum_j \log \sigma(z_{ij}\, l_{ij})$$

# %%
from vlmlab.vision.contrastive import clip_loss, siglip_loss

scores = torch.tensor([[2.0, -1.0, -3.0], [-2.0, 3.0, 2.5], [-3.0, 2.0, 2.0]])  # captions 2 and 3 are much alike
z = 2 * torch.eye(3) - 1
pairs = -torch.log(1 / (1 + torch.exp(-z * scores)))  # (B, B): the loss of each pair
print(pairs.numpy().round(3), f"sum / B = {pairs.sum() / 3:.4f}, the package's {siglip_loss(scores):.4f}", sep="\n")
assert torch.isclose(pairs.sum() / 3, siglip_loss(scores))

# %% [markdown]
# Now take the third pair out of the batch. For SigLIP the other pairs cost what they cost before. For CLIP, picture 2
# has an easier choice, and its loss falls.

# %%
row_loss = -scores.log_softmax(1)[1, 1], -scores[:2, :2].log_softmax(1)[1, 1]
print(f"CLIP, picture 2 choosing its caption: {row_loss[0]:.3f} among three, {row_loss[1]:.3f} among two")
print(f"SigLIP, pair (2, 2):                  {pairs[1, 1]:.3f} in both batches")

# %% [markdown]
# The gradients show it for the whole matrix. What each loss would change in the scores:

# %%
pull = []
for loss in (clip_loss, siglip_loss):
    logits = scores.clone().requires_grad_()
    loss(logits).backward()
    pull.append(-logits.grad.numpy())
show(
    figures.heatmaps(pull, ["CLIP", "SigLIP"], signed=True, value_label="push on the score"),
    alt="Two 3 by 3 maps. Both push the confused pairs (2, 3) and (3, 2) down and the diagonal up. CLIP pulls hardest "
    "at the diagonal of the confused two, SigLIP pushes hardest at the confusion.",
    caption="Minus the gradient; rows are pictures, columns captions. "
    f"Sum of all nine: CLIP {abs(pull[0].sum()):.2f}, SigLIP {pull[1].sum():.2f}.",
)

# %% [markdown]
# No sum over the batch stands in a denominator, so the loss can be computed piece by piece (exercise 5). One problem is
# new: of $B^2$ pairs only $B$ belong together. At the start all similarities are near zero, and the many others would
# drown the few. The bias $b$ starts at -10, and says "nothing belongs together" before anything is learnt.

# %%
x, y = (F.normalize(torch.randn(64, 128, generator=runtime.generator(seed + i)), dim=-1) for i in range(2))
for b in (0.0, -10.0):
    loss = siglip_loss(10 * x @ y.T + b).item()
    print(f"64 random pairs, t = 10, b = {b:>5}: loss {loss:.2f}")

# %% [markdown]
# ### DINOv2: agree with your own past
#
# No caption, no label. Two networks of one shape see crops of the same picture. The **teacher** answers with a
# distribution over $K$ prototypes; the **student**, on another crop, has to give the same answer:
#
# $$\mathcal{L} = -\sum_k p_t^{(k)} \log p_s^{(k)}, \qquad p_s = \mathrm{softmax}(g_s / \tau_s), \quad
# p_t = \mathrm{softmax}((g_t - c) / \tau_t)$$
#
# The teacher is not trained. Its weights are an exponential moving average of the student's, $\theta_t \leftarrow
# m\,\theta_t + (1 - m)\,\theta_s$.
#
# There is a cheap way to agree: give every picture the same answer, without looking. Two devices are against it.
# **Centring** subtracts $c$, the mean of the teacher's recent scores: what is said of every picture stops counting.
# **Sharpening** divides by a small $\tau_t$, below the student's $\tau_s$: the answer has to be definite. Two numbers
# tell how it goes. `spread` is the entropy of the *mean* answer, 0 when all pictures get the same prototype. `doubt` is
# the mean entropy of *one* answer, 1 when it says nothing. Both are fractions of $\log K$. The difference
# spread - doubt is the mutual information of picture and prototype: what an answer tells about the picture.

# %%
from vlmlab.vision.self_distillation import entropy

g_t = torch.tensor([[1.0, 0.3, 0.2], [1.0, 0.2, 0.4], [1.1, 0.5, 0.2], [0.9, 0.1, 0.3]])  # 4 pictures, K = 3
table = []
for centred in (False, True):
    for tau in (1.0, 0.04):
        p_t = ((g_t - centred * g_t.mean(0)) / tau).softmax(-1)
        spread, doubt = entropy(p_t.mean(0)), entropy(p_t)
        table.append([centred, tau, p_t[0].numpy().round(2), spread, doubt, spread - doubt])
show_table(["centred", "temperature", "answer to picture 1", "spread", "doubt", "difference"], table)

# %% [markdown]
# Sharpening alone makes prototype 1 the answer to everything: all collapse to one. Centring alone leaves an answer that
# is hardly more than a guess. Together, the small differences between pictures become the answer.
#
# Does this decide a training? Points in the plane stand for pictures. There are four clusters, and a crop is the point
# with noise whose deviation is half the distance between neighbouring clusters. The whole method is 20 lines.


# %%
def distil(centring: bool, sharpening: bool, K: int = 8, m: float = 0.95) -> np.ndarray:
    """Train on points; spread and doubt of the teacher's answers, and the loss: (steps, 3)."""
    draw, seen = runtime.generator(seed), []
    torch.manual_seed(seed)
    student = nn.Sequential(nn.Linear(2, 32), nn.GELU(), nn.Linear(32, K))
    teacher, c = copy.deepcopy(student).requires_grad_(False), torch.zeros(K)
    optimiser = torch.optim.AdamW(student.parameters(), lr=0.01)
    corners = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    for _ in range(toy_steps):
        points = corners[torch.randint(4, (64,), generator=draw)]
        first, second = points + torch.randn(2, 64, 2, generator=draw)  # two crops of each
        g_t = teacher(first)
        p_t = ((g_t - centring * c) / (0.04 if sharpening else 0.1)).softmax(-1)
        loss = -(p_t * (student(second) / 0.1).log_softmax(-1)).sum(-1).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        c = 0.9 * c + 0.1 * g_t.mean(0)
        for theta_t, theta_s in zip(teacher.parameters(), student.parameters(), strict=True):
            theta_t.copy_(m * theta_t + (1 - m) * theta_s.detach())
        seen.append((entropy(p_t.mean(0)), entropy(p_t), loss.item()))
    return np.array(seen)


# %%
runtime.set_threads(1)  # matrices this small gain nothing from a second thread
kinds = {"both": (True, True), "no centring": (False, True), "no sharpening": (True, False)}
toys = {name: distil(*devices) for name, devices in kinds.items()}
ends = {name: run[-20:].mean(0) for name, run in toys.items()}
show(
    diagrams.panels(
        {
            "spread": {name: run[:, 0] for name, run in toys.items()},
            "doubt": {name: run[:, 1] for name, run in toys.items()},
            "spread - doubt": {name: run[:, 0] - run[:, 1] for name, run in toys.items()},
        },
        limits=(-0.02, 1.04),
    ),
    alt="Over the last 20 steps: "
    + "; ".join(f"{name}: spread {end[0]:.2f}, doubt {end[1]:.2f}" for name, end in ends.items()),
    caption="Entropies of the teacher's answers as fractions of log K.",
)
for name, (spread, doubt, loss) in ends.items():
    print(f"{name:13} loss {loss:.3f} at the end (log K = {math.log(8):.3f})")
    report.record(f"self-distillation on points, {name}: spread - doubt", spread - doubt)

# %% [markdown]
# Both collapses are there. In each, student and teacher agree on every picture and nothing is left to learn. Without
# centring this even has the lowest loss of the three: a loss that falls is no evidence here, and `spread` and `doubt`
# have to be watched.
#
# DINOv2 replaces the running mean $c$ by a few steps of Sinkhorn and Knopp's normalisation (the package keeps the mean)
# and adds two terms. **iBOT** hides patches from the student, which must say what the teacher, who sees them, says of
# each: this is what trains the *patches* that Cobra reads. **KoLeo** pushes the class tokens of a batch apart. Crops of
# a scene, as the package makes them:

# %%
from vlmlab.vision.self_distillation import SelfDistillation, crop_batch

rng = np.random.default_rng(seed)
rgb = np.stack([scenes.sample(i, objects=2).render(48).rgb for i in range(live_scenes)])
seen = torch.from_numpy(rgb).permute(0, 3, 1, 2).float() / 255  # (N, 3, 48, 48)
crops = crop_batch(seen[3:4], np.random.default_rng(5), patch_size=12, narrow=2, masked=1.0)
cover = crops.hidden.view(2, 4, 4).repeat_interleave(12, 1).repeat_interleave(12, 2)[:, None]  # (2, 1, 48, 48)
views = [
    rgb[3],
    *torch.where(cover, 0.0, crops.wide).permute(0, 2, 3, 1).numpy(),
    *crops.narrow.permute(0, 2, 3, 1).numpy(),
]
show(
    figures.pictures(views, ["picture", "wide crop", "wide crop", "narrow crop", "narrow crop"]),
    alt="A scene, two large crops of it with some patches covered in black, and two small crops.",
    caption="The teacher sees the two wide crops whole; the student sees all four, with the black patches hidden.",
)

# %% [markdown]
# A live run of the package's `SelfDistillation` on rendered scenes: a ViT of three layers, and far fewer steps than it
# would need.

# %%
from vlmlab.vision import ViT, ViTConfig

total = live_steps if profile == "quick" else 20 * live_steps
mean, std = (torch.tensor(v).view(3, 1, 1) for v in NORMALISATION["dinov2"])
torch.manual_seed(seed)
small = ViT(ViTConfig("dinov2", 48, 12, dim=64, layers=3, heads=2, hidden=128, registers=2))
method = SelfDistillation(small, total, prototypes=128)
optimiser = torch.optim.AdamW(method.parameters(), lr=5e-4)
log = []
for _ in range(total):
    crops = crop_batch(seen[rng.choice(live_scenes, 32, replace=False)], rng, patch_size=12, narrow=2)
    crops = crops._replace(wide=(crops.wide - mean) / std, narrow=(crops.narrow - mean) / std)
    loss, metrics = method(crops)
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    log.append(metrics)

# %%
_ = runtime.set_threads()  # all cores again
curves = {name: np.array([step[name] for step in log]) for name in log[0]}
show(
    figures.losses(
        {"class tokens (DINO)": curves["dino"], "hidden patches (iBOT)": curves["ibot"]},
        chance=math.log(128), chance_label="a student that says nothing", smooth=0, height=2.5,
    ),
    alt=f"Over {total} steps DINO's loss goes from {curves['dino'][0]:.2f} to {curves['dino'][-1]:.2f} and iBOT's from "
    f"{curves['ibot'][0]:.2f} to {curves['ibot'][-1]:.2f}.",
)  # fmt: skip
for name in ("spread", "doubt"):
    print(f"{name}: {curves[name][0]:.2f} at the start, {curves[name][-1]:.2f} at the end")
end = {name: float(curve[-5:].mean()) for name, curve in curves.items()}
report.record("live self-distillation: loss of the last five steps", end["dino"] + end["ibot"])
report.record("live self-distillation: spread - doubt of the last five steps", end["spread"] - end["doubt"])

# %% [markdown]
# The loss falls and neither collapse has happened. That this encoder sees anything useful would be a claim about
# held-out scenes; chapter 09 makes it, for the shipped one.
#
# ## 5. Projectors
#
# `gelu-mlp` is LLaVA-1.5's. For two encoders Cobra adds a layer and makes the first one four times as wide as its
# input, `fused-gelu-mlp`:
#
# $$Z_v = W_3\,\mathrm{GELU}(W_2\,\mathrm{GELU}(W_1 H_v))\qquad D_v \to 4 D_v \to D \to D$$


# %%
class FusedMLP(nn.Module):
    def __init__(self, d_v: int, d: int):
        super().__init__()
        self.first, self.second, self.third = nn.Linear(d_v, 4 * d_v), nn.Linear(4 * d_v, d), nn.Linear(d, d)

    def forward(self, features):  # (B, P, D_v) -> (B, P, D)
        return self.third(F.gelu(self.second(F.gelu(self.first(features)))))


# %%
d_v, d = cobra.config.feature_dim, cobra.config.language.dim
projector = FusedMLP(d_v, d).to(cobra.device)
for mine, theirs in zip(projector.children(), (0, 2, 4), strict=True):
    mine.load_state_dict(cobra.projector[theirs].state_dict())
with torch.no_grad():
    Z_v = projector(H_v)  # (1, P, D)
    same = torch.equal(Z_v, cobra.encode_images(pixels))
report.record("FusedMLP equals the package's fused-gelu-mlp", same)
assert same

# %% [markdown]
# The paper's other projector, **LDPv2** (MobileVLM V2, [arXiv 2402.03766](https://arxiv.org/abs/2402.03766), section
# 3.3), leaves fewer tokens: two layers, then the grid is averaged down to 14 x 14, then a depthwise 3 x 3 convolution
# is added to it. Two details. 27 does not divide into 14, so neighbouring averages overlap:

# %%
windows = [(i * 27 // 14, -(-(i + 1) * 27 // 14)) for i in range(14)]  # start, and one past the end
pooled = F.adaptive_avg_pool1d(torch.arange(27.0)[None], 14)[0]
assert torch.allclose(pooled, torch.tensor([(a + b - 1) / 2 for a, b in windows]))
print("rows averaged into each of 14:", " ".join(f"{a}-{b - 1}" for a, b in windows))

# %% [markdown]
# And the convolution knows where the border is, because there it sees zeros. On a grid on which every token is the
# same, its output still depends on the place (Chu et al. 2021, [arXiv 2102.10882](https://arxiv.org/abs/2102.10882)):

# %%
peg = nn.Conv2d(1, 1, 3, padding=1)
with torch.no_grad():
    place = peg(torch.ones(1, 1, 8, 8))[0, 0]  # (8, 8)
inside, kinds_of_place = place[1:-1, 1:-1], len(place.round(decimals=5).unique())
show(
    figures.heatmaps([place.numpy()], ["convolution of a constant grid"]),
    alt="A map of 8 by 8 values: all inner ones are equal, the four edges and the four corners differ from them.",
    caption=f"{kinds_of_place} different values: 4 corners, 4 edges, and one for all {inside.numel()} inner places.",
)

# %% [markdown]
# One such layer marks the outermost ring; what is inside learns from its neighbours only what they show. The skip
# connection keeps the token itself.


# %%
class LDPv2(nn.Module):
    def __init__(self, d_v: int, d: int, side: int):
        super().__init__()
        self.first, self.second, self.side = nn.Linear(d_v, 4 * d_v), nn.Linear(4 * d_v, d), side
        self.peg = nn.Conv2d(d, d, 3, padding=1, groups=d)

    def forward(self, features):  # (B, P, D_v) -> (B, side * side, D)
        x = self.second(F.gelu(self.first(features)))
        grid = x.transpose(1, 2).unflatten(2, (math.isqrt(x.shape[1]),) * 2)  # (B, D, g, g)
        grid = F.adaptive_avg_pool2d(grid, self.side)  # (B, D, side, side)
        return (grid + self.peg(grid)).flatten(2).transpose(1, 2)


# %%
theirs = vlm.build_projector("fused-ldpnet", d_v, d, pooled=4).to(cobra.device)
mine = LDPv2(d_v, d, 4).to(cobra.device)
for part, other in ((mine.first, theirs[0]), (mine.second, theirs[2]), (mine.peg, theirs[4].peg[0])):
    part.load_state_dict(other.state_dict())
with torch.no_grad():
    ldp_gap = ((mine(H_v) - theirs(H_v)).abs().max() / theirs(H_v).abs().max()).item()
report.record("LDPv2 against the package, relative difference", ldp_gap)
assert ldp_gap < 1e-5

# %%
table = []
with torch.device("meta"):
    features = torch.empty(1, 729, 2176)
    for name in ("linear", "gelu-mlp", "fused-gelu-mlp", "fused-ldpnet"):
        layers = vlm.build_projector(name, 2176, 2560)
        table.append([name, layers(features).shape[1], sum(p.numel() for p in layers.parameters())])
shown = [[name, count, f"{size:,}"] for name, count, size in table]
show_table(["projector", "tokens", "parameters"], shown, "from 2176 to 2560 channels")
report.record("parameters of fused-gelu-mlp at full size", table[2][2])
report.record("tokens that fused-ldpnet leaves", table[3][1])

# %% [markdown]
# In the paper's comparison (version 4) LDPv2 loses on most benchmarks, TextVQA 58.2 to 54.7 and VSR 58.4 to 56.1, and
# wins on VizWiz, 49.7 to 50.2. It saves little time there, 166.85 against 166.47 tokens a second: a Mamba reads
# 729 tokens once and then carries a state of the same size as after 196.
#
# ## 6. The Mamba block
#
# A block is $x + \mathrm{mixer}(\mathrm{RMSNorm}(x))$. There is no attention and no MLP: the mixer is both. Below, the
# real thing: the picture's tokens, then a question's.

# %%
asked = question.format(kind=scene.objects[0].kind)
ids = cobra.template.encode_prompt(asked, tokenizer)  # the image's placeholder is ids[0]
H_q = cobra.language.embed(torch.tensor([ids[1:]], device=cobra.device)).detach()  # (1, L - 1, D)
sequence = torch.cat([Z_v, H_q], dim=1)  # (1, T, D), T = P + L - 1
c, T = cobra.config.language, sequence.shape[1]
print(asked, tuple(sequence.shape))

# %%
wide, narrow, few = f"({T}, {c.inner})", f"({T}, {c.dim})", f"({T}, {c.state})"
show(
    diagrams.mamba_block(
        {"x": narrow, "norm": narrow, "u": wide, "z": wide, "conv": wide, "delta": wide, "B": few, "C": few,
         "scan": wide, "out": narrow},
    ),
    alt="The normalised stream is widened into u and z. u goes through a short convolution and the selective scan, "
    "whose parameters come from u; z gates the result, which is projected back and added to the stream.",
    caption=f"Shapes of cobra-tiny for {T} tokens.",
)  # fmt: skip

# %% [markdown]
# **In.** A copy of the stream is normalised and widened, twice: $u$ is scanned, $z$ becomes the gate.

# %%
block, mixer = cobra.language.layers[0], cobra.language.layers[0].mixer
x_hat = block.norm(sequence).detach()
u, z = mixer.in_proj(x_hat).detach().chunk(2, dim=-1)  # (1, T, I) each
tuple(u.shape), tuple(z.shape)

# %% [markdown]
# **The convolution** lets each channel look at itself and at the three tokens before. It is *depthwise*, a channel sees
# no other, and *causal*: zeros in front, none behind.


# %%
def convolve(u, weight, bias):  # (B, L, I), (I, K), (I) -> (B, L, I)
    K = weight.shape[1]
    padded = F.pad(u, (0, 0, K - 1, 0))  # K - 1 zero tokens in front
    return bias + sum(padded[:, k : k + u.shape[1]] * weight[:, k] for k in range(K))


weight, bias = mixer.conv1d.weight[:, 0].detach(), mixer.conv1d.bias.detach()
u = F.silu(convolve(u, weight, bias))
convolve(torch.eye(5)[None, :, :1], torch.tensor([[1.0, 2.0, 3.0, 4.0]]), torch.zeros(1)).flatten()

# %% [markdown]
# A one at the first token gives the taps backwards: the last tap is the token's own.
#
# **Selective parameters.** What made earlier state-space models weak at language is that they treat all tokens alike.
# Mamba computes step size, input and output of the state from the token (section 3.2):
#
# $$\Delta = \mathrm{softplus}(W_\Delta W_r u + b_\Delta), \quad B = W_B u, \quad C = W_C u, \quad A = -e^{A_{\log}}$$

# %%
low, B, C = mixer.x_proj(u).detach().split([c.rank, c.state, c.state], dim=-1)  # (1, T, rank), (1, T, N), (1, T, N)
delta = F.softplus(mixer.dt_proj(low)).detach()  # (1, T, I)
A = -torch.exp(mixer.A_log).detach()  # (I, N)
print(f"delta {tuple(delta.shape)} from {delta.min():.4f} to {delta.max():.3f}; A from {A.min():.0f} to {A.max():.0f}")
print(
    f"one step keeps between {(delta.max() * A.min()).exp():.2f} and {(delta.min() * A.max()).exp():.4f} of the state"
)

# %% [markdown]
# **The scan** (chapter 07) runs $h_t = e^{\Delta_t A} h_{t-1} + \Delta_t B_t u_t$ and reads $y_t = C_t h_t + D u_t$.
# **The gate** multiplies by silu(z); `out_proj` leads back to the stream.

# %%
from vlmlab.scan import selective_scan

with torch.no_grad():
    # (1, I, T), and the last state (1, I, N)
    y, h = selective_scan(u.mT, delta.mT, A, B.mT, C.mT, mixer.D, return_last_state=True)
    out = mixer.out_proj(y.mT * F.silu(z))  # (1, T, D)
    gap = ((out - mixer(x_hat)).abs().max() / out.abs().max()).item()
print(f"against the package's mixer: relative difference {gap:.1e}; state {tuple(h.shape)}")
assert gap < 1e-5

# %% [markdown]
# **The residual stream stays in float32**, also when everything else is in bfloat16, whose numbers have 8 significant
# bits. 64 blocks that each add a little may add nothing at all:

# %%
for dtype in (torch.bfloat16, torch.float32):
    stream = torch.ones((), dtype=dtype)
    for _ in range(64):
        stream = stream + torch.tensor(0.003, dtype=dtype)
    print(f"1 + 64 x 0.003 in {dtype}: {stream.item():.3f}")

# %% [markdown]
# All of it as classes. The names are the package's, so that weights can be copied both ways. `past` is what a block
# keeps of what it has read, the convolution's last inputs and the state; section 7 uses it.


# %%
class Mixer(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        self.in_proj = nn.Linear(c.dim, 2 * c.inner, bias=False)
        self.conv1d = nn.Conv1d(c.inner, c.inner, c.conv, groups=c.inner)
        self.x_proj = nn.Linear(c.inner, c.rank + 2 * c.state, bias=False)
        self.dt_proj = nn.Linear(c.rank, c.inner)
        self.A_log = nn.Parameter(torch.arange(1.0, c.state + 1).log().repeat(c.inner, 1))
        self.D = nn.Parameter(torch.ones(c.inner))
        self.out_proj = nn.Linear(c.inner, c.dim, bias=False)

    def selected(self, u):  # (B, L, I) -> delta (B, L, I), B and C (B, L, N)
        low, B, C = self.x_proj(u).split([self.c.rank, self.c.state, self.c.state], -1)
        return F.softplus(self.dt_proj(low)), B, C

    def forward(self, x, past=None):  # (B, L, D), past: inputs (B, K, I) and state (B, I, N)
        u, z = self.in_proj(x).chunk(2, -1)  # (B, L, I) each
        inputs, h = past or (u.new_zeros(len(u), self.c.conv, self.c.inner), None)
        u = torch.cat([inputs, u], 1)  # (B, K + L, I)
        inputs = u[:, -self.c.conv :]
        u = F.silu(self.conv1d(u[:, 1:].mT).mT)  # (B, L, I)
        delta, B, C = self.selected(u)
        A = -self.A_log.exp()
        y, h = selective_scan(u.mT, delta.mT, A, B.mT, C.mT, self.D, initial_state=h, return_last_state=True)
        return self.out_proj(y.mT * F.silu(z)), (inputs, h)


# %%
class Block(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.norm, self.mixer = nn.RMSNorm(c.dim, eps=c.eps), Mixer(c)

    def forward(self, x, past=None):
        mixed, past = self.mixer(self.norm(x.to(self.norm.weight.dtype)), past)
        return x.float() + mixed, past


class MiniMamba(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.embeddings = nn.Embedding(c.vocab_size, c.dim)
        self.layers = nn.ModuleList(Block(c) for _ in range(c.layers))
        self.norm_f = nn.RMSNorm(c.dim, eps=c.eps)

    def forward(self, embeds, past=None):  # (B, L, D) -> logits (B, L, V) and the new past of each block
        kept = []
        for layer, held in zip(self.layers, past or [None] * len(self.layers), strict=True):
            embeds, held = layer(embeds, held)
            kept.append(held)
        return self.norm_f(embeds) @ self.embeddings.weight.T, kept


# %% [markdown]
# **Check.** Random weights of this class, copied into the package's `Mamba`. The package itself is compared with
# transformers' `MambaForCausalLM` in the tests. With embeddings of size 1 the blocks would hardly show in the logits,
# and the check could not fail; they are drawn smaller, and a matrix that is wrong by 1 % is found:

# %%
from vlmlab.language import Mamba, MambaConfig

toy = MambaConfig(vocab_size=50, dim=32, layers=3)
mini, package = MiniMamba(toy), Mamba(toy)
nn.init.normal_(mini.embeddings.weight, std=0.02)
package.load_state_dict(mini.state_dict())
some_ids = torch.randint(50, (2, 19), generator=runtime.generator(seed))
with torch.no_grad():
    ours, theirs = mini(mini.embeddings(some_ids))[0], package(some_ids)
mini_gap = ((ours - theirs).abs().max() / theirs.abs().max()).item()
report.record("MiniMamba against the package, relative difference", mini_gap)
assert mini_gap < 1e-5
with torch.no_grad():
    package.layers[1].mixer.x_proj.weight *= 1.01
    wrong = ((ours - package(some_ids)).abs().max() / ours.abs().max()).item()
print(f"with one matrix wrong by 1 %: {wrong:.0e}")
assert wrong > 1e-5

# %% [markdown]
# How far does a token reach? The size of the derivative of output $i$ with respect to input $j$, for the convolution
# and for the whole mixer:


# %%
def reach(layer, length=16):
    x = x_hat[:, -length:].clone().requires_grad_()
    out = layer(x)  # (1, length, channels)
    probe = torch.randn(out.shape[-1], generator=runtime.generator(seed)).to(out)
    rows = [
        torch.autograd.grad((out[0, i] * probe).sum(), x, retain_graph=True)[0][0].norm(dim=-1) for i in range(length)
    ]
    return torch.stack(rows).cpu().numpy()  # (output, input)


maps = [
    reach(lambda x: convolve(mixer.in_proj(x).chunk(2, -1)[0], weight, bias)),
    reach(mixer),
]
assert all(np.allclose(np.triu(m, 1), 0) for m in maps)
show(
    figures.heatmaps([np.log10(m / m.max() + 1e-6) for m in maps], ["convolution alone", "the whole mixer"],
                     value_label="log10 of the share"),
    alt="Two lower-triangular maps. The convolution's is a band four wide; the mixer's reaches back to the start.",
    caption="Row: output token. Column: input token. Nothing reaches forward.",
)  # fmt: skip

# %% [markdown]
# Now the whole Cobra from this notebook's parts: encoders, `FusedMLP`, the splice at position 0, `MiniMamba`.

# %%
language = MiniMamba(c).to(cobra.device)
language.load_state_dict(cobra.language.state_dict())
with torch.no_grad():
    ours, past = language(
        torch.cat([projector(H_v), language.embeddings(torch.tensor([ids[1:]], device=cobra.device))], 1)
    )
    theirs = cobra(pixels, torch.tensor([ids]))
cobra_gap = ((ours - theirs).abs().max() / theirs.abs().max()).item()
report.record("this notebook's Cobra against the package, relative difference", cobra_gap)
assert cobra_gap < 1e-5
tuple(ours.shape)

# %% [markdown]
# ## 7. Decoding: one step, one size
#
# To write a token, a transformer looks at everything before it. A Mamba needs the last inputs of each convolution and
# the state. One step, written out, without a scan:


# %%
def step(mixer, x, past):  # (B, D), inputs (B, K, I), state (B, I, N)
    inputs, h = past
    u, z = mixer.in_proj(x).chunk(2, -1)  # (B, I) each
    inputs = torch.cat([inputs[:, 1:], u[:, None]], 1)  # the oldest goes, the newest comes
    u = F.silu((inputs * mixer.conv1d.weight[:, 0].T).sum(1) + mixer.conv1d.bias)
    delta, B, C = mixer.selected(u)
    A = -mixer.A_log.exp()
    h = torch.exp(delta[..., None] * A) * h + (delta * u)[..., None] * B[:, None]  # (B, I, N)
    y = (h * C[:, None]).sum(-1) + mixer.D * u
    return mixer.out_proj(y * F.silu(z)), (inputs, h)


# %% [markdown]
# **Check.** Read all tokens but the last, then make one step: the same as reading all of them at once. Then the same
# for tokens: greedy decoding with the past against reading everything again each time.

# %%
with torch.no_grad():
    mine = language.layers[0].mixer
    everything, after = mine(x_hat)
    _, before = mine(x_hat[:, :-1])
    last, stepped = step(mine, x_hat[:, -1], before)
step_gap = ((last - everything[:, -1]).abs().max() / everything[:, -1].abs().max()).item()
state_gap = ((stepped[1] - after[1]).abs().max() / after[1].abs().max()).item()
report.record("one step against the scan, relative difference", max(step_gap, state_gap))
assert max(step_gap, state_gap) < 1e-5

# %%
with torch.no_grad():
    logits, past = language(sequence)
    written, embeds = [], sequence
    for _ in range(12):
        written.append(int(logits[0, -1].argmax()))
        new = language.embeddings.weight[written[-1]][None, None]  # (1, 1, D)
        logits, past = language(new, past)  # one token and the past
        embeds = torch.cat([embeds, new], 1)
    again = language(embeds)[0][0, sequence.shape[1] - 1 : -1].argmax(-1).tolist()  # everything once more
    package = cobra.generate_ids(pixels, torch.tensor([ids]), max_new_tokens=12, eos_ids=[])[0].tolist()
report.record("decoding with the state gives the tokens of reading everything", written == again == package)
assert written == again == package

# %% [markdown]
# The past takes the same memory after 10 tokens and after 400:

# %%
held = {}
for length in (10, 100, 400):
    cache = cobra.language.new_cache()
    with torch.no_grad():
        cobra.language.hidden(inputs_embeds=torch.randn(1, length, d, device=cobra.device), cache=cache)
    held[length] = cache.bytes()
print("bytes after so many tokens:", held, "by hand:", c.layers * c.inner * (c.state + c.conv) * 4)
assert set(held.values()) == {c.layers * c.inner * (c.state + c.conv) * 4}  # float32

# %% [markdown]
# At the paper's size, 64 blocks of 5120 channels keep 16 numbers of state and 4 inputs each. Upstream keeps them in the
# weights' dtype, two bytes a number; this package keeps the state itself in float32. LLaVA-1.5-7B keeps keys and
# values of every token in 32 layers of 4096 channels.

# %%
from vlmlab.vlm import account

accounts = {"LLaVA-1.5-7B": account("llava-1.5-7b"), "Cobra-3B": account(full)}
big = full.config.language
numbers = big.layers * big.inner * (big.state + big.conv)
per_token = accounts["LLaVA-1.5-7B"]["cache_bytes_per_token"]["bf16"]
assert 2 * numbers == accounts["Cobra-3B"]["cache_bytes"]["bf16"]["4096"]
report.record("state of Cobra-3B, MiB in bf16", 2 * numbers / 2**20)
mixed = big.layers * big.inner * (4 * big.state + 2 * big.conv)
report.record("the same with the state in float32, MiB", mixed / 2**20)
report.record("KV cache of LLaVA-1.5-7B, MiB a token in bf16", per_token / 2**20)

# %%
lengths = np.unique(np.geomspace(1, longest, 40).astype(int))
one_picture = {name: a["image_tokens"] for name, a in accounts.items()}
picture_cache = one_picture["LLaVA-1.5-7B"] * per_token / 2**20
show(
    figures.losses(
        {
            "LLaVA-1.5-7B: keys and values": (lengths, lengths * per_token / 2**20),
            "Cobra-3B: state and inputs": (lengths, np.full(len(lengths), 2 * numbers / 2**20)),
        },
        smooth=0, log=True, xlabel="tokens read", ylabel="MiB in bf16", height=2.6,
    ),
    alt=f"The cache grows with the length to {longest * per_token / 2**20:.0f} MiB at {longest} tokens; the state "
    f"stays at {2 * numbers / 2**20:.1f} MiB.",
    caption=f"One picture alone, {one_picture['LLaVA-1.5-7B']} tokens: {picture_cache:.0f} MiB of cache.",
)  # fmt: skip

# %% [markdown]
# A few dozen tokens are enough for the cache to be larger (exercise 4 asks for the number). The price is the other side
# of the same fact: 6.5 million numbers have to hold whatever will be asked about the picture.
#
# ## 8. 64 blocks, counted
#
# One block of Cobra-3B, from its shapes, and the language model from its blocks:

# %%
counts = {}
for name, p in full.language.layers[0].named_parameters():
    part = name.removeprefix("mixer.").removesuffix(".weight").removesuffix(".bias")
    counts[part] = counts.get(part, 0) + p.numel()
table = [[part, f"{count:,}", f"{100 * count / sum(counts.values()):.2f} %"] for part, count in counts.items()]
show_table(["part", "parameters", "share"], table, "one block of Cobra-3B")
in_block, table_size = sum(counts.values()), big.vocab_size * big.dim
whole = big.layers * in_block + table_size + big.dim  # the output layer is the embedding table, the last norm has D
print(f"{big.layers} x {in_block:,} + {big.vocab_size:,} x {big.dim:,} + {big.dim:,} = {whole:,}")
assert whole == accounts["Cobra-3B"]["parameters"]["language"]
report.record("parameters of a block of Cobra-3B", in_block)
report.record("parameters of Cobra-3B's language model", whole)

# %% [markdown]
# The vocabulary has 50,277 words; the table is padded to a multiple of 8. Nearly all of a block is `in_proj` and
# `out_proj`. What makes it a Mamba, the convolution, the selective parameters, $A$ and $D$, has few weights.
#
# **A claim to check.** This suite's brief says that Cobra has "approximately 43 % fewer parameters" than LLaVA-1.5-7B.
# The paper's first version says something else, "comparable performance to LLaVA with about 43 % *of* the number of
# parameters". Version 4 drops that from its abstract and says that Cobra "fine-tunes a small parameter (∼48% of model
# parameters)", without saying of which model. Count:

# %%
parts = ("vision", "projector", "language")
ours, theirs = accounts["Cobra-3B"]["parameters"], accounts["LLaVA-1.5-7B"]["parameters"]
ratios = {
    "everything": (ours["total"], theirs["total"]),
    "language model alone": (ours["language"], theirs["language"]),
    "projector and language model": tuple(a["projector"] + a["language"] for a in (ours, theirs)),
    "the names, 3B and 7B": (3_000_000_000, 7_000_000_000),
}
show_table(
    ["counted", "Cobra-3B", "LLaVA-1.5-7B", "Cobra has, of LLaVA's", "that is fewer by"],
    [[k, f"{a:,}", f"{b:,}", f"{100 * a / b:.1f} %", f"{100 - 100 * a / b:.1f} %"] for k, (a, b) in ratios.items()],
)
share = ours["total"] / theirs["total"]
report.record("parameters of Cobra-3B", ours)
report.record("parameters of LLaVA-1.5-7B", theirs)
report.record("Cobra-3B's parameters as a share of LLaVA-1.5-7B's", share)
report.record("the same for the language models alone", ours["language"] / theirs["language"])
trained = ratios["projector and language model"][0]
report.record("share of its own parameters that Cobra-3B trains", trained / ours["total"])
print(f"what it trains is {100 * trained / theirs['total']:.1f} % of LLaVA-1.5-7B's parameters")

# %% [markdown]
# Neither sentence survives the count: Cobra-3B has *half* the parameters of LLaVA-1.5-7B. Its language model alone has
# less than half of Vicuna's; two encoders with more than twice the weights of LLaVA's one bring the total to half. Of
# the four ratios only that of the rounded names gives "43 % of", and none gives "43 % fewer". What Cobra trains,
# projector and language model, is neither 48 % of its own parameters nor 48 % of LLaVA's.
#
# Where the weights and the work are:

# %%
names = [f"{name}, {what}" for name in accounts for what in ("parameters", "FLOPs of a prefill")]
values = [v for a in accounts.values() for v in (a["parameters"], a["prefill"]["flops"])]
show(
    figures.bars(
        names, {part: [v[part] / v["total"] for v in values] for part in parts}, percent=True, limits=(0, 1.08),
        title="Shares of parameters and work",
    ),
    alt="Cobra's encoders have a larger share of parameters and work than LLaVA's; the language model leads in both.",
    caption="Prefill: one picture and 64 tokens of text.",
)  # fmt: skip
work = accounts["Cobra-3B"]["prefill"]["flops"]["total"] / accounts["LLaVA-1.5-7B"]["prefill"]["flops"]["total"]
report.record("FLOPs of a prefill, Cobra-3B / LLaVA-1.5-7B", work)

# %% [markdown]
# ## 9. Prompt, mask, splice
#
# Cobra's Mamba was tuned for chat with zephyr's template. There is no system text. The image's tokens stand at
# position 0, in front of the template, not inside the question as in LLaVA. Loss falls on the answers and their end
# tokens, as in chapter 02.

# %%
facts = scene.questions(types=["relation"], count=2)
conversation = []
for number, fact in enumerate(facts):
    conversation += [
        {"from": "human", "value": ("" if number else "<image>\n") + fact.text},
        {"from": "gpt", "value": fact.sentence},
    ]
print(cobra.template.render(conversation))
row, labels = cobra.template.encode(conversation, tokenizer)


def group(i, label):
    if label != vlm.IGNORE:
        return "loss"
    return "image" if i == cobra.image_id else "special" if i in tokenizer.special_ids else "text"


# %%
groups = [group(i, label) for i, label in zip(row, labels, strict=True)]
show(
    figures.token_strip([tokenizer.token(i) for i in row], groups),
    alt=f"{len(row)} ids: the image's placeholder first, then the questions without loss and the answers with loss; of "
    f"them {groups.count('loss')} carry loss.",
    caption="Orange and underlined: loss. The end token of each answer has it, the new line between turns has not.",
)

# %%
P, text = Z_v.shape[1], len(row) - 1
long_labels = torch.tensor([[*[vlm.IGNORE] * P, *labels[1:]]])  # (1, P + L - 1)
spliced = cobra.embed_inputs(pixels, torch.tensor([row]), torch.tensor([labels]))
assert torch.equal(spliced.labels.cpu(), long_labels)
show(
    figures.blocks(
        [
            ("ids", [("", 1, "image"), ("text", text, "text")]),
            ("spliced", [("picture", P, "image"), ("text", text, "text")]),
        ],
        notes=[f"({len(row)},)", str(tuple(spliced.inputs_embeds.shape[1:]))],
    ),
    alt=f"One placeholder and {text} ids of text become {P} picture tokens and the same text.",
)

# %% [markdown]
# **Padding.** Attention can be told to skip a token. A recurrence walks over it: a padding token on the left leaves its
# mark on the state, and upstream's scan has no mask, so Cobra pads on the right only. The package's `Mamba` takes a
# mask and steps over padding with $\Delta = 0$, on either side.

# %%
with torch.no_grad():
    padding = language.embeddings.weight[tokenizer.pad_id].expand(1, 9, -1)  # (1, 9, D)
    left = torch.cat([padding, sequence], 1)
    mask = torch.cat([torch.zeros(1, 9), torch.ones(1, sequence.shape[1])], 1).to(cobra.device)
    alone = cobra.language.hidden(inputs_embeds=sequence)[:, -1]
    walked = cobra.language.hidden(inputs_embeds=left)[:, -1]
    masked = cobra.language.hidden(inputs_embeds=left, attention_mask=mask)[:, -1]
for name, other in (("left padding, no mask", walked), ("left padding, masked", masked)):
    change = ((other - alone).norm() / alone.norm()).item()
    print(f"{name}: the last token's hidden state changes by {100 * change:.2g} %")

# %% [markdown]
# ## 10. Order matters to a state
#
# Attention without positions is a sum over a set: shuffle the past, and the last token gets the same. Only rotary
# positions make it a sequence. A recurrence is an order by itself. One layer of each, random weights, the same tokens:
# the picture's are shuffled, the question's stay. What the last token takes from the past changes not at all in the
# first case, and in the others by an amount that depends on the weights:

# %%
from vlmlab.language.llama import rope_table, rotate

heads, width = 6, 32
W_q, W_k, W_v = torch.randn(3, d, d, generator=runtime.generator(seed)).to(cobra.device) / d**0.5
turns = rope_table(x_hat.shape[1], width, 10000.0, cobra.device)


def attend(x, positions):  # (1, T, D) -> weights (H, T) of the last token, what it takes (H, d)
    q, k, v = ((x @ W).unflatten(-1, (heads, width)).transpose(1, 2) for W in (W_q, W_k, W_v))  # (1, H, T, d)
    q, k = (rotate(q, *turns), rotate(k, *turns)) if positions else (q, k)
    weights = (q[:, :, -1:] @ k.mT / width**0.5).softmax(-1)  # (1, H, 1, T)
    return weights[0, :, 0], (weights @ v)[0, :, 0]


readers = {
    "attention, no positions": lambda x: attend(x, False)[1],
    "attention, rotary positions": lambda x: attend(x, True)[1],
    "state of a Mamba block": lambda x: language.layers[0].mixer(x)[1][1],
}

# %%
changes = {name: [] for name in readers}
draw = runtime.generator(seed)
with torch.no_grad():
    for _ in range(16):
        order = torch.cat([torch.randperm(P, generator=draw), torch.arange(P, x_hat.shape[1])])
        for name, read in readers.items():
            one, other = read(x_hat), read(x_hat[:, order])
            changes[name].append(((one - other).norm() / one.norm()).item())
means = {name: float(np.mean(values)) for name, values in changes.items()}
for name, value in means.items():
    print(f"{name}: changes by {100 * value:.2g} %")
assert means["attention, no positions"] < 1e-5
report.record("change of what the last token gets when the picture's tokens are shuffled", means)

# %% [markdown]
# The state can be taken apart. Unrolled, $h_T = \sum_j e^{A (S_T - S_j)} \Delta_j B_j u_j$ with $S$ the cumulative sum
# of $\Delta$: each token's contribution, and how much of it is left at the end.

# %%
names = [f"layers.{i}.{part}" for i in range(c.layers) for part in ("u", "delta", "B")]
record, cache = dict.fromkeys(names), cobra.language.new_cache()
ledger, worst = [], 0.0
with torch.no_grad():
    cobra.language.hidden(inputs_embeds=sequence, record=record, cache=cache)
    for i, layer in enumerate(cobra.language.layers):
        u, delta, B = (record[f"layers.{i}.{part}"][0].double() for part in ("u", "delta", "B"))
        S, A = delta.cumsum(0), -layer.mixer.A_log.double().exp()
        given = torch.exp(A * (S[-1] - S)[..., None]) * (delta * u)[..., None] * B[:, None]  # (T, I, N)
        h = cache.states[i][0]
        worst = max(worst, ((given.sum(0) - h).abs().max() / h.abs().max()).item())
        size = given.norm(dim=(1, 2))
        ledger.append((size / size.sum()).cpu())
assert worst < 1e-5
report.record("contributions summed against the scan's last state, relative difference", worst)

# %%
state_share = torch.stack(ledger).mean(0).numpy()  # (T,)
with torch.no_grad():
    attention_share = attend(x_hat, True)[0].mean(0).cpu().numpy()  # (T,)
early = {name: float(s[: P // 2].sum()) for name, s in (("state", state_share), ("attention", attention_share))}
show(
    figures.losses(
        {"last state of the Mamba, mean of its blocks": state_share, "one layer of attention": attention_share},
        smooth=0, log=True, xlabel=f"token (the picture is 0 to {P - 1})", ylabel="share", height=2.6,
    ),
    alt="The share of a token in the last state rises along the sequence; the last one's is "
    f"{state_share[-1] / state_share[0]:.0f} times the first one's. Attention's shares have no such slope.",
    caption=f"Random weights. The first half of the picture has {100 * early['state']:.0f} % of the state and "
    f"{100 * early['attention']:.0f} % of the attention; evenly it would be {100 * P / 2 / len(state_share):.0f} %.",
)  # fmt: skip
report.record("share of the first half of the picture, untrained", early)

# %% [markdown]
# Untrained, the state forgets what came first, and the picture comes first. Training can change that: a token whose
# $\Delta$ is near zero erases nothing (chapter 13 measures the trained model). The paper saw order matter in a trained
# one. Given the text that an OCR program found in the picture, Cobra's TextVQA accuracy is 58.2 with that
# text in front, 43.0 with it at the end, and 47.9 without it (version 4): at the end it does harm.
#
# ## Exercises
#
# Replace each `...` by your own lines. A check says what is right or which mistake it looks like; until you begin, it
# says "not yet".
#
# ### Exercise 1 · Fuse (easy, 10 minutes)
#
# `pixels` (B, 3, S, S) lie in [0, 1]; `dinov2` and `siglip` are ViTs with `hidden_states(pixels)` and `prefix_tokens`.
# Return Cobra's $H_v$ (B, P, $D_v$). `NORMALISATION["dinov2"]` and `["siglip"]` hold (mean, std).


# %%
def fuse(pixels: torch.Tensor, dinov2: nn.Module, siglip: nn.Module) -> torch.Tensor:
    return ...  # your code here


check.fuse(fuse)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Section 3 does it for one picture. `torch.tensor(mean).view(3, 1, 1)` fits beside (B, 3, S, S).
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def fuse(pixels, dinov2, siglip):
#     tokens = []
#     for encoder, name in ((dinov2, "dinov2"), (siglip, "siglip")):
#         mean, std = (torch.tensor(values).view(3, 1, 1) for values in NORMALISATION[name])
#         state = encoder.hidden_states((pixels - mean) / std)[-2]
#         tokens.append(state[:, encoder.prefix_tokens :])
#     return torch.cat(tokens, dim=-1)
# ```
#
# </details>
#
# ### Exercise 2 · Count a block (easy, 10 minutes)
#
# Return the parameters of one Mamba block as a dict with the keys `norm`, `in_proj`, `conv1d`, `x_proj`, `dt_proj`,
# `A_log`, `D` and `out_proj`, biases counted with their layer. The inner width is twice `dim`; `rank` is that of delta.


# %%
def block_parameters(dim: int, state: int, conv: int, rank: int) -> dict[str, int]:
    return ...  # your code here


check.block_parameters(block_parameters)

# %% [markdown]
# <details><summary>Hint</summary>
#
# The class `Mixer` above shows each shape. Two of the layers have a bias.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def block_parameters(dim, state, conv, rank):
#     inner = 2 * dim
#     return {
#         "norm": dim,
#         "in_proj": dim * 2 * inner,
#         "conv1d": inner * conv + inner,
#         "x_proj": inner * (rank + 2 * state),
#         "dt_proj": rank * inner + inner,
#         "A_log": inner * state,
#         "D": inner,
#         "out_proj": inner * dim,
#     }
# ```
#
# </details>
#
# ### Exercise 3 · The causal convolution (medium, 15 minutes)
#
# `u` (L, I), `weight` (I, K), `bias` (I). Return (L, I): each token is its channel's bias plus the K taps times the
# token itself and the K - 1 before it, `weight[:, -1]` being the token's own. No SiLU.


# %%
def causal_conv(u: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return ...  # your code here


check.causal_conv(causal_conv)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Either shift and add, as `convolve` in section 6, or `F.conv1d`, which wants (1, I, L), a weight (I, 1, K) and
# `groups=I`. It does not flip the kernel.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def causal_conv(u, weight, bias):
#     channels, K = weight.shape
#     padded = F.pad(u.T, (K - 1, 0))[None]
#     return F.conv1d(padded, weight[:, None], bias, groups=channels)[0].T
# ```
#
# </details>
#
# ### Exercise 4 · When does the cache overtake the state? (medium, 10 minutes)
#
# A Mamba has `blocks` blocks of `inner` channels with `state` numbers of state and `conv` inputs each. A Llama has
# `layers` layers of `heads` key-value heads with `width` channels. Both use the same number of bytes a number. Return
# the smallest number of tokens at which the Llama's cache takes *more* memory than what the Mamba keeps.


# %%
def break_even(blocks: int, inner: int, state: int, conv: int, layers: int, heads: int, width: int) -> int:
    return ...  # your code here


check.break_even(break_even)

# %% [markdown]
# <details><summary>Hint</summary>
#
# How many numbers does each keep, one of them once and the other a token? Then mind "more": what if the division comes
# out even?
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def break_even(blocks, inner, state, conv, layers, heads, width):
#     kept = blocks * inner * (state + conv)
#     a_token = 2 * layers * heads * width
#     return kept // a_token + 1
# ```
#
# </details>
#
# ### Exercise 5 · SigLIP's loss in chunks (harder, 20 minutes)
#
# SigLIP's pairs do not depend on each other, so a large batch needs no large matrix (the paper's section 3.3 spreads it
# over devices). `x`, `y` (B, D) are unit vectors of pictures and captions, $l_{ij} = t\,\langle x_i, y_j\rangle + b$.
# Return the loss of section 4, with at most B x `size` logits at any time. The last chunk may be smaller.


# %%
def siglip_in_chunks(x: torch.Tensor, y: torch.Tensor, t: float, b: float, size: int) -> torch.Tensor:
    return ...  # your code here


check.siglip_in_chunks(siglip_in_chunks)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Go over the captions, `size` at a time. In the chunk that begins at `start`, column j belongs to picture `start + j`.
# `F.logsigmoid` is safer than the log of a sigmoid.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def siglip_in_chunks(x, y, t, b, size):
#     total = 0.0
#     for start in range(0, len(y), size):
#         logits = t * x @ y[start : start + size].T + b  # (B, size)
#         z = -torch.ones_like(logits)
#         own = torch.arange(logits.shape[1])
#         z[start + own, own] = 1.0
#         total = total - F.logsigmoid(z * logits).sum()
#     return total / len(x)
# ```
#
# </details>
#
# ### Exercise 6 · A projector of your own (open, 30 minutes)
#
# Write a projector for `cobra-tiny` that leaves at most 16 of 64 tokens with fewer parameters than `fused-ldpnet`.
# `compact_projector(d_v, d)` returns a module that maps (B, 64, d_v), the patches row by row on an 8 x 8 grid, to
# (B, M, d). No patch may be lost, since a small object may lie in just one, and which patch is where must matter. The
# check tests these properties; which projector is best only training can tell. To find out, give it to the recipe of
# chapter 09 and compare with `cobra-tiny-ldp`.


# %%
def compact_projector(d_v: int, d: int) -> nn.Module:
    return ...  # your code here


check.compact_projector(compact_projector)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Pooling averages four patches into one and so cannot tell them apart. What if the four were joined along the channels,
# as the two encoders are?
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# class Folded(nn.Module):
#     def __init__(self, d_v, d):
#         super().__init__()
#         self.layers = nn.Sequential(nn.Linear(4 * d_v, d), nn.GELU(), nn.Linear(d, d))
#
#     def forward(self, x):  # (B, 64, d_v)
#         grid = x.transpose(1, 2).unflatten(2, (8, 8))  # (B, d_v, 8, 8)
#         return self.layers(F.pixel_unshuffle(grid, 2).flatten(2).transpose(1, 2))  # (B, 16, d)
#
#
# def compact_projector(d_v, d):
#     return Folded(d_v, d)
# ```
#
# One of many: 2 x 2 patches become one token of four times the channels.
#
# </details>

# %% [markdown]
# ## Takeaways
#
# - Cobra's picture is two descriptions of each patch side by side: same tokens, more channels. Each encoder has its own
#   normalisation, and a wrong one changes no shape.
# - SigLIP judges pairs, CLIP makes a batch compete. DINOv2 agrees with its own past; centring and sharpening keep it
#   from agreeing on nothing, and the loss does not show which of the two happened.
# - A Mamba block is a widening, a short convolution, a selective scan and a gate. Its past is of one size; a cache is
#   larger after a few dozen tokens.
# - By count, Cobra-3B has half of LLaVA-1.5-7B's parameters. A claim about a share needs to say of what.
# - Order is part of a state. Cobra reads the picture first, and pads on the right.
#
# Next: 09, training Cobra.
