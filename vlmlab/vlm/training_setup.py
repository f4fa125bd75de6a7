"""The parts around the training loop: optimizer, learning rate, processes, prefetching, signals. Notebook 04."""

import inspect
import math
import os
import random
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from vlmlab.errors import BadInput, MissingDependency, UnknownName
from vlmlab.vlm import sharding
from vlmlab.vlm.checkpointing import rng_state, set_rng_state
from vlmlab.vlm.model import VLM

if TYPE_CHECKING:
    from vlmlab.vlm.trainer import TrainConfig

PRECISIONS = {"fp32": "no", "bf16": "bf16"}
OPTIMIZERS = ("adamw", "muon")
PATIENCE = timedelta(days=1)  # how long one process waits for another
Groups = float | Mapping[str, float] | Sequence[Mapping[str, Any]] | None
Loss = Tensor | tuple[Tensor, Mapping[str, float]] | tuple[Tensor, Mapping[str, float], Tensor | int]
"""What a loss returns: the mean, metrics, and how many terms the mean is over."""


def rate(config: "TrainConfig", step: int) -> float:
    """The factor on the learning rate for update `step` (0-based): linear warm-up, then the schedule."""
    warm = math.ceil(config.warmup * config.steps)
    if step < warm:
        return (step + 1) / warm
    done = (step - warm) / max(config.steps - warm, 1)
    shape = {"cosine": 0.5 * (1 + math.cos(math.pi * done)), "linear": 1 - done, "constant": 1.0}[config.schedule]
    return config.final_lr + (1 - config.final_lr) * shape


class MuonAdamW(torch.optim.Optimizer):
    """Muon for the groups marked "muon", AdamW for the others, used as one optimizer.

    Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon) makes the update of a matrix orthogonal. Its rate is
    scaled to AdamW's root mean square (Liu et al. 2025, arXiv 2502.16982, section 2.2), so both take the same rates.
    """

    def __init__(self, groups: list[dict[str, Any]], lr: float, betas: tuple[float, float], fused: bool):
        if not hasattr(torch.optim, "Muon"):
            raise BadInput(f'optimizer="muon" needs PyTorch 2.9 or newer, this is {torch.__version__}; use "adamw"')
        chosen = [[group for group in groups if group["muon"] is on] for on in (True, False)]
        self.members: list[torch.optim.Optimizer] = []
        if chosen[0]:
            self.members.append(torch.optim.Muon(chosen[0], lr=lr, adjust_lr_fn="match_rms_adamw"))
        if chosen[1]:
            self.members.append(torch.optim.AdamW(chosen[1], lr=lr, betas=betas, fused=fused))
        super().__init__([group for member in self.members for group in member.param_groups], {"lr": lr})
        for member in self.members:
            member.state = self.state  # one store, as a checkpoint sees it

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of every group."""
        for member in self.members:
            member.step()


def build_optimizer(
    trainable: Mapping[str, nn.Parameter], groups: Groups, config: "TrainConfig"
) -> torch.optim.Optimizer:
    """The config's optimizer, fused where PyTorch has it; the longest name prefix in `groups` that fits decides a rate.

    With "muon", matrices of hidden layers use Muon; embeddings, positions, vectors and convolutions use AdamW.
    Each param group holds "label" (its prefix and whether its weights decay) and "initial_lr". Raises UnknownName for
    a prefix that fits no trainable parameter.
    """
    if isinstance(groups, Mapping):
        groups = [{"params": prefix, "lr": lr} for prefix, lr in groups.items()]
    chosen = {"": {"lr": config.lr if groups is None or isinstance(groups, Sequence) else float(groups)}}
    for group in groups if isinstance(groups, Sequence) else ():
        if not set(group) <= {"params", "lr", "weight_decay"} or "params" not in group:
            raise BadInput(f"a parameter group has the keys params, lr and weight_decay, not {sorted(group)}")
        prefixes = [group["params"]] if isinstance(group["params"], str) else group["params"]
        chosen |= {prefix: dict(group) for prefix in prefixes}
    members: dict[tuple[str, bool, bool], list[nn.Parameter]] = {}
    for name, parameter in trainable.items():
        prefix = max((p for p in chosen if not p or name == p or name.startswith(f"{p}.")), key=len)
        muon = config.optimizer == "muon" and parameter.ndim == 2 and name.endswith("weight") and "embed" not in name
        decays = parameter.ndim >= 2 and name.endswith("weight")  # not vectors, positions, or Mamba's A_log
        members.setdefault((prefix, decays, muon), []).append(parameter)
    for prefix in chosen:
        if prefix and not any(key[0] == prefix for key in members):
            raise UnknownName(
                "parameter group", prefix, sorted({name.rpartition(".")[0] or name for name in trainable})
            )
    listed = []
    for (prefix, decays, muon), parameters in members.items():
        lr = float(chosen[prefix].get("lr", config.lr))
        decay = float(chosen[prefix].get("weight_decay", config.weight_decay)) if decays else 0.0
        label = f"{prefix or 'all'} ({'matrices' if decays else 'vectors'}{', muon' if muon else ''})"
        group = {"params": parameters, "lr": lr, "initial_lr": lr, "weight_decay": decay, "label": label}
        listed.append(group | {"muon": muon} if config.optimizer == "muon" else group)
    fused = all(p.device.type in ("cpu", "cuda", "mps") and p.is_floating_point() for p in trainable.values())
    if config.optimizer == "muon":
        if any(sharding.is_shard(p) for p in trainable.values()):
            raise BadInput("Muon works on whole matrices and FSDP deals their rows out; set optimizer=adamw")
        return MuonAdamW(listed, chosen[""]["lr"], config.betas, fused)
    return torch.optim.AdamW(listed, lr=chosen[""]["lr"], betas=config.betas, fused=fused)


class LossModule(nn.Module):
    """The loss as a forward pass, so that accelerate's wrappers (gradient averaging, autocast) see it."""

    def __init__(self, modules: nn.Module, loss: Callable[[Any], Loss]):
        super().__init__()
        self.modules_trained, self._loss = modules, loss

    def forward(self, batch: Any) -> tuple[Tensor, Mapping[str, float], Tensor]:
        found = self._loss(batch)
        value, metrics, terms = (
            ((*found, 1) if len(found) == 2 else found) if isinstance(found, tuple) else (found, {}, 1)
        )
        return value, metrics, torch.as_tensor(terms, device=value.device)


