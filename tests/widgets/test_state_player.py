"""The state player: frames are explain's numbers, sizes are the cache's, and playing shows what it should."""

import numpy as np
import pytest
import torch
from small_models import ANSWER, HOSTILE, QUESTION, harmless, pair, picture

from vlmlab.errors import BadInput, UnknownName
from vlmlab.explain.attention import attention_from
from vlmlab.explain.states import ledger_shares, read, retention, state_norms
from vlmlab.scenes import sample
from vlmlab.vlm.account import cache_bytes
from vlmlab.widgets import StatePlayer, state_player
from vlmlab.widgets.jobs import at_once
from vlmlab.widgets.question_bar import QuestionBar
from vlmlab.widgets.state_player_view import StatePlayerView


@pytest.fixture(scope="module")
def models():
    return dict(reversed(pair().items()))  # the Mamba first


@pytest.fixture(scope="module")
def player(models):
    found = StatePlayer(models)
    found.asking(picture(), QUESTION, ANSWER).run()
    return found


@pytest.fixture
def view(models, monkeypatch):
    """All at once, and with one answer for both models."""
    with monkeypatch.context() as patch:
        patch.setattr(QuestionBar, "begin", lambda bar: None)
        found = StatePlayerView(StatePlayer(models), picture(), QUESTION, run=at_once)
    found.bar.answer.value = ANSWER
    return found


def same(found, wanted):
    wanted = wanted.detach().double().numpy()
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() <= 1e-10 * np.abs(wanted).max()


def spread(inside):
    """First, in the image, its last, the one that predicts the first word, and the last."""
    return 0, inside.image.start + 3, inside.image.stop - 1, inside.words.start - 1, inside.length - 1


# ------------------------------------------------------------------ numbers
@pytest.mark.parametrize("layer", [0, 1])
def test_a_mambas_frames_are_explains(player, layer):
    inside = player.track("cobra").inside
    scan, norms = read(inside, layer), state_norms(inside)
    for at in spread(inside):
        frame = player.frame("cobra", at, layer)
        assert frame.kind == "ledger"
        same(frame.values, ledger_shares(scan, at))
        same(frame.patches, inside.on_grid(ledger_shares(scan, at)))
        assert frame.values.sum() == pytest.approx(1, abs=1e-10)
        assert sum(frame.sums.values()) == pytest.approx(1, abs=1e-10)
        assert frame.sums["image"] == pytest.approx(frame.patches.sum(), abs=1e-12)
        assert not frame.values[at + 1 :].any()
        assert frame.norm == pytest.approx(float(norms[layer, at]), rel=1e-12)
        assert frame.delta == pytest.approx(float(inside.get("delta", layer)[at].mean()), rel=1e-12)
        left = player.frame("cobra", at, layer, "retention")
        same(left.values, retention(scan, at))
        assert left.values[at] == 1
        assert not left.sums


@pytest.mark.parametrize("layer", [0, 1])
def test_a_transformers_frames_are_its_attention(player, layer):
    track = player.track("llava")
    for at in spread(track.inside):
        frame = player.frame("llava", at, layer)
        wanted = attention_from(track.inside, at)[layer].mean(0)
        same(frame.values, wanted)
        same(frame.patches, track.inside.on_grid(wanted))
        assert frame.values.sum() == pytest.approx(1, abs=1e-10)
        assert (frame.kind, frame.norm, frame.delta) == ("attention", None, None)
        own = frame.values[at] if frame.group == "image" else 0.0  # the timeline leaves out what a patch has of itself
        assert track.timeline[layer, at] == pytest.approx(frame.patches.sum() - own, abs=1e-10)


def test_a_frame_says_what_is_read_and_what_comes_next(player):
    inside = player.track("cobra").inside
    assert player.frame("cobra", inside.image.start + 6).text == "C2"
    assert player.frame("cobra", 0).predicts == ""
    before = player.frame("cobra", inside.words.start - 1)
    assert (before.predicts, before.group) == ("The", "text")
    assert player.frame("cobra", inside.length - 1).predicts == ""
    assert player.frame("cobra", -1).position == inside.length - 1


