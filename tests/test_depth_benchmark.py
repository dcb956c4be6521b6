"""ETH3D's layout, and average precision of points and lines on pairs with depth."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from test_hostile import call

from vpr.core import DataError, Matches
from vpr.datasets.eth3d import read_eth3d, read_eth3d_depth
from vpr.demo_city import depth_path, read_depth, read_shots, write_demo_city
from vpr.demo_city.records import Shot
from vpr.depth_benchmark import PooledMatches, average_precision
from vpr.matchers.gluestick_network import GlueStickNetwork
from vpr.training.correspondence import UNKNOWN, UNMATCHED, Truth
from vpr.training.initial import start_as_nearest

FACTOR = 2  # between the sizes of an image and its depth


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A place of the demo city in ETH3D's layout; the second camera's image is listed first."""
    city, root = tmp_path_factory.mktemp("city") / "city", tmp_path_factory.mktemp("eth3d")
    write_demo_city(city, places=1, size=(320, 240), workers=1, with_depth=True)
    scene = root / "street"
    images, depths, calibration = (
        scene / each
        for each in (
            "images/dslr_images_undistorted",
            "ground_truth_depth/undistorted_depth",
            "dslr_calibration_undistorted",
        )
    )
    for folder in (images, depths, calibration):
        folder.mkdir(parents=True)
    shots = _two_that_look_the_same_way(read_shots(city))
    cameras, posed = ["# Camera list"], ["# Image list"]
    for number, shot in enumerate(reversed(shots)):
        name = f"DSC_{number}.JPG"
        image = cv2.imread(str(city / shot.role / shot.name))
        cv2.imwrite(str(images / name), image, [cv2.IMWRITE_JPEG_QUALITY, 98])
        depth = read_depth(depth_path(city, shot))[::FACTOR, ::FACTOR]
        stored = np.where(np.isfinite(depth), depth * 256, 0).clip(0, 65535).astype(np.uint16)
        cv2.imwrite(str(depths / f"DSC_{number}.png"), stored)
        matrix, pose = shot.camera.matrix, shot.camera.world_to_camera
        parameters = matrix[0, 0], matrix[1, 1], matrix[0, 2] + 0.5, matrix[1, 2] + 0.5
        cameras.append(f"{7 + number} PINHOLE 320 240 " + " ".join(map(repr, map(float, parameters))))
        x, y, z, w = Rotation.from_matrix(pose[:3, :3]).as_quat()
        numbers = " ".join(str(float(each)) for each in (w, x, y, z, *pose[:3, 3]))
        posed += [f"{number} {numbers} {7 + number} dslr_images_undistorted/{name}"]
        posed += [" ".join(f"1.0 2.0 {point}" for point in [*range(number, 20), -1])]
    (calibration / "cameras.txt").write_text("\n".join(cameras) + "\n")
    (calibration / "images.txt").write_text("\n".join(posed) + "\n")
    return scene


def _two_that_look_the_same_way(shots: Sequence[Shot]) -> tuple[Shot, Shot]:
    def turned(pair: tuple[Shot, Shot]) -> float:
        one, other = (shot.camera.world_to_camera for shot in pair)
        return float(one[2, :3] @ other[2, :3]) - 0.1 * float(np.linalg.norm((other @ np.linalg.inv(one))[:3, 3]))

    return max(combinations(shots, 2), key=turned)


def test_the_layout_is_read(scene: Path) -> None:
    (pair,) = read_eth3d(scene.parent, min_shared=19)
    assert pair.scene == "street" and pair.first.image.name == "DSC_0.JPG" and pair.second.depth.exists()
    assert read_eth3d_depth(pair.first.depth).shape == (240 // FACTOR, 320 // FACTOR)
    assert np.linalg.det(pair.first.world_to_camera) == pytest.approx(1)
    assert read_eth3d(scene, min_shared=19)[0].first.matrix.tolist() == pair.first.matrix.tolist()
    with pytest.raises(DataError, match="no two images of a scene share 20 points"):
        read_eth3d(scene.parent, min_shared=20)
    with pytest.raises(DataError, match="no scene of ETH3D"):
        read_eth3d(scene / "images")


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("cameras.txt", "1 OPENCV 320 240 1 1 1 1 0 0 0 0\n", "no camera of the kind PINHOLE"),
        ("cameras.txt", "7 PINHOLE 320 240 1 nan 1 1\n", "are no numbers"),
        ("images.txt", "1 1 0 0 0 0 0 0 99 a.JPG\n\n", "is no image"),
    ],
)
def test_damaged_calibration_is_named(scene: Path, tmp_path: Path, file: str, text: str, said: str) -> None:
    copied = Path(shutil.copytree(scene, tmp_path / "scene"))
    (copied / "dslr_calibration_undistorted" / file).write_text(text)
    with pytest.raises(DataError, match=f"{file}: .*{said}"):
        read_eth3d(copied)


def test_average_precision_by_hand() -> None:
    right = np.array([True, False, True, False])
    # Ranked: right, right, wrong, wrong; of 4 that could be right two are found, both at precision 1.
    assert average_precision(np.array([0.9, 0.2, 0.8, 0.1]), right, 4) == pytest.approx(0.5)
    # Ranked: wrong, right, wrong, right: precision 1/2 at both.
    assert average_precision(np.array([0.2, 0.9, 0.1, 0.3]), right, 2) == pytest.approx(0.5)
    assert average_precision(np.zeros(0), right[:0], 3) == average_precision(np.zeros(2), right[:2], 0) == 0


def test_what_is_not_known_counts_in_nothing() -> None:
    truth = Truth(
        torch.tensor([[1, UNMATCHED, UNKNOWN, 0]]), torch.tensor([[3, 0]]), torch.zeros(1, 4, 2, dtype=torch.bool)
    )
    pooled = PooledMatches()
    pooled.add(Matches(torch.tensor([[0, 1], [1, 0], [2, 0]]), torch.tensor([0.9, 0.8, 0.7])), truth)
    assert pooled.right == [True, False] and pooled.wanted == 2
    assert pooled.figures()["AP"] == pytest.approx(50)


def test_points_and_lines_of_a_scene(scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A matcher that looks at descriptors finds most partners that depth and poses give."""
    torch.manual_seed(0)
    network = GlueStickNetwork((16, 128), layers=2)
    start_as_nearest(network)
    torch.save(network.state_dict(), tmp_path / "gluestick.pth")
    monkeypatch.setattr("vpr.datasets.eth3d.read_eth3d.__defaults__", (19,))
    lines = [
        "rerank.method=points_and_lines",
        "image_matcher.method=gluestick",
        f"image_matcher.weights={tmp_path / 'gluestick.pth'}",
        "image_matcher.superpoint=vpr-superpoint",
    ]
    for name, values in (("lines", lines), ("features", ["matcher.method=nearest"])):
        options = [each for value in values for each in ("--set", value)]
        call(["evaluate", "eth3d", str(scene.parent), "--out", str(tmp_path / name), *options])
        found = json.loads((tmp_path / name / "summary.json").read_text())["measures"]
        assert found["points"]["AP"] > 15 and found["points"]["wanted"] > 20
        if name == "lines":
            assert found["lines"]["AP"] > 10 and found["lines"]["wanted"] > 3
        assert found.keys() == ({"points", "lines"} if name == "lines" else {"points"})
    with pytest.raises(SystemExit):
        call(["evaluate", "eth3d", str(scene), "--out", str(tmp_path / "x"), "--protocol", "plain"])
