"""Checks of notebook 08: fused features, a block's parameters, causal convolution, state against cache, SigLIP's loss
in chunks, a projector of one's own."""

import math
from functools import wraps
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from vlmlab.checks.base import Case, Mistake, Verdict, run_check
from vlmlab.vision import ViT, ViTConfig
from vlmlab.vision.contrastive import clip_loss, siglip_loss
from vlmlab.vision.fused import NORMALISATION


# ---------------------------------------------------------------- 1 · fused features
def _parts(
    pixels: Tensor, dinov2: ViT, siglip: ViT, names: tuple[str, str] = ("dinov2", "siglip"), layer: int = -2
) -> list[Tensor]:
    """The patch tokens of each, the picture normalised as for the encoder named ("" for not at all)."""
    tokens = []
    for encoder, name in zip((dinov2, siglip), names, strict=True):
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in NORMALISATION.get(name, ((0.0,) * 3, (1.0,) * 3)))
        with torch.no_grad():
            tokens.append(encoder.features((pixels - mean) / std, layer))
    return tokens


def _with_prefix(pixels: Tensor, dinov2: ViT, siglip: ViT) -> Tensor:
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in NORMALISATION["dinov2"])
    with torch.no_grad():
        whole = dinov2.hidden_states((pixels - mean) / std)[-2]
    tokens = _parts(pixels, dinov2, siglip)[1]
    return torch.cat([whole[:, : tokens.shape[1]], tokens], -1)


def fuse(answer: Any) -> Verdict:
    """Exercise 1: Cobra's H_v from a picture in [0, 1] and the two encoders."""
    draw = torch.Generator().manual_seed(0)

    def case(side: int, registers: int, name: str) -> Case:
        shape: dict[str, Any] = {"image_size": side, "patch_size": 4, "dim": 8, "layers": 3, "heads": 2, "hidden": 16}
        encoders = ViT(ViTConfig("dinov2", registers=registers, **shape), draw), ViT(ViTConfig("siglip", **shape), draw)
        return Case((torch.rand(2, 3, side, side, generator=draw), *encoders), name)

    def joined(*options: Any, order: int = 1, axis: int = -1) -> Any:
        return lambda *given: torch.cat(_parts(*given, *options)[::order], axis)

    mixed = "both encoders got the picture with the same mean and deviation; each has its own"
    return run_check(
        "fuse",
        answer,
        joined(),
        [case(12, 4, "9 patches and 4 registers"), case(8, 0, "4 patches and no register")],
        [
            Mistake("SigLIP first", "SigLIP's channels come first; Cobra puts DINOv2's first", joined(order=-1)),
            Mistake("token axis",
                    "tokens stand one behind the other; join the channels: a patch stays one token", joined(axis=1)),
            Mistake("prefix kept",
                    "DINOv2's class token and registers stand among the patches; drop them first", _with_prefix),
            Mistake("one normalisation", mixed, joined(("dinov2", "dinov2"))),
            Mistake("one normalisation", mixed, joined(("siglip", "siglip"))),
            Mistake("not normalised", "the picture was not normalised; pixels lie in [0, 1]", joined(("", ""))),
            Mistake("last block", "that is the last block's output; Cobra takes hidden state -2, the block before",
                    joined(("dinov2", "siglip"), -1)),
        ],
        done="right, one token a patch, DINOv2's channels before SigLIP's",
    )  # fmt: skip


# ---------------------------------------------------------------- 2 · parameters of a block
def _block(dim: int, state: int, conv: int, rank: int, inner: int | None = None) -> dict[str, int]:
    inner = 2 * dim if inner is None else inner
    return {
        "norm": dim, "in_proj": dim * 2 * inner, "conv1d": inner * conv + inner, "x_proj": inner * (rank + 2 * state),
        "dt_proj": rank * inner + inner, "A_log": inner * state, "D": inner, "out_proj": inner * dim,
    }  # fmt: skip


