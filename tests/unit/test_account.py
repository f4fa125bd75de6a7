"""Accounting: parameters to the digit, FLOPs against PyTorch's counter, cache bytes against a real cache."""

import json
from dataclasses import replace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from vlmlab.errors import BadInput, UnknownName
from vlmlab.language import LlamaConfig, MambaConfig
from vlmlab.vision import FusedConfig, ViTConfig
from vlmlab.vlm.account import (
    account,
    cache_bytes,
    decode_bytes,
    language_flops,
    longest,
    projector_flops,
    rows,
    table,
    text,
    vision_flops,
)
from vlmlab.vlm.model import VLM
from vlmlab.vlm.presets import VLMConfig

TINY = VLMConfig(
    name="test",
    image_size=24,
    vision=ViTConfig("clip", image_size=24, patch_size=6, dim=32, layers=3, heads=4, hidden=40),
    projector="mlp2x_gelu",
    language=LlamaConfig(vocab_size=50, dim=24, layers=2, heads=4, kv_heads=2, hidden=36, head_dim=8),
    template="v1",
    image_id=50,
    max_length=128,
)


def measured(function: object, *args: object, **kwargs: object) -> int:
    """FLOPs that PyTorch counts; the plain attention kernel is the one it knows on a CPU."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        function(*args, **kwargs)  # type: ignore[operator]
    return counter.get_total_flops()


def test_llava_1_5_to_the_digit() -> None:
    result = account("llava-1.5-7b")
    assert result["parameters"] == {
        "vision": 303_507_456,
        "projector": 20_979_712,
        "language": 6_738_415_616,
        "total": 7_062_902_784,
    }
    assert result["image_tokens"] == 576
    assert result["weight_bytes"] == {"bf16": 2 * 7_062_902_784, "fp32": 4 * 7_062_902_784}
    assert result["cache_bytes_per_token"]["bf16"] == 2 * 32 * 4096 * 2  # half a MiB
    assert account("llava-1.5-13b")["parameters"]["total"] == 13_350_839_296


def test_cobra_to_the_digit() -> None:
    result = account("cobra-3b")
    assert result["parameters"]["language"] == 2_768_345_600
    assert result["parameters"]["projector"] == 47_789_568
    assert result["image_tokens"] == 729
    assert result["cache_bytes"]["bf16"] == dict.fromkeys(("512", "1024", "2048", "4096"), 2 * 6_553_600)
    assert result["cache_bytes_per_token"]["bf16"] == 0
    assert "12.5 MiB" in text(result)
    pooled = account("cobra-3b-ldp")
    assert pooled["parameters"]["projector"] == 41_259_008
    assert pooled["image_tokens"] == 196


@pytest.mark.parametrize("projector", ["fused-gelu-mlp", "fused-ldpnet"])
def test_a_small_cobra_counted_against_pytorch(projector: str) -> None:
    siglip = ViTConfig("siglip", image_size=24, patch_size=6, dim=16, layers=2, heads=2, hidden=24, pool_head=False)
    dinov2 = ViTConfig("dinov2", image_size=24, patch_size=6, dim=12, layers=3, heads=2, hidden=24, registers=2)
    mamba = MambaConfig(vocab_size=50, dim=24, layers=2)
    config = replace(
        TINY, vision=FusedConfig(dinov2, siglip), projector=projector, language=mamba, template="cobra",
        pooled=2 if projector == "fused-ldpnet" else None,
    )  # fmt: skip
    assert VLMConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    vlm = VLM.from_preset(config, device="cpu")
    features = vlm.vision_features(torch.rand(1, 3, 24, 24))
    assert features.shape == (1, 16, 28)
    assert vlm.project(features).shape[1] == config.image_tokens == (4 if projector == "fused-ldpnet" else 16)
    assert vision_flops(config) == measured(vlm.vision_features, torch.rand(1, 3, 24, 24))
    assert projector_flops(config) == measured(vlm.project, features)
    ids = torch.zeros(1, 7, dtype=torch.long)
    matrices = measured(vlm.language.hidden, ids)  # the counter sees neither the convolution nor the scan
    by_hand = 2 * 7 * 2 * mamba.inner * (mamba.conv + 3 * mamba.state)
    assert language_flops(mamba, 7, 7) == matrices + by_hand + 2 * 24 * 50
    cache = vlm.language.new_cache()
    with torch.no_grad():
        vlm.language.hidden(ids, cache=cache)
    assert cache.bytes() == cache_bytes(mamba, 7, torch.float32)


def test_transformers_edition_of_the_7b() -> None:
    from vlmlab.vlm.presets import PRESETS

    config = PRESETS["llava-1.5-7b"]
    config = replace(config, language=replace(config.language, vocab_size=32064))
    assert account(config)["parameters"]["total"] == 7_063_427_072


@pytest.mark.parametrize(
    "config",
    [
        TINY,
        replace(TINY, feature_layer=-1, projector="linear"),
        replace(TINY, feature_layer=(1, 3)),
        replace(TINY, select="full"),
        replace(TINY, vision=replace(TINY.vision, style="siglip", activation=None, pool_head=False)),
    ],
    ids=["mlp", "linear", "two-layers", "full", "siglip"],
)
def test_vision_and_projector_flops(config: VLMConfig) -> None:
    vlm = VLM.from_preset(config, device="cpu")
    pixels = torch.randn(1, 3, 24, 24)
    assert vision_flops(config) == measured(vlm.vision_features, pixels)
    features = vlm.vision_features(pixels)
    assert features.shape[1] == account(config)["image_tokens"]
    assert projector_flops(config) == measured(vlm.project, features)


def test_language_flops_of_prefill_and_decoding() -> None:
    vlm = VLM.from_preset(TINY, device="cpu")
    language = vlm.language
    cache = language.new_cache()

    def read(ids: torch.Tensor) -> None:
        language.head(language.hidden(ids, cache=cache)[:, -1:])

    assert language_flops(TINY.language, 21, 21) == measured(read, torch.ones(1, 21, dtype=torch.long))
    assert language_flops(TINY.language, 1, 22) == measured(read, torch.ones(1, 1, dtype=torch.long))
    assert cache_bytes(TINY.language, 22, torch.float32) == cache.bytes()


def test_whole_prefill_adds_up() -> None:
    result = account(TINY, text_tokens=10, lengths=[0, 100])
    flops = result["prefill"]["flops"]
    assert result["prefill"]["tokens"] == 26
    assert flops["total"] == flops["vision"] + flops["projector"] + flops["language"]
    assert result["cache_bytes"]["fp32"] == {"0": 0, "100": 100 * result["cache_bytes_per_token"]["fp32"]}
    assert json.loads(json.dumps(result)) == result
    vlm = VLM.from_preset(TINY, device="cpu")
    assert account(vlm, text_tokens=10, lengths=[0, 100]) == result
    assert sum(p.numel() for p in vlm.parameters()) == result["parameters"]["total"]


def test_bytes_of_a_token_and_the_longest_row() -> None:
    from vlmlab.gpu.decode import bytes_per_token

    mamba = replace(TINY, language=MambaConfig(vocab_size=50, dim=24, layers=2), template="cobra")
    untied = replace(TINY, language=replace(TINY.language, tie_embeddings=False))
    for config in (TINY, untied, mamba):
        vlm = VLM.from_preset(config, device="cpu")
        cache = vlm.language.new_cache()
        with torch.no_grad():
            vlm.language.hidden(torch.ones(1, 20, dtype=torch.long), cache=cache)
        assert decode_bytes(vlm, 20, 32, torch.float32) == bytes_per_token(vlm.language, cache, 0)
        weights = 4 * vlm.count_parameters()["total"]
        assert longest(vlm, weights - 1, 32) == 0
        room = longest(vlm, weights + cache.bytes(), 32, torch.float32)
        assert room == (float("inf") if config is mamba else 20)
    seven, cobra = (VLM.from_preset(name, device="meta") for name in ("llava-1.5-7b", "cobra-3b"))
    assert longest(seven, 24e9) == (24 * 10**9 - 2 * 7_062_902_784) // 2**19
    assert decode_bytes(cobra, 1) == decode_bytes(cobra, 10**6) == 2 * 2_768_345_600 + 2 * 2 * 6_553_600
    assert decode_bytes(cobra, 1, 4.5) < decode_bytes(cobra, 1) / 3


def test_shown_to_people() -> None:
    from rich.table import Table

    result = account("llava-tiny")
    assert isinstance(table(result), Table)
    assert table(result).row_count == len(rows(result))
    assert "llava-tiny" in text(result)
    assert f"{result['parameters']['total']:,}" in text(result)


def test_bad_input() -> None:
    with pytest.raises(UnknownName, match=r"llava-1\.5-7b"):
        account("llava-1.5-7B")
    with pytest.raises(BadInput, match="negative"):
        account("llava-tiny", text_tokens=-1)
