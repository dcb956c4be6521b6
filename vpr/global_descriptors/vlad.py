"""VLAD: one vector from the local features of an image, with a vocabulary fitted on a database.

Jegou et al., CVPR 2010; intra-normalisation by Arandjelovic and Zisserman, CVPR 2013; the power law by Perronnin et
al., ECCV 2010. It needs no trained weights, and is the baseline that trained descriptors are measured against.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import faiss
import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from vpr.config import MethodSettings
from vpr.core import DataError, Floats, LocalFeatures, Rows
from vpr.global_descriptors.whitening import Whitening, fit_whitening, unit_rows
from vpr.runtime.files import write_atomically
from vpr.runtime.threads import one_thread
from vpr.weights import Record, TrainedFor, find

IMAGES_PER_DIMENSION = 4  # whitening fitted on fewer images amplifies noise: it lost 5 points on 200 images

logger = logging.getLogger(__name__)


class Settings(MethodSettings):
    """Settings of VLAD."""

    method: Literal["vlad"] = "vlad"
    clusters: int = Field(128, ge=1)
    power: float = Field(0.5, gt=0, le=1)  # 1 switches the power law off
    intra_normalise: bool = True
    dim: int = Field(512, ge=0)  # PCA whitening to this length if the database is large enough; 0 for never
    fit_images: int = Field(5000, ge=1)  # at most this many images of the database are used for fitting
    fit_points: int = Field(200_000, ge=1)  # and at most this many points for the vocabulary
    weights: str = ""  # name or path of a model fitted before; "" fits one on the database
    seed: int = 0


class Vlad:
    """A fitted VLAD: ``centroids`` (K, D), and optionally a whitening of the (K * D) vectors."""

    def __init__(
        self, centroids: Floats, whitening: Whitening | None = None, power: float = 0.5, intra_normalise: bool = True
    ) -> None:
        self.centroids = centroids
        self.whitening = whitening
        self.power = power
        self.intra_normalise = intra_normalise
        self.dim = centroids.size if whitening is None else whitening.dim

    def aggregate(self, features: LocalFeatures) -> Floats:
        vector = self._raw(features)[None]
        whitened = vector if self.whitening is None else self.whitening.apply(vector)
        row: Floats = whitened[0]
        return row

    def save(self, path: Path, half: bool = False, trained_for: Mapping[str, Any] | None = None) -> None:
        """Write the model to one safetensors file; with ``half`` the whitening's matrix in half precision.

        The file records ``trained_for``, the local features that it was fitted on.
        """
        arrays: dict[str, NDArray[np.floating[Any]]] = {"centroids": self.centroids}
        if self.whitening is not None:
            arrays |= {f"whitening.{name}": array for name, array in vars(self.whitening).items()}
            if half:
                arrays["whitening.weight"] = self.whitening.weight.astype(np.float16)
        about = {"method": "vlad", "power": self.power, "intra_normalise": self.intra_normalise}
        sizes = {"clusters": len(self.centroids), "dim": self.dim if self.whitening is not None else 0}
        recipe = {"power": self.power, "intra_normalise": self.intra_normalise, **sizes}
        features = TrainedFor(**trained_for) if trained_for else None
        record = Record(loads=("vlad",), recipe=recipe, trained_for=features)
        write_atomically(path, save(arrays, metadata=record.as_metadata(about)))

    def _raw(self, features: LocalFeatures) -> Floats:
        """(K * D,) unit vector before whitening, or zeros for an image without points."""
        descriptors = features.descriptors.numpy()
        if descriptors.shape[1] != self.centroids.shape[1]:
            raise DataError(
                f"a vocabulary of {self.centroids.shape[1]} dimensions a word does not fit descriptors of "
                f"{descriptors.shape[1]}; fit one on these features, or leave global_descriptor.weights empty"
            )
        residuals = np.zeros_like(self.centroids)
        nearest = (descriptors @ self.centroids.T - 0.5 * (self.centroids**2).sum(axis=1)).argmax(axis=1)
        np.add.at(residuals, nearest, descriptors - self.centroids[nearest])
        if self.intra_normalise:
            residuals = unit_rows(residuals)
        powered = np.sign(residuals) * np.abs(residuals) ** self.power
        row: Floats = unit_rows(powered.reshape(1, -1).astype(np.float32))[0]
        return row


def fit(database: Sequence[LocalFeatures], settings: Settings) -> Vlad:
    """Vocabulary by k-means, then the whitening, from a seeded sample of a database.

    A database too small for ``settings.clusters`` gets fewer clusters, one too small for the whitening gets none.
    Raises DataError if no image has a point.
    """
    random = np.random.default_rng(settings.seed)
    rows = np.sort(random.permutation(len(database))[: settings.fit_images])
    with one_thread():
        points = _sample_descriptors(database, rows, settings.fit_points, random)
    clusters = max(1, min(settings.clusters, len(points) // 4))
    kmeans = faiss.Kmeans(
        points.shape[1],
        clusters,
        niter=20,
        seed=settings.seed,
        min_points_per_centroid=1,
        max_points_per_centroid=10**6,
    )
    kmeans.train(points)
    centroids = np.asarray(kmeans.centroids, dtype=np.float32)
    vlad = Vlad(centroids, None, settings.power, settings.intra_normalise)
    if not 0 < settings.dim <= min(len(rows) // IMAGES_PER_DIMENSION, vlad.dim):
        if settings.dim:
            logger.info(
                "global_descriptor.dim = %d takes %d images to fit, here are %d: not reduced, %d dimensions",
                settings.dim,
                settings.dim * IMAGES_PER_DIMENSION,
                len(rows),
                vlad.dim,
            )
        return vlad
    with one_thread():
        vectors = np.stack([vlad.aggregate(database[int(row)]) for row in rows])
    whitening = fit_whitening(vectors[vectors.any(axis=1)], settings.dim)
    return Vlad(centroids, whitening, settings.power, settings.intra_normalise)


def _sample_descriptors(
    database: Sequence[LocalFeatures], rows: Rows, most: int, random: np.random.Generator
) -> Floats:
    """At most ``most`` descriptors, as many from each image as its share."""
    per_image = -(-most // max(1, len(rows)))
    sample = []
    for row in rows:
        descriptors = database[int(row)].descriptors.numpy()
        sample.append(descriptors[random.permutation(len(descriptors))[:per_image]])
    points = np.concatenate(sample)[:most] if sample else np.zeros((0, 1), np.float32)
    if not len(points):
        raise DataError(
            "no image of the database has a single local feature: all images are blank, or none could be read"
        )
    return np.asarray(points, dtype=np.float32)


def build(database: Sequence[LocalFeatures], settings: Settings) -> Vlad:
    """The model that the settings name, or one fitted on the database."""
    return load(find(settings.weights).path) if settings.weights else fit(database, settings)


def load(path: Path) -> Vlad:
    """Read what ``Vlad.save`` wrote; raises DataError for anything else."""
    try:
        with safe_open(path, framework="np") as file:
            about = json.loads((file.metadata() or {})["vpr"])
            arrays = {name: file.get_tensor(name) for name in file.keys()}
        whitening = None
        if "whitening.weight" in arrays:
            names = ("weight", "bias", "variances")
            whitening = Whitening(*(arrays[f"whitening.{name}"].astype(np.float64) for name in names))
        return Vlad(arrays["centroids"], whitening, about["power"], about["intra_normalise"])
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise DataError(f"{path}: not a VLAD model ({error}); `vpr fit` makes one") from None
