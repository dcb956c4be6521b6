"""A global descriptor on SuperPoint's backbone, trained on places: alike where the place is one, else not."""

from __future__ import annotations

import copy
import logging
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from vpr.config import MethodSettings
from vpr.core import ConfigError, Floats, Rows
from vpr.global_descriptors.aggregation import AGGREGATIONS
from vpr.global_descriptors.superpoint_global import GlobalNetwork
from vpr.global_descriptors.vlad import IMAGES_PER_DIMENSION
from vpr.global_descriptors.whitening import Whitening, fit_whitening
from vpr.local_features.superpoint_fast import FastBackbone
from vpr.local_features.superpoint_network import SuperPointNetwork
from vpr.training import homographies, photometric
from vpr.training.export import as_saved, save_weights
from vpr.training.initial import keep_variance
from vpr.training.metric_learning import LOSSES, MINERS, MetricLoss
from vpr.training.places import Places
from vpr.training.randomness import Randomness, randomness
from vpr.weights import load_published

logger = logging.getLogger(__name__)

Width = Annotated[int, Field(ge=1)]
# The backbone has to equal SuperPoint's, and the others divide by small numbers.
EXACT = ("encoder.", "centre.", "whitening.")
TOGETHER = 16  # images described at a time


class Settings(MethodSettings):
    """Settings of the global descriptor's training."""

    method: Literal["global"] = "global"
    manifest: tuple[Path, ...] | Path  # csv files with a column image or file, and place, group as far as known
    start: str | None = None  # SuperPoint's weights, by name or path, for the backbone
    encoder: Literal["frozen", "tuned"] = "frozen"  # the backbone; frozen, it stays that of ``start``
    widths: tuple[int, int, int, int] = (64, 64, 128, 128)  # of the backbone, without ``start``
    head: tuple[Width, ...] = Field((256, 256, 256), min_length=1)  # channels of the convolutions after the backbone
    aggregation: str = "transport"
    clusters: int = Field(32, ge=1)  # of netvlad and transport
    cluster_width: int = Field(64, ge=1)  # dimensions of each of them
    raw_dim: int = Field(256, ge=1)  # of gem, and of what transport says of the whole scene
    dim: int = Field(512, ge=0)  # after PCA whitening; 0 for none
    whitening: Literal["always", "if_better"] = "always"  # left out, that is, where it lowers the recall of validation
    loss: str = "multi_similarity"
    miner: str = "multi_similarity"
    size: tuple[int, int] = (320, 240)  # width, height
    views: int = Field(4, ge=2)  # of each place in a batch
    single: float = Field(0.5, ge=0, le=1)  # share of places in a batch that are warps of one image
    homography: homographies.Settings = homographies.Settings(
        patch=0.9, perspective=0.1, scaling=0.1, rotation_deg=5, translation=0.5
    )
    crop: homographies.Settings = homographies.Settings(
        patch=0.7, perspective=0.2, scaling=0.25, rotation_deg=12, translation=1.0
    )  # of single images
    light: photometric.Settings = photometric.Settings()
    held_out: float = Field(0.1, ge=0, lt=1)  # share of places, and of single images, for validation
    validation_views: int = Field(6, ge=2)  # of each place that is held out
    whitening_images: int = Field(4000, ge=1)  # at most; they also stand in the database of the validation

    @model_validator(mode="after")
    def _makes_sense(self) -> Settings:
        tables: tuple[tuple[str, str, object], ...] = (
            ("loss", self.loss, LOSSES),
            ("miner", self.miner, MINERS),
            ("aggregation", self.aggregation, AGGREGATIONS),
        )
        for what, name, table in tables:
            if isinstance(table, dict) and name not in table:
                raise ConfigError(f"unknown {what} {name!r}; known: {', '.join(sorted(table))}")
        if self.encoder == "frozen" and self.start is None:
            raise ValueError("encoder = 'frozen' needs start, weights of SuperPoint; or take encoder = 'tuned'")
        return self

    @property
    def manifests(self) -> tuple[Path, ...]:
        return (self.manifest,) if isinstance(self.manifest, Path) else self.manifest


