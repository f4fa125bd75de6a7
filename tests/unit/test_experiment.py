"""The 3 x 2 experiment at toy size: what a run trains, that it resumes, and that a finished one is not repeated."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from vlmlab import cli, runtime
from vlmlab.benchmarks import categories, experiment, experiment_results
from vlmlab.benchmarks.experiment import CELLS, Plan
from vlmlab.errors import BadInput, UnknownName
from vlmlab.files import read_json, read_tensors, write_json, write_tensors
from vlmlab.vlm import recipes
from vlmlab.vlm.model import VLM
from vlmlab.vlm.presets import get_preset
from vlmlab.vlm.recipes import common, stages
from vlmlab.vlm.training_log import read_metrics
from vlmlab.weights import load

TOY = (("batch", 4), ("checks", 8), ("precision", "fp32"), ("save_every", 1), ("scenes", 24))
PLAN = Plan(steps=3, seeds=2, questions=2, pairs=2, changes=TOY)
LIVE = ("mambavision-llama-0", "fused-mamba-1")


def plant_pretrained() -> None:
    """Random weights as what the pretraining recipes leave."""
    recipes.run("tokenizer", scenes=60)
    for name, (inside, place) in common.PLACES.items():
        preset = next(cell for cell, needs in NEEDS.items() if name in needs) + "-tiny"
        state = VLM.from_preset(preset, "cpu", recipes.tokenizer(), seed=7).state_dict()
        tensors = {inside + key.removeprefix(place): value for key, value in state.items() if key.startswith(place)}
        write_tensors(recipes.finished(name), tensors)


NEEDS = {cell: experiment.recipe_of(PLAN, f"{cell}-0").needs for cell in CELLS}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLMLAB_WORK", str(folder))
        plant_pretrained()
        assert experiment.run(PLAN, LIVE, say=lambda text: None) == []
        yield folder


@pytest.fixture(autouse=True)
def work(runs, monkeypatch):
    monkeypatch.setenv("VLMLAB_WORK", str(runs))


@pytest.fixture
def idle(monkeypatch):
    """Neither trains nor asks."""

    def refuse(*arguments, **options):
        raise AssertionError("a finished run was repeated")

    monkeypatch.setattr(experiment, "train_stage", refuse)
    monkeypatch.setattr(categories, "mark", refuse)


def test_cells_differ_in_their_parts_alone():
    by_cell = {cell: experiment.recipe_of(PLAN, f"{cell}-1") for cell in CELLS}
    assert len(by_cell) == 6
    for recipe in by_cell.values():
        same = replace(recipe, name="", preset="", needs=(), groups=())
        assert same == replace(by_cell["clip-llama"], name="", preset="", needs=(), groups=())
        assert recipe.parts == ("projector", "language")
        assert [rate for _, rate in recipe.groups] == [4e-4]
        assert (recipe.train.seed, recipe.train.steps, recipe.batch) == (1, 3, 4)
    configs = {cell: get_preset(f"{cell}-tiny") for cell in CELLS}
    assert {(c.projector, c.image_tokens, c.image_size, c.tokenizer, c.image_id) for c in configs.values()} == {
        ("mlp2x_gelu", 64, 96, "tokenizer.json", 3)
    }
    for cell, config in configs.items():
        encoder, backbone = cell.split("-")
        like = get_preset({"llama": "llava-tiny", "mamba": "cobra-tiny"}[backbone])
        assert (config.language, config.template, config.system) == (like.language, like.template, like.system)
        seen = get_preset({"clip": "llava-tiny", "fused": "cobra-tiny"}.get(encoder, "cobra-mambavision-tiny"))
        assert (config.vision, config.mean, config.std) == (seen.vision, seen.mean, seen.std)


def test_a_run_trains_projector_and_language_model_from_the_pretrained_parts(runs):
    for name in LIVE:
        folder = PLAN.path / name
        trained, _ = read_tensors(folder / "weights.safetensors")
        assert {key.split(".")[0] for key in trained} == {"projector", "language"}
        final = load(folder / "model.safetensors", "cpu")
        recipe = experiment.recipe_of(PLAN, name)
        begun = VLM.from_preset(recipe.preset, "cpu", recipes.tokenizer(), seed=recipe.train.seed)
        recipes.fill_from_runs(begun, recipe.needs)
        for need in recipe.needs[1:]:
            inside, place = common.PLACES[need]
            planted, _ = read_tensors(recipes.finished(need))
            state = begun.state_dict()
            assert all(torch.equal(value, state[place + key.removeprefix(inside)]) for key, value in planted.items())
        before = begun.state_dict()
        for key, value in final.state_dict().items():
            if key.startswith("vision."):
                assert torch.equal(value, before[key]), key
        assert not torch.equal(final.projector[0].weight, before["projector.0.weight"])
        moved = [not torch.equal(value, before[key]) for key, value in final.state_dict().items() if "language" in key]
        assert sum(moved) > len(moved) / 2


def test_a_seed_decides_the_projector_and_the_order_of_the_data_which_all_cells_share(runs):
    zero, one, other = (
        experiment.recipe_of(PLAN, name) for name in ("clip-llama-0", "clip-llama-1", "mambavision-mamba-1")
    )
    assert not np.array_equal(common.draw(zero, 0, 24)[0], common.draw(one, 0, 24)[0])
    assert np.array_equal(common.draw(one, 2, 24)[0], common.draw(other, 2, 24)[0])
    first, second = (
        VLM.from_preset(each.preset, "cpu", recipes.tokenizer(), seed=each.train.seed) for each in (zero, one)
    )
    assert not torch.equal(first.projector[0].weight, second.projector[0].weight)


def test_a_result_tells_every_answer_its_cost_and_its_curve(runs):
    exam = categories.build(PLAN.questions, PLAN.pairs)
    for name in LIVE:
        result = experiment.finished(PLAN, name)
        assert result is not None
        assert f"{result['encoder']}-{result['backbone']}-{result['seed']}" == name
        assert len(result["right"]) == len(exam.asked) == 8 * 2 + 3 * 2 * 2
        assert len(result["blind"]) == exam.singles == 16
        assert set(result["right"] + result["blind"]) <= {"0", "1"}
        assert result["exam"] == exam.fingerprint
        losses = [line["loss"] for line in read_metrics(PLAN.path / name / "run")]
        assert result["loss"]["step"] == [1, 2, 3]
        assert result["loss"]["loss"] == pytest.approx(losses, abs=1e-4)
        assert result["seconds"]["training"] > 0
        assert "existence" in result["predicted"]


def test_a_thinned_curve_keeps_every_step():
    losses = list(np.random.default_rng(0).random(103))
    curve = experiment.thinned(losses)
    assert len(curve["loss"]) == len(curve["step"]) == experiment.WINDOWS
    assert curve["step"][-1] == 103
    widths = np.diff([0, *curve["step"]])
    assert (widths * curve["loss"]).sum() == pytest.approx(sum(losses), abs=0.02)


def test_finished_runs_are_not_repeated(runs, idle):
    assert experiment.run(PLAN, LIVE, say=lambda text: None) == []
    with pytest.raises(AssertionError, match="repeated"):
        experiment.run(PLAN, ["clip-llama-1"], say=lambda text: None)


def test_other_questions_are_asked_without_training_again(runs, monkeypatch, tmp_path):
    shutil.copytree(runs, tmp_path / "work", symlinks=True)
    monkeypatch.setenv("VLMLAB_WORK", str(tmp_path / "work"))
    monkeypatch.setattr(experiment, "train_stage", lambda *arguments, **options: pytest.fail("trained again"))
    other = replace(PLAN, questions=3)
    assert experiment.finished(PLAN, LIVE[0])
    experiment.run(other, LIVE[:1], say=lambda text: None)
    result = experiment.finished(other, LIVE[0])
    assert result is not None
    assert len(result["blind"]) == 24
    assert experiment.finished(other, LIVE[1]) is None  # it was asked the old ones
    assert experiment.finished(PLAN, LIVE[1]) is None  # and the exam on record is the new one


def test_a_killed_run_goes_on_to_the_same_bits(runs, monkeypatch, tmp_path):
    shutil.copytree(runs, tmp_path / "work", ignore=shutil.ignore_patterns("experiment"))
    monkeypatch.setenv("VLMLAB_WORK", str(tmp_path / "work"))
    packed = stages.pack

    def killed(*arguments):
        if len(list((PLAN.path / LIVE[0] / "run" / "checkpoints").glob("*"))) >= 2:
            raise KeyboardInterrupt
        return packed(*arguments)

    monkeypatch.setattr(stages, "pack", killed)
    with pytest.raises(KeyboardInterrupt):
        experiment.run(PLAN, LIVE[:1], say=lambda text: None)
    assert len(read_metrics(PLAN.path / LIVE[0] / "run")) < 3
    assert experiment.finished(PLAN, LIVE[0]) is None
    monkeypatch.setattr(stages, "pack", packed)
    told = []
    train = experiment.train_stage
    monkeypatch.setattr(experiment, "train_stage", lambda *a, **k: told.append(train(*a, **k)))
    experiment.run(PLAN, LIVE[:1], say=lambda text: None)
    assert told[0].resumed_from in (1, 2)
    again, _ = read_tensors(PLAN.path / LIVE[0] / "weights.safetensors")
    straight, _ = read_tensors(runs / PLAN.folder / LIVE[0] / "weights.safetensors")
    assert all(torch.equal(value, straight[key]) for key, value in again.items())


def test_a_run_that_another_process_is_at_is_left_to_it(runs, idle):
    hold = "import sys; from pathlib import Path; from vlmlab.vlm.checkpointing import locked\n"
    hold += "with locked(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    folder = PLAN.path / "clip-mamba-0"
    child = subprocess.Popen(
        [sys.executable, "-c", hold, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "held\n"
        assert experiment.run(PLAN, ["clip-mamba-0"], say=lambda text: None) == ["clip-mamba-0"]
    finally:
        child.communicate("")
    shutil.rmtree(folder)


def test_a_missing_pretraining_runs_first(runs, monkeypatch, tmp_path):
    monkeypatch.setenv("VLMLAB_WORK", str(tmp_path))
    asked = []

    def run(name, resume):
        asked.append((name, resume))
        if len(asked) == 3:
            raise KeyboardInterrupt
        recipes.finished(name).parent.mkdir(parents=True)
        recipes.finished(name).touch()

    monkeypatch.setattr(recipes, "run", run)
    with pytest.raises(KeyboardInterrupt):
        experiment.prepare(experiment.recipe_of(PLAN, "fused-mamba-0"))
    assert asked == [("tokenizer", True), ("dinov2-tiny", True), ("siglip-tiny", True)]


def test_a_result_of_another_recipe_is_refused(runs, monkeypatch):
    result = read_json(PLAN.path / LIVE[0] / "result.json")
    result["recipe"]["batch"] = 5
    changed = replace(PLAN, steps=4)
    write_json(changed.path / "exam.json", read_json(PLAN.path / "exam.json"))
    write_json(changed.path / LIVE[0] / "result.json", result)
    with pytest.raises(BadInput, match="another recipe"):
        experiment.finished(changed, LIVE[0])


def test_runs_are_chosen_by_their_words_and_kept_apart_by_their_settings():
    plan = Plan(seeds=3)
    assert len(plan.select([])) == len(set(plan.runs)) == 18
    assert plan.runs[0] == "clip-mamba-0"  # the slower backbone first
    assert len(plan.select(["mamba"])) == 9
    assert plan.select(["clip-llama"]) == ("clip-llama-0", "clip-llama-1", "clip-llama-2")
    assert plan.select(["fused-mamba-2", "clip-1"]) == ("clip-mamba-1", "clip-llama-1", "fused-mamba-2")
    with pytest.raises(UnknownName, match="did you mean 'clip-llama'"):
        plan.select(["clip-lama"])
    with pytest.raises(UnknownName):
        plan.select(["clip-llama-3"])
    folders = {Plan().folder, Plan(steps=5).folder, Plan(changes=(("batch", 4),)).folder}
    assert len(folders) == 3
    for wrong in ({"steps": 0}, {"seeds": 0}, {"changes": (("seed", 3),)}, {"changes": (("name", "x"),)}):
        with pytest.raises(BadInput):
            Plan(**wrong)
    with pytest.raises(UnknownName, match="parameter"):
        Plan(changes=(("bach", 4),))


def test_the_command_goes_on_and_prints_what_is_there(runs, idle, monkeypatch, capfd, tmp_path):
    small = {"questions": PLAN.questions, "pairs": PLAN.pairs}
    monkeypatch.setattr(experiment, "Plan", lambda steps, seeds, changes: Plan(steps, seeds, changes=changes, **small))
    monkeypatch.setenv("COLUMNS", "200")
    arguments = ["experiment", "encoders-by-backbones", "--steps", "3", "--seeds", "2", "--only", ",".join(LIVE)]
    monkeypatch.setenv("VLMLAB_DATA", str(tmp_path / "data"))
    arguments += [part for name, value in TOY for part in ("--set", f"{name}={value}")]
    assert cli.main([*arguments, "--json"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert sorted(found["runs"]) == sorted(LIVE)
    assert len(found["missing"]) == 10
    assert found["speed"] is None
    assert cli.main(arguments) == 0
    out = capfd.readouterr().out
    assert "projective" in out
    assert "missing:" in out
    assert cli.main([*arguments, "--save"]) == 0
    assert "kept 2 of 12 runs" in capfd.readouterr().err
    kept = {path.parent.name for path in (tmp_path / "data").rglob("result.json")}
    assert kept == set(LIVE)
    assert not (tmp_path / "data" / "experiments" / "encoders-by-backbones.json").exists()


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["encoders-by-backbone"], "did you mean 'encoders-by-backbones'"),
        (["encoders-by-backbones", "--only", "clip,,llama"], "commas between"),
        (["encoders-by-backbones", "--only", "siglip"], "unknown run 'siglip'"),
        (["encoders-by-backbones", "--show", "--only", "clip"], "runs nothing"),
        (["encoders-by-backbones", "--set", "seed=3"], "seed is no setting"),
        (["encoders-by-backbones", "--steps", "0"], "greater than or equal to 1"),
    ],
)
def test_a_users_mistake_is_one_line(capfd, arguments, part):
    assert cli.main(["experiment", *arguments]) == 2
    out, error = capfd.readouterr()
    assert out == ""
    assert error.count("\n") == 1
    assert part in error


def test_nothing_finished_is_told(monkeypatch, tmp_path):
    monkeypatch.setenv("VLMLAB_WORK", str(tmp_path))
    with pytest.raises(BadInput, match="vlmlab experiment encoders-by-backbones"):
        experiment_results.collect(PLAN)


def test_kept_results_stand_in_for_runs_of_another_machine(runs, idle, monkeypatch, tmp_path):
    monkeypatch.setattr(runtime, "data_dir", lambda: tmp_path / "data")
    assert experiment.keep(PLAN) == sorted(LIVE, key=PLAN.runs.index)
    assert experiment.keep(replace(PLAN, seeds=1)) == [LIVE[0]]
    found = [experiment.finished(PLAN, name) for name in LIVE]
    monkeypatch.setenv("VLMLAB_WORK", str(tmp_path / "elsewhere"))
    assert [experiment.finished(PLAN, name) for name in LIVE] == found
    assert experiment.finished(PLAN, "clip-llama-1") is None
    assert experiment.finished(replace(PLAN, questions=3), LIVE[0]) is None
    assert experiment.run(PLAN, LIVE, say=lambda text: None) == []
    assert sorted(experiment_results.collect(PLAN)["runs"]) == sorted(LIVE)
    assert experiment.keep(replace(PLAN, steps=4)) == []
