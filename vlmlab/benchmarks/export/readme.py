"""Notebook 05. data/benchmarks/README.md: what each set holds, how it was built, what constant answers get."""

from collections import Counter
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from vlmlab.benchmarks.export import NAMES
from vlmlab.benchmarks.export.shipped import SETS
from vlmlab.files import read_json

HEAD = """# Benchmarks in their official formats, about rendered scenes

Written by `python -m vlmlab.benchmarks.export`; nothing here was written by hand. Every set is read and scored by
`vlmlab.benchmarks` as a downloaded one is. Pictures are 96 x 96 pixels; `scenes.json` beside a set's files holds the
scene of each picture, with its split: `test` (new scenes), or `test_combinations` (with a combination of colour and
kind that training never saw). These are small sets of our own, no parts of the official ones: scores on them are not
comparable with published ones. TextVQA is left out, since there are no written words in these scenes. Licence:
Apache-2.0, as the repository.
"""


def readme(out: Path) -> str:
    """The text, about the sets that `out` holds."""
    found = [name for name in NAMES if (out / name).is_dir()]
    sizes = {name: _bytes(out / name) for name in found}
    table = ["| set | questions | pictures | test / test_combinations | MB |", "|---|---|---|---|---|"]
    parts = []
    for name in found:
        splits = Counter(scene["split"] for scene in read_json(out / name / "scenes.json")["pictures"].values())
        lines = _facts(name, out / name)
        shown = f"{splits.total()} | {splits['test']} / {splits['test_combinations']} | {sizes[name] / 1e6:.2f}"
        table.append(f"| [{name}](#{name}) | {lines[0]} | {shown} |")
        doc = (import_module(f"vlmlab.benchmarks.export.{name}").__doc__ or "").removeprefix("Notebook 05. ").strip()
        files = sorted(path for path in (out / name).iterdir() if path.is_file())
        rows = [f"| `{path.name}` | {path.stat().st_size:,} |" for path in files]
        listed = ["| file | bytes |", "|---|---|", *rows, f"| `images/` | {_bytes(out / name / 'images'):,} |"]
        parts.append("\n".join([f"## {name}\n", doc, "", *(f"- {line}" for line in lines), "", *listed]))
    table.append(f"| together | | | | {sum(sizes.values()) / 1e6:.2f} |")
    return "\n".join([HEAD, *table, "", "\n\n".join(parts), ""])


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _per_cent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _counts(values: Any) -> str:
    return ", ".join(
        f"{name} {n}" for name, n in sorted(Counter(values).items(), key=lambda item: (-item[1], str(item[0])))
    )


def _facts(name: str, home: Path) -> list[str]:
    """How many questions there are, first; then their balance and what a constant answer gets by the official rules."""
    module = import_module(f"vlmlab.benchmarks.{name}")
    sets = [paths for key, paths in SETS.items() if key.partition("-")[0] == name]
    read = [module.read(home / annotations, None if other is None else home / other) for annotations, other in sets]
    examples = list(read[0])
    n = str(len(examples))

    def always(answer: Any, key: Callable[[Any], Any], among: Sequence[Any] = examples) -> dict[str, Any]:
        return module.score(among, {key(one): answer for one in among})

    match name:
        case "pope":
            rates = [always("yes", lambda one: one.question_id, each)["accuracy"] for each in read]
            return [f"{len(read)} x {n}", f"always yes gets {', '.join(map(_per_cent, rates))}"]
        case "vsr":
            true = module.score(examples, [1] * len(examples))
            return [n, f"always true gets {_per_cent(true['accuracy'])}, and as much of each relation in each frame",
                    f"relations: {len(true['by_relation'])}; by category: {_counts(one.category for one in examples)}",
                    f"frames of reference: {_counts(one.reference_frame or 'none' for one in examples)}"]  # fmt: skip
        case "vqav2":
            yes = always("yes", lambda one: one.question_id)
            return [n, f"always yes gets {_per_cent(yes['accuracy'])}, "
                    f"{_per_cent(yes['by_answer_type']['yes/no']['accuracy'])} of the questions of the type yes/no",
                    f"types of answers: {_counts(one.answer_type for one in examples)}",
                    f"types of questions: {_counts(one.question_type for one in examples)}"]  # fmt: skip
        case "vizwiz":
            never = always("unanswerable", lambda one: one.image)["accuracy"]
            done = (one["picture"] for one in read_json(home / "scenes.json")["questions"].values())
            return [n, f"always unanswerable gets {_per_cent(never)}",
                    f"types of answers: {_counts(one.answer_type for one in examples)}",
                    f"pictures: {_counts(done)}"]  # fmt: skip
        case "gqa":
            balanced = [one for one in examples if one.balanced]
            verdicts = [one.answer for one in balanced if one.answer in ("yes", "no")]
            yes_share = verdicts.count("yes") / len(verdicts)
            return [f"{len(balanced)} balanced of {n}",
                    f"always yes gets {_per_cent(yes_share)} of the {len(verdicts)} for yes or no",
                    f"structural types: {_counts(one.structural for one in balanced)}",
                    f"detailed types: {_counts(one.detailed for one in balanced)}"]  # fmt: skip
        case "scienceqa":
            first = always(0, lambda one: one.id)["accuracy"]
            chance = sum(1 / len(one.choices) for one in examples) / len(examples)
            return [n, f"always A gets {_per_cent(first)}, a guess {_per_cent(chance)}",
                    f"choices: {_counts(len(one.choices) for one in examples)}",
                    f"rows: {_counts(row for one in examples for row in one.rows)}"]  # fmt: skip
        case "whatsup":
            same = module.score(examples, [0] * len(examples))
            return [n, f"{same['pairs']} pairs and {same['sets']} sets of four; a guess gets 25 %",
                    f"prepositions: {_counts(one.preposition for one in examples)}"]  # fmt: skip
        case _:
            return [n, f"categories: {_counts(one.category for one in examples)}"]
