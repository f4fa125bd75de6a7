"""A reader's own data: exact errors, exact label masks, batches, and a fine-tuning that learns, stops and goes on."""

import json
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import vlmlab
from vlmlab import runtime
from vlmlab.cli import main
from vlmlab.errors import BadImage, BadInput
from vlmlab.files import read_tensors, write_json
from vlmlab.language import Tokenizer
from vlmlab.vlm import own_data, saving
from vlmlab.vlm.model import VLM
from vlmlab.vlm.own_data import chosen, collate, fine_tune, read
from vlmlab.vlm.splice import IGNORE
from vlmlab.vlm.trainer import TrainConfig

TALK = [("<image>\nIs there a cat?", "There is a red cat, yes."), ("What color is it?", "It is red.")]
FAST = {"lr": 2e-3, "log_every": 100}


def turns(pairs) -> list[dict]:
    return [{"from": role, "value": text} for pair in pairs for role, text in zip(("human", "gpt"), pair, strict=True)]


def item(name="one", image="a.png", pairs=TALK, **more) -> dict:
    found = {"id": name, "image": image, "conversations": turns(pairs), **more}
    return {key: value for key, value in found.items() if value is not None}


TEXT = item("text", None, [("Say hello.", "Hello there.")])
OTHER = item("two", "b.png", [("<image>\nDescribe the picture.", "A blue sofa.")])


@cache
def model(preset="llava-tiny") -> VLM:
    """Random weights behind the shipped tokenizer."""
    words = Tokenizer.load(runtime.data_dir() / "checkpoints" / "tokenizer.json")
    return VLM.from_preset(preset, "cpu", words, seed=1)


def fresh(preset="llava-tiny") -> VLM:
    return VLM.from_preset(preset, "cpu", model().tokenizer, seed=1)


@pytest.fixture
def folder(tmp_path):
    """own.json with three records, and images/ with a square and a wide picture."""
    (tmp_path / "images").mkdir()
    rng = np.random.default_rng(0)
    for name, shape in (("a.png", (96, 96, 3)), ("b.png", (40, 64, 3))):
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(tmp_path / "images" / name)
    write_json(tmp_path / "own.json", [item(), OTHER, TEXT])
    return tmp_path


def rows(folder, vlm=None):
    return read(folder / "own.json", folder / "images", vlm or model())


# ---------------------------------------------------------------- reading
def test_only_answers_and_their_ends_carry_loss(folder):
    expected = (["There is a red cat, yes.", "It is red."], ["A blue sofa."], ["Hello there."])
    for row, answers in zip(rows(folder), expected, strict=True):
        learnt = [label for label in row.labels if label != IGNORE]
        decoded = model().tokenizer.decode(learnt, skip_special=False)
        assert [text.strip() for text in decoded.split("</s>")] == [*answers, ""]
        assert [i for i, label in zip(row.ids, row.labels, strict=True) if label != IGNORE] == learnt


def test_images_stand_where_records_have_them(folder):
    found = rows(folder)
    assert [row.image and row.image.name for row in found] == ["a.png", "b.png", None]
    assert [row.ids.count(model().image_id) for row in found] == [1, 1, 0]
    assert [row.name for row in found] == ["one", "two", "text"]


WRONG = [
    ("[", r"own\.json is not valid JSON"),
    ({}, r"own\.json must be a list of records"),
    ([], r"own\.json must be a list of records"),
    ([7], r"own\.json, record 1 must be an object with id, image and conversations, not int"),
    ([item(image="c.png")], r"record 1 \(id 'one'\): the field 'image' names 'c\.png', and there is no such file in"),
    ([item(image=["a.png"])], r"record 1 \(id 'one'\): the field 'image' must be one file's name, not list"),
    ([item(), {"id": "x", "image": "a.png"}], r"record 2 \(id 'x'\): the field 'conversations' must be a list"),
    ([{"image": "a.png", "conversations": []}], r"record 1: the field 'conversations' must be a list of turns"),
    ([{"conversations": [{"from": "human"}]}], r"turn 0 must be an object with the texts 'from' and 'value'"),
    ([{"conversations": [{"from": "user", "value": "?"}]}], r"turn 0: 'from' must be human or gpt, not 'user'"),
    ([item(pairs=[("Is there a cat?", "No.")])], r"one <image> in its human turns, as it has an image; it has 0"),
    ([item(pairs=[("<image><image>\nWhat?", "Cats.")])], r"must have one <image> .*; it has 2"),
    ([item(image=None)], r"must have no <image>, as it has no image; it has 1"),
    ([item(conversations=turns(TALK)[1:])], r"must have one <image>"),
    ([item(conversations=turns(TALK)[:1] * 2 + turns(TALK)[1:])], r"it has 2"),
    ([item(conversations=[*turns(TALK), *turns(TALK)[3:]])], r"turn 4 is again from 'gpt'; turns must alternate"),
    ([item(conversations=turns(TALK)[:3])], r"'conversations': the conversation does not end with an answer"),
    ([item(pairs=[("<image>\nWhat?", "  ")])], r"'conversations': turn 1 \(gpt\) is an empty answer"),
    ([item(pairs=[("<image>\n" + "the cat is red " * 200, "Yes.")])], r"no answer begins within the 512 tokens"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "message"), WRONG)
def test_what_is_wrong_is_told_with_file_record_and_field(folder, content, message):
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / "own.json").write_text(text)
    with pytest.raises(BadInput, match=message) as told:
        rows(folder)
    assert "own.json" in str(told.value)
    assert "\n" not in str(told.value)


def test_a_damaged_picture_is_named_when_it_is_read(folder):
    (folder / "images" / "a.png").write_bytes(b"no picture")
    with pytest.raises(BadImage, match=r"a\.png is not a readable image"):
        collate(rows(folder), model())


