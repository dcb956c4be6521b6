"""GlueStick against what the published network gave with the same weights: see tests/golden.py."""

from __future__ import annotations

from typing import Any

import golden
import numpy as np
import pytest
import torch
from golden import GoldenFile, Section, Sections, state_of
from torch import Tensor

from vpr.core import LocalFeatures
from vpr.local_features.lines import LineSegments, merge_ends
from vpr.local_features.sampling import sample
from vpr.local_features.superpoint_network import CELL
from vpr.matchers.gluestick_network import GlueStickNetwork, Segments
from vpr.matchers.one_to_many import mutual_best
from vpr.matchers.points import PointBatch, stack

CPU = torch.device("cpu")


def split(file: GoldenFile) -> Sections:
    names = list(file.arrays)
    wireframe = [name for name in names if name.startswith("wireframe/")]
    return {"pair": [name for name in names if name not in wireframe], "wireframe": wireframe}


def sections(only: str) -> list[Any]:
    return golden.sections(split, "gluestick", only)


def tensor(section: Section, name: str) -> Tensor:
    return torch.from_numpy(section[name].astype(np.float32))


def side_of(section: Section, side: int) -> tuple[PointBatch, Segments]:
    height, width = section.facts["setup"][f"size{side}"]
    given = (tensor(section, f"in_{name}{side}") for name in ("keypoints", "keypoint_scores", "descriptors"))
    batch = stack([LocalFeatures(*given, (width, height))], GlueStickNetwork.reach, CPU)
    centred = tensor(section, f"in_lines{side}") - torch.tensor([width, height]) / 2
    ends = centred / (GlueStickNetwork.reach * max(width, height))
    junctions = torch.from_numpy(section[f"in_lines_junc_idx{side}"]).long()
    return batch, Segments(ends[None], tensor(section, f"in_line_scores{side}")[None], junctions[None])


def check_matches(section: Section, prefix: str, log_scores: Tensor, threshold: float = 0.2) -> None:
    """Partners and scores of both sides, from log-probabilities (1, M, N)."""
    partner, best = (each[0] for each in mutual_best(log_scores))
    theirs, scores = torch.full((2, log_scores.shape[2]), -1.0)
    rows = (partner >= 0).nonzero()[:, 0]
    theirs[partner[rows]] = rows.float()
    scores = torch.zeros_like(scores)
    scores[partner[rows]] = best[rows]
    atol = section.facts["tolerance"]["match_scores"]
    for side, (found, probability) in enumerate(((partner, best), (theirs.long(), scores))):
        section.check(f"{prefix}match_scores{side}", probability, atol)
        kept = torch.where(probability > threshold, found, -1)
        assert kept.tolist() == section[f"{prefix}matches{side}"].tolist(), f"{prefix}matches{side}"


@torch.inference_mode()
@pytest.mark.parametrize("section", sections("pair"))
def test_points_and_lines(section: Section) -> None:
    network, tolerance = GlueStickNetwork(), section.facts["tolerance"]
    network.load_state_dict(network.convert_state_dict(state_of(section, section.facts["shapes"])))
    network.eval()
    sides = [side_of(section, side) for side in (0, 1)]
    with section.compared():
        section["in_true_matches0"], section["in_true_line_matches0"]
        found = network(sides[0][0], sides[1][0], sides[0][1], sides[1][1])
        section.check("log_assignment", found.points, tolerance["log_assignment"])
        section.check("log_assignment_last_column", found.points[0, :, -1], tolerance["log_assignment"])
        section.check("log_assignment_last_row", found.points[0, -1], tolerance["log_assignment"])
        section.check("line_log_assignment", found.lines[0], tolerance["log_assignment"])
        section.check("raw_line_scores", found.line_similarity[0], tolerance["raw_line_scores"])
        check_matches(section, "", found.points[:, :-1, :-1])
        check_matches(section, "line_", found.lines[:, :-1, :-1])


@pytest.mark.parametrize("section", sections("wireframe"))
def test_wireframe(section: Section) -> None:
    name, atol = "wireframe", section.facts["tolerance"]["wireframe"]
    with section.compared():
        segments = LineSegments(tensor(section, f"{name}/in_lines"), tensor(section, f"{name}/in_line_scores"))
        found = merge_ends(segments)
        coarse = tensor(section, f"{name}/in_descriptors").permute(1, 2, 0)[None]
        descriptors = sample(coarse, found.junctions[None], CELL, "published")[0]
        section.check(f"{name}/junctions", found.junctions, atol)
        section.check(f"{name}/junction_scores", found.scores, atol)
        section.check(f"{name}/junction_descriptors", descriptors.mT, atol)
        section.check(f"{name}/lines", found.segments.ends, atol)
        assert found.rows.tolist() == section[f"{name}/lines_junc_idx"].tolist()
        assert found.connectivity.tolist() == section[f"{name}/connectivity"].tolist()
