"""Interventions: at rest they change nothing, at work exactly what they say, and a planted model falls. Notebook 13."""

from dataclasses import replace
from math import log

import pytest
import torch
from explain_models import PATCH, QUESTION, llava, planted
from scan_models import MAMBAVISION, ask, close, cobra, picture

from vlmlab.errors import BadInput
from vlmlab.explain import Inside
from vlmlab.explain.interventions import (
    answer_rows,
    block_attention,
    effect,
    generate_with,
    hold_state,
    option_scores,
    rescale_image,
    sweep,
    windows,
)
from vlmlab.vlm.model import VLM


@pytest.fixture(scope="module")
def attending() -> Inside:
    return ask(llava())


@pytest.fixture(scope="module")
def scanning() -> Inside:
    return ask(cobra())


# ---------------------------------------------------------------- at rest
def test_settings_at_rest_change_no_bit(attending: Inside, scanning: Inside) -> None:
    for inside, taps in (
        (attending, [block_attention(attending, slice(None), []), block_attention(attending, [], slice(None))]),
        (attending, [rescale_image(attending, 1.0), rescale_image(attending, 5.0, layers=[])]),
        (scanning, [hold_state(scanning, []), hold_state(scanning, slice(None), layers=[])]),
        (scanning, [rescale_image(scanning, 1.0)]),
    ):
        for tap in taps:
            assert torch.equal(inside.run(tap=tap)["logits"], inside.run()["logits"])


# ---------------------------------------------------------------- attention blocked
def test_blocked_weights_are_0_and_the_others_share_what_was_theirs(attending: Inside) -> None:
    names = [f"language.layers.{i}.attn" for i in range(3)]
    rows, keys = [attending.words.start - 1, attending.words.start], [0, 7, 8, attending.length - 1]
    before = attending.run(names)
    after = attending.run(names, block_attention(attending, rows, keys, layers=[1]))
    assert torch.equal(after[names[0]], before[names[0]])  # the layer below
    old, new = before[names[1]][0], after[names[1]][0]
    for row in range(attending.length):
        gone = keys if row in rows else []
        left = [key for key in range(attending.length) if key not in gone]
        assert (new[:, row, gone] == 0).all()
        close(new[:, row].sum(-1), torch.ones(4, dtype=torch.float64), 1e-12)
        close(new[:, row, left] * old[:, row, left].sum(-1, keepdim=True), old[:, row, left], 1e-12)
    assert not torch.equal(after[names[2]], before[names[2]])  # the layer above reads what came of it
    earlier = slice(0, rows[0])
    assert torch.equal(after["logits"][earlier], before["logits"][earlier])


def test_a_query_needs_a_key(attending: Inside) -> None:
    with pytest.raises(BadInput, match="without any key"):
        attending.run(tap=block_attention(attending, [3], range(4)))
    attending.run(tap=block_attention(attending, [3], range(3)))


def test_the_planted_patch_and_no_other_is_needed() -> None:
    inside = planted("yes")
    before = float(inside.log_probs().sum())
    assert before > log(0.9)
    for patch in range(16):
        tap = block_attention(inside, answer_rows(inside), [inside.image.start + patch])
        after = float(inside.log_probs(tap).sum())
        if patch == PATCH:
            assert after == pytest.approx(log(1 / 1024), abs=1e-9)  # nothing is left to go by
        else:
            assert after == pytest.approx(before, abs=1e-9)


def test_a_sweep_finds_the_layer_that_reads() -> None:
    inside = planted("yes", layers=4)
    place = [inside.image.start + PATCH]
    single = sweep(inside, lambda layers: block_attention(inside, answer_rows(inside), place, layers))
    assert single[0] < -5
    assert (single[1:].abs() < 1e-9).all()
    wide = sweep(inside, lambda layers: block_attention(inside, answer_rows(inside), place, layers), width=2)
    assert [bool(change < -5) for change in wide] == [True, False, False]
    assert windows(inside, 3) == [range(0, 3), range(1, 4)]
    with pytest.raises(BadInput, match="has 4 layers"):
        windows(inside, 5)


