# %% [markdown]
# # 17 · The scoreboard
#
# McNemar (1947), *Note on the sampling error of the difference between correlated proportions or percentages*
# (*Psychometrika* 12, 153-157). Newcombe (1998), *Interval estimation for the difference between independent
# proportions* (*Statistics in Medicine* 17, 873-890). Wilson (1927), *Probable inference* (*JASA* 22, 209-212).
#
# Every model that ships with the suite, side by side: how often it is right and on what, which differences are more
# than noise, what it costs, and what it cannot do. A board like this one invites to read the order of its rows. This
# chapter is mostly about when that is allowed.
#
# **After this chapter you can**
#
# - put an accuracy beside its interval and beside what a model gets without looking;
# - compare two models on the same questions, and say why that is sharper than comparing two intervals;
# - say how often noise alone would change the order of a board;
# - set accuracy against cost, and read the front;
# - find what a model cannot do, look at it, and put a model of your own on the board.
#
# **Time** about 25 s of computing on 2 CPU cores, 0.9 GB of memory; 60 to 90 minutes of reading and exercises. The
# board takes whatever `data/manifest.json` holds. With `profile = "full"` every model is asked the whole benchmark
# again, minutes each.

# %% tags=["parameters"]
profile = "quick"  # "quick": few live questions; "full": ask every model the whole benchmark again
seed = 0  # of resampling and of the damaged model
device = "cpu"  # "auto", "cpu", "cuda" or "mps"
largest = 30  # millions of parameters: larger models are not asked live
asked_scenes = 8  # test scenes in the live measurement, up to 8 questions each
rounds = 3  # of timing
answer_tokens = 16  # written in the timed answers
lengths = [128, 512, 2048]  # tokens at which state and cache are compared
own_questions = 32  # asked of the model that is added in section 7

# %%
import copy
import math
import tempfile
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from IPython.display import Markdown

import vlmlab
from vlmlab import benchmarks, figures, report, runtime, weights
from vlmlab.bench.timing import alternate
from vlmlab.benchmarks import held_out, statistics
from vlmlab.checks import nb17 as check
from vlmlab.errors import BadInput
from vlmlab.figures import comparison, show, show_table
from vlmlab.figures import experiment as diagrams
from vlmlab.figures import llava as answers_diagram
from vlmlab.scenes.questions import TYPES
from vlmlab.vlm import account, saving

runtime.seed_everything(seed)

# %% [markdown]
# ## 1. Who is on the board
#
# The manifest lists files, models, recorded results, and runs whose figures ship without their weights. A model
# belongs on the board when it can be loaded *and* was measured.

# %%
listing = weights.manifest()
measured = {name: found for name, found in listing["results"].items() if "scenes/sentence" in found}
board = [name for name in weights.shipped() if name in measured]
assert board, "data/manifest.json holds no model with results"
for name in weights.shipped():
    if name not in board:
        print(f"{name}: no results recorded, left out")
others = [name for name in measured if name not in board]
print(f"on the board: {', '.join(board)}" + (f"; figures only: {', '.join(others)}" if others else ""))
report.record("models on the board", board)

# %%
models = {name: vlmlab.load(name, device=device) for name in board}
if profile == "full":
    for name, model in models.items():
        for form in ("sentence", "word"):
            measured[name][f"scenes/{form}"] = benchmarks.evaluate(model, "scenes", form=form)
sizes = {name: model.count_parameters()["total"] for name, model in models.items()}
live = [name for name in board if sizes[name] <= 1e6 * largest]
print("asked live: " + (", ".join(live) or "none; raise `largest`"))

# %% [markdown]
# ### Accuracy, with what stands beside it
#
# Asked for sentences and for single words, in new scenes; in new *combinations* of colour and kind; without the
# picture (blind); by chance.


# %%
def overall(name, benchmark):
    return measured[name].get(benchmark, {}).get("by_type", {}).get("all")


def percent(value, key="accuracy"):
    return "" if value is None else f"{100 * value[key]:.1f}"


table = []
for name in sorted([*board, *others], key=lambda name: -overall(name, "scenes/sentence")["accuracy"]):
    row = overall(name, "scenes/sentence")
    cells = [percent(overall(name, other)) for other in ("scenes/word", "scenes-combinations/sentence")]
    span = f"{percent(row, 'low')} to {percent(row, 'high')}"
    table.append([name, name in board, row["n"], percent(row), span, *cells, percent(row, "blind"),
                  percent(row, "chance")])  # fmt: skip
