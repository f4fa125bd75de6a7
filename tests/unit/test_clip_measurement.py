"""Clips measured with planted models: one that sees exactly the frames it is shown, one that guesses, one constant."""

import json
import random

import numpy as np
import pytest
import torch

from vlmlab.benchmarks import clips as measuring
from vlmlab.benchmarks.clips import ONE, ORDERS, Asked, by_frames, by_order, cost, order, questions, summarise, truth
from vlmlab.commands import clips as command
from vlmlab.errors import BadInput, UnknownName
from vlmlab.scenes import Clip, sample_clip
from vlmlab.scenes.clip_questions import TYPES
from vlmlab.vlm import VLM, lora
from vlmlab.vlm.presets import get_preset


class Planted:
    """A model whose answers are a function of the clip that it is shown (None when blind) and the question."""

    config = get_preset("llava-tiny")

    def __init__(self, say):
        self.say = say


@pytest.fixture
def planted(monkeypatch):
    """What the planted models see: a clip's tokens name the clip and the frame."""
    known: list[Clip] = []

    def render(clip, size):
        known.append(clip)
        return np.stack([np.full((1, 1, 3), len(known) - 1), *[np.zeros((1, 1, 3), int)] * (len(clip) - 1)])

    def features(vlm, frames):
        index = torch.tensor([[int(frames[0, 0, 0, 0]), t] for t in range(len(frames)) for _ in range(4)])
        return index

    def answer(vlm, shown, prompts, **options):
        clips = [
            None if s is None else known[int(s[0, 0])].take([int(t) for t in s.view(-1, 4, 2)[:, 0, 1]]) for s in shown
        ]
        return [vlm.say(clip, prompt) for clip, prompt in zip(clips, prompts, strict=True)]

    monkeypatch.setattr(Clip, "render", render)
    monkeypatch.setattr(measuring, "clip_features", features)
    monkeypatch.setattr(measuring, "answer_clips", answer)


@pytest.fixture(scope="module")
def asked():
    return questions(24)


def observer(asked):
    """Says what the frames that it is shown say."""
    known = {(item.clip.seed, item.question.text): item.question for item in asked}

    def say(clip, prompt):
        return "I was shown no clip." if clip is None else str(truth(clip, known[clip.seed, prompt]))

    return Planted(say)


def test_an_observer_is_right_in_order_and_says_the_reverse_of_reversed_frames(planted, asked):
    found = by_order(observer(asked), asked)
    assert set(found) == {*ORDERS, "turned"}
    assert found["in order"]["all"]["accuracy"] == found["in order"][ONE]["accuracy"] == 1.0
    assert found["turned"]["forwards"]["n"] > 10
    assert found["turned"]["forwards"]["accuracy"] == 0.0
    assert found["turned"]["backwards"]["accuracy"] == 1.0
    assert found["reversed"]["direction"]["accuracy"] == found["reversed"]["order"]["accuracy"] == 0.0
    assert found["blind"]["all"]["accuracy"] == 0.0
    for how in ("last frame", "middle frame", "shuffled"):
        assert found[how]["all"]["accuracy"] < 0.7, how
        assert found[how]["direction"]["accuracy"] < 0.3, how


def test_a_guesser_gets_chance_and_a_constant_no_more_than_the_constant(planted, asked):
    guess, options = random.Random(0), {item.question.text: item.question.options for item in asked}
    found = by_order(Planted(lambda clip, prompt: guess.choice(options[prompt])), asked)
    row = found["in order"]["all"]
    assert row["low"] < row["chance"] < row["high"]
    found = by_order(Planted(lambda clip, prompt: "0"), asked)
    row = found["blind"]["count"]
    assert row["accuracy"] <= row["constant"] < 0.6
    assert row["chance"] == pytest.approx(1 / 3)


def test_finer_frames_change_nothing_for_an_observer_and_one_frame_is_too_few(planted):
    asked = questions(8)
    found = by_frames(observer(asked), 8, (1, 2, 8, 16))
    assert list(found) == [1, 2, 8, 16]
    assert len({row["n"] for row in found.values()}) == 1
    assert found[8]["n"] > 10
    assert found[8]["accuracy"] == found[16]["accuracy"] == 1.0
    assert found[1]["accuracy"] < 0.5
    assert found[2]["accuracy"] < 1.0


def test_questions_are_balanced_repeatable_and_about_the_test_split(asked):
    assert asked == questions(24)
    assert {item.clip.split for item in asked} == {"test"}
    assert {item.question.type for item in asked} >= set(TYPES) - {"next"}
    counts: dict = {}
    for item in asked:
        q = item.question
        key = counts.setdefault((q.single_frame, q.type, q.topic, len(q.options)), [0] * len(q.options))
        key[q.options.index(q.answer)] += 1
    assert all(max(each) - min(each) <= 2 for each in counts.values())


