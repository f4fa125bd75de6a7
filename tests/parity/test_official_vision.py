"""load_vision against transformers' CLIP, SigLIP and DINOv2: transformers' files, and the same weights as timm's."""

import pytest
import torch
from safetensors.torch import save_file
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    SiglipConfig,
    SiglipModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)
from upstream_layouts import bare, shaken, timm_dinov2, timm_siglip, write_config

from vlmlab.errors import BadCheckpoint
from vlmlab.weights import load_vision

SHAPE = {"hidden_size": 128, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
REGISTERS = {"mlp_ratio": 3, "num_register_tokens": 3, "layerscale_value": 0.5}
TEXT = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 9}
MODELS = {
    "clip": lambda: CLIPVisionModel(CLIPVisionConfig(**SHAPE, intermediate_size=48)),
    "clip-gelu": lambda: CLIPVisionModel(CLIPVisionConfig(**SHAPE, intermediate_size=48, hidden_act="gelu")),
    "siglip": lambda: SiglipVisionModel(SiglipVisionConfig(**{**SHAPE, "image_size": 38}, intermediate_size=43)),
    "dinov2": lambda: Dinov2Model(Dinov2Config(**SHAPE, layerscale_value=0.1)),
    "dinov2-reg": lambda: Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**SHAPE, **REGISTERS)),
    "dinov2-swiglu": lambda: Dinov2Model(Dinov2Config(**SHAPE, use_swiglu_ffn=True, qkv_bias=False)),
}
WHOLE = {
    "clip": lambda: CLIPModel(CLIPConfig(text_config=TEXT, vision_config={**SHAPE, "intermediate_size": 48})),
    "siglip": lambda: SiglipModel(SiglipConfig(text_config=TEXT, vision_config={**SHAPE, "intermediate_size": 48})),
}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """Both in float64."""
    assert ours.shape == theirs.shape
    assert ours.dtype == theirs.dtype == torch.float64
    assert (ours - theirs).abs().max() <= 1e-10 * theirs.abs().max()


@torch.no_grad()
def agree(vit, model, size: int = 32) -> None:
    """Every hidden state, the output and the pooled vector."""
    model, x = model.double(), torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1)).double()
    more = {} if "dino" in model.config.model_type else {"interpolate_pos_encoding": True}
    theirs = model(x, output_hidden_states=True, **more)
    for mine, other in zip(vit.hidden_states(x), theirs.hidden_states, strict=True):
        close(mine, other)
    close(vit(x), theirs.last_hidden_state)
    close(vit.pooled(x), theirs.pooler_output)


@pytest.mark.parametrize("prefix", ["", "vision_model."])
@pytest.mark.parametrize("name", MODELS)
def test_files_of_transformers(tmp_path, name, prefix):
    model = shaken(MODELS[name]())
    model.config.save_pretrained(tmp_path)
    save_file({prefix + key: value for key, value in bare(model.state_dict()).items()}, tmp_path / "model.safetensors")
    vit, preprocess = load_vision(tmp_path, device="cpu", dtype=torch.float64)
    agree(vit, model)
    assert preprocess.size == model.config.image_size
    assert not vit.training


@pytest.mark.parametrize("form", ["safetensors", "bin"])
@pytest.mark.parametrize("name", WHOLE)
def test_the_vision_model_of_a_whole_clip_or_siglip(tmp_path, name, form):
    model = shaken(WHOLE[name]())
    if form == "safetensors":
        model.save_pretrained(tmp_path)
    else:  # with the buffers that older releases stored
        model.config.save_pretrained(tmp_path)
        more = {
            "vision_model.embeddings.position_ids": torch.arange(17)[None],
            "text_model.embeddings.position_ids": torch.arange(9),
        }
        torch.save(model.state_dict() | more, tmp_path / "pytorch_model.bin")
    agree(load_vision(tmp_path, device="cpu", dtype=torch.float64)[0], model.vision_model)


TIMM = {
    "dinov2": (MODELS["dinov2"], timm_dinov2),
    "dinov2-reg": (MODELS["dinov2-reg"], timm_dinov2),
    "siglip": (
        lambda: SiglipVisionModel(SiglipVisionConfig(**SHAPE, intermediate_size=43, hidden_act="gelu")),
        timm_siglip,
    ),
}


