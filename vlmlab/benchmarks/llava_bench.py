"""Notebook 05. LLaVA-Bench: free answers, compared by a judge with a reference. Liu et al. 2023, arXiv 2304.08485.

The judge reads the reference (Assistant 1, written by a model that saw only text) and the candidate (Assistant 2) and
scores both from 1 to 10. The relative score is 100 x the candidates' mean / the references' mean. COCO: 30 pictures, 90
questions; In-the-Wild: 24 pictures, 60 questions. `judges` has the judges.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import isfinite
from typing import Any, NamedTuple

import numpy as np

from vlmlab.benchmarks.asking import Ask, Form, Mark, Said
from vlmlab.benchmarks.pairs import share
from vlmlab.benchmarks.records import File, Record, alone, answers, lines, matched, of_type, profile_of, unique
from vlmlab.errors import BadInput

PROFILES = ("official", "clean")
FORM = Form("question_id", "image", "predictions.jsonl", max_new_tokens=512)
CATEGORIES = ("conv", "detail", "complex")
PREFIX = "llava_bench_"  # what the official reviews of In-the-Wild put before a category
UNREADABLE = (-1.0, -1.0)
Pair = tuple[float, float]


class Example(NamedTuple):
    """A question about a picture; `category` is one of CATEGORIES."""

    question_id: int | str
    image: str
    text: str
    category: str


Judge = Callable[[Example, str, str], str]


class Review(NamedTuple):
    """A judge's scores of the reference and the candidate, and those with the two in the other order, if asked."""

    question_id: int | str
    label: str | None  # the category as the review's file has it
    scores: Pair
    swapped: Pair | None


def read(annotations: File, questions: None = None) -> list[Example]:
    """The questions: JSON lines of question_id, image, text and category (conv, detail or complex).

    Raises BadInput, also for a separate file of questions.
    """
    alone(questions, "LLaVA-Bench's questions are its annotations")
    found = []
    for record in unique(lines(annotations), "question_id"):
        category = record.need("category", str).removeprefix(PREFIX)
        if category not in CATEGORIES:
            raise record.fail("category", f"must be one of {', '.join(CATEGORIES)}, not {category!r}")
        asked = record.need("question_id", int, str), record.need("image", str), record.need("text", str)
        found.append(Example(*asked, category))
    return found


def asks(examples: Sequence[Example]) -> Iterator[Ask]:
    """The questions as they are."""
    return (Ask(one.question_id, one.image, one.text) for one in examples)


def results(examples: Sequence[Example], said: Mapping[Any, Said]) -> list[dict[str, Any]]:
    """The official answers, for a judge; `review` makes of them what `score` takes."""
    return [
        {"question_id": one.question_id, "prompt": one.text, "text": said[one.question_id].text} for one in examples
    ]


def marks(examples: Sequence[Example], predictions: Any, profile: str = "official") -> Iterator[Mark]:
    """Picture, the candidate's score and the reference's of each review that counts; arguments as for `score`."""
    images = {one.question_id: one.image for one in examples}
    for each in _reviews(predictions, images):
        if profile == "official" or each.scores != UNREADABLE:
            yield images[each.question_id], each.scores[1], each.scores[0]


def contexts(path: File) -> dict[str, str]:
    """What the judge is told of each image: captions, and boxes where the file has them, one a line.

    JSON lines of image, caption (In-the-Wild) or captions and instances (COCO). Raises BadInput.
    """
    found = {}
    for record in unique(lines(path), "image"):
        told = record.need("caption" if "caption" in record.value else "captions", str, list)
        boxes = record.maybe("instances", list, default=[])
        try:
            blocks = [[told] if isinstance(told, str) else told, [f"{box['category']}: {box['bbox']}" for box in boxes]]
            found[record.need("image", str)] = "\n\n".join("\n".join(block) for block in blocks if block)
        except (TypeError, KeyError):
            raise record.fail("instances" if boxes else "captions", "is not as in the published files") from None
    return found


