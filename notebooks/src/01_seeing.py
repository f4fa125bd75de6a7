# %% [markdown]
# # 01 · Seeing: patches, a vision transformer, CLIP
#
# *An Image is Worth 16x16 Words*, "ViT" (Dosovitskiy et al. 2021, [arXiv 2010.11929](https://arxiv.org/abs/2010.11929)).
# *Learning Transferable Visual Models From Natural Language Supervision*, "CLIP" (Radford et al. 2021,
# [arXiv 2103.00020](https://arxiv.org/abs/2103.00020)). *Sigmoid Loss for Language Image Pre-Training*, "SigLIP" (Zhai
# et al. 2023, [arXiv 2303.15343](https://arxiv.org/abs/2303.15343)).
#
# LLaVA's eye is a vision transformer that learnt from pictures and their captions. This chapter cuts a picture into
# patches, builds the transformer that reads them, trains a small one on captions, and asks what the shipped one knows,
# and where.
#
# **After this chapter you can**
#
# - cut a picture into patches and say why that is a convolution;
# - build a ViT in the style of CLIP and check it, weight for weight, against the package's;
# - compute CLIP's loss by hand and train with it;
# - classify without a classifier (zero-shot), and measure what a caption score does not know;
# - probe a layer: what is known in a patch, and why LLaVA reads the layer before the last.
#
# **Time** under a minute of computing on 2 CPU cores, about 1 GB of memory; 60 to 90 minutes of reading and exercises.
# Nothing here needs a GPU.
#
# | symbol | meaning | shape |
# |---|---|---|
# | $X_v$ | picture | (3, H, W) |
# | $p$, $P$ | side of a patch in pixels, number of patches | |
# | $D$, $H$, $d$ | channels, heads, channels of a head | $D = H d$ |
# | $Q, K, V$ | queries, keys, values | (B, H, T, d) |
# | $B$ | pictures in a batch | |

# %% tags=["parameters"]
profile = "quick"  # "quick" or "full"
seed = 13  # of the picture shown first, and of all random weights
device = "cpu"  # "auto", "cpu", "cuda" or "mps"
pictures = 800  # scenes that the live CLIP training sees
steps = 200  # of the live training (20 times as many in the full profile)
batch = 64  # pictures a step
probed = 192  # held-out scenes for probing the shipped encoder

# %%
import time

import numpy as np
import torch
import torch.nn.functional as F
from IPython.display import Markdown
from torch import nn

from vlmlab import figures, report, runtime, scenes, vision, weights
from vlmlab.checks import nb01 as check
from vlmlab.figures import show, show_table
from vlmlab.scenes.captions import article, listing
from vlmlab.vision.contrastive import TextTower, clip_loss, pad_ids
from vlmlab.vision.images import Preprocess
from vlmlab.vlm.conversations import SLOTS, WORDS, word_map

runtime.seed_everything(seed)
where = runtime.device(device)

# %% [markdown]
# ## 1. Patches by hand
#
# A transformer reads a sequence. A picture becomes one by cutting it into squares of $p \times p$ pixels. Take a grey
# picture of 4 x 4 pixels and $p = 2$. Splitting both axes gives (rows, y, columns, x); moving the columns forward puts
# the pixels of a patch side by side.

# %%
toy = torch.arange(16).reshape(4, 4)
tiles = toy.reshape(2, 2, 2, 2)  # (rows, y, columns, x)
toy_patches = tiles.permute(0, 2, 1, 3).reshape(4, 4)  # (P, p * p)
print(toy, "\nits patches, one a row:", toy_patches, sep="\n")
assert toy_patches[1].tolist() == [2, 3, 6, 7]  # the patch at the top right


# %% [markdown]
# With three channels nothing changes but one more axis. A patch becomes a vector of $3 p^2$ numbers.


# %%
def patchify(image: torch.Tensor, p: int) -> torch.Tensor:
    """(3, H, W) -> (P, 3 * p * p), patches row by row."""
    rows, columns = image.shape[1] // p, image.shape[2] // p
    split = image.reshape(3, rows, p, columns, p)
    return split.permute(1, 3, 0, 2, 4).reshape(rows * columns, 3 * p * p)


