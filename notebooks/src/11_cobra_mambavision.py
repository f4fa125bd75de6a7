# %% [markdown]
# # 11 · Cobra with MambaVision: a frozen backbone, and six cells
#
# *Cobra* (Zhao et al. 2024, [arXiv 2403.14520](https://arxiv.org/abs/2403.14520)). *MambaVision: A Hybrid
# Mamba-Transformer Vision Backbone* (Hatamizadeh and Kautz 2024, [arXiv 2407.08083](https://arxiv.org/abs/2407.08083)).
#
# The brief behind this suite proposes a model and leaves it unbuilt: Cobra, its vision encoder replaced by MambaVision,
# the Mamba backbone and all other layers frozen. It expects better spatial reasoning at lower cost. This chapter builds
# that model, trains as little of it as possible, then a little more, and then asks the question behind it with an
# experiment: three encoders by two backbones, several runs of each.
#
# **After this chapter you can**
#
# - say what "frozen" means for a parameter and for a running statistic, and prove it to the bit;
# - exchange the encoder of a trained model, and say which layer cannot stay as it was;
# - read an experiment with several runs a cell: intervals over seeds and questions, paired differences, Holm's
#   correction, blind and constant baselines, twins;
# - say what such numbers support, what they do not, and how large an effect would have had to be.
#
# **Time** about 30 s of computing on 2 CPU cores, 1.0 GB of memory; 90 to 120 minutes of reading and exercises. With
# `profile = "full"` the notebook trains everything shown here again, which takes many hours on a CPU.

# %% tags=["parameters"]
profile = "quick"  # "quick": a short live run and shipped results; "full": train all of it again first
seed = 0  # of the new projector and of the batches
device = "cpu"  # "auto", "cpu", "cuda" or "mps"
pictures = 60  # scenes rendered for the live run, a fifth of them held out
live_steps = 32  # of the projector
live_rows = 4  # pictures a step

# %%
import copy
import math

import numpy as np
import torch
from IPython.display import Markdown
from torch import nn

import vlmlab
from vlmlab import figures, report, runtime, scenes, weights
from vlmlab.benchmarks import experiment
from vlmlab.benchmarks import experiment_results as results
from vlmlab.benchmarks import statistics as intervals
from vlmlab.checks import nb11 as check
from vlmlab.figures import experiment as diagrams
from vlmlab.figures import show, show_table
from vlmlab.files import read_json
from vlmlab.vlm import VLM, account, corpus, get_preset, recipes
from vlmlab.vlm.conversations import KINDS

runtime.seed_everything(seed)
cobra = vlmlab.load("cobra-tiny", device=device)
encoder, preprocess = weights.load_encoder("mambavision-tiny")  # chapter 10's
tokenizer = cobra.tokenizer


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    """The largest difference, relative to the largest value."""
    return float((one - other).detach().abs().max() / other.detach().abs().max())


# %% [markdown]
# ## 1. The proposal
#
# Cobra sees with two encoders and reads with a Mamba. The proposal takes the two out, puts one MambaVision in, and
# leaves the rest as it was. Two things make it attractive: an encoder that is trained on its own can be exchanged on
# its own, and what is frozen needs no gradient, no optimiser state and no second copy.
#
# ### Toy numbers: two ways to change
#
# A layer holds numbers of two kinds. **Parameters** are changed by an optimiser, unless `requires_grad` is off.
# **Buffers** are written by the layer itself. BatchNorm keeps a running mean $m$ and in training mode moves it at every
# forward pass, $m \leftarrow 0.9\,m + 0.1\,\bar x$. With $m = 0$ and two batches of mean 4, by hand:
# $0.1 \cdot 4 = 0.4$, then $0.9 \cdot 0.4 + 0.4 = 0.76$.

# %%
norm = nn.BatchNorm1d(1).requires_grad_(False)  # frozen, it seems
for _ in range(2):
    with torch.no_grad():  # not even a gradient
        norm(torch.tensor([[3.0], [5.0]]))
    print(f"running mean {norm.running_mean.item():.2f}")
assert math.isclose(norm.running_mean.item(), 0.76, rel_tol=1e-6)

# %% [markdown]
# Neither `requires_grad` nor `no_grad` stops it. Only evaluation mode does. Language models have LayerNorm or RMSNorm,
# which keep no statistics, and so do ViTs; whoever froze only those never met the problem. MambaVision's convolutions
# are full of BatchNorm.
#
# ### The exchange
#
# Take Cobra's language model as training left it, MambaVision as chapter 10 left it, and a projector drawn at random.


# %%
def swapped(preset="cobra-mambavision-tiny"):
    model = VLM.from_preset(preset, device, tokenizer, seed=seed)  # only its projector stays random
    model.vision.load_state_dict(encoder.state_dict())
    model.language.load_state_dict(cobra.language.state_dict())
    return model.eval()


model = swapped()
P = model.config.image_tokens
counts = {part: (sum(p.numel() for p in getattr(model, part).parameters()),
                 len(list(getattr(model, part).parameters())), len(list(getattr(model, part).buffers())))
          for part in ("vision", "projector", "language")}  # fmt: skip
table = [[part, f"{numbers:,}", *others] for part, (numbers, *others) in counts.items()]
show_table(["part", "parameters", "in tensors", "buffers"], table)
report.record("buffers of MambaVision", counts["vision"][2])

# %% [markdown]
# The whole model in four lines: the map of level 2 row by row, through the projector, before the embedded words.

# %%
scene = scenes.sample(seed, split="test", objects=3)
pixels = preprocess(scene.render(96).rgb)[None].to(model.device)  # (1, 3, 96, 96)
ids = torch.tensor([model.template.encode_prompt("What is in the picture?", tokenizer)]).to(model.device)  # (1, L)
with torch.no_grad():
    H_v = model.vision.features(pixels)[2].flatten(2).mT  # (1, C, 8, 8) -> (1, P, C)
    Z_v = model.projector(H_v)  # (1, P, D)
    sequence = torch.cat([Z_v, model.language.embed(ids[:, 1:])], 1)  # ids begin with the placeholder
    logits = model.language.head(model.language.hidden(inputs_embeds=sequence))  # (1, P + L - 1, V)
    gap = apart(logits, model(pixels, ids))
print(tuple(H_v.shape), "->", tuple(Z_v.shape), "->", tuple(logits.shape))
report.record("by hand against the package's model, relative difference", gap)
assert gap < 1e-5

# %% [markdown]
# ### Which tokens?
#
# A ViT has one grid. MambaVision has four maps (chapter 10), and two of them have a size that a language model can
# read: level 2, fine and narrow, and level 3, coarse and wide. *Both* gives each place of level 2 the token of level 3
# that lies over it, channels joined.

