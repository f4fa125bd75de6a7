"""`vlmlab train` and `bench`: recipes that make weights, training on a reader's own data, and ratios measured side by
side. Notebooks 03, 04 and 06."""

import inspect
import sys
from contextlib import AbstractContextManager, nullcontext, redirect_stdout
from pathlib import Path
from typing import Annotated, Any

import typer

from vlmlab.commands.common import literals, print_json, show_dict, tell
from vlmlab.errors import BadInput, UnknownName

Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Override a setting; may be repeated.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def train(
    recipe: Annotated[str | None, typer.Argument(help="The recipe's name.", show_default=False)] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint of this recipe.")] = False,
    shipped: Annotated[
        bool, typer.Option("--shipped", help="Take what the recipe needs from the shipped weights where they have it.")
    ] = False,
    set: Overrides = None,
    list: Annotated[bool, typer.Option("--list", help="Print the recipes.")] = False,
    data: Annotated[Path | None, typer.Option(help="Instead of a recipe: your own data, LLaVA's JSON.")] = None,
    images: Annotated[Path | None, typer.Option(help="The folder of its pictures.")] = None,
    start: Annotated[
        str, typer.Option("--from", help="The model to begin with: a shipped name or a checkpoint's path.")
    ] = "llava-tiny",
    out: Annotated[Path | None, typer.Option(help="Where to train; runs/NAME OF THE DATA when left out.")] = None,
    json: Json = False,
) -> None:
    """Train a recipe, or a model on your own data; --resume continues bit for bit.

    Several processes share each batch: accelerate launch --multi_gpu --num_processes 2 -m vlmlab.cli train ..., also
    on a CPU.
    """
    overrides = literals(set or [])
    if data is not None:
        if recipe is not None or images is None:
            raise BadInput("--data goes with --images FOLDER, the folder of its pictures, and without a recipe")
        with _trainers_lines(json):
            result = _own_data(data, images, start, out, resume, overrides)
        _tell({"model": start, **_summary(result)}, json)
        return
    if images is not None or out is not None:
        raise BadInput("--images and --out go with --data FILE, your own data in LLaVA's format")
    from vlmlab.vlm import recipes

    names = sorted(recipes.RECIPES)
    if list:
        _print_names(names, json)
        return
    if recipe is None:
        raise BadInput("name a recipe: " + ", ".join(names))
    if recipe not in recipes.RECIPES:
        raise UnknownName("recipe", recipe, names)
    for taken in {"name", "resume"} & overrides.keys():  # arguments of `run` itself
        raise BadInput(f"--set {taken} is no setting of a recipe; give the recipe's name, and --resume, by themselves")
    if shipped:
        from vlmlab.weights.publishing import restore

        wanted = recipes.RECIPES[recipe]
        restore([(*wanted.needs, wanted.backbone)])
    with _trainers_lines(json):
        result = recipes.run(recipe, resume=resume, **overrides)
    _tell({"recipe": recipe, **_summary(result)}, json)


def _trainers_lines(json: bool) -> AbstractContextManager:
    """Where the trainer's lines go: beside the result, unless that is JSON."""
    return redirect_stdout(sys.stderr) if json else nullcontext()


def _own_data(data: Path, images: Path, start: str, out: Path | None, resume: bool, settings: dict[str, Any]) -> Any:
    """Train a model on a reader's own data, gently: at a third of the rate at which llava-tiny learnt to answer."""
    from vlmlab import load, runtime
    from vlmlab.vlm.own_data import fine_tune
    from vlmlab.vlm.recipes.table import FAST
    from vlmlab.vlm.trainer import TrainConfig
    from vlmlab.vlm.training_setup import several_processes

    dials = {"steps": 200, "lr": 4e-4, "save_every": 50, **FAST}
    own = {name: settings.pop(name) for name in ("batch", "parts") if name in settings}
    for name in settings:
        if name not in TrainConfig.__dataclass_fields__:
            raise UnknownName("setting", name, ["batch", "parts", *TrainConfig.__dataclass_fields__])
    folder = out or runtime.work_dir() / data.stem
    vlm = load(start, "cpu") if several_processes() else load(start)  # each moves its own, or a shard, to its own GPU
    return fine_tune(vlm, data, images, folder, TrainConfig(**(dials | settings)), resume=resume, **own)


def bench(
    name: Annotated[str | None, typer.Argument(help="The benchmark's name.", show_default=False)] = None,
    set: Overrides = None,
    list: Annotated[bool, typer.Option("--list", help="Print the names.")] = False,
    save: Annotated[bool, typer.Option("--save", help="Keep the result in data/results, and README's table.")] = False,
    json: Json = False,
) -> None:
    """Measure speed against peers, side by side in one run."""
    overrides = literals(set or [])
    from vlmlab.bench import BENCHMARKS

    names = sorted(BENCHMARKS)
    if list:
        _print_names(names, json)
        return
    if name is None:
        raise BadInput("name a measurement: " + ", ".join(names))
    if name not in BENCHMARKS:
        raise UnknownName("measurement", name, names)
    known = inspect.signature(BENCHMARKS[name]).parameters
    for setting in overrides:
        if setting not in known:
            raise UnknownName("setting", setting, known)
    result = BENCHMARKS[name](**overrides)
    if json:
        print_json(result)
    else:
        show_dict(result, name)
    if save:
        from vlmlab.bench import board

        tell("wrote " + board.save(name, result, overrides))


def _tell(summary: dict[str, Any], json: bool) -> None:
    from vlmlab.vlm.training_setup import is_main

    if not is_main():
        return
    if json:
        print_json(summary)
    else:
        show_dict(summary, "trained")


def _summary(result: Any) -> dict[str, Any]:
    """What a run is worth telling: not the weights, nor each step's loss."""
    facts = {
        name: getattr(result, name) for name in ("steps", "seconds", "folder", "checkpoint") if hasattr(result, name)
    }
    losses = getattr(result, "losses", None)
    return {**facts, "final_loss": losses[-1]} if losses else facts


def _print_names(names: list[str], json: bool) -> None:
    if json:
        print_json(names)
    else:
        print("\n".join(names))