columns = ["model", "ships", "n", "sentence %", "95 % interval", "word %", "new combinations %", "blind %", "chance %"]
show_table(columns, table, "all types of question, from data/manifest.json")
for name in board:
    row = overall(name, "scenes/sentence")
    report.record(f"{name}: accuracy", {key: row[key] for key in ("n", "accuracy", "low", "high", "blind")})

# %%
kinds = [kind for kind in ("all", *TYPES) if all(kind in measured[m]["scenes/sentence"]["by_type"] for m in board)]
by_type = {name: measured[name]["scenes/sentence"]["by_type"] for name in board}
ranked = sorted(board, key=lambda name: -by_type[name]["all"]["accuracy"])
best = ranked[0]
shown = ranked[:4]  # as many as a group of bars can hold; the matrix below has all
show(
    figures.bars(
        kinds, {name: [by_type[name][kind]["accuracy"] for kind in kinds] for name in shown},
        intervals={name: [(by_type[name][k]["low"], by_type[name][k]["high"]) for k in kinds] for name in shown},
        baselines={"chance": [by_type[best][kind]["chance"] for kind in kinds],
                   f"{best} blind": [by_type[best][kind]["blind"] for kind in kinds]},
        percent=True, limits=(0, 1.15),
    ),
    alt="Accuracy by type of question with intervals. Over all: "
    + ", ".join(f"{name} {by_type[name]['all']['accuracy']:.1%}" for name in shown) + ".",
)  # fmt: skip

# %% [markdown]
# ### Above what needs no eyes
#
# 50 % on yes/no questions and 50 % on counts are different achievements. With the best of chance, a constant answer and
# the blind model as $b$, what a model gains of what can be gained is $(a - b) / (1 - b)$. By hand: 80 % where a
# constant answer gets 60 % is $0.2 / 0.4 = 0.5$. Exercise 4 asks for it as a function.


# %%
def gained(row):
    base = max(row["chance"], row["constant"], row["blind"])
    return (row["accuracy"] - base) / (1 - base) if base < 1 else 0.0  # nothing to gain


assert math.isclose(gained({"accuracy": 0.8, "chance": 0.5, "constant": 0.6, "blind": 0.55}), 0.5)
skills = np.array([[gained(by_type[name][kind]) for kind in kinds] for name in ranked])  # (models, types)
show(
    figures.matrix(skills, ranked, kinds, value_label="gained of what can be gained", limits=(min(0, skills.min()), 1)),
    alt="What each model gains beyond chance, a constant answer and its blind self, by type. Over all: "
    + ", ".join(f"{name} {row[0]:.2f}" for name, row in zip(ranked, skills, strict=True)) + ".",
    caption="0: no better than without eyes; 1: all right.",
)  # fmt: skip
report.record("gained of what can be gained, all questions", dict(zip(ranked, skills[:, 0].tolist(), strict=True)))

# %% [markdown]
# ## 2. Which differences are told from noise?
#
# ### Toy numbers: the same ten questions
#
# Two models answer ten questions. Both are right on five and wrong on one; on three only the first is right, on one
# only the second. The difference is $(3 - 1) / 10 = 0.2$. Six questions say nothing about it, they belong to both. If
# the models were equally good, each of the four others would be a fair coin: three or more of four on the first side
# have the chance $(4 + 1) / 16 = 0.3125$, and to either side twice that, 0.625. McNemar's test is this idea (exercise
# 1).

# %%
first, second = np.array([1] * 8 + [0] * 2), np.array([1] * 5 + [0] * 3 + [1, 0])
only_first, only_second = int((first > second).sum()), int((second > first).sum())
tail = sum(math.comb(4, k) for k in (3, 4)) / 2**4
print(f"{only_first} to {only_second}, difference {first.mean() - second.mean():+.1f}, p = {2 * tail}")
assert (only_first, only_second, 2 * tail) == (3, 1, 0.625)

# %% [markdown]
# ### From the manifest: two separate samples
#
# The manifest keeps accuracies and no single answers, so all that can be said is what two separate samples would allow
# (Newcombe's interval, chapter 09).


