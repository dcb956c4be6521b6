"""Keypoints dropped, or made weaker, by the class of what they lie on: vehicles, people, leaves and sky do not stay."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vpr.core import Channels, Image, LocalExtractor, LocalFeatures
from vpr.local_features.segmentation import Segmenter, load_segmenter
from vpr.local_features.settings import LocalFeatureSettings

HEAD = "vpr-segmentation"  # unless the settings name another
SPARE = 2  # times as many keypoints are detected, so that enough are left


class Selection:
    """Which keypoints stay."""

    def __init__(self, dropped: Sequence[int], weight: float, most: int, confidence: float = 0.0) -> None:
        self.dropped = torch.tensor(sorted(dropped), dtype=torch.uint8)  # ids of classes
        self.confidence = confidence  # that a head must have in a class
        self.weight = weight  # of the scores of these; 0 drops them
        self.most = most  # keypoints of an image; 0 for all

    def of(self, features: LocalFeatures, classes: Tensor | None) -> LocalFeatures:
        """The features that stay, strongest first, by the classes (h, w) uint8 of the whole image; None: all the same.

        The mask may have another size than the image.
        """
        rows, scores = torch.arange(len(features)), features.scores
        if classes is not None and len(features):
            unwanted = torch.isin(at_keypoints(features, classes), self.dropped)
            if self.weight:
                scores = torch.where(unwanted, scores * self.weight, scores)
                rows = scores.sort(descending=True, stable=True).indices
            else:
                rows = rows[~unwanted]
        rows = rows[: self.most or None]
        return replace(features, scores=scores).part(rows)


def at_keypoints(features: LocalFeatures, classes: Tensor) -> Tensor:
    """(N,) classes at the keypoints, of a mask (h, w) of the whole image at any size."""
    shape, size = (torch.tensor(each, dtype=torch.float64) for each in (classes.shape[::-1], features.image_size))
    places = ((features.keypoints.double() + 0.5) * shape / size).floor().long()
    x, y = (places[:, axis].clamp(0, int(shape[axis]) - 1) for axis in (0, 1))
    return classes[y, x]


class DroppingExtractor:
    """A local extractor whose keypoints are selected by a segmentation head."""

    def __init__(self, extractor: LocalExtractor, segmenter: Segmenter, selection: Selection) -> None:
        self.channels: Channels = extractor.channels
        self.dim = extractor.dim
        joined = f"{extractor.weights}+{segmenter.weights}".encode()
        self.weights = hashlib.sha256(joined).hexdigest()
        self.extractor, self.segmenter, self.selection = extractor, segmenter, selection

    def preprocess(self, image: Image) -> Tensor:
        return self.extractor.preprocess(image)

    def extract(self, images: Sequence[Tensor]) -> list[LocalFeatures]:
        found = self.extractor.extract(images)
        return [
            self.selection.of(features, self._classes(image) if len(features) else None)
            for features, image in zip(found, images, strict=True)
        ]

    def _classes(self, image: Tensor) -> Tensor:
        return self.segmenter.classes(image, self.selection.confidence)


def build_selected(
    settings: LocalFeatureSettings, device: torch.device, build: Callable[..., LocalExtractor]
) -> LocalExtractor:
    """The extractor of the settings with more keypoints, of which the segmentation head of the settings selects.

    With a folder of masks the keypoints are selected by vpr.features.masks. Raises ConfigError for unknown classes.
    """
    most = int(getattr(settings, "max_keypoints", 0))
    extractor = build(settings.model_copy(update={"max_keypoints": SPARE * most}) if most else settings, device)
    if by_files(settings):
        return extractor
    segmenter = load_segmenter(settings.segmentation or HEAD, device)
    dropped = segmenter.categories.ids_of(settings.drop)
    selection = Selection(dropped, settings.drop_weight, most, settings.drop_confidence)
    return DroppingExtractor(extractor, segmenter, selection)


def by_files(settings: Any) -> bool:
    """Whether keypoints are selected by masks in a folder."""
    drops = isinstance(settings, LocalFeatureSettings) and bool(settings.drop)
    return drops and bool(settings.segmentation) and Path(settings.segmentation).is_dir()
