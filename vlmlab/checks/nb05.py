"""Checks of notebook 05: VQAv2's scorer, where two differ, POPE's parser, consistency, relative score, sample size."""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from math import ceil
from statistics import mean
from typing import Any

from vlmlab.benchmarks import vqa_text
from vlmlab.benchmarks.pope import parse_official, parse_robust
from vlmlab.benchmarks.statistics import Z95
from vlmlab.benchmarks.vqa_text import ARTICLES, CONTRACTIONS, MARKS, NUMBERS, consensus, normalised, tidy
from vlmlab.benchmarks.vqav2 import PROFILES, Example, score
from vlmlab.checks.base import Case, Mistake, Verdict, run_check


# ---------------------------------------------------------------- 1 · normalise
def _words(
    text: str, lower: bool = True, numbers: bool = True, articles: bool = True, contractions: bool = True
) -> str:
    words = [NUMBERS.get(word, word) if numbers else word for word in (text.lower() if lower else text).split()]
    words = [word for word in words if not (articles and word in ARTICLES)]
    return " ".join(CONTRACTIONS.get(word, word) if contractions else word for word in words)


def _marks(text: str, instead: Callable[[str, str], str]) -> str:
    """instead: (mark, text) -> what each mark of the kind becomes."""
    plain = text
    for mark in MARKS:
        plain = plain.replace(mark, instead(mark, text))
    return re.sub(r"\.(?!\d)", "", plain)


def _by_rule(mark: str, text: str, comma: bool = True) -> str:
    gone = f"{mark} " in text or f" {mark}" in text or (comma and re.search(r"\d,\d", text))
    return "" if gone else " "


def _place_by_place(text: str) -> str:
    kinds, comma = re.escape(MARKS), re.search(r"\d,\d", text)
    plain = re.sub(rf"(?<= )[{kinds}]|[{kinds}](?= )", "", text)
    return _words(re.sub(r"\.(?!\d)", "", re.sub(f"[{kinds}]", "" if comma else " ", plain)))


def _inside_words(text: str) -> str:
    plain = vqa_text.punctuation(text).lower()
    for article in ("the", "an", "a"):
        plain = plain.replace(article, "")
    return _words(plain)


def normalise(answer: Any) -> Verdict:
    """Exercise 1: the text processing of VQAv2's program."""

    def left_out(**without: bool) -> Callable[[str], str]:
        return lambda text: _words(vqa_text.punctuation(text), **without)

    def made(instead: Callable[[str, str], str]) -> Callable[[str], str]:
        return lambda text: _words(_marks(text, instead))

    return run_check(
        "normalise",
        answer,
        normalised,
        [
            Case((text,), repr(text))
            for text in (
                "Two cats", "the banana", "None", "a dog and an owl", "it isnt", "yes.", "3.5 m", "black/white",
                "black/white / grey", "1,000-2,000", "1,000", "left , right", "the cat's", "12:30", "two.",
            )
        ],
        [
            Mistake("capitals", "capitals stay; lower-case the text", left_out(lower=False)),
            Mistake("articles", "a, an and the stay; drop these words", left_out(articles=False)),
            Mistake("articles inside words", "letters go missing inside words; drop whole words only", _inside_words),
            Mistake("number words", "number words stay; NUMBERS has the digits", left_out(numbers=False)),
            Mistake("contractions", "a missing apostrophe is not put back; CONTRACTIONS has them",
                    left_out(contractions=False)),
            Mistake("no punctuation", "marks and periods stay; punctuation comes first", _words),
            Mistake("periods stay", "a period goes unless a digit follows it",
                    lambda text: _words("".join(_by_rule(c, text) if c in MARKS else c for c in text))),
            Mistake("all periods", "the period of a decimal number stays: only those that no digit follows go",
                    lambda text: _words(vqa_text.punctuation(text).replace(".", ""))),
            Mistake("always a space", "every mark becomes a space; one that stands beside a space is deleted instead",
                    made(lambda mark, text: " ")),
            Mistake("always deleted", "every mark is deleted; one that stands beside no space becomes a space",
                    made(lambda mark, text: "")),
            Mistake("place by place", "marks of one kind go together: if one stands beside a space, all are deleted",
                    _place_by_place),
            Mistake("comma of a number", "a comma within a number deletes all marks of the text",
                    made(lambda mark, text: _by_rule(mark, text, comma=False))),
            Mistake("only the comma", "a comma within a number deletes every kind of mark, not the comma alone",
                    made(lambda mark, text: _by_rule(mark, text, comma=mark == ","))),
            Mistake("apostrophes", "apostrophes and colons are no marks; they stay",
                    lambda text: re.sub("[':]", "", normalised(text))),
            Mistake("wrong order", "punctuation first: in \"two.\" the word is found once the period is gone",
                    lambda text: vqa_text.punctuation(_words(text))),
        ],
        done="right, with the program's oddities",
    )  # fmt: skip


