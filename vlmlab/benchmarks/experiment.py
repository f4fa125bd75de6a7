"""Notebook 11. The 3 x 2 experiment: {CLIP, DINOv2 + SigLIP, MambaVision} x {Llama, Mamba}, from several seeds.

All cells have the same pictures in the same order, the same conversations about them, the same tokenizer, projector
(LLaVA-1.5's), number of steps and 64 image tokens. Rows are of one length in tokens; behind Mamba's chat template
(the longer one) they hold a tenth fewer questions. Projector and language model train with the recipe of llava-tiny and
cobra-tiny, without an alignment stage before; the encoder is frozen. Encoders and language models come pretrained, each
in one run that all seeds share: a seed decides the projector's first weights and the order of the data, so the spread
over seeds is that of this stage alone. What belongs to a part goes with it: an encoder's pretraining, a backbone's chat
template.

Runs live in work_dir()/experiment. A finished one is not repeated, a killed one goes on where it was, and several
processes that are started with the same command share the runs among them. `keep` copies what finished runs found to
data/experiments, from where another machine goes on.
"""

import hashlib
import json
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vlmlab import runtime
from vlmlab.benchmarks import categories
from vlmlab.benchmarks.categories import Exam
from vlmlab.errors import BadInput, UnknownName
from vlmlab.files import read_json, write_json
from vlmlab.vlm import recipes, saving
from vlmlab.vlm.checkpointing import locked
from vlmlab.vlm.model import VLM
from vlmlab.vlm.presets import get_preset
from vlmlab.vlm.recipes.common import ENCODERS as PRETRAINED
from vlmlab.vlm.recipes.common import features
from vlmlab.vlm.recipes.stages import train_stage
from vlmlab.vlm.recipes.table import RECIPES, Recipe
from vlmlab.vlm.training_log import read_metrics

NAME = "encoders-by-backbones"
ENCODERS = {
    "clip": ("clip-tiny",),
    "fused": ("dinov2-tiny", "siglip-tiny"),
    "mambavision": ("mambavision-tiny",),
}
BACKBONES = {"mamba": ("language-mamba-tiny", "cobra-tiny"), "llama": ("language-tiny", "llava-tiny")}
"""Backbone -> the recipe that pretrains it, and the one whose stage 2 is followed. The slower one stands first, so that
processes that share the runs end at about the same time."""
CELLS = tuple(f"{encoder}-{backbone}" for backbone in BACKBONES for encoder in ENCODERS)
MODEL = "model.safetensors"  # what a trained run leaves last
EXAM, RESULT = "exam.json", "result.json"  # what was asked, the same of all runs; what a run answered
WINDOWS = 40  # points of a recorded loss curve

Say = Callable[[str], object]


@dataclass(frozen=True)
class Plan:
    """What is run: the same for all cells.

    steps: of training. seeds: runs a cell, from seed 0. questions: a category; pairs: of twins of each kind. changes:
    other fields of the recipe, or of its TrainConfig, in all cells alike.
    """

    steps: int = 300
    seeds: int = 3
    questions: int = 160
    pairs: int = 50
    changes: tuple[tuple[str, Any], ...] = ()

    def __post_init__(self) -> None:
        for name in ("steps", "seeds"):
            if getattr(self, name) < 1:
                raise BadInput(f"{name}={getattr(self, name)} must be at least 1")
        for taken in {"name", "preset", "needs", "parts", "steps", "seed"} & dict(self.changes).keys():
            raise BadInput(
                f"{taken} is no setting of the experiment's recipes; steps and seeds are given by themselves"
            )
        recipe(self, "clip", "llama", 0)  # refuses what no recipe has

    @property
    def folder(self) -> str:
        """Where the runs live, in work_dir(): runs of other lengths or changes are never mixed."""
        mark = hashlib.sha256(json.dumps(self.changes).encode()).hexdigest()[:8]
        return f"experiment/{self.steps}-steps" + (f"-{mark}" if self.changes else "")

    @property
    def path(self) -> Path:
        """`folder` as a path."""
        return runtime.work_dir() / self.folder

    @property
    def kept(self) -> Path:
        """Where what finished runs found is kept with the project."""
        return runtime.data_dir() / "experiments" / NAME / self.path.name

    def file(self, *parts: str) -> Path:
        """A file of the runs in `path`, or the one in `kept` where that is missing."""
        own = self.path.joinpath(*parts)
        return own if own.exists() else self.kept.joinpath(*parts)

    @property
    def runs(self) -> tuple[str, ...]:
        """Names of all runs, as "clip-llama-0", seed by seed."""
        return tuple(f"{cell}-{seed}" for seed in range(self.seeds) for cell in CELLS)

    def select(self, only: Sequence[str]) -> tuple[str, ...]:
        """The runs that `only` names, all when it is empty: by name, or by some of its words ("mamba", "clip-1").

        Raises UnknownName for an entry that fits none.
        """
        for entry in only:
            if not any(_fits(entry, name) for name in self.runs):
                raise UnknownName("run", entry, [*self.runs, *CELLS, *ENCODERS, *BACKBONES])
        return tuple(name for name in self.runs if not only or any(_fits(entry, name) for entry in only))


def _fits(entry: str, name: str) -> bool:
    return set(entry.split("-")) <= set(name.split("-"))


def recipe(plan: Plan, encoder: str, backbone: str, seed: int) -> Recipe:
    """One run as a recipe: the backbone's stage 2 behind another encoder, without an alignment stage."""
    language, like = BACKBONES[backbone]
    base = replace(
        RECIPES[like],
        name=f"{plan.folder}/{encoder}-{backbone}-{seed}",
        preset=f"{encoder}-{backbone}-tiny",
        needs=("tokenizer", *ENCODERS[encoder], language),
    )
    return recipes.override(base, {"save_every": 50, **dict(plan.changes), "steps": plan.steps, "seed": seed})


