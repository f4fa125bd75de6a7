"""LLaVA-Bench: what the official program prints, judges that are fair or not, and an endpoint that is pretended."""

import json
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlmlab.benchmarks import chat as chats
from vlmlab.benchmarks import judges, llava_bench
from vlmlab.benchmarks.chat import Chat
from vlmlab.benchmarks.judges import About
from vlmlab.benchmarks.llava_bench import UNREADABLE, Example, contexts, parse, read, review, rules, save, score
from vlmlab.errors import BadInput, MissingDependency, UnknownName, VlmlabError
from vlmlab.scenes import sample
from vlmlab.vlm.conversations import as_item

ASKED = [Example(1, "a.jpg", "What is it?", "conv"), Example(2, "a.jpg", "Where?", "conv"),
         Example(3, "b.jpg", "Describe it.", "detail"), Example(4, "b.jpg", "Why?", "complex")]  # fmt: skip
ONE, TWO = ({example.question_id: text for example in ASKED} for text in ("short", "much longer"))
KEY = "sk-very-secret"


def jsonl(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


# Reading the official files


def test_the_official_files_are_read(tmp_path):
    asked = [{"question_id": 0, "image": "001.jpg", "text": "What?", "category": "conv"},
             {"question_id": 1, "image": "001.jpg", "text": "Why?", "category": "llava_bench_complex"}]  # fmt: skip
    found = read(jsonl(tmp_path / "questions.jsonl", asked))
    assert found == [Example(0, "001.jpg", "What?", "conv"), Example(1, "001.jpg", "Why?", "complex")]
    told = [
        {"id": "001", "image": "001.jpg", "caption": "A cat."},
        {"image": "2", "captions": ["A", "B"], "instances": [{"category": "cat", "bbox": [0.1, 0.2, 0.3, 0.4]}] * 2},
    ]
    box = "cat: [0.1, 0.2, 0.3, 0.4]"
    assert contexts(jsonl(tmp_path / "c.jsonl", told)) == {"001.jpg": "A cat.", "2": f"A\nB\n\n{box}\n{box}"}
    known = {f"llava_bench_{name}": {"role": "Assistant", "prompt": name} for name in llava_bench.CATEGORIES}
    (tmp_path / "rule.json").write_text(json.dumps(known))
    assert rules(tmp_path / "rule.json")["detail"] == "detail"


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"category": "story"}, "line 2: the field 'category' must be one of conv, detail, complex, not 'story'"),
        ({"question_id": 1}, "line 2: the field 'question_id' repeats 1"),
        ({"text": ["What?"]}, "line 2: the field 'text' must be a string, not a list"),
    ],
)
def test_damaged_files_are_refused(tmp_path, record, message):
    good = {"question_id": 1, "image": "a.jpg", "text": "What?", "category": "conv"}
    path = jsonl(tmp_path / "q.jsonl", [good, {**good, "question_id": 2, **record}])
    with pytest.raises(BadInput, match=message):
        read(path)
    with pytest.raises(BadInput, match="leave x out"):
        read(path, "x")
    with pytest.raises(BadInput, match="instances"):
        contexts(jsonl(tmp_path / "c.jsonl", [{"image": "a", "caption": "A", "instances": [{"bbox": []}]}]))
    (tmp_path / "rule.json").write_text("{}")
    with pytest.raises(BadInput, match="has no rules llava_bench_conv"):
        rules(tmp_path / "rule.json")


# The score


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("8 9", (8, 9)),
        ("8 9\nBoth are good.", (8, 9)),
        ("8,9\n", (8, 9)),
        ("7.5 10\r\nGood.", (7.5, 10)),
        ("8, 9", UNREADABLE),  # the comma becomes a second space
        ("8  9", UNREADABLE),
        ("8 9 ", UNREADABLE),
        ("\n8 9", UNREADABLE),
        ("8\t9", UNREADABLE),
        ("8", UNREADABLE),
        ("8 9 10", UNREADABLE),
        ("Assistant 1: 8", UNREADABLE),
        ("8/10 9/10", UNREADABLE),
        ("", UNREADABLE),
        ("nan 9", UNREADABLE),
        ("inf 9", UNREADABLE),
        ("0 85", (0, 85)),
    ],
)
def test_a_reply_is_read_as_upstream_reads_it(reply, expected):
    assert parse(reply) == expected


