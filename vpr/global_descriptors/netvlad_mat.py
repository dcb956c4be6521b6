"""NetVLAD as its authors published it, for MATLAB. Arandjelovic et al., CVPR 2016, arXiv:1511.07247.

Loads ``Pitts30K_struct.mat`` and ``TokyoTM_struct.mat``, and describes images as hloc does with them: of any size up to
``longest_side``, less the mean colour that the file names.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from vpr.config import MethodSettings
from vpr.core import Image
from vpr.global_descriptors.netvlad import NetVlad, NetVladNetwork
from vpr.global_descriptors.networks import Levels
from vpr.global_descriptors.patches import CELL
from vpr.images import fitted_size, resize
from vpr.runtime.precision import Precision
from vpr.weights import WeightsError, find, load_strictly, read_checkpoint

CONVOLUTIONS = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)  # their places in net.layers and in torchvision's VGG16
POOL, WHITENING = "layers.30.weights", "layers.33.weights"
AVERAGE = "meta.normalization.averageImage"


class Settings(MethodSettings):
    """Settings of NetVLAD from MATLAB."""

    method: Literal["netvlad_mat"] = "netvlad_mat"
    weights: str = "netvlad_pitts30k"  # name or path of a .mat file with the struct ``net``
    whiten: bool = True  # false leaves the K * 512 dimensions before PCA
    longest_side: int = Field(1024, ge=CELL)  # larger images are shrunk to this
    precision: Precision = "fp32"  # of VGG16; the pooling is always fp32


def translate(net: Mapping[str, Tensor], whiten: bool) -> dict[str, Tensor]:
    """MATLAB's tensors under the names, axes and signs of NetVladNetwork; raises KeyError for one that is missing."""
    state = {
        "pool.conv.weight": net[f"{POOL}.0"].T[..., None, None],
        "pool.centroids": -net[f"{POOL}.1"].T,
    }
    for i in CONVOLUTIONS:
        state[f"encoder.{i}.weight"] = net[f"layers.{i}.weights.0"].permute(3, 2, 0, 1)
        state[f"encoder.{i}.bias"] = net[f"layers.{i}.weights.1"]
    if whiten:
        weight = net[f"{WHITENING}.0"].squeeze()
        state["WPCA.0.weight"] = weight.T[..., None, None]
        state["WPCA.0.bias"] = net[f"{WHITENING}.1"]
    return state


def shrink(image: Image, longest_side: int) -> Image:
    """The image at most so large, and large enough for one feature."""
    height, width = image.shape[:2]
    width, height = fitted_size(width, height, longest=longest_side)
    return resize(image, (max(width, CELL), max(height, CELL)))


def build(settings: Settings, device: torch.device) -> NetVlad:
    found = find(settings.weights)
    net = read_checkpoint(found.path)
    try:
        state = translate(net, settings.whiten)
        red, green, blue = net[AVERAGE].reshape(-1, 3)[0].tolist()
    except (KeyError, ValueError, RuntimeError) as error:
        raise WeightsError(f"{found.path}: not a MATLAB file of NetVLAD on VGG16: {error}") from None
    network = NetVladNetwork.from_state_dict(state, clusters_first=False)
    load_strictly(network, state, str(found.path))
    return NetVlad(
        network,
        found.sha256,
        resize=partial(shrink, longest_side=settings.longest_side),
        levels=Levels(mean=(red, green, blue), deviation=(1.0, 1.0, 1.0)),
        device=device,
        precision=settings.precision,
    )
