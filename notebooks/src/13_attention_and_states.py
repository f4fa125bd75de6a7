# %% [markdown]
# # 13 · Attention, hidden attention and states
#
# *Quantifying Attention Flow in Transformers* (Abnar and Zuidema 2020,
# [arXiv 2005.00928](https://arxiv.org/abs/2005.00928)): rollout. *Generic Attention-model Explainability* (Chefer, Gur,
# Wolf 2021, [arXiv 2103.15679](https://arxiv.org/abs/2103.15679)): relevance. *The Hidden Attention of Mamba Models*
# (Ali, Zimerman, Wolf 2024, [arXiv 2403.01590](https://arxiv.org/abs/2403.01590)). *Efficient Streaming Language Models
# with Attention Sinks* (Xiao et al. 2023, [arXiv 2309.17453](https://arxiv.org/abs/2309.17453)). *Dissecting Recall of
# Factual Associations* (Geva et al. 2023, [arXiv 2304.14767](https://arxiv.org/abs/2304.14767)): attention knock-out.
# *Why Is Spatial Reasoning Hard for VLMs?* (Chen et al. 2025, [arXiv 2503.01773](https://arxiv.org/abs/2503.01773)):
# rescaled attention.
#
# A model has read 64 patches and a question, and says a word. Where did it look? A transformer keeps a record: its
# attention. A Mamba has no attention, but its scan can be written as one, and its state can be taken apart exactly.
# This chapter opens both for the same question and the same word. Then it asks of every map what the map itself cannot
# tell: does it matter to the answer?
#
# **A map is not an explanation until it is tested.** Some maps below point at the object and carry the answer, some
# look just as convincing and do not. Chapter 14 scores them.
#
# **After this chapter you can**
#
# - name any intermediate of a model, record it, and replace it while the model runs;
# - compute attention rows by hand, pick the row that belongs to a word, and say what a mean over heads hides;
# - follow attention through the layers by rollout and by relevance, and say what each leaves out;
# - write a selective scan as a matrix, and prove it;
# - say how long a state remembers, and book exactly what it holds of each patch;
# - read words off image tokens with the logit lens;
# - test a map: knock-out, ablation with controls, rescaling, other orders of the patches.
#
# **Time** about 40 s of computing on 2 CPU cores, 0.8 GB of memory; 2 to 3 hours of reading and exercises. Nothing here
# needs a GPU.
#
# | symbol | meaning | shape |
# |---|---|---|
# | $L$, $P$, $H$, $I$, $N$ | positions, patches, heads, inner channels, numbers of state a channel | |
# | $A^{(l)}$ | attention weights of a layer, a query a row | (H, L, L) |
# | $R$ | relevance of each position for each | (L, L) |
# | $u$, $\Delta$ | what a scan takes in, its step size | (L, I) |
# | $B$, $C$ | what writes into its state, what reads it | (L, N) |
# | $A$ | decay rates of a scan, negative | (I, N) |
# | $S_t$ | running sum of $\Delta$ | (L, I) |
# | $\alpha$ | hidden attention, one matrix a channel | (L, L) |
# | $h_t$ | state after position t | (I, N) |

# %% tags=["parameters"]
profile = "quick"  # "quick" or "full": six times as many questions
seed = 0  # of the questions and of random patches
device = "cpu"  # "auto", "cpu", "cuda" or "mps"
transformer = "llava-tiny"  # a shipped model that reads with a Llama
recurrent = "cobra-tiny"  # a shipped model that reads with a Mamba
scene_seed = 23  # of the picture that is looked into (the next one where this has no such question)
questions = 12  # about single objects, where something is counted
pairs = 6  # questions about left and right, where something is counted
taken = 4  # patches that are taken away to test a map
window = 3  # layers that are blocked at a time

# %%
import copy
import math
import re

import numpy as np
import torch
from IPython.display import Markdown

import vlmlab
from vlmlab import figures, report, runtime, scenes, weights
from vlmlab.benchmarks.held_out import is_right
from vlmlab.benchmarks.statistics import wilson
from vlmlab.checks import nb13 as check
from vlmlab.explain import Inside, ablation, attention, hidden_attention, interventions, orders, scans, states
from vlmlab.explain import lens as logit_lens
from vlmlab.explain.regions import SHARE, coverage
from vlmlab.figures import inside as maps
from vlmlab.figures import reading, show, show_table
from vlmlab.figures import states as timelines

runtime.seed_everything(seed)
many = 6 if profile == "full" else 1
llava, cobra = (vlmlab.load(name, device=device) for name in (transformer, recurrent))


