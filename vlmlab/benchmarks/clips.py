"""Notebook 12. Clips: how often a model answers right with their frames in order and in none, and what a frame costs.

The questions are those of `Clip.questions` about clips of the split `test`, balanced. The headline row, "all", holds
those that no single frame answers. Beside the frames in order stand controls: one frame alone, the frames shuffled or
reversed, no clip at all. Whoever gets as much from a control did not need the order, or the clip.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vlmlab.benchmarks.held_out import is_right
from vlmlab.benchmarks.statistics import proportion
from vlmlab.errors import BadInput, UnknownName
from vlmlab.scenes import Clip, sample_clip
from vlmlab.scenes.clip_programs import execute
from vlmlab.scenes.clip_questions import TYPES, Balance, ClipQuestion
from vlmlab.scenes.programs import Ambiguous
from vlmlab.scenes.questions import word
from vlmlab.vlm.clips import SIDE, Watcher, answer_clips, clip_features

if TYPE_CHECKING:
    from vlmlab.vlm.model import VLM

FRAMES = 8  # as many as training showed at most
ORDERS = ("in order", "reversed", "shuffled", "last frame", "middle frame", "blind")
LENGTHS = (1, 2, 4, 8, 16, 32, 64)
ONE = "one frame suffices"
"""The row of the questions that the headline leaves out."""
QUESTION = "Which way does the red ball move?"


class Asked(NamedTuple):
    """A question and the clip it is about, whole: the model is shown the first `question.shown` frames."""

    clip: Clip
    question: ClipQuestion


def questions(clips: int = 200, split: str = "test", types: Sequence[str] | None = None) -> list[Asked]:
    """Balanced questions about `clips` clips of a split; the same arguments give the same questions.

    Those that a single frame answers are balanced by themselves, so that leaving them out leaves the others balanced.
    """
    balances = {True: Balance(), False: Balance()}
    drawn = [sample_clip(seed, frames=FRAMES, split=split) for seed in range(clips)]
    every = (Asked(clip, q) for clip in drawn for q in clip.questions(types=types, count=16))
    return [item for item in every if balances[item.question.single_frame].keep(item.question)]


def order(count: int, how: str, seed: int = 0) -> list[int]:
    """Which of `count` frames are shown, and in which order; `how` is one of ORDERS, "blind" shows none."""
    frames = list(range(count))
    match how:
        case "in order":
            return frames
        case "reversed":
            return frames[::-1]
        case "shuffled":
            rng = np.random.default_rng([16, seed])
            while count > 2 and frames in (sorted(frames), sorted(frames)[::-1]):
                frames = rng.permutation(count).tolist()
            return frames
        case "last frame":
            return frames[-1:]
        case "middle frame":
            return [count // 2]
        case "blind":
            return []
    raise UnknownName("order of frames", how, ORDERS)


def truth(clip: Clip, question: ClipQuestion) -> str | None:
    """The answer to a question about a clip that it was not made for; None where it has none there."""
    try:
        answer = word(execute(question.program, clip))
    except Ambiguous:
        return None
    return answer if answer in question.options else None


def encode(vlm: "VLM", asked: Sequence[Asked]) -> dict[int, Tensor]:
    """The tokens (T, K, D_v) of every clip, by `id(clip)`: what the orders choose from."""
    clips = {id(item.clip): item.clip for item in asked}
    size = vlm.config.image_size
    return {key: clip_features(vlm, clip.render(size)).unflatten(0, (-1, SIDE**2)) for key, clip in clips.items()}


def answers(
    vlm: "VLM", asked: Sequence[Asked], seen: Mapping[int, Tensor], how: str = "in order", **options: Any
) -> list[str]:
    """A model's answers with the frames in some order; options as in `vlmlab.vlm.clips.answer_clips`."""
    shown: list[Tensor | None] = []
    for item in asked:
        frames = order(item.question.shown, how, item.clip.seed or 0)
        shown.append(seen[id(item.clip)][frames].flatten(0, 1) if frames else None)
    return answer_clips(vlm, shown, [item.question.text for item in asked], **options)


