"""Checks of notebook 10: windows put back, a mixer's parameters, which blocks attend, delta, features, four scans."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlmlab.checks.base import Case, Mistake, Verdict, run_check
from vlmlab.vision import MambaVision, MambaVisionConfig
from vlmlab.vision.mambavision_blocks import MambaMixer, to_windows

SMALL = MambaVisionConfig(8, 4, (1, 1, 2, 2), (2, 4), (4, 2), num_classes=0, image_size=64)


# ---------------------------------------------------------------- 1 · back from the windows
def _put_back(
    windows: Tensor,
    side: int,
    batch: int,
    height: int,
    width: int,
    view: tuple[str, ...] = ("B", "r", "c", "y", "x"),
    crop: bool = True,
    start: bool = False,
) -> Tensor:
    """The axes of `windows` as `view` names them, put in order; `start`: cropped at the top left instead."""
    rows, columns = -(-height // side), -(-width // side)
    sizes = {"B": batch, "r": rows, "c": columns, "y": side, "x": side}
    x = windows.reshape(*(sizes[axis] for axis in view), -1)
    x = x.permute(view.index("B"), 5, *(view.index(axis) for axis in "rycx"))  # (B, C, r, y, c, x)
    x = x.reshape(batch, -1, rows * side, columns * side)
    if not crop:
        return x
    return x[:, :, -height:, -width:] if start else x[:, :, :height, :width]


def _strips(windows: Tensor, side: int, batch: int, height: int, width: int) -> Tensor:
    """Every window laid out as if it were a stretch of the whole map."""
    rows, columns = -(-height // side), -(-width // side)
    x = windows.reshape(batch, rows * side, columns * side, -1)
    return x[:, :height, :width].permute(0, 3, 1, 2)


def put_back(answer: Any) -> Verdict:
    """Exercise 1: windows (B * n, side * side, C) to the map (B, C, height, width)."""
    draw = torch.Generator().manual_seed(0)

    def case(batch: int, channels: int, height: int, width: int, side: int, name: str) -> Case:
        x = torch.randn(batch, channels, height, width, generator=draw)
        windows = to_windows(x, side)
        padding = to_windows(torch.ones(1, 1, height, width), side).repeat(batch, 1, 1) == 0
        windows = torch.where(padding, torch.randn(windows.shape, generator=draw), windows)  # blocks fill it
        return Case((windows, side, batch, height, width), name)

    return run_check(
        "put_back",
        answer,
        _put_back,
        [case(2, 3, 5, 10, 4, "a map of 5 x 10 and windows of 4"), case(2, 5, 6, 9, 3, "a map of 6 x 9, windows of 3")],
        [
            Mistake("not cropped", "the padding is still there; keep the first `height` rows and `width` columns",
                    partial(_put_back, crop=False)),
            Mistake("cropped at the start", "padding lies at the bottom and on the right; keep what comes first",
                    partial(_put_back, start=True)),
            Mistake("strips", "rows of different windows are mixed; permute before you join the axes", _strips),
            Mistake("windows by column", "windows follow each other row by row, not column by column",
                    partial(_put_back, view=("B", "c", "r", "y", "x"))),
            Mistake("tokens by column", "the tokens of a window stand row by row, not column by column",
                    partial(_put_back, view=("B", "r", "c", "x", "y"))),
            Mistake("pictures mixed", "all windows of the first picture come before those of the second",
                    partial(_put_back, view=("r", "c", "B", "y", "x"))),
            Mistake("channels last", "a map is (B, C, H, W): the channels come before rows and columns",
                    lambda *given: _put_back(*given).permute(0, 2, 3, 1)),
        ],
        done="right, padding and all",
    )  # fmt: skip


# ---------------------------------------------------------------- 2 · parameters of a mixer
def _mixer(
    dim: int, inner: int | None = None, rank: int | None = None, state: int = 8, joined: int = 2
) -> dict[str, int]:
    inner, rank = dim // 2 if inner is None else inner, -(-dim // 16) if rank is None else rank
    return {
        "in_proj": dim * 2 * inner, "conv1d_x": 3 * inner, "conv1d_z": 3 * inner, "x_proj": inner * (rank + 2 * state),
        "dt_proj": rank * inner + inner, "A_log": inner * state, "D": inner, "out_proj": joined * inner * dim,
    }  # fmt: skip


def mixer_parameters(answer: Any) -> Verdict:
    """Exercise 2: parameters of one mixer, part by part."""

    def counted(part: str, count: Callable[[int], int]) -> Callable[..., bool]:
        return lambda got, expected, dim: got[part] == count(dim)

    return run_check(
        "mixer_parameters",
        answer,
        lambda dim: _mixer(dim),
        [Case((320,), "T's level 2"), Case((72,), "72 channels")],
        [
            Mistake("a total", "return a dict, one count a part; its values' sum is the whole mixer",
                    fits=lambda got, *_: isinstance(got, int | float)),
            Mistake("one branch", "conv1d_z is missing: the branch that is not scanned has its own convolution",
                    fits=lambda got, *_: "conv1d_z" not in got),
            Mistake("inner width", "Mamba widens to 2 * dim; this mixer scans half of the channels, dim / 2",
                    lambda dim: _mixer(dim, 2 * dim)),
            Mistake("inner width", "only half of the channels are scanned: the inner width is dim / 2",
                    lambda dim: _mixer(dim, dim)),
            Mistake("rank of half", "delta's rank is a sixteenth of all channels, not of the scanned half",
                    lambda dim: _mixer(dim, rank=-(-dim // 32))),
            Mistake("rank rounded down", "the rank is rounded up: 72 / 16 makes 5",
                    lambda dim: _mixer(dim, rank=dim // 16)),
            Mistake("state of 16", "the state has 8 numbers a channel here, not Mamba's 16",
                    lambda dim: _mixer(dim, state=16)),
            Mistake("gated", "y and z stand side by side, so out_proj takes all dim channels",
                    lambda dim: _mixer(dim, joined=1)),
            Mistake("convolution bias", "the convolutions have no bias",
                    fits=counted("conv1d_x", lambda d: 4 * (d // 2))),
            Mistake("full convolution", "the convolutions are depthwise: a channel has its own taps and sees no other",
                    fits=counted("conv1d_x", lambda d: 3 * (d // 2) ** 2)),
            Mistake("dt_proj bias", "dt_proj has a bias, the one that counts twice",
                    fits=counted("dt_proj", lambda d: -(-d // 16) * (d // 2))),
            Mistake("biases", "in_proj and out_proj have no bias", fits=counted("in_proj", lambda d: d * d + d)),
        ],
        done=f"right, {sum(_mixer(320).values()):,} in a mixer of T's level 2",
        tolerance=0.0,
    )  # fmt: skip


# ---------------------------------------------------------------- 3 · which blocks attend
def attention_blocks(answer: Any) -> Verdict:
    """Exercise 3: the indices of the blocks with attention in a level of some depth."""
    return run_check(
        "attention_blocks",
        answer,
        lambda depth: list(range((depth + 1) // 2, depth)),
        [Case((depth,), f"{depth} blocks") for depth in (8, 11, 7, 4, 5, 1)],
        [
            Mistake("larger half", "of an odd number of blocks the smaller half attends: 4, 5 and 6 of 7",
                    lambda depth: list(range(depth // 2, depth))),
            Mistake("first half", "these are the blocks with a scan; attention comes after them",
                    lambda depth: list(range((depth + 1) // 2))),
            Mistake("first half", "attention comes last: the blocks at the end", lambda depth: list(range(depth // 2))),
            Mistake("alternating", "scan and attention do not alternate; the last half attends",
                    lambda depth: list(range(1, depth, 2))),
            Mistake("last quarter", "half of the blocks attend, not a quarter",
                    lambda depth: list(range(depth - depth // 4, depth))),
            Mistake("from 1", "blocks are numbered from 0", lambda depth: list(range((depth + 1) // 2 + 1, depth + 1))),
            Mistake("a count", "return the blocks' numbers as a list, not how many there are",
                    fits=lambda got, *_: isinstance(got, int) and not isinstance(got, bool)),
        ],
        done="right, in every published variant",
    )  # fmt: skip


# ---------------------------------------------------------------- 4 · the step size
def step_size(answer: Any) -> Verdict:
    """Exercise 4: delta with its bias counted twice."""
    draw = torch.Generator().manual_seed(1)

    def case(length: int, inner: int, rank: int) -> Case:
        sizes = ((length, rank), (inner, rank), (inner,))
        return Case(tuple(torch.randn(size, generator=draw) for size in sizes), f"{length} tokens, {inner} channels")

    return run_check(
        "step_size",
        answer,
        lambda low, weight, bias: F.softplus(low @ weight.T + 2 * bias),
        [case(7, 5, 2), case(3, 4, 4)],
        [
            Mistake("one bias", "the bias counts twice in the published model: in the layer and again in the scan",
                    lambda low, weight, bias: F.softplus(low @ weight.T + bias)),
            Mistake("no bias", "the bias is missing, and it counts twice",
                    lambda low, weight, _: F.softplus(low @ weight.T)),
            Mistake("no softplus", "delta must be positive: a softplus is missing",
                    lambda low, weight, bias: low @ weight.T + 2 * bias),
            Mistake("bias outside", "the second bias is added before the softplus, not after it",
                    lambda low, weight, bias: F.softplus(low @ weight.T + bias) + bias),
            Mistake("all doubled", "only the bias counts twice, not the product",
                    lambda low, weight, bias: F.softplus(2 * (low @ weight.T + bias))),
            Mistake("exp", "softplus, log(1 + exp(x)), not exp",
                    lambda low, weight, bias: (low @ weight.T + 2 * bias).exp()),
        ],
        done="right, as the published weights need it",
    )  # fmt: skip


# ---------------------------------------------------------------- 5 · features
@torch.no_grad()
def _maps(model: MambaVision, pixels: Tensor) -> list[Tensor]:
    return model.features(pixels)


@torch.no_grad()
def _after(model: MambaVision, pixels: Tensor) -> list[Tensor]:
    """What each level hands on to the next."""
    levels: Any = model.levels
    maps = zip(levels, _maps(model, pixels), strict=True)
    return [x if level.downsample is None else level.downsample(x) for level, x in maps]


def feature_maps(answer: Any) -> Verdict:
    """Exercise 5: the four maps, each before the convolution to the next level."""
    draw = torch.Generator().manual_seed(2)
    model = MambaVision(SMALL, draw).eval()
    nn.init.normal_(model.norm.bias, generator=draw)  # so that the final norm shows

    def normalised(given: MambaVision, pixels: Tensor) -> list[Tensor]:
        maps = _maps(given, pixels)
        with torch.no_grad():
            return [*maps[:-1], given.norm(maps[-1])]

    def with_stem(given: MambaVision, pixels: Tensor) -> list[Tensor]:
        with torch.no_grad():
            return [given.patch_embed(pixels), *_maps(given, pixels)]

    return run_check(
        "feature_maps",
        answer,
        _maps,
        [
            Case((model, torch.randn(2, 3, 64, 64, generator=draw)), "pictures of 64 x 64"),
            Case((model, torch.randn(1, 3, 40, 72, generator=draw)), "a picture of 40 x 72"),
        ],
        [
            Mistake("after downsample", "these are the maps after the convolution to the next level; append before it",
                    _after),
            Mistake("with the stem", "the stem's map is not one of the four; begin with level 0's", with_stem),
            Mistake("one early", "this is what goes into each level; append after calling it",
                    lambda *given: [with_stem(*given)[0], *_after(*given)[:3]]),
            Mistake("one missing", "the last level is missing; it has a map, but no convolution after it",
                    lambda *given: _maps(*given)[:3]),
            Mistake("last one normalised", "the final norm belongs to the head; level 3's map is taken before it",
                    normalised),
            Mistake("tokens", "return maps (B, C, H, W), not tokens",
                    lambda *given: [x.flatten(2).transpose(1, 2) for x in _maps(*given)]),
            Mistake("last one only", "return all four maps, not the last", lambda *given: _maps(*given)[-1]),
        ],
        done="right, each before the convolution to the next level",
    )  # fmt: skip


# ---------------------------------------------------------------- 6 · four ways through a window
def _orders(side: int) -> list[Tensor]:
    rows = torch.arange(side * side)
    columns = rows.view(side, side).T.flatten()
    return [rows, rows.flip(0), columns, columns.flip(0)]


@torch.no_grad()
def _mean_over(mixer: Any, x: Tensor, orders: Sequence[Tensor], back: bool = True) -> Tensor:
    outs = [mixer(x[:, order]) for order in orders]
    placed = [out[:, order.argsort()] if back else out for out, order in zip(outs, orders, strict=True)]
    return torch.stack(placed).mean(0)


@torch.no_grad()
def _columns_kept(mixer: Any, x: Tensor, side: int) -> Tensor:
    """The backward orders put back, the columns left transposed."""
    order = _orders(side)[2]
    return (_mean_over(mixer, x, _orders(side)[:2]) + _mean_over(mixer, x, _orders(side)[2:])[:, order]) / 2


def four_ways(answer: Any) -> Verdict:
    """Exercise 6: the mean of a mixer's outputs over four orders of a window's tokens."""
    draw = torch.Generator().manual_seed(3)
    mixer = MambaMixer(8, 1)
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter.normal_(generator=draw)

    def case(batch: int, side: int) -> Case:
        return Case((mixer, torch.randn(batch, side * side, 8, generator=draw), side), f"{side} x {side} tokens")

    def over(*chosen: int, **options: Any) -> Callable[..., Tensor]:
        return lambda mixer, x, side: _mean_over(mixer, x, [_orders(side)[i] for i in chosen], **options)

    def mirrored(mixer: Any, x: Tensor, side: int) -> Tensor:
        rows = torch.arange(side * side).view(side, side)
        return _mean_over(mixer, x, [way.flatten() for way in (rows, rows.flip(1), rows.T, rows.T.flip(1))])

    def channels(mixer: Any, x: Tensor, side: int) -> Tensor:
        ways = _orders(side)[::2]
        with torch.no_grad():
            outs = [(mixer(x[:, o]) + mixer(x[:, o].flip(-1)).flip(-1))[:, o.argsort()] for o in ways]
        return (outs[0] + outs[1]) / 4

    return run_check(
        "four_ways",
        answer,
        lambda mixer, x, side: _mean_over(mixer, x, _orders(side)),
        [case(2, 3), case(1, 4)],
        [
            Mistake("not put back", "each result must go back to the tokens' own places before the mean",
                    over(0, 1, 2, 3, back=False)),
            Mistake("columns not put back", "the columns' results are still transposed; bring them back as well",
                    _columns_kept),
            Mistake("a sum", "take the mean of the four, not their sum",
                    lambda *given: 4 * _mean_over(given[0], given[1], _orders(given[2]))),
            Mistake("one way", "that is the mixer once; three more orders are missing", over(0)),
            Mistake("two ways", "backwards is missing: two of the four orders", over(0, 2)),
            Mistake("two ways", "column by column is missing: two of the four orders", over(0, 1)),
            Mistake("three ways", "one of the four orders is missing", over(0, 1, 2)),
            Mistake("rows mirrored", "backwards means from the last token to the first, not each row mirrored",
                    mirrored),
            Mistake("channels turned", "the channels were turned round; flip the tokens, axis 1", channels),
        ],
        done="right, and now every place sees every other",
    )  # fmt: skip