def test_a_model_without_a_tokenizer_is_told(folder):
    vlm = fresh()
    vlm.tokenizer = None
    with pytest.raises(BadInput, match="llava-tiny has no tokenizer"):
        rows(folder, vlm)


# ---------------------------------------------------------------- batches
def loss(batch, vlm) -> float:
    with torch.no_grad():
        return float(vlm(batch.pixel_values, batch.input_ids, batch.labels, batch.attention_mask, loss_only=True).loss)


@pytest.mark.parametrize("preset", ["llava-tiny", "cobra-tiny"])
def test_a_batch_is_its_rows(folder, preset):
    """Padding and neighbours change nothing: the batch's loss is the rows' mean over tokens."""
    vlm = model(preset)
    found = rows(folder, vlm)
    batch = collate(found, vlm)
    assert batch.pixel_values.shape == (2, 3, 96, 96)
    assert (batch.labels[batch.attention_mask == 0] == IGNORE).all()
    counts = [sum(label != IGNORE for label in row.labels) for row in found]
    alone = [loss(collate([row], vlm), vlm) for row in found]
    expected = sum(n * value for n, value in zip(counts, alone, strict=True)) / sum(counts)
    assert loss(batch, vlm) == pytest.approx(expected, rel=1e-5)
    assert collate(found[2:], vlm).pixel_values is None


def test_the_picture_of_a_record_matters(folder):
    found = rows(folder)
    swapped = [found[0]._replace(image=found[1].image), found[1]._replace(image=found[0].image)]
    assert loss(collate(found[:2], model()), model()) != loss(collate(swapped, model()), model())


@given(st.integers(1, 40), st.integers(1, 9), st.integers(0, 5))
@settings(max_examples=40, deadline=None)
def test_each_epoch_sees_every_row_once(count, size, seed):
    seen = [row for step in range(3 * count) for row in chosen(count, size, step, seed)]
    for epoch in range(3 * size):
        assert sorted(seen[epoch * count : (epoch + 1) * count]) == list(range(count))


def test_epochs_and_seeds_differ_in_order():
    orders = {tuple(chosen(20, 20, step, seed)) for step in range(2) for seed in range(2)}
    assert len(orders) == 4


# ---------------------------------------------------------------- training
def tune(folder, vlm, steps, out="out", **options):
    config = TrainConfig(steps, save_every=2, **FAST)
    return fine_tune(vlm, folder / "own.json", folder / "images", folder / out, config, batch=3, **options)


def test_training_learns_the_answers_and_leaves_the_encoder(folder):
    vlm = fresh()
    before = {name: value.clone() for name, value in vlm.state_dict().items()}
    result = tune(folder, vlm, 12)
    assert result.losses[-1] < 0.5 * result.losses[0]
    changed = {name.split(".")[0] for name, value in vlm.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"projector", "language"}
    again = saving.load(folder / "out" / "model.safetensors", device="cpu")
    assert isinstance(again.generate(folder / "images" / "a.png", "Is there a cat?", max_new_tokens=4), str)


def test_a_run_that_was_stopped_goes_on_bit_for_bit(folder, monkeypatch):
    tune(folder, fresh(), 4, "whole")
    real, calls = own_data.collate, []

    def stopped(*arguments):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(own_data, "collate", stopped)
    with pytest.raises(KeyboardInterrupt):
        tune(folder, fresh(), 4)
    monkeypatch.undo()
    assert tune(folder, fresh(), 4, resume=True).resumed_from == 2
    whole, out = (read_tensors(folder / name / "model.safetensors")[0] for name in ("whole", "out"))
    assert all(torch.equal(value, out[name]) for name, value in whole.items())


def test_a_resumption_asks_for_the_same(folder):
    tune(folder, fresh(), 2)
    with pytest.raises(BadInput, match="already holds a training run"):
        tune(folder, fresh(), 2)
    with pytest.raises(BadInput, match=r"cannot resume .*: parts is \['projector'\], and the run began with"):
        tune(folder, fresh(), 2, resume=True, parts=["projector"])
    write_json(folder / "own.json", [item()])
    with pytest.raises(BadInput, match=r"cannot resume .*: data is"):
        tune(folder, fresh(), 2, resume=True)


@pytest.mark.parametrize("preset", ["cobra-tiny", "cobra-mambavision-tiny"])
def test_other_models_train_the_same_way(folder, preset):
    result = tune(folder, fresh(preset), 1)
    assert np.isfinite(result.losses[0])
    assert saving.load(folder / "out" / "model.safetensors", device="cpu").config.name == preset


# ---------------------------------------------------------------- the command
def test_the_command_trains_and_tells(folder, monkeypatch, capsys):
    monkeypatch.setattr(vlmlab, "load", lambda name: fresh())
    monkeypatch.setenv("VLMLAB_WORK", str(folder / "runs"))
    own = ["train", "--data", str(folder / "own.json"), "--images", str(folder / "images")]
    assert main([*own, "--set", "steps=1", "--set", "batch=2", "--set", "precision=fp32", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == 1
    assert (folder / "runs" / "own" / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "own.json"], "--data goes with --images FOLDER"),
        (["llava-tiny", "--data", "own.json", "--images", "."], "without a recipe"),
        (["--images", "."], "--images and --out go with --data FILE"),
        (["--data", "own.json", "--images", ".", "--set", "stepz=3"], "unknown setting 'stepz'; did you mean 'steps'?"),
        (["--data", "none.json", "--images", "."], "no such file: none.json"),
    ],
)
def test_the_command_refuses_in_one_line(arguments, message, capsys, monkeypatch):
    monkeypatch.setattr(vlmlab, "load", lambda name: model())
    assert main(["train", *arguments]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1
