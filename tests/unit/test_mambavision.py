"""MambaVision: parameters, names, every part against plain code of its own, frozen norms, taps, accounting."""

import json
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from vlmlab.errors import BadInput, UnknownName
from vlmlab.language import LlamaConfig
from vlmlab.scan import selective_scan
from vlmlab.vision import MambaVision, MambaVisionConfig
from vlmlab.vision.mambavision_blocks import from_windows, to_windows
from vlmlab.vision.mambavision_config import TAPS, VARIANTS, multiply_adds, variant_config
from vlmlab.vlm import saving
from vlmlab.vlm.account import account
from vlmlab.vlm.model import VLM
from vlmlab.vlm.presets import VLMConfig

# name: parameters, the paper's GFLOPs at 224 px
PUBLISHED = {
    "T": (31_794_248, 4.4),
    "T2": (35_104_008, 5.1),
    "S": (50_140_584, 7.5),
    "B": (97_685_288, 15.0),
    "L": (227_961_048, 34.9),
    "L2": (241_554_824, 37.5),
    "L3": (739_570_472, None),
}
SMALL = MambaVisionConfig(
    8, 4, (1, 2, 3, 2), (2, 4), (4, 2), layer_scale=0.7, num_classes=5, image_size=64
)  # fmt: skip
SIZES = [(64, 64), (97, 130), (40, 33)]


def small(config: MambaVisionConfig = SMALL) -> MambaVision:
    """A model in which nothing is left at 0 or 1: norms, running statistics, biases and scales are drawn too."""
    g = torch.Generator().manual_seed(0)
    model = MambaVision(config, g).eval()
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if name.endswith("num_batches_tracked"):
                continue
            drawn = torch.randn(value.shape, generator=g)
            if name.endswith("running_var"):
                value.copy_(0.5 + drawn.abs())
            elif value.dim() == 1 or name.endswith(("A_log", "running_mean")):
                value.add_(0.3 * drawn)
            elif "levels.2" in name or "levels.3" in name:
                value.copy_(drawn * value[0].numel() ** -0.5)
    return model


def pictures(count: int, height: int, width: int) -> Tensor:
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(1))