@pytest.mark.parametrize("name", ["cobra", "llava"])
def test_sizes_are_those_of_a_cache_that_reads_one_token_after_the_other(player, name):
    track = player.track(name)
    language = track.inside.vlm.language
    embeds, cache, sizes = track.inside.run(["language.embed"])["language.embed"], language.new_cache(), []
    with torch.no_grad():
        for at in range(track.inside.length):
            language.hidden(inputs_embeds=embeds[:, at : at + 1], cache=cache)
            sizes.append(cache.bytes())
    assert list(track.bytes) == sizes
    assert sizes == [cache_bytes(language.config, at + 1, torch.float64) for at in range(track.inside.length)]
    assert (len(set(sizes)) == 1) == track.recurrent


def test_who_keeps_more(player):
    state, cache = (player.track(name).bytes for name in ("cobra", "llava"))
    count = player.overtakes("llava", "cobra")
    if count is None:
        assert max(cache[: len(state)]) <= state[0]
    else:
        assert cache[count - 1] > state[0]
        assert count == 1 or cache[count - 2] <= state[0]
    assert player.overtakes("cobra", "llava") == 1  # at first a state is more than one token's keys and values
    assert player.overtakes("cobra", "cobra") is None
    short, long = sorted(("cobra", "llava"), key=lambda name: len(player.track(name).bytes))
    beyond = player.kept(len(player.track(long).bytes) - 1)
    assert beyond[long] == player.track(long).bytes[-1]
    assert (beyond[short] is None) == (len(player.track(short).bytes) < len(player.track(long).bytes))


def test_what_is_not_there_is_named(models, player):
    with pytest.raises(BadInput, match="positions 0 to"):
        player.frame("cobra", 99)
    for name in models:
        with pytest.raises(BadInput, match="layers 0 to 1"):
            player.frame(name, 0, 2)
    with pytest.raises(UnknownName, match="view of llava 'ledger'"):
        player.frame("llava", 0, 0, "ledger")
    with pytest.raises(UnknownName, match="model"):
        player.track("lava")
    fresh = StatePlayer(models)
    with pytest.raises(BadInput, match="nothing was asked yet"):
        fresh.frame("cobra", 0)
    with pytest.raises(BadInput, match="picture"):
        fresh.asking(None, QUESTION).run()


def test_work_can_be_watched_and_stopped(models):
    player = StatePlayer(models)
    job, shares = player.asking(picture(), QUESTION, ANSWER), []
    job.run(lambda: shares.append(job.progress))
    assert shares == [0.25, 0.5, 0.75, 1.0, 1.0]
    before, job = player.tracks, player.asking(picture(1), "What is red?", "it")
    job.step()
    job.cancel()
    job.run()
    assert player.tracks is before
    assert player.prompt == QUESTION
    job = player.reading("cobra", 1)
    job.cancel()
    job.run()
    assert not player.track("cobra").layers
    assert player.reading("cobra", 1).run().result.layers.keys() == {1}


# ------------------------------------------------------------------ the view
def test_playing_shows_each_position(view):
    track = view.player.track("cobra")
    assert view.position.value == track.inside.words.start - 1
    assert view.position.max == view.play.max == track.inside.length - 1
    cursors = []
    for at in spread(track.inside):
        view.position.value = at
        frame = view.frame()
        assert (frame.position, frame.layer, frame.kind) == (at, view.layer.value, "ledger")
        assert f"position {at} of {track.inside.length - 1}: reads “" in view.now.value
        assert f"norm of the state {frame.norm:.3g}, mean delta {frame.delta:.3g}" in view.now.value
        page = harmless(view.map.value)
        assert f"after position {at} (" in page.images()[0]["alt"]
        cursors.append(float(view.line.value.rpartition("left:")[2].partition("%")[0]))
        assert [row[2] for row in view.rows()] == ["-" if n is None else n for n in view.player.kept(at).values()]
    assert cursors == sorted(set(cursors))
    assert 0 < cursors[0] < cursors[-1] < 100
    assert not view.bar.notice.errors


