"""Activation patching: everything replaced is B, nothing is A, and planted models keep what they are told to keep."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import vlmlab
from vlmlab.benchmarks.categories import twin_pairs
from vlmlab.benchmarks.held_out import Asked
from vlmlab.errors import BadInput, UnknownName
from vlmlab.explain import patching
from vlmlab.explain.patching import MEMORY, Pair, patch, read, sweep, sweep_states, usable
from vlmlab.explain.regions import coverage
from vlmlab.scenes import sample
from vlmlab.vlm import VLM
from vlmlab.vlm.conversations import SLOTS, WORDS, word_map
from vlmlab.vlm.presets import get_preset

LLAVA, COBRA, MAMBAVISION, LDP = "llava-tiny", "cobra-tiny", "cobra-mambavision-tiny", "cobra-tiny-ldp"
TWO = [np.full((96, 96, 3), 40, np.uint8), np.random.default_rng(0).integers(0, 256, (96, 96, 3), np.uint8)]
LONG = ("on the left", "it is right of the cat, no.")


def tiny(preset: str, layers: int = 3) -> VLM:
    """A model of random weights in float64 with a short language model."""
    config = get_preset(preset)
    return VLM.from_preset(replace(config, language=replace(config.language, layers=layers)), "cpu").double().eval()


@pytest.fixture
def any_difference(monkeypatch):
    """Random weights hardly tell pictures apart; in float64 a small denominator does no harm."""
    monkeypatch.setattr(patching, "LEAST", 1e-4)


def pair_of(vlm: VLM, answers=LONG) -> Pair:
    return Pair.ask(vlm, TWO, "Is the cat left of the sofa?", answers)


def everywhere(pair: Pair) -> torch.Tensor:
    return torch.ones(pair.prompt, dtype=torch.bool)


@pytest.mark.usefixtures("any_difference")
@pytest.mark.parametrize("preset", [LLAVA, COBRA])
def test_all_replaced_is_b_and_nothing_is_a(preset):
    pair = pair_of(tiny(preset, layers=2))
    for name in ("language.embed", "language.layers.0"):
        assert patch(pair, [name], everywhere(pair)) == pytest.approx(1, abs=1e-9)
    assert patch(pair, ["language.layers.0"], ~everywhere(pair)) == 0
    assert patch(pair, [], everywhere(pair)) == 0
    image = pair.groups()["image"]
    assert patch(pair, ["language.embed"], image) == pytest.approx(1, abs=1e-9)  # the texts are the same
    assert patch(pair, ["language.embed"], ~image) == pytest.approx(0, abs=1e-9)
    last = pair.groups()["last"]  # the answer's own tokens count with it, and the last layer mixes no positions
    assert patch(pair, ["language.layers.1"], last) == pytest.approx(1, abs=1e-9)
    assert patch(pair, ["language.layers.1"], ~last) == pytest.approx(0, abs=1e-9)


@pytest.mark.usefixtures("any_difference")
def test_the_effect_is_the_share_of_the_log_odds():
    vlm = tiny(LLAVA)
    pair = pair_of(vlm)
    scores = [vlm.score_options(picture, "Is the cat left of the sofa?", LONG) for picture in TWO]
    assert pair.low == pytest.approx(scores[0][LONG[1]] - scores[0][LONG[0]], abs=1e-4)  # scored in float32
    assert pair.high == pytest.approx(scores[1][LONG[1]] - scores[1][LONG[0]], abs=1e-4)
    assert pair.effect((0.0, pair.low)) == 0
    assert pair.effect((1.0, 1.0 + pair.high)) == pytest.approx(1)
    assert pair.effect((0.0, (pair.low + pair.high) / 2)) == pytest.approx(0.5)
    turned = Pair.ask(vlm, TWO[::-1], "Is the cat left of the sofa?", LONG[::-1])
    assert (turned.low, turned.high) == pytest.approx((-pair.high, -pair.low), abs=1e-9)


@pytest.mark.usefixtures("any_difference")
def test_a_transformer_that_looks_at_the_picture_in_one_layer():
    """Only layer 1 attends, nothing else writes into the stream: before it the image carries the difference, after it
    the last position does, and its attention's output is all of it."""
    vlm = tiny(LLAVA)
    with torch.no_grad():
        for number, block in enumerate(vlm.language.layers):
            block.mlp.down_proj.weight.zero_()
            if number != 1:
                block.self_attn.o_proj.weight.zero_()
    pair = pair_of(vlm, ("yes", "no"))
    found = sweep(pair)
    assert (found.rows, found.columns) == (
        ["embed", "layer 0", "layer 1", "layer 2"],
        ["image", "question", "last"],
    )
    assert found.values == pytest.approx(np.array([[1, 0, 0], [1, 0, 0], [0, 0, 1], [0, 0, 1]]), abs=1e-9)
    assert sweep(pair, "attn_out").values == pytest.approx(np.array([[0, 0, 0], [0, 0, 1], [0, 0, 0]]), abs=1e-9)
    assert patch(pair, [f"language.layers.{i}.mlp_out" for i in range(3)], everywhere(pair)) == 0
    assert patch(pair, ["language.layers.0.attn_out", "language.layers.1.attn_out"], everywhere(pair)) == (
        pytest.approx(1, abs=1e-9)
    )


