"""The recipes for clips at toy size: what is shown is what is asked about, and only adapters are trained and kept."""

import json
from collections import Counter

import numpy as np
import pytest
import torch

from vlmlab import runtime
from vlmlab.errors import BadInput
from vlmlab.files import read_tensors, write_tensors
from vlmlab.scenes import Clip, sample_clip
from vlmlab.scenes.clip_programs import execute
from vlmlab.scenes.clip_questions import TYPES, Balance
from vlmlab.scenes.questions import word
from vlmlab.vlm import VLM, lora, recipes
from vlmlab.vlm.clips import SIDE, clip_features, prompt_ids
from vlmlab.vlm.recipes import clips, common
from vlmlab.vlm.splice import IGNORE

SMALL = {"scenes": 6, "checks": 4, "batch": 3, "evaluate_every": 2, "precision": "fp32"}
PARTS = {  # what finished recipes leave: parts of a VLM with random weights
    "llava-tiny": {"clip-tiny": "vision.", "language-tiny": "language.", "llava-tiny-stage1": "projector."},
    "cobra-tiny": {
        "dinov2-tiny": "vision.dinov2.",
        "siglip-tiny": "vision.siglip.",
        "language-mamba-tiny": "language.",
    },
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Both recipes run for two steps behind models with random weights."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLMLAB_WORK", str(folder))
        (folder / "tokenizer").mkdir()
        shipped = runtime.data_dir() / "checkpoints" / "tokenizer.json"
        recipes.finished("tokenizer").write_bytes(shipped.read_bytes())
        for model, parts in PARTS.items():
            state = VLM.from_preset(model, "cpu", seed=3).state_dict()
            for name, prefix in parts.items():
                inside, place = common.PLACES.get(name, ("", ""))
                part = {key: value for key, value in state.items() if key.startswith(prefix)}
                moved = {inside + key.removeprefix(place): value.clone() for key, value in part.items()}
                write_tensors(recipes.finished(name), moved)
            rest = {key: value.clone() for key, value in state.items() if key.startswith(("projector.", "language."))}
            write_tensors(recipes.finished(model), rest)
            recipes.run(f"{model}-clips", steps=2, **SMALL)
        yield folder


@pytest.fixture(autouse=True)
def work(runs, monkeypatch):
    monkeypatch.setenv("VLMLAB_WORK", str(runs))


def model(name):
    vlm = VLM.from_preset(name, "cpu", recipes.tokenizer()).eval()
    recipes.fill_from_runs(vlm, recipes.RECIPES[f"{name}-clips"].needs)
    return vlm


def marks(vlm):
    return vlm.image_id, recipes.tokenizer().id("<pad>")


@pytest.mark.parametrize("name", list(PARTS))
def test_only_adapters_are_trained_kept_and_small(runs, name):
    path, vlm = recipes.adapters(f"{name}-clips"), model(name)
    assert path.stat().st_size < 1e6
    fresh = {key: value.clone() for key, value in vlm.state_dict().items()}
    about = lora.load(vlm, path)  # its fingerprint says that the model under the adapters is the one it was
    assert (about.base, about.note["recipe"], about.note["side"]) == (name, f"{name}-clips", SIDE)
    assert {key.split(".")[0] for key in lora.state(vlm)} == {"projector", "language"}
    assert all(layer.B.abs().max() > 0 for layer in lora.layers(vlm).values())
    trained, _ = read_tensors(recipes.finished(f"{name}-clips"))
    assert set(trained) == set(lora.state(vlm))
    lora.merge(vlm)
    changed = {key for key, value in vlm.state_dict().items() if not torch.equal(value, fresh[key])}
    assert changed == {f"{key.rpartition('.')[0]}.weight" for key in trained}


def test_both_recipes_learn_from_the_same_clips_steps_and_adapters(runs):
    first, second = (recipes.RECIPES[f"{name}-clips"] for name in PARTS)
    for field in ("train", "batch", "scenes", "checks", "parts", "blind"):
        assert getattr(first, field) == getattr(second, field)
    drawn = [(clips.rows(model(name), clips.film(6))) for name in PARTS]
    assert all(np.array_equal(a, b) for a, b in zip(drawn[0][:2], drawn[1][:2], strict=True))