def recipe_of(plan: Plan, name: str) -> Recipe:
    """The recipe of a run's name."""
    encoder, backbone, seed = name.split("-")
    return recipe(plan, encoder, backbone, int(seed))


def run(plan: Plan, only: Sequence[str] = (), say: Say = print) -> list[str]:
    """Train and examine the runs that are not finished; the names of those that another process is at are returned.

    Missing pretraining runs first, as `vlmlab train` would. Raises UnknownName for an entry of `only` that fits no run.
    """
    names, busy = plan.select(only), []
    if all(finished(plan, name) for name in names):
        return []
    exam = categories.build(plan.questions, plan.pairs)
    plan.path.mkdir(parents=True, exist_ok=True)
    write_json(plan.path / EXAM, {"questions": plan.questions, "pairs": plan.pairs, **exam.summary()})
    pictures: dict[int, list[np.ndarray]] = {}
    for name in names:
        with ExitStack() as stack:
            try:
                stack.enter_context(locked(plan.path / name))
            except BadInput:  # another process has it
                busy.append(name)
                continue
            if not finished(plan, name):
                say(f"{name}: training")
                _train(recipe_of(plan, name))
                say(f"{name}: {len(exam.asked)} questions, and without pictures {exam.singles}")
                _examine(plan, name, exam, pictures)
    return busy


def finished(plan: Plan, name: str) -> dict[str, Any] | None:
    """What a finished run left, here or in data/, or None: result.json, unless it was asked other questions than the
    others.

    Raises BadInput for the result of another recipe.
    """
    path, listing = plan.file(name, RESULT), plan.file(EXAM)
    if not path.exists() or not listing.exists():
        return None
    result, exam = read_json(path), read_json(listing)
    if result["recipe"] != json.loads(json.dumps(asdict(recipe_of(plan, name)))):
        raise BadInput(f"{path} is of another recipe than this version's; delete {path.parent} to run it again")
    wanted = {"questions": plan.questions, "pairs": plan.pairs, "fingerprint": result["exam"]}
    return result if wanted.items() <= exam.items() else None


def keep(plan: Plan) -> list[str]:
    """Copy the results of finished runs, and of which exam, to `plan.kept`; names of the runs that are there then."""
    done = [name for name in plan.runs if finished(plan, name)]
    for parts in ((EXAM,), *((name, RESULT) for name in done)) if done else ():
        write_json(plan.kept.joinpath(*parts), read_json(plan.file(*parts)))
    return done


def _train(recipe: Recipe) -> None:
    if (recipes.finished(recipe.name).parent / MODEL).exists():
        return
    with _alone(runtime.work_dir() / "experiment"):
        prepare(recipe)
    train_stage(recipe, resume=True)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait until no other process is preparing: all need the same pretrained parts, conversations and features."""
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(locked(folder))
                break
            except BadInput:
                time.sleep(2)
        yield


def prepare(recipe: Recipe) -> None:
    """Make what runs share, where it is missing: pretrained parts, scenes, conversations, the encoder's features."""
    for need in recipe.needs:
        if not recipes.finished(need).exists():
            recipes.run(need, resume=True)
    config = get_preset(recipe.preset)
    vlm = VLM.from_preset(config, "auto", recipes.tokenizer())
    recipes.fill_from_runs(vlm, recipe.needs)
    encoders = [recipes.finished(name) for name in recipe.needs if name in PRETRAINED]
    for count, split in ((recipe.scenes, "train"), (recipe.checks, "val")):
        recipes.corpus(count, split, config.template)
        features(vlm.eval(), recipes.scenes(count, split), encoders)


def _examine(plan: Plan, name: str, exam: Exam, pictures: dict[int, list[np.ndarray]]) -> None:
    """Ask a trained run everything, with its pictures and blind, and write its result."""
    recipe = recipe_of(plan, name)
    folder = recipes.finished(recipe.name).parent
    vlm = saving.load(folder / MODEL)
    size = vlm.config.image_size
    if size not in pictures:
        pictures[size] = exam.render(size)
    began = time.perf_counter()
    right = categories.mark(vlm, exam.asked, pictures[size])
    singles = exam.asked[: exam.singles]  # a twin pair without its pictures is the same question twice
    blind = categories.mark(vlm, singles, [None] * len(singles))
    asking = time.perf_counter() - began
    lines = read_metrics(folder / "run")
    encoder, backbone, seed = name.split("-")
    result = {
        "name": name, "encoder": encoder, "backbone": backbone, "seed": int(seed),
        "exam": exam.fingerprint, "right": right, "blind": blind,
        "seconds": {"training": round(lines[-1]["seconds"], 1), "asking": round(asking, 1)},
        "loss": thinned([line["loss"] for line in lines]),
        "predicted": {key[5:]: value for key, value in lines[-1].items() if key.startswith("eval/")},
        "parameters": vlm.count_parameters(),
        "machine": machine(vlm.device),
        "recipe": asdict(recipe),
    }  # fmt: skip
    write_json(folder / RESULT, result)


def thinned(losses: Sequence[float], windows: int = WINDOWS) -> dict[str, list[float]]:
    """A loss curve as means over at most `windows` stretches of steps, and the step at which each ends."""
    cuts = np.linspace(0, len(losses), min(windows, len(losses)) + 1).round().astype(int)
    means = [round(float(np.mean(losses[a:b])), 4) for a, b in pairwise(cuts)]
    return {"step": cuts[1:].tolist(), "loss": means}


def machine(device: torch.device) -> dict[str, Any]:
    """What a run ran on."""
    name = f"CPU, {runtime.cores()} cores"
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    return {"device": name, "threads": torch.get_num_threads(), **versions}
