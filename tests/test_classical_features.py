"""SIFT, RootSIFT and ORB: what every extractor promises, and what is particular to each."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import textured

from vpr.config import lookup
from vpr.core import LocalExtractor, LocalFeatures
from vpr.local_features import LOCAL_EXTRACTORS
from vpr.local_features.orb import signs
from vpr.local_features.rootsift import root, unit

CPU = torch.device("cpu")
METHODS = ("orb", "rootsift", "sift")


def build(method: str, **settings: object) -> LocalExtractor:
    row = lookup(LOCAL_EXTRACTORS, method, "local feature")
    return row.build(row.settings(method=method, **settings), CPU)


def grey(seed: int, height: int = 240, width: int = 320) -> torch.Tensor:
    return torch.from_numpy(textured(seed, height, width)[..., 1].copy())[None]


def equal(one: LocalFeatures, other: LocalFeatures) -> bool:
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in ("keypoints", "scores", "descriptors"))


@pytest.fixture(params=METHODS)
def method(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_points_scores_and_descriptors(method: str) -> None:
    extractor = build(method, max_keypoints=200)
    (found,) = extractor.extract([grey(0)])
    assert 50 < len(found) <= 200
    assert found.image_size == (320, 240)
    assert found.keypoints.dtype == found.scores.dtype == found.descriptors.dtype == torch.float32
    assert found.keypoints.min() >= 0 and (found.keypoints <= torch.tensor([319.5, 239.5])).all()
    assert found.scores.min() >= 0 and found.scores.max() <= 1
    assert (found.scores.diff() <= 0).all()
    assert found.descriptors.shape[1] == extractor.dim
    torch.testing.assert_close(found.descriptors.norm(dim=1), torch.ones(len(found)))
    assert extractor.weights == ""


def test_images_do_not_depend_on_their_company(method: str) -> None:
    extractor = build(method)
    images = [grey(0), grey(1, 100, 150), grey(2)]
    for image, found in zip(images, extractor.extract(images), strict=True):
        assert equal(found, extractor.extract([image])[0])


def test_a_image_without_points_is_no_accident(method: str) -> None:
    extractor = build(method)
    for shape in ((64, 64), (200, 63), (8, 200), (1, 1)):
        (found,) = extractor.extract([torch.zeros(1, *shape, dtype=torch.uint8)])
        assert found.descriptors.shape == (0, extractor.dim)
        assert found.image_size == shape[::-1]


def test_images_are_shrunk_and_never_enlarged(method: str) -> None:
    picture = textured(0, 300, 400)[..., 0]
    assert build(method, longest_side=200).preprocess(picture).shape == (1, 150, 200)
    assert build(method, longest_side=900).preprocess(picture).shape == (1, 300, 400)


def test_the_strongest_are_kept(method: str) -> None:
    many, few = (build(method, max_keypoints=count).extract([grey(0)])[0] for count in (400, 40))
    assert 30 <= len(few) <= 40 < len(many)
    assert few.scores.mean() > many.scores.mean()


def test_points_lie_where_their_pixels_are(method: str) -> None:
    """The same picture upside down has its points upside down, on every level of the pyramid."""
    picture = grey(5)
    upright, turned = build(method, max_keypoints=2000).extract([picture, picture.flip(1, 2).contiguous()])
    back = torch.tensor([319.0, 239.0]) - turned.keypoints
    distance, nearest = torch.cdist(upright.keypoints, back).min(1)
    near = distance < 1.5
    assert near.float().mean() > 0.9
    offset = (upright.keypoints - back[nearest])[near].mean(0)
    assert offset.abs().max() < 0.05


def test_sift_and_rootsift_differ_in_the_descriptor_only() -> None:
    sift, rootsift = (build(name).extract([grey(0)])[0] for name in ("sift", "rootsift"))
    assert torch.equal(sift.keypoints, rootsift.keypoints)
    assert torch.equal(sift.scores, rootsift.scores)
    histogram = sift.descriptors**1
    expected = (histogram / histogram.sum(1, keepdim=True)).sqrt()
    torch.testing.assert_close(rootsift.descriptors, expected, atol=1e-5, rtol=0)


def test_histograms_become_unit_rows_by_hand() -> None:
    histograms = np.zeros((2, 128), np.float32)
    histograms[0, :2] = 3, 4
    np.testing.assert_allclose(unit(histograms)[0, :2], [0.6, 0.8], rtol=1e-6)
    np.testing.assert_allclose(root(histograms)[0, :2], np.sqrt([3 / 7, 4 / 7]), rtol=1e-6)
    assert not unit(histograms)[1].any() and not root(histograms)[1].any()


def test_bits_become_signs_by_hand() -> None:
    """0b10000001 and 0b11000001 differ in one bit of eight."""
    rows = signs(np.array([[0b10000001], [0b11000001]], dtype=np.uint8))
    np.testing.assert_allclose(rows[0] * np.sqrt(8), [1, -1, -1, -1, -1, -1, -1, 1], rtol=1e-6)
    assert rows[0] @ rows[1] == pytest.approx(1 - 2 * 1 / 8)


def test_cosines_of_orb_count_bits() -> None:
    random = np.random.default_rng(0)
    packed = random.integers(0, 256, (10, 32), dtype=np.uint8)
    differing = np.unpackbits(packed[:, None] ^ packed[None], axis=2).sum(2)
    rows = signs(packed)
    np.testing.assert_allclose(rows @ rows.T, 1 - differing / 128, atol=1e-5)


def test_orb_levels_can_be_chosen() -> None:
    single = build("orb", levels=1).extract([grey(5)])[0]
    assert torch.equal(single.keypoints, single.keypoints.round())
    assert len(build("orb", levels=40).extract([grey(5)])[0]) > 50  # the last of them would have no pixels
