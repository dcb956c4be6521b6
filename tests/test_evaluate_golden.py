"""The measures of the geometry benchmarks against what the published evaluators computed from the same inputs."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from vpr.geometry import corners, descriptors, detectors, homography, pose
from vpr.geometry.auc import area_under_curve
from vpr.geometry.homography_estimators import direct_linear, opencv_ransac
from vpr.geometry.pose_estimators import opencv_ransac as opencv_pose

SIZE = (320, 240)


@pytest.fixture(scope="module")
def golden():
    path = Path(__file__).parents[2] / "shared" / "golden" / "metrics_seed1.npz"
    if not path.exists():
        pytest.skip("../shared/golden, which is not part of this repository, is absent")
    with np.load(path) as file:
        return {key: file[key] for key in file.files}


def case(golden, prefix):
    return {
        key.removeprefix(prefix + "/"): value.astype(np.float64)
        for key, value in golden.items()
        if key.startswith(prefix + "/")
    }


@pytest.mark.parametrize("number", range(6))
@pytest.mark.parametrize(
    ("name", "bounds", "tolerance"),
    [
        ("superglue_5_10_20_64", (5, 10, 20), 1e-9),
        ("superglue_1_3_5_10_64", (1, 3, 5, 10), 1e-9),
        ("gluefactory_1_3_5_64", (1, 3, 5), 5.1e-5),  # rounded to four digits
        ("gluefactory_5_10_20_64", (5, 10, 20), 5.1e-5),
    ],
)
def test_area_under_curve(golden, number, name, bounds, tolerance):
    areas = area_under_curve(golden[f"auc/{number}/in_errors64"], bounds)
    np.testing.assert_allclose(areas, golden[f"auc/{number}/{name}"], atol=tolerance)


def test_pose_errors(golden):
    given = case(golden, "pose_error")
    for i in range(20):
        found = (
            pose.translation_error_deg(given["in_t64"][i], given["in_t_true64"][i]),
            pose.rotation_error_deg(given["in_R64"][i], np.eye(3)),
        )
        np.testing.assert_allclose(found, given["error_t_R64"][i], atol=1e-5)


def test_epipolar_errors_and_poses(golden):
    """Every one of the 36 scenes, not only their AUC: OpenCV's RANSAC repeats itself."""
    given = case(golden, "pose")
    cuts = given["in_counts"].astype(int).cumsum()[:-1]
    points0, points1, epipolar = (
        np.split(given[name], cuts) for name in ("in_points0", "in_points1", "epipolar_error64")
    )
    errors = []
    for i in range(36):
        K0, K1, T = (given[f"in_{name}64"][i] for name in ("K0", "K1", "T"))
        truth = pose.Pose(T[:3, :3], T[:3, 3])
        rays = pose.normalised(points0[i], K0), pose.normalised(points1[i], K1)
        found = pose.squared_epipolar_errors(*rays, pose.essential_matrix(truth))
        np.testing.assert_allclose(found, epipolar[i], rtol=0, atol=1e-9)
        correct = found < 5e-4
        np.testing.assert_allclose([correct.mean(), correct.sum()], given["precision_and_correct64"][i])
        cv2.setRNGSeed(0)
        errors.append(pose.pose_error_deg(opencv_pose(points0[i], points1[i], K0, K1, 1.0), truth))
    published = np.maximum(given["error_t64"], given["error_R64"])
    np.testing.assert_allclose(area_under_curve(errors, (5, 10, 20)), given["auc_5_10_20_64"], atol=0.03)
    if cv2.__version__.startswith("5.0"):  # the version that made the file
        np.testing.assert_allclose(errors, published, atol=1e-5)


def test_corner_errors_and_their_auc(golden):
    errors, direct = [], []
    for i in range(12):
        given = case(golden, f"homography/{i}")
        size = tuple(int(side) for side in given["in_size_wh"])
        errors.append(homography.corner_error(given["in_H_estimate64"], given["in_H64"], size, "outer"))
        found = direct_linear(given["in_points0"], given["in_points1"], given["in_weights"])
        direct.append(homography.corner_error(found, given["in_H64"], size, "outer"))
    np.testing.assert_allclose(errors, golden["homography/corner_error"], atol=1e-3)
    np.testing.assert_allclose(direct, golden["homography/dlt_corner_error"], atol=1e-3)
    np.testing.assert_allclose(area_under_curve(errors, (1, 3, 5)), golden["homography/auc_1_3_5_64"], atol=5.1e-5)


def test_symmetric_transfer_errors(golden):
    """The published evaluator inverts in float32 through a singular value decomposition, and is off by up to 0.006 px.

    Ours in float64 differs from it by no more than float32 explains, and moves a point across a bound only if its error
    is that near to it.
    """
    noise = 0.008
    for i in range(12):
        given = case(golden, f"homography/{i}")
        published = golden["homography/precision_1_3_mean"][i].astype(np.float64)
        errors = homography.symmetric_transfer_errors(given["in_points0"], given["in_points1"], given["in_H64"])
        for bound, precision in zip((1, 3), published[:2], strict=True):
            assert (errors < bound - noise).mean() - 1e-6 <= precision <= (errors < bound + noise).mean() + 1e-6
        assert abs(errors.mean() - published[2]) < noise
        first, second, truth = (torch.from_numpy(given[name]) for name in ("in_points0", "in_points1", "in_H64"))
        exact, rounded = (_mean_through_pinverse(first.to(t), second.to(t), truth.to(t)) for t in TYPES)
        assert abs(errors.mean() - exact) < 1e-9
        assert abs(rounded - exact) < noise


TYPES = (torch.float64, torch.float32)


