"""The training loop: exact resumption after a kill, checkpoints, errors, schedules, several processes. Notebook 04."""

import copy
import itertools
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import vlmlab.errors
from vlmlab.errors import BadCheckpoint, BadInput, TrainingDiverged, UnknownName
from vlmlab.files import read_json
from vlmlab.vlm import training_setup
from vlmlab.vlm.checkpointing import checkpoints, read_weights
from vlmlab.vlm.trainer import TrainConfig, train
from vlmlab.vlm.training_log import read_metrics

ROOT = Path(vlmlab.errors.__file__).resolve().parents[1]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def toy() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 1))


def batch(index: int) -> tuple[torch.Tensor, torch.Tensor]:
    x = np.random.default_rng(index).standard_normal((16, 8), dtype=np.float32)
    return torch.from_numpy(x), torch.from_numpy(x.sum(1, keepdims=True))


def mean_square(model: nn.Module):
    return lambda pair: ((model(pair[0]) - pair[1]) ** 2).mean()


def fit(folder: Path, model: nn.Module | None = None, steps: int = 12, groups=None, resume: bool = False, **more):
    """Train the toy; options of `train` and of TrainConfig mixed."""
    model = model or toy()
    names = ("batch", "loss", "evaluate", "evaluate_every", "describe", "keep", "name", "progress")
    options = {"batch": batch, "loss": mean_square(model), "name": "toy", "progress": False}
    options |= {key: more.pop(key) for key in names if key in more}
    config = TrainConfig(steps, **{"save_every": 5, **more})
    return train(modules=model, groups=groups, config=config, folder=folder, resume=resume, **options), model


# ---------------------------------------------------------------- exact resumption
# One interpreter forks a child for every start: the children are killed as real runs are, without minutes of imports.
KILLED = """
import hashlib, json, os, pathlib, random, shutil, signal, sys, time
import numpy as np, torch, accelerate, safetensors.torch
from torch import nn
from vlmlab.vlm import checkpointing, trainer

def run(folder, resume, point):
    left = [point[1]]
    def hit(kind):
        if kind == point[0]:
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)
    def before(owner, name, kind):
        original = getattr(owner, name)
        def wrapper(*args, **kwargs):
            hit(kind)
            return original(*args, **kwargs)
        setattr(owner, name, wrapper)
    write = checkpointing.write_tensors
    def half(path, tensors, *rest):
        write(path, tensors)
        if left[0] == 0 and point[0] == "half-written":
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        hit("half-written")
    checkpointing.write_tensors = half
    before(checkpointing, "write_json", "state.json")
    before(trainer, "write_json", "run.json or rng")
    before(checkpointing, "_flush", "flush")
    before(pathlib.Path, "rename", "rename")
    before(shutil, "rmtree", "remove")
    torch.set_num_threads(1)
    torch.manual_seed(3)
    layers = nn.Linear(24, 24), nn.BatchNorm1d(24), nn.Linear(24, 50)
    model = nn.Sequential(nn.Embedding(50, 24), nn.Dropout(0.2), *layers)
    def batch(i):
        g = np.random.default_rng(i)
        return {"ids": torch.from_numpy(g.integers(0, 50, 37)), "labels": torch.from_numpy(g.integers(0, 50, 37))}
    def loss(data):
        hit("step")
        value = nn.functional.cross_entropy(model(data["ids"]), data["labels"])
        return value * (1 + 0.1 * random.random() + 0.1 * np.random.rand()), {"raw": value.item()}
    config = trainer.TrainConfig(30, lr=1e-2, ema=0.9, save_every=4, weight_decay=0.1, accumulate=2, log_every=3)
    result = trainer.train("toy", model, {"2": 3e-2}, batch, loss, config, folder, resume, progress=False)
    digest = hashlib.sha256(b"".join(v.numpy().tobytes() for v in model.state_dict().values()))
    saved = [result.checkpoint / f"{stem}.safetensors" for stem in ("weights", "optimizer", "ema")]
    files = [hashlib.sha256(path.read_bytes()).hexdigest() for path in saved]
    curve = [[line[key] for key in ("step", "loss", "raw", "lr", "grad_norm")] for line in result.metrics]
    pathlib.Path(folder, "answer.json").write_text(json.dumps([digest.hexdigest(), files, curve]))

def start(folder, resume, point, after=None):
    child = os.fork()
    if not child:
        try:
            run(folder, resume, point)
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    if after is not None:
        time.sleep(after)
        os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1]

warm = nn.Linear(2, 2)  # what is imported on first use is imported here, once
trainer.parts.set_up("fp32", warm, None)
trainer.parts.build_optimizer(dict(warm.named_parameters()), None, trainer.TrainConfig(1)).zero_grad()
answers = {}
for number, points in enumerate(json.load(sys.stdin)):
    folder = f"{sys.argv[1]}/{number}"
    ends = [start(folder, bool(i), p, p[1] if p[0] == "time" else None) for i, p in enumerate(points)]
    ends.append(start(folder, bool(points), ["none", 0]))
    answer = pathlib.Path(folder, "answer.json")
    answers[number] = {"ends": ends, "answer": json.loads(answer.read_text()) if answer.exists() else None}
print(json.dumps(answers))
"""


