"""Pairs of a dump (`vpr dump`, or IMP's published one): features and true matches that were computed once.

See vpr.exchange.imp_dump for the files. As in IMP's published training, of a pair a random number of matches is taken,
filled up with keypoints that are not matched, which count as keypoints without a partner.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from pydantic import Field, model_validator

from vpr.config import Section
from vpr.core import ConfigError, DataError, LocalFeatures, Rows
from vpr.datasets.scene_lists import chosen_scenes
from vpr.exchange.imp_dump import DumpedFeatures, DumpFiles, read_counts, read_features, read_pair
from vpr.runtime.files import read_json
from vpr.training.correspondence import UNMATCHED, Truth
from vpr.training.randomness import Randomness
from vpr.weights import TrainedFor

TRIES = 100  # draws of a pair until both images have keypoints enough


class DumpSettings(Section):
    """A folder of `vpr dump`, or of IMP's published one; other sources have no place beside it."""

    folder: Path
    kind: str = "spp"  # the end of the folders' names: spp, sift, or a method's name
    scenes: str = ""  # a file with names of scenes, or the name of such a list in the folder; all by default
    valid_scenes: str = ""  # such a list for validation, instead of held_out
    held_out: float = Field(0.1, gt=0, lt=1)  # share of each scene's pairs for validation
    pairs_per_scene: int = Field(80, ge=1)  # scenes are drawn by their number of pairs, of which no more count
    matches: tuple[int, int] = (32, 512)  # a pair has a random number of matches between these, if it has as many

    @model_validator(mode="after")
    def _ordered(self) -> DumpSettings:
        if not 0 < self.matches[0] <= self.matches[1]:
            raise ValueError(f"matches = {list(self.matches)}: expected two numbers of which the first is not larger")
        return self


class DumpPart(NamedTuple):
    """Some pairs, equally many keypoints of each image."""

    first: tuple[LocalFeatures, ...]
    second: tuple[LocalFeatures, ...]
    truth: Truth


class PairOfDump(NamedTuple):
    """Where a pair is."""

    scene: str
    number: int


