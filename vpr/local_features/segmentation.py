"""Classes of pixels by a segmentation head on SuperPoint's backbone.

The weights of a head name the SuperPoint that it was trained on, and the classes it knows.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vpr.categories import Categories
from vpr.category_files import as_records
from vpr.local_features.segmentation_network import SegmentationHead, enlarged
from vpr.local_features.superpoint_fast import FastBackbone
from vpr.local_features.superpoint_network import CELL

CLASSES = "categories"  # the key of a head's metadata


def about_classes(categories: Categories) -> dict[str, Any]:
    """What a head's file says of its classes, beside its record."""
    return {CLASSES: {"name": categories.name, "classes": as_records(categories)}}


class Segmenter:
    """Classes of the pixels of grey images; images are (1, H, W) tensors, uint8 or float with values in [0, 1]."""

    def __init__(
        self, head: SegmentationHead, categories: Categories, weights: str, backbone: str, device: torch.device
    ) -> None:
        self.head = head.eval().to(device)
        self.categories = categories
        self.weights = weights  # sha256
        self.backbone_weights = backbone  # sha256 of the SuperPoint it was trained on, or ""
        self.device = device
        self._backbone: FastBackbone | None = None

    @torch.inference_mode()
    def of_maps(self, maps: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, H, W) uint8 classes of the backbone's maps (B, C, h, w), for images of (width, height)."""
        width, height = size
        if not maps.numel():
            return torch.zeros(len(maps), height, width, dtype=torch.uint8)
        whole = maps.shape[3] * CELL, maps.shape[2] * CELL  # pixels beyond a multiple of a cell are as their neighbours
        ids = enlarged(self.head(maps.float()), whole[::-1]).argmax(1).to(torch.uint8).cpu()
        rows, columns = (torch.arange(n).clamp_max(m - 1) for n, m in ((height, whole[1]), (width, whole[0])))
        return ids[:, rows][:, :, columns]
