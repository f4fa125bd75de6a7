"""Mamba against transformers' MambaForCausalLM: logits, losses' gradients and greedy tokens, on tiny random models."""

import pytest
import torch
from transformers import MambaConfig as TheirConfig
from transformers import MambaForCausalLM

from vlmlab.errors import BadInput
from vlmlab.language import Mamba, generate

SIZES = [
    {},
    {"state_size": 5, "conv_kernel": 3, "expand": 3, "time_step_rank": 4},
    {"tie_word_embeddings": False, "num_hidden_layers": 1},
]


def pair(**changes):
    torch.manual_seed(0)
    sizes = {"vocab_size": 61, "hidden_size": 24, "num_hidden_layers": 3, "state_size": 16, "pad_token_id": 0} | changes
    theirs = MambaForCausalLM(TheirConfig(**sizes)).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():  # what is initialised to constants gets values to tell apart
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return theirs, Mamba.from_transformers(theirs)


@pytest.mark.parametrize("changes", SIZES, ids=str)
@pytest.mark.parametrize(("batch", "length"), [(1, 1), (3, 7), (2, 33)])
def test_logits_and_gradients(changes, batch, length):
    theirs, ours = pair(**changes)
    ids = torch.randint(0, 61, (batch, length))
    wanted, found = theirs(ids).logits, ours(ids)
    assert (found - wanted).abs().max() <= 1e-5 * wanted.abs().max()
    for logits in (wanted, found):
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids.flatten()).backward()
    renamed = {name.removeprefix("backbone."): p.grad for name, p in theirs.named_parameters()}
    for name, parameter in ours.named_parameters():
        scale = renamed[name].abs().max().clamp(min=1e-3)
        assert (parameter.grad - renamed[name]).abs().max() <= 2e-5 * scale, name


@pytest.mark.parametrize("changes", SIZES, ids=str)
def test_greedy_tokens(changes):
    theirs, ours = pair(**changes)
    ids = torch.randint(1, 61, (2, 9))
    wanted = theirs.generate(ids, max_new_tokens=20, do_sample=False, eos_token_id=None, pad_token_id=0)[:, 9:]
    assert torch.equal(generate(ours, input_ids=ids, max_new_tokens=20), wanted)


def test_padding_is_invisible_where_upstream_lets_it_in():
    theirs, ours = pair()
    ids = torch.randint(1, 61, (1, 6))
    alone = ours(ids)
    for left, right in ((3, 0), (0, 4), (2, 2)):
        padded = torch.nn.functional.pad(ids, (left, right), value=7)
        mask = torch.nn.functional.pad(torch.ones_like(ids), (left, right))
        found = ours(padded, attention_mask=mask)[:, left : left + 6]
        assert (found - alone).abs().max() <= 1e-5 * alone.abs().max()
    mask = torch.tensor([[1, 1, 1, 0, 0, 0, 0, 1, 1, 1]])  # a gap, as before a second turn of a shorter row
    padded = torch.full_like(mask, 7).masked_scatter(mask.bool(), ids)
    found, upstream = ours(padded, attention_mask=mask), theirs(padded, attention_mask=mask).logits
    assert (found[mask.bool()] - alone[0]).abs().max() <= 1e-5 * alone.abs().max()
    assert (upstream[mask.bool()] - alone[0]).abs().max() > 1e-3 * alone.abs().max()  # or the name has lost its point


@pytest.mark.parametrize("change", [{"use_bias": True}, {"use_conv_bias": False}, {"hidden_act": "gelu"}])
def test_what_is_not_computed_is_refused(change):
    with pytest.raises(BadInput, match="published form"):
        pair(**change)
