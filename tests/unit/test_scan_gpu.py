"""The scan's Triton kernels equal the recurrence, forward and backward; so do those that decode a token. Notebook 16.

On a GPU they run as they are. Elsewhere this file runs itself again in Triton's interpreter, in a process of its own
(the variable has to be set before Triton is imported), and the compiler turns every kernel into code for an A100.
"""

import inspect
import math
import os
import subprocess
import sys
from importlib.util import find_spec
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_scan import assert_same
from test_scan import inputs as leaves
from torch.utils._python_dispatch import TorchDispatchMode

from vlmlab.errors import BadInput, MissingDependency
from vlmlab.language import Mamba, MambaConfig, generate
from vlmlab.language.graphs import Decoder, _mixed
from vlmlab.scan import backends, chunked, interface, selective_scan, upstream

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
triton_there = pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")
runs = pytest.mark.skipif(
    "triton" not in backends(), reason="needs a GPU, or runs in test_all_of_this_in_tritons_interpreter"
)
RTOL = {torch.float32: 1e-5, torch.float64: 1e-12}


@triton_there
@pytest.mark.skipif("triton" in backends(), reason="the kernels run in this process")
def test_all_of_this_in_tritons_interpreter():
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__],
        env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert " passed" in done.stdout


@pytest.fixture
def small(monkeypatch):
    """Chunks of 4 moments and blocks of 4 channels: many of both in small tensors."""
    from vlmlab.scan import gpu

    monkeypatch.setattr(gpu, "STEPS", 4)
    monkeypatch.setattr(gpu, "LANES", 4)


def inputs(device=DEVICE, **shape):
    return {name: value.detach().to(device).requires_grad_() for name, value in leaves(**shape).items()}


def results(arguments, backend):
    """y, the last state, and the gradients of a weighting of both, on the CPU."""
    y, last = selective_scan(**arguments, delta_softplus=True, return_last_state=True, backend=backend)
    g = torch.Generator().manual_seed(1)
    weights = [torch.randn(x.shape, generator=g, dtype=torch.float64).to(x) for x in (y, last)]
    loss = (y * weights[0]).sum() + (last * weights[1]).sum()
    grads = torch.autograd.grad(loss, list(arguments.values()))
    found = {"y": y, "last": last} | dict(zip(arguments, grads, strict=True))
    return {name: x.detach().cpu() for name, x in found.items()}


def check(dtype, rtol=None, **shape):
    wanted = results(inputs("cpu", **shape), "reference")
    found = results(inputs(**shape, dtype=dtype), "triton")
    assert all(value.dtype == dtype for value in found.values())
    assert_same({name: value.double() for name, value in found.items()}, wanted, rtol or RTOL[dtype])


@runs
@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    "shape",
    [
        {"b": 2, "d": 3, "length": 9},
        {"b": 1, "d": 2, "length": 8},
        {"length": 1},
        {"b": 1, "d": 6, "length": 5},
        {"b": 1, "d": 6, "length": 5, "n": 2, "groups": 3},
        {"b": 1, "d": 6, "length": 5, "n": 2, "groups": {"B": 2, "C": 3}},
        {"d": 5, "length": 6, "constant": "BC"},
        {"b": 1, "d": 4, "length": 5, "groups": 2, "constant": "B"},
        {"b": 1, "d": 4, "length": 5, "groups": 4, "constant": "C"},
        {"b": 1, "d": 1, "length": 3, "n": 1},
    ],
    ids=str,
)
def test_triton_is_the_reference_forward_and_backward(shape):
    check(torch.float32, **shape)


@runs
def test_with_the_chunks_and_blocks_that_ship():
    check(torch.float32, b=1, d=2, length=17, n=2)


@runs
@pytest.mark.usefixtures("small")
@settings(max_examples=4, deadline=None)
@given(st.integers(1, 2), st.integers(1, 5), st.integers(1, 9), st.integers(1, 3), st.integers(0, 99))
def test_random_shapes_in_float64(b, d, length, n, seed):
    check(torch.float64, 1e-11, b=b, d=d, length=length, n=n, seed=seed)