def test_buttons_go_by_one_and_stop_at_the_ends(view):
    view.position.value = 0
    view.back.click()
    assert view.position.value == 0
    view.next.click()
    view.next.click()
    assert view.position.value == 2
    view.position.value = view.position.max
    view.next.click()
    assert view.position.value == view.position.max
    assert not view.bar.notice.errors


def test_layer_kind_and_model_can_be_chosen(view):
    view.position.value = 5
    view.layer.value = 0
    view.kind.value = "retention"
    assert "part of what was written that is left of each patch" in view.map.value
    assert (view.frame().layer, view.frame().kind) == (0, "retention")
    values = view.player.frame("cobra", 5, 0, "retention").patches
    assert f"largest at B2 ({values.max():.2g})" in view.map.value
    view.model.value = "llava"
    assert view.kind.options == ("attention",)
    assert view.position.max == view.player.track("llava").inside.length - 1
    assert "llava, layer 0, after position 5" in view.map.value
    assert "Attention to the image" in view.line.value
    view.model.value = "cobra"
    assert view.kind.value == "ledger"
    assert "Norm of the state" in view.line.value
    assert not view.bar.notice.errors


def test_a_fault_in_a_callback_is_shown_and_kept(view, monkeypatch):
    def broken(scan, position):
        raise ZeroDivisionError("planted <b>")

    monkeypatch.setattr(state_player, "ledger_shares", broken)
    view.position.value = 1
    assert {type(error) for error in view.bar.notice.errors} == {ZeroDivisionError}
    assert 'role="alert"' in view.bar.notice.html.value
    assert "ZeroDivisionError: planted &lt;b&gt;" in view.bar.notice.html.value
    with pytest.raises(ZeroDivisionError):
        view.snapshot()


def test_cancel_leaves_a_layer_unread_and_says_so(view):
    works = []
    view.bar.run = works.append
    other = 1 - view.layer.value
    view.layer.value = other
    assert "aria-busy" in view.map.value
    view.bar.cancel.click()
    works[0]()  # the thread comes to its turn
    assert "cancelled" in view.bar.notice.html.value
    assert other not in view.player.track("cobra").layers
    assert "was not read" in view.map.value
    view.position.value = 3
    view.position.value = 4  # playing does not begin to read it again
    assert len(works) == 2
    works[1]()
    assert f"layer {other}, after position 4" in view.map.value


def test_a_question_that_cannot_be_asked_is_told_and_all_stays(view):
    before = view.map.value
    view.bar.question.value = " "
    assert "the question is empty" in view.bar.notice.html.value
    assert view.map.value == before
    view.bar.notice.reraise()


def test_what_models_and_people_write_stays_text(view):
    view.bar.question.value = HOSTILE
    view.bar.answer.value = "<i> $a$ is left"
    for at in range(view.position.value, view.position.value + 3):
        view.position.value = at
        harmless(view.now.value + view.map.value + view.line.value + view.sizes.value)
    snapshot = view.snapshot()
    page = harmless(snapshot.html())
    assert HOSTILE in page.text
    first, second = page.images()
    assert "Shares of" in first["alt"]
    assert f"The cursor stands at position {view.position.value}" in second["alt"]
    assert [row[0] for row in snapshot.rows] == ["cobra", "llava"]


def test_shipped_models_play(capsys):
    view = StatePlayerView(StatePlayer(), sample(1).render().rgb, run=at_once)
    track = view.player.track("cobra-tiny")
    wanted = ledger_shares(read(track.inside, view.layer.value), view.position.value)
    same(view.frame().patches, track.inside.on_grid(wanted))
    state, cache = (view.player.track(name).bytes for name in ("cobra-tiny", "llava-tiny"))
    assert len(set(state)) == 1
    assert cache[-1] == len(cache) * cache[0]
    view.model.value = "llava-tiny"
    view.position.value = 40
    assert view.frame().values.sum() == pytest.approx(1, abs=1e-5)
    view._ipython_display_()
    view.bar.notice.reraise()