def _mean_through_pinverse(first, second, truth):
    def moved(points, matrix):
        mapped = torch.nn.functional.pad(points, (0, 1), value=1.0) @ matrix
        return mapped[:, :2] / mapped[:, 2:]

    forth = (moved(first, truth.T) - second).norm(dim=1)
    back = (moved(second, torch.pinverse(truth.T)) - first).norm(dim=1)
    return float(((forth + back) / 2).mean())


@pytest.mark.parametrize("number", range(8))
def test_repeatability_of_rpautrat(golden, number):
    given = case(golden, f"hpatches/{number}")
    expected = golden["hpatches/rpautrat_repeatability_k100t1_k100t3_k300t1_k300t3_64"][number]
    for (points, distance), value in zip([(100, 1), (100, 3), (300, 1), (300, 3)], expected, strict=True):
        assert repeatability(given, points, distance).repeatability == pytest.approx(value, abs=1e-9)


def test_mean_repeatability_of_rpautrat(golden):
    values = [repeatability(case(golden, f"hpatches/{i}"), 300, 3).repeatability for i in range(8)]
    assert np.mean(values) == pytest.approx(golden["hpatches/rpautrat_repeatability_all_k300t3_64"], abs=1e-9)


def repeatability(given, points, distance):
    return detectors.repeatability(
        given["in_kp"],
        given["in_score"],
        given["in_kpw"],
        given["in_scorew"],
        given["in_homography64"],
        size=SIZE,
        points=points,
        distance=distance,
    )


@pytest.mark.parametrize("number", range(8))
def test_homography_of_rpautrat(golden, number):
    """From the points that both images show; the published code stops with an error at fewer than four matches."""
    given = case(golden, f"hpatches/{number}")
    first, second, truth = given["in_kp"], given["in_kpw"], given["in_homography64"]
    shown = detectors.shared_by_both(first, second, truth, SIZE, SIZE)
    assert [int(each.sum()) for each in shown] == golden["hpatches/rpautrat_shared_points"][number].tolist()
    raster = [np.lexsort((given[name][:, 0], given[name][:, 1])) for name in ("in_kp", "in_kpw")]
    rows = [
        order[detectors.strongest(given[name][order], seen[order], 1000)]
        for order, name, seen in zip(raster, ("in_score", "in_scorew"), shown, strict=True)
    ]
    pairs = descriptors.mutual_nearest(given["in_desc"][rows[0]], given["in_descw"][rows[1]]).pairs
    matched = first[rows[0][pairs[:, 0]]], second[rows[1][pairs[:, 1]]]
    error = homography.corner_error(opencv_ransac(*matched, np.ones(len(pairs)), 3.0), truth, SIZE, "centres")
    correct = golden["hpatches/rpautrat_homography_correct_1_3_5"][:, number]
    assert [error <= bound for bound in (1, 3, 5)] == [value == 1 for value in correct]


@pytest.mark.parametrize("row", range(6))
def test_measures_of_pytorch_superpoint(golden, row):
    given = case(golden, f"hpatches/{golden['hpatches/yyjau_problems'][row]}")
    first, second, truth = given["in_kp"], given["in_kpw"], given["in_homography64"]
    found = repeatability(given, 1000, 3)
    assert found.repeatability == pytest.approx(golden["hpatches/yyjau_repeatability64"][row], abs=1e-9)
    assert found.localisation_error == pytest.approx(golden["hpatches/yyjau_localisation_error64"][row], abs=1e-9)
    nearest = descriptors.mutual_nearest(given["in_desc"], given["in_descw"])
    matched = first[nearest.pairs[:, 0]], second[nearest.pairs[:, 1]]
    kept = int(descriptors.right_by_estimate(*matched).sum())
    score = descriptors.published_matching_score(kept, first, second, truth, SIZE)
    assert score == pytest.approx(golden["hpatches/yyjau_matching_score64"][row], abs=0.02)
    near = nearest.within(descriptors.MAX_DISTANCE)
    right = descriptors.right_by_estimate(first[near.pairs[:, 0]], second[near.pairs[:, 1]])
    precision = descriptors.nearest_neighbour_ap(near, right)
    assert precision == pytest.approx(golden["hpatches/yyjau_mAP_cv64"][row], abs=0.02)
    error = homography.corner_error(opencv_ransac(*matched, np.ones(len(nearest.pairs)), 3.0), truth, SIZE, "centres")
    correct = golden["hpatches/yyjau_homography_correct_1_3_5_10_20_50"][row]
    assert [error <= bound for bound in (1, 3, 5, 10, 20, 50)] == correct.astype(bool).tolist()


def test_detector_of_rpautrat_against_corner_maps(golden):
    images = []
    for i in range(4):
        there, probability = golden[f"detector/in_map{i}"], golden[f"detector/in_prob{i}"].astype(np.float64)
        found = np.argwhere(probability > 1e-4)[:, ::-1]
        images.append(
            corners.Detections(
                found.astype(np.float64),
                probability[found[:, 1], found[:, 0]],
                np.argwhere(there)[:, ::-1].astype(np.float64),
            )
        )
    precision, recall = corners.precision_recall(images)
    np.testing.assert_allclose(precision, golden["detector/precision64"], atol=1e-9)
    np.testing.assert_allclose(recall, golden["detector/recall64"], atol=1e-9)
    assert corners.mean_average_precision(images) == pytest.approx(golden["detector/mAP64"], abs=1e-9)
    for threshold, name in ((0.1, "localisation_error64"), (0.5, "localisation_error_default64")):
        assert corners.localisation_error(images, threshold) == pytest.approx(golden[f"detector/{name}"], abs=1e-9)
