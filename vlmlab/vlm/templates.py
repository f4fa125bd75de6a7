"""Chat templates: a conversation becomes ids and labels, with loss on the assistant's answers only. Notebooks 02, 04.

    v0       system###Human: <image>\\nq###Assistant: a###               ends with ###
    v1       system USER: <image>\\nq ASSISTANT: a</s>                  ends with </s>
    plain    <image>a\\n       (stage 1: no question)                   ends with a new line
    llama-2  [INST] <<SYS>>\\nsystem\\n<</SYS>>\\n\\n<image>\\nq [/INST] a </s>   ends with </s>
    chatml   <|im_start|>user\\n<image>\\nq<|im_end|>\\n<|im_start|>assistant\\na<|im_end|>   ends with <|im_end|>

Sources: Visual Instruction Tuning (arXiv 2304.08485), section 4.2 and table 2 (v0, plain), LLaVA-1.5 (2310.03744)
for v1; Llama 2 (2307.09288); ChatML. What a person typed is always plain text: "</s>" inside a question is four
characters, never an end. Only `<image>` in a human turn of a LLaVA record is read as the image's place.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from vlmlab.errors import BadInput, UnknownName
from vlmlab.language.tokenizer import SPECIALS, Tokenizer
from vlmlab.vlm.splice import IGNORE

IMAGE = "<image>"
Turn = Mapping[str, str]
"""One turn of a LLaVA record: {"from": "human" or "gpt", "value": text}."""

SPOKEN = tuple(token for token in SPECIALS if token.startswith("<|"))  # roles and their ends, as "<|user|>"
_MARKS = re.compile("(" + "|".join(map(re.escape, SPECIALS)) + r"|\{system\}|\{text\})")
_CURIOUS = (
    "A chat between a curious {user} and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the {user}'s questions."
)


class Piece(NamedTuple):
    """A stretch of a rendered conversation: plain text, or one special token by name."""

    text: str
    special: bool = False
    loss: bool = False


_IMAGE = [Piece(IMAGE, special=True)]


class Encoded(NamedTuple):
    """Ids of a conversation and its labels: the id itself where it carries loss, -100 elsewhere; equal lengths."""

    ids: list[int]
    labels: list[int]


@dataclass(frozen=True)
class Template:
    """How turns are written. Names of special tokens in these fields become those tokens; nothing else does.

    opening: before the first turn. user: a question. reply: what asks the assistant to speak. answer, end: the
    answer and its end token, the parts that carry loss. between: after an answer that is not the last.
    system_format: put in the first {system} when `system` is not empty. discard_question: keep only the images.
    images_first: images stand before everything else, not inside the question.
    """

    name: str
    user: str
    reply: str
    answer: str
    end: str
    system: str = ""
    opening: str = "<s>{system}"
    between: str = ""
    system_format: str = "{text}"
    discard_question: bool = False
    images_first: bool = False

    def render(self, turns: Sequence[Turn]) -> str:
        """The conversation as one readable text, special tokens by name. Ends with `reply` after a human turn."""
        return "".join(piece.text for piece in self._pieces(turns))

    def prompt(self, question: str | Sequence[Turn], image: bool = True) -> str:
        """The text that asks `question`, up to where the assistant speaks (for reading; `encode_prompt` gives ids)."""
        return "".join(piece.text for piece in self._prompt_pieces(question, image))

    def encode_prompt(
        self, question: str | Sequence[Turn], tokenizer: Tokenizer, image: bool = True, image_id: int | None = None
    ) -> list[int]:
        """Ids that ask `question`, one placeholder id per image.

        Args:
            question: what the person asks, all of it plain text, or turns that end with a human one (their
                "<image>" are then the images, and `image` is ignored).
            tokenizer: the language model's.
            image: whether one image stands before the question.
            image_id: the placeholder's id; by default the tokenizer's.
        """
        return _encode(self._prompt_pieces(question, image), tokenizer, image_id).ids

    def encode(self, conversation: Sequence[Turn], tokenizer: Tokenizer, image_id: int | None = None) -> Encoded:
        """Ids and labels of a LLaVA conversation, for training.

        Only answers and their end tokens carry loss. One "<image>" in a human turn is moved to its front, as
        LLaVA does; several stay where they are. A first turn of "gpt" (some shared chats) is left out.

        Raises:
            BadInput: turns do not alternate, the last is not the assistant's, an answer is empty, or the tokenizer
                joins an answer's first token with the prompt's last, so that no exact mask exists.
        """
        pieces = self._pieces(conversation)
        if not conversation or conversation[-1]["from"] != "gpt":
            raise BadInput('the conversation does not end with an answer ("from": "gpt"); there is nothing to learn')
        return _encode(pieces, tokenizer, image_id)

    def encode_answer(
        self,
        question: str | Sequence[Turn],
        answer: str,
        tokenizer: Tokenizer,
        image: bool = True,
        image_id: int | None = None,
    ) -> tuple[list[int], list[int]]:
        """Ids of the prompt and ids of `answer` after it, without the end token."""
        if not answer.strip():
            raise BadInput("an answer is empty; give it at least one character")
        pieces = [*self._prompt_pieces(question, image), *_fill(self.answer, [Piece(answer.strip())], loss=True)]
        ids, labels = _encode(pieces, tokenizer, image_id)
        start = next((place for place, label in enumerate(labels) if label != IGNORE), len(ids))
        return ids[:start], [index for index, label in zip(ids, labels, strict=True) if label != IGNORE]

    def stop_ids(self, tokenizer: Tokenizer) -> list[int]:
        """Ids that end an answer: the template's end token when it is a special one, and the tokenizer's own."""
        ends = [_special_id(self.end, tokenizer, None)] if self.end in SPECIALS else []
        return sorted({index for index in [*ends, tokenizer.eos_id] if index is not None})

    @property
    def stop_text(self) -> str | None:
        """Text that ends an answer, where the end is ordinary text ("###" of v0)."""
        return None if self.end in SPECIALS else self.end

    def _prompt_pieces(self, question: str | Sequence[Turn], image: bool) -> list[Piece]:
        if not isinstance(question, str):
            if not question or question[-1].get("from") != "human":
                raise BadInput("the turns of a prompt must end with a human one")
            return self._pieces(question)
        if not (question.strip() or self.discard_question):
            raise BadInput("the prompt is empty; ask something")
        inside, before = (0, int(image)) if self.images_first else (int(image), 0)
        content = _content([question.strip()], images=inside, discard=self.discard_question)
        return [*before * _IMAGE, *self._opening(), *self._user(content, first=True), *_fill(self.reply)]

    def _pieces(self, turns: Sequence[Turn]) -> list[Piece]:
        turns = _checked(turns)
        pieces, before = self._opening(), 0
        for number, turn in enumerate(turns):
            value = turn["value"].strip()
            if turn["from"] == "human":
                texts = [text.strip() for text in value.split(IMAGE)]
                if len(texts) == 1 and not (value or self.discard_question):
                    raise BadInput(f"turn {number} (human) is empty; ask something or drop the turn")
                if self.images_first:
                    before += len(texts) - 1
                    texts = [" ".join(filter(None, texts))]
                if len(texts) == 2:  # one image: to the front
                    texts = ["", " ".join(filter(None, texts))]
                content = _content(texts, images=0, discard=self.discard_question)
                pieces += [*self._user(content, first=number == 0), *_fill(self.reply)]
            else:
                if not value:
                    raise BadInput(f"turn {number} (gpt) is an empty answer; write one or drop the turn")
                pieces += [*_fill(self.answer, [Piece(value)], loss=True), *_fill(self.end, loss=True)]
                if number < len(turns) - 1:
                    pieces += _fill(self.between)
        return [*before * _IMAGE, *pieces]

    def _opening(self) -> list[Piece]:
        return _fill(self.opening, system=self._system())

    def _user(self, content: list[Piece], first: bool) -> list[Piece]:
        return _fill(self.user, content, system=self._system() if first else [])

    def _system(self) -> list[Piece]:
        return _fill(self.system_format, [Piece(self.system)]) if self.system else []


TEMPLATES: dict[str, Template] = {
    template.name: template
    for template in (
        Template(
            name="v0",
            system=_CURIOUS.format(user="human"),
            system_format="{text}###",
            user="Human: {text}###",
            reply="Assistant:",
            answer=" {text}",
            end="###",
        ),
        Template(
            name="v1",
            system=_CURIOUS.format(user="user"),
            system_format="{text} ",
            user="USER: {text} ",
            reply="ASSISTANT:",
            answer=" {text}",
            end="</s>",
        ),
        Template(name="plain", user="{text}", reply="", answer="{text}", end="\n", discard_question=True),
        Template(
            name="llama-2",
            system="You are a helpful language and vision assistant. You are able to understand the visual content "
            "that the user provides, and assist the user with a variety of tasks using natural language.",
            system_format="<<SYS>>\n{text}\n<</SYS>>\n\n",
            opening="",
            user="<s>[INST] {system}{text} ",
            reply="[/INST]",
            answer=" {text} ",
            end="</s>",
        ),
        Template(
            name="chatml",
            system="You should follow the instructions carefully and explain your answers in detail.",
            system_format="<|im_start|>system\n{text}<|im_end|>\n",
            opening="{system}",
            user="<|im_start|>user\n{text}<|im_end|>\n",
            reply="<|im_start|>assistant\n",
            answer="{text}",
            end="<|im_end|>",
            between="\n",
        ),
        Template(
            name="cobra",
            opening="",
            user="<|user|>\n{text}<|endoftext|>\n",
            reply="<|assistant|>\n",
            answer="{text}",
            end="<|endoftext|>",
            between="\n",
            images_first=True,
        ),
    )
}


def get_template(name: str, system: str | None = None) -> Template:
    """The template of that name, with its own system message or the one given ("" for none)."""
    if name not in TEMPLATES:
        raise UnknownName("template", name, TEMPLATES)
    return TEMPLATES[name] if system is None else replace(TEMPLATES[name], system=system)


def _fill(form: str, text: Iterable[Piece] = (), system: Iterable[Piece] = (), loss: bool = False) -> list[Piece]:
    """The pieces of one field of a template, its slots filled."""
    pieces: list[Piece] = []
    for part in filter(None, _MARKS.split(form)):
        if part == "{text}":
            pieces += text
        elif part == "{system}":
            pieces += system
        else:
            pieces.append(Piece(part, special=part in SPECIALS))
    return [piece._replace(loss=loss) for piece in pieces]


def _content(texts: list[str], images: int, discard: bool) -> list[Piece]:
    """A question's pieces: `images` images, then the texts with one image between each two; a new line after each."""
    newline = [] if discard else [Piece("\n")]
    pieces = [piece for _ in range(images) for piece in (Piece(IMAGE, special=True), *newline)]
    for number, text in enumerate(texts):
        if number:
            pieces += [Piece(IMAGE, special=True), *newline]
        if text and not discard:
            pieces.append(Piece(text + ("\n" if number < len(texts) - 1 else "")))
    return pieces


