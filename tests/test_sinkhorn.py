import math
import os
import subprocess
import sys

import pytest
import torch

from vpr.matchers import sinkhorn
from vpr.matchers.sinkhorn import log_assignment, sweep_in_torch

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def log_domain(similarity, bin_score, iterations):
    """Sinkhorn as the paper writes it, for one pair (M, N), in float64."""
    m, n = similarity.shape
    scores = torch.full((m + 1, n + 1), float(bin_score), dtype=torch.float64)
    scores[:m, :n] = similarity
    norm = -math.log(m + n)
    row_mass, column_mass = torch.full((m + 1,), norm).double(), torch.full((n + 1,), norm).double()
    row_mass[-1] += math.log(n)
    column_mass[-1] += math.log(m)
    u, v = torch.zeros(m + 1).double(), torch.zeros(n + 1).double()
    for _ in range(iterations):
        u = row_mass - torch.logsumexp(scores + v, dim=1)
        v = column_mass - torch.logsumexp(scores + u[:, None], dim=0)
    return scores + u[:, None] + v - norm


@pytest.mark.parametrize("iterations", [1, 2, 9, 20, 100])
@pytest.mark.parametrize(
    ("m", "n", "spread", "bin_score"),
    [(60, 47, 3.0, 1.0), (33, 80, 30.0, 5.0), (40, 40, 100.0, -50.0), (40, 40, 100.0, 150.0), (1, 1, 1.0, 0.0)],
)
def test_equals_the_log_domain(m, n, spread, bin_score, iterations):
    similarity = torch.randn(m, n, generator=torch.Generator().manual_seed(0)) * spread
    ours = log_assignment(similarity[None], torch.tensor(bin_score), iterations)[0]
    expected = log_domain(similarity, bin_score, iterations)
    torch.testing.assert_close(ours.double(), expected, rtol=0, atol=2e-4)


def test_every_point_gives_and_takes_its_mass():
    similarity = torch.randn(3, 20, 30, generator=torch.Generator().manual_seed(0))
    plan = log_assignment(similarity, torch.tensor(0.5), 200).exp()
    torch.testing.assert_close(plan[:, :-1].sum(2), torch.ones(3, 20))
    torch.testing.assert_close(plan[:, :, :-1].sum(1), torch.ones(3, 30))
    torch.testing.assert_close(plan[:, -1].sum(1), torch.full((3,), 30.0))
    torch.testing.assert_close(plan[:, :, -1].sum(1), torch.full((3,), 20.0))


def test_a_padded_pair_gives_what_it_gives_singly():
    generator = torch.Generator().manual_seed(0)
    counts = [(12, 9), (5, 14), (1, 1)]
    similarity = torch.randn(3, 12, 14, generator=generator) * 5
    rows = torch.arange(12) < torch.tensor([m for m, _ in counts])[:, None]
    columns = torch.arange(14) < torch.tensor([n for _, n in counts])[:, None]
    together = log_assignment(similarity, torch.tensor(1.0), 20, rows, columns)
    for each, scores, (m, n) in zip(together, similarity, counts, strict=True):
        alone = log_assignment(scores[None, :m, :n], torch.tensor(1.0), 20)[0]
        kept = torch.ones_like(each, dtype=torch.bool)
        kept[m:-1], kept[:, n:-1] = False, False
        torch.testing.assert_close(each[kept], alone.flatten(), rtol=0, atol=1e-5)
        assert (each[~kept] == -torch.inf).all()


def test_gradients_are_those_of_the_log_domain_and_padding_gets_none():
    similarity = torch.randn(7, 5, generator=torch.Generator().manual_seed(0)) * 3
    weights = torch.randn(8, 6, generator=torch.Generator().manual_seed(1))
    exact = similarity.double().requires_grad_()
    (log_domain(exact, 0.7, 30) * weights).sum().backward()

    padded = torch.nn.functional.pad(similarity, (0, 2, 0, 3))[None].requires_grad_()
    bin_score = torch.tensor(0.7, requires_grad=True)
    rows, columns = (torch.arange(10) < 7)[None], (torch.arange(7) < 5)[None]
    ours = log_assignment(padded, bin_score, 30, rows, columns)[0]
    real = ours[[*range(7), -1]][:, [*range(5), -1]]
    (real * weights).sum().backward()
    torch.testing.assert_close(padded.grad[0, :7, :5].double(), exact.grad, rtol=1e-3, atol=1e-4)
    assert (padded.grad[0, 7:] == 0).all() and (padded.grad[0, :, 5:] == 0).all()
    assert bin_score.grad.isfinite()