class DumpedPairs:
    """See DumpSettings."""

    name = "dump"

    def __init__(self, settings: DumpSettings, points: int) -> None:
        self.settings = settings
        self.points = points
        self.files = DumpFiles(settings.folder, settings.kind)
        self.pairs = self._split(read_counts(self.files))
        self._features = lru_cache(maxsize=256)(read_features)

    def draw(self, count: int, random: Randomness, held: bool) -> DumpPart:
        """``count`` pairs; equal arguments give equal pairs."""
        drawn = [self._draw(random.numpy, held) for _ in range(count)]
        first, second, truths = zip(*drawn, strict=True)
        return DumpPart(first, second, Truth(*(torch.stack(side) for side in zip(*truths, strict=True))))

    def require_features(self, wanted: TrainedFor) -> None:
        """Raise ConfigError unless the dump holds these local features, as far as it says."""
        found = self._features(self._any_keypoints())
        if found.descriptors.shape[1] != wanted.dim:
            raise ConfigError(
                f"{self.files.root}: descriptors of {found.descriptors.shape[1]} values, and task.features "
                f"({wanted.method}) has {wanted.dim}; name the local features of the dump there"
            )
        require_made_by(self.files, wanted)

    def _any_keypoints(self) -> Path:
        scene, number = self.pairs[False][next(iter(self.pairs[False]))][0]
        return self.files.keypoints(scene, read_pair(self.files, scene, number).images[0])

    def _split(self, counts: dict[str, int]) -> dict[bool, dict[str, list[PairOfDump]]]:
        """Pairs of each scene, for training (False) and for validation (True)."""
        settings = self.settings
        places = {scene: [PairOfDump(scene, number) for number in range(count)] for scene, count in counts.items()}
        seen = chosen_scenes(settings.scenes, settings.folder, places)
        if settings.valid_scenes:
            valid = chosen_scenes(settings.valid_scenes, settings.folder, places)
            split = {
                False: {scene: places[scene] for scene in seen if scene not in valid},
                True: {scene: places[scene] for scene in valid},
            }
        else:
            every = round(1 / settings.held_out)
            split = {held: {} for held in (False, True)}
            for scene in seen:
                for held in (False, True):
                    chosen = [each for each in places[scene] if (each.number % every == 0) == held]
                    split[held] |= {scene: chosen} if chosen else {}
        if not (split[False] and split[True]):
            raise DataError(f"{self.files.counts()}: too few pairs for training and validation; dump more of them")
        return split

    def _draw(self, random: np.random.Generator, held: bool) -> tuple[LocalFeatures, LocalFeatures, Truth]:
        scenes = self.pairs[held]
        names = list(scenes)
        weights = np.array([min(len(scenes[name]), self.settings.pairs_per_scene) for name in names], np.float64)
        for _ in range(TRIES):
            pairs = scenes[names[int(random.choice(len(names), p=weights / weights.sum()))]]
            scene, number = pairs[int(random.integers(len(pairs)))]
            pair = read_pair(self.files, scene, number)
            sides = [self._features(self.files.keypoints(scene, image)) for image in pair.images]
            if len(pair.matches) and (pair.matches.max(0) >= [len(side.keypoints) for side in sides]).any():
                raise DataError(f"{self.files.matches(scene, number)}: matches keypoints that its images do not have")
            if min(len(side.keypoints) for side in sides) >= self.points:
                return self._sample(sides, pair.matches, random)
        raise ConfigError(f"{self.files.root}: images with {self.points} keypoints are rare; lower task.points")

    def _sample(
        self, sides: Sequence[DumpedFeatures], matches: Rows, random: np.random.Generator
    ) -> tuple[LocalFeatures, LocalFeatures, Truth]:
        """Some matches, and other keypoints without a partner, in a random order."""
        left = [np.setdiff1d(np.arange(len(side.keypoints)), matches[:, axis]) for axis, side in enumerate(sides)]
        low, high = self.settings.matches
        count = min(int(random.integers(low, high + 1)), len(matches), self.points)
        count = max(count, self.points - min(map(len, left)))  # where too few others fill up
        kept = random.permutation(matches)[:count]
        chosen = [
            np.concatenate([kept[:, axis], random.permutation(others)[: self.points - count]])
            for axis, others in enumerate(left)
        ]
        orders = [random.permutation(self.points) for _ in sides]
        places = [np.argsort(order) for order in orders]
        rows = [torch.full((self.points,), UNMATCHED) for _ in sides]
        for axis in (0, 1):
            rows[axis][places[axis][:count]] = torch.from_numpy(places[1 - axis][:count])
        features = [_picked(side, each[order]) for side, each, order in zip(sides, chosen, orders, strict=True)]
        impossible = torch.zeros(self.points, self.points, dtype=torch.bool)
        return features[0], features[1], Truth(rows[0], rows[1], impossible)


def require_made_by(files: DumpFiles, wanted: TrainedFor) -> None:
    """Raise ConfigError if a dump says that it holds other local features."""
    path = files.made_by()
    if not path.exists():
        return
    try:
        found = TrainedFor.model_validate(read_json(path))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: does not say what local features the dump holds: {error}") from None
    if (found.method, found.sha256, found.dim) != (wanted.method, wanted.sha256, wanted.dim):
        raise ConfigError(
            f"{path}: the dump holds {found.method} {found.weights} of {found.dim} values, not {wanted.method} "
            f"{wanted.weights} of {wanted.dim}; choose those local features, or another folder"
        )


def _picked(features: DumpedFeatures, rows: Rows) -> LocalFeatures:
    keypoints, scores, descriptors = (
        torch.from_numpy(each[rows]) for each in (features.keypoints, features.scores, features.descriptors)
    )
    return LocalFeatures(keypoints, scores, descriptors, features.image_size)
