"""The tokenizer: lossless on any text, safe against special tokens in a user's text, and streamed without seams."""

import copy
import pickle

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from vlmlab.errors import BadInput
from vlmlab.language import SPECIALS, Tokenizer

TEXTS = [
    f"The {c} cat is left of the {d} sofa. Is the cat at {n}? Yes, 1 of {n}."
    for n in range(60)
    for c in "ab"
    for d in "xy"
]


TOKENIZER = Tokenizer.train(TEXTS, 400)
pieces = st.lists(st.one_of(st.text(), st.sampled_from([*SPECIALS, "<s", " 12", "é🙂", "👩‍👩‍👧", "\r\n", "\x00"]))).map(
    "".join
)


@pytest.fixture
def tokenizer():
    return TOKENIZER


@given(pieces)
@settings(max_examples=300, deadline=None)
def test_any_text_survives_and_never_becomes_special(text):
    ids = TOKENIZER.encode(text)
    assert TOKENIZER.decode(ids) == text
    assert TOKENIZER.decode(ids, skip_special=False) == text
    assert TOKENIZER.special_ids.isdisjoint(ids)


@given(st.lists(st.integers(0, TOKENIZER.vocab_size - 1)), st.booleans())
@settings(max_examples=300, deadline=None)
def test_streamed_pieces_join_to_the_decoded_text(ids, skip_special):
    """Any ids at all: bytes that are no UTF-8, special tokens anywhere."""
    assert "".join(TOKENIZER.stream(iter(ids), skip_special)) == TOKENIZER.decode(ids, skip_special)


@given(pieces)
@settings(max_examples=200, deadline=None)
def test_streamed_text_has_no_broken_characters(text):
    streamed = list(TOKENIZER.stream(TOKENIZER.encode(text)))
    assert "".join(streamed) == text
    assert "\ufffd" in text or not any("\ufffd" in piece for piece in streamed)


def test_incomplete_utf8_is_held_back(tokenizer):
    ids = tokenizer.encode("a🙂b")
    assert len(ids) == 6  # four bytes for the emoji
    seen = []
    for piece in tokenizer.stream(seen.append(i) or i for i in ids):
        seen.append(piece)
    assert seen == [ids[0], "a", *ids[1:5], "🙂", ids[5], "b"]
    assert list(tokenizer.stream(ids[:3])) == ["a", "\ufffd"]  # the end of the ids flushes what is left


def test_special_tokens(tokenizer):
    assert [tokenizer.id(token) for token in SPECIALS] == list(range(9))
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id, tokenizer.image_id) == (0, 1, 2, 3)
    assert tokenizer.special_ids == frozenset(range(9))
    assert tokenizer.encode("<image>", special=True) == [3]
    assert tokenizer.encode("<s>cat</s>", special=True) == [0, *tokenizer.encode("cat"), 1]
    assert tokenizer.encode("cat", bos=True) == [0, *tokenizer.encode("cat")]
    assert 3 not in tokenizer.encode("<image>")
    assert tokenizer.decode([0, *tokenizer.encode("cat"), 1]) == "cat"
    assert tokenizer.decode([0, 3, 1], skip_special=False) == "<s><image></s>"
    assert tokenizer.token(3) == "<image>"


def test_training_on_text_full_of_special_names_keeps_them_apart():
    tokenizer = Tokenizer.train(["<image> <s> </s> <|user|> <|im_end|>"] * 500, 600)
    for name in SPECIALS:
        assert tokenizer.special_ids.isdisjoint(tokenizer.encode(name)), name


def test_digits_stand_alone(tokenizer):
    ids = tokenizer.encode("2025")
    assert [tokenizer.token(i) for i in ids] == ["2", "0", "2", "5"]


def test_training_is_deterministic_and_bounded():
    first, second = Tokenizer.train(iter(TEXTS), 420), Tokenizer.train(TEXTS, 420)
    assert first._special.to_str() == second._special.to_str()
    assert first.vocab_size == len(first) <= 420
    assert Tokenizer.train([], 300).vocab_size == 265
    with pytest.raises(BadInput, match=r"vocab_size=100 is too small.*265"):
        Tokenizer.train(TEXTS, 100)
    with pytest.raises(BadInput, match="several texts"):
        Tokenizer.train("one text", 300)


