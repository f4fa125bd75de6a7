"""Taps: every name is passed, in order; what a tap returns goes on; without one nothing changes. Notebook 13."""

import pytest
import torch

from vlmlab.errors import BadInput, UnknownName
from vlmlab.taps import chained, collector, prefixed, recorder
from vlmlab.vlm import VLM

PRESETS = ("llava-tiny", "cobra-tiny", "cobra-mambavision-tiny", "cobra-tiny-ldp")


@pytest.fixture(scope="module", params=PRESETS)
def vlm(request) -> VLM:
    return VLM.from_preset(request.param, device="cpu").eval()


@pytest.fixture
def pixels(vlm) -> torch.Tensor:
    side = vlm.config.image_size
    return torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0))


def through(vlm: VLM, pixels: torch.Tensor, tap=None) -> torch.Tensor:
    tokens = vlm.project(vlm.vision_features(pixels, tap), tap)
    return vlm.language.hidden(inputs_embeds=tokens, tap=prefixed(tap, "language."))


def test_names_come_once_each_and_in_order(vlm, pixels):
    seen: list[str] = []

    def tap(name, value):
        seen.append(name)
        return value

    with torch.no_grad():
        assert torch.allclose(through(vlm, pixels, tap), through(vlm, pixels), rtol=1e-4, atol=1e-4)
    known = vlm.names()
    assert len(set(known)) == len(known)
    assert seen == [name for name in known if name in set(seen)]  # the encoder's last blocks may not run
    assert {"features", "tokens", "language.embed", "language.norm"} < set(seen)
    assert [name for name in known if name.startswith("language.")] == seen[seen.index("tokens") + 1 :]


def test_what_a_tap_returns_goes_on(vlm, pixels):
    def halves(name, value):
        return value / 2 if name == "tokens" else value

    with torch.no_grad():
        tokens = vlm.encode_images(pixels) / 2
        assert torch.allclose(through(vlm, pixels, halves), vlm.language.hidden(inputs_embeds=tokens), atol=1e-4)


@pytest.mark.parametrize("part", ["scores", "attn", "attn_out", "mlp_out", ""])
def test_every_place_of_a_llama_has_an_effect(part):
    check_effects(VLM.from_preset("llava-tiny", device="cpu").language, f"layers.1{'.' * bool(part)}{part}")


@pytest.mark.parametrize("part", ["z", "u", "B", "C", "delta", "y", "mixer", ""])
def test_every_place_of_a_mamba_has_an_effect(part):
    check_effects(VLM.from_preset("cobra-tiny", device="cpu").language, f"layers.1{'.' * bool(part)}{part}")


def check_effects(language, wanted):
    ids = torch.arange(6)[None]

    def tap(name, value):
        return torch.cat([value[..., :1] * 3 + 1, value[..., 1:]], -1) if name == wanted else value

    with torch.no_grad():
        plain, record = language.hidden(ids), {wanted: None}
        changed = language.hidden(ids, tap=tap, record=record)
        assert not torch.allclose(changed, plain, atol=1e-6)
        before = {wanted: None}
        language.hidden(ids, record=before)
    assert torch.allclose(record[wanted], tap(wanted, before[wanted]), atol=1e-6)  # what the tap returned


def test_a_tap_and_segments_exclude_each_other():
    for name in ("llava-tiny", "cobra-tiny"):
        language = VLM.from_preset(name, device="cpu").language
        with pytest.raises(BadInput, match="tap"):
            language.hidden(torch.ones(1, 4).long(), segments=torch.zeros(1, 4).long(), tap=lambda name, x: x)


def test_small_tools():
    assert chained(None, None) is None
    assert prefixed(None, "x.") is None
    assert recorder(None, []) is None
    add, double = (lambda name, x: x + 1), (lambda name, x: x * 2)
    assert chained(add, None) is add
    assert chained(add, double)("a", torch.tensor(3.0)) == 8
    wanted, found, tap = collector(["b", "b"], ["a", "b"])
    assert prefixed(tap, "")("b", torch.tensor(1.0)) == 1
    assert (wanted, found) == (["b"], {"b": torch.tensor(1.0)})
    with pytest.raises(UnknownName, match="layer"):
        collector(["c"], ["a", "b"])
