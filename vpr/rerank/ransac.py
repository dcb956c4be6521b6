"""RANSAC for many pairs in one go, in torch: every hypothesis of every pair is estimated and judged side by side.

Fundamental matrices from 7 points and homographies from 4 (Hartley and Zisserman, Multiple View Geometry, 2004), MSAC
scores (Torr and Zisserman, CVIU 2000), and refinement of the best on their inliers (Chum et al., LO-RANSAC, DAGM 2003).
All pairs draw their samples from one fixed table of random numbers, so that a result depends on nothing but the pair's
own matches.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from vpr.core import Doubles, Verified

REFINED = 8  # hypotheses per pair that are refined
ROUNDS = 4  # of refinement
BYTES = {"cpu": 32 << 20, "cuda": 2 << 30}  # for the errors of all hypotheses of the pairs that are judged together


class TwoViewModel(Protocol):
    """A kind of model. Points are (..., 2) of about unit size, models (..., 3, 3), query to candidate."""

    sample_size: int
    per_sample: int  # models that a sample can give

    def solve(self, first: Tensor, second: Tensor) -> Tensor:
        """(B, S, sample_size, 2) twice to (B, S * per_sample, 3, 3); not finite where there is no model."""

    def fit(self, first: Tensor, second: Tensor, weights: Tensor) -> Tensor:
        """Least squares over all points: (B, M, 2) twice and (B, T, M) to (B, T, 3, 3)."""

    def error(self, models: Tensor, first: Tensor, second: Tensor) -> Tensor:
        """Squared distances (B, T, M) of the matches (B, M, 2) from the models (B, T, 3, 3)."""

    def in_pixels(self, models: Tensor, to_unit_first: Tensor, to_unit_second: Tensor) -> Tensor:
        """Undo the normalisation of both sides, given as (B, 3, 3)."""


class TorchRansac:
    """Verifies all pairs of a call together. ``threshold`` is in pixels, ``samples`` are drawn per pair."""

    def __init__(self, geometry: TwoViewModel, threshold: float, samples: int, device: torch.device) -> None:
        self.geometry = geometry
        self.threshold = threshold
        self.device = device
        numbers = torch.rand(samples, geometry.sample_size, generator=torch.Generator().manual_seed(0))
        self.table = numbers.to(device)

    @torch.inference_mode()
    def verify(self, pairs: Sequence[tuple[Doubles, Doubles]]) -> list[Verified]:
        results = [Verified(np.zeros(len(first), dtype=bool)) for first, _ in pairs]
        enough = [i for i, (first, _) in enumerate(pairs) if len(first) > self.geometry.sample_size]
        longest = max((len(pairs[i][0]) for i in enough), default=1)
        per_pair = 4 * len(self.table) * self.geometry.per_sample * longest
        together = max(1, BYTES.get(self.device.type, BYTES["cpu"]) // per_pair)
        for start in range(0, len(enough), together):
            group = enough[start : start + together]
            for i, found in zip(group, self._verify_group([pairs[i] for i in group]), strict=True):
                results[i] = found
        return results

    def _verify_group(self, pairs: Sequence[tuple[Doubles, Doubles]]) -> list[Verified]:
        counts = torch.tensor([len(first) for first, _ in pairs])
        first, second = (
            pad_sequence([torch.from_numpy(pair[side]).float() for pair in pairs], batch_first=True).to(self.device)
            for side in (0, 1)
        )
        counts = counts.to(self.device)
        mask = torch.arange(first.shape[1], device=self.device) < counts[:, None]
        first, second, to_unit_first, to_unit_second, scale = _to_unit(first, second, mask)
        squared = (self.threshold / scale) ** 2
        model, inliers = self._search(first, second, mask, counts, squared)
        matrices = self.geometry.in_pixels(model, to_unit_first, to_unit_second).double().cpu().numpy()
        return [
            Verified(kept[: len(points)], matrix if kept.any() and np.isfinite(matrix).all() else None)
            for (points, _), kept, matrix in zip(pairs, inliers.cpu().numpy(), matrices, strict=True)
        ]

    def _search(
        self, first: Tensor, second: Tensor, mask: Tensor, counts: Tensor, squared: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The best model (B, 3, 3) of each pair and its inliers (B, M)."""
        geometry = self.geometry
        chosen = (self.table * counts[:, None, None]).long()  # (B, S, n)
        sample1, sample2 = (_take(points, chosen) for points in (first, second))
        models = geometry.solve(sample1, sample2)
        cost, _ = self._judge(models, first, second, mask, squared)
        cost, best = cost.topk(min(REFINED, cost.shape[1]), dim=1, largest=False)
        models = models.gather(1, best[..., None, None].expand(-1, -1, 3, 3))
        _, inliers = self._judge(models, first, second, mask, squared)
        for _ in range(ROUNDS):
            refined = geometry.fit(first, second, inliers.float())
            refined_cost, refined_inliers = self._judge(refined, first, second, mask, squared)
            better = refined_cost < cost
            cost = torch.where(better, refined_cost, cost)
            models = torch.where(better[..., None, None], refined, models)
            inliers = torch.where(better[..., None], refined_inliers, inliers)
        winner = cost.argmin(1)
        rows = torch.arange(len(winner), device=winner.device)
        return models[rows, winner], inliers[rows, winner]

    def _judge(
        self, models: Tensor, first: Tensor, second: Tensor, mask: Tensor, squared: Tensor
    ) -> tuple[Tensor, Tensor]:
        """MSAC costs (B, T), infinite for a model that is none, and inliers (B, T, M)."""
        valid = models.isfinite().flatten(2).all(2)
        error = self.geometry.error(torch.where(valid[..., None, None], models, 0), first, second)
        error = torch.where(error.isfinite(), error, torch.inf)
        limit = squared[:, None, None]
        cost = (torch.minimum(error, limit) * mask[:, None]).sum(2)
        return torch.where(valid, cost, torch.inf), (error <= limit) & mask[:, None] & valid[..., None]


