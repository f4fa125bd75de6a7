"""Each check of notebooks 00 and 01 names the mistake of wrong answers."""

from math import sqrt

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vlmlab import scenes, vision
from vlmlab.checks import Case, Mistake, nb00, nb01, run_check
from vlmlab.scenes.programs import step
from vlmlab.scenes.relations import LEFT
from vlmlab.vision.contrastive import clip_loss


def u(scene, i):
    return float(scene.geometry.u[i])


def shift(scene, a, b):
    return u(scene, b) - u(scene, a)


LEFT_OF = {
    "sides exchanged": lambda s, a, b: None if abs(shift(s, a, b)) < LEFT else shift(s, a, b) < 0,
    "never refuses": lambda s, a, b: shift(s, a, b) > 0,
    "no instead of a refusal": lambda s, a, b: shift(s, a, b) >= LEFT,
    "world coordinates": lambda s, a, b: s.objects[a].x < s.objects[b].x,
}
PROGRAMS = {
    "no relation": lambda colour, kind: [step("select", {"colour": colour}), step("exist", None, 0)],
    "wrong direction": lambda colour, kind: nb00._behind(colour, kind, relation="in front of"),
    "count for exist": lambda colour, kind: nb00._behind(colour, kind, last="count"),
    "filters the anchor": lambda colour, kind: nb00._behind(colour, kind, source=0),
    "exception": lambda colour, kind: [step("pick", colour)],
}
BOXES = {
    "corners not exchanged": lambda box, w: (w - box[0], box[1], w - box[2], box[3]),
    "off by one": lambda box, w: (w - 1 - box[2], box[1], w - 1 - box[0], box[3]),
    "upside down": lambda box, w: (box[0], w - box[3], box[2], w - box[1]),
    "unchanged": lambda box, w: list(box),
}


def normal(right, n):
    p = right / n
    half = 1.96 * sqrt(p * (1 - p) / n)
    return p - half, p + half


def wilson(right, n, z=1.96, centre=None):
    p = right / n
    middle, half = p + z * z / (2 * n), z * sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low, high = (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)
    return (low, high) if centre is None else (p - (high - low) / 2, p + (high - low) / 2)


INTERVALS = {
    "normal interval": normal,
    "percent": lambda right, n: tuple(100 * v for v in wilson(right, n)),
    "middle not moved": lambda right, n: wilson(right, n, centre="p"),
    "90 % interval": lambda right, n: wilson(right, n, z=1.645),
    "width": lambda right, n: wilson(right, n)[1] - wilson(right, n)[0],
}


def square(patches):
    return round(len(patches) ** 0.5)


def joined(tiles, order=(2, 0, 3, 1, 4)):
    side = tiles.shape[0] * tiles.shape[-1]
    return tiles.permute(*order).reshape(3, side, side)


PATCHES = {
    "reshape alone": lambda x, p: x.reshape(3, square(x) * p, square(x) * p),
    "rows and columns of patches exchanged": lambda x, p: joined(x.reshape(square(x), -1, 3, p, p), (2, 1, 3, 0, 4)),
    "pixels transposed": lambda x, p: joined(x.reshape(square(x), -1, 3, p, p).mT),
    "channels last inside": lambda x, p: joined(x.reshape(square(x), -1, p, p, 3).permute(0, 1, 4, 2, 3)),
    "channels last": lambda x, p: joined(x.reshape(square(x), -1, 3, p, p)).permute(1, 2, 0),
    "batch axis": lambda x, p: joined(x.reshape(square(x), -1, 3, p, p))[None],
    "type": "a text",
    "changed its input": lambda x, p: joined(x.mul_(1.0001).reshape(square(x), -1, 3, p, p)),
}


def pairs(logits):
    z = 2 * torch.eye(len(logits)) - 1
    return -F.logsigmoid(z * logits)


LOSSES = {
    "mean over all pairs": lambda x: pairs(x).mean(),
    "matching pairs only": lambda x: pairs(x).diagonal().mean(),
    "zeros instead of minus ones": lambda x: -F.logsigmoid(torch.eye(len(x)) * x).sum() / len(x),
    "all pairs match": lambda x: -F.logsigmoid(x).sum() / len(x),
    "sign": lambda x: -pairs(x).sum() / len(x),
    "softmax": clip_loss,
    "no mean": lambda x: pairs(x).sum(),
    "exception": lambda x: x @ torch.zeros(99),
}
CLASSES = {
    "mean over classes": lambda t: F.normalize(F.normalize(t, dim=-1).mean(0), dim=-1),
    "not normalised before": lambda t: F.normalize(t.mean(1), dim=-1),
    "not normalised after": lambda t: F.normalize(t, dim=-1).mean(1),
    "never normalised": lambda t: t.mean(1),
    "wrong axis of the norm": lambda t: F.normalize(F.normalize(t, dim=1).mean(1), dim=-1),
}


def count(image, patch, dim, layers, hidden, **changes):
    return nb01._vit_parameters(image, patch, dim, layers, hidden, **changes)