@pytest.mark.usefixtures("any_difference")
def test_a_mamba_that_remembers_in_one_layer():
    """Only layer 1 writes into the stream. Four tokens after the image its convolution has forgotten the picture, and
    its state is all that still knows it."""
    vlm = tiny(COBRA)
    with torch.no_grad():
        for number in (0, 2):
            vlm.language.layers[number].mixer.out_proj.weight.zero_()
    pair = pair_of(vlm, ("yes", "no"))
    end = pair.a[0].image.stop
    found = sweep_states(pair, [end + 3, pair.prompt - 2])
    assert found.rows == ["layer 0", "layer 1", "layer 2", "all layers"]
    assert found.columns == [pair.a[0].texts[end + 3], pair.a[0].texts[pair.prompt - 2]]
    assert len(sweep_states(pair).columns) == pair.prompt - end
    assert found.values == pytest.approx(np.array([[0, 0], [1, 1], [0, 0], [1, 1]]), abs=1e-8)
    last = {"last": pair.groups()["last"]}
    assert sweep(pair, "mixer", last).values[:, 0] == pytest.approx([0, 1, 0], abs=1e-9)
    assert sweep(pair, groups=last).values[:, 0] == pytest.approx([0, 0, 1, 1], abs=1e-9)


@pytest.mark.usefixtures("any_difference")
@pytest.mark.parametrize("preset", [COBRA, MAMBAVISION, LDP])
def test_a_mambas_whole_memory_is_the_picture(preset):
    pair = pair_of(tiny(preset, layers=2))
    end = pair.a[0].image.stop
    after = [end - 1, end + 5]
    everything = sweep_states(pair, after, MEMORY)
    assert everything.values[-1] == pytest.approx(np.ones(2), abs=1e-8)
    assert patch(pair, ["language.embed"], pair.groups()["image"]) == pytest.approx(1, abs=1e-9)
    assert np.abs(everything.values[:-1] - 1).min() > 1e-3  # no single layer holds all of it
    states = sweep_states(pair, after).values
    assert states[-1, 0] != pytest.approx(1, abs=1e-3)  # the convolutions still see the image's last tokens
    assert sweep_states(pair, after[::-1] + after).values == pytest.approx(states, abs=1e-12)


def test_a_reading_cut_in_two_is_the_reading():
    pair = pair_of_itself(tiny(COBRA))
    end = pair.a[0].image.stop
    assert sweep_states(pair, [0, end - 30, end - 1, pair.prompt - 2], MEMORY).values == pytest.approx(0, abs=1e-9)
    (cache, rest), (later, _) = read(pair.a[0], [end - 1, end + 2])
    assert (len(cache), rest.shape[1], len(later)) == (end, pair.a[0].length - end, end + 3)
    for layer in range(3):
        state = pair.a[0].get("state", layer)[end - 1]  # the recurrence step by step
        assert torch.allclose(cache.states[layer][0], state, rtol=1e-9, atol=1e-12)


def pair_of_itself(vlm: VLM) -> Pair:
    """A's own activations put into A: no effect, whatever the denominator."""
    runs = tuple(patching.Inside.ask(vlm, TWO[1], "Is it left?", answer) for answer in LONG)
    low = float(runs[1].log_probs().sum() - runs[0].log_probs().sum())
    pair = Pair(runs, runs, low, low + 1)
    assert patch(pair, ["language.layers.1"], everywhere(pair)) == 0
    return pair