# %%
def newcombe(one, other):
    p, q = one["accuracy"], other["accuracy"]
    low = p - q - math.hypot(p - one["low"], other["high"] - q)
    return p - q, low, p - q + math.hypot(one["high"] - p, q - other["low"])


def told(value, low, high):
    return "ahead" if low > 0 else "behind" if high < 0 else "not told apart"


pairs = list(combinations(ranked, 2))
apart = {(a, b): newcombe(by_type[a]["all"], by_type[b]["all"]) for a, b in pairs}
rivals = ranked[1:4]
if rivals:
    show(
        diagrams.contrasts(
            kinds, {f"{best} − {name}": [newcombe(by_type[best][k], by_type[name][k]) for k in kinds]
                    for name in rivals},
        ),
        alt=f"Differences of {best} to others by type, with 95 % intervals. Over all questions: "
        + "; ".join(f"{name} {100 * apart[best, name][0]:+.1f} points, {told(*apart[best, name])}"
                    for name in rivals) + ".",
        caption="Filled: the interval leaves zero out.",
    )  # fmt: skip
else:
    print("one model alone has nobody to be compared with; section 2 goes on with its blind self")
for (a, b), gap in apart.items():
    report.record(f"{a} minus {b}: difference and 95 % interval, separate samples", list(gap))

# %%
clear = [pair for pair, gap in apart.items() if told(*gap) != "not told apart"]
Markdown(
    f"Of {len(pairs)} pairs of models, {len(clear)} differ over all questions by more than the noise of two separate "
    f"samples; with {len(pairs)} looks about {0.05 * len(pairs):.1f} would without any difference. And each model is "
    "one training run: the interval covers other questions, not other seeds (chapter 11 has several a cell)."
    if pairs else "Nothing to compare yet."
)  # fmt: skip

# %% [markdown]
# ### Live: the same questions
#
# All models are asked the same questions about the same test scenes, now. The best of them is asked again without the
# pictures, as an entrant of its own.

# %%
questions = held_out.questions(asked_scenes, 8)
said = {name: held_out.evaluate(models[name], questions) for name in live}
if live:
    leader = max(live, key=lambda name: said[name]["accuracy"])
    said[f"{leader}, blind"] = held_out.evaluate(models[leader], questions, blind=True)
right = {name: np.array([answer["right"] for answer in found["answers"]], float) for name, found in said.items()}
inside = [row["low"] <= by_type[name]["all"]["accuracy"] <= row["high"]
          for name in live for row in [said[name]["by_type"]["all"]]]  # fmt: skip
print(f"{len(questions)} questions; the live interval contains the manifest's figure in {sum(inside)} of {len(inside)}")
report.record("live accuracy", {name: float(flags.mean()) for name, flags in right.items()})


# %%
def paired(one, other):  # one run each: the interval is that of the questions, answered by both
    found = statistics.contrast([1, -1], [one[None], other[None]])
    return found["difference"], found["low"], found["high"]


def separate(one, other):
    return newcombe(*({"accuracy": f.mean(), **dict(zip(("low", "high"), statistics.wilson(f.sum(), len(f)),
                                                       strict=True))} for f in (one, other)))  # fmt: skip


table, narrower = [], []
for a, b in combinations(right, 2):
    d, low, high = paired(right[a], right[b])
    _, wide_low, wide_high = separate(right[a], right[b])
    if high > low:
        narrower.append((high - low) / (wide_high - wide_low))
    counts = f"{int((right[a] > right[b]).sum())} to {int((right[b] > right[a]).sum())}"
    spans = [f"{100 * x:+.0f} to {100 * y:+.0f}" for x, y in ((low, high), (wide_low, wide_high))]
    table.append([f"{a} − {b}", counts, f"{100 * d:+.0f}", *spans, told(d, low, high)])
if table:
    show_table(["difference", "only one right", "points", "paired", "as separate samples", "the first is"], table)

# %%
if narrower:
    ratio = float(np.mean(narrower))
    report.record("width of paired intervals / separate ones, mean", ratio)
Markdown(
    f"In the mean over pairs the paired interval has {ratio:.0%} of the width of the separate one. "
    + ("Models that find the same questions hard gain by pairing: what is common to both drops out."
       if ratio < 0.98 else "Here the models agree too little for pairing to gain much.")
    + " To halve an interval by asking more, four times as many questions are needed; pairing is free."
    if narrower else "No pair to compare."
)  # fmt: skip

