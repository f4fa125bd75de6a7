"""Decoding a token through the compiled passes: equal to PyTorch's operations. Notebook 09."""

import pytest
import torch
import torch.nn.functional as F

from vlmlab.language import Llama, LlamaConfig, Mamba, MambaConfig
from vlmlab.language.linear import Linear, compiled, linear
from vlmlab.scan import token

DTYPES = [(torch.float32, 1e-5), (torch.float64, 1e-12)]


def numbers(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def close(found: torch.Tensor, wanted: torch.Tensor, tolerance: float) -> None:
    assert found.dtype == wanted.dtype
    assert found.shape == wanted.shape
    assert (found - wanted).abs().max() <= tolerance * wanted.abs().max()


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
@pytest.mark.parametrize("rows", [1, 3])
def test_the_step_is_the_recurrence_written_out(dtype, tolerance, rows):
    D, N = 70, 16
    u, delta, z = numbers(rows, 3 * D, dtype=dtype).chunk(3, -1)  # views, as a projection's output is split
    bias, skip, state = (
        numbers(D, dtype=dtype, seed=1),
        numbers(D, dtype=dtype, seed=2),
        numbers(rows, D, N, dtype=dtype),
    )
    delta = delta * 15  # both sides of the softplus' threshold
    A_log, (B, C) = numbers(D, N, dtype=dtype, seed=3), numbers(rows, 2 * N, dtype=dtype, seed=4).chunk(2, -1)
    given = [x.clone() for x in (u, state)]
    y, new = token.step(u, delta, bias, A_log, B, C, skip, z, state)
    step = F.softplus(delta + bias)
    wanted = torch.exp(-step[..., None] * A_log.exp()) * state + (step * u)[..., None] * B[:, None]
    close(new, wanted, tolerance)
    close(y, (torch.einsum("bdn,bn->bd", wanted, C) + skip * u) * F.silu(z), tolerance)
    assert torch.equal(u, given[0])
    assert torch.equal(state, given[1])  # a cache that others hold stays as it was


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
def test_the_convolution_moves_its_window_on(dtype, tolerance):
    past, u, weight, bias = (numbers(*s, dtype=dtype) for s in ((2, 4, 9), (2, 9), (9, 4), (9,)))
    out, window = token.convolve(u, past, weight, bias)
    assert torch.equal(window, torch.cat([past[:, 1:], u[:, None]], 1))
    close(out, F.silu((window * weight.T).sum(1) + bias), tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
@pytest.mark.parametrize("bias", [False, True])
def test_one_row_times_a_matrix(dtype, tolerance, bias):
    layer = Linear(37, 50, bias=bias).to(dtype)
    x = numbers(1, 1, 37, dtype=dtype)
    with torch.no_grad():
        assert compiled(x, layer.weight)
        close(layer(x), F.linear(x, layer.weight, layer.bias), tolerance)
        close(layer(x[0, 0]), F.linear(x[0, 0], layer.weight, layer.bias), tolerance)
        close(linear(x.expand(2, -1, -1), layer.weight), F.linear(x.expand(2, -1, -1), layer.weight), tolerance)
    assert layer(x).requires_grad  # outside no_grad it is PyTorch's


def test_under_autocast_a_row_is_in_the_precision_asked_for():
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert Linear(37, 50)(torch.ones(1, 37)).dtype == torch.bfloat16


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
@pytest.mark.parametrize("rows", [1, 2])
def test_a_mamba_decodes_as_it_reads(dtype, tolerance, rows, monkeypatch):
    mamba = Mamba(MambaConfig(vocab_size=50, dim=16, layers=2, state=4), torch.Generator().manual_seed(0)).to(dtype)
    ids = torch.randint(0, 50, (rows, 9), generator=torch.Generator().manual_seed(1))
    calls, step = [], token.step
    monkeypatch.setattr(token, "step", lambda *given: calls.append(1) or step(*given))
    with torch.no_grad():
        cache = mamba.new_cache()
        found = torch.cat(
            [mamba(ids[:, :4], cache=cache), *(mamba(ids[:, t, None], cache=cache) for t in range(4, 9))], 1
        )
        close(found, mamba(ids), 10 * tolerance)
        assert len(calls) == 5 * 2  # tokens x layers, so it is the compiled step that was compared
        mamba(ids[:, :1], cache=cache, tap=lambda name, x: x)
        assert len(calls) == 5 * 2  # a tap needs what the compiled step does not show


def test_a_llama_decodes_as_it_reads(monkeypatch):
    llama = Llama(LlamaConfig(vocab_size=50, dim=32, layers=2, heads=4, kv_heads=2, hidden=48, max_positions=32))
    ids = torch.randint(0, 50, (1, 9), generator=torch.Generator().manual_seed(1))
    calls, product = [], token.product
    monkeypatch.setattr(token, "product", lambda *given: calls.append(1) or product(*given))
    with torch.no_grad():
        cache = llama.new_cache()
        found = torch.cat(
            [llama(ids[:, :4], cache=cache), *(llama(ids[:, t, None], cache=cache) for t in range(4, 9))], 1
        )
        close(found, llama(ids), 1e-5)
    assert len(calls) == 5 * (2 * 7 + 1)