def rules(path: File, prefix: str = PREFIX) -> dict[str, str]:
    """What is asked of the judge, by category, from a rule.json; `prefix` is "" for COCO. Raises BadInput."""
    from vlmlab.files import read_json

    known = read_json(path)
    try:
        return {category: str(known[prefix + category]["prompt"]) for category in CATEGORIES}
    except (KeyError, TypeError):
        raise BadInput(f"{path} has no rules {', '.join(prefix + each for each in CATEGORIES)}") from None


def parse(reply: str) -> Pair:
    """The two scores on a reply's first line, as the official program reads them; UNREADABLE if it cannot.

    Commas become spaces, and one space must stand between two numbers: "8 9" and "8,9" are read, "8, 9", "8  9" and a
    leading empty line are not. Any number is taken, but for infinity and NaN, which would spoil the mean.
    """
    words = reply.split("\n")[0].replace(",", " ").split(" ")
    try:
        first, second = map(float, words)
    except ValueError:
        return UNREADABLE
    return (first, second) if isfinite(first) and isfinite(second) else UNREADABLE


def review(
    questions: Sequence[Example],
    answers_: Any,
    references: Any,
    judge: Judge,
    swap: bool = True,
    progress: Callable[[int, int], object] | None = None,
) -> list[dict[str, Any]]:
    """Have a judge compare the answers with the references; the reviews are records as in the official files.

    Args:
        answers_, references: files of JSON lines (question_id, text), their records, or dicts id -> text.
        judge: see `judges`; the reference is shown first, as in the official program.
        swap: ask once more with the answers exchanged. `swapped` keeps that reply, its scores put back in order.
        progress: called with (reviews so far, all).
    Raises BadInput unless both hold exactly one text for each question; what the judge raises.
    """
    ids = [example.question_id for example in questions]
    texts = [answers(each, "question_id", "text", (int, str)) for each in (references, answers_)]
    for each in texts:
        matched(ids, each)
    found: list[dict[str, Any]] = []
    for example in questions:
        first, second = (each[example.question_id] for each in texts)
        content = judge(example, first, second)
        record: dict[str, Any] = {"id": len(found) + 1, "question_id": example.question_id}
        record |= {"category": example.category, "content": content, "tuple": list(parse(content))}
        if swap:
            content = judge(example, second, first)
            record["swapped"] = {"content": content, "tuple": list(parse(content)[::-1])}
        found.append(record)
        if progress:
            progress(len(found), len(questions))
    return found


def save(path: File, reviews: Sequence[Mapping[str, Any]]) -> None:
    """Write reviews as JSON lines, for `score` and for the official program."""
    from vlmlab.files import write_text

    write_text(path, "".join(json.dumps(each) + "\n" for each in reviews))


def score(examples: Sequence[Example], predictions: Any, profile: str = "official") -> dict[str, Any]:
    """The relative score, overall and by category.

    Args:
        examples: the questions, from `read`.
        predictions: a judge's reviews: a file of JSON lines, its records, or a dict id -> scores or reply. A record
            holds question_id and tuple (or score, as older files), or content, the reply to be read; and perhaps
            category and swapped.
        profile: "official" averages unreadable replies as -1 and -1, as the official program does; "clean" leaves them
            out.
    Returns:
        {"n", "accuracy", "relative_score", "reference", "candidate", "parse_failures", "missing", "by_category",
        "official"} and, if the answers were also shown in the other order, "swap" (see `agreement`). relative_score is
        in per cent, accuracy the same as a fraction: above 1 where the candidate beats the reference. n counts the
        reviews averaged. `official` has what the official program prints of the file, by its names of categories:
        relative score, and ten times the mean scores, to one decimal.
    The official program averages whatever reviews there are, so questions may be missing. Raises UnknownName for
    another profile; BadInput for a damaged review, a second one of a question, or one of a question that is not there.
    """
    profile_of(profile, PROFILES)
    categories = {example.question_id: example.category for example in examples}
    reviews = _reviews(predictions, categories)
    used = [each for each in reviews if profile == "official" or each.scores != UNREADABLE]
    result = _means([each.scores for each in used])
    found = {category: [e.scores for e in used if categories[e.question_id] == category] for category in CATEGORIES}
    labels = {"all": [each.scores for each in reviews]}
    for each in reviews:
        if each.label is not None:
            labels.setdefault(each.label, []).append(each.scores)
    swapped = [each for each in reviews if each.swapped is not None]
    return {
        **result,
        "parse_failures": sum(each.scores == UNREADABLE for each in reviews),
        "missing": len(categories) - len(reviews),
        "by_category": {category: _means(pairs) for category, pairs in found.items() if pairs},
        **({"swap": agreement(swapped)} if swapped else {}),
        "official": {label: _printed(pairs) for label, pairs in sorted(labels.items()) if pairs},
    }


