"""GlueStick's network in its published layout: points and line segments of two images in one graph.

Pautrat, Suárez, Yu, Pollefeys and Larsson, ICCV 2023, arXiv:2304.02008. The ends of segments are junctions, which are
keypoints like others. After each layer of self-attention the two ends of a segment also exchange messages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from vpr.matchers.points import PointBatch
from vpr.matchers.superglue_network import Layer, PointLinear, numbered, perceptron


@dataclass(frozen=True, eq=False)
class Segments:
    """The line segments of B images, beside their points, padded at the end to one number."""

    ends: Tensor  # (B, L, 2, 2) x, y of both ends, normalised as the points are
    scores: Tensor  # (B, L)
    junctions: Tensor  # (B, L, 2) int64 rows of the ends among the points
    mask: Tensor | None = None  # (B, L) True for real segments; None if all are

    @property
    def real(self) -> Tensor:
        """(B, L) True for real segments."""
        return torch.ones_like(self.scores, dtype=torch.bool) if self.mask is None else self.mask


@dataclass(frozen=True, eq=False)
class Assigned:
    """Log-probabilities of matches, the last row and column the dustbins; see log_double_softmax."""

    points: Tensor  # (B, M + 1, N + 1)
    lines: Tensor  # (B, K + 1, L + 1)
    line_similarity: Tensor  # (B, K, L) before the softmax


class PointOrEndEncoder(nn.Module):
    """What is known of a keypoint, or of the end of a segment, to a vector that is added to its descriptor."""

    def __init__(self, inputs: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.encoder = perceptron([inputs, *widths])

    def forward(self, known: Tensor) -> Tensor:
        encoded: Tensor = self.encoder(known)
        return encoded


class Propagation(nn.Module):
    """A layer of attention under its published name."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.update = Layer(dim)


