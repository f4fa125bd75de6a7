# %% [markdown]
# # 03 · Instruction data from a teacher that cannot see
#
# *Visual Instruction Tuning* (Liu, Li, Wu, Lee 2023, [arXiv 2304.08485](https://arxiv.org/abs/2304.08485), section 3);
# programs on scene graphs: *GQA* (Hudson and Manning 2019, [arXiv 1902.09506](https://arxiv.org/abs/1902.09506)).
#
# LLaVA's second idea is its data. GPT-4, a language model that takes text only, wrote 158K conversations about pictures
# it never saw. It was given *descriptions*: five captions and a list of boxes. From these it made three kinds of data:
# conversations (58K), detailed descriptions (23K) and complex reasoning (77K), from about 80K pictures.
#
# Our teacher is not a language model. It is a set of templates over the scene graph: it reads facts, never pixels, and
# every sentence it writes can be checked. A teacher that is a language model would read the same context; one comes in
# a later part of this suite and is not here yet.
#
# **After this chapter you can**
#
# - write the context that a text-only teacher reads, and say what is missing from it;
# - execute a question's program step by step on a scene graph;
# - turn scenes into LLaVA's JSON records of all three kinds, and verify each claim in them;
# - recognise three faults of instruction data: questions without an answer, answers that the question gives away, and
#   answers with too little to learn from.
#
# **Time** about 10 s of computing on 2 CPU cores, 0.4 GB of memory; 45 to 75 minutes of reading and exercises. No GPU.

# %% tags=["parameters"]
profile = "quick"  # "quick" or "full"
seed = 3  # of the scene that is looked at closely
device = "cpu"  # nothing here runs on an accelerator
count = 250  # scenes in the statistics

# %%
import json
import re
from collections import Counter

import numpy as np

import vlmlab
from vlmlab import figures, files, report, runtime, scenes
from vlmlab.checks import nb03 as check
from vlmlab.figures import llava as diagrams
from vlmlab.figures import show

runtime.seed_everything(seed)
rng = np.random.default_rng(seed)

# %% [markdown]
# ## 1. Toy numbers: a program by hand
#
# Two objects, and where their middles are in the picture, from 0 (left) to 1 (right):

# %%
toy = [
    {"kind": "cat", "colour": "red", "u": 0.3},
    {"kind": "sofa", "colour": "blue", "u": 0.7},
]

# %% [markdown]
# *What color is the object left of the sofa?* Four steps, each a line. The last value is the answer, and it is exact:
# nobody had to look.

# %%
sofas = [i for i, thing in enumerate(toy) if thing["kind"] == "sofa"]  # select kind=sofa
(sofa,) = sofas  # unique: fails unless there is exactly one
(left,) = [i for i, thing in enumerate(toy) if thing["u"] < toy[sofa]["u"]]  # relate "left of", unique
toy[left]["colour"]  # query colour

# %% [markdown]
# ## 2. What the teacher reads
#
# A scene, its picture, and its context in the format of the paper (section 3): captions, then `category: [x1, y1, x2,
# y2]` with the corners as fractions of the picture, three decimals.

# %%
scene = scenes.sample(seed, split="train", objects=4)
render = scene.render(192)


def context(scene, render):
    dense, *facts = re.findall(r"[^.]+\.", scene.caption("full"))
    captions = [scene.caption("short"), dense.strip(), *(fact.strip() for fact in facts[:3])]
    boxes = render.boxes / render.rgb.shape[0]  # pixels -> fractions
    lines = [f"{o.kind}: [{', '.join(f'{v:.3f}' for v in box)}]" for o, box in zip(scene.objects, boxes, strict=True)]
    return "\n".join([*captions, "", *lines])


print(context(scene, render))

# %%
show(
    figures.pictures(
        [render.rgb, np.full_like(render.rgb, 245)],
        titles=["the picture, never shown", "what the boxes say"],
        boxes=[None, render.boxes],
        labels=[[], [o.kind for o in scene.objects]],
        width=2.9,
    ),
    alt="Left the rendered scene, right only the labelled boxes of its objects on an empty ground.",
    caption="The right side and the captions are all that a text-only teacher knows.",
)

# %% [markdown]
# What is lost on the way? A box says where an object is *in the picture*. Take each pair of objects whose relation is
# beyond doubt, and decide it from the boxes alone: left/right from the middles, front/behind from the lower edges (what
# stands nearer ends lower, on one floor), on or inside from one box's middle within the other box.