def agreement(reviews: Sequence[Review]) -> dict[str, float]:
    """Whether a judge prefers the same answer in both orders, over the reviews that are readable in both.

    {"n", "agreement", "first_advantage"}: the share that prefer the same one (or neither, twice), and how many points
    an answer gains on average by standing first.
    """
    both = [(each.scores, each.swapped) for each in reviews if each.swapped and UNREADABLE not in each[2:]]
    same = sum(np.sign(a[0] - a[1]) == np.sign(b[0] - b[1]) for a, b in both)
    gained = sum((a[0] - b[0] + b[1] - a[1]) / 2 for a, b in both)
    return {"n": len(both), "agreement": share(int(same), len(both)), "first_advantage": share(gained, len(both))}


def _means(pairs: Sequence[Pair]) -> dict[str, Any]:
    reference, candidate = (float(mean) for mean in np.mean(pairs, 0)) if pairs else (0.0, 0.0)
    accuracy = share(candidate, reference)
    return {"n": len(pairs), "accuracy": accuracy, "relative_score": 100 * accuracy,
            "reference": reference, "candidate": candidate}  # fmt: skip


def _printed(pairs: Sequence[Pair]) -> dict[str, float]:
    """One line of the official program: it rounds the means to three decimals before it divides them."""
    reference, candidate = (round(mean, 3) for mean in np.asarray(pairs).mean(0).tolist())
    return {
        "relative": round(share(candidate, reference) * 100, 1),
        "reference": round(reference * 10, 1),
        "candidate": round(candidate * 10, 1),
    }


def _reviews(predictions: Any, known: Mapping[Any, Any]) -> list[Review]:
    if isinstance(predictions, str | os.PathLike):
        rows = lines(predictions)
    elif isinstance(predictions, Mapping):
        named = ({"question_id": k, "content" if isinstance(v, str) else "tuple": v} for k, v in predictions.items())
        rows = (Record("predictions", f"id {row['question_id']!r}", row) for row in named)
    else:
        given = (row if isinstance(row, dict) else {} for row in predictions)
        rows = (Record("predictions", f"record {at}", row) for at, row in enumerate(given, 1))
    found = []
    for record in unique(rows, "question_id"):
        name = record.value["question_id"]
        if name not in known:
            raise record.fail("question_id", f"names a question that is not there: {name!r}")
        other = record.maybe("swapped", dict)
        swapped = None if other is None else _scores(Record(record.file, f"{record.place}, swapped", other))
        found.append(Review(name, record.maybe("category", str), _scores(record), swapped))
    return found


def _scores(record: Record) -> Pair:
    field = next((name for name in ("tuple", "score") if name in record.value), "content")
    if field == "content":
        return parse(record.need("content", str))
    pair = record.value[field]
    known = isinstance(pair, list | tuple) and all(of_type(x, (int, float)) and abs(x) < 1e6 for x in pair)
    if not known or len(pair) != 2:
        raise record.fail(field, f"must be two numbers, not {pair!r}")
    return float(pair[0]), float(pair[1])
