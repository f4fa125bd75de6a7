"""The token map: its maps are explain's, words are aligned by its rule, and clicks show what they should."""

import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import ANSWER, HOSTILE, QUESTION, Page, harmless, pair, picture

from vlmlab.errors import BadInput, UnknownName
from vlmlab.explain import Inside, attention, methods
from vlmlab.explain.attribution import at_word
from vlmlab.explain.hidden_attention import word_maps
from vlmlab.explain.states import delta_maps, ledger_shares, predicting, read
from vlmlab.scenes import sample
from vlmlab.widgets import TokenMap
from vlmlab.widgets.jobs import at_once, in_thread
from vlmlab.widgets.question_bar import QuestionBar
from vlmlab.widgets.token_map import LAYERED, Asked, Choice
from vlmlab.widgets.token_map_view import ALL, TokenMapView

CHEAP = {"llava": Choice("attention"), "cobra": Choice("hidden_attention")}


@pytest.fixture(scope="module")
def models():
    return pair()


@pytest.fixture
def tokens(models):
    found = TokenMap(models)
    found.asking(picture(), QUESTION, ANSWER).run()
    return found


@pytest.fixture
def view(models, monkeypatch):
    """All at once, and with one answer for both models."""
    with monkeypatch.context() as patch:
        patch.setattr(QuestionBar, "begin", lambda bar: None)
        found = TokenMapView(TokenMap(models), picture(), QUESTION, run=at_once)
    found.bar.answer.value = ANSWER
    return found


def same(found, wanted):
    wanted = wanted.detach().double().numpy()
    assert found.shape == wanted.shape == (4, 4)
    assert np.abs(found - wanted).max() <= 1e-12 * np.abs(wanted).max()


# ------------------------------------------------------------------ maps
@pytest.mark.parametrize("name", ["llava", "cobra"])
def test_a_map_of_all_layers_is_the_methods_own_of_this_word(tokens, name):
    inside = tokens.inside(name)
    for method in tokens.methods(name):
        same(tokens.map(name, 1, Choice(method)), methods.METHODS[method](at_word(inside, 1)))


def test_layers_and_heads_are_explains(tokens):
    inside, last = tokens.inside("llava"), len(tokens.words("llava")) - 1
    for word in (0, last):
        wanted = attention.attention_maps(inside, word)
        for layer in range(tokens.layers("llava", "attention")):
            same(tokens.map("llava", word, Choice("attention", layer)), wanted[layer].mean(0))
            for head in range(tokens.heads("llava", "attention")):
                same(tokens.map("llava", word, Choice("attention", layer, head)), wanted[layer, head])
        same(tokens.map("llava", word, Choice("attention")), wanted.mean((0, 1)))
    inside = tokens.inside("cobra")
    for layer in range(tokens.layers("cobra", "delta")):
        same(tokens.map("cobra", 1, Choice("hidden_attention", layer)), word_maps(inside, 1)[layer])
        same(tokens.map("cobra", 1, Choice("delta", layer)), delta_maps(inside)[layer])
        shares = ledger_shares(read(inside, layer), predicting(inside, 1))
        same(tokens.map("cobra", 1, Choice("ledger", layer)), inside.on_grid(shares))
    for method in ("delta", "ledger"):
        each = [tokens.map("cobra", 1, Choice(method, layer)) for layer in range(2)]
        same(tokens.map("cobra", 1, Choice(method)), torch.tensor(np.mean(each, 0)))


def test_what_has_no_layers_offers_none(tokens):
    assert tokens.layers("llava", "attention") == tokens.layers("cobra", "ledger") == 2
    assert tokens.layers("llava", "occlusion") == tokens.heads("llava", "occlusion") == 0
    assert (tokens.heads("llava", "attention"), tokens.heads("cobra", "hidden_attention")) == (4, 0)


def test_a_map_is_made_once(tokens, monkeypatch):
    first = tokens.map("llava", 0, Choice("attention", 1))
    assert tokens.ready("llava", 0, Choice("attention", 0, 3))  # all layers and heads came with it
    assert not tokens.ready("llava", 1, Choice("attention", 1))
    monkeypatch.setitem(LAYERED, "attention", None)  # whoever calls it now fails
    assert np.array_equal(tokens.map("llava", 0, Choice("attention", 1)), first)
    with pytest.raises(TypeError):
        tokens.map("llava", 1, Choice("attention", 1))


