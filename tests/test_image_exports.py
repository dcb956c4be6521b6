"""``vpr export npz`` and ``vpr export labels``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import textured, write_picture
from test_dropping import head  # noqa: F401  (a head that calls everything sky)
from typer.testing import CliRunner

from vpr.cli import app

SIFT = ["--set", "local_features.method=sift", "--set", "local_features.longest_side=80"]


def run(*words: object) -> str:
    result = CliRunner().invoke(app, ["export", *map(str, words)])
    return result.output if result.exception is None else str(result.exception)


def test_images_of_a_folder(tmp_path: Path, head: Path) -> None:  # noqa: F811
    for name in ("a.png", "city/b.png"):
        write_picture(tmp_path / "in" / name, textured(len(name), 120, 160))
    (tmp_path / "in" / "broken.jpg").write_bytes(b"no image")
    command = ["npz", tmp_path / "in", "--out", tmp_path / "out", *SIFT, "--export-segmentation", head, "--outputImg"]
    assert "2 images, 1 more cannot be read" in run(*command)
    with np.load(tmp_path / "out" / "city" / "b.png.npz") as found:
        count = len(found["keypoints"])
        assert count > 10 and found["scores"].shape == (count,) and found["descriptors"].shape == (count, 128)
        assert found["size"].tolist() == [160, 120]
        assert found["keypoints"][:, 0].max() > 85  # in pixels of the stored image, not of what the method saw
        assert (found["segmentation"] == 5).all() and found["classes"][5] == "sky"
    assert (tmp_path / "out" / "a.png.jpg").exists()
    before = (tmp_path / "out" / "a.png.npz").stat().st_mtime_ns
    run(*command)
    assert (tmp_path / "out" / "a.png.npz").stat().st_mtime_ns == before
    assert "other settings" in run(*command, "--set", "local_features.max_keypoints=7")


def test_pairs_with_a_homography(tmp_path: Path) -> None:
    image = textured(4, 120, 160)
    write_picture(tmp_path / "in" / "a.png", image)
    write_picture(tmp_path / "in" / "b.png", np.roll(image, 5, axis=1))
    table = "image_a,image_b,h00,h01,h02,h10,h11,h12,h20,h21,h22\na.png,b.png,1,0,5,0,1,0,0,0,1\n"
    (tmp_path / "in" / "homographies.csv").write_text(table)
    command = ["npz", tmp_path / "in", "--pairs", "homography-folder", "--out", tmp_path / "out", *SIFT[:2]]
    assert "1 pairs" in run(*command, "--output-images")
    path = next((tmp_path / "out").rglob("*.npz"))
    with np.load(path) as found:
        moved = found["matches"][:, 2:] - found["matches"][:, :2]
        assert len(moved) > 20 and (np.abs(np.median(moved, axis=0) - [5, 0]) < 0.2).all()
        assert found["prob"].shape[1] == 3 and len(found["prob"]) == len(found["desc"])
        assert found["image"].shape == found["warped_image"].shape == (120, 160)
        assert found["homography"][0, 2] == 5 and len(found["mscores"]) == len(moved)
    assert path.with_suffix(".jpg").exists()


def test_labels_as_pseudo_labels(tmp_path: Path) -> None:
    write_picture(tmp_path / "in" / "a.png", textured(1, 64, 64))
    command = ["train", "label", "--images", str(tmp_path / "in"), "--out", str(tmp_path / "labels"), "--width", "64",
               "--height", "64", "--set", "warps=2"]  # fmt: skip
    assert CliRunner().invoke(app, command).exception is None
    assert "Labels of 1 images" in run("labels", tmp_path / "labels", "--out", tmp_path / "npz")
    with np.load(tmp_path / "npz" / "a.png.npz") as found:
        assert found["pts"].shape[1] == 3 and len(found["pts"]) and (found["pts"][:, 2] == 1).all()


@pytest.mark.parametrize("words", [("labels", "absent", "--out", "x"), ("npz", "absent", "--out", "x")])
def test_what_is_not_there_is_said(words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "absent" in run(*words)


def test_a_folder_with_something_else_is_refused(tmp_path: Path) -> None:
    write_picture(tmp_path / "in" / "a.png", textured(1, 64, 64))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("keep")
    assert "holds something else" in run("npz", tmp_path / "in", "--out", tmp_path / "out", *SIFT)
