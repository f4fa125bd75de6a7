"""A tiny model trained in the full profile on a GPU: its recipe as it stands, on rendered scenes. Notebook 16."""

import shutil
import time
from typing import Any

from vlmlab import runtime
from vlmlab.errors import UnknownName
from vlmlab.files import atomic_path


def train(recipe: str = "llava-tiny", device: str = "cuda", dials: dict[str, Any] | None = None) -> dict[str, Any]:
    """Train a recipe from the shipped weights of those it needs; what does not ship is trained first.

    The run is in `runtime.work_dir()`, where the scenes are rendered once; that takes trimesh and embreex.
    Args: recipe of `vlmlab.vlm.recipes`; dials, fields of `Recipe` or of its `TrainConfig` to set otherwise.
    Returns {"recipe", "dials", "from_shipped" and "trained_before", names of what it needed, "steps", "seconds" of
    training, "steps_per_second", "seconds_before" (rendering, features, what was trained before), "losses" (one a
    step), "evaluation" (the last one's figures)}.
    Raises BadInput without that device or where the run's folder is taken; UnknownName.
    """
    from vlmlab.vlm import recipes

    runtime.device(device)
    if recipe not in recipes.RECIPES:
        raise UnknownName("recipe", recipe, recipes.RECIPES)
    wanted = recipes.RECIPES[recipe]
    missing = [name for name in (*wanted.needs, wanted.backbone) if name and not recipes.finished(name).exists()]
    shipped = [name for name in missing if _put(name)]
    began = time.perf_counter()
    result: Any = recipes.run(recipe, **dials or {})
    whole = time.perf_counter() - began
    known = [line for line in result.metrics if any(key.startswith("eval/") for key in line)]
    return {
        "recipe": recipe,
        "dials": dials or {},
        "from_shipped": shipped,
        "trained_before": [name for name in missing if name not in shipped],
        "steps": result.steps,
        "seconds": round(result.seconds, 2),
        "steps_per_second": round(result.steps / result.seconds, 3),
        "seconds_before": round(whole - result.seconds, 2),
        "losses": [round(loss, 5) for loss in result.losses],
        "evaluation": {key.removeprefix("eval/"): known[-1][key] for key in known[-1] if key.startswith("eval/")}
        if known
        else {},
    }


def _put(name: str) -> bool:
    """Lay a shipped part where its recipe would have left it; False where it does not ship."""
    from vlmlab.vlm.recipes import finished
    from vlmlab.weights import manifest, verify

    target = finished(name)
    file = f"checkpoints/{name}{target.suffix}"
    if file not in manifest()["files"]:
        return False
    with atomic_path(target) as temporary:
        shutil.copyfile(verify(file), temporary)
    return True