# %%
scene = scenes.sample(seed, split="test", objects=4)
picture = scene.render(96)
preprocess = Preprocess(96)  # size, then (rgb / 255 - mean) / std with CLIP's mean and standard deviation
pixels = preprocess(picture.rgb)  # (3, 96, 96)
cut = patchify(pixels, 12)
print(f"picture {tuple(pixels.shape)} -> patches {tuple(cut.shape)}")

# %%
show(
    figures.patch_grid(picture.rgb, 12, numbers=True),
    f"A rendered scene under a grid of {len(cut)} patches of 12 x 12 pixels, numbered row by row.",
)
apart = picture.rgb.reshape(8, 12, 8, 12, 3).swapaxes(1, 2).reshape(64, 12, 12, 3)
show(
    figures.patches(apart),
    "The same patches apart from each other. Most show floor or wall alone; an object spreads over several patches.",
    "What the transformer gets: 64 squares, each seen by itself",
)

# %% [markdown]
# Each patch is then multiplied by one matrix. A matrix on patches that do not overlap *is* a convolution whose stride
# equals its kernel, which is how most libraries write it.

# %%
kernel = torch.randn(32, 3, 12, 12)  # 32 output channels
as_convolution = F.conv2d(pixels[None], kernel, stride=12)[0].flatten(1).T  # (P, 32)
as_product = cut @ kernel.flatten(1).T  # (P, 432) x (432, 32)
assert torch.allclose(as_convolution, as_product, atol=1e-3)
print(f"largest difference {float((as_convolution - as_product).abs().max()):.1e}")

# %% [markdown]
# ## 2. Attention by hand
#
# Three tokens with two channels. Each asks (query), each offers (key), each gives (value):
#
# $$\text{attention}(Q, K, V) = \text{softmax}\!\left(\frac{Q K^\top}{\sqrt{d}}\right) V$$

# %%
q = torch.tensor([[2.0, 0.0], [0.0, 2.0], [0.0, 0.0]])
k = torch.tensor([[2.0, 0.0], [0.0, 2.0], [2.0, 2.0]])
v = torch.tensor([[1.0, 0.0], [0.0, 1.0], [5.0, 5.0]])
scores = q @ k.T / 2**0.5  # (T, T): row i says how well each key fits query i
weights_by_hand = scores.exp() / scores.exp().sum(-1, keepdim=True)  # every row sums to 1
print("weights", weights_by_hand.round(decimals=3), "values", (weights_by_hand @ v).round(decimals=3), sep="\n")
# The first query fits keys 0 and 2 alike; the third asks for nothing and gets the mean of all values.

# %%
assert torch.allclose(weights_by_hand @ v, F.scaled_dot_product_attention(q[None], k[None], v[None])[0])

# %% [markdown]
# ## 3. A vision transformer
#
# A block adds two things to the stream of tokens: what attention collects from other tokens, and what an MLP makes of
# each token alone. Both read a normalised copy. Several heads attend at once, each with $d = D / H$ channels.


