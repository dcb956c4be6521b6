"""Patch-NetVLAD: NetVLAD of the image, and of its patches for re-ranking.

Hausler et al., CVPR 2021, arXiv:2103.01486.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from vpr.global_descriptors.netvlad import Input, NetVlad, NetVladNetwork
from vpr.global_descriptors.networks import IMAGENET, load_network, pillow_resize
from vpr.global_descriptors.patches import CELL, PatchFeatures, PatchGrid, patch_residuals, whiten_patches
from vpr.weights import WeightsError

Count = Annotated[int, Field(ge=1)]


class Settings(Input):
    """Settings of Patch-NetVLAD."""

    method: Literal["patch_netvlad"] = "patch_netvlad"
    patch_sizes: tuple[Count, ...] = Field((2, 5, 8), min_length=1)  # in features, of which one stands for 16 pixels
    strides: tuple[Count, ...] = Field((1, 1, 1), min_length=1)  # of each patch size

    @model_validator(mode="after")
    def _fits(self) -> Settings:
        if len(self.strides) != len(self.patch_sizes):
            raise ValueError(f"strides = {self.strides} must have one number for each of {self.patch_sizes}")
        if min(len(grid) for grid in self.grids()) == 0:
            rows, columns = self.height // CELL, self.width // CELL
            raise ValueError(
                f"patch_sizes = {self.patch_sizes} must fit on the {rows} x {columns} features of an image"
            )
        return self

    def grids(self) -> tuple[PatchGrid, ...]:
        sizes = zip(self.patch_sizes, self.strides, strict=True)
        return tuple(PatchGrid.over(self.height // CELL, self.width // CELL, size, stride) for size, stride in sizes)


class PatchNetVlad(NetVlad):
    """NetVLAD that can also describe the patches of an image; both come from one pass of VGG16."""

    def __init__(self, network: NetVladNetwork, weights: str, settings: Settings, device: torch.device) -> None:
        super().__init__(
            network,
            weights,
            resize=partial(pillow_resize, size=settings.size),
            levels=IMAGENET,
            device=device,
            precision=settings.precision,
        )
        self.image_size = settings.size
        self.grids = settings.grids()

    @torch.inference_mode()
    def describe_patches(self, images: Sequence[Tensor]) -> list[tuple[Tensor, PatchFeatures]]:
        """For each image what ``describe`` gives, (D,), and its patches."""
        vectors = torch.empty(len(images), self.network.vlad_dim, device=self.device)
        patches: dict[int, PatchFeatures] = {}
        for places, units, shares in self.assigned(images):
            vectors[places] = self.network.flatten(self.network.pool(units, shares))
            patches |= {each: self._patches(*of) for each, *of in zip(places, units, shares, strict=True)}
        return [(row, patches[i]) for i, row in enumerate(self.network.whiten(vectors))]

    def _patches(self, unit: Tensor, shares: Tensor) -> PatchFeatures:
        """Of one image: (h, w, 512) features and (h, w, K) shares."""
        centroids = self.network.pool.centroids
        weight, bias = self.network.whitening()
        residuals = patch_residuals(unit, shares, centroids, self.grids)
        whitened = whiten_patches(residuals, self.grids, weight.reshape(-1, *centroids.shape), bias)
        return PatchFeatures(self.grids, tuple(whitened), self.image_size)


def build(settings: Settings, device: torch.device) -> PatchNetVlad:
    network, sha256 = load_network(settings.weights, NetVladNetwork.from_state_dict)
    if network.WPCA is None:
        raise WeightsError(
            f"{settings.weights}: has no PCA layer (WPCA), and patches of {network.dim} dimensions would fill a disk; "
            "choose a checkpoint that has one, such as patch_netvlad_mapillary_512"
        )
    return PatchNetVlad(network, sha256, settings, device)