def _checked(turns: Sequence[Turn]) -> list[Turn]:
    """Turns that alternate human, gpt, human, ...; a leading answer is dropped."""
    for number, turn in enumerate(turns):
        if not isinstance(turn.get("value"), str) or turn.get("from") not in ("human", "gpt"):
            raise BadInput(f'turn {number} must be {{"from": "human" or "gpt", "value": text}}, got {dict(turn)!r}')
    kept = list(turns[1:] if turns and turns[0]["from"] == "gpt" else turns)
    if not kept:
        raise BadInput("the conversation has no question; it needs a human turn")
    for number, turn in enumerate(kept):
        if turn["from"] != ("gpt" if number % 2 else "human"):
            raise BadInput(
                f"turn {number + len(turns) - len(kept)} is again from {turn['from']!r}; turns must alternate"
            )
    return kept


def _special_id(name: str, tokenizer: Tokenizer, image_id: int | None) -> int | None:
    if name == IMAGE:
        found = tokenizer.image_id if image_id is None else image_id
        if found is None:
            raise BadInput("this tokenizer has no <image> token; pass image_id")
        return found
    return (
        {"<s>": tokenizer.bos_id, "</s>": tokenizer.eos_id}.get(name) if name in ("<s>", "</s>") else tokenizer.id(name)
    )


