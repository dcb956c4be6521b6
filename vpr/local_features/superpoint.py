"""SuperPoint: learned corners with descriptors.

DeTone, Malisiewicz and Rabinovich, CVPR workshops 2018, arXiv:1712.07629. Weights in three published layouts are read:
the first ones ("v1", which may not be used commercially or passed on), those of rpautrat/SuperPoint ("open"), and
those of pytorch-superpoint, which become "v1". A matcher works only with the weights it was trained with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Literal, NamedTuple, TypeVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from vpr.config import Section
from vpr.core import Channels, Image, LocalFeatures
from vpr.images import resize, size_between
from vpr.local_features.corners import to_corners
from vpr.local_features.detection import contrast, refine, score_map, strongest, suppress
from vpr.local_features.sampling import Sampling, sample
from vpr.local_features.settings import LocalFeatureSettings
from vpr.local_features.superpoint_fast import FastSuperPoint
from vpr.local_features.superpoint_network import CELL, PUBLISHED_SIZES, SuperPointNetwork
from vpr.runtime.precision import Precision, arithmetic, dtype_of
from vpr.runtime.threads import one_thread_each
from vpr.weights import load_published

T = TypeVar("T")
Side = Annotated[int, Field(ge=CELL)]
PIXELS_TOGETHER = 16 * 640 * 480  # on a GPU: the first layers then take 2.5 GB in float32


class SeenSize(Section):
    """The size at which SuperPoint's backbone sees an image."""

    longest_side: int = Field(640, ge=16)  # larger images are shrunk to this
    shortest_side: int = Field(120, ge=0)  # smaller images are enlarged to this, as far as longest_side allows
    size: tuple[Side, Side] | None = None  # width, height: instead, every image is brought to exactly this

    def applied_to(self, image: Image) -> Tensor:
        """A grey image (H, W) as (1, H', W') uint8."""
        height, width = image.shape
        size = self.size or size_between(width, height, shortest=self.shortest_side, longest=self.longest_side)
        return torch.from_numpy(resize(image, size))[None]

    def same_as(self, other: SeenSize) -> bool:
        """Whether every image comes out alike, whatever the sides that ``size`` overrides."""
        sides = (self.longest_side, self.shortest_side) == (other.longest_side, other.shortest_side)
        return self.size == other.size and (self.size is not None or sides)


class Settings(SeenSize, LocalFeatureSettings):
    """Settings of SuperPoint."""

    method: Literal["superpoint"] = "superpoint"
    weights: str = "vpr-superpoint"  # name or path of weights in a published layout, of any size
    keypoint_threshold: float = Field(0.001, ge=0, lt=1)  # 0.005 as published
    nms_radius: int = Field(4, ge=0)  # keypoints lie further apart than this many pixels along an axis
    min_contrast: float = Field(0.0, ge=0, le=128)  # grey levels; flatter surroundings have no keypoint, see detection
    border: int = Field(4, ge=0)  # pixels along the edges without keypoints
    max_keypoints: int = Field(1024, ge=0)  # the strongest are kept; 0 for all
    # Keypoints are also detected in the image scaled by these factors, as in R2D2 (Revaud et al., NeurIPS 2019): for
    # large changes of scale, at the cost of as many more pixels. The strongest of all scales are kept.
    pyramid: tuple[Annotated[float, Field(gt=0, le=4)], ...] = ()
    # Subpixel positions: the centroid of the scores, as pytorch-superpoint evaluates (true), or from there the nearest
    # corner; the published matchers were trained without (false).
    subpixel: bool | Literal["corners"] = "corners"
    # Of descriptors: as the code of the first weights has it, or without its shift. The recipe of the weights says
    # which they were trained with; "auto", for weights without a recipe, goes by the size of the network.
    sampling: Sampling | Literal["auto"] = "auto"
    precision: Precision = "fp32"


class _Found(NamedTuple):
    """Keypoints of a batch of images, each image's strongest first; after the first ``counts`` comes padding."""

    keypoints: Tensor  # (B, N, 2)
    scores: Tensor  # (B, N), 0 for padding
    descriptors: Tensor  # (B, N, D)
    counts: Tensor  # (B,)