# ---------------------------------------------------------------- 2 · VQAv2's accuracy
def _ten(texts: Sequence[str]) -> list[dict[str, Any]]:
    return [{"answer_id": number, "answer": text} for number, text in enumerate(texts, 1)]


def _scored(prediction: str, answers: Sequence[str], profile: str) -> float:
    example = Example(1, 1, None, "", "other", _ten(answers))
    return float(score([example], {1: prediction}, profile)["accuracy"])


def _matches(prediction: str, answers: Sequence[str]) -> list[bool]:
    """Who said it, as the program of 2021 compares."""
    texts, said = [tidy(text) for text in answers], tidy(prediction)
    if len(set(texts)) > 1:
        texts, said = [normalised(text) for text in texts], normalised(said)
    return [text == said for text in texts]


def _set_first(prediction: str, answers: Sequence[str]) -> float:
    change = normalised if len(set(answers)) > 1 else str
    return consensus([change(tidy(text)) == change(tidy(prediction)) for text in answers])


def vqa_accuracy(answer: Any) -> Verdict:
    """Exercise 2: the accuracy of a prediction beside ten answers, as the program of 2021 has it."""

    def by(rule: Callable[[list[bool]], float]) -> Callable[..., float]:
        return lambda prediction, answers: rule(_matches(prediction, answers))

    def compared(how: Callable[[str], str]) -> Callable[..., float]:
        return lambda prediction, answers: consensus([how(text) == how(prediction) for text in answers])

    cases = (
        ("red", ["red"] * 3 + ["blue"] * 7, "three of ten"),
        ("red", ["red"] * 2 + ["blue"] * 8, "two of ten"),
        ("Red.", ["red"] * 6 + ["dark"] * 4, "six of ten, with a capital and a period"),
        ("a dog", ["the dog"] * 7 + ["dog"] * 3, 'seven "the dog" and three "dog"'),
        ("2", ["two"] * 4 + ["2"] * 2 + ["3"] * 4, 'four "two", two "2", four "3"'),
        ("yes", ["yes"] * 10, 'ten "yes"'),
        ("Yes", ["yes"] * 10, 'ten "yes", the prediction "Yes"'),
        ("yes", ["Yes"] * 5 + ["Yes\n"] * 5, 'five "Yes" and five "Yes\\n"'),
    )
    return run_check(
        "vqa_accuracy",
        answer,
        lambda prediction, answers: _scored(prediction, answers, PROFILES[0]),
        [Case((prediction, answers), name) for prediction, answers, name in cases],
        [
            Mistake("per cent", "that is per cent; give a fraction", by(lambda m: 100 * consensus(m))),
            Mistake("own answer counts", "leave each person's own answer out: compare with the nine others",
                    by(lambda m: min(1.0, sum(m) / 3))),
            Mistake("share", "that is the share of people who agree; three of the others are enough for 1",
                    by(lambda m: sum(m) / len(m))),
            Mistake("any match", "one person who agrees is not enough; min(1, matches among the other nine / 3)",
                    by(lambda m: float(any(m)))),
            Mistake("only who agrees", "the mean runs over all ten people, not only over those who said it",
                    by(lambda m: min(1.0, (sum(m) - 1) / 3) if any(m) else 0.0)),
            Mistake("always normalised", "it always normalises; the program of 2021 does so only if the ten are not "
                    "all the same string", compared(lambda text: normalised(tidy(text)))),
            Mistake("never normalised", "it never normalises; do so if the ten are not all the same string",
                    compared(tidy)),
            Mistake("prediction alone", "that is the program of 2016; here the ten people's answers are normalised too",
                    lambda prediction, answers: _scored(prediction, answers, PROFILES[1])),
            Mistake("tidied late", "tidy the ten answers before you ask whether they are all the same", _set_first),
        ],
        done="right: you have written VQAv2's scorer",
    )  # fmt: skip


# ---------------------------------------------------------------- 3 · where two scorers differ
POSSIBLE = {(one, other) for one in PROFILES for other in PROFILES[:2] if one != other}
FOUND, EQUAL, TURNED, NOT_TEN = "the first scores higher", "equal", "the second scores higher", "not ten texts"


def _compared(case: Any, higher: str, lower: str) -> Any:
    if case is None or case is ...:
        return None
    prediction, answers = case
    if len(answers) != 10 or not all(isinstance(text, str) for text in (prediction, *answers)):
        return NOT_TEN
    first, second = (_scored(prediction, answers, profile) for profile in (higher, lower))
    return FOUND if first > second else EQUAL if first == second else TURNED


