"""Notebook 05. VQAv2 (Goyal et al. 2017, arXiv 1612.00837): open questions, each answered by ten people.

An answer is as right as people agree with it, see `vqa_text.consensus`. Three programs are in use, and they differ in
which strings they normalise before they compare:

- official-2021 (= official): new lines, tabs and spaces at the ends go from all answers. Only if the ten are not all
  the same string, prediction and ten are normalised.
- official-2016: the prediction is always normalised in full. People's answers lose their punctuation only, and only if
  they are not all the same; their articles, number words and capitals stay.
- lmms-eval: prediction and people's answers are always normalised in full. (That harness spares people's answers where
  all ten agree, and parts 's from a prediction's word; this profile does neither.)
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from vlmlab.benchmarks import records
from vlmlab.benchmarks.asking import Ask, Form, Mark, Said, constantly, frequent, guess, short
from vlmlab.benchmarks.pairs import Tally, share
from vlmlab.benchmarks.records import Examples, File, Record
from vlmlab.benchmarks.vqa_text import consensus, m4c, normalised, punctuation, tidy
from vlmlab.errors import BadInput

PROFILES = ("official-2021", "official-2016", "lmms-eval")
FORM = Form("question_id", "image_id", "predictions.json")


class Example(NamedTuple):
    """A question; `answers` are its ten official records {"answer_id", "answer", "answer_confidence"}."""

    question_id: int
    image_id: int | str
    question: str | None
    question_type: str
    answer_type: str
    answers: Sequence[Mapping[str, Any]]


def read(annotations: File, questions: File | None = None) -> Examples[Example]:
    """The examples of an official annotations file, streamed: nothing but question ids is kept in memory.

    questions: the official questions file, for the texts. It is read beside the annotations; where the two are in
    different orders, texts wait in memory for their turn.
    Raises BadInput, here or at the broken record, naming file, record and field; for a repeated question, and for one
    that only one of the files has, too.
    """

    def each() -> Iterator[Example]:
        found = records.unique(records.stream(annotations, "annotations"), "question_id")
        pairs = ((record, None) for record in found) if questions is None else _joined(found, annotations, questions)
        return (_example(record, text) for record, text in pairs)

    return Examples(each)


def _example(record: Record, question: str | None) -> Example:
    return Example(
        record.need("question_id", int),
        record.need("image_id", int, str),
        question,
        record.need("question_type", str),
        record.need("answer_type", str),
        people(record),
    )


def people(record: Record) -> list[dict[str, Any]]:
    """The field `answers`: one or more objects whose `answer` is a string. Raises BadInput."""
    found = record.need("answers", list)
    if not found:
        raise record.fail("answers", "holds no answer")
    for place, one in enumerate(found):
        if not isinstance(one, dict) or not isinstance(one.get("answer"), str):
            raise record.fail(f"answers[{place}]", "must be an object whose 'answer' is a string")
    return found


def _joined(found: Iterator[Record], annotations: File, questions: File) -> Iterator[tuple[Record, str]]:
    """Annotations and the texts of their questions. The official files are in the same order, so few texts wait."""
    rest = records.stream(questions, "questions")
    waiting: dict[int, str] = {}
    for record in found:
        wanted = record.need("question_id", int)
        while wanted not in waiting:
            question = next(rest, None)
            if question is None:
                raise record.fail("question_id", f"is {wanted}, which has no question in {questions}")
            name = question.need("question_id", int)
            if name in waiting:
                raise question.fail("question_id", f"repeats {name} of an earlier record")
            waiting[name] = question.need("question", str)
        yield record, waiting.pop(wanted)
    left = [*waiting, *(question.need("question_id", int) for question in rest)]
    if left:
        raise BadInput(f"{questions}: {len(left)} questions have no annotation in {annotations} (the first: {left[0]})")


def asks(examples: Iterable[Example]) -> Iterator[Ask]:
    """The questions as LLaVA-1.5 is asked, about COCO's pictures of val2014; an id that is a text is a file's name.

    Raises BadInput where the file of questions was not given.
    """
    for one in examples:
        if one.question is None:
            raise BadInput("VQAv2's questions are a file of their own; give it too (--questions)")
        number = isinstance(one.image_id, int)
        image = f"COCO_val2014_{one.image_id:012d}.jpg" if number else str(one.image_id)
        yield Ask(one.question_id, image, short(one.question))


def results(examples: Iterable[Example], said: Mapping[Any, Said]) -> list[dict[str, Any]]:
    """The official results; texts pass M4C's answer processor, as LLaVA-1.5's do before they are submitted."""
    return [{"question_id": key, "answer": m4c(one.text)} for key, one in said.items()]


def expected(answers: Iterable[str]) -> str:
    """What most people answered; the first of equally frequent answers."""
    return Counter(answers).most_common(1)[0][0]


def chance(examples: Iterable[Example]) -> float:
    """How often an even guess among the answers of a question's answer type is what most people said."""
    return guess((one.answer_type, _expected(one)) for one in examples)