def test_a_finished_run_is_kept_and_resuming_it_changes_nothing(runs):
    before, about = lora.read(clips.adapters("llava-tiny-clips"))
    with pytest.raises(BadInput, match="resume"):
        recipes.run("llava-tiny-clips", steps=2, **SMALL)
    recipes.run("llava-tiny-clips", resume=True, steps=2, **SMALL)
    after, told = lora.read(clips.adapters("llava-tiny-clips"))
    assert told == about
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_rendering_goes_on_where_a_kill_stopped(runs, tmp_path, monkeypatch):
    monkeypatch.setenv("VLMLAB_WORK", str(tmp_path))
    monkeypatch.setattr(clips, "PART", 2)
    monkeypatch.setattr(runtime, "cores", lambda: 1)
    whole, real, calls = sample_clip(3).render(), clips._part, []

    def killed(start, count, split):
        calls.append(start)
        if calls == [0, 2]:
            raise KeyboardInterrupt
        return real(start, count, split)

    monkeypatch.setattr(clips, "_part", killed)
    with pytest.raises(KeyboardInterrupt):
        clips.film(4)
    found = clips.film(4)
    assert calls == [0, 2, 2]
    assert len(found) == 4 * clips.FRAMES
    assert [Clip.from_json(line) for line in found.lines] == [sample_clip(seed) for seed in range(4)]
    assert np.array_equal(found.rgb[3 * 8 :], whole)


def test_questions_are_true_of_the_frames_that_are_shown():
    balance, counts, kinds = Balance(), Counter(), Counter()
    for seed in range(40):
        clip = sample_clip(seed)
        shown, found = clips.asked(clip, np.random.default_rng(seed), balance)
        counts[shown == len(clip)] += 1
        for q in found:
            assert q.shown == shown
            assert word(execute(q.program, clip.prefix(shown))) == q.answer
            kinds[q.type] += 1
    assert counts[False] > 10
    assert counts[True] > 10
    assert set(kinds) == set(TYPES)


@pytest.mark.parametrize("name", list(PARTS))
def test_rows_hold_the_frames_and_every_answer_carries_loss(runs, name):
    vlm, words = model(name), recipes.tokenizer()
    shot = clips.film(6)
    data = clips.rows(vlm, shot)
    balance, expected = Balance(), {}
    for index, line in enumerate(shot.lines):
        shown, found = clips.asked(Clip.from_json(line), np.random.default_rng([15, index]), balance)
        expected[index] = shown, [q.sentence for q in found]
    packed = clips.pack(data, np.arange(len(data.clip)), np.zeros(len(data.clip), bool), *marks(vlm))
    for row, clip in enumerate(data.clip):
        shown, sentences = expected[int(clip)]
        ids, labels, segment = packed.ids[row], packed.labels[row], packed.segment[row]
        assert data.shown[row] == shown
        assert int((ids == vlm.image_id).sum()) == shown * SIDE**2
        assert ids[segment == 0].tolist() == prompt_ids(vlm, "?", shown * 4)[: int((segment == 0).sum())]
        said = []
        for k in range(1, int(segment.max()) + 1):
            learnt = labels[segment == k]
            text = words.decode(learnt[learnt != IGNORE].tolist())
            said.append(text.replace("</s>", "").replace("<|endoftext|>", "").strip())
        assert said
        assert said == [text for text in sentences if text in said]
        assert int(((segment > 0) & (ids == vlm.image_id)).sum()) == 0
        assert int((segment > 0).sum()) <= clips.BUDGET
    assert set(packed.kinds.unique().tolist()) <= set(range(-1, len(TYPES)))
    blind = clips.pack(data, [0], [True], *marks(vlm))
    assert not (blind.ids == vlm.image_id).any()
    assert int((blind.labels != IGNORE).sum()) == int((packed.labels[0] != IGNORE).sum())


@pytest.mark.parametrize("name", list(PARTS))
def test_cached_tokens_are_those_of_the_clip_and_packed_questions_do_not_see_one_another(runs, name):
    vlm, shot = model(name), clips.film(6)
    encoders = [recipes.finished(need) for need in recipes.RECIPES[f"{name}-clips"].needs if need in common.ENCODERS]
    seen = torch.from_numpy(np.array(common.features(vlm, shot, encoders, SIDE))).float()  # (6 * 8, K, D_v)
    assert seen.shape == (6 * 8, 4, vlm.config.feature_dim)
    fresh = clip_features(vlm, Clip.from_json(shot.lines[2]).render())
    torch.testing.assert_close(seen[16:24].flatten(0, 1), fresh, rtol=0, atol=2e-3 * float(fresh.abs().max()))
    data = clips.rows(vlm, shot)
    packed = clips.pack(data, [0], [False], *marks(vlm))
    start = int(data.clip[0]) * 8
    shown = seen[start : start + int(data.shown[0])]
    with torch.no_grad():
        together = vlm(None, packed.ids, segments=packed.segment, image_features=shown)[0]
        last = int(packed.segment.max())
        kept = (packed.segment[0] == 0) | (packed.segment[0] == last)
        alone = vlm(None, packed.ids[:, kept], image_features=shown)[0]
    gap = (together[kept] - alone).abs().max()
    assert gap <= 1e-4 * alone.abs().max()


def test_the_log_tells_each_type(runs):
    lines = [json.loads(line) for line in (runs / "llava-tiny-clips" / "run" / "metrics.jsonl").open()]
    told = {key.removeprefix("eval/") for key in lines[-1] if key.startswith("eval/")}
    assert told
    assert told <= set(TYPES)
