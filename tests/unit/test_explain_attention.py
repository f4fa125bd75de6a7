"""Attention read: maps, shares, sinks, rollout, relevance, against loops and a model made by hand. Notebook 13."""

from dataclasses import replace

import pytest
import torch
from explain_models import PATCH, QUESTION, flood, llava, planted
from hypothesis import given, settings
from hypothesis import strategies as st
from scan_models import FUSED, MAMBAVISION, ask, close, cobra

from vlmlab.errors import BadInput
from vlmlab.explain import Inside
from vlmlab.explain import attention as A


@pytest.fixture(scope="module")
def inside() -> Inside:
    return ask(llava())


# ---------------------------------------------------------------- rows
def test_the_row_of_a_word_predicts_it(inside: Inside) -> None:
    logits = inside.run()["logits"]
    targets = inside.ids[0, inside.words]
    found = logits[A.rows_of(inside, None)].log_softmax(-1).gather(1, targets[:, None])[:, 0]
    assert torch.equal(found, inside.log_probs())
    assert A.rows_of(inside, 1) == [inside.words.start]
    with pytest.raises(BadInput, match="words 0 to"):
        A.rows_of(inside, 99)


def test_the_first_word_is_predicted_in_the_prefill_and_all_others_by_a_step(inside: Inside) -> None:
    rows, phases = A.rows_of(inside, None), A.phases(inside)
    assert [phases[row] for row in rows] == ["prefill"] + ["decode"] * (len(rows) - 1)
    assert len(phases) == inside.length
    assert phases.count("decode") == inside.words.stop - inside.words.start


def test_maps_are_the_rows_of_the_words(inside: Inside) -> None:
    weights = inside.get("attention")  # (layers, H, L, L)
    close(weights.sum(-1), torch.ones_like(weights.sum(-1)), 1e-12)
    maps, start = A.attention_maps(inside, 1), inside.image.start
    for layer in range(3):
        for head in range(4):
            for row in range(4):
                for column in range(4):
                    wanted = weights[layer, head, inside.words.start, start + 4 * row + column]
                    assert maps[layer, head, row, column] == wanted
    whole, count = A.attention_maps(inside), len(A.rows_of(inside, None))
    close(whole, sum(A.attention_maps(inside, word) for word in range(count)) / count)
    close(A.attention_map(inside), whole.mean((0, 1)))
    close(A.attention_map(inside, 1, layers=[2]), maps[2].mean(0))
    assert torch.equal(inside.on_grid(A.attention_from(inside, inside.words.start)), maps)
    with pytest.raises(BadInput, match="positions 0 to"):
        A.attention_from(inside, inside.length)


@settings(max_examples=25, deadline=None)
@given(st.sets(st.integers(0, 8)), st.integers(0, 99))
def test_taking_keys_out(positions: set[int], seed: int) -> None:
    weights = torch.rand(2, 9, 9, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).softmax(-1)
    found = A.without(weights, positions)
    assert (found[..., list(positions)] == 0).all()
    if len(positions) == 9:
        assert (found == 0).all()
        return
    close(found.sum(-1), torch.ones(2, 9, dtype=torch.float64), 1e-12)
    left = [key for key in range(9) if key not in positions]
    close(found[..., left] * weights[..., left].sum(-1, keepdim=True), weights[..., left], 1e-12)


def test_a_map_without_sinks(inside: Inside) -> None:
    sink = inside.image.start + 5
    found = A.attention_map(inside, 1, sinks=[0, sink])
    row = inside.get("attention")[:, :, inside.words.start]
    wanted = torch.zeros(16, dtype=torch.float64)
    for layer in row:
        for head in layer:
            for patch in range(16):
                if patch != 5:
                    wanted[patch] += head[inside.image.start + patch] / (1 - head[0] - head[sink]) / 12
    close(found.flatten(), wanted, 1e-12)


# ---------------------------------------------------------------- where attention goes
def test_shares_against_a_loop(inside: Inside) -> None:
    sinks = [0, inside.image.start + 2]
    found, weights = A.shares(inside, sinks), inside.get("attention")
    close(sum(found.values()), torch.ones_like(found["itself"]), 1e-12)
    wanted = {part: torch.zeros_like(found[part]) for part in A.PARTS}
    for row in range(inside.length):
        for key in range(row + 1):
            group = {"text": "prompt"}.get(inside.groups[key], inside.groups[key])
            part = "itself" if key == row else "sinks" if key in sinks else group
            wanted[part][:, :, row] += weights[:, :, row, key]
    for part in A.PARTS:
        close(found[part], wanted[part], 1e-12)


