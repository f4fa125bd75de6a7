"""Notebook 05. Where the shipped sets lie: `files(name)` gives a set's annotations, questions and pictures.

`scenes` and `asked` give what no downloaded benchmark has, the scene behind each picture and the program behind each
question; `about` is what the offline judge of LLaVA-Bench wants to know.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from vlmlab import runtime
from vlmlab.errors import BadInput, UnknownName
from vlmlab.files import read_json
from vlmlab.scenes import Scene
from vlmlab.scenes.questions import Question

if TYPE_CHECKING:
    from vlmlab.benchmarks.judges import About


class Files(NamedTuple):
    """Paths of a set, as its benchmark's `read(annotations, questions)` takes them, and the folder of its pictures."""

    annotations: Path
    questions: Path | None
    images: Path


class Asked(NamedTuple):
    """A question and the picture it is about; None for one without a program.

    picture: what was done to the picture, in VizWiz's set ("dim", "too dark", ...); "" where nothing was.
    """

    image: str
    question: Question | None
    picture: str = ""


SETS: dict[str, tuple[str, str | None]] = {  # name -> annotations, questions; the folder is the name's first part
    "vqav2": ("v2_mscoco_val2014_annotations.json", "v2_OpenEnded_mscoco_val2014_questions.json"),
    "vizwiz": ("val.json", None),
    "gqa": ("val_all_questions.json", None),
    "pope-random": ("coco_pope_random.json", None),
    "pope-popular": ("coco_pope_popular.json", None),
    "pope-adversarial": ("coco_pope_adversarial.json", None),
    "vsr": ("test.jsonl", None),
    "scienceqa": ("problems.json", "pid_splits.json"),
    "whatsup": ("controlled_dataset.json", None),
    "llava_bench": ("questions.jsonl", None),
}


def folder(name: str) -> Path:
    """The folder of a benchmark, data/benchmarks/NAME: "pope" for its three splits."""
    return runtime.data_dir() / "benchmarks" / name


def files(name: str) -> Files:
    """The paths of a shipped set. Raises UnknownName for another name, BadInput when its files are not there."""
    if name not in SETS:
        raise UnknownName("benchmark", name, SETS)
    home, (annotations, questions) = folder(name.partition("-")[0]), SETS[name]
    found = Files(home / annotations, None if questions is None else home / questions, home / "images")
    if missing := [path for path in found if path is not None and not path.exists()]:
        raise BadInput(f"no such file: {missing[0]}; make it with: python -m vlmlab.benchmarks.export {home.name}")
    return found


def _truth(name: str, part: str) -> dict[str, Any]:
    path = files(name).images.parent / "scenes.json"
    found = read_json(path)
    if not isinstance(found, dict) or part not in found:
        raise BadInput(f"{path} has no {part!r}; restore it from git, or write it again with the command in its README")
    return found[part]


def scenes(name: str) -> dict[str, Scene]:
    """Path of a picture below the set's images -> the scene that it shows. Raises as `files`."""
    return {image: Scene.from_json(json.dumps(record)) for image, record in _truth(name, "pictures").items()}


def asked(name: str) -> dict[str, Asked]:
    """Id of a question (of a picture, in VizWiz's set) -> its program; for vqav2, vizwiz and llava_bench. Raises as
    `files`."""
    return {
        key: Asked(record["image"], _question(record["question"]), record.get("picture", ""))
        for key, record in _truth(name, "questions").items()
    }


def _question(record: dict[str, Any] | None) -> Question | None:
    return None if record is None else Question(**{**record, "objects": tuple(record["objects"])})


def about() -> "dict[int | str, About]":
    """What `judges.offline` takes, for the questions of the shipped llava_bench. Raises as `files`."""
    from vlmlab.benchmarks.judges import About

    shown = scenes("llava_bench")
    return {int(name): About(shown[one.image], one.question) for name, one in asked("llava_bench").items()}
