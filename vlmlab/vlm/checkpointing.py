"""The folder of a training run: what was asked, checkpoints written whole or not at all, exact resumption. Notebook 04.

    run.json                            what the run was asked to do; a resumed run must ask for the same
    metrics.jsonl                       one line a step (vlmlab.vlm.training_log)
    checkpoints/step-0000200/           weights, optimizer, ema (safetensors), rng-0.json, state.json (their sha256)

A checkpoint is written under the name `.step-0000200.partial`, flushed to the disk and renamed; older ones are
removed only after that. `state.json` is what a reader trusts: a file that does not match it is damaged.
"""

import os
import random
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vlmlab.errors import BadCheckpoint, BadInput
from vlmlab.files import read_json, read_tensors, sha256, tensors_sha256, write_json, write_tensors
from vlmlab.vlm.sharding import like

FREE_FIELDS = ("save_every", "log_every")  # fields of a config that change nothing about the trained weights


# ---------------------------------------------------------------- what the run was asked to do
def fingerprint(modules: nn.Module) -> str:
    """SHA-256 over the names and bytes of the frozen parameters: a resumed run must start from the same ones."""
    return tensors_sha256((name, p) for name, p in modules.named_parameters() if not p.requires_grad)


def check_folder(folder: Path, record: dict[str, Any], resume: bool) -> bool:
    """True when `folder` holds a run to go on with, False when a new one starts there.

    Raises BadInput when a run is there and `resume` is off, or when the run there was asked for something else
    than `record` (the first field that differs is named). Writes nothing.
    """
    path = folder / "run.json"
    if not resume:
        for name in ("run.json", "metrics.jsonl", "checkpoints"):
            if (folder / name).exists():
                raise BadInput(
                    f"{folder} already holds a training run ({name}); continue it with --resume (resume=True) "
                    "or train into another folder"
                )
        return False
    if not path.exists():
        if (folder / "checkpoints").exists():
            raise BadInput(f"{folder} has checkpoints but no run.json; restore it or train into another folder")
        return False
    before = read_json(path)
    if not isinstance(before, dict) or not isinstance(before.get("config"), dict):
        raise BadInput(f"{path} is not the record of a training run; restore it or train into another folder")
    for field, now in {**record["config"], **{key: record[key] for key in record if key != "config"}}.items():
        then = before["config"].get(field) if field in record["config"] else before.get(field)
        if field in FREE_FIELDS or then == now:
            continue
        raise BadInput(
            f"cannot resume {folder}: {_difference(field, then, now)}; ask for the same or use another folder"
        )
    return True


def _difference(field: str, then: Any, now: Any) -> str:
    if field == "frozen":
        return "the frozen weights (frozen) are not the ones the run began with"
    if field in ("parameters", "groups") and isinstance(then, dict) and isinstance(now, dict):
        for name in [*then, *now]:
            if then.get(name) != now.get(name):
                a, b = (f"{side[name]}" if name in side else "absent" for side in (then, now))
                return f"{field} differ at {name!r}: {a} when the run began, {b} now"
        return f"{field} come in another order than when the run began"
    return f"{field} was {then!r} when the run began and is {now!r} now"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold `folder` for this process; raise BadInput when another live process trains there."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl  # absent on Windows, where two runs in one folder are not noticed
    except ImportError:
        yield
        return
    with open(folder / ".lock", "a") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # goes when the process does, however it ends
        except OSError:
            raise BadInput(f"another process is training in {folder}; wait for it or use another folder") from None
        yield


# ---------------------------------------------------------------- random numbers
def rng_state(device: torch.device) -> dict[str, Any]:
    """The state of Python's, NumPy's and PyTorch's global generators as JSON values."""
    kind, keys, *rest = np.random.get_state(legacy=True)
    state = {
        "python": random.getstate(),
        "numpy": [kind, np.asarray(keys).tolist(), *rest],
        "torch": torch.get_rng_state().numpy().tobytes().hex(),
    }
    if device.type in ("cuda", "mps"):
        state[device.type] = torch.get_device_module(device).get_rng_state().numpy().tobytes().hex()
    return state


def set_rng_state(state: dict[str, Any], device: torch.device) -> None:
    """Put the generators back to what `rng_state` returned."""
    version, keys, gauss = state["python"]
    random.setstate((version, tuple(keys), gauss))
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(_bytes(state["torch"]))
    if device.type in state:
        torch.get_device_module(device).set_rng_state(_bytes(state[device.type]))


def _bytes(text: str) -> Tensor:
    return torch.frombuffer(bytearray.fromhex(text), dtype=torch.uint8)


# ---------------------------------------------------------------- what a checkpoint holds
def trained_state(modules: nn.Module) -> dict[str, Tensor]:
    """The tensors that training changes, by name: trainable parameters (tied ones once) and persistent buffers."""
    state = {name: p.detach() for name, p in modules.named_parameters() if p.requires_grad}
    parameters = {name for name, _ in modules.named_parameters(remove_duplicate=False)}
    saved = modules.state_dict()
    return state | {name: value for name, value in saved.items() if name not in parameters and torch.is_tensor(value)}