@pytest.mark.parametrize("place", [0, 9])
def test_a_planted_sink_is_found_and_named(place: int) -> None:
    inside = ask(llava())
    assert A.find_sinks(inside) == []  # of random weights
    place += inside.image.start if place else 0
    flood(inside, place, 0.6, slice(place + 1, None))
    (sink,) = A.find_sinks(inside)
    assert sink.position == place
    assert (sink.text, sink.group) == (("<s>", "text") if place == 0 else ("B3", "image"))
    assert abs(sink.share - 0.6) < 1e-9
    rows = range(place + 1, inside.length)
    standing_out = [row for row in rows if A.TIMES * 0.4 / row <= 0.6]  # the row's other tokens share 0.4
    assert sink.rows == pytest.approx(len(standing_out) / len(rows))
    assert A.find_sinks(inside, times=1.5 * (inside.length - 1) + 1) == []  # in the last row 0.6 is less than that
    parts = A.shares(inside, [sink.position])
    close(parts["sinks"][:, :, -5:], torch.full_like(parts["sinks"][:, :, -5:], 0.6), 1e-9)


def test_what_few_rows_look_at_is_no_sink() -> None:
    inside = ask(llava())
    flood(inside, 0, 0.9, slice(-8, None))
    assert A.find_sinks(inside) == []


# ---------------------------------------------------------------- rollout
def test_rollout_against_a_loop(inside: Inside) -> None:
    weights = inside.get("attention").mean(1)  # (layers, L, L)
    L = inside.length
    wanted = [[float(i == j) for j in range(L)] for i in range(L)]
    for layer in weights.tolist():
        step = [[(layer[i][j] + (i == j)) / (sum(layer[i]) + 1) for j in range(L)] for i in range(L)]
        wanted = [[sum(step[i][k] * wanted[k][j] for k in range(L)) for j in range(L)] for i in range(L)]
    wanted = torch.tensor(wanted, dtype=torch.float64)
    close(A.rollout(weights), wanted, 1e-12)
    close(wanted.sum(-1), torch.ones(L, dtype=torch.float64), 1e-12)
    close(A.rollout_map(inside, 1).flatten(), wanted[inside.words.start, inside.image], 1e-12)
    rows = wanted[inside.words.start - 1 : inside.words.stop - 1, inside.image]
    close(A.rollout_map(inside).flatten(), rows.mean(0), 1e-12)


# ---------------------------------------------------------------- relevance
def replaced_log_probs(inside: Inside, name: str, attention: torch.Tensor) -> torch.Tensor:
    return inside.log_probs(tap=lambda other, value: attention if other == name else value)


def test_relevance_with_gradients_by_finite_differences() -> None:
    """Every weight of every layer is moved a little; R is built from what that does to each word and to all."""
    inside = Inside.ask(llava(layers=2), None, "cat?", "left of it")
    L, step, words = inside.length, 1e-5, [None, 0, 2]
    wanted = {word: torch.eye(L, dtype=torch.float64) for word in words}
    for layer in range(2):
        name = f"language.layers.{layer}.attn"
        weights = inside.run([name])[name]
        slopes = torch.zeros(inside.words.stop - inside.words.start, *weights.shape[1:], dtype=torch.float64)
        for head in range(4):
            for i in range(L):
                for j in range(i + 1):
                    change = torch.zeros_like(weights)
                    change[0, head, i, j] = step
                    up, down = (replaced_log_probs(inside, name, weights + sign * change) for sign in (1, -1))
                    slopes[:, head, i, j] = (up - down) / (2 * step)
        for word, found in wanted.items():
            slope = slopes.sum(0) if word is None else slopes[word]
            positive = sum((slope[head] * weights[0, head]).clamp(min=0) for head in range(4)) / 4
            wanted[word] = found + positive @ found
    for word in words:
        close(A.relevance(inside, word), wanted[word], 1e-8)


def test_relevance_of_a_frozen_model_is_the_same_and_leaves_no_gradient(inside: Inside) -> None:
    frozen = ask(llava().freeze())
    assert torch.equal(A.relevance(frozen, 1), A.relevance(inside, 1))
    assert all(parameter.grad is None for parameter in inside.vlm.parameters())
    with torch.no_grad():
        assert torch.equal(A.relevance(frozen, 1), A.relevance(inside, 1))


def test_the_map_of_relevance_is_its_share(inside: Inside) -> None:
    R, row = A.relevance(inside, 1), inside.words.start
    without_itself = R[row] - torch.eye(inside.length, dtype=R.dtype)[row]
    close(A.chefer_map(inside, 1).flatten(), without_itself[inside.image] / without_itself.sum(), 1e-12)
    assert 0 < float(A.chefer_map(inside).sum()) < 1
    assert (A.chefer_map(inside) >= 0).all()


def test_relevance_of_nothing_is_nothing() -> None:
    """A head that is 0 says every word alike, whatever it sees: no gradient, rows of 0, and a map of 0."""
    inside = planted()
    with torch.no_grad():
        inside.vlm.language.lm_head.weight.zero_()
    assert torch.equal(A.relevance(inside), torch.eye(inside.length, dtype=torch.float64))
    assert torch.equal(A.chefer_map(inside), torch.zeros(4, 4, dtype=torch.float64))


