"""PCA whitening."""

from __future__ import annotations

import numpy as np
import pytest

from vpr.core import DataError
from vpr.global_descriptors.whitening import fit_whitening, unit_rows


def test_by_hand() -> None:
    """Points on a cross: variances 8 along x and 2 along y, mean (1, 1)."""
    cross = np.array([[5, 1], [-3, 1], [1, 3], [1, -1], [1, 1]], dtype=float)
    whitening = fit_whitening(cross, 2)
    assert np.allclose(whitening.variances, [8, 2])
    assert np.allclose(np.abs(whitening.weight), [[1 / np.sqrt(8), 0], [0, 1 / np.sqrt(2)]])
    assert np.allclose(whitening.weight @ [1, 1] + whitening.bias, 0)


@pytest.mark.parametrize(("count", "width", "dim"), [(80, 12, 5), (20, 50, 7)])
def test_whitened_vectors_are_uncorrelated_with_variance_one(count: int, width: int, dim: int) -> None:
    random = np.random.default_rng(0)
    vectors = random.normal(size=(count, width)) @ random.normal(size=(width, width)) + 3
    whitening = fit_whitening(vectors, dim)
    projected = vectors @ whitening.weight.T + whitening.bias
    assert np.allclose(projected.mean(axis=0), 0, atol=1e-9)
    assert np.allclose(np.cov(projected.T), np.eye(dim), atol=1e-6)
    assert (np.diff(whitening.variances) <= 0).all()


def test_fewer_vectors_than_numbers_changes_nothing_but_the_cost() -> None:
    """The Gram matrix of 30 vectors of 30 numbers and their covariance have the same directions."""
    random = np.random.default_rng(1)
    vectors = random.normal(size=(30, 29))
    padded = np.hstack([vectors, np.zeros((30, 10))])  # 39 numbers: the other way of computing
    one, other = fit_whitening(vectors, 6), fit_whitening(padded, 6)
    assert np.allclose(one.variances, other.variances)
    assert np.allclose(np.abs(one.weight), np.abs(other.weight[:, :29])) and np.allclose(other.weight[:, 29:], 0)


def test_applied_rows_are_unit_and_an_image_without_features_stays_zero() -> None:
    random = np.random.default_rng(2)
    vectors = random.normal(size=(40, 8)).astype(np.float32)
    whitening = fit_whitening(vectors, 4)
    vectors[3] = 0
    applied = whitening.apply(vectors)
    assert applied.shape == (40, 4) and whitening.dim == 4
    lengths = np.linalg.norm(applied, axis=1)
    assert lengths[3] == 0 and np.allclose(np.delete(lengths, 3), 1, atol=1e-6)


@pytest.mark.parametrize(("count", "width", "dim"), [(4, 10, 4), (10, 4, 5), (1, 3, 1)])
def test_too_few_vectors_are_refused(count: int, width: int, dim: int) -> None:
    with pytest.raises(DataError, match=f"whitening to {dim} dimensions needs more than {dim} descriptors"):
        fit_whitening(np.ones((count, width)), dim)


def test_constant_vectors_have_no_direction_to_blow_up() -> None:
    whitening = fit_whitening(np.ones((9, 5)), 2)
    assert np.isfinite(whitening.weight).all()
    assert np.allclose(whitening.weight @ np.ones(5) + whitening.bias, 0)


def test_unit_rows_leave_zero_alone() -> None:
    assert np.array_equal(unit_rows(np.array([[3, 4], [0, 0]], np.float32)), np.array([[0.6, 0.8], [0, 0]], np.float32))
