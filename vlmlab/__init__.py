"""vlmlab: LLaVA, Cobra and Cobra with a MambaVision encoder, built step by step. Every notebook starts here.

`vlmlab.load("llava-tiny")` gives a model that answers about pictures. Subpackages are imported on first use, so that
`import vlmlab` costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import os

    from vlmlab.vlm import VLM

__version__ = "0.1.0"
__all__ = ["__version__", "load"]

_ROOMS = (
    "errors", "files", "runtime", "scenes", "vision", "scan", "language", "vlm", "benchmarks", "instruction", "explain",
    "figures", "widgets", "weights", "checks", "report", "notebooks", "bench", "doctor", "gpu",
)  # fmt: skip


def load(name_or_path: "str | os.PathLike[str]", device: str = "auto") -> "VLM":
    """Load a vision-language model by preset name ("llava-tiny") or from a checkpoint's path.

    Arguments: `name_or_path`, a shipped preset or a folder or file with weights; `device`, "auto", "cpu", "cuda" or
    "mps". Returns a `VLM` in evaluation mode. Raises UnknownName for a name that does not exist and BadCheckpoint for
    weights that are damaged or not what the manifest says.
    """
    from vlmlab.weights import load as load_weights

    return load_weights(name_or_path, device)


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        try:
            return importlib.import_module(f"vlmlab.{name}")
        except ModuleNotFoundError as error:
            if error.name != f"vlmlab.{name}":
                raise
    raise AttributeError(f"module 'vlmlab' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *_ROOMS])
