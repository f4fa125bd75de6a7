"""The training loop of every stage: language and contrastive pretraining, LLaVA's stages 1 and 2. Notebook 04.

Runs in one process, or in several through `accelerate launch --multi_gpu --num_processes N` or `torchrun` (gradients
are averaged over them; without a GPU the processes share the CPU), with the same result up to rounding where the loss
is a mean over rows or tokens. A run lives in a folder (vlmlab.vlm.checkpointing); killed at any step and resumed, its
final weights are bit-identical on the CPU.
"""

import json
import math
import os
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vlmlab.errors import BadInput, TrainingDiverged, UnknownName
from vlmlab.files import read_json, read_tensors, write_json
from vlmlab.vlm import checkpointing as ckpt
from vlmlab.vlm import training_setup as parts
from vlmlab.vlm.sharding import gather, whole
from vlmlab.vlm.training_log import RESERVED, Display, MetricsFile, clock, plain, read_metrics

SCHEDULES = ("cosine", "linear", "constant")


@dataclass(frozen=True)
class TrainConfig:
    """How to train; one dial a field.

    steps: optimizer updates. lr: base learning rate. warmup: fraction of the steps with a linearly rising rate.
    weight_decay: on matrices only (not on biases, norms, scales or positions). clip: largest gradient norm (0: none).
    save_every, log_every: steps (save_every=0: one checkpoint, at the end). ema: decay of the moving average of the
    weights (0: none). final_lr: what the rate falls to, as a fraction of lr. accumulate: batches per update.
    precision: "fp32" or "bf16" (autocast). optimizer: "adamw", or "muon" for the matrices of hidden layers (PyTorch
    2.9 or newer; lr is then its rate too).
    """

    steps: int
    lr: float = 1e-3
    warmup: float = 0.03
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    clip: float = 1.0
    seed: int = 0
    save_every: int = 200
    log_every: int = 10
    ema: float = 0.0
    schedule: str = "cosine"
    final_lr: float = 0.0
    accumulate: int = 1
    precision: str = "fp32"
    optimizer: str = "adamw"

    def __post_init__(self) -> None:
        object.__setattr__(self, "betas", tuple(self.betas))
        if self.schedule not in SCHEDULES:
            raise UnknownName("schedule", self.schedule, SCHEDULES)
        if self.precision not in parts.PRECISIONS:
            raise UnknownName("precision", self.precision, parts.PRECISIONS)
        if self.optimizer not in parts.OPTIMIZERS:
            raise UnknownName("optimizer", self.optimizer, parts.OPTIMIZERS)
        for name, least in {"steps": 1, "accumulate": 1, "save_every": 0, "log_every": 1, "seed": 0}.items():
            if not isinstance(getattr(self, name), int) or getattr(self, name) < least:
                raise BadInput(f"TrainConfig.{name} is {getattr(self, name)!r}; give a whole number, at least {least}")
        top = {"lr": math.inf, "weight_decay": math.inf, "clip": math.inf, "warmup": 1, "ema": 1, "final_lr": 1}
        for name, most in top.items():
            if not 0 <= getattr(self, name) <= most or not math.isfinite(getattr(self, name)):
                raise BadInput(f"TrainConfig.{name} is {getattr(self, name)!r}; give a number from 0 to {most}")


@dataclass(frozen=True)
class TrainResult:
    """What a run leaves besides the weights, which are in the modules that were trained.

    losses: one number a step, those before a resumption included. metrics: the lines of metrics.jsonl.
    seconds: wall time, summed over resumptions. checkpoint: the last one's folder. ema: averaged weights by name,
    or None; `modules.load_state_dict(result.ema, strict=False)` puts them in place. resumed_from: 0 if not resumed.
    """

    steps: int
    losses: list[float] = field(repr=False)
    seconds: float
    metrics: list[dict[str, Any]] = field(repr=False)
    folder: Path
    checkpoint: Path
    ema: dict[str, Tensor] | None = field(repr=False)
    resumed_from: int