@pytest.mark.parametrize(
    ("choice", "told"),
    [
        (Choice("attention", 2), "layers 0 to 1"),
        (Choice("attention", -1), "layers 0 to 1"),
        (Choice("attention", 0, 4), "heads 0 to 3"),
        (Choice("attention", None, 0), "has no heads"),
        (Choice("occlusion", 0), "has no layers"),
        (Choice("delta"), "method for llava-tiny"),
        (Choice("occlusoin"), "did you mean 'occlusion'"),
    ],
)
def test_what_is_not_there_is_named(tokens, choice, told):
    with pytest.raises(BadInput, match=told):
        tokens.map("llava", 0, choice)


def test_questions_that_cannot_be_asked(models, tokens):
    for wrong in (len(tokens.words("llava")), -1):
        with pytest.raises(BadInput, match="the answer has words"):
            tokens.map("llava", wrong, Choice("attention"))
    with pytest.raises(UnknownName, match="model"):
        tokens.words("lava")
    with pytest.raises(BadInput, match="at least one"):
        TokenMap({})
    fresh = TokenMap(models)
    with pytest.raises(BadInput, match="nothing was asked yet"):
        fresh.map("llava", 0, Choice("attention"))
    for image, prompt, told in ((None, QUESTION, "picture"), (picture(), "", "empty")):
        with pytest.raises(BadInput, match=told):
            fresh.asking(image, prompt, ANSWER).run()


# ------------------------------------------------------------------ which words are the same
class Said(TokenMap):
    """Answers without models."""

    def __init__(self, **answers):
        self.models, self.answers = dict.fromkeys(answers), answers

    def inside(self, name):
        return SimpleNamespace(words=slice(7, 7 + len(self.answers[name])))

    def words(self, name):
        return self.answers[name]


def test_words_are_the_same_up_to_the_first_difference():
    said = Said(a=[" The", " cat", " is", " red"], b=["The", " cat", " is"], c=["The", " dog", " is", " red"])
    assert [list(said.together("a", word)) for word in range(4)] == [["a", "b", "c"], ["a", "b"], ["a", "b"], ["a"]]
    assert [list(said.together("c", word)) for word in range(4)] == [["a", "b", "c"], ["c"], ["c"], ["c"]]
    with pytest.raises(BadInput, match="words 0 to 2"):
        said.together("b", 3)


def test_words_that_are_cut_differently_are_not_the_same_and_those_after_them_are():
    said = Said(a=[" left", " of", " it"], b=["l", "eft", " of", " it", "."], c=["le", "ft", " of"])
    assert [said.together("a", word) for word in range(3)] == [{"a": 0}, {"a": 1, "b": 2, "c": 2}, {"a": 2, "b": 3}]
    assert [said.together("b", word) for word in range(2)] == [{"b": 0}, {"b": 1}]


answers = st.lists(st.sampled_from(["a", " a", "aa", "b", "."]), min_size=1, max_size=6)


@settings(max_examples=60, deadline=None)
@given(answers, answers)
def test_alignment_is_mutual_in_order_and_ends_with_the_first_difference(one, other):
    said = Said(one=one, other=other)
    pairs = [said.together("one", word) for word in range(len(one))]
    assert [each["one"] for each in pairs] == list(range(len(one)))
    aligned = [each for each in pairs if "other" in each]
    for each in aligned:
        assert said.together("other", each["other"]) == each
        assert one[each["one"]].strip() == other[each["other"]].strip()
    texts = [["".join(answer).lstrip()[:end] for end in range(1, 20)] for answer in (one, other)]
    alike = sum(first == second for first, second in zip(*texts, strict=True))
    assert all(len("".join(one[: each["one"] + 1]).lstrip()) <= alike for each in aligned)
    assert [each["other"] for each in aligned] == sorted({each["other"] for each in aligned})


# ------------------------------------------------------------------ work
def test_work_can_be_watched_and_stopped(tokens, models):
    assert tokens.mapping("cobra", 0, CHEAP).run().result.keys() == models.keys()
    job = tokens.mapping("llava", 2, CHEAP)
    assert job.step()
    assert job.progress == 0.5
    job.cancel()
    assert not job.step()
    with pytest.raises(BadInput, match="cancelled"):
        assert job.result
    assert [key[:2] for key in tokens.asked.maps] == [("llava", 0), ("cobra", 0), ("llava", 2)]


