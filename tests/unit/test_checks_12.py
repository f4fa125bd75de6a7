"""Each check of notebook 12 names the mistake of wrong answers; time backwards is what clips show."""

import pytest
import torch
from exercises import solutions

from vlmlab.checks import nb12
from vlmlab.scenes import sample_clip

SOLUTIONS = solutions("12_time.py", {"torch": torch})
OTHER = {"added": "removed", "removed": "added", "left": "right", "right": "left",
         "towards the camera": "away from the camera", "away from the camera": "towards the camera"}  # fmt: skip


def paired(pair, last=lambda x: x):
    def answer(tokens, K):
        x = tokens.view(-1, K, tokens.shape[1])
        found = [pair(x[i], x[i + 1]) for i in range(0, len(x) - 1, 2)]
        return torch.cat([*found, *([last(x[-1])] if len(x) % 2 else [])])

    return answer


def halved(tokens, K):
    x = tokens.view(-1, K, tokens.shape[1])
    n = len(x) // 2
    return torch.cat([*((x[i] + x[i + n]) / 2 for i in range(n)), *x[2 * n :]])


def stacked(tokens, K):
    x = tokens.view(-1, K, tokens.shape[1])
    return torch.stack([x[i : i + 2].mean(0) for i in range(0, len(x), 2)])


def trace(read, frames, question):
    state, found = None, []
    for frame in frames:
        _, state = read(frame, state)
        out, state = read(question, state)
        found.append(out[-1])
    return found


def again(read, frames, question):
    return [read(torch.cat([*frames[: t + 1], question]), None)[0][-1] for t in range(len(frames))]


def at_the_end(read, frames, question):
    return [read(question, read(torch.cat(frames), None)[1])[0][-1]]


def everything(read, frames, question):
    state, found = None, []
    for frame in frames:
        _, state = read(frame, state)
        found.append(read(question, state)[0])
    return found


def turned(kinds=True, ways=True, last=1, swap=True, sort=True):
    def answer(events, frames):
        found = []
        for kind, begin, end, way in events:
            a, b = frames - last - end, frames - last - begin
            found.append((OTHER.get(kind, kind) if kinds else kind, *((a, b) if swap else (b, a)),
                          OTHER.get(way, way) if ways else way))  # fmt: skip
        return sorted(found, key=lambda event: event[1]) if sort else found

    return answer


def rolled(lost=0.5, half=2.0, start=1, stop=True, sign=1):
    def answer(before, now, dt, edge, brake):
        speed = (now - before) / dt - lost * brake * dt
        speed = max(speed, 0.0) if stop else speed
        return sign * (start * now + speed * speed / half / brake - edge)

    return answer


WRONG = [
    ("pair_frames", lambda tokens, K: (tokens[0::2] + tokens[1::2]) / 2, "neighbouring tokens"),
    ("pair_frames", halved, "halves"),
    ("pair_frames", paired(lambda a, b: (a + b) / 2, lambda x: x[:0]), "last frame lost"),
    ("pair_frames", paired(lambda a, b: (a + b) / 2, lambda x: x / 2), "last frame halved"),
    ("pair_frames", paired(lambda a, b: a), "every other frame"),
    ("pair_frames", paired(lambda a, b: a + b), "the sum"),
    ("pair_frames", lambda tokens, K: tokens.view(-1, K, tokens.shape[1]).mean(0), "time averaged"),
    ("pair_frames", stacked, "not joined"),
    ("pair_frames", lambda tokens, K: tokens, None),
    ("frames_that_fit", lambda n, p, a, s: n // s**2, "no text"),
    ("frames_that_fit", lambda n, p, a, s: (n - p) // s**2, "no answer"),
    ("frames_that_fit", lambda n, p, a, s: -((p + a - n) // s**2), "rounded up"),
    ("frames_that_fit", lambda n, p, a, s: (n - p - a) / s**2, "not rounded"),
    ("frames_that_fit", lambda n, p, a, s: (n - p - a) // s, "side"),
    ("frames_that_fit", lambda n, p, a, s: n - p - a, "tokens"),
    ("watch_and_ask", trace, "the question stays"),
    ("watch_and_ask", lambda read, frames, q: [read(q, read(f, None)[1])[0][-1] for f in frames],
     "only the last frame"),
    ("watch_and_ask", lambda read, frames, q: [read(q, None)[0][-1] for _ in frames], "nothing seen"),
    ("watch_and_ask", at_the_end, "at the end only"),
    ("watch_and_ask", everything, "all outputs"),
    ("watch_and_ask", again, "read again"),
    ("watch_and_ask", lambda read, frames, q: 7, None),
    ("backwards", lambda events, frames: [(OTHER.get(k, k), a, b, OTHER.get(v, v)) for k, a, b, v in events],
     "times kept"),
    ("backwards", turned(last=0), "off by one"),
    ("backwards", turned(swap=False), "ends before it begins"),
    ("backwards", turned(swap=False, sort=False), "ends before it begins"),
    ("backwards", turned(kinds=False), "kinds kept"),
    ("backwards", turned(ways=False), "directions kept"),
    ("backwards", turned(sort=False), "not in order"),
    ("overshoot", rolled(lost=0.0), "mean speed"),
    ("overshoot", rolled(lost=1.0), "braked too long"),
    ("overshoot", rolled(lost=-0.5), "sped up"),
    ("overshoot", rolled(half=1.0), "no half"),
    ("overshoot", rolled(start=0), "from zero"),
    ("overshoot", rolled(stop=False), "rolls back"),
    ("overshoot", rolled(sign=-1), "the other way"),
    ("overshoot", lambda *given: rolled()(*given) > 0, "says whether"),
    ("merged", lambda W, A, B, alpha: W + B @ A, "not scaled"),
    ("merged", lambda W, A, B, alpha: W + alpha * B @ A, "alpha alone"),
    ("merged", lambda W, A, B, alpha: W + B @ A / len(A), "one over r"),
    ("merged", lambda W, A, B, alpha: W + alpha / A.shape[1] * B @ A, "wrong rank"),
    ("merged", lambda W, A, B, alpha: alpha / len(A) * B @ A, "W lost"),
    ("merged", lambda W, A, B, alpha: W - alpha / len(A) * B @ A, "taken off"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "answer", "mistake"), WRONG)
def test_wrong_answers(name, answer, mistake, judged):
    verdict = judged(getattr(nb12, name), answer)
    assert not verdict.ok
    assert verdict.mistake == mistake
    assert verdict.message.startswith(name)


def test_time_backwards_is_what_the_package_observes():
    """The exercise's solution against clips that are really reversed."""
    for seed in range(6):
        clip = sample_clip(seed, ("add", "remove", "left", "nearer")[seed % 4])
        known = [e for e in clip.events if e.kind in ("added", "removed", "moved")]
        if len(known) < len(clip.events):
            continue
        events = [(e.kind, e.begin, e.end, e.value or "") for e in known]
        back = [(e.kind, e.begin, e.end, e.value or "") for e in clip.reversed().events]
        assert sorted(SOLUTIONS["backwards"](events, len(clip))) == sorted(back)
