"""Notebook 05. What VQAv2, TextVQA and VizWiz share: how an answer's text is normalised, and its consensus accuracy.

The rules are those of the public VQA evaluation (Antol et al. 2015, arXiv 1505.00468), with its oddities: a score that
is to be compared with published ones has to make the same mistakes. Answers are compared as strings, so normalising
decides many of them.
"""

import re
from collections.abc import Sequence
from functools import lru_cache

MARKS = ';/[]"{}()=+\\_-><@`,?!'  # no apostrophe, colon, period, &, %, $
_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
NUMBERS = {"none": "0"} | {word: str(number) for number, word in enumerate(_NUMBERS)}
ARTICLES = {"a", "an", "the"}
_APOSTROPHES = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
    he's how'd how'll how's I'd've I'm I've isn't it'd it'd've it'll ma'am might've mightn't mightn't've must've mustn't
    needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll
    somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd
    there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll
    what're what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't
    would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""
CONTRACTIONS = {
    word[:at] + word[at + 1 :]: word for word in _APOSTROPHES.split() for at, letter in enumerate(word) if letter == "'"
} | {"somebody'd": "somebodyd"}  # the wrong way round in the official table too
"""A word that lacks one apostrophe -> the word. Those with a capital never match: the text is lower-cased before."""
MAXIMUM_OF_PERIODS = 32  # the official program passes the flag re.UNICODE, which is 32, where the count stands


def tidy(text: str) -> str:
    """New lines and tabs become spaces; spaces at the ends go."""
    return text.replace("\n", " ").replace("\t", " ").strip()


def punctuation(text: str) -> str:
    """Marks go where one of their kind stands beside a space, or the text has a comma within a number; elsewhere each
    becomes a space. The first 32 periods that no digit follows go."""
    comma = re.search(r"\d,\d", text)
    plain = text
    for mark in MARKS:
        if mark in text:
            plain = plain.replace(mark, "" if comma or f"{mark} " in text or f" {mark}" in text else " ")
    return re.sub(r"\.(?!\d)", "", plain, count=MAXIMUM_OF_PERIODS)


def digits_and_articles(text: str) -> str:
    """Lower case, numbers up to ten as digits, no articles, apostrophes put back; words with one space between."""
    words = (NUMBERS.get(word, word) for word in text.lower().split())
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


@lru_cache(1 << 16)  # the same answers come again and again
def normalised(text: str) -> str:
    """`punctuation`, then `digits_and_articles`."""
    return digits_and_articles(punctuation(text))


@lru_cache(1 << 16)
def m4c(text: str) -> str:
    """The answer processor of M4C (Hu et al. 2020, arXiv 1911.06258), TextVQA's: first , and ? go, and 's is a word."""
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's")
    return normalised(tidy(text))


def consensus(own: Sequence[int]) -> float:
    """Accuracy of an answer beside those of N people, the mean over people of min(1, matches among the others / 3).

    own: (N,) for each person how many of the matching answers count as theirs and not as the others': 0 if theirs does
        not match, else 1 (or more, where records repeat: see `vqav2`).
    Source: the evaluation page of VQAv2 (Goyal et al. 2017, arXiv 1612.00837).
    """
    matching = sum(map(bool, own))
    return sum(min(1.0, (matching - mine) / 3) for mine in own) / len(own)
