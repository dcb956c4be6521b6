"""``vpr evaluate segmentation`` on predicted masks and by a head."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from test_dropping import head  # noqa: F401  (a head that calls everything sky)
from typer.testing import CliRunner

from vpr.categories import CITYSCAPES_4, CS34_ID, IGNORED
from vpr.category_files import write_categories
from vpr.cli import app

ROAD, CAR, SKY = (CS34_ID[name] for name in ("road", "car", "sky"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """One image, a quarter sky, a quarter car and half road; the prediction calls the car road."""
    mask = np.full((16, 16), ROAD, np.uint8)
    mask[:4], mask[4:8] = SKY, CAR
    for folder, content in (("images/val", np.zeros((32, 32), np.uint8)), ("labels/val", mask),
                            ("found", np.where(mask == CAR, ROAD, mask).astype(np.uint8))):  # fmt: skip
        (tmp_path / folder).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / folder / "a.png"), content)
    return tmp_path


def run(root: Path, *options: str) -> str:
    command = ["evaluate", "segmentation", str(root), "--layout", "folders", "--out", str(root / "out"), *options]
    result = CliRunner().invoke(app, command)
    return result.output if result.exception is None else str(result.exception)


def test_predicted_masks(root: Path) -> None:
    text = run(root, "--predictions", str(root / "found"))
    assert "mean IoU 55.6 %, pixel accuracy 75.0 %, 1 images" in text  # (2/3 + 0 + 1) / 3
    summary = json.loads((root / "out" / "summary.json").read_text())
    assert summary["iou"]["road"] == pytest.approx(2 / 3, abs=1e-6) and summary["iou"]["person"] is None
    assert cv2.imread(str(root / "out" / "pictures" / "00000.jpg")).shape == (480, 1440, 3)
    assert (root / "out" / "confusion.csv").read_text().splitlines()[4].startswith("vehicle,64,")


def test_by_other_classes(root: Path) -> None:
    write_categories(root / "four.json", CITYSCAPES_4)
    text = run(root, "--predictions", str(root / "found"), "--category-file", str(root / "four.json"))
    assert "unstable" in text and "mean IoU 55.6 %" in text


def test_a_pixel_without_prediction_is_wrong(root: Path) -> None:
    cv2.imwrite(str(root / "found" / "a.png"), np.full((16, 16), IGNORED, np.uint8))
    assert "mean IoU 0.0 %, pixel accuracy 0.0 %" in run(root, "--predictions", str(root / "found"))


def test_a_head(root: Path, head: Path) -> None:  # noqa: F811
    assert "pixel accuracy 25.0 %" in run(root, "--head", str(head))


def test_options_that_do_not_fit_are_said(root: Path, head: Path) -> None:  # noqa: F811
    assert "either --head WEIGHTS or --predictions" in run(root)
    assert "--category-file is for --predictions" in run(root, "--head", str(head), "--category-file", "x")
    assert "--protocol has no meaning" in run(root, "--protocol", "plain")
    assert "the prediction for a.png" in run(root, "--predictions", str(root / "labels"))
    assert "--layout has no meaning" in str(
        CliRunner().invoke(app, ["evaluate", "hpatches", str(root), "--out", "x", "--layout", "kitti"]).exception
    )
