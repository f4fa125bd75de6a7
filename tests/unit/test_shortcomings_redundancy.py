"""Dropping and merging image tokens, what tokens cost, keeping results, and the command."""

import json
from functools import partial

import pytest
import torch
import typer
from hypothesis import given, settings
from hypothesis import strategies as st

import vlmlab
from vlmlab.benchmarks import runner, shortcomings
from vlmlab.benchmarks.shortcomings import redundancy
from vlmlab.commands import shortcomings as command
from vlmlab.errors import BadInput, UnknownName
from vlmlab.language import LlamaConfig
from vlmlab.scenes import sample
from vlmlab.vlm.account import language_flops
from vlmlab.vlm.model import VLM
from vlmlab.vlm.presets import get_preset


@pytest.fixture(scope="module")
def models():
    return {name: VLM.from_preset(name, "cpu").eval() for name in ("llava-tiny", "cobra-tiny")}


# ------------------------------------------------------------------ which tokens are left
@settings(deadline=None, max_examples=30)
@given(st.integers(1, 16), st.integers(0, 5))
def test_what_is_kept_is_some_of_the_tokens_in_their_order(keep, seed):
    z = torch.arange(16.0)[None, :, None] * torch.tensor([1.0, 2.0])[:, None, None] * torch.ones(3)  # (2, 16, 3)
    for left in (redundancy.at_random(z, keep, seed), redundancy.evenly(z, keep), redundancy.by_norm(z, keep)):
        assert left.shape == (2, keep, 3)
        assert (left[:, 1:] > left[:, :-1]).all()
        assert set(left[0, :, 0].tolist()) <= set(range(16))
        assert (left == left[..., :1]).all()  # whole vectors
    assert redundancy.by_norm(z, keep)[1, :, 0].tolist() == [2.0 * i for i in range(16 - keep, 16)]


def test_which_tokens_by_hand():
    z = torch.tensor([3.0, -9.0, 0.0, 5.0, 1.0, 8.0, -2.0, 4.0])[None, :, None]
    assert redundancy.evenly(z, 4).flatten().tolist() == [-9.0, 5.0, 8.0, 4.0]
    assert redundancy.evenly(z, 2).flatten().tolist() == [0.0, -2.0]
    assert redundancy.by_norm(z, 3).flatten().tolist() == [-9.0, 5.0, 8.0]
    assert torch.equal(redundancy.at_random(z, 3, 1), redundancy.at_random(z, 3, 1))
    assert len({tuple(redundancy.at_random(z, 3, seed).flatten().tolist()) for seed in range(20)}) > 5


def test_squares_are_averaged():
    z = torch.arange(16.0)[None, :, None]  # a grid of 4 x 4, row by row
    assert redundancy.pooled(z, 4).flatten().tolist() == [2.5, 4.5, 10.5, 12.5]
    assert redundancy.pooled(z, 1).flatten().tolist() == [7.5]
    assert torch.equal(redundancy.pooled(z, 16), z)
    for shape, keep in (((1, 15, 1), 4), ((1, 16, 1), 8), ((1, 16, 1), 9)):
        with pytest.raises(BadInput, match="averaged in squares"):
            redundancy.pooled(torch.zeros(shape), keep)


def test_attention_ranks_by_the_last_token_of_the_prompt(models):
    vlm = models["llava-tiny"]
    z = vlm.encode_images(vlm.preprocess.batch([sample(i).render(96).rgb for i in range(2)])).detach()
    kept = redundancy.by_attention(z, 8, vlm)
    ids = torch.tensor(
        [vlm.template.encode_prompt(redundancy.PROMPT, vlm.tokenizer, image=True, image_id=vlm.image_id)]
    )
    place = ids[0].tolist().index(vlm.image_id)
    for row in range(2):
        record = {"layers.1.attn": None}
        spliced = vlm.embed_inputs(vlm.preprocess.batch([sample(row).render(96).rgb]), ids)
        vlm.language.hidden(inputs_embeds=spliced.inputs_embeds, record=record)
        weights = record["layers.1.attn"][0, :, -1, place : place + 64].mean(0)
        best = sorted(weights.topk(8).indices.tolist())
        assert torch.allclose(kept[row], z[row, best], atol=1e-6)
    with pytest.raises(BadInput, match="cobra-tiny has no attention"):
        redundancy.by_attention(z, 8, models["cobra-tiny"])


@pytest.mark.parametrize("name", ["llava-tiny", "cobra-tiny"])
def test_a_thinned_model_reads_fewer_tokens_and_is_whole_again_afterwards(name, models):
    vlm, picture = models[name], sample(1).render(96).rgb
    whole, answer = vlm.projector, vlm.generate(picture, "What?", max_new_tokens=4)
    with redundancy.thinned(vlm, lambda z: z):
        assert vlm.generate(picture, "What?", max_new_tokens=4) == answer
    with redundancy.thinned(vlm, partial(redundancy.evenly, keep=8)):
        assert vlm.encode_images(vlm.preprocess.batch([picture])).shape[1] == 8
        assert isinstance(vlm.generate(picture, "What?", max_new_tokens=4), str)
    assert vlm.projector is whole
    with pytest.raises(BadInput, match="squares"), redundancy.thinned(vlm, partial(redundancy.pooled, keep=8)):
        vlm.generate(picture, "What?", max_new_tokens=4)
    assert vlm.projector is whole
    assert set(redundancy.methods(vlm)) == {"at random", "evenly", "by norm", "averaged in squares"} | (
        {"by attention"} if name == "llava-tiny" else set()
    )


