"""Two processes train and answer as one does: the same weights and answers by the same commands. Notebook 16."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import vlmlab
from vlmlab import runtime
from vlmlab.errors import BadInput
from vlmlab.files import read_json, read_tensors, write_json
from vlmlab.vlm.checkpointing import read_weights
from vlmlab.vlm.corpus import Packed
from vlmlab.vlm.training_log import read_metrics

pytestmark = pytest.mark.timeout(1800)  # of which a minute is two interpreters' imports on a busy machine
ROOT = Path(vlmlab.__file__).resolve().parents[1]
EXACT = 1e-10  # relative, float64
ROUNDED = 1e-4  # of the norm of the update, float32: AdamW divides a gradient by its size, rounding included
LAUNCH = "-m accelerate.commands.launch --num_processes 2 --main_process_port 0 --num_cpu_threads_per_process 1"
HOW = {  # options of the launch, where there is one
    "one": None,
    "two": "--multi_gpu --num_machines 1 --mixed_precision no --dynamo_backend no",
    "shards": f"--config_file {ROOT / 'configs' / 'fsdp.yaml'}",
}

WORK = """
import os, sys
from pathlib import Path
import numpy as np, torch
import torch.nn.functional as F
from vlmlab import cli
from vlmlab.language import LlamaConfig, MambaConfig
from vlmlab.vision import ViTConfig
from vlmlab.vlm import recipes
from vlmlab.vlm.model import VLM
from vlmlab.vlm.presets import VLMConfig
from vlmlab.vlm.trainer import TrainConfig, train

here, shared = Path(sys.argv[1]), Path(sys.argv[2])
torch.set_num_threads(1)
LANGUAGES = {
    "llama": LlamaConfig(vocab_size=40, dim=16, layers=1, heads=2, kv_heads=1, hidden=24),
    "mamba": MambaConfig(vocab_size=40, dim=16, layers=1),
}

def model(language):
    config = VLMConfig(
        name="test", image_size=12, vision=ViTConfig("clip", image_size=12, patch_size=6, dim=8, layers=2, heads=2,
        hidden=12), projector="mlp2x_gelu", language=LANGUAGES[language], template="v1", image_id=40, max_length=64)
    return VLM.from_preset(config, "cpu", seed=3).double()

def batch(index, rank, processes):
    "Seven rows, two of them without a picture; in every third batch none has one. One answer is far longer."
    rng = np.random.default_rng(index)
    seen = np.array([1, 0, 1, 1, 0, 1, 1], bool) & (index % 3 > 0)
    ids, labels = np.zeros((7, 20), int), np.full((7, 20), -100)
    for row, picture in enumerate(seen):
        words = rng.integers(1, 40, 12)
        ids[row, :13] = [40, *words] if picture else [*words, 1]
        answer = 11 if row == 2 else int(rng.integers(1, 4))
        labels[row, 13 - answer : 13] = ids[row, 13 - answer : 13]
    pixels = rng.standard_normal((7, 3, 12, 12))
    own = np.arange(7)[rank::processes]
    return torch.from_numpy(pixels[own[seen[own]]]), torch.from_numpy(ids[own]), torch.from_numpy(labels[own])

def float64(language, name, fail=False, resume=False):
    vlm, calls = model(language), []
    def loss(given):
        pixels, ids, labels = given
        calls.append(1)
        if fail and len(calls) == 7:  # the first batch of step 4
            raise RuntimeError("stop here")
        out = vlm(pixels, ids, labels, (ids > 0).long())
        predicted, targets = out.logits[:, :-1].flatten(0, 1), out.labels[:, 1:].flatten()
        return F.cross_entropy(predicted, targets), {}, out.terms
    config = TrainConfig(6, lr=1e-2, weight_decay=0.1, clip=0.5, accumulate=2, save_every=2, ema=0.9)
    train("float64", vlm, None, batch, loss, config, here / f"{language}-{name}", resume, progress=False)