@pytest.fixture(scope="module")
def llava():
    return vlmlab.load(LLAVA, device="cpu")


@pytest.fixture(scope="module")
def twins():
    return twin_pairs("swap", 2)


def test_the_shipped_llava_moves_the_picture_to_the_answer(llava, twins):
    pairs, left_out = usable(llava, twins)
    assert len(pairs) + len(left_out) == 2
    found = sweep(pairs[0])
    assert found.columns == ["objects", "other image", "question", "last"]
    assert found.values[0, 0] > 0.5 > abs(found.values[0, 1])  # what was swapped is where the objects are
    assert found.values[-1] == pytest.approx([0, 0, 0, 1], abs=1e-4)
    for pair in pairs:
        groups = torch.stack(list(pair.groups().values()))
        assert bool((groups.sum(0) == 1).all())
        assert int(groups[0].sum()) == int(pair.objects.sum()) > 0


def test_pairs_that_say_the_same_are_named_and_left_out(llava, twins):
    scene, question = twins[0][0]
    same = (Asked(scene, question), Asked(scene, question))
    pairs, left_out = usable(llava, [same])
    assert not pairs
    assert "answers both pictures with" in left_out[0]
    assert left_out[0].startswith(question.text)


def test_objects_are_those_of_either_picture(llava, twins):
    (scene, question), (other, _) = twins[0]
    pair = Pair.of(llava, *twins[0])
    cells = np.zeros(64, bool)
    for each in (scene, other):
        mask = each.render(96).mask
        for index in question.objects:
            alone = np.where(mask == index + 1, mask, 0)
            cells |= word_map(each, alone)[:, list(SLOTS).index("kind")] != WORDS.index("floor")
    assert pair.objects.tolist() == cells.tolist()


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 4), st.integers(1, 5), st.integers(0, 2**31))
def test_coverage_is_the_share_of_each_patch(side, pixels, seed):
    mask = np.random.default_rng(seed).integers(-1, 4, (side * pixels, side * pixels))
    found = coverage(mask, [0, 2], side * side)
    for row, index in enumerate((0, 2)):
        for patch_number in range(side * side):
            y, x = (pixels * n for n in divmod(patch_number, side))
            share = (mask[y : y + pixels, x : x + pixels] == index + 1).mean()
            assert float(found[row, patch_number]) == pytest.approx(share, abs=1e-12)


def test_bad_requests_say_what_is_wrong(llava, monkeypatch):
    with pytest.raises(BadInput, match=r"answers both pictures with 'yes'; patching needs two answers"):
        Pair.ask(llava, TWO, "Is it?", ("yes", "yes"))
    with pytest.raises(BadInput, match=r"less than 1 apart: llava-tiny hardly tells them apart"):
        Pair.ask(llava, [TWO[0], TWO[0]], "Is it?", ("yes", "no"))
    monkeypatch.setattr(patching, "LEAST", 0.0)
    pair = Pair.ask(llava, TWO, "Is it?", ("yes", "no"))
    with pytest.raises(UnknownName, match=r"unknown layer 'language\.layers\.9'"):
        patch(pair, ["language.layers.9"], everywhere(pair))
    with pytest.raises(BadInput, match=r"language\.layers\.0\.attn is .*row a position"):
        patch(pair, ["language.layers.0.attn"], everywhere(pair))
    with pytest.raises(BadInput, match=r"positions \(3,\): the prompt has"):
        patch(pair, ["language.embed"], torch.ones(3, dtype=torch.bool))
    with pytest.raises(BadInput, match="llava-tiny has none, use sweep"):
        sweep_states(pair)
    with pytest.raises(BadInput, match="do not lie on a square grid"):
        coverage(sample(0).render(96).mask, [0], 65)


@pytest.mark.usefixtures("any_difference")
@pytest.mark.parametrize("after", [[], [-1], [10_000]])
def test_positions_outside_the_prompt_are_refused(after):
    pair = pair_of(tiny(COBRA, layers=1))
    with pytest.raises(BadInput, match="a state can be replaced after positions 0 to"):
        sweep_states(pair, after)
