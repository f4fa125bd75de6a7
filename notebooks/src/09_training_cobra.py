# %% [markdown]
# # 09 · Training Cobra; quadratic against linear
#
# *Cobra: Extending Mamba to Multi-Modal Large Language Model for Efficient Inference* (Zhao et al. 2024,
# [arXiv 2403.14520](https://arxiv.org/abs/2403.14520), numbers from version 4). *Prismatic VLMs* (Karamcheti et al.
# 2024, [arXiv 2402.07865](https://arxiv.org/abs/2402.07865)), whose training recipe Cobra takes over. *Mamba* (Gu and
# Dao 2023, [arXiv 2312.00752](https://arxiv.org/abs/2312.00752)).
#
# LLaVA trains in two stages, Cobra in one: there is no alignment stage, projector and language model learn together
# from the first step. The first half of this chapter trains that way and compares both ways. The second half takes up
# the reason for a Mamba at all, cost that grows linearly with length, and measures it.
#
# **After this chapter you can**
#
# - say what Cobra's recipe trains and what it leaves out, and what that did in the paper and here;
# - build a training batch for a state-space model: picture first, loss on answers, padding on the right;
# - share one reading of a picture among many questions without an attention mask;
# - compare two models by differences with intervals, paired or not;
# - fit an exponent with its interval, and say when one exponent is the wrong model;
# - find from which length on a Mamba is the cheaper one, and what it costs before.
#
# **Time** about 50 s of computing on 2 CPU cores, 1.5 GB of memory; 90 to 120 minutes of reading and exercises. With
# `profile = "full"` the notebook trains the shipped model again, which takes hours on a CPU.

# %% tags=["parameters"]
profile = "quick"  # "quick": short live runs; "full": train the shipped model again first, and measure longer prompts
seed = 0  # of the new projector, batches and questions
device = "cpu"  # "auto", "cpu", "cuda" or "mps"; the timings of sections 7 to 9 are made on the CPU
pictures = 32  # scenes rendered for the live runs, a quarter of them held out
live_steps = 6  # of each live run
live_rows = 3  # pictures a step
asked_scenes = 5  # test scenes in the live measurement, up to 8 questions each
lengths = [256, 512, 1024, 2048, 4096]  # tokens of the prompts that are timed
peak_lengths = [256, 1024, 4096]  # and of those whose peak memory is measured, each in a process of its own
rounds = 2  # of timing
answer_tokens = 64  # written in the measurement of tokens a second

# %%
import gc
import math

import numpy as np
import torch
import torch.nn.functional as F
from torch.nn.utils.rnn import pad_sequence

import vlmlab
from vlmlab import figures, report, runtime, scenes, weights
from vlmlab.checks import nb09 as check
from vlmlab.figures import comparison, show, show_table
from vlmlab.figures import llava as diagrams
from vlmlab.files import read_json
from vlmlab.vlm import IGNORE, VLM, recipes

runtime.seed_everything(seed)
cobra = vlmlab.load("cobra-tiny", device=device)
tokenizer, language, P = cobra.tokenizer, cobra.language, cobra.config.image_tokens

# %% [markdown]
# ## 1. One stage instead of two
#
# | | data | trains | learning rate | batch | epochs |
# |---|---|---|---|---|---|
# | LLaVA-1.5, stage 1 | 558K captions | $W$ | 1e-3 | 256 | 1 |
# | LLaVA-1.5, stage 2 | 665K mix | $W$, $f_\phi$ | 2e-5 | 128 | 1 |
# | Cobra | 1.2M: LLaVA-1.5's mix, LVIS-Instruct4V 220K, LRV 400K | $W$, $f_\phi$ | 2e-5 | 128 | 2 |
# | Cobra's code, if asked to align first | captions | $W$ | 1e-3 | 256 | |
#
# Cobra: AdamW, weight decay 0.1, warm-up over 3 % of the steps, then a cosine; gradients clipped at 1.0; bfloat16; 26.5
# hours on eight A100. Both encoders stay frozen. What goes against chapter 04 is the missing first row. There, stage 1
# was explained by noise: gradients through an untrained projector would spoil a language model that works. Prismatic
# and Cobra tried without and report that it does no harm. In Cobra's ablation the alignment stage does some:

# %%
PAPER = {  # arXiv 2403.14520v4, ablation of the training recipe: without, with alignment
    "VQAv2": (77.8, 75.7), "GQA": (62.3, 60.4), "VizWiz": (49.7, 44.2), "TextVQA": (58.2, 58.0), "VSR": (58.4, 51.6),
    "POPE": (88.4, 86.9), "RefCOCO": (52.7, 37.3),
}  # fmt: skip
show(
    figures.bars(
        list(PAPER),
        {"one stage": [a for a, _ in PAPER.values()], "after an alignment stage": [b for _, b in PAPER.values()]},
        limits=(0, 100), xlabel="score", title="Cobra-3.5B, as reported",
    ),
    alt="Seven benchmarks; with the alignment stage every score is lower, RefCOCO's by "
    f"{PAPER['RefCOCO'][0] - PAPER['RefCOCO'][1]:.1f} points and TextVQA's by 0.2.",
    caption="From version 4 of the paper; without intervals, and from one training run each.",
)  # fmt: skip

# %% [markdown]
# At the size of this suite the same chain is a handful of recipes (`vlmlab train --list`). `cobra-tiny` is trained as
# Cobra is. `cobra-tiny-aligned` is the same after an alignment stage: same data, seed and steps, and the steps of stage
# 1 on top.

# %%
TRAINED = {"siglip-tiny": "SigLIP encoder", "dinov2-tiny": "DINOv2 encoder", "language-mamba-tiny": "Mamba, on text"}
chain = [*TRAINED, "cobra-tiny", "cobra-tiny-stage1", "cobra-tiny-aligned"]
table = []
for name in chain:
    recipe = recipes.RECIPES[name]
    after = ", ".join(need for need in recipe.needs if need != "tokenizer")
    table.append([name, TRAINED.get(name) or ", ".join(recipe.parts), recipe.train.steps, recipe.batch, after])
show_table(["recipe", "trains", "steps", "batch", "after"], table)

# %% [markdown]
# ### What trains
#
# A freshly built model would train everything. Freezing takes the encoders out.

