"""The selective scan: every backend equals the recurrence, forward and backward, for any shape. Notebook 07."""

import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmlab.errors import BadInput, MissingDependency, UnknownName
from vlmlab.scan import backends, kernels, selective_scan

HOST = [name for name in backends() if name not in ("mamba_ssm", "triton")]  # those that take tensors of the CPU
FAST = [name for name in HOST if name != "reference"]
RTOL = {torch.float32: 1e-5, torch.float64: 1e-12}


def inputs(b=2, d=5, length=13, n=3, groups=None, dtype=torch.float64, constant="", seed=0):
    """A scan's arguments, leaves that want gradients. constant: which of B, C are (d, n). groups: of both, or each."""
    g = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    def shape(name):
        many = groups[name] if isinstance(groups, dict) else groups
        return (d, n) if name in constant else (b, n, length) if many is None else (b, many, n, length)

    found = {
        "u": draw(b, d, length), "delta": draw(b, d, length), "A": -draw(d, n).exp(), "B": draw(*shape("B")),
        "C": draw(*shape("C")), "D": draw(d), "z": draw(b, d, length), "delta_bias": draw(d),
        "initial_state": draw(b, d, n),
    }  # fmt: skip
    return {name: value.to(dtype).requires_grad_() for name, value in found.items()}


def results(arguments, backend, seed=1):
    """y, the last state, and the gradients of a random weighting of both."""
    y, last = selective_scan(**arguments, delta_softplus=True, return_last_state=True, backend=backend)
    g = torch.Generator().manual_seed(seed)
    weights = [torch.randn(x.shape, generator=g, dtype=torch.float64).to(x.dtype) for x in (y, last)]
    loss = (y * weights[0]).sum() + (last * weights[1]).sum()
    grads = torch.autograd.grad(loss, list(arguments.values()), allow_unused=not y.numel())
    return {"y": y, "last": last} | {k: g for k, g in zip(arguments, grads, strict=True) if g is not None}


def assert_same(found, wanted, rtol):
    for name, value in wanted.items():
        assert found[name].shape == value.shape, name
        assert found[name].dtype == value.dtype, name
        if value.numel():
            error = (found[name] - value).abs().max().item()
            assert error <= rtol * max(value.abs().max().item(), 1e-30), (name, error)


def by_hand(a):
    """The recurrence in NumPy, written apart from the package."""
    a = {name: value.detach().numpy() for name, value in a.items()}
    delta = np.log1p(np.exp(a["delta"] + a["delta_bias"][:, None]))
    h, y = a["initial_state"].copy(), np.zeros_like(a["u"])
    for t in range(a["u"].shape[-1]):
        for d in range(h.shape[1]):
            drive = delta[:, d, t] * a["u"][:, d, t]
            h[:, d] = np.exp(delta[:, d, t, None] * a["A"][d]) * h[:, d] + drive[:, None] * a["B"][..., t]
            y[:, d, t] = (h[:, d] * a["C"][..., t]).sum(-1) + a["D"][d] * a["u"][:, d, t]
    return y * a["z"] / (1 + np.exp(-a["z"])), h


