"""`vlmlab train` and `bench`: recipes that make weights, and ratios measured side by side. Notebooks 04 and 06."""

import inspect
from typing import Annotated, Any

import typer

from vlmlab.commands.common import literals, print_json, show_dict
from vlmlab.errors import BadInput, UnknownName

Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Override a setting; may be repeated.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def train(
    recipe: Annotated[str | None, typer.Argument(help="The recipe's name.", show_default=False)] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint of this recipe.")] = False,
    set: Overrides = None,
    list: Annotated[bool, typer.Option("--list", help="Print the recipes.")] = False,
    json: Json = False,
) -> None:
    """Train a recipe; checkpoints are written whole, and --resume continues bit for bit."""
    overrides = literals(set or [])
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
    result = recipes.run(recipe, resume=resume, **overrides)
    summary = {"recipe": recipe, **_summary(result)}
    if json:
        print_json(summary)
    else:
        show_dict(summary, "trained")


def bench(
    name: Annotated[str | None, typer.Argument(help="The benchmark's name.", show_default=False)] = None,
    set: Overrides = None,
    list: Annotated[bool, typer.Option("--list", help="Print the names.")] = False,
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