# %%
counts = VLM.from_preset("cobra-tiny", device="meta").count_parameters(trainable=True)
STAGES = {"alignment, left out": ("projector",), "Cobra's one stage": ("projector", "language")}
for stage, parts in STAGES.items():
    left = cobra.freeze().unfreeze(*parts).count_parameters(trainable=True)
    print(f"{stage}: {left['total']:,} of {counts['total']:,} parameters train")
    report.record(f"trained parameters, {stage}", left)
rows = []
for stage, trained in STAGES.items():
    state = {part: "trained" if part in trained else "frozen" for part in ("vision", "projector", "language")}
    rows.append((stage, [(part, counts[part] // 1000, state[part]) for part in state]))
show(
    figures.blocks(
        rows,
        notes=[f"{sum(counts[p] for p in parts) / counts['total']:.0%}" for parts in STAGES.values()],
        colours={"trained": figures.ORANGE, "frozen": "#DDDDDD"},
        title="Thousands of parameters",
    ),
    alt="The alignment stage would train the projector only; Cobra's one stage trains projector and Mamba.",
)

# %% [markdown]
# ## 2. Toy numbers: padding under a recurrence
#
# A batch needs rows of one length. Attention is told by a mask which keys to leave out. A scan has no keys: when a
# token has been read it is *in* the state, and nothing later can take it out. Three tokens 1, 2, 4 and two of padding
# with value 9, in $h_t = h_{t-1}/2 + x_t$:


# %%
def states(xs, h=0.0):
    return [h := 0.5 * h + x for x in xs]


print("alone      ", states([1, 2, 4]))
print("right      ", states([1, 2, 4, 9, 9]))
print("left       ", states([9, 9, 1, 2, 4]))

# %% [markdown]
# On the right, padding comes when all is over: the first three states are those of the row alone, and what follows
# carries no loss. On the left it is in every state that counts. Hence: **pad on the right and need no mask**. (The
# package's `Mamba` also takes a mask and walks over padding with $\Delta = 0$, which keeps the state as it is; chapter
# 08 tests it. Batched *generation* needs that, since there all rows have to end together.)
#
# ## 3. A batch, by hand
#
# Two questions about two pictures. Cobra's template puts the picture first, so behind the placeholder there is only
# text.

# %%
train_scenes = [scenes.sample(60_000 + i) for i in range(pictures)]
rendered = np.stack([scene.render(cobra.config.image_size).rgb for scene in train_scenes])
with torch.no_grad():  # the encoders are frozen: their features are computed once
    features = cobra.vision_features(cobra.preprocess.batch(list(rendered)))  # (pictures, P, D_v)

# %%
asked = [
    scene.questions(types=[kind], count=1)[0]
    for scene, kind in zip(train_scenes[:2], ("count", "relation"), strict=True)
]
turns = [[{"from": "human", "value": "<image>\n" + q.text}, {"from": "gpt", "value": q.sentence}] for q in asked]
encoded = [cobra.template.encode(pair, tokenizer) for pair in turns]
assert all(row.ids[0] == cobra.image_id for row in encoded)  # position 0
ids = pad_sequence([torch.tensor(row.ids[1:]) for row in encoded], True, tokenizer.pad_id)  # (B, L), padded right
text_labels = pad_sequence([torch.tensor(row.labels[1:]) for row in encoded], True, IGNORE)  # (B, L)
print(cobra.template.render(turns[0]))

# %% [markdown]
# **The splice at position 0** is a concatenation. The picture's tokens get the label -100: nothing has to predict them.

# %%
Z_v = cobra.project(features[:2])  # (B, P, D)
sequence = torch.cat([Z_v, language.embed(ids.to(cobra.device))], 1)  # (B, P + L, D)
labels = torch.cat([torch.full((2, P), IGNORE), text_labels], 1).to(cobra.device)  # (B, P + L)
drawn = []
for number, row in enumerate(encoded):
    learnt = sum(label != IGNORE for label in row.labels)
    parts = [("picture", P, "image"), ("question", len(row.ids) - 1 - learnt, "text"), ("answer", learnt, "loss")]
    gap = sequence.shape[1] - P - len(row.ids) + 1
    drawn.append((f"row {number}", [*parts, *([("", gap, "padding")] if gap else [])]))
show(
    figures.blocks(drawn, notes=[f"{sequence.shape[1]}"] * 2),
    alt="Two rows: the picture's tokens, a question, an answer with loss, and padding at the end of the shorter one.",
    caption="Loss falls on the answer and its end token.",
)

# %% [markdown]
# **The loss.** What is computed at position $t$ predicts token $t + 1$, so logits and labels are shifted against each
# other. `cross_entropy` leaves out -100 by itself.


# %%
def next_token_loss(model, embeds, labels):  # (B, T, D), (B, T)
    logits = model.language.head(model.language.hidden(inputs_embeds=embeds))  # (B, T, V)
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())


mine = next_token_loss(cobra, sequence, labels)
trained = [*cobra.projector.parameters(), *language.parameters()]
my_gradient = torch.autograd.grad(mine, trained)
round(mine.item(), 4)

# %% [markdown]
# **Check.** The package's forward pass on rows with one placeholder each: the same loss, and the same gradient for
# every parameter. With labels that are one off, both differ.

# %%
with_placeholder = F.pad(ids, (1, 0), value=cobra.image_id), F.pad(text_labels, (1, 0), value=IGNORE)
theirs = cobra(None, *with_placeholder, image_features=features[:2]).loss
their_gradient = torch.autograd.grad(theirs, trained)
scale = max(float(g.abs().max()) for g in their_gradient)
gap = max(float((a - b).abs().max()) for a, b in zip(my_gradient, their_gradient, strict=True)) / scale
shifted = next_token_loss(cobra, sequence, labels.roll(1, 1)).item()
print(f"loss {mine.item():.6f} and {theirs.item():.6f}; with labels one off {shifted:.3f}")
report.record("gradient by hand against the package, relative difference", gap)
assert gap < 1e-4
assert abs(shifted - mine.item()) > 1e-3

# %% [markdown]
# **Check.** What stands in the padding is without effect on the right. The same tokens on the left change the loss.

# %%
short = min(range(2), key=lambda i: len(encoded[i].ids))
n = P + len(encoded[short].ids) - 1  # its tokens
noise = torch.randn(1, 12, sequence.shape[2], generator=runtime.generator(seed)).to(sequence)
row, row_labels, nothing = sequence[[short], :n], labels[[short], :n], labels.new_full((1, 12), IGNORE)
with torch.no_grad():
    alone = next_token_loss(cobra, row, row_labels).item()
    right = next_token_loss(cobra, torch.cat([row, noise], 1), torch.cat([row_labels, nothing], 1)).item()
    left = next_token_loss(cobra, torch.cat([noise, row], 1), torch.cat([nothing, row_labels], 1)).item()
print(f"alone {alone:.5f}, noise on the right {right:.5f}, noise on the left {left:.5f}")
report.record("loss with 12 noise tokens on the left / alone", left / alone)
assert abs(right - alone) < 1e-4 * alone

# %% [markdown]
# ## 4. Many questions behind one picture: the state forks
#
# Chapter 04 packed several questions behind one picture, and a mask kept them apart. A recurrence cannot be masked,
# but it can be *continued*: read the picture once, keep the state, and let each question go on from a copy.

# %%
from vlmlab.vlm import corpus

data = corpus.build(train_scenes, tokenizer, cobra.template, questions=16)
how = corpus.Packing((), cobra.image_id, tokenizer.pad_id, P, per_scene=6)  # (): no text in front of the picture
packed = corpus.pack(data, np.array([0]), how, np.random.default_rng(seed))
segment = packed.segment[0]  # 0 the picture, k the k-th question
questions = [packed.ids[0][segment == k].to(cobra.device) for k in range(1, int(segment.max()) + 1)]
sizes = [len(question) for question in questions]
show(
    figures.blocks(
        [
            ("forked", [("picture", P, "image"), *[(f"q{k + 1}", n, "text") for k, n in enumerate(sizes)]]),
            *((f"row {k + 1}", [("picture", P, "image"), (f"q{k + 1}", sizes[k], "text")]) for k in (0, 1)),
        ],
        notes=[str(P + sum(sizes)), *(str(P + sizes[k]) for k in (0, 1))],
    ),
    alt=f"One row holds the picture and {len(sizes)} questions; in rows of their own each repeats the picture.",
    caption=f"{P + sum(sizes)} tokens instead of {len(sizes) * P + sum(sizes)} for these {len(sizes)} questions.",
)

# %%
with torch.no_grad():
    state = language.new_cache()
    language.hidden(inputs_embeds=cobra.project(features[:1]), cache=state)  # the picture, once
    forked = [language.head(language.hidden(question[None], cache=state.repeat(1)))[0] for question in questions]
    together = cobra(None, packed.ids, segments=packed.segment, image_features=features[:1])[0]
kept = torch.cat(forked)
fork_gap = float((kept - together[P:][: len(kept)]).abs().max() / kept.abs().max())
report.record("forked by hand against the package's packed rows, relative difference", fork_gap)
assert fork_gap < 1e-4

# %% [markdown]
# `repeat(1)` copies: reading with a cache changes it. The package does the same for whole batches (`vlmlab.language`'s
# `forking`), with gradients: those of all questions add up in the state and flow back into the picture. Positions need
# no thought here; LLaVA's had to count on from the picture for each question, a recurrence has none.
#
# ## 5. One stage, live
#
# Both recipes for a few steps, from the shipped encoders and the shipped Mamba with a *new* projector. That Mamba has
# already learnt to read pictures through another projector, so this is easier than the shipped run; what it shows is
# the way there. *One stage*: projector and Mamba from the first step. *Aligned first*: the projector alone for half of
# the steps, then both.

# %%
held_out_pictures = pictures // 4
known = pictures - held_out_pictures


def start():
    model = vlmlab.load("cobra-tiny", device=device)
    model.projector = VLM.from_preset(model.config, device, tokenizer, seed=seed).projector
    return model


def batch(step):  # from seed and step alone
    rng = np.random.default_rng([seed, step])
    rows = np.sort(rng.choice(known, live_rows, replace=False))
    return corpus.pack(data, rows, how, rng), features[rows]


def loss_of(model, packed, images):
    found = model(None, packed.ids, packed.labels, segments=packed.segment, image_features=images, loss_only=True)
    return found.loss


# %%
def learn(plan):  # plan: the parts that train, for each step
    model, losses = start(), []
    groups = [{"params": model.projector.parameters(), "lr": 2e-3}, {"params": model.language.parameters(), "lr": 5e-4}]
    optimiser = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.01)
    for step, parts in enumerate(plan):
        model.freeze().unfreeze(*parts)
        loss = loss_of(model, *batch(step))
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], 1.0)
        optimiser.step()  # a parameter without a gradient stays as it is
        optimiser.zero_grad()
        losses.append(loss.item())
    return model, losses


