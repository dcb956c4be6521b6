"""The estimators of homographies and relative poses: exact on exact matches, robust where they claim to be."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from vpr.core import ConfigError
from vpr.geometry.homography import corner_error, warp
from vpr.geometry.homography_estimators import HOMOGRAPHY_ESTIMATORS
from vpr.geometry.pose_estimators import POSE_ESTIMATORS, pose_of_fundamental
from vpr.relative_pose import Pose, pose_error_deg

SIZE = (640, 480)
TRUTH = np.array([[1.1, 0.05, -20], [-0.04, 0.95, 15], [1e-4, -5e-5, 1]])
K0 = np.array([[500.0, 0, 320], [0, 510, 240], [0, 0, 1]])
K1 = np.array([[450.0, 0, 300], [0, 440, 250], [0, 0, 1]])


def needs(name):
    if name in ("poselib", "pycolmap"):
        pytest.importorskip(name)


def plane(count=60, seed=0):
    first = np.random.default_rng(seed).uniform((0, 0), SIZE, (count, 2))
    return first, warp(first, TRUTH)


def scene(count=80, seed=0):
    """Pixels of points before two cameras, and the pose between them."""
    random = np.random.default_rng(seed)
    world = random.uniform((-2, -1.5, 4), (2, 1.5, 9), (count, 3))
    angle = np.radians(8)
    rotation = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
    pose = Pose(rotation, np.array([-0.8, 0.1, 0.2]))
    seen = world @ K0.T, (world @ rotation.T + pose.translation) @ K1.T
    first, second = (each[:, :2] / each[:, 2:] for each in seen)
    return first, second, pose


def spoiled(second, share=0.4):
    random = np.random.default_rng(9)
    second = second.copy()
    wrong = random.random(len(second)) < share
    second[wrong] = random.uniform((0, 0), SIZE, (wrong.sum(), 2))
    return second


@pytest.mark.parametrize("name", HOMOGRAPHY_ESTIMATORS)
def test_exact_matches_give_the_exact_homography(name):
    needs(name)
    first, second = plane()
    found = HOMOGRAPHY_ESTIMATORS[name].estimate(first, second, np.ones(60), 1.0)
    assert corner_error(found, TRUTH, SIZE, "centres") < 1e-3
    assert found[2, 2] == pytest.approx(1)


@pytest.mark.parametrize("name", [name for name, row in HOMOGRAPHY_ESTIMATORS.items() if row.swept])
def test_wrong_matches_do_not_move_a_robust_homography(name):
    needs(name)
    first, second = plane()
    found = HOMOGRAPHY_ESTIMATORS[name].estimate(first, spoiled(second), np.ones(60), 2.0)
    assert corner_error(found, TRUTH, SIZE, "centres") < 0.1


def test_least_squares_takes_every_match_by_its_weight():
    first, second = plane()
    bad = spoiled(second)
    estimate = HOMOGRAPHY_ESTIMATORS["dlt"].estimate
    assert corner_error(estimate(first, bad, np.ones(60), 0), TRUTH, SIZE, "centres") > 10
    weights = (np.abs(bad - second).max(axis=1) == 0).astype(float)
    assert corner_error(estimate(first, bad, weights, 0), TRUTH, SIZE, "centres") < 1e-3


@pytest.mark.parametrize("name", HOMOGRAPHY_ESTIMATORS)
@pytest.mark.parametrize("count", [0, 1, 3])
def test_too_few_matches_give_no_homography(name, count):
    needs(name)
    first, second = plane(count)
    assert HOMOGRAPHY_ESTIMATORS[name].estimate(first, second, np.ones(count), 3.0) is None


@pytest.mark.parametrize("name", HOMOGRAPHY_ESTIMATORS)
@pytest.mark.parametrize("degenerate", ["one point", "one line", "no weight"])
def test_degenerate_matches_end_in_none_or_a_finite_homography(name, degenerate):
    needs(name)
    first, weights = plane(20)[0], np.ones(20)
    if degenerate == "one point":
        first = np.tile(first[:1], (20, 1))
    elif degenerate == "one line":
        first[:, 1] = 2 * first[:, 0]
    else:
        weights = np.zeros(20)
    found = HOMOGRAPHY_ESTIMATORS[name].estimate(first, first.copy(), weights, 3.0)
    assert found is None or np.isfinite(found).all()


@pytest.mark.parametrize("name", POSE_ESTIMATORS)
def test_exact_matches_give_the_exact_pose(name):
    needs(name)
    first, second, pose = scene()
    assert pose_error_deg(POSE_ESTIMATORS[name](first, second, K0, K1, 1.0), pose) < 0.1


@pytest.mark.parametrize("name", POSE_ESTIMATORS)
def test_wrong_matches_do_not_move_the_pose_far(name):
    needs(name)
    first, second, pose = scene(200)
    assert pose_error_deg(POSE_ESTIMATORS[name](first, spoiled(second), K0, K1, 1.0), pose) < 2


@pytest.mark.parametrize("name", POSE_ESTIMATORS)
def test_estimators_repeat_themselves(name):
    needs(name)
    first, second, pose = scene(100, seed=4)
    second = spoiled(second + np.random.default_rng(1).normal(0, 1, second.shape))
    errors = {pose_error_deg(POSE_ESTIMATORS[name](first, second, K0, K1, 1.0), pose) for _ in range(3)}
    assert len(errors) == 1


@pytest.mark.parametrize("name", POSE_ESTIMATORS)
@pytest.mark.parametrize("count", [0, 1, 4])
def test_too_few_matches_give_no_pose(name, count):
    needs(name)
    first, second, _ = scene(count)
    assert POSE_ESTIMATORS[name](first, second, K0, K1, 1.0) is None


@pytest.mark.parametrize("name", POSE_ESTIMATORS)
def test_one_repeated_point_ends_in_none_or_a_pose(name):
    needs(name)
    first = np.tile([[100.0, 120.0]], (12, 1))
    found = POSE_ESTIMATORS[name](first, first.copy(), K0, K1, 1.0)
    assert found is None or np.isfinite(found.rotation).all()


def test_pose_of_a_fundamental_matrix():
    first, second, pose = scene()
    x, y, z = pose.translation
    essential = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]) @ pose.rotation
    fundamental = np.linalg.inv(K1).T @ essential @ np.linalg.inv(K0)
    assert pose_error_deg(pose_of_fundamental(fundamental, first, second, K0, K1), pose) < 1e-3
    assert pose_of_fundamental(fundamental, first[:0], second[:0], K0, K1) is None


def test_points_beyond_fifty_baselines_give_no_pose():
    """What the published scripts do in effect, and our rows with them."""
    random = np.random.default_rng(2)
    world = random.uniform((-200, -150, 900), (200, 150, 1000), (60, 3))
    seen = world @ K0.T, (world + np.array([1, 0, 0])) @ K0.T
    first, second = (each[:, :2] / each[:, 2:] for each in seen)
    cross = np.array([[0, 0, 0], [0, 0, -1.0], [0, 1.0, 0]])
    fundamental = np.linalg.inv(K0).T @ cross @ np.linalg.inv(K0)
    assert pose_of_fundamental(fundamental, first, second, K0, K0) is None
    nearer = pose_of_fundamental(fundamental, first, first + 50 * (second - first), K0, K0)
    assert pose_error_deg(nearer, Pose(np.eye(3), np.array([1.0, 0, 0]))) < 1e-3


@pytest.mark.parametrize(
    ("table", "name"),
    [
        (HOMOGRAPHY_ESTIMATORS, "poselib"),
        (HOMOGRAPHY_ESTIMATORS, "pycolmap"),
        (POSE_ESTIMATORS, "poselib"),
        (POSE_ESTIMATORS, "pycolmap"),
    ],
)
def test_an_absent_library_is_an_error_with_advice(monkeypatch, table, name):
    monkeypatch.setitem(sys.modules, name, None)
    first, second = plane(8)
    with pytest.raises(ConfigError, match=f'"{name}" needs .*pip install'):
        if table is POSE_ESTIMATORS:
            table[name](first, second, K0, K1, 1.0)
        else:
            table[name].estimate(first, second, np.ones(8), 1.0)
