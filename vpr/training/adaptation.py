"""Homographic adaptation: where a detector finds points in an image under many warps, there are points.

DeTone et al., CVPR workshops 2018, section 5: the image is warped, the detector's probabilities are warped back, and
averaged over the warps that saw each pixel. The labels of a folder go to shards, so that a killed run continues.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from vpr.config import Section
from vpr.core import DataError, Floats, ImageError, ImageSet, Origin
from vpr.features.contents import read_contents
from vpr.features.shards import ShardFolder, StoredItem, read_arrays, read_index, shard_path
from vpr.local_features.corners import to_corners
from vpr.local_features.detection import score_map, strongest, suppress
from vpr.runtime.files import write_npz
from vpr.runtime.precision import InPrecision, Precision
from vpr.runtime.progress import Progress
from vpr.training import homographies
from vpr.training.grey_images import GreyImages
from vpr.training.randomness import randomness

KIND = "points of photographs"
CONTENTS = "contents.json"

logger = logging.getLogger(__name__)


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
    photographs: GreyImages,
    network: nn.Module,
    folder: Path,
    origin: Origin,
    *,
    settings: Settings,
    device: torch.device,
) -> int:
    """Label every photograph into the folder and return how many cannot be read; continues where it was interrupted."""
    network = InPrecision(network.eval(), settings.precision, device).to(device).to(memory_format=torch.channels_last)
    images = ImageSet(photographs.folder, photographs.names)
    keys = read_contents(images, folder / CONTENTS).keys
    job = ShardFolder(folder, origin, keys, 64)
    with job.writing():
        stored = job.stored()
        names, unreadable = [], 0
        todo = sum(key not in stored for key in keys)
        with Progress("label", len(keys), "image", initial=len(keys) - todo) as progress:
            for items in job.slices():
                found, failed = [], {}
                for place, row in enumerate(items):
                    if keys[row] in stored:
                        found.append(_stored_points(job, stored[keys[row]]))
                        continue
                    try:
                        found.append(_points(photographs[row], network, settings, keys[row], device))
                    except ImageError as error:
                        logger.warning("skipped: %s", error)
                        failed[place] = str(error)
                        found.append(np.zeros((0, 2), np.float32))
                    progress.update()
                names.append(job.write(items, _arrays(found), failed))
                unreadable += len(failed)
        job.finish(names, {"names": photographs.names})
    return unreadable


def _stored_points(job: ShardFolder, item: StoredItem) -> Floats:
    arrays = read_arrays(job.path(item.shard))
    first, last = arrays["offsets"][item.place : item.place + 2]
    points: Floats = arrays["points"][first:last]
    return points


def read_labels(folder: Path, names: Sequence[str]) -> list[Floats]:
    """Points (N, 2) of each photograph; raises DataError if these are not the photographs that were labelled."""
    try:
        index = read_index(folder)
    except DataError:
        raise DataError(f"{folder}: no labels of a whole folder; run `vpr label` again, it continues") from None
    if index["names"] != list(names):
        raise DataError(
            f"{folder}: labels of {index['count']} photographs, but there are {len(names)} or others; "
            "run `vpr label` again, it labels what is new"
        )
    points: list[Floats] = []
    for shard in index["shards"]:
        arrays = read_arrays(shard_path(folder, shard))
        points += [arrays["points"][a:b] for a, b in pairwise(arrays["offsets"].tolist())]
    return points


def export_labels(folder: Path, out: Path) -> int:
    """Write the points of every photograph as pytorch-superpoint's pseudo labels are: NAME.npz with pts (N, 3).

    The third column is 1, since labels have no scores. Returns how many photographs. Raises DataError without labels.
    """
    names = read_index(folder).get("names")
    if not isinstance(names, list):
        raise DataError(f"{folder}: labels of a format without names; run `vpr train label` again")
    for name, points in zip(names, read_labels(folder, names), strict=True):
        write_npz(out / f"{name}.npz", {"pts": np.column_stack([points, np.ones(len(points), np.float32)])})
    return len(names)


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


def _points(image: Any, network: nn.Module, settings: Settings, key: str, device: torch.device) -> Floats:
    """Points of one image; the warps depend on its content, so that the other images change nothing."""
    grey = torch.from_numpy(image)[None].float() / 255
    pad = [(-side) % 8 for side in grey.shape[:0:-1]]
    if any(pad):
        grey = functional.pad(grey, (0, pad[0], 0, pad[1]))
    scores = adapted_scores(grey, network, settings, int(key[:8], 16), device)[None]
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
