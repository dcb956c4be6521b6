"""Lists that say which images are for training and which for validation."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from vpr.core import DataError
from vpr.datasets.splits import read_split
from vpr.training.grey_images import GreyImages

NAMES = ("drive_01/0.jpg", "drive_01/1.jpg", "drive_02/image_02/0.jpg", "drive_02/image_02/7.jpg", "odd/9.png")


def split_of(folder: Path, text: str) -> list[int]:
    (folder / "train.txt").write_text(text)
    return read_split(folder / "train.txt", NAMES)


def test_a_line_names_an_image_or_a_folder(tmp_path: Path) -> None:
    assert split_of(tmp_path, "drive_01\n") == [0, 1]
    assert split_of(tmp_path, "drive_02/\r\n\r\ndrive_01/1.jpg\r\n") == [1, 2, 3]
    assert split_of(tmp_path, "\ufeffdrive_02\\image_02\n7\n") == [2, 3]
    assert split_of(tmp_path, "odd/9\n") == [4]
    assert split_of(tmp_path, "0.jpg\n") == [0, 2]  # a bare name means every image of that name


def test_lists_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"train.txt: names 'drive_03', which is not among the 5 images"):
        split_of(tmp_path, "drive_01\ndrive_03\n")
    with pytest.raises(DataError, match="names no image"):
        split_of(tmp_path, "\n")
    (tmp_path / "train.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="not a readable list of names"):
        read_split(tmp_path / "train.txt", NAMES)
    with pytest.raises(DataError, match="not a readable list of names"):
        read_split(tmp_path / "val.txt", NAMES)


def test_photographs_are_split_by_the_lists(tmp_path: Path) -> None:
    for name in NAMES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / name), np.zeros((8, 8), np.uint8))
    (tmp_path / "train.txt").write_text("drive_01\n")
    (tmp_path / "val.txt").write_text("drive_02/image_02/7.jpg\n")
    images = GreyImages(tmp_path, (8, 8), 64, split=tmp_path)
    assert [images.names[row] for row in images.seen] == ["drive_01/0.jpg", "drive_01/1.jpg"]
    assert [images.names[row] for row in images.held] == ["drive_02/image_02/7.jpg"]
    (tmp_path / "val.txt").write_text("drive_01/1.jpg\n")
    with pytest.raises(DataError, match=r"train.txt and val.txt both name 'drive_01/1.jpg'"):
        GreyImages(tmp_path, (8, 8), 64, split=tmp_path)