@given(st.text() | st.from_regex(r"[0-9., \n-]*"))
def test_any_reply_gives_two_numbers(reply):
    first, second = parse(reply)
    assert first - first == second - second == 0  # finite


REVIEWS = [
    {"question_id": 1, "category": "conv", "content": "8 6", "tuple": [8, 6]},
    {"question_id": 2, "category": "conv", "content": "9 9"},
    {"question_id": 3, "category": "detail", "content": "Both are fine."},
    {"question_id": 4, "category": "complex", "score": [10, 5.0]},
]


def test_golden_scores(tmp_path):
    found = score(ASKED, REVIEWS)
    assert found["official"] == {
        "all": {"relative": 73.1, "reference": 65.0, "candidate": 47.5},  # (8 + 9 - 1 + 10) / 4, (6 + 9 - 1 + 5) / 4
        "complex": {"relative": 50.0, "reference": 100.0, "candidate": 50.0},
        "conv": {"relative": 88.2, "reference": 85.0, "candidate": 75.0},
        "detail": {"relative": 100.0, "reference": -10.0, "candidate": -10.0},  # upstream averages the -1
    }
    assert (found["n"], found["parse_failures"], found["missing"]) == (4, 1, 0)
    assert found["relative_score"] == pytest.approx(100 * 19 / 26)
    assert found["accuracy"] == pytest.approx(19 / 26)
    assert found["by_category"]["conv"] == {
        "n": 2, "accuracy": 7.5 / 8.5, "relative_score": 100 * (7.5 / 8.5), "reference": 8.5, "candidate": 7.5,
    }  # fmt: skip
    assert "swap" not in found
    clean = score(ASKED, REVIEWS, "clean")
    assert (clean["n"], clean["parse_failures"], list(clean["by_category"])) == (3, 1, ["conv", "complex"])
    assert clean["relative_score"] == pytest.approx(100 * 20 / 27)
    assert clean["official"] == found["official"]
    assert score(ASKED, jsonl(tmp_path / "r.jsonl", REVIEWS)) == found
    by_id = {1: [8, 6], 2: "9 9\nGood.", 3: "Both are fine.", 4: (10, 5)}
    assert score(ASKED, by_id)["official"] == {"all": found["official"]["all"]}  # no categories in these reviews


def test_upstream_rounds_the_means_before_it_divides_them():
    pairs = {1: [3, 2], 2: [3, 9], 3: [1, 7]}
    found = score(ASKED, pairs)
    assert found["relative_score"] == pytest.approx(257.142857)
    assert found["official"]["all"]["relative"] == 257.2
    assert (found["n"], found["missing"]) == (3, 1)
    assert found["accuracy"] > 1  # the candidate is better than the reference


def test_nothing_to_divide_by_is_zero():
    assert score(ASKED, {1: [0, 5]})["relative_score"] == 0
    assert score(ASKED, {1: [0, 5]})["official"]["all"]["relative"] == 0
    unread = score(ASKED, {1: "?"}, "clean")
    assert (unread["n"], unread["accuracy"], unread["by_category"]) == (0, 0, {})
    assert score(ASKED, {})["official"] == {}


@pytest.mark.parametrize(
    ("reviews", "message"),
    [
        ([{"question_id": 1, "tuple": [8]}], "record 1: the field 'tuple' must be two numbers"),
        ([{"question_id": 1, "tuple": [8, "9"]}], "must be two numbers"),
        ([{"question_id": 1, "tuple": [8, float("nan")]}], "must be two numbers"),
        ([{"question_id": 1, "tuple": [8, True]}], "must be two numbers"),
        ([{"question_id": 1, "tuple": [8, 10**400]}], "must be two numbers"),
        ([{"question_id": 1, "tuple": "8 9"}], "'tuple' must be two numbers, not '8 9'"),
        ([{"question_id": 1}], "'content' is missing"),
        ([{"question_id": 9, "content": "8 9"}], "names a question that is not there: 9"),
        ([{"question_id": 1, "content": "8 9"}] * 2, "record 2: the field 'question_id' repeats 1"),
        ([{"question_id": 1, "content": "8 9", "swapped": {}}], "record 1, swapped: the field 'content' is missing"),
        (["8 9"], "record 1: the field 'question_id' is missing"),
    ],
)
def test_damaged_reviews_are_refused(reviews, message):
    with pytest.raises(BadInput, match=message):
        score(ASKED, reviews)