@pytest.mark.parametrize("kind", ["file", "folder", "open_clip"])
@pytest.mark.parametrize("name", TIMM)
def test_the_same_weights_as_timm_stores_them(tmp_path, name, kind):
    model, convert = shaken(TIMM[name][0]()), TIMM[name][1]
    state, path = convert(model.double()), tmp_path / "model.safetensors"
    if kind == "folder":
        write_config(tmp_path, {"architecture": "vit", "pretrained_cfg": {"input_size": [3, 35, 35]}})
        save_file(state, path)
        path = tmp_path
    elif kind == "file":
        save_file(state, path)
    else:
        path = tmp_path / "open_clip_pytorch_model.bin"
        trunk = {f"visual.trunk.{key}": value for key, value in state.items()}
        torch.save(trunk | {"logit_scale": torch.ones(1), "text.token_embedding.weight": torch.ones(4, 4)}, path)
    vit, preprocess = load_vision(path, device="cpu", dtype=torch.float64)
    assert preprocess.size == (35 if kind == "folder" else 32)  # timm's so400m takes 384 px, of which 378 fill patches
    agree(vit, model)


@pytest.mark.parametrize("size", [16, 24, 48])
@pytest.mark.parametrize("layout", ["transformers", "timm"])
def test_another_size_is_interpolated_once_at_loading(tmp_path, layout, size):
    model = shaken(MODELS["dinov2-reg"]())
    if layout == "timm":
        save_file(timm_dinov2(model.double()), tmp_path / "model.safetensors")
    else:
        model.save_pretrained(tmp_path)
    vit, preprocess = load_vision(tmp_path, image_size=size, device="cpu", dtype=torch.float64)
    assert vit.pos_embed.shape == (1 + (size // 8) ** 2, 128)
    assert preprocess.size == size
    agree(vit, model, size)


def test_halves_stay_halves_when_asked(tmp_path):
    shaken(MODELS["clip"]()).half().save_pretrained(tmp_path)
    assert load_vision(tmp_path, device="cpu", dtype=None)[0].pos_embed.dtype == torch.float16
    assert load_vision(tmp_path, device="cpu")[0].pos_embed.dtype == torch.float32


def test_a_part_of_a_joined_weight_may_not_lack_nor_come_twice(tmp_path):
    model = MODELS["siglip"]()
    state = bare(model.state_dict())
    model.config.save_pretrained(tmp_path)
    key = "encoder.layers.1.self_attn.k_proj.weight"
    save_file({name: value for name, value in state.items() if name != key}, tmp_path / "model.safetensors")
    with pytest.raises(BadCheckpoint, match=r"1 missing: blocks\.1\.attn\.qkv\.weight \(a part of it\)"):
        load_vision(tmp_path, device="cpu")
    save_file(state | {f"vision_model.{key}": state[key].clone()}, tmp_path / "model.safetensors")
    with pytest.raises(
        BadCheckpoint, match=r"1 unexpected: (vision_model\.)?encoder.*k_proj\.weight \(a second time\)"
    ):
        load_vision(tmp_path, device="cpu")
    save_file(state | {key: state[key].T.contiguous()[:5]}, tmp_path / "model.safetensors")
    with pytest.raises(BadCheckpoint, match=r"k_proj\.weight is \(5, 128\), expected \(128, 128\)"):
        load_vision(tmp_path, device="cpu")


def test_other_models_are_refused(tmp_path):
    write_config(tmp_path, {"model_type": "bert"})
    save_file({"a": torch.ones(1)}, tmp_path / "model.safetensors")
    with pytest.raises(BadCheckpoint, match="no CLIP, SigLIP or DINOv2"):
        load_vision(tmp_path, device="cpu")
    write_config(tmp_path, {"model_type": "no-such-thing"})
    with pytest.raises(BadCheckpoint, match=r"config\.json is no configuration"):
        load_vision(tmp_path, device="cpu")
    (tmp_path / "config.json").unlink()
    with pytest.raises(BadCheckpoint, match="no CLIP, SigLIP or DINOv2"):
        load_vision(tmp_path, device="cpu")
