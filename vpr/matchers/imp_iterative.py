"""Iterative matching and pose of IMP: one pair, left as soon as two relative poses in a row agree.

Xue, Budvytis and Cipolla, CVPR 2023, arXiv:2304.14837. The published code looks at a pose after the iterations that
reuse an attention and after the last one. Of EIMP, what a pose explains also says how many keypoints may leave.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from vpr.core import Doubles, LocalFeatures, Matches
from vpr.matchers.imp_fast import FastImp, GraphSide, Reused
from vpr.matchers.imp_matching import Assign, assigned
from vpr.matchers.imp_network import shares
from vpr.matchers.imp_pooling import Pooling, may_pool, pool
from vpr.matchers.one_to_many import mutual_partners, to_matches
from vpr.matchers.points import size_of
from vpr.relative_pose import FoundPose, Pose, by_essential_matrix, rotation_error_deg, translation_error_deg


@dataclass(frozen=True)
class Stopping:
    """When a pair is left."""

    match_threshold: float = 0.2  # of the matches, where no two poses agreed
    pose_threshold: float = 0.1  # of the matches that a pose is estimated from
    min_matches: int = 25  # for a pose
    max_error: float = 1.0  # pixels from the epipolar line
    stop_deg: float = 1.5  # two poses agree


@dataclass(frozen=True, eq=False)
class IterativeResult:
    """What matching one pair found."""

    matches: Matches  # those that the pose explains, or without two poses that agree all above the threshold
    pose: Pose | None  # the last one; its translation has no length
    iterations: int  # how many it took
    index: tuple[Tensor, Tensor]  # rows of the keypoints of both images that were left


def default_intrinsics(features: LocalFeatures, focal: float) -> Doubles:
    """(3, 3) of a camera that looks at the image's centre; ``focal`` is over the longer side."""
    width, height = size_of(features)
    length = focal * max(width, height)
    return np.array([[length, 0, (width - 1) / 2], [0, length, (height - 1) / 2], [0, 0, 1]])


def match_iteratively(
    network: FastImp,
    sides: tuple[GraphSide, GraphSide],
    points: tuple[Doubles, Doubles],
    intrinsics: tuple[Doubles, Doubles],
    *,
    iterations: int,
    assign: Assign,
    stopping: Stopping,
    pooling: Pooling | None = None,
    uncertainty: bool = False,
) -> IterativeResult:
    """One pair, of which both sides are encoded; points, (M, 2) and (N, 2), and intrinsics are in the same pixels.

    With ``uncertainty`` the threshold of the pooling is multiplied by the share of matches that the pose explains.
    """
    side0, side1 = sides
    sizes = side0.x.shape[1], side1.x.shape[1]
    listened: tuple[Reused, ...] = ()
    pools = False
    found: FoundPose | None = None
    for iteration in range(iterations):
        last = iteration + 1 == iterations
        if shares(iteration + 1):  # whose attention this iteration computes
            pools = pooling is not None and iteration + 2 < iterations and may_pool(side0, side1, pooling)
        side0, side1, listened = network.iterate(iteration, side0, side1, listened, probabilities=pools)
        if not (shares(iteration) or last):
            continue
        scores = assigned(network, iteration, side0, side1, assign)
        matches = _matches(scores, side0, side1, stopping.pose_threshold)
        before, found = found, _pose(matches, points, intrinsics, stopping) or found
        if found is not None and found is not before:
            if before is not None and _apart_deg(found.pose, before.pose) <= stopping.stop_deg:
                inliers = torch.from_numpy(found.inliers)
                matches = Matches(matches.pairs[inliers], matches.scores[inliers])
                return _result(matches, found, iteration, side0, side1)
        if pooling is not None and pools:
            share = float(found.inliers.mean()) if uncertainty and found is not None and found is not before else 1.0
            how = Pooling(pooling.threshold * share, pooling.min_keypoints)
            side0, side1 = pool((side0, side1), scores, listened, how, sizes)
    matches = _matches(scores, side0, side1, stopping.match_threshold)
    return _result(matches, found, iterations - 1, side0, side1)


def _matches(scores: Tensor, side0: GraphSide, side1: GraphSide, threshold: float) -> Matches:
    """Of one pair, (1, M, N) probabilities, in rows of the input."""
    partner, best = (each[0].cpu() for each in mutual_partners(scores))
    found = to_matches(partner, best, threshold)
    rows, columns = found.pairs.unbind(1)
    index0, index1 = side0.index[0].cpu(), side1.index[0].cpu()
    return Matches(torch.stack([index0[rows], index1[columns]], dim=1), found.scores.clamp(max=1))


def _pose(
    matches: Matches, points: tuple[Doubles, Doubles], intrinsics: tuple[Doubles, Doubles], stopping: Stopping
) -> FoundPose | None:
    if len(matches) < stopping.min_matches:
        return None
    first, second = (each[rows.numpy()] for each, rows in zip(points, matches.pairs.unbind(1), strict=True))
    return by_essential_matrix(first, second, *intrinsics, threshold=stopping.max_error, method=cv2.USAC_MAGSAC)


def _apart_deg(one: Pose, other: Pose) -> float:
    return max(
        rotation_error_deg(one.rotation, other.rotation), translation_error_deg(one.translation, other.translation)
    )


def _result(
    matches: Matches, found: FoundPose | None, iteration: int, side0: GraphSide, side1: GraphSide
) -> IterativeResult:
    pose = None if found is None else found.pose
    return IterativeResult(matches, pose, iteration + 1, (side0.index[0].cpu(), side1.index[0].cpu()))
