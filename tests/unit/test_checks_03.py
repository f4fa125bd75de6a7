"""Each check of notebook 03 names the mistake of wrong answers, and what the chapter says of the recording is so."""

import re

import pytest
from exercises import SOURCES

from vlmlab import instruction
from vlmlab.checks import nb03
from vlmlab.scenes import KINDS, sample


# ------------------------------------------------------------------ right answers, which the wrong ones change
def box_line(category, box, width, height):
    fractions = [v / side for v, side in zip(box, (width, height, width, height), strict=True)]
    return f"{category}: [{', '.join(f'{v:.3f}' for v in fractions)}]"


def blocks(reply, last=-1):
    texts = [piece.strip().partition(":\n")[2].strip() for piece in reply.split("===")[:last]]
    return list(zip(texts[0::2], texts[1::2], strict=False))


def breaks_rule(text):
    return bool(re.search(r"caption|descri|bounding|coordinate|\d\.\d", text.lower()))


def restate(question, place=min, end="."):
    verb, *words = question.rstrip("?").split()
    at = 0 if words[0] == "there" else place(i for i, word in enumerate(words) if word in KINDS)
    text = " ".join([*words[: at + 1], verb.lower(), *words[at + 1 :]]) + end
    return text[0].upper() + text[1:]


def fault_of(scene, claim):
    if claim.type in ("count", "relation"):
        return f"wrong {claim.type}"
    if claim.type == "attribute":
        return "wrong colour" if claim.value[0] == "colour" else "wrong attribute"
    colours = [o.colour for o in scene.objects if o.kind == claim.subject.kind]
    if claim.negated or not colours:
        return "false existence"
    return "wrong colour" if claim.subject.colour and claim.subject.colour not in colours else "wrong attribute"


def says_more(claim):
    if claim.mood == "presupposed":
        return False
    if claim.type == "attribute":
        return not getattr(claim.subject, claim.value[0], "")
    if claim.type == "is":
        return any(new and not old for new, old in zip(claim.value.looks, claim.subject.looks, strict=True))
    return True


# ------------------------------------------------------------------ wrong answers, and the mistake each looks like
def one_decimal(category, box, width, height):
    return re.sub(r"\d\.\d+", lambda found: f"{float(found[0]):.1f}", box_line(category, box, width, height))


def marks_kept(reply):
    pieces = [piece.strip() for piece in reply.split("===")[:-1]]
    return list(zip(pieces[0::2], pieces[1::2], strict=False))


def not_stripped(reply):
    return [(question, f" {answer}") for question, answer in blocks(reply)]


def without_there(question):
    words = question.rstrip("?").split()
    at = next(i for i, word in enumerate(words) if word.rstrip("s") in KINDS)
    return " ".join([*words[1 : at + 1], words[0].lower(), *words[at + 1 :]]).capitalize() + "."


def behind_second_word(question):
    verb, first, second, *rest = question.rstrip("?").split()
    return " ".join([first, second, verb.lower(), *rest]).capitalize() + "."


def denial_ignored(scene, claim):
    return fault_of(scene, claim._replace(negated=False))


def no_attribute(scene, claim):
    fault = fault_of(scene, claim)
    return "wrong colour" if claim.type == "exists" and fault == "wrong attribute" else fault


def about(scene, question, answer):
    thing = scene.objects[0]
    words = {"kind": thing.kind, "colour": thing.colour, "other": "green"}
    return f"Question:\n{question}\n===\nAnswer:\n{answer}\n===".format(**words)


