"""Synthetic global descriptors that lie to one another as those of photographs do, for maps larger than any data set.

Of photographs of known places the mean over all, the covariance of the places' means, the covariance of the images
about their place's mean, and by how much each place varies are measured. A synthetic place is a draw of the first, its
images are draws of the second, scaled by how much one of the measured places varies. Places come in streets, of which
some look alike and some do not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vpr.core import Floats

STREET = 5  # places


@dataclass(frozen=True, eq=False)
class DescriptorStatistics:
    """What is measured of (P, n, D) unit descriptors of P places with n photographs each."""

    mean: Floats  # (D,)
    between: Floats  # (D, D), a place's mean is mean + between @ normal
    within: Floats  # (D, D), an image is its place's mean + scale * within @ normal
    scales: Floats  # (P,) of each place: deviation over length of its mean, relative to that of all places

    @staticmethod
    def of(descriptors: Floats) -> DescriptorStatistics:
        """The statistics of photographs."""
        _, images, dim = descriptors.shape
        centres = descriptors.mean(1)
        residuals = (descriptors - centres[:, None]) * (images / (images - 1)) ** 0.5
        flat = residuals.reshape(-1, dim)
        within = flat.T @ flat / len(flat)
        between = np.cov(centres.T) - within / images  # the mean of a few images is not the place's
        energy = np.square(residuals).sum(2).mean(1)
        length = np.maximum(np.square(centres).sum(1) - energy / images, 0.05)
        scales = np.sqrt(energy / length * length.mean() / energy.mean())
        return DescriptorStatistics(centres.mean(0), _root(between), _root(within), scales)

    def rows(self, places: int, images: int, seed: int) -> Floats:
        """(places, images, D) unit rows; the same for the same arguments."""
        random = np.random.default_rng(seed)
        dim, streets = len(self.mean), -(-places // STREET)
        alike = (
            random.random((streets, 1, 1), np.float32) ** 2
        )  # share of variance that a street's places have in common
        common, own = (random.standard_normal((streets, count, dim), np.float32) for count in (1, STREET))
        drawn = (np.sqrt(alike) * common + np.sqrt(1 - alike) * own).reshape(-1, dim)[:places]
        centres = drawn @ self.between.T + self.mean
        noise = (random.standard_normal((places * images, dim), np.float32) @ self.within.T).reshape(
            places, images, dim
        )
        found = centres[:, None] + random.choice(self.scales, places)[:, None, None] * noise
        unit: Floats = (found / np.linalg.norm(found, axis=2, keepdims=True)).astype(np.float32)
        return unit


def _root(covariance: Floats) -> Floats:
    """(D, D) R with R R^T the covariance; what noise made negative is 0."""
    values, axes = np.linalg.eigh(covariance.astype(np.float64))
    root: Floats = (axes * np.sqrt(np.maximum(values, 0))).astype(np.float32)
    return root