class Homography:
    """Plane-induced maps; the error is the distance in the candidate."""

    sample_size = 4
    per_sample = 1

    def solve(self, first: Tensor, second: Tensor) -> Tensor:
        """Through the basis that sends three points to the axes and the fourth to (1, 1, 1)."""
        basis1, weights1 = _basis(first)
        basis2, weights2 = _basis(second)
        # H = basis2 diag(weights2) (basis1 diag(weights1))^-1, whose inverse is the adjugate up to scale
        return basis2 @ ((weights2 / weights1)[..., None] * _adjugate(basis1))

    def fit(self, first: Tensor, second: Tensor, weights: Tensor) -> Tensor:
        one, zero = torch.ones_like(first[..., :1]), torch.zeros_like(first)
        p = torch.cat([first, one], dim=-1)
        nothing = torch.cat([zero, one - one], dim=-1)
        along_x = torch.cat([p, nothing, -second[..., :1] * p], dim=-1)
        along_y = torch.cat([nothing, p, -second[..., 1:] * p], dim=-1)
        return _least(weights, along_x, along_y)

    def error(self, models: Tensor, first: Tensor, second: Tensor) -> Tensor:
        moved = models @ _homogeneous(first).transpose(1, 2)[:, None]  # (B, T, 3, M)
        offset = moved[:, :, :2] / moved[:, :, 2:] - second.transpose(1, 2)[:, None]
        return offset.square().sum(2)

    def in_pixels(self, models: Tensor, to_unit_first: Tensor, to_unit_second: Tensor) -> Tensor:
        solved: Tensor = torch.linalg.solve_ex(to_unit_second, models @ to_unit_first).result
        return solved


class Fundamental:
    """Epipolar geometry; the error is Sampson's."""

    sample_size = 7
    per_sample = 3

    def solve(self, first: Tensor, second: Tensor) -> Tensor:
        """The two-dimensional null space of seven equations, and in it the up to three matrices of rank two."""
        batch, samples = first.shape[:2]
        one, other = (vector.view(-1, 3, 3) for vector in _null_space(_epipolar(first, second).flatten(0, 1)))
        value = {0: torch.linalg.det(one), 3: torch.linalg.det(other)}
        plus, minus = torch.linalg.det(one + other), torch.linalg.det(one - other)
        squares, linear = (plus + minus) / 2 - value[0], (plus - minus) / 2 - value[3]
        roots = _cubic_roots(value[3], squares, linear, value[0])  # (B * S, 3)
        models = one[:, None] + roots[..., None, None] * other[:, None]
        models = models / models.flatten(2).norm(dim=2)[..., None, None]
        return torch.reshape(models, (batch, samples * 3, 3, 3))

    def fit(self, first: Tensor, second: Tensor, weights: Tensor) -> Tensor:
        u, s, v = torch.linalg.svd(_least(weights, _epipolar(first, second)))
        s[..., 2] = 0  # rank two
        fitted: Tensor = u @ (s[..., None] * v)
        return fitted

    def error(self, models: Tensor, first: Tensor, second: Tensor) -> Tensor:
        p, q = _homogeneous(first), _homogeneous(second)
        lines2 = models @ p.transpose(1, 2)[:, None]  # (B, T, 3, M) in the candidate
        lines1 = models.transpose(2, 3) @ q.transpose(1, 2)[:, None]
        residual = (lines2 * q.transpose(1, 2)[:, None]).sum(2)
        return residual.square() / (lines2[:, :, :2].square().sum(2) + lines1[:, :, :2].square().sum(2))

    def in_pixels(self, models: Tensor, to_unit_first: Tensor, to_unit_second: Tensor) -> Tensor:
        return to_unit_second.transpose(1, 2) @ models @ to_unit_first


