"""The global descriptor of global_descriptors/place.py, trained on photographs of places.

It starts from ImageNet weights of EfficientNet-Lite0, a vocabulary by k-means, and PCA, so that the first
step already has the descriptor that needs no training; then all of it but the first blocks is trained.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import faiss
import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from vpr.config import MethodSettings
from vpr.core import ConfigError, Floats, Image, Rows
from vpr.datasets.place_folders import GROUPS
from vpr.global_descriptors.place import CELL, LEVELS, PlaceNetwork, seen_size
from vpr.global_descriptors.whitening import fit_whitening
from vpr.images import resize
from vpr.training import appearance
from vpr.training.export import as_saved, save_weights
from vpr.training.metric_learning import LOSSES, MINERS, MetricLoss
from vpr.training.places import Places
from vpr.training.randomness import Randomness, randomness
from vpr.weights import find, load_strictly, read_checkpoint

logger = logging.getLogger(__name__)

SHARPNESS = 30.0  # of the first soft assignment to centroids
FEATURES_PER_IMAGE = 80  # of the sample for k-means
NEIGHBOURS = 10  # places that look most like a place, from which hard batches are drawn
HARD_QUERIES = 3  # every third query of the validation is also asked in another light
Side = Annotated[int, Field(ge=CELL, multiple_of=CELL)]


class Settings(MethodSettings):
    """Settings of the descriptor's training."""

    method: Literal["place"] = "place"
    # Csv files with a column image or file, and place, group as far as known; or folders of GSV-Cities or SF-XL.
    manifest: tuple[Path, ...] | Path
    cosplace_group: int = Field(0, ge=0, lt=GROUPS)  # of the places of SF-XL
    start: Path | None = None  # weights of this descriptor to go on from
    backbone: str = "efficientnet-lite0"  # name or path of published weights
    blocks: int = Field(11, ge=1, le=16)
    frozen: int = Field(5, ge=0)  # of the first blocks, which keep their weights
    clusters: int = Field(32, ge=1)
    ghosts: int = Field(4, ge=0)  # clusters that begin at the features of empty images
    layout_width: int = Field(32, ge=1, le=112)  # channels of each cell of the layout
    dim: int = Field(512, ge=1)
    longest_side: int = Field(320, ge=CELL)  # of images in memory and of the validation
    sizes: tuple[tuple[Side, Side], ...] = Field(
        ((256, 192), (256, 192), (256, 192), (256, 144), (208, 208), (192, 256)), min_length=1
    )  # width, height, one for each batch
    views: int = Field(4, ge=2)  # of each place in a batch
    single: float = Field(0.2, ge=0, le=1)  # share of images in a batch that are two views of one image
    hard: float = Field(0.7, ge=0, le=1)  # share of places that bring two others that look like them
    loss: str = "multi_similarity"
    miner: str = "multi_similarity"
    memory: int = Field(1536, ge=0)  # descriptors of the last batches that are compared with as well
    # Learning rates of the parts as fractions of train.learning_rate; each block has ``decay`` of the next one's.
    backbone_rate: float = Field(0.5, ge=0)
    decay: float = Field(0.85, gt=0, le=1)
    assign_rate: float = Field(10.0, ge=0)
    projection_rate: float = Field(0.25, ge=0)
    changes: appearance.Settings = appearance.Settings()  # of light, season and camera
    held_out: float = Field(0.15, ge=0, lt=1)  # share of groups of places, and of single images, for validation
    distractors: int = Field(200, ge=0)  # images of training in the database of the validation
    vocabulary_images: int = Field(700, ge=1)
    whitening_images: int = Field(2600, ge=1)

    @model_validator(mode="after")
    def _known(self) -> Settings:
        tables: tuple[tuple[str, str, dict[str, Any]], ...] = (
            ("loss", self.loss, LOSSES),
            ("miner", self.miner, MINERS),
        )
        for what, name, table in tables:
            if name not in table:
                raise ConfigError(f"unknown {what} {name!r}; known: {', '.join(sorted(table))}")
        return self

    @property
    def manifests(self) -> tuple[Path, ...]:
        return (self.manifest,) if isinstance(self.manifest, Path) else self.manifest


class PlaceDescriptorBatch(NamedTuple):
    """Images as the network sees them, of one size."""

    images: Tensor  # (B, 3, H, W) uint8
    labels: Tensor  # (B,) the place; a mirrored place is another
    groups: Tensor  # (B,) see Places