# %% [markdown]
# ### How firm is the order?
#
# Repeat the measurement in thought: each model draws its number of right answers anew, from a binomial distribution
# with its measured accuracy. How often does each model end on each place? (Separate samples again. That is the cautious
# assumption where models agree.)

# %%
rng = np.random.default_rng(seed)
draws = np.stack([rng.binomial(by_type[m]["all"]["n"], by_type[m]["all"]["accuracy"], 4000) / by_type[m]["all"]["n"]
                  for m in ranked], 1)  # (R, M)  # fmt: skip
above = (draws[:, None, :] > draws[:, :, None]).sum(-1)  # (R, M): how many are better
equal = (draws[:, None, :] == draws[:, :, None]).sum(-1) - 1
ranks = 1 + above + equal / 2
places = np.stack([(np.floor(ranks) == place + 1).mean(0) for place in range(len(ranked))], 1)  # (M, M)
expected = dict(zip(ranked, ranks.mean(0).tolist(), strict=True))
if len(ranked) > 1:
    show(
        figures.matrix(places, ranked, [str(i + 1) for i in range(len(ranked))], limits=(0, 1),
                       column_label="place", value_label="share of repetitions"),
        alt="How often each model ends on each place: "
        + "; ".join(f"{name} has rank {value:.2f} in the mean" for name, value in expected.items()) + ".",
    )  # fmt: skip
report.record("expected rank", expected)
if len(ranked) > 1:
    same_order = float((np.diff(ranks, axis=1) > 0).all(1).mean())
    print(f"{best} is first in {places[0, 0]:.0%} of the repetitions; the whole order comes out in {same_order:.0%}")

# %% [markdown]
# ## 3. What it costs
#
# ### Parameters, picture, file

# %%
accounts = {name: account(model, lengths=lengths) for name, model in models.items()}
parts = {part: [accounts[name]["parameters"][part] / 1e6 for name in ranked]
         for part in ("vision", "projector", "language")}  # fmt: skip
show(
    diagrams.stacked(ranked, parts, xlabel="millions of parameters", digits=2),
    alt="Millions of parameters by part: "
    + ", ".join(f"{name} {sizes[name] / 1e6:.2f}" for name in ranked) + ".",
)  # fmt: skip
table = []
for name in ranked:
    found, files = accounts[name], listing["models"][name]["files"]
    megabytes = sum(listing["files"][file]["bytes"] for file in files) / 1e6
    work = found["prefill"]["flops"]["total"] / 1e6
    table.append(
        [name, found["image_tokens"], f"{work:,.0f}", f"{found['decode_flops'] / 1e6:,.1f}", f"{megabytes:.1f}"]
    )
show_table(["model", "image tokens", "MFLOPs of a prefill", "of a token", "MB on disk, shared parts included"], table)
report.record("image tokens", {name: accounts[name]["image_tokens"] for name in ranked})

# %% [markdown]
# ### State and cache
#
# A transformer keeps keys and values of every token, a Mamba a state of one size. Where is the one smaller than the
# other?

# %%
kept = {name: [accounts[name]["cache_bytes"]["fp32"][str(length)] / 2**10 for length in lengths] for name in ranked}
show(
    comparison.against_length({"kept (KiB, float32)": {name: (lengths, values) for name, values in kept.items()}}),
    alt=f"KiB kept at {lengths[-1]} tokens: " + ", ".join(f"{n} {v[-1]:,.0f}" for n, v in kept.items()) + ".",
    caption="Models with the same language model lie on one line.",
)
report.record(f"KiB of state or cache at {lengths} tokens", kept)

# %% [markdown]
# ### Latency
#
# One picture and one question. *First token*: encode, project, read the prompt, and choose. *Tokens a second*: new
# tokens over the whole time, picture included, as Cobra's paper counts. One after the other in every round, so that
# whatever else the machine does meets all.

# %%
picture = questions[0].scene.render(96).rgb


def answering(model, tokens):
    ids = torch.tensor([model.template.encode_prompt("Describe the picture.", model.tokenizer)])

    def run():
        pixels = model.preprocess(picture)[None]
        with torch.inference_mode():
            return model.generate_ids(pixels, ids, max_new_tokens=tokens, eos_ids=[])

    return run