def _encode(pieces: list[Piece], tokenizer: Tokenizer, image_id: int | None) -> Encoded:
    """Ids and labels of pieces. Text between two special tokens is tokenized as a whole, and so is a role that the
    vocabulary has no token for: the published Cobra spells out "<|user|>"."""
    ids: list[int] = []
    labels: list[int] = []
    run: list[Piece] = []
    for piece in [*pieces, Piece("", special=True)]:
        if not piece.special or (piece.text in SPOKEN and not tokenizer.knows(piece.text)):
            run.append(piece)
            continue
        text_ids, text_labels = _encode_run(run, tokenizer)
        ids += text_ids
        labels += text_labels
        run = []
        index = _special_id(piece.text, tokenizer, image_id) if piece.text else None
        if index is not None:  # a tokenizer without a beginning token starts with the text
            ids.append(index)
            labels.append(index if piece.loss else IGNORE)
    return Encoded(ids, labels)


def _encode_run(run: list[Piece], tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """Ids and labels of joined texts; where loss begins or ends, a token must begin too, or BadInput."""
    text = "".join(piece.text for piece in run)
    if not text:
        return [], []
    ids = tokenizer.encode(text)
    labels: list[int] = []
    done = ""
    for piece, after in zip(run, [*run[1:], None], strict=True):
        done += piece.text
        if after is not None and after.loss == piece.loss:
            continue
        head = ids if after is None else tokenizer.encode(done)
        if ids[: len(head)] != head:
            raise BadInput(
                f"tokenization mismatch: the tokenizer joins {done[-12:]!r} with {text[len(done) :][:12]!r}, so the "
                "label mask cannot tell question from answer; choose another template or change that text"
            )
        new = ids[len(labels) : len(head)]
        labels += new if piece.loss else [IGNORE] * len(new)
    return ids, labels
