"""Features and true matches of posed scenes, written in the folders that IMP's published training reads.

See vpr.exchange.imp_dump for the files. `vpr train matcher` learns from them too: see vpr.training.dumped_pairs.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vpr.core import DataError, LocalExtractor, LocalFeatures
from vpr.datasets.pickled_arrays import read_dictionary
from vpr.datasets.posed_views import PosedScene, PosedView
from vpr.exchange.imp_dump import DumpFiles
from vpr.features.single import features_of_image
from vpr.images import read_image
from vpr.runtime.files import write_atomically, write_json
from vpr.training.correspondence import Depth, DepthView, Settings, Truth
from vpr.training.dumped_pairs import require_made_by
from vpr.weights import TrainedFor

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PairChoice:
    """Which pairs of a scene are kept."""

    overlap: tuple[float, float] = (0.1, 0.8)  # share of a view's points that the other shows
    most: int = 1000  # pairs of a scene, drawn at random from those
    min_matches: int = 32


@dataclass(frozen=True, eq=False)
class Dump:
    """Writes scenes below ``out``; names of images are those below ``root``."""

    root: Path
    out: Path
    extractor: LocalExtractor
    made_by: TrainedFor  # what the extractor is, for those who train on the dump
    kind: str  # "spp", "sift" or another name, the end of the folders' names
    choice: PairChoice = PairChoice()

    def write(self, scenes: Sequence[PosedScene]) -> dict[str, int]:
        """The number of pairs of each scene. A scene that is there is not made again."""
        files = DumpFiles(self.out, self.kind)
        require_made_by(files, self.made_by)
        self.out.mkdir(parents=True, exist_ok=True)
        write_json(files.made_by(), self.made_by.model_dump(mode="json"))
        counts: dict[str, int] = {}
        for scene in scenes:
            done = files.count(scene.name)
            if not done.exists():
                _save(done, {scene.name: self._pairs(scene, files)})
            counts[scene.name] = int(read_dictionary(done).get(scene.name, 0))
            logger.info("%s: %d pairs", scene.name, counts[scene.name])
        _save(files.counts(), counts)
        return counts

    def _pairs(self, scene: PosedScene, files: DumpFiles) -> int:
        """The number of pairs that were written."""
        count = 0
        features: dict[int, LocalFeatures] = {}
        for one, other in chosen_pairs(scene, self.choice):
            for row in {one, other} - set(features):
                features[row] = self._features(scene.views[row], scene.name, files)
            truth = true_matches(scene, (one, other), (features[one], features[other]), Settings())
            matched = (truth.first[0] >= 0).nonzero()[:, 0].numpy()
            if len(matched) < self.choice.min_matches:
                continue
            views = ((1, scene.views[one]), (2, scene.views[other]))
            entry = {key: value for side, view in views for key, value in self._about(side, view).items()}
            partners = truth.first[0].numpy()[matched]
            _save(files.matches(scene.name, count), entry | {"matched_ids1": matched, "matched_ids2": partners})
            count += 1
        return count

    def _features(self, view: PosedView, scene: str, files: DumpFiles) -> LocalFeatures:
        """Of one image, in pixels of the image as it is stored; written too."""
        found = features_of_image(self.extractor, read_image(view.image, self.extractor.channels))
        width, height = found.image_size
        content = {
            "keypoints": found.keypoints.numpy(),
            "scores": found.scores.numpy(),
            "descriptors": found.descriptors.numpy(),
            "image_size": np.array([height, width, 3]),
        }
        _save(files.keypoints(scene, view.image.name), content)
        return found

    def _about(self, side: int, view: PosedView) -> dict[str, Any]:
        return {
            f"image_path{side}": view.image.relative_to(self.root).as_posix(),
            f"depth_path{side}": view.depth.relative_to(self.root).as_posix(),
            f"intrinsics{side}": view.matrix,
            f"pose{side}": view.world_to_camera,
        }


def chosen_pairs(scene: PosedScene, choice: PairChoice) -> list[tuple[int, int]]:
    """Rows of the views of each pair, in the order of the scene; the same in every run."""
    if scene.overlap is None:
        raise DataError(f"{scene.name}: the overlap of its views is not known, and pairs are chosen by it")
    low, high = choice.overlap
    fitting = np.argwhere(np.triu((scene.overlap >= low) & (scene.overlap <= high), 1))
    if len(fitting) > choice.most:
        drawn = np.random.default_rng(0).choice(len(fitting), choice.most, replace=False)
        fitting = fitting[np.sort(drawn)]
    return [(int(one), int(other)) for one, other in fitting]


def true_matches(
    scene: PosedScene, rows: tuple[int, int], features: tuple[LocalFeatures, LocalFeatures], settings: Settings
) -> Truth:
    """The partners of a pair's keypoints, by depth and pose."""
    views = [scene.views[row] for row in rows]
    first, second = (_depth_view(scene, view) for view in views)
    pose = views[1].world_to_camera @ np.linalg.inv(views[0].world_to_camera)
    geometry = Depth(first, second, torch.from_numpy(pose)[None].float())
    points = [each.keypoints[None] for each in features]
    return geometry.truth(points[0], points[1], torch.zeros(1, len(features[0]), len(features[1])), settings)


def _depth_view(scene: PosedScene, view: PosedView) -> DepthView:
    depth, matrix = scene.read_depth(view.depth), np.asarray(view.matrix)
    return DepthView(torch.from_numpy(depth)[None], torch.from_numpy(matrix)[None].float())


def _save(path: Path, content: Any) -> None:
    """One NumPy file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = io.BytesIO()
    np.save(file, content)
    write_atomically(path, file.getvalue())