class SuperPoint:
    """Keypoints, strongest first; images are (1, H, W) tensors, uint8 or float with values in [0, 1], of any size."""

    channels: Channels = "grey"

    def __init__(self, network: SuperPointNetwork, weights: str, settings: Settings, device: torch.device) -> None:
        self.dim = network.dim
        self.weights = weights
        self.settings = settings
        self.device = device
        self.network = FastSuperPoint(network, device, dtype_of(settings.precision, device))
        self.sampling = _sampling(settings, network)

    def preprocess(self, image: Image) -> Tensor:
        return self.settings.applied_to(image)

    def extract(self, images: Sequence[Tensor]) -> list[LocalFeatures]:
        return self._in_batches(images, self._extract_batch)

    def extract_and(
        self, images: Sequence[Tensor], use_maps: Callable[[Tensor], Sequence[T]]
    ) -> list[tuple[LocalFeatures, T]]:
        """Features of each image, and its item of what ``use_maps`` makes of the backbone's maps of images of one size.

        Both come from one pass. For images too small to have a map, ``use_maps`` gets (B, C, 0, 0).
        """

        def both(batch: Tensor) -> list[tuple[LocalFeatures, T]]:
            seen: list[T] = []
            found = self._extract_batch(batch, lambda maps: seen.extend(use_maps(maps)))
            return list(zip(found, seen, strict=True))

        return self._in_batches(images, both)

    @torch.inference_mode()
    def extract_with(self, image: Tensor, places: Tensor) -> tuple[LocalFeatures, Tensor]:
        """Features of one image, at its own scale only, and the descriptors (N, D) of pixels (N, 2), from one pass."""
        height, width = image.shape[1:]
        if min(height, width) < CELL:
            raise ValueError(f"an image of {width} x {height} pixels has no descriptors")
        grey = image[None].to(self.device).float()
        grey = grey / 255 if image.dtype == torch.uint8 else grey
        found, unit = self._keypoints(grey)
        p, s, d = (each[0, : found.counts[0]].cpu() for each in found[:3])
        there = sample(unit, places[None].to(self.device), CELL, self.sampling)[0]
        return LocalFeatures(p, s, d, (width, height)), there.cpu()

    def _in_batches(self, images: Sequence[Tensor], work: Callable[[Tensor], Sequence[T]]) -> list[T]:
        """Returns the output of ``work`` for images of one size, in the order of the images."""
        groups = self._groups(images)
        batches = [torch.stack([images[i] for i in group]) for group in groups]
        if self.device.type == "cpu" and len(batches) > 1:
            with one_thread_each(min(torch.get_num_threads(), len(batches))) as pool:
                done = list(pool.map(work, batches))
        else:
            done = [work(batch) for batch in batches]
        found = {
            i: each for group, batch in zip(groups, done, strict=True) for i, each in zip(group, batch, strict=True)
        }
        return [found[i] for i in range(len(images))]

    def _groups(self, images: Sequence[Tensor]) -> list[list[int]]:
        """Images of one size together; on a CPU, where it gains nothing, each alone."""
        by_size: dict[torch.Size, list[int]] = {}
        for i, image in enumerate(images):
            by_size.setdefault(image.shape, []).append(i)
        groups = []
        for shape, rows in by_size.items():
            together = 1 if self.device.type == "cpu" else max(1, PIXELS_TOGETHER // max(1, shape.numel()))
            groups += [rows[i : i + together] for i in range(0, len(rows), together)]
        return groups

    @torch.inference_mode()
    def _extract_batch(self, images: Tensor, use_maps: Callable[[Tensor], None] | None = None) -> list[LocalFeatures]:
        """(B, 1, H, W) of one size."""
        height, width = images.shape[2:]
        if min(height, width) < CELL:
            if use_maps is not None:
                use_maps(torch.zeros(len(images), self.network.backbone.channels, 0, 0, device=self.device))
            return [LocalFeatures.empty(self.dim, (width, height))] * len(images)
        images = images.to(self.device, non_blocking=True)
        grey = images.float() / 255 if images.dtype == torch.uint8 else images.float()
        found = [self._keypoints(grey, use_maps)[0]]
        for scale in self.settings.pyramid:
            size = round(scale * height), round(scale * width)
            if min(size) >= CELL:
                scaled = functional.interpolate(grey, size, mode="bilinear", antialias=True)
                keypoints, *rest = self._keypoints(scaled)[0]
                found.append(
                    _Found((keypoints + 0.5) * keypoints.new_tensor([width / size[1], height / size[0]]) - 0.5, *rest)
                )
        best = _Found(*(each.cpu() for each in _strongest_of(found, self.settings.max_keypoints)))
        return [LocalFeatures(p[:n], s[:n], d[:n], (width, height)) for p, s, d, n in zip(*best, strict=True)]

    def _keypoints(self, grey: Tensor, use_maps: Callable[[Tensor], None] | None = None) -> tuple[_Found, Tensor]:
        """Of images (B, 1, H, W) with values in [0, 1]; and the descriptors (B, h, w, D) of their cells."""
        settings = self.settings
        with arithmetic(settings.precision, self.device):
            logits, coarse = self.network(grey) if use_maps is None else self.network(grey, use_maps)
        dense = score_map(logits)
        textured = dense
        if settings.min_contrast:
            flat = contrast(grey)[:, : dense.shape[1], : dense.shape[2]] < settings.min_contrast / 255
            textured = dense.masked_fill(flat, 0)
        scores = suppress(textured, settings.nms_radius)
        places, found, counts = strongest(scores, settings.keypoint_threshold, settings.border, settings.max_keypoints)
        keypoints = torch.stack([places % scores.shape[2], places // scores.shape[2]], dim=-1).float()
        if settings.subpixel:
            keypoints = refine(keypoints, dense)
        unit = functional.normalize(coarse.float(), dim=1).permute(0, 2, 3, 1)
        descriptors = sample(unit, keypoints, CELL, self.sampling)  # where the network sees the keypoint
        if settings.subpixel == "corners":
            keypoints = to_corners(keypoints, grey)
        return _Found(keypoints, found, descriptors, counts), unit


def _strongest_of(found: Sequence[_Found], most: int) -> _Found:
    """The strongest keypoints of all; 0 for all of them."""
    if len(found) == 1:
        return found[0]
    keypoints, scores, descriptors = (torch.cat(each, dim=1) for each in list(zip(*found, strict=True))[:3])
    counts = torch.stack([each.counts for each in found]).sum(0)
    order = scores.sort(dim=1, descending=True, stable=True).indices[:, : most or None, None]
    best = (each.gather(1, order.expand(-1, -1, each.shape[2])) for each in (keypoints, scores[..., None], descriptors))
    keypoints, scores, descriptors = best
    return _Found(keypoints, scores[..., 0], descriptors, counts.clamp_max(order.shape[1]))


def _sampling(settings: Settings, network: SuperPointNetwork) -> Sampling:
    """Where there is no record: the shift is in the published code of "v1", and networks of that size are its."""
    if settings.sampling != "auto":
        return settings.sampling
    return "published" if network.layout == "v1" and network.sizes == PUBLISHED_SIZES else "corrected"


def build(settings: Settings, device: torch.device) -> SuperPoint:
    network = SuperPointNetwork()
    return SuperPoint(network, load_published(network, settings.weights, network.convert_state_dict), settings, device)
