"""Checks of notebook 16: the least time of a token, where arithmetic takes over, a mean over processes, what a GPU
holds, Q4_1 to the byte, levels of one's own."""

import math
from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vlmlab.checks.base import Case, Mistake, Verdict, run_check

BLOCK, LEVELS = 32, 16
ENOUGH = 0.9  # of Q4_1's squared error


# ---------------------------------------------------------------- 1 · the least time of a token
def token_ms(answer: Any) -> Verdict:
    """Exercise 1: milliseconds in which memory can deliver what one token needs."""

    def right(parameters: float, bits: float, length: float, per_token: float, state: float, bandwidth: float) -> float:
        return 1e3 * (parameters * bits / 8 + length * per_token + 2 * state) / bandwidth

    def changed(**values: float) -> Callable[..., float]:
        names = ("parameters", "bits", "length", "per_token", "state", "bandwidth")
        return lambda *given: right(**(dict(zip(names, given, strict=True)) | values))

    cobra, llava = (2_768_345_600, 16, 873, 0, 13_107_200, 2.039e12), (6_607_347_712, 16, 720, 524_288, 0, 1.008e12)
    return run_check(
        "token_ms",
        answer,
        right,
        [Case(cobra, "cobra-3b on an A100"), Case(llava, "LLaVA-1.5-7B on an RTX 4090"),
         Case((1000, 4.5, 10, 30, 500, 1e5), "a toy with cache and state")],
        [
            Mistake("seconds", "these are seconds; a second has 1,000 milliseconds", lambda *x: right(*x) / 1e3),
            Mistake("bits as bytes", "bits are not bytes: eight to one", lambda p, b, *x: right(p, 8 * b, *x)),
            Mistake("two bytes", "a weight has as many bits as the argument says, not always 16", changed(bits=16)),
            Mistake("state once", "a state is read and written: twice its bytes",
                    lambda p, b, n, c, s, w: right(p, b, n, c, s / 2, w)),
            Mistake("no state", "the state is missing", changed(state=0)),
            Mistake("no cache", "the cache is missing: every token before it is read again", changed(per_token=0)),
            Mistake("one token's cache", "all tokens before it are read, not one", changed(length=1)),
            Mistake("upside down", "that is tokens in a millisecond; return milliseconds a token",
                    lambda *x: 1 / right(*x)),
        ],
        done=f"right, {right(*cobra):.2f} ms for cobra-3b on an A100",
    )  # fmt: skip


# ---------------------------------------------------------------- 2 · where arithmetic takes over
def rows_to_balance(answer: Any) -> Verdict:
    """Exercise 2: the smallest batch at which decoding waits for arithmetic, or None."""

    def right(
        parameters: int, cache: float, bandwidth: float, throughput: float, flops: int = 2, size: int = 2
    ) -> int | None:
        gain = flops * parameters / throughput - cache / bandwidth
        return math.ceil(size * parameters / bandwidth / gain) if gain > 0 else None

    def unguarded(parameters: int, cache: int, bandwidth: float, throughput: float) -> int:
        return math.ceil(2 * parameters / bandwidth / (2 * parameters / throughput - cache / bandwidth))

    def one_cache(parameters: int, cache: int, bandwidth: float, throughput: float) -> int:
        return math.ceil((2 * parameters + cache) / bandwidth * throughput / (2 * parameters))

    def whole(rows: int | None, more: float) -> float | None:
        return None if rows is None else rows + more

    def exact(parameters: int, cache: int, bandwidth: float, throughput: float) -> float | None:
        gain = 2 * parameters / throughput - cache / bandwidth
        return 2 * parameters / bandwidth / gain if gain > 0 else None

    cobra = (2_768_345_600, 26_214_400, 2.039e12, 3.12e14)
    return run_check(
        "rows_to_balance",
        answer,
        right,
        [
            Case((2_768_345_600, 13_107_200, 2.039e12, 3.12e14), "cobra-3b on an A100"),
            Case((6_738_415_616, 524_288 * 2048, 2.039e12, 3.12e14), "LLaVA-1.5-7B with 2,048 tokens, where no batch is"
                 " enough"),
            Case((1000, 7, 10.0, 200.0), "a toy"),
        ],
        [
            Mistake("no such batch", "with a large cache both grow, memory faster: then there is no such number, None",
                    unguarded),
            Mistake("one cache", "every row has a cache of its own: its bytes grow with the rows", one_cache),
            Mistake("no cache", "the caches are missing: they grow with the rows as the FLOPs do",
                    lambda p, c, *x: right(p, 0, *x)),
            Mistake("one FLOP", "a weight takes 2 FLOPs a row: one product, one sum",
                    lambda p, c, b, t: right(p, c, b, t, flops=1)),
            Mistake("one byte", "a weight has two bytes", lambda p, c, b, t: right(p, c, b, t, size=1)),
            Mistake("one short", "so many rows still wait for memory; round up", lambda *x: whole(right(*x), -1)),
            Mistake("not whole", "rows come whole: round up", exact),
        ],
        done=f"right, {right(*cobra)} rows for cobra-3b on an A100 if its state, read and written, counts twice",
        tolerance=0.0,
    )  # fmt: skip