def killed(folder: Path, plans: list[list[tuple[str, float]]]) -> list[dict]:
    """What each plan (points at which a start is killed, before a last one that is not) ends with."""
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(folder)],
        input=json.dumps(plans),
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        timeout=550,
    )
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout)
    return [answers[str(number)] | {"log": done.stderr} for number in range(len(plans))]


@pytest.mark.timeout(600)
def test_a_run_killed_anywhere_and_resumed_ends_bit_identical(tmp_path):
    dice = random.Random(0)
    # how often a run of 30 steps, saving every 4, passes each point; killed there it leaves what a real kill leaves
    passes = {
        "step": 60,
        "half-written": 24,
        "run.json or rng": 9,
        "state.json": 8,
        "flush": 50,
        "rename": 14,
        "remove": 6,
    }
    points = [(point, dice.randrange(count)) for point, count in passes.items() for _ in range(2)]
    points += [("run.json or rng", 0), ("half-written", 0), ("rename", 0), ("remove", 0)]
    plans = [[], *([point] for point in points), [("step", 1), ("flush", 2), ("step", 19), ("rename", 1)]]
    uninterrupted, *resumed = killed(tmp_path, plans)
    assert uninterrupted["ends"] == [0], uninterrupted["log"]
    for plan, outcome in zip(plans[1:], resumed, strict=True):
        assert outcome["ends"] == [signal.SIGKILL] * len(plan) + [0], (plan, outcome["log"])
        assert outcome["answer"] == uninterrupted["answer"], plan
    assert [line[0] for line in uninterrupted["answer"][2]] == list(range(1, 31))
    assert not list(tmp_path.glob("*/checkpoints/.step-*"))  # what a killed save leaves is cleaned up


@pytest.mark.timeout(600)
def test_kills_at_random_times_end_bit_identical(tmp_path):
    dice = random.Random()  # another time in every run of the tests, printed by a failure
    plans = [[], *([("time", dice.uniform(0.02, 0.5)), ("time", dice.uniform(0.02, 0.5))] for _ in range(4))]
    uninterrupted, *resumed = killed(tmp_path, plans)
    for plan, outcome in zip(plans[1:], resumed, strict=True):
        assert outcome["ends"][-1] == 0, (plan, outcome["log"])
        assert outcome["answer"] == uninterrupted["answer"], plan


def test_a_damaged_newest_checkpoint_is_reported_and_the_one_before_used(tmp_path, capsys):
    clean, model = fit(tmp_path / "a")
    fit(tmp_path / "b")
    weights = tmp_path / "b" / "checkpoints" / "step-0000012" / "weights.safetensors"
    data = bytearray(weights.read_bytes())
    data[-3] ^= 1
    weights.write_bytes(data)
    again, other = fit(tmp_path / "b", resume=True, progress=True)
    assert again.resumed_from == 10
    assert "step-0000012/weights.safetensors is damaged" in capsys.readouterr().out
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    assert again.losses == clean.losses
    assert (tmp_path / "b" / "checkpoints" / "damaged-step-0000012").is_dir()


