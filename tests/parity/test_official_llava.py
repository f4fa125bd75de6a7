"""load_official against LlavaForConditionalGeneration: one set of weights in the three layouts that are published."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration
from upstream_layouts import bare, shaken, write_config

import vlmlab
from vlmlab.errors import BadCheckpoint, BadInput
from vlmlab.language import Tokenizer
from vlmlab.vlm.account import account
from vlmlab.weights import check_official, load_official, official_config

PICTURE = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
TEXTS = ["USER: is the cat left of the dog? ASSISTANT: yes no", "A chat between a curious user and an assistant"]


@pytest.fixture(scope="module")
def words() -> Tokenizer:
    return Tokenizer.train(TEXTS, 300)


@pytest.fixture(scope="module")
def model(words) -> LlavaForConditionalGeneration:
    torch.manual_seed(0)
    eye = CLIPVisionConfig(
        hidden_size=64, intermediate_size=48, num_hidden_layers=3, num_attention_heads=1, patch_size=8, image_size=24
    )
    text = LlamaConfig(
        vocab_size=len(words) + 4, hidden_size=48, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256,
    )  # fmt: skip
    return shaken(
        LlavaForConditionalGeneration(
            LlavaConfig(vision_config=eye, text_config=text, image_token_index=words.image_id)
        )
    )


def parts(model) -> tuple[dict, dict, dict, torch.Tensor]:
    """Vision, projector (as linear_1, linear_2) and language without their prefixes, and the output layer."""
    inner = model.model
    return (
        bare(inner.vision_tower.state_dict()),
        inner.multi_modal_projector.state_dict(),
        inner.language_model.state_dict(),
        model.lm_head.weight.detach(),
    )


def older(model) -> dict:
    eye, projector, language, head = parts(model)
    return (
        {f"vision_tower.vision_model.{name}": value for name, value in eye.items()}
        | {f"multi_modal_projector.{name}": value for name, value in projector.items()}
        | {f"language_model.model.{name}": value for name, value in language.items()}
        | {"language_model.lm_head.weight": head}
    )


def newer(model, tower: str = "vision_model.") -> dict:
    eye, projector, language, head = parts(model)
    return (
        {f"model.vision_tower.{tower}{name}": value for name, value in eye.items()}
        | {f"model.multi_modal_projector.{name}": value for name, value in projector.items()}
        | {f"model.language_model.{name}": value for name, value in language.items()}
        | {"lm_head.weight": head}
    )


def original(model, inside: bool) -> dict:
    eye, projector, language, head = parts(model)
    place = {"linear_1": "0", "linear_2": "2"}
    tower = "model.vision_tower.vision_tower.vision_model."
    return (
        {f"model.mm_projector.{place[n.split('.')[0]]}.{n.split('.')[1]}": value for n, value in projector.items()}
        | {f"model.{name}": value for name, value in language.items()}
        | {"lm_head.weight": head}
        | ({f"{tower}{name}": value for name, value in eye.items()} if inside else {})
    )


def original_config(model) -> dict:
    text = model.config.text_config
    return {
        "model_type": "llava", "architectures": ["LlavaLlamaForCausalLM"], "mm_projector_type": "mlp2x_gelu",
        "mm_vision_tower": "openai/clip-vit-large-patch14-336", "mm_vision_select_layer": -2, "mm_hidden_size": 64,
        "mm_vision_select_feature": "patch", "image_aspect_ratio": "pad", "mm_use_im_start_end": False,
        "vocab_size": text.vocab_size, "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256, "hidden_act": "silu",
        "rms_norm_eps": text.rms_norm_eps, "tie_word_embeddings": False, "rope_scaling": None,
        "tokenizer_model_max_length": 200,
    }  # fmt: skip


LAYOUTS = ["older", "newer", "newest", "inside", "beside", "above", "given", "file"]


@pytest.fixture
def written(tmp_path, model, words, request):
    """A folder in one of the layouts, and where its tower lies if that must be said."""
    folder, layout, given = tmp_path / "llava", request.param, None
    if layout in ("older", "newer", "newest"):
        model.config.save_pretrained(folder)
        state = older(model) if layout == "older" else newer(model, "vision_model." if layout == "newer" else "")
        save_file(state, folder / "model.safetensors")
    else:
        write_config(folder, original_config(model))
        names = [*original(model, layout == "inside").items()]
        shards = {"pytorch_model-1.bin": dict(names[::2]), "pytorch_model-2.bin": dict(names[1::2])}
        places = {name: file for file, kept in shards.items() for name in kept}
        for file, kept in shards.items():
            torch.save(kept, folder / file)
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": places}))
        name = "clip-vit-large-patch14-336"
        tower = {"beside": folder / name, "above": tmp_path / name, "given": tmp_path / "elsewhere"}.get(layout)
        if tower is not None:
            eye = CLIPVisionModel(model.config.vision_config)
            eye.load_state_dict({key: parts(model)[0][key.removeprefix("vision_model.")] for key in eye.state_dict()})
            eye.save_pretrained(tower)
        elif layout == "file":
            save_file(parts(model)[0], folder / f"{name}.safetensors")
        given = tower if layout == "given" else None
    words._special.save(str(folder / "tokenizer.json"))
    return layout, folder, given


@pytest.mark.parametrize("written", LAYOUTS, indirect=True)
@torch.no_grad()
def test_logits_generated_tokens_and_report(written, model, words):
    layout, folder, given = written
    assert check_official(folder, given).fits
    vlm = load_official(folder, "cpu", vision=given)
    original_layout = layout not in ("older", "newer", "newest")
    image = vlm.image_id
    assert image == words.image_id  # the original layout's own tokenizer has none
    assert official_config(folder, given).image_id == (len(words) + 4 if original_layout else image)
    assert vlm.config.pad == "square"
    assert vlm.config.max_length == (200 if original_layout else 256)
    draw = torch.Generator().manual_seed(1)
    text = torch.randint(10, 250, (2, 12), generator=draw)
    pixels = torch.randn(2, 3, 24, 24, generator=draw)
    ids = torch.cat([text[:, :4], torch.full((2, 9), image), text[:, 4:]], 1)
    wanted = model(input_ids=ids, pixel_values=pixels).logits
    found = vlm(pixels, ids)
    assert (found - wanted).abs().max() <= 1e-5 * wanted.abs().max()
    new = model.generate(input_ids=ids, pixel_values=pixels, max_new_tokens=8, do_sample=False, eos_token_id=None)
    assert torch.equal(vlm.generate_ids(pixels, ids, max_new_tokens=8, eos_ids=[]), new[:, ids.shape[1] :])
    if given is None:
        assert vlmlab.load(folder, "cpu").config == vlm.config
        assert replace(official_config(folder), image_id=image) == vlm.config
        assert isinstance(vlm.generate(PICTURE, "is the cat left?", max_new_tokens=3), str)
        assert account(official_config(folder))["parameters"] == vlm.count_parameters()


@pytest.mark.parametrize("written", ["older", "inside"], indirect=True)
def test_the_same_in_half_precision(written):
    _, folder, _ = written
    vlm = load_official(folder, "cpu", torch.bfloat16)
    assert {parameter.dtype for parameter in vlm.parameters()} == {torch.bfloat16}
    assert isinstance(vlm.generate(PICTURE, "is the cat left?", max_new_tokens=3), str)


@pytest.mark.parametrize("written", ["older"], indirect=True)
@pytest.mark.parametrize(
    ("values", "pad"),
    [({"do_pad": True, "do_center_crop": True}, "square"), ({"do_center_crop": True}, "crop"), ({}, "resize")],
)
def test_pictures_are_prepared_as_the_processor_says(written, values, pad):
    folder = written[1]
    (folder / "preprocessor_config.json").write_text(json.dumps(values | {"image_mean": [0.1, 0.2, 0.3]}))
    config = official_config(folder)
    assert (config.pad, config.mean) == (pad, (0.1, 0.2, 0.3))


def change(folder, **changes) -> None:
    values = json.loads((folder / "config.json").read_text())
    write_config(folder, values | changes)


@pytest.mark.parametrize("written", ["inside"], indirect=True)
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mm_projector_type": "mlp3x_gelu"}, "mm_projector_type 'mlp3x_gelu'"),
        ({"mm_use_im_start_end": True}, "mm_use_im_start_end"),
        ({"model_type": "llava_mpt"}, "'llava_mpt'"),
        ({"mm_projector_type": "linear"}, r"2 missing: projector\.weight; projector\.bias\. 4 unexpected"),
        ({"num_hidden_layers": 3}, r"9 missing: language\.layers\.2\..* and 6 more"),
        ({"intermediate_size": 63}, r"6 of another shape or type: .* is \(64, 48\), expected \(63, 48\)"),
    ],
)
def test_what_the_original_layout_may_not_hold(written, changes, message):
    folder = written[1]
    change(folder, **changes)
    with pytest.raises(BadCheckpoint, match=message) as caught:
        load_official(folder, "cpu")
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("written", ["given"], indirect=True)
def test_a_tower_that_is_not_there(written):
    _, folder, given = written
    with pytest.raises(
        BadCheckpoint, match=r"does not hold its vision tower; put openai/clip-vit-large-patch14-336 into"
    ):
        load_official(folder, "cpu")
    with pytest.raises(BadInput, match="give its path, not a dict"):
        load_official(folder, "cpu", vision={"clip": given})
    with pytest.raises(BadCheckpoint, match="no such checkpoint"):
        load_official(folder, "cpu", vision=folder / "nowhere")


@pytest.mark.parametrize("written", ["older"], indirect=True)
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"projector_hidden_act": "relu"}, "a projector with 'relu'"),
        ({"text_config": {"model_type": "mistral"}}, "a language model 'mistral'"),
        ({"vision_config": {"model_type": "siglip_vision_model"}}, "0 before its patches"),
    ],
)
def test_what_transformers_layouts_may_not_hold(written, changes, message):
    change(written[1], **changes)
    with pytest.raises(BadCheckpoint, match=message):
        load_official(written[1], "cpu")


@pytest.mark.parametrize("written", ["newer"], indirect=True)
def test_every_wrong_tensor_is_in_one_report(written, model):
    folder = written[1]
    state = newer(model)
    del state["lm_head.weight"]
    state |= {"model.image_newline": torch.ones(48), "model.multi_modal_projector.linear_1.bias": torch.ones(47)}
    state["model.language_model.norm.weight"] = torch.ones(48, dtype=torch.int8)
    save_file(state, folder / "model.safetensors")
    report = check_official(folder)
    assert report.missing == ("language.lm_head.weight",)
    assert report.unexpected == ("model.image_newline",)
    assert sorted(report.mismatched) == [
        "model.language_model.norm.weight is int8, expected numbers like float32",
        "model.multi_modal_projector.linear_1.bias is (47,), expected (48,)",
    ]
    with pytest.raises(
        BadCheckpoint, match=r"llava/model\.safetensors does not fit the model: 1 missing: language\.lm"
    ):
        load_official(folder, "cpu")


@pytest.mark.parametrize("written", ["beside"], indirect=True)
def test_the_file_of_a_wrong_tensor_is_named(written):
    folder = written[1]
    tower = folder / "clip-vit-large-patch14-336"
    held = (tower / "model.safetensors").read_bytes()
    (tower / "model.safetensors").write_bytes(held[: len(held) // 2])
    with pytest.raises(BadCheckpoint, match=r"patch14-336/model\.safetensors is damaged"):
        load_official(folder, "cpu")
    (tower / "model.safetensors").write_bytes(held)
    torch.save({"odd": torch.ones(1)}, folder / "pytorch_model-1.bin")
    with pytest.raises(
        BadCheckpoint, match=r"pytorch_model-1\.bin lacks .*, which pytorch_model\.bin\.index\.json says"
    ):
        load_official(folder, "cpu")