# ---------------------------------------------------------------- 3 · a mean over processes
def combine(answer: Any) -> Verdict:
    """Exercise 3: the gradient of the mean over all tokens, from plain means over processes."""
    draw = torch.Generator().manual_seed(4)

    def average(handed: Any) -> Tensor:
        tensors = [torch.as_tensor(each, dtype=torch.float32) for each in handed]
        return torch.stack(tensors).mean(0)

    def right(gradients: list[Tensor], terms: list[int], average: Any) -> Tensor:
        return sum(g * n for g, n in zip(gradients, terms, strict=True)) / sum(terms)  # type: ignore[return-value]

    def summed(gradients: list[Tensor], terms: list[int], average: Any) -> Tensor:
        return average([g * n for g, n in zip(gradients, terms, strict=True)])

    def given(*terms: int) -> tuple:
        return [torch.randn(3, 2, generator=draw) for _ in terms], list(terms), average

    return run_check(
        "combine",
        answer,
        right,
        [Case(given(3, 1), "3 and 1 tokens"), Case(given(5, 0, 12, 2), "four processes, one without a token"),
         Case(given(4, 4, 4), "equal shares")],
        [
            Mistake("mean of means", "that is a mean of means: a process with few tokens counts as much as one with "
                    "many", lambda g, n, a: a(g)),
            Mistake("not divided", "the sums are averaged over processes; divide by the average number of tokens",
                    summed),
            Mistake("divided by processes", "divide by the average number of tokens a process, not by all of them: the "
                    "sums were averaged, too", lambda g, n, a: summed(g, n, a) / sum(n)),
            Mistake("a sum", "that is the gradient of the sum over all tokens; divide by how many there are",
                    lambda g, n, a: right(g, n, a) * sum(n)),
            Mistake("empty processes", "average over all processes, above and below, also over those without a token",
                    lambda g, n, a: summed(g, n, a) / a([float(k) for k in n if k])),
            Mistake("upside down", "a process with more tokens weighs more, not less",
                    lambda g, n, a: sum(x / max(k, 1) for x, k in zip(g, n, strict=True))
                    / sum(1 / max(k, 1) for k in n)),
        ],
        done="right, and it does not matter how the tokens were dealt out",
    )  # fmt: skip


