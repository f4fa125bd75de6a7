"""load_language against transformers' LlamaForCausalLM and MambaForCausalLM, in every layout that is published."""

import json

import pytest
import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM, MambaConfig, MambaForCausalLM
from upstream_layouts import shaken, write_config

from vlmlab.errors import BadCheckpoint
from vlmlab.language import Llama, Mamba, Tokenizer
from vlmlab.weights import load_language

WORDS = 64


def llama(**changes) -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {
        "vocab_size": WORDS, "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128,
        "rope_parameters": {"rope_type": "default", "rope_theta": 5e4}, "rms_norm_eps": 1e-5,
    }  # fmt: skip
    return shaken(LlamaForCausalLM(LlamaConfig(**(sizes | changes))))


def mamba(**changes) -> MambaForCausalLM:
    torch.manual_seed(0)
    sizes = {"vocab_size": WORDS, "hidden_size": 32, "num_hidden_layers": 3, "state_size": 8, "pad_token_id": 0}
    return shaken(MambaForCausalLM(MambaConfig(**(sizes | changes))))


@torch.no_grad()
def agree(ours, theirs) -> None:
    ids = torch.randint(0, WORDS, (2, 17), generator=torch.Generator().manual_seed(1))
    found, wanted = ours(ids), theirs(ids).logits
    assert (found - wanted).abs().max() <= 1e-5 * wanted.abs().max()


def state_spaces(model: MambaForCausalLM) -> dict:
    """The model's weights by the names that state-spaces gives them, the tied output layer too."""
    state = {name.replace("embeddings.", "embedding."): value for name, value in model.state_dict().items()}
    return state | {"lm_head.weight": model.lm_head.weight.detach()}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("make", [llama, mamba])
