"""Clips in a VLM: pooled frames in their order, batches of any lengths, and a stream that equals the whole."""

import numpy as np
import pytest
import torch

from vlmlab.errors import BadInput
from vlmlab.vlm import VLM
from vlmlab.vlm.clips import Watcher, answer_clips, ask_clip, clip_features, pool, prompt_ids

NAMES = ("llava-tiny", "cobra-tiny", "cobra-mambavision-tiny")
QUESTION = "Which way does the cat move?"


def frames(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 96, 96, 3), np.uint8)


@pytest.fixture(scope="module")
def models():
    return {name: VLM.from_preset(name, "cpu").eval() for name in NAMES}


@pytest.fixture(params=NAMES)
def vlm(request, models):
    return models[request.param]


def close(a, b, tolerance=1e-4):
    return float((a - b).detach().abs().max()) <= tolerance * float(b.detach().abs().max())


def test_pooling_averages_each_square_of_the_grid():
    grid = torch.arange(2 * 64 * 3, dtype=torch.float64).view(2, 64, 3).sin()
    out = pool(grid, 2)
    assert out.shape == (2, 4, 3)
    maps = grid.view(2, 8, 8, 3)
    for k, (row, column) in enumerate([(0, 0), (0, 4), (4, 0), (4, 4)]):  # row by row, as patches are numbered
        square = maps[:, row : row + 4, column : column + 4].mean((1, 2))
        torch.testing.assert_close(out[:, k], square, rtol=0, atol=1e-12)
    torch.testing.assert_close(pool(grid, 1)[:, 0], grid.mean(1), rtol=0, atol=1e-12)
    assert torch.equal(pool(grid, 8), grid)
    for side in (0, 9):
        with pytest.raises(BadInput, match="take 1 to 8"):
            pool(grid, side)
    with pytest.raises(BadInput, match="63 tokens"):
        pool(grid[:, :63], 2)


def test_a_clips_tokens_are_its_frames_one_after_the_other(vlm):
    shown = frames(3)
    tokens = clip_features(vlm, shown)
    assert tokens.shape == (3 * 4, vlm.config.feature_dim)
    each = torch.cat([clip_features(vlm, frame[None]) for frame in shown])
    assert close(tokens, each, 1e-5)
    backwards = clip_features(vlm, shown[::-1].copy()).view(3, 4, -1).flip(0).flatten(0, 1)
    assert close(backwards, tokens, 1e-5)
    pooled = pool(vlm.vision_features(vlm.preprocess.batch(shown)), 4).flatten(0, 1)
    assert close(clip_features(vlm, shown, 4), pooled, 1e-5)


def test_frames_as_images_are_the_clip_as_one_image(vlm):
    tokens = clip_features(vlm, frames(5))
    ids = torch.tensor([prompt_ids(vlm, QUESTION, 20)])
    assert int((ids == vlm.image_id).sum()) == 20
    with torch.no_grad():
        one = vlm(None, ids, image_features=tokens[None])
        several = vlm(None, ids, image_features=tokens.view(5, 4, -1))
    assert close(several, one, 1e-5)


def test_a_batch_of_clips_of_different_lengths_answers_as_one_by_one(vlm):
    clips = [frames(1), None, frames(8, 1), clip_features(vlm, frames(3, 2))]
    prompts = ["What happens to the cat?", "How many objects move?", QUESTION, QUESTION]
    together = answer_clips(vlm, clips, prompts, max_new_tokens=5)
    assert together == [ask_clip(vlm, clip, p, max_new_tokens=5) for clip, p in zip(clips, prompts, strict=True)]
    assert answer_clips(vlm, clips, prompts, 2, 5, batch_size=3) == together
    assert ask_clip(vlm, None, QUESTION, max_new_tokens=5) == vlm.generate(None, QUESTION, max_new_tokens=5)


@pytest.mark.parametrize("pieces", [(1, 1, 1, 1, 1, 1), (4, 2), (1, 5)])
def test_a_stream_equals_the_whole(vlm, pieces):
    shown, watcher = frames(6), Watcher(vlm)
    for start, size in zip(np.cumsum((0, *pieces)), pieces, strict=False):
        watcher.see(shown[start] if size == 1 else shown[start : start + size])
    ids = torch.tensor([prompt_ids(vlm, QUESTION, 24)])
    with torch.no_grad():
        whole = vlm(None, ids, image_features=clip_features(vlm, shown)[None])[0, -1]
    assert watcher.frames == 6
    assert close(watcher.logits(QUESTION), whole)
    assert watcher.ask(QUESTION, 6) == ask_clip(vlm, shown, QUESTION, max_new_tokens=6)


def test_questions_leave_no_trace(vlm):
    shown, watcher, silent = frames(4), Watcher(vlm), Watcher(vlm)
    for frame in shown:
        watcher.see(frame)
        first = watcher.ask(QUESTION, 4)
        watcher.ask("How many objects appear?", 9)
        assert watcher.ask(QUESTION, 4) == first
        silent.see(frame)
    assert torch.equal(watcher.logits(QUESTION), silent.logits(QUESTION))
    assert watcher.bytes() == silent.bytes()
    branch = watcher.fork()
    branch.see(shown[0])
    assert branch.frames == watcher.frames + 1
    assert torch.equal(watcher.logits(QUESTION), silent.logits(QUESTION))
    assert not torch.equal(branch.logits(QUESTION), silent.logits(QUESTION))


def test_a_mambas_memory_is_of_one_size_and_a_transformers_grows_with_every_frame(models):
    kept = {}
    for name in ("llava-tiny", "cobra-tiny"):
        watcher, tokens = Watcher(models[name]), clip_features(models[name], frames(1))
        kept[name] = []
        for _ in range(40):
            watcher.read(tokens)
            kept[name].append(watcher.bytes())
    assert len(set(kept["cobra-tiny"])) == 1
    config = models["cobra-tiny"].config.language
    assert kept["cobra-tiny"][0] == 4 * config.layers * config.inner * (config.state + config.conv)
    config = models["llava-tiny"].config.language
    assert set(np.diff(kept["llava-tiny"])) == {4 * 4 * 2 * config.layers * config.kv_heads * config.width}


def test_the_order_of_frames_is_seen(vlm):
    shown = frames(3)
    first, second = Watcher(vlm), Watcher(vlm)
    first.see(shown)
    second.see(shown[::-1].copy())
    assert not close(first.logits(QUESTION), second.logits(QUESTION), 1e-3)


def test_what_is_no_clip_is_refused(models):
    vlm = models["llava-tiny"]
    for bad in (frames(2)[0], frames(0)):
        with pytest.raises(BadInput, match="array of frames"):
            clip_features(vlm, bad)
    with pytest.raises(BadInput, match="1 clips for 2 prompts"):
        answer_clips(vlm, [None], ["a", "b"])
    with pytest.raises(BadInput, match="show fewer frames"):
        answer_clips(vlm, [torch.zeros(4 * 128, 192)], [QUESTION])
    with pytest.raises(BadInput, match="nothing was seen"):
        Watcher(vlm).ask(QUESTION)
    with pytest.raises(BadInput, match="in its projector"):
        clip_features(VLM.from_preset("cobra-tiny-ldp", "cpu"), frames(1))
    vlm = VLM.from_preset("llava-tiny", "cpu")
    vlm.tokenizer = None
    with pytest.raises(BadInput, match="no tokenizer"):
        Watcher(vlm)
