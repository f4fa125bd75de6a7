"""How many pictures a second the renderer draws. Notebook 00."""

import time
from functools import partial
from typing import Any

from vlmlab.errors import BadInput
from vlmlab.runtime import cores


def _render_span(bounds: tuple[int, int], size: int, samples: int) -> tuple[float, float]:
    """When rendering the scenes of seeds bounds[0] .. bounds[1] - 1 began and ended; sampling them comes before."""
    from vlmlab.scenes import sample

    scenes = [sample(seed) for seed in range(*bounds)]
    start = time.monotonic()
    for scene in scenes:
        scene.render(size, samples)
    return start, time.monotonic()


def _warm(number: int) -> int:
    """Import what rendering needs and make every mesh, so that the clock sees rendering alone."""
    from vlmlab.scenes import KINDS
    from vlmlab.scenes.meshes import mesh

    for kind in KINDS:
        mesh(kind)
    _render_span((number, number + 1), 32, 1)
    return number


def render(n: int = 192, size: int = 96, samples: int = 2, processes: int = 2) -> dict[str, Any]:
    """Pictures a second, with samples x samples anti-aliasing and shadows, in one process and in several.

    Args: n, scenes to render; size, pixels a side; samples, rays a side of a pixel; processes, how many beside one.
    Raises BadInput for numbers below 1.
    """
    if min(n, processes) < 1:
        raise BadInput(f"n and processes must be at least 1, got n={n}, processes={processes}")
    from multiprocessing import get_context

    _warm(0)
    start, stop = _render_span((0, n), size, samples)
    shares = [(n * i // processes, n * (i + 1) // processes) for i in range(processes)]
    with get_context("spawn").Pool(processes) as pool:
        pool.map(_warm, range(4 * processes), chunksize=1)
        spans = pool.map(partial(_render_span, size=size, samples=samples), shares, chunksize=1)
    together = max(end for _, end in spans) - min(begin for begin, _ in spans)
    return {
        "n": n,
        "size": size,
        "samples": samples,
        "cores": cores(),
        "one_process_per_second": round(n / (stop - start), 1),
        "processes": processes,
        "processes_per_second": round(n / together, 1),
    }