# %%
ONE, BOTH = ("projector",), ("projector", "language")
plans = {"one stage": [BOTH] * live_steps, "aligned first": [ONE] * (live_steps // 2) + [BOTH] * -(-live_steps // 2)}
before, runs = start(), {}
for name, plan in plans.items():
    runs[name] = learn(plan)
    first, last = np.mean(runs[name][1][:2]), np.mean(runs[name][1][-2:])
    report.record(f"live, {name}: loss of the last two steps / first two", last / first)
for model, _ in runs.values():  # the encoders stayed as they were
    assert all(torch.equal(a, b) for a, b in zip(model.vision.parameters(), before.vision.parameters(), strict=True))

# %%
unseen = np.arange(known, pictures)
packed_unseen = corpus.pack(data, unseen, how, np.random.default_rng(seed))
with torch.no_grad():
    on_unseen = {
        name: loss_of(model, packed_unseen, features[unseen]).item()
        for name, model in {"new projector": before, **{k: m for k, (m, _) in runs.items()}, "shipped": cobra}.items()
    }
show(
    figures.losses({name: losses for name, (_, losses) in runs.items()}, smooth=0, ylabel="loss (nats a token)"),
    alt="Loss of both live runs over their steps: "
    + ", ".join(f"{name} from {losses[0]:.2f} to {losses[-1]:.2f}" for name, (_, losses) in runs.items()) + ".",
    caption="On pictures outside the run: " + ", ".join(f"{k} {v:.2f}" for k, v in on_unseen.items()) + ".",
)  # fmt: skip
report.record("live: loss on held-out pictures", on_unseen)

# %% [markdown]
# Runs as short as this one decide nothing about recipes. Before believing any order of the two curves, change `seed`.
#
# ## 6. The long runs
#
# With `profile = "full"` the next cell trains `cobra-tiny` again, and what it needs; it goes on where it was stopped.

# %%
if profile == "full":
    recipes.run("cobra-tiny", resume=True)

# %% [markdown]
# What the shipped trainings wrote down: `data/manifest.json` holds recipe, seed, cost, results and the place of the log
# of each. Of `cobra-tiny-aligned` only these figures ship, not the weights.


# %%
def record_of(name):  # of shipped weights under "files"; of runs whose weights do not ship under "runs"
    listing = weights.manifest()
    return listing["files"].get(f"checkpoints/{name}.safetensors") or listing.get("runs", {}).get(name)


results = weights.manifest()["results"]
names = [name for name in ("llava-tiny", "cobra-tiny", "cobra-tiny-aligned") if name in results and record_of(name)]
if "cobra-tiny-aligned" not in names:
    print("the manifest holds no cobra-tiny-aligned yet; what follows compares two models")
logs = {name: read_json(runtime.data_dir() / record_of(name)["log"]) for name in names}
show(
    figures.losses(
        {name: ([line["step"] for line in log], [line["loss"] for line in log]) for name, log in logs.items()},
        ylabel="loss (nats a token)", log=True, title="The shipped runs",
    ),
    alt="Loss over the steps, at the end (mean of the last ten lines): "
    + ", ".join(f"{name} {np.mean([line['loss'] for line in log[-10:]]):.3f}" for name, log in logs.items()) + ".",
    caption="After a quarter of the steps the data change: until then, worksheets only.",
)  # fmt: skip

# %% [markdown]
# One difference is left in this comparison that the names do not show: `llava-tiny` begins with the projector of its
# stage 1, `cobra-tiny` with a projector drawn at random. Steps, batches and questions are the same; encoders and
# language models are of like size.

# %%
table = []
for name in names:
    record = record_of(name)
    recipe, cost = record["recipe"], record["cost"]
    needs = [need for need in recipe["data"]["needs"] if need != "tokenizer"]
    row = [recipe["seed"], cost["steps"], recipe["data"]["batch"], round(cost["seconds"] / 60)]
    table.append([name, *row, cost["device"], ", ".join(needs)])
show_table(["run", "seed", "steps", "batch", "minutes", "on", "after"], table, "from data/manifest.json")
report.record("minutes of the long runs", {row[0]: row[4] for row in table})

# %% [markdown]
# ### Accuracy by type of question
#
# Scenes of the test split, asked for sentences. Beside each model's accuracy with its interval stand *chance* and
# *blind*, the model itself without the picture.

# %%
from vlmlab.scenes.questions import TYPES

tables = {name: results[name]["scenes/sentence"]["by_type"] for name in names}
kinds = [kind for kind in ("all", *TYPES) if all(kind in found for found in tables.values())]
show(
    figures.bars(
        kinds,
        {name: [found[kind]["accuracy"] for kind in kinds] for name, found in tables.items()},
        intervals={name: [(found[k]["low"], found[k]["high"]) for k in kinds] for name, found in tables.items()},
        baselines={
            "chance": [tables["cobra-tiny"][kind]["chance"] for kind in kinds],
            "cobra-tiny blind": [tables["cobra-tiny"][kind]["blind"] for kind in kinds],
        },
        percent=True, limits=(0, 1.15),
    ),
    alt="Accuracy by type. Over all questions: "
    + ", ".join(f"{name} {found['all']['accuracy']:.1%}" for name, found in tables.items())
    + f"; cobra-tiny blind {tables['cobra-tiny']['all']['blind']:.1%}.",
)  # fmt: skip
for name, found in tables.items():
    kept_keys = ("n", "accuracy", "low", "high", "blind", "chance")
    report.record(f"{name}, all questions, from the manifest", {key: found["all"][key] for key in kept_keys})

# %% [markdown]
# Two intervals that overlap do not say that two models are equal, and the eye is a poor judge of it. What is wanted is
# the interval *of the difference*. Newcombe (1998, *Statistics in Medicine* 17, 873-890, method 10) builds it from the
# two Wilson intervals $(l_1, u_1)$, $(l_2, u_2)$ of the proportions $p_1$, $p_2$:
#
# $$\Big(d - \sqrt{(p_1 - l_1)^2 + (u_2 - p_2)^2},\quad d + \sqrt{(u_1 - p_1)^2 + (p_2 - l_2)^2}\Big),
# \qquad d = p_1 - p_2$$

# %%
from vlmlab.benchmarks.statistics import wilson


def newcombe(p1, l1, u1, p2, l2, u2):
    d = p1 - p2
    return d, d - math.hypot(p1 - l1, u2 - p2), d + math.hypot(u1 - p1, p2 - l2)


example = newcombe(56 / 70, *wilson(56, 70), 48 / 80, *wilson(48, 80))  # the paper's: 0.2000 (0.0524 to 0.3339)
assert np.allclose(example, (0.2, 0.0524, 0.3339), atol=5e-5)


def compared(first, second):  # by type, accuracy of `first` minus that of `second`
    sides = (tables[first], tables[second])
    return [newcombe(*(side[kind][key] for side in sides for key in ("accuracy", "low", "high"))) for kind in kinds]


# %%
def verdict(d, low, high):
    return "more" if low > 0 else "less" if high < 0 else "cannot be told apart"


pairs = [("cobra-tiny", "llava-tiny"), ("cobra-tiny-aligned", "cobra-tiny")]
for first, second in pairs:
    if first not in names:
        continue
    gaps = compared(first, second)
    told = {kind: verdict(*gap) for kind, gap in zip(kinds, gaps, strict=True)}
    show(
        comparison.differences(kinds, gaps, left=f"{second} better", right=f"{first} better"),
        alt=f"Accuracy of {first} minus {second}, by type, with 95 % intervals. "
        + "; ".join(f"{kind}: {100 * gap[0]:+.1f}, {told[kind]}" for kind, gap in zip(kinds, gaps, strict=True)) + ".",
        caption="Filled: the interval leaves zero out. Without any difference one row in twenty would, by chance.",
    )  # fmt: skip
    report.record(f"{first} minus {second}, all questions: difference and 95 % interval", list(gaps[0]))
    print(f"{first} against {second}, all questions: {told['all']}")

# %% [markdown]
# What these intervals hold and what they do not. They cover the choice of the *questions*. They do not cover the choice
# of the *training run*: with another seed each model would be another one, and there is one run of each. A small
# difference between recipes, clear of zero, may still be a difference between two seeds. The paper's table above has
# the same gap. Also, both models are asked the same questions, and Newcombe's interval treats them as two independent
# samples; the paired one is narrower (exercise 6).
#
# **Live.** A few of these questions again, now, with the shipped weights. Most of the live intervals should contain the
# figure from the manifest.

# %%
from vlmlab.benchmarks import held_out

sample = held_out.questions(asked_scenes, 8)
llava = vlmlab.load("llava-tiny", device=device)
models = {"llava-tiny": llava, "cobra-tiny": cobra.eval()}
live = {name: held_out.evaluate(model, sample) for name, model in models.items()}
table, agrees = [], []
for name, found in live.items():
    for kind in (kind for kind in kinds if kind in found["by_type"]):
        row, told = found["by_type"][kind], tables[name][kind]["accuracy"]
        agrees.append(row["low"] <= told <= row["high"])
        if kind == "all":
            span = f"{100 * row['low']:.0f} to {100 * row['high']:.0f}"
            table.append([name, row["n"], f"{100 * row['accuracy']:.0f} %", span, f"{100 * told:.1f} %", agrees[-1]])
show_table(["model", "n", "live", "95 % interval", "manifest", "inside"], table, "all types of question")
report.record(
    "rows, all and by type, whose live interval contains the manifest's figure", f"{sum(agrees)} of {len(agrees)}"
)

# %%
shown = list({id(item.scene): item for item in sample}.values())[:3]  # one question a scene
said = {name: [a for a in found["answers"] if any(a["question"] == item.question.text and a["seed"] == item.scene.seed
                                                 for item in shown)][:3] for name, found in live.items()}  # fmt: skip
show(
    diagrams.answer_table(
        [item.scene.render(cobra.config.image_size).rgb for item in shown],
        [item.question.text for item in shown],
        {name: [a["said"] for a in answers] for name, answers in said.items()},
        right={name: [a["right"] for a in answers] for name, answers in said.items()},
    ),
    alt="Three held-out pictures with a question each and the answers of both models: "
    + ", ".join(f"{name} {sum(a['right'] for a in answers)} of 3 right" for name, answers in said.items()) + ".",
)  # fmt: skip

# %% [markdown]
# ## 7. Quadratic against linear: exponents
#
# The other half of Cobra's case is cost. The paper speaks of transformers' "less efficient quadratic computation
# complexity" and of Cobra's "linear computational complexity" (version 1) or "linear scalability concerning sequence
# length" (version 4); Mamba's abstract of "linear scaling in sequence length". Such a claim is about an exponent $p$ in
# $t \sim L^p$, and an exponent is a slope: $\log t = \log c + p \log L$. By hand, with three lengths that double and
# times 3, 6 and 13:

# %%
x, y = np.log2([1, 2, 4]), np.log2([3, 6, 13])
x_bar, y_bar = x.mean(), y.mean()
slope = ((x - x_bar) * (y - y_bar)).sum() / ((x - x_bar) ** 2).sum()
print(f"steps of {np.diff(y).round(3)} on the logarithmic axis, slope {slope:.4f}")
assert math.isclose(slope, (y[2] - y[0]) / 2)  # with three equidistant points the middle one has no say

# %% [markdown]
# How certain is a slope? The points scatter around their line, and with $n$ of them the standard error is
#
# $$s_p = \sqrt{\frac{\sum_i r_i^2}{(n - 2) \sum_i (x_i - \bar x)^2}}$$
#
# with residuals $r_i$. The 95 % interval reaches $s_p$ times a quantile of Student's t distribution with $n - 2$
# degrees of freedom to either side: 12.7 times with three points, 3.2 times with five.

# %%
from scipy.stats import t as student

from vlmlab.bench.scaling import crossing, power_law


def exponent(lengths, values):
    x, y = np.log(lengths), np.log(values)
    x, y = x - x.mean(), y - y.mean()
    p = (x @ y) / (x @ x)
    r = y - p * x
    reach = student.ppf(0.975, len(x) - 2) * math.sqrt((r @ r) / (len(x) - 2) / (x @ x))
    return p, p - reach, p + reach


toy = [1, 2, 4], [3, 6, 13]
print("slope and interval:", np.round(exponent(*toy), 3))
assert np.allclose(exponent(*toy), power_law(*toy))

# %% [markdown]
# **The measurement.** Two language models of equal size with random weights, the Llama of `llava-tiny` and the Mamba of
# `cobra-tiny`, one after the other at every length, so that whatever else the machine does meets both. *Prefill* reads
# a prompt and leaves a cache. *A token* is one decoded behind it. *Kept* is the cache itself. This is
# `vlmlab bench scaling`.

# %%
from vlmlab.bench.scaling import scaling

gc.freeze()  # every timed run begins with a garbage collection; what exists by now need not be searched each time
sweep_lengths = lengths if profile == "quick" else [*lengths, 2 * lengths[-1], 4 * lengths[-1]]
sweep = scaling(sweep_lengths, rounds=rounds, decode=8, memory=False)
print(sweep["parameters"], "parameters;", sweep["cores"], "cores")
TITLES = {"prefill_ms": "prefill (ms)", "token_ms": "a token (ms)", "kept_bytes": "kept (MiB)"}
UNITS = {"prefill_ms": 1, "token_ms": 1, "kept_bytes": 2**-20}
report.record("lengths measured", sweep["lengths"])
for what in TITLES:
    report.record(f"{what} at these lengths", sweep[what])

# %%
show(
    comparison.against_length(
        {
            title: {name: (sweep["lengths"], np.array(values) * UNITS[what]) for name, values in sweep[what].items()}
            for what, title in TITLES.items()
        },
        crossings={title: sweep["crossings"][what] if (sweep["crossings"][what] or 0) > sweep["lengths"][0] else None
                   for what, title in TITLES.items()},
    ),
    alt=f"At {sweep['lengths'][-1]} tokens, transformer against Mamba: "
    + "; ".join(
        f"{title} " + " against ".join(f"{values[-1] * UNITS[what]:.3g}" for values in sweep[what].values())
        for what, title in TITLES.items()
    ) + ".",
    caption="Dotted: from this length on the Mamba is the cheaper one, where that happens within the lengths measured.",
)  # fmt: skip

# %%
exponents, table = {}, []
for what, title in TITLES.items():
    for name, values in sweep[what].items():
        p, low, high = exponent(sweep["lengths"], values)
        ends = np.diff(np.log(values)) / np.diff(np.log(sweep["lengths"]))  # between neighbours
        exponents[what, name] = (p, low, high, ends[-1])
        shown = [f"{p:.2f}", f"{low:.2f} to {high:.2f}", f"{ends[0]:.2f}", f"{ends[-1]:.2f}"]
        table.append([title.split(" (")[0], name, *shown])
        report.record(f"exponent of {title.split(' (')[0]}, {name}", [p, low, high])
        assert np.allclose((p, low, high), sweep["exponents"][what][name], atol=2e-3)  # the package's own
show_table(["what", "model", "exponent", "95 % interval", "first two lengths", "last two"], table)

# %% [markdown]
# Look at the last two columns before believing the third. Where they agree, one power law describes the curve. Where
# they do not, the fitted exponent is a mean over a bend, it depends on which lengths were measured, and the interval
# says little: it takes the bend for noise.
#
# ### One exponent, or two parts
#
# A transformer reads $L$ tokens through its matrices, work in proportion to $L$, and compares all of them with each
# other, in proportion to $L^2$:
#
# $$t(L) = a L + b L^2$$
#
# That changes the question from "which exponent?" to "from where on?": the two parts are equal at $L^* = a/b$,
# and below that a transformer is, in practice, linear. Both numbers come from a linear fit. Dividing each equation by
# its $t$ makes all lengths count alike (exercise 5 asks for it as a function).

# %%
L, t = np.array(sweep["lengths"], float), np.array(sweep["prefill_ms"]["transformer"])
(a, b), *_ = np.linalg.lstsq(np.stack([L, L**2], 1) / t[:, None], np.ones_like(t), rcond=None)
model_error = float(np.abs((a * L + b * L**2) / t - 1).max())
law_error = float(np.abs(np.exp(np.log(t).mean() + exponents["prefill_ms", "transformer"][0]
                                * (np.log(L) - np.log(L).mean())) / t - 1).max())  # fmt: skip
print(f"worst relative error: one power law {law_error:.0%}, linear and quadratic part {model_error:.0%}")
report.record("prefill of the transformer: worst error of a power law, of two parts", [law_error, model_error])
if a > 0 and b > 0:
    report.record("length at which the quadratic part of the prefill equals the linear one, measured", a / b)

# %% [markdown]
# **The crossing.** Where do the curves meet? Between measured lengths by a line on log-log axes; when they do not meet
# there, by the two fits, which is an extrapolation and is called one.

# %%
c = float(np.exp(np.mean(np.log(np.array(sweep["prefill_ms"]["mamba"]) / L))))  # Mamba: t = c L
for what in TITLES:
    first, second = (sweep[what][name] for name in ("transformer", "mamba"))
    where = crossing(sweep["lengths"], first, second)
    assert where == sweep["crossings"][what]
    said_where = "not within these lengths" if where is None else "at the first length already" \
        if where == sweep["lengths"][0] else f"at about {where:,.0f} tokens"  # fmt: skip
    print(f"{TITLES[what].split(' (')[0]}: the Mamba becomes the cheaper one {said_where}")
    if what != "kept_bytes":  # that one is counted below
        report.record(f"crossing of {TITLES[what].split(' (')[0]}, tokens", where)
if sweep["crossings"]["prefill_ms"] is None and b > 0:
    report.record("crossing of prefill, extrapolated from the fits, tokens", float((c - a) / b))
picture = cobra.config.image_tokens
print(f"for comparison: a picture and a question are {picture} + about 25 tokens here, 729 + 50 in Cobra-3B")

# %% [markdown]
# Numbers of one machine, one implementation and one size, on a CPU. The *state* against the *cache* is not: bytes are
# counted, not timed.

# %%
kept = sweep["kept_bytes"]
per_token = kept["transformer"][-1] / sweep["lengths"][-1]
print(f"transformer: {per_token:.0f} bytes a token; Mamba: {kept['mamba'][0]:,} bytes in all")
print(f"equal at {kept['mamba'][0] / per_token:.0f} tokens, in float32 both")
assert len(set(kept["mamba"])) == 1
report.record("bytes of state of the Mamba", kept["mamba"][0])
report.record("bytes of KV cache of the transformer, a token", per_token)
report.record("tokens whose KV cache is as large as the state", kept["mamba"][0] / per_token)

# %% [markdown]
# ### At the paper's size
#
# Is LLaVA-1.5-7B in the quadratic part? Its work is counted from shapes: $a$ is the work of a token in all matrices,
# $b L$ what attention adds for it.

# %%
from vlmlab.vlm import account, get_preset
from vlmlab.vlm.account import language_flops

table = []
for name in ("llava-tiny", "llava-1.5-7b"):
    config, tokens = get_preset(name).language, account(name)["prefill"]["tokens"]
    work = language_flops(config, 2, 0) - language_flops(config, 1, 0)  # a token, without attention
    pairs_work = language_flops(config, 1, 1) - language_flops(config, 1, 0)  # and for each token that it looks at
    share = pairs_work * tokens / (work + pairs_work * tokens)
    table.append([name, f"{work / pairs_work:,.0f}", tokens, f"{100 * share:.1f} %"])
    report.record(f"{name}: length at which attention's work equals the rest", work / pairs_work)
    report.record(f"{name}: attention's share of the work of a picture and 64 tokens", share)
show_table(["model", "equal at L* =", "a picture and 64 tokens", "attention's share there"], table)

# %% [markdown]
# Counted with all $L^2$ pairs; a kernel that skips the masked half moves $L^*$ up by two. So for one picture, and for
# several, the quadratic part of LLaVA-1.5-7B is a few per cent of its prefill. A Mamba of the same size would not read
# that prompt much faster for being linear. Where Cobra is faster at such lengths, it is for other reasons: a model of
# half the size, and a decoder that need not read a growing cache. The linear claim is about *long* inputs, many
# pictures, video, documents.
#
# ## 8. Memory of a prefill
#
# What a prefill needs for a moment can be more than what it leaves. Peaks of whole prefills, each in a fresh process,
# over what the process held before. Beside them, counted, what attention would need if it were written out: one matrix
# of scores has $H L^2$ numbers, and softmax makes a second one.

# %%
from vlmlab.bench.scaling import peaks as measure_peaks

peaks = measure_peaks(peak_lengths)  # {} where it cannot be measured
heads = llava.config.language.heads
table = [["two matrices of scores, counted", *(f"{8 * heads * n**2 / 2**20:.1f}" for n in peak_lengths), "2", ""]]
for name, values in peaks.items():
    p, low, high = power_law(peak_lengths, values)
    last = math.log(values[-1] / values[-2]) / math.log(peak_lengths[-1] / peak_lengths[-2])
    exponents["prefill_peak_bytes", name] = (p, low, high, last)
    table.append([name, *(f"{value / 2**20:.1f}" for value in values), f"{p:.2f}", f"{low:.2f} to {high:.2f}"])
    report.record(f"peak memory of a prefill, {name}: MiB", [value / 2**20 for value in values])
    report.record(f"exponent of the peak memory of a prefill, {name}", [p, low, high])
show_table(["MiB at the peak", *(f"{n} tokens" for n in peak_lengths), "exponent", "95 % interval"], table)

# %% [markdown]
# The package's Llama never makes that matrix. PyTorch's `scaled_dot_product_attention` goes over keys in tiles and
# keeps a running softmax (FlashAttention, Dao et al. 2022, [arXiv 2205.14135](https://arxiv.org/abs/2205.14135)): the
# *work* is quadratic, the *memory* need not be.
#
# The Mamba's state is small, but to read a prompt in one go it works on all its tokens at once: $u$, $z$, $\Delta$ and
# their like, (L, I) numbers each. Compare its row with the transformer's. Only decoding is constant. (A prompt can be
# read in pieces, the state handed on from one to the next; then the peak is that of a piece.)
#
# ## 9. Tokens a second, the paper's way
#
# Cobra's speed (166.47 tokens a second on an A100, section 4 of version 4) is measured so: one picture, one prompt, 256
# new tokens, and 256 divided by the *total* time, the picture's encoding included. The same for the two tiny models:

# %%
from vlmlab.bench.timing import alternate


def protocol(model):
    ids = torch.tensor([model.template.encode_prompt("Describe the image specifically", model.tokenizer)])

    def run():
        pixels = model.preprocess(rendered[0])[None]
        with torch.inference_mode():
            return model.generate_ids(pixels, ids, max_new_tokens=answer_tokens, eos_ids=[])

    assert run().shape[1] == answer_tokens
    return run


seconds = alternate({name: protocol(model) for name, model in models.items()}, rounds)
speed = {name: answer_tokens / value for name, value in seconds.items()}
report.record(f"tokens a second over {answer_tokens}, picture included", speed)
report.record("the same, cobra-tiny / llava-tiny", speed["cobra-tiny"] / speed["llava-tiny"])

# %% [markdown]
# What is timed here? The arithmetic of a decoded token is that of a token in a prefill. If it were what takes the time,
# both would cost the same:

# %%
for name in sweep["token_ms"]:
    in_a_prefill = sweep["prefill_ms"][name][0] / sweep["lengths"][0]
    report.record(f"{name}: a decoded token / a token of a prefill, time", sweep["token_ms"][name][0] / in_a_prefill)

# %% [markdown]
# The rest is the price of starting many small operations, in twelve blocks here and six layers there. A model of
# billions pays another price, reading all its weights from memory for every token. So the paper's ratio does not carry
# over to a tiny model, nor this one to the paper's.
#
# ## 10. The claims, and what was measured


# %%
def measured(what, name, wanted):
    if (what, name) not in exponents:
        return ["not measured here", "", ""]
    p, low, high, last = exponents[what, name]
    inside = [whole for whole in (0, 1, 2) if low - 1e-9 <= whole <= high + 1e-9]
    told = "undecided" if wanted in inside and len(inside) > 1 else "agrees" if wanted in inside else "does not agree"
    return [f"{p:.2f} ({low:.2f} to {high:.2f})", f"{last:.2f}", told]


CLAIMS = {
    "a transformer's prefill takes time L^2": ("prefill_ms", "transformer", 2),
    "a Mamba's prefill takes time L^1": ("prefill_ms", "mamba", 1),
    "a Mamba's token takes time L^0": ("token_ms", "mamba", 0),
    "a transformer keeps L^1 bytes": ("kept_bytes", "transformer", 1),
    "a Mamba keeps L^0 bytes": ("kept_bytes", "mamba", 0),
    "a transformer's prefill takes memory L^2": ("prefill_peak_bytes", "transformer", 2),
    "a Mamba's prefill takes memory L^0": ("prefill_peak_bytes", "mamba", 0),
}
claims = [[claim, *measured(*what)] for claim, what in CLAIMS.items()]
show_table(["claim, taken literally", "exponent and 95 % interval", "between the last two lengths", "verdict"], claims)
report.record("claims and measurements", {claim: found for claim, *found in claims})

# %% [markdown]
# *Undecided*: the interval holds more than one whole exponent. A claim about growth is a claim about the limit of great
# lengths, and "does not agree" means: not at these lengths, with this implementation. The exponent between the last two
# lengths says where a curve is going. Bytes kept agree because they are arithmetic. Nobody claims the last two rows in
# these words, but they are what "quadratic" and "constant" are easily taken to say. Longer prompts are a matter of
# `vlmlab run 09 --set lengths=[...]` and of patience.
#
# The brief's other claim, "approximately 43 % fewer parameters", is counted in chapter 08.
#
# ## Exercises
#
# Replace each `...` by your own lines. A check says what is right or which mistake it looks like; until you begin, it
# says "not yet".
#
# ### Exercise 1 · Labels behind a picture (easy, 5 minutes)
#
# The picture stands at position 0. `question` and `answer` are lists of ids, the answer ends with its end token;
# `patches` is the number of the picture's tokens. Return the list of labels of the whole spliced row.


# %%
def spliced_labels(question: list[int], answer: list[int], patches: int) -> list[int]:
    return ...  # your code here


check.spliced_labels(spliced_labels)

# %% [markdown]
# <details><summary>Hint</summary>
#
# One label for each token of the row. What need not be predicted is -100; the shift by one is the loss's business.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def spliced_labels(question, answer, patches):
#     return [-100] * (patches + len(question)) + answer
# ```
#
# </details>
#
# ### Exercise 2 · Pad for a scan (easy, 10 minutes)
#
# `rows` is a list of (ids, labels), lists of equal length within a row, different between rows. Return two tensors (B,
# L), ids and labels, without `pad_sequence`. On which side does padding go, and what is its label?


# %%
def collate(rows: list[tuple[list[int], list[int]]], pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    return ...  # your code here


check.collate(collate)

# %% [markdown]
# <details><summary>Hint</summary>
#
# L is the longest row's. `ids + [pad_id] * (L - len(ids))`, and the like for the labels.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def collate(rows, pad_id):
#     L = max(len(ids) for ids, _ in rows)
#     ids = [ids + [pad_id] * (L - len(ids)) for ids, _ in rows]
#     labels = [labels + [-100] * (L - len(labels)) for _, labels in rows]
#     return torch.tensor(ids), torch.tensor(labels)
# ```
#
# </details>
#
# ### Exercise 3 · Fork the state (medium, 10 minutes)
#
# `read(tokens, state)` reads a tensor of tokens from a state (None at the beginning) and returns its outputs and the
# new state; a state is never changed in place. `prefix` is a picture, `questions` a list of tensors. Return the list of
# the questions' outputs, each as if it alone followed the picture, and read no token twice.


# %%
def fork(read, prefix: torch.Tensor, questions: list[torch.Tensor]) -> list[torch.Tensor]:
    return ...  # your code here


check.fork(fork)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Which state does each question start from? It is the same one for all.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def fork(read, prefix, questions):
#     _, state = read(prefix, None)
#     return [read(question, state)[0] for question in questions]
# ```
#
# </details>
#
# ### Exercise 4 · Where is the curve going? (easy, 10 minutes)
#
# Return the list of exponents between each two neighbouring lengths: the slope of the line through two points on
# log-log axes. The lengths rise; they need not double.


# %%
def local_exponents(lengths: list[float], values: list[float]) -> list[float]:
    return ...  # your code here


check.local_exponents(local_exponents)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Difference of the logarithms of the values over that of the lengths; `np.diff` takes differences.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def local_exponents(lengths, values):
#     return (np.diff(np.log(values)) / np.diff(np.log(lengths))).tolist()
# ```
#
# Try it: `local_exponents(sweep["lengths"], sweep["prefill_ms"]["transformer"])`.
#
# </details>
#
# ### Exercise 5 · The linear and the quadratic part (medium, 15 minutes)
#
# Fit $t = a L + b L^2$ and return `(a, b)`. Least squares of the *relative* errors: $\sum_i \big((a L_i + b L_i^2) /
# t_i - 1\big)^2$. No constant.


# %%
def two_parts(lengths: list[float], seconds: list[float]) -> tuple[float, float]:
    return ...  # your code here


check.two_parts(two_parts)

# %% [markdown]
# <details><summary>Hint</summary>
#
# `np.linalg.lstsq(M, y, rcond=None)[0]` minimises the squares of M @ x - y. Section 7 has it for one case; what are the
# rows of M, and what is y?
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def two_parts(lengths, seconds):
#     L, t = np.array(lengths, float), np.array(seconds, float)
#     M = np.stack([L / t, L**2 / t], axis=1)
#     a, b = np.linalg.lstsq(M, np.ones_like(t), rcond=None)[0]
#     return float(a), float(b)
# ```
#
# </details>
#
# ### Exercise 6 · The same questions, twice (medium, 15 minutes)
#
# `first` and `second` say for each question whether one and the other model was right. Return (d, low, high): the
# difference of their accuracies, first minus second, with its 95 % interval $d \pm 1.96\, s / \sqrt n$, where $s$ is
# the standard deviation of the differences question by question: 1, 0 or -1 each.


# %%
def paired_difference(first: list[bool], second: list[bool]) -> tuple[float, float, float]:
    return ...  # your code here


check.paired_difference(paired_difference)

# %% [markdown]
# <details><summary>Hint</summary>
#
# `np.array(first, float) - np.array(second, float)`; then its mean and its `std`.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def paired_difference(first, second):
#     gap = np.array(first, float) - np.array(second, float)
#     half = 1.96 * gap.std() / math.sqrt(len(gap))
#     return gap.mean(), gap.mean() - half, gap.mean() + half
# ```
#
# Try it on the live answers: `[a["right"] for a in live["cobra-tiny"]["answers"]]`, and compare with Newcombe's.
#
# </details>
#
# ### Exercise 7 · A prompt in pieces (open, 30 minutes)
#
# Section 8 says in passing that a Mamba can read a prompt in pieces, the state handed on from one to the next. Try it
# on 2,048 tokens: is the state the same afterwards, how much slower is it, and from which size of piece on is it free?
# And does a transformer gain from it too? Write down what you expect before you run it, and repeat the timing.
#
# <details><summary>Hint</summary>
#
# `cache = model.language.new_cache()`, then `model.language.hidden(piece, cache=cache)` for each piece in turn.
# `alternate` of section 9 times several functions fairly. A Llama has a last position; take fewer tokens there.
#
# </details>
# <details><summary>A way to begin</summary>
#
# ```python
# prompt = torch.randint(cobra.config.language.vocab_size, (1, 2048), generator=runtime.generator(seed))
#
# def reading(piece):
#     @torch.inference_mode()
#     def run():
#         cache = cobra.language.new_cache()
#         return [cobra.language.hidden(part, cache=cache) for part in prompt.split(piece, 1)][-1][0, -1]
#     return run
#
# at_once = reading(2048)()
# for piece in (32, 128, 512):
#     print(piece, float((reading(piece)() - at_once).abs().max() / at_once.abs().max()))
# print(alternate({str(piece): reading(piece) for piece in (32, 128, 512, 2048)}, rounds))
# ```
#
# There is no single right answer, and no check. A good one says how far repeated timings lie apart, and which part of
# the peak memory goes away and which does not.
#
# </details>

# %% [markdown]
# ## Takeaways
#
# - Cobra trains once: projector and Mamba together, encoders frozen. The alignment stage is optional, and in the
#   paper's table harmful; one run of each is not proof.
# - Under a recurrence a batch is padded on the right, and questions share a picture by sharing its state.
# - A difference needs an interval of its own. It covers the questions that were asked, not the seed that was trained.
# - "Quadratic" and "linear" are statements about long inputs. A transformer's prefill has both parts, and which of them
#   a prompt meets depends on width as much as on length.
# - What a Mamba keeps is of one size. What it needs to read a prompt at once is not.
#
# Next: 10, MambaVision.
