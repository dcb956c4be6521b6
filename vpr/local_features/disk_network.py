"""DISK's network: a U-Net from an image to a heat map and to descriptors. Tyszkiewicz et al., arXiv:2006.13566.

Computes what the published code computes, with less work: its last layer, which makes 128 of its 129 channels for
descriptors and takes five sixths of all products, is applied only where there are keypoints.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

DIM = 128
KERNEL = 5
DOWN = (3, 16, 32, 64, 64, 64)  # channels at full size, and at each half of it
EPSILON = 1e-5  # of the normalisation


class Gated(nn.Module):
    """Each channel normalised over the image and passed through a PReLU, then a convolution."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.gate = nn.PReLU(before)
        self.conv = nn.Conv2d(before, after, KERNEL, padding=KERNEL // 2)

    def gated(self, x: Tensor) -> Tensor:
        """What the convolution sees of (1, C, H, W)."""
        normalised = functional.batch_norm(x, None, None, training=True, eps=EPSILON)  # of a single image
        return functional.prelu(normalised, self.gate.weight)

    def forward(self, x: Tensor) -> Tensor:
        convolved: Tensor = self.conv(self.gated(x))
        return convolved


class DiskNetwork(nn.Module):
    """The U-Net; images are (1, 3, H, W) with values in [0, 1] and sides that are multiples of 16."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(DOWN[0], DOWN[1], KERNEL, padding=KERNEL // 2)
        self.down = nn.ModuleList(Gated(*two) for two in pairwise(DOWN[1:]))
        self.up = nn.ModuleList(Gated(DOWN[5] + across, 64) for across in DOWN[4:1:-1])
        self.last = Gated(64 + DOWN[1], DIM + 1)

    @staticmethod
    def convert_state_dict(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Published weights by the names that they have here."""
        return {_name(key): value for key, value in state.items()}

    def forward(self, image: Tensor) -> Tensor:
        """(H, W, C) what the last layer sees of each pixel."""
        across = [self.first(image)]
        for block in self.down:
            across.append(block(functional.avg_pool2d(across[-1], 2)))
        x = across.pop()
        for block in self.up:
            x = block(_joined(x, across.pop()))
        return self.last.gated(_joined(x, across.pop()))[0].permute(1, 2, 0)

    def heat(self, features: Tensor) -> Tensor:
        """(H, W) logits of a keypoint: one product for the 25 places of the kernel, then their sum."""
        height, width, channels = features.shape
        weight, bias = self.last.conv.weight[-1], self.last.conv.bias
        assert bias is not None
        products = (features.reshape(-1, channels) @ weight.flatten(1)).T.reshape(-1, height, width)
        reach = KERNEL // 2
        padded = functional.pad(products, (reach,) * 4).view(KERNEL, KERNEL, height + 2 * reach, width + 2 * reach)
        heat = bias[-1].expand(height, width).clone()
        for y in range(KERNEL):
            for x in range(KERNEL):
                heat += padded[y, x, y : y + height, x : x + width]
        return heat

    def describe(self, features: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """(N, 128) unit descriptors of N pixels."""
        height, width, channels = features.shape
        step = torch.arange(KERNEL, device=features.device) - KERNEL // 2
        y = (rows[:, None, None] + step[:, None]).expand(-1, -1, KERNEL)
        x = (columns[:, None, None] + step).expand(-1, KERNEL, -1)
        outside = (y < 0) | (y >= height) | (x < 0) | (x >= width)
        seen = features[y.clamp(0, height - 1), x.clamp(0, width - 1)].masked_fill(outside[..., None], 0)
        weight, bias = self.last.conv.weight[:DIM], self.last.conv.bias
        assert bias is not None
        products = weight.permute(0, 2, 3, 1).reshape(DIM, KERNEL**2 * channels)
        return functional.normalize(functional.linear(seen.flatten(1), products, bias[:DIM]), dim=1)


def _joined(small: Tensor, across: Tensor) -> Tensor:
    """A map enlarged twice beside one of that size."""
    return torch.cat([functional.interpolate(small, scale_factor=2, mode="bilinear"), across], dim=1)


def _name(key: str) -> str:
    found = re.fullmatch(r"unet\.path_(down|up)\.(\d)\.(?:conv|1)\.([13])\.(weight|bias)", key)
    if found is None:
        return key
    path, number, part, what = found[1], int(found[2]), {"1": "gate", "3": "conv"}[found[3]], found[4]
    if path == "down":
        return f"down.{number - 1}.{part}.{what}" if number else f"first.{what}"
    return f"up.{number}.{part}.{what}" if number < len(DOWN) - 3 else f"last.{part}.{what}"
