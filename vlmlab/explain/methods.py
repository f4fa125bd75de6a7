"""Every map of a question by name, and how faithful each is on scenes whose truth is known. Notebook 14.

    METHODS["occlusion"](inside)             # (rows, columns), float64
    compare(vlm, one_object(60))             # deletion, insertion, pointing and mass of all that apply, with controls

A method is a function of an `Inside`; one of your own joins by one line: METHODS["mine"] = Entry(function, "about").
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from vlmlab.benchmarks.held_out import Asked, is_right
from vlmlab.benchmarks.runner import weights
from vlmlab.benchmarks.statistics import bootstrap, contrast, proportion
from vlmlab.errors import BadInput, UnknownName
from vlmlab.explain import faithfulness
from vlmlab.explain.faithfulness import STEPS, checked
from vlmlab.explain.inside import Inside, Method
from vlmlab.language import Llama
from vlmlab.scenes import sample

if TYPE_CHECKING:
    from vlmlab.vlm.model import VLM

FAMILIES = ("llama", "mamba")
CONTROLS = ("random", "centre")
MEASURES = ("deletion", "insertion", "pointing", "mass")


@dataclass(frozen=True)
class Entry:
    """A method: called with a question it gives its map (rows, columns), float64 on the CPU.

    about: one line. families: language models that it applies to. Raises BadInput for a map that is none.
    """

    method: Method
    about: str
    families: tuple[str, ...] = FAMILIES

    def __call__(self, inside: Inside) -> Tensor:
        return checked(inside, self.method(inside))


def _of(module: str, name: str) -> Method:
    """A function of vlmlab.explain, imported when it is called."""
    return lambda inside: getattr(import_module(f"vlmlab.explain.{module}"), name)(inside)


METHODS: dict[str, Entry] = {
    "attention": Entry(_of("attention", "attention_map"), "attention of the answer, mean of all heads", ("llama",)),
    "rollout": Entry(_of("attention", "rollout_map"), "attention multiplied through the layers", ("llama",)),
    "chefer": Entry(
        _of("attention", "chefer_map"), "attention weighed by its gradient, through the layers", ("llama",)
    ),
    "hidden_attention": Entry(
        _of("hidden_attention", "hidden_attention_map"), "the scan written as attention", ("mamba",)
    ),
    "delta": Entry(_of("states", "delta_map"), "step size at each patch, whatever is asked", ("mamba",)),
    "ledger": Entry(_of("states", "ledger_map"), "share of each patch in the state that answers", ("mamba",)),
    "mamba_lrp": Entry(_of("lrp", "mamba_lrp_map"), "relevance passed back without loss", ("mamba",)),
    "gradient_x_input": Entry(_of("lrp", "gradient_x_input_map"), "gradient x image token"),
    "integrated_gradients": Entry(
        _of("attribution", "integrated_gradients_map"), "gradients on the way from the mean colour"
    ),
    "occlusion": Entry(_of("attribution", "occlusion_map"), "what the answer loses without a patch"),
    "token_ablation": Entry(_of("attribution", "token_ablation"), "what the answer loses without an image token"),
    "random": Entry(faithfulness.random_map, "control: noise"),
    "centre": Entry(faithfulness.centre_map, "control: a Gaussian at the centre"),
}


def methods_for(vlm: "VLM") -> list[str]:
    """The names of METHODS that apply to a model."""
    family = "llama" if isinstance(vlm.language, Llama) else "mamba"
    return [name for name, entry in METHODS.items() if family in entry.families]


def chosen(vlm: "VLM", names: Sequence[str]) -> list[str]:
    """`names`, if all apply to the model. Raises UnknownName."""
    known = methods_for(vlm)
    for name in names:
        if name not in known:
            raise UnknownName(f"method for {vlm.config.name}", name, known)
    return list(names)


def one_object(n: int, seed: int = 0, split: str = "test") -> list[Asked]:
    """`n` questions about a property of one object, each about a held-out scene of its own ("What color is the cat?").

    The object is `question.objects[0]`. The same arguments give the same questions. Raises BadInput, UnknownName.
    """
    if n < 1 or seed < 0:
        raise BadInput(f"n={n}, seed={seed}: n must be at least 1, seed at least 0")
    found: list[Asked] = []
    for number in range(100 * n):
        if len(found) == n:
            break
        scene = sample(1_000_000 * seed + number, split=split)
        found += [Asked(scene, question) for question in scene.questions(types=["attribute"], count=1)]
    return found


def compare(
    vlm: "VLM",
    asked: Sequence[Asked],
    methods: Sequence[str] | None = None,
    fill: str = "mean",
    steps: int = STEPS,
    progress: Callable[[int, int], object] | None = None,
) -> dict[str, Any]:
    """How faithful maps of the model's own answers are, and how often they point to the object that was asked about.

    Args:
        asked: questions about one object, two or more, each about a picture of its own. methods: some of
            `methods_for(vlm)`, all when None; the controls always join. fill, steps: see `faithfulness.deletion`.
        progress: called with (maps so far, all).
    Returns:
        {"model", "n", "fill", "steps", "accuracy" (of the answers, with its interval), "chance" (of pointing and mass),
        "rows": [{"method", and for each of MEASURES {"mean", "low", "high", "over_random"}}], "each": the measures by
        question}. low, high: 95 % interval by bootstrap over pictures. over_random: {"difference", "low", "high"} from
        the random map, question by question; None for the random map itself.
    Raises UnknownName for a method that does not apply, BadInput for questions that are not about one object.
    """
    names = chosen(vlm, methods_for(vlm) if methods is None else methods)
    names = [*(name for name in names if name not in CONTROLS), *CONTROLS]
    if len(asked) < 2 or any(len(item.question.objects) != 1 for item in asked):
        raise BadInput("a comparison needs two questions or more, each about one object; see one_object")
    each = []
    for number, item in enumerate(asked):
        each.append(_measured(vlm, item, names, fill, steps))
        if progress:
            progress((number + 1) * len(names), len(asked) * len(names))
    return {
        "model": vlm.config.name, "n": len(asked), "fill": fill, "steps": steps,
        "accuracy": proportion([one["right"] for one in each]),
        "chance": {name: float(np.mean([one["chance"][name] for one in each])) for name in ("pointing", "mass")},
        "rows": [_row(each, name) for name in names],
        "each": each,
    }  # fmt: skip


def _measured(vlm: "VLM", item: Asked, names: Sequence[str], fill: str, steps: int) -> dict[str, Any]:
    """One question: what was said, and every measure of every map."""
    scene, question = item
    render = scene.render(vlm.config.image_size)
    inside = Inside.ask(vlm, render.rgb, question.text)
    share = faithfulness.object_share(inside, render.mask, question.objects[0])
    maps = {}
    for name in names:
        heat = METHODS[name](inside)
        maps[name] = {
            "deletion": faithfulness.deletion(inside, heat, fill, steps).area,
            "insertion": faithfulness.insertion(inside, heat, fill, steps).area,
            "pointing": faithfulness.pointing(heat, share),
            "mass": faithfulness.mass(heat, share),
        }
    chance = {"pointing": float(faithfulness.on_object(share).double().mean()), "mass": float(share.mean())}
    return {
        "split": scene.split, "seed": scene.seed, "question": question.text, "answer": question.answer,
        "said": inside.answer, "right": is_right(inside.answer, question.answer, "sentence"), "chance": chance,
        "maps": maps,
    }  # fmt: skip


def _row(each: Sequence[dict[str, Any]], name: str) -> dict[str, Any]:
    """A method's measures over all questions."""
    row: dict[str, Any] = {"method": name}
    for measure in MEASURES:
        values, noise = (np.array([one["maps"][of][measure] for one in each]) for of in (name, "random"))
        low, high = bootstrap(((one["split"], one["seed"]), value, 1) for one, value in zip(each, values, strict=True))
        away = contrast([1.0, -1.0], [values[None], noise[None]])
        over = {key: away[key] for key in ("difference", "low", "high")} if name != "random" else None
        row[measure] = {"mean": float(values.mean()), "low": low, "high": high, "over_random": over}
    return row


