"""Mamba-LRP: the model's own values, nothing lost on the way back, and models where the answer is known."""

import pytest
import torch
from scan_models import ask, close, cobra, picture

import vlmlab
from vlmlab.errors import BadInput, UnknownName
from vlmlab.explain import Inside, lrp
from vlmlab.explain.hidden_attention import contributions
from vlmlab.vlm.model import VLM


@pytest.fixture(scope="module")
def inside():
    return ask(cobra())


@pytest.fixture(scope="module")
def without_biases():
    vlm = cobra()
    for block in vlm.language.layers:
        block.mixer.conv1d.bias.data.zero_()
    return ask(vlm)


def test_the_forward_pass_is_the_packages(inside):
    embeds = inside.run(["language.embed"])["language.embed"]
    hidden, biases = lrp.linearised(inside.vlm.language, embeds)
    close(hidden.detach(), inside.vlm.language.hidden(inputs_embeds=embeds).detach(), 1e-12)
    close(inside.vlm.language.head(hidden[0]).detach(), inside.run()["logits"], 1e-12)
    assert len(biases) == 3


def test_what_is_explained_is_read_off_the_logits(inside):
    logits, ids = inside.run()["logits"], inside.ids[0, inside.words]
    at = range(inside.words.start - 1, inside.words.stop - 1)
    chosen = torch.stack([logits[i, index] for i, index in zip(at, ids, strict=True)])
    close(lrp.mamba_lrp(inside, against="nothing").explained, chosen.sum())
    close(lrp.mamba_lrp(inside, 2, against="nothing").explained, chosen[2])
    close(lrp.mamba_lrp(inside, 1, against=7).explained, chosen[1] - logits[at[1], 7])
    p = logits[at[0]].softmax(-1)  # log-odds are a difference of logits
    others = torch.cat([p[: ids[0]], p[ids[0] + 1 :]])
    close(lrp.mamba_lrp(inside, 0).explained, (p[ids[0]] / others.max()).log())


@pytest.mark.parametrize("against", ["runner-up", "nothing", 7])
@pytest.mark.parametrize("word", [None, 0, 3])
def test_nothing_is_lost_without_biases(without_biases, word, against):
    found = lrp.mamba_lrp(without_biases, word, against)
    close(found.inputs.sum(), found.explained)
    assert not found.absorbed.any()
    assert without_biases.vlm.language.layers[0].mixer.dt_proj.bias.all()  # it is there, and absorbs nothing


@pytest.mark.parametrize("word", [None, 0, 3])
def test_biases_absorb_the_rest(inside, word):
    found = lrp.mamba_lrp(inside, word)
    close(found.inputs.sum() + found.absorbed.sum(), found.explained)
    assert found.absorbed.shape == (3,)
    assert found.absorbed.all()


def test_gradient_x_input_alone_is_not_conserved(without_biases):
    found = lrp.gradient_x_input(without_biases, 0)
    explained = lrp.mamba_lrp(without_biases, 0).explained
    assert abs(found.sum() / explained - 1) > 0.05


def test_words_add_up_and_later_tokens_do_not_count(inside):
    parts = [lrp.mamba_lrp(inside, word) for word in range(4)]
    whole = lrp.mamba_lrp(inside)
    close(torch.stack([part.inputs for part in parts]).sum(0), whole.inputs)
    close(torch.stack([part.absorbed for part in parts]).sum(0), whole.absorbed)
    for word, part in enumerate(parts):
        assert not part.inputs[inside.words.start + word :].any()
        assert part.inputs[: inside.words.start + word].all()


def test_with_one_layer_it_is_half_of_what_hidden_attention_gives():
    """The convolution looks at no neighbour, so the way from an earlier token is alpha, the gate and the head alone."""
    vlm = cobra(layers=1)
    mixer, norm = vlm.language.layers[0].mixer, vlm.language.norm_f
    mixer.conv1d.bias.data.zero_()
    mixer.conv1d.weight.data[..., :-1] = 0
    inside = ask(vlm)
    i, target = inside.words.start - 1, int(inside.ids[0, inside.words.start])
    x = inside.get("residual", 0)[i]
    row = vlm.language.embeddings.weight[target] * norm.weight * (x.square().mean() + norm.eps).rsqrt()
    found = lrp.mamba_lrp(inside, 0, "nothing").inputs
    close(found[:i], 0.5 * (contributions(inside, 0, i) @ row.detach())[:i])


