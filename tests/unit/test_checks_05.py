"""Each check of notebook 05 names the mistake of wrong answers; what exercise 3 says cannot be had cannot be had."""

import math
import re

import pytest
from exercises import solutions
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmlab.benchmarks import vqa_text
from vlmlab.benchmarks.vqav2 import PROFILES, Example, score
from vlmlab.checks import nb05

SOLUTIONS = solutions("05_evaluating.py", {"vqa_text": vqa_text, "math": math})
normalise = SOLUTIONS["normalise"]


# ------------------------------------------------------------------ wrong answers, and the mistake each looks like
def finished(text, numbers=True, articles=True, contractions=True):
    words = [vqa_text.NUMBERS.get(w, w) if numbers else w for w in text.split()]
    words = [w for w in words if not articles or w not in ("a", "an", "the")]
    return " ".join(vqa_text.CONTRACTIONS.get(w, w) if contractions else w for w in words)


def without(**left_out):
    return lambda text: finished(vqa_text.punctuation(text).lower(), **left_out)


def marked(instead, periods=r"\.(?!\d)"):
    """instead: (mark, text) -> what becomes of a kind of mark."""

    def answer(text):
        plain = text
        for mark in vqa_text.MARKS:
            plain = plain.replace(mark, instead(mark, text))
        return finished(re.sub(periods, "", plain).lower())

    return answer


def beside(mark, text):
    return f"{mark} " in text or f" {mark}" in text


def number(text):
    return re.search(r"\d,\d", text)


def one_by_one(text):
    plain = text
    for mark in vqa_text.MARKS:
        plain = plain.replace(f" {mark}", " ").replace(f"{mark} ", " ").replace(mark, "" if number(text) else " ")
    return finished(re.sub(r"\.(?!\d)", "", plain).lower())


def people(compare, rule=None):
    def answer(prediction, answers):
        marks = compare(prediction, answers)
        return rule(marks) if rule else sum(min(1, (sum(marks) - mine) / 3) for mine in marks) / 10

    return answer


def rightly(prediction, answers):
    texts, said = [vqa_text.tidy(text) for text in answers], vqa_text.tidy(prediction)
    change = normalise if len(set(texts)) > 1 else str
    return [change(text) == change(said) for text in texts]


def always(how):
    return lambda prediction, answers: [how(text) == how(prediction) for text in answers]


def of_2016(prediction, answers):
    same = len(set(answers)) == 1
    said = normalise(vqa_text.tidy(prediction))
    return [said == (text if same else vqa_text.punctuation(text)) for text in answers]


def untidy_set(prediction, answers):
    change = normalise if len(set(answers)) > 1 else str
    return [change(vqa_text.tidy(text)) == change(vqa_text.tidy(prediction)) for text in answers]


def cases(**changes):
    """The solution's cases, some of them replaced: "ab" stands for profile a above profile b, each 0, 1 or 2."""

    def answer(higher, lower):
        key = f"p{PROFILES.index(higher)}{PROFILES.index(lower)}"
        return changes[key] if key in changes else SOLUTIONS["differ"](higher, lower)

    return answer


def words(text, cut=".", comma="", split=" ", known=("No", "no", "not"), lower=False):
    text = (text.split(cut)[0] if cut else text).replace(",", comma)
    return "no" if set(known) & set((text.lower() if lower else text).split(split)) else "yes"


def shares(right, entailed, itself=False, wrong=False):
    found = {name: [o for o in others if itself or o != name] for name, others in entailed.items()}
    return [[right[o] for o in others] for name, others in found.items() if others and (wrong or right[name])]


def averaged(**changes):
    def answer(right, entailed):
        means = [sum(marks) / len(marks) for marks in shares(right, entailed, **changes)]
        return sum(means) / len(means)

    return answer


def pooled(right, entailed):
    marks = [mark for found in shares(right, entailed) for mark in found]
    return sum(marks) / len(marks)