# ---------------------------------------------------------------- names and numbers
def attention_blocks(depth: int) -> list[int]:
    """As the published models have them: the last half; for an odd depth, from depth // 2 + 1 on."""
    return list(range(depth // 2 if depth % 2 == 0 else depth // 2 + 1, depth))


def published_names(c: MambaVisionConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a checkpoint, buffers included."""
    found: dict[str, tuple[int, ...]] = {}

    def norm2d(name: str, dim: int) -> None:
        found.update({f"{name}.{part}": (dim,) for part in ("weight", "bias", "running_mean", "running_var")})
        found[f"{name}.num_batches_tracked"] = ()

    def linear(name: str, inputs: int, outputs: int, bias: bool = True) -> None:
        found[f"{name}.weight"] = (outputs, inputs)
        if bias:
            found[f"{name}.bias"] = (outputs,)

    found["patch_embed.conv_down.0.weight"] = (c.stem_width, 3, 3, 3)
    norm2d("patch_embed.conv_down.1", c.stem_width)
    found["patch_embed.conv_down.3.weight"] = (c.width, c.stem_width, 3, 3)
    norm2d("patch_embed.conv_down.4", c.width)
    for i in range(4):
        dim = c.width * (1, 2, 4, 8)[i]
        for j in range(c.depths[i]):
            block = f"levels.{i}.blocks.{j}"
            if i < 2:
                for k in (1, 2):
                    found[f"{block}.conv{k}.weight"] = (dim, dim, 3, 3)
                    found[f"{block}.conv{k}.bias"] = (dim,)
                    norm2d(f"{block}.norm{k}", dim)
                continue
            for k in (1, 2):
                found[f"{block}.norm{k}.weight"] = found[f"{block}.norm{k}.bias"] = (dim,)
                if c.layer_scale is not None:
                    found[f"{block}.gamma_{k}"] = (dim,)
            linear(f"{block}.mlp.fc1", dim, 4 * dim)
            linear(f"{block}.mlp.fc2", 4 * dim, dim)
            if j in attention_blocks(c.depths[i]):
                linear(f"{block}.mixer.qkv", dim, 3 * dim)
                linear(f"{block}.mixer.proj", dim, dim)
                continue
            half, rank = dim // 2, -(-dim // 16)
            found[f"{block}.mixer.A_log"] = (half, 8)
            found[f"{block}.mixer.D"] = (half,)
            found[f"{block}.mixer.conv1d_x.weight"] = found[f"{block}.mixer.conv1d_z.weight"] = (half, 1, 3)
            linear(f"{block}.mixer.in_proj", dim, dim, bias=False)
            linear(f"{block}.mixer.x_proj", half, rank + 16, bias=False)
            linear(f"{block}.mixer.dt_proj", rank, half)
            linear(f"{block}.mixer.out_proj", dim, dim, bias=False)
        if i < 3:
            found[f"levels.{i}.downsample.reduction.0.weight"] = (2 * dim, dim, 3, 3)
    norm2d("norm", 8 * c.width)
    linear("head", 8 * c.width, c.num_classes)
    return found


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_variants_to_the_digit_and_by_name(name):
    with torch.device("meta"):
        model = MambaVision.from_variant(name)
    assert sum(p.numel() for p in model.parameters()) == PUBLISHED[name][0]
    assert {key: tuple(value.shape) for key, value in model.state_dict().items()} == published_names(VARIANTS[name])


def test_the_second_half_attends_and_of_an_odd_depth_the_smaller_one():
    for depth in range(13):
        config = replace(SMALL, depths=(1, 1, depth, 1))
        assert [j for j in range(depth) if config.attends(2, j)] == attention_blocks(depth)
    assert attention_blocks(8) == [4, 5, 6, 7]
    assert attention_blocks(11) == [6, 7, 8, 9, 10]


def test_the_tiny_one_is_as_large_as_the_other_tiny_encoders():
    from vlmlab.vlm.presets import PRESETS

    sizes = {}
    for name in ("llava-tiny", "cobra-tiny"):
        sizes[name] = VLM.from_preset(name, "meta").count_parameters()["vision"]
        assert PRESETS[name].grid == VARIANTS["tiny"].sides(96)[2] == 8
    with torch.device("meta"):
        ours = sum(p.numel() for p in MambaVision.from_variant("tiny", num_classes=0).parameters())
    assert ours == 2_764_880
    assert all(abs(ours / size - 1) < 0.1 for size in sizes.values())
    assert VARIANTS["tiny"].channels(2) == 128


def test_a_native_size_decides_the_windows():
    assert VARIANTS["T"].sides(224) == [56, 28, 14, 7]
    assert (VARIANTS["L3"].windows, variant_config("L3", image_size=512).windows) == ((16, 8), (32, 16))
    for name, config in VARIANTS.items():
        assert variant_config(name, image_size=config.image_size) == config


# ---------------------------------------------------------------- against plain code
def plain_conv_norm(w: dict, conv: str, norm: str, x: Tensor, stride: int, eps: float) -> Tensor:
    x = F.conv2d(x, w[f"{conv}.weight"], w.get(f"{conv}.bias"), stride, 1)
    shape = (1, -1, 1, 1)
    centred = (x - w[f"{norm}.running_mean"].view(shape)) / (w[f"{norm}.running_var"].view(shape) + eps).sqrt()
    return centred * w[f"{norm}.weight"].view(shape) + w[f"{norm}.bias"].view(shape)


def plain_mixer(w: dict, name: str, x: Tensor, biases: int = 2) -> Tensor:
    """The mixer of one window x (L, C), step by step; `biases`: how often dt_proj's bias is added."""
    half, rank = x.shape[1] // 2, -(-x.shape[1] // 16)
    x = x @ w[f"{name}.in_proj.weight"].T
    branches = []
    for part, kernel in ((x[:, :half], "conv1d_x"), (x[:, half:], "conv1d_z")):
        part = F.conv1d(F.pad(part.T, (1, 1)), w[f"{name}.{kernel}.weight"], groups=half).T
        branches.append(part * torch.sigmoid(part))
    u, z = branches
    made = u @ w[f"{name}.x_proj.weight"].T
    low, B, C = made[:, :rank], made[:, rank : rank + 8], made[:, rank + 8 :]
    delta = low @ w[f"{name}.dt_proj.weight"].T + biases * w[f"{name}.dt_proj.bias"]
    delta = torch.log1p(torch.exp(delta))
    A, h, rows = -torch.exp(w[f"{name}.A_log"]), torch.zeros(half, 8, dtype=x.dtype), []
    for t in range(len(x)):
        h = torch.exp(delta[t][:, None] * A) * h + (delta[t] * u[t])[:, None] * B[t]
        rows.append(h @ C[t] + w[f"{name}.D"] * u[t])
    return torch.cat([torch.stack(rows), z], 1) @ w[f"{name}.out_proj.weight"].T


def plain_attention(w: dict, name: str, x: Tensor, heads: int) -> Tensor:
    """Attention of one window x (L, C), by PyTorch's own layer."""
    out, _ = F.multi_head_attention_forward(
        x[:, None], x[:, None], x[:, None], x.shape[1], heads,
        w[f"{name}.qkv.weight"], w[f"{name}.qkv.bias"], None, None, False, 0.0,
        w[f"{name}.proj.weight"], w[f"{name}.proj.bias"], training=False,
    )  # fmt: skip
    return out[:, 0]


def plain_block(w: dict, name: str, x: Tensor, heads: int) -> Tensor:
    C = (x.shape[1],)
    out = F.layer_norm(x, C, w[f"{name}.norm1.weight"], w[f"{name}.norm1.bias"], 1e-5)
    attends = f"{name}.mixer.qkv.weight" in w
    out = plain_attention(w, f"{name}.mixer", out, heads) if attends else plain_mixer(w, f"{name}.mixer", out)
    x = x + w.get(f"{name}.gamma_1", 1.0) * out
    out = F.layer_norm(x, C, w[f"{name}.norm2.weight"], w[f"{name}.norm2.bias"], 1e-5)
    out = out @ w[f"{name}.mlp.fc1.weight"].T + w[f"{name}.mlp.fc1.bias"]
    out = out * 0.5 * (1 + torch.erf(out / 2**0.5))
    return x + w.get(f"{name}.gamma_2", 1.0) * (out @ w[f"{name}.mlp.fc2.weight"].T + w[f"{name}.mlp.fc2.bias"])


def plain_windows(w: dict, c: MambaVisionConfig, level: int, image: Tensor) -> Tensor:
    """A level of windows on one map (C, H, W): each window cut out and filled up by hand."""
    (C, H, W), side, out = image.shape, c.windows[level - 2], torch.full_like(image, torch.nan)
    for top in range(0, H, side):
        for left in range(0, W, side):
            window = torch.zeros(side, side, C, dtype=image.dtype)
            there = image[:, top : top + side, left : left + side].permute(1, 2, 0)
            window[: there.shape[0], : there.shape[1]] = there
            x = window.reshape(side * side, C)
            for j in range(c.depths[level]):
                x = plain_block(w, f"levels.{level}.blocks.{j}", x, c.heads[level - 2])
            x = x.reshape(side, side, C)[: there.shape[0], : there.shape[1]]
            out[:, top : top + side, left : left + side] = x.permute(2, 0, 1)
    return out


def plain_model(model: MambaVision, x: Tensor) -> tuple[list[Tensor], Tensor]:
    """Maps and logits from nothing but the weights, in float64."""
    c, w = model.config, {k: v.double() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    x, maps = x.double(), []
    for conv, norm, stride in ((0, 1, c.stem_strides[0]), (3, 4, c.stem_strides[1])):
        x = F.relu(
            plain_conv_norm(w, f"patch_embed.conv_down.{conv}", f"patch_embed.conv_down.{norm}", x, stride, 1e-4)
        )
    for i in range(4):
        if i < 2:
            for j in range(c.depths[i]):
                block = f"levels.{i}.blocks.{j}"
                out = plain_conv_norm(w, f"{block}.conv1", f"{block}.norm1", x, 1, 1e-5)
                out = 0.5 * out * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (out + 0.044715 * out**3)))
                x = x + plain_conv_norm(w, f"{block}.conv2", f"{block}.norm2", out, 1, 1e-5)
        else:
            x = torch.stack([plain_windows(w, c, i, image) for image in x])
        maps.append(x)
        if i < 3:
            x = F.conv2d(x, w[f"levels.{i}.downsample.reduction.0.weight"], None, 2, 1)
    shape = (1, -1, 1, 1)
    x = (x - w["norm.running_mean"].view(shape)) / (w["norm.running_var"].view(shape) + 1e-5).sqrt()
    x = (x * w["norm.weight"].view(shape) + w["norm.bias"].view(shape)).mean((2, 3))
    return maps, x @ w["head.weight"].T + w["head.bias"]


@torch.no_grad()
def close(ours: Tensor, wanted: Tensor, tolerance: float = 1e-5) -> bool:
    return ours.shape == wanted.shape and float((ours - wanted).abs().max() / wanted.abs().max()) < tolerance


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("config", [SMALL, replace(SMALL, layer_scale=None, stem_strides=(3, 1))], ids=["scale", "3"])
def test_maps_and_logits_against_plain_code_at_any_size(config, size):
    model, x = small(config), pictures(2, *size)
    maps, logits = plain_model(model, x)
    with torch.no_grad():
        ours, scores = model.features(x), model(x)
    assert len(ours) == 4
    assert all(close(mine, wanted) for mine, wanted in zip(ours, maps, strict=True))
    assert close(scores, logits)
    assert [tuple(m.shape[1:]) for m in ours] == [
        (config.channels(i), config.sides(size[0])[i], config.sides(size[1])[i]) for i in range(4)
    ]


def test_sizes_of_the_maps_by_hand():
    model = small()
    with torch.no_grad():
        shapes = [tuple(m.shape) for m in model.features(pictures(1, 97, 130))]
    assert shapes == [(1, 8, 25, 33), (1, 16, 13, 17), (1, 32, 7, 9), (1, 64, 4, 5)]


def test_a_mixer_against_plain_code_and_delta_has_its_bias_twice():
    model, g = small(), torch.Generator().manual_seed(2)
    x = torch.randn(3, 11, 32, generator=g)
    w = {k: v.double() for k, v in model.state_dict().items()}
    with torch.no_grad():
        ours = model.levels[2].blocks[0].mixer(x)
    for biases in (0, 1, 2, 3):
        wanted = torch.stack([plain_mixer(w, "levels.2.blocks.0.mixer", row.double(), biases) for row in x])
        assert close(ours, wanted) is (biases == 2)


def test_attention_against_pytorch():
    model, g = small(), torch.Generator().manual_seed(2)
    x = torch.randn(3, 16, 32, generator=g)
    w = dict(model.state_dict())
    with torch.no_grad():
        ours = model.levels[2].blocks[2].mixer(x)
        wanted = torch.stack([plain_attention(w, "levels.2.blocks.2.mixer", row, 2) for row in x])
    assert close(ours, wanted)


def test_windows_go_back_where_they_came_from():
    x = torch.arange(2 * 3 * 5 * 7.0).view(2, 3, 5, 7)
    windows = to_windows(x, 4)
    assert windows.shape == (2 * 2 * 2, 16, 3)
    assert torch.equal(windows[1, 0], x[0, :, 0, 4])  # the second window starts right of the first
    assert torch.equal(windows[2, 1], x[0, :, 4, 1])
    assert windows[3].count_nonzero() == 3 * 3  # one row of three places, the rest is padding
    assert torch.equal(from_windows(windows, 4, 2, 5, 7), x)


def test_layer_scale_is_what_a_block_adds():
    model, x = small(), torch.randn(2, 4, 32, generator=torch.Generator().manual_seed(2))
    block = model.levels[2].blocks[0]
    with torch.no_grad():
        block.gamma_1.zero_()
        block.gamma_2.zero_()
        assert torch.equal(block(x), x)
        block.gamma_2.fill_(2.0)
        assert close(block(x), x + 2 * block.mlp(block.norm2(x)))
    assert VARIANTS["B"].layer_scale == 1e-5
    assert MambaVision(replace(SMALL, layer_scale=1e-5)).levels[3].blocks[1].gamma_1.eq(1e-5).all()


def test_how_weights_begin():
    model = MambaVision(SMALL, torch.Generator().manual_seed(0))
    mixer = model.levels[2].blocks[0].mixer
    assert mixer.dt_proj.bias.count_nonzero() == 0
    assert torch.allclose(mixer.A_log.exp(), torch.arange(1.0, 9.0).expand(16, 8))
    assert mixer.D.eq(1).all()
    assert float(mixer.in_proj.weight.detach().std()) == pytest.approx(0.02, rel=0.1)
    again = MambaVision(SMALL, torch.Generator().manual_seed(0)).state_dict()
    other = MambaVision(SMALL, torch.Generator().manual_seed(1)).state_dict()
    for name, value in model.state_dict().items():
        assert torch.equal(value, again[name])
        drawn = name.endswith(("conv1.bias", "conv2.bias")) or (value.dim() > 1 and not name.endswith("A_log"))
        assert torch.equal(value, other[name]) is not drawn


# ---------------------------------------------------------------- running it
def test_gradients_reach_every_parameter():
    model = small().train()
    model(pictures(2, 70, 64)).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.count_nonzero() > 0, name


@pytest.mark.parametrize("batch", [0, 1])
def test_small_batches(batch):
    model = small()
    with torch.inference_mode():
        assert model(pictures(batch, 64, 48)).shape == (batch, 5)
        assert [len(m) for m in model.features(pictures(batch, 64, 48))] == [batch] * 4
        assert model.features(pictures(batch, 64, 48), -2).shape == (batch, 12, 32)


def test_meta_tensors_give_shapes():
    with torch.device("meta"):
        model, x = MambaVision(SMALL), torch.empty(2, 3, 64, 64)
    assert model(x).shape == (2, 5)
    assert model(x).is_meta


def test_bfloat16():
    x, model = pictures(2, 64, 64), small()
    with torch.inference_mode():
        wanted = model(x)
        assert torch.equal(model(x.bfloat16()), model(x.bfloat16().float()))
        out = model.bfloat16()(x.bfloat16())
    assert out.dtype == torch.bfloat16
    assert close(out.float(), wanted, 5e-2)


def test_without_a_head_the_pooled_features_come_out():
    model, x = small(replace(SMALL, num_classes=0)), pictures(2, 64, 64)
    assert not any(name.startswith("head") for name in model.state_dict())
    with torch.no_grad():
        assert model(x).shape == (2, 64)
        assert torch.equal(model(x), model.pooled(x))
        assert close(model.pool_tokens(model.hidden_states(x)[-1]), model.pooled(x))


def test_tokens_of_a_level_are_its_map_row_by_row():
    model, x = small(), pictures(2, 64, 96)
    with torch.no_grad():
        maps = model.features(x)
        for level in range(4):
            tokens = model.features(x, level)
            columns = maps[level].shape[3]
            assert torch.equal(tokens[:, columns + 1], maps[level][:, :, 1, 1])
            assert torch.equal(tokens, model.features(x, level - 4))
            assert torch.equal(tokens, model.hidden_states(x)[level])
    assert (model.prefix_tokens, model.pooled_dim) == (0, 64)


def test_tokens_of_two_levels_are_joined_where_they_lie_over_each_other():
    model, x = small(), pictures(1, 64, 96)
    with torch.no_grad():
        fine, coarse, both = (model.features(x, layer) for layer in (2, 3, (2, 3)))
    assert both.shape == (1, 24, 32 + 64)  # 4 x 6 places of 16 pixels; level 3 has 2 x 3
    assert torch.equal(both[..., :32], fine)
    for row in range(4):
        for column in range(6):
            assert torch.equal(both[0, 6 * row + column, 32:], coarse[0, 3 * (row // 2) + column // 2])
    with pytest.raises(BadInput, match="layer=4"):
        model.features(x, (2, 4))


def test_every_name_can_be_recorded_and_fits_what_it_says():
    model, x = small(), pictures(2, 64, 64)
    with torch.no_grad():
        found = model.record(x, model.names())
        maps, pooled = model.features(x), model.pooled(x)
    assert list(found) == model.names()
    assert all(close(found[f"levels.{i}"], maps[i]) for i in range(4))
    assert close(found["pooled"], pooled)
    weights = found["levels.2.blocks.2.attn"]  # one window of 4 x 4 a picture
    assert weights.shape == (2, 2, 16, 16)
    assert torch.allclose(weights.sum(-1), torch.ones(2, 2, 16))
    name, mixer = "levels.2.blocks.0", model.levels[2].blocks[0].mixer
    u, delta, B, C = (found[f"{name}.{part}"].transpose(1, 2) for part in ("u", "delta", "B", "C"))
    y = selective_scan(u, delta, -mixer.A_log.exp(), B, C, mixer.D, backend="reference")
    assert close(found[f"{name}.y"], y.transpose(1, 2))
    assert close(found[f"{name}.mid"] - found[f"{name}.mixer"], to_windows(model.levels[1].downsample(maps[1]), 4))


def test_a_tap_can_replace_what_it_sees():
    model, x = small(), pictures(1, 64, 64)

    def without_scans(name: str, value: Tensor) -> Tensor:
        return torch.zeros_like(value) if name.endswith(".y") else value

    with torch.no_grad():
        changed = model(x, without_scans)
        for mixer in (block.mixer for level in model.levels[2:] for block in level.blocks):
            if hasattr(mixer, "A_log"):
                mixer.out_proj.weight[:, : mixer.D.numel()] = 0
        assert close(changed, model(x))


def test_wrong_arguments_are_named():
    model = small()
    with pytest.raises(UnknownName, match="known: T, T2, S, B, L, L2, L3, tiny"):
        MambaVision.from_variant("XXL")
    with pytest.raises(UnknownName, match=r"levels\.2\.blocks\.0\.delta"):
        model.record(pictures(1, 64, 64), ["levels.2.blocks.0.delte"])
    with pytest.raises(BadInput, match="layer=4"):
        model.features(pictures(1, 64, 64), 4)
    with pytest.raises(BadInput, match="expected shape"):
        model(pictures(1, 64, 64)[0])
    with pytest.raises(BadInput, match="NaN"):
        model(torch.full((1, 3, 64, 64), torch.nan))
    with pytest.raises(BadInput, match="depths"):
        replace(SMALL, depths=(1, 2, 3))
    with pytest.raises(BadInput, match="3 heads do not divide"):
        replace(SMALL, heads=(3, 4))
    with pytest.raises(BadInput, match="image_size=0"):
        MambaVision.from_variant("tiny", image_size=0)


# ---------------------------------------------------------------- in a VLM
def vlm_config(layer: int | tuple[int, ...] = -2) -> VLMConfig:
    return VLMConfig(
        name="test",
        image_size=64,
        vision=replace(SMALL, num_classes=0),
        projector="mlp2x_gelu",
        language=LlamaConfig(vocab_size=50, dim=24, layers=1, heads=4, kv_heads=2, hidden=36, head_dim=8),
        template="v1",
        image_id=50,
        feature_layer=layer,
        max_length=64,
    )


def train_a_step(vlm: VLM) -> None:
    ids = torch.tensor([[1, *[50] * vlm.config.image_tokens, 2, 3]])
    loss = vlm(pictures(2, 64, 64), ids.repeat(2, 1), ids.repeat(2, 1).masked_fill(ids == 50, -100)).loss
    loss.backward()
    torch.optim.SGD([p for p in vlm.parameters() if p.requires_grad], 0.1).step()


@pytest.mark.parametrize("freeze_first", [True, False])
def test_a_frozen_encoder_keeps_its_statistics_while_the_rest_trains(freeze_first):
    vlm = VLM.from_preset(vlm_config(), "cpu")
    if freeze_first:
        vlm.freeze("vision").train()
    else:
        vlm.train().freeze("vision").train()
    norms = [module for module in vlm.vision.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms
    assert not any(module.training for module in norms)
    assert vlm.vision.training
    before = {name: value.clone() for name, value in vlm.state_dict().items()}
    with torch.no_grad():
        features = vlm.vision_features(pictures(2, 64, 64))
    train_a_step(vlm)
    changed = {name.split(".")[0] for name, value in vlm.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"projector", "language"}
    assert torch.equal(vlm.eval().vision_features(pictures(2, 64, 64)), features)
    vlm.unfreeze("vision").train()
    train_a_step(vlm)
    moved = [name for name, value in vlm.state_dict().items() if not torch.equal(value, before[name])]
    assert "vision.levels.0.blocks.0.norm1.running_mean" in moved
    assert "vision.levels.1.blocks.1.conv1.weight" in moved


@pytest.mark.parametrize(("layer", "shape"), [(-2, (16, 32)), (3, (4, 64)), ((2, 3), (16, 96)), ([-2], (16, 32))])
def test_a_vlm_is_built_saved_and_counted(tmp_path, layer, shape):
    config = vlm_config(layer)
    assert VLMConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    vlm = VLM.from_preset(config, "cpu").train()
    train_a_step(vlm)  # moves the running statistics
    saving.save(vlm, tmp_path / "model.safetensors")
    again = saving.load(tmp_path / "model.safetensors", device="cpu")
    x = pictures(1, 64, 64)
    features = vlm.eval().vision_features(x)
    assert features.shape == (1, config.feature_tokens, config.feature_dim) == (1, *shape)
    assert torch.equal(again.vision_features(x), features)
    last = 2 if shape[1] == 32 else 3
    result = account(config, text_tokens=10)
    assert result["image_tokens"] == config.image_tokens
    assert result["prefill"]["flops"]["vision"] == 2 * sum(multiply_adds(config.vision, 64, 64, last).values())
    with pytest.raises(BadInput, match="feature_layer=4"):
        replace(config, feature_layer=4)


# ---------------------------------------------------------------- accounting
@pytest.mark.parametrize("name", [name for name, (_, flops) in PUBLISHED.items() if flops])
def test_multiply_adds_agree_with_the_papers_column(name):
    found = multiply_adds(VARIANTS[name], 224, 224)
    layers = sum(found.values()) - found["attention"] - found["scan"]
    assert layers / 1e9 == pytest.approx(PUBLISHED[name][1], rel=0.02)


@pytest.mark.parametrize("size", SIZES)
def test_multiply_adds_against_pytorchs_counter(size):
    model = small()
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        model(pictures(1, *size))
    found = multiply_adds(SMALL, *size)
    taps = 0  # products that the counter does not see, beside the scan
    for level in (2, 3):
        rows, columns = (-(-SMALL.sides(n)[level] // SMALL.windows[level - 2]) for n in size)
        mixers = sum(hasattr(block.mixer, "D") for block in model.levels[level].blocks)
        taps += mixers * rows * columns * SMALL.windows[level - 2] ** 2 * TAPS * SMALL.channels(level)
    assert counter.get_total_flops() == 2 * (sum(found.values()) - found["scan"] - taps)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        model.features(pictures(1, *size), 1)
    assert counter.get_total_flops() == 2 * sum(multiply_adds(SMALL, *size, level=1).values())
