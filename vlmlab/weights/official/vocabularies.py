"""Tokenizers that lie beside published weights: tokenizer.json, or Llama's tokenizer.model. Notebook 16.

tokenizer.model is SentencePiece's: a protobuf message with the pieces, each with a score and a kind. Encoding merges
the two neighbours whose joint piece has the highest score, again and again (SentencePiece, arXiv 1808.06226, section
3.1); a character without a piece becomes its UTF-8 bytes, which are pieces "<0x..>".
"""

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import tokenizers

from vlmlab.errors import BadCheckpoint, BadInput
from vlmlab.files import read_json
from vlmlab.language import Tokenizer
from vlmlab.weights.streaming import AGAIN

NORMAL, UNKNOWN, CONTROL, ADDED = 1, 2, 3, 4  # kinds of pieces
BPE = 2  # SentencePiece's other model, unigram, is 1
SPACE = "▁"
CONFIGS = ("special_tokens_map.json", "tokenizer_config.json")


def find_tokenizer(folder: Path) -> Tokenizer | None:
    """The tokenizer in a folder, None when there is none. Raises BadCheckpoint for one that is damaged."""
    roles: dict[str, str | None] = {}
    for name in CONFIGS:
        values = read_json(folder / name) if (folder / name).is_file() else {}
        for role in ("bos", "eos", "pad"):
            token = values.get(f"{role}_token")
            token = token.get("content") if isinstance(token, dict) else token
            roles |= {role: token} if isinstance(token, str) else {}
    if (folder / "tokenizer.json").is_file():
        return _from_json(folder / "tokenizer.json", roles)
    if (folder / "tokenizer.model").is_file():
        return Tokenizer(_from_model(folder / "tokenizer.model"), roles)
    return None


def _from_json(path: Path, roles: dict[str, str | None]) -> Tokenizer:
    from transformers import PreTrainedTokenizerFast

    try:
        theirs = PreTrainedTokenizerFast(tokenizer_file=str(path), **{f"{role}_token": roles[role] for role in roles})
        return Tokenizer.from_transformers(theirs)
    except BadInput:
        raise
    except Exception as error:  # the Rust library raises Exception itself
        raise BadCheckpoint(f"{path} is no tokenizer that can be read ({str(error)[:120]}); {AGAIN}") from None


def merging(pieces: Sequence[str], scores: Sequence[float], kinds: Sequence[int], dummy: bool) -> tokenizers.Tokenizer:
    """SentencePiece's BPE as a tokenizer of the library `tokenizers`: ids are the pieces' places.

    dummy: whether a space is put before a text. Control pieces and those that someone added are special tokens, which
    no text that a person types can become.
    """
    vocabulary = {piece: place for place, piece in enumerate(pieces)}
    ranked = []
    for piece, score, kind in zip(pieces, scores, kinds, strict=True):
        for cut in range(1, len(piece)) if kind == NORMAL else ():
            if piece[:cut] in vocabulary and piece[cut:] in vocabulary:
                ranked.append((-score, piece[:cut], piece[cut:]))
    ranked.sort(key=lambda merge: merge[0])
    unknown = next((piece for piece, kind in zip(pieces, kinds, strict=True) if kind == UNKNOWN), None)
    merges = [(left, right) for _, left, right in ranked]
    inner = tokenizers.Tokenizer(
        tokenizers.models.BPE(vocabulary, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True)
    )
    normalizers, decoders = tokenizers.normalizers, tokenizers.decoders
    spaces: Any = normalizers.Replace(" ", SPACE)
    inner.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), spaces]) if dummy else spaces
    steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    inner.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if dummy else steps)
    for piece, kind in zip(pieces, kinds, strict=True):
        if kind in (UNKNOWN, CONTROL, ADDED):
            inner.add_special_tokens([tokenizers.AddedToken(piece, normalized=False, special=True)])
    return inner


def _from_model(path: Path) -> tokenizers.Tokenizer:
    """A SentencePiece file. Raises BadCheckpoint when it is damaged or holds another model than BPE."""
    try:
        pieces, scores, kinds, algorithm, dummy = [], [], [], 1, 1
        for field, value in _fields(path.read_bytes()):
            if field == 1:
                inner = dict(_fields(value))
                pieces.append(inner[1].decode())
                scores.append(struct.unpack("<f", inner[2])[0] if 2 in inner else 0.0)
                kinds.append(inner.get(3, NORMAL))
            elif field == 2:
                algorithm = dict(_fields(value)).get(3, algorithm)
            elif field == 3:
                dummy = dict(_fields(value)).get(3, dummy)
        if algorithm != BPE or not pieces:
            raise ValueError("it holds no model of BPE")
        return merging(pieces, scores, kinds, bool(dummy))
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise BadCheckpoint(f"{path} is no SentencePiece model that can be read ({error}); {AGAIN}") from None


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """The fields of a protobuf message: numbers as int, all else as bytes."""
    at = 0

    def number() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7

    while at < len(data):
        key = number()
        kind = key & 7
        if kind == 0:
            yield key >> 3, number()
            continue
        if kind not in (1, 2, 5):
            raise ValueError(f"a field of kind {kind}")
        length = number() if kind == 2 else {1: 8, 5: 4}[kind]
        if at + length > len(data):
            raise ValueError("it ends within a field")
        yield key >> 3, data[at : at + length]
        at += length
