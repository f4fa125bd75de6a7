"""Linear probes: what is planted is read, what is not there is not, and nothing leaks from the test side."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vlmlab.benchmarks.held_out import Asked, evaluate
from vlmlab.benchmarks.statistics import wilson
from vlmlab.errors import BadInput
from vlmlab.explain import Inside, probes
from vlmlab.explain.probes import PENALTY, VERDICTS, Features, Probe, collect, diagnose, left_right, probe, verdict
from vlmlab.explain.regions import coverage
from vlmlab.scenes import holds, sample
from vlmlab.scenes.programs import execute
from vlmlab.vision.probing import classify, ridge
from vlmlab.vlm import VLM
from vlmlab.vlm.presets import get_preset

N = 120
SIDES = ["yes", "no"] * (N // 2)
SIGNS = torch.tensor([1.0, -1.0] * (N // 2))


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# ------------------------------------------------------------------ the probe
def test_what_is_planted_is_read_and_noise_is_not():
    direction = noise(30, seed=1)
    told = probe(noise(N, 30) + 3 * SIGNS[:, None] * direction, SIDES)
    assert told.accuracy == 1.0
    assert (told.low, told.high) == wilson(N, N)
    nothing = probe(noise(N, 30), SIDES)
    assert nothing.low < 0.5 < nothing.high
    for found in (told, nothing):
        assert found.n == N
        assert found.control == pytest.approx(0.5, abs=0.02)
        assert 0.3 < found.control_low < 0.45 < 0.55 < found.control_high < 0.7


def test_what_only_a_product_tells_is_not_linear():
    x = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]] * (N // 4))  # as many of each
    labels = ["yes" if product > 0 else "no" for product in x.prod(1).tolist()]
    assert probe(x, labels).low < 0.5
    assert probe(torch.cat([x, x.prod(1, keepdim=True)], 1), labels).accuracy == 1.0


def test_several_classes_and_uneven_ones():
    words = [("left", "right", "front", "back")[i % 4] for i in range(N)]
    one_hot = F.one_hot(torch.arange(N) % 4).float()
    found = probe(one_hot + 0.2 * noise(N, 4), words)
    assert found.accuracy > 0.95
    assert found.control == pytest.approx(0.25, abs=0.03)
    rare = ["yes"] * 100 + ["no"] * 20
    assert probe(noise(N, 3), rare).control == pytest.approx(100 / 120, abs=0.03)  # the most frequent answer


def test_pictures_of_one_scene_stay_on_one_side():
    """Features that only name the scene tell its label, if the probe has seen the scene."""
    number = torch.arange(N) // 2
    labels = [("yes", "no")[i] for i in torch.randint(0, 2, (N // 2,), generator=torch.Generator().manual_seed(0))]
    labels = [labels[i] for i in number.tolist()]
    x = noise(N // 2, 200)[number]
    assert probe(x, labels).low > 0.8
    apart = probe(x, labels, scenes=[f"scene {i}" for i in number.tolist()])
    assert apart.low < 0.5 < apart.high


def test_the_test_side_does_not_touch_the_fit():
    before, after = noise(40, 70).double(), noise(10, 70, seed=1).double()
    fitted, tested = probes._reduced(before, after, 16)
    assert (fitted.shape, tested.shape) == ((40, 16), (10, 16))
    again, moved = probes._reduced(before, 100 * after + 5, 16)
    assert torch.equal(fitted, again)
    assert not torch.allclose(tested, moved)
    alone = probes._reduced(before, after[3:4], 16)[1]
    assert torch.allclose(alone, tested[3:4], rtol=1e-10)


def test_all_components_are_the_ridge_of_the_whole_space():
    """A ridge's weights lie in the span of its examples, so that with fewer examples than channels nothing is lost."""
    before, after = noise(40, 300).double(), noise(25, 300, seed=1).double()
    targets = F.one_hot(torch.arange(40) % 3).double()
    small, tested = probes._reduced(before, after, 1000)
    assert small.shape == (40, 39)
    found = classify(ridge(small, targets, PENALTY), tested)
    mean, deviation = before.mean(0), before.std(0)
    whole = ridge((before - mean) / deviation, targets, PENALTY * 300 / 39)  # the penalty is per mean variance
    assert torch.allclose(found, classify(whole, (after - mean) / deviation), rtol=1e-9, atol=1e-11)


def test_the_same_seed_gives_the_same_probe_and_idle_channels_change_nothing():
    x = noise(N, 12) + 0.4 * SIGNS[:, None]
    found = probe(x, SIDES, seed=3)
    assert found == probe(x, SIDES, seed=3)
    assert found != probe(x, SIDES, seed=4)
    idle = torch.cat([x, torch.full((N, 4), 7.0)], 1)
    assert probe(idle, SIDES, seed=3)[:4] == found[:4]
    assert probe(100 * x + 3, SIDES, seed=3)[:4] == found[:4]  # channels are standardised
    assert probe(torch.ones(N, 2), SIDES).accuracy <= 0.5


@pytest.mark.parametrize(
    ("x", "labels"), [(noise(9, 2), SIDES[:8]), (noise(20, 2), ["yes"] * 20), (noise(4, 2), SIDES[:4])]
)
def test_too_little_is_refused(x, labels):
    with pytest.raises(BadInput, match="a probe needs as many of either, two different labels and 5 scenes"):
        probe(x, labels)


# ------------------------------------------------------------------ the verdict
def at(low: float, control_high: float = 0.6) -> Probe:
    return Probe(N, low + 0.08, low, low + 0.14, 0.5, 0.4, control_high)


