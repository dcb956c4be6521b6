"""The measures of the geometry benchmarks, by hand and in degenerate cases."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from vpr import relative_pose as pose
from vpr.geometry import corners, descriptors, detectors, homography
from vpr.geometry.auc import area_under_curve, fraction_within

IDENTITY = np.eye(3)
NONE = np.empty((0, 2))


def shift(x, y):
    return np.array([[1.0, 0, x], [0, 1, y], [0, 0, 1]])


def points(*pairs):
    return np.array(pairs, dtype=np.float64).reshape(-1, 2)


# --- area under the curve


def test_area_by_hand():
    """Errors 1 and 3: the curve rises from (0, 0) to (1, .5), on to (3, 1), and is level to 5."""
    assert area_under_curve([3, 1], [5]) == pytest.approx([(0.25 + 2 * 0.75 + 2 * 1) / 5])


def test_an_error_equal_to_the_bound_is_not_below_it():
    assert area_under_curve([2], [2, 2.001]) == pytest.approx([0, 0.5], abs=1e-3)


def test_failures_count_as_infinite_errors():
    with_failure, without = area_under_curve([1, np.inf], [4])[0], area_under_curve([1], [4])[0]
    assert with_failure == pytest.approx(without / 2)


def test_area_of_no_pair_and_of_perfect_ones():
    assert np.isnan(area_under_curve([], [5])[0])
    assert area_under_curve([0, 0], [1, 5]) == (1, 1)


@pytest.mark.parametrize("bad", [np.nan, -1.0])
def test_an_error_that_is_none_is_refused(bad):
    with pytest.raises(ValueError, match="negative or not a number"):
        area_under_curve([1, bad], [5])


def test_fraction_within_includes_the_bound():
    assert fraction_within([1, 3, np.inf], 3) == pytest.approx(2 / 3)
    assert np.isnan(fraction_within([], 3))


# --- homographies


def test_corner_errors_by_hand():
    """Twice as large: the corner (1, 1) moves by (1, 1), so much depends on where the corners are."""
    twice = np.diag([2.0, 2, 1])
    for corners_at, side in (("centres", 9), ("outer", 10)):
        expected = side * (0 + 1 + np.sqrt(2) + 1) / 4
        assert homography.corner_error(twice, IDENTITY, (10, 10), corners_at) == pytest.approx(expected)
    assert homography.corner_error(shift(3, 4), IDENTITY, (50, 20), "centres") == pytest.approx(5)


def test_no_homography_and_one_that_sends_a_corner_to_infinity_are_failures():
    assert homography.corner_error(None, IDENTITY, (10, 10), "outer") == np.inf
    horizon = np.array([[1.0, 0, 0], [0, 1, 0], [-0.1, 0, 1]])
    assert homography.corner_error(horizon, IDENTITY, (10, 10), "outer") == np.inf


def test_transfer_errors_by_hand():
    """Twice as large and one pixel off in the second image, which is half a pixel in the first."""
    twice = np.diag([2.0, 2, 1])
    first, second = points((1, 1), (2, 3)), points((2, 3), (4, 6))
    assert homography.transfer_errors(first, second, twice).tolist() == [1, 0]
    assert homography.symmetric_transfer_errors(first, second, twice).tolist() == [0.75, 0]


def test_homography_between_resized_images():
    """What a resized picture shows at a pixel is what the whole one shows at the pixel it came from."""
    truth = np.array([[1.1, 0.1, 5], [-0.05, 0.9, 3], [1e-4, 2e-4, 1]])
    resized = homography.scale_homography(truth, (0.5, 0.25), (2.0, 3.0))
    p = points((10, 20), (33, 7))
    small = (p + 0.5) * [0.5, 0.25] - 0.5
    large = (homography.warp(p, truth) + 0.5) * [2, 3] - 0.5
    np.testing.assert_allclose(homography.warp(small, resized), large)


# --- relative poses


def turned(degrees, axis=2):
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    turn = np.eye(3)
    i, j = [k for k in range(3) if k != axis]
    turn[[i, i, j, j], [i, j, i, j]] = [c, -s, s, c]
    return turn


@pytest.mark.parametrize(("degrees", "expected"), [(0, 0), (30, 30), (-30, 30), (180, 180), (270, 90)])
def test_rotation_error_is_the_angle(degrees, expected):
    assert pose.rotation_error_deg(turned(degrees), IDENTITY) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("estimate", "expected"), [((2, 0, 0), 0), ((-1, 0, 0), 0), ((0, 1, 0), 90), ((1, 1, 0), 45)])
def test_translation_error_knows_no_sign_and_no_length(estimate, expected):
    found = pose.translation_error_deg(np.array(estimate, dtype=float), np.array([3.0, 0, 0]))
    assert found == pytest.approx(expected, abs=1e-5)


def test_a_translation_without_direction_is_a_right_angle_off():
    assert pose.translation_error_deg(np.zeros(3), np.array([1.0, 0, 0])) == 90


def test_pose_error_is_the_larger_angle():
    truth = pose.Pose(IDENTITY, np.array([1.0, 0, 0]))
    near = pose.Pose(turned(10), np.array([1.0, np.tan(np.radians(20)), 0]))
    assert pose.pose_error_deg(near, truth) == pytest.approx(20)
    assert pose.pose_error_deg(pose.Pose(turned(30), near.translation), truth) == pytest.approx(30)
    assert pose.pose_error_deg(None, truth) == np.inf


def test_both_epipolar_errors_by_hand():
    """The second camera stands to the right: lines are rows, and a match is as far from both as its rows differ."""
    sideways = pose.essential_matrix(pose.Pose(IDENTITY, np.array([-1.0, 0, 0])))
    first, second = points((0.1, 0.2), (0, 0)), points((0.5, 0.21), (0.3, 0))
    np.testing.assert_allclose(pose.epipolar_errors(first, second, sideways), [0.01, 0], atol=1e-12)
    np.testing.assert_allclose(pose.squared_epipolar_errors(first, second, sideways), [2 * 0.01**2, 0], atol=1e-12)


def test_points_of_one_scene_have_no_epipolar_error():
    random = np.random.default_rng(0)
    scene = random.uniform(-1, 1, (20, 3)) + np.array([0, 0, 5])
    truth = pose.Pose(turned(20, axis=1), np.array([0.3, -0.2, 0.1]))
    other = scene @ truth.rotation.T + truth.translation
    first, second = (each[:, :2] / each[:, 2:] for each in (scene, other))
    assert pose.epipolar_errors(first, second, pose.essential_matrix(truth)).max() < 1e-12


def test_pixels_become_rays():
    K = np.array([[100.0, 0, 50], [0, 200, 40], [0, 0, 1]])
    assert pose.normalised(points((150, 240)), K).tolist() == [[1, 1]]


def test_measures_of_no_match_are_empty():
    assert homography.transfer_errors(NONE, NONE, IDENTITY).shape == (0,)
    assert homography.symmetric_transfer_errors(NONE, NONE, IDENTITY).shape == (0,)
    assert pose.epipolar_errors(NONE, NONE, IDENTITY).shape == (0,)


# --- detectors


def repeat(first, second, truth=IDENTITY, **settings):
    ones = np.linspace(1, 0.5, len(first)), np.linspace(1, 0.5, len(second))
    return detectors.repeatability(first, ones[0], second, ones[1], truth, size=(100, 80), **settings)


def test_repeatability_by_hand():
    """Of three and two points, one each is near: two of five, at 2 pixels."""
    found = repeat(points((10, 10), (50, 50), (90, 70)), points((12, 10), (30, 30)))
    assert found.repeatability == pytest.approx(2 / 5)
    assert found.localisation_error == pytest.approx(2)


def test_points_that_only_one_image_shows_do_not_count():
    """Moved 60 to the right, only the first point stays in the picture, and only the first was in the other."""
    found = repeat(points((10, 10), (50, 50)), points((70, 10), (20, 20)), shift(60, 0))
    assert found.repeatability == 1
    assert found.localisation_error == 0


def test_only_the_strongest_shared_points_count():
    """The strongest of the first image lies outside of the second and takes no place."""
    first, second = points((95, 10), (10, 10), (20, 20)), points((20, 10), (70, 70))
    assert repeat(first, second, shift(10, 0), points=1).repeatability == 1
    assert repeat(first, second, shift(10, 0), points=2).repeatability == pytest.approx(2 / 4)


def test_near_includes_the_distance():
    assert repeat(points((10, 10)), points((13, 10))).repeatability == 1
    assert repeat(points((10, 10)), points((13.01, 10))).repeatability == 0


def test_images_of_different_sizes_have_edges_of_their_own():
    found = detectors.repeatability(
        points((10, 10)), np.ones(1), points((40, 10)), np.ones(1), shift(30, 0), size=(20, 20), second_size=(50, 20)
    )
    assert found.repeatability == 1


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [(NONE, NONE, np.nan), (points((1, 1)), NONE, 0), (NONE, points((1, 1)), 0)],
    ids=["no point", "none in the second", "none in the first"],
)
def test_repeatability_of_nothing(first, second, expected):
    found = repeat(first, second)
    np.testing.assert_equal(found.repeatability, expected)
    assert np.isnan(found.localisation_error)


def test_strongest_are_rising_and_stable():
    scores, chosen = np.array([5.0, 9, 1, 9, 7]), np.array([True, True, True, True, False])
    assert detectors.strongest(scores, chosen, 3).tolist() == [0, 1, 3]
    assert detectors.strongest(scores, chosen, 2).tolist() == [1, 3]
    assert detectors.strongest(scores, chosen, 0).tolist() == []
    assert detectors.strongest(scores, ~chosen, 9).tolist() == [4]


# --- descriptors


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_mutual_nearest_equals_a_plain_loop():
    random = np.random.default_rng(3)
    first, second = unit(random.normal(size=(30, 8))), unit(random.normal(size=(25, 8)))
    distance = np.linalg.norm(first[:, None] - second[None], axis=2)
    expected = [(i, int(distance[i].argmin())) for i in range(30) if distance[:, distance[i].argmin()].argmin() == i]
    found = descriptors.mutual_nearest(first, second)
    assert [tuple(pair) for pair in found.pairs.tolist()] == expected
    np.testing.assert_allclose(found.distances, [distance[pair] for pair in expected], atol=1e-7)
    near = found.within(0.8)
    assert len(near.pairs) == sum(distance[pair] < 0.8 for pair in expected) < len(found.pairs)


def test_no_descriptor_matches_nothing():
    some = unit(np.ones((3, 4)))
    for first, second in ((np.empty((0, 4)), some), (some, np.empty((0, 4)))):
        assert descriptors.mutual_nearest(first, second).pairs.shape == (0, 2)


def test_average_precision_by_hand():
    """Right, wrong, right: precision 1 at recall 1/2, then 2/3."""
    found = descriptors.average_precision(np.array([True, True, False]), np.array([0.9, 0.1, 0.5]))
    assert found == pytest.approx(1 / 2 + 1 / 2 * 2 / 3)


def test_average_precision_is_that_of_scikit_learn():
    random = np.random.default_rng(1)
    for _ in range(20):
        right, scores = random.random(40) < 0.4, random.integers(0, 8, 40) / 8  # with ties
        assert descriptors.average_precision(right, scores) == pytest.approx(average_precision_score(right, scores))


def test_average_precision_without_a_right_match_is_zero():
    assert descriptors.average_precision(np.zeros(3, bool), np.arange(3.0)) == 0
    assert descriptors.average_precision(np.zeros(0, bool), np.empty(0)) == 0


def test_the_two_ground_truths_differ_where_matches_agree_in_error():
    """All matches are shifted by 10 pixels: RANSAC believes them, the truth does not."""
    first = np.random.default_rng(0).uniform(0, 100, (30, 2))
    assert descriptors.right_by_estimate(first, first + 10).all()
    assert not descriptors.right_by_truth(first, first + 10, IDENTITY).any()


@pytest.mark.parametrize("count", [0, 3, 10])
def test_too_few_or_degenerate_matches_are_not_right_by_estimate(count):
    same = np.tile([[5.0, 5.0]], (count, 1))
    assert descriptors.right_by_estimate(same, same).sum() in (0, count)
    assert descriptors.right_by_estimate(same, same).shape == (count,)


def test_matching_score_by_hand():
    assert descriptors.matching_score(6, 10, 20) == pytest.approx(6 / 15)
    assert np.isnan(descriptors.matching_score(0, 0, 0))


def test_published_matching_score_exchanges_x_and_y():
    """(10, 70) lies in a picture of 100 x 50 only once x and y are exchanged; (90, 10) only before."""
    first = points((0, 0), (1, 1))
    for second, shown in ((points((10, 70)), 1), (points((70, 10)), 0)):
        found = descriptors.published_matching_score(1, first, second, IDENTITY, (100, 50))
        assert found == pytest.approx(2 / (2 + shown))


# --- corners of drawn shapes


def detections(found, scores, there):
    return corners.Detections(points(*found), np.array(scores, dtype=float), points(*there))


def test_corner_precision_by_hand():
    """A right one, a second claim on the same corner, a right one on the other corner, of three corners."""
    image = detections([(1, 0), (0, 1), (10, 10)], [0.9, 0.8, 0.7], [(0, 0), (10, 10), (50, 50)])
    precision, recall = corners.precision_recall([image])
    np.testing.assert_allclose(recall, [0, 1 / 3, 1 / 3, 2 / 3, 1])
    np.testing.assert_allclose(precision, [1, 1, 2 / 3, 2 / 3, 0])
    assert corners.mean_average_precision([image]) == pytest.approx(1 / 3 + 2 / 9)


def test_points_of_all_images_are_ranked_together():
    right, wrong = detections([(0, 0)], [0.5], [(0, 0)]), detections([(9, 9)], [0.9], [(0, 0)])
    assert corners.mean_average_precision([right, wrong]) == pytest.approx(1 / 2 * 1 / 2)


def test_localisation_error_by_hand():
    image = detections([(1, 0), (10, 12), (30, 30)], [0.9, 0.8, 0.7], [(0, 0), (10, 10)])
    assert corners.localisation_error([image], 0.5) == pytest.approx(1.5)
    assert corners.localisation_error([image], 0.85) == pytest.approx(1)
    assert np.isnan(corners.localisation_error([image], 0.95))


@pytest.mark.parametrize(
    "images",
    [[], [detections([], [], [])], [detections([], [], [(1, 1)])], [detections([(1, 1)], [0.5], [])]],
    ids=["no image", "nothing", "no point", "no corner"],
)
def test_corner_measures_of_nothing(images):
    assert corners.mean_average_precision(images) == 0
    assert np.isnan(corners.localisation_error(images, 0.1))
