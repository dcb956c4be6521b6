"""Homographic adaptation: where a detector finds points in a picture under many warps, there are points.

DeTone et al., CVPR workshops 2018, section 5: the picture is warped, the detector's probabilities are warped back, and
averaged over the warps that saw each pixel. The labels of a folder go to shards, so that a killed run continues.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from vpr.config import Section
from vpr.core import DataError, Floats, Origin
from vpr.features.shards import ShardFolder
from vpr.local_features.corners import to_corners
from vpr.local_features.detection import score_map, strongest, suppress
from vpr.runtime.precision import InPrecision, Precision
from vpr.training import homographies
from vpr.training.photographs import Photographs
from vpr.training.randomness import randomness

KIND = "points of photographs"


class Settings(Section):
    """Settings of homographic adaptation."""

    warps: int = Field(100, ge=1)  # the identity included
    batch_size: int = Field(25, ge=1)  # warps at a time
    homography: homographies.Settings = homographies.Settings(rotation_deg=90, beyond=0.1)
    border: int = Field(3, ge=0)  # pixels at the edge of a warp that do not count
    threshold: float = Field(0.015, gt=0, lt=1)
    nms_radius: int = Field(4, ge=0)
    most: int = Field(600, ge=1)
    to_corners: bool = False  # move each point to the corner nearby, more exact than what is averaged over warps
    precision: Precision = "fp32"  # of the network
    seed: int = 0


def label(
    photographs: Photographs,
    network: nn.Module,
    folder: Path,
    origin: Origin,
    *,
    settings: Settings,
    device: torch.device,
) -> None:
    """Label every photograph into the folder; continues where it was interrupted."""
    network = InPrecision(network.eval(), settings.precision, device).to(device).to(memory_format=torch.channels_last)
    job = ShardFolder(folder, origin, len(photographs), 64)
    with job.writing():
        missing = job.missing()
        total = sum(len(job.items_of(shard)) for shard in missing)
        with tqdm(total=total, desc="label", unit="picture", disable=None) as progress:
            for shard in missing:
                found = []
                for row in job.items_of(shard):
                    found.append(_points(photographs[row], network, settings, row, device))
                    progress.update()
                job.write(shard, _arrays(found))


def read_labels(folder: Path, count: int) -> list[Floats]:
    """Points (N, 2) of each photograph; raises DataError if some are missing."""
    from safetensors.numpy import load_file

    points: list[Floats] = []
    for path in sorted(folder.glob("*.safetensors")):
        arrays = load_file(path)
        bounds = arrays["offsets"]
        points += [arrays["points"][a:b] for a, b in pairwise(bounds.tolist())]
    if len(points) != count:
        raise DataError(f"{folder}: labels of {len(points)} photographs, but there are {count}; run `vpr label` again")
    return points


@torch.inference_mode()
def adapted_scores(image: Tensor, network: nn.Module, settings: Settings, seed: int, device: torch.device) -> Tensor:
    """Averaged probabilities (H, W) of a point at each pixel of one image (1, H, W) with values in [0, 1]."""
    height, width = image.shape[1:]
    size = (width, height)
    warps = homographies.sample_homographies(
        settings.warps, size, settings.homography, randomness(settings.seed, seed).torch
    )
    warps[0] = torch.eye(3)
    total, counts = torch.zeros(height, width, device=device), torch.zeros(height, width, device=device)
    image = image.to(device)
    for start in range(0, len(warps), settings.batch_size):
        some = warps[start : start + settings.batch_size].to(device)
        warped = homographies.warp_images(image.expand(len(some), -1, -1, -1), some, size)
        scores = score_map(network(warped)[0].float())
        back = homographies.invert(some)
        known = homographies.seen(some, size, size, settings.border)[:, None].float()
        counted = homographies.warp_images(torch.cat([scores[:, None] * known, known], dim=1), back, size)
        counted = counted * homographies.seen(back, size, size, settings.border)[:, None]
        total, counts = total + counted[:, 0].sum(0), counts + counted[:, 1].sum(0)
    return total / counts.clamp_min(1)


def _points(image: Any, network: nn.Module, settings: Settings, row: int, device: torch.device) -> Floats:
    grey = torch.from_numpy(image)[None].float() / 255
    pad = [(-side) % 8 for side in grey.shape[:0:-1]]
    if any(pad):
        grey = functional.pad(grey, (0, pad[0], 0, pad[1]))
    scores = adapted_scores(grey, network, settings, row, device)[None]
    places, _, counts = strongest(suppress(scores, settings.nms_radius), settings.threshold, 4, settings.most)
    places = places[0, : int(counts[0])].cpu()
    width = scores.shape[2]
    points = torch.stack([places % width, places // width], dim=1).float()
    if settings.to_corners:
        points = to_corners(points[None], grey[None])[0]
    return points.numpy()


def _arrays(found: list[Any]) -> Mapping[str, Any]:
    bounds = np.concatenate([[0], np.cumsum([len(points) for points in found])]).astype(np.int64)
    return {"offsets": bounds, "points": np.concatenate(found).reshape(-1, 2).astype(np.float32)}
