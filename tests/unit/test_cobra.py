"""A small Cobra as a whole: two encoders, a fused projector and a Mamba answer, score and train like a LLaVA."""

import numpy as np
import pytest
import torch

from vlmlab.errors import BadInput
from vlmlab.language import MambaConfig
from vlmlab.language.tokenizer import Tokenizer
from vlmlab.vision import FusedConfig, ViTConfig
from vlmlab.vlm import saving
from vlmlab.vlm.model import VLM
from vlmlab.vlm.presets import VLMConfig

RNG = np.random.default_rng(0)
PICTURES = [RNG.integers(0, 256, (24, 24, 3), dtype=np.uint8) for _ in range(2)]


@pytest.fixture(scope="module", params=["fused-gelu-mlp", "fused-ldpnet"])
def vlm(request) -> VLM:
    words = Tokenizer.train(["Is there a cat? yes no"], 300)
    config = VLMConfig(
        name="cobra-test",
        image_size=24,
        vision=FusedConfig(
            ViTConfig("dinov2", image_size=24, patch_size=6, dim=12, layers=2, heads=2, hidden=24, registers=2),
            ViTConfig("siglip", image_size=24, patch_size=6, dim=16, layers=2, heads=2, hidden=24, pool_head=False),
        ),
        projector=request.param,
        language=MambaConfig(vocab_size=300, dim=24, layers=2),
        template="cobra",
        image_id=words.image_id,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        max_length=200,
        pooled=2 if request.param == "fused-ldpnet" else None,
    )
    return VLM.from_preset(config, "cpu", words).eval()


def test_it_answers_streams_and_scores(vlm):
    text = vlm.generate(PICTURES[0], "Is there a cat?", max_new_tokens=5)
    assert "".join(vlm.generate(PICTURES[0], "Is there a cat?", max_new_tokens=5, stream=True)) == text
    scores = vlm.score_options(PICTURES[0], "Is there a cat?", ["yes", "no", "a cat"])
    ids, answer = vlm.template.encode_answer("Is there a cat?", "a cat", vlm.tokenizer)
    pixels = vlm.preprocess(PICTURES[0])[None]
    with torch.no_grad():
        logits = vlm(pixels, torch.tensor([ids + answer]))[0].log_softmax(-1)
    by_hand = sum(float(logits[-len(answer) - 1 + i, token]) for i, token in enumerate(answer))
    assert scores["a cat"] == pytest.approx(by_hand, rel=1e-4)
    together = vlm.answer_many(PICTURES, ["Is there a cat?", "yes no yes no?"], max_new_tokens=5)
    alone = [
        vlm.generate(p, q, max_new_tokens=5)
        for p, q in zip(PICTURES, ["Is there a cat?", "yes no yes no?"], strict=True)
    ]
    assert together == alone


def test_the_picture_comes_first_and_matters(vlm):
    ids = vlm.template.encode_prompt("Is there a cat?", vlm.tokenizer)
    assert ids[0] == vlm.image_id
    assert vlm.image_id not in ids[1:]
    scores = [vlm.score_options(p, "Is there a cat?", ["yes"])["yes"] for p in (*PICTURES, None)]
    assert len({round(score, 6) for score in scores}) == 3


def test_rows_with_and_without_a_picture_train_together(vlm):
    turns = [{"from": "human", "value": "<image>\nIs there a cat?"}, {"from": "gpt", "value": "yes"}]
    without = [{"from": "human", "value": "Is there?"}, {"from": "gpt", "value": "no"}]
    rows = [vlm.template.encode(t, vlm.tokenizer) for t in (turns, without)]
    width = max(len(row.ids) for row in rows)
    ids, labels, mask = (torch.full((2, width), fill) for fill in (vlm.tokenizer.pad_id, -100, 0))
    for i, row in enumerate(rows):
        ids[i, : len(row.ids)], labels[i, : len(row.ids)] = torch.tensor(row.ids), torch.tensor(row.labels)
        mask[i, : len(row.ids)] = 1
    out = vlm(vlm.preprocess(PICTURES[0])[None], ids, labels, mask)
    out.loss.backward()
    alone = vlm(None, torch.tensor([rows[1].ids]), torch.tensor([rows[1].labels])).loss
    one = vlm(vlm.preprocess(PICTURES[0])[None], torch.tensor([rows[0].ids]), torch.tensor([rows[0].labels])).loss
    counts = [sum(label != -100 for label in row.labels) for row in rows]
    wanted = (one * counts[0] + alone * counts[1]) / sum(counts)
    assert out.loss.item() == pytest.approx(wanted.item(), rel=1e-5)
    assert vlm.projector[0].weight.grad.abs().sum() > 0
    vlm.zero_grad()


def test_it_survives_the_disk(vlm, tmp_path):
    saving.save(vlm, tmp_path / "cobra.safetensors")
    again = saving.load(tmp_path / "cobra.safetensors", vlm.tokenizer, "cpu")
    assert again.config == vlm.config
    assert again.generate(PICTURES[1], "Is there?", max_new_tokens=4) == vlm.generate(
        PICTURES[1], "Is there?", max_new_tokens=4
    )


def test_packed_rows_need_attention(vlm):
    ids = torch.zeros(1, 4, dtype=torch.long)
    with pytest.raises(BadInput, match="hide only padding"):
        vlm(None, ids, None, torch.ones(1, 4, 4, dtype=torch.bool))
