from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import features

from vpr.core import DataError, LocalFeatures
from vpr.global_descriptors import vlad
from vpr.global_descriptors.thumbnail import Settings as ThumbnailSettings
from vpr.global_descriptors.thumbnail import Thumbnail
from vpr.global_descriptors.vlad import Settings, Vlad

DATABASE = [features(seed, 60) for seed in range(30)]


def of(descriptors: list[list[float]]) -> LocalFeatures:
    count = len(descriptors)
    return LocalFeatures(torch.zeros(count, 2), torch.zeros(count), torch.tensor(descriptors), (10, 10))


def test_by_hand_without_normalisation() -> None:
    """Two centroids; residuals (0.1, 0) + (0.3, 0) and (0, -0.2), scaled to unit length."""
    model = Vlad(np.array([[1, 0], [0, 1]], np.float32), power=1.0, intra_normalise=False)
    vector = model.aggregate(of([[1.1, 0], [1.3, 0], [0, 0.8]]))
    assert np.allclose(vector, np.array([0.4, 0, 0, -0.2]) / np.hypot(0.4, 0.2))


def test_by_hand_with_both_normalisations() -> None:
    """Each cluster's residual to unit length, then square roots with their signs, then unit length."""
    model = Vlad(np.array([[1, 0], [0, 1]], np.float32))
    vector = model.aggregate(of([[1.3, 0.4], [0, 0.8]]))
    signed = np.array([np.sqrt(0.6), np.sqrt(0.8), 0, -1])
    assert np.allclose(vector, signed / np.linalg.norm(signed), atol=1e-6)


def test_against_a_plain_loop() -> None:
    model = vlad.fit(DATABASE, Settings(clusters=8, dim=0))
    for image in DATABASE[:3]:
        residuals = np.zeros_like(model.centroids)
        for descriptor in image.descriptors.numpy():
            nearest = np.argmin(((model.centroids - descriptor) ** 2).sum(axis=1))
            residuals[nearest] += descriptor - model.centroids[nearest]
        residuals /= np.linalg.norm(residuals, axis=1, keepdims=True)
        flat = (np.sign(residuals) * np.abs(residuals) ** 0.5).ravel()
        assert np.allclose(model.aggregate(image), flat / np.linalg.norm(flat), atol=1e-5)


def test_order_of_the_points_does_not_matter() -> None:
    model = vlad.fit(DATABASE, Settings(clusters=8, dim=0))
    image = DATABASE[3]
    turned = LocalFeatures(image.keypoints.flip(0), image.scores.flip(0), image.descriptors.flip(0), image.image_size)
    assert np.allclose(model.aggregate(image), model.aggregate(turned), atol=1e-6)


def test_an_image_without_points_is_zero_with_and_without_whitening() -> None:
    for dim in (0, 4):
        model = vlad.fit(DATABASE, Settings(clusters=4, dim=dim))
        assert model.dim == (dim or 64)
        assert not model.aggregate(LocalFeatures.empty(16)).any()


def test_fitting_is_repeatable_and_follows_the_seed() -> None:
    one, again = (vlad.fit(DATABASE, Settings(clusters=8, dim=4, fit_points=500)) for _ in range(2))
    other = vlad.fit(DATABASE, Settings(clusters=8, dim=4, fit_points=500, seed=1))
    assert np.array_equal(one.aggregate(DATABASE[0]), again.aggregate(DATABASE[0]))
    assert not np.array_equal(one.centroids, other.centroids)


def test_small_databases_get_fewer_clusters_and_no_whitening() -> None:
    model = vlad.fit([features(0, 20)], Settings(clusters=128, dim=512))
    assert len(model.centroids) == 5 and model.whitening is None
    assert vlad.fit([features(0, 1)], Settings()).centroids.shape == (1, 16)
    with pytest.raises(DataError, match="no image of the database has a single local feature"):
        vlad.fit([LocalFeatures.empty(16)], Settings())


def test_half_precision_changes_next_to_nothing(tmp_path: Path) -> None:
    model = vlad.fit(DATABASE, Settings(clusters=4, dim=6))
    model.save(tmp_path / "whole.safetensors")
    model.save(tmp_path / "half.safetensors", half=True)
    assert (tmp_path / "half.safetensors").stat().st_size < (tmp_path / "whole.safetensors").stat().st_size
    again = vlad.load(tmp_path / "half.safetensors")
    assert max(1 - again.aggregate(each) @ model.aggregate(each) for each in DATABASE) < 1e-5


def test_descriptors_of_another_length_are_refused() -> None:
    model = vlad.fit(DATABASE, Settings(clusters=4, dim=0))
    with pytest.raises(DataError, match="a vocabulary of 16 dimensions a word does not fit descriptors of 24"):
        model.aggregate(features(0, 10, dim=24))


def test_a_saved_model_gives_the_same_vectors(tmp_path: Path) -> None:
    for dim in (0, 4):
        model = vlad.fit(DATABASE, Settings(clusters=8, dim=dim))
        model.save(tmp_path / "model.safetensors")
        again = vlad.build([], Settings(weights=str(tmp_path / "model.safetensors")))
        assert np.array_equal(model.aggregate(DATABASE[1]), again.aggregate(DATABASE[1]))


@pytest.mark.parametrize("content", [None, b"", b"not safetensors at all"])
def test_other_files_are_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "model.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match="not a VLAD model"):
        vlad.load(path)


def test_a_thumbnail_does_not_care_for_brightness_or_contrast() -> None:
    image = np.random.default_rng(0).integers(40, 120, (60, 90), dtype=np.uint8)
    method = Thumbnail(ThumbnailSettings())
    dim, bright = (method.preprocess(each) for each in (image, (image * 2 + 10).astype(np.uint8)))
    one, other = method.describe([dim, bright])
    assert float(one @ other) > 0.999


def test_a_thumbnail_of_a_plain_image_is_zero() -> None:
    method = Thumbnail(ThumbnailSettings())
    assert not method.describe([method.preprocess(np.full((50, 50), 9, np.uint8))]).any()


def test_patches_must_tile_the_thumbnail() -> None:
    with pytest.raises(ValueError, match="must divide"):
        ThumbnailSettings(width=60)