@pytest.mark.parametrize("file", ["state.json", "weights.safetensors", "optimizer.safetensors", "rng-0.json"])
def test_a_missing_or_cut_file_makes_a_checkpoint_unusable(tmp_path, file):
    fit(tmp_path)
    old, new = checkpoints(tmp_path)
    (new / file).write_bytes((new / file).read_bytes()[:20])
    (old / file).unlink()
    with pytest.raises(BadCheckpoint, match="every checkpoint"):
        fit(tmp_path, resume=True)


# ---------------------------------------------------------------- what may not happen to a folder
def test_an_existing_run_is_not_overwritten(tmp_path):
    fit(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(BadInput, match="--resume"):
        fit(tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"lr": 5e-3}, "lr was 0.001"),
        ({"steps": 13}, "steps was 12"),
        ({"seed": 4}, "seed was 0"),
        ({"betas": (0.9, 0.95)}, "betas"),
        ({"name": "other"}, "name was 'toy'"),
        ({"groups": {"2": 1e-2}}, "groups"),
        (
            {"model": nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.GELU(), nn.Linear(16, 1))},
            "parameters differ at '2.weight'",
        ),
        ({"model": nn.Sequential(nn.Linear(8, 17), nn.GELU(), nn.Linear(17, 1))}, r"'0.weight': \[16, 8\]"),
    ],
)
def test_resuming_with_something_else_names_the_field(tmp_path, change, word):
    fit(tmp_path)
    with pytest.raises(BadInput, match=word):
        fit(tmp_path, resume=True, **change)


def test_resuming_with_other_frozen_weights_is_refused(tmp_path):
    models = [toy(), toy()]
    for model in models:
        model[0].requires_grad_(False)
    fit(tmp_path, models[0])
    with torch.no_grad():
        models[1][0].weight[0, 0] += 1
    with pytest.raises(BadInput, match="frozen"):
        fit(tmp_path, models[1], resume=True)


def test_saving_and_logging_may_change_on_resumption(tmp_path):
    first, _ = fit(tmp_path)
    again, _ = fit(tmp_path, resume=True, save_every=3, log_every=2)
    assert (again.resumed_from, again.losses) == (12, first.losses)


def test_resume_without_a_run_starts_one(tmp_path):
    result, _ = fit(tmp_path / "new", resume=True)
    assert result.resumed_from == 0
    assert len(result.losses) == 12


