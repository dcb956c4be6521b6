"""PCA whitening of a trained NetVLAD, as a layer in its checkpoint. The arithmetic is that of ``whitening.py``."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from torch import nn

from vpr.core import ImageSet
from vpr.global_descriptors.netvlad import NetVladNetwork
from vpr.global_descriptors.whitening import fit_whitening
from vpr.runtime.files import write_atomically
from vpr.training.colour_images import ColourImages


def add_whitening(
    network: NetVladNetwork, images: ImageSet, loader: ColourImages, *, dim: int, most: int, seed: int
) -> NetVladNetwork:
    """The network with a layer that whitens to ``dim`` dimensions, fitted on at most ``most`` of the images."""
    network.WPCA = None
    network.eval().to(loader.device)
    rows = np.sort(np.random.default_rng(seed).permutation(len(images))[:most])
    paths = [images.path(row) for row in rows.tolist()]
    whitening = fit_whitening(loader.describe(paths, network).numpy(), dim)
    layer = nn.Conv2d(network.vlad_dim, dim, 1)
    layer.load_state_dict(
        {
            "weight": torch.from_numpy(whitening.weight).float()[:, :, None, None],
            "bias": torch.from_numpy(whitening.bias).float(),
        }
    )
    network.WPCA = nn.Sequential(layer)
    return network


def save_whitened(network: NetVladNetwork, path: Path) -> None:
    """Write a checkpoint with the keys of Patch-NetVLAD's."""
    content = io.BytesIO()
    torch.save({"num_pcs": network.dim, "state_dict": network.state_dict()}, content)
    write_atomically(path, content.getvalue())


def whitened_path(path: Path, dim: int) -> Path:
    """Where the whitened checkpoint of another goes: ``x.pth.tar`` to ``x_WPCA512.pth.tar``."""
    name = path.name.removesuffix(".pth.tar")
    return path.with_name(f"{name}_WPCA{dim}.pth.tar")
