"""Each check of notebook 10 names the mistake of wrong answers."""

import pytest
import torch
import torch.nn.functional as F
from exercises import solutions

from vlmlab.checks import nb10
from vlmlab.vision import MambaVision
from vlmlab.vision.mambavision_blocks import MambaMixer, from_windows, to_windows
from vlmlab.vision.mambavision_config import VARIANTS

SOLUTIONS = solutions("10_mambavision.py", {"torch": torch, "F": F})


# ------------------------------------------------------------------ wrong answers, and the mistake each looks like
def whole(windows, side, batch, height, width):
    rows, columns = -(-height // side) * side, -(-width // side) * side
    return from_windows(windows, side, batch, rows, columns)


def placed(look):
    """A map whose place (b, y, x) is token `look(...)` of the windows, as (window, token)."""

    def answer(windows, side, batch, height, width):
        rows, columns = -(-height // side), -(-width // side)
        out = torch.zeros(batch, windows.shape[-1], height, width)
        for b in range(batch):
            for y in range(height):
                for x in range(width):
                    window, token = look(b, y, x, side, rows, columns, batch)
                    out[b, :, y, x] = windows[window, token]
        return out

    return answer


def rightly(b, y, x, s, rows, columns, batch):
    return (b * rows + y // s) * columns + x // s, (y % s) * s + x % s


def counts(**changes):
    """The right counts with some of them replaced: functions of dim, or None to leave one out."""

    def answer(dim):
        right = SOLUTIONS["mixer_parameters"](dim)
        replaced = {part: change(dim) for part, change in changes.items() if change}
        return {part: count for part, count in (right | replaced).items() if changes.get(part, part) is not None}

    return answer


def sized(inner, rank=lambda d: -(-d // 16), state=8):
    def answer(dim):
        i, r = inner(dim), rank(dim)
        return {
            "in_proj": 2 * i * dim, "conv1d_x": 3 * i, "conv1d_z": 3 * i, "x_proj": i * (r + 2 * state),
            "dt_proj": i * (r + 1), "A_log": i * state, "D": i, "out_proj": 2 * i * dim,
        }  # fmt: skip

    return answer


def half(dim):
    return dim // 2


def maps(after=False, stem=False, before=False, last=True):
    @torch.no_grad()
    def answer(model, pixels):
        x = model.patch_embed(pixels)
        found = [x] if stem else []
        for level in model.levels:
            if before:
                found.append(x)
            x = level(x)
            y = x if level.downsample is None else level.downsample(x)
            if not before:
                found.append(y if after else x)
            x = y
        return found if last else found[:-1]

    return answer


def ways(orders=(0, 1, 2, 3), back=True, share=None):
    def answer(mixer, x, side):
        rows = torch.arange(side * side)
        columns = rows.view(side, side).T.flatten()
        chosen = [(rows, rows.flip(0), columns, columns.flip(0))[i] for i in orders]
        outs = [mixer(x[:, o])[:, o.argsort()] if back else mixer(x[:, o]) for o in chosen]
        return sum(outs) / (share or len(outs))

    return answer


def still_transposed(mixer, x, side):
    rows = torch.arange(side * side)
    columns = rows.view(side, side).T.flatten()
    y = x[:, columns]
    outs = [mixer(x), mixer(x.flip(1)).flip(1), mixer(y), mixer(y.flip(1)).flip(1)]
    return sum(outs) / 4


def mirrored(mixer, x, side):
    grid = x.unflatten(1, (side, side))  # (B, y, x, C)
    out = torch.zeros_like(grid)
    for turned in (False, True):
        for flipped in (False, True):
            way = grid.transpose(1, 2) if turned else grid
            way = way.flip(2) if flipped else way
            done = mixer(way.flatten(1, 2)).unflatten(1, (side, side))
            done = done.flip(2) if flipped else done
            out = out + (done.transpose(1, 2) if turned else done)
    return out.flatten(1, 2) / 4


def channels_turned(mixer, x, side):
    columns = torch.arange(side * side).view(side, side).T.flatten()
    y = x[:, columns]
    outs = [mixer(x), mixer(x.flip(-1)).flip(-1)]
    outs += [mixer(y)[:, columns], mixer(y.flip(-1)).flip(-1)[:, columns]]
    return sum(outs) / 4


WRONG = [
    ("put_back", whole, "not cropped"),
    ("put_back", lambda w, s, b, h, v: whole(w, s, b, h, v)[:, :, -h:, -v:], "cropped at the start"),
    (
        "put_back",
        placed(lambda b, y, x, s, r, c, B: divmod((b * r * s + y) * c * s + x, s * s)),
        "strips",
    ),
    ("put_back", placed(lambda b, y, x, s, r, c, B: (rightly(b, y, x, s, r, c, B)[0], (x % s) * s + y % s)),
     "tokens by column"),
    (
        "put_back",
        placed(lambda b, y, x, s, r, c, B: ((b * c + x // s) * r + y // s, (y % s) * s + x % s)),
        "windows by column",
    ),
    (
        "put_back",
        placed(lambda b, y, x, s, r, c, B: ((y // s * c + x // s) * B + b, (y % s) * s + x % s)),
        "pictures mixed",
    ),
    ("put_back", lambda *given: SOLUTIONS["put_back"](*given).permute(0, 2, 3, 1), "channels last"),
    ("put_back", lambda *given: 2 * SOLUTIONS["put_back"](*given), None),
    ("mixer_parameters", lambda dim: sum(SOLUTIONS["mixer_parameters"](dim).values()), "a total"),
    ("mixer_parameters", counts(conv1d_z=None), "one branch"),
    ("mixer_parameters", sized(lambda d: 2 * d), "inner width"),
    ("mixer_parameters", sized(lambda d: d), "inner width"),
    ("mixer_parameters", sized(half, lambda d: -(-d // 32)), "rank of half"),
    ("mixer_parameters", sized(half, lambda d: d // 16), "rank rounded down"),
    ("mixer_parameters", sized(half, state=16), "state of 16"),
    ("mixer_parameters", counts(out_proj=lambda d: d * (d // 2)), "gated"),
    ("mixer_parameters", counts(conv1d_x=lambda d: 2 * d, conv1d_z=lambda d: 2 * d), "convolution bias"),
    ("mixer_parameters", counts(conv1d_x=lambda d: 3 * (d // 2) ** 2), "full convolution"),
    ("mixer_parameters", counts(dt_proj=lambda d: -(-d // 16) * (d // 2)), "dt_proj bias"),
    ("mixer_parameters", counts(in_proj=lambda d: d * d + d, out_proj=lambda d: d * d + d), "biases"),
    ("mixer_parameters", counts(D=None), None),
    ("attention_blocks", lambda depth: list(range(depth // 2, depth)), "larger half"),
    ("attention_blocks", lambda depth: list(range((depth + 1) // 2)), "first half"),
    ("attention_blocks", lambda depth: list(range(depth // 2)), "first half"),
    ("attention_blocks", lambda depth: [i for i in range(depth) if i % 2], "alternating"),
    ("attention_blocks", lambda depth: list(range(depth))[depth - depth // 4 :], "last quarter"),
    ("attention_blocks", lambda depth: [i + 1 for i in range((depth + 1) // 2, depth)], "from 1"),
    ("attention_blocks", lambda depth: depth // 2, "a count"),
    ("attention_blocks", lambda depth: range((depth + 1) // 2, depth), None),
    ("step_size", lambda low, w, b: F.softplus(F.linear(low, w, b)), "one bias"),
    ("step_size", lambda low, w, b: F.softplus(F.linear(low, w)), "no bias"),
    ("step_size", lambda low, w, b: F.linear(low, w, 2 * b), "no softplus"),
    ("step_size", lambda low, w, b: F.softplus(F.linear(low, w, b)) + b, "bias outside"),
    ("step_size", lambda low, w, b: F.softplus(2 * F.linear(low, w, b)), "all doubled"),
    ("step_size", lambda low, w, b: F.linear(low, w, 2 * b).exp(), "exp"),
    ("step_size", lambda low, w, b: F.softplus(F.linear(low, w, 3 * b)), None),
    ("feature_maps", maps(after=True), "after downsample"),
    ("feature_maps", maps(stem=True), "with the stem"),
    ("feature_maps", maps(before=True), "one early"),
    ("feature_maps", maps(last=False), "one missing"),
    ("feature_maps", lambda m, x: [*maps()(m, x)[:-1], m.norm(maps()(m, x)[-1])], "last one normalised"),
    ("feature_maps", lambda m, x: m.hidden_states(x), "tokens"),
    ("feature_maps", lambda m, x: maps()(m, x)[-1], "last one only"),
    ("feature_maps", lambda m, x: maps()(m, x)[::-1], None),
    ("four_ways", ways(back=False), "not put back"),
    ("four_ways", still_transposed, "columns not put back"),
    ("four_ways", ways(share=1), "a sum"),
    ("four_ways", lambda mixer, x, side: mixer(x), "one way"),
    ("four_ways", ways((0, 1)), "two ways"),
    ("four_ways", ways((0, 2)), "two ways"),
    ("four_ways", ways((0, 1, 2)), "three ways"),
    ("four_ways", mirrored, "rows mirrored"),
    ("four_ways", channels_turned, "channels turned"),
    ("four_ways", lambda mixer, x, side: x, None),
]  # fmt: skip


@pytest.mark.parametrize(("name", "answer", "mistake"), WRONG)
def test_wrong_answers(name, answer, mistake, judged):
    verdict = judged(getattr(nb10, name), answer)
    assert not verdict.ok
    assert verdict.mistake == mistake
    assert verdict.message.startswith(name)


def test_another_right_way_is_right(judged):
    def grid(mixer, x, side):
        y = x.unflatten(1, (side, side)).transpose(1, 2).flatten(1, 2)
        across = mixer(x) + mixer(x.flip(1)).flip(1)
        down = mixer(y) + mixer(y.flip(1)).flip(1)
        return (across + down.unflatten(1, (side, side)).transpose(1, 2).flatten(1, 2)) / 4

    assert judged(nb10.four_ways, grid).ok
    assert judged(nb10.put_back, placed(rightly)).ok
    assert judged(nb10.put_back, from_windows).ok
    assert judged(nb10.feature_maps, lambda model, pixels: tuple(maps()(model, pixels))).ok
    assert judged(nb10.mixer_parameters, sized(half)).ok


# ------------------------------------------------------------------ the references against the package
@pytest.mark.parametrize("dim", [16, 72, 320])
def test_the_counts_are_the_packages(dim):
    found: dict[str, int] = {}
    for name, parameter in MambaMixer(dim, -(-dim // 16)).named_parameters():
        part = name.removesuffix(".weight").removesuffix(".bias")
        found[part] = found.get(part, 0) + parameter.numel()
    assert SOLUTIONS["mixer_parameters"](dim) == found


def test_the_rule_of_the_blocks_is_the_packages():
    for config in VARIANTS.values():
        for level in (2, 3):
            depth = config.depths[level]
            wanted = [block for block in range(depth) if config.attends(level, block)]
            assert SOLUTIONS["attention_blocks"](depth) == wanted


def test_windows_there_and_back():
    x = torch.randn(2, 3, 7, 10, generator=torch.Generator().manual_seed(0))
    assert torch.equal(SOLUTIONS["put_back"](to_windows(x, 4), 4, 2, 7, 10), x)


def test_four_ways_see_the_whole_window():
    model = MambaVision(nb10.SMALL, torch.Generator().manual_seed(0)).eval()
    mixer = model.levels[2].blocks[0].mixer
    seen = {}
    for name, run in (("one", mixer), ("four", lambda x: SOLUTIONS["four_ways"](mixer, x, 4))):
        x = torch.randn(1, 16, 32, generator=torch.Generator().manual_seed(1)).requires_grad_()
        gradient = torch.autograd.grad(run(x)[0, 5].square().sum(), x)[0]
        seen[name] = int((gradient[0].norm(dim=-1) > 0).sum())
    assert seen == {"one": 7, "four": 16}  # itself, five before it, one after it
