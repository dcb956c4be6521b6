"""Local features of one decoded image, outside of a feature store."""

from __future__ import annotations

from dataclasses import replace

import torch

from vpr.core import Image, LocalExtractor, LocalFeatures
from vpr.images import as_image, moved


def features_of_image(extractor: LocalExtractor, image: Image) -> LocalFeatures:
    """Local features with keypoints in pixels of the image (H, W[, 3]), not of what the extractor saw of it."""
    found = extractor.extract([extractor.preprocess(as_image(image, extractor.channels))])[0]
    size = (image.shape[1], image.shape[0])
    points = torch.from_numpy(moved(found.keypoints.numpy(), found.image_size, size))
    return replace(found, keypoints=points, image_size=size)
