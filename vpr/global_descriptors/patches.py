"""Square patches of a map of features: where they lie, and their NetVLAD descriptors.

Hausler et al., CVPR 2021 (Patch-NetVLAD), arXiv:2103.01486.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

CELL = 16  # pixels from one feature of VGG16's conv5_3 to the next

# Memory for the residuals of the clusters in hand. On a CPU they stay in its cache: 1.5 times as fast as 40 MB.
CHUNK_BYTES = {"cpu": 5 << 20, "cuda": 1 << 30}


@dataclass(frozen=True)
class PatchGrid:
    """Patches of ``size`` x ``size`` features, every ``stride`` features; row by row, from the top left."""

    size: int
    stride: int
    rows: int
    columns: int

    @staticmethod
    def over(height: int, width: int, size: int, stride: int) -> PatchGrid:
        """All that fit on a map of height x width features; none if the map is smaller than a patch."""
        rows, columns = (max(0, (side - size) // stride + 1) for side in (height, width))
        return PatchGrid(size, stride, rows, columns)

    def __len__(self) -> int:
        return self.rows * self.columns

    def positions(self, as_published: bool = False) -> tuple[Tensor, Tensor]:
        """Column and row of each patch's top-left feature, and x and y of its centre, both (P, 2) int64.

        The centre is rounded down to whole pixels, as published. For strides above 1 the published code strides twice,
        and has zeros for the patches that are left over: ``as_published`` repeats that.
        """
        stride = self.stride
        rows, columns = torch.arange(self.rows) * stride, torch.arange(self.columns) * stride
        if as_published:
            rows, columns = torch.arange(0, self.rows, stride), torch.arange(0, self.columns, stride)
        cells = torch.cartesian_prod(rows, columns).flip(1)
        points = CELL * cells + CELL // 2 * (self.size - 1) + 7
        left_over = (0, 0, 0, len(self) - len(cells))
        return functional.pad(cells, left_over), functional.pad(points, left_over)


@dataclass(frozen=True, eq=False)
class PatchFeatures:
    """Patch descriptors of one image."""

    grids: tuple[PatchGrid, ...]
    descriptors: tuple[Tensor, ...]  # for each grid (P, D) unit rows; (0, D) if the image could not be read
    image_size: tuple[int, int]  # width, height of the image the network saw

    def __len__(self) -> int:
        return sum(len(each) for each in self.descriptors)

    @property
    def keypoints(self) -> Tensor:
        """(N, 2) float32 centres of the patches of all grids, in pixels."""
        return torch.cat([grid.positions()[1] for grid in self.grids]).float() if len(self) else torch.zeros(0, 2)


def box_sums(volume: Tensor, size: int) -> Tensor:
    """Sums over all size x size windows: (K, h, w, D) to (K, h - size + 1, w - size + 1, D).

    Windows of 2, 4, 8 ... are added up from two of half the size. An integral image costs more, and subtracts numbers
    so large that a cluster with little mass in a patch is left with rounding noise, which its normalisation blows up:
    at 480x640 with 64 clusters and patches of 2, 5 and 8 this takes 0.3 instead of 0.6 s (3.5 s for the published
    volume of all clusters), and the largest error of a patch of 5 is 5e-9 instead of 1e-2.
    """
    return _window_sums(_window_sums(volume, size, dim=1), size, dim=2)


def _window_sums(volume: Tensor, size: int, dim: int) -> Tensor:
    count = volume.shape[dim] - size + 1
    total: Tensor | None = None
    done, power, doubled = 0, 1, volume  # doubled holds sums of ``power`` neighbours
    while power <= size:
        if size & power:
            part = doubled.narrow(dim, done, count)
            total = part if total is None else total + part
            done += power
        if 2 * power <= size:
            kept = doubled.shape[dim] - power
            doubled = doubled.narrow(dim, 0, kept) + doubled.narrow(dim, power, kept)
        power *= 2
    if total is None:
        raise ValueError(f"a window of {size}")
    return total


def patch_residuals(
    unit: Tensor, shares: Tensor, centroids: Tensor, grids: Sequence[PatchGrid]
) -> Iterator[tuple[int, list[Tensor]]]:
    """NetVLAD of each patch, a few clusters at a time: the first cluster, and for each grid (k, P, 512).

    ``unit`` (h, w, 512) and ``shares`` (h, w, K) are of one image. Each cluster's mean of share * (feature - centroid)
    over a patch comes as a unit vector; one shorter than 1e-12 comes shorter, as published.
    """
    height, width, dim = unit.shape
    step = max(1, CHUNK_BYTES.get(unit.device.type, CHUNK_BYTES["cpu"]) // (4 * height * width * dim))
    for first in range(0, len(centroids), step):
        part = shares[..., first : first + step].permute(2, 0, 1)[..., None].contiguous()  # (k, h, w, 1)
        weighted = part * unit
        centres = centroids[first : first + step, None, None]
        found = []
        for grid in grids:
            sums = box_sums(weighted, grid.size) - box_sums(part, grid.size) * centres
            strided = sums[:, :: grid.stride, :: grid.stride].flatten(1, 2)
            found.append(functional.normalize(strided, dim=2, eps=1e-12 * grid.size**2))
        yield first, found


def whiten_patches(
    residuals: Iterator[tuple[int, list[Tensor]]], grids: Sequence[PatchGrid], weight: Tensor, bias: Tensor
) -> list[Tensor]:
    """PCA-whitened unit descriptors of the patches, for each grid (P, D).

    ``weight`` (D, K, 512) is applied cluster by cluster as the residuals come, so that the (P, K * 512) vectors before
    whitening, 370 MB for one image at the sizes above, never exist.
    """
    projected = [weight.new_zeros(len(grid), len(weight)) for grid in grids]
    squares = [weight.new_zeros(len(grid), 1) for grid in grids]
    for first, found in residuals:
        for patches, total, square in zip(found, projected, squares, strict=True):
            square.add_(patches.square().sum((0, 2))[:, None])
            for cluster, vectors in enumerate(patches, first):
                total.addmm_(vectors, weight[:, cluster].T)
    pairs = zip(projected, squares, strict=True)
    return [functional.normalize(total / square.sqrt().clamp_min(1e-12) + bias, dim=1) for total, square in pairs]