class PlaceDescriptorTask:
    """The task: descriptors that are alike for images of one place."""

    def __init__(self, settings: Settings, network: PlaceNetwork, places: Places) -> None:
        self.settings = settings
        self.network = network
        self.model: nn.Module = network
        self.places = places
        self.criterion = MetricLoss(settings.loss, settings.miner, settings.memory)
        self.alike = _alike(network, places, settings.longest_side) if settings.hard else []
        for frozen in (network.backbone.stem, *network.backbone.blocks[: settings.frozen]):
            if settings.frozen:
                frozen.requires_grad_(False)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Parts of the model with their learning rates as fractions of the loop's."""
        settings, network = self.settings, self.network
        count = len(network.backbone.blocks)
        parts: list[tuple[nn.Module | nn.Parameter, float]] = [
            (block, settings.backbone_rate * settings.decay ** (count - 1 - i))
            for i, block in enumerate(network.backbone.blocks)
        ]
        parts += [
            (network.backbone.stem, settings.backbone_rate * settings.decay**count),
            (network.aggregation.assign, settings.assign_rate),
            (network.aggregation.centroids, 1.0),
            (network.layout, 1.0),
            (network.projection, settings.projection_rate),
        ]
        groups = []
        for part, rate in parts:
            parameters = [part] if isinstance(part, nn.Parameter) else list(part.parameters())
            trained = [each for each in parameters if each.requires_grad]
            if trained:
                groups.append({"params": trained, "rate": rate})
        return groups

    def batch(self, size: int, random: Randomness) -> PlaceDescriptorBatch:
        settings, places, draw = self.settings, self.places, random.numpy
        singles = min(round(size * settings.single / 2), len(places.single))
        count = min((size - 2 * singles) // settings.views, len(places.places))
        if count + singles < 2:
            raise ConfigError(f"train.batch_size = {size}: at least two places of task.views = {settings.views} each")
        seen = settings.sizes[int(draw.integers(len(settings.sizes)))]
        overlay = appearance.Overlay(draw)
        images, labels, groups = [], [], []
        for rows, wide in self._draw(count, singles, draw):
            mirrored = bool(draw.random() < 0.5)
            for row in rows:
                images.append(self._changed(self._view(int(row), seen, mirrored, wide, draw), overlay, draw))
                labels.append(2 * places.labels[row] + mirrored)
                groups.append(places.groups[row])
        stacked = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
        return PlaceDescriptorBatch(stacked, torch.from_numpy(np.array(labels)), torch.from_numpy(np.array(groups)))

    def losses(self, model: nn.Module, batch: PlaceDescriptorBatch, random: Randomness) -> dict[str, Tensor]:
        vectors = model(LEVELS.normalise(batch.images).contiguous(memory_format=torch.channels_last))
        loss, hard = self.criterion(vectors, batch.labels, batch.groups)
        return {"loss": loss, "negatives": hard}

    def validate(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        """Recall@1 of held-out images among all other held-out ones and some of training.

        Once as they are, once every third of them in another light and camera. Images that may show the same place but
        are not known to are passed over.
        """
        model = as_saved(model)
        places = self.places
        held = np.concatenate([*places.held_places, places.held_single]).astype(np.int64)
        queries = np.concatenate([np.zeros(0, np.int64), *places.held_places])
        if not len(queries):
            return {"recall_at_1": 0.0}
        database = np.concatenate([held, places.training_rows(self.settings.distractors)])
        found = _describe(model, self._whole(database), device)
        asked = found[: len(queries)]
        other = _describe(model, self._in_other_light(queries[::HARD_QUERIES]), device)
        plain = self._right(asked, found, queries, database)
        changed = self._right(other, found, queries[::HARD_QUERIES], database)
        figures = {"recall_at_1_plain": float(plain.mean()), "recall_at_1_changed": float(changed.mean())}
        return {"recall_at_1": float(np.mean(list(figures.values()))), **figures}

    def export(self, model: nn.Module, path: Path) -> None:
        save_weights(path, model)

    def _draw(self, count: int, singles: int, random: np.random.Generator) -> Iterator[tuple[Rows, bool]]:
        """Rows of each place, and whether views are to differ much; hard places come with those that look alike.

        A place is drawn in proportion to the square root of the number of its images.
        """
        places, views = self.places, self.settings.views
        weights = np.sqrt([len(rows) for rows in places.places])
        chosen: list[int] = []
        while len(chosen) < count:
            place = int(random.choice(len(places.places), p=weights / weights.sum()))
            if place in chosen:
                continue
            chosen.append(place)
            if self.alike and random.random() < self.settings.hard:
                near = [int(each) for each in random.permutation(self.alike[place])[:2]]
                chosen += [each for each in near if each not in chosen]
        for place in chosen[:count]:
            rows = random.permutation(places.places[place])
            yield np.resize(rows, views), len(rows) < 3
        for row in random.choice(places.single, singles, replace=False) if singles else ():
            yield np.array([row, row]), True

    def _view(self, row: int, size: tuple[int, int], mirrored: bool, wide: bool, random: np.random.Generator) -> Floats:
        seen = appearance.view(self.places[row], size, random, wide=wide)
        return seen[:, ::-1] if mirrored else seen

    def _changed(self, seen: Floats, overlay: appearance.Overlay, random: np.random.Generator) -> Image:
        settings = self.settings.changes
        if random.random() >= settings.unchanged:
            other = self.places[int(random.integers(len(self.places)))]
            seen = appearance.changed(seen, settings, random, other)
        image = appearance.to_image(seen)
        if random.random() < settings.overlay:
            image = overlay.drawn(image, random)
        return appearance.compressed(image, random) if random.random() < settings.jpeg else image

    def _whole(self, rows: Rows) -> Iterator[Tensor]:
        return (_prepared(self.places[int(row)], self.settings.longest_side) for row in rows)

    def _in_other_light(self, rows: Rows) -> Iterator[Tensor]:
        """The same changes at every validation."""
        random = randomness(0, 7).numpy
        for row in rows:
            image = np.asarray(self.places[int(row)], np.float32) / np.float32(255)
            seen = appearance.to_image(appearance.changed(image, self.settings.changes, random))
            if random.random() < self.settings.changes.overlay:
                seen = appearance.Overlay(random).drawn(seen, random)
            yield _prepared(seen, self.settings.longest_side)

    def _right(
        self, asked: Floats, found: Floats, queries: Rows, database: Rows
    ) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """Whether the nearest other image is of the query's place."""
        labels, groups = self.places.labels, self.places.groups
        same = labels[queries][:, None] == labels[database]
        unknown = (groups[queries][:, None] == groups[database]) & ~same
        itself = queries[:, None] == database
        nearest = np.where(unknown | itself, -np.inf, asked @ found.T).argmax(axis=1)
        right: np.ndarray[tuple[int], np.dtype[np.bool_]] = same[np.arange(len(queries)), nearest]
        return right


def _prepared(image: Image, longest_side: int) -> Tensor:
    """(1, 3, H, W) uint8, as Place.preprocess has it."""
    height, width = image.shape[:2]
    resized = np.ascontiguousarray(resize(image, seen_size(width, height, longest_side)))
    return torch.from_numpy(resized).permute(2, 0, 1)[None]


@torch.inference_mode()
def _describe(model: nn.Module, images: Iterator[Tensor], device: torch.device) -> Floats:
    """(N, D) of images one by one."""
    seen = (LEVELS.normalise(image.to(device)).contiguous(memory_format=torch.channels_last) for image in images)
    rows = [model(image).float().cpu() for image in seen]
    found: Floats = torch.cat(rows).numpy()
    return found


def _alike(network: PlaceNetwork, places: Places, longest_side: int) -> list[Rows]:
    """For each place of training, those of other groups whose first image looks most like its own."""
    first = [rows[0] for rows in places.places]
    if len(first) < 2:
        return []
    vectors = _describe(network, (_prepared(places[int(row)], longest_side) for row in first), torch.device("cpu"))
    groups = places.groups[first]
    similar = np.where(groups[:, None] == groups, -np.inf, vectors @ vectors.T)
    order = np.argsort(-similar, axis=1, kind="stable")[:, :NEIGHBOURS]
    return [row[np.isfinite(similar[i, row])] for i, row in enumerate(order)]


def _started(settings: Settings, places: Places) -> PlaceNetwork:
    """A network with the weights that the settings name, or fitted ones on a pretrained backbone."""
    if settings.start is not None:
        state = read_checkpoint(settings.start)
        network = PlaceNetwork.from_state_dict(state)
        load_strictly(network, state, str(settings.start))
        return network.eval()
    network = PlaceNetwork(
        settings.blocks, settings.clusters, settings.ghosts, settings.layout_width, settings.dim
    ).eval()
    path = find(settings.backbone).path
    load_strictly(network.backbone, network.backbone.folded(read_checkpoint(path)), str(path))
    network.to(memory_format=torch.channels_last)
    logger.info("fitting vocabulary and whitening")
    _fit_vocabulary(network, settings, places)
    _fit_projection(network, settings, places)
    return network


@torch.inference_mode()
def _features(network: PlaceNetwork, image: Tensor) -> Floats:
    """(N, C) unit rows."""
    maps = network.backbone(LEVELS.normalise(image).contiguous(memory_format=torch.channels_last))
    rows: Floats = nn.functional.normalize(maps[0].flatten(1).T, dim=1).numpy()
    return rows


def _fit_vocabulary(network: PlaceNetwork, settings: Settings, places: Places) -> None:
    """Centroids by k-means; those of the ghosts from flat and noisy images."""
    random = np.random.default_rng(0)
    sample = []
    for row in places.training_rows(settings.vocabulary_images):
        found = _features(network, _prepared(places[int(row)], settings.longest_side))
        sample.append(random.permutation(found)[:FEATURES_PER_IMAGE])
    features = np.concatenate(sample)
    centroids = [_kmeans(features, settings.clusters)]
    if settings.ghosts:
        flat = []
        for level in (0, 0, 0, 20, 128, 255):
            image = level + random.normal(0, random.choice([0, 2, 5]), (240, 320, 3))
            flat.append(_features(network, _prepared(image.clip(0, 255).astype(np.uint8), settings.longest_side)))
        centroids.append(_kmeans(np.concatenate(flat), settings.ghosts))
    every = torch.from_numpy(np.concatenate(centroids))
    with torch.no_grad():
        network.aggregation.centroids.copy_(every[: settings.clusters])
        network.aggregation.assign.weight.copy_(2 * SHARPNESS * every)
        network.aggregation.assign.bias.copy_(-SHARPNESS * (every**2).sum(1))
    _fit_layout(network, features)


@torch.no_grad()
def _fit_layout(network: PlaceNetwork, features: Floats) -> None:
    """The directions of largest variance of single features."""
    mean = features.mean(axis=0)
    _, _, directions = np.linalg.svd(features - mean, full_matrices=False)
    weight = torch.from_numpy(directions[: network.layout.reduce.out_features].copy())
    network.layout.reduce.weight.copy_(weight)
    network.layout.reduce.bias.copy_(-weight @ torch.from_numpy(mean))


def _kmeans(features: Floats, clusters: int) -> Floats:
    if len(features) < clusters:
        raise ConfigError(f"task.clusters = {clusters}, but there are only {len(features)} features to fit them on")
    kmeans = faiss.Kmeans(
        features.shape[1], clusters, niter=20, seed=0, min_points_per_centroid=1, max_points_per_centroid=10**6
    )
    kmeans.train(np.ascontiguousarray(features))
    return np.asarray(kmeans.centroids, np.float32)


@torch.inference_mode()
def _fit_projection(network: PlaceNetwork, settings: Settings, places: Places) -> None:
    """PCA whitening of aggregation and layout, scaled so that projections have about unit length."""
    rows = places.training_rows(settings.whitening_images)
    if settings.dim >= min(len(rows), network.projection.in_features):
        raise ConfigError(
            f"task.dim = {settings.dim}: the whitening is fitted on {len(rows)} images of "
            f"{network.projection.in_features} values, and needs more of both"
        )
    vectors = torch.cat(
        [
            network.parts(network.backbone(LEVELS.normalise(image).contiguous(memory_format=torch.channels_last)))
            for image in (_prepared(places[int(row)], settings.longest_side) for row in rows)
        ]
    ).numpy()
    whitening = fit_whitening(vectors, settings.dim)
    weight, bias = torch.from_numpy(whitening.weight).float(), torch.from_numpy(whitening.bias).float()
    scale = 1 / (torch.from_numpy(vectors) @ weight.T + bias).norm(dim=1).mean()
    network.projection.weight.copy_(weight * scale)
    network.projection.bias.copy_(bias * scale)


def build(settings: Settings) -> PlaceDescriptorTask:
    places = Places(
        settings.manifests,
        (0, 0),
        settings.held_out,
        longest_side=settings.longest_side,
        cosplace_group=settings.cosplace_group,
    )
    return PlaceDescriptorTask(settings, _started(settings, places), places)