def test_is_computed_in_float32_whatever_surrounds_it():
    similarity = torch.randn(1, 6, 6, generator=torch.Generator().manual_seed(0)) * 20
    expected = log_assignment(similarity, torch.tensor(1.0), 20)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(log_assignment(similarity, torch.tensor(1.0), 20), expected)


def test_one_pair_after_the_other_equals_all_at_once():
    generator = torch.Generator().manual_seed(0)
    kernel, b = torch.rand(3, 9, 7, generator=generator), torch.rand(3, 7, generator=generator)
    mass0, mass1 = torch.ones(3, 9), torch.ones(3, 7)
    together = sweep_in_torch(kernel, mass0, mass1, b, steps=5)
    for i in range(3):
        alone = sweep_in_torch(kernel[i, None], mass0[i, None], mass1[i, None], b[i, None], steps=5)
        assert all(torch.equal(one[i], other[0]) for one, other in zip(together, alone, strict=True))


FUSED_ON_CPU = """
import torch
from vpr.matchers import sinkhorn, sinkhorn_triton
generator = torch.Generator().manual_seed(0)
for pairs, rows, columns, steps in ((2, 18, 31, 2), (1, 2, 2, 1)):
    kernel = torch.rand(pairs, rows, columns, generator=generator) ** 4
    kernel[0, 0], kernel[0, :, 0] = 0, 0  # a padded row and a padded column
    masses = torch.ones(pairs, rows), torch.ones(pairs, columns)
    masses[0][:, -1], masses[1][:, -1] = columns - 1, rows - 1
    b = torch.rand(pairs, columns, generator=generator)
    b[0, -1] = 0
    ours = sinkhorn_triton.sweep(kernel, *masses, b, steps=steps)
    torch.testing.assert_close(ours, sinkhorn.sweep_in_torch(kernel, *masses, b, steps=steps))
"""


def test_the_fused_kernel_interpreted_on_a_cpu_equals_torch():
    pytest.importorskip("triton", reason="the fused kernel needs triton")
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", FUSED_ON_CPU]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


@pytest.mark.gpu
@gpu
@pytest.mark.parametrize(("m", "n"), [(1024, 1024), (1000, 700), (2048, 300), (3, 1)])
def test_the_fused_kernel_on_a_gpu_equals_the_log_domain_and_repeats(m, n):
    similarity = torch.randn(4, m, n, generator=torch.Generator().manual_seed(0)) * 10
    rows = torch.arange(m) < torch.tensor([m, max(1, m // 2), m, 1])[:, None]
    with torch.inference_mode():
        inputs = similarity.cuda(), torch.tensor(2.0).cuda(), 100, rows.cuda()
        ours = log_assignment(*inputs)
        assert torch.equal(ours, log_assignment(*inputs))
    for each, scores, count in zip(ours.cpu(), similarity, rows.sum(1).tolist(), strict=True):
        real = torch.cat([each[:count], each[-1:]])
        torch.testing.assert_close(real.double(), log_domain(scores[:count], 2.0, 100), rtol=0, atol=2e-4)


@pytest.mark.parametrize("spread", [1.0, 30.0, 100.0, 400.0])
def test_gradients_are_finite_however_sure_the_scores(spread):
    similarity = (torch.randn(2, 40, 40, generator=torch.Generator().manual_seed(0)) * spread).requires_grad_()
    bin_score = torch.tensor(1.0, requires_grad=True)
    plan = log_assignment(similarity, bin_score, 50)
    if spread <= 100:
        torch.testing.assert_close(plan.detach(), log_assignment(similarity.detach(), bin_score.detach(), 50))
    plan.clamp_min(-30)[:, range(40), range(40)].mean().backward()
    assert similarity.grad.isfinite().all() and bin_score.grad.isfinite()
    assert similarity.grad.abs().max() > 1e-6


@pytest.mark.parametrize(("spread", "partners", "bonus"), [(1, 0, 0), (3, 200, 15), (3, 100, 15), (10, 200, 40)])
def test_ending_when_nothing_changes_any_more_changes_nothing(spread, partners, bonus, monkeypatch):
    similarity = torch.randn(2, 200, 180, generator=torch.Generator().manual_seed(0)) * spread
    for row in range(min(partners, 180)):
        similarity[:, row, row] += bonus
    settled = log_assignment(similarity, torch.tensor(1.0), 100)
    monkeypatch.setattr(sinkhorn, "SETTLED", -1.0)
    torch.testing.assert_close(settled, log_assignment(similarity, torch.tensor(1.0), 100), atol=5e-5, rtol=0)
