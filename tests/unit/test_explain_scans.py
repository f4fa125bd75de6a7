"""MambaVision's blocks on the picture: recorded scans repeat the model's, windows lie where they were cut."""

import pytest
import torch
import torch.nn.functional as F
from scan_models import MAMBAVISION, ask, close, cobra, draw

from vlmlab.errors import BadInput, UnknownName
from vlmlab.explain import scans as W
from vlmlab.explain.hidden_attention import alpha_row
from vlmlab.vision import MambaVision
from vlmlab.vlm.model import VLM

PIXELS = torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(3)).double()


@pytest.fixture(scope="module")
def encoder():
    return draw(MambaVision(MAMBAVISION, torch.Generator().manual_seed(0)))


@pytest.fixture(scope="module")
def blocks(encoder):
    return W.seen(encoder, PIXELS)


def test_which_blocks_scan_and_which_attend(blocks):
    found = [(block.name, block.kind, block.side, block.grid) for block in blocks]
    assert found == [
        ("levels.2.blocks.0", "scan", 3, (8, 8)),
        ("levels.2.blocks.1", "scan", 3, (8, 8)),
        ("levels.2.blocks.2", "attention", 3, (8, 8)),
        ("levels.3.blocks.0", "scan", 2, (4, 4)),
        ("levels.3.blocks.1", "attention", 2, (4, 4)),
    ]
    assert [len(block.scans) for block in blocks] == [9, 9, 0, 4, 0]


def test_hidden_attention_times_the_input_is_the_models_scan(encoder, blocks):
    for block in (blocks[1], blocks[3]):
        y = encoder.record(PIXELS, [f"{block.name}.y"])[f"{block.name}.y"]  # (windows, L, inner)
        for window, scan in enumerate(block.scans):
            found = torch.stack([alpha_row(scan, i, "input").sum(0) for i in range(block.side**2)])
            close(found + scan.D * scan.u, y[window])


def test_deltas_bias_counts_twice(encoder, blocks):
    block, mixer = blocks[0], encoder.levels[2].blocks[0].mixer
    for scan in block.scans:
        low = F.linear(scan.u, mixer.x_proj.weight)[:, : mixer.rank]
        once = F.linear(low, mixer.dt_proj.weight, mixer.dt_proj.bias)
        close(scan.delta, F.softplus(once + mixer.dt_proj.bias))
        assert (scan.delta - F.softplus(once)).abs().max() > 0.01


def test_values_go_back_to_where_they_were_cut(blocks):
    block = blocks[0]
    image = torch.arange(64.0).view(8, 8)
    padded = F.pad(image, (0, 1, 0, 1), value=-1)
    windows = torch.stack([
        padded[r : r + 3, c : c + 3].flatten() for r in (0, 3, 6) for c in (0, 3, 6)
    ])  # fmt: skip
    assert torch.equal(W.on_picture(block, windows), image)
    delta = torch.stack([scan.delta for scan in block.scans])
    found = W.delta_on_picture(block)
    assert found[4, 7] == delta[5, 1 * 3 + 1].mean()  # the sixth window, its second row and column
    assert W.delta_on_picture(block, "max")[0, 0] == delta[0, 0].max()


def test_nothing_is_taken_from_another_window_or_from_later_tokens(blocks):
    place = torch.arange(8)
    for block in (blocks[0], blocks[2]):
        found = W.picture_matrix(block).view(8, 8, 8, 8)
        near = place[:, None] // 3 == place[None] // 3
        same = near[:, None, :, None] & near[None, :, None, :]  # (row, column, row, column)
        assert not found[~same].any()
        if block.kind == "attention":
            assert (found[same] > 0).all()
            continue
        inside = place % 3
        order = inside[:, None] * 3 + inside  # a token's turn in its window
        later = order[None, None] > order[:, :, None, None]
        assert not found[same & later].any()
        assert (found[same & ~later] > 0).all()
    assert torch.equal(W.place_map(blocks[0], 4, 5), W.picture_matrix(blocks[0])[4 * 8 + 5].view(8, 8))


def test_attentions_rows_sum_to_one_but_for_padding(blocks):
    close(W.mixing(blocks[2]).sum(-1), torch.ones(9, 9).double(), 1e-12)
    rows = W.picture_matrix(blocks[2]).sum(-1).view(8, 8)
    close(rows[:6, :6], torch.ones(6, 6).double(), 1e-12)  # windows without padding
    assert (rows[6:] < 1).all()
    assert (rows[:, 6:] < 1).all()
    close(W.picture_matrix(blocks[4]).sum(-1), torch.ones(16).double(), 1e-12)


def test_signed_hidden_attention_cancels(blocks):
    absolute, signed = W.mixing(blocks[0]), W.mixing(blocks[0], "mean")
    assert (signed < 0).any()
    assert (absolute >= signed.abs() - 1e-12).all()


def test_a_vlms_encoder_shows_the_levels_that_it_runs(encoder, blocks):
    inside = ask(cobra(MAMBAVISION, "cobra-mambavision-tiny"))
    found = W.seen_by(inside)
    assert [block.name for block in found] == ["levels.2.blocks.0", "levels.2.blocks.1", "levels.2.blocks.2"]
    alone = W.seen(inside.vlm.vision, inside.pixels)
    assert len(alone) == 5
    for one, other in zip(found, alone, strict=False):
        assert torch.equal(W.picture_matrix(one), W.picture_matrix(other))
    both = ask(cobra(MAMBAVISION, "cobra-mambavision-tiny-both", feature_layer=(-2, -1)))
    assert len(W.seen_by(both)) == 5


def test_the_preset_and_pictures_that_are_not_square(encoder):
    found = W.seen_by(ask(VLM.from_preset("cobra-mambavision-tiny", device="cpu")))
    assert [block.kind for block in found] == ["scan"] * 4 + ["attention"] * 4
    assert {W.picture_matrix(block).shape for block in found[3:5]} == {(64, 64)}
    assert W.delta_on_picture(found[0]).min() > 0
    wide = W.seen(encoder, torch.zeros(1, 3, 60, 100).double())
    assert wide[0].grid == (5, 9)
    assert W.delta_on_picture(wide[0]).shape == (5, 9)
    assert W.picture_matrix(wide[2]).shape == (45, 45)


def test_refusals(encoder, blocks):
    with pytest.raises(BadInput, match="another encoder"):
        W.seen_by(ask(cobra()))
    with pytest.raises(BadInput, match="nothing was seen"):
        W.seen_by(ask(cobra(MAMBAVISION, "cobra-mambavision-tiny"), image=False))
    with pytest.raises(BadInput, match="2 pictures"):
        W.seen(encoder, PIXELS.expand(2, -1, -1, -1))
    with pytest.raises(BadInput, match="no delta"):
        W.delta_on_picture(blocks[2])
    with pytest.raises(UnknownName, match="mean"):
        W.delta_on_picture(blocks[0], "men")
    with pytest.raises(BadInput, match="8 rows and 8 columns"):
        W.place_map(blocks[0], 0, 8)
