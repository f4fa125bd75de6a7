"""VLM.from_transformers against LlavaForConditionalGeneration: features, logits, loss and generated tokens."""

import pytest
import torch
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    SiglipVisionConfig,
)

from vlmlab.errors import BadInput, VlmlabError
from vlmlab.vlm import VLM

IMAGE, WORDS, PAD, EOS = 90, 96, 95, 2


def reference(
    image_size: int = 24,
    select: str = "default",
    layer: int | list[int] = -2,
    tied: bool = False,
    vision: str = "clip",
    seed: int = 0,
    **changes: object,
) -> LlavaForConditionalGeneration:
    """A tiny LLaVA of transformers with random weights, spread out so that logits differ clearly."""
    torch.manual_seed(seed)
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "patch_size": 8,
    }
    encoder = (CLIPVisionConfig if vision == "clip" else SiglipVisionConfig)(image_size=image_size, **sizes)
    text = LlamaConfig(
        vocab_size=WORDS,
        hidden_size=48,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        bos_token_id=1,
        eos_token_id=EOS,
        pad_token_id=PAD,
        tie_word_embeddings=tied,
    )
    config = LlavaConfig(
        vision_config=encoder,
        text_config=text,
        image_token_index=IMAGE,
        vision_feature_select_strategy=select,
        vision_feature_layer=layer,
        **changes,
    )
    model = LlavaForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """Within 1e-5 of the reference's magnitude."""
    assert ours.shape == theirs.shape
    difference = (ours - theirs).abs().max().item()
    assert difference <= 1e-5 * theirs.abs().max().item(), difference


