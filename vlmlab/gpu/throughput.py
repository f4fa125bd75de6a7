"""Pictures a second of MambaVision's variants, as its paper counts them: batch 128. Notebook 16."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from vlmlab import runtime
from vlmlab.errors import BadInput
from vlmlab.gpu.measuring import drawn_in, figure, free, milliseconds, peak, ready
from vlmlab.vision import MambaVision

PAPER = {"T": 6298, "T2": 5990, "S": 4700, "B": 3670, "L": 2190, "L2": 1021}
"""Pictures a second on an A100, batch 128, 224 px (MambaVision, arXiv 2407.08083, table 1)."""


def throughput(
    variants: Sequence[str] = tuple(PAPER),
    device: str = "cuda",
    batch: int = 128,
    size: int | None = None,
    rounds: int = 5,
    dtype: str = "bfloat16",
) -> dict[str, Any]:
    """Pictures a second of each variant, logits included, with random weights.

    Args: batch; size of the pictures in pixels, by default each variant's own; rounds of timing; dtype of the weights.
    Returns {"batch", "dtype", "models": variant -> size, parameters, images_per_second, paper_images_per_second (None
    where the paper has none for that batch and size), peak_bytes}.
    Raises BadInput without that device or for a batch below 1; UnknownName for a variant.
    """
    on = runtime.device(device)
    if batch < 1 or rounds < 1:
        raise BadInput(f"batch={batch} and rounds={rounds} must be at least 1")
    models = {}
    for variant in variants:
        with drawn_in(dtype, on):
            model = ready(MambaVision.from_variant(variant))
        side = size or model.config.image_size
        pictures = torch.randn(batch, 3, side, side, generator=runtime.generator(0)).to(on)
        with torch.inference_mode(), peak(on) as most:
            ms = milliseconds({"it": partial(model, pictures)}, on, rounds)["it"]
        asked = (batch, side) == (128, 224)
        models[variant] = {
            "size": side,
            "parameters": sum(p.numel() for p in model.parameters()),
            "images_per_second": figure(1e3 * batch / ms),
            "paper_images_per_second": PAPER.get(variant) if asked else None,
            "peak_bytes": most[0] if most else None,
        }
        del model, pictures
        free(on)
    return {"batch": batch, "dtype": dtype, "models": models}
