"""The selective scan's entry point: arguments checked, brought to one form, given to a backend. Notebook 07."""

import os
from collections.abc import Callable
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor

from vlmlab.errors import BadInput, MissingDependency, UnknownName
from vlmlab.scan import chunked, reference

BACKENDS = ("reference", "chunked", "cpu", "triton", "mamba_ssm")


def backends() -> tuple[str, ...]:
    """The backends that run on this machine: always "reference" and "chunked", "cpu" with numba, "triton" and
    "mamba_ssm" with that package and a CUDA GPU ("triton" also where TRITON_INTERPRET=1 runs it on a CPU, slowly)."""
    cuda = torch.cuda.is_available()
    there = {"cpu": bool(find_spec("numba")), "mamba_ssm": bool(find_spec("mamba_ssm")) and cuda}
    there["triton"] = bool(find_spec("triton")) and (cuda or os.environ.get("TRITON_INTERPRET") == "1")
    return tuple(name for name in BACKENDS if there.get(name, True))


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    initial_state: Tensor | None = None,
    return_last_state: bool = False,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """Mamba's state-space layer: y_t = C_t h_t + D u_t with h_t = exp(delta_t A) h_{t-1} + delta_t B_t u_t.

    Shapes as in mamba_ssm's selective_scan_fn, batch b, channels d, length l, state size n, groups g:

    Args:
        u, delta: (b, d, l). With delta_softplus, softplus(delta + delta_bias) is used, else delta + delta_bias.
        A: (d, n), negative where states should fade.
        B, C: (b, n, l), or (b, g, n, l) where d / g channels share one, or (d, n), the same at all times.
        D: (d,), a direct path. z: (b, d, l), a gate: y is multiplied by silu(z). delta_bias: (d,).
        initial_state: (b, d, n), zeros when None.
        return_last_state: return (y, state) with the state (b, d, n) after the last step, in float32 or float64.
        backend: one of `backends()`; "auto" takes the first of mamba_ssm, triton and chunked on a GPU, of cpu and
            chunked elsewhere, that is there and fits.

    Returns y (b, d, l) in u's dtype; it is computed in float32, or in float64 where an argument has it. Gradients flow
    to every argument from both results. Not with "mamba_ssm", which works in float32, takes no initial state and gives
    the last one only where gradients are off.

    Raises BadInput that names the argument whose shape or dtype does not fit, UnknownName for a backend and
    MissingDependency for one that is not installed. Source: Gu and Dao 2023, arXiv 2312.00752, section 3 and
    algorithm 2.
    """
    _check(u, delta, A, B, C, D, z, delta_bias, initial_state)
    given = (u, delta, A, B, C, D, z, delta_bias, initial_state)
    dtype = torch.float64 if any(x is not None and x.dtype == torch.float64 for x in given) else torch.float32
    states = initial_state is not None or (return_last_state and torch.is_grad_enabled())
    run = _choose(backend, u, upstream=dtype == torch.float32 and not states)
    x, step, A = u.to(dtype), delta.to(dtype), A.to(dtype)
    if delta_bias is not None:
        step = step + delta_bias.to(dtype)[:, None]
    if delta_softplus:
        step = F.softplus(step)
    inputs, outputs = _grouped(B.to(dtype), u), _grouped(C.to(dtype), u)
    state = x.new_zeros(u.shape[0], *A.shape) if initial_state is None else initial_state.to(dtype)
    y, last = run(x, step, A, inputs, outputs, state) if u.numel() else (torch.zeros_like(x), state)
    if D is not None:
        y = y + D.to(dtype)[:, None] * x
    if z is not None:
        y = y * F.silu(z.to(dtype))
    return (y.to(u.dtype), last) if return_last_state else y.to(u.dtype)


