"""Models that their authors publish through torch.hub: code from their repository, and the weights it fetches.

To load one is to run that code, so it has to be asked for. Each row says which commit was read for it; the weights are
told apart by the hash of what was loaded.
"""

from __future__ import annotations

import hashlib
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from vpr.config import MethodSettings
from vpr.core import Channels, ConfigError, DataError, Image
from vpr.global_descriptors.networks import IMAGENET, Levels, Resampling, equal_sizes, pillow_resize, to_tensor
from vpr.images import fitted_size
from vpr.runtime.precision import Precision, arithmetic, dtype_of
from vpr.weights import WeightsError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class HubModel:
    """Where a model comes from, and what its authors feed it with."""

    repository: str  # owner/name on GitHub
    commit: str  # that was read for this row; "" takes the repository's default branch
    entry: str  # function in its hubconf.py
    dim: int
    licence: str  # of the code and the weights
    arguments: Mapping[str, Any] = field(default_factory=dict)  # of the entry
    size: tuple[int, int] | None = None  # width, height of every image, or:
    shortest_side: int = 0  # larger images are shrunk to this
    multiple_of: int = 1  # what both sides must be
    resampling: Resampling = "bilinear"
    levels: Levels = IMAGENET


_RESNET50_2048 = {"backbone": "ResNet50", "fc_output_dim": 2048}
_CAFFE = Levels(mean=(123.68, 116.779, 103.939), deviation=(1.0, 1.0, 1.0))

HUB_MODELS = {
    # Berton and Masone, CVPR workshops 2025, arXiv:2502.17237
    "megaloc": HubModel(
        "gmberton/MegaLoc", "1af071c", "get_trained_model", 8448, "MIT", size=(322, 322), multiple_of=14
    ),
    # Izquierdo and Civera, CVPR 2024, arXiv:2311.15937
    "salad": HubModel(
        "serizba/salad",
        "e5930053a63c734c2ccbe05aac0aa3ce913edf7f",
        "dinov2_salad",
        8448,
        "GPL-3.0",
        size=(322, 322),
        multiple_of=14,
    ),
    # Ali-bey et al., CVPR 2024, arXiv:2405.07364
    "boq_dinov2": HubModel(
        "amaralibey/Bag-of-Queries",
        "1a4965ea7dfd9bd0dd846adf7a0e430f68101d12",
        "get_trained_boq",
        12288,
        "MIT",
        {"backbone_name": "dinov2", "output_dim": 12288},
        size=(322, 322),
        multiple_of=14,
        resampling="bicubic",
    ),
    "boq_resnet50": HubModel(
        "amaralibey/Bag-of-Queries",
        "1a4965ea7dfd9bd0dd846adf7a0e430f68101d12",
        "get_trained_boq",
        16384,
        "MIT",
        {"backbone_name": "resnet50", "output_dim": 16384},
        size=(384, 384),
        resampling="bicubic",
    ),
    # The methods "cosplace" and "eigenplaces" load the same weights without running foreign code.
    "cosplace": HubModel(
        "gmberton/CosPlace", "33ce8d0", "get_trained_model", 2048, "MIT", _RESNET50_2048, shortest_side=512
    ),
    "eigenplaces": HubModel(
        "gmberton/EigenPlaces", "a2969f7", "get_trained_model", 2048, "MIT", _RESNET50_2048, shortest_side=512
    ),
    # Ge et al., ECCV 2020, arXiv:2006.03926
    "sfrs": HubModel(
        "yxgeee/OpenIBL", "", "vgg16_netvlad", 4096, "MIT", {"pretrained": True}, shortest_side=480, levels=_CAFFE
    ),
}


