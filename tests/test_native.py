"""The solver in C against torch.linalg.solve.

    python -m pytest tests/test_native.py
"""

import math
from functools import partial

import pytest
import torch

import ProxLSTM
from ProxLSTM import Cholesky, ConjugateGradients, describe_solver, load_native, make_solver
from tests.helpers import needs_native_solver


def systems(H, D, B, epsilon):
    """A solver, alpha and b for it, and the matrices of its systems in float64."""
    generator = torch.Generator().manual_seed(H + 1000 * B)
    weight = torch.randn(4 * H, D, generator=generator) / math.sqrt(D)
    alpha, b = (torch.randn(B, n * H, generator=generator) for n in (3, 1))
    alpha = alpha.view(B, 3, H) / 2
    G = (alpha.double()[..., None] * weight[:3 * H].double().view(3, H, D)).sum(1)
    M = torch.eye(H, dtype=torch.float64) + epsilon * G @ G.mT
    return Cholesky(weight, torch.tensor(epsilon)), alpha, b, G, M


def solve(solver, alpha, b, D):
    B, H = b.shape
    out = [torch.full((B, n), math.nan) for n in (H, D, 3 * H)]
    solver.solve(alpha, b, out)
    return out


@needs_native_solver
@pytest.mark.parametrize('H, B', [
    *((H, 17) for H in (1, 2, 3, 4, 5, 15, 16, 17, 64, 126, 127)),
    *((50, B) for B in (1, 2, 15, 16, 17, 27, 33, 128))])
def test_it_solves_for_every_size(H, B):
    D = 1 + H // 2
    solver, alpha, b, G, M = systems(H, D, B, 1.0)
    x, Gx, WGx = solve(solver, alpha, b, D)
    exact = torch.linalg.solve(M, b.double())
    assert ((x - exact).norm(dim=1) < 1e-5 * exact.norm(dim=1)).all()
    torch.testing.assert_close(Gx.double(), (G.mT @ exact[..., None])[..., 0], rtol=1e-3, atol=1e-4)
    W = solver.W.double()
    torch.testing.assert_close(WGx.double(), Gx.double() @ W.T, rtol=1e-3, atol=1e-4)
    trace = (M.diagonal(dim1=1, dim2=2) - 1).sum(1).max().item()
    assert solver.bound == pytest.approx(1 + trace, rel=1e-4)


@needs_native_solver
@pytest.mark.parametrize('epsilon', [0.0, 1e-6, 1e-2, 1e2, 1e4, 1e6])
@pytest.mark.parametrize('H, D', [(50, 64), (50, 200), (20, 3), (127, 64)])
def test_its_error_is_that_of_float32_for_every_epsilon(H, D, epsilon):
    """Relative to the condition number that it reports."""
    solver, alpha, b, _, M = systems(H, D, 27, epsilon)
    x = solve(solver, alpha, b, D)[0].double()
    exact = torch.linalg.solve(M, b.double())
    assert ((x - exact).norm(dim=1) < 1e-7 * (10 + solver.bound) * exact.norm(dim=1)).all()
    if epsilon == 0:
        assert torch.equal(x, b.double()) and solver.bound == 1


@needs_native_solver
@pytest.mark.parametrize('value', [math.nan, math.inf])
@pytest.mark.parametrize('H', [1, 20])
def test_a_sample_that_is_not_finite_stays_alone(value, H):
    solver, alpha, b, _, M = systems(H, 8, 40, 1.0)
    expected = solve(solver, alpha, b, 8)[0]
    alpha[7, 1, 0], b[39, H - 1] = math.nan, value
    actual = solve(solver, alpha, b, 8)[0]
    others = [k for k in range(40) if k not in (7, 39)]
    assert torch.equal(actual[others], expected[others])
    assert not actual[7].isfinite().all() and not actual[39].isfinite().all()


@needs_native_solver
def test_arguments_may_have_any_strides():
    solver, alpha, b, _, _ = systems(20, 8, 5, 1.0)
    expected = solve(solver, alpha, b, 8)
    strided = alpha.permute(2, 0, 1).contiguous().permute(1, 2, 0), b.T.contiguous().T
    assert all(map(torch.equal, solve(solver, *strided, 8), expected))


@needs_native_solver
@pytest.mark.parametrize('make', [Cholesky, partial(ConjugateGradients, batch=5)])
def test_the_bound_is_the_largest_of_all_solves_and_of_all_finite_samples(make):
    _, alpha, b, _, _ = systems(20, 8, 5, 1.0)
    solver = make(torch.ones(80, 8), torch.tensor(1.0))
    solve(solver, alpha, b, 8)
    largest = solver.bound
    alpha[2, 1, 3] = math.nan
    solve(solver, alpha / 10, b, 8)
    assert solver.bound == largest > 1
    solve(solver, 10 * alpha, b, 8)
    assert solver.bound > 10 * largest


@needs_native_solver
def test_it_serves_float32_on_the_cpu_below_128_units_only():
    epsilon = torch.tensor(1.0)

    def kind(*shape, dtype=torch.float32):
        return type(make_solver(torch.zeros(shape, dtype=dtype), epsilon, 2))

    assert kind(4 * 127, 3) is Cholesky
    assert kind(4 * 128, 3) is kind(4 * 5, 3, dtype=torch.float64) is ConjugateGradients


@pytest.mark.parametrize('reason', ['switched off', 'no compiler', 'an error of the compiler'])
def test_without_it_the_other_solver_serves_silently(monkeypatch, recwarn, capfd, reason, tmp_path):
    if reason == 'switched off':
        monkeypatch.setenv('PROXLSTM_NATIVE', '0')
    else:
        monkeypatch.setenv('PATH', str(tmp_path))
    if reason == 'an error of the compiler':
        (tmp_path / 'cc').write_text('#!/bin/sh\necho "error: ‘wrong’" >&2\nexit 1\n')
        (tmp_path / 'cc').chmod(0o755)
    monkeypatch.setattr(ProxLSTM, 'load_native', load_native.__wrapped__)  # not the cached one
    assert describe_solver() == 'PyTorch'
    solver = make_solver(torch.zeros(20, 3), torch.tensor(1.0), 2)
    assert type(solver) is ConjugateGradients
    assert not recwarn.list and capfd.readouterr() == ('', '')


@needs_native_solver
def test_the_width_of_its_vectors_is_described():
    assert describe_solver() == f'native, {load_native().lanes()} lanes'
    assert load_native().lanes() in (4, 8, 16)