PARAMETERS = {
    "class token counted once": lambda *s: count(*s, class_token=False),
    "neither class token nor its position": lambda *s: count(*s, class_token=False, class_position=False),
    "patch bias": lambda *s: count(*s, patch_bias=True),
    "no biases": lambda *s: count(*s, biases=False),
    "no norms": lambda *s: count(*s, norms=False),
    "no outer norms": lambda *s: count(*s, outer=False),
    "no output projection": lambda *s: count(*s, projection=False),
}
WRONG = [
    (check, mistake, answer)
    for check, answers in (
        (nb00.left_of, LEFT_OF), (nb00.behind_program, PROGRAMS), (nb00.mirror_box, BOXES), (nb00.interval, INTERVALS),
        (nb01.unpatchify, PATCHES), (nb01.sigmoid_loss, LOSSES), (nb01.class_embeddings, CLASSES),
        (nb01.vit_parameters, PARAMETERS),
    )
    for mistake, answer in answers.items()
]  # fmt: skip


@pytest.mark.parametrize(("check", "mistake", "answer"), WRONG, ids=[f"{c.__name__}: {m}" for c, m, _ in WRONG])
def test_a_wrong_answer_is_rejected_and_its_mistake_named(check, mistake: str, answer, judged) -> None:
    verdict = judged(check, answer)
    assert not verdict.ok
    assert verdict.mistake == mistake, verdict


def test_parameters_are_those_of_the_package() -> None:
    config = vision.ViTConfig("clip", image_size=24, patch_size=8, dim=16, layers=2, heads=2, hidden=32)
    assert nb01._vit_parameters(24, 8, 16, 2, 32) == sum(p.numel() for p in vision.ViT(config).parameters())


# ------------------------------------------------------------------ fooling the model
def always(text):
    return lambda picture, question: text


def test_fooled_accepts_a_question_that_the_model_gets_wrong(judged) -> None:
    verdict = judged(nb00.fooled, (3, 0), always("I do not know."))
    assert verdict.ok
    assert scenes.sample(3, split="test").questions(count=12)[0].text in verdict.message


@pytest.mark.parametrize(
    ("answer", "mistake"),
    [
        (..., "not begun"),
        ((3, 99), "no such question"),
        ((3, -1), "no such question"),
        ((-1, 0), "no such scene"),
        (3, "type"),
        ((3, "0"), "type"),
    ],
)
def test_fooled_names_what_is_wrong(answer, mistake: str, judged) -> None:
    assert judged(nb00.fooled, answer, always("yes")).mistake == mistake


def test_fooled_rejects_a_right_answer_and_an_exception(judged) -> None:
    question = scenes.sample(3, split="test").questions(count=12)[0]
    verdict = judged(nb00.fooled, (3, 0), always(question.sentence))
    assert verdict.mistake == "the model is right"
    assert judged(nb00.fooled, (3, 0), lambda picture, text: 1 / 0).mistake == "exception"


# ------------------------------------------------------------------ what run_check says
def test_an_exception_is_shown_with_its_type_and_line(judged) -> None:
    def broken(x):
        y = x + 1
        return y / 0

    verdict = judged(lambda a: run_check("broken", a, lambda x: x, [(1,)]), broken)
    assert verdict.mistake == "exception"
    assert "ZeroDivisionError" in verdict.message
    assert "return y / 0" in verdict.message


@pytest.mark.parametrize(
    ("expected", "got", "words"),
    [
        (torch.zeros(2, 3), torch.zeros(3, 2), "shape (3, 2), expected (2, 3)"),
        (torch.zeros(2), [0.0, 0.0], "a tensor of shape (2,)"),
        (torch.ones(2), torch.tensor([1.0, float("nan")]), "NaN"),
        (np.ones(2), torch.ones(2), "an array of shape (2,)"),
        (1.5, "1.5", "a number"),
        (1.5, float("inf"), "got inf"),
        (True, 1, "True or False"),
        ((1, 2), (1, 2, 3), "2 values"),
        ([1.0, 2.0], [1.0, 3.0], "at position 1"),
        ({"a": 1}, {"b": 1}, "keys"),
        ("cat", "dog", "got 'dog', expected 'cat'"),
        ("cat", None, "got nothing"),
        (None, 3, "it should give nothing"),
    ],
)
def test_differences_are_said_in_words(expected, got, words: str, judged) -> None:
    cases = [(0,), (1,)]
    answers = {0: expected, 1: got}
    verdict = judged(lambda a: run_check("it", a, lambda i: expected, cases), lambda i: answers[i])
    assert not verdict.ok
    assert words in verdict.message


def test_small_errors_of_rounding_are_right() -> None:
    assert run_check("it", 1e6 + 1, 1e6)
    assert not run_check("it", 1e6 + 200, 1e6)
    assert run_check("it", torch.tensor([1e-9, 5.0]), torch.tensor([0.0, 5.0]))


def test_a_mistake_must_fit_every_case(capsys) -> None:
    half = Mistake("half", "it is half", lambda x: x / 2)
    cases = [Case((2.0,), "two"), Case((4.0,), "four")]
    assert run_check("it", lambda x: x / 2, lambda x: x, cases, [half]).mistake == "half"
    verdict = run_check("it", lambda x: 1.0, lambda x: x, cases, [half])
    assert verdict.mistake is None
    assert "for two" in verdict.message


def test_a_verdict_is_shown_once_in_a_notebook() -> None:
    from IPython.display import display

    verdict = run_check("it", 1, 1)
    assert verdict._ipython_display_() is None
    display(verdict)
