"""Points move to the corners of the picture."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from vpr.local_features.corners import _cornerness, cornerness, to_corners


def square(left: float, top: float) -> Tensor:
    """A bright square whose corner lies there, between pixels: (1, 1, 60, 80)."""
    big = np.zeros((600, 800), np.float32)
    big[round(10 * top) + 5 : round(10 * top) + 305, round(10 * left) + 5 : round(10 * left) + 305] = 1.0
    return torch.from_numpy(cv2.resize(big, (80, 60), interpolation=cv2.INTER_AREA))[None, None]


@pytest.mark.parametrize("shift", [0.0, 0.3, 0.5, 0.8])
def test_a_point_follows_its_corner_between_pixels(shift: float) -> None:
    """The cornerness of a square's corner lies a little inside, by the same everywhere."""
    start = torch.tensor([[[21.0, 15.0]]])
    at_rest = to_corners(start, square(20.0, 14.0)) - 20
    moved = to_corners(start, square(20.0 + shift, 14.0)) - 20
    assert float(moved[0, 0, 0] - at_rest[0, 0, 0]) == pytest.approx(shift, abs=0.12)
    assert float(moved[0, 0, 1] - at_rest[0, 0, 1]) == pytest.approx(0, abs=0.1)


def test_starts_around_a_corner_end_closer_together() -> None:
    starts = torch.tensor([[[19.0, 14.0], [22.0, 14.0], [20.0, 16.0], [21.0, 13.0]]])
    ends = to_corners(starts, square(20.0, 14.0))
    assert torch.cdist(ends, ends).max() < 0.5 * torch.cdist(starts, starts).max()


def test_where_all_is_flat_no_point_moves() -> None:
    points = torch.tensor([[[10.3, 20.7], [0.0, 0.0], [79.0, 59.0]]])
    assert torch.equal(to_corners(points, torch.full((1, 1, 60, 80), 0.4)), points)


def test_an_edge_is_no_corner() -> None:
    strength = cornerness(square(20.0, 14.0))[0]
    assert strength[30, 19:22].max() < 1e-3 < 0.1 * strength.max()


def test_images_of_a_batch_do_not_see_each_other() -> None:
    images = torch.cat([square(20.0, 14.0), square(33.4, 21.7)])
    points = torch.tensor([[[21.0, 15.0]], [[34.0, 22.0]]])
    together = to_corners(points, images)
    alone = torch.cat([to_corners(points[i : i + 1], images[i : i + 1]) for i in (0, 1)])
    assert torch.equal(together, alone)


def test_opencv_computes_the_same_as_torch() -> None:
    images = torch.rand(2, 1, 37, 51, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(cornerness(images), _cornerness(images), atol=1e-5, rtol=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_moves_points_to_the_same_places() -> None:
    image, points = square(20.4, 14.2), torch.tensor([[[21.0, 15.0], [40.0, 30.0]]])
    there = to_corners(points.cuda(), image.cuda()).cpu()
    torch.testing.assert_close(there, to_corners(points, image), atol=1e-3, rtol=0)
