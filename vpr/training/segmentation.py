"""Semantic segmentation on SuperPoint's backbone: a head alone, or all three heads together.

With ``frozen`` the backbone stays as it is, so that one SuperPoint serves keypoints and classes. Otherwise detector,
descriptor and segmentation are trained on two warped views of labelled images, their losses weighted by the settings.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from vpr.categories import IGNORED, Categories, categories_named
from vpr.category_files import read_categories
from vpr.config import MethodSettings
from vpr.core import ConfigError, Image, Rows
from vpr.datasets.folders import list_images
from vpr.datasets.labelled import LabelledImages, read_labelled
from vpr.evaluation.segmentation import Confusion, confusion
from vpr.local_features.segmentation import about_classes
from vpr.local_features.segmentation_network import SegmentationHead, enlarged, predicted
from vpr.local_features.superpoint_network import SuperPointNetwork
from vpr.training import homographies, photometric
from vpr.training.absent_classes import AbsentSettings, WithoutClasses, absent_loss
from vpr.training.adaptation import read_labels
from vpr.training.description import DESCRIPTOR_LOSSES
from vpr.training.detection import cell_classes, detector_loss, point_map, warped_points, whole_cells
from vpr.training.export import SUPERPOINT_RECORD, save_weights
from vpr.training.grey_images import GreyImages, cut_labels_to
from vpr.training.pictures import Pictures, of_classes
from vpr.training.randomness import Randomness, randomness
from vpr.training.repeatability import judge_views
from vpr.training.superpoint import chosen_points, padded_points, view_pair
from vpr.weights import Record, TrainedFor, features_of, load_published, sha256_of

STRIDE = 4  # the loss is taken at every fourth pixel each way
SUPERPOINT = "superpoint.safetensors"  # beside the head, where the backbone is trained too


class Settings(MethodSettings):
    """Settings of the training of segmentation."""

    method: Literal["segmentation"] = "segmentation"
    root: Path
    layout: str = "cityscapes"  # see vpr.datasets.labelled
    load_panoptic: bool = True  # COCO: colour masks and the json
    use_cs34_masks: bool = False  # COCO: the grey masks of `vpr datasets panoptic-to-cs34` instead
    categories: str = "street"  # or cs34, cs4
    category_file: Path | None = None  # instead, as `vpr datasets cs34-categories` writes them
    start: str = "vpr-superpoint"  # weights of the backbone, by name or path
    head: str = ""  # weights of a head to go on from
    frozen: bool = True
    width: int = Field(64, ge=16, multiple_of=16)  # channels of the head
    labels: Path | None = None  # keypoints that `vpr label` found in the images; needed unless frozen
    warped_pair: bool = True  # two views of each image; the descriptor needs them
    segmentation_weight: float = Field(1.0, ge=0)
    dice_weight: float = Field(0.5, ge=0)  # of the overlap of regions, within the loss of segmentation
    absent: tuple[AbsentSettings, ...] = ()
    absent_weight: float = Field(1.0, ge=0)  # of classes found where they do not occur
    detector_weight: float = Field(1.0, ge=0)
    descriptor_weight: float = Field(0.5, ge=0)
    descriptor_loss: str = "softmax"
    points: int = Field(256, ge=8)
    size: tuple[int, int] = (320, 240)  # width, height; multiples of 8
    homography: homographies.Settings = homographies.Settings(rotation_deg=10, beyond=0.0, perspective=0.1)
    light: photometric.Settings = photometric.Settings()
    validated: int = Field(64, ge=1)  # images of the split "val", at most

    @model_validator(mode="after")
    def _fits(self) -> Settings:
        if self.layout == "coco" and not (self.load_panoptic or self.use_cs34_masks):
            raise ValueError("layout = 'coco' needs load_panoptic or use_cs34_masks: its other files hold no classes")
        if self.use_cs34_masks and self.layout != "coco":
            raise ValueError(f"use_cs34_masks is for layout = 'coco', not {self.layout!r}")
        if not self.frozen and self.labels is None:
            raise ValueError("frozen = false trains the detector too, which needs task.labels; see `vpr train label`")
        if not self.frozen and not self.warped_pair and self.descriptor_weight:
            raise ValueError("a descriptor is trained on two views: warped_pair = true, or descriptor_weight = 0")
        if self.descriptor_loss not in DESCRIPTOR_LOSSES:
            raise ValueError(f"descriptor_loss: expected one of {', '.join(sorted(DESCRIPTOR_LOSSES))}")
        return self


class SegmentedSuperPoint(nn.Module):
    """SuperPoint with a third head."""

    def __init__(self, network: SuperPointNetwork, head: SegmentationHead, *, frozen: bool) -> None:
        super().__init__()
        self.network, self.segmentation, self.frozen = network, head, frozen
        if frozen:
            network.requires_grad_(False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits of the detector and descriptors as SuperPointNetwork has them, and logits of the classes."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            maps = self.network.maps(images)
            logits, coarse = (maps, maps) if self.frozen else self.network.heads(maps)
        return logits, coarse, self.segmentation(maps)


class LabelledBatch(NamedTuple):
    """Images with classes and keypoints, and the warps that make their views."""

    images: Tensor  # (B, 1, H, W) uint8
    masks: Tensor  # (B, H, W) uint8 ids of classes
    points: Tensor  # (B, N, 2) pixels; none where the backbone is frozen
    counts: Tensor  # (B,)
    first: Tensor  # (B, 3, 3) image to first view
    second: Tensor  # (B, 3, 3) image to second view, or none
    unlabelled: Tensor  # (U, 1, H, W) uint8 photographs in which some classes do not occur
    absent: Tensor  # (U, C) bool these classes
    warps: Tensor  # (U, 3, 3) photograph to view


class Labelled:
    """Grey images and masks of one size."""

    def __init__(self, found: LabelledImages, categories: Categories, size: tuple[int, int], most: int = 0) -> None:
        self.images = GreyImages(found.root, size, names=found.names)
        self._found, self._categories, self._size = found, categories, size
        self.mask = lru_cache(maxsize=None)(self._mask)
        every = np.arange(len(found))
        self.rows = every if not most else np.unique(np.linspace(0, len(found) - 1, min(most, len(found))).astype(int))

    def masks(self, rows: Rows) -> Tensor:
        """(B, H, W) uint8 ids of classes."""
        return torch.from_numpy(np.stack([self.mask(int(row)) for row in rows]))

    def _mask(self, row: int) -> Image:
        return cut_labels_to(self._categories.of(self._found.mask(row)), self._size)


class SegmentationTask:
    """The task: classes of pixels from the backbone of SuperPoint, and its own two tasks unless it is frozen."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        given = settings.category_file
        self.categories = categories_named(settings.categories) if given is None else read_categories(given)
        network = SuperPointNetwork()
        digest = load_published(network, settings.start, network.convert_state_dict)
        self.trained_for = features_of(_superpoint(settings.start), network.dim, digest)
        channels = network.sizes[0][-1]
        head = SegmentationHead(channels, len(self.categories), settings.width)
        if settings.head:
            load_published(head, settings.head, head.convert_state_dict)
            if (head.channels, head.classes) != (channels, len(self.categories)):
                raise ConfigError(
                    f"task.head = {settings.head!r} is for {head.channels} channels and {head.classes} classes; the "
                    f"backbone has {channels}, and {self.categories.name} {len(self.categories)}"
                )
        self.model: nn.Module = SegmentedSuperPoint(network, head, frozen=settings.frozen)
        layout = "coco-cs34" if settings.use_cs34_masks else settings.layout
        seen, held = (read_labelled(layout, settings.root, split) for split in ("train", "val"))
        self.seen = Labelled(seen, self.categories, settings.size)
        self.held = Labelled(held, self.categories, settings.size, settings.validated)
        self.without = [WithoutClasses(each, self.categories, settings.size) for each in settings.absent]
        self.points = None if settings.labels is None else _points_of(settings.labels, seen)

    def batch(self, size: int, random: Randomness) -> LabelledBatch:
        settings = self.settings
        rows = random.numpy.choice(self.seen.rows, size)
        first, second = (
            homographies.sample_homographies(size, settings.size, settings.homography, random.torch) for _ in range(2)
        )
        if not settings.warped_pair:
            second = second[:0]
        labels = [np.zeros((0, 2), np.float32) if self.points is None else self.points[row] for row in rows]
        points, counts = padded_points(labels)
        unlabelled, absent, warps = self._unlabelled(size, random)
        images, masks = self.seen.images.stack(rows), self.seen.masks(rows)
        return LabelledBatch(images, masks, points, counts, first, second, unlabelled, absent, warps)

    def _unlabelled(self, size: int, random: Randomness) -> tuple[Tensor, Tensor, Tensor]:
        """Photographs for a batch of ``size`` labelled images, the classes that they lack, and warps."""
        width, height = self.settings.size
        drawn = [source.draw(size, random) for source in self.without]
        nothing = torch.zeros(0, 1, height, width, dtype=torch.uint8), torch.zeros(0, len(self.categories)).bool()
        images, absent = (torch.cat(side) for side in zip(nothing, *drawn, strict=True))
        if not len(images):
            return images, absent, torch.zeros(0, 3, 3)
        how = self.settings.homography
        return images, absent, homographies.sample_homographies(len(images), (width, height), how, random.torch)

    def losses(self, model: nn.Module, batch: LabelledBatch, random: Randomness) -> dict[str, Tensor]:
        settings, size = self.settings, self.settings.size
        both = torch.cat([batch.first, batch.second])
        views = len(both) // len(batch.images)
        images = torch.cat([batch.images.repeat(views, 1, 1, 1), batch.unlabelled]).float() / 255
        images = homographies.warp_images(images, torch.cat([both, batch.warps]), size)
        images = photometric.augment(images, settings.light, random.torch)
        logits, coarse, classes = model(images)
        labelled, others = classes.split([len(both), len(batch.unlabelled)])
        masks = homographies.warp_labels(batch.masks.repeat(views, 1, 1), both, size, IGNORED)
        segmentation = segmentation_loss(labelled, masks, settings.dice_weight)
        found = {"segmentation": segmentation}
        loss = settings.segmentation_weight * segmentation
        if len(others):
            found["absent"] = absent_loss(others, batch.absent)
            loss = loss + settings.absent_weight * found["absent"]
        if not settings.frozen:
            moved = warped_points(batch.points.repeat(views, 1, 1), both)
            maps = point_map(moved, batch.counts.repeat(views), size)
            valid = whole_cells(homographies.seen(both, size, size, margin=1))
            found["detector"] = detector_loss(logits[: len(both)], cell_classes(maps, random.torch), valid)
            loss = loss + settings.detector_weight * found["detector"]
            if settings.warped_pair:
                chosen = chosen_points(moved[: len(batch.images)], batch.counts, settings.points, size, random)
                pair = view_pair(coarse[: len(both)], batch.first, batch.second, size, chosen)
                found["descriptor"] = DESCRIPTOR_LOSSES[settings.descriptor_loss](pair, random.torch)
                loss = loss + settings.descriptor_weight * found["descriptor"]
        return {"loss": loss, **found}

    def validate(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        """Mean IoU, pixel accuracy and the IoU of each class on images that training never saw, as they are.

        Unless the backbone is frozen also what judge_views measures of keypoints and descriptors.
        """
        total, scores = Confusion.none(len(self.categories)), []
        random = randomness(0, 7)
        for first in range(0, len(self.held.rows), 8):
            rows = self.held.rows[first : first + 8]
            images = self.held.images.stack(rows).to(device).float() / 255
            found = predicted(model(images)[2], self.settings.size)
            for truth, ids in zip(self.held.masks(rows).numpy(), found.cpu().numpy(), strict=True):
                total += confusion(truth, ids, len(self.categories))
            if not self.settings.frozen:
                warps = homographies.sample_homographies(
                    len(rows), self.settings.size, homographies.Settings(rotation_deg=15), random.torch
                ).to(device)
                warped = homographies.warp_images(images, warps, self.settings.size)
                assert isinstance(model, SegmentedSuperPoint)
                scores.append(judge_views(model.network, images, warped, warps))
        by_class = {
            f"iou_{name}": float(value)
            for name, value in zip(self.categories.names, total.iou, strict=True)
            if np.isfinite(value)
        }
        of_views = {key: float(np.mean([each[key] for each in scores])) for key in (scores[0] if scores else ())}
        return {"mean_iou": total.mean_iou, "pixel_accuracy": total.pixel_accuracy, **by_class, **of_views}

    def pictures(self, model: nn.Module, device: torch.device) -> Pictures:
        """Images that training never saw, with their true and their predicted classes."""
        rows = self.held.rows[:4]
        images = self.held.images.stack(rows).to(device).float() / 255
        found = predicted(model(images)[2], self.settings.size)
        return {"classes": of_classes(images, self.held.masks(rows), found, self.categories)}

    def export(self, model: nn.Module, path: Path) -> None:
        """Write the head, and beside it the backbone with its two heads where it was trained."""
        assert isinstance(model, SegmentedSuperPoint)
        trained_for = self.trained_for
        if not self.settings.frozen:
            beside = path.with_name(SUPERPOINT)
            save_weights(beside, model.network, record=SUPERPOINT_RECORD)
            trained_for = TrainedFor(
                method="superpoint", weights=str(beside), sha256=sha256_of(beside), dim=model.network.dim
            )
        recipe = {"longest_side": max(self.settings.size)}
        record = Record(loads=("segmentation",), recipe=recipe, trained_for=trained_for)
        save_weights(path, model.segmentation, record=record, more=about_classes(self.categories))


def segmentation_loss(logits: Tensor, masks: Tensor, dice_weight: float) -> Tensor:
    """Cross-entropy of logits (B, C, h, w) and masks (B, H, W) at every STRIDE-th pixel, and the overlap of classes."""
    truth = masks[:, STRIDE // 2 :: STRIDE, STRIDE // 2 :: STRIDE].long()
    fine = enlarged(logits.float(), truth.shape[1:])
    known = truth != IGNORED
    classes = truth.masked_fill(~known, 0)
    count = known.sum().clamp_min(1)
    entropy = (functional.cross_entropy(fine, classes, reduction="none") * known).sum() / count
    return entropy + dice_weight * dice_loss(fine.softmax(1), classes, known)


def dice_loss(probabilities: Tensor, classes: Tensor, known: Tensor) -> Tensor:
    """One minus the mean over the classes that occur of twice the overlap over the sum (Milletari et al., 3DV 2016).

    Of probabilities (B, C, h, w) and classes (B, h, w), where ``known`` (B, h, w); 0 if nothing is.
    """
    truth = functional.one_hot(classes, probabilities.shape[1]).permute(0, 3, 1, 2) * known[:, None]
    found = probabilities * known[:, None]
    overlap, whole = (found * truth).sum((0, 2, 3)), (found + truth).sum((0, 2, 3))
    occurs = truth.sum((0, 2, 3)) > 0
    dice = 2 * overlap / whole.clamp_min(1e-6)
    return (1 - dice)[occurs].sum() / occurs.sum().clamp_min(1)


def _superpoint(weights: str) -> MethodSettings:
    from vpr.local_features.superpoint import Settings as SuperPointSettings

    return SuperPointSettings(weights=weights)


def _points_of(folder: Path, images: LabelledImages) -> list[np.ndarray]:
    """Keypoints of the images among all that were labelled."""
    every = list_images(images.root)
    by_name = dict(zip(every, read_labels(folder, every), strict=True))
    return [by_name[name] for name in images.names]


def build(settings: Settings) -> SegmentationTask:
    return SegmentationTask(settings)