def test_an_unknown_profile_is_refused(tmp_path):
    with pytest.raises(UnknownName, match="did you mean 'clean'"):
        score(ASKED, REVIEWS, "cleen")
    with pytest.raises(BadInput, match="no such file"):
        score(ASKED, tmp_path / "none.jsonl")


# Judges


def test_a_fair_judge_agrees_with_itself_and_a_biased_one_does_not(tmp_path):
    fair = review(ASKED, ONE, TWO, lambda example, first, second: f"{len(first) % 10} {len(second) % 10}")
    assert [each["tuple"] for each in fair] == [[1, 5]] * 4
    assert [each["swapped"]["tuple"] for each in fair] == [[1, 5]] * 4
    save(tmp_path / "new" / "reviews.jsonl", fair)
    found = score(ASKED, tmp_path / "new" / "reviews.jsonl")
    assert found["swap"] == {"n": 4, "agreement": 1.0, "first_advantage": 0.0}
    assert found["official"]["all"] == {"relative": 500.0, "reference": 10.0, "candidate": 50.0}
    biased = review(ASKED, ONE, TWO, lambda example, first, second: "9 7")
    assert score(ASKED, biased)["swap"] == {"n": 4, "agreement": 0.0, "first_advantage": 2.0}
    silent = review(ASKED, ONE, TWO, lambda example, first, second: "9 7" if first == "short" else "No.")
    assert score(ASKED, silent)["swap"]["n"] == 0
    seen = []
    once = review(ASKED, ONE, TWO, lambda *a: "5 5", swap=False, progress=lambda *a: seen.append(a))
    assert "swap" not in score(ASKED, once)
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_every_question_needs_an_answer_and_a_reference(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", [{"question_id": 1, "text": "x", "answer_id": "y", "model_id": "z"}])
    with pytest.raises(BadInput, match=r"a\.jsonl: 3 of 4 questions without an answer"):
        review(ASKED, path, TWO, lambda *a: "5 5")
    with pytest.raises(BadInput, match="unknown question"):
        review(ASKED, ONE, {**TWO, 5: "x"}, lambda *a: "5 5")


def test_the_offline_judge_tells_truth_from_invention():
    about, asked, true, false = {}, [], {}, {}
    for seed in range(20):
        scene, other = sample(seed, split="test"), sample(seed + 1, split="test")
        question = scene.questions(types=["relation", "comparison", "choice"], count=6)[0]
        for category, text in (("detail", "Describe the picture in detail."), ("complex", question.text)):
            name = f"{category} {seed}"
            asked.append(Example(name, f"{seed}.png", text, category))
            about[name] = About(scene, None if category == "detail" else question)
            item = as_item(scene, question, short=False)
            true[name] = scene.caption("full") if category == "detail" else item.answer
            false[name] = other.caption("full")
    found = score(asked, review(asked, false, true, judges.offline(about)))
    assert found["reference"] == 10
    assert found["relative_score"] < 40
    assert found["parse_failures"] == 0
    assert found["swap"] == {"n": 40, "agreement": 1.0, "first_advantage": 0.0}
    assert score(asked, review(asked, true, true, judges.offline(about)))["relative_score"] == 100
    reply = judges.offline(about)(asked[0], true["detail 0"], "")
    assert reply.startswith("10.0 1.0\nAssistant 1: ")
    with pytest.raises(BadInput, match="no scene for question 1"):
        judges.offline(about)(ASKED[0], "", "")


def test_the_endpoints_judge_is_asked_in_the_official_form():
    said = []
    judge = judges.openai(
        lambda messages: said.append(messages) or "8 9\nFine.", {"a.jpg": "A cat."}, {"conv": "Judge."}
    )
    assert judge(ASKED[0], "It is a cat.", "A dog.") == "8 9\nFine."
    assert [message["role"] for message in said[0]] == ["system", "user"]
    assert said[0][1]["content"] == (
        "[Context]\nA cat.\n\n[Question]\nWhat is it?\n\n[Assistant 1]\nIt is a cat.\n\n[End of Assistant 1]\n\n"
        "[Assistant 2]\nA dog.\n\n[End of Assistant 2]\n\n[System]\nJudge.\n\n"
    )
    with pytest.raises(BadInput, match=r"no context for the image 'b\.jpg'"):
        judge(ASKED[2], "", "")


# The endpoint


class Failure(Exception):
    def __init__(self, text="slow down", status_code=None, code=None, headers=()):
        super().__init__(text)
        self.status_code, self.code = status_code, code
        self.response = SimpleNamespace(headers=dict(headers))


class APIConnectionError(Exception):
    """Named like the client's."""


class Endpoint:
    """Stands in for openai.OpenAI(): fails as told, then says how often it was asked."""

    api_key = KEY

    def __init__(self, *failures, usage=(100, 10)):
        self.failures, self.asked, self.usage = list(failures), [], usage
        self.chat = SimpleNamespace(completions=SimpleNamespace(create=self.create))

    def create(self, **request):
        self.asked.append(request)
        if self.failures:
            raise self.failures.pop(0)
        usage = self.usage and SimpleNamespace(prompt_tokens=self.usage[0], completion_tokens=self.usage[1])
        message = SimpleNamespace(content=f"reply {len(self.asked)}")
        return SimpleNamespace(choices=[SimpleNamespace(message=message)], usage=usage)


@pytest.fixture
def clock(monkeypatch):
    """A clock that only sleeping moves; its list holds the naps."""
    naps = []

    def sleep(seconds):
        if seconds > 0:
            naps.append(seconds)

    monkeypatch.setattr(chats, "time", SimpleNamespace(monotonic=lambda: float(sum(naps)), sleep=sleep))
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    return naps


def say(text):
    return [{"role": "user", "content": text}]


def test_a_request_is_sent_once_and_never_again(tmp_path, clock):
    file, endpoint = tmp_path / "new" / "chat.jsonl", Endpoint()
    ask = Chat("m", file=file, client=endpoint, options={"max_tokens": 5})
    assert [ask(say(text)) for text in ("a", "b", "a")] == ["reply 1", "reply 2", "reply 1"]
    assert endpoint.asked[0] == {"model": "m", "messages": say("a"), "max_tokens": 5}
    assert ask.spent == 220
    again = Chat("m", file=file, client=None, options={"max_tokens": 5})  # neither key nor package is needed now
    assert again(say("b")) == "reply 2"
    assert again.spent == 220
    other = Chat("other", file=file, client=endpoint, options={"max_tokens": 5})
    assert other(say("b")) == "reply 3"


def test_a_file_that_a_kill_cut_off_goes_on_and_a_damaged_one_is_refused(tmp_path, clock):
    file, endpoint = tmp_path / "chat.jsonl", Endpoint()
    ask = Chat("m", file=file, client=endpoint)
    ask(say("a")), ask(say("b"))
    whole = file.read_bytes()
    file.write_bytes(whole[:-9])
    again = Chat("m", file=file, client=endpoint)
    assert [again(say("a")), again(say("b"))] == ["reply 1", "reply 3"]
    assert len(file.read_text().splitlines()) == 2
    for cut in (whole[:30], b""):
        file.write_bytes(cut)
        assert Chat("m", file=file, client=endpoint).finished == {}
    file.write_bytes(b"{}\n" + whole)
    with pytest.raises(BadInput, match=r"chat\.jsonl, line 1: the field 'request' is missing"):
        Chat("m", file=file)


def test_requests_keep_their_distance(clock):
    ask = Chat("m", per_minute=20, client=Endpoint())
    for text in "abc":
        ask(say(text))
    assert clock == [3.0, 3.0]


def test_passing_failures_are_tried_again_with_longer_waits(clock):
    failures = [
        Failure(status_code=429),
        APIConnectionError(),
        Failure(status_code=503),
        TimeoutError(),
        ConnectionError(),
    ]
    endpoint = Endpoint(*failures)
    assert Chat("m", per_minute=6000, client=endpoint)(say("a")) == "reply 6"
    assert clock == [1, 2, 4, 8, 16]
    clock.clear()
    endpoint = Endpoint(Failure(status_code=429, headers={"retry-after": "7"}), Failure(status_code=429))
    Chat("m", per_minute=6000, client=endpoint)(say("a"))
    assert clock == [7, 2]
    clock.clear()
    with pytest.raises(VlmlabError, match=r"gave up after 7 tries: the endpoint failed \(Failure, status 500\): slow"):
        Chat("m", per_minute=6000, client=Endpoint(*[Failure(status_code=500)] * 7))(say("a"))
    assert len(clock) == 6


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (Failure(f"bad key {KEY}", 401), "refused the key"),
        (Failure("no money", 429, "insufficient_quota"), "no money"),
        (Failure(f"no such\nmodel; you sent {KEY}", 404), r"no such model; you sent \*\*\*"),
        (ZeroDivisionError("oops"), "ZeroDivisionError"),
    ],
)
def test_lasting_failures_are_told_at_once_without_the_key(failure, message, clock, tmp_path):
    ask = Chat("m", file=tmp_path / "chat.jsonl", client=Endpoint(failure))
    with pytest.raises(VlmlabError, match=message) as caught:
        ask(say("a"))
    assert clock == []
    assert "\n" not in str(caught.value)
    assert KEY not in str(caught.value)
    assert caught.value.__suppress_context__  # the traceback does not quote the client's error
    assert ask(say("a")) == "reply 2"
    assert KEY not in (tmp_path / "chat.jsonl").read_text() + repr(ask)


