"""MambaVision's published weights, read from a user's copy. Notebook 10.

None is shipped: they are under CC BY-NC-SA, for research, with attribution, shared alike.
"""

import os
import re
from collections.abc import Mapping

import torch
from torch import Tensor

from vlmlab import runtime
from vlmlab.errors import BadCheckpoint, UnknownName
from vlmlab.vision import MambaVision
from vlmlab.vision.mambavision_config import LEVELS, VARIANTS, variant_config
from vlmlab.weights.assembling import Placement, Source, assemble
from vlmlab.weights.streaming import AGAIN, open_checkpoint


def load_mambavision(
    path: str | os.PathLike,
    variant: str | None = None,
    image_size: int | None = None,
    device: str | torch.device = "auto",
) -> MambaVision:
    """A MambaVision with a user's copy of the published weights, in fp32 and in evaluation mode.

    Args:
        path: a `.pth.tar` whose "state_dict" holds the weights, also under "module." (what else it holds is left
            alone), or a safetensors file, also with names under "model."; or a folder with one such file.
        variant: "T" to "L3"; by default found from the shapes.
        image_size: native size in pixels where it is not the variant's, as 512 for L3's second checkpoint; it decides
            how large the windows are, which the weights do not tell.

    Raises:
        BadCheckpoint: a file that is missing, damaged, of no variant, or that lacks or misshapes weights, the first of
            which are named. UnknownName: no such variant.
    """
    if variant is not None and variant not in VARIANTS:
        raise UnknownName("variant of MambaVision", variant, VARIANTS)
    where = runtime.device(device)
    checkpoint = open_checkpoint(path)
    tensors = {_ours(name): stored for name, stored in checkpoint.tensors.items()}
    variant = variant or mambavision_variant(tensors, checkpoint.where)
    classes = tensors["head.weight"].shape[0] if "head.weight" in tensors else 0
    with torch.device("meta"):
        model = MambaVision(variant_config(variant, classes, image_size))
    # Counters of batches, which some files leave out and nothing reads.
    counters = frozenset(name for name in model.state_dict() if name.endswith("num_batches_tracked"))
    assemble(model, [Source(checkpoint, lambda name: [Placement(_ours(name))], counters)], device=where)
    return model.eval()


def _ours(name: str) -> str:
    return name.removeprefix("module.").removeprefix("model.")


def mambavision_variant(tensors: Mapping[str, Tensor], path: str | os.PathLike) -> str:
    """The variant whose widths and depths these weights have. Raises BadCheckpoint, with `path` in its message."""
    widths = []
    for index in (3, 0):
        key = f"patch_embed.conv_down.{index}.weight"
        if key not in tensors or tensors[key].dim() != 4:
            raise BadCheckpoint(f"{path} holds no weights of a MambaVision: {key} is missing or no convolution")
        widths.append(tensors[key].shape[0])
    blocks = {match.groups() for key in tensors if (match := re.match(r"levels\.(\d+)\.blocks\.(\d+)\.", key))}
    depths = tuple(sum(level == str(i) for level, _ in blocks) for i in range(LEVELS))
    for name, config in VARIANTS.items():
        if (config.width, config.stem_width, config.depths) == (*widths, depths):
            return name
    raise BadCheckpoint(
        f"{path} fits no variant of MambaVision: {widths[0]} channels in level 0, {widths[1]} in the stem, depths "
        f"{depths}; {AGAIN}, or build MambaVision with a config of its own and use load_state_dict"
    )