# %%
with torch.no_grad():
    fine, coarse = model.vision.features(pixels)[2:]  # (1, C, 8, 8) and (1, 2C, 4, 4)
    spread = coarse.repeat_interleave(2, 2).repeat_interleave(2, 3)  # every token four times
    joined = torch.cat([fine, spread], 1).flatten(2).mT  # (1, P, 3C)
    same = torch.equal(joined, swapped("cobra-mambavision-tiny-both").vision_features(pixels))
report.record("both levels joined by hand equal the package's", same)
assert same

# %%
LEVELS = {"level 2": "cobra-mambavision-tiny", "level 3": "cobra-mambavision-tiny-level3",
          "both": "cobra-mambavision-tiny-both"}  # fmt: skip
listed = {"cobra-tiny": "cobra-tiny", **LEVELS, "cobra-3b": "cobra-3b", "with MambaVision-L": "cobra-mambavision-l"}
table, cost = [], {}
for name, preset in listed.items():
    cost[name] = account(preset)
    config, parts = get_preset(preset), cost[name]["parameters"]
    flops = cost[name]["prefill"]["flops"]["vision"] / 1e6
    shown = [f"{parts['vision']:,}", f"{parts['projector']:,}", f"{flops:,.0f}"]
    table.append([name, config.image_tokens, config.feature_dim, *shown])
show_table(["", "tokens", "channels", "parameters: encoder", "projector", "encoder's MFLOPs a picture"], table)
report.record("tokens and channels", {row[0]: row[1:3] for row in table})

# %% [markdown]
# **One layer cannot stay.** "All other layers frozen", taken literally, includes the projector. Its first matrix has as
# many columns as Cobra's two encoders have channels together.


# %%
def fits(name):
    wide, old = get_preset(listed[name]).feature_dim, cobra.config.feature_dim
    return f"- {name}: {wide} channels for a projector that takes {old}: " + ("fits" if wide == old else "does not fit")


Markdown("\n".join(map(fits, LEVELS)))

# %% [markdown]
# Where the numbers happen to agree, the shapes fit and the meaning does not: the projector was trained on other
# channels. Section 2 measures what that is worth. So the least that has to train is a new projector, and this is what
# "frozen backbone" means from here on.
#
# ### What trains
#
# Three degrees. A freshly built model would train everything.

# %%
DEGREES = {"projector": ("projector",), "and encoder": ("projector", "vision"),
           "everything": ("projector", "vision", "language")}  # fmt: skip
