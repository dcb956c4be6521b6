"""Parts of every network: preparing images, loading weights, running on a device."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
import torch
from PIL import Image as Pillow
from torch import Tensor, nn

from vpr.core import Image
from vpr.runtime.precision import Precision, arithmetic, dtype_of
from vpr.weights import find, load_strictly, read_checkpoint

N = TypeVar("N", bound=nn.Module)
Resampling = Literal["bilinear", "bicubic"]

_FILTERS = {"bilinear": Pillow.Resampling.BILINEAR, "bicubic": Pillow.Resampling.BICUBIC}


@dataclass(frozen=True)
class Levels:
    """Mean and standard deviation of each channel, R, G, B, that a network expects to be taken out; of 0 to 255."""

    mean: tuple[float, float, float]
    deviation: tuple[float, float, float]

    def normalise(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 to float32."""
        mean = torch.tensor(self.mean, device=images.device)[:, None, None]
        deviation = torch.tensor(self.deviation, device=images.device)[:, None, None]
        return images.float().sub_(mean).div_(deviation)


IMAGENET = Levels(mean=(123.675, 116.28, 103.53), deviation=(58.395, 57.12, 57.375))


class Backbone:
    """A convolutional network on a device, in one number format."""

    def __init__(self, network: nn.Module, levels: Levels, device: torch.device, precision: Precision) -> None:
        self.levels = levels
        self.device = device
        self.precision = precision
        self.dtype = dtype_of(precision, device)
        self.network = network.eval().to(device, self.dtype)
        if device.type == "cpu" or self.dtype.itemsize == 2:  # VGG16 at 480x640 on one core: 2.3 instead of 3.0 s
            self.network.to(memory_format=torch.channels_last)

    def maps(self, images: Sequence[Tensor]) -> Iterator[tuple[list[int], Tensor]]:
        """Places of some of the uint8 images in the sequence, and their float32 maps of features (B, D, h, w)."""
        for places, batch in equal_sizes(images, self.device):
            with arithmetic(self.precision, self.device):
                features = self.network(self.levels.normalise(batch).to(self.dtype)).float()
            yield places, features


def load_network(name_or_path: str, like: Callable[[dict[str, Tensor]], N]) -> tuple[N, str]:
    """The network that ``like`` makes for the published weights, with them loaded, and the sha256 of their file."""
    found = find(name_or_path)
    state = read_checkpoint(found.path)
    network = like(state)
    load_strictly(network, state, str(found.path))
    return network, found.sha256


def pillow_resize(image: Image, size: tuple[int, int], how: Resampling = "bilinear") -> Image:
    """Resize to (width, height) as Pillow does, with which these networks were trained and published.

    Torch's antialiased interpolation of uint8 differs from it by up to 2 levels, and OpenCV's does not antialias.
    """
    if image.shape[1::-1] == size:
        return image
    return np.array(Pillow.fromarray(image).resize(size, _FILTERS[how]), dtype=np.uint8)


def to_tensor(image: Image) -> Tensor:
    """(H, W, 3) to (3, H, W), still uint8: a quarter of the bytes to queue and to send; see Levels.normalise."""
    return torch.from_numpy(image).permute(2, 0, 1)


def equal_sizes(images: Sequence[Tensor], device: torch.device) -> Iterator[tuple[list[int], Tensor]]:
    """Places in the sequence, and these images stacked on the device; what is stacked is of one size.

    On a CPU every image is a batch of its own: a larger one gains nothing there, and takes a gigabyte for VGG16's
    first layers.
    """
    alike: dict[tuple[int, ...], list[int]] = {}
    for i, image in enumerate(images):
        alike.setdefault((i,) if device.type == "cpu" else tuple(image.shape), []).append(i)
    for places in alike.values():
        yield places, torch.stack([images[i] for i in places]).to(device)