first_token = alternate({name: answering(models[name], 1) for name in live}, rounds)
whole = alternate({name: answering(models[name], answer_tokens) for name in live}, rounds)
show_table(
    ["model", "first token (ms)", f"{answer_tokens} tokens (ms)", "tokens a second"],
    [[name, round(1e3 * first_token[name], 1), round(1e3 * whole[name]), round(answer_tokens / whole[name], 1)]
     for name in sorted(live, key=whole.get)], "batch 1, on this machine",
)  # fmt: skip
report.record("milliseconds to the first token", {name: 1e3 * value for name, value in first_token.items()})
report.record(f"tokens a second over {answer_tokens}", {name: answer_tokens / value for name, value in whole.items()})


# %% [markdown]
# ### Training
#
# The last run of a model is rarely all: encoders and language models were trained before it, and some of that is
# shared.


# %%
def record_of(name):
    file = f"checkpoints/{name}.safetensors"
    return listing["files"].get(file) or listing.get("runs", {}).get(name) or {}


def chain(name, seen=None):  # this run and all that it needs, each once
    seen = {} if seen is None else seen
    if name not in seen:
        seen[name] = record_of(name).get("cost", {}).get("seconds")
        data = record_of(name).get("recipe", {}).get("data", {})
        for need in [*data.get("needs", ()), *filter(None, [data.get("backbone")])]:
            chain(need, seen)
    return seen


table, training = [], {}
for name in ranked:
    found = chain(name)
    unknown = [run for run, seconds in found.items() if seconds is None and run != "tokenizer"]
    training[name] = sum(filter(None, found.values())) / 60
    own = (found[name] or 0) / 60
    table.append([name, round(own), round(training[name]), len(found), ", ".join(unknown) or "none"])
show_table(["model", "minutes, last run", "minutes with what it needs", "runs", "not recorded"], table)
report.record("minutes of training with what it needs", training)

# %% [markdown]
# ## 4. Accuracy against cost
#
# A model is *beaten* when another is no worse in accuracy and in cost and better in one of them. What is left is the
# **Pareto front**. It needs no exchange rate between points and milliseconds, which is why it is worth drawing; which
# model of the front to take is then a question of purpose, not of statistics.


# %%
def front(points):  # name -> (cost, accuracy, ...)
    def beaten(name):
        cost, accuracy = points[name][:2]
        return any(c <= cost and a >= accuracy and (c < cost or a > accuracy) for c, a, *_ in points.values())

    return [name for name in points if not beaten(name)]


def against(cost):
    return {name: (value, *(by_type[name]["all"][key] for key in ("accuracy", "low", "high")))
            for name, value in cost.items() if value > 0}  # fmt: skip


panels = {"milliseconds an answer": against({name: 1e3 * value for name, value in whole.items()}),
          "millions of parameters": against({name: size / 1e6 for name, size in sizes.items()}),
          "minutes of training": against(training)}  # fmt: skip
panels = {cost: points for cost, points in panels.items() if points}
fronts = {cost: front(points) for cost, points in panels.items()}
show(
    diagrams.pareto(panels, fronts),
    alt="Accuracy against three kinds of cost. On the front: "
    + "; ".join(f"{cost}: {', '.join(names)}" for cost, names in fronts.items()) + ".",
    caption="Accuracy from the manifest with its 95 % interval; milliseconds measured here.",
)  # fmt: skip
report.record("Pareto fronts", fronts)

# %% [markdown]
# The front is drawn through measured points and inherits their noise. For each model behind it: is it beaten beyond
# doubt?

# %%
lines = []
for cost, points in panels.items():
    for name in points.keys() - set(fronts[cost]):
        value, accuracy = points[name][:2]
        better = [n for n, (c, a, *_) in points.items() if c <= value and a >= accuracy and n != name]
        sure = [n for n in better if newcombe(by_type[n]["all"], by_type[name]["all"])[1] > 0]
        lines.append(f"- {cost}: {name} is beaten by {', '.join(better)}; in accuracy beyond noise by "
                     + (", ".join(sure) or "none of them"))  # fmt: skip
Markdown("\n".join(sorted(lines)) or "No model is behind any of the fronts.")

# %% [markdown]
# ## 5. What the encoder changes, and what the backbone
#
# The board's models differ in many things at once. Chapter 11's experiment changes one at a time, with several seeds.
# Its averaged differences, where its results are there:

# %%
from vlmlab.benchmarks import experiment_results