whole = model.count_parameters()
rows, shares = [], []
for degree, trained in DEGREES.items():
    left = model.freeze().unfreeze(*trained).count_parameters(trainable=True)
    report.record(f"parameters that train, {degree}", left)
    shares.append(f"{left['total'] / whole['total']:.0%}")
    rows.append((degree, [(part, whole[part] // 1000, "trained" if part in trained else "frozen")
                          for part in ("vision", "projector", "language")]))  # fmt: skip
show(
    figures.blocks(rows, notes=shares, colours={"trained": figures.ORANGE, "frozen": "#DDDDDD"},
                   title="Thousands of parameters"),
    alt="Parameters that train: " + ", ".join(f"{d} {s}" for d, s in zip(DEGREES, shares, strict=True)) + ".",
)  # fmt: skip

# %% [markdown]
# Part of the encoder trains without effect: what lies behind the level that is read gets no gradient.

# %%
idle = [name for name, p in model.vision.named_parameters()
        if name.startswith(("levels.2.downsample", "levels.3", "norm"))]  # fmt: skip
idle_count = sum(dict(model.vision.named_parameters())[name].numel() for name in idle)
print(f"behind level 2: {idle_count:,} of {whole['vision']:,} parameters of the encoder")
report.record("parameters of the encoder behind level 2", idle_count)

# %% [markdown]
# ## 2. Live: the projector alone
#
# New scenes, described (dense captions, as in LLaVA's first stage: nearly every word depends on the picture). Pixels go
# in, so that the encoder runs at every step, as it would with changing crops. That is the case in which a frozen
# encoder can fail to be one.

# %%
train_scenes = [scenes.sample(70_000 + i) for i in range(pictures)]
rendered = np.stack([scene.render(96).rgb for scene in train_scenes])
data = corpus.build(train_scenes, tokenizer, model.template)
DESCRIBED = ("dense", "full", "short caption", "order")
only = tuple((kind, 0.0) for kind in KINDS if kind not in DESCRIBED)
how = corpus.Packing((), model.image_id, tokenizer.pad_id, P, per_scene=2, weights=only)
unseen = np.arange(pictures - pictures // 5, pictures)  # the last fifth
packed_unseen = corpus.pack(data, unseen, how, np.random.default_rng(seed))


# %%
def pixels_of(model, rows):
    return model.preprocess.batch(list(rendered[rows]))


def rows_of(step):
    return np.sort(np.random.default_rng([seed, step]).choice(unseen[0], live_rows, replace=False))


def loss_of(model, packed, pixels=None, features=None):
    return model(pixels, packed.ids, packed.labels, segments=packed.segment, image_features=features,
                 loss_only=True).loss  # fmt: skip


@torch.no_grad()
def on_unseen(model, features=None):  # features: H_v, where they do not come from the model's own encoder
    known = model.vision_features(pixels_of(model, unseen)) if features is None else features
    return loss_of(model.eval(), packed_unseen, features=known).item()


# %% [markdown]
# A copy of every tensor before the first step, buffers included. Then an ordinary loop, in training mode.

# %%
before = {name: value.clone() for name, value in model.state_dict().items()}
at_first = on_unseen(model)
model.freeze().unfreeze("projector").train()
optimiser = torch.optim.AdamW(model.projector.parameters(), lr=4e-3, betas=(0.9, 0.98))
losses = []
for step in range(live_steps):
    rows = rows_of(step)
    packed = corpus.pack(data, rows, how, np.random.default_rng([seed, step, 1]))
    loss = loss_of(model, packed, pixels_of(model, rows))
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.projector.parameters(), 1.0)
    optimiser.step()
    optimiser.zero_grad()
    losses.append(loss.item())

# %%
first, last = float(np.mean(losses[:5])), float(np.mean(losses[-5:]))
at_last = on_unseen(model)
show(
    figures.losses({"projector": losses}, smooth=0, ylabel="loss (nats a token)", height=2.5),
    alt=f"Loss over {live_steps} steps: the first five {first:.2f} in the mean, the last five {last:.2f}.",
    caption=f"On pictures outside the run: {at_first:.2f} before, {at_last:.2f} after.",
)
report.record("live: loss of the last five steps / first five", last / first)
report.record("live: loss on held-out pictures before and after", [at_first, at_last])

# %% [markdown]
# **Check: frozen to the bit.** Not "about the same": equal, every tensor of the state, running statistics included. And
# every tensor that should have moved did.

# %%
after, table, moved = model.state_dict(), [], {}
buffers = {name for name, _ in model.named_buffers()}
for part in ("vision", "language", "projector"):
    names = [name for name in before if name.startswith(f"{part}.")]
    moved[part] = [name for name in names if not torch.equal(before[name], after[name])]
    table.append([part, len(names), sum(name in buffers for name in names), len(moved[part])])
show_table(["part", "tensors", "buffers among them", "changed"], table)
report.record("tensors that the live run changed", {part: len(names) for part, names in moved.items()})
assert not moved["vision"]
assert not moved["language"]
assert len(moved["projector"]) == table[-1][1]

# %% [markdown]
# The loop called `model.train()`, and the statistics stood still all the same: the package's `MambaVision` leaves a
# BatchNorm whose weights are frozen in evaluation mode. PyTorch by itself does not.
#
# ### The same without that care
#
# A common way to "freeze" an encoder is to leave it out of the optimiser. Here is a copy that is frozen in this way,
# and run under `no_grad` on top. It sees the pictures of the same steps.

# %%
loose = copy.deepcopy(model)
loose.vision.requires_grad_(True)  # the package takes it for one that trains
watched = pixels_of(model, unseen)
with torch.no_grad():
    reference, drift = model.vision_features(watched), [0.0]  # (pictures, P, C)
    for step in range(live_steps):
        loose.vision.train()
        loose.vision_features(pixels_of(model, rows_of(step)))
        loose.vision.eval()
        drift.append(apart(loose.vision_features(watched), reference))

# %%
show(
    figures.losses(
        {"only left out of the optimiser": drift, "frozen": [0.0] * len(drift)}, smooth=0, height=2.5,
        ylabel="change of the tokens", title="Tokens of held-out pictures, relative to the largest",
    ),
    alt=f"Change of the tokens over the steps: {drift[-1]:.1%} after {live_steps} steps where the statistics run on, "
    "none where the encoder is frozen.",
)  # fmt: skip
report.record("tokens' change after the run, statistics left to move", drift[-1])

# %%
loose_state = {name: value.clone() for name, value in loose.state_dict().items()}
parameters_same = all(torch.equal(p, before[f"vision.{name}"]) for name, p in loose.vision.named_parameters())
kept = [name for name in before if name.startswith("vision.") and name in buffers]
gone = sum(not torch.equal(loose_state[name], before[name]) for name in kept)
with torch.no_grad():
    loose.vision.train()
    alone, among = loose.vision_features(watched[:1]), loose.vision_features(watched)[:1]
company = apart(alone, among)
loose.load_state_dict(loose_state)  # as it was before this look
with_drift = on_unseen(loose)
report.record("loss on held-out pictures, projector trained, statistics moved", with_drift)

# %%
Markdown(
    f"All parameters of the copy are {'the same' if parameters_same else 'not the same'} to the bit, and {gone} of "
    f"{len(kept)} buffers have changed. The projector was trained on the tokens of the frozen encoder; with the "
    f"copy's tokens its loss on held-out pictures is {with_drift:.3f} instead of {at_last:.3f} "
    f"({with_drift - at_last:+.3f}). In training mode, moreover, a picture's tokens depend on its company: the same "
    f"picture alone and among {len(watched)} differs by {company:.0%} of the largest value."
)

# %% [markdown]
# Moving statistics towards new data is not always harm; there are methods that do only that. The harm is that nobody
# decided it: the run does not save what it believes to be frozen, and another batch size gives another model. A
# description "encoder frozen" is then not true. When the encoder *trains* (the middle degree), its statistics train too
# and are saved with it.
#
# ### What the loss is worth
#
# The same held-out descriptions under five conditions. *Old projector*: level 3 through the projector that Cobra's own
# encoders have, whose shape fits if the channels agree. *Shuffled*: each picture gets the tokens of another one, so
# that the words are all that is right.

# %%
marks = {"cobra-tiny as it is": on_unseen(cobra), "new projector, untrained": at_first,
         f"new projector, {live_steps} steps": at_last}  # fmt: skip
with torch.no_grad():
    seen = model.vision_features(watched)
    marks["the same, pictures shuffled"] = on_unseen(model, seen.roll(1, 0))
    level3 = swapped(LEVELS["level 3"])
    if level3.config.feature_dim == cobra.config.feature_dim:
        level3.projector = cobra.projector
        packing3 = corpus.Packing((), model.image_id, tokenizer.pad_id, level3.config.image_tokens, 2, weights=only)
        packed3 = corpus.pack(data, unseen, packing3, np.random.default_rng(seed))
        marks["level 3, old projector"] = loss_of(level3, packed3, watched).item()
show(
    figures.bars(list(marks), {"loss": list(marks.values())}, xlabel="nats a token"),
    alt="Loss on held-out descriptions: " + ", ".join(f"{name} {value:.2f}" for name, value in marks.items()) + ".",
)
report.record("loss on held-out descriptions", marks)

# %%
uses = marks["the same, pictures shuffled"] - at_last
Markdown(
    f"After {live_steps} steps the right pictures are worth {uses:+.3f} nats a token against shuffled ones. "
    + ("The projector has begun to say what is seen. " if uses > 0.02 else
       "So far the projector has learnt little about the pictures; what fell is the harm that its noise did. ")
    + f"cobra-tiny as it is stands at {marks['cobra-tiny as it is']:.2f}. These are {len(unseen)} pictures, without an "
    "interval."
)  # fmt: skip

# %% [markdown]
# ## 3. The shipped runs: three degrees, three sets of tokens
#
# With `profile = "full"` the next cell trains them again; it goes on where it was stopped.

# %%
SWAP = "cobra-mambavision-tiny"
RUNS = {
    "cobra-tiny": "cobra-tiny", f"{SWAP}-level3": "level 3, projector", f"{SWAP}-both": "both, projector",
    f"{SWAP}-projector": "level 2, projector", SWAP: "level 2, and encoder too",
    f"{SWAP}-everything": "level 2, everything",
}  # fmt: skip
if profile == "full":
    for name in RUNS:
        recipes.run(name, resume=True)


# %%
def record_of(name):  # of shipped weights under "files"; of runs whose weights do not ship under "runs"
    listing = weights.manifest()
    return listing["files"].get(f"checkpoints/{name}.safetensors") or listing.get("runs", {}).get(name)


def behind(name):  # steps with MambaVision behind cobra-tiny's language model, those of earlier runs included
    recipe = record_of(name)["recipe"]["data"]
    earlier = [need for need in recipe["needs"] if need.startswith(SWAP)]
    return record_of(name)["cost"]["steps"] + sum(behind(need) for need in earlier if record_of(need))


measured = weights.manifest()["results"]
names = [name for name in RUNS if name in measured and record_of(name)]
for name in [name for name in RUNS if name not in names]:
    print(f"the manifest holds no {name} yet; it is left out")

# %%
table = []
for name in names:
    record = record_of(name)
    parts, swap = record["recipe"]["data"]["parts"], name != "cobra-tiny"
    table.append([RUNS[name], ", ".join(parts), record["cost"]["steps"], behind(name) if swap else "",
                  round(record["cost"]["seconds"] / 60), record["recipe"]["seed"]])  # fmt: skip
show_table(["run", "trains", "steps", "with MambaVision in all", "minutes", "seed"], table, "from data/manifest.json")
report.record("steps behind the exchange", {name: behind(name) for name in names if name != "cobra-tiny"})

# %% [markdown]
# Mind the fourth column. The degrees follow each other: the encoder trains from where the projector's run ended, and
# everything from there as well. So a later degree has had more steps, too, and these runs cannot tell more *parts* from
# more *time*. The three sets of tokens can be compared: same parts, same steps, same seed.
#
# **Check.** Were the shipped parts frozen? The manifest says what each run trained; all other tensors must be those of
# `cobra-tiny` and `mambavision-tiny`.

# %%
if SWAP in names:
    shipped = vlmlab.load(SWAP, device=device)
    trained = record_of(SWAP)["recipe"]["data"]["parts"]
    source = {"vision": encoder.state_dict(), "language": cobra.language.state_dict()}
    for part, tensors in source.items():
        found = getattr(shipped, part).state_dict()
        equal = sum(torch.equal(value, tensors[name]) for name, value in found.items())
        print(f"{part}: {'trained' if part in trained else 'frozen'}, {equal} of {len(found)} tensors are the source's")
        report.record(f"{SWAP}: tensors of {part} that are the source's", f"{equal} of {len(found)}")
        assert part in trained or equal == len(found)

# %%
logs = {name: read_json(runtime.data_dir() / record_of(name)["log"]) for name in names if name != "cobra-tiny"}
ends = {RUNS[name]: float(np.mean([line["loss"] for line in log[-10:]])) for name, log in logs.items()}
if logs:
    curves = {name: ([line["step"] for line in log], [line["loss"] for line in log]) for name, log in logs.items()}
    show(
        figures.losses({RUNS[name]: curve for name, curve in curves.items()}, ylabel="loss (nats a token)", log=True,
                       title="The shipped runs"),
        alt="Loss over the steps; at the end " + ", ".join(f"{name} {end:.3f}" for name, end in ends.items()) + ".",
        caption="After a quarter of the steps the data change: until then, worksheets only.",
    )  # fmt: skip
    report.record("shipped runs: loss of the last ten lines", ends)

# %% [markdown]
# ### Held-out accuracy

# %%
from vlmlab.scenes.questions import TYPES

tables = {name: measured[name]["scenes/sentence"]["by_type"] for name in names}
kinds = [kind for kind in ("all", *TYPES) if all(kind in found for found in tables.values())]
stages = [name for name in names if name == "cobra-tiny" or name not in (f"{SWAP}-level3", f"{SWAP}-both")]
show(
    figures.bars(
        kinds, {RUNS[name]: [tables[name][kind]["accuracy"] for kind in kinds] for name in stages},
        intervals={RUNS[name]: [(tables[name][k]["low"], tables[name][k]["high"]) for k in kinds] for name in stages},
        baselines={"chance": [tables[names[0]][kind]["chance"] for kind in kinds],
                   f"{RUNS[names[0]]} blind": [tables[names[0]][kind]["blind"] for kind in kinds]},
        percent=True, limits=(0, 1.15),
    ),
    alt="Accuracy by type and degree. Over all questions: "
    + ", ".join(f"{RUNS[name]} {tables[name]['all']['accuracy']:.1%}" for name in stages) + ".",
)  # fmt: skip
for name in names:
    row = tables[name]["all"]
    report.record(f"{name}, all questions", {key: row[key] for key in ("n", "accuracy", "low", "high", "blind")})

# %% [markdown]
# Differences with Newcombe's interval (chapter 09). The manifest keeps accuracies and not single answers, so the models
# count as if they had been asked different questions; the true intervals are narrower. And all of it is one run each.


# %%
def newcombe(first, second):
    p, q = first["accuracy"], second["accuracy"]
    low = p - q - math.hypot(p - first["low"], second["high"] - q)
    return p - q, low, p - q + math.hypot(first["high"] - p, q - second["low"])


PAIRS = [(f"{SWAP}-level3", f"{SWAP}-projector"), (f"{SWAP}-both", f"{SWAP}-projector"), (SWAP, f"{SWAP}-projector"),
         (f"{SWAP}-everything", SWAP), (SWAP, "cobra-tiny"), (f"{SWAP}-everything", "cobra-tiny")]  # fmt: skip
gaps = {(a, b): {kind: newcombe(tables[a][kind], tables[b][kind]) for kind in kinds}
        for a, b in PAIRS if a in names and b in names}  # fmt: skip


def told(value, low, high, one, other):
    side = f"{one} is ahead of {other}" if low > 0 else f"{one} is behind {other}" if high < 0 else \
        f"{one} and {other} cannot be told apart"  # fmt: skip
    return f"{side} ({100 * value:+.1f} points, {100 * low:+.1f} to {100 * high:+.1f})"


# %%
for title, chosen in {"Tokens": PAIRS[:2], "Degrees": PAIRS[2:4], "Against Cobra": PAIRS[4:]}.items():
    panels = {f"{RUNS[a]} − {RUNS[b]}": list(gaps[a, b].values()) for a, b in chosen if (a, b) in gaps}
    if panels:
        show(
            diagrams.contrasts(kinds, panels, title=title),
            alt=f"{title}, differences by type with 95 % intervals. All questions: "
            + "; ".join(f"{name} {100 * rows[0][0]:+.1f} points" for name, rows in panels.items()) + ".",
            caption="Filled: the interval leaves zero out. One row in twenty would by chance alone.",
        )  # fmt: skip
for (a, b), rows in gaps.items():
    report.record(f"{a} minus {b}, all questions: difference and 95 % interval", list(rows["all"]))

# %%
Markdown("Over all questions: " + "; ".join(
    told(*gaps[a, b]["all"], RUNS[a], RUNS[b]) for a, b in gaps
) + "." if gaps else "There is nothing to compare yet.")  # fmt: skip

# %% [markdown]
# ## 4. Six cells
#
# Those runs answer "what became of this proposal?", once. They do not answer "is MambaVision the better encoder?":
# `cobra-tiny` had other encoders, other steps and another start. A fair comparison changes one thing at a time:
#
# | | CLIP | DINOv2 + SigLIP | MambaVision |
# |---|---|---|---|
# | **Llama** | LLaVA's parts | | |
# | **Mamba** | | Cobra's parts | the proposal's parts |
#
# All six get the same pictures in the same order, the same conversations, tokenizer, projector (LLaVA-1.5's), number of
# steps and image tokens. The encoder is frozen; projector and language model train, each from its own pretraining. Each
# cell is trained from several seeds. Then all answer one exam: eight categories of questions, each about a scene of its
# own, and pairs of twins.

# %%
found = results.shipped()
if profile == "full":
    settings = found["settings"]
    counts = [settings["steps"], settings["seeds"], found["exam"]["questions"], found["exam"]["pairs"]]
    plan = experiment.Plan(*counts, changes=tuple(settings["changes"].items()))
    experiment.run(plan)
    found = results.collect(plan, found["speed"])
TITLES, exam, cells = results.TITLES, found["exam"], found["cells"]
settings = found["settings"]
show_table(["what", ""], [
    ["steps of a run", settings["steps"]], ["runs a cell", settings["seeds"]], ["rows a step", settings["batch"]],
    ["trained", ", ".join(settings["trained"])], ["questions a category", exam["questions"]],
    ["pairs of each kind of twins", exam["pairs"]], ["runs in all", len(found["runs"])],
], "data/experiments/encoders-by-backbones.json")  # fmt: skip
report.record("experiment: settings", {key: settings[key] for key in ("steps", "seeds", "batch")})

# %% [markdown]
# **What the seeds cover, and what not.** A seed decides the projector's first weights and the order of the data, so the
# spread over seeds is the luck of *this* stage. Encoders and language models were pretrained once each: another CLIP
# might have come out better. So "MambaVision" means here *this* MambaVision with *its* pretraining (chapter 10: labels,
# where CLIP had captions), and the interval does not cover that.
#
# ### Accuracy by category

# %%
labels = {cell: tuple(TITLES[part] for part in cell.split("-")) for cell in cells}


def baseline(row, which):  # mean over the parts that a row joins
    joined = {"spatial": results.SPATIAL, "twins": [part for part in exam["parts"] if part.startswith("twins")]}
    return float(np.mean([exam["parts"][part][which] for part in joined.get(row, [row])]))


def percents(value):
    return f"{100 * value['mean']:.1f} ({100 * value['low']:.0f} to {100 * value['high']:.0f})"


table = []
for row in results.ROWS:
    values = [cell["accuracy"][row] for cell in cells.values()]
    blind = float(np.mean([value["blind"] for value in values]))
    others = [blind, baseline(row, "constant"), baseline(row, "chance")]
    table.append([row, *map(percents, values), *(f"{100 * share:.1f}" for share in others)])
show_table(["%", *(" + ".join(labels[cell]) for cell in cells), "blind", "constant", "chance"], table,
           "mean over seeds, 95 % interval over seeds and questions")  # fmt: skip
for cell, each in cells.items():
    report.record(f"{cell}: accuracy by category", {row: each["accuracy"][row]["mean"] for row in results.ROWS})

# %%
order = sorted(cells, key=lambda cell: list(experiment.ENCODERS).index(cell.split("-")[0]))
show(
    diagrams.cells(
        results.ROWS, {labels[cell]: [cells[cell]["accuracy"][row] for row in results.ROWS] for cell in order},
        baselines={
            "chance": [baseline(row, "chance") for row in results.ROWS],
            "blind": [float(np.mean([c["accuracy"][row]["blind"] for c in cells.values()])) for row in results.ROWS],
        },
    ),
    alt="Accuracy of six cells by category, with intervals and single seeds. Spatial questions: "
    + ", ".join(f"{' + '.join(labels[c])} {cells[c]['accuracy']['spatial']['mean']:.0%}" for c in order) + ".",
    caption="spatial: the four categories of relations together; twins: both questions of a pair right.",
)  # fmt: skip

# %% [markdown]
# First look at the blind marks: a category in which a cell is no better than its blind self says nothing about eyes.

# %%
clear = {row: sum(cell["accuracy"][row]["low"] > max(cell["accuracy"][row]["blind"], baseline(row, "constant"))
                  for cell in cells.values()) for row in results.ROWS}  # fmt: skip
silent = [row for row, count in clear.items() if count == 0]
Markdown(
    "Cells whose interval lies above the blind answers and above the best constant answer: "
    + ", ".join(f"{row} {count} of {len(cells)}" for row, count in clear.items()) + ". "
    + (f"In **{', '.join(silent)}** none does; differences there are differences between guesses." if silent
       else "In every category at least one cell uses its picture.")
)  # fmt: skip

# %% [markdown]
# ### Toy numbers: three seeds
#
# Three runs score 60, 64 and 68. Their mean is 64, their standard deviation $s = 4$, the mean's standard error
# $4/\sqrt3 = 2.31$. But $s$ was estimated from three numbers and may well be far too small. Student's t accounts for
# that: with 2 degrees of freedom the 95 % interval reaches 4.30 standard errors to either side, not 1.96.

# %%
from scipy.stats import t as student

toy = np.array([60.0, 64.0, 68.0])
error = toy.std(ddof=1) / math.sqrt(len(toy))
for runs in (3, 5, 10, 30):
    reach = student.ppf(0.975, runs - 1)
    print(f"{runs:>2} seeds of the same spread: ± {reach * 4 / math.sqrt(runs):4.1f} points (t = {reach:.2f})")
assert math.isclose(student.ppf(0.975, 2) * error, 9.94, abs_tol=0.01)

# %% [markdown]
# ### Two sources
#
# A score varies because another seed is another model, and because other questions are other questions. Both count. For
# a difference, the questions are shared: with $\bar x_{qc}$ the mean over the runs of cell $c$ at question $q$, and
# $g_q = \bar x_{q1} - \bar x_{q2}$,
#
# $$s^2 = \frac{\operatorname{var}_q(g_q)}{Q} + \sum_{c} \frac{\operatorname{var}_s(\bar x_{sc})}{S}
# - \text{what is in both}.$$
#
# Where does the uncertainty come from here?

# %%
pair = ("mambavision-mamba", "fused-mamba")  # the proposal's parts and Cobra's
first, second = (results.marks(found, cell, "spatial") for cell in pair)  # (S, Q) each
of_questions = (first.mean(0) - second.mean(0)).var(ddof=1) / first.shape[1]
of_seeds = sum(runs.mean(1).var(ddof=1) / len(runs) for runs in (first, second)) if len(first) > 1 else 0.0
package = intervals.contrast([1, -1], [first, second])
print(f"{first.shape[0]} runs, {first.shape[1]} questions: difference {package['difference']:+.3f}")
print(f"standard error of questions {of_questions**0.5:.4f}, of seeds {of_seeds**0.5:.4f}, of both {package['se']:.4f}")
assert package["se"] <= math.sqrt(of_questions + of_seeds) + 1e-12
share = of_seeds / (of_questions + of_seeds)
report.record("share of the seeds in the variance of a spatial difference", share)

# %%
reach = (package["high"] - package["low"]) / 2
Markdown(
    f"Seeds make {share:.0%} of that variance, questions {1 - share:.0%}. The interval has {package['df']:.1f} degrees "
    f"of freedom and reaches ± {100 * reach:.1f} points. To narrow it, "
    + ("train more seeds; more questions would help less." if share > 0.5 else
       "ask more questions; more seeds would help less.")
)  # fmt: skip

# %% [markdown]
# ### Contrasts
#
# Encoders are compared averaged over both backbones, and backbones averaged over the three encoders. That is
# legitimate as long as one asks about the average; within a backbone the table below has them one by one. There are
# many differences, so some will look clear by chance. **Holm's correction**: sort the p-values, multiply the smallest
# by the number of all, the next by one less, and so on, and never let one fall below the one before it. For 0.01, 0.04,
# 0.03 by hand: $3 \cdot 0.01 = 0.03$, $2 \cdot 0.03 = 0.06$, and $1 \cdot 0.04$, which is raised to 0.06.

# %%
assert np.allclose(intervals.holm([0.01, 0.04, 0.03]), [0.03, 0.06, 0.06])
averaged = [each for each in found["contrasts"] if not each["within"] and each["kind"] != "cell"]
panels = {f"{TITLES[c['first']]} − {TITLES[c['second']]}": c["rows"] for c in averaged}
show(
    diagrams.contrasts(
        results.ROWS,
        {name: [tuple(rows[r][k] for k in ("difference", "low", "high")) for r in results.ROWS]
         for name, rows in panels.items()},
        sure={name: [rows[r].get("holm", 1) < 0.05 for r in results.ROWS] for name, rows in panels.items()},
    ),
    alt="Differences between encoders and between backbones by category, with 95 % intervals. Clear after Holm's "
    "correction: " + ("; ".join(f"{name}: {row}" for name, rows in panels.items() for row, values in rows.items()
                                if values.get("holm", 1) < 0.05) or "none") + ".",
    caption="Filled: below 0.05 after Holm's correction over all categories of all panels (spatial and twins sum up "
    "others and are not part of it).",
)  # fmt: skip

# %%
table = []
for name, rows in panels.items():
    for row, values in rows.items():
        span = f"{100 * values['low']:+.1f} to {100 * values['high']:+.1f}"
        corrected = f"{values['holm']:.2g}" if "holm" in values else ""
        table.append([name, row, f"{100 * values['difference']:+.1f}", span, f"{values['p']:.2g}", corrected])
uncorrected = sum(values["p"] < 0.05 for rows in panels.values() for values in rows.values() if "holm" in values)
kept = sum(values.get("holm", 1) < 0.05 for rows in panels.values() for values in rows.values())
family = sum("holm" in values for rows in panels.values() for values in rows.values())
show_table(["points", "category", "difference", "95 % interval", "p", "p after Holm"], table)
report.record("averaged contrasts: all, p < 0.05, the same after Holm", [family, uncorrected, kept])
print(f"of {family} differences {uncorrected} have p < 0.05; without any effect about {0.05 * family:.1f} would. "
      f"After Holm's correction {kept} are left.")  # fmt: skip

# %%
within = [each for each in found["contrasts"] if each["within"] or each["kind"] == "cell"]
table = []
for each in within:
    values = [each["rows"][row] for row in ("spatial", "twins")]
    where = f"behind {TITLES[each['within']]}" if each["kind"] == "encoder" else f"with {TITLES[each['within']]}" \
        if each["within"] else "both parts differ"  # fmt: skip
    sides = [" + ".join(TITLES[p] for p in side.split("-")) for side in (each["first"], each["second"])]
    points = [[100 * v[key] for key in ("difference", "low", "high")] for v in values]
    table.append([" − ".join(sides), where, *(f"{d:+.1f} ({low:+.1f} to {high:+.1f})" for d, low, high in points)])
show_table(["difference", "", "spatial", "twins"], table, "single comparisons, points, without correction")

# %% [markdown]
# ### Twins
#
# A twin pair is one question about two scenes that differ in one way (mirrored, two objects exchanged, one relation
# turned round), with different answers. Whoever answers from the words alone gets exactly one of the two right. If the
# two answers were independent draws with accuracy $p$, both would be right in $p^2$ of the pairs.

# %%
from vlmlab.benchmarks.categories import read_marks

kinds_of_twin = [part for part in exam["parts"] if part.startswith("twins")]
table, joint = [], {}
for cell in order:
    texts = [run["right"] for run in found["runs"].values() if f"{run['encoder']}-{run['backbone']}" == cell]
    wheres = [slice(exam["parts"][part]["start"], exam["parts"][part]["stop"]) for part in kinds_of_twin]
    single = float(np.concatenate([read_marks(texts, where) for where in wheres], 1).mean())
    joint[cell] = (single, cells[cell]["accuracy"]["twins"]["mean"])
    by_kind = [percents(cells[cell]["accuracy"][part]) for part in kinds_of_twin]
    table.append([" + ".join(labels[cell]), f"{100 * single:.1f}", f"{100 * single**2:.1f}",
                  percents(cells[cell]["accuracy"]["twins"]), *by_kind])  # fmt: skip
show_table(["%", "single answers", "p²", "both right", *(part.split("/")[1] for part in kinds_of_twin)], table)
report.record("twins: single and pair accuracy", {cell: list(values) for cell, values in joint.items()})

# %%
below = [cell for cell, (p, _) in joint.items() if cells[cell]["accuracy"]["twins"]["high"] < p * p]
above = [cell for cell, (p, _) in joint.items() if cells[cell]["accuracy"]["twins"]["low"] > p * p]
Markdown(
    f"Independent answers would give p². Clearly fewer pairs (the whole interval): {len(below)} of {len(joint)} cells"
    + (", which is what leaning on the words looks like, the same answer to both twins" if below else "")
    + f". Clearly more: {len(above)}"
    + (", where some scenes are easy as a whole and others hard" if above else "") + ". "
    + f"Guessing gets {100 * baseline('twins', 'chance'):.0f} %, a constant answer {baseline('twins', 'constant'):.0f}."
)  # fmt: skip

# %% [markdown]
# ### What it costs
#
# Measured by `vlmlab bench answering`: random weights, one picture, a question, 32 new tokens (peak memory: a batch).

# %%
speed = found["speed"]
presets = {cell: f"{cell}-tiny" for cell in order}
tokens = {cell: speed["token_ms"][preset] * (speed["new_tokens"] - 1) for cell, preset in presets.items()}
show(
    diagrams.stacked(
        [" + ".join(labels[cell]) for cell in order],
        {"encode the picture": [speed["encode_ms"][p] for p in presets.values()],
         "read it, first token": [speed["prefill_ms"][p] for p in presets.values()],
         f"{speed['new_tokens'] - 1} more tokens": list(tokens.values())},
        xlabel=f"milliseconds an answer, {speed['cores']} cores",
    ),
    alt="Milliseconds of an answer by part: " + ", ".join(
        f"{' + '.join(labels[c])} {speed['encode_ms'][p] + speed['prefill_ms'][p] + tokens[c]:.0f}"
        for c, p in presets.items()) + ".",
)  # fmt: skip
columns = ["", "tokens a second", "parameters", "minutes of training a run"]
table = [[" + ".join(labels[c]), round(speed["tokens_per_second"][p]), f"{cells[c]['parameters']['total']:,}",
          round(cells[c]["seconds"]["training"] / 60, 1)] for c, p in presets.items()]  # fmt: skip
if "peak_bytes" in speed:
    columns.append("peak MB beside the weights")
    table = [[*row, round(speed["peak_bytes"][p] / 1e6)] for row, p in zip(table, presets.values(), strict=True)]
show_table(columns, table)
report.record("tokens a second", {cell: speed["tokens_per_second"][p] for cell, p in presets.items()})

# %%
spent = found["cost"]
before_that = ", ".join(f"{name} {seconds / 60:.0f} min" for name, seconds in spent["pretraining_seconds"].items())
Markdown(
    f"The experiment: {spent['runs']} runs, {spent['training_seconds'] / 3600:.1f} hours of training and "
    f"{spent['asking_seconds'] / 3600:.1f} of asking, on {', '.join(spent['devices'])}. "
    + (f"Before it, pretraining that the runs share: {before_that}." if before_that else "")
)  # fmt: skip

# %% [markdown]
# ### What the numbers support, and what not
#
# Written by the program from the numbers above; the last lines hold whatever the numbers are.

# %%
report.record("findings", found["findings"])
Markdown("\n".join(f"- {sentence}" for sentence in found["findings"]))

# %% [markdown]
# ## 5. Does the expectation hold?
#
# The brief expects of Cobra with MambaVision that it reasons better about space, and that it is cheaper. Better than
# what? Two readings: than LLaVA (both parts differ) and than Cobra (the encoder differs).


# %%
def verdict(values):
    return "holds" if values["low"] > 0 else "fails" if values["high"] < 0 else "is undecided"


RIVALS = {
    "LLaVA's parts": ("clip-llama", results.find(found, "mambavision-mamba", "clip-llama")),
    "Cobra's parts": ("fused-mamba", results.find(found, "mambavision", "fused", "mamba")),
}
space = ("spatial", *results.SPATIAL, "twins")
table, sentences = [], []
for name, (_, each) in RIVALS.items():
    for row in space if each else ():
        v = each["rows"][row]
        span = f"{100 * v['low']:+.1f} to {100 * v['high']:+.1f}"
        table.append([name, row, f"{100 * v['difference']:+.1f}", span, verdict(v).removeprefix("is ")])
show_table(
    ["against", "questions", "points", "95 % interval", "better?"], table, "without correction for looking often"
)

# %%
for name, (_, each) in RIVALS.items():
    if each:
        v = each["rows"]["spatial"]
        half = 50 * (v["high"] - v["low"])
        report.record(f"expectation: better at space than {name}", verdict(v))
        sentences.append(
            f"**Space, against {name}: the expectation {verdict(v)}.** {100 * v['difference']:+.1f} points on all "
            f"spatial questions ({100 * v['low']:+.1f} to {100 * v['high']:+.1f}). The interval reaches {half:.0f} "
            "points to either side: about every second experiment of this size would find a true difference that "
            "large, and fewer a smaller one."
        )


# %%
COSTS = {"encode_ms": "time to encode a picture", "answer_ms": "time of an answer", "peak_bytes": "peak memory"}
for name, (rival, _) in RIVALS.items():
    mine, theirs = "mambavision-mamba-tiny", f"{rival}-tiny"
    ratios = {what: speed[key][mine] / speed[key][theirs] for key, what in COSTS.items() if key in speed}
    ratios["parameters"] = cells["mambavision-mamba"]["parameters"]["total"] / cells[rival]["parameters"]["total"]
    ratio = ratios["time of an answer"]  # without interval: within 5 % counts as equal
    cheaper = "holds" if ratio < 0.95 else "fails" if ratio > 1.05 else "is undecided, they are within 5 %"
    report.record(f"expectation: an answer takes less time than with {name}", cheaper)
    report.record(f"costs relative to {name}", ratios)
    sentences.append(
        f'**Cost, against {name}: "cheaper", taken as the time of an answer on this CPU, {cheaper}.** Relative to '
        f"theirs: {', '.join(f'{what} {value:.2f}' for what, value in ratios.items())}."
    )

# %%
key = (SWAP, "cobra-tiny")
relation = next((kind for kind in ("relation", "all") if key in gaps and kind in gaps[key]), None)
if relation:
    sentences.append(
        f"**The shipped model, one run**, questions of type \"{relation}\": "
        + told(*gaps[key][relation], SWAP, "cobra-tiny") + "."
    )  # fmt: skip
Markdown("\n\n".join(sentences))

# %% [markdown]
# A tiny model on rendered scenes can neither confirm nor refute a claim about models of billions of parameters. What it
# can do is show what testing that claim takes: the same data, several seeds, twins, blind answers, an interval around
# each difference, and the sentence "an effect smaller than this would have been missed". At the paper's size the cost
# can be counted without a GPU:

# %%
big, own = cost["cobra-3b"], cost["with MambaVision-L"]
ratios = {
    "parameters of the encoder": own["parameters"]["vision"] / big["parameters"]["vision"],
    "work to encode a picture": own["prefill"]["flops"]["vision"] / big["prefill"]["flops"]["vision"],
    "image tokens": own["image_tokens"] / big["image_tokens"],
    "parameters of the whole": own["parameters"]["total"] / big["parameters"]["total"],
    "work of a prefill": own["prefill"]["flops"]["total"] / big["prefill"]["flops"]["total"],
    "work of a token": own["decode_flops"] / big["decode_flops"],
}
show(
    figures.bars(list(ratios), {"ratio": list(ratios.values())}, baselines={"as much": 1.0}, xlabel="Cobra-3B = 1"),
    alt="Cobra with MambaVision-L at 448 pixels, relative to Cobra-3B: "
    + ", ".join(f"{name} {ratio:.2f}" for name, ratio in ratios.items())
    + ".",
    caption="Counted from shapes, not measured; MambaVision-L at 448 px, Cobra-3B at 384 px.",
)
report.record("Cobra with MambaVision-L / Cobra-3B", ratios)

# %% [markdown]
# ## Exercises
#
# Replace each `...` by your own lines. A check says what is right or which mistake it looks like; until you begin, it
# says "not yet".
#
# ### Exercise 1 · Frozen to the bit (medium, 15 minutes)
#
# Take the part `prefix` of `model` out of training, so that no tensor of it changes any more: parameters and running
# statistics. Names look like `vision.0.weight`; beware of a part called `vision_adapter`. The model is in training mode
# when you get it, and the other parts must go on training, their statistics too.


# %%
def freeze(model: nn.Module, prefix: str) -> None:
    return ...  # your code here, and no return


check.freeze(freeze)

# %% [markdown]
# <details><summary>Hint</summary>
#
# `model.get_submodule(prefix)` needs no comparison of names. What two calls does a module need?
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def freeze(model, prefix):
#     part = model.get_submodule(prefix)
#     part.requires_grad_(False)
#     part.eval()  # a later model.train() undoes this line
# ```
#
# </details>
#
# ### Exercise 2 · What trains? (easy, 5 minutes)
#
# Return a dict with one count for each of `model.named_children()`: the numbers that train. A tied tensor counts once.


# %%
def trainable(model: nn.Module) -> dict[str, int]:
    return ...  # your code here


check.trainable(trainable)

# %% [markdown]
# <details><summary>Hint</summary>
#
# `part.parameters()` leaves buffers out and gives a tied parameter once. `requires_grad`, `numel()`.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def trainable(model):
#     return {
#         name: sum(p.numel() for p in part.parameters() if p.requires_grad)
#         for name, part in model.named_children()
#     }
# ```
#
# </details>
#
# ### Exercise 3 · Both twins (easy, 5 minutes)
#
# `right` is a text of "1" for each right and "0" for each wrong answer; answers 0 and 1 belong to one pair, 2 and 3 to
# the next. Return the share of pairs with both right.


# %%
def pair_accuracy(right: str) -> float:
    return ...  # your code here


check.pair_accuracy(pair_accuracy)

# %% [markdown]
# <details><summary>Hint</summary>
#
# `zip(right[::2], right[1::2])` gives the pairs.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def pair_accuracy(right):
#     pairs = list(zip(right[::2], right[1::2]))
#     return sum(pair == ("1", "1") for pair in pairs) / len(pairs)
# ```
#
# </details>
#
# ### Exercise 4 · Why three seeds give wide intervals (easy, 10 minutes)
#
# `scores` are the accuracies of a few runs. Return half of the width of the 95 % interval of their mean, seeds alone.
# Try it on three and on five runs of the same spread.


# %%
def half_width(scores: list[float]) -> float:
    return ...  # your code here


check.half_width(half_width)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Section 4, "three seeds". `from scipy.stats import t`; `t.ppf(0.975, degrees of freedom)`.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def half_width(scores):
#     from scipy.stats import t
#
#     n = len(scores)
#     return float(t.ppf(0.975, n - 1)) * float(np.std(scores, ddof=1)) / n**0.5
# ```
#
# </details>
#
# ### Exercise 5 · Seeds and questions (harder, 20 minutes)
#
# `first` and `second` are arrays (S, Q) of right and wrong answers, S runs of each of two models to the same Q
# questions. Return (d, s): the difference of their accuracies, first minus second, and its standard error from both
# sources, as in section 4 without the last term.


# %%
def seeds_and_questions(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    return ...  # your code here


check.seeds_and_questions(seeds_and_questions)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Three variances, each with `ddof=1`: of the questions' differences (average over runs first), divided by Q; of each
# model's run means, divided by S.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def seeds_and_questions(first, second):
#     gaps = first.mean(0) - second.mean(0)
#     variance = gaps.var(ddof=1) / len(gaps)
#     for runs in (first, second):
#         variance += runs.mean(1).var(ddof=1) / len(runs)
#     return float(gaps.mean()), float(variance**0.5)
# ```
#
# Try it on `results.marks(found, "mambavision-mamba", "spatial")` and another cell.
#
# </details>
#
# ### Exercise 6 · Holm's correction (medium, 15 minutes)
#
# Return the corrected p-values, in the order in which they came.


# %%
def holm(p: list[float]) -> list[float]:
    return ...  # your code here


check.holm(holm)

# %% [markdown]
# <details><summary>Hint</summary>
#
# `order = np.argsort(p)`. Walk along it, multiply by n, n - 1, ..., keep the largest so far, cap at 1, and write each
# to its own place.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def holm(p):
#     found, worst = [0.0] * len(p), 0.0
#     for rank, i in enumerate(np.argsort(p)):
#         worst = max(worst, min(1.0, (len(p) - rank) * p[i]))
#         found[i] = worst
#     return found
# ```
#
# </details>
#
# ### Exercise 7 · Your own contrast (open, 20 minutes)
#
# Ask the experiment something that its table does not say: give each cell a weight, so that the weights add up to 0. Is
# MambaVision's lead over CLIP larger behind Mamba than behind Llama? Do encoders with a Mamba inside go better with a
# Mamba behind them? *Write down what you expect before you run the second cell*; a contrast chosen after looking at the
# figure proves little.


# %%
def my_contrast(cells: list[str]) -> dict[str, float]:
    return ...  # your code here, as in {"clip-mamba": 1.0, ...}


asked = check.my_contrast(my_contrast)

# %%
if asked:
    chosen = my_contrast(list(cells))
    for row in ("spatial", "twins"):
        answer = intervals.contrast(list(chosen.values()), [results.marks(found, cell, row) for cell in chosen])
        print(f"{row}: {100 * answer['difference']:+.1f} points "
              f"({100 * answer['low']:+.1f} to {100 * answer['high']:+.1f}), p = {answer['p']:.2g}")  # fmt: skip

# %% [markdown]
# <details><summary>Hint</summary>
#
# "Larger behind Mamba than behind Llama" is a difference of two differences.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def my_contrast(cells):
#     return {
#         "mambavision-mamba": 1.0, "clip-mamba": -1.0,  # the lead behind Mamba
#         "mambavision-llama": -1.0, "clip-llama": 1.0,  # minus the lead behind Llama
#     }
# ```
#
# One of many: does MambaVision's lead over CLIP depend on the backbone? The interval is wider than those of single
# differences, because four cells bring their noise.
#
# </details>

# %% [markdown]
# ## Takeaways
#
# - Frozen is a statement about tensors, not about intentions: compare before and after, buffers included.
# - BatchNorm's statistics move without gradient and without optimiser. Evaluation mode, or no BatchNorm.
# - An encoder cannot be exchanged alone: the projector belongs to it. Shapes that fit prove nothing.
# - More parts trained after each other also means more steps. Say which of the two a comparison changes.
# - Two sources of noise, seeds and questions; a difference is paired over questions; t, not 1.96, for few seeds.
# - Correct for the number of differences looked at, and report how large an effect would have been seen.
# - Twins tell looking from guessing: the same answer to both is never right twice.
#
# What was recorded: counts and checks of sections 1 and 2, the shipped runs' accuracies and differences, the
# experiment's table, contrasts, twins and speed, and the verdicts of section 5.
#
# Next: 12, time: clips, and a ball that rolls off a table.