WRONG = [
    (nb03.box_line, lambda c, b, w, h: f"{c}: [{', '.join(f'{v:.3f}' for v in b)}]", "pixels"),
    (nb03.box_line, lambda c, b, w, h: box_line(c, b, w, w), "width for all"),
    (nb03.box_line, lambda c, b, w, h: box_line(c, b, h, w), "sides exchanged"),
    (nb03.box_line, lambda c, b, w, h: box_line(c, (*b[:2], b[2] - b[0], b[3] - b[1]), w, h), "size instead of corner"),
    (nb03.box_line, one_decimal, "decimals"),
    (nb03.blocks, lambda reply: blocks(reply + "==="), "cut-off pair kept"),
    (nb03.blocks, marks_kept, "marks kept"),
    (nb03.blocks, not_stripped, "not stripped"),
    (nb03.blocks, lambda reply: [pair[::-1] for pair in blocks(reply)], "exchanged"),
    (nb03.blocks, lambda reply: blocks(reply)[:1], "first only"),
    (nb03.blocks, lambda reply: [], None),
    (nb03.blocks, lambda reply: 3, None),
    (nb03.breaks_rule, lambda text: breaks_rule(text) or "box" in text, "every box"),
    (nb03.breaks_rule, lambda text: bool(re.search(r"caption|descri|bounding|coordinate|\d\.\d", text)), "upper case"),
    (nb03.breaks_rule, lambda text: bool(re.search("caption|descri|bounding|coordinate", text.lower())), "no numbers"),
    (nb03.breaks_rule, lambda text: breaks_rule(text) or any(map(str.isdigit, text)), "every number"),
    (nb03.breaks_rule, lambda text: not breaks_rule(text), "turned"),
    (nb03.breaks_rule, lambda text: "bounding" in text.lower(), "boxes only"),
    (nb03.breaks_rule, lambda text: True, None),
    (nb03.restate, lambda question: restate(question, max), "last noun"),
    (nb03.restate, without_there, "there"),
    (nb03.restate, lambda question: restate(question, end="?"), "question mark"),
    (nb03.restate, lambda question: restate(question).lower(), "lower case"),
    (nb03.restate, behind_second_word, "second word"),
    (nb03.restate, lambda question: question, None),
    (nb03.fault_of, lambda s, c: "false existence" if c.type == "exists" else fault_of(s, c), "no such object"),
    (nb03.fault_of, lambda s, c: "wrong colour" if c.type == "attribute" else fault_of(s, c), "every look a colour"),
    (nb03.fault_of, denial_ignored, "denial"),
    (nb03.fault_of, no_attribute, "colour that is there"),
    (nb03.fault_of, lambda s, c: f"wrong {c.type}", None),
    (nb03.empty_reply, lambda scene: "The cat is a cat.", "no blocks"),
    (nb03.empty_reply, lambda scene: "", "no blocks"),
    (nb03.empty_reply, lambda s: about(s, "What color is the {kind}?", "The {kind} is {other}."), "dropped"),
    (nb03.empty_reply, lambda s: about(s, "What is it?", "Its box is a box."), "dropped"),
    (nb03.empty_reply, lambda s: about(s, "What color is the {kind}?", "The {kind} is {colour}."), "says something"),
    (nb03.empty_reply, lambda s: about(s, "Is there a {kind}?", "Yes."), "says something"),
    (nb03.empty_reply, lambda scene: 3, "no blocks"),
    (nb03.says_more, lambda claim: claim.mood == "presupposed" or says_more(claim), "presupposed counts"),
    (nb03.says_more, lambda claim: claim.type == "attribute" or says_more(claim), "attributes forgotten"),
    (nb03.says_more, lambda c: c.value.looks != c.subject.looks if c.type == "is" else says_more(c),
     "nouns compared whole"),
    (nb03.says_more, lambda c: c.value.kind != c.subject.kind if c.type == "is" else says_more(c), "kinds compared"),
    (nb03.says_more, lambda claim: claim.type != "is" and says_more(claim), "is dropped"),
    (nb03.says_more, lambda claim: True, None),
]  # fmt: skip


@pytest.mark.parametrize(("check", "answer", "mistake"), WRONG)
def test_wrong_answers(check, answer, mistake, judged):
    verdict = judged(check, answer)
    assert not verdict.ok
    assert verdict.mistake == mistake, verdict
    assert verdict.message.startswith(check.__name__)


@pytest.mark.parametrize(
    "answer",
    [
        ("Which object is the {kind}?", "The {kind} is the {kind}."),
        ("What is the {colour} {kind}?", "The {colour} {kind} is a {kind}."),
        ("What color is the {colour} {kind}?", "The {colour} {kind} is {colour}."),
    ],
)
def test_there_is_more_than_one_way_to_say_nothing(answer, judged):
    assert judged(nb03.empty_reply, lambda scene: about(scene, *answer))


def test_what_the_chapter_quotes_was_kept():
    text = (SOURCES / "03_instruction_data.py").read_text(encoding="utf-8")
    quoted = re.findall(r'"([^"]+)"', text[text.index("### What the checker lets through") : text.index("upper bound")])
    kept = [
        said
        for (kind, seed), reply in instruction.recorded("smollm2").items()
        for each in instruction.review(sample(seed, split="train"), reply, kind)[1]
        if each.kept
        for said in (each.question, each.answer)
    ]
    sentences = [each for each in map(str.strip, quoted) if each.endswith((".", "?"))]
    assert len(sentences) == 4
    assert set(sentences) <= set(kept)
