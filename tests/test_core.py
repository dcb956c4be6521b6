from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from vpr.core import DataError, Dataset, ImageSet, LocalFeatures, Ranking, usable_name


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("a.jpg", "a.jpg"),
        ("./a.jpg", "a.jpg"),
        ("a//b/./c.jpg", "a/b/c.jpg"),
        ("x/../a.jpg", "a.jpg"),
        ("ü 1,2@.jpg",) * 2,
    ],
)
def test_one_image_has_one_key(name: str, key: str) -> None:
    assert usable_name(name) == key


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "empty"),
        ("folder/", "empty"),
        ("a\nb.jpg", "control character"),
        ("a\tb.jpg", "control character"),
        ("/etc/passwd.jpg", "not inside"),
        ("../secret.jpg", "not inside"),
        ("a/../../b.jpg", "not inside"),
        ("..", "not inside"),
        ("bad\udcff.jpg", "UTF-8"),
    ],
)
def test_unusable_names_are_refused(name: str, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        usable_name(name)


def test_the_same_image_twice_is_refused() -> None:
    with pytest.raises(DataError, match="listed twice"):
        ImageSet(Path("x"), ("a.jpg", "./a.jpg"))


def test_positions_must_be_finite_and_as_many_as_images() -> None:
    with pytest.raises(DataError, match=r"'b.jpg' is not a finite number of metres on Earth \(1 such"):
        ImageSet(Path("x"), ("a.jpg", "b.jpg"), np.array([[0, 0], [np.nan, 1]]))
    with pytest.raises(DataError, match="2 images but positions"):
        ImageSet(Path("x"), ("a.jpg", "b.jpg"), np.zeros((3, 2)))
    with pytest.raises(DataError, match="2 images but 1 group"):
        ImageSet(Path("x"), ("a.jpg", "b.jpg"), groups=np.zeros(1, np.int64))


def test_ground_truth_must_fit_the_sets() -> None:
    images = ImageSet(Path("x"), ("a.jpg", "b.jpg"))
    with pytest.raises(DataError, match="for 1 queries, but 2"):
        Dataset("set", "p", images, images, (np.array([0]),))
    with pytest.raises(DataError, match="names row 2, but the database has 2"):
        Dataset("set", "p", images, images, (np.array([0]), np.array([2])))


@pytest.mark.parametrize(
    ("rows", "scores", "reason"),
    [
        ([[0, 1]], [[0.1, 0.2]], "rise"),
        ([[0, 1]], [[0.1, np.nan]], "not a number"),
        ([[0, -1]], [[0.2, 0.1]], "padded"),
        ([[0, 1]], [[0.2, -np.inf]], "padded"),
        ([[0, 1]], [[0.2]], "shape"),
    ],
)
def test_a_ranking_that_is_none_is_refused(rows: list[list[int]], scores: list[list[float]], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Ranking(np.array(rows, dtype=np.int64), np.array(scores, dtype=np.float32))


def test_features_describe_the_same_points() -> None:
    with pytest.raises(ValueError, match="same keypoints"):
        LocalFeatures(torch.zeros(3, 2), torch.zeros(2), torch.zeros(3, 8), (10, 10))
    assert len(LocalFeatures.empty(8)) == 0