def test_the_reference_is_the_recurrence():
    a = inputs()
    y, last = selective_scan(**a, delta_softplus=True, return_last_state=True, backend="reference")
    wanted = by_hand(a)
    assert np.allclose(y.detach(), wanted[0], rtol=1e-13, atol=1e-13)
    assert np.allclose(last.detach(), wanted[1], rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"length": 1},
        {"length": 16},
        {"length": 17},
        {"length": 50, "d": 3, "n": 16},
        {"d": 130, "length": 33},
        {"groups": 5},
        {"d": 6, "groups": 2, "length": 40},
        {"d": 140, "groups": 2, "length": 20, "n": 2},
        {"constant": "BC"},
        {"constant": "B"},
        {"constant": "C", "d": 70, "length": 20},
        {"constant": "B", "d": 4, "groups": 2},
        {"constant": "BC", "length": 1},
        {"d": 12, "groups": {"B": 2, "C": 3}},
        {"d": 3, "groups": {"B": 1, "C": 3}, "length": 1},
        {"b": 0},
        {"length": 0},
        {"n": 1, "d": 1, "b": 1},
    ],
    ids=str,
)
def test_every_backend_is_the_reference_forward_and_backward(shape, backend, dtype):
    wanted = results(inputs(**shape), "reference")
    found = results(inputs(**shape, dtype=dtype), backend)
    assert_same({k: v.double() for k, v in found.items()}, wanted, RTOL[dtype])
    assert all(value.dtype == dtype for value in found.values())


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 3), st.integers(1, 70), st.integers(1, 70), st.integers(1, 18), st.integers(0, 99))
def test_random_shapes(b, d, length, n, seed):
    shape = {"b": b, "d": d, "length": length, "n": n, "seed": seed}
    wanted = results(inputs(**shape), "reference")
    for backend in FAST:
        assert_same(results(inputs(**shape), backend), wanted, 1e-11)


@pytest.mark.parametrize("backend", FAST)
def test_gradients_agree_with_finite_differences(backend):
    a = inputs(b=1, d=2, length=18, n=2)
    names = list(a)

    def run(*values):
        return selective_scan(
            **dict(zip(names, values, strict=True)), delta_softplus=True, return_last_state=True, backend=backend
        )

    assert torch.autograd.gradcheck(run, tuple(a.values()))


@pytest.mark.parametrize("backend", HOST)
def test_a_scan_in_two_halves_is_the_whole(backend):
    a = inputs(length=21)
    y, last = selective_scan(**a, return_last_state=True, backend=backend)
    first = {k: v[..., :8] if k in ("u", "delta", "B", "C", "z") else v for k, v in a.items()}
    then = {k: v[..., 8:] if k in ("u", "delta", "B", "C", "z") else v for k, v in a.items()}
    y1, state = selective_scan(**first, return_last_state=True, backend=backend)
    y2, end = selective_scan(**{**then, "initial_state": state}, return_last_state=True, backend=backend)
    assert torch.allclose(torch.cat([y1, y2], -1), y, rtol=1e-11)
    assert torch.allclose(end, last, rtol=1e-11)


@pytest.mark.parametrize("backend", FAST)
def test_inputs_of_any_layout(backend):
    a = {name: value.detach() for name, value in inputs(d=70, length=19).items()}
    strange = {
        name: value.transpose(-1, -2).contiguous().transpose(-1, -2) if value.dim() > 1 else value
        for name, value in a.items()
    }
    strange["u"] = torch.stack([a["u"], a["u"]], -1)[..., 0]
    assert not strange["u"].is_contiguous()
    y = selective_scan(**a, backend="reference")
    assert torch.allclose(selective_scan(**strange, backend=backend), y, rtol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("backend", HOST)
def test_half_precision_inputs_are_computed_in_float32(backend, dtype):
    half = {name: value.detach().to(dtype) for name, value in inputs().items()}
    how = {"delta_softplus": True, "return_last_state": True}
    exact, _ = selective_scan(**{name: value.float() for name, value in half.items()}, **how, backend="reference")
    y, last = selective_scan(**half, **how, backend=backend)
    assert y.dtype == dtype
    assert last.dtype == torch.float32
    assert torch.allclose(y.float(), exact, rtol=torch.finfo(dtype).eps, atol=1e-5)


def test_only_some_arguments_want_gradients():
    a = {name: value.detach() for name, value in inputs().items()}
    a["B"].requires_grad_()
    (found,) = torch.autograd.grad(selective_scan(**a, backend="cpu").sum(), [a["B"]])
    (wanted,) = torch.autograd.grad(selective_scan(**a, backend="reference").sum(), [a["B"]])
    assert torch.allclose(found, wanted, rtol=1e-11)


def test_an_input_changed_in_place_before_backward_is_noticed():
    a = inputs()
    u = a["u"] * 1
    y = selective_scan(**{**a, "u": u}, backend="cpu")
    u.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@pytest.mark.parametrize("backend", FAST)
def test_nan_and_overflow_are_not_hidden(backend):
    a = {name: value.detach().float() for name, value in inputs().items()}
    a["A"][2, 1] = math.nan
    y = selective_scan(**a, backend=backend)
    assert torch.isnan(y[:, 2]).all()
    assert not torch.isnan(y[:, [0, 1, 3, 4]]).any()


def test_exp_is_accurate_over_its_range():
    x = np.linspace(-87, 88, 200_001, dtype=np.float32)
    from numba import njit

    @njit
    def every(x):
        out = np.empty_like(x)
        for i in range(len(x)):
            out[i] = kernels.exp(x[i])
        return out

    exact = np.exp(x.astype(np.float64))
    assert np.abs(every(x) / exact - 1).max() < 2e-7
    assert every(np.array([-200.0, 0.0], np.float32)).tolist() == [pytest.approx(0, abs=1e-37), 1.0]
    assert np.isnan(every(np.array([np.nan], np.float32)))[0]


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("u", (2, 5)),
        ("delta", (2, 5, 12)),
        ("A", (4, 3)),
        ("B", (2, 4, 13)),
        ("C", (2, 3, 3, 13)),
        ("D", (4,)),
        ("z", (1, 5, 13)),
        ("delta_bias", (1, 5)),
        ("initial_state", (2, 5, 4)),
    ],
)
def test_a_wrong_shape_is_named(name, shape):
    with pytest.raises(BadInput, match=rf"^{name} is \({', '.join(map(str, shape))}"):
        selective_scan(**{**inputs(), name: torch.zeros(shape)})


