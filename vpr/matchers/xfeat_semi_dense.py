"""XFeat*: XFeat's semi-dense matching. Potje et al., CVPR 2024, arXiv:2404.19174.

Descriptors of the most reliable cells of an image at two sizes are matched by mutual nearest neighbours; a small
network then reads from both descriptors where in the first image's cell the match lies, and how clearly. The published
weights are those of XFeat.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from vpr.config import MethodSettings
from vpr.core import Channels, Image, ImageMatches
from vpr.images import fitted_size, resize
from vpr.local_features.xfeat import CELL, DIM, EPSILON, STRIDE, XFeatNetwork
from vpr.matchers.one_to_many import mutual_partners
from vpr.weights import load_published

SIZES = ((0.6, 0.2), (1.3, 0.8))  # by how much the image is enlarged, and the share of the keypoints taken there
SHARPNESS = 3.0  # of the softmax over the places in a cell
FINE_KEYS = {f"fine_matcher.{3 * layer}.{part}" for layer in range(5) for part in ("weight", "bias")} | {
    f"fine_matcher.{3 * layer + 1}.running_{part}" for layer in range(4) for part in ("mean", "var")
}
SMALLEST = round(STRIDE / SIZES[0][0]) + 1  # side of an image in which a cell is left at the smaller size


class Settings(MethodSettings):
    """Settings of XFeat's semi-dense matching."""

    method: Literal["xfeat_semi_dense"] = "xfeat_semi_dense"
    weights: str = "xfeat"  # name or path of weights in the published layout
    longest_side: int = Field(640, ge=SMALLEST)  # larger images are shrunk to this
    max_keypoints: int = Field(4096, ge=5)  # the most reliable cells
    match_threshold: float = Field(0.25, ge=0, lt=1)  # matches whose place in the cell is clearer than this


class FineMatcher(nn.Sequential):
    """From both descriptors of a match, (M, 128), to logits of its place in the first one's cell, (M, 64)."""

    def __init__(self) -> None:
        widths = (2 * DIM, 512, 512, 512, 512, CELL**2)
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), nn.ReLU(inplace=True)]
        super().__init__(*layers[:-1])

    @staticmethod
    def convert_state_dict(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Of published weights those of this network, with their BatchNorms folded."""
        found: dict[str, Tensor] = {}
        for layer in range(5):
            weight, bias = (state[f"fine_matcher.{3 * layer}.{part}"] for part in ("weight", "bias"))
            if layer < 4:
                mean, variance = (state[f"fine_matcher.{3 * layer + 1}.running_{part}"] for part in ("mean", "var"))
                scale = (variance + EPSILON).rsqrt()
                weight, bias = weight * scale[:, None], (bias - mean) * scale
            found |= {f"{2 * layer}.weight": weight, f"{2 * layer}.bias": bias}
        return found


class SemiDenseNetwork(nn.Module):
    """Descriptors of cells, and places of matches in them."""

    def __init__(self) -> None:
        super().__init__()
        self.features = XFeatNetwork()
        self.fine = FineMatcher()

    def convert_state_dict(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Published weights of XFeat; where those of the fine matcher are missing, loading says so."""
        parts = {"features": self.features.convert_state_dict(state)}
        if FINE_KEYS <= state.keys():
            parts["fine"] = self.fine.convert_state_dict(state)
        return {f"{part}.{key}": value for part, values in parts.items() for key, value in values.items()}


class Cells(NamedTuple):
    """The most reliable cells of an image."""

    keypoints: Tensor  # (N, 2) pixels
    descriptors: Tensor  # (N, 64), not of unit length
    enlarged: Tensor  # (N,) pixels of the image in a pixel of the size it was found at


class XFeatSemiDense:
    """Matches of two images; the keypoints of the first are refined. Images are (1, H, W) grey in [0, 1]."""

    channels: Channels = "rgb"

    def __init__(self, network: SemiDenseNetwork, weights: str, settings: Settings, device: torch.device) -> None:
        self.weights = weights
        self.settings = settings
        self.device = device
        self.network = network.eval().to(device)
        self.network.features.to(memory_format=torch.channels_last)

    def preprocess(self, image: Image) -> Tensor:
        """The mean of red, green and blue, as published, which is not OpenCV's grey."""
        height, width = image.shape[:2]
        size = fitted_size(width, height, longest=self.settings.longest_side)
        return torch.from_numpy(resize(image, size)).float().mean(-1)[None] / 255

    @torch.inference_mode()
    def match(self, query: Tensor, candidates: Sequence[Tensor]) -> list[ImageMatches]:
        if not candidates:
            return []
        first = self._cells(query)
        return [self._match(first, self._cells(each)) for each in candidates]

    def _match(self, first: Cells, second: Cells) -> ImageMatches:
        if not len(first.keypoints) or not len(second.keypoints):
            return ImageMatches.empty()
        partner = mutual_partners((first.descriptors @ second.descriptors.T)[None])[0][0]
        rows = (partner >= 0).nonzero()[:, 0]
        others = partner[rows]
        logits = self.network.fine(torch.cat([first.descriptors[rows], second.descriptors[others]], dim=1))
        places = (SHARPNESS * logits).softmax(1)
        clearness = places.amax(1)
        step = torch.arange(CELL**2, device=places.device)
        offsets = torch.stack([step % CELL, step // CELL], dim=1).float() - CELL // 2
        moved = first.keypoints[rows] + (places @ offsets) * first.enlarged[rows, None]
        clear = clearness > self.settings.match_threshold
        return ImageMatches(*(each[clear].cpu() for each in (moved, second.keypoints[others], clearness)))

    def _cells(self, image: Tensor) -> Cells:
        """Of an image (1, H, W)."""
        grey, found = image[None].to(self.device).float(), []
        for enlarged, share in SIZES:
            larger = functional.interpolate(grey, scale_factor=enlarged, mode="bilinear")
            keypoints, descriptors = self._most_reliable(larger, int(self.settings.max_keypoints * share))
            found.append(Cells(keypoints / enlarged, descriptors, keypoints.new_full((len(keypoints),), 1 / enlarged)))
        return Cells(*(torch.cat(each) for each in zip(*found, strict=True)))

    def _most_reliable(self, grey: Tensor, most: int) -> tuple[Tensor, Tensor]:
        """Corners (N, 2) of the cells of an image (1, 1, H, W), in its pixels, and their descriptors (N, 64)."""
        height, width = grey.shape[2:]
        seen = height // STRIDE * STRIDE, width // STRIDE * STRIDE
        if not min(seen) or most < 1:
            return grey.new_zeros(0, 2), grey.new_zeros(0, DIM)
        if seen != (height, width):
            grey = functional.interpolate(grey, seen, mode="bilinear")
        features, _, reliability = self.network.features(functional.instance_norm(grey, eps=EPSILON))
        rows = reliability.flatten().topk(min(most, reliability.numel())).indices
        columns = features.shape[3]
        corners = CELL * torch.stack([rows % columns, rows // columns], dim=1)
        vectors = features[0].flatten(1).T[rows]
        return corners * corners.new_tensor([width / seen[1], height / seen[0]], dtype=torch.float32), vectors


def build(settings: Settings, device: torch.device) -> XFeatSemiDense:
    network = SemiDenseNetwork()
    found = load_published(network, settings.weights, network.convert_state_dict)
    return XFeatSemiDense(network, found, settings, device)