# ---------------------------------------------------------------- a state held
def scan_without(inside: Inside, layer: int, skipped: set[int]) -> torch.Tensor:
    """y (L, inner) of a scan that never meets some tokens, by a loop; at these it gives what the state holds."""
    run = {part: inside.get(part, layer) for part in ("u", "delta", "B", "C")}
    mixer = inside.vlm.language.layers[layer].mixer
    A, h, found = -mixer.A_log.detach().exp(), torch.zeros_like(mixer.A_log), []
    for t in range(inside.length):
        if t not in skipped:
            h = torch.exp(run["delta"][t, :, None] * A) * h
            h = h + (run["delta"][t] * run["u"][t])[:, None] * run["B"][t]
        found.append(h @ run["C"][t] + mixer.D * run["u"][t])
    return torch.stack(found).detach()


def test_a_held_state_has_not_met_the_token(scanning: Inside) -> None:
    skipped = {3, scanning.image.start + 2, scanning.words.start}
    name = "language.layers.0.y"
    found = scanning.run([name], hold_state(scanning, sorted(skipped), layers=[0]))[name][0]
    close(found, scan_without(scanning, 0, skipped), 1e-10)
    close(scanning.run([name])[name][0], scan_without(scanning, 0, set()), 1e-10)
    assert float((scan_without(scanning, 0, skipped) - scan_without(scanning, 0, set())).abs().max()) > 1e-3


def test_only_the_named_layers_are_held(scanning: Inside) -> None:
    names = [f"language.layers.{i}.delta" for i in range(3)]
    before, after = scanning.run(names), scanning.run(names, hold_state(scanning, scanning.image, layers=[1]))
    assert torch.equal(before[names[0]], after[names[0]])
    assert (after[names[1]][0, scanning.image] == 0).all()
    rest = [at for at in range(scanning.length) if at not in range(*scanning.image.indices(scanning.length))]
    assert torch.equal(after[names[1]][0, rest], before[names[1]][0, rest])
    assert (after[names[2]] > 0).all()


# ---------------------------------------------------------------- the image's weight
@pytest.mark.parametrize("alpha", [0.0, 0.5, 2.0])
def test_scores_of_image_columns_are_scaled_in_the_answers_rows(attending: Inside, alpha: float) -> None:
    name, start = "language.layers.1.scores", attending.words.start - 1
    before = attending.run([name])[name]
    after = attending.run([name], rescale_image(attending, alpha, layers=[1]))[name]
    wanted = before.clone()
    for row in range(start, attending.length):
        for column in range(*attending.image.indices(attending.length)):
            wanted[0, :, row, column] *= alpha
    assert torch.equal(after, wanted)
    attention = attending.run(["language.layers.1.attn"], rescale_image(attending, alpha))["language.layers.1.attn"]
    close(attention.sum(-1), torch.ones_like(attention.sum(-1)), 1e-12)


def test_delta_of_the_image_is_scaled(scanning: Inside) -> None:
    name = "language.layers.0.delta"
    before, after = scanning.run([name])[name], scanning.run([name], rescale_image(scanning, 0.5))[name]
    wanted = before.clone()
    wanted[:, scanning.image] *= 0.5
    assert torch.equal(after, wanted)
    silent, held = rescale_image(scanning, 0.0), hold_state(scanning, scanning.image)
    assert torch.equal(scanning.log_probs(silent), scanning.log_probs(held))


def test_a_planted_answer_hangs_on_the_slider() -> None:
    inside = planted("yes")
    found = [float(inside.log_probs(rescale_image(inside, alpha)).sum()) for alpha in (0.0, 0.01, 0.02, 1.0, 2.0)]
    assert found == sorted(found)
    assert found[0] < -5
    assert found[3] == pytest.approx(float(inside.log_probs().sum()), abs=1e-12)


# ---------------------------------------------------------------- generation
def with_mambavision() -> VLM:
    vlm = cobra(MAMBAVISION, "cobra-mambavision-tiny")
    vlm.config = replace(vlm.config, max_length=99)  # room for its 64 image tokens
    return vlm


@pytest.mark.parametrize("build", [llava, cobra, with_mambavision])
def test_without_an_effect_generation_is_the_models_own(build) -> None:
    vlm, said = build(), set()
    for seed in range(3):
        for image in (True, False):
            inside = ask(vlm, image=image, seed=seed)
            own = vlm.generate(inside.picture, QUESTION, max_new_tokens=9)
            assert generate_with(inside, max_new_tokens=9) == own
            assert generate_with(inside, lambda name, value: value, max_new_tokens=9) == own
            said.add(own)
    assert len(said) > 1  # else nothing was compared