def differ(answer: Any) -> Verdict:
    """Exercise 3: (prediction, ten answers) that one profile scores higher than another, or None."""
    run = answer
    if callable(answer):

        @wraps(answer)
        def run(higher: str, lower: str) -> Any:
            return _compared(answer(higher, lower), higher, lower)

    def gives(*also: Any) -> Callable[..., bool]:
        return lambda got, expected, *_: got == expected or got in also

    return run_check(
        "differ",
        run,
        lambda higher, lower: FOUND if (higher, lower) in POSSIBLE else None,
        [Case((one, other), f"{one} above {other}") for one in PROFILES for other in PROFILES if one != other],
        [
            Mistake("not ten texts", "return a prediction and a list of ten texts", fits=gives(NOT_TEN)),
            Mistake("cannot be had", "some orders cannot be had: what always normalises both sides is the most "
                    "lenient; return None there", fits=lambda got, expected, *_: expected is None or got == expected),
            Mistake("given up", "one of these can be had: think of what only one of the two normalises",
                    fits=lambda got, expected, *_: got in (expected, None)),
            Mistake("other way round", "the second scores it higher than the first", fits=gives(TURNED)),
            Mistake("equal", "both score it alike; try ten answers that are all the same, or an article in people's "
                    "answers", fits=gives(EQUAL, None)),
        ],
        done="right, and two of the six orders cannot be had",
    )  # fmt: skip


# ---------------------------------------------------------------- 4 · POPE's parser
def _parsed(text: str, whole: bool = False, commas: bool = False, lower: bool = False, spaces: Any = " ") -> str:
    text = text if whole else text.split(".")[0]
    text = text if commas else text.replace(",", "")
    text = text.lower() if lower else text
    return "no" if {"No", "no", "not"} & set(text.split(spaces)) else "yes"


def parse_pope(answer: Any) -> Verdict:
    """Exercise 4: a text as the official program reads it."""
    texts = (
        "yes", "No, it is a cat.", "no", "There is not a dog", "NO", "Nope", "There isn't a dog",
        "Nothing is there", "I know this dog", "Yes. There is no cat", "", "No\n", "No,there is none",
    )  # fmt: skip
    return run_check(
        "parse_pope",
        answer,
        parse_official,
        [Case((text,), repr(text)) for text in texts],
        [
            Mistake("as a person reads", 'a person reads it so; the program knows three words: "No", "no", "not"',
                    lambda text: parse_robust(text) or "yes"),
            Mistake("any case", 'case counts: "NO" is none of the three words', lambda text: _parsed(text, lower=True)),
            Mistake("inside words", 'whole words only: "know" and "Nothing" are none of the three',
                    lambda text: "no" if re.search("no|No", text.split(".")[0].replace(",", "")) else "yes"),
            Mistake("whole text", "only what stands before the first period counts",
                    lambda text: _parsed(text, whole=True)),
            Mistake("commas", 'delete commas before you split, or "No," is another word than "No"',
                    lambda text: _parsed(text, commas=True)),
            Mistake("commas as spaces", 'a comma is deleted, not replaced: "No,there" becomes one word',
                    lambda text: _parsed(text.replace(",", " "))),
            Mistake("any white space", 'split at spaces only, split(" "): "No\\n" is another word than "No"',
                    lambda text: _parsed(text, spaces=None)),
            Mistake("first word", "the word may stand anywhere before the first period",
                    lambda text: "no" if text.split(".")[0].replace(",", "").split(" ")[0] in ("No", "no", "not")
                    else "yes"),
            Mistake("empty is no", "a text without any of the words is a yes, the empty text too",
                    lambda text: parse_official(text) if text else "no"),
            Mistake("looks for a yes", "it looks for a yes; the program looks for a no, and all else is a yes",
                    lambda text: "yes" if {"Yes", "yes"} & set(text.split(".")[0].split(" ")) else "no"),
        ],
        done="right: the official reading",
    )  # fmt: skip


# ---------------------------------------------------------------- 5 · GQA's consistency
Right = Mapping[str, bool]
Entailed = Mapping[str, Sequence[str]]


def _shares(right: Right, entailed: Entailed, itself: bool = False, wrong: bool = False) -> list[list[bool]]:
    """The marks of the questions that each question entails, where there are any."""
    others = {name: [o for o in found if itself or o != name] for name, found in entailed.items()}
    return [[right[o] for o in found] for name, found in others.items() if found and (wrong or right[name])]


