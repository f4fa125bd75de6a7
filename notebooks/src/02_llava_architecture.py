# %% [markdown]
# # 02 · LLaVA's architecture: projector, splice, mask
#
# *Visual Instruction Tuning* (Liu, Li, Wu, Lee 2023, [arXiv 2304.08485](https://arxiv.org/abs/2304.08485), section 4.1)
# and *Improved Baselines with Visual Instruction Tuning*, "LLaVA-1.5" (Liu et al. 2023,
# [arXiv 2310.03744](https://arxiv.org/abs/2310.03744), section 3).
#
# LLaVA joins two models that know nothing of each other. A vision encoder turns a picture into vectors. A language
# model reads vectors, one a token. LLaVA adds one small layer between them and writes the picture's vectors among the
# words' vectors. That is the whole architecture. This chapter builds it.
#
# **After this chapter you can**
#
# - compute $H_v$, $Z_v$ and the spliced sequence by hand, and say the shape of each;
# - build a projector, a small Llama (RMSNorm, rotary positions, grouped-query attention, SwiGLU) and a LLaVA from them;
# - say for each token of a training row whether it carries loss, in five chat templates;
# - batch rows with and without pictures, and decode with a key-value cache;
# - count the parameters, FLOPs and cache bytes of LLaVA at any size.
#
# **Time** about 20 s of computing on 2 CPU cores, 0.6 GB of memory; 60 to 90 minutes of reading and exercises. Nothing
# here needs a GPU.
#
# | symbol | meaning | shape |
# |---|---|---|
# | $X_v$ | picture | (3, S, S) |
# | $H_v$ | vision features, one a patch | (N, $D_v$) |
# | $W$ | projector | $D_v \to D$ |
# | $Z_v = W(H_v)$ | picture as tokens of the language model | (N, D) |
# | $X_q$, $H_q$ | instruction, its embeddings | (L), (L, D) |
# | $f_\phi$ | language model | (L, D) → (L, V) |
# | $X_a$ | answer | (L) |

# %% tags=["parameters"]
profile = "quick"  # "quick" or "full"
seed = 7  # of the picture and of all random weights
device = "cpu"  # "auto", "cpu", "cuda" or "mps"
question = "What color is the {kind}?"  # {kind} becomes an object of the picture
longest = 448  # tokens of the longest sequence in the cache experiment

# %%
import math
import time

import torch
import torch.nn.functional as F
from torch import nn

import vlmlab
from vlmlab import figures, report, runtime, scenes
from vlmlab.checks import nb02 as check
from vlmlab.figures import llava as diagrams
from vlmlab.figures import show

runtime.seed_everything(seed)
vlm = vlmlab.load("llava-tiny", device=device)
tokenizer = vlm.tokenizer
vlm.count_parameters()

# %% [markdown]
# ## 1. Toy numbers: two patches, three words
#
# A picture of two patches with three channels each, and a projector from three channels to two:
#
# $$Z_v = H_v W^\top \qquad (N, D_v) \cdot (D_v, D) \to (N, D)$$

# %%
H_v = torch.tensor([[1.0, 0.0, 2.0], [0.0, 1.0, 1.0]])  # (N, D_v) = (2, 3)
W = torch.tensor([[1.0, 0.0, 1.0], [0.0, 2.0, 0.0]])  # (D, D_v) = (2, 3), the way nn.Linear keeps it
Z_v = H_v @ W.T  # (N, D)
Z_v  # first patch: 1*1 + 0*0 + 2*1 = 3 and 2*0 = 0

# %% [markdown]
# The language model's table holds one vector a word. The prompt is three ids; the one in the middle is a placeholder
# and stands for the picture. Its own vector is never used: the picture's two tokens take its place.

# %%
table = torch.tensor([[0.0, 0.0], [1.0, 1.0], [2.0, -1.0], [0.0, 3.0]])  # (V, D) = (4, 2)
IMAGE = -200  # LLaVA's own placeholder: not a word of any vocabulary
ids = [1, IMAGE, 3]
before, after = table[ids[:1]], table[ids[2:]]  # H_q, cut at the placeholder
sequence = torch.cat([before, Z_v, after])  # (L - 1 + N, D) = (4, 2)
sequence

# %% [markdown]
# Three ids became four vectors: $L - 1 + N = 3 - 1 + 2$. Everything that follows is this, with larger numbers.

# %% [markdown]
# ## 2. The real thing: a picture through the encoder
#
# A rendered scene, cut into patches. Chapter 01 built the encoder; here it is a black box with seven outputs: what
# enters the first block, and what each of its six blocks returns.

