"""Our ViT against transformers' CLIP, SigLIP and DINOv2 vision models, on tiny random configurations."""

import json
from dataclasses import asdict

import pytest
import torch
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    CLIPVisionModelWithProjection,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from vlmlab.errors import BadCheckpoint, BadInput, UnknownName
from vlmlab.vision import ViT, ViTConfig
from vlmlab.vision.convert import state_from_transformers

SHAPE = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "image_size": 32, "patch_size": 8}
MODELS = {
    "clip": lambda: CLIPVisionModel(CLIPVisionConfig(**SHAPE, intermediate_size=48)),
    "clip-gelu": lambda: CLIPVisionModel(CLIPVisionConfig(**SHAPE, intermediate_size=48, hidden_act="gelu")),
    "siglip": lambda: SiglipVisionModel(SiglipVisionConfig(**SHAPE, intermediate_size=48)),
    "siglip-so400m": lambda: SiglipVisionModel(  # 384 px of patch 14, in small: a rest that fills no patch
        SiglipVisionConfig(**{**SHAPE, "image_size": 38}, intermediate_size=43)
    ),
    "dinov2-reg": lambda: Dinov2WithRegistersModel(
        Dinov2WithRegistersConfig(**SHAPE, mlp_ratio=3, num_register_tokens=3, layerscale_value=0.5)
    ),
    "dinov2-reg-swiglu": lambda: Dinov2WithRegistersModel(
        Dinov2WithRegistersConfig(**SHAPE, use_swiglu_ffn=True, qkv_bias=False)
    ),
    "dinov2-reg-0": lambda: Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**SHAPE, num_register_tokens=0)),
    "dinov2": lambda: Dinov2Model(Dinov2Config(**SHAPE, layerscale_value=0.1)),
}
SIZES = [(32, 32), (64, 64), (16, 16), (48, 24), (45, 33), (8, 8), (16, 64), (96, 96)]


def reference(name: str):
    """A transformers model whose every parameter, biases and scales included, is random and matters."""
    torch.manual_seed(sum(map(ord, name)))
    model = MODELS[name]().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def images(batch: int = 2, size: tuple[int, int] = (32, 32), seed: int = 0) -> torch.Tensor:
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(seed))


def run(model, x: torch.Tensor, **options):
    if "dino" not in model.config.model_type:
        options["interpolate_pos_encoding"] = True
    with torch.no_grad():
        return model(x, output_hidden_states=True, **options)


def close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    assert ours.shape == theirs.shape
    assert ours.dtype == theirs.dtype
    error, scale = (ours - theirs).abs().max().item(), theirs.abs().max().item()
    assert error <= 1e-5 * scale, f"off by {error:.2e} of {scale:.2e}"


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_every_output_agrees(name, size):
    model = reference(name)
    vit = ViT.from_transformers(model)
    for batch in (1, 3):
        x = images(batch, size)
        expected = run(model, x)
        close(vit(x), expected.last_hidden_state)
        close(vit.pooled(x), expected.pooler_output)
        states = vit.hidden_states(x)
        assert len(states) == len(expected.hidden_states) == 4
        for ours, theirs in zip(states, expected.hidden_states, strict=True):
            close(ours, theirs)
        for layer in range(-4, 4):
            close(vit.features(x, layer), expected.hidden_states[layer][:, vit.prefix_tokens :])


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_attention_weights_agree(name):
    model = reference(name)
    model.set_attn_implementation("eager")
    vit, x = ViT.from_transformers(model), images()
    expected = run(model, x, output_attentions=True).attentions
    for i, theirs in enumerate(expected):
        ours = vit.features(x, f"blocks.{i}.attn")
        close(ours, theirs)
        torch.testing.assert_close(ours.sum(-1), torch.ones(ours.shape[:-1]))
    assert ours.shape == (2, 4, vit.prefix_tokens + vit.patches, vit.prefix_tokens + vit.patches)


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_recording_changes_nothing_and_adds_up(name):
    vit, x = ViT.from_transformers(reference(name)), images()
    found = vit.record(x, vit.names())
    assert list(found) == vit.names()
    states = vit.hidden_states(x)
    for i in range(3):
        close(found[f"blocks.{i}"], states[i + 1])
        close(states[i] + found[f"blocks.{i}.attn_out"], found[f"blocks.{i}.mid"])
        close(found[f"blocks.{i}.mid"] + found[f"blocks.{i}.mlp"], found[f"blocks.{i}"])
        close(vit.features(x, f"blocks.{i}"), states[i + 1][:, vit.prefix_tokens :])
    close(found["embed"], states[0])
    close(found["pooled"], vit.pooled(x))
    assert found["patch_embed"].shape == (2, vit.patches, vit.dim)
    assert vit.features(x, "blocks.1.hidden").shape == (2, vit.patches, vit.config.hidden)
    assert vit.features(x, "norm").shape == (2, vit.patches, vit.dim)
    assert list(vit.record(x, ["blocks.1", "embed"])) == ["blocks.1", "embed"]
    if vit.pool is not None:
        assert vit.features(x, "pool.attn").shape == (2, 4, 1, vit.patches)