def with_zeros(right, entailed):
    found = shares(right, entailed)
    return sum(sum(marks) / len(marks) for marks in found) / sum(right[name] for name in entailed)


def strictly(right, entailed):
    found = shares(right, entailed)
    return sum(map(all, found)) / len(found)


def kept(pairs):
    return [pair for pair in pairs if pair != (-1, -1)]


def ratio(pairs):
    return 100 * sum(c for _, c in pairs) / sum(r for r, _ in pairs)


def variance(d, s):
    return 1.96**2 * (s - d * d) / d**2


YES = ("Yes", ["yes"] * 10)
WRONG = [
    ("normalise", str, None),
    ("normalise", str.lower, None),
    ("normalise", lambda t: finished(vqa_text.punctuation(t)), "capitals"),
    ("normalise", without(articles=False), "articles"),
    ("normalise", without(numbers=False), "number words"),
    ("normalise", without(contractions=False), "contractions"),
    ("normalise", lambda t: finished(re.sub("the|an|a", "", vqa_text.punctuation(t).lower())), "articles inside words"),
    ("normalise", lambda t: finished(t.lower()), "no punctuation"),
    ("normalise", marked(lambda m, t: "" if number(t) or beside(m, t) else " ", periods="$^"), "periods stay"),
    ("normalise", marked(lambda m, t: "" if number(t) or beside(m, t) else " ", periods=r"\."), "all periods"),
    ("normalise", marked(lambda m, t: " "), "always a space"),
    ("normalise", marked(lambda m, t: ""), "always deleted"),
    ("normalise", one_by_one, "place by place"),
    ("normalise", marked(lambda m, t: "" if beside(m, t) else " "), "comma of a number"),
    ("normalise", marked(lambda m, t: "" if beside(m, t) or (m == "," and number(t)) else " "), "only the comma"),
    ("normalise", lambda t: normalise(t).replace("'", "").replace(":", ""), "apostrophes"),
    ("normalise", lambda t: vqa_text.punctuation(finished(t.lower())), "wrong order"),
    ("vqa_accuracy", lambda p, a: 100 * SOLUTIONS["vqa_accuracy"](p, a), "per cent"),
    ("vqa_accuracy", people(rightly, lambda m: min(1, sum(m) / 3)), "own answer counts"),
    ("vqa_accuracy", people(rightly, lambda m: sum(m) / 10), "share"),
    ("vqa_accuracy", people(rightly, any), None),
    ("vqa_accuracy", people(rightly, lambda m: float(any(m))), "any match"),
    ("vqa_accuracy", people(rightly, lambda m: min(1.0, max(0, sum(m) - 1) / 3)), "only who agrees"),
    ("vqa_accuracy", people(always(lambda t: normalise(vqa_text.tidy(t)))), "always normalised"),
    ("vqa_accuracy", people(always(vqa_text.tidy)), "never normalised"),
    ("vqa_accuracy", people(of_2016), "prediction alone"),
    ("vqa_accuracy", people(untidy_set), "tidied late"),
    ("differ", lambda higher, lower: YES, None),
    ("differ", lambda higher, lower: ("a dog", ["the dog"]), "not ten texts"),
    ("differ", lambda higher, lower: ("a dog", ["the dog"] * 9 + [None]), "not ten texts"),
    ("differ", cases(p02=YES, p12=YES), "cannot be had"),
    ("differ", cases(p10=None), "given up"),
    ("differ", cases(p01=YES), "other way round"),
    ("differ", cases(p20=("yes", ["yes"] * 10)), "equal"),
    ("differ", lambda higher, lower: 7, "exception"),
    ("parse_pope", lambda t: words(t, lower=True), "any case"),
    ("parse_pope", lambda t: words(t, cut=None), "whole text"),
    ("parse_pope", lambda t: words(t, comma=","), "commas"),
    ("parse_pope", lambda t: words(t, comma=" "), "commas as spaces"),
    ("parse_pope", lambda t: words(t, split=None), "any white space"),
    ("parse_pope", lambda t: words(t) if t else "no", "empty is no"),
    ("parse_pope", lambda t: "no" if "no" in t.split(".")[0].replace(",", "").lower() else "yes", None),
    ("parse_pope", lambda t: "no" if re.search("no|No", t.split(".")[0].replace(",", "")) else "yes", "inside words"),
    ("parse_pope", lambda t: "no" if re.match("(No|no|not)( |$)", t.replace(",", "").split(".")[0]) else "yes", None),
    ("parse_pope", lambda t: "yes" if words(t, known=("yes", "Yes")) == "no" else "no", "looks for a yes"),
    ("parse_pope", lambda t: {None: "yes"}.get(p := nb05.parse_robust(t), p), "as a person reads"),
    ("consistency", averaged(itself=True), "itself"),
    ("consistency", averaged(wrong=True), "wrong ones too"),
    ("consistency", pooled, "all in one pot"),
    ("consistency", with_zeros, "nothing follows"),
    ("consistency", strictly, "all or nothing"),
    ("consistency", lambda right, entailed: sum(right.values()) / len(right), "accuracy"),
    ("relative_score", ratio, "unreadable counted"),
    ("relative_score", lambda p: 100 * sum(c / r for r, c in kept(p)) / len(kept(p)), "mean of ratios"),
    ("relative_score", lambda p: 1e4 / ratio(kept(p)), "upside down"),
    ("relative_score", lambda p: ratio(kept(p)) / 100, "fraction"),
    ("questions_needed", variance, "not rounded up"),
    ("questions_needed", lambda d, s: math.floor(variance(d, s)), "rounded down"),
    ("questions_needed", lambda d, s: math.ceil(variance(d, s) ** 0.5), "not squared"),
    ("questions_needed", lambda d, s: math.ceil(variance(d, s) / 1.96**2), "one standard error"),
    ("questions_needed", lambda d, s: math.ceil(1.96**2 * s / d**2), "mean not taken off"),
    ("questions_needed", lambda d, s: math.ceil(1.96**2 * 0.5 / d**2), "separate samples"),
]