def test_the_budget_is_never_exceeded(tmp_path, clock):
    options = {"max_tokens": 10}
    worst = 4 + chats.OVERHEAD + 10  # bytes of the prompt, the template, the longest reply
    endpoint = Endpoint(usage=(5, 10))
    ask = Chat("m", options=options, budget=worst, client=endpoint)
    assert ask(say("four")) == "reply 1"
    assert ask.spent == 15
    with pytest.raises(VlmlabError, match="may cost 30, and 15 of the budget of 30 are spent; raise the budget"):
        ask(say("five"))
    with pytest.raises(VlmlabError, match="raise the budget"):
        Chat("m", options=options, budget=worst - 1, client=endpoint)(say("four"))
    assert len(endpoint.asked) == 1
    blind = Chat("m", options=options, client=Endpoint(usage=None))  # an endpoint that does not count: the worst
    blind(say("four"))
    assert blind.spent == worst
    dollars = Chat("m", options=options, prices=(2.0, 3.0), client=Endpoint(usage=(5, 10)))
    dollars(say("four"))
    assert dollars.spent == 40


def test_mistakes_are_refused(clock, monkeypatch):
    with pytest.raises(BadInput, match="max_tokens"):
        Chat("m", options={"temperature": 0})
    with pytest.raises(BadInput, match="per_minute"):
        Chat("m", per_minute=0)
    monkeypatch.setitem(__import__("sys").modules, "openai", None)
    with pytest.raises(MissingDependency, match="pip install openai"):
        Chat("m")(say("a"))
    monkeypatch.setitem(__import__("sys").modules, "openai", SimpleNamespace(OpenAI=lambda max_retries: Endpoint()))
    assert Chat("m")(say("a")) == "reply 1"
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(BadInput, match="OPENAI_API_KEY is not set"):
        Chat("m")(say("a"))
    silent = SimpleNamespace(
        chat=SimpleNamespace(completions=SimpleNamespace(create=lambda **_: SimpleNamespace(choices=[])))
    )
    with pytest.raises(VlmlabError, match="without a choice"):
        Chat("m", client=silent)(say("a"))
