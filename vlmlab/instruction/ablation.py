"""Notebook 03. The paper's ablation of instruction data, small: each kind alone, all three, and none; equal steps.

Every run begins with llava-tiny after stage 1 and trains projector and language model on records of the template
teacher. The judge is the offline one of LLaVA-Bench: it checks claims about held-out scenes and gives both the answer
and the teacher's own a score. That language model was pretrained on the same forms of questions, as text; so what is
compared is what a kind of data adds, not whether a kind of answer is known at all.
Source: Visual Instruction Tuning (arXiv 2304.08485), section 5.1.

    python -m vlmlab.instruction.ablation --steps 400 --scenes 600 --save

`--save` keeps the table in data/experiments, where notebook 03 reads it.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vlmlab import runtime
from vlmlab.benchmarks import judges, llava_bench
from vlmlab.benchmarks.judges import About
from vlmlab.benchmarks.llava_bench import Example
from vlmlab.benchmarks.statistics import contrast
from vlmlab.errors import BadInput
from vlmlab.files import read_json, write_json
from vlmlab.instruction.context import KINDS, Told, captions
from vlmlab.instruction.making import make
from vlmlab.instruction.replies import DETAILED
from vlmlab.instruction.teachers import teacher
from vlmlab.instruction.template import REASONING, SIMPLE, template
from vlmlab.scenes import sample
from vlmlab.vlm import saving
from vlmlab.vlm.model import VLM
from vlmlab.vlm.own_data import fine_tune
from vlmlab.vlm.recipes.table import FAST
from vlmlab.vlm.trainer import TrainConfig
from vlmlab.weights import load

NAME = "instruction-ablation"
START = "llava-tiny-stage1"
MIXES: dict[str, tuple[str, ...]] = {"none": (), **{kind: (kind,) for kind in KINDS}, "all": KINDS}
LONGEST = 160  # tokens of an answer
FIRST = 900_000  # seed of the judged scenes, of the split `test`


class Plan(NamedTuple):
    """What all runs share. steps: of training; scenes: that the teacher writes about, `judged`: that answers are judged
    on, with a question of each category; batch: records a step."""

    steps: int = 400
    scenes: int = 600
    judged: int = 60
    batch: int = 16
    seed: int = 0

    @property
    def folder(self) -> Path:
        """Where the runs live: those of another plan are never mixed with these."""
        return runtime.work_dir() / NAME / "-".join(map(str, self))

    @property
    def training(self) -> TrainConfig:
        """How each run trains."""
        return TrainConfig(self.steps, lr=8e-4, weight_decay=0.01, seed=self.seed, save_every=50, **FAST)


class Exam(NamedTuple):
    """Questions about held-out scenes, each one's picture and scene, and the teacher's own answers."""

    questions: list[Example]
    about: dict[Any, About]
    references: dict[Any, str]


def run(plan: Plan, say: Callable[[str], object] = print) -> dict[str, Any]:
    """Train and judge what is not finished; the table is returned and written to `plan.folder`/result.json.

    Returns {"plan", "start", "rows": {mix: {"all" or category: {"n", "relative_score", "low", "high"}}}}: the relative
    score in per cent and its 95 % interval over questions, the reference's mean taken as fixed.
    """
    folder, held_out = plan.folder, exam(plan.judged)
    make(teacher("template"), folder / "data", plan.scenes)
    records = read_json(folder / "data" / "instruct.json")
    rows = {}
    for mix, kinds in MIXES.items():
        path = folder / mix / "scores.json"
        if not path.exists():
            write_json(folder / mix / "instruct.json", [r for r in records if r["id"].split("-")[1] in kinds])
            say(f"{mix}: {plan.steps if kinds else 0} steps, then {len(held_out.questions)} questions")
            write_json(path, judged(_trained(plan, mix), held_out, folder / mix))
        rows[mix] = read_json(path)
    result = {"plan": plan._asdict(), "start": START, "rows": rows}
    write_json(folder / "result.json", result)
    return result


def _trained(plan: Plan, mix: str) -> VLM:
    folder = plan.folder / mix
    if not MIXES[mix]:
        return load(START)
    if not (folder / "model.safetensors").exists():
        data = plan.folder / "data"
        fine_tune(
            load(START), folder / "instruct.json", data / "images", folder, plan.training, plan.batch, resume=True
        )
    return saving.load(folder / "model.safetensors")


def exam(scenes: int) -> Exam:
    """A question of each category (conv, detail, complex) about each of `scenes` scenes."""
    found = Exam([], {}, {})
    for seed in range(FIRST, FIRST + scenes):
        scene = sample(seed, split="test")
        described = template("detail", [Told(scene, captions(scene), ())])[0]
        _add(found, "detail", DETAILED[seed % len(DETAILED)], About(scene), described)
        for category, types in (("conv", SIMPLE), ("complex", REASONING)):
            turned = types[seed % len(types) :] + types[: seed % len(types)]
            for question in scene.questions(types=turned, count=1):
                _add(found, category, question.text, About(scene, question), question.sentence)
    return found


def _add(exam: Exam, category: str, text: str, about: About, reference: str) -> None:
    name = f"{about.scene.seed}-{category}"
    exam.questions.append(Example(name, f"{about.scene.seed:06d}.png", text, category))
    exam.about[name], exam.references[name] = about, reference


def judged(vlm: VLM, held_out: Exam, folder: Path) -> dict[str, dict[str, float]]:
    """Have a model answer an exam and the offline judge compare; reviews go to `folder`/reviews.jsonl."""
    pictures: dict[int, np.ndarray] = {}
    scenes = [held_out.about[each.question_id].scene for each in held_out.questions]
    for scene in scenes:
        if id(scene) not in pictures:
            pictures[id(scene)] = scene.render(vlm.config.image_size).rgb
    texts = vlm.answer_many(
        [pictures[id(scene)] for scene in scenes], [each.text for each in held_out.questions], max_new_tokens=LONGEST
    )
    answers = {each.question_id: text for each, text in zip(held_out.questions, texts, strict=True)}
    judge = judges.offline(held_out.about)
    reviews = llava_bench.review(held_out.questions, answers, held_out.references, judge, swap=False)
    llava_bench.save(folder / "reviews.jsonl", [{**each, "answer": answers[each["question_id"]]} for each in reviews])
    groups = {"all": reviews} | {
        category: [each for each in reviews if each["category"] == category] for category in llava_bench.CATEGORIES
    }
    return {name: _row([each["tuple"] for each in group]) for name, group in groups.items() if len(group) > 1}


def _row(pairs: list[tuple[float, float]]) -> dict[str, float]:
    reference, candidate = np.asarray(pairs, float).T
    found = contrast([1.0], [candidate[None]])
    scale = 100 / float(reference.mean())
    return {"n": len(pairs), "relative_score": scale * float(candidate.mean()),
            "low": scale * found["low"], "high": scale * found["high"]}  # fmt: skip


def keep(result: dict[str, Any]) -> str:
    """Write what `run` returns to data/experiments, and return its name there."""
    write_json(_kept(), result)
    return f"data/experiments/{NAME}.json"


def shipped() -> dict[str, Any]:
    """The result in data/experiments, as `run` returns it. Raises BadInput where there is none."""
    if not _kept().exists():
        raise BadInput(
            f"data/experiments holds no {NAME}.json yet; run it: python -m vlmlab.instruction.ablation --save"
        )
    return read_json(_kept())


def _kept() -> Path:
    return runtime.data_dir() / "experiments" / f"{NAME}.json"


def main(steps: int = 400, scenes: int = 600, judged: int = 60, save: bool = False) -> None:
    """Run the ablation; the same command goes on where it was stopped. --save keeps the result in data/experiments."""
    result = run(Plan(steps, scenes, judged))
    for mix, row in result["rows"].items():
        print(mix.ljust(14), *(f"{name} {cell['relative_score']:5.1f}" for name, cell in row.items()), sep="  ")
    if save:
        print(f"wrote {keep(result)}")


if __name__ == "__main__":
    import typer

    typer.run(main)
