"""Pairs of images to learn matching from, and what is known of each pair; see vpr.training.correspondence.

All images are grey and brought to one size: shrunk to cover it, and cut to their middle.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from fnmatch import fnmatch
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from vpr.config import Section
from vpr.core import ConfigError, DataError, Doubles, Floats, Image, Rows
from vpr.datasets.posed_views import POSED_SCENES, PosedScene, PosedView
from vpr.datasets.scene_lists import chosen_scenes
from vpr.datasets.tables import name_at, read_table
from vpr.images import read_image
from vpr.training import homographies
from vpr.training.correspondence import Depth, DepthView, DifferentPlaces, Epipolar, PairGeometry, Plane
from vpr.training.grey_images import GreyImages, StaticCameras, cut_matrix, cut_to
from vpr.training.places import Places
from vpr.training.randomness import Randomness

Size = tuple[int, int]
TRIES = 20  # draws of a second view until the overlap is as wanted


class Part(NamedTuple):
    """Some pairs of one kind."""

    first: Tensor  # (B, 1, H, W) uint8
    second: Tensor
    geometry: PairGeometry


class PairSource(ABC):
    """Where pairs come from; a share of them is held out for validation."""

    name: str

    @abstractmethod
    def draw(self, count: int, random: Randomness, held: bool) -> Part:
        """``count`` pairs; equal arguments give equal pairs."""


class HomographySettings(Section):
    """Two random views of one photograph, or of what a camera saw at two times."""

    share: float = Field(1.0, ge=0)  # of the pairs, beside the shares of the other sources
    folder: Path
    homography: homographies.Settings = homographies.Settings(rotation_deg=45)
    # Patterns of names: photographs that match the same one are of one camera that stood still.
    fixed_cameras: tuple[str, ...] = ()
    fixed_share: float = Field(0.2, ge=0, le=1)  # of these pairs; what such a camera saw at two times
    held_out: int = Field(32, ge=1)  # photographs for validation
    split: Path | None = None  # instead of held_out, a folder with train.txt and val.txt, such as KITTI's


class ScenesSettings(Section):
    """Views of scenes with depth and cameras."""

    share: float = Field(1.0, ge=0)
    folder: Path
    layout: str = "demo_city"  # demo_city, megadepth or scannet
    overlap: tuple[float, float] = (0.15, 0.8)  # share of one view's points that the other shows
    scenes: str = ""  # a file with names of scenes, or the name of such a list in the folder; all by default
    valid_scenes: str = ""  # such a list for validation, instead of held_out
    held_out: float = Field(0.1, gt=0, lt=1)  # share of the views for validation


class TwoViewSettings(Section):
    """Pairs with an estimated fundamental matrix: columns image_a, image_b, f00 to f22 of the images as stored."""

    share: float = Field(1.0, ge=0)
    table: Path
    folder: Path
    min_inliers: int = Field(30, ge=0)  # if there is a column inliers
    held_out: float = Field(0.05, gt=0, lt=1)


class NegativePairsSettings(Section):
    """Images of different places, by a csv with columns image (or file) and place or group."""

    share: float = Field(0.2, ge=0)
    manifests: tuple[Path, ...]
    # Patterns of groups whose images look alike and show different places, but for those with the same place.
    alike: tuple[str, ...] = ()
    alike_share: float = Field(0.5, ge=0, le=1)  # of these pairs; both images are of groups of one such pattern
    held_out: float = Field(0.1, gt=0, lt=1)


class HomographyPairs(PairSource):
    """See HomographySettings."""

    name = "homographies"

    def __init__(self, settings: HomographySettings, size: Size) -> None:
        self.settings = settings
        self.size = size
        self.photographs = GreyImages(settings.folder, size, settings.held_out, split=settings.split)
        self.cameras = StaticCameras(self.photographs, settings.fixed_cameras, settings.fixed_share)

    def draw(self, count: int, random: Randomness, held: bool) -> Part:
        rows = random.numpy.choice(self.photographs.held if held else self.photographs.seen, count)
        both = (rows, rows) if held else self.cameras.pair(rows, random.numpy)
        first, second = (
            homographies.sample_homographies(count, self.size, self.settings.homography, random.torch) for _ in range(2)
        )
        first[torch.rand(count, generator=random.torch) < 0.5] = torch.eye(3)
        one, other = (
            homographies.warp_images(self.photographs.stack(side).float(), each, self.size).round().byte()
            for side, each in zip(both, (first, second), strict=True)
        )
        between = second @ homographies.invert(first)
        return Part(one, other, Plane(between / between[:, 2:, 2:], torch.tensor([self.size] * count)))


class ScenePairs(PairSource):
    """See ScenesSettings."""

    def __init__(self, settings: ScenesSettings, size: Size) -> None:
        if settings.layout not in POSED_SCENES:
            raise ConfigError(f"unknown layout {settings.layout!r} of scenes; known: {', '.join(sorted(POSED_SCENES))}")
        self.name = settings.layout
        self.settings = settings
        self.size = size
        self.scenes = self._split(POSED_SCENES[settings.layout](settings.folder))
        self._load = lru_cache(maxsize=512)(self._read)

    def _split(self, scenes: Sequence[PosedScene]) -> dict[bool, list[PosedScene]]:
        """Scenes for training (False) and for validation (True); the same where views are held out."""
        settings, names = self.settings, [scene.name for scene in scenes]
        seen = chosen_scenes(settings.scenes, settings.folder, names)
        held = chosen_scenes(settings.valid_scenes, settings.folder, names) if settings.valid_scenes else seen
        if settings.valid_scenes:
            seen = [name for name in seen if name not in held]
        if not seen:
            raise DataError(f"{settings.folder}: every scene of the training is one of validation")
        return {
            False: [each for each in scenes if each.name in seen],
            True: [each for each in scenes if each.name in held],
        }

    def draw(self, count: int, random: Randomness, held: bool) -> Part:
        drawn = [self._draw(random.numpy, held) for _ in range(count)]
        first, second = zip(*drawn, strict=True)
        poses = [other.world_to_camera @ np.linalg.inv(one.world_to_camera) for (_, one), (_, other) in drawn]
        return Part(
            self._images(first),
            self._images(second),
            Depth(self._views(first), self._views(second), torch.from_numpy(np.stack(poses)).float()),
        )

    def _draw(self, random: np.random.Generator, held: bool) -> tuple[tuple[PosedScene, PosedView], ...]:
        """A view, and another of the same scene whose overlap is as wanted, or the last that was tried."""
        scenes = self.scenes[held]
        scene = scenes[int(random.integers(len(scenes)))]
        rows = np.arange(len(scene.views))
        apart = rows % round(1 / self.settings.held_out) == 0
        usable = rows if self.settings.valid_scenes else rows[apart == held]
        if len(usable) < 2:
            raise DataError(f"{scene.name}: {len(scene.views)} views are too few to draw pairs from")
        low, high = self.settings.overlap
        one = other = int(usable[0])
        for _ in range(TRIES):
            one = int(random.choice(usable))
            other = int(random.choice(self._near(scene, one, usable)))
            if low <= self._overlap(scene, one, other) <= high:
                break
        return (scene, scene.views[one]), (scene, scene.views[other])

    def _near(self, scene: PosedScene, row: int, usable: Rows) -> Rows:
        """Views that may show the same: by the known overlap, or the nearest that look the same way."""
        others = usable[usable != row]
        if scene.overlap is not None:
            low, high = self.settings.overlap
            shares = scene.overlap[row, others]
            fitting: Rows = others[(shares >= low) & (shares <= high)]
            return fitting if len(fitting) else others
        view = scene.views[row]
        away = np.array([np.linalg.norm(scene.views[each].centre - view.centre) for each in others])
        turned = np.array([scene.views[each].direction @ view.direction for each in others])
        nearest: Rows = others[np.argsort(away + 1e3 * (turned < 0.5), kind="stable")[:20]]
        return nearest

    def _overlap(self, scene: PosedScene, one: int, other: int) -> float:
        if scene.overlap is not None:
            return float(scene.overlap[one, other])
        views = [(scene, scene.views[each]) for each in (one, other)]
        pose = scene.views[other].world_to_camera @ np.linalg.inv(scene.views[one].world_to_camera)
        source, target = (self._views([each]) for each in views)
        grid = homographies.pixel_grid(self.size, torch.device("cpu"))[:, ::97]
        geometry = Depth(source, target, torch.from_numpy(pose)[None].float())
        return geometry.overlap(grid)

    def _images(self, views: Sequence[tuple[PosedScene, PosedView]]) -> Tensor:
        return torch.from_numpy(np.stack([self._load(*each)[0] for each in views]))[:, None]

    def _views(self, views: Sequence[tuple[PosedScene, PosedView]]) -> DepthView:
        depths, matrices = (np.stack([self._load(*each)[part] for each in views]) for part in (1, 2))
        return DepthView(torch.from_numpy(depths), torch.from_numpy(matrices).float())

    def _read(self, scene: PosedScene, view: PosedView) -> tuple[Image, Floats, Doubles]:
        """Image, depth and intrinsics, all at the size that is trained on."""
        image = read_image(view.image, "grey")
        height, width = image.shape
        depth = scene.read_depth(view.depth)
        if depth.shape != image.shape:  # ScanNet's depth is smaller than its images
            depth = np.asarray(cv2.resize(depth, (width, height), interpolation=cv2.INTER_NEAREST), np.float32)
        cut = cut_matrix((width, height), self.size)
        x, y = np.meshgrid(np.arange(self.size[0]), np.arange(self.size[1]))
        back = np.linalg.inv(cut)
        columns = np.clip(np.rint(back[0, 0] * x + back[0, 2]), 0, width - 1).astype(int)
        rows = np.clip(np.rint(back[1, 1] * y + back[1, 2]), 0, height - 1).astype(int)
        return cut_to(image, self.size), depth[rows, columns], cut @ view.matrix


class TwoViewPairs(PairSource):
    """See TwoViewSettings."""

    name = "two views"

    def __init__(self, settings: TwoViewSettings, size: Size) -> None:
        self.settings = settings
        self.size = size
        table = read_table(settings.table)
        names = [
            [
                name_at(name, f"{table.path}, line {line}")
                for name, line in zip(table.column(column), table.lines, strict=True)
            ]
            for column in ("image_a", "image_b")
        ]
        entries = [table.numbers(f"f{row}{column}") for row in range(3) for column in range(3)]
        enough = (
            table.numbers("inliers") >= settings.min_inliers
            if "inliers" in table.columns
            else np.ones(len(table), np.bool_)
        )
        self.matrices = np.stack(entries, axis=1).reshape(-1, 3, 3)[enough]
        self.names = [pair for pair, kept in zip(zip(*names, strict=True), enough.tolist(), strict=True) if kept]
        if len(self.names) < 2:
            raise DataError(f"{settings.table}: {len(self.names)} pairs have {settings.min_inliers} inliers")
        self._load = lru_cache(maxsize=4096)(self._read)

    def draw(self, count: int, random: Randomness, held: bool) -> Part:
        rows = np.arange(len(self.names))
        apart = rows % round(1 / self.settings.held_out) == 0
        chosen = random.numpy.choice(rows[apart == held], count)
        first, second = ([self._load(self.names[row][side]) for row in chosen] for side in (0, 1))
        matrices = [
            np.linalg.inv(cut1).T @ self.matrices[row] @ np.linalg.inv(cut0)
            for row, (_, cut0), (_, cut1) in zip(chosen, first, second, strict=True)
        ]
        one, other = (torch.from_numpy(np.stack([image for image, _ in side]))[:, None] for side in (first, second))
        normalised = np.stack([matrix / np.linalg.norm(matrix) for matrix in matrices])
        return Part(one, other, Epipolar(torch.from_numpy(normalised).float(), torch.tensor([self.size] * count)))

    def _read(self, name: str) -> tuple[Image, Doubles]:
        image = read_image(self.settings.folder / name, "grey")
        return cut_to(image, self.size), cut_matrix((image.shape[1], image.shape[0]), self.size)


class NegativePairs(PairSource):
    """See NegativePairsSettings."""

    name = "negative_pairs"

    def __init__(self, settings: NegativePairsSettings, size: Size) -> None:
        self.places = Places(settings.manifests, size, settings.held_out)
        held = np.concatenate([self.places.held_single, *self.places.held_places]).astype(np.int64)
        seen = np.concatenate([self.places.single, *self.places.places]).astype(np.int64)
        self.rows = {True: np.sort(held), False: np.sort(seen)}
        self.alike = {held: self._alike(settings.alike, rows) for held, rows in self.rows.items()}
        self.alike_share = settings.alike_share

    def draw(self, count: int, random: Randomness, held: bool) -> Part:
        pairs: Rows = np.array([self._draw(random.numpy, held) for _ in range(count)], np.int64)
        one, other = (torch.from_numpy(self.places.stack(pairs[:, side])) for side in (0, 1))
        return Part(one, other, DifferentPlaces(torch.ones(count)))

    def _draw(self, random: np.random.Generator, held: bool) -> tuple[int, int]:
        places, rows, known = self.places, self.rows[held], False
        alike = self.alike[held]
        if alike and random.random() < self.alike_share:
            rows, known = alike[random.integers(len(alike))], True
        for _ in range(TRIES):
            one, other = (int(row) for row in random.choice(rows, 2))
            if places.labels[one] != places.labels[other] and (known or places.groups[one] != places.groups[other]):
                return one, other
        raise DataError("the manifests list too few places to draw images of different ones")

    def _alike(self, patterns: Sequence[str], rows: Rows) -> list[Rows]:
        """Of the rows, those of each pattern's groups; patterns of which these are one place only are left out."""
        labels, names = self.places.labels, self.places.group_names
        unknown = [pattern for pattern in patterns if not any(fnmatch(name, pattern) for name in names)]
        if unknown:
            raise DataError(f"task.negative_pairs.alike: no group of the manifests matches {', '.join(unknown)}")
        chosen: list[Rows] = [
            np.array([row for row in rows if fnmatch(names[row], each)], np.int64) for each in patterns
        ]
        return [each for each in chosen if len(np.unique(labels[each])) > 1]
