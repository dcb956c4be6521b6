"""PCA whitening of global descriptors: fewer dimensions, decorrelated, each direction of equal weight.

Jegou and Chum, ECCV 2012. The arithmetic is Patch-NetVLAD's add_pca.py, so that its values are reproduced.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vpr.core import DataError, Doubles, Floats

EPSILON = 1e-9  # added to each variance, as published


@dataclass(frozen=True, eq=False)
class Whitening:
    """A fitted whitening: ``apply(x) = normalised(weight @ x + bias)``."""

    weight: Doubles  # (d, D)
    bias: Doubles  # (d,)
    variances: Doubles  # (d,) of the kept directions, descending

    @property
    def dim(self) -> int:
        return len(self.weight)

    def apply(self, vectors: Floats) -> Floats:
        """(N, D) to (N, d) unit rows. A zero row, an image without features, stays zero."""
        projected = vectors @ self.weight.T.astype(np.float32) + self.bias.astype(np.float32)
        projected[~vectors.any(axis=1)] = 0
        return unit_rows(projected)


def fit_whitening(vectors: Doubles | Floats, dim: int) -> Whitening:
    """Whitening to the ``dim`` directions of largest variance of (N, D) vectors.

    With fewer vectors than dimensions the eigenvectors come from the (N, N) Gram matrix, which is the same and cheaper.
    Raises DataError if the vectors do not span ``dim`` directions.
    """
    from scipy import linalg

    vectors = np.asarray(vectors, dtype=np.float64)
    count, width = vectors.shape
    if dim > min(count - 1, width):
        raise DataError(
            f"whitening to {dim} dimensions needs more than {dim} descriptors of at least {dim} dimensions, "
            f"got {count} of {width}; lower the dimension or fit on more images"
        )
    mean = vectors.mean(axis=0)
    centred = vectors - mean
    size = min(count, width)
    kept = (size - dim, size - 1)
    if width <= count:
        variances, directions = linalg.eigh(centred.T @ centred / (count - 1), subset_by_index=kept)
    else:
        variances, coefficients = linalg.eigh(centred @ centred.T / (count - 1), subset_by_index=kept)
        directions = centred.T @ coefficients / np.sqrt(np.maximum(variances, EPSILON) * (count - 1))
    variances, directions = variances[::-1], directions[:, ::-1]
    weight = np.ascontiguousarray((directions / np.sqrt(np.maximum(variances, 0) + EPSILON)).T)
    return Whitening(weight, -weight @ mean, variances)


def unit_rows(vectors: Floats) -> Floats:
    """Each row divided by its length; zero rows stay zero."""
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    rows: Floats = np.divide(vectors, length, out=np.zeros_like(vectors), where=length > 0)
    return rows