# %%
from vlmlab.scenes.relations import holds

# Small renders are enough for boxes.
sample = [scenes.sample(1000 + i) for i in range(count)]
boxed = [(s, s.render(48, samples=1).boxes) for s in sample[: count // 2]]
agree = {"left of": [], "in front of": []}
holding = []  # of the pairs whose boxes look like "on" or "inside": is it so?
for s, boxes in boxed:
    for a in range(len(boxes)):
        for b in range(a + 1, len(boxes)):
            guess = {
                "left of": boxes[a, [0, 2]].sum() < boxes[b, [0, 2]].sum(),
                "in front of": boxes[a, 3] > boxes[b, 3],
            }
            for name in agree:
                truth = holds(s, name, a, b)
                if truth is not None and boxes[a].any() and boxes[b].any():
                    agree[name].append(guess[name] == truth)
        for b in range(len(boxes)):
            middle = (boxes[a, :2] + boxes[a, 2:]) / 2
            if a != b and (boxes[b, :2] < middle).all() and (middle < boxes[b, 2:]).all():
                holding.append(any(holds(s, name, a, b) for name in ("on", "inside")))
for name, hits in agree.items():
    report.record(f"'{name}' decided from boxes alone, accuracy", float(np.mean(hits)))
report.record("boxes look like 'on' or 'inside', and it is so", float(np.mean(holding)))

# %% [markdown]
# Where things stand on the floor survives. What carries, holds or merely hides what is less sure. Colour, material and
# facing are in no box at all: they reach the teacher through the captions or not at all. A teacher that answers anyway
# makes something up, and the student learns to do so.

# %% [markdown]
# ## 3. Questions are programs
#
# The scene graph: objects with fields, and relations with a margin (1 and more: beyond doubt).

# %%
for i, thing in enumerate(scene.objects):
    print(i, thing.size, thing.material, thing.colour, thing.kind)
for relation in scene.relations(names=("left of", "in front of", "on", "inside", "under", "near"))[:8]:
    print(f"{relation.subject} {relation.name} {relation.object}   margin {relation.margin:.1f}")

# %%
hops = [q for q in scene.questions(types=["multi_hop", "referring"], count=12) if len(q.program) >= 4]
asked = max(hops, key=lambda q: (q.answer not in ("no", "0"), len(q.program)))
print(asked.text, "→", asked.answer)
for number, item in enumerate(asked.program):
    print(f"  {number}: {item['operation']:8} {item['argument'] or ''}  from {item['dependencies']}")

# %% [markdown]
# An interpreter needs one function an operation. An operation gets the scene, its argument and the values of the
# steps it depends on; sets of objects are lists of indices. `Ambiguous` says that the question must not be asked.

# %%
from vlmlab.scenes.programs import Ambiguous


def unique(members):
    if len(members) != 1:
        raise Ambiguous(f"{len(members)} objects fit, not one")
    return members[0]


def matching(scene, members, fields):
    return [i for i in members if all(getattr(scene.objects[i], name) == value for name, value in fields.items())]


def relate(scene, argument, anchor):
    verdicts = {
        i: holds(scene, argument["relation"], i, anchor, argument["frame"])
        for i in range(len(scene.objects))
        if i != anchor
    }
    return [i for i, holds_there in verdicts.items() if holds_there]


# %%
OPERATIONS = {
    "select": lambda scene, fields: matching(scene, range(len(scene.objects)), fields),
    "filter": lambda scene, fields, members: matching(scene, members, fields),
    "unique": lambda scene, _, members: unique(members),
    "relate": relate,
    "exist": lambda scene, _, members: len(members) > 0,
    "count": lambda scene, _, members: len(members),
    "query": lambda scene, field, index: getattr(scene.objects[index], field),
    "more": lambda scene, _, first, second: first > second,
    "fewer": lambda scene, _, first, second: first < second,
    "same": lambda scene, field, a, b: getattr(scene.objects[a], field) == getattr(scene.objects[b], field),
}


def values_of(program, scene):
    values = []
    for item in program:
        inputs = [values[i] for i in item["dependencies"]]
        values.append(OPERATIONS[item["operation"]](scene, item["argument"], *inputs))
    return values


# %%
values = values_of(asked.program, scene)
framed, notes = [], []
for number, value in enumerate(values):
    operation, argument = asked.program[number]["operation"], asked.program[number]["argument"] or {}
    framed.append(value if isinstance(value, list) else [value] if operation == "unique" else [])
    told = argument.get("relation") or ", ".join(argument.values()) if isinstance(argument, dict) else argument
    notes.append(f"{told} {'' if framed[-1] else '→ ' + str(value)}".strip())
show(
    figures.pictures(
        [render.rgb] * len(values),
        titles=[f"{number}: {item['operation']}" for number, item in enumerate(asked.program)],
        notes=notes,
        boxes=[render.boxes[found] if found else None for found in framed],
        labels=[[scene.objects[i].kind for i in found] for found in framed],
        columns=len(values) if len(values) < 6 else 4,
        title=asked.text,
    ),
    alt=f"One picture a step of the program, what the step returns framed. The last step says {values[-1]}.",
)

# %% [markdown]
# **Check** against the package's interpreter, on every question that needs only these operations:

# %%
from vlmlab.scenes.programs import execute
from vlmlab.scenes.questions import word

pool = [(s, q) for s in sample for q in s.questions(count=12)]
known = [
    (s, q)
    for s, q in pool
    if all(item["operation"] in OPERATIONS and item["argument"] != "facing" for item in q.program)
]
assert all(word(values_of(q.program, s)[-1]) == word(execute(q.program, s)) == q.answer for s, q in known)
report.record("questions whose program was executed by both interpreters", len(known))

# %% [markdown]
# ## 4. Three kinds of data
#
# *Conversation*: several questions about what is there, answered as by someone who sees it. *Detail*: one request, a
# full description. *Complex reasoning*: the answer needs several steps, and says them. The paper's rules hold here as
# well: only definite answers; speak as if looking at the picture; mention neither captions nor boxes.

# %%
DETAILED = ["Describe the picture in detail.", "What do you see? Be thorough.", "Give a full description of the scene."]
REASONING = ("multi_hop", "comparison")


def teach(scene, rng):
    asked = scene.questions(count=10)
    simple = [q for q in asked if q.type not in REASONING][:3]
    hard = [q for q in asked if q.type in REASONING][:1]
    return {
        "conversation": [(q.text, q.sentence) for q in simple],
        "detail": [(DETAILED[rng.integers(len(DETAILED))], scene.caption("full"))],
        "reasoning": [(q.text, q.sentence) for q in hard],
    }


for kind, turns in teach(scene, rng).items():
    for text, reply in turns:
        print(f"{kind:12} {text}\n{'':12} → {reply}")

# %% [markdown]
# LLaVA's file format is a list of records. `<image>` stands in the first human turn, once; the roles are called `human`
# and `gpt`.


# %%
def record(identifier, image, turns):
    conversations = []
    for number, (text, reply) in enumerate(turns):
        conversations.append({"from": "human", "value": ("<image>\n" if number == 0 else "") + text})
        conversations.append({"from": "gpt", "value": reply})
    return {"id": identifier, "image": image, "conversations": conversations}


records = [
    record(f"{s.seed:06d}-{kind}", f"{s.seed:06d}.png", turns)
    for s in sample
    for kind, turns in teach(s, rng).items()
    if turns
]
print(json.dumps(records[0], indent=1))

# %%
folder = runtime.work_dir() / "nb03"
files.write_json(folder / "instruct.json", records)
again = files.read_json(folder / "instruct.json")
assert again == records
kinds = Counter(r["id"].split("-")[1] for r in records)
report.record("records by kind", dict(kinds))

# %% [markdown]
# ## 5. Every claim, verified
#
# GPT-4's sentences could only be sampled and read. Ours can be parsed and tested. A claim is a pattern; a noun phrase
# such as "red cat" must fit exactly one object.

# %%
NOUN = r"((?:\w+ )?\w+)"
SPATIAL = "left of|right of|in front of|behind|on|inside|under|near|far from"
STATEMENT = re.compile(rf"[Tt]he {NOUN} is (not )?({SPATIAL}) the {NOUN}\b")


def named(scene, phrase):
    words = phrase.split()
    fits = [i for i, o in enumerate(scene.objects) if o.kind == words[-1] and (len(words) == 1 or words[0] == o.colour)]
    return fits[0] if len(fits) == 1 else None


def claims(text):
    return [match.groups() for match in STATEMENT.finditer(text)]


def verify(scene, claim):
    first, negated, relation, second = claim
    a, b = named(scene, first), named(scene, second)
    if a is None or b is None:
        return None  # nobody knows what is meant
    truth = holds(scene, relation, a, b)
    return None if truth is None else truth != bool(negated)


# %%
by_image = {f"{s.seed:06d}.png": s for s in sample}
stated = [
    (by_image[r["image"]], claim)
    for r in records
    for turn in r["conversations"]
    if turn["from"] == "gpt"
    for claim in claims(turn["value"])
]
verdicts = Counter(verify(s, claim) for s, claim in stated)
print(verdicts)
for s, claim in stated:
    if not verify(s, claim):
        print("not verified:", *(part for part in claim if part), "| the scene:", s.caption("short"))
report.record("spatial claims checked", len(stated))
report.record("share of claims that hold", verdicts[True] / len(stated))

# %% [markdown]
# `None` says that nobody can tell: a name that fits two objects, most often. Such a sentence is not false, but it
# teaches nothing, and the verifier names it.
#
# A check that finds nothing may be blind. Plant lies, exchanging left and right in every tenth claim that has one:

# %%
SWAP = {"left of": "right of", "right of": "left of"}
sided = [(s, claim) for s, claim in stated if claim[2] in SWAP]
lied = rng.random(len(sided)) < 0.1
planted = [(s, (c[0], c[1], SWAP[c[2]] if lie else c[2], c[3])) for (s, c), lie in zip(sided, lied, strict=True)]
caught = np.array([verify(s, claim) is False for s, claim in planted])
report.record("planted lies caught", float(caught[lied].mean()))
report.record("true claims called false", float(caught[~lied].mean()))

# %% [markdown]
# ## 6. Questions that must not be asked
#
# Two cats and "the cat": degenerate. Two objects side by side at nearly the same place from left to right: ambiguous. A
# label would be a coin toss. The margin of "left of" is the distance of the middles over 7 % of the picture's width;
# between -1 and 1 nobody is asked.

# %%
from vlmlab.scenes.relations import margin

margins = np.array([margin(s, "left of", a, b) for s in sample for a in range(len(s.objects)) for b in range(a)])
refused = float((np.abs(margins) < 1).mean())
report.record("pairs refused as ambiguous, left/right", refused)
show(
    diagrams.histogram(
        margins, band=(-1, 1), band_label=f"refused: {100 * refused:.0f} %", limits=(-8, 8),
        xlabel="margin of 'left of' (multiples of the threshold)", ylabel="pairs of objects",
    ),
    alt=f"Histogram of margins over pairs of objects; the band from -1 to 1, {100 * refused:.0f} %, is refused.",
)  # fmt: skip

# %%
from vlmlab.scenes.programs import step

doubtful = next(
    (s, a, b)
    for s in sample
    for a in range(len(s.objects))
    for b in range(a)
    if abs(margin(s, "left of", a, b)) < 0.3 and s.objects[a].kind != s.objects[b].kind
)
s, a, b = doubtful
first, second = s.objects[a].kind, s.objects[b].kind
fields = [{"kind": s.objects[i].kind, "colour": s.objects[i].colour} for i in (a, b)]
left_of = step("verify", {"relation": "left of", "frame": "viewer"}, 1, 3)
try:
    execute(
        [
            step("select", fields[0]),
            step("unique", None, 0),
            step("select", fields[1]),
            step("unique", None, 2),
            left_of,
        ],
        s,
    )
except Ambiguous as error:
    print(f"Is the {first} left of the {second}? refused:", error)

# %%
twice = next(s for s in sample if max(Counter(o.kind for o in s.objects).values()) == 2)
kind = Counter(o.kind for o in twice.objects).most_common(1)[0][0]
try:
    execute([step("select", {"kind": kind}), step("unique", None, 0), step("query", "colour", 1)], twice)
except Ambiguous as error:
    print(f"What color is the {kind}? refused:", error)
show(
    figures.pictures(
        [s.render(192).rgb, twice.render(192).rgb],
        titles=["ambiguous", "degenerate"],
        notes=[f"Is the {first} left of the {second}?", f"What color is the {kind}?"],
        width=2.6,
    ),
    alt=f"Left a {first} and a {second} at almost the same place from left to right; right a scene with two {kind}s.",
)

# %% [markdown]
# ## 7. Answers that the question gives away
#
# Ask "Is A on B?" about random pairs, and nearly every answer is no. A model that never looks then scores well, and
# learns not to look. Two remedies: draw the *answer* first and then look for a question that has it; and drop questions
# whose answer is ahead (`Balance`).

# %%
from vlmlab.scenes.questions import Balance

RELATIONS = ("left of", "in front of", "on", "inside", "under", "near", "facing")
random_pairs = {name: [] for name in RELATIONS}
for s in sample:
    for a in range(len(s.objects)):
        for b in range(len(s.objects)):
            for name in RELATIONS:
                truth = holds(s, name, a, b) if a != b else None
                if truth is not None:
                    random_pairs[name].append(truth)
drawn = [
    (q.topic, q.answer == "yes")
    for s in sample
    for r in RELATIONS
    for q in s.questions(types=["relation"], relation=r, count=2)
]
balance = Balance()
kept = [
    (q.topic, q.answer == "yes")
    for s in sample
    for r in RELATIONS
    for q in s.questions(types=["relation"], relation=r, count=2)
    if balance.keep(q)
]


# %%
def yes_share(pairs):
    return [float(np.mean([yes for topic, yes in pairs if topic == name])) for name in RELATIONS]


shares = {
    "random pairs": [float(np.mean(random_pairs[name])) for name in RELATIONS],
    "answer drawn first": yes_share(drawn),
    "and balanced": yes_share(kept),
}
show(
    figures.bars(RELATIONS, shares, percent=True, limits=(0, 0.6), title="Share of 'yes' by relation"),
    alt="Share of yes answers by relation: far from one half for random pairs, near one half after balancing.",
    caption="One half says that the relation's name gives nothing away.",
)

# %% [markdown]
# What a model without eyes scores when it says each relation's more frequent answer:

# %%
blind = {name: float(np.mean([max(p, 1 - p) for p in values])) for name, values in shares.items()}
for name, value in blind.items():
    report.record(f"blind accuracy on relations, {name}", value)

# %% [markdown]
# ## 8. Sentences with the verdict last
#
# Each question has two answers: one word, and a sentence that says what is to be seen *before* it gives the verdict.
# LLaVA-1.5 asks for the short one with a format prompt: "Answer the question using a single word or phrase." Where the
# verdict depends on places, the sentence comes after them, "sofa,C4; cat,F5.", in the squares of a chessboard laid over
# the picture: each square is one look, and "left of" is then read off two letters. Shikra
# ([arXiv 2306.15195](https://arxiv.org/abs/2306.15195)) answers with coordinates for the same reason.

# %%
from vlmlab.vlm.conversations import as_item

template, tokenizer = (
    vlmlab.vlm.get_template("v1", ""),
    vlmlab.language.Tokenizer.load(runtime.data_dir() / "checkpoints/tokenizer.json"),
)
relation = next(q for q in scene.questions(types=["relation"], count=6) if q.answer == "no")
for short in (False, True):
    item = as_item(scene, relation, short)
    ids, labels = template.encode(
        [{"from": "human", "value": "<image>\n" + item.question}, {"from": "gpt", "value": item.places + item.answer}],
        tokenizer,
    )
    groups = [
        "loss" if y != -100 else "image" if i == tokenizer.image_id else "text"
        for i, y in zip(ids, labels, strict=True)
    ]
    show(
        figures.token_strip([tokenizer.token(i) for i in ids], groups, title="one word" if short else "a sentence"),
        alt=f"{sum(y != -100 for y in labels)} of {len(ids)} tokens carry loss.",
    )

# %% [markdown]
# The sentence has more to learn from, and of another kind. Its first half names objects and their relation: each of
# these tokens has its own gradient, and most are wrong only if the model did not look. Given that half, the verdict is
# a matter of language: "left of" asked, "right of" said, so "no". The one-word answer must do all of it in one token.

# %%
lengths = {}
for pictured, q in pool:
    for short in (False, True):
        item = as_item(pictured, q, short)
        lengths.setdefault((q.type, short), []).append(len(tokenizer.encode(" " + item.places + item.answer)) + 1)
TYPES = scenes.questions.TYPES
means = {
    name: [float(np.mean(lengths[kind, short])) for kind in TYPES]
    for name, short in (("sentence", False), ("one word", True))
}
show(
    figures.bars(TYPES, means, xlabel="tokens that carry loss, end token included", title="What an answer teaches"),
    alt="Mean number of supervised tokens by question type: sentences have several times as many as one-word answers.",
)
report.record(
    "supervised tokens an answer: sentence / one word", float(np.mean(means["sentence"]) / np.mean(means["one word"]))
)

# %% [markdown]
# Whether this matters is measured in [chapter 04](04_training_llava.ipynb), section 9.
#
# How long the records are, as the model reads them (a picture is 64 tokens of `llava-tiny`):

# %%
rows = {kind: [] for kind in kinds}
for r in records:
    ids, labels = template.encode(r["conversations"], tokenizer)
    rows[r["id"].split("-")[1]].append((len(ids) - 1 + 64, sum(y != -100 for y in labels)))
for kind, pairs in rows.items():
    total, learnt = np.mean(pairs, axis=0)
    print(f"{kind:12}  {total:5.0f} tokens a record, {learnt:5.1f} of them carry loss")
    report.record(f"tokens with loss a record, {kind}", float(learnt))

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
# ### Exercise 2 · Write a program (medium, 10 minutes)
#
# Return the program of "How many {colour} objects are {relation} the {kind}?", for instance "How many red objects are
# left of the sofa?". A step is `step(operation, argument, *dependencies)`, as above; `relate` takes
# `{"relation": ..., "frame": "viewer"}`.


# %%
def how_many(colour: str, relation: str, kind: str) -> list[dict]:
    return ...  # your code here


check.how_many(how_many)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Find the one object of that kind (two steps), then the objects that stand in the relation to it, then those among them
# with the colour (`filter`), then count.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def how_many(colour, relation, kind):
#     return [
#         step("select", {"kind": kind}),
#         step("unique", None, 0),
#         step("relate", {"relation": relation, "frame": "viewer"}, 1),
#         step("filter", {"colour": colour}, 2),
#         step("count", None, 3),
#     ]
# ```
#
# </details>
#
# ### Exercise 3 · A LLaVA record (easy, 5 minutes)
#
# Turn pairs of question and answer into one record: keys `id`, `image`, `conversations`; turns with `from` and `value`;
# `<image>` and a new line at the start of the first question, and nowhere else. Answers are stripped of white space.


# %%
def to_record(identifier: str, image: str, pairs: list[tuple[str, str]]) -> dict:
    return ...  # your code here


check.to_record(to_record)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Two turns a pair, "human" and "gpt". Only the pair number 0 gets the placeholder.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def to_record(identifier, image, pairs):
#     turns = []
#     for number, (question, answer) in enumerate(pairs):
#         turns.append({"from": "human", "value": ("<image>\n" if number == 0 else "") + question})
#         turns.append({"from": "gpt", "value": answer.strip()})
#     return {"id": identifier, "image": image, "conversations": turns}
# ```
#
# </details>
#
# ### Exercise 4 · Verify a claim (hard, 15 minutes)
#
# `claim` is a sentence "The A is left of the B." or "The A is right of the B."; A and B are a kind, or a colour and a
# kind. Return `"true"` when it holds in the scene beyond doubt, `"false"` when the opposite does, `"unknown"` when the
# pair is ambiguous or a name fits no object or several.


# %%
def holds_in(scene, claim: str) -> str:
    return ...  # your code here


check.holds_in(holds_in)

# %% [markdown]
# <details><summary>Hint</summary>
#
# `re.fullmatch` takes the sentence apart. `scene.geometry.u` has the objects' places in the picture; the world's x is
# not that, because the camera may stand to one side. `holds(scene, "left of", a, b)` knows the margin and says None.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def holds_in(scene, claim):
#     first, relation, second = re.fullmatch(r"The (.+) is (left of|right of) the (.+)\.", claim).groups()
#     found = []
#     for phrase in (first, second):
#         *colour, kind = phrase.split()
#         fits = [i for i, o in enumerate(scene.objects) if o.kind == kind and colour in ([], [o.colour])]
#         if len(fits) != 1:
#             return "unknown"
#         found += fits
#     return {True: "true", False: "false", None: "unknown"}[holds(scene, relation, *found)]
# ```
#
# </details>

# %% [markdown]
# ## Takeaways
#
# - A text-only teacher knows what its context says. Depth, facing and colour are there only if somebody wrote them
#   down.
# - A question with a program has an exact answer; where the program has none, the question is not asked.
# - Claims from templates can be verified one by one, and the verifier itself is tested with planted lies.
# - Balance answers within each kind of question, or a model that never looks scores well.
# - A sentence with the verdict last carries several times as many supervised tokens as the word alone.
#
# Not here yet: teachers that are language models (a small one offline, a large one over an API) reading the same
# context. Their claims will go through the same verifier.
#
# Next: [04 · Training LLaVA in two stages](04_training_llava.ipynb).