def _to_unit(first: Tensor, second: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Centre both sides and divide both by one scale, so that a distance in pixels is one number on either side."""
    weights = mask[..., None] / mask.sum(1)[:, None, None]
    centres = [(points * weights).sum(1, keepdim=True) for points in (first, second)]
    moved = [(points - centre) * mask[..., None] for points, centre in zip((first, second), centres, strict=True)]
    spread = sum((points.square() * weights).sum((1, 2)) for points in moved)
    scale = torch.as_tensor(spread).div(4).sqrt().clamp_min(1e-3)  # (B,)
    matrices = []
    for centre in centres:
        matrix = torch.diag_embed(torch.stack([1 / scale, 1 / scale, torch.ones_like(scale)], dim=1))
        matrix[:, :2, 2] = -centre[:, 0] / scale[:, None]
        matrices.append(matrix)
    return moved[0] / scale[:, None, None], moved[1] / scale[:, None, None], matrices[0], matrices[1], scale


def _take(points: Tensor, chosen: Tensor) -> Tensor:
    """Points (B, M, 2) at (B, S, n) to (B, S, n, 2)."""
    return points[torch.arange(len(points), device=points.device)[:, None, None], chosen]


def _homogeneous(points: Tensor) -> Tensor:
    return torch.cat([points, torch.ones_like(points[..., :1])], dim=-1)


def _basis(points: Tensor) -> tuple[Tensor, Tensor]:
    """(..., 4, 2) to the matrix whose columns are the first three, and the weights that make the fourth of them."""
    corners = _homogeneous(points)
    matrix = corners[..., :3, :].transpose(-1, -2)
    return matrix, (_adjugate(matrix) @ corners[..., 3, :, None])[..., 0]


def _adjugate(matrix: Tensor) -> Tensor:
    """(..., 3, 3): the inverse times the determinant, also where there is no inverse."""
    a, b, c = matrix.unbind(-1)
    return torch.stack([torch.linalg.cross(b, c), torch.linalg.cross(c, a), torch.linalg.cross(a, b)], dim=-2)


def _epipolar(first: Tensor, second: Tensor) -> Tensor:
    """Coefficients (..., 9) of the equation q^T F p = 0 in the entries of F."""
    return (_homogeneous(second)[..., :, None] * _homogeneous(first)[..., None, :]).flatten(-2)


def _least(weights: Tensor, *equations: Tensor) -> Tensor:
    """The unit (3, 3) that minimises the weighted sum of squares: (B, T, M) and (B, M, 9) each to (B, T, 3, 3)."""
    products = sum((rows[..., :, None] * rows[..., None, :]).flatten(-2) for rows in equations)
    normal = weights.double() @ torch.as_tensor(products).double()
    _, vectors = torch.linalg.eigh(normal.view(*normal.shape[:-1], 9, 9))
    smallest: Tensor = vectors[..., 0].float()
    return smallest.reshape(*smallest.shape[:-1], 3, 3)


def _null_space(equations: Tensor) -> tuple[Tensor, Tensor]:
    """Two unit vectors (N, 9) that solve (N, 7, 9), by Gauss-Jordan elimination with full pivoting."""
    matrix = equations.clone()
    rows = torch.arange(len(matrix), device=matrix.device)
    order = torch.arange(9, device=matrix.device).repeat(len(matrix), 1)
    for i in range(7):
        place = matrix[:, i:, i:].abs().flatten(1).argmax(1)
        row, column = place // (9 - i) + i, place % (9 - i) + i
        matrix[rows, row], matrix[:, i] = matrix[:, i].clone(), matrix[rows, row]
        swapped = matrix[rows, :, column]
        matrix[rows, :, column] = matrix[:, :, i].clone()
        matrix[:, :, i] = swapped
        order[rows, column], order[:, i] = order[:, i].clone(), order[rows, column]
        matrix[:, i] = matrix[:, i] / matrix[:, i, i, None]
        factor = matrix[:, :, i].clone()
        factor[:, i] = 0
        matrix -= factor[:, :, None] * matrix[:, i, None]
    found = []
    for free in (7, 8):
        vector = torch.zeros_like(matrix[:, 0])
        vector[:, :7] = -matrix[:, :, free]
        vector[:, free] = 1
        found.append(torch.nn.functional.normalize(torch.zeros_like(vector).scatter(1, order, vector), dim=1))
    return found[0], found[1]


def _cubic_roots(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """Real roots (N, 3) of a x^3 + b x^2 + c x + d, NaN where there are fewer; trigonometric, then two Newton steps."""
    b, c, d = b / a, c / a, d / a
    q, r = (b * b - 3 * c) / 9, (2 * b**3 - 9 * b * c + 27 * d) / 54
    three = r * r < q**3
    angle = torch.acos((r / q.clamp_min(1e-30) ** 1.5).clamp(-1, 1))
    turns = torch.arange(3, device=a.device) * (2 * torch.pi)
    several = -2 * q.clamp_min(0).sqrt()[:, None] * torch.cos((angle[:, None] + turns) / 3)
    base = (r.abs() + (r * r - q**3).clamp_min(0).sqrt()) ** (1 / 3)
    single = -r.sign() * (base + q / base)
    nothing = torch.full_like(single, torch.nan)
    shifted = torch.where(three[:, None], several, torch.stack([single, nothing, nothing], dim=1))
    x = shifted - b[:, None] / 3
    for _ in range(2):
        value = ((x + b[:, None]) * x + c[:, None]) * x + d[:, None]
        slope = (3 * x + 2 * b[:, None]) * x + c[:, None]
        x = x - torch.where(slope.abs() > 1e-12, value / slope, 0)
    return x