def test_a_cancelled_question_changes_nothing_and_late_maps_stay_with_theirs(tokens):
    before, job = tokens.asked, tokens.asking(picture(1), "What is red?", "it")
    job.step()
    job.cancel()
    job.run()
    assert tokens.asked is before
    late = tokens.mapping("llava", 0, CHEAP)
    late.step()
    tokens.asking(picture(1), "What is red?", ANSWER).run()
    assert np.array_equal(late.run().result["cobra"], before.maps["cobra", 0, "hidden_attention", False])
    assert not tokens.asked.maps


def test_scales_are_shared_only_where_units_are(tokens):
    assert tokens.apart(CHEAP) == ""
    assert tokens.apart({"llava": Choice("occlusion"), "cobra": Choice("token_ablation")}) == ""
    told = tokens.apart({"llava": Choice("attention"), "cobra": Choice("hidden_attention", 1)})
    assert "units differ" in told
    assert "alpha" in told
    assert tokens.apart({"llava": Choice("attention"), "cobra": Choice("random")})
    inside = tokens.asked.insides["llava"]
    tokens.asked.insides["llava"] = replace(inside, grid=(2, 8))
    assert "patches differ in size" in tokens.apart(CHEAP)
    tokens.asking(picture()[:, :60], QUESTION, ANSWER).run()
    assert "different cuts" in tokens.apart(CHEAP)  # one model pads the picture, the other stretches it


# ------------------------------------------------------------------ the view
def pressed(view):
    return sorted(map(tuple, view.strip.pressed))


def test_a_click_shows_all_models_that_say_the_word(view):
    assert [row["model"] for row in view.strip.answers] == ["llava", "cobra"]
    assert [word["text"] for word in view.strip.answers[0]["words"]] == [w.strip() for w in view.tokens.words("llava")]
    view.strip.chosen = [1, 2]
    assert pressed(view) == [(0, 2), (1, 2)]
    page = harmless(view.maps.value)
    assert len(page.images()) == 1  # one figure, one scale
    for name in ("llava", "cobra"):
        values = view.tokens.map(name, 2, view.lenses[name].choice)
        row = next(row for row in view.rows() if row[0] == name)
        assert row[5] == values.max()
        assert f"{name}, {CHEAP[name]}: largest at {row[4]}" in page.images()[0]["alt"]
        assert row[4] == f"{'ABCD'[values.argmax() % 4]}{values.argmax() // 4 + 1}"
    view.one_scale.value = False
    assert len(harmless(view.maps.value).images()) == 2
    assert not view.bar.notice.errors


def test_words_with_other_numbers_are_shown_together(view):
    view.bar.answer.value = "left of it"
    assert view.tokens.words("llava")[:2] == [" left", " of"]
    assert view.tokens.words("cobra")[:3] == ["le", "ft", " of"]
    view.strip.chosen = [0, 1]
    assert pressed(view) == [(0, 1), (1, 2)]
    assert [row[2] for row in view.rows()] == ["·of", "·of"]
    assert view.rows()[1][5] == view.tokens.map("cobra", 2, CHEAP["cobra"]).max()


def test_layers_and_heads_are_offered_where_there_are_some(view):
    lens = view.lenses["llava"]
    assert (lens.layer.disabled, lens.head.disabled) == (False, True)
    lens.layer.value = 1
    assert not lens.head.disabled
    lens.head.value = 3
    assert lens.choice == Choice("attention", 1, 3)
    assert "attention, layer 1, head 3" in view.maps.value
    assert "units differ" not in view.caption()
    lens.method.value = "chefer"
    assert lens.choice == Choice("chefer")
    assert lens.layer.disabled
    assert lens.head.disabled
    assert lens.layer.value == lens.head.value == ALL
    assert "units differ" in view.caption()
    assert len(Page(view.maps.value).images()) == 2
    view.lenses["cobra"].method.value = "delta"
    assert "the same for every word" in view.caption()


