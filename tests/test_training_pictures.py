"""Pictures of a validation, and that TensorBoard gets them."""

from __future__ import annotations

import numpy as np
import torch
from conftest import textured
from torch import Tensor, nn

from vpr.training.journal import Journal
from vpr.training.pictures import heat_map, of_views, with_points


class Corners(nn.Module):
    """A detector that finds the same four pixels of any image, with a descriptor for each cell."""

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        logits = torch.zeros(len(images), 65, 6, 8)
        logits[:, -1] = 5
        for row, column in ((1, 1), (1, 5), (4, 2), (4, 6)):
            logits[:, 27, row, column] = 20
        return logits, torch.eye(48).T.reshape(1, 48, 6, 8).expand(len(images), -1, -1, -1)


def test_views_are_drawn() -> None:
    image = torch.from_numpy(textured(1, 48, 64)[..., 0].copy())[None, None].float() / 255
    found = of_views(Corners(), image, image, torch.eye(3)[None])
    assert found["keypoints"].shape == found["heat map"].shape == (48, 64, 3)
    assert found["keypoints"][8 + 3, 8 + 3].tolist() == [0, 220, 0]  # pixel 27 of a cell is its row 3, column 3
    red, blue = found["heat map"][11, 11, 0], found["heat map"][11, 11, 2]
    assert red > blue and found["heat map"][0, 0, 2] > found["heat map"][0, 0, 0]
    assert found["matches"].shape[1] >= 128


def test_nothing_found_is_a_picture_too() -> None:
    assert heat_map(torch.zeros(4, 5)).shape == (4, 5, 3)
    assert not with_points(np.zeros((4, 4, 3), np.uint8), torch.zeros(0, 2)).any()


def test_pictures_are_drawn_only_for_a_board(tmp_path) -> None:
    journal = Journal(tmp_path, 0, enabled=False)
    journal.show(1, lambda: 1 / 0)  # without TensorBoard nothing is drawn
    shown = []

    class Board:
        def add_image(self, name: str, picture: np.ndarray, step: int, dataformats: str) -> None:
            shown.append((name, picture.shape, step, dataformats))

    journal.board = Board()
    journal.show(7, lambda: {"keypoints": np.zeros((4, 5, 3), np.uint8)})
    assert shown == [("keypoints", (4, 5, 3), 7, "HWC")]
