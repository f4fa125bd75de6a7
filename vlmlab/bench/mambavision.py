"""MambaVision on a CPU: the whole model with the compiled scan against the scan in plain PyTorch. Notebook 10."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from vlmlab.bench.timing import alternate, ratios
from vlmlab.errors import BadInput
from vlmlab.runtime import cores, set_threads
from vlmlab.scan import selective_scan
from vlmlab.vision import MambaVision
from vlmlab.vision.mambavision_blocks import MambaMixer

BACKENDS = {"vlmlab": "auto", "chunked": "chunked", "reference": "reference"}


def mambavision(variant: str = "T", size: int | None = None, batch: int = 2, rounds: int = 3) -> dict[str, Any]:
    """Pictures a second of the same model with three scans, in inference and in training, float32.

    Beside them the time of the model's scans alone: windows make them short (196 and 49 steps in T at 224 px), so most
    of the model's time goes into convolutions and matrix products, and bounds what a faster scan can give.
    Args: variant of `MambaVision`; size of the pictures in pixels, by default the variant's own; batch; rounds.
    Raises UnknownName for a variant, BadInput for a batch below 1.
    """
    if batch < 1:
        raise BadInput(f"batch={batch} must be at least 1")
    set_threads()
    g = torch.Generator().manual_seed(0)
    model = MambaVision.from_variant(variant, generator=g).eval()
    side = size or model.config.image_size
    pictures = torch.randn(batch, 3, side, side, generator=g)
    for backend in BACKENDS.values():
        _train(model, backend, pictures[:1])  # what is compiled is compiled here
    with torch.inference_mode():
        outputs = {name: _run(model, backend, pictures) for name, backend in BACKENDS.items()}
        wanted = outputs.pop("reference")
        inputs = _scans(model, pictures)
        forward = alternate(
            {name: partial(_run, model, backend, pictures) for name, backend in BACKENDS.items()}, rounds
        )
        scans = alternate({name: partial(_scan_all, inputs, backend) for name, backend in BACKENDS.items()}, rounds)
    both = alternate({name: partial(_train, model, backend, pictures) for name, backend in BACKENDS.items()}, rounds)
    results: dict[str, Any] = {"variant": variant, "size": side, "batch": batch, "cores": cores()}
    results["relative_difference_to_reference"] = {
        name: float((out - wanted).abs().max() / wanted.abs().max()) for name, out in outputs.items()
    }
    for what, seconds in (("forward", forward), ("forward_backward", both)):
        results[f"{what}_images_per_second"] = {name: float(f"{batch / value:.4g}") for name, value in seconds.items()}
        results[f"{what}_times_vlmlab"] = {name: round(value / seconds["vlmlab"], 2) for name, value in seconds.items()}
    results["scans_ms_per_image"] = {name: round(1e3 * value / batch, 3) for name, value in scans.items()}
    results["scans_times_vlmlab"] = ratios(scans)
    return results


def _run(model: MambaVision, backend: str, pictures: Tensor) -> Tensor:
    for module in model.modules():
        if isinstance(module, MambaMixer):
            module.backend = backend
    return model(pictures)


def _train(model: MambaVision, backend: str, pictures: Tensor) -> None:
    """Forward and backward; evaluation mode, so that one picture is enough for the norms."""
    _run(model, backend, pictures).sum().backward()
    model.zero_grad()


def _scans(model: MambaVision, pictures: Tensor) -> list[list[Tensor]]:
    """u, delta, A, B, C, D of every scan of a forward pass."""
    mixers = {
        name.removesuffix(".mixer"): mixer for name, mixer in model.named_modules() if isinstance(mixer, MambaMixer)
    }
    values = model.record(pictures, [f"{name}.{part}" for name in mixers for part in ("u", "delta", "B", "C")])
    found = []
    for name, mixer in mixers.items():
        u, delta, B, C = (values[f"{name}.{part}"].transpose(1, 2) for part in ("u", "delta", "B", "C"))
        found.append([u, delta, -mixer.A_log.exp(), B, C, mixer.D])
    return found


def _scan_all(inputs: list[list[Tensor]], backend: str) -> None:
    for u, delta, A, B, C, D in inputs:
        selective_scan(u, delta, A, B, C, D, backend=backend)