# ---------------------------------------------------------------- 4 · what a GPU holds
def held_bytes(answer: Any) -> Verdict:
    """Exercise 4: bytes of weights, gradients and AdamW's moments on one of N GPUs."""

    def counted(
        shapes: dict[str, tuple[int, ...]],
        trained: set[str],
        gpus: int,
        share: Callable[[tuple[int, ...], int], int] | None = None,
        more: int = 3,
        size: int = 4,
    ) -> int:
        def numbers(shape: tuple[int, ...]) -> int:
            if share:
                return share(shape, gpus)
            rows = shape[0] if shape else 1
            return -(-rows // gpus) * math.prod(shape[1:])

        return sum(size * numbers(shape) * (1 + more * (name in trained)) for name, shape in shapes.items())

    def everything(shapes: Any, trained: Any, gpus: int) -> int:
        return counted(shapes, set(shapes), gpus)

    def rounded_once(shapes: Any, trained: Any, gpus: int) -> int:
        return -(-counted(shapes, trained, 1) // gpus)

    def with_share(share: Callable[[tuple[int, ...], int], int]) -> Callable[..., int]:
        return lambda shapes, trained, gpus: counted(shapes, trained, gpus, share)

    small = {"embed": (50, 8), "norm": (8,), "up": (27, 8), "scale": (), "head": (50, 8)}
    block = {"in_proj": (10240, 2560), "A_log": (5120, 16), "out_proj": (2560, 5120), "vision": (1153, 1152)}
    return run_check(
        "held_bytes",
        answer,
        counted,
        [Case((small, {"norm", "up", "scale", "head"}, 4), "a toy on 4 GPUs"),
         Case((block, {"in_proj", "A_log", "out_proj"}, 8), "parts of Cobra on 8 GPUs"),
         Case((small, {"head"}, 3), "a toy on 3 GPUs")],
        [
            Mistake("not rounded", "rows come whole, and the last share is padded: round up, tensor by tensor",
                    lambda s, t, n: counted(s, t, 1) / n),
            Mistake("not rounded", "rows come whole, and the last share is padded: round up, tensor by tensor",
                    lambda s, t, n: counted(s, t, 1) // n),
            Mistake("rounded once", "each tensor's rows are rounded up, not the sum", rounded_once),
            Mistake("rounded down", "the largest share decides: round up",
                    with_share(lambda s, n: (s[0] if s else 1) // n * math.prod(s[1:]))),
            Mistake("numbers dealt out", "rows are dealt out, not single numbers",
                    with_share(lambda s, n: -(-math.prod(s) // n))),
            Mistake("all train", "frozen tensors have weights alone", everything),
            Mistake("one moment", "AdamW has two moments, of the gradient and of its square",
                    lambda s, t, n: counted(s, t, n, more=2)),
            Mistake("no gradients or moments", "a tensor that trains has a gradient and two moments beside its weights",
                    lambda s, t, n: counted(s, t, n, more=0)),
            Mistake("two bytes", "these are float32: four bytes each", lambda s, t, n: counted(s, t, n, size=2)),
            Mistake("not sharded", "that is one GPU alone; divide the rows", lambda s, t, n: counted(s, t, 1)),
        ],
        done="right, 16 bytes a parameter that trains and 4 for a frozen one, divided by the GPUs",
        tolerance=0.0,
    )  # fmt: skip


# ---------------------------------------------------------------- 5 · Q4_1 to the byte
def _numbers(w: np.ndarray, steps: int = 15, size: int = BLOCK) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scale and minimum (n, 1) and numbers (n, 32) of blocks; size: of what shares a scale."""
    wide = w.reshape(-1, size).astype(np.float32)
    low = wide.min(1, keepdims=True)
    step = (wide.max(1, keepdims=True) - low) / np.float32(steps)
    q = np.clip(np.round((wide - low) / np.where(step > 0, step, 1)), 0, 15).astype(np.uint8)
    low, step = (np.repeat(x, size // BLOCK, 0) for x in (low, step))
    return step, low, q.reshape(-1, BLOCK)


def _blocks(
    step: np.ndarray,
    low: np.ndarray,
    q: np.ndarray,
    order: str = "dm",
    end: str = "<",
    pairs: Callable[[np.ndarray], np.ndarray] = lambda q: q[:, :16] | q[:, 16:] << 4,
) -> bytes:
    blocks = np.zeros(len(q), [(order[0], f"{end}f2"), (order[1], f"{end}f2"), ("q", "u1", BLOCK // 2)])
    blocks["d"], blocks["m"], blocks["q"] = step[:, 0], low[:, 0], pairs(q)
    return blocks.tobytes()


def pack_q4_1(answer: Any) -> Verdict:
    """Exercise 5: the bytes of a row of weights in Q4_1."""
    rng = np.random.default_rng(5)
    tails = rng.standard_t(3, 4 * BLOCK).astype(np.float32)
    flat = np.concatenate([np.full(BLOCK, 0.25), rng.standard_normal(BLOCK)]).astype(np.float32)

    def by_parts(w: np.ndarray) -> bytes:
        step, low, q = _numbers(w)
        return step.astype("<f2").tobytes() + low.astype("<f2").tobytes() + (q[:, :16] | q[:, 16:] << 4).tobytes()

    def symmetric(w: np.ndarray) -> bytes:
        step, low, _ = _numbers(w)
        q = np.clip(np.round(w.reshape(-1, BLOCK) / np.where(step > 0, step, 1)) + 8, 0, 15).astype(np.uint8)
        return _blocks(step, low, q)

    def wrong(**options: Any) -> Callable[[np.ndarray], bytes]:
        return lambda w: _blocks(*_numbers(w), **options)

    return run_check(
        "pack_q4_1",
        answer,
        wrong(),
        [Case((tails,), "four blocks with long tails"), Case((flat,), "a block of equal weights and another")],
        [
            Mistake("an array", "return bytes: array.tobytes()", fits=lambda got, *_: isinstance(got, np.ndarray)),
            Mistake("neighbours share a byte", "byte i holds the numbers i and i + 16, not 2i and 2i + 1",
                    wrong(pairs=lambda q: q[:, ::2] | q[:, 1::2] << 4)),
            Mistake("halves swapped", "number i is in the lower half of byte i, number i + 16 in the upper one",
                    wrong(pairs=lambda q: q[:, :16] << 4 | q[:, 16:])),
            Mistake("minimum first", "the scale comes first, then the minimum", wrong(order="md")),
            Mistake("big-endian", "the file is little-endian: '<f2'", wrong(end=">")),
            Mistake("16 steps", "16 levels have 15 steps between them", lambda w: _blocks(*_numbers(w, 16))),
            Mistake("one scale a row", "every 32 weights have a scale and a minimum of their own",
                    lambda w: _blocks(*_numbers(w, size=w.size))),
            Mistake("parts, not blocks", "each block stands by itself: its scale, its minimum, its 16 bytes", by_parts),
            Mistake("minimum not taken off", "take the minimum off before you divide", symmetric),
            Mistake("a byte each", "two numbers of 4 bits share a byte",
                    fits=lambda got, expected, *_: isinstance(got, bytes) and len(got) == len(expected) // 20 * 36),
        ],
        done="right, 20 bytes for 32 weights: 5 bits each",
    )  # fmt: skip


# ---------------------------------------------------------------- 6 · levels of one's own
ASKED = (
    ("a tensor of the same shape", "shape", "return a tensor of the shape of w, the weights after rounding"),
    ("at most 16 values in a block", "more than 16", "a block has more than 16 different values: 4 bits tell 16 apart"),
    (
        "evenly spaced values",
        "uneven",
        "a block's values are not evenly spaced; a scale and a minimum cannot write them",
    ),
    ("less error than Q4_1", "no better", f"the squared error is more than {ENOUGH} times that of Q4_1"),
)
"""What is asked, the name of the mistake, what to say."""


def own_levels(answer: Any) -> Verdict:
    """Exercise 6: rounding to 16 levels a block with less error than Q4_1."""
    run = answer
    if callable(answer):

        @wraps(answer)
        def run(w: Tensor) -> Any:
            rounded = answer(w)
            return rounded if rounded is None or rounded is ... else _found(rounded, w)

    def lacks(asked: str) -> Any:
        return lambda got, *_: got.get(asked) is not True

    draw = torch.Generator().manual_seed(6)
    normal, spread = torch.randn(24, 96, generator=draw), torch.randn(24, 96, 3, generator=draw)
    cases = [Case((0.02 * normal,), "normal weights"), Case((normal / spread.square().mean(-1).sqrt(),), "long tails")]
    return run_check(
        "own_levels",
        run,
        lambda w: {asked: True for asked, _, _ in ASKED},
        [*cases, Case((_real(),), "weights of the shipped language model")],
        [Mistake(name, hint, fits=lacks(asked)) for asked, name, hint in ASKED],
        done=f"16 even levels a block, at most {ENOUGH} of Q4_1's error; what that does to a loss is yours to measure",
    )


def _real() -> Tensor:
    """Weights of the shipped language model (48, 192)."""
    from vlmlab import runtime
    from vlmlab.files import read_tensors

    tensors, _ = read_tensors(runtime.data_dir() / "checkpoints" / "language-tiny.safetensors")
    return tensors["layers.0.mlp.gate_proj.weight"][:48].float()


def _found(rounded: Any, w: Tensor) -> dict[str, bool]:
    if not isinstance(rounded, Tensor) or rounded.shape != w.shape or not bool(torch.isfinite(rounded).all()):
        return dict.fromkeys((asked for asked, _, _ in ASKED), False)
    blocks = rounded.detach().double().reshape(-1, BLOCK)
    step, low, q = _numbers(w.numpy())
    plain = torch.from_numpy((low + step * q).astype(np.float64)).reshape(w.shape)
    error, usual = ((x.double() - w.double()).square().sum() for x in (rounded.detach(), plain))
    values = [_distinct(block) for block in blocks]
    few = all(len(each) <= LEVELS for each in values)
    found = (True, few, few and all(map(_even, values)), bool(error <= ENOUGH * usual))
    return {asked: value for (asked, _, _), value in zip(ASKED, found, strict=True)}


def _distinct(block: Tensor) -> Tensor:
    """A block's values in order, those that rounding of float32 alone tells apart taken together."""
    values = block.unique()
    near = 1e-5 * float(values.abs().max())
    apart = torch.cat([torch.tensor([True]), values.diff() > near])
    return values[apart]


def _even(values: Tensor) -> bool:
    """Whether 16 evenly spaced levels hold all values."""
    if len(values) < 3:
        return True
    places = (values - values[0]) / (values[-1] - values[0])
    return any(bool(((places * k).round() - places * k).abs().max() < 0.01) for k in range(1, LEVELS))