def table(found: dict[str, Any]) -> Any:
    """A comparison as a rich table; a star: the difference from the random map has an interval without 0."""
    from rich.table import Table

    right, chance = found["accuracy"], found["chance"]
    title = f"{found['model']}: maps of its answers to {found['n']} questions ({100 * right['accuracy']:.0f} % right)"
    note = "mean and 95 % interval; lower deletion, higher insertion are better; * not the random map's"
    note += f". Chance: pointing {chance['pointing']:.2f}, mass {chance['mass']:.2f}"
    out = Table(title=title, caption=note, title_justify="left", caption_justify="left")
    out.add_column("method", no_wrap=True, min_width=max(len(row["method"]) for row in found["rows"]))
    for measure in MEASURES:
        out.add_column(measure)
    for row in found["rows"]:
        texts = []
        for cell in (row[measure] for measure in MEASURES):
            over = cell["over_random"]
            away = over is not None and over["low"] * over["high"] > 0
            texts.append(f"{cell['mean']:.2f}{'*' if away else ''} ({cell['low']:.2f} - {cell['high']:.2f})")
        out.add_row(row["method"], *texts)
    return out


def save(found: dict[str, Any], vlm: "VLM", command: str) -> str:
    """Write a comparison of all methods to data/explain, its questions left out, and return its name there.

    Raises BadInput where methods miss.
    """
    from vlmlab.files import write_json

    if missing := set(methods_for(vlm)) - {row["method"] for row in found["rows"]}:
        raise BadInput(f"not compared: {', '.join(sorted(missing))}; only a complete comparison is kept")
    rest = {name: value for name, value in found.items() if name != "each"}
    write_json(_path(vlm), {"command": command, **rest, "weights": weights(vlm)})
    return f"data/explain/{_path(vlm).name}"


def kept(vlm: "VLM") -> dict[str, Any] | None:
    """What was saved of a model with exactly these weights; None where there is nothing."""
    from vlmlab.files import read_json

    found = read_json(_path(vlm)) if _path(vlm).exists() else None
    return found if found and found["weights"] == weights(vlm) else None


def _path(vlm: "VLM") -> Any:
    from vlmlab import runtime

    return runtime.data_dir() / "explain" / f"faithfulness-{vlm.config.name}.json"