@runs
@pytest.mark.usefixtures("small")
def test_a_scan_in_two_halves_is_the_whole():
    a = {name: value.detach() for name, value in inputs(b=1, length=7).items()}
    y, last = selective_scan(**a, return_last_state=True, backend="triton")
    timed = ("u", "delta", "B", "C", "z")
    first, then = ({k: v[..., part] if k in timed else v for k, v in a.items()} for part in (slice(3), slice(3, None)))
    y1, state = selective_scan(**first, return_last_state=True, backend="triton")
    y2, end = selective_scan(**{**then, "initial_state": state}, return_last_state=True, backend="triton")
    assert torch.allclose(torch.cat([y1, y2], -1), y, rtol=1e-11)
    assert torch.allclose(end, last, rtol=1e-11)


@runs
@pytest.mark.usefixtures("small")
def test_nan_stays_in_its_channel_and_bfloat16_is_computed_in_float32():
    a = {name: value.detach().bfloat16() for name, value in inputs(length=6).items()}
    exact = selective_scan(**{name: value.float() for name, value in a.items()}, backend="reference")
    y, last = selective_scan(**a, return_last_state=True, backend="triton")
    assert (y.dtype, last.dtype) == (torch.bfloat16, torch.float32)
    assert torch.allclose(y.float(), exact, rtol=torch.finfo(torch.bfloat16).eps, atol=1e-5)
    a["A"][2, 1] = math.nan
    spoilt = torch.isnan(selective_scan(**a, backend="triton"))
    assert spoilt[:, 2].all()
    assert spoilt.sum() == spoilt[:, 2].numel()


@runs
@pytest.mark.usefixtures("small")
def test_one_gradient_alone_and_an_input_changed_before_backward():
    a = {name: value.detach() for name, value in inputs(length=6).items()}
    a["B"].requires_grad_()
    found, wanted = (
        torch.autograd.grad(selective_scan(**a, backend=name).sum(), [a["B"]])[0] for name in ("triton", "reference")
    )
    assert torch.allclose(found, wanted, rtol=1e-11)
    u = a["u"].requires_grad_() * 1
    y = selective_scan(**{**a, "u": u}, backend="triton")
    u.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