def batch(
    tokens: int, images: list[int], size: int = 24, side: str = "right", channels_seed: int = 1
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Rows with 0, 1, 2, ... images of `tokens` ids each, text of different lengths, padded on `side`."""
    draw = torch.Generator().manual_seed(channels_seed)
    rows = []
    for number, count in enumerate(images):
        row = [1]
        for _ in range(count):
            row += torch.randint(3, 80, (2,), generator=draw).tolist() + [IMAGE] * tokens
        rows.append(row + torch.randint(3, 80, (3 + 2 * number,), generator=draw).tolist())
    length = max(map(len, rows))
    fill = [[PAD] * (length - len(row)) for row in rows]
    ids = torch.tensor([f + r if side == "left" else r + f for r, f in zip(rows, fill, strict=True)])
    mask = torch.tensor(
        [
            [0] * len(f) + [1] * len(r) if side == "left" else [1] * len(r) + [0] * len(f)
            for r, f in zip(rows, fill, strict=True)
        ]
    )
    pixels = torch.randn(sum(images), 3, size, size, generator=draw) if sum(images) else None
    return ids, mask, pixels


@pytest.mark.parametrize("image_size", [16, 24, 40])
@pytest.mark.parametrize("images", [[1], [1, 1, 1], [0, 1, 2]])
@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_logits(image_size: int, images: list[int], side: str) -> None:
    theirs = reference(image_size)
    ours = VLM.from_transformers(theirs)
    ids, mask, pixels = batch((image_size // 8) ** 2, images, image_size, side)
    expected = theirs(input_ids=ids, attention_mask=mask, pixel_values=pixels).logits
    got = ours(pixels, ids, attention_mask=mask)
    real = mask.bool()
    close(got[real], expected[real])


@torch.no_grad()
def test_logits_without_mask_and_without_images() -> None:
    theirs = reference()
    ours = VLM.from_transformers(theirs)
    ids, _, pixels = batch(9, [1])
    close(ours(pixels, ids), theirs(input_ids=ids, pixel_values=pixels).logits)
    text = ids[:, -3:]
    close(ours(None, text), theirs(input_ids=text).logits)


@pytest.mark.parametrize("images", [[1], [0, 1, 2]])
@torch.no_grad()
def test_one_placeholder_stands_for_all(images: list[int]) -> None:
    """One id per image gives, row by row, what N ids give to transformers."""
    theirs = reference()
    ours = VLM.from_transformers(theirs)
    ids, mask, pixels = batch(9, images)
    expected = theirs(input_ids=ids, attention_mask=mask, pixel_values=pixels).logits
    short, short_mask, same_pixels = batch(1, images)
    assert same_pixels is not None
    assert pixels is not None
    assert torch.equal(pixels, same_pixels)
    got = ours(pixels, short, attention_mask=short_mask)
    assert got.shape == expected.shape
    close(got[mask.bool()], expected[mask.bool()])


@pytest.mark.parametrize("select", ["default", "full"])
@pytest.mark.parametrize("layer", [-2, -1, 1, [-3, -1]])
@torch.no_grad()
def test_feature_layers(select: str, layer: int | list[int]) -> None:
    theirs = reference(select=select, layer=layer)
    ours = VLM.from_transformers(theirs)
    ids, _, pixels = batch(9 + (select == "full"), [1, 1])
    assert pixels is not None
    close(ours.encode_images(pixels), torch.stack(list(theirs.get_image_features(pixels).pooler_output)))
    close(ours(pixels, ids[:, :14]), theirs(input_ids=ids[:, :14], pixel_values=pixels).logits)


@torch.no_grad()
def test_other_image_size() -> None:
    """Position embeddings are interpolated as transformers does it when asked."""
    theirs = reference(24)
    ours = VLM.from_transformers(theirs)
    pixels = torch.randn(2, 3, 40, 40, generator=torch.Generator().manual_seed(3))
    expected = theirs.get_image_features(pixels, interpolate_pos_encoding=True).pooler_output
    close(ours.encode_images(pixels), torch.stack(list(expected)))


@torch.no_grad()
def test_siglip_encoder_and_tied_words() -> None:
    theirs = reference(vision="siglip", select="full", tied=True)
    ours = VLM.from_transformers(theirs)
    assert ours.language.lm_head is None
    ids, mask, pixels = batch(9, [1, 1])
    expected = theirs(input_ids=ids, attention_mask=mask, pixel_values=pixels).logits
    close(ours(pixels, ids, attention_mask=mask)[mask.bool()], expected[mask.bool()])


@torch.no_grad()
def test_projector_without_bias() -> None:
    theirs = reference(multimodal_projector_bias=False)
    ours = VLM.from_transformers(theirs)
    ids, _, pixels = batch(9, [1])
    close(ours(pixels, ids), theirs(input_ids=ids, pixel_values=pixels).logits)


@pytest.mark.parametrize("side", ["left", "right"])
def test_loss_and_gradients(side: str) -> None:
    theirs = reference()
    ours = VLM.from_transformers(theirs)
    ids, mask, pixels = batch(9, [1, 0, 2], side=side)
    labels = ids.masked_fill((ids == IMAGE) | (mask == 0), -100)
    labels = labels.masked_fill(mask.cumsum(1) <= 1, -100)  # nothing real comes before a row's first token
    expected = theirs(input_ids=ids, attention_mask=mask, pixel_values=pixels, labels=labels)
    got = ours(pixels, ids, labels, mask)
    close(got.loss.detach(), expected.loss.detach())
    close(got.logits[mask.bool()].detach(), expected.logits[mask.bool()].detach())
    close(ours(pixels, ids, labels, mask, loss_only=True).loss.detach(), expected.loss.detach())
    expected.loss.backward()
    got.loss.backward()
    pairs = [
        (ours.projector[0].weight, theirs.model.multi_modal_projector.linear_1.weight),
        (ours.language.embed_tokens.weight, theirs.model.language_model.embed_tokens.weight),
        (ours.vision.pos_embed, theirs.model.vision_tower.embeddings.position_embedding.weight),
    ]
    for mine, other in pairs:
        difference = (mine.grad - other.grad).abs().max()
        assert difference <= 1e-5 * other.grad.abs().max()


@pytest.mark.parametrize("images", [[1], [1, 1], [0, 1, 2]])
@pytest.mark.parametrize("seed", [0, 1])
@torch.no_grad()
def test_generated_tokens(images: list[int], seed: int) -> None:
    theirs = reference(seed=seed)
    ours = VLM.from_transformers(theirs)
    ids, mask, pixels = batch(9, images, side="left")
    new = theirs.generate(
        input_ids=ids, attention_mask=mask, pixel_values=pixels, max_new_tokens=12, do_sample=False, pad_token_id=PAD
    )[:, ids.shape[1] :]
    assert len(set(new.flatten().tolist())) > 2  # the model does not just repeat itself
    right_ids, right_mask, _ = batch(9, images, side="right")
    short_ids, short_mask, _ = batch(1, images, side="right")
    for some_ids, some_mask in ((ids, mask), (right_ids, right_mask), (short_ids, short_mask)):
        got = ours.generate_ids(pixels, some_ids, some_mask, max_new_tokens=12, eos_ids=EOS, pad_id=PAD)
        assert torch.equal(got, new)


def test_what_is_not_supported_says_so() -> None:
    with pytest.raises(BadInput, match="'full'"):
        VLM.from_transformers(reference(vision="siglip"))
    with pytest.raises(BadInput, match="projector_hidden_act"):
        VLM.from_transformers(reference(projector_hidden_act="relu"))
    with pytest.raises(BadInput, match="LlavaForConditionalGeneration"):
        VLM.from_transformers(torch.nn.Linear(1, 1))
    scaled = reference()
    scaled.config.text_config.rope_parameters = {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}
    with pytest.raises(VlmlabError, match="rope"):
        VLM.from_transformers(scaled)
