"""What a newcomer does: add a method in one module, one line of a table and one config, and run it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import pytest
import torch
from test_cli import lines, run_on
from torch import Tensor

from vpr.config import Method, MethodSettings
from vpr.core import Channels, Image, LocalFeatures, Matches
from vpr.global_descriptors import GLOBAL_DESCRIPTORS
from vpr.local_features import LOCAL_EXTRACTORS
from vpr.matchers import MATCHERS

# ---------------------------------------------------------------- one module for each method


class GridSettings(MethodSettings):
    method: Literal["grid"] = "grid"
    step: int = 12


class Grid:
    """Keypoints on a grid, described by the pixels around them."""

    channels: Channels = "grey"
    dim = 64
    weights = ""

    def __init__(self, settings: GridSettings) -> None:
        self.step = settings.step

    def preprocess(self, image: Image) -> Tensor:
        return torch.from_numpy(image.copy())[None]

    def extract(self, images: Sequence[Tensor]) -> list[LocalFeatures]:
        return [self._extract_one(image[0].float()) for image in images]

    def _extract_one(self, image: Tensor) -> LocalFeatures:
        height, width = image.shape
        patches = image.unfold(0, 8, self.step).unfold(1, 8, self.step)
        rows, columns = patches.shape[:2]
        flat = patches.reshape(-1, 64)
        centred = torch.nn.functional.normalize(flat - flat.mean(1, keepdim=True) + 1e-3, dim=1)
        places = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).flip(1) * self.step + 3.5
        return LocalFeatures(places, torch.ones(len(places)), centred, (width, height))


class SameRowSettings(MethodSettings):
    method: Literal["same_row"] = "same_row"
    least: float = 0.5


class SameRow:
    """Keypoint i matches keypoint i where the descriptors are alike."""

    weights = ""

    def __init__(self, settings: SameRowSettings) -> None:
        self.least = settings.least

    def match(self, query: LocalFeatures, candidates: Sequence[LocalFeatures]) -> list[Matches]:
        found = []
        for each in candidates:
            count = min(len(query), len(each))
            cosine = (query.descriptors[:count] * each.descriptors[:count]).sum(1)
            rows = (cosine > self.least).nonzero()[:, 0]
            found.append(Matches(torch.stack([rows, rows], dim=1), cosine[rows].clamp(0, 1)))
        return found


class MeanSettings(MethodSettings):
    method: Literal["colours"] = "colours"
    cells: int = 4


class Colours:
    """The mean colours of some cells."""

    channels: Channels = "rgb"
    weights = ""

    def __init__(self, settings: MeanSettings) -> None:
        self.cells = settings.cells
        self.dim = 3 * settings.cells**2

    def preprocess(self, image: Image) -> Tensor:
        return torch.from_numpy(image.copy()).permute(2, 0, 1)

    def describe(self, images: Sequence[Tensor]) -> Tensor:
        if not images:
            return torch.zeros(0, self.dim)
        means = [torch.nn.functional.adaptive_avg_pool2d(image.float(), self.cells).flatten() for image in images]
        return torch.nn.functional.normalize(torch.stack(means), dim=1)


# ---------------------------------------------------------------- one config

CONFIG = """
[local_features]
method = "grid"
step = 10

[global_descriptor]
method = "colours"
cells = 5

[matcher]
method = "same_row"
least = 0.6

[verification]
model = "homography"
"""


def test_a_new_extractor_descriptor_and_matcher_run(
    small_city: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One line of a table for each.
    monkeypatch.setitem(LOCAL_EXTRACTORS, "grid", Method(GridSettings, lambda settings, device: Grid(settings)))
    monkeypatch.setitem(GLOBAL_DESCRIPTORS, "colours", Method(MeanSettings, lambda settings, device: Colours(settings)))
    monkeypatch.setitem(MATCHERS, "same_row", Method(SameRowSettings, lambda settings, device: SameRow(settings)))
    (tmp_path / "mine.toml").write_text(CONFIG)
    run_on(small_city, tmp_path / "out", "--config", str(tmp_path / "mine.toml"))
    predictions = lines(tmp_path / "out" / "predictions.jsonl")
    assert {each["rank"] for each in predictions} >= {1, 2, 3}
    assert any(each["matches"] > 0 for each in predictions)
