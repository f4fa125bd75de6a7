"""Llama against transformers' LlamaForCausalLM: logits, generated tokens, and the identities of its cache."""

import copy

import pytest
import torch
import transformers

from vlmlab.errors import BadInput, UnknownName
from vlmlab.language import Llama, LlamaConfig, generate

BASE = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 96,
    "tie_word_embeddings": False,
    "initializer_range": 0.2,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "attn_implementation": "eager",
}
CONFIGS = {
    "gqa": {},
    "mha": {"num_key_value_heads": 4},
    "mqa": {"num_key_value_heads": 1},
    "tied": {"tie_word_embeddings": True},
    "head_dim": {"head_dim": 20},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "theta_eps": {"rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}, "rms_norm_eps": 1e-3},
}
L = 13
MASKS = {
    "none": None,
    "ones": [[1] * L] * 3,
    "right": [[1] * L, [1] * 8 + [0] * 5, [1] + [0] * 12],
    "left": [[1] * L, [0] * 5 + [1] * 8, [0] * 12 + [1]],
    "mixed": [[1] * L, [0] * 5 + [1] * 8, [1] * 9 + [0] * 4],
}


def build(**changes):
    """A random transformers Llama, biases and norms random as well, and ours with the same weights."""
    torch.manual_seed(0)
    theirs = transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**BASE, **changes})).eval()
    with torch.no_grad():
        for name, weight in theirs.named_parameters():
            if name.endswith("bias") or weight.dim() == 1:
                weight.add_(torch.randn_like(weight) * 0.2)
    return theirs, Llama.from_transformers(theirs)


def close(ours, theirs, tolerance=1e-5):
    assert ours.shape == theirs.shape
    ours, theirs = ours.detach(), theirs.detach()
    error = float((ours - theirs).abs().max() / theirs.abs().max())
    assert error <= tolerance, f"off by {error:.1e} of the reference's magnitude"


@pytest.fixture(scope="module")
def pair():
    return build()


