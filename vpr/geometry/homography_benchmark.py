"""Local features, matchers and estimators on pairs with a known homography: one row per pair, and their summary."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from vpr.core import Doubles, Rows, Verifier
from vpr.datasets.homography_pairs import HomographyPair
from vpr.geometry import descriptors
from vpr.geometry.auc import area_under_curve, fraction_within
from vpr.geometry.detectors import repeatability, shared_by_both, strongest
from vpr.geometry.homography import (
    Corners,
    corner_error,
    scale_homography,
    symmetric_transfer_errors,
    transfer_errors,
)
from vpr.geometry.homography_estimators import HOMOGRAPHY_ESTIMATORS, opencv_ransac
from vpr.geometry.matching import Matching
from vpr.geometry.rows import VERIFICATION, Estimator, Row, columns_of, mean_of, median_of, parts_of
from vpr.geometry.views import MatchedViews, Resize, View

BOUNDS = (1.0, 3.0, 5.0)  # pixels
SWEEP = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0)
SHARED_POINTS = 1000
_SYMMETRIC = tuple(f"precision_symmetric_{bound:g}px" for bound in BOUNDS)
_SHARED = "error_px shared points"
_OF_MATCHES = ("precision", *_SYMMETRIC)
_FRACTIONS = (
    *_OF_MATCHES,
    "repeatability",
    *(f"{measure}_{truth}" for measure in ("nn_ap", "matching_score") for truth in ("true", "estimated")),
    "matching_score_published",
)


@dataclass(frozen=True)
class HomographyProtocol:
    """Settings of a table of homographies."""

    name: str
    source: str
    resize: Resize
    corners: Corners  # whose mean error judges a homography
    points: int = 1000  # judged for repeatability
    repeatable: float = 3.0  # pixels
    estimators: tuple[Estimator, ...] = ()
    settings: Mapping[str, object] = field(default_factory=dict)  # of local features and matcher, unless the user says


_FIXED = tuple(Estimator(name, 3.0 if HOMOGRAPHY_ESTIMATORS[name].swept else None) for name in HOMOGRAPHY_ESTIMATORS)
_SWEPT = (
    Estimator("dlt"),
    *(Estimator(name, threshold) for name in ("opencv", "poselib", "pycolmap") for threshold in SWEEP),
)

HOMOGRAPHY_PROTOCOLS: Mapping[str, HomographyProtocol] = {
    "plain": HomographyProtocol(
        name="plain",
        source="ours: images keep their shape, methods are set as everywhere in vpr",
        resize=Resize("longest", 640),
        corners="centres",
        estimators=(Estimator(VERIFICATION), *_FIXED),
        settings={"local_features.longest_side": 640},
    ),
    "superpoint": HomographyProtocol(
        name="superpoint",
        source="SuperPoint (DeTone et al., CVPR workshops 2018) as pytorch-superpoint runs it",
        resize=Resize("exactly", size=(320, 240)),
        corners="centres",
        estimators=(Estimator("opencv", 3.0),),
        settings={
            "local_features.max_keypoints": 1000,
            "local_features.keypoint_threshold": 0.015,
            "local_features.subpixel": True,
            "matcher.ratio": 1.0,
        },
    ),
    "rpautrat-detectors": HomographyProtocol(
        name="rpautrat-detectors",
        source="rpautrat/SuperPoint, repeatability",
        resize=Resize("exactly", size=(320, 240)),
        corners="centres",
        points=300,
        estimators=(Estimator("opencv", 3.0),),
        settings={"local_features.max_keypoints": 10_000, "local_features.subpixel": False, "matcher.ratio": 1.0},
    ),
    "rpautrat-descriptors": HomographyProtocol(
        name="rpautrat-descriptors",
        source="rpautrat/SuperPoint, homographies from the points that both images show",
        resize=Resize("exactly", size=(640, 480)),
        corners="centres",
        estimators=(Estimator("opencv", 3.0),),
        settings={
            "local_features.max_keypoints": 10_000,
            "local_features.nms_radius": 8,
            "local_features.subpixel": False,
            "matcher.ratio": 1.0,
        },
    ),
    "glue-factory": HomographyProtocol(
        name="glue-factory",
        source="Glue Factory (Lindenberger et al., ICCV 2023), HPatches",
        resize=Resize("shortest", 480, enlarge=True),
        corners="outer",
        estimators=_SWEPT,
        settings={
            "local_features.max_keypoints": 1024,
            "local_features.longest_side": 4096,
            "local_features.subpixel": False,
        },
    ),
}


@dataclass(frozen=True, eq=False)
class HomographyBench:
    """Measures one pair of images."""

    matching: Matching
    verifier: Verifier | None  # with the model "homography"; None to leave it out
    protocol: HomographyProtocol
    estimators: Sequence[Estimator]

    def row(self, pair: HomographyPair) -> Row:
        """Returns all measures of one pair; see docs/geometry.md for the columns. Raises ImageError."""
        found, truth = self._matched(pair)
        first, second, rows, scores, right = found.first, found.second, found.pairs, found.scores, found.correct
        matched = found.points
        symmetric = symmetric_transfer_errors(*matched, truth)
        row: Row = {
            "points_first": len(first.points),
            "points_second": len(second.points),
            "matches": len(rows),
            "correct_matches": int(right.sum()),
            "precision": float(right.mean()) if len(rows) else 0.0,
        }
        for column, bound in zip(_SYMMETRIC, BOUNDS, strict=True):
            row[column] = float((symmetric < bound).mean()) if len(rows) else 0.0
        if self.matching.detects:
            row |= self._of_detector(first, second, truth) | self._of_descriptors(first, second, truth)
        for estimator in self.estimators:
            model = self._estimate(estimator, matched, scores)
            row[f"error_px {estimator}"] = corner_error(model, truth, first.size, self.protocol.corners)
            if estimator.threshold is not None:
                row[f"inliers {estimator}"] = (
                    0 if model is None else int((transfer_errors(*matched, model) <= estimator.threshold).sum())
                )
        return row

    def matched(self, pair: HomographyPair) -> MatchedViews:
        """Views and matches of one pair, correct within descriptors.RIGHT pixels. Raises ImageError."""
        return self._matched(pair)[0]

    def _matched(self, pair: HomographyPair) -> tuple[MatchedViews, Doubles]:
        """Also the homography between both views."""
        first, second, rows, scores = self.matching.of(pair.first, pair.second)
        truth = scale_homography(pair.homography, first.factors, second.factors)
        correct = transfer_errors(first.points[rows[:, 0]], second.points[rows[:, 1]], truth) <= descriptors.RIGHT
        return MatchedViews(first, second, rows, scores, correct), truth

    def failed(self) -> Row:
        """The row of a pair of which an image cannot be read: a failure of everything."""
        row: Row = dict.fromkeys(("points_first", "points_second", "matches", "correct_matches"), 0)
        row |= dict.fromkeys(_FRACTIONS if self.matching.detects else _OF_MATCHES, 0.0)
        row |= {f"inliers {estimator}": 0 for estimator in self.estimators if estimator.threshold is not None}
        errors = [f"error_px {estimator}" for estimator in self.estimators]
        return row | dict.fromkeys([_SHARED, *errors] if self.matching.detects else errors, np.inf)

    def _of_detector(self, first: View, second: View, truth: Doubles) -> Row:
        found = repeatability(
            first.points,
            first.scores,
            second.points,
            second.scores,
            truth,
            size=first.size,
            second_size=second.size,
            points=self.protocol.points,
            distance=self.protocol.repeatable,
        )
        return {"repeatability": found.repeatability, "localisation_error": found.localisation_error}

    def _of_descriptors(self, first: View, second: View, truth: Doubles) -> Row:
        """By nearest neighbours, whatever the matcher."""
        nearest = descriptors.mutual_nearest(first.descriptors, second.descriptors)
        near = nearest.within(descriptors.MAX_DISTANCE)
        in_second, in_first = shared_by_both(first.points, second.points, truth, first.size, second.size)
        shared = int(in_second.sum()), int(in_first.sum())
        matched, matched_near = (_matched(first, second, each.pairs) for each in (nearest, near))
        true = int(descriptors.right_by_truth(*matched, truth).sum())
        estimated = int(descriptors.right_by_estimate(*matched).sum())
        return {
            "nn_ap_true": descriptors.nearest_neighbour_ap(near, descriptors.right_by_truth(*matched_near, truth)),
            "nn_ap_estimated": descriptors.nearest_neighbour_ap(near, descriptors.right_by_estimate(*matched_near)),
            "matching_score_true": descriptors.matching_score(true, *shared),
            "matching_score_estimated": descriptors.matching_score(estimated, *shared),
            "matching_score_published": descriptors.published_matching_score(
                estimated, first.points, second.points, truth, first.size
            ),
            _SHARED: self._error_on_shared(first, second, in_second, in_first, truth),
        }

    def _error_on_shared(
        self, first: View, second: View, in_second: NDArray[np.bool_], in_first: NDArray[np.bool_], truth: Doubles
    ) -> float:
        """As in rpautrat/SuperPoint: RANSAC on nearest neighbours among the strongest points that both show."""
        rows = strongest(first.scores, in_second, SHARED_POINTS), strongest(second.scores, in_first, SHARED_POINTS)
        nearest = descriptors.mutual_nearest(first.descriptors[rows[0]], second.descriptors[rows[1]])
        p, q = first.points[rows[0][nearest.pairs[:, 0]]], second.points[rows[1][nearest.pairs[:, 1]]]
        return corner_error(opencv_ransac(p, q, np.ones(len(p)), 3.0), truth, first.size, self.protocol.corners)

    def _estimate(self, estimator: Estimator, matched: tuple[Doubles, Doubles], scores: Doubles) -> Doubles | None:
        if estimator.name == VERIFICATION:
            return None if self.verifier is None else self.verifier.verify([matched])[0].model
        return HOMOGRAPHY_ESTIMATORS[estimator.name].estimate(*matched, scores, estimator.threshold or 0.0)


def _matched(first: View, second: View, pairs: Rows) -> tuple[Doubles, Doubles]:
    return first.points[pairs[:, 0]], second.points[pairs[:, 1]]


def summarise_homographies(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Two tables: ``features``, a row per part of the data set, and ``homographies``, one per part and estimator."""
    features: list[Row] = []
    homographies: list[Row] = []
    for part, chosen in parts_of(rows).items():
        features.append(
            {
                "part": part,
                "pairs": len(chosen),
                "points": (mean_of(chosen, "points_first") + mean_of(chosen, "points_second")) / 2,
                "matches": mean_of(chosen, "matches"),
                "correct_matches": mean_of(chosen, "correct_matches"),
                "precision": mean_of(chosen, "precision"),
                **{key: mean_of(chosen, key) for key in _SYMMETRIC},
                **{f"median_{key}": median_of(chosen, key) for key in _SYMMETRIC},
                **{key: mean_of(chosen, key) for key in ("repeatability", "localisation_error")},
                **{f"nn_map_{kind}": mean_of(chosen, f"nn_ap_{kind}") for kind in ("true", "estimated")},
                **{
                    f"matching_score_{kind}": mean_of(chosen, f"matching_score_{kind}")
                    for kind in ("true", "estimated", "published")
                },
            }
        )
        homographies += [{"part": part, **row} for row in _of_estimators(chosen)]
    return {"features": features, "homographies": homographies}


