"""Masks: black pixels give no features, and what stands at the same pixels in every image is found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import textured, write_picture
from test_hostile import call

import vpr
from vpr.build import build, build_pair_methods
from vpr.config import load
from vpr.core import ConfigError, DataError, ImageSet, LocalFeatures
from vpr.features.feature_set import FeatureFolders
from vpr.features.masks import Masks, constant_regions, covered, kept, read_masks
from vpr.images import read_image
from vpr.maps.engine import build_engine
from vpr.settings import Settings, configured

SIZE = (240, 320)  # height, width
LOWER = np.full(SIZE, 255, np.uint8)
LOWER[180:] = 0
FAST = ["local_features.method=rootsift", "global_descriptor.method=thumbnail", "rerank.k=5"]


def scene(folder: Path, count: int, overlay: bool) -> ImageSet:
    """Images of different places; with ``overlay`` all have the same texture in their lower quarter."""
    bonnet = textured(99, *SIZE)
    for i in range(count):
        image = textured(i, *SIZE)
        if overlay:
            image[180:] = bonnet[180:]
        write_picture(folder / "images" / f"{i:02d}.png", image)
    return ImageSet(folder / "images", tuple(f"{i:02d}.png" for i in range(count)))


def test_masked_pixels_have_the_mean_of_the_others() -> None:
    image = np.zeros((4, 4, 3), np.uint8)
    image[:2], image[2:] = (10, 20, 30), (200, 200, 200)
    mask = np.array([[255, 255], [0, 0]], np.uint8)  # of another size
    found = covered(image, mask)
    assert (found[2:] == (10, 20, 30)).all() and (found[:2] == image[:2]).all() and (image[2:] == 200).all()
    assert not covered(image, np.zeros((2, 2), np.uint8)).any()


def test_keypoints_on_masked_pixels_are_left_out() -> None:
    keypoints = torch.tensor([[0.0, 0.0], [3.4, 1.4], [3.0, 1.6], [1.0, 3.0]])
    features = LocalFeatures(keypoints, torch.arange(4.0) / 4, torch.eye(4), (4, 4), scales=torch.arange(4.0))
    mask = np.array([[255, 255], [0, 0]], np.uint8)
    found = kept(features, mask)
    assert found.keypoints.tolist() == keypoints[:2].tolist() and found.scales.tolist() == [0, 1]
    assert kept("anything else", mask) == "anything else"


def test_what_all_images_share_is_found(tmp_path: Path) -> None:
    mask = constant_regions(scene(tmp_path, 12, overlay=True))
    assert mask is not None and mask.shape == SIZE
    assert (mask[185:] == 0).mean() > 0.99 and (mask[:170] == 255).mean() > 0.99
    assert constant_regions(scene(tmp_path / "free", 12, overlay=False)) is None


def test_few_images_show_nothing_and_a_camera_that_stands_still_is_refused(tmp_path: Path) -> None:
    assert constant_regions(scene(tmp_path, 7, overlay=True)) is None
    for i in range(10):
        write_picture(tmp_path / "still" / f"{i}.png", textured(0, *SIZE))
    with pytest.raises(DataError, match="100% of the image hardly changes"):
        constant_regions(ImageSet(tmp_path / "still", tuple(f"{i}.png" for i in range(10))))


def test_masks_by_setting(tmp_path: Path) -> None:
    images = scene(tmp_path, 2, overlay=False)
    assert read_masks("", images) is None
    with pytest.raises(ConfigError, match="no such file or folder; give an image for all"):
        read_masks(str(tmp_path / "gone"), images)
    for name in ("a/00.png.png", "b/00.png", "c/images/00.png"):  # each way to name a mask
        write_picture(tmp_path / name, np.zeros((*SIZE, 3), np.uint8))
        masks = read_masks(str(tmp_path / name[0]), images)
        assert masks is not None
        assert masks.of(images, 0) is not None and masks.of(images, 1) is None


def test_features_are_of_the_image_and_its_mask(tmp_path: Path) -> None:
    """No keypoint on masked pixels; another mask is another image, the same one is not described again."""
    images = scene(tmp_path, 3, overlay=True)
    engine = build(load(Settings, None, FAST))
    folders = FeatureFolders.under(tmp_path / "features")
    assert engine.extractor.extract(images, folders).work.computed == 3
    whole = [engine.extractor.extract(images, folders).local_store[row].keypoints for row in range(3)]
    assert all((each[:, 1] > 185).any() for each in whole)
    for computed in (3, 0):
        found = engine.extractor.extract(images, folders, masks=Masks(common=LOWER))
        assert found.work.computed == computed
    masked = [found.local_store[row].keypoints for row in range(3)]
    assert all(len(each) and (each[:, 1] < 180).all() for each in masked)
    one, other = (found.global_store.matrix()[row] for row in (0, 1))
    plain = engine.extractor.extract(images, folders).global_store.matrix()
    assert one @ other < plain[0] @ plain[1] - 0.1  # they shared the lower quarter


def test_a_folder_of_masks_is_for_single_images(tmp_path: Path) -> None:
    images = scene(tmp_path, 2, overlay=False)
    write_picture(tmp_path / "masks" / "00.png", np.repeat(LOWER[..., None], 3, axis=2))
    engine = build(load(Settings, None, FAST))
    masks = read_masks(str(tmp_path / "masks"), images)
    found = engine.extractor.extract(images, FeatureFolders.under(tmp_path / "f"), masks=masks)
    lowest = [float(found.local_store[row].keypoints[:, 1].max()) for row in range(2)]
    assert lowest[0] < 180 < lowest[1]


def test_a_run_finds_what_is_constant(tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog) -> None:
    database = scene(tmp_path / "d", 10, overlay=True)
    for i in range(2):
        write_picture(tmp_path / "q" / f"{i}.png", read_image(database.path(i), "rgb"))
    caplog.set_level("INFO")
    call([
        *("run", "--database", str(database.root), "--queries", f"{tmp_path}/q", "--out", f"{tmp_path}/out"),
        *("--masks", "auto", "--no-ground-truth"),
        *(part for each in FAST for part in ("--set", each)),
    ])  # fmt: skip
    assert "of the image is constant over 10 images and ignored" in caplog.text


@pytest.mark.parametrize(
    "use",
    [
        lambda given: vpr.match("a.png", "b.png", **given),
        lambda given: build_engine(configured(None, given)),
        lambda given: build_pair_methods(configured(None, given)),
    ],
    ids=["pair", "map", "single images"],
)
def test_masks_and_rotations_are_refused_where_they_are_not_applied(use: Callable[[dict[str, Any]], object]) -> None:
    with pytest.raises(ConfigError, match="takes no masks"):
        use({"images": {"masks": "auto"}})
    with pytest.raises(ConfigError, match="turns no images"):
        use({"rotations": {"degrees": [0, 90]}})