@pytest.mark.parametrize("form", ["one", "shards", "bin", "bin-shards"])
def test_transformers(tmp_path, make, form, tied):
    model = make(tie_word_embeddings=tied)
    if form in ("one", "shards"):
        model.save_pretrained(tmp_path, max_shard_size="30KB" if form == "shards" else "1GB")
        assert (tmp_path / "model.safetensors.index.json").exists() == (form == "shards")
    else:
        model.config.save_pretrained(tmp_path)
        state = model.state_dict()
        names = [*state]
        halves = {"a.bin": names[::2], "b.bin": names[1::2]} if form == "bin-shards" else {"pytorch_model.bin": names}
        for file, kept in halves.items():
            torch.save({name: state[name] for name in kept}, tmp_path / file)
        if form == "bin-shards":
            places = {name: file for file, kept in halves.items() for name in kept}
            (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": places}))
    ours, words = load_language(tmp_path, "cpu")
    assert isinstance(ours, Llama if make is llama else Mamba)
    assert not ours.training
    assert (ours.lm_head is None) == tied
    assert words is None
    agree(ours, model)


def test_a_config_that_leaves_out_what_it_has_by_default(tmp_path):
    """As Vicuna's and the first LLaMA's, which name neither key-value heads nor rotary positions."""
    model = llama(num_key_value_heads=4, rope_parameters={"rope_type": "default", "rope_theta": 1e4})
    kept = ("model_type", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    model.save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    write_config(tmp_path, {key: values[key] for key in kept} | {"rms_norm_eps": 1e-5, "rope_theta": 1e4})
    agree(load_language(tmp_path, "cpu")[0], model)


def test_computed_frequencies_in_a_file_are_left_alone(tmp_path):
    model = llama()
    model.config.save_pretrained(tmp_path)
    more = {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": torch.ones(6) for i in range(3)}
    torch.save(model.state_dict() | more, tmp_path / "pytorch_model.bin")
    agree(load_language(tmp_path, "cpu")[0], model)


@pytest.mark.parametrize("sizes", [{}, {"d_state": 8, "d_conv": 4, "expand": 2}])
def test_state_spaces(tmp_path, sizes):
    model = mamba()
    torch.save(state_spaces(model), tmp_path / "pytorch_model.bin")
    values = {"d_model": 32, "n_layer": 3, "vocab_size": WORDS - 3, "ssm_cfg": sizes, "rms_norm": True,
              "residual_in_fp32": True, "fused_add_norm": True, "pad_vocab_size_multiple": 8}  # fmt: skip
    write_config(tmp_path, values)
    ours, _ = load_language(tmp_path, "cpu")
    assert ours.config.vocab_size == WORDS
    agree(ours, model)


def test_an_output_layer_that_is_not_the_embeddings_is_told(tmp_path):
    model = mamba()
    state = state_spaces(model) | {"lm_head.weight": model.lm_head.weight.detach() + 1e-3}
    torch.save(state, tmp_path / "pytorch_model.bin")
    write_config(tmp_path, {"d_model": 32, "n_layer": 3, "vocab_size": WORDS, "rms_norm": True})
    with pytest.raises(BadCheckpoint, match=r"lm_head\.weight differs from the embeddings"):
        load_language(tmp_path, "cpu")
    write_config(
        tmp_path, {"d_model": 32, "n_layer": 3, "vocab_size": WORDS, "rms_norm": True, "tie_embeddings": False}
    )
    untied = load_language(tmp_path, "cpu")[0]
    assert torch.equal(untied.lm_head.weight, state["lm_head.weight"])


def test_half_precision_keeps_a_scans_decay_wide(tmp_path):
    model = mamba()
    model.save_pretrained(tmp_path)
    ours, _ = load_language(tmp_path, "cpu", torch.bfloat16)
    kinds = {name: value.dtype for name, value in ours.named_parameters()}
    assert {name for name, kind in kinds.items() if kind == torch.float32} == {
        f"layers.{i}.mixer.{part}" for i in range(3) for part in ("A_log", "D")
    }
    ids = torch.randint(0, WORDS, (1, 9), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        wanted = model(ids).logits
        assert (ours(ids).float() - wanted).abs().max() <= 3e-2 * wanted.abs().max()


def test_the_tokenizer_beside_the_weights(tmp_path):
    words = Tokenizer.train(["the cat is left of the dog " * 3], 280)
    llama(vocab_size=len(words)).save_pretrained(tmp_path)
    words._special.save(str(tmp_path / "tokenizer.json"))
    settings = {"bos_token": {"content": "<|user|>"}, "eos_token": "<|endoftext|>", "pad_token": None}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    _, found = load_language(tmp_path, "cpu")
    assert (found.bos_id, found.eos_id) == (words.id("<|user|>"), words.id("<|endoftext|>"))
    assert found.encode("the cat </s>") == words.encode("the cat </s>")


REFUSED = [
    ({"model_type": "gpt2"}, "a model of type 'gpt2'"),
    ({"model_type": "llama", "hidden_act": "gelu"}, "hidden_act 'gelu'"),
    ({"model_type": "llama", "rope_scaling": {"type": "linear", "factor": 2.0}}, "rope scaling 'linear'"),
    ({"model_type": "mamba", "use_bias": True}, "published form"),
    ({"d_model": 32, "n_layer": 3, "rms_norm": True, "ssm_cfg": {"layer": "Mamba2"}}, "layer 'Mamba2'"),
    ({"d_model": 32, "n_layer": 3, "rms_norm": False}, "rms_norm False"),
    ({"d_model": 32, "n_layer": 3, "rms_norm": True}, "holds no Mamba that can be read"),
]


@pytest.mark.parametrize(("values", "message"), REFUSED)
def test_what_is_not_computed_here_is_refused(tmp_path, values, message):
    save_file({"a": torch.ones(1)}, tmp_path / "model.safetensors")
    write_config(tmp_path, values)
    with pytest.raises(BadCheckpoint, match=message):
        load_language(tmp_path, "cpu")


def test_without_a_config_nothing_is_guessed(tmp_path):
    save_file({"a": torch.ones(1)}, tmp_path / "model.safetensors")
    with pytest.raises(BadCheckpoint, match=r"no config\.json"):
        load_language(tmp_path, "cpu")