def _check(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, *rest: Tensor | None) -> None:
    if u.dim() != 3:
        raise BadInput(f"u is {tuple(u.shape)}; expected (batch, channels, length)")
    if A.dim() != 2 or A.shape[0] != u.shape[1]:
        raise BadInput(f"A is {tuple(A.shape)}; expected ({u.shape[1]}, state size), one row a channel of u")
    (b, d, length), n = u.shape, A.shape[1]
    D, z, bias, state = rest
    wanted: tuple[tuple[str, Tensor | None, tuple[int, ...]], ...] = (
        ("delta", delta, (b, d, length)), ("D", D, (d,)), ("z", z, (b, d, length)),
        ("delta_bias", bias, (d,)), ("initial_state", state, (b, d, n)),
    )  # fmt: skip
    for name, value, shape in wanted:
        if value is not None and tuple(value.shape) != shape:
            raise BadInput(f"{name} is {tuple(value.shape)}; expected {shape}")
    for name, value in (("B", B), ("C", C)):
        given = tuple(value.shape)
        groups = given[1] if len(given) == 4 else 1
        fits = given in ((d, n), (b, n, length), (b, groups, n, length)) and groups > 0 and d % groups == 0
        if not fits:
            raise BadInput(
                f"{name} is {given}; expected {(b, n, length)}, ({b}, groups, {n}, {length}) with groups that divide "
                f"{d}, or {(d, n)}"
            )
    named = {"u": u, "A": A, "B": B, "C": C} | {name: value for name, value, _ in wanted}
    for name, value in named.items():
        if value is not None and not value.is_floating_point():
            raise BadInput(f"{name} has dtype {value.dtype}; expected a real floating-point dtype")
        if value is not None and value.device != u.device:
            raise BadInput(f"{name} is on {value.device} and u on {u.device}; bring them to one device")


def _grouped(x: Tensor, u: Tensor) -> Tensor:
    """B or C as (b, g, n, l), or (b, d, n, 1) where it is the same at all times."""
    if x.dim() == 2:
        return x[None, :, :, None].expand(u.shape[0], -1, -1, 1)
    return x[:, None] if x.dim() == 3 else x


def _choose(name: str, u: Tensor, upstream: bool) -> Callable[..., tuple[Tensor, Tensor]]:
    """The backend of that name. upstream: whether mamba_ssm can do what is asked."""
    if name not in (*BACKENDS, "auto"):
        raise UnknownName("backend", name, ("auto", *BACKENDS))
    if name == "auto":
        there = [each for each in backends() if upstream or each != "mamba_ssm"]
        wanted = {"cpu": ("cpu",), "cuda": ("mamba_ssm", "triton")}.get(u.device.type, ())
        name = next((each for each in wanted if each in there), "chunked")
    if name == "cpu":
        if u.device.type != "cpu":
            raise BadInput(f"backend 'cpu' takes tensors on the CPU, u is on {u.device}; use backend='auto'")
        try:
            from vlmlab.scan import cpu
        except ImportError:
            raise MissingDependency("numba", "the scan's backend 'cpu'") from None
        return cpu.scan
    if name == "triton":
        try:
            from vlmlab.scan import gpu
        except ImportError:
            raise MissingDependency("triton", "the scan's backend 'triton'") from None
        return gpu.scan
    if name == "mamba_ssm":
        from vlmlab.scan import upstream as theirs

        if not upstream and find_spec("mamba_ssm"):
            raise BadInput(
                "backend 'mamba_ssm' takes no initial state and no float64, and its last state has no gradient; "
                "use backend='auto'"
            )
        return theirs.scan
    return _each_channel(reference.scan if name == "reference" else chunked.scan)


def _each_channel(scan: Callable[..., tuple[Tensor, Tensor]]) -> Callable[..., tuple[Tensor, Tensor]]:
    """Let a scan that takes B and C for every channel (or for all together) take groups."""

    def spread(x: Tensor, u: Tensor) -> Tensor:
        groups = x.shape[1]
        x = x if groups in (1, u.shape[1]) else x.repeat_interleave(u.shape[1] // groups, 1)
        return x.expand(-1, -1, -1, u.shape[-1])

    return lambda u, delta, A, B, C, state: scan(u, delta, A, spread(B, u), spread(C, u), state)