try:
    experiment = experiment_results.shipped()
except BadInput:
    experiment = None
    print("data/experiments holds no results yet; vlmlab experiment encoders-by-backbones makes them")
if experiment:
    TITLES, rows = experiment_results.TITLES, experiment_results.ROWS
    averaged = [each for each in experiment["contrasts"] if not each["within"] and each["kind"] != "cell"]
    names = [f"{TITLES[each['first']]} − {TITLES[each['second']]}" for each in averaged]
    show(
        diagrams.contrasts(
            rows, {name: [tuple(each["rows"][row][key] for key in ("difference", "low", "high")) for row in rows]
                   for name, each in zip(names, averaged, strict=True)},
            sure={name: [each["rows"][row].get("holm", 1) < 0.05 for row in rows]
                  for name, each in zip(names, averaged, strict=True)},
        ),
        alt="Differences between encoders and backbones by category. Clear after Holm's correction: "
        + ("; ".join(f"{name}: {row}" for name, each in zip(names, averaged, strict=True) for row in rows
                     if each["rows"][row].get("holm", 1) < 0.05) or "none") + ".",
        caption="Filled: below 0.05 after Holm's correction.",
    )  # fmt: skip

# %%
if experiment:
    reach = {kind: max(abs(each["rows"]["spatial"]["difference"]) for each in averaged if each["kind"] == kind)
             for kind in {each["kind"] for each in averaged}}  # fmt: skip
    report.record("largest averaged difference on spatial questions", reach)
    told_reach = ", ".join(f"between {kind}s {100 * value:.1f} points" for kind, value in sorted(reach.items()))
    print(f"largest averaged difference on spatial questions: {told_reach}")

# %% [markdown]
# ## 6. What each model cannot do
#
# Two questions, type by type. Is the model better than without eyes, beyond its interval? And where does it gain least?
# Rows of fewer than 30 questions are left out.

# %%
table, weak = [], {}
for name in ranked:
    detailed = {row: v for row, v in by_type[name].items() if row != "all" and v["n"] >= 30}
    lost = [row for row, v in detailed.items() if v["low"] <= max(v["chance"], v["constant"], v["blind"])]
    worst = sorted(detailed, key=lambda row: gained(detailed[row]))[:3]
    weak[name] = [row for row in worst if row in TYPES] or worst[:1]
    table.append([name, ", ".join(lost) or "none", ", ".join(f"{row} ({gained(detailed[row]):.2f})" for row in worst)])
    report.record(f"{name}: types not told from answering without eyes", lost)
show_table(["model", "not told from answering without eyes", "gains least at"], table)

# %% [markdown]
# **Look at them.** Questions of the types at which the models gain least, on the same pictures, wrong answers first.


# %%
def examples(names, count=3):
    wanted = {row for name in names for row in weak[name] if row in TYPES}
    chosen, scenes_used = [], set()
    wrong = sum(1 - right[name] for name in names)  # (Q,): how many err
    for index in np.argsort(-wrong, kind="stable"):
        item = questions[index]
        if (item.question.type in wanted or not wanted) and id(item.scene) not in scenes_used and len(chosen) < count:
            chosen.append(int(index))
            scenes_used.add(id(item.scene))
    return chosen


columns = [name for name in ranked if name in live][:3]  # as many as the figure has room for
chosen = examples(columns) if columns else []
if chosen:
    marks = {name: [bool(right[name][index]) for index in chosen] for name in columns}
    show(
        answers_diagram.answer_table(
            [questions[index].scene.render(96).rgb for index in chosen],
            [f"{questions[index].question.text} ({questions[index].question.answer})" for index in chosen],
            {name: [said[name]["answers"][index]["said"] for index in chosen] for name in columns},
            right=marks,
        ),
        alt="Pictures, each with a question, the true answer in brackets, and what the models say: "
        + ", ".join(f"{name} {sum(flags)} of {len(chosen)} right" for name, flags in marks.items()) + ".",
    )  # fmt: skip

# %% [markdown]
# Do the models fail together? Where all err, the question may be too hard for 96 pixels; where one errs, look at its
# parts. (With a single model there is nothing to compare.)

