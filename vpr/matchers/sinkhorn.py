"""Optimal transport between two sets of points with a dustbin each, by Sinkhorn's iterations.

Sarlin et al., CVPR 2020, arXiv:1911.11763; Cuturi, NeurIPS 2013. The iterations run on exp(scores) instead of in the
log domain: one matrix-vector product a half-step instead of a logsumexp. What keeps the exponentials in range is that
the potentials are moved into the matrix from time to time (Schmitzer, SIAM J. Sci. Comput. 2019), so that it is
always close to the transport plan itself.
"""

from __future__ import annotations

import importlib.util

import torch
from torch import Tensor

TINY = 1e-37  # no sum of exponentials counts as less, so that nothing is divided by zero
LEARNABLY_TINY = 1e-18  # in training, where its square divides too
# A step changes the logarithms by no more than the step before. So once one changes them by less than this, a hundred
# more would change them by less than 5e-5.
SETTLED, CHECK_EVERY = 5e-7, 4
ABSORB_AFTER = (1, 8, 64)  # iterations after which the potentials move into the matrix; later they hardly change


def log_assignment(
    similarity: Tensor,
    bin_score: Tensor,
    iterations: int,
    row_mask: Tensor | None = None,
    column_mask: Tensor | None = None,
) -> Tensor:
    """Log of the soft assignment, (B, M + 1, N + 1) float32; the last row and column are the dustbins.

    ``similarity`` is (B, M, N); the masks, (B, M) and (B, N), are True for real points, None if all are. A real point
    has mass 1 and each dustbin as much as the other side has real points; padded places are -inf. Differentiable.
    """
    with torch.autocast(similarity.device.type, enabled=False):
        scores, real_rows, real_columns = _with_dustbins(similarity.float(), bin_score, row_mask, column_mask)
        if scores.is_cuda or scores.requires_grad or len(scores) == 1:
            return _transport(scores, real_rows, real_columns, iterations=iterations)
        inputs = scores, real_rows, real_columns  # on a CPU one pair after the other stays in the cache
        done = [_transport(*(each[i, None] for each in inputs), iterations=iterations) for i in range(len(scores))]
        return torch.cat(done) if done else scores


def _transport(scores: Tensor, real_rows: Tensor, real_columns: Tensor, *, iterations: int) -> Tensor:
    """The scores, with what the iterations add to each row and column."""
    row_mass = _mass(real_rows, real_columns)
    column_mass = _mass(real_columns, real_rows)
    with torch.no_grad():  # any stabiliser gives the same result
        f = -scores.amax(2).clamp_min(-1e30)
        g = -(scores + f[:, :, None]).amax(1).clamp_min(-1e30)
    done, b = 0, torch.exp(-g)
    for until in [*(step for step in ABSORB_AFTER if step < iterations), iterations]:
        kernel = (scores + f[:, :, None]).add_(g[:, None, :]).exp_()
        a, b = sweep(kernel, row_mass, column_mass, b, steps=until - done)
        settled = until < iterations and _may_settle(kernel) and _alike(_rows_of(row_mass, kernel, b), a, 4 * SETTLED)
        f = f + torch.where(real_rows, a, 1).log()
        g = g + torch.where(real_columns, b, 1).log()
        if settled:
            break
        done, b = until, torch.ones_like(b)
    return (scores + f[:, :, None]).add_(g[:, None, :])


def sweep(kernel: Tensor, row_mass: Tensor, column_mass: Tensor, b: Tensor, *, steps: int) -> tuple[Tensor, Tensor]:
    """Scale rows, then columns, ``steps`` times: factors a (B, M) and b (B, N) of diag(a) kernel diag(b)."""
    if kernel.is_cuda and not torch.is_grad_enabled() and importlib.util.find_spec("triton"):
        from vpr.matchers import sinkhorn_triton

        return sinkhorn_triton.sweep(kernel, row_mass, column_mass, b, steps=steps)
    return sweep_in_torch(kernel, row_mass, column_mass, b, steps=steps)


def sweep_in_torch(
    kernel: Tensor, row_mass: Tensor, column_mass: Tensor, b: Tensor, *, steps: int
) -> tuple[Tensor, Tensor]:
    """The same by torch's products: the reference for the fused kernel, and the way on a CPU and in training."""
    if not kernel.is_cuda and len(kernel) > 1:  # MKL is 5 times as fast on one matrix after the other
        inputs = (kernel, row_mass, column_mass, b)
        factors = [sweep_in_torch(*(each[i, None] for each in inputs), steps=steps) for i in range(len(kernel))]
        return torch.cat([a for a, _ in factors]), torch.cat([b for _, b in factors])
    a = row_mass
    for step in range(1, steps + 1):
        before = b
        a = _rows_of(row_mass, kernel, b)
        b = _divided(column_mass, torch.bmm(a[:, None, :], kernel)[:, 0, :])
        if step % CHECK_EVERY == 0 and _may_settle(kernel) and _alike(b, before, SETTLED):
            break
    return a, b


def _rows_of(row_mass: Tensor, kernel: Tensor, b: Tensor) -> Tensor:
    """Factors of the rows that give each row its mass."""
    return _divided(row_mass, torch.bmm(kernel, b[:, :, None])[:, :, 0])


def _may_settle(kernel: Tensor) -> bool:
    return not kernel.is_cuda and not kernel.requires_grad  # the check would make a GPU wait


def _alike(factors: Tensor, before: Tensor, share: float) -> bool:
    return bool(((factors - before).abs() <= share * factors).all())


def _divided(mass: Tensor, sums: Tensor) -> Tensor:
    """In training with a finite gradient: that of 1 / x squares it, and infinity times nothing is not a number."""
    if not sums.requires_grad:
        return mass / sums.clamp_min(TINY)
    vanishes = sums < LEARNABLY_TINY
    return torch.where(vanishes, mass / LEARNABLY_TINY, mass / sums.masked_fill(vanishes, 1))


def _with_dustbins(
    similarity: Tensor, bin_score: Tensor, row_mask: Tensor | None, column_mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Scores with the dustbins and -inf at padded places, and which rows and columns are real; dustbins are."""
    pairs, rows, columns = similarity.shape
    scores = similarity.new_empty(pairs, rows + 1, columns + 1)
    scores[:, :rows, :columns] = similarity
    scores[:, rows] = bin_score
    scores[:, :rows, columns] = bin_score
    real_rows = _real(row_mask, scores[:, :, 0])
    real_columns = _real(column_mask, scores[:, 0, :])
    if row_mask is not None:
        scores = scores.masked_fill(~real_rows[:, :, None], -torch.inf)
    if column_mask is not None:
        scores = scores.masked_fill(~real_columns[:, None, :], -torch.inf)
    return scores, real_rows, real_columns


def _real(mask: Tensor | None, like: Tensor) -> Tensor:
    real = torch.ones_like(like, dtype=torch.bool)
    if mask is not None:
        real[:, :-1] = mask
    return real


def _mass(own: Tensor, other: Tensor) -> Tensor:
    """1 for each point, and for the dustbin the number of real points on the other side."""
    mass = torch.ones_like(own, dtype=torch.float32)
    mass[:, -1] = other.sum(1) - 1
    return mass
