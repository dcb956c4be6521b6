"""Keypoints refined to nearby image corners: a detector finds corners reliably, but places them less exactly."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from vpr.core import Floats
from vpr.local_features.detection import refine

SCALE = 1.0  # of the window in which gradients count, standard deviation in pixels
SMOOTHING = 0.7  # of the image before its gradients are taken
SPREAD = 4 / 3  # of the window around a keypoint in which its corner is sought
STEPS = 3
LEAST = 1e-12  # trace of the second moments, below which the image counts as flat


def to_corners(keypoints: Tensor, grey: Tensor) -> Tensor:
    """Keypoints (B, N, 2) moved to the nearest corner of images (B, 1, H, W); on a flat surface none moves.

    Mean shift (Comaniciu and Meer, PAMI 2002) on cornerness, in windows of 5 x 5 pixels. With more steps more
    keypoints lie exactly on a corner, but two images of a place agree less often on which one.
    """
    strength = cornerness(grey)
    for _ in range(STEPS):
        keypoints = refine(keypoints, strength, spread=SPREAD)
    return keypoints


def cornerness(grey: Tensor) -> Tensor:
    """(B, H, W) determinant over trace of the gradients' second moments (Noble, 1988), which needs no constant."""
    if grey.is_cuda:
        return _cornerness(grey)
    return torch.stack([torch.from_numpy(_cornerness_by_opencv(each[0].numpy())) for each in grey])


def _cornerness(grey: Tensor) -> Tensor:
    smooth = functional.pad(_blurred(grey, SMOOTHING), (1, 1, 1, 1), mode="replicate")
    slope = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]], device=grey.device)
    x, y = torch.split(functional.conv2d(smooth, torch.stack([slope, slope.T])[:, None]), 1, dim=1)
    xx, yy, xy = _blurred(torch.cat([x * x, y * y, x * y], dim=1), SCALE).unbind(1)
    return (xx * yy - xy * xy).clamp_min(0) / (xx + yy).clamp_min(LEAST)


def _blurred(images: Tensor, deviation: float) -> Tensor:
    """Each channel, by a Gaussian; edges are repeated."""
    half = _half(deviation)
    kernel = torch.exp(-0.5 * (torch.arange(-half, half + 1.0, device=images.device) / deviation) ** 2)
    kernel = kernel / kernel.sum()
    padded = functional.pad(images.flatten(0, 1)[:, None], (half, half, half, half), mode="replicate")
    along = functional.conv2d(padded, kernel.view(1, 1, 1, -1))
    return functional.conv2d(along, kernel.view(1, 1, -1, 1)).view_as(images)


def _cornerness_by_opencv(grey: Floats) -> Floats:
    """The same by OpenCV, in a thirtieth of the time on a CPU."""

    def blurred(image: Floats, deviation: float) -> Floats:
        side = 2 * _half(deviation) + 1
        return np.asarray(cv2.GaussianBlur(image, (side, side), deviation, borderType=cv2.BORDER_REPLICATE), np.float32)

    smooth = blurred(grey, SMOOTHING)
    x, y = (cv2.Sobel(smooth, cv2.CV_32F, *axis, borderType=cv2.BORDER_REPLICATE) for axis in ((1, 0), (0, 1)))
    xx, yy, xy = (blurred(each, SCALE) for each in (x * x, y * y, x * y))
    strength: Floats = np.maximum(xx * yy - xy * xy, 0) / np.maximum(xx + yy, LEAST)
    return strength


def _half(deviation: float) -> int:
    return round(3 * deviation)