# %%
if len(columns) > 1:
    wrong = np.stack([1 - right[name] for name in columns])  # (M, Q)
    all_wrong, some = float(wrong.min(0).mean()), float(wrong.max(0).mean())
    alone = float(np.prod(wrong.mean(1)))
    print(f"of {wrong.shape[1]} questions all {len(columns)} err on {all_wrong:.0%}; if they erred independently: "
          f"{alone:.0%}; at least one errs on {some:.0%}")  # fmt: skip
    report.record("all err, expected if independent, at least one errs", [all_wrong, alone, some])

# %% [markdown]
# ## 7. Put your own model on the board
#
# A training run leaves `model.safetensors` (chapter 04); `vlmlab.vlm.saving.save` writes such a file from any `VLM`. On
# the command line:
#
# ```
# vlmlab evaluate --model runs/my-run/model.safetensors --benchmark scenes --json > mine.json
# ```
#
# That asks the whole benchmark, with pictures and blind, and gives what the manifest keeps for each model. Here the
# same in a few lines, for a model that stands in for yours: the quickest of the board with noise added to its
# projector.

# %%
own = None
if live:
    quickest = min(live, key=whole.get)
    damaged, noise = copy.deepcopy(models[quickest]), runtime.generator(seed)
    with torch.no_grad():
        for p in damaged.projector.parameters():
            spread = float(p.std()) if p.numel() > 1 else 0.0
            p += spread * torch.randn(p.shape, generator=noise).to(p)
    with tempfile.TemporaryDirectory(prefix="vlmlab-own-") as folder:
        saving.save(damaged, Path(folder) / "model.safetensors")
        mine = vlmlab.load(Path(folder) / "model.safetensors", device=device)
    own = benchmarks.evaluate(mine, "scenes", limit=own_questions)
    row = own["by_type"]["all"]
    print(
        f"{row['n']} questions: {row['accuracy']:.0%} ({row['low']:.0%} to {row['high']:.0%}), blind {row['blind']:.0%}"
    )

# %% [markdown]
# Its place, with what is known: few questions, so a wide interval. Compared with the model it was made from, on the
# same questions:

# %%
if own:
    same = benchmarks.evaluate(models[quickest], "scenes", limit=own_questions)
    assert [a["question"] for a in own["answers"]] == [a["question"] for a in same["answers"]]
    origin = np.array([answer["right"] for answer in same["answers"]], float)
    flags = np.array([answer["right"] for answer in own["answers"]], float)
    gap = paired(flags, origin)
    shown = dict(sorted([*((name, by_type[name]["all"]) for name in board), ("your model", own["by_type"]["all"])],
                        key=lambda item: -item[1]["accuracy"]))  # fmt: skip
    show(
        figures.bars(list(shown), {"accuracy": [v["accuracy"] for v in shown.values()]},
                     intervals={"accuracy": [(v["low"], v["high"]) for v in shown.values()]}, percent=True,
                     limits=(0, 1.1)),
        alt="The board with your model: " + ", ".join(f"{n} {v['accuracy']:.0%}" for n, v in shown.items()) + ".",
    )  # fmt: skip
    report.record("own model minus its origin: difference and 95 % interval", list(gap))
    print(f"against {quickest}: {100 * gap[0]:+.0f} points ({100 * gap[1]:+.0f} to {100 * gap[2]:+.0f}), {told(*gap)}")

# %% [markdown]
# To have it in the tables above, add it before section 1 reads them: `measured["mine"] = {"scenes/sentence": own}`.
# Weights that ship with the suite enter the manifest by `python -m vlmlab.weights.publishing`, with hashes and cost.
#
# ## Exercises
#
# Replace each `...` by your own lines. A check says what is right or which mistake it looks like; until you begin, it
# says "not yet".
#
# ### Exercise 1 · Fair coins (medium, 15 minutes)
#
# `first` and `second` say for each question whether one and the other model was right. Return the exact two-sided
# p-value of McNemar's test, as in the toy numbers of section 2: 1 where they never differ.


# %%
def sign_test(first: list[bool], second: list[bool]) -> float:
    return ...  # your code here


check.sign_test(sign_test)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Count the questions that only the first got right, and only the second. `math.comb(n, k) / 2**n` is the chance of k
# heads. Sum from the larger count to n, twice, at most 1.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def sign_test(first, second):
#     b = sum(x and not y for x, y in zip(first, second))
#     c = sum(y and not x for x, y in zip(first, second))
#     n = b + c
#     tail = sum(math.comb(n, k) for k in range(max(b, c), n + 1)) / 2**n
#     return min(1.0, 2 * tail)
# ```
#
# Try it on `right[...]` of two models of the board.
#
# </details>
#
# ### Exercise 2 · The front (medium, 10 minutes)
#
# `points` maps names to (cost, accuracy). Return the sorted list of names that no other beats: one beats another if it
# is no worse in both and better in one.