def test_orders_of_frames():
    assert order(5, "in order") == [0, 1, 2, 3, 4]
    assert order(5, "reversed") == [4, 3, 2, 1, 0]
    assert order(5, "last frame") == [4]
    assert order(5, "middle frame") == order(4, "middle frame") == [2]
    assert order(5, "blind") == []
    for seed in range(20):
        mixed = order(4, "shuffled", seed)
        assert sorted(mixed) == [0, 1, 2, 3]
        assert mixed == order(4, "shuffled", seed)
        assert mixed not in ([0, 1, 2, 3], [3, 2, 1, 0])
    assert order(2, "shuffled") == [0, 1]
    with pytest.raises(UnknownName, match="did you mean 'shuffled'"):
        order(4, "shufled")


def test_the_headline_leaves_out_what_one_frame_answers(asked):
    flags = [not item.question.single_frame for item in asked]
    table = summarise(asked, flags)
    assert table["all"]["accuracy"] == 1.0
    assert table["all"]["n"] == sum(flags)
    assert table[ONE]["accuracy"] == 0.0
    assert table[ONE]["n"] == len(flags) - sum(flags)
    assert table["all"]["n"] == sum(row["n"] for name, row in table.items() if name in TYPES)


def test_no_questions_are_refused():
    with pytest.raises(BadInput, match="no questions"):
        by_order(Planted(str), [])


def test_a_truth_that_is_no_option_is_none():
    clip = sample_clip(0, "left")
    q = next(q for q in clip.questions(types=("direction",)))
    assert truth(clip, q) == q.answer == "left"
    assert truth(clip.reversed(), q) == "right"
    assert truth(clip.still(0), q) is None


def test_the_cost_of_watching():
    models = {name: VLM.from_preset(name, "cpu").eval() for name in ("llava-tiny", "cobra-tiny")}
    found = cost(models, (1, 3), rounds=1, tokens=2)
    assert found["frames"] == [1, 3]
    for what in ("read_ms", "question_ms", "token_ms", "bytes"):
        assert all(len(found[what][name]) == 2 and min(found[what][name]) > 0 for name in models), what
    kept = found["bytes"]
    assert len(set(kept["cobra-tiny"])) == 1
    assert np.diff(kept["llava-tiny"]).tolist() == [2 * 4 * 4 * 2 * 6 * 3 * 32]
    assert json.loads(json.dumps(found)) == found


def test_the_command_opens_adapters_by_path_and_saves(tmp_path, monkeypatch, capsys):
    base = VLM.from_preset("llava-tiny", "cpu").eval()
    monkeypatch.setattr("vlmlab.load", lambda name, device: base)
    trained = VLM.from_preset("llava-tiny", "cpu").eval()
    lora.attach(trained, names=("language",))
    with torch.no_grad():
        for layer in lora.layers(trained).values():
            layer.B.fill_(0.01)
    path = tmp_path / "adapters.safetensors"
    lora.save(trained, path, "llava-tiny", torch.float32, {"recipe": "llava-tiny-clips"})
    vlm, name = command.opened(str(path), "cpu")
    assert name == "llava-tiny-clips"
    assert not lora.layers(vlm)
    ids = torch.tensor([[5, 6, 7]])
    torch.testing.assert_close(vlm(None, ids), trained(None, ids), rtol=1e-4, atol=1e-4)
    monkeypatch.setenv("VLMLAB_DATA", str(tmp_path))
    seen = {}

    def measure(vlm, name, clips, progress):
        seen.update(name=name, clips=clips)
        row = {"n": 4, "accuracy": 0.5, "low": 0.15, "high": 0.85, "chance": 0.25, "constant": 0.5}
        orders = {how: {"event": row, "all": row} for how in ORDERS} | {"turned": {}}
        return {"model": name, "clips": clips, "n": 4, "accuracy": 0.5, "orders": orders}

    monkeypatch.setattr(measuring, "measure", measure)
    monkeypatch.setattr("vlmlab.load", lambda name, device: VLM.from_preset("llava-tiny", "cpu"))
    command.clips(str(path), 7, "cpu", True, True)
    assert seen == {"name": "llava-tiny-clips", "clips": 7}
    kept = json.loads((tmp_path / "results" / "clips-llava-tiny-clips.json").read_text())
    assert kept == json.loads(capsys.readouterr().out)
    assert measuring.table(kept).row_count == 2


def test_asked_is_a_clip_and_a_question(asked):
    assert isinstance(asked[0], Asked)
    assert asked[0].question in asked[0].clip.questions(count=16)