def optimizer_state(optimizer: torch.optim.Optimizer, params: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """The optimizer's tensors as "key:parameter name"; a parameter that never had a gradient has none."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in params.items()}
    return {
        f"{key}:{names[parameter]}": value
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
        if torch.is_tensor(value)
    }


def copy_into(target: Mapping[str, Tensor], source: Mapping[str, Tensor], where: str | Path) -> None:
    """Copy tensors by name into tensors that exist; BadCheckpoint when names or shapes differ."""
    for name in [*target, *source]:
        if name not in target or name not in source or target[name].shape != source[name].shape:
            raise BadCheckpoint(f"{where} does not fit this model at {name!r}; it belongs to another run")
    with torch.no_grad():
        for name, value in source.items():
            target[name].copy_(like(value, target[name]))


def load_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], params: Mapping[str, nn.Parameter]
) -> None:
    """Put back what `optimizer_state` returned.

    The tensors are cloned: those of a mapped file lie at any address, and vectorised operators may round the last
    bit differently by alignment.
    """
    optimizer.state.clear()
    fused = {parameter: bool(group.get("fused")) for group in optimizer.param_groups for parameter in group["params"]}
    for name, value in tensors.items():
        key, _, parameter = name.partition(":")
        target = params[parameter]
        on = target.device if key != "step" or fused[target] else torch.device("cpu")
        optimizer.state[target][key] = value.clone().to(on) if key == "step" else like(value.clone().to(on), target)


# ---------------------------------------------------------------- on the disk
def partial_path(folder: Path, step: int) -> Path:
    """Where the checkpoint of `step` is written before it counts."""
    return folder / "checkpoints" / f".step-{step:07d}.partial"


def checkpoint_path(folder: Path, step: int) -> Path:
    """The folder of the complete checkpoint of `step`."""
    return folder / "checkpoints" / f"step-{step:07d}"


def open_partial(folder: Path, step: int) -> None:
    """Make the empty folder of a checkpoint to be; remove those that a kill left behind."""
    for old in Path(folder, "checkpoints").glob(".step-*.partial"):
        shutil.rmtree(old)
    partial_path(folder, step).mkdir(parents=True)


def seal(folder: Path, step: int, tensors: Mapping[str, dict[str, Tensor]], state: dict[str, Any], keep: int) -> Path:
    """Complete the partial checkpoint of `step`, give it its name, then remove all but the last `keep`.

    `tensors` maps a file's stem ("weights", "optimizer", "ema") to its tensors. Returns the checkpoint's folder.
    """
    partial = partial_path(folder, step)
    for stem, values in tensors.items():
        write_tensors(partial / f"{stem}.safetensors", values)
    files = {path.name: sha256(path) for path in sorted(partial.iterdir())}
    write_json(partial / "state.json", {"step": step, **state, "files": files})
    for path in [*partial.iterdir(), partial]:
        _flush(path)
    final = checkpoint_path(folder, step)
    if final.exists():  # only a checkpoint that was found unusable can be in the way
        shutil.rmtree(final)
    partial.rename(final)
    _flush(final.parent)
    for old in checkpoints(folder)[:-keep]:
        gone = partial_path(folder, int(old.name[5:]))  # never half a checkpoint under a good name
        old.rename(gone)
        shutil.rmtree(gone)
    return final


def _flush(path: Path) -> None:
    if os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def checkpoints(folder: str | os.PathLike) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    found = Path(folder, "checkpoints").glob("step-*")
    return sorted(
        (path for path in found if re.fullmatch(r"step-\d{7,}", path.name)), key=lambda path: int(path.name[5:])
    )


def verify(checkpoint: Path) -> dict[str, Any]:
    """Return a checkpoint's state.json after comparing every file with its sha256; BadCheckpoint when one differs."""
    try:
        state = read_json(checkpoint / "state.json")
        files, step = dict(state["files"]), int(state["step"])
    except (BadInput, KeyError, TypeError, ValueError, OSError) as error:
        raise BadCheckpoint(f"{checkpoint} has no readable state.json ({error})") from None
    for name, expected in files.items():
        path = checkpoint / name
        if not path.is_file():
            raise BadCheckpoint(f"{path} is missing")
        if sha256(path) != expected:
            raise BadCheckpoint(f"{path} is damaged: its sha256 is not the one in state.json")
    if f"step-{step:07d}" != checkpoint.name:
        raise BadCheckpoint(f"{checkpoint} holds step {step}")
    return state


def newest(folder: Path, say: Callable[[str], None] = print, aside: bool = False) -> tuple[Path, dict[str, Any]] | None:
    """The newest undamaged checkpoint and its state, or None when the run has none yet.

    Each damaged one is reported through `say` and, with `aside`, renamed to "damaged-...". Raises BadCheckpoint
    when there are checkpoints and all of them are damaged.
    """
    damaged: list[Path] = []
    for path in reversed(checkpoints(folder)):
        try:
            state = verify(path)
        except BadCheckpoint as error:
            damaged.append(path)
            say(f"damaged checkpoint, trying the one before: {error}")
            continue
        for other in damaged if aside else ():
            shutil.rmtree(other.with_name(f"damaged-{other.name}"), ignore_errors=True)
            other.rename(other.with_name(f"damaged-{other.name}"))
        return path, state
    if damaged:
        raise BadCheckpoint(f"every checkpoint of {folder} is damaged; train into another folder")
    return None


def read_weights(folder: str | os.PathLike, averaged: bool = False) -> dict[str, Tensor]:
    """The trained weights of a run's newest good checkpoint (`averaged`: the moving average), by parameter name.

    Raises BadCheckpoint when the run has no checkpoint, or no averaged weights.
    """
    found = newest(Path(folder))
    if not found:
        raise BadCheckpoint(f"{folder} holds no checkpoint; train there first")
    return read_tensors(found[0] / ("ema.safetensors" if averaged else "weights.safetensors"))[0]