def test_an_answer_that_differs_has_no_map(view, models):
    texts = {"llava": "The cat is left.", "cobra": "The dog is left."}
    asked = {name: Inside.ask(vlm, picture(), QUESTION, texts[name]) for name, vlm in models.items()}
    view.tokens.asked = Asked(QUESTION, asked)
    view._answered()
    assert pressed(view) == [(0, 0), (1, 0)]
    view.strip.chosen = [1, 3]
    assert pressed(view) == [(1, 3)]
    assert "Not said so: llava." in Page(view.maps.value).text
    assert [row[2:] for row in view.rows() if row[0] == "llava"] == [["", "", "", ""]]


def test_a_fault_in_a_callback_is_shown_and_kept(view, monkeypatch):
    def broken(inside):
        raise ZeroDivisionError("planted <b>")

    monkeypatch.setitem(methods.METHODS, "rollout", methods.Entry(broken, "planted", ("llama",)))
    view.lenses["llava"].method.value = "rollout"
    assert [type(error) for error in view.bar.notice.errors] == [ZeroDivisionError]
    assert 'role="alert"' in view.bar.notice.html.value
    assert "ZeroDivisionError: planted &lt;b&gt;" in view.bar.notice.html.value
    assert "aria-busy" not in view.maps.value
    assert "Not made: llava;" in view.caption()  # the other one was there
    assert "hidden attention: largest at" in view.maps.value
    with pytest.raises(ZeroDivisionError):
        view.snapshot()


def test_cancel_leaves_what_was_made_and_says_so(view):
    works = []
    view.bar.run = works.append
    view.lenses["llava"].method.value = "chefer"
    assert "aria-busy" in view.maps.value
    view.bar.cancel.click()
    works[0]()  # the thread comes to its turn
    assert "cancelled" in view.bar.notice.html.value
    assert not view.tokens.ready("llava", 0, Choice("chefer"))
    assert "Not made: llava" in Page(view.maps.value).text
    view.strip.chosen = [0, 1]
    assert "cancelled" not in view.bar.notice.html.value
    works[1]()
    assert "chefer: largest at" in view.maps.value
    assert view.bar.progress.value == 1.0
    view.bar.cancel.click()  # nothing to cancel
    assert "cancelled" not in view.bar.notice.html.value


def test_a_thread_does_the_work(view):
    view.bar.run = in_thread
    view.lenses["llava"].method.value = "chefer"
    until = time.monotonic() + 60
    while "chefer: largest at" not in view.maps.value and time.monotonic() < until:
        time.sleep(0.02)
    assert "chefer: largest at" in view.maps.value
    view.bar.notice.reraise()


def test_a_question_that_cannot_be_asked_is_told_and_all_stays(view):
    before = view.maps.value
    view.bar.question.value = " "
    assert "the question is empty" in view.bar.notice.html.value
    assert view.maps.value == before
    view.bar.question.value = "What is red?"
    assert view.tokens.asked.prompt == "What is red?"
    view.bar.seed.value = 3
    view.bar.fresh.click()
    assert np.array_equal(view.tokens.inside("llava").picture, sample(3).render().rgb)
    view.bar.notice.reraise()


def test_what_models_and_people_write_stays_text(view):
    view.bar.question.value = HOSTILE
    view.bar.answer.value = HOSTILE
    page = harmless(view.maps.value)
    assert HOSTILE in page.text
    snapshot = view.snapshot()
    page = harmless(snapshot.html())
    assert HOSTILE in page.text
    assert len(page.images()) == len(snapshot.figures) == 1
    assert "largest at" in page.images()[0]["alt"]
    assert [row[0] for row in snapshot.rows] == ["llava", "cobra"]


def test_shipped_models_answer_clicks_at_once(capsys):
    view = TokenMapView(TokenMap(), sample(1).render().rgb, run=at_once)
    assert [word["text"] for word in view.strip.answers[0]["words"]]
    view.bar.answer.value = "The cat is red."
    words = len(view.tokens.words("llava-tiny"))
    for word in range(words):
        view.strip.chosen = [0, word]
        assert pressed(view) == [(0, word), (1, word)]
    for word in range(words):
        start = time.process_time()
        view.strip.chosen = [1, word]
        assert time.process_time() - start < 0.3
    inside = view.tokens.inside("cobra-tiny")
    wanted = methods.METHODS["hidden_attention"](at_word(inside, words - 1)).numpy()
    assert np.array_equal(view.tokens.map("cobra-tiny", words - 1, Choice("hidden_attention")), wanted)
    view._ipython_display_()
    view.bar.notice.reraise()
