"""A byte-level BPE tokenizer in which a user's text can never become a special token. Notebook 02.

Any text survives encode and decode unchanged: the 256 bytes are in the vocabulary. Digits stand alone, so that
numbers and coordinates have one spelling. Source: byte-level BPE (GPT-2, section 2.2), over the library `tokenizers`.
"""

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import tokenizers

from vlmlab import files
from vlmlab.errors import BadInput

SPECIALS = (
    "<s>",
    "</s>",
    "<pad>",
    "<image>",
    "<|user|>",
    "<|assistant|>",
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
)
ROLES = {"bos": "<s>", "eos": "</s>", "pad": "<pad>", "image": "<image>"}
SMALLEST = 256 + len(SPECIALS)


class Tokenizer:
    """Text to ids and back. `bos_id`, `eos_id`, `pad_id`, `image_id` are None where the vocabulary lacks them."""

    def __init__(self, inner: tokenizers.Tokenizer, roles: dict[str, str | None] | None = None):
        self.roles: dict[str, str | None] = {**ROLES, **(roles or {})}
        self._special = inner  # reads "<image>" in a text as the special token
        self._plain = tokenizers.Tokenizer.from_str(inner.to_str())  # reads it as seven characters
        self._special.encode_special_tokens = False
        self._plain.encode_special_tokens = True
        for each in (self._special, self._plain):
            each.no_padding()
            each.no_truncation()
        self.bos_id, self.eos_id, self.pad_id, self.image_id = (
            None if token is None else inner.token_to_id(token) for token in (self.roles[role] for role in ROLES)
        )
        self.special_ids = frozenset(
            index for index, token in inner.get_added_tokens_decoder().items() if token.special
        )

    def __reduce__(self) -> tuple:
        return Tokenizer, (self._special, self.roles)  # a copy of the plain twin would lose what makes it plain

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> "Tokenizer":
        """Learn a vocabulary of at most `vocab_size` tokens from texts; the same texts give the same tokenizer.

        A small corpus gives fewer. Raises BadInput when vocab_size has no room for the bytes and the specials.
        """
        if isinstance(texts, str):
            raise BadInput("train takes several texts; put a single one into a list")
        if vocab_size < SMALLEST:
            raise BadInput(f"vocab_size={vocab_size} is too small; bytes and special tokens alone take {SMALLEST}")
        inner = tokenizers.Tokenizer(tokenizers.models.BPE())
        inner.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
            [
                tokenizers.pre_tokenizers.Digits(individual_digits=True),
                tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False),
            ]
        )
        inner.decoder = tokenizers.decoders.ByteLevel()
        trainer = tokenizers.trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=list(SPECIALS),
            initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        inner.train_from_iterator(texts, trainer)
        return cls(inner)

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Tokenizer":
        """Read a file written by `save`, or any `tokenizer.json`. Raises BadInput when it is not one."""
        content = files.read_json(path)
        roles = content.pop("vlmlab", None) if isinstance(content, dict) else None
        try:
            return cls(tokenizers.Tokenizer.from_str(json.dumps(content)), roles)
        except Exception as error:  # the Rust library raises Exception itself
            raise BadInput(f"{Path(path)} is not a tokenizer file ({error}); save or train it again") from None

    def save(self, path: str | os.PathLike) -> None:
        """Write a `tokenizer.json`, which the library `tokenizers` reads as well.

        Roles other than the usual ones go into a key of our own, which only `load` understands.
        """
        content = self._special.to_str()
        if self.roles != ROLES:
            content = json.dumps({**json.loads(content), "vlmlab": self.roles}, ensure_ascii=False)
        files.write_text(path, content)

    @classmethod
    def from_transformers(cls, tokenizer: Any) -> "Tokenizer":
        """Wrap a transformers fast tokenizer; its own beginning, end and padding tokens keep their roles."""
        inner = getattr(tokenizer, "backend_tokenizer", None)
        if not isinstance(inner, tokenizers.Tokenizer):
            raise BadInput(f"{type(tokenizer).__name__} is not a fast tokenizer; load it with use_fast=True")
        roles = {
            "bos": tokenizer.bos_token,
            "eos": tokenizer.eos_token,
            "pad": tokenizer.pad_token,
            "image": getattr(tokenizer, "image_token", None) or "<image>",
        }
        content = json.loads(inner.to_str())
        for token in content["added_tokens"]:
            token["special"] = token["special"] or token["content"] in {*SPECIALS, *roles.values()}

        return cls(tokenizers.Tokenizer.from_str(json.dumps(content)), roles)

    @property
    def vocab_size(self) -> int:
        """Number of tokens, special ones included."""
        return self._special.get_vocab_size()

    def __len__(self) -> int:
        return self.vocab_size

    def id(self, token: str) -> int:
        """The id of one token by its name, such as "<|user|>". Raises BadInput when there is none."""
        index = self._special.token_to_id(token)
        if index is None:
            raise BadInput(f"the vocabulary has no token {token!r}; it has {self.vocab_size} others")
        return index

    def knows(self, token: str) -> bool:
        """Whether the vocabulary has a token of that name."""
        return self._special.token_to_id(token) is not None

    def token(self, index: int) -> str:
        """What one id stands for, readable on its own (half a character shows as U+FFFD)."""
        return self.decode([index], skip_special=False)

    def encode(self, text: str, bos: bool = False, special: bool = False) -> list[int]:
        """Ids of a text, after the beginning token if `bos`.

        special=False, for a user's text: "<image>" and the like are plain characters. special=True, for a
        template's own parts: they become special ids. Raises BadInput for text that is not valid Unicode.
        """
        try:
            ids = (self._special if special else self._plain).encode(text, add_special_tokens=False).ids
        except (TypeError, UnicodeEncodeError):
            if not isinstance(text, str):
                raise BadInput(f"expected a text (str), got {type(text).__name__}") from None
            raise BadInput("the text holds a lone surrogate, which is not a character; remove it") from None
        if not bos:
            return ids
        if self.bos_id is None:
            raise BadInput("this tokenizer has no beginning token; call encode with bos=False")
        return [self.bos_id, *ids]

    def decode(self, ids: Iterable[int], skip_special: bool = True) -> str:
        """Text of ids (a list, or a tensor of one dimension); special tokens are left out if `skip_special`.

        Raises BadInput for negative ids, such as the -100 of a label.
        """
        ids = [int(index) for index in ids]
        if ids and min(ids) < 0:
            raise BadInput(f"cannot decode the negative id {min(ids)}; drop the positions without a label first")
        return self._special.decode(ids, skip_special_tokens=skip_special)

    def stream(self, ids: Iterable[int], skip_special: bool = True) -> Iterator[str]:
        """Pieces of text as ids arrive; joined, they equal `decode` of all ids.

        A piece never ends inside a character: bytes of an incomplete UTF-8 sequence are held back until the
        next ids complete it, or until the ids end.
        """
        shown: list[int] = []  # context: already shown, decoded again because some decoders look back
        held: list[int] = []
        for index in ids:
            held.append(int(index))
            before = self.decode(shown, skip_special)
            piece = self.decode(shown + held, skip_special)[len(before) :]
            if piece and not piece.endswith("\ufffd"):
                yield piece
                shown, held = held, []
        if held:
            before = self.decode(shown, skip_special)
            piece = self.decode(shown + held, skip_special)[len(before) :]
            if piece:
                yield piece
