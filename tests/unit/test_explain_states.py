"""States, retention, horizons, the ledger and the order of the patches: identities, planted scans, refusals."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scan_models import ask, close, cobra, random_scan

from vlmlab.errors import BadInput, UnknownName
from vlmlab.explain import states as S
from vlmlab.explain.orders import order_sensitivity, orders, reordered
from vlmlab.vlm.model import VLM
from vlmlab.vlm.presets import PRESETS


@pytest.fixture(scope="module")
def inside():
    return ask(cobra())


scans = st.builds(
    random_scan, st.integers(1, 20), st.integers(1, 9), st.integers(1, 5), st.integers(0, 10**6)
)  # fmt: skip


# ---------------------------------------------------------------- states
def test_states_are_what_the_model_reads_out(inside):
    for layer in range(3):
        scan, found = S.read(inside, layer), S.states(inside, layer)
        y = torch.einsum("ldn,ln->ld", found, scan.C) + scan.D * scan.u
        close(y, inside.get("y", layer))
        assert torch.equal(found, inside.get("state", layer))
        close(found.norm(dim=(1, 2)), S.state_norms(inside)[layer])
        for at in (0, 7, -1):
            assert torch.equal(S.states_at(inside, at)[layer], found[at])
    assert torch.equal(S.states(inside, -1), found)


def test_one_pass_for_all_layers(inside, monkeypatch):
    calls = []
    run = type(inside).run
    monkeypatch.setattr(type(inside), "run", lambda *args, **options: calls.append(1) or run(*args, **options))
    alone = [S.read(inside, layer) for layer in (2, 0)]
    assert len(calls) == 2
    together = S.by_layer(inside, lambda scan: scan, [-1, 0])
    assert len(calls) == 3
    for one, other in zip(alone, together, strict=True):
        assert all(torch.equal(getattr(one, part), getattr(other, part)) for part in vars(one))


def test_landmarks(inside):
    found = S.landmarks(inside)
    assert inside.groups[found["image"]] == "image"
    assert inside.groups[found["image"] + 1] == "text"
    assert found["prompt"] + 1 == inside.words.start == S.predicting(inside, 0) + 1
    assert found["answer"] == inside.length - 1
    assert set(S.landmarks(ask(inside.vlm, image=False))) == {"prompt", "answer"}


# ---------------------------------------------------------------- how long they last
def test_a_token_with_a_huge_step_wipes_the_past_and_one_without_a_step_leaves_it():
    scan = random_scan()
    delta = scan.delta.clone()
    delta[5], delta[7:] = 1e4, 0.0
    scan = replace(scan, delta=delta)
    kept = S.retention(scan, 9)
    assert torch.equal(kept[:5], torch.zeros(5, dtype=kept.dtype))
    assert torch.equal(kept[7:10], torch.ones(3, dtype=kept.dtype))
    assert torch.equal(kept[10:], torch.zeros(2, dtype=kept.dtype))
    assert 0 < kept[5] < 1
    share = S.ledger_shares(scan, 9)
    assert torch.equal(share.nonzero().flatten(), torch.tensor([5, 6]))  # what has no step writes nothing


def test_retention_by_hand():
    one = torch.ones(3, 1, dtype=torch.float64)
    scan = S.Scan(one, one * math.log(2), one, one, -torch.tensor([[1.0, 2.0]]).double(), one[0])
    close(S.retention(scan, 2), torch.tensor([(1 / 4 + 1 / 16) / 2, (1 / 2 + 1 / 4) / 2, 1]).double())
    close(S.horizons(scan, [0.5])[0], 1 / math.log(2) * torch.tensor([[1, 0.5]]).double())


def test_horizons_are_quantiles_of_tokens():
    scan = random_scan(9, inner=2500)  # more than one slice of channels
    found = S.horizons(scan, (0.0, 0.5, 1.0))
    every = 1 / (scan.delta[..., None] * scan.A.abs())
    close(found, torch.stack([every.amin(0), every.median(0).values, every.amax(0)]))
    assert (S.horizons(scan)[1:] >= S.horizons(scan)[:-1]).all()


def test_maps_lie_on_the_patches(inside):
    layers, at = 3, S.landmarks(inside)["image"]
    delta = torch.stack([inside.get("delta", layer)[inside.image] for layer in range(layers)])
    close(S.delta_maps(inside).flatten(1), delta.mean(-1))
    close(S.delta_maps(inside, "max").flatten(1), delta.amax(-1))
    close(S.delta_map(inside), S.delta_maps(inside).mean(0))
    kept = S.retention_maps(inside, at)
    assert kept.shape == (layers, *inside.grid)
    assert torch.equal(kept[:, -1, -1], torch.ones(layers).double())  # the last patch has only just been written
    assert (kept.flatten(1)[:, 1:] > kept.flatten(1)[:, :-1]).all()
    assert (S.retention_maps(inside, -1) < kept).all()


# ---------------------------------------------------------------- whose they are
@settings(max_examples=30, deadline=None)
@given(scans, st.integers(0, 19))
def test_the_ledger_is_the_state(scan, position):
    position %= len(scan.u)
    h, parts = list(S.walk(scan))[position], S.ledger(scan, position)
    close(parts.sum(0), h)
    assert not parts[position + 1 :].any()
    close(S.ledger_norms(scan, position), parts.norm(dim=(1, 2)))
    shares = S.ledger_shares(scan, position)
    close(shares.sum(), torch.ones((), dtype=torch.float64))
    close(shares, (parts * h).sum((1, 2)) / h.square().sum())


def test_chunks_of_channels_change_nothing(monkeypatch):
    scan = random_scan(inner=7)
    functions = (S.ledger, S.ledger_norms, S.ledger_shares, S.retention)
    whole = [function(scan, 10) for function in functions]
    monkeypatch.setattr(S, "CHUNK", 2 * 11 * 4)  # two channels at a time
    assert len(list(S.fading(scan, 10))) == 4
    for function, wanted in zip(functions, whole, strict=True):
        close(function(scan, 10), wanted, 1e-14)


def test_the_ledger_in_float32_keeps_its_digits_far_from_the_beginning():
    scan = random_scan(400)
    scan = replace(scan, delta=scan.delta * 50)  # running sums of 16,000
    narrow = S.Scan(*(getattr(scan, part).float() for part in vars(scan)))
    wide = S.Scan(*(getattr(narrow, part).double() for part in vars(narrow)))
    close(S.retention(narrow, 399).double(), S.retention(wide, 399), 1e-6)


def test_who_alone_writes_has_the_whole_state():
    scan = random_scan()
    B = torch.zeros_like(scan.B)
    B[3] = scan.B[3]
    shares = S.ledger_shares(replace(scan, B=B), 11)
    assert torch.equal(shares, torch.eye(12).double()[3])
    with pytest.raises(BadInput, match="position 11 is zero"):
        S.ledger_shares(replace(scan, B=B * 0), 11)


def test_the_ledger_of_a_model(inside):
    for layer in range(3):
        scan, all_states = S.read(inside, layer), S.states(inside, layer)
        for at in S.landmarks(inside).values():
            close(S.ledger(scan, at).sum(0), all_states[at])
    sums = S.grouped(S.ledger_shares(scan, -1), inside.groups)
    assert set(sums) == {"text", "image", "answer"}
    assert sum(sums.values()) == pytest.approx(1, abs=1e-10)
    wanted = torch.stack([
        S.ledger_shares(S.read(inside, layer), inside.words.start - 1 + word)
        for layer in range(3) for word in range(inside.words.stop - inside.words.start)
    ]).mean(0)  # fmt: skip
    close(S.ledger_map(inside), inside.on_grid(wanted))


# ---------------------------------------------------------------- the order of the patches
def test_orders():
    found = orders((2, 3), seed=1)
    assert found["reverse"].tolist() == [5, 4, 3, 2, 1, 0]
    assert found["transpose"].tolist() == [0, 3, 1, 4, 2, 5]
    assert torch.equal(found["shuffle"], orders((2, 3), seed=1)["shuffle"])
    assert not torch.equal(orders((8, 8), 1)["shuffle"], orders((8, 8), 2)["shuffle"])


def test_another_order_is_another_input(inside):
    usual, *others = order_sensitivity(inside)
    assert usual.order == "usual"
    assert usual.change == 0
    assert usual.answer == inside.vlm.generate(inside.picture, inside.prompt)
    assert usual.log_p == float(inside.log_probs().sum())
    assert [reading.order for reading in others] == ["reverse", "transpose", "shuffle"]
    for reading in others:
        assert reading.change == reading.log_p - usual.log_p != 0
    tokens = inside.get("tokens").flip(0)[None]
    assert others[0].log_p == pytest.approx(float(inside.scores(tokens=tokens)), rel=1e-12)
    same = order_sensitivity(inside, {"same": torch.arange(inside.patches)})[1]
    assert same == ("same", usual.log_p, 0.0, usual.answer)


def test_a_model_blind_to_the_image_does_not_mind(inside):
    vlm = cobra()
    for parameter in vlm.projector[-1].parameters():
        parameter.data.zero_()  # all tokens the same
    assert all(reading.change == 0 for reading in order_sensitivity(ask(vlm)))


def test_a_class_token_stays_in_front():
    tokens = torch.arange(7.0)[None, :, None]
    found = reordered(torch.tensor([2, 1, 0, 5, 4, 3]))("tokens", tokens)
    assert found.flatten().tolist() == [0, 3, 2, 1, 6, 5, 4]


# ---------------------------------------------------------------- refusals and other models
def test_refusals(inside):
    scan = random_scan()
    for function in (S.retention, S.ledger, S.ledger_norms, S.ledger_shares):
        with pytest.raises(BadInput, match="positions 0 to 11"):
            function(scan, 12)
    with pytest.raises(BadInput, match="layers 0 to 2"):
        S.read(inside, 3)
    with pytest.raises(BadInput, match="words 0 to"):
        S.predicting(inside, -1)
    with pytest.raises(UnknownName, match="median"):
        S.delta_maps(inside, "median")
    with pytest.raises(BadInput, match="one group a position"):
        S.grouped(torch.zeros(3), ["text"])
    with pytest.raises(BadInput, match="each of the 16 image tokens once"):
        order_sensitivity(inside, {"twice": torch.zeros(16, dtype=torch.long)})
    with pytest.raises(BadInput, match="no image"):
        order_sensitivity(ask(inside.vlm, image=False))
    llama = ask(VLM.from_preset(replace(PRESETS["llava-tiny"], max_length=90), device="cpu"), "left")
    with pytest.raises(BadInput, match="no Mamba"):
        S.ledger_map(llama)
    assert len(order_sensitivity(llama)) == 4


def test_fewer_tokens_than_patches():
    inside = ask(cobra(name="cobra-tiny-ldp", pooled=2))
    assert S.ledger_map(inside).shape == S.delta_map(inside).shape == inside.grid == (2, 2)