def block_parameters(answer: Any) -> Verdict:
    """Exercise 2: parameters of one Mamba block, part by part."""

    def counted(part: str, count: Any) -> Any:
        return lambda got, expected, *sizes: got[part] == count(*sizes)

    return run_check(
        "block_parameters",
        answer,
        _block,
        [Case((2560, 16, 4, 160), "a block of cobra-3b"), Case((3, 2, 5, 1), "a toy block")],
        [
            Mistake("a total", "return a dict, one count a part; its values' sum is the whole block",
                    fits=lambda got, *_: isinstance(got, int | float)),
            Mistake("no A_log", "A_log is missing: one number for each inner channel and each number of its state",
                    fits=lambda got, *_: "A_log" not in got),
            Mistake("no D", "D is missing: one number an inner channel", fits=lambda got, *_: "D" not in got),
            Mistake("inner width", "the inner width is 2 * dim: the block widens the stream before it scans",
                    lambda d, n, k, r: _block(d, n, k, r, d)),
            Mistake("in_proj not doubled", "in_proj makes two streams, u and the gate z, each of the inner width",
                    fits=counted("in_proj", lambda d, n, k, r: 2 * d * d)),
            Mistake("convolution bias", "the convolution has a bias, one number a channel",
                    fits=counted("conv1d", lambda d, n, k, r: 2 * d * k)),
            Mistake("full convolution", "the convolution is depthwise: a channel has its own taps and sees no other",
                    fits=counted("conv1d", lambda d, n, k, r: 4 * d * d * k + 2 * d)),
            Mistake("dt_proj bias", "dt_proj has a bias, the step size before any token is seen",
                    fits=counted("dt_proj", lambda d, n, k, r: 2 * d * r)),
            Mistake("B and C", "x_proj makes delta's low-rank form, B and C: rank + 2 * state outputs",
                    fits=counted("x_proj", lambda d, n, k, r: 2 * d * (r + n))),
        ],
        done=f"right, {sum(_block(2560, 16, 4, 160).values()):,} in a block of cobra-3b",
        tolerance=0.0,
    )  # fmt: skip


# ---------------------------------------------------------------- 3 · the causal convolution
def _convolved(u: Tensor, weight: Tensor, bias: Tensor, left: int | None = None, depthwise: bool = True) -> Tensor:
    """u (L, I) with `left` zeros in front and the others, K - 1 in all, behind."""
    channels, taps = weight.shape
    left = taps - 1 if left is None else left
    x = F.pad(u.T, (left, taps - 1 - left))[None]  # (1, I, L + K - 1); a negative pad cuts
    kernel = weight[:, None] if depthwise else weight[:, None].expand(-1, channels, -1)
    return F.conv1d(x, kernel, bias, groups=channels if depthwise else 1)[0].T


