"""What llava-smollm2 learns to say: conversations about scenes in its own tokens, and what it says itself. Notebook 04.

SmolLM2 is its own teacher twice. It words descriptions of scenes that it is told of, as in LLaVA a language-only model
does (arXiv 2304.08485, section 3). And it makes conversations without pictures, so that it can still hold one: begun
where a person would speak, a tuned model writes the question first (Magpie, arXiv 2406.08464, section 2.1).
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile

import numpy as np
import torch

from vlmlab.language import Tokenizer, generate
from vlmlab.scenes import Scene
from vlmlab.scenes.kinds import COLOURS, MATERIALS, SIZES
from vlmlab.scenes.kinds import KINDS as OBJECTS
from vlmlab.vlm.conversations import KINDS
from vlmlab.vlm.corpus import Corpus
from vlmlab.vlm.model import VLM
from vlmlab.vlm.splice import IGNORE
from vlmlab.vlm.templates import get_template

TELL = "A picture shows this. {} Say in your own words, in one or two sentences, what is in the picture."
ASK = (
    "What is in the picture? Say it in your own words.",
    "Tell me about this picture.",
    "What do you see?",
    "Describe the image in your own words.",
)
PLACES = re.compile(r"\b(on|under|inside|above|below|behind|front|near|next|between|beside|left|right|top|cent\w+)\b")
WORDS = re.compile(r"\b(" + "|".join([*SIZES, *MATERIALS, *COLOURS, *OBJECTS]) + r")(s?)\b")
QUESTION, REPLY, BATCH = 48, 96, 32  # tokens of a plain question and of its answer, rows written at once


def own_words(vlm: VLM, scenes: Sequence[Scene], generator: torch.Generator) -> dict[int, str]:
    """A language model's wording of the scenes that it words without a mistake, by their index."""
    asked = [TELL.format(scene.caption("dense")) for scene in scenes]
    replies = vlm.answer_many(
        [None] * len(asked), asked, max_new_tokens=64, temperature=0.5, top_p=0.9, generator=generator, batch_size=BATCH
    )
    return {i: text for i, (scene, text) in enumerate(zip(scenes, replies, strict=True)) if faithful(text, scene)}


def faithful(text: str, scene: Scene) -> bool:
    """Whether a wording names every object of a scene once, none with a look that it does not have, and no place."""
    if not text.endswith(".") or PLACES.search(text.lower()):
        return False
    named: list[tuple[str, list[str]]] = []
    looks: list[str] = []
    for word, plural in WORDS.findall(text.lower()):
        if word in OBJECTS:
            if plural:
                return False
            named.append((word, looks))
            looks = []
        else:
            looks.append(word)
    left = [(o.kind, {o.size, o.material, o.colour}) for o in scene.objects]
    for kind, said in named:
        fitting = next((each for each in left if each[0] == kind and set(said) <= each[1]), None)
        if fitting is None:
            return False
        left.remove(fitting)
    return not left and not looks


def plain(vlm: VLM, count: int, generator: torch.Generator) -> list[tuple[str, str, bool]]:
    """Conversations without a picture that a language model makes, at most `count`: a question, its answer, and whether
    that has an end."""
    assert vlm.tokenizer is not None
    found: list[tuple[str, str, bool]] = []
    for _ in range(0, count, BATCH):
        asked = [text for text, whole in _written(vlm, [opening(vlm)] * BATCH, QUESTION, 1.0, generator) if whole]
        asked = [text for text in asked if text and "<" not in text and "\ufffd" not in text]
        if asked:
            rows = [vlm.template.encode_prompt(text, vlm.tokenizer, image=False) for text in asked]
            replies = _written(vlm, rows, REPLY, 0.7, generator)
            found += [(text, reply, whole) for text, (reply, whole) in zip(asked, replies, strict=True) if reply]
    return found[:count]


def _written(
    vlm: VLM, prompts: Sequence[Sequence[int]], most: int, temperature: float, generator: torch.Generator
) -> list[tuple[str, bool]]:
    """What the language model goes on with after each prompt, and whether it comes to an end."""
    assert vlm.tokenizer is not None
    ends = vlm.template.stop_ids(vlm.tokenizer)
    batch = torch.nn.utils.rnn.pad_sequence([torch.tensor(ids) for ids in prompts], True, -1).to(vlm.device)
    new = generate(
        vlm.language, input_ids=batch, attention_mask=batch >= 0, max_new_tokens=most, eos_ids=ends,
        temperature=temperature, top_p=0.9, generator=generator,
    ).tolist()  # fmt: skip
    texts = [vlm.tokenizer.decode(takewhile(lambda index: index not in ends, row)).strip() for row in new]
    return [(text, bool(set(row) & set(ends))) for text, row in zip(texts, new, strict=True)]


def opening(vlm: VLM) -> list[int]:
    """Ids of a conversation up to where its picture stands, or where the person speaks if there is none."""
    assert vlm.tokenizer is not None
    ids = vlm.template.encode_prompt("?", vlm.tokenizer, image_id=vlm.image_id)
    return ids[: ids.index(vlm.image_id)]


def retold(data: Corpus, source: Tokenizer, vlm: VLM, count: int, told: Mapping[int, str]) -> Corpus:
    """The conversations of the first `count` scenes of llava-tiny's corpus, written by a VLM's template and tokenizer.

    source: the tokenizer of `data`. told: wordings by scene, each a further answer of the kind "short caption".
    """
    tokens, answers, bounds, cuts, kinds = [], [], [0], [0], []
    for scene in range(count):
        for kind, question, answer in _asked(data, source, scene, told):
            ids, loss = encoded(question, answer, vlm)
            tokens += ids
            answers.append(loss)
            bounds.append(len(tokens))
            kinds.append(kind)
        cuts.append(len(kinds))
    nothing = np.zeros(0, np.int32)
    return Corpus(
        np.array(tokens, np.int32), np.array(answers, np.int16), np.array(bounds, np.int64), np.array(cuts, np.int64),
        np.array(kinds, np.uint8), nothing, np.zeros(count + 1, np.int64),
    )  # fmt: skip


def _asked(data: Corpus, source: Tokenizer, scene: int, told: Mapping[int, str]) -> Iterator[tuple[int, str, str]]:
    """Kind, question and answer of all of a scene's items."""
    reply = get_template("v1").reply
    for item in range(data.scenes[scene], data.scenes[scene + 1]):
        ids, loss = data.tokens[data.bounds[item] : data.bounds[item + 1]], int(data.answers[item])
        question = source.decode(ids[:-loss]).strip().removesuffix(reply)
        yield int(data.kinds[item]), question.strip(), source.decode(ids[-loss:]).strip()
    if scene in told:
        yield KINDS.index("short caption"), ASK[scene % len(ASK)], told[scene]


def encoded(question: str, answer: str, vlm: VLM, image: bool = True, whole: bool = True) -> tuple[list[int], int]:
    """Ids of a question and its answer after `opening`, and how many of the last carry loss.

    whole: whether the answer has an end; else none is learnt.
    """
    assert vlm.tokenizer is not None
    turns = [{"from": "human", "value": "<image>\n" * image + question}, {"from": "gpt", "value": answer}]
    ids, labels = vlm.template.encode(turns, vlm.tokenizer, vlm.image_id)
    start, loss = len(opening(vlm)) + image, sum(label != IGNORE for label in labels)
    return (ids[start:], loss) if whole else (ids[start:-1], loss - 1)
