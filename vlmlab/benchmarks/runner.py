"""Notebook 05. A model on a benchmark's official files: asked in batches, scored officially, with baselines beside.

The folder of a run keeps all of it: run.json (what is asked), answers.jsonl and blind.jsonl (what the model said with
and without the pictures), the same as results files in the official format, and result.json.
"""

import hashlib
import importlib
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from vlmlab import runtime
from vlmlab.benchmarks import asking, judging
from vlmlab.benchmarks.asking import Ask, Form, Said
from vlmlab.benchmarks.collecting import ALONE, Processes, claim, collect
from vlmlab.benchmarks.records import profile_of
from vlmlab.benchmarks.statistics import bootstrap, wilson
from vlmlab.errors import BadInput, UnknownName
from vlmlab.files import sha256, tensors_sha256, write_json
from vlmlab.vlm.checkpointing import locked

if TYPE_CHECKING:
    from vlmlab.benchmarks.export.shipped import Files

OFFICIAL = ("vqav2", "textvqa", "vizwiz", "gqa", "pope", "vsr", "scienceqa", "llava_bench", "whatsup")
BATCH = 32
JUDGE_LATER = (
    "the answers are written but not judged: the offline judge has scenes of the shipped questions alone; give --judge "
    "openai, with reference answers and context.jsonl beside the questions, or have the answers judged elsewhere and "
    "run vlmlab score llava_bench"
)


def evaluate(
    vlm: Any,
    benchmark: str,
    files: "Files",
    folder: Path | None = None,
    *,
    profile: str = "official",
    method: str | None = None,
    limit: int | None = None,
    judge: str = "offline",
    batch_size: int = BATCH,
    among: Processes = ALONE,
    progress: Callable[[int, int], object] | None = None,
) -> dict[str, Any] | None:
    """Ask a model a benchmark's questions, with the pictures and blind, and score the answers.

    Args:
        vlm: a VLM, or anything with its `answer_many`, `score_options` and `config.name`.
        benchmark: one of OFFICIAL, perhaps with the name of a split behind it ("pope-random").
        files: annotations, questions or None, and the folder of pictures.
        folder: of the run; None for one in work_dir()/evaluations that belongs to these settings. A run that was
            killed goes on there; one with other settings is refused.
        profile: of the scorer. method: one of the benchmark's FORM.methods, its first by default.
        limit: only the first so many questions. judge: LLaVA-Bench's, see `judging.reviewer`.
        among: the processes that share the questions. progress: called with (answers so far, all), blind ones included.
    Returns:
        None but in the main process; there {"benchmark", "model", "weights", "annotations" (both SHA-256), "method",
        "profile", "n", "accuracy", "low", "high" (the 95 % interval), "chance", "constant", "constant_answer", "blind",
        "score" (all that the scorer returns), "predictions" (what `vlmlab score` gives the same figures for)}.
        LLaVA-Bench has no chance and no constant answer; without a judge n, "note" and the file of answers are all.
    Raises BadInput for files that cannot be used, a missing picture and a folder that holds another run; UnknownName.
    """
    module = official(benchmark)
    form: Form = module.FORM
    profile_of(profile, module.PROFILES)
    method = method or form.methods[0]
    if method not in form.methods:
        raise UnknownName(f"method for {benchmark}", method, form.methods)
    examples = module.read(files.annotations, files.questions)
    examples = examples if limit is None else examples[:limit]
    asks = list(module.asks(examples))
    settings = {
        "benchmark": benchmark, "model": vlm.config.name, "weights": weights(vlm), "method": method, "limit": limit,
        "annotations": sha256(files.annotations), "questions": files.questions and sha256(files.questions),
        "pictures": _pictures(asks, form, files), "asked": _digest(asks), "batch_size": batch_size,
        "max_new_tokens": form.max_new_tokens,
    }  # fmt: skip
    folder = folder or _default(settings)
    judged = judging.reviewer(files.annotations, judge, folder) if hasattr(module, "review") else None
    with ExitStack() as stack:
        if among.main:
            stack.enter_context(_alone(folder))
            claim(folder, settings)
        told = (lambda done: progress(done, 2 * len(asks))) if progress else None
        ask = _answerer(vlm, method, form.max_new_tokens, files.images)
        said = collect(folder / "answers.jsonl", asks, ask, batch_size, among, told)
        told = (lambda done: progress(len(asks) + done, 2 * len(asks))) if progress else None
        ask = _answerer(vlm, method, form.max_new_tokens, None)
        blind = collect(folder / "blind.jsonl", asks, ask, batch_size, among, told)
        if not among.main:
            return None
        result = {name: settings[name] for name in ("benchmark", "model", "weights", "annotations", "method")}
        result |= {"profile": profile, **_scored(module, examples, said, blind, folder, profile, judged)}
        write_json(folder / "result.json", result)
    return result