if __name__ == "__main__":  # a pool of processes imports this file again
    for language in LANGUAGES:
        float64(language, "clean")
        try:
            float64(language, "broken", fail=True)
        except RuntimeError:
            float64(language, "broken", resume=True)

    own = ["train", "--data", shared / "own.json", "--images", shared, "--set", "batch=3", "--set", "optimizer=adamw"]
    for name, dials in {"own": "precision=fp32 steps=3 accumulate=2", "low": "precision=bf16 steps=1"}.items():
        more = [word for dial in dials.split() for word in ("--set", dial)]
        assert cli.main([str(each) for each in (*own, "--out", here / name, *more)]) == 0
    if here.name == "shards":
        sys.exit()
    os.environ["VLMLAB_WORK"] = str(here / "work")
    recipes.run("llava-tiny-stage1", steps=3, scenes=9, checks=4, batch=3, evaluate_every=3, precision="fp32",
                optimizer="adamw")  # Muon orthogonalises in bfloat16, which makes rounding large
    asked = ["evaluate", "-b", "pope-random", "--limit", "70", "--device", "cpu", "--out", str(here / "answers")]
    assert cli.main(asked) == 0
"""


def launch(folder: Path, name: str) -> None:
    """The script in one process, or in two that accelerate launches, on the CPU."""
    script = folder / "work.py"
    script.write_text(WORK)
    here, how = folder / name, HOW[name]
    start = [sys.executable, *([] if how is None else [*LAUNCH.split(), *how.split()])]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [*start, str(script), str(here), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=900)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> tuple[Path, Path]:
    """The folders of one process's work and of two."""
    folder = tmp_path_factory.mktemp("processes")
    one, two = folder / "one", folder / "two"
    for name in ("clip-tiny", "language-tiny"):
        for here in (one, two):
            (here / "work" / name).mkdir(parents=True)
            shutil.copy(
                runtime.data_dir() / "checkpoints" / f"{name}.safetensors",
                here / "work" / name / "weights.safetensors",
            )
    for here in (one, two):
        (here / "work" / "tokenizer").mkdir()
        shutil.copy(runtime.data_dir() / "checkpoints" / "tokenizer.json", here / "work" / "tokenizer")
    talk = [("<image>\nIs there a cat?", "There is a red cat left of the blue sofa, yes."), ("What is it?", "A cat.")]
    records = []
    for number, turns in enumerate([talk, talk[:1], [("Say hello.", "Hello.")]]):
        pairs = [zip(("human", "gpt"), pair, strict=True) for pair in turns]
        said = [{"from": role, "value": text} for pair in pairs for role, text in pair]
        records.append({"id": str(number), "image": f"{number}.png", "conversations": said})
        rgb = np.random.default_rng(number).integers(0, 256, (96, 96, 3), dtype=np.uint8)
        Image.fromarray(rgb).save(folder / f"{number}.png")
    del records[2]["image"]
    write_json(folder / "own.json", records)
    launch(folder, "two")
    shutil.copytree(two / "work" / "cache", one / "work" / "cache")  # built by two processes, the main one first
    before = sorted(path.name for path in (one / "work" / "cache").iterdir())
    launch(folder, "one")
    assert sorted(path.name for path in (one / "work" / "cache").iterdir()) == before
    return one, two


@pytest.fixture(scope="module")
def sharded(runs) -> tuple[Path, Path]:
    """The folders of one process's work and of two that hold half of the weights each."""
    folder = runs[0].parent
    launch(folder, "shards")
    return runs[0], folder / "shards"


def losses(folder: Path) -> list[float]:
    return [line["loss"] for line in read_metrics(folder)]


