"""`vlmlab ask` and `account`: questions to a model and about a model. Notebooks 00 and 02."""

import math
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from vlmlab.commands.common import out, print_json, prompt_text
from vlmlab.errors import BadInput

Model = Annotated[str, typer.Option("--model", "-m", help="A preset (llava-tiny) or the path of a checkpoint.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or mps.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def ask(
    question: Annotated[str, typer.Argument(help="What to ask about the picture.", show_default=False)],
    model: Model = "llava-tiny",
    image: Annotated[
        Path | None, typer.Option("--image", "-i", help="The picture; without one the model sees only the text.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Length of the answer at most, in tokens.")] = 64,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 answers greedily; above 0 samples.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Seed of the sampling.")] = 0,
    options: Annotated[
        str | None, typer.Option(help="Answers to choose from, as in yes,no: prints the probability of each.")
    ] = None,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Ask a model about a picture; only the answer goes to stdout."""
    question = prompt_text(question)
    choices = _choices(options) if options is not None else None
    if not math.isfinite(temperature):
        raise BadInput(f"--temperature must be a finite number of at least 0, not {temperature}")
    import vlmlab
    from vlmlab import runtime

    if image is not None and not image.exists():
        raise BadInput(f"no such image: {image}")
    vlm = vlmlab.load(model, device=device)
    if choices:
        _ask_options(vlm, model, image, question, choices, json)
        return
    runtime.seed_everything(seed)
    arguments: dict[str, Any] = {"max_new_tokens": max_new_tokens, "temperature": temperature}
    if json:
        answer = vlm.generate(image, question, stream=False, **arguments)
        print_json({"model": model, "question": question, "answer": answer})
        return
    pieces = vlm.generate(image, question, stream=True, **arguments)
    for piece in [pieces] if isinstance(pieces, str) else pieces:
        sys.stdout.write(piece)
        sys.stdout.flush()
    sys.stdout.write("\n")


def _choices(options: str) -> list[str]:
    choices = [choice.strip() for choice in options.split(",")]
    if len(choices) < 2 or not all(choices) or len(set(choices)) < len(choices):
        raise BadInput(
            f"--options wants at least two different answers with commas between, as in yes,no; got {options!r}"
        )
    return choices


def _ask_options(vlm: Any, model: str, image: Path | None, question: str, choices: list[str], json: bool) -> None:
    scores = {choice: float(score) for choice, score in vlm.score_options(image, question, choices).items()}
    top = max(scores.values())
    weights = {choice: math.exp(score - top) for choice, score in scores.items()}
    total = sum(weights.values())
    table = {choice: {"log_probability": scores[choice], "probability": weights[choice] / total} for choice in scores}
    best = max(scores, key=lambda choice: scores[choice])
    if json:
        print_json({"model": model, "question": question, "answer": best, "options": table})
        return
    width = max(map(len, table))
    for choice in sorted(table, key=lambda choice: -scores[choice]):
        print(f"{choice:<{width}}  {table[choice]['probability']:.4f}")


def account(
    preset: Annotated[
        str, typer.Argument(help="llava-tiny, llava-1.5-7b, ..., or a published checkpoint.", show_default=False)
    ],
    gpus: Annotated[
        int | None, typer.Option(min=1, help="Also the memory on each of N GPUs that train it.", show_default=False)
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Rows of its batch on each GPU.")] = 16,
    json: Json = False,
) -> None:
    """Count a preset's or a published checkpoint's parameters, FLOPs and cache bytes by part; no weight is read."""
    import importlib

    accounting = importlib.import_module("vlmlab.vlm.account")
    official = importlib.import_module("vlmlab.weights.official")
    model = official.official_config(preset) if official.is_official(preset) else preset
    result = accounting.account(model, gpus=gpus, batch=batch)
    if json:
        print_json(result)
    else:
        out.print(accounting.table(result))
