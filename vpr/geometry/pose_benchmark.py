"""Local features, matcher and estimators on pairs with a known relative pose: one row per pair, and their summary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from vpr import relative_pose as geometry
from vpr.core import Doubles, Verifier
from vpr.datasets.pose_pairs import PosePair
from vpr.geometry.auc import area_under_curve
from vpr.geometry.homography import resizing
from vpr.geometry.matching import Matching
from vpr.geometry.pose_estimators import POSE_ESTIMATORS, pose_of_fundamental
from vpr.geometry.rows import VERIFICATION, Estimator, Row, columns_of, mean_of, parts_of
from vpr.geometry.views import MatchedViews, Resize

BOUNDS_DEG = (5.0, 10.0, 20.0, 50.0)  # 50 is only IMP's


@dataclass(frozen=True)
class Precision:
    """The fraction of matches whose epipolar error, in normalised pixels, is below a bound."""

    name: str
    squared: bool  # the sum of both squared distances, or the mean of both distances
    bound: float


PRECISIONS = (
    Precision("superglue_5e-4", squared=True, bound=5e-4),  # LoFTR's on ScanNet too
    Precision("loftr_1e-4", squared=True, bound=1e-4),  # on MegaDepth
    Precision("glue_factory_1e-4", squared=False, bound=1e-4),
    Precision("glue_factory_5e-4", squared=False, bound=5e-4),
    Precision("glue_factory_1e-3", squared=False, bound=1e-3),
    Precision("imp_5e-3", squared=False, bound=5e-3),
)
CORRECT = PRECISIONS[0]  # decides which matches count in SuperGlue's matching score


@dataclass(frozen=True)
class PoseProtocol:
    """Settings of images and methods, and the estimators of the published tables of a data set."""

    name: str
    source: str
    resize: Resize
    estimators: tuple[Estimator, ...]
    settings: Mapping[str, object] = field(default_factory=dict)  # of local features, unless the user says


# Which convention an estimator with its threshold belongs to.
CONVENTIONS: Mapping[str, str] = {
    "opencv 0.5px": "Glue Factory on MegaDepth, LoFTR",
    "opencv 1px": "SuperGlue; Glue Factory on ScanNet",
    "poselib 2px": "Glue Factory",
    "pycolmap 4px": "Glue Factory",
    "magsac 1px": "IMP on YFCC",
    "magsac 3px": "IMP on ScanNet",
}
_ESTIMATORS = (
    Estimator(VERIFICATION),
    Estimator("opencv", 0.5),
    Estimator("opencv", 1.0),
    Estimator("poselib", 2.0),
    Estimator("pycolmap", 4.0),
    Estimator("magsac", 1.0),
    Estimator("magsac", 3.0),
)


def _large(points: int) -> Mapping[str, object]:
    return {
        "local_features.max_keypoints": points,
        "local_features.longest_side": 1600,
        "local_features.subpixel": False,
    }


POSE_PROTOCOLS: Mapping[str, PoseProtocol] = {
    "megadepth1500": PoseProtocol(
        "megadepth1500",
        "Glue Factory, MegaDepth-1500",
        Resize("longest", 1600, enlarge=True),
        _ESTIMATORS,
        _large(2048),
    ),
    "scannet1500": PoseProtocol(
        "scannet1500",
        "SuperGlue and Glue Factory, ScanNet-1500",
        Resize("exactly", size=(640, 480)),
        _ESTIMATORS,
        {"local_features.max_keypoints": 1024, "local_features.subpixel": False},
    ),
    "scannet": PoseProtocol(
        "scannet",
        "IMP, ScanNet from the raw data",
        Resize("exactly", size=(640, 480)),
        _ESTIMATORS,
        {"local_features.max_keypoints": 1000, "local_features.subpixel": False},
    ),
    "yfcc": PoseProtocol(
        "yfcc", "SuperGlue and IMP, YFCC-4000", Resize("longest", 1600, enlarge=True), _ESTIMATORS, _large(2048)
    ),
    "pose-folder": PoseProtocol(
        "pose-folder",
        "ours: methods are set as everywhere in vpr",
        Resize("longest", 1600),
        _ESTIMATORS,
        {"local_features.longest_side": 1600},
    ),
}


# Files of IMP and SGMNet with features and pairs, by their own estimator.
STORED_PROTOCOLS: Mapping[str, PoseProtocol] = {
    "yfcc": PoseProtocol("yfcc-stored", "IMP, YFCC, stored features", Resize(), (Estimator("magsac", 1.0),)),
    "scannet": PoseProtocol("scannet-stored", "IMP, ScanNet, stored features", Resize(), (Estimator("magsac", 3.0),)),
}


@dataclass(frozen=True, eq=False)
class PoseBench:
    """Measures one pair of images."""

    matching: Matching
    verifier: Verifier | None  # with the model "fundamental"; None to leave it out
    estimators: Sequence[Estimator]

    def row(self, pair: PosePair) -> Row:
        """Returns all measures of one pair; see docs/geometry.md for the columns. Raises ImageError."""
        found, K0, K1 = self._matched(pair)
        truth = geometry.Pose(pair.rotation, pair.translation)
        right = precisions(*found.points, K0, K1, truth=truth)
        row: Row = {
            "points_first": len(found.first.points),
            "points_second": len(found.second.points),
            "matches": len(found.pairs),
            "correct_matches": int(found.correct.sum()),
            "matching_score": float(found.correct.sum() / max(len(found.first.points), 1)),
        }
        for name, correct in right.items():
            row[f"precision_{name}"] = float(correct.mean()) if len(found.pairs) else 0.0
        for estimator in self.estimators:
            estimate = self._estimate(estimator, found.points, K0, K1)
            row[f"error_deg {estimator}"] = geometry.pose_error_deg(estimate, truth)
        return row

    def matched(self, pair: PosePair) -> MatchedViews:
        """Views and matches of one pair, those correct by CORRECT. Raises ImageError."""
        return self._matched(pair)[0]

    def _matched(self, pair: PosePair) -> tuple[MatchedViews, Doubles, Doubles]:
        """Also the intrinsics of both views."""
        cameras = pair.first_intrinsics, pair.second_intrinsics
        first, second, rows, scores = self.matching.of(pair.first, pair.second, pair.turns, cameras)
        K0 = resizing(first.factors) @ pair.first_intrinsics
        K1 = resizing(second.factors) @ pair.second_intrinsics
        truth = geometry.Pose(pair.rotation, pair.translation)
        points = first.points[rows[:, 0]], second.points[rows[:, 1]]
        correct = precisions(*points, K0, K1, truth=truth)[CORRECT.name]
        return MatchedViews(first, second, rows, scores, correct), K0, K1

    def failed(self) -> Row:
        """The row of a pair of which an image cannot be read: a failure of everything."""
        row: Row = {name: 0 for name in ("points_first", "points_second", "matches", "correct_matches")}
        row |= {"matching_score": 0.0, **{f"precision_{each.name}": 0.0 for each in PRECISIONS}}
        return row | {f"error_deg {estimator}": np.inf for estimator in self.estimators}

    def _estimate(
        self, estimator: Estimator, matched: tuple[Doubles, Doubles], K0: Doubles, K1: Doubles
    ) -> geometry.Pose | None:
        if estimator.name != VERIFICATION:
            return POSE_ESTIMATORS[estimator.name](*matched, K0, K1, estimator.threshold or 1.0)
        verified = None if self.verifier is None else self.verifier.verify([matched])[0]
        if verified is None or verified.model is None:
            return None
        inliers = matched[0][verified.inliers], matched[1][verified.inliers]
        return pose_of_fundamental(verified.model, *inliers, K0, K1)


def precisions(
    first: Doubles, second: Doubles, K0: Doubles, K1: Doubles, *, truth: geometry.Pose
) -> dict[str, NDArray[np.bool_]]:
    """Which matches (M,) each convention calls correct."""
    essential = geometry.essential_matrix(truth)
    rays = geometry.normalised(first, K0), geometry.normalised(second, K1)
    errors = {
        True: geometry.squared_epipolar_errors(*rays, essential),
        False: geometry.epipolar_errors(*rays, essential),
    }
    return {each.name: errors[each.squared] < each.bound for each in PRECISIONS}


def summarise_poses(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Two tables: ``matches`` with a row per part of the data set, ``poses`` with one per part and estimator."""
    matches: list[Row] = []
    poses: list[Row] = []
    for part, chosen in parts_of(rows).items():
        columns = ["matches", "correct_matches", "matching_score", *(f"precision_{each.name}" for each in PRECISIONS)]
        points = (mean_of(chosen, "points_first") + mean_of(chosen, "points_second")) / 2
        means: Row = {column: mean_of(chosen, column) for column in columns}
        matches.append({"part": part, "pairs": len(chosen), "points": points, **means})
        for column in columns_of(chosen, "error_deg "):
            errors = np.array([float(row.get(column, np.inf)) for row in chosen])
            name = column.removeprefix("error_deg ")
            areas = zip(BOUNDS_DEG, area_under_curve(errors, BOUNDS_DEG), strict=True)
            poses.append(
                {
                    "part": part,
                    "estimator": name,
                    "convention": CONVENTIONS.get(name, ""),
                    **{f"auc_{bound:g}deg": area for bound, area in areas},
                    "median_error_deg": float(np.median(errors)),
                }
            )
    return {"matches": matches, "poses": poses}
