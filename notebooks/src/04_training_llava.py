# %% [markdown]
# # 04 · Training LLaVA in two stages
#
# *Visual Instruction Tuning* (Liu, Li, Wu, Lee 2023, [arXiv 2304.08485](https://arxiv.org/abs/2304.08485), section 4.2)
# and LLaVA-1.5 (Liu et al. 2023, [arXiv 2310.03744](https://arxiv.org/abs/2310.03744)).
#
# Two trained halves are joined by a projector that knows nothing. Stage 1 trains the projector alone, on captions: it
# learns to say in the language model's vectors what the encoder sees. Stage 2 trains projector and language model, on
# questions and answers. The encoder stays as it is.
#
# **After this chapter you can**
#
# - say what is frozen and what trains in each stage, and why;
# - pack many questions behind one picture, and draw who sees whom;
# - train both stages, stop at any step and go on to the same bits;
# - report an accuracy with its interval, beside a blind model and chance;
# - explain why the *form* of the answers decides whether a small model learns at all.
#
# **Time** about 35 s of computing on 2 CPU cores, 0.9 GB of memory; 60 to 90 minutes of reading and exercises. With
# `profile = "full"` the notebook trains the shipped model again, which takes hours on a CPU.
#
# | | data | trains | learning rate | batch | epochs |
# |---|---|---|---|---|---|
# | LLaVA, stage 1 | CC3M, 595K captions | $W$ | 2e-3 | 128 | 1 |
# | LLaVA, stage 2 | 158K conversations | $W$, $f_\phi$ | 2e-5 | 32 | 3 |
# | LLaVA-1.5, stage 1 | 558K captions | $W$ | 1e-3 | 256 | 1 |
# | LLaVA-1.5, stage 2 | 665K mix | $W$, $f_\phi$ | 2e-5 | 128 | 1 |
#
# All with a cosine schedule, a warm-up over 3 % of the steps, and no weight decay.

# %% tags=["parameters"]
profile = "quick"  # "quick": short live runs; "full": train the shipped model again first
seed = 0  # of projector, batches and questions
device = "cpu"  # "auto", "cpu", "cuda" or "mps"
pictures = 96  # scenes rendered for the live runs
steps1 = 16  # live steps of stage 1
steps2 = 16  # live steps of stage 2
asked_scenes = 6  # test scenes in the live measurement, up to 8 questions each
text_steps = 150  # steps of the experiment on text

# %%
import hashlib
import tempfile
from pathlib import Path

import numpy as np
import torch

import vlmlab
from vlmlab import figures, report, runtime, scenes, weights
from vlmlab.checks import nb04 as check
from vlmlab.figures import llava as diagrams
from vlmlab.figures import show, show_table

runtime.seed_everything(seed)
holder = tempfile.TemporaryDirectory(prefix="vlmlab-live-")
live = Path(holder.name)  # the live runs' folder

# %% [markdown]
# ## 1. Three states of one model
#
# The weights of each stage ship with the suite. *Start*: the contrastively trained encoder (chapter 01), a language
# model trained on text alone (described scenes, and maps of them made of words), and a projector drawn at random.
# *Stage 1* and *stage 2*: what training made of it.

# %%
from vlmlab.vlm import VLM


def at_the_start():
    model = vlmlab.load("llava-tiny-stage1", device=device)  # stage 1 left encoder and language model as they were,
    model.projector = VLM.from_preset(model.config, device, model.tokenizer, seed=seed).projector  # so only W is new
    return model


stages = {
    "start": at_the_start(),
    "after stage 1": vlmlab.load("llava-tiny-stage1", device=device),
    "after stage 2": vlmlab.load("llava-tiny", device=device),
}
vlm = at_the_start()  # the one that is trained below
config, tokenizer = vlm.config, vlm.tokenizer