class GlobalDescriptorBatch(NamedTuple):
    """Images before warps and light."""

    images: Tensor  # (B, 1, H, W) uint8
    homography: Tensor  # (B, 3, 3)
    labels: Tensor  # (B,) the place
    groups: Tensor  # (B,) see Places


class GlobalDescriptorTask:
    """The task: descriptors that are alike for images of one place."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.network = _network(settings)
        self.model: nn.Module = self.network
        self.backbone: FastBackbone | None = None
        if settings.encoder == "frozen":
            self.network.encoder.requires_grad_(False)
            self.backbone = FastBackbone(self.network.encoder, torch.device("cpu"))
        if settings.dim > self.network.dim:
            raise ConfigError(f"task.dim = {settings.dim}: the aggregation gives only {self.network.dim} dimensions")
        self.places = Places(settings.manifests, settings.size, settings.held_out)
        self.criterion = MetricLoss(settings.loss, settings.miner)
        self.whitening: Whitening | None = None  # fitted by ``validate`` on the weights that it saw

    def batch(self, size: int, random: Randomness) -> GlobalDescriptorBatch:
        settings, places = self.settings, self.places
        if size < 2 * settings.views:
            raise ConfigError(f"train.batch_size = {size}: at least two places of task.views = {settings.views} each")
        rows = places.draw(size // settings.views, settings.views, settings.single, random.numpy)
        warps, crops = (
            homographies.sample_homographies(len(rows), settings.size, how, random.torch)
            for how in (settings.homography, settings.crop)
        )
        is_single = torch.from_numpy(np.isin(rows, places.single))
        homography = torch.where(is_single[:, None, None], crops, warps)
        labels, groups = (torch.from_numpy(each[rows]) for each in (places.labels, places.groups))
        return GlobalDescriptorBatch(torch.from_numpy(places.stack(rows)), homography, labels, groups)

    def losses(self, model: nn.Module, batch: GlobalDescriptorBatch, random: Randomness) -> dict[str, Tensor]:
        if self.settings.encoder == "frozen":
            self.network.encoder.eval()  # its BatchNorms too
        images = self._see(batch.images, batch.homography, random)
        vectors = model(images, self._maps(images))
        loss, hard = self.criterion(vectors, batch.labels, batch.groups)
        return {"loss": loss, "negatives": hard}

    def validate(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        """Recall@1 on places that training never saw, and on single images in another crop and light.

        Each is searched among one image of each of these places and images of training, whitened by the latter.
        What is judged is the network as it would be saved: whitening makes much of small differences.
        """
        model = as_saved(model, EXACT)
        known = self.places.training_rows(self.settings.whitening_images)
        fitted = self._describe(model, known, device)
        self.whitening = self._fit(fitted)
        database = [rows[0] for rows in self.places.held_places]
        queries = [row for rows in self.places.held_places for row in rows[1 : self.settings.validation_views]]
        single = self.places.held_single
        sides = (
            self._describe(model, np.array([*queries, *single], np.int64), device, changed=len(single)),
            self._describe(model, np.array([*database, *single], np.int64), device),
        )
        rows = np.array([*queries, *single], np.int64), np.array([*database, *single, *known], np.int64)
        asked, found = sides[0], np.concatenate([sides[1], fitted])
        right = self._right(asked, found, rows)
        if self.whitening is not None:
            white = self._right(self.whitening.apply(asked), self.whitening.apply(found), rows)
        else:
            white = right
        if self.settings.whitening == "if_better" and len(right) and right.mean() > white.mean():
            self.whitening, white = None, right
        parts = {"places": white[: len(queries)], "single": white[len(queries) :]}
        figures = {f"recall_at_1_{name}": float(part.mean()) for name, part in parts.items() if len(part)}
        overall = float(np.mean(list(figures.values()))) if figures else 0.0
        raw = float(right.mean()) if len(right) else 0.0
        return {"recall_at_1": overall, **figures, "recall_at_1_before_whitening": raw}

    def export(self, model: nn.Module, path: Path) -> None:
        assert isinstance(model, GlobalNetwork)
        whole = copy.deepcopy(model)
        if self.whitening is not None:
            whole.whiten(self.whitening)
        save_weights(path, whole, EXACT)

    def _maps(self, images: Tensor) -> Tensor | None:
        """The frozen backbone's maps where its fast form is the faster one: on a CPU, 2.4 times."""
        if self.backbone is None or images.is_cuda:
            return None
        with torch.no_grad():
            return torch.cat([self.backbone.finish(self.backbone(some)) for some in torch.split(images, 8)])

    def _see(self, images: Tensor, homography: Tensor, random: Randomness) -> Tensor:
        warped = homographies.warp_images(images.float() / 255, homography, self.settings.size)
        return photometric.augment(warped, self.settings.light, random.torch)

    def _describe(self, model: nn.Module, rows: Rows, device: torch.device, changed: int = 0) -> Floats:
        """(N, D); the last ``changed`` images in another crop and light."""
        random = randomness(0, 7)
        vectors = []
        for first in range(0, len(rows), TOGETHER):
            some = rows[first : first + TOGETHER]
            images = torch.from_numpy(self.places.stack(some)).to(device).float() / 255
            other = max(0, len(some) - max(0, len(rows) - changed - first))
            if other:
                warps = homographies.sample_homographies(
                    other, self.settings.size, self.settings.crop, random.torch
                ).to(device)
                images[-other:] = self._see(images[-other:] * 255, warps, random)
            vectors.append(model(images, self._maps(images)).float().cpu())
        return torch.cat(vectors).numpy() if vectors else np.zeros((0, self.network.dim), np.float32)

    def _fit(self, vectors: Floats) -> Whitening | None:
        dim = self.settings.dim
        if not dim:
            return None
        if len(vectors) < IMAGES_PER_DIMENSION * dim:
            logger.warning(
                "no whitening: %d images are too few for task.dim = %d, which takes %d",
                len(vectors),
                dim,
                IMAGES_PER_DIMENSION * dim,
            )
            return None
        return fit_whitening(vectors, dim)

    def _right(
        self, asked: Floats, found: Floats, rows: tuple[Rows, Rows]
    ) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """Whether the nearest to each query is of its place; what may be, but nobody knows, is passed over."""
        labels, groups = ([array[each] for each in rows] for array in (self.places.labels, self.places.groups))
        same = labels[0][:, None] == labels[1]
        unknown = (groups[0][:, None] == groups[1]) & ~same
        nearest = np.where(unknown, -np.inf, asked @ found.T).argmax(axis=1) if len(asked) else np.zeros(0, np.int64)
        right: np.ndarray[tuple[int], np.dtype[np.bool_]] = same[np.arange(len(asked)), nearest]
        return right


def _network(settings: Settings) -> GlobalNetwork:
    encoder = SuperPointNetwork("v1", settings.widths)
    if settings.start is not None:
        load_published(encoder, settings.start, encoder.convert_state_dict)
    else:
        keep_variance(encoder)
    sizes = {
        "dim": settings.raw_dim,
        "scene": settings.raw_dim,
        "clusters": settings.clusters,
        "width": settings.cluster_width,
    }
    row = AGGREGATIONS[settings.aggregation]
    aggregation = row.make(settings.head[-1], **{name: sizes[name] for name in row.sizes})
    return GlobalNetwork(encoder, settings.head, aggregation)


def build(settings: Settings) -> GlobalDescriptorTask:
    return GlobalDescriptorTask(settings)
