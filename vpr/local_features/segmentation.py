"""Classes of pixels by a segmentation head on SuperPoint's backbone.

The weights of a head name the SuperPoint that it was trained on, and the classes it knows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from vpr.categories import Categories
from vpr.category_files import as_records, from_records
from vpr.core import ConfigError, Image
from vpr.local_features.segmentation_network import SegmentationHead, predicted
from vpr.local_features.superpoint_fast import FastBackbone
from vpr.local_features.superpoint_network import CELL, SuperPointNetwork
from vpr.weights import WeightsError, find, load_published, record_of
from vpr.weights.record import other_metadata

LONGEST_SIDE = 320  # pixels at which a head sees an image, unless its recipe says otherwise
CLASSES = "categories"  # the key of a head's metadata


def about_classes(categories: Categories) -> dict[str, Any]:
    """The classes of a head, as metadata of its weights beside the record."""
    return {CLASSES: {"name": categories.name, "classes": as_records(categories)}}


class Segmenter:
    """Classes of the pixels of images; (1, H, W) or (3, H, W) tensors, uint8 or float with values in [0, 1]."""

    def __init__(
        self,
        head: SegmentationHead,
        backbone: FastBackbone,
        categories: Categories,
        *,
        weights: str,
        longest_side: int,
    ) -> None:
        self.head = head.eval().to(backbone.device)
        self.backbone = backbone
        self.categories = categories
        self.weights = weights  # sha256 of the head's, which name those of the backbone
        self.longest_side = longest_side

    @torch.inference_mode()
    def classes(self, image: Tensor, confidence: float = 0.0) -> Tensor:
        """(h, w) uint8 classes of a whole image, at most ``longest_side`` pixels along a side.

        IGNORED where the most probable class is less probable than ``confidence``.
        """
        grey = _grey(image)[None]
        scale = self.longest_side / max(grey.shape[2:])
        height, width = (max(CELL, round(side * scale)) for side in grey.shape[2:])
        small = functional.interpolate(grey, (height, width), mode="bilinear", antialias=True, align_corners=False)
        # Whole cells: what is left beyond them is as the pixels at the edge.
        small = functional.pad(small, (0, -width % CELL, 0, -height % CELL), mode="replicate")
        maps = self.backbone.finish(self.backbone(small.to(self.backbone.device)))
        return predicted(self.head(maps), (small.shape[3], small.shape[2]), confidence)[0, :height, :width].cpu()

    def of_image(self, image: Image) -> Image:
        """The same of a decoded RGB image (H, W, 3)."""
        return np.asarray(self.classes(torch.from_numpy(image).permute(2, 0, 1)).numpy(), np.uint8)


def load_segmenter(weights: str, device: torch.device) -> Segmenter:
    """A head by name or path, with the backbone that it names.

    Raises ConfigError if the weights are none of a head, and WeightsError for weights that are missing or damaged.
    """
    found = find(weights)
    record, about = record_of(str(found.path)), other_metadata(found.path).get(CLASSES)
    if record is None or record.trained_for is None or not isinstance(about, dict):
        raise ConfigError(
            f"{weights!r} are no weights of a segmentation head; `vpr train --config train_segmentation` makes some"
        )
    categories = from_records(about.get("classes"), str(found.path), str(about.get("name", "classes")))
    head, network = SegmentationHead(), SuperPointNetwork()
    digest = load_published(head, str(found.path), head.convert_state_dict)
    backbone = load_published(network, record.trained_for.weights, network.convert_state_dict)
    if record.trained_for.sha256 and record.trained_for.sha256 != backbone:
        raise WeightsError(
            f"{record.trained_for.weights}: not the SuperPoint that {weights} was trained on (another sha256)"
        )
    if (head.channels, head.classes) != (network.sizes[0][-1], len(categories)):
        raise WeightsError(
            f"{found.path}: a head of {head.channels} channels and {head.classes} classes; the backbone has "
            f"{network.sizes[0][-1]}, and {len(categories)} classes are named"
        )
    longest = record.recipe.get("longest_side", LONGEST_SIDE)
    return Segmenter(head, FastBackbone(network, device), categories, weights=digest, longest_side=int(longest))


def _grey(image: Tensor) -> Tensor:
    """(1, H, W) float32 with values in [0, 1]."""
    values = image.float() / 255 if image.dtype == torch.uint8 else image.float()
    if len(values) == 1:
        return values
    return (values * values.new_tensor([0.299, 0.587, 0.114])[:, None, None]).sum(0, keepdim=True)