# %%
def pareto_front(points: dict[str, tuple[float, float]]) -> list[str]:
    return ...  # your code here


check.pareto_front(pareto_front)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Two loops: for each name, is there another that beats it? Two models that agree in both numbers do not beat each
# other.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def pareto_front(points):
#     def beaten(cost, accuracy):
#         return any(
#             c <= cost and a >= accuracy and (c < cost or a > accuracy) for c, a in points.values()
#         )
#
#     return sorted(name for name, point in points.items() if not beaten(*point))
# ```
#
# </details>
#
# ### Exercise 3 · Expected rank (medium, 15 minutes)
#
# `draws` is an array (R, M): accuracies of M models in R repetitions of the measurement. Return the array (M,) of mean
# ranks, 1 the highest accuracy; models that are equal in a repetition share their places (two at the top: 1.5 each).


# %%
def mean_rank(draws: np.ndarray) -> np.ndarray:
    return ...  # your code here


check.mean_rank(mean_rank)

# %% [markdown]
# <details><summary>Hint</summary>
#
# The rank in a repetition is 1 + how many are better + half of how many others are equal. Compare `draws[:, None, :]`
# with `draws[:, :, None]`.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def mean_rank(draws):
#     better = (draws[:, None, :] > draws[:, :, None]).sum(-1)
#     equal = (draws[:, None, :] == draws[:, :, None]).sum(-1) - 1
#     return (1 + better + equal / 2).mean(0)
# ```
#
# </details>
#
# ### Exercise 4 · Above what needs no eyes (easy, 5 minutes)
#
# Return $(a - b) / (1 - b)$, where $a$ is the accuracy and $b$ the best of the three baselines. It may be negative.


# %%
def skill(accuracy: float, chance: float, constant: float, blind: float) -> float:
    return ...  # your code here


check.skill(skill)

# %% [markdown]
# <details><summary>Hint</summary>
#
# `max(chance, constant, blind)`. Why the best of them, and not chance alone?
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def skill(accuracy, chance, constant, blind):
#     base = max(chance, constant, blind)
#     return (accuracy - base) / (1 - base)
# ```
#
# </details>
#
# ### Exercise 5 · Another board (open, 30 minutes)
#
# The board weighs all types of question by how many there are. Weigh them otherwise: as your own use of a model would.
# Under how many weightings is each model first? How little must the weights move before the first place changes hands,
# and is that difference told from noise? Write down what you expect before you run it.
#
# <details><summary>Hint</summary>
#
# `by_type[name][kind]["accuracy"]` has the accuracies, `kinds[1:]` the types. `rng.dirichlet(np.ones(n), R)` draws R
# sets of n weights that add up to 1.
#
# </details>
# <details><summary>A way to begin</summary>
#
# ```python
# scores = np.array([[by_type[name][kind]["accuracy"] for kind in kinds[1:]] for name in ranked])  # (models, types)
# drawn = np.random.default_rng(seed).dirichlet(np.ones(scores.shape[1]), 2000)  # (R, types)
# first = (drawn @ scores.T).argmax(1)
# for i, name in enumerate(ranked):
#     print(f"{name}: first under {(first == i).mean():.0%} of the weightings")
# ```
#
# There is no single right answer, and no check. A good one says who would weigh so, and repeats the question with
# accuracies drawn from their intervals.
#
# </details>

# %% [markdown]
# ## Takeaways
#
# - An order of rows is a claim. Print the interval of the difference, or how often the order would come out again.
# - The same questions make a sharper comparison than more questions: what both find hard drops out.
# - An interval over questions does not cover another training run. One run a model is one sample of a recipe.
# - Baselines belong beside every number: chance, a constant answer, the model without eyes.
# - Cost has several meanings: parameters, memory that grows or does not, the first token, the last one, training. A
#   front shows them without an exchange rate.
# - The mean over all types hides what a model cannot do at all.
#
# What was recorded: accuracies, differences, expected ranks, costs, fronts, weak types, and the place of the added
# model.
