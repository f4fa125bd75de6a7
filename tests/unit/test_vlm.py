"""The VLM: presets, forward, freezing, generation, scoring, batches of answers, and bad input."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vlmlab.errors import BadImage, BadInput, UnknownName
from vlmlab.language.llama import LlamaConfig
from vlmlab.language.tokenizer import Tokenizer
from vlmlab.vision.vit import ViTConfig
from vlmlab.vlm import PRESETS, VLM, LlavaOutput, VLMConfig, get_preset
from vlmlab.vlm.answering import _trim, _until

TOKENIZER = Tokenizer.train(["USER: Is the cat left of the sofa? ASSISTANT: Yes, no, the left one. ###"] * 9, 400)
CONFIG = VLMConfig(
    name="test",
    image_size=24,
    vision=ViTConfig("clip", image_size=24, patch_size=8, dim=32, layers=2, heads=4, hidden=48),
    projector="mlp2x_gelu",
    language=LlamaConfig(vocab_size=400, dim=32, layers=2, heads=4, kv_heads=2, hidden=48, max_positions=96),
    template="v1",
    image_id=3,
    system="",
    max_length=96,
)
N = 9
RANDOM = np.random.default_rng(0)
PICTURE = RANDOM.integers(0, 256, (30, 40, 3), dtype=np.uint8)
OTHER = RANDOM.integers(0, 256, (24, 24, 3), dtype=np.uint8)


def build(config: VLMConfig = CONFIG, seed: int = 0) -> VLM:
    """Random weights, spread out so that answers vary."""
    vlm = VLM.from_preset(config, device="cpu", tokenizer=TOKENIZER, seed=seed)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in vlm.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=draw))
    return vlm.eval()


@pytest.fixture(scope="module")
def vlm() -> VLM:
    return build()


def ids_and_labels(vlm: VLM, question: str = "Is the cat left?") -> tuple[torch.Tensor, torch.Tensor]:
    turns = [{"from": "human", "value": f"<image>\n{question}"}, {"from": "gpt", "value": "Yes"}]
    ids, labels = vlm.template.encode(turns, TOKENIZER)
    return torch.tensor([ids]), torch.tensor([labels])


# ---------------------------------------------------------------- presets
@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_json(name: str) -> None:
    config = get_preset(name)
    assert VLMConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    several = replace(config, feature_layer=(-2, -1))
    assert VLMConfig.from_dict(json.loads(json.dumps(several.to_dict()))) == several


@pytest.mark.parametrize("name", PRESETS)
def test_presets_build_on_meta(name: str) -> None:
    vlm = VLM.from_preset(name, device="meta")
    assert all(parameter.is_meta for parameter in vlm.parameters())
    size, placeholders = vlm.config.image_size, vlm.config.image_tokens
    ids = torch.zeros(1, placeholders + 4, dtype=torch.long, device="meta")
    assert vlm.project(vlm.vision_features(torch.zeros(1, 3, size, size, device="meta"))).shape == (
        1,
        placeholders,
        vlm.config.language.dim,
    )
    assert vlm.language(ids).shape == (1, placeholders + 4, vlm.config.language.vocab_size)


def test_same_seed_same_weights_and_global_generator_untouched() -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first, second, other = (VLM.from_preset("llava-tiny", device="cpu", seed=seed) for seed in (1, 1, 2))
    assert torch.equal(before, torch.random.get_rng_state())
    pairs = list(zip(first.state_dict().items(), second.state_dict().values(), strict=True))
    assert all(torch.equal(a, b) for (_, a), b in pairs)
    assert not torch.equal(first.projector[0].weight, other.projector[0].weight)
    assert isinstance(first.generate(None, "Hello?", max_new_tokens=3), str)


def test_bad_configs() -> None:
    with pytest.raises(UnknownName, match="did you mean 'llava-tiny'"):
        VLM.from_preset("llava-tinny")
    with pytest.raises(UnknownName, match="projector"):
        replace(CONFIG, projector="mlp3x")
    with pytest.raises(BadInput, match="feature_layer=7"):
        replace(CONFIG, feature_layer=7)
    values = CONFIG.to_dict()
    with pytest.raises(UnknownName, match="kind of vision"):
        VLMConfig.from_dict({**values, "vision": {**values["vision"], "kind": "resnet"}})
    for broken in ({}, {**values, "surprise": 1}, {**values, "language": {"kind": "llama"}}):
        with pytest.raises(BadInput, match="not the configuration of a VLM"):
            VLMConfig.from_dict(broken)
    with pytest.raises(BadInput, match=r"<image> is id 3, config\.image_id is 9"):
        VLM.from_preset(replace(CONFIG, image_id=9), device="cpu", tokenizer=TOKENIZER)


# ---------------------------------------------------------------- forward
def test_logits_loss_and_shortcuts_agree(vlm: VLM) -> None:
    ids, labels = ids_and_labels(vlm)
    pixels = vlm.preprocess(PICTURE)[None]
    logits = vlm(pixels, ids)
    assert logits.shape == (1, ids.shape[1] + N - 1, 400)
    out = vlm(pixels, ids, labels)
    assert isinstance(out, LlavaOutput)
    assert torch.equal(out.logits, logits)
    assert out.labels.shape == logits.shape[:2]
    assert (out.labels != -100).sum() == (labels != -100).sum()
    expected = F.cross_entropy(logits[0, :-1], out.labels[0, 1:], ignore_index=-100)
    assert torch.allclose(out.loss, expected)
    short = vlm(pixels, ids, labels, loss_only=True)
    assert short.logits is None
    assert torch.allclose(short.loss, expected)
    features = vlm.vision_features(pixels)
    assert features.shape == (1, N, 32)
    assert vlm.encode_images(pixels).shape == (1, N, 32)
    assert torch.equal(vlm(None, ids, image_features=features), logits)


def test_packed_questions_share_an_image(vlm: VLM) -> None:
    """Two questions after one image, each blind to the other, give the logits of each alone."""
    pixels = vlm.preprocess(PICTURE)[None]
    head, first, second = [1, *[3] * N], [20, 21, 22], [30, 31]
    ids = torch.tensor([head + first + second])
    start = len(head)
    segments = torch.tensor([[0] * start + [1] * len(first) + [2] * len(second)])
    packed = vlm(pixels, ids, segments=segments)
    alone = [vlm(pixels, torch.tensor([head + part])) for part in (first, second)]
    expected = torch.cat([alone[0], alone[1][:, start:]], dim=1)
    assert (packed - expected).abs().max() <= 1e-5 * expected.abs().max()
    with pytest.raises(BadInput, match="segments need rows that keep their length"):
        vlm(pixels, torch.tensor([[1, 3, 20]]), segments=torch.tensor([[0, 0, 1]]))


def test_truncates_in_training_and_refuses_elsewhere(vlm: VLM) -> None:
    ids = torch.tensor([[1, 3, *range(20, 120)]])
    pixels = vlm.preprocess(PICTURE)[None]
    out = vlm(pixels, ids, ids)
    assert out.logits.shape[1] == 96
    with pytest.raises(BadInput, match="a row has 110 tokens with its images, but test takes at most 96"):
        vlm(pixels, ids)


def test_forward_refuses(vlm: VLM) -> None:
    ids, labels = ids_and_labels(vlm)
    pixels = vlm.preprocess(PICTURE)[None]
    with pytest.raises(BadInput, match="no label carries loss"):
        vlm(pixels, ids, torch.full_like(labels, -100))
    with pytest.raises(BadInput, match="not both"):
        vlm(pixels, ids, image_features=vlm.vision_features(pixels))
    with pytest.raises(BadInput, match="no image was given"):
        vlm(None, ids)
    with pytest.raises(BadInput, match="2 were given"):
        vlm(torch.cat([pixels, pixels]), ids)
    with pytest.raises(BadInput, match="loss_only needs labels"):
        vlm(pixels, ids, loss_only=True)


def test_freezing_and_counts() -> None:
    vlm = build()
    counts = vlm.count_parameters()
    assert counts["total"] == sum(p.numel() for p in vlm.parameters())
    vlm.freeze().unfreeze("projector")
    assert vlm.count_parameters(trainable=True) == {
        "vision": 0,
        "projector": counts["projector"],
        "language": 0,
        "total": counts["projector"],
    }
    ids, labels = ids_and_labels(vlm)
    vlm(vlm.preprocess(PICTURE)[None], ids, labels).loss.backward()
    assert vlm.projector[0].weight.grad is not None
    assert vlm.vision.pos_embed.grad is None
    assert vlm.language.embed_tokens.weight.grad is None
    with pytest.raises(UnknownName, match="did you mean 'language'"):
        vlm.freeze("langauge")


# ---------------------------------------------------------------- words out
def test_generate_equals_repeated_forward(vlm: VLM) -> None:
    """Cached greedy decoding gives the tokens of the whole forward pass repeated."""
    ids = torch.tensor([vlm.template.encode_prompt("Is the cat left?", TOKENIZER)])
    pixels = vlm.preprocess(PICTURE)[None]
    row = ids
    for _ in range(8):
        row = torch.cat([row, vlm(pixels, row)[:, -1:].argmax(-1)], dim=1)
    new = vlm.generate_ids(pixels, ids, max_new_tokens=8, eos_ids=[])
    assert torch.equal(new, row[:, ids.shape[1] :])
    expected = TOKENIZER.decode(new[0].tolist()).split("</s>")[0].strip()
    assert vlm.generate(PICTURE, "Is the cat left?", max_new_tokens=8) == expected


@pytest.mark.parametrize("template", ["v0", "v1", "plain", "llama-2", "chatml"])
@pytest.mark.parametrize("seed", [0, 1])
def test_stream_pieces_join_to_the_answer(template: str, seed: int) -> None:
    vlm = build(replace(CONFIG, template=template), seed)
    for image in (PICTURE, None):
        whole = vlm.generate(image, "Is it left?", max_new_tokens=24)
        pieces = vlm.generate(image, "Is it left?", max_new_tokens=24, stream=True)
        assert not isinstance(pieces, str)
        assert "".join(pieces) == whole == whole.strip()
        assert "".join(vlm.stream(image, "Is it left?", max_new_tokens=24)) == whole
        assert vlm.answer_many([image], ["Is it left?"], max_new_tokens=24) == [whole]
        stop = vlm.template.stop_text
        assert stop is None or stop not in whole


def test_answer_many_equals_one_at_a_time(vlm: VLM) -> None:
    images = [PICTURE, None, OTHER, PICTURE, PICTURE]
    prompts = ["Is it left?", "Hello", "What is the cat on the sofa?", "Yes?", "Is the cat left of the sofa?"]
    seen: list[int] = []
    answers = vlm.answer_many(images, prompts, max_new_tokens=10, batch_size=2, on_batch=seen.append)
    assert answers == [vlm.generate(i, p, max_new_tokens=10) for i, p in zip(images, prompts, strict=True)]
    assert seen == [2, 4, 5]
    assert len(set(answers)) > 2
    assert vlm.answer_many([], []) == []
    with pytest.raises(BadInput, match="1 images for 2 prompts"):
        vlm.answer_many([None], ["a", "b"])


def test_sampling_follows_its_generator(vlm: VLM) -> None:
    def sample(seed: int) -> str:
        draw = torch.Generator().manual_seed(seed)
        return vlm.generate(PICTURE, "Is it left?", 12, temperature=1.5, generator=draw)

    assert sample(0) == sample(0)
    assert len({sample(seed) for seed in range(4)}) > 1


def test_every_form_of_an_image_gives_one_answer(vlm: VLM, tmp_path: Path) -> None:
    from PIL import Image

    path = tmp_path / "a.png"
    Image.fromarray(PICTURE).save(path)
    answers = {vlm.generate(i, "Is it left?", 6) for i in (PICTURE, Image.fromarray(PICTURE), path, str(path))}
    assert len(answers) == 1


def test_score_options_equals_forward(vlm: VLM) -> None:
    options = ["Yes", "no", "the left one", "the sofa, not the cat"]
    for image in (PICTURE, None):
        scores = vlm.score_options(image, "Is the cat left?", options)
        assert list(scores) == options
        for option in options:
            prompt, answer = vlm.template.encode_answer("Is the cat left?", option, TOKENIZER, image=image is not None)
            ids = torch.tensor([prompt + answer])
            with torch.no_grad():
                pixels = None if image is None else vlm.preprocess(image)[None]
                logp = vlm(pixels, ids)[0].log_softmax(-1)[-len(answer) - 1 : -1]
            expected = float(logp.gather(1, torch.tensor(answer)[:, None]).sum())
            assert scores[option] == pytest.approx(expected, rel=1e-5)
    assert vlm.score_options(PICTURE, "Is the cat left?", ["Yes"])["Yes"] == pytest.approx(
        vlm.score_options(PICTURE, "Is the cat left?", options)["Yes"], rel=1e-5
    )


def test_bad_prompts_images_and_options(vlm: VLM, tmp_path: Path) -> None:
    for ask in (vlm.generate, lambda i, p: vlm.score_options(i, p, ["a"]), lambda i, p: vlm.answer_many([i], [p])):
        with pytest.raises(BadInput, match="prompt is empty"):
            ask(PICTURE, "  ")
        with pytest.raises(BadInput, match=r"too long: \d+ tokens with its image, and test takes fewer than 96"):
            ask(PICTURE, "cat " * 200)
        with pytest.raises(BadInput, match="must be a text"):
            ask(PICTURE, 7)
        with pytest.raises(BadImage, match="no such image"):
            ask(tmp_path / "none.png", "Is it?")
    with pytest.raises(BadInput, match="prompt is empty"):
        vlm.generate(PICTURE, "", stream=True)  # at the call, before the first piece
    for options in ([], "yes", ["yes", " "], ["yes", 3]):
        with pytest.raises(BadInput, match="option"):
            vlm.score_options(PICTURE, "Is it?", options)  # type: ignore[arg-type]
    mute = VLM(vlm.vision, vlm.projector, vlm.language, None, vlm.config)
    with pytest.raises(BadInput, match="has no tokenizer"):
        mute.generate(PICTURE, "Is it?")


def test_answers_never_pass_the_limit(vlm: VLM) -> None:
    length = len(vlm.template.encode_prompt("Is it left?", TOKENIZER)) + N - 1
    pieces = list(vlm.stream(PICTURE, "Is it left?", max_new_tokens=10_000))
    assert 1 < len(pieces) <= 96 - length  # a piece is one token or more


def test_turns_as_a_prompt(vlm: VLM) -> None:
    turns = [
        {"from": "human", "value": "<image>\nIs it left?"},
        {"from": "gpt", "value": "Yes"},
        {"from": "human", "value": "Is it the cat?"},
    ]
    assert isinstance(vlm.generate(PICTURE, turns, max_new_tokens=4), str)
    with pytest.raises(BadInput, match="no image was given"):
        vlm.generate(None, turns, max_new_tokens=4)


def test_text_ends() -> None:
    assert "".join(_until(["a#", "#b", "##", "#c", "d"], "###")) == "a##b"
    assert "".join(_until(["a##"], "###")) == "a##"
    assert "".join(_trim([" ", " a", " ", "b ", "\n"])) == "a b"
    assert list(_trim(["", "  "])) == []
