"""load_official on Cobra's layout against the same weights computed by transformers, part by part."""

import json
from copy import deepcopy

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import (
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    MambaConfig,
    MambaForCausalLM,
    SiglipVisionConfig,
    SiglipVisionModel,
)
from upstream_layouts import shaken, timm_dinov2, timm_siglip, write_config

import vlmlab
from vlmlab.errors import BadCheckpoint
from vlmlab.language import Tokenizer
from vlmlab.vision.images import IMAGENET_MEAN, IMAGENET_STD
from vlmlab.weights import check_official, load_official, official_config

SIZE, WORDS, DIM = 32, 312, 32
PICTURE = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)


def encoders(activation: str) -> dict[str, nn.Module]:
    torch.manual_seed(0)
    shape = {"num_hidden_layers": 3, "patch_size": 8}
    dino = Dinov2WithRegistersConfig(
        **shape, hidden_size=128, num_attention_heads=2, image_size=48, num_register_tokens=3, mlp_ratio=2
    )
    siglip = SiglipVisionConfig(
        **shape, hidden_size=64, num_attention_heads=1, image_size=SIZE, intermediate_size=43, hidden_act=activation
    )
    models = {"dinov2": Dinov2WithRegistersModel(dino), "siglip": SiglipVisionModel(siglip)}
    return {name: shaken(model).double() for name, model in models.items()}


def projector(name: str) -> nn.Sequential:
    """Without LDPv2's last part, which `reference` computes."""
    torch.manual_seed(1)
    wide = 4 * 192
    layers = [nn.Linear(192, wide), nn.GELU(), nn.Linear(wide, DIM)]
    return nn.Sequential(*layers, *([nn.GELU(), nn.Linear(DIM, DIM)] if name == "fused-gelu-mlp" else []))


@pytest.fixture(scope="module")
def mamba() -> MambaForCausalLM:
    torch.manual_seed(2)
    return shaken(MambaForCausalLM(MambaConfig(vocab_size=WORDS, hidden_size=DIM, num_hidden_layers=2, state_size=8)))


def convolution() -> nn.Conv2d:
    torch.manual_seed(3)
    return nn.Conv2d(DIM, DIM, 3, padding=1, groups=DIM)