class LineLayer(nn.Module):
    """Messages between the two ends of each segment."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.mlp = perceptron([3 * dim, 2 * dim, dim])

    def forward(self, x: Tensor, encoded: Tensor, junctions: Tensor, real: Tensor) -> Tensor:
        """What is added to the points (B, N, D); a junction of several segments takes their mean.

        ``encoded`` (B, 2 L, D) are the ends of the segments, ``junctions`` (B, 2 L) their rows among the points, and
        ``real`` (B, 2 L) is 1 where they count, else 0.
        """
        ends = x.gather(1, junctions[..., None].expand(-1, -1, x.shape[2]))
        opposite = ends.view(len(x), -1, 2, x.shape[2]).flip(2).flatten(1, 2)
        messages = self.mlp(torch.cat([ends, opposite, encoded], dim=2)) * real[..., None]
        sums = torch.zeros_like(x).scatter_add_(1, junctions[..., None].expand_as(messages), messages)
        counts = x.new_zeros(x.shape[:2]).scatter_add_(1, junctions, real)
        added: Tensor = sums / counts.clamp_min(1)[..., None]
        return added


class PointLineGraph(nn.Module):
    """Self-attention (even layers), messages along segments after it, and cross-attention (odd layers)."""

    def __init__(self, dim: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Propagation(dim) for _ in range(layers))
        self.line_layers = nn.ModuleList(LineLayer(dim) for _ in range(layers // 2))


class GlueStickNetwork(nn.Module):
    """Matching of points and segments of pairs; coordinates are 1 at 0.7 times the longer side from the centre.

    In training the BatchNorms count padded points and segments as real ones: give every image equally many.
    """

    reach = 0.7
    oriented = False  # it reads no size and orientation of keypoints

    def __init__(self, encoder: Sequence[int] = (32, 64, 128, 256, 256), layers: int = 18) -> None:
        super().__init__()
        self.build(encoder, layers)

    def build(self, encoder: Sequence[int], layers: int) -> None:
        """Make the layers anew, of these sizes."""
        self.dim = encoder[-1]
        self.kenc = PointOrEndEncoder(3, encoder)
        self.lenc = PointOrEndEncoder(5, encoder)
        self.gnn = PointLineGraph(self.dim, layers)
        self.final_proj = PointLinear(self.dim, self.dim)
        self.final_line_proj = PointLinear(self.dim, self.dim)
        self.bin_score = nn.Parameter(torch.tensor(1.0))
        self.line_bin_score = nn.Parameter(torch.tensor(1.0))

    def convert_state_dict(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Take the sizes of these weights, which are in the published layout; returns the weights."""
        encoder = [
            state[key].shape[0]
            for key in numbered(state, r"kenc\.encoder\.(\d+)\.weight")
            if state[key].dim() > 1  # BatchNorms lie between the linear layers
        ]
        layers = len(numbered(state, r"gnn\.layers\.(\d+)\.update\.mlp\.0\.weight"))
        if encoder and layers:  # else load_strictly will say what is missing
            self.build(encoder, layers)
        return state

    def forward(self, first: PointBatch, second: PointBatch, lines0: Segments, lines1: Segments) -> Assigned:
        """Padding of points and segments changes nothing; a pair without segments in one image is one of points."""
        x0, x1 = (
            each.descriptors + self.kenc(torch.cat([each.points, each.scores[..., None]], dim=2))
            for each in (first, second)
        )
        both = (lines0.real.any(1) & lines1.real.any(1))[:, None]
        real0, real1 = ((each.real & both).repeat_interleave(2, dim=1).to(x0.dtype) for each in (lines0, lines1))
        ends0, ends1 = (self._encode_ends(each) if bool(both.any()) else None for each in (lines0, lines1))
        rows0, rows1 = (each.junctions.flatten(1) for each in (lines0, lines1))
        for i, propagation in enumerate(self.gnn.layers):
            assert isinstance(propagation, Propagation)
            layer = propagation.update
            if i % 2:
                x0, x1 = x0 + layer(x0, x1, second.mask), x1 + layer(x1, x0, first.mask)
                continue
            x0, x1 = x0 + layer(x0, x0, first.mask), x1 + layer(x1, x1, second.mask)
            if ends0 is not None and ends1 is not None:
                along = self.gnn.line_layers[i // 2]
                x0, x1 = x0 + along(x0, ends0, rows0, real0), x1 + along(x1, ends1, rows1, real1)
        similarity = self.final_proj(x0) @ self.final_proj(x1).mT / self.dim**0.5
        of_ends = self.final_line_proj(x0) @ self.final_line_proj(x1).mT / self.dim**0.5
        of_lines = line_similarity(of_ends, lines0.junctions, lines1.junctions)
        return Assigned(
            softmax_both_ways(similarity, self.bin_score, first.mask, second.mask),
            softmax_both_ways(of_lines, self.line_bin_score, lines0.mask, lines1.mask),
            of_lines,
        )

    def _encode_ends(self, lines: Segments) -> Tensor:
        """(B, 2 L, D): a start, its end, the next start, ..."""
        offset = lines.ends[:, :, 1] - lines.ends[:, :, 0]
        offsets = torch.stack([offset, -offset], dim=2).flatten(1, 2)
        # As published: the scores of all segments twice over, and so at other ends than their own.
        counts = lines.real.sum(1, keepdim=True).clamp_min(1)
        scores = lines.scores.gather(1, torch.arange(offsets.shape[1], device=counts.device) % counts)
        encoded: Tensor = self.lenc(torch.cat([lines.ends.flatten(1, 2), offsets, scores[..., None]], dim=2))
        return encoded


def line_similarity(of_points: Tensor, junctions0: Tensor, junctions1: Tensor) -> Tensor:
    """(B, K, L) mean similarity of the ends of segments, by whichever end is taken for the start.

    ``of_points`` is (B, M, N), the junctions (B, K, 2) and (B, L, 2) are its rows and columns.
    """
    rows, columns = junctions0.flatten(1), junctions1.flatten(1)
    of_rows = of_points.gather(1, rows[..., None].expand(-1, -1, of_points.shape[2]))
    of_both = of_rows.gather(2, columns[:, None].expand(-1, rows.shape[1], -1))
    pairs = of_both.view(len(of_points), junctions0.shape[1], 2, junctions1.shape[1], 2)
    straight = pairs[:, :, 0, :, 0] + pairs[:, :, 1, :, 1]
    turned = pairs[:, :, 0, :, 1] + pairs[:, :, 1, :, 0]
    return 0.5 * torch.maximum(straight, turned)


def softmax_both_ways(
    similarity: Tensor, bin_score: Tensor, mask0: Tensor | None = None, mask1: Tensor | None = None
) -> Tensor:
    """Log assignment (B, M + 1, N + 1): the mean of the log softmax over a row and a column, each with its dustbin.

    ``mask0`` (B, M) and ``mask1`` (B, N) are True for real rows and columns; None if all are.
    """
    batch, rows, columns = similarity.shape
    if mask0 is not None:
        similarity = similarity.masked_fill(~mask0[:, :, None], -torch.inf)
    if mask1 is not None:
        similarity = similarity.masked_fill(~mask1[:, None, :], -torch.inf)
    over_columns = functional.log_softmax(torch.cat([similarity, bin_score.expand(batch, rows, 1)], dim=2), dim=2)
    over_rows = functional.log_softmax(torch.cat([similarity, bin_score.expand(batch, 1, columns)], dim=1), dim=1)
    found = functional.pad((over_columns[:, :, :-1] + over_rows[:, :-1]) / 2, (0, 1, 0, 1))
    found[:, :-1, -1] = over_columns[:, :, -1]
    found[:, -1, :-1] = over_rows[:, -1]
    return found