def train(
    name: str,
    modules: nn.Module,
    groups: parts.Groups,
    batch: Callable[..., Any],
    loss: Callable[[Any], parts.Loss],
    config: TrainConfig,
    folder: str | os.PathLike,
    resume: bool = False,
    evaluate: Callable[[int], Mapping[str, Any]] | None = None,
    evaluate_every: int = 0,
    progress: bool = True,
    describe: Callable[[int], str] | None = None,
    keep: int = 2,
) -> TrainResult:
    """Train the parameters of `modules` that require a gradient; the final weights are left in `modules`.

    modules: all parameters that `loss` uses, on the device to train on. Sub-modules whose parameters are all frozen
      run in eval mode, the others in train mode; modes and global random states are put back at the end.
    groups: None (everything at config.lr), one learning rate, `{"name prefix": lr}`, or a list of
      `{"params": prefix or prefixes, "lr": ..., "weight_decay": ...}`; the longest prefix that fits wins, parameters
      that none fits use config.lr.
    batch: `batch(i) -> anything` for i = 0, 1, 2, ..., a pure function (its own generators, seeded by i): it runs one
      ahead in a thread. With R processes and A batches an update, update s uses batches s*A*R to (s+1)*A*R - 1. A
      function of three arguments is called with (s*A + a, rank, R) instead. Tensors in lists, tuples, dicts and
      dataclasses are moved to the device.
    loss: `loss(batch)` -> scalar mean loss, or (mean, {"metric": number}), or (mean, metrics, n) with n the number of
      terms that it is a mean over, as of labelled tokens. Over processes and accumulated batches losses and gradients
      are averaged with weights n (1 where it is not given): the mean over all terms of an update, however they are
      shared out. Metrics are the main process's.
    evaluate: `evaluate(step) -> metrics`, called after every `evaluate_every` updates and after the last, in eval mode
      without gradients, on the averaged weights if there are any; logged under "eval/...".
    describe: `describe(i)` names batch i in the error when training diverges.
    keep: checkpoints kept.

    Ctrl-C and SIGTERM end the run after the current step with a checkpoint.

    Raises BadInput (a folder that holds a run, a resumption that asks for something else than the run did, nothing
    to train), BadCheckpoint, and TrainingDiverged when the loss or the gradient is not finite; the weights are then
    those before that step.
    """
    folder, places = Path(folder), parts.batch_arguments(batch)
    if not any(p.requires_grad for p in modules.parameters()):
        raise BadInput(f"{name}: no parameter requires a gradient, so there is nothing to train")
    frozen = ckpt.fingerprint(modules)
    accelerator, wrapped, sharded = parts.set_up(config.precision, modules, loss)
    trainable = {key: p for key, p in modules.named_parameters() if p.requires_grad}
    device, rank, world = accelerator.device, accelerator.process_index, accelerator.num_processes
    main = accelerator.is_main_process
    optimizer = parts.build_optimizer(trainable, groups, config)
    record = {
        "name": name,
        "config": asdict(config),
        "processes": world,
        "groups": {group["label"]: [group["lr"], group["weight_decay"]] for group in optimizer.param_groups},
        "parameters": {key: list(p.shape) for key, p in trainable.items()},
        "frozen": frozen,
    }
    record = json.loads(json.dumps(record))  # as it will be read back
    with ExitStack() as stack:
        if main:
            stack.enter_context(ckpt.locked(folder))
        going_on = ckpt.check_folder(folder, record, resume)
        accelerator.wait_for_everyone()
        stack.enter_context(parts.everything_put_back(modules, device))
        parts.seed(config.seed + rank)
        state = ckpt.trained_state(modules)  # shares memory with the modules
        ema = {key: p.detach().clone() for key, p in trainable.items()} if config.ema else None
        display = Display(name, config.steps, config.log_every, progress and main)
        start, seconds, last = 0, 0.0, None
        if going_on:
            with accelerator.main_process_first():
                found = ckpt.newest(folder, display.say, aside=main)
            if found:
                last, saved = found
                start, seconds = saved["step"], saved["seconds"]
                ckpt.copy_into(state, read_tensors(last / "weights.safetensors")[0], last)
                ckpt.load_optimizer(optimizer, read_tensors(last / "optimizer.safetensors")[0], trainable)
                if ema is not None:
                    ckpt.copy_into(ema, read_tensors(last / "ema.safetensors")[0], last)
                ckpt.set_rng_state(read_json(last / f"rng-{rank}.json"), device)
            display.say(f"resuming after step {start}" if found else "no checkpoint yet: starting at step 1")
        elif main:
            write_json(folder / "run.json", record)
        log = MetricsFile(folder, start, config.log_every) if main else None
        if log:
            stack.callback(log.flush)
        began = time.perf_counter() - seconds

        def save(step: int) -> Path:
            bad = next((key for key, value in trainable.items() if not parts.finite(value)), None)
            if bad:
                raise TrainingDiverged(f"{name}: the weights {bad} are not finite after step {step}; {_advice(last)}")
            if log:
                log.flush()
                ckpt.open_partial(folder, step)
            accelerator.wait_for_everyone()
            write_json(ckpt.partial_path(folder, step) / f"rng-{rank}.json", ckpt.rng_state(device))
            accelerator.wait_for_everyone()
            tensors = {"weights": state, "optimizer": ckpt.optimizer_state(optimizer, trainable)}
            tensors |= {} if ema is None else {"ema": ema}
            if sharded:
                tensors = {stem: whole(values) for stem, values in tensors.items()}
            if main:
                ckpt.seal(folder, step, tensors, {"seconds": time.perf_counter() - began}, max(keep, 1))
            accelerator.wait_for_everyone()
            return ckpt.checkpoint_path(folder, step)

        numbers = range(start * config.accumulate, config.steps * config.accumulate)
        wanted = [(n * world + rank,) if places == 1 else (n, rank, world) for n in numbers]
        several = world * config.accumulate > 1
        batches = stack.enter_context(parts.prefetched(batch, wanted, device))
        stop = stack.enter_context(parts.stop_signals())
        display.begin(start)
        stack.callback(display.close)
        for step in range(start, config.steps):
            factor = parts.rate(config, step)
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * factor
            told, extras = [], []
            for micro in range(config.accumulate):
                index, data = next(batches)
                last_one = micro + 1 == config.accumulate or sharded  # shards have no room for the others' gradients
                with nullcontext() if last_one else accelerator.no_sync(wrapped):
                    value, extra, terms = wrapped(data)
                    accelerator.backward(value * terms if several else value)
                told += [value.detach().float(), terms.float(), torch.tensor(float(index), device=device)]
                extras.append(extra)
            told.append(torch.tensor(float(len(stop)), device=device))
            rows = accelerator.gather(torch.stack(told)).view(world, -1).tolist()
            losses = [(row[i], row[i + 1], int(row[i + 2])) for row in rows for i in range(0, 3 * config.accumulate, 3)]
            total = sum(terms for _, terms, _ in losses)
            for p in trainable.values() if several else ():
                if p.grad is not None:
                    p.grad.mul_(world / total)  # sums over terms, which were averaged over processes
            norm = nn.utils.clip_grad_norm_(trainable.values(), config.clip or math.inf)
            norm = whole({"norm": norm})["norm"] if sharded else norm
            line = {"step": step + 1, "loss": sum(value * terms for value, terms, _ in losses) / total}
            line |= {"lr": optimizer.defaults["lr"] * factor, "grad_norm": float(norm)}
            if not math.isfinite(line["loss"]) or not math.isfinite(line["grad_norm"]):
                optimizer.zero_grad(set_to_none=True)
                raise TrainingDiverged(_diverged(name, step, losses, line["grad_norm"], describe) + _advice(last))
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if ema is not None:
                weight = 1 - min(config.ema, (step + 1) / (step + 10))  # a young average follows more closely
                for key, average in ema.items():
                    average.lerp_(trainable[key].detach(), weight)
            done = step + 1
            line |= {"seconds": round(time.perf_counter() - began, 3), **_means(extras)}
            if evaluate and evaluate_every and (done % evaluate_every == 0 or done == config.steps):
                if main or sharded:
                    with parts.evaluation(modules, trainable, ema):
                        line |= {f"eval/{key}": plain(value) for key, value in evaluate(done).items()}
                accelerator.wait_for_everyone()
            if log:
                log.add(line)
                display.step(line)
            stopping = any(row[-1] for row in rows)
            if done == config.steps or stopping or (config.save_every and done % config.save_every == 0):
                last = save(done)
            if stopping or (stop and done == config.steps):
                display.say(f"stopped after step {done}, which is saved; continue with --resume (resume=True)")
                raise SystemExit(128 + signal.SIGTERM) if signal.SIGTERM in stop else KeyboardInterrupt
        seconds = time.perf_counter() - began
        display.say(f"{config.steps} steps done in {clock(seconds)}; weights in {last}")
        metrics = log.lines if log else read_metrics(folder)
        assert last is not None  # the last step is always saved
        if sharded:
            gather(modules)
            ema = None if ema is None else whole(ema)
        return TrainResult(config.steps, [x["loss"] for x in metrics], seconds, metrics, folder, last, ema, start)


def _means(extras: list[Mapping[str, Any]]) -> dict[str, float]:
    """The metrics of the accumulated batches, averaged by name over the batches that have them."""
    values: dict[str, list[float]] = {}
    for extra in extras:
        for key, value in extra.items():
            if key in RESERVED:
                raise BadInput(f"the loss returns a metric named {key!r}, which metrics.jsonl has already; rename it")
            values.setdefault(key, []).append(float(value))
    return {key: sum(found) / len(found) for key, found in values.items()}


def _diverged(
    name: str, step: int, losses: list[tuple[float, float, int]], norm: float, describe: Callable[[int], str] | None
) -> str:
    bad = [(value, terms, index) for value, terms, index in losses if not math.isfinite(value)]
    what = f"the loss is {bad[0][0]}" if bad else f"the gradient norm is {norm}"
    indices = [index for *_, index in bad or losses]
    told = ", ".join(f"{index} ({describe(index)})" if describe else str(index) for index in indices[:4])
    return f"{name}: {what} at step {step + 1}, batch {told}; the weights were not updated; "


def _advice(last: Path | None) -> str:
    good = f"last good checkpoint: {last}" if last else "no checkpoint was saved yet"
    return f"{good}; look at that batch, or train with a smaller lr into another folder"