# ------------------------------------------------------------------ what tokens cost
@pytest.mark.parametrize("preset", ["llava-tiny", "llava-1.5-7b", "cobra-3b"])
def test_the_quadratic_part_grows_fourfold_and_the_rest_twofold(preset):
    config = get_preset(preset).language
    (small, line), (large, double) = redundancy.flops(config, 100), redundancy.flops(config, 200)
    head = 2 * config.dim * config.vocab_size
    assert large == 4 * small
    assert double - head == 2 * (line - head)
    assert small + line == language_flops(config, 100, 100)
    assert (small > 0) == isinstance(config, LlamaConfig)
    if preset == "llava-1.5-7b":
        assert small == 4 * 100 * 100 * 4096 * 32


def test_costs_have_a_value_a_count(models):
    for name, vlm in models.items():
        found = redundancy.costs(vlm, (8, 32), text=4)
        assert found["image_tokens"] == [8, 32]
        assert min(found["prefill_ms"]) > 0
        assert (found["kept_bytes"][1] > found["kept_bytes"][0]) == (name == "llava-tiny")
        assert [sum(pair) for pair in zip(found["quadratic_flops"], found["linear_flops"], strict=True)] == [
            language_flops(vlm.config.language, 12, 12), language_flops(vlm.config.language, 36, 36),
        ]  # fmt: skip


def test_measure_has_all_tokens_first_and_every_method_at_each_count(models, monkeypatch):
    seen = []

    def answer(self, images, prompts, on_batch=None, **options):
        if images[0] is not None:
            seen.append(self.encode_images(self.preprocess.batch([images[0]])).shape[1])
        on_batch(len(prompts))
        return ["yes"] * len(prompts)

    monkeypatch.setattr(VLM, "answer_many", answer)
    monkeypatch.setattr(redundancy, "costs", lambda vlm: {})
    heard = []
    found = redundancy.measure(models["llava-tiny"], 2, 0, lambda done, total: heard.append((done, total)))
    assert [(row["group"], row["x"], row["n"]) for row in found["rows"]] == [
        ("all tokens", 64, 4),
        *((name, x, 4) for name in ("at random", "evenly", "by norm", "by attention") for x in (32, 16, 8)),
        ("averaged in squares", 16, 4),
        ("averaged in squares", 4, 4),
    ]
    assert seen == [row["x"] for row in found["rows"]]
    assert heard == [(4, 4)] * 16
    assert len({row["blind"] for row in found["rows"]}) == 1


def test_questions_are_of_four_types_and_the_same_again():
    asked = redundancy.items(8, 1)
    assert [item.question for item in asked] == [item.question for item in redundancy.items(8, 1)]
    assert len({item.scene.seed for item in asked}) == 8
    assert sum("How many" in item.question for item in asked) >= 2


# ------------------------------------------------------------------ keeping results, and the command
FULL = {"model": "llava-tiny", "n": 1, "seed": 0, "found": {name: {"rows": []} for name in shortcomings.NAMES}}


def test_results_are_kept_for_the_weights_that_they_were_measured_on(models, monkeypatch, tmp_path):
    monkeypatch.setenv("VLMLAB_DATA", str(tmp_path))
    vlm = VLM.from_preset("llava-tiny", "cpu")
    assert shortcomings.kept(vlm) is None
    assert shortcomings.save(FULL, vlm) == "data/results/shortcomings-llava-tiny.json"
    assert shortcomings.kept(vlm) == {**FULL, "weights": runner.weights(vlm)}
    with torch.no_grad():
        vlm.projector[0].bias[0] += 1e-3
    assert shortcomings.kept(vlm) is None
    with pytest.raises(BadInput, match="not measured: fusion, illusions, redundancy"):
        shortcomings.save({**FULL, "found": {"detail": {}, "layout": {}}}, vlm)


def call(*arguments: str) -> None:
    app = typer.Typer()
    app.command()(command.shortcomings)
    typer.main.get_command(app).main(list(arguments), standalone_mode=False)


def test_the_command_prints_what_measure_returns(models, monkeypatch, capsys):
    monkeypatch.setattr(vlmlab, "load", lambda name, device: models[name])
    monkeypatch.setattr(VLM, "answer_many", lambda self, images, prompts, **options: ["no"] * len(prompts))
    expected = shortcomings.measure(models["llava-tiny"], "layout", 1, 5)
    call("--only", "layout", "--n", "1", "--seed", "5", "--json")
    assert json.loads(capsys.readouterr().out) == expected
    monkeypatch.setenv("COLUMNS", "160")
    call("--only", "layout", "--n", "1", "--seed", "5")
    printed = capsys.readouterr().out
    assert "llava-tiny: shortcomings (n = 1, seed 5)" in printed
    assert "pairs, left and right, mirrored" in printed


def test_the_command_saves_a_complete_measurement(models, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(vlmlab, "load", lambda name, device: models[name])
    monkeypatch.setattr(shortcomings, "measure", lambda vlm, which, n, seed, progress: replaced(which, n, seed))
    monkeypatch.setenv("VLMLAB_DATA", str(tmp_path))
    call("--n", "3", "--save", "--json")
    streams = capsys.readouterr()
    assert json.loads(streams.out)["n"] == 3
    assert "wrote data/results/shortcomings-llava-tiny.json" in streams.err
    assert json.loads((tmp_path / "results" / "shortcomings-llava-tiny.json").read_text())["n"] == 3


def replaced(which, n, seed):
    assert tuple(which) == shortcomings.NAMES
    return {**FULL, "n": n, "seed": seed}


def test_wrong_options_are_told():
    with pytest.raises(UnknownName, match="did you mean 'layout'"):
        call("--only", "layuot")
    with pytest.raises(BadInput, match="leave --only out"):
        call("--only", "layout", "--save")
    with pytest.raises(UnknownName, match="unknown model"):
        call("--model", "llava-tny")