class Largest(TorchDispatchMode):
    """Notes how many numbers the largest tensor has that any operation gives (the interpreter copies bytes)."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        every = out if isinstance(out, (tuple, list)) else [out]
        self.numel = max([self.numel, *(x.numel() for x in every if x is not None and x.is_floating_point())])
        return out


@runs
@pytest.mark.usefixtures("small")
def test_nothing_as_large_as_all_states_is_ever_made():
    b, d, length, n = 1, 2, 16, 8
    a = {name: inputs(b=b, d=d, length=length, n=n)[name] for name in ("u", "delta", "A", "B", "C")}
    with Largest() as largest:
        torch.autograd.grad(selective_scan(**a, backend="triton").sum(), list(a.values()))
    assert largest.numel == b * length * n  # B and C themselves
    assert largest.numel < b * d * length * n


# ------------------------------------------------------------------ who is chosen
@triton_there
@pytest.mark.parametrize(
    ("there", "fits", "chosen"),
    [
        (("chunked", "cpu", "triton", "mamba_ssm"), True, "mamba_ssm"),
        (("chunked", "cpu", "triton", "mamba_ssm"), False, "triton"),
        (("chunked", "cpu", "mamba_ssm"), False, "chunked"),
        (("chunked", "cpu"), True, "chunked"),
    ],
)
def test_auto_on_a_gpu(monkeypatch, there, fits, chosen):
    from vlmlab.scan import gpu

    monkeypatch.setattr(interface, "backends", lambda: there)
    u = SimpleNamespace(device=torch.device("cuda"))
    wanted = {"mamba_ssm": upstream.scan, "triton": gpu.scan}
    found = interface._choose("auto", u, fits)
    assert found is wanted[chosen] if chosen in wanted else found.__qualname__.startswith("_each_channel")


def test_mamba_ssm_gets_only_what_it_can_do(monkeypatch):
    asked = []
    monkeypatch.setattr(interface, "_choose", lambda name, u, upstream: asked.append(upstream) or _plain)
    a = {name: x.detach() for name, x in leaves(dtype=torch.float32).items()}
    state = a.pop("initial_state")
    selective_scan(**a)
    selective_scan(**a, return_last_state=True)
    with torch.no_grad():
        selective_scan(**a, return_last_state=True)
    selective_scan(**a, initial_state=state)
    selective_scan(**{**a, "A": a["A"].double()})
    assert asked == [True, False, True, False, False]
    monkeypatch.undo()
    with pytest.raises(MissingDependency if "mamba_ssm" not in backends() else BadInput):
        selective_scan(**a, initial_state=state, backend="mamba_ssm")
    monkeypatch.setattr(interface, "find_spec", lambda name: True)
    with pytest.raises(BadInput, match="takes no initial state"):
        selective_scan(**a, initial_state=state, backend="mamba_ssm")


def _plain(u, delta, A, B, C, state):
    return chunked.scan(u, delta, A, *(x.expand(-1, u.shape[1], -1, -1) for x in (B, C)), state)


@pytest.mark.skipif(INTERPRETED, reason="the interpreter takes tensors on a CPU")
def test_a_backend_that_is_not_there_says_what_to_do(monkeypatch):
    a = {name: leaves()[name] for name in ("u", "delta", "A", "B", "C")}
    if find_spec("triton"):
        with pytest.raises(BadInput, match="tensors on a GPU, u is on the CPU"):
            selective_scan(**a, backend="triton")
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "vlmlab.scan.gpu", raising=False)
    monkeypatch.delattr("vlmlab.scan.gpu", raising=False)
    with pytest.raises(MissingDependency, match="pip install triton"):
        selective_scan(**a, backend="triton")


# ------------------------------------------------------------------ one token
@pytest.fixture(scope="module")
def mamba():
    model = Mamba(MambaConfig(vocab_size=40, dim=12, layers=2, state=3, dt_rank=5), torch.Generator().manual_seed(0))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(len(name))) * 0.3)
    return model.to(DEVICE).eval()


@runs
@torch.inference_mode()
def test_the_fused_mixer_is_the_mixer(mamba):
    mixer, cache = mamba.layers[1].mixer, mamba.new_cache()
    g = torch.Generator().manual_seed(0)
    mamba.hidden(torch.randint(0, 40, (2, 6), generator=g).to(DEVICE), cache=cache)
    window, state = cache.inputs[1].contiguous().clone(), cache.states[1].clone()
    for _ in range(3):
        x = torch.randn(2, 12, generator=g).to(DEVICE)
        wanted = mixer(x[:, None], cache=cache, layer=1)[:, 0]
        found = {"out": _mixed(mixer, x, window, state), "window": window, "state": state}
        assert_same(found, {"out": wanted, "window": cache.inputs[1], "state": cache.states[1]}, 1e-5)


@runs
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_fused_norm_adds_in_place_and_is_rmsnorm(dtype):
    from vlmlab.scan.gpu_token import normalise

    g = torch.Generator().manual_seed(0)
    x, added, weight = (torch.randn(*shape, generator=g).to(DEVICE) for shape in ((3, 10), (3, 10), (10,)))
    added, weight, whole = added.to(dtype), weight.to(dtype), x + added.to(dtype).float()
    for more, wanted in ((added, whole), (None, whole)):  # the second time there is nothing to add
        found = normalise(x, more, weight, 1e-5)
        assert torch.equal(x, wanted)
        exact = torch.nn.functional.rms_norm(wanted.to(dtype).double(), (10,), weight.double(), 1e-5)
        assert found.dtype == dtype
        # the interpreter cuts bfloat16 off where a GPU rounds: up to 2 ** -7, twice
        assert torch.allclose(found.double(), exact, rtol={torch.float32: 1e-6, torch.bfloat16: 2**-6}[dtype])


@runs
@torch.inference_mode()
def test_small_and_large_steps_are_exact():
    from vlmlab.scan.gpu_token import step

    bias = torch.tensor([-60.0, -20.0, -8.0, 0.0, 8.0, 30.0, 90.0], device=DEVICE)
    one = torch.ones(1, 7, device=DEVICE)
    state = torch.zeros(1, 7, 1, device=DEVICE)  # with u = B = 1 it becomes delta
    step(one.repeat(1, 2), one, torch.tensor([[0.0, 1, 1]], device=DEVICE), one.T.contiguous(), bias,
         torch.zeros(7, 1, device=DEVICE), one[0], state)  # fmt: skip
    exact = torch.log1p(bias.double().exp())
    assert ((state[0, :, 0].double() - exact) / exact).abs().max() < 1e-6


@runs
def test_greedy_tokens_through_the_fused_step(mamba):
    ids = torch.tensor([[3, 7, 9], [1, 2, 30]], device=DEVICE)
    decoder = Decoder(mamba, batch=2)
    assert decoder._past.fused
    wanted = generate(mamba, input_ids=ids, max_new_tokens=4)
    assert len(set(wanted.flatten().tolist())) > 2
    for _ in range(2):  # the second prompt finds the buffers used
        assert torch.equal(generate(mamba, input_ids=ids, max_new_tokens=4, decoder=decoder), wanted)


# ------------------------------------------------------------------ the compiler
INTEGERS = ("L", "D", "N", "M", "GB", "GC", "width", "blocks", "taps", "R")
TILE = {"STEPS": 4, "LANES": 4, "STATES": 2}
BOTH = {"B_TIMED": True, "C_TIMED": True}


def compiled(kernel, constants, pointers):
    """A kernel's machine code for an A100; pointers: name -> dtype where it is not the one under ""."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = list(inspect.signature(kernel.fn).parameters)
    scalars = dict.fromkeys(INTEGERS, "i32") | {"eps": "fp32"} | dict.fromkeys(constants, "constexpr")
    signature = {name: scalars.get(name, "*" + pointers.get(name, pointers[""])) for name in names}
    places = {(names.index(name),): value for name, value in constants.items()}
    source = ASTSource(fn=kernel, signature=signature, constexprs=places)
    return triton.compile(source, target=GPUTarget("cuda", 80, 32)).asm


