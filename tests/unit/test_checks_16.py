"""Each check of notebook 16 names the mistake of wrong answers."""

import math

import numpy as np
import pytest
import torch
from exercises import solutions

from vlmlab.checks import nb16
from vlmlab.vlm.sharding import shard_numbers
from vlmlab.weights.gguf_blocks import TYPES, dequantised

SOLUTIONS = solutions("16_paper_scale.py", {"torch": torch, "np": np, "math": math})


# ------------------------------------------------------------------ wrong answers, and the mistake each looks like
def moved(thousand=1e3, per_byte=8, state_twice=2, cache=1, weights=None):
    def answer(parameters, bits, length, per_token, state, bandwidth):
        read = parameters * (weights or bits) / per_byte + cache * length * per_token + state_twice * state
        return thousand * read / bandwidth

    return answer


def rows(flops=2, size=2, cache=1.0, own=True, up=math.ceil, guard=True):
    def answer(parameters, kept, bandwidth, throughput):
        slope = flops * parameters / throughput - (cache * kept / bandwidth if own else 0)
        fixed = size * parameters / bandwidth + (0 if own else kept / bandwidth)
        if guard and slope <= 0:
            return None
        return up(fixed / slope)

    return answer


def sums(gradients, terms):
    return [g * n for g, n in zip(gradients, terms, strict=True)]


