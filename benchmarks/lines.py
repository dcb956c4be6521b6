"""Homographies of photographs from points, from line segments, and from both, on folders with homographies.csv.

    python benchmarks/lines.py data/geometry/oxford_graf data/geometry/homogr --out benchmarks/results/NAME.json
        [--gluestick WEIGHTS --match-threshold 0.02]

By descriptors alone: points are those of the config superpoint_geometry, mutual nearest neighbours with its ratio test;
segments are matched by the descriptors of their ends: the similarity of two is GlueStick's, of cosines, and a match is
each other's best. With --gluestick also by a GlueStick that was trained on the features of vpr-superpoint. Errors are
in pixels of the images as vpr-superpoint sees them (longest side 640); the area under the curve is over all pairs of a
folder.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vpr.build import build_image_matcher, build_local, build_matcher
from vpr.core import LocalFeatures
from vpr.datasets.homography_pairs import read_homography_folder
from vpr.geometry.auc import area_under_curve
from vpr.geometry.homography import corner_error, scale_homography
from vpr.geometry.line_homography import PointAndLineMatches, homography_from
from vpr.images import read_image
from vpr.local_features.lines import Wireframe, detect_lines, merge_ends
from vpr.matchers.gluestick_network import line_similarity
from vpr.matchers.one_to_many import mutual_partners
from vpr.runtime import device as machine
from vpr.runtime.files import write_json
from vpr.settings import configured

BOUNDS = (1.0, 3.0, 5.0, 10.0)
THRESHOLD = 3.0  # pixels of the estimation
CPU = torch.device("cpu")


class Seen:
    """One image: its points, its segments, and the descriptors of their ends."""

    def __init__(self, extractor: Any, path: Path) -> None:
        image = read_image(path, "grey")
        prepared = extractor.preprocess(image)
        self.prepared = prepared
        self.wireframe: Wireframe = merge_ends(detect_lines(prepared[0].numpy()))
        self.points: LocalFeatures = extractor.extract([prepared])[0]
        self.ends = extractor.extract_with(prepared, self.wireframe.junctions)[1]
        self.size = self.points.image_size
        self.factors = self.size[0] / image.shape[1], self.size[1] / image.shape[0]


def by_descriptors(matcher: Any, first: Seen, second: Seen) -> PointAndLineMatches:
    rows = matcher.match(first.points, [second.points])[0].pairs
    lines0, lines1 = first.wireframe, second.wireframe
    pairs = torch.zeros(0, 2, dtype=torch.int64)
    if len(lines0.rows) and len(lines1.rows):
        similarity = line_similarity((first.ends @ second.ends.mT)[None], lines0.rows[None], lines1.rows[None])
        partner = mutual_partners(similarity)[0][0]
        kept = (partner >= 0).nonzero()[:, 0]
        pairs = torch.stack([kept, partner[kept]], dim=1)
    chosen = (
        first.points.keypoints[rows[:, 0]],
        second.points.keypoints[rows[:, 1]],
        lines0.segments.ends[pairs[:, 0]],
        lines1.segments.ends[pairs[:, 1]],
    )
    return PointAndLineMatches(*(each.double().numpy() for each in chosen))


def by_gluestick(method: Any, first: Seen, second: Seen) -> PointAndLineMatches:
    query, candidate = (method.describe(each.prepared) for each in (first, second))
    ((points, lines, _, _),) = method.match_both(query, [candidate])
    chosen = points.keypoints0, points.keypoints1, lines.ends0, lines.ends1
    return PointAndLineMatches(*(each.double().numpy() for each in chosen))


def only(kind: str, every: PointAndLineMatches) -> PointAndLineMatches:
    points, lines = slice(None if kind != "lines" else 0), slice(None if kind != "points" else 0)
    return PointAndLineMatches(every.points0[points], every.points1[points], every.ends0[lines], every.ends1[lines])


def rows_of(folder: str, name: str, match: Any, seen: list[tuple[Seen, Seen, Any]]) -> list[dict[str, Any]]:
    """Figures of one folder by one matcher."""
    errors: dict[str, list[float]] = {"points": [], "lines": [], "points and lines": []}
    counts, rows = [], []
    for first, second, homography in seen:
        truth = scale_homography(homography, first.factors, second.factors)
        every = match(first, second)
        counts.append((len(every.points0), len(every.ends0)))
        for kind, found in errors.items():
            estimate = homography_from(only(kind, every), THRESHOLD)
            found.append(corner_error(estimate, truth, first.size, "outer"))
    for kind, found in errors.items():
        areas = zip(BOUNDS, area_under_curve(found, BOUNDS), strict=True)
        row: dict[str, Any] = {"folder": folder, "pairs": len(found), "matcher": name, "from": kind}
        row |= {f"auc_{bound:g}px": round(100 * area, 1) for bound, area in areas}
        median = float(np.median(found))
        row |= {"median_error": median if np.isfinite(median) else None}
        rows.append(row | {"matches": np.mean(counts, axis=0).round(1).tolist()})
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--gluestick", help="name or file of weights for the features of vpr-superpoint")
    parser.add_argument("--match-threshold", type=float, default=0.2, help="of that GlueStick's matches")
    arguments = parser.parse_args()
    settings = configured("superpoint_geometry", {})
    extractor, matcher = build_local(settings), build_matcher(settings)
    methods = {"descriptors": partial(by_descriptors, matcher)}
    if arguments.gluestick:
        threshold = arguments.match_threshold
        given = {"method": "gluestick", "weights": arguments.gluestick, "match_threshold": threshold}
        gluestick = build_image_matcher(configured(None, {"image_matcher": given}))
        methods["gluestick"] = partial(by_gluestick, gluestick)
    results = []
    for folder in arguments.folders:
        seen = [
            (*(Seen(extractor, each) for each in (pair.first, pair.second)), pair.homography)
            for pair in read_homography_folder(folder)
        ]
        for name, match in methods.items():
            results += rows_of(folder.name, name, match, seen)
    command = shlex.join(["python", *sys.argv])
    write_json(arguments.out, {**machine.facts(command, CPU), "results": results})


if __name__ == "__main__":
    main()
