"""Mamba's cache, padding, recording and gradients: a token at a time or all at once, the same. Notebook 08."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmlab.errors import BadInput, UnknownName
from vlmlab.language import Mamba, MambaConfig, generate
from vlmlab.scan import selective_scan

CONFIG = MambaConfig(vocab_size=50, dim=16, layers=2, state=4)


def model(seed: int = 0) -> Mamba:
    return Mamba(CONFIG, torch.Generator().manual_seed(seed)).double().eval()


IDS = torch.randint(0, 50, (3, 12), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("cuts", [[1] * 12, [5, 7], [1, 10, 1], [12]])
@pytest.mark.parametrize("gradients", [False, True])
def test_reading_in_pieces_is_reading_at_once(cuts, gradients):
    mamba, cache, parts = model(), None, []
    with torch.set_grad_enabled(gradients):
        whole = mamba.hidden(IDS)
        cache = mamba.new_cache()
        for piece in IDS.split(cuts, 1):
            parts.append(mamba.hidden(piece, cache=cache))
    assert len(cache) == 12
    assert torch.allclose(torch.cat(parts, 1), whole, rtol=1e-10, atol=1e-12)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.booleans(), min_size=12, max_size=12).filter(any))
def test_padding_anywhere_changes_nothing(real):
    mamba, mask = model(), torch.tensor([real])
    ids, cache = IDS[:1], mamba.new_cache()
    with torch.no_grad():
        alone = mamba.hidden(ids[mask][None])
        padded = mamba.hidden(ids, attention_mask=mask, cache=cache)
        assert torch.allclose(padded[mask], alone[0], rtol=1e-9, atol=1e-11)
        after = mamba.hidden(ids[:, :2], cache=cache)  # the cache holds what the real tokens left
        wanted = mamba.hidden(torch.cat([ids[mask][None], ids[:, :2]], 1))[:, -2:]
    assert torch.allclose(after, wanted, rtol=1e-9, atol=1e-11)


def test_one_prefix_many_continuations_and_gradients_through_the_cache():
    mamba, prefix, rest = model(), IDS[:1, :6], IDS[:, 6:]
    whole = mamba.hidden(torch.cat([prefix.expand(3, -1), rest], 1))[:, 6:]
    cache = mamba.new_cache()
    mamba.hidden(prefix, cache=cache)
    forked = mamba.hidden(rest, cache=cache.repeat(3))
    assert torch.allclose(forked, whole, rtol=1e-10, atol=1e-12)
    wanted = torch.autograd.grad(whole.square().sum(), list(mamba.parameters()))
    found = torch.autograd.grad(forked.square().sum(), list(mamba.parameters()))
    assert all(torch.allclose(a, b, rtol=1e-8, atol=1e-10) for a, b in zip(found, wanted, strict=True))


def test_segments_fork_from_the_prefix():
    mamba = model()
    segments = torch.tensor([[0] * 4 + [1] * 3 + [2] * 1 + [3] * 4, [0] * 2 + [1] * 5 + [2] * 3 + [-1] * 2, [0] * 12])
    found = mamba.hidden(IDS, segments=segments)
    for row, parts in zip(range(3), segments, strict=True):
        prefix = IDS[row][parts == 0]
        assert torch.allclose(found[row][parts == 0], mamba.hidden(prefix[None])[0], rtol=1e-10, atol=1e-12)
        for k in range(1, int(parts.max()) + 1):
            alone = mamba.hidden(torch.cat([prefix, IDS[row][parts == k]])[None])[0, len(prefix) :]
            assert torch.allclose(found[row][parts == k], alone, rtol=1e-10, atol=1e-12)
    wanted = torch.autograd.grad(
        sum(
            mamba.hidden(torch.cat([IDS[0, :4], IDS[0][segments[0] == k]])[None])[0, 4:].square().sum()
            for k in (1, 2, 3)
        ),
        list(mamba.parameters()),
    )
    loss = found[0][segments[0] > 0].square().sum()
    for a, b in zip(torch.autograd.grad(loss, list(mamba.parameters())), wanted, strict=True):
        assert torch.allclose(a, b, rtol=1e-8, atol=1e-10)
    with pytest.raises(BadInput, match="segments say who sees whom"):
        mamba.hidden(IDS, segments=segments, cache=mamba.new_cache())


def test_segments_without_any_prefix_stand_alone():
    mamba, segments = model(), torch.tensor([[1, 1, 2, 2, 2], [1, 1, 2, 2, -1]])
    found = mamba.hidden(IDS[:2, :5], segments=segments)
    for row, parts in enumerate(segments):
        for k in (1, 2):
            alone = mamba.hidden(IDS[row, :5][parts == k][None])[0]
            assert torch.allclose(found[row][parts == k], alone, rtol=1e-10, atol=1e-12)


def test_the_cache_does_not_grow():
    mamba, sizes = model(), set()
    cache = mamba.new_cache()
    with torch.no_grad():
        for length in (1, 5, 50):
            mamba.hidden(torch.zeros(2, length, dtype=torch.long), cache=cache)
            sizes.add(cache.bytes())
    assert sizes == {2 * 2 * 8 * (4 * 32 + 32 * 4)}  # rows x layers x bytes x (inputs + state)
    assert cache.select([1]).bytes() * 2 == cache.bytes()


def test_what_is_recorded_is_what_the_scan_works_with():
    mamba = model()
    record = dict.fromkeys(f"layers.1.{name}" for name in ("u", "delta", "B", "C", "z", "mixer"))
    mamba.hidden(IDS, record=record)
    mixer, of = mamba.layers[1].mixer, {name: record[f"layers.1.{name}"] for name in ("u", "delta", "B", "C", "z")}
    turned = {name: value.transpose(1, 2) for name, value in of.items()}
    y = selective_scan(turned["u"], turned["delta"], -mixer.A_log.exp(), turned["B"], turned["C"], mixer.D, turned["z"])
    assert torch.allclose(mixer.out_proj(y.transpose(1, 2)), record["layers.1.mixer"], rtol=1e-10)
    assert set(record) < set(mamba.names())
    with pytest.raises(UnknownName, match="intermediate"):
        mamba.hidden(IDS, record={"layers.1.deltas": None})


def test_batches_of_prompts_generate_what_each_does_alone():
    mamba = model()
    prompts = [IDS[0, :4], IDS[1, :9], IDS[2]]
    padded = torch.nn.utils.rnn.pad_sequence(prompts, batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(p) for p in prompts], batch_first=True)
    together = generate(mamba, input_ids=padded, attention_mask=mask, max_new_tokens=6)
    alone = [generate(mamba, input_ids=prompt[None], max_new_tokens=6)[0] for prompt in prompts]
    assert torch.equal(together, torch.stack(alone))


def test_a_small_mamba_learns_to_repeat():
    torch.manual_seed(0)
    mamba = Mamba(MambaConfig(vocab_size=12, dim=32, layers=2), torch.Generator().manual_seed(0))
    optimizer = torch.optim.AdamW(mamba.parameters(), 5e-3)
    for _ in range(60):
        half = torch.randint(0, 12, (16, 6))
        logits = mamba(torch.cat([half, half], 1))
        loss = torch.nn.functional.cross_entropy(logits[:, 5:-1].flatten(0, 1), half.flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss.item() < 2.3  # chance is log 12 = 2.48


def test_initial_weights():
    one, other = model(3), model(3)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    mixer = one.layers[0].mixer
    delta = torch.nn.functional.softplus(mixer.dt_proj.bias)
    assert delta.min() >= 1e-3 * 0.99
    assert delta.max() <= 1e-1 * 1.01
    assert torch.allclose(mixer.A_log.exp(), torch.arange(1, 5).double().expand(32, 4))


def test_bad_input():
    mamba = model()
    with pytest.raises(BadInput, match="vocabulary is 0 to 49"):
        mamba(torch.tensor([[50]]))
    with pytest.raises(BadInput, match="not both or neither"):
        mamba.hidden()
    with pytest.raises(BadInput, match="hide only padding"):
        mamba(IDS, attention_mask=torch.ones(3, 12, 12))
    cache = mamba.new_cache()
    mamba.hidden(IDS, cache=cache)
    with pytest.raises(BadInput, match="cache holds 3 rows"):
        mamba.hidden(IDS[:1], cache=cache)
    with pytest.raises(BadInput, match="at least 1"):
        MambaConfig(10, 8, 0)