def held(factor=4, size=4, gpus=True, up=True, by_number=False, trained=None):
    def answer(shapes, moving, n):
        total = 0
        for name, shape in shapes.items():
            count, first = math.prod(shape), shape[0] if shape else 1
            if by_number:
                share = math.ceil(count / n)
            else:
                share = (math.ceil(first / n) if up else first // n) * (count // first) if gpus else count
            total += size * share * (factor if trained or name in moving else 1)
        return total

    return answer


def packed(end="<", order=("d", "m"), steps=15, low=True, size=32, lower=slice(0, 16), upper=slice(16, 32)):
    def answer(w):
        out = b""
        whole = w.reshape(-1, size).astype(np.float32)
        for row in whole:
            m, d = row.min(), (row.max() - row.min()) / np.float32(steps)
            for block in row.reshape(-1, 32):
                q = np.clip(np.round((block - m * low) / (d or 1)) + (0 if low else 8), 0, 15).astype(np.uint8)
                pair = {"d": d, "m": m}
                out += b"".join(np.array(pair[key], f"{end}f2").tobytes() for key in order)
                out += (q[lower] | q[upper] << 4).tobytes()
        return out

    return answer


def bytes_each(w):
    return b"".join(packed()(block)[:4] + bytes(32) for block in w.reshape(-1, 32))


def parts(w):
    blocks = [packed()(block) for block in w.reshape(-1, 32)]
    return b"".join(block[cut] for cut in (slice(0, 2), slice(2, 4), slice(4, 20)) for block in blocks)


def plain(w, size=32, levels=15):
    block = w.reshape(-1, size)
    low = block.amin(1, keepdim=True)
    step = (block.amax(1, keepdim=True) - low) / levels
    return (low + ((block - low) / step).round() * step).view_as(w)


def quantiles(w):
    block = w.reshape(-1, 32)
    means = block.sort(1).values.view(-1, 16, 2).mean(2)  # the best pairs, at uneven places
    nearest = (block[:, :, None] - means[:, None]).abs().argmin(2)
    return means.gather(1, nearest).view_as(w)


WRONG = [
    ("token_ms", moved(thousand=1), "seconds"),
    ("token_ms", moved(per_byte=1), "bits as bytes"),
    ("token_ms", moved(weights=16), "two bytes"),
    ("token_ms", moved(state_twice=1), "state once"),
    ("token_ms", moved(state_twice=0), "no state"),
    ("token_ms", moved(cache=0), "no cache"),
    ("token_ms", lambda p, b, n, *rest: moved()(p, b, 1, *rest), "one token's cache"),
    ("token_ms", lambda *given: 1 / moved()(*given), "upside down"),
    ("token_ms", lambda *given: moved()(*given) + 1, None),
    ("rows_to_balance", rows(guard=False), "no such batch"),
    ("rows_to_balance", rows(own=False), "one cache"),
    ("rows_to_balance", rows(cache=0), "no cache"),
    ("rows_to_balance", rows(flops=1), "one FLOP"),
    ("rows_to_balance", rows(size=1), "one byte"),
    ("rows_to_balance", rows(up=math.floor), "one short"),
    ("rows_to_balance", rows(up=float), "not whole"),
    ("rows_to_balance", lambda *given: 7, None),
    ("combine", lambda g, n, average: average(g), "mean of means"),
    ("combine", lambda g, n, average: average(sums(g, n)), "not divided"),
    ("combine", lambda g, n, average: average(sums(g, n)) / sum(n), "divided by processes"),
    ("combine", lambda g, n, average: sum(sums(g, n)), "a sum"),
    ("combine", lambda g, n, average: average(sums(g, n)) / average([k for k in n if k]), "empty processes"),
    (
        "combine",
        lambda g, n, average: sum(x / max(k, 1) for x, k in zip(g, n, strict=True)) / sum(1 / max(k, 1) for k in n),
        "upside down",
    ),
    ("combine", lambda g, n, average: g[0], None),
    ("held_bytes", lambda shapes, moving, n: held()(shapes, moving, 1) // n, "not rounded"),
    ("held_bytes", lambda shapes, moving, n: held()(shapes, moving, 1) / n, "not rounded"),
    ("held_bytes", lambda shapes, moving, n: math.ceil(held()(shapes, moving, 1) / n), "rounded once"),
    ("held_bytes", held(up=False), "rounded down"),
    ("held_bytes", held(by_number=True), "numbers dealt out"),
    ("held_bytes", held(trained=True), "all train"),
    ("held_bytes", held(factor=3), "one moment"),
    ("held_bytes", held(factor=1), "no gradients or moments"),
    ("held_bytes", held(size=2), "two bytes"),
    ("held_bytes", held(gpus=False), "not sharded"),
    ("held_bytes", lambda *given: held()(*given) + 4, None),
    ("pack_q4_1", lambda w: np.frombuffer(packed()(w), np.uint8), "an array"),
    ("pack_q4_1", packed(lower=slice(0, 32, 2), upper=slice(1, 32, 2)), "neighbours share a byte"),
    ("pack_q4_1", packed(lower=slice(16, 32), upper=slice(0, 16)), "halves swapped"),
    ("pack_q4_1", packed(order=("m", "d")), "minimum first"),
    ("pack_q4_1", packed(end=">"), "big-endian"),
    ("pack_q4_1", packed(steps=16), "16 steps"),
    ("pack_q4_1", lambda w: packed(size=w.size)(w), "one scale a row"),
    ("pack_q4_1", parts, "parts, not blocks"),
    ("pack_q4_1", packed(low=False), "minimum not taken off"),
    ("pack_q4_1", bytes_each, "a byte each"),
    ("pack_q4_1", lambda w: packed()(w)[:-1], None),
    ("own_levels", lambda w: plain(w)[:, :32], "shape"),
    ("own_levels", lambda w: w * float("nan"), "shape"),
    ("own_levels", lambda w: w.clone(), "more than 16"),
    ("own_levels", lambda w: plain(w, levels=31), "more than 16"),
    ("own_levels", quantiles, "uneven"),
    ("own_levels", plain, "no better"),
    ("own_levels", lambda w: plain(w, 96), "no better"),
    ("own_levels", lambda w: w.mul_(1), "more than 16"),
    ("own_levels", lambda w: 3, "shape"),
]


@pytest.mark.parametrize(("name", "answer", "mistake"), WRONG)
def test_wrong_answers(name, answer, mistake, judged):
    verdict = judged(getattr(nb16, name), answer)
    assert not verdict.ok
    assert verdict.mistake == mistake, verdict
    assert verdict.message.startswith(name)


def test_another_right_way_is_right(judged):
    for name, answer in (
        ("token_ms", moved()),
        ("rows_to_balance", rows()),
        ("combine", lambda g, n, average: sum(sums(g, n)) / sum(n)),
        ("held_bytes", held()),
        ("pack_q4_1", packed()),
    ):
        assert judged(getattr(nb16, name), answer).ok, name


def test_exercises_agree_with_the_package(tmp_path):
    shapes = {"a": (7, 3), "b": (1153, 4), "c": (5,)}
    mine = {name: shard_numbers(torch.empty(shape), 4) for name, shape in shapes.items()}
    assert SOLUTIONS["held_bytes"](shapes, {"b"}, 4) == 4 * (mine["a"] + 4 * mine["b"] + mine["c"])
    w = np.random.default_rng(0).standard_normal(96).astype(np.float32)
    blocks = np.frombuffer(SOLUTIONS["pack_q4_1"](w), TYPES[3].layout)
    spread = (w.reshape(-1, 32).max(1) - w.reshape(-1, 32).min(1)).max()
    assert np.abs(dequantised(blocks, TYPES[3]) - w).max() <= 0.51 * spread / 15


def test_even_levels_are_told_from_uneven_ones():
    even = torch.tensor([0.0, 2, 5, 9, 15]).double()
    assert nb16._even(0.3 * even - 1)
    assert not nb16._even(torch.tensor([0.0, 0.13, 0.5, 1.0]).double())