def gap(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """The largest difference, relative to the largest wanted magnitude."""
    return float((found - wanted).abs().max() / wanted.abs().max())


# %% [markdown]
# ## 1. Toy: a tap
#
# A **tap** is a function that a model calls at each of its intermediates with a name and the tensor. What it returns
# goes on in the tensor's place. So one mechanism records and intervenes. A model of two steps, in full:

# %%
from vlmlab.taps import tapped


def model(x, tap=None):
    doubled = tapped(tap, "doubled", 2 * x)
    return tapped(tap, "raised", doubled + 1)


seen = {}


def record(name, value):
    seen[name] = value
    return value


print("plain:   ", model(5.0))
print("recorded:", model(5.0, record), seen)
print("replaced:", model(5.0, lambda name, value: 0.0 if name == "doubled" else value))

# %% [markdown]
# ## 2. Every intermediate has a name
#
# The picture, the question, and what both models answer. `Inside` puts the question, the picture's tokens and the
# answer into one sequence, so that one pass shows every step of the generation (teacher forcing). To compare word by
# word, both models are looked into with the *same* answer, the transformer's.


# %%
def about_sides(number):
    """A held-out scene of two kinds of object and a question about left and right: the first one from `number` on."""
    while True:
        found = scenes.sample(number, split="test", objects=2)
        asked = found.questions(types=["relation"], relation="right of", count=1)
        if asked and found.objects[0].kind != found.objects[1].kind:
            return found, asked[0]
        number += 1


scene, question = about_sides(scene_seed)
render = scene.render(llava.config.image_size)
picture = render.rgb
in_llava = Inside.ask(llava, picture, question.text)
in_cobra = Inside.ask(cobra, picture, question.text, in_llava.answer)
said = {"LLaVA": in_llava.answer, "Cobra": cobra.generate(picture, question.text)}
print(question.text, "| the scene says:", question.answer)
for name, text in said.items():
    print(f"{name}: {text}")

# %% [markdown]
# The answers tell places first: a patch is named by its column and row, as on a chess board from the top left. Then
# comes a sentence, then the verdict. These models were trained on answers of this form.
#
# What can be tapped? All names of one layer of each language model, with their shapes:

# %%
rows = []
for name, inside in (("LLaVA", in_llava), ("Cobra", in_cobra)):
    every = inside.vlm.names()
    names = [each for each in every if each.startswith("language.layers.2.") or each == "language.layers.2"]
    found = inside.run(names)
    rows += [[name, each, str(tuple(found[each].shape))] for each in names]
    print(f"{name}: {len(every)} names, from {every[0]} to {every[-1]}; {inside.length} positions, the image at "
          f"{inside.image.start} to {inside.image.stop - 1}, the answer from {inside.words.start} on")  # fmt: skip
show_table(["model", "name", "shape"], rows)
report.record("names that can be tapped", {"LLaVA": len(llava.names()), "Cobra": len(cobra.names())})

# %% [markdown]
# LLaVA's prompt opens with a few tokens of text, then the image, then the question. Cobra reads the image first of all.
# Keep this in mind: whatever Cobra computes *at the image* cannot depend on the question.
#
# **Check.** A tap that returns what it gets changes nothing but the last digits (with a tap, attention is written out;
# without, PyTorch's fused form runs). And a tap that replaces the image's tokens by zeros makes the model blind:

# %%
with torch.no_grad():
    plain = llava(in_llava.pixels, in_llava.ids)[0]  # (L, V)
idle_gap = gap(in_llava.run(tap=lambda name, value: value)["logits"], plain)
report.record("a tap that does nothing, relative difference of the logits", idle_gap)
assert idle_gap < 1e-4
print("blind:", interventions.generate_with(in_llava, lambda name, x: 0 * x if name == "tokens" else x))

# %% [markdown]
# A blind model still answers in full sentences. A fluent answer is no evidence that anything was seen.
#
# ## 3. Toy: attention on three tokens
#
# Each token has a query, a key and a value. Token $i$ compares its query with the keys of all tokens up to itself; a
# softmax makes the scores weights that sum to 1; the output is the weighted mean of the values.
#
# By hand: all queries are the same, and the scores are chosen as logarithms, so that the softmax is a division.

# %%
q = torch.tensor([[2.0, 0, 0, 0]] * 3)  # (L, d), d = 4: scores are divided by sqrt(4) = 2
k = torch.tensor([[math.log(n), 0, 0, 0] for n in (1, 2, 5)])
v = torch.tensor([8.0, 4.0, 0.0])
scores = q @ k.T / math.sqrt(4)  # (L, L)
future = torch.ones(3, 3, dtype=torch.bool).triu(1)
toy = scores.masked_fill(future, float("-inf")).softmax(-1)
print(toy)  # row 3: log 1, log 2, log 5 become 1/8, 2/8, 5/8
print("outputs:", toy @ v)  # row 3: 8/8 + 2 * 4/8 + 0

# %% [markdown]
# ## 4. The real rows
#
# The same lines for one layer of LLaVA's language model. It has more query heads than key heads, so that some share a
# key (grouped queries), and both are turned by their position (rotary embeddings, chapter 02).

# %%
from vlmlab.language.llama import rope_table, rotate

layer = 2
block, c, L = llava.language.layers[layer], llava.config.language, in_llava.length
with torch.no_grad():
    x = block.input_layernorm(in_llava.get("residual", layer - 1))  # (L, D)
    q = block.self_attn.q_proj(x).view(L, c.heads, -1).transpose(0, 1)  # (H, L, d)
    k = block.self_attn.k_proj(x).view(L, c.kv_heads, -1).transpose(0, 1)  # (K, L, d)
turn = rope_table(L, c.width, c.rope_theta, llava.device)
q, k = rotate(q, *turn), rotate(k, *turn).repeat_interleave(c.heads // c.kv_heads, 0)
future = torch.ones(L, L, dtype=torch.bool, device=llava.device).triu(1)
by_hand = (q @ k.mT / math.sqrt(c.width)).masked_fill(future, float("-inf")).softmax(-1)  # (H, L, L)

# %%
recorded = in_llava.get("attention", layer)
sums = in_llava.get("attention").sum(-1)
report.record("attention by hand against the recorded, relative difference", gap(by_hand, recorded))
report.record("attention rows: largest distance of a sum from 1", float((sums - 1).abs().max()))
assert gap(by_hand, recorded) < 1e-4
assert torch.allclose(sums, torch.ones_like(sums), atol=1e-5)

# %% [markdown]
# **Prefill and decode.** When a model really generates, there is no such square matrix. The prompt is read at once,
# which gives all its rows (prefill). Every new word is a step of its own with a cache, which gives one row (decode).
# **Check** that these rows are the ones recorded above:

# %%
embeds = in_llava.run(["language.embed"])["language.embed"]  # (1, L, D)
cache, start, key = llava.language.new_cache(), in_llava.words.start, f"layers.{layer}.attn"
pieces = [slice(0, start), *(slice(t, t + 1) for t in range(start, L))]
decoded = torch.zeros_like(recorded)
with torch.no_grad():
    for piece in pieces:
        held = {key: None}
        llava.language.hidden(inputs_embeds=embeds[:, piece], cache=cache, record=held)
        decoded[:, piece, : piece.stop] = held[key][0]  # (H, rows, keys so far)
report.record("rows of prefill and decode against teacher forcing, relative difference", gap(decoded, recorded))
assert gap(decoded, recorded) < 1e-4

# %% [markdown]
# **Which row belongs to a word?** The row at position $t$ makes the prediction for position $t + 1$. So the row that
# *predicts* a word is the one before the row where it *stands*. The two look at different things, and mixing them up is
# the commonest mistake with such maps. The word below is the second object's:

# %%
thing = question.objects[1]  # the object that the sentence names last
kind, on_thing = scene.objects[thing].kind, render.mask == thing + 1
texts = in_llava.texts[in_llava.words]
word = next((i for i, text in enumerate(texts) if text.strip() and kind.startswith(text.strip())), 0)
name_of_it = texts[word].strip()
mean_rows = in_llava.on_grid(in_llava.get("attention").mean((0, 1)))  # (L, rows, columns), mean of layers and heads
before, after = (mean_rows[in_llava.words.start + word + step].cpu() for step in (-1, 0))
two_rows = {f"predicts “{name_of_it}”": before, f"stands at “{name_of_it}”": after}
show(*maps.heat(picture, two_rows, outline=on_thing, unit="attention"))
assert gap(before, attention.attention_map(in_llava, word).cpu()) < 1e-5


# %% [markdown]
# ## 5. By layer and head
#
# The map above is a mean over all heads and layers. Here is what went into it, for the row that predicts the word:

# %%
by_head = attention.attention_maps(in_llava, word).cpu()  # (layers, H, rows, columns)
show(*maps.heads(by_head, unit="attention"))

# %% [markdown]
# **What a mean hides, in numbers.** Two heads look at one patch each, firmly. Their mean says that one in two looks
# here, one in two there; for all one can tell, both heads look at both. With many heads nothing sharp is left:

# %%
two = torch.tensor([[0.9, 0.1, 0.0, 0.0], [0.0, 0.0, 0.1, 0.9]])
undecided = torch.tensor([[0.45, 0.05, 0.05, 0.45]] * 2)
print("mean of the firm heads:", two.mean(0), " mean of the undecided:", undecided.mean(0))


# %%
def patches_of(inside, mask, index):
    """The patches that an object fills to a fifth, or the fullest."""
    share = coverage(mask, [index], inside.patches)[0]
    return (share >= min(SHARE, float(share.max()))).nonzero().flatten().tolist()


own = patches_of(in_llava, render.mask, thing)
flat = by_head.flatten(2)  # (layers, H, P)
on_own, of_mean = flat[..., own].sum(-1), float(flat.mean((0, 1))[own].sum())  # (layers, H), of a row's 1
show(
    figures.matrix(
        on_own.numpy(), [f"layer {i}" for i in range(c.layers)], [f"head {i}" for i in range(c.heads)],
        value_label="attention", title=f"Predicting “{name_of_it}”: attention to the {kind}'s patches",
    ),
    alt=f"Attention to the {kind}: at most {on_own.max():.0%} of a head's, in the median head {on_own.median():.1%}; "
    f"in the mean of all heads {of_mean:.0%}.",
)  # fmt: skip
report.record("attention to the object, head that gives most", float(on_own.max()))
report.record("attention to the object, mean of all heads", of_mean)

# %%
of_image = on_own / flat.sum(-1)  # share of what a head gives to the image
at_layer, at_head = divmod(int(of_image.argmax()), c.heads)
Markdown(
    f"The {kind} has {len(own)} of {in_llava.patches} patches. The head that looks at it most gives it "
    f"{on_own.max():.0%} of its attention, the median head {on_own.median():.1%}; the mean, {of_mean:.0%}, describes "
    f"neither. Mind the unit, too: head {at_head} of layer {at_layer} gives it {of_image.max():.0%} of what it gives "
    f"to the *image*, and to the image it gives {flat.sum(-1)[at_layer, at_head]:.1%} in all."
)

# %% [markdown]
# **Word by word.** The mean map for each word of the first part of the answer:

# %%
first = next((i + 1 for i, text in enumerate(texts) if "." in text), len(texts))  # up to the first full stop
each_word = torch.stack([attention.attention_map(in_llava, i) for i in range(min(first, 12))]).cpu()
show(*maps.words(picture, texts[: len(each_word)], each_word, unit="attention", outline=render.mask > 0))

# %%
on_objects = [maps.on_object(values, render.mask > 0) for values in each_word]  # (share, the objects' area)
signs = [i for i, text in enumerate(texts[: len(each_word)]) if len(text.strip()) == 1 and text.strip().isalnum()]
letters, area = np.mean([on_objects[i][0] for i in signs] or [0.0]), on_objects[0][1]
report.record("attention to the image on the objects: letters and digits of places", float(letters))
Markdown(
    f"The objects fill {area:.0%} of the picture. The rows that predict the letters and digits of places give them "
    f"{letters:.0%} of what they give to the image: {'less' if letters < area else 'more'} than an even look would. "
    "Whether the patches that these rows like better carry the place, or are just looked at, no map can say (exercise "
    "8)."
)

# %% [markdown]
# ## 6. Where it goes, and sinks
#
# Not all attention goes to the image. For the rows that predict the answer, by layer:

# %%
parts = attention.shares(in_llava)  # name -> (layers, H, L)
answer = interventions.answer_rows(in_llava)
goes = {name: values[..., answer][..., :-1].mean((1, 2)).cpu() for name, values in parts.items() if name != "sinks"}
assert torch.allclose(sum(goes.values()), torch.ones(c.layers), atol=1e-5)
show(
    figures.matrix(
        torch.stack(list(goes.values()), 1).numpy(), [f"layer {i}" for i in range(c.layers)], list(goes),
        value_label="share", title="Attention of the answer's rows, mean of heads",
    ),
    alt="Where the answer's attention goes, mean of all layers: "
    + ", ".join(f"{name} {float(values.mean()):.0%}" for name, values in goes.items()) + ".",
)  # fmt: skip
report.record("attention of the answer's rows to the image, mean", float(goes["image"].mean()))

# %% [markdown]
# **Sinks.** In large language models a few tokens, the first one above all, collect most of the attention without
# saying anything: a softmax has to put its 1 somewhere (Xiao et al.). A map with a sink shows little else. The rule of
# this package: a token is a sink if it takes five times the average of the other tokens, in more than half of the rows
# after it. A few more questions, each about a property of one object, and how many sinks they have:

# %%
several, number = [], 1_000_000 * seed  # (question, mask, the object's index, LLaVA inside, Cobra inside)
while len(several) < questions * many:
    found = scenes.sample(number, split="test")
    number += 1
    shot = found.render(llava.config.image_size)
    for each in found.questions(types=["attribute"], count=1):
        index = each.objects[0]
        if (shot.mask == index + 1).any():  # each model with its own answer
            several.append((each, shot.mask, index, *(Inside.ask(vlm, shot.rgb, each.text) for vlm in (llava, cobra))))
right = {vlm.config.name: [is_right(row[3 + i].answer, row[0].answer, "sentence") for row in several]
         for i, vlm in enumerate((llava, cobra))}  # fmt: skip
print(several[0][0].text, "|", several[0][0].answer, "|", several[0][3].answer, "|", several[0][4].answer)
report.record("questions about one object answered right", {name: float(np.mean(f)) for name, f in right.items()})

# %%
sinks = [attention.find_sinks(row[3]) for row in several]
shares = [sink.share for found in sinks for sink in found]
report.record("questions with a sink, share", float(np.mean([bool(found) for found in sinks])))
Markdown(
    f"{sum(map(bool, sinks))} of {len(sinks)} questions have a sink; "
    + (f"{len(shares)} in all, at {', '.join(sorted({s.text + ' (' + s.group + ')' for f in sinks for s in f}))}. They "
       f"take {min(shares):.0%} to {max(shares):.0%} of the later rows' attention. " if shares else "")
    + "In large models sinks may take half of it and more; a model as small as this one has hardly learnt the habit. "
    "At full size look for them first."
)  # fmt: skip

# %% [markdown]
# ## 7. Through the layers: rollout and relevance
#
# A row says where *one* layer looked. What it found there was no longer the patch: earlier layers had mixed in others.
#
# **Rollout** treats attention as pipes. A layer passes on half of what a position had and half of what it attends to,
# $(A + I)/2$, and layers are multiplied. By hand, two layers in which token 3 never looks at token 1:

# %%
A = torch.tensor([[1.0, 0, 0], [0.5, 0.5, 0], [0, 0.5, 0.5]])
step = (A + torch.eye(3)) / 2
print(step, step @ step, sep="\n")  # token 3 takes 1/4 of token 2, which took 1/4 of token 1
assert torch.allclose(step @ step, attention.rollout(torch.stack([A, A])))

# %% [markdown]
# Token 1 arrives at token 3 by way of token 2, with $\frac14 \cdot \frac14$. Rollout knows no signs and no values: a
# token that is looked at and ignored counts as much as one that decides.
#
# **Relevance** (Chefer et al.) asks the gradient. Of each head keep only where more attention would raise the
# probability of the word, $(\nabla A \odot A)^+$; take the mean over heads; add it up through the layers:
#
# $$R \leftarrow R + \bar A\,R, \qquad \bar A = \mathrm{mean}_h\,(\nabla A_h \odot A_h)^+, \qquad R_0 = I$$
#
# One tap gives both: it adds a zero to the attention, and the gradient of the word with respect to that zero is the
# gradient with respect to the attention.

# %%
probes = []


def probe(name, value):
    if not (name.startswith("language.") and name.endswith(".attn")):
        return value
    zero = torch.zeros_like(value, requires_grad=True)
    probes.append((value.detach(), zero))
    return value + zero


log_p = in_llava.log_probs(tap=probe, grad=True)[word]
gradients = torch.autograd.grad(log_p, [zero for _, zero in probes])
R = torch.eye(L, device=llava.device)
for (weight, _), gradient in zip(probes, gradients, strict=True):
    R = R + (gradient * weight)[0].clamp(min=0).mean(0) @ R  # (L, L)
by_package = attention.relevance(in_llava, word)
report.record("relevance by hand against the package, relative difference", gap(R, by_package))
assert gap(R, by_package) < 1e-5

# %%
three = {"attention": attention.attention_map, "rollout": attention.rollout_map, "relevance": attention.chefer_map}
three = {name: method(in_llava, word) for name, method in three.items()}
three = {name: (values / values.sum()).cpu() for name, values in three.items()}
show(*maps.heat(picture, three, outline=on_thing, unit="share of the map", title=f"“{name_of_it}”"))

# %% [markdown]
# ## 8. A scan is an attention, too
#
# Cobra's language model has no attention to record. But for *given* $\Delta, B, C$ its scan is linear in $u$ (chapter
# 07), so that there is a matrix with $y = \alpha u$. Unroll the recurrence:
#
# $$h_t = e^{\Delta_t A}\, h_{t-1} + \Delta_t B_t u_t, \qquad y_t = C_t h_t$$
#
# $$\alpha_{ij} = \sum_n C_i[n]\; e^{A[n]\,(S_i - S_j)}\; \Delta_j B_j[n] \qquad (j \le i)$$
#
# **By hand**, one channel, two numbers of state, three tokens. The steps are multiples of $\log 2$, so that a decay is
# a halving: with $A = (-1, -2)$ a step of $\log 2$ leaves $\frac12$ and $\frac14$.

# %%
log2, f64 = math.log(2), torch.float64
u = torch.tensor([1.0, 2.0, 4.0], dtype=f64)
delta = torch.tensor([1.0, 1.0, 2.0], dtype=f64) * log2
A = torch.tensor([-1.0, -2.0], dtype=f64)
writes = torch.tensor([[1.0, 1.0], [2.0, 0.0], [1.0, 4.0]], dtype=f64)  # delta_j B_j
C = torch.tensor([[1.0, 0.0], [1.0, 1.0], [2.0, -1.0]], dtype=f64)
h, y = torch.zeros(2, dtype=f64), []
for t in range(3):
    h = torch.exp(delta[t] * A) * h + writes[t] * u[t]
    y.append(C[t] @ h)
    print(f"h = {h.tolist()}, y = {y[-1]:.6f}")

# %%
S = delta.cumsum(0)
alpha = torch.zeros(3, 3, dtype=f64)
for i in range(3):
    for j in range(i + 1):
        alpha[i, j] = (C[i] * torch.exp(A * (S[i] - S[j])) * writes[j]).sum()
print(alpha)  # bottom left: 2 * 1/8 - 1 * 1/64
assert torch.allclose(alpha @ u, torch.stack(y), rtol=1e-12)

# %% [markdown]
# Token 3 takes $-2$ of itself: hidden attention has signs, and its rows do not sum to 1. It is a matrix of gains rather
# than of shares.
#
# **Check**, in float64, on the real thing: three layers of Cobra, every position, all channels. $D u$ is the path past
# the scan.

# %%
wide = Inside.ask(copy.deepcopy(cobra).double(), picture, question.text, in_llava.answer)
half, last = cobra.config.language.layers // 2, cobra.config.language.layers - 1
worst = 0.0
for number in (0, half, last):
    scan, recorded_y = states.read(wide, number), wide.get("y", number)
    taken_in = [hidden_attention.alpha_row(scan, i, "input").sum(0) for i in range(wide.length)]  # (I,) each
    worst = max(worst, gap(torch.stack(taken_in) + scan.D * scan.u, recorded_y))
report.record("hidden attention times input against the recorded scan, relative difference", worst)
assert worst < 1e-10

# %% [markdown]
# So the matrix is exact. What a picture of it shows is not: there is one for each of hundreds of channels, and one must
# choose a summary. The mean with signs lets channels cancel; the mean of magnitudes forgets which way. And between the
# tokens and $u$ lies a convolution, so that "patch $j$" is that patch and the three before it.
#
# Both models, the same question, the same word, each with its own measure:

# %%
hidden = {
    channels: hidden_attention.word_maps(in_cobra, word, channels).mean(0).cpu() for channels in ("absolute", "mean")
}
both = {
    "LLaVA": {"attention": before, "relevance": three["relevance"]},
    "Cobra": {"hidden attention": hidden["absolute"], "the same, with signs": hidden["mean"]},
}
verdict = is_right(in_llava.answer, question.answer, "sentence")
both = {
    name: {"picture": picture, "answer": in_llava.answer, "right": verdict, "maps": each} for name, each in both.items()
}
show(*maps.methods(both, outline=on_thing, title=f"“{name_of_it}”: what its prediction takes from each patch"))

# %%
below = {"LLaVA": before, "Cobra": hidden["absolute"]}
below = {name: float(m[len(m) // 2 :].sum() / m.sum()) for name, m in below.items()}
report.record("share of the word's map in the lower half of the picture", below)
Markdown(
    f"The lower half of the picture has {below['LLaVA']:.0%} of LLaVA's map and {below['Cobra']:.0%} of Cobra's. Those "
    "are the patches that were read last. What fades with distance makes the end of the image look important, whatever "
    "is there."
)

# %% [markdown]
# Who reads whom, in one layer of each:

# %%
alpha = hidden_attention.alpha_matrix(states.read(in_cobra, half)).cpu()  # (L, L), mean of magnitudes
for name, values, inside in (
    (f"LLaVA: attention, layer {layer}", recorded.mean(0).cpu(), in_llava),
    (f"Cobra: |hidden attention|, layer {half}", alpha, in_cobra),
):
    show(*reading.readers({name: values}, inside.groups, units=["weight" if inside is in_llava else "gain"]))

# %% [markdown]
# Attention picks single columns out of the past. Hidden attention is a band along the diagonal that grows paler with
# distance; some rows take far more than others, for nothing makes them sum to 1.
#
# ## 9. Step size, horizon, retention
#
# Three numbers say how a state forgets.
#
# - The **step size** $\Delta_j$ of a patch: a large one takes the patch in and lets the past fade; near 0 the patch
#   passes by.
# - The **memory horizon** $1/(\Delta |A|)$ in tokens: at this step size a state fades to $1/e$ in so many tokens. By
#   hand: $\Delta = 0.02$ and $A = -1$ give 50 tokens, $A = -16$ gives 3.
# - The **retention** $e^{A (S_T - S_j)}$: what is left at $T$ of what token $j$ wrote.

# %%
for decay in (-1.0, -16.0):
    horizon = 1 / (0.02 * abs(decay))
    kept = math.exp(decay * 0.02 * horizon)
    print(f"A = {decay}: horizon {horizon:.1f} tokens, after which {kept:.3f} = 1/e is left")

# %%
shown = list(range(1, cobra.config.language.layers, 3))
step_maps = states.delta_maps(in_cobra).cpu()  # (layers, rows, columns), mean of channels
show(*maps.heat(picture, {f"layer {i}": step_maps[i] for i in shown}, outline=on_thing, unit="mean Δ"))
varies = (step_maps.flatten(1).std(1) / step_maps.flatten(1).mean(1)).mean()
report.record("step size over the patches, deviation / mean", float(varies))

# %% [markdown]
# **Check.** This map is the same whatever is asked, since the question comes after the image:

# %%
other = Inside.ask(cobra, picture, "How many objects are there?", "one")
question_gap = gap(states.delta_maps(other).cpu(), step_maps)
report.record("step sizes under another question, relative difference", question_gap)
assert question_gap < 1e-4

# %% [markdown]
# So it cannot be evidence for an answer; at most it says what is worth taking in at all. Horizons of every channel and
# state, by layer:

# %%
levels = torch.tensor([0.1, 0.5, 0.9], device=cobra.device)
bands = states.by_layer(in_cobra, lambda scan: states.horizons(scan, (0.5,))[0].flatten().quantile(levels))
bands = torch.stack(bands, 1).cpu()  # (3, layers)
mark = {f"{in_cobra.patches} image tokens": in_cobra.patches}
show(*timelines.horizons({cobra.config.name: tuple(bands)}, marks=mark))
report.record("memory horizon in tokens, median over layers, of the 10, 50 and 90 % quantiles",
              bands.median(1).values)  # fmt: skip


# %%
def fading(scan):
    """Quantiles (3, T) of what is left at the last position of tokens 1, 2, ... before it."""
    left = torch.cat([part.flatten(1) for _, part in states.fading(scan, len(scan.u) - 1)], 1)  # (L, I N)
    return left[:-1].flip(0).quantile(levels, dim=1).cpu()


chosen = sorted({0, half, last})
faded = states.by_layer(in_cobra, fading, chosen)
distance = np.arange(1, in_cobra.length)
show(*timelines.retention({f"layer {i}": (distance, tuple(q)) for i, q in zip(chosen, faded, strict=True)}))

# %%
short, middle, long = bands.median(1).values.tolist()
Markdown(
    f"Of the numbers of a state, the median one fades to 1/e within {middle:.0f} tokens, one in ten within "
    f"{short:.0f}, and one in ten lasts {long:.0f} or longer; the image has {in_cobra.patches}. What must be "
    "remembered of it has to live in those that last, or be written again."
)

# %% [markdown]
# ## 10. The ledger: what a state holds
#
# The recurrence unrolled is a sum, one entry a token, without any approximation:
#
# $$h_T = \sum_{j \le T} e^{A (S_T - S_j)}\,\Delta_j B_j u_j$$
#
# In the toy of section 8, $h_3 = (5.125,\ 16.015625)$:

# %%
entries = torch.exp((S[-1] - S)[:, None] * A) * writes * u[:, None]  # (L, N)
print(entries, entries.sum(0), sep="\n")
toy_shares = entries @ h / (h @ h)
print("shares:", toy_shares.tolist(), "sum:", float(toy_shares.sum()))
assert torch.allclose(entries.sum(0), h, rtol=1e-12)

# %% [markdown]
# A **share** is the entry projected on the state, $\langle e_j, h\rangle / |h|^2$: shares sum to 1, and one that is
# negative pulls the other way. **Check** on Cobra, in float64: the entries add up to the state, the shares to 1.

# %%
scan, at = states.read(wide, half), wide.words.start - 1
booked = states.ledger(scan, at)  # (L, I, N)
ledger_gap = gap(booked.sum(0), states.states_at(wide, at)[half])
sum_gap = abs(float(states.ledger_shares(scan, at).sum()) - 1)
report.record("the ledger's entries against the state, relative difference", ledger_gap)
report.record("the shares' sum against 1", sum_gap)
assert max(ledger_gap, sum_gap) < 1e-10
del booked

# %% [markdown]
# The state of that layer at the end of the image, and where the first word is predicted:

# %%
for place in (in_cobra.image.stop - 1, in_cobra.words.start - 1):
    found = states.ledger_shares(states.read(in_cobra, half), place).cpu()
    when = "at the end of the image" if place < in_cobra.image.stop else "where the first word is predicted"
    options = {"texts": in_cobra.texts, "outline": render.mask > 0, "title": f"Layer {half}, {when}"}
    show(*timelines.ledger(picture, found, in_cobra.groups, in_cobra.grid, **options))


# %%
def image_share(scan):
    """The image's share of the state at its end and where the answer begins; the objects' share at the image's end."""
    shares = [states.ledger_shares(scan, place) for place in (in_cobra.image.stop - 1, in_cobra.words.start - 1)]
    return [float(s[in_cobra.image].sum()) for s in shares] + [float(shares[0][in_cobra.image][cells].sum())]


cells = patches_of(in_cobra, render.mask, thing) + patches_of(in_cobra, render.mask, question.objects[0])
held = np.array(states.by_layer(in_cobra, image_share))  # (layers, 3)
even = len(cells) / in_cobra.patches
report.record("image's share of the states that predict the first word, mean", held[:, 1].mean())
report.record("objects' share of the states at the image's end, mean, over their share of patches",
              held[:, 2].mean() / even)  # fmt: skip
Markdown(
    f"Over the layers, the image has {held[:, 1].min():.0%} to {held[:, 1].max():.0%} of the state when the answer "
    f"begins (mean {held[:, 1].mean():.0%}). At the image's end the two objects, {len(cells)} of {in_cobra.patches} "
    f"patches ({even:.0%}), have {held[:, 2].mean():.0%} of it. A share is an amount: it does not say that what is "
    "there can be read, nor that it is."
)

# %% [markdown]
# How much a state holds, along the sequence:

# %%
norms = states.state_norms(in_cobra).cpu()
picked = list(range(0, cobra.config.language.layers, 2))
show(*timelines.timeline(norms[picked], in_cobra.groups, layers=[f"layer {i}" for i in picked]))
begin, end = in_cobra.image.start, in_cobra.image.stop
grown = (norms[:, end - 1] / norms[:, (begin + end) // 2]).median()
report.record("state's norm at the image's end over its middle, median of layers", float(grown))

# %% [markdown]
# The state fills up over the first patches. After that it grows far less than what has been read: what comes in
# replaces what was there.
#
# ## 11. MambaVision: scan and attention on the picture
#
# The encoder of chapter 10 has both. In a level's first blocks a scan goes over the map row by row, in the last ones
# attention looks everywhere. What does one place take from the others? Each map is divided by the sum of its
# magnitudes; the outline marks the place.

# %%
encoder, prepare = weights.load_encoder("mambavision-tiny")
pixels = prepare(picture)[None]
blocks = [block for block in scans.seen(encoder, pixels) if block.name.startswith("levels.2.")]
row, column = (int(cell) for cell in np.argwhere(on_thing).mean(0) * blocks[0].grid[0] / len(on_thing))
there = np.zeros(blocks[0].grid, bool)
there[row, column] = True
outline = there.repeat(len(on_thing) // len(there), 0).repeat(len(on_thing) // len(there), 1)
taken_from = {block.name: scans.place_map(block, row, column) for block in blocks}
for mixer in ("scan", "attention"):
    named = {f"block {i}": taken_from[block.name] for i, block in enumerate(blocks) if block.kind == mixer}
    named = {name: values / values.sum() for name, values in named.items()}
    show(*maps.heat(picture, named, outline=outline, unit="share", title=f"What the marked place takes: {mixer}"))

# %%
ahead = {block.name: scans.picture_matrix(block) for block in blocks}
ahead = {name: float(m.triu(1).sum() / m.sum()) for name, m in ahead.items()}  # from places that come later
seconds = [ahead[block.name] for block in blocks if block.kind == "attention"]
firsts = [ahead[block.name] for block in blocks if block.kind == "scan"]
assert max(firsts) == 0.0
report.record("share taken from later places, attention blocks of mambavision-tiny, mean", float(np.mean(seconds)))
horizon = [states.horizons(scan, (0.5,)).median() for block in blocks for scan in block.scans]
report.record("memory horizon in tokens of mambavision-tiny's scans, median", float(torch.stack(horizon).median()))
steps = {f"block {i}": scans.delta_on_picture(block) for i, block in enumerate(blocks) if block.kind == "scan"}
show(*maps.heat(picture, steps, unit="mean Δ", title="Step sizes of the scans"))

# %%
Markdown(
    f"A scan takes nothing from places after its own (the convolution before it looks one place ahead), attention "
    f"takes {np.mean(seconds):.0%} from them. The median horizon of these "
    f"scans is {float(torch.stack(horizon).median()):.2f} tokens, against {bands[1].median():.0f} in Cobra's language "
    "model: in this encoder most channels look hardly past the place before. (The published model adds the step size's "
    "bias twice, as chapter 10 shows; the recorded $\\Delta$ has both.) What carries over a distance here is attention."
)

# %% [markdown]
# ## 12. The logit lens on image tokens
#
# What word would come next if the layers ended here? Final norm and head, applied to the stream at each *patch* after
# each layer. Nobody trained patches to say words. That they do is a by-product:

# %%
for name, inside in (("LLaVA", in_llava), ("Cobra", in_cobra)):
    top = logit_lens.top_words(inside, k=1)
    at_layers = sorted({len(top.texts) * i // 3 for i in range(3)} | {len(top.texts) - 1})
    words_there, chances = [top.texts[i] for i in at_layers], top.probabilities[at_layers].cpu()
    show(*reading.lens(words_there, chances, inside.grid, layers=[f"layer {i}" for i in at_layers], title=name))

# %% [markdown]
# Names of objects come up, many of them where the object is, some elsewhere. In numbers, for each object's own word:
# its mean probability on the object's patches and on all others, layer by layer.

# %%
curves = {}
for name, inside in (("LLaVA", in_llava), ("Cobra", in_cobra)):
    here, away = [], []
    for index in question.objects:
        wanted = logit_lens.wanted_word(inside, scene.objects[index].kind).probabilities  # (layers, P)
        place = torch.zeros(inside.patches, dtype=torch.bool, device=wanted.device)
        place[patches_of(inside, render.mask, index)] = True
        here.append(wanted[:, place].mean(1))
        away.append(wanted[:, ~place].mean(1))
    curves[f"{name}, on the object"] = torch.stack(here).mean(0).cpu()
    curves[f"{name}, elsewhere"] = torch.stack(away).mean(0).cpu()
best = {name: float(values.max()) for name, values in curves.items()}
show(
    figures.losses(
        {name: (np.linspace(0, 1, len(values)), values) for name, values in curves.items()}, smooth=0, height=3.0,
        xlabel="depth (first layer 0, last layer 1)", ylabel="p(its own name)",
    ),
    alt="Probability of an object's name by depth, largest value: "
    + "; ".join(f"{name} {value:.2f}" for name, value in best.items()) + ".",
)  # fmt: skip
report.record("logit lens: probability of an object's name, best layer", best)

# %% [markdown]
# The same at the answer's positions tells when the answer is made up. $\mathrm{KL}$ is the distance in nats from what
# the lens reads after a layer to what the model says in the end; it is 0 after the last layer.

# %%
distance_to_end = {
    name: logit_lens.divergence(inside, range(inside.words.start - 1, inside.words.stop - 1)).mean(1).cpu()
    for name, inside in (("LLaVA", in_llava), ("Cobra", in_cobra))
}
assert all(abs(float(values[-1])) < 1e-5 for values in distance_to_end.values())
show(
    figures.losses(
        {name: (np.linspace(0, 1, len(values)), values) for name, values in distance_to_end.items()},
        smooth=0, xlabel="depth (first layer 0, last layer 1)", ylabel="KL to the model's own (nats)", height=2.4,
    ),
    alt="Distance of the lens from the answer by depth, first layer and last but one: "
    + "; ".join(f"{name} {values[0]:.1f} and {values[-2]:.2f}" for name, values in distance_to_end.items()) + ".",
)  # fmt: skip

# %% [markdown]
# What the lens reads is there. What it does not read may be there as well, in a form that this head cannot read. And
# the last layers prepare the *next* token: that a patch's name fades there need not mean that it was lost.
#
# ## 13. Does it matter?
#
# All maps so far say where something is or goes. None says that the answer would be another without it. That takes an
# intervention, and every intervention needs a control.
#
# **Test 1: take away what a map points at.** For each question, the patches with the highest values of a map give way
# to the mean of the picture's tokens. How much does the log-probability of the model's own answer fall, compared with
# as many patches drawn at random? The object's own patches, however many they are, stand beside it as a yardstick.

# %%
METHODS = {
    "LLaVA": {"attention": attention.attention_map, "rollout": attention.rollout_map,
              "relevance": attention.chefer_map},
    "Cobra": {"hidden attention": hidden_attention.hidden_attention_map, "step size": states.delta_map,
              "ledger": states.ledger_map},
}  # fmt: skip


@torch.no_grad()
def fall(inside, sets):
    """How much log p of the answer falls when each set of patches is replaced by the mean token: (sets,)."""
    tokens = inside.run(["tokens"])["tokens"]  # (1, P, D)
    changed = [ablation.replaced(inside, patches, tokens) for patches in sets]
    log_p = inside.scores(tokens=torch.cat([tokens, *changed]))
    return (log_p[0] - log_p[1:]).cpu()


# %%
draws, falls, hits, chance = 4, {}, {}, []  # falls: (model, map) -> for each question its fall, then the random ones
for _, mask, index, *insides in several:
    for (name, methods), inside in zip(METHODS.items(), insides, strict=True):
        mine = patches_of(inside, mask, index)
        found = {method: function(inside).flatten().cpu() for method, function in methods.items()}
        best_of = [values.argsort(descending=True)[:taken].tolist() for values in found.values()]
        noise = [ablation.random_patches(taken, range(inside.patches), draws * seed + i) for i in range(draws)]
        result = fall(inside, [*best_of, mine, *noise]).tolist()
        for method, value in zip((*methods, "the object itself"), result, strict=False):
            falls.setdefault((name, method), []).append([value, *result[-draws:]])
        for method in methods:
            hits.setdefault((name, method), []).append(int(found[method].argmax()) in mine)
        chance.append(len(mine) / inside.patches)


# %%
def percent(flags):
    low, high = wilson(sum(flags), len(flags))
    return f"{np.mean(flags):.0%} ({low:.0%} to {high:.0%})"


falls = {key: np.array(values) for key, values in falls.items()}  # (questions, 1 + draws)
wins = {key: (values[:, 0] > values[:, 1:].max(1)).tolist() for key, values in falls.items()}
table = [
    [*key, percent(hits[key]) if key in hits else "", values[:, 0].mean(), values[:, 1:].mean(), percent(wins[key])]
    for key, values in falls.items()
]
heads_of = ["model", "map", "maximum on the object", "fall (nats)", "fall, random", f"more than {draws} random sets"]
show_table(heads_of, table, f"{len(several)} questions, {taken} patches taken away; by chance {np.mean(chance):.0%} of "
           f"maxima lie on the object and {1 / (draws + 1):.0%} cost more than all random sets")  # fmt: skip

# %%
labels = [f"{name}: {method}" for name, method in falls]
show(
    figures.bars(
        labels, {"costs more than all random sets": [float(np.mean(wins[key])) for key in falls]},
        intervals={"costs more than all random sets": [wilson(sum(wins[key]), len(wins[key])) for key in falls]},
        baselines={"chance": 1 / (draws + 1)}, percent=True, limits=(0, 1.12), title="A map's best patches, taken away",
    ),
    alt=f"Share of questions in which a map's {taken} best patches cost more than {draws} random sets: "
    + "; ".join(f"{label} {np.mean(wins[key]):.0%}" for label, key in zip(labels, falls, strict=True)) + ".",
)  # fmt: skip
for (name, method), values in falls.items():
    report.record(f"fall of log p beyond random patches, {name}, {method}",
                  float(values[:, 0].mean() - values[:, 1:].mean()))  # fmt: skip
    report.record(f"costs more than all random sets, {name}, {method}", float(np.mean(wins[name, method])))
for (name, method), found in hits.items():
    report.record(f"maximum of the map on the object, {name}, {method}", float(np.mean(found)))

# %%
passed = {key: wilson(sum(wins[key]), len(wins[key]))[0] > 1 / (draws + 1) for key in hits}
listed = {flag: ", ".join(f"{name}'s {method}" for (name, method), ok in passed.items() if ok is flag)
          for flag in (True, False)}  # fmt: skip
blunt = [name for name in METHODS for won in [wins[name, "the object itself"]]
         if wilson(sum(won), len(won))[0] <= 1 / (draws + 1)]  # fmt: skip
Markdown(
    f"With {len(several)} questions, more than chance was shown for: {listed[True] or 'none of the maps'}. It was not "
    f"for: {listed[False] or 'none'}. That is no proof of nothing: the intervals say how much could still be there. "
    + (f"For {' and '.join(blunt)} not even the object's own patches passed, so that these questions are too few to "
       "judge its maps. " if blunt else "")
    + "Chapter 14 asks more questions, and has better tests."
)  # fmt: skip

# %% [markdown]
# The step size and the ledger are exact, and still not evidence for an answer: one does not know the question, the
# other counts amounts. An exact statement about a quantity is not a statement about its use.
#
# **Test 2: the object, its border, and random patches**, for the question of this chapter, with what the model then
# says:

# %%
effects = {}
for name, inside in (("LLaVA", in_llava), ("Cobra", in_cobra)):
    target = patches_of(inside, render.mask, question.objects[0])
    rest = [patch for patch in range(inside.patches) if patch not in target]
    sets = {"object": target, "object and border": ablation.with_border(target, inside.grid)}
    sets |= {f"random {i}": ablation.random_patches(min(len(target), len(rest)), rest, seed + i) for i in range(5)}
    effects[name] = ablation.ablate(inside, sets)
rows = [[name, label, effect.change, effect.answer] for name, found in effects.items()
        for label, effect in found.items() if not label.startswith("random") or label == "random 0"]  # fmt: skip
show_table(["model", "replaced by the mean", "change of log p", "what it says then"], rows,
           f"the {scene.objects[question.objects[0]].kind}'s patches")  # fmt: skip
for name, found in effects.items():
    mean, low, high = ablation.spread(found, "random")
    print(f"{name}, five random sets: {mean:+.2f} ({low:+.2f} to {high:+.2f})")
    report.record(f"change of log p without the object, {name}", found["object"].change)
    report.record(f"change of log p without as many random patches, {name}", mean)

# %% [markdown]
# Where the border costs more than the object alone: a patch's token has seen its neighbours in the encoder, so that
# what a token knows is not confined to its own pixels.
#
# **Test 3: cut the way, not the token.** In LLaVA, block the attention from the answer's rows to the object's patches
# in a few layers (knock-out). In Cobra the nearest counterpart: hold the state, $\Delta = 0$ at these patches, so that
# the scan passes them by. Windows of a few layers; and beside them all layers, all layers with as many random patches
# as a control, and the tokens themselves ablated.

# %%
cut = {"LLaVA": [], "Cobra": []}
whole = {"LLaVA": [], "Cobra": []}  # (cut in all layers, random patches cut in all layers, tokens ablated)
some = several[: (len(several) + 1) // 2]
for _, mask, index, *insides in some:
    for name, inside in zip(cut, insides, strict=True):
        near = ablation.with_border(patches_of(inside, mask, index), inside.grid)
        rest = [patch for patch in range(inside.patches) if patch not in near]
        noise = ablation.random_patches(min(len(near), len(rest)), rest, seed)
        usual, layers_of = inside.log_probs().sum(), inside.vlm.config.language.layers

        def without(patches, layers=None, inside=inside, usual=usual):
            keys = [inside.image.start + patch for patch in patches]
            if inside.vlm is llava:
                tap = interventions.block_attention(inside, interventions.answer_rows(inside), keys, layers)
            else:
                tap = interventions.hold_state(inside, keys, layers)
            return float(inside.log_probs(tap).sum() - usual)

        spans = interventions.windows(inside, window)[:: max(1, layers_of // 4)]  # of many layers about four
        cut[name].append([without(near, span) for span in spans])
        whole[name].append((without(near), without(noise), -float(fall(inside, [near])[0])))

# %%
profiles = {name: np.array(values) for name, values in cut.items()}  # (questions, windows)
mean_whole = {name: np.mean(values, 0) for name, values in whole.items()}
show(
    figures.losses(
        {f"{name}, windows of {window} layers": (np.linspace(0, 1, v.shape[1]), v.mean(0))
         for name, v in profiles.items()},
        smooth=0, chance=0.0, chance_label="no change", height=2.7,
        xlabel="depth of the window (lowest 0, highest 1)", ylabel="change of the answer's log p",
    ),
    alt="Change of log p when the object is cut off in a window of layers, lowest and highest window: "
    + "; ".join(f"{name} {v.mean(0)[0]:+.2f} and {v.mean(0)[-1]:+.2f}" for name, v in profiles.items()) + ".",
    caption=f"{len(some)} questions. " + "; ".join(
        f"{name}: cut off in all layers {all_:+.2f}, random patches {control:+.2f}, its tokens ablated {gone:+.2f}"
        for name, (all_, control, gone) in mean_whole.items()
    ),
)  # fmt: skip
for name, values in profiles.items():
    report.record(f"cut off in a window of layers, largest fall of log p, {name}", -float(values.mean(0).min()))
    report.record(f"cut off in all layers, fall of log p, {name}", -float(mean_whole[name][0]))
    report.record(f"random patches cut off in all layers, fall of log p, {name}", -float(mean_whole[name][1]))
    report.record(f"the same tokens ablated, fall of log p, {name}", -float(mean_whole[name][2]))

# %%
Markdown(
    " ".join(
        f"**{name}**: ablating the object's tokens costs {-gone:.2f} nats, cutting them off in all layers {-all_:.2f} "
        f"(random patches {-control:.2f}), in the window that matters most {-profiles[name].mean(0).min():.2f} (depth "
        f"{profiles[name].mean(0).argmin() / max(1, profiles[name].shape[1] - 1):.1f})."
        for name, (all_, control, gone) in mean_whole.items()
    )
    + " The two cuts are not the same experiment. A held state still leaves two ways open: the convolution hands a "
    "token to the next three before the scan, and the residual stream carries it up. That a cut has no effect says "
    "that this way is not needed, and not that the object is not."
)

# %% [markdown]
# **Test 4: a slider.** Scale the attention scores of the image's tokens in the answer's rows by $\alpha$ (Chen et al.
# call it ScalingVis; their AdaptVis chooses $\alpha$ by the model's confidence). For a Mamba, scale $\Delta$ at the
# image's tokens. At 1 nothing changes.

# %%
slider = (0.0, 0.5, 1.0, 2.0, 3.0)
turned = {"LLaVA": [], "Cobra": []}
for *_, one, other in some:
    for name, inside in (("LLaVA", one), ("Cobra", other)):
        values = [float(inside.log_probs(interventions.rescale_image(inside, a)).sum()) for a in slider]
        turned[name].append(values)
turned = {name: np.array(values) - np.array(values)[:, 2:3] for name, values in turned.items()}
assert all(abs(values[:, 2]).max() == 0 for values in turned.values())
show(
    figures.losses(
        {name: (slider, values.mean(0)) for name, values in turned.items()}, smooth=0, height=2.6,
        xlabel="α", ylabel="change of the answer's log p",
    ),
    alt="Change of log p by the slider: " + "; ".join(
        f"{name} {values.mean(0)[0]:+.2f} at 0 and {values.mean(0)[-1]:+.2f} at 3" for name, values in turned.items()
    ) + ".",
)  # fmt: skip
for name, values in turned.items():
    report.record(f"slider at 0, change of log p, {name}", float(values.mean(0)[0]))

# %%
a = 2.0  # move it, and run the cell again
for name, inside in (("LLaVA", in_llava), ("Cobra", in_cobra)):
    print(f"α = {a}, {name}: {interventions.generate_with(inside, interventions.rescale_image(inside, a))}")

# %% [markdown]
# Note what 0 means: for LLaVA a score of 0 is a *flat* look at all patches, for Cobra the image never enters the state.
#
# **Test 5: another order.** A recurrence has no positions: where a patch lies, it can only know from what the encoder
# wrote into the token, or from when it came. Read the patches backwards, column by column, shuffled. These questions
# are about left and right, and the answers name places:

# %%
sided, number = [], 2_000_000 + 1_000_000 * seed
while len(sided) < pairs * many:
    found, each = about_sides(number)
    number = found.seed + 1
    shot = found.render(llava.config.image_size).rgb
    sided.append(
        (found, {name: Inside.ask(vlm, shot, each.text) for name, vlm in (("LLaVA", llava), ("Cobra", cobra))})
    )
lost = {}  # order -> model -> the change of log p for each question
for _, asked in sided:
    for name, inside in asked.items():
        usual = inside.log_probs().sum()
        for order, index in orders.orders(inside.grid, seed).items():
            changed = inside.log_probs(orders.reordered(index)).sum() - usual
            lost.setdefault(order, {}).setdefault(name, []).append(float(changed))

# %%
show(
    figures.bars(
        list(lost), {name: [-np.mean(lost[order][name]) for order in lost] for name in ("LLaVA", "Cobra")},
        xlabel="fall of the answer's log p (nats)", title="The image's tokens in another order",
    ),
    alt="Fall of log p: " + "; ".join(
        f"{order}: LLaVA {-np.mean(found['LLaVA']):.1f}, Cobra {-np.mean(found['Cobra']):.1f}"
        for order, found in lost.items()
    ) + ".",
)  # fmt: skip
for order, found in lost.items():
    for name, values in found.items():
        report.record(f"fall of log p, order {order}, {name}", -float(np.mean(values)))

# %%
average = {name: float(np.mean([found[name] for found in lost.values()])) for name in ("LLaVA", "Cobra")}
Markdown(
    f"Over the orders, LLaVA's answers lose {-average['LLaVA']:.1f} nats and Cobra's {-average['Cobra']:.1f}. Tokens "
    "in another order still hold what the *encoder* wrote into them about their place. LLaVA's language model has "
    "positions of its own (rotary embeddings) and could have used them: what an order costs says how much it does. A "
    "model that falls far reads places off the time at which a patch came."
)

# %% [markdown]
# **Test 6: does the verdict follow the places?** An answer states two places, then a side. It would be a chain of
# thought if the side were read off the places. Test it: exchange the two places in the text, picture unchanged; and
# mirror the picture, text unchanged. What happens to the probability of the side that the model had said?

# %%
STATED = re.compile(r"^(.+),([A-H]\d); (.+),([A-H]\d)\. (.*)$")
followed = {"LLaVA": [], "Cobra": []}
for found, asked in sided:
    mirrored = found.twin("mirror").render(llava.config.image_size).rgb
    for name, inside in asked.items():
        match = STATED.match(inside.answer)
        words_said = inside.texts[inside.words]
        side = next((i for i, text in enumerate(words_said) if text.strip() in ("left", "right")), None)
        if match is None or match[2] == match[4] or side is None:
            continue
        one, here, other, there, tail = match.groups()
        swapped = Inside.ask(inside.vlm, inside.picture, inside.prompt, f"{one},{there}; {other},{here}. {tail}")
        turned_over = Inside.ask(inside.vlm, mirrored, inside.prompt, inside.answer)
        followed[name].append([float(each.log_probs()[side].exp()) for each in (inside, swapped, turned_over)])

# %%
means = {name: np.mean(values, 0) for name, values in followed.items() if values}
names = ["as it was", "places exchanged in the text", "picture mirrored"]
show(
    figures.bars(names, {name: values.tolist() for name, values in means.items()}, percent=True, limits=(0, 1),
                 title="p(the side that it had said)"),
    alt="Probability of the side that was said: " + "; ".join(
        f"{name} {values[0]:.0%}, with the places exchanged {values[1]:.0%}, with the picture mirrored {values[2]:.0%}"
        for name, values in means.items()
    ) + ".",
    caption="Answers that state two places: " + ", ".join(f"{name} {len(v)}" for name, v in followed.items()),
)  # fmt: skip
for name, values in means.items():
    report.record(f"p(side) as it was, places exchanged, picture mirrored, {name}", values.tolist())

# %%
Markdown(
    " ".join(
        f"**{name}**: exchanging the places in its words moves the side by {100 * (v[1] - v[0]):+.0f} points, "
        f"mirroring the picture by {100 * (v[2] - v[0]):+.0f}." for name, v in means.items()
    )
    + " The training data puts the places first so that the side can be read off them. Where the first number is about "
    "zero, that is not what was learnt: the places are said and not used. Where the second is as well, the side does "
    "not come from the picture either. An explanation that a model *writes* has to be tested like any other map."
)  # fmt: skip

# %% [markdown]
# ## Exercises
#
# Replace each `...` by your own lines. A check says what is right or which mistake it looks like; until you begin, it
# says "not yet".
#
# ### Exercise 1 · The map of a word (easy, 10 minutes)
#
# `weights` (H, L, L) is a layer's attention, a query a row. `image` and `words` are slices of positions: the patches
# row by row, `columns` in a row, and the answer's words. Return the attention that *predicts* word number `word`
# (counted from 0) as a map (rows, columns), the mean over heads.


# %%
def word_map(weights: torch.Tensor, image: slice, words: slice, word: int, columns: int) -> torch.Tensor:
    return ...  # your code here


check.word_map(word_map)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Section 4: which row makes the prediction for position `words.start + word`? Then cut out the image's columns.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def word_map(weights, image, words, word, columns):
#     row = weights[:, words.start + word - 1, image].mean(0)  # (P,)
#     return row.reshape(-1, columns)
# ```
#
# </details>
#
# ### Exercise 2 · Rollout (easy, 10 minutes)
#
# `weights` (layers, H, T, T) is the attention of a stack of layers, the first layer first. Return the rollout (T, T).


# %%
def roll_out(weights: torch.Tensor) -> torch.Tensor:
    return ...  # your code here


check.roll_out(roll_out)

# %% [markdown]
# <details><summary>Hint</summary>
#
# For each layer: mean over heads, add the identity, divide by the rows' sums. Begin with the identity and put each new
# layer on the left.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def roll_out(weights):
#     one = torch.eye(weights.shape[-1])
#     found = one
#     for layer in weights.mean(1) + one:
#         found = layer / layer.sum(-1, keepdim=True) @ found
#     return found
# ```
#
# </details>
#
# ### Exercise 3 · One step of relevance (medium, 10 minutes)
#
# `R` (T, T) is the relevance so far, `weights` and `gradients` (H, T, T) are the next layer's attention and the
# gradient of the word with respect to it. Return the new relevance.


# %%
def relevance_step(R: torch.Tensor, weights: torch.Tensor, gradients: torch.Tensor) -> torch.Tensor:
    return ...  # your code here


check.relevance_step(relevance_step)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Section 7 has the formula. What comes first, the positive part or the mean over heads?
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def relevance_step(R, weights, gradients):
#     supports = (gradients * weights).clamp(min=0).mean(0)  # (T, T)
#     return R + supports @ R
# ```
#
# </details>
#
# ### Exercise 4 · Knock-out (medium, 15 minutes)
#
# `scores` (H, L, L) are attention scores before the softmax, here without a causal mask. No query among `queries` may
# see any key among `keys` (lists of positions). Return the weights (H, L, L). Leave `scores` as they were.


# %%
def knock_out(scores: torch.Tensor, queries: list[int], keys: list[int]) -> torch.Tensor:
    return ...  # your code here


check.knock_out(knock_out)

# %% [markdown]
# <details><summary>Hint</summary>
#
# A boolean mask (L, L) first: `mask[rows[:, None], columns] = True` sets every pair. What score becomes a weight of
# exactly 0?
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def knock_out(scores, queries, keys):
#     blocked = torch.zeros(scores.shape[-2:], dtype=torch.bool)
#     blocked[torch.tensor(queries)[:, None], torch.tensor(keys)] = True
#     return scores.masked_fill(blocked, float("-inf")).softmax(-1)
# ```
#
# </details>
#
# ### Exercise 5 · What is left (medium, 15 minutes)
#
# One channel of a scan. `raw` (L,) still has to pass through softplus to become $\Delta$; `A` is (N,). Return (L, N):
# which part of what each token wrote is left in the state after position `position`; 0 for later tokens.


# %%
def what_is_left(raw: torch.Tensor, A: torch.Tensor, position: int) -> torch.Tensor:
    return ...  # your code here


check.what_is_left(what_is_left)

# %% [markdown]
# <details><summary>Hint</summary>
#
# With the running sum $S$ it is $e^{A (S_T - S_j)}$. What does that give for the token at T itself, and for tokens
# after it?
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def what_is_left(raw, A, position):
#     S = F.softplus(raw).cumsum(0)
#     age = (S[position] - S).clamp(min=0)  # (L,)
#     reached = torch.arange(len(raw)) <= position
#     return torch.exp(age[:, None] * A) * reached[:, None]
# ```
#
# </details>
#
# ### Exercise 6 · The ledger's shares (harder, 20 minutes)
#
# One channel again. `delta` and `u` are (L,), `A` is (N,), `B` is (L, N). Return the share (L,) of each token in the
# last state. They sum to 1.


# %%
def ledger_shares(delta: torch.Tensor, A: torch.Tensor, B: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    return ...  # your code here


check.ledger_shares(ledger_shares)

# %% [markdown]
# <details><summary>Hint</summary>
#
# First the entries (L, N), whose sum over the tokens is the state. Then each entry's projection on the state, over the
# state's square.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def ledger_shares(delta, A, B, u):
#     S = delta.cumsum(0)
#     entries = torch.exp((S[-1] - S)[:, None] * A) * (delta * u)[:, None] * B  # (L, N)
#     h = entries.sum(0)
#     return entries @ h / (h @ h)
# ```
#
# </details>
#
# ### Exercise 7 · The logit lens (medium, 10 minutes)
#
# `stream` (L, D) is the residual stream after some layer, `weight` (D,) and `eps` belong to the final RMSNorm, `head`
# (V, D) gives the words' logits. Return the probabilities (L, V).


# %%
def read_out(stream: torch.Tensor, weight: torch.Tensor, head: torch.Tensor, eps: float) -> torch.Tensor:
    return ...  # your code here


check.read_out(read_out)

# %% [markdown]
# <details><summary>Hint</summary>
#
# RMSNorm divides by the root of the mean square, with `eps` under the root, and multiplies by its weight.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def read_out(stream, weight, head, eps):
#     size = torch.sqrt(stream.square().mean(-1, keepdim=True) + eps)
#     return (stream / size * weight @ head.T).softmax(-1)
# ```
#
# </details>
#
# ### Exercise 8 · A floor that matters? (open, 30 minutes)
#
# In section 5 the letter and the digit of a place look beside the object. Take the patches that the letter's map likes
# best, and test them: `block_attention` from the row that predicts the letter, in all layers, then in each window. As
# controls, as many random patches, and the object's own. Do the looked-at patches carry the place? Write down what you
# expect before you run it.
#
# <details><summary>Hint</summary>
#
# `row = in_llava.words.start + number - 1`; `inside.log_probs(tap)[number]` is the letter's own log-probability.
#
# </details>
# <details><summary>A way to begin</summary>
#
# ```python
# number = next(i for i, text in enumerate(texts) if text.strip() in list("ABCDEFGH"))
# looked = attention.attention_map(in_llava, number).flatten().argsort(descending=True)[:4].tolist()
# row = in_llava.words.start + number - 1
# for name, patches in {"looked at": looked, "object": patches_of(in_llava, render.mask, question.objects[0])}.items():
#     keys = [in_llava.image.start + patch for patch in patches]
#     tap = interventions.block_attention(in_llava, [row], keys)
#     print(name, float(in_llava.log_probs(tap)[number] - in_llava.log_probs()[number]))
# ```
#
# There is no single right answer, and no check. A good one has controls, more than one picture, and says what would
# have changed your mind.
#
# </details>

# %% [markdown]
# ## Takeaways
#
# - Every intermediate has a name, and a tap records it or replaces it. A tap that does nothing is the first control.
# - The row that predicts a word is the one before it. A mean over heads is a summary that no head has.
# - Rollout multiplies attention and knows neither signs nor values; relevance weighs it by the gradient. The two
#   disagree, and a test decides.
# - A selective scan is a matrix of signed gains, exactly; a picture of it is a summary over channels, and mostly shows
#   that states fade.
# - A state can be booked to the last digit. How much of a patch it holds says nothing about whether it is read.
# - A map is a claim. Ablate, cut, rescale, reorder, each with a control, before you believe it; and test what the model
#   says of itself in the same way.
#
# Next: 14, attribution and embeddings.