@pytest.mark.parametrize("how", ["runs", "sharded"])
@pytest.mark.parametrize("language", ["llama", "mamba"])
def test_seven_rows_over_two_processes_are_one_batch_of_seven(request, language, how):
    one, two = (each / f"{language}-clean" for each in request.getfixturevalue(how))
    assert (read_json(one / "run.json")["processes"], read_json(two / "run.json")["processes"]) == (1, 2)
    assert losses(two) == pytest.approx(losses(one), rel=1e-6)  # told in float32
    for averaged in (False, True):
        first, second = read_weights(one, averaged), read_weights(two, averaged)
        for name, value in first.items():
            assert value.dtype == torch.float64
            assert (second[name] - value).abs().max() <= EXACT * value.abs().max(), name


@pytest.mark.parametrize("how", ["runs", "sharded"])
@pytest.mark.parametrize("language", ["llama", "mamba"])
def test_two_processes_that_broke_off_go_on_bit_for_bit(request, language, how):
    for folder in request.getfixturevalue(how):
        clean, broken = (folder / f"{language}-{name}" for name in ("clean", "broken"))
        assert losses(broken) == losses(clean)
        first, second = read_weights(clean), read_weights(broken)
        assert all(torch.equal(value, second[name]) for name, value in first.items())


def same_update(begin: dict[str, torch.Tensor], one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> None:
    def norm(first, second) -> float:
        return sum((first[name] - second[name]).detach().double().square().sum().item() for name in one) ** 0.5

    assert norm(one, begin) > 0
    assert norm(two, one) <= ROUNDED * norm(one, begin)


def test_a_recipe(runs):
    one, two = (read_tensors(each / "work" / "llava-tiny-stage1" / "weights.safetensors")[0] for each in runs)
    same_update(dict(vlmlab.vlm.VLM.from_preset("llava-tiny", "cpu").named_parameters()), one, two)
    curves = [losses(each / "work" / "llava-tiny-stage1" / "run") for each in runs]
    assert curves[1] == pytest.approx(curves[0], rel=1e-5)


@pytest.mark.parametrize("how", ["runs", "sharded"])
def test_own_data(request, how):
    folders = request.getfixturevalue(how)
    one, two = (read_tensors(each / "own" / "model.safetensors")[0] for each in folders)
    begin = dict(vlmlab.load("llava-tiny", "cpu").named_parameters())
    trained = [name for name in one if name.startswith(("projector.", "language."))]
    same_update(begin, {name: one[name] for name in trained}, two)
    curves = [losses(each / "own" / "run") for each in folders]
    assert curves[1] == pytest.approx(curves[0], rel=1e-5)


@pytest.mark.parametrize("how", ["runs", "sharded"])
def test_own_data_in_bfloat16(request, how):
    (one,), (two,) = (read_metrics(each / "low" / "run") for each in request.getfixturevalue(how))
    assert two["loss"] == pytest.approx(one["loss"], rel=2e-3)  # of 8 bits
    assert two["grad_norm"] == pytest.approx(one["grad_norm"], rel=2e-2)


def test_answers_are_the_same_bytes(runs):
    one, two = (each / "answers" for each in runs)
    for name in ("answers.jsonl", "blind.jsonl"):
        assert (one / name).read_bytes() == (two / name).read_bytes()
        assert (one / name).read_text().count("\n") == 70
    first, second = (read_json(folder / "result.json") for folder in (one, two))
    assert {**first, "predictions": None} == {**second, "predictions": None}


def test_rows_are_shared_once_each_and_not_among_more_processes_than_rows():
    ids = torch.arange(7)[:, None]
    whole = Packed(ids, ids, ids, ids, ids[:, 0])
    shares = [whole.share(rank, 3).rows.tolist() for rank in range(3)]
    assert sorted(row for share in shares for row in share) == list(range(7))
    assert all(torch.equal(a, b) for a, b in zip(whole.share(0, 1)[:5], whole[:5], strict=True))
    with pytest.raises(BadInput, match="8 processes cannot share a batch of 7 rows"):
        whole.share(0, 8)
