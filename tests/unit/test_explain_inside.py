"""`Inside`: one question, its intermediates by name, and what the model says of other pictures. Notebook 13."""

import numpy as np
import pytest
import torch

from vlmlab.errors import BadInput, UnknownName
from vlmlab.explain import Inside
from vlmlab.vlm import VLM

PROMPT = "Where is the cat?"
PICTURE = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
PRESETS = ("llava-tiny", "cobra-tiny", "cobra-tiny-ldp", "cobra-mambavision-tiny")


@pytest.fixture(scope="module", params=PRESETS)
def inside(request) -> Inside:
    return Inside.ask(VLM.from_preset(request.param, device="cpu"), PICTURE, PROMPT, "on the left")


def test_the_positions_are_those_of_the_sequence(inside):
    vlm = inside.vlm
    assert inside.grid == ((4, 4) if vlm.config.name == "cobra-tiny-ldp" else (8, 8))
    assert inside.patches == vlm.config.image_tokens == inside.image.stop - inside.image.start
    assert inside.words.stop == inside.length == len(inside.texts) == len(inside.groups)
    assert "".join(inside.texts[inside.words]).strip() == "on the left"
    assert inside.texts[inside.image][:2] == ["A1", "B1"]
    assert inside.texts[inside.image][inside.grid[1]] == "A2"
    assert [inside.groups.count(name) for name in ("image", "answer")] == [
        inside.patches,
        inside.words.stop - inside.words.start,
    ]
    assert all(inside.ids[0, inside.image] == vlm.image_id)


def test_its_probabilities_are_the_models(inside):
    scored = inside.vlm.score_options(PICTURE, PROMPT, ["on the left"])["on the left"]
    assert inside.log_probs().sum().item() == pytest.approx(scored, rel=1e-5)
    assert inside.log_probs(tap=lambda name, x: x).sum().item() == pytest.approx(scored, rel=1e-5)


def test_other_pictures_and_other_tokens(inside):
    vlm = inside.vlm
    other = np.ascontiguousarray(PICTURE[::-1])
    pixels = vlm.preprocess.batch([PICTURE, other])
    wanted = [vlm.score_options(picture, PROMPT, ["on the left"])["on the left"] for picture in (PICTURE, other)]
    assert inside.scores(pixels, batch=1).tolist() == pytest.approx(wanted, rel=1e-5)
    with torch.no_grad():
        assert inside.scores(tokens=vlm.encode_images(pixels)).tolist() == pytest.approx(wanted, rel=1e-5)
    assert inside.generate(pixels[1:], max_new_tokens=6) == vlm.generate(other, PROMPT, max_new_tokens=6)
    with pytest.raises(BadInput, match="pixels or tokens"):
        inside.scores()


def test_every_kind_of_every_layer(inside):
    sizes = {"tokens": (inside.patches,), "attention": (6, inside.length, inside.length)}
    for kind in inside.kinds():
        last = inside.get(kind, -1)
        every = inside.get(kind)
        assert torch.equal(last, every if kind == "tokens" else every[-1])
        assert not last.requires_grad
        assert last.shape[: len(sizes.get(kind, ()))] == sizes.get(kind, ()) or last.shape[0] == inside.length
    assert ("attention" in inside.kinds()) != ("delta" in inside.kinds())
    with pytest.raises(UnknownName, match="did you mean"):
        inside.get("resdual")
    with pytest.raises(BadInput, match="layer=99"):
        inside.get("residual", 99)


def test_names_of_every_part_come_from_one_pass_with_gradients(inside):
    names = ["features", "tokens", "language.layers.0", "language.norm"]
    run = inside.run(names, grad=True)
    assert list(run) == [*names, "logits"]
    gradient = torch.autograd.grad(run["logits"][-1].sum(), run["features"])[0]
    assert gradient.abs().sum() > 0
    assert not inside.run(names)["logits"].requires_grad
    with pytest.raises(UnknownName, match=r"language\.layers\.0"):
        inside.run(["language.layer.0"])


def test_a_state_is_what_a_cache_holds():
    inside = Inside.ask(VLM.from_preset("cobra-tiny", device="cpu").double(), PICTURE, PROMPT, "on the left")
    cache = inside.vlm.language.new_cache()
    with torch.no_grad():
        embeds = inside.run(["language.embed"])["language.embed"]
        inside.vlm.language.hidden(inputs_embeds=embeds, cache=cache)
    for layer in (0, -1):
        assert torch.allclose(inside.get("state", layer)[-1], cache.states[layer][0], rtol=1e-10, atol=1e-14)


def test_values_on_the_grid(inside):
    values = torch.arange(inside.length)
    grid = inside.on_grid(values)
    assert torch.equal(grid, inside.on_grid(values[inside.image]))
    assert grid.shape == inside.grid
    assert grid[1, 0] - grid[0, 0] == inside.grid[1]
    assert inside.on_grid(torch.zeros(3, inside.patches)).shape == (3, *inside.grid)
    with pytest.raises(BadInput, match="5 values"):
        inside.on_grid(torch.zeros(5))


def test_without_a_picture():
    inside = Inside.ask(VLM.from_preset("llava-tiny", device="cpu"), None, PROMPT, "yes")
    assert (inside.grid, inside.patches, inside.groups.count("image")) == ((0, 0), 0, 0)
    assert inside.log_probs().shape == (1,)
    with pytest.raises(BadInput, match="no image"):
        inside.get("tokens")
    with pytest.raises(BadInput, match="0 image tokens"):
        inside.on_grid(torch.zeros(64))


def test_the_models_own_answer_and_two_pictures(monkeypatch):
    vlm = VLM.from_preset("llava-tiny", device="cpu")
    monkeypatch.setattr(VLM, "generate", lambda *given, **options: "blue")
    assert Inside.ask(vlm, PICTURE, PROMPT).answer == "blue"
    monkeypatch.setattr(VLM, "generate", lambda *given, **options: "")
    with pytest.raises(BadInput, match="answers nothing"):
        Inside.ask(vlm, PICTURE, PROMPT)
    turns = [{"from": "human", "value": "<image>\n<image>\nWhich is brighter?"}]
    with pytest.raises(BadInput, match="one image"):
        Inside.ask(vlm, PICTURE, turns, "one")