def _of_estimators(rows: Sequence[Row]) -> list[Row]:
    """One row per estimator and threshold; one more for the best threshold of each that was swept."""
    table: list[Row] = []
    for column in columns_of(rows, "error_px "):
        errors = np.array([float(row.get(column, np.inf)) for row in rows])
        estimator = column.removeprefix("error_px ")
        inliers = np.array([float(row.get(f"inliers {estimator}", np.nan)) for row in rows])
        matches = np.array([float(row["matches"]) for row in rows])
        table.append(
            {
                "estimator": estimator,
                **{f"correct_{bound:g}px": fraction_within(errors, bound) for bound in BOUNDS},
                **{
                    f"auc_{bound:g}px": area
                    for bound, area in zip(BOUNDS, area_under_curve(errors, BOUNDS), strict=True)
                },
                "median_error_px": float(np.median(errors)),
                "mean_inliers": float(inliers.mean()),
                "inlier_ratio": float((inliers / np.maximum(matches, 1)).mean()),
            }
        )
    return table + [best for name in HOMOGRAPHY_ESTIMATORS if (best := _best(name, table))]


def _best(name: str, table: Iterable[Row]) -> Row | None:
    """Glue Factory's row: the threshold with the best mean AUC, which was chosen on the pairs it is measured on."""
    swept = [row for row in table if str(row["estimator"]).startswith(f"{name} ")]
    if len(swept) < 2:
        return None
    best = max(swept, key=lambda row: sum(float(row[f"auc_{bound:g}px"]) for bound in BOUNDS))
    return {**best, "estimator": f"{best['estimator']}, best of {len(swept)} on these pairs"}