@pytest.mark.parametrize(
    ("found", "low", "high", "expected"),
    [
        (at(0.80), 0.42, 0.58, "encoded but not read out"),
        (at(0.80), 0.60, 0.79, "encoded but not read out"),  # above chance, and yet below the probe
        (at(0.80), 0.60, 0.81, "read out"),
        (at(0.80), 0.45, 0.85, "undecided"),  # too few questions to tell
        (at(0.55), 0.42, 0.58, "undecided"),  # above the mean of the shuffles, not above all of them
        (at(0.40), 0.42, 0.58, "not encoded"),
        (at(0.40), 0.70, 0.90, "not linear here"),
    ],
)
def test_the_rule(found, low, high, expected):
    assert verdict(found, {"low": low, "high": high}, chance=0.5) == expected
    assert expected in VERDICTS


def test_planted_models_are_told_apart():
    """Four models: one that sees and says, one that sees and does not say, one that is blind, an oracle in disguise."""
    told = noise(N, 20) + 3 * SIGNS[:, None]
    guesses = [bool(flag) for flag in torch.randint(0, 2, (N,), generator=torch.Generator().manual_seed(0))]
    scenes = [str(i) for i in range(N)]
    for right, expected in (([True] * N, ("read out", "not linear here")),
                            (guesses, ("encoded but not read out", "not encoded"))):  # fmt: skip
        found = diagnose(Features({"seen": told, "unseen": noise(N, 20, seed=2)}, SIDES, right, scenes))
        assert tuple(finding.verdict for finding in found.findings) == expected
        assert [finding.stage for finding in found.findings] == ["seen", "unseen"]
        assert found.own["accuracy"] == sum(right) / N
        assert found.chance == 0.5


# ------------------------------------------------------------------ the questions
def test_left_and_right_are_balanced_true_and_reproducible():
    asked = left_right(6, "dog", "chair", seed=2)
    assert [question.answer for _, question in asked] == ["yes", "no"] * 3
    assert {question.text for _, question in asked} == {"Is the dog left of the chair?"}
    for scene, question in asked:
        assert [item.kind for item in scene.objects].count("dog") == 1
        assert (scene.objects[0].kind, scene.objects[1].kind) == ("dog", "chair")
        assert holds(scene, "left of", 0, 1) is (question.answer == "yes")
        assert execute(question.program, scene) is (question.answer == "yes")
        assert scene.split == "test"
    assert [scene.to_json() for scene, _ in left_right(6, "dog", "chair", seed=2)] == [s.to_json() for s, _ in asked]
    assert left_right(2, "dog", "chair", seed=3)[0].scene != asked[0].scene


# ------------------------------------------------------------------ the features
@pytest.fixture(scope="module")
def asked():
    return left_right(2)


@pytest.mark.parametrize("preset", ["llava-tiny", "cobra-mambavision-tiny", "cobra-tiny-ldp"])
def test_features_are_what_the_model_computes(preset, asked):
    config = get_preset(preset)
    vlm = VLM.from_preset(replace(config, language=replace(config.language, layers=2)), "cpu").eval()
    found = collect(vlm, asked, form="word")
    assert found.labels == ["yes", "no"]
    assert found.right == [answer["right"] for answer in evaluate(vlm, asked, "word")["answers"]]
    assert len(set(found.scenes)) == 2
    stages = ["encoder, mean", "encoder, objects", "projector, mean", "projector, objects", "layer 0", "layer 1"]
    if preset != "llava-tiny":
        stages += [f"state {i}, {place}" for place in ("image", "prompt") for i in (0, 1)]
    assert list(found.stages) == stages
    scene, question = asked[1]
    render = scene.render(96)
    text = question.text + "\nAnswer the question using a single word or phrase."
    inside = Inside.ask(vlm, render.rgb, text, "anything")
    last = inside.words.start - 1

    def close(stage: str, expected: torch.Tensor) -> None:
        got = found.stages[stage][1]
        assert got.shape == expected.shape
        assert torch.allclose(got, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max())), stage

    with torch.no_grad():
        features = vlm.vision_features(inside.pixels)[0]
    tokens = inside.get("tokens")
    close("encoder, mean", features.mean(0))
    for name, x in (("encoder", features), ("projector", tokens)):
        share = coverage(render.mask, [0, 1], len(x)).float()
        close(f"{name}, objects", torch.cat([(w[:, None] * x).sum(0) / w.sum() for w in share]))
    close("layer 1", inside.get("residual", 1)[last])
    if preset != "llava-tiny":
        close("state 1, image", inside.get("state", 1)[inside.image.stop - 1].flatten())
        close("state 0, prompt", inside.get("state", 0)[last].flatten())


def test_questions_that_do_not_belong_together_are_refused(asked):
    vlm = VLM.from_preset("llava-tiny", "cpu")
    scene, question = asked[0]
    with pytest.raises(BadInput, match="questions about 0 and 2 objects; probe one kind at a time"):
        collect(vlm, [asked[1], Asked(scene, replace(question, objects=()))])
    behind = sample(0, objects=2)
    buried = behind.edit(1, x=behind.objects[0].x, y=behind.objects[0].y, z=-9.0)
    with pytest.raises(BadInput, match=f"The {buried.objects[1].kind} is hidden; leave this question out"):
        collect(vlm, [Asked(buried, question)])
    with pytest.raises(BadInput, match="no questions"):
        collect(vlm, [])


def test_a_bigger_sample_narrows_the_interval():
    widths = [np.subtract(*probe(noise(n, 5), (SIDES * 4)[:n])[2:4]) for n in (40, 400)]
    assert widths[0] < 2 * widths[1] < 0