# %%
class MyBlock(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)): tokens (B, T, D) to (B, T, D)."""

    def __init__(self, dim: int, heads: int, hidden: int):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.up, self.down = nn.Linear(dim, hidden), nn.Linear(hidden, dim)

    def attend(self, x: torch.Tensor) -> torch.Tensor:
        B, T, D = x.shape
        q, k, v = self.qkv(x).reshape(B, T, 3, self.heads, D // self.heads).permute(2, 0, 3, 1, 4)  # (B, H, T, d) each
        weight = (q @ k.transpose(-1, -2) / (D // self.heads) ** 0.5).softmax(-1)  # (B, H, T, T)
        return self.out((weight @ v).transpose(1, 2).reshape(B, T, D))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attend(self.norm1(x))
        y = self.up(self.norm2(x))
        return x + self.down(y * torch.sigmoid(1.702 * y))  # CLIP's quick GELU


# %% [markdown]
# Around the blocks: the patch embedding; one extra token, the **class token**, that belongs to no patch and collects
# what concerns the whole picture; a learnt **position embedding** added to every token; and, in CLIP, a norm before the
# first block. The method returns all hidden states, the input of block 0 first.


# %%
class MyViT(nn.Module):
    """Pictures (B, 3, S, S) to a list of layers + 1 hidden states (B, 1 + P, D)."""

    def __init__(self, size: int, patch: int, dim: int, layers: int, heads: int, hidden: int):
        super().__init__()
        self.patch = patch
        self.embed = nn.Linear(3 * patch * patch, dim, bias=False)
        self.class_token = nn.Parameter(torch.randn(dim) * 0.02)
        self.positions = nn.Parameter(torch.randn(1 + (size // patch) ** 2, dim) * 0.02)
        self.norm_in, self.norm_out = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.blocks = nn.ModuleList(MyBlock(dim, heads, hidden) for _ in range(layers))

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        x = self.embed(torch.stack([patchify(image, self.patch) for image in images]))  # (B, P, D)
        x = torch.cat([self.class_token.expand(len(x), 1, -1), x], dim=1) + self.positions  # (B, 1 + P, D)
        states = [self.norm_in(x)]
        for block in self.blocks:
            states.append(block(states[-1]))
        return states


# %% [markdown]
# Is it right? Copy its weights into the package's `ViT` and compare all hidden states. The package is compared with
# transformers' `CLIPVisionModel` in the tests, so this chain ends at the published model.

# %%
NAMES = {"embed.": "patch_embed.proj.", "class_token": "cls_token", "positions": "pos_embed", "norm_in": "norm_pre"}
NAMES |= {"norm_out": "norm", ".qkv": ".attn.qkv", ".out.": ".attn.proj.", ".up": ".mlp.fc1", ".down": ".mlp.fc2"}


def package_name(name: str) -> str:
    """The package's name of one of MyViT's weights."""
    for mine, theirs in NAMES.items():
        name = name.replace(mine, theirs)
    return name


# %%
config = vision.ViTConfig("clip", image_size=96, patch_size=12, dim=192, layers=6, heads=6, hidden=768)
mine, package = MyViT(96, 12, 192, 6, 6, 768), vision.ViT(config)
package.load_state_dict({package_name(name): value for name, value in mine.state_dict().items()})
with torch.no_grad():
    pairs = list(zip(mine(pixels[None]), package.hidden_states(pixels[None]), strict=True))
worst = max(float((one - other).abs().max() / other.abs().max()) for one, other in pairs)
assert worst < 1e-5
print(f"{len(pairs)} hidden states, largest relative difference {worst:.1e}")

# %% [markdown]
# The other way round: the shipped encoder, pretrained on pictures and captions, runs in the class that you just read.

# %%
clip, tokenizer = weights.load_contrastive()
encoder = clip.vision
trained = encoder.state_dict()
mine.load_state_dict({name: trained[package_name(name)] for name in mine.state_dict()})
with torch.no_grad():
    features = mine(pixels[None])[-2][:, 1:]  # the layer before the last, class token dropped: what LLaVA reads
assert torch.allclose(features, encoder.features(pixels[None]), atol=1e-4)
count = sum(parameter.numel() for parameter in encoder.parameters())
print(f"{count / 1e6:.2f} M parameters, features {tuple(features.shape)}")

# %% [markdown]
# ## 4. Where a patch is
#
# Attention does not know order: shuffle the patches, and every patch still sees the same others. Only the position
# embeddings tell where a patch lies. Measured: the class token's vector before and after the patches are shuffled, once
# without positions and once with them.

# %%
order = torch.randperm(64, generator=runtime.generator(seed))
tiles = patchify(pixels, 12)[order].reshape(8, 8, 3, 12, 12)
shuffled = tiles.permute(2, 0, 3, 1, 4).reshape(3, 96, 96)
change = {}
for name, scale in (("without positions", 0.0), ("with positions", 1.0)):
    mine.positions.data[1:] = scale * trained["pos_embed"][1:]
    with torch.no_grad():
        one, other = (mine(image[None])[-1][0, 0] for image in (pixels, shuffled))
    change[name] = float((one - other).norm() / one.norm())
    print(f"{name}: the class token changes by {100 * change[name]:.2g} % of its length")

# %% [markdown]
# Nobody told the embeddings that the patches form a grid. Compare each with all others (cosine similarity, the ViT
# paper's figure 7): whatever order shows has been learnt from pictures and texts alone.

# %%
positions = F.normalize(trained["pos_embed"][1:].float(), dim=-1)  # (P, D)
similarity = (positions @ positions.T).numpy()
row, column = np.divmod(np.arange(64), 8)
apart = np.abs(row[:, None] - row) + np.abs(column[:, None] - column)  # steps between two patches
near, far = float(similarity[apart == 1].mean()), float(similarity[apart >= 6].mean())
same_row = float(similarity[(row[:, None] == row) & (apart > 0)].mean())
same_column = float(similarity[(column[:, None] == column) & (apart > 0)].mean())
means = (
    f"neighbours {near:.2f}, same row {same_row:.2f}, same column {same_column:.2f}, six or more steps apart {far:.2f}"
)
show(
    figures.position_similarity(similarity),
    f"64 small maps, one a patch: the cosine similarity of its position embedding to all others. Means: {means}.",
    f"On average: {means}",
)

# %% [markdown]
# ## 5. CLIP's loss by hand
#
# CLIP turns a picture and a caption into unit vectors of the same space. In a batch of $B$ pairs, each picture should
# be closest to its own caption, and each caption to its own picture. With logits
# $l_{ij} = s \cdot \langle x_i, y_j \rangle$ and a learnt scale $s$ the loss is the mean of two cross-entropies, over
# the rows and over the columns:
#
# $$\mathcal{L} = -\frac{1}{2B}\sum_i \left( \log\frac{e^{l_{ii}}}{\sum_j e^{l_{ij}}}
# + \log\frac{e^{l_{ii}}}{\sum_j e^{l_{ji}}} \right)$$

# %%
x = F.normalize(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), dim=-1)  # three pictures
y = F.normalize(torch.tensor([[1.0, 0.2], [0.1, 1.0], [0.2, 1.0]]), dim=-1)  # three captions; the third is off
logits = 5 * x @ y.T
rows = (logits.exp() / logits.exp().sum(1, keepdim=True)).diagonal()  # probability of each picture's own caption
columns = (logits.exp() / logits.exp().sum(0, keepdim=True)).diagonal()
by_hand = -(rows.log() + columns.log()).mean() / 2
assert torch.isclose(by_hand, clip_loss(logits))
print("own caption", rows.numpy().round(2), "own picture", columns.numpy().round(2), f"loss {by_hand:.3f}")

# %% [markdown]
# A model that knows nothing gives every caption the same score, and its loss is $\log B$.

# %%
print(f"log {batch} = {np.log(batch):.3f} =", float(clip_loss(torch.zeros(batch, batch))).__round__(3))

# %% [markdown]
# ## 6. Training, live
#
# A few hundred small pictures with captions such as the one below, a ViT of three layers, a text tower of one. It has
# to find out by itself that "red" is a colour and what a sofa looks like.

# %%
start = time.perf_counter()
seen = [scenes.sample(i, objects=2) for i in range(pictures + 64)]  # the last 64 are not trained on
images = Preprocess(48).normalise(np.stack([s.render(48).rgb for s in seen]))
captions = pad_ids([tokenizer.encode(" " + s.caption("short")) for s in seen], tokenizer.pad_id)
print(f"{len(seen)} pictures {tuple(images.shape[1:])} in {time.perf_counter() - start:.0f} s; the first:", end=" ")
print(seen[0].caption("short"))


# %%
class SmallCLIP(nn.Module):
    """A picture and a text tower that end in the same space."""

    def __init__(self, dim: int = 64):
        super().__init__()
        shape = vision.ViTConfig("clip", image_size=48, patch_size=12, dim=96, layers=3, heads=3, hidden=384)
        self.picture, self.text = vision.ViT(shape), TextTower(tokenizer.vocab_size, tokenizer.pad_id, dim, 1, 4)
        self.project = nn.Linear(96, dim, bias=False)
        self.scale = nn.Parameter(torch.tensor(np.log(1 / 0.07)))

    def forward(self, images: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        one = F.normalize(self.project(self.picture.pooled(images)), dim=-1)
        other = F.normalize(self.text(ids), dim=-1)
        return one @ other.T * self.scale.exp().clamp(max=100)  # (B, B)


# %%
torch.manual_seed(seed)
small = SmallCLIP().to(where)
total = steps if profile == "quick" else 20 * steps
optimiser = torch.optim.AdamW(small.parameters(), lr=1e-3, betas=(0.9, 0.98), weight_decay=0.05)
schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-3, total_steps=total, pct_start=0.1)
draws = runtime.generator(seed)
images, captions = images.to(where), captions.to(where)
unseen = slice(pictures, pictures + 64)

# %%
runtime.set_threads(1)  # matrices this small gain nothing from a second thread that they wait for
losses, checks, start = [], [], time.perf_counter()
for number in range(total):
    chosen = torch.randperm(pictures, generator=draws)[:batch]
    loss = clip_loss(small(images[chosen], captions[chosen]))
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    schedule.step()
    losses.append(loss.item())
    if number % 10 == 0 or number == total - 1:
        with torch.no_grad():
            checks.append((number, clip_loss(small(images[unseen], captions[unseen])).item()))
seconds = time.perf_counter() - start
runtime.set_threads()  # all cores again

# %%
with torch.no_grad():
    found = small(images[unseen], captions[unseen]).argmax(-1).cpu() == torch.arange(64)
live_retrieval = float(found.float().mean())
fig = figures.losses(
    {f"{pictures} training scenes": losses, "64 new scenes": tuple(zip(*checks, strict=True))},
    chance=float(np.log(batch)),
    chance_label="a model that knows nothing",
    ylabel="CLIP loss",
)
alt = (
    f"CLIP's loss over {total} steps falls from {losses[0]:.2f} to {np.mean(losses[-10:]):.2f} on the training scenes "
)
alt += f"and from {checks[0][1]:.2f} to {checks[-1][1]:.2f} on new ones."
show(fig, alt, f"{seconds:.0f} s; chance is log {batch} = {np.log(batch):.2f}")
Markdown(
    f"On 64 new scenes the right caption is found first for **{100 * live_retrieval:.0f} %** of the pictures (chance "
    f"{100 / 64:.1f} %). The gap between the two curves is what {pictures} scenes are too few for; the shipped encoder "
    "saw 64,000."
)

# %% [markdown]
# ## 7. The shipped encoder
#
# The same idea, a larger model, more pictures, and full captions. One addition: a second loss compares each *patch*
# with the words for what it shows and where it is, "red" against the other colours, "cat" against the other kinds (as
# GLIP aligns regions with words, Li et al. 2022, [arXiv 2112.03857](https://arxiv.org/abs/2112.03857)), because LLaVA
# will read patches, not the class token.

# %%
held = [scenes.sample(i, split="test") for i in range(probed)]
renders = [s.render(96) for s in held]
tests = preprocess.normalise(np.stack([r.rgb for r in renders]))


def text_vectors(texts: list[str]) -> torch.Tensor:
    """Unit vectors (N, D) of texts."""
    return clip.text_embeddings(pad_ids([tokenizer.encode(" " + text) for text in texts], tokenizer.pad_id))


# %%
with torch.no_grad():
    picture_vectors = torch.cat([clip.image_embeddings(part) for part in tests.split(64)])
    caption_vectors = text_vectors([s.caption("dense") for s in held])
cosine = picture_vectors @ caption_vectors.T  # (N, N)
target = torch.arange(64)
retrieval = float((cosine[:64, :64].argmax(-1) == target).float().mean())
fig = figures.matrix(
    cosine[:8, :8],
    columns=[f"caption {i + 1}" for i in range(8)],
    row_pictures=[r.rgb for r in renders[:8]],
    value_label="cosine similarity",
    marked=[(i, i) for i in range(8)],
)
right = int((cosine[:8, :8].argmax(-1) == torch.arange(8)).sum())
alt = f"Cosine similarities of eight held-out pictures with their eight captions. For {right} of 8 pictures the own "
show(fig, alt + "caption, framed on the diagonal, has the highest value of its row.")
show_table(["", "caption"], [[i + 1, s.caption("dense")] for i, s in enumerate(held[:8])])
print(f"among 64 held-out captions the right one comes first for {100 * retrieval:.0f} % of the pictures")

# %% [markdown]
# ## 8. Zero-shot: a classifier made of words
#
# No layer of this model was trained to name colours. But a caption with the wrong colour should fit less well. Take the
# true caption, put each of the colours in place of one object's colour, and see which fits best. The same with kinds.
# Third, a question of place: the caption that lists the objects from left to right, against the same caption with the
# list turned round.


# %%
def variants(scene: scenes.Scene, field: str) -> tuple[list[str], int]:
    """The short caption of a scene with each value of one field of its first object, and which of them is true."""
    known = list(scenes.COLOURS if field == "colour" else scenes.KINDS)
    edited = [scene.edit(0, **{field: value}) for value in known]
    order = np.argsort(scene.geometry.u, kind="stable")
    named = [[article(f"{s.objects[i].colour} {s.objects[i].kind}") for i in order] for s in edited]
    return [listing(names).capitalize() + "." for names in named], known.index(getattr(scene.objects[0], field))


def turned(scene: scenes.Scene) -> tuple[list[str], int]:
    """The dense caption, and the same with its list from right to left."""
    mirrored = scene.twin("mirror")
    return [scene.caption("dense"), mirrored.caption("dense")], 0


# %%
tasks = {
    "colour": lambda s: variants(s, "colour"),
    "kind": lambda s: variants(s, "kind"),
    "left to right": turned,
}
zero_shot, chances, first_choice = {}, {}, {}
for task, make in tasks.items():
    hits = []
    for index, s in enumerate(held[:96]):
        texts, true = make(s)
        with torch.no_grad():
            fit = picture_vectors[index] @ text_vectors(texts).T
        hits.append(int(fit.argmax()) == true)
    zero_shot[task], chances[task] = float(np.mean(hits)), 1 / len(texts)

# %%
fig = figures.bars(
    list(zero_shot),
    {"right": list(zero_shot.values())},
    baselines={"chance": list(chances.values())},
    percent=True,
    limits=(0, 1.1),
    xlabel="96 held-out scenes",
    height=2.0,
)
shares = ", ".join(
    f"{task} {100 * share:.0f} % (chance {100 * chances[task]:.0f} %)" for task, share in zero_shot.items()
)
show(fig, f"Zero-shot from whole pictures: {shares}.")
Markdown(
    f"Measured on whole pictures: {shares}. A caption score is a bag of words to the extent that the last of these is "
    "near chance: it says what is there better than where."
)

# %% [markdown]
# ## 9. What a patch knows
#
# LLaVA drops the class token and reads the patches. So ask the patches. A **linear probe** is a linear classifier on
# frozen features: if it succeeds, the answer can be read off with one matrix, which is all that LLaVA's first projector
# is. The labels come from the masks: a patch belongs to the object that covers most of it, and at least a fifth.

# %%
labels = {"kind": [], "colour": [], "row": []}
members = []  # (picture, patch) of each patch that shows an object
for index, (s, r) in enumerate(zip(held, renders, strict=True)):
    for patch, cell in enumerate(word_map(s, r.mask)):
        word = {slot: WORDS[i] for slot, i in zip(SLOTS, cell, strict=True) if i >= 0}
        if word["kind"] != "floor":
            members.append((index, patch))
            labels["kind"].append(list(scenes.KINDS).index(word["kind"]))
            labels["colour"].append(list(scenes.COLOURS).index(word["colour"]))
            labels["row"].append(patch // 8)
picture_of, patch_of = (torch.tensor(values) for values in zip(*members, strict=True))
fitted = picture_of < probed * 2 // 3  # probes are fitted on two thirds of the pictures, tested on the rest
print(f"{len(members)} patches show an object, {int(fitted.sum())} of them to fit the probes")


# %%
def probe(features: torch.Tensor, classes: torch.Tensor, fit: torch.Tensor) -> tuple[float, torch.Tensor]:
    """Ridge regression on one-hot labels, all classes of equal weight.

    Returns the mean recall over the classes on what was not fitted, where guessing gives 1 / classes, and all guesses.
    """
    mean, std = features[fit].mean(0), features[fit].std(0) + 1e-6
    x = F.pad((features - mean) / std, (1, 0), value=1.0)  # (N, 1 + D)
    y = F.one_hot(classes).float()
    weight = (1 / y[fit].sum(0).clamp(min=1))[classes[fit]]
    weighted = x[fit] * (weight / weight.mean())[:, None]
    w = torch.linalg.solve(weighted.T @ x[fit] + 30 * torch.eye(x.shape[1]), weighted.T @ y[fit])
    guess = (x @ w).argmax(-1)
    recalls = [(guess[~fit & (classes == c)] == c).float().mean() for c in classes[~fit].unique()]
    return float(torch.stack(recalls).mean()), guess


# %%
with torch.no_grad():
    parts = [torch.stack(encoder.hidden_states(part)) for part in tests.split(64)]
states = torch.cat(parts, dim=1)[:, :, 1:]  # (layers + 1, N, P, D), class token dropped
depth = range(len(states))
recall = {
    name: [probe(states[layer][picture_of, patch_of], torch.tensor(values), fitted)[0] for layer in depth]
    for name, values in labels.items()
}
guessing = {name: 1 / len(set(values)) for name, values in labels.items()}
rows = [[str(layer), *(recall[name][layer] for name in recall)] for layer in depth]
show_table(["layer", *recall], [*rows, ["guessing", *guessing.values()]], "mean recall of the probes on new pictures")

# %%
last = len(states) - 1
fig = figures.losses(
    {f"{name} of the object" if name != "row" else "row of the patch": values for name, values in recall.items()},
    smooth=0,
    xlabel="layer (0: what enters the first block)",
    ylabel="mean recall",
)
alt = "Mean recall of linear probes on object patches by layer. " + "; ".join(
    f"{name}: {values[0]:.2f} at layer 0, {max(values):.2f} at its best (layer {int(np.argmax(values))}), "
    f"{values[last]:.2f} at the last"
    for name, values in recall.items()
)
show(fig, alt + ".")

# %% [markdown]
# LLaVA takes the layer before the last. The paper's ablation (section 5.2) reports 90.92 % on ScienceQA with
# it and 89.96 % with the last, and suspects that the last layer is bent towards the caption of the whole picture.
# Measured here, by probing:

# %%
compare = {name: (values[last - 1], values[last]) for name, values in recall.items()}
better = [name for name, (before, after) in compare.items() if before > after]
Markdown(
    "; ".join(
        f"**{name}** {100 * before:.1f} % before the last, {100 * after:.1f} % at the last"
        for name, (before, after) in compare.items()
    )
    + f". The layer before the last is ahead for {len(better)} of {len(compare)}"
    + (f" ({', '.join(better)})." if better else ".")
    + " Here the word loss trains that layer on purpose, so this is no independent test of the paper's guess."
)

# %% [markdown]
# And as a picture: the probe's guess at every patch of a few held-out scenes, floor included.

# %%
everywhere = torch.zeros(probed, 64, dtype=torch.long)  # 0: floor or wall
everywhere[picture_of, patch_of] = torch.tensor(labels["kind"]) + 1
whole = torch.arange(probed)[:, None].expand(-1, 64) < probed * 2 // 3
_, guess = probe(states[last - 1].flatten(0, 1), everywhere.flatten(), whole.flatten())
guess = guess.reshape(probed, 64)
agree = float((guess == everywhere)[~whole].float().mean())
found = float(((guess > 0) == (everywhere > 0))[~whole].float().mean())

# %%
filled = (everywhere > 0).sum(1)
chosen = filled[probed * 2 // 3 :].argsort(descending=True)[:3] + probed * 2 // 3  # the fullest of the new pictures
panels, titles = [], []
for index in chosen.tolist():
    kinds = [list(scenes.KINDS).index(o.kind) + 1 for o in held[index].objects]
    number = {0: 0} | {kind: i + 1 for i, kind in enumerate(dict.fromkeys(kinds))}
    maps = [[number.get(int(v), len(number)) for v in values] for values in (everywhere[index], guess[index])]
    panels += [renders[index].rgb, *(np.array(m).reshape(8, 8) for m in maps)]
    titles += ["picture", "truth", "probe"]
fig = figures.pictures(panels, titles, columns=3, width=1.6)
alt = "Three held-out pictures, the kind of object in each patch, and the probe's guess. Over all patches of new "
alt += f"pictures {100 * agree:.0f} % of the guesses are right; object or floor is right for {100 * found:.0f} %."
show(fig, alt, "Grey: floor or wall. A colour is a kind; one colour more stands for kinds that are not in the picture.")

# %% [markdown]
# ## Exercises
#
# ### Exercise 1 · Patches put back (easy, 10 minutes)
#
# Write the inverse of `patchify` for square pictures: patches (P, 3 * p * p), row by row, to the picture (3, H, W).


# %%
def unpatchify(patches: torch.Tensor, p: int) -> torch.Tensor:
    return ...  # your code here


check.unpatchify(unpatchify)

# %% [markdown]
# <details><summary>Hint</summary>
#
# The grid has $\sqrt{P}$ rows. Take the axes apart, (rows, columns, 3, p, p), and permute them so that each spatial
# axis ends up beside its other half: (3, rows, p, columns, p).
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def unpatchify(patches, p):
#     grid = round(len(patches) ** 0.5)
#     tiles = patches.reshape(grid, grid, 3, p, p)
#     return tiles.permute(2, 0, 3, 1, 4).reshape(3, grid * p, grid * p)
# ```
#
# </details>
#
# ### Exercise 2 · SigLIP's loss (medium, 15 minutes)
#
# SigLIP judges each pair by itself, with no softmax over the batch. With $z_{ij} = 1$ for a pair that belongs together
# and $-1$ for one that does not (Zhai et al. 2023, equation 1):
#
# $$\mathcal{L} = -\frac{1}{B} \sum_i \sum_j \log \sigma(z_{ij}\, l_{ij})$$
#
# `logits` (B, B) hold $l_{ij}$, scale and bias included.


# %%
def sigmoid_loss(logits: torch.Tensor) -> torch.Tensor:
    return ...  # your code here


check.sigmoid_loss(sigmoid_loss)

# %% [markdown]
# <details><summary>Hint</summary>
#
# `2 * torch.eye(B) - 1` is $z$. `F.logsigmoid` is safe where `torch.log(torch.sigmoid(...))` is not.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def sigmoid_loss(logits):
#     z = 2 * torch.eye(len(logits)) - 1
#     return -F.logsigmoid(z * logits).sum() / len(logits)
# ```
#
# </details>
#
# ### Exercise 3 · A class is more than one sentence (medium, 10 minutes)
#
# CLIP writes each class in many templates ("a photo of a cat", "a drawing of a cat") and averages (section 3.1.4).
# `texts` (K, T, D) holds the text tower's outputs for K classes in T templates, not normalised. Return one unit vector
# a class (K, D): every template should count alike.


# %%
def class_embeddings(texts: torch.Tensor) -> torch.Tensor:
    return ...  # your code here


check.class_embeddings(class_embeddings)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Normalise, average over one axis, normalise again. Why twice?
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def class_embeddings(texts):
#     units = F.normalize(texts, dim=-1)
#     return F.normalize(units.mean(1), dim=-1)
# ```
#
# </details>
#
# ### Exercise 4 · Count the parameters (harder, 15 minutes)
#
# How many parameters has a CLIP-style ViT like the one of section 3, given the picture's and the patch's side, the
# channels, the layers and the width of the MLP? Check yourself against `sum(w.numel() for w in encoder.parameters())`.


# %%
def vit_parameters(image: int, patch: int, dim: int, layers: int, hidden: int) -> int:
    return ...  # your code here


check.vit_parameters(vit_parameters)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Go through `MyViT.__init__` line by line. A `LayerNorm` has 2 D numbers, a `Linear(a, b)` has a * b + b, and the patch
# embedding has no bias. There is one position more than there are patches.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def vit_parameters(image, patch, dim, layers, hidden):
#     tokens = 1 + (image // patch) ** 2
#     outside = 3 * patch**2 * dim + dim + tokens * dim + 2 * 2 * dim
#     attention = dim * 3 * dim + 3 * dim + dim * dim + dim
#     mlp = dim * hidden + hidden + hidden * dim + dim
#     return outside + layers * (attention + mlp + 2 * 2 * dim)
# ```
#
# </details>

# %% [markdown]
# ## Takeaways
#
# - A patch is a vector; the patch embedding is one matrix, or a convolution whose stride is its kernel.
# - Attention has no sense of place. Position embeddings give it one, and they learn the grid from data.
# - CLIP's loss needs no labels but captions. It starts at $\log B$; zero-shot classification is its by-product.
# - A score for the whole picture says what is there better than where. The patches know where: a linear probe reads the
#   colour off nearly every one and the kind far more often than guessing would. That is why LLaVA reads patches.
#
# Next: [02 · LLaVA's architecture: projector, splice, mask](02_llava_architecture.ipynb).

# %%
report.record("largest relative difference from the package", worst)
report.record("position similarity, neighbours", near)
report.record("position similarity, six or more steps", far)
report.record("live CLIP loss, first and last ten steps", [float(np.mean(losses[:10])), float(np.mean(losses[-10:]))])
report.record("live retrieval among 64 new scenes", live_retrieval)
report.record("live training seconds", seconds)
report.record("shipped encoder, retrieval among 64", retrieval)
report.record("zero-shot", zero_shot)
report.record("probe recall by layer", recall)