@torch.no_grad()
def reference(eyes, name: str, pixels: torch.Tensor) -> torch.Tensor:
    """Image tokens, in float64."""
    mean, std = (torch.tensor(values, dtype=torch.float64).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    pixels = pixels.double()
    dino = eyes["dinov2"]((pixels - mean) / std, output_hidden_states=True).hidden_states[-2][:, 4:]
    siglip = eyes["siglip"]((pixels - 0.5) / 0.5, output_hidden_states=True).hidden_states[-2]
    tokens = projector(name).double()(torch.cat([dino, siglip], -1))
    if name == "fused-ldpnet":
        square = nn.functional.adaptive_avg_pool2d(tokens.transpose(1, 2).unflatten(2, (4, 4)), 14)
        tokens = (square + convolution().double()(square)).flatten(2).transpose(1, 2)
    return tokens


def close(found: torch.Tensor, wanted: torch.Tensor, tolerance: float) -> None:
    assert found.shape == wanted.shape
    assert (found - wanted).abs().max() <= tolerance * wanted.abs().max()


def write(folder, mamba, eyes, name: str = "fused-gelu-mlp", vision: str = "timm", **ids) -> None:
    """Cobra's folder. vision: how and where the encoders lie."""
    state = {f"llm.{key.replace('embeddings.', 'embedding.')}": value for key, value in mamba.state_dict().items()}
    state["llm.lm_head.weight"] = mamba.lm_head.weight.detach()
    layers = {f"projector.{key}": value for key, value in projector(name).state_dict().items()}
    if name == "fused-ldpnet":
        layers |= {f"projector.4.peg.0.{key}": value for key, value in convolution().state_dict().items()}
    content = {"projector": layers, "llm_backbone": state}
    timm = {"dinov2": timm_dinov2(eyes["dinov2"]), "siglip": timm_siglip(eyes["siglip"])}
    if vision == "inside":
        names = {"dinov2": "dino_featurizer", "siglip": "siglip_featurizer"}
        content["vision_backbone"] = {f"{names[e]}.{k}": v for e in timm for k, v in timm[e].items()}
    for encoder, model in eyes.items():
        place = folder.parent if vision == "above" else folder
        place.mkdir(exist_ok=True, parents=True)
        if vision in ("timm", "above"):
            save_file(timm[encoder], place / f"vit_{encoder}.safetensors")
        elif vision == "transformers":
            model.save_pretrained(place / encoder)
        elif vision == "given":
            save_file(timm[encoder], place / f"{encoder[0]}.pth.safetensors")
    write_config(folder, {"model": {
        "model_id": "cobra+3b", "vision_backbone_id": f"dinosiglip-vit-so-{SIZE}px", "llm_max_length": 600,
        "llm_backbone_id": "mamba-2.8b-zephyr", "arch_specifier": f"no-align+{name}",
        "image_resize_strategy": "resize-naive", **ids,
    }, "seed": 7})  # fmt: skip
    (folder / "checkpoints").mkdir()
    torch.save({"model": content}, folder / "checkpoints" / "latest-checkpoint.pt")


@pytest.mark.parametrize("name", ["fused-gelu-mlp", "fused-ldpnet"])
@pytest.mark.parametrize("vision", ["timm", "above", "inside", "transformers", "given"])
def test_logits(tmp_path, mamba, name, vision):
    eyes = encoders("gelu_pytorch_tanh" if vision == "transformers" else "gelu")
    folder = tmp_path / "cobra"
    write(folder, mamba, eyes, name, vision)
    given = {e: folder / f"{e[0]}.pth.safetensors" for e in eyes} if vision == "given" else None
    assert check_official(folder, given).fits
    vlm = load_official(folder, "cpu", vision=given)
    assert vlm.config.name == "cobra+3b"
    assert (vlm.config.max_length, vlm.config.pad, vlm.config.template) == (600, "resize", "cobra")
    draw = torch.Generator().manual_seed(1)
    pixels, ids = torch.rand(2, 3, SIZE, SIZE, generator=draw), torch.randint(0, WORDS, (2, 7), generator=draw)
    tokens = reference(eyes, name, pixels)
    exact = load_official(folder, "cpu", torch.float64, given)
    embeds = torch.cat([tokens, mamba.backbone.embeddings(ids).double()], 1)
    with torch.no_grad():
        close(exact.encode_images(pixels.double()), tokens, 1e-10)
        wanted = deepcopy(mamba).double()(inputs_embeds=embeds).logits  # parts of its scan are in float32
        found = exact(pixels.double(), torch.cat([torch.full((2, 1), vlm.image_id), ids], 1))
        close(found, wanted, 1e-6)
    by_file = load_official(folder / "checkpoints" / "latest-checkpoint.pt", "cpu", vision=given)
    assert by_file.config == vlm.config == official_config(folder, given)


def test_it_answers_by_its_folder_with_a_tokenizer_beside_it(tmp_path, mamba):
    write(tmp_path / "cobra", mamba, encoders("gelu"))
    words = Tokenizer.train(["is the cat left? yes no " * 3], 300)
    words._special.save(str(tmp_path / "cobra" / "tokenizer.json"))
    for vlm in (vlmlab.load(tmp_path / "cobra", "cpu"), load_official(tmp_path / "cobra", "cpu", torch.bfloat16)):
        assert isinstance(vlm.generate(PICTURE, "is the cat left?", max_new_tokens=3), str)
        scores = vlm.score_options(PICTURE, "is the cat left?", ["yes", "no"])
        assert all(np.isfinite(value) for value in scores.values())


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ({"vision_backbone_id": "clip-vit-l-336px"}, "vision_backbone_id 'clip-vit-l-336px' is not known"),
        ({"arch_specifier": "no-align+avgpool"}, "projector 'avgpool' is not known; known are linear, "),
        ({"image_resize_strategy": "stretch"}, "image_resize_strategy 'stretch' is not known"),
        ({"arch_specifier": "gelu-mlp"}, r"2 unexpected: projector\.projector\.4\.weight in latest-checkpoint\.pt"),
    ],
)
def test_what_config_may_not_say(tmp_path, mamba, ids, message):
    write(tmp_path / "cobra", mamba, encoders("gelu"), **ids)
    with pytest.raises(BadCheckpoint, match=message):
        load_official(tmp_path / "cobra", "cpu")


def test_encoders_that_are_not_there(tmp_path, mamba):
    folder = tmp_path / "a" / "cobra"
    write(folder, mamba, encoders("gelu"))
    (folder / "vit_siglip.safetensors").unlink()
    with pytest.raises(
        BadCheckpoint, match=r"does not hold its encoder siglip; put its weights beside it as siglip\.saf"
    ):
        load_official(folder, "cpu")


def test_damage_names_the_file_and_the_key(tmp_path, mamba):
    folder = tmp_path / "cobra"
    write(folder, mamba, encoders("gelu"))
    path = folder / "checkpoints" / "latest-checkpoint.pt"
    content = torch.load(path, weights_only=True)["model"]
    for change, message in (
        ({"optimizer": {"lr": 0.1}}, r"'optimizer\.lr' is a float, not a tensor"),
        ({"llm_backbone": {}}, r"latest-checkpoint\.pt holds no Mamba that can be read \('embedding\.weight'\)"),
        ({"adapter": {"weight": torch.ones(1)}}, r"1 unexpected: adapter\.weight in latest-checkpoint\.pt"),
        ({"projector": {}}, r"6 missing: projector\.0\.weight; projector\.0\.bias; projector\.2\.weight and 3 more"),
    ):
        torch.save({"model": content | change}, path)
        with pytest.raises(BadCheckpoint, match=message):
            load_official(folder, "cpu")
    words = content["llm_backbone"]
    words["llm.lm_head.weight"] = words["llm.lm_head.weight"] + 1
    torch.save({"model": content}, path)
    with pytest.raises(BadCheckpoint, match=r"llm_backbone\.llm\.lm_head\.weight differs from the embeddings"):
        load_official(folder, "cpu")
    path.unlink()
    with pytest.raises(BadCheckpoint, match="no such checkpoint"):
        load_official(folder, "cpu")
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(BadCheckpoint, match=r"a model of type 'bert'; LLaVA-1\.5 and Cobra can be opened whole"):
        load_official(folder, "cpu")