def official(benchmark: str) -> Any:
    """The module of an official benchmark, or of a split of it. Raises UnknownName."""
    name = benchmark.partition("-")[0]
    if name not in OFFICIAL:
        raise UnknownName("benchmark", benchmark, OFFICIAL)
    return importlib.import_module(f"vlmlab.benchmarks.{name}")


def weights(vlm: Any) -> str:
    """SHA-256 over a model's tensors with their names; of what is no PyTorch module, over its name alone."""
    return tensors_sha256(vlm.state_dict().items() if isinstance(vlm, torch.nn.Module) else (), vlm.config.name)


def _default(settings: dict[str, Any]) -> Path:
    """Where a run lies when nobody says where: each run's settings have a folder of their own."""
    limit = f"first-{settings['limit']}" if settings["limit"] else "all"
    run = "-".join([settings["benchmark"], settings["method"], limit, _digest(settings.items())[:8]])
    return runtime.work_dir() / "evaluations" / settings["model"] / run


def _scored(
    module: Any,
    examples: Sequence[Any],
    said: dict[Any, Said],
    blind: dict[Any, Said],
    folder: Path,
    profile: str,
    judged: judging.Reviewer | None,
) -> dict[str, Any]:
    """The figures of answers with and without pictures, from the results files that are written on the way."""
    files = []
    for texts, prefix in ((said, ""), (blind, "blind-")):
        files.append(folder / f"{prefix}{module.FORM.file}")
        asking.write(files[-1], module.results(examples, texts))
        if judged:
            reviews = judged(examples, files[-1])
            files[-1] = folder / f"{prefix}reviews.jsonl"
            module.save(files[-1], reviews)
    found: dict[str, Any] = {"predictions": str(files[0])}
    if hasattr(module, "review") and not judged:
        return {"n": len(said), "accuracy": None, "note": JUDGE_LATER, **found}
    score = module.score(examples, files[0], profile)
    n, accuracy = score["n"], score["accuracy"]
    if hasattr(module, "marks"):
        low, high = bootstrap(module.marks(examples, files[0], profile))
    else:
        low, high = wilson(accuracy * n, n)
    found = {"n": n, "accuracy": accuracy, "low": low, "high": high, "chance": None, "constant": None} | found
    found["blind"] = module.score(examples, files[1], profile)["accuracy"]
    if hasattr(module, "chance"):
        of = {
            name: module.score(examples, each, profile)["accuracy"] for name, each in module.constants(examples).items()
        }
        best = max(of, key=lambda name: of[name])
        found |= {"chance": module.chance(examples), "constant": of[best], "constant_answer": best}
    return found | {"score": score}


def _answerer(vlm: Any, method: str, tokens: int, images: Path | None) -> Callable[[Sequence[Ask]], list[Said]]:
    """A function from a batch of questions to its answers; images: the folder, or None to ask without pictures."""

    def picture(ask: Ask) -> str | None:
        return None if images is None or ask.image is None else str(images / ask.image)

    def choose(ask: Ask) -> Said:
        found = vlm.score_options(picture(ask), ask.prompt, ask.options)
        return Said(max(ask.options, key=lambda option: found[option]), tuple(found[each] for each in ask.options))

    def answer(batch: Sequence[Ask]) -> list[Said]:
        if method == "likelihood":
            return list(map(choose, batch))
        pictures, prompts = [picture(ask) for ask in batch], [ask.prompt for ask in batch]
        return list(map(Said, vlm.answer_many(pictures, prompts, max_new_tokens=tokens, batch_size=len(batch))))

    return answer


def _pictures(asks: Sequence[Ask], form: Form, files: "Files") -> str:
    """A digest of the pictures' names and sizes; BadInput for the first one that is not there."""
    sizes: dict[str, int] = {}
    for ask in asks:
        if ask.image is None or ask.image in sizes:
            continue
        path = files.images / ask.image
        if not path.is_file():
            raise BadInput(
                f"{files.annotations}, {form.key} {ask.key!r}: the field {form.image!r} names a picture that is not "
                f"there, {path}; give the folder of its pictures (--images)"
            )
        sizes[ask.image] = path.stat().st_size
    return _digest(sizes.items())


def _digest(values: Any) -> str:
    digest = hashlib.sha256()
    for value in values:
        digest.update(repr(tuple(value)).encode())
    return digest.hexdigest()


def _alone(folder: Path) -> ExitStack:
    """Hold the folder for this process, until the stack is left."""
    stack = ExitStack()
    try:
        stack.enter_context(locked(folder))
    except BadInput:
        raise BadInput(f"another process evaluates in {folder}; wait for it, or use another folder (--out)") from None
    return stack