def constants(examples: Iterable[Example]) -> dict[str, dict[Any, str]]:
    """Predictions that always say the same, for the most frequent answers."""
    return constantly((one.question_id for one in examples), frequent(map(_expected, examples)))


def _expected(example: Example) -> str:
    return expected(normalised(tidy(one["answer"])) for one in example.answers)


def marks(examples: Iterable[Example], predictions: Any, profile: str = "official") -> Iterator[Mark]:
    """Picture, accuracy and 1 of each answer; arguments as for `score`."""
    judge = _JUDGES[records.profile_of(profile, PROFILES)]
    said = records.answers(predictions, "question_id", "answer")
    return ((one.image_id, judge(one.answers, said[one.question_id]), 1.0) for one in examples)


def score(
    examples: Iterable[Example],
    predictions: File | Iterable[Mapping[str, Any]] | Mapping[int, str],
    profile: str = "official",
) -> dict[str, Any]:
    """Consensus accuracy, overall, by type of question and by type of answer.

    predictions: an official results file or its records [{"question_id", "answer"}], or a dict question_id -> answer;
        exactly one for each question, as the official program demands.
    Returns:
        {"n", "accuracy", "by_question_type", "by_answer_type", "official": {"overall", "perQuestionType",
        "perAnswerType"}}; the official figures are per cent with two decimals.
    Raises UnknownName for a profile not in PROFILES, BadInput for unusable predictions.
    """
    judge = _JUDGES[records.profile_of(profile, PROFILES)]
    said = records.answers(predictions, "question_id", "answer")
    ids, total, by_question, by_answer = [], 0.0, Tally(), Tally()
    for example in examples:
        ids.append(example.question_id)
        if example.question_id in said:
            accuracy = judge(example.answers, said[example.question_id])
            total += accuracy
            by_question.add(example.question_type, accuracy)
            by_answer.add(example.answer_type, accuracy)
    records.matched(ids, said)
    n = len(ids)
    return {
        "n": n,
        "accuracy": share(total, n),
        "by_question_type": by_question.rates(),
        "by_answer_type": by_answer.rates(),
        "official": {
            "overall": round(100 * share(total, n), 2),
            "perQuestionType": by_question.official(),
            "perAnswerType": by_answer.official(),
        },
    }


def _official_2021(answers: Sequence[Mapping[str, Any]], said: str) -> float:
    texts, said = [tidy(one["answer"]) for one in answers], tidy(said)
    if len(set(texts)) > 1:
        texts, said = [normalised(text) for text in texts], normalised(said)
    return _accuracy(answers, texts, said)


def _official_2016(answers: Sequence[Mapping[str, Any]], said: str) -> float:
    texts = [one["answer"] for one in answers]
    if len(set(texts)) > 1:
        texts = [punctuation(text) for text in texts]
    return _accuracy(answers, texts, normalised(tidy(said)))


def _lmms_eval(answers: Sequence[Mapping[str, Any]], said: str) -> float:
    return _accuracy(answers, [normalised(tidy(one["answer"])) for one in answers], normalised(tidy(said)))


_JUDGES: dict[str, Callable[[Sequence[Mapping[str, Any]], str], float]] = dict(
    zip(PROFILES, (_official_2021, _official_2016, _lmms_eval), strict=True)
)


def _accuracy(answers: Sequence[Mapping[str, Any]], texts: Sequence[str], said: str) -> float:
    """Consensus where "the others" are the records that differ from one's own in any field: usually all nine, since
    each has an answer_id; where records repeat, their matches do not count for each other."""
    matching = [{**one, "answer": said} if text == said else None for one, text in zip(answers, texts, strict=True)]
    return consensus([0 if one is None else matching.count(one) for one in matching])
