"""Linear probes from stage to stage: does a model not see a fact, or not say it? Notebooks 13 and 14.

    features = collect(vlm, left_right(120))    # one question about 120 scenes; half of the answers are yes
    diagnose(features)                          # stage by stage: probe, control, verdict

Where a linear map reads the right answer from a stage and the model's own answers are worse, the fact is encoded and
not read out. What a probe reads, the model need not use (`vlmlab.explain.patching` tells), and a probe that fails where
the model succeeds says nothing. The control fits the same probe to shuffled labels.

Sources: Alain and Bengio 2016 (arXiv 1610.01644); Hewitt and Liang 2019 (arXiv 1909.03368). Their control gives each
kind of input a random label; here no two inputs are of one kind, and labels are shuffled over inputs.
"""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vlmlab.benchmarks.held_out import Asked, evaluate, prompt
from vlmlab.benchmarks.shortcomings.staging import repeat
from vlmlab.benchmarks.statistics import proportion, wilson
from vlmlab.errors import BadInput, VlmlabError
from vlmlab.explain.inside import Inside
from vlmlab.explain.patching import read
from vlmlab.explain.regions import coverage
from vlmlab.language.mamba import Mamba
from vlmlab.runtime import generator
from vlmlab.scenes import sample
from vlmlab.scenes.programs import step
from vlmlab.scenes.questions import Question
from vlmlab.vision.probing import classify, ridge
from vlmlab.vlm.model import VLM

SIDES = {"yes": "left of", "no": "right of"}
COMPONENTS = 64  # principal components of the training part that a probe reads
PENALTY = 0.1  # of the ridge, relative to a component's mean variance
VERDICTS = ("read out", "encoded but not read out", "not encoded", "not linear here", "undecided")


class Features(NamedTuple):
    """What n questions left in a model. stages: name -> (n, D) float32. labels: the true answers. right: whether the
    model's own answer was right. scenes: equal for questions about one scene, which a probe must not see on both
    sides."""

    stages: dict[str, Tensor]
    labels: list[str]
    right: list[bool]
    scenes: list[str]


class Probe(NamedTuple):
    """Held-out accuracy of n predictions with its 95 % Wilson interval, and of the same probe on shuffled labels: the
    mean over the shuffles, and what 95 % of them lie between. The interval takes predictions as independent; folds
    share training data, and scenes may be asked about twice, so that it is a little narrow."""

    n: int
    accuracy: float
    low: float
    high: float
    control: float
    control_low: float
    control_high: float


class Finding(NamedTuple):
    """A stage's probe and what it says, one of VERDICTS."""

    stage: str
    probe: Probe
    verdict: str


class Diagnosis(NamedTuple):
    """The findings stage by stage, beside the model's own answers to the same questions: {"n", "accuracy", "low",
    "high"}, the interval Wilson's. chance: the share of the most frequent answer."""

    own: dict[str, float | int]
    chance: float
    findings: list[Finding]


def left_right(n: int = 120, subject: str = "cat", other: str = "sofa", seed: int = 0) -> list[Asked]:
    """The question "Is the cat left of the sofa?" about `n` test scenes with one of each and sometimes a third object.

    Every second answer is yes. One question for all leaves the answer to the picture alone, so that what a model holds
    before it has read the question can be probed for it. Raises VlmlabError where hardly any scene can be set up.
    """

    def build(rng: np.random.Generator, number: int) -> Asked | None:
        answer = ("yes", "no")[number % 2]
        pair = [{"kind": subject}, {"kind": other}]
        try:
            scene = sample(int(rng.integers(2**31)), split="test", objects=(2, 3), include=pair,
                           relation=(0, SIDES[answer], 1))  # fmt: skip
        except VlmlabError:
            return None
        kinds = [item.kind for item in scene.objects]
        return Asked(scene, question(answer)) if kinds.count(subject) == kinds.count(other) == 1 else None

    def question(answer: str) -> Question:
        program = [
            step("select", {"kind": subject}),
            step("unique", None, 0),
            step("select", {"kind": other}),
            step("unique", None, 2),
            step("verify", {"relation": "left of", "frame": "viewer"}, 1, 3),
        ]
        sentence = f"The {subject} is {SIDES[answer]} the {other}, {answer}."
        text = f"Is the {subject} left of the {other}?"
        return Question("relation", "left of", text, answer, sentence, program, (0, 1))

    return repeat(build, n, 71, seed)


