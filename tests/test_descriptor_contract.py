"""What every global descriptor and every aggregation of local features promises, whatever its method."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import textured
from published import features_of_seed
from small_methods import once
from torch import Tensor

from vpr.core import GlobalDescriptor, Image, LocalAggregator, LocalFeatures
from vpr.global_descriptors import GLOBAL_DESCRIPTORS, LOCAL_AGGREGATORS

descriptor = once(GLOBAL_DESCRIPTORS)
SIZES = [(120, 160), (97, 131), (120, 160)]


@pytest.fixture(scope="module", params=sorted(LOCAL_AGGREGATORS))
def aggregator(request: pytest.FixtureRequest) -> LocalAggregator:
    """Fitted on a few images."""
    row = LOCAL_AGGREGATORS[request.param]
    return row.build([features_of_seed(seed) for seed in range(8)], row.settings(method=request.param))


def as_decoded(method: GlobalDescriptor, image: Image) -> Image:
    return np.ascontiguousarray(image[..., 1]) if method.channels == "grey" else image


def prepared(method: GlobalDescriptor, seed: int, size: tuple[int, int] = (120, 160)) -> Tensor:
    return method.preprocess(as_decoded(method, textured(seed, *size)))


def test_says_what_it_is(descriptor: GlobalDescriptor) -> None:
    assert descriptor.channels in ("grey", "rgb") and descriptor.dim > 0 and len(descriptor.weights) in (0, 64)


def test_unit_rows_that_tell_images_apart(descriptor: GlobalDescriptor) -> None:
    found = descriptor.describe([prepared(descriptor, seed) for seed in range(3)])
    assert found.shape == (3, descriptor.dim) and found.dtype == torch.float32 and found.is_contiguous()
    torch.testing.assert_close(found.norm(dim=1), torch.ones(3), rtol=0, atol=1e-5)
    assert not torch.equal(found[0], found[1])


def test_a_batch_equals_single_images_in_any_order(descriptor: GlobalDescriptor) -> None:
    images = [prepared(descriptor, seed, size) for seed, size in enumerate(SIZES)]
    single = torch.cat([descriptor.describe([image]) for image in images])
    torch.testing.assert_close(descriptor.describe(images), single, rtol=0, atol=1e-5)
    torch.testing.assert_close(descriptor.describe(images[::-1]), single.flip(0), rtol=0, atol=1e-5)


def test_no_images_give_nothing(descriptor: GlobalDescriptor) -> None:
    assert descriptor.describe([]).shape == (0, descriptor.dim)


@pytest.mark.parametrize("size", [(9, 7), (1, 1), (1, 300)])
def test_tiny_images_are_described(descriptor: GlobalDescriptor, size: tuple[int, int]) -> None:
    found = descriptor.describe([prepared(descriptor, 0, size)])
    assert found.shape == (1, descriptor.dim) and found.isfinite().all()


@pytest.mark.parametrize("level", [0, 255])
def test_a_constant_image_is_no_error(descriptor: GlobalDescriptor, level: int) -> None:
    image = np.full((60, 80, 3), level, np.uint8)
    found = descriptor.describe([descriptor.preprocess(as_decoded(descriptor, image))])
    assert found.isfinite().all() and found.norm() <= 1 + 1e-5


def test_repeats_itself_and_leaves_its_input_alone(descriptor: GlobalDescriptor) -> None:
    image = prepared(descriptor, 3)
    before = image.clone()
    assert torch.equal(descriptor.describe([image]), descriptor.describe([image])) and torch.equal(image, before)


def test_features_become_a_unit_vector_in_any_order(aggregator: LocalAggregator) -> None:
    features = features_of_seed(20)
    order = torch.randperm(len(features), generator=torch.Generator().manual_seed(0))
    shuffled = LocalFeatures(features.keypoints[order], features.scores[order], features.descriptors[order], (640, 480))
    one, other = aggregator.aggregate(features), aggregator.aggregate(shuffled)
    assert one.shape == (aggregator.dim,) and one.dtype == np.float32 and one.flags["C_CONTIGUOUS"]
    assert np.isclose(np.linalg.norm(one), 1, atol=1e-5)
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)
    assert np.array_equal(one, aggregator.aggregate(features))
    assert not np.allclose(one, aggregator.aggregate(features_of_seed(21)), atol=1e-3)


def test_an_image_without_keypoints_is_zero(aggregator: LocalAggregator) -> None:
    assert not aggregator.aggregate(LocalFeatures.empty(features_of_seed(0).descriptors.shape[1])).any()
