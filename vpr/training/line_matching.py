"""What GlueStick learns beside the partners of points: the partners of line segments.

Pautrat et al., ICCV 2023, arXiv:2304.02008: samples along a segment are moved to the other image; segments are partners
where enough samples of each fall on the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from vpr.config import Section
from vpr.local_features.lines import MERGE_RADIUS, MIN_LENGTH
from vpr.local_features.points_and_lines import PointsWithLines
from vpr.matchers.gluestick import stack_segments
from vpr.matchers.gluestick_network import Segments
from vpr.matchers.one_to_many import mutual_partners
from vpr.training.correspondence import UNKNOWN, PairGeometry, Projected, Truth, or_unmatched, pairs_of

SAMPLES = 10  # along a segment
LEAST_SHARED, MOST_SHARED = 0.2, 0.5  # shares of samples that fall on the partner: of either segment, of one of them


class Settings(Section):
    """The segments of a training image."""

    count: int = Field(32, ge=1)  # of each image, the longest; a pair with fewer is left out
    min_length: float = Field(MIN_LENGTH, ge=0)  # pixels
    merge_radius: float = Field(MERGE_RADIUS, gt=0)  # pixels; ends no further apart are one junction
    same: float = Field(3.0, gt=0)  # pixels from a segment on which a sample falls
    apart: float = Field(5.0, gt=0)  # no sample nearer than this to any segment: no partner
    weight: float = Field(1.0, ge=0)  # of the loss of segments beside that of points


class SeenLines(NamedTuple):
    """Segments of pairs, equally many of each image, and their partners."""

    first: Segments
    second: Segments
    truth: Truth


def seen_lines(
    first: Sequence[PointsWithLines],
    second: Sequence[PointsWithLines],
    geometry: PairGeometry,
    settings: Settings,
    device: torch.device,
) -> SeenLines:
    """Of pairs of images with equally many segments."""
    ends, others = (torch.stack([each.wireframe.segments.ends for each in side]).to(device) for side in (first, second))
    truth = line_truth(ends, others, geometry, settings)
    return SeenLines(stack_segments(first, device), stack_segments(second, device), truth)


def line_truth(ends: Tensor, others: Tensor, geometry: PairGeometry, settings: Settings) -> Truth:
    """Partners of segments (B, K, 2, 2) and (B, L, 2, 2)."""
    there, here = geometry.projected(_samples(ends), _samples(others)) or (None, None)
    if there is None or here is None:  # only epipolar lines are known
        first, second = (each.new_full(each.shape[:2], UNKNOWN, dtype=torch.int64) for each in (ends, others))
        return Truth(first, second, ends.new_zeros(len(ends), ends.shape[1], others.shape[1], dtype=torch.bool))
    forward, alone = _shares(there, others, settings)
    backward, other_alone = _shares(here, ends, settings)
    backward = backward.mT
    partners = (torch.minimum(forward, backward) >= LEAST_SHARED) & (torch.maximum(forward, backward) >= MOST_SHARED)
    column, _ = mutual_partners((forward + backward).masked_fill(~partners, -torch.inf))
    rows = or_unmatched(pairs_of(column.clamp_min(0), column >= 0, others.shape[1]), (alone, other_alone))
    return Truth(*rows, torch.zeros_like(partners))


def joined_lines(seen: Sequence[SeenLines]) -> SeenLines:
    """All pairs as one batch."""
    first, second = (
        Segments(*(torch.cat(each) for each in zip(*((s.ends, s.scores, s.junctions) for s in side), strict=True)))
        for side in ([each.first for each in seen], [each.second for each in seen])
    )
    return SeenLines(first, second, Truth(*(torch.cat(each) for each in zip(*(s.truth for s in seen), strict=True))))


def of_superglue(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """SuperGlue's weights under GlueStick's names, for a network to start from; others as they are."""
    if not any(key.startswith("gnn.layers.0.attn.") for key in state):
        return state
    renamed = {}
    for key, value in state.items():
        parts = key.split(".")
        renamed[".".join([*parts[:3], "update", *parts[3:]]) if parts[0] == "gnn" else key] = value
    lines = {key.replace("final_proj", "final_line_proj"): value for key, value in state.items() if "final_proj" in key}
    return {**renamed, **lines, "line_bin_score": state["bin_score"]}


def _samples(ends: Tensor) -> Tensor:
    """(B, K * SAMPLES, 2) along segments (B, K, 2, 2)."""
    along = torch.linspace(0, 1, SAMPLES, device=ends.device)[:, None]
    return (ends[:, :, :1] * (1 - along) + ends[:, :, 1:] * along).flatten(1, 2)


def _shares(moved: Projected, segments: Tensor, settings: Settings) -> tuple[Tensor, Tensor]:
    """(B, K, L) share of each segment's samples that fall on a segment of the other image, of those that are shown.

    And (B, K) which of them are known to fall on none.
    """
    away = _distances(moved.points, segments).masked_fill(~moved.shown[..., None], torch.inf)
    batch, _, others = away.shape
    shown = moved.shown.view(batch, -1, SAMPLES)
    hits = (away <= settings.same).view(batch, -1, SAMPLES, others).sum(2)
    # A segment of which two samples are seen says little: at least a third has to be.
    share = hits / shown.sum(2).clamp_min(SAMPLES // 3)[..., None]
    near = (away <= settings.apart).any(2).view(batch, -1, SAMPLES).any(2)
    return share, moved.known.view(batch, -1, SAMPLES).all(2) & ~near


def _distances(points: Tensor, segments: Tensor) -> Tensor:
    """(B, N, L) of points (B, N, 2) from segments (B, L, 2, 2)."""
    start, along = segments[:, None, :, 0], segments[:, None, :, 1] - segments[:, None, :, 0]
    offset = points[:, :, None] - start
    place = ((offset * along).sum(-1) / (along**2).sum(-1).clamp_min(1e-9)).clamp(0, 1)
    distances: Tensor = (offset - place[..., None] * along).norm(dim=-1)
    return distances