def collect(vlm: VLM, asked: Sequence[Asked], form: str = "sentence") -> Features:
    """What a model holds of each question, stage by stage, and whether it answers right.

    Stages: "encoder, mean", "projector, mean", over all patches; "encoder, objects", "projector, objects", the means
    over the patches of each object that the question is about, side by side (the exact masks say where they are: such a
    probe is asked what the tokens hold, not whether the model finds them); "layer i", the residual stream at the
    prompt's last position; of a Mamba "state i, image" and "state i, prompt", the scan's state after either.

    form: how questions are put, as `vlmlab.benchmarks.held_out.evaluate` takes it; in "sentence" our models tell places
    and a reason before their verdict.
    Raises BadInput for no questions, for questions about different numbers of objects, or about one that is hidden.
    """
    if len(counts := {len(question.objects) for _, question in asked}) > 1:
        raise BadInput(f"questions about {' and '.join(map(str, sorted(counts)))} objects; probe one kind at a time")
    right = [answer["right"] for answer in evaluate(vlm, asked, form)["answers"]]
    rows: list[dict[str, Tensor]] = []
    for scene, question in asked:
        render = scene.render(vlm.config.image_size)
        inside = Inside.ask(vlm, render.rgb, prompt(question, form), question.answer)
        for index in question.objects:
            if not (render.mask == index + 1).any():
                raise BadInput(f"{question.text} The {scene.objects[index].kind} is hidden; leave this question out")
        rows.append(_stages(inside, render.mask, question.objects))
    stages = {name: torch.stack([row[name] for row in rows]).float().cpu() for name in rows[0]}
    labels = [question.answer for _, question in asked]
    return Features(stages, labels, right, [scene.to_json() for scene, _ in asked])


def _stages(inside: Inside, mask: np.ndarray, objects: Sequence[int]) -> dict[str, Tensor]:
    """One question's features, (D,) each."""
    layers, last = range(inside.vlm.language.config.layers), inside.words.start - 1
    parts = {"encoder": "features", "projector": "tokens"}
    run = inside.run([*parts.values(), *(f"language.layers.{i}" for i in layers)])
    found = {}
    for stage, name in parts.items():
        tokens = run[name][0]  # (P, D)
        tokens = tokens[len(tokens) - math.isqrt(len(tokens)) ** 2 :]  # without a class token in front
        found[f"{stage}, mean"] = tokens.mean(0)
        if objects:
            share = coverage(mask, objects, len(tokens)).to(tokens)  # (objects, P)
            found[f"{stage}, objects"] = (share @ tokens / share.sum(1, keepdim=True)).flatten()
    found |= {f"layer {i}": run[f"language.layers.{i}"][0, last] for i in layers}
    if isinstance(inside.vlm.language, Mamba):
        for name, (cache, _) in zip(("image", "prompt"), read(inside, [inside.image.stop - 1, last]), strict=True):
            states = (state for state in cache.states if state is not None)
            found |= {f"state {i}, {name}": state[0].flatten() for i, state in enumerate(states)}
    return found