@triton_there
@pytest.mark.skipif(INTERPRETED, reason="the interpreter does not compile")
@pytest.mark.parametrize(
    ("kernel", "constants"),
    [
        ("gpu.walk", {**TILE, **BOTH, "OUT": True}),
        ("gpu.walk", {**TILE, "B_TIMED": False, "C_TIMED": True, "OUT": False}),
        ("gpu.walk", {**dict.fromkeys(INTEGERS[:8], 1), **TILE, **BOTH, "OUT": True}),
        ("gpu.carry", {"LANES": 4, "STATES": 2, "BACK": True}),
        ("gpu.carry", {"LANES": 4, "STATES": 2, "BACK": False}),
        ("gpu.walk_back", {**TILE, **BOTH}),
        ("gpu.gradients", {**TILE, **BOTH}),
        ("gpu.gradients", {**TILE, "B_TIMED": False, "C_TIMED": False}),
        ("gpu_token._normalise", {"ADD": True, "ALL": 64}),
        ("gpu_token._convolve", {"LANES": 4}),
        ("gpu_token._step", {"LANES": 4, "STATES": 2, "RANK": 4}),
    ],
    ids=str,
)
def test_every_kernel_compiles_without_a_gpu(kernel, constants, monkeypatch, tmp_path):
    import importlib

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    room, _, name = kernel.partition(".")
    pointers = {"": "fp32"}
    if room == "gpu_token":
        pointers = {"": "bf16", "x": "fp32", "A_log": "fp32", "direct": "fp32", "state": "fp32"}
    made = compiled(getattr(importlib.import_module(f"vlmlab.scan.{room}"), name), constants, pointers)
    assert made["cubin"]
    loop = made["ttgir"].partition("scf.for")[2]
    if name == "walk" and constants["OUT"] and "L" not in constants:
        # states stay in the threads that hold them: no tile (STATES, LANES) changes its layout on the way
        assert "tensor<2x4xf32" in loop
        assert not [line for line in loop.splitlines() if "convert_layout" in line and "2x4xf32" in line]