@pytest.mark.parametrize(("name", "answer", "mistake"), WRONG)
def test_wrong_answers(name, answer, mistake, judged):
    verdict = judged(getattr(nb05, name), answer)
    assert not verdict.ok
    assert verdict.mistake == mistake, verdict
    assert verdict.message.startswith(name)


def test_another_right_way_is_right(judged):
    assert judged(nb05.normalise, vqa_text.normalised).ok
    assert judged(nb05.vqa_accuracy, people(rightly)).ok
    assert judged(nb05.differ, cases(p10=("yes.", ["yes"] * 10), p20=("YES", ["yes"] * 10))).ok
    assert judged(nb05.parse_pope, words).ok
    assert judged(nb05.consistency, averaged()).ok
    assert judged(nb05.questions_needed, lambda d, s: math.ceil(variance(d, s))).ok


PIECES = ("yes", "Yes", "no", "the", "a", "Two", "2", "none", "dont", "don't", ",", ".", "/", "1,000", " ", "\n")
TEXTS = st.lists(st.sampled_from(PIECES), min_size=1, max_size=4).map("".join)


@given(said=TEXTS, texts=st.lists(TEXTS, min_size=1, max_size=3), seed=st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=150)
def test_no_profile_scores_higher_than_the_one_that_always_normalises_both(said, texts, seed):
    ten = seed.choices([*texts, said], k=10)
    one = Example(1, 1, None, "", "other", [{"answer_id": i, "answer": text} for i, text in enumerate(ten)])
    found = {name: score([one], {1: said}, name)["accuracy"] for name in PROFILES}
    assert max(found.values()) == found["lmms-eval"], (said, ten)
