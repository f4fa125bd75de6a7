"""Hidden attention: it times the input is the scan's output, what each token gives is what the mixer puts out."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scan_models import ask, close, cobra, random_scan

from vlmlab.errors import BadInput, UnknownName
from vlmlab.explain import hidden_attention as H
from vlmlab.explain import states as S
from vlmlab.scan import selective_scan


@pytest.fixture(scope="module")
def inside():
    return ask(cobra())


def formula(scan: S.Scan) -> torch.Tensor:
    """alpha (inner, L, L) as the paper writes it, all at once."""
    S_ = scan.delta.cumsum(0)
    decay = torch.exp(scan.A[:, None, None] * (S_[:, None] - S_[None]).permute(2, 0, 1)[..., None])  # (d, i, j, n)
    return torch.einsum("in,dijn,jd,jn->dij", scan.C, decay, scan.delta, scan.B).tril()


@settings(max_examples=30, deadline=None)
@given(st.builds(random_scan, st.integers(1, 12), st.integers(1, 9), st.integers(1, 5), st.integers(0, 10**6)))
def test_alpha_is_the_papers_and_times_the_input_the_scan(scan):
    wanted = formula(scan)
    rows = torch.stack([H.alpha_row(scan, i) for i in range(len(scan.u))])  # (i, j, d)
    close(rows.permute(2, 0, 1), wanted)
    assert not rows.permute(2, 0, 1).triu(1).any()
    turned = [x.T[None] for x in (scan.u, scan.delta, scan.B, scan.C, scan.z)]
    y = torch.stack([H.alpha_row(scan, i, "input").sum(0) for i in range(len(scan.u))])
    close(y, selective_scan(*turned[:2], scan.A, *turned[2:4])[0].T)
    gated = torch.stack([H.alpha_row(scan, i, "gated input").sum(0) for i in range(len(scan.u))])
    close(gated, selective_scan(*turned[:2], scan.A, *turned[2:4], z=turned[4])[0].T)
    close(H.alpha_row(scan, -1, "gated"), wanted[:, -1].T * F.silu(scan.z[-1]))
    close(H.alpha_matrix(scan, "mean"), wanted.mean(0))
    close(H.alpha_matrix(scan), wanted.abs().mean(0))
    assert (H.alpha_matrix(scan) >= H.alpha_matrix(scan, "mean").abs() - 1e-12).all()
    close(H.alpha_matrix(scan, "mean", "gated input"), (rows * scan.u * F.silu(scan.z)[:, None]).mean(-1))


def test_chunks_of_channels_change_nothing(monkeypatch):
    scan = random_scan(inner=7)
    wanted = H.alpha_row(scan, 9, "gated input")
    monkeypatch.setattr(S, "CHUNK", 3 * 10 * 4)
    close(H.alpha_row(scan, 9, "gated input"), wanted, 1e-14)


def test_a_token_that_alone_writes_is_all_that_is_attended_to():
    scan = random_scan()
    B = torch.zeros_like(scan.B)
    B[4] = scan.B[4]
    found = H.alpha_matrix(replace(scan, B=B))
    assert found[4:, 4].all()
    found[:, 4] = 0
    assert not found.any()


def test_the_mixers_output_is_what_every_token_gives(inside):
    for layer in (0, 2, -1):
        mixed = inside.run([f"language.layers.{layer % 3}.mixer"])[f"language.layers.{layer % 3}.mixer"][0]
        for row in (0, 5, inside.image.stop, -1):
            given = H.contributions(inside, layer, row)
            assert given.shape == (inside.length, inside.vlm.language.config.dim)
            close(given.sum(0) + H.direct(inside, layer, row), mixed[row])
            assert not given[row % inside.length + 1 :].any()


def test_a_words_maps_are_the_rows_that_predict_it(inside):
    for word in (0, 3):
        i = inside.words.start - 1 + word
        rows = torch.stack([formula(S.read(inside, layer))[:, i] for layer in range(3)])  # (layers, d, j)
        close(H.word_maps(inside, word), inside.on_grid(rows.abs().mean(1)))
        close(H.word_maps(inside, word, "mean"), inside.on_grid(rows.mean(1)))


def test_the_map_of_an_answer(inside):
    rows = []
    for layer in range(3):
        absolute = formula(S.read(inside, layer)).abs().mean(0)[inside.words.start - 1 : inside.words.stop - 1]
        rows.append(absolute / absolute.sum(1, keepdim=True))
    close(H.hidden_attention_map(inside), inside.on_grid(torch.stack(rows).mean((0, 1))))


def test_refusals(inside):
    scan = random_scan()
    with pytest.raises(UnknownName, match="gated"):
        H.alpha_row(scan, 0, "gatd")
    with pytest.raises(BadInput, match="no gate"):
        H.alpha_row(replace(scan, z=None), 0, "gated input")
    with pytest.raises(BadInput, match="positions 0 to 11"):
        H.alpha_row(scan, -13)
    with pytest.raises(UnknownName, match="absolute"):
        H.alpha_matrix(scan, "abs")
    with pytest.raises(BadInput, match="words 0 to 3"):
        H.word_maps(inside, 4)
    with pytest.raises(BadInput, match="no image"):
        ask(inside.vlm, image=False).get("tokens")
    with pytest.raises(BadInput, match="image tokens"):
        H.hidden_attention_map(ask(inside.vlm, image=False))
