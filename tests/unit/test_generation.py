"""Cached generation: ends, padding, sampling, streaming, and prompts that cannot be used."""

import itertools

import pytest
import torch
from torch import nn
from transformers import TopKLogitsWarper, TopPLogitsWarper

from vlmlab.errors import BadInput
from vlmlab.language import Llama, LlamaConfig, Tokenizer, filter_logits, generate, stream


@pytest.fixture(scope="module")
def model():
    model = Llama(LlamaConfig(60, 32, 2, 4, 2, 48, max_positions=40), torch.Generator().manual_seed(0))
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 2:
                weight.mul_(10)  # sharper than an untrained model: rows that differ, ties nowhere
    return model.eval()


@pytest.fixture
def ids():
    return torch.randint(0, 60, (4, 6), generator=torch.Generator().manual_seed(1))


class Counter(nn.Module):
    """A planted model without attention: after token t comes t + 1. It notes the masks it is given."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def embed(self, input_ids):
        return nn.functional.one_hot(input_ids, 20).float()

    def new_cache(self):
        return []

    def hidden(self, input_ids=None, *, inputs_embeds=None, attention_mask=None, cache=None):
        self.seen.append(None if attention_mask is None else attention_mask.int().tolist())
        return self.embed(input_ids) if inputs_embeds is None else inputs_embeds

    def head(self, hidden):
        return hidden.roll(1, -1)


def test_rows_finish_at_different_times_and_are_filled():
    model = Counter()
    prompt = torch.tensor([[3, 4], [7, 8], [0, 1]])
    out = generate(model, input_ids=prompt, max_new_tokens=9, eos_ids=[9, 6])
    assert out.tolist() == [[5, 6, 9, 9, 9], [9, 9, 9, 9, 9], [2, 3, 4, 5, 6]]
    out = generate(model, input_ids=prompt, max_new_tokens=9, eos_ids=9, pad_id=0)
    assert out.tolist() == [[5, 6, 7, 8, 9, 0, 0, 0], [9, 0, 0, 0, 0, 0, 0, 0], [2, 3, 4, 5, 6, 7, 8, 9]]
    assert generate(model, input_ids=prompt, max_new_tokens=3).tolist() == [[5, 6, 7], [9, 10, 11], [2, 3, 4]]
    by_embeds = generate(model, inputs_embeds=model.embed(prompt), max_new_tokens=9, eos_ids=9, pad_id=0)
    assert by_embeds.tolist() == out.tolist()


def test_any_padding_reaches_the_model_on_the_left_and_once():
    model = Counter()
    prompt = torch.tensor([[3, 4, -100, -100, -100], [-100, 5, 6, 7, -100]])
    mask = torch.tensor([[1, 1, 0, 0, 0], [0, 1, 1, 1, 0]])
    assert generate(model, input_ids=prompt, attention_mask=mask, max_new_tokens=2).tolist() == [[5, 6], [8, 9]]
    assert model.seen == [[[0, 1, 1], [1, 1, 1]], None]  # columns that are padding everywhere are gone


def test_a_batch_equals_its_rows(model, ids):
    mask = torch.tensor([[1] * 6, [1] * 4 + [0] * 2, [0] * 5 + [1], [0, 1, 1, 1, 0, 0]])
    together = generate(model, input_ids=ids, attention_mask=mask, max_new_tokens=12)
    for row in range(4):
        alone = generate(model, input_ids=ids[row][mask[row].bool()][None], max_new_tokens=12)
        assert alone[0].tolist() == together[row].tolist()
    assert len({tuple(row) for row in together.tolist()}) == 4  # the planted differences are real


@pytest.mark.parametrize(
    "sampling", [{"temperature": 1.0}, {"temperature": 0.7, "top_k": 5}, {"temperature": 2.0, "top_p": 0.8}]
)
def test_sampling_follows_its_generator(model, ids, sampling):
    def draw(seed):
        torch.manual_seed(seed + 100)  # the global generator must not matter
        generator = torch.Generator().manual_seed(seed)
        return generate(model, input_ids=ids, max_new_tokens=10, generator=generator, **sampling).tolist()

    assert draw(0) == draw(0)
    assert draw(0) != draw(1)


def test_sampling_draws_from_the_softmax():
    """4,000 draws of one token: each frequency within five standard deviations of its probability."""
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, -30.0])

    class Fixed(Counter):
        def head(self, hidden):
            return logits.expand(hidden.shape[0], -1)

    prompt = torch.zeros(4000, 1, dtype=torch.long)
    for temperature, top_k, top_p in ((1.0, 0, 1.0), (0.5, 0, 1.0), (1.0, 2, 1.0), (1.0, 0, 0.7)):
        got = generate(
            Fixed(),
            input_ids=prompt,
            max_new_tokens=1,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            generator=torch.Generator().manual_seed(0),
        )
        expected = (logits / temperature).softmax(-1)
        if top_k or top_p < 1:
            expected = torch.cat((expected[:2], torch.zeros(3)))  # both cuts keep the first two here
            expected = expected / expected.sum()
        counted = torch.bincount(got[:, 0], minlength=5) / 4000
        assert ((counted - expected).abs() <= 5 * (expected * (1 - expected) / 4000).sqrt()).all()


@pytest.mark.parametrize("temperature", [1e-3, 1e-30, 1e-44])
def test_a_very_cold_sample_is_greedy(model, ids, temperature):
    cold = generate(model, input_ids=ids, max_new_tokens=8, temperature=temperature)
    assert cold.tolist() == generate(model, input_ids=ids, max_new_tokens=8).tolist()


@pytest.mark.parametrize("top_k", [0, 1, 7, 100])
@pytest.mark.parametrize("top_p", [1.0, 0.9, 0.3, 1e-6])
def test_filters_keep_what_transformers_keeps(top_k, top_p):
    logits = torch.randn(16, 50, generator=torch.Generator().manual_seed(0)) * 3
    expected = logits
    if top_k:
        expected = TopKLogitsWarper(top_k)(None, expected)
    if top_p < 1:
        expected = TopPLogitsWarper(top_p)(None, expected)
    got = filter_logits(logits, top_k, top_p)
    assert torch.equal(got, expected)
    assert got.isfinite().any(-1).all()


def test_stream_equals_generate_and_can_be_left_early(model, ids):
    whole = generate(model, input_ids=ids, max_new_tokens=10)
    assert torch.stack(list(stream(model, input_ids=ids, max_new_tokens=10)), 1).tolist() == whole.tolist()
    steps = stream(model, input_ids=ids, max_new_tokens=10)
    assert torch.stack(list(itertools.islice(steps, 3)), 1).tolist() == whole[:, :3].tolist()
    assert not torch.is_inference_mode_enabled()
    steps.close()
    seen = []
    generate(model, input_ids=ids, max_new_tokens=10, on_token=seen.append)
    assert torch.stack(seen, 1).tolist() == whole.tolist()


def test_streamed_text_has_no_broken_characters(model):
    tokenizer = Tokenizer.train(["é🙂 is left of 猫"], 265)
    model = Llama(LlamaConfig(tokenizer.vocab_size, 16, 1, 2, 1, 16), torch.Generator().manual_seed(0))
    prompt = torch.tensor([tokenizer.encode("猫", bos=True)])
    asked = {"input_ids": prompt, "max_new_tokens": 60, "temperature": 1.0}
    ids = generate(model, **asked, generator=torch.Generator().manual_seed(0))[0]
    steps = stream(model, **asked, generator=torch.Generator().manual_seed(0))
    pieces = list(tokenizer.stream(int(step[0]) for step in steps))
    assert "".join(pieces) == tokenizer.decode(ids)
    assert len(pieces) > 1


def test_generation_stops_at_the_models_limit(model, ids):
    """40 positions: a prompt of 6 leaves room to feed 34 tokens, and the 35th need not be fed."""
    assert generate(model, input_ids=ids, max_new_tokens=100).shape == (4, 35)
    full = torch.zeros(1, 40, dtype=torch.long)
    assert generate(model, input_ids=full, max_new_tokens=100).shape == (1, 1)
    with pytest.raises(BadInput, match="the prompt has 41 tokens, but the model takes at most 40"):
        generate(model, input_ids=torch.zeros(1, 41, dtype=torch.long), max_new_tokens=1)
    padded = torch.nn.functional.pad(full, (8, 3))  # padding does not count
    mask = torch.nn.functional.pad(torch.ones(1, 40), (8, 3))
    assert generate(model, input_ids=padded, attention_mask=mask, max_new_tokens=100).shape == (1, 1)


def test_bad_prompts_are_refused_at_the_call(model, ids):
    with pytest.raises(BadInput, match="prompt is empty"):
        stream(model, input_ids=torch.zeros(1, 0, dtype=torch.long), max_new_tokens=1)
    with pytest.raises(BadInput, match="prompt is empty"):
        stream(model, inputs_embeds=torch.zeros(0, 3, 32), max_new_tokens=1)
    with pytest.raises(BadInput, match="prompt 2 of 4 is empty"):
        stream(model, input_ids=ids, attention_mask=torch.tensor([[1], [1], [0], [1]]).expand(4, 6), max_new_tokens=1)
    with pytest.raises(BadInput, match="holds id -200; the model knows 0 to 59"):
        stream(model, input_ids=torch.tensor([[3, -200]]), max_new_tokens=1)
    with pytest.raises(BadInput, match="holds id 60"):
        stream(model, input_ids=torch.tensor([[3, 60]]), max_new_tokens=1)
    with pytest.raises(BadInput, match=r"attention_mask is \(4, 5\)"):
        stream(model, input_ids=ids, attention_mask=torch.ones(4, 5), max_new_tokens=1)
    with pytest.raises(BadInput, match=r"shape \(6,\)"):
        stream(model, input_ids=ids[0], max_new_tokens=1)
    with pytest.raises(BadInput, match="either input_ids or inputs_embeds"):
        stream(model, max_new_tokens=1)


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_new_tokens": 0},
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"top_p": 0.0},
        {"top_p": 1.5},
        {"top_k": -1},
    ],
)
def test_bad_settings_are_refused(model, ids, wrong):
    with pytest.raises(BadInput, match=r"temperature >= 0|ask for at least 1"):
        generate(model, input_ids=ids, **{"max_new_tokens": 1, **wrong})
