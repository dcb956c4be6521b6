"""A light decoder of semantic segmentation on the maps of SuperPoint's backbone.

Atrous spatial pyramid pooling (Chen et al., ECCV 2018, arXiv:1802.02611) on maps of half the resolution, joined with
the maps themselves. GroupNorm makes each image independent of its batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from vpr.categories import IGNORED

DILATIONS = (2, 4, 8)
GROUPS = 8


class SegmentationHead(nn.Module):
    """Logits of classes from the backbone's maps, at the resolution of the maps."""

    def __init__(self, channels: int = 128, classes: int = 7, width: int = 64) -> None:
        super().__init__()
        self.build(channels, classes, width)

    def build(self, channels: int, classes: int, width: int) -> None:
        """Make the layers anew."""
        self._modules.clear()
        self.channels, self.classes, self.width = channels, classes, width
        half = width // 2
        self.down = nn.Sequential(_layer(channels, width, stride=2), _layer(width, width))
        self.aspp = nn.ModuleList([_layer(width, half, size=1), *(_layer(width, half, dilation=d) for d in DILATIONS)])
        self.everywhere = nn.Conv2d(width, half, 1)
        self.project = _layer(half * (len(DILATIONS) + 2), width, size=1)
        self.skip = _layer(channels, half, size=1)
        self.fuse = _layer(width + half, width)
        self.last = nn.Conv2d(width, classes, 1)

    def convert_state_dict(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Take the sizes of saved weights."""
        sizes = [state.get(name) for name in ("down.0.0.weight", "last.weight")]
        if all(each is not None and each.dim() == 4 for each in sizes):  # else load_strictly says what is missing
            first, last = (each for each in sizes if each is not None)
            if len(first) % (2 * GROUPS) == 0 and len(first):
                self.build(first.shape[1], len(last), len(first))
        return state

    def forward(self, maps: Tensor) -> Tensor:
        """(B, classes, h, w) logits of maps (B, C, h, w)."""
        low = self.down(maps)
        mean = self.everywhere(low.mean((2, 3), keepdim=True)).relu().expand(-1, -1, *low.shape[2:])
        seen = self.project(torch.cat([*(branch(low) for branch in self.aspp), mean], dim=1))
        seen = functional.interpolate(seen, maps.shape[2:], mode="bilinear", align_corners=False)
        logits: Tensor = self.last(self.fuse(torch.cat([seen, self.skip(maps)], dim=1)))
        return logits


def enlarged(logits: Tensor, size: Sequence[int]) -> Tensor:
    """Logits (B, classes, h, w) at (height, width)."""
    return functional.interpolate(logits, tuple(size), mode="bilinear", align_corners=False)


def predicted(logits: Tensor, size: tuple[int, int], confidence: float = 0.0) -> Tensor:
    """(B, H, W) uint8 most probable class of logits (B, C, h, w) at each pixel of (width, height).

    A pixel whose class is less probable than ``confidence`` is IGNORED.
    """
    large = enlarged(logits.float(), size[::-1])
    classes = large.argmax(1).to(torch.uint8)
    if confidence > 0:
        classes[large.softmax(1).amax(1) < confidence] = IGNORED
    return classes


def _layer(inputs: int, outputs: int, *, size: int = 3, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, size, stride, padding=dilation * (size // 2), dilation=dilation, bias=False)
    return nn.Sequential(conv, nn.GroupNorm(GROUPS, outputs), nn.ReLU())
