"""FSDP at paper scale: the plan of units, the bytes on each GPU against PyTorch's own shards, accelerate's file."""

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import vlmlab
from vlmlab.cli import main
from vlmlab.errors import BadInput
from vlmlab.language import Llama, LlamaConfig, Mamba, MambaConfig
from vlmlab.vlm import sharding
from vlmlab.vlm.model import VLM
from vlmlab.vlm.presets import PRESETS
from vlmlab.vlm.projectors import build_projector
from vlmlab.vlm.sharding import BLOCKS, ROOT, block_bytes, memory, projector_bytes, shard_numbers, units

ROOT_FOLDER = Path(vlmlab.__file__).resolve().parents[1]
PAPER = ("llava-1.5-7b", "llava-1.5-13b", "cobra-3b", "cobra-3b-ldp", "cobra-mambavision-l")


def meta(name: str) -> VLM:
    return VLM.from_preset(name, device="meta")


@pytest.mark.parametrize("name", PRESETS)
def test_every_parameter_belongs_to_one_unit(name):
    vlm = meta(name)
    found = units(vlm)
    assert sorted(key for names in found.values() for key in names) == sorted(key for key, _ in vlm.named_parameters())
    inside = {key for key, part in vlm.named_modules() if isinstance(part, BLOCKS)}
    assert set(found) == {*inside, ROOT}
    assert sum(unit.startswith("language.layers.") for unit in found) == vlm.config.language.layers
    for unit in inside:
        assert found[unit]
        assert all(key.startswith(f"{unit}.") for key in found[unit])


@pytest.mark.parametrize("name", PAPER)
def test_one_gpu_holds_all_to_the_digit(name):
    vlm = meta(name)
    counts = vlm.count_parameters()
    found = memory(vlm, 1)
    assert found["weights"] == 4 * counts["total"]
    assert found["gradients"] == 4 * (counts["projector"] + counts["language"])
    assert found["moments"] == 2 * found["gradients"]
    assert found["total"] == sum(size for key, size in found.items() if key != "total")
    assert json.loads(json.dumps(found)) == found
    stage1 = memory(vlm, 1, parts=["projector"])
    assert stage1["gradients"] == 4 * counts["projector"]
    assert [stage1[key] for key in ("weights", "blocks", "logits")] == [
        found[key] for key in ("weights", "blocks", "logits")
    ]


def test_shares_of_a_tensor():
    assert [shard_numbers(torch.empty(7, 3), gpus) for gpus in (1, 2, 3, 7, 9)] == [21, 12, 9, 3, 3]
    assert shard_numbers(torch.empty(()), 4) == 1


SHARDS = """
import json, sys, torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore
from vlmlab.vlm import sharding
from vlmlab.vlm.model import VLM
found = []
for name, gpus in (("llava-1.5-7b", 8), ("cobra-mambavision-l", 8), ("cobra-3b", 6)):
    dist.init_process_group("fake", rank=0, world_size=gpus, store=FakeStore())  # one of 8 processes, the others absent
    vlm = VLM.from_preset(name, device="meta")
    plan, numbers = sharding.units(vlm), dict(vlm.named_parameters())
    reckoned = sharding.memory(vlm, gpus)
    sharding.shard(vlm, torch.device("cpu"))
    mine = {key: 4 * p.to_local().numel() for key, p in vlm.named_parameters()}
    groups = {}
    for key, module in vlm.named_modules():
        if isinstance(module, torch.distributed.fsdp.FSDPModule):
            group = module._get_fsdp_state()._fsdp_param_group
            if group is not None:
                groups[key or sharding.ROOT] = len(group.fsdp_params)
    moving = sum(size for key, size in mine.items() if not key.startswith("vision."))
    found.append([reckoned["weights"], sum(mine.values()), reckoned["gradients"], moving,
                  {key: len(names) for key, names in plan.items()}, groups])
    dist.destroy_process_group()
print(json.dumps(found))
"""


def test_reckoned_bytes_are_those_of_pytorchs_shards():
    environment = {**os.environ, "PYTHONPATH": str(ROOT_FOLDER), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", SHARDS], capture_output=True, text=True, env=environment, timeout=280)
    assert done.returncode == 0, done.stderr
    for weights, held, gradients, moving, plan, groups in json.loads(done.stdout):
        assert weights == held
        assert gradients == moving
        assert plan == groups


def kept(run, model: torch.nn.Module) -> int:
    """Bytes of the tensors that autograd keeps of a run under autocast, weights and their copies apart."""
    sizes, alive = {}, []
    shapes = {tuple(p.shape) for p in model.parameters() if p.dim() == 2}
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def keep(tensor):
        storage = tensor.untyped_storage()
        copy = tuple(tensor.shape) in shapes or tuple(tensor.shape[::-1]) in shapes
        if storage.data_ptr() not in own and not copy:
            sizes[storage.data_ptr()] = storage.nbytes()
        alive.append(tensor)
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, cache_enabled=False),
    ):
        alive.append(run())
    return sum(sizes.values())