def test_save_and_load(tokenizer, tmp_path):
    path = tmp_path / "tokenizer.json"
    tokenizer.save(path)
    again = Tokenizer.load(path)
    text = "The cat <image> at 45 🙂"
    assert again.encode(text) == tokenizer.encode(text)
    assert again.encode(text, special=True) == tokenizer.encode(text, special=True)
    assert (again.roles, again.special_ids) == (tokenizer.roles, tokenizer.special_ids)
    assert tokenizers.Tokenizer.from_file(str(path)).get_vocab_size() == tokenizer.vocab_size
    assert [p.name for p in tmp_path.iterdir()] == ["tokenizer.json"]


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"model": 3}', "\x00\x01"])
def test_a_damaged_file_is_refused(content, tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text(content)
    with pytest.raises(BadInput, match=r"tokenizer\.json"):
        Tokenizer.load(path)
    with pytest.raises(BadInput, match="no such file"):
        Tokenizer.load(tmp_path / "missing.json")


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda t: pickle.loads(pickle.dumps(t))])  # noqa: S301 our own bytes
def test_copies_stay_safe(tokenizer, duplicate):
    """A worker process gets a copy; text must be as plain there as here."""
    other = duplicate(tokenizer)
    assert other.encode("<image>") == tokenizer.encode("<image>")
    assert other.encode("<image>", special=True) == [3]


def test_bad_input(tokenizer):
    with pytest.raises(BadInput, match="surrogate"):
        tokenizer.encode("a\ud800b")
    with pytest.raises(BadInput, match="got NoneType"):
        tokenizer.encode(None)
    with pytest.raises(BadInput, match="negative id -100"):
        tokenizer.decode([3, -100])
    with pytest.raises(BadInput, match="no token '<nope>'"):
        tokenizer.id("<nope>")


def test_empty_text(tokenizer):
    assert tokenizer.encode("") == []
    assert tokenizer.decode([]) == ""
    assert list(tokenizer.stream([])) == []


def sentencepiece_like():
    """A tokenizer shaped like Llama's: no pre-tokenizer, a space before the text, unknown bytes spelled out."""
    words = [
        "<unk>",
        "<s>",
        "</s>",
        *(f"<0x{i:02X}>" for i in range(256)),
        *"▁catso<>/image|",
        "▁c",
        "at",
        "▁cat",
        "so",
    ]
    vocab = {word: i for i, word in enumerate(dict.fromkeys(words))}
    merges = [("▁", "c"), ("a", "t"), ("▁c", "at"), ("s", "o")]
    inner = tokenizers.Tokenizer(
        tokenizers.models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    inner.normalizer = tokenizers.normalizers.Sequence(
        [tokenizers.normalizers.Prepend("▁"), tokenizers.normalizers.Replace(" ", "▁")]
    )
    decoders = tokenizers.decoders
    inner.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    inner.add_special_tokens(["<unk>", "<s>", "</s>"])
    inner.add_tokens(["<image>"])  # not marked special, as some published tokenizers have it
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def test_from_transformers(tmp_path):
    fast = sentencepiece_like()
    tokenizer = Tokenizer.from_transformers(fast)
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (1, 2, None)
    assert tokenizer.image_id == fast.convert_tokens_to_ids("<image>")
    text = "cat cat so 🙂é"
    assert tokenizer.encode(text) == fast.encode(text, add_special_tokens=False)
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert "".join(tokenizer.stream(tokenizer.encode(text))) == text
    assert tokenizer.special_ids.isdisjoint(tokenizer.encode("<image> <s></s>"))
    assert tokenizer.image_id in tokenizer.encode("<image>", special=True)
    tokenizer.save(tmp_path / "t.json")
    again = Tokenizer.load(tmp_path / "t.json")
    assert (again.roles, again.pad_id, again.encode(text)) == (tokenizer.roles, None, tokenizer.encode(text))
    no_bos = Tokenizer.from_transformers(PreTrainedTokenizerFast(tokenizer_object=fast.backend_tokenizer))
    with pytest.raises(BadInput, match="no beginning token"):
        no_bos.encode("cat", bos=True)
    with pytest.raises(BadInput, match="not a fast tokenizer"):
        Tokenizer.from_transformers(object())
