"""What every extractor of the table promises, whatever its method."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import textured
from small_methods import once
from torch import Tensor

from vpr.core import Image, LocalExtractor, LocalFeatures
from vpr.local_features import LOCAL_EXTRACTORS

extractor = once(LOCAL_EXTRACTORS)
SIZES = [(240, 320), (97, 131), (9, 7), (1, 1), (8, 200), (240, 320)]


def as_decoded(method: LocalExtractor, image: Image) -> Image:
    return np.ascontiguousarray(image[..., 1]) if method.channels == "grey" else image


def prepared(method: LocalExtractor, seed: int, size: tuple[int, int] = (240, 320)) -> Tensor:
    return method.preprocess(as_decoded(method, textured(seed, *size)))


def parts(features: LocalFeatures) -> tuple[Tensor, Tensor, Tensor]:
    return features.keypoints, features.scores, features.descriptors


def same(one: LocalFeatures, other: LocalFeatures, atol: float = 0.0) -> bool:
    pairs = zip(parts(one), parts(other), strict=True)
    return len(one) == len(other) and all(torch.allclose(a, b, rtol=0, atol=atol) for a, b in pairs)


def test_says_what_it_is(extractor: LocalExtractor) -> None:
    assert extractor.channels in ("grey", "rgb") and extractor.dim > 0 and len(extractor.weights) in (0, 64)


def test_keypoints_scores_and_descriptors(extractor: LocalExtractor) -> None:
    (found,) = extractor.extract([prepared(extractor, 0)])
    width, height = found.image_size
    assert len(found) > 20
    assert all(part.dtype == torch.float32 and part.is_contiguous() and part.isfinite().all() for part in parts(found))
    assert found.descriptors.shape[1] == extractor.dim
    assert found.keypoints.min() >= -0.5 and (found.keypoints <= torch.tensor([width, height]) - 0.5).all()
    assert found.scores.min() >= 0 and found.scores.max() <= 1
    torch.testing.assert_close(found.descriptors.norm(dim=1), torch.ones(len(found)))


def test_a_batch_equals_single_images_in_any_order(extractor: LocalExtractor) -> None:
    images = [prepared(extractor, seed, size) for seed, size in enumerate(SIZES)]
    single = [extractor.extract([image])[0] for image in images]
    assert all(map(same, extractor.extract(images), single))
    assert all(map(same, extractor.extract(images[::-1]), single[::-1]))


def test_no_images_give_nothing(extractor: LocalExtractor) -> None:
    assert extractor.extract([]) == []


@pytest.mark.parametrize("size", [(9, 7), (1, 1), (1, 300), (300, 1)])
def test_tiny_images_have_few_keypoints_or_none(extractor: LocalExtractor, size: tuple[int, int]) -> None:
    (found,) = extractor.extract([prepared(extractor, 0, size)])
    assert len(found) < 1000 and found.descriptors.shape == (len(found), extractor.dim)
    assert all(part.dtype == torch.float32 and part.isfinite().all() for part in parts(found))


@pytest.mark.parametrize("level", [0, 255])
def test_a_constant_image_is_no_error(extractor: LocalExtractor, level: int) -> None:
    image = np.full((120, 160, 3), level, np.uint8)
    (found,) = extractor.extract([extractor.preprocess(as_decoded(extractor, image))])
    assert all(part.isfinite().all() for part in parts(found))


def test_repeats_itself_and_leaves_its_input_alone(extractor: LocalExtractor) -> None:
    image = prepared(extractor, 3)
    before = image.clone()
    first, second = extractor.extract([image]), extractor.extract([image])
    assert same(first[0], second[0]) and torch.equal(image, before)


def test_images_are_taken_as_they_are_decoded(extractor: LocalExtractor) -> None:
    """Grey methods are given (H, W), the others (H, W, 3); a view of a larger array is as good as a copy."""
    large = as_decoded(extractor, textured(5, 300, 400))
    view, copy = large[10:250, 20:340], large[10:250, 20:340].copy()
    assert same(*(extractor.extract([extractor.preprocess(each)])[0] for each in (view, copy)))