@pytest.mark.parametrize("kv_heads", [4, 2])
def test_what_a_llamas_block_keeps(kv_heads):
    model = Llama(LlamaConfig(50, 64, 1, 4, kv_heads, 160, max_positions=1024))
    x = torch.randn(2, 600, 64, requires_grad=True)  # past 512 keys, where attention is fused
    cos, sin = model._angles(x, 0, None, False)
    angles = cos.untyped_storage().nbytes() * 2  # the table's, of all blocks alike
    found = kept(lambda: model.layers[0](x, cos, sin), model)
    assert found - angles == 1200 * block_bytes(model.config)


def test_what_a_mambas_block_keeps():
    model = Mamba(MambaConfig(50, 64, 1))
    x = torch.randn(2, 608, 64, requires_grad=True)  # whole chunks
    edges = 2 * (model.config.conv * 2 + 4 * model.config.state) * model.config.inner + 4 * 128 * 16
    found = kept(lambda: model.layers[0](x), model)
    assert abs(found - 1216 * block_bytes(model.config)) <= 2 * edges  # before the first token, behind the last, and A


@pytest.mark.parametrize("projector", ["linear", "mlp2x_gelu", "fused-gelu-mlp"])
def test_what_a_projector_keeps(projector):
    config = replace(PRESETS["llava-tiny"], projector=projector)
    model = build_projector(projector, config.feature_dim, config.language.dim)
    features = torch.randn(5, config.feature_tokens, config.feature_dim)
    assert kept(lambda: model(features), model) == 5 * projector_bytes(config)


def test_accelerate_reads_the_file():
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser

    path = str(ROOT_FOLDER / "configs" / "fsdp.yaml")
    config = load_config_from_file(path)  # refuses an unknown key
    assert config.distributed_type == "FSDP"
    assert config.num_processes == 8
    arguments = launch_command_parser().parse_args(["--config_file", path, "--num_processes", "4", "train.py"])
    assert set(config.fsdp_config) <= set(vars(arguments))  # each is an option of accelerate launch
    arguments, _, _ = _validate_launch_command(arguments)
    assert arguments.use_fsdp
    assert (arguments.num_processes, arguments.fsdp_version, arguments.fsdp_auto_wrap_policy) == (4, 2, "NO_WRAP")


def test_account_tells_what_each_gpu_holds(capfd):
    assert main(["account", "llava-1.5-7b", "--gpus", "8", "--json"]) == 0
    told = json.loads(capfd.readouterr().out)["training"]
    assert told["gpus"] == 8
    assert told["bytes"] == memory(meta("llava-1.5-7b"), 8)
    assert main(["account", "llava-1.5-7b", "--gpus", "8"]) == 0
    text = capfd.readouterr().out
    assert "on each of 8 GPUs" in text
    assert "moments" in text
    assert main(["account", "llava-tiny"]) == 0
    assert "GPUs" not in capfd.readouterr().out
    assert main(["account", "llava-1.5-7b", "--gpus", "0"]) == 2


def test_more_gpus_hold_less_and_more_rows_more():
    vlm = meta("cobra-3b")
    sizes = [memory(vlm, gpus)["total"] for gpus in (1, 2, 4, 8)]
    assert sizes == sorted(sizes, reverse=True)
    rest, block = (sum(p.numel() for p in part.parameters()) for part in (vlm, vlm.language.layers[0]))
    rest -= sum(p.numel() for key, p in vlm.named_parameters() if ".layers." in key or ".blocks." in key)
    seen = sum(p.numel() for key, p in vlm.named_parameters() if key.startswith("vision.") and ".blocks." not in key)
    assert memory(vlm, 8)["copies"] == 4 * (rest + 2 * block) + 4 * (rest - seen + block) + 2 * block
    assert memory(vlm, 8, rows=2)["logits"] * 8 == memory(vlm, 8, rows=16)["logits"]
    assert not any(math.isclose(memory(vlm, 8)[key], 0) for key in memory(vlm, 8))
    for wrong in ({"gpus": 0}, {"gpus": 1, "rows": 0}, {"gpus": 1, "tokens": 729}):
        with pytest.raises(BadInput, match="GPUs"):
            memory(vlm, **wrong)
    with pytest.raises(BadInput, match="vision"):
        memory(vlm, 1, parts=["vision"])


def test_without_processes_nothing_is_sharded(monkeypatch):
    assert not sharding.asked()
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert sharding.asked()
    value = torch.arange(3.0)
    assert sharding.whole({"a": value})["a"] is value
    assert sharding.like(value, value) is value