def summarise(asked: Sequence[Asked], right: Sequence[bool]) -> dict[str, dict[str, float]]:
    """By row: n, accuracy with its 95 % Wilson interval, chance and the most frequent answer's share ("constant").

    Rows: each type and "all", of questions that need more than one frame, and ONE.
    """
    groups: dict[str, list[int]] = {}
    for index, item in enumerate(asked):
        for row in (ONE,) if item.question.single_frame else (item.question.type, "all"):
            groups.setdefault(row, []).append(index)
    table = {}
    for row in (row for row in (*TYPES, "all", ONE) if row in groups):
        members = [asked[i].question for i in groups[row]]
        table[row] = {
            **proportion([right[i] for i in groups[row]]),
            "chance": sum(1 / len(q.options) for q in members) / len(members),
            "constant": Counter(q.answer for q in members).most_common(1)[0][1] / len(members),
        }
    return table


def by_order(
    vlm: "VLM", asked: Sequence[Asked], progress: Callable[[int, int], object] | None = None
) -> dict[str, Any]:
    """Accuracy with the frames in each of ORDERS.

    Returns:
        {order: `summarise`'s table}, against the truth of the clip as it was. "turned": of the questions whose answer
        is another when the clip runs backwards, how many answers on reversed frames are right by the clip as it was
        ("forwards") and by the clip as it was shown ("backwards").
    Raises BadInput without questions.
    """
    if not asked:
        raise BadInput("no questions to ask")
    seen, found = encode(vlm, asked), {}
    said: list[str] = []
    for done, how in enumerate(ORDERS):
        texts = answers(vlm, asked, seen, how)
        right = [is_right(text, item.question.answer, "sentence") for text, item in zip(texts, asked, strict=True)]
        found[how] = summarise(asked, right)
        said = texts if how == "reversed" else said
        if progress is not None:
            progress(done + 1, len(ORDERS))
    turned = []
    for text, (clip, question) in zip(said, asked, strict=True):
        other = truth(clip.prefix(question.shown).reversed(), question)
        if other not in (None, question.answer) and not question.single_frame:
            turned.append((is_right(text, question.answer, "sentence"), is_right(text, str(other), "sentence")))
    forwards, backwards = ([pair[i] for pair in turned] for i in (0, 1))
    return {**found, "turned": {"forwards": proportion(forwards), "backwards": proportion(backwards)}}


def by_frames(
    vlm: "VLM",
    clips: int = 60,
    lengths: Sequence[int] = LENGTHS,
    split: str = "test",
    progress: Callable[[int, int], object] | None = None,
) -> dict[int, dict[str, float]]:
    """Accuracy by the number of frames: the same 1.75 seconds, seen more or less finely (1: the last frame).

    Everywhere the same questions, of which no single frame suffices and whose answer the finest sampling confirms. Few
    frames may not show what is asked. More than FRAMES are longer than anything trained on, and closer in time.
    """
    kinds = tuple(kind for kind in TYPES if kind != "next")  # that is asked about a part of the seconds
    finest = {seed: sample_clip(seed, frames=max(*lengths, FRAMES), split=split) for seed in range(clips)}
    asked = [
        item
        for item in questions(clips, split, kinds)
        if not item.question.single_frame and truth(finest[item.clip.seed or 0], item.question) == item.question.answer
    ]
    right: dict[int, list[bool]] = {length: [] for length in lengths}
    for done, seed in enumerate(finest):
        about = [item.question for item in asked if item.clip.seed == seed]
        for length in lengths if about else ():
            clip = sample_clip(seed, frames=max(length, 2), split=split)
            shown = clip_features(vlm, clip.take(range(len(clip) - length, len(clip))).render(vlm.config.image_size))
            texts = answer_clips(vlm, [shown] * len(about), [q.text for q in about])
            right[length] += [is_right(text, q.answer, "sentence") for text, q in zip(texts, about, strict=True)]
        if progress is not None:
            progress(done + 1, clips)
    chance = sum(1 / len(item.question.options) for item in asked) / max(len(asked), 1)
    return {length: {**proportion(flags), "chance": chance} for length, flags in right.items()}


