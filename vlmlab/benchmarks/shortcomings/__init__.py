"""Notebook 06. Shortcomings that are said of LLaVA, each with data, a measurement and plain controls.

detail: size and occlusion. layout: left and right in twins. fusion: referring expressions. redundancy: what image
tokens cost, and what is lost without them. illusions: size, coloured light, hidden shapes, mirrors. Time has notebook
12. Every row says how many were asked, the 95 % Wilson interval, chance, and the same model without the picture.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vlmlab.benchmarks.runner import weights
from vlmlab.benchmarks.shortcomings import detail, fusion, illusions, layout, redundancy
from vlmlab.benchmarks.shortcomings.items import Progress, rows
from vlmlab.errors import BadInput, UnknownName

if TYPE_CHECKING:
    from vlmlab.vlm.model import VLM

ITEMS = {"detail": detail.items, "layout": layout.items, "fusion": fusion.items, "illusions": illusions.items}
NAMES = (*ITEMS, "redundancy")


def measure(
    vlm: "VLM", which: str | Sequence[str] = NAMES, n: int = 60, seed: int = 0, progress: Progress = None
) -> dict[str, Any]:
    """Measure a model's shortcomings.

    Args:
        which: one of NAMES, or several. n: scenes (or pairs) of each kind, see the modules; for redundancy 2 n
            questions.
        progress: called with (answers so far, all), again from 0 for each list of questions.
    Returns:
        {"model", "n", "seed", "found": {name: {"rows": see `items.tally`}}}; "redundancy" also has "costs".
    Raises UnknownName for another name, BadInput for n below 1.
    """
    names = [which] if isinstance(which, str) else list(which)
    for name in names:
        if name not in NAMES:
            raise UnknownName("shortcoming", name, NAMES)
    if n < 1 or seed < 0 or not names:
        raise BadInput(f"n={n}, seed={seed}: n must be at least 1, seed at least 0, and something must be measured")
    found = {
        name: redundancy.measure(vlm, n, seed, progress)
        if name == "redundancy"
        else {"rows": rows(vlm, ITEMS[name](n, seed), progress)}
        for name in names
    }
    return {"model": vlm.config.name, "n": n, "seed": seed, "found": found}


def save(found: dict[str, Any], vlm: "VLM") -> str:
    """Write a complete measurement to data/results and return its name there. Raises BadInput where parts miss."""
    from vlmlab import runtime
    from vlmlab.files import write_json

    if missing := [name for name in NAMES if name not in found["found"]]:
        raise BadInput(f"not measured: {', '.join(missing)}; only a complete measurement is kept, leave --only out")
    file = f"shortcomings-{found['model']}.json"
    write_json(runtime.data_dir() / "results" / file, {**found, "weights": weights(vlm)})
    return f"data/results/{file}"


def kept(vlm: "VLM") -> dict[str, Any] | None:
    """What was saved of a model with exactly these weights; None where there is nothing."""
    from vlmlab import runtime
    from vlmlab.files import read_json

    path = runtime.data_dir() / "results" / f"shortcomings-{vlm.config.name}.json"
    found = read_json(path) if path.exists() else None
    return found if found and found["weights"] == weights(vlm) else None


def table(found: dict[str, Any]) -> Any:
    """A measurement as a rich table."""
    from rich.table import Table

    out = Table(title=f"{found['model']}: shortcomings (n = {found['n']}, seed {found['seed']})")
    for column in ("", "n", "right", "95 % interval", "blind", "chance", "lured"):
        out.add_column(column, justify="left" if column in ("", "lured") else "right")
    for name, part in found["found"].items():
        out.add_section()
        out.add_row(f"[bold]{name}")
        for row in part["rows"]:
            share = [f"{100 * row[key]:.0f} %" for key in ("accuracy", "low", "high", "blind", "chance")]
            lures = ", ".join(f"{lure} {100 * cell['share']:.0f} %" for lure, cell in row["lures"].items())
            label = f"{row['group']}, {row['row']}"
            out.add_row(label, str(row["n"]), share[0], f"{share[1]} - {share[2]}", *share[3:], lures)
    return out
