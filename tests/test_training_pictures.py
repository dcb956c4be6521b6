"""Pictures of a validation, and that TensorBoard gets them."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from conftest import textured
from torch import Tensor, nn

from vpr.local_features import rootsift
from vpr.training import magicpoint, matcher, pairs
from vpr.training.correspondence import UNKNOWN, UNMATCHED, Truth
from vpr.training.journal import Journal
from vpr.training.pictures import heat_map, of_assignment, of_views, with_points


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


def test_matches_of_an_assignment_are_drawn() -> None:
    images = torch.full((1, 20, 30), 9, dtype=torch.uint8)
    points, others = torch.tensor([[4.0, 5], [20, 15], [8, 12]]), torch.tensor([[6.0, 5], [25, 15]])
    probability = torch.full((1, 4, 3), 0.01)
    probability[0, 0, 0], probability[0, 1, 1], probability[0, 2, 0] = 0.9, 0.6, 0.3
    truth = Truth(
        torch.tensor([[0, UNMATCHED, UNKNOWN]]), torch.tensor([[0, UNMATCHED]]), torch.zeros(1, 3, 2, dtype=bool)
    )

    def coloured(threshold: float) -> tuple[int, int]:
        picture = of_assignment((images, images), (points, others), probability.log(), truth, threshold)
        apart = np.ptp(picture.astype(int), axis=2) > 40
        return int(apart[4:7].sum()), int(apart[13:].sum())

    right, wrong = coloured(0.2)
    assert right > 20 and not wrong  # the line of the right match runs at y = 5, the wrong one's at y = 15 is grey
    assert coloured(0.95) == (0, 0)


def test_a_magicpoint_and_a_matcher_show_what_they_find(tmp_path) -> None:
    task = magicpoint.build(
        magicpoint.Settings(size=(64, 48), pool=4, validation_images=2, widths=(8, 8, 8, 8), head=8, dim=8)
    )
    with torch.inference_mode():
        found = task.pictures(task.model, torch.device("cpu"))
    assert found["keypoints"].shape == found["heat map"].shape == (96, 64, 3)
    red = (found["keypoints"] == (220, 0, 0)).all(axis=2)
    assert red.any()  # rings around the true corners
    cv2.imwrite(str(tmp_path / "a.png"), textured(3, 120, 160))
    cv2.imwrite(str(tmp_path / "b.png"), textured(4, 120, 160))
    pairs_of = pairs.HomographySettings(folder=tmp_path, held_out=1)
    chosen = matcher.Settings(
        features=rootsift.Settings(), encoder=(8,), layers=2, size=(160, 120), points=64, homographies=pairs_of
    )
    learner = matcher.build(chosen)
    with torch.inference_mode():
        shown = learner.pictures(learner.model, torch.device("cpu"))
    assert list(shown) == ["matches, homographies"] and shown["matches, homographies"].shape[0] == 120


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
