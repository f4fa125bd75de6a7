"""`vlmlab evaluate`: models on benchmarks, with their baselines. Notebooks 00, 05 and 17."""

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vlmlab.commands.common import out, print_json, progress_bar, tell
from vlmlab.commands.model import Device, Json, Model
from vlmlab.errors import BadInput, UnknownName

if TYPE_CHECKING:
    from vlmlab.benchmarks.export.shipped import Files

ALL = "all"
SPLIT = "pope"  # its three splits, one after the other, unless a file of a person's own is given
OWN_FILES = ("textvqa",)  # official, but no files ship


def evaluate(
    benchmark: Annotated[
        str, typer.Option("--benchmark", "-b", help="The benchmark's name, or all.", show_default=False)
    ],
    model: Model = "llava-tiny",
    limit: Annotated[int | None, typer.Option(min=1, help="Use only the first N examples.")] = None,
    form: Annotated[
        str | None,
        typer.Option(
            help="Of scenes: sentence (answers as trained) or word (LLaVA-1.5's format prompt).",
            show_default="sentence",
        ),
    ] = None,
    profile: Annotated[str, typer.Option(help="Which program's rules score the answers.")] = "official",
    method: Annotated[
        str | None, typer.Option(help="generate, or likelihood (of given options).", show_default="as published")
    ] = None,
    annotations: Annotated[
        Path | None, typer.Option(help="Official annotations of your own.", show_default="the shipped files")
    ] = None,
    questions: Annotated[Path | None, typer.Option(help="Their questions, where they are a file of their own.")] = None,
    images: Annotated[Path | None, typer.Option(help="The folder of their pictures.")] = None,
    judge: Annotated[str, typer.Option(help="Of LLaVA-Bench: offline, openai, or openai:MODEL.")] = "offline",
    folder: Annotated[
        Path | None, typer.Option("--out", help="Folder of answers and results.", show_default="in ./runs")
    ] = None,
    save: Annotated[
        bool, typer.Option("--save", help="Of all models on all benchmarks: write the board to data/results.")
    ] = False,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Measure a model on a benchmark, with the picture and blind; a run that was killed goes on.

    Several processes share the questions: accelerate launch -m vlmlab.cli evaluate ..., or on a CPU
    torchrun --nproc_per_node 2 -m vlmlab.cli evaluate ... Of models, "all" takes those shipped that answer questions.
    """
    from vlmlab import benchmarks
    from vlmlab.benchmarks import board
    from vlmlab.benchmarks.export.shipped import SETS

    known = (*SETS, SPLIT, *OWN_FILES, *benchmarks.BENCHMARKS, ALL)
    if benchmark not in known:
        raise UnknownName("benchmark", benchmark, known)
    official = {"--profile": None if profile == "official" else profile, "--method": method}
    own = {"--annotations": annotations, "--questions": questions, "--images": images}
    if benchmark == ALL:
        _refuse({**official, **own, "--form": form}, "are of one benchmark, not of all")
    elif benchmark in benchmarks.BENCHMARKS:
        _refuse({**official, **own, "--out": folder}, "are of official benchmarks")
    else:
        _refuse({"--form": form}, "is of scenes; official benchmarks have their published prompts")
    if judge != "offline" and benchmark not in (ALL, "llava_bench"):
        raise BadInput("--judge is of llava_bench")
    if save and (model, benchmark, limit, judge) != (ALL, ALL, None, "offline"):
        raise BadInput(f"--save keeps the whole board: {board.COMMAND}")
    import vlmlab
    from vlmlab import runtime
    from vlmlab.benchmarks import runner
    from vlmlab.benchmarks.collecting import processes
    from vlmlab.benchmarks.export import shipped

    files = _own(benchmark, annotations, questions, images)
    names = [*SETS, "scenes"] if benchmark == ALL else [benchmark]
    if benchmark == SPLIT and not files:
        names = [name for name in SETS if name.startswith(SPLIT)]
    models = _models() if model == ALL else [model]
    among = processes(cpu=runtime.device(device).type == "cpu")
    results: list[dict[str, Any]] = []
    for chosen in models:
        vlm = vlmlab.load(chosen, device=device)
        for name in names:
            place = folder / Path(chosen).stem / name if folder and len(models) * len(names) > 1 else folder
            with progress_bar(f"{chosen}, {name}") if among.main else nullcontext() as advance:
                found: dict[str, Any] | None = None
                if name not in benchmarks.BENCHMARKS:
                    found = runner.evaluate(
                        vlm, name, files or shipped.files(name), place, profile=profile, method=method, limit=limit,
                        judge=judge, among=among, progress=advance,
                    )  # fmt: skip
                elif among.main:  # the questions of held-out scenes are made anew, and no answers are kept
                    found = benchmarks.evaluate(vlm, name, limit, form or "sentence", advance)
            if found is not None:
                results.append(found if benchmark in benchmarks.BENCHMARKS else {**found, "model": chosen})
    if among.main:
        _show(results, json, whole=ALL in (model, benchmark) or len(names) > 1)
        if save:
            tell(f"wrote {board.save(board.collect(results))}")


def _models() -> list[str]:
    """The shipped models that answer questions: the first of two training stages does not."""
    from vlmlab import weights
    from vlmlab.vlm.recipes import RECIPES

    return [name for name in weights.shipped() if name not in RECIPES or RECIPES[name].blind]


def _show(results: list[dict[str, Any]], json: bool, whole: bool) -> None:
    """Print the board of several results, or all of a single one."""
    from vlmlab import benchmarks
    from vlmlab.benchmarks import board
    from vlmlab.commands import score

    found = board.collect(results)
    if json:
        print_json(found if whole else results[0])
        return
    if not whole and results[0]["benchmark"] in benchmarks.BENCHMARKS:
        out.print(benchmarks.table(results[0]))
        return
    out.print(board.table(found))
    for result in results:
        if not whole and "score" in result:
            out.print(score.table(result["score"], f"{result['benchmark']}, n = {result['n']}"))
        if "note" in result:
            tell(result["note"])
        if not whole:
            tell(f"predictions: {result['predictions']}")


def _refuse(options: dict[str, Any], why: str) -> None:
    if given := [name for name, value in options.items() if value is not None]:
        raise BadInput(f"{', '.join(given)} {why}")


def _own(benchmark: str, annotations: Path | None, questions: Path | None, images: Path | None) -> "Files | None":
    """A user's files, or None for the shipped ones."""
    from vlmlab.benchmarks.export.shipped import Files

    if annotations is None and (questions or images or benchmark in OWN_FILES):
        raise BadInput(f"give the annotations of {benchmark}, and the folder of its pictures: --annotations, --images")
    if annotations is None:
        return None
    if images is None:
        raise BadInput(f"give the folder of the pictures that {annotations} names: --images")
    return Files(annotations, questions, images)
