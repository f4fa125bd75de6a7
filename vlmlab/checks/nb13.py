"""Checks of notebook 13: a word's map, rollout, relevance, a knock-out, what a state keeps, its ledger, the lens."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vlmlab.checks.base import Case, Mistake, Verdict, run_check


def _random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _weights(*shape: int, seed: int) -> Tensor:
    """Causal attention (..., L, L)."""
    scores = 2 * _random(*shape, seed=seed)
    return scores.masked_fill(torch.ones(shape[-2:]).triu(1) > 0, float("-inf")).softmax(-1)


def _mean_of_heads(x: Tensor) -> Tensor:
    return x.mean(-3)


# ---------------------------------------------------------------- 1 · the map of a word
def _row(weights: Tensor, words: slice, word: int, shift: int = -1) -> Tensor:
    return weights[:, words.start + word + shift].mean(0)  # (L,)


def _on_grid(row: Tensor, image: slice, columns: int) -> Tensor:
    return row[image].reshape(-1, columns)


def word_map(answer: Any) -> Verdict:
    """Exercise 1: the attention of one word to the patches, mean of the heads, from weights (H, L, L)."""

    def right(weights: Tensor, image: slice, words: slice, word: int, columns: int) -> Tensor:
        return _on_grid(_row(weights, words, word), image, columns)

    def case(rows: int, columns: int, word: int, seed: int) -> Case:
        start = 2 + rows * columns + 3
        weights = _weights(3, start + 4, start + 4, seed=seed)
        given = (weights, slice(2, 2 + rows * columns), slice(start, start + 4), word, columns)
        return Case(given, f"word {word}, {rows} x {columns} patches")

    def scaled(weights: Tensor, image: slice, words: slice, word: int, columns: int) -> Tensor:
        found = right(weights, image, words, word, columns)
        return found / found.sum()

    return run_check(
        "word_map",
        answer,
        right,
        [case(2, 3, 0, 0), case(3, 3, 2, 1)],
        [
            Mistake("row off by one", "that is the row where the word stands; what predicts it is the position before",
                    lambda w, image, words, word, c: _on_grid(_row(w, words, word, 0), image, c)),
            Mistake("column for row", "a query is a row: weights[:, i] is what position i sees, weights[:, :, i] who "
                    "sees it",
                    lambda w, image, words, word, c: _on_grid(_row(w.mT, words, word), image, c)),
            Mistake("first word", "every word has a row of its own: count `word` rows on from the first word's",
                    lambda w, image, words, word, c: _on_grid(_row(w, words, 0), image, c)),
            Mistake("transposed patches", "the patches are transposed: they come row by row, so that the columns are "
                    "the last axis",
                    lambda w, image, words, word, c: _row(w, words, word)[image].reshape(c, -1).T),
            Mistake("heads summed", "these are the heads' sum; the mean of rows that sum to 1 sums to 1",
                    lambda w, image, words, word, c: len(w) * right(w, image, words, word, c)),
            Mistake("one head", "this is one head's map; take the mean of all",
                    lambda w, image, words, word, c: right(w[:1], image, words, word, c)),
            Mistake("scaled to 1", "it was scaled to sum to 1; what the image lacks to 1 went to text, and the map "
                    "should say so", scaled),
        ],
        done="right; the row before the word, its image part, row by row",
    )  # fmt: skip


# ---------------------------------------------------------------- 2 · rollout
def _roll_out(
    weights: Tensor,
    *,
    heads: Callable[[Tensor], Tensor] = _mean_of_heads,
    stay: float = 1.0,
    normal: bool = True,
    first_left: bool = False,
) -> Tensor:
    one = torch.eye(weights.shape[-1])
    found = one
    for layer in heads(weights) + stay * one:
        step = layer / layer.sum(-1, keepdim=True) if normal else layer
        found = found @ step if first_left else step @ found
    return found


def roll_out(answer: Any) -> Verdict:
    """Exercise 2: attention rollout (T, T) of weights (layers, H, T, T), the first layer first."""
    return run_check(
        "roll_out",
        answer,
        lambda weights: _roll_out(weights),
        [Case((_weights(2, 2, 4, 4, seed=3),), "2 layers"), Case((_weights(3, 4, 5, 5, seed=4),), "3 layers")],
        [
            Mistake("no identity", "what the residual stream carries past attention is missing: add the identity to "
                    "each layer", lambda w: _roll_out(w, stay=0.0)),
            Mistake("rows not normalised", "with the identity added the rows sum to 2; divide each by its sum",
                    lambda w: _roll_out(w, normal=False)),
            Mistake("wrong order", "the order is turned round: a row of the last layer comes first, so later layers "
                    "stand on the left", lambda w: _roll_out(w, first_left=True)),
            Mistake("mean of layers", "layers follow one another: their matrices are multiplied, not averaged",
                    lambda w: _roll_out(w.mean(0, keepdim=True))),
            Mistake("largest head", "that is the largest head's weight; take the mean over heads",
                    lambda w: _roll_out(w, heads=lambda x: x.amax(-3))),
            Mistake("heads summed", "the heads were summed, which makes the identity too small; take their mean",
                    lambda w: _roll_out(w, heads=lambda x: x.sum(-3))),
            Mistake("last layer alone", "this is the last layer only; multiply all of them",
                    lambda w: _roll_out(w[-1:])),
        ],
        done="right; each row still sums to 1",
    )  # fmt: skip


# ---------------------------------------------------------------- 3 · relevance
def _relevance_step(R: Tensor, A: Tensor, G: Tensor) -> Tensor:
    return R + (A * G).clamp(min=0).mean(0) @ R


def relevance_step(answer: Any) -> Verdict:
    """Exercise 3: relevance after one more layer, from R (T, T), its attention and their gradients (H, T, T)."""

    def case(heads: int, T: int, seed: int) -> Case:
        R = torch.eye(T) + _weights(T, T, seed=seed)
        return Case((R, _weights(heads, T, T, seed=seed + 1), _random(heads, T, T, seed=seed + 2)), f"{heads} heads")

    return run_check(
        "relevance_step",
        answer,
        _relevance_step,
        [case(2, 4, 10), case(3, 5, 20)],
        [
            Mistake("negative kept", "only what speaks for the word counts: clamp gradient x attention at 0",
                    lambda R, A, G: R + (A * G).mean(0) @ R),
            Mistake("mean first", "clamp each head before the mean, or heads of opposite sign cancel",
                    lambda R, A, G: R + (A * G).mean(0).clamp(min=0) @ R),
            Mistake("absolute value", "what speaks against the word counts for nothing: clamp at 0, no absolute value",
                    lambda R, A, G: R + (A * G).abs().mean(0) @ R),
            Mistake("R lost", "the residual stream carries what was there on: add the product to R",
                    lambda R, A, G: (A * G).clamp(min=0).mean(0) @ R),
            Mistake("wrong side", "the layer stands on the left: its rows take from the rows of R",
                    lambda R, A, G: R + R @ (A * G).clamp(min=0).mean(0)),
            Mistake("no gradient", "the gradient is missing: it says which of the weights matter to the word",
                    lambda R, A, G: R + A.mean(0) @ R),
            Mistake("no attention", "multiply the gradient by the attention weights",
                    lambda R, A, G: R + G.clamp(min=0).mean(0) @ R),
            Mistake("not added up", "follow the layers: multiply this layer by R before you add it",
                    lambda R, A, G: R + (A * G).clamp(min=0).mean(0)),
        ],
        done="right; the same step for every layer, the first one first",
    )  # fmt: skip


# ---------------------------------------------------------------- 4 · a knock-out
def _blocked(scores: Tensor, queries: Sequence[int], keys: Sequence[int]) -> Tensor:
    """True where a query among `queries` meets a key among `keys`, (L, L)."""
    found = torch.zeros(scores.shape[-2:], dtype=torch.bool)
    found[torch.tensor(queries)[:, None], torch.tensor(keys)] = True
    return found


def _knock_out(scores: Tensor, queries: Sequence[int], keys: Sequence[int], instead: float = float("-inf")) -> Tensor:
    return scores.masked_fill(_blocked(scores, queries, keys), instead).softmax(-1)


def knock_out(answer: Any) -> Verdict:
    """Exercise 4: attention (H, L, L) from scores without a mask, where some queries do not see some keys."""

    def pairs(scores: Tensor, queries: Sequence[int], keys: Sequence[int]) -> Tensor:
        scores = scores.clone()
        scores[:, list(queries), list(keys)] = float("-inf")
        return scores.softmax(-1)

    def zeroed(scores: Tensor, queries: Sequence[int], keys: Sequence[int]) -> Tensor:
        return scores.softmax(-1).masked_fill(_blocked(scores, queries, keys), 0.0)

    def case(L: int, queries: list[int], keys: list[int], seed: int) -> Case:
        return Case((_random(2, L, L, seed=seed), queries, keys), f"queries {queries}, keys {keys}")

    return run_check(
        "knock_out",
        answer,
        lambda scores, queries, keys: _knock_out(scores, queries, keys),
        [case(6, [4, 5], [1, 2], 30), case(7, [5, 6], [2, 4], 31)],
        [
            Mistake("rows not normalised", "the rows no longer sum to 1: take the scores away before the softmax",
                    zeroed),
            Mistake("score 0", "a score of 0 is a score like any other; minus infinity takes a key away",
                    lambda s, q, k: _knock_out(s, q, k, 0.0)),
            Mistake("pairs only", "only the first query with the first key, and so on: every query with every key is "
                    "meant", pairs),
            Mistake("every query", "the keys are gone for every query; the others should still see them",
                    lambda s, q, k: _knock_out(s, range(s.shape[-1]), k)),
            Mistake("queries and keys exchanged", "queries are rows and keys are columns; yours are exchanged",
                    lambda s, q, k: _knock_out(s, k, q)),
            Mistake("nothing blocked", "nothing is blocked: did the scores that you changed go into the softmax?",
                    lambda s, q, k: s.softmax(-1)),
            Mistake("columns sum to 1", "the softmax is over the keys, the last axis",
                    lambda s, q, k: s.masked_fill(_blocked(s, q, k), float("-inf")).softmax(-2)),
        ],
        done="right; what was blocked is 0 and the other keys share its part",
    )  # fmt: skip


# ---------------------------------------------------------------- 5 · what a state keeps
def _what_is_left(
    raw: Tensor,
    A: Tensor,
    position: int,
    *,
    step: Callable[[Tensor], Tensor] = F.softplus,
    own: bool = False,
    least: float = float("-inf"),
) -> Tensor:
    delta, later = step(raw), torch.arange(len(raw)) > position
    until = delta.cumsum(0)
    gap = until[position] - (until - delta if own else until)
    left = torch.exp(gap.clamp(min=least).masked_fill(later, 0.0)[:, None] * A)
    return left * ~later[:, None]


def what_is_left(answer: Any) -> Verdict:
    """Exercise 5: the part (L, N) of what each token wrote that is left in the state of one channel at a position."""

    def right(raw: Tensor, A: Tensor, position: int) -> Tensor:
        return _what_is_left(raw, A, position)

    def no_softplus(got: Tensor, expected: Tensor, *given: Any) -> bool:
        """Also with the differences clamped at 0, which negative steps may make negative."""
        wrong = (_what_is_left(*given, step=lambda x: x, least=least) for least in (float("-inf"), 0.0))
        return any(torch.allclose(got, each) for each in wrong)

    def backwards(raw: Tensor, A: Tensor, position: int) -> Tensor:
        return _what_is_left(raw.flip(0), A, len(raw) - 1 - position).flip(0)

    def case(L: int, N: int, position: int, seed: int) -> Case:
        return Case((_random(L, seed=seed), -_random(N, seed=seed + 1).exp(), position), f"L = {L}, T = {position}")

    return run_check(
        "what_is_left",
        answer,
        right,
        [case(5, 2, 3, 40), case(7, 3, 4, 50)],
        [
            Mistake("no softplus", "raw has to pass through softplus, which makes the step size positive",
                    fits=no_softplus),
            Mistake("exp for softplus", "the step size is softplus(raw) = log(1 + exp(raw)), not exp(raw)",
                    lambda raw, A, T: _what_is_left(raw, A, T, step=torch.exp)),
            Mistake("own step counted", "a token's own step does not decay it: count the steps after it, so that 1 is "
                    "left of the token at T", lambda raw, A, T: _what_is_left(raw, A, T, own=True)),
            Mistake("later tokens", "of tokens after T nothing is in the state: 0",
                    fits=lambda got, expected, raw, A, T: torch.allclose(got[: T + 1], expected[: T + 1])),
            Mistake("reversed scan", "the scan runs from the first token to the last, not back", backwards),
            Mistake("since the beginning", "S_T - S_j is what passed since token j, not since the beginning",
                    lambda raw, A, T: torch.exp(F.softplus(raw).cumsum(0)[:, None] * A)
                    * (torch.arange(len(raw)) <= T)[:, None]),
            Mistake("last position", "that is what is left at the end of the sequence; T may come earlier",
                    lambda raw, A, T: right(raw, A, len(raw) - 1)),
        ],
        done="right; 1 at the token itself, less with every step after it",
    )  # fmt: skip


# ---------------------------------------------------------------- 6 · the ledger
def _parts(
    delta: Tensor, A: Tensor, B: Tensor, u: Tensor, *, gain: bool = True, writes: bool = True, fades: bool = True
) -> Tensor:
    """What each token has in the last state, (L, N)."""
    until = delta.cumsum(0)
    left = torch.exp((until[-1] - until)[:, None] * (A if fades else 0 * A))
    return left * (B if writes else torch.ones_like(B)) * (delta * u if gain else u)[:, None]


def _shares(parts: Tensor) -> Tensor:
    h = parts.sum(0)
    return parts @ h / (h @ h)


def ledger_shares(answer: Any) -> Verdict:
    """Exercise 6: the share (L,) of each token in the last state of one channel; delta, u (L,), A (N,), B (L, N)."""

    def norms(*given: Tensor) -> Tensor:
        size = _parts(*given).norm(dim=1)
        return size / size.sum()

    def added(*given: Tensor) -> Tensor:
        parts = _parts(*given).sum(1)
        return parts / parts.sum()

    def length(*given: Tensor) -> Tensor:
        h = _parts(*given).sum(0)
        return _parts(*given) @ h / h.norm()

    def case(L: int, N: int, seed: int) -> Case:
        delta, A = F.softplus(_random(L, seed=seed)), -_random(N, seed=seed + 1).exp()
        return Case((delta, A, _random(L, N, seed=seed + 2), _random(L, seed=seed + 3)), f"L = {L}, N = {N}")

    return run_check(
        "ledger_shares",
        answer,
        lambda *given: _shares(_parts(*given)),
        [case(4, 2, 60), case(6, 3, 70)],
        [
            Mistake("no delta_j", "a token is written with delta_j B_j u_j; delta_j is missing",
                    lambda *given: _shares(_parts(*given, gain=False))),
            Mistake("no B", "a token is written with delta_j B_j u_j; B_j is missing",
                    lambda *given: _shares(_parts(*given, writes=False))),
            Mistake("no decay", "what was written fades: exp(A (S_T - S_j)) is missing",
                    lambda *given: _shares(_parts(*given, fades=False))),
            Mistake("norms", "norms cannot cancel, so they say how much, not which share; project each part on h",
                    norms),
            Mistake("numbers added up", "the N numbers were added up, which mixes their signs; project on h: part . h",
                    added),
            Mistake("divided by the length", "the shares sum to |h|; divide by h . h", length),
            Mistake("not divided", "the shares sum to h . h; divide by it",
                    lambda *given: _parts(*given) @ _parts(*given).sum(0)),
            Mistake("sign lost", "a token may pull the state the other way: its share is negative",
                    lambda *given: _shares(_parts(*given)).abs()),
        ],
        done="right; they sum to 1, and a negative one works against the state",
    )  # fmt: skip


# ---------------------------------------------------------------- 7 · the logit lens
def _logits(
    x: Tensor, weight: Tensor, head: Tensor, eps: float, *, size: Callable[[Tensor, float], Tensor] | None = None
) -> Tensor:
    scale = size(x, eps) if size else torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)
    return (x * scale * weight) @ head.T


def read_out(answer: Any) -> Verdict:
    """Exercise 7: the logit lens, probabilities (L, V) of a stream (L, D), RMSNorm's weight (D,) and a head (V, D)."""

    def right(x: Tensor, weight: Tensor, head: Tensor, eps: float) -> Tensor:
        return _logits(x, weight, head, eps).softmax(-1)

    def sized(size: Callable[[Tensor, float], Tensor]) -> Callable[..., Tensor]:
        return lambda *given: _logits(*given, size=size).softmax(-1)

    def case(L: int, D: int, V: int, seed: int) -> Case:
        x, weight, head = (_random(*s, seed=seed + i) for i, s in enumerate(((L, D), (D,), (V, D))))
        return Case((0.6 * x, weight.exp(), head, 0.3), f"L = {L}, D = {D}, V = {V}, eps = 0.3")

    return run_check(
        "read_out",
        answer,
        right,
        [case(3, 4, 5, 80), case(2, 6, 7, 90)],
        [
            Mistake("no norm", "the head was trained behind the final norm: the stream has to go through it",
                    lambda x, w, head, eps: (x @ head.T).softmax(-1)),
            Mistake("eps outside the root", "eps stands inside the root: x / sqrt(mean(x^2) + eps)",
                    sized(lambda x, eps: 1 / (x.square().mean(-1, keepdim=True).sqrt() + eps))),
            Mistake("no eps", "eps is missing: x / sqrt(mean(x^2) + eps)",
                    sized(lambda x, eps: torch.rsqrt(x.square().mean(-1, keepdim=True)))),
            Mistake("mean subtracted", "that is LayerNorm; RMSNorm takes no mean away",
                    lambda x, w, head, eps: right(x - x.mean(-1, keepdim=True), w, head, eps)),
            Mistake("sum for mean", "the root mean square, not the length: mean over D, not sum",
                    sized(lambda x, eps: torch.rsqrt(x.square().sum(-1, keepdim=True) + eps))),
            Mistake("no weight", "the norm's weight is missing: it scales each channel",
                    lambda x, w, head, eps: right(x, torch.ones_like(w), head, eps)),
            Mistake("logits", "those are logits; a softmax over the words makes them probabilities", _logits),
            Mistake("log-probabilities", "those are log-probabilities; take softmax, or exp of them",
                    lambda *given: _logits(*given).log_softmax(-1)),
            Mistake("softmax over positions", "the softmax is over the words, the last axis",
                    lambda *given: _logits(*given).softmax(0)),
        ],
        done="right; after the last layer these are the model's own probabilities",
    )  # fmt: skip