def test_two_processes_do_not_train_in_one_folder(tmp_path):
    code = """
        import pathlib, sys
        from vlmlab.vlm.checkpointing import locked
        with locked(pathlib.Path(sys.argv[1])):
            print("held", flush=True)
            sys.stdin.read()
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(BadInput, match="another process"):
            fit(tmp_path)
        other.stdin.close()
    fit(tmp_path)


# ---------------------------------------------------------------- divergence and stopping
def test_a_nan_loss_names_step_batch_and_checkpoint_and_spares_the_weights(tmp_path):
    model, kept = toy(), []

    def poisoned(index):
        x, y = batch(index)
        return (x * math.nan if index == 8 else x), y

    def loss(pair):
        kept.append([p.detach().clone() for p in model.parameters()])
        return mean_square(model)(pair)

    with pytest.raises(TrainingDiverged) as caught:
        fit(tmp_path, model, batch=poisoned, loss=loss, describe=lambda i: f"scenes {i * 16}-{i * 16 + 15}")
    text = str(caught.value)
    assert "\n" not in text
    for part in ("loss is nan", "step 9", "batch 8 (scenes 128-143)", "step-0000005"):
        assert part in text
    assert all(torch.equal(a, b) for a, b in zip(kept[-1], model.parameters(), strict=True))
    assert [line["step"] for line in read_metrics(tmp_path)] == list(range(1, 9))


def test_an_infinite_gradient_stops_too(tmp_path):
    model = toy()
    loss = lambda pair: (mean_square(model)(pair) * 0 + model[0].weight[0, 0] * 0).sqrt()  # noqa: E731
    with pytest.raises(TrainingDiverged, match=r"gradient norm is (nan|inf) at step 1, batch 0; .*no checkpoint"):
        fit(tmp_path, model, loss=loss)
    assert all(torch.equal(a, b) for a, b in zip(toy().parameters(), model.parameters(), strict=True))


def test_a_signal_in_the_last_step_is_not_lost(tmp_path):
    model, count = toy(), []

    def loss(pair):
        count.append(1)
        if len(count) == 12:
            os.kill(os.getpid(), signal.SIGINT)
        return mean_square(model)(pair)

    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path, model, loss=loss)
    assert fit(tmp_path, resume=True)[0].resumed_from == 12


@pytest.mark.parametrize(("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_a_signal_ends_the_run_with_a_checkpoint_to_go_on_from(tmp_path, number, error):
    clean, _ = fit(tmp_path / "a")
    model, count = toy(), []

    def loss(pair):
        count.append(1)
        if len(count) == 7:
            os.kill(os.getpid(), number)
        return mean_square(model)(pair)

    handler = signal.getsignal(number)
    with pytest.raises(error):
        fit(tmp_path / "b", model, loss=loss)
    assert signal.getsignal(number) is handler
    assert [path.name for path in checkpoints(tmp_path / "b")] == ["step-0000005", "step-0000007"]
    again, _ = fit(tmp_path / "b", resume=True)
    assert (again.resumed_from, again.losses) == (7, clean.losses)


def test_an_error_in_batch_or_loss_reaches_the_caller(tmp_path):
    def broken(index):
        raise KeyError("colour") if index == 3 else RuntimeError

    with pytest.raises(RuntimeError):
        fit(tmp_path / "a", batch=broken)
    model = toy()
    with pytest.raises(BadInput, match="'loss'"):
        fit(tmp_path / "b", model, loss=lambda pair: (mean_square(model)(pair), {"loss": 1.0}))


# ---------------------------------------------------------------- the optimization itself
def test_the_loop_is_adamw_with_clipping_and_a_cosine(tmp_path):
    """Compared with a loop in plain PyTorch."""
    model, plain = toy(), toy()
    result, _ = fit(tmp_path, model, steps=40, groups=1e-2, warmup=0.1, weight_decay=0.2, clip=0.5, final_lr=0.1)
    decayed = [p for p in plain.parameters() if p.ndim > 1]
    rest = [p for p in plain.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.2}, {"params": rest, "weight_decay": 0.0}], lr=1e-2
    )
    for step in range(40):
        factor = (step + 1) / 4 if step < 4 else 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * (step - 4) / 36))
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * factor
        value = mean_square(plain)(batch(step))
        value.backward()
        norm = nn.utils.clip_grad_norm_(plain.parameters(), 0.5)
        optimizer.step()
        optimizer.zero_grad()
        line = result.metrics[step]
        assert line["loss"] == pytest.approx(value.item(), rel=1e-5)
        assert line["grad_norm"] == pytest.approx(norm.item(), rel=1e-4)
        assert line["lr"] == pytest.approx(1e-2 * factor)
    for a, b in zip(model.parameters(), plain.parameters(), strict=True):
        assert (a - b).abs().max() <= 1e-5 * b.abs().max()


def test_muon_moves_hidden_matrices_and_adamw_the_rest(tmp_path):
    """Compared with a loop of the two optimizers in plain PyTorch."""
    torch.manual_seed(1)
    model = nn.ModuleDict({"embed": nn.Linear(8, 16), "hidden": nn.Linear(16, 16), "out": nn.Linear(16, 1)})
    plain = copy.deepcopy(model)

    def loss(net):
        return lambda pair: ((net["out"](net["hidden"](net["embed"](pair[0])).relu()) - pair[1]) ** 2).mean()

    fit(tmp_path, model, steps=20, groups={"": 1e-2}, loss=loss(model), optimizer="muon", warmup=0, weight_decay=0.1,
        schedule="constant", clip=0.0, betas=(0.9, 0.98))  # fmt: skip
    matrices = [plain["hidden"].weight, plain["out"].weight]
    rest = [p for name, p in plain.named_parameters() if p.ndim < 2]
    members = [
        torch.optim.Muon(matrices, lr=1e-2, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW([{"params": [plain["embed"].weight], "weight_decay": 0.1},
                           {"params": rest, "weight_decay": 0.0}], lr=1e-2, betas=(0.9, 0.98)),
    ]  # fmt: skip
    for step in range(20):
        loss(plain)(batch(step)).backward()
        for member in members:
            member.step()
            member.zero_grad()
    for a, b in zip(model.parameters(), plain.parameters(), strict=True):
        assert (a - b).abs().max() <= 1e-4 * b.abs().max()


def test_a_run_with_muon_resumes_bit_identical(tmp_path):
    clean, model = fit(tmp_path / "a", optimizer="muon")
    fit(tmp_path / "b", optimizer="muon")
    shutil.rmtree(tmp_path / "b" / "checkpoints" / "step-0000012")
    again, other = fit(tmp_path / "b", resume=True, optimizer="muon")
    assert again.resumed_from == 10
    assert again.losses == clean.losses
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    files = [tmp_path / run / "checkpoints" / "step-0000012" / "optimizer.safetensors" for run in "ab"]
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_schedules_rise_then_fall_to_the_final_rate(schedule):
    config = TrainConfig(100, schedule=schedule, warmup=0.1, final_lr=0.2)
    rates = [training_setup.rate(config, step) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == rates[10] == 1.0
    assert rates[100] == pytest.approx(1.0 if schedule == "constant" else 0.2)
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))


def test_groups_take_the_longest_prefix_and_no_gradient_means_no_change(tmp_path):
    model = nn.ModuleDict({"a": toy(), "b": toy(), "idle": nn.Linear(2, 2)})
    model["b"][0].requires_grad_(False)
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    groups = [{"params": ["a", "idle"], "lr": 1e-3}, {"params": "a.2", "lr": 0.0, "weight_decay": 0.5}]
    loss = lambda pair: ((model["a"](pair[0]) + model["b"](pair[0]) - pair[1]) ** 2).mean()  # noqa: E731
    fit(tmp_path, model, groups=groups, loss=loss, lr=1e-4, weight_decay=0.1)
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, start[name])}
    assert moved == {"a.0.weight", "a.0.bias", "b.2.weight", "b.2.bias"}
    assert read_json(tmp_path / "run.json")["groups"]["a.2 (matrices)"] == [0.0, 0.5]
    assert set(read_weights(tmp_path)) == {name for name in start if not name.startswith("b.0")}
    with pytest.raises(UnknownName, match="did you mean 'idle'"):
        fit(tmp_path / "other", model, groups={"idel": 1.0}, loss=loss)


def test_accumulating_two_batches_is_one_of_twice_the_size(tmp_path):
    def double(index):
        return tuple(torch.cat(parts) for parts in zip(batch(2 * index), batch(2 * index + 1), strict=True))

    one, first = fit(tmp_path / "a", accumulate=2)
    two, second = fit(tmp_path / "b", batch=double)
    assert one.losses == pytest.approx(two.losses, rel=1e-5)
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert (a - b).abs().max() <= 1e-5 * b.abs().max()


def test_averaged_weights_are_returned_saved_and_evaluated(tmp_path):
    model, seen = toy(), []

    def evaluate(step):
        assert not model.training
        assert not torch.is_grad_enabled()
        seen.append((step, model[0].weight.detach().clone()))
        return {"accuracy": torch.tensor(0.25 * step)}

    result, _ = fit(tmp_path, model, ema=0.9, evaluate=evaluate, evaluate_every=5)
    expected, other = toy(), toy()
    states = []
    fit(
        tmp_path / "plain",
        other,
        loss=lambda pair: (states.append(other[0].weight.detach().clone()), mean_square(other)(pair))[1],
    )
    average = expected[0].weight.detach().clone()
    for step, weights in enumerate([*states[1:], other[0].weight.detach()]):
        average += (1 - min(0.9, (step + 1) / (step + 10))) * (weights - average)
    assert [step for step, _ in seen] == [5, 10, 12]
    assert torch.allclose(result.ema["0.weight"], average, rtol=1e-5, atol=1e-7)
    assert torch.equal(seen[-1][1], result.ema["0.weight"])
    assert torch.equal(model[0].weight, other[0].weight)  # the modules keep the raw weights
    assert torch.equal(read_weights(tmp_path, averaged=True)["0.weight"], result.ema["0.weight"])
    assert torch.equal(read_weights(tmp_path)["0.weight"], model[0].weight)
    assert [line["eval/accuracy"] for line in read_metrics(tmp_path) if "eval/accuracy" in line] == [1.25, 2.5, 3.0]


def test_modes_generators_and_old_checkpoints(tmp_path):
    model = nn.ModuleDict({"frozen": nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5)), "head": toy()})
    model["frozen"].requires_grad_(False)
    model.eval()
    torch.manual_seed(5)
    random.seed(5)
    np.random.seed(5)
    expected = (torch.rand(3), random.random(), np.random.rand())
    torch.manual_seed(5)
    random.seed(5)
    np.random.seed(5)

    def loss(pair):
        assert model["head"].training
        assert not model["frozen"][1].training
        random.random()
        np.random.rand()
        return mean_square(model["head"])((model["frozen"](pair[0]) + torch.rand(1), pair[1]))

    fit(tmp_path, model, loss=loss, save_every=2, keep=3)
    assert not model["head"].training
    assert torch.equal(torch.rand(3), expected[0])
    assert (random.random(), np.random.rand()) == expected[1:]
    assert [int(path.name[5:]) for path in checkpoints(tmp_path)] == [8, 10, 12]


def test_tied_weights_and_unaligned_batches(tmp_path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.head = nn.Embedding(11, 8), nn.Linear(8, 11, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, ids):
            return self.head(self.embed(ids))

    torch.manual_seed(0)
    model, addresses = Tied(), []

    def strange(index):
        return {"ids": torch.from_numpy(np.arange(100)[1:12] % 11), "more": [torch.arange(9)[1:], "text"]}

    def loss(data):
        addresses.extend([data["ids"].data_ptr() % 64, data["more"][0].data_ptr() % 64])
        return nn.functional.cross_entropy(model(data["ids"]), data["ids"])

    fit(tmp_path, model, batch=strange, loss=loss)
    assert set(addresses) == {0}
    assert set(read_weights(tmp_path)) == {"embed.weight"}
    assert model.head.weight is model.embed.weight


def test_the_log_lines(tmp_path, capsys):
    fit(tmp_path, log_every=4, progress=True)
    out = capsys.readouterr().out.splitlines()
    assert [line.split()[2] for line in out[:-1]] == ["1/12", "4/12", "8/12", "12/12"]
    assert all(word in out[1] for word in ("loss", "lr", "grad", "steps/s", "eta"))
    line = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])
    assert set(line) == {"step", "loss", "lr", "grad_norm", "seconds"}


def test_the_bar_on_a_terminal(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    fit(tmp_path, progress=True)
    assert "12 steps done" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"steps": 0}, "steps"),
        ({"lr": -1.0}, "lr"),
        ({"warmup": 2.0}, "warmup"),
        ({"lr": math.nan}, "lr"),
        ({"accumulate": 0}, "acc"),
    ],
)
def test_a_config_that_cannot_be(change, word):
    with pytest.raises(BadInput, match=f"TrainConfig.{word}"):
        TrainConfig(**{"steps": 3, **change})


def test_other_bad_arguments(tmp_path):
    with pytest.raises(UnknownName, match="'cosine'"):
        TrainConfig(3, schedule="cosin")
    with pytest.raises(UnknownName, match="'adamw'"):
        TrainConfig(3, optimizer="adam")
    with pytest.raises(BadInput, match="nothing to train"):
        fit(tmp_path, toy().requires_grad_(False))
    with pytest.raises(BadInput, match="one argument"):
        fit(tmp_path, batch=lambda a, b: None)
    with pytest.raises(BadCheckpoint, match="no checkpoint"):
        read_weights(tmp_path / "none")


# ---------------------------------------------------------------- several processes
TWICE = """
import sys, torch
from torch import nn
from vlmlab.vlm.trainer import TrainConfig, train
folder, split, mode = sys.argv[1], int(sys.argv[2]), sys.argv[3]
torch.set_num_threads(1)
torch.manual_seed(2)
model = nn.ModuleDict({"main": nn.Sequential(nn.Linear(6, 12), nn.GELU(), nn.Linear(12, 1)), "rare": nn.Linear(6, 1)})
def rows(i):
    x = torch.randn(8, 6, generator=torch.Generator().manual_seed(i))
    return x, x.prod(1, keepdim=True)
