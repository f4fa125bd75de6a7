"""`vlmlab shortcomings`: fine detail, layout, fusion, illusions and redundancy of a model, measured. Notebook 06."""

from typing import Annotated

import typer

from vlmlab.commands.common import out, print_json, progress_bar, tell
from vlmlab.commands.model import Device, Json, Model


def shortcomings(
    model: Model = "llava-tiny",
    only: Annotated[
        str | None, typer.Option(help="detail, layout, fusion, illusions or redundancy; all when left out.")
    ] = None,
    n: Annotated[int, typer.Option("--n", min=1, help="Scenes of each kind.")] = 60,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the scenes.")] = 0,
    save: Annotated[bool, typer.Option("--save", help="Keep the result in data/results.")] = False,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Measure what a model is said to be weak at, with controls, chance and blind baselines."""
    import vlmlab
    from vlmlab.benchmarks import shortcomings as parts
    from vlmlab.errors import BadInput, UnknownName

    if only is not None and only not in parts.NAMES:
        raise UnknownName("shortcoming", only, parts.NAMES)
    if save and only is not None:
        raise BadInput("--save keeps a complete measurement; leave --only out")
    vlm = vlmlab.load(model, device=device)
    with progress_bar("answers") as advance:
        found = parts.measure(vlm, parts.NAMES if only is None else only, n, seed, advance)
    if json:
        print_json(found)
    else:
        out.print(parts.table(found))
    if save:
        tell(f"wrote {parts.save(found, vlm)}")