class Settings(MethodSettings):
    """Settings of a model from torch.hub."""

    method: Literal["hub"] = "hub"
    model: str = "megaloc"
    trust_code: bool = False  # agree to run the code of the model's repository
    folder: Path | None = None  # a copy of that repository, instead of fetching it
    width: int = Field(0, ge=0)  # of every image, instead of the size that the authors use
    height: int = Field(0, ge=0)
    precision: Precision = "fp32"

    @model_validator(mode="after")
    def _makes_sense(self) -> Settings:
        if self.model not in HUB_MODELS:
            raise ConfigError(f"unknown hub model {self.model!r}; known: {', '.join(sorted(HUB_MODELS))}")
        if (self.width > 0) != (self.height > 0):
            raise ValueError("give width and height, or neither")
        multiple = HUB_MODELS[self.model].multiple_of
        if self.width % multiple or self.height % multiple:
            raise ValueError(f"width and height must be multiples of {multiple} for {self.model}")
        return self


class Hub:
    """A loaded model on a device."""

    channels: Channels = "rgb"

    def __init__(self, model: nn.Module, row: HubModel, settings: Settings, device: torch.device) -> None:
        self.weights = sha256_of_state(model)
        self.dim = row.dim
        self.row = row
        self.settings = settings
        self.device = device
        self.dtype = dtype_of(settings.precision, device)
        self.model = model.eval().to(device)

    def preprocess(self, image: Image) -> Tensor:
        return to_tensor(pillow_resize(image, self._size(image), self.row.resampling))

    @torch.inference_mode()
    def describe(self, images: Sequence[Tensor]) -> Tensor:
        vectors = torch.empty(len(images), self.dim, device=self.device)
        for places, batch in equal_sizes(images, self.device):
            vectors[places] = self._describe(self.row.levels.normalise(batch))
        return vectors

    def _describe(self, batch: Tensor) -> Tensor:
        half = self.dtype.itemsize == 2
        with (
            arithmetic(self.settings.precision, self.device),
            torch.autocast(self.device.type, dtype=self.dtype if half else None, enabled=half),
        ):
            output = self.model(batch)
        vectors = output[0] if isinstance(output, tuple) else output  # BoQ adds its attention maps
        if vectors.shape != (len(batch), self.dim):
            raise DataError(
                f"{self.row.repository}: made descriptors of shape {tuple(vectors.shape)}, "
                f"expected ({len(batch)}, {self.dim}); its code may have changed"
            )
        return functional.normalize(vectors.float(), dim=1)

    def _size(self, image: Image) -> tuple[int, int]:
        if self.settings.width:
            return self.settings.width, self.settings.height
        height, width = image.shape[:2]
        return self.row.size or fitted_size(
            width, height, shortest=self.row.shortest_side, multiple_of=self.row.multiple_of
        )


def sha256_of_state(model: nn.Module) -> str:
    """Hash of a model's parameters and buffers with their names, types and shapes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def build(settings: Settings, device: torch.device) -> Hub:
    """Raises ConfigError unless the user trusts the code, and WeightsError if it cannot be fetched or run."""
    row = HUB_MODELS[settings.model]
    origin = f"https://github.com/{row.repository}" if settings.folder is None else str(settings.folder)
    if not settings.trust_code:
        raise ConfigError(
            f"the hub model {settings.model!r} runs code from {origin} (licence: {row.licence}) on this machine; "
            "if you trust it, set global_descriptor.trust_code = true"
        )
    logger.info("%s: code and weights from %s, licence: %s", settings.model, origin, row.licence)
    try:
        with redirect_stdout(sys.stderr):  # the repositories print
            model = _load(row, settings.folder)
    except Exception as error:  # foreign code raises what it likes
        raise WeightsError(
            f"{origin}: {row.entry} failed: {type(error).__name__}: {error}; "
            "without access to it, name a copy of the repository in global_descriptor.folder"
        ) from error
    return Hub(model, row, settings, device)


def _load(row: HubModel, folder: Path | None) -> nn.Module:
    source: Mapping[str, Any] = {"source": "local"}
    place = str(folder)
    if folder is None:
        # A commit that is not the tip of a branch fails torch's validation, which guards against commits of forks.
        source = {"source": "github", "trust_repo": True, "skip_validation": bool(row.commit)}
        place = ":".join(filter(None, [row.repository, row.commit]))
    load: Callable[..., nn.Module] = torch.hub.load
    return load(place, row.entry, verbose=False, **source, **row.arguments)