@pytest.mark.parametrize("name", ["cobra-mambavision-tiny", "cobra-tiny-ldp"])
def test_presets_in_float32(name: str) -> None:
    vlm = VLM.from_preset(name, device="cpu")
    inside = Inside.ask(vlm, picture(), QUESTION, "left")
    assert generate_with(inside, max_new_tokens=2) == vlm.generate(picture(), QUESTION, max_new_tokens=2)
    assert abs(float((inside.log_probs(rescale_image(inside, 1.0)) - inside.log_probs()).sum())) == 0.0
    assert float(inside.log_probs(rescale_image(inside, 0.0)).sum()) != float(inside.log_probs().sum())


@pytest.mark.parametrize("template", ["v1", "v0"])
def test_generation_ends_where_the_template_says(template: str) -> None:
    vlm = llava(template=template)
    inside = Inside.ask(vlm, None, QUESTION, "x")
    end = [vlm.tokenizer.eos_id] if template == "v1" else vlm.tokenizer.encode("###")
    spoken = [*vlm.tokenizer.encode(" left of"), *end, *vlm.tokenizer.encode(" it")]
    first = inside.words.start - 1
    counted: list[int] = []

    def tap(name: str, value: torch.Tensor) -> torch.Tensor:
        if name == "language.norm":
            counted.append(value.shape[1])
        return value

    vlm.language.head = lambda hidden: 9.0 * torch.eye(1024, dtype=torch.float64)[
        [spoken[min(max(at - first, 0), len(spoken) - 1)] for at in range(hidden.shape[1])]
    ].expand(len(hidden), -1, -1)  # fmt: skip
    assert generate_with(inside, tap) == "left of"
    assert counted == list(range(first + 1, first + 1 + len(spoken) - len(vlm.tokenizer.encode(" it"))))


def test_generation_stops_where_the_model_is_full() -> None:
    vlm = planted().vlm
    inside = Inside.ask(vlm, picture(), QUESTION, "yes")
    room = vlm.config.max_length - inside.words.start
    assert generate_with(inside) == " ".join(["yes"] * room)
    assert generate_with(inside, max_new_tokens=2) == "yes yes"
    vlm.config = replace(vlm.config, max_length=inside.words.start)
    with pytest.raises(BadInput, match="no room for an answer"):
        generate_with(inside)


# ---------------------------------------------------------------- the whole effect
def test_options_are_scored_as_the_model_scores_them(attending: Inside, scanning: Inside) -> None:
    options = ["left of it", "right", "no"]
    for inside in (attending, scanning):
        found = option_scores(inside, options)
        wanted = inside.vlm.score_options(inside.picture, QUESTION, options)  # in float32 from the logits on
        assert found == pytest.approx(wanted, rel=1e-5)


def test_the_effect_on_a_planted_model() -> None:
    inside = planted("yes")
    options = ["no", "yes"]
    found = effect(inside, block_attention(inside, answer_rows(inside), [inside.image.start + PATCH]), options)
    assert found.before == pytest.approx(float(inside.log_probs().sum()), abs=1e-12)
    assert found.after == pytest.approx(log(1 / 1024), abs=1e-9)
    assert found.change == found.after - found.before
    assert found.options["yes"][0] > 0.99
    assert [round(after, 6) for _, after in found.options.values()] == [0.5, 0.5]
    assert sum(before for before, _ in found.options.values()) == pytest.approx(1)
    assert "yes" not in found.answer
    rest = effect(inside, block_attention(inside, answer_rows(inside), [inside.image.start]))
    assert (rest.options, rest.answer) == ({}, generate_with(inside))
    assert rest.change == pytest.approx(0, abs=1e-9)


# ---------------------------------------------------------------- bad input
def test_bad_input(attending: Inside, scanning: Inside) -> None:
    with pytest.raises(BadInput, match="has no attention"):
        block_attention(scanning, [0], [0])
    with pytest.raises(BadInput, match="has no state"):
        hold_state(attending, [0])
    for layers in ([3], [-1]):
        with pytest.raises(BadInput, match="has 0 to 2"):
            block_attention(attending, [5], [0], layers)
    for positions in ([-1], [attending.length]):
        with pytest.raises(BadInput, match="this question has 0 to"):
            block_attention(attending, [5], positions)
    for alpha in (-0.1, float("nan"), float("inf")):
        with pytest.raises(BadInput, match="0 or more"):
            rescale_image(attending, alpha)
    with pytest.raises(BadInput, match="no image"):
        rescale_image(ask(llava(), image=False), 0.5)