def batch(i):
    pairs = [rows(i)] if split == 2 else [rows(2 * i), rows(2 * i + 1)]
    return *(torch.cat(parts) for parts in zip(*pairs)), i // split
calls = []
def loss(data):
    x, y, step = data
    calls.append(step)
    if mode == "fail" and step == 12:
        raise RuntimeError("stop here")
    out = model["main"](x)
    out = out + 0.1 * model["rare"](x) if step % 3 == 0 else out  # a parameter that is not used in every step
    return ((out - y) ** 2).mean(), {}
config = TrainConfig(20, lr=1e-2, save_every=5, ema=0.9)
train("two", model, None, batch, loss, config, folder, mode == "resume", progress=False)
"""
# --multi_gpu also for two processes on the CPU: with --cpu, accelerate launch starts one whatever is asked
LAUNCH = "-m accelerate.commands.launch --multi_gpu --num_processes 2 --num_machines 1 --main_process_port 0"
LAUNCH += " --mixed_precision no --dynamo_backend no --num_cpu_threads_per_process 1"


def launched(folder: Path, processes: int, mode: str) -> subprocess.CompletedProcess:
    script = folder.parent / "two.py"
    script.write_text(TWICE)
    launch = LAUNCH.split() if processes == 2 else []
    command = [sys.executable, *launch, str(script), str(folder), str(processes), mode]
    return subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=180)


@pytest.mark.timeout(600)
def test_two_processes_train_as_one_with_twice_the_batch_also_resumed(tmp_path):
    one = launched(tmp_path / "one", 1, "new")
    assert one.returncode == 0, one.stderr
    failed = launched(tmp_path / "two", 2, "fail")
    assert failed.returncode != 0
    assert "stop here" in failed.stderr
    assert checkpoints(tmp_path / "two")[-1].name == "step-0000010"
    two = launched(tmp_path / "two", 2, "resume")
    assert two.returncode == 0, two.stderr
    assert read_json(tmp_path / "two" / "run.json")["processes"] == 2
    curves = [[(line["step"], line["loss"]) for line in read_metrics(tmp_path / name)] for name in ("one", "two")]
    assert [step for step, _ in curves[1]] == list(range(1, 21))
    assert [loss for _, loss in curves[1]] == pytest.approx([loss for _, loss in curves[0]], rel=1e-5)
    first, second = read_weights(tmp_path / "one"), read_weights(tmp_path / "two")
    for name, value in first.items():
        assert (second[name] - value).abs().max() <= 1e-5 * value.abs().max(), name