@torch.no_grad()
def test_a_tap_replaces_what_it_names():
    vit, x = ViT.from_transformers(reference("dinov2-reg")), images()

    def drop_block(name, value):
        return torch.zeros_like(value) if name in ("blocks.2.attn_out", "blocks.2.mlp") else value

    close(vit(x, tap=drop_block), vit.norm(vit.hidden_states(x)[2]))


@pytest.mark.parametrize("name", MODELS)
def test_gradients_agree(name):
    model = reference(name)
    vit = ViT.from_transformers(model)
    x, y = images().requires_grad_(), images().requires_grad_()
    options = {} if "dino" in name else {"interpolate_pos_encoding": True}
    model(x, **options).pooler_output.square().sum().backward()
    vit.pooled(y).square().sum().backward()
    error, scale = (x.grad - y.grad).abs().max(), x.grad.abs().max()
    assert error <= 1e-4 * scale
    assert all(parameter.grad is not None for parameter in vit.parameters())
    total = sum(p.numel() for p in model.parameters()) - sum(
        p.numel() for n, p in model.named_parameters() if "mask" in n
    )
    assert sum(p.numel() for p in vit.parameters()) == total


def test_weights_are_a_copy_and_mode_is_kept():
    model = reference("clip")
    vit, x = ViT.from_transformers(model), images()
    before = vit(x).detach()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    torch.testing.assert_close(vit(x).detach(), before, rtol=0, atol=0)
    assert not vit.training
    assert ViT.from_transformers(model.train()).training
    assert ViT.from_transformers(model.double()).pos_embed.dtype == torch.float64


@torch.no_grad()
def test_whole_models_and_older_names():
    torch.manual_seed(0)
    config = CLIPVisionConfig(**SHAPE, intermediate_size=48)
    model, x = CLIPVisionModelWithProjection(config).eval(), images()
    close(ViT.from_transformers(model).pooled(x), model.vision_model(x).pooler_output)
    old = {f"vision_model.{key}": value for key, value in model.vision_model.state_dict().items()}
    old["vision_model.embeddings.position_ids"] = torch.arange(17)
    assert state_from_transformers(old).keys() == ViT.from_transformers(model).state_dict().keys()

    model = reference("dinov2-reg-swiglu")
    new, older = model.state_dict(), {}
    for key, value in new.items():
        for ours, theirs in {"q": "query", "k": "key", "v": "value"}.items():
            key = key.replace(f"attention.{ours}_proj", f"attention.attention.{theirs}")
        older[key.replace("attention.o_proj", "attention.output.dense").replace("down_proj", "weights_out")] = value
    for i in range(3):
        pair = [
            older.pop(f"encoder.layer.{i}.mlp.{part}_proj.{kind}")
            for kind in ("weight", "bias")
            for part in ("gate", "up")
        ]
        older[f"encoder.layer.{i}.mlp.weights_in.weight"] = torch.cat(pair[:2])
        older[f"encoder.layer.{i}.mlp.weights_in.bias"] = torch.cat(pair[2:])
    vit = ViT.from_transformers(model)
    for key, value in state_from_transformers(older).items():
        torch.testing.assert_close(value, vit.state_dict()[key], rtol=0, atol=0)


def test_what_is_not_covered_is_refused():
    from transformers import ViTConfig as OtherConfig
    from transformers import ViTModel

    with pytest.raises(UnknownName, match="vision architecture 'vit'"):
        ViT.from_transformers(ViTModel(OtherConfig(**SHAPE, intermediate_size=48)))
    with pytest.raises(UnknownName, match="activation 'relu'"):
        ViT.from_transformers(CLIPVisionModel(CLIPVisionConfig(**SHAPE, intermediate_size=48, hidden_act="relu")))
    with pytest.raises(BadInput, match="num_channels=1"):
        ViT.from_transformers(CLIPVisionModel(CLIPVisionConfig(**SHAPE, intermediate_size=48, num_channels=1)))
    state = reference("clip").state_dict()
    with pytest.raises(BadCheckpoint, match="text_model"):
        state_from_transformers(state | {"text_model.x": torch.zeros(1)})
    del state["encoder.layers.1.self_attn.k_proj.weight"]
    with pytest.raises(BadCheckpoint, match=r"blocks\.1\.attn\.qkv\.weight needs 3 parts"):
        state_from_transformers(state)