def causal_conv(answer: Any) -> Verdict:
    """Exercise 3: the depthwise causal convolution of a Mamba block, without its SiLU."""
    draw = torch.Generator().manual_seed(1)

    def case(length: int, channels: int, taps: int) -> Case:
        sizes = ((length, channels), (channels, taps), (channels,))
        return Case(tuple(torch.randn(size, generator=draw) for size in sizes), f"{length} tokens and {taps} taps")

    return run_check(
        "causal_conv",
        answer,
        _convolved,
        [case(7, 3, 4), case(2, 5, 4), case(6, 2, 3)],
        [
            Mistake("sees the future", "a token sees those after it: K - 1 zeros go in front and none behind",
                    lambda u, w, b: _convolved(u, w, b, 0)),
            Mistake("sees the future", "a token sees both sides, as in an image filter: pad in front only",
                    lambda u, w, b: _convolved(u, w, b, (w.shape[1] - 1) // 2)),
            Mistake("flipped kernel", "the taps are in reverse order: the last, weight[:, -1], is the token's own",
                    lambda u, w, b: _convolved(u, w.flip(1), b)),
            Mistake("not depthwise", "channels are summed; each has its own taps and sees no other channel",
                    lambda u, w, b: _convolved(u, w, b, depthwise=False)),
            Mistake("not depthwise", "channels are summed; each has its own taps and sees no other channel",
                    lambda u, w, b: b + (_convolved(u, w, torch.zeros_like(b))).sum(1, keepdim=True)),
            Mistake("no bias", "the bias is missing", lambda u, w, b: _convolved(u, w, torch.zeros_like(b))),
            Mistake("one late", "a token does not see itself: K - 1 zeros in front, not K",
                    lambda u, w, b: _convolved(u, w, b, w.shape[1])),
            Mistake("wraps around", "the first tokens see the last ones; before the beginning there are zeros",
                    lambda u, w, b: b + sum(u.roll(w.shape[1] - 1 - k, 0) * w[:, k] for k in range(w.shape[1]))),
        ],
        done="right, a token sees itself and K - 1 before it, channel by channel",
    )  # fmt: skip


# ---------------------------------------------------------------- 4 · state against cache
def break_even(answer: Any) -> Verdict:
    """Exercise 4: from how many tokens on a KV cache is larger than Mamba's state."""

    def exact(blocks: int, inner: int, state: int, conv: int, layers: int, heads: int, width: int) -> float:
        return blocks * inner * (state + conv) / (2 * layers * heads * width)

    def right(*sizes: int) -> int:
        return math.floor(exact(*sizes)) + 1

    def changed(place: int, value: int) -> Any:
        return lambda *sizes: right(*(value if i == place else size for i, size in enumerate(sizes)))

    full = (64, 5120, 16, 4, 32, 32, 128)
    return run_check(
        "break_even",
        answer,
        right,
        [
            Case(full, "cobra-3b and LLaVA-1.5-7B"),
            Case((12, 384, 16, 4, 6, 3, 32), "cobra-tiny and llava-tiny"),
            Case((3, 50, 7, 2, 5, 2, 9), "two toy models"),
        ],
        [
            Mistake("may be equal", "at that length both may be equal; the cache must be larger",
                    lambda *sizes: math.ceil(exact(*sizes))),
            Mistake("one short", "so many tokens need no more than the state; one token more does",
                    lambda *sizes: math.floor(exact(*sizes))),
            Mistake("not whole", "tokens come whole: round down and add one", exact),
            Mistake("keys only", "the cache holds keys and values: twice as many numbers a token",
                    lambda *sizes: math.floor(2 * exact(*sizes)) + 1),
            Mistake("no convolution", "the convolution's last inputs are kept as well", changed(3, 0)),
            Mistake("one block", "every block of the Mamba has a state of its own", changed(0, 1)),
            Mistake("one layer", "every layer of the Llama has keys and values of its own", changed(4, 1)),
        ],
        done=f"right, LLaVA-1.5-7B needs more from {right(*full)} tokens on",
        tolerance=0.0,
    )  # fmt: skip


# ---------------------------------------------------------------- 5 · SigLIP's loss in chunks
class _Largest(TorchFunctionMode):
    """Remembers the numbers of the largest matrix that is made inside."""

    size = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.dim() >= 2:
            self.size = max(self.size, result.numel())
        return result


def siglip_in_chunks(answer: Any) -> Verdict:
    """Exercise 5: the sigmoid loss of a batch with no more than B x size logits at a time."""
    small, whole = "at most B x size", "B x B"
    run = answer
    if callable(answer):

        @wraps(answer)
        def run(x: Tensor, y: Tensor, t: float, b: float, size: int) -> Any:
            with _Largest() as seen:
                loss = answer(x, y, t, b, size)
            if loss is None or loss is ...:
                return loss
            return {"loss": loss, "logits": small if seen.size <= max(len(x) * size, x.numel()) else whole}

    def gives(loss: Any) -> Any:
        def fits(got: Any, expected: Any, x: Tensor, y: Tensor, t: float, b: float, size: int) -> bool:
            return math.isclose(float(got["loss"]), float(loss(t * x @ y.T, b, size)), rel_tol=1e-4)

        return fits

    def own_diagonals(scores: Tensor, b: float, size: int) -> Tensor:
        parts = (F.logsigmoid((2 * torch.eye(*part.shape) - 1) * part).sum() for part in (scores + b).split(size, 1))
        return -sum(parts, torch.zeros(())) / len(scores)

    def right(scores: Tensor, b: float, size: int) -> Tensor:
        return siglip_loss(scores + b)

    def case(count: int, name: str) -> Case:
        x, y = (F.normalize(torch.randn(count, 3, generator=draw), dim=-1) for _ in range(2))
        return Case((x, y, 3.0, -1.5, 4), name)

    draw = torch.Generator().manual_seed(2)
    return run_check(
        "siglip_in_chunks",
        run,
        lambda x, y, t, b, size: {"loss": right(t * x @ y.T, b, size), "logits": small},
        [case(12, "12 pairs in chunks of 4"), case(11, "11 pairs, the last chunk smaller")],
        [
            Mistake("whole matrix", "the loss is right, but B x B numbers were made on the way (torch.eye(B) is B x B)",
                    fits=gives(right)),
            Mistake("softmax", "that is CLIP's loss; SigLIP judges each pair by itself, without a softmax",
                    fits=gives(lambda scores, b, size: clip_loss(scores))),
            Mistake("divided by pairs", "divide by B, the number of pictures, not by the B * B pairs",
                    fits=gives(lambda scores, b, size: siglip_loss(scores + b) / len(scores))),
            Mistake("not divided", "divide the sum by B, the number of pictures",
                    fits=gives(lambda scores, b, size: siglip_loss(scores + b) * len(scores))),
            Mistake("sign", "the signs are turned: a picture and its own caption carry +1, all others -1",
                    fits=gives(lambda scores, b, size: siglip_loss(-scores - b))),
            Mistake("negative", "it is negative; a loss is minus the logarithm",
                    fits=gives(lambda scores, b, size: -siglip_loss(scores + b))),
            Mistake("chunk diagonals", "each chunk takes its own diagonal as the pairs; remember where it starts",
                    fits=gives(own_diagonals)),
            Mistake("no bias", "the bias b is missing", fits=gives(lambda scores, b, size: siglip_loss(scores))),
        ],
        done="right, and the whole matrix of logits never exists",
    )  # fmt: skip


# ---------------------------------------------------------------- 6 · a projector of one's own
PATCHES, FEW, BUDGET = 64, 16, 461_888  # patches in, tokens out, parameters of "fused-ldpnet" from 256 to 192
ASKED = (
    ("output is (B, M, d)", "wrong shape", "the module must map (B, 64, d_v) to (B, M, d)"),
    ("at most 16 tokens", "too many tokens", "too many tokens are left; join or pool patches"),
    ("fewer parameters than fused-ldpnet", "too many parameters", "it is too large; make a layer narrower"),
    ("every patch counts", "patches dropped", "some patches have no influence; a small object may lie in just those"),
    ("pictures stay apart", "pictures mixed", "a picture's tokens depend on another picture of the batch"),
    ("place counts", "blind to place", "two patches can change places unnoticed; keep neighbours together"),
)


def compact_projector(answer: Any) -> Verdict:
    """Exercise 6: a module (B, 64, d_v) -> (B, at most 16, d), judged by what it does."""
    run = answer
    if callable(answer):

        @wraps(answer)
        def run(d_v: int, d: int) -> Any:
            module = answer(d_v, d)
            return _measured(module, d_v, d) if isinstance(module, nn.Module) else module

    def lacks(asked: str) -> Any:
        return lambda got, *_: got.get(asked) is not True

    return run_check(
        "compact_projector",
        run,
        lambda d_v, d: {asked: True for asked, _, _ in ASKED},
        [Case((256, 192), "the widths of cobra-tiny")],
        [Mistake(name, hint, fits=lacks(asked)) for asked, name, hint in ASKED],
        done="it does what is asked; whether it is a good one only training can tell",
    )


def _measured(module: nn.Module, d_v: int, d: int) -> dict[str, bool]:
    module = module.eval()
    x = torch.randn(2, PATCHES, d_v, generator=torch.Generator().manual_seed(3)).requires_grad_()
    z = module(x)
    if not isinstance(z, Tensor) or z.dim() != 3 or z.shape[::2] != (2, d):
        return dict.fromkeys((asked for asked, _, _ in ASKED), False)
    (reach,) = torch.autograd.grad((z[0] * torch.linspace(1, 2, d)).square().sum(), x)
    swapped = x.detach()[:, [PATCHES - 1, *range(1, PATCHES - 1), 0]]  # the first and the last patch
    with torch.no_grad():
        noticed = not torch.allclose(module(swapped), z, rtol=1e-4, atol=1e-6)
    small = sum(p.numel() for p in module.parameters()) < BUDGET
    every, apart = bool((reach[0].abs().sum(-1) > 0).all()), not reach[1].any()
    found = (True, z.shape[1] <= FEW, small, every, apart, noticed)
    return {asked: value for (asked, _, _), value in zip(ASKED, found, strict=True)}