# ---------------------------------------------------------------- a model that reads one patch
def test_every_method_finds_the_planted_patch() -> None:
    inside = planted()
    maps = A.attention_maps(inside, 0)
    assert abs(float(maps[0, 0].flatten()[PATCH]) - 1) < 1e-9  # layer 0, head 0
    uniform = 1 / inside.words.start  # of the row that predicts word 0
    close(maps[1, 1], torch.full((4, 4), uniform, dtype=torch.float64), 1e-9)
    for found in (A.attention_map(inside), A.rollout_map(inside), A.chefer_map(inside)):
        assert int(found.argmax()) == PATCH
    one = torch.zeros(16, dtype=torch.float64)
    one[PATCH] = 1
    assert torch.allclose(A.chefer_map(inside).flatten(), one, atol=1e-9)  # the only one that sees nothing else
    R = A.relevance(inside)
    assert torch.equal(R[0], torch.eye(inside.length, dtype=R.dtype)[0])  # a row that the answer does not need


# ---------------------------------------------------------------- encoders
def test_attention_of_each_encoder() -> None:
    of_vit = A.encoder_attention(ask(llava()))
    assert list(of_vit) == ["vision.blocks.0.attn"]  # features of the last layer but one
    assert of_vit["vision.blocks.0.attn"].shape == (2, 17, 17)
    fused = A.encoder_attention(ask(cobra()))
    assert {name: tuple(weights.shape) for name, weights in fused.items()} == {
        "vision.dinov2.blocks.0.attn": (2, 21, 21),
        "vision.siglip.blocks.0.attn": (2, 16, 16),
    }
    for weights in (*of_vit.values(), *fused.values()):
        sums = weights.sum(-1)
        close(sums, torch.ones_like(sums), 1e-12)
    with pytest.raises(BadInput, match="no image"):
        A.encoder_attention(ask(llava(), image=False))


def test_rollout_of_each_encoder() -> None:
    deep = replace(FUSED, dinov2=replace(FUSED.dinov2, layers=3), siglip=replace(FUSED.siglip, layers=3))
    inside = ask(cobra(deep))
    found = A.encoder_rollout(inside)
    assert list(found) == ["vision.dinov2", "vision.siglip"]
    names = [f"vision.{{}}.blocks.{i}.attn" for i in range(2)]
    for encoder, prefix in (("dinov2", 5), ("siglip", 0)):
        run = inside.run([name.format(encoder) for name in names])
        wanted = torch.eye(16 + prefix, dtype=torch.float64)
        for name in names:
            layer = run[name.format(encoder)][0].mean(0) + torch.eye(16 + prefix)
            wanted = layer / layer.sum(1, keepdim=True) @ wanted
        close(found[f"vision.{encoder}"], wanted[prefix:, prefix:], 1e-12)
    close(found["vision.siglip"].sum(-1), torch.ones(16).double(), 1e-12)
    assert (found["vision.dinov2"].sum(-1) < 1).all()
    assert A.encoder_rollout(ask(llava()))["vision"].shape == (16, 16)


def test_windows_of_a_mambavision_stand_where_their_tokens_are() -> None:
    """Level 2 has 8 x 8 places in windows of 3, padded to 9 x 9: one row of windows is padding in part."""
    inside = ask(cobra(MAMBAVISION, "cobra-mambavision-tiny"))
    found = A.encoder_attention(inside)
    assert list(found) == ["vision.levels.2.blocks.2.attn"]  # two scans before it; level 3 does not run
    (weights,) = found.values()
    raw = inside.run(list(found))[next(iter(found))]
    assert (raw.shape, weights.shape) == ((9, 2, 9, 9), (2, 64, 64))
    for a in range(64):
        for b in range(64):
            (ar, ac), (br, bc) = divmod(a, 8), divmod(b, 8)
            if (ar // 3, ac // 3) != (br // 3, bc // 3):
                assert (weights[:, a, b] == 0).all()
            else:
                window = ar // 3 * 3 + ac // 3
                assert torch.equal(weights[:, a, b], raw[window, :, ar % 3 * 3 + ac % 3, br % 3 * 3 + bc % 3])
    close(A.encoder_rollout(inside)["vision.levels.2"].sum(-1), torch.ones(64).double(), 1e-12)


def test_a_mamba_has_no_attention() -> None:
    inside = ask(cobra())
    for method in (A.attention_map, A.rollout_map, A.chefer_map, A.find_sinks, A.shares):
        with pytest.raises(BadInput, match="has no attention"):
            method(inside)


def test_a_question_without_an_image_has_no_map() -> None:
    inside = Inside.ask(llava(), None, QUESTION, "left")
    assert A.attention_from(inside, 3).shape == (3, 4, inside.length)
    with pytest.raises(BadInput, match="image tokens"):
        A.attention_map(inside)