@pytest.fixture(scope="module")
def small() -> ViT:
    config = ViTConfig("clip", image_size=32, patch_size=8, dim=32, layers=2, heads=4, hidden=48)
    return ViT(config, torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (torch.zeros(3, 32, 32), r"pixel_values.*\(3, 32, 32\).*x\[None\]"),
        (torch.zeros(2, 32, 32, 3), r"pixel_values.*permute"),
        (torch.zeros(2, 1, 32, 32), r"pixel_values.*\(2, 1, 32, 32\)"),
        (torch.zeros(2, 3, 32), "pixel_values"),
        (torch.zeros(2, 3, 7, 32), "pixel_values: 7x32"),
        (torch.zeros(2, 3, 32, 32, dtype=torch.uint8), "pixel_values.*uint8.*Preprocess"),
        (torch.full((2, 3, 32, 32), float("nan")), "pixel_values holds NaN"),
        (torch.full((1, 3, 32, 32), float("inf")), "pixel_values holds NaN or infinite"),
        ([[1.0]], "pixel_values: expected a tensor.*list"),
    ],
)
def test_bad_images_are_named(small, x, words):
    for call in (small, small.features, small.pooled, small.hidden_states, lambda x: small.record(x, ["embed"])):
        with pytest.raises(BadInput, match=words) as caught:
            call(x)
        assert "\n" not in str(caught.value)


def test_bad_layers_are_named(small):
    for layer in (3, -4):
        with pytest.raises(BadInput, match="-3 to 2"):
            small.features(images(), layer)
    with pytest.raises(UnknownName, match=r"did you mean 'blocks\.1\.attn'"):
        small.features(images(), "blocks.1.atn")
    with pytest.raises(UnknownName, match=r"blocks\.9"):
        small.record(images(), ["blocks.9"])


def test_large_half_precision_images_are_not_refused(small):
    vit = ViT(small.config, torch.Generator().manual_seed(0)).bfloat16()
    assert vit(torch.full((1, 3, 32, 32), 1e35, dtype=torch.bfloat16) * 1e3).shape == (1, 17, 32)


def test_configurations():
    clip = ViTConfig("clip", 96, 12, 192, 6, 6, 768)
    assert (clip.activation, clip.eps, clip.layer_scale, clip.pool_head, clip.grid) == (
        "quick_gelu",
        1e-5,
        None,
        False,
        8,
    )
    dino = ViTConfig("dinov2", 96, 12, 192, 6, 6, 768, registers=4)
    assert (dino.activation, dino.eps, dino.layer_scale, dino.antialias) == ("gelu", 1e-6, 1.0, True)
    assert ViTConfig(**json.loads(json.dumps(asdict(dino)))) == dino
    with pytest.raises(UnknownName, match="did you mean 'siglip'"):
        ViTConfig("siglp", 96, 12, 192, 6, 6, 768)
    for change in (
        {"heads": 5},
        {"registers": 4},
        {"patch_size": 97},
        {"layers": 0},
        {"pool_head": True},
        {"layer_scale": 1.0},
    ):
        with pytest.raises(BadInput):
            ViTConfig(**{**asdict(clip), **change})
    with pytest.raises(UnknownName):
        ViTConfig("clip", 96, 12, 192, 6, 6, 768, activation="tanh")


@pytest.mark.parametrize("style", ["clip", "siglip", "dinov2"])
def test_random_weights(style):
    """The same generator seed gives the same bytes; outputs start at a sensible size; meta builds without memory."""
    config = ViTConfig(style, 32, 8, 64, 4, 4, 128, registers=2 if style == "dinov2" else 0)
    one, two = (ViT(config, torch.Generator().manual_seed(7)) for _ in range(2))
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(a, b)
    for state in one.hidden_states(images(8)):
        assert 0.3 < state.std().item() < 4
    assert one.prefix_tokens == {"clip": 1, "siglip": 0, "dinov2": 3}[style]
    assert one.patches == 16
    assert one.dim == 64
    with torch.device("meta"):
        vit = ViT(ViTConfig(style, 336, 14, 1024, 24, 16, 4096))
        assert vit.features(torch.zeros(1, 3, 336, 336)).shape == (1, 576, 1024)


def test_clip_large_has_the_published_number_of_parameters():
    with torch.device("meta"):
        vit = ViT(ViTConfig("clip", 336, 14, 1024, 24, 16, 4096))
    assert sum(p.numel() for p in vit.parameters()) == 303_507_456  # openai/clip-vit-large-patch14-336, vision only