def test_wrong_dtypes_backends_and_devices_are_named():
    a = inputs()
    with pytest.raises(BadInput, match=r"^A has dtype torch.complex64"):
        selective_scan(**{**a, "A": a["A"].detach().to(torch.complex64)})
    with pytest.raises(UnknownName, match="did you mean 'chunked'"):
        selective_scan(**a, backend="chunk")
    with pytest.raises(BadInput, match=r"^B is on meta"):
        selective_scan(**{**a, "B": a["B"].detach().to("meta")})
    if "mamba_ssm" not in backends():
        small = {name: a[name] for name in ("u", "delta", "A", "B", "C")}
        with pytest.raises(MissingDependency, match="mamba_ssm"):
            selective_scan(**small, backend="mamba_ssm")


def test_auto_on_a_cpu_is_the_compiled_scan():
    a = {name: value.detach() for name, value in inputs().items()}
    assert torch.equal(selective_scan(**a), selective_scan(**a, backend="cpu"))
    assert set(backends()) >= {"reference", "chunked", "cpu"}


def in_a_fresh_process(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, check=True
    )
    return done.stdout


def test_the_compiled_scan_leaves_pytorchs_threads_alone():
    code = "import torch; {}; before = torch.get_num_threads(); import vlmlab.scan.cpu as c; c.compile_ahead(); "
    code += "print(before, torch.get_num_threads())"
    assert in_a_fresh_process(code.format("pass"), OMP_NUM_THREADS="1").split() == ["1", "1"]
    assert in_a_fresh_process(code.format("torch.set_num_threads(1)")).split() == ["1", "1"]


def test_what_is_compiled_ahead_is_what_is_used():
    code = """if True:
        import torch
        from vlmlab.scan import cpu, kernels, selective_scan
        cpu.compile_ahead()
        before = len(kernels.forward.signatures), len(kernels.backward.signatures)
        for dtype in (torch.float32, torch.float64):
            u, A, B = (torch.rand(shape, dtype=dtype) for shape in ((2, 5, 9), (5, 3), (2, 3, 9)))
            selective_scan(u.requires_grad_(), u, A, B, B).sum().backward()
        print(*before, len(kernels.forward.signatures), len(kernels.backward.signatures))
    """
    assert in_a_fresh_process(code).split() == ["2"] * 4