# %%
scene = scenes.sample(seed, split="test", objects=3)
picture = scene.render(vlm.config.image_size).rgb  # uint8 (S, S, 3)
patch = vlm.config.vision.patch_size
N = (vlm.config.image_size // patch) ** 2
show(
    figures.patch_grid(picture, patch, title=f"$X_v$: {N} patches of {patch} x {patch} pixels"),
    alt=f"A rendered scene with three objects, cut by white lines into {N} square patches.",
    caption=scene.caption(),
)

# %%
pixels = vlm.preprocess(picture)[None].to(vlm.device)  # (1, 3, S, S)
with torch.no_grad():
    states = vlm.vision.hidden_states(pixels)
print(len(states), "hidden states of shape", tuple(states[0].shape), "= one class token and", N, "patches")

# %% [markdown]
# LLaVA takes `hidden_states[-2]`: the output of the last block but one, without the class token. CLIP's last block
# feeds the class token, on which its loss acts; the patch tokens before it still describe their own place. On
# ScienceQA the paper measured 90.92 % with the last block but one and 89.96 % with the last (section 5.2).

# %%
H_v = states[-2][:, vlm.vision.prefix_tokens :]  # (1, N, D_v)
with torch.no_grad():
    print("equal to vision.features(x, -2):", torch.equal(H_v, vlm.vision.features(pixels, -2)))
H_v.shape

# %% [markdown]
# ## 3. The projector
#
# LLaVA's $W$ is one matrix and a bias. LLaVA-1.5 puts a second layer after a GELU (`mlp2x_gelu`):
#
# $$Z_v = W_2\,\mathrm{GELU}(W_1 H_v + b_1) + b_2$$
#
# It works on each patch by itself: no patch sees another one here.


# %%
class Projector(nn.Module):
    def __init__(self, d_v: int, d: int):
        super().__init__()
        self.first, self.second = nn.Linear(d_v, d), nn.Linear(d, d)

    def forward(self, features):  # (B, N, D_v) -> (B, N, D)
        return self.second(F.gelu(self.first(features)))


# %% [markdown]
# Is it the package's? Copy the trained weights of `llava-tiny` into this class and compare the outputs.

# %%
d_v, d = vlm.config.feature_dim, vlm.config.language.dim
projector = Projector(d_v, d).to(vlm.device)
projector.first.load_state_dict(vlm.projector[0].state_dict())
projector.second.load_state_dict(vlm.projector[2].state_dict())
with torch.no_grad():
    Z_v = projector(H_v)  # (1, N, D)
    print("same as the package's:", torch.equal(Z_v, vlm.encode_images(pixels)), tuple(Z_v.shape))

# %% [markdown]
# At the paper's size ($D_v = 1024$, $D = 4096$) the projector would take 80 MB. On PyTorch's *meta* device a tensor has
# a shape and no memory, which is all that counting needs.

# %%
with torch.device("meta"):
    sizes = {"linear": nn.Linear(1024, 4096), "mlp2x_gelu": Projector(1024, 4096)}
projector_sizes = {name: sum(p.numel() for p in layer.parameters()) for name, layer in sizes.items()}
report.record("projector parameters, LLaVA-1.5-7B", projector_sizes["mlp2x_gelu"])
projector_sizes

# %% [markdown]
# ## 4. The language model
#
# Vicuna, LLaVA's language model, is a Llama. Four ideas make one: RMSNorm, rotary positions, grouped-query attention
# and SwiGLU. Each is a few lines.
#
# **RMSNorm** divides a vector by its root mean square and multiplies by a learnt scale. Unlike LayerNorm it subtracts
# no mean and adds no bias.
#
# $$\mathrm{RMSNorm}(x) = \frac{x}{\sqrt{\frac1D \sum_i x_i^2 + \epsilon}} \odot g$$


# %%
class RMSNorm(nn.Module):
    def __init__(self, dim: int, eps: float):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(dim)), eps

    def forward(self, x):  # (..., D)
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight


RMSNorm(2, 0.0)(torch.tensor([3.0, 4.0]))  # root mean square of (3, 4): sqrt(12.5) = 3.54

# %% [markdown]
# **Rotary positions** (RoPE, [arXiv 2104.09864](https://arxiv.org/abs/2104.09864)). Nothing is added to the tokens.
# Queries and keys are cut into pairs of channels, and pair $i$ of the token at position $t$ is turned by the angle
# $t\,\theta^{-2i/d}$. Llama pairs channel $i$ with channel $i + d/2$.