def consistency(answer: Any) -> Verdict:
    """Exercise 5: how often what follows from a right answer is answered right too."""

    def per_question(**changes: bool) -> Callable[[Right, Entailed], float]:
        return lambda right, entailed: mean(mean(marks) for marks in _shares(right, entailed, **changes))

    def lonely(right: Right, entailed: Entailed) -> float:
        rates = [mean(marks) for marks in _shares(right, entailed)]
        correct = sum(right[name] for name in entailed)
        return sum(rates) / correct

    first = {"a": True, "b": True, "c": False, "d": True, "e": False}
    follows = {"a": ["a", "b", "c", "d"], "b": ["e"], "c": ["a"], "d": ["d"], "e": ["b", "c"]}
    second = {"p": True, "q": False, "r": True}
    return run_check(
        "consistency",
        answer,
        per_question(),
        [Case((first, follows), "five questions"),
         Case((second, {"p": ["p", "q"], "q": ["r"], "r": ["p", "r"]}), "three questions")],
        [
            Mistake("itself", "a list may name its own question; leave that out", per_question(itself=True)),
            Mistake("wrong ones too", "only questions that are answered right count", per_question(wrong=True)),
            Mistake("all in one pot", "take the mean for each question first, then the mean of these",
                    lambda right, entailed: mean(mark for marks in _shares(right, entailed) for mark in marks)),
            Mistake("nothing follows", "a question from which no other follows does not count, not even as 0", lonely),
            Mistake("all or nothing", "the share of the entailed questions that are right, not whether all are",
                    lambda right, entailed: mean(all(marks) for marks in _shares(right, entailed))),
            Mistake("accuracy", "that is the accuracy; look at the entailed questions of each right one",
                    lambda right, entailed: mean(right.values())),
        ],
        done="right, and it says nothing about how many answers are right",
    )  # fmt: skip


# ---------------------------------------------------------------- 6 · the relative score
Pairs = Sequence[tuple[float, float]]


def _readable(pairs: Pairs) -> list[tuple[float, float]]:
    return [pair for pair in pairs if pair != (-1, -1)]


def _relative(pairs: Pairs) -> float:
    return 100 * mean(candidate for _, candidate in pairs) / mean(reference for reference, _ in pairs)


def relative_score(answer: Any) -> Verdict:
    """Exercise 6: LLaVA-Bench's relative score without the unreadable replies."""
    return run_check(
        "relative_score",
        answer,
        lambda pairs: _relative(_readable(pairs)),
        [
            Case(([(8, 6), (10, 5), (4, 4), (9, 9)],), "four readable replies"),
            Case(([(9, 6), (-1, -1), (5, 5), (-1, -1), (8, 2)],), "two unreadable replies among five"),
        ],
        [
            Mistake("unreadable counted", "unreadable replies, (-1, -1), are averaged; leave them out", _relative),
            Mistake("mean of ratios", "divide the two means; the mean of the ratios is another number",
                    lambda pairs: 100 * mean(c / r for r, c in _readable(pairs))),
            Mistake("upside down", "the candidates' mean over the references', not the other way round",
                    lambda pairs: _relative([(c, r) for r, c in _readable(pairs)])),
            Mistake("fraction", "give per cent: times 100", lambda pairs: _relative(_readable(pairs)) / 100),
        ],
        done="right, the clean mean",
    )  # fmt: skip


# ---------------------------------------------------------------- 7 · how many questions
def questions_needed(answer: Any) -> Verdict:
    """Exercise 7: how many shared questions tell a difference from 0."""

    def needed(change: Callable[[float, float], float]) -> Callable[[float, float], int]:
        return lambda difference, disagreement: ceil(change(difference, disagreement))

    def exact(d: float, share: float) -> float:
        return Z95**2 * (share - d * d) / d**2

    return run_check(
        "questions_needed",
        answer,
        needed(exact),
        [Case((d, share), f"{100 * d:g} points and {100 * share:g} % that differ")
         for d, share in ((0.03, 0.2), (0.06, 0.3), (0.015, 0.1), (0.012, 0.3))],
        [
            Mistake("not rounded up", "questions are whole: round up", exact),
            Mistake("rounded down", "round up: with fewer the interval still holds 0",
                    lambda d, share: int(exact(d, share))),
            Mistake("not squared", "the standard error falls with the root of n, so square the rest",
                    needed(lambda d, share: Z95 * (share - d * d) ** 0.5 / d)),
            Mistake("one standard error", "one standard error is not enough: the interval reaches 1.96 of them",
                    needed(lambda d, share: (share - d * d) / d**2)),
            Mistake("mean not taken off", "the variance is s - D^2, the mean of the squares less the squared mean",
                    needed(lambda d, share: Z95**2 * share / d**2)),
            Mistake("separate samples", "that is for two separate samples; here both answer the same questions",
                    needed(lambda d, share: Z95**2 * 2 * 0.25 / d**2)),
        ],
        done="right; halve the difference and you need four times as many",
    )  # fmt: skip
