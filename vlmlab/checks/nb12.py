"""Checks of notebook 12: paired frames, frames that fit, a stream with questions, events backwards, a ball and an edge,
a merged low-rank change."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from vlmlab.checks.base import Case, Mistake, Verdict, compare, run_check


# ---------------------------------------------------------------- 1 · half the frames
def _frames(tokens: Tensor, K: int) -> Tensor:
    """(T * K, D) -> (T, K, D)."""
    return tokens.reshape(-1, K, tokens.shape[1])


def pair_frames(answer: Any) -> Verdict:
    """Exercise 1: each two neighbouring frames averaged, token by token; an odd last one stays as it is."""

    def pairs(tokens: Tensor, K: int) -> list[Tensor]:
        x = _frames(tokens, K)
        return [x[i : i + 2].mean(0) for i in range(0, len(x), 2)]

    def with_end(pair: Callable[[Tensor], Tensor], last: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
        def run(tokens: Tensor, K: int) -> Tensor:
            x = _frames(tokens, K)
            found = [pair(x[i : i + 2]) for i in range(0, len(x) - 1, 2)]
            return torch.cat([*found, *([last(x[-1])] if len(x) % 2 else [])])

        return run

    def halves(tokens: Tensor, K: int) -> Tensor:
        x = _frames(tokens, K)
        half = len(x) // 2
        return torch.cat([(x[:half] + x[half : 2 * half]) / 2, x[2 * half :]]).flatten(0, 1)

    return run_check(
        "pair_frames",
        answer,
        lambda tokens, K: torch.cat(pairs(tokens, K)),
        [
            Case((torch.arange(8 * 4 * 3.0).reshape(-1, 3).sin(), 4), "8 frames of 4 tokens"),
            Case((torch.arange(5 * 2 * 2.0).reshape(-1, 2).cos(), 2), "5 frames of 2 tokens"),
        ],
        [
            Mistake("neighbouring tokens", "that averages two tokens of one frame; average two frames, token by token",
                    lambda tokens, K: tokens.reshape(-1, 2, tokens.shape[1]).mean(1)),
            Mistake("halves", "the first half is averaged with the second; frames 2i and 2i + 1 belong together",
                    halves),
            Mistake("last frame lost", "an odd last frame has no partner and stays as it is",
                    with_end(lambda x: x.mean(0), lambda x: x[:0])),
            Mistake("last frame halved", "an odd last frame has no partner, so it is not halved",
                    with_end(lambda x: x.mean(0), lambda x: x / 2)),
            Mistake("every other frame", "every other frame is thrown away; average it with its neighbour",
                    with_end(lambda x: x[0], lambda x: x)),
            Mistake("the sum", "that is the sum of two frames; average", with_end(lambda x: x.sum(0), lambda x: x)),
            Mistake("time averaged", "all frames are averaged into one, and time is gone",
                    lambda tokens, K: _frames(tokens, K).mean(0)),
            Mistake("not joined", "the frames are still apart: rows of tokens (frames * K, D) are asked for",
                    lambda tokens, K: torch.stack(pairs(tokens, K))),
        ],
        done="right, half the tokens, and still in the order of time",
    )  # fmt: skip


# ---------------------------------------------------------------- 2 · frames that fit
def frames_that_fit(answer: Any) -> Verdict:
    """Exercise 2: how many frames a transformer's positions leave room for."""

    def with_(text: Callable[[int, int], int], rounded: Callable[[int, int], int]) -> Callable[..., int]:
        return lambda positions, prompt, reply, side: rounded(positions - text(prompt, reply), side**2)

    def floor(a: int, b: int) -> int:
        return a // b

    return run_check(
        "frames_that_fit",
        answer,
        with_(lambda prompt, reply: prompt + reply, floor),
        [
            Case((1024, 30, 56, 2), "1024 positions, 4 tokens a frame"),
            Case((4096, 61, 300, 12), "4096 positions, 144 tokens a frame"),
            Case((200, 20, 7, 3), "200 positions, 9 tokens a frame"),
        ],
        [
            Mistake("no text", "the text needs positions too", with_(lambda p, r: 0, floor)),
            Mistake("no answer", "the answer needs positions too: each of its tokens is read to write the next",
                    with_(lambda p, r: p, floor)),
            Mistake("rounded up", "the last frame does not fit as a whole; round down",
                    with_(lambda p, r: p + r, lambda a, b: -(-a // b))),
            Mistake("not rounded", "a frame fits or it does not; give a whole number",
                    lambda positions, prompt, reply, side: (positions - prompt - reply) / side**2),
            Mistake("side", "a frame has side * side tokens", lambda n, p, r, side: (n - p - r) // side),
            Mistake("tokens", "those are tokens; how many frames is that?", lambda n, p, r, side: n - p - r),
        ],
        done="right; a recurrence has no such number",
        tolerance=0.0,
    )  # fmt: skip


# ---------------------------------------------------------------- 3 · a stream with questions
def _scan(tokens: Tensor, h: Tensor | None) -> tuple[Tensor, Tensor]:
    """h_t = h_{t-1} / 2 + x_t, from 0 where there is no state."""
    h, found = torch.zeros(()) if h is None else h, []
    for x in tokens:
        h = 0.5 * h + x
        found.append(h)
    return torch.stack(found), h


def watch_and_ask(answer: Any) -> Verdict:
    """Exercise 3: a question after every frame of a stream, without a trace and without reading twice."""

    def right(frames: list[Tensor], question: Tensor) -> dict[str, Any]:
        state, said = None, []
        for frame in frames:
            _, state = _scan(frame, state)
            said.append(_scan(question, state)[0][-1])
        return {"answers": said, "tokens read": sum(map(len, frames)) + len(frames) * len(question)}

    @wraps(answer if callable(answer) else right)
    def run(frames: list[Tensor], question: Tensor) -> Any:
        count = 0

        def read(tokens: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
            nonlocal count
            count += len(tokens)
            return _scan(tokens, state)

        said = answer(read, frames, question)
        return {"answers": said, "tokens read": count} if isinstance(said, list) else said

    def answers(wanted: Callable[[list[Tensor], Tensor], list[Tensor]]) -> Callable[..., bool]:
        return lambda got, _, frames, question: not compare(got["answers"], wanted(frames, question))

    def carried(frames: list[Tensor], question: Tensor) -> list[Tensor]:
        state, said = None, []
        for frame in frames:
            out, state = _scan(torch.cat([frame, question]), state)
            said.append(out[-1])
        return said

    return run_check(
        "watch_and_ask",
        run if callable(answer) else answer,
        right,
        [
            Case(([torch.tensor([1.0, 4.0]), torch.tensor([2.0, -1.0]), torch.tensor([8.0, 3.0])],
                  torch.tensor([5.0, 1.0, 7.0])), "3 frames of 2 tokens"),
            Case(([torch.tensor([v]) for v in (3.0, -2.0, 6.0, 1.0)], torch.tensor([2.0, 9.0])), "4 frames of 1 token"),
        ],
        [
            Mistake("the question stays", "a question leaves its trace: the next frame is read from the state behind "
                    "it, not from the frame's own", fits=answers(carried)),
            Mistake("only the last frame", "each question sees one frame only; hand the state on from frame to frame",
                    fits=answers(lambda frames, q: [_scan(q, _scan(f, None)[1])[0][-1] for f in frames])),
            Mistake("nothing seen", "the question starts from no state; hand it the one that the frames left",
                    fits=answers(lambda frames, q: [_scan(q, None)[0][-1]] * len(frames))),
            Mistake("at the end only", "one answer for each frame is asked for, not one at the end",
                    fits=lambda got, want, *_: len(got["answers"]) == 1 < len(want["answers"])),
            Mistake("all outputs", "give the output of the question's last token only",
                    fits=lambda got, _, frames, q: [len(a) for a in got["answers"]] == [len(q)] * len(frames)),
            Mistake("read again", "the answers are right, but frames are read more than once",
                    fits=lambda got, want, *_: not compare(got["answers"], want["answers"])),
        ],
        done="right, every frame is read once and no question leaves a trace",
    )  # fmt: skip


# ---------------------------------------------------------------- 4 · events backwards
Happening = tuple[str, int, int, str]
_UNDONE = {"added": "removed", "removed": "added", "moved": "moved"}
_TURNED = {"left": "right", "right": "left", "towards the camera": "away from the camera",
           "away from the camera": "towards the camera", "": ""}  # fmt: skip


def backwards(answer: Any) -> Verdict:
    """Exercise 4: what happens in a clip that runs from its last frame to its first."""

    def built(
        undone: bool = True, turned: bool = True, shift: int = 1, swapped: bool = True, sort: bool = True
    ) -> Callable[[list[Happening], int], list[Happening]]:
        def run(events: list[Happening], frames: int) -> list[Happening]:
            found = []
            for kind, begin, end, value in events:
                times = (frames - shift - end, frames - shift - begin)
                times = times if swapped else times[::-1]
                name, way = (_UNDONE[kind] if undone else kind), (_TURNED[value] if turned else value)
                found.append((name, *times, way))
            return sorted(found, key=lambda event: event[1]) if sort else found

        return run

    def times_kept(events: list[Happening], frames: int) -> list[Happening]:
        return [(_UNDONE[kind], begin, end, _TURNED[value]) for kind, begin, end, value in events]

    return run_check(
        "backwards",
        answer,
        built(),
        [
            Case(([("moved", 0, 2, "left"), ("added", 3, 4, ""), ("moved", 5, 7, "towards the camera")], 8),
                 "8 frames with three events"),
            Case(([("removed", 1, 2, ""), ("moved", 2, 4, "right")], 6), "6 frames with two events"),
        ],
        [
            Mistake("times kept", "the times are those of the clip as it was; frame t of T becomes frame T - 1 - t",
                    times_kept),
            Mistake("off by one", "frames are numbered 0 to T - 1: frame t becomes T - 1 - t, not T - t",
                    built(shift=0)),
            Mistake("ends before it begins", "an event's end is its beginning when time runs backwards",
                    built(swapped=False, sort=False)),
            Mistake("ends before it begins", "an event's end is its beginning when time runs backwards",
                    built(swapped=False)),
            Mistake("kinds kept", "what appears disappears when time runs backwards, and the other way round",
                    built(undone=False)),
            Mistake("directions kept", "what moves left moves right when time runs backwards", built(turned=False)),
            Mistake("not in order", "all events are right; sort them by the frame in which they begin",
                    built(sort=False)),
        ],
        done="right; the frames are the same, and nearly every answer is another",
        tolerance=0.0,
    )  # fmt: skip


# ---------------------------------------------------------------- 5 · a ball and an edge
def overshoot(answer: Any) -> Verdict:
    """Exercise 5: how far beyond the edge of a table a braking ball would roll, from two frames."""

    def rolls(
        correct: float = 0.5, half: float = 2.0, start: bool = True, stop: bool = True
    ) -> Callable[[float, float, float, float, float], float]:
        def run(before: float, now: float, dt: float, edge: float, brake: float) -> float:
            speed = (now - before) / dt - correct * brake * dt
            speed = max(speed, 0.0) if stop else speed
            return (now if start else 0.0) + speed**2 / (half * brake) - edge

        return run

    return run_check(
        "overshoot",
        answer,
        rolls(),
        [
            Case((0.10, 0.55, 0.25, 1.40, 1.0), "a fast ball"),
            Case((0.30, 0.42, 0.25, 0.90, 1.0), "a slow ball"),
            Case((0.20, 0.60, 0.40, 0.80, 3.0), "a rough table"),
            Case((0.300, 0.320, 0.25, 0.50, 1.0), "a ball that has stopped since the last frame"),
        ],
        [
            Mistake("mean speed", "(x2 - x1) / dt is the speed in the middle between the frames; by the second frame "
                    "the ball has lost brake * dt / 2 more", rolls(correct=0.0)),
            Mistake("braked too long", "half the time between the frames lies between the mean speed and the last "
                    "frame, not all of it", rolls(correct=1.0)),
            Mistake("sped up", "the ball gets slower: take the lost speed off", rolls(correct=-0.5)),
            Mistake("no half", "a braking body covers v^2 / (2 brake)", rolls(half=1.0)),
            Mistake("from zero", "the ball stands at x2 by then; count from there", rolls(start=False)),
            Mistake("rolls back", "a speed below 0 means that the ball has stopped; it does not roll on from there",
                    rolls(stop=False)),
            Mistake("the other way", "beyond the edge is positive, before it negative",
                    lambda *given: -rolls()(*given)),
            Mistake("says whether", "give the distance, not only whether it falls",
                    fits=lambda got, want, *_: isinstance(got, bool)),
        ],
        done="right; positive, and it falls",
    )  # fmt: skip


# ---------------------------------------------------------------- 6 · a merged low-rank change
def merged(answer: Any) -> Verdict:
    """Exercise 6: the weight of a layer with its LoRA added."""

    def scaled(scale: Callable[[Tensor, Tensor, float], float]) -> Callable[..., Tensor]:
        return lambda W, A, B, alpha: W + scale(A, B, alpha) * (B @ A)

    def numbers(*shape: int) -> Tensor:
        size = torch.Size(shape).numel()
        return (torch.arange(size).float() * (1.7 + size / 10)).sin().reshape(shape)

    return run_check(
        "merged",
        answer,
        scaled(lambda A, B, alpha: alpha / len(A)),
        [
            Case((numbers(6, 4), numbers(2, 4), numbers(6, 2), 6.0), "6 x 4, rank 2, alpha 6"),
            Case((numbers(5, 5), numbers(3, 5), numbers(5, 3), 1.5), "5 x 5, rank 3, alpha 1.5"),
        ],
        [
            Mistake("not scaled", "the change is scaled by alpha / r", scaled(lambda A, B, alpha: 1.0)),
            Mistake("alpha alone", "divide alpha by the rank", scaled(lambda A, B, alpha: alpha)),
            Mistake("one over r", "alpha is missing: the scale is alpha / r", scaled(lambda A, B, alpha: 1 / len(A))),
            Mistake("wrong rank", "the rank is the number of rows of A; you divide by the layer's width",
                    scaled(lambda A, B, alpha: alpha / A.shape[1])),
            Mistake("W lost", "that is the change alone; add it to W",
                    lambda W, A, B, alpha: alpha / len(A) * (B @ A)),
            Mistake("taken off", "add the change, do not subtract it", scaled(lambda A, B, alpha: -alpha / len(A))),
        ],
        done="right; the merged layer costs what the layer cost before",
    )  # fmt: skip