# %%
def rope(x, theta: float = 10000.0):  # (B, H, L, d)
    L, width = x.shape[-2:]
    speed = theta ** (-torch.arange(0, width, 2, device=x.device) / width)  # (d / 2,)
    angle = torch.arange(L, device=x.device)[:, None] * speed  # (L, d / 2)
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    first, second = x.chunk(2, -1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


# %% [markdown]
# The score $q \cdot k$ of two turned vectors depends on the *difference* of their angles only. So a query at position
# 40 scores its neighbours as the same query at position 400 does:

# %%
q, k = torch.randn(2, 64, generator=runtime.generator(seed))
row = torch.arange(401)
turned_q = rope(q.expand(1, 1, 401, 64))[0, 0]
turned_k = rope(k.expand(1, 1, 401, 64))[0, 0]
scores = {f"query at {t}": (row[:41], (turned_k[t - row[:41]] * turned_q[t]).sum(-1)) for t in (40, 400)}
gap = (scores["query at 40"][1] - scores["query at 400"][1]).abs().max().item()
show(
    figures.losses(
        scores, smooth=0, xlabel="distance between query and key (tokens)", ylabel="score q · k", height=2.4
    ),
    alt="Two curves of the score over distance, for a query at position 40 and at 400, lie on top of each other.",
    caption=f"One query and one key vector at many positions. The curves differ by at most {gap:.0e}.",
)

# %% [markdown]
# **Grouped-query attention** ([arXiv 2305.13245](https://arxiv.org/abs/2305.13245)). Several query heads share one key
# and one value head, which shrinks the cache that section 9 is about. `llava-tiny` has 6 query heads and 2 key-value
# heads; Vicuna-7B has 32 of each. The mask is causal: a token sees itself and what stands before it.


# %%
class Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        self.q_proj = nn.Linear(c.dim, c.heads * c.width, bias=False)
        self.k_proj = nn.Linear(c.dim, c.kv_heads * c.width, bias=False)
        self.v_proj = nn.Linear(c.dim, c.kv_heads * c.width, bias=False)
        self.o_proj = nn.Linear(c.heads * c.width, c.dim, bias=False)

    def forward(self, x):
        B, L, _ = x.shape
        q, k, v = (
            layer(x).view(B, L, -1, self.c.width).transpose(1, 2) for layer in (self.q_proj, self.k_proj, self.v_proj)
        )  # (B, H, L, d), (B, K, L, d), (B, K, L, d)
        q, k = rope(q, self.c.rope_theta), rope(k, self.c.rope_theta)
        k, v = (y.repeat_interleave(self.c.heads // self.c.kv_heads, 1) for y in (k, v))  # (B, H, L, d)
        scores = q @ k.transpose(-1, -2) / self.c.width**0.5  # (B, H, L, L)
        later = torch.ones(L, L, dtype=torch.bool, device=x.device).triu(1)
        weights = scores.masked_fill(later, float("-inf")).softmax(-1)
        return self.o_proj((weights @ v).transpose(1, 2).reshape(B, L, -1))


# %% [markdown]
# **SwiGLU** ([arXiv 2002.05202](https://arxiv.org/abs/2002.05202)): one projection gates another,
# $\mathrm{down}(\mathrm{silu}(\mathrm{gate}(x)) \odot \mathrm{up}(x))$. A block adds attention to its input, then the
# MLP; each reads a normalised copy.


# %%
class MLP(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.gate_proj, self.up_proj = (nn.Linear(c.dim, c.hidden, bias=False) for _ in range(2))
        self.down_proj = nn.Linear(c.hidden, c.dim, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.input_layernorm, self.self_attn = RMSNorm(c.dim, c.eps), Attention(c)
        self.post_attention_layernorm, self.mlp = RMSNorm(c.dim, c.eps), MLP(c)

    def forward(self, x):
        x = x + self.self_attn(self.input_layernorm(x))
        return x + self.mlp(self.post_attention_layernorm(x))


# %% [markdown]
# The model takes embeddings, not ids. That one choice lets a picture in. Its output layer is the embedding table
# again ("tied").


# %%
class MiniLlama(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.embed_tokens = nn.Embedding(c.vocab_size, c.dim)
        self.layers = nn.ModuleList(Block(c) for _ in range(c.layers))
        self.norm = RMSNorm(c.dim, c.eps)

    def forward(self, embeds):  # (B, L, D) -> logits (B, L, V)
        for block in self.layers:
            embeds = block(embeds)
        return self.norm(embeds) @ self.embed_tokens.weight.T


# %% [markdown]
# **Check.** Draw random weights for this class, copy them into the package's `Llama`, and compare. The names are the
# same, so `load_state_dict` does it.

# %%
from vlmlab.language import Llama, LlamaConfig

toy = LlamaConfig(vocab_size=50, dim=32, layers=2, heads=4, kv_heads=2, hidden=48)
mini, full = MiniLlama(toy), Llama(toy)
full.load_state_dict(mini.state_dict())
some_ids = torch.randint(50, (2, 9))
with torch.no_grad():
    ours, theirs = mini(mini.embed_tokens(some_ids)), full(some_ids)
mini_gap = ((ours - theirs).abs().max() / theirs.abs().max()).item()
report.record("MiniLlama against the package, relative difference", mini_gap)
assert mini_gap < 1e-5

# %% [markdown]
# And the trained weights the other way round: `language` is this notebook's class with `llava-tiny`'s language model in
# it.

# %%
language = MiniLlama(vlm.config.language).to(vlm.device)
language.load_state_dict(vlm.language.state_dict())
sum(p.numel() for p in language.parameters()), vlm.count_parameters()["language"]

# %% [markdown]
# ## 5. The splice
#
# A question in the model's chat template. `<image>` is a token of this vocabulary; at LLaVA's own size it is not.

# %%
asked = question.format(kind=scene.objects[0].kind)
ids = vlm.template.encode_prompt(asked, tokenizer, image_id=vlm.image_id)
place = ids.index(vlm.image_id)
show(
    figures.token_strip(
        [tokenizer.token(i) for i in ids],
        ["image" if i == vlm.image_id else "special" if i in tokenizer.special_ids else "text" for i in ids],
        title="$X_q$: one placeholder among the words",
    ),
    alt=f"The prompt as {len(ids)} tokens; the image placeholder is token {place}.",
)

# %%
H_q = language.embed_tokens(torch.tensor([ids], device=vlm.device))  # (1, L, D)
spliced = torch.cat([H_q[:, :place], Z_v, H_q[:, place + 1 :]], dim=1)  # (1, L - 1 + N, D)
L, total = H_q.shape[1], spliced.shape[1]
show(
    figures.blocks(
        [
            ("$X_q$ ids", [("", place, "text"), ("", 1, "image"), ("words", L - place - 1, "text")]),
            ("$Z_v$", [("picture", N, "image")]),
            ("spliced", [("", place, "text"), ("picture", N, "image"), ("words", L - place - 1, "text")]),
        ],
        notes=[f"({L},)", f"({N}, {d})", f"({total}, {d})"],
        title="Token shapes through the splice",
    ),
    alt=f"{L} ids with one placeholder and {N} picture tokens become a sequence of {total} vectors of width {d}.",
)

# %% [markdown]
# The same diagram as a model, with the shapes of this question:

# %%
shapes = {
    "X_v": str(tuple(pixels.shape[1:])), "H_v": str(tuple(H_v.shape[1:])), "Z_v": str(tuple(Z_v.shape[1:])),
    "X_q": f"{L} ids", "H_q": f"({L}, {d})", "sequence": str(tuple(spliced.shape[1:])), "X_a": "token by token",
}  # fmt: skip
show(
    diagrams.architecture(shapes),
    alt="The picture passes the vision encoder and the projector, the question the embedding table; the language model "
    "reads both as one sequence and writes the answer.",
)

# %% [markdown]
# **Check.** The projector, the language model and the splice of this notebook against the package's model:

# %%
with torch.no_grad():
    ours = language(spliced)  # (1, L - 1 + N, V)
    theirs = vlm(pixels, torch.tensor([ids]))
llava_gap = ((ours - theirs).abs().max() / theirs.abs().max()).item()
report.record("this notebook's LLaVA against the package, relative difference", llava_gap)
assert llava_gap < 1e-5
tuple(ours.shape)

# %% [markdown]
# It speaks: take the likeliest token, append its embedding, repeat until the end token.

# %%
embeds, answer = spliced, []
with torch.no_grad():
    while len(answer) < 24 and (not answer or answer[-1] != tokenizer.eos_id):
        answer.append(int(language(embeds)[0, -1].argmax()))
        embeds = torch.cat([embeds, language.embed_tokens.weight[answer[-1]][None, None]], 1)
print(asked, "→", tokenizer.decode(answer).strip())
print("the package:", vlm.generate(picture, asked, max_new_tokens=24))

# %% [markdown]
# ## 6. Templates and the label mask
#
# Training needs a label for each position: the id to predict, or -100 for "no loss". LLaVA trains on the assistant's
# answer and on the token that ends it. The question carries no loss (the model need not learn to ask), nor does the
# picture (there is no id to predict).
#
# A template says how turns are written and what ends an answer. Below, one conversation in five templates; orange,
# underlined tokens carry loss.

# %%
from vlmlab.vlm import TEMPLATES, get_template

asked_about = scene.questions(types=["relation"], count=1)[0]
conversation = [
    {"from": "human", "value": "<image>\n" + asked_about.text},
    {"from": "gpt", "value": asked_about.sentence},
]


def groups(ids, labels):
    special = ["image" if i == vlm.image_id else "special" if i in tokenizer.special_ids else "text" for i in ids]
    return ["loss" if label != -100 else name for name, label in zip(special, labels, strict=True)]


# %%
supervised = {}
for name in TEMPLATES:
    template_ids, labels = get_template(name, system="").encode(conversation, tokenizer)
    supervised[name] = sum(label != -100 for label in labels)
    strip = figures.token_strip([tokenizer.token(i) for i in template_ids], groups(template_ids, labels), title=name)
    show(strip, alt=f"Template {name}: of {len(template_ids)} tokens the last {supervised[name]} carry loss.")
supervised

# %% [markdown]
# What differs: how roles are named, and the end token. `v0` ends an answer with `###`, which is ordinary text and may
# be cut into several tokens; `v1` with `</s>`, one special token. `plain` is stage 1's: the human text is thrown away
# and the caption follows the picture at once. The figures leave out the system message, which carries no loss either.
# This is the one of `v1`:

# %%
print(TEMPLATES["v1"].render(conversation))

# %% [markdown]
# The loss is the mean cross-entropy over the labelled positions. Position $t$ predicts token $t + 1$, so logits and
# labels are shifted by one. After the splice the labels are longer as well: the picture's $N$ positions get -100.
#
# $$\mathcal L = -\frac{1}{|\mathcal A|}\sum_{t \in \mathcal A} \log p_\phi(x_t \mid x_{<t}, Z_v)$$

# %%
ids, labels = vlm.template.encode(conversation, tokenizer)
place = ids.index(vlm.image_id)
long_labels = torch.tensor([*labels[:place], *[-100] * N, *labels[place + 1 :]])  # (L - 1 + N,)
with torch.no_grad():
    H_q = language.embed_tokens(torch.tensor([ids], device=vlm.device))
    logits = language(torch.cat([H_q[:, :place], Z_v, H_q[:, place + 1 :]], dim=1))[0].cpu()
    nll = F.cross_entropy(logits[:-1], long_labels[1:], ignore_index=-100, reduction="none")
    theirs = vlm(pixels, torch.tensor([ids]), labels=torch.tensor([labels])).loss.item()
loss = (nll.sum() / (long_labels[1:] != -100).sum()).item()
assert abs(loss - theirs) < 1e-5 * max(1.0, theirs)
print(f"loss by hand {loss:.6f}, the package's {theirs:.6f}")

# %% [markdown]
# The loss of each token of the answer: what the model finds hard to foresee.

# %%
learnt = [i for i, label in enumerate(long_labels.tolist()) if label != -100]
show(
    figures.token_strip(
        [tokenizer.token(int(long_labels[i])) for i in learnt],
        values=[nll[i - 1].item() for i in learnt],
        value_label="loss of the token (nats)",
        title=f"{asked_about.text} → loss of each answer token",
    ),
    alt="The answer's tokens coloured by their loss.",
    caption=f"Mean loss {loss:.3f}; guessing among all {len(logits[0]):,} tokens costs {math.log(len(logits[0])):.2f}.",
)

# %% [markdown]
# Upstream's trainer counts tokens of each part apart and compares the sum with the whole; when they differ it prints
# "tokenization mismatch", masks the *whole* row, and trains on nothing. Ours tokenizes a row once and raises an error
# when a token would straddle question and answer.

# %%
from vlmlab.errors import BadInput
from vlmlab.vlm.templates import Template

glued = Template(name="glued", user="{text}", reply="", answer="{text}", end="</s>")  # no space, no sign between turns
try:
    glued.encode([{"from": "human", "value": "left or r"}, {"from": "gpt", "value": "ight"}], tokenizer)
except BadInput as error:
    print("refused:", error)

# %% [markdown]
# ## 7. Batches that mix pictures and text
#
# LLaVA-1.5 trains on 40,688 text-only conversations as well. In a batch, rows then differ in the number of pictures:
# here one, none, and two. The splice gives each row its own length and pads on the right.

# %%
rows = [
    [{"from": "human", "value": "<image>\nHow many objects are there?"}, {"from": "gpt", "value": "3."}],
    [{"from": "human", "value": "What is red and blue mixed?"}, {"from": "gpt", "value": "Purple."}],
    [{"from": "human", "value": "<image>\n<image>\nAre they the same?"}, {"from": "gpt", "value": "No."}],
]
encoded = [vlm.template.encode(turns, tokenizer) for turns in rows]
longest_row = max(len(ids) for ids, _ in encoded)


def padded(sequences, fill):
    return torch.tensor([[*row, *[fill] * (longest_row - len(row))] for row in sequences])


batch_ids = padded([ids for ids, _ in encoded], tokenizer.pad_id)
batch_labels = padded([labels for _, labels in encoded], -100)
mask = padded([[1] * len(ids) for ids, _ in encoded], 0)
images = torch.cat([pixels, pixels, pixels.flip(-1)])  # in the order of the placeholders, row by row

# %%
from itertools import groupby

with torch.no_grad():
    out = vlm.embed_inputs(images, batch_ids, batch_labels, mask)


def drawn(number):  # a row as runs of one group
    names = [
        "padding" if not real else "image" if index >= 0 else "loss" if label != -100 else "text"
        for real, index, label in zip(
            out.attention_mask[number], out.image_index[number], out.labels[number], strict=True
        )
    ]
    return [(name, len(list(run)), name) for name, run in groupby(names)]


# %%
show(
    figures.blocks(
        [(name, drawn(number)) for number, name in enumerate(("one picture", "text only", "two pictures"))],
        title=f"A mixed batch after the splice: {tuple(out.inputs_embeds.shape)}",
    ),
    alt="Three rows of one length: one picture, no picture and two pictures, each filled up with padding on the right.",
)

# %% [markdown]
# **Check.** Padding and neighbours must not matter: the logits of the text-only row are those it has alone.

# %%
with torch.no_grad():
    together = vlm(images, batch_ids, attention_mask=mask)[1, : len(encoded[1][0])]
    alone = vlm(None, torch.tensor([encoded[1][0]]))[0]
batch_gap = ((together - alone).abs().max() / alone.abs().max()).item()
report.record("text-only row in a mixed batch against alone, relative difference", batch_gap)
assert batch_gap < 1e-5

# %% [markdown]
# ## 8. Why the cache
#
# Writing a token takes one pass through the model. Without a cache each pass reads the whole sequence again, though
# keys and values of earlier tokens never change: a causal token cannot see what comes after it. The **key-value
# cache** keeps them, and each step feeds one token. What it costs is memory,
#
# $$\text{bytes per token} = 2 \cdot \text{layers} \cdot \text{kv heads} \cdot d \cdot \text{bytes per number}$$
#
# Same tokens? Greedy decoding twice, the cache thrown away at each step the second time:

# %%
with torch.no_grad():
    prompt = vlm.embed_inputs(pixels, torch.tensor([ids])).inputs_embeds  # (1, L, D)
    cached = vlm.generate_ids(pixels, torch.tensor([ids]), max_new_tokens=20, eos_ids=[])[0].tolist()
    embeds, uncached = prompt, []
    for _ in range(20):
        uncached.append(int(vlm.language(inputs_embeds=embeds)[0, -1].argmax()))
        embeds = torch.cat([embeds, vlm.language.embed_tokens.weight[uncached[-1]][None, None]], 1)
report.record("cached decoding gives the uncached tokens", cached == uncached)
assert cached == uncached

# %%
lengths = torch.linspace(64, longest, 7).int().tolist()
noise = torch.randn(1, longest, d, generator=runtime.generator(seed)).to(vlm.device) * 0.02


@torch.no_grad()
def milliseconds(length, use_cache):
    times = []
    for _ in range(4):
        cache = vlm.language.new_cache() if use_cache else None
        if use_cache:
            vlm.language.hidden(inputs_embeds=noise[:, : length - 1], cache=cache)
        start = time.perf_counter()
        vlm.language.hidden(
            inputs_embeds=noise[:, length - 1 : length] if use_cache else noise[:, :length], cache=cache
        )
        times.append(1000 * (time.perf_counter() - start))
    return min(times)


# %%
costs = {
    name: (lengths, [milliseconds(n, name == "with a cache") for n in lengths]) for name in ("without", "with a cache")
}
speedup = costs["without"][1][-1] / costs["with a cache"][1][-1]
report.record(f"one token after {longest}: time without a cache / with it", speedup)
show(
    figures.losses(costs, smooth=0, xlabel="tokens so far", ylabel="ms for the next token", height=2.5),
    alt=f"Time for the next token over the length so far. Without a cache it grows; with one it is {speedup:.0f} times "
    f"less at {longest} tokens.",
    caption=f"Smallest of four measurements each, {runtime.device(device)}.",
)

# %% [markdown]
# ## 9. The same model in transformers
#
# Hugging Face's `transformers` has LLaVA as `LlavaForConditionalGeneration`. A tiny one with random weights, converted
# with `VLM.from_transformers`, has to give the same logits and to write the same tokens. The same conversion loads the
# published 7B and 13B checkpoints.

# %%
from transformers import CLIPVisionConfig, LlavaForConditionalGeneration
from transformers import LlamaConfig as TheirLlamaConfig
from transformers import LlavaConfig as TheirLlavaConfig

reference = LlavaForConditionalGeneration(
    TheirLlavaConfig(
        vision_config=CLIPVisionConfig(
            image_size=28, patch_size=7, hidden_size=32, intermediate_size=48,
            num_hidden_layers=3, num_attention_heads=4,
        ),
        text_config=TheirLlamaConfig(
            vocab_size=99, hidden_size=48, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, bos_token_id=1, eos_token_id=2, pad_token_id=0,
        ),
        image_token_index=98,
    )
).eval()  # fmt: skip
copy = vlmlab.vlm.VLM.from_transformers(reference)

# %%
image = torch.randn(2, 3, 28, 28, generator=runtime.generator(seed))
words = torch.randint(3, 98, (2, 8), generator=runtime.generator(seed))
theirs_ids = torch.cat([words[:, :2], torch.full((2, 16), 98), words[:, 2:]], 1)  # transformers writes N placeholders
ours_ids = torch.cat([words[:, :2], torch.full((2, 1), 98), words[:, 2:]], 1)  # one placeholder, as LLaVA's own files
with torch.no_grad():
    theirs = reference(input_ids=theirs_ids, pixel_values=image).logits
    ours = copy(image, ours_ids)
    written = reference.generate(
        input_ids=theirs_ids, pixel_values=image, max_new_tokens=10, do_sample=False, eos_token_id=None
    )
parity = ((ours - theirs).abs().max() / theirs.abs().max()).item()
report.record("logits against transformers, relative difference", parity)
assert parity < 1e-5
same = torch.equal(copy.generate_ids(image, ours_ids, max_new_tokens=10, eos_ids=[]), written[:, theirs_ids.shape[1] :])
report.record("generated tokens equal transformers'", same)
assert same

# %% [markdown]
# ## 10. What it costs
#
# `vlmlab.vlm.account` counts from shapes alone, on the meta device; nothing is allocated. FLOPs count a multiply-add
# as two and matrix products only.

# %%
from vlmlab.vlm import account

accounts = {name: account(name) for name in ("llava-tiny", "llava-1.5-7b", "llava-1.5-13b")}
parts = ("vision", "projector", "language")
for name, result in accounts.items():
    print(f"{name:14}" + "  ".join(f"{part} {result['parameters'][part]:>14,}" for part in (*parts, "total")))
report.record("parameters of LLaVA-1.5-7B", accounts["llava-1.5-7b"]["parameters"]["total"])

# %%
names = [f"{name}, {what}" for name in accounts for what in ("parameters", "FLOPs of a prefill")]
counts = [c for a in accounts.values() for c in (a["parameters"], a["prefill"]["flops"])]
show(
    figures.bars(
        names, {part: [c[part] / c["total"] for c in counts] for part in parts}, percent=True, limits=(0, 1.08),
        title="Where the weights and the work are",
    ),
    alt="Shares of encoder, projector and language model: at 7B and 13B the language model has nearly all of both.",
    caption="Prefill: one picture and 64 tokens of text.",
)  # fmt: skip

# %% [markdown]
# At 7B a picture is 576 tokens. They stay in the cache for as long as the conversation lasts:

# %%
tokens = accounts["llava-1.5-7b"]["image_tokens"]
per_token = accounts["llava-1.5-7b"]["cache_bytes_per_token"]["bf16"]
print(f"{tokens} tokens x {per_token / 2**10:.0f} KiB = {tokens * per_token / 2**20:.0f} MiB of cache for one picture")
report.record("KV cache of one picture at 7B, MiB", tokens * per_token / 2**20)

# %% [markdown]
# ## Exercises
#
# Replace each `...` by your own lines. A check says what is right or which mistake it looks like; until you begin, it
# says "not yet".
#
# ### Exercise 1 · Count a projector (easy, 5 minutes)
#
# Return the number of parameters, biases included, of a projector from width `d_v` to `d`. `kind` is `"linear"` or
# `"mlp2x_gelu"`.


# %%
def projector_parameters(kind: str, d_v: int, d: int) -> int:
    return ...  # your code here


check.projector_parameters(projector_parameters)

# %% [markdown]
# <details><summary>Hint</summary>
#
# A linear layer from $a$ to $b$ has $a \cdot b$ weights and $b$ biases. The GELU has none.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def projector_parameters(kind, d_v, d):
#     first = d_v * d + d
#     return first if kind == "linear" else first + d * d + d
# ```
#
# </details>
#
# ### Exercise 2 · The splice (medium, 10 minutes)
#
# Write the splice for one row with any number of pictures: `H_q` (L, D) are the embeddings of `ids` (L,), `Z_v`
# (images, N, D) the pictures in order, `image_id` the placeholder. Return the spliced sequence of L + images · (N - 1)
# vectors.


# %%
def splice(H_q: torch.Tensor, ids: list[int], Z_v: torch.Tensor, image_id: int) -> torch.Tensor:
    return ...  # your code here


check.splice(splice)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Walk over the ids and collect pieces: a word gives its own row of `H_q`, a placeholder gives the next picture's N
# rows. `torch.cat` at the end.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def splice(H_q, ids, Z_v, image_id):
#     pictures = iter(Z_v)
#     pieces = [next(pictures) if i == image_id else H_q[t : t + 1] for t, i in enumerate(ids)]
#     return torch.cat(pieces)
# ```
#
# </details>
#
# ### Exercise 3 · The label mask (medium, 10 minutes)
#
# A conversation comes as turns, each already tokenized: `("human", ids)` or `("gpt", ids)`. The end token `eos` follows
# each answer. Return ids and labels of the whole row: loss on answers and their end tokens only, -100 elsewhere. Labels
# are aligned with ids; the model shifts them itself.


# %%
def label_mask(turns: list[tuple[str, list[int]]], eos: int) -> tuple[list[int], list[int]]:
    return ...  # your code here


check.label_mask(label_mask)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Build both lists side by side: what you append to `ids` decides what you append to `labels`, always as many.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def label_mask(turns, eos):
#     ids, labels = [], []
#     for who, tokens in turns:
#         if who == "gpt":
#             tokens = [*tokens, eos]
#         ids += tokens
#         labels += tokens if who == "gpt" else [-100] * len(tokens)
#     return ids, labels
# ```
#
# </details>
#
# ### Exercise 4 · One step of rotary positions (medium, 10 minutes)
#
# Turn a single vector `x` (d,) to position `t`, the way Llama does: channel i forms a pair with channel i + d/2, and
# pair i turns by $t\,\theta^{-2i/d}$.


# %%
def rotate_to(x: torch.Tensor, t: int, theta: float = 10000.0) -> torch.Tensor:
    return ...  # your code here


check.rotate_to(rotate_to)

# %% [markdown]
# <details><summary>Hint</summary>
#
# A pair $(a, b)$ turned by $\alpha$ is $(a\cos\alpha - b\sin\alpha,\; b\cos\alpha + a\sin\alpha)$. `x.chunk(2)`
# gives all $a$ and all $b$.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def rotate_to(x, t, theta=10000.0):
#     a, b = x.chunk(2)
#     angle = t * theta ** (-torch.arange(0, len(x), 2) / len(x))
#     return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()])
# ```
#
# </details>
#
# ### Exercise 5 · How many pictures fit? (easy, 5 minutes)
#
# A GPU has `free` bytes left for the cache. How many whole pictures of `tokens` tokens can stay in it, given the number
# of layers, key-value heads, channels a head, and bytes a number?


# %%
def pictures_that_fit(free: int, tokens: int, layers: int, kv_heads: int, width: int, bytes_each: int) -> int:
    return ...  # your code here


check.pictures_that_fit(pictures_that_fit)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Keys *and* values, in every layer. Whole pictures: divide with `//`.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def pictures_that_fit(free, tokens, layers, kv_heads, width, bytes_each):
#     return free // (tokens * 2 * layers * kv_heads * width * bytes_each)
# ```
#
# </details>

# %% [markdown]
# ## Takeaways
#
# - LLaVA is an encoder, a projector of one or two layers, and a language model that reads vectors.
# - The splice replaces one placeholder by $N$ tokens; a row grows to $L - 1 + N$. Rows with and without pictures share
#   a batch.
# - Loss falls on the answer and its end token only. A wrong mask is silent: look at it, as the strips above do.
# - A cache gives the same tokens for less time; at 7B one picture takes hundreds of megabytes of it.
# - The class of this notebook, the package's and transformers' agree to a relative 1e-5.
#
# Next: [03 · Instruction data from a language-only teacher](03_instruction_data.ipynb).
