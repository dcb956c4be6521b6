"""From similarities to a soft assignment as IMP computes it: Sinkhorn's iterations on probabilities, or a dual softmax.

Other than SuperGlue's (vpr.matchers.sinkhorn): a dustbin has as much mass as its own side has points, and one more, so
that the total masses of both sides differ and the last half-step decides. A score may therefore exceed 1.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

EPSILON = 1e-8


def assignment(
    similarity: Tensor,
    bin_score: Tensor,
    iterations: int,
    row_mask: Tensor | None = None,
    column_mask: Tensor | None = None,
) -> Tensor:
    """The soft assignment (B, M + 1, N + 1) float32; the last row and column are the dustbins.

    ``similarity`` is (B, M, N); the masks, (B, M) and (B, N), are True for real points, None if all are. Padded places
    are 0. Differentiable.
    """
    with torch.autocast(similarity.device.type, enabled=False):
        scores = _with_dustbins(similarity.float(), bin_score, column_mask)
        kernel = scores.softmax(-1)
        row_mass, column_mass = _mass(row_mask, kernel[:, :, 0]), _mass(column_mask, kernel[:, 0, :])
        v = torch.ones_like(column_mass)
        u = row_mass
        for _ in range(iterations):
            u = row_mass / (torch.bmm(kernel, v[:, :, None])[:, :, 0] + EPSILON)
            v = column_mass / (torch.bmm(u[:, None, :], kernel)[:, 0, :] + EPSILON)
        return kernel * u[:, :, None] * v[:, None, :]


def dual_softmax(
    similarity: Tensor, bin_score: Tensor, row_mask: Tensor | None = None, column_mask: Tensor | None = None
) -> Tensor:
    """The product (B, M + 1, N + 1) of the softmax over the columns and over the rows, dustbins included.

    Faster than the iterations, and of weights that were trained for it. Arguments as of ``assignment``.
    """
    with torch.autocast(similarity.device.type, enabled=False):
        scores = _with_dustbins(similarity.float(), bin_score, column_mask)
        over_rows = scores
        if row_mask is not None:
            real = nn.functional.pad(row_mask, (0, 1), value=True)
            over_rows = scores.masked_fill(~real[:, :, None], -torch.inf)
        return scores.softmax(2) * over_rows.softmax(1)


def _with_dustbins(similarity: Tensor, bin_score: Tensor, column_mask: Tensor | None) -> Tensor:
    """Scores (B, M + 1, N + 1), -inf in padded columns."""
    pairs, rows, columns = similarity.shape
    scores = torch.cat([similarity, bin_score.float().expand(pairs, rows, 1)], dim=2)
    scores = torch.cat([scores, bin_score.float().expand(pairs, 1, columns + 1)], dim=1)
    if column_mask is None:
        return scores
    return scores.masked_fill(~nn.functional.pad(column_mask, (0, 1), value=True)[:, None, :], -torch.inf)


def _mass(mask: Tensor | None, like: Tensor) -> Tensor:
    """1 for each real point, and for the dustbin the number of real points on its own side and one more."""
    mass = torch.ones_like(like) if mask is None else nn.functional.pad(mask.to(like.dtype), (0, 1))
    mass[:, -1] = mass[:, :-1].sum(1) + 1
    return mass