@pytest.fixture
def ids():
    return torch.randint(3, 97, (3, L), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("name", CONFIGS)
def test_logits_match_transformers(name, mask, ids):
    theirs, ours = build(**CONFIGS[name])
    mask = None if MASKS[mask] is None else torch.tensor(MASKS[mask])
    with torch.no_grad():
        expected, got = theirs(ids, attention_mask=mask).logits, ours(ids, attention_mask=mask)
    real = torch.ones_like(ids).bool() if mask is None else mask.bool()
    close(got[real], expected[real])
    assert got.isfinite().all()


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_positions_embeddings_and_hidden_states_match(pair, batch):
    theirs, ours = pair
    generator = torch.Generator().manual_seed(batch)
    ids = torch.randint(3, 97, (batch, 9), generator=generator)
    positions = torch.randint(0, 80, (batch, 9), generator=generator).sort(1).values
    record = dict.fromkeys(ours.names())
    with torch.no_grad():
        out = theirs(ids, position_ids=positions, output_hidden_states=True, output_attentions=True)
        embeds = ours.embed(ids)
        hidden = ours.hidden(inputs_embeds=embeds, position_ids=positions, record=record)
    close(ours.head(hidden), out.logits)
    close(record["embed"], out.hidden_states[0])
    close(record["layers.0"], out.hidden_states[1])
    close(record["layers.1"], out.hidden_states[2])
    close(record["norm"], out.hidden_states[3])
    for layer, weights in enumerate(out.attentions):
        close(record[f"layers.{layer}.attn"], weights)
    close(record["layers.0.attn_out"] + record["layers.0.mlp_out"] + record["embed"], out.hidden_states[1])


def test_gradients_match_transformers(pair, ids):
    theirs, ours = (copy.deepcopy(model) for model in pair)
    mask = torch.tensor(MASKS["mixed"])
    for model in (theirs, ours):
        out = model(ids, attention_mask=mask)
        logits = out if isinstance(out, torch.Tensor) else out.logits
        logits[mask.bool()].log_softmax(-1)[:, 7].sum().backward()
    expected = {name.removeprefix("model."): weight.grad for name, weight in theirs.named_parameters()}
    for name, weight in ours.named_parameters():
        close(weight.grad, expected[name], 1e-4)  # gradients sum many rounded terms


@pytest.mark.parametrize("side", ["left", "right", "mixed", "ones", "none"])
@pytest.mark.parametrize("name", CONFIGS)
def test_greedy_tokens_equal_transformers(name, side, ids):
    theirs, ours = build(**CONFIGS[name])
    mask = torch.tensor(MASKS["ones" if side == "none" else side])
    rows = [row[keep.bool()] for row, keep in zip(ids, mask, strict=True)]
    padded = torch.stack([torch.cat((torch.zeros(L - len(row), dtype=torch.long), row)) for row in rows])
    left = torch.stack([torch.arange(L) >= L - len(row) for row in rows]).long()
    expected = theirs.generate(padded, attention_mask=left, max_new_tokens=24, do_sample=False)[:, L:]
    given = None if side == "none" else mask
    got = generate(ours, input_ids=ids, attention_mask=given, max_new_tokens=24, eos_ids=2, pad_id=0)
    assert got.tolist() == expected.tolist()
    by_embeds = generate(
        ours, inputs_embeds=ours.embed(ids), attention_mask=given, max_new_tokens=24, eos_ids=2, pad_id=0
    )
    assert by_embeds.tolist() == expected.tolist()


@pytest.mark.parametrize("side", ["none", "left", "right", "mixed"])
def test_cached_equals_uncached_greedy(pair, side, ids):
    _, ours = pair
    mask = torch.ones(3, L, dtype=torch.long) if side == "none" else torch.tensor(MASKS[side])
    got = generate(ours, input_ids=ids, attention_mask=mask, max_new_tokens=20)
    for row in range(3):
        text = ids[row][mask[row].bool()]
        for step in range(20):
            with torch.no_grad():
                token = ours(text[None])[0, -1].argmax()
            assert int(token) == int(got[row, step])
            text = torch.cat((text, token[None]))


@pytest.mark.parametrize("side", ["none", "left", "right", "mixed"])
def test_cache_in_pieces_equals_one_pass(pair, side, ids):
    """Prefill, a chunk, single tokens: with the mask given at every call, or only while the cache learns it."""
    _, ours = pair
    mask = torch.ones(3, L, dtype=torch.long) if side == "none" else torch.tensor(MASKS[side])
    more = torch.randint(3, 97, (3, 8), generator=torch.Generator().manual_seed(2))
    whole, full = torch.cat((ids, more), 1), torch.cat((mask, torch.ones(3, 8, dtype=torch.long)), 1)
    for remind in (False, True):
        cache, start, pieces = ours.new_cache(), 0, []
        for end in (7, L, L + 1, L + 2, L + 8):
            given = full[:, :end] if remind or end <= L else None
            with torch.no_grad():
                pieces.append(ours(whole[:, start:end], attention_mask=given, cache=cache))
            start = end
        assert cache.length == L + 8
        with torch.no_grad():
            expected = ours(whole, attention_mask=full)
        close(torch.cat(pieces, 1)[full.bool()], expected[full.bool()])


def test_padding_does_not_change_a_row(pair, ids):
    _, ours = pair
    with torch.no_grad():
        alone = ours(ids[:1, :6])
        for mask, part in (([0] * 7 + [1] * 6, slice(7, None)), ([1] * 6 + [0] * 7, slice(0, 6))):
            padded = torch.full((1, L), 5)
            padded[:, part] = ids[:1, :6]
            close(ours(padded, attention_mask=torch.tensor([mask]))[:, part], alone)


def test_packed_questions_see_only_their_own(pair):
    """One prefix, three questions in one row, by mask (B, L, T) and position_ids; with and without a cache."""
    _, ours = pair
    generator = torch.Generator().manual_seed(3)
    prefix, questions = (
        torch.randint(3, 97, (1, 6), generator=generator),
        torch.randint(3, 97, (3, 4), generator=generator),
    )
    with torch.no_grad():
        apart = ours(torch.cat((prefix.expand(3, -1), questions), 1))[:, 6:]
        row = torch.cat((prefix, questions.reshape(1, 12)), 1)
        owner = torch.tensor([-1] * 6 + [0] * 4 + [1] * 4 + [2] * 4)
        sees = ((owner[:, None] == owner) | (owner == -1))[None]  # (1, 18, 18); causality is added by the model
        positions = torch.tensor([[*range(6), *(list(range(6, 10)) * 3)]])
        packed = ours(row, attention_mask=sees, position_ids=positions)[:, 6:]
        close(packed.reshape(3, 4, -1), apart)
        cache = ours.new_cache()
        ours.hidden(prefix, cache=cache)
        cached = ours(row[:, 6:], attention_mask=sees[:, 6:], position_ids=positions[:, 6:], cache=cache)
        close(cached.reshape(3, 4, -1), apart)
        close(ours(row, segments=owner[None] + 1)[:, 6:].reshape(3, 4, -1), apart)


def test_segments_of_any_length_and_padding(pair):
    _, ours = pair
    ids = torch.randint(3, 97, (3, 12), generator=torch.Generator().manual_seed(5))
    segments = torch.tensor([[0] * 4 + [1] * 3 + [2] * 1 + [3] * 4, [0] * 2 + [1] * 5 + [2] * 3 + [-1] * 2, [0] * 12])
    with torch.no_grad():
        found = ours(ids, segments=segments)
        assert bool(found.isfinite().all())
        for row in range(3):
            start = int((segments[row] == 0).sum())
            close(found[row, :start], ours(ids[row : row + 1, :start])[0])
            for k in range(1, int(segments[row].max()) + 1):
                mine = segments[row] == k
                alone = ours(torch.cat([ids[row, :start], ids[row][mine]])[None])[0, start:]
                close(found[row][mine], alone)
    with pytest.raises(BadInput, match="who sees whom"):
        ours(ids, segments=segments, attention_mask=torch.ones(3, 12))
    with pytest.raises(BadInput, match="must rise"):
        ours(ids, segments=segments.flip(1))
    with pytest.raises(BadInput, match=r"segments is \(3, 11\)"):
        ours(ids, segments=segments[:, 1:])


def test_a_prefix_is_shared_by_repeat_and_select(pair):
    _, ours = pair
    generator = torch.Generator().manual_seed(4)
    prefix, options = (
        torch.randint(3, 97, (2, 5), generator=generator),
        torch.randint(3, 97, (6, 3), generator=generator),
    )
    mask = torch.tensor([[1] * 5, [0] * 2 + [1] * 3])
    with torch.no_grad():
        cache = ours.new_cache()
        ours.hidden(prefix, attention_mask=mask, cache=cache)
        expected = ours(
            torch.cat((prefix.repeat_interleave(3, 0), options), 1),
            attention_mask=torch.cat((mask.repeat_interleave(3, 0), torch.ones(6, 3, dtype=torch.long)), 1),
        )[:, 5:]
        close(ours(options, cache=cache.repeat(3)), expected)
        close(ours(options[[4, 0]], cache=cache.select([1, 0])), expected[[4, 0]])
        assert (cache.length, cache.batch) == (5, 2)  # the original is untouched
        longer = cache.repeat(3)
        ours.hidden(options, cache=longer)
        longer.crop(5)
        close(ours(options, cache=longer), expected)


def test_cache_counts_its_bytes_and_grows(pair, ids):
    _, ours = pair
    config = ours.config
    cache = ours.new_cache()
    assert (cache.length, cache.bytes(), cache.batch) == (0, 0, None)
    with torch.no_grad():
        ours.hidden(ids, cache=cache)
    assert cache.bytes() == 2 * config.layers * 3 * config.kv_heads * L * config.width * 4
    keys, values = cache.layer(1)
    assert keys.shape == values.shape == (3, config.kv_heads, L, config.width)


def test_cache_carries_gradients(pair, ids):
    _, ours = pair
    embeds = ours.embed(ids).detach()
    grads = []
    for split in (None, 6):
        x = embeds.clone().requires_grad_()
        if split is None:
            last = ours(inputs_embeds=x)[:, -1]
        else:
            cache = ours.new_cache()
            ours.hidden(inputs_embeds=x[:, :split], cache=cache)
            last = ours(inputs_embeds=x[:, split:], cache=cache)[:, -1]
        last[:, 5].sum().backward()
        grads.append(x.grad)
    close(grads[1], grads[0], 1e-4)


def test_inference_mode_leaves_nothing_behind_that_training_cannot_use(ids):
    """The rotary table and the cache may be made in inference_mode; autograd must be able to use them later."""
    torch.manual_seed(0)
    model = Llama(LlamaConfig(97, 24, 2, 4, 2, 32))
    tokens = generate(model, input_ids=ids, max_new_tokens=3)
    cache = model.new_cache()
    with torch.inference_mode():
        model.hidden(ids, cache=cache)
        picked = cache.select([0, 1, 2])
        picked.crop(5)
    model(tokens).sum().backward()
    with torch.no_grad():
        model.hidden(ids[:, :2], cache=picked)
    model(ids[:, :2], cache=cache).sum().backward()


def test_lower_precision_is_as_precise_as_transformers(ids):
    """bfloat16 against the same weights computed in float32: our rounding error is no larger than theirs."""
    theirs = build()[0].to(torch.bfloat16)
    ours = Llama.from_transformers(theirs)
    with torch.no_grad():
        got, expected = ours(ids), theirs(ids).logits
        truth = theirs.float()(ids).logits
    assert got.dtype == torch.bfloat16
    assert (got - truth).square().mean() <= 1.2 * (expected - truth).square().mean()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        cache = (model := build()[1]).new_cache()
        model.hidden(ids, cache=cache)
        assert cache.layer(0)[0].dtype == cache.layer(0)[1].dtype == torch.bfloat16
        model(ids[:, :1], cache=cache)


def test_recorded_attention_is_a_distribution_and_differentiable(pair, ids):
    _, ours = pair
    record = {"layers.2.attn": None, "layers.0": None}
    logits = ours(ids, attention_mask=torch.tensor(MASKS["left"]), record=record)
    weights = record["layers.2.attn"]
    assert weights.shape == (3, 4, L, L)
    assert torch.allclose(weights.sum(-1), torch.ones(3, 4, L))
    assert weights.triu(1).abs().max() == 0
    assert weights[1, :, 5:, :5].abs().max() == 0  # no real token sees padding
    grad_weights, grad_stream = torch.autograd.grad(logits[0, -1, 3], [weights, record["layers.0"]])
    assert grad_weights.abs().sum() > 0
    assert grad_stream.abs().sum() > 0
    close(logits, ours(ids, attention_mask=torch.tensor(MASKS["left"])))
    with pytest.raises(UnknownName, match=r"layers\.2\.attn"):
        ours(ids, record={"layers.2.atn": None})


def test_bare_model_with_its_head_beside_it(pair, ids):
    theirs, ours = pair
    inside = Llama.from_transformers(theirs.model, head=theirs.lm_head)
    with torch.no_grad():
        assert torch.equal(inside(ids), ours(ids))
    assert Llama.from_transformers(theirs.model).lm_head is None


def test_copies_are_independent(ids):
    theirs, ours = build(tie_word_embeddings=True)
    before = ours(ids)
    with torch.no_grad():
        for weight in theirs.parameters():
            weight.zero_()
    assert torch.equal(ours(ids), before)
    assert all(weight.requires_grad for weight in ours.parameters())
    assert "lm_head.weight" not in ours.state_dict()


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0},
        {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0},
        {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
            "rope_theta": 10000.0,
        },
    ],
)
def test_rope_scaling_is_refused(rope):
    theirs = transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**BASE, "rope_parameters": rope}))
    with pytest.raises(BadInput, match=f"rope scaling '{rope['rope_type']}'.*not supported"):
        Llama.from_transformers(theirs)