def cost(
    models: Mapping[str, "VLM"], lengths: Sequence[int] = LENGTHS, rounds: int = 5, tokens: int = 8
) -> dict[str, Any]:
    """What it costs to go on watching after so many frames, of several models in turn, one stream each.

    Returns:
        {"frames": lengths, "threads", "encode_ms": a frame through the encoder, by model; and by model and length
        "read_ms": its tokens through the language model, "question_ms": a question up to its answer's first token,
        a copy of the cache included, "token_ms": each later one, "bytes": of the cache}.
    """
    from vlmlab.bench.scaling import continue_from
    from vlmlab.bench.timing import alternate

    picture = np.random.default_rng(0)
    frames = {
        name: picture.integers(0, 256, (1, *2 * (vlm.config.image_size,), 3), np.uint8) for name, vlm in models.items()
    }
    tokens_of = {name: clip_features(vlm, frames[name]) for name, vlm in models.items()}
    watchers = {name: Watcher(vlm) for name, vlm in models.items()}
    encoding = alternate({name: partial(clip_features, vlm, frames[name]) for name, vlm in models.items()}, rounds)
    found: dict[str, Any] = {what: {name: [] for name in models} for what in ("read_ms", "question_ms", "token_ms")}
    found["bytes"] = {name: [] for name in models}
    for length in lengths:
        for name, watcher in watchers.items():
            while watcher.frames < length:
                watcher.read(tokens_of[name])
        # a frame is read into a fork, since reading changes what it is read into; forks are made beforehand
        forks = {name: [watcher.fork() for _ in range(rounds + 1)] for name, watcher in watchers.items()}
        reading = alternate({name: _reader(forks[name], tokens_of[name]) for name in models}, rounds)
        asking = alternate({name: partial(watcher.logits, QUESTION) for name, watcher in watchers.items()}, rounds)
        later = {name: partial(continue_from, vlm.language, watchers[name].cache, tokens)
                 for name, vlm in models.items()}  # fmt: skip
        writing = alternate(later, rounds)
        for name, watcher in watchers.items():
            found["read_ms"][name].append(round(1e3 * reading[name], 3))
            found["question_ms"][name].append(round(1e3 * asking[name], 3))
            found["token_ms"][name].append(round(1e3 * writing[name] / tokens, 3))
            found["bytes"][name].append(watcher.bytes())
    encode = {name: round(1e3 * seconds, 3) for name, seconds in encoding.items()}
    return {"frames": list(lengths), "threads": torch.get_num_threads(), "encode_ms": encode, **found}


def _reader(forks: list[Watcher], tokens: Tensor) -> Callable[[], None]:
    return lambda: forks.pop().read(tokens)


def measure(
    vlm: "VLM", name: str, clips: int = 200, progress: Callable[[int, int], object] | None = None
) -> dict[str, Any]:
    """All of it about one model: {"model", "split", "clips", "n", "accuracy", "orders", "frames", "cost"}.

    clips: asked about in each order; a third of them in each number of frames.
    """
    asked = questions(clips)
    orders = by_order(vlm, asked, progress)
    frames = by_frames(vlm, -(-clips // 3), progress=progress)
    headline = orders["in order"]["all"]
    return {
        "model": name,
        "split": "test",
        "clips": clips,
        "n": headline["n"],
        "accuracy": headline["accuracy"],
        "orders": orders,
        "frames": {str(length): found for length, found in frames.items()},
        "cost": cost({name: vlm}),
    }


def table(result: dict[str, Any]) -> Any:
    """The accuracies of `measure` by type and order as a rich table, in per cent."""
    from rich.table import Table

    title = f"{result['model']}: {result['clips']} clips, {result['n']} questions that need time, per cent"
    out = Table(title=title, title_justify="left", box=None)
    for column in ("type", "n", *(how.removesuffix(" frame") for how in ORDERS), "chance", "constant"):
        out.add_column(column, justify="left" if column == "type" else "right", no_wrap=True)
    for row, values in result["orders"]["in order"].items():
        shares = [result["orders"][how][row] for how in ORDERS]
        first = f"{100 * values['accuracy']:.0f} ({100 * values['low']:.0f}-{100 * values['high']:.0f})"
        rest = [f"{100 * share['accuracy']:.0f}" for share in shares[1:]]
        ends = [f"{100 * values[key]:.0f}" for key in ("chance", "constant")]
        out.add_row(row, str(values["n"]), first, *rest, *ends)
    return out