def probe(
    x: Tensor,
    labels: Sequence[str],
    scenes: Sequence[str] | None = None,
    folds: int = 5,
    components: int = COMPONENTS,
    shuffles: int = 200,
    seed: int = 0,
) -> Probe:
    """How well a linear map reads labels from features it was not fitted on.

    In each fold the training part alone gives the channels' means and deviations, the principal components (at most
    `components`, and fewer than its examples) and a ridge classifier (PENALTY, one output a label).

    Args:
        x: (n, D). labels: n words. scenes: n names; what has the same name falls into the same fold.
        shuffles: controls, each the same probe fitted to and tested on labels in another order.
    Raises BadInput for fewer than two different labels or fewer scenes than folds.
    """
    names, y = np.unique(np.array(labels), return_inverse=True)
    keys, unit = np.unique(np.arange(len(y)) if scenes is None else np.array(scenes), return_inverse=True)
    if len(x) != len(y) or len(unit) != len(y) or len(names) < 2 or len(keys) < folds:
        raise BadInput(
            f"{len(x)} features with {len(y)} labels ({', '.join(names)}) of {len(keys)} scenes; a probe needs as many "
            f"of either, two different labels and {folds} scenes"
        )
    draw = generator(seed)
    fold = (torch.randperm(len(keys), generator=draw) % folds)[torch.from_numpy(unit)]
    orders = [torch.arange(len(y)), *(torch.randperm(len(y), generator=draw) for _ in range(shuffles))]
    targets = torch.from_numpy(y)[torch.stack(orders, 1)]  # (n, 1 + shuffles)
    right = torch.zeros_like(targets, dtype=torch.bool)
    for number in range(folds):
        test = fold == number
        before, after = _reduced(x[~test].double(), x[test].double(), components)
        weights = ridge(before, F.one_hot(targets[~test], len(names)).flatten(1), PENALTY)
        told = classify(weights, after).unflatten(1, (1 + shuffles, len(names))).argmax(-1)
        right[test] = told == targets[test]
    found, control = int(right[:, 0].sum()), right[:, 1:].double().mean(0)
    edges = torch.quantile(control, control.new_tensor([0.025, 0.975])).tolist()
    return Probe(len(y), found / len(y), *wilson(found, len(y)), float(control.mean()), *edges)


def _reduced(before: Tensor, after: Tensor, components: int) -> tuple[Tensor, Tensor]:
    """Training and test features, standardised and in principal components, both by the training part."""
    mean, deviation = before.mean(0), before.std(0)
    scale = torch.where(deviation > 1e-12, deviation, torch.inf)  # a constant channel says nothing
    before, after = (before - mean) / scale, (after - mean) / scale
    _, sizes, axes = torch.linalg.svd(before, full_matrices=False)
    kept = min(components, max(1, int((sizes > 1e-9 * sizes[0]).sum())))
    return before @ axes[:kept].T, after @ axes[:kept].T


def verdict(found: Probe, own: dict[str, Any], chance: float) -> str:
    """What a probe says beside the model's own accuracy, by 95 % intervals.

    The probe is above its control where its interval lies above that of the shuffles, and at its control where its
    interval reaches down to their mean. The model is below the probe where its interval lies below the probe's, and
    above chance where its interval lies above `chance`.

    | probe | model | verdict |
    |---|---|---|
    | above its control | below the probe | encoded but not read out |
    | above its control | not below the probe, above chance | read out |
    | at its control | not above chance | not encoded |
    | at its control | above chance | not linear here |
    | otherwise | | undecided |

    "not encoded" is said of a linear map and of this much data.
    """
    knows = own["low"] > chance
    if found.low <= found.control:
        return "not linear here" if knows else "not encoded"
    if found.low <= found.control_high:
        return "undecided"
    if own["high"] < found.low:
        return "encoded but not read out"
    return "read out" if knows else "undecided"


def diagnose(features: Features, **options: Any) -> Diagnosis:
    """Probe every stage; options as in `probe`. The folds and shuffles are the same for all stages."""
    own = proportion(features.right)
    chance = max(Counter(features.labels).values()) / len(features.labels)
    findings = []
    for name, x in features.stages.items():
        found = probe(x, features.labels, features.scenes, **options)
        findings.append(Finding(name, found, verdict(found, own, chance)))
    return Diagnosis(own, chance, findings)