def test_other_models_are_refused():
    small = {"vocab_size": 10, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    mistral = transformers.MistralForCausalLM(
        transformers.MistralConfig(**small, num_attention_heads=2, num_key_value_heads=1)
    )
    with pytest.raises(BadInput, match="mistral"):
        Llama.from_transformers(mistral)
    with pytest.raises(BadInput, match="gelu"):
        LlamaConfig.from_transformers(transformers.LlamaConfig(**{**BASE, "hidden_act": "gelu"}))


def test_bad_input_says_what_is_wrong(pair, ids):
    _, ours = pair
    with pytest.raises(BadInput, match="either input_ids or inputs_embeds"):
        ours()
    with pytest.raises(BadInput, match=r"attention_mask is \(3, 12\)"):
        ours(ids, attention_mask=torch.ones(3, 12))
    with pytest.raises(BadInput, match="97 tokens, but the model has 96 positions"):
        ours(torch.ones(1, 97, dtype=torch.long))
    with pytest.raises(BadInput, match="positions 0 to 96"):
        ours(ids[:1, :2], position_ids=torch.tensor([[0, 96]]))
    with pytest.raises(BadInput, match=r"position_ids is \(3, 2\)"):
        ours(ids, position_ids=torch.zeros(3, 2, dtype=torch.long))
    with pytest.raises(BadInput, match="ids from -200 to 5; the vocabulary is 0 to 96"):
        ours(torch.tensor([[5, -200]]))
    cache = ours.new_cache()
    with pytest.raises(BadInput, match="empty"):
        cache.layer(0)
    with torch.no_grad():
        ours.hidden(ids, cache=cache)
    with pytest.raises(BadInput, match="holds 3 rows and the input 1"):
        ours(ids[:1], cache=cache)
    with pytest.raises(BadInput, match="not a multiple of kv_heads"):
        LlamaConfig(10, 8, 1, 4, 3, 8)


def test_padding_beyond_the_limit_is_not_counted(pair):
    """A left-padded row may be wider than the model's positions as long as its tokens are not."""
    _, ours = pair
    ids = torch.randint(3, 97, (1, 110), generator=torch.Generator().manual_seed(5))
    mask = (torch.arange(110) >= 60).long()[None]
    with torch.no_grad():
        close(ours(ids, attention_mask=mask)[:, 60:], ours(ids[:, 60:]))
    ids, mask = torch.cat((ids[:, :1], ids), 1), torch.cat((torch.zeros(1, 1), torch.ones(1, 110)), 1)
    with pytest.raises(BadInput, match="positions 0 to 109, but the model has 0 to 95"):
        ours(ids, attention_mask=mask)


def test_initial_weights_follow_the_seed():
    config = LlamaConfig(50, 16, 2, 4, 2, 24)
    one, two, other = (Llama(config, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not torch.equal(one.embed_tokens.weight, other.embed_tokens.weight)


def test_meta_device_builds_the_7b_without_memory():
    with torch.device("meta"):
        model = Llama(LlamaConfig(32000, 4096, 32, 32, 32, 11008, tie_embeddings=False))
    assert sum(weight.numel() for weight in model.parameters()) == 6_738_415_616
    assert model(torch.ones(1, 4, dtype=torch.long, device="meta")).shape == (1, 4, 32000)