# %%
TRAINS = {"stage 1": ("projector",), "stage 2": ("projector", "language")}
counts = vlm.count_parameters()
rows = []
for stage, trained in TRAINS.items():
    state = {part: "trained" if part in trained else "frozen" for part in ("vision", "projector", "language")}
    rows.append((stage, [(part, counts[part] // 1000, state[part]) for part in state]))
show(
    figures.blocks(
        rows,
        notes=[f"{sum(counts[p] for p in parts) / counts['total']:.0%} trained" for parts in TRAINS.values()],
        colours={"trained": figures.ORANGE, "frozen": "#DDDDDD"},
        title="Thousands of parameters",
    ),
    alt="Stage 1 trains the thin projector only; stage 2 trains the projector and the language model, not the encoder.",
)
for stage, parts in TRAINS.items():
    vlm.freeze().unfreeze(*parts)
    report.record(f"trained parameters, {stage}", vlm.count_parameters(trainable=True)["total"])

# %% [markdown]
# Why not train everything at once? The projector's first outputs are noise, and gradients through noise would spoil two
# models that work. Stage 1 lets the projector catch up. Later the language model may move too, a little.

# %% [markdown]
# ## 2. Toy numbers: the schedule
#
# The learning rate rises in a straight line over the first 3 % of the steps, then falls as half a cosine:
#
# $$\eta_t = \eta \cdot \tfrac12\left(1 + \cos\frac{\pi\,(t - w)}{T - w}\right), \qquad t \ge w$$
#
# With $T = 100$ steps and $w = 3$: steps 0, 1, 2 get 1/3, 2/3, 3/3 of the rate, step 3 all of it, and the middle of
# the rest one half.

# %%
from vlmlab.vlm.trainer import TrainConfig, train
from vlmlab.vlm.training_setup import rate

plan = TrainConfig(steps=100, lr=1e-3, warmup=0.03)
curve = [rate(plan, step) for step in range(plan.steps)]
print([round(value, 3) for value in curve[:5]], "...", round(curve[51], 3), "...", round(curve[-1], 5))
show(
    figures.losses({"cosine": curve}, smooth=0, ylabel="share of the learning rate", height=2.2),
    alt="The learning rate rises over three steps to its full value and falls along half a cosine to zero.",
)

# %% [markdown]
# ## 3. Data for the live runs
#
# A few hundred questions about a few scenes, rendered now. The encoder is frozen, so its features are computed once.

# %%
from vlmlab.vlm import corpus

train_scenes = [scenes.sample(50_000 + i) for i in range(pictures)]
rendered = np.stack([s.render(config.image_size).rgb for s in train_scenes])
data = corpus.build(train_scenes, tokenizer, vlm.template, questions=16)
with torch.inference_mode():
    features = torch.cat(
        [vlm.vision_features(vlm.preprocess.batch(list(part))) for part in np.array_split(rendered, 4)]
    )
features = features.clone()  # (pictures, N, D_v)
print(len(data), "scenes,", len(data.kinds), "questions and descriptions, features", tuple(features.shape))

# %% [markdown]
# ### Packed questions
#
# A picture is 64 tokens, a question with its answer about 25. Reading the picture again for every question would
# waste most of the work. So a row holds one picture and several questions, and a mask says who sees whom: each question
# sees the picture and itself. Positions count on from the picture for each question, as if it were alone.

# %%
opening = (tokenizer.bos_id, *tokenizer.encode("USER: "))
how = corpus.Packing(opening, vlm.image_id, tokenizer.pad_id, vlm.vision.patches, per_scene=3)
packed = corpus.pack(data, np.array([0]), how, np.random.default_rng(seed))
visible = packed.visible[0].numpy()
texts = [tokenizer.decode(packed.ids[0, packed.segment[0] == k]).strip() for k in range(1, 4)]
show(
    diagrams.packed_mask(
        visible, packed.segment[0].tolist(), names=["opening and picture", *texts], title="Who sees whom"
    ),
    alt="Attention mask of a packed row: the picture is seen by all three questions, and no question sees another one.",
)

# %% [markdown]
# **Check.** The logits of a packed question are those of the question in a row of its own:

# %%
prefix = packed.ids[0][packed.segment[0] == 0]
with torch.no_grad():
    together = vlm(None, packed.ids, segments=packed.segment, image_features=features[:1])[0]
    gaps = []
    for k in (1, 2, 3):
        question = packed.segment[0] == k
        alone = vlm(None, torch.cat([prefix, packed.ids[0][question]])[None], image_features=features[:1])[
            0, len(prefix) :
        ]
        gaps.append(float((together[question] - alone).abs().max() / alone.abs().max()))
report.record("packed against alone, relative difference", max(gaps))
assert max(gaps) < 1e-4

# %% [markdown]
# ## 4. Stage 1, live
#
# Descriptions only: objects in order from left to right with all their attributes, the order from front to back, what
# stands where. Every token of a description depends on the picture, so every token teaches the projector something.
# Few real captions are that dense.

# %%
from vlmlab.vlm.conversations import KINDS

DESCRIPTIONS = ("dense", "full", "short caption", "order")


def batches(how, rows):
    def batch(step):  # a pure function of the step: that is what makes a run resumable
        rng = np.random.default_rng([seed, step])
        chosen = np.sort(rng.choice(len(data), rows, replace=False))
        return corpus.pack(data, chosen, how, rng), features[chosen]

    return batch


def loss_of(model):
    def loss(given):
        packed, images = given
        out = model(None, packed.ids, packed.labels, segments=packed.segment, image_features=images, loss_only=True)
        return out.loss

    return loss


# %%
only_descriptions = tuple((kind, 0.0) for kind in KINDS if kind not in DESCRIPTIONS)
how1 = corpus.Packing(opening, vlm.image_id, tokenizer.pad_id, vlm.vision.patches, 4, weights=only_descriptions)
vlm.freeze().unfreeze("projector")
plan1 = TrainConfig(steps=steps1, lr=2e-3, warmup=0.15, betas=(0.9, 0.98))
stage1 = train("stage 1", vlm, None, batches(how1, 6), loss_of(vlm), plan1, live / "stage1", progress=False)
print(f"loss {np.mean(stage1.losses[:5]):.2f} → {np.mean(stage1.losses[-5:]):.2f} in {steps1} steps")

# %% [markdown]
# ## 5. Stage 2, live
#
# Questions of all types and descriptions, mixed. A third of the questions asks for one word with LLaVA-1.5's format
# prompt; the others are answered by a sentence with the verdict last.

# %%
how2 = corpus.Packing(opening, vlm.image_id, tokenizer.pad_id, vlm.vision.patches, per_scene=8)
vlm.freeze().unfreeze("projector", "language")
plan2 = TrainConfig(steps=steps2, lr=1e-3, warmup=0.15, betas=(0.9, 0.98))
stage2 = train("stage 2", vlm, None, batches(how2, 5), loss_of(vlm), plan2, live / "stage2", progress=False)
print(f"loss {np.mean(stage2.losses[:5]):.2f} → {np.mean(stage2.losses[-5:]):.2f} in {steps2} steps")

# %%
show(
    figures.losses(
        {"stage 1": stage1.losses, "stage 2": stage2.losses}, smooth=0.8, title="Live", ylabel="loss (nats a token)"
    ),
    alt="Loss of both live stages over their steps; both fall.",
    caption="The two stages predict different texts, so their losses are not to be compared with each other.",
)
for name, run in {"stage 1": stage1, "stage 2": stage2}.items():
    report.record(
        f"live {name}: loss of the last 5 steps / first 5", float(np.mean(run.losses[-5:]) / np.mean(run.losses[:5]))
    )

# %% [markdown]
# ## 6. The shipped run
#
# The same two stages for longer, with 64,000 scenes: recipes `llava-tiny-stage1` and `llava-tiny`. Two things are
# particular to so small a model. Stage 2 mixes in *worksheets* (an inventory, everyone's looks, how pairs lie, a
# checklist), and its first quarter asks for those alone, because nearly every word of them has to be seen, while of an
# answer it is one or two: a model that learns to look up what belongs to a noun in a few hundred steps of inventories
# does not in thousands among questions. And one row in sixteen has no picture, so that a question without one is
# nothing new. With `profile = "full"` the next cell trains both stages again (and what they need); it goes on where it
# was stopped.

# %%
if profile == "full":
    from vlmlab.vlm import recipes

    recipes.run("llava-tiny", resume=True)

# %% [markdown]
# What that training wrote down:

# %%
from vlmlab.files import read_json

logs = {
    name: read_json(runtime.data_dir() / "training" / f"{name}.json") for name in ("llava-tiny-stage1", "llava-tiny")
}
show(
    figures.losses(
        {name: ([line["step"] for line in log], [line["loss"] for line in log]) for name, log in logs.items()},
        title="The shipped model", ylabel="loss (nats a token)", log=True,
    ),
    alt="Loss of both stages of the shipped run, on a logarithmic axis.",
)  # fmt: skip

# %% [markdown]
# The loss hides what happens. While training, a fixed set of questions about validation scenes was asked every so many
# steps; each row is one type, answered in sentences. The types do not improve together, so watch them apart.

# %%
from vlmlab.scenes.questions import TYPES

watched = [line for line in logs["llava-tiny"] if "eval/existence" in line]
watched = [watched[i] for i in np.linspace(0, len(watched) - 1, min(len(watched), 12)).round().astype(int)]
types = np.array([[line[f"eval/{kind}"] for line in watched] for kind in TYPES])  # (types, measurements)
show(
    figures.matrix(
        types, TYPES, [str(line["step"]) for line in watched], limits=(0, 1), column_label="step of stage 2",
        value_label="answers wholly predicted", title="The shipped run, by type of question",
    ),
    alt="Share of predicted answers by question type over the steps of stage 2. At the end: "
    + ", ".join(f"{kind} {values[-1]:.0%}" for kind, values in zip(TYPES, types, strict=True)) + ".",
    caption="Each token is predicted from the true ones before it; section 8 measures what the model writes itself.",
)  # fmt: skip

# %% [markdown]
# ## 7. Answers before and after each stage
#
# The same pictures and questions, three models. Before stage 1 the language model is fluent and blind: it answers in
# the manner of its texts about a picture that it cannot see. After stage 1 the projector says what is seen in the
# language model's own vectors. After stage 2 the language model has learnt to use them for questions.

# %%
from vlmlab.benchmarks import held_out

sample = held_out.questions(asked_scenes, 8)  # balanced, about scenes of the test split
wanted = []  # one question of each of these types, each about another scene
for kind in ("attribute", "relation", "count"):
    seen = {id(item.scene) for item in wanted}
    wanted.append(next(x for x in sample if x.question.type == kind and id(x.scene) not in seen))
pictures_asked = [item.scene.render(config.image_size).rgb for item in wanted]
pictures_asked.append(sample[-1].scene.render(config.image_size).rgb)
texts = [*(item.question.text for item in wanted), "Describe the picture."]
answers = {name: model.answer_many(pictures_asked, texts, max_new_tokens=48) for name, model in stages.items()}

# %%
marks = {}
for name, found in answers.items():
    pairs = zip(found, wanted, strict=False)
    marks[name] = [*(held_out.is_right(text, item.question.answer, "sentence") for text, item in pairs), None]
show(
    diagrams.answer_table(pictures_asked, texts, answers, right=marks),
    alt="Held-out pictures with a question each and the answers of three models: "
    + ", ".join(f"{name} {sum(found[:-1])} of {len(wanted)} right" for name, found in marks.items()) + ".",
    caption="The last picture shows: " + sample[-1].scene.caption("short"),
)  # fmt: skip

# %% [markdown]
# ## 8. Held-out accuracy, honestly
#
# One number is not enough. Each type of question stands by itself, with its 95 % interval (Wilson's, chapter 00),
# beside **chance** and the **blind** model: the same one without the picture, which shows what the words alone give
# away. All of it live, on the same few questions:

# %%
live_results = {name: held_out.evaluate(model, sample) for name, model in stages.items()}
live_results["blind"] = held_out.evaluate(stages["after stage 2"], sample, blind=True)
for name, result in live_results.items():
    report.record(f"live accuracy on {len(sample)} questions, {name}", result["accuracy"])

# %%
kinds = [kind for kind in TYPES if kind in live_results["start"]["by_type"]]
rows = {name: [result["by_type"][k] for k in kinds] for name, result in live_results.items() if name != "start"}
show(
    figures.bars(
        kinds,
        {name: [row["accuracy"] for row in found] for name, found in rows.items()},
        intervals={name: [(row["low"], row["high"]) for row in found] for name, found in rows.items()},
        baselines={"chance": [row["chance"] for row in rows["blind"]]},
        percent=True, limits=(0, 1.12), title=f"Live: {len(sample)} held-out questions",
    ),
    alt="Live accuracy by type after each stage, and blind. Over all types: "
    + ", ".join(f"{name} {result['accuracy']:.0%}" for name, result in live_results.items()) + ".",
    caption="Whiskers: 95 % intervals; with so few questions they are wide.",
)  # fmt: skip

# %% [markdown]
# The same measurement on many more questions, made once for the shipped weights and kept in the manifest. *Word*: asked
# for one word with the format prompt. The last column says whether the live interval above contains the figure, which
# should happen in most rows.

# %%
shipped = weights.manifest()["results"]["llava-tiny"]
sentence, word = shipped["scenes/sentence"]["by_type"], shipped["scenes/word"]["by_type"]
here, table = live_results["after stage 2"]["by_type"], []
for kind in [*kinds, "all"]:
    row = sentence[kind]
    inside = here[kind]["low"] <= row["accuracy"] <= here[kind]["high"]
    shares = [
        f"{100 * value:.1f} %" for value in (row["accuracy"], word[kind]["accuracy"], row["blind"], row["chance"])
    ]
    span = f"{100 * row['low']:.1f} to {100 * row['high']:.1f}"
    table.append([kind, row["n"], shares[0], span, *shares[1:], "yes" if inside else "no"])
columns = ["type", "n", "sentence", "95 % interval", "word", "blind", "chance", "live agrees"]
show_table(columns, table, "llava-tiny on new scenes, from data/manifest.json")
agreeing = sum(row[-1] == "yes" for row in table)
report.record("rows whose live interval contains the shipped figure", f"{agreeing} of {len(table)}")

# %% [markdown]
# ## 9. Why answers are sentences
#
# The first attempt at this model was trained on one-word answers, as LLaVA-1.5's format prompt asks. After hundreds of
# steps it was at chance on every yes/no question. Pixels were not the cause. Here is the same trap on *text*: a scene
# is a list of words from left to right ("red cat blue sofa ..."), a question "cat left sofa ?", and a two-layer Llama
# answers, once with the word alone and once with a sentence that states the fact before the verdict.

# %%
from vlmlab.language import Llama, LlamaConfig

WORDS = ["?", "yes", "no", "left", "right", *scenes.COLOURS, *scenes.KINDS]
YES, LEFT, COLOUR, KIND = (WORDS.index(word) for word in ("yes", "left", "red", "cat"))  # "no" and "right" come after


def text_batch(rng, style, rows=32, objects=3, questions=8):
    kinds = KIND + rng.random((rows, len(scenes.KINDS))).argsort(1)[:, :objects]
    colours = COLOUR + rng.integers(len(scenes.COLOURS), size=kinds.shape)
    scene = np.stack([colours, kinds], -1).reshape(rows, -1)  # red cat blue sofa ...
    a = rng.integers(objects, size=(rows, questions))
    b = (a + rng.integers(1, objects, size=a.shape)) % objects  # another one
    first, second = np.take_along_axis(kinds, a, 1), np.take_along_axis(kinds, b, 1)
    said, true = LEFT + rng.integers(2, size=a.shape), LEFT + (a > b)
    verdict = YES + (said != true)
    reply = [verdict] if style == "one word" else [first, true, second, verdict]
    asked = np.stack([first, said, second, np.zeros_like(a), *reply], -1).reshape(rows, -1)  # cat left sofa ? ...
    segment = np.repeat(np.arange(questions + 1), [2 * objects, *[4 + len(reply)] * questions])
    place = np.tile(np.arange(4 + len(reply)), questions)  # within a question
    places = np.concatenate([np.arange(2 * objects), 2 * objects + place])
    learnt = np.concatenate([np.zeros(2 * objects, bool), place >= 4])
    return (torch.from_numpy(x) for x in (np.concatenate([scene, asked], 1), segment, places, learnt))


# %% [markdown]
# Both runs see the same kind of questions, eight a row and packed as above. What is compared is the *whole* answer:
# right only when every word of it is.


# %%
def learn_text(style, steps, rate=3e-3):
    torch.manual_seed(seed)
    model = Llama(LlamaConfig(len(WORDS), dim=64, layers=2, heads=4, kv_heads=4, hidden=128))
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
    rng, whole = np.random.default_rng(seed), []
    for step in range(steps):
        ids, segment, places, learnt = text_batch(rng, style)
        sees = (segment[:, None] == segment) | (segment == 0)
        logits = model(ids, attention_mask=sees.expand(len(ids), -1, -1), position_ids=places[None])
        logits, target = logits[:, :-1][:, learnt[1:]], ids[:, 1:][:, learnt[1:]]
        error = torch.nn.functional.cross_entropy(logits.flatten(0, 1), target.flatten())
        optimizer.zero_grad()
        error.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.param_groups[0]["lr"] = rate * min(1.0, (step + 1) / 20)
        optimizer.step()
        right = (logits.argmax(-1) == target).unflatten(1, (8, -1))  # (rows, questions, words of the answer)
        whole.append(float(right.all(-1).float().mean()))
    return whole


text_runs = {style: learn_text(style, text_steps) for style in ("one word", "sentence, verdict last")}
for style, share in text_runs.items():
    report.record(f"text experiment: answers wholly right in the last 20 steps, {style}", float(np.mean(share[-20:])))

# %%
show(
    figures.losses(
        text_runs, smooth=0.85, chance=0.5, ylabel="answers wholly right", height=2.6,
        title="Two ways to answer the same questions",
    ),
    alt="Share of wholly right answers over the steps, for one word and for a sentence with the verdict last.",
    caption="Every batch is new, so this is accuracy on text that was never seen.",
)  # fmt: skip

# %% [markdown]
# One word asks for three things at once: where is the first object, where is the second, and does that agree with the
# word in the question? Before all three work, the gradient of a single yes or no says nothing about any of them. The
# sentence names the objects and their relation first. Each of these tokens is a task of its own, learnt one after the
# other, and the verdict then only compares two words. LLaVA's instruction data answers in sentences too; the short form
# is learnt afterwards, from the sentences.
#
# The shipped model goes one step further: where a verdict depends on places, its sentence tells them first ("cat,C4;
# sofa,F5. The cat is left of the sofa, yes."). Compare its columns *sentence* and *word* in section 8, for relations.
# What it cannot do, you can read off its answers too: see whether a wrong verdict follows from a wrong place, or from
# right places that were compared wrongly.

# %% [markdown]
# ## 10. Stop anywhere, go on to the same bits
#
# A long run will be interrupted. A checkpoint holds weights, the optimizer's moments, the step and the random states;
# batches are functions of the step. Then a run that was cut and one that was not end in the same weights, bit for bit.
# Six steps, once through, and once with an accident in step 5:

# %%
small = corpus.Packing(opening, vlm.image_id, tokenizer.pad_id, vlm.vision.patches, per_scene=2)
six = TrainConfig(steps=6, lr=1e-3, save_every=2)


def fingerprint(model):
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode() + value.cpu().numpy().tobytes())
    return digest.hexdigest()


def run_six(folder, batch, resume=False):
    model = at_the_start()
    model.freeze().unfreeze("projector", "language")
    train("six steps", model, None, batch, loss_of(model), six, live / folder, resume=resume, progress=False)
    return fingerprint(model)


# %%
whole = run_six("whole", batches(small, 2))


def accident(step):
    if step == 4:
        raise RuntimeError("the power is gone")
    return batches(small, 2)(step)


try:
    run_six("cut", accident)
except RuntimeError as error:
    print("cut:", error)
resumed = run_six("cut", batches(small, 2), resume=True)
print("once through:", whole[:16], " cut and resumed:", resumed[:16])
report.record("resumed run ends in the same bits", whole == resumed)
assert whole == resumed
holder.cleanup()  # the live runs' checkpoints

# %% [markdown]
# ## Exercises
#
# Replace each `...` by your own lines. A check says what is right or which mistake it looks like; until you begin, it
# says "not yet".
#
# ### Exercise 1 · What trains (easy, 5 minutes)
#
# Set `requires_grad` of every parameter for stage 1 or 2. A VLM has the parts `vision`, `projector` and `language`;
# do it with plain PyTorch, without `freeze` and `unfreeze`.


# %%
def set_stage(vlm, stage: int) -> None:
    return ...  # your code here, and no return


check.set_stage(set_stage)

# %% [markdown]
# <details><summary>Hint</summary>
#
# `module.requires_grad_(True)` acts on all parameters of a module. Set all three parts: a model may come from the other
# stage.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def set_stage(vlm, stage):
#     vlm.vision.requires_grad_(False)
#     vlm.projector.requires_grad_(True)
#     vlm.language.requires_grad_(stage == 2)
# ```
#
# </details>
#
# ### Exercise 2 · The schedule (medium, 10 minutes)
#
# Return the share of the learning rate in step `step` (0 is the first) of `steps`, with a warm-up of `warmup` steps:
# 1/warmup, 2/warmup, ..., 1, then half a cosine from 1 towards 0.


# %%
def learning_rate(step: int, steps: int, warmup: int) -> float:
    return ...  # your code here


check.learning_rate(learning_rate)

# %% [markdown]
# <details><summary>Hint</summary>
#
# After the warm-up, (step - warmup) / (steps - warmup) runs from 0 to 1. A cosine from 0 to $\pi$ runs from 1 to -1;
# half of one plus it runs from 1 to 0.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# import math
#
# def learning_rate(step, steps, warmup):
#     if step < warmup:
#         return (step + 1) / warmup
#     return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))
# ```
#
# </details>
#
# ### Exercise 3 · Who sees whom (medium, 10 minutes)
#
# `segment` (L,) says for each token what it belongs to: 0 the picture, k the k-th question. Return the boolean mask
# (L, L), True where the query (row) sees the key (column): the picture and its own question, nothing later than itself.


# %%
def sees(segment: torch.Tensor) -> torch.Tensor:
    return ...  # your code here


check.sees(sees)

# %% [markdown]
# <details><summary>Hint</summary>
#
# `segment[:, None] == segment[None, :]` compares every query with every key. `tril()` keeps what is not later.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def sees(segment):
#     query, key = segment[:, None], segment[None, :]
#     return ((query == key) | (key == 0)).tril()
# ```
#
# </details>
#
# ### Exercise 4 · Batches that can be repeated (medium, 10 minutes)
#
# Draw the scenes of a batch: `rows` different numbers below `count`, as a sorted array. The same `seed` and `step` must
# give the same batch, whatever was drawn before; another step another one. NumPy's global generator stays untouched.


# %%
def rows_of(seed: int, step: int, count: int, rows: int) -> np.ndarray:
    return ...  # your code here


check.rows_of(rows_of)

# %% [markdown]
# <details><summary>Hint</summary>
#
# `np.random.default_rng([seed, step])` is a generator of its own for each pair. `choice(count, rows, replace=False)`
# draws without repeating.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def rows_of(seed, step, count, rows):
#     rng = np.random.default_rng([seed, step])
#     return np.sort(rng.choice(count, rows, replace=False))
# ```
#
# </details>

# %% [markdown]
# ## Takeaways
#
# - Stage 1 trains about one parameter in a hundred here, stage 2 more than half; the encoder never moves.
# - Dense captions first: every token of them needs the picture.
# - Packed questions share one reading of the picture, and the mask keeps them apart.
# - An accuracy needs its interval, a blind model and chance beside it, for each type of question by itself.
# - Sentences that give the verdict last can be learnt where one-word answers stay at chance.
# - A run that can be resumed exactly is one whose batches depend on the step alone.
#
# Next: 05, evaluating with the benchmarks' official scores.
