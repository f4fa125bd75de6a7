"""SentencePiece's vocabularies: the same pieces as its own rule gives, written out slowly; every text comes back."""

import struct
from itertools import pairwise

import pytest
import tokenizers
from hypothesis import example, given
from hypothesis import strategies as st

from vlmlab.errors import BadCheckpoint, BadInput
from vlmlab.language import Tokenizer
from vlmlab.vlm.templates import get_template
from vlmlab.weights.official.vocabularies import find_tokenizer, merging

CORPUS = "the cat is left of the dog and the sofa is under the lamp " * 2
BYTES = [f"<0x{i:02X}>" for i in range(256)]


def learnt(size: int = 60) -> tuple[list[str], list[float], list[int]]:
    """Pieces, scores and kinds in the order of Llama's file: control, bytes, merged pieces, then single characters."""
    words = [["▁", *word] for word in CORPUS.split()]
    found: list[str] = []
    while len(found) < size:
        pairs: dict[str, int] = {}
        for word in words:
            for left, right in pairwise(word):
                pairs[left + right] = pairs.get(left + right, 0) + 1
        if not pairs:
            break
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        found.append(best)
        for word in words:
            for i in range(len(word) - 2, -1, -1):
                if i + 1 < len(word) and word[i] + word[i + 1] == best:
                    word[i : i + 2] = [best]
    singles = sorted({"▁", *CORPUS.replace(" ", "")})
    pieces = ["<unk>", "<s>", "</s>", *BYTES, *found, *singles]
    scores = [0.0] * 259 + [-float(i) for i in range(len(found))] + [-100.0 - i for i in range(len(singles))]
    return pieces, scores, [2, 3, 3] + [6] * 256 + [1] * (len(found) + len(singles))


PIECES, SCORES, KINDS = learnt()


def slowly(text: str, dummy: bool) -> list[int]:
    """Ids by SentencePiece's rule: join the neighbours whose joint piece has the highest score, the left ones first."""
    score = {piece: value for piece, value, kind in zip(PIECES, SCORES, KINDS, strict=True) if kind == 1}
    symbols = list(("▁" if dummy and text else "") + text.replace(" ", "▁"))
    while True:
        joined = [(score.get(a + b, -1e9), -i) for i, (a, b) in enumerate(pairwise(symbols))]
        if not joined or max(joined)[0] == -1e9:
            break
        i = -max(joined)[1]
        symbols[i : i + 2] = [symbols[i] + symbols[i + 1]]
    ids = []
    for symbol in symbols:
        ids += [PIECES.index(symbol)] if symbol in score else [3 + byte for byte in symbol.encode()]
    return ids


def message(fields: list[tuple[int, object]]) -> bytes:
    """A protobuf message of numbers, floats and bytes."""

    def number(value: int) -> bytes:
        out = b""
        while value > 127:
            out, value = out + bytes([value & 127 | 128]), value >> 7
        return out + bytes([value])

    out = b""
    for field, value in fields:
        if isinstance(value, int):
            out += number(field << 3) + number(value)
        elif isinstance(value, float):
            out += number(field << 3 | 5) + struct.pack("<f", value)
        else:
            out += number(field << 3 | 2) + number(len(value)) + value
    return out


def model_file(algorithm: int = 2, dummy: int = 1) -> bytes:
    entries = []
    for piece, score, kind in zip(PIECES, SCORES, KINDS, strict=True):
        entry = [(1, piece.encode()), (2, score)] + ([(3, kind)] if kind != 1 else [])
        entries.append((1, message(entry)))
    return message([*entries, (2, message([(3, algorithm), (4, 32000)])), (3, message([(1, b"identity"), (3, dummy)]))])


@pytest.fixture(scope="module", params=[True, False], ids=["space before", "no space before"])
def spoken(request) -> tuple[bool, Tokenizer]:
    return request.param, Tokenizer(merging(PIECES, SCORES, KINDS, request.param))


@given(st.text(alphabet=st.one_of(st.sampled_from("thecat isdogf "), st.characters(codec="utf-8")), max_size=24))
@example("the cat  is left ")
@example(" ")
@example("<s> and </s> käse 🙂")
def test_pieces_are_those_of_the_rule_and_the_text_comes_back(spoken, text):
    dummy, words = spoken
    if "▁" in text:  # which SentencePiece itself cannot tell from a space
        return
    ids = words.encode(text)
    assert ids == slowly(text, dummy)
    assert words.decode(ids) == text


def test_a_file_of_sentencepiece(tmp_path, spoken):
    dummy, words = spoken
    (tmp_path / "tokenizer.model").write_bytes(model_file(dummy=int(dummy)))
    found = find_tokenizer(tmp_path)
    assert (len(found), found.bos_id, found.eos_id, found.image_id) == (len(PIECES), 1, 2, None)
    assert found.encode(CORPUS) == words.encode(CORPUS) == slowly(CORPUS, dummy)
    assert found.encode("a</s>", special=True)[-1] == 2  # a template's end; what a person types is text
    assert 2 not in found.encode("a</s>")
    pieces = "".join(found.stream(found.encode("käse left of it")))
    assert pieces == "käse left of it"


def test_a_conversation_in_llavas_template(spoken):
    words = spoken[1]
    turns = [{"from": "human", "value": "<image>\nis the cat left?"}, {"from": "gpt", "value": "the cat is left"}]
    ids, labels = get_template("v1").encode(turns, words, image_id=len(words))
    assert ids[0] == 1
    assert ids.count(len(words)) == 1
    learnt_ids = [label for label in labels if label != -100]
    assert learnt_ids[-1] == 2
    assert words.decode(learnt_ids).strip() == "the cat is left"


@pytest.mark.parametrize("damage", ["empty", "cut", "noise", "unigram"])
def test_a_damaged_file_is_told(tmp_path, damage):
    whole = model_file()
    changed = {"empty": b"", "cut": whole[: len(whole) // 2 + 1], "noise": b"\xff" * 40, "unigram": model_file(1)}
    (tmp_path / "tokenizer.model").write_bytes(changed[damage])
    with pytest.raises(BadCheckpoint, match=r"tokenizer\.model is no SentencePiece model that can be read"):
        find_tokenizer(tmp_path)


def test_no_tokenizer_and_a_damaged_one(tmp_path):
    assert find_tokenizer(tmp_path) is None
    (tmp_path / "tokenizer.json").write_text('{"model": 3}')
    with pytest.raises((BadCheckpoint, BadInput), match=r"tokenizer\.json"):
        find_tokenizer(tmp_path)


def test_json_wins_and_roles_come_from_the_settings(tmp_path):
    inner = tokenizers.Tokenizer(tokenizers.models.BPE({"a": 0, "<|end|>": 1, "<image>": 2}, []))
    inner.add_special_tokens(["<|end|>", "<image>"])
    inner.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer.model").write_bytes(b"not read")
    (tmp_path / "special_tokens_map.json").write_text('{"eos_token": {"content": "<|end|>"}}')
    found = find_tokenizer(tmp_path)
    assert (found.eos_id, found.image_id) == (1, 2)