def test_without_steps_only_the_convolutions_reach_is_relevant():
    vlm = cobra(layers=2)
    for block in vlm.language.layers:
        block.mixer.dt_proj.bias.data.fill_(-800.0)  # softplus gives 0: nothing is written
    inside = ask(vlm)
    found = lrp.mamba_lrp(inside, 0).inputs
    end = inside.words.start
    assert found[end - 7 : end].all()  # two layers, three tokens back each
    assert not found[: end - 7].any()


def test_a_model_blind_to_the_image_finds_nothing_there():
    vlm = cobra()
    for parameter in vlm.projector[-1].parameters():
        parameter.data.zero_()
    for method in (lrp.mamba_lrp_map, lrp.gradient_x_input_map):
        assert not method(ask(vlm)).any()


@pytest.mark.parametrize("name", ["cobra", "llava"])
def test_gradient_x_input_is_the_slope_when_a_token_grows(inside, name):
    if name == "llava":
        inside = ask(VLM.from_preset("llava-tiny", device="cpu").double())

    def explained(position: int, by: float) -> torch.Tensor:
        def tap(tapped: str, value: torch.Tensor) -> torch.Tensor:
            if tapped != "language.embed":
                return value
            value = value.clone()
            value[0, position] *= 1 + by
            return value

        at, index = inside.words.start - 1, inside.ids[0, inside.words.start]
        logits = inside.run(tap=tap)["logits"][at]
        return logits[index] - logits[torch.arange(len(logits)) != index].max()

    found, h = lrp.gradient_x_input(inside, 0), 1e-5
    for position in (inside.image.start + 3, inside.words.start - 1):
        slope = (explained(position, h) - explained(position, -h)) / (2 * h)
        assert float(found[position]) == pytest.approx(float(slope), rel=1e-6, abs=1e-8)


def test_maps_lie_on_the_patches(inside):
    close(lrp.mamba_lrp_map(inside).flatten(), lrp.mamba_lrp(inside).inputs[inside.image])
    close(lrp.gradient_x_input_map(inside).flatten(), lrp.gradient_x_input(inside)[inside.image])
    assert lrp.mamba_lrp_map(inside).shape == (4, 4)


def test_the_shipped_model_in_float32():
    vlm = vlmlab.load("cobra-tiny", device="cpu")
    inside = Inside.ask(vlm, picture(), "What is this?", "a cat")
    found = lrp.mamba_lrp(inside)
    logits, ids = inside.run()["logits"][inside.words.start - 1 : inside.words.stop - 1], inside.ids[0, inside.words]
    others = logits.scatter(1, ids[:, None], -torch.inf).amax(1)
    close(found.explained, (logits.gather(1, ids[:, None])[:, 0] - others).sum(), 1e-4)
    scale = found.inputs.abs().sum() + found.absorbed.abs().sum()
    assert abs(found.inputs.sum() + found.absorbed.sum() - found.explained) < 1e-5 * scale
    assert not any(weight.grad is not None for weight in vlm.parameters())


def test_refusals(inside):
    with pytest.raises(BadInput, match="words 0 to 3"):
        lrp.mamba_lrp(inside, 4)
    with pytest.raises(BadInput, match="vocabulary is 0 to 1023"):
        lrp.mamba_lrp(inside, against=1024)
    with pytest.raises(UnknownName, match="runner-up"):
        lrp.mamba_lrp(inside, against="runnerup")
    with pytest.raises(BadInput, match="Mamba alone"):
        lrp.mamba_lrp(ask(VLM.from_preset("llava-tiny", device="cpu")))
    with pytest.raises(BadInput, match="image tokens"):
        lrp.mamba_lrp_map(ask(inside.vlm, image=False))
