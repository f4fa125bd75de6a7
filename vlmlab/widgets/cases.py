"""Case files: a failure with all that it takes to see it again, and the replay that says what is still so. Notebook 15.

A case is JSON: {"case": 1, "versions", "picture" (SHA-256), "truth", the state (scene, question, control, tags, note),
"models": {name: {"weights" (SHA-256), "answer": {form: {"text", "log_probs"}}}}}. A replay renders the scene, asks the
same models again and compares truth, words and probabilities; picture, weights and versions are told beside them, as
what may explain a change.
"""

import hashlib
import platform
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmlab import __version__
from vlmlab.benchmarks.runner import weights
from vlmlab.errors import BadInput
from vlmlab.files import read_json, write_json
from vlmlab.widgets.answers import Answer, Looked, shown
from vlmlab.widgets.asking import ask
from vlmlab.widgets.probe_state import State, answer_of, need

if TYPE_CHECKING:
    from vlmlab.vlm.model import VLM

FORMAT = 1
TOLERANCE = 1e-3  # of a probability, absolute: what another processor's rounding may change
RENDERED = 96  # pixels of the picture whose SHA-256 is kept


@dataclass(frozen=True)
class Told:
    """What a model said, and the SHA-256 of its weights."""

    weights: str
    answer: Answer


@dataclass(frozen=True)
class Case:
    """A state, its truth and what models answered, as saved or as found again."""

    state: State
    truth: str | None
    picture: str
    models: dict[str, Told]
    versions: dict[str, str]


@dataclass(frozen=True)
class Line:
    """One thing that a replay compared. decides: whether a change of it makes the replay fail."""

    what: str
    saved: Any
    now: Any
    same: bool
    decides: bool = True


def make(state: State, answers: Mapping[str, Answer], models: Mapping[str, "VLM"]) -> Case:
    """A case of what was answered. Raises BadInput where nothing was."""
    if not answers:
        raise BadInput("there is no answer to keep; ask first")
    told = {name: Told(weights(models[name]), answer) for name, answer in answers.items()}
    return Case(state, ask(state.scene, state.question).truth, _picture(state), told, versions())


def versions() -> dict[str, str]:
    """Of what answers depend on."""
    import numpy
    import torch

    return {"vlmlab": __version__, "python": platform.python_version(), "torch": torch.__version__,
            "numpy": numpy.__version__}  # fmt: skip


def save(case: Case, path: str | Path, overwrite: bool = False) -> Path:
    """Write a case atomically. Raises BadInput for a file that is there, unless it may be overwritten."""
    path = Path(path)
    if path.is_dir():
        raise BadInput(f"{path} is a folder; name a file in it")
    if path.exists() and not overwrite:
        raise BadInput(f"{path} is there already; choose another name, or allow it to be replaced")
    models = {name: asdict(told) for name, told in case.models.items()}
    about = {"truth": case.truth, "picture": case.picture, "models": models, "versions": case.versions}
    write_json(path, {"case": FORMAT, **case.state.to_record(), **about})
    return path


def read(path: str | Path) -> Case:
    """Read a case file. Raises BadInput, one line naming the file and what is wrong."""
    record = read_json(path)
    try:
        if need(record, "case", int) != FORMAT:
            raise BadInput(f"its format is {record['case']}, and this version reads {FORMAT}")
        models = need(record, "models", dict)
        told = {
            name: Told(need(each, "weights", str), answer_of(need(each, "answer", dict)))
            for name, each in models.items()
        }
        if not told:
            raise BadInput("the field 'models' is empty")
        truth = None if record.get("truth") is None else need(record, "truth", str)
        state = State.from_record(record)
        ask(state.scene, state.question)
        return Case(state, truth, need(record, "picture", str), told, need(record, "versions", dict))
    except BadInput as error:
        raise BadInput(f"{path} is not a case file: {error}; save the case again") from None


def again(case: Case, load: Callable[[str], "VLM"]) -> Case:
    """The same case asked again, of models by the same names."""
    asked = ask(case.state.scene, case.state.question)
    models = {name: load(name) for name in case.models}
    told = {}
    for name, before in case.models.items():
        vlm = models[name]
        looked = Looked(vlm, shown(case.state.scene.render(vlm.config.image_size).rgb, case.state.control))
        answer = {form: looked.answer(asked, form, case.state.control) for form in before.answer}
        told[name] = Told(weights(vlm), answer)
    return Case(case.state, asked.truth, _picture(case.state), told, versions())


def compare(saved: Case, now: Case) -> list[Line]:
    """What is the same and what changed, line by line."""
    lines = [Line("truth", saved.truth, now.truth, saved.truth == now.truth)]
    for name, before in saved.models.items():
        for form, first in before.answer.items():
            second = now.models[name].answer[form]
            lines.append(Line(f"{name}, {form}: text", first.text, second.text, first.text == second.text))
            ours, theirs = first.probabilities, second.probabilities
            for option in dict.fromkeys([*ours, *theirs]):
                pair = ours.get(option), theirs.get(option)
                near = None not in pair and abs(ours[option] - theirs[option]) <= TOLERANCE
                lines.append(Line(f"{name}, {form}: P({option})", *pair, near))
        lines.append(_beside(f"{name}: weights", before.weights, now.models[name].weights))
    lines.append(_beside("picture", saved.picture, now.picture))
    return [*lines, *(_beside(name, saved.versions.get(name), now.versions[name]) for name in now.versions)]


def _beside(what: str, saved: Any, now: Any) -> Line:
    return Line(what, saved, now, saved == now, decides=False)


def _picture(state: State) -> str:
    return hashlib.sha256(state.scene.render(RENDERED).rgb.tobytes()).hexdigest()