def several_processes() -> bool:
    """Whether accelerate launch or torchrun started this process among others."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def is_main() -> bool:
    """Whether this is the process that prints, or the only one."""
    return int(os.environ.get("RANK", "0")) == 0


@contextmanager
def main_first() -> Iterator[None]:
    """The main process runs the block, then the others, which find what it left on the disk. Not to be nested."""
    if not several_processes():
        yield
        return
    from accelerate import PartialState

    state = PartialState(cpu=not torch.cuda.is_available(), timeout=PATIENCE)
    if not state.is_main_process:
        state.wait_for_everyone()
    yield
    if state.is_main_process:
        state.wait_for_everyone()


def set_up(precision: str, modules: nn.Module, loss: Callable[[Any], Loss]) -> tuple[Any, nn.Module, bool]:
    """An accelerator, the wrapped loss, and whether the model's weights were dealt out over the processes.

    One process trains where the model is; several where accelerate says.
    """
    try:
        from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
        from accelerate.state import AcceleratorState
    except ImportError:
        raise MissingDependency("accelerate", "training") from None
    several, sharded = several_processes(), several_processes() and sharding.asked()
    if sharded and not isinstance(modules, VLM):
        raise BadInput("FSDP shards whole VLMs; start other training without configs/fsdp.yaml")
    on = next(modules.parameters()).device
    # accelerate remembers the first device and precision of a process; another run may want others
    AcceleratorState._reset_state(reset_partial_state=not several)
    if on.type == "cuda" and not several:
        torch.cuda.set_device(on)
    cpu = on.type == "cpu" and not (several and torch.cuda.is_available())
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)  # a text-only batch leaves the projector out
    patient = InitProcessGroupKwargs(timeout=PATIENCE)
    accelerator = Accelerator(cpu=cpu, mixed_precision=PRECISIONS[precision], kwargs_handlers=[unused, patient])
    if sharded:
        assert isinstance(modules, VLM)
        sharding.shard(modules, accelerator.device)
        wrapped = LossModule(modules, loss)
        if precision == "bf16":  # without autocast's cache of weights, which would hold the gathered ones of all units
            low = torch.autocast(accelerator.device.type, torch.bfloat16, cache_enabled=False)
            wrapped.forward = low(wrapped.forward)  # type: ignore[method-assign]
        return accelerator, wrapped, True
    if several:
        modules.to(accelerator.device)
    wrapped = accelerator.prepare_model(LossModule(modules, loss), device_placement=False)
    return accelerator, wrapped, False


def finite(value: Any) -> bool:
    """Whether all numbers of a tensor are finite, of a shard those of this process."""
    local = value.to_local() if sharding.is_shard(value) else value
    return bool(torch.isfinite(local).all())


def batch_arguments(batch: Callable[..., Any]) -> int:
    """1 for `batch(index)`, 3 for `batch(index, rank, processes)`; BadInput for anything else."""
    wanted = [
        p
        for p in inspect.signature(batch).parameters.values()
        if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    if len(wanted) not in (1, 3):
        raise BadInput(f"batch takes one argument (index) or three (index, rank, processes), not {len(wanted)}")
    return len(wanted)


@contextmanager
def prefetched(
    batch: Callable[..., Any], wanted: Sequence[tuple[int, ...]], device: torch.device
) -> Iterator[Iterator[tuple[int, Any]]]:
    """Yield an iterator over (index, batch on `device`) for each of `wanted`; a thread makes the next one meanwhile."""

    def make(place: tuple[int, ...]) -> Any:
        with torch.no_grad():
            return settle(batch(*place), device)

    def items() -> Iterator[tuple[int, Any]]:
        ahead = deque(pool.submit(make, place) for place in wanted[:1])
        for count, place in enumerate(wanted):
            data = ahead.popleft().result()
            ahead.extend(pool.submit(make, after) for after in wanted[count + 1 : count + 2])
            yield place[0], data

    pool = ThreadPoolExecutor(1, thread_name_prefix="batch")
    try:
        yield items()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def settle(value: Any, device: torch.device) -> Any:
    """Move the tensors in nested lists, tuples, dicts and dataclasses to `device`.

    A CPU tensor whose memory is not aligned to 64 bytes (NumPy's) is copied into PyTorch's, which is: matrix
    products may differ in the last bit by alignment, and then a resumed run would not repeat itself.
    """
    if torch.is_tensor(value):
        if device.type == "cpu" and value.device.type == "cpu":
            return value.clone() if value.numel() and value.data_ptr() % 64 else value
        return value.to(device)
    if isinstance(value, dict):
        return {key: settle(item, device) for key, item in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: settle(getattr(value, f.name), device) for f in fields(value) if f.init})
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(settle(item, device) for item in value))
    if isinstance(value, list | tuple):
        return type(value)(settle(item, device) for item in value)
    return value


def seed(value: int) -> None:
    """Seed the global generators of Python, NumPy and PyTorch, which dropout and the loss may use."""
    random.seed(value)
    np.random.seed(value % 2**32)
    torch.manual_seed(value)


@contextmanager
def everything_put_back(modules: nn.Module, device: torch.device) -> Iterator[None]:
    """Train mode (eval for wholly frozen parts) inside; modes and global generators as before afterwards."""
    modes = {module: module.training for module in modules.modules()}
    generators = rng_state(device)
    modules.train()
    for module in modules.modules():
        own = list(module.parameters())
        if own and not any(p.requires_grad for p in own):
            module.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        set_rng_state(generators, device)


@contextmanager
def evaluation(
    modules: nn.Module, trainable: Mapping[str, nn.Parameter], ema: Mapping[str, Tensor] | None
) -> Iterator[None]:
    """Eval mode, no gradients, averaged weights in place if there are any; all put back exactly."""
    modes = {module: module.training for module in modules.modules()}
    raw = {name: p.detach().clone() for name, p in trainable.items()} if ema is not None else {}
    modules.eval()
    try:
        with torch.no_grad():
            for name, average in (ema or {}).items():
                trainable[name].copy_(average)
            yield
    finally:
        with torch.no_grad():
            for name, value in raw.items():
                trainable[name].copy_(value)
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Yield a list that takes the first Ctrl-C or SIGTERM instead of dying in mid-step; a second one acts at once."""
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield caught
        return

    def note(number: int, frame: Any) -> None:
        caught.append(number)
        for which, handler in before.items():
            signal.signal(which, handler)

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, note)
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
