"""`vlmlab clips`: a model on held-out clips, its frames in order and not, and what a frame costs. Notebook 12."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vlmlab.commands.common import out, print_json, progress_bar, tell

if TYPE_CHECKING:
    from vlmlab.vlm.model import VLM


def clips(
    model: Annotated[
        str, typer.Option("--model", "-m", help="Shipped adapters (llava-tiny-clips), a model, or a file of either.")
    ] = "llava-tiny-clips",
    n: Annotated[int, typer.Option("--n", min=1, help="Clips to ask about.")] = 200,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or mps.")] = "auto",
    save: Annotated[bool, typer.Option("--save", help="Write the result to data/results/clips-MODEL.json.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Measure a model on held-out clips: by type of question, by the frames' order, and by their number."""
    from vlmlab import runtime
    from vlmlab.benchmarks import clips as measuring
    from vlmlab.files import write_json

    vlm, name = opened(model, device)
    with progress_bar("clips") as advance:
        result = measuring.measure(vlm, name, n, advance)
    if json:
        print_json(result)
    else:
        out.print(measuring.table(result))
    if save:
        path = runtime.data_dir() / "results" / f"clips-{name}.json"
        write_json(path, result)
        tell(f"wrote {path}")


def opened(model: str, device: str = "auto") -> "tuple[VLM, str]":
    """A model that answers about clips, and its name: of shipped adapters, of a model, or the path of a file."""
    import vlmlab
    from vlmlab import runtime, weights
    from vlmlab.vlm import lora

    shipped = runtime.data_dir() / "checkpoints" / f"{model}.safetensors"
    path = shipped if shipped.is_file() else Path(model)
    if not lora.holds(path):
        return vlmlab.load(model, device=device), Path(model).stem
    if path == shipped:
        weights.verify(f"checkpoints/{path.name}")
    about = lora.read(path)[1]
    vlm = vlmlab.load(about.base, device=device)
    lora.load(vlm, path)
    lora.merge(vlm)
    return vlm, model if path == shipped else str(about.note.get("recipe", path.stem))
